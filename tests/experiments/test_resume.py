"""Nothing is lost and nothing is mixed: runs that are killed, share a directory or find damaged files."""

import errno
import json
import os
import random
import signal
import time
from dataclasses import replace

import pytest

from experiments import evaluation, results, sweep
from experiments.circle import Protocol
from experiments.results import ResultsError, sealed, write_atomically
from tests.launcher import numbers_of

pytestmark = pytest.mark.skipif(os.name != "posix", reason="processes and signals of POSIX")

MODELS = ["diy-sgd", "diy-dropout"]
TINY = ["--rounds", "4", "--epochs", "4", "--train-size", "400", "--test-size", "50"]
TEST = ["test.py", *TINY, "--models", *MODELS, "--no-figures"]
SMALL = Protocol(rounds=2, epochs=1, train_size=20, test_size=10, hidden=(3,))


@pytest.fixture(scope="module")
def whole(launcher, tmp_path_factory):
    """The numbers of an uninterrupted run, and the seconds that it took."""
    directory, start = tmp_path_factory.mktemp("whole"), time.perf_counter()
    assert launcher.run(*TEST, "--output", directory).returncode == 0
    return numbers(directory), time.perf_counter() - start


def numbers(directory):
    return numbers_of(evaluation.load(directory))


def finished(directory):
    return sorted((directory / "rounds").glob("[!.]*.json"))


def resumed(protocol, models, directory):
    """The results of a resumed run, and the rounds that it had to compute."""
    computed = set()
    results = evaluation.run(
        protocol, models, on_epoch=lambda m, r, *_: computed.add(f"{m}-{r}"), directory=directory, resume=True
    )
    return results, computed


def test_a_run_killed_at_20_random_moments_goes_on_to_the_same_numbers(launcher, whole, tmp_path):
    expected, seconds = whole
    moments, kept = random.Random(0), []
    for attempt in range(20):
        directory = tmp_path / str(attempt)
        child = launcher.start(*TEST, "--output", directory)
        time.sleep(moments.uniform(0, 1.2 * seconds))
        child.kill([signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGKILL][attempt % 4])
        assert child.wait().returncode in (0, 130, -signal.SIGKILL, -signal.SIGTERM, -signal.SIGINT)
        for path in finished(directory):
            assert json.loads(path.read_text(encoding="utf-8"))["round"] == path.stem, "a file that is there is whole"
        kept.append(len(finished(directory)))
        done = launcher.run(*TEST, "--output", directory, "--resume")
        assert done.returncode == 0, done.output
        assert numbers(directory) == expected
    assert len(set(kept)) > 2  # the moments fell before, between and after rounds


@pytest.mark.parametrize(("largest_file", "kept"), [(300, 0), (1500, 8)], ids=["at the first round", "at the results"])
def test_a_full_disk_ends_the_run_with_one_line_and_loses_nothing(launcher, whole, tmp_path, largest_file, kept):
    full = launcher.run(*TEST, "--quiet", "--output", tmp_path, largest_file=largest_file)
    error = full.output.splitlines()[-1]
    assert full.returncode == 1 and error.startswith("test.py: ") and "too large" in error and "--resume" in error
    assert "Traceback" not in full.output
    assert len(finished(tmp_path)) == kept
    assert not (tmp_path / "results.json").exists()
    assert launcher.run(*TEST, "--output", tmp_path, "--resume").returncode == 0
    assert numbers(tmp_path) == whole[0]


def test_a_full_disk_leaves_the_old_figures_whole(launcher, tmp_path):
    old = [tmp_path / f"figure{name}.{kind}" for name in ("2-time", "5-labels") for kind in ("pdf", "png")]
    for path in old:
        path.write_text("old", encoding="utf-8")
    full = launcher.run(*TEST[:-1], "--quiet", "--output", tmp_path, largest_file=5000)
    assert full.returncode == 1 and "too large" in full.output and "Traceback" not in full.output
    assert (tmp_path / "results.json").exists() and [path.read_text(encoding="utf-8") for path in old] == ["old"] * len(
        old
    )


def test_a_directory_that_becomes_read_only_loses_no_finished_round(tmp_path, monkeypatch):
    expected, written = evaluation.run(SMALL, MODELS), []

    def write_three(path, content):
        if len(written) == 3:
            raise OSError(errno.EROFS, "Read-only file system", str(path))
        written.append(path)
        write_atomically(path, content)

    monkeypatch.setattr(results, "write_atomically", write_three)
    with pytest.raises(OSError, match="Read-only"):
        evaluation.run(SMALL, MODELS, directory=tmp_path)
    monkeypatch.undo()
    again, computed = resumed(SMALL, MODELS, tmp_path)
    assert len(computed) == 1 and numbers_of(again) == numbers_of(expected)


