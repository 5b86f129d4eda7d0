"""Answers to the exercises of notebook 3, in which a framework is written: right ones in many styles, and wrong ones.

tests/notebooks/test_checkers.py asks for the verdict on each.
"""

import functools
import itertools
import math

import numpy as np
import torch
from course import mini
from course.mini import Module, accumulate, linear, linear_backward, zero_grad

import diy

RIGHT: dict[str, list] = {}
WRONG: dict[str, list] = {}


def step(number):
    return f"build_it_yourself.{number}"


# 3.1


def linear_in_loops(X, W, b):
    S = torch.zeros(len(X), len(W))
    for n in range(len(X)):
        for k in range(len(W)):
            S[n, k] = sum(X[n, i] * W[k, i] for i in range(X.shape[1])) + b[k]
    return S


def linear_by_neuron(inputs, weights, biases):
    return torch.stack([inputs @ w + bias for w, bias in zip(weights, biases, strict=True)], dim=1)


def linear_in_place(X, W, b):
    S = X @ W.T
    S += b
    return S


def keeping_b():
    """Return an answer that keeps the bias of its first call for each shape."""
    kept = {}
    return lambda X, W, b: X @ W.T + kept.setdefault(b.shape, b)


RIGHT[step(1)] = [
    linear,
    linear_in_loops,
    linear_by_neuron,
    linear_in_place,
    lambda X, W, b: torch.einsum("ni,ki->nk", X, W) + b,
    lambda X, W, b: torch.from_numpy(X.numpy() @ W.numpy().T + b.numpy()),
    lambda X, W, b: (W @ X.T + b[:, None]).T,
    lambda X, W, b: torch.addmm(b, X, W.t()),
    lambda X, W, b: (X[:, None, :] * W).sum(-1) + b,
    functools.partial(lambda one, X, W, b: one * X @ W.mT + b, 1.0),
    torch.nn.functional.linear,
]
WRONG[step(1)] = [
    (lambda X, W, b: X @ W + b, "W is not transposed"),
    (lambda X, W, b: W @ X + b, "X stands on the left"),
    (lambda X, W, b: X @ W.T, "the bias is missing"),
    (lambda X, W, b: X @ W.T - b, "the bias is subtracted"),
    (lambda X, W, b: (X @ W.T + b).T, "yours is transposed"),
    (lambda X, W, b: X @ W.T + b[:, None], "one number for each sample"),
    (lambda X, W, b: X @ W.T + b.sum(), "b is added up over the neurons"),
    (lambda X, W, b: X @ W.T + b[0], "neuron k has its own"),
    (lambda X, W, b: (X @ W.T + b) / len(X), "nothing is averaged here"),
    (lambda X, W, b: X @ W.T + b.unsqueeze_(0), "changes its argument b in place"),
    (lambda X, W, b: (X.mul_(2) / 2) @ W.T + b, "changes its argument X in place"),
    (keeping_b(), "S at"),
    (lambda X, W, b: (X @ W.T + b).float(), "float32, though what came in is float64"),
    (lambda X, W, b: (X @ W.T + b).numpy(), "need a tensor"),
    (lambda X, W, b: (X @ W.T + b).tolist(), "need a tensor"),
    (lambda X, W: X @ W.T, "is called with 3 arguments: X, W, b"),
    (lambda X, W, b: print(X @ W.T + b), "`print` only shows it"),
    (lambda X, W, b: ..., "open"),
    (torch.nn.Linear(2, 2), "raises TypeError"),
]

# 3.2


def backward_in_loops(G, X, W):
    dX, dW, db = torch.zeros(X.shape), torch.zeros(W.shape), torch.zeros(len(W))
    for n in range(len(X)):
        for k in range(len(W)):
            db[k] += G[n, k]
            for i in range(X.shape[1]):
                dX[n, i] += G[n, k] * W[k, i]
                dW[k, i] += G[n, k] * X[n, i]
    return dX, dW, db


def sample_by_sample(G, X, W):
    dW, db = torch.zeros_like(W), torch.zeros(W.shape[0])
    for g, x in zip(G, X, strict=True):
        dW += torch.outer(g, x)
        db += g
    return [torch.stack([g @ W for g in G]), dW, db]


def generating(G, X, W):
    yield G @ W
    yield G.T @ X
    yield G.sum(0)


def by_numpy(G, X, W):
    g, x, w = G.numpy(), X.numpy(), W.numpy()
    return torch.from_numpy(g @ w), torch.from_numpy(g.T @ x), torch.from_numpy(g.sum(axis=0))


RIGHT[step(2)] = [
    linear_backward,
    backward_in_loops,
    sample_by_sample,
    generating,
    lambda G, X, W: iter(linear_backward(G, X, W)),
    by_numpy,
    lambda G, X, W: (
        torch.einsum("nk,ki->ni", G, W),
        torch.einsum("nk,ni->ki", G, X),
        torch.einsum("nk->k", G),
    ),
    lambda grad, inputs, weight: (grad @ weight, (inputs.T @ grad).T, torch.ones(len(grad)) @ grad),
    lambda G, X, W: (G @ W, (G[:, :, None] * X[:, None, :]).sum(0), len(G) * G.mean(0)),
]


def asking_autograd(G, X, W):
    x, w = X.clone().requires_grad_(), W.clone().requires_grad_()
    return *torch.autograd.grad((G * (x @ w.T)).sum(), [x, w]), G.sum(0)


