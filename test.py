"""Run the evaluation of the report: generate the disk data, train the models, print their train and test errors."""

from experiments.begin import begin_command

if __name__ == "__main__":
    begin_command("test.py")

import argparse
import itertools

from tqdm import tqdm

from experiments import evaluation
from experiments.circle import MODELS, Protocol
from experiments.commandline import PROTOCOL, Parser, progress, run_experiment
from experiments.evaluation import REPORT_2019, Results
from experiments.words import counted, spread

EXAMPLES = """examples:
  python test.py                               everything: 10 rounds of all models, then the figures
  python test.py --rounds 1 --models diy-sgd   an answer in seconds
  python test.py --epochs 200 --hidden 50 50   another protocol
  python test.py --resume                      continue after an interruption
  torchrun --standalone --nproc-per-node 2 test.py    the rounds split over two processes
"""

WHY = """\
Why PyTorch's SGD needs a larger learning rate: its loss is the mean over {components} components (batch x outputs), so
that its gradient is {components} times smaller than that of the sum, which the mini-framework of 2019 descended, and
which PyTorch descends as well with reduction="sum" (see torch-sgd-sum, and notebooks/05_the_case.ipynb)."""


def parse(arguments: list[str] | None) -> tuple[argparse.Namespace, Protocol]:
    """Read and check all arguments, before anything is trained."""
    parser = Parser("test.py", __doc__, EXAMPLES)
    parser.add_protocol("protocol (default: the report's)", Protocol(), PROTOCOL)
    group = parser.add_output("results")
    group.add_argument(
        "--models",
        nargs="+",
        choices=list(MODELS),
        default=list(MODELS),
        metavar="NAME",
        help=f"from {', '.join(MODELS)} (all)",
    )
    group.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1, ... (%(default)s)")
    options = parser.parse_args(arguments)
    options.models = list(dict.fromkeys(options.models))
    parser.check_device(options.device)
    protocol = parser.protocol(options, Protocol())
    parser.check_output(options.output)
    return options, protocol


def main(arguments: list[str] | None = None, rank: int = 0) -> int:
    options, protocol = parse(arguments)
    silent = options.quiet or rank != 0
    say = (lambda text: None) if silent else tqdm.write
    say(describe(protocol, options))
    total = protocol.rounds * len(options.models) * protocol.epochs
    with progress(total, "epochs", silent) as bar:
        finished = itertools.count(1)

        def on_epoch(model: str, round: int, epoch: int, loss: float) -> None:
            bar.set_description(f"round {round + 1} {model}", refresh=False)
            bar.set_postfix_str(f"loss {loss:.4f}", refresh=False)
            bar.update()

        def on_round(model: str, round: int, record: evaluation.Round) -> None:
            losses = "".join(f"{record.loss[epoch - 1]:>9.4f}" for epoch in milestones(protocol))
            errors = f"{record.train_error:>9.2%}{record.test_error:>9.2%}"
            bar.n = next(finished) * protocol.epochs  # rounds that were resumed or run elsewhere count as well
            say(f"{round + 1:>5}  {model:<14}{losses}{errors}{record.seconds:>8.2f} s")

        results = evaluation.run(
            protocol, options.models, options.device, on_epoch, on_round, options.output, options.resume
        )
    if results is None:  # another rank prints and writes
        return 0
    written = evaluation.save(results, options.output)
    print(table(results))
    if {"torch-sgd", "torch-sgd-sum"} & set(options.models):
        say("\n" + WHY.format(components=2 * min(protocol.batch_size, protocol.train_size)))
    if not options.no_figures:
        from experiments import figures  # plotting takes seconds to import

        written += figures.save_all(results, options.output)
    say("\nwritten: " + " ".join(map(str, written)))
    return 0


def describe(protocol: Protocol, options: argparse.Namespace) -> str:
    losses = "".join(f"{f'ep. {epoch}':>9}" for epoch in milestones(protocol))
    tuned = " (diy-tuned: its own recipe)" if "diy-tuned" in options.models else ""
    return (
        f"{counted(protocol.rounds, 'round')} of {', '.join(options.models)}\n"
        f"{protocol.train_size} training and {protocol.test_size} test points, "
        f"{counted(protocol.epochs, 'epoch')} in batches of {protocol.batch_size}, "
        f"learning rate {protocol.lr:g}{tuned},\n"
        f"hidden layers {' '.join(map(str, protocol.hidden)) or 'none'}, dropout {protocol.dropout:g}, "
        f"seed {protocol.seed}, device {options.device}\n\n"
        f"round  {'mean loss after':<14}{losses}{'train':>9}{'test':>9}{'time':>10}"
    )


def milestones(protocol: Protocol) -> list[int]:
    """Return the epochs whose loss is printed: the first, the last and three between."""
    return sorted({max(1, round(protocol.epochs * quarter / 4)) for quarter in range(5)})


def table(results: Results) -> str:
    """Return mean ± standard deviation over the rounds for each model, and what the report found in 2019."""
    rows = [
        f"\n{'':<14}{'':^8}{'--- here: mean ± std ---':^58}{'- 2019: median -':>27}",
        f"{'model':<14}{'descends':^10}{'train loss':>15}{'train error %':>15}{'test error %':>15}{'time s':>14}"
        f"{'loss':>8}{'test %':>8}{'time s':>8}",
    ]
    for name, rounds in results.models.items():
        measured = [
            f"{spread([r.loss[-1] for r in rounds], 4):>15}",
            f"{spread([100 * r.train_error for r in rounds], 2):>15}",
            f"{spread([100 * r.test_error for r in rounds], 2):>15}",
            f"{spread([r.seconds for r in rounds], 2):>14}",
        ]
        past = "".join(f"{'-':>8}" for _ in range(3))
        if name in REPORT_2019:
            loss, test, seconds = (REPORT_2019[name][key] for key in ("loss", "test_error", "seconds"))
            past = f"{loss:>8.3f}{100 * test:>8.1f}{seconds:>8.1f}"
        rows.append(f"{name:<14}{MODELS[name].reduction:^10}{''.join(measured)}{past}")
    rows.append(f"{counted(results.protocol.rounds, 'round')} here; 2019: 10 rounds, read off the report's figures")
    return "\n".join(rows)


if __name__ == "__main__":
    run_experiment("test.py", main)
