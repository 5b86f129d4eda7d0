"""The notebooks of the student edition: without folded solutions, and without the code that students are to write.

The mathematics stays: it is what the lecture derives. What goes is code: the section that shows it, solutions, and the
expressions of a gap wherever they stand, which become dots.
"""

import ast
import copy
import json
import re
from collections.abc import Collection
from pathlib import Path
from typing import Any

from classroom.stages import owners, stage_of

ROOT = Path(__file__).resolve().parent.parent
CHAPTERS = {"01_forward_pass": 1, "02_backward_pass": 3, "08_classification": 6, "07_convolutions": 7}
"""Notebooks, and the stage from which each is of use. The others would give the solution away."""

SUPPORT = (
    "gradcheck.py",
    "experiments/__init__.py",
    "experiments/begin.py",
    "experiments/circle.py",
    "notebooks/course/__init__.py",
    "notebooks/course/course.mplstyle",
    "notebooks/course/drawings.py",
    "notebooks/course/images.py",
    "notebooks/course/checkers/core.py",
    "notebooks/course/checkers/answers.py",
    "notebooks/course/checkers/mistakes.py",
    "notebooks/course/checkers/running.py",
)
"""What they import; it lies beside them in the handout."""

SOLUTION = re.compile(r"<details><summary>Solution</summary>.*?</details>\n?", re.DOTALL)


def gaps(source: str, stages: Collection[int]) -> dict[str, ast.FunctionDef]:
    """Return the functions that are to be written, by their names."""
    return {
        name: node
        for name, (node, formulas) in owners(source).items()
        if {*map(stage_of, formulas)} & {*stages}
    }  # fmt: skip


def expressions(functions: Collection[ast.FunctionDef]) -> set[str]:
    """Return what the functions compute, expression by expression, in the letters of the lecture."""
    found = set()
    for function in functions:
        for statement in function.body:
            for node in ast.walk(statement):
                if isinstance(node, (ast.BinOp, ast.Call)) and _tells(node):
                    found.add(_letters(node))
    return found


def _tells(node: ast.BinOp | ast.Call) -> bool:
    """Whether an expression says how something is computed: a product, a sum over a dimension, a clamp."""
    return _sums(node) or (isinstance(node, ast.BinOp) and any(isinstance(n, ast.Name) for n in ast.walk(node)))


def _sums(node: ast.AST) -> bool:
    known = ("sum", "mean", "relu", "tanh", "sigmoid", "square", "gather", "scatter_add_", "reshape")
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in known


def _letters(node: ast.AST) -> str:
    text = ast.unparse(node).replace(".mT", ".T").replace("self.weight", "W").replace("self.bias", "b")
    return re.sub(r"\brows\b", "G", re.sub(r"\binputs\b", "X", text))


def edited(
    notebook: dict[str, Any], functions: dict[str, ast.FunctionDef], numbers: Collection[str], missing: Collection[str]
) -> dict[str, Any]:
    """Return a notebook without what would give away `functions`, which state the formulas `numbers`.

    Cells that use names of diy.py that are `missing` in the edition are left out as well.
    """
    notebook, told = copy.deepcopy(notebook), expressions(functions.values())
    shown, cells = False, []
    for cell in notebook["cells"]:
        if cell.get("id") == "fetch":  # it would put the whole diy.py in place of theirs
            continue
        text = "".join(cell["source"])
        if cell["cell_type"] == "markdown" and (headings := re.findall(r"^## (.*)$", text, flags=re.MULTILINE)):
            section = _section(notebook["cells"], cell) if headings[0] == "The code" else ""
            shown = any(f"{owner}" in section for owner in functions) and "code(" in section
            if shown:
                text = "## The code\n\nThis is what you write, in `diy.py`."
                cells.append({**cell, "source": text.splitlines(keepends=True)})
        if shown:
            continue
        new = _code(_without(text, missing), told, numbers) if cell["cell_type"] == "code" else _prose(text, told)
        if not new.strip() or (cell["cell_type"] == "code" and any(re.search(rf"\b{n}\b", new) for n in missing)):
            continue
        if new != text and cell["cell_type"] == "code":
            cell |= {"outputs": [], "execution_count": None}
        cells.append({**cell, "source": new.splitlines(keepends=True)})
    notebook["cells"] = cells
    return notebook


