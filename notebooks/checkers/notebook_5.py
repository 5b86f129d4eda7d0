"""The checkers of notebook 5, the bug museum."""

from collections.abc import Mapping

import torch
from course import AnswerError, NoAnswerError, call

import diy
from gradcheck import check_gradients
from tests.planted_bugs import BUGS, load

ASKED = {
    "uphill": "the gradient is right, it is the step that goes the wrong way.",
    "tanh-at-the-input": "backward then contradicts forward, and slopes of forward are what is measured.",
    "missing-two": "backward then contradicts forward by a factor of 2.",
    "no-mean-at-all": "loss and gradient are wrong by the same factor, so that they agree with each other.",
    "eval-is-shallow": "dropout without its flag is still a function with a right gradient.",
}
"""The bugs of exercise 1 and why finite differences see them, or why not."""


def exercise_1(answers):
    if not isinstance(answers, Mapping):
        raise AnswerError("the answer should be the dictionary, with True or False for each name.")
    missing = [name for name in ASKED if answers.get(name, ...) in (..., None)]
    if len(missing) == len(ASKED):
        raise NoAnswerError
    if missing:
        raise AnswerError(f"no answer yet for {', '.join(missing)}.")
    for name, reason in ASKED.items():
        seen = "finite differences" in BUGS[name].seen_by
        if bool(answers[name]) != seen:
            raise AnswerError(f"{name}: finite differences {'do' if seen else 'do not'} see it. Think again: {reason}")
    return "A gradient check compares backward with forward, and nothing else."


def exercise_2(module):
    if not (isinstance(module, type) and issubclass(module, diy.Module)):
        raise AnswerError("the answer should be a class derived from diy.Module.")
    generator = torch.Generator().manual_seed(0)
    input = 2 * torch.randn(4, 3, dtype=torch.float64, generator=generator)
    output = call(module(), input, name="forward")
    if not isinstance(output, torch.Tensor) or output.shape != input.shape:
        raise AnswerError("forward should return a tensor of the shape of its input.")
    answer = module()
    call(answer.backward, torch.ones_like(answer(input)), name="backward")
    verdict = check_gradients(answer, input, verbose=False)
    if not verdict:
        wrong = next(v for v in verdict.verdicts if not v.right)
        raise AnswerError(f"check_gradients sees it: {wrong.name} is wrong. {wrong.reason}")
    if (output - input.tanh()).abs().max() < 0.1:
        raise AnswerError("check_gradients is content, but this is still tanh within 0.1. Be bolder.")
    return "check_gradients is content, and it is not tanh: only a comparison with the right function sees that."


def exercise_3(oracle):
    right = load()
    _ask(oracle, right, False, "the right framework")
    for name in ("dropout-in-eval", "eval-is-shallow"):
        _ask(oracle, load(name), True, f"the framework with the bug {name}")
    _ask(oracle, load("dropout-not-rescaled"), False, "a framework whose dropout is wrong, but off in evaluation")
    return "It sees both bugs that make evaluation random, and complains about nothing else."


def exercise_4(oracle):
    _ask(oracle, load(), False, "the right framework")
    for name in ("variance-for-std", "all-weights-equal"):
        _ask(oracle, load(name), True, f"the framework with the bug {name}")
    return "It sees both bugs of initialization, which no gradient check can see."


def _ask(oracle, framework, expected: bool, what: str) -> None:
    for seed in range(3):
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            answer = call(oracle, framework)
        if not isinstance(answer, (bool, torch.Tensor)):
            raise AnswerError(f"your oracle should return True or False, but returned {answer!r}.")
        if bool(answer) != expected:
            raise AnswerError(f"your oracle {'does not see' if expected else 'complains about'} {what}.")
