"""What diy.py promises beside its formulas: PyTorch's interface and results, clear errors, no automatic gradients."""

import ast
import copy
import inspect
import math
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

SOURCE = Path(__file__).parents[2] / "diy.py"


def numbers(*shape, seed=0, dtype=torch.float32):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def network(diy):
    return diy.Sequential(diy.Linear(3, 4), diy.ReLU(), diy.Sequential(diy.Linear(4, 4), diy.Tanh()), diy.Linear(4, 2))


def torch_network():
    return nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Sequential(nn.Linear(4, 4), nn.Tanh()), nn.Linear(4, 2))


def snapshot(module):
    """All values and gradients of a module, to be compared before and after."""
    return [(p.clone(), None if p.grad is None else p.grad.clone()) for p in module.parameters()]


def same(before, after):
    return all(
        torch.equal(a, b) and (g is h if g is None or h is None else torch.equal(g, h))
        for (a, g), (b, h) in zip(before, after, strict=True)
    )


# The file itself


def test_it_imports_torch_and_the_standard_library_alone():
    imported = set()
    for node in ast.walk(ast.parse(SOURCE.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            imported |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0
            imported |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    assert "torch" in imported
    assert {name.split(".")[0] for name in imported} - {"torch"} <= set(sys.stdlib_module_names)
    forbidden = {"nn", "autograd", "optim", "func", "fx", "compile", "jit"}
    assert not {name for name in imported if name.startswith("torch.") and set(name.split(".")) & forbidden}


def test_it_uses_no_automatic_gradients():
    # Any mention counts, torch.nn as well as getattr(torch, "nn"): names, attributes, arguments, one-word strings.
    forbidden = {"nn", "autograd", "optim", "func", "functional", "requires_grad", "requires_grad_", "grad_fn"}
    forbidden |= {"enable_grad", "set_grad_enabled", "retain_grad", "__import__", "import_module", "eval_grad"}
    # One function asks whether PyTorch trains a parameter that the two share, another names the function inside a
    # functools.partial.
    allowed = {"_frozen": {"requires_grad"}, "_own_function": {"func"}}
    found = {}
    for part in ast.parse(SOURCE.read_text(encoding="utf-8")).body:
        used = found.setdefault(getattr(part, "name", ""), set())
        for node in ast.walk(part):
            if isinstance(node, ast.Name):
                used.add(node.id)
            elif isinstance(node, ast.Attribute):
                used.add(node.attr)
            elif isinstance(node, ast.keyword):
                used.add(node.arg)
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                used |= {node.value} if node.value.isidentifier() else set()
    assert "weight" in found["Linear"], "the search itself works"
    assert {name: used & forbidden for name, used in found.items() if used & forbidden} == allowed


def test_types_are_strict():
    command = [sys.executable, "-m", "mypy", "--strict", "diy.py", "gradcheck.py"]
    result = subprocess.run(command, cwd=SOURCE.parent, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr


def test_formulas_come_in_the_order_of_their_numbers_and_soon():
    lines = SOURCE.read_text(encoding="utf-8").splitlines()
    stated = [(int(number), line) for line, text in enumerate(lines, 1) for number in re.findall(r"\(F(\d+)\) ", text)]
    numbers = [number for number, line in stated if line > 30]  # below the first docstring, which explains them
    assert numbers == list(range(1, 43))
    assert dict(stated)[2] < 200, "S = X Wᵀ + b is met early"


# PyTorch's interface


@pytest.mark.parametrize(
    ("name", "counterpart"),
    [
        ("Linear", nn.Linear),
        ("Dropout", nn.Dropout),
        ("ReLU", nn.ReLU),
        ("Tanh", nn.Tanh),
        ("SGD", torch.optim.SGD),
        ("CosineAnnealingLR", torch.optim.lr_scheduler.CosineAnnealingLR),
    ],
)
def test_arguments_and_defaults_are_pytorchs(diy, name, counterpart):
    # Handed over by position or by name, and left out, an argument means the same on both sides.
    ours = inspect.signature(getattr(diy, name)).parameters
    theirs = inspect.signature(counterpart).parameters
    assert list(ours) == list(theirs)[: len(ours)]
    for argument, parameter in ours.items():
        assert parameter.default == theirs[argument].default, argument


@pytest.mark.parametrize("name", ["MSELoss", "CrossEntropyLoss"])
def test_the_first_positional_argument_of_a_loss_is_not_the_reduction(diy, name):
    # Nor is it PyTorch's: nn.MSELoss("sum") takes the mean.
    assert getattr(diy, name)(reduction="sum").reduction == "sum"
    assert getattr(diy, name)().reduction == getattr(nn, name)().reduction == "mean"
    with pytest.raises(TypeError, match="positional argument"):
        getattr(diy, name)("sum")


def test_arguments_that_are_not_supported_are_refused(diy):
    for call, argument in (
        (lambda: diy.Dropout(0.5, inplace=True), "inplace only as False, got True"),
        (lambda: diy.SGD([torch.zeros(1)], lr=0.1, maximize=True), "maximize only as False, got True"),
        (lambda: diy.MSELoss(size_average=False), "size_average only as None, got False"),
        (lambda: diy.CrossEntropyLoss(label_smoothing=0.1), r"label_smoothing only as 0\.0, got 0\.1"),
        (lambda: diy.ReLU(torch.zeros(2)), "inplace only as False, got a tensor; write ReLU"),
    ):
        with pytest.raises(ValueError, match=f"supports PyTorch's argument {argument}"):
            call()
    with pytest.raises(ValueError, match='reduction must be "mean" or "sum", got \'none\''):
        diy.MSELoss(reduction="none")
    for call in lambda: diy.Tanh(torch.zeros(2)), lambda: diy.Sigmoid(inplace=False):
        with pytest.raises(TypeError, match=r"takes no arguments: make it by (Tanh|Sigmoid)\(\)"):
            call()


def test_arguments_that_nobody_has_are_refused_in_the_name_of_the_class(diy):
    class Mine(diy.MSELoss):
        pass

    for call, words in (
        (lambda: diy.MSELoss(foo=1), "MSELoss: .*'foo'; it takes size_average, reduce, reduction"),
        (lambda: Mine(foo=1), "Mine: .*'foo'; it takes"),
        (
            lambda: diy.Linear(3, 2, True, None, None, 1),
            "Linear: too many .*; it takes in_features, out_features, bias",
        ),
        (lambda: diy.Linear(3, outputs=2), "Linear: .*'outputs'; it takes in_features, out_features, bias"),
        (lambda: diy.Sequential(diy.ReLU(), name="net"), "Sequential: .*'name'; it takes modules"),
    ):
        with pytest.raises(TypeError, match=words):
            call()


def test_module_and_loss_are_abstract(diy):
    for kind in (diy.Module, diy.Loss):
        with pytest.raises(TypeError, match="abstract"):
            kind()
    with pytest.raises(TypeError, match="abstract"):
        diy.Optimizer([torch.zeros(1)], 0.1)
    with pytest.raises(TypeError, match="abstract"):
        type("Half", (diy.Module,), {"forward": lambda self, input: input})()


def test_the_assignments_names(diy):
    assert diy.LossMSE is diy.MSELoss
    layer = diy.Linear(3, 2)
    assert [(p is q, g) for (p, g), q in zip(layer.param(), layer.parameters())] == [(True, None), (True, None)]
    layer(numbers(5, 3))
    layer.backward(numbers(5, 2))
    assert all(g is p.grad and g.shape == p.shape for p, g in layer.param())
    assert diy.ReLU().param() == [] and diy.Sequential().param() == []


def test_repr_shows_the_architecture(diy):
    expected = """\
Sequential(
  (0): Linear(in_features=3, out_features=4, bias=True)
  (1): ReLU()
  (2): Sequential(
    (0): Linear(in_features=4, out_features=4, bias=False)
    (1): Tanh()
  )
  (3): Dropout(p=0.2)
)"""
    inner = diy.Sequential(diy.Linear(4, 4, bias=False), diy.Tanh())
    assert repr(diy.Sequential(diy.Linear(3, 4), diy.ReLU(), inner, diy.Dropout(0.2))) == expected
    assert repr(diy.Sequential()) == "Sequential()"
    assert repr(diy.MSELoss(reduction="sum")) == "MSELoss(reduction='sum')"


def test_summary_counts_parameters(diy):
    lines = [line.split() for line in network(diy).summary().splitlines()]
    assert lines[0] == ["0.weight", "(4,", "3)", "12"]
    assert lines[1] == ["0.bias", "(4,)", "4"]
    assert [line[0] for line in lines] == [*network(diy).state_dict(), "total"]
    assert lines[-1] == ["total", str(12 + 4 + 16 + 4 + 8 + 2)]
    assert diy.Linear(1000, 3).summary().splitlines()[-1].split() == ["total", "3,003"]
    assert diy.Tanh().summary().split() == ["total", "0"]


def test_sequential_is_a_sequence(diy):
    layers = [diy.Linear(3, 4), diy.ReLU(), diy.Linear(4, 2)]
    net = diy.Sequential(*layers)
    assert len(net) == 3 and list(net) == layers
    assert net[0] is layers[0] and net[-1] is layers[2]
    part = net[1:]
    assert isinstance(part, diy.Sequential) and list(part) == layers[1:]
    assert list(net[::-1]) == layers[::-1] and len(net[3:]) == 0
    with pytest.raises(IndexError):
        net[3]
    # A slice shares its parameters with the whole.
    assert part[1].weight is net[2].weight


def test_an_empty_sequential_is_the_identity(diy):
    net, x = diy.Sequential(), numbers(5, 3)
    assert torch.equal(net(x), x) and torch.equal(net.backward(2 * x), 2 * x)
    assert list(net.parameters()) == [] and net.state_dict() == {} and len(net) == 0


def test_sequential_takes_modules_alone(diy):
    with pytest.raises(TypeError, match=r"argument 1 of Sequential must be a diy Module, got Linear"):
        diy.Sequential(diy.Tanh(), nn.Linear(3, 2))
    with pytest.raises(TypeError, match=r"argument 0 .* got list; unpack a list with Sequential\(\*modules\)"):
        diy.Sequential([diy.Tanh()])


def test_children_and_parameters_come_in_order(diy):
    class Residual(diy.Module):
        parameter_names = ("gain",)

        def __init__(self):
            self.gain = torch.ones(1)
            self.first, self.second = diy.Linear(3, 3), diy.Sequential(diy.Linear(3, 3, bias=False), diy.Tanh())
            self.note = "not a module"

        def forward(self, input):
            return input

        def backward(self, gradient):
            return gradient

    module = Residual()
    assert [name for name, _ in module.named_children()] == ["first", "second"]
    assert list(module.state_dict()) == ["gain", "first.weight", "first.bias", "second.0.weight"]
    assert [name for name, _ in module.named_parameters()] == list(module.state_dict())
    assert list(module.modules())[:2] == [module, module.first] and len(list(module.modules())) == 5
    assert repr(module).splitlines()[1] == "  (first): Linear(in_features=3, out_features=3, bias=True)"


def test_buffers_are_state_but_not_parameters(diy):
    class Counter(diy.Tanh):
        buffer_names = ("count",)

        def __init__(self):
            self.count = torch.tensor(3)

    module = diy.Sequential(Counter(), diy.Linear(2, 2))
    assert set(module.state_dict()) == {"0.count", "1.weight", "1.bias"}
    assert "0.count" not in dict(module.named_parameters())
    module.load_state_dict(module.state_dict() | {"0.count": torch.tensor(7)})
    assert module[0].count == 7
    assert module.to(torch.float64)[0].count.dtype == torch.int64, "an integer stays one"


def test_train_and_eval_reach_all_modules(diy):
    net = diy.Sequential(diy.Dropout(0.5), diy.Sequential(diy.Dropout(0.5), diy.Tanh()))
    assert net.training and net[1][0].training
    assert net.eval() is net and not any(module.training for module in net.modules())
    assert net.train() is net and all(module.training for module in net.modules())
    assert net.train(False) is net and not net[1][0].training


def test_to_changes_the_dtype_in_place(diy):
    net = network(diy)
    net(numbers(5, 3))
    net.backward(numbers(5, 2))
    parameters, expected = list(net.parameters()), [(p.double(), p.grad.double()) for p in net.parameters()]
    assert net.to(torch.float64) is net
    for parameter, kept, (value, gradient) in zip(net.parameters(), parameters, expected):
        assert parameter is kept, "an optimizer that holds the parameters must see the change"
        assert torch.equal(parameter, value) and torch.equal(parameter.grad, gradient)
    assert net(numbers(5, 3, dtype=torch.float64)).dtype == torch.float64
    assert net.to("cpu", torch.float32)[0].weight.dtype == torch.float32
    assert net.to(dtype=torch.float64)[0].weight.dtype == torch.float64
    assert diy.Linear(3, 2, bias=False, dtype=torch.float64).to(torch.float32).weight.dtype == torch.float32


def test_parameters_have_the_dtype_asked_for(diy):
    layer = diy.Linear(3, 2, dtype=torch.float64, device="cpu")
    assert layer.weight.dtype == layer.bias.dtype == torch.float64
    assert diy.Linear(3, 2).weight.dtype == torch.get_default_dtype()
    assert diy.Linear(3, 2, bias=False).bias is None and len(list(diy.Linear(3, 2, bias=False).parameters())) == 1


@pytest.mark.parametrize("name", ["Linear", "Conv2d", "BatchNorm2d"])
def test_parameters_and_buffers_lie_where_they_are_asked_for(diy, name):
    # The device "meta" stands in for any other than the processor: it has shapes and no numbers.
    sizes = {"Linear": (3, 2), "Conv2d": (3, 2, 3), "BatchNorm2d": (3,)}[name]
    there, here = getattr(diy, name)(*sizes, device="meta"), getattr(diy, name)(*sizes, dtype=torch.float64)
    assert {tensor.device.type for tensor in there.state_dict().values()} == {"meta"}
    assert {tensor.dtype for tensor in here.parameters()} == {torch.float64}
    twin = getattr(nn, name)(*sizes, dtype=torch.float64)
    assert {key: t.dtype for key, t in here.state_dict().items()} == {k: t.dtype for k, t in twin.state_dict().items()}


# The forward and backward of each module, on numbers that can be followed by hand


@pytest.mark.formula("F2", "F3", "F4", "F5")
def test_linear_by_hand(diy):
    layer = diy.Linear(2, 2)
    layer.weight.copy_(torch.tensor([[1.0, 2.0], [3.0, 4.0]]))
    layer.bias.copy_(torch.tensor([10.0, 20.0]))
    # Row by row: 1·1 + 2·1 + 10 and 3·1 + 4·1 + 20; then with x = (0, 2).
    assert layer(torch.tensor([[1.0, 1.0], [0.0, 2.0]])).tolist() == [[13, 27], [14, 28]]
    # G W: 1·1 + 0·3, 1·2 + 0·4; then 5·1 + 7·3, 5·2 + 7·4.
    assert layer.backward(torch.tensor([[1.0, 0.0], [5.0, 7.0]])).tolist() == [[1, 2], [26, 38]]
    # Gᵀ X: for the first output 1·(1, 1) + 5·(0, 2), for the second 0·(1, 1) + 7·(0, 2).
    assert layer.weight.grad.tolist() == [[1, 11], [0, 14]]
    assert layer.bias.grad.tolist() == [6, 7]


@pytest.mark.formula("F7", "F8")
def test_relu_by_hand(diy):
    module = diy.ReLU()
    assert module(torch.tensor([-2.0, -0.0, 0.0, 3.0])).tolist() == [0, 0, 0, 3]
    assert module.backward(torch.tensor([5.0, -6.0, 7.0, -8.0])).tolist() == [0, 0, 0, -8]


@pytest.mark.formula("F9", "F10")
def test_tanh_by_hand(diy):
    module = diy.Tanh()
    half = math.atanh(0.5)  # where tanh is 1/2 and its derivative 3/4
    assert module(torch.tensor([half, 0.0, -half])).tolist() == pytest.approx([0.5, 0, -0.5])
    assert module.backward(torch.tensor([4.0, 5.0, 8.0])).tolist() == pytest.approx([3, 5, 6])


@pytest.mark.formula("F19", "F20")
def test_dropout_by_hand(diy):
    module, ones = diy.Dropout(0.25), torch.ones(20_000)
    output = module(ones)
    assert set(output.tolist()) == {0.0, torch.tensor(1 / 0.75).item()}
    # The share that is dropped: 0.25, with a standard deviation of √(0.25 · 0.75 / 20000) = 0.003. Five of them.
    assert (output == 0).float().mean().item() == pytest.approx(0.25, abs=0.015)
    assert torch.equal(module.backward(3 * ones), 3 * output), "backward must use forward's mask"
    assert not torch.equal(module(ones), output), "every forward draws a new mask"


def test_dropout_is_off_in_eval(diy):
    module, x = diy.Dropout(0.5).eval(), numbers(50, 3)
    assert torch.equal(module(x), x) and torch.equal(module.backward(2 * x), 2 * x)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(("p", "factor"), [(0, 1.0), (0.0, 1.0), (1, 0.0), (1.0, 0.0)])
def test_dropout_at_the_ends(diy, p, factor, training):
    module, x = diy.Dropout(p).train(training), numbers(5, 3)
    factor = factor if training else 1.0
    assert torch.equal(module(x), factor * x) and torch.equal(module.backward(x + 1), factor * (x + 1))


def test_dropout_uses_no_random_number_it_does_not_need(diy):
    # As in PyTorch: what is drawn afterwards does not depend on layers that are off.
    for module in (diy.Dropout(0.5).eval(), diy.Dropout(0)):
        torch.manual_seed(5)
        expected = torch.rand(3)
        torch.manual_seed(5)
        module(numbers(4, 4))
        assert torch.equal(torch.rand(3), expected)


@pytest.mark.formula("F13", "F15", "F14", "F16")
def test_mse_by_hand(diy):
    prediction, target = torch.tensor([[1.0, 5.0], [2.0, 0.0]]), torch.tensor([[0.0, 2.0], [2.0, 1.0]])
    # Differences 1, 3, 0, −1: squares 1, 9, 0, 1, their sum 11, M = 4.
    mean, total = diy.MSELoss(), diy.MSELoss(reduction="sum")
    assert mean(prediction, target).item() == 2.75 and total(prediction, target).item() == 11
    assert mean.backward().tolist() == [[0.5, 1.5], [0, -0.5]]
    assert total.backward().tolist() == [[2, 6], [0, -2]]


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("shape", [(), (3,), (0, 2), (2, 3, 4)], ids=str)
def test_mse_is_pytorchs_for_every_shape(diy, shape, reduction):
    prediction, target = numbers(*shape), numbers(*shape, seed=1)
    ours, theirs = diy.MSELoss(reduction=reduction), nn.MSELoss(reduction=reduction)
    loss = ours(prediction, target)
    assert loss.shape == () and torch.equal(loss.isnan(), theirs(prediction, target).isnan())
    torch.testing.assert_close(loss, theirs(prediction, target), equal_nan=True)
    assert ours.backward().shape == shape


# Gradients: where they lie, and that they add up


@pytest.mark.formula("F1")
def test_gradients_accumulate_until_they_are_forgotten(diy):
    net, x, g = network(diy), numbers(5, 3), numbers(5, 2, seed=1)
    assert all(parameter.grad is None for parameter in net.parameters())
    net(x)
    net.backward(g)
    once = [parameter.grad.clone() for parameter in net.parameters()]
    net(x)
    net.backward(g)
    # Adding a number to itself is exact.
    assert all(torch.equal(parameter.grad, 2 * gradient) for parameter, gradient in zip(net.parameters(), once))
    net.zero_grad()
    assert all(parameter.grad is None for parameter in net.parameters())
    net(x)
    net.backward(g)
    assert all(torch.equal(parameter.grad, gradient) for parameter, gradient in zip(net.parameters(), once))


def test_the_optimizer_forgets_gradients(diy):
    net = network(diy)
    optimizer = diy.SGD(net.parameters(), lr=0.1)
    net(numbers(5, 3))
    net.backward(numbers(5, 2))
    optimizer.zero_grad()
    assert all(parameter.grad is None for parameter in net.parameters())
    before = snapshot(net)
    optimizer.step()
    assert same(before, snapshot(net)), "a step without gradients changes nothing"


def test_gradients_are_the_modules_own(diy):
    # Neither does a later change of what backward was given reach a gradient, nor the other way round.
    layer, x, g = diy.Linear(3, 2), numbers(3), numbers(2, seed=1)
    layer(x)
    given = g.clone()
    layer.backward(given)
    given.fill_(100)
    assert torch.equal(layer.bias.grad, g)
    layer.bias.grad.fill_(7)
    assert torch.equal(given, torch.full_like(g, 100))


@pytest.mark.parametrize("shape", [(3,), (5, 3), (0, 3), (2, 4, 3)], ids=str)
def test_nothing_that_is_handed_in_is_changed(diy, shape):
    net = diy.Sequential(diy.Tanh(), diy.ReLU(), diy.Dropout(0.5), diy.Linear(3, 3), diy.Dropout(0.5), diy.ReLU())
    for module in (*net, net):
        x, g = numbers(*shape), numbers(*shape, seed=1)
        kept, above = x.clone(), g.clone()
        module(x)
        module.backward(g)
        module(x)
        module.backward(g)
        assert torch.equal(x, kept), f"{module!r} changed its input"
        assert torch.equal(g, above), f"{module!r} changed the gradient it was given"
    prediction, target = numbers(4), numbers(4, seed=1)
    criterion = diy.MSELoss()
    criterion(prediction, target)
    criterion.backward()
    assert torch.equal(prediction, numbers(4)) and torch.equal(target, numbers(4, seed=1))


@pytest.mark.formula("F11", "F12")
def test_the_same_module_twice_remembers_both_inputs(diy):
    layer, x, g = diy.Linear(3, 3), numbers(5, 3), numbers(5, 3, seed=1)
    net = diy.Sequential(layer, diy.Tanh(), layer, diy.Tanh())
    assert len(list(net.parameters())) == 2 and net[2].weight is layer.weight
    twin = nn.Linear(3, 3)
    twin.load_state_dict(layer.state_dict())
    leaf = x.clone().requires_grad_()
    expected = twin(twin(leaf).tanh()).tanh()
    expected.backward(g)
    torch.testing.assert_close(net(x), expected.detach())
    torch.testing.assert_close(net.backward(g), leaf.grad)
    torch.testing.assert_close(layer.weight.grad, twin.weight.grad)
    torch.testing.assert_close(layer.bias.grad, twin.bias.grad)


def test_a_first_layer_may_spare_the_input_gradient(diy):
    layer, x, g = diy.Linear(3, 2), numbers(5, 3), numbers(5, 2, seed=1)
    layer(x)
    assert layer.backward(g).shape == (5, 3)
    expected = layer.weight.grad.clone()
    layer.zero_grad()
    layer.needs_input_grad = False
    layer(x)
    assert layer.backward(g) is None and torch.equal(layer.weight.grad, expected)


def test_a_forward_replaces_what_the_one_before_remembered(diy):
    net, x, g = network(diy), numbers(5, 3), numbers(5, 2, seed=1)
    net(x)
    expected = net.backward(g)
    net(3 * x + 1)
    net(x)
    assert torch.equal(net.backward(g), expected)


@pytest.mark.parametrize("enabled", [True, False])
def test_it_never_builds_a_graph(diy, enabled):
    with torch.set_grad_enabled(enabled):
        net, criterion = network(diy), diy.MSELoss()
        optimizer = diy.SGD(net.parameters(), lr=0.1, momentum=0.9, weight_decay=0.1)
        x, target = numbers(5, 3).requires_grad_(), numbers(5, 2, seed=1).requires_grad_()
        output = net(x)
        loss = criterion(output, target)
        gradient = net.backward(criterion.backward())
        optimizer.step()
    for tensor in (output, loss, gradient, *net.parameters(), *(p.grad for p in net.parameters())):
        assert not tensor.requires_grad and tensor.grad_fn is None
    assert x.grad is None and target.grad is None


def test_under_inference_mode_there_is_a_forward_and_no_backward(diy):
    net, x = network(diy), numbers(5, 3)
    expected = net(x)
    with torch.inference_mode():
        assert torch.equal(net(x), expected)
        with pytest.raises(RuntimeError, match=r"under torch\.inference_mode\(\) nothing is kept"):
            net.backward(numbers(5, 2))
    with torch.inference_mode():
        made_there = numbers(5, 3)
    assert torch.equal(net(made_there), expected), "a tensor made under inference mode may be used outside"
    net.backward(numbers(5, 2))


def test_a_layer_made_under_inference_mode_works_outside(diy):
    with torch.inference_mode():
        layer = diy.Linear(3, 2)
    x, g = numbers(5, 3), numbers(5, 2, seed=1)
    layer(x)
    layer.backward(g)
    torch.testing.assert_close(layer.weight.grad, g.mT @ x)
    layer(x)
    x += 1  # PyTorch does not count the changes of the weights here, but those of the input
    with pytest.raises(RuntimeError, match="changed in place"):
        layer.backward(g)


def test_a_module_can_be_copied(diy):
    net = network(diy)
    net(numbers(5, 3))
    net.backward(numbers(5, 2))
    twin = copy.deepcopy(net)
    assert all(torch.equal(p, q) and q.grad is None for p, q in zip(net.parameters(), twin.parameters(), strict=True))
    twin[0].weight.fill_(0)
    assert not torch.equal(net[0].weight, twin[0].weight)


# Initial values


@pytest.mark.formula("F6")
@pytest.mark.parametrize(("inputs", "outputs"), [(300, 200), (50, 1000)])
def test_xavier_normal_initialization(diy, inputs, outputs):
    layer = diy.Linear(inputs, outputs, dtype=torch.float64)
    std, count = math.sqrt(2 / (inputs + outputs)), inputs * outputs
    # The estimates of mean and std have standard deviations std/√n and std/√(2n); five of them are allowed.
    assert layer.weight.mean().item() == pytest.approx(0, abs=5 * std / math.sqrt(count))
    assert layer.weight.std().item() == pytest.approx(std, abs=5 * std / math.sqrt(2 * count))
    # Normal, not uniform: 4.55 % lie beyond two standard deviations (a uniform of that std has none there).
    assert (layer.weight.abs() > 2 * std).double().mean().item() == pytest.approx(0.0455, abs=0.005)
    assert torch.equal(layer.bias, torch.full((outputs,), 0.01, dtype=torch.float64))


@pytest.mark.formula("F6")
def test_the_same_seed_gives_the_same_weights(diy):
    torch.manual_seed(3)
    first = diy.Linear(4, 5)
    torch.manual_seed(3)
    second = diy.Linear(4, 5)
    assert torch.equal(first.weight, second.weight) and not torch.equal(first.weight, diy.Linear(4, 5).weight)
    first.bias.fill_(3)
    first.reset_parameters()
    assert not torch.equal(first.weight, second.weight) and torch.equal(first.bias, second.bias)


# Optimizers


@pytest.mark.formula("F17", "F18")
def test_sgd_by_hand(diy):
    weight, unused = torch.tensor([1.0, 2.0]), torch.tensor([5.0])
    weight.grad = torch.tensor([10.0, -20.0])
    diy.SGD([weight, unused], lr=0.5).step()
    assert weight.tolist() == [-4, 12] and unused.tolist() == [5] and unused.grad is None
    assert weight.grad.tolist() == [10, -20], "the gradient is the caller's"


def test_a_learning_rate_of_zero_changes_nothing(diy):
    weight = torch.tensor([1.0, 2.0])
    weight.grad = torch.tensor([10.0, -20.0])
    diy.SGD([weight], lr=0).step()
    assert weight.tolist() == [1, 2]


@pytest.mark.formula("F17", "F18", "F25", "F26")
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"momentum": 0.9},
        {"momentum": 0.9, "dampening": 0.3},
        {"momentum": 0.9, "nesterov": True},
        {"weight_decay": 0.1},
        {"momentum": 0.5, "weight_decay": 0.1, "nesterov": True},
        {"momentum": 1.5, "dampening": -0.5, "weight_decay": 0.01},
    ],
    ids=str,
)
def test_sgd_takes_pytorchs_steps(diy, options):
    ours = [numbers(3, 2, dtype=torch.float64), numbers(4, seed=1, dtype=torch.float64), torch.ones(1)]
    theirs = [parameter.clone() for parameter in ours]
    a, b = diy.SGD(ours, lr=0.1, **options), torch.optim.SGD(theirs, lr=0.1, **options)
    for step in range(8):
        for index, (p, q) in enumerate(zip(ours, theirs)):
            # The third parameter has a gradient at every other step only: its momentum waits for it.
            used = index < 2 or step % 2
            p.grad = numbers(*p.shape, seed=10 * step + index, dtype=p.dtype) if used else None
            q.grad = p.grad.clone() if used else None
        kept = [None if p.grad is None else p.grad.clone() for p in ours]
        a.step()
        b.step()
        for p, q, gradient in zip(ours, theirs, kept):
            # The same sums in another order: a few units in the last place of numbers about 1.
            torch.testing.assert_close(p, q, rtol=1e-6 if p.dtype == torch.float32 else 1e-13, atol=1e-13)
            assert gradient is None or torch.equal(p.grad, gradient), "step must leave the gradients alone"