def _section(cells: list[dict], first: dict) -> str:
    texts = ["".join(cell["source"]) for cell in cells[next(k for k, c in enumerate(cells) if c is first) :]]
    end = next((k for k, text in enumerate(texts) if k and re.search(r"^## ", text, flags=re.MULTILINE)), len(texts))
    return "\n".join(texts[:end])


def _without(text: str, missing: Collection[str]) -> str:
    """Import nothing that is missing."""
    for node in ast.walk(ast.parse(text)) if missing and "from diy import" in text else ():
        if isinstance(node, ast.ImportFrom) and node.module == "diy":
            names = [alias.name for alias in node.names if alias.name not in missing]
            lines = text.splitlines()
            lines[node.lineno - 1 : node.end_lineno] = [f"from diy import {', '.join(names)}"]
            text = "\n".join(lines)
    return text


def _prose(text: str, told: Collection[str]) -> str:
    text = SOLUTION.sub("", text)
    return re.sub(r"`([^`\n]+)`", lambda match: "`...`" if _reveals(match[1], told) else match[0], text)


def _reveals(code: str, told: Collection[str]) -> bool:
    try:
        nodes = list(ast.walk(ast.parse(code)))
    except SyntaxError:
        return False
    return any(isinstance(node, (ast.BinOp, ast.Call)) and _letters(node) in told for node in nodes)


def _code(text: str, told: Collection[str], numbers: Collection[str]) -> str:
    """Put dots in place of the expressions `told`, and cut the text of the formulas `numbers`."""
    alternatives = "|".join(sorted(numbers, key=len, reverse=True))
    text = re.sub(rf'"(\((?:{alternatives})\)) [^"\n]*"', r'"\1"', text)
    while True:
        try:
            tree = ast.parse(text)
        except SyntaxError:  # a line for the notebook's shell
            return text
        nodes = [n for n in ast.walk(tree) if isinstance(n, (ast.BinOp, ast.Call))]
        node = next((n for n in nodes if _letters(n) in told), None)
        agreed = [n for n in nodes if isinstance(n, ast.Call) and ast.unparse(n.func) == "agree"]
        for call in agreed if node is None else ():  # which computes the formula, in whatever letters
            if isinstance(call.args[0], ast.Constant) and str(call.args[0].value)[1:-1] in numbers:
                values = [*call.args[1:], *(keyword.value for keyword in call.keywords if keyword.arg != "tolerance")]
                computed = [v for v in values if any(isinstance(n, ast.BinOp) or _sums(n) for n in ast.walk(v))]
                node = next(iter(computed), node)
        if node is None:
            return text
        lines = [line.encode() for line in text.splitlines(keepends=True)]  # columns count bytes
        before = b"".join([*lines[: node.lineno - 1], lines[node.lineno - 1][: node.col_offset]])
        after = b"".join([lines[node.end_lineno - 1][node.end_col_offset :], *lines[node.end_lineno :]])
        text = (before + b"..." + after).decode()


def handout(edition: str, source: str, stages: Collection[int]) -> dict[str, str]:
    """Return the notebooks that fit an edition, and what they import, as texts by their names in the handout."""
    functions = gaps(source, stages)
    numbers = {number for name in functions for number in owners(source)[name][1]}
    defined = {getattr(node, "name", "") for node in ast.parse(edition).body}
    files: dict[str, str] = {}
    for name, stage in CHAPTERS.items():
        path = ROOT / "notebooks" / f"{name}.ipynb"
        if stage > max(stages) or not path.exists():
            continue
        notebook = json.loads(path.read_text(encoding="utf-8"))
        code = "\n".join("".join(c["source"]) for c in notebook["cells"] if c["cell_type"] == "code")
        imports = list(ast.walk(ast.parse(re.sub(r"^%.*$", "", code, flags=re.MULTILINE))))
        wanted = {a.name for n in imports if isinstance(n, ast.ImportFrom) and n.module == "diy" for a in n.names}
        notebook = edited(notebook, functions, numbers, wanted - defined)
        files[f"{name}.ipynb"] = json.dumps(notebook, indent=1, ensure_ascii=False) + "\n"
        checker = f"course/checkers/{name[3:]}.py"
        files[checker] = (ROOT / "notebooks" / checker).read_text(encoding="utf-8")
    for name in SUPPORT if files else ():
        files[name.removeprefix("notebooks/")] = (ROOT / name).read_text(encoding="utf-8")
    return files
