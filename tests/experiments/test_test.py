"""The graded run, as a user meets it, and what it has in common with the other commands."""

import importlib.util
import json
import os
import signal
import sys
import time
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
import tqdm

from experiments import sweep
from experiments.circle import MODELS, Protocol
from experiments.digits import train as digits
from experiments.evaluation import Results, Round

ROOT = Path(__file__).resolve().parents[2]
COMMANDS = [["test.py"], ["-m", "experiments.sweep"], ["-m", "experiments.digits"]]
TINY = ["--rounds", "1", "--epochs", "2", "--train-size", "40", "--test-size", "30"]


@pytest.fixture(scope="module")
def graded_run():
    # Loaded by its path: the name "test" belongs to a package of the standard library.
    spec = importlib.util.spec_from_file_location("graded_run", ROOT / "test.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_prints_protocol_losses_table_reason_and_paths(launcher, tmp_path):
    done = launcher.run("test.py", *TINY, "--output", tmp_path)
    assert done.returncode == 0 and done.stderr == ""
    text = done.stdout
    assert "1 round of" in text and "40 training and 30 test points" in text
    for name in MODELS:
        assert (
            sum(line.split()[0] == name or line.split()[1] == name for line in text.splitlines() if name in line) >= 2
        )
    assert "2019" in text and "Why PyTorch's SGD needs a larger learning rate" in text  # true of any protocol
    for name in ("results.json", "figure2-time.pdf", "figure5-labels.png"):
        assert (tmp_path / name).exists() and name in text
    rounds = json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))["models"]["diy-sgd"]
    line = next(line for line in text.splitlines() if line.startswith("    1  diy-sgd "))
    assert f"{rounds[0]['loss'][-1]:.4f}" in line and f"{rounds[0]['test_error']:.2%}" in line


