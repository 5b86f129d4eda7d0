"""The corners of PyTorch's interface: names, values at the edge, defaults given explicitly, freezing."""

import copy
import inspect
import io
import math

import numpy as np
import pytest
import torch
from torch import nn

import diy

COUNTERPARTS = {
    **{name: getattr(nn, name) for name in ("Linear", "ReLU", "Tanh", "Sigmoid", "Dropout", "Conv2d", "MaxPool2d")},
    **{name: getattr(nn, name) for name in ("BatchNorm2d", "Flatten", "MSELoss", "CrossEntropyLoss")},
    **{name: getattr(torch.optim, name) for name in ("SGD", "Adam")},
    "CosineAnnealingLR": torch.optim.lr_scheduler.CosineAnnealingLR,
    "kaiming_normal_": nn.init.kaiming_normal_,
}
REQUIRED = {
    "Linear": (3, 2),
    "Conv2d": (1, 2, 3),
    "MaxPool2d": (2,),
    "BatchNorm2d": (3,),
    "SGD": lambda: ([torch.zeros(2)],),
    "Adam": lambda: ([torch.zeros(2)],),
    "CosineAnnealingLR": lambda: (diy.SGD([torch.zeros(2)], lr=0.1), 5),
    "kaiming_normal_": lambda: (torch.zeros(2, 2),),
}


def required(name):
    given = REQUIRED.get(name, ())
    return given() if callable(given) else given


def defaults(counterpart):
    parameters = inspect.signature(counterpart).parameters.values()
    return {p.name: p.default for p in parameters if p.default is not inspect.Parameter.empty}


@pytest.mark.parametrize(
    ("name", "argument"), [(name, argument) for name, theirs in COUNTERPARTS.items() for argument in defaults(theirs)]
)
def test_pytorchs_default_given_explicitly_is_accepted(name, argument):
    getattr(diy, name)(*required(name), **{argument: defaults(COUNTERPARTS[name])[argument]})


@pytest.mark.parametrize("name", COUNTERPARTS)
def test_pytorchs_defaults_are_accepted_by_position(name):
    theirs = inspect.signature(COUNTERPARTS[name]).parameters.values()
    given = required(name)
    positional = [p.default for p in theirs if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)][len(given) :]
    getattr(diy, name)(*given, *positional)


def test_an_infinite_gradient_where_relu_is_off_is_zero():
    for library in (diy, nn):
        relu, x = library.ReLU(), torch.tensor([math.nan, -1.0, 2.0, 0.0])
        g = torch.tensor([5.0, math.inf, math.inf, math.nan])
        if library is diy:
            relu(x)
            ours = relu.backward(g)
        else:
            x.requires_grad_()
            relu(x).backward(g)
    torch.testing.assert_close(ours, x.grad, rtol=0, atol=0, equal_nan=True)


def test_a_loss_says_what_to_write_instead_of_its_backward_and_is_an_ordinary_number_otherwise():
    loss = diy.MSELoss()(torch.tensor([1.5, 0.5]), torch.tensor([1.0, 1.0]))
    with pytest.raises(RuntimeError, match=r"instead of loss.backward\(\), write model.backward\(criterion.backward"):
        loss.backward()
    assert (f"{loss}", f"{loss:.3f}", str(loss)) == ("0.25", "0.250", "tensor(0.2500)")
    file = io.BytesIO()
    torch.save({"loss": loss}, file)
    file.seek(0)
    loaded = torch.load(file, weights_only=True)["loss"]
    for tensor in (loss.sqrt(), copy.deepcopy(loss), loaded, torch.stack([loss, loss])):
        assert type(tensor) is torch.Tensor
    assert loaded == copy.deepcopy(loss) == loss == 0.25


