"""The gradient checker: it calls right gradients right, wrong ones wrong, and names the well-known mistakes."""

import copy
import math
import random
import types

import numpy as np
import pytest
import torch

import diy
from gradcheck import check_gradients, compare
from tests.diy.test_gradcheck_table import Pointwise

NAN = float("nan")


def numbers(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


class ScaledLinear(diy.Linear):
    """A linear layer whose gradients are multiplied by `factors`, to be found out."""

    def __init__(self, *sizes, **factors):
        super().__init__(*sizes)
        self.factors = {"input": 1, "weight": 1, "bias": 1} | factors

    def backward(self, gradient):
        gradient, input, weight = self.recall(gradient)
        self.accumulate(weight, self.factors["weight"] * gradient.mT @ input)
        self.accumulate(self.bias, self.factors["bias"] * gradient.sum(0))
        return self.factors["input"] * gradient @ weight


class Sigmoid(diy.Module):
    """What a student may write, right or, with `derivative`, wrong."""

    def __init__(self, derivative=lambda output: output * (1 - output)):
        self.derivative = derivative

    def forward(self, input):
        output = input.sigmoid()
        self.remember(output, output)
        return output

    def backward(self, gradient):
        gradient, output = self.recall(gradient)
        return gradient * self.derivative(output)


class Scale(diy.Module):
    """A student's module with a parameter of no dimension; `update` takes in its gradient."""

    parameter_names = ("factor",)

    def __init__(self, update=diy.Module.accumulate):
        self.factor, self.update = torch.tensor(3.0), update

    def forward(self, input):
        output = self.factor * input
        self.remember(output, input)
        return output

    def backward(self, gradient):
        gradient, input = self.recall(gradient)
        self.update(self.factor, (gradient * input).sum())
        return gradient * self.factor


@pytest.mark.parametrize(
    "module",
    [
        diy.Linear(3, 2),
        diy.Linear(3, 2, bias=False),
        diy.ReLU(),
        diy.Tanh(),
        diy.Dropout(0.5),
        diy.Dropout(0.5).eval(),
        diy.Sequential(diy.Linear(3, 4), diy.ReLU(), diy.Dropout(0.3), diy.Linear(4, 2), diy.Tanh()),
        Sigmoid(),
        Scale(),
    ],
    ids=repr,
)
@pytest.mark.parametrize("shape", [(5, 3), (3,), (1, 3), (2, 2, 3), (0, 3)], ids=str)
def test_right_gradients_are_right(module, shape):
    for layer in module.modules():
        if hasattr(layer, "reset_parameters"):
            layer.reset_parameters()  # from the test's own seed
    check = check_gradients(module, numbers(*shape), verbose=False)
    assert check.right and check, check
    assert [verdict.name for verdict in check.verdicts] == ["input", *dict(module.named_parameters())]
    # Central differences with a step of 1e-5 in float64: the step's square and rounding over the step, both 1e-10.
    assert all(verdict.error < 1e-8 and verdict.reason == "" for verdict in check.verdicts)


def test_where_all_slopes_are_0_the_verdict_says_that_a_wrong_factor_would_not_show(capsys):
    words = "all slopes are 0 here, so that a wrong factor would not show: try torch.randn"
    assert check_gradients(diy.Linear(4, 4), torch.zeros(5, 4)).right
    said = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in said] == ["input", "weight", "all", "bias"] and said[2].strip() == words
    assert check_gradients(diy.ReLU(), torch.tensor([-1.0, -2.0]), verbose=False)["input"].reason == words
    for told in torch.tensor([-1.0, 2.0]), torch.empty(0, 2):  # a slope that is not 0, and nothing that could be wrong
        assert check_gradients(diy.ReLU(), told, verbose=False)["input"].reason == ""


def test_a_stack_is_checked():
    networks = [diy.Sequential(diy.Linear(2, 3), diy.Dropout(0.4), diy.Linear(3, 2)) for _ in range(2)]
    assert check_gradients(diy.stack(networks), numbers(2, 4, 2), verbose=False)
    assert check_gradients(diy.MSELoss(stacked=True), numbers(2, 4, 2), numbers(2, 4, 2, seed=1), verbose=False)


def test_an_input_gradient_that_is_spared_is_checked_nevertheless():
    layer = diy.Linear(3, 2)
    layer.needs_input_grad = False
    assert check_gradients(diy.Sequential(layer, diy.Tanh()), numbers(5, 3), verbose=False)["input"].right
    assert layer.needs_input_grad is False


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_losses_are_checked_with_a_target(reduction):
    check = check_gradients(diy.MSELoss(reduction=reduction), numbers(5, 2), numbers(5, 2, seed=1), verbose=False)
    assert check.right and [verdict.name for verdict in check.verdicts] == ["prediction"]


