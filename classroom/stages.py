"""What students write, stage by stage, in the numbers of the ledger."""

import ast
import functools
import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Stage:
    """A part of the assignment.

    Attributes:
        number: in the order in which stages are handed out.
        title: what students write.
        formulas: the ledger numbers.
        optional: whether it goes beyond the plain assignment.
    """

    number: int
    title: str
    formulas: tuple[str, ...]
    optional: bool = False


def _numbers(*ranges: int | tuple[int, int]) -> tuple[str, ...]:
    pairs = [(r, r) if isinstance(r, int) else r for r in ranges]
    return tuple(f"F{n}" for first, last in pairs for n in range(first, last + 1))


STAGES = (
    Stage(1, "forward: Linear, ReLU, Tanh, Sequential", _numbers(2, 6, 7, 9, 11)),
    Stage(2, "the loss and its gradient", _numbers((13, 16))),
    Stage(3, "backward, and gradients that add up", _numbers(1, (3, 5), 8, 10, 12)),
    Stage(4, "SGD with momentum", _numbers(17, 18, 25, 26)),
    Stage(5, "dropout, and a network that learns", _numbers(19, 20)),
    Stage(6, "cross-entropy, Adam and a schedule", _numbers((21, 24), 27, 28), optional=True),
    Stage(7, "images", _numbers((29, 42)), optional=True),
)


def title(number: int) -> str:
    """Return the heading of a stage; 0 stands for this year's modules, -1 for what needs all of a free framework."""
    others = {0: "This year's modules", -1: "All together"}
    return others.get(number) or f"Stage {number}: {STAGES[number - 1].title}"


HELPERS = {"Dropout.mask": "F19"}
"""Functions that state no formula, but hold the answer to one."""

DEFINITION = (ast.FunctionDef, ast.ClassDef)


def parse_stages(text: str) -> list[int]:
    """Return the stages that a text such as "1-3", "2" or "1-5,7" stands for.

    Raises:
        ValueError: the text is not of this form, or names a stage that does not exist.
    """
    known = [stage.number for stage in STAGES]
    found = []
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\d+)\s*(?:-\s*(\d+)\s*)?", part)
        numbers = range(int(match[1]), int(match[2] or match[1]) + 1) if match else ()
        if not numbers or not set(numbers) <= set(known):
            raise ValueError(f"stages are {known[0]} to {known[-1]}, written as 1-5 or 2,4, got {text!r}")
        found += numbers
    return sorted(set(found))


@functools.lru_cache(32)
def owners(source: str) -> dict[str, tuple[ast.FunctionDef, list[str]]]:
    """Return each function that states formulas, such as "Linear.forward", with its node and their numbers."""
    found = {}
    for node in ast.parse(source).body:
        inside = [node] if isinstance(node, ast.FunctionDef) else getattr(node, "body", [])
        for function in inside:
            if isinstance(function, ast.FunctionDef):
                name = function.name if function is node else f"{node.name}.{function.name}"
                numbers = re.findall(r"\((F\d+)\)", ast.get_docstring(function) or "")
                numbers = numbers or [number for helper, number in HELPERS.items() if helper == name]
                if numbers:
                    found[name] = function, list(dict.fromkeys(numbers))
    return found


def stage_of(formula: str) -> int:
    """Return the number of the stage to which a formula belongs."""
    return next(stage.number for stage in STAGES if formula in stage.formulas)
