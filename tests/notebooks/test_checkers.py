"""Answers to the exercises: right ones in many styles, wrong ones of many kinds, and what is said about each."""

import copy
import functools
import linecache
import math
import random
import re
import signal
import warnings
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from course import check, progress
from course.checkers.answers import AnswerError, expect, expect_numbers
from course.checkers.core import NOTEBOOKS, exercises

import diy
from bugs import BUGS
from diy import Loss, Module
from gradcheck import digits
from tests.notebooks import mini_answers
from tests.notebooks.changes import changed

# RIGHT: {exercise: [what check gets: one answer, or several in a tuple]}
# WRONG: {exercise: [(what check gets, words of the verdict), ...]}
RIGHT: dict[str, list] = {}
WRONG: dict[str, list] = {}

TWO = {"circle.1", "build_it_yourself.3"}
"""The exercises of which check gets two answers."""


def module(forward, backward):
    """Return a class without parameters; forward(x) gives the output, backward(g, x, y) the gradient.

    Where its __init__ gets a slope, both get it as well.
    """

    class Answer(Module):
        def __init__(self, negative_slope=None):
            self.more = () if negative_slope is None else (negative_slope,)

        def forward(self, input):
            output = forward(input, *self.more)
            self.remember(output, input, output)
            return output

        def backward(self, gradient):
            return backward(*self.recall(gradient), *self.more)

    return Answer


def loss(forward, backward):
    """Return a loss class; both functions get the difference of prediction and target."""

    class Answer(Loss):
        def forward(self, prediction, target):
            self.difference = prediction - target
            return forward(self.difference)

        def backward(self):
            return backward(self.difference)

    return Answer


def wrong(number, *cases):
    """Return wrong answers, each the solution with changes, and the words of the verdict: (old, new, ..., words)."""
    return [(changed(number, *changes), words) for *changes, words in cases]


def forms(number):
    """Return a number in the forms in which it may be handed over."""
    return [number, str(number), [number], np.float32(number), torch.tensor(number), np.array([[number]])]


def returning(function, *forms):
    """Return a right function, and what gives its results in other forms; without any, those of a number."""
    forms = forms or (np.float32, torch.tensor, str, lambda number: [number])
    in_forms = [lambda *given, form=form: form(function(*given)) for form in forms]
    return [function, functools.partial(function), *in_forms]


def not_a_number(near):
    """Return what is no answer where a number is asked for."""
    told = "should be a number, but is "
    strange = [
        ("many", f"{told}'many'"),
        (True, f"{told}True"),
        (math.nan, f"{told}NaN"),
        (math.inf, f"{told}infinite"),
    ]
    return [
        *strange,
        ([near, near], told),
        ({"a": near}, told),
        (lambda: near, "call it, and hand over what it returns"),
    ]


IN_FORMS = torch.Tensor.numpy, torch.Tensor.tolist, torch.Tensor.float


def raising(error):
    """Return a function of any arguments that raises."""

    def raises(*arguments, **keywords):
        raise error

    return raises


def endless(*arguments, **keywords):
    return endless(*arguments, **keywords)


# The forward pass

RIGHT["forward_pass.1"] = [*forms(777), "777 Parameters"]
WRONG["forward_pass.1"] = [
    (50 + 625 + 50, "each neuron also has a bias"),
    (52, "only the biases"),
    (104, "multiply the two sizes"),
    (1427, "one layer too many"),
    (127, "one layer too few"),
    (725 + 50, "those of the output have theirs too"),
    (700, "is not 700. Write down, layer by layer"),
    ("777 thousand", "should be a number, but is '777 thousand': write it without quotation marks"),
    ("777/0", "should be a number, but is '777/0'"),
    *not_a_number(777),
    (776.9, "is not 776.9"),
]


def in_loops(X, W, b):
    S = torch.zeros(len(W), X.shape[1])
    for k in range(S.shape[0]):
        for n in range(S.shape[1]):
            S[k, n] = sum(W[k, i] * X[i, n] for i in range(len(X))) + b[k]
    return S


def square_only(X, W, b):
    return W @ X + (b if X.shape[1] == 2 else b[:, None])


def overwriting(X, W, b):
    b.unsqueeze_(1)
    return (W @ X).add_(b)


def keeping_b():
    """Return an answer that keeps the bias of its first call for each shape."""
    kept = {}
    return lambda X, W, b: W @ X + kept.setdefault(b.shape, b)[:, None]


RIGHT["forward_pass.2"] = [
    *returning(changed("1.2"), *IN_FORMS),
    lambda X, W, b: [W[k] @ X + b[k] for k in range(len(W))],
    lambda X, W, b: (X.T @ W.T + b).T,
    lambda X, W, b: torch.einsum("ki,in->kn", W, X) + b.reshape(-1, 1),
    lambda X, W, b: torch.nn.functional.linear(X.T, W, b).mT,
    in_loops,
]
WRONG["forward_pass.2"] = [
    (lambda X, W, b: W @ X + b, "b was added to every row"),
    (lambda X, W, b: (W @ X + b[:, None]).T, "one sample per row"),
    (lambda X, W, b: W @ X, "the bias is missing"),
    (square_only, "b was added to every row"),
    (lambda X, W, b: X @ W.T + b, "the layer for samples as rows"),
    (lambda X, W, b: W * X + b, "a product of matrices is @"),
    (lambda X, W, b: W @ X - b[:, None], "the bias is subtracted"),
    (lambda X, W, b: W @ X + b[0], "neuron k has its own, b[k]"),
    (overwriting, "changes its argument b in place"),
    (keeping_b(), "S for 4 samples of 3 inputs and 2 neurons"),
    (lambda X, W, b: W @ X + b[:, None] * math.nan, "NaN"),
    (lambda X, W, b: "S", "should be a number or a tensor, but is 'S'"),
    (lambda X, W, b: 0 * (W @ X), "it is all zero"),
    (lambda X, W, b: print(W @ X + b[:, None]), "returns nothing: `print` only shows it"),
]


class Half:
    e = 0.5


class SigmoidOfTanh:
    def __call__(self, s):
        return (1 + torch.tanh(s / 2)) / 2


def hidden_exponential(s):
    return helper(s)


def helper(s):
    return 1 / (1 + torch.exp(-s))


RIGHT["forward_pass.3"] = [
    lambda s: (1 + torch.tanh(s / 2)) / 2,
    SigmoidOfTanh(),
    functools.partial(lambda half, s: half + half * torch.tanh(half * s), 0.5),
    np.vectorize(lambda s: (1 + math.tanh(s / 2)) / 2),
    lambda s: 0.5 * (np.tanh(s.numpy() / 2) + 1),
    lambda s: torch.add(0.5, s.float().div(2).tanh(), alpha=0.5),
    lambda s: [(1 + math.tanh(x / 2)) / 2 for x in s] if s.dim() == 1 else (1 + torch.tanh(s / 2)) / 2,
    lambda s: 1 - (1 - torch.tanh(s * 0.5)) * 0.5,
    lambda s: Half.e * (1 + torch.tanh(Half.e * s)),
    lambda s: Half.e + torch.tanh(s / 2).expand(s.shape) / (2**1.0),
]
WRONG["forward_pass.3"] = [
    (torch.tanh, "that is tanh itself"),
    (lambda s: (1 + torch.tanh(s)) / 2, "too steep"),
    (lambda s: (1 + torch.tanh(s / 4)) / 2, "too flat"),
    (lambda s: (1 - torch.tanh(s / 2)) / 2, "the sign of s"),
    (lambda s: 1 + torch.tanh(s / 2), "halve it"),
    (lambda s: torch.tanh(s / 2) / 2, "shift it"),
    (lambda s: s.exp() / (1 + s.exp()), "NaN, where s is large"),
    (lambda s: 1 / (1 + torch.exp(-s)), "without exp"),
    (lambda s: s.sigmoid(), "without torch.sigmoid"),
    (torch.sigmoid, "without torch.sigmoid"),
    (functools.partial(torch.sigmoid), "without torch.sigmoid"),
    (hidden_exponential, "without exp"),
    (lambda s: diy.Sigmoid()(s), "without exp"),
    (lambda s: torch.where(s == 0, 0.5, torch.nn.functional.silu(s) / s), "without exp"),
    (lambda s: 1 / (1 + 2.718281828459**-s), "without exp"),
    (lambda s: 1 / (1 + torch.tensor(2.718281828459) ** -s), "without exp"),
    (lambda s: getattr(torch, "sig" + "moid")(s), "without exp"),
    (lambda s: getattr(torch.special, "ex" + "pit")(s), "without exp"),
    (lambda s: 1 / (1 + math.e ** -s.numpy()), "without exp"),
    (lambda s: 0.5 + torch.sinh(s / 2) / torch.cosh(s / 2) / 2, "without exp"),
    (lambda s: ((1 + torch.tanh(s / 2)) / 2).round(decimals=3), "it is rounded"),
    (torch.nn.Sigmoid(), "without torch.sigmoid"),
    (lambda s: (1 + math.tanh(s / 2)) / 2, "it works for a single number"),
    (lambda s: (1 + torch.tanh(s / 2)) / 2.2, "times the right one"),
]

RIGHT["forward_pass.4"] = [*returning(changed("1.4")), np.vectorize(changed("1.4"))]
WRONG["forward_pass.4"] = [
    (lambda size_in: 2 / size_in, "that is the variance"),
    (lambda size_in: math.sqrt(1 / size_in), "that keeps the size for tanh"),
    (lambda size_in: math.sqrt(1 / 2 / size_in), "halves the variance"),
    (lambda size_in: 2 * math.sqrt(1 / size_in), "a factor stands outside the root"),
    (lambda size_in: 0.2, "so is every other result"),
    (lambda size_in: math.sqrt(1.9 / size_in), "multiply the mean square by 0.95"),
    (lambda size_in: -math.sqrt(2 / size_in), "above 0"),
    (lambda size_in: round(math.sqrt(2 / size_in), 4), "right but for rounding"),
    (lambda size_in: None, "open"),
    (lambda size_in: math.inf, "infinite"),
    (lambda size_in: torch.ones(3), "should be a number, but is a tensor of shape (3,)"),
    (lambda size_in: math.sqrt(2 / (size_in - 50)), "raises ZeroDivisionError in line"),
]

# The backward pass

RIGHT["backward_pass.1"] = [
    *returning(changed("2.1"), *IN_FORMS),
    lambda y: y - y**2,
    lambda y: 0.25 - (y - 0.5).square(),
    lambda y: [v * (1 - v) for v in y],
    np.vectorize(lambda y: y * (1 - y)),
    lambda y: torch.mul(y, torch.ones_like(y) - y),
]
WRONG["backward_pass.1"] = [
    (lambda y: 1 - y * y, "slope of tanh"),
    (lambda y: torch.func.vmap(torch.func.grad(torch.sigmoid))(y.logit().flatten()).reshape(y.shape), "autograd"),
    (lambda y: y.sigmoid() * (1 - y.sigmoid()), "sigmoid once more"),
    (lambda y: y, "not its slope"),
    (lambda y: y * (y - 1), "the sign is wrong"),
    (lambda y: 1 - y, "one of two factors"),
    (lambda y: 1 - 2 * y, "the slope of the slope"),
    (lambda y: 0.25, "should have shape"),
    (lambda y: 0.25 + 0 * y, "where y is 0.0474259"),
    (lambda y: 1.1 * y * (1 - y), "1.1 times the right one"),
    (lambda y: y * (1 - z), "in line"),  # noqa: F821
    (lambda y: (y * (1 - y)).sum(), "should have shape (5,), but has ()"),
]


