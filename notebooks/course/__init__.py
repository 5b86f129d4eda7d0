"""Helpers of the notebooks: figures, tables, checks of formulas and of exercises. See README.md in this folder.

Importing it sets the one style of all figures and computes on one thread, so that sums come out the same whatever the
number of cores.
"""

import sys

from experiments.begin import begin_command

if sys.argv[0] == "-m":  # so Python has it while it looks for the command, execute, in this package
    begin_command("python -m course.execute")
if not __debug__:
    sys.exit(
        "Python leaves out assertions (-O or PYTHONOPTIMIZE), and with them all that notebooks check: let it keep them"
    )

import ast
import base64
import inspect
import io
import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from html import escape
from pathlib import Path

import matplotlib.pyplot as plt
import torch
from IPython.display import HTML, display
from torch import Tensor

from course.checkers.core import check, progress

ROOT = Path(__file__).resolve().parents[2]
"""The folder of the project."""

WIDTH = 8.0
"""The width of every figure, in inches."""

plt.style.use(Path(__file__).parent / "course.mplstyle")
BLUE, ORANGE, GREEN, VERMILION, PURPLE, *_ = plt.rcParams["axes.prop_cycle"].by_key()["color"]
GRAY = "#767676"

torch.set_num_threads(1)


# Figures and tables


def show(figure: plt.Figure, description: str, scale: float = 1.0) -> None:
    """Display a figure with a caption that says in words what it shows.

    Args:
        scale: how much larger than drawn it is displayed, lettering included.
    """
    width = round(figure.get_figwidth() * 100 * scale)
    style = "max-width: 100%; height: auto"
    _display(
        f'<img alt="{escape(description)}" width="{width}" style="{style}" src="{_png(figure, 200)}">', description
    )


def film(frames: Iterable[tuple[str, plt.Figure]], description: str) -> None:
    """Display pairs (name, figure), all of one size, as a film with a slider and a button, which need no kernel.

    The frames lie side by side in a box that can be scrolled, and the slider does nothing but scroll it: where a viewer
    runs no scripts, as for a notebook that is not trusted, the box's own scroll bar is the slider. Where styles are
    removed as well, as on GitHub, the attributes of the images hide all but the last.
    """
    pictures, width = [], 0
    for name, figure in frames:
        width = round(figure.get_figwidth() * 100)
        pictures.append((name, _png(figure, 100)))
    last = len(pictures) - 1
    sizes = ['width="0" height="0"'] * last + [f'width="{width}"']
    style = "width: 100%; max-width: none; height: auto; scroll-snap-align: start"
    images = [
        f'<img alt="{escape(name)}" {size} style="{style}" src="{png}">' for (name, png), size in zip(pictures, sizes)
    ]
    scrolled = "this.nextElementSibling.lastElementChild.value = Math.round(this.scrollLeft / this.clientWidth)"
    slid = "const box = this.parentNode.previousElementSibling; box.scrollLeft = this.value * box.clientWidth"
    play = """
        const box = this.parentNode.previousElementSibling;
        const ended = () => box.scrollLeft + 1.5 * box.clientWidth >= box.scrollWidth;
        const stop = () => { this.timer = clearInterval(this.timer); this.value = "play"; };
        const step = () => { box.scrollLeft += box.clientWidth; if (ended()) stop(); };
        if (this.timer) { stop(); return; }
        if (ended()) box.scrollLeft = 0;
        this.value = "pause";
        this.timer = setInterval(step, 400);
    """
    _display(
        f'<div style="max-width: {width}px">\n'
        f'<div role="group" aria-label="{escape(description)}" tabindex="0" onscroll="{scrolled}" '
        f'style="overflow-x: scroll; white-space: nowrap; scroll-snap-type: x mandatory">{"".join(images)}</div>\n'
        f'<div style="display: flex"><input type="button" value="play" onclick="{escape(" ".join(play.split()))}">'
        f'<input type="range" aria-label="frame" min="0" max="{last}" value="0" oninput="{slid}" style="flex: 1">'
        "</div>\n</div>",
        description,
    )


