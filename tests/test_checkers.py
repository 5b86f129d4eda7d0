"""Wrong answers to the exercises of the notebooks, and what the checkers say about them."""

import math

import pytest
import torch
from course import check

from diy import Loss, Module
from tests.planted_bugs import BUGS

# Exercise -> [(what check gets: one answer, or several in a tuple; words of the verdict), ...]

NOTEBOOK_1 = {
    "1.1": [
        (50 + 625 + 50, "each neuron also has a bias"),
        (52, "only the biases"),
        (104, "multiply the two sizes"),
        (1427, "should be 777"),
        ("many", "should be a number"),
    ],
    "1.2": [
        (lambda X, W, b: X @ W.T + b, "raised RuntimeError"),
        (lambda X, W, b: (W @ X + b[:, None]).T, "one sample per row"),
        (lambda X, W, b: W @ X, "the bias is missing"),
        (lambda X, W, b: W @ X + (b if X.shape[1] == 2 else b[:, None]), "added to every row"),
    ],
    "1.3": [
        (torch.tanh, "that is tanh itself"),
        (lambda s: (1 + torch.tanh(s)) / 2, "too steep"),
        (lambda s: (1 - torch.tanh(s / 2)) / 2, "the sign of s"),
        (lambda s: 1 + torch.tanh(s / 2), "halve it"),
        (lambda s: s.exp() / (1 + s.exp()), "but is nan"),
        (lambda s: 1 / (1 + torch.exp(-s)), "without exp"),
        (lambda s: s.sigmoid(), "without torch.sigmoid"),
        (torch.sigmoid, "without torch.sigmoid"),
    ],
    "1.4": [
        (lambda size_in: 2 / size_in, "that is the variance"),
        (lambda size_in: math.sqrt(1 / size_in), "that keeps the size for tanh"),
        (lambda size_in: math.sqrt(1 / 2 / size_in), "halves the variance"),
        (lambda size_in: 2 * math.sqrt(1 / size_in), "should be 0.2"),
    ],
}


def module(forward, backward):
    """Return a module class without parameters; forward(x) gives the output, backward(g, x, y) the gradient."""

    class Answer(Module):
        def __init__(self, slope=None):
            self.slope = slope

        def forward(self, input):
            output = forward(input) if self.slope is None else forward(input, self.slope)
            self.remember(output, input, output)
            return output

        def backward(self, gradient):
            tensors = self.recall(gradient)
            return backward(*tensors) if self.slope is None else backward(*tensors, self.slope)

    return Answer


class LeakyReLU(Module):
    """Right but for its default and, with `at_zero`, its slope at the kink."""

    at_zero = False

    def __init__(self, negative_slope=0.1):
        self.negative_slope = negative_slope

    def forward(self, input):
        output = torch.where(input > 0, input, self.negative_slope * input)
        self.remember(output, input)
        return output

    def backward(self, gradient):
        gradient, input = self.recall(gradient)
        through = input >= 0 if self.at_zero else input > 0
        return torch.where(through, gradient, self.negative_slope * gradient)


class LeakyReLUAtZero(LeakyReLU):
    at_zero = True


def loss(forward, backward):
    """Return a loss class; both functions get the difference of prediction and target."""

    class Answer(Loss):
        def forward(self, prediction, target):
            self.difference = prediction - target
            return forward(self.difference)

        def backward(self):
            return backward(self.difference)

    return Answer


def scale(factor_gradient, input_gradient):
    """Return a class like Scale; both functions get gradient, input and factor."""

    class Answer(Module):
        parameter_names = ("factor",)

        def __init__(self, features):
            self.factor = torch.ones(features)

        def forward(self, input):
            output = input * self.factor
            self.remember(output, input, self.factor)
            return output

        def backward(self, gradient):
            tensors = self.recall(gradient)
            if factor_gradient is not None:
                factor_gradient(self, *tensors)
            return input_gradient(*tensors)

    return Answer


def replace(self, gradient, input, factor):
    self.factor.grad = (gradient * input).sum(0)


def leaky(s, slope):
    return torch.where(s > 0, s, slope * s)


