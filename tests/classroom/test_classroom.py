"""The classroom: an edition that gives nothing away, and a grader that is fair, says why, and cannot be fooled."""

import ast
import csv
import itertools
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from bugs import BUGS
from classroom import frameworks, fresh, prove
from classroom.edition import main as make_edition
from classroom.edition import student_source, write, write_free, write_nbgrader
from classroom.free import FREE
from classroom.grade import main, submissions
from classroom.items import ITEMS, fresh_items
from classroom.judge import Worker, composite, judge, sandboxed, suspicious
from classroom.selfcheck import own_files, read
from classroom.stages import STAGES, owners, parse_stages, stage_of

ROOT = Path(__file__).parents[2]
SOURCE = (ROOT / "diy.py").read_text(encoding="utf-8")

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="submissions run in forks")


@pytest.fixture(scope="module")
def worker():
    """For submissions that mean no harm: each runs in a fork, which costs little."""
    worker = Worker("none")
    yield worker
    worker.stop()


@pytest.fixture(scope="module")
def sandbox():
    """For those that may; whatever looks suspicious is followed by a new one, which loads PyTorch anew."""
    worker = Worker("bwrap" if shutil.which("bwrap") else "none")
    yield worker
    worker.stop()


# The table of stages and items


def test_every_formula_has_a_stage_and_every_stage_of_the_plain_assignment_asks_for_each():
    stated = {number for _, numbers in owners(SOURCE).values() for number in numbers}
    assert stated == {number for stage in STAGES for number in stage.formulas}
    asked = {number for item in ITEMS for number in item.formulas}
    assert asked == stated
    for item in ITEMS:
        assert item.owners is None or all(stage_of(number) == item.stage for number in item.formulas), item.what


@pytest.mark.parametrize("items", [ITEMS, FREE], ids=["gaps", "free"])
def test_an_assignment_has_100_points_and_items_of_different_names(items):
    assert sum(item.points for item in items if item.stage <= 5) == 100
    assert len({item.what for item in items}) == len(items)


@pytest.mark.parametrize("text", ["", "0", "8", "3-2", "1-9", "a", "1..3"])
def test_stages_that_are_none_are_refused(text):
    with pytest.raises(ValueError, match="stages are 1 to 7"):
        parse_stages(text)


# The edition

CHOICES = [([1], []), ([2], [1]), ([2], []), ([4, 5], []), ([7], []), ([1, 2, 3], []), (range(1, 6), [])]
CHOICES += [(range(1, 6), [2]), (range(1, 8), []), ([6], range(1, 6))]


@pytest.mark.parametrize("stages, solved", CHOICES, ids=str)
def test_an_edition_can_be_imported_and_its_gaps_say_their_stage(stages, solved):
    edition = student_source(SOURCE, stages, solved)
    module = type(sys)("edition")
    sys.modules["edition"] = module  # as an import does
    exec(compile(edition, "edition.py", "exec"), module.__dict__)
    gaps = {name for name, (node, _) in owners(edition).items() if "raise NotImplementedError(" in ast.unparse(node)}
    for name, (_, numbers) in owners(SOURCE).items():
        numbers = {*map(stage_of, numbers)}
        if numbers & {*stages} - {*solved}:
            assert name in gaps, name
        elif numbers <= {*solved}:
            assert name not in gaps and name in owners(edition), name
    assert [name for name in module.__all__ if not hasattr(module, name)] == []
    used = [n.id for n in ast.walk(ast.parse(edition)) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Load)]
    classes = {node.name for node in ast.parse(SOURCE).body if isinstance(node, ast.ClassDef)}
    assert classes & {*used} <= vars(module).keys(), "a class that is left out is mentioned"


@pytest.mark.parametrize("stages, solved", CHOICES, ids=str)
def test_an_edition_names_nothing_that_it_leaves_out(stages, solved):
    """Not even in code that runs only when a state is loaded or something is refused."""
    edition = student_source(SOURCE, stages, solved)
    command = [sys.executable, "-m", "ruff", "check", "--isolated", "--select", "F821,F822", "-"]
    run = subprocess.run(command, input=edition.encode(), capture_output=True)
    assert run.returncode == 0, run.stdout.decode()


def test_an_edition_holds_no_formula_and_no_line_of_what_is_to_be_written():
    edition = student_source(SOURCE, range(1, 8))
    code = ast.unparse(ast.parse(edition))
    for name, (node, _) in owners(SOURCE).items():
        for statement in node.body[1:]:
            line = ast.unparse(statement)
            computes = isinstance(statement, (ast.Assign, ast.Return, ast.AugAssign)) and "recall" not in line
            assert not computes or len(line) <= 20 or line not in code, f"{name}: {line}"
    for formula in ("Gᵀ X", "X Wᵀ", "(2/M)", "1 − tanh", "√(2 / (in + out))", "m̂"):
        stated = [ast.get_docstring(node) or "" for node, _ in owners(edition).values()]
        assert not any(formula in text for text in stated), formula