def test_a_loss_that_disagrees_with_its_gradient_is_found_out():
    class Mixed(diy.MSELoss):
        def backward(self):
            self.reduction = "sum"
            gradient = super().backward()
            self.reduction = "mean"
            return gradient

    verdict = check_gradients(Mixed(), numbers(5, 3), numbers(5, 3, seed=1), verbose=False)["prediction"]
    assert not verdict.right
    assert "times 15, that is M, with M = 15 components: summed where it should be averaged" in verdict.reason


@pytest.mark.parametrize(
    ("name", "factor", "words"),
    [
        ("weight", -1, "the sign is wrong"),
        ("bias", -5, "the sign is wrong, that is N"),
        ("bias", 2, "there is a factor 2 too many"),
        ("weight", 0.5, "the factor 2 is missing"),
        ("bias", 5, "that is N, with N = 5 samples: summed where it should be averaged"),
        ("input", 1 / 5, "that is 1/N, with N = 5 samples: averaged where it should be summed"),
        ("weight", 2 / 5, "that is 2/N"),
        ("weight", 5 / 2, "that is N/2"),
        ("input", 1 / 15, "that is 1/M, with M = 15 components"),
        ("weight", 0, "it is zero"),
        ("bias", 1.7, "it is the right one times 1.7"),
        ("bias", 1 + 3e-6, "it is the right one times 1.000003"),
    ],
)
def test_a_constant_factor_is_named(name, factor, words):
    check = check_gradients(ScaledLinear(3, 4, **{name: factor}), numbers(5, 3), verbose=False)
    assert not check and [verdict.name for verdict in check.verdicts if not verdict.right] == [name]
    assert words in check[name].reason
    assert check[name].got == pytest.approx(factor * check[name].expected, rel=1e-6)
    # With no wrong factor in it, the same layer passes.
    assert check_gradients(ScaledLinear(3, 4), numbers(5, 3), verbose=False)


def test_a_transpose_is_named():
    class Transposed(diy.Linear):
        def backward(self, gradient):
            gradient, input, weight = self.recall(gradient)
            self.accumulate(weight, input.mT @ gradient)
            self.accumulate(self.bias, gradient.sum(0))
            return (gradient @ weight).mT

    check = check_gradients(Transposed(3, 3), numbers(5, 3), verbose=False)
    assert check.wrong and "input's shape, (5, 3), got (3, 5): it is transposed" in check["backward"].reason

    class HalfTransposed(Transposed):
        def backward(self, gradient):
            return super().backward(gradient).mT

    check = check_gradients(HalfTransposed(3, 3), numbers(5, 3), verbose=False)
    assert check["weight"].reason == "it is the transpose of the right one"
    assert check["input"].right and check["bias"].right


def test_the_gradient_from_above_is_named():
    check = check_gradients(Sigmoid(torch.ones_like), numbers(5, 3), verbose=False)
    assert check["input"].reason == "it is the gradient from above, unchanged"


@pytest.mark.parametrize("seed", range(20))
def test_a_constant_factor_is_named_where_the_loss_is_strongly_curved(seed):
    # Near its minimum the slopes of a square to the left and to the right differ as they do at a kink.
    class Doubled(diy.MSELoss):
        def backward(self):
            return 2 * super().backward()

    check = check_gradients(Doubled(), numbers(20, 2, seed=seed), numbers(20, 2, seed=seed + 100), verbose=False)
    assert "there is a factor 2 too many" in check["prediction"].reason


@pytest.mark.parametrize("value", [-1.0, 0.0, NAN, float("inf")])
def test_where_forward_is_not_finite_no_gradient_is_right(value):
    class Root(diy.Module):
        def forward(self, input):
            output = input.sqrt()
            self.remember(output, input)
            return output

        def backward(self, gradient):
            (gradient, input) = self.recall(gradient)
            return gradient / (2 * input.sqrt())

    check = check_gradients(Root(), torch.tensor([0.5, value, 2.0]), verbose=False)
    assert not check and "there is no slope to compare with" in check["input"].reason


def test_a_gradient_of_another_kind_of_number_is_wrong():
    module = type("Complex", (diy.Tanh,), {"backward": lambda self, gradient: gradient.to(torch.complex64)})()
    assert "torch.complex64" in check_gradients(module, numbers(3), verbose=False)["backward"].reason


