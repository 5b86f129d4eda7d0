"""Figures 2 to 5 of the report and what they share: palette, sizes, files.

    results = evaluation.load("results")
    loss_curves(results).savefig("loss.pdf")

Each function takes results and returns a Matplotlib figure, for you to save or show. Lengths are in inches. Colours are
seaborn's colour-blind palette; lines also differ in dashes and markers, and boxes stand beside their names.
"""

import io
import itertools
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib as mpl
import matplotlib.style
import numpy as np
import seaborn as sns
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from experiments.circle import MODELS, RADIUS, Protocol
from experiments.evaluation import Results, test_points
from experiments.results import write_atomically
from experiments.words import counted

STYLE = {
    **sns.axes_style("whitegrid"),
    "savefig.dpi": 200,
    "pdf.fonttype": 42,
    "svg.hashsalt": "diy",
}
COLOURS = dict(zip(MODELS, sns.color_palette("colorblind", len(MODELS))))
DASHES = dict(zip(MODELS, itertools.cycle(["-", (0, (5, 1.5)), ":", (0, (1, 1)), "-.", (0, (3, 1, 1, 1, 1, 1))])))
MARKERS = dict(zip(MODELS, itertools.cycle("os^Dvx")))
INSIDE, OUTSIDE = "#0173b2", "#de8f05"
"""Colours of label 1 and label 0."""


@contextmanager
def drawing(width: float, height: float, rows: int = 1, columns: int = 1, **options) -> Iterator[tuple[Figure, Any]]:
    """Give a figure and its axes (or an array of them), to be drawn on in one style, whatever the caller has set."""
    with mpl.style.context(["default", style(width)]):
        figure = Figure(figsize=(width, height), layout="constrained")
        yield figure, figure.subplots(rows, columns, **options)


def style(width: float) -> dict[str, Any]:
    """Return the settings of Matplotlib for a figure of this width: a column of print is about 3.4 inches wide."""
    size = 9 if width > 4 else 7.5
    sizes = {"font.size": size, "axes.labelsize": size, "axes.titlesize": size, "legend.title_fontsize": size - 1}
    return {**STYLE, **sizes, **dict.fromkeys(("xtick.labelsize", "ytick.labelsize", "legend.fontsize"), size - 1)}


def training_time(results: Results, width: float = 5.5, height: float = 2.4) -> Figure:
    """Figure 2: boxplots of the time used for training, over the rounds."""
    with drawing(width, height) as (figure, axes):
        _boxes(axes, results, "seconds", 1)
        axes.set(xlabel=f"training time (s), {_rounds(results)}", ylabel="")
        axes.set_xlim(left=0)
        return figure


def loss_curves(results: Results, width: float = 5.5, height: float = 3.2) -> Figure:
    """Figure 3: the loss per epoch, mean over the rounds and a band of one standard deviation."""
    with drawing(width, height) as (figure, axes):
        for index, (name, rounds) in enumerate(results.models.items()):
            losses = [r.loss for r in rounds]
            places = {"marker": MARKERS[name], "markersize": 3.5, "markevery": (0.03 + 0.02 * index, 0.16)}
            _band(axes, range(1, len(losses[0]) + 1), losses, name, label=MODELS[name].title, **places)
        axes.set(xlabel="epoch", ylabel="mean squared error", ylim=(0, None))
        axes.margins(x=0.01)
        axes.set_title(f"mean ± std, {_rounds(results)}", loc="left")
        figure.legend(loc="outside right center") if width > 4 else figure.legend(loc="outside upper center", ncol=2)
        return figure


def test_errors(results: Results, width: float = 5.5, height: float = 2.4) -> Figure:
    """Figure 4: boxplots of the test error, over the rounds, on an axis that is logarithmic above 1 %."""
    with drawing(width, height) as (figure, axes):
        _boxes(axes, results, "test_error", 100)
        axes.set_xscale("symlog", linthresh=1, linscale=0.5)
        axes.set(xlabel=f"test error (%), {_rounds(results)}", ylabel="", xlim=(0, 100))
        axes.set_xticks([0, 1, 2, 5, 10, 20, 50, 100])
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.xaxis.set_minor_locator(mpl.ticker.NullLocator())
        return figure


test_errors.__test__ = False  # pytest would take it for a test


def predicted_labels(results: Results, model: str = "diy-dropout", width: float = 3.6, height: float = 3.9) -> Figure:
    """Figure 5: the labels that one model gives to the test points of all rounds, and the true circle."""
    rounds = results.models[model]
    points = np.concatenate([test_points(results.protocol, r) for r in range(len(rounds))])
    labels = np.concatenate([r.predictions for r in rounds])
    with drawing(width, height) as (figure, axes):
        for label, colour, name in ((1, INSIDE, "label 1"), (0, OUTSIDE, "label 0")):
            chosen = points[labels == label]
            axes.scatter(*chosen.T, s=3, color=colour, lw=0, label=name, rasterized=True)
        angles = np.linspace(0, 2 * np.pi, 200)
        axes.plot(RADIUS * np.cos(angles), RADIUS * np.sin(angles), color="black", lw=1.2, label="true circle")
        axes.set(xlim=(-1, 1), ylim=(-1, 1), aspect="equal", xlabel="$x_1$", ylabel="$x_2$")
        axes.set_xticks([-1, -0.5, 0, 0.5, 1])
        axes.set_yticks([-1, -0.5, 0, 0.5, 1])
        axes.grid(False)
        axes.set_title(f"{MODELS[model].title}: {len(points):,} test points, {_rounds(results)}", pad=20)
        axes.legend(loc="lower center", bbox_to_anchor=(0.5, 0.99), ncol=3, frameon=False, columnspacing=1)
        for handle in axes.get_legend().legend_handles[:2]:
            handle.set_sizes([20])
        return figure


