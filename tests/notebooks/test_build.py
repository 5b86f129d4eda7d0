"""Notebook 3, in which a framework is written: as its learner meets it, and what `Mini` makes of their cells."""

import copy
import re
import runpy
import subprocess
import sys

import pytest
import torch
from course import build, mini
from course.build import ALONE, NAMES, Mini, measure
from course.execute import execute, notebooks

from tests.notebooks.changes import SOLUTIONS
from tests.notebooks.test_notebooks import code_cells, exercises, read

PATH = next(path for path in notebooks() if path.name.startswith("03"))


def run_alone(path):
    """Run a file in a process in which nothing of this project can be imported."""
    command = [sys.executable, "-I", "-c", ALONE, str(path)]
    return subprocess.run(command, cwd=path.parent, capture_output=True, text=True, timeout=120)


def printed(cell):
    return "".join(output.get("text", "") for output in cell.outputs)


def test_the_folded_solutions_are_the_given_framework():
    """They are in two places: in the notebook to be read, in a file to be run."""
    given_parts = dict(build.parts())
    for number, _, cell, _ in exercises(PATH):
        if number in NAMES:
            assert SOLUTIONS[number] == given_parts[number]
            assert f"check({number!r}, {', '.join(NAMES[number])})".replace("'", '"') in cell.source
    given = next(source for exercise, source in build.parts() if exercise == "Given")
    assert given.strip() in [cell.source for cell in code_cells(read(PATH), "setup")]
    assert set(NAMES) < {number for number, *_ in exercises(PATH)}


def test_a_learner_begins_with_the_first_lines_of_the_solution():
    """What is given in an exercise's cell stands in the solution as well, so that both fit what comes after."""
    for number, _, cell, _ in exercises(PATH):
        begun = [line for line in cell.source.splitlines() if line.strip() not in ("", "...")][:-1]
        assert [line for line in SOLUTIONS[number].splitlines() if line in begun] == begun, number


def test_it_has_about_eighty_lines():
    text = Mini({}).source().split("if __name__")[0]
    assert 70 <= len(build._lines(text)) <= 90


@pytest.fixture(scope="module")
def solved(tmp_path_factory):
    """The notebook after a learner has solved every step in their own cells, and where their file is."""
    notebook, file = copy.deepcopy(read(PATH)), tmp_path_factory.mktemp("learner") / "mini.py"
    answers = {cell.source: SOLUTIONS[number] for number, _, cell, _ in exercises(PATH)}
    for cell in code_cells(notebook):
        if cell.source in answers:
            call = cell.source.splitlines()[-1]
            # A comment, so that what is the learner's can be told from what was given.
            cell.source = f"# my own\n{answers[cell.source]}\n\n{call}"
        cell.source = cell.source.replace('mini.save("mini.py")', f"mini.save({str(file)!r})")
    execute(notebook)
    return notebook, file


def test_whoever_solves_every_step_goes_on_with_their_own(solved):
    cells = code_cells(solved[0])
    verdicts = [printed(cell).splitlines()[-1] for cell in cells if "exercise" in cell.metadata.get("tags", [])]
    assert len(verdicts) == 11 and all(": right." in verdict for verdict in verdicts)
    goes_on = [printed(cell) for cell in cells if cell.source.startswith("mini.add(")]
    assert len(goes_on) == 10 and all(text.startswith("This notebook goes on with your ") for text in goes_on)
    table = table_of(solved[0], "mini.steps()")
    assert table.count("  you") == 10 and "given" not in table


def test_their_framework_learns_the_circle_as_pytorch_does(solved):
    text = "".join(map(printed, code_cells(solved[0])))
    assert float(re.search(r"wrong on new points: ([\d.]+) %", text)[1]) < 5
    assert "the losses of 1000 steps: within 1e-09 of pytorch" in text
    assert "all 1,427 parameters after them: within 1e-09 of pytorch" in text


