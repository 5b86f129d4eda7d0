"""The checkers of notebook 6, convolutions."""

import torch
from course import AnswerError, call, expect, expect_gradients

from diy import Conv2d


def exercise_1(output_size) -> str:
    for size, kernel, stride, padding in ((28, 5, 1, 2), (28, 5, 1, 0), (9, 3, 2, 0), (8, 3, 2, 0), (8, 3, 3, 1)):
        expected = Conv2d(1, 1, kernel, stride, padding)(torch.zeros(1, 1, size, size)).shape[2]
        places = size + 2 * padding - kernel
        mistakes = {
            "you counted the steps; there is one more window than steps.": places // stride,
            "the padding lies on both sides.": (size + padding - kernel) // stride + 1,
            "the last window must lie within the image: the kernel's own size counts.": (size + 2 * padding) // stride,
            "half a step gives no window: round down.": places / stride + 1,
            "the stride does not count yet.": places + 1,
        }
        what = f"output_size({size}, {kernel}, {stride}, {padding})"
        expect(what, call(output_size, size, kernel, stride, padding), expected, mistakes)
    expect("output_size(7, 3)", call(output_size, 7, 3), 5)
    return "So LeNet makes 28 pixels 28, then 14, 10 and 5."


def exercise_2(kernel) -> str:
    try:
        weight = torch.as_tensor(kernel, dtype=torch.float64)
    except (TypeError, ValueError, RuntimeError):
        raise AnswerError(f"the kernel should be three rows of three numbers, but is {kernel!r}.") from None
    if weight.shape != (3, 3):
        raise AnswerError(f"the kernel should have shape (3, 3), but has {tuple(weight.shape)}.")
    image = torch.arange(1.0, 17.0, dtype=torch.float64).reshape(1, 1, 4, 4)
    layer = Conv2d(1, 1, 3, padding=1, bias=False, dtype=torch.float64)
    layer.weight.copy_(weight)

    def moved(down: int, right: int) -> torch.Tensor:
        framed = torch.zeros(6, 6, dtype=torch.float64)
        framed[1 + down : 5 + down, 1 + right : 5 + right] = image[0, 0]
        return framed[1:5, 1:5]

    mistakes = {
        "that moves it to the left: the kernel is not flipped, the window looks where the 1 is.": moved(0, -1),
        "that moves it down.": moved(1, 0),
        "that moves it up.": moved(-1, 0),
        "that leaves it where it is.": moved(0, 0),
    }
    expect("the image", layer(image)[0, 0], moved(0, 1), mistakes)
    return "To bring something from the left, look to the left."


def exercise_3(avg_pool) -> str:
    module, images = call(avg_pool), torch.randn(2, 3, 4, 6, generator=torch.Generator().manual_seed(0)).double()
    windows = images.reshape(2, 3, 2, 2, 3, 2)
    mistakes = {
        "that is the sum of each window: divide by four.": windows.sum((3, 5)),
        "that is the largest of each window.": windows.amax((3, 5)),
        "that is the mean over every second pixel, not over neighbours.": images.reshape(2, 3, 2, 2, 2, 3).mean((2, 4)),
    }
    expect(
        "AvgPool2d()(images)", call(module, images.clone(), name="AvgPool2d.forward"), windows.mean((3, 5)), mistakes
    )
    expect_gradients(module, images)
    return "A quarter for each, and no kink anywhere."


def exercise_4(cross_entropy) -> str:
    scores = torch.tensor([2.0, -1.0, 0.5], dtype=torch.float64)
    for target in range(3):
        expected = torch.logsumexp(scores, 0) - scores[target]
        mistakes = {
            "the sign is wrong: a loss is large when the right class got little.": -expected,
            "that is the probability itself; take the logarithm.": (-expected).exp(),
            "that leaves out the largest score that you took out.": expected - scores.max(),
            "the logarithm to base e is meant.": expected / torch.tensor(10.0).log(),
        }
        got = call(cross_entropy, scores.clone(), target)
        expect(f"cross_entropy(scores, {target})", got, expected, mistakes)
    large = torch.tensor([1000.0, 0.0, -1000.0], dtype=torch.float64)
    for target, expected in enumerate((0.0, 1000.0, 2000.0)):
        got = torch.as_tensor(call(cross_entropy, large.clone(), target))
        if not got.isfinite().all():
            raise AnswerError(f"for scores of 1000 it is {got.item()}: lower all scores by the largest before exp.")
        expect(f"cross_entropy of large scores, class {target}", got, expected)
    return "And 1000 is no problem for it."
