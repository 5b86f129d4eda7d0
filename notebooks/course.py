"""Helpers of the notebooks: figures, tables, checks of formulas and of exercises. See README.md in this folder.

Importing it sets the one style of all figures and computes on one thread, so that sums come out the same whatever the
number of cores.
"""

import ast
import base64
import dis
import importlib
import inspect
import io
import math
import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from html import escape
from pathlib import Path

import matplotlib.pyplot as plt
import torch
from IPython.display import HTML, Image, display
from torch import Tensor

from gradcheck import check_gradients

WIDTH = 8.0
"""The width of every figure, in inches."""

plt.style.use(Path(__file__).with_suffix(".mplstyle"))
BLUE, ORANGE, GREEN, VERMILION, PURPLE, *_ = plt.rcParams["axes.prop_cycle"].by_key()["color"]
GRAY = "#767676"

torch.set_num_threads(1)


# Figures and tables


def show(figure: plt.Figure, description: str, scale: float = 1.0) -> None:
    """Display a figure with a caption that also says in words what is to be seen.

    Args:
        scale: how much larger than drawn it is displayed, lettering included.
    """
    png = io.BytesIO()
    figure.savefig(png, format="png", dpi=200, metadata={"Software": None})
    width = round(figure.get_figwidth() * 100 * scale)
    plt.close(figure)
    display(Image(png.getvalue(), width=width, alt=description))
    display(Caption(description))


def film(frames: Iterable[tuple[str, plt.Figure]], description: str) -> None:
    """Display pairs (name, figure), all of one size, as a film with a slider and a button, which need no kernel.

    The frames lie side by side in a box that can be scrolled, and the slider does nothing but scroll it: where a viewer
    runs no scripts, as for a notebook that is not trusted, the box's own scroll bar is the slider.
    """
    images, width = [], round(WIDTH * 100)
    for name, figure in frames:
        png = io.BytesIO()
        figure.savefig(png, format="png", dpi=100, metadata={"Software": None})
        width = round(figure.get_figwidth() * 100)
        plt.close(figure)
        source = f"data:image/png;base64,{base64.b64encode(png.getvalue()).decode()}"
        style = f"width: {width}px; max-width: none; display: inline-block; scroll-snap-align: start"
        images.append(f'<img alt="{escape(f"{description} {name}")}" style="{style}" src="{source}">')
    box, last = "this.parentNode.previousElementSibling", len(images) - 1
    play = (
        f"const slider = this.nextElementSibling, box = {box}; slider.value = 0; box.scrollLeft = 0; "
        f"const timer = setInterval(() => {{ slider.value++; box.scrollLeft = slider.value * {width}; "
        f"if (slider.value >= {last}) clearInterval(timer) }}, 400)"
    )
    display(
        HTML(
            f'<div><div style="width: {width}px; overflow-x: scroll; white-space: nowrap; '
            f'scroll-snap-type: x mandatory">{"".join(images)}</div>'
            f'<div><button type="button" onclick="{escape(play)}">play</button> '
            f'<input type="range" min="0" max="{last}" value="0" style="width: {width - 80}px" aria-label="frame" '
            f'oninput="{escape(box)}.scrollLeft = this.value * {width}"></div></div>'
        )
    )
    display(Caption(description))


class Caption:
    """A line of text below a figure."""

    def __init__(self, text: str):
        self.text = text

    def _repr_html_(self) -> str:
        return f'<p style="max-width: {round(WIDTH * 100)}px"><em>{escape(self.text)}</em></p>'

    def __repr__(self) -> str:
        return self.text


class Table:
    """A table that Jupyter shows as one and print() as aligned text.

    Args:
        columns: the headings.
        rows: the cells, shown by str(); numbers should be rounded before.
    """

    def __init__(self, columns: Sequence[str], rows: Sequence[Sequence]):
        self.columns, self.rows = list(columns), [[str(cell) for cell in row] for row in rows]

    def _repr_html_(self) -> str:
        def line(tag: str, cells: list[str]) -> str:
            style = ' style="text-align: left"'
            return "<tr>" + "".join(f"<{tag}{style}>{escape(cell)}</{tag}>" for cell in cells) + "</tr>"

        body = "\n".join(line("td", row) for row in self.rows)
        return f"<table>\n<thead>{line('th', self.columns)}</thead>\n<tbody>\n{body}\n</tbody>\n</table>"

    def __repr__(self) -> str:
        lines = [self.columns, *self.rows]
        widths = [max(len(line[i]) for line in lines) for i in range(len(self.columns))]
        return "\n".join("  ".join(c.ljust(w) for c, w in zip(line, widths)).rstrip() for line in lines)


