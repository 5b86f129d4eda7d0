"""The checkers of notebook 2, the backward pass."""

import inspect

import torch
from course import AnswerError, call, expect, expect_gradients


def _numbers(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def exercise_1(sigmoid_slope) -> str:
    s = torch.tensor([-3.0, -1.0, 0.0, 0.5, 2.0], dtype=torch.float64)
    y = s.sigmoid()
    mistakes = {
        "that is the slope of tanh, 1 - y².": 1 - y * y,
        "you took the sigmoid once more: the argument already is the output y.": y.sigmoid() * (1 - y.sigmoid()),
        "that is y itself, not its slope.": y,
        "the sign is wrong: the sigmoid rises everywhere.": -y * (1 - y),
        "1 - y is one of two factors.": 1 - y,
    }
    expect("the slope", call(sigmoid_slope, y.clone()), y * (1 - y), mistakes)
    return "At s = 0 it is largest, a quarter."


def exercise_2(sigmoid) -> str:
    module, s = call(sigmoid), torch.tensor([[-800.0, -2.0, 0.0], [0.5, 3.0, 800.0]], dtype=torch.float64)
    expect("Sigmoid()(s)", call(module, s.clone(), name="Sigmoid.forward"), s.sigmoid())
    expect_gradients(module, _numbers(4, 3))
    return "Forward and backward agree."


def exercise_3(leaky_relu) -> str:
    for slope in 0.01, 0.3:
        module, s = call(leaky_relu, slope), torch.tensor([-2.0, -0.5, 0.0, 1.0, 3.0], dtype=torch.float64)
        mistakes = {
            "negative inputs are lost, as in ReLU: multiply them by the slope.": s.relu(),
            "it lets everything through; only what is above zero passes whole.": s,
        }
        if slope == 0.3:
            mistakes["the slope is always 0.01: use the argument."] = torch.where(s > 0, s, 0.01 * s)
        got = call(module, s.clone(), name="LeakyReLU.forward")
        expect(f"LeakyReLU({slope})(s)", got, torch.where(s > 0, s, slope * s), mistakes)
        expect_gradients(module, _numbers(4, 3))
    module(torch.zeros(1))
    at_kink = call(module.backward, torch.ones(1))
    expect("the slope at 0", at_kink, [0.3], {"PyTorch takes the slope of the left side at the kink, not 1.": [1.0]})
    argument = inspect.signature(leaky_relu).parameters.get("negative_slope")
    if argument is None or argument.default != 0.01:
        raise AnswerError("the argument should be called negative_slope, and be 0.01 where nothing is given.")
    return "Where ReLU learns nothing, this one still does."


def exercise_4(l1_loss) -> str:
    loss, p, t = call(l1_loss), _numbers(4, 3), _numbers(4, 3, seed=1)
    difference = p - t
    mistakes = {
        "that is the sum; divide by the number of components.": difference.abs().sum(),
        "it was divided by the number of samples; divide by the number of components, here 12.": difference.abs().sum()
        / len(p),
        "that is the squared error.": difference.square().mean(),
        "without the absolute value, errors up and down cancel.": difference.mean(),
    }
    expect("the loss", call(loss, p.clone(), t.clone(), name="L1Loss.forward"), difference.abs().mean(), mistakes)
    expect_gradients(loss, p, t)
    return "Each component pulls with the same force, however large its error."


def exercise_5(scale) -> str:
    module = call(scale, 3)
    module.factor.copy_(torch.tensor([1.5, -2.0, 0.5]))
    X = _numbers(4, 3)
    expected = X * module.factor
    expect("Scale(3)(X)", call(module, X.to(module.factor.dtype), name="Scale.forward"), expected)
    call(module.backward, torch.ones(4, 3, dtype=module.factor.dtype), name="Scale.backward")
    if module.factor.grad is None:
        raise AnswerError("factor has no gradient: hand it to self.accumulate(factor, ...).")
    module.factor.grad = None
    expect_gradients(module, X.to(module.factor.dtype))
    return "The factor's gradient sums over the samples, the input's does not."
