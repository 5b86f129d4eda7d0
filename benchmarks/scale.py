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

import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch.distributed as dist

from benchmarks.contenders import Task, disk, stack
from benchmarks.speed import peak_memory
from experiments import evaluation
from experiments.circle import Protocol, one_thread
from experiments.commandline import Parser, run_command
from experiments.parallel import joined
from experiments.results import Store, environment, sealed, write_atomically

PROG = "python -m benchmarks.scale"
HERE = Path(__file__).resolve().parent
SIZES = (1, 10, 25, 100, 400)
RECIPES = {
    "SGD": {},
    "dropout, SGD": {"dropout": 0.2},
    "dropout, Adam": {"dropout": 0.2, "name": "Adam", "lr": 0.001},
}
TASK = Task()


def speed(rounds: int) -> dict[str, dict[str, dict[str, float]]]:
    """Return, by recipe and size, microseconds per network and step, and their ratio to a lone network's."""
    found = {}
    for recipe, options in RECIPES.items():
        rows = {"alone": (1, disk(TASK, "diy", **options))}
        rows |= {str(networks): (networks, stack(TASK, networks, **options)) for networks in SIZES}
        times: dict[str, list[float]] = {name: [] for name in rows}
        for _ in range(rounds):
            for name, (networks, run) in rows.items():
                run(1)
                repeats = max(1, 50 // networks)
                start = time.process_time()
                run(repeats)
                times[name].append((time.process_time() - start) / (repeats * networks * TASK.steps) * 1e6)
        found[recipe] = {
            name: {
                "microseconds": statistics.median(own),
                "ratio": statistics.median(t / base for t, base in zip(own, times["alone"])),
            }
            for name, own in times.items()
        }
    return found


def memory(networks: int) -> None:
    """Print the peak memory of this process, in MB, after it has trained a stack for an epoch."""
    stack(TASK, networks, **RECIPES["dropout, SGD"])(1)
    print(peak_memory())


def memory_per_network() -> float:
    """Return the kilobytes per network: the difference between two processes' peaks, over that of their sizes."""
    small, large = 100, 500
    peaks = {networks: float(printed(f"memory({networks})")) for networks in (small, large)}
    return (peaks[large] - peaks[small]) / (large - small) * 2**20 / 1e3


def record() -> dict:
    """Return what one round of the report's evaluation leaves behind."""
    return evaluation.to_record(evaluation.run_round(Protocol(), "diy-sgd", 0))


def storing(count: int = 50) -> float:
    """Return the milliseconds that it takes to keep one round on disk."""
    kept = record()
    with tempfile.TemporaryDirectory(dir=HERE) as directory:
        store, start = Store(directory, "results.json", {}), time.perf_counter()
        for index in range(count):
            store.save(("diy-sgd", index), kept)
        return (time.perf_counter() - start) / count * 1e3


def gathering() -> None:
    """Gather rounds from every rank; print on rank 0 how many milliseconds it takes for each number of rounds."""
    text, times = json.dumps(record()), {}
    with joined() as rank:
        for count in (10, 100, 1000):
            records, parts = {str(i): json.loads(text) for i in range(count)}, [None] * dist.get_world_size()
            turns = []
            for _ in range(7):
                dist.barrier()
                start = time.perf_counter()
                dist.gather_object(records, parts if rank == 0 else None)
                turns.append((time.perf_counter() - start) * 1e3)
            times[count] = statistics.median(turns)
        if rank == 0:
            print(json.dumps(times))


def printed(call: str, *launcher: str) -> str:
    """Make a call of a function of this file in a new process, started by `launcher`; return what it prints."""
    command = [*launcher, sys.executable, "-c", f"from benchmarks.scale import *; {call}"]
    return subprocess.run(command, capture_output=True, encoding="utf-8", check=True, cwd=HERE.parent).stdout


def main(arguments: list[str] | None = None) -> None:
    parser = Parser(PROG, __doc__)
    parser.add_argument("--quick", action="store_true", help="fewer rounds; nothing is written")
    options = parser.parse_args(arguments)
    with one_thread():
        found = {"environment": environment(), "speed": speed(3 if options.quick else 15)}
    torchrun = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "--no-python")
    found |= {
        "kilobytes per network": memory_per_network(),
        "bytes per finished round": len(json.dumps(record())),
        "milliseconds to keep a round": storing(),
        "milliseconds to gather rounds from each of two processes": json.loads(printed("gathering()", *torchrun)),
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
