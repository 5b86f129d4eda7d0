"""Networks that train together, as one stack, against the same networks trained alone."""

import math

import pytest
import torch

import diy
from experiment import build_network, disk_data, one_hot

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
    torch.manual_seed(seed + 100)
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
    stacked = diy.stack(networks, [torch.Generator().manual_seed(seed + 100) for seed in seeds])
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
        (0.2, "sum", diy.SGD, EPOCHS),
        (0.2, "mean", diy.SGD, EPOCHS),
        (0.2, "mean", diy.Adam, EPOCHS),
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
    assert stacked.networks == 3
    assert {name: tuple(t.shape) for name, t in stacked.state_dict().items()}["0.weight"] == (3, 25, 2)
    together = stacked(inputs)
    for network, copy, input, output in zip(networks, diy.unstack(stacked), inputs, together):
        assert copy.networks is None
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
        ValueError, match=r"^stack needs at least one network, all of the same layers, shapes and dtypes, and"
    ):
        diy.stack(networks)


@pytest.mark.parametrize("layer", [lambda: diy.Conv2d(1, 1, 3), lambda: diy.BatchNorm2d(1), lambda: diy.Flatten()])
def test_layers_for_images_are_refused(layer):
    with pytest.raises(
        ValueError, match=r"^layers for images cannot be stacked: train networks that contain them one by one$"
    ):
        diy.stack([diy.Sequential(layer()), diy.Sequential(layer())])


def test_one_generator_per_network_is_needed():
    with pytest.raises(ValueError, match="2 networks of 1 kinds and 1 generators"):
        diy.stack([diy.Linear(2, 3), diy.Linear(2, 3)], [torch.Generator()])


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


def test_dropout_draws_each_networks_mask_from_its_own_generator():
    generators = [torch.Generator().manual_seed(seed) for seed in range(3)]
    stacked = diy.stack([diy.Sequential(diy.Dropout(0.25)) for _ in range(3)], generators)
    output = stacked(torch.ones(3, 5, 4))
    for seed, mask in enumerate(output):
        expected = torch.empty(5, 4).bernoulli_(0.75, generator=torch.Generator().manual_seed(seed)) / 0.75
        assert torch.equal(mask, expected)
    with pytest.raises(ValueError):
        stacked(torch.ones(4, 5, 4))  # one generator too few


def test_one_network_is_a_stack_too():
    network, x = diy.Sequential(diy.Linear(2, 3), diy.Tanh()), torch.ones(5, 2)
    assert torch.equal(diy.stack([network])(x[None]), network(x)[None])