def test_their_file_runs_on_its_own(solved):
    text = solved[1].read_text(encoding="utf-8")
    assert text.count("# my own") == 10 and "check(" not in text and ", given" not in text
    assert text.startswith(
        '"""A deep-learning framework, its backward passes written by hand. My own work: exercises 3.1'
    )
    ran = run_alone(solved[1])
    assert ran.returncode == 0, ran.stderr
    assert float(re.search(r"Of 1000 new points, ([\d.]+) % ", ran.stdout)[1]) < 6


def table_of(notebook, words):
    """Return the text of the table in the output of the cell that contains some words."""
    (cell,) = [cell for cell in code_cells(notebook) if words in cell.source]
    return cell.outputs[0].data["text/plain"]


def test_without_zero_grad_nothing_is_learned(solved):
    rows = re.findall(r"seed \d +(\d+) % +(\d+) %", table_of(solved[0], "class Elephant"))
    assert len(rows) == 3
    assert all(int(learned) < 8 and int(guessed) > 40 for learned, guessed in rows)


def test_the_small_framework_is_silent_where_diy_refuses(solved):
    targets, batch, twice = table_of(solved[0], "def told").splitlines()[1:]
    assert all(row.count("right would be") == 1 for row in (targets, batch, twice))
    assert "refuses: " in targets and "refuses: " in batch and twice.endswith("(right)")


# Mini, cell by cell


class Notebook:
    """Runs cells as IPython does, and keeps their sources."""

    def __init__(self):
        self.names = {"__name__": "__main__", "In": [""]}
        self.run("import math\nimport torch\ntorch.set_default_dtype(torch.float64)")
        self.run(next(source for exercise, source in build.parts() if exercise == "Given"))
        self.mini = Mini(self.names)

    def run(self, source):
        self.names["In"].append(source)
        exec(compile(source, "<cell>", "exec"), self.names)


@pytest.fixture
def notebook():
    dtype = torch.get_default_dtype()
    yield Notebook()
    torch.set_default_dtype(dtype)


def test_an_open_step_is_replaced_by_the_given_one_and_that_is_said(notebook, capsys):
    notebook.run("def linear(X, W, b):\n    ...")
    notebook.mini.add("3.1")
    told = "Exercise 3.1 is open: this notebook goes on with the given linear.\n"
    assert capsys.readouterr().out == told
    assert notebook.names["linear"](torch.ones(1, 1), torch.ones(1, 1), torch.ones(1)).item() == 2
    notebook.mini.add("3.1")
    assert capsys.readouterr().out == told, "the given solution does not become the learner's when the cell runs again"
    notebook.mini.add("3.3")
    assert (
        capsys.readouterr().out
        == "Exercise 3.3 is open: this notebook goes on with the given accumulate and zero_grad.\n"
    )


def test_a_wrong_step_does_not_slip_in(notebook, capsys):
    notebook.run("def linear(X, W, b):\n    return X @ W.T")
    notebook.mini.add("3.1")
    assert capsys.readouterr().out == "Exercise 3.1 is not right yet: this notebook goes on with the given linear.\n"
    assert notebook.names["linear"](torch.ones(1, 1), torch.ones(1, 1), torch.ones(1)).item() == 2
    notebook.run("def linear(X, W, b):\n    return b + X @ W.T")
    notebook.mini.add("3.1")
    assert capsys.readouterr().out == "This notebook goes on with your linear.\n"
    assert "return b + X @ W.T" in notebook.mini.source()


def test_a_given_step_calls_the_steps_that_the_learner_wrote(notebook):
    notebook.run("calls = []\ndef linear(X, W, b):\n    calls.append(1)\n    return X @ W.T + b")
    for exercise in "3.1", "3.2", "3.3", "3.4":
        notebook.mini.add(exercise)
    before = len(notebook.names["calls"])
    notebook.names["Linear"](2, 2)(torch.ones(1, 2))
    assert len(notebook.names["calls"]) == before + 1


def test_there_is_no_other_step(notebook):
    with pytest.raises(ValueError, match=r'no step "4"; the steps are 3\.1, 3\.2'):
        notebook.mini.add("4")