@pytest.fixture(scope="module")
def handout(tmp_path_factory):
    out = tmp_path_factory.mktemp("classroom") / "handout"
    write(out, range(1, 8), (), list(fresh.MODULES))
    return out


def test_nothing_in_a_handout_gives_a_gap_away(handout):
    """Neither the text of a formula nor a line that computes it stands in any file; LaTeX, the lecture's, does."""
    secrets = set()
    for node, _ in owners(SOURCE).values():
        for text in re.findall(r"\(F\d+\) (.+?)(?:    |\. |\.?$)", ast.get_docstring(node), flags=re.MULTILINE):
            secrets |= {part for part in re.split(r"[,;:] ", text) if "=" in part or "←" in part}
        for statement in ast.walk(node):
            if isinstance(statement, (ast.Assign, ast.AugAssign, ast.Return)) and statement.value is not None:
                line = ast.unparse(statement.value)
                if any(sign in line for sign in "@*/") or ".sum(" in line or ".relu(" in line:
                    secrets |= {line, line.replace(".mT", ".T")}
    assert {"S = X Wᵀ + b", "∂ℓ/∂W = Gᵀ X", "X @ W.T", "G * (1 - X * X)"} <= secrets
    secrets = {secret for secret in secrets if len(secret) > 6}
    found = set()
    files = [path for path in handout.rglob("*") if path.suffix in (".py", ".md", ".json", ".ipynb")]
    assert len([path for path in files if path.suffix == ".ipynb"]) >= 3
    for path in files:
        text = path.read_text(encoding="utf-8")
        if path.suffix == ".ipynb":
            assert "<summary>Solution" not in text
            notebook = json.loads(text)
            outputs = "".join(
                str(o.get("text", "")) + str(o.get("data", {}).get("text/plain", ""))
                for c in notebook["cells"]
                for o in c.get("outputs", ())
            )
            text = "\n".join("".join(c["source"]) for c in notebook["cells"]) + outputs
        found |= {(path.name, secret) for secret in secrets if secret in text}
    assert found == set()


def test_the_notebooks_of_a_handout_import_what_lies_beside_them(handout):
    written = {path.relative_to(handout).as_posix() for path in handout.rglob("*")}
    for path in sorted(handout.glob("*.ipynb")):
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        code = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
        rooms = "course|experiments|diy|gradcheck|bugs|playground"
        for module in re.findall(rf"^(?:from|import) ((?:{rooms})\b\S*)", code, re.MULTILINE):
            file = module.replace(".", "/")
            assert {f"{file}.py", f"{file}/__init__.py"} & written, f"{path.name} imports {module}"
    line = "import course, course.drawings, experiments.circle, diy; print(course.__file__)"
    done = subprocess.run([sys.executable, "-c", line], cwd=handout, capture_output=True, text=True, timeout=300)
    assert str(handout) in done.stdout, done.stderr


def test_the_source_notebook_for_nbgrader_solves_itself_and_is_empty_without_its_solutions(tmp_path, worker):
    write_nbgrader(tmp_path / "source", [1, 2, 3])
    notebook = json.loads((tmp_path / "source" / "framework.ipynb").read_text(encoding="utf-8"))
    cells = [cell for cell in notebook["cells"] if "nbgrader" in cell["metadata"]]
    keys = {"grade", "solution", "locked", "task", "grade_id", "schema_version"}  # its metadata, version 3
    for cell in cells:
        about = cell["metadata"]["nbgrader"]
        assert about.keys() == keys | ({"points"} if about["grade"] else set()) and about["schema_version"] == 3
        assert about["grade"] != about["solution"] and about["locked"] == about["grade"]
    assert len({cell["metadata"]["nbgrader"]["grade_id"] for cell in cells}) == len(cells)
    points = sum(cell["metadata"]["nbgrader"].get("points", 0) for cell in cells)
    assert points == sum(item.points for item in ITEMS if item.stage <= 3)
    parts = dict("".join(c["source"]).split("\n", 1) for c in cells if c["metadata"]["nbgrader"]["solution"])
    names, text = tuple(line.removeprefix("%%part ") for line in parts), "\n\n".join(parts.values())
    assert text.count("### BEGIN SOLUTION") == text.count("### END SOLUTION") > 10
    edition = (tmp_path / "source" / "diy.py").read_text(encoding="utf-8")
    items = [item for item in ITEMS if item.stage <= 3]
    solved = judge(worker, "solved", composite(edition, text, names), items, edition)
    assert solved.points == solved.possible, [o.reason for o in solved.outcomes]
    unsolved = re.sub(r"### BEGIN SOLUTION.*?### END SOLUTION", "raise NotImplementedError()", text, flags=re.DOTALL)
    unsolved = unsolved.replace("raise NotImplementedError()", "", 1)  # the helpers
    assert judge(worker, "empty", composite(edition, unsolved, names), items, edition).points == 0


