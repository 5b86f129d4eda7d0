"""How far one process, one machine and several go: networks per second, memory per network, cost of gathering.

    python -m benchmarks.scale            a table on the screen, and scale.json
    python -m benchmarks.scale --quick    a rough look in a minute; nothing is written

Stacks of networks take turns with a network trained alone, on one thread. The table shows medians over the rounds, of
the time and of its ratio to the lone network's time in the same round. Times are processor times, so that other
programs on the machine matter less.
"""

from experiments.begin import begin_command

if __name__ == "__main__":
    begin_command("python -m benchmarks.scale")

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.distributed as dist

import diy
from experiments.circle import Protocol, build_network, one_thread
from experiments.commandline import run_command
from experiments.evaluation import run_round
from experiments.parallel import joined
from experiments.results import Store, environment, sealed, write_atomically

PROG = "python -m benchmarks.scale"
HERE = Path(__file__).resolve().parent
SIZES = (1, 10, 25, 100, 400)
RECIPES = {
    "SGD": (None, "sum", lambda parameters: diy.SGD(parameters, 0.001)),
    "dropout, SGD": (0.2, "sum", lambda parameters: diy.SGD(parameters, 0.001)),
    "dropout, Adam": (0.2, "mean", lambda parameters: diy.Adam(parameters, 0.001)),
}
BATCH, SAMPLES = 100, 1000


def epoch_alone(dropout, reduction, optimizer) -> Callable[[], None]:
    """Return a function that trains one network for an epoch, as `circle.train` does."""
    network = build_network("diy", dropout=dropout)
    network[0].needs_input_grad = False
    criterion, optimizer = diy.MSELoss(reduction=reduction), optimizer(network.parameters())
    points, targets = torch.rand(SAMPLES, 2), torch.rand(SAMPLES, 2)

    def epoch() -> None:
        order, total = torch.randperm(SAMPLES), torch.zeros(())
        for x, target in zip(points[order].split(BATCH), targets[order].split(BATCH)):
            total += criterion(network(x), target)
            optimizer.zero_grad()
            network.backward(criterion.backward())
            optimizer.step()

    return epoch


def epoch_together(networks, dropout, reduction, optimizer) -> Callable[[], None]:
    """Return a function that trains a stack for an epoch; each network has its own data, order and rate."""
    orders = [torch.Generator().manual_seed(seed) for seed in range(networks)]
    stacked = diy.stack([build_network("diy", dropout=dropout) for _ in range(networks)])
    stacked[0].needs_input_grad = False
    criterion, optimizer = diy.MSELoss(reduction=reduction, stacked=True), optimizer(stacked.parameters())
    optimizer.lr = torch.full((networks,), optimizer.lr)
    points, targets = torch.rand(networks, SAMPLES, 2), torch.rand(networks, SAMPLES, 2)
    index = torch.arange(networks).unsqueeze(1)

    def epoch() -> None:
        order, total = torch.stack([torch.randperm(SAMPLES, generator=g) for g in orders]), torch.zeros(networks)
        for x, target in zip(points[index, order].split(BATCH, 1), targets[index, order].split(BATCH, 1)):
            total += criterion(stacked(x), target)
            optimizer.zero_grad()
            stacked.backward(criterion.backward())
            optimizer.step()

    return epoch