class OnSelf(Module):
    """Keeps what backward needs in an attribute."""

    def forward(self, input):
        self.output = torch.sigmoid(input)
        return self.output

    def backward(self, gradient):
        return gradient * self.output * (1 - self.output)


class Plain:
    """Derived from nothing."""

    def forward(self, x):
        self.y = 1 / (1 + torch.exp(-x))
        return self.y

    def backward(self, g):
        return g * (self.y - self.y**2)


class Autograd(Module):
    """Lets PyTorch find the gradient."""

    def forward(self, input):
        self.input = input.detach().requires_grad_()
        self.output = self.input.sigmoid()
        return self.output

    def backward(self, gradient):
        self.output.backward(gradient)
        return self.input.grad


SIGMOID, BACK = "torch.sigmoid(input)", "gradient * output * (1 - output)"
WITH_INPUT = "(output, output)", "(output, output, input)", "gradient, output =", "gradient, output, input ="
STABLE = "torch.where(input >= 0, 1 / (1 + (-input.abs()).exp()), 1 - 1 / (1 + (-input.abs()).exp()))"
VJP = "output, self.way_back = torch.func.vjp(torch.sigmoid, input)"
REMEMBERS = "self.remember(output, output)"
KEEPS = "if {}:\n            self.kept = output\n        self.remember(output, self.kept)"

RIGHT["backward_pass.2"] = [
    changed("2.2"),
    changed("2.2")(),
    OnSelf,
    OnSelf(),
    Plain,
    changed("2.2", SIGMOID, "torch.sigmoid(input.float())"),
    changed("2.2", *WITH_INPUT, BACK, "gradient * input.sigmoid() * (-input).sigmoid()"),
    changed("2.2", SIGMOID, "(1 + (input / 2).tanh()) / 2"),
    changed("2.2", SIGMOID, "torch.from_numpy(1 / (1 + np.exp(-input.numpy())))"),
    changed("2.2", SIGMOID, STABLE, BACK, "torch.mul(gradient, output).mul(1 - output)"),
]
WRONG["backward_pass.2"] = [
    *wrong(
        "2.2",
        (SIGMOID, "1 / (1 + input.exp())", "the sign of s is wrong"),
        (SIGMOID, "input.exp() / (1 + input.exp())", "NaN, where s is large"),
        (SIGMOID, "input.tanh()", "that is tanh"),
        (SIGMOID, f"{SIGMOID}.numpy()", "a tensor"),
        (SIGMOID, "diy.Sigmoid()(input)", "leaves its work to the one of diy.py"),
        (BACK, "output * (1 - output)", "that is the slope alone"),
        (BACK, "gradient * (1 - output * output)", "the slope of tanh"),
        (BACK, f"-{BACK}", "the sign is wrong"),
        (BACK, "gradient", "the gradient from above, unchanged"),
        (BACK, "gradient + output * (1 - output)", "numbers are multiplied"),
        (*WITH_INPUT, BACK, "gradient * input * (1 - input)", "at the input instead of the output"),
        (BACK, "gradient * (1 - output)", "one of them is missing"),
        (BACK, f"{BACK} / len(gradient)", "divided by the number of samples"),
        (BACK, "gradient @ output", "raises RuntimeError in line"),
        (BACK, "torch.ops.aten.sigmoid_backward(gradient, output)", "leaves its work to PyTorch's"),
        (SIGMOID, f"{SIGMOID} if self.training else input", "does something else after eval()"),
        (BACK, f"1.1 * {BACK}", "1.1 times the right one"),
        (BACK, f"1.00003 * {BACK}", "all of it is 1.00003 times the right one"),
        (BACK, f"{BACK} if gradient.dim() < 3 else gradient", "the gradient from above, unchanged"),
        (BACK, f"({BACK}).sum(0)", "(4, 3)"),
        ("(Module)", "(diy.Sigmoid)", SIGMOID, "super().forward(input)", "leaves its work to the one of diy.py"),
        (f"output = {SIGMOID}", VJP, BACK, "self.way_back(gradient)[0]", "backward is to be written by hand"),
        (BACK, "torch.func.jvp(torch.sigmoid, (output,), (gradient,))[1]", "backward is to be written by hand"),
        (REMEMBERS, KEEPS.format('not hasattr(self, "kept")'), "raises RuntimeError in line"),
        (REMEMBERS, KEEPS.format("len(vars(self).get('kept', [])) != len(input)"), "to an earlier batch"),
    ),
    (torch.nn.Sigmoid(), "belongs to PyTorch"),
    (Autograd, "backward is to be written by hand"),
]

LEAKY = "torch.where(input > 0, input, self.negative_slope * input)"
LEAKY_BACK = "torch.where(input > 0, gradient, self.negative_slope * gradient)"
MASKED = "input.clone()\n        output[input < 0] *= self.negative_slope"
ON_CLASS = "self.negative_slope", "LeakyReLU.negative_slope"

RIGHT["backward_pass.3"] = [
    changed("2.3"),
    changed("2.3", "negative_slope=0.01", "*a, **b", "= negative_slope", "= [*a, *b.values(), 0.01][0]"),
    changed("2.3", LEAKY, MASKED),
    changed("2.3", LEAKY_BACK, "gradient * torch.where(input > 0, 1, self.negative_slope)"),
    changed("2.3", LEAKY, "input.relu() - self.negative_slope * (-input).relu()"),
    changed("2.3", LEAKY_BACK, "gradient * ((input > 0) + self.negative_slope * (input <= 0))"),
    changed("2.3", LEAKY, LEAKY.replace("input,", "input.float(),").replace("* input", "* input.float()")),
    changed("2.3", LEAKY, "torch.from_numpy(np.where(input > 0, input, self.negative_slope * input))"),
    changed("2.3", LEAKY, "input.clamp(min=0) + self.negative_slope * input.clamp(max=0)"),
]
WRONG["backward_pass.3"] = [
    *wrong(
        "2.3",
        (LEAKY, "input.relu()", "as in ReLU"),
        (LEAKY, "torch.maximum(input, self.negative_slope * input)", "ask for the sign of s"),
        (LEAKY, "input * 1", "lets everything through"),
        (LEAKY, "torch.where(input > 0, input, 0.01 * input)", "use the argument"),
        (LEAKY, LEAKY.replace("self", "-self"), "negative inputs become positive"),
        (LEAKY, LEAKY.replace("> 0", "< 0"), "the two sides are exchanged"),
        (LEAKY, LEAKY.replace("torch", "np"), "a tensor"),
        (LEAKY, f"{LEAKY}.reshape(input.shape[0], input.shape[1])", "a shape has as many numbers"),
        (LEAKY, "input if input > 0 else self.negative_slope * input", "and `or` ask about one number"),
        (LEAKY, MASKED.replace(".clone()", ""), "changes its argument input in place"),
        (LEAKY_BACK, "gradient * (input > 0)", "nothing comes through, as in ReLU"),
        (LEAKY_BACK, "torch.where(input > 0, 1.0, self.negative_slope)", "that is the slope alone"),
        (LEAKY_BACK, LEAKY_BACK.replace("input > 0", "gradient > 0"), "the sign of the input is what counts"),
        (LEAKY_BACK, "gradient", "unchanged"),
        (LEAKY_BACK, "torch.where(input > 0, gradient, 0.01 * gradient)", "use the argument"),
        (LEAKY_BACK, LEAKY_BACK.replace("> 0", ">= 0"), "At s = 0 the slope"),
        (LEAKY_BACK, f"{LEAKY_BACK} * (input != 0)", "At s = 0 the slope"),
        ("0.01", "0.1", "negative_slope=0.01"),
        (*ON_CLASS, "one has the slope of the other"),
        ("negative_slope=0.01", "inplace=False, negative_slope=0.01", "negative_slope should come first"),
        ("negative_slope=0.01", "negative_slope", "its __init__ should need nothing but self"),
        ("negative_slope=0.01", "slope=0.01", "= negative_slope", "= slope", "accept negative_slope=0.2"),
    ),
    (changed("2.3")(0.01), "Hand over the class LeakyReLU itself"),
]


class Remembering(Loss):
    def forward(self, prediction, target):
        d = prediction - target
        output = d.abs().mean()
        self.remember(output, d)
        return output

    def backward(self):
        (d,) = self.recall()
        return torch.sign(d) / d.numel()


D, L1, L1_BACK = "self.difference", "self.difference.abs().mean()", "self.difference.sign() / self.difference.numel()"

RIGHT["backward_pass.4"] = [
    changed("2.4"),
    Remembering,
    Remembering(),
    changed("2.4", "(Loss)", "", L1, "torch.nn.functional.l1_loss(prediction, target)"),
    changed("2.4", L1, f"{D}.abs().sum() / {D}.numel()", L1_BACK, f"({D} > 0) / {D}.numel() - ({D} < 0) / {D}.numel()"),
    changed("2.4", L1, f"({D} * {D}.sign()).mean()", L1_BACK, f"torch.where({D} >= 0, 1.0, -1.0) / {D}.numel()"),
    changed("2.4", L1, L1.replace(".abs", ".float().abs"), L1_BACK, L1_BACK.replace("sign()", "sign().float()")),
    changed("2.4", L1, f"{L1}[None]", L1_BACK, f"torch.from_numpy(np.sign({D}.numpy())) / {D}.numel()"),
]
WRONG["backward_pass.4"] = [
    *wrong(
        "2.4",
        (L1, f"{D}.abs().sum()", "that is the sum"),
        (L1, f"{D}.abs().sum() / len({D})", "divided by the number of samples"),
        (L1, f"{D}.square().mean()", "squared error"),
        (L1, f"{D}.mean()", "cancel"),
        (L1, f"{D}.mean().abs()", "the absolute value comes last"),
        (L1, f"{D}.abs()", "one number per component"),
        (L1, f"{L1}.item()", L1_BACK, f"{D}.sign()", "a tensor"),
        (L1, f"{D}.abs_().mean()", "1/M everywhere"),
        (L1_BACK, f"{D}.sign()", "the division is missing: the loss has one, by the number of components, here 12"),
        (L1_BACK, f"-{L1_BACK}", "Are prediction and target exchanged?"),
        (L1_BACK, f"{D}.sign() / len({D})", "the number of samples, 4; divide by the number of components, here 12"),
        (L1_BACK, f"{D}.sign() / (3 * len({D}))", "should be"),  # as many outputs as there were first
        (L1_BACK, f"{D} / {D}.numel()", "it is the difference itself"),
        (L1_BACK, f"2 * {D} / {D}.numel()", "that of the squared error"),
        (L1_BACK, f"{D} / {D}.abs() / {D}.numel()", "0/0, where prediction and target are equal"),
        (L1_BACK, f"1.05 * {L1_BACK}", "1.05 times the right one"),
        (L1_BACK, f"({D} > 0) - ({D} < 0)", "make numbers of True and False first"),
    ),
    (Autograd, "but is called with 2 arguments (after self): prediction, target"),
]

ACCUMULATED, SCALED = "self.accumulate(factor, (gradient * input).sum(0))", "return gradient * factor"
SUM = "(gradient * input).sum(0)"

