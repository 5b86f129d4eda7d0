"""Drawings of the notebooks that are more drawing than code to learn from."""

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from course import GRAY, VERMILION, WIDTH, plt

_NODE = {"boxstyle": "circle,pad=0.25", "facecolor": "white", "edgecolor": "0.5", "linewidth": 1}


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
