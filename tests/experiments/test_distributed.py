"""One run on several processes: the numbers of one process, and a clear end when one of them dies."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import diy
from experiments import evaluation, sweep
from experiments import parallel as distributed
from experiments.circle import build_network
from tests.launcher import numbers_of

pytestmark = pytest.mark.skipif(os.name != "posix", reason="processes and signals of POSIX")

ROOT = Path(__file__).resolve().parents[2]
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
TINY = ["--rounds", "3", "--epochs", "3", "--train-size", "200", "--test-size", "50"]
TEST = ["test.py", *TINY, "--models", "diy-sgd", "diy-dropout", "--no-figures"]


@pytest.fixture(scope="module")
def alone(launcher, tmp_path_factory):
    """The numbers of test.py on one process."""
    directory = tmp_path_factory.mktemp("alone")
    assert launcher.run(*TEST, "--output", directory).returncode == 0
    return numbers(directory)


def numbers(directory):
    return numbers_of(evaluation.load(directory))


def start_ranks(launcher, *commands):
    """Start one command per rank, as torchrun would, but with nobody who watches over them."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    common = {"WORLD_SIZE": str(len(commands)), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    common["TORCHELASTIC_RUN_ID"] = "test"  # as torchrun sets it
    return [
        launcher.start(*command, RANK=str(rank), LOCAL_RANK=str(rank), **common)
        for rank, command in enumerate(commands)
    ]


def run_ranks(launcher, *commands):
    children = [child.wait() for child in start_ranks(launcher, *commands)]
    assert [child.returncode for child in children] == [0] * len(commands), [child.output for child in children]
    return children


