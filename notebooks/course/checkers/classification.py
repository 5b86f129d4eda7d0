"""The checkers of the notebook about classification."""

import itertools
import math

import torch
from torch.nn.functional import softplus

from gradcheck import digits

from .answers import AnswerError, expect, expect_numbers, tensor
from .mistakes import AVERAGED
from .running import Passes, any_precision, check_memory, normal, run


@any_precision
def exercise_1(two_class_loss) -> str:
    def loss(score: float, yes: bool):
        return run("two_class_loss", two_class_loss, score=torch.tensor(score), yes=yes)

    cases = []
    for score, yes in itertools.product([0.5, -0.7, 1.3, -2.0, 3.1, -4.0, 0.0], [True, False]):
        s = torch.tensor(score if yes else -score)  # that of the right answer
        q, right, other = s.sigmoid(), softplus(-s), softplus(s)
        mistakes = {
            "the sign is wrong: a loss is large when the right answer got little.": -right,
            "yes and no are exchanged.": other,
            "that is always the loss for yes; where no is right, its probability is 1 − q.": right if yes else other,
            "that is always the loss for no; where yes is right, its probability is q.": other if yes else right,
            "that is the probability itself; take the logarithm.": q,
            "that is 1 minus the probability; take the logarithm.": 1 - q,
            "the logarithm is missing.": 1 / q,
            "the logarithm to base e is meant.": right / math.log(10),
            "the logarithm to base e is meant, not to base 2.": right / math.log(2),
            "that is the squared error.": (1 - q) ** 2,
            "both losses are added up; only that of the right answer counts.": right + other,
            "that is the mean of both losses; only that of the right answer counts.": (right + other) / 2,
            "that is the entropy of the two probabilities; only the right answer counts.": q * right + (1 - q) * other,
            "the logarithm of the sum is missing: it is small, but not nothing.": (-s).relu(),
            "the larger exponent, which you took out, is not put back.": right - (-s).relu(),
            "the larger exponent, which you took out, is put back twice.": right + (-s).relu(),
            "the larger of the two exponents may be 0, the other one.": right + s.relu(),
        }
        what = f"two_class_loss({score:g}, {yes})"
        cases.append((what, loss(score, yes), float(right), {w: float(m) for w, m in mistakes.items()}, (right,)))
    expect_numbers(cases, lambda got, right: f"It should be {digits(float(right), got)[0]}.")
    for score, yes in itertools.product([-1000.0, 1000.0, -100.0, 100.0, -12.0, 12.0, -6.0, 6.0], [True, False]):
        what, right = f"two_class_loss({score:g}, {yes})", softplus(torch.tensor(-score if yes else score))
        got = tensor(what, loss(score, yes))
        if got.isnan().any():
            raise AnswerError(f"{what} is NaN: infinity is divided by infinity, or subtracted from it.")
        if got.isinf().any():
            early = not yes and tensor(what, loss(40.0, False)).isinf().any()
            rounded = "1 − q is rounded to 0 before its logarithm is taken: write it as a sigmoid, too."
            too_large = "put q into the logarithm and simplify, then take the larger exponential out of the sum."
            raise AnswerError(f"{what} is {got.item():g}: {rounded if early else too_large}")
        if (got - right).abs().max() > 1e-6:  # next to nothing is right where this is rounded to 0
            expect(what, got, right)
    return "And 1000 is no problem for it."


