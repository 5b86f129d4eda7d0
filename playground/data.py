"""The playground's data sets: points of the plane [-1, 1]² in two classes, 0 and 1.

Each function takes the number of points, a generator, and the standard deviation of the noise that is added to the
points after they got their labels. It returns points, (size, 2), float32, and labels, (size,), int64.
"""

import math

import torch
from torch import Tensor

from experiment import disk_data


def circle(size: int, generator: torch.Generator | None = None, noise: float = 0.0) -> tuple[Tensor, Tensor]:
    """The report's task: class 1 inside a disk that covers half of the square, class 0 outside."""
    points, labels = disk_data(size, generator)
    return _noisy(points, noise, generator), labels


def moons(size: int, generator: torch.Generator | None = None, noise: float = 0.0) -> tuple[Tensor, Tensor]:
    """Two half circles, the end of each in the hollow of the other."""
    labels = torch.arange(size) % 2
    angle = math.pi * torch.rand(size, generator=generator)
    side = 1 - 2 * labels  # +1 for class 0, the upper moon, and -1 for class 1
    points = torch.stack([0.6 * side * angle.cos() - 0.3 * side, side * (0.7 * angle.sin() - 0.2)], dim=1)
    return _noisy(points, noise, generator), labels


def xor(size: int, generator: torch.Generator | None = None, noise: float = 0.0) -> tuple[Tensor, Tensor]:
    """Class 1 where exactly one coordinate is positive: no straight line separates it from class 0."""
    points = 2 * torch.rand(size, 2, generator=generator) - 1
    return _noisy(points, noise, generator), ((points[:, 0] > 0) != (points[:, 1] > 0)).long()


def spiral(size: int, generator: torch.Generator | None = None, noise: float = 0.0) -> tuple[Tensor, Tensor]:
    """Two arms that wind around the centre, one and three quarters of a turn each."""
    labels = torch.arange(size) % 2
    radius = torch.rand(size, generator=generator).sqrt()  # the arm is as densely set outside as inside
    angle = 3.5 * math.pi * radius + math.pi * labels
    points = 0.95 * radius[:, None] * torch.stack([angle.cos(), angle.sin()], dim=1)
    return _noisy(points, noise, generator), labels


DATA_SETS = {"circle": circle, "moons": moons, "xor": xor, "spiral": spiral}


def _noisy(points: Tensor, noise: float, generator: torch.Generator | None) -> Tensor:
    return points + noise * torch.randn(points.shape, generator=generator)