def test_the_worst_component_is_shown():
    wrong = torch.zeros(5, 3, dtype=torch.float64)
    wrong[3, 1] = 1.0
    verdict = check_gradients(Sigmoid(lambda output: output * (1 - output) + wrong), numbers(5, 3), verbose=False)[
        "input"
    ]
    assert verdict.index == (3, 1) and verdict.reason == "wrong in 1 of 15 components"
    assert verdict.got != pytest.approx(verdict.expected)
    assert verdict.error > 1e-6


@pytest.mark.parametrize(
    ("update", "words"),
    [
        (lambda parameter, gradient: setattr(parameter, "grad", gradient), "a second backward replaced it"),
        (lambda parameter, gradient: None, "there is no gradient: its .grad is None"),
        (lambda parameter, gradient: diy.Module.accumulate(parameter, gradient * NAN), "wrong in 1 of 1"),
    ],
    ids=["replaced", "missing", "not a number"],
)
def test_a_gradient_must_be_there_and_accumulate(update, words):
    check = check_gradients(Scale(update), numbers(5, 3), verbose=False)
    assert check["input"].right and not check["factor"].right
    assert words in check["factor"].reason


def test_a_backward_that_returns_nothing():
    check = check_gradients(type("Silent", (diy.Tanh,), {"backward": lambda self, gradient: None})(), numbers(3))
    assert "Silent.backward returned NoneType: is its `return` missing?" in check["backward"].reason


def test_a_backward_that_raises_is_reported():
    check = check_gradients(type("Failing", (diy.Tanh,), {"backward": lambda self, gradient: 1 / 0})(), numbers(3))
    assert check.wrong and "backward raised ZeroDivisionError: division by zero (line " in check["backward"].reason


def test_a_backward_that_ends_the_program_is_reported():
    check = check_gradients(type("Ending", (diy.Tanh,), {"backward": lambda self, gradient: exit()})(), numbers(3))
    assert check.wrong and "backward raised SystemExit" in check["backward"].reason


def test_a_forward_that_is_no_function_is_reported():
    class Counting(diy.Tanh):
        calls = 0

        def forward(self, input):
            self.calls += 1
            return super().forward(input) * self.calls

        def backward(self, gradient):
            return super().backward(gradient) * self.calls

    check = check_gradients(Counting(), numbers(3), verbose=False)
    assert "two forward passes on the same input gave different outputs" in check["output"].reason


class Masked:
    """Multiplies by random numbers, which `draw(generator)` gives; `anew` draws others for backward."""

    def __init__(self, generator, draw, anew=False):
        self.generator, self.draw, self.anew = generator, draw, anew

    def forward(self, input):
        self.mask = self.mask_of(input)
        return input * self.mask

    def mask_of(self, tensor):
        return torch.tensor([self.draw(self.generator) for _ in range(tensor.numel())]).view(tensor.shape)

    def backward(self, gradient):
        return gradient * (self.mask_of(gradient) if self.anew else self.mask)


@pytest.mark.parametrize(
    ("generator", "draw"),
    [
        (None, lambda _: float(torch.rand(()))),
        (None, lambda _: random.random()),
        (None, lambda _: float(np.random.rand())),
        (torch.Generator(), lambda generator: float(torch.rand((), generator=generator))),
        (random.Random(3), lambda generator: generator.random()),
        (np.random.default_rng(3), lambda generator: float(generator.random())),
        (np.random.RandomState(3), lambda generator: float(generator.rand())),
    ],
    ids=["torch", "random", "numpy", "torch.Generator", "random.Random", "numpy Generator", "numpy RandomState"],
)
def test_random_numbers_of_every_source_are_drawn_again(generator, draw):
    before = draw(copy.deepcopy(generator)) if generator else None
    state = random.getstate(), np.random.get_state()[1].tolist()
    assert check_gradients(Masked(generator, draw), numbers(4, 3), verbose=False)
    assert check_gradients(Masked(generator, draw, anew=True), numbers(4, 3), verbose=False).wrong
    assert state == (random.getstate(), np.random.get_state()[1].tolist())
    assert not generator or draw(generator) == before


@pytest.mark.parametrize(
    "misuse",
    [
        *(torch.abs, torch.sign, torch.square, torch.relu, torch.ones_like),
        *(lambda g: g.clamp(-1, 1), lambda g: g / g.norm(), lambda g: g.mean().expand_as(g)),
        *(lambda g: g.flip(0), lambda g: g[:1].expand_as(g), lambda g: g + 1e-4, lambda g: g.half().double()),
    ],
)
def test_a_gradient_from_above_that_is_used_wrongly_is_found(misuse):
    module = Pointwise(torch.sin, torch.cos)
    right = module.backward
    module.backward = lambda gradient: right(misuse(gradient))
    assert check_gradients(module, numbers(4, 3), verbose=False).wrong


