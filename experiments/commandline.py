"""What the commands of this project share: arguments of the protocol, checks before training, exit codes.

It is the first import of a command and loads nothing heavy, so that `quit_on_interrupt` covers the loading of PyTorch.
"""

import argparse
import os
import signal
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

# Libraries read these from the environment, and fail if one is not a number.
os.environ.pop("SOURCE_DATE_EPOCH", None)
try:
    import tqdm  # noqa: F401
except ValueError:
    for name in [name for name in os.environ if name.startswith("TQDM_")]:
        del os.environ[name]

if TYPE_CHECKING:
    from experiments.circle import Protocol

PROTOCOL = {
    "rounds": (int, "independent rounds, each with new data and weights"),
    "epochs": (int, "passes over the training data"),
    "batch_size": (int, "samples in a mini-batch"),
    "lr": (float, "learning rate"),
    "train_size": (int, "training points"),
    "test_size": (int, "test points"),
    "dropout": (float, "probability of zeroing, for the models with dropout"),
    "seed": (int, "seed of everything that is random"),
}


class Parser(argparse.ArgumentParser):
    """Reports a wrong argument in one line, with exit code 2."""

    def __init__(self, prog: str, description: str, epilog: str):
        layout = argparse.RawDescriptionHelpFormatter
        super().__init__(prog, description=description, epilog=epilog, formatter_class=layout, allow_abbrev=False)

    def error(self, message: str):
        self.exit(2, f"{self.prog}: {message} (see {self.prog} --help)\n")

    def add_protocol(self, default: "Protocol", without: tuple[str, ...] = ()) -> None:
        """Add an argument for each value of the protocol, except those named in `without`."""
        group = self.add_argument_group("protocol (default: the report's)")
        for name, (kind, text) in PROTOCOL.items():
            if name not in without:
                group.add_argument(
                    f"--{name.replace('_', '-')}",
                    type=kind,
                    default=getattr(default, name),
                    metavar="N" if kind is int else "X",
                    help=f"{text} (%(default)s)",
                )
        hidden = " ".join(map(str, default.hidden))
        group.add_argument(
            "--hidden",
            type=int,
            nargs="*",
            default=default.hidden,
            metavar="N",
            help=f"widths of hidden layers ({hidden})",
        )

    def add_output(self, directory: str) -> argparse._ArgumentGroup:
        """Add the arguments that say where to write, whether to resume, and how much to print."""
        group = self.add_argument_group("what to run and where to write")
        group.add_argument(
            "--output", type=Path, default=Path(directory), metavar="DIR", help="created if needed (%(default)s)"
        )
        group.add_argument("--resume", action="store_true", help="continue what an interrupted run left in --output")
        group.add_argument("--quiet", action="store_true", help="print only the final table")
        return group

    def protocol(self, options: argparse.Namespace, default: "Protocol") -> "Protocol":
        """Return the protocol that the arguments describe, once it and the output directory have been checked."""
        try:
            protocol = type(default)(**{name: getattr(options, name, value) for name, value in vars(default).items()})
        except ValueError as error:
            self.error(str(error))
        try:
            options.output.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=options.output):
                pass
        except OSError as error:
            self.error(
                f"argument --output: cannot write to {options.output}: {error.strerror}; choose another directory"
            )
        return protocol


def quit_on_interrupt(prog: str) -> None:
    """Let Ctrl-C end the program with one line and exit code 130 from now on, until `run_command` takes over."""

    def quit(number, frame):
        os.write(2, f"{prog}: interrupted before it began\n".encode())
        os._exit(130)

    if signal.getsignal(signal.SIGINT) != signal.SIG_IGN:  # as in a background job of a shell
        signal.signal(signal.SIGINT, quit)


def run_command(prog: str, main: Callable[..., int], resumes: bool = True) -> None:
    """Call `main` with the rank of this process (0 when torchrun has not started it), and exit.

    The exit code is what `main` returns, 1 after an error in the run, 2 after a wrong argument, 130 after Ctrl-C, 141
    when the reader of the output has gone.

    Args:
        resumes: whether the command keeps finished rounds and has --resume.
    """
    from experiments.circle import DivergenceError
    from experiments.parallel import LostRankError, joined
    from experiments.results import ResultsError

    kept = "; finished rounds are kept, and --resume continues from there" if resumes else ""
    if signal.getsignal(signal.SIGINT) != signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    os.environ["MPLBACKEND"] = "agg"  # figures go to files, whatever else is asked for
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
    if sys.stdout is None:
        sys.exit(f"{prog}: standard output is closed: there is nowhere to print to")
    try:
        sys.stdout.reconfigure(encoding="utf-8", errors="surrogateescape", line_buffering=True)
        with joined() as rank:
            sys.exit(main(rank=rank))
    except DivergenceError as error:
        sys.exit(f"{prog}: {error}")
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, LostRankError):
            sys.exit(f"{prog}: {error}{kept}")
        if not isinstance(error, MemoryError) and "allocate" not in str(error):
            raise
        sys.exit(f"{prog}: there is not enough memory for this; make the data or the layers smaller")
    except ResultsError as error:
        print(f"{prog}: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # a second one must not break into the first one's line
        echo = "\n" if sys.stderr.isatty() else ""  # the terminal has written ^C
        print(f"{echo}{prog}: interrupted{kept}", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:
        # The reader has gone, as in `python test.py | head -1`; without this, the exit would try to flush to it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
    except OSError as error:
        where = f": {error.filename}" if error.filename else ""
        sys.exit(f"{prog}: {error.strerror or error}{where}{kept}")
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # all is said and written: let the interpreter end in peace