WRONG[step(2)] = [
    (asking_autograd, "autograd"),
    (lambda G, X, W: (G @ W, G.T @ X / len(X), G.sum(0)), "dW: it is divided by the number of samples"),
    (lambda G, X, W: (G @ W, G.T @ X, G.mean(0)), "db: it is divided by the number of samples"),
    (lambda G, X, W: (G @ W.T, G.T @ X, G.sum(0)), "dX: W is transposed"),
    (lambda G, X, W: (G @ W, G @ X, G.sum(0)), "dW: G is not transposed"),
    (lambda G, X, W: (G @ W, X.T @ G, G.sum(0)), "dW: it is transposed"),
    (lambda G, X, W: (G @ W, G.T @ X, G), "db: the sum over the samples is missing"),
    (lambda G, X, W: (G @ W, G.T @ X, G.sum(1)), "db: it is summed over the neurons"),
    (lambda G, X, W: (G @ W, G.T @ X, G.sum()), "db: it is summed over everything"),
    (lambda G, X, W: (G @ W, G.T @ X, G.sum(0, keepdim=True)), "db: it has a dimension too many"),
    (lambda G, X, W: (G @ W, G.T @ X, G[-1]), "db: that is what one sample gives"),
    (lambda G, X, W: (G @ W, torch.outer(G[-1], X[-1]), G.sum(0)), "dW: that is what one sample gives"),
    (lambda G, X, W: (G.T @ X, G.sum(0), G @ W), "in the order dW, db, dX"),
    (lambda G, X, W: (-G @ W, G.T @ X, G.sum(0)), "dX: the sign is wrong"),
    (lambda G, X, W: (G @ W, G.T @ X), "should return three gradients"),
    (lambda G, X, W: G @ W, "should return three gradients"),
    (lambda G, X, W: {"dX": G @ W, "dW": G.T @ X, "db": G.sum(0)}, "should return three gradients"),
    (lambda G, X, W: (G @ W, G.T @ X, G.cumsum_(0)[-1]), "changes its argument G in place"),
    (lambda G, X, W: (G @ W, G.T @ X, ...), "open"),
    (lambda G, X, W: ((G @ W).float(), G.T @ X, G.sum(0)), "float32"),
    (lambda G, X, W: (G @ W, (G.T @ X).numpy(), G.sum(0)), "need a tensor"),
    (lambda G, X, W: (G @ W, G.sum(0)[:, None] * X.sum(0), G.sum(0)), "summed over the samples before"),
]

# 3.3


def cloning(parameter, gradient):
    if parameter.grad is None:
        parameter.grad = gradient.clone()
    else:
        parameter.grad += gradient


def from_zeros(parameter, gradient):
    if parameter.grad is None:
        parameter.grad = torch.zeros_like(parameter)
    parameter.grad.add_(gradient)


def trying(p, g):
    try:
        p.grad = p.grad + g
    except TypeError:
        p.grad = g


def by_numpy_too(p, g):
    before = 0 if p.grad is None else p.grad.numpy()
    p.grad = torch.from_numpy(before + g.numpy())


def keeping_the_first(parameter, gradient):
    """Adds in place to a tensor that belongs to the caller."""
    if parameter.grad is None:
        parameter.grad = gradient
    else:
        parameter.grad += gradient


def replacing(parameter, gradient):
    parameter.grad = gradient


def first_only(parameter, gradient):
    if parameter.grad is None:
        parameter.grad = gradient


def losing_the_first(parameter, gradient):
    parameter.grad = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad + gradient


def averaging(parameter, gradient):
    parameter.grad = gradient if parameter.grad is None else (parameter.grad + gradient) / 2


def adding_to_none(parameter, gradient):
    parameter.grad = parameter.grad + gradient


def descending(parameter, gradient):
    parameter -= gradient


def forgetting_names(parameter, gradient):
    grad = parameter.grad
    grad = gradient if grad is None else grad + gradient


def doubling(parameter, gradient):
    parameter.grad = gradient if parameter.grad is None else parameter.grad + 2 * gradient


def truth_of_a_tensor(parameter, gradient):
    parameter.grad = (parameter.grad or 0) + gradient


def by_autograd_too(parameter, gradient):
    (parameter.requires_grad_() * gradient).sum().backward()


def zeros_instead(parameters):
    for parameter in parameters:
        parameter.grad = torch.zeros_like(parameter)


def zero_in_place(parameters):
    for parameter in parameters:
        if parameter.grad is not None:
            parameter.grad.zero_()


def deleting(ps):
    for p in ps:
        del p.grad


def zero_without_care(parameters):
    for parameter in parameters:
        parameter.grad.zero_()


def zero_local(parameters):
    for parameter in parameters:
        grad = parameter.grad
        grad = None  # noqa: F841


def zero_parameters(parameters):
    for parameter in parameters:
        parameter.zero_()


def zero_first(parameters):
    for parameter in parameters:
        parameter.grad = None
        return


def zero_without_the_last(parameters):
    for parameter in parameters[:-1]:
        parameter.grad = None


def zero_popping(parameters):
    while parameters:
        parameters.pop().grad = None


def zero_open(parameters): ...


RIGHT[step(3)] = [
    (accumulate, zero_grad),
    (cloning, zeros_instead),
    (from_zeros, zero_in_place),
    (trying, deleting),
    (by_numpy_too, zero_grad),
    (accumulate, lambda parameters: [setattr(p, "grad", None) for p in parameters]),
    (cloning, zero_in_place),
]
WRONG[step(3)] = [
    ((keeping_the_first, zero_grad), "adds in place to a gradient that it was given before"),
    ((replacing, zero_grad), "the second replaces the first"),
    ((first_only, zero_grad), "the second does not count"),
    ((losing_the_first, zero_grad), "the first gradient is lost"),
    ((averaging, zero_grad), "that is their mean"),
    ((adding_to_none, zero_grad), "a .grad before the first backward"),
    ((descending, zero_grad), "changes the parameter itself"),
    ((forgetting_names, zero_grad), "still None"),
    ((doubling, zero_grad), "the second counts twice"),
    ((truth_of_a_tensor, zero_grad), "`is None` where a tensor may be missing"),
    ((by_autograd_too, zero_grad), "autograd"),
    ((lambda p, g: setattr(p, "grad", g.mul_(1.5)), zero_grad), "adds in place to a gradient"),
    ((accumulate, zero_without_care), "zero_grad stops at a parameter whose .grad is None"),
    ((accumulate, zero_in_place), "zero_grad sets to zero, in place, a gradient that accumulate was given"),
    ((accumulate, zero_local), "After zero_grad the gradients are still there"),
    ((accumulate, zero_parameters), "zero_grad changes the parameters themselves"),
    ((accumulate, zero_first), "one of the gradients is still there"),
    ((accumulate, zero_without_the_last), "one of the gradients is still there"),
    ((accumulate, zero_popping), "changes the list of parameters"),
    ((accumulate, zero_open), "open. accumulate is right so far, zero_grad still has its dots"),
    ((lambda parameter, gradient: ..., zero_grad), "open"),
    ((accumulate, lambda: 0), "is called with 1 argument: parameters"),
]

# 3.4


def linear_layer(backward=None, forward=None, parameters=None, **more):
    """Return a Linear like the given one, with methods exchanged."""
    methods = {"backward": backward, "forward": forward, "parameters": parameters, **more}
    return type("Linear", (mini.Linear,), {name: method for name, method in methods.items() if method})