@pytest.mark.parametrize("derivative", [0.0, 0.3, 1.0])
def test_at_a_kink_every_value_between_the_slopes_is_right(derivative):
    module = type("Kink", (diy.ReLU,), {})()
    module.backward = lambda gradient: gradient * derivative
    assert check_gradients(module, torch.zeros(3), verbose=False)
    outside = type("Kink", (diy.ReLU,), {})()
    outside.backward = lambda gradient: gradient * (derivative + 1.5)
    assert not check_gradients(outside, torch.zeros(3), verbose=False)


def test_nothing_of_the_caller_changes():
    module, input = diy.Sequential(diy.Linear(3, 2), diy.Dropout(0.5)), numbers(5, 3)
    before, drawn = {name: tensor.clone() for name, tensor in module.state_dict().items()}, input.clone()
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    check_gradients(module, input, verbose=False)
    assert torch.equal(torch.rand(4), expected), "the state of the random numbers changed"
    assert torch.equal(input, drawn)
    assert all(torch.equal(tensor, before[name]) for name, tensor in module.state_dict().items())
    assert all(parameter.grad is None and parameter.dtype == torch.float32 for parameter in module.parameters())


def test_what_is_printed(capsys):
    check_gradients(ScaledLinear(3, 3, weight=-1), numbers(5, 3))
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["input", "weight", "it", "bias"]
    assert lines[0].endswith("right") and "(5, 3)" in lines[0] and "relative error" in lines[0]
    assert "WRONG at (" in lines[1] and "got" in lines[1] and "expected" in lines[1]
    assert lines[2].strip() == "it is the right one times -1, the sign is wrong"
    check_gradients(diy.Tanh(), numbers(3), verbose=False)
    assert capsys.readouterr().out == ""


def test_repr_is_one_line():
    assert repr(check_gradients(diy.Tanh(), numbers(3), verbose=False)) == "GradientCheck(right)"
    wrong = check_gradients(ScaledLinear(3, 3, weight=-1, bias=2), numbers(5, 3), verbose=False)
    assert repr(wrong) == "GradientCheck(wrong: weight, bias)"


def test_what_cannot_be_checked_is_said_in_words():
    for place, words, arguments in (
        ("module", "Linear cannot be checked: it has no backward", (torch.nn.Linear(3, 2), numbers(5, 3))),
        ("input", "must be a floating-point tensor, got torch.int64", (diy.Tanh(), torch.arange(3))),
        ("input", "the input must be a floating-point tensor, got a list", (diy.Tanh(), [1.0, 2.0])),
        ("forward", "a loss is checked with a prediction and a target", (diy.MSELoss(), numbers(5, 2))),
        ("module", "got the class Tanh: make an object of it", (diy.Tanh, numbers(3))),
    ):
        check = check_gradients(*arguments, verbose=False)
        assert check.wrong and words in check[place].reason
    with pytest.raises(ValueError, match="tolerance must be a number above 0"):
        check_gradients(diy.Tanh(), numbers(3), tolerance=0)


def test_a_parameter_that_is_not_named_is_explained():
    class Forgetful(diy.Module):
        def __init__(self):
            self.weight = torch.ones(3, 2)

        def forward(self, input):
            output = input @ self.weight
            self.remember(output, input, self.weight)
            return output

        def backward(self, gradient):
            gradient, input, weight = self.recall(gradient)
            self.accumulate(weight, input.mT @ gradient)
            return gradient @ weight.mT

    check = check_gradients(Forgetful(), numbers(5, 3), verbose=False)
    assert check.wrong and "not among its parameters: add its name to parameter_names" in check["backward"].reason


@pytest.mark.parametrize("value", [0.0, -0.0, 2.0])
def test_an_input_without_dimensions_is_an_input(value):
    for module in (diy.ReLU(), diy.Tanh(), diy.Sequential(diy.ReLU(), diy.Tanh())):
        assert check_gradients(module, torch.tensor(value), verbose=False)


@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan])
def test_an_infinite_gradient_is_wrong_where_the_slope_is_known(value):
    check = check_gradients(Pointwise(torch.exp, lambda x: x * value), numbers(3), verbose=False)
    assert check.wrong and not math.isfinite(check["input"].got)
    # A vertical tangent: no slope can be measured, and infinity may be right.
    steep = Pointwise(lambda x: x.sign() * x.abs().sqrt(), lambda x: 0.5 / x.abs().sqrt())
    check = check_gradients(steep, torch.tensor([0.0, 1.0, -2.0]), verbose=False)
    assert not check.wrong and check["input"].cannot_tell


