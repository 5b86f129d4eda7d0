"""The proof of the grader: known solutions, mistakes and attacks, and what each must get.

python -m classroom.grade --prove
"""

import ast
import functools
import textwrap
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from bugs import BUGS
from classroom import frameworks
from classroom.edition import student_source
from classroom.free import FREE
from classroom.items import ITEMS
from classroom.judge import Grade, Worker, judge
from classroom.stages import owners, stage_of

ROOT = Path(__file__).resolve().parent.parent
REFERENCE = (ROOT / "diy.py").read_text(encoding="utf-8")
SCOPE = [item for item in ITEMS if item.stage <= 5]


parsed = functools.cache(ast.parse)


def rewritten(functions: dict[str, str], before: str = "", source: str = REFERENCE) -> str:
    """Return the reference with some functions written anew, "Linear.forward" -> its text; `before` precedes Linear."""
    tree, lines = parsed(source), source.splitlines(keepends=True)
    edits = []
    for name, text in functions.items():
        *owner, function = name.split(".")
        body = next(n.body for n in tree.body if getattr(n, "name", None) == owner[0]) if owner else tree.body
        node = next(n for n in body if isinstance(n, ast.FunctionDef) and n.name == function)
        new = textwrap.indent(textwrap.dedent(text).strip("\n"), "    " * len(owner)) + "\n"
        first = min([node.lineno, *(d.lineno for d in node.decorator_list)])
        edits.append((first, node.end_lineno, new))
    if before:
        place = next(n.lineno for n in tree.body if getattr(n, "name", None) == "Linear")
        edits.append((place, place - 1, textwrap.dedent(before).strip("\n") + "\n\n\n"))
    for first, last, new in sorted(edits, reverse=True):
        lines[first - 1 : last] = [new]
    return "".join(lines)


def plain(source: str = REFERENCE) -> str:
    """Return the reference without docstrings and comments, and with other names for what functions compute."""
    tree = ast.parse(source)

    class Other(ast.NodeTransformer):
        def visit_FunctionDef(self, node):
            if node.body and isinstance(node.body[0], ast.Expr) and isinstance(node.body[0].value, ast.Constant):
                node.body = node.body[1:] or [ast.Pass()]
            own = {n.id for n in ast.walk(node) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}
            outer = {name for n in ast.walk(node) if isinstance(n, (ast.Global, ast.Nonlocal)) for name in n.names}
            inner = any(
                isinstance(n, (ast.FunctionDef, ast.Lambda, ast.ClassDef)) for n in ast.walk(node) if n is not node
            )
            names = (
                {} if inner or node.args.args[:0] else {name: f"my_{name}" for name in own - outer - _arguments(node)}
            )
            for n in ast.walk(node):
                if isinstance(n, ast.Name) and n.id in names:
                    n.id = names[n.id]
            return node

    return ast.unparse(ast.fix_missing_locations(Other().visit(tree)))


def _arguments(node: ast.FunctionDef) -> set[str]:
    arguments = node.args
    every = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs, arguments.vararg, arguments.kwarg]
    return {a.arg for a in every if a}


LOOPS = (
    """
def forward(self, X):
    rows = []
    for x in X:
        s = self.weight @ x
        rows.append(s if self.bias is None else s + self.bias)
    S = torch.stack(rows)
    self.remember(S, X)
    return S
""",
    """
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
""",
)


def linear(forward: str, backward: str) -> str:
    """A Linear of two expressions: of X, W and b; and the three gradients of G, X and W."""
    return rewritten(
        {
            "Linear.forward": f"""
                def forward(self, X):
                    W, b = self.weight, self.bias if self.bias is not None else torch.zeros(self.out_features, dtype=X.dtype)
                    S = {forward}
                    self.remember(S, X)
                    return S
            """,
            "Linear.backward": f"""
                def backward(self, G):
                    G, X = self.recall(G)
                    W = self.weight
                    dW, db, dX = {backward}
                    self.accumulate(W, dW)
                    if self.bias is not None:
                        self.accumulate(self.bias, db)
                    return dX
            """,
        }
    )


def activation(name: str, forward: str, backward: str) -> str:
    """An activation of two expressions: of S; and of G, S and X, its input and its output."""
    return rewritten(
        {
            f"{name}.forward": f"""
                def forward(self, S):
                    X = {forward}
                    self.remember(X, S, X)
                    return X
            """,
            f"{name}.backward": f"""
                def backward(self, G):
                    G, S, X = self.recall(G)
                    return {backward}
            """,
        }
    )


def mse(value: str, gradient: str) -> str:
    return rewritten(
        {
            "MSELoss.forward": f"""
                def forward(self, P, T):
                    D = P - T
                    loss = {value}
                    self.remember(loss, D)
                    return loss
            """,
            "MSELoss.backward": f"""
                def backward(self):
                    (D,) = self.recall()
                    return {gradient}
            """,
        }
    )


