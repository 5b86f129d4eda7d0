"""What `python -m experiments.digits` draws: the loss, the confusion matrix, the worst mistakes, the learned filters.

    results = digits.load("results/digits")
    confusion(results, digits_images()).savefig("confusion.pdf")

Style, colours and files are those of experiments/figures.py.
"""

import os
from pathlib import Path

import matplotlib as mpl
import numpy as np
import seaborn as sns
from matplotlib.figure import Figure

from experiments.digits.data import Images
from experiments.figures import INSIDE, OUTSIDE, drawing, save_figures
from experiments.results import Record
from experiments.words import counted

NAMES = {"diy": "diy", "torch": "PyTorch"}


def loss_curves(results: Record, width: float = 5.5, height: float = 2.8) -> Figure:
    """Return the loss per epoch of both libraries: mean over the rounds and, for diy, a band from least to greatest."""
    with drawing(width, height) as (figure, axes):
        for name, colour, line in (("diy", INSIDE, {"lw": 3.5, "alpha": 0.5}), ("torch", OUTSIDE, {"ls": "--"})):
            losses = np.array([record[name]["loss"] for record in results["rounds"]])  # (rounds, epochs)
            epochs = np.arange(1, losses.shape[1] + 1)
            axes.plot(epochs, losses.mean(0), color=colour, label=NAMES[name], **line)
            if name == "diy":
                axes.fill_between(epochs, losses.min(0), losses.max(0), color=colour, alpha=0.15, lw=0)
        axes.set(xlabel="epoch", ylabel="cross-entropy, training", yscale="log")
        axes.margins(x=0.02)
        axes.xaxis.set_major_locator(mpl.ticker.MaxNLocator(integer=True))
        axes.set_title(f"mean and range, {counted(len(results['rounds']), 'round')}", loc="left")
        axes.legend()
        return figure


def confusion(results: Record, data: Images, width: float = 4.2, height: float = 3.8) -> Figure:
    """Return how often diy took each digit for which, on the test images, in all rounds."""
    counts = np.zeros((10, 10), dtype=int)
    for record in results["rounds"]:
        np.add.at(counts, (data.test_labels.numpy(), np.array(record["diy"]["predictions"])), 1)
    with drawing(width, height) as (figure, axes):
        # Colours count only the mistakes: next to the diagonal, they would all be pale.
        mistakes = counts - np.diag(np.diag(counts))
        sns.heatmap(
            mistakes,
            annot=np.where(counts > 0, counts.astype(str), ""),
            fmt="",
            cmap="Blues",
            vmin=0,
            vmax=max(1, mistakes.max()),
            square=True,
            linewidths=0.5,
            cbar_kws={"label": "mistakes", "ticks": mpl.ticker.MaxNLocator(integer=True)},
            annot_kws={"size": 7},
            ax=axes,
        )
        axes.set(xlabel="taken for", ylabel="digit")
        axes.tick_params(axis="y", rotation=0)
        right, total = np.trace(counts), counts.sum()
        rounds = counted(len(results["rounds"]), "round")
        axes.set_title(f"{total - right} mistakes among {total:,} answers, {rounds}", loc="left")
        return figure


def worst_mistakes(results: Record, data: Images, count: int = 12, width: float = 5.5) -> Figure:
    """Return the images to whose right class diy gave the least probability, on average over the rounds."""
    confidence = np.array([record["diy"]["confidence"] for record in results["rounds"]]).mean(0)
    labels = np.array([record["diy"]["predictions"] for record in results["rounds"]])  # (rounds, images)
    worst = np.argsort(confidence)[:count]
    columns = 6
    rows = -(-len(worst) // columns)
    with drawing(width, 0.35 + 1.25 * rows, rows, columns, squeeze=False) as (figure, places):
        for axes in places.flat:
            axes.axis("off")
        for axes, index in zip(places.flat, worst):
            axes.imshow(data.test_images[index, 0].numpy(), cmap="gray_r")
            digit = data.test_labels[index].item()
            answers, times = np.unique(labels[labels[:, index] != digit, index], return_counts=True)
            verdict = (
                f"{times.max()} of {len(labels)} say {answers[times.argmax()]}" if len(answers) else "always right"
            )
            axes.set_title(f"{digit}: {verdict}\n{confidence[index]:.0%} for {digit}", size=7)
        title = "the digit, its most frequent wrong answer, and the mean probability given to the digit"
        figure.suptitle(title, size=8, x=0.01, ha="left")
        return figure


def filters(results: Record, width: float = 5.5) -> Figure:
    """Return the kernels of the first convolution after the first round, as they lie on the image."""
    kernels = np.array(results["rounds"][0]["filters"])
    columns = 8
    rows = -(-len(kernels) // columns)
    with drawing(width, 0.4 + 0.72 * rows, rows, columns, squeeze=False) as (figure, places):
        size = np.abs(kernels).max()
        for axes in places.flat:
            axes.axis("off")
        for axes, kernel in zip(places.flat, kernels):
            image = axes.imshow(kernel, cmap="PuOr", vmin=-size, vmax=size)
        figure.colorbar(image, ax=places, label="weight", fraction=0.03)
        figure.suptitle(f"the {len(kernels)} kernels of the first convolution, round 1", size=9, x=0.01, ha="left")
        return figure


def save_all(
    results: Record, data: Images, directory: str | os.PathLike, formats: tuple[str, ...] = ("pdf", "png")
) -> list[Path]:
    """Draw all figures into `directory`, each in every format, and return the paths."""
    figures = {
        "digits-loss": loss_curves(results),
        "digits-confusion": confusion(results, data),
        "digits-mistakes": worst_mistakes(results, data),
        "digits-filters": filters(results),
    }
    return save_figures(figures, directory, formats)
