"""Drawings of the notebooks about images and classes."""

from collections.abc import Container, Iterator, Sequence

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from torch import Tensor

from course import BLUE, GRAY, GREEN, ORANGE, PURPLE, VERMILION, WIDTH, plt
from course.drawings import graph

_WINDOWS = (BLUE, ORANGE, GREEN, PURPLE)  # one colour for each place of a 2 × 2 window on a 3 × 3 image
_PLACES = [(0, 0), (0, 1), (1, 0), (1, 1)]


def slide(image: Tensor, kernel: Tensor) -> Iterator[tuple[str, Figure]]:
    """Yield the frames of a film in which a 2 × 2 kernel moves over a 3 × 3 image, and what it computes."""
    output = [["", ""], ["", ""]]
    for number, (y, x) in enumerate(_PLACES):
        window = image[y : y + 2, x : x + 2]
        products = " + ".join(f"{w:g} · {p:g}" for w, p in zip(kernel.flatten().tolist(), window.flatten().tolist()))
        output[y][x] = f"{(window * kernel).sum():g}"
        figure, ax = plt.subplots(figsize=(WIDTH, 3))
        _grid(ax, image, 0, 0, title="image")
        ax.text(3.75, -1.5, "∗", ha="center", va="center", fontsize=22)
        _grid(ax, kernel, 4.5, -0.5, title="kernel")
        ax.text(7.25, -1.5, "=", ha="center", va="center", fontsize=22)
        _grid(ax, output, 8, -0.5, title="output", marked={(y, x)})
        for left, top, size in ((x, -y, 2), (4.5, -0.5, 2), (8 + x, -0.5 - y, 1)):
            _frame(ax, left, top, size, size, VERMILION)
        ax.text(5, -3.6, f"{products} = {output[y][x]}", ha="center", va="center", fontsize=15, color=VERMILION)
        _bounds(ax, 10, 3.9)
        yield f"window {number + 1} of 4: {products} = {output[y][x]}", figure


def draw_columns(image: Tensor, kernel: Tensor) -> Figure:
    """Draw how the four windows of a 3 × 3 image become the columns of a matrix, where its middle appears four times.

    The kernel, as a row on the left, times the matrix is the row of outputs.
    """
    figure, ax = plt.subplots(figsize=(WIDTH, 2.6))
    windows = [image[y : y + 2, x : x + 2] for y, x in _PLACES]
    _grid(ax, image, 0, -0.5, title="image", marked={(1, 1)})
    for number, (y, x) in enumerate(_PLACES):
        inset = 0.08 * number - 0.12
        _frame(ax, x + inset, -0.5 - y - inset, 2, 2, _WINDOWS[number])
    _grid(ax, kernel.reshape(1, 4), 4.2, -1.5, title="W̃")
    matrix = torch.stack([window.flatten() for window in windows], dim=1)
    _grid(ax, matrix, 8.9, 0, title="X̃: one column per window", marked={(3, 0), (2, 1), (1, 2), (0, 3)})
    for number in range(4):
        _frame(ax, 8.9 + number, 0, 1, 4, _WINDOWS[number])
    _grid(ax, kernel.reshape(1, 4) @ matrix, 13.8, -1.5, title="S̃ = W̃ X̃")
    _bounds(ax, 17.8, 4.1)
    return figure


def draw_sent_back(gradient: Tensor, kernel: Tensor) -> Figure:
    """Draw what each of the four outputs sends back to its window of a 3 × 3 image, and the sum."""
    figure, ax = plt.subplots(figsize=(WIDTH, 1.9))
    total = torch.zeros(3, 3)
    for number, (y, x) in enumerate(_PLACES):
        sent = torch.zeros(3, 3)
        sent[y : y + 2, x : x + 2] = gradient[y, x] * kernel
        total += sent
        inside = {(i, j) for i in (y, y + 1) for j in (x, x + 1)}
        cells = [[f"{sent[i, j]:g}" if (i, j) in inside else "" for j in range(3)] for i in range(3)]
        left = 3.8 * number
        _grid(ax, cells, left, 0, title=f"{_signed(gradient[y, x])} · kernel", marked={(1, 1)})
        _frame(ax, left + x, -y, 2, 2, _WINDOWS[number])
        ax.text(left + 3.4, -1.5, "+" if number < 3 else "=", ha="center", va="center", fontsize=18)
    _grid(ax, total, 15.2, 0, title="∂ℓ/∂P", marked={(1, 1)})
    _bounds(ax, 18.2, 3.1)
    return figure


