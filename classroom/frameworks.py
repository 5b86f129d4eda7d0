"""Frameworks with interfaces of their own, for the proof of the free edition: right ones, and mistakes."""

from classroom.free import ADAPTERS

IMPORT = "from framework import Linear, LossMSE, ReLU, Sequential, Tanh"


def changed(text: str, *changes: tuple[str, str]) -> str:
    for old, new in changes:
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    return text


def adapters(*changes: tuple[str, str], more: str = "") -> str:
    return changed(ADAPTERS, *changes) + more


STEP = ADAPTERS[ADAPTERS.index("    for parameter, gradient") :]
PARAM = "    return module.param()\n"

# As the assignment suggests: param() gives pairs, gradients add up, the loss is the mean.
SUGGESTED = """
import torch

torch.set_grad_enabled(False)


class Module:
    def forward(self, *input):
        raise NotImplementedError

    def backward(self, *gradwrtoutput):
        raise NotImplementedError

    def param(self):
        return []


class Linear(Module):
    def __init__(self, inputs, outputs):
        self.w = torch.empty(outputs, inputs).normal_(0, (2 / (inputs + outputs)) ** 0.5)
        self.b = torch.zeros(outputs)
        self.dw, self.db = torch.zeros_like(self.w), torch.zeros_like(self.b)

    def forward(self, x):
        self.x = x
        return x @ self.w.t() + self.b

    def backward(self, g):
        self.dw.add_(g.t() @ self.x)
        self.db.add_(g.sum(0))
        return g @ self.w

    def param(self):
        return [(self.w, self.dw), (self.b, self.db)]


class ReLU(Module):
    def forward(self, x):
        self.x = x
        return x.clamp(min=0)

    def backward(self, g):
        return g * (self.x > 0).float()


class Tanh(Module):
    def forward(self, x):
        self.y = x.tanh()
        return self.y.clone()

    def backward(self, g):
        return g * (1 - self.y ** 2)


class Sequential(Module):
    def __init__(self, *modules):
        self.modules = modules

    def forward(self, x):
        for module in self.modules:
            x = module.forward(x)
        return x

    def backward(self, g):
        for module in reversed(self.modules):
            g = module.backward(g)
        return g

    def param(self):
        return [pair for module in self.modules for pair in module.param()]


class LossMSE(Module):
    def forward(self, p, t):
        self.d = p - t
        return (self.d ** 2).mean()

    def backward(self):
        return 2 * self.d / self.d.numel()
"""

# Weights (in, out), biases (1, out), gradients replaced, parameters in lists per layer, None where there are none.
REPLACED = """
import matplotlib.pyplot as plt
from torch import empty, zeros

class Dense(object):
    def __init__(self, n_in, n_out):
        self.weight = empty(n_in, n_out).uniform_(-1, 1) / n_in ** 0.5
        self.bias = zeros(1, n_out)
        self.grad_weight = self.grad_bias = None

    def __call__(self, x):
        self.input = x.clone()
        return x.mm(self.weight) + self.bias

    def backward(self, g):
        self.grad_weight = self.input.t().mm(g)
        self.grad_bias = g.sum(0, keepdim=True)
        return g.mm(self.weight.t())

    def parameters(self):
        return [[self.weight, self.bias], [self.grad_weight, self.grad_bias]]

class Relu(object):
    def __call__(self, x):
        self.mask = x > 0
        return x * self.mask.float()

    def backward(self, g):
        return g * self.mask.float()

    def parameters(self):
        return None

class TanH(object):
    def __call__(self, x):
        self.x = x
        return x.tanh()

    def backward(self, g):
        return g / self.x.cosh() ** 2

    def parameters(self):
        return None

class Net(object):
    def __init__(self, layers):
        self.layers = layers

    def __call__(self, x):
        for layer in self.layers:
            x = layer(x)
        return x

    def backward(self, g):
        for layer in self.layers[::-1]:
            g = layer.backward(g)

    def parameters(self):
        return [layer.parameters() for layer in self.layers]

    def update(self, lr):
        for layer in self.layers:
            if isinstance(layer, Dense):
                layer.weight -= lr * layer.grad_weight
                layer.bias -= lr * layer.grad_bias

def mse(p, t):
    return ((p - t) ** 2).sum().item() / len(p)

def dmse(p, t):
    return 2 * (p - t) / len(p)
"""