def dropout(forward: str, backward: str = "G * m") -> str:
    return rewritten(
        {
            "Dropout.forward": f"""
                def forward(self, X):
                    p = self.p
                    if self.training:
                        m = {forward}
                    else:
                        m = torch.ones_like(X)
                    output = X * m
                    self.remember(output, m)
                    return output
            """,
            "Dropout.backward": f"""
                def backward(self, G):
                    G, m = self.recall(G)
                    p = self.p
                    return {backward}
            """,
        }
    )


OWN = {
    "Linear.forward": """
        def forward(self, X):
            self.x = X.clone()
            out = X.matmul(self.weight.t())
            return out + self.bias if self.bias is not None else out
    """,
    "Linear.backward": """
        def backward(self, G):
            self.accumulate(self.weight, G.t().mm(self.x))
            if self.bias is not None:
                self.accumulate(self.bias, G.sum(dim=0))
            return G.mm(self.weight)
    """,
    "ReLU.forward": """
        def forward(self, S):
            self.positive = S > 0
            return S * self.positive
    """,
    "ReLU.backward": """
        def backward(self, G):
            return G * self.positive
    """,
    "Tanh.forward": """
        def forward(self, S):
            self.out = torch.tanh(S)
            return self.out.clone()
    """,
    "Tanh.backward": """
        def backward(self, G):
            return G * (1 - self.out ** 2)
    """,
    "MSELoss.forward": """
        def forward(self, P, T):
            self.difference = P - T
            total = (self.difference ** 2).sum()
            return total / P.numel() if self.reduction == "mean" else total
    """,
    "MSELoss.backward": """
        def backward(self):
            g = 2 * self.difference
            return g / g.numel() if self.reduction == "mean" else g
    """,
}

NUMPY = {
    "Linear.forward": """
        def forward(self, X):
            S = np.asarray(X) @ np.asarray(self.weight.data).T
            if self.bias is not None:
                S = S + np.asarray(self.bias.data)
            S = torch.from_numpy(S)
            self.remember(S, X)
            return S
    """,
    "Linear.backward": """
        def backward(self, G):
            G, X = self.recall(G)
            g, x, w = (np.asarray(t.data) for t in (G, X, self.weight))
            self.accumulate(self.weight, torch.from_numpy(g.T @ x))
            if self.bias is not None:
                self.accumulate(self.bias, torch.from_numpy(g.sum(0)))
            return torch.from_numpy(g @ w)
    """,
}

SGD_OWN = {
    "Optimizer.step": """
        def step(self, closure=None):
            for w in self.parameters:
                if w.grad is not None:
                    g = w.grad + self.weight_decay * w
                    w.data.sub_(self.lr * self.direction(g, w))
    """,
    "momentum_direction": """
        def momentum_direction(g, state, momentum, dampening, nesterov):
            v = state.get("momentum_buffer")
            v = g.clone() if v is None else momentum * v + (1 - dampening) * g
            state["momentum_buffer"] = v
            return g + momentum * v if nesterov else v
    """,
}

RIGHT: dict[str, str] = {
    "the reference": REFERENCE,
    "without docstrings, other names": plain(),
    "loops": rewritten(dict(zip(("Linear.forward", "Linear.backward"), LOOPS))),
    "einsum": linear(
        "torch.einsum('ni,ki->nk', X, W) + b",
        "torch.einsum('nk,ni->ki', G, X), torch.einsum('nk->k', G), torch.einsum('nk,ki->ni', G, W)",
    ),
    "NumPy inside": rewritten(NUMPY, "import numpy as np"),
    "columns": linear("(W @ X.T + b.view(-1, 1)).T", "G.T @ X, G.T.sum(1), (W.T @ G.T).T"),
    "outer products": linear(
        "torch.addmm(b, X, W.T)", "(G.unsqueeze(2) * X.unsqueeze(1)).sum(0), G.sum(0), G.matmul(W)"
    ),
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
    "Sequential by calls": rewritten(
        {
            "Sequential.forward": """
                def forward(self, X):
                    for index in range(len(self.layers)):
                        X = self.layers[index](X)
                    return X
            """,
            "Sequential.backward": """
                def backward(self, G):
                    for layer in self.layers[::-1]:
                        G = layer.backward(G)
                    return G
            """,
        }
    ),
    "an optimizer of one's own": rewritten(SGD_OWN),
    "gradients added in place": rewritten(
        {
            "Module.accumulate": """
                @staticmethod
                def accumulate(parameter, gradient):
                    if parameter.grad is None:
                        parameter.grad = torch.zeros_like(parameter)
                    parameter.grad += gradient
            """
        }
    ),
    "a helper and a base class": rewritten(
        {
            "ReLU.forward": """
                def forward(self, S):
                    return both(self, S, S > 0)
            """,
            "ReLU.backward": """
                def backward(self, G):
                    G, positive = self.recall(G)
                    return G * positive
            """,
        },
        """
        def both(module, S, positive):
            X = S * positive
            module.remember(X, positive)
            return X
        """,
    ),
    "Xavier from randn": rewritten(
        {
            "Linear.reset_parameters": """
                def reset_parameters(self):
                    std = (2 / (self.in_features + self.out_features)) ** 0.5
                    self.weight.copy_(std * torch.randn(self.out_features, self.in_features))
                    if self.bias is not None:
                        self.bias.zero_().add_(0.01)
            """
        }
    ),
    "dropout from rand": dropout("(torch.rand(X.shape) >= p).to(X.dtype) / (1 - p)"),
    "dropout from bernoulli": dropout("torch.bernoulli(torch.full_like(X, 1 - p)).div(1 - p)"),
}