def test_a_handout_is_not_written_over_a_students_work(tmp_path):
    (tmp_path / "diy.py").write_text("my work", encoding="utf-8")
    with pytest.raises(FileExistsError, match="choose a new folder"):
        write(tmp_path, range(1, 6))
    assert (tmp_path / "diy.py").read_text(encoding="utf-8") == "my work"


@pytest.mark.parametrize(
    "arguments, why",
    [
        ("--stages 1-3 --solved 2-4", "both hold 2,3"),
        ("--stages 1-2 --solved 1-3 --nbgrader", "both hold 1,2"),
        ("--solved 2", "both hold 2"),
        ("--stages 4-5 --solved 1", "add 2,3 to --stages or --solved"),
        ("--free --stages 1-5", "--free cannot be combined with --stages"),
        ("--free --nbgrader --modules ELU", "--free cannot be combined with --modules and --nbgrader"),
        ("--nbgrader --modules ELU", "--nbgrader cannot be combined with --modules"),
    ],
)
def test_options_that_contradict_each_other_are_refused(tmp_path, capsys, arguments, why):
    with pytest.raises(SystemExit) as stopped:
        make_edition([*arguments.split(), "--out", str(tmp_path / "handout")])
    (line,) = (capsys.readouterr().err or str(stopped.value)).strip().splitlines()
    assert why in line and not (tmp_path / "handout").exists()


def test_gaps_of_other_stages_are_named(tmp_path, capsys):
    make_edition(["--stages", "3", "--out", str(tmp_path / "alone")])
    words = (tmp_path / "alone" / "README.md").read_text(encoding="utf-8")
    assert "Gaps of stage 1 earn no points here" in words and "gaps of stage 1," in capsys.readouterr().out
    make_edition(["--stages", "3", "--solved", "1-2", "--out", str(tmp_path / "solved")])
    words = (tmp_path / "solved" / "README.md").read_text(encoding="utf-8")
    assert "Gaps of" not in words and "it also has" not in capsys.readouterr().out


def test_the_handout_checks_itself_in_a_fresh_process(tmp_path):
    write(tmp_path / "handout", [1, 2, 3], [2], ["ELU"])
    written = student_source(SOURCE, [3], [1, 2]) + fresh.gaps(["ELU"])  # the first stage, and no more
    (tmp_path / "handout" / "diy.py").write_text(written, encoding="utf-8")
    command = [sys.executable, "grade.py", "diy.py"]
    done = subprocess.run(command, cwd=tmp_path / "handout", capture_output=True, text=True, timeout=300)
    assert done.returncode == 0 and "(20 of 20 points)" in done.stdout and "20 of 61 points" in done.stdout
    assert "not written yet (stage 3: F8)" in done.stdout and "ELU" in done.stdout
    assert "stage 2" not in done.stdout, "what is solved is not asked for"
    for wrong in "1,2", "5", "one":
        refused = subprocess.run([*command, "--stage", wrong], cwd=tmp_path / "handout", capture_output=True, text=True)
        assert refused.returncode == 2 and f"one stage at a time, from 1, 2, 3, got '{wrong}'" in refused.stderr
    words = (tmp_path / "handout" / "README.md").read_text(encoding="utf-8")
    assert "Stage 2 is solved for you." in words and "Hand in `diy.py`" in words and "in stage 5" not in words


# The grader; `python -m classroom.grade --prove` asks all that is known


def grade(worker, source, stages=range(1, 6)):
    return judge(worker, "a student", source, [item for item in ITEMS if item.stage in stages], SOURCE)


def test_the_reference_gets_everything_and_the_empty_edition_nothing(worker):
    full = grade(worker, SOURCE, range(1, 8))
    assert [o.reason for o in full.outcomes if o.state != "right"] == [] and full.flags == []
    assert grade(worker, student_source(SOURCE, range(1, 8)), range(1, 8)).points == 0