class OwnNames(Module):
    def __init__(self, size_in, size_out):
        self.w = torch.randn(size_out, size_in) * 0.1
        self.c = torch.zeros(size_out)
        self.kept = {}

    def parameters(self):
        yield self.w
        yield self.c

    def forward(self, inputs):
        self.kept["inputs"] = inputs.clone()
        return torch.einsum("ni,ki->nk", inputs, self.w) + self.c

    def backward(self, gradient):
        for p, g in ((self.w, gradient.T @ self.kept["inputs"]), (self.c, gradient.sum(0))):
            p.grad = g if p.grad is None else p.grad + g
        return gradient @ self.w


class WithoutModule:
    def __init__(self, m, n):
        self.weight, self.bias = torch.randn(n, m), torch.zeros(n)

    def __call__(self, X):
        return self.forward(X)

    def parameters(self):
        return (self.weight, self.bias)

    def forward(self, X):
        self.X = X
        return linear_in_loops(X, self.weight, self.bias)

    def backward(self, G):
        dX, dW, db = backward_in_loops(G, self.X, self.weight)
        accumulate(self.bias, db)
        accumulate(self.weight, dW)
        return dX


class GradFromZeros(mini.Linear):
    def __init__(self, *sizes):
        super().__init__(*sizes)
        self.weight.grad, self.bias.grad = torch.zeros_like(self.weight), torch.zeros_like(self.bias)

    def backward(self, G):
        self.weight.grad += G.T @ self.X
        self.bias.grad += G.sum(0)
        return G @ self.weight


class StackOfInputs(mini.Linear):
    def forward(self, X):
        self.inputs = [*getattr(self, "inputs", []), X]
        return linear(X, self.weight, self.bias)

    def backward(self, G):
        dX, dW, db = linear_backward(G, self.inputs.pop(), self.weight)
        accumulate(self.weight, dW)
        accumulate(self.bias, db)
        return dX


def with_gradients(dX=None, dW=None, db=None):
    """Return a Linear whose backward has one gradient replaced."""

    def backward(self, G):
        right = linear_backward(G, self.X, self.weight)
        chosen = [one or (lambda self, G, r=r: r) for one, r in zip((dX, dW, db), right, strict=True)]
        found = [function(self, G) for function in chosen]
        accumulate(self.weight, found[1])
        accumulate(self.bias, found[2])
        return found[0]

    return linear_layer(backward)


def setting(self, G):
    dX, self.weight.grad, self.bias.grad = linear_backward(G, self.X, self.weight)
    return dX


def learning(self, G):
    dX = mini.Linear.backward(self, G)
    self.weight -= 0.1 * self.weight.grad
    return dX


def moving_away(self, G):
    dX, dW, db = linear_backward(G, self.X, self.weight)
    self.weight = self.weight - 0.1 * dW
    accumulate(self.weight, dW)
    accumulate(self.bias, db)
    return dX


def destroying(self, G):
    dX = mini.Linear.backward(self, G)
    G.zero_()
    return dX


def without_bias_gradient(self, G):
    accumulate(self.weight, G.T @ self.X)
    return G @ self.weight


def returning_nothing(self, G):
    mini.Linear.backward(self, G)


def first_batch_for_ever(self, X):
    if not hasattr(self, "X"):
        self.X = X
    return linear(X, self.weight, self.bias)


SHARED = {}


def in_a_global(self, X):
    SHARED["X"] = X
    return linear(X, self.weight, self.bias)


def from_a_global(self, G):
    self.X = SHARED["X"]
    return mini.Linear.backward(self, G)


def all_alike(self, m, n):
    self.weight, self.bias = torch.zeros(n, m), torch.zeros(n)


def for_autograd(self, m, n):
    self.weight, self.bias = torch.randn(n, m, requires_grad=True), torch.zeros(n)


class SharedWeights(mini.Linear):
    made = {}  # noqa: RUF012

    def __init__(self, m, n):
        self.made.setdefault((m, n), mini.Linear(m, n))
        self.weight, self.bias = self.made[m, n].weight, self.made[m, n].bias


class ByAutograd(mini.Linear):
    def backward(self, G):
        X = self.X.detach().requires_grad_()
        linear(X, self.weight, self.bias).backward(G)
        accumulate(self.weight, G.T @ self.X)
        accumulate(self.bias, G.sum(0))
        return X.grad


RIGHT[step(4)] = [
    mini.Linear,
    OwnNames,
    WithoutModule,
    GradFromZeros,
    StackOfInputs,
    linear_layer(parameters=lambda self: iter([self.weight, self.bias])),
    linear_layer(forward=lambda self, X: setattr(self, "X", X) or X @ self.weight.T + self.bias),
]
WRONG[step(4)] = [
    (linear_layer(setting), "the second backward replaces what the first has left"),
    (linear_layer(moving_away), "puts another tensor in the place of a parameter"),
    (linear_layer(lambda self, G: linear_backward(G, self.X, self.weight)), "only dX is returned"),
    (with_gradients(dW=lambda self, G: G.T @ self.X / len(G)), "weight.grad: it is divided by the number of samples"),
    (with_gradients(db=lambda self, G: G.mean(0)), "bias.grad: it is divided by the number of samples"),
    (with_gradients(dX=lambda self, G: G @ self.weight.T), "W is transposed"),
    (with_gradients(dX=lambda self, G: G.T @ self.X), "that is the gradient of the weights"),
    (with_gradients(dX=lambda self, G: 1 * G), "the gradient from above, unchanged"),
    (linear_layer(learning), "changes weight itself"),
    (linear_layer(destroying), "changes the gradient from above in place"),
    (linear_layer(without_bias_gradient), "bias.grad is None"),
    (linear_layer(returning_nothing), "is `return` missing?"),
    (linear_layer(forward=first_batch_for_ever), "it belongs to an earlier batch"),
    (linear_layer(from_a_global, in_a_global), "what one remembers is taken for the other"),
    (linear_layer(parameters=lambda self: [self.bias, self.weight]), "gives the bias first"),
    (linear_layer(parameters=lambda self: [self.weight.clone(), self.bias]), "new tensors at each call"),
    (
        linear_layer(parameters=lambda self: [self.weight.view(self.weight.shape), self.bias]),
        "new tensors at each call",
    ),
    (linear_layer(parameters=lambda self: [self.weight]), "should be the weight"),
    (linear_layer(parameters=lambda self: [[self.weight, self.bias]]), "lists in a list"),
    (linear_layer(parameters=lambda self: {"weight": self.weight}), "should give a list of tensors"),
    (linear_layer(forward=lambda self, X: X @ self.weight + self.bias), "W is not transposed"),
    (linear_layer(forward=lambda self, X: X @ self.weight.T), "the bias is missing"),
    (linear_layer(lambda self, G: ...), "open. Linear.forward is right so far, backward still has its dots"),
    (linear_layer(__init__=all_alike), "All weights are the same"),
    (linear_layer(__init__=for_autograd), "asks for autograd"),
    (SharedWeights, "have the same weights"),
    (ByAutograd, "autograd"),
    (torch.nn.Linear, "belongs to PyTorch"),
    (diy.Linear, "is the one of diy.py"),
    (mini.Linear(2, 2), "Hand over the class Linear itself"),
    (type("Linear", (), {"forward": mini.Linear.forward, "backward": mini.Linear.backward}), "cannot be made"),
]

