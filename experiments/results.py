"""Results on disk: a file for each finished round, which outlives an interrupted run, and one for the whole run.

Every file is whole or absent and carries a checksum of itself: a file that is not what was written is refused.
"""

import errno
import hashlib
import json
import os
import platform
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from experiments.commandline import CommandError

VERSION = 2
SEAL = '"checksum": "{}"'
Record = dict[str, Any]
"""What a round yields, in the types of JSON."""

Piece = tuple[str, int]
"""A piece of work: what is trained, and in which round (from 0)."""


class ResultsError(CommandError, ValueError):
    """A file of results is damaged, or comes from another program or version."""

    code = 2


class Store:
    """The results of one program in a directory: finished rounds in `rounds`, and one file for the last whole run.

    The name of a round's file holds a hash of all that its numbers depend on. Runs that share a directory therefore
    neither mix nor destroy each other's rounds, and each finds its own again.

    Args:
        directory: created if needed.
        file: the name of the file for the whole run.
        inputs: what the numbers of a round depend on, besides its name and PyTorch, in the types of JSON. How many
            "rounds" there are does not count: one more leaves the others as they are.
        sources: the modules that compute them.

    Raises:
        ResultsError: the file is there already, but is damaged, or not this program's.
    """

    def __init__(self, directory: str | os.PathLike, file: str, inputs: Record, *sources: ModuleType):
        self.file, self.rounds = Path(directory) / file, Path(directory) / "rounds"
        inputs = {name: value for name, value in inputs.items() if name != "rounds"}
        code = [digest(Path(source.__file__).read_bytes()) for source in sources]
        self.key = digest(json.dumps([inputs, torch.__version__, code], sort_keys=True).encode())[:16]
        if self.file.exists():
            read(self.file)
        if os.path.lexists(self.rounds) and not self.rounds.is_dir():  # also a link that leads nowhere
            raise ResultsError(f"{self.rounds} is no folder, but one is needed there: rename or remove it")

    def path(self, piece: Piece) -> Path:
        """Return where the record of a round is kept."""
        return self.rounds / f"{piece[0]}-{piece[1]}-{self.key}.json"

    def save(self, piece: Piece, record: Record) -> None:
        """Keep the record of a round."""
        self.rounds.mkdir(parents=True, exist_ok=True)
        path = self.path(piece)
        write_atomically(path, sealed({"round": path.stem, "record": record}))

    def load(self, piece: Piece) -> Record | None:
        """Return the record of a round; None if it is not finished.

        Raises:
            ResultsError: its file is damaged.
        """
        path = self.path(piece)
        with reading(path):
            try:
                content = unsealed(path.read_bytes())
            except FileNotFoundError:
                return None
            if content["round"] != path.stem:
                raise ValueError(f"it holds {content['round']}")
            return content["record"]

    def finish(self, pieces: Iterable[Piece], content: Record) -> list[Path]:
        """Write the file for the whole run, of these rounds; return its path in a list.

        A file of another run there is renamed first.
        """
        run = digest(json.dumps([self.key, *pieces]).encode())
        if self.file.exists() and read(self.file)["run"] != run:
            earlier = self.file.with_name(f"{self.file.stem}-{digest(self.file.read_bytes())[:8]}.json")
            self.file.replace(earlier)
            print(f"the results of another run are now {earlier}", file=sys.stderr)
        self.file.parent.mkdir(parents=True, exist_ok=True)
        head = {"file": self.file.name, "version": VERSION, "run": run}
        write_atomically(self.file, sealed({**head, **content}, indent=1))
        return [self.file]


def read(path: Path, make: Callable[[Record], Any] = dict) -> Any:
    """Return what `make` makes of that which `Store.finish` has written to `path`.

    Raises:
        FileNotFoundError: there is no such file.
        ResultsError: it is damaged, or comes from another program or version.
    """
    with reading(path):
        content = unsealed(path.read_bytes())
        if content["version"] != VERSION:
            raise ValueError(f"it has version {content['version']}, expected {VERSION}")
        if not path.name.startswith(Path(content["file"]).stem):
            raise ValueError(f"it was written as {content['file']}")
        return make(content)


def sealed(content: Record, indent: int | None = None) -> bytes:
    """Return a record as JSON that holds a checksum of its own text."""
    text = json.dumps({**content, "checksum": ""}, indent=indent) + "\n"
    return text.replace(SEAL.format(""), SEAL.format(digest(text.encode()))).encode()


def unsealed(content: bytes) -> Record:
    """Return the record that `sealed` has written.

    Raises:
        ValueError: it is not JSON, or has changed since, if only by a bit.
    """
    text = content.decode()
    record = json.loads(text)
    if not isinstance(record, dict):
        raise ValueError("it holds no record")
    seal = SEAL.format(record.pop("checksum", ""))
    if text.count(seal) != 1 or SEAL.format(digest(text.replace(seal, SEAL.format("")).encode())) != seal:
        raise ValueError("it is not what was written: the checksum differs")
    return record


def digest(content: bytes) -> str:
    """Return the SHA-256 of some bytes, in hexadecimal digits."""
    return hashlib.sha256(content).hexdigest()


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn whatever goes wrong inside, except that a file is missing, into a ResultsError that names `path`."""
    try:
        if path.exists() and not path.is_file():  # reading a pipe or a device may never end
            raise OSError("it is a folder, a pipe or a device")
        yield
    except (FileNotFoundError, ResultsError):
        raise
    except Exception as error:
        raise ResultsError(
            f"{path} is damaged, or not a file of this program ({type(error).__name__}: {error}): "
            "choose another directory, or remove this file"
        ) from error


def write_atomically(path: str | os.PathLike, content: bytes) -> None:
    """Replace the file `path`, or the one that a link of that name leads to, in one go: it is never seen half written.

    Raises:
        OSError: the disk is full, the directory cannot be written to, `path` is a device or a folder, ...; what was
            there is still there, as it was.
    """
    path = Path(os.path.realpath(path))
    if path.exists() and not path.is_file():
        raise OSError(errno.EINVAL, "it is not a regular file, and must not be replaced by one", str(path))
    try:
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    except OSError as error:  # it names the file beside the one that was asked for
        raise OSError(error.errno, error.strerror, str(path)) from None
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(name, 0o644)
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def environment(device: torch.device | str = "cpu") -> dict[str, str | int]:
    """Describe the hardware and the versions that timings depend on."""
    device = torch.device(device)
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "system": platform.system(),
        "processor": _processor(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else str(device),
        "threads": 1,
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
