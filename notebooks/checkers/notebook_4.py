"""The checkers of notebook 4, the factor of 200."""

import copy

import torch
from course import AnswerError, NoAnswerError, call, expect

import diy


def exercise_1(rate):
    expect(
        "the rate",
        rate,
        0.3 / 120,
        {
            "you counted the samples only. M counts components: every sample has 3 of them.": 0.3 / 40,
            "you counted the outputs only. M counts components: 3 for each of the 40 samples.": 0.3 / 3,
            "the gradient of the sum is larger, so its rate has to be smaller. You made it larger.": 0.3 * 120,
            "with the same rate her steps are M times as long.": 0.3,
        },
        tolerance=1e-9,
    )
    return "The sum's gradient is 120 times as large, and 0.3 / 120 makes up for it."


def exercise_2(loss):
    prediction, target = _numbers(1, 5, 3), _numbers(2, 5, 3)
    expected = (prediction - target).square().sum() / 5
    criterion = call(loss)
    expect(
        "the loss of 5 samples with 3 outputs",
        call(criterion.forward, prediction, target, name="forward"),
        expected,
        {
            "this is the mean over all components. Divide by the number of samples only.": expected / 3,
            "this is the sum. Divide it by the number of samples.": expected * 5,
            "this is divided by the outputs. Divide by the number of samples, prediction.shape[0].": expected * 5 / 3,
        },
        tolerance=1e-9,
    )
    gradient = 2 / 5 * (prediction - target)
    expect(
        "the gradient",
        call(criterion.backward, name="backward"),
        gradient,
        {
            "it is that of the mean over all components, a third of what your loss needs.": gradient / 3,
            "it is that of the sum: the 1/N of your loss is missing.": gradient * 5,
            "the factor 2 of the square's derivative is missing.": gradient / 2,
            "its sign is wrong: it has to point to where the loss grows.": -gradient,
        },
        tolerance=1e-9,
    )
    return "Loss and gradient agree, as they should in every loss."


def exercise_3(decay_for_sum):
    decay, M, rate = 0.01, 24, 0.1
    answer = call(decay_for_sum, decay, M)
    hints = {
        "the same decay has M times less weight against a gradient that is M times as large.": decay,
        "that is the wrong way round: the gradient grew by M, and the decay has to keep up with it.": decay / M,
    }
    expect(f"decay_for_sum({decay}, {M})", answer, decay * M, hints, tolerance=1e-9)
    trained = []
    for reduction, lr, weight_decay in (("mean", rate, decay), ("sum", rate / M, float(answer))):
        model = _model()
        criterion = diy.MSELoss(reduction=reduction)
        optimizer = diy.SGD(model.parameters(), lr=lr, weight_decay=weight_decay)
        for step in range(50):
            criterion(model(_numbers(step, 12, 2)), _numbers(step + 100, 12, 2))
            optimizer.zero_grad()
            model.backward(criterion.backward())
            optimizer.step()
        trained.append(torch.cat([parameter.flatten() for parameter in model.parameters()]))
    expect("the weights after 50 steps", trained[1], trained[0], tolerance=1e-9)
    return "After 50 steps with weight decay, the twins' weights are equal within 1e-9."


def exercise_4(accumulate):
    model = _model()
    x, target = _numbers(1, 10, 2), _numbers(2, 10, 2)
    for sizes in ((5, 5), (4, 4, 2)):
        chunks = [*zip(x.split(sizes), target.split(sizes))]
        learner, criterion = copy.deepcopy(model), _Watched()
        try:
            accumulate(learner, criterion, chunks)
        except Exception as error:
            raise AnswerError(f"accumulate raised {type(error).__name__}: {error}") from error
        if not criterion.used:
            raise NoAnswerError
        if all(parameter.grad is None for parameter in learner.parameters()):
            raise AnswerError("no parameter has a gradient: hand criterion.backward() to model.backward.")
        if any(parameter.grad is None for parameter in learner.parameters()):
            raise AnswerError("some parameters have no gradient: send each chunk through the whole model and back.")
        sums = [_gradient(model, *chunk) for chunk in chunks]
        shares = [len(rows) / 10 for rows, _ in chunks]
        expect(
            f"the gradient for chunks of {', '.join(map(str, sizes))} samples",
            torch.cat([parameter.grad.flatten() for parameter in learner.parameters()]),
            _gradient(model, x, target),
            {
                "it is the sum of the chunks' means. Each has to be weighted with its share of the samples.": sum(sums),
                "it is the plain average of the chunks' means, which is right only where all are equally long.": sum(
                    sums
                )
                / len(sums),
                "it is that of the last chunk alone: call zero_grad once, before the loop.": sums[-1],
                "it is that of the last chunk alone, weighted: call zero_grad once, before the loop.": sums[-1]
                * shares[-1],
                "it is the gradient of the sum: divide by the number of samples.": sum(
                    10 * share * part for share, part in zip(shares, sums)
                ),
            },
            tolerance=1e-9,
        )
    return "The same gradient as from the whole batch, for equal and for unequal chunks."


class _Watched(diy.MSELoss):
    """The mean squared error that knows whether anybody asked for it."""

    used = False

    def forward(self, prediction, target):
        self.used = True
        return super().forward(prediction, target)


def _numbers(seed: int, *shape: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, dtype=torch.float64, generator=generator)


def _model() -> diy.Sequential:
    model = diy.Sequential(diy.Linear(2, 4), diy.Tanh(), diy.Linear(4, 2)).to(torch.float64)
    for index, parameter in enumerate(model.parameters()):
        parameter.copy_(_numbers(index + 50, *parameter.shape) / 2)
    return model


def _gradient(model: diy.Sequential, x: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    model, criterion = copy.deepcopy(model), diy.MSELoss()
    model.zero_grad()
    criterion(model(x), target)
    model.backward(criterion.backward())
    return torch.cat([parameter.grad.flatten() for parameter in model.parameters()])
