"""`check` and `progress`: which checker judges an answer, and what is made of its judgement.

Whatever a learner hands over and whatever their code does, the outcome is a sentence. A checker is written with the
verbs of two files: in `running`, `run` calls a learner's function and `Passes` takes a module or a loss forward and
backward; in `answers`, `expect` compares tensors and `expect_number` numbers. Each raises `AnswerError`.
"""

import contextlib
import importlib
import inspect
import random
import re
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch

from .answers import AnswerError, NoAnswerError
from .running import limited, unforeseen


@dataclass(frozen=True)
class Verdict:
    """What `check` has said: true where the answer is right. In a notebook it shows nothing, as it is printed already.

    Attributes:
        exercise: its number, "2.3".
        state: "right", "not yet" or "open".
        reason: why.
    """

    exercise: str
    state: str
    reason: str

    def __bool__(self) -> bool:
        return self.state == "right"

    def __str__(self) -> str:
        return f"Exercise {self.exercise}: {self.state}. {self.reason}".rstrip()

    def _ipython_display_(self) -> None:
        pass


NOTEBOOKS = {
    "1": "forward_pass",
    "2": "backward_pass",
    "3": "build_it_yourself",
    "4": "circle",
    "5": "the_case",
    "6": "museum",
    "7": "convolutions",
    "8": "classification",
    "9": "playground",
}
"""Where the checkers of each notebook are: exercise 2.3 is `exercise_3` in backward_pass.py."""

_verdicts: dict[str, Verdict] = {}


def check(exercise: str, *answers) -> Verdict:
    """Print whether the answers to an exercise are right, and if not, why; return the verdict.

    A checker returns a sentence about the right answer, and raises `AnswerError` with the reason for another.
    """
    exercise = str(exercise)
    verdict = Verdict(exercise, *judge(exercise, answers))
    _verdicts[exercise] = verdict
    print(verdict)
    return verdict


def judge(exercise: str, answers: tuple) -> tuple[str, str]:
    """Return the state, "right", "not yet" or "open", of the answers to an exercise, and the reason."""
    number = exercise.split(".")[0]
    checkers = exercises(number) if number in NOTEBOOKS else {}
    if exercise not in checkers:
        known = (
            f"those of this notebook are {', '.join(checkers)}" if checkers else "exercises are called 1.2 and so on"
        )
        return "not yet", f'There is no exercise "{exercise}"; {known}.'
    checker = checkers[exercise]
    precision = getattr(inspect.getmodule(checker), "PRECISION", torch.float32)
    asked = list(inspect.signature(checker).parameters)
    if len(answers) != len(asked):
        return "not yet", f'The last line should be check("{exercise}", {", ".join(asked)}).'
    again = "Put your answer in the place of the dots and run the cell again."
    if any(answer is None or _is_open(answer) for answer in answers):
        return "open", again
    with _undisturbed(precision):
        try:
            with limited():
                return "right", checker(*answers)
        except (AnswerError, NoAnswerError) as error:
            reason = error
        except RecursionError:
            return "not yet", "The answer refers to itself without end."
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            reason = unforeseen(error)
    return ("open", f"{reason} {again}".lstrip()) if isinstance(reason, NoAnswerError) else ("not yet", str(reason))


def _is_open(answer, depth: int = 3) -> bool:
    if type(answer) in (list, tuple) and depth:
        return any(_is_open(part, depth - 1) for part in answer)
    return answer is ...


def progress() -> None:
    """Print which exercises of the notebooks in use are solved, by the last verdict on each since the kernel began."""
    used = {exercise.split(".")[0] for exercise in _verdicts}
    lines = []
    for number in [number for number in NOTEBOOKS if number in used]:
        states = {name: str(getattr(_verdicts.get(name), "state", "open")) for name in exercises(number)}
        solved = [name for name, state in states.items() if state == "right"]
        lines.append(f"Notebook {number}: {len(solved)} of {len(states)} exercises solved")
        lines += [f"    {name}  {'solved' if state == 'right' else state}" for name, state in states.items()]
    print("\n".join(lines) or "No exercise has been checked yet: run the cell of one.")


def exercises(number: str) -> dict[str, Callable]:
    """Return the checkers of a notebook by the numbers of their exercises, in order."""
    module = importlib.import_module(f".{NOTEBOOKS[number]}", __package__)
    found = [name for name in vars(module) if re.fullmatch(r"exercise_\d+", name)]
    found.sort(key=lambda name: int(name.removeprefix("exercise_")))
    return {f"{number}.{name.removeprefix('exercise_')}": getattr(module, name) for name in found}


@contextlib.contextmanager
def _undisturbed(precision: torch.dtype) -> Iterator[None]:
    """Begin with a default dtype, and leave random numbers, dtype and warnings as they were, whatever happens."""
    dtype, states = torch.get_default_dtype(), (random.getstate(), np.random.get_state())
    with torch.random.fork_rng(devices=[]), torch.enable_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.set_default_dtype(precision)
        try:
            yield
        finally:
            torch.set_default_dtype(dtype)
            random.setstate(states[0])
            np.random.set_state(states[1])
