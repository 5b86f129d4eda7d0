"""The gradient checker on a table of modules, right and wrong: none is called what it is not.

The labels are checked as well: a right gradient is that of PyTorch's autograd, a wrong one is another.
"""

import itertools
import math

import torch

import diy
from gradcheck import check_gradients

N = torch.nn.functional


def numbers(*shape, seed=0, scale=1.0):
    return scale * torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def f64(*values):
    return torch.tensor(values, dtype=torch.float64)


class Pointwise(diy.Module):
    """A function of one number, applied to each component, and what is to be its derivative."""

    def __init__(self, function, derivative):
        self.function, self.derivative = function, derivative

    def forward(self, input):
        output = self.function(input)
        self.remember(output, input)
        return output

    def backward(self, gradient):
        gradient, input = self.recall(gradient)
        return gradient * self.derivative(input)


class Backward(diy.Module):
    """A function of a tensor, and what is to be its backward: (G, X) -> ∂ℓ/∂X."""

    def __init__(self, function, rule):
        self.function, self.rule = function, rule

    def forward(self, input):
        output = self.function(input)
        self.remember(output, input)
        return output

    def backward(self, gradient):
        return self.rule(*self.recall(gradient))


class Weighted(diy.Module):
    """S = f(X, W) with a rule (G, X, W) -> (∂ℓ/∂X, ∂ℓ/∂W)."""

    parameter_names = ("weight",)

    def __init__(self, function, rule, weight):
        self.function, self.rule, self.weight = function, rule, weight.clone()

    def forward(self, input):
        output = self.function(input, self.weight)
        self.remember(output, input, self.weight)
        return output

    def backward(self, gradient):
        gradient, input, weight = self.recall(gradient)
        along_input, along_weight = self.rule(gradient, input, weight)
        self.accumulate(self.weight, along_weight)
        return along_input


class Criterion(diy.Loss):
    """A loss with what is to be its gradient: (P, T) -> ∂ℓ/∂P."""

    def __init__(self, function, gradient):
        super().__init__()
        self.function, self.gradient = function, gradient

    def forward(self, prediction, target):
        self.kept = prediction, target
        return self.function(prediction, target)

    def backward(self):
        return self.gradient(*self.kept)


def step(x):
    return (x > 0).to(x.dtype)