# 3.5 and 3.6


def layer(forward, backward, base=Module):
    """Return a layer without parameters; forward(x) gives the output, backward(g, x, y) the gradient."""

    class Layer(base):
        def forward(self, S):
            self.S, self.Y = S, forward(S)
            return self.Y

        def backward(self, G):
            return backward(G, self.S, self.Y)

    return Layer


def tanh_back(g, x, y):
    return g * (1 - y * y)


class PlainTanh:
    """Derived from nothing."""

    def __call__(self, s):
        return self.forward(s)

    def forward(self, s):
        self.slope = 1 / s.cosh() ** 2
        return s.tanh()

    def backward(self, g):
        return g * self.slope

    def parameters(self):
        return ()


class Uncallable:
    def forward(self, S):
        self.Y = S.tanh()
        return self.Y

    def backward(self, G):
        return G * (1 - self.Y**2)


class OnTheClass(Module):
    def forward(self, S):
        OnTheClass.Y = S.tanh()
        return OnTheClass.Y

    def backward(self, G):
        return G * (1 - OnTheClass.Y**2)


class UsedUp(Module):
    """Changes in place what forward has returned."""

    def forward(self, S):
        self.Y = S.tanh()
        return self.Y

    def backward(self, G):
        return G * self.Y.square_().neg_().add_(1)


class WithParameters(mini.Tanh):
    def parameters(self):
        return [torch.ones(1)]


RIGHT[step(5)] = [
    mini.Tanh,
    PlainTanh,
    mini.Tanh(),
    layer(torch.tanh, lambda g, x, y: g * (1 - x.tanh() ** 2)),
    layer(lambda s: 1 - 2 / (1 + (2 * s).exp()), lambda g, x, y: g * (1 - y) * (1 + y)),
    layer(lambda s: torch.from_numpy(np.tanh(s.numpy())), lambda g, x, y: g - g * y.square()),
    layer(lambda s: (s.exp() - (-s).exp()) / (s.exp() + (-s).exp()), tanh_back),
    layer(
        lambda s: torch.tensor([[math.tanh(v) for v in row] for row in s.tolist()]),
        lambda g, x, y: torch.addcmul(g, g, y * y, value=-1),
    ),
]
WRONG[step(5)] = [
    (layer(torch.tanh, lambda g, x, y: 1 - y * y), "that is the slope alone"),
    (layer(torch.tanh, lambda g, x, y: g * (1 - y ^ 2)), "a power is **, not ^"),
    (layer(torch.tanh, lambda g, x, y: g), "the gradient from above, unchanged"),
    (layer(torch.tanh, lambda g, x, y: g * (1 - x * x)), "the slope is taken at the input"),
    (layer(torch.tanh, lambda g, x, y: g * (1 - y.tanh() ** 2)), "the tanh is taken once more"),
    (layer(torch.tanh, lambda g, x, y: g * (1 - y)), "that is with 1 − y"),
    (layer(torch.tanh, lambda g, x, y: g * y * (1 - y)), "slope of the sigmoid"),
    (layer(torch.tanh, lambda g, x, y: -tanh_back(g, x, y)), "the sign within the slope is wrong"),
    (layer(torch.tanh, lambda g, x, y: g + 1 - y * y), "numbers are multiplied"),
    (layer(torch.tanh, lambda g, x, y: tanh_back(g, x, y) / len(g)), "divided by the number of samples"),
    (layer(torch.tanh, lambda g, x, y: g.mul_(1 - y * y)), "changes the gradient from above in place"),
    (layer(lambda s: s.tanh_(), tanh_back), "changes its argument S in place"),
    (layer(torch.sigmoid, tanh_back), "that is the sigmoid"),
    (layer(lambda s: s.tanh().float(), tanh_back), "float32"),
    (layer(lambda s: np.tanh(s.numpy()), tanh_back), "need a tensor"),
    (UsedUp, "backward changes in place what forward returned"),
    (OnTheClass, "what one remembers is taken for the other"),
    (Uncallable, "has no method parameters"),
    (WithParameters, "has nothing to learn"),
    (torch.nn.Tanh, "belongs to PyTorch"),
    (diy.Tanh, "is the one of diy.py"),
    (layer(torch.tanh, lambda g, x, y: ...), "open. Tanh.forward is right so far"),
    (layer(torch.tanh, lambda g, x, y: None), "is `return` missing?"),
]


def relu_back(g, x, y):
    return g * (x > 0)


def masked(s):
    out = s.clone()
    out[out < 0] = 0
    return out


def masked_back(g, x, y):
    g = g.clone()
    g[x <= 0] = 0
    return g


def masked_in_place(s):
    s[s < 0] = 0
    return s


def gradient_in_place(g, x, y):
    g[x <= 0] = 0
    return g


def in_loops_back(g, x, y):
    return torch.tensor([[b if a > 0 else 0.0 for a, b in zip(p, q)] for p, q in zip(x.tolist(), g.tolist())])


