"""What learners write out of habit, from PyTorch or from the assignment: it is right, or the mistake is named."""

import copy
import warnings

import pytest
import torch
from torch import nn
from torch.nn import functional

import diy

D = torch.float64


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def numbers(*shape):
    return torch.randn(*shape, dtype=D)


class ReLUInPlace(diy.Module):
    def forward(self, x):
        self.mask = x > 0
        return x * self.mask

    def backward(self, g):
        g[~self.mask] = 0
        return g


class Residual(diy.Module):
    def __init__(self, body):
        self.body = body

    def forward(self, x):
        return x + self.body(x)

    def backward(self, g):
        return g + self.body.backward(g)


def test_a_backward_may_change_its_gradient_in_place():
    body = diy.Sequential(diy.Linear(3, 3, dtype=D), ReLUInPlace())
    net = diy.Sequential(diy.Linear(3, 3, dtype=D), Residual(body), diy.Linear(3, 1, dtype=D))
    a, b, c, d, e, f = parameters = [p.clone().requires_grad_() for p in net.parameters()]
    x, g = numbers(4, 3), numbers(4, 1)
    h = functional.linear(x, a, b)
    functional.linear(h + functional.linear(h, c, d).relu(), e, f).backward(g)
    net(x)
    net.backward(given := g.clone())
    torch.testing.assert_close([p.grad for p in net.parameters()], [p.grad for p in parameters])
    assert given.equal(g)


class Dense(diy.Module):
    """A layer whose gradient is kept as in the assignment, where no network finds it."""

    def __init__(self):
        self.w, self.dw = numbers(4, 3), torch.zeros(4, 3, dtype=D)

    def forward(self, x):
        self.x = x
        return x @ self.w.mT

    def backward(self, g):
        self.dw += g.mT @ self.x
        return g @ self.w


class WithParam(Dense):
    def param(self):
        return [(self.w, self.dw)]


class WithParameters(Dense):
    def parameters(self):
        return [self.w]

    def backward(self, g):
        self.accumulate(self.w, g.mT @ self.x)
        return g @ self.w


class WithGrad(Dense):
    def backward(self, g):
        self.w.grad = g.mT @ self.x
        return g @ self.w


class Named(Dense):
    parameter_names = ("w",)


@pytest.mark.parametrize(
    ("kind", "words"),
    [(kind, "not in parameter_names") for kind in (WithParam, WithParameters, WithGrad)]
    + [(Named, r"Named\.backward gives w, a parameter, no gradient: call self\.accumulate\(self\.w, gradient\)")],
)
def test_a_layer_that_its_network_would_not_train_is_noticed(kind, words):
    net = diy.Sequential(kind(), diy.Tanh())
    net(numbers(5, 3))
    with pytest.raises(RuntimeError, match=words):
        net.backward(numbers(5, 4))


def test_values_copied_from_pytorch_bring_no_graph():
    layer, theirs = diy.Linear(3, 2), nn.Linear(3, 2)
    layer.weight.copy_(theirs.weight)
    layer.bias = 2 * theirs.bias
    layer(torch.ones(1, 3))
    layer.backward(torch.ones(1, 2))
    assert layer.weight.is_leaf and layer.weight.grad.is_leaf and layer.bias.is_leaf
    diy.SGD(layer.parameters(), lr=0.1)


class Wrapped(diy.Module):
    """A layer of PyTorch's, with the gradients that autograd computes."""

    parameter_names = ("weight", "bias")

    def __init__(self, layer):
        self.weight, self.bias = layer.parameters()

    def forward(self, X):
        X = X.detach().requires_grad_()
        S = functional.linear(X, self.weight, self.bias)
        self.remember(S, X, S)
        return S

    def backward(self, G):
        G, X, S = self.recall(G)
        dW, db, dX = torch.autograd.grad(S, (self.weight, self.bias, X), G)
        self.accumulate(self.weight, dW)
        self.accumulate(self.bias, db)
        return dX