# Functions with their derivatives, and inputs that are hard on a checker in one way or another.
POINTWISE = {
    "square": (lambda x: x**2, lambda x: 2 * x, numbers(4, 3)),
    "square, 1e10 beside 1": (lambda x: x**2, lambda x: 2 * x, f64(1e10, 1.0)),
    "square of tiny numbers": (lambda x: x**2, lambda x: 2 * x, f64(1e-12, 3e-9, -1e-10)),
    "square at its minimum": (lambda x: x**2, lambda x: 2 * x, f64(0.0, 1.0, 0.0)),
    "fifth power at zero": (lambda x: x**5, lambda x: 5 * x**4, f64(0.0, 0.5)),
    "cube around zero": (lambda x: x**3, lambda x: 3 * x**2, f64(-1e-4, 0.0, 1e-6, 2.0)),
    "reciprocal at 1e-5": (lambda x: 1 / x, lambda x: -1 / x**2, f64(1e-5, -2e-5, 3e-5)),
    "reciprocal at 1e-5 beside 1": (lambda x: 1 / x, lambda x: -1 / x**2, f64(1e-5, 1.0, -2.0)),
    "reciprocal at 1e6": (lambda x: 1 / x, lambda x: -1 / x**2, f64(1e6, -2e6)),
    "reciprocal at 1e-9 beside 1e3": (lambda x: 1 / x, lambda x: -1 / x**2, f64(1e-9, 1e3)),
    "sin(300 x)": (lambda x: (300 * x).sin(), lambda x: 300 * (300 * x).cos(), torch.linspace(-1, 1, 25).double()),
    "sin(1e4 x)": (lambda x: (1e4 * x).sin(), lambda x: 1e4 * (1e4 * x).cos(), numbers(6)),
    "sin(100 x) near a crest": (lambda x: (100 * x).sin(), lambda x: 100 * (100 * x).cos(), f64(0.0157, 0.3)),
    "sin": (lambda x: x.sin(), lambda x: x.cos(), numbers(4, 3, scale=10)),
    "cos at pi": (lambda x: x.cos(), lambda x: -x.sin(), f64(math.pi, 0.0, 1.0)),
    "sin beside 1e10": (lambda x: x.sin(), lambda x: x.cos(), f64(1e6, 1.0, 0.5)),
    "log at 1e-5": (lambda x: x.log(), lambda x: 1 / x, f64(1e-5, 2e-5, 5e-4)),
    "log at 1e-12 beside 1": (lambda x: x.log(), lambda x: 1 / x, f64(1e-12, 1.0, 20.0)),
    "log at 1e-300": (lambda x: x.log(), lambda x: 1 / x, f64(1e-300, 2e-300)),
    "sqrt at 1e-5": (lambda x: x.sqrt(), lambda x: 0.5 / x.sqrt(), f64(1e-5, 3e-5, 1e-4)),
    "sqrt at 1e-9 beside 100": (lambda x: x.sqrt(), lambda x: 0.5 / x.sqrt(), f64(1e-9, 100.0)),
    "log1p": (lambda x: x.log1p(), lambda x: 1 / (1 + x), f64(1e-8, -0.999, 3.0)),
    "exp at 0, 0.5, 20": (lambda x: x.exp(), lambda x: x.exp(), f64(0.0, 0.5, 20.0)),
    "exp at 0, 0.5, 300": (lambda x: x.exp(), lambda x: x.exp(), f64(0.0, 0.5, 300.0)),
    "exp at -50": (lambda x: x.exp(), lambda x: x.exp(), f64(-50.0, 1.0)),
    "exp of a square": (lambda x: (x**2).exp(), lambda x: 2 * x * (x**2).exp(), f64(3.0, -5.0, 0.1)),
    "tan near pi/2": (lambda x: x.tan(), lambda x: 1 + x.tan() ** 2, f64(1.57, 0.3)),
    "atan of large numbers": (lambda x: x.atan(), lambda x: 1 / (1 + x**2), f64(1e4, 3.0, -1e5)),
    "relu": (lambda x: x.relu(), step, numbers(5, 3)),
    "relu at zero": (lambda x: x.relu(), step, f64(0.0, 1.0, -1.0, 0.0)),
    "relu next to zero": (lambda x: x.relu(), step, f64(1e-7, -1e-7, 1e-12, -1e-9, 3.0, -4.0)),
    "relu with a bend at 1": (lambda x: (x - 1).relu(), lambda x: step(x - 1), f64(1 + 1e-4, 1 - 1e-4, 1.001, 1.0)),
    "leaky relu": (lambda x: N.leaky_relu(x, 0.01), lambda x: torch.where(x > 0, 1.0, 0.01), numbers(5, 3)),
    "elu": (lambda x: N.elu(x), lambda x: torch.where(x > 0, 1.0, x.exp()), f64(-3.0, -1e-3, 1e-3, 2.0, 0.0)),
    "abs": (lambda x: x.abs(), lambda x: x.sign(), f64(-2.0, 0.0, 1e-6, 3.0)),
    "x |x|": (lambda x: x * x.abs(), lambda x: 2 * x.abs(), f64(-2.0, 0.0, 1e-6)),
    "hardtanh": (lambda x: x.clamp(-1, 1), lambda x: step(x + 1) * step(1 - x), f64(-3.0, -0.99, 0.2, 1.01, 5.0)),
    "hardtanh at its bends": (lambda x: x.clamp(-1, 1), lambda x: (x.abs() <= 1).double(), f64(-1.0, 1.0)),
    "softshrink": (
        lambda x: N.softshrink(x, 0.5),
        lambda x: (x.abs() > 0.5).double(),
        f64(0.1, 0.49999, 0.5001, -3.0, 1e-9),
    ),
    "hardswish": (
        lambda x: N.hardswish(x),
        lambda x: torch.where(x < -3, 0.0, torch.where(x > 3, 1.0, x / 3 + 0.5)),
        f64(-4.0, -2.9, 0.0, 2.9, 4.0),
    ),
    "sigmoid": (lambda x: x.sigmoid(), lambda x: x.sigmoid() * (1 - x.sigmoid()), numbers(5, 3, scale=3)),
    "sigmoid at -40, 10": (lambda x: x.sigmoid(), lambda x: x.sigmoid() * (1 - x.sigmoid()), f64(-40.0, 10.0, -5.0)),
    "sigmoid at 12": (lambda x: x.sigmoid(), lambda x: x.sigmoid() * (1 - x.sigmoid()), f64(12.0, -12.0)),
    "sigmoid at 500": (lambda x: x.sigmoid(), lambda x: x.sigmoid() * (1 - x.sigmoid()), f64(500.0, 1.0)),
    "tanh": (lambda x: x.tanh(), lambda x: 1 - x.tanh() ** 2, numbers(5, 3, scale=2)),
    "tanh at 8": (lambda x: x.tanh(), lambda x: 1 - x.tanh() ** 2, f64(8.0, -8.0, 0.0)),
    "tanh at 300": (lambda x: x.tanh(), lambda x: 1 - x.tanh() ** 2, f64(300.0, -500.0)),
    "softplus": (lambda x: N.softplus(x, threshold=1e9), lambda x: x.sigmoid(), numbers(5, 3, scale=3)),
    "sharp softplus": (
        lambda x: torch.logaddexp(1e5 * x, 0 * x) / 1e5,
        lambda x: (1e5 * x).sigmoid(),
        f64(0.0, 1e-5, -1e-5, 1.0),
    ),
    "silu": (lambda x: x * x.sigmoid(), lambda x: x.sigmoid() * (1 + x * (1 - x.sigmoid())), numbers(5, 3)),
    "gelu": (
        lambda x: N.gelu(x),
        lambda x: 0.5 * (1 + (x / math.sqrt(2)).erf()) + x * (-(x**2) / 2).exp() / math.sqrt(2 * math.pi),
        numbers(5, 3, scale=2),
    ),
    "mish": (
        lambda x: N.mish(x),
        lambda x: N.softplus(x).tanh() + x * (1 - N.softplus(x).tanh() ** 2) * x.sigmoid(),
        numbers(5, 3),
    ),
    "floor between its jumps": (lambda x: x.floor(), lambda x: 0 * x, f64(0.3, 1.9999, -2.5)),
    "sign": (lambda x: x.sign(), lambda x: 0 * x, f64(0.3, -1e-3, 2.0)),
    "constant": (lambda x: 0 * x + 3, lambda x: 0 * x, numbers(3)),
    "sawtooth": (lambda x: x - x.floor(), lambda x: 0 * x + 1, f64(0.3, 1.999, -2.5)),
    "Huber": (
        lambda x: torch.where(x.abs() < 1, x**2 / 2, x.abs() - 0.5),
        lambda x: x.clamp(-1, 1),
        f64(-1.0, 1.0, 0.3, 5.0, 1.0001),
    ),
    "times 1e8": (lambda x: 1e8 * x, lambda x: 0 * x + 1e8, numbers(3)),
    "times 1e-8": (lambda x: 1e-8 * x, lambda x: 0 * x + 1e-8, numbers(3)),
    "times 1e-30": (lambda x: 1e-30 * x, lambda x: 0 * x + 1e-30, numbers(3)),
    "times 1e-200": (lambda x: 1e-200 * x, lambda x: 0 * x + 1e-200, numbers(3)),
    "tanh of 1e8 times": (lambda x: (1e8 * x).tanh(), lambda x: 1e8 / (1e8 * x).cosh() ** 2, numbers(3, scale=1e-8)),
    "power 1.5 of |x|": (lambda x: x.abs() ** 1.5, lambda x: 1.5 * x.sign() * x.abs().sqrt(), f64(0.0, 1.0)),
    "x log x": (lambda x: x * x.log(), lambda x: x.log() + 1, f64(1e-10, 1.0, 0.3)),
    "plus 1e6": (lambda x: x**2 + 1e6, lambda x: 2 * x, f64(1.0, 0.3, -2.0)),
    "a sum that loses digits": (lambda x: (x + 1e6) - 1e6, lambda x: 0 * x + 1, f64(1.0, -0.3)),
    "Gaussian": (lambda x: (-(x**2)).exp(), lambda x: -2 * x * (-(x**2)).exp(), f64(0.0, 1.0, 4.0, -5.0)),
    "sinc": (
        lambda x: x.sin() / x,
        lambda x: x.cos() / x - x.sin() / x**2,
        f64(0.5, 3.0, -20.0),
    ),
    "logit": (lambda x: (x / (1 - x)).log(), lambda x: 1 / (x * (1 - x)), f64(1e-6, 0.5, 1 - 1e-6)),
    "power 0.1": (lambda x: x**0.1, lambda x: 0.1 * x**-0.9, f64(1e-8, 1.0, 50.0)),
    "arcsin near 1": (lambda x: x.asin(), lambda x: 1 / (1 - x**2).sqrt(), f64(0.9999, -0.5)),
    "lgamma": (lambda x: x.lgamma(), lambda x: x.digamma(), f64(0.1, 1.4616, 30.0)),
}


