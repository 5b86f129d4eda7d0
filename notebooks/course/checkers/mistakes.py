"""What goes wrong in many exercises alike, and what is said about it, as `expect` takes it."""

import torch
from torch import Tensor

AVERAGED = (
    "it is divided by the number of samples. Contributions of samples are added; the loss may divide, a layer does not."
)


def along_a_path(gradient: Tensor, slope: Tensor) -> dict[str, Tensor]:
    """Return what may be in the place of gradient * slope, number by number."""
    return {
        "that is the slope alone. Multiply it by the gradient that arrives from above.": slope,
        "that is the gradient from above, unchanged. Multiply it by the slope.": gradient,
        "the slope is added to the gradient from above; along a path, numbers are multiplied.": gradient + slope,
        "it is multiplied by the slope twice.": gradient * slope**2,
        "it is divided by the slope: multiply.": gradient / slope,
        AVERAGED: gradient * slope / len(gradient),
    }


ERRORS = {
    "squared": (torch.square, lambda d: 2 * d, "the square is missing", "the square"),
    "absolute": (torch.abs, torch.sign, "without the absolute value", "the absolute value"),
}
"""What a loss can be made of: the error, its slope, what is said if it is left out, and what it is called."""


def of_a_loss(kind: str, per: str, d: Tensor) -> tuple[dict, dict]:
    """Return what may be in the place of a loss, and in that of its gradient.

    Args:
        kind: the "squared" or the "absolute" error.
        per: what the loss divides by the number of, "samples" or "components".
        d: the differences of prediction and target.
    """
    error, slope, missing, called = ERRORS[kind]
    other = "absolute" if kind == "squared" else "squared"
    other_error, other_slope, *_ = ERRORS[other]
    counts = {"samples": len(d), "outputs": d.numel() // len(d), "components": d.numel()}
    M = counts.pop(per)
    errors, divide = error(d), f"divide by the number of {per}, here {M}."
    loss, gradient = errors.sum() / M, slope(d) / M
    losses = {
        f"that is the sum; {divide}": errors.sum(),
        **{f"it is divided by the number of {name}, {n}; {divide}": errors.sum() / n for name, n in counts.items()},
        "it is half of the right one.": loss / 2,
        f"{missing}: errors up and down cancel.": (d.sum() / M, d.sum()),
        f"{called} comes last, after errors up and down have cancelled.": (error(d.sum() / M), error(d.sum()) / M),
        f"that is made of the {other} errors; the {kind} ones are asked for.": (
            other_error(d).sum() / M,
            other_error(d).sum(),
        ),
        "that is the root of the mean squared error.": (d.square().sum() / M).sqrt(),
        "the sign is wrong: a loss grows with the error.": -loss,
        "it is one number per component: a loss is a single one.": errors,
        "it is one number per sample: a loss is a single one.": errors.sum(-1) * len(d) / M,
        "it is one number per output: a loss is a single one.": errors.mean(0),
        "that is the largest of the errors.": errors.max(),
    }
    gradients = {
        f"the division is missing: the loss has one, by the number of {per}, here {M}.": slope(d),
        **{f"it is divided by the number of {name}, {n}; {divide}": slope(d) / n for name, n in counts.items()},
        "it points to where the loss falls; a gradient points to where it grows. "
        "Are prediction and target exchanged?": -gradient,
        f"it is that of the {other} error.": other_slope(d) / M,
        f"that is {called}, and its slope is asked for.": (errors / M, 2 * errors / M),
        "it is twice too large.": 2 * gradient,
        f"it is divided by the number of {per} twice.": gradient / M,
        "it is multiplied by the loss: gradients begin here, with 1.": gradient * loss,
        "it is added up over everything: each component has its own.": gradient.sum(),
        "it is added up over the samples: each component has its own.": gradient.sum(0),
    }
    return losses, gradients
