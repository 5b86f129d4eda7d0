"""What a planted bug is, and how it gets into a copy of the code."""

import ast
from dataclasses import dataclass


class PatchError(Exception):
    """What a bug changes is not there, or more than once."""


@dataclass(frozen=True)
class Bug:
    """One mistake.

    Attributes:
        name: a short key, also part of the patched module's name.
        title: the mistake in a few words.
        story: what goes wrong, and how people come to write it.
        symptom: what a user of the framework would notice.
        seen_by: the names of the oracles that see it; all the others do not.
        check: the test of the suite that fails, as "diy.test_diy.test_name".
        edits: triples (where, old, new): in the function or class `where`, such as "Linear.backward", the expression or
            statement `old` becomes `new`. How the code is laid out, and what its comments say, does not matter.
        file: what is patched.
    """

    name: str
    title: str
    story: str
    symptom: str
    seen_by: tuple[str, ...]
    check: str
    edits: tuple[tuple[str, str, str], ...]
    file: str = "diy.py"

    def apply(self, source: str) -> str:
        """Return `source` with the mistake in it.

        Raises:
            PatchError: there is no such function, or it does not have the old expression or statement exactly once.
        """
        for where, old, new in self.edits:
            try:
                source = _replace(source, where, old, new)
            except PatchError as error:
                raise PatchError(
                    f"the bug {self.name!r} no longer fits {self.file}: {error}. Bring its edits in the catalogue "
                    f"up to date with the code:\n{old}"
                ) from None
        return source


def _replace(source: str, where: str, old: str, new: str) -> str:
    owner: ast.AST = ast.parse(source)
    for name in where.split("."):
        inside = [node for node in ast.iter_child_nodes(owner) if getattr(node, "name", None) == name]
        if len(inside) != 1:
            raise PatchError(f"there is no {where}")
        owner = inside[0]
    wanted = ast.parse(old).body[0]
    if isinstance(wanted, ast.Expr):
        wanted = wanted.value
    found = [node for node in ast.walk(owner) if ast.dump(node) == ast.dump(wanted)]
    if len(found) != 1:
        raise PatchError(f"{where} has the following {len(found)} times instead of once")
    lines = source.encode().splitlines(keepends=True)  # columns are counted in bytes
    start = sum(map(len, lines[: found[0].lineno - 1])) + found[0].col_offset
    end = sum(map(len, lines[: found[0].end_lineno - 1])) + found[0].end_col_offset
    return (source.encode()[:start] + new.encode() + source.encode()[end:]).decode()