CLOSURES = {
    "ReLU.forward": """
        def forward(self, S):
            stack, positive = [], S > 0
            stack.append(lambda G: G * positive)
            self.back = stack
            return S * positive
    """,
    "ReLU.backward": """
        def backward(self, G):
            return self.back.pop()(G)
    """,
}

FLOAT32 = {
    "Tanh.forward": """
        def forward(self, S):
            self.out = S.float().tanh()
            return self.out.to(S.dtype)
    """,
    "Tanh.backward": """
        def backward(self, G):
            return (G.float() * (1 - self.out**2)).to(G.dtype)
    """,
}


def below(text: str, source: str) -> str:
    """Return a file with `text` below its docstring."""
    lines = source.splitlines(keepends=True)
    lines.insert(parsed(source).body[0].end_lineno, f"\n{text}\n")
    return "".join(lines)


ELSEWHERE = "\n\nTanh.forward = tanh_forward\nTanh.backward = tanh_backward\n"
FUNCTIONS = """
def tanh_forward(self, S):
    self.out = S.tanh()
    return self.out.clone()


def tanh_backward(self, G):
    return G * (1 - self.out**2)
"""

RIGHT |= {
    "closures in a list": rewritten(CLOSURES),
    "float32 in Tanh": rewritten(FLOAT32),
    "annotations from the future": below("from __future__ import annotations", rewritten(OWN)),
    "float64 by default": below("import torch\ntorch.set_default_dtype(torch.float64)", rewritten(OWN)),
    "torch.nn imported, not used": below(
        "from torch.nn import functional as F, Parameter\nfrom torch import nn, optim", rewritten(OWN)
    ),
    "methods from elsewhere": rewritten({}, FUNCTIONS) + ELSEWHERE,
    "NumPy, if there is any": rewritten(NUMPY, "try:\n    import numpy as np\nexcept ImportError:\n    np = None"),
    "figures, though nobody sees them": below(
        "import matplotlib.pyplot as plt\nplt.style.use('ggplot')\nfigure, axes = plt.subplots()", rewritten(OWN)
    ),
    "a training below, and figures": REFERENCE
    + "\n\nif __name__ == '__main__':\n    import matplotlib.pyplot as plt\n    open('log.txt', 'w')\n",
}


@dataclass(frozen=True)
class Mistake:
    """A submission with one mistake, and the stages, in one of which at least it must cost points."""

    source: str
    stage: int
    more: tuple[int, ...] = ()


def replaced(old: str, new: str) -> str:
    assert REFERENCE.count(old) == 1, old
    return REFERENCE.replace(old, new)