@pytest.mark.parametrize("inside", [False, True])
def test_a_learners_module_may_use_automatic_differentiation(inside):
    theirs = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).double()
    ours = diy.Sequential(diy.Linear(3, 4, dtype=D), diy.Tanh(), Wrapped(copy.deepcopy(theirs[2])))
    if inside:
        ours = diy.Sequential(ours)
    for one, other in zip(ours.parameters(), theirs.parameters()):
        one.detach().copy_(other.detach())
    X, G = numbers(5, 3).requires_grad_(), numbers(5, 2)
    theirs(X).backward(G)
    output = ours(X.detach())
    torch.testing.assert_close(ours.backward(G), X.grad)
    for one, other in zip(ours.parameters(), theirs.parameters()):
        torch.testing.assert_close(one.grad, other.grad)
    assert output.is_leaf and not output.requires_grad


@pytest.mark.parametrize("inside", [False, True])
def test_autograd_in_a_learners_module_knows_every_kind_of_tensor(inside):
    class Twice(diy.Module):
        def forward(self, X):
            X = X.detach().requires_grad_()
            S = X + X.to_mkldnn().to_dense()
            self.remember(S, X, S)
            return S

        def backward(self, G):
            G, X, S = self.recall(G)
            return torch.autograd.grad(S, X, G)[0]

    net = diy.Sequential(Twice()) if inside else Twice()
    net(torch.ones(1, 2))
    assert net.backward(torch.ones(1, 2)).tolist() == [[2, 2]]


def test_a_learners_optimizer_may_differentiate_and_ask_a_network():
    net = diy.Linear(2, 1)

    class Curved(diy.Optimizer):
        def direction(self, g, w):
            net(7 * torch.ones(1, 2))
            with torch.enable_grad():
                v = w.detach().requires_grad_()
                return torch.autograd.grad((v**3).sum(), v)[0]

    w = torch.ones(2)
    w.grad = torch.ones(2)
    net(torch.ones(1, 2))
    Curved([w], lr=0.1).step()
    assert w.tolist() == pytest.approx([0.7, 0.7])
    net.backward(torch.ones(1, 1))
    assert net.weight.grad.tolist() == [[1, 1]]  # as the forward in between was no training


def test_a_forward_may_go_back_itself_and_remember_more():
    class Steep(diy.Module):
        def __init__(self):
            self.first, self.second = diy.Tanh(), diy.Tanh()

        def forward(self, X):
            slope = self.first.backward(self.second.backward(torch.ones_like(self.second(self.first(X)))))
            self.remember(X, X)
            (kept,) = self.recall()
            self.remember(X, kept.clone(), slope)
            return slope * X

        def backward(self, G):
            G, _, slope = self.recall(G)
            return G * slope  # as if the slope did not depend on X

    for net in Steep(), diy.Sequential(Steep(), Steep()):
        X = numbers(3, 2)
        output = net(X)
        assert net.backward(torch.ones_like(X)).shape == output.shape


def test_a_momentum_of_another_shape_than_its_parameter_is_refused():
    w = torch.zeros(3)
    w.grad = torch.ones(3)
    optimizer = diy.SGD([w], lr=1.0, momentum=0.9)
    w.data = torch.zeros(2, 3)
    with pytest.raises(ValueError, match=r"must return a tensor of its parameter's shape, \(2, 3\), got"):
        optimizer.step()


def test_a_setting_that_takes_anothers_place_is_seen():
    w = torch.zeros(3)
    w.grad = torch.ones(3)
    optimizer = diy.SGD([w], lr=1.0, momentum=0.9, nesterov=True)
    optimizer.step()
    (group,) = optimizer.param_groups
    del group["nesterov"]
    group["maximize"] = True
    with pytest.raises(ValueError, match="SGD does not support maximize=True"):
        optimizer.step()


@pytest.mark.parametrize("asked", ["input", "weight"])
def test_no_formula_builds_a_graph(asked):
    theirs = nn.Linear(3, 2)
    net = diy.Sequential(diy.Linear(3, 2), diy.ReLU())
    if asked == "weight":
        net[0].weight = theirs.weight
    output = net(torch.ones(4, 3, requires_grad=asked == "input"))
    result = net.backward(torch.ones(4, 2))
    assert not any(tensor.requires_grad for tensor in (output, result, net[0].bias, net[0].weight.grad))


