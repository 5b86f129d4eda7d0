"""Drawings of the notebooks that are more drawing than code to learn from."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from torch import Tensor

from course import BLUE, GRAY, ORANGE, VERMILION, WIDTH, plt
from diy import MSELoss, Sequential
from experiments.circle import RADIUS

_NODE = {"boxstyle": "circle,pad=0.25", "facecolor": "white", "edgecolor": "0.5", "linewidth": 1}
_LABELS = LinearSegmentedColormap.from_list("labels", [ORANGE, "white", BLUE])  # from label 0 to label 1


def layer_paths() -> Figure:
    """Draw a layer of two inputs and two neurons that sees two samples, and the paths of one weight and one input."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(WIDTH, 3.6))
    _layer(left, {(1, 1, 1), (2, 1, 1)}, label="$W_{11}$", title="$W_{11}$: one path per sample")
    _layer(right, {(1, 1, 1), (1, 1, 2)}, label="", title="$X_{11}$: one path per neuron")
    return figure


def _layer(ax: Axes, paths: set[tuple[int, int, int]], label: str, title: str) -> None:
    # A path is (sample n, input i, neuron k).
    for n in (1, 2):
        height = {1: 3.4 - 2.2 * (n - 1), 2: 2.4 - 2.2 * (n - 1)}
        for i in (1, 2):
            for k in (1, 2):
                marked = (n, i, k) in paths
                colour, width = (VERMILION, 3) if marked else ("0.85", 1.2)
                ax.plot((0, 1), (height[i], height[k]), color=colour, lw=width, zorder=1 + marked)
                if marked:
                    ax.text(0.5, height[i] + 0.1, label, ha="center", color=VERMILION, fontsize=13)
        for j in (1, 2):
            reached = any((n, i, j) in paths for i in (1, 2))
            node = _NODE | ({"edgecolor": VERMILION, "linewidth": 2} if reached else {})
            ax.text(0, height[j], f"$X_{{{n}{j}}}$", ha="center", va="center", fontsize=14, bbox=_NODE)
            ax.text(1, height[j], f"$S_{{{n}{j}}}$", ha="center", va="center", fontsize=14, bbox=node)
        ax.text(-0.3, (height[1] + height[2]) / 2, f"sample {n}", ha="center", va="center", rotation=90, color=GRAY)
    ax.set_title(title)
    ax.set(xlim=(-0.4, 1.2), ylim=(-0.15, 3.8))
    ax.axis("off")


def draw_activations() -> Figure:
    """Draw ReLU and tanh, each with its slope."""
    figure, axes = plt.subplots(1, 2, figsize=(WIDTH, 3.2), sharey=True)
    s = torch.linspace(-3, 3, 601)
    for ax, title, values, slopes in (
        (axes[0], "ReLU", s.relu(), torch.where(s.abs() < 0.005, float("nan"), (s > 0).to(s.dtype))),
        (axes[1], "tanh", s.tanh(), 1 - s.tanh() ** 2),
    ):
        ax.axhline(0, color="0.8", lw=1)
        ax.plot(s, values, color=BLUE, lw=2.5, label="σ(s)")
        ax.plot(s, slopes, "--", color=ORANGE, lw=2, label="its slope σ'(s)")
        ax.set(title=title, xlabel="s", ylim=(-1.2, 2), yticks=[-1, 0, 1, 2], xticks=[-3, 0, 3])
    axes[0].legend(frameon=False, loc="upper left")
    return figure


def draw_neuron() -> Figure:
    """Draw a neuron with three inputs and the numbers that pass through it."""
    figure, ax = plt.subplots(figsize=(WIDTH, 3))
    graph(
        ax,
        nodes={
            "x1": (0, 2, "$x_1$"),
            "x2": (0, 1, "$x_2$"),
            "x3": (0, 0, "$x_3$"),
            "b": (1.9, 2.2, "$b$"),
            "s": (1.9, 1, "$\\Sigma$"),
            "tanh": (3.1, 1, "tanh"),
        },
        edges=[
            ("x1", "s", "× ½", 0.5),
            ("x2", "s", "× (−1)", -2),
            ("x3", "s", "× (−2)", 2),
            ("b", "s", "", None),
            ("s", "tanh", "$s$", 0.75),
        ],
        values={"x1": 1, "x2": 2, "x3": -1, "b": 0.25, "tanh": 0.6351},
    )
    ax.set(xlim=(-0.7, 4), ylim=(-0.5, 2.6))
    return figure