RIGHT[step(6)] = [
    mini.ReLU,
    mini.ReLU(),
    layer(masked, masked_back),
    layer(lambda s: s.clamp(min=0), lambda g, x, y: torch.where(y > 0, g, torch.zeros_like(g))),
    layer(lambda s: s * (s > 0), lambda g, x, y: g * y.sign()),
    layer(lambda s: torch.maximum(s, torch.zeros_like(s)), lambda g, x, y: g * (x > 0).double()),
    layer(lambda s: torch.from_numpy(np.maximum(s.numpy(), 0)), relu_back),
    layer(lambda s: (s + s.abs()) / 2, in_loops_back),
]
WRONG[step(6)] = [
    (layer(torch.relu, lambda g, x, y: (x > 0).double()), "that is the slope alone"),
    (layer(torch.relu, lambda g, x, y: g * (y >= 0)), "Y >= 0 holds everywhere"),
    (layer(torch.relu, lambda g, x, y: g * y > 0), "it needs brackets"),
    (layer(torch.relu, lambda g, x, y: g.relu()), "the sign of the gradient"),
    (layer(torch.relu, lambda g, x, y: g * (x >= 0)), "at s = 0 the gradient passes"),
    (layer(torch.relu, lambda g, x, y: g * y), "multiplied by the output"),
    (layer(torch.relu, lambda g, x, y: g * (x <= 0)), "stops what should pass"),
    (layer(torch.relu, lambda g, x, y: g * x.sign()), "multiplied by the sign"),
    (layer(torch.relu, lambda g, x, y: g + (x > 0)), "numbers are multiplied"),
    (layer(torch.relu, lambda g, x, y: relu_back(g, x, y) / len(g)), "divided by the number of samples"),
    (layer(masked_in_place, relu_back), "changes its argument S in place"),
    (layer(torch.relu, gradient_in_place), "changes the gradient from above in place"),
    (layer(torch.abs, relu_back), "that is the absolute value"),
    (layer(torch.nn.functional.relu6, relu_back), "but is 6"),
    (layer(lambda s: (s > 0).double(), relu_back), "that is its slope"),
    (layer(lambda s: s.clamp(max=0), relu_back), "the other half"),
    (layer(lambda s: 1 * s, relu_back), "that is S itself"),
    (layer(torch.relu, lambda g, x, y: torch.zeros_like(g)), "it is all zero"),
    (torch.nn.ReLU, "belongs to PyTorch"),
    (diy.ReLU, "is the one of diy.py"),
    (layer(torch.relu, lambda g, x, y: ...), "open. ReLU.forward is right so far"),
]

# 3.7


class Chain(Module):
    """With names and data structures of its own."""

    def __init__(self, *parts):
        self.first, self.rest = parts[0], parts[1:]

    def forward(self, x):
        x = self.first.forward(x)
        for part in self.rest:
            x = part.forward(x)
        return x

    def backward(self, g):
        for part in self.rest[::-1]:
            g = part.backward(g)
        return self.first.backward(g)

    def parameters(self):
        for part in (self.first, *self.rest):
            yield from part.parameters()


class Folding(Module):
    def __init__(self, *layers):
        self.layers = list(layers)

    def forward(self, X):
        return functools.reduce(lambda value, part: part(value), self.layers, X)

    def backward(self, G):
        return functools.reduce(lambda value, part: part.backward(value), self.layers[::-1], G)

    def parameters(self):
        return list(itertools.chain.from_iterable(part.parameters() for part in self.layers))


class Indexing(Folding):
    def forward(self, X):
        outputs = [X]
        for i in range(len(self.layers)):
            outputs.append(self.layers[i](outputs[i]))
        return outputs[-1]

    def backward(self, G):
        i = len(self.layers) - 1
        while i >= 0:
            G = self.layers[i].backward(G)
            i -= 1
        return G


class Linked(Module):
    """Recursive: the first layer, and a network of the others."""

    def __init__(self, first, *others):
        self.first, self.others = first, Linked(*others) if others else None

    def forward(self, X):
        value = self.first(X)
        return self.others(value) if self.others else value

    def backward(self, G):
        return self.first.backward(self.others.backward(G) if self.others else G)

    def parameters(self):
        return [*self.first.parameters(), *(self.others.parameters() if self.others else [])]


def chain(**methods):
    return type("Sequential", (mini.Sequential,), methods)


def forwards(self, G):
    for part in self.layers:
        G = part.backward(G)
    return G


def reversing_for_good(self, G):
    self.layers.reverse()
    return forwards(self, G)


def each_alone(self, X):
    for part in self.layers:
        out = part(X)
    return out


def stops_early(self, X):
    for part in self.layers:
        return part(X)


def gradient_to_each(self, G):
    for part in reversed(self.layers):
        out = part.backward(G)
    return out


def without_first(self, G):
    for part in reversed(self.layers[1:]):
        G = part.backward(G)
    return G


def no_return(self, G):
    for part in reversed(self.layers):
        G = part.backward(G)


def backward_twice(self, G):
    mini.Sequential.backward(self, G)
    return mini.Sequential.backward(self, G)


def keep_list(self, *layers):
    self.layers = list(layers)


def takes_a_list(self, layers):
    self.layers = layers


def as_generator(self, *layers):
    self.layers = (part for part in layers)


RIGHT[step(7)] = [
    mini.Sequential,
    Chain,
    Folding,
    Indexing,
    Linked,
    chain(parameters=lambda self: tuple(p for part in self.layers for p in part.parameters())),
    chain(__init__=keep_list),
]
WRONG[step(7)] = [
    (chain(backward=forwards), "from the first to the last"),
    (chain(parameters=lambda self: [one.weight for one in self.layers[::2]]), "not all of them"),
    (chain(__init__=keep_list, backward=reversing_for_good), "from the last layer to the first"),
    (chain(forward=each_alone), "each layer gets the input of the network"),
    (chain(forward=stops_early), "that is what the first layer gives"),
    (chain(forward=lambda self, X: 1 * X), "that is the input"),
    (chain(backward=gradient_to_each), "each layer gets the gradient from above the network"),
    (chain(backward=without_first), "the first layer is missing"),
    (chain(backward=no_return), "is `return` missing?"),
    (chain(backward=lambda self, G: 1 * G), "that is the gradient from above"),
    (chain(backward=backward_twice), "asks this layer more than once"),
    (chain(parameters=lambda self: [part.parameters() for part in self.layers]), "lists in a list"),
    (chain(parameters=lambda self: self.layers[0].parameters()), "those of the first layer only"),
    (chain(parameters=lambda self: []), "ask each layer for its own"),
    (chain(parameters=lambda self: [p.clone() for part in self.layers for p in part.parameters()]), "gives copies"),
    (chain(parameters=lambda self: 2 * mini.Sequential.parameters(self)), "more than once"),
    (chain(parameters=lambda self: mini.Sequential.parameters(self)[::-1]), "in the order of the layers"),
    (chain(parameters=lambda self: ...), "open"),
    (chain(backward=lambda self, G: ...), "open. Sequential.forward is right so far"),
    (chain(__init__=takes_a_list), "its __init__ should accept first, second, third"),
    (chain(__init__=as_generator), "raises"),
    (chain(__init__=lambda self, a, b, c: keep_list(self, a, b, c)), "its __init__ should accept first, second"),
    (torch.nn.Sequential, "belongs to PyTorch"),
    (diy.Sequential, "is the one of diy.py"),
]

# 3.8


def loss(forward, backward):
    """Return a loss; both functions get the difference of prediction and target."""

    class Loss(Module):
        def forward(self, P, T):
            self.D = P - T
            return forward(self.D)

        def backward(self):
            return backward(self.D)

    return Loss