def test_memory_is_for_forward_and_backward_alone():
    layer = diy.Tanh()
    with pytest.raises(RuntimeError, match=r"self\.remember belongs in forward: Tanh was outside of it"):
        layer.remember(torch.ones(2), torch.ones(2))
    layer(torch.ones(2))
    with pytest.raises(RuntimeError, match=r"self\.recall belongs in backward: Tanh was outside of it"):
        layer.recall(torch.ones(2))
    layer.backward(torch.ones(2))


@pytest.mark.parametrize("stacked", [True, False])
def test_a_stack_needs_the_loss_of_a_stack_and_no_other_network_does(stacked):
    networks = [diy.Linear(3, 1, dtype=D) for _ in range(4)]
    net = networks[0] if stacked else diy.stack(networks)
    criterion = diy.MSELoss(stacked=stacked)
    criterion(net(numbers(4, 5, 3)), numbers(4, 5, 1))
    with pytest.raises(ValueError, match=f"a loss with stacked={stacked}: make the loss with stacked={not stacked}"):
        net.backward(criterion.backward())


def test_the_masks_of_a_learners_module_are_pytorchs_whatever_the_order_in_memory():
    class Through(diy.Module):
        def __init__(self):
            self.dropout = diy.Dropout(0.5)

        def forward(self, X):
            return self.dropout(X)

        def backward(self, G):
            return self.dropout.backward(G)

    X = torch.ones(4, 5, 3).permute(2, 0, 1)
    torch.manual_seed(3)
    expected = functional.dropout(X, 0.5)
    torch.manual_seed(3)
    assert diy.Sequential(Through())(X).equal(expected)


def test_the_output_of_a_stack_can_be_viewed():
    net = diy.stack([diy.Sequential(diy.Linear(3, 2), diy.Tanh()) for _ in range(4)])
    assert net(torch.ones(4, 5, 3)).view(-1).shape == (40,)


def test_the_loss_of_a_stack_of_terms_without_further_dimensions():
    class Mine(diy.Loss):
        def forward(self, prediction, target):
            return self.reduce((prediction - target).abs().mean((1, 2)))

        def backward(self):
            raise NotImplementedError

    assert Mine(stacked=True)(numbers(3, 4, 2), numbers(3, 4, 2)).shape == (3,)


def test_data_changed_in_place_between_forward_and_backward_is_noticed():
    net = diy.Sequential(diy.Linear(3, 2, dtype=D), diy.Linear(2, 2, dtype=D))
    net(numbers(4, 3))
    net[1].weight.data.add_(1)
    with pytest.raises(RuntimeError, match="changed in place"):
        net.backward(numbers(4, 2))


def scaled_in_place(gradient):
    gradient /= 4
    return gradient


@pytest.mark.parametrize("scale", [scaled_in_place, lambda g: g / 4, lambda g: g * 0.25, lambda g: 0.5 * (g / 2)])
def test_a_scaled_gradient_is_that_of_its_own_forward(scale):
    net, criterion, x, y = diy.Linear(3, 2, dtype=D), diy.MSELoss(), numbers(4, 3), numbers(4, 2)
    criterion(net(x), y)
    right = criterion.backward().clone() / 4
    criterion(net(x), y)
    assert net.backward(scale(criterion.backward())).equal(right @ net.weight)
    criterion(net(x), y)
    gradient = scale(criterion.backward())
    assert str(gradient) == str(right)
    net(numbers(4, 3))
    with pytest.raises(RuntimeError, match="not that of the last output"):
        net.backward(gradient)


def test_a_replaced_weight_is_noticed_if_the_network_forgets_the_gradients():
    net = diy.Sequential(diy.Linear(3, 2, dtype=D))
    optimizer = diy.SGD(net.parameters(), lr=0.1)

    def train():
        net.zero_grad()
        net(numbers(4, 3))
        net.backward(numbers(4, 2))
        optimizer.step()

    train()
    net[0].weight = numbers(2, 3)
    with pytest.raises(RuntimeError, match="replaced"):
        train()


def test_modules_deep_in_a_list_are_noticed():
    class Mine(Dense):
        def __init__(self):
            super().__init__()
            self.blocks = [(diy.Dropout(), diy.Tanh())]

    with pytest.raises(TypeError, match=r"Mine\.blocks holds modules in a list"):
        Mine().eval()


