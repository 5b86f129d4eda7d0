"""The playground's data sets: points of the plane [-1, 1]² in two classes, 0 and 1.

Each function takes the number of points and a generator, and returns points, (size, 2), float32, and labels, (size,),
int64. Each stands on its own: the program of a run contains its source.
"""

import math

import torch


def circle(size, generator=None):
    """The report's task: class 1 inside a disk that covers half of the square, class 0 outside."""
    points = 2 * torch.rand(size, 2, generator=generator) - 1
    return points, (points.square().sum(1) < math.sqrt(2 / math.pi) ** 2).long()


def moons(size, generator=None):
    """Two half circles, the end of each in the hollow of the other."""
    labels = torch.arange(size) % 2
    angle = math.pi * torch.rand(size, generator=generator)
    side = 1 - 2 * labels  # +1 for class 0, the upper moon, and -1 for class 1
    points = torch.stack([0.6 * side * angle.cos() - 0.3 * side, side * (0.7 * angle.sin() - 0.2)], dim=1)
    return points, labels


def xor(size, generator=None):
    """Class 1 where exactly one coordinate is positive: no straight line separates it from class 0."""
    points = 2 * torch.rand(size, 2, generator=generator) - 1
    return points, ((points[:, 0] > 0) != (points[:, 1] > 0)).long()


def spiral(size, generator=None):
    """Two arms that wind around the centre, one and three quarters of a turn each."""
    labels = torch.arange(size) % 2
    radius = torch.rand(size, generator=generator).sqrt()  # the arm is as densely set outside as inside
    angle = 3.5 * math.pi * radius + math.pi * labels
    points = 0.95 * radius[:, None] * torch.stack([angle.cos(), angle.sin()], dim=1)
    return points, labels


DATA_SETS = {"circle": circle, "moons": moons, "xor": xor, "spiral": spiral}

FEATURES = {"x": "{0}", "y": "{1}", "x²": "{0}**2", "y²": "{1}**2", "xy": "{0} * {1}"}
"""What a network can be given to see of a point: each as an expression of its coordinates."""
