"""What notebook 3 builds with: `Mini` collects the learner's framework step by step, `measure` measures slopes."""

import ast
import contextlib
import functools
import io
import linecache
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from course import Table
from course.checkers.core import judge

SOLUTIONS = Path(__file__).parent / "mini.py"

NAMES = {
    "3.1": ("linear",),
    "3.2": ("linear_backward",),
    "3.3": ("accumulate", "zero_grad"),
    "3.4": ("Linear",),
    "3.5": ("Tanh",),
    "3.6": ("ReLU",),
    "3.7": ("Sequential",),
    "3.8": ("MSELoss",),
    "3.9": ("SGD",),
    "3.10": ("train",),
}
"""What each step defines."""

ALONE = """
import runpy, sys
sys.modules.update(dict.fromkeys(("course", "diy", "experiments", "gradcheck")))
runpy.run_path(sys.argv[1], run_name="__main__")
"""
"""Runs a file in which nothing of this project can be imported."""


HEAD = "import math\n\nimport torch\n"

BELONGS = "What a step needs belongs in the cell that defines it."


def measure(function: Callable[[Tensor], Tensor], x: Tensor, h: float = 1e-5) -> Tensor:
    """Return ∂function/∂x, one component after the other, by central differences; x is left alone."""
    steps = h * torch.eye(x.numel(), dtype=x.dtype).reshape(-1, *x.shape)
    slopes = [(float(function(x + step)) - float(function(x - step))) / (2 * h) for step in steps]
    return torch.tensor(slopes, dtype=x.dtype).reshape(x.shape)


def parts() -> list[tuple[str, str]]:
    """Return what the framework consists of, in order: (exercise, or "Given"; source of the solution)."""
    text = SOLUTIONS.read_text(encoding="utf-8")
    pieces = re.split(r"^# (?:Exercise (3\.\d+)|Given)$", text, flags=re.MULTILINE)
    return [(exercise or "Given", source.strip() + "\n") for exercise, source in zip(pieces[1::2], pieces[2::2])]


class Mini:
    """The framework that a learner writes in notebook 3.

    Args:
        names: globals() of the notebook.
    """

    def __init__(self, names: dict):
        self._names = names
        self._given: dict[str, tuple] = {}  # what a given solution has defined
        self._reasons: dict[str, str] = {}

    def add(self, exercise: str) -> None:
        """Go on with what the notebook has for a step if it is right, and with the given solution otherwise; say which.

        Raises:
            ValueError: there is no such step.
        """
        if exercise not in NAMES:
            raise ValueError(f'there is no step "{exercise}"; the steps are {", ".join(NAMES)}')
        defined = " and ".join(NAMES[exercise])
        now = self._defined(exercise)
        if exercise not in self._given or any(a is not b for a, b in zip(now, self._given[exercise])):
            state, _ = _silently(exercise, now)
            self._given.pop(exercise, None)
            if state != "right":
                self._reasons[exercise] = "is open" if state == "open" else "is not right yet"
                self._give(exercise)
        if exercise in self._given:
            print(f"Exercise {exercise} {self._reasons[exercise]}: this notebook goes on with the given {defined}.")
        else:
            print(f"This notebook goes on with your {defined}.")

    def steps(self) -> Table:
        """Return a table of the steps: what each defines, how many lines it has, and whose they are."""
        rows = []
        for exercise, names in NAMES.items():
            source, own = self._source(exercise)
            rows.append((exercise, ", ".join(names), len(_lines(source)), "you" if own else "given"))
        return Table(["exercise", "defines", "lines", "written by"], rows)

    def source(self) -> str:
        """Return the framework as one file that needs PyTorch alone: the learner's steps, and the given ones."""
        whose = {exercise: self._source(exercise) for exercise in NAMES}
        mine = [exercise for exercise, (_, own) in whose.items() if own]
        mine = f"My own work: exercises {', '.join(mine)}." if mine else "All of it was given."
        texts = [f'"""A deep-learning framework, its backward passes written by hand. {mine}"""\n\n{HEAD}']
        for exercise, given in parts():
            source, own = whose.get(exercise, (given, False))
            origin = "mine" if own else "given"
            texts.append(source if exercise == "Given" else f"# Exercise {exercise}, {origin}\n{source}")
        return "\n\n".join(texts)

    def save(self, path: str | Path = "mini.py") -> None:
        """Check the framework as a file, run it on its own, and write it if at least one step of it is the learner's.

        A file of another content that was there before is kept under another name.
        """
        path, text = Path(path), self.source()
        if problem := _problem(text):
            print(f"No file is written: {problem}")
            return
        try:
            ran = _run_alone(text)
        except subprocess.TimeoutExpired:
            print("No file is written: on its own it takes over two minutes. Is a product computed in loops?")
            return
        if ran.returncode:
            last = (ran.stderr.strip().splitlines() or ["it ended without a word"])[-1]
            print(f"No file is written: on its own, the framework stops with {last}. {BELONGS}")
            return
        print(f"On its own, with nothing but PyTorch:\n{ran.stdout}")
        if all(exercise in self._given for exercise in NAMES):
            print("No file is written, as no step is yours so far. Solve one, and run this cell again.")
            return
        self._write(path, text)

    def _write(self, path: Path, text: str) -> None:
        try:
            if path.exists() and path.read_text(encoding="utf-8", errors="replace") != text:
                number = next(n for n in range(1, 10**6) if not path.with_stem(f"{path.stem}_{n}").exists())
                former = path.with_stem(f"{path.stem}_{number}")
                path.rename(former)
                print(f"The {path.name} that was there before is now {former.name}.")
            path.write_text(text, encoding="utf-8")
        except OSError as error:
            print(f"No file could be written to {path}: {error.strerror or error}.")
        else:
            print(f"Written to {path.resolve()}: {len(_lines(text))} lines of code.")

    def _defined(self, exercise: str) -> tuple:
        return tuple(self._names.get(name) for name in NAMES[exercise])

    def _give(self, exercise: str) -> None:
        # Run in the notebook's own names, so that a given step calls the learner's earlier ones.
        source, file = dict(parts())[exercise], f"<the given solution of exercise {exercise}>"
        linecache.cache[file] = len(source), None, source.splitlines(keepends=True), file
        exec(compile(source, file, "exec"), self._names)
        self._given[exercise] = self._defined(exercise)

    def _source(self, exercise: str) -> tuple[str, bool]:
        """Return the source of a step, and whether the learner wrote it."""
        if exercise not in self._given and (source := self._learners(NAMES[exercise])):
            return source, True
        return dict(parts())[exercise], False

    def _learners(self, names: tuple[str, ...]) -> str | None:
        """Return from the notebook's cells the latest definitions of `names`, with what stands beside and is used."""
        found: list[str] = []
        for name in names:
            for cell in reversed(self._names.get("In", [])):
                with contextlib.suppress(SyntaxError):
                    if name in _bound(tree := ast.parse(cell)):
                        found.append(_definitions(cell, tree, names))
                        break
            else:
                return None
        return "\n\n".join(dict.fromkeys(found))


