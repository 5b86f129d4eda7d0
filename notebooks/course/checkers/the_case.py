"""The checkers of the notebook about the SGD that did not converge."""

import copy

import torch
from torch import Tensor

import diy

from .answers import AnswerError, NoAnswerError, close, expect, expect_number, expect_numbers, number, tensor
from .mistakes import of_a_loss
from .running import Passes, any_precision, check_memory, names_in, normal, run


def exercise_1(rate) -> str:
    mistakes = {
        "you counted the samples only. M counts components: every sample has several of them.": 0.3 / 40,
        "you counted the outputs only. M counts components: all those of all samples.": 0.3 / 3,
        "the gradient of the sum is larger, so its rate has to be smaller. You made it larger.": 0.3 * 120,
        "the gradient of the sum is larger by the samples, too, so its rate has to be smaller.": 0.3 * 40,
        "with the same rate her steps are M times as long.": 0.3,
        "that is M, the number of components. What does it make of the rate?": 120,
        "M is the number of components, a product of two numbers and not their sum.": 0.3 / 43,
        "the 0.3 is missing.": 1 / 120,
        "that is the report's factor, of batches of 100 with 2 outputs.": 0.3 / 200,
        "M does not count twice: the steps are linear in the gradient.": 0.3 / 120**2,
    }
    hint = "By which factor is the gradient of the sum larger than that of the mean? Count the components of one batch."
    expect_number("The rate", rate, 0.3 / 120, mistakes, hint, rounded=True)
    return "The sum's gradient is 120 times as large, and 0.3 / 120 makes up for it."


@any_precision
def exercise_2(loss) -> str:
    criterion = Passes("SampleMeanLoss", loss, kind="Loss")
    for index, (N, K) in enumerate([(5, 3), (3, 3), (1, 4), (6, 1), (2, 5)]):
        p, t = normal(N, K, seed=2 * index), normal(N, K, seed=2 * index + 1)
        d = p - t
        mistakes, backward = of_a_loss("squared", "samples", d)
        mistakes["the square comes after the sum over the outputs."] = d.sum(1).square().sum() / N
        got = criterion.forward(prediction=p, target=t)
        expect(f"The loss of {N} samples with {K} outputs", got, d.square().sum() / N, mistakes)
        backward |= {
            "the factor 2 of the square's derivative is missing.": d / N,
            "the factor 2 and the 1/N are missing.": d,
        }
        expect("The gradient", criterion.backward(), 2 * d / N, backward, {"p - t": d})
    check_memory("SampleMeanLoss", loss, "prediction", "target")
    return "Loss and gradient agree, as they should in every loss."


def exercise_3(decay_for_sum) -> str:
    cases = []
    for decay, M in (0.01, 24), (0.1, 200), (0.003, 8), (0.0, 6), (0.01, 1):
        mistakes = {
            "the same decay has M times less weight against a gradient that is M times as large.": decay,
            "that is the wrong way round: the gradient grew by M, and the decay has to keep up with it.": decay / M,
            "that is M alone: the decay itself counts, too.": M,
            "M counts twice.": decay * M * M,
            "decay and M are added.": decay + M,
            "the sign is wrong: it would make the weights grow.": -decay * M,
            "a factor 2 is too many.": 2 * decay * M,
            "M − 1 is not the factor.": decay * (M - 1),
            "the root of M is not the factor.": decay * M**0.5,
        }
        got = run("decay_for_sum", decay_for_sum, decay=decay, M=M)
        cases.append((f"decay_for_sum({decay}, {M})", got, decay * M, mistakes, ()))
    expect_numbers(
        cases, "In one step, the mean's decay takes the share η λ of a weight. Which share does the sum's take?"
    )
    twin = number("decay_for_sum(0.01, 24)", cases[0][1])
    trained = [_train("mean", 0.1, 0.01), _train("sum", 0.1 / 24, twin)]
    expect("The weights after 50 steps", trained[1], trained[0])
    return "After 50 steps with weight decay, the twins' weights are equal."


def _train(reduction: str, lr: float, weight_decay: float) -> Tensor:
    torch.set_default_dtype(torch.float64)
    model = _model(2)
    criterion = diy.MSELoss(reduction=reduction)
    optimizer = diy.SGD(model.parameters(), lr=lr, weight_decay=weight_decay)
    for step in range(50):
        criterion(model(normal(12, 2, seed=step)), normal(12, 2, seed=step + 100))
        optimizer.zero_grad()
        model.backward(criterion.backward())
        optimizer.step()
    return torch.cat([parameter.flatten() for parameter in model.parameters()])


def exercise_4(accumulate) -> str:
    torch.set_default_dtype(torch.float64)
    for sizes, outputs in ((4, 4, 2), 2), ((5, 5), 2), ((1, 3, 2, 6), 3), ((7,), 1):
        _accumulated(accumulate, sizes, outputs)
    return "The same gradient as from the whole batch, for equal and for unequal chunks."