@pytest.mark.parametrize(
    "name",
    [
        *("without docstrings, other names", "NumPy, if there is any", "an optimizer of one's own", "float32 in Tanh"),
        "torch.nn imported, not used",
    ],
)
def test_other_styles_lose_nothing(worker, name):
    assert prove.check_right(name, grade(worker, prove.RIGHT[name])) == ""


def test_every_planted_bug_in_a_formula_of_the_plain_assignment_is_among_the_known_mistakes():
    plain = {name for name, (_, numbers) in owners(SOURCE).items() if {*map(stage_of, numbers)} <= {*range(1, 6)}}
    wanted = {name for name, bug in BUGS.items() if {where for where, _, _ in bug.edits} & plain}
    assert prove.PLANTED.keys() == wanted - {"relu-kink"}
    known = {**prove.MISTAKES, **prove.OPTIONAL, **prove.FREE_MISTAKES}
    assert all(mistake.where and len(mistake.words) > 2 for mistake in known.values())


@pytest.mark.parametrize(
    "name",
    [
        *("mean reported, gradient divided by N", "Tanh keeps the first output", "weight decay beside the velocity"),
        *("dropout drops the same in every call", "bias-not-summed", "gradients replaced, the future"),
        *("He counts channels only", "batch norm uses the batch in evaluation"),
    ],
)
def test_a_mistake_costs_points_in_its_own_class_and_is_named(worker, name):
    mistake = {**prove.MISTAKES, **prove.OPTIONAL}[name]
    items = [item for item in ITEMS if item.what.startswith(mistake.where) or "Linear" in item.what]
    assert prove.check_mistake(name, judge(worker, name, mistake.source, items, SOURCE), mistake) == ""


@pytest.mark.parametrize(
    "where, source, words, never",
    [
        ("Tanh backward", prove.activation("Tanh", "S.tanh()", "G * (1 + X * X)"), "it is G + G · X · X", "wrong in"),
        ("Tanh backward", prove.activation("Tanh", "S.tanh()", "G * (S.cos() - X ** 7)"), "wrong in", "it is"),
        ("MSELoss with", prove.mse("D.sum()", "D"), "the sum of the differences", "the sign"),
        ("MSELoss with", prove.mse("D.exp().sum()", "D"), "it is another number", "times"),
        (
            "SGD with Nesterov",
            prove.replaced("g.add(v, alpha=momentum) if nesterov else v", "v"),
            "Nesterov's step is not taken",
            "there is no momentum",
        ),
    ],
)
def test_a_cause_is_named_only_if_it_gives_all_numbers(worker, where, source, words, never):
    items = [item for item in ITEMS if item.what.startswith(where)]
    (reason,) = [outcome.reason for outcome in judge(worker, "a student", source, items, SOURCE).outcomes]
    assert words in reason and never not in reason


@pytest.mark.skipif(sys.platform != "linux", reason="macOS does not limit memory")
def test_a_file_that_takes_too_much_memory_is_graded_class_by_class_and_worth_a_look(worker):
    found = grade(worker, SOURCE + "\n\nbig = torch.ones(750_000_000)\n", [2])
    assert found.points == found.possible
    assert len(found.flags) == 1 and "the file does not load: RuntimeError" in found.flags[0]
    assert grade(worker, SOURCE + "\n\nsmall = torch.ones(300_000_000)\n", [2]).flags == []


def test_a_file_that_takes_forever_to_load_is_graded_class_by_class(worker, monkeypatch):
    monkeypatch.setattr("classroom.judge.ITEM_SECONDS", 1.0)
    found = judge(worker, "trains", SOURCE + "\n\nwhile True:\n    pass\n", ITEMS[:2], SOURCE)
    assert found.points == found.possible > 0
    assert [flag[:22] for flag in found.flags] == ["the file does not load"]


@pytest.mark.parametrize(
    "source, words",
    [
        ("if __name__ == '__main__':\n    open('x')", []),
        ("__name__ = '__main__'\nif __name__ == '__main__':\n    open('x')", ["__main__", "open"]),
        ("torch._foreach_add_([], [])", []),
        ("torch._make_dual", ["torch._make_dual"]),
        ("import torch.optim", ["optim"]),
    ],
)
def test_words_are_listed_that_such_an_assignment_does_without(source, words):
    assert [flag.split()[2] for flag in suspicious(source, "import torch")] == words


# The free edition

ASKED = [item for item in FREE if item.owners]
"""All but the network that learns, which takes seconds."""


@pytest.mark.parametrize("name", frameworks.RIGHT)
def test_what_the_assignment_leaves_open_costs_nothing(worker, name):
    found = judge(worker, name, frameworks.RIGHT[name], ASKED)
    assert prove.check_right(name, found) == "" and found.flags == []