MISTAKES: dict[str, Mistake] = {
    "mean reported, gradient divided by N": Mistake(mse("D.square().mean()", "2 * D / len(D)"), 2),
    "mean reported, gradient not divided": Mistake(mse("D.square().mean()", "2 * D"), 2),
    "no factor 2": Mistake(mse("self.reduce(D.square())", "D * self.share(D)"), 2),
    "sum/N reported": Mistake(mse("D.square().sum() / len(D)", "D * 2 * self.share(D)"), 2),
    "weights' gradient averaged": Mistake(linear("X @ W.T + b", "G.T @ X / len(X), G.sum(0), G @ W"), 3),
    "bias' gradient averaged": Mistake(linear("X @ W.T + b", "G.T @ X, G.mean(0), G @ W"), 3),
    "bias' gradient one number": Mistake(linear("X @ W.T + b", "G.T @ X, G.mean(), G @ W"), 3),
    "bias never added": Mistake(linear("X @ W.T", "G.T @ X, G.sum(0), G @ W"), 1),
    "weights transposed": Mistake(
        linear("X @ W.T + b", "G.T @ X, G.sum(0), G @ (W.T if W.shape[0] == W.shape[1] else W)"), 3
    ),
    "input gradient loses the batch": Mistake(linear("X @ W.T + b", "G.T @ X, G.sum(0), (G @ W).mean(0)"), 3),
    "gradients replaced": Mistake(replaced("gradient if before is None else before + gradient", "gradient"), 3),
    "ReLU's slope is 1": Mistake(activation("ReLU", "S.relu()", "G"), 3),
    "ReLU's slope is its input": Mistake(activation("ReLU", "S.relu()", "G * S.relu()"), 3),
    "ReLU ignores what comes from above": Mistake(activation("ReLU", "S.relu()", "(S > 0).to(G.dtype)"), 3),
    "Tanh taken twice": Mistake(activation("Tanh", "S.tanh()", "G * (1 - X.tanh() ** 2)"), 3),
    "Tanh's slope at the input": Mistake(activation("Tanh", "S.tanh()", "G * (1 - S ** 2)"), 3),
    "Tanh by precedence": Mistake(activation("Tanh", "S.tanh()", "G * 1 - X ** 2"), 3),
    "Tanh ignores what comes from above": Mistake(activation("Tanh", "S.tanh()", "1 - X ** 2"), 3),
    "ReLU overwrites its input": Mistake(activation("ReLU", "S.clamp_(min=0)", "G * (X > 0)"), 1),
    "Tanh overwrites its input": Mistake(activation("Tanh", "S.tanh_()", "G * (1 - X * X)"), 1),
    "ReLU overwrites the gradient": Mistake(
        rewritten(
            {"ReLU.backward": "def backward(self, G):\n    (H, X) = self.recall(G)\n    G[X <= 0] = 0\n    return G"}
        ),
        3,
    ),
    "Tanh overflows": Mistake(
        activation("Tanh", "(S.exp() - (-S).exp()) / (S.exp() + (-S).exp())", "G * (1 - X * X)"), 1
    ),
    "Sequential skips the first layer": Mistake(
        rewritten(
            {
                "Sequential.forward": "def forward(self, X):\n    for layer in self.layers[1:]:\n        X = layer.forward(X)\n    return X"
            }
        ),
        1,
    ),
    "Sequential goes back in the same order": Mistake(
        replaced("for layer in reversed(self.layers):", "for layer in self.layers:"), 3
    ),
    "SGD goes uphill": Mistake(
        replaced(
            "torch._foreach_add_(parameters, steps, alpha=-lr)", "torch._foreach_add_(parameters, steps, alpha=lr)"
        ),
        4,
    ),
    "momentum in the gradient's memory": Mistake(replaced("v: Tensor = g.clone()", "v: Tensor = g"), 4),
    "momentum forgets the factor": Mistake(replaced(".mul_(momentum).add_(g", ".add_(g"), 4),
    "dropout without the factor": Mistake(dropout("(torch.rand(X.shape) >= p).to(X.dtype)"), 5),
    "dropout keeps p": Mistake(dropout("(torch.rand(X.shape) < p).to(X.dtype) / p"), 5),
    "dropout draws another mask for backward": Mistake(
        dropout("(torch.rand(X.shape) >= p).to(X.dtype) / (1 - p)", "G * (torch.rand(G.shape) >= p) / (1 - p)"),
        5,
    ),
    "dropout in evaluation, too": Mistake(
        replaced("m = self.mask(X) if self.training else 1.0", "m = self.mask(X)"), 5
    ),
    "weights from a uniform distribution": Mistake(
        replaced(
            "self.weight.normal_(0, math.sqrt(2 / (self.in_features + self.out_features)))",
            "self.weight.uniform_(-1, 1).mul_(math.sqrt(6 / (self.in_features + self.out_features)))",
        ),
        1,
    ),
}


def only_once(name: str, first: str, source: str = REFERENCE) -> str:
    """Return a file in which a class keeps what its backward needs only once, as `first` says."""
    back = {
        "ReLU": "G * (self.kept > 0)",
        "Tanh": "G * (1 - self.kept**2)",
        "MSELoss": "2 * self.kept * self.share(self.kept)",
    }
    loss = name == "MSELoss"
    arguments, value = ("P, T", "self.reduce((P - T) ** 2)") if loss else ("S", f"S.{name.lower()}()")
    return rewritten(
        {
            f"{name}.forward": f"""
                def forward(self, {arguments}):
                    if not hasattr(self, "kept"):
                        self.kept = {first}
                    return {value}
            """,
            f"{name}.backward": f"""
                def backward(self{"" if loss else ", G"}):
                    return {back[name]}
            """,
        },
        source=source,
    )


BAD_SUM = "gradient if before is None else before + gradient", "gradient"