def draw_framework() -> Figure:
    """Draw what notebook 3 builds: a network and its loss, with values, gradients and the optimizer."""
    figure, ax = plt.subplots(figsize=(WIDTH, 3.2))
    box = {"boxstyle": "round,pad=0.45", "facecolor": "white", "edgecolor": "0.5"}
    for i, name in enumerate(("Linear", "ReLU", "Linear", "Tanh", "MSELoss")):
        ax.text(i, 1, name, ha="center", va="center", fontsize=13, bbox=box)

    def arrow(start: tuple[float, float], end: tuple[float, float], colour: str) -> None:
        ax.annotate("", end, start, arrowprops={"arrowstyle": "-|>", "lw": 1.6, "color": colour})

    for i, (value, gradient) in enumerate((("X", "dX"), ("S", "dS"), ("", ""), ("", ""), ("P", "dP"), ("ℓ", ""))):
        left, right = i - 0.66, i - 0.34
        arrow((left, 1.08), (right, 1.08), BLUE)
        ax.text(i - 0.5, 1.18, value, ha="center", va="bottom", color=BLUE, fontsize=13)
        if i < 5:
            arrow((right, 0.92), (left, 0.92), VERMILION)
            ax.text(i - 0.5, 0.8, gradient, ha="center", va="top", color=VERMILION, fontsize=13)
    arrow((4, 1.6), (4, 1.17), BLUE)
    ax.text(4, 1.62, "T", ha="center", va="bottom", color=BLUE, fontsize=13)
    for i in (0, 2):
        arrow((i, 0.83), (i, 0.45), VERMILION)
        ax.text(i, 0.43, "weight.grad\nbias.grad", ha="center", va="top", color=VERMILION, fontsize=12)
        arrow((0.45 if i == 0 else 1.55, 0.25), (0.74 if i == 0 else 1.26, 0.25), VERMILION)
    ax.text(1, 0.25, "SGD", ha="center", va="center", fontsize=13, bbox=box)
    ax.plot([-0.3, -0.3, 3.3, 3.3], [1.42, 1.5, 1.5, 1.42], color="0.6", lw=1.2)
    ax.text(1.5, 1.54, "Sequential", ha="center", va="bottom", color="0.35", fontsize=13)
    ax.set(xlim=(-0.8, 4.8), ylim=(0, 1.85))
    ax.axis("off")
    return figure