def _png(figure: plt.Figure, dpi: int) -> str:
    """Close a figure and return it as the address of an image that holds its data."""
    png = io.BytesIO()
    figure.savefig(png, format="png", dpi=dpi, metadata={"Software": None})
    plt.close(figure)
    return f"data:image/png;base64,{base64.b64encode(png.getvalue()).decode()}"


def _display(html: str, description: str) -> None:
    """Display HTML above a caption. It is HTML since JupyterLab and others drop the alternative text of a PNG."""
    caption = f'<p style="max-width: {round(WIDTH * 100)}px"><em>{escape(description)}</em></p>'
    display({"text/html": f"{html}\n{caption}", "text/plain": description}, raw=True)


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


def beside(**tensors: Tensor) -> None:
    """Print matrices of one shape, or vectors as columns, side by side, each below its name, with four decimals."""
    blocks = []
    for name, tensor in tensors.items():
        tensor = torch.as_tensor(tensor, dtype=torch.float64)
        rows = (tensor if tensor.dim() == 2 else tensor.reshape(-1, 1)).tolist()
        # The zero that is added turns the -0.0 of a small negative number into 0.0.
        lines = ["".join(f"{round(number, 4) + 0.0:9.4f}" for number in row) for row in rows]
        width = max(len(name), *map(len, lines))
        blocks.append([name.replace("_", " ").rjust(width), *(line.rjust(width) for line in lines)])
    print("\n".join("   ".join(line) for line in zip(*blocks, strict=True)))


def agree(formula: str, value, /, *, tolerance: float = 1e-12, measured: float = 1e-7, **oracles) -> None:
    """Compare what a formula gives with the same quantity computed in other ways, and print one verdict.

    Args:
        formula: the ledger number and what it gives, "(F3) ∂ℓ/∂W".
        value: what the formula gives; a number or a tensor, float64 if the comparison is to mean anything.
        tolerance: the allowed difference, relative to the largest component where that exceeds 1.
        measured: the same for the oracle `finite_differences`, whose own error is about 1e-10 with the step 1e-5.
        oracles: the same quantity by other ways: finite_differences=..., autograd=..., diy=...

    The verdict names every oracle with its tolerance.

    Raises:
        AssertionError: an oracle differs, or there is none.
    """
    assert oracles, f"{formula}: nothing to compare with"
    value = torch.as_tensor(value, dtype=torch.float64)
    agreeing: dict[float, list[str]] = {}
    for oracle, other in oracles.items():
        name = {"diy": "diy.py"}.get(oracle, oracle.replace("_", " "))
        allowed = measured if oracle == "finite_differences" else tolerance
        other = torch.as_tensor(other, dtype=torch.float64)
        assert other.shape == value.shape, f"{formula}: {name} has shape {tuple(other.shape)}, not {tuple(value.shape)}"
        difference = relative_difference(value, other)
        assert difference <= allowed, f"{formula}: {name} differs by {difference:.1e}, more than {allowed:.0e}"
        agreeing.setdefault(allowed, []).append(name)
    verdict = "; ".join(f"within {allowed:.0e} of {', '.join(names)}" for allowed, names in agreeing.items())
    print(textwrap.fill(f"{formula}: {verdict}", width=100, subsequent_indent="    "))


def relative_difference(a: Tensor, b: Tensor) -> float:
    """Return max |a − b| / max(1, max |b|); nan where a component is nan."""
    if a.numel() == 0:
        return 0.0
    return ((a - b).abs().max() / b.abs().max().clamp(min=1)).item()


__all__ = [
    "ROOT",
    "WIDTH",
    "BLUE",
    "ORANGE",
    "GREEN",
    "VERMILION",
    "PURPLE",
    "GRAY",
    "HTML",
    "Table",
    "agree",
    "beside",
    "check",
    "code",
    "display",
    "film",
    "plt",
    "progress",
    "relative_difference",
    "shapes",
    "show",
]