def test_minus_zero_is_printed_as_zero():
    layer = diy.ReLU()
    layer(torch.tensor([-1.0, 2.0]))
    assert str(layer.backward(torch.tensor([-3.0, 4.0]))) == "tensor([0., 4.])"


def test_running_variance_in_half_precision_does_not_overflow():
    mine, theirs = diy.BatchNorm2d(1, dtype=torch.float16), nn.BatchNorm2d(1, dtype=torch.float16)
    for _ in range(2):
        x = (300 * torch.randn(8, 1, 8, 8)).half()
        mine(x), theirs(x)
    torch.testing.assert_close(mine.running_var, theirs.running_var, rtol=1e-2, atol=0)  # float16 has 11 bits


@pytest.mark.parametrize("eps", [1e-7, 2e-7])
def test_adam_in_half_precision_leaves_a_weight_without_gradient(eps):
    w, v = torch.ones(2).half(), nn.Parameter(torch.ones(2).half())
    mine, theirs = diy.Adam([w], lr=0.1, eps=eps), torch.optim.Adam([v], lr=0.1, eps=eps)
    w.grad, v.grad = torch.tensor([0.0, 1.0]).half(), torch.tensor([0.0, 1.0]).half()
    mine.step(), theirs.step()
    torch.testing.assert_close(w, v.data)


# Right, and taken


HISTORY = {"loss": [], "norm": []}


class Logging(diy.Module):
    def __init__(self, log):
        self.log, self.calls, self.seen = log, 0, set()

    def forward(self, x):
        self.x = x
        self.calls += 1
        return x.sin()

    def backward(self, g):
        if self.log is not None:
            self.log["norm"].append(g.norm().item())
        self.log.setdefault("size", []).append(g.numel())
        self.seen.add(g.shape)
        self.calls += 1
        return g * self.x.cos()


class LoggingGlobally(Logging):
    def backward(self, g):
        HISTORY["norm"].append(g.norm().item())
        return g * self.x.cos()


@pytest.mark.parametrize("kind", [Logging, LoggingGlobally])
def test_a_log_of_several_lists_and_a_counter_may_be_written(kind):
    layer, criterion = kind(HISTORY), diy.MSELoss()
    net = diy.Sequential(layer, diy.Linear(3, 3, dtype=D), layer)
    HISTORY["loss"].append(criterion(net(numbers(4, 3)), numbers(4, 3)).item())
    with torch.no_grad():
        net(numbers(4, 3))
    net.backward(criterion.backward())


def test_calling_train_in_training_mode_changes_nothing():
    class Drop(diy.Module):
        def forward(self, x):
            self.m = torch.rand_like(x) > 0.5
            return x * self.m if self.training else x

        def backward(self, g):
            return g * self.m if self.training else g

    net = diy.Sequential(diy.Linear(3, 3, dtype=D), Drop())
    net(numbers(4, 3))
    net.train()
    net.backward(numbers(4, 3))


@pytest.mark.parametrize("target", [True, 1.0, None, [1.0, 2.0], (torch.ones(3, 1), torch.ones(3, 1))])
def test_a_learners_loss_takes_any_target(target):
    class Mine(diy.Loss):
        def forward(self, prediction, target):
            self.p = prediction
            return prediction.square().mean()

        def backward(self):
            return 2 * self.p / self.p.numel()

    criterion = Mine()
    criterion(torch.ones(3, 1), target)
    assert criterion.backward().equal(torch.full((3, 1), 2 / 3))


def test_arguments_may_be_given_by_name():
    class Masked(diy.Module):
        def forward(self, x, mask=1.0):
            self.mask = mask
            return x * mask

        def backward(self, g):
            return g * self.mask

    masked, x, mask = Masked(), numbers(2, 3), numbers(2, 3)
    assert masked.forward(x, mask=mask).equal(x * mask)
    assert masked.backward(g=x).equal(x * mask)
    layer, criterion = diy.Linear(3, 2, dtype=D), diy.MSELoss()
    criterion.forward(layer.forward(X=x), T=numbers(2, 2))
    layer.backward(G=criterion.backward())