@pytest.mark.parametrize("name", prove.FREE_MISTAKES)
def test_a_mistake_in_a_free_framework_costs_its_own_points_and_is_named(worker, name):
    mistake = prove.FREE_MISTAKES[name]
    assert prove.check_mistake(name, judge(worker, name, mistake.source, ASKED), mistake, free=True) == ""


def test_a_free_framework_learns(worker):
    assert judge(worker, "learns", frameworks.RIGHT["as suggested"], FREE[-1:]).points == FREE[-1].points


def test_the_free_handout_gets_nothing_until_there_is_a_framework(tmp_path, worker):
    write_free(tmp_path / "handout")
    found = judge(worker, "nothing", own_files(tmp_path / "handout" / "adapters.py"), FREE)
    assert found.points == 0 and all("No module named 'framework'" in o.reason for o in found.outcomes)
    text = frameworks.RIGHT["as suggested"]["framework.py"]
    (tmp_path / "handout" / "framework.py").write_text(text, encoding="utf-8")
    command = [sys.executable, "grade.py", "--stage", "2"]
    done = subprocess.run(command, cwd=tmp_path / "handout", capture_output=True, text=True, timeout=300)
    assert "18 of 18 points" in done.stdout


def test_a_handout_needs_nothing_but_pytorch_and_for_its_notebooks_what_it_says(tmp_path, handout):
    write_free(tmp_path)
    for folder in (handout, tmp_path):
        for path in (path for path in folder.rglob("*.py") if path.name != "adapters.py"):
            of_notebooks = path.relative_to(folder).parts[0] in ("course", "experiments", "gradcheck.py")
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
                names += [node.module] if isinstance(node, ast.ImportFrom) and not node.level else []
                roots = {name.split(".")[0] for name in names} - set(sys.stdlib_module_names)
                more = (
                    {"matplotlib", "numpy", "IPython", "course", "experiments", "gradcheck", "diy", "tqdm"}
                    if of_notebooks
                    else set()
                )
                assert roots <= {"torch", "selfcheck"} | more, f"{path.name}: {roots}"


@pytest.mark.parametrize(
    "name",
    [
        *("an endless loop", "exit at once", "40 GB", "a reply of its own", "an end of its own", "the worker's memory"),
        *("patched PyTorch", "autograd", "torch.nn"),
    ],
)
def test_an_attack_gets_nothing_and_harms_nobody(sandbox, name, monkeypatch):
    items = [item for item in ITEMS if item.what.startswith(("ReLU", "Linear forward"))]
    with monkeypatch.context() as patience:
        if name == "an endless loop":
            patience.setattr("classroom.judge.ITEM_SECONDS", 1.0)  # for what never ends, the wait proves nothing
        assert prove.check_attack(name, judge(sandbox, name, prove.ATTACKS[name][1], items, SOURCE)) == ""
    after = judge(sandbox, "the next submission", SOURCE, items, SOURCE)
    assert after.points == after.possible


def test_the_reference_cannot_be_kept_for_later(worker):
    thief = "class Thief:\n    pass\n\n\ntorch.kept = getattr(torch, 'kept', None) or globals().get('Tanh')\n"
    source = student_source(SOURCE, range(1, 8)).replace("class ReLU(Module):", thief + "\n\nclass ReLU(Module):")
    source += "\nif getattr(torch, 'kept', None) is not None and torch.kept is not Tanh:\n    Tanh = torch.kept\n"
    assert grade(worker, source, [1, 3]).points == 0


def test_helpers_of_the_reference_cannot_be_borrowed(worker):
    source = student_source(SOURCE, range(1, 8))
    source = source.replace('raise NotImplementedError("stage 1: F7")', "X = S.relu(); self.remember(X, X); return X")
    source = source.replace('raise NotImplementedError("stage 3: F8")', "G, X = self.recall(G); return _where(X, G)")
    items = [item for item in ITEMS if item.what.startswith("ReLU")]
    assert [o.got for o in judge(worker, "borrows", source, items, SOURCE).outcomes] == [3, 0]


@pytest.mark.parametrize(
    "source",
    [
        "Linear = ReLU = Tanh = Sequential = None",
        "Linear: type; ReLU: type; Tanh: type; Sequential: type",
        "if False:\n    Linear = ReLU = Tanh = Sequential = 1",
        "Linear.x = ReLU.x = Tanh.x = Sequential.x = 1",
    ],
    ids=["None", "annotated", "in a dead branch", "attributes"],
)
def test_a_name_without_a_class_earns_nothing(worker, source):
    assert grade(worker, source, [1]).points == 0


