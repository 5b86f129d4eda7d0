"""What users type, set in the environment or do to the streams: never a traceback."""

import importlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from experiments.circle import Recipe
from experiments.results import ResultsError, read

ROOT = Path(__file__).parents[2]
DRAWN = "--rounds 1 --epochs 2 --train-size 40 --test-size 20 --models diy-sgd"
SMALL = f"{DRAWN} --no-figures"


def run(tmp_path, arguments, redirect="", **environment):
    # Through a shell, which can close a stream.
    command = f'"{sys.executable}" test.py {arguments} --output "{tmp_path}" {redirect}'
    return subprocess.run(
        ["sh", "-c", command], cwd=ROOT, env={**os.environ, **environment}, capture_output=True, text=True, timeout=120
    )


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("--lr 1e39", "lr must be a number that float32 can hold"),
        ("--train-size 1000000000000", "train_size must be at most 10,000,000"),
        ("--rounds 1000000000000", "rounds must be at most 10,000,000"),
        ("--hidden 1000000 1000000", "there is not enough memory for this"),
    ],
)
def test_numbers_that_are_too_large(launcher, tmp_path, arguments, words):
    done = launcher.run("test.py", *SMALL.split(), *arguments.split(), "--output", tmp_path)
    assert done.returncode in (1, 2) and words in done.stderr and "Traceback" not in done.stderr


def test_a_closed_output_is_said(tmp_path):
    done = run(tmp_path, SMALL, ">&-")
    assert done.returncode == 1 and done.stderr.startswith("test.py: standard output is closed")


def test_a_closed_stderr_does_not_matter(tmp_path):
    done = run(tmp_path, SMALL, "2>&-")
    assert done.returncode == 0 and "diy-sgd" in done.stdout


@pytest.mark.parametrize(
    "environment",
    [
        {"MPLBACKEND": "nonsense", "TQDM_MININTERVAL": "x", "SOURCE_DATE_EPOCH": "x"},
        {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"},
        {"RANK": "x", "WORLD_SIZE": "y", "MASTER_ADDR": "", "MASTER_PORT": ""},
    ],
    ids=["libraries", "stale ranks", "strange ranks"],
)
def test_a_strange_environment_does_not_matter(tmp_path, environment):
    done = run(tmp_path, DRAWN if "MPLBACKEND" in environment else SMALL, **environment)
    assert done.returncode == 0 and "Traceback" not in done.stderr and (tmp_path / "results.json").exists()


@pytest.mark.parametrize("name", ["\u00e9", os.fsdecode(b"\xe9")], ids=["accent", "no text at all"])
def test_a_path_that_the_locale_cannot_print_does_not_matter(tmp_path, name):
    environment = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    command = [sys.executable, "test.py", *DRAWN.split(), "--output", tmp_path / name]
    done = subprocess.run(command, cwd=ROOT, env={**os.environ, **environment}, capture_output=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert os.fsencode(name) in done.stdout and (tmp_path / name / "results.json").exists()


@pytest.mark.parametrize("options", [{"optimizer": "Adam"}, {"library": "jax"}, {"reduction": "none"}])
def test_a_recipe_that_means_nothing_is_refused(options):
    with pytest.raises(ValueError, match=f"{next(iter(options))} must be one of"):
        Recipe("a slip", **{"library": "diy", **options})


def test_a_seventh_model_can_be_drawn():
    code = "from experiments import circle; circle.MODELS['more'] = circle.Recipe('one more', 'diy'); "
    code += "from experiments import figures; "
    code += "assert {'more'} <= figures.COLOURS.keys() & figures.DASHES.keys() & figures.MARKERS.keys()"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("environment", "arguments", "code", "words"),
    [
        ({"SOURCE_DATE_EPOCH": "x"}, ["--help"], 0, ""),
        ({"PYTHONOPTIMIZE": "2"}, ["--check"], 1, "python -m report.build: figure 1 is made of diy.py's docstrings"),
    ],
    ids=["a date that is none", "no docstrings"],
)
def test_a_strange_environment_of_a_build_is_told_or_does_not_matter(environment, arguments, code, words):
    command = [sys.executable, "-m", "report.build", *arguments]
    done = subprocess.run(command, cwd=ROOT, env={**os.environ, **environment}, capture_output=True, text=True)
    assert done.returncode == code and done.stderr.startswith(words) and "Traceback" not in done.stderr


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="pipes and devices of POSIX")
@pytest.mark.parametrize("kind", ["pipe", "device", "folder"])
def test_results_that_are_no_file_are_not_read(kind, tmp_path):
    results = tmp_path / "results.json"
    if kind == "pipe":
        os.mkfifo(results)
    elif kind == "device":
        results.symlink_to("/dev/zero")  # which never ends
    else:
        results.mkdir()
    with pytest.raises(ResultsError, match="it is a folder, a pipe or a device"):
        read(results)


@pytest.mark.parametrize("command", ["playground.page", "course.execute", "tests.fuzz", "benchmarks.speed"])
def test_a_command_is_called_what_one_types(command, capsys):
    with pytest.raises(SystemExit):
        importlib.import_module(command).main(["--help"])
    assert capsys.readouterr().out.startswith(f"usage: python -m {command} ")
