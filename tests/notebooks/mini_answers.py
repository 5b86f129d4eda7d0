"""Answers to the exercises of notebook 3, in which a framework is written: right ones in many styles, and wrong ones.

Most are the solution with one thing changed. tests/notebooks/test_checkers.py asks for the verdict on each.
"""

import functools
import itertools

import numpy as np
import torch
from course import mini
from course.mini import Module, accumulate, linear, linear_backward, zero_grad

import diy
from tests.notebooks.changes import changed


def by_neuron(inputs, weights, biases):
    return torch.stack([inputs @ w + bias for w, bias in zip(weights, biases, strict=True)], dim=1)


def keeping_b():
    """Return an answer that keeps the bias of its first call for each shape."""
    kept = {}
    return lambda X, W, b: X @ W.T + kept.setdefault(b.shape, b)


def in_loops(X, W, b):
    S = torch.zeros(len(X), len(W))
    for n in range(len(X)):
        for k in range(len(W)):
            S[n, k] = sum(X[n, i] * W[k, i] for i in range(X.shape[1])) + b[k]
    return S


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
    yield from linear_backward(G, X, W)


def by_numpy(G, X, W):
    g, x, w = G.numpy(), X.numpy(), W.numpy()
    return torch.from_numpy(g @ w), torch.from_numpy(g.T @ x), torch.from_numpy(g.sum(axis=0))


def asking_autograd(G, X, W):
    x, w = X.clone().requires_grad_(), W.clone().requires_grad_()
    return *torch.autograd.grad((G * (x @ w.T)).sum(), [x, w]), G.sum(0)


def from_zeros(parameter, gradient):
    if parameter.grad is None:
        parameter.grad = torch.zeros_like(parameter)
    parameter.grad.add_(gradient)


def trying(p, g):
    try:
        p.grad = p.grad + g
    except TypeError:
        p.grad = g


def deleting(ps):
    for p in ps:
        del p.grad


def popping(parameters):
    while parameters:
        parameters.pop().grad = None


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
        return in_loops(X, self.weight, self.bias)

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


class SharedWeights(mini.Linear):
    made = {}  # noqa: RUF012

    def __init__(self, m, n):
        self.made.setdefault((m, n), mini.Linear(m, n))
        self.weight, self.bias = self.made[m, n].weight, self.made[m, n].bias


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


def masked_back(self, g):
    g = g.clone()
    g[self.Y <= 0] = 0
    return g


def in_lists_back(self, g):
    both = zip(self.Y.tolist(), g.tolist())
    return torch.tensor([[b if a > 0 else 0.0 for a, b in zip(p, q)] for p, q in both])


def relu(forward=mini.ReLU.forward, backward=mini.ReLU.backward):
    return type("ReLU", (mini.ReLU,), {"forward": forward, "backward": backward})


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


class OwnSGD:
    def __init__(self, params, rate):
        self.state = {"params": tuple(params), "rate": rate}

    def step(self):
        for p in filter(lambda p: p.grad is not None, self.state["params"]):
            p.copy_(torch.from_numpy(p.numpy() - self.state["rate"] * p.grad.numpy()))

    def zero_grad(self, set_to_none=True):
        for p in self.state["params"]:
            p.grad = None


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


ADD = "gradient if before is None else before + gradient"
SLOPE, MASK = "G * (1 - self.Y**2)", "G * (self.Y > 0)"
KEPT, KEPT_S = "self.Y = S", "self.S = S\n        self.Y = S"
LAYERS, BACK = "X = layer(X)", "G = layer.backward(G)"
LISTED = "[parameter for layer in self.layers for parameter in layer.parameters()]"
AS_LIST = "self.layers = layers", "self.layers = list(layers)"
LOSS, LOSS_BACK = "(self.D**2).mean()", "2 * self.D / self.D.numel()"
EACH, STEP, FORGET = (
    "for parameter in self.parameters:",
    "parameter -= self.lr * parameter.grad",
    "zero_grad(self.parameters)",
)
NOTED, FIRST, RETURNED = "losses.append(float(loss))", "loss = criterion(network(X), T)", "return losses"
ZEROED, ASKED, TAKEN = "optimizer.zero_grad()", "network.backward(criterion.backward())", "optimizer.step()"

