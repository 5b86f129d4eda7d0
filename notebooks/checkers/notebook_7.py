"""The checkers of notebook 7, the playground."""

from course import AnswerError, NoAnswerError, expect

from playground.lab import Lab


def exercise_1(lr) -> str:
    mistakes = {
        "that is the factor for 100 points. A batch cannot have more points than there are.": 0.01 * 200,
        "the mean divides by all components, and there are 2 outputs per point.": 0.01 * 4,
        "the mean's gradient is the smaller one, so its learning rate is the larger one.": 0.01 / 8,
        "that is the sum's own: the steps would be too small.": 0.01,
    }
    expect("the learning rate", lr, 0.08, mistakes)
    return "The mean over 8 components takes the steps of the sum."


def exercise_2(settings) -> str:
    _lab(settings)
    lab = _lab(settings | {"data": "spiral"})
    error = _run(lab, 20)
    if lab.trouble:
        raise AnswerError(f"The run stopped. {lab.trouble}")
    if error >= 0.1:
        raise AnswerError(f"The test error is {100 * error:.1f} % after 20 epochs.")
    return "The test error is below 10 %."


def exercise_3(settings) -> str:
    lab = _lab(settings)
    if lab.settings.lr != 0.001:
        raise AnswerError(f"The learning rate should stay 0.001, but is {lab.settings.lr:g}.")
    error = _run(lab, 10)
    if not lab.trouble:
        raise AnswerError(f"After 10 epochs it still learns: the test error is {100 * error:.0f} %.")
    return f"It stopped in epoch {lab.epoch}."


def exercise_4(settings) -> str:
    lab = _lab(settings)
    lab.step()
    sizes = [layer.gradient.abs().mean().item() for layer in lab.layers()]
    first, last = sizes[0], sizes[-1]
    if last == 0:
        raise AnswerError("The last layer's gradients are 0, too.")
    if first >= last / 1000:
        raise AnswerError(f"The first layer's gradients are {first / last:.2g} times as large as the last one's.")
    return "The first layer hardly moves."


def _lab(settings) -> Lab:
    if not isinstance(settings, dict):
        raise AnswerError(f"The answer should be a dictionary of settings, but is {settings!r}.")
    if not settings:
        raise NoAnswerError
    try:
        return Lab(**settings)
    except (TypeError, ValueError) as error:
        raise AnswerError(f"these settings are refused: {error}.") from error


def _run(lab: Lab, epochs: int) -> float:
    while lab.epoch < epochs and not lab.trouble:
        lab.run_epoch()
    return lab.history[-1].test_error
