"""Nothing is lost: runs that are killed, run out of disk or find unknown files."""

import errno
import json
import os
import random
import signal
import time

import numpy as np
import pytest

from experiments import evaluation, results, sweep
from experiments import results as storage
from experiments.circle import Protocol
from experiments.results import ResultsError, sealed

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


def numbers_of(results):
    """All that a run gives, except the times."""
    return {
        (model, index): (r.loss, r.train_error, r.test_error, r.predictions.tolist())
        for model, rounds in results.models.items()
        for index, r in enumerate(rounds)
    }


def pieces(directory):
    return sorted(path.stem for path in (directory / "unfinished").glob("[!.]*.json"))


def test_a_run_killed_at_20_random_moments_goes_on_to_the_same_numbers(launcher, whole, tmp_path):
    expected, seconds = whole
    moments, kept = random.Random(0), []
    for attempt in range(20):
        directory = tmp_path / str(attempt)
        child = launcher.start(*TEST, "--output", directory)
        time.sleep(moments.uniform(0, 1.2 * seconds))
        child.kill([signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGKILL][attempt % 4])
        assert child.wait().returncode in (0, 130, -signal.SIGKILL, -signal.SIGTERM, -signal.SIGINT)
        for name in pieces(directory):  # every file that is there is whole
            assert json.loads((directory / "unfinished" / f"{name}.json").read_text())["header"]["program"] == "test.py"
        kept.append(len(pieces(directory)) if child.returncode else len(expected))
        resumed = launcher.run(*TEST, "--output", directory, "--resume")
        assert resumed.returncode == 0, resumed.output
        assert numbers(directory) == expected
        assert sorted(path.name for path in directory.iterdir()) == ["predictions.npz", "results.json"]
    assert len(set(kept)) > 2  # the moments fell before, between and after rounds


@pytest.mark.parametrize("largest_file", [300, 1500], ids=["at the first round", "at the results"])
def test_a_full_disk_ends_the_run_with_one_line_and_loses_nothing(launcher, whole, tmp_path, largest_file):
    full = launcher.run(*TEST, "--quiet", "--output", tmp_path, largest_file=largest_file)
    error = full.output.splitlines()[-1]
    assert full.returncode == 1 and error.startswith("test.py: ") and "too large" in error and "--resume" in error
    assert "Traceback" not in full.output
    assert len(pieces(tmp_path)) == (0 if largest_file == 300 else 8)
    assert not (tmp_path / "results.json").exists()
    assert launcher.run(*TEST, "--output", tmp_path, "--resume").returncode == 0
    assert numbers(tmp_path) == whole[0]


def test_a_directory_that_becomes_read_only_loses_no_finished_round(tmp_path, monkeypatch):
    expected = evaluation.run(SMALL, MODELS)
    write, written = storage.write_atomically, []

    def write_three(path, content):
        if len(written) == 3:
            raise OSError(errno.EROFS, "Read-only file system", str(path))
        written.append(path)
        write(path, content)

    monkeypatch.setattr(storage, "write_atomically", write_three)
    with pytest.raises(OSError, match="Read-only"):
        evaluation.run(SMALL, MODELS, directory=tmp_path)
    monkeypatch.undo()
    assert len(pieces(tmp_path)) == 3
    computed = []
    resumed = evaluation.run(
        SMALL, MODELS, on_epoch=lambda *news: computed.append(news), directory=tmp_path, resume=True
    )
    assert len(computed) == 1  # one round of one epoch was missing
    for model in MODELS:
        assert [r.loss for r in resumed.models[model]] == [r.loss for r in expected.models[model]]


def test_resuming_a_finished_run_computes_nothing(tmp_path):
    results = evaluation.run(SMALL, MODELS, directory=tmp_path)
    evaluation.save(results, tmp_path)
    computed = []
    again = evaluation.run(SMALL, MODELS, on_epoch=lambda *news: computed.append(news), directory=tmp_path, resume=True)
    assert computed == [] and not (tmp_path / "unfinished").exists()
    for model in MODELS:
        for old, new in zip(results.models[model], again.models[model]):
            assert (old.seconds, old.loss, old.predictions.tolist()) == (
                new.seconds,
                new.loss,
                new.predictions.tolist(),
            )


def damage(directory, kind):
    """Spoil what a finished run has left; return the spoilt file."""
    results, predictions = directory / "results.json", directory / "predictions.npz"
    if kind == "truncated predictions":
        predictions.write_bytes(predictions.read_bytes()[:-100])
        return predictions
    content = json.loads(results.read_text())
    if kind == "truncated":
        text = results.read_text()[:-30]
    elif kind == "foreign":
        text = "my shopping list"
    elif kind == "foreign JSON":
        text = '{"hello": 1}'
    elif kind == "version":
        text = sealed({**content, "version": 2}).decode()
    elif kind == "rounds missing":
        content["models"]["diy-sgd"]["rounds"].pop()
        text = sealed(content).decode()
    results.write_text(text)
    return results


