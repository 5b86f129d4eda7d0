"""Networks that train together, as one stack, against the same networks trained alone."""

import math

import numpy
import pytest
import torch

import diy
from experiments.circle import build_network, disk_data, one_hot

EPOCHS, SIZE, BATCH = 100, 1000, 100


def network_and_data(seed, dropout=None):
    generator = torch.Generator().manual_seed(seed)
    points, labels = disk_data(SIZE, generator)
    torch.manual_seed(seed)
    return build_network("diy", (25, 25, 25), dropout).to(torch.float64), points.double(), one_hot(labels).double()


def alone(seed, dropout, reduction, optimizer, lr, epochs=EPOCHS):
    """One loss per step, and the parameters after the last."""
    network, points, targets = network_and_data(seed, dropout)
    criterion, optimizer = diy.MSELoss(reduction=reduction), optimizer(network.parameters(), lr)
    order, losses = torch.Generator().manual_seed(seed + 200), []
    for _ in range(epochs):
        for rows in torch.randperm(SIZE, generator=order).split(BATCH):
            losses.append(criterion(network(points[rows]), targets[rows]))
            optimizer.zero_grad()
            network.backward(criterion.backward())
            optimizer.step()
    return torch.stack(losses), list(network.parameters())


def together(seeds, dropout, reduction, optimizer, rates, epochs=EPOCHS):
    rates = torch.tensor(rates, dtype=torch.float64)
    networks, points, targets = zip(*(network_and_data(seed, dropout) for seed in seeds))
    stacked = diy.stack(networks)
    points, targets = torch.stack(points), torch.stack(targets)
    criterion, optimizer = diy.MSELoss(reduction=reduction, stacked=True), optimizer(stacked.parameters(), rates)
    orders, losses = [torch.Generator().manual_seed(seed + 200) for seed in seeds], []
    index = torch.arange(len(seeds)).unsqueeze(1)
    for _ in range(epochs):
        order = torch.stack([torch.randperm(SIZE, generator=generator) for generator in orders])
        for rows in order.split(BATCH, dim=1):
            losses.append(criterion(stacked(points[index, rows]), targets[index, rows]))
            optimizer.zero_grad()
            stacked.backward(criterion.backward())
            optimizer.step()
    return torch.stack(losses), stacked


def sgd_momentum(parameters, lr):
    return diy.SGD(parameters, lr, momentum=0.9, weight_decay=0.01)


