"""The checkers of the bug museum."""

import difflib
from collections.abc import Mapping

import torch
from torch import Tensor

from bugs import BUGS, load
from gradcheck import check_gradients

from .answers import AnswerError, NoAnswerError, shown, tensor, truth
from .running import Passes, names_in, normal, run

ASKED = {
    "uphill": "does the mistake stand in a forward, in a backward, or in neither?",
    "tanh-at-the-input": "is that backward still the slope of the forward beside it?",
    "missing-two": "is that backward still the slope of the forward beside it?",
    "no-mean-at-all": "what is the slope of the loss as it is reported with this bug?",
    "eval-is-shallow": "in which mode do the layers run, and is their gradient wrong in it?",
}
"""The bugs of exercise 1, and what to ask oneself about each."""

SEEN = "sees it", "see it", "sees", "seen", "will see it", "visible", "finds it", "found", "caught", "noticed", "✓"
UNSEEN = "silent", "blind", "unseen", "invisible", "misses it", "missed", "unnoticed", "✗"
UNSEEN += tuple(f"{word} see it" for word in ("does not", "doesn't", "cannot", "can't", "will not", "won't"))
UNSEEN += tuple(f"not {word}" for word in ("seen", "visible", "found", "caught", "noticed"))


def exercise_1(answers) -> str:
    if not isinstance(answers, Mapping):
        raise AnswerError(
            f"The answer should be the dictionary, with True or False for each name, but is {shown(answers)}."
        )
    given = {str(name).strip().lower().replace("_", "-").replace(" ", "-"): answer for name, answer in answers.items()}
    for name in given.keys() - ASKED.keys():
        alike = difflib.get_close_matches(name, ASKED, 1)
        hint = f"is {alike[0]} meant?" if alike else f"the five are {', '.join(ASKED)}."
        raise AnswerError(f"There is no bug {name!r} here: {hint}")
    missing = [name for name in ASKED if given.get(name, ...) in (..., None)]
    if len(missing) == len(ASKED):
        raise NoAnswerError
    if missing:
        raise AnswerError(f"No answer yet for {', '.join(missing)}.")
    said = {name: truth(f"The answer for {name}", given[name], SEEN, UNSEEN) for name in ASKED}
    seen = {name: "finite differences" in BUGS[name].seen_by for name in ASKED}
    wrong = [name for name in ASKED if said[name] != seen[name]]
    if not wrong:
        return "A gradient check compares backward with forward, and nothing else."
    if len(set(said.values())) == 1:
        never = "everything" if said["uphill"] else "nothing"
        raise AnswerError(f"Finite differences see {never}, you say; but of these five they see some and others not.")
    if len(wrong) == len(ASKED):
        raise AnswerError("All five are the wrong way round: True is for those that finite differences see.")
    raise AnswerError(f"{len(ASKED) - len(wrong)} of 5 are right. Think again about {wrong[0]}: {ASKED[wrong[0]]}")


def exercise_2(module) -> str:
    torch.set_default_dtype(torch.float64)
    passes = Passes("WrongTanh", module)
    far = torch.linspace(-40, 40, 1601).reshape(-1, 1)
    wide = torch.linspace(-6.3, 6.1, 12), torch.linspace(-39, 38, 12)
    for input in 2 * normal(4, 3), normal(3, 3, seed=1), *(points.reshape(4, 3) for points in wide):
        output = passes.forward(input=input)
        if not isinstance(output, Tensor) or output.shape != input.shape:
            raise AnswerError(
                f"WrongTanh.forward should return a tensor of its input's shape, but returns {shown(output)}."
            )
        _finite("The output", output)
        if not torch.equal(output, passes.forward(input=input)):
            raise AnswerError("WrongTanh gives another output for the same input: no gradient belongs to that.")
        _finite("The gradient", passes.backward(torch.ones_like(output)))
        for verdict in check_gradients(passes.module, input, verbose=False).verdicts:
            if not verdict.right and not getattr(verdict, "cannot_tell", False):
                raise AnswerError(f"check_gradients sees it: {verdict.name} is wrong. {_sentence(verdict.reason)}")
    inputs = far, far / 20, 2 * normal(4, 3)
    largest = max(float((passes.forward(input=x).double() - x.tanh()).abs().max()) for x in inputs)
    if not largest > 0.1:
        words = "this is tanh itself" if largest < 1e-6 else f"this differs from tanh by {largest:.2g} at most"
        raise AnswerError(f"check_gradients is content, but {words}. It should be more than 0.1 somewhere: be bolder.")
    return "check_gradients is content, and it is not tanh: only a comparison with the right function sees that."


def _finite(what: str, value) -> None:
    if not tensor(what, value).isfinite().all():
        raise AnswerError(f"{what} of WrongTanh is infinite or NaN somewhere: take a function that is neither.")


