"""What users type, set in the environment or do to the streams: never a traceback."""

import importlib.util
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import diy
from experiments import figures
from experiments.circle import MODELS, Recipe
from experiments.commandline import CommandError, run_command
from experiments.results import ResultsError, read
from report import build

ROOT = Path(__file__).parents[2]
DRAWN = "--rounds 1 --epochs 2 --train-size 40 --test-size 20 --models diy-sgd"
SMALL = f"{DRAWN} --no-figures"


def run(tmp_path, arguments, redirect="", **environment):
    # Through a shell, which can close a stream.
    command = f'"{sys.executable}" test.py {arguments} --output "{tmp_path}" {redirect}'
    return subprocess.run(
        ["sh", "-c", command],
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        encoding="utf-8",
        timeout=120,
    )


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("--lr 1e39", "lr must be a number of at least 0 that float32 can hold"),
        ("--train-size 1000000000000", "train_size must be an integer from 1 to 10,000,000, got 1,000,000,000,000"),
        ("--rounds 1000000000000", "rounds must be an integer from 1 to 10,000,000"),
        ("--hidden 1000000 1000000", "there is not enough memory for this"),
        ("--dropout=--", "argument --dropout: expected one argument"),
        ("--device hpu", "PyTorch cannot use 'hpu' on this machine"),
    ],
)
def test_values_that_mean_nothing(launcher, tmp_path, arguments, words):
    done = launcher.run("test.py", *SMALL.split(), *arguments.split(), "--output", tmp_path)
    assert done.returncode in (1, 2) and words in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("benchmarks.speed --show --output {}", "speed.json is damaged"),
        ("benchmarks.speed --show --scaling --output {}", "No such file or directory: {}/scaling.json"),
        ("benchmarks.speed --device nowhere", "argument --device: PyTorch cannot use 'nowhere'"),
        ("benchmarks.speed --output {}/speed.json", "argument --output: cannot write"),
        ("benchmarks.tune --rounds 1", "a standard error needs at least 2"),
        ("docs.book {}", "holds something other than a book"),
        ("docs.book {}/speed.json", "File exists"),
        ("experiments.data_parallel --save {}/none/net", "there is no folder {}/none"),
    ],
)
def test_other_commands_refuse_as_well_and_change_nothing(launcher, tmp_path, arguments, words):
    (tmp_path / "speed.json").write_text("{", encoding="utf-8")
    done = launcher.run("-m", *arguments.format(tmp_path).split())
    assert done.returncode in (1, 2) and "Traceback" not in done.stderr
    assert words.format(tmp_path) in done.stderr.splitlines()[-1]
    assert [path.name for path in tmp_path.iterdir()] == ["speed.json"]


@pytest.mark.skipif(os.name != "posix", reason="shell and streams of POSIX")
def test_a_closed_output_is_said(tmp_path):
    done = run(tmp_path, SMALL, ">&-")
    assert done.returncode == 1 and done.stderr.startswith("test.py: standard output is closed")


@pytest.mark.skipif(os.name != "posix", reason="shell and streams of POSIX")
def test_neither_a_strange_environment_nor_a_closed_stderr_matters(tmp_path):
    done = run(tmp_path, DRAWN, "2>&-", MPLBACKEND="nonsense", TQDM_MININTERVAL="x", SOURCE_DATE_EPOCH="x")
    assert done.returncode == 0 and "diy-sgd" in done.stdout and (tmp_path / "results.json").exists()


