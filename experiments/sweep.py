"""Sweep the learning rate: train the report's network on a grid of learning rate x reduction x rounds.

The networks of one reduction and one round differ in nothing but the learning rate: same data, same initial weights,
same order of the samples. They train together, as one stack of networks.
"""

from experiments.begin import begin_command

if __name__ == "__main__":
    begin_command("python -m experiments.sweep")

import argparse
import math
import os
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path

import torch

import diy
from experiments import circle
from experiments.circle import MOST, Protocol, build_network, check_number, data_sets, one_hot, one_thread, seeds
from experiments.commandline import PROTOCOL, Parser, progress, run_experiment
from experiments.parallel import compute
from experiments.results import Piece, Record, Store, environment, read
from experiments.words import counted, spread

PROG = "python -m experiments.sweep"

EXAMPLES = """examples:
  python -m experiments.sweep                                              20 learning rates, 2 reductions, 10 rounds
  python -m experiments.sweep --rates 7 --lowest 1e-4 --highest 1e-1 --rounds 3
  torchrun --standalone --nproc-per-node 2 -m experiments.sweep   the same on two processes
"""

FILE = "sweep.json"

SATURATED = 0.999
"""The derivative of Tanh is below 0.002 where its output is beyond ± this."""


@dataclass(frozen=True)
class Grid:
    """What a sweep covers. The protocol's lr is not used.

    Raises:
        ValueError: there is no learning rate or one is out of range, or a reduction is neither "mean" nor "sum".
    """

    protocol: Protocol = field(default_factory=lambda: Protocol(dropout=0.0))
    rates: tuple[float, ...] = tuple(1e-5 * 1e6 ** (index / 19) for index in range(20))
    reductions: tuple[str, ...] = ("mean", "sum")

    def __post_init__(self):
        object.__setattr__(self, "rates", tuple(self.rates))
        object.__setattr__(self, "reductions", tuple(self.reductions))
        if not self.rates:
            raise ValueError("rates must hold at least one learning rate")
        for rate in self.rates:
            check_number("each of the rates", rate)
        if not self.reductions or not set(self.reductions) <= {"mean", "sum"}:
            raise ValueError(f'reductions must be "mean" or "sum", got {list(self.reductions)}')


@dataclass
class Sweep:
    """What `run` returns.

    Attributes:
        runs: for each reduction its rounds, in order; each a record of `seconds` and, with one entry per learning
            rate, `loss` (mean squared error in the last epoch; None if not finite), `train_error`, `test_error`
            (fractions) and `diverged`.
    """

    grid: Grid
    environment: dict[str, str | int]
    runs: dict[str, list[Record]]


def train_together(grid: Grid, reduction: str, round: int) -> Record:
    """Train and test one network for every learning rate, all at once, on the data of `round` (from 0).

    Each network learns what `evaluation.run_round` would teach it with its learning rate, except that the masks of
    Dropout are drawn for all networks together. The Tanh at the end keeps the loss finite even where the weights run
    away: a network counts as diverged if it ends with an output that is not a number, or that is saturated on all
    training points, so that no gradient gets through any more.

    Returns:
        a record as in `Sweep.runs`.
    """
    protocol, networks = grid.protocol, len(grid.rates)
    data, weights, order, masks = seeds(protocol, round)
    (points, labels), test_set = data_sets(protocol, data)
    targets, rows = one_hot(labels), torch.Generator().manual_seed(order)
    with one_thread(), torch.random.fork_rng():
        torch.manual_seed(weights)
        network = build_network("diy", protocol.hidden, protocol.dropout or None)
        network = diy.stack([network] * networks)
        criterion = diy.MSELoss(reduction=reduction, stacked=True)
        optimizer = diy.SGD(network.parameters(), torch.tensor(grid.rates, dtype=torch.float64))

        def for_each(tensor: torch.Tensor) -> torch.Tensor:
            return tensor.expand(networks, *tensor.shape)  # one copy of the data serves all networks

        network.train()
        torch.manual_seed(masks)
        start = time.perf_counter()
        for _ in range(protocol.epochs):
            shuffled, total = torch.randperm(len(points), generator=rows), torch.zeros(networks)
            for batch in shuffled.split(protocol.batch_size):
                loss = criterion(network(for_each(points[batch])), for_each(targets[batch]))
                optimizer.zero_grad()
                network.backward(criterion.backward())
                optimizer.step()
                total += loss * (2 * len(batch) if reduction == "mean" else 1)
        seconds = time.perf_counter() - start
        with torch.inference_mode():
            outputs = [network.eval()(for_each(x)) for x in (points, test_set[0])]
        train_error, test_error = (
            (output.argmax(-1) != label).double().mean(-1) for output, label in zip(outputs, (labels, test_set[1]))
        )
        learning = (outputs[0].abs() < SATURATED).any(1).all(1)  # (R, N, 2) -> (R,), False for NaN as well
        return {
            "seconds": seconds,
            "loss": [loss if math.isfinite(loss) else None for loss in (total / targets.numel()).tolist()],
            "train_error": train_error.tolist(),
            "test_error": test_error.tolist(),
            "diverged": (~learning).tolist(),
        }