@pytest.mark.formula("F25")
def test_momentum_keeps_its_own_memory(diy):
    # With a gradient that is accumulated, or changed in between, the velocity must still hold what it was.
    weight = torch.tensor([0.0])
    weight.grad = torch.tensor([1.0])
    optimizer = diy.SGD([weight], lr=1, momentum=0.5)
    optimizer.step()
    weight.grad += 1
    optimizer.step()
    assert weight.item() == -1 - (0.5 * 1 + 2) and weight.grad.item() == 2


def test_the_learning_rate_may_change(diy):
    weight = torch.tensor([1.0])
    weight.grad = torch.tensor([1.0])
    optimizer = diy.SGD([weight], lr=0.5)
    assert optimizer.lr == 0.5
    optimizer.lr = 0.25
    optimizer.step()
    assert weight.item() == 0.75


@pytest.mark.formula("F28")
@pytest.mark.parametrize("eta_min", [0.0, 0.02])
def test_the_cosine_schedule_is_pytorchs(diy, eta_min):
    parameter = torch.zeros(1)
    ours, theirs = diy.SGD([parameter], lr=0.2), torch.optim.SGD([parameter], lr=0.2)
    a = diy.CosineAnnealingLR(ours, 10, eta_min)
    b = torch.optim.lr_scheduler.CosineAnnealingLR(theirs, 10, eta_min)
    for step in range(10):
        parameter.grad = torch.zeros(1)
        theirs.step()
        a.step()
        b.step()
        # PyTorch's is a recursion, this one the formula: they differ by rounding.
        assert ours.lr == pytest.approx(theirs.param_groups[0]["lr"], abs=1e-15), f"step {step}"
        assert ours.lr == pytest.approx(eta_min + (0.2 - eta_min) * (1 + math.cos(math.pi * (step + 1) / 10)) / 2)
    assert ours.lr == pytest.approx(eta_min, abs=1e-16) and a.last_epoch == 10


