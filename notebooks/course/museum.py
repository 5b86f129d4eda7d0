"""What notebook 6 exhibits: planted bugs, what training with them looks like, and what the checks say about them.

The bugs themselves, and the test of what is said here about the oracles, are in bugs/.
"""

import ast
import difflib
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from html import escape
from types import ModuleType
from typing import NamedTuple

import torch
from torch import Tensor

from bugs import BUGS, ORACLES, Bug, load, load_circle
from bugs.loading import ROOT
from course import BLUE, ORANGE, VERMILION, WIDTH, plt, show
from gradcheck import GradientCheck, check_gradients


@dataclass(frozen=True)
class Exhibit:
    """One planted bug and how it is shown.

    Attributes:
        bug: its name in the catalogue.
        example: given a copy of diy, returns what `check_gradients` is called with.
        dropout, reduction, lr: of the training that shows the symptom.
    """

    bug: str
    example: Callable[[ModuleType], tuple]
    dropout: float | None = None
    reduction: str = "sum"
    lr: float = 0.001


def numbers(*shape: int) -> Tensor:
    """Return the same normally distributed numbers at every call, in float64."""
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(5))


def linear(diy: ModuleType) -> tuple:
    return diy.Linear(3, 3, dtype=torch.float64), numbers(4, 3)


def network(diy: ModuleType) -> tuple:
    layers = diy.Linear(2, 3, dtype=torch.float64), diy.Tanh(), diy.Linear(3, 2, dtype=torch.float64)
    return diy.Sequential(*layers), numbers(4, 2)


def mean_loss(diy: ModuleType) -> tuple:
    return diy.MSELoss(), numbers(5, 2), numbers(6, 2)[1:]


EXHIBITS = dict(
    enumerate(
        [
            Exhibit("gradients-not-zeroed", network),
            Exhibit("forgotten-parameter", linear),
            Exhibit("all-weights-equal", network),
            Exhibit("relu-mask-from-gradient", lambda diy: (diy.ReLU(), numbers(4, 3))),
            Exhibit("shuffled-without-targets", network),
            Exhibit("dropped-transpose", linear),
            Exhibit("dropout-in-eval", lambda diy: (diy.Dropout(0.2).eval(), numbers(4, 3)), dropout=0.2),
            Exhibit("variance-for-std", network),
            Exhibit("overwritten-gradient", linear),
            Exhibit("sum-in-the-gradient", mean_loss, reduction="mean"),
            Exhibit("no-mean-at-all", mean_loss, reduction="mean"),
        ],
        start=1,
    )
)
"""The exhibits, by number: first what nobody overlooks, at the end what nobody notices."""


class Run(NamedTuple):
    """A training: the losses of all epochs, the labels on a grid, and the test error."""

    losses: list[float]
    labels: Tensor
    error: float


def runs(number: int) -> tuple[Run, Run]:
    """Train the right framework and the one of an exhibit, with the same data and settings."""
    item = EXHIBITS[number]
    right, wrong = (_train(bug, item.dropout, item.reduction, item.lr) for bug in (None, item.bug))
    return right, wrong


def exhibit(number: int, description: str) -> None:
    """Show losses and labels of the right framework and of the one with the mistake."""
    figure, (left, *squares) = plt.subplots(1, 3, figsize=(WIDTH, 2.7), width_ratios=[1.25, 1, 1])
    looks = zip(runs(number), squares, (BLUE, VERMILION), ("-", "--"), ("right", "exhibit"))
    for run, axes, color, style, name in looks:
        left.plot(range(1, len(run.losses) + 1), run.losses, style, color=color, label=name)
        axes.contourf(run.labels, levels=[-0.5, 0.5, 1.5], colors=[ORANGE, BLUE], extent=(-1, 1, -1, 1), alpha=0.6)
        axes.add_patch(plt.Circle((0, 0), (2 / torch.pi) ** 0.5, fill=False, linewidth=1.5))
        axes.set(aspect="equal", xticks=[], yticks=[])
        axes.set_title(f"{name}: {100 * run.error:.1f} %", fontsize="medium")
    left.set(xlabel="epoch", ylabel="mean squared error", ylim=(0, None))
    left.legend(frameon=False, fontsize="small")
    show(figure, description)


@cache  # most exhibits stand beside the same right network
def _train(bug: str | None, dropout: float | None, reduction: str, lr: float, epochs: int = 100) -> Run:
    circle = load_circle(load(bug), bug)
    recipe = replace(circle.MODELS["diy-sgd"], reduction=reduction, lr=lr)
    torch.manual_seed(2)
    generator = torch.Generator().manual_seed(2)
    (points, labels), test = circle.disk_data(1000, generator), circle.disk_data(1000, generator)
    model = circle.build_network("diy", dropout=dropout)
    targets = circle.one_hot(labels)
    _, losses = circle.train(model, recipe, circle.Protocol(epochs=epochs), points, targets, generator)
    axis = torch.linspace(-1, 1, 101)
    grid = circle.predict(model, torch.cartesian_prod(axis, axis)).reshape(101, 101).T
    return Run(losses, grid, circle.error_rate(model, *test))