def run(
    grid: Grid | None = None,
    on_round: Callable[[str, int, Record], None] | None = None,
    directory: str | os.PathLike | None = None,
    resume: bool = False,
) -> Sweep | None:
    """Run the sweep; arguments and exceptions are those of `evaluation.run`.

    Args:
        on_round: called with reduction, round (from 0) and record, only on rank 0.

    Returns:
        the results; None on ranks other than 0.
    """
    sweep = Sweep(grid or Grid(), environment(), {})
    store = _store(directory, sweep.grid) if directory else None
    records = compute(_pieces(sweep.grid), partial(train_together, sweep.grid), store, resume, on_round)
    if records is None:
        return None
    for (reduction, _), record in records.items():
        sweep.runs.setdefault(reduction, []).append(record)
    return sweep


def save(sweep: Sweep, directory: str | os.PathLike) -> list[Path]:
    """Write `sweep.json` into `directory`, in one go, and return its path in a list; compare `evaluation.save`."""
    content = {**asdict(sweep.grid), "environment": sweep.environment, "runs": sweep.runs}
    return _store(directory, sweep.grid).finish(_pieces(sweep.grid), content)


def load(directory: str | os.PathLike) -> Sweep:
    """Read what `save` wrote.

    Raises:
        FileNotFoundError: there is no such file.
        ResultsError: it is damaged, or comes from another program or version.
    """

    def make(content: Record) -> Sweep:
        grid = Grid(Protocol(**content["protocol"]), content["rates"], content["reductions"])
        return Sweep(grid, content["environment"], content["runs"])

    return read(Path(directory) / FILE, make)


def _pieces(grid: Grid) -> list[Piece]:
    return [(reduction, round) for round in range(grid.protocol.rounds) for reduction in grid.reductions]


def _store(directory: str | os.PathLike, grid: Grid) -> Store:
    inputs = {**asdict(grid.protocol), "rates": grid.rates}
    return Store(directory, FILE, inputs, diy, circle, sys.modules[__name__])


def table(sweep: Sweep) -> str:
    """Return test errors in %, mean ± standard deviation over the rounds, and how many networks diverged."""
    grid = sweep.grid
    rounds = grid.protocol.rounds
    lines = [f"{'':>13}" + "".join(f"{f'reduction {r}':^34}" for r in grid.reductions)]
    lines.append(f"{'learning rate':>13}" + f"{'test error %':>20}{'diverged':>14}" * len(grid.reductions))
    for index, rate in enumerate(grid.rates):
        line = f"{rate:>13.2e}"
        for reduction in grid.reductions:
            errors = [100 * run["test_error"][index] for run in sweep.runs[reduction]]
            diverged = sum(run["diverged"][index] for run in sweep.runs[reduction])
            line += f"{spread(errors, 2):>20}{f'{diverged} of {rounds}':>14}"
        lines.append(line)
    lines.append(f"mean ± std over {counted(rounds, 'round')}; diverged networks count with the error they end with")
    return "\n".join(lines)


def parse(arguments: list[str] | None) -> tuple[argparse.Namespace, Grid]:
    """Read and check all arguments, before anything is trained."""
    default = Grid()
    parser = Parser(PROG, __doc__, EXAMPLES)
    texts = {name: text for name, text in PROTOCOL.items() if name != "lr"}
    parser.add_protocol("protocol (default: the report's)", default.protocol, texts)
    group = parser.add_output("results/sweep")
    group.add_argument("--rates", type=int, default=20, metavar="N", help="number of learning rates (%(default)s)")
    group.add_argument("--lowest", type=float, default=1e-5, metavar="X", help="lowest learning rate (%(default)s)")
    group.add_argument("--highest", type=float, default=10.0, metavar="X", help="highest learning rate (%(default)s)")
    group.add_argument(
        "--reductions", nargs="+", choices=["mean", "sum"], default=["mean", "sum"], help="of the loss (both)"
    )
    options = parser.parse_args(arguments)
    if not 1 <= options.rates <= MOST:
        parser.error(f"argument --rates: must be from 1 to {MOST:,}, got {options.rates:,}")
    if not 0 < options.lowest <= options.highest < math.inf:
        parser.error(f"--lowest and --highest need 0 < lowest <= highest, got {options.lowest} and {options.highest}")
    ratio = options.highest / options.lowest
    if ratio == math.inf:
        parser.error(f"highest / lowest is too large a number, got {options.highest} and {options.lowest}")
    rates = [options.lowest * ratio ** (index / max(1, options.rates - 1)) for index in range(options.rates)]
    protocol = parser.protocol(options, default.protocol)
    try:
        grid = Grid(protocol, rates, dict.fromkeys(options.reductions))
    except ValueError as error:
        parser.error(str(error))
    parser.check_output(options.output)
    return options, grid


def main(arguments: list[str] | None = None, rank: int = 0) -> int:
    options, grid = parse(arguments)
    networks = len(grid.rates) * len(grid.reductions) * grid.protocol.rounds
    start = time.perf_counter()
    with progress(networks, "networks", options.quiet or rank != 0) as bar:
        sweep = run(grid, lambda *_: bar.update(len(grid.rates)), options.output, options.resume)
    if sweep is None:  # another rank prints and writes
        return 0
    written = save(sweep, options.output)
    print(table(sweep))
    if not options.no_figures:
        from experiments import figures  # plotting takes seconds to import

        written += figures.save_figure(figures.learning_rates(sweep), options.output / "sweep")
    if not options.quiet:
        print(f"\n{counted(networks, 'network')} in {time.perf_counter() - start:.1f} s")
        print("written: " + " ".join(map(str, written)))
    return 0


if __name__ == "__main__":
    run_experiment(PROG, main)