def softmax_rule(g, x):
    y = x.softmax(-1)
    return y * (g - (g * y).sum(-1, keepdim=True))


def log_softmax_rule(g, x):
    return g - x.softmax(-1) * g.sum(-1, keepdim=True)


def layer_norm(x):
    return (x - x.mean(-1, keepdim=True)) / (x.var(-1, correction=0, keepdim=True) + 1e-5).sqrt()


def layer_norm_rule(g, x):
    y, scale = layer_norm(x), (x.var(-1, correction=0, keepdim=True) + 1e-5).rsqrt()
    return scale * (g - g.mean(-1, keepdim=True) - y * (g * y).mean(-1, keepdim=True))


def max_rule(g, x):
    return torch.zeros_like(x).scatter_(-1, x.argmax(-1, keepdim=True), g.unsqueeze(-1))


def difference(x):
    return x[..., 1:] - x[..., :-1]


def difference_rule(g, x):
    return N.pad(g, (1, 0)) - N.pad(g, (0, 1))


BACKWARD = {
    "softmax": (lambda x: x.softmax(-1), softmax_rule, numbers(4, 3)),
    "softmax with gaps of 20": (lambda x: x.softmax(-1), softmax_rule, f64(20.0, 0.0, 5.0)),
    "log softmax": (lambda x: x.log_softmax(-1), log_softmax_rule, numbers(4, 3, scale=4)),
    "log softmax of large scores": (lambda x: x.log_softmax(-1), log_softmax_rule, numbers(4, 3, scale=1000)),
    "norm": (lambda x: x.norm(dim=-1), lambda g, x: g[:, None] * x / x.norm(dim=-1, keepdim=True), numbers(4, 3)),
    "inverse": (
        torch.linalg.inv,
        lambda g, x: -torch.linalg.inv(x).mT @ g @ torch.linalg.inv(x).mT,
        numbers(3, 3) + 3 * torch.eye(3).double(),
    ),
    "norm of 1e-8": (
        lambda x: x.norm(dim=-1),
        lambda g, x: g[:, None] * x / x.norm(dim=-1, keepdim=True),
        numbers(4, 3, scale=1e-8),
    ),
    "layer norm": (layer_norm, layer_norm_rule, numbers(4, 3)),
    "layer norm with a large mean": (layer_norm, layer_norm_rule, numbers(4, 3) + 1000),
    "centred": (
        lambda x: x - x.mean(0),
        lambda g, x: g - g.mean(0),
        numbers(4, 3),
    ),
    "variance by squares, mean 100": (
        lambda x: (x**2).mean(-1) - x.mean(-1) ** 2,
        lambda g, x: 2 / x.shape[-1] * g[:, None] * (x - x.mean(-1, keepdim=True)),
        numbers(3, 4) + 100,
    ),
    "sum": (lambda x: x.sum(), lambda g, x: g.expand(x.shape), numbers(4, 3)),
    "sum of squares, 1e10 beside 1": (lambda x: (x**2).sum(), lambda g, x: 2 * g * x, f64(1e10, 1.0)),
    "sum of exp at 0, 0.5, 20": (lambda x: x.exp().sum(), lambda g, x: g * x.exp(), f64(0.0, 0.5, 20.0)),
    "mean": (lambda x: x.mean(0), lambda g, x: g.expand(x.shape) / len(x), numbers(4, 3)),
    "product": (lambda x: x.prod(-1), lambda g, x: g[:, None] * x.prod(-1, keepdim=True) / x, numbers(4, 3)),
    "maximum": (lambda x: x.amax(-1), max_rule, numbers(4, 3)),
    "maximum of equals": (lambda x: x.amax(-1), lambda g, x: max_rule(g, x), torch.ones(2, 3).double()),
    "maximum of equals, shared": (
        lambda x: x.amax(-1),
        lambda g, x: (g / 3)[:, None].expand(2, 3),
        torch.ones(2, 3).double(),
    ),
    "sort": (
        lambda x: x.sort(-1).values,
        lambda g, x: torch.zeros_like(x).scatter_(-1, x.argsort(-1), g),
        numbers(4, 3),
    ),
    "cumulative sum": (lambda x: x.cumsum(-1), lambda g, x: g.flip(-1).cumsum(-1).flip(-1), numbers(2, 4)),
    "differences": (difference, difference_rule, numbers(2, 5)),
    "transpose": (lambda x: x.mT, lambda g, x: g.mT, numbers(3, 4)),
    "flatten": (lambda x: x.flatten(), lambda g, x: g.view(x.shape), numbers(3, 4)),
    "repeat": (lambda x: x.repeat(1, 3), lambda g, x: g.view(len(g), 3, -1).sum(1), numbers(3, 2)),
    "pairs multiplied": (
        lambda x: x[..., 1:] * x[..., :-1],
        lambda g, x: N.pad(g * x[..., :-1], (1, 0)) + N.pad(g * x[..., 1:], (0, 1)),
        numbers(2, 5),
    ),
    "moving average": (
        lambda x: N.avg_pool1d(x, 2, 1),
        lambda g, x: (N.pad(g, (1, 0)) + N.pad(g, (0, 1))) / 2,
        numbers(2, 1, 5),
    ),
    "outputs 1e9 and 1": (
        lambda x: torch.stack([1e9 * x, x.sin()]),
        lambda g, x: 1e9 * g[0] + x.cos() * g[1],
        numbers(3),
    ),
    "a number without dimensions": (lambda x: x.exp(), lambda g, x: g * x.exp(), torch.tensor(0.7).double()),
    "one component unused": (lambda x: x[1:] ** 2, lambda g, x: N.pad(2 * g * x[1:], (1, 0)), numbers(4)),
    "distance of all pairs": (
        lambda x: (x[:, None] - x[None]).square().sum(-1),
        lambda g, x: 2 * ((g + g.T).sum(1, keepdim=True) * x - (g + g.T) @ x),
        numbers(4, 2),
    ),
}