# Samples as columns, biases (out, 1), a dictionary of parameters, an optimizer, several files, half the squared error.
COLUMNS = {
    "adapters.py": adapters(
        (IMPORT, "from nn_lite import SGD, Chain as Sequential, FullyConnected as Linear, Rectifier as ReLU\n"
         "from nn_lite import SquaredError as LossMSE, TanhLayer as Tanh"),
        ('SAMPLES = "rows"', 'SAMPLES = "columns"'), (PARAM, "    return module.params()\n"),
        (STEP, "    SGD(network.params(), rate).step()\n"),
    ),
    "nn_lite/__init__.py": "from .layers import *\nfrom .loss import SquaredError\nfrom .optimizer import SGD\n",
    "nn_lite/layers.py": """
import math, torch

class Layer:
    def params(self): return {}

class FullyConnected(Layer):
    def __init__(self, D, K):
        self.W = torch.randn(K, D) * math.sqrt(1 / D)
        self.b = torch.zeros(K, 1)
        self.zero()
    def zero(self):
        self.dW, self.db = torch.zeros(self.W.shape), torch.zeros(self.b.shape)
    def forward(self, X):
        self.X = X
        return self.W @ X + self.b
    def backward(self, dS):
        self.dW += dS @ self.X.T
        self.db += dS.sum(1, keepdim=True)
        return self.W.T @ dS
    def params(self): return {"W": (self.W, self.dW), "b": (self.b, self.db)}

class Rectifier(Layer):
    def forward(self, S):
        self.S = S
        return torch.max(S, torch.zeros_like(S))
    def backward(self, dX): return dX * self.S.sign().clamp(min=0)

class TanhLayer(Layer):
    def forward(self, S):
        self.S = S
        return torch.tanh(S)
    def backward(self, dX): return dX * (1 - torch.tanh(self.S).pow(2))

class Chain(Layer):
    def __init__(self, *layers): self.layers = list(layers)
    def forward(self, X):
        for l in self.layers: X = l.forward(X)
        return X
    def backward(self, d):
        for l in reversed(self.layers): d = l.backward(d)
        return d
    def params(self): return {i: l.params() for i, l in enumerate(self.layers)}
""",
    "nn_lite/loss.py": """
class SquaredError:
    def forward(self, X, T):
        self.D = X - T
        return 0.5 * (self.D * self.D).sum()
    def backward(self): return self.D
""",
    "nn_lite/optimizer.py": """
class SGD:
    def __init__(self, params, lr): self.params, self.lr = params, lr
    def step(self):
        for layer in self.params.values():
            for w, dw in layer.values():
                w.sub_(self.lr * dw)
                dw.zero_()
""",
}  # fmt: skip

# No memory: backward(x, g) gets the input again; Sequential keeps it. Parameters are objects with .data and .grad.
NO_MEMORY = """
import torch

class Parameter:
    def __init__(self, data):
        self.data, self.grad = data, torch.zeros_like(data)

class Linear:
    def __init__(self, i, o):
        self.w = Parameter(torch.randn(i, o) * (2 / (i + o)) ** 0.5)
        self.b = Parameter(torch.zeros(o))
    def forward(self, x): return torch.addmm(self.b.data, x, self.w.data)
    def backward(self, x, g):
        self.w.grad += torch.einsum("ni,no->io", x, g)
        self.b.grad += torch.einsum("no->o", g)
        return torch.einsum("no,io->ni", g, self.w.data)
    def parameters(self):
        yield self.w
        yield self.b

class ReLU:
    def forward(self, x): return torch.where(x > 0, x, torch.zeros_like(x))
    def backward(self, x, g): return torch.where(x > 0, g, torch.zeros_like(g))
    def parameters(self): return iter(())

class Tanh:
    def forward(self, x): return 2 / (1 + torch.exp(-2 * x)) - 1
    def backward(self, x, g): return g * (1 - self.forward(x) ** 2)
    def parameters(self): return iter(())

class Sequential:
    def __init__(self, *m): self.m = m
    def forward(self, x):
        self.xs = []
        for m in self.m:
            self.xs.append(x)
            x = m.forward(x)
        return x
    def backward(self, x, g):
        self.forward(x)
        for m, own in zip(self.m[::-1], self.xs[::-1]):
            g = m.backward(own, g)
        return g
    def parameters(self):
        for m in self.m:
            yield from m.parameters()

class LossMSE:
    def forward(self, p, t): return (p - t).pow(2).mean(0).sum()
    def backward(self, p, t): return 2 * (p - t) / p.size(0)
"""

