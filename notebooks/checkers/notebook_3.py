"""The checkers of notebook 3, the circle."""

import math

import torch
from course import AnswerError, call, expect

from experiment import MODELS, Protocol, build_network, error_rate, one_hot, train


def exercise_1(error, deviation):
    expect("the error rate in percent", error, 50, {"give it in percent, not as a fraction.": 0.5})
    right = 100 * math.sqrt(0.25 / 1000)
    expect(
        "the standard deviation in percent",
        deviation,
        right,
        {
            "give it in percent, not as a fraction.": right / 100,
            "that is the number of points, √(n p (1 − p)). Divide it by n for the rate.": 1000 * right / 100,
            "that is the variance. Take the root.": 100 * 0.25 / 1000,
            "p (1 − p) belongs below the root, too.": 100 * 0.25 / math.sqrt(1000),
        },
        tolerance=0.005,
    )
    return "So 48 % on 1000 points may well be luck, and 40 % is not."


def exercise_2(radius):
    for share in (0.5, 0.25, 0.1):
        right = math.sqrt(4 * share / math.pi)
        expect(
            f"radius({share})",
            call(radius, share),
            right,
            {
                "the square has sides of length 2, so its area is 4 and not 1.": math.sqrt(share / math.pi),
                "that is r². Take the root.": 4 * share / math.pi,
                "that is the diameter.": 2 * right,
                "it has to depend on the share.": math.sqrt(2 / math.pi) if share != 0.5 else math.nan,
            },
        )
    return "A share of one half gives √(2/π), the radius of the report."


def exercise_3(confusion):
    labels = torch.tensor([0, 0, 0, 0, 0, 0, 1, 1, 1, 1])
    predicted = torch.tensor([0, 0, 0, 1, 1, 0, 1, 0, 1, 1])
    right = torch.tensor([[4, 2], [1, 3]])
    expect(
        "the table",
        call(confusion, labels, predicted),
        right,
        {
            "rows and columns are exchanged: the row is the true label, the column the predicted one.": right.T,
            "those are shares. Return the numbers of points.": right / 10,
            "the order of the labels is reversed: row 0 and column 0 belong to label 0.": right.flip(0, 1),
        },
    )
    return "Off the diagonal are the mistakes: 3 of 10."


def exercise_4(ring_data):
    points, labels = _pair(call(ring_data, 2000, torch.Generator().manual_seed(0)))
    if points.shape != (2000, 2) or labels.shape != (2000,):
        raise AnswerError(f"ring_data(2000) has shapes {tuple(points.shape)} and {tuple(labels.shape)}.")
    if points.dtype != torch.float32 or labels.dtype != torch.int64:
        raise AnswerError(f"points should be float32 and labels int64, but they are {points.dtype} and {labels.dtype}.")
    if points.min() < -1 or points.max() > 1 or points.min() > -0.9 or points.max() < 0.9:
        raise AnswerError("the points should fill the square from -1 to 1: map what torch.rand gives by x → 2x − 1.")
    again, _ = _pair(call(ring_data, 2000, torch.Generator().manual_seed(0)))
    if not torch.equal(points, again):
        raise AnswerError("the same generator should give the same points: pass it on to torch.rand.")
    distance, outer = points.norm(dim=1), math.sqrt(2 / math.pi + 0.4**2)
    if labels[distance < 0.39].any():
        raise AnswerError("there are points nearer than 0.4 with label 1: the ring has a hole.")
    if not labels[(distance > 0.41) & (distance < outer - 0.01)].all():
        raise AnswerError(f"not all points of the ring have label 1. Its outer radius is √(2/π + 0.4²) = {outer:.3f}.")
    if labels[distance > outer + 0.01].any():
        raise AnswerError(
            f"there are points beyond the ring with label 1. Its outer radius is √(2/π + 0.4²) = {outer:.3f}."
        )
    error = _train_on(ring_data)
    if error > 0.15:
        raise AnswerError(f"the labels look right, but the network is wrong on {error:.0%} of new points.")
    return "Half of the square, and the network learns it: less than 15 % of new points are labelled wrongly."


def _pair(data) -> tuple[torch.Tensor, torch.Tensor]:
    if not (isinstance(data, tuple) and len(data) == 2 and all(isinstance(part, torch.Tensor) for part in data)):
        raise AnswerError("ring_data should return two tensors, points and labels.")
    return data


def _train_on(ring_data) -> float:
    generator = torch.Generator().manual_seed(1)
    points, labels = ring_data(1000, generator)
    test = ring_data(1000, generator)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        network = build_network("diy")
        train(network, MODELS["diy-tuned"], Protocol(epochs=50), points, one_hot(labels), generator)
    return error_rate(network, *test)
