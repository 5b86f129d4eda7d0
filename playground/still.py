"""What the playground shows, without a kernel: numbers for drawing, a picture, and a recorded run with a slider."""

import base64
import html
import io
import json
import math

import torch
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from playground.lab import EDGE, Lab

SHOWN = 400
"""How many of the training points are drawn; a learner's own are drawn all."""

CURVE_POINTS = 400
BINS = 30
GRADIENT_RANGE = (-8.0, 2.0)
"""Powers of ten."""

COLORS = {0: "#D55E00", 1: "#0072B2", "train": "#000000", "test": "#009E73", "twin": "#CC79A7"}
"""Okabe and Ito's palette, which remains distinct with a colour-vision deficiency."""


def shown(lab: Lab) -> Tensor:
    """Return the indices of the training points that are drawn, the learner's own last."""
    drawn = len(lab.x) - len(lab.points)
    return torch.cat([torch.arange(min(drawn, SHOWN)), torch.arange(drawn, len(lab.x))])


def curve(lab: Lab) -> Tensor:
    """Return the loss curves, thinned out to about CURVE_POINTS rows: epoch, train, test, twin's train, twin's test."""
    stride = math.ceil(len(lab.history) / CURVE_POINTS)
    records = lab.history[::stride]
    if records[-1] is not lab.history[-1]:
        records.append(lab.history[-1])
    rows = [(r.epoch, r.train_loss, r.test_loss, r.twin_train_loss, r.twin_test_loss) for r in records]
    return torch.tensor(rows, dtype=torch.float32)


def histograms(lab: Lab) -> list[dict]:
    """Return, for each layer, counts of activations over a common range and of gradients' sizes over powers of ten.

    Exact zeros are left out of the bars and given as shares. The gradients' outermost bars hold what lies beyond them.
    """
    layers = lab.layers()
    finite = [layer.activations.nan_to_num(0, 0, 0) for layer in layers]
    low, high = -1.0, max(1.0, *(values.max().item() if values.numel() else 1.0 for values in finite))
    rows = []
    for layer, values in zip(layers, finite):
        row = {
            "name": layer.name,
            "range": (low, high),
            "activations": torch.histc(values[values != 0], BINS, low, high).int().tolist(),
            "zero_activations": (values == 0).float().mean().item() if values.numel() else None,
            "gradients": None,
            "zero_gradients": None,
        }
        if layer.gradient is not None:
            sizes = layer.gradient.abs().nan_to_num(0, 0, 0)
            powers = sizes[sizes > 0].log10().clamp(*GRADIENT_RANGE)
            row["gradients"] = torch.histc(powers, BINS, *GRADIENT_RANGE).int().tolist()
            row["zero_gradients"] = (sizes == 0).float().mean().item()
        rows.append(row)
    return rows