@pytest.mark.parametrize(
    ("dropout", "reduction", "optimizer", "epochs"),
    [
        (None, "sum", diy.SGD, EPOCHS),
        (0.0, "sum", diy.SGD, EPOCHS),
        (None, "mean", diy.SGD, EPOCHS),
        (None, "mean", diy.Adam, EPOCHS),
        (None, "mean", sgd_momentum, 20),  # no model of the report
    ],
    ids=["sgd", "dropout", "mean", "adam", "momentum"],
)
def test_every_network_of_a_stack_goes_the_way_it_goes_alone(dropout, reduction, optimizer, epochs):
    seeds, rates = [3, 1], [1e-3, 5e-4]
    losses, stacked = together(seeds, dropout, reduction, optimizer, rates, epochs)
    assert losses.shape == (epochs * SIZE // BATCH, len(seeds))
    for index, (seed, rate, single) in enumerate(zip(seeds, rates, diy.unstack(stacked))):
        expected_losses, expected = alone(seed, dropout, reduction, optimizer, rate, epochs)
        # float64: the report's 1000 steps amplify the rounding of 1e-16 by less than 1e3 in these recipes
        torch.testing.assert_close(losses[:, index], expected_losses, rtol=1e-12, atol=1e-12)
        for got, wanted in zip(single.parameters(), expected):
            torch.testing.assert_close(got, wanted, rtol=1e-12, atol=1e-12)


def test_a_network_that_diverges_leaves_its_neighbours_untouched():
    losses, stacked = together([5, 6], None, "sum", diy.SGD, [1e-3, 1e308], epochs=10)
    expected_losses, expected = alone(5, None, "sum", diy.SGD, 1e-3, epochs=10)
    assert not losses[:, 1].isfinite().all()
    torch.testing.assert_close(losses[:, 0], expected_losses, rtol=1e-12, atol=1e-12)
    for got, wanted in zip(diy.unstack(stacked)[0].parameters(), expected):
        torch.testing.assert_close(got, wanted, rtol=1e-12, atol=1e-12)


def test_the_loss_of_a_stack_is_one_number_per_network():
    prediction, target = torch.randn(3, 5, 2).double(), torch.randn(3, 5, 2).double()
    for reduction in ("mean", "sum"):
        criterion, single = diy.MSELoss(reduction=reduction, stacked=True), diy.MSELoss(reduction=reduction)
        losses = criterion(prediction, target)
        gradient = criterion.backward()
        for index in range(3):
            # The same sum of ten terms in another order at most: 1e-15 would do
            assert losses[index].item() == pytest.approx(single(prediction[index], target[index]).item(), rel=1e-13)
            torch.testing.assert_close(gradient[index], single.backward(), rtol=1e-13, atol=0)


def test_the_cross_entropy_of_a_stack_is_one_number_per_network():
    scores, classes = torch.randn(3, 5, 4).double(), torch.randint(4, (3, 5))
    for reduction in ("mean", "sum"):
        criterion, single = (
            diy.CrossEntropyLoss(reduction=reduction, stacked=True),
            diy.CrossEntropyLoss(reduction=reduction),
        )
        losses = criterion(scores, classes)
        gradient = criterion.backward()
        for index in range(3):
            # The same five terms, rounded in another order at most
            assert losses[index].item() == pytest.approx(single(scores[index], classes[index]).item(), rel=1e-13)
            torch.testing.assert_close(gradient[index], single.backward(), rtol=1e-13, atol=1e-15)


def test_unstack_gives_back_what_was_stacked():
    networks = [network_and_data(seed, 0.2)[0] for seed in range(3)]
    inputs = torch.randn(3, 7, 2).double()
    stacked = diy.stack(networks).eval()
    assert stacked.stack_size == 3
    assert {name: tuple(t.shape) for name, t in stacked.state_dict().items()}["0.weight"] == (3, 25, 2)
    together = stacked(inputs)
    for network, copy, input, output in zip(networks, diy.unstack(stacked), inputs, together):
        assert copy.stack_size is None
        for name, tensor in network.state_dict().items():
            assert torch.equal(copy.state_dict()[name], tensor), name
        torch.testing.assert_close(output, network.eval()(input), rtol=1e-13, atol=1e-13)


def test_the_copies_share_no_memory_with_the_originals():
    network = diy.Linear(2, 3)
    stacked = diy.stack([network, network])
    before = network.weight.clone()
    stacked.weight.zero_()
    single = diy.unstack(stacked)[0]
    single.weight.fill_(7)
    assert torch.equal(network.weight, before)
    assert (stacked.weight == 0).all()


def test_a_module_that_is_used_twice_stays_one_module():
    twice = diy.Linear(2, 2)
    stacked = diy.stack([diy.Sequential(twice, diy.Tanh(), twice)] * 2)
    assert [tuple(p.shape) for p in stacked.parameters()] == [(2, 2, 2), (2, 2)]
    assert [tuple(p.shape) for p in diy.unstack(stacked)[1].parameters()] == [(2, 2), (2,)]


@pytest.mark.parametrize(
    "networks",
    [
        [],
        [diy.Linear(2, 3), diy.Linear(2, 4)],
        [diy.Linear(2, 3), diy.Linear(2, 3, dtype=torch.float64)],
        [diy.Sequential(diy.Dropout(0.1)), diy.Sequential(diy.Dropout(0.2))],
    ],
    ids=["none", "shapes", "dtypes", "probabilities"],
)
def test_networks_of_different_kinds_are_refused(networks):
    with pytest.raises(
        ValueError, match=r"^stack needs at least one network, all with the same layers, shapes and dtypes, and"
    ):
        diy.stack(networks)


@pytest.mark.parametrize("layer", [lambda: diy.Conv2d(1, 1, 3), lambda: diy.BatchNorm2d(1), lambda: diy.Flatten()])
def test_layers_for_images_are_refused(layer):
    with pytest.raises(
        ValueError,
        match=r"^a (Conv2d|BatchNorm2d|Flatten) cannot be stacked: train networks that contain one separately$",
    ):
        diy.stack([diy.Sequential(layer()), diy.Sequential(layer())])


def test_only_a_stack_can_be_unstacked():
    with pytest.raises(ValueError, match=r"^unstack expects a network made by stack$"):
        diy.unstack(diy.Linear(2, 2))


@pytest.mark.parametrize("shape", [(5, 2), (3, 5, 2), (2, 2), (2, 2, 5, 2)])
def test_a_stack_refuses_an_input_without_a_batch_for_each_network(shape):
    with pytest.raises(ValueError, match=r"\(2, N, 2\), one batch per network"):
        diy.stack([diy.Linear(2, 3), diy.Linear(2, 3)])(torch.zeros(shape))


@pytest.mark.parametrize("rates", [[0.1], [0.1, 0.2, 0.3], [[0.1, 0.2]], [0.1, -0.1], [0.1, math.nan]])
def test_learning_rates_that_do_not_fit_are_refused_and_change_nothing(rates):
    optimizer = diy.SGD(diy.stack([diy.Linear(2, 3), diy.Linear(2, 3)]).parameters(), 0.5)
    with pytest.raises(ValueError, match="learning rate"):
        optimizer.lr = torch.tensor(rates)
    assert optimizer.lr == 0.5


def test_learning_rates_fall_along_the_cosine_each_from_its_own_value():
    optimizer = diy.SGD(diy.stack([diy.Linear(2, 3), diy.Linear(2, 3)]).parameters(), torch.tensor([1.0, 4.0]))
    schedule = diy.CosineAnnealingLR(optimizer, T_max=2)
    schedule.step()
    torch.testing.assert_close(optimizer.lr, torch.tensor([0.5, 2.0]))


def test_dropout_of_a_stack_drops_for_every_network():
    output = diy.stack([diy.Sequential(diy.Dropout(0.25)) for _ in range(3)])(torch.ones(3, 20_000, 1))
    # The share that is dropped: 0.25, with a standard deviation of √(0.25 · 0.75 / 20000) = 0.003. Five of them.
    assert (output == 0).float().mean((1, 2)).tolist() == pytest.approx([0.25] * 3, abs=0.015)
    assert not torch.equal(output[0], output[1])


class Scale(diy.Module):
    """A learner's module that says that it may be stacked: what it does with N samples it does with R times N."""

    stackable = True

    def __init__(self, k):
        self.k = k

    def forward(self, input):
        output = self.k * input
        self.remember(output)
        return output

    def backward(self, gradient):
        (gradient,) = self.recall(gradient)
        return self.k * gradient


def test_networks_that_differ_in_an_attribute_are_not_alike():
    alike = diy.stack([diy.Sequential(diy.Linear(2, 2), Scale(3.0)) for _ in range(2)])
    assert alike[1].k == 3.0
    with pytest.raises(ValueError, match="alike in everything but"):
        diy.stack([diy.Sequential(diy.Linear(2, 2), Scale(k)) for k in (1.0, 100.0)])


@pytest.mark.parametrize("kind", [diy.Linear, diy.Tanh, Scale])
def test_a_class_of_ones_own_has_to_say_that_it_can_be_stacked(kind):
    derived = type("Own", (kind,), {})
    module = derived(2, 2) if kind is diy.Linear else derived(1.0) if kind is Scale else derived()
    with pytest.raises(ValueError, match="a Own cannot be stacked"):
        diy.stack([diy.Sequential(module)])


@pytest.mark.parametrize(("kind", "arguments"), [(diy.Linear, (2, 2)), (diy.BatchNorm2d, (2,)), (diy.Flatten, ())])
def test_a_class_cannot_be_stacked_whose_base_cannot(kind, arguments):
    """Its own formulas may be right for a stack; those that it takes over are not."""
    derived = type("Own", (kind,), {"stackable": True, "forward": lambda self, X: kind.forward(self, X)})
    with pytest.raises(ValueError, match="a Own cannot be stacked"):
        diy.stack([diy.Sequential(derived(*arguments))])


def test_what_is_shared_inside_a_network_has_to_be_shared_in_all():
    def tied():
        layer = diy.Linear(2, 2)
        return diy.Sequential(layer, diy.Tanh(), layer)

    def half_tied():
        network = diy.Sequential(diy.Linear(2, 2), diy.Tanh(), diy.Linear(2, 2))
        network[2].weight = network[0].weight
        return network

    def untied():
        return diy.Sequential(diy.Linear(2, 2), diy.Tanh(), diy.Linear(2, 2))

    for a, b in ((tied, untied), (untied, tied), (half_tied, untied), (untied, half_tied), (tied, half_tied)):
        with pytest.raises(ValueError, match="alike in everything but"):
            diy.stack([a(), b()])
    networks, x = [half_tied(), half_tied()], torch.randn(2, 5, 2)
    stacked = diy.stack(networks)
    assert stacked[2].weight is stacked[0].weight and stacked[2].bias is not stacked[0].bias
    for index, alone in enumerate(diy.unstack(stacked)):
        assert alone[2].weight is alone[0].weight
        torch.testing.assert_close(stacked(x)[index], networks[index](x[index]))


def test_modes_must_agree_and_are_kept():
    with pytest.raises(ValueError, match="alike in everything but"):
        diy.stack([diy.Sequential(diy.Dropout()), diy.Sequential(diy.Dropout()).eval()])
    assert not diy.stack([diy.Sequential(diy.Dropout()).eval()])[0].training


def test_a_stack_is_not_stacked_again():
    stacked = diy.stack([diy.Linear(2, 2)])
    with pytest.raises(ValueError, match="is a stack already"):
        diy.stack([stacked, stacked])


def test_a_slice_of_a_stack_can_be_unstacked():
    networks = [diy.Sequential(diy.Linear(2, 3), diy.Tanh(), diy.Linear(3, 1)) for _ in range(2)]
    parts = diy.unstack(diy.stack(networks)[:2])
    x = torch.randn(4, 2)
    for network, part in zip(networks, parts):
        torch.testing.assert_close(part(x), network[:2](x))


def test_the_loss_of_a_stack_needs_a_dimension_for_the_networks_and_one_more():
    with pytest.raises(ValueError, match=r"a prediction must be \(R, N, ...\) for R networks, got \(3,\)"):
        diy.MSELoss(stacked=True)(torch.ones(3), torch.ones(3))


def test_one_network_is_a_stack_too():
    network, x = diy.Sequential(diy.Linear(2, 3), diy.Tanh()), torch.ones(5, 2)
    assert torch.equal(diy.stack([network])(x[None]), network(x)[None])


def test_a_frozen_parameter_is_frozen_in_a_stack_too():
    networks = [diy.Sequential(diy.Linear(2, 3), diy.Linear(3, 2)) for _ in range(2)]
    networks[0][0].weight.requires_grad = False
    with pytest.raises(ValueError, match="alike"):
        diy.stack(networks)
    networks[1][0].weight.requires_grad = False
    stacked = diy.stack(networks)
    for network in (stacked, diy.unstack(stacked)[1]):
        network(torch.randn(2, 5, 2) if network is stacked else torch.randn(5, 2))
        network.backward(torch.randn(2, 5, 2) if network is stacked else torch.randn(5, 2))
        assert [name for name, p in network.named_parameters() if p.grad is None] == ["0.weight"]


class Weighted(diy.Module):
    stackable = True

    def __init__(self, weights):
        self.weights = weights

    def forward(self, x):
        raise NotImplementedError

    backward = forward


@pytest.mark.parametrize(
    "weights",
    [lambda k: [torch.tensor([1.0, k])], lambda k: {"w": (k, torch.ones(3) * k)}, lambda k: numpy.array([1.0, k])],
    ids=["list", "dictionary", "array"],
)
def test_numbers_in_containers_must_be_alike(weights):
    assert diy.stack([Weighted(weights(2)), Weighted(weights(2))]).stack_size == 2
    with pytest.raises(ValueError, match="alike"):
        diy.stack([Weighted(weights(2)), Weighted(weights(100))])


@pytest.mark.parametrize(
    "networks", [diy.Sequential(diy.Linear(2, 2), diy.Linear(2, 2)), None, [torch.nn.Linear(2, 2)]]
)
def test_a_stack_is_made_of_a_list_of_networks(networks):
    with pytest.raises(TypeError, match="stack expects"):
        diy.stack(networks)