@pytest.mark.parametrize("name", ["SGD", "Adam", "AdamW", "RMSprop"])
def test_pytorchs_optimizers_train_a_diy_network(diy, name):
    net, twin = network(diy).to(torch.float64), torch_network().double()
    twin.load_state_dict(net.state_dict())
    a = getattr(torch.optim, name)(net.parameters(), lr=0.01)
    b = getattr(torch.optim, name)(twin.parameters(), lr=0.01)
    x, target = numbers(5, 3, dtype=torch.float64), numbers(5, 2, seed=1, dtype=torch.float64)
    criterion = diy.MSELoss()
    for _ in range(20):
        criterion(net(x), target)
        a.zero_grad()
        net.backward(criterion.backward())
        a.step()
        b.zero_grad()
        nn.functional.mse_loss(twin(x), target).backward()
        b.step()
    for p, q in zip(net.parameters(), twin.parameters(), strict=True):
        # Adam divides by √v: where a gradient is nearly zero, its last bits decide. Hence not 1e-15.
        torch.testing.assert_close(p, q.detach(), rtol=1e-9, atol=1e-9)


def test_diy_sgd_trains_a_pytorch_network(diy):
    net, twin = torch_network().double(), torch_network().double()
    twin.load_state_dict(net.state_dict())
    a = diy.SGD(net.parameters(), lr=0.1, momentum=0.9)
    b = torch.optim.SGD(twin.parameters(), lr=0.1, momentum=0.9)
    x, target = numbers(5, 3, dtype=torch.float64), numbers(5, 2, seed=1, dtype=torch.float64)
    for _ in range(20):
        for model, optimizer in ((net, a), (twin, b)):
            optimizer.zero_grad()
            nn.functional.mse_loss(model(x), target).backward()
            optimizer.step()
    for p, q in zip(net.parameters(), twin.parameters(), strict=True):
        assert p.requires_grad
        torch.testing.assert_close(p, q, rtol=1e-12, atol=1e-12)


