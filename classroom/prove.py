"""The proof of the grader: known solutions, mistakes and attacks, and what each must get.

python -m classroom.grade --prove
"""

import ast
import functools
import textwrap
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from bugs import BUGS
from classroom import frameworks
from classroom.edition import student_source
from classroom.free import FREE
from classroom.items import ITEMS, Item
from classroom.judge import Grade, Worker, judge
from classroom.stages import DEFINITION

ROOT = Path(__file__).resolve().parent.parent
REFERENCE = (ROOT / "diy.py").read_text(encoding="utf-8")
SCOPE = [item for item in ITEMS if item.stage <= 5]
WHOLE = "a network that learns"
"""The item that needs the whole submission, and may fail for any mistake."""

parsed = functools.cache(ast.parse)


def rewritten(text: str, source: str = REFERENCE) -> str:
    """Return a file with the functions of `text` in place of its own; what it does not have goes before Linear."""
    text = textwrap.dedent(text).strip("\n") + "\n"
    lines, new, edits, before = source.splitlines(keepends=True), text.splitlines(keepends=True), [], []

    def span(node: ast.stmt) -> tuple[int, int]:
        return min([node.lineno, *(d.lineno for d in getattr(node, "decorator_list", []))]) - 1, node.end_lineno

    def replace(theirs: list[ast.stmt], ours: list[ast.stmt]) -> None:
        known = {node.name: node for node in ours if isinstance(node, DEFINITION)}
        for node in theirs:
            first, last = span(node)
            old = known.get(getattr(node, "name", ""))
            if old and isinstance(node, ast.ClassDef):
                replace(node.body, old.body)
            elif old:
                edits.append((*span(old), new[first:last]))
            else:
                before.extend([*new[first:last], "\n\n"])

    replace(ast.parse(text).body, parsed(source).body)
    place = next(span(node)[0] for node in parsed(source).body if getattr(node, "name", "") == "Linear")
    for first, last, part in sorted([*edits, (place, place, before)], reverse=True):
        lines[first:last] = part
    return "".join(lines)


def plain(source: str = REFERENCE) -> str:
    """Return a file without docstrings and comments, and with other names for what simple functions compute."""
    tree = ast.parse(source)
    for function in [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]:
        inside = [node for node in ast.walk(function) if node is not function]
        if ast.get_docstring(function):
            function.body = function.body[1:] or [ast.Pass()]
        if any(isinstance(n, (ast.Lambda, ast.Global, ast.Nonlocal, *DEFINITION)) for n in inside):
            continue
        given = {node.arg for node in inside if isinstance(node, ast.arg)}
        names = [node for node in inside if isinstance(node, ast.Name) and node.id not in given]
        own = {node.id for node in names if isinstance(node.ctx, ast.Store)}
        for node in names:
            node.id = f"my_{node.id}" if node.id in own else node.id
    return ast.unparse(tree)


def below(text: str, source: str) -> str:
    """Return a file with `text` below its docstring."""
    lines = source.splitlines(keepends=True)
    lines.insert(parsed(source).body[0].end_lineno, f"\n{text}\n")
    return "".join(lines)


def replaced(old: str, new: str, source: str = REFERENCE) -> str:
    assert source.count(old) == 1, old
    return source.replace(old, new)


def linear(forward: str, backward: str = "G.T @ X, G.sum(0), G @ W") -> str:
    """A Linear of two expressions: of X, W and b; and the three gradients of G, X and W."""
    return rewritten(f"""
        class Linear:
            def forward(self, X):
                W, b = self.weight, self.bias if self.bias is not None else torch.zeros(self.out_features, dtype=X.dtype)
                S = {forward}
                self.remember(S, X)
                return S

            def backward(self, G):
                G, X = self.recall(G)
                W = self.weight
                dW, db, dX = {backward}
                self.accumulate(W, dW)
                if self.bias is not None:
                    self.accumulate(self.bias, db)
                return dX
    """)


def activation(name: str, forward: str, backward: str) -> str:
    """An activation of two expressions: of S; and of G, S and X, its input and its output."""
    return rewritten(f"""
        class {name}:
            def forward(self, S):
                X = {forward}
                self.remember(X, S, X)
                return X

            def backward(self, G):
                G, S, X = self.recall(G)
                return {backward}
    """)


def mse(value: str, gradient: str) -> str:
    return rewritten(f"""
        class MSELoss:
            def forward(self, P, T):
                D = P - T
                loss = {value}
                self.remember(loss, D)
                return loss

            def backward(self):
                (D,) = self.recall()
                return {gradient}
    """)


MASK = "(torch.rand(X.shape) >= p).to(X.dtype) / (1 - p)"


def dropout(mask: str = MASK, backward: str = "G * m", output: str = "X * m") -> str:
    return rewritten(f"""
        class Dropout:
            def forward(self, X):
                p = self.p
                if self.training:
                    m = {mask}
                else:
                    m = torch.ones_like(X)
                output = {output}
                self.remember(output, m)
                return output

            def backward(self, G):
                G, m = self.recall(G)
                p = self.p
                return {backward}
    """)


