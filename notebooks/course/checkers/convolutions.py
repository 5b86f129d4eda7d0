"""The checkers of the notebook about convolutions."""

import math

import torch

from diy import Conv2d

from .answers import AnswerError, expect, expect_number, expect_numbers, tensor
from .mistakes import AVERAGED
from .running import Passes, any_precision, check_memory, normal, run


def exercise_1(output_size) -> str:
    names, cases = ("size", "kernel", "stride", "padding"), []
    for case in [(28, 5, 1, 2), (10, 3, 2, 0), (9, 3, 2, 0), (8, 3, 3, 1), (11, 4, 3, 2), (7, 7, 1, 0), (32, 1, 5, 3)]:
        size, kernel, stride, padding = case
        expected = Conv2d(1, 1, kernel, stride, padding)(torch.zeros(1, 1, size, size)).shape[2]
        places = size + 2 * padding - kernel
        mistakes = {
            "you counted the steps; there is one more window than steps.": places // stride,
            "the padding lies on both sides.": (size + padding - kernel) // stride + 1,
            "the padding does not count yet.": (size - kernel) // stride + 1,
            "the padding makes the image larger, not smaller.": (size - 2 * padding - kernel) // stride + 1,
            "the last window must lie within the image: the kernel's own size counts.": (size + 2 * padding) // stride,
            "the last window must lie within: the kernel's own size counts.": (size + 2 * padding) // stride + 1,
            "half a step gives no window: round down.": places / stride + 1,
            "a part of a step gives no window: round down, not up.": math.ceil(places / stride) + 1,
            "a part of a step gives no window: round down, not to the nearest.": round(places / stride) + 1,
            "half a step gives no window: round down, and only then add.": math.ceil(places / stride),
            "the stride does not count yet.": places + 1,
            "the stride multiplies, and should divide.": places * stride + 1,
            "the extra window is not a step: add it after the division.": (places + 1) // stride,
            "that is one window too many.": places // stride + 2,
            "that is the number of pixels after padding.": size + 2 * padding,
            "only the padding is divided by the stride.": size + 2 * padding // stride - kernel + 1,
        }
        got = run("output_size", output_size, **dict(zip(names, case)))
        cases.append((f"output_size{case}", got, expected, mistakes, case))

    def hint(_, size: int, kernel: int, stride: int, padding: int) -> str:
        return (
            f"Draw {size + 2 * padding} pixels in a row, padding included, and move a window of {kernel} by {stride}."
        )

    expect_numbers(cases, hint)
    left_out = "Where stride and padding are left out they should be 1 and 0."
    for case, expected in ((7, 3), 5), ((9, 4, 2), 3):
        got = run("output_size", output_size, **dict(zip(names, case)))
        expect_number(f"output_size{case}", got, expected, hint=left_out)
    return "So in LeNet 28 pixels stay 28, and then become 14, 10 and 5."


@any_precision
def exercise_2(kernel) -> str:
    weight = tensor("The kernel", kernel, "three rows of three numbers")
    while weight.dim() > 2 and weight.shape[0] == 1:
        weight = weight[0]  # as Conv2d has it, (1, 1, 3, 3)
    if weight.shape != (3, 3):
        raise AnswerError(f"The kernel should be three rows of three numbers, but has shape {tuple(weight.shape)}.")
    if not weight.isfinite().all():
        raise AnswerError("The kernel holds a number that is infinite or NaN.")
    image = torch.arange(1.0, 21.0).reshape(1, 1, 4, 5)
    layer = Conv2d(1, 1, 3, padding=1, bias=False)
    layer.weight.copy_(weight)

    def moved(down: int, right: int) -> torch.Tensor:
        framed = torch.zeros(6, 7)
        framed[1 + down : 5 + down, 1 + right : 6 + right] = image[0, 0]
        return framed[1:5, 1:6]

    mistakes = {
        "that moves it to the left: the kernel is not flipped, the window looks where the 1 is.": moved(0, -1),
        "that moves it down.": moved(1, 0),
        "that moves it up.": moved(-1, 0),
        "that leaves it where it is.": moved(0, 0),
        "that moves it down as well.": moved(1, 1),
        "that moves it up as well.": moved(-1, 1),
        "that moves it to the left, and down.": moved(1, -1),
        "that moves it to the left, and up.": moved(-1, -1),
        "that is an image of zeros.": 0 * image[0, 0],
        "that adds the image to the moved one.": moved(0, 1) + moved(0, 0),
        "that is the difference of two neighbours, an edge detector.": moved(0, 1) - moved(0, -1),
        "that moves it, and turns bright into dark: the sign is wrong.": -moved(0, 1),
    }
    got = layer(image)[0, 0]
    if weight.bool().sum() == 1 and weight[1, 0] not in (0, 1, -1):
        raise AnswerError(
            f"The image is moved, and multiplied by {float(weight[1, 0]):.6g}: it should stay as bright as it is."
        )
    try:
        expect("The image", got, moved(0, 1), mistakes)
    except AnswerError as error:
        if "should be" not in str(error):
            raise
        words = "one weight is 1 and all others are 0" if weight.bool().sum() != 1 else "its one weight is 1"
        raise AnswerError(f"That does not move the image: in a kernel that moves, {words}.") from None
    return "To bring something from the left, look to the left."