MISTAKES |= {
    "ReLU keeps the first input": Mistake(only_once("ReLU", "S"), 3),
    "Tanh keeps the first output": Mistake(only_once("Tanh", "S.tanh()"), 3),
    "the loss keeps the first difference": Mistake(only_once("MSELoss", "P - T"), 2),
    "the loss overwrites the target": Mistake(mse("self.reduce(T.sub_(P).square())", "2 * D * self.share(D)"), 2),
    "Linear changes its weights": Mistake(
        linear("X @ W.T + b + 0 * self.weight.mul_(0.99).sum()", "G.T @ X, G.sum(0), G @ W"), 1, (3,)
    ),
    "no bias cannot be initialized": Mistake(
        replaced(
            "        if self.bias is not None:\n            self.bias.fill_(0.01)", "        self.bias.fill_(0.01)"
        ),
        1,
    ),
    "all outputs start alike": Mistake(
        replaced(
            "self.weight.normal_(0, math.sqrt(2 / (self.in_features + self.out_features)))",
            "self.weight.copy_(torch.randn(self.in_features) * math.sqrt(2 / (self.in_features + self.out_features)))",
        ),
        1,
    ),
    "weight decay beside the velocity": Mistake(
        replaced(
            "gradients = [g.add(w, alpha=self.weight_decay) for g, w in zip(gradients, parameters)]", "pass"
        ).replace(
            "            if isinstance(lr := self.lr, Tensor):",
            "            steps = [d + self.weight_decay * w for d, w in zip(steps, parameters)]\n"
            "            if isinstance(lr := self.lr, Tensor):",
        ),
        4,
    ),
    "the first gradient is dampened": Mistake(replaced("v: Tensor = g.clone()", "v: Tensor = (1 - dampening) * g"), 4),
    "dropout drops the same in every call": Mistake(
        rewritten(
            {
                "Dropout.mask": """
                    def mask(self, X):
                        if not hasattr(self, "drawn"):
                            self.drawn = (torch.rand(X.shape) >= self.p).to(X.dtype) / (1 - self.p)
                        return self.drawn
                """
            }
        ),
        5,
    ),
    "dropout's mask outlives training": Mistake(
        rewritten(
            {
                "Dropout.forward": """
                    def forward(self, X):
                        if not self.training:
                            return X.clone()
                        self.m = self.mask(X)
                        return X * self.m
                """,
                "Dropout.backward": "def backward(self, G):\n    return G * getattr(self, 'm', 1.0)",
            }
        ),
        5,
    ),
    "a batch of one loses its dimension": Mistake(
        linear("(X @ W.T + b).squeeze()", "G.T @ X, G.sum(0), G @ W"), 1, (3,)
    ),
    "backward needs a bias": Mistake(
        replaced(
            "        if self.bias is not None:\n            self.accumulate(self.bias, rows.sum(0))",
            "        self.accumulate(self.bias, rows.sum(0))",
        ),
        3,
    ),
    "Linear keeps its first weights": Mistake(
        rewritten(
            {
                "Linear.forward": """
                    def forward(self, X):
                        self.first = getattr(self, "first", self.weight.clone())
                        S = X @ self.first.T
                        S = S if self.bias is None else S + self.bias
                        self.remember(S, X)
                        return S
                """
            }
        ),
        1,
        (3,),
    ),
    "Linear reads its input in the order of memory": Mistake(
        linear("X.as_strided(X.shape, (X.shape[1], 1)) @ W.T + b", "G.T @ X, G.sum(0), G @ W"), 1
    ),
    "ReLU goes back for matrices only": Mistake(
        activation("ReLU", "S.relu()", "G * (S > 0) if S.dim() == 2 else G"), 3
    ),
    "one velocity for each shape": Mistake(
        replaced("self.state.setdefault(w, {}), self.momentum", "self.state.setdefault(w.shape, {}), self.momentum"), 4
    ),
    "dropout overwrites its input": Mistake(
        dropout("(torch.rand(X.shape) >= p).to(X.dtype) / (1 - p)", "G * m").replace(
            "output = X * m", "output = X.mul_(m)"
        ),
        5,
    ),
    "dropout in pairs of samples": Mistake(
        dropout("(torch.rand((len(X) + 1) // 2, *X.shape[1:]) >= p).to(X.dtype).repeat(2, 1)[: len(X)] / (1 - p)"), 5
    ),
    # The same mistake in files of other styles: it must not cost points in their other classes.
    "gradients replaced, NumPy if there is any": Mistake(RIGHT["NumPy, if there is any"].replace(*BAD_SUM), 3),
    "gradients replaced, the future": Mistake(RIGHT["annotations from the future"].replace(*BAD_SUM), 3),
    "gradients replaced, closures": Mistake(RIGHT["closures in a list"].replace(*BAD_SUM), 3),
    "gradients replaced, from elsewhere": Mistake(RIGHT["methods from elsewhere"].replace(*BAD_SUM), 3),
}