NOTEBOOK_2 = {
    "2.1": [
        (lambda y: 1 - y * y, "slope of tanh"),
        (lambda y: y.sigmoid() * (1 - y.sigmoid()), "sigmoid once more"),
        (lambda y: y, "not its slope"),
        (lambda y: y * (y - 1), "the sign is wrong"),
        (lambda y: 1 - y, "one of two factors"),
    ],
    "2.2": [
        (module(lambda s: 1 / (1 + s.exp()), lambda g, x, y: g * y * (1 - y)), "should be"),
        (module(lambda s: s.exp() / (1 + s.exp()), lambda g, x, y: g * y * (1 - y)), "nan"),
        (module(torch.sigmoid, lambda g, x, y: y * (1 - y)), "the gradient of input"),
        (module(torch.sigmoid, lambda g, x, y: g * (1 - y * y)), "wrong in 12 of 12 components"),
        (module(torch.sigmoid, lambda g, x, y: -g * y * (1 - y)), "the sign is wrong"),
        (module(torch.sigmoid, lambda g, x, y: g), "it is the gradient from above, unchanged"),
        (module(torch.sigmoid, lambda g, x, y: g @ y), "raised RuntimeError"),
    ],
    "2.3": [
        (module(lambda s, a: s.relu(), lambda g, x, y, a: g * (x > 0)), "as in ReLU"),
        (module(lambda s, a: s * 1, lambda g, x, y, a: g), "lets everything through"),
        (module(lambda s, a: leaky(s, 0.01), lambda g, x, y, a: g * torch.where(x > 0, 1, 0.01)), "use the argument"),
        (module(leaky, lambda g, x, y, a: g * (x > 0)), "the gradient of input"),
        (LeakyReLUAtZero, "the slope at 0"),
        (LeakyReLU, "0.01 where nothing is given"),
    ],
    "2.4": [
        (loss(lambda d: d.abs().sum(), torch.sign), "that is the sum"),
        (loss(lambda d: d.abs().sum() / len(d), torch.sign), "the number of samples"),
        (loss(lambda d: d.square().mean(), torch.sign), "squared error"),
        (loss(lambda d: d.mean(), torch.sign), "cancel"),
        (loss(lambda d: d.abs().mean(), torch.sign), "the right one times 12"),
        (loss(lambda d: d.abs().mean(), lambda d: -d.sign() / 12), "the sign is wrong"),
        (loss(lambda d: d.abs().mean(), lambda d: d.sign() / 4), "the right one times 3"),
    ],
    "2.5": [
        (scale(None, lambda g, x, f: g * f), "has no gradient"),
        (
            scale(lambda self, g, x, f: self.accumulate(f, g * x), lambda g, x, f: g * f),
            "is the sum over the samples missing?",
        ),
        (scale(replace, lambda g, x, f: g * f), "must add to .grad"),
        (scale(lambda self, g, x, f: self.accumulate(f, (g * x).mean(0)), lambda g, x, f: g * f), "averaged"),
        (scale(lambda self, g, x, f: self.accumulate(f, (g * x).sum(0)), lambda g, x, f: g), "gradient of input"),
    ],
}


def ring(inner=0.4, outer=0.8925, generator=None, size=1000, low=-1):
    points = low + (1 - low) * torch.rand(size, 2, generator=generator)
    distance = points.norm(dim=1)
    return points, ((distance > inner) & (distance < outer)).long()