@pytest.mark.parametrize("name", ["Tanh", "Sigmoid", "MaxPool2d"])
def test_infinite_gradients_are_pytorchs(name):
    arguments = (2,) if name == "MaxPool2d" else ()
    ours, theirs = getattr(diy, name)(*arguments), getattr(nn, name)(*arguments)
    x = torch.tensor([[0.0, 1.0, -200.0, 200.0], [3.0, 1.0, 2.0, 2.0]])[None, None]
    leaf = x.clone().requires_grad_()
    output = theirs(leaf)
    g = torch.full(output.shape, math.inf)
    output.backward(g)
    ours(x)
    torch.testing.assert_close(ours.backward(g), leaf.grad, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("gradient", [300.0, 1e3])
def test_adam_in_half_precision_does_not_overflow(gradient):
    tensors = [torch.ones(2, dtype=torch.float16) for _ in range(2)]
    ours, theirs = diy.Adam(tensors[:1], lr=0.1), torch.optim.Adam(tensors[1:], lr=0.1)
    for _ in range(3):
        for tensor, optimizer in zip(tensors, (ours, theirs)):
            tensor.grad = torch.full_like(tensor, gradient)
            optimizer.step()
    torch.testing.assert_close(*tensors, rtol=2**-10, atol=0)  # the last bit of float16


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_batch_normalization_in_half_precision_does_not_overflow(dtype):
    x = (300 * torch.randn(4, 3, 5, 5)).to(dtype)
    ours, theirs = diy.BatchNorm2d(3, dtype=dtype), nn.BatchNorm2d(3, dtype=dtype)
    leaf = x.clone().requires_grad_()
    expected = theirs(leaf)
    expected.backward(x)
    # A few units in the last place of a number of size 3, and of 1e3 in sums of a hundred.
    torch.testing.assert_close(ours(x), expected, rtol=2e-2, atol=2e-2)
    torch.testing.assert_close(ours.backward(x), leaf.grad, rtol=2e-2, atol=2)


@pytest.mark.parametrize("dtype", [torch.int64, torch.complex64, torch.bool])
@pytest.mark.parametrize(
    "build",
    [
        lambda d: diy.Linear(2, 2, dtype=d),
        lambda d: diy.Conv2d(1, 1, 1, dtype=d),
        lambda d: diy.BatchNorm2d(2, dtype=d),
    ],
)
def test_parameters_need_a_floating_point_dtype(build, dtype):
    with pytest.raises(TypeError, match="parameters need a floating-point dtype"):
        build(dtype)


@pytest.mark.parametrize(
    "layers",
    [
        lambda m: [m.Conv2d(1, 2, 3)],
        lambda m: [m.MaxPool2d(2)],
        lambda m: [m.Conv2d(1, 2, 3), m.ReLU()],
        lambda m: [m.Conv2d(1, 2, 3), m.Flatten()],
        lambda m: [m.MaxPool2d(2), m.Flatten(), m.ReLU()],
        lambda m: [m.Conv2d(1, 2, 3), m.Flatten(2)],
    ],
)
def test_masks_are_pytorchs_behind_layers_for_images_as_well(layers):
    x = torch.randn(4, 1, 6, 6)
    ours, theirs = (m.Sequential(*layers(m), m.Dropout(0.5)) for m in (diy, nn))
    theirs.load_state_dict(ours.state_dict())
    torch.manual_seed(3)
    got = ours(x)
    torch.manual_seed(3)
    torch.testing.assert_close(got, theirs(x).detach(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "change",
    [
        lambda layers: layers.append(diy.Linear(3, 2)),
        lambda layers: layers.insert(0, diy.Linear(3, 3)),
        lambda layers: layers.__setitem__(slice(1, None), []),
    ],
    ids=["one more", "one before", "one less"],
)
def test_layers_that_are_changed_by_hand_are_all_trained(change):
    net = diy.Sequential(diy.Linear(3, 3), diy.Linear(3, 3))
    change(net.layers)
    assert list(net.state_dict()) == [f"{i}.{name}" for i in range(len(net)) for name in ("weight", "bias")]
    assert list(net.append(diy.Linear(2, 1)).state_dict())[-1] == f"{len(net) - 1}.bias"


def test_a_slice_keeps_the_names_of_the_whole():
    ours, theirs = (m.Sequential(m.Linear(2, 3), m.Tanh(), m.Linear(3, 1)) for m in (diy, nn))
    assert list(ours[1:].state_dict()) == list(theirs[1:].state_dict()) == ["2.weight", "2.bias"]
    theirs[1:].load_state_dict(ours[1:].state_dict())
    ours[1:].load_state_dict(theirs[1:].state_dict())
    assert list(ours[1:].append(diy.Linear(1, 1)).state_dict())[-1] == "3.bias"


class Headed(diy.Sequential):
    def __init__(self):
        super().__init__(diy.Linear(3, 3), diy.Dropout(0.5))
        self.head = diy.Linear(3, 2)

    def forward(self, input):
        return self.head(super().forward(input))

    def backward(self, gradient):
        return super().backward(self.head.backward(gradient))


def test_a_sequential_of_ones_own_may_have_more_layers():
    net = Headed()
    assert list(net.state_dict()) == ["0.weight", "0.bias", "head.weight", "head.bias"]
    assert len(list(net.parameters())) == 4 and "(head): Linear" in repr(net)
    assert not net.eval().head.training and net.double().head.weight.dtype == torch.float64
    x, g = torch.randn(5, 3).double(), torch.randn(5, 2).double()
    net(x)
    net.backward(g)
    torch.testing.assert_close(net.head.bias.grad, g.sum(0))
    torch.testing.assert_close(net[0].bias.grad, (g @ net.head.weight).sum(0))


def test_a_sequential_that_forgets_its_head_on_the_way_back_is_noticed():
    class Forgetful(Headed):
        def backward(self, gradient):
            return diy.Sequential.backward(self, gradient @ self.head.weight)

    net = Forgetful()
    net(torch.randn(5, 3))
    with pytest.raises(RuntimeError, match=r"Forgetful\.forward called Linear, but"):
        net.backward(torch.randn(5, 2))


@pytest.mark.parametrize("freeze", [lambda p: setattr(p, "requires_grad", False), lambda p: p.requires_grad_(False)])
def test_a_frozen_parameter_is_not_trained(freeze):
    net = diy.Sequential(diy.Linear(3, 4), diy.Tanh(), diy.Linear(4, 2))
    optimizer = diy.SGD(net.parameters(), lr=0.1, weight_decay=0.1)
    before = [parameter.clone() for parameter in net.parameters()]
    for parameter in net[0].parameters():
        freeze(parameter)
    net(torch.randn(5, 3))
    net.backward(torch.ones(5, 2))
    optimizer.step()
    moved = [not torch.equal(parameter, old) for parameter, old in zip(net.parameters(), before)]
    assert moved == [False, False, True, True] and net[0].weight.grad is None
    twin = copy.deepcopy(net)
    net[0].weight.requires_grad = True
    for network, learns in ((net, True), (twin, False)):
        network(torch.randn(5, 3))
        network.backward(torch.ones(5, 2))
        assert (network[0].weight.grad is not None) is learns
    assert net.requires_grad_(False) is net
    assert all(parameter.frozen for parameter in net.parameters())


@pytest.mark.parametrize("learned", [True, False])
def test_a_parameter_that_is_shared_with_pytorch_is_trained_if_pytorch_trains_it(learned):
    theirs, ours = torch.nn.Linear(3, 2), diy.Linear(3, 2)
    ours.weight, ours.bias = theirs.weight, theirs.bias
    theirs.requires_grad_(learned)
    ours(torch.ones(4, 3))
    ours.backward(torch.ones(4, 2))
    assert [parameter.grad is not None for parameter in theirs.parameters()] == [learned, learned]


@pytest.mark.parametrize(
    ("build", "shape"),
    [
        (lambda m: m.Linear(3, 4), (5, 3)),
        (lambda m: m.Conv2d(2, 3, (2, 3), padding=1), (4, 2, 5, 5)),
        (lambda m: m.BatchNorm2d(2), (4, 2, 5, 5)),
    ],
)
@pytest.mark.parametrize("alone", [True, False])
def test_a_layer_that_shares_its_parameters_with_pytorch_goes_back_like_pytorchs(build, shape, alone):
    theirs, ours = build(torch.nn).double(), build(diy)
    ours.weight, ours.bias = theirs.weight, theirs.bias
    X = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    network = ours if alone else diy.Sequential(diy.Tanh(), ours, diy.Tanh())
    output = theirs(X) if alone else theirs(X.tanh()).tanh()
    G = torch.randn_like(output)
    expected = torch.autograd.grad(output, [X, theirs.weight, theirs.bias], G)
    ours.double()
    network(X.detach())
    for got, wanted in zip([network.backward(G), theirs.weight.grad, theirs.bias.grad], expected):
        torch.testing.assert_close(got, wanted)


def test_a_replaced_parameter_may_be_frozen_and_stays_the_same_tensor():
    layer, weight = diy.Linear(3, 2), torch.zeros(2, 3)
    layer.weight = weight
    assert layer.weight is weight
    layer.weight.requires_grad = False
    layer(torch.ones(1, 3))
    layer.backward(torch.ones(1, 2))
    assert weight.grad is None and layer.bias.grad is not None


def test_kaiming_returns_the_tensor_itself():
    layer = diy.Linear(3, 2)
    optimizer = diy.SGD(layer.parameters(), lr=0.1)
    layer.weight = diy.kaiming_normal_(layer.weight)
    assert any(parameter is layer.weight for parameter in optimizer.parameters)


def test_integers_of_numpy_are_integers():
    assert diy.Conv2d(1, 1, np.int64(3)).kernel_size == (3, 3)
    assert diy.MaxPool2d((np.int32(2), 1), stride=np.int64(1)).stride == (1, 1)


def test_what_learners_use_of_modules_is_there():
    net = diy.Sequential(diy.Linear(2, 2)).append(diy.Tanh())
    assert (
        len(net) == 2 and net.double()[0].weight.dtype == torch.float64 and net.float()[0].weight.dtype == torch.float32
    )
    assert [name for name, _ in net.named_modules()] == ["", "0", "1"]
    result = net.load_state_dict({"0.weight": torch.ones(2, 2), "more": torch.ones(1)}, strict=False)
    assert result.missing_keys == ["0.bias"] and result.unexpected_keys == ["more"]
    assert torch.equal(net[0].weight, torch.ones(2, 2))


@pytest.mark.parametrize("setting", ["lr", "weight_decay", "momentum"])
def test_a_setting_that_does_not_fit_the_dtype_is_refused(setting):
    with pytest.raises(ValueError, match=r"must be at most 3\.4e\+38, the largest number of the parameters' dtype"):
        diy.SGD([torch.ones(2)], **{"lr": 0.1, setting: 1e39})


def test_the_advice_for_a_list_is_not_float():
    with pytest.raises(TypeError, match=r"got list: make one with torch\.tensor$"):
        diy.Linear(3, 2)([[1.0, 2.0, 3.0]])


def test_settings_are_read_from_and_written_to_the_group():
    weight = torch.ones(2)
    optimizer = diy.SGD([weight], lr=0.1)
    optimizer.param_groups[0]["lr"] = 0.5
    weight.grad = torch.ones(2)
    optimizer.step()
    assert weight.tolist() == [0.5, 0.5] and optimizer.lr == 0.5
    optimizer.lr = 0.25
    assert optimizer.param_groups[0]["lr"] == 0.25
    for call in (lambda: optimizer.step(lambda: 0.0), lambda: optimizer.zero_grad(set_to_none=False)):
        with pytest.raises(ValueError, match="SGD supports PyTorch's argument"):
            call()


LAYERS_AND_SHAPES = [
    (lambda: diy.Linear(3, 2), [(), (2,), (4, 2), (4, 1), (3, 4)]),
    (
        lambda: diy.Conv2d(3, 2, 2),
        [(), (3,), (4, 3), (3, 5, 5), (4, 1, 5, 5), (4, 6, 5, 5), (2, 4, 3, 5, 5), (4, 3, 1, 5)],
    ),
    (lambda: diy.MaxPool2d(2), [(), (3,), (4, 3), (3, 5, 5), (2, 4, 3, 5, 5), (4, 3, 1, 5)]),
    (
        lambda: diy.BatchNorm2d(3),
        [(), (3,), (4, 3), (3, 5, 5), (4, 1, 5, 5), (1, 3, 1, 1), (4, 6, 5, 5), (2, 4, 3, 5, 5)],
    ),
    (lambda: diy.BatchNorm2d(3).eval(), [(), (3,), (4, 3), (3, 5, 5), (4, 1, 5, 5), (4, 6, 5, 5), (2, 4, 3, 5, 5)]),
    (lambda: diy.stack([diy.Linear(3, 2), diy.Linear(3, 2)]), [(3,), (4, 3), (1, 4, 3), (2, 4, 1), (2, 2, 4, 3)]),
]


@pytest.mark.parametrize(
    ("build", "shape"), [(build, shape) for build, shapes in LAYERS_AND_SHAPES for shape in shapes]
)
@pytest.mark.parametrize("first", [[], [diy.ReLU()]], ids=["first", "second"])
def test_a_layer_in_a_sequential_refuses_what_it_refuses_alone(build, shape, first):
    layer, x = build(), torch.randn(shape)
    with pytest.raises((ValueError, TypeError)) as alone:
        layer(x)
    with pytest.raises(type(alone.value)) as inside:
        diy.Sequential(*first, layer)(x)
    assert str(inside.value) == f"layer {len(first)}, {layer!r}: {alone.value}"


@pytest.mark.parametrize("build", [build for build, _ in LAYERS_AND_SHAPES if build().parameter_names])
def test_a_layer_in_a_sequential_refuses_another_dtype(build):
    layer = build()
    with pytest.raises(TypeError, match=r"^layer 0, .*the input is torch\.float64, the weights are torch\.float32"):
        diy.Sequential(layer)(torch.randn((2, 4, 3) if layer.stack_size else (4, 3, 3, 3), dtype=torch.float64))


def test_methods_take_pytorchs_defaults():
    net = diy.Sequential(diy.Linear(3, 2))
    schedule = diy.CosineAnnealingLR(diy.SGD(net.parameters()), 3)
    for ours, theirs, given in (
        (net.parameters, nn.Module.parameters, ()),
        (net.named_parameters, nn.Module.named_parameters, ()),
        (net.named_modules, nn.Module.named_modules, ()),
        (net.load_state_dict, nn.Module.load_state_dict, (net.state_dict(),)),
        (net.train, nn.Module.train, ()),
        (net.zero_grad, nn.Module.zero_grad, ()),
        (schedule.step, torch.optim.lr_scheduler.CosineAnnealingLR.step, ()),
    ):
        ours(*given, **defaults(theirs))
    assert list(net.state_dict(destination=None, prefix="", keep_vars=False)) == ["0.weight", "0.bias"]
    with pytest.raises(ValueError, match="load_state_dict supports PyTorch's argument assign only as False, got True"):
        net.load_state_dict(net.state_dict(), assign=True)


def test_prediction_and_target_have_pytorchs_names():
    p, t = torch.randn(2, 4, 3)
    assert diy.MSELoss()(input=p, target=t) == nn.MSELoss()(input=p, target=t)


def test_a_boolean_of_numpy_is_one():
    numpy = pytest.importorskip("numpy")
    assert diy.ReLU(inplace=numpy.bool_(False))
    with pytest.raises(ValueError, match="got True"):
        diy.ReLU(inplace=numpy.bool_(True))


def test_a_network_is_not_moved_to_meta():
    net = diy.Linear(3, 2)
    with pytest.raises(TypeError, match='or from "meta": build them there'):
        net.to("meta")
    assert net.weight.device.type == "cpu"


@pytest.mark.parametrize("state", [None, "model.pt", [("weight", torch.ones(2, 3))]], ids=["None", "a path", "a list"])
def test_a_state_that_is_no_dictionary(state):
    net = diy.Linear(3, 2)
    optimizer = diy.SGD(net.parameters())
    for one in (net, optimizer, diy.CosineAnnealingLR(optimizer, 3)):
        with pytest.raises(TypeError, match=r"a state dict is a dictionary, got .*: torch\.load"):
            one.load_state_dict(state)


@pytest.mark.parametrize("direction", [lambda g: None, lambda g: 0.1, lambda g: g.sum(), lambda g: g.sum(0)])
def test_an_optimizer_of_ones_own_returns_a_direction_for_each_number(direction):
    kind = type("Own", (diy.Optimizer,), {"direction": lambda self, g, w: direction(g)})
    layer = diy.Linear(2, 3)
    before = layer.weight.clone()
    layer.weight.grad = torch.ones(3, 2)
    with pytest.raises(ValueError, match=r"Own.direction must return a tensor of its parameter's shape, \(3, 2\)"):
        kind([layer.weight], lr=0.1).step()
    assert torch.equal(layer.weight, before)


def test_an_optimizer_whose_parameter_was_replaced_says_so():
    layer, other = diy.Linear(2, 2), diy.Linear(2, 2)
    optimizer = diy.SGD([*layer.parameters(), *other.parameters()], lr=0.1)

    def step():
        optimizer.zero_grad()
        for one in layer, other:
            one(torch.ones(1, 2))
            one.backward(torch.ones(1, 2))
        optimizer.step()

    layer.weight, other.weight = other.weight, layer.weight
    step()
    layer.weight = other.weight  # shared from now on: the optimizer has it
    step()
    layer.weight = other.weight = torch.ones(2, 2)
    with pytest.raises(RuntimeError, match=r"has been replaced in its module .* never be trained: copy the new values"):
        step()


def test_an_optimizer_of_ones_own_calls_the_constructor_first():
    def init(self, params, lr):
        self.lr = lr

    kind = type("Own", (diy.Optimizer,), {"__init__": init, "direction": lambda self, g, w: g})
    with pytest.raises(
        RuntimeError, match=r"Own.__init__ has to call super\(\).__init__\(params, lr\) before it sets lr"
    ):
        kind([torch.ones(2)], 0.1)


CHANGED_LATER = [
    (lambda: diy.Conv2d(1, 1, 3), "padding", 1),
    (lambda: diy.Conv2d(1, 1, 3), "stride", 2),
    (lambda: diy.Conv2d(1, 1, 3), "dilation", 2),
    (lambda: diy.MaxPool2d(2), "kernel_size", (3, 3)),
    (lambda: diy.MaxPool2d(2), "ceil_mode", True),
    (lambda: diy.ReLU(), "inplace", True),
    (lambda: diy.BatchNorm2d(3), "track_running_stats", False),
    (lambda: diy.CrossEntropyLoss(), "label_smoothing", 0.1),
    (lambda: diy.CrossEntropyLoss(), "weight", torch.ones(3)),
]


@pytest.mark.parametrize(("make", "name", "value"), CHANGED_LATER)
def test_a_setting_that_would_be_ignored_later_is_refused(make, name, value):
    module = make()
    before = repr(module)
    with pytest.raises(AttributeError, match=f"{name} of a .* can't be changed later: make a new one"):
        setattr(module, name, value)
    assert repr(module) == before


def test_settings_that_have_an_effect_may_be_changed_later():
    dropout, norm, linear = diy.Dropout(0.5), diy.BatchNorm2d(3), diy.Linear(3, 2)
    dropout.p, norm.momentum, norm.eps, linear.bias = 1, 0.5, 1e-3, None
    assert not dropout(torch.ones(3)).any() and linear(torch.ones(1, 3)).shape == (1, 2)

    class Windows(diy.Module):  # a learner's own module may have any of these names
        stride = 1

        def __init__(self):
            self.kernel_size, self.padding, self.stride = 3, 1, 2

        def forward(self, x):
            return x

        def backward(self, g):
            return g

    own = Windows()
    own.stride = 3
    assert own.stride == 3


def test_an_option_put_into_param_groups_is_refused():
    optimizer = diy.SGD([torch.zeros(2)], lr=0.1)
    optimizer.param_groups[0]["maximize"] = True
    with pytest.raises(ValueError, match="SGD does not support maximize=True"):
        optimizer.step()


def test_parameters_in_one_memory_are_refused():
    weight = torch.ones(2, 3)
    with pytest.raises(ValueError, match="two parameters share their memory"):
        diy.SGD([weight, weight.mT], lr=0.1)
    flat = torch.zeros(6)
    diy.SGD([flat[:2], flat[2:]], lr=0.1)  # side by side


def test_names_of_parameters_may_come_after_the_tensors():
    class Late(diy.Module):
        def __init__(self):
            self.w = torch.ones(3)
            self.parameter_names = ("w",)

        def forward(self, x):
            self.remember(x, x)
            return x * self.w

        def backward(self, g):
            g, x = self.recall(g)
            self.accumulate(self.w, (g * x).sum(0))
            return g * self.w

    module = Late()
    module.w.requires_grad = False
    module(torch.ones(2, 3))
    module.backward(torch.ones(2, 3))
    assert module.w.grad is None