def shapes(sizes: Mapping[str, int], rows: Sequence[tuple[str, Tensor, str, str]]) -> Table:
    """Return a table of shapes, after comparing each with the tensor's own.

    Args:
        sizes: what the letters stand for, {"N": 4, "in": 3}.
        rows: (name, tensor, shape in letters such as "N in", meaning).

    Raises:
        AssertionError: a tensor has another shape.
    """
    lines = []
    for name, tensor, letters, meaning in rows:
        expected = tuple(sizes[letter] for letter in letters.split())
        assert tuple(tensor.shape) == expected, f"{name} should be ({letters}) = {expected}, is {tuple(tensor.shape)}"
        lines.append((name, f"({', '.join(letters.split())})", expected, meaning))
    return Table(["name", "shape", "here", "meaning"], lines)


def code(*functions: Callable) -> None:
    """Show the source of functions, read from their file, without docstrings."""
    parts = []
    for function in functions:
        source = textwrap.dedent(inspect.getsource(function))
        lines = source.splitlines()
        if function.__doc__:
            docstring = ast.parse(source).body[0].body[0]
            del lines[docstring.lineno - 1 : docstring.end_lineno]
        parts.append("\n".join([f"# {function.__qualname__}", *lines]))
    print("\n\n".join(parts))


# Checks of formulas


def agree(formula: str, value, /, *, tolerance: float = 1e-12, **oracles) -> None:
    """Compare what a formula gives with the same quantity computed in other ways, and print the verdict.

    Args:
        formula: the ledger number and what it gives, "F3, ∂ℓ/∂W".
        value: what the formula gives; a number or a tensor, float64 if the comparison is to mean anything.
        tolerance: the allowed difference, relative to the largest component where that exceeds 1. For the oracle
            `finite_differences` it is 1e-7 at least: their own error is about 1e-10 with the step 1e-5.
        oracles: the same quantity by other ways: finite_differences=..., autograd=..., diy=...

    Raises:
        AssertionError: one of them differs, or there is none.
    """
    assert oracles, f"{formula}: nothing to compare with"
    value = torch.as_tensor(value, dtype=torch.float64)
    print(formula)
    for oracle, other in oracles.items():
        name = {"diy": "diy.py"}.get(oracle, oracle.replace("_", " "))
        allowed = max(tolerance, 1e-7) if oracle == "finite_differences" else tolerance
        other = torch.as_tensor(other, dtype=torch.float64)
        assert other.shape == value.shape, f"{formula}: {name} has shape {tuple(other.shape)}, not {tuple(value.shape)}"
        difference = relative_difference(value, other)
        assert difference <= allowed, f"{formula}: {name} differs by {difference:.1e}, more than {allowed:.0e}"
        print(f"    {name:<20} agrees within {allowed:.0e}")


def relative_difference(a: Tensor, b: Tensor) -> float:
    """Return max |a − b| / max(1, max |b|); nan where a component is nan."""
    if a.numel() == 0:
        return 0.0
    return ((a - b).abs().max() / b.abs().max().clamp(min=1)).item()


# Exercises


class NoAnswerError(Exception):
    """The exercise was not attempted yet."""


class AnswerError(Exception):
    """The answer is wrong; the message says why."""


def check(exercise: str, *answers) -> None:
    """Print whether the answers to an exercise are right, and if not, why.

    The checker of exercise 2.3 is the function `exercise_3` in checkers/notebook_2.py. It returns a sentence about the
    right answer and raises `AnswerError` with the reason for another.
    """
    number, part = exercise.split(".")
    checker = getattr(importlib.import_module(f"checkers.notebook_{number}"), f"exercise_{part}")
    try:
        if any(answer is ... or answer is None for answer in answers):
            raise NoAnswerError
        print(f"Exercise {exercise}: right. {checker(*answers)}")
    except NoAnswerError:
        print(f"Exercise {exercise}: open. Put your answer in the place of the dots and run the cell again.")
    except AnswerError as reason:
        print(f"Exercise {exercise}: not yet. {reason}")