def test_torchrun_gives_the_numbers_of_one_process_to_the_bit(alone, tmp_path):
    done = subprocess.run(
        [*TORCHRUN, *TEST, "--output", tmp_path], cwd=ROOT, capture_output=True, encoding="utf-8", timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert numbers(tmp_path) == alone
    assert sorted(path.name for path in tmp_path.iterdir()) == ["results.json", "rounds"]
    rows = [line.split()[:2] for line in done.stdout.splitlines() if line.startswith("    ") and " s" in line[-2:]]
    assert sorted(rows) == sorted([str(r + 1), model] for r in range(3) for model in ("diy-sgd", "diy-dropout"))
    assert done.stdout.count("mean ± std") == 1


def test_three_processes_and_their_own_directories_give_the_same_numbers(launcher, alone, tmp_path):
    children = run_ranks(launcher, *[[*TEST, "--output", tmp_path / str(rank)] for rank in range(3)])
    assert numbers(tmp_path / "0") == alone
    assert [child.output == "" for child in children] == [False, True, True]


def test_a_split_sweep_gives_the_numbers_of_one_process_to_the_bit(launcher, tmp_path):
    command = ["-m", "experiments.sweep", *TINY, "--rates", "4", "--no-figures"]
    run_ranks(launcher, *[[*command, "--output", tmp_path]] * 2)
    split = sweep.load(tmp_path)
    for reduction, rounds in sweep.run(split.grid).runs.items():
        for expected, got in zip(rounds, split.runs[reduction]):
            assert {**got, "seconds": 0} == {**expected, "seconds": 0}
    assert (tmp_path / "sweep.json").exists()


@pytest.mark.parametrize("ranks", [2, 3])
def test_one_network_trained_by_several_processes_is_the_one_trained_by_one(launcher, tmp_path, ranks):
    command = ["-m", "experiments.data_parallel", "--epochs", "3", "--save"]
    assert launcher.run(*command, tmp_path / "one").returncode == 0
    run_ranks(launcher, *[[*command, tmp_path / "many"]] * ranks)
    one, many = build_network("diy").to(torch.float64), build_network("diy").to(torch.float64)
    for network, name in ((one, "one"), (many, "many")):
        network.load_state_dict(load_file(tmp_path / name))
    for expected, got in zip(one.parameters(), many.parameters()):
        # The sums over a batch are added up in another order, 30 times: about 1e-15 in float64
        torch.testing.assert_close(got, expected, rtol=1e-12, atol=1e-12)


def test_a_trained_network_does_not_replace_what_is_no_file(launcher, tmp_path):
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    for name in ("folder", "pipe"):
        result = launcher.run("-m", "experiments.data_parallel", "--epochs", "1", "--save", tmp_path / name)
        assert result.returncode == 1 and "must not be replaced" in result.stderr and "Traceback" not in result.stderr
    assert (tmp_path / "pipe").is_fifo()
    assert launcher.run("-m", "experiments.data_parallel", "--epochs", "-1").returncode == 2


def test_finished_rounds_count_wherever_they_lie(launcher, alone, tmp_path):
    here, there = tmp_path / "here", tmp_path / "there"
    assert launcher.run(*TEST, "--output", here).returncode == 0
    results = evaluation.load(here)

    def interrupt(model, round, record):
        if (model, round) == ("diy-sgd", 2):
            raise KeyboardInterrupt

    for file in (here / "rounds").glob("*"):
        file.unlink()
    for directory in (here, there):
        with pytest.raises(KeyboardInterrupt):
            evaluation.run(results.protocol, list(results.models), on_round=interrupt, directory=directory)
    for directory, names in ((here, ("diy-sgd-0", "diy-dropout-1")), (there, ("diy-sgd-1", "diy-sgd-2"))):
        for name in names:
            next((directory / "rounds").glob(f"{name}-*.json")).unlink()
    run_ranks(launcher, *[[*TEST, "--resume", "--output", directory] for directory in (here, there)])
    assert numbers(here) == alone
    # Of the six rounds, only "diy-dropout" of the third was missing on both sides: rank 1 has computed it.
    assert sorted(path.stem.rpartition("-")[0] for path in (there / "rounds").iterdir()) == [
        "diy-dropout-0", "diy-dropout-1", "diy-dropout-2", "diy-sgd-0"
    ]  # fmt: skip


LONG = [*TEST, "--epochs", "60"]


@pytest.fixture(scope="module")
def long_alone(launcher, tmp_path_factory):
    directory = tmp_path_factory.mktemp("long")
    assert launcher.run(*LONG, "--output", directory).returncode == 0
    return numbers(directory)


def wait_for_a_piece(directory, seconds=60):
    end = time.monotonic() + seconds
    while not any((directory / "rounds").glob("[!.]*.json")):
        assert time.monotonic() < end, "no round was finished"
        time.sleep(0.005)


def test_a_rank_whose_neighbour_dies_ends_by_itself_with_one_line(launcher, long_alone, tmp_path):
    first, second = start_ranks(launcher, *[[*LONG, "--quiet", "--output", tmp_path]] * 2)
    wait_for_a_piece(tmp_path)
    second.kill(signal.SIGKILL)
    assert second.wait().returncode == -signal.SIGKILL
    assert first.wait().returncode == 1
    assert first.output.count("\n") == 1 and first.output.startswith("test.py: another process of this run ended")
    assert launcher.run(*LONG, "--resume", "--output", tmp_path).returncode == 0
    assert numbers(tmp_path) == long_alone


def test_a_rank_waits_for_hours_for_the_others(monkeypatch):
    for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "TORCHELASTIC_RUN_ID"):
        monkeypatch.setenv(name, "0")
    waits = []
    monkeypatch.setattr(distributed.dist, "init_process_group", lambda backend, timeout: waits.append(timeout))
    monkeypatch.setattr(distributed.dist, "destroy_process_group", lambda: None)
    monkeypatch.setattr(distributed.dist, "get_rank", lambda: 0)
    with distributed.joined():
        pass
    assert waits[0].total_seconds() >= 12 * 3600


def test_alone_compute_does_all_pieces_in_order():
    heard = []
    pieces = [("b", 0), ("a", 1)]
    records = distributed.compute(pieces, lambda *piece: {"is": piece}, on_piece=lambda *news: heard.append(news))
    assert list(records.items()) == [(piece, {"is": piece}) for piece in pieces]
    assert heard == [(*piece, {"is": piece}) for piece in pieces]


def test_alone_gradients_stay_as_they_are_but_must_exist():
    layer = diy.Linear(2, 2)
    with pytest.raises(ValueError, match="after backward"):
        distributed.all_reduce_gradients(layer.parameters())
    layer(torch.ones(1, 2))
    layer.backward(torch.ones(1, 2))
    before = [gradient.clone() for _, gradient in layer.param()]
    distributed.all_reduce_gradients(layer.parameters())
    assert all(torch.equal(old, new) for old, (_, new) in zip(before, layer.param()))
