"""What the playground shows, without a kernel: numbers for drawing, a picture, the frames of a film, a GIF."""

import base64
import io
import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from playground.lab import EDGE, Lab, Record

SHOWN = 400
"""How many of the training points are drawn; a learner's own are drawn all."""

CURVE_POINTS = 400
BINS = 30
GRADIENT_RANGE = (-8.0, 2.0)
"""Powers of ten."""

STILL = "This is a still picture. To play, run the cells above and then this one (Shift+Enter)."

INK, WARNING = "#1b1b1b", "#A84300"

COLORS = {0: "#D55E00", 1: "#0072B2", "train": "#000000", "test": "#009E73", "twin": "#CC79A7"}
"""Okabe and Ito's palette, which remains distinct with a colour-vision deficiency."""


class Dots(NamedTuple):
    """The points that are drawn: places (N, 2), labels (N,), and which of them are the learner's own (N,)."""

    places: Tensor
    labels: Tensor
    own: Tensor


def shown(lab: Lab) -> Tensor:
    """Return the indices of the training points that are drawn, the learner's own last."""
    drawn = len(lab.x) - len(lab.points)
    return torch.cat([torch.arange(min(drawn, SHOWN)), torch.arange(drawn, len(lab.x))])


def dots(lab: Lab) -> Dots:
    """Return the training points that are drawn, as they are now."""
    indices = shown(lab)
    return Dots(lab.x[indices], lab.labels[indices], indices >= len(lab.x) - len(lab.points))


def curve(history: list[Record]) -> Tensor:
    """Return the loss curves, thinned out to about CURVE_POINTS rows: epoch, train, test, twin's train, twin's test."""
    records = history[:: math.ceil(len(history) / CURVE_POINTS)]
    if records[-1] is not history[-1]:
        records.append(history[-1])
    rows = [(r.epoch, r.train_loss, r.test_loss, r.twin_train_loss, r.twin_test_loss) for r in records]
    return torch.tensor(rows, dtype=torch.float32)


def histograms(lab: Lab) -> list[dict]:
    """Return, for each layer, counts of activations over a common range and of gradients' sizes over powers of ten.

    Exact zeros are left out of the bars and given as shares. The gradients' outermost bars hold what lies beyond them.
    `words` says the same to those who do not see it.
    """
    layers = lab.layers()
    twins = lab.layers(twin=True) if lab.twin is not None else layers
    finite = [layer.activations[layer.activations.isfinite()] for layer in layers]
    low, high = -1.0, max(1.0, *(values.max().item() if values.numel() else 1.0 for values in finite))
    rows = []
    for layer, twin, values in zip(layers, twins, finite):
        row = {
            "name": layer.name,
            "range": (low, high),
            "activations": torch.histc(values[values != 0], BINS, low, high).int().tolist(),
            "zero_activations": (layer.activations == 0).float().mean().item() if layer.activations.numel() else None,
            "gradients": None,
            "zero_gradients": None,
            "twin_gradients": None,
            "words": f"{layer.name}: no gradient yet",
        }
        if layer.gradient is not None:
            row["gradients"], row["zero_gradients"], size = _powers(layer.gradient)
            row["words"] = f"{layer.name}: gradients {size}"
            if twin is not layer and twin.gradient is not None:
                row["twin_gradients"], _, size = _powers(twin.gradient)
                row["words"] += f", the twin's {size}"
        if len(values) < layer.activations.numel():
            row["words"] += f"; {_share(~layer.activations.isfinite())} of activations are no numbers"
        if row["zero_activations"]:
            row["words"] += f"; {_share(layer.activations == 0)} of activations are 0"
        rows.append(row)
    return rows


def _powers(gradient: Tensor) -> tuple[list[int], float, str]:
    """Return counts over powers of ten, the share of zeros, and in words the mean size."""
    sizes = gradient.abs()
    powers = sizes[sizes.isfinite() & (sizes > 0)].log10().clamp(*GRADIENT_RANGE)
    size = sizes.mean().item()
    return (
        torch.histc(powers, BINS, *GRADIENT_RANGE).int().tolist(),
        (sizes == 0).float().mean().item(),
        "no numbers" if not math.isfinite(size) else f"about {size:.0e}" if size else "all 0",
    )