CELL = """import numpy as np

unused = linear_was_here = None
scale = 1.0


def transposed(matrix):
    return np.transpose(matrix.numpy())


# By NumPy,
# in my own way.
def linear(X, W, b):
    return torch.from_numpy(scale * X.numpy() @ transposed(W) + b.numpy())


print(linear(torch.ones(1, 2), torch.ones(1, 2), torch.ones(1)))
"""


def test_the_file_gets_what_a_step_uses_and_nothing_else(notebook, tmp_path, capsys):
    notebook.run(CELL)
    notebook.mini.add("3.1")
    text = notebook.mini.source()
    for kept in (
        "import numpy as np\n",
        "scale = 1.0\n",
        "def transposed(matrix):",
        "# By NumPy,\n# in my own way.\ndef",
    ):
        assert kept in text
    assert "unused" not in text and "print(linear" not in text
    assert "# Exercise 3.1, mine\n" in text and "# Exercise 3.2, given\n" in text
    notebook.mini.save(tmp_path / "mini.py")
    assert f"Written to {tmp_path / 'mini.py'}: " in capsys.readouterr().out
    assert (tmp_path / "mini.py").read_text(encoding="utf-8") == text


def test_two_functions_of_one_step_may_stand_in_two_cells(notebook):
    notebook.run("def accumulate(p, g):\n    p.grad = g if p.grad is None else p.grad + g")
    notebook.run("def zero_grad(ps):\n    for p in ps:\n        p.grad = None")
    notebook.mini.add("3.3")
    text = notebook.mini.source()
    assert "def accumulate(p, g):" in text and "def zero_grad(ps):" in text


def test_a_file_that_would_not_run_is_not_written(notebook, tmp_path, capsys):
    notebook.run("def product(a, b):\n    return a @ b.T")
    notebook.run("def linear(X, W, b):\n    return product(X, W) + b")
    notebook.mini.add("3.1")
    notebook.mini.save(tmp_path / "mini.py")
    told = capsys.readouterr().out
    assert "No file is written: as a file, without the rest of this notebook, exercise 3.1 is not yet." in told
    assert "name 'product' is not defined" in told and build.BELONGS in told
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_was_there_is_kept(notebook, tmp_path, capsys):
    (tmp_path / "mini.py").write_text("precious", encoding="utf-8")
    notebook.run("def linear(X, W, b):\n    return b + X @ W.T")
    notebook.mini.add("3.1")
    for _ in range(2):  # the second time the file is the same
        notebook.mini.save(tmp_path / "mini.py")
    assert "The mini.py that was there before is now mini_1.py." in capsys.readouterr().out
    assert (tmp_path / "mini_1.py").read_text(encoding="utf-8") == "precious"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mini.py", "mini_1.py"]


def test_without_a_step_of_the_learners_own_no_file_is_written(notebook, tmp_path, capsys):
    for exercise in NAMES:
        notebook.mini.add(exercise)
    notebook.mini.save(tmp_path / "mini.py")
    assert "No file is written, as no step is yours so far." in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written_to_is_told(notebook, tmp_path, capsys):
    notebook.run("def linear(X, W, b):\n    return b + X @ W.T")
    notebook.mini.add("3.1")
    notebook.mini.save(tmp_path / "missing" / "mini.py")
    assert "No file could be written to " in capsys.readouterr().out


def test_measured_slopes_are_those_of_the_formula():
    x = torch.tensor([[1.0, -2.0], [0.5, 3.0]], dtype=torch.float64)
    before = x.clone()
    assert torch.allclose(measure(lambda v: (v**3).sum(), x), 3 * x**2, rtol=1e-8)
    assert torch.equal(x, before)


def test_importing_the_given_framework_leaves_the_dtype_alone():
    runpy.run_path(mini.__file__, run_name="mini")
    assert torch.get_default_dtype() == torch.float32
    assert mini.Linear(2, 3).weight.shape == (3, 2)