RIGHT = {
    1: [
        linear,
        in_loops,
        by_neuron,
        lambda X, W, b: (X @ W.T).add_(b),
        lambda X, W, b: torch.einsum("ni,ki->nk", X, W) + b,
        lambda X, W, b: torch.from_numpy(X.numpy() @ W.numpy().T + b.numpy()),
        lambda X, W, b: (W @ X.T + b[:, None]).T,
        lambda X, W, b: torch.addmm(b, X, W.t()),
        lambda X, W, b: (X[:, None, :] * W).sum(-1) + b,
        functools.partial(lambda one, X, W, b: one * X @ W.mT + b, 1.0),
        torch.nn.functional.linear,
    ],
    2: [
        linear_backward,
        backward_in_loops,
        sample_by_sample,
        generating,
        by_numpy,
        lambda G, X, W: iter(linear_backward(G, X, W)),
        lambda G, X, W: (torch.einsum("nk,ki->ni", G, W), torch.einsum("nk,ni->ki", G, X), torch.einsum("nk->k", G)),
        lambda grad, inputs, weight: (grad @ weight, (inputs.T @ grad).T, torch.ones(len(grad)) @ grad),
        lambda G, X, W: (G @ W, (G[:, :, None] * X[:, None, :]).sum(0), len(G) * G.mean(0)),
    ],
    3: [
        (accumulate, zero_grad),
        (from_zeros, deleting),
        (trying, zero_grad),
        (accumulate, lambda parameters: [setattr(p, "grad", None) for p in parameters]),
        changed("3.3", ADD, "gradient.clone() if before is None else before.add_(gradient)"),
        changed("3.3", ADD, "torch.from_numpy((0 if before is None else before.numpy()) + gradient.numpy())"),
        changed("3.3", "parameter.grad = None", "parameter.grad = torch.zeros_like(parameter)"),
        changed("3.3", ADD, "gradient + (0 if before is None else before)", ".grad = None", ".grad = 0 * parameter"),
    ],
    4: [
        mini.Linear,
        OwnNames,
        WithoutModule,
        GradFromZeros,
        changed("3.4", "self.X = X", 'self.stack = [*vars(self).get("stack", []), X]', "self.X,", "self.stack.pop(),"),
        changed("3.4", "return [self.weight, self.bias]", "return iter([self.weight, self.bias])"),
        changed("3.4", "linear(X, self.weight, self.bias)", "X @ self.weight.T + self.bias"),
    ],
    5: [
        mini.Tanh,
        PlainTanh,
        mini.Tanh(),
        changed("3.5", KEPT, KEPT_S, SLOPE, "G * (1 - self.S.tanh() ** 2)"),
        changed("3.5", "S.tanh()", "1 - 2 / (1 + (2 * S).exp())", SLOPE, "G * (1 - self.Y) * (1 + self.Y)"),
        changed("3.5", "S.tanh()", "torch.from_numpy(np.tanh(S.numpy()))", SLOPE, "G - G * self.Y.square()"),
        changed("3.5", "S.tanh()", "(S.exp() - (-S).exp()) / (S.exp() + (-S).exp())"),
        changed("3.5", "S.tanh()", "torch.tensor([[math.tanh(v) for v in row] for row in S.tolist()])"),
    ],
    6: [
        mini.ReLU,
        mini.ReLU(),
        changed("3.6", "S.relu()", "S.clone()\n        self.Y[S < 0] = 0"),
        changed("3.6", "S.relu()", "S.clamp(min=0)", MASK, "torch.where(self.Y > 0, G, torch.zeros_like(G))"),
        changed("3.6", "S.relu()", "S * (S > 0)", MASK, "G * self.Y.sign()"),
        changed("3.6", "S.relu()", "torch.maximum(S, torch.zeros_like(S))", MASK, "G * (self.Y > 0).double()"),
        changed("3.6", "S.relu()", "torch.from_numpy(np.maximum(S.numpy(), 0))"),
        changed("3.6", "S.relu()", "(S + S.abs()) / 2"),
        relu(backward=masked_back),
        relu(backward=in_lists_back),
    ],
    7: [
        mini.Sequential,
        Chain,
        Folding,
        Linked,
        changed("3.7", LISTED, "tuple(p for part in self.layers for p in part.parameters())"),
        changed("3.7", *AS_LIST),
        changed("3.7", "layer in reversed(self.layers)", "layer in self.layers[::-1]"),
    ],
    8: [
        mini.MSELoss,
        mini.MSELoss(),
        PlainLoss,
        InLoops,
        changed("3.8", LOSS, "(self.D * self.D).sum() / P.numel()", LOSS_BACK, "self.D * (2 / self.D.numel())"),
        changed("3.8", LOSS, 'torch.einsum("nk,nk->", self.D, self.D) / (len(P) * P.shape[1])'),
        changed("3.8", LOSS, "torch.tensor(np.mean(self.D.numpy() ** 2))"),
        changed("3.8", LOSS, LOSS + ".reshape(1)", "2 * self.D", "(self.D + self.D)"),
    ],
    9: [
        mini.SGD,
        OwnSGD,
        changed("3.9", STEP, "parameter.data = parameter.data - self.lr * parameter.grad"),
        changed("3.9", STEP, "for p, g in zip(parameter, parameter.grad):\n                    p -= self.lr * g"),
        changed("3.9", STEP, "parameter.sub_(parameter.grad, alpha=self.lr)"),
        changed("3.9", STEP, "parameter.add_(-self.lr * parameter.grad)"),
        changed("3.9", STEP, "parameter[:] = parameter - self.lr * parameter.grad"),
        changed("3.9", FORGET, f"{EACH}\n            parameter.grad = torch.zeros_like(parameter)"),
        changed("3.9", FORGET, f"{EACH}\n            parameter.grad is None or parameter.grad.zero_()"),
    ],
    10: [
        mini.train,
        by_forward,
        changed("3.10", ZEROED, "pass", FIRST, f"{ZEROED}\n        {FIRST}"),
        changed("3.10", ZEROED, "pass", TAKEN, f"{TAKEN}\n        {ZEROED}"),
        changed("3.10", "float(loss)", "loss"),
        changed("3.10", "criterion(network(X), T)", "criterion.forward(T=T, P=network.forward(X=X))"),
        changed("3.10", "criterion.backward()", "G=criterion.backward()"),
        changed("3.10", RETURNED, "return np.array(losses)"),
        changed("3.10", RETURNED, "return tuple(losses)"),
    ],
    11: [
        central,
        restoring,
        by_basis,
        lambda f, x: central(f, x).numpy(),
        lambda f, x: central(f, x).tolist(),
        lambda f, x: central(f, x, 1e-3),
        lambda f, x: central(f, x, 1e-7),
    ],
}