def test_a_resumed_run_computes_what_is_missing_and_nothing_else(tmp_path):
    first = evaluation.run(SMALL, MODELS, directory=tmp_path)
    again, computed = resumed(SMALL, MODELS, tmp_path)
    assert computed == set() and numbers_of(again) == numbers_of(first)
    assert [r.seconds for r in again.models["diy-sgd"]] == [r.seconds for r in first.models["diy-sgd"]]
    more, computed = resumed(replace(SMALL, rounds=3), [*MODELS, "torch-sgd"], tmp_path)
    assert computed == {"diy-sgd-2", "diy-dropout-2", "torch-sgd-0", "torch-sgd-1", "torch-sgd-2"}
    assert numbers_of(more) == numbers_of(evaluation.run(replace(SMALL, rounds=3), [*MODELS, "torch-sgd"]))


@pytest.mark.parametrize(
    "change", [{"seed": 1}, {"epochs": 2}, {"hidden": (4, 3)}, {"lr": 0.1}, {"dropout": 0.5}, {"train_size": 21}]
)
def test_rounds_of_another_protocol_are_neither_used_nor_touched(tmp_path, change, capsys):
    first = evaluation.run(SMALL, MODELS, directory=tmp_path)
    other = replace(SMALL, **change)
    results, computed = resumed(other, MODELS, tmp_path)
    assert len(computed) == 4 and "it starts from the beginning" in capsys.readouterr().err
    assert numbers_of(results) == numbers_of(evaluation.run(other, MODELS))
    again, computed = resumed(SMALL, MODELS, tmp_path)
    assert computed == set() and numbers_of(again) == numbers_of(first)


def test_rounds_of_other_code_are_not_used(tmp_path, monkeypatch):
    evaluation.run(SMALL, MODELS, directory=tmp_path)
    (tmp_path / "circle.py").write_text("# another version of it", encoding="utf-8")
    monkeypatch.setattr(evaluation.circle, "__file__", str(tmp_path / "circle.py"))
    assert len(resumed(SMALL, MODELS, tmp_path)[1]) == 4


def test_results_of_another_run_are_renamed(tmp_path, capsys):
    first, second = evaluation.run(SMALL, MODELS), evaluation.run(replace(SMALL, seed=1), MODELS)
    for run in (first, first, second):
        evaluation.save(run, tmp_path)
    (kept,) = (path for path in tmp_path.iterdir() if path.name != "results.json")
    assert capsys.readouterr().err == f"the results of another run are now {kept}\n"
    assert numbers(tmp_path) == numbers_of(second)
    kept.replace(tmp_path / "results.json")
    assert numbers(tmp_path) == numbers_of(first)


CONTENTS = ["", "{", "[]", "null", '{"round": 1}', "my shopping list", "\x00", '{"file": "results.json", "version": 2}']


@pytest.mark.parametrize("resume", [[], ["--resume"]], ids=["afresh", "resume"])
@pytest.mark.parametrize("content", [CONTENTS[1], CONTENTS[-1]])
def test_a_file_of_somebody_else_is_refused_before_training_and_stays(launcher, tmp_path, content, resume):
    (tmp_path / "results.json").write_text(content, encoding="utf-8")
    done = launcher.run(*TEST, "--quiet", "--output", tmp_path, *resume)
    assert done.returncode == 2 and done.output.count("\n") == 1 and done.output.startswith("test.py: ")
    assert str(tmp_path / "results.json") in done.output
    assert [(path.name, path.read_text(encoding="utf-8")) for path in tmp_path.iterdir()] == [("results.json", content)]


@pytest.mark.parametrize("content", CONTENTS)
def test_a_damaged_file_is_refused_by_name(tmp_path, content):
    evaluation.save(evaluation.run(SMALL, MODELS, directory=tmp_path), tmp_path)
    for path in (finished(tmp_path)[1], tmp_path / "results.json"):
        path.write_text(content, encoding="utf-8")
        with pytest.raises(ResultsError, match=rf"{path.name} is damaged"):
            resumed(SMALL, MODELS, tmp_path) if path.parent.name == "rounds" else evaluation.load(tmp_path)
        assert path.read_text(encoding="utf-8") == content
        path.unlink()