@pytest.mark.parametrize("resume", [[], ["--resume"]], ids=["afresh", "resume"])
@pytest.mark.parametrize(
    "kind", ["truncated", "truncated predictions", "foreign", "foreign JSON", "version", "rounds missing"]
)
def test_unusable_results_are_refused_and_stay_as_they_are(launcher, tmp_path, kind, resume):
    evaluation.save(evaluation.run(SMALL, MODELS), tmp_path)
    spoilt = damage(tmp_path, kind)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    done = launcher.run(*TEST, "--quiet", "--output", tmp_path, *resume)
    assert done.returncode == 2 and done.output.count("\n") == 1
    assert done.output.startswith("test.py: ") and str(spoilt.parent) in done.output
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_the_other_file_of_somebody_else_is_refused_and_stays(tmp_path):
    (tmp_path / "predictions.npz").write_text("mine")
    for resume in (False, True):
        with pytest.raises(ResultsError, match=r"predictions\.npz .*results\.json is missing beside it"):
            evaluation.run(SMALL, MODELS, directory=tmp_path, resume=resume)
    with pytest.raises(ResultsError, match=r"predictions\.npz"):
        evaluation.save(evaluation.run(SMALL, MODELS), tmp_path)
    assert (tmp_path / "predictions.npz").read_text() == "mine"


def test_a_run_between_its_two_files_goes_on(tmp_path):
    results = evaluation.run(SMALL, MODELS, directory=tmp_path)
    kept = [path.name for path in (tmp_path / "unfinished").iterdir()]
    (tmp_path / "predictions.npz").write_bytes(b"from an interrupted write")
    evaluation.save(evaluation.run(SMALL, MODELS, directory=tmp_path, resume=True), tmp_path)
    assert len(kept) == 4 and numbers(tmp_path) == numbers_of(results)


@pytest.mark.parametrize("finished", [True, False], ids=["results", "pieces"])
def test_saving_loses_nothing_of_another_run(tmp_path, finished, capsys):
    other = Protocol(**{**vars(SMALL), "seed": 1})
    first = evaluation.run(other, MODELS, directory=tmp_path)
    if finished:
        evaluation.save(first, tmp_path)
    results = evaluation.run(SMALL, MODELS)
    evaluation.save(results, tmp_path)
    assert "were moved to" in capsys.readouterr().err
    assert numbers(tmp_path) == numbers_of(results)
    if finished:
        assert numbers(tmp_path / "earlier-1") == numbers_of(first)
    else:
        assert len(pieces(tmp_path / "earlier-1")) == 4


@pytest.mark.parametrize("content", ["", "{", "[]", '{"header": 1}', '{"record": {}}'])
def test_a_damaged_piece_is_refused_by_name(tmp_path, content):
    (tmp_path / "unfinished").mkdir()
    (tmp_path / "unfinished" / "diy-sgd-0.json").write_text(content)
    for resume in (False, True):
        with pytest.raises(ResultsError, match=r"diy-sgd-0\.json is damaged"):
            evaluation.run(SMALL, MODELS, directory=tmp_path, resume=resume)
    assert (tmp_path / "unfinished" / "diy-sgd-0.json").read_text() == content


@pytest.mark.parametrize(
    "change",
    [{"loss": []}, {"loss": ["0.1"]}, {"test_error": None}, {"predictions": "01"}, {"predictions": 5}, {"more": 1}],
)
def test_a_piece_that_says_something_else_is_refused_by_name(tmp_path, change):
    store = storage.Store(tmp_path, evaluation._header(SMALL, ["diy-sgd"], results.environment()), (), None, None)
    record = evaluation._to_record(evaluation.run_round(SMALL, "diy-sgd", 0))
    store.save("diy-sgd-0", {**record, **change})
    with pytest.raises(ResultsError, match=r"diy-sgd-0\.json is damaged"):
        evaluation.run(SMALL, ["diy-sgd"], directory=tmp_path, resume=True)