NOTEBOOK_3 = {
    "3.1": [
        ((0.5, 1.58), "the error rate in percent: give it in percent"),
        ((50, 0.0158), "the standard deviation in percent: give it in percent"),
        ((50, 15.8), "that is the number of points"),
        ((50, 0.025), "that is the variance"),
        ((50, 0.79), "belongs below the root"),
        ((2, 0.44), "should be 50"),
    ],
    "3.2": [
        (lambda share: math.sqrt(share / math.pi), "its area is 4"),
        (lambda share: 4 * share / math.pi, "Take the root"),
        (lambda share: 4 * math.sqrt(share / math.pi), "the diameter"),
        (lambda share: math.sqrt(2 / math.pi), "depend on the share"),
    ],
    "3.3": [
        (
            lambda labels, predicted: torch.bincount(2 * predicted + labels, minlength=4).reshape(2, 2),
            "rows and columns are exchanged",
        ),
        (
            lambda labels, predicted: torch.bincount(2 * labels + predicted, minlength=4).reshape(2, 2) / len(labels),
            "those are shares",
        ),
        (
            lambda labels, predicted: torch.bincount(3 - 2 * labels - predicted, minlength=4).reshape(2, 2),
            "the order of the labels is reversed",
        ),
        (lambda labels, predicted: (labels != predicted).sum(), "should have shape (2, 2)"),
    ],
    "3.4": [
        (lambda size, generator: torch.rand(size, 2), "should return two tensors"),
        (lambda size, generator: (torch.rand(size), torch.rand(size)), "has shapes"),
        (lambda size, generator: (torch.rand(size, 2), torch.rand(size) > 0.5), "labels int64"),
        (lambda size, generator: ring(low=0, size=size, generator=generator), "fill the square"),
        (lambda size, generator: ring(size=size), "same generator"),
        (lambda size, generator: ring(inner=0, size=size, generator=generator), "has a hole"),
        (lambda size, generator: ring(outer=0.8, size=size, generator=generator), "not all points of the ring"),
        (lambda size, generator: ring(outer=1, size=size, generator=generator), "beyond the ring"),
    ],
}


def sample_mean(difference):
    return difference.square().sum() / 5


def in_chunks(weight, zero_grad_inside=False):
    """An answer that multiplies each chunk's gradient by weight(samples in it, samples in all, number of chunks)."""

    def accumulate(model, criterion, chunks):
        model.zero_grad()
        total = sum(len(x) for x, _ in chunks)
        for x, target in chunks:
            if zero_grad_inside:
                model.zero_grad()
            criterion(model(x), target)
            model.backward(criterion.backward() * weight(len(x), total, len(chunks)))

    return accumulate


class WithoutBackward(Loss):
    def forward(self, prediction, target):
        return (prediction - target).square().mean()


def without_network(model, criterion, chunks):
    for x, target in chunks:
        criterion(model(x), target)


def without_return(framework):
    framework.Dropout(0.5).eval()


NOTEBOOK_4 = {
    "4.1": [
        (0.3 / 40, "you counted the samples only"),
        (0.3 / 3, "you counted the outputs only"),
        (0.3 * 120, "You made it larger"),
        (0.3, "M times as long"),
        (1, "should be 0.0025"),
    ],
    "4.2": [
        (loss(lambda d: d.square().mean(), lambda d: 2 * d / 15), "the mean over all components"),
        (loss(lambda d: d.square().sum(), lambda d: 2 * d), "this is the sum"),
        (loss(lambda d: d.square().sum() / 3, lambda d: 2 * d / 3), "divided by the outputs"),
        (loss(sample_mean, lambda d: 2 * d / 15), "a third of what your loss needs"),
        (loss(sample_mean, lambda d: 2 * d), "the 1/N of your loss is missing"),
        (loss(sample_mean, lambda d: d / 5), "the factor 2"),
        (loss(sample_mean, lambda d: -2 * d / 5), "its sign is wrong"),
        (loss(sample_mean, lambda d: (2 * d / 5).sum(0)), "prediction's shape, (5, 3), got (3,)"),
        (WithoutBackward, "raised TypeError"),
        (loss(sample_mean, lambda d: None), "does it end with `return`? It must return the gradient of the prediction"),
    ],
    "4.3": [
        (lambda decay, M: decay, "M times less weight"),
        (lambda decay, M: decay / M, "the wrong way round"),
        (lambda decay, M: decay * M * M, "should be 0.24"),
    ],
    "4.4": [
        (in_chunks(lambda part, total, count: 1), "it is the sum of the chunks' means"),
        (in_chunks(lambda part, total, count: 1 / count), "the plain average"),
        (in_chunks(lambda part, total, count: 1, zero_grad_inside=True), "the last chunk alone: call zero_grad once"),
        (in_chunks(lambda part, total, count: part / total, zero_grad_inside=True), "the last chunk alone, weighted"),
        (in_chunks(lambda part, total, count: part), "it is the gradient of the sum"),
        (without_network, "no parameter has a gradient"),
        (in_chunks(lambda part, total, count: "one"), "accumulate raised TypeError"),
        (lambda model, criterion, chunks: [layer for layer in model][2].weight.grad.add_(1), "accumulate raised"),
    ],
}