CHANGES = {
    1: [
        ("W.T", "W", "W is not transposed"),
        ("X @ W.T", "W @ X", "X stands on the left"),
        (" + b", "", "the bias is missing"),
        ("+ b", "- b", "the bias is subtracted"),
        ("X @ W.T + b", "(X @ W.T + b).T", "yours is transposed"),
        ("+ b", "+ b[:, None]", "one number for each sample"),
        ("+ b", "+ b.sum()", "b is added up over the neurons"),
        ("+ b", "+ b[0]", "neuron k has its own"),
        ("X @ W.T + b", "(X @ W.T + b) / len(X)", "nothing is averaged here"),
        ("X @ W.T + b", "(X @ W.T + b).float()", "float32, though what came in is float64"),
        ("X @ W.T + b", "(X @ W.T + b).numpy()", "need a tensor"),
        ("X @ W.T + b", "(X @ W.T + b).tolist()", "need a tensor"),
    ],
    2: [
        ("G.T @ X", "G.T @ X / len(X)", "dW: it is divided by the number of samples"),
        ("G.sum(0)", "G.mean(0)", "db: it is divided by the number of samples"),
        ("G @ W", "G @ W.T", "dX: W is transposed"),
        ("G.T @ X", "G @ X", "dW: G is not transposed"),
        ("G.T @ X", "X.T @ G", "dW: it is transposed"),
        ("G.sum(0)", "G", "db: the sum over the samples is missing"),
        ("G.sum(0)", "G.sum(1)", "db: it is summed over the neurons"),
        ("G.sum(0)", "G.sum()", "db: it is summed over everything"),
        ("G.sum(0)", "G.sum(0, keepdim=True)", "db: it has a dimension too many"),
        ("G.sum(0)", "G[-1]", "db: that is what one sample gives"),
        ("G.T @ X", "torch.outer(G[0], X[0])", "dW: that is what one sample gives"),
        ("G.T @ X", "G.sum(0)[:, None] * X.sum(0)", "summed over the samples before"),
        ("G.T @ X", "(G.T @ X).numpy()", "need a tensor"),
        ("G @ W", "(G @ W).float()", "float32"),
        ("G @ W", "-G @ W", "dX: the sign is wrong"),
        ("dX, dW, db\n", "dW, db, dX\n", "in the order dW, db, dX"),
        ("dX, dW, db\n", "dX, dW\n", "should return three gradients"),
        ("dX, dW, db\n", "dX\n", "should return three gradients"),
        ("dX, dW, db\n", '{"dX": dX, "dW": dW, "db": db}\n', "should return three gradients"),
        ("dX, dW, db\n", "dX, dW, ...\n", "open"),
    ],
    3: [
        (ADD, "gradient if before is None else before.add_(gradient)", "adds in place to a"),
        (ADD, "gradient", "the second replaces the first"),
        ("accumulate(parameter, gradient)", "accumulate(gradient, parameter)", "yours are exchanged"),
        (ADD, "gradient if before is None else before", "the second does not count"),
        (ADD, "0 * gradient if before is None else before + gradient", "the first gradient is lost"),
        (ADD, "gradient if before is None else (before + gradient) / 2", "that is their mean"),
        (ADD, "gradient if before is None else before + 2 * gradient", "the second counts twice"),
        (ADD, "before + gradient", "a .grad before the first backward"),
        (ADD, "(before or 0) + gradient", "`is None` where a tensor may be missing"),
        (ADD, "gradient.mul_(1.5)", "adds in place to a gradient"),
        ("parameter.grad = gradient", "parameter -= gradient", "changes the parameter itself"),
        ("parameter.grad = gradient", "grad = gradient", "still None"),
        ("before = parameter.grad", "(parameter.requires_grad_() * gradient).sum().backward()", "autograd"),
        (f"before = parameter.grad\n    parameter.grad = {ADD}", "...", "open"),
        ("parameter.grad = None", "parameter.grad.zero_()", "zero_grad stops at a parameter whose .grad is None"),
        (".grad = None", ".grad is None or parameter.grad.zero_()", "zero_grad sets to zero, in place, a gradient"),
        ("parameter.grad = None", "grad = None", "After zero_grad the gradients are still there"),
        ("parameter.grad = None", "parameter.zero_()", "zero_grad changes the parameters themselves"),
        ("parameter.grad = None", "parameter.grad = None\n        return", "one of the gradients is still there"),
        ("in parameters:", "in parameters[:-1]:", "one of the gradients is still there"),
        ("for parameter in parameters:\n        parameter.grad = None", "...", "accumulate is right so far, zero_grad"),
    ],
    4: [
        ("accumulate(self.weight, dW)", "self.weight.grad = dW", "the second backward replaces"),
        ("return dX", "self.weight = self.weight - 0.1 * dW\n        return dX", "puts another tensor in the place"),
        ("return dX", "return dX, dW, db", "only dX is returned"),
        ("return dX", "self.weight -= 0.1 * dW\n        return dX", "changes weight itself"),
        ("return dX", "return G @ self.weight.T", "W is transposed"),
        ("return dX", "return dW", "that is the gradient of the weights"),
        ("return dX", "return 1 * G", "the gradient from above, unchanged"),
        (", dW)", ", dW / len(G))", "weight.grad: it is divided by the number of samples"),
        (", db)", ", db / len(G))", "bias.grad: it is divided by the number of samples"),
        ("accumulate(self.bias, db)", "pass", "bias.grad is None"),
        ("self.X = X", 'self.X = vars(self).get("X", X)', "it belongs to an earlier batch"),
        ("self.X", "Linear.X", "what one remembers is taken for the other"),
        ("[self.weight, self.bias]", "[self.bias, self.weight]", "gives the bias first"),
        ("[self.weight, self.bias]", "[self.weight.clone(), self.bias]", "new tensors at each call"),
        ("[self.weight, self.bias]", "[self.weight.view(self.weight.shape), self.bias]", "new tensors at each call"),
        ("[self.weight, self.bias]", "[self.weight]", "should be the weight"),
        ("dX, dW, db =", "dW, dX, db =", "that is the gradient of the input"),
        (
            "= X\n",
            '= X\n        self.W = vars(self).get("W", self.weight.clone())\n',
            "self.X, self.weight",
            "self.X, self.W",
            "dX, after a step",
        ),
        ("[self.weight, self.bias]", "[[self.weight, self.bias]]", "lists in a list"),
        ("[self.weight, self.bias]", '{"weight": self.weight}', "should give a list of tensors"),
        ("linear(X, self.weight, self.bias)", "X @ self.weight + self.bias", "W is not transposed"),
        ("linear(X, self.weight, self.bias)", "X @ self.weight.T", "the bias is missing"),
        ("deviation * torch.randn(", "torch.zeros(", "All weights are the same"),
        ("torch.full((out_features,), 0.01)", "torch.ones(out_features, requires_grad=True)", "asks for autograd"),
    ],
    5: [
        (SLOPE, "1 - self.Y**2", "that is the slope alone"),
        (SLOPE, "G * (1 - self.Y ^ 2)", "a power is **, not ^"),
        (SLOPE, "G", "the gradient from above, unchanged"),
        (KEPT, KEPT_S, SLOPE, "G * (1 - self.S**2)", "the slope is taken at the input"),
        (
            "class Tanh",
            "kept = {}\n\n\nclass Tanh",
            "self.Y",
            "kept[len(S)]",
            "kept[len(S)]**2",
            "kept[len(G)]**2",
            "taken for the other",
        ),
        (SLOPE, "G * (1 - self.Y.tanh() ** 2)", "the tanh is taken once more"),
        (SLOPE, "G * (1 - self.Y)", "that is with 1 − y"),
        (SLOPE, "G * self.Y * (1 - self.Y)", "slope of the sigmoid"),
        (SLOPE, "G * (self.Y**2 - 1)", "the sign within the slope is wrong"),
        (SLOPE, "G + 1 - self.Y**2", "numbers are multiplied"),
        (SLOPE, f"{SLOPE} / len(G)", "divided by the number of samples"),
        (SLOPE, "torch.ops.aten.tanh_backward(G, self.Y)", "leaves its work to PyTorch's"),
        (SLOPE, "G * self.Y.square_().neg_().add_(1)", "backward changes in place what forward returned"),
        ("S.tanh()", "S.sigmoid()", "that is the sigmoid"),
        ("S.tanh()", "S.tanh().float()", "float32"),
        ("S.tanh()", "np.tanh(S.numpy())", "need a tensor"),
        ("(Module)", "", "has no method parameters"),
        ("def backward", "parameters = lambda self: [torch.ones(1)]\n\n    def backward", "has nothing to learn"),
    ],
    6: [
        (MASK, "(self.Y > 0).double()", "that is the slope alone"),
        (MASK, "G * (self.Y >= 0)", "Y >= 0 holds everywhere"),
        (MASK, "G * self.Y > 0", "it needs brackets"),
        (MASK, "G.relu()", "the sign of the gradient"),
        (KEPT, KEPT_S, MASK, "G * (self.S >= 0)", "at s = 0 the gradient passes"),
        (KEPT, KEPT_S, MASK, "G * (self.S.sign() + 1) / 2", "at s = 0 the gradient passes"),
        (KEPT, KEPT_S, MASK, "G * self.S.sign()", "multiplied by the sign"),
        (MASK, "G * self.Y", "multiplied by the output"),
        (MASK, "G * (self.Y <= 0)", "stops what should pass"),
        (MASK, "G + (self.Y > 0)", "numbers are multiplied"),
        (MASK, f"{MASK} / len(G)", "divided by the number of samples"),
        (MASK, "0 * G", "it is all zero"),
        ("S.relu()", "S.abs()", "that is the absolute value"),
        ("S.relu()", "torch.nn.functional.relu6(S)", "but is 6"),
        ("S.relu()", "(S > 0).double()", "that is its slope"),
        ("S.relu()", "S.clamp(max=0)", "the other half"),
        ("S.relu()", "1 * S", "that is S itself"),
    ],
    7: [
        ("reversed(self.layers)", "self.layers", "from the first to the last"),
        (LISTED, "[layer.weight for layer in self.layers[::2]]", "not all of them"),
        (LISTED, "[layer.parameters() for layer in self.layers]", "lists in a list"),
        (LISTED, "self.layers[0].parameters()", "those of the first layer only"),
        (LISTED, "[]", "ask each layer for its own"),
        (LISTED, LISTED.replace("[parameter ", "[parameter.clone() "), "new tensors at each call"),
        (
            LISTED,
            f"vars(self).setdefault('kept', {LISTED.replace('parameter ', 'parameter.clone() ', 1)})",
            "gives copies",
        ),
        (LISTED, "2 * " + LISTED, "more than once"),
        (LISTED, LISTED + "[::-1]", "in the order of the layers"),
        (LISTED, "...", "open"),
        (LISTED, f"vars(self).setdefault('kept', iter({LISTED}))", "a generator is used up"),
        ("reversed(self.layers)", "vars(self).setdefault('back', reversed(self.layers))", "of a second batch"),
        (
            f"in reversed(self.layers):\n            {BACK}",
            f"in self.layers[:]:\n            {BACK.replace('layer', 'self.layers.pop()')}",
            *AS_LIST,
            "has another length",
        ),
        ("reversed(self.layers)", "self.layers.reverse()", "has no attribute 'reverse'."),
        ("reversed(self.layers)", "self.layers.reverse() or self.layers", *AS_LIST, "from the last layer to the first"),
        (LAYERS, "out = layer(X)\n        X = out", "each layer gets the input of the network"),
        (LAYERS, "return layer(X)", "that is what the first layer gives"),
        (LAYERS, "X = 1 * X", "that is the input"),
        (f"{BACK}\n        return G", "out = layer.backward(G)\n        return out", "from above the network"),
        ("reversed(self.layers)", "reversed(self.layers[1:])", "the first layer is missing"),
        (BACK, "G = 1 * G", "that is the gradient from above"),
        (BACK, "layer.backward(G)\n            G = layer.backward(G)", "asks this layer more than once"),
        ("*layers", "layers", "its __init__ should accept first, second, third"),
        ("= layers", "= (layer for layer in layers)", "raises"),
    ],
    8: [
        (LOSS, "(self.D**2).sum()", "that is the sum"),
        (LOSS, "(self.D**2).sum() / len(P)", "divided by the number of samples"),
        (LOSS, f"{LOSS} / 2", "half of the right one"),
        (LOSS, "(self.D**2).sum() / (2 * len(P))", "is 1.25"),
        (LOSS, "self.D.mean()", "the square is missing"),
        (LOSS, "self.D**2", "one number per component"),
        (LOSS, "(self.D**2).mean(1)", "one number per sample"),
        (LOSS, "self.D.abs().mean()", "made of the absolute errors"),
        ("2 * self.D", "self.D", "the 2 is missing"),
        ("self.D.numel()", "len(self.D)", "divided by the number of samples"),
        (LOSS_BACK, "self.D / len(self.D)", "the 2 is missing, and it is divided by the number of samples"),
        (LOSS_BACK, "2 * self.D", "the division is missing"),
        (LOSS_BACK, "self.D", "the 2 and the division by M are missing"),
        ("2 * self.D", "-2 * self.D", "Are prediction and target exchanged?"),
        (LOSS_BACK, f"({LOSS_BACK}).sum(0)", "added up over the samples"),
        (LOSS_BACK, f"{LOSS_BACK} * {LOSS}", "multiplied by the loss"),
        (LOSS_BACK, f"({LOSS_BACK}).float()", "float32"),
        ("P - T", "P.sub_(T)", "changes its argument P in place"),
        ("P - T", "P.view(P.shape)\n        self.D -= T", "changes its argument P in place"),
        ("backward(self)", "backward(self, G)", "is called with no argument but self"),
    ],
    9: [
        (STEP, "parameter = parameter - self.lr * parameter.grad", "makes a new tensor under a local name"),
        (STEP, "parameter -= 0.1 * parameter.grad", "With another learning rate"),
        ("-= self.lr", "+= self.lr", "it goes uphill"),
        ("self.lr * parameter.grad", "parameter.grad", "the learning rate is missing"),
        ("self.lr * parameter.grad", "self.lr", "takes the place of the gradient"),
        ("self.lr * parameter.grad", "parameter.grad / self.lr", "divided by the learning rate"),
        ("self.lr * parameter.grad", "self.lr * parameter.grad.sign()", "only the sign"),
        ("self.lr * parameter.grad", "self.lr * parameter.grad.mean()", "the mean of the gradient"),
        ("self.lr * parameter.grad", "parameter.grad.mul_(self.lr)", "changes the gradients in place"),
        ("if parameter.grad is not None", "if True", "leave such a parameter as it is"),
        (STEP, f"{STEP}\n                return", "does the loop end too early"),
        (
            f"is not None:\n                {STEP}",
            f"is None:\n                return\n            {STEP}",
            "end too early",
        ),
        (f"{EACH}\n            if", f"{EACH[:-1]}[:-1]:\n            if", "does the loop end too early"),
        (EACH, f"torch.optim.SGD(self.parameters, self.lr).step()\n        {EACH}", "leaves its work to PyTorch's"),
        (EACH, f"import diy\n\n        diy.SGD(self.parameters, self.lr).step()\n        {EACH}", "the one of diy.py"),
        ("def step(self):", "def step(self):\n        return ...", "open"),
        (STEP, f"{STEP}\n                parameter.grad = None", "leave that to zero_grad"),
        ("    def step", "    @property\n    def step", "has no step"),
        ("list(parameters)", "parameters", "keep list(parameters)"),
        ("self.", "SGD.", "the other: keep them in self"),
        (FORGET, "pass", "open. SGD.step is right so far"),
        (FORGET, "return 0", "there are gradients left"),
        (FORGET, "[p.zero_() for p in self.parameters]\n        zero_grad(self.parameters)", "changes the par"),
    ],
    10: [
        (ZEROED, "pass", "zero_grad is missing"),
        (ZEROED, "pass", TAKEN, f"{ZEROED}\n        {TAKEN}", "zero_grad stands between backward and step"),
        (f"{ASKED}\n        {TAKEN}", f"{TAKEN}\n        {ASKED}", "The step is taken before backward"),
        (TAKEN, "pass", "optimizer.step is never called"),
        (ASKED, "pass", "network.backward is never called"),
        (ASKED, "pass", TAKEN, "pass", "the network is as it was"),
        (TAKEN, "for one in network.parameters():\n            one -= 0.02 * one.grad", "change by other means"),
        (NOTED, "yield float(loss)", "train is a generator"),
        (TAKEN, f"{TAKEN}\n        {TAKEN}", "optimizer.step is called 12 times for 6 batches"),
        (ASKED, f"{ASKED}\n        {ASKED}", "backward is called 12 times for 6 batches"),
        ("in batches", "in [batch for batch in batches for _ in range(2)]", "network is called 12 times for 6 batches"),
        (ZEROED, f"if len(losses) % 2:\n            {ZEROED}", "zero_grad is called 3 times for 6 batches"),
        (RETURNED, f"{RETURNED[:6]} sum(losses)", "is a single number"),
        (RETURNED, f"{RETURNED}[-1]", "is a single number"),
        (RETURNED, "return np.cumsum(losses)", "added up from batch to batch"),
        (RETURNED, f"{RETURNED}[::-1]", "the wrong order"),
        ("float(loss)", "float(loss) / len(X)", "divided by the number of samples"),
        ("float(loss)", "float(loss) / len(batches)", "divided by the number of batches"),
        ("float(loss)", "float(criterion(network(X), T))", "that after the step"),
        ("    return", "        return", "Only the first batch is learned from"),
        (
            f"        {ZEROED}\n        {ASKED}\n        {TAKEN}\n        {NOTED}\n",
            f"        {NOTED}\n    {ZEROED}\n    {ASKED}\n    {TAKEN}\n",
            "Only the last batch",
        ),
        ("criterion(network(X), T)", "criterion(T, network(X))", "P and T are exchanged"),
        ("losses = []", "losses, criterion = [], MSELoss()", "criterion.backward is never called"),
        (ASKED, "loss.backward()", "does not require grad"),
        ("criterion.backward()", "loss", "gets the loss, a number"),
        ("criterion.backward()", "criterion.backward() / len(X)", "pass it on unchanged"),
        ("for X, T in batches:", "while batches:\n        X, T = batches.pop(0)", "changes the batches"),
        ("in batches", "in reversed(batches)", "The batches go through it in reverse"),
        ("in batches", "in [*batches[1:], batches[0]]", "in the order 2, 3, 4, 5, 6, 1"),
        ("in batches", "in 10 * batches", "Each batch goes through it 10 times: go through `batches` once"),
        ("in batches", "in batches[:1] + batches[:5]", "Batch 6 never goes through the network"),
        ("in batches", "in [(batches[0][0], batches[1][1]), *batches[1:]]", "batch 1 together with the T of batch 2"),
        ("T)", "0 * T)", "batch 1 together with something other than its T"),
        ("network(X)", "network(X / 2)", "is not always the X of a batch"),
        (TAKEN, f"{TAKEN}\n        network.parameters()[0].mul_(0.99)", "does something else change the parameters"),
        (TAKEN, f"{TAKEN}\n        optimizer.lr = 0.01", "or the learning rate"),
        (
            f"\n        {FIRST}",
            "",
            "losses = []",
            "X, T = batches[0]\n    losses = [float(criterion(network(X), T))]",
            "float(loss)",
            "float(criterion(network(X), T))",
            RETURNED,
            f"{RETURNED}[:-1]",
            "network is called 7 times",
        ),
    ],
}

