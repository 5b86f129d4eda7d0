"""The checkers of the notebook about the circle."""

import math

import torch
from torch import Tensor

from experiments.circle import MODELS, Protocol, build_network, error_rate, one_hot, train
from gradcheck import digits

from .answers import AnswerError, expect, expect_number, expect_numbers, tensor
from .running import run

PERCENT = "%", "percent"


def exercise_1(error, deviation) -> str:
    mistakes = {
        "give it in percent, not as a fraction.": 0.5,
        "a network that learned nothing can do no better than a coin.": 0,
        "a network that always errs would be a good one: exchange its labels.": 100,
    }
    hint = "Think of a network that gives every point label 1: how many of the points have label 0?"
    expect_number("The error rate in percent", error, 50, mistakes, hint, rounded=True, units=PERCENT)
    right = 100 * math.sqrt(0.25 / 1000)
    mistakes = {
        "give it in percent, not as a fraction.": right / 100,
        "that is the number of points, √(n p (1 − p)). Divide it by n for the rate.": 1000 * right / 100,
        "that is the variance. Take the root.": 100 * 0.25 / 1000,
        "that is the variance, as a fraction. Take the root.": 0.25 / 1000,
        "p (1 − p) belongs under the root, too.": 100 * 0.25 / math.sqrt(1000),
        "that is for a single point. Divide by the root of the number of points.": 50,
        "1 − p is missing.": 100 * math.sqrt(0.5 / 1000),
        "that is the difference of two networks, each on its own points; here it is one.": right * math.sqrt(2),
        "p (1 − p) is missing.": 100 / math.sqrt(1000),
        "that is a confidence interval of two standard deviations.": 2 * right,
    }
    hint = "Use the formula for n points with p from the error rate and n = 1000."
    expect_number("The standard deviation in percent", deviation, right, mistakes, hint, rounded=True, units=PERCENT)
    return "Three figures are enough. So 48 % on 1000 points may well be luck, and 40 % is not."


def exercise_2(radius) -> str:
    cases = []
    for share in 0.25, 0.1, 0.5, 0.7:
        right = math.sqrt(4 * share / math.pi)
        mistakes = {
            "the square has sides of length 2: which area is that?": math.sqrt(share / math.pi),
            "that is r². Take the root.": 4 * share / math.pi,
            "that is the diameter.": 2 * right,
            "π belongs under the root.": 2 * math.sqrt(share) / math.pi,
            "π is missing: the area of a disk is π r².": 2 * math.sqrt(share),
            "the circumference is not asked for: the area of a disk is π r².": 4 * share / (2 * math.pi),
            "the square has sides of length 2, and its area is more than that.": math.sqrt(2 * share / math.pi),
            "that is the disk's area, and its radius is asked for.": 4 * share,
        }
        cases.append((f"radius({share})", run("radius", radius, share=share), right, mistakes, (share,)))

    def hint(r: float, share: float) -> str:
        if r < 0:
            return "A radius is not negative."
        covered, wanted = digits(100 * math.pi * r * r / 4, 100 * share, 3)
        return f"A disk of that radius covers {covered} % of the square, not {wanted} %."

    expect_numbers(cases, hint)
    return "A share of one half gives √(2/π), the radius of the report."