def test_predictions_that_do_not_fit_the_results_are_refused(tmp_path):
    evaluation.save(evaluation.run(SMALL, ["diy-sgd"]), tmp_path)
    with np.load(tmp_path / "predictions.npz") as archive:
        arrays = {name: array[:, :5] for name, array in archive.items()}
    np.savez(tmp_path / "predictions.npz", **arrays)
    with pytest.raises(ResultsError, match=r"predictions\.npz .*the checksum differs"):
        evaluation.load(tmp_path)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"seed": 1}, "protocol.seed is 0 there and 1 here"),
        ({"rounds": 3}, "protocol.rounds is 2 there and 3 here"),
        ({"hidden": (4, 3)}, r"protocol.hidden is \[3\] there and \[4, 3\] here"),
        ({}, "models is"),
    ],
)
@pytest.mark.parametrize("finished", [True, False], ids=["results", "pieces"])
def test_results_of_another_run_are_not_resumed_but_set_aside(tmp_path, change, named, finished, capsys):
    first = evaluation.run(SMALL, MODELS, directory=tmp_path)
    if finished:
        evaluation.save(first, tmp_path)
    other, models = Protocol(**{**vars(SMALL), **change}), MODELS if change else MODELS[:1]
    with pytest.raises(ResultsError, match=named):
        evaluation.run(other, models, directory=tmp_path, resume=True)
    results = evaluation.run(other, models, directory=tmp_path)
    evaluation.save(results, tmp_path)
    kept = tmp_path / "earlier-1"
    assert capsys.readouterr().err == f"results of another run were moved to {kept}\n"
    if finished:
        assert numbers(kept) == numbers_of(first)
    else:
        assert pieces(kept) == sorted(f"{model}-{r}" for model in MODELS for r in range(2))
    assert numbers(tmp_path) == numbers_of(results)