def call(function: Callable, *arguments, name: str | None = None):
    """Return function(*arguments) for a checker.

    Raises:
        NoAnswerError: its body is still "...".
        AnswerError: it raises an exception, or returns nothing.
    """
    what = name or getattr(function, "__qualname__", repr(function))
    try:
        result = function(*arguments)
    except Exception as error:
        if "returned ellipsis" in str(error) or ("returned NoneType" in str(error) and _is_open(function)):
            raise NoAnswerError from error
        raise AnswerError(f"{what} raised {type(error).__name__}: {error}") from error
    if result is ... or (result is None and _is_open(function)):
        raise NoAnswerError
    if result is None:
        raise AnswerError(f"{what} returns nothing: is `return` missing?")
    return result


def _is_open(function: Callable) -> bool:
    """Whether dots are left in a function's body. The compiler drops a line of dots; what is left then does nothing."""
    body = getattr(inspect.unwrap(getattr(function, "forward", function)), "__code__", None)
    nothing = {"RESUME", "NOP", "LOAD_CONST", "RETURN_CONST", "RETURN_VALUE"}
    return body and (... in body.co_consts or {step.opname for step in dis.get_instructions(body)} <= nothing)


def expect(what: str, got, expected, mistakes: Mapping[str, object] | None = None, tolerance: float = 1e-6) -> None:
    """Refuse an answer that is not the expected number or tensor.

    Args:
        what: what is compared, for the message.
        got, expected: numbers or tensors.
        mistakes: answers that show a known misunderstanding: {the reason to give: the value}.
        tolerance: the allowed difference, relative to the largest expected component where that exceeds 1.

    Raises:
        AnswerError: with the reason, or with shapes or the first component that differs.
    """
    try:
        value = torch.as_tensor(got, dtype=torch.float64)
    except (TypeError, ValueError, RuntimeError):
        raise AnswerError(f"{what} should be a number or a tensor, but is {got!r}.") from None
    expected = torch.as_tensor(expected, dtype=torch.float64)

    def same(other) -> bool:
        other = torch.as_tensor(other, dtype=torch.float64)
        return value.shape == other.shape and relative_difference(value, other) <= tolerance

    if same(expected):
        return
    for reason, mistake in (mistakes or {}).items():
        if same(mistake):
            raise AnswerError(f"{what}: {reason}")
    if value.shape != expected.shape:
        raise AnswerError(f"{what} should have shape {tuple(expected.shape)}, but has {tuple(value.shape)}.")
    worst = int((value - expected).abs().nan_to_num(nan=math.inf).argmax())
    place = [int(i) for i in torch.unravel_index(torch.tensor(worst), expected.shape)]
    where = f"{what}[{', '.join(map(str, place))}]" if place else what
    raise AnswerError(f"{where} should be {expected.flatten()[worst]:.6g}, but is {value.flatten()[worst]:.6g}.")


def expect_gradients(module, input: Tensor, target: Tensor | None = None) -> None:
    """Refuse a module, or with a target a loss, whose backward is not the derivative of its forward.

    Raises:
        NoAnswerError: backward returns nothing.
        AnswerError: with what `check_gradients` found out.
    """
    name = type(module).__name__
    if target is None:
        output = call(module, input.clone(), name=f"{name}.forward")
        call(module.backward, torch.ones_like(output), name=f"{name}.backward")
        for _, parameter in module.named_parameters():
            parameter.grad = None
    else:
        call(module, input.clone(), target.clone(), name=f"{name}.forward")
        call(module.backward, name=f"{name}.backward")
    for verdict in check_gradients(module, input, target, verbose=False).verdicts:
        if not verdict.right:
            where = ""
            if verdict.index is not None:
                where = f" At {verdict.index} it is {verdict.got:.6g}, and should be {verdict.expected:.6g}."
            reason = verdict.reason or "it is not the slope of the forward pass"
            raise AnswerError(f"the gradient of {verdict.name}: {reason}.{where}")


__all__ = [
    "WIDTH",
    "BLUE",
    "ORANGE",
    "GREEN",
    "VERMILION",
    "PURPLE",
    "GRAY",
    "HTML",
    "NoAnswerError",
    "Table",
    "AnswerError",
    "agree",
    "call",
    "check",
    "code",
    "display",
    "expect",
    "expect_gradients",
    "film",
    "plt",
    "relative_difference",
    "shapes",
    "show",
]