def exercise_3(confusion) -> str:
    cases = [
        ("1011010111", "1110011001"),  # all four numbers differ, so that no two mistakes coincide
        ("0001001111", "0001010111"),
        ("0000001111", "0001101011"),
        ("1110", "0101"),
        ("0101", "1111"),
        ("000", "000"),
    ]
    cases += [("111", "101"), ("00110", "00000")]
    for one, other in cases:
        labels, predicted = (torch.tensor([int(digit) for digit in text]) for text in (one, other))
        right = torch.bincount(2 * labels + predicted, minlength=4).reshape(2, 2)
        by_label = right.sum(1, keepdim=True)
        mistakes = {
            "rows and columns are exchanged: the row is the true label, the column the predicted one.": right.T,
            "those are shares. Return the numbers of points.": right / len(labels),
            "those are shares of each label. Return the numbers of points.": right / by_label,
            "the order of the labels is reversed: row 0 and column 0 belong to label 0.": right.flip(0, 1),
            "the columns are exchanged: column 0 is for those predicted as 0.": right.flip(1),
            "the rows are exchanged: row 0 is for the points of label 0.": right.flip(0),
            "only the mistakes are counted; those that are right belong on the diagonal.": right - right.diag().diag(),
            "the four numbers are right; arrange them in two rows and two columns.": right.flatten(),
            "that is whether such points exist. Count them.": (right > 0).long(),
            "that counts the mistakes alone; four numbers are asked for.": (labels != predicted).sum(),
            "that is the error rate; four numbers are asked for.": (labels != predicted).double().mean(),
        }
        case = f'labels "{one}" predicted as "{other}"'
        what = f"The table for {case}"
        try:
            got = tensor(what, run("confusion", confusion, labels=labels, predicted=predicted))
        except AnswerError as error:
            raise AnswerError(f"{error} That was for {case}." if " raises " in str(error) else str(error)) from None
        if len({*one}) < 2 or len({*other}) < 2:
            mistakes = {"the row or column of a label that is absent should be 0, and the others as always.": got}
        expect(what, got, right, mistakes)
    return "Off the diagonal are the mistakes, and none was missed when a label was absent."


HOLE = 0.4
OUTER = math.sqrt(2 / math.pi + HOLE**2)
EDGE = 6e-4
"""How well 20,000 points tell where a ring ends: beyond a radius of 0.4, a wider gap has a probability below 1e-3."""


def exercise_4(ring_data) -> str:
    torch.set_default_dtype(torch.float32)
    points, labels = _drawn(ring_data, 20_000, 0)
    again, _ = _drawn(ring_data, 20_000, 0)
    other, _ = _drawn(ring_data, 20_000, 1)
    if not torch.equal(points, again) or torch.equal(points, other):
        words = "gives other points a second time" if not torch.equal(points, again) else "does not change the points"
        raise AnswerError(f"The generator {words}: hand it on, torch.rand(..., generator=generator).")
    _check_points(points)
    _check_labels(points, labels)
    _drawn(ring_data, 7, 3)
    _pair(run("ring_data", ring_data, size=5), 5)
    error = _train_on(ring_data)
    if error > 0.15:
        raise AnswerError(f"The labels look right, but the network is wrong on {error:.0%} of new points.")
    return "Half of the square, and the network learns it: less than 15 % of new points are labelled wrongly."