def figure(lab: Lab, width: float = 9.0) -> Figure:
    """Draw plane, loss and histograms of the lab as it stands."""
    rows = histograms(lab)
    drawing = Figure(figsize=(width, 0.43 * width), layout="none")
    _draw_plane(drawing.add_axes((0.05, 0.07, 0.39, 0.9)), lab)
    _draw_loss(drawing.add_axes((0.53, 0.64, 0.45, 0.34)), lab)
    for place, part, limits, color in (
        ((0.53, 0.07, 0.22, 0.39), "activations", rows[0]["range"], "#3f8fc9"),
        ((0.76, 0.07, 0.22, 0.39), "gradients", GRADIENT_RANGE, "#b45f8f"),
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
        axes.set_title({"activations": "activations", "gradients": "log₁₀ |∂ℓ/∂W|"}[part], fontsize=9, pad=3)
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
    now = lab.history[-1]
    text = f"Decision surface, loss curves and histograms of each layer after {lab.epoch} epochs of {lab!r}: "
    return text + f"train error {_number(100 * now.train_error, 0)} %, test error {_number(100 * now.test_error, 0)} %."


def png(lab: Lab) -> str:
    """Return `figure(lab)` as a PNG in base64, the same bytes for the same lab."""
    return _encode(figure(lab))


class Recording:
    """A run that was recorded: pictures with a slider, which need no kernel, and no network either.

    Args:
        lab: it is trained from where it stands.
        epochs: after how many epochs a picture is taken, in rising order.
    """

    def __init__(self, lab: Lab, epochs: tuple[int, ...] = (0, 1, 2, 4, 8, 15, 30, 50, 75, 100)):
        self.frames: list[tuple[str, str]] = []
        for epoch in epochs:
            while lab.epoch < epoch:
                lab.run_epoch()
            now = lab.history[-1]
            loss, error = _number(now.test_loss, 3), _number(100 * now.test_error, 1)
            caption = f"Epoch {lab.epoch}: test loss {loss}, test error {error} %."
            drawing = Figure(figsize=(7.2, 3.1), layout="none")
            _draw_plane(drawing.add_axes((0.05, 0.09, 0.38, 0.88)), lab)
            axes = drawing.add_axes((0.53, 0.17, 0.45, 0.8))
            _draw_loss(axes, lab)
            axes.set(xlim=(0, max(1, epochs[-1])), ylim=(0.01, 1.5))
            self.frames.append((caption, _encode(drawing, dpi=75, colors=128)))

    def __repr__(self) -> str:
        return f"Recording of {len(self.frames)} pictures"

    def _repr_html_(self) -> str:
        # Where scripts are not allowed, the last picture remains.
        last = self.frames[-1]
        data = html.escape(json.dumps(self.frames), quote=True)
        show = (
            "const f = JSON.parse(this.dataset.frames)[this.value], box = this.closest('figure');"
            "box.querySelector('img').src = 'data:image/png;base64,' + f[1];"
            "box.querySelector('img').alt = 'Decision surface and loss curves. ' + f[0];"
            "box.querySelector('output').textContent = f[0];"
            "this.setAttribute('aria-valuetext', f[0]);"
        )
        return (
            '<figure style="margin: 0; max-width: 560px; background: white; color: black; padding: 6px">'
            f'<img style="width: 100%" alt="Decision surface and loss curves. {last[0]}" '
            f'src="data:image/png;base64,{last[1]}">'
            "<figcaption><label>Move through the run: "
            f'<input type="range" min="0" max="{len(self.frames) - 1}" value="{len(self.frames) - 1}" '
            f'style="width: 60%; vertical-align: middle" data-frames="{data}" oninput="{html.escape(show)}" '
            'data-lm-suppress-shortcuts="true"></label>'
            f"<br><output>{last[0]}</output></figcaption></figure>"
        )


def _draw_plane(axes, lab: Lab) -> None:
    surface = lab.surface(80).flipud().numpy()
    colors = LinearSegmentedColormap.from_list("classes", ["#f5b464", "#ffffff", "#73b2e4"])
    extent = (-EDGE, EDGE, -EDGE, EDGE)
    axes.imshow(surface, extent=extent, origin="lower", cmap=colors, vmin=-1, vmax=1, interpolation="bilinear")
    if surface.min() < 0 < surface.max():
        axes.contour(surface, levels=[0], extent=extent, colors="#1b1b1b", linewidths=1.5)
    indices = shown(lab)
    own = indices >= len(lab.x) - len(lab.points)
    for label, marker in ((0, "o"), (1, "s")):
        for chosen, size, edge in ((~own, 11, "white"), (own, 44, "#1b1b1b")):
            points = lab.x[indices[chosen & (lab.labels[indices] == label)]].numpy()
            axes.scatter(*points.T, s=size, marker=marker, c=COLORS[label], edgecolors=edge, linewidths=size / 30)
    axes.set(xlim=(-EDGE, EDGE), ylim=(-EDGE, EDGE), xticks=(-1, 0, 1), yticks=(-1, 0, 1))
    axes.tick_params(labelsize=9)


def _draw_loss(axes, lab: Lab) -> None:
    epochs = [r.epoch for r in lab.history]
    marker = "o" if len(epochs) == 1 else None  # a line of one point would not be seen
    axes.plot(epochs, [r.test_loss for r in lab.history], color=COLORS["test"], lw=4, marker=marker, label="test")
    axes.plot(epochs, [r.train_loss for r in lab.history], color=COLORS["train"], lw=1.2, label="train")
    if lab.twin is not None:
        axes.plot(epochs, [r.twin_test_loss for r in lab.history], "--", color=COLORS["twin"], label="PyTorch test")
    axes.set_xlabel("epoch", fontsize=9)
    axes.set_ylabel("loss (mean)", fontsize=9)
    axes.tick_params(labelsize=9)
    axes.set(xlim=(0, max(10, epochs[-1])), yscale="log")
    losses = [loss for r in lab.history for loss in (r.train_loss, r.test_loss) if 0 < loss < math.inf]
    axes.set_ylim(0.7 * min([0.1, *losses]), 1.4 * max([1, *losses]))
    axes.minorticks_off()
    axes.legend(frameon=False, fontsize=8, loc="upper right")


def _number(value: float, digits: int) -> str:
    return "–" if math.isnan(value) else f"{value:.{digits}f}"


def _encode(drawing: Figure, dpi: int = 90, colors: int | None = None) -> str:
    buffer = io.BytesIO()
    drawing.savefig(buffer, format="png", dpi=dpi, metadata={"Software": None})
    if colors:  # a palette makes the file four times smaller
        image = Image.open(buffer).convert("RGB").quantize(colors)
        buffer = io.BytesIO()
        image.save(buffer, format="png", optimize=True)
    return base64.b64encode(buffer.getvalue()).decode()
