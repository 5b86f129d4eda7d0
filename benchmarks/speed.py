"""How fast diy is compared with PyTorch and others: all in one run, the competitors taking turns.

    python -m benchmarks.speed             training, wide and large networks, inference: table, speed.json, figure
    python -m benchmarks.speed --scaling   how cost grows with width, batch and depth: scaling.json, figure
    python -m benchmarks.speed --quick     a rough look in a minute or two; nothing is written
    python -m benchmarks.speed --show      the tables of the last run again

A turn warms up, then times the same number of steps. Each round gives every row one turn, in rotating order, and each
row's time is divided by that of its baseline in the same round; shown are medians and quartiles over the rounds.
What a process has to do first (import, compile) and the memory it takes are measured in processes of their own.
"""

from experiments.begin import begin_command

if __name__ == "__main__":
    begin_command("python -m benchmarks.speed")

import argparse
import contextlib
import importlib
import importlib.metadata
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, replace
from pathlib import Path

from benchmarks.contenders import CONTENDERS, INFERENCE, Run, Task
from experiments.commandline import CommandError, Parser, run_command

PROG = "python -m benchmarks.speed"
HERE = Path(__file__).resolve().parent
ENVIRONMENT = {
    # Libraries read these when they are loaded. PyTorch's threads are set in the run; the others get one.
    **dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "CPU_COUNT"), "1"),
    "XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1",
    "JAX_PLATFORMS": "cpu",
    "DEV": "CPU",  # of tinygrad
    # Compiling is part of what is measured: nothing may come from an earlier run.
    "TORCHINDUCTOR_FORCE_DISABLE_CACHES": "1",
    "CACHELEVEL": "0",
}
LARGE = {
    "width 1024, batch 100": Task((2, 1024, 1024, 1024, 2), 100, 100, lr=1e-3),
    "width 1024, batch 4096": Task((2, 1024, 1024, 1024, 2), 4096, 4096, lr=1e-3),
    "width 2048, batch 256": Task((2, 2048, 2048, 2048, 2), 256, 256, lr=1e-3),
    "width 25, batch 4096": Task(batch_size=4096, samples=4096),
    "width 25, batch 10,000": Task(batch_size=10_000, samples=10_000),
}
CONVOLUTIONAL = {"LeNet, 28 × 28, batch 100": Task()}
MANY_POINTS = Task(samples=100_000, batch_size=100_000)
SCALING = {
    "width": {n: Task((2, n, n, n, 2), 100, 100, lr=1e-3) for n in (25, 64, 128, 256, 512, 1024, 2048, 4096)},
    "batch size": {n: Task(batch_size=n, samples=n) for n in (1, 3, 10, 30, 100, 300, 1000, 3000, 10_000)},
    "hidden layers": {n: Task((2, *[25] * n, 2), lr=1e-3) for n in (1, 2, 3, 5, 10, 20, 50, 100)},
}
VISIBLE = 2.0
"""MB: where PyTorch's own peak is smaller, the pages that libraries happen to touch hide that of the tensors."""


# Time


def take_turns(runs: dict[str, tuple[Run, int]], rounds: int, seconds: float = float("inf")) -> dict[str, list[float]]:
    """Let every run train for its number of epochs in turn; return the seconds per epoch of every round.

    Args:
        runs: name -> run and the number of epochs of a turn.
        rounds: at most this many; none begins after `seconds`, but there are at least three.
    """
    for run, epochs in runs.values():
        run(epochs)  # whatever compiles does so here, outside the time of the first round
    times, names, start = {name: [] for name in runs}, list(runs), time.perf_counter()
    for number in range(rounds):
        if number >= 3 and time.perf_counter() - start > seconds:
            break
        first = number % len(names)
        for name in names[first:] + names[:first]:
            run, epochs = runs[name]
            run(epochs)
            before = time.perf_counter()
            run(epochs)
            times[name].append((time.perf_counter() - before) / epochs)
    return times


