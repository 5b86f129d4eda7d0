"""The notebooks as they are committed: executed, complete, with exercises whose solutions solve them.

That they give the same outputs again is nbval's part, see notebooks/README.md.
"""

import ast
import copy
import dis
import os
import re
import shutil
import subprocess
import sys
import types
from collections import Counter
from statistics import mean, median, stdev

import course
import matplotlib
import nbformat
import pytest
import torch
from course.execute import FOLDER, PICTURES, notebooks, picture, pictures, provide

import diy
from experiments import evaluation
from experiments.circle import disk_data, error_rate

SKELETON = ["The question", "The algebra", "The code", "The check", "A picture", "Exercises"]
LONGEST_CELL = 30
LONGEST_LINE = 100  # a window of 1300 pixels cuts what is longer
FOLDED = r"<details><summary>{}</summary>\n\n(.*?)\n\n</details>"

every_notebook = pytest.mark.parametrize("path", notebooks(), ids=lambda path: path.stem)


def read(path):
    return nbformat.read(path, as_version=4)


def code_cells(notebook, tag=None):
    """Return the code cells, of which the first only fetches the project where it is missing."""
    return [c for c in notebook.cells if c.cell_type == "code" and (not tag or tag in c.metadata.get("tags", []))]


def exercises(path):
    """Yield (number, markdown before, exercise cell, markdown after) of each exercise."""
    cells = read(path).cells
    for index, cell in enumerate(cells):
        if "exercise" in cell.metadata.get("tags", []):
            call = re.search(r'^check\("([\d.]+)"', cell.source, flags=re.MULTILINE)
            assert call, f"an exercise cell has no call of check: {cell.source}"
            yield call[1], cells[index - 1].source, cell, cells[index + 1].source if index + 1 < len(cells) else ""


every_exercise = pytest.mark.parametrize(
    "path, exercise", [pytest.param(path, e, id=e[0]) for path in notebooks() for e in exercises(path)]
)


def test_each_notebook_has_its_number():
    numbers = [path.name[:2] for path in notebooks()]
    assert "01" in numbers and len(set(numbers)) == len(numbers)


@every_notebook
def test_every_code_cell_was_executed_in_order(path):
    counts = [cell.execution_count for cell in code_cells(read(path))]
    assert counts == list(range(1, len(counts) + 1)), "run: python -m course.execute"


@every_notebook
def test_nothing_failed_or_warned(path):
    for cell in code_cells(read(path)):
        for output in cell.outputs:
            assert output.output_type != "error" or "raises-exception" in cell.metadata.get("tags", [])
            assert output.get("name") != "stderr", f"{cell.source}\nwrote: {output.text}"


@every_notebook
def test_code_that_is_shown_is_not_compared(path):
    # A comment in diy.py is no reason for a test to fail.
    for cell in code_cells(read(path)):
        assert not cell.source.startswith("code(") or "nbval-ignore-output" in cell.metadata.get("tags", [])


@every_notebook
def test_metadata_depends_on_no_machine(path):
    notebook = read(path)
    assert notebook.metadata.kernelspec.name == "python3"
    assert notebook.metadata.language_info == {"name": "python"}
    assert "widgets" not in notebook.metadata
    assert all(set(cell.metadata) <= {"tags", "jupyter"} for cell in notebook.cells)


@every_notebook
def test_the_skeleton(path):
    notebook = read(path)
    assert notebook.cells[0].source.startswith(f"# {int(path.name[:2])}. ")
    text = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    headings = re.findall(r"^## (.*)$", text, flags=re.MULTILINE)
    found = [next((s for s in SKELETON if heading.startswith(s)), None) for heading in headings]
    assert [section for section in found if section] == SKELETON


@every_notebook
def test_links_lead_somewhere(path):
    text = "\n".join(cell.source for cell in read(path).cells if cell.cell_type == "markdown")
    for target in re.findall(r"\]\((?!https?://|#)([^)#]+)[^)]*\)", text):
        assert (FOLDER / target).exists(), f"{target} is not there"