def affine(x, w):
    return x @ w.mT


def affine_rule(g, x, w):
    return g @ w, g.mT @ x


WEIGHTED = {
    "linear": (affine, affine_rule, numbers(2, 3, seed=1), numbers(5, 3)),
    "linear, large and small weights": (affine, affine_rule, f64([1e6, 1.0], [1e-6, 1e-3]), numbers(5, 2)),
    "linear, large and small inputs": (affine, affine_rule, numbers(2, 3, seed=1), numbers(5, 3) * f64(1e6, 1.0, 1e-6)),
    "linear, weights of 0": (affine, affine_rule, torch.zeros(2, 3).double(), numbers(5, 3)),
    "used twice": (
        lambda x, w: (x @ w).tanh() @ w,
        lambda g, x, w: (
            (g @ w.T * (1 - (x @ w).tanh() ** 2)) @ w.T,
            (x @ w).tanh().T @ g + x.T @ (g @ w.T * (1 - (x @ w).tanh() ** 2)),
        ),
        numbers(3, 3, seed=1),
        numbers(4, 3),
    ),
    "power": (
        lambda x, w: x**w,
        lambda g, x, w: (g * w * x ** (w - 1), (g * x**w * x.log()).sum()),
        torch.tensor(2.5).double(),
        numbers(4).abs(),
    ),
    "PReLU": (
        lambda x, w: torch.where(x > 0, x, w * x),
        lambda g, x, w: (torch.where(x > 0, g, w * g), (g * x * (x <= 0)).sum()),
        torch.tensor(0.25).double(),
        numbers(5, 3),
    ),
    "bias before a norm": (
        lambda x, w: layer_norm((x + w).T).T,
        lambda g, x, w: (layer_norm_rule(g.T, (x + w).T).T, layer_norm_rule(g.T, (x + w).T).T.sum(0)),
        numbers(3, seed=1),
        numbers(5, 3),
    ),
    "quadratic form": (
        lambda x, w: ((x @ w) * x).sum(-1),
        lambda g, x, w: (g[:, None] * (x @ (w + w.T)), torch.einsum("n,ni,nj->ij", g, x, x)),
        numbers(3, 3, seed=1),
        numbers(4, 3),
    ),
}