def quartiles(values: Iterable[float]) -> dict[str, float]:
    """Return median and quartiles."""
    q1, median, q3 = statistics.quantiles(values, n=4, method="inclusive")
    return {"median": median, "q1": q1, "q3": q3}


def ratio(times: dict[str, list[float]], name: str, baseline: str, factor: float = 1.0) -> dict[str, float]:
    """Return the quartiles of `name`'s time over `baseline`'s, round by round."""
    return quartiles(factor * own / other for own, other in zip(times[name], times[baseline]))


# Processes of their own: memory, and the time to the first result


def peak_memory(reset: bool = False) -> float:
    """Return the largest resident memory of this process so far, in MB; `reset` starts from now, if Linux allows."""
    try:
        if reset:
            Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")
        lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
        return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM"))
    except (OSError, StopIteration):
        import resource  # not on Windows

        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak / 2**20 if sys.platform == "darwin" else peak / 1024


def child(request: dict) -> dict[str, float]:
    """Import, build and train, in a process of its own; see `in_a_process`."""
    contender, task = CONTENDERS[request["row"]], Task(**request["task"])
    task = replace(task, sizes=tuple(task.sizes))
    for name in contender.imports:
        importlib.import_module(name)
    imported = time.time()
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)
    if request["warm"]:
        contender.build(Task())(2)
    before = peak_memory(reset=True)
    start = time.time()
    run = contender.build(task)
    first = request["epochs"] if contender.one_call else 1
    run(first)
    first_result = time.time()
    if first < request["epochs"]:
        run(request["epochs"] - first)
    return {
        "import_seconds": imported - request["time"],
        "first_result_seconds": first_result - request["time"],
        "run_seconds": time.time() - start,
        "peak_memory_mb": peak_memory() - before,
    }


def in_a_process(row: str, task: Task, epochs: int, warm: bool = False) -> dict[str, float]:
    """Train `row` from scratch in a new process.

    Args:
        warm: whether to measure the memory of the tensors alone: a small network is trained first, for what libraries
            load late, and tensors of 64 KB and more are given back to the system when they are freed, not kept for
            reuse (with the C library of Linux; elsewhere this makes no difference).

    Returns:
        import_seconds, first_result_seconds: from the start of the process until everything is imported, and until
            the first loss is known (of the first epoch, or of the whole run where that is one call);
        run_seconds: building and training, compiling included, imports not;
        peak_memory_mb: largest resident memory, less what was resident after the imports.

    Raises:
        RuntimeError: the process failed; the message ends with the last line that it wrote.
    """
    request = {"row": row, "task": asdict(task), "epochs": epochs, "warm": warm, "time": time.time()}
    process = subprocess.run(
        [sys.executable, "-m", "benchmarks.speed", "--child", json.dumps(request)],
        capture_output=True,
        encoding="utf-8",
        env={**os.environ, **ENVIRONMENT, **({"MALLOC_MMAP_THRESHOLD_": str(2**16)} if warm else {})},
    )
    if process.returncode:
        said = process.stderr.strip().splitlines() or [f"exit status {process.returncode}"]
        raise RuntimeError(f"{row} failed in a process of its own: {said[-1]}")
    return json.loads(process.stdout.splitlines()[-1])


# Sections