def _share(those: Tensor) -> str:
    percent = 100 * those.float().mean().item()
    return f"{percent:.0f} %" if percent >= 1 else f"{percent:.1g} %"


def figure(lab: Lab, width: float = 9.0) -> Figure:
    """Draw plane, loss and histograms of the lab as it stands."""
    rows = histograms(lab)
    drawing = Figure(figsize=(width, 0.43 * width), layout="none")
    _draw_plane(drawing.add_axes((0.06, 0.11, 0.37, 0.86)), lab.surface(80), dots(lab))
    _draw_loss(drawing.add_axes((0.53, 0.64, 0.45, 0.34)), lab, lab.history, lab.epoch)
    for place, part, limits, color in (
        ((0.53, 0.11, 0.22, 0.35), "activations", rows[0]["range"], "#3f8fc9"),
        ((0.76, 0.11, 0.22, 0.35), "gradients", GRADIENT_RANGE, "#b45f8f"),
    ):
        axes = drawing.add_axes(place)
        edges = [limits[0] + i * (limits[1] - limits[0]) / BINS for i in range(BINS + 1)]
        for height, row in enumerate(reversed(rows)):
            counts = row[part] or [0] * BINS
            bars = [height + 0.8 * count / max(1, *counts) for count in counts]
            axes.stairs(bars, edges, baseline=height, fill=True, color=color)
            axes.axhline(height, color="#767676", lw=0.8)
            if not row[part]:
                axes.text(sum(limits) / 2, height + 0.3, "no step yet", ha="center", fontsize=8)
        axes.set(xlim=limits, ylim=(0, len(rows)), yticks=[])
        axes.set_xlabel({"activations": "activation", "gradients": "log₁₀ |∂ℓ/∂W|"}[part], fontsize=9, labelpad=2)
        axes.tick_params(labelsize=8)
        if part == "activations":
            names = [row["name"].replace(", ", "\n") for row in reversed(rows)]
            axes.set_yticks([height + 0.4 for height in range(len(rows))], names, fontsize=8)
            axes.tick_params(axis="y", length=0)
        else:
            axes.set_xticks(range(-6, 3, 2))  # a -8 at the edge would touch the labels of the activations
    return drawing


def describe(lab: Lab) -> str:
    """Return in words what `figure(lab)` shows."""
    now, steps = lab.measure(), f" and {_count(lab.steps_in_epoch, 'step')}" if lab.steps_in_epoch else ""
    after = f"after {_count(lab.epoch, 'epoch')}{steps}"
    text = f"Decision surface, loss curves and histograms of each layer {after} of {lab!r}: "
    return text + f"train error {_number(100 * now.train_error, 0)} %, test error {_number(100 * now.test_error, 0)} %."


def png(lab: Lab, title: str = "", color: str = INK) -> str:
    """Return `figure(lab)`, with a title above, as a PNG in base64: the same bytes for the same lab."""
    drawing = figure(lab)
    if title:
        drawing.text(0.5, 1.02, title, ha="center", fontsize=11, weight="bold", color=color)
    return base64.b64encode(encode(drawing, tight=bool(title))).decode()


def encode(drawing: Figure, dpi: int = 90, tight: bool = False) -> bytes:
    """Return a figure as PNG."""
    buffer = io.BytesIO()
    drawing.savefig(buffer, format="png", dpi=dpi, metadata={"Software": None}, bbox_inches="tight" if tight else None)
    return buffer.getvalue()


def frames(lab: Lab, epochs: tuple[int, ...] = (0, 1, 2, 4, 8, 15, 30, 50, 75, 100)) -> Iterator[tuple[str, Figure]]:
    """Train the lab, and yield pairs (caption, figure) after these epochs, in rising order: the frames of a film."""
    for epoch in epochs:
        while lab.epoch < epoch:
            lab.run_epoch()
        now = lab.history[-1]
        loss, error = _number(now.test_loss, 3), _number(100 * now.test_error, 1)
        caption = f"Epoch {lab.epoch}: test loss {loss}, test error {error} %."
        yield caption, _moment(lab, caption, lab.history, lab.epoch, lab.surface(80), dots(lab), last=epochs[-1])