def only_once(name: str, first: str, slope: str) -> str:
    """An activation that keeps what its backward needs only once."""
    return rewritten(f"""
        class {name}:
            def forward(self, S):
                if not hasattr(self, "kept"):
                    self.kept = {first}
                return S.{name.lower()}()

            def backward(self, G):
                return G * {slope}
    """)


OWN = """
class Linear:
    def forward(self, X):
        self.x = X.clone()
        out = X.matmul(self.weight.t())
        return out + self.bias if self.bias is not None else out

    def backward(self, G):
        self.accumulate(self.weight, G.t().mm(self.x))
        if self.bias is not None:
            self.accumulate(self.bias, G.sum(dim=0))
        return G.mm(self.weight)


class ReLU:
    def forward(self, S):
        self.positive = S > 0
        return S * self.positive

    def backward(self, G):
        return G * self.positive


class Tanh:
    def forward(self, S):
        self.out = torch.tanh(S)
        return self.out.clone()

    def backward(self, G):
        return G * (1 - self.out ** 2)


class MSELoss:
    def forward(self, P, T):
        self.difference = P - T
        total = (self.difference ** 2).sum()
        return total / P.numel() if self.reduction == "mean" else total

    def backward(self):
        g = 2 * self.difference
        return g / g.numel() if self.reduction == "mean" else g
"""

NUMPY = """
class Linear:
    def forward(self, X):
        S = np.asarray(X) @ np.asarray(self.weight.data).T
        if self.bias is not None:
            S = S + np.asarray(self.bias.data)
        S = torch.from_numpy(S)
        self.remember(S, X)
        return S

    def backward(self, G):
        G, X = self.recall(G)
        g, x, w = (np.asarray(t.data) for t in (G, X, self.weight))
        self.accumulate(self.weight, torch.from_numpy(g.T @ x))
        if self.bias is not None:
            self.accumulate(self.bias, torch.from_numpy(g.sum(0)))
        return torch.from_numpy(g @ w)
"""