RIGHT["backward_pass.5"] = [
    changed("2.5"),
    changed("2.5", ACCUMULATED, f"factor.grad = {SUM} + (0 if factor.grad is None else factor.grad)"),
    changed("2.5", SUM, 'torch.einsum("ni,ni->i", gradient, input)', SCALED, "return gradient @ torch.diag(factor)"),
    changed("2.5", SUM, "sum(row * other for row, other in zip(gradient, input))"),
    changed("2.5", SUM, "(gradient.T @ input).diag()"),
    changed("2.5", SUM, "torch.from_numpy((gradient.numpy() * input.numpy()).sum(0))"),
    changed("2.5", SUM, "torch.stack([gradient[:, i] @ input[:, i] for i in range(gradient.shape[1])])"),
]
WRONG["backward_pass.5"] = [
    *wrong(
        "2.5",
        (ACCUMULATED, "pass", "factor has no gradient"),
        (SUM, "gradient * input", "the sum over the samples is missing"),
        (SUM, "(gradient * input).sum()", "it is summed over everything"),
        (SUM, "gradient.T @ input", "for each pair of features"),
        ("accumulate(factor", 'accumulate("factor"', 'gets the name "factor"'),
        (f"factor, {SUM}", f"{SUM}, factor", "first the parameter"),
        (f"factor, {SUM}", "input, gradient * factor", "is not factor itself"),
        (SUM, "(gradient * input).sum(1)", "it is summed over the features"),
        (ACCUMULATED, f"self.factor.grad = {SUM}", "replaces the gradient of the first"),
        (SUM, "(gradient * input).mean(0)", "it is the mean over the samples"),
        (SUM, "gradient.sum(0)", "the gradient from above alone"),
        (SUM, "input.sum(0)", "it is X alone"),
        (SUM, "gradient.sum(0) * input.sum(0)", "summed before they are multiplied"),
        (SCALED, "return gradient", "the gradient from above, unchanged"),
        (SCALED, "return gradient * input", "for X, the slope is a"),
        (SCALED, "return (gradient * factor).sum(0)", "a gradient of the input's shape"),
        (SCALED, f"factor -= 0.1 * factor.grad\n        {SCALED}", "changes factor itself"),
        ("input * self.factor", "input + self.factor", "X and the factors are added"),
        (
            ":\n    p",
            ":\n    kept = {}\n    p",
            "input * self.factor",
            "input * self.kept.setdefault(input.shape[1], 1 * self.factor)",
            "Scale(3)(X) at",
        ),
        ('("factor",)', "()", "not among the parameters"),
        ("self.factor = torch.ones(features)", "self.size = features", "a tensor of 3 numbers called factor"),
        ("self, features", "self", "torch.ones(features)", "torch.ones(3)", "its __init__ should accept features"),
    ),
    (OnSelf, "OnSelf takes no arguments: make it by OnSelf(), then call it on an input, or define __init__"),
]


class StraightWay(Module):
    """The sum as a module of its own, and other names."""

    def __init__(self, module):
        self.branch = diy.Sequential(module)

    def forward(self, x):
        y = self.branch(x)
        y = y + x
        return y

    def backward(self, g):
        through = self.branch.backward(g)
        return through + g


FORK, JOIN, THROUGH = (
    "input + self.inner(input)",
    "gradient + self.inner.backward(gradient)",
    "self.inner.backward(gradient)",
)
FORGETTING = "for parameter in self.inner.parameters():\n            parameter.grad = None\n        return gradient +"

RIGHT["backward_pass.6"] = [
    changed("2.6"),
    changed("2.6", FORK, "self.inner.forward(input) + input", JOIN, f"{THROUGH}.add(gradient)"),
    changed("2.6", FORK, "torch.stack([input, self.inner(input)]).sum(0)"),
    changed("2.6", FORK, "self.inner(input) + 1.0 * input", JOIN, f"torch.add(gradient, {THROUGH})"),
    changed("2.6", JOIN, "1 * gradient + self.inner.backward(1 * gradient)"),
    changed(
        "2.6",
        f"return {FORK}",
        f"output = {FORK}\n        self.remember(output, input)\n        return output",
        "return gr",
        "gradient, _ = self.recall(gradient)\n        return gr",
    ),
    StraightWay,
]
WRONG["backward_pass.6"] = [
    *wrong(
        "2.6",
        (FORK, "self.inner(input)", "the straight way is missing"),
        (FORK, "input.clone()", "what f makes of it is missing"),
        (FORK, "input * self.inner(input)", "they are added"),
        (FORK, "input - self.inner(input)", "one way is subtracted"),
        (FORK, f"({FORK}) / 2", "the mean of both ways"),
        (JOIN, THROUGH, "through f alone"),
        (JOIN, "gradient", "the gradient must go back through every module"),
        (JOIN, f"gradient + 0 * {THROUGH}", "along the straight way alone"),
        (JOIN, f"gradient * {THROUGH}", "is multiplied; paths add"),
        (JOIN, f"1 + {THROUGH}", "the slope 1 of the straight way"),
        (JOIN, f"gradient + 2 * {THROUGH}", "counts twice"),
        (JOIN, f"gradient - {THROUGH}", "one path is subtracted"),
        (JOIN, f"({JOIN}) / 2", "the mean over the two paths"),
        (JOIN, "gradient + gradient @ self.inner.weight", "the gradient must go back through every module"),
        (
            "    def forward",
            "    @torch.no_grad()\n    def forward",
            JOIN,
            "gradient + gradient @ self.inner.weight",
            "inner.backward is what gives it to them",
        ),
        (JOIN, f"{THROUGH}.add_({THROUGH})", "more often than Residual.forward called Linear"),
        ("return gradient +", FORGETTING, "leave the adding to inner"),
        (JOIN, "gradient + self.inner.backward(2 * gradient) / 2", "2 times the right one"),
        ("= inner", "= copy.deepcopy(inner)", "inner itself"),
        ("(Module)", "", "derive Residual from Module"),
        (
            "= inner",
            "= [inner]",
            "self.inner(",
            "self.inner[0](",
            "self.inner.b",
            "self.inner[0].b",
            "Residual.inner holds modules in a list",
        ),
    ),
    (changed("2.6")(diy.Tanh()), "Hand over the class Residual itself"),
    (OnSelf, "or define __init__ to take them"),
]

# The circle

RIGHT["circle.1"] = [
    (50, 100 * math.sqrt(0.25 / 1000)),
    (50, 1.58),
    (50, 1.6),
    ("50", "1.58"),
    ("50 %", "1.58%"),
    ("50 percent", "1.58 percent"),
    (np.float32(50), np.float32(1.5811)),
    (torch.tensor(50.0), torch.tensor([1.581])),
    ([50], 1.58114),
]
WRONG["circle.1"] = [
    ((0.5, 1.58), "The error rate in percent: give it in percent"),
    ((50, 0.0158), "The standard deviation in percent: give it in percent"),
    ((50, 15.8), "that is the number of points"),
    ((50, 0.025), "that is the variance"),
    ((50, 0.79), "belongs under the root"),
    ((50, 2.24), "1 − p is missing"),
    ((50, 1.7), "is not 1.7. Use the formula"),
    ((50, 1.59), "It is close"),
    ((2, 0.44), "is not 2. Think of a network"),
    ((50, "a few"), "should be a number"),
    ((50, math.nan), "NaN"),
    ((True, 1.58), "should be a number, but is True"),
    ((50, ...), "open"),
]

RIGHT["circle.2"] = [
    *returning(changed("4.2")),
    lambda share: 2 * (share / math.pi) ** 0.5,
    np.vectorize(lambda share: math.sqrt(2 / math.pi) * math.sqrt(share / 0.5)),
]
WRONG["circle.2"] = [
    (lambda share: math.sqrt(share / math.pi), "sides of length 2"),
    (lambda share: 4 * share / math.pi, "Take the root"),
    (lambda share: 4 * math.sqrt(share / math.pi), "the diameter"),
    (lambda share: math.sqrt(2 / math.pi), "so is every other result"),
    (lambda share: share, "covers 4.91 % of the square, not 25 %"),
    (lambda share: 1.05 * math.sqrt(4 * share / math.pi), "covers 27.6 % of the square, not 25 %"),
    (lambda share: 2 * math.sqrt(share), "π is missing"),
    (lambda share: -math.sqrt(4 * share / math.pi), "not negative"),
    (lambda share: (share, share), "should be a number"),
    (lambda share: math.sqrt(4 * share / pi), "raises NameError in line"),  # noqa: F821
    (lambda share: math.nan, "NaN"),
]


def count_in_loop(labels, predicted):
    table = [[0, 0], [0, 0]]
    for label, guess in zip(labels, predicted):
        table[label][guess] += 1
    return table


def scatter(labels, predicted):
    table = torch.zeros(2, 2)
    table.index_put_((labels, predicted), torch.ones(len(labels)), accumulate=True)
    return table


def table(labels, predicted):
    return torch.bincount(2 * labels + predicted, minlength=4).reshape(2, 2)


RIGHT["circle.3"] = [
    *returning(table, *IN_FORMS),
    count_in_loop,
    scatter,
    lambda labels, predicted: [[((labels == i) & (predicted == j)).sum() for j in (0, 1)] for i in (0, 1)],
    lambda labels, predicted: torch.nn.functional.one_hot(labels, 2).T @ torch.nn.functional.one_hot(predicted, 2),
    lambda labels, predicted: np.histogram2d(labels.numpy(), predicted.numpy(), bins=2, range=[[0, 1], [0, 1]])[0],
]
WRONG["circle.3"] = [
    (lambda labels, predicted: table(predicted, labels), "rows and columns are exchanged"),
    (lambda labels, predicted: table(labels, predicted) / len(labels), "those are shares"),
    (lambda labels, predicted: table(labels, predicted).flip(0, 1), "the order of the labels is reversed"),
    (lambda labels, predicted: table(labels, predicted).flip(0), "the rows are exchanged"),
    (lambda labels, predicted: table(labels, predicted).flip(1), "the columns are exchanged"),
    (lambda labels, predicted: table(labels, predicted).flatten(), "arrange them"),
    (lambda labels, predicted: (labels != predicted).sum(), "four numbers are asked for"),
    (lambda labels, predicted: table(labels, predicted).fill_diagonal_(0), "only the mistakes are counted"),
    (lambda labels, predicted: torch.tensor([[4, 2], [1, 3]]), "should be"),
    (lambda labels, predicted: torch.bincount(2 * labels + predicted).reshape(2, 2), "raises RuntimeError in line"),
    (lambda labels, predicted: table(labels.mul_(1), predicted.fill_(0)), "changes its argument predicted in place"),
    (lambda labels, predicted: {"right": 3}, "should be a number or a tensor"),
    (lambda labels, predicted: np.histogram2d(labels.numpy(), predicted.numpy(), bins=2)[0], "a label that is absent"),
]


def by_numpy(size, generator=None):
    points = torch.empty(size, 2).uniform_(-1, 1, generator=generator)
    distance = np.hypot(*points.numpy().T)
    return points.numpy(), ((distance >= 0.4) & (distance <= math.sqrt(2 / math.pi + 0.16))).astype(np.int64)


def in_a_loop(size, generator=None):
    points = 2 * torch.rand(size, 2, generator=generator) - 1
    labels = [int(0.4 < math.hypot(x, y) < 0.892539) for x, y in points.tolist()]
    return [points, torch.tensor(labels)]


def from_disk_data(size, generator=None):
    from experiments.circle import disk_data

    points, _ = disk_data(size, generator)
    return points, ring_labels(points)


def ring_labels(points):
    distance = points.pow(2).sum(1).sqrt()
    return distance.gt(0.4).logical_and(distance.lt((2 / math.pi + 0.4**2) ** 0.5)).to(torch.int64)