@every_notebook
def test_the_first_code_cells_set_up(path):
    notebook = read(path)
    provided = copy.deepcopy(notebook)
    provide(provided)
    assert notebook == provided, "run: python -m course.execute"
    imports = code_cells(notebook)[1]
    assert "setup" in imports.metadata.get("tags", []) and "from course import *" in imports.source


def test_a_notebook_fetches_the_project_where_it_is_missing(tmp_path):
    public, elsewhere = tmp_path / "public", tmp_path / "elsewhere"
    (public / "notebooks" / "course").mkdir(parents=True)
    (public / "notebooks" / "course" / "__init__.py").write_text("import diy", encoding="utf-8")
    (public / "diy.py").write_text("fetched = True", encoding="utf-8")
    elsewhere.mkdir()

    def git(*arguments):
        subprocess.run(["git", "-c", "user.name=n", "-c", "user.email=e", "-C", public, *arguments], check=True)

    git("init", "--quiet")
    git("add", ".")
    git("commit", "--quiet", "--message=all")
    fetch = code_cells(read(notebooks()[0]))[0].source
    address = re.search('"(https://.*)"', fetch)[1]
    # Git takes the local repository for the public one; -I -S: no installed package is found, nor what lies here.
    settings = {"GIT_CONFIG_COUNT": "1", "GIT_CONFIG_KEY_0": f"url.{public.as_uri()}.insteadOf"}
    settings |= {"GIT_CONFIG_VALUE_0": address}
    for _ in range(2):  # the second time, nothing is left to fetch
        command = [sys.executable, "-I", "-S", "-c", f"{fetch}\nimport course, diy\nassert diy.fetched"]
        subprocess.run(command, cwd=elsewhere, env=os.environ | settings, check=True)
        shutil.rmtree(public, ignore_errors=True)
    assert [path.name for path in elsewhere.iterdir()] == ["diy-project"]


@every_notebook
def test_no_cell_is_a_wall_of_code(path):
    for cell in code_cells(read(path)):
        assert len(cell.source.splitlines()) <= LONGEST_CELL, cell.source


@every_notebook
def test_no_line_of_code_is_cut(path):
    lines = [line for cell in code_cells(read(path)) for line in cell.source.splitlines()]
    assert [line for line in lines if len(line) > LONGEST_LINE] == []


@every_notebook
def test_every_figure_says_what_it_shows(path):
    """In the HTML, since viewers drop the alternative text of a PNG."""
    for cell in code_cells(read(path)):
        for output in cell.outputs:
            assert "image/png" not in output.get("data", {}), f"use show(...)\n{cell.source}"
            html = output.get("data", {}).get("text/html", "")
            assert all(re.search(r'alt="[^"]+"', image) for image in re.findall(r"<img.*?>", html)), cell.source
            words = re.findall(r'(?:alt|aria-label)="(.*?)"', html)
            assert "<img" not in html or max(len(w.split()) for w in words) >= 5, cell.source


@every_notebook
def test_its_picture_is_that_of_the_readme(path):
    png = picture(read(path))
    assert png is not None, 'no figure in a cell tagged "picture"'
    assert (PICTURES / f"{path.name[:2]}.png").read_bytes() == png, "run: python -m course.execute"


@every_notebook
def test_outputs_are_small(path):
    for cell in code_cells(read(path)):
        for png in pictures(cell):
            assert len(png) < 600_000, f"a figure of {len(png)} bytes"
    assert path.stat().st_size < 5_000_000


@every_notebook
def test_three_exercises_numbered_in_order(path):
    numbers = [number for number, *_ in exercises(path)]
    assert len(numbers) >= 3
    assert numbers == [f"{int(path.name[:2])}.{n}" for n in range(1, len(numbers) + 1)]