# torch tensors as parameters with .grad, float64, the loss takes (target, prediction), a factory for networks.
GRADS = """
import torch
torch.set_default_dtype(torch.float64)

class Layer:
    def __init__(self): self.learned = []
    def __call__(self, x):
        self.x, self.y = x, self.f(x)
        return self.y.clone()

class Affine(Layer):
    def __init__(self, a, b):
        super().__init__()
        self.w = torch.randn(b, a) * (1 / a) ** 0.5
        self.bias = torch.full((b,), 0.01)
        self.learned = [self.w, self.bias]
        for p in self.learned: p.grad = torch.zeros_like(p)
    def f(self, x): return x.matmul(self.w.T).add(self.bias)
    def back(self, g):
        self.w.grad = self.w.grad + g.T.matmul(self.x)
        self.bias.grad = self.bias.grad + g.sum(dim=0)
        return g.matmul(self.w)

class Rect(Layer):
    def f(self, x): return (x + x.abs()) / 2
    def back(self, g): return g * ((self.x.sign() + 1) / 2)

class Hyp(Layer):
    def f(self, x): return torch.tanh(x)
    def back(self, g): return g - g * self.y * self.y

class Stack(Layer):
    def __init__(self, layers):
        self.layers, self.learned = layers, [p for l in layers for p in l.learned]
    def __call__(self, x):
        for l in self.layers: x = l(x)
        return x
    def back(self, g):
        for l in reversed(self.layers): g = l.back(g)
        return g

def loss(target, prediction): return float(((prediction - target) ** 2).mean())
def loss_gradient(target, prediction): return (prediction - target) * (2 / prediction.numel())
"""

# Loops over numbers, NumPy inside, properties, and an update of its own.
NUMPY = """
import numpy as np
import torch

class Linear:
    def __init__(self, n_in, n_out):
        self._w = np.random.randn(n_out, n_in).astype("float32") * np.float32(np.sqrt(2 / (n_in + n_out)))
        self._b = np.zeros(n_out, dtype="float32")
    def forward(self, x):
        self._x = x.numpy().copy()
        return torch.from_numpy(self._x @ self._w.T + self._b)
    def backward(self, g):
        g = g.numpy()
        self._dw, self._db = g.T @ self._x, g.sum(axis=0)
        return torch.from_numpy(g @ self._w)
    @property
    def param(self):
        made = [torch.from_numpy(self._w), torch.from_numpy(self._b)]
        return made + ([torch.from_numpy(self._dw), torch.from_numpy(self._db)] if hasattr(self, "_dw") else [])

class ReLU:
    param = []
    def forward(self, x):
        self._m = x.numpy() > 0
        return torch.from_numpy(np.where(self._m, x.numpy(), np.float32(0)))
    def backward(self, g): return torch.from_numpy(np.where(self._m, g.numpy(), np.float32(0)))

class Tanh:
    param = []
    def forward(self, x):
        self._y = np.tanh(x.numpy())
        return torch.from_numpy(self._y.copy())
    def backward(self, g): return torch.from_numpy(g.numpy() * (1 - self._y ** 2))

class Sequential:
    def __init__(self, *args): self.args = args
    def forward(self, x):
        for a in self.args: x = a.forward(x)
        return x
    def backward(self, g):
        for a in self.args[::-1]: g = a.backward(g)
        return g
    @property
    def param(self): return [a.param for a in self.args]

class LossMSE:
    def forward(self, p, t):
        self.e = p - t
        return [float((self.e ** 2).sum(1).mean())][0]
    def backward(self): return self.e * 2 / len(self.e)
"""

# Gradients lie in a list of their own.
INSIDE = changed(
    SUGGESTED,
    ("return [(self.w, self.dw), (self.b, self.db)]", "return self.w, self.b\n\n    def gradients(self):\n        return self.dw, self.db"),
    ("return [pair for module in self.modules for pair in module.param()]",
     "return [p for module in self.modules for p in module.param()]\n\n    def gradients(self):\n"
     "        return [g for m in self.modules if hasattr(m, 'gradients') for g in m.gradients()]"),
)  # fmt: skip

# One sample after another, as in the lecture: x is a vector.
VECTORS = changed(
    SUGGESTED,
    ("x @ self.w.t() + self.b", "self.w.mv(x) + self.b"), ("g.t() @ self.x", "g.view(-1, 1).mm(self.x.view(1, -1))"),
    ("g.sum(0)", "g"), ("return g @ self.w\n", "return self.w.t().mv(g)\n"),
    ("g = module.backward(g)\n        return g", "g = module.backward(g)"),
    ("return [pair for module in self.modules for pair in module.param()]", "return [module.param() for module in self.modules]"),
    ("(self.d ** 2).mean()", "(self.d ** 2).sum()"), (" / self.d.numel()", ""),
)  # fmt: skip