def _drawn(ring_data, size: int, seed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return _pair(run("ring_data", ring_data, size=size, generator=generator), size)


def _pair(data, size: int) -> tuple[Tensor, Tensor]:
    if not isinstance(data, (tuple, list)) or len(data) != 2:
        raise AnswerError("ring_data should return two tensors, points and labels.")
    try:
        points, labels = (torch.as_tensor(part) for part in data)
    except Exception:
        raise AnswerError("ring_data should return two tensors, points and labels.") from None
    if points.shape == (2, size) != (size, 2):
        raise AnswerError(f"The points have shape (2, {size}): samples are rows, ({size}, 2).")
    if points.shape != (size, 2) or labels.shape != (size,):
        got = f"{tuple(points.shape)} and {tuple(labels.shape)}"
        raise AnswerError(f"ring_data({size}) should have the shapes ({size}, 2) and ({size},), but has {got}.")
    if points.dtype != torch.float32 or labels.dtype != torch.int64:
        hint = "labels.long() converts" if labels.dtype != torch.int64 else "points.float() converts"
        raise AnswerError(
            f"Points should be float32 and labels int64, but are {points.dtype} and {labels.dtype}: {hint}."
        )
    if points.isnan().any():
        raise AnswerError("Some points are not numbers, NaN.")
    return points.detach(), labels


def _check_points(points: Tensor) -> None:
    low, high = points.min(), points.max()
    if low >= 0 and high <= 1:
        raise AnswerError("The points fill the square from 0 to 1 only: map what torch.rand gives to [-1, 1].")
    if low < -1 or high > 1:
        raise AnswerError(f"Points should lie in [-1, 1]², but go from {low:.3g} to {high:.3g}.")
    if low > -0.99 or high < 0.99:
        raise AnswerError(f"The points should fill the square from -1 to 1, but go from {low:.3g} to {high:.3g} only.")
    # Over 20,000 points of the square, a share is off by less than 2 %, six standard deviations.
    x, y = points.T
    shares = [float(((x * a > 0) & (y * b > 0)).double().mean()) for a in (1, -1) for b in (1, -1)]
    inner = float((points.abs().amax(1) < 0.5).double().mean())
    if max(abs(share - 0.25) for share in (*shares, inner)) > 0.02:
        raise AnswerError("The points do not fill the square evenly: each coordinate of each point is drawn by itself.")


def _check_labels(points: Tensor, labels: Tensor) -> None:
    distance, ones = points.double().norm(dim=1), labels == 1
    if not ((labels == 0) | ones).all():
        raise AnswerError(f"Labels should be 0 and 1, but there are {sorted(set(labels.tolist()))[:5]}.")
    inside = (distance > HOLE) & (distance < OUTER)
    wrong = (ones != inside) & ((distance - HOLE).abs() > 0.005) & ((distance - OUTER).abs() > 0.005)
    if not wrong.any():
        return
    if not ones.any() or ones.all():
        raise AnswerError(f"All points have the label {int(labels[0])}.")

    def ring(low: float, high: float) -> bool:
        """Whether label 1 is what lies between these two distances."""
        other = ones != ((distance > low) & (distance < high))
        return bool(other.double().mean() < 0.005)

    if ring(0, HOLE) or bool((ones == inside).double().mean() < 0.005):
        raise AnswerError("The labels are exchanged: those in the ring are 1.")
    first, last = float(distance[ones].min()), float(distance[ones].max())
    if not ring(first - 1e-9, last + 1e-9):
        raise AnswerError("The points of label 1 are not those between two distances from the origin, √(x² + y²).")
    if last > 1.4:
        raise AnswerError("The ring has no outer edge: points in the corners of the square have label 1.")
    if abs(first - math.sqrt(HOLE)) < EDGE:
        raise AnswerError("The hole is too large: a squared distance is compared with a distance. Square 0.4, too.")
    if abs(first - HOLE**2) < EDGE:
        raise AnswerError("The hole is too small: a distance is compared with a squared distance.")
    if first < 0.03:
        raise AnswerError("There are points nearer than 0.4 with label 1: the ring has a hole.")
    if abs(first - HOLE) > 0.005:
        raise AnswerError(f"The hole ends at {first:.3g}, and should end at 0.4.")
    outer = {
        "At the outer edge a squared distance is compared with a distance: square the radius.": math.sqrt(OUTER),
        "At the outer edge a distance is compared with a squared distance: take the root.": OUTER**2,
        "That is the outer radius of the disk: here the hole takes a part of the area away.": math.sqrt(2 / math.pi),
        "The hole's area makes the outer radius larger, not smaller.": math.sqrt(2 / math.pi - HOLE**2),
        "The square has sides of length 2: which area is its half?": math.sqrt(0.5 / math.pi + HOLE**2),
        "The square has sides of length 2: which area is half of it?": math.sqrt(1 / math.pi + HOLE**2),
        "The hole's radius was added to the disk's; areas add up, not radii.": math.sqrt(2 / math.pi) + HOLE,
        "The hole's radius is to be squared before it is added.": math.sqrt(2 / math.pi + HOLE),
    }
    share = f"Now {ones.double().mean():.1%} of the points have label 1."
    for words, radius in outer.items():
        if abs(last - radius) < EDGE:
            raise AnswerError(f"{words} {share}")
    raise AnswerError(f"Half of the square should have label 1: choose another outer radius. {share}")


def _train_on(ring_data) -> float:
    generator = torch.Generator().manual_seed(1)
    (points, labels), test = (
        _pair(run("ring_data", ring_data, size=1000, generator=generator), 1000) for _ in range(2)
    )
    torch.manual_seed(1)
    network = build_network("diy")
    train(network, MODELS["diy-tuned"], Protocol(epochs=50), points, one_hot(labels), generator)
    return error_rate(network, *test)