@any_precision
def exercise_3(avg_pool) -> str:
    module = Passes("AvgPool2d", avg_pool)
    # First with three samples: with two or four, dividing by them is also a share taken twice.
    for index, shape in enumerate([(3, 3, 4, 6), (1, 1, 4, 4), (3, 2, 2, 8), (2, 2, 6, 2), (4, 4, 4, 4)]):
        images, (N, C, H, W) = normal(*shape, seed=index), shape
        windows = images.reshape(N, C, H // 2, 2, W // 2, 2)
        mean = windows.mean((3, 5))
        mistakes = {
            "that is the sum of each window: divide by four.": windows.sum((3, 5)),
            "that is the largest of each window.": windows.amax((3, 5)),
            "that is the smallest of each window.": windows.amin((3, 5)),
            "that is the mean over every second pixel, not over neighbours.": images.reshape(
                N, C, 2, H // 2, 2, W // 2
            ).mean((2, 4)),
            "each window is divided by two: it has four pixels.": windows.sum((3, 5)) / 2,
            "that is one pixel of each window.": windows[:, :, :, 0, :, 0],
            "only two rows are put together: the window is 2 wide as well.": windows.reshape(N, C, H // 2, 2, W).mean(
                3
            ),
            "only two columns are put together: the window is 2 high as well.": windows.mean(5).reshape(
                N, C, H, W // 2
            ),
            "that is the mean of the whole image.": images.mean((2, 3)),
            "that is the mean of the whole image, again and again.": images.mean((2, 3), keepdim=True) + 0 * mean,
            "that is the median of each window, or what is near it.": windows.movedim(3, 4).flatten(4).median(4).values,
            "windows lie beside each other, and yours overlap: the stride is 2.": torch.nn.functional.avg_pool2d(
                images, 2, 1
            ),
            "the channels are mixed: each has its own mean.": mean.mean(1, keepdim=True) + 0 * mean,
        }
        got = module.forward(input=images)
        expect(
            "AvgPool2d()(images)",
            got,
            mean,
            {w: v for w, v in mistakes.items() if v.shape != mean.shape or (v - mean).any()},
        )
        G = normal(*mean.shape, seed=index + 10)
        spread = G.repeat_interleave(2, 2).repeat_interleave(2, 3)
        first = torch.zeros_like(images)
        first[:, :, ::2, ::2] = G
        largest = (windows == windows.amax((3, 5), keepdim=True)).reshape(shape)
        backward = {
            "each pixel of a window has a share in the mean: which one?": spread,
            "each pixel has one of four shares, not one of two.": spread / 2,
            "it is divided too often: each pixel has one of four shares.": spread / 16,
            "it goes to one pixel of each window only: all four have their share.": first,
            "it goes to one pixel of each window only: all four have their share, ¼ each.": first / 4,
            "that is MaxPool2d's: here all four have their share.": spread * largest,
            "the images stand beside each other: repeat each number, not the whole.": G.repeat(1, 1, 2, 2) / 4,
            "the images stand beside each other, and the shares are missing: repeat each number.": G.repeat(1, 1, 2, 2),
            "it is multiplied by the input: the slopes of a mean do not depend on it.": spread / 4 * images,
            "it is the share alone: multiply it by the gradient from above.": 0.25 + 0 * images,
            AVERAGED: spread / 4 / N,
        }
        got = module.backward(G)
        expect("The gradient of the input", got, spread / 4, backward)
    check_memory("AvgPool2d", avg_pool, "input", sizes=(2, 4, 6))
    return "A quarter for each, and no kink anywhere."