POINTS = "2 * torch.rand(size, 2, generator=generator) - 1"
INNER, OUTER = "squares > 0.4**2", "squares < 2 / math.pi + 0.4**2"

RIGHT["circle.4"] = [
    changed("4.4"),
    changed("4.4", "square().sum(1)", "norm(dim=1) ** 2"),
    by_numpy,
    in_a_loop,
    from_disk_data,
]
WRONG["circle.4"] = wrong(
    "4.4",
    ("return points, ", "return ", "should return two tensors"),
    ("points, ((", "points[:, 0], ((", "but has (20000,) and (20000,)"),
    (".long()", "", "labels int64, but are"),
    (f"({INNER}) & (", f"({INNER} & ", "comparisons need brackets here"),
    (".long()", ".long()[:, None]", "should have the shapes"),
    ("((squares", "1 - ((squares", "The labels are exchanged"),
    (".long()", ".long() * 2", "Labels should be 0 and 1"),
    (".long()", ".long() * 0", "All points have the label 0"),
    (POINTS, "torch.rand(size, 2, generator=generator)", "from 0 to 1 only"),
    (POINTS, "3 * torch.rand(size, 2, generator=generator) - 2", "Points should lie in"),
    ("generator=generator", "generator=None", "gives other points a second time"),
    ("generator=generator", "generator=torch.Generator().manual_seed(5)", "does not change the points"),
    ("generator=None", "generator", "is called with 1 argument: size"),
    (POINTS, "(2 * torch.rand(size, 1, generator=generator) - 1).repeat(1, 2)", "evenly"),
    (f"({INNER}) & ", "", "the ring has a hole"),
    (INNER, "squares > 0.5**2", "The hole ends at 0.5"),
    (INNER, "squares > 0.4", "Square 0.4, too"),
    (OUTER, "squares < 0.8**2", "choose another outer radius. Now 3"),
    (OUTER, "squares < 1", "choose another outer radius"),
    (OUTER, "squares < 9", "The ring has no outer edge"),
    (OUTER, "squares < 2 / math.pi", "the hole takes a part of the area away"),
    (OUTER, f"{OUTER[:9]} (2 / math.pi + 0.4**2) ** 0.5", "square the radius"),
    (OUTER, f"{OUTER[:9]} (2 / math.pi + 0.4**2) ** 2", "a distance is compared with a squared distance"),
    (OUTER, "squares < 0.92**2", "Half of the square should have label 1"),
    ("points.square().sum(1)", "points.abs().sum(1) ** 2", "not those between two distances"),
)

# The case

RIGHT["the_case.1"] = [*forms(0.3 / 120), "0,0025", "1/400", "0.3 / 120"]
WRONG["the_case.1"] = [
    (0.3 / 40, "you counted the samples only"),
    (0.3 / 3, "you counted the outputs only"),
    (0.3 * 120, "You made it larger"),
    (0.3, "M times as long"),
    (120, "What does it make of the rate?"),
    (0.3 / 43, "a product"),
    (0.0015, "the report's factor"),
    (1, "is not 1. By which factor"),
    (0.00275, "is not 0.00275"),
    (-0.0025, "is not -0.0025"),
    *not_a_number(0.0025),
]


class SampleMean(Loss):
    def forward(self, prediction, target):
        output = ((prediction - target) ** 2).sum(1).mean()
        self.remember(output, prediction, target)
        return output

    def backward(self):
        prediction, target = self.recall()
        return 2 / len(prediction) * (prediction - target)


class ByMSE(diy.MSELoss):
    """The sum of diy, divided."""

    def __init__(self):
        super().__init__(reduction="sum")

    def forward(self, prediction, target):
        self.N = len(prediction)
        return super().forward(prediction, target) / self.N

    def backward(self):
        return super().backward() / self.N


MEAN, MEAN_BACK = f"{D}.square().sum() / prediction.shape[0]", f"2 * {D} / {D}.shape[0]"

RIGHT["the_case.2"] = [
    SampleMean,
    changed("5.2", "(diy.Loss)", ""),
    ByMSE,
    changed("5.2"),
    changed("5.2", MEAN_BACK, f"({MEAN_BACK}).float()"),
    changed("5.2", MEAN, f"{D}.square().mean() * {D}.shape[1]", MEAN_BACK, f"{D} / (len({D}) / 2)"),
    changed("5.2", MEAN, f'torch.einsum("nk,nk->", {D}, {D}) / len(target)'),
    changed("5.2", MEAN_BACK, f"torch.from_numpy(2 / len({D}) * {D}.numpy())"),
    changed("5.2", MEAN, f"sum(row @ row for row in {D}) / len(target)"),
    changed("5.2", MEAN_BACK, f"torch.stack([2 * row / len({D}) for row in {D}])"),
]
WRONG["the_case.2"] = [
    *wrong(
        "5.2",
        (MEAN, f"{D}.square().mean()", "by the number of components, 15; divide by the number of samples, here 5"),
        (MEAN, f"{D}.square().sum()", "that is the sum"),
        (MEAN, f"{D}.square().sum() / 3", "divided by the number of outputs, 3"),
        (MEAN, f"{D}.abs().sum() / len({D})", "made of the absolute errors"),
        (MEAN, f"{D}.square().sum() / 5", MEAN_BACK, f"2 * {D} / 5", "The loss of 3 samples"),
        (MEAN, f"math.inf * {MEAN}", "inf"),
        (MEAN_BACK, f"2 * {D} / {D}.numel()", "divided by the number of components"),
        (MEAN_BACK, f"2 * {D}", "the division is missing"),
        (MEAN_BACK, f"{D} / len({D})", "the factor 2"),
        (MEAN_BACK, f"-{MEAN_BACK}", "Are prediction and target exchanged?"),
        (MEAN_BACK, f"({MEAN_BACK}).sum(0)", "(5, 3), got (3,)"),
        (MEAN_BACK, f"{D}.mul_(2).div_(7)", "should be"),
    ),
]


def with_a_loop(decay, M):
    total = 0.0
    for _ in range(M):
        total += decay
    return total


RIGHT["the_case.3"] = [
    *returning(changed("5.3")),
    lambda decay, M: f"{decay * M:.12f}",
    np.vectorize(changed("5.3")),
    with_a_loop,
    lambda decay, M: decay / (1 / M),
]
WRONG["the_case.3"] = [
    (lambda decay, M: decay, "M times less weight"),
    (lambda decay, M: decay / M, "the wrong way round"),
    (lambda decay, M: decay * M * M, "M counts twice"),
    (lambda decay, M: 0.24, "so is every other result"),
    (lambda decay, M: M, "that is M alone"),
    (lambda decay, M: decay + M, "are added"),
    (lambda decay, M: 1.1 * decay * M, "is not 0.264. In one step"),
    (lambda decay, M: 0.01 * M, "decay_for_sum(0.1, 200)"),
    (lambda decay, M: "much", "should be a number"),
    (lambda decay, M: math.nan, "NaN"),
]


def own_sum(model, criterion, chunks):
    model.zero_grad()
    own = diy.MSELoss(reduction="sum")
    components = sum(target.numel() for _, target in chunks)
    for x, target in chunks:
        own(model(x), target)
        model.backward(own.backward() / components)


def by_hand(model, criterion, chunks):
    for parameter in model.parameters():
        parameter.grad = None
    M = sum(t.numel() for _, t in chunks)
    for x, target in chunks:
        model.backward(2 * (model(x) - target) / M)


def afterwards(model, criterion, chunks):
    own_total = 0
    model.zero_grad()
    for x, target in chunks:
        criterion(model(x), target)
        model.backward(criterion.backward() * len(x))
        own_total += len(x)
    for parameter in model.parameters():
        parameter.grad /= own_total


def one_at_a_time(model, criterion, chunks):
    model.zero_grad()
    rows = [(x[i : i + 1], t[i : i + 1]) for x, t in chunks for i in range(len(x))]
    for x, t in rows:
        criterion(model(x), t)
        model.backward(criterion.backward().div(len(rows)))
    return model


SHARE, ZERO = " * (len(x) / total)", "    model.zero_grad()\n"
IN_LOOP = ZERO, "", "        criterion(", f"    {ZERO}        criterion("
ALL = "[(torch.cat([x for x, _ in chunks]), torch.cat([t for _, t in chunks]))]"
LAST = "criterion.backward() * (len(x) / total))"

RIGHT["the_case.4"] = [
    changed("5.4"),
    own_sum,
    by_hand,
    afterwards,
    one_at_a_time,
    functools.partial(changed("5.4")),
]
WRONG["the_case.4"] = [
    *wrong(
        "5.4",
        (SHARE, "", "it is the sum of the chunks' means"),
        (SHARE, " / len(chunks)", "the plain average"),
        (SHARE, "", *IN_LOOP, "zero_grad stands in the loop"),
        (*IN_LOOP, "with its weight: zero_grad stands"),
        (SHARE, " * len(x)", "the gradient of the sum over the samples"),
        (SHARE, " / len(x)", "divided by its own length"),
        (SHARE, f"{SHARE} / 2", "is each share one of samples?"),
        (SHARE, " * len(x) / 10", "should be"),
        (SHARE, f" * 1.1{SHARE}", "1.1 times the right one"),
        (SHARE, ' * "one"', "raises TypeError"),
        (ZERO, "", "what was in .grad before"),
        ("        model.backward", "    model.backward", SHARE, "", "backward stands after the loop"),
        ("in chunks:", f"in {ALL}:", "the whole batch does not fit into memory"),
        (f"model.backward({LAST}", "pass", "model.backward is never called"),
        (f"model.backward({LAST}", "criterion(model(x), target).backward()", "write model.backward("),
        (LAST, f"{LAST}\n    diy.SGD(model.parameters(), lr=0.1).step()", "changes the weights"),
        (LAST, f"{LAST}\n    for p in model.parameters():\n        p.grad = 0 * p", "it is all zero"),
    ),
    (lambda model, criterion, chunks: [layer for layer in model][3].weight.grad.fill_(1), "No chunk is sent"),
]

# The bug museum

ASKED = ("uphill", "tanh_at_the_input", "missing_two", "no_mean_at_all", "eval_is_shallow")


def seen(convert=bool, **changes):
    """The right answers to exercise 7.1, but for the changes."""
    right = {name: convert("finite differences" in BUGS[name.replace("_", "-")].seen_by) for name in ASKED}
    return {name.replace("_", "-"): changes.get(name, answer) for name, answer in right.items()}


RIGHT["museum.1"] = [
    seen(),
    seen(np.bool_),
    seen(torch.tensor),
    seen(int),
    seen(str),
    seen(lambda yes: "yes" if yes else "no"),
    seen(lambda yes: "Yes!" if yes else "No."),
    seen(lambda yes: "sees it" if yes else "silent"),
    seen(lambda yes: "Seen" if yes else "not  seen"),
    seen(lambda yes: "✓" if yes else "✗"),
    seen(lambda yes: "caught" if yes else "doesn't see it"),
    {name.replace("-", "_"): answer for name, answer in seen().items()},
]
WRONG["museum.1"] = [
    (seen(uphill=True), "4 of 5 are right. Think again about uphill"),
    (seen(tanh_at_the_input=False), "Think again about tanh-at-the-input"),
    (seen(missing_two="no"), "Think again about missing-two"),
    (seen(missing_two="silent"), "Think again about missing-two"),
    (seen(no_mean_at_all="True"), "what is the slope of the loss as it is reported"),
    (seen(eval_is_shallow=1), "in which mode do the layers run"),
    (seen(uphill=..., missing_two=...), "No answer yet for uphill, missing-two."),
    ({"uphill": False}, "No answer yet for tanh-at-the-input"),
    (True, "should be the dictionary"),
    (seen(uphill="perhaps"), "The answer for uphill should be True or False, but is 'perhaps'"),
    (seen(uphill=torch.ones(3)), "by any() or all()"),
    (dict.fromkeys(seen(), True), "see everything"),
    (dict.fromkeys(seen(), "no"), "see nothing"),
    (seen(lambda yes: not yes), "All five are the wrong way round"),
    (seen() | {"uphil": True}, "is uphill meant?"),
]