@pytest.mark.parametrize("method", ["forward", "backward"])
def test_a_method_given_to_a_class_later_is_watched_like_any_other(method):
    class Mine(diy.Module):
        if method == "backward":

            def forward(self, x):
                self.x = x
                return x.sin()

        else:

            def backward(self, g):
                return g * self.x.cos()

    def forward(self, x):
        self.x = x
        return x.sin()

    def backward(self, g):
        return g * self.x.cos()

    setattr(Mine, method, locals()[method])
    layer, x, g = Mine(), numbers(4, 3), numbers(4, 3)
    layer(x)
    with torch.no_grad():
        layer(g)
    torch.testing.assert_close(layer.backward(g), g * x.cos())


def test_networks_that_have_run_can_be_stacked():
    class Mine(diy.Module):
        stackable = True

        def forward(self, x):
            self.x = x
            return x.sin()

        def backward(self, g):
            return g * self.x.cos()

    networks = [diy.Sequential(diy.Linear(3, 2, dtype=D), Mine()) for _ in range(2)]
    for net in networks:
        net(numbers(4, 3))
    assert diy.stack(networks)(numbers(2, 4, 3)).shape == (2, 4, 2)


def test_a_state_of_an_older_pytorch_is_loaded():
    optimizer = diy.SGD(diy.Linear(3, 2).parameters(), lr=0.1)
    state = optimizer.state_dict()
    state["state"] = {0: {"momentum_buffer": None}, 1: {"momentum_buffer": None}}
    optimizer.load_state_dict(state)
    optimizer.step()


def test_images_can_be_viewed_as_in_pytorch():
    class Flat(diy.Module):
        def forward(self, x):
            self.shape = x.shape
            return x.view(len(x), -1)

        def backward(self, g):
            return g.view(self.shape)

    layer, net = (
        diy.Conv2d(1, 2, 3, padding=1, dtype=D),
        diy.Sequential(diy.Conv2d(1, 2, 3, padding=1, dtype=D), Flat()),
    )
    images = numbers(2, 1, 4, 4)
    output = layer(images)
    assert layer.backward(torch.ones_like(output).view_as(output)).view(2, -1).shape == (2, 16)
    assert output.view(2, -1).shape == net(images).shape == (2, 32)
    net.backward(numbers(2, 32))


# Messages


@pytest.mark.parametrize(
    ("words", "action"),
    [
        (r"Sequential\.forward: missing a required argument: 'X'; it takes X", lambda net, c, x: net.forward()),
        (r"Sequential\.forward: too many positional arguments; it takes X", lambda net, c, x: net.forward(x, x)),
        (r"MSELoss\.forward: missing a required argument: 'T'; it takes P, T", lambda net, c, x: c.forward(x)),
        (r"unexpected keyword argument 'retain_graph'", lambda net, c, x: net.backward(x, retain_graph=True)),
        ("reshape the target instead", lambda net, c, x: (c(net(x).squeeze(), x[0, 0]), net.backward(c.backward()))),
        ("only as None, got a tensor$", lambda net, c, x: diy.CrossEntropyLoss(weight=torch.ones(2))),
        ("weight is a parameter of Linear and must be a tensor", lambda net, c, x: setattr(net[0], "weight", None)),
        ("parameters is a method of every Linear", lambda net, c, x: setattr(net[0], "parameters", [x])),
        ("requires_grad always reads False", lambda net, c, x: diy.SGD([p for p in x if p.requires_grad], 0.1)),
        ("call it, criterion.backward", lambda net, c, x: (c(net(x), x[:, :1]), net.backward(c.backward))),
        ("called again since", lambda net, c, x: (c(net(x), x[:, :1]), net(x[:0]), net.backward(c.backward()))),
        ("train is a method of every Sequential", lambda net, c, x: setattr(net, "train", False)),
        (".long", lambda net, c, x: diy.CrossEntropyLoss()(torch.ones(1, 3), x)),
    ],
)
def test_a_message_names_the_mistake(words, action):
    with pytest.raises((AttributeError, TypeError, ValueError), match=words):
        action(diy.Sequential(diy.Linear(3, 1)), diy.MSELoss(), torch.ones(1, 3))