def _silently(exercise: str, answers: tuple) -> tuple[str, str]:
    with contextlib.redirect_stdout(io.StringIO()):
        return judge(exercise, answers)


@functools.cache
def _run_alone(text: str) -> subprocess.CompletedProcess:
    """Run a framework as a file in a process of its own; one that has run before is not run again."""
    with tempfile.TemporaryDirectory() as folder:
        trial = Path(folder) / "mini.py"
        trial.write_text(text, encoding="utf-8")
        command = [sys.executable, "-I", "-c", ALONE, str(trial)]
        return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120)


def _problem(text: str) -> str | None:
    """Return what is wrong with a framework as a file, in a sentence, or None."""
    names: dict = {"__name__": "mini"}
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            exec(compile(text, "mini.py", "exec"), names)
    except Exception as error:
        return f"as a file, the framework stops with {type(error).__name__}: {error}. {BELONGS}"
    for exercise, defined in NAMES.items():
        state, reason = _silently(exercise, tuple(names.get(name) for name in defined))
        if state != "right":
            return f"as a file, without the rest of this notebook, exercise {exercise} is {state}. {reason} {BELONGS}"
    return None


def _bound(tree: ast.AST) -> set[str]:
    """Return the names that the statements of a cell, or one statement, define on the outermost level."""
    names = set()
    for statement in tree.body if isinstance(tree, ast.Module) else [tree]:
        if isinstance(statement, (ast.FunctionDef, ast.ClassDef)):
            names.add(statement.name)
        elif isinstance(statement, (ast.Import, ast.ImportFrom)):
            names |= {(alias.asname or alias.name).split(".")[0] for alias in statement.names}
        elif isinstance(statement, (ast.Assign, ast.AnnAssign, ast.AugAssign)):
            targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
            # `accumulate.calls = 0` counts as well: it does not define the name, but changes what the name stands for.
            names |= {node.id for target in targets for node in ast.walk(target) if isinstance(node, ast.Name)}
    return names


def _definitions(cell: str, tree: ast.Module, names: tuple[str, ...]) -> str:
    """Return the statements of a cell that define `names` and what these use, without trials and calls of check."""
    needed, kept = set(names), set()
    while True:
        used = [s for s in tree.body if s not in kept and _bound(s) & needed]
        if not used:
            break
        kept.update(used)
        needed |= {node.id for s in used for node in ast.walk(s) if isinstance(node, ast.Name)}
    lines, texts = cell.splitlines(), []
    for statement in tree.body:
        if statement in kept:
            first = min(node.lineno for node in [statement, *getattr(statement, "decorator_list", [])]) - 1
            while first and lines[first - 1].startswith("#"):
                first -= 1
            gap = "\n\n" if isinstance(statement, (ast.FunctionDef, ast.ClassDef)) else ""
            texts.append(gap + "\n".join(lines[first : statement.end_lineno]))
    return "\n".join(texts).strip() + "\n"


def _lines(source: str) -> list[str]:
    """Return the lines of code: without empty lines, comments and the docstring at the top."""
    lines = [line for line in source.splitlines() if line.strip() and not line.strip().startswith("#")]
    return [line for line in lines if not line.startswith('"""')]
