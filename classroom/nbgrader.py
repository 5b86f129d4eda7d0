"""The assignment for nbgrader: a source notebook that `nbgrader generate_assignment` and `nbgrader autograde` accept.

Each class with gaps is a cell, and so is each item of the grade, with its points. A cell that begins with %%part is a
part of diy.py; the grading cells put these parts into the edition and ask what the classroom's own grader asks, in
another process. nbgrader is not needed to write the notebook.
"""

import ast
import json
import re
from collections.abc import Collection
from pathlib import Path
from typing import Any

from classroom.items import ITEMS
from classroom.judge import Worker, composite, judge
from classroom.stages import DEFINITION

PARTS: dict[str, str] = {}
"""The cells that the student has run."""


def check(what: str) -> None:
    """Judge what the cells above define by one item of the grade.

    Raises:
        AssertionError: it is not right; the message says why.
    """
    edition = Path("diy.py").read_text(encoding="utf-8")
    source = composite(edition, "\n\n".join(PARTS.values()), tuple(PARTS))
    worker = Worker()
    try:
        grade = judge(worker, "notebook", source, [item for item in ITEMS if item.what == what])
    finally:
        worker.stop()
    if not grade.points:
        raise AssertionError(grade.outcomes[0].reason)
    print(f"right: {grade.points} points")


def load_ipython_extension(shell: Any) -> None:
    """Add the cell magic %%part."""
    shell.register_magic_function(lambda line, cell: PARTS.__setitem__(line.strip(), cell), "cell", "part")


def notebook(solved: str, edition: str, statement: str, stages: Collection[int]) -> str:
    """Return the source notebook.

    Args:
        solved: the edition with solutions between nbgrader's marks.
        edition: the same with gaps; it tells which classes and functions have some.
        statement: the assignment in words.
        stages: what is asked for.
    """
    cells = [
        _cell("markdown", statement),
        _cell("code", "%load_ext selfcheck.nbgrader\nfrom selfcheck.nbgrader import check"),
    ]
    parts, lines = {}, solved.splitlines()
    for node in ast.parse(solved).body:
        if isinstance(node, DEFINITION):
            last = node.end_lineno  # a mark may follow: it is a comment, and no part of the node
            last += lines[last : last + 1] != [] and lines[last].strip() == "### END SOLUTION"
            parts[node.name] = "\n".join(lines[node.lineno - 1 : last])
    items = [item for item in ITEMS if item.stage in stages]
    given = {node.name for node in ast.parse(edition).body if isinstance(node, DEFINITION)}
    helpers = "\n\n\n".join(text for name, text in parts.items() if name not in given)
    words = "# Functions of your own, if you like"
    text = f"%%part helpers\n{words}\n### BEGIN SOLUTION\n{helpers}\n### END SOLUTION"
    cells.append(_cell("code", text, "helpers", solution=True))
    for name, text in parts.items():
        if name in given and "### BEGIN SOLUTION" in text:
            cells.append(_cell("code", f"%%part {name}\n{text}", name, solution=True))
    for item in items:
        name = re.sub(r"\W+", "-", item.what).strip("-")
        cells.append(
            _cell("code", f"check({item.what!r})", f"test-{name}", grade=True, locked=True, points=item.points)
        )
    kernel = {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}}
    document = {"cells": cells, "metadata": kernel, "nbformat": 4, "nbformat_minor": 5}
    return json.dumps(document, indent=1, ensure_ascii=False) + "\n"


def _cell(kind: str, text: str, name: str = "", **settings: Any) -> dict[str, Any]:
    """Make a cell, with nbgrader's metadata (schema version 3) if it has a name."""
    made: dict[str, Any] = {"cell_type": kind, "metadata": {}, "source": text.splitlines(keepends=True)}
    made["id"] = re.sub(r"[^a-zA-Z0-9-]", "-", name or text.split("\n")[0])[:60].strip("-") or kind
    if kind == "code":
        made |= {"outputs": [], "execution_count": None}
    if name:
        defaults = {"grade": False, "solution": False, "locked": False, "task": False}
        made["metadata"]["nbgrader"] = {**defaults, **settings, "grade_id": name, "schema_version": 3}
    return made