RIGHT: dict[str, str] = {
    "the reference": REFERENCE,
    "without docstrings, other names": plain(),
    "loops": rewritten("""
        class Linear:
            def forward(self, X):
                rows = []
                for x in X:
                    s = self.weight @ x
                    rows.append(s if self.bias is None else s + self.bias)
                S = torch.stack(rows)
                self.remember(S, X)
                return S

            def backward(self, G):
                G, X = self.recall(G)
                dW, db, dX = torch.zeros_like(self.weight), torch.zeros(self.out_features, dtype=G.dtype), torch.zeros_like(X)
                for n in range(len(X)):
                    db += G[n]
                    dW += torch.outer(G[n], X[n])
                    dX[n] = self.weight.T @ G[n]
                self.accumulate(self.weight, dW)
                if self.bias is not None:
                    self.accumulate(self.bias, db)
                return dX
    """),
    "einsum": linear(
        "torch.einsum('ni,ki->nk', X, W) + b",
        "torch.einsum('nk,ni->ki', G, X), torch.einsum('nk->k', G), torch.einsum('nk,ki->ni', G, W)",
    ),
    "NumPy inside": rewritten("import numpy as np\n" + NUMPY),
    "columns": linear("(W @ X.T + b.view(-1, 1)).T", "G.T @ X, G.T.sum(1), (W.T @ G.T).T"),
    "outer products": linear("torch.addmm(b, X, W.T)", "(G.unsqueeze(2) * X.unsqueeze(1)).sum(0), G.sum(0), G.matmul(W)"),
    "ones times G": linear("X.mm(W.t()) + b", "G.t().mm(X), torch.ones(len(G), dtype=G.dtype) @ G, G.mm(W)"),
    "attributes of one's own": rewritten(OWN),
    "float32 inside": linear(
        "(X.float() @ W.float().T + b).to(X.dtype)", "(G.float().T @ X.float()).to(G.dtype), G.sum(0), G @ W"
    ),
    "ReLU by clamp and where": activation("ReLU", "S.clamp(min=0)", "torch.where(S > 0, G, torch.zeros_like(G))"),
    "ReLU with one half at the kink": activation("ReLU", "(S + S.abs()) / 2", "G * (S.sign() + 1) / 2"),
    "ReLU by an index": activation("ReLU", "torch.maximum(S, torch.zeros_like(S))", "G * (X > 0).to(G.dtype)"),
    "Tanh from exp, safely": activation("Tanh", "2 / (1 + (-2 * S).exp()) - 1", "G - G * X ** 2"),
    "Tanh from cosh": activation("Tanh", "S.tanh()", "G * (1 - S.tanh().pow(2))"),
    "the loss by loops": mse(
        "sum(d * d for d in D.flatten()) / (D.numel() if self.reduction == 'mean' else 1)",
        "torch.stack([2 * d for d in D.flatten()]).view_as(D) / (D.numel() if self.reduction == 'mean' else 1)",
    ),
    "the loss from norms": mse(
        "D.norm() ** 2 / (D.numel() if self.reduction == 'mean' else 1)",
        "D.mul(2).div(D.numel() if self.reduction == 'mean' else 1)",
    ),
    "Sequential by calls": rewritten("""
        class Sequential:
            def forward(self, X):
                for index in range(len(self.layers)):
                    X = self.layers[index](X)
                return X

            def backward(self, G):
                for layer in self.layers[::-1]:
                    G = layer.backward(G)
                return G
    """),
    "an optimizer of one's own": rewritten("""
        class Optimizer:
            def step(self, closure=None):
                for w in self.parameters:
                    if w.grad is not None:
                        g = w.grad + self.weight_decay * w
                        w.data.sub_(self.lr * self.direction(g, w))


        def momentum_direction(g, state, momentum, dampening, nesterov):
            v = state.get("momentum_buffer")
            v = g.clone() if v is None else momentum * v + (1 - dampening) * g
            state["momentum_buffer"] = v
            return g + momentum * v if nesterov else v
    """),
    "gradients added in place": rewritten("""
        class Module:
            @staticmethod
            def accumulate(parameter, gradient):
                if parameter.grad is None:
                    parameter.grad = torch.zeros_like(parameter)
                parameter.grad += gradient
    """),
    "a helper and a base class": rewritten("""
        def both(module, S, positive):
            X = S * positive
            module.remember(X, positive)
            return X


        class ReLU:
            def forward(self, S):
                return both(self, S, S > 0)

            def backward(self, G):
                G, positive = self.recall(G)
                return G * positive
    """),
    "Xavier from randn": rewritten("""
        class Linear:
            def reset_parameters(self):
                std = (2 / (self.in_features + self.out_features)) ** 0.5
                self.weight.copy_(std * torch.randn(self.out_features, self.in_features))
                if self.bias is not None:
                    self.bias.zero_().add_(0.01)
    """),
    "dropout from rand": dropout(),
    "dropout from bernoulli": dropout("torch.bernoulli(torch.full_like(X, 1 - p)).div(1 - p)"),
    "closures in a list": rewritten("""
        class ReLU:
            def forward(self, S):
                stack, positive = [], S > 0
                stack.append(lambda G: G * positive)
                self.back = stack
                return S * positive

            def backward(self, G):
                return self.back.pop()(G)
    """),
    "float32 in Tanh": rewritten("""
        class Tanh:
            def forward(self, S):
                self.out = S.float().tanh()
                return self.out.to(S.dtype)

            def backward(self, G):
                return (G.float() * (1 - self.out**2)).to(G.dtype)
    """),
    "annotations from the future": below("from __future__ import annotations", rewritten(OWN)),
    "float64 by default": below("import torch\ntorch.set_default_dtype(torch.float64)", rewritten(OWN)),
    "torch.nn imported, not used": below(
        "from torch.nn import functional as F, Parameter\nfrom torch import nn, optim", rewritten(OWN)
    ),
    "methods from elsewhere": rewritten("""
        def tanh_forward(self, S):
            self.out = S.tanh()
            return self.out.clone()


        def tanh_backward(self, G):
            return G * (1 - self.out**2)
    """) + "\n\nTanh.forward = tanh_forward\nTanh.backward = tanh_backward\n",
    "NumPy, if there is any": rewritten("try:\n    import numpy as np\nexcept ImportError:\n    np = None\n" + NUMPY),
    "figures, though nobody sees them": below(
        "import matplotlib.pyplot as plt\nplt.style.use('ggplot')\nfigure, axes = plt.subplots()", rewritten(OWN)
    ),
    "a training below, and figures": REFERENCE
    + "\n\nif __name__ == '__main__':\n    import matplotlib.pyplot as plt\n    open('log.txt', 'w')\n",
}  # fmt: skip


class Mistake(NamedTuple):
    """A submission with one mistake.

    Attributes:
        where: how the items begin, in one of which at least it must be named; no other class may lose points.
        words: what must stand in the reason.
        source: the file; of a free framework, the files.
    """

    where: str | tuple[str, ...]
    words: str
    source: str | dict[str, str]


BAD_SUM = "gradient if before is None else before + gradient", "gradient"
BAD_WEIGHTS = "self.weight.normal_(0, math.sqrt(2 / (self.in_features + self.out_features)))"
REPLACED = "accumulate", "only the last one counts"

