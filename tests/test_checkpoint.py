"""Networks on disk."""

import os
import pickle
import signal
import time

import pytest
import torch

import checkpoint
import diy
from experiments.circle import build_network


def network(library="diy", dtype=torch.float32):
    return build_network(library, (5, 4), dropout=0.2).to(dtype)


def same(first, second):
    a, b = first.state_dict(), second.state_dict()
    return list(a) == list(b) and all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16])
def test_a_loaded_network_is_the_saved_one_to_the_bit(tmp_path, dtype):
    saved, loaded = network(dtype=dtype), network(dtype=dtype)
    assert not same(saved, loaded)
    checkpoint.save(saved, tmp_path / "a.safetensors")
    checkpoint.load(loaded, tmp_path / "a.safetensors")
    assert same(saved, loaded)


@pytest.mark.parametrize(("writer", "reader"), [("diy", "torch"), ("torch", "diy")])
def test_both_libraries_read_the_same_file(tmp_path, writer, reader):
    saved, loaded = network(writer), network(reader)
    checkpoint.save(saved, tmp_path / "a.safetensors")
    checkpoint.load(loaded, tmp_path / "a.safetensors")
    points = torch.rand(7, 2)
    # One rounding of float32 per product: two libraries may add in another order
    torch.testing.assert_close(loaded.eval()(points).detach(), saved.eval()(points).detach(), rtol=1e-6, atol=1e-6)


def test_stacks_and_shared_modules_come_back(tmp_path):
    twice = diy.Linear(3, 3)
    for saved, other in (
        (diy.stack([network(), network()]), diy.stack([network(), network()])),
        (diy.Sequential(twice, twice), diy.Sequential(*[diy.Linear(3, 3)] * 2)),
    ):
        checkpoint.save(saved, tmp_path / "a.safetensors")
        checkpoint.load(other, tmp_path / "a.safetensors")
        assert same(saved, other)


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (lambda: build_network("diy", (5, 3), 0.2), r"2\.weight|3\.weight"),
        (lambda: network(dtype=torch.float64), "float32 in the file and .* float64 here"),
        (lambda: build_network("diy", (5,), 0.2), "unknown"),
        (lambda: build_network("diy", (5, 4, 3), 0.2), "missing"),
        (lambda: build_network("torch", (5, 3), 0.2), "does not fit"),
    ],
    ids=["shape", "dtype", "fewer", "more", "torch"],
)
def test_a_network_that_does_not_fit_is_refused_and_unchanged(tmp_path, other, message):
    checkpoint.save(network(), tmp_path / "a.safetensors")
    reader = other()
    before = {name: tensor.clone() for name, tensor in reader.state_dict().items()}
    with pytest.raises(checkpoint.CheckpointError, match=message):
        checkpoint.load(reader, tmp_path / "a.safetensors")
    assert all(torch.equal(tensor, before[name]) for name, tensor in reader.state_dict().items())


class Hostile:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (os.mkdir, (str(self.path),))


@pytest.mark.parametrize("writer", ["pickle", "torch"])
def test_a_hostile_pickle_is_refused_and_runs_nothing(tmp_path, writer):
    path, trace = tmp_path / "a.safetensors", tmp_path / "executed"
    if writer == "pickle":
        path.write_bytes(pickle.dumps({"0.weight": Hostile(trace)}))
    else:
        torch.save({"0.weight": Hostile(trace)}, path)
    with pytest.raises(checkpoint.CheckpointError, match="never opened, because they can run code"):
        checkpoint.load(network(), path)
    assert not trace.exists()
    pickle.loads(pickle.dumps(Hostile(trace)))  # what opening the pickle would have done
    assert trace.exists()


def test_every_truncation_is_refused(tmp_path):
    path = tmp_path / "a.safetensors"
    checkpoint.save(network(), path)
    content = path.read_bytes()
    for length in range(0, len(content), 7):
        path.write_bytes(content[:length])
        with pytest.raises(checkpoint.CheckpointError, match="damaged"):
            checkpoint.load(network(), path)


def test_a_missing_file_or_directory_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="nothing"):
        checkpoint.load(network(), tmp_path / "nothing")
    with pytest.raises(FileNotFoundError, match="nowhere"):
        checkpoint.save(network(), tmp_path / "nowhere" / "a.safetensors")


@pytest.mark.skipif(os.name != "posix", reason="limits of POSIX")
def test_a_full_disk_leaves_the_old_file(tmp_path):
    import resource

    saved, path = network(), tmp_path / "a.safetensors"
    checkpoint.save(saved, path)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, limits[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            checkpoint.save(network(), path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, before)
    loaded = network()
    checkpoint.load(loaded, path)
    assert same(saved, loaded)
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


def test_a_kill_while_saving_leaves_a_whole_file(launcher, tmp_path):
    path, writer = tmp_path / "a.safetensors", tmp_path / "writer.py"
    writer.write_text(
        "import sys, diy, checkpoint\n"
        "network = diy.Linear(300, 300)\n"
        "while True:\n"
        "    network.weight.fill_(network.weight[0, 0] + 1)\n"
        "    checkpoint.save(network, sys.argv[1])\n"
        "    print('saved', flush=True)\n"
    )
    for pause in (0.0, 0.003, 0.006):
        child = launcher.start(writer, path)
        child.wait_for_output()
        time.sleep(pause)
        child.kill(signal.SIGKILL)
        child.wait()
        loaded = diy.Linear(300, 300)
        checkpoint.load(loaded, path)
        assert (loaded.weight == loaded.weight[0, 0]).all()