# State dictionaries


def test_state_dicts_load_on_either_side(diy):
    ours, theirs, x = network(diy), torch_network(), numbers(5, 3)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    ours.load_state_dict(theirs.state_dict())
    torch.testing.assert_close(ours(x), theirs(x).detach())
    fresh = network(diy)
    theirs.load_state_dict(fresh.state_dict())
    torch.testing.assert_close(fresh(x), theirs(x).detach())
    assert not fresh[0].weight.requires_grad


def test_a_state_dict_shares_memory_as_in_pytorch(diy):
    layer = diy.Linear(3, 2)
    layer.state_dict()["bias"].fill_(5)
    assert layer.bias.tolist() == [5, 5]
    other = diy.Linear(3, 2)
    state = other.state_dict()
    layer.load_state_dict(state)
    state["bias"].fill_(9)
    assert layer.bias.tolist() == pytest.approx([0.01, 0.01]), "loading copies"


def test_loading_keeps_the_tensors_and_their_dtype(diy):
    layer = diy.Linear(3, 2)
    weight = layer.weight
    layer.load_state_dict({name: tensor.double() for name, tensor in diy.Linear(3, 2).state_dict().items()})
    assert layer.weight is weight and weight.dtype == torch.float32


def test_a_parameter_used_twice_stands_twice_in_the_state_dict(diy):
    layer = diy.Linear(3, 3)
    net, twin = diy.Sequential(layer, layer), nn.Linear(3, 3)
    assert list(net.state_dict()) == list(nn.Sequential(twin, twin).state_dict())
    # PyTorch lists such a parameter under its first name.
    assert [name for name, _ in net.named_parameters()] == ["0.weight", "0.bias"]
    net.load_state_dict(net.state_dict())


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"extra": torch.zeros(1)}, KeyError, r"unknown \['extra'\]"),
        ({"0.bias": None}, TypeError, "0.bias must be a tensor, got NoneType"),
        ({"3.weight": torch.zeros(4, 2)}, ValueError, r"3\.weight must have shape \(2, 4\), got \(4, 2\)"),
        ({"3.bias": torch.zeros(1)}, ValueError, r"3\.bias must have shape \(2,\), got \(1,\)"),
    ],
    ids=lambda value: str(value)[:20],
)
def test_a_refused_state_dict_changes_nothing(diy, change, error, words):
    net = network(diy)
    state = {name: torch.full_like(tensor, 9) for name, tensor in net.state_dict().items()} | change
    before = snapshot(net)
    with pytest.raises(error, match=words):
        net.load_state_dict(state)
    assert same(before, snapshot(net))