class PlainLoss:
    def __call__(self, prediction, target):
        return self.forward(prediction, target)

    def forward(self, prediction, target):
        self.both = prediction, target
        return float(((prediction - target) ** 2).mean())

    def backward(self):
        p, t = self.both
        return 2 / p.numel() * (p - t)


class InLoops(Module):
    def forward(self, P, T):
        self.P, self.T, total, self.count = P, T, 0.0, 0
        for p, t in zip(P, T, strict=True):
            for a, b in zip(p, t, strict=True):
                total += (a - b) ** 2
                self.count += 1
        return total / self.count

    def backward(self):
        G = torch.zeros_like(self.P)
        for n in range(G.shape[0]):
            for k in range(G.shape[1]):
                G[n, k] = 2 * (self.P[n, k] - self.T[n, k]) / self.count
        return G


class OverwritesPrediction(Module):
    def forward(self, P, T):
        self.D = P.sub_(T)
        return self.D.square().mean()

    def backward(self):
        return 2 * self.D / self.D.numel()


class DifferenceIsAView(OverwritesPrediction):
    def forward(self, P, T):
        self.D = P.view(P.shape)
        self.D -= T
        return self.D.square().mean()


class WantsAGradient(mini.MSELoss):
    def backward(self, G):
        return 2 * self.D / self.D.numel()


def mean(d):
    return d.square().mean()


def mean_back(d):
    return 2 * d / d.numel()


RIGHT[step(8)] = [
    mini.MSELoss,
    mini.MSELoss(),
    PlainLoss,
    InLoops,
    loss(lambda d: (d * d).sum() / d.numel(), lambda d: d * (2 / d.numel())),
    loss(lambda d: torch.einsum("nk,nk->", d, d) / (len(d) * d.shape[1]), mean_back),
    loss(lambda d: torch.tensor(np.mean(d.numpy() ** 2)), lambda d: torch.from_numpy(2 * d.numpy() / d.numpy().size)),
    loss(lambda d: mean(d).reshape(1), lambda d: (d + d) / d.numel()),
]
WRONG[step(8)] = [
    (loss(lambda d: d.square().sum(), mean_back), "that is the sum"),
    (loss(lambda d: d.square().sum() / len(d), mean_back), "divided by the number of samples"),
    (loss(lambda d: mean(d) / 2, lambda d: d / d.numel()), "half of the right one"),
    (loss(lambda d: d.mean(), mean_back), "the square is missing"),
    (loss(lambda d: d.square(), mean_back), "one number per component"),
    (loss(lambda d: d.square().mean(1), mean_back), "one number per sample"),
    (loss(lambda d: d.abs().mean(), mean_back), "made of the absolute errors"),
    (loss(mean, lambda d: d / d.numel()), "the 2 is missing"),
    (loss(mean, lambda d: 2 * d / len(d)), "divided by the number of samples"),
    (loss(mean, lambda d: d / len(d)), "the 2 is missing, and it is divided by the number of samples"),
    (loss(mean, lambda d: 2 * d), "the division is missing"),
    (loss(mean, lambda d: d), "the 2 and the division by M are missing"),
    (loss(mean, lambda d: -mean_back(d)), "Are prediction and target exchanged?"),
    (loss(mean, lambda d: mean_back(d).sum(0)), "added up over the samples"),
    (loss(mean, lambda d: mean_back(d) * mean(d)), "multiplied by the loss"),
    (loss(mean, lambda d: mean_back(d).float()), "float32"),
    (OverwritesPrediction, "changes its argument P in place"),
    (DifferenceIsAView, "changes its argument P in place"),
    (WantsAGradient, "is called with no argument but self"),
    (loss(mean, lambda d: ...), "open. MSELoss.forward is right so far"),
    (torch.nn.MSELoss, "belongs to PyTorch"),
    (diy.MSELoss, "is the one of diy.py"),
]

# 3.9


def sgd(**methods):
    return type("SGD", (mini.SGD,), methods)


def each(change):
    """Return a step that calls change(parameter, lr)."""

    def step(self):
        for parameter in self.parameters:
            if parameter.grad is not None:
                change(parameter, self.lr)

    return step


class OwnSGD:
    def __init__(self, params, rate):
        self.state = {"params": tuple(params), "rate": rate}

    def step(self):
        for p in filter(lambda p: p.grad is not None, self.state["params"]):
            p.copy_(torch.from_numpy(p.numpy() - self.state["rate"] * p.grad.numpy()))

    def zero_grad(self, set_to_none=True):
        for p in self.state["params"]:
            p.grad = None


def by_data(p, lr):
    p.data = p.data - lr * p.grad


def in_loops(p, lr):
    flat, slopes = p.view(-1), p.grad.reshape(-1)
    for i in range(len(flat)):
        flat[i] -= lr * slopes[i]


def rebinding(p, lr):
    p = p - lr * p.grad


def spoiling(p, lr):
    p.grad *= lr
    p -= p.grad


def without_care(self):
    for parameter in self.parameters:
        parameter -= self.lr * parameter.grad


def only_first(self):
    self.parameters[0].sub_(self.lr * self.parameters[0].grad)


def returning(self):
    for parameter in self.parameters:
        if parameter.grad is None:
            return
        parameter -= self.lr * parameter.grad


def without_the_last(self):
    mini.SGD(self.parameters[:-1], self.lr).step()


def by_torch(self):
    torch.optim.SGD(self.parameters, self.lr).step()


def by_diy(self):
    diy.SGD(self.parameters, self.lr).step()


def step_and_forget(self):
    mini.SGD.step(self)
    zero_grad(self.parameters)


def keep_as_it_is(self, parameters, lr):
    self.parameters, self.lr = parameters, lr


class ClassWide(mini.SGD):
    def __init__(self, parameters, lr):
        ClassWide.parameters, ClassWide.lr = list(parameters), lr