def training(
    rows: Iterable[str], rounds: int, repeats: int, epochs: int = 100, task: Task | None = None, say: Callable = print
) -> tuple[list[dict], dict[str, list[float]]]:
    """Measure `rows` of `CONTENDERS`; return one dictionary per row, and the times per epoch.

    Args:
        repeats: of the processes of their own; 0 for none.
        epochs: of a whole run.
    """
    task = task or Task()
    runs, skipped = {}, {}
    for row in rows:
        if reason := CONTENDERS[row].missing(task.device):
            skipped[row] = reason
        else:
            say(f"preparing {row}")
            runs[row] = (CONTENDERS[row].build(CONTENDERS[row].own(task)), CONTENDERS[row].epochs)
    say(f"{len(runs)} rows, {rounds} rounds")
    times = take_turns({row: run for row, run in runs.items() if not CONTENDERS[row].slow}, rounds)
    table = []
    for row in rows:
        contender = CONTENDERS[row]
        entry = {"row": row, "title": contender.title, "baseline": contender.baseline, "skipped": skipped.get(row)}
        if row in runs:
            own, together = contender.own(task), times
            if contender.slow:
                together = take_turns({name: runs[name] for name in (contender.baseline, row) if name in runs}, 3)
            share = task.steps / own.steps / contender.networks
            entry["microseconds"] = quartiles(1e6 * share * value / task.steps for value in together[row])
            if contender.baseline in together:
                entry["ratio"] = ratio(together, row, contender.baseline, share)
            if repeats:
                say(f"{row} in a process of its own")
                once = contender.slow or row == "torch-compile"
                length = 1 if contender.slow else epochs
                measured = [in_a_process(row, own, length) for _ in range(1 if once else repeats)]
                entry |= {key: statistics.median(one[key] for one in measured) for key in measured[0]}
        table.append(entry)
    return table, times


def side_by_side(
    tasks: dict[object, Task],
    rounds: int,
    seconds: float,
    threads: int = 1,
    builds: dict[str, Callable] | None = None,
    memory: int = 1,
    say: Callable = print,
    kind: str = "sgd",
) -> list[dict]:
    """Measure diy beside PyTorch on each task; return one dictionary per task.

    Args:
        rounds, seconds: limits for each task, see `take_turns`.
        builds: what stands for "torch" and "diy"; by default the rows "torch-<kind>" and "diy-<kind>".
        memory: in how many processes of their own to measure it; shown is the median.
    """
    import torch

    builds = builds or {library: CONTENDERS[f"{library}-{kind}"].build for library in ("torch", "diy")}
    table, before = [], torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        for name, task in tasks.items():
            say(f"{name}, {threads} threads")
            times = take_turns({library: (build(task), 1) for library, build in builds.items()}, rounds, seconds)
            entry = {
                "name": name,
                "threads": threads,
                "rounds": len(times["diy"]),
                "torch_microseconds": quartiles(1e6 * value / task.steps for value in times["torch"]),
                "diy_microseconds": quartiles(1e6 * value / task.steps for value in times["diy"]),
                "ratio": ratio(times, "diy", "torch"),
            }
            if memory:
                for library in ("torch", "diy"):
                    measured = [in_a_process(f"{library}-{kind}", task, 3, True) for _ in range(memory)]
                    entry[f"{library}_peak_memory_mb"] = statistics.median(one["peak_memory_mb"] for one in measured)
            table.append(entry)
    finally:
        torch.set_num_threads(before)
    return table


# What is shown


def show(report: dict) -> str:
    """Return the tables of a report in Markdown."""

    def worded(value: dict | None, digits: int) -> str:
        return f"{value['median']:.{digits}f} [{value['q1']:.{digits}f}, {value['q3']:.{digits}f}]" if value else ""

    def table(*columns: str) -> list[str]:
        return ["", f"| {' | '.join(columns)} |", "|---" + "|---:" * (len(columns) - 1) + "|"]

    about = report["environment"]
    packages = ("python", "torch", "numpy", "jax", "tinygrad", "micrograd")
    versions = ", ".join(f"{name} {about[name]}" for name in packages if about.get(name))
    lines = [
        f"{about['processor']}, {about['cores']} cores, {about['system']}, {about['device']}; {versions}",
        f"medians [quartiles]; load when the run began: {about['load_before']}",
    ]
    if "training" in report:
        lines += table("training, one thread", "µs per step", "over its baseline", "memory, MB", "first result, s")
        for entry in report["training"]:
            title, kind = entry["title"], CONTENDERS[entry["baseline"]].title
            if entry["skipped"]:
                lines.append(f"| {title} | skipped: {entry['skipped']} | | | |")
                continue
            share = "" if entry["row"] == entry["baseline"] else f"{worded(entry.get('ratio'), 2)} of {kind}"
            memory, first = "", ""
            if "peak_memory_mb" in entry:
                memory, first = f"{entry['peak_memory_mb']:.0f}", f"{entry['first_result_seconds']:.1f}"
            lines.append(f"| {title} | {worded(entry['microseconds'], 0)} | {share} | {memory} | {first} |")
    if rows := [*report.get("large", []), *report.get("inference", []), *report.get("scaling", [])]:
        lines += table("diy over PyTorch", "threads", "time", "peak memory", "PyTorch's, MB")
        for entry in rows:
            memory = " | "
            if "torch_peak_memory_mb" in entry:
                own, other = entry["diy_peak_memory_mb"], entry["torch_peak_memory_mb"]
                memory = f"{own / other:.2f} | {other:.1f}" if other >= VISIBLE else f" | {other:.1f}"
            lines.append(f"| {entry['name']} | {entry['threads']} | {worded(entry['ratio'], 2)} | {memory} |")
    return "\n".join(lines)