@every_exercise
def test_an_exercise_has_heading_hint_and_solution_and_is_unsolved(path, exercise):
    number, before, cell, after = exercise
    assert re.search(rf"^### Exercise {re.escape(number)}: ", before, flags=re.MULTILINE)
    assert re.search(FOLDED.format("Hint"), before, flags=re.DOTALL)
    assert re.search(FOLDED.format("Solution"), after, flags=re.DOTALL)
    assert cell.outputs[-1].text.splitlines()[-1].startswith(f"Exercise {number}: open.")


def test_binder_installs_the_versions_of_the_project():
    asked, project = (
        {
            line.split("  #")[0].replace("../", "")
            for line in (FOLDER.parent / name).read_text(encoding="utf-8").splitlines()
        }
        for name in (".binder/requirements.txt", "requirements.txt")
    )
    wanted = {line for line in asked if line[:1] != "#" and "extra-index-url" not in line}
    assert {"-e .", "-r experiments/requirements.txt"} <= wanted <= project


@pytest.fixture
def as_in_a_kernel(monkeypatch):
    """The working directory and path of a kernel; what a notebook sets for the process is undone."""
    monkeypatch.chdir(FOLDER)
    monkeypatch.setattr(sys, "path", [str(FOLDER), str(FOLDER.parent), *sys.path])
    threads, dtype = torch.get_num_threads(), torch.get_default_dtype()
    with matplotlib.rc_context():
        matplotlib.use("agg")
        yield
    torch.set_num_threads(threads)
    torch.set_default_dtype(dtype)


@every_exercise
def test_the_solution_solves_the_exercise(path, exercise, as_in_a_kernel, capsys):
    number, _, cell, after = exercise
    solution = re.search(FOLDED.format("Solution"), after, flags=re.DOTALL)[1]
    blocks = re.findall(r"^```python\n(.*?)^```", solution, flags=re.DOTALL | re.MULTILINE)
    call = ast.unparse(ast.parse(cell.source).body[-1])
    namespace = {"__name__": "__main__"}
    for source in [*(c.source for c in code_cells(read(path), "setup")), *blocks, call]:
        exec(compile(source, path.name, "exec"), namespace)
    assert capsys.readouterr().out.splitlines()[-1].startswith(f"Exercise {number}: right.")


def names_of(source):
    """Return the names of the notebook that a cell defines, and those that it needs from other cells."""
    defined, needed, inside = set(), set(), set()

    def look(code, top=False):
        own = defined if top else set()  # a class has names of its own
        for step in dis.get_instructions(code):
            if step.opname == "STORE_NAME":
                own.add(step.argval)
            elif step.opname in ("LOAD_NAME", "LOAD_GLOBAL") and step.argval not in own:
                (needed if top else inside).add(step.argval)
        for constant in code.co_consts:
            if isinstance(constant, types.CodeType):
                look(constant)

    look(compile(source, "cell", "exec"), top=True)
    return defined, needed | (inside - defined)


def clashes(sources):
    """Return the names that one cell needs and several define: run again, the cell may meet the wrong one."""
    cells = [names_of(source) for source in sources]
    count = Counter(name for defined, _ in cells for name in defined)
    return {name for _, needed in cells for name in needed if count[name] > 1}


@every_notebook
def test_after_run_all_every_cell_can_be_run_again(path):
    sources = [cell.source for cell in code_cells(read(path))]
    assert clashes([f"from course import {', '.join(course.__all__)}", *sources]) == set()


def test_a_name_that_stands_for_two_things_is_noticed():
    squares = "loss = MSELoss()\nloss(p, t)"
    assert clashes([squares, "loss.backward()"]) == set()
    assert clashes([squares, "loss.backward()", "loss = 2.5"]) == {"loss"}
    assert clashes([squares, "def back():\n    return loss.backward()", "for loss in 1, 2:\n    print(loss)"]) == {
        "loss"
    }
    assert clashes([squares, "loss = 2.5\nprint(loss)", "def f(loss):\n    return [loss for loss in loss]"]) == set()
    assert clashes(["n = 1", "n = n + 1"]) == {"n"}
    assert clashes(["def step():\n    pass", "class A:\n    def step(self):\n        pass", "step()"]) == set()


