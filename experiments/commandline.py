"""What the commands of this project share: arguments of the protocol, checks before training, exit codes."""

import argparse
import os
import signal
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")

PROTOCOL = {
    "rounds": "independent rounds, each with new data and weights",
    "epochs": "passes over the training data",
    "batch_size": "samples in a mini-batch",
    "lr": "learning rate",
    "train_size": "training points",
    "test_size": "test points",
    "dropout": "probability of zeroing, for the models with dropout",
    "seed": "seed of everything that is random",
    "hidden": "widths of hidden layers",
}
"""What `--help` says of the values of `circle.Protocol`."""


class CommandError(Exception):
    """A command cannot do what was asked; the message says why and what to do."""

    code = 1  # with which the command exits


class Parser(argparse.ArgumentParser):
    """Reports a wrong argument in one line, with exit code 2."""

    def __init__(self, prog: str, description: str, epilog: str | None = None):
        layout = argparse.RawDescriptionHelpFormatter
        super().__init__(prog, description=description, epilog=epilog, formatter_class=layout, allow_abbrev=False)

    def parse_args(self, arguments: list[str] | None = None) -> argparse.Namespace:
        for argument in sys.argv[1:] if arguments is None else arguments:
            if argument.startswith("--") and argument.endswith("=--"):  # Python before 3.13 makes an empty list of it
                self.error(f"argument {argument[:-3]}: expected one argument")
        return super().parse_args(arguments)

    def error(self, message: str):
        self.exit(2, f"{self.prog}: {message} (see {self.prog} --help)\n")

    def add_protocol(self, title: str, default, texts: dict[str, str]) -> None:
        """Add an argument for each value of a protocol that `texts` names, and what `--help` says of it."""
        group = self.add_argument_group(title)
        for name, text in texts.items():
            flag, value = f"--{name.replace('_', '-')}", getattr(default, name)
            if isinstance(value, bool):
                group.add_argument(flag, action="store_true", help=text)
                continue
            several = isinstance(value, tuple)
            kind = int if several else type(value)
            shown = " ".join(map(str, value)) if several else value
            group.add_argument(
                flag,
                type=kind,
                nargs="*" if several else None,
                default=value,
                metavar="N" if kind is int else "X",
                help=f"{text} ({shown})",
            )

    def add_output(self, directory: str) -> argparse._ArgumentGroup:
        """Add the arguments that say where to write, whether to resume, and how much to print and draw."""
        group = self.add_argument_group("what to run and where to write")
        group.add_argument(
            "--output", type=Path, default=Path(directory), metavar="DIR", help="created if needed (%(default)s)"
        )
        group.add_argument("--resume", action="store_true", help="continue what an interrupted run left in --output")
        group.add_argument("--quiet", action="store_true", help="print only the final table")
        group.add_argument("--no-figures", action="store_true", help="do not draw the figures")
        return group

    def protocol(self, options: argparse.Namespace, default: T) -> T:
        """Return the protocol that the arguments describe."""
        try:
            return type(default)(**{name: getattr(options, name, value) for name, value in vars(default).items()})
        except ValueError as error:
            self.error(str(error))

    def check_output(self, directory: Path, argument: str = "--output") -> None:
        """Make the output directory, and see that it can be written to. Call it last: it leaves a folder behind."""
        try:
            directory.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=directory):
                pass
        except OSError as error:
            self.error(f"argument {argument}: cannot write to {directory}: {error.strerror}; choose another directory")

    def check_device(self, device: str) -> None:
        """See that PyTorch computes on a device here."""
        import torch

        try:
            torch.zeros(1, device=device).item()
        except (RuntimeError, AssertionError, ImportError):
            others = "cpu or cuda" if torch.cuda.is_available() else "cpu"
            self.error(f"argument --device: PyTorch cannot use {device!r} on this machine; choose {others}")


def progress(total: int, unit: str, silent: bool):
    """Return a bar of tqdm, which shows on a terminal alone and is gone when all is done."""
    import tqdm

    return tqdm.tqdm(total=total, unit=f" {unit}", leave=False, dynamic_ncols=True, disable=silent or None)


def run_command(prog: str, main: Callable[[], int | None], kept: str = "nothing else was changed") -> None:
    """Call `main` and exit with the code that it returns, or with one line and no traceback.

    The exit code is 1 after an error, or that of a CommandError, 130 after Ctrl-C, 141 when the reader of the output
    has gone.

    Args:
        kept: ends the line about an interruption, or about a file that cannot be read or written.
    """
    interrupted = False

    def interrupt(number, frame):
        nonlocal interrupted
        interrupted = True
        raise KeyboardInterrupt

    def main_or_interrupt() -> int | None:
        # Some libraries turn an interruption into an error of another kind, or into a result.
        try:
            code = main()
        except BaseException:
            if interrupted:
                raise KeyboardInterrupt from None
            raise
        if interrupted and code:
            raise KeyboardInterrupt
        return code

    if signal.getsignal(signal.SIGINT) != signal.SIG_IGN:
        signal.signal(signal.SIGINT, interrupt)
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
    if sys.stdout is None:
        sys.exit(f"{prog}: standard output is closed: there is nowhere to print to")
    try:
        sys.stdout.reconfigure(encoding="utf-8", errors="surrogateescape", line_buffering=True)
        sys.exit(main_or_interrupt())
    except CommandError as error:
        print(f"{prog}: {error}", file=sys.stderr)
        sys.exit(error.code)
    except (MemoryError, RuntimeError) as error:
        if not isinstance(error, MemoryError) and "allocate" not in str(error):
            raise
        sys.exit(f"{prog}: there is not enough memory for this; make the data or the layers smaller")
    except KeyboardInterrupt:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # a second one must not break into the first one's line
        echo = "\n" if sys.stderr.isatty() else ""  # the terminal has written ^C
        print(f"{echo}{prog}: interrupted; {kept}", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:
        drop_output()
        sys.exit(141)
    except OSError as error:
        drop_output()
        where = f": {error.filename}" if error.filename else ""
        sys.exit(f"{prog}: {error.strerror or error}{where}; {kept}")
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # all is said and written: let the interpreter end in peace


def drop_output() -> None:
    """Send to nowhere what is still to be printed, to a reader that has gone or a full disk: the exit would retry."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def run_experiment(
    prog: str, main: Callable[..., int], kept: str = "finished rounds are kept, and --resume continues from there"
) -> None:
    """Do what `run_command` does, with a `main` that takes the rank of this process, 0 without torchrun."""
    from experiments.circle import DivergenceError
    from experiments.parallel import LostRankError, joined

    def on_this_rank() -> int:
        try:
            with joined() as rank:
                return main(rank=rank)
        except DivergenceError as error:
            raise CommandError(str(error)) from error
        except LostRankError as error:
            raise CommandError(f"{error}; {kept}") from error

    run_command(prog, on_this_rank, kept)