OTHERS = {
    1: [(keeping_b(), "S at"), (torch.nn.Linear(2, 2), "raises TypeError")],
    2: [(asking_autograd, "autograd")],
    3: [
        ((accumulate, popping), "changes the list of parameters"),
        ((accumulate, lambda: 0), "is called with 1 argument: parameters"),
    ],
    4: [
        (SharedWeights, "have the same weights"),
        (type("Linear", (), {"forward": mini.Linear.forward, "backward": mini.Linear.backward}), "cannot be made"),
    ],
    9: [
        (type("SGD", (mini.SGD,), {"step": property(lambda self: {}["missing"])}), "Your code raises KeyError in line"),
        (type("SGD", (mini.SGD,), {"step": property(lambda self: exit(1))}), "Your code raises SystemExit in line"),
        (type("SGD", (mini.SGD,), {"__init__": lambda self, parameters: None}), "is called with 2 arguments"),
        (torch.optim.SGD, "that of a library"),
        (diy.SGD, "that of a library"),
        (mini.SGD([torch.ones(1)], 0.1), "Hand over the class SGD itself"),
    ],
    11: [
        (one_sided, "from one side only"),
        (lambda f, x: one_sided(f, x, 1e-8), "from one side only"),
        (lambda f, x: central(f, x) * 1e-10, "does the division need brackets"),
        (lambda f, x: 2 * central(f, x), "twice too large"),
        (lambda f, x: central(f, x) / 2, "yours are half"),
        (lambda f, x: -central(f, x), "the other way round"),
        (lambda f, x: central(f, x).sum(), "added up"),
        (lambda f, x: central(f, x).sum() + 0 * x, "all components are moved at once"),
        (lambda f, x: central(f, x).reshape(-1), "should have the shape of x"),
        (lambda f, x: central(f, x, 0.1), "is h, the step"),
        (lambda f, x: central(f, x, 1e-13), "is h, the step"),
        (drifting, "changes its argument x in place"),
        (lambda f, x: drifting(f, x.clone()), "Is x moved back before y is moved?"),
        (lambda f, x: torch.autograd.functional.jacobian(f, x), "it is to be measured"),
        (lambda f, x: 0 * x, "all zero"),
    ],
}

WRONG = {
    n: [(changed(f"3.{n}", *changes), words) for *changes, words in CHANGES.get(n, [])] + OTHERS.get(n, [])
    for n in RIGHT
}