MISTAKES: dict[str, Mistake] = {name: Mistake(*rest) for name, rest in {
    "mean reported, gradient divided by N": ("MSELoss backward", "that is M/N", mse("D.square().mean()", "2 * D / len(D)")),
    "mean reported, gradient not divided": (
        "MSELoss backward", "summed where it should be averaged", mse("D.square().mean()", "2 * D")
    ),
    "no factor 2": ("MSELoss backward", "the factor 2 is missing", mse("self.reduce(D.square())", "D * self.share(D)")),
    "sum/N reported": ("MSELoss", "divided by N instead of M", mse("D.square().sum() / len(D)", "D * 2 * self.share(D)")),
    "weights' gradient averaged": (
        "Linear backward", "averaged where it should be summed", linear("X @ W.T + b", "G.T @ X / len(X), G.sum(0), G @ W")
    ),
    "bias' gradient averaged": (
        "Linear backward", "averaged where it should be summed", linear("X @ W.T + b", "G.T @ X, G.mean(0), G @ W")
    ),
    "bias' gradient one number": ("Linear backward", "one number for all", linear("X @ W.T + b", "G.T @ X, G.mean(), G @ W")),
    "bias never added": ("Linear forward", "the bias is not added", linear("X @ W.T")),
    "weights transposed": (
        "Linear backward", "the weights are transposed",
        linear("X @ W.T + b", "G.T @ X, G.sum(0), G @ (W.T if W.shape[0] == W.shape[1] else W)"),
    ),
    "input gradient loses the batch": (
        "Linear backward", "the input's shape, (5, 4), got (4,)",
        linear("X @ W.T + b", "G.T @ X, G.sum(0), (G @ W).mean(0)")
    ),
    "gradients replaced": (*REPLACED, replaced(*BAD_SUM)),
    "ReLU's slope is 1": ("ReLU backward", "the gradient from above, unchanged", activation("ReLU", "S.relu()", "G")),
    "ReLU's slope is its input": (
        "ReLU backward", "the output is used in place of the slope", activation("ReLU", "S.relu()", "G * S.relu()")
    ),
    "ReLU ignores what comes from above": (
        "ReLU backward", "the gradient from above is not used", activation("ReLU", "S.relu()", "(S > 0).to(G.dtype)")
    ),
    "Tanh taken twice": (
        "Tanh backward", "as if Tanh had been applied twice", activation("Tanh", "S.tanh()", "G * (1 - X.tanh() ** 2)")
    ),
    "Tanh's slope at the input": (
        "Tanh backward", "the slope is taken at the input", activation("Tanh", "S.tanh()", "G * (1 - S ** 2)")
    ),
    "Tanh by precedence": ("Tanh backward", "brackets are missing", activation("Tanh", "S.tanh()", "G * 1 - X ** 2")),
    "Tanh ignores what comes from above": (
        "Tanh backward", "the gradient from above is not used", activation("Tanh", "S.tanh()", "1 - X ** 2")
    ),
    "ReLU overwrites its input": (
        "ReLU forward", "forward overwrites its input", activation("ReLU", "S.clamp_(min=0)", "G * (X > 0)")
    ),
    "Tanh overwrites its input": (
        "Tanh forward", "forward overwrites its input", activation("Tanh", "S.tanh_()", "G * (1 - X * X)")
    ),
    "ReLU overwrites the gradient": (
        "ReLU backward", "backward overwrites the gradient from above",
        rewritten("class ReLU:\n    def backward(self, G):\n        (H, X) = self.recall(G)\n        G[X <= 0] = 0\n        return G"),
    ),
    "Tanh overflows": (
        "Tanh forward", "an overflow",
        activation("Tanh", "(S.exp() - (-S).exp()) / (S.exp() + (-S).exp())", "G * (1 - X * X)"),
    ),
    "Sequential skips the first layer": (
        "Sequential forward", "the first module is left out",
        rewritten("class Sequential:\n    def forward(self, X):\n        for layer in self.layers[1:]:\n"
                  "            X = layer.forward(X)\n        return X"),
    ),
    "Sequential goes back in the same order": (
        "Sequential backward", "must go from the last module to the first",
        replaced("for layer in reversed(self.layers):", "for layer in self.layers:"),
    ),
    "SGD goes uphill": (
        "SGD", "the step goes uphill",
        replaced("torch._foreach_add_(parameters, steps, alpha=-lr)", "torch._foreach_add_(parameters, steps, alpha=lr)"),
    ),
    "momentum in the gradient's memory": (
        "SGD with momentum", "step overwrites the gradient", replaced("v: Tensor = g.clone()", "v: Tensor = g")
    ),
    "momentum forgets the factor": (
        "SGD with momentum", "the velocity is not multiplied by the momentum", replaced(".mul_(momentum).add_(g", ".add_(g")
    ),
    "dropout without the factor": (
        "Dropout", "it is not divided by 1 − p", dropout("(torch.rand(X.shape) >= p).to(X.dtype)")
    ),
    "dropout keeps p": (
        "Dropout", "p is the probability of zeroing, not of keeping", dropout("(torch.rand(X.shape) < p).to(X.dtype) / p")
    ),
    "dropout draws another mask for backward": (
        "Dropout", "other components", dropout(backward="G * (torch.rand(G.shape) >= p) / (1 - p)")
    ),
    "dropout in evaluation, too": (
        "Dropout", "zeroed in evaluation mode", replaced("m = self.mask(X) if self.training else 1.0", "m = self.mask(X)")
    ),
    "weights from a uniform distribution": (
        "Linear's first", "not normally distributed",
        replaced(BAD_WEIGHTS, "self.weight.uniform_(-1, 1).mul_(math.sqrt(6 / (self.in_features + self.out_features)))"),
    ),
    "ReLU keeps the first input": ("ReLU backward", "what an earlier forward kept", only_once("ReLU", "S", "(self.kept > 0)")),
    "Tanh keeps the first output": (
        "Tanh backward", "what an earlier forward kept", only_once("Tanh", "S.tanh()", "(1 - self.kept**2)")
    ),
    "the loss keeps the first difference": (
        "MSELoss", "what an earlier forward kept",
        rewritten("""
            class MSELoss:
                def forward(self, P, T):
                    if not hasattr(self, "kept"):
                        self.kept = P - T
                    return self.reduce((P - T) ** 2)

                def backward(self):
                    return 2 * self.kept * self.share(self.kept)
        """),
    ),
    "all Tanhs keep one output": (
        "Tanh backward", "what another object of the class has kept",
        rewritten("class Tanh:\n    def forward(self, S):\n        Tanh.out = S.tanh()\n        return Tanh.out.clone()\n\n"
                  "    def backward(self, G):\n        return G * (1 - Tanh.out ** 2)"),
    ),
    "all losses keep one difference": (
        "MSELoss backward", "what another object of the class has kept",
        rewritten("class MSELoss:\n    def forward(self, P, T):\n        MSELoss.D = P - T\n        return self.reduce((P - T) ** 2)\n\n"
                  "    def backward(self):\n        return 2 * self.D * self.share(self.D)"),
    ),
    "all Dropouts keep one mask": (
        "Dropout backward", "other components",
        rewritten("class Dropout:\n    def forward(self, X):\n        Dropout.m = self.mask(X) if self.training else torch.ones_like(X)\n"
                  "        return X * self.m\n\n    def backward(self, G):\n        return G * self.m"),
    ),
    "no bias in evaluation": ("Linear forward", "after eval()", linear("X @ W.T + b if self.training else X @ W.T")),
    "ReLU's slope is 0 up to 0.1": ("ReLU backward", "expected", activation("ReLU", "S.relu()", "G * (S > 0.1)")),
    "the loss overwrites the target": (
        "MSELoss", "overwrites the target", mse("self.reduce(T.sub_(P).square())", "2 * D * self.share(D)")
    ),
    "Linear changes its weights": (
        "Linear", "changes the parameter weight", linear("X @ W.T + b + 0 * self.weight.mul_(0.99).sum()")
    ),
    "no bias cannot be initialized": (
        "Linear", "no attribute 'fill_'",
        replaced("        if self.bias is not None:\n            self.bias.fill_(0.01)", "        self.bias.fill_(0.01)"),
    ),
    "all outputs start alike": (
        "Linear's first", "start with the same weights",
        replaced(BAD_WEIGHTS, "self.weight.copy_(torch.randn(self.in_features) * math.sqrt(2 / (self.in_features + self.out_features)))"),
    ),
    "weight decay beside the velocity": (
        "SGD with weight decay", "must enter the velocity",
        replaced("gradients = [g.add(w, alpha=self.weight_decay) for g, w in zip(gradients, parameters)]", "pass",
                 replaced("            if isinstance(lr := self.lr, Tensor):",
                          "            steps = [d + self.weight_decay * w for d, w in zip(steps, parameters)]\n"
                          "            if isinstance(lr := self.lr, Tensor):")),
    ),
    "SGD ends at a parameter without a gradient": (
        "SGD", "where one of the parameters has no gradient",
        replaced("if w.grad is not None]",
                 "if w.grad is not None]\n            every = len(parameters) == len(self.param_groups[0]['params'])\n            parameters = parameters if every else parameters[:1]"),
    ),
    "the first gradient is dampened": (
        "SGD with momentum", "should count whole", replaced("v: Tensor = g.clone()", "v: Tensor = (1 - dampening) * g")
    ),
    "dropout drops the same in every call": (
        "Dropout", "every call drops the same",
        rewritten("""
            class Dropout:
                def mask(self, X):
                    if not hasattr(self, "drawn"):
                        self.drawn = (torch.rand(X.shape) >= self.p).to(X.dtype) / (1 - self.p)
                    return self.drawn
        """),
    ),
    "dropout's mask outlives training": (
        "Dropout", "∂ℓ/∂(input)",
        rewritten("""
            class Dropout:
                def forward(self, X):
                    if not self.training:
                        return X.clone()
                    self.m = self.mask(X)
                    return X * self.m

                def backward(self, G):
                    return G * getattr(self, 'm', 1.0)
        """),
    ),
    "a batch of one loses its dimension": ("Linear", "a dimension of size 1", linear("(X @ W.T + b).squeeze()")),
    "backward needs a bias": (
        "Linear backward", "with bias=False",
        replaced("        if self.bias is not None:\n            self.accumulate(self.bias, rows.sum(0))",
                 "        self.accumulate(self.bias, rows.sum(0))"),
    ),
    "Linear keeps its first weights": (
        "Linear", "those of an earlier call",
        rewritten("""
            class Linear:
                def forward(self, X):
                    self.first = getattr(self, "first", self.weight.clone())
                    S = X @ self.first.T
                    S = S if self.bias is None else S + self.bias
                    self.remember(S, X)
                    return S
        """),
    ),
    "Linear reads its input in the order of memory": (
        "Linear forward", "laid out in memory", linear("X.as_strided(X.shape, (X.shape[1], 1)) @ W.T + b")
    ),
    "ReLU goes back for matrices only": (
        "ReLU backward", "the gradient from above, unchanged",
        activation("ReLU", "S.relu()", "G * (S > 0) if S.dim() == 2 else G"),
    ),
    "one velocity for each shape": (
        "SGD", "the parameter after 1 step",
        replaced("self.state[w], self.momentum", "self.state.setdefault(w.shape, {}), self.momentum"),
    ),
    "dropout overwrites its input": ("Dropout", "forward overwrites its input", dropout(output="X.mul_(m)")),
    "dropout in pairs of samples": (
        "Dropout", "several samples get the same mask",
        dropout("(torch.rand((len(X) + 1) // 2, *X.shape[1:]) >= p).to(X.dtype).repeat(2, 1)[: len(X)] / (1 - p)"),
    ),
    # The same mistake in files of other styles: it must not cost points in their other classes.
    "gradients replaced, NumPy if there is any": (*REPLACED, replaced(*BAD_SUM, RIGHT["NumPy, if there is any"])),
    "gradients replaced, the future": (*REPLACED, replaced(*BAD_SUM, RIGHT["annotations from the future"])),
    "gradients replaced, closures": (*REPLACED, replaced(*BAD_SUM, RIGHT["closures in a list"])),
    "gradients replaced, from elsewhere": (*REPLACED, replaced(*BAD_SUM, RIGHT["methods from elsewhere"])),
}.items()}  # fmt: skip

