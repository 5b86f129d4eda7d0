"""What a planted bug is, and how it gets into a copy of the code."""

import linecache
import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).parents[2]


class PatchError(Exception):
    """A patch does not fit the file as it is now."""


@dataclass(frozen=True)
class Bug:
    """One mistake.

    Attributes:
        name: a short key, also part of the patched module's name.
        title: the mistake in a few words.
        story: what goes wrong, and how people come to write it.
        symptom: what a user of the framework would notice.
        seen_by: the names of the oracles that see it; all the others do not.
        check: the test of the suite that fails, as "test_diy.test_name".
        edits: pairs (old text, new text); each old text stands exactly once in the file.
        file: what is patched.
    """

    name: str
    title: str
    story: str
    symptom: str
    seen_by: tuple[str, ...]
    check: str
    edits: tuple[tuple[str, str], ...]
    file: str = "diy.py"

    def apply(self, source: str) -> str:
        """Return `source` with the mistake in it.

        Raises:
            PatchError: an old text does not stand exactly once in `source`.
        """
        for old, new in self.edits:
            if (count := source.count(old)) != 1:
                raise PatchError(
                    f"the patch {self.name!r} no longer fits {self.file}: the text below stands there {count} times "
                    f"instead of once. Bring the patch in tests/planted_bugs/catalogue.py up to date.\n{old}"
                )
            source = source.replace(old, new)
        return source


def load(name: str | None = None) -> ModuleType:
    """Return a fresh copy of diy.py as a module, with the bug of that name in it, or without one for None."""
    return _load("diy.py", name)


def load_experiment(diy: ModuleType, name: str | None = None) -> ModuleType:
    """Return a fresh copy of experiment.py that uses `diy`, with the bug of that name if it belongs there."""
    experiment = _load("experiment.py", name)
    experiment.diy = diy
    return experiment


def _load(file: str, name: str | None) -> ModuleType:
    from .catalogue import BUGS

    source = (ROOT / file).read_text(encoding="utf-8")
    if name is not None and BUGS[name].file == file:
        source = BUGS[name].apply(source)
    module = ModuleType(f"{file.removesuffix('.py')}_{(name or 'copy').replace('-', '_')}")
    module.__file__ = f"<{module.__name__}>"
    sys.modules[module.__name__] = module  # dataclasses, pickle and inspect look modules up there
    linecache.cache[module.__file__] = len(source), None, source.splitlines(keepends=True), module.__file__
    exec(compile(source, module.__file__, "exec"), module.__dict__)
    return module