def seen(**changes):
    """The right answers to exercise 5.1, but for the changes."""
    right = {name: "finite differences" in BUGS[name.replace("_", "-")].seen_by for name in ASKED}
    return {name.replace("_", "-"): changes.get(name, answer) for name, answer in right.items()}


ASKED = ("uphill", "tanh_at_the_input", "missing_two", "no_mean_at_all", "eval_is_shallow")

NOTEBOOK_5 = {
    "5.1": [
        (seen(uphill=True), "uphill: finite differences do not see it"),
        (seen(tanh_at_the_input=False), "tanh-at-the-input: finite differences do see it"),
        (seen(missing_two=False), "by a factor of 2"),
        (seen(no_mean_at_all=True), "by the same factor"),
        (seen(eval_is_shallow=True), "still a function with a right gradient"),
        (seen(uphill=..., missing_two=...), "no answer yet for uphill, missing-two."),
        ({"uphill": False}, "no answer yet for tanh-at-the-input"),
        (True, "should be the dictionary"),
    ],
    "5.2": [
        (torch.tanh, "a class derived from diy.Module"),
        (module(torch.tanh, lambda g, x, y: g * (1 - y * y)), "still tanh within 0.1"),
        (module(lambda s: (s / 2).tanh(), lambda g, x, y: g * (1 - y * y)), "there is a factor 2 too many"),
        (module(lambda s: s.sum(0), lambda g, x, y: g), "the shape of its input"),
        (module(torch.sigmoid, lambda g, x, y: g @ y), "backward raised RuntimeError"),
        (module(torch.sigmoid, lambda g, x, y: g), "check_gradients sees it"),
        (module(torch.sigmoid, lambda g, x, y: None), "does it end with `return`?"),
    ],
    "5.3": [
        (lambda framework: False, "does not see the framework with the bug dropout-in-eval"),
        (lambda framework: True, "complains about the right framework"),
        (lambda framework: random_in_eval(framework.Dropout(0.5)), "does not see the framework with the bug eval-is-"),
        (lambda framework: "no", "should return True or False"),
        (without_return, "without_return returns nothing: is `return` missing?"),
        (
            lambda framework: (
                random_in_eval(framework.Sequential(framework.Dropout(0.5)))
                or framework.Dropout(0.5)(torch.ones(50)).max() < 2
            ),
            "dropout is wrong, but off in evaluation",
        ),
    ],
    "5.4": [
        (lambda framework: False, "does not see the framework with the bug variance-for-std"),
        (lambda framework: framework.Linear(2, 2).weight.std() < 0.6, "complains about the right framework"),
        (lambda framework: framework.Linear(200, 100).weight.std() == 0, "does not see"),
    ],
}


def random_in_eval(network):
    network.eval()
    return not torch.equal(network(torch.ones(50)), network(torch.ones(50)))