def test_a_missing_key_is_named(diy):
    net = network(diy)
    state = net.state_dict()
    del state["2.0.weight"]
    with pytest.raises(KeyError, match=r"missing \['2\.0\.weight'\]"):
        net.load_state_dict(state)


# Bad use: what was wrong, what was expected, and nothing changed


@pytest.mark.parametrize(
    ("shape", "got"), [((5, 4), r"\(5, 4\)"), ((2,), r"\(2,\)"), ((), r"\(\)"), ((3, 0), r"\(3, 0\)")], ids=str
)
def test_an_input_of_another_size_names_the_layers_place(diy, shape, got):
    with pytest.raises(ValueError, match=rf"expected an input of shape \(\.\.\., 3\), got {got}"):
        diy.Linear(3, 2)(torch.zeros(shape))
    with pytest.raises(ValueError, match=rf"^layer 0, Linear\(in_features=3, .*got {got}"):
        network(diy)(torch.zeros(shape))


def test_the_place_of_a_nested_layer(diy):
    net = diy.Sequential(diy.Linear(3, 4), diy.Sequential(diy.ReLU(), diy.Linear(5, 2)))
    with pytest.raises(ValueError, match=r"^layer 1\.1, Linear\(in_features=5.*\(\.\.\., 5\), got \(7, 4\)"):
        net(torch.zeros(7, 3))


def test_a_network_whose_forward_is_timed_names_the_layers_place(diy, monkeypatch):
    def timed(formula):
        return lambda *args: formula(*args)

    monkeypatch.setattr(diy.Sequential, "forward", timed(diy.Sequential.forward))
    with pytest.raises(ValueError, match=r"^layer 0, Linear\(in_features=3"):
        network(diy)(torch.zeros(5, 4))