# Classes derived from a layer, with a forward of their own


class Doubled(diy.Linear):
    def forward(self, x):
        return 2 * super().forward(x)


class OfTwice(diy.Linear):
    def forward(self, x):
        return super().forward(2 * x)


class DoubledInPlace(diy.Tanh):
    def forward(self, x):
        output = super().forward(x)
        output += x
        return output


class Skip(diy.Sequential):
    def forward(self, x):
        return x + super().forward(x)


class SkipByHand(diy.Sequential):
    def forward(self, x):
        output = x
        for layer in self:
            output = layer(output)
        return x + output


class Logged(diy.Linear):
    def forward(self, x):
        output = super().forward(x)
        self.size = output.norm().item()
        return output


class Mixin:
    def forward(self, x):
        self.calls = getattr(self, "calls", 0) + 1
        return super().forward(x)


class Mixed(Mixin, diy.Linear):
    pass


class Rewritten(diy.Linear):
    def forward(self, X):
        S = X @ self.weight.T + self.bias
        self.remember(S, X, self.weight)
        return S

    def backward(self, G):
        return super().backward(G)


class OfDoubled(Doubled):
    pass


class Leaky(diy.ReLU):
    def forward(self, S):
        X = torch.where(S > 0, S, 0.1 * S)
        self.remember(X, X)
        return X


class Averaging(diy.Tanh):
    def forward(self, S):
        return super().forward(S).mean(1, keepdim=True)


class LowRank(diy.Linear):
    parameter_names = ("weight", "bias", "low")

    def __init__(self, *sizes, dtype):
        super().__init__(*sizes, dtype=dtype)
        self.low = torch.zeros(3, 3, dtype=dtype)

    def forward(self, x):
        return super().forward(x) + x @ self.low


class Squashed(Residual):
    def __init__(self):
        super().__init__(diy.Linear(3, 3, dtype=D))

    def forward(self, x):
        return super().forward(x).tanh()


class Looped(diy.Sequential):
    def forward(self, x):
        self.activations = []
        for layer in self:
            x = layer(x)
            self.activations.append(x)
        return x

    def backward(self, G):
        return super().backward(G)


def alone_and_below(module):
    return [module, diy.Sequential(diy.Linear(3, 3, dtype=D), module, diy.Tanh())]


MISFITS = [Doubled, OfTwice, DoubledInPlace, Skip, SkipByHand, OfDoubled, Leaky, Averaging, LowRank, Squashed]


@pytest.mark.parametrize("kind", MISFITS)
def test_a_forward_of_ones_own_needs_a_backward_of_its_own(kind):
    module = kind(3, 3, dtype=D) if issubclass(kind, diy.Linear) else kind()
    if isinstance(module, diy.Sequential):
        module.append(diy.Linear(3, 3, dtype=D)).append(diy.Tanh())
    for network in alone_and_below(module):
        output = network(numbers(4, 3))
        with pytest.raises(RuntimeError, match=f"{kind.__name__}.*(write a backward as well|was changed in place)"):
            network.backward(torch.ones_like(output))
        assert all(parameter.grad is None for parameter in module.parameters())


@pytest.mark.parametrize("kind", [Logged, Mixed, Rewritten, Looped])
def test_a_forward_that_passes_on_what_it_gets_needs_none(kind):
    layer = diy.Linear(3, 3, dtype=D)
    module = kind(layer, diy.Tanh()) if kind is Looped else kind(3, 3, dtype=D)
    plain = diy.Sequential(layer, diy.Tanh()) if kind is Looped else layer
    for ours, theirs in zip(alone_and_below(module), alone_and_below(plain)):
        theirs.load_state_dict(ours.state_dict())
        X = numbers(4, 3)
        G = torch.ones_like(ours(X))
        gradient = ours.backward(G)
        own = [parameter.grad for parameter in ours.parameters()]
        ours.zero_grad()
        theirs(X)
        torch.testing.assert_close(gradient, theirs.backward(G))
        torch.testing.assert_close(own, [parameter.grad for parameter in theirs.parameters()])
        theirs.zero_grad()