def names_after(start):
    """Return the names that a notebook has defined at its end; figures and exercises are left out."""
    path = next(path for path in notebooks() if path.name.startswith(start))
    namespace = {"__name__": "__main__"}
    for cell in code_cells(read(path)):
        if not any(word in cell.source for word in ("show(", "check(", "code(")):
            exec(compile(cell.source, path.name, "exec"), namespace)
    return namespace


def test_what_notebook_1_says_about_the_first_weights(as_in_a_kernel):
    names = names_after("01")
    small, xavier, large = names["curves"].values()
    assert min(small[:200]) > 0.24 and xavier[200] < 0.1 and large[0] > 1.5 * xavier[0]
    for _, _, forward, measured_forward, backward, measured_backward in names["measurements"]:
        assert abs(float(measured_forward) / float(forward) - 1) < 0.02
        assert abs(float(measured_backward) / float(backward) - 1) < 0.02


def test_what_notebook_2_says_about_measured_slopes(as_in_a_kernel):
    best = {
        name: (steps[values.argmin()].item(), values.min().item())
        for name, (steps, values) in names_after("02")["curves"].items()
    }
    limits = {
        "float64": (1e-6, 1e-4, 1e-8),
        "float32": (1e-3, 1e-1, 1e-3),
        "float64, from one side only": (1e-9, 1e-7, 1e-6),
    }
    for name, (low, high, error) in limits.items():
        assert low < best[name][0] < high and best[name][1] < error


def definitions(start):
    """Return what the cells tagged `setup` of a notebook define."""
    path = next(path for path in notebooks() if path.name.startswith(start))
    namespace = {"__name__": "__main__"}
    for cell in code_cells(read(path), "setup"):
        exec(compile(cell.source, path.name, "exec"), namespace)
    return namespace


def test_what_notebook_4_says_about_one_thing_changed(as_in_a_kernel):
    trained = definitions("04")["trained"]

    def errors(**changes):
        network, data, test = trained(0, **changes)
        return error_rate(network, *data), error_rate(network, *test)

    assert errors()[1] < 0.1 and errors(lr=0.02)[1] < 0.1
    assert errors(activation=None)[1] > 0.3
    seen, fresh = errors(samples=50, epochs=1000)
    assert seen <= 0.04 < fresh < 0.15
    points, labels = disk_data(100_000, torch.Generator().manual_seed(0))
    lines = [points[:, 0] < at for at in torch.linspace(0.4, 0.8, 41)]
    assert 0.36 < min((line != labels).double().mean() for line in lines) < 0.38


def test_what_notebook_4_says_about_the_rounds_of_2019():
    kept = evaluation.load(FOLDER.parent / "report")
    rounds = {name: kept.models[name] for name in evaluation.REPORT_2019}
    for name, report in evaluation.REPORT_2019.items():
        last = [r.loss[-1] for r in rounds[name]]
        assert abs(mean(last) - report["loss"]) < stdev(last)
    *nine, worst = sorted(100 * r.test_error for r in rounds["diy-sgd"])
    assert nine[0] >= 1.5 and nine[-1] <= 2.5 and worst == 7.5 and rounds["diy-sgd"][9].test_error == 0.075
    assert stdev([*nine, worst]) > 1.7 and stdev(nine) < 0.35 and round(mean([*nine, worst]) - mean(nine), 1) == 0.5
    gap = [r.test_error - r.train_error for r in rounds["diy-sgd"]]
    assert 4.5 < mean(gap) / (stdev(gap) / 10**0.5) < 5.5
    assert 0.28 < mean(gap) / mean(r.test_error for r in rounds["diy-sgd"]) < 0.38
    assert mean(r.loss[-1] for r in rounds["torch-sgd"]) > 0.25  # worse than ½ to everything
    assert median(r.test_error for r in kept.models["diy-tuned"]) == 0.012
    assert sum(len(set(r.predictions.tolist())) == 1 for r in rounds["torch-sgd"]) == 5