def _accumulated(accumulate, sizes: tuple[int, ...], outputs: int) -> None:
    total, watch = sum(sizes), _Watch()
    model = _model(outputs)
    learner = diy.Sequential(watch, *copy.deepcopy(model))
    before = [parameter.clone() for parameter in learner.parameters()]
    for parameter in learner.parameters():
        parameter.grad = torch.ones_like(parameter)  # of a step before
    x, target = normal(total, 2, seed=1), normal(total, outputs, seed=2)
    chunks = [*zip(x.split(sizes), target.split(sizes))]
    run("accumulate", accumulate, returns=False, model=learner, criterion=diy.MSELoss(), chunks=chunks)
    parameters = [*learner.parameters()]
    if len(parameters) != len(before) or not all(map(torch.equal, parameters, before)):
        raise AnswerError("accumulate changes the weights; it should leave a gradient and no more.")
    gradients = [parameter.grad for parameter in parameters]
    if not watch.forwards and names_in(accumulate) <= {"zero_grad"}:
        raise NoAnswerError  # the loop that the task begins with does nothing yet
    if not watch.forwards:
        raise AnswerError("No chunk is sent through the model: call model(x) on each.")
    if not watch.backwards:
        raise AnswerError("model.backward is never called: hand it the gradient of the loss.")
    if max(watch.forwards) > max(sizes):
        words = f"{max(watch.forwards)} samples go through the model at once, and the longest chunk has {max(sizes)}"
        raise AnswerError(f"{words}: the whole batch does not fit into memory.")
    if all(gradient is None for gradient in gradients):
        raise AnswerError("No parameter has a gradient: hand the loss's gradient to model.backward.")
    if any(gradient is None for gradient in gradients):
        raise AnswerError("Some parameters have no gradient: send each chunk through the whole model and back.")
    got = torch.cat([tensor("The gradient", gradient).flatten() for gradient in gradients])
    parts = [_gradient(model, *chunk) for chunk in chunks]
    shares = [size / total for size in sizes]
    weighted = [share * part for share, part in zip(shares, parts)]
    expected, M = _gradient(model, x, target), total * outputs
    name = f"The gradient for chunks of {', '.join(map(str, sizes))} samples"
    last = "of the last chunk alone"
    where = "zero_grad stands in the loop: call it once, before"
    if len(sizes) > 1 and watch.backwards < len(sizes):
        where = "backward stands after the loop: it belongs to each chunk's own forward"
    mistakes = {
        f"it is that {last}: {where}.": parts[-1],
        f"it is that {last}, with its weight: {where}.": weighted[-1],
        f"it is that {last}, divided by the number of chunks: {where}.": parts[-1] / len(sizes),
        "it is the sum of the chunks' means. Each has to be weighted with its share of the samples.": sum(parts),
        "it is the plain average of the chunks' means, which is right only where all are equally long.": sum(parts)
        / len(sizes),
        "it is the gradient of the sum over the samples: divide by the number of samples.": sum(
            size * part for size, part in zip(sizes, parts)
        ),
        "it is the gradient of the sum: divide by the number of components.": M * expected,
        "it is the gradient of the sum divided by the samples: the mean divides by all components.": outputs * expected,
        "the shares are divided by the number of chunks once more.": expected / len(sizes),
        "each chunk's gradient is weighted with the inverse of its share.": sum(p / s for s, p in zip(shares, parts)),
        "each chunk is weighted twice.": sum(share * part for share, part in zip(shares, weighted)),
        "the sign is wrong. Are prediction and target exchanged?": -expected,
        "each chunk is multiplied by the number of chunks: what share does it have?": len(sizes) * sum(parts),
        "it is half of the right one. Is the square's factor 2 there, and is each share one of samples?": expected / 2,
        "the last chunk is missing.": sum(weighted[:-1]) if weighted[1:] else 0 * expected,
        "each chunk is divided by its own length: weight it with its share of the samples.": sum(
            part / size for size, part in zip(sizes, parts)
        ),
        "it is all zero: zero_grad stands after the loop, or the factor is 0.": 0 * expected,
    }
    stale = close(got - 1, expected) or any(close(got - 1, wrong) for wrong in mistakes.values())
    if stale and not close(got, expected):
        raise AnswerError(f"{name} still holds what was in .grad before: begin with model.zero_grad().")
    expect(name, got, expected, mistakes)


class _Watch(diy.Module):
    """Changes nothing, and counts the samples of each forward, and the backwards."""

    def __init__(self):
        self.forwards, self.backwards = [], 0

    def forward(self, input):
        self.forwards.append(len(input))
        return input

    def backward(self, gradient):
        self.backwards += 1
        return gradient


def _model(outputs: int) -> diy.Sequential:
    model = diy.Sequential(diy.Linear(2, 4), diy.Tanh(), diy.Linear(4, outputs)).to(torch.float64)
    for index, parameter in enumerate(model.parameters()):
        parameter.copy_(normal(*parameter.shape, seed=index + 50) / 2)
    return model


def _gradient(model: diy.Sequential, x: Tensor, target: Tensor) -> Tensor:
    model, criterion = copy.deepcopy(model), diy.MSELoss()
    criterion(model(x), target)
    model.backward(criterion.backward())
    return torch.cat([parameter.grad.flatten() for parameter in model.parameters()])