def test_the_same_for_losses():
    class Root(diy.MSELoss):
        def forward(self, p, t):
            return super().forward(p, t).sqrt()

    class Tenth(diy.MSELoss):
        def reduce(self, terms):
            return terms.sum() / 10

    class Rounded(diy.MSELoss):
        def forward(self, p, t):
            return super().forward(p, t.round())

    class Hundredth(diy.MSELoss):
        def reduce(self, terms):
            return terms.sum() / 100

        def share(self, terms):
            return 1 / 100

    P, T = numbers(4, 3), numbers(4, 3)
    for kind, words in ((Root, "Root has a forward of its own.*backward"), (Tenth, "a backward and a share as well")):
        criterion = kind()
        criterion(P, T)
        with pytest.raises(RuntimeError, match=words):
            criterion.backward()
    for kind, expected in ((Rounded, (P - T.round()) / 6), (Hundredth, (P - T) / 50)):
        criterion = kind()
        criterion(P, T)
        torch.testing.assert_close(criterion.backward(), expected)


def test_the_forward_of_one_object_cannot_be_replaced_nor_call_defined():
    layer = diy.Linear(3, 3)
    before = layer.forward
    with pytest.raises(AttributeError, match="write a class with a forward and a backward"):
        layer.forward = lambda x: 2 * before(x)
    with pytest.raises(TypeError, match="networks call forward"):

        class Twice(diy.Linear):
            def __call__(self, x):
                return 2 * super().__call__(x)


# Where the chain rule would have to go elsewhere


@pytest.mark.parametrize("transform", ["grad", "vjp", "jacrev", "jacfwd", "jvp"])
def test_the_transforms_of_pytorch_are_refused(transform):
    network, criterion = diy.Sequential(diy.Linear(3, 1, dtype=D), diy.Tanh()), diy.MSELoss()
    X, T = numbers(4, 3), numbers(4, 1)
    for function, x in ((lambda x: network(x).sum(), X), (lambda p: criterion(p, T), T + 1)):
        with pytest.raises(RuntimeError, match=r"torch\.func can't differentiate diy's modules"):
            if transform == "jvp":
                torch.func.jvp(function, (x,), (x,))
            else:
                getattr(torch.func, transform)(function, *([x] if transform == "vjp" else []))(x)


def test_prediction_and_target_of_the_same_network():
    network, other, criterion = diy.Linear(3, 2), diy.Linear(3, 2), diy.MSELoss()
    X, Z = torch.randn(4, 3), torch.randn(4, 3)
    target, prediction = network(Z), network(X)
    with pytest.raises(RuntimeError, match="no gradient goes back through the target"):
        criterion(prediction, target)
    criterion(prediction, target.detach())
    network.backward(criterion.backward())
    with torch.no_grad():
        target = network(Z)
    criterion(network(X), target)
    network.backward(criterion.backward())
    criterion(network(X), other(X))  # a teacher, which is not trained
    assert network.backward(criterion.backward()) is not None


@pytest.mark.parametrize("kind", [diy.SGD, diy.Adam])
def test_a_step_that_no_backward_came_before_says_so(kind):
    network, criterion = diy.Linear(3, 1), diy.MSELoss()
    optimizer = kind(network.parameters(), lr=0.1)
    before = network.weight.clone()
    criterion(network(torch.ones(2, 3)), torch.zeros(2, 1))
    criterion.backward()  # in PyTorch, loss.backward() would have been enough
    with pytest.warns(UserWarning, match=r"call model\.backward\(criterion\.backward\(\)\)"):
        optimizer.step()
    assert torch.equal(network.weight, before)
    criterion(network(torch.ones(2, 3)), torch.zeros(2, 1))
    network.backward(criterion.backward())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        optimizer.step()


class Flat(diy.Linear):
    def forward(self, x):
        self.shape = x.shape
        return super().forward(x.flatten(1))

    def backward(self, G):
        return super().backward(G).view(self.shape)