# Each layer gives its pairs as an iterator, and a Sequential gives an iterator of those.
LAZY = changed(
    SUGGESTED,
    ("param(self):\n        return []", "pairs(self):\n        return iter(())"),
    ("param(self):\n        return [(self.w, self.dw), (self.b, self.db)]",
     "pairs(self):\n        return zip((self.w, self.b), (self.dw, self.db))"),
    ("param(self):\n        return [pair for module in self.modules for pair in module.param()]",
     "pairs(self):\n        return (module.pairs() for module in self.modules)"),
)  # fmt: skip

# Parameters are objects with __slots__, kept in dictionaries.
SLOTS = changed(
    SUGGESTED,
    ("class Module:", """class Parameter:
    __slots__ = ("value", "slope")

    def __init__(self, value):
        self.value, self.slope = value, torch.zeros_like(value)


class Module:
    parameters = {}
"""),
    ("self.dw, self.db = torch.zeros_like(self.w), torch.zeros_like(self.b)",
     "self.parameters = {'w': Parameter(self.w), 'b': Parameter(self.b)}\n"
     "        self.dw, self.db = (p.slope for p in self.parameters.values())"),
    ("self.modules = modules\n",
     "self.modules = modules\n        self.parameters = {\n"
     "            (k, name): p for k, m in enumerate(modules) for name, p in m.parameters.items()\n        }\n"),
)  # fmt: skip

RIGHT: dict[str, dict[str, str]] = {name: {"adapters.py": own, "framework.py": text} for name, own, text in (
    ("as suggested", adapters(), SUGGESTED),
    ("gradients replaced, (in, out), (1, out)", adapters(
        (IMPORT, "from framework import Dense as Linear, Net, Relu as ReLU, TanH as Tanh, dmse, mse"),
        (PARAM, "    return module.parameters()\n"), (STEP, "    network.update(rate)\n"),
        more="\n\ndef Sequential(*modules):\n    return Net(list(modules))\n\n\nclass LossMSE:\n"
        "    def forward(self, p, t):\n        self.both = p, t\n        return mse(p, t)\n\n"
        "    def backward(self):\n        return dmse(*self.both)\n",
    ), REPLACED),
    ("no memory, generators of objects", adapters(
        (PARAM, "    return module.parameters()\n"),
        (STEP, "    for p in network.parameters():\n        p.data -= rate * p.grad\n        p.grad.zero_()\n"),
    ), NO_MEMORY),
    ("one sample after another", adapters(
        ('SAMPLES = "rows"', 'SAMPLES = "one by one"'),
        (STEP, "    for layer in network.param():\n        for parameter, gradient in layer:\n"
         "            parameter -= rate * gradient\n            gradient.zero_()\n"),
    ), VECTORS),
    ("tensors with .grad, float64, (target, prediction)", adapters(
        (IMPORT, "from framework import Affine, Hyp, Rect, Stack, loss, loss_gradient"),
        (PARAM, "    return module.learned\n"),
        (STEP, "    for p in network.learned:\n        p -= rate * p.grad\n        p.grad.zero_()\n"),
        more="\n\ndef named(kind):\n    class Adapted(kind):\n        forward = kind.__call__\n        backward = kind.back\n\n"
        "    return Adapted\n\n\nLinear, ReLU, Tanh = named(Affine), named(Rect), named(Hyp)\n\n\n"
        "def Sequential(*modules):\n    return named(Stack)(modules)\n\n\nclass LossMSE:\n"
        "    def forward(self, p, t):\n        self.both = t, p\n        return loss(t, p)\n\n"
        "    def backward(self):\n        return loss_gradient(*self.both)\n",
    ), GRADS),
    ("NumPy inside, a property", adapters(
        (PARAM, "    return module.param\n"),
        (STEP, "    for layer in network.args:\n        if isinstance(layer, Linear):\n"
         "            layer._w -= rate * layer._dw\n            layer._b -= rate * layer._db\n"),
    ), NUMPY),
    ("gradients in a list of their own", adapters(
        (PARAM, "    return [*module.param(), *(module.gradients() if hasattr(module, 'gradients') else ())]\n"),
        ("    for parameter, gradient in network.param():",
         "    for parameter, gradient in zip(network.param(), network.gradients()):"),
    ), INSIDE),
    ("lazy pairs, a chain", adapters(
        (PARAM, "    return module.pairs()\n"), ("network.param()", "chain(*network.pairs())"),
        more="\n\nfrom itertools import chain\n",
    ), LAZY),
    ("objects with slots in a dictionary's values", adapters(
        (PARAM, "    return module.parameters.values()\n"),
        (STEP, "    for p in network.parameters.values():\n        p.value -= rate * p.slope\n        p.slope.zero_()\n"),
    ), SLOTS),
    ("one flat list, the summed loss", adapters(
        (STEP, "    flat = network.param()\n    for k in range(0, len(flat), 2):\n"
         "        flat[k] -= rate * flat[k + 1]\n        flat[k + 1].zero_()\n"),
    ), changed(
        SUGGESTED, ("return [(self.w, self.dw), (self.b, self.db)]", "return [self.w, self.dw, self.b, self.db]"),
        ("(self.d ** 2).mean()", "(self.d ** 2).sum()"), (" / self.d.numel()", ""),
    )),
)} | {"columns, a package, half the squared error": COLUMNS}  # fmt: skip