OPTIONAL: dict[str, tuple[str, int, str]] = {
    "softmax over the samples": (replaced("lowered.exp().sum(-1, keepdim=True)", "lowered.exp().sum(0, keepdim=True)"), 6, "the loss"),
    "no maximum subtracted": (replaced("lowered = S - S.amax(-1, keepdim=True)", "lowered = S"), 6, "infinite or NaN"),
    "Adam without the bias correction": (replaced(".add_(self.eps).mul_(1 - beta1**t)", ".add_(self.eps)"), 6, "the parameter"),
    "Adam divides by zero": (replaced(".add_(self.eps).mul_(1 - beta1**t)", ".mul_(1 - beta1**t)"), 6, "NaN"),
    "one count of steps for all parameters": (
        replaced('t = state.get("step", 0) + 1', 't = self.count = getattr(self, "count", 0) + 1'), 6, "the parameter"
    ),
    "He counts channels only": (
        replaced(' * math.prod(tensor.shape[2:])', ""), 7, "with 180 inputs"
    ),
    "pooling sees zeros beyond the border": (replaced("self.frame(X, -math.inf)", "self.frame(X, 0.0)"), 7, "the output"),
    "pooling forgets that windows overlap": (
        replaced("targets[:, i, j] += _where(here, G)", "targets[:, i, j] = torch.where(here > 0, G, targets[:, i, j])"), 7, "wrong in"
    ),
    "batch norm uses the batch in evaluation": (
        replaced("centred, variance = X - _wide(self.running_mean)[:, None, None], _wide(self.running_var)",
                 "variance, mean = torch.var_mean(X, (0, 2, 3), correction=0)\n            centred = X - mean[:, None, None]"),
        7, "those of the batch",
    ),
    "batch norm keeps no mean": (
        replaced("self.running_mean.lerp_(mean.to(W.dtype), self.momentum)",
                 "self.running_mean.copy_(self.momentum * mean.to(W.dtype))"), 7, "running_mean",
    ),
    "batch norm goes back as in training": (replaced("1 / max(1, M) if self.training else 0)", "1 / max(1, M))"), 7, "evaluation mode"),
}  # fmt: skip
"""Mistakes in the optional stages: the file, the stage, and words of the reason."""

