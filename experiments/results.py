"""Results on disk that are whole or absent, and finished pieces of work that outlive an interrupted run."""

import errno
import hashlib
import json
import os
import platform
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from itertools import chain
from pathlib import Path
from typing import Any

import torch

SEAL = '"checksum": "{}"'
Record = dict[str, Any]
"""What a piece of work gives, as JSON knows it."""


class ResultsError(ValueError):
    """Files of results are damaged, of another program or version, or of another run than wanted."""


class Store:
    """The directory of a run: the pieces that are finished, in `unfinished`, and at the end the results.

    Args:
        directory: made if needed.
        header: what tells one run from another (program, version, protocol, ...), as JSON knows it.
        files: names of the files of the results, the one that is written last first.
        read: takes the directory and returns header and records (by name) of the results there; raises ResultsError
            if they are damaged or none of this program.
        check: takes the name and the record of a piece of this run, and raises whatever it likes if they do not fit.
    """

    def __init__(
        self,
        directory: str | os.PathLike,
        header: Record,
        files: tuple[str, ...],
        read: Callable[[Path], tuple[Record, dict[str, Record]]],
        check: Callable[[str, Record], object],
    ):
        self.directory, self.header, self.files = Path(directory), _plain(header), files
        self.read, self.check = read, check
        self.unfinished = self.directory / "unfinished"

    def save(self, name: str, record: Record) -> None:
        """Keep the record of the piece `name`."""
        self.unfinished.mkdir(parents=True, exist_ok=True)
        write_atomically(self.unfinished / f"{name}.json", sealed({"header": self.header, "record": record}))

    def load(self) -> dict[str, Record]:
        """Return the records of this run that are finished, from its pieces and its results.

        Raises:
            ResultsError: a file is damaged, none of this program, or of another run; the message says which and how.
        """
        records = {}
        for path, header, found in self._found():
            if differences := difference(header, self.header):
                arguments = [
                    part for part in differences.split(", ") if not part.startswith(("torch ", "environment."))
                ]
                way = (
                    "repeat the arguments of that run" if arguments else "go on with it in the environment of that run"
                )
                raise ResultsError(f"{path} belongs to another run ({differences}): {way}, or choose another directory")
            records |= found
        return records

    def set_aside(self) -> None:
        """Move pieces and results of another run, if there are any, into a new directory `earlier-N`, and say so.

        Raises:
            ResultsError: a file is damaged, or none of this program: nothing was moved.
        """
        if not any(difference(header, self.header) for _, header, _ in self._found()):
            return
        number = 1
        while (earlier := self.directory / f"earlier-{number}").exists():
            number += 1
        earlier.mkdir()
        for path in (*(self.directory / name for name in self.files), self.unfinished):
            if path.exists():
                path.rename(earlier / path.name)
        print(f"results of another run were moved to {earlier}", file=sys.stderr)

    def finish(self, contents: dict[str, bytes]) -> list[Path]:
        """Write the files of the results, name -> content, then remove the pieces; return the paths.

        What another run has left there in the meantime is set aside.
        """
        self.directory.mkdir(parents=True, exist_ok=True)
        self.set_aside()
        for name in reversed(self.files):
            write_atomically(self.directory / name, contents[name])
        remains = [self.unfinished.glob("*.json"), self.unfinished.glob(".*.json.*")]
        for path in chain(*remains, *(self.directory.glob(f".{name}.*") for name in self.files)):
            path.unlink(missing_ok=True)
        if self.unfinished.is_dir() and not any(self.unfinished.iterdir()):
            self.unfinished.rmdir()
        return [self.directory / name for name in self.files]

    def _found(self) -> list[tuple[Path, Record, dict[str, Record]]]:
        found = []
        if self.unfinished.exists() and not self.unfinished.is_dir():
            raise ResultsError(f"{self.unfinished} is a file where a folder is needed: rename it, or remove it")
        pieces = [path for path in sorted(self.unfinished.glob("*.json")) if not path.name.startswith(".")]
        results = self.directory / self.files[0]
        if results.exists():
            header, records = self.read(self.directory)
            found.append((results, _plain(header), records))
        # Without pieces, no interrupted write can have left the other files.
        elif not pieces and (alone := [name for name in self.files if (self.directory / name).exists()]):
            with reading(self.directory / alone[0]):
                raise ValueError(f"{results.name} is missing beside it")
        for path in pieces:
            with suppress(FileNotFoundError), reading(path):  # another run of the same may just have finished with it
                content = unsealed(path.read_bytes())
                found.append((path, dict(content["header"]), {path.stem: content["record"]}))
        for path, header, records in found:
            for name, record in records.items() if not difference(header, self.header) else ():
                with reading(path):
                    self.check(name, record)
        return found


def sealed(content: Record, indent: int | None = None) -> bytes:
    """Return a record as JSON, with a checksum of the text itself in it."""
    text = json.dumps({**content, "checksum": ""}, indent=indent) + "\n"
    return text.replace(SEAL.format(""), SEAL.format(_digest(text))).encode()


def unsealed(content: bytes) -> Record:
    """Return the record that `sealed` has written.

    Raises:
        ValueError: it is no JSON, or a bit of it has changed since.
    """
    text = content.decode()
    record = json.loads(text)
    digest = record.pop("checksum", "")
    if text.count(SEAL.format(digest)) != 1 or _digest(text.replace(SEAL.format(digest), SEAL.format(""))) != digest:
        raise ValueError("it is not what was written: the checksum differs")
    return record


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn whatever goes wrong inside, except that a file is missing, into a ResultsError that names `path`."""
    try:
        yield
    except (FileNotFoundError, ResultsError):
        raise
    except Exception as error:
        raise ResultsError(
            f"{path} is damaged, or no file of this program ({type(error).__name__}: {error}): "
            "choose another directory, or remove it"
        ) from error


def write_atomically(path: str | os.PathLike, content: bytes) -> None:
    """Replace the file `path`, or the one that a link of that name leads to, at once: it is never seen half written.

    Raises:
        OSError: the disk is full, the directory cannot be written to, `path` is a device or a folder, ...; what was
            there is there still, as it was.
    """
    path = Path(os.path.realpath(path))
    if path.exists() and not path.is_file():
        raise OSError(errno.EINVAL, "it is no file, and must not be replaced by one", str(path))
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
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


def difference(there: Any, here: Any, name: str = "") -> str:
    """Say where two nested dictionaries differ: "protocol.rounds is 10 there and 3 here"; "" if nowhere."""
    if isinstance(there, dict) and isinstance(here, dict):
        keys = dict.fromkeys([*here, *there])
        parts = (difference(there.get(key), here.get(key), f"{name}.{key}".lstrip(".")) for key in keys)
        return ", ".join(part for part in parts if part)
    return "" if there == here else f"{name or 'the header'} is {there} there and {here} here"


def _plain(header: Record) -> Record:
    return json.loads(json.dumps(header))  # as it will be read back: tuples become lists


def environment(device: torch.device | str = "cpu") -> dict[str, str | int]:
    """Describe hardware and versions, as far as timings depend on them."""
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
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