def test_another_version_of_the_file_is_refused(tmp_path):
    evaluation.save(evaluation.run(SMALL, MODELS), tmp_path)
    content = json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))
    (tmp_path / "results.json").write_bytes(sealed({**content, "version": 3}))
    with pytest.raises(ResultsError, match="it has version 3, expected 2"):
        evaluation.load(tmp_path)


def test_a_round_under_the_name_of_another_is_refused(tmp_path):
    evaluation.run(SMALL, MODELS, directory=tmp_path)
    first, second, *_ = finished(tmp_path)
    first.replace(second)
    with pytest.raises(ResultsError, match=f"{second.name} is damaged.*it holds {first.stem}"):
        resumed(SMALL, MODELS, tmp_path)


def test_every_bit_that_flips_is_noticed(tmp_path):
    evaluation.save(evaluation.run(SMALL, ["diy-sgd"], directory=tmp_path), tmp_path)
    choice = random.Random(0)
    for path, again in (
        (tmp_path / "results.json", lambda: evaluation.load(tmp_path)),
        (finished(tmp_path)[0], lambda: evaluation.run(SMALL, ["diy-sgd"], directory=tmp_path, resume=True)),
    ):
        whole = path.read_bytes()
        for _ in range(400):
            place, bit = choice.randrange(len(whole)), choice.randrange(8)
            path.write_bytes(whole[:place] + bytes([whole[place] ^ 1 << bit]) + whole[place + 1 :])
            with pytest.raises(ResultsError):
                again()
        path.write_bytes(whole)
        again()


def test_results_of_one_program_are_refused_by_the_other(tmp_path):
    sweep.save(sweep.run(sweep.Grid(SMALL, rates=(1e-3,))), tmp_path)
    (tmp_path / "sweep.json").rename(tmp_path / "results.json")
    with pytest.raises(ResultsError, match=r"results\.json is damaged, or not a file of this program"):
        evaluation.run(SMALL, MODELS, directory=tmp_path)


@pytest.mark.parametrize("program", ["sweep", "digits"])
def test_the_other_programs_refuse_damaged_files_as_well(launcher, tmp_path, program):
    arguments = {
        "sweep": [*TINY, "--rates", "2", "--rounds", "1"],
        "digits": ["--rounds", "1", "--epochs", "1", "--channels", "1", "--batch-size", "500"],
    }
    command = ["-m", f"experiments.{program}", *arguments[program], "--no-figures", "--quiet", "--output", tmp_path]
    assert launcher.run(*command).returncode == 0
    for path, resume in ((finished(tmp_path)[0], ["--resume"]), (tmp_path / f"{program}.json", [])):
        path.write_bytes(path.read_bytes()[:-9])
        done = launcher.run(*command, *resume)
        assert done.returncode == 2 and done.output.count("\n") == 1 and path.name in done.output
        path.unlink()


def test_an_interrupted_sweep_goes_on_to_the_same_numbers(tmp_path):
    grid = sweep.Grid(SMALL, rates=(1e-3, 1e-2, 1e-1))
    expected, computed = sweep.run(grid), []

    def interrupt(reduction, round, record):
        computed.append((reduction, round))
        if len(computed) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        sweep.run(grid, interrupt, tmp_path)
    assert len(finished(tmp_path)) == 2
    sweep.save(sweep.run(grid, directory=tmp_path, resume=True), tmp_path)
    for reduction, rounds in sweep.load(tmp_path).runs.items():
        for old, new in zip(expected.runs[reduction], rounds):
            assert {**old, "seconds": 0} == {**new, "seconds": 0}


@pytest.mark.parametrize("link", [False, True], ids=["a file", "a link to nothing"])
def test_what_is_no_folder_where_the_rounds_belong_is_told_before_anything_is_trained(tmp_path, link):
    if link:
        (tmp_path / "rounds").symlink_to(tmp_path / "nothing")
    else:
        (tmp_path / "rounds").touch()
    for resume in True, False:
        with pytest.raises(ResultsError, match="rounds is no folder, but one is needed there: rename"):
            evaluation.run(SMALL, ["diy-sgd"], directory=tmp_path, resume=resume)
    assert [path.name for path in tmp_path.iterdir()] == ["rounds"]


def test_what_is_no_file_is_not_replaced_and_links_are_followed(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    for name in "pipe", "folder":
        with pytest.raises(OSError, match="it is not a regular file"):
            write_atomically(tmp_path / name, b"new")
    (tmp_path / "target").write_bytes(b"old")
    (tmp_path / "link").symlink_to(tmp_path / "target")
    write_atomically(tmp_path / "link", b"new")
    assert (tmp_path / "link").is_symlink() and (tmp_path / "target").read_bytes() == b"new"