def test_what_notebook_5_says_about_batch_sizes_and_adam(as_in_a_kernel):
    names = definitions("05")

    def trained(reduction, size, make_optimizer, dtype=torch.float32, epochs=10):
        steps, _ = names["batches"](0, size=size, epochs=epochs, dtype=dtype)
        network, criterion = (
            names["build"]("diy", names["weights"]("Xavier", 0), dtype),
            diy.MSELoss(reduction=reduction),
        )
        names["train"](network, criterion, make_optimizer(network.parameters()), steps)
        points, targets = (torch.cat(parts) for parts in zip(*steps[: 1000 // size]))
        return network, diy.MSELoss()(network(points), targets).item()

    rates = {"sum": 0.0001, "mean": 0.02}
    losses = {
        reduction: [trained(reduction, size, lambda w, lr=lr: diy.SGD(w, lr))[1] for size in (20, 200)]
        for reduction, lr in rates.items()
    }
    assert abs(losses["sum"][0] - losses["sum"][1]) < 0.01 and losses["mean"][0] < 0.9 * losses["mean"][1]
    one, other = (
        trained(reduction, 100, lambda w: torch.optim.Adam(w, lr=0.001, eps=1e-30), torch.float64)[0]
        for reduction in rates
    )
    assert all((v - w).abs().max() < 1e-9 for v, w in zip(one.parameters(), other.parameters()))


def test_what_notebook_5_says_about_the_two_programs():
    kept = evaluation.load(FOLDER.parent / "report").models
    for r in kept["torch-sgd"]:
        assert r.loss[0] > r.loss[49] > r.loss[99] > 0.25  # on its way, and in no hurry
    assert 0.04 < median(r.loss[-1] for r in kept["diy-dropout"]) < 0.06


def test_what_notebook_7_says_about_digits(as_in_a_kernel):
    names = names_after("07")
    for losses in names["history"].values():
        assert losses[-1] < losses[0] / 2
    assert all(names["test_error"](names[network]) < 0.08 for network in ("network", "comparison"))
    assert len(names["every"]["convolutions"]) == 12  # three seeds, four directions
    assert max(names["every"]["convolutions"]) < min(names["every"]["no convolution"])
    assert [answer.max().item() for answer in names["found"]] == [3, 3, 1]


def test_what_notebook_8_says_about_sizes_steps_and_digits(as_in_a_kernel):
    names = names_after("08")
    assert 0.4 < names["he"][-1] < 1.6 and 0.0004 < names["xavier"][-1] < 0.0025
    ends = {key: sizes[-1] for key, sizes in names["levels"].items()}
    assert ends["0.7 times He", False] < 0.005 and ends["1.4 times He", False] > 200
    assert all(abs(ends[name, True] - ends["He", True]) < 1e-3 for name in names["spreads"])
    assert abs(names["biased"] - 0.75) < 0.01
    slow, fast, adam = (path[-1] for path in names["paths"].values())
    assert slow[0] < -0.5 and fast[1].abs() > 100 and adam.norm() < 0.2
    squared, plain, normalized, with_adam = names["scan"].values()
    assert min(squared) > min(normalized) and min(plain) > min(normalized) and min(with_adam) < 0.06
    assert normalized[-1] < plain[-1] / 2
    _, plain, normalized, with_adam = names["lowest"].values()
    assert len(plain) == 3 and all(n < p for n, p in zip(normalized, plain)) and mean(with_adam) < mean(normalized)
    for before, *later in names["grown"]:
        assert all(after[1] > 1.5 * before[1] for after in later)