def draw_network(network: Sequential, point: Tensor, target: Tensor | None = None) -> Figure:
    """Draw a network Linear(2, 2), ReLU, Linear(2, 1) with the values that a point gives and, with a target, gradients.

    The numbers on the edges come from the network's own forward and backward.
    """
    first, relu, last = network
    s = first(point[None])
    h = relu(s)
    y = last(h)
    values = {"x1": point[0], "x2": point[1], "s1": s[0, 0], "s2": s[0, 1], "h1": h[0, 0], "h2": h[0, 1], "y": y[0, 0]}
    V, W = last.weight, first.weight
    edges = [(f"x{i + 1}", f"s{k + 1}", f"× {_factor(W[k, i])}", W[k, i] * point[i]) for i in (0, 1) for k in (0, 1)]
    edges += [(f"s{k}", f"h{k}", "", None) for k in (1, 2)]
    edges += [(f"h{k + 1}", "y", f"× {_factor(V[0, k])}", V[0, k] * h[0, k]) for k in (0, 1)]
    nodes = {
        "x1": (0, 2, "$x_1$"),
        "x2": (0, 0, "$x_2$"),
        "s1": (2, 2, _with_bias(first.bias[0])),
        "s2": (2, 0, _with_bias(first.bias[1])),
        "h1": (3, 2, "ReLU"),
        "h2": (3, 0, "ReLU"),
        "y": (4.6, 1, _with_bias(last.bias[0])),
    }
    gradients: dict[str, Tensor] = {}
    back: dict[tuple[str, str], Tensor] = {}
    if target is not None:
        criterion = MSELoss(reduction="sum")
        values["loss"] = criterion(y, target.reshape(1, 1))
        nodes["loss"] = (5.9, 1, f"$(y-{_digits(target)})^2$")
        edges.append(("y", "loss", "", None))
        dy = criterion.backward()
        dh = last.backward(dy)
        ds = relu.backward(dh)
        dx = first.backward(ds)
        gradients = {"x1": dx[0, 0], "x2": dx[0, 1], "s1": ds[0, 0], "s2": ds[0, 1]}
        gradients |= {"h1": dh[0, 0], "h2": dh[0, 1], "y": dy[0, 0], "loss": torch.tensor(1.0)}
        back = {(f"x{i + 1}", f"s{k + 1}"): ds[0, k] * W[k, i] for i in (0, 1) for k in (0, 1)}
    figure, ax = plt.subplots(figsize=(WIDTH, 4))
    graph(ax, nodes, edges, values, gradients, back)
    ax.set(xlim=(-0.5, 6.5 if target is not None else 5.2), ylim=(-0.7, 2.6))
    return figure


def draw_fork() -> Figure:
    """Draw u → x = 2u, which forks into y = x + x², with values and gradients."""
    figure, ax = plt.subplots(figsize=(WIDTH, 3.4))
    graph(
        ax,
        nodes={"u": (0, 0, "$u$"), "x": (1.6, 0, "$x$"), "f": (3.2, 1.1, "$f=x^2$"), "y": (4.8, 0, "$y=x+f$")},
        edges=[("u", "x", "× 2", None), ("x", "f", "", None), ("f", "y", "", None), ("x", "y", "", None)],
        values={"u": 1.5, "x": 3, "f": 9, "y": 12},
        gradients={"u": 28, "x": "2 + 12 = 14", "f": 2, "y": 2},
        back={("x", "f"): 12, ("x", "y"): 2},
    )
    ax.set(xlim=(-0.6, 5.5), ylim=(-0.6, 1.7))
    return figure


def graph(
    ax: Axes,
    nodes: Mapping[str, tuple[float, float, str]],
    edges: Sequence[tuple],
    values: Mapping[str, object],
    gradients: Mapping[str, object] | None = None,
    back: Mapping[tuple[str, str], object] | None = None,
) -> None:
    """Draw nodes, {name: (x, y, label)}, and edges, (from, to, what happens on it, what comes out of that or None).

    Values stand above a node or an edge in blue, gradients below in vermilion; `back` holds those of the edges.
    """
    gradients, back, boxes = gradients or {}, back or {}, {}
    for name, (x, y, label) in nodes.items():
        node = ax.text(x, y, label, ha="center", va="center", fontsize=13, bbox=_NODE | {"boxstyle": "round,pad=0.35"})
        boxes[name] = node.get_bbox_patch()
        if name in values:
            ax.text(x, y + 0.27, _digits(values[name]), ha="center", va="bottom", fontsize=13, color=BLUE)
        if name in gradients:
            words = _digits(gradients[name])
            ax.text(x, y - 0.27, words, ha="center", va="top", fontsize=13, color=VERMILION, weight="bold")
    for start, end, label, value in edges:
        (x0, y0, _), (x1, y1, _) = nodes[start], nodes[end]
        ends = {"patchA": boxes[start], "patchB": boxes[end], "shrinkA": 2, "shrinkB": 2}
        ax.annotate("", (x1, y1), (x0, y0), arrowprops={"arrowstyle": "-|>", "color": "0.55", "lw": 1.2} | ends)
        at = 0.27 if abs(y1 - y0) > 1.5 else 0.5  # beside the place where two edges cross
        x, y = x0 + at * (x1 - x0), y0 + at * (y1 - y0)
        result = "" if value is None else f" = {_digits(value)}"
        box = {"facecolor": "white", "edgecolor": "none", "pad": 0.6}
        if label:
            ax.text(x, y + 0.1, label + result, ha="center", va="bottom", fontsize=11, color=BLUE, bbox=box)
        if (start, end) in back:
            words = _digits(back[start, end])
            ax.text(x, y - 0.06, words, ha="center", va="top", fontsize=12, color=VERMILION, bbox=box)
    ax.axis("off")