def test_a_refused_forward_leaves_no_half_remembered_network(diy):
    net, x, g = diy.Sequential(diy.Linear(3, 4), diy.Linear(5, 2)), numbers(5, 3), numbers(5, 2)
    before = snapshot(net)
    with pytest.raises(ValueError, match=r"layer 1"):
        net(x)
    with pytest.raises(RuntimeError, match="no forward is waiting"):
        net.backward(g)
    with pytest.raises(RuntimeError, match="no forward is waiting"):
        net[0].backward(numbers(5, 4))
    assert same(before, snapshot(net))


@pytest.mark.parametrize(
    ("input", "words"),
    [
        (
            torch.ones(5, 3, dtype=torch.int64),
            r"must be a floating-point tensor, got torch\.int64: convert it with \.float",
        ),
        (torch.ones(5, 3, dtype=torch.bool), r"must be a floating-point tensor, got torch\.bool"),
        (torch.ones(5, 3, dtype=torch.complex64), r"must be a floating-point tensor, got torch\.complex64"),
        ([[1.0, 2.0, 3.0]], r"must be a floating-point tensor, got list"),
        (None, r"must be a floating-point tensor, got NoneType"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_an_input_that_is_no_tensor_of_floats(diy, input, words):
    for module in (diy.Linear(3, 2), diy.ReLU(), diy.Tanh(), diy.Dropout(0.5), network(diy), diy.Sequential()):
        with pytest.raises(TypeError, match=words):
            module(input)


def test_an_input_of_another_dtype_than_the_weights(diy):
    with pytest.raises(TypeError, match=r"the input is torch\.float64, the weights are torch\.float32"):
        diy.Linear(3, 2)(numbers(5, 3, dtype=torch.float64))


def one_of_size_three(diy, name):
    if name == "Sequential":
        return diy.Sequential(diy.Linear(3, 3), diy.Tanh())
    return diy.Linear(3, 3) if name == "Linear" else getattr(diy, name)()


@pytest.mark.parametrize("name", ["Linear", "ReLU", "Tanh", "Dropout", "Sequential"])
def test_backward_before_forward_and_twice(diy, name):
    module = one_of_size_three(diy, name)
    with pytest.raises(
        RuntimeError, match=r"no forward is waiting for \w+\.backward: call the module on an input first"
    ):
        module.backward(numbers(5, 3))
    module(numbers(5, 3))
    module.backward(numbers(5, 3))
    before = snapshot(module)
    with pytest.raises(RuntimeError, match=r"first \(each forward allows one backward, .* nothing is kept\)$"):
        module.backward(numbers(5, 3))
    assert same(before, snapshot(module))


@pytest.mark.parametrize("name", ["Linear", "ReLU", "Tanh", "Dropout", "Sequential"])
@pytest.mark.parametrize(
    ("gradient", "error", "words"),
    [
        (torch.zeros(5, 1), ValueError, r"must have the shape of the output, \(5, 3\), got \(5, 1\)"),
        (torch.zeros(3), ValueError, r"must have the shape of the output, \(5, 3\), got \(3,\)"),
        (torch.zeros(5, 3, dtype=torch.float64), TypeError, r"must be a tensor of torch\.float32, got torch\.float64"),
        (None, TypeError, r"must be a tensor of torch\.float32, got NoneType"),
        (1.0, TypeError, r"must be a tensor of torch\.float32, got float"),
    ],
    ids=["(5, 1)", "(3,)", "float64", "None", "number"],
)
def test_a_gradient_that_does_not_fit(diy, name, gradient, error, words):
    module = one_of_size_three(diy, name)
    module(numbers(5, 3))
    before = snapshot(module)
    with pytest.raises(error, match=words):
        module.backward(gradient)
    assert same(before, snapshot(module))
    module.backward(numbers(5, 3))  # A refused gradient does not use up the forward.


def test_a_refused_gradient_of_a_network_names_its_output(diy):
    net = diy.Sequential(diy.Linear(3, 4), diy.Sequential(diy.Linear(4, 2), diy.Tanh()))
    net(numbers(5, 3))
    with pytest.raises(ValueError, match=r"^the gradient given to Sequential\.backward .*\(5, 2\), got \(5, 3\)"):
        net.backward(numbers(5, 3))


def test_what_backward_needs_must_not_change_in_between(diy):
    layer, x = diy.Linear(3, 2), numbers(5, 3)
    layer(x)
    x += 1
    with pytest.raises(
        RuntimeError, match=r"a tensor of shape \(5, 3\) that Linear\.backward needs was changed in place"
    ):
        layer.backward(numbers(5, 2))
    assert layer.weight.grad is None and layer.bias.grad is None
    layer(x)
    layer.weight.mul_(2)
    with pytest.raises(RuntimeError, match=r"shape \(2, 3\) that Linear\.backward needs was changed"):
        layer.backward(numbers(5, 2))
    for module in (diy.ReLU(), diy.Tanh()):
        module(x).mul_(2)
        with pytest.raises(
            RuntimeError, match=r"was changed in place after forward: change a copy \(tensor\.clone\(\)\)"
        ):
            module.backward(numbers(5, 3))


def test_a_step_between_forward_and_backward_is_refused(diy):
    net = network(diy)
    optimizer = diy.SGD(net.parameters(), lr=0.1)
    net(numbers(5, 3))
    net.backward(numbers(5, 2))
    net(numbers(5, 3))
    optimizer.step()
    before = snapshot(net)
    with pytest.raises(RuntimeError, match=r"^layer 3, Linear.*changed in place"):
        net.backward(numbers(5, 2))
    assert same(before, snapshot(net))


def test_an_empty_network_goes_back_as_it_went_forward(diy):
    net = diy.Sequential()
    with pytest.raises(RuntimeError, match="no forward is waiting"):
        net.backward(numbers(5, 3))
    net(numbers(5, 3))
    with pytest.raises(ValueError, match=r"must have the shape of the output, \(5, 3\), got \(5, 1\)"):
        net.backward(numbers(5, 1))
    gradient = numbers(5, 3)
    assert torch.equal(net.backward(gradient), gradient)


def test_a_message_of_the_users_own_is_kept_whole(diy):
    class Norm(diy.Tanh):
        def forward(self, input):
            raise ValueError("layer norm needs 2 dimensions")

    with pytest.raises(ValueError, match=r"^layer 1\.0, Norm\(\): layer norm needs 2 dimensions$"):
        diy.Sequential(diy.Tanh(), diy.Sequential(Norm()))(numbers(3))


def test_numbers_of_numpy_are_numbers(diy):
    assert diy.Linear(np.int64(3), np.int32(2)).weight.shape == (2, 3)
    assert diy.Dropout(np.float32(0.25)).p == 0.25
    assert diy.SGD([torch.zeros(2)], lr=np.float32(0.5)).lr == 0.5


@pytest.mark.parametrize("params", [None, 3, torch.nn.Linear(2, 2)], ids=["None", "number", "PyTorch module"])
def test_an_optimizer_asks_for_tensors(diy, params):
    with pytest.raises(TypeError, match=r"must be an iterable of tensors, got .*: pass module\.parameters\(\)"):
        diy.SGD(params, 0.1)


@pytest.mark.parametrize("kind", ["SGD", "Adam"])
def test_a_copy_of_network_and_optimizer_goes_on_as_the_original(diy, kind):
    options = {"momentum": 0.9} if kind == "SGD" else {}
    net = network(diy)
    optimizer = getattr(diy, kind)(net.parameters(), lr=0.1, **options)

    def step(net, optimizer):
        optimizer.zero_grad()
        net.backward(net(numbers(5, 3)))
        optimizer.step()
        return snapshot(net)

    step(net, optimizer)
    twins = copy.deepcopy((net, optimizer))
    torch.manual_seed(1)
    ours = step(net, optimizer)
    torch.manual_seed(1)
    assert same(ours, step(*twins))


def test_a_refused_step_of_adam_leaves_no_trace(diy):
    parameter, twin = torch.ones(2), torch.ones(2)
    optimizer, other = diy.Adam([parameter], lr=0.1), diy.Adam([twin], lr=0.1)
    for tensor in (parameter, twin):
        tensor.grad = torch.ones(2)
    optimizer.step(), other.step()
    parameter.grad = None
    parameter.data = parameter.data.double()
    parameter.grad = torch.ones(2, dtype=torch.float64)
    with pytest.raises(RuntimeError):
        optimizer.step()
    parameter.grad = None
    parameter.data = parameter.data.float()
    parameter.grad = torch.ones(2)
    optimizer.step(), other.step()
    assert torch.equal(parameter, twin)


@pytest.mark.parametrize(
    ("p", "error", "words"),
    [
        (-0.1, ValueError, r"in \[0, 1\], got -0\.1"),
        (1.1, ValueError, r"in \[0, 1\], got 1\.1"),
        (math.nan, ValueError, r"in \[0, 1\], got nan"),
        ("0.5", TypeError, r"must be a number, got '0\.5' \(str\)"),
        (None, TypeError, "must be a number, got None"),
        (True, TypeError, "must be a number, got True"),
    ],
)
def test_a_probability_out_of_range(diy, p, error, words):
    with pytest.raises(error, match=f"^p, the probability of zeroing, .*{words}"):
        diy.Dropout(p)


@pytest.mark.parametrize("sizes", [(0, 2), (2, -1), (2.0, 3), (3, None), (True, 2), ("3", 2)], ids=str)
def test_sizes_of_a_layer_must_be_positive_integers(diy, sizes):
    wrong = "in_features" if not (type(sizes[0]) is int and sizes[0] > 0) else "out_features"
    with pytest.raises(ValueError, match=f"{wrong} must be an integer ≥ 1, got "):
        diy.Linear(*sizes)


@pytest.mark.parametrize(
    ("lr", "error", "words"),
    [
        (-0.1, ValueError, r"≥ 0, got -0\.1"),
        (math.nan, ValueError, "≥ 0, got nan"),
        (math.inf, ValueError, "must be a finite number ≥ 0, got inf"),
        ("0.1", TypeError, "must be a number, got '0.1'"),
        (None, TypeError, "must be a number, got None"),
        (False, TypeError, "must be a number, got False"),
    ],
)
def test_a_learning_rate_out_of_range(diy, lr, error, words):
    parameter = torch.zeros(2)
    with pytest.raises(
        error, match=f"^the learning rate {words}" if "must" in words else f"^the learning rate .*{words}"
    ):
        diy.SGD([parameter], lr=lr)
    optimizer = diy.SGD([parameter], lr=0.1)
    with pytest.raises(error, match=words):
        optimizer.lr = lr
    assert optimizer.lr == 0.1


@pytest.mark.parametrize("kind", ["SGD", "Adam"])
@pytest.mark.parametrize("value", [1e39, "0.1", -1.0, math.nan, None])
def test_a_setting_changed_by_hand_is_checked_by_the_step(diy, kind, value):
    net = diy.Linear(3, 2)
    net(numbers(5, 3))
    net.backward(numbers(5, 2))
    for name in ("lr", "weight_decay"):
        optimizer = getattr(diy, kind)(net.parameters(), lr=0.1)
        optimizer.step()
        before, state = snapshot(net), copy.deepcopy(optimizer.state_dict()["state"])
        optimizer.param_groups[0][name] = value
        with pytest.raises((TypeError, ValueError), match=r"learning rate|weight_decay"):
            optimizer.step()
        assert same(before, snapshot(net))
        torch.testing.assert_close(optimizer.state_dict()["state"], state, rtol=0, atol=0)


def test_a_second_group_of_parameters_is_refused(diy):
    net = diy.Linear(3, 2)
    optimizer = diy.SGD([net.weight], lr=0.1)
    optimizer.param_groups.append({"params": [net.bias], "lr": 0.2})
    with pytest.raises(ValueError, match="SGD has one group of parameters, got 2"):
        optimizer.step()


def test_a_learning_rate_tensor_without_dimensions_is_refused(diy):
    with pytest.raises((TypeError, ValueError), match="learning rate"):
        diy.SGD([torch.zeros(2)], lr=torch.tensor(0.1))


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"momentum": -0.1}, ValueError, r"momentum must be a finite number ≥ 0, got -0\.1"),
        ({"momentum": "a"}, TypeError, "momentum must be a number"),
        ({"dampening": math.nan}, ValueError, "dampening must be a finite number, got nan"),
        ({"weight_decay": -1}, ValueError, "weight_decay must be a finite number ≥ 0, got -1"),
        ({"nesterov": True}, ValueError, r"nesterov needs momentum > 0 and dampening = 0, got momentum=0, dampening=0"),
        ({"nesterov": True, "momentum": 0.9, "dampening": 0.1}, ValueError, r"dampening = 0, got .*dampening=0\.1"),
    ],
    ids=str,
)
def test_options_of_sgd_out_of_range(diy, options, error, words):
    with pytest.raises(error, match=words):
        diy.SGD([torch.zeros(2)], lr=0.1, **options)


