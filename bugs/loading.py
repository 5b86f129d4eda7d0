"""Copies of the code with a bug in them, as modules."""

import linecache
import sys
from pathlib import Path
from types import ModuleType

from .catalogue import BUGS

ROOT = Path(__file__).parents[1]


def load(name: str | None = None) -> ModuleType:
    """Return a fresh copy of diy.py as a module, with the bug of that name in it, or without one for None."""
    return _load("diy.py", name)


def load_circle(diy: ModuleType, name: str | None = None) -> ModuleType:
    """Return a fresh copy of experiments/circle.py that uses `diy`, with the bug of that name if it belongs there."""
    circle = _load("experiments/circle.py", name)
    circle.diy = diy
    return circle


def _load(file: str, name: str | None) -> ModuleType:
    source = (ROOT / file).read_text(encoding="utf-8")
    if name is not None and BUGS[name].file == file:
        source = BUGS[name].apply(source)
    module = ModuleType(f"{file.removesuffix('.py')}_{(name or 'copy').replace('-', '_')}")
    module.__file__ = f"<{module.__name__}>"
    sys.modules[module.__name__] = module  # dataclasses, pickle and inspect look modules up there
    linecache.cache[module.__file__] = len(source), None, source.splitlines(keepends=True), module.__file__
    exec(compile(source, module.__file__, "exec"), module.__dict__)
    return module