def _sentence(words: str) -> str:
    return f"{words[:1].upper()}{words[1:].rstrip('.')}."


def exercise_3(oracle) -> str:
    deaf = "there eval() reaches the network, but not the Dropout inside it."
    planted = {
        "dropout-in-eval": (load("dropout-in-eval"), "its answers in evaluation mode are not all the same."),
        "eval-is-shallow": (load("eval-is-shallow"), deaf),
    }
    name = "sees_random_evaluation"
    luck = "two random answers may agree by chance. Ask for more numbers, or more often"
    _try(name, oracle, 20, planted, "its answers in evaluation mode are all the same", luck)
    if _alarms(name, oracle, "dropout-not-rescaled", load("dropout-not-rescaled"), 20):
        words = "is wrong in training, and right in evaluation"
        raise AnswerError(f"Your oracle complains about dropout-not-rescaled, whose Dropout {words}.")
    return "It sees both bugs that make evaluation random, and complains about nothing else."


def exercise_4(oracle) -> str:
    squared = "the standard deviation of its weights is the square of the right one."
    planted = {
        "variance-for-std": (load("variance-for-std"), squared),
        "all-weights-equal": (load("all-weights-equal"), "what is the standard deviation of weights all equal?"),
        "weights √2 times too large": (_scaled(2**0.5), "your bounds are too wide."),
        "weights √2 times too small": (_scaled(0.5**0.5), "your bounds are too wide."),
    }
    alarmed = "bad luck looks like a mistake to it. Take a larger layer, or wider bounds"
    _try("sees_wrong_initialization", oracle, 100, planted, alarmed, "take a larger layer, or tighter bounds")
    return "It sees every wrong initialization, which no gradient check can see, and bad luck does not deceive it."


def _try(name: str, oracle, seeds: int, planted: Mapping[str, tuple], alarmed: str, luck: str) -> None:
    """Refuse an oracle that is not silent about the right framework, or does not see what is planted.

    Args:
        seeds: for how many seeds the right framework is shown; each of the others is shown for 20.
        planted: {what it is called: (a framework, what to say where it is never seen)}.
        alarmed: what to say where some seeds of the right framework are complained about.
        luck: what to say where something planted is seen for some seeds only.

    Raises:
        AnswerError: with what is wrong.
    """
    torch.set_default_dtype(torch.float32)
    alarms = _alarms(name, oracle, "the right framework", load(), seeds)
    seen = {title: _alarms(name, oracle, title, framework, 20) for title, (framework, _) in planted.items()}
    _not_constant(oracle, 20 * alarms / seeds, *seen.values())
    complaint = f"Your oracle complains about the right framework, for {alarms} of {seeds} seeds"
    if alarms > seeds / 2:
        raise AnswerError(f"{complaint}.")
    for title, times in seen.items():
        if times == 0:
            raise AnswerError(f"Your oracle does not see {title}: {planted[title][1]}")
    if alarms:
        raise AnswerError(f"{complaint}: {alarmed}.")
    for title, times in seen.items():
        if times < 20:
            raise AnswerError(f"Your oracle sees {title} for {times} of 20 seeds only: {luck}.")


def _scaled(factor: float):
    """Return a framework whose initial weights are wrong by this factor."""
    framework = load()
    draw = framework.Linear.reset_parameters

    def reset_parameters(self) -> None:
        draw(self)
        self.weight *= factor

    framework.Linear.reset_parameters = reset_parameters
    return framework


def _alarms(oracle_name: str, oracle, name: str, framework, seeds: int) -> int:
    """Return for how many seeds the oracle complains. It cannot choose a lucky one: what it sets is shifted."""
    framework.__name__ = framework.__file__ = "framework"
    alarms, manual_seed = 0, torch.manual_seed
    for seed in range(seeds):

        def shifted(number, seed=seed):
            return manual_seed((int(number) + 1000 * seed) % 2**32)

        torch.manual_seed = shifted
        try:
            manual_seed(seed)
            alarms += truth(f"The answer for {name}", run(oracle_name, oracle, framework=framework))
        finally:
            torch.manual_seed = manual_seed
    return alarms


def _not_constant(oracle, right: float, *planted: int) -> None:
    if len({right, *planted}) == 1 and "diy" in names_in(oracle):
        raise AnswerError("Your oracle asks diy itself: it should ask the framework that it gets as its argument.")
    if right == 0 and not any(planted):
        raise AnswerError("Your oracle never complains, whatever the framework.")
    if right == 20 and not any(planted):
        raise AnswerError("Your oracle has it the wrong way round: True is for a complaint.")
    if right == 20 and all(times == 20 for times in planted):
        raise AnswerError("Your oracle always complains, about the right framework as well.")