MISTAKES = {
    name: (where, words, {"adapters.py": adapters(), "framework.py": changed(SUGGESTED, *changes)})
    for name, where, words, *changes in (
        ("mean reported, divided by N alone", "LossMSE backward", "M/N", ("2 * self.d / self.d.numel()", "2 * self.d / len(self.d)")),
        ("mean reported, not divided", "LossMSE backward", "summed where it should be averaged",
         ("2 * self.d / self.d.numel()", "2 * self.d")),
        ("sum/N reported, not divided", "LossMSE backward", "divided by N",
         ("(self.d ** 2).mean()", "(self.d ** 2).sum() / len(self.d)"), ("2 * self.d / self.d.numel()", "2 * self.d")),
        ("the root of the loss", "LossMSE:", "not a squared error", ("(self.d ** 2).mean()", "(self.d ** 2).mean().sqrt()")),
        ("weights' gradient averaged", "Linear backward: the gradient of the weights", "averaged",
         ("self.dw.add_(g.t() @ self.x)", "self.dw.add_(g.t() @ self.x / len(g))")),
        ("bias' gradient one number", "Linear backward: the gradient of the bias", "one number",
         ("self.db.add_(g.sum(0))", "self.db.add_(g.mean())")),
        ("bias never added", "Linear forward", "the bias is not added", ("self.w.t() + self.b", "self.w.t()")),
        ("input gradient loses the batch", "Linear backward: the gradient of the input", "averaged",
         ("return g @ self.w\n", "return (g @ self.w).mean(0)\n")),
        ("ReLU's slope is 1", "ReLU backward", "1 everywhere", ("g * (self.x > 0).float()", "g")),
        ("ReLU's slope is the input", "ReLU backward", "the input is used in place of the slope",
         ("g * (self.x > 0).float()", "g * self.x")),
        ("ReLU overwrites its input", "ReLU forward", "overwrites its input", ("return x.clamp(min=0)", "return x.clamp_(min=0)")),
        ("Tanh taken twice", "Tanh backward", "as if Tanh had been applied twice", ("1 - self.y ** 2", "1 - self.y.tanh() ** 2")),
        ("Tanh ignores what comes from above", "Tanh backward", "not multiplied by the gradient from above",
         ("g * (1 - self.y ** 2)", "1 - self.y ** 2")),
        ("Tanh by precedence", "Tanh backward", "brackets", ("g * (1 - self.y ** 2)", "g * 1 - self.y ** 2")),
        ("all Tanhs keep one output", "Tanh backward", "what another object of the class has kept",
         ("self.y = x.tanh()", "self.y = Tanh.y = x.tanh()"), ("1 - self.y ** 2", "1 - Tanh.y ** 2")),
        ("all Linears keep one input", "Linear backward: the gradient of the weights", "what another object of the class has kept",
         ("self.x = x\n        return x @", "Linear.x = x\n        return x @"), ("g.t() @ self.x", "g.t() @ Linear.x")),
        ("all losses keep one difference", "LossMSE backward", "what another object of the class has kept",
         ("self.d = p - t", "LossMSE.d = p - t")),
        ("Tanh overflows", "Tanh forward for large", "overflow",
         ("x.tanh()", "(x.exp() - (-x).exp()) / (x.exp() + (-x).exp())")),
        ("Sequential skips the first layer", "Sequential", "the first module is left out",
         ("for module in self.modules:\n            x", "for module in self.modules[1:]:\n            x")),
        ("Sequential goes back in the same order", "Sequential", "from the first to the last on the way back",
         ("for module in reversed(self.modules):", "for module in self.modules:")),
        ("param() is empty", "parameters", "gives no tensor", ("return [(self.w, self.dw), (self.b, self.db)]", "return []")),
    )
}  # fmt: skip
"""A framework with one mistake, the beginning of the items that it may cost, and words of the reason."""