def test_quiet_prints_the_table_alone(launcher, tmp_path):
    models = ["--models", "diy-sgd", "torch-adam"]
    done = launcher.run("test.py", *TINY, *models, "--quiet", "--no-figures", "--output", tmp_path)
    lines = done.output.strip().splitlines()
    assert done.returncode == 0 and len(lines) == 5
    assert [line.split()[0] for line in lines[2:4]] == ["diy-sgd", "torch-adam"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["results.json", "rounds"]


def test_divergence_ends_with_one_line(launcher, tmp_path):
    done = launcher.run("test.py", *TINY, "--lr", "1e38", "--models", "diy-sgd", "--quiet", "--output", tmp_path)
    assert done.returncode == 1 and done.output.count("\n") == 1
    assert "diy-sgd" in done.stderr and "round 1" in done.stderr and "1e+38" in done.stderr


def said(command):
    """How a command calls itself."""
    return " ".join(command if len(command) == 1 else ["python", *command])


@pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
@pytest.mark.parametrize("command", COMMANDS[::2], ids=" ".join)
def test_interrupt_ends_with_130_and_one_line(launcher, command, tmp_path):
    child = launcher.start(*command, "--epochs", "100000", "--output", tmp_path)
    child.wait_for_output()  # training starts right after the first lines
    time.sleep(0.3)
    child.kill(signal.SIGINT)
    errors = child.wait().stderr
    assert child.returncode == 130 and errors.startswith(f"{said(command)}: interrupted") and errors.count("\n") == 1


@pytest.mark.skipif(os.name != "posix", reason="signals and pipes of POSIX")
@pytest.mark.parametrize("lines", [1, 0], ids=["after a line", "at once"])
def test_a_reader_that_leaves_is_no_error(launcher, tmp_path, lines):
    pipe, output = tmp_path / "pipe", tmp_path / "results"
    os.mkfifo(pipe)
    quiet = [] if lines else ["--quiet"]  # then the table alone is printed, and results are written before that
    command = ["test.py", *TINY, "--models", "diy-sgd", *quiet, "--no-figures", "--output", output]
    child = launcher.start(*command, stdout=pipe)
    with pipe.open(encoding="utf-8") as reader:
        assert all(reader.readline() for _ in range(lines))
    child.wait()
    assert child.returncode == 141 and child.stderr == ""
    if quiet:
        assert sorted(path.name for path in output.iterdir()) == ["results.json", "rounds"]


def test_the_bar_shows_on_a_terminal_alone(graded_run, tmp_path, monkeypatch, capsys):
    shown = []

    class Bar(tqdm.tqdm):
        def __init__(self, *arguments, **options):
            super().__init__(*arguments, **options)
            shown.append(not self.disable)

    monkeypatch.setattr(tqdm, "tqdm", Bar)
    arguments = [*TINY, "--models", "diy-sgd", "--no-figures", "--output", str(tmp_path)]
    for terminal, options, expected in ((False, [], False), (True, [], True), (True, ["--quiet"], False)):
        monkeypatch.setattr(sys.stderr, "isatty", lambda terminal=terminal: terminal)
        graded_run.main(arguments + options)
        assert shown.pop() is expected
    capsys.readouterr()


def test_the_table_says_what_was_measured(graded_run):
    protocol = Protocol(rounds=2, epochs=1, test_size=2)
    rounds = [
        Round(seconds, [loss], train_error, test_error, np.zeros(2, np.uint8))
        for seconds, loss, train_error, test_error in ((1.0, 0.1, 0.05, 0.01), (3.0, 0.3, 0.15, 0.04))
    ]
    results = Results(protocol, {}, {"diy-sgd": rounds, "torch-sgd-sum": rounds})
    measured = "0.2000 ± 0.1414    10.00 ± 7.07     2.50 ± 2.12   2.00 ± 1.41"  # n − 1 in the denominator
    lines = {line.split()[0]: " ".join(line.split()[1:]) for line in graded_run.table(results).splitlines() if line}
    assert lines["diy-sgd"] == f"sum {' '.join(measured.split())} 0.021 2.0 5.9"
    assert lines["torch-sgd-sum"] == f"sum {' '.join(measured.split())} - - -"
    assert lines["2"].startswith("rounds here; 2019: 10 rounds")


@pytest.fixture
def mains(graded_run):
    """What each command calls."""
    return {"test.py": graded_run.main, "experiments.sweep": sweep.main, "experiments.digits": digits.main}


BAD = {
    "test.py": (
        *("--rounds many", "--rounds 0", "--lr -1", "--dropout 2", "--hidden 5 -3", "--models diy-sdg"),
        *("--device nowhere", "--round 1", "--output LICENSE", "--output LICENSE/below"),
    ),
    "experiments.sweep": (
        *("--rates 0", "--rates 99999999999999", "--lowest 1e-320", "--highest 1e39", "--lowest 2 --highest 1"),
        *("--lowest 0", "--highest inf", "--reductions none", "--rounds 0", "--lr 1", "--output LICENSE"),
    ),
    "experiments.digits": (
        *("--rounds 0", "--epochs -1", "--lr nan", "--lr 1e39", "--batch-size 999999999999999999999"),
        *("--weight-decay -1", "--channels many", "--seed -3", "--nonsense", "--mnist no/such/directory"),
        *("--output LICENSE",),
    ),
}


@pytest.mark.parametrize(("command", "arguments"), [(name, line) for name, lines in BAD.items() for line in lines])
def test_a_bad_argument_ends_with_2_and_one_line(command, arguments, mains, capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    with pytest.raises(SystemExit) as exit:
        mains[command](arguments.split())
    printed = capsys.readouterr()
    assert exit.value.code == 2 and printed.out == ""
    name = command if command == "test.py" else f"python -m {command}"
    assert printed.err.count("\n") == 1 and printed.err.startswith(f"{name}: ")


def test_help_names_every_option_and_model(mains, capsys):
    others = ("output", "resume", "quiet", "no-figures", "models", "device", *MODELS)
    for command, protocol, names in (
        ("test.py", Protocol, others),
        ("experiments.digits", digits.DigitsProtocol, ("output", "resume", "quiet", "no-figures", "mnist")),
    ):
        with pytest.raises(SystemExit) as exit:
            mains[command](["--help"])
        text = capsys.readouterr().out
        assert exit.value.code == 0
        for name in (*(field.name.replace("_", "-") for field in fields(protocol)), *names):
            assert name in text if name in MODELS else f"--{name} " in text