CRITERIA = {
    "squared error": (lambda p, t: (p - t).square().mean(), lambda p, t: 2 * (p - t) / p.numel()),
    "squared error, summed": (lambda p, t: (p - t).square().sum(), lambda p, t: 2 * (p - t)),
    "absolute error": (lambda p, t: (p - t).abs().mean(), lambda p, t: (p - t).sign() / p.numel()),
    "Huber": (lambda p, t: N.huber_loss(p, t), lambda p, t: (p - t).clamp(-1, 1) / p.numel()),
    "log cosh": (lambda p, t: (p - t).cosh().log().sum(), lambda p, t: (p - t).tanh()),
    "hinge": (lambda p, t: (1 - p * t).relu().mean(), lambda p, t: -t * step(1 - p * t) / p.numel()),
    "root of the mean square": (
        lambda p, t: (p - t).square().mean().sqrt(),
        lambda p, t: (p - t) / p.numel() / (p - t).square().mean().sqrt(),
    ),
}


def networks():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        yield "linear", diy.Linear(3, 2), numbers(5, 3)
        yield (
            "three layers",
            diy.Sequential(diy.Linear(3, 4), diy.ReLU(), diy.Linear(4, 4), diy.Tanh(), diy.Linear(4, 2)),
            numbers(5, 3),
        )
        yield (
            "nested",
            diy.Sequential(diy.Sequential(diy.Linear(3, 4), diy.Sequential(diy.Tanh())), diy.Linear(4, 2)),
            numbers(5, 3),
        )
        shared = diy.Linear(3, 3)
        yield "a layer used twice", diy.Sequential(shared, diy.Tanh(), shared), numbers(5, 3)
        yield "dropout", diy.Sequential(diy.Linear(3, 6), diy.Dropout(0.5), diy.ReLU(), diy.Linear(6, 2)), numbers(5, 3)
        yield "dropout, evaluation", diy.Sequential(diy.Linear(3, 6), diy.Dropout(0.5)).eval(), numbers(5, 3)
        yield "convolution", diy.Conv2d(2, 2, 3, padding=1), numbers(2, 2, 4, 4)
        yield "max pooling", diy.MaxPool2d(2), numbers(2, 2, 4, 4)
        yield "batch norm", diy.BatchNorm2d(2), numbers(3, 2, 2, 2)
        yield "batch norm, evaluation", diy.BatchNorm2d(2).eval(), numbers(3, 2, 2, 2)
        yield (
            "bias before batch norm",
            diy.Sequential(diy.Conv2d(1, 2, 2), diy.BatchNorm2d(2), diy.ReLU(), diy.Flatten(), diy.Linear(8, 2)),
            numbers(3, 1, 3, 3),
        )
        yield "inputs of 1e6", diy.Sequential(diy.Linear(3, 4), diy.ReLU(), diy.Linear(4, 2)), numbers(5, 3, scale=1e6)
        yield (
            "inputs of 1e-6",
            diy.Sequential(diy.Linear(3, 4), diy.Tanh(), diy.Linear(4, 2)),
            numbers(5, 3, scale=1e-6),
        )
        yield (
            "ten layers",
            diy.Sequential(*(layer for _ in range(5) for layer in (diy.Linear(3, 3), diy.Tanh()))),
            numbers(4, 3),
        )
        yield "one sample", diy.Sequential(diy.Linear(3, 4), diy.Sigmoid(), diy.Linear(4, 2)), numbers(1, 3)