OPTIONAL: dict[str, Mistake] = {name: Mistake(*rest) for name, rest in {
    "softmax over the samples": (
        "CrossEntropyLoss", "the loss", replaced("lowered.exp().sum(-1, keepdim=True)", "lowered.exp().sum(0, keepdim=True)")
    ),
    "no maximum subtracted": (
        "CrossEntropyLoss", "infinite or NaN", replaced("lowered = S - S.amax(-1, keepdim=True)", "lowered = S")
    ),
    "Adam without the bias correction": (
        "Adam", "the parameter", replaced("return d.div_(1 - beta1**t)", "return d")
    ),
    "Adam's eps below the root": (
        "Adam", "the parameter", replaced("v.sqrt().div_(math.sqrt(1 - beta2**t)).add_(self.eps)", "v.div(1 - beta2**t).add_(self.eps).sqrt_()")
    ),
    "Adam divides by zero": ("Adam", "NaN", replaced(".add_(self.eps)", "")),
    "one count of steps for all parameters": (
        "Adam", "the parameter", replaced('t = state.get("step", 0) + 1', 't = self.count = getattr(self, "count", 0) + 1')
    ),
    "He counts channels only": ("kaiming_normal_", "with 180 inputs", replaced(" * math.prod(tensor.shape[2:])", "")),
    "pooling sees zeros beyond the border": (
        "MaxPool2d", "the output", replaced("self.frame(X, -math.inf)", "self.frame(X, 0.0)")
    ),
    "pooling forgets that windows overlap": (
        "MaxPool2d", "wrong in",
        replaced(
            "targets[:, i, j].add_(here.mul_(G) if finite else torch.where(here.bool(), G, 0))",
            "targets[:, i, j] = torch.where(here > 0, G, targets[:, i, j])",
        ),
    ),
    "batch norm uses the batch in evaluation": (
        "BatchNorm2d", "those of the batch",
        replaced("centred, variance = X - _wide(self.running_mean)[:, None, None], _wide(self.running_var)",
                 "variance, mean = torch.var_mean(X, (0, 2, 3), correction=0)\n            centred = X - mean[:, None, None]"),
    ),
    "batch norm without eps": (
        "BatchNorm2d forward", "wrong in 360 of 360", replaced("(variance + self.eps).rsqrt()", "variance.rsqrt()")
    ),
    "batch norm keeps no mean": (
        "BatchNorm2d", "running_mean",
        replaced("_wide(self.running_mean).lerp(mean, self.momentum)", "self.momentum * mean"),
    ),
    "batch norm goes back as in training": (
        "BatchNorm2d", "evaluation mode", replaced("1 / max(1, M) if self.training else 0)", "1 / max(1, M))")
    ),
}.items()}  # fmt: skip
"""Mistakes in the optional stages."""