def test_a_class_of_another_name_earns_its_points_beside_mistakes(worker):
    renamed = SOURCE.replace("class ReLU(Module):", "class Mine(Module):")
    renamed = renamed.replace("class Tanh(Module):", "ReLU = Mine\n\n\nclass Tanh(Module):")
    found = grade(worker, renamed + "\n\nraise ValueError\n", [1, 3])
    assert found.points == found.possible


def test_a_submission_can_leave_nothing_for_the_next(sandbox):
    if sandbox.sandbox == "none":
        pytest.skip("without a sandbox it can")
    statement = "for place in ('/tmp', '/', '/dev', '/dev/shm'):\n    try:\n"
    statement += "        with open(place + '/left', 'w') as file:\n            file.write('x')\n"
    statement += "    except OSError:\n        continue\n    return S * 0\nX = S.relu()\nself.remember(X, X)\nreturn X"
    items = [item for item in ITEMS if item.what == "ReLU forward"]
    assert judge(sandbox, "writes", prove.hostile(statement)[1], items).points == items[0].points


def test_a_missing_initialization_costs_nothing_else(worker):
    gap = "def reset_parameters(self):\n        raise NotImplementedError('stage 1: F6')"
    source = prove.rewritten(f"class Linear:\n    {gap}")
    lost = [o.what for o in grade(worker, source, [1, 3]).outcomes if not o.got]
    assert lost == ["Linear's first weights: Xavier, every bias 0.01"]


def test_what_is_left_out_earns_nothing_from_the_reference(worker):
    tree, gone = ast.parse(SOURCE), {"momentum_direction", "ReLU"}
    without = ast.Module([node for node in tree.body if getattr(node, "name", None) not in gone], [])
    found = grade(worker, ast.unparse(without), [1, 3, 4])
    assert [o.what for o in found.outcomes if o.got and ("momentum" in o.what or "ReLU" in o.what)] == []


def test_what_is_not_in_the_file_is_named(worker):
    reasons = {outcome.reason for outcome in grade(worker, "import torch", range(1, 8)).outcomes}
    names = {re.fullmatch(r"not written yet \(there is no (\w+) in the file\)", reason)[1] for reason in reasons}
    assert {"Linear", "Sequential", "MSELoss", "SGD", "Adam", "kaiming_normal_"} <= names


@pytest.mark.parametrize("source", ["def f(:", "\0", "import nothing_like_this", "raise ValueError('no')", "1 / 0"])
def test_a_file_that_does_not_load_gets_nothing_and_the_reason(worker, source):
    found = grade(worker, source, [1])
    assert found.points == 0 and all(o.reason for o in found.outcomes)


def test_finite_differences_and_forbidden_words_are_told_to_the_teacher(worker):
    source = SOURCE + "\n\nimport torch.autograd as helper\n"
    assert any("automatic differentiation" in flag for flag in grade(worker, source, [2]).flags)


@pytest.mark.parametrize("name", list(fresh.MODULES))
def test_a_fresh_module_is_asked_for_by_its_oracle(worker, name):
    items = fresh_items([name])
    written = SOURCE + fresh.gaps([name])
    assert judge(worker, "gaps", written, items, SOURCE).points == 0
    if name == "HuberLoss":
        lines = "D = P - T", "A = D.abs()", "loss = self.reduce(torch.where(A < 1, A * A / 2, A - 0.5))"
        written = _filled(written, "HuberLoss.forward", *lines, "self.remember(loss, D)", "return loss")
        start, slope = "(D,) = self.recall()", "return D.clamp(-1, 1)"
        wrong = judge(worker, "wrong", _filled(written, "HuberLoss.backward", start, slope), items, SOURCE)
        reasons = [outcome.reason for outcome in wrong.outcomes]
        assert not reasons[0] and "summed where it should be averaged" in reasons[1]
        written = _filled(written, "HuberLoss.backward", start, f"{slope} * self.share(D)")
    elif name == "LeakyReLU":
        lines = "self.remember(S, S)", "return torch.where(S > 0, S, 0.01 * S)"
        written = _filled(written, "LeakyReLU.forward", *lines)
        lines = "G, S = self.recall(G)", "return torch.where(S > 0, G, 0.01 * G)"
        written = _filled(written, "LeakyReLU.backward", *lines)
    else:
        return
    found = judge(worker, "right", written, items, SOURCE)
    assert found.points == found.possible, [o.reason for o in found.outcomes]


def _filled(source, name, *lines):
    gap = f'raise NotImplementedError("this year\'s module: {name}")'
    assert source.count(gap) == 1
    return source.replace(gap, "\n        ".join(lines))


# The command


