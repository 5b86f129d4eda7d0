"""The command that executes the notebooks: outputs that depend on nothing but the code."""

import copy

import nbformat
import pytest
from nbclient.exceptions import CellExecutionError
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from notebooks import execute


def notebook(*sources):
    return new_notebook(cells=[new_markdown_cell("# 1. A title"), *map(new_code_cell, sources)])


def test_two_runs_give_the_same_bytes():
    first = notebook("object()", "import os; print(os.path.basename(os.getcwd()))")
    first.cells[1].metadata = {"tags": ["setup"], "collapsed": True, "execution": {"iopub.execute_input": "2026"}}
    second = copy.deepcopy(first)
    for each in first, second:
        execute.execute(each)
        execute.normalize(each)
    assert nbformat.writes(first) == nbformat.writes(second)
    assert first.cells[1].outputs[0].data["text/plain"] == "<object at 0xADDRESS>"
    assert first.cells[1].metadata == {"tags": ["setup"]}
    assert first.cells[2].outputs[0].text == "notebooks\n"
    assert first.metadata["executed"]["code"] == execute.code_hash(second)


def test_an_exception_stops_the_execution():
    with pytest.raises(CellExecutionError, match="ZeroDivisionError"):
        execute.execute(notebook("1 / 0"))


def test_the_hash_follows_the_code_and_nothing_else():
    before = notebook("a = 1", "b = 2")
    text = copy.deepcopy(before)
    text.cells[0].source = "# 1. Another title"
    code, order = copy.deepcopy(before), copy.deepcopy(before)
    code.cells[1].source = "a = 3"
    order.cells[1:] = reversed(order.cells[1:])
    assert execute.code_hash(text) == execute.code_hash(before)
    assert len({execute.code_hash(n) for n in (before, code, order)}) == 3


def test_the_hash_follows_what_is_imported(tmp_path, monkeypatch):
    monkeypatch.setattr(execute, "FOLDER", tmp_path / "notebooks")
    for name in (
        "notebooks/helper.py",
        "notebooks/helper.mplstyle",
        "diy.py",
        "pack/part.py",
        "pack/other.py",
        "report/results.json",
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("")

    def changes(name, content, program="import math, helper\nfrom pack import part"):
        before = execute.code_hash(notebook(program))
        (tmp_path / name).write_text(content)
        return execute.code_hash(notebook(program)) != before

    assert changes("notebooks/helper.py", "a = 1")
    assert changes("notebooks/helper.mplstyle", "font.size: 20")
    assert changes("pack/part.py", "a = 1")
    assert not changes("pack/part.py", '"""What it is about."""\n\na = 1')
    assert not changes("pack/other.py", "a = 1")
    assert changes("diy.py", "a = 1")
    assert not changes("report/results.json", "[]")
    assert changes("report/results.json", "{}", program='load("report")')


def test_check_writes_nothing_and_reports_a_difference(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(execute, "FOLDER", tmp_path)
    monkeypatch.setattr(execute, "PICTURES", tmp_path / "pictures")
    (tmp_path / "sanitize.cfg").write_text("")
    path = tmp_path / "01_small.ipynb"
    nbformat.write(notebook("1 + 1"), path)
    before = path.read_bytes()
    assert execute.main(["--check"]) == 1
    assert path.read_bytes() == before
    assert execute.main(["01"]) == 0
    assert execute.main(["--check"]) == 0
    verdicts = [line.split(":")[1].split(",")[0].strip() for line in capsys.readouterr().out.splitlines()]
    assert verdicts == ["would change", "written", "unchanged"]
    with pytest.raises(SystemExit):
        execute.main(["99"])