def points(table: list[dict], width: float = 5.5):
    """Return a figure of the rows that train the report's network: µs per step and quartiles, on a logarithmic axis.

    The slow rows, which take thousands of times as long as the others, are left to the table.
    """
    from experiments import figures

    drawn = [row for row, contender in CONTENDERS.items() if not contender.slow and "lenet" not in row]
    rows = [entry for entry in table if "microseconds" in entry and entry["row"] in drawn][::-1]
    with figures.drawing(width, 0.6 + 0.22 * len(rows)) as (figure, axes):
        for entry in rows:
            time, own = entry["microseconds"], entry["row"].startswith("diy")
            colour = figures.INSIDE if own else "#5a5a5a"
            axes.plot([time["q1"], time["q3"]], [entry["title"]] * 2, color=colour, lw=3, alpha=0.4)
            axes.plot(time["median"], entry["title"], "s" if own else "o", color=colour, ms=5)
            share = f" ({entry['ratio']['median']:.2f})" if entry["row"] != entry["baseline"] else ""
            place = {"xytext": (6, 0), "textcoords": "offset points", "va": "center", "fontsize": "small"}
            axes.annotate(f"{time['median']:.0f}{share}", (time["q3"], entry["title"]), **place)
        axes.set(xscale="log", xlabel="µs per step (in brackets: over PyTorch)")
        axes.set_xlim(right=12 * max(entry["microseconds"]["median"] for entry in rows))
        axes.xaxis.set_major_formatter("{x:,.0f}")
        axes.grid(axis="y", visible=False)
        return figure


def curves(table: list[dict], width: float = 7.0):
    """Return a figure of diy's time and peak memory over PyTorch's, against width, batch size and depth."""
    from experiments import figures

    with figures.drawing(width, 2.6, columns=len(SCALING), sharey=True) as (figure, places):
        for axes, axis in zip(places, SCALING):
            rows = [entry for entry in table if entry["axis"] == axis]
            sizes, times = [entry["size"] for entry in rows], [entry["ratio"]["median"] for entry in rows]
            axes.axhline(1, color="black", lw=0.8)
            axes.plot(sizes, times, "o-", ms=3, color=figures.INSIDE, label="time")
            quartiles = ([entry["ratio"][key] for entry in rows] for key in ("q1", "q3"))
            axes.fill_between(sizes, *quartiles, color=figures.INSIDE, alpha=0.2, lw=0)
            if large := [entry for entry in rows if entry.get("torch_peak_memory_mb", 0) >= VISIBLE]:
                memory = [entry["diy_peak_memory_mb"] / entry["torch_peak_memory_mb"] for entry in large]
                drawn = [entry["size"] for entry in large]
                axes.plot(drawn, memory, "s--", ms=3, color=figures.OUTSIDE, label="peak memory")
            axes.set(xscale="log", xlabel=axis, ylim=(0, None))
            axes.xaxis.set_major_formatter("{x:,.0f}")
        figure.axes[0].set_ylabel("diy over PyTorch")
        figure.axes[0].legend()
        return figure


# One command


