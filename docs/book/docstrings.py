"""What autodoc does not know about this project's docstrings: they are written to be read as plain text."""

import ast
import functools
import re
from pathlib import Path

SECTION = r"(Args|Attributes|Raises|Returns|Yields|Example):$"


def restructured(lines: list[str]) -> None:
    """Turn a docstring, given as its lines, into reStructuredText, in place.

    Formulas keep their lines, sections become lists, what is indented below a paragraph is code, and no character of
    the text is markup.
    """
    new: list[str] = []
    section = code = False
    for number, line in enumerate(lines):
        indented = line.startswith("    ")
        follows_blank = number > 0 and not lines[number - 1].strip()
        if not line.strip():
            new.append("")
        elif re.match(SECTION, line):
            section, code = True, False
            new += [f"**{line[:-1]}**", ""]
        elif section and indented:
            entry = re.match(r"    ([\w*]\S*(?:, \w\S*)*): (.*)", line)
            new += ["", f"``{entry[1]}``", f"    {plain(entry[2])}"] if entry else [f"    {plain(line.strip())}"]
        elif indented and (code or follows_blank):
            new += [line] if code else [".. code-block:: python", "", line]
            code = True
        elif re.match(r"\(F\d+\)", line.strip()):
            section = code = False
            new.append(f"| {plain(line.strip())}")
        elif new and new[-1].startswith("|"):
            new.append(f"  {plain(line.strip())}")
        else:
            section = code = False
            new.append(plain(line))
    lines[:] = [*new, ""]


def plain(text: str) -> str:
    """Escape what would be markup, code in single backticks excepted, and keep gaps."""
    text = re.sub(r"(?<=\S)   +", "\u2003", text)
    return re.sub(r"`[^`]*`|[*|_\\]", lambda match: match[0] if match[0][0] == "`" else f"\\{match[0]}", text)


@functools.cache
def definitions(path: Path) -> dict[str, int]:
    """Return the line of each class, function and method of a file; a method also stands under its bare name."""
    lines: dict[str, int] = {}
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, (ast.ClassDef, ast.FunctionDef)):
            lines[node.name] = node.lineno
            for part in node.body if isinstance(node, ast.ClassDef) else []:
                if isinstance(part, ast.FunctionDef):
                    lines[f"{node.name}.{part.name}"] = part.lineno
    return lines