NAMED: dict[str, str] = {
    "mean reported, gradient divided by N": "that is M/N",
    "mean reported, gradient not divided": "summed where it should be averaged",
    "no factor 2": "the factor 2 is missing",
    "sum/N reported": "divided by N instead of M",
    "weights' gradient averaged": "averaged where it should be summed",
    "bias' gradient averaged": "averaged where it should be summed",
    "bias' gradient one number": "one number for all",
    "bias never added": "the bias is not added",
    "weights transposed": "the weights are transposed",
    "input gradient loses the batch": "its dimension 0 was averaged",
    "gradients replaced": "only the last one counts",
    "ReLU's slope is 1": "the gradient from above, unchanged",
    "ReLU's slope is its input": "the output is used in place of the slope",
    "ReLU ignores what comes from above": "the gradient from above is not used",
    "Tanh taken twice": "as if Tanh had been applied twice",
    "Tanh's slope at the input": "the slope is taken at the input",
    "Tanh by precedence": "brackets are missing",
    "Tanh ignores what comes from above": "the gradient from above is not used",
    "ReLU overwrites its input": "forward overwrites its input",
    "Tanh overwrites its input": "forward overwrites its input",
    "ReLU overwrites the gradient": "backward overwrites the gradient from above",
    "Tanh overflows": "an overflow",
    "Sequential skips the first layer": "the first module is left out",
    "Sequential goes back in the same order": "must go from the last module to the first",
    "SGD goes uphill": "the step goes uphill",
    "momentum in the gradient's memory": "step overwrites the gradient",
    "momentum forgets the factor": "the velocity is not multiplied by the momentum",
    "dropout without the factor": "it is not divided by 1 − p",
    "dropout keeps p": "p is the probability of zeroing, not of keeping",
    "dropout draws another mask for backward": "other components",
    "dropout in evaluation, too": "zeroed in evaluation mode",
    "weights from a uniform distribution": "not normally distributed",
    "ReLU keeps the first input": "what an earlier forward kept",
    "Tanh keeps the first output": "what an earlier forward kept",
    "the loss keeps the first difference": "what an earlier forward kept",
    "the loss overwrites the target": "overwrites the target",
    "Linear changes its weights": "changes the parameter weight",
    "no bias cannot be initialized": "no attribute 'fill_'",
    "all outputs start alike": "start with the same weights",
    "weight decay beside the velocity": "must enter the velocity",
    "the first gradient is dampened": "should count whole",
    "dropout drops the same in every call": "every call drops the same",
    "dropout's mask outlives training": "∂ℓ/∂(input)",
    "a batch of one loses its dimension": "a dimension of size 1",
    "backward needs a bias": "with bias=False",
    "Linear keeps its first weights": "those of an earlier call",
    "Linear reads its input in the order of memory": "laid out in memory",
    "ReLU goes back for matrices only": "the gradient from above, unchanged",
    "one velocity for each shape": "the parameter after 1 step",
    "dropout overwrites its input": "forward overwrites its input",
    "dropout in pairs of samples": "several samples get the same mask",
    "gradients replaced, NumPy if there is any": "only the last one counts",
    "gradients replaced, the future": "only the last one counts",
    "gradients replaced, closures": "only the last one counts",
    "gradients replaced, from elsewhere": "only the last one counts",
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
"""Words that must stand in the reason for each mistake."""


@functools.cache
def planted() -> dict[str, Mistake]:
    """Return the planted bugs of diy.py that lie in a formula of the plain assignment.

    "relu-kink" is left out: no item asks at the kink, where the slope is a convention.
    """
    found = {}
    for name, bug in BUGS.items():
        if not {edit[0] for edit in bug.edits} & set(owners(REFERENCE)):
            continue
        classes = {edit[0].split(".")[0] for edit in bug.edits}
        formulas = [
            f for owner, (_, numbers) in owners(REFERENCE).items() if owner.split(".")[0] in classes for f in numbers
        ]
        stages = sorted({stage_of(formula) for formula in formulas})
        if bug.file == "diy.py" and stages and stages[-1] <= 5 and name != "relu-kink":
            found[name] = Mistake(bug.apply(REFERENCE), stages[0], more=tuple(stages[1:]))
    return found


def hostile(statement: str, where: str = "ReLU.forward") -> str:
    name = where.split(".")[1]
    argument = "S" if name == "forward" else "G"
    return rewritten(
        {where: f"def {name}(self, {argument}):\n" + textwrap.indent(textwrap.dedent(statement).strip(), "    ")}
    )


def reaching(statement: str) -> str:
    """Reach out of the process, and return the right answer if that succeeds."""
    return hostile(f"{statement}\nX = S.relu()\nself.remember(X, X)\nreturn X")


ATTACKS: dict[str, str] = {
    "an endless loop": hostile("while True: pass"),
    "exit": hostile("raise SystemExit(0)"),
    "exit at once": hostile("import os\nos._exit(0)"),
    "40 GB": hostile("return torch.ones(5_000_000_000, dtype=torch.float64)"),
    "a reply of its own": hostile(
        "import os\nfor fd in range(3, 20):\n    try:\n        os.write(fd, b'{\"number\": 1, \"reply\": {}}\\n')\n"
        "    except OSError:\n        pass\nreturn S"
    ),
    "an end of its own": hostile(
        "import os\nfor fd in range(20):\n    try:\n        os.write(fd, b'ended 1\\n{\"ended\": 1}\\n' * 9)\n"
        "    except OSError:\n        pass\nreturn S"
    ),
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
    "torch.nn from its inner modules": hostile("from torch.nn.modules.activation import ReLU as Other\nX = Other()(S)\nself.remember(X, X)\nreturn X"),
    "a nested reply": hostile("import os\nfor fd in range(3, 20):\n    try:\n        os.write(fd, b'[' * 50000 + b'\\n')\n    except OSError:\n        pass\nreturn S"),
    "an answer without end": hostile("import os\nwhile True:\n    for fd in range(3, 20):\n        try:\n            os.write(fd, b'x' * 60000)\n        except OSError:\n            pass"),
    "complex numbers, backward": hostile("G, X = self.recall(G)\nreturn G * (X + 1e-30j * (X > 0)).imag / 1e-30", "ReLU.backward"),
    "a node of autograd, backward": hostile(
        "S = self.recall(G)[1].clone()\nS.requires_grad = True\nwith torch.enable_grad():\n    y = S.mul(S > 0)\nreturn y.grad_fn(G)[0]", "ReLU.backward"
    ),
    "autograd": hostile(
        "S = self.recall(G)[1]\nS = S.clone().requires_grad_()\nwith torch.enable_grad():\n    S.relu().backward(G)\nreturn S.grad", "ReLU.backward"
    ),
    "autograd.grad": hostile(
        "S = self.recall(G)[1]\nS = S.clone().requires_grad_()\nwith torch.enable_grad():\n    y = S.relu()\nreturn torch.autograd.grad(y, S, G)[0]",
        "ReLU.backward",
    ),
    "vjp": hostile("S = self.recall(G)[1]\nreturn torch.func.vjp(torch.relu, S)[1](G)[0]", "ReLU.backward"),
    "torch.nn": hostile("import torch.nn.functional as F\nX = F.relu(S)\nself.remember(X, X)\nreturn X"),
    "PyTorch's own backward": hostile(
        "G, X = self.recall(G)\nreturn torch.ops.aten.threshold_backward(G, X, 0)", "ReLU.backward"
    ),
    "finite differences": hostile(
        "G, X = self.recall(G)\nh = 1e-6\nreturn G * (self.forward(X + h) - self.forward(X - h)) / (2 * h)", "ReLU.backward"
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


def check_mistake(name: str, mistake: Mistake, grade: Grade) -> str:
    # Forward and backward of one class stay together, and the network that learns needs everything.
    failed = [o for o in grade.outcomes if o.state != "right"]
    lost = [o for o in failed if o.stage in (mistake.stage, *mistake.more)]
    owners_hit = {_owner(o.what) for o in lost} | {_owner(SCOPE[-1].what)}
    elsewhere = [o.what for o in failed if _owner(o.what) not in owners_hit]
    if not lost:
        return f"a mistake cost nothing in stage {mistake.stage}: {name}"
    if elsewhere:
        return f"a mistake of stage {mistake.stage} cost points elsewhere: {name}: {', '.join(elsewhere)}"
    if not any(NAMED[name] in o.reason for o in lost):
        return f"a mistake is not named: {name}: {'; '.join(o.reason for o in lost)}"
    return ""


def check_optional(name: str, grade: Grade) -> str:
    _, stage, words = OPTIONAL[name]
    lost = [o for o in grade.outcomes if o.state != "right"]
    if not any(words in o.reason for o in lost) or len({_owner(o.what) for o in lost}) != 1 or lost[0].stage != stage:
        return f"a mistake is not named, or costs points elsewhere: {name}: {[(o.what, o.reason) for o in lost]}"
    return ""


def check_free(name: str, grade: Grade) -> str:
    _, owners_hit, words = frameworks.MISTAKES[name]
    failed = [o for o in grade.outcomes if o.state != "right"]
    lost = [o for o in failed if o.what.startswith(owners_hit)]
    elsewhere = [o.what for o in failed if o not in lost and o.stage > 0]
    if not lost:
        return f"a mistake of a free framework cost nothing: {name}"
    if elsewhere:
        return f"a mistake of a free framework cost points elsewhere: {name}: {', '.join(elsewhere)}"
    if not any(words in o.reason for o in lost):
        return f"a mistake of a free framework is not named: {name}: {'; '.join(o.reason for o in lost)}"
    return ""


def _owner(what: str) -> str:
    return what.split()[0].rstrip(":,")


def check_attack(name: str, grade: Grade) -> str:
    stage = 3 if "backward" in name or name in ("autograd", "autograd.grad", "vjp", "finite differences") else 1
    own = [o for o in grade.outcomes if o.what.startswith("ReLU") and o.stage == stage]
    others = [
        o.what for o in grade.outcomes if o.state != "right" and o.stage in (1, 2, 4) and not o.what.startswith("ReLU")
    ]
    others = [what for what in others if not what.startswith("Sequential")]
    if any(o.got for o in own):
        return f"an attack succeeded: {name}"
    return f"an attack harmed other items: {name}: {', '.join(others)}" if others else ""


def prove(sandbox: str, jobs: int, short: bool = False) -> int:
    """Grade everything that is known, print what came out, and return 1 if anything is not as it must be."""
    cases: list[tuple[str, str, Callable[[Grade], str]]] = []
    for name, source in RIGHT.items():
        cases.append((name, source, lambda grade, name=name: check_right(name, grade)))
    free: list[tuple[str, dict[str, str], Callable[[Grade], str]]] = []
    for name, files in frameworks.RIGHT.items():
        free.append((name, files, lambda grade, name=name: check_right(name, grade)))
    for name, (files, *_) in frameworks.MISTAKES.items():
        free.append((name, files, lambda grade, name=name: check_free(name, grade)))
    for name, mistake in {**MISTAKES, **planted()}.items():
        cases.append((name, mistake.source, lambda grade, name=name, m=mistake: check_mistake(name, m, grade)))
    for name, (source, *_) in OPTIONAL.items():
        cases.append((name, source, lambda grade, name=name: check_optional(name, grade)))
    attacks = [(name, source, lambda grade, name=name: check_attack(name, grade)) for name, source in ATTACKS.items()]
    empty = student_source(REFERENCE, range(1, 6))
    cases.append(("empty", empty, lambda grade: "the empty edition got points" if grade.points else ""))
    after = ("after an attack", REFERENCE, lambda grade: check_right("after an attack", grade))
    for attack in attacks:  # on one worker, one right after the other
        cases += [attack, after]

    def run(part: list) -> list[tuple[str, float]]:
        worker, found = Worker(sandbox), []
        for name, source, check in part:
            own = isinstance(source, str)
            items = (ITEMS if name in OPTIONAL else SCOPE) if own else FREE
            grade = judge(worker, name, source, items, REFERENCE if own else None)
            found.append((check(grade), grade.seconds))
        worker.stop()
        return found

    half = len(cases) - 2 * len(attacks)
    plain = cases[:half] + free
    parts = [plain[k::jobs] for k in range(jobs)]
    parts[-1] = parts[-1] + cases[half:]
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
        f"{len(RIGHT)} right solutions, {len(MISTAKES) + len(OPTIONAL)} mistakes, {len(planted())} planted bugs, "
        f"{len(frameworks.RIGHT)} and {len(frameworks.MISTAKES)} free frameworks, right and wrong, "
        f"{len(ATTACKS)} attacks: {len(problems)} problems; {seconds[len(seconds) // 2]:.1f} s a submission in the median"
    )
    return 1 if problems else 0