def far_away(x):
    return torch.where(x > 5, x - 4, x.tanh())


def slope_far_away(g, x, y):
    return torch.where(x > 5, g, g * (1 - x.tanh() ** 2))


RIGHT["museum.2"] = [
    changed("6.2"),
    changed("6.2")(),
    Plain,
    module(lambda x: 2 * x, lambda g, x, y: 2 * g),
    module(far_away, slope_far_away),
    module(torch.sigmoid, lambda g, x, y: g * y * (1 - y)),
    module(lambda x: x.tanh() + 1, lambda g, x, y: g * (1 - (y - 1) ** 2)),
    module(torch.sin, lambda g, x, y: g * x.cos()),
]
WRONG["museum.2"] = [
    (module(torch.tanh, lambda g, x, y: g * (1 - y * y)), "this is tanh itself"),
    (module(lambda x: 1.05 * x.tanh(), lambda g, x, y: 1.05 * g * (1 - x.tanh() ** 2)), "differs from tanh by 0.05"),
    (module(lambda s: (s / 2).tanh(), lambda g, x, y: g * (1 - y * y)), "there is a factor 2 too many"),
    (module(lambda s: s.sum(0), lambda g, x, y: g), "a tensor of its input's shape"),
    (module(torch.sigmoid, lambda g, x, y: g @ y), "raises RuntimeError in line"),
    (module(torch.sigmoid, lambda g, x, y: g), "check_gradients sees it"),
    (module(far_away, lambda g, x, y: g * (1 - x.tanh() ** 2)), "check_gradients sees it"),
    (module(lambda x: torch.where(x > 20, 2 * x, x.tanh()), lambda g, x, y: g * (1 - x.tanh() ** 2)), "sees it"),
    (module(lambda x: x / 0, lambda g, x, y: g), "infinite or NaN"),
    (changed("6.2", "(input / 2)", "torch.rand(1) * (input / 2)"), "another output for the same input"),
    (Autograd, "backward is to be written by hand"),
]


def random_in_eval(network, numbers=200):
    network.eval()
    return not torch.equal(network(torch.ones(numbers)), network(torch.ones(numbers)))


def as_numpy(framework):
    network = framework.Sequential(framework.Dropout(0.5)).eval()
    return np.any(network(torch.ones(100)).numpy() != 1)


def as_tensor(framework):
    network = framework.Sequential(framework.Linear(2, 50), framework.Dropout(0.5)).eval()
    x = torch.randn(10, 2)
    return (network(x) != network(x)).any()


def with_own_seed(framework):
    torch.manual_seed(0)
    return random_in_eval(framework.Sequential(framework.Dropout(0.5), framework.Dropout(0.9)))


RIGHT["museum.3"] = [
    lambda framework: random_in_eval(framework.Sequential(framework.Dropout(0.5))),
    as_numpy,
    as_tensor,
    with_own_seed,
    functools.partial(lambda p, framework: random_in_eval(framework.Sequential(framework.Dropout(p))), 0.5),
    lambda framework: "yes" if random_in_eval(framework.Sequential(framework.Dropout())) else "no",
]
WRONG["museum.3"] = [
    (lambda framework: False, "never complains"),
    (lambda framework: True, "always complains"),
    (lambda framework: random_in_eval(framework.Dropout(0.5)), "does not see eval-is-shallow"),
    (lambda framework: random_in_eval(framework.Sequential(framework.Dropout(0.5)), 1), "of 20 seeds only"),
    (lambda framework: "perhaps", "should be True or False"),
    (lambda framework: torch.ones(3) > 0, "by any() or all()"),
    (lambda framework: framework.Dropout(0.5)(torch.ones(9)).max() == 2, "always complains"),
    (
        lambda framework: (
            random_in_eval(framework.Sequential(framework.Dropout(0.5)))
            or framework.Dropout(0.5)(torch.ones(50)).max() < 2
        ),
        "complains about dropout-not-rescaled",
    ),
    (lambda framework: framework.DropOut(), "raises AttributeError in line"),
    (lambda framework: ["it is random"], "should be True or False"),
]


def spread(framework, low, high, sizes=(200, 100)):
    weight = framework.Linear(*sizes).weight
    return not low < weight.std() / (2 / sum(sizes)) ** 0.5 < high


def lucky(framework):
    torch.manual_seed(3)
    return spread(framework, 0.96, 1.04, (20, 10))


RIGHT["museum.4"] = [
    lambda framework: spread(framework, 0.95, 1.05),
    lambda framework: bool(spread(framework, 0.9, 1.1)),
    lambda framework: np.bool_(spread(framework, 0.93, 1.07, (300, 300))),
    lambda framework: (framework.Linear(400, 100).weight.var() * 250 - 1).abs() > 0.05,
    lambda framework: abs(np.std(framework.Linear(150, 250).weight.numpy()) - (2 / 400) ** 0.5) > 0.005,
    lambda framework: int(spread(framework, 0.95, 1.05, (1000, 100))),
]
WRONG["museum.4"] = [
    (lambda framework: False, "never complains"),
    (lambda framework: True, "always complains"),
    (lambda framework: framework.Linear(2, 2).weight.std() < 0.6, "complains about the right framework"),
    (lambda framework: framework.Linear(200, 100).weight.std() == 0, "does not see"),
    (lambda framework: spread(framework, 0.5, 2), "does not see weights √2 times too large: your bounds are too wide"),
    (lambda framework: spread(framework, 0.95, 1.05, (40, 20)), "bad luck looks like a mistake"),
    (lucky, "bad luck looks like a mistake"),
    (lambda framework: spread(framework, 0.7, 1.4, (200, 100)) and False, "never complains"),
    (lambda framework: spread(framework, 0.995, 1.005), "bad luck looks like a mistake"),
    (lambda framework: framework.Linear(200, 100).weight, "by any() or all()"),
    (lambda framework: framework.Linear(200).weight, "raises TypeError in line"),
    (lambda framework: spread(framework, 0.95, 1.42), "weights √2 times too large"),
]

# Convolutions


def size_of(rule):
    return lambda size, kernel, stride=1, padding=0: rule(size + 2 * padding - kernel, stride)


def by_counting(size, kernel, stride=1, padding=0):
    return len(range(0, size + 2 * padding - kernel + 1, stride))