def speed(rounds: int) -> dict[str, dict[str, dict[str, float]]]:
    """Return, by recipe and size, microseconds per network and step, and their ratio to a lone network's."""
    found = {}
    for recipe, parts in RECIPES.items():
        rows = {"alone": (1, epoch_alone(*parts)), **{str(n): (n, epoch_together(n, *parts)) for n in SIZES}}
        times: dict[str, list[float]] = {name: [] for name in rows}
        for _ in range(rounds):
            for name, (networks, epoch) in rows.items():
                epoch()
                repeats = max(1, 50 // networks)
                start = time.process_time()
                for _ in range(repeats):
                    epoch()
                steps = repeats * networks * SAMPLES // BATCH
                times[name].append((time.process_time() - start) / steps * 1e6)
        found[recipe] = {
            name: {
                "microseconds": statistics.median(own),
                "ratio": statistics.median(t / base for t, base in zip(own, times["alone"])),
            }
            for name, own in times.items()
        }
    return found


def memory(networks: int) -> int:
    """Return the peak memory, in bytes, of this process, after it has trained a stack for an epoch."""
    epoch_together(networks, *RECIPES["dropout, SGD"])()
    # Not ru_maxrss: that of a new process begins with the peak of the one that started it.
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return int(status.split("VmHWM:")[1].split()[0]) * 1024


def memory_per_network() -> float:
    """Return the kilobytes per network: the difference between two processes' peaks, over that of their sizes."""
    sizes = 100, 500
    command = [sys.executable, "-m", "benchmarks.scale", "--memory"]
    peaks = [int(subprocess.run([*command, str(n)], capture_output=True, check=True).stdout) for n in sizes]
    return (peaks[1] - peaks[0]) / (sizes[1] - sizes[0]) / 1e3


def record() -> dict:
    """Return what one round of the report's evaluation leaves behind."""
    kept = vars(run_round(Protocol(), "diy-sgd", 0))
    return {**kept, "predictions": "".join(map(str, kept["predictions"].tolist()))}


def storing(count: int = 50) -> float:
    """Return the milliseconds that it takes to keep one round on disk."""
    kept = record()
    with tempfile.TemporaryDirectory(dir=HERE) as directory:
        store, start = Store(directory, "results.json", {}), time.perf_counter()
        for index in range(count):
            store.save(str(index), kept)
        return (time.perf_counter() - start) / count * 1e3


def gathering(rank: int) -> None:
    """Gather rounds from every rank; print on rank 0 how many milliseconds it takes for each number of rounds."""
    text, times = json.dumps(record()), {}
    for count in (10, 100, 1000):
        records, parts, turns = {str(i): json.loads(text) for i in range(count)}, [None] * dist.get_world_size(), []
        for _ in range(7):
            dist.barrier()
            start = time.perf_counter()
            dist.gather_object(records, parts if rank == 0 else None)
            turns.append((time.perf_counter() - start) * 1e3)
        times[count] = statistics.median(turns)
    if rank == 0:
        print(json.dumps(times))


def torchrun(*arguments: str) -> str:
    """Run this file on two processes and return what it prints."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command += ["-m", "benchmarks.scale"]
    return subprocess.run([*command, *arguments], capture_output=True, encoding="utf-8", check=True).stdout


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog=PROG, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="fewer rounds; nothing is written")
    parser.add_argument("--memory", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--gather", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.memory:
        print(memory(options.memory))
        return
    if options.gather:
        with joined() as rank:
            gathering(rank)
        return
    with one_thread():
        found = {"environment": environment(), "speed": speed(3 if options.quick else 15)}
    kept = json.dumps(record())
    found |= {
        "kilobytes per network": memory_per_network(),
        "bytes per finished round": len(kept),
        "milliseconds to keep a round": storing(),
        "milliseconds to gather rounds from each of two processes": json.loads(torchrun("--gather")),
    }
    print("| recipe | " + " | ".join(["alone", *(f"stack of {n}" for n in SIZES)]) + " |")
    print("|---|" + "---|" * (1 + len(SIZES)))
    for recipe, rows in found["speed"].items():
        cells = [f"{row['microseconds']:.0f} µs, {row['ratio']:.2f}" for row in rows.values()]
        print(f"| {recipe} | " + " | ".join(cells) + " |")
    for name, value in found.items():
        if name not in ("environment", "speed"):
            print(f"{name}: {value if not isinstance(value, float) else round(value, 2)}")
    if not options.quick:
        write_atomically(HERE / "scale.json", sealed(found, indent=1))


if __name__ == "__main__":
    run_command(PROG, main, "nothing was written")