def draw_strokes(images: Sequence[Tensor], kernel: Tensor, maps: Sequence[Tensor], titles: Sequence[str]) -> Figure:
    """Draw images, a kernel, and below each image what the kernel makes of it, with its largest number."""
    figure, axes = plt.subplots(2, len(images) + 1, figsize=(WIDTH, 4.2))
    axes[0, 0].imshow(kernel, cmap="PuOr", vmin=-2, vmax=2)
    axes[0, 0].set_title("kernel")
    axes[1, 0].set_visible(False)
    for (above, below), image, answer, title in zip(axes.T[1:], images, maps, titles):
        above.imshow(image, cmap="gray_r", vmin=0, vmax=1)
        above.set_title(title)
        below.imshow(answer, cmap="PuOr", vmin=-3, vmax=3)
        y, x = divmod(answer.argmax().item(), answer.shape[1])
        below.text(x, y, f"{answer[y, x]:g}", ha="center", va="center", color="white", fontsize=11)
    axes[0, 1].set_ylabel("image")
    axes[1, 1].set_ylabel("output")
    for ax in axes.flatten():
        ax.set(xticks=[], yticks=[])
        ax.spines[:].set_visible(True)
    return figure


def draw_kernels(kernels: Tensor, image: Tensor, maps: Tensor) -> Figure:
    """Draw kernels above, and below an image beside what each of them makes of it."""
    figure, axes = plt.subplots(2, 1 + len(kernels), figsize=(WIDTH, 2.4))
    axes[0, 0].set_visible(False)
    axes[1, 0].imshow(image, cmap="gray_r")
    axes[1, 0].set_title("image", fontsize=11)
    limit = kernels.abs().max().item()
    for number, (above, below) in enumerate(axes.T[1:]):
        above.imshow(kernels[number], cmap="PuOr", vmin=-limit, vmax=limit)
        above.set_title(f"{number + 1}", fontsize=11)
        below.imshow(maps[number], cmap="gray_r", vmin=0, vmax=maps.max().item())
    for ax in axes.flatten():
        ax.set(xticks=[], yticks=[])
        ax.spines[:].set_visible(True)
    return figure


def draw_norm_paths() -> Figure:
    """Draw the three paths by which one value of a channel reaches the normalized values."""
    figure, ax = plt.subplots(figsize=(WIDTH, 3.3))
    graph(
        ax,
        nodes={
            "x": (0, 1, "$x$"),
            "mean": (2, 2.2, "$\\mu$"),
            "variance": (2, -0.2, "$\\sigma^2$"),
            "own": (4.2, 1, "its own $\\hat x$"),
            "all": (4.2, 2.2, "every $\\hat x$"),
            "each": (4.2, -0.2, "every $\\hat x$"),
        },
        edges=[
            ("x", "own", "1.  slope $r$", None),
            ("x", "mean", "2.  $1/M$", None),
            ("mean", "all", "$-r$", None),
            ("x", "variance", "3.  $2(x-\\mu)/M$", None),
            ("variance", "each", "$-r^2\\hat x/2$", None),
        ],
        values={},
    )
    ax.set(xlim=(-0.4, 5), ylim=(-0.7, 2.8))
    return figure


def _grid(ax: Axes, numbers, left: float, top: float, title: str = "", marked: Container[tuple[int, int]] = ()) -> None:
    # Cells of size 1, row by row from (left, top) to the right and down; marked ones are shaded.
    rows = numbers.tolist() if isinstance(numbers, Tensor) else numbers
    for i, row in enumerate(rows):
        for j, number in enumerate(row):
            shade = "#fff2b3" if (i, j) in marked else "white"
            ax.add_patch(Rectangle((left + j, top - i - 1), 1, 1, facecolor=shade, edgecolor="0.75"))
            words = number if isinstance(number, str) else _signed(number)
            ax.text(left + j + 0.5, top - i - 0.5, words.replace("-", "−"), ha="center", va="center", fontsize=13)
    ax.text(left + len(rows[0]) / 2, top + 0.2, title, ha="center", va="bottom", fontsize=13, color=GRAY)


def _frame(ax: Axes, left: float, top: float, width: float, height: float, colour: str) -> None:
    ax.add_patch(Rectangle((left, top - height), width, height, fill=False, edgecolor=colour, linewidth=3, zorder=3))


def _bounds(ax: Axes, width: float, depth: float) -> None:
    ax.set(xlim=(-0.2, width + 0.2), ylim=(-depth - 0.1, 0.9), aspect="equal")
    ax.axis("off")


def _signed(number: object) -> str:
    return f"{float(number) + 0.0:g}".replace("-", "−")