RIGHT[step(9)] = [
    mini.SGD,
    OwnSGD,
    sgd(step=each(by_data)),
    sgd(step=each(in_loops)),
    sgd(step=each(lambda p, lr: p.sub_(p.grad, alpha=lr))),
    sgd(step=each(lambda p, lr: p.add_(-lr * p.grad))),
    sgd(step=each(lambda p, lr: p.__setitem__(slice(None), p - lr * p.grad))),
    sgd(zero_grad=lambda self: zeros_instead(self.parameters)),
    sgd(zero_grad=lambda self: zero_in_place(self.parameters)),
]
WRONG[step(9)] = [
    (sgd(step=each(rebinding)), "makes a new tensor under a local name"),
    (sgd(step=each(lambda p, lr: p.sub_(0.1 * p.grad))), "With another learning rate"),
    (sgd(step=each(lambda p, lr: p.add_(lr * p.grad))), "it goes uphill"),
    (sgd(step=each(lambda p, lr: p.sub_(p.grad))), "the learning rate is missing"),
    (sgd(step=each(lambda p, lr: p.sub_(lr))), "takes the place of the gradient"),
    (sgd(step=each(lambda p, lr: p.sub_(p.grad / lr))), "divided by the learning rate"),
    (sgd(step=each(lambda p, lr: p.sub_(lr * p.grad.sign()))), "only the sign"),
    (sgd(step=each(lambda p, lr: p.sub_(lr * p.grad.mean()))), "the mean of the gradient"),
    (sgd(step=each(spoiling)), "changes the gradients in place"),
    (sgd(step=without_care), "leave such a parameter as it is"),
    (sgd(step=only_first), "does the loop end too early"),
    (sgd(step=returning), "does the loop end too early"),
    (sgd(step=without_the_last), "does the loop end too early"),
    (sgd(step=by_torch), "leaves its work to PyTorch's"),
    (sgd(step=by_diy), "leaves its work to the one of diy.py"),
    (sgd(step=property(lambda self: self.missing)), "has no step"),
    (sgd(step=property(lambda self: {}["missing"])), "Your code raises KeyError in line"),
    (sgd(step=property(lambda self: exit(1))), "Your code raises SystemExit in line"),
    (sgd(step=step_and_forget), "leave that to zero_grad"),
    (sgd(__init__=keep_as_it_is), "keep list(parameters)"),
    (ClassWide, "the other: keep them in self"),
    (sgd(zero_grad=lambda self: 0), "there are gradients left"),
    (
        sgd(zero_grad=lambda self: [p.zero_() for p in self.parameters] and zero_grad(self.parameters)),
        "changes the par",
    ),
    (sgd(zero_grad=lambda self: ...), "open. SGD.step is right so far"),
    (sgd(step=lambda self: ...), "open"),
    (sgd(__init__=lambda self, parameters: None), "is called with 2 arguments"),
    (torch.optim.SGD, "that of a library"),
    (diy.SGD, "that of a library"),
    (mini.SGD([torch.ones(1)], 0.1), "Hand over the class SGD itself"),
]

# 3.10


def loop(*calls, losses=None):
    """Return a training loop that makes calls, single letters, for each batch: f z b s, and L notes the loss."""

    def train(network, criterion, optimizer, batches):
        noted = []
        for X, T in batches:
            for call in calls:
                if call == "f":
                    value = criterion(network(X), T)
                elif call == "L":
                    noted.append(value.item())
                else:
                    {
                        "z": optimizer.zero_grad,
                        "b": lambda: network.backward(criterion.backward()),
                        "s": optimizer.step,
                    }[call]()
        return losses(noted) if losses else noted

    return train


def by_forward(net, loss, opt, data):
    history = torch.zeros(len(data))
    for i in range(len(data)):
        inputs, targets = data[i]
        opt.zero_grad()
        output = net.forward(inputs)
        history[i] = loss.forward(output, targets)
        gradient = loss.backward()
        net.backward(gradient)
        opt.step()
    return history


def as_tensors(network, criterion, optimizer, batches):
    losses = []
    for batch in batches:
        losses.append(criterion(network(batch[0]), batch[1]))
        optimizer.zero_grad()
        network.backward(criterion.backward())
        optimizer.step()
    return losses


def in_a_generator(network, criterion, optimizer, batches):
    for X, T in batches:
        value = float(criterion(network(X), T))
        optimizer.zero_grad()
        network.backward(criterion.backward())
        optimizer.step()
        yield value


def own_loss(network, criterion, optimizer, batches):
    return mini.train(network, mini.MSELoss(), optimizer, batches)


def after_step(network, criterion, optimizer, batches):
    losses = []
    for X, T in batches:
        criterion(network(X), T)
        optimizer.zero_grad()
        network.backward(criterion.backward())
        optimizer.step()
        losses.append(float(criterion(network(X), T)))
    return losses


def return_inside(network, criterion, optimizer, batches):
    losses = []
    for X, T in batches:
        losses.append(float(criterion(network(X), T)))
        optimizer.zero_grad()
        network.backward(criterion.backward())
        optimizer.step()
        return losses


def outside(network, criterion, optimizer, batches):
    losses = []
    for X, T in batches:
        losses.append(float(criterion(network(X), T)))
    optimizer.zero_grad()
    network.backward(criterion.backward())
    optimizer.step()
    return losses


def by_autograd(network, criterion, optimizer, batches):
    for X, T in batches:
        criterion(network(X), T).backward()
        optimizer.step()


def step_by_hand(network, criterion, optimizer, batches):
    losses = loop(*"fLzb")(network, criterion, optimizer, batches)
    for parameter in network.parameters():
        parameter -= 0.02 * parameter.grad
    return losses


def popping(network, criterion, optimizer, batches):
    losses = []
    while batches:
        losses += mini.train(network, criterion, optimizer, [batches.pop(0)])
    return losses


def no_losses(network, criterion, optimizer, batches):
    mini.train(network, criterion, optimizer, batches)


def exchanged(network, criterion, optimizer, batches):
    forward = criterion.forward
    criterion.forward = lambda P, T: forward(T, P)
    return mini.train(network, criterion, optimizer, batches)


def on(choose, adapt=lambda gradient: gradient, between=lambda network, optimizer: None):
    """Return a training loop over the batches that are chosen of them, with its gradient adapted."""

    def train(network, criterion, optimizer, batches):
        losses = []
        for X, T in choose(batches):
            losses.append(float(criterion(network(X), T)))
            optimizer.zero_grad()
            network.backward(adapt(criterion.backward()))
            optimizer.step()
            between(network, optimizer)
        return losses

    return train


def every_other(network, criterion, optimizer, batches):
    losses = []
    for n, (X, T) in enumerate(batches):
        losses.append(float(criterion(network(X), T)))
        if n % 2:
            optimizer.zero_grad()
        network.backward(criterion.backward())
        optimizer.step()
    return losses


def with_names(network, criterion, optimizer, batches):
    losses = []
    for X, T in batches:
        losses.append(criterion.forward(T=T, P=network.forward(X=X)).item())
        optimizer.zero_grad()
        network.backward(G=criterion.backward())
        optimizer.step()
    return losses


def one_behind(network, criterion, optimizer, batches):
    losses = [float(criterion(network(batches[0][0]), batches[0][1]))]
    for X, T in batches:
        optimizer.zero_grad()
        network.backward(criterion.backward())
        optimizer.step()
        losses.append(float(criterion(network(X), T)))
    return losses[:-1]


