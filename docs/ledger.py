"""The ledger of formulas: each has one number; the table says where it is derived, coded and tested.

python docs/ledger.py           writes docs/ledger.md
python docs/ledger.py --check   says whether docs/ledger.md is up to date, and changes nothing

A formula is stated where a docstring of diy.py has `(F1)`, derived where a notebook has `\\tag{F1}`, and tested where
a test is marked with `@pytest.mark.formula("F1")`.
"""

from experiments.begin import begin_command

if __name__ == "__main__":
    begin_command("python docs/ledger.py")

import ast
import json
import re
import sys
from dataclasses import dataclass, field
from pathlib import Path

from experiments.commandline import CommandError, run_command

ROOT = Path(__file__).parent.parent
LEDGER = ROOT / "docs" / "ledger.md"
HEAD = """# The ledger of formulas

Every formula of the framework has one number, the same in the docstring of `diy.py` that states it, in the notebook
that derives it and in the tests that check it. `python docs/ledger.py` generates this table; a test fails if the table
is out of date or a number lacks one of the three.

| number | formula | coded in `diy.py` | derived in | tested by |
|---|---|---|---|---|
"""


@dataclass
class Formula:
    """What is known about one number.

    Attributes:
        texts: the formula, as written in each docstring that states it.
        coded: "Class.method" or "function", the owners of those docstrings.
        derived: file names of notebooks, one for each tag.
        tested: for each test, its file below tests/ and the function.
    """

    texts: list[str] = field(default_factory=list)
    coded: list[str] = field(default_factory=list)
    derived: list[str] = field(default_factory=list)
    tested: list[tuple[str, str]] = field(default_factory=list)


def collect(root: Path = ROOT) -> dict[str, Formula]:
    """Return everything that is known about each number, in the order of the numbers."""
    formulas: dict[str, Formula] = {}
    for owner, docstring in docstrings(ast.parse((root / "diy.py").read_text(encoding="utf-8"))):
        for number, text in re.findall(r"\((F\d+)\) (.*?)(?=\(F\d+\)|\n|$)", docstring):
            formula = formulas.setdefault(number, Formula())
            formula.texts.append(re.split(r"\s+by index:|\. ", text.strip())[0].rstrip(" ."))
            formula.coded.append(owner)
    for path in sorted((root / "notebooks").glob("*.ipynb")):
        for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
            if cell["cell_type"] == "markdown":
                for number in re.findall(r"\\tag\{(F\d+)\}", "".join(cell["source"])):
                    formulas.setdefault(number, Formula()).derived.append(path.name)
    for path in sorted((root / "tests").rglob("test_*.py")):
        for test, number in markers(ast.parse(path.read_text(encoding="utf-8"))):
            formulas.setdefault(number, Formula()).tested.append((path.relative_to(root / "tests").as_posix(), test))
    return dict(sorted(formulas.items(), key=lambda item: int(item[0][1:])))


def docstrings(tree: ast.Module):
    """Yield owner and docstring of every class, method and function."""
    for node in tree.body:
        if isinstance(node, (ast.ClassDef, ast.FunctionDef)):
            yield node.name, ast.get_docstring(node) or ""
            for part in node.body if isinstance(node, ast.ClassDef) else []:
                if isinstance(part, ast.FunctionDef):
                    yield f"{node.name}.{part.name}", ast.get_docstring(part) or ""


def markers(tree: ast.Module):
    """Yield test and number for every number that a test is marked with."""
    for node in tree.body:
        for mark in node.decorator_list if isinstance(node, ast.FunctionDef) else []:
            if isinstance(mark, ast.Call) and ast.unparse(mark.func) == "pytest.mark.formula":
                for argument in mark.args:
                    yield node.name, ast.literal_eval(argument)


def table(formulas: dict[str, Formula]) -> str:
    """Return the text of docs/ledger.md."""
    rows = []
    for number, formula in formulas.items():
        tests: dict[str, list[str]] = {}
        for file, test in formula.tested:
            tests.setdefault(file, []).append(f"`{test}`")
        cells = [
            number,
            "; ".join(formula.texts).replace("|", "\\|"),
            ", ".join(f"`{owner}`" for owner in formula.coded),
            ", ".join(
                f"[{name.removesuffix('.ipynb')}](../notebooks/{name})" for name in dict.fromkeys(formula.derived)
            ),
            "; ".join(f"[{file.split('/')[-1]}](../tests/{file}): {', '.join(names)}" for file, names in tests.items()),
        ]
        rows.append("| " + " | ".join(cells) + " |\n")
    return HEAD + "".join(rows)


def main(arguments: list[str]) -> int:
    if arguments in (["-h"], ["--help"]):
        print(
            "usage: python docs/ledger.py [--check]",
            "Write docs/ledger.md, or check that it is up to date.",
            sep="\n\n",
        )
        return 0
    if arguments not in ([], ["--check"]):
        print(f"usage: python docs/ledger.py [--check], got {' '.join(arguments)}", file=sys.stderr)
        return 2
    try:
        text = table(collect())
    except (SyntaxError, ValueError, LookupError) as error:
        raise CommandError(f"diy.py, a notebook or a test cannot be read: {error}") from error
    if not arguments:
        LEDGER.write_text(text, encoding="utf-8")
    elif not LEDGER.exists() or LEDGER.read_text(encoding="utf-8") != text:
        print("docs/ledger.md is not up to date: run python docs/ledger.py", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    run_command("python docs/ledger.py", lambda: main(sys.argv[1:]))