def pooling(forward, backward=lambda g: g.repeat_interleave(2, 2).repeat_interleave(2, 3) / 4):
    """Return a module class; forward gets the images as (N, C, rows, 2, columns, 2)."""

    def windows(x):
        return forward(x.reshape(*x.shape[:2], x.shape[2] // 2, 2, x.shape[3] // 2, 2))

    return module(windows, lambda g, x, y: backward(g))


NOTEBOOK_6 = {
    "6.1": [
        (
            lambda size, kernel, stride=1, padding=0: (size + 2 * padding - kernel) // stride,
            "one more window than steps",
        ),
        (lambda size, kernel, stride=1, padding=0: (size + padding - kernel) // stride + 1, "lies on both sides"),
        (lambda size, kernel, stride=1, padding=0: (size + 2 * padding) // stride, "must lie within the image"),
        (lambda size, kernel, stride=1, padding=0: (size + 2 * padding - kernel) / stride + 1, "round down"),
        (lambda size, kernel, stride=1, padding=0: size + 2 * padding - kernel + 1, "the stride does not count yet"),
        (lambda size, kernel, stride, padding: (size + 2 * padding - kernel) // stride + 1, "raised TypeError"),
    ],
    "6.2": [
        ([[0, 0, 0], [0, 0, 1], [0, 0, 0]], "moves it to the left"),
        ([[0, 1, 0], [0, 0, 0], [0, 0, 0]], "moves it down"),
        ([[0, 0, 0], [0, 0, 0], [0, 1, 0]], "moves it up"),
        ([[0, 0, 0], [0, 1, 0], [0, 0, 0]], "leaves it where it is"),
        ([[1, 1, 1], [1, 1, 1], [1, 1, 1]], "the image[2, 2] should be 10, but is 99"),
        ([1, 0, 0], "should have shape (3, 3)"),
        ("left", "three rows of three numbers"),
    ],
    "6.3": [
        (pooling(lambda x: x.sum((3, 5))), "that is the sum"),
        (pooling(lambda x: x.amax((3, 5))), "the largest of each window"),
        (module(lambda x: x.reshape(2, 3, 2, 2, 2, 3).mean((2, 4)), None), "not over neighbours"),
        (
            pooling(lambda x: x.mean((3, 5)), lambda g: g.repeat_interleave(2, 2).repeat_interleave(2, 3)),
            "it is the right one times 4",
        ),
        (pooling(lambda x: x.mean((3, 5)), lambda g: g), "must return a gradient of the input's shape"),
    ],
    "6.4": [
        (lambda s, t: s[t] - s.exp().sum().log(), "the sign is wrong"),
        (lambda s, t: s.softmax(0)[t], "that is the probability itself"),
        (lambda s, t: (s - s.max()).exp().sum().log() - s[t], "the largest score that you took out"),
        (lambda s, t: (s.exp().sum().log() - s[t]) / math.log(10), "to base e"),
        (lambda s, t: s.exp().sum().log() - s[t], "lower all scores by the largest before exp"),
        (lambda s, t: -(s.softmax(0)[t].log()), "lower all scores by the largest before exp"),
    ],
}

NOTEBOOK_7 = {
    "7.1": [
        (0.01 * 200, "cannot have more points than there are"),
        (0.01 * 4, "2 outputs per point"),
        (0.01 / 8, "its learning rate is the larger one"),
        (0.01, "the sum's own"),
        (0.8, "should be 0.08"),
    ],
    "7.2": [
        ({"lr": 0.001}, "after 20 epochs"),
        ({"lr": 1.0}, "The run stopped. Diverged"),
        ({"learning_rate": 0.01}, "these settings are refused"),
        ({"width": 0}, "width must be in"),
        (0.01, "should be a dictionary"),
    ],
    "7.3": [
        ({"width": 50}, "it still learns"),
        ({"lr": 0.1}, "should stay 0.001, but is 0.1"),
    ],
    "7.4": [
        ({"depth": 2}, "times as large as the last one's"),
        ({"dropout": 1.0}, "are 0, too"),
    ],
}

MISTAKES = {**NOTEBOOK_1, **NOTEBOOK_2, **NOTEBOOK_3, **NOTEBOOK_4, **NOTEBOOK_5, **NOTEBOOK_6, **NOTEBOOK_7}


@pytest.mark.parametrize(
    "exercise, answer, words",
    [(exercise, answer, words) for exercise, mistakes in MISTAKES.items() for answer, words in mistakes],
)
def test_a_wrong_answer_is_refused_with_the_reason(exercise, answer, words, capsys):
    check(exercise, *(answer if isinstance(answer, tuple) else (answer,)))
    verdict = capsys.readouterr().out
    assert verdict.startswith(f"Exercise {exercise}: not yet.")
    assert words in verdict