def _digits(number: object) -> str:
    return number if isinstance(number, str) else f"{float(number) + 0.0:.4g}".replace("-", "−")


def _factor(weight: Tensor) -> str:
    return f"({_digits(weight)})" if weight < 0 else _digits(weight)


def _with_bias(bias: Tensor) -> str:
    sign = "−" if bias < 0 else "+"
    return f"Σ {sign} {_digits(abs(bias))}" if bias else "Σ"


class View(NamedTuple):
    """What a network makes of the square.

    Attributes:
        surface: output 1 − output 0 on a grid of the square, (81, 81); the label is 1 where it is positive.
        wrong: the test points that get the wrong label, (count, 2).
        error: their share of all test points.
    """

    surface: Tensor
    wrong: Tensor
    error: float


def view(network: Sequential, points: Tensor, labels: Tensor) -> View:
    """Look at a network on the whole square, and at its mistakes on test points."""
    axis = torch.linspace(-1, 1, 81)
    outputs = network(torch.cartesian_prod(axis, axis))
    wrong = points[network(points).argmax(1) != labels]
    return View((outputs[:, 1] - outputs[:, 0]).reshape(81, 81).T, wrong, len(wrong) / len(points))


def draw_view(ax: Axes, view: View, title: str) -> None:
    """Draw a view: blue is label 1, orange 0, black the boundary, dashed the true circle; crosses are mistakes."""
    square = (-1, 1, -1, 1)
    colours = {"cmap": _LABELS, "vmin": -1.5, "vmax": 1.5}
    ax.contourf(view.surface, torch.linspace(-1.4, 1.4, 15).tolist(), extent=square, extend="both", **colours)
    if view.surface.min() < 0 < view.surface.max():
        ax.contour(view.surface, levels=[0], extent=square, colors="black", linewidths=2)
    ax.add_patch(plt.Circle((0, 0), RADIUS, fill=False, color=GRAY, linestyle="--"))
    ax.plot(*view.wrong.T, "x", color=VERMILION, markersize=4)
    ax.set(aspect="equal", xticks=[], yticks=[], title=f"{title}{100 * view.error:.1f} % wrong")
    ax.set(xlabel="$x_1$", ylabel="$x_2$")


def draw_views(views: Mapping[str, View]) -> Figure:
    """Draw views beside each other, three in a row, each below its name."""
    rows = (len(views) + 2) // 3
    figure, panels = plt.subplots(rows, 3, figsize=(WIDTH, 2.95 * rows + 0.3))
    for ax, (name, one) in zip(panels.flat, views.items()):
        draw_view(ax, one, f"{name}: ")
        ax.label_outer()
    return figure


def draw_disk(points: Tensor, labels: Tensor) -> Figure:
    """Draw points of the square, coloured by their labels, and the circle."""
    figure, ax = plt.subplots(figsize=(4.6, 4.7))
    for label, colour, marker in (1, BLUE, "o"), (0, ORANGE, "^"):
        ax.plot(*points[labels == label].T, marker, color=colour, markersize=3.5, label=f"label {label}")
    ax.add_patch(plt.Circle((0, 0), RADIUS, fill=False, color="black", linewidth=1.5))
    ax.set(aspect="equal", xlim=(-1, 1), ylim=(-1, 1), xticks=[-1, 0, 1], yticks=[-1, 0, 1])
    ax.set(xlabel="$x_1$", ylabel="$x_2$")
    ax.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncol=2, frameon=False)
    return figure