def test_what_is_found_in_a_folder(tmp_path):
    names = "ada.py bob/diy.py bob/old/diy.py cyd/a/diy.py cyd/b/diy.py dan/work.ipynb eve.zip .x"
    for name in names.split():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x = 1", encoding="utf-8")
    (tmp_path / "fay.py").symlink_to(tmp_path / "ada.py")
    (tmp_path / "gus").mkdir()
    (tmp_path / "new\nline.py").write_text("x = 1", encoding="utf-8")
    found = submissions(tmp_path)
    assert {name: path.name for name, path in found.files.items()} == {
        "ada": "ada.py", "bob": "diy.py", "new\N{REPLACEMENT CHARACTER}line": "new\nline.py"
    }  # fmt: skip
    assert found.files["bob"].parent.name == "bob" and "diy.py was graded" in found.remarks["bob"]
    assert found.problems.keys() == {"cyd", "dan", "fay", "gus"} and found.others == ["eve.zip"]
    assert "but work.ipynb" in found.problems["dan"] and "link" in found.problems["fay"]
    assert "nor any other file" in found.problems["gus"]
    (tmp_path / "ada").mkdir()
    with pytest.raises(ValueError, match="two submissions are called ada"):
        submissions(tmp_path)


def test_a_file_is_read_in_its_own_encoding(tmp_path):
    path = tmp_path / "diy.py"
    for written in ("\ufeffx = 'ä'".encode(), "# coding: latin-1\r\nx = 'ä'".encode("latin-1")):
        path.write_bytes(written)
        assert read(path).endswith("x = 'ä'")
    for written in (b"x = '\xe4'", b" " * 2**21):
        path.write_bytes(written)
        with pytest.raises(ValueError, match=r"UTF-8|1 MB"):
            read(path)


def test_a_folder_is_graded_into_tables_and_pages_and_goes_on(tmp_path, capsys):
    folder, out = tmp_path / "submissions", tmp_path / "graded"
    (folder / "bob").mkdir(parents=True)
    (folder / "ada.py").write_text(SOURCE, encoding="utf-8")
    (folder / "bob" / "diy.py").write_text(prove.MISTAKES["bias never added"].source, encoding="utf-8")
    (folder / "=evil.py").write_text("1 / 0", encoding="utf-8")
    (tmp_path / "free" / "eve").mkdir(parents=True)
    for name, text in frameworks.RIGHT["as suggested"].items():
        (tmp_path / "free" / "eve" / name).write_text(text, encoding="utf-8")
    free = [str(tmp_path / "free"), "--free", "--out", str(tmp_path / "out"), "--jobs", "1", "--sandbox", "none"]
    assert main(free) == 0 and "100 of 100  eve" in capsys.readouterr().out
    command = [str(folder), "--out", str(out), "--stages", "1,2", "--jobs", "1", "--sandbox", "none"]
    assert main(command) == 0
    with (out / "grades.csv").open(encoding="utf-8") as file:
        rows = {row["name"]: row for row in csv.DictReader(file)}
    assert rows["ada"]["points"] == "35" and rows["'=evil"]["points"] == "0" and 0 < int(rows["bob"]["points"]) < 35
    page = (out / "students" / "bob.md").read_text(encoding="utf-8")
    assert "yours" in page and "expected" in page and "Linear forward" in page
    assert "<script" not in (out / "students" / "bob.html").read_text(encoding="utf-8")
    assert json.loads((out / "gradescope" / "ada.json").read_text(encoding="utf-8"))["score"] == 35
    assert "commonest mistakes" in (out / "summary.md").read_text(encoding="utf-8") and (out / "mistakes.png").exists()
    before = {path.name: path.stat().st_mtime_ns for path in (out / "kept").iterdir()}
    capsys.readouterr()
    assert main(command) == 0
    assert {path.name: path.stat().st_mtime_ns for path in (out / "kept").iterdir()} == before, (
        "nothing is graded twice"
    )
    assert "Without a sandbox" in capsys.readouterr().err


def test_grades_are_not_written_over_those_of_another_class_or_stage(tmp_path, capsys):
    out = tmp_path / "graded"
    for name in "w1", "w3":
        (tmp_path / name).mkdir()
        (tmp_path / name / "ada.py").write_text("def f(:", encoding="utf-8")

    def graded(name, stages):
        main([str(tmp_path / name), "--stages", stages, "--out", str(out), "--jobs", "1", "--sandbox", "none"])

    graded("w1", "1-2")
    before = (out / "grades.csv").read_bytes()
    for name, stages in ("w3", "1-2"), ("w1", "3"):
        with pytest.raises(SystemExit):
            graded(name, stages)
        assert f"{out} holds the grades of {tmp_path / 'w1'} --stages 1,2" in capsys.readouterr().err
        assert (out / "grades.csv").read_bytes() == before
    (tmp_path / "w1" / "bob.py").write_text("1 / 0", encoding="utf-8")  # handed in late
    graded("w1", "1,2")
    assert "bob" in (out / "grades.csv").read_text(encoding="utf-8")