def check_exhibit(number: int) -> GradientCheck:
    """Return what `check_gradients` finds out about the framework of an exhibit."""
    item = EXHIBITS[number]
    return check_gradients(*item.example(load(item.bug)), verbose=False)


class Reveal:
    """The label of an exhibit, folded: the mistake, its patch, and what the checks say.

    Args:
        number: of the exhibit.
    """

    def __init__(self, number: int):
        self.number, self.bug = number, BUGS[EXHIBITS[number].bug]
        self.verdicts = [
            f"{v.name:<10} {v.shape!s:<8} {'right' if v.right else 'WRONG'}{': ' if v.reason else ''}{v.reason}"
            for v in check_exhibit(number).verdicts
        ]

    def __repr__(self) -> str:
        return "\n".join([self.bug.title, *difference(self.bug), *self.verdicts, *_oracles(self.bug)])

    def _repr_html_(self) -> str:
        story = re.sub("`(.+?)`", r"<code>\1</code>", escape(self.bug.story))
        colors = {"-": "background: #fde8df", "+": "background: #dff3ea"}
        heading = '<p style="margin: 1em 0 0.3em"><b>{}</b></p>'
        lines = [
            f'<span style="{colors.get(line[0], "font-style: italic")}">{escape(line)}</span>'
            for line in difference(self.bug)
        ]
        return (
            f"<details><summary>The label of exhibit {self.number}</summary>\n"
            f"<p><b>{escape(self.bug.title)}.</b> {story}</p>\n<pre>"
            + "\n".join(lines)
            + f"</pre>\n{heading.format('check_gradients')}\n<pre>"
            + escape("\n".join(self.verdicts))
            + f"</pre>\n{heading.format('the oracles')}\n<pre>"
            + escape("\n".join(_oracles(self.bug)))
            + "</pre>\n</details>"
        )


def _oracles(bug: Bug) -> list[str]:
    rows = [f"{name:<20} {'sees it' if name in bug.seen_by else 'silent'}" for name in ORACLES]
    return [*rows, f"{'its own test':<20} sees it: {bug.check.removeprefix('test_diy.')}"]


def difference(bug: Bug) -> list[str]:
    """Return the patch as lines that begin with "-" or "+", each group below the place where it stands."""
    source = (ROOT / bug.file).read_text(encoding="utf-8")
    old, new = source.splitlines(), bug.apply(source).splitlines()
    lines = []
    for kind, start, end, new_start, new_end in difflib.SequenceMatcher(None, old, new, autojunk=False).get_opcodes():
        if kind != "equal":
            removed, added = old[start:end], new[new_start:new_end]
            margin = min(len(line) - len(line.lstrip()) for line in removed + added if line.strip())
            lines.append(f"{bug.file}, {_place(source, start + 1)}")
            lines += [f"- {line[margin:]}" for line in removed] + [f"+ {line[margin:]}" for line in added]
    return lines


def _place(source: str, line: int) -> str:
    """Return the class and function around a line, such as "Linear.backward"."""
    names, node = [], ast.parse(source)
    while node is not None:
        inside = [n for n in ast.iter_child_nodes(node) if isinstance(n, (ast.ClassDef, ast.FunctionDef))]
        node = next((n for n in inside if n.lineno <= line <= n.end_lineno), None)
        names += [node.name] if node else []
    return ".".join(names)


def angle(name: str, seed: int = 0) -> tuple[float, float]:
    """Compare the gradient that a bug makes with the right one, on the report's network with fresh weights, in float64.

    Returns:
        the cosine of the angle between the two, and the length of the wrong one divided by that of the right one.
    """
    gradients = []
    for bug in (None, name):
        diy = load(bug)
        circle = load_circle(diy, bug)
        torch.manual_seed(seed)
        model = circle.build_network("diy").to(torch.float64)
        points, labels = circle.disk_data(100, torch.Generator().manual_seed(seed))
        criterion = diy.MSELoss()
        criterion(model(points.double()), circle.one_hot(labels).double())
        model.backward(criterion.backward())
        gradients.append(torch.cat([parameter.grad.flatten() for parameter in model.parameters()]))
    right, wrong = gradients
    lengths = wrong.norm() / right.norm()
    return ((right @ wrong) / (right.norm() * wrong.norm())).item(), lengths.item()
