"""Whatever happens between forward and backward: the gradients are those of that forward, or there is an error."""

import collections
import concurrent.futures
import copy
import functools
import importlib
import math
import pickle
import sys
import threading
import types
from pathlib import Path

import matplotlib
import numpy
import pytest
import torch
from matplotlib import pyplot
from matplotlib.pyplot import plot
from torch import nn
from torch.nn.functional import softmax

import diy


def numbers(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def pair():
    """The same network on both sides, with the same weights."""
    ours = diy.Sequential(diy.Linear(3, 3), diy.Tanh(), diy.Sequential(diy.Linear(3, 3), diy.ReLU()), diy.Linear(3, 2))
    theirs = nn.Sequential(nn.Linear(3, 3), nn.Tanh(), nn.Sequential(nn.Linear(3, 3), nn.ReLU()), nn.Linear(3, 2))
    ours.double(), theirs.double()
    theirs.load_state_dict(ours.state_dict())
    return ours, theirs


def expected_gradients(theirs, x, g):
    leaf = x.clone().requires_grad_()
    theirs.zero_grad()
    theirs(leaf).backward(g)
    return leaf.grad, [p.grad for p in theirs.parameters()]


def assert_gradients_of(ours, theirs, x, g):
    got = ours.backward(g)
    expected, grads = expected_gradients(theirs, x, g)
    # Both add a few products of numbers of size 1, in orders of their own.
    torch.testing.assert_close(got, expected, rtol=1e-12, atol=1e-12)
    for parameter, gradient in zip(ours.parameters(), grads, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, rtol=1e-12, atol=1e-12)


X, OTHER, G = numbers(5, 3), numbers(5, 3, seed=1), numbers(5, 2, seed=2)
G3 = numbers(5, 3, seed=3)


def step_with(optimizer):
    optimizer.step()


DISTURBANCES = {
    "a layer is called": lambda net: net[0](OTHER),
    "a layer is called by forward": lambda net: net[0].forward(OTHER),
    "a slice is called": lambda net: net[:2](OTHER),
    "a nested network is called": lambda net: net[2](OTHER),
    "a layer of a nested network is called": lambda net: net[2][0](OTHER),
    "a layer goes forward and back": lambda net: (net[1](OTHER), net[1].backward(OTHER)),
    "another network of the same layers is called": lambda net: diy.Sequential(*net)(OTHER),
    "it evaluates without gradients": lambda net: torch.no_grad()(net)(OTHER),
    "it evaluates under inference mode": lambda net: torch.inference_mode()(net)(OTHER),
    "a layer evaluates without gradients": lambda net: torch.no_grad()(net[0])(OTHER),
    "it is switched to evaluation": lambda net: net.eval(),
    "a copy is called": lambda net: copy.deepcopy(net)(OTHER),
    "a copy goes forward and back": lambda net: forward_and_back(copy.deepcopy(net)),
    "it is pickled": lambda net: pickle.dumps(net),
    "another thread uses it": lambda net: in_a_thread(lambda: forward_and_back(net, keep_gradients=True)),
}


def forward_and_back(net, keep_gradients=False):
    kept = [p.grad for p in net.parameters()]
    net(OTHER)
    net.backward(G)
    if keep_gradients:
        for parameter, gradient in zip(net.parameters(), kept):
            parameter.grad = gradient


def in_a_thread(function):
    thread = threading.Thread(target=function)
    thread.start()
    thread.join()


@pytest.mark.parametrize("name", DISTURBANCES)
def test_what_happens_in_between_does_not_matter(name):
    ours, theirs = pair()
    ours(X)
    before = [p.grad for p in ours.parameters()]
    DISTURBANCES[name](ours)
    for parameter, gradient in zip(ours.parameters(), before):
        parameter.grad = gradient  # what the disturbance has added is its own affair
    assert_gradients_of(ours, theirs, X, G)


def test_a_layer_keeps_its_own_forward_while_its_network_is_at_work():
    layer = diy.Linear(3, 2).double()
    net, twin = diy.Sequential(layer), nn.Linear(3, 2).double()
    twin.load_state_dict(layer.state_dict())
    layer(X)
    net(OTHER)
    net.backward(G)
    layer.zero_grad()
    got = layer.backward(G)
    expected, (weight, _) = expected_gradients(twin, X, G)
    torch.testing.assert_close(got, expected)
    torch.testing.assert_close(layer.weight.grad, weight)


@pytest.mark.parametrize("change", ["weight", "x"])
def test_what_backward_needs_must_not_change(change):
    ours, _ = pair()
    x = X.clone()
    ours(x)
    (ours[2][0].weight if change == "weight" else x).mul_(2)
    place = r"layer 2\.0" if change == "weight" else "layer 0"
    with pytest.raises(RuntimeError, match=rf"^{place}, Linear.*was changed in place after forward"):
        ours.backward(G)


def test_new_data_under_a_weight_is_a_change():
    ours, _ = pair()
    ours(X)
    ours[3].weight.data = torch.zeros(2, 3, dtype=torch.float64)
    with pytest.raises(RuntimeError, match=r"^layer 3, Linear.*was changed in place after forward"):
        ours.backward(G)
    assert torch.equal(ours[3].weight.data, torch.zeros(2, 3, dtype=torch.float64))


@pytest.mark.parametrize(
    "change",
    [
        lambda net: net.layers.reverse(),
        lambda net: net.layers.insert(1, net.layers.pop()),
        lambda net: net.layers.pop(),
        lambda net: net.layers.pop(0),
        lambda net: net.append(net[0]),
    ],
    ids=["reversed", "moved", "last gone", "first gone", "more"],
)
def test_layers_that_were_rearranged_after_forward_are_noticed(change):
    layers = [diy.Linear(3, 3).double() for _ in range(3)]
    net = diy.Sequential(*layers)
    net(X)
    change(net)
    with pytest.raises(RuntimeError, match=r"layers of this Sequential were changed after forward|did not call Linear"):
        net.backward(OTHER)


class Spoiler(diy.Module):
    """A learner's layer that changes something in place, in forward or in backward."""

    def __init__(self, in_forward=None, in_backward=None):
        self.in_forward, self.in_backward = in_forward, in_backward

    def forward(self, input):
        if self.in_forward:
            self.in_forward(input)
        output = 2 * input
        self.remember(output)
        return output

    def backward(self, gradient):
        (gradient,) = self.recall(gradient)
        if self.in_backward:
            self.in_backward(gradient)
        return 2 * gradient


@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("when", ["in_forward", "in_backward"])
def test_a_learners_layer_that_spoils_what_a_layer_below_needs_is_noticed(when, nested):
    below = diy.Linear(3, 3).double()
    spoilers = [Spoiler(**{when: lambda _: below.weight.mul_(2)})]
    if when == "in_forward":
        spoilers.append(Spoiler(in_forward=lambda input: input.mul_(2)))  # the output of Tanh, which it needs itself
    for spoiler in spoilers:
        middle = diy.Sequential(spoiler, diy.Linear(3, 3).double()) if nested else spoiler
        net = diy.Sequential(below, diy.Tanh(), middle, diy.Linear(3, 2).double())
        net(X)
        with pytest.raises(RuntimeError, match=r"^layer [012].* was changed in place after forward"):
            net.backward(G)


def test_a_weight_that_is_replaced_gets_no_gradient():
    ours, theirs = pair()
    old = ours[0].weight
    ours(X)
    ours[0].weight = torch.zeros(3, 3, dtype=torch.float64)
    ours.backward(G)
    _, (expected, *_) = expected_gradients(theirs, X, G)
    torch.testing.assert_close(old.grad, expected)
    assert ours[0].weight.grad is None


LAYERS = {
    "Linear": (lambda: diy.Linear(3, 2), (5, 3)),
    "stacked": (lambda: diy.stack([diy.Linear(3, 2), diy.Linear(3, 2)]), (2, 5, 3)),
    "Conv2d": (lambda: diy.Conv2d(3, 2, 2), (5, 3, 4, 4)),
    "BatchNorm2d": (lambda: diy.BatchNorm2d(3), (5, 3, 4, 4)),
}


@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize("inside", [True, False])
def test_a_bias_that_is_replaced_gets_no_gradient_of_the_old_one(kind, inside):
    make, shape = LAYERS[kind]
    layer, x = make(), torch.randn(shape)
    network = diy.Sequential(diy.Sequential(layer)) if inside else layer
    gradient = torch.randn(network(x).shape)
    bias = torch.zeros_like(layer.bias)
    if inside:
        del layer.bias
    layer.bias = bias
    with pytest.raises(RuntimeError, match=r"the bias of a \w+ was replaced between forward and backward"):
        network.backward(gradient)
    assert layer.bias.grad is None
    network(x)
    network.backward(gradient)
    assert layer.bias.grad is not None
    if kind != "BatchNorm2d":  # which always has one
        layer.bias = None
        network(x)
        layer.bias = torch.zeros(gradient.shape[-1])
        with pytest.raises(RuntimeError, match="was replaced between forward and backward"):
            network.backward(gradient)


def test_the_loss_knows_whose_forward_it_belongs_to():
    ours, _ = pair()
    criterion = diy.MSELoss()
    criterion(ours(X), G)
    ours(OTHER)  # to look at it, without no_grad
    with pytest.raises(RuntimeError, match="is not that of the last output of Sequential"):
        ours.backward(criterion.backward())
    assert all(parameter.grad is None for parameter in ours.parameters())


BETWEEN = {
    "a factor": lambda output: 3 * output,
    "an activation": torch.sigmoid,
    "softmax": lambda output: output.softmax(1),
    "in place": lambda output: output.clamp_(min=0),
    "in place, on a view": lambda output: output[:1].mul_(2) is not None and output,
    "another order": lambda output: output.flip(0),
    "transposed": lambda output: output.mT.contiguous().view(output.shape),
    "noise": lambda output: output + torch.randn_like(output),
}

OTHER_LOSSES = {
    "a guess": lambda net, criterion: criterion(torch.zeros_like(G), G),
    "another network": lambda net, criterion: criterion(copy.deepcopy(net)(OTHER), G),
    "several": lambda net, criterion: (
        criterion(copy.deepcopy(net)(OTHER), G),
        criterion(OTHER, OTHER),
        criterion(G, G),
    ),
    **{
        f"{name} in between": lambda net, criterion, between=between: criterion(between(net(X)), G)
        for name, between in BETWEEN.items()
    },
}


@pytest.mark.parametrize("other", OTHER_LOSSES.values(), ids=OTHER_LOSSES)
@pytest.mark.parametrize("gradients", [True, False], ids=["", "disabled"])
def test_the_loss_of_something_else_says_nothing_about_the_network(other, gradients):
    ours, _ = pair()
    criterion = diy.MSELoss()
    with torch.set_grad_enabled(gradients):
        criterion(ours(X), G)
        other(ours, criterion)
        with pytest.raises(RuntimeError, match="is not that of the last output of Sequential"):
            ours.backward(criterion.backward())
    assert all(parameter.grad is None for parameter in ours.parameters())


def test_a_loss_that_was_only_looked_at_hinders_no_later_step():
    ours, theirs = pair()
    criterion = diy.MSELoss()
    for _ in range(3):
        criterion(ours(OTHER), G)
        criterion(OTHER, OTHER)
    prediction = ours(X).clone()  # which no longer tells where it comes from
    criterion(prediction, G)
    assert_gradients_of(ours, theirs, X, criterion.backward())
    other, _ = pair()
    criterion(ours(X), G)
    criterion(other(X), G)
    other.backward(criterion.backward())


def test_an_operation_between_two_networks_is_noticed():
    (below, _), above, criterion = pair(), diy.Sequential(diy.Linear(2, 2)).double(), diy.MSELoss()
    criterion(above(below(X).relu()), G)
    gradient = above.backward(criterion.backward())
    with pytest.raises(RuntimeError, match="an operation in between"):
        below.backward(gradient)


SAME = {
    "detached": torch.Tensor.detach,
    "a copy": torch.Tensor.clone,
    "reshaped": lambda output: output.view(-1).view(output.shape),
    "through NumPy": lambda output: torch.from_numpy(output.numpy().copy()),
    "to its own dtype": lambda output: output.to(output.dtype),
}


@pytest.mark.parametrize("alike", SAME.values(), ids=SAME)
def test_the_same_numbers_are_the_same_output(alike):
    ours, theirs = pair()
    criterion = diy.MSELoss()
    for number in (1.0, math.nan):
        x = X * number
        criterion(alike(ours(x)), G)
        gradient = criterion.backward()
        ours.backward(gradient)
        ours.zero_grad()
    criterion(alike(ours(X)), G)
    assert_gradients_of(ours, theirs, X, criterion.backward())


@pytest.mark.parametrize("between", BETWEEN.values(), ids=BETWEEN)
def test_a_layer_without_a_network_around_it_knows_its_output_as_well(between):
    layer, criterion = diy.Linear(3, 2).double(), diy.MSELoss()
    criterion(between(layer(X)), G)
    with pytest.raises(RuntimeError, match="is not that of the last output of Linear"):
        layer.backward(criterion.backward())
    assert layer.weight.grad is None


def test_a_bare_head_passes_on_whose_gradient_it_returns():
    (below, _), head, criterion = pair(), diy.Linear(2, 2).double(), diy.MSELoss()
    criterion(head(below(X)), G)
    below(OTHER)
    with pytest.raises(RuntimeError, match="is not that of the last output of Sequential"):
        below.backward(head.backward(criterion.backward()))
    criterion(head(below(X)), G)
    assert below.backward(head.backward(criterion.backward())).shape == X.shape


@pytest.mark.parametrize("build", [diy.Sequential, lambda layer: layer], ids=["a network", "a layer"])
def test_a_module_on_its_own_output_is_refused_unless_it_is_detached(build):
    network = build(diy.Linear(3, 3).double())
    output = network(network(X))
    with pytest.raises(RuntimeError, match="called on its own output"):
        network.backward(torch.ones_like(output))
    output = network(network(X).detach())
    assert network.backward(torch.ones_like(output)).shape == X.shape


@pytest.mark.parametrize("kind", ["MSELoss", "CrossEntropyLoss"])
def test_a_reduction_changed_between_forward_and_backward_is_noticed(kind):
    criterion = getattr(diy, kind)()
    target = torch.tensor([0, 1]) if kind == "CrossEntropyLoss" else torch.randn(2, 3)
    prediction = torch.randn(2, 3)
    for name, value in (("reduction", "sum"), ("stacked", True)):
        criterion(prediction, target)
        before = getattr(criterion, name)
        setattr(criterion, name, value)
        with pytest.raises(RuntimeError, match="call criterion"):
            criterion.backward()
        setattr(criterion, name, before)
    with pytest.raises(ValueError, match='reduction must be "mean" or "sum"'):
        criterion.reduction = "none"
    criterion.reduction = "sum"
    theirs = getattr(nn, kind)(reduction="sum")
    torch.testing.assert_close(criterion(prediction, target), theirs(prediction, target))


def test_a_loss_of_ones_own_may_have_reductions_of_its_own():
    class Own(diy.Loss):
        def __init__(self):
            self.reduction = "batchmean"

        def forward(self, prediction, target):
            loss = (prediction - target).square().sum() / len(target)
            self.remember(loss, prediction - target)
            return loss

        def backward(self):
            (difference,) = self.recall()
            return 2 * difference / len(difference)

    criterion, (ours, theirs) = Own(), pair()
    criterion(ours(X), G)
    assert_gradients_of(ours, theirs, X, criterion.backward())


CONTAINERS = {
    "list": (lambda x: [x], lambda packed: packed[0]),
    "tuple": (lambda x: (1, [x]), lambda packed: packed[1][0]),
    "dictionary": (lambda x: {"x": x}, lambda packed: packed["x"]),
    "array": (lambda x: x.numpy(), torch.from_numpy),
}


@pytest.mark.parametrize(("pack", "unpack"), CONTAINERS.values(), ids=CONTAINERS)
def test_a_remembered_container_is_watched(pack, unpack):
    class Square(diy.Module):
        def forward(self, x):
            output = x * x
            self.remember(output, pack(x))
            return output

        def backward(self, g):
            g, packed = self.recall(g)
            return 2 * g * unpack(packed)

    module, x = Square(), X.clone()
    torch.testing.assert_close((module(x), module.backward(G3))[1], 2 * G3 * X)
    module(x)
    x += 1
    with pytest.raises(RuntimeError, match=r"that Square\.backward needs was changed in place"):
        module.backward(G3)


class Config:
    factor = 2.0


ENCODER = diy.Linear(3, 3).double()


class OfAGlobalModule(diy.Module):
    def forward(self, x):
        return x @ ENCODER.weight.mT

    def backward(self, g):
        return g @ ENCODER.weight


class OfASetting(diy.Module):
    def __init__(self):
        self.factors, self.which = {"small": [2], "large": [3]}, []
        self.which.append(self.factors["small"])

    def forward(self, x):
        return x * self.which[0][0]

    def backward(self, g):
        return g * self.which[0][0]


class OfAChild(diy.Module):
    def __init__(self):
        self.inner = diy.Linear(3, 3).double()

    def forward(self, x):
        output = x @ self.inner.weight.mT
        self.remember(output, x)
        return output

    def backward(self, g):
        (g, _) = self.recall(g)
        return g @ self.inner.weight


class OfAClass(diy.Module):
    def forward(self, x):
        return x * Config.factor

    def backward(self, g):
        return g * Config.factor


@pytest.mark.parametrize(
    ("kind", "change", "name"),
    [
        (OfAChild, lambda module: module.inner.weight.mul_(2), r"Linear\.weight"),
        (OfAChild, lambda module: setattr(module.inner, "weight", torch.ones(3, 3).double()), r"Linear\.weight"),
        (OfAClass, lambda module: setattr(Config, "factor", 3.0), r"Config\.factor"),
        (OfAGlobalModule, lambda module: ENCODER.weight.mul_(2), r"Linear\.weight"),
        (OfASetting, lambda module: module.which.insert(0, module.factors["large"]), r"OfASetting\.which\S*"),
    ],
    ids=["a child's weight", "a child's new weight", "a class", "a global module", "one of two"],
)
def test_what_backward_reads_elsewhere_must_not_change(kind, change, name, monkeypatch):
    monkeypatch.setattr(Config, "factor", 2.0)
    module = kind()
    for _ in range(3):
        module(X)
        module.backward(G3)
    module(X)
    change(module)
    with pytest.raises(RuntimeError, match=f"{name}, which {kind.__name__}.backward may read, was changed"):
        module.backward(G3)


class Freed(diy.Module):
    """A learner's cache, which backward empties by assignment."""

    def __init__(self):
        self.cache = {}

    def forward(self, x):
        self.cache["x"] = x
        return x * x

    def backward(self, g):
        x = self.cache["x"]
        self.cache = {}
        return 2 * g * x


class Beside(diy.Module):
    """A learner's module that remembers one half of what it needs."""

    def __init__(self):
        self.cache = {}

    def forward(self, x):
        self.cache["slope"] = x.cos()
        output = x.sin()
        self.remember(output, output)
        return output

    def backward(self, g):
        g, _ = self.recall(g)
        return g * self.cache["slope"]


class Slotted(diy.Module):
    __slots__ = ("cache",)

    def forward(self, x):
        self.cache = x
        return x * x

    def backward(self, g):
        return 2 * g * self.cache


@pytest.mark.parametrize(("kind", "slope"), [(Freed, 2 * X), (Beside, X.cos()), (Slotted, 2 * X)])
def test_a_cache_that_is_freed_or_half_of_it_or_a_slot_is_watched(kind, slope):
    module = kind()
    for _ in range(3):
        module(X)
        torch.testing.assert_close(module.backward(G3), slope * G3)
    module(X)
    with torch.no_grad():
        module(OTHER)
    with pytest.raises(RuntimeError, match=r"cache\S*, which \w+\.backward may read, was changed"):
        module.backward(G3)


def test_gradients_have_no_graph_even_below_pytorchs_loss():
    network = diy.Sequential(diy.Linear(3, 2), diy.Tanh()).double()
    for _ in range(3):
        output = network(X).requires_grad_()
        nn.functional.mse_loss(output, G).backward()
        below = network.backward(output.grad)
    assert not below.requires_grad and not any(p.grad.requires_grad for p in network.parameters())


@pytest.mark.parametrize(
    ("bias", "between"),
    [(0.0, lambda output: 2 * output), (1.0, torch.square), (3.0, torch.round), ([0.0, 0.37], torch.relu)],
)
def test_an_operation_that_happens_to_change_no_number_is_noticed(bias, between):
    ours, criterion = diy.Sequential(diy.Linear(3, 2)), diy.MSELoss()
    ours[0].weight.zero_()
    ours[0].bias.copy_(torch.tensor(bias))
    criterion(between(ours(torch.randn(5, 3))), torch.randn(5, 2))
    with pytest.raises(RuntimeError, match="an operation in between"):
        ours.backward(criterion.backward())


def test_an_equal_output_of_another_network_is_another_output():
    ours, _ = pair()
    for parameter in ours.parameters():
        parameter.zero_()
    criterion = diy.MSELoss()
    criterion(ours(X), G)
    criterion(copy.deepcopy(ours)(OTHER), -G)
    with pytest.raises(RuntimeError, match="is not that of the last output"):
        ours.backward(criterion.backward())


def test_a_gradient_worked_out_by_hand_is_taken():
    ours, theirs = pair()
    criterion = diy.MSELoss()
    output = ours(X)
    criterion(output.square(), G)
    gradient = criterion.backward() * 2 * output
    original = theirs(X)
    original.backward(2 * (original.detach() ** 2 - G) / G.numel() * 2 * original.detach())
    ours.backward(gradient)
    for own, counterpart in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(own.grad, counterpart.grad)


@pytest.mark.parametrize(
    "scaled",
    [
        lambda gradient: gradient / 4,
        lambda gradient: 0.25 * gradient,
        lambda gradient: gradient.div_(4),
        lambda gradient: gradient.clamp(-1, 1),
        lambda gradient: -gradient.nan_to_num(),
    ],
    ids=["divided", "multiplied", "in place", "clamped", "negative"],
)
@pytest.mark.parametrize("loss_of", [lambda p: 2 * p, torch.tanh, lambda p: p - p.mean(0)], ids=["2 p", "tanh", "mean"])
def test_a_gradient_that_is_scaled_is_still_that_of_another_tensor(scaled, loss_of):
    ours, theirs = pair()
    criterion = diy.MSELoss()
    criterion(loss_of(ours(X)), G)
    gradient = scaled(criterion.backward())
    with pytest.raises(RuntimeError, match=r"the loss got something other than this output .* gradient\.clone\(\)"):
        ours.backward(gradient)
    assert_gradients_of(ours, theirs, X, gradient.clone())
    ours.zero_grad()
    criterion(ours(X), G)
    assert_gradients_of(ours, theirs, X, scaled(criterion.backward()))


def test_a_gradient_by_hand_of_one_number_is_taken_like_that_of_many():
    layer, criterion = diy.Linear(3, 1).double(), diy.MSELoss()
    p = layer(X[:1]).sigmoid()
    criterion(p, G[:1, :1])
    torch.testing.assert_close(
        layer.backward(criterion.backward() * p * (1 - p)), 2 * (p - G[:1, :1]) * p * (1 - p) * layer.weight
    )


def test_a_clamped_gradient_of_another_output_is_refused():
    ours, _ = pair()
    criterion = diy.MSELoss()
    first = ours(X)
    ours(OTHER)
    criterion(first, G)
    with pytest.raises(RuntimeError, match="not that of the last output"):
        ours.backward(criterion.backward().clamp(-1, 1))


def test_the_losses_of_two_criteria_are_added_with_both_gradients():
    ours, theirs = pair()
    one, other = diy.MSELoss(), diy.MSELoss(reduction="sum")
    output = ours(X)
    one(output, G) + other(output, 2 * G)
    gradient = one.backward()
    with pytest.raises(RuntimeError, match=r"another criterion for Sequential, .* pass the sum"):
        ours.backward(gradient)
    assert_gradients_of(ours, theirs, X, gradient + other.backward())
    output = ours(X)
    one(output, G) / other(output, 2 * G)  # a number to look at, and no loss
    ours.backward(one.backward())
    one(output := ours(X), G) - other(output, 2 * G)
    with pytest.raises(RuntimeError, match="another criterion"):
        ours.backward(one.backward())
    one(ours(X), G) + other(ours(OTHER), G)
    with pytest.raises(RuntimeError, match="for two, go back after each forward"):
        ours.backward(other.backward())


def test_a_sum_of_two_networks_hands_the_same_gradient_to_both():
    (one, theirs), (other, _) = pair(), pair()
    criterion = diy.MSELoss()
    criterion(one(X) + other(OTHER), G)
    gradient = criterion.backward()
    with pytest.raises(RuntimeError, match=r"other outputs were added, pass gradient\.clone\(\)"):
        one.backward(gradient)
    other.backward(gradient.clone())
    assert_gradients_of(one, theirs, X, gradient.clone())


def test_a_loss_without_gradients_leaves_no_trace():
    ours, theirs = pair()
    criterion = diy.MSELoss()
    criterion(ours(X), G)
    with torch.no_grad():
        criterion(ours(OTHER), G)
    gradient = criterion.backward()
    torch.testing.assert_close(gradient, 2 * (theirs(X).detach() - G) / G.numel())
    assert_gradients_of(ours, theirs, X, gradient)


def test_all_of_it_may_run_with_gradients_disabled():
    ours, theirs = pair()
    with torch.no_grad():
        ours(OTHER)
        ours(X)
        got = ours.backward(G)
    expected, grads = expected_gradients(theirs, X, G)
    torch.testing.assert_close(got, expected)
    torch.testing.assert_close(ours[0].weight.grad, grads[0])


def test_two_forwards_one_with_gradients_one_without_and_a_backward_without_are_ambiguous():
    ours, _ = pair()
    ours(X)
    with torch.no_grad():
        ours(OTHER)
        with pytest.raises(RuntimeError, match="Sequential or the loss was called again"):
            ours.backward(G)


def test_a_forward_without_gradients_is_of_no_use_outside():
    ours, _ = pair()
    with torch.no_grad():
        ours(X)
    with pytest.raises(RuntimeError, match=r"no forward is waiting.*under torch\.no_grad\(\) allows none outside"):
        ours.backward(G)


def test_an_input_from_inference_mode_may_be_changed_there():
    ours, theirs = pair()
    with torch.inference_mode():
        x = X.clone()
    ours(x)
    with torch.inference_mode():
        x.zero_()
    assert_gradients_of(ours, theirs, X, G)


def test_a_copy_has_neither_memory_nor_gradients():
    ours, _ = pair()
    ours(X)
    ours.backward(G)
    ours(X)
    for twin in (copy.deepcopy(ours), pickle.loads(pickle.dumps(ours))):
        assert all(parameter.grad is None for parameter in twin.parameters())
        with pytest.raises(RuntimeError, match=r"^no forward is waiting for Sequential\.backward"):
            twin.backward(G)
        twin(X)
        twin.backward(G)
        for parameter, own in zip(twin.parameters(), ours.parameters(), strict=True):
            assert torch.equal(parameter.grad, own.grad)
    ours.backward(G)


def test_a_move_forgets():
    ours, _ = pair()
    ours(X)
    ours.float()
    with pytest.raises(RuntimeError, match="no forward is waiting"):
        ours.backward(G)


class Cached(diy.Linear):
    """A learner's layer that keeps its input in an attribute."""

    def forward(self, x):
        self.x = x
        return x @ self.weight.mT + self.bias

    def backward(self, g):
        self.accumulate(self.weight, g.mT @ self.x)
        self.accumulate(self.bias, g.sum(0))
        return g @ self.weight


@pytest.mark.parametrize("kind", [None, diy.Linear, Cached])
def test_threads_that_share_a_network_get_the_gradients_of_their_own_forwards(kind):
    ours, theirs = (kind(3, 2).double(), nn.Linear(3, 2).double()) if kind else pair()
    theirs.load_state_dict(ours.state_dict())
    inputs = [numbers(5, 3, seed=seed) for seed in range(4)]
    expected = [expected_gradients(theirs, x, G) for x in inputs]
    rounds, wrong = 150, []

    def work(x, gradient):
        for _ in range(rounds):
            ours(x)
            if not torch.allclose(ours.backward(G), gradient, rtol=1e-10, atol=1e-10):
                wrong.append(x)

    threads = [threading.Thread(target=work, args=(x, e[0])) for x, e in zip(inputs, expected)]
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    assert not wrong
    # No contribution is lost: each of the four adds its gradient 150 times.
    for index, parameter in enumerate(ours.parameters()):
        total = rounds * sum(grads[index] for _, grads in expected)
        torch.testing.assert_close(parameter.grad, total, rtol=1e-9, atol=1e-9)


# The same object in several places


def test_a_module_in_two_places_is_one_object():
    dropout = diy.Dropout(0.5)
    net = diy.Sequential(dropout, diy.Linear(3, 3), dropout)
    assert net[0] is net[2] is dropout
    dropout.p = 0
    assert torch.equal(net(X.float()), net[1](X.float()))
    dropout.eval()
    assert not net[2].training
    net[1].weight = torch.eye(3)
    assert next(iter(net.parameters())) is net[1].weight


class Residual(diy.Module):
    """x + f(f(x)): one module inside, called twice."""

    def __init__(self, inner):
        self.inner = inner

    def forward(self, input):
        return input + self.inner(self.inner(input))

    def backward(self, gradient):
        return gradient + self.inner.backward(self.inner.backward(gradient))


class TorchResidual(nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, input):
        return input + self.inner(self.inner(input))


def residual_pair():
    block, twin = (
        make(m.Sequential(m.Linear(3, 3), m.Tanh()).double()) for make, m in ((Residual, diy), (TorchResidual, nn))
    )
    twin.inner.load_state_dict(block.inner.state_dict())
    return block, twin


def test_a_module_of_ones_own_may_call_another_twice():
    block, twin = residual_pair()
    block(X)
    block.inner(OTHER)
    assert_gradients_of(block, twin, X, numbers(5, 3, seed=2))


def test_such_a_module_may_itself_stand_twice_in_a_network():
    block, twin = residual_pair()
    ours, theirs = diy.Sequential(block, diy.Tanh(), block), nn.Sequential(twin, nn.Tanh(), twin)
    ours(X)
    block(OTHER)
    assert_gradients_of(ours, theirs, X, numbers(5, 3, seed=2))


class Attribute(diy.Module):
    """A learner's layer that keeps what backward needs in an attribute of its own."""

    def forward(self, input):
        self.x = input
        return input**2

    def backward(self, gradient):
        return 2 * self.x * gradient


def test_a_module_may_keep_its_input_in_an_attribute():
    net = diy.Sequential(Attribute())
    net(X)
    torch.testing.assert_close(net.backward(OTHER), 2 * X * OTHER)


@pytest.mark.parametrize(
    "change",
    [lambda layer: layer(OTHER), lambda layer: delattr(layer, "x")],
    ids=["another forward", "deleted"],
)
def test_an_attribute_is_that_of_the_same_forward(change):
    layer = Attribute()
    net = diy.Sequential(layer, layer)
    net(X)
    change(layer)
    now = dict(vars(layer))
    torch.testing.assert_close(net.backward(OTHER), 4 * X**3 * OTHER)
    assert vars(layer) == now


class Annealed(diy.Module):
    def __init__(self):
        self.factor = 2.0

    def forward(self, x):
        return x * self.factor

    def backward(self, g):
        result = g * self.factor
        self.factor *= 0.9
        return result


def test_what_backward_itself_sets_stays():
    module = Annealed()
    for factor in (2.0, 1.8):
        module(X)
        assert module.backward(G3).equal(factor * G3)
        assert module.factor == 0.9 * factor


@pytest.mark.parametrize(
    ("kind", "name", "value"), [(Attribute, "x", OTHER), (Annealed, "factor", 3.0)], ids=["a cache", "a setting"]
)
def test_an_attribute_that_someone_else_sets_is_noticed(kind, name, value):
    network = diy.Sequential(kind())
    network(X)
    setattr(network[0], name, value)
    with pytest.raises(RuntimeError, match=rf"\.{name}, which \w+\.backward may read, was changed"):
        network.backward(OTHER)


class Emptied(Attribute):
    """A learner's layer that lets go of its input once it is done."""

    def backward(self, gradient):
        result = super().backward(gradient)
        del self.x
        return result


def test_an_attribute_that_backward_deletes_is_gone():
    layer = Emptied()
    layer(X)
    torch.testing.assert_close(layer.backward(OTHER), 2 * X * OTHER)
    assert not hasattr(layer, "x")
    network = diy.Sequential(layer, layer)
    network(X)
    torch.testing.assert_close(network.backward(OTHER), 4 * X**3 * OTHER)
    assert not hasattr(layer, "x")


class Later(Attribute):
    """A learner's layer that assigns something after the forward of its base."""

    def forward(self, input):
        output = super().forward(input)
        self.sign = output.sign()
        return output * self.sign

    def backward(self, gradient):
        return super().backward(gradient * self.sign)


def test_an_attribute_that_is_set_after_the_forward_of_the_base_is_that_of_the_same_forward():
    layer = Later()
    net = diy.Sequential(layer, layer)
    net(X)
    with torch.no_grad():
        net(OTHER)
    torch.testing.assert_close(net.backward(OTHER), 4 * X**3 * OTHER)


class Down(diy.Module):
    """The way down of a U: what the way up sends it goes into its gradient."""

    def forward(self, x):
        self.extra = 0
        return 2 * x

    def backward(self, g):
        return 2 * (g + self.extra)


class U(diy.Module):
    def __init__(self):
        self.down = Down()

    def forward(self, x):
        return self.down(x) + x

    def backward(self, g):
        self.down.extra = g
        return self.down.backward(g) + g


def test_what_another_module_leaves_in_an_attribute_is_not_handed_back_in_silence():
    module = U()
    module(X)
    with pytest.raises(RuntimeError, match=r"Down\.extra, which Down\.backward may read, was changed"):
        module.backward(G3)


class Carrying(diy.Module):
    """A recurrent cell, whose backward hands something to the backward of the step before."""

    def __init__(self):
        self.carry = 0.0

    def forward(self, x):
        output = x.tanh()
        self.remember(output, output)
        return output

    def backward(self, g):
        g, x = self.recall(g)
        self.carry = (g + self.carry) * (1 - x * x)
        return self.carry


def test_what_one_backward_leaves_for_the_next_is_there():
    cell = Carrying()
    network = diy.Sequential(cell, cell)
    network(X)
    last = G3 * (1 - X.tanh().tanh() ** 2)
    torch.testing.assert_close(network.backward(G3), 2 * last * (1 - X.tanh() ** 2))


class Counting(diy.Module):
    """A learner's module that adds up what it sees, on both ways."""

    def __init__(self):
        self.size = self.calls = 0

    def forward(self, x):
        self.calls += 1
        return 2 * x

    def backward(self, g):
        self.size = self.size + len(g)
        return 2 * g


def test_what_backward_adds_up_is_not_lost():
    module = Counting()
    network = diy.Sequential(module, module)
    for _ in range(2):
        network(X)
        assert network.backward(G3).equal(4 * G3)
    assert (module.size, module.calls) == (4 * len(X), 4)


def test_modules_may_work_in_threads_of_a_pool():
    class Branches(diy.Module):
        def __init__(self):
            self.one, self.two = Attribute(), Attribute()

        def forward(self, x):
            with torch.no_grad(), concurrent.futures.ThreadPoolExecutor() as pool:
                list(pool.map(lambda part: part(x), [self.one, self.two]))
            return self.one(x) + self.two(x)

        def backward(self, g):
            return self.two.backward(g) + self.one.backward(g)

    module = Branches()
    module(X)
    torch.testing.assert_close(module.backward(G3), 4 * X * G3)


# What learners get wrong


def learner(forward=None, backward=None, **more):
    class Own(diy.Module):
        def forward(self, input):
            output = 2 * input
            self.remember(output)
            return output

        def backward(self, gradient):
            (gradient,) = self.recall(gradient)
            return 2 * gradient

    methods = {name: method for name, method in (("forward", forward), ("backward", backward)) if method}
    return type("Own", (Own,), {**methods, **more, "__module__": __name__})()


def forward_without_return(self, input):
    self.remember(input)


def backward_without_return(self, gradient):
    self.recall(gradient)


@pytest.mark.parametrize("place", ["alone", "in a network"])
@pytest.mark.parametrize(
    ("own", "error", "words"),
    [
        (lambda: learner(forward=forward_without_return), TypeError, r"Own\.forward returned NoneType: .*`return`"),
        (lambda: learner(backward=backward_without_return), TypeError, r"Own\.backward returned NoneType: .*`return`"),
        (lambda: learner(forward=lambda self, x: (x, x)), TypeError, r"Own\.forward returned tuple: it must return"),
        (lambda: learner(forward=lambda self, x: x.numpy()), TypeError, r"Own\.forward returned ndarray"),
        (
            lambda: learner(forward=lambda self, x: 2 * x),
            RuntimeError,
            r"Own\.forward remembered nothing.*self\.remember",
        ),
        (
            lambda: learner(backward=lambda self, g: g.sum(0)),
            ValueError,
            r"Own\.backward must return .*\(5, 3\), got \(3,\)",
        ),
        (
            lambda: learner(backward=lambda self, g: g.float()),
            TypeError,
            r"Own\.backward must .*float64, got torch\.float32",
        ),
    ],
    ids=range(7),
)
def test_the_learners_mistake_is_named(place, own, error, words):
    module = own()
    net = module if place == "alone" else diy.Sequential(diy.Tanh(), module, diy.Tanh())
    with pytest.raises(error, match=words):
        net(X)
        net.backward(OTHER)


@pytest.mark.parametrize(
    ("gradient", "error", "words"),
    [
        (lambda g, x: (g.mT @ x).float(), TypeError, r"must be a tensor of torch\.float64, got torch\.float32"),
        (lambda g, x: 0.0, TypeError, r"must be a tensor of torch\.float64, got float"),
        (lambda g, x: x.mT @ g, ValueError, r"must have its shape, \(2, 3\), got \(3, 2\): it is transposed"),
        (lambda g, x: g[..., None] * x[:, None], ValueError, r"got \(5, 2, 3\): is the sum over the samples missing\?"),
    ],
    ids=["dtype", "number", "transposed", "not summed"],
)
def test_a_gradient_that_does_not_fit_its_parameter_is_refused(gradient, error, words):
    class Matrix(diy.Module):
        parameter_names = ("w",)

        def __init__(self):
            self.w = torch.ones(2, 3).double()

        def forward(self, x):
            output = x @ self.w.mT
            self.remember(output, x)
            return output

        def backward(self, g):
            g, x = self.recall(g)
            self.accumulate(self.w, gradient(g, x))
            return g @ self.w

    module = Matrix()
    output = module(X)
    with pytest.raises(error, match=words):
        module.backward(output)
    assert module.w.grad is None


def test_a_module_that_is_gone_back_through_too_often_is_named():
    class Twice(Residual):
        def forward(self, input):
            return self.inner(input)

        def backward(self, gradient):
            return self.inner.backward(self.inner.backward(gradient))

    block = Twice(diy.Linear(3, 3).double())
    block(X)
    with pytest.raises(RuntimeError, match=r"Twice\.backward calls Linear\.backward more often than Twice\.forward"):
        block.backward(OTHER)


def test_only_a_first_layer_may_spare_its_input_gradient():
    inner = diy.Sequential(diy.Linear(3, 3), diy.Tanh()).double()
    inner[0].needs_input_grad = False
    net = diy.Sequential(inner, diy.Tanh())
    net(X)
    assert net.backward(OTHER) is None and inner[0].weight.grad is not None
    net = diy.Sequential(diy.Tanh(), inner)
    net(X)
    with pytest.raises(
        TypeError, match=r"layer 0, Tanh\(\): there is no gradient from above: needs_input_grad = False"
    ):
        net.backward(OTHER)


def test_a_module_that_is_not_gone_back_through_is_named():
    class Forgetful(Residual):
        def backward(self, gradient):
            return gradient

    block = Forgetful(diy.Linear(3, 3).double())
    block(X)
    with pytest.raises(
        RuntimeError, match=r"Forgetful\.forward called Linear, but .* did not call Linear\.backward as often"
    ):
        block.backward(OTHER)


class Scale(diy.Module):
    parameter_names = ("factor",)

    def __init__(self, factor):
        self.factor = factor

    def forward(self, input):
        output = input * self.factor
        self.remember(output, input, self.factor)
        return output

    def backward(self, gradient):
        gradient, input, factor = self.recall(gradient)
        self.accumulate(factor, (gradient * input).sum(0))
        return gradient * factor


@pytest.mark.parametrize(
    ("names", "factor", "error", "words"),
    [
        (("factor",), [torch.ones(3)], TypeError, r"Scale\.factor, named in parameter_names, is a list"),
        ("factor", torch.ones(3), TypeError, r'parameter_names is the string "factor": write a tuple'),
        (("gain",), torch.ones(3), TypeError, r"Scale\.gain, named in parameter_names, is not set in __init__"),
    ],
    ids=["list", "string", "other name"],
)
def test_a_parameter_that_would_never_be_trained_is_named(names, factor, error, words):
    module = type("Scale", (Scale,), {"parameter_names": names, "__module__": __name__})(factor)
    with pytest.raises(error, match=words):
        list(diy.Sequential(module).parameters())


def test_a_parameter_that_is_an_array_is_named():
    module = Scale(numpy.ones(3))
    with pytest.raises(TypeError, match=r"Scale\.factor, named in parameter_names, is a ndarray"):
        list(module.parameters())


def test_a_parameter_without_a_name_is_noticed_when_it_gets_its_gradient():
    module = type("Scale", (Scale,), {"parameter_names": (), "__module__": __name__})(
        torch.ones(3, dtype=torch.float64)
    )
    module(X)
    with pytest.raises(RuntimeError, match=r"Scale adds to the gradient of a tensor that is not among its parameters"):
        module.backward(OTHER)


def test_a_parameter_of_pytorchs_kind_without_a_name_is_noticed():
    module = type("Scale", (Scale,), {"parameter_names": (), "__module__": __name__})(nn.Parameter(torch.ones(3)))
    with pytest.raises(TypeError, match='would never be trained: add "factor" to parameter_names'):
        list(module.parameters())


@pytest.mark.parametrize("kind", [list, tuple, lambda modules: dict(enumerate(modules))], ids=["list", "tuple", "dict"])
def test_modules_in_a_list_are_noticed(kind):
    block = Residual(kind([diy.Linear(3, 3), diy.Tanh()]))
    for use in (lambda: list(block.parameters()), block.eval, block.state_dict, lambda: repr(block)):
        with pytest.raises(TypeError, match=r"Residual\.inner holds modules in a \w+, .* all in a Sequential"):
            use()


class InAClassAttribute(Residual):
    inner = diy.Linear(3, 3).double()

    def __init__(self):
        pass


class InNestedLists(Residual):
    def __init__(self):
        self.parts = [[diy.Linear(3, 3).double()]]

    inner = property(lambda self: self.parts[0][0])


@pytest.mark.parametrize("kind", [InAClassAttribute, InNestedLists])
def test_a_module_that_would_never_be_trained_is_noticed_on_the_way_back(kind):
    net = diy.Sequential(kind())
    net(X)  # which may be all that it is made for
    with pytest.raises(
        (RuntimeError, TypeError), match=r"calls a Linear that is not among the modules|holds modules in a list"
    ):
        net.backward(OTHER)


def test_a_module_of_pytorch_inside_ones_own_is_noticed():
    with pytest.raises(TypeError, match=r"Residual\.inner is a module of PyTorch, which would never be trained"):
        list(Residual(nn.Linear(3, 3)).parameters())


def test_a_class_in_the_place_of_an_object():
    with pytest.raises(TypeError, match=r"argument 1 of Sequential .* got the class ReLU; write ReLU\(\.\.\.\)"):
        diy.Sequential(diy.Linear(3, 2), diy.ReLU)


def test_a_network_that_forgets_to_call_the_constructor():
    class Net(diy.Sequential):
        def __init__(self):
            self.head = diy.Linear(3, 2)

    with pytest.raises(RuntimeError, match=r"Net\.__init__ must call super\(\)\.__init__\(\.\.\.\) first"):
        Net()(X)


def test_backward_with_the_wrong_number_of_arguments():
    net, criterion = diy.Sequential(diy.Tanh()), diy.MSELoss()
    criterion(net(X), OTHER)
    with pytest.raises(
        TypeError, match=r"Sequential\.backward takes one argument, .*model\.backward\(criterion\.backward"
    ):
        net.backward()
    with pytest.raises(TypeError, match=r"MSELoss\.backward takes no argument, got 1"):
        criterion.backward(G)
    net.backward(criterion.backward())


class Reading(diy.Module):
    """A learner's module that reads its parameter, and what forward has set, as plain attributes."""

    parameter_names = ("factor",)

    def __init__(self):
        self.factor = torch.tensor(2.0, dtype=torch.float64)

    def forward(self, x):
        self.x = x.clone()
        return x * self.factor

    def backward(self, g):
        self.accumulate(self.factor, (g * self.x).sum())
        self.sizes = getattr(self, "sizes", 0) + g.norm()  # of no use for the gradient
        return g * self.factor


@pytest.mark.parametrize(
    "change",
    [
        lambda module: module.factor.mul_(5),
        lambda module: setattr(module, "factor", torch.tensor(5.0, dtype=torch.float64)),
        lambda module: setattr(module.factor, "data", torch.tensor(5.0, dtype=torch.float64)),
        lambda module: module.x.zero_(),
    ],
    ids=["a step", "a new parameter", "new data", "what was kept"],
)
@pytest.mark.parametrize("inside", [False, True])
def test_what_a_learners_module_reads_must_not_change(change, inside):
    module = Reading()
    network = diy.Sequential(diy.Tanh(), module) if inside else module
    for _ in range(2):
        network(X)
        network.backward(torch.ones_like(X))
    network(X)
    change(module)
    with pytest.raises(RuntimeError, match=r"Reading\.(factor|x), which .* was changed between forward and backward"):
        network.backward(torch.ones_like(X))


KEPT_AS_DEFAULT = []


class Caching(diy.Module):
    """A learner's module that keeps what backward needs where Python notes no assignment."""

    def __init__(self):
        self.cache, self.inputs, self.note = {}, [], types.SimpleNamespace()

    def backward(self, g):
        return 2 * g * self.kept()


class InADictionary(Caching):
    def forward(self, x):
        self.cache["x"] = x
        return x * x

    def kept(self):
        return self.cache["x"]


class InAList(Caching):
    def forward(self, x):
        self.inputs.append(x)
        return x * x

    def kept(self):
        return self.inputs.pop()


class InAnObject(Caching):
    def forward(self, x):
        self.note.x = x
        return x * x

    def kept(self):
        return self.note.x


class InATensor(Caching):
    def forward(self, x):
        vars(self).setdefault("place", torch.empty_like(x)).copy_(x)
        return x * x

    def kept(self):
        return self.place


class OfItsBase(InADictionary):
    def backward(self, g):
        return super().backward(g)


class InADefaultArgument(Caching):
    def forward(self, x):
        KEPT_AS_DEFAULT[:] = [x]
        return x * x

    def backward(self, g, kept=KEPT_AS_DEFAULT):
        return 2 * g * kept[0]


class InTheClass(Caching):
    x = None

    def forward(self, x):
        type(self).x = x
        return x * x

    def kept(self):
        return self.x


class InABuffer(Caching):
    buffer_names = ("x",)

    def forward(self, x):
        self.x = x
        return x * x

    def kept(self):
        return self.x


class InAnArray(Caching):
    def forward(self, x):
        self.cache["deep"] = {"down": collections.deque([[x.numpy().copy()]])}
        return x * x

    def kept(self):
        return torch.from_numpy(self.cache["deep"]["down"][0][0])


class InAnArrayInPlace(Caching):
    def forward(self, x):
        vars(self).setdefault("array", numpy.empty(x.shape))[:] = x.numpy()
        return x * x

    def kept(self):
        return torch.from_numpy(self.array.copy())


class InAFunction(Caching):
    def forward(self, x):
        self.kept = lambda: x
        return x * x


class InAPartialFunction(Caching):
    def forward(self, x):
        self.kept = functools.partial(torch.clone, x)
        return x * x


class OfAFunction(Caching):
    def __init__(self):
        self.slope = lambda: 2 * self.slope.x

    def forward(self, x):
        self.slope.x = x
        return x * x

    def backward(self, g):
        return g * self.slope()


class UnderAComputedName(Caching):
    forward = InADictionary.forward

    def kept(self):
        return getattr(self, "".join(["ca", "che"]))["x"]


class ByAPartialMethod(Caching):
    forward = InADictionary.forward

    def _of(self, name):
        return self.cache[name]

    kept = functools.partialmethod(_of, "x")


class ByAFunctionThatIsKept(InADictionary):
    def __init__(self):
        super().__init__()
        self.slopes = {"twice": lambda: 2 * self.cache["x"]}

    def backward(self, g):
        return g * self.slopes["twice"]()


class InAHelper(InADictionary):
    def __init__(self):
        self.helper = Helper()

    def forward(self, x):
        self.helper.put(x)
        return x * x

    def kept(self):
        return self.helper.get()


class Helper:
    def put(self, x):
        CACHE["x"] = x

    def get(self):
        return CACHE["x"]


class InAChild(InADictionary):
    def __init__(self):
        self.child = InAnObject()

    def forward(self, x):
        with torch.no_grad():
            return self.child(x)

    def backward(self, g):
        return 2 * g * self.child.kept()


def by_a_function_in_a_closure():
    def slope(module):
        return 2 * module.cache["x"]

    class ByAFunctionInAClosure(InADictionary):
        def backward(self, g):
            return g * slope(self)

    return ByAFunctionInAClosure()


class ByGlobals(diy.Module):
    def forward(self, x):
        globals()["LAST"] = x
        return x * x

    def backward(self, g):
        return 2 * g * globals()["LAST"]


class InAGlobalVariable(diy.Module):
    def forward(self, x):
        global LAST
        LAST = x
        return x * x

    def backward(self, g):
        return sum(2 * g * last for last in (LAST,))


def last_input():
    return CACHE["x"]


class InAGlobalDictionary(diy.Module):
    def forward(self, x):
        CACHE["x"] = x
        return x * x

    def backward(self, g):
        return 2 * g * last_input()


def in_a_closure():
    kept = None

    class InAClosure(diy.Module):
        def forward(self, x):
            nonlocal kept
            kept = x
            return x * x

        def backward(self, g):
            return 2 * g * kept

    return InAClosure()


LAST, CACHE = None, {}
INSIDE = [InADictionary, InAList, InAnObject, InATensor, InAnArray, InAnArrayInPlace, OfAFunction, OfItsBase]
INSIDE += [UnderAComputedName, ByAPartialMethod, ByAFunctionThatIsKept, InAChild, by_a_function_in_a_closure]
OUTSIDE = [InTheClass, InAGlobalVariable, InAGlobalDictionary, InADefaultArgument, in_a_closure, InAHelper, ByGlobals]


@pytest.mark.parametrize("kind", INSIDE + OUTSIDE)
@pytest.mark.parametrize("inside", [False, True])
def test_what_a_learner_keeps_in_a_container_is_that_of_the_same_forward(kind, inside):
    module = kind()
    network = diy.Sequential(module) if inside else module
    for _ in range(2):
        network(X)
        torch.testing.assert_close(network.backward(torch.ones_like(X)), 2 * X)
    network(X)
    with torch.no_grad():
        network(OTHER)
    with pytest.raises(
        RuntimeError,
        match=r"(\.\w+|LAST|CACHE|kept|default .*)\S*( \(\d\))?, which \w+\.backward may read, was changed .* later",
    ):
        network.backward(torch.ones_like(X))


@pytest.mark.parametrize("kind", [InABuffer, InAFunction, InAPartialFunction])
@pytest.mark.parametrize("inside", [False, True])
def test_whatever_an_attribute_holds_is_that_of_the_same_forward(kind, inside):
    module = kind()
    network = diy.Sequential(diy.Tanh(), module) if inside else module
    network(X)
    with torch.no_grad():
        network(OTHER)
    S = X.tanh() if inside else X
    torch.testing.assert_close(network.backward(G3), 2 * S * G3 * (1 - S * S if inside else 1))


@pytest.mark.parametrize("kind", OUTSIDE[:3])
def test_two_modules_that_keep_their_inputs_in_one_place_are_noticed(kind):
    network = diy.Sequential(kind(), kind())
    network(X)
    with pytest.raises(RuntimeError, match=r"(\.x|LAST|CACHE)\S*, which \w+\.backward may read, was changed"):
        network.backward(torch.ones_like(X))


class Leaky(diy.Module):
    """A learner's module whose backward reads a number, a setting in a dictionary, and the mode."""

    def __init__(self):
        self.slope, self.options, self.calls, self.log = 0.1, {"scale": 1.0}, 0, []

    def forward(self, x):
        self.calls += 1
        self.log.append(x.norm())
        output = torch.where(x > 0, x, self.slope * x) * self.options["scale"]
        self.remember(output, x)
        return output

    def backward(self, g):
        g, x = self.recall(g)
        self.norm = g.norm()
        return g * torch.where(x > 0, 1.0, self.slope) * self.options["scale"] * (1 if self.training else 2)


@pytest.mark.parametrize(
    ("change", "name"),
    [
        (lambda module: setattr(module, "slope", 0.5), "Leaky.slope"),
        (lambda module: module.options.update(scale=2.0), "Leaky.options"),
        (lambda module: module.eval(), "Leaky.training"),
    ],
    ids=["number", "dictionary", "mode"],
)
def test_a_setting_that_backward_reads_must_not_change(change, name):
    module = Leaky()
    network = diy.Sequential(module)
    network(X)
    change(module)
    with pytest.raises(RuntimeError, match=rf"{name}\S*, which Leaky.backward may read, was changed"):
        network.backward(OTHER)


def test_what_backward_does_not_read_may_change():
    module = Leaky()
    network = diy.Sequential(module, module)
    network(X)
    with torch.no_grad():
        network(OTHER)
    module.verbose, module.calls = True, 0
    slopes = torch.where(X > 0, 1.0, 0.1).double()
    torch.testing.assert_close(network.backward(OTHER), OTHER * slopes * slopes, rtol=1e-7, atol=0)


class Plotting(diy.Module):
    """Its backward uses functions of libraries, which change variables of their own."""

    def forward(self, x):
        s = softmax(x, -1)
        self.remember(s, s)
        return s

    def backward(self, g):
        g, s = self.recall(g)
        plot(s.mean(0).tolist())
        return s * (g - (g * s).sum(-1, keepdim=True))


def test_libraries_may_change_what_they_like():
    network = diy.Sequential(Plotting(), Plotting())
    network(X)
    with matplotlib.rc_context({"backend": "agg"}):
        pyplot.figure()
        network.backward(G3)
        pyplot.close("all")


def test_accumulate_may_be_watched(monkeypatch):
    module, seen = Reading(), []
    module(X)
    monkeypatch.setattr(Reading, "accumulate", staticmethod(lambda parameter, gradient: seen.append(gradient)))
    assert module.backward(G3).equal(2 * G3)
    torch.testing.assert_close(seen, [(G3 * X).sum()])


def test_a_list_that_backward_empties_serves_a_module_in_two_places():
    module = InAList()
    network = diy.Sequential(module, module)
    network(X)
    torch.testing.assert_close(network.backward(torch.ones_like(X)), 4 * X**3)


def test_a_module_that_remembers_may_write_into_a_list_as_well():
    class Probe(diy.Module):
        def __init__(self, seen):
            self.seen = seen

        def forward(self, x):
            self.seen.append(output := x * x)
            self.remember(output, x)
            return output

        def backward(self, g):
            g, x = self.recall(g)
            return 2 * g * x

    seen = []
    network = diy.Sequential(Probe(seen), Probe(seen))
    network(X)
    seen.append(OTHER)
    torch.testing.assert_close(network.backward(torch.ones_like(X)), 4 * X**3)


def test_a_gradient_that_is_changed_in_place_is_nobody_elses():
    class Shift(diy.Module):
        parameter_names = ("one", "two")

        def __init__(self):
            self.one, self.two = torch.zeros_like(X), torch.zeros_like(X)

        def forward(self, x):
            return x + self.one + self.two

        def backward(self, g):
            self.accumulate(self.one, g)
            self.accumulate(self.two, g)
            return g

    module, above = Shift(), torch.ones_like(X)
    module(X)
    below = module.backward(above)
    module.one.grad.mul_(0.5)  # as clipping does
    assert all(torch.equal(g, torch.ones_like(X)) for g in (above, below, module.two.grad))


def test_prediction_and_target_in_the_wrong_order_are_noticed():
    ours, _ = pair()
    criterion = diy.MSELoss()
    loss = criterion(G, ours(X))  # the same number, and a gradient that leads uphill
    assert loss.equal(criterion(ours(X), G))
    criterion(G, ours(X))
    with pytest.raises(RuntimeError, match="the target first"):
        ours.backward(criterion.backward())
    criterion(G, ours(X).clone())  # whoever means it
    torch.testing.assert_close(criterion.backward(), 2 * (G - ours(X)) / G.numel(), rtol=1e-12, atol=1e-12)


def test_a_module_takes_one_input():
    class Product(diy.Module):
        def forward(self, a, b):
            return a * b

        def backward(self, g):
            return g

    with pytest.raises(TypeError, match="Product takes one input, got 2"):
        Product()(X, X)


def test_a_loss_of_several_numbers_has_no_backward():
    class Terms(diy.Loss):
        def forward(self, p, t):
            self.remember(terms := (p - t) ** 2, p - t)
            return terms

        def backward(self):
            return 2 * self.recall()[0]

    criterion = Terms()
    criterion(X, OTHER)
    with pytest.raises(ValueError, match=r"Terms\.forward returned \(5, 3\): a loss is one number"):
        criterion.backward()


def test_a_loss_that_does_not_call_the_constructor_is_a_mean():
    class Absolute(diy.Loss):
        def __init__(self, factor):
            self.factor = factor

        def forward(self, p, t):
            loss = self.factor * self.reduce((p - t).abs())
            self.remember(loss, p - t)
            return loss

        def backward(self):
            (d,) = self.recall()
            return self.factor * d.sign() * self.share(d)

    criterion = Absolute(3)
    assert criterion(X, OTHER).equal(3 * (X - OTHER).abs().mean())
    assert criterion.backward().equal(3 * (X - OTHER).sign() / X.numel())


def test_the_loss_in_the_place_of_its_gradient():
    ours, _ = pair()
    loss = diy.MSELoss()(ours(X), G)
    with pytest.raises(ValueError, match=r"got \(\): pass what criterion.backward\(\) returns"):
        ours.backward(loss)


def test_a_layer_of_pytorch_is_called_that():
    with pytest.raises(TypeError, match="got Linear from PyTorch; use diy's own"):
        diy.Sequential(nn.Linear(3, 2))


NOTES, SIZES, CALLS = [], {}, {"Logging": 0}


class Logging(diy.Module):
    """A module that writes down what passes: no backward depends on it."""

    def __init__(self):
        self.inside = []

    def forward(self, X):
        output = 2 * X
        self.remember(output)
        return output

    def backward(self, G):
        (G,) = self.recall(G)
        NOTES.append(G.norm())
        NOTES.extend([1, 2])
        SIZES[len(G)] = G.norm()
        CALLS[type(self).__name__] += 1
        self.inside.append(G)
        return 2 * G


def test_a_log_may_be_written_by_several_modules():
    twice = Logging()
    network = diy.Sequential(twice, Logging(), twice)
    network(torch.ones(2, 3))
    assert torch.equal(network.backward(torch.ones(2, 3)), torch.full((2, 3), 8.0))
    assert CALLS == {"Logging": 3}


class Scaling(diy.Module):
    """A module whose backward reads what any other may have written."""

    def forward(self, X):
        output = X * SCALES["now"]
        self.remember(output)
        return output

    def backward(self, G):
        (G,) = self.recall(G)
        factors = {}
        factors["now"] = SCALES["now"]
        return G * factors["now"]


SCALES = {"now": 2.0}


def test_what_backward_reads_is_no_log(monkeypatch):
    network = Scaling()
    network(torch.ones(2, 3))
    monkeypatch.setitem(SCALES, "now", 3.0)
    with pytest.raises(RuntimeError, match=r"SCALES\S*, which Scaling.backward may read, was changed"):
        network.backward(torch.ones(2, 3))


MASK = None


class Masking(diy.Module):
    def forward(self, X):
        return X.clone() if MASK is None else X * MASK

    def backward(self, G):
        kept = []
        if MASK is not None:
            kept.append(G * MASK)
        return kept[0] if kept else G


class PrivatelyScaling(diy.Module):
    def __init__(self):
        self.__scales = [1.0]

    def rescale(self):
        self.__scales[0] = 2.0

    def forward(self, X):
        return X * self.__scales[0]

    def backward(self, G):
        return G * self.__scales[0]


@pytest.mark.parametrize("kind", [Masking, PrivatelyScaling])
def test_what_decides_about_the_gradient_is_no_log(kind, monkeypatch):
    layer = kind()
    layer(torch.ones(2, 3))
    if kind is Masking:
        monkeypatch.setattr(sys.modules[__name__], "MASK", torch.zeros(2, 3))
    else:
        layer.rescale()
    with pytest.raises(RuntimeError, match=rf"which {kind.__name__}.backward may read, was changed"):
        layer.backward(torch.ones(2, 3))


def test_what_has_no_source_text_is_watched_as_well():
    names = {"Module": diy.Module}
    text = "class Scaling(Module):\n def __init__(self): self.scales = [1.0]\n"
    text += " def forward(self, X): return X * self.scales[0]\n def backward(self, G): return G * self.scales[0]\n"
    exec(text, names)
    layer = names["Scaling"]()
    layer(torch.ones(2, 3))
    assert layer.backward(torch.ones(2, 3)).equal(torch.ones(2, 3))
    layer(torch.ones(2, 3))
    layer.scales[0] = 2.0
    with pytest.raises(RuntimeError, match=r"Scaling.scales\S*, which Scaling.backward may read, was changed"):
        layer.backward(torch.ones(2, 3))


def test_a_class_that_is_added_to_the_file_itself_is_watched_as_well(tmp_path, monkeypatch):
    added = """

class Squares(Module):
    def forward(self, X):
        self.X = X
        return X * X

    def backward(self, G):
        return 2 * self.X * G
"""
    (tmp_path / "longer_diy.py").write_text(Path(diy.__file__).read_text(encoding="utf-8") + added, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    longer = importlib.import_module("longer_diy")
    net = longer.Sequential(longer.Squares(), longer.Squares())
    net(torch.tensor([1.5, 2.0]))
    assert net.backward(torch.ones(2)).tolist() == [13.5, 32.0]  # 4 x³