def test_what_vanishes_in_float64_is_not_wrong():
    square = Pointwise(lambda x: x**2, lambda x: 2 * x)
    assert check_gradients(square, torch.tensor([1e-200, 1.0], dtype=torch.float64), verbose=False)


@pytest.mark.parametrize("arguments", [{"tolerance": "x"}, {"tolerance": math.nan}, {"seed": 1.5}, {"seed": "x"}])
def test_arguments_of_the_check_itself_are_looked_at(arguments):
    with pytest.raises(ValueError, match=rf"{next(iter(arguments))} must be"):
        check_gradients(diy.Tanh(), numbers(3), **arguments)


def test_an_input_without_numbers_is_refused():
    check = check_gradients(diy.Tanh(), torch.ones(3, device="meta"), verbose=False)
    assert check.wrong and "holds no numbers" in check["input"].reason


def test_a_parameter_that_is_made_anew_each_time_is_told():
    class Anew(diy.Tanh):
        parameter_names = ("weight",)
        weight = property(lambda self: torch.ones(3))

    check = check_gradients(Anew(), numbers(3), verbose=False)
    assert check.wrong and "weight is another tensor each time" in check["forward"].reason


def test_an_exception_that_cannot_say_what_it_is_gives_a_verdict():
    class MuteError(Exception):
        def __str__(self):
            raise RuntimeError

    class Raises(diy.Tanh):
        def forward(self, input):
            raise MuteError

    check = check_gradients(Raises(), numbers(3), verbose=False)
    assert check.wrong and "forward raised MuteError" in check["forward"].reason


@pytest.mark.parametrize(
    ("forward", "slope"),
    [
        (lambda x: 1 - torch.cos(x), torch.sin),
        (lambda x: torch.exp(x) - 1, torch.exp),
        (
            torch.nn.functional.gelu,
            lambda x: 0.5 * (1 + torch.erf(x / 2**0.5)) + x * torch.exp(-x * x / 2) / 2.5066282746,
        ),
    ],
    ids=["1 - cos", "exp - 1", "gelu"],
)
@pytest.mark.parametrize("numbers", [[1e-5, 2e-6, 3e-8, 1e-12], [4.3e-17, 0.5, 1.0], [-5.0, -20.0, -40.0]])
def test_what_cancels_in_forward_is_not_wrong(forward, slope, numbers):
    numbers = torch.tensor(numbers, dtype=torch.float64)
    assert not check_gradients(Pointwise(forward, slope), numbers, verbose=False).wrong
    assert not check_gradients(Pointwise(forward, lambda x: 1.01 * slope(x)), numbers, verbose=False).right


def test_a_frozen_parameter_is_checked_nevertheless():
    layer = diy.Linear(3, 2)
    layer.weight.requires_grad = False
    assert check_gradients(layer, numbers(4, 3), verbose=False)
    assert layer.weight.frozen


def test_an_input_gradient_that_changes_with_the_calls_is_wrong():
    class Tired(diy.Tanh):
        calls = 0

        def backward(self, gradient):
            self.calls += 1
            return super().backward(gradient) * (1 if self.calls != 2 else 0.9)

    check = check_gradients(Tired(), numbers(3), verbose=False)
    assert check.wrong and "a second forward and backward gave another" in check["input"].reason


def test_a_module_without_numbers_and_a_forward_that_is_none():
    assert 'weight is on the device "meta"' in str(check_gradients(diy.Linear(3, 2, device="meta"), numbers(4, 3)))
    check = check_gradients(types.SimpleNamespace(forward=1, backward=2), numbers(3), verbose=False)
    assert "cannot be checked: its forward is not a method" in check["module"].reason


def test_a_module_that_keeps_its_first_input_is_wrong():
    class Stale(diy.Module):
        first = None

        def forward(self, x):
            if self.first is None:
                self.first = x
            self.remember(output := x * x)
            return output

        def backward(self, g):
            return 2 * self.recall(g)[0] * self.first

    assert check_gradients(Stale(), torch.ones(3), verbose=False).wrong


def test_a_parameter_that_pytorch_has_frozen_is_checked_nevertheless():
    module = diy.Linear(3, 2)
    module.weight = torch.nn.Parameter(module.weight.clone(), requires_grad=False)
    assert check_gradients(module, torch.ones(4, 3), verbose=False)
    assert not module.weight.requires_grad


@pytest.mark.parametrize("wrong", [math.inf, -math.inf, math.nan])
def test_an_infinite_gradient_is_never_right(wrong):
    assert "infinite or NaN" in compare(torch.tensor([wrong, 1.0]), torch.ones(2))[1]