def right_ones():
    for name, (function, derivative, input) in POINTWISE.items():
        yield name, Pointwise(function, derivative), input, None
    for name, (function, rule, input) in BACKWARD.items():
        yield name, Backward(function, rule), input, None
    for name, (function, rule, weight, input) in WEIGHTED.items():
        yield name, Weighted(function, rule, weight), input, None
    for name, (function, gradient) in CRITERIA.items():
        target = numbers(5, 3, seed=1).sign() if name == "hinge" else numbers(5, 3, seed=1)
        yield name, Criterion(function, gradient), numbers(5, 3), target
    for name, network, input in networks():
        yield name, network, input, None
    for reduction in ("mean", "sum"):
        yield "MSELoss", diy.MSELoss(reduction=reduction), numbers(5, 2), numbers(5, 2, seed=1)
        yield "MSELoss, far off", diy.MSELoss(reduction=reduction), numbers(5, 2), 1e4 + numbers(5, 2, seed=1)
        yield "cross-entropy", diy.CrossEntropyLoss(reduction=reduction), numbers(5, 3, scale=3), torch.arange(5) % 3


class Spoiled:
    """A right module, except for one component of the gradient of its input."""

    def __init__(self, module, place, factor=1.0, more=0.0):
        self.module, self.place, self.factor, self.more = module, place, factor, more

    def named_parameters(self):
        return getattr(self.module, "named_parameters", list)()

    def forward(self, *arguments):
        return self.module(*arguments)

    def backward(self, *gradient):
        found = self.module.backward(*gradient).clone(memory_format=torch.contiguous_format)
        found.view(-1)[self.place] = found.view(-1)[self.place] * self.factor + self.more
        return found


