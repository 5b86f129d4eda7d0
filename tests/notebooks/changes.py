"""Answers that are the solution with something changed: one that a notebook shows, and a few words of its text."""

import copy
import math
import re

import numpy as np
import torch
from course import mini
from course.execute import notebooks

import diy
from tests.notebooks.test_notebooks import FOLDED, exercises

BLOCK = r"^```python\n(.*?)^```"
SOLUTIONS = {
    number: re.search(BLOCK, re.search(FOLDED.format("Solution"), after, flags=re.DOTALL)[1], re.DOTALL | re.MULTILINE)[
        1
    ]
    for path in notebooks()
    for number, _, _, after in exercises(path)
}


def changed(number, *changes):
    """Return what the solution of an exercise defines after (old, new) changes of its text; several in a tuple."""
    source = SOLUTIONS[number]
    for old, new in zip(changes[::2], changes[1::2], strict=True):
        assert old in source, f"{old!r} is not in the solution of {number}"
        source = source.replace(old, new)
    given = {"torch": torch, "np": np, "math": math, "copy": copy, "diy": diy, "Module": diy.Module, "Loss": diy.Loss}
    names = {**given, **(vars(mini) if number.startswith("3.") else {}), "__name__": "learner"}
    exec(compile(source, f"<{number} changed>", "exec"), names)
    defined = [names[name] for name in re.findall(r"^(?:def|class) (\w+)", SOLUTIONS[number], flags=re.MULTILINE)]
    return defined[0] if len(defined) == 1 else tuple(defined)
