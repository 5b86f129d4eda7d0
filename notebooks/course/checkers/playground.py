"""The checkers of the playground's notebook."""

import dataclasses
import difflib
import math
from collections.abc import Mapping

import torch

from playground.lab import NO_BUG, Lab, Settings

from .answers import AnswerError, NoAnswerError, expect_number, shown

SEEDS = 3
"""With how many seeds settings are tried: what works with one of them may be luck."""


def exercise_1(lr) -> str:
    mistakes = {
        "that is the factor for batches of 100 points. Are there 100?": 0.01 * 200,
        "each step sees all the points, but the mean divides by all components: how many has each point?": 0.01 * 4,
        "you counted the outputs only: each step sees several points.": 0.01 * 2,
        "the mean's gradient is the smaller one, so its learning rate is the larger one.": 0.01 / 8,
        "the mean's gradient is the smaller one, so its learning rate is the larger one; and components count.": 0.01
        / 4,
        "that is the sum's own: the steps would be too small.": 0.01,
        "that is the factor; multiply the learning rate by it.": 8,
        "that is the factor for 100 points.": 0.01 * 100,
    }
    hint = "How many components do the predictions of one step have? The mean divides by that number."
    expect_number("The learning rate", lr, 0.08, mistakes, hint, rounded=True)
    return "The mean over 8 components takes the steps of the sum."


def exercise_2(settings) -> str:
    given = _settings(settings, data="spiral")
    errors = []
    for lab in _labs(given, "spiral"):
        error = _run(lab, 20)
        if lab.trouble:
            raise AnswerError(f"The run stopped{_seed(lab, given)}. {lab.trouble}")
        errors.append(100 * error)
        if error >= 0.1:
            worse = f", after {min(errors):.1f} % with another" if len(errors) > 1 else ""
            raise AnswerError(f"The test error is {errors[-1]:.1f} % after 20 epochs{_seed(lab, given)}{worse}.")
    return f"The test error is below 10 % with {len(errors)} different seeds."


def exercise_3(settings) -> str:
    given = _settings(settings)
    if given.get("lr", 0.001) != 0.001:
        raise AnswerError(f"The learning rate should stay 0.001, but is {shown(given['lr'])}.")
    epochs = []
    for lab in _labs(given):
        before = [parameter.clone() for parameter in lab.model.parameters()]
        error = _run(lab, 10)
        epochs.append(lab.epoch)
        if not lab.trouble:
            moved = any(not torch.equal(a, b) for a, b in zip(before, lab.model.parameters()))
            words = f"the test error is {100 * error:.0f} %"
            if math.isnan(error) or error > 0.4:
                words += ", so little is learned, but nothing breaks" if moved else ", as the weights never move"
            else:
                words += ", so it learns"
            raise AnswerError(f"After 10 epochs the playground has not given up{_seed(lab, given)}: {words}.")
    return f"It stopped in epoch {epochs[0]}, and with other seeds as well."


def exercise_4(settings) -> str:
    given = _settings(settings)
    for lab in _labs(given):
        lab.step()
        sizes = [layer.gradient.double().abs().mean().item() for layer in lab.layers()]
        first, last = sizes[0], sizes[-1]
        where = _seed(lab, given)
        if len(sizes) < 2:
            raise AnswerError("With depth 0 the first layer is the last one, too.")
        if not all(map(math.isfinite, sizes)):
            raise AnswerError(f"The gradients are infinite or NaN{where}: they explode, and should vanish.")
        if last == 0:
            raise AnswerError(f"The last layer's gradients are 0, too{where}: nothing in the network learns.")
        if first == 0:
            raise AnswerError(f"The first layer's gradients are exactly 0{where}: cut off, not vanished on a long way.")
        if first >= last / 1000:
            ratio = f"{first / last:.2g} times as large as the last one's"
            raise AnswerError(f"The first layer's gradients are {ratio}{where}. Less than 0.001 is asked for.")
    return "The first layer hardly moves."


def _settings(settings, data: str | None = None) -> dict:
    """Return what the learner has set, once it is clear that a Lab will take it."""
    if dataclasses.is_dataclass(settings) and not isinstance(settings, type):
        settings = {**dataclasses.asdict(settings)}
    if not isinstance(settings, Mapping):
        raise AnswerError(f"The answer should be a dictionary, such as dict(width=50), but is {shown(settings)}.")
    if not settings:
        raise NoAnswerError
    if any(value is ... for value in settings.values()):
        raise NoAnswerError
    names = [field.name for field in dataclasses.fields(Settings)]
    for name in settings:
        if name not in names:
            alike = difflib.get_close_matches(str(name), names, 1, 0.85)
            hint = f" Is {alike[0]} meant?" if alike else ""
            raise AnswerError(f"There is no setting {name!r} to change.{hint} The settings are {', '.join(names)}.")
    if data and settings.get("data", data) != data:
        raise AnswerError(f"The data set should stay the {data}, but is {shown(settings['data'])}.")
    if data and settings.get("noise", 0) != 0:
        raise AnswerError("The data set should stay as it is, without noise.")
    if settings.get("data") == "own points":
        raise AnswerError("There are no points of your own yet, so there is nothing to learn: choose another data set.")
    if settings.get("bug", NO_BUG) != NO_BUG:
        raise AnswerError("Without a planted bug, please: the settings themselves should do it.")
    return dict(settings)


def _labs(given: dict, data: str | None = None):
    """Yield a lab with the learner's seed, and after it with others."""
    for more in range(SEEDS):
        settings = given | ({"data": data} if data else {})
        try:
            if more:
                settings["seed"] = settings.get("seed", 0) + more
            lab = Lab(**settings)
        except (TypeError, ValueError) as error:
            raise AnswerError(f"These settings are refused: {' '.join(str(error).split()).rstrip('.')}.") from None
        yield lab


def _seed(lab: Lab, given: dict) -> str:
    return "" if lab.settings.seed == given.get("seed", 0) else f" with the seed {lab.settings.seed}"


def _run(lab: Lab, epochs: int) -> float:
    while lab.epoch < epochs and not lab.trouble:
        lab.run_epoch()
    return lab.history[-1].test_error