FREE_MISTAKES = {name: Mistake(*rest) for name, rest in frameworks.MISTAKES.items()}

PLANTED = {
    "dropped-transpose": "it is the transpose, reshaped to the right shape",
    "bias-not-summed": "only the first sample counts",
    "averaged-twice": "averaged where it should be summed",
    "transposed-way-back": "the weights are transposed",
    "variance-for-std": "the variance was taken for the standard deviation",
    "all-weights-equal": "all weights are the same number",
    "relu-mask-from-gradient": "the sign of the gradient from above",
    "changed-input": "forward overwrites its input",
    "tanh-at-the-input": "the slope is taken at the input",
    "mask-not-reused": "other components",
    "dropout-not-rescaled": "it is not divided by 1 − p",
    "dropout-keeps-p": "p is the probability of zeroing, not of keeping",
    "dropout-in-eval": "zeroed in evaluation mode",
    "overwritten-gradient": "only the last one counts",
    "layers-backward-in-order": "must go from the last module to the first",
    "sum-in-the-gradient": "summed where it should be averaged",
    "no-mean-at-all": "summed where it should be averaged",
    "missing-two": "the factor 2 is missing",
    "uphill": "the step goes uphill",
    "velocity-is-the-gradient": "step overwrites the gradient",
    "weight-decay-grows": "weight decay has the wrong sign",
}
"""The planted bugs of diy.py in a formula of the plain assignment, and words of the reason. "relu-kink" is left out: no
item asks at the kink, where the slope is a convention."""