@any_precision
def exercise_2(softmax) -> str:
    module = Passes("Softmax", softmax)
    for index, shape in enumerate([(4, 3), (1, 5), (3, 3), (6, 2)]):
        s, G = 2 * normal(*shape, seed=index), normal(*shape, seed=index + 10)
        q = s.softmax(1)
        forward = {
            "the probabilities of each sample should add up to 1, and yours those of each class: divide by row sums.": (
                s.softmax(0)
            ),
            "those are the exponentials: divide them by their sum.": s.exp(),
            "all probabilities of the batch together add up to 1: each sample has its own sum.": s.exp()
            / s.exp().sum(),
            "those are the logarithms of the probabilities.": q.log(),
            "that is the sigmoid of each score: the scores of a sample share one sum.": s.sigmoid(),
            "the exponentials are missing.": s / s.sum(1, keepdim=True),
            "the sign of the scores is wrong.": (-s).softmax(1),
            "the exponentials are divided by their largest, not by their sum.": q / q.amax(1, keepdim=True),
        }
        got = module.forward(input=s)
        expect("Softmax()(s)", got, q, forward, {"s": s})
        along = (G * q).sum(1, keepdim=True)
        backward = {
            "each score feeds all probabilities of its sample, and yours only its own.": G * q * (1 - q),
            "the first part alone: each score feeds the other probabilities as well.": G * q,
            "the gradient of each sample is not yet multiplied by its probabilities.": G - along,
            "the sum is missing over which paths add: one number per sample.": q * (G - G * q),
            "the second part is missing its probabilities: add G times q.": q * (G - G.sum(1, keepdim=True)),
            "the second part is the mean, and paths add: take the sum.": q * (G - (G * q).mean(1, keepdim=True)),
            "the second part is added, and should be subtracted.": q * (G + along),
            "the sum runs over the samples; it should run over the classes of each sample.": (
                q * (G - (G * q).sum(0, keepdim=True))
            ),
            "the sum runs over the whole batch; it should run over the classes of each sample.": q
            * (G - (G * q).sum()),
            "it passes the gradient unchanged: multiply by the slopes.": G,
            "it is the slope alone: multiply it by the gradient from above.": q * (1 - q),
            "that is softmax once more, of the gradient.": G.softmax(1),
            AVERAGED: q * (G - along) / len(s),
        }
        expect("The gradient of the input", module.backward(G), q * (G - along), backward, {"s": s, "G": G})
    large = torch.tensor([[1000.0, 0.0], [-1000.0, -1000.0]])
    got = tensor("Softmax()([[1000, 0], [-1000, -1000]])", module.forward(input=large))
    if not got.isfinite().all():
        raise AnswerError("With scores of 1000 it gives NaN: lower all scores of a sample by their largest before exp.")
    expect("Softmax()([[1000, 0], [-1000, -1000]])", got, large.softmax(1))
    check_memory("Softmax", softmax, "input")
    return "The gradient of each sample adds up to 0, as the probabilities add up to 1."


@any_precision
def exercise_3(fold) -> str:
    names = ("weight", "bias", "mean", "variance", "gamma", "beta", "eps")
    for index, (out, channels, size) in enumerate([(2, 2, 2), (3, 2, 2), (4, 1, 3)]):
        weight, bias, mean, gamma, beta = (
            normal(*shape, seed=10 * index + n) for n, shape in enumerate([(out, channels, size, size), *4 * [(out,)]])
        )
        variance, eps = normal(out, seed=10 * index + 5).square() + 0.1, 0.2
        values = (weight, bias, mean, variance, gamma, beta, eps)
        got = run("fold", fold, **dict(zip(names, values)))
        if not isinstance(got, (tuple, list)) or len(got) != 2:
            raise AnswerError("fold should return two tensors, the new weight and the new bias.")
        if all(getattr(one, "shape", None) == other.shape for one, other in zip(got, (bias, weight))):
            raise AnswerError("fold should return the weight first, and then the bias.")
        factor = gamma / (variance + eps).sqrt()
        wrong = {
            "the square root is missing": gamma / (variance + eps),
            "eps is missing; here it is not small": gamma / variance.sqrt(),
            "eps is added to the standard deviation, and should be added to the variance": gamma
            / (variance.sqrt() + eps),
            "gamma is missing": 1 / (variance + eps).sqrt(),
            "it is multiplied by the standard deviation, and should be divided by it": gamma * (variance + eps).sqrt(),
            "the factor is divided by the standard deviation twice": factor / (variance + eps).sqrt(),
        }
        spread = {f"{words}.": weight * one[:, None, None, None] for words, one in wrong.items()}
        spread["it is the old one: every output channel is multiplied by its own factor."] = weight
        if out == channels:
            spread["the factors belong to the output channels, the first index; yours are on the input channels."] = (
                weight * factor[:, None, None]
            )
        if out == size:
            spread["the factors belong to the output channels, the first index."] = weight * factor
        expect("The new weight", got[0], weight * factor[:, None, None, None], spread)
        shifted = {f"{words}.": (bias - mean) * one + beta for words, one in wrong.items()}
        shifted |= {
            "the mean is not subtracted yet.": bias * factor + beta,
            "beta is missing.": (bias - mean) * factor,
            "the old bias is missing.": beta - mean * factor,
            "the old bias is not multiplied by the factor.": bias - mean * factor + beta,
            "the mean is not multiplied by the factor.": bias * factor - mean + beta,
            "beta is multiplied by the factor, and should not be.": (bias - mean + beta) * factor,
            "the mean is added, and should be subtracted.": (bias + mean) * factor + beta,
            "it is the old one.": bias,
            "it is beta alone.": beta,
        }
        expect("The new bias", got[1], (bias - mean) * factor + beta, shifted)
    return "One convolution does the work of both."