def test_the_same_run_replaces_its_own_results(tmp_path):
    for _ in range(2):
        evaluation.save(evaluation.run(SMALL, MODELS, directory=tmp_path), tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["predictions.npz", "results.json"]


def test_an_interrupted_sweep_goes_on_to_the_same_numbers(tmp_path):
    grid = sweep.Grid(SMALL, rates=(1e-3, 1e-2, 1e-1))
    expected = sweep.run(grid)

    def interrupt(reduction, round, record):
        if (reduction, round) == ("sum", 0):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        sweep.run(grid, interrupt, tmp_path)
    assert pieces(tmp_path) == ["mean-0", "sum-0"]
    with pytest.raises(ResultsError, match="rates is"):
        sweep.run(sweep.Grid(SMALL, rates=(1e-3,)), directory=tmp_path, resume=True)
    resumed = sweep.run(grid, directory=tmp_path, resume=True)
    sweep.save(resumed, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["sweep.json"]
    for found in (resumed, sweep.load(tmp_path)):
        for reduction in grid.reductions:
            for old, new in zip(expected.runs[reduction], found.runs[reduction]):
                assert {**old, "seconds": 0} == {**new, "seconds": 0}


@pytest.fixture(scope="module")
def finished(launcher, tmp_path_factory):
    """The command and the directory of a finished run of each program that keeps its records in one file."""
    runs = {}
    for name, arguments in (
        ("sweep", [*TINY, "--rates", "2", "--rounds", "1"]),
        ("digits", ["--rounds", "1", "--epochs", "1", "--channels", "1", "--batch-size", "500"]),
    ):
        directory = tmp_path_factory.mktemp(name)
        command = ["-m", f"experiments.{name}", *arguments, "--no-figures", "--output"]
        done = launcher.run(*command, directory)
        assert done.returncode == 0, done.output
        runs[name] = command, directory
    return runs


def spoil(record, kind):
    """Change a record of sweep.py or digits.py, whose numbers lie in `record` or in its parts."""
    own = record.get("diy", record)
    if kind == "empty":
        record.clear()
    elif kind == "key missing":
        del own["loss"]
    elif kind == "text":
        own["test_error"] = "x"
    elif kind == "too short":
        own["loss"].pop()


@pytest.mark.parametrize("resume", [[], ["--resume"]], ids=["afresh", "resume"])
@pytest.mark.parametrize("kind", ["empty", "key missing", "text", "too short", "rounds missing", "no environment"])
@pytest.mark.parametrize("program", ["sweep", "digits"])
def test_damaged_records_of_the_other_programs_are_refused(launcher, finished, tmp_path, program, kind, resume):
    command, directory = finished[program]
    content = json.loads((directory / f"{program}.json").read_text())
    rounds = content["runs"]["mean"] if program == "sweep" else content["rounds"]
    if kind == "rounds missing":
        rounds.clear()
    elif kind == "no environment":
        del content["environment"]
    else:
        spoil(rounds[0], kind)
    text = sealed(content).decode()
    (tmp_path / f"{program}.json").write_text(text)
    done = launcher.run(*command, tmp_path, "--quiet", *resume)
    assert done.returncode == 2 and done.output.count("\n") == 1 and f"{program}.json" in done.output
    assert (tmp_path / f"{program}.json").read_text() == text


@pytest.mark.parametrize("record", [None, {}, [], 3])
@pytest.mark.parametrize("program", ["sweep", "digits"])
def test_damaged_pieces_of_the_other_programs_are_refused(launcher, finished, tmp_path, program, record):
    command, directory = finished[program]
    content = json.loads((directory / f"{program}.json").read_text())
    for part in ("environment", "runs", "rounds"):
        content.pop(part, None)
    header = content | ({"torch": results.environment()["torch"]} if program == "sweep" else {})
    (tmp_path / "unfinished").mkdir()
    piece = tmp_path / "unfinished" / ("mean-0.json" if program == "sweep" else "round-0.json")
    piece.write_bytes(sealed({"header": header, "record": record}))
    done = launcher.run(*command, tmp_path, "--quiet", "--resume")
    assert done.returncode == 2 and done.output.count("\n") == 1 and piece.name in done.output


def test_digits_of_another_version_of_pytorch_are_not_resumed(launcher, finished, tmp_path):
    command, directory = finished["digits"]
    content = json.loads((directory / "digits.json").read_text())
    content["torch"] = content["environment"]["torch"] = "1.0.0"
    (tmp_path / "digits.json").write_bytes(sealed(content))
    done = launcher.run(*command, tmp_path, "--quiet", "--resume")
    assert done.returncode == 2 and "torch is 1.0.0 there" in done.output


def test_a_full_disk_leaves_the_old_figures_whole(launcher, tmp_path):
    old = [tmp_path / f"figure{name}.{kind}" for name in ("2-time", "5-labels") for kind in ("pdf", "png")]
    for path in old:
        path.write_text("old")
    full = launcher.run(*TEST[:-1], "--quiet", "--output", tmp_path, largest_file=5000)
    assert full.returncode == 1 and "too large" in full.output and "Traceback" not in full.output
    assert (tmp_path / "results.json").exists() and [path.read_text() for path in old] == ["old"] * len(old)


def test_results_of_one_program_are_refused_by_the_other(tmp_path):
    sweep.save(sweep.run(sweep.Grid(SMALL, rates=(1e-3,))), tmp_path)
    (tmp_path / "sweep.json").rename(tmp_path / "results.json")
    with pytest.raises(ResultsError, match=r"results\.json is damaged, or no file of this program"):
        evaluation.run(SMALL, MODELS, directory=tmp_path)
    (tmp_path / "results.json").rename(tmp_path / "sweep.json")
    evaluation.save(evaluation.run(SMALL, MODELS), tmp_path)
    (tmp_path / "results.json").replace(tmp_path / "sweep.json")
    with pytest.raises(ResultsError, match="no file of this program"):
        sweep.load(tmp_path)


def test_every_bit_that_flips_is_noticed(tmp_path):
    evaluation.save(evaluation.run(SMALL, ["diy-sgd"]), tmp_path)
    choice = random.Random(0)
    for name in ("results.json", "predictions.npz"):
        whole = (tmp_path / name).read_bytes()
        for _ in range(400):
            place, bit = choice.randrange(len(whole)), choice.randrange(8)
            (tmp_path / name).write_bytes(whole[:place] + bytes([whole[place] ^ 1 << bit]) + whole[place + 1 :])
            with pytest.raises(ResultsError):
                evaluation.load(tmp_path)
        (tmp_path / name).write_bytes(whole)
    evaluation.load(tmp_path)


def test_a_file_where_the_kept_rounds_belong_is_told_before_anything_is_trained(tmp_path):
    (tmp_path / "unfinished").write_text("mine")
    for resume in True, False:
        with pytest.raises(ResultsError, match="unfinished is a file where a folder is needed: rename it"):
            evaluation.run(SMALL, ["diy-sgd"], directory=tmp_path, resume=resume)
    assert (tmp_path / "unfinished").read_text() == "mine"


def test_results_of_another_version_of_pytorch_get_an_advice_that_helps(tmp_path):
    evaluation.save(evaluation.run(SMALL, ["diy-sgd"]), tmp_path)
    content = json.loads((tmp_path / "results.json").read_text())
    content["environment"]["torch"] = "1.0.0"
    (tmp_path / "results.json").write_bytes(sealed(content, indent=1))
    with pytest.raises(ResultsError, match=r"torch is 1\.0\.0 there .*go on with it in the environment of that run"):
        evaluation.run(SMALL, ["diy-sgd"], directory=tmp_path, resume=True)


def test_what_is_no_file_is_not_replaced_and_links_are_followed(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    for name in "pipe", "folder":
        with pytest.raises(OSError, match="it is no file"):
            storage.write_atomically(tmp_path / name, b"new")
    (tmp_path / "target").write_bytes(b"old")
    (tmp_path / "link").symlink_to(tmp_path / "target")
    storage.write_atomically(tmp_path / "link", b"new")
    assert (tmp_path / "link").is_symlink() and (tmp_path / "target").read_bytes() == b"new"