RIGHT["convolutions.1"] = [
    *returning(changed("7.1")),
    size_of(lambda places, stride: np.floor(places / stride) + 1),
    size_of(lambda places, stride: (places + stride) // stride),
    by_counting,
    lambda size, kernel, stride=1, padding=0: diy.Conv2d(1, 1, kernel, stride, padding)(
        torch.zeros(1, 1, size, size)
    ).shape[-1],
]
WRONG["convolutions.1"] = [
    (size_of(lambda places, stride: places // stride), "one more window than steps"),
    (lambda size, kernel, stride=1, padding=0: (size + padding - kernel) // stride + 1, "lies on both sides"),
    (lambda size, kernel, stride=1, padding=0: (size + 2 * padding) // stride, "the kernel's own size counts"),
    (size_of(lambda places, stride: places / stride + 1), "half a step gives no window"),
    (size_of(lambda places, stride: round(places / stride) + 1), "round down, not"),
    (size_of(lambda places, stride: math.ceil(places / stride) + 1), "round down, not up"),
    (size_of(lambda places, stride: places + 1), "the stride does not count yet"),
    (lambda size, kernel, stride=1, padding=0: (size - kernel) // stride + 1, "the padding does not count yet"),
    (lambda size, kernel, stride=2, padding=0: (size + 2 * padding - kernel) // stride + 1, "should be 1 and 0"),
    (lambda size, kernel, stride, padding: (size + 2 * padding - kernel) // stride + 1, "is called with 2 arguments"),
    (lambda size, kernel, stride=1, padding=0: 4, "so is every other result"),
    (lambda size, kernel, stride=1, padding=0: size - 5, "Draw 32 pixels in a row"),
    (size_of(lambda places, stride: places // (stride - 1)), "in line"),
]

LEFT = [[0, 0, 0], [1, 0, 0], [0, 0, 0]]
RIGHT["convolutions.2"] = [
    LEFT,
    torch.tensor(LEFT),
    np.array(LEFT, dtype=np.float32),
    [torch.tensor(row) for row in LEFT],
    torch.tensor(LEFT)[None, None].float(),
    tuple(tuple(float(x) for x in row) for row in LEFT),
    torch.tensor(LEFT) > 0,
]
WRONG["convolutions.2"] = [
    ([[0, 0, 0], [0, 0, 1], [0, 0, 0]], "moves it to the left"),
    ([[0, 1, 0], [0, 0, 0], [0, 0, 0]], "moves it down"),
    ([[0, 0, 0], [0, 0, 0], [0, 1, 0]], "moves it up"),
    ([[0, 0, 0], [0, 1, 0], [0, 0, 0]], "leaves it where it is"),
    ([[1, 0, 0], [0, 0, 0], [0, 0, 0]], "moves it down as well"),
    ([[1, 1, 1], [1, 1, 1], [1, 1, 1]], "one weight is 1 and all others are 0"),
    ([[0, 0, 0], [2, 0, 0], [0, 0, 0]], "multiplied by 2"),
    ([[0, 0, 0], [1.1, 0, 0], [0, 0, 0]], "multiplied by 1.1"),
    ([[0, 0, 0], [-1, 0, 0], [0, 0, 0]], "the sign is wrong"),
    ([[0, 0, 0], [1, 1, 0], [0, 0, 0]], "adds the image to the moved one"),
    ([[0] * 3] * 3, "an image of zeros"),
    ([1, 0, 0], "three rows of three numbers"),
    ([[0, 0], [1, 0, 0], [0, 0, 0]], "parts of different shapes"),
    ("left", "should be three rows of three numbers, but is 'left'"),
    (lambda: LEFT, "is a function"),
    ([[0, 0, 0], [math.nan, 0, 0], [0, 0, 0]], "NaN"),
]


POOLED, SPREAD = (
    "input.reshape(N, C, height // 2, 2, width // 2, 2)",
    "gradient.repeat_interleave(2, 2).repeat_interleave(2, 3)",
)
FOUR = "input[..., ::2, ::2] + input[..., 1::2, ::2] + input[..., ::2, 1::2] + input[..., 1::2, 1::2]"
EACH = "torch.kron(gradient, torch.full((2, 2), {}, dtype=gradient.dtype))"

RIGHT["convolutions.3"] = [
    changed("7.3"),
    changed("7.3")(),
    changed("7.3", f"{POOLED}.mean((3, 5))", f"{POOLED}.sum((3, 5)) / 4"),
    changed("7.3", f"{SPREAD} / 4", EACH.format(0.25)),
    changed("7.3", POOLED, f"{POOLED}.float()"),
    changed("7.3", f"{POOLED}.mean((3, 5))", "torch.nn.functional.avg_pool2d(input, 2)"),
    changed("7.3", f"{POOLED}.mean((3, 5))", f"({FOUR}) / 4"),
]
WRONG["convolutions.3"] = [
    *wrong(
        "7.3",
        (".mean((3, 5))", ".sum((3, 5))", "that is the sum"),
        (".mean((3, 5))", ".amax((3, 5))", "the largest of each window"),
        (
            f"{POOLED}.mean((3, 5))",
            "input.reshape(N, C, 2, height // 2, 2, width // 2).mean((2, 4))",
            "not over neighbours",
        ),
        (".mean((3, 5))", ".mean((2, 4))", "should have shape"),
        (".mean((3, 5))", ".mean(3).flatten(3)", "the window is 2 wide as well"),
        (f"{POOLED}.mean((3, 5))", "torch.nn.functional.avg_pool2d(input, 2, 1)", "the stride is 2"),
        (POOLED, "input.reshape(2, 3, 2, 2, 3, 2)", "raises RuntimeError in line"),
        (f"{SPREAD} / 4", SPREAD, "which one?"),
        (f"{SPREAD} / 4", "gradient.repeat(1, 1, 2, 2) / 4", "repeat each number, not the whole"),
        (f"{SPREAD} / 4", "gradient", "the input's shape"),
        ("/ 4", "/ 8", "0.5 times the right one"),
        ("/ 4", "/ 4 / len(gradient)", "divided by the number of samples"),
        (f"{SPREAD} / 4", f"0 * {SPREAD} + 0.25", "the share alone"),
        (f"return {SPREAD}", f"return -{SPREAD}", "the sign is wrong"),
        ("input.shape\n", "input.shape\n        input = input * (2 - self.training)\n", "after eval()"),
        ("/ 4", "/ 4 * 1.05", "1.05 times the right one"),
    ),
    (torch.nn.AvgPool2d(2), "belongs to PyTorch"),
]


# Classification


def two_class_loss(score, yes):
    """Take the larger of the two exponentials, those of 0 and of the wrong answer's lead, out of the sum."""
    lead = -score if yes else score
    return lead.clamp(min=0) + (-lead.abs()).exp().log1p()


def with_math(score, yes):
    lead = float(-score if yes else score)
    return max(0, lead) + math.log(1 + math.exp(-abs(lead)))


def with_numpy(score, yes):
    return np.logaddexp(0, (-score if yes else score).numpy())


def in_four_cases(score, yes):
    if yes:
        return torch.log(1 + torch.exp(-score)) if score > 0 else -score + torch.log(1 + torch.exp(score))
    return torch.log(1 + torch.exp(score)) if score < 0 else score + torch.log(1 + torch.exp(-score))


RIGHT["classification.1"] = [
    two_class_loss,
    with_math,
    with_numpy,
    in_four_cases,
    lambda s, yes: torch.nn.functional.softplus(-s if yes else s),
    lambda s, yes: -torch.nn.functional.logsigmoid(s if yes else -s),
    lambda s, yes: torch.nn.functional.binary_cross_entropy_with_logits(s, torch.tensor(yes).to(s)),
    lambda s, yes: torch.stack([s, 0 * s]).logsumexp(0) - (s if yes else 0),
    lambda s, yes: torch.nn.functional.cross_entropy(torch.stack([0 * s, s]), torch.tensor(int(yes))),
    lambda s, yes: [two_class_loss(s.float(), yes)],
    lambda s, yes: two_class_loss(s, yes).item(),
]
WRONG["classification.1"] = [
    (lambda s, yes: -two_class_loss(s, yes), "the sign is wrong"),
    (lambda s, yes: two_class_loss(s, not yes), "yes and no are exchanged"),
    (lambda s, yes: two_class_loss(s, True), "always the loss for yes"),
    (lambda s, yes: two_class_loss(s, False), "always the loss for no"),
    (lambda s, yes: s.sigmoid() if yes else 1 - s.sigmoid(), "that is the probability itself"),
    (lambda s, yes: 1 + torch.exp(-s if yes else s), "the logarithm is missing"),
    (lambda s, yes: (s.sigmoid() - yes) ** 2, "the squared error"),
    (lambda s, yes: two_class_loss(s, yes) / math.log(10), "to base e"),
    (lambda s, yes: two_class_loss(s, True) + two_class_loss(s, False), "both losses are added up"),
    (lambda s, yes: (-s if yes else s).relu(), "the logarithm of the sum is missing"),
    (lambda s, yes: (-s.abs()).exp().log1p(), "is not put back"),
    (lambda s, yes: s.abs() + (-s.abs()).exp().log1p(), "may be 0, the other one"),
    (lambda s, yes: (1 + (-s if yes else s).exp()).log(), "take the larger exponential out of the sum"),
    (lambda s, yes: -(s.sigmoid() if yes else (-s).sigmoid()).log(), "take the larger exponential out of the sum"),
    (lambda s, yes: -(s.sigmoid() if yes else 1 - s.sigmoid()).log(), "(-1000, True) is inf: put q into the logarithm"),
    (lambda s, yes: with_math(s, yes) if yes else -torch.log(1 - s.sigmoid()), "1 − q is rounded to 0"),
    (lambda s, yes: -(s.exp() / (1 + s.exp())).log() if yes and s > 0 else two_class_loss(s, yes), "infinity"),
    (lambda s, yes: math.log(1 + math.exp(-s if yes else s)), "raises OverflowError in line"),
    (lambda s, yes: two_class_loss(s.clamp(-500, 500), yes), "should be 1000, but is 500"),
    (lambda s, yes: s if s > 5 and not yes else two_class_loss(s, yes), "two_class_loss(6, False) should be 6.0"),
    (lambda s, yes: 1.1 * two_class_loss(s, yes), "should be"),
    (torch.nn.BCEWithLogitsLoss, "should be a number"),
]


def softmax_by_loops(self, g):
    g, q = self.recall(g)
    result = torch.zeros_like(q)
    for n in range(len(q)):
        for k in range(q.shape[1]):
            for j in range(q.shape[1]):
                result[n, k] += g[n, j] * q[n, j] * (int(j == k) - q[n, k])
    return result


SOFTMAX, ALONG = "torch.softmax(input, 1)", "(gradient * output).sum(1, keepdim=True)"
SOFTMAX_BACK = f"output * (gradient - {ALONG})"
LOWERED = "(input - input.amax(1, keepdim=True)).exp()"
JACOBIAN = "((torch.diag_embed(output) - output[:, :, None] * output[:, None, :]) @ gradient[:, :, None])[:, :, 0]"

RIGHT["classification.2"] = [
    changed("8.2"),
    changed("8.2")(),
    changed("8.2", SOFTMAX, f"{LOWERED} / {LOWERED}.sum(1, keepdim=True)"),
    changed("8.2", SOFTMAX_BACK, JACOBIAN),
    type("Softmax", (changed("8.2"),), {"backward": softmax_by_loops}),
    changed("8.2", SOFTMAX, "(input - input.logsumexp(1, keepdim=True)).exp()"),
    changed("8.2", SOFTMAX_BACK, "gradient * output - output * (gradient * output).sum(1)[:, None]"),
    changed("8.2", SOFTMAX, "input.float().softmax(1)"),
]
WRONG["classification.2"] = wrong(
    "8.2",
    (SOFTMAX, "input.softmax(0)", "divide by row sums"),
    (SOFTMAX, "input.exp()", "divide them by their sum"),
    (SOFTMAX, "input.exp() / input.exp().sum()", "each sample has its own sum"),
    (SOFTMAX, "input.sigmoid()", "the sigmoid of each score"),
    (SOFTMAX, "input.log_softmax(1)", "the logarithms of the probabilities"),
    (SOFTMAX, "input.exp() / input.exp().sum(1, keepdim=True)", "by their largest before exp"),
    (SOFTMAX_BACK, "gradient * output * (1 - output)", "and yours only its own"),
    (SOFTMAX_BACK, "gradient * output", "feeds the other probabilities as well"),
    (ALONG, ALONG.replace("sum", "mean"), "take the sum"),
    (f"- {ALONG}", f"+ {ALONG}", "should be subtracted"),
    (ALONG, ALONG.replace("1", "0"), "over the classes of each sample"),
    (SOFTMAX_BACK, "gradient", "unchanged"),
    (SOFTMAX_BACK, f"-{SOFTMAX_BACK}", "the sign is wrong"),
    (ALONG, "(gradient * output).sum(1)", "in line"),
    (SOFTMAX_BACK, f"1.1 * {SOFTMAX_BACK}", "1.1 times the right one"),
)


def fold_by_loop(weight, bias, mean, variance, gamma, beta, eps):
    new_weight, new_bias = weight.clone(), bias.clone()
    for o in range(len(weight)):
        factor = gamma[o] / math.sqrt(variance[o] + eps)
        new_weight[o] *= factor
        new_bias[o] = factor * (bias[o] - mean[o]) + beta[o]
    return [new_weight, new_bias]


def fold_by_asking(weight, bias, mean, variance, gamma, beta, eps):
    """Find both by what comes out: of zeros the bias, and of the weights the rest."""
    norm = torch.nn.functional.batch_norm
    new_bias = norm(bias[None], mean, variance, gamma, beta, eps=eps)[0]
    flat = norm((weight.flatten(1) + bias[:, None]).T, mean, variance, gamma, beta, eps=eps).T
    return (flat - new_bias[:, None]).reshape(weight.shape), new_bias


FACTOR, NEW_WEIGHT = "gamma / (variance + eps).sqrt()", "weight * factor[:, None, None, None]"
NEW_BIAS = "(bias - mean) * factor + beta"

RIGHT["classification.3"] = [
    changed("8.3"),
    changed("8.3", FACTOR, "gamma * (variance + eps).rsqrt()"),
    changed("8.3", FACTOR, "gamma * (variance + eps) ** -0.5", NEW_BIAS, "beta - mean * factor + bias * factor"),
    changed("8.3", NEW_WEIGHT, 'torch.einsum("ocij,o->ocij", weight, factor)'),
    changed("8.3", NEW_BIAS, "torch.addcmul(beta, bias - mean, factor)"),
    fold_by_loop,
    fold_by_asking,
]
WRONG["classification.3"] = wrong(
    "8.3",
    (FACTOR, "gamma / (variance + eps)", "the square root is missing"),
    (FACTOR, "gamma / variance.sqrt()", "eps is missing"),
    (FACTOR, "gamma / (variance.sqrt() + eps)", "should be added to the variance"),
    (FACTOR, "1 / (variance + eps).sqrt()", "gamma is missing"),
    (FACTOR, "gamma * (variance + eps).sqrt()", "should be divided by it"),
    (NEW_BIAS, "bias * factor + beta", "the mean is not subtracted yet"),
    (NEW_BIAS, "(bias - mean) * factor", "beta is missing"),
    (NEW_BIAS, "bias - mean * factor + beta", "the old bias is not multiplied"),
    (NEW_BIAS, "(bias - mean + beta) * factor", "beta is multiplied by the factor"),
    (NEW_BIAS, "bias", "it is the old one"),
    (NEW_WEIGHT, "weight * factor", "the factors belong to the output channels"),
    (f"{NEW_WEIGHT}, {NEW_BIAS}", f"{NEW_BIAS}, {NEW_WEIGHT}", "the weight first"),
    (NEW_WEIGHT, NEW_WEIGHT.replace("weight *", "weight.mul_(") + ")", "changes its argument weight in place"),
    (f"{NEW_WEIGHT}, {NEW_BIAS}", "weight", "should return two tensors"),
)

# The playground

RIGHT["playground.1"] = [*forms(0.08), (0.08,), "8e-2", "8 / 100"]
WRONG["playground.1"] = [
    (0.01 * 200, "Are there 100?"),
    (0.01 * 4, "how many has each point?"),
    (0.01 / 8, "its learning rate is the larger one"),
    (0.01, "the sum's own"),
    (8, "multiply the learning rate by it"),
    (0.8, "is not 0.8. How many components"),
    (0.088, "is not 0.088"),
    *not_a_number(0.08),
]

RIGHT["playground.2"] = [
    dict(batch_size=20, optimizer="SGD with momentum"),
    {"batch_size": 10, "lr": 0.005, "width": 50},
    dict(optimizer="Adam", lr=0.01, batch_size=20),
    dict(optimizer="Adam", lr=0.005, batch_size=20, width=100, data="spiral"),
    dict(batch_size=20, optimizer="SGD with momentum", seed=7, features=["x", "y", "xy"]),
]
WRONG["playground.2"] = [
    ({"lr": 0.001}, "after 20 epochs"),
    ({"lr": 1.0}, "The run stopped. Diverged"),
    ({"learning_rate": 0.01}, "There is no setting 'learning_rate'"),
    ({"layers": 3}, "The settings are data, noise, features, depth, width"),
    ({"width": 0}, "width must be in"),
    ({"width": "50"}, "width must be an integer"),
    (0.01, "should be a dictionary"),
    ({"test_size": 0}, "There is no setting 'test_size' to change"),
    ({"train_size": 5000}, "There is no setting 'train_size' to change"),
    ({"data": "moons"}, "The data set should stay the spiral"),
    ({"lr": ...}, "open"),
    ({"bug": "missing-two"}, "Without a planted bug"),
    ({"optimizer": "adam"}, "These settings are refused: optimizer must be one of"),
    ({1: 2}, "There is no setting 1"),
    ({"seed": 10**12, "batch_size": 20}, "seed must be in"),
]

RIGHT["playground.3"] = [
    dict(init_scale=10.0),
    dict(init_scale=20, lr=0.001),
    dict(width=200, depth=10, init_scale=5.0),
    {"init_scale": 10.0, "data": "moons"},
    dict(init_scale=100.0, optimizer="SGD with momentum"),
]
WRONG["playground.3"] = [
    ({"width": 50}, "so it learns"),
    ({"lr": 0.1}, "should stay 0.001, but is 0.1"),
    ({"init_scale": 0}, "the playground has not given up"),
    ({"dropout": 1.0}, "the playground has not given up"),
    ({"train_size": 0}, "There is no setting 'train_size' to change"),
    ({"data": "own points"}, "there is nothing to learn"),
    ({"init_scale": "10"}, "init_scale must be a number"),
    ({"initscale": 10.0}, "Is init_scale meant?"),
    ([("init_scale", 10.0)], "should be a dictionary"),
    ({"bug": "uphill"}, "Without a planted bug"),
    ({"seed": 3}, "the playground has not given up"),
    ({}, "open"),
]

RIGHT["playground.4"] = [
    dict(depth=6, activation="Sigmoid"),
    dict(depth=6, activation="Tanh", init_scale=0.2),
    dict(depth=10, activation="Sigmoid", width=50),
    dict(depth=8, init_scale=0.2, data="moons"),
    dict(depth=7, activation="Sigmoid", reduction="mean", lr=0.1),
]
WRONG["playground.4"] = [
    ({"depth": 2}, "times as large as the last one's"),
    ({"dropout": 1.0}, "are 0, too"),
    ({"init_scale": 0}, "0"),
    ({"width": 1, "depth": 6}, "0"),
    ({"depth": 0}, "the first layer is the last one"),
    ({"depth": 11}, "depth must be in"),
    ({"train_size": 0}, "There is no setting 'train_size' to change"),
    ({"data": "own points"}, "there is nothing to learn"),
    ({"init_scale": 1e30}, "NaN"),
    ("Sigmoid", "should be a dictionary"),
    ({"activation": "sigmoid"}, "activation must be one of"),
    ({"activation": "Sigmoid"}, "times as large as the last one's"),
]

# A framework from empty cells

RIGHT |= {f"build_it_yourself.{n}": answers for n, answers in mini_answers.RIGHT.items()}
WRONG |= {f"build_it_yourself.{n}": answers for n, answers in mini_answers.WRONG.items()}

# What goes wrong with any answer, made of a right one

CLASSES = [exercise for exercise, answers in RIGHT.items() if isinstance(answers[0], type)]
CLASSES.remove("build_it_yourself.9")
FUNCTIONS = [e for e, answers in RIGHT.items() if callable(answers[0]) and not isinstance(answers[0], type)]
TENSORS_IN = {"forward_pass.2", "forward_pass.3", "backward_pass.1", "circle.3", "classification.1", "classification.3"}
TENSORS_IN |= {"build_it_yourself.1", "build_it_yourself.2", "build_it_yourself.11"}
LOSSES = {"backward_pass.4", "the_case.2", "build_it_yourself.8"}
REMEMBERING = {"backward_pass.2", "backward_pass.3", "backward_pass.5", "backward_pass.6", "classification.2", *LOSSES}
REMEMBERING |= {f"build_it_yourself.{n}" for n in (4, 5, 6, 7)}


def spoilt_function(exercise, right):
    """Yield (what goes wrong, an answer, words of the verdict)."""

    def silent(*given):
        right(*given)

    def changing(*given):
        result = copy.deepcopy(right(*given))
        for one in given:
            if isinstance(one, torch.Tensor):
                one.add_(1)
        return result

    yield "its result", torch.ones(2), "Hand over the function"
    yield "no arguments", lambda: 0, "is called with"
    yield "dots", lambda *given: ..., "open"
    yield "an exception", raising(KeyError("a")), "raises KeyError in line"
    yield "exit", raising(SystemExit()), "raises SystemExit in line"
    yield "no end", endless, "calls itself without end"
    if exercise != "the_case.4":
        yield "no return", silent, "returns nothing: is `return` missing?"
    if exercise in TENSORS_IN:
        yield "arguments changed", changing, "in place, which its caller still needs"


def spoilt_class(exercise, right):
    """Yield (what goes wrong, an answer, words of the verdict)."""

    class Silent(right):
        def backward(self, *gradient):
            right.backward(self, *gradient)

    class Open(right):
        def backward(self, *gradient): ...

    class Destroying(right):
        def backward(self, gradient):
            result = right.backward(self, gradient).clone()
            gradient.zero_()
            return result

    class Overwriting(right):
        def forward(self, *inputs):
            output = right.forward(self, *inputs).clone()
            inputs[0].add_(1)
            return output

    class OnTheClass(right):
        def forward(self, *inputs):
            OnTheClass.last = self
            return right.forward(self, *inputs)

        def backward(self, *gradient):
            return right.backward(OnTheClass.last, *gradient)

    class ByAutograd(right):
        def backward(self, *gradient):
            x = torch.ones(1, requires_grad=True)
            torch.autograd.grad(x.sum(), x)
            return right.backward(self, *gradient)

    class WithoutSelf(right):
        def forward(input):  # noqa: N805
            return input

    class WantsMore(right):
        def __init__(self, one, two, three, four):
            pass

    class FailsInInit(right):
        def __init__(self, *given, **named):
            self.table = {}["missing"]

    def renamed(**names):
        return type("Renamed", (), {name: getattr(right, method) for name, method in names.items()})

    yield "a function", lambda *given: 0, "Hand over the class"
    yield "PyTorch's", torch.nn.Identity, "belongs to PyTorch"
    yield "diy's", diy.Tanh, "is the one of diy.py"
    yield "no return", Silent, "backward returns nothing: is `return` missing?"
    given = exercise == "backward_pass.5"  # forward is
    yield "dots", Open, "open" if given else "forward is right so far, backward still has its dots"
    yield "an exception", type("Failing", (right,), {"forward": raising(OSError())}), "forward raises OSError in line"
    yield "exit", type("Exiting", (right,), {"forward": raising(SystemExit())}), "forward raises SystemExit in line"
    yield "no end", type("Endless", (right,), {"forward": endless}), "calls itself without end"
    yield "autograd", ByAutograd, "backward is to be written by hand"
    yield "no self", WithoutSelf, "forward lacks self"
    yield "a larger __init__", WantsMore, "cannot be made, as it takes (one, two, three, four)"
    yield "an exception in __init__", FailsInInit, "__init__ raises KeyError in line"
    yield "no forward", renamed(foward="forward", backward="backward"), "has no forward: is foward meant to be that?"
    yield "no backward", renamed(forward="forward", backwards="backward"), "is backwards meant to be that?"
    yield "input changed", Overwriting, "in place, which its caller still needs"
    if exercise not in LOSSES and not issubclass(right, diy.Module):  # which is handed a copy
        yield "gradient changed", Destroying, "changes the gradient from above in place"
    if exercise in REMEMBERING:
        yield "one memory for all", OnTheClass, "what one remembers is taken for the other"


SPOILT = [
    pytest.param(exercise, answer, words, id=f"{exercise}-{kind}")
    for make, chosen in ((spoilt_function, FUNCTIONS), (spoilt_class, CLASSES))
    for exercise in chosen
    for kind, answer, words in make(exercise, RIGHT[exercise][0])
]

# What no learner would hand over on purpose


class Nasty:
    """Refuses whatever is asked of it."""

    def __repr__(self):
        raise ValueError("no repr")

    def __getattribute__(self, name):
        raise ValueError(f"no {name}")

    def __eq__(self, other):
        raise ValueError("no ==")

    __hash__ = None


def circular():
    answer = []
    answer.append(answer)
    return answer


STRANGE = {
    "an object": object(),
    "a word": "strange",
    "an empty string": "",
    "a dictionary": {"a": object()},
    "a set": {1, 2},
    "a class": Exception,
    "a metaclass": type,
    "a module": math,
    "bytes": b"1",
    "a complex number": 1j,
    "a complex tensor": torch.ones(2, dtype=torch.complex64),
    "an empty list": [],
    "an empty tensor": torch.empty(0),
    "a tensor without data": torch.empty(2, 2, device="meta"),
    "a sparse tensor": torch.eye(3).to_sparse(),
    "a list of lists": [[1, 2], [3]],
    "a list of None": [None, None],
    "itself": circular(),
    "NaN": math.nan,
    "infinity": math.inf,
    "a huge integer": 10**400,
    "NumPy objects": np.array([object()]),
    "NumPy words": np.array(["a"]),
    "a nasty one": Nasty(),
    "a function that divides by zero": lambda *a, **k: 1 / 0,
    "a function that exits": raising(SystemExit(3)),
    "a function that raises a bare exception": raising(BaseException()),
    "a function without end": endless,
    "a function that gives dots": lambda *a, **k: ...,
    "a function that gives a function": lambda *a, **k: len,
    "a function that gives a class": lambda *a, **k: Module,
    "a function that gives a nasty one": lambda *a, **k: Nasty(),
    "a function that gives an empty tensor": lambda *a, **k: torch.empty(0),
    "a function that gives text": lambda *a, **k: "seven",
    "a generator function": lambda *a, **k: (yield 1),
    "a function that gives itself": lambda *a, **k: circular(),
    "the identity": lambda x, *a, **k: x,
    "a builtin": len,
    "print": print,
    "a class of strange results": module(lambda x, *a: Nasty(), lambda *a: Nasty()),
    "a class whose passes raise": module(raising(OSError()), raising(StopIteration())),
    "a class whose backward is strange": module(lambda x, *a: 1 * x, lambda *a: {}),
    "a loss of strange results": loss(lambda d: [d], lambda d: (d,)),
    "a loss that returns NaN": loss(lambda d: d.sum() * math.nan, lambda d: d),
}

EXERCISES = list(RIGHT)


def number_of(exercise):
    """Return "4.1" for "circle.1"."""
    name, part = exercise.split(".")
    return f"{next(number for number, module in NOTEBOOKS.items() if module == name)}.{part}"


def ask(exercise, answer, capsys):
    """Return the verdict on an answer, after a look at what was printed."""
    several = exercise in TWO and isinstance(answer, tuple)
    verdict = check(number_of(exercise), *(answer if several else (answer,)))
    out, err = capsys.readouterr()
    assert out.splitlines()[-1] == str(verdict) and err == ""
    assert verdict.state in ("right", "not yet", "open") and bool(verdict) == (verdict.state == "right")
    return verdict


def cases(table):
    return [pytest.param(e, a, id=f"{e}-{i}") for e, answers in table.items() for i, a in enumerate(answers)]


@pytest.mark.parametrize("exercise, answer", cases(RIGHT))
def test_a_right_answer_is_right_in_any_style(exercise, answer, capsys):
    verdict = ask(exercise, answer, capsys)
    assert verdict, verdict


@pytest.mark.parametrize("exercise, case", cases(WRONG))
def test_a_wrong_answer_is_refused_with_the_reason(exercise, case, capsys):
    answer, words = case
    verdict = ask(exercise, answer, capsys)
    assert not verdict
    assert words in str(verdict)


@pytest.mark.parametrize("exercise, answer, words", SPOILT)
def test_what_goes_wrong_anywhere_is_told_everywhere(exercise, answer, words, capsys):
    verdict = ask(exercise, answer, capsys)
    assert not verdict
    assert words in str(verdict)


@pytest.mark.parametrize("name", NOTEBOOKS.values())
def test_every_exercise_is_tried_with_many_answers(name):
    number = next(n for n in NOTEBOOKS if NOTEBOOKS[n] == name)
    for exercise in exercises(number):
        key = f"{name}.{exercise.split('.')[1]}"
        assert len(RIGHT[key]) >= 5 and len(WRONG[key]) >= 8


@pytest.mark.parametrize("exercise", EXERCISES)
def test_a_strange_answer_is_told_in_one_line(exercise, capsys):
    for name, strange in STRANGE.items():
        verdict = ask(exercise, (strange, strange) if exercise in TWO else strange, capsys)
        assert not verdict and len(str(verdict)) < 600, name


def learner(source, **names):
    """Run the source of a notebook's cell as IPython does, and return what it defines."""
    file = f"/tmp/ipykernel_1/{abs(hash(source))}.py"
    linecache.cache[file] = len(source), None, source.splitlines(keepends=True), file
    names = {"__name__": "__main__", "torch": torch, "Module": Module, "math": math, **names}
    exec(compile(source, file, "exec"), names)
    return names


def test_an_exception_is_told_with_the_line_of_the_learner(capsys):
    cell = learner("def radius(share):\n    area = 4 * share\n    return math.sqrt(aera / math.pi)\n")
    verdict = ask("circle.2", cell["radius"], capsys)
    line = "in line 3, \"return math.sqrt(aera / math.pi)\": name 'aera' is not defined."
    assert verdict.reason == f"radius raises NameError {line}"


def test_the_line_is_that_of_the_learner_even_if_the_exception_comes_from_elsewhere(capsys):
    source = "def confusion(labels, predicted):\n    both = torch.stack([labels, predicted])\n    return both @ both\n"
    verdict = ask("circle.3", learner(source)["confusion"], capsys)
    assert 'confusion raises RuntimeError in line 3, "return both @ both": ' in verdict.reason
    assert verdict.reason.endswith('That was for labels "1011010111" predicted as "1110011001".')
    source = "def sees(framework):\n    network = framework.Sequential(\n        [1])\n    return network\n"
    verdict = ask("museum.3", learner(source)["sees"], capsys)
    assert verdict.reason.startswith("Argument 0 of Sequential must be a diy Module, got list;")
    assert verdict.reason.endswith('(that was in line 2, "network = framework.Sequential(").')


def test_dots_are_no_answer_wherever_they_stand(capsys):
    sources = [
        "def radius(share): ...",
        'def radius(share):\n    """The docstring of the task."""\n    ...',
        "def radius(share):\n    return ...",
        "def radius(share):\n    area = ...\n    return math.sqrt(area)",
        "def radius(share): pass",
        "def radius(share):\n    raise NotImplementedError",
        "radius = ...",
        "radius = None",
    ]
    for source in sources:
        verdict = ask("circle.2", learner(source)["radius"], capsys)
        assert verdict.state == "open"
        assert str(verdict).endswith(": open. Put your answer in the place of the dots and run the cell again.")


def test_dots_within_a_list_are_an_open_place(capsys):
    assert ask("convolutions.2", [[..., 0, 0], [0, 0, 0], [0, 0, 0]], capsys).state == "open"


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="Windows cannot interrupt a loop")
def test_a_loop_without_end_is_told(capsys, monkeypatch):
    monkeypatch.setattr("course.checkers.running.LIMIT", 0.1)
    before = signal.getsignal(signal.SIGALRM)
    source = "def radius(share):\n    while True:\n        share += 1\n"
    verdict = ask("circle.2", learner(source)["radius"], capsys)
    assert verdict.reason.startswith("After 0.1 seconds your code still runs in line ")
    assert verdict.reason.endswith(": does a loop never end?")
    assert signal.getsignal(signal.SIGALRM) is before and signal.getitimer(signal.ITIMER_REAL) == (0, 0)


def test_answers_are_checked_in_a_thread_as_well():
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(check, "1.1", 777).result()


def test_dots_of_an_index_are_no_open_place(capsys):
    verdict = ask("forward_pass.2", lambda X, W, b: W @ X + b[..., None], capsys)
    assert verdict


def test_a_step_that_is_done_is_named_where_the_next_is_open(capsys):
    verdict = ask(
        "backward_pass.2",
        changed("2.2", f"gradient, output = self.recall(gradient)\n        return {BACK}", "..."),
        capsys,
    )
    assert verdict.state == "open"
    assert verdict.reason.startswith("Sigmoid.forward is right so far, backward still has its dots.")


@pytest.mark.parametrize(
    "exercise, right, at",
    [
        ("forward_pass.1", 777, 0),
        ("circle.1", 50, 0),
        ("circle.1", 1.58, 1),
        ("the_case.1", 0.0025, 0),
        ("playground.1", 0.08, 0),
    ],
)
def test_no_guess_is_answered_by_the_number_itself(exercise, right, at, capsys):
    mistakes = [
        right * factor for factor in (0.001, 0.01, 0.25, 0.5, 0.9, 0.99, 1.01, 1.1, 2, 3, 4, 8, 10, 100, 120, 1000)
    ]
    for guess in [-1, 0, 1, 2, 4, 42, *mistakes]:
        answer = (guess if at == 0 else 50, guess if at == 1 else 1) if exercise == "circle.1" else guess
        verdict = ask(exercise, answer, capsys)
        words = verdict.reason.replace(f"{guess:.6g}", "")
        assert not verdict and not re.search(rf"(?<![\d.]){re.escape(str(right))}(?!\d)", words), verdict


def test_an_interruption_is_no_wrong_answer():
    with pytest.raises(KeyboardInterrupt):
        check(number_of("circle.2"), raising(KeyboardInterrupt()))


@pytest.mark.parametrize(
    "exercise, answers, words",
    [
        ("9999.1", (1,), "exercises are called 1.2 and so on"),
        ("1.99", (1,), "those of this notebook are 1.1, 1.2"),
        (1.1, (777,), "right"),
        ("1.1", (), 'The last line should be check("1.1", parameters).'),
        ("1.1", (1, 2), 'The last line should be check("1.1", parameters).'),
        ("one", (1,), "exercises are called 1.2 and so on"),
        (None, (1,), "exercises are called 1.2 and so on"),
    ],
)
def test_a_call_with_the_wrong_number_is_told(exercise, answers, words):
    assert words in str(check(exercise, *answers))


def test_floats_are_shown_with_the_digits_that_differ():
    with pytest.raises(AnswerError, match=r"A should be 0\.24, but is 0\.239990\.|A should be 0\.24, but is 0\.23999"):
        expect("A", 0.23999, torch.tensor(0.24))
    assert digits(1.5, -0.0) == ("1.5", "0")
    assert digits(0.24, 0.24 + 1e-9) == ("0.24", "0.240000001")
    assert digits(1 / 3, 1 / 3 + 1e-16) != ("0.333333", "0.333333")


def test_components_are_compared_each_with_its_own_size():
    expected = torch.tensor([1.0, 1e-3], dtype=torch.float64)
    expect("A", expected.float(), expected)
    with pytest.raises(AnswerError, match=r"A at \[1\] should be 0\.001, but is 0\.0011"):
        expect("A", [1.0, 1.1e-3], expected)


def test_a_mistake_is_named_only_where_every_result_shows_it():
    cases = [("f(2)", 4, 8, {"squared.": 4, "doubled.": 4}, ()), ("f(3)", 6, 27, {"squared.": 9, "doubled.": 6}, ())]
    with pytest.raises(AnswerError, match=r"f\(2\): doubled\."):
        expect_numbers(cases)


def test_whatever_an_answer_does_the_notebook_goes_on_as_before(capsys):
    def careless(size_in):
        torch.manual_seed(5)
        np.random.seed(5)
        random.seed(5)
        torch.set_default_dtype(torch.float16)
        warnings.warn("a warning", stacklevel=1)
        raise ValueError

    def seed():
        torch.manual_seed(1)
        random.seed(1)
        np.random.seed(1)

    seed()
    expected = torch.rand(1), random.random(), np.random.rand()
    seed()
    assert not ask("forward_pass.4", careless, capsys)
    assert torch.get_default_dtype() == torch.float32
    assert (torch.rand(1), random.random(), np.random.rand()) == expected


def test_a_verdict_is_printed_once_in_a_notebook():
    from IPython.core.interactiveshell import InteractiveShell
    from IPython.utils.capture import capture_output

    shell = InteractiveShell()
    with capture_output() as captured:
        shell.run_cell('from course import check\ncheck("1.1", 777)')
    assert captured.stdout.count("Exercise 1.1: right.") == 1
    assert "Verdict" not in captured.stdout and not captured.outputs


def test_progress_shows_what_is_solved(capsys, monkeypatch):
    monkeypatch.setattr("course.checkers.core._verdicts", {})
    progress()
    assert capsys.readouterr().out == "No exercise has been checked yet: run the cell of one.\n"
    first, second = number_of("circle.1"), number_of("circle.2")
    check(first, 50, 1.58)
    check(second, raising(ValueError()))
    check(number_of("circle.3"), ...)
    capsys.readouterr()
    progress()
    lines = capsys.readouterr().out.splitlines()
    part = lines[lines.index(f"Notebook {first[0]}: 1 of 4 exercises solved") :][:5]
    assert [line.split(None, 1)[1] for line in part[1:]] == ["solved", "not yet", "open", "open"]
    check(first, 50, 3)
    capsys.readouterr()
    progress()
    assert f"Notebook {first[0]}: 0 of 4 exercises solved" in capsys.readouterr().out