def test_a_layer_may_take_another_shape_and_give_it_to_the_one_it_is_derived_from():
    layer, twin = Flat(12, 2, dtype=D), diy.Sequential(diy.Flatten(), diy.Linear(12, 2, dtype=D))
    layer.weight.copy_(twin[1].weight)
    X, G = numbers(4, 3, 2, 2), numbers(4, 2)
    torch.testing.assert_close(layer(X), twin(X))
    torch.testing.assert_close(layer.backward(G), twin.backward(G))
    with pytest.raises(ValueError, match=r"expected an input of shape \(\.\.\., 12\)"):
        layer(numbers(4, 3))


def test_a_child_decides_on_its_own_mode():
    class AlwaysEvaluated(diy.BatchNorm2d):
        def train(self, mode=True):
            return super().train(False)

    network = diy.Sequential(diy.Dropout(), AlwaysEvaluated(2)).train()
    assert (network[0].training, network[1].training) == (True, False)


def test_an_optimizer_of_ones_own_may_ask_for_a_state_that_is_not_there_yet():
    class Momentum(diy.Optimizer):
        def direction(self, g, w):
            state = self.state[w]
            state["v"] = 0.9 * state.get("v", 0) + g
            return state["v"]

    w = torch.zeros(2)
    optimizer = Momentum([w], lr=1)
    for expected in (-1.0, -2.9):
        w.grad = torch.ones(2)
        optimizer.step()
        torch.testing.assert_close(w, torch.full((2,), expected))
    optimizer.load_state_dict(diy.SGD([w], lr=1).state_dict())
    assert optimizer.state[w] == {}


def test_gradients_of_two_outputs_are_not_joined_and_those_of_one_are():
    network, one, other = diy.Linear(3, 1, dtype=D), diy.MSELoss(), diy.MSELoss()
    X, Z, T = numbers(4, 3), numbers(4, 3), numbers(4, 1)

    def in_place(a, b):
        a += b
        return a

    for join in (lambda a, b: a + b, lambda a, b: sum([a, b]), lambda a, b: a - b, in_place):
        one(network(X), T), other(network(Z), T)
        with pytest.raises(RuntimeError, match=r"call model\.backward for each"):
            join(one.backward(), other.backward())
        output = network(X)
        one(output, T), other(output, 2 * T)
        gradients = one.backward(), other.backward()
        plain = [gradient.detach().clone() for gradient in gradients]
        network.zero_grad()
        network.backward(join(*gradients))
        torch.testing.assert_close(network.weight.grad, join(*plain).mT @ X)


@pytest.mark.parametrize("gradient", [[5.0, 1.0, 1.0], [5.0, 1.0, float("inf")]])
def test_a_nan_in_the_input_of_relu_passes_the_gradient_as_in_pytorch(gradient):
    S, G = torch.tensor([float("nan"), -1.0, 2.0], requires_grad=True), torch.tensor(gradient)
    (expected,) = torch.autograd.grad(functional.relu(S), S, G)
    layer = diy.ReLU()
    layer(S.detach())
    torch.testing.assert_close(layer.backward(G), expected)


@pytest.mark.parametrize(
    "join", [lambda a, b: a + b, lambda a, b: sum([a, b]) / 2, lambda a, b: 0.5 * a + b * 0.5, lambda a, b: b + a]
)
def test_a_sum_of_two_calls_of_a_loss_has_no_backward(join):
    network, criterion, other = diy.Linear(3, 1, dtype=D), diy.MSELoss(), diy.MSELoss()
    X, Z, T = numbers(4, 3), numbers(4, 3), numbers(4, 1)
    loss = join(criterion(network(X), T), criterion(network(Z), T))
    with pytest.raises(RuntimeError, match="added to that of an earlier call of this MSELoss"):
        network.backward(criterion.backward())
    with pytest.raises(RuntimeError, match=r"loss / 4, model\.backward\(criterion\.backward\(\) / 4\)"):
        (loss / 4).backward()
    # Each with its backward, two criteria, and a log are right.
    total = 0.0
    for x in (X, Z):
        loss = criterion(network(x), T)
        total = total + loss
        network.backward(criterion.backward())
    output = network(X)
    join(criterion(output, T), other(output, 2 * T))
    network.backward(criterion.backward() + other.backward())
    evaluated = sum(criterion(network(x), T) for x in (X, Z))
    assert evaluated.shape == total.shape == ()
    criterion(network(X), T)
    network.backward(criterion.backward())