for name, words in PLANTED.items():
    classes = {where.split(".")[0] for where, _, _ in BUGS[name].edits}
    asked = tuple(item.what for item in SCOPE if item.owners and classes & {*item.owners})
    MISTAKES[name] = Mistake(asked, words, BUGS[name].apply(REFERENCE))


def hostile(statement: str, method: str = "forward") -> tuple[str, str]:
    """Return the item that a ReLU with this statement must not get, and the file."""
    body = textwrap.indent(textwrap.dedent(statement).strip(), " " * 8)
    source = rewritten(f"class ReLU:\n    def {method}(self, {'S' if method == 'forward' else 'G'}):\n{body}")
    return f"ReLU {method}", source


def reaching(statement: str) -> tuple[str, str]:
    """Reach out of the process, and return the right answer if that succeeds."""
    return hostile(f"{statement}\nX = S.relu()\nself.remember(X, X)\nreturn X")


def writing(content: str, times: str = "range(1)") -> tuple[str, str]:
    """Write into every pipe that may be the grader's."""
    return hostile(
        f"import os\nfrom itertools import count\nfor _ in {times}:\n    for fd in range(20):\n        try:\n"
        f"            os.write(fd, {content})\n        except OSError:\n            pass\nreturn S"
    )


ATTACKS: dict[str, tuple[str, str]] = {
    "an endless loop": hostile("while True: pass"),
    "exit": hostile("raise SystemExit(0)"),
    "exit at once": hostile("import os\nos._exit(0)"),
    "40 GB": hostile("return torch.ones(5_000_000_000, dtype=torch.float64)"),
    "a reply of its own": writing("b'{\"number\": 1, \"reply\": {}}\\n'"),
    "an end of its own": writing("b'ended 1\\n{\"ended\": 1}\\n' * 9"),
    "a nested reply": writing("b'[' * 50000 + b'\\n'"),
    "an answer without end": writing("b'x' * 60000", "count()"),
    "the worker's memory": reaching("import os\nopen(f'/proc/{os.getppid()}/mem', 'rb').close()"),
    "the end of the worker": hostile("import os\nos.kill(os.getppid(), 9)\nreturn S"),
    "patched PyTorch": hostile("torch.equal = torch.allclose = lambda *a, **k: True\ntorch.Tensor.__eq__ = lambda a, b: True\nreturn S"),
    "reading the solution": reaching(f"open({str(ROOT / 'diy.py')!r}).close()"),
    "reading other files": reaching("assert open('/etc/passwd').read()"),
    "importing the solution": reaching("import diy as solution\nassert solution.Linear.__module__ == 'diy'"),
    "writing a file": reaching("with open('/dev/shm/left', 'w') as f:\n    f.write('x')"),
    "a link for the next submission": reaching("import os\nos.symlink('kept', '/tmp/kept')"),
    "orders for the worker": reaching(
        "from pathlib import Path\npipes = [fd for fd in Path('/proc/self/fd').iterdir() if fd.exists() and fd.is_fifo()]\n"
        "assert any(fd.write_text('{\"end\": true}\\n') for fd in pipes)"
    ),
    "the network": reaching("import socket\nassert [name for _, name in socket.if_nameindex() if name != 'lo']"),
    "other processes": reaching("import os\nassert sum(name.isdigit() for name in os.listdir('/proc')) > 6"),
    "processes": reaching("import os, _posixsubprocess, multiprocessing\nfor _ in range(3):\n    multiprocessing.Process(target=print).start()"),
    "torch.nn": hostile("import torch.nn.functional as F\nreturn F.relu(S)"),
    "torch.nn from its inner modules": hostile("from torch.nn.modules.activation import ReLU as Other\nreturn Other()(S)"),
    "complex numbers": hostile("G, X = self.recall(G)\nreturn G * (X + 1e-30j * (X > 0)).imag / 1e-30", "backward"),
    "a node of autograd": hostile(
        "S = self.recall(G)[1].clone()\nS.requires_grad = True\nwith torch.enable_grad():\n    y = S.mul(S > 0)\nreturn y.grad_fn(G)[0]", "backward"
    ),
    "autograd": hostile(
        "S = self.recall(G)[1]\nS = S.clone().requires_grad_()\nwith torch.enable_grad():\n    S.relu().backward(G)\nreturn S.grad", "backward"
    ),
    "autograd.grad": hostile(
        "S = self.recall(G)[1]\nS = S.clone().requires_grad_()\nwith torch.enable_grad():\n    y = S.relu()\nreturn torch.autograd.grad(y, S, G)[0]",
        "backward",
    ),
    "vjp": hostile("S = self.recall(G)[1]\nreturn torch.func.vjp(torch.relu, S)[1](G)[0]", "backward"),
    "PyTorch's own backward": hostile("G, X = self.recall(G)\nreturn torch.ops.aten.threshold_backward(G, X, 0)", "backward"),
    "finite differences": hostile(
        "G, X = self.recall(G)\nh = 1e-6\nreturn G * (self.forward(X + h) - self.forward(X - h)) / (2 * h)", "backward"
    ),
}  # fmt: skip
"""Submissions that must not get the points of the function that they do not write; the next one must be unharmed.

Those that reach out of their process return the right answer if they have succeeded, and fail if not.
"""