def learning_rates(sweep, width: float = 5.5, height: float = 3.2) -> Figure:
    """Test error against the learning rate, for each reduction: mean, a band of one standard deviation, divergence.

    Args:
        sweep: what `sweep.run` returns.
    """
    grid = sweep.grid
    with drawing(width, height) as (figure, axes):
        for reduction, model in (("sum", "diy-sgd"), ("mean", "torch-sgd")):
            if reduction not in grid.reductions:
                continue
            errors = 100 * np.array([run["test_error"] for run in sweep.runs[reduction]])  # (rounds, rates)
            diverged = np.array([run["diverged"] for run in sweep.runs[reduction]]).any(0)
            mean = _band(axes, grid.rates, errors, model, marker=".", label=f'reduction="{reduction}"')
            axes.plot(np.array(grid.rates)[diverged], mean[diverged], "x", color=COLOURS[model], ms=6, zorder=3)
        axes.plot([], [], "x", color="0.4", label="some diverged")
        axes.axvline(Protocol().lr, color="0.4", lw=0.8, ls=":")
        axes.text(Protocol().lr, 64, " 2019", va="top", color="0.3")
        axes.set(xscale="log", ylim=(0, 65), xlabel="learning rate", ylabel="test error (%)")
        axes.set_title(f"mean ± std, {counted(grid.protocol.rounds, 'round')}", loc="left")
        beside = {"loc": "center left", "bbox_to_anchor": (1.01, 0.5)}
        above = {"loc": "lower center", "bbox_to_anchor": (0.5, 1.08), "ncol": 3, "columnspacing": 1}
        axes.legend(**(beside if width > 4 else above))
        return figure


def save_all(results: Results, directory: str | os.PathLike, formats: tuple[str, ...] = ("pdf", "png")) -> list[Path]:
    """Draw figures 2 to 5 into `directory`, each in every format, and return the paths.

    Figure 5 shows "diy-dropout", as in the report, or, if that was not run, the first model that was.
    """
    shown = "diy-dropout" if "diy-dropout" in results.models else next(iter(results.models))
    figures = {
        "figure2-time": training_time(results),
        "figure3-loss": loss_curves(results),
        "figure4-error": test_errors(results),
        "figure5-labels": predicted_labels(results, shown),
    }
    return save_figures(figures, directory, formats)


def save_figures(figures: dict[str, Figure], directory: str | os.PathLike, formats=("pdf", "png")) -> list[Path]:
    """Write figures under their names into `directory`, which is made if needed; return the paths."""
    Path(directory).mkdir(parents=True, exist_ok=True)
    return [path for name in figures for path in save_figure(figures[name], Path(directory) / name, formats)]


def save_figure(figure: Figure, stem: Path, formats: tuple[str, ...] = ("pdf", "png")) -> list[Path]:
    """Write `figure` to `stem` in each format, without dates or versions, so that equal figures are equal files."""
    nameless = {"pdf": {"CreationDate": None, "Producer": None, "Creator": None}, "png": {"Software": None}}
    paths = [stem.with_name(f"{stem.name}.{kind}") for kind in formats]
    with mpl.style.context(["default", style(5.5)]):
        for kind, path in zip(formats, paths):
            content = io.BytesIO()
            figure.savefig(content, format=kind, metadata=nameless.get(kind))
            write_atomically(path, content.getvalue())
    return paths


def _band(axes, x, values, model: str, **line) -> np.ndarray:
    # A line and a band, mean and standard deviation of values of shape (rounds, x), in the model's colour and dashes.
    mean, std = np.mean(values, 0), np.std(values, 0, ddof=1 if len(values) > 1 else 0)
    axes.plot(x, mean, color=COLOURS[model], ls=DASHES[model], **line)
    axes.fill_between(x, mean - std, mean + std, color=COLOURS[model], alpha=0.2, lw=0)
    return mean


def _boxes(axes, results: Results, quantity: str, factor: float) -> None:
    values = [[factor * getattr(r, quantity) for r in rounds] for rounds in results.models.values()]
    line = {"color": "0.25", "linewidth": 0.9}
    boxes = axes.boxplot(
        values,
        orientation="horizontal",
        tick_labels=[MODELS[name].title for name in results.models],
        widths=0.6,
        patch_artist=True,
        flierprops={"markersize": 3, "markeredgecolor": "0.25"},
        **{part: dict(line) for part in ("boxprops", "whiskerprops", "capprops", "medianprops")},
    )
    for box, name in zip(boxes["boxes"], results.models):
        box.set_facecolor(COLOURS[name])
    axes.invert_yaxis()  # the first model on top
    axes.yaxis.grid(False)


def _rounds(results: Results) -> str:
    return counted(max(len(rounds) for rounds in results.models.values()), "round")
