"""Figure 1: the classes of a framework, read from the classes themselves; report.typ draws them.

A new module, loss or optimizer appears without a change here.
"""

import inspect
import re
from types import ModuleType


def families(framework: ModuleType) -> list[dict]:
    """Return each public abstract class that derives from no other such class, the one with most subclasses first.

    Each is a record of its `name`, its own `abstract` and other public `methods`, and its public `subclasses`: of each
    the `name`, the `arguments` that its docstring tells of, and the public `methods` that its base does not have.
    """
    classes = {c for c in vars(framework).values() if inspect.isclass(c) and c.__module__ == framework.__name__}
    public = sorted((c for c in classes if not c.__name__.startswith("_")), key=lambda c: c.__name__)
    found = []
    for base in filter(inspect.isabstract, public):
        if any(inspect.isabstract(c) for c in base.__mro__[1:]):
            continue
        if subclasses := [c for c in public if issubclass(c, base) and c is not base]:
            found.append(
                {
                    "name": base.__name__,
                    "abstract": sorted(f"{name}{_arguments(base, name)}" for name in base.__abstractmethods__),
                    "methods": sorted(_methods(base) - base.__abstractmethods__),
                    "subclasses": [
                        {
                            "name": c.__name__,
                            "arguments": _documented(c),
                            "methods": sorted(_methods(c) - _methods(base)),
                        }
                        for c in subclasses
                    ],
                }
            )
    return sorted(found, key=lambda family: -len(family["subclasses"]))


def _methods(kind: type) -> set[str]:
    # Those of private bases are housekeeping.
    own = (vars(c) for c in kind.__mro__ if c.__module__ == kind.__module__ and not c.__name__.startswith("_"))
    return {name for names in own for name, value in names.items() if inspect.isfunction(value) and name[0] != "_"}


def _documented(kind: type) -> list[str]:
    # A constructor also takes, and refuses in words, what PyTorch's has beyond these.
    docs = (inspect.cleandoc(c.__doc__ or "").partition("Args:")[2] for c in kind.__mro__ if c is not object)
    told = {name for doc in docs for line in re.findall(r"^    ([\w, ]+):", doc, re.M) for name in line.split(", ")}
    # Of the class itself, Python 3.11.2 and older give the signature of `__new__`.
    return [name for name in inspect.signature(kind.__init__).parameters if name in told]


def _arguments(kind: type, method: str) -> str:
    return f"({', '.join(list(inspect.signature(getattr(kind, method)).parameters)[1:])})"