@pytest.mark.parametrize(
    ("parameters", "error", "words"),
    [
        ([], ValueError, r"no parameters: pass module\.parameters\(\)"),
        (torch.zeros(2), TypeError, "must be an iterable of tensors, got Tensor: pass module"),
        ([{"params": [torch.zeros(2)]}], TypeError, r"must be tensors, with no groups, got dict"),
        ([1.0], TypeError, "must be tensors.* got float"),
        ([torch.zeros(2, dtype=torch.int64)], TypeError, r"must be floating-point tensors, got torch\.int64"),
        ([2 * torch.zeros(2, requires_grad=True)], ValueError, "computed from tensors that require gradients"),
    ],
    ids=["empty", "tensor", "groups", "numbers", "whole numbers", "computed"],
)
def test_parameters_that_an_optimizer_cannot_use(diy, parameters, error, words):
    with pytest.raises(error, match=words):
        diy.SGD(parameters, lr=0.1)


def test_an_optimizer_takes_parameters_and_each_once(diy):
    layer = diy.Linear(3, 2)
    with pytest.raises(TypeError, match="must be an iterable of tensors, got Linear"):
        diy.SGD(layer, lr=0.1)
    with pytest.raises(ValueError, match="a parameter appears twice in the list"):
        diy.SGD([layer.weight, layer.bias, layer.weight], lr=0.1)


def test_options_of_the_schedule_out_of_range(diy):
    optimizer = diy.SGD([torch.zeros(1)], lr=0.1)
    for steps in (0, -1, 2.5, True):
        with pytest.raises(ValueError, match="T_max must be an integer ≥ 1, got "):
            diy.CosineAnnealingLR(optimizer, steps)
    with pytest.raises(ValueError, match=r"eta_min must be a finite number ≥ 0, got -0\.1"):
        diy.CosineAnnealingLR(optimizer, 5, eta_min=-0.1)
    with pytest.raises(TypeError, match="optimizer must be an optimizer, such as SGD, got Linear"):
        diy.CosineAnnealingLR(diy.Linear(2, 2), 5)
    with pytest.raises(KeyError, match=r"not the state of a CosineAnnealingLR: missing \['T_max'"):
        diy.CosineAnnealingLR(optimizer, 5).load_state_dict(optimizer.state_dict())