def moment(lab: Lab, caption: str, history: list[Record], epoch: int, surface: Tensor, points: Dots) -> Image.Image:
    """Return one picture of the GIF: surface and points as they were after an epoch, and the loss up to it."""
    drawing = _moment(lab, caption, history, epoch, surface, points, last=history[-1].epoch)
    image = Image.open(io.BytesIO(encode(drawing, dpi=75))).convert("RGB")
    return image.quantize(128)


def gif(pictures: list[Image.Image]) -> bytes:
    """Return pictures as an endless GIF that shows the last one longer."""
    buffer = io.BytesIO()
    durations = [100] * (len(pictures) - 1) + [2000]
    pictures[0].save(buffer, format="GIF", save_all=True, append_images=pictures[1:], duration=durations, loop=0)
    return buffer.getvalue()


def _moment(
    lab: Lab, caption: str, history: list[Record], epoch: int, surface: Tensor, points: Dots, last: int
) -> Figure:
    drawing = Figure(figsize=(7.2, 3.6), layout="none")
    _draw_plane(drawing.add_axes((0.07, 0.13, 0.38, 0.76)), surface, points)
    axes = drawing.add_axes((0.55, 0.13, 0.43, 0.76))
    _draw_loss(axes, lab, history, epoch)
    axes.set(xlim=(0, max(1, last)))
    drawing.text(0.05, 0.93, caption, fontsize=10)
    return drawing


def _draw_plane(axes, surface: Tensor, points: Dots) -> None:
    surface = surface.flipud().numpy()
    colors = LinearSegmentedColormap.from_list("classes", ["#f5b464", "#ffffff", "#73b2e4"])
    extent = (-EDGE, EDGE, -EDGE, EDGE)
    axes.imshow(surface, extent=extent, origin="lower", cmap=colors, vmin=-1, vmax=1, interpolation="bilinear")
    if surface.min() < 0 < surface.max():
        axes.contour(surface, levels=[0], extent=extent, colors="#1b1b1b", linewidths=1.5)
    for label, marker in ((0, "o"), (1, "s")):
        for chosen, size, edge in ((~points.own, 11, "white"), (points.own, 44, "#1b1b1b")):
            x, y = points.places[chosen & (points.labels == label)].numpy().T
            axes.scatter(x, y, s=size, marker=marker, c=COLORS[label], edgecolors=edge, linewidths=size / 30)
    axes.set(xlim=(-EDGE, EDGE), ylim=(-EDGE, EDGE), xticks=(-1, 0, 1), yticks=(-1, 0, 1))
    axes.tick_params(labelsize=9)
    axes.set_xlabel("x", fontsize=9, labelpad=1)
    axes.set_ylabel("y", fontsize=9, labelpad=-2, rotation=0)


def _draw_loss(axes, lab: Lab, whole: list[Record], until: int) -> None:
    history = [r for r in whole if r.epoch <= until]
    epochs = [r.epoch for r in history]
    marker = "o" if len(epochs) == 1 else None  # a line of one point would not be seen
    if len(lab.x_test):
        axes.plot(epochs, [r.test_loss for r in history], color=COLORS["test"], lw=4, marker=marker, label="test")
    axes.plot(epochs, [r.train_loss for r in history], color=COLORS["train"], lw=1.2, marker=marker, label="train")
    if lab.twin is not None:
        name = "PyTorch" if lab.settings.bug == "none" else "healthy twin's"
        which = "test" if len(lab.x_test) else "train"
        losses = [getattr(r, f"twin_{which}_loss") for r in history]
        axes.plot(epochs, losses, "--", color=COLORS["twin"], label=f"{name} {which}")
    axes.set_xlabel("epoch", fontsize=9)
    axes.set_ylabel("loss (mean)", fontsize=9)
    axes.tick_params(labelsize=9)
    axes.set(xlim=(0, max(10, epochs[-1])), yscale="log")
    losses = [loss for r in whole for loss in r[1:3] + r[5:] if 0 < loss < math.inf]
    axes.set_ylim(0.7 * min([0.1, *losses]), 1.4 * max([1, *losses]))
    axes.minorticks_off()
    axes.legend(frameon=False, fontsize=8, loc="upper right")


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _number(value: float, digits: int) -> str:
    return "–" if math.isnan(value) else f"{value:.{digits}f}"