def test_the_only_submission_is_named_as_it_was_handed_in(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "eve.py").write_text("def f(:", encoding="utf-8")
    main([str(tmp_path / "in"), "--out", str(tmp_path / "out"), "--jobs", "1", "--sandbox", "none"])
    assert "eve.py is not valid Python" in (tmp_path / "out" / "grades.csv").read_text(encoding="utf-8")
    summary = (tmp_path / "out" / "summary.md").read_text(encoding="utf-8")
    assert summary.startswith("# 1 submission\n\nMedian 0 of 100 points.\n")


@pytest.mark.parametrize(
    "arguments",
    [
        ["nowhere"],
        ["--stages", "9"],
        ["--jobs", "0"],
        [],
        ["EMPTY"],
        ["--modules", "GELU2"],
        ["--free", "--stages", "1"],
    ],
)
def test_what_cannot_be_graded_is_told_in_one_line(tmp_path, arguments, capsys):
    arguments = [str(tmp_path) if argument == "EMPTY" else argument for argument in arguments]
    with pytest.raises(SystemExit) as stopped:
        main([*arguments, "--sandbox", "none", "--out", str(tmp_path / "out")])
    assert stopped.value.code == 2
    (line,) = capsys.readouterr().err.strip().splitlines()[-1:]
    assert line.startswith("python -m classroom.grade: ") and line.endswith("(see python -m classroom.grade --help)")


def test_a_sandbox_that_cannot_start_stops_the_grading_and_gives_nobody_0_points(tmp_path, capsys, monkeypatch):
    (tmp_path / "ada.py").write_text(SOURCE, encoding="utf-8")
    broken = [sys.executable, "-c", "import sys; sys.exit('bwrap: no user namespaces here')"]
    monkeypatch.setattr("classroom.judge.sandboxed", lambda kind: broken)
    with pytest.raises(SystemExit) as stopped:
        main([str(tmp_path), "--sandbox", "none", "--jobs", "1", "--out", str(tmp_path / "out")])
    assert (
        stopped.value.code == 2 and "no submission can run: bwrap: no user namespaces here" in capsys.readouterr().err
    )
    assert not (tmp_path / "out" / "grades.csv").exists()


def test_a_submission_that_spoils_its_worker_does_not_harm_the_next():
    worker = Worker("none")
    try:
        items = [item for item in ITEMS if item.what == "ReLU forward"]
        assert judge(worker, "right", SOURCE, items, SOURCE).points == items[0].points
        worker.process.kill()
        assert judge(worker, "the next", SOURCE, items, SOURCE).points == items[0].points
    finally:
        worker.stop()


def test_gradescope_gets_results_for_right_and_for_missing_files(tmp_path):
    (tmp_path / "submission").mkdir()
    command = [str(tmp_path / "submission"), "--gradescope", "--stages", "2", "--sandbox", "none"]
    assert main([*command, "--out", str(tmp_path / "results.json")]) == 0
    assert "file named diy.py, got 0" in json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))["output"]
    (tmp_path / "submission" / "diy.py").write_text(SOURCE, encoding="utf-8")
    assert main([*command, "--out", str(tmp_path / "results.json")]) == 0
    found = json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))
    assert found["score"] == sum(test["max_score"] for test in found["tests"]) == 15


@pytest.mark.skipif(not shutil.which("bwrap"), reason="needs bubblewrap")
def test_a_library_may_look_for_another_where_nothing_can_be_written():
    *command, _ = sandboxed("bwrap")
    look = "import ctypes.util; ctypes.util.find_library('dl'); ctypes.util.find_library('no such library')"
    subprocess.run([*command, "-c", look], check=True)


def test_a_container_has_no_network_no_rights_and_a_limited_memory():
    command = sandboxed("docker")
    assert command[:2] == ["docker", "run"] and command[-3:] == ["python", "-I", "/worker.py"]
    pairs = {*itertools.pairwise(command)}
    for option, value in {"--network": "none", "--cap-drop": "ALL", "--user": "65534:65534", "--memory": "4g"}.items():
        assert (option, value) in pairs
    assert {"--read-only", "--rm", "--interactive"} <= {*command}
    mounts = [value for option, value in pairs if option in ("--volume", "--mount")]
    assert len(mounts) == 1 and mounts[0].endswith("worker.py:/worker.py:ro"), "the solution is not in it"