def decay(network, optimizer):
    for parameter in network.parameters():
        parameter *= 0.99


RIGHT[step(10)] = [
    mini.train,
    loop(*"fLzbs"),
    loop(*"zfbsL"),
    loop(*"fbLsz"),
    by_forward,
    as_tensors,
    with_names,
    loop(*"fLzbs", losses=np.array),
    loop(*"fLzbs", losses=tuple),
]
WRONG[step(10)] = [
    (loop(*"fLbs"), "zero_grad is missing"),
    (loop(*"fLbzs"), "zero_grad stands between backward and step"),
    (loop(*"fLszb"), "The step is taken before backward"),
    (loop(*"fLzb"), "optimizer.step is never called"),
    (loop(*"fLzs"), "network.backward is never called"),
    (loop(*"fL"), "the network is as it was"),
    (step_by_hand, "The parameters change by other means: optimizer.step is never called"),
    (in_a_generator, "train is a generator"),
    (loop(*"fLzbss"), "12 times for 6 batches"),
    (loop(*"fLzbsfzbs"), "network is called 12 times for 6 batches"),
    (loop(*"fLzbs", losses=sum), "is a single number"),
    (loop(*"fLzbs", losses=lambda all: all[-1]), "is a single number"),
    (loop(*"fLzbs", losses=lambda all: np.cumsum(all)), "added up from batch to batch"),
    (loop(*"fLzbs", losses=lambda all: all[::-1]), "the wrong order"),
    (loop(*"fLzbs", losses=lambda all: np.array(all) / (5, 5, 4, 6, 3, 5)), "divided by the number of samples"),
    (loop(*"fLzbs", losses=lambda all: np.array(all) / 6), "divided by the number of batches"),
    (after_step, "that after the step"),
    (return_inside, "Only the first batch is learned from"),
    (outside, "Only the last batch is learned from"),
    (exchanged, "P and T are exchanged"),
    (own_loss, "criterion.backward is never called"),
    (by_autograd, "does not require grad"),
    (popping, "changes the batches"),
    (on(reversed), "The batches go through it in reverse"),
    (on(lambda batches: [*batches[1:], batches[0]]), "in the order 2, 3, 4, 5, 6, 1"),
    (on(lambda batches: batches[:1] + batches[:5]), "Batch 6 never goes through the network"),
    (on(lambda batches: [(batches[0][0], batches[1][1]), *batches[1:]]), "batch 1 together with the T of batch 2"),
    (on(lambda batches: [(X, 0 * T) for X, T in batches]), "batch 1 together with something other than its T"),
    (on(lambda batches: [(X / 2, T) for X, T in batches]), "is not always the X of a batch"),
    (on(lambda batches: batches, lambda gradient: gradient / len(gradient)), "pass it on unchanged"),
    (on(lambda batches: batches, between=decay), "does something else change the parameters"),
    (
        on(lambda batches: batches, between=lambda network, optimizer: vars(optimizer).update(lr=0.01)),
        "or the learning rate",
    ),
    (every_other, "optimizer.zero_grad is called 3 times for 6 batches"),
    (one_behind, "network is called 7 times for 6 batches"),
    (loop(*"fLzbbs"), "backward is called 12 times for 6 batches"),
    (no_losses, "is `return` missing?"),
    (lambda n, criterion, o, batches: [n.backward(criterion(n(X), T)) for X, T in batches], "gets the loss, a number"),
    (lambda network, criterion, optimizer, batches: ..., "open"),
    (lambda network, batches: [], "is called with 4 arguments"),
]

# 3.11


def central(f, x, h=1e-5):
    result = torch.zeros(x.shape)
    for i in np.ndindex(*x.shape):
        up, down = x.clone(), x.clone()
        up[i] += h
        down[i] -= h
        result[i] = (f(up) - f(down)) / (2 * h)
    return result


def restoring(f, x):
    result, flat = torch.empty_like(x), x.view(-1)
    for i in range(x.numel()):
        start = flat[i].item()
        flat[i] = start + 1e-6
        up = float(f(x))
        flat[i] = start - 1e-6
        result.view(-1)[i] = (up - float(f(x))) / 2e-6
        flat[i] = start
    return result


def by_basis(f, x, h=1e-4):
    steps = h * torch.eye(x.numel()).reshape(-1, *x.shape)
    return torch.stack([(f(x + s) - f(x - s)) / (2 * h) for s in steps]).reshape(x.shape)


def without_return(f, x, h=1e-5):
    """Moves a copy, and never moves it back."""
    return drifting(f, x.clone(), h)


def one_sided(f, x, h=1e-6):
    steps = h * torch.eye(x.numel()).reshape(-1, *x.shape)
    return torch.stack([(f(x + s) - f(x)) / h for s in steps]).reshape(x.shape)


def drifting(f, x, h=1e-5):
    result = torch.zeros(x.shape)
    for i in np.ndindex(*x.shape):
        x[i] += h
        up = f(x)
        x[i] -= 2 * h
        result[i] = (up - f(x)) / (2 * h)
    return result


RIGHT[step(11)] = [
    central,
    restoring,
    by_basis,
    lambda f, x: central(f, x).numpy(),
    lambda f, x: central(f, x).tolist(),
    lambda f, x: central(f, x, 1e-3),
    lambda f, x: central(f, x, 1e-7),
]
WRONG[step(11)] = [
    (one_sided, "from one side only"),
    (lambda f, x: central(f, x) * 1e-10, "does the division need brackets"),
    (lambda f, x: one_sided(f, x, 1e-8), "from one side only"),
    (lambda f, x: 2 * central(f, x), "twice too large"),
    (lambda f, x: central(f, x) / 2, "yours are half"),
    (lambda f, x: -central(f, x), "the other way round"),
    (lambda f, x: central(f, x).sum(), "added up"),
    (lambda f, x: central(f, x).sum() + 0 * x, "all components are moved at once"),
    (lambda f, x: central(f, x).reshape(-1), "should have the shape of x"),
    (lambda f, x: central(f, x, 0.1), "is h, the step"),
    (lambda f, x: central(f, x, 1e-13), "is h, the step"),
    (drifting, "changes its argument x in place"),
    (without_return, "Is x moved back before y is moved?"),
    (lambda f, x: torch.autograd.functional.jacobian(f, x), "it is to be measured"),
    (lambda f, x: 0 * x, "all zero"),
    (lambda f, x: ..., "open"),
    (lambda f: f, "is called with 2 arguments"),
]