@pytest.mark.parametrize(
    ("prediction", "target", "error", "words"),
    [
        (torch.zeros(5, 2), torch.zeros(5), ValueError, r"same shape, got \(5, 2\) and \(5,\): nothing is broadcast"),
        (torch.zeros(5, 1), torch.zeros(1, 5), ValueError, r"same shape, got \(5, 1\) and \(1, 5\)"),
        (torch.zeros(5), torch.zeros(()), ValueError, r"same shape, got \(5,\) and \(\)"),
        (
            torch.zeros(5),
            torch.zeros(5, dtype=torch.float64),
            TypeError,
            r"same dtype, got torch\.float32 and torch\.float64",
        ),
        (torch.zeros(5, dtype=torch.int64), torch.zeros(5), TypeError, r"the prediction must be .*got torch\.int64"),
        (
            torch.zeros(5),
            torch.zeros(5, dtype=torch.int64),
            TypeError,
            r"the target must be .*got torch\.int64: convert",
        ),
        ([0.0], torch.zeros(1), TypeError, "the prediction must be a floating-point tensor, got list"),
        (torch.zeros(1), 0.0, TypeError, "the target must be a floating-point tensor, got float"),
    ],
    ids=range(8),
)
def test_prediction_and_target_that_do_not_fit(diy, prediction, target, error, words):
    criterion = diy.MSELoss()
    criterion(torch.ones(2), torch.zeros(2))
    with pytest.raises(error, match=words):
        criterion(prediction, target)
    assert criterion.backward().tolist() == [1, 1], "a refused call changes nothing"


def test_the_backward_of_a_loss_before_its_forward_and_twice(diy):
    criterion = diy.MSELoss()
    with pytest.raises(
        RuntimeError, match=r"no forward is waiting for \w+\.backward: call criterion\(prediction, target\) first"
    ):
        criterion.backward()
    criterion(torch.ones(2), torch.zeros(2))
    criterion.backward()
    with pytest.raises(RuntimeError, match="no forward is waiting"):
        criterion.backward()


# A thousand steps beside PyTorch


def report_networks(diy, dropout):
    """The report's network on both sides, with the same weights, in float64."""
    ours, theirs = [], []
    for inputs in (2, 25, 25):
        ours += [diy.Linear(inputs, 25), diy.ReLU(), *([diy.Dropout(dropout)] if dropout else [])]
        theirs += [nn.Linear(inputs, 25), nn.ReLU(), *([nn.Dropout(dropout)] if dropout else [])]
    a = diy.Sequential(*ours, diy.Linear(25, 2), diy.Tanh()).to(torch.float64)
    b = nn.Sequential(*theirs, nn.Linear(25, 2), nn.Tanh()).double()
    b.load_state_dict(a.state_dict())
    return a, b


@pytest.mark.formula("F11", "F12", "F17", "F25")
@pytest.mark.parametrize(
    ("dropout", "reduction", "lr", "options"),
    [
        (0, "mean", 0.2, {}),
        (0.2, "sum", 0.001, {}),
        (0.2, "mean", 0.05, {"momentum": 0.9, "weight_decay": 1e-4, "nesterov": True}),
    ],
    ids=["mean", "dropout-sum", "dropout-momentum"],
)
def test_a_thousand_steps_beside_pytorch(diy, dropout, reduction, lr, options):
    a, b = report_networks(diy, dropout)
    ours, theirs = diy.MSELoss(reduction=reduction), nn.MSELoss(reduction=reduction)
    step_a = diy.SGD(a.parameters(), lr=lr, **options)
    step_b = torch.optim.SGD(b.parameters(), lr=lr, **options)
    points = torch.rand(1000, 2, dtype=torch.float64) * 2 - 1
    inside = (points.square().sum(1) < 2 / math.pi).double()
    targets = torch.stack([1 - inside, inside], 1)
    # The two sum in different orders, so that they part by a few units in the last place per step; 1e-12 after a
    # thousand steps says that nothing but rounding parts them, while one wrong factor would show in the first digits.
    generator = torch.default_generator  # torch.manual_seed, which seeds GPUs as well, takes longer than the step
    for step in range(1000):
        rows = torch.randint(1000, (100,))
        x, target = points[rows], targets[rows]
        generator.manual_seed(step)
        loss = ours(a(x), target)
        step_a.zero_grad()
        a.backward(ours.backward())
        step_a.step()
        generator.manual_seed(step)
        expected = theirs(b(x), target)
        step_b.zero_grad()
        expected.backward()
        step_b.step()
        generator.manual_seed(step + 1)
        assert abs(loss.item() - expected.item()) <= 1e-12 * max(1, expected.item()), f"step {step}"
        if step % 100 == 99:
            for p, q in zip(a.parameters(), b.parameters(), strict=True):
                torch.testing.assert_close(p, q.detach(), rtol=0, atol=1e-12)


def test_a_gradient_that_stands_for_two_parameters_belongs_to_each_of_them(diy):
    class Shift(diy.Module):
        parameter_names = ("b",)

        def __init__(self):
            self.b = torch.zeros(2)

        def forward(self, input):
            self.remember(input)
            return input + self.b

        def backward(self, gradient):
            (gradient,) = self.recall(gradient)
            self.accumulate(self.b, gradient)
            return gradient

    network, gradient = diy.Sequential(Shift(), Shift()), torch.ones(2)
    for _ in range(2):
        network(torch.zeros(2))
        network.backward(gradient)
    assert [parameter.grad.tolist() for parameter in network.parameters()] == [[2, 2], [2, 2]]
    assert gradient.tolist() == [1, 1]


def test_a_forward_that_fails_in_any_way_leaves_nothing_to_go_back_through(diy):
    class Picky(diy.ReLU):
        def forward(self, input):
            assert len(input) == 3, "three rows, please"
            return super().forward(input)

    network = diy.Sequential(diy.Linear(2, 2), Picky())
    network(torch.ones(3, 2))
    with pytest.raises(AssertionError, match=r"layer 1, Picky.*three rows"):
        network(torch.ones(4, 2))
    with pytest.raises(RuntimeError, match="no forward is waiting"):
        network.backward(torch.ones(3, 2))
    assert all(gradient is None for _, gradient in network.param())


@pytest.mark.parametrize("dtype", [torch.int64, torch.complex64])
def test_a_module_is_moved_to_floating_point_numbers_alone(diy, dtype):
    layer = diy.Linear(2, 3)
    before = layer.weight.clone()
    with pytest.raises(TypeError, match=r"^modules can only be moved to floating-point .* such as torch\.float64$"):
        layer.to(dtype)
    with pytest.raises(TypeError, match="floating-point"):
        layer.to(dtype=dtype)
    assert torch.equal(layer.weight, before)


def test_a_state_that_cannot_be_copied_changes_nothing(diy):
    layer = diy.Linear(2, 3)
    before = layer.weight.clone()
    with pytest.raises((RuntimeError, NotImplementedError)):
        layer.load_state_dict({"weight": torch.full((3, 2), 7.0), "bias": torch.ones(3, device="meta")})
    assert torch.equal(layer.weight, before)


def test_optimizers_take_pytorchs_names_of_arguments(diy):
    weight = torch.ones(2)
    weight.grad = torch.ones(2)
    diy.SGD(params=[weight], lr=0.5).step()
    assert weight.tolist() == [0.5, 0.5]