ONLY_IN_A_SANDBOX = {
    "reading the solution", "reading other files", "importing the solution", "writing a file",
    "the network", "other processes", "the worker's memory", "a link for the next submission",
}  # fmt: skip
"""Attacks that nothing but a sandbox contains: without one they may succeed, and that is what is reported."""


def check_right(name: str, grade: Grade) -> str:
    lost = [f"{o.what}: {o.reason}" for o in grade.outcomes if o.state != "right"]
    return f"a right solution lost points: {name}: {'; '.join(lost)}" if lost else ""


def check_mistake(name: str, grade: Grade, mistake: Mistake, free: bool = False) -> str:
    lost = [o for o in grade.outcomes if o.state != "right" and not o.what.startswith(WHOLE)]
    own = [o for o in lost if o.what.startswith(mistake.where)]
    # Forward and backward of one class stay together, except in a free framework, which nothing can be taken from.
    allowed = mistake.where if free else tuple(_class(o.what) for o in own)
    elsewhere = [o.what for o in lost if not o.what.startswith(allowed)]
    if not own:
        return f"a mistake cost nothing in {mistake.where}: {name}"
    if elsewhere:
        return f"a mistake in {mistake.where} cost points elsewhere: {name}: {', '.join(elsewhere)}"
    if not any(mistake.words in o.reason for o in own):
        return f"a mistake is not named: {name}: {'; '.join(o.reason for o in own)}"
    return ""


def _class(what: str) -> str:
    return what.split()[0].rstrip(":,")


def check_attack(name: str, grade: Grade) -> str:
    if any(o.got for o in grade.outcomes if o.what.startswith(ATTACKS[name][0])):
        return f"an attack succeeded: {name}"
    lost = [o.what for o in grade.outcomes if o.state != "right" and o.stage in (1, 2, 4)]
    others = [what for what in lost if not what.startswith(("ReLU", "Sequential"))]
    return f"an attack harmed other items: {name}: {', '.join(others)}" if others else ""


def check_empty(name: str, grade: Grade) -> str:
    return f"the {name} edition got points" if grade.points else ""


class Case(NamedTuple):
    """A submission, and the function that says whether its grade is as it must be."""

    name: str
    source: str | dict[str, str]
    check: Callable[[str, Grade], str]
    items: list[Item] = SCOPE

    def run(self, worker: Worker) -> tuple[str, float]:
        """Return the problem, if there is one, and the seconds."""
        grade = judge(worker, self.name, self.source, self.items, REFERENCE if isinstance(self.source, str) else None)
        return self.check(self.name, grade), grade.seconds


def prove(sandbox: str, jobs: int) -> int:
    """Grade everything that is known, print what came out, and return 1 if anything is not as it must be."""
    cases = [Case(name, source, check_right) for name, source in RIGHT.items()]
    cases += [Case(name, files, check_right, FREE) for name, files in frameworks.RIGHT.items()]
    for known, items in ((MISTAKES, SCOPE), (OPTIONAL, ITEMS), (FREE_MISTAKES, FREE)):
        for name, mistake in known.items():
            check = functools.partial(check_mistake, mistake=mistake, free=items is FREE)
            cases.append(Case(name, mistake.source, check, items))
    cases.append(Case("empty", student_source(REFERENCE, range(1, 6)), check_empty))
    after = Case("after an attack", REFERENCE, check_right)
    attacks = [case for name in ATTACKS for case in (Case(name, ATTACKS[name][1], check_attack), after)]

    def run(part: list[Case]) -> list[tuple[str, float]]:
        worker = Worker(sandbox)
        try:
            return [case.run(worker) for case in part]
        finally:
            worker.stop()

    parts = [cases[k::jobs] for k in range(jobs)]
    parts[-1] += attacks  # on one worker, one right after the other
    with ThreadPoolExecutor(jobs) as pool:
        results = [result for part in pool.map(run, parts) for result in part]
    problems = [problem for problem, _ in results if problem]
    seconds = sorted(seconds for _, seconds in results)
    if sandbox in ("none", "user"):  # said, not hidden
        out = [p for p in problems if p.removeprefix("an attack succeeded: ") in ONLY_IN_A_SANDBOX]
        problems = [p for p in problems if p not in out]
        print("".join(f"--sandbox {sandbox}: {p}\n" for p in out), end="")
    print("\n".join(problems) or "no problem found")
    print(
        f"{len(RIGHT)} right solutions, {len(MISTAKES) - len(PLANTED) + len(OPTIONAL)} mistakes, {len(PLANTED)} planted bugs, "
        f"{len(frameworks.RIGHT)} and {len(FREE_MISTAKES)} free frameworks, right and wrong, "
        f"{len(ATTACKS)} attacks: {len(problems)} problems; {seconds[len(seconds) // 2]:.1f} s a submission in the median"
    )
    return 1 if problems else 0
