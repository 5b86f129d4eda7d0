"""What notebook 6 exhibits: planted bugs, what training with them looks like, and what the checks say about them.

The bugs themselves, and the test of what is said here about the oracles, are in bugs/.
"""

import ast
import difflib
import re
from collections.abc import Callable, Sequence
from functools import cache
from html import escape
from types import ModuleType
from typing import NamedTuple

import torch
from torch import Tensor

from bugs import BUGS, ORACLES, Bug, load, load_circle
from bugs.loading import ROOT
from course import BLUE, ORANGE, VERMILION, WIDTH, plt, show
from diy import Sequential
from experiments.circle import RADIUS, build_network, disk_data, error_rate, one_hot
from gradcheck import GradientCheck, check_gradients
from playground import company
from playground.lab import EDGE, Lab

SEED = 4
"""Of all exhibits' runs, here and in the playground."""


class Exhibit(NamedTuple):
    """One planted bug and how it is shown; the settings of its run are those of its story in the playground.

    Attributes:
        bug: its name in the catalogue.
        example: given a copy of diy, returns what `check_gradients` is called with.
    """

    bug: str
    example: Callable[[ModuleType], tuple]

    @property
    def playground(self) -> str:
        """The line that shows the same run in the playground."""
        return f'Playground(bug="{self.bug}", seed={SEED})'


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
            Exhibit("dropout-in-eval", lambda diy: (diy.Dropout(0.2).eval(), numbers(4, 3))),
            Exhibit("variance-for-std", network),
            Exhibit("overwritten-gradient", linear),
            Exhibit("sum-in-the-gradient", mean_loss),
            Exhibit("no-mean-at-all", mean_loss),
        ],
        start=1,
    )
)
"""The exhibits, by number: first what nobody overlooks, at the end what nobody notices."""


class Run(NamedTuple):
    """A training: the mean loss before it and after each epoch, the labels on the plane, the test error, the network.

    All are taken in evaluation mode.
    """

    losses: list[float]
    labels: Tensor
    error: float
    network: Sequential


@cache
def runs(number: int, seed: int = SEED, epochs: int = 100) -> tuple[Run, Run]:
    """Train the network of an exhibit and its healthy twin: the same data, first weights, order and settings."""
    name = EXHIBITS[number].bug
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)  # for the bug that draws where nothing should be drawn
        lab = Lab(bug=name, seed=seed, **company.settings(name))
        for _ in range(epochs):
            lab.run_epoch()
        healthy = Run(
            [record.twin_train_loss for record in lab.history],
            (lab.surface(101, twin=True) > 0).long(),
            error_rate(lab.twin, lab.x_test, lab.labels_test),
            lab.twin,
        )
        ill = Run(
            [record.train_loss for record in lab.history],
            (lab.surface(101) > 0).long(),
            lab.history[-1].test_error,
            lab.model,
        )
    return healthy, ill


def exhibit(number: int, description: str) -> tuple[Run, Run]:
    """Show the losses and labels of an exhibit and of its healthy twin, and return both runs."""
    healthy, ill = runs(number)
    figure, (left, *squares) = plt.subplots(1, 3, figsize=(WIDTH, 3.1), width_ratios=[1.25, 1, 1])
    looks = zip((ill, healthy), squares, (VERMILION, BLUE), ("-", "--"), ("exhibit", "healthy twin"))
    for run, axes, color, style, name in looks:
        left.plot(run.losses, style, color=color, label=name)
        square = (-EDGE, EDGE, -EDGE, EDGE)
        axes.contourf(run.labels.flip(0), levels=[-0.5, 0.5, 1.5], colors=[ORANGE, BLUE], extent=square, alpha=0.6)
        axes.add_patch(plt.Circle((0, 0), RADIUS, fill=False, edgecolor="black", linewidth=1.5))
        axes.add_patch(plt.Rectangle((-1, -1), 2, 2, fill=False, edgecolor="black", linestyle=":"))
        axes.set(aspect="equal", xticks=[], yticks=[], xlabel="$x_1$", ylabel="$x_2$")
        axes.set_title(f"{name}: {100 * run.error:.1f} %", fontsize="medium")
    left.set(xlabel="epoch", ylabel="mean squared error", ylim=(0, None))
    left.legend(frameon=False, fontsize="small")
    show(figure, description)
    return healthy, ill


def check_exhibit(number: int) -> GradientCheck:
    """Return what `check_gradients` finds out about the framework of an exhibit."""
    item = EXHIBITS[number]
    return check_gradients(*item.example(load(item.bug)), verbose=False)


_PRE = '<pre style="font-family: monospace; word-break: normal">'  # templates differ, and columns need one width
_IMPORT = "from playground.view import Playground"


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
        line = EXHIBITS[self.number].playground
        return "\n".join([self.bug.title, *difference(self.bug), *self.verdicts, *_oracles(self.bug), line])

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
            f"<p><b>{escape(self.bug.title)}.</b> {story}</p>\n{_PRE}"
            + "\n".join(lines)
            + f"</pre>\n{heading.format('check_gradients')}\n{_PRE}"
            + escape("\n".join(self.verdicts))
            + f"</pre>\n{heading.format('the oracles')}\n{_PRE}"
            + escape("\n".join(_oracles(self.bug)))
            + f"</pre>\n{heading.format('the same run in the playground, in a cell of its own')}\n{_PRE}"
            + escape(f"{_IMPORT}\n{EXHIBITS[self.number].playground}")
            + "</pre>\n</details>"
        )


def _oracles(bug: Bug) -> list[str]:
    rows = [f"{name:<20} {'sees it' if name in bug.seen_by else 'silent'}" for name in ORACLES]
    return [*rows, f"{'its own test':<20} sees it: {bug.check.removeprefix('diy.').removeprefix('test_diy.')}"]


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
    torch.manual_seed(seed)
    weights = build_network("diy").state_dict()
    points, labels = disk_data(100, torch.Generator().manual_seed(seed))
    right, wrong = (_gradient(bug, weights, points, one_hot(labels)) for bug in (None, name))
    return _cosine(right, wrong), (wrong.norm() / right.norm()).item()


def angles(number: int, epochs: Sequence[int]) -> list[tuple[int, float, float]]:
    """Return, after each of some epochs of an exhibit, the cosine as above and the length of the right gradient."""
    name = EXHIBITS[number].bug
    lab, rows = Lab(bug=name, seed=SEED, **company.settings(name)), []
    for epoch in epochs:
        while lab.epoch < epoch:
            lab.run_epoch()
        right, wrong = (_gradient(bug, lab.model.state_dict(), lab.x, lab.y) for bug in (None, name))
        rows.append((epoch, _cosine(right, wrong), right.norm().item()))
    return rows


def _gradient(bug: str | None, weights: dict[str, Tensor], points: Tensor, targets: Tensor) -> Tensor:
    diy = _copy(bug)
    model = load_circle(diy, bug).build_network("diy").to(torch.float64)
    model.load_state_dict(weights)
    criterion = diy.MSELoss()
    criterion(model(points.double()), targets.double())
    model.backward(criterion.backward())
    return torch.cat([parameter.grad.flatten() for parameter in model.parameters()])


_copy = cache(load)


def _cosine(a: Tensor, b: Tensor) -> float:
    return (a @ b / (a.norm() * b.norm())).item()
