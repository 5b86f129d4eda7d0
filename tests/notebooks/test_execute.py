"""The command that executes the notebooks: outputs that depend on nothing but the code."""

import copy

import nbformat
import psutil
import pytest
from course import execute
from nbclient.exceptions import CellExecutionError
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from experiments.commandline import CommandError


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


def test_an_exception_stops_the_execution():
    with pytest.raises(CellExecutionError, match="ZeroDivisionError"):
        execute.execute(notebook("1 / 0"))


def test_no_kernel_outlives_its_notebook():
    running = notebook("import os; print(os.getpid())")
    execute.execute(running)
    assert not psutil.pid_exists(int(running.cells[1].outputs[0].text))


def test_a_kernel_that_dies_is_told_in_one_sentence(tmp_path, monkeypatch):
    monkeypatch.setattr(execute, "FOLDER", tmp_path)
    nbformat.write(notebook("import os; os._exit(1)"), tmp_path / "01_small.ipynb")
    with pytest.raises(CommandError, match=r"^01_small.ipynb: its kernel died"):
        execute.main([])


def test_check_writes_nothing_and_reports_a_difference(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(execute, "FOLDER", tmp_path)
    monkeypatch.setattr(execute, "PICTURES", tmp_path / "pictures")
    (tmp_path / "sanitize.cfg").write_text("", encoding="utf-8")
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
    for content, words in ((b"{", "01_small.ipynb is damaged"), (b"{}", "is damaged"), (b"[]", "is damaged")):
        path.write_bytes(content)
        with pytest.raises(CommandError, match=words):
            execute.main([])
        assert path.read_bytes() == content


def test_addresses_are_masked_and_pictures_are_not():
    data = "iVBORw0xabcdef12/0xabcdef12+0xabcdef12"  # looks like an address, and is part of a picture
    cell = new_code_cell(
        outputs=[new_output("display_data", {"text/html": f'<img src="data:image/png;base64,{data}">'})]
    )
    printed = new_code_cell(outputs=[new_output("stream", text="<object at 0x7f00abcdef12>")])
    executed = new_notebook(cells=[cell, printed])
    execute.normalize(executed)
    assert data in cell.outputs[0].data["text/html"]
    assert printed.outputs[0].text == "<object at 0xADDRESS>"