def machine(device: str) -> dict:
    """Describe processor, threads and versions."""
    from experiments import results

    versions = dict.fromkeys(("numpy", "jax", "tinygrad", "micrograd"))
    for package in versions:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[package] = importlib.metadata.version(package)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    load = round(os.getloadavg()[0], 2)
    return {**results.environment(device), **versions, "cores": cores, "load_before": load}


def measure(quick: bool = False, device: str = "cpu", say: Callable = print) -> dict:
    """Run the standard benchmark; return the report that goes to speed.json."""
    report = {"environment": machine(device), "rounds": 10 if quick else 60}
    repeats = 3 if device == "cpu" and not quick else 0
    rows = [row for row in CONTENDERS if "lenet" not in row and not (quick and row == "torch-compile")]
    report["training"], _ = training(rows, report["rounds"], repeats, task=Task(device=device), say=say)
    rows = [row for row in CONTENDERS if "lenet" in row]
    convolutional, _ = training(rows, report["rounds"] // 5, min(1, repeats), 3, Task(device=device), say)
    report["training"] += convolutional
    large = {name: replace(task, device=device) for name, task in LARGE.items()}
    threads = min(2, report["environment"]["cores"])
    seconds = 2 if quick else 6
    report["large"] = side_by_side(large, 300, seconds, threads, memory=repeats, say=say)
    lenet = {name: replace(task, device=device) for name, task in CONVOLUTIONAL.items()}
    report["large"] += side_by_side(lenet, 300, seconds, threads, memory=repeats, say=say, kind="lenet")
    many = {f"{MANY_POINTS.samples:,} points": replace(MANY_POINTS, device=device)}
    report["inference"] = side_by_side(many, 300, seconds, 1, INFERENCE, 0, say)
    return report


def scale(quick: bool = False, device: str = "cpu", say: Callable = print) -> dict:
    """Run the scaling study; return the report that goes to scaling.json."""
    report = {"environment": machine(device), "scaling": []}
    for axis, tasks in SCALING.items():
        named = {f"{axis} {size}": replace(task, device=device) for size, task in tasks.items()}
        table = side_by_side(named, 100, 0.5 if quick else 4, memory=int(device == "cpu"), say=say)
        report["scaling"] += [{"axis": axis, "size": size, **entry} for size, entry in zip(tasks, table)]
    return report


def main(arguments: list[str] | None = None) -> None:
    parser = Parser(PROG, __doc__)
    parser.add_argument("--quick", action="store_true", help="fewer rounds, no processes of their own, no files")
    parser.add_argument("--scaling", action="store_true", help="the scaling study instead of the standard benchmark")
    parser.add_argument("--show", action="store_true", help="the tables of the last run again, in Markdown")
    parser.add_argument("--device", default="cpu", help="of diy and PyTorch, for instance cuda")
    parser.add_argument("--output", type=Path, default=HERE, metavar="DIR", help="for JSON and figures (benchmarks)")
    parser.add_argument("--child", type=json.loads, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.child:
        print(json.dumps(child(options.child)))
        return

    import torch

    from experiments import figures
    from experiments import results as storage

    name, work, draw = ("scaling", scale, curves) if options.scaling else ("speed", measure, points)
    path = options.output / f"{name}.json"
    if options.show:
        try:
            print(show(storage.unsealed(path.read_bytes())))
        except (ValueError, LookupError) as error:
            raise CommandError(f"{path} is damaged, or not a file of this program") from error
        return
    parser.check_device(options.device)
    if not options.quick:
        parser.check_output(options.output)
    torch.set_num_threads(1)
    report = work(options.quick, options.device, lambda text: print(text, file=sys.stderr, flush=True))
    print(show(report))
    if not options.quick:
        storage.write_atomically(path, storage.sealed(report, indent=1))
        figures.save_figure(draw(report["scaling" if options.scaling else "training"]), options.output / name)


if __name__ == "__main__":
    os.environ.update(ENVIRONMENT)
    run_command(PROG, main, "nothing was written")