@pytest.mark.parametrize(
    ("environment", "code"),
    [
        ({"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}, 0),
        ({"RANK": "x", "WORLD_SIZE": "y", "MASTER_ADDR": "", "MASTER_PORT": ""}, 0),
        ({"RANK": "x", "WORLD_SIZE": "y", "MASTER_ADDR": "", "TORCHELASTIC_RUN_ID": "old"}, 1),
    ],
    ids=["stale", "strange", "as if by torchrun"],
)
def test_ranks_in_the_environment_do_not_matter_or_are_told(launcher, tmp_path, environment, code):
    done = launcher.run("test.py", *SMALL.split(), "--output", tmp_path, **environment)
    assert done.returncode == code and (tmp_path / "results.json").exists() == (code == 0)
    assert done.stderr.startswith("test.py: the processes of this run cannot join") == bool(code)


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere, names of files are text")
def test_a_path_that_the_locale_cannot_print_does_not_matter_and_no_figure_loads_no_plotting(tmp_path):
    name = os.fsdecode(b"\xc3\xa9 \xe9")  # an accent, and no text at all
    environment = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    command = [sys.executable, "-X", "importtime", "test.py", *SMALL.split(), "--output", tmp_path / name]
    done = subprocess.run(command, cwd=ROOT, env={**os.environ, **environment}, capture_output=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert os.fsencode(name) in done.stdout and (tmp_path / name / "results.json").exists()
    loaded = {line.split(b"|")[-1].strip() for line in done.stderr.splitlines()}
    assert b"torch" in loaded and not loaded & {b"matplotlib", b"seaborn", b"pandas", b"sklearn"}


@pytest.mark.parametrize("options", [{"optimizer": "Adam"}, {"library": "jax"}, {"reduction": "none"}])
def test_a_recipe_that_means_nothing_is_refused(options):
    with pytest.raises(ValueError, match=f"{next(iter(options))} must be one of"):
        Recipe("a slip", **{"library": "diy", **options})


def test_a_seventh_model_can_be_drawn(monkeypatch):
    monkeypatch.setitem(MODELS, "more", Recipe("one more", "diy"))
    spec = importlib.util.spec_from_file_location("figures_of_seven", figures.__file__)
    again = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(again)
    assert {"more"} <= again.COLOURS.keys() & again.DASHES.keys() & again.MARKERS.keys()


def test_a_build_without_docstrings_is_refused(monkeypatch):
    monkeypatch.setattr(diy, "__doc__", None)  # as python -OO does
    with pytest.raises(CommandError, match="figure 1 is made of"):
        build.main(["--check"])


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


def documented_commands():
    texts = [path.read_text(encoding="utf-8") for place in ("*.md", "[a-z]*/*.md") for path in ROOT.glob(place)]
    commands = re.findall(r"\bpython (-m [a-z._]+|[a-z/]+\.py)", "\n".join(texts))
    return sorted({command for command in commands if not command.startswith("-m torch")})


@pytest.mark.skipif(os.name != "posix", reason="signals and pipes of POSIX")
@pytest.mark.parametrize("command", documented_commands())
def test_an_interrupt_while_libraries_load_ends_with_130_and_one_line(command, tmp_path):
    # A library that all commands load. Short sleeps: a signal just before a long one would be noticed only after it.
    loading = "import time\nprint('loading', flush=True)\nwhile True:\n    time.sleep(0.01)\n"
    (tmp_path / "argparse.py").write_text(loading, encoding="utf-8")
    process = subprocess.Popen(
        [sys.executable, *command.split()],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
    )
    try:
        assert process.stdout.readline() == "loading\n"
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    finally:
        process.kill()
    name = "test.py" if command == "test.py" else f"python {command}"
    assert process.returncode == 130 and errors == f"{name}: interrupted before it began\n"


@pytest.mark.parametrize("error", [ValueError("from KeyboardInterrupt"), None], ids=["an error", "a result"])
def test_an_interrupt_that_a_library_makes_something_else_of_ends_with_130_and_one_line(error, capsys):
    def main():
        try:
            signal.raise_signal(signal.SIGINT)
        except KeyboardInterrupt:
            if error:
                raise error from None
            return 2

    before = signal.getsignal(signal.SIGINT)
    try:
        with pytest.raises(SystemExit) as ended:
            run_command("a command", main, "nothing is lost")
    finally:
        signal.signal(signal.SIGINT, before)
    assert ended.value.code == 130 and capsys.readouterr().err == "a command: interrupted; nothing is lost\n"


@pytest.mark.parametrize(
    "command",
    [
        *("benchmarks.frames", "benchmarks.scale", "benchmarks.speed", "benchmarks.tune", "classroom.edition"),
        *("classroom.grade", "course.execute", "experiments.data_parallel", "playground.page"),
        *("report.build", "tests.fuzz"),
    ],
)
def test_a_command_is_called_what_one_types(command, capsys):
    with pytest.raises(SystemExit):
        importlib.import_module(command).main(["--help"])
    assert capsys.readouterr().out.startswith(f"usage: python -m {command} ")