def by_hand(module, input, target):
    """Return what backward of a module finds, for an output's gradient of all kinds of numbers."""
    parameters = list(getattr(module, "parameters", list)())
    input = input.to(parameters[0].dtype if parameters else torch.float64)
    if target is not None:
        module(input, target)
        return module.backward()
    output = module(input)
    return module.backward(torch.linspace(1, 2, output.numel(), dtype=output.dtype).view(output.shape))


def wrong_ones():
    """Every right one again, with its smallest gradient that is not 0 wrong by 0.1 % and by one of other factors."""
    others = itertools.cycle([1.01, 2.0, 0.0, -1.0, 0.5])
    for name, module, input, target in right_ones():
        gradient = by_hand(module, input, target).flatten().abs()
        if not gradient.max() > 1e-300:
            yield f"{name}, plus 0.001", Spoiled(module, 0, more=0.001), input, target
            continue
        place = int(torch.where(gradient > 1e-15 * gradient.max(), gradient, math.inf).argmin())
        for factor in (1.001, next(others)):
            if factor == 1.001 or name not in AT_KINKS:
                yield f"{name}, times {factor}", Spoiled(module, place, factor), input, target


AT_KINKS = ("hardtanh at its bends", "maximum of equals", "maximum of equals, shared", "relu at zero", "abs", "elu")
"""Where a gradient times 0 or 1/2 may be a right one."""

LOST = {
    "softmax with gaps of 20": "a probability of 2e-9 beside one of 1, which is known to 1e-16",
    "linear, large and small inputs": "products of 1e-6 added to such of 1e6",
}
"""Right ones of which the checker may say that it cannot tell."""


def words(check):
    return "right" if check.right else "wrong" if check.wrong else "cannot tell"


def test_the_labels_are_right():
    # PyTorch's own gradient, at kinks as well, where it has its conventions.
    for name, module, input, target in right_ones():
        if isinstance(module, (Pointwise, Backward, Criterion)) and name not in AT_KINKS:
            leaf = input.double().requires_grad_()
            output = module.function(leaf) if target is None else module.function(leaf, target)
            weights = torch.linspace(1, 2, output.numel(), dtype=output.dtype).view(output.shape)
            output.backward(weights if target is None else torch.ones_like(output))
            torch.testing.assert_close(by_hand(module, input, target), leaf.grad, rtol=1e-6, atol=1e-14, msg=name)


def test_no_right_gradient_is_called_wrong():
    found = {name: words(check_gradients(*example, verbose=False)) for name, *example in right_ones()}
    assert len(found) >= 130
    assert [name for name, word in found.items() if word == "wrong"] == []
    assert {name for name, word in found.items() if word == "cannot tell"} <= set(LOST)


def test_no_wrong_gradient_is_called_right():
    found = {name: words(check_gradients(*example, verbose=False)) for name, *example in wrong_ones()}
    assert len(found) >= 250
    assert [name for name, word in found.items() if word == "right"] == []
    assert len([name for name, word in found.items() if word == "cannot tell"]) <= 4
