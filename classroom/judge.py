"""Judge one submission: ask it for numbers, in another process, and let the items judge them.

The process that runs the submission knows no answers; this one runs none of its code.
"""

import ast
import contextlib
import functools
import hashlib
import json
import os
import queue
import re
import secrets
import signal
import subprocess
import symtable
import sys
import textwrap
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from classroom.reasons import StoppedError, TodoError, WrongError
from classroom.stages import DEFINITION
from classroom.worker import decode, encode

IMAGE = os.environ.get("CLASSROOM_IMAGE", "classroom")
"""The image of the sandbox "docker": Python with PyTorch; classroom/gradescope/Dockerfile makes one."""

ITEM_SECONDS, SUBMISSION_SECONDS, GIGABYTES = 5.0, 60.0, 2.0


ENDED = "your code ended the process that ran it, or took more memory than it is allowed"


class SandboxError(Exception):
    """No submission can run here; the message says why."""


# The process of the submissions


def sandboxed(kind: str) -> list[str]:
    """Return the command of a worker: in bubblewrap, in a container, as another user, or without any sandbox.

    In bubblewrap and in a container it is another user, has no network, and sees nothing of this machine but its own
    processes and, read-only, the interpreter and its packages.
    """
    worker = Path(__file__).with_name("worker.py")
    if kind == "none":
        return [sys.executable, "-I", str(worker)]
    if kind == "user":  # as nobody, who may not be allowed to read this folder
        command = ["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups", "--no-new-privs"]
        return [*command, sys.executable, "-I", "-c", worker.read_text(encoding="utf-8")]
    if kind == "docker":
        command = ["docker", "run", "--rm", "--interactive", "--network", "none", "--read-only"]
        command += ["--user", "65534:65534", "--cap-drop", "ALL", "--security-opt", "no-new-privileges"]
        command += ["--pids-limit", "64", "--cpus", "1"]
        command += ["--memory", f"{int(2 * GIGABYTES)}g", "--memory-swap", f"{int(2 * GIGABYTES)}g"]
        command += ["--env", "OMP_NUM_THREADS=1", "--volume", f"{worker}:/worker.py:ro", IMAGE]
        return [*command, "python", "-I", "/worker.py"]
    # Not all of sys.path: there a teacher's own diy.py may lie.
    places = {Path(p).resolve() for p in (sys.prefix, sys.base_prefix, Path(torch.__file__).parents[1])}
    command = ["bwrap", "--unshare-all", "--die-with-parent", "--new-session", "--uid", "65534", "--gid", "65534"]
    command += ["--clearenv", "--setenv", "OMP_NUM_THREADS", "1", "--setenv", "HOME", "/tmp", "--proc", "/proc"]
    # No programs: PyTorch for CUDA would ask a compiler where its libraries are, which needs a folder to write to.
    command += ["--setenv", "PATH", ""]
    command += ["--dev", "/dev", "--size", str(2**24), "--tmpfs", "/tmp", "--chdir", "/tmp"]
    for system in ("/usr", "/lib", "/lib64", "/bin", "/etc/ld.so.cache"):
        command += ["--ro-bind-try", system, system]
    for place in sorted(places):
        if not place.is_relative_to("/usr"):
            command += ["--ro-bind", str(place), str(place)]
    command += ["--ro-bind", str(worker), "/tmp/worker.py"]
    for written in ("/tmp", "/dev", "/"):  # names of files and links can hold messages, too
        command += ["--remount-ro", written]
    python = Path(sys.executable)  # whose own link must stay: it tells Python its environment
    return [*command, str(python.parent.resolve() / python.name), "-I", "/tmp/worker.py"]


class Worker:
    """A process in which submissions run, one after the other; it is started again if one has spoilt it."""

    def __init__(self, sandbox: str = "none", gigabytes: float = GIGABYTES):
        self.sandbox, self.gigabytes, self.process, self.number = sandbox, gigabytes, None, 0

    def begin(self) -> None:
        """Get ready for a submission, in a fresh fork; a process that the last one has spoilt is replaced."""
        if self.process is not None:
            with contextlib.suppress(OSError, StoppedError):
                return self._fork()
            self.stop()
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        self.process = subprocess.Popen(
            sandboxed(self.sandbox), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            env=environment, start_new_session=True,
        )  # fmt: skip
        self.replies, self.said, self.begun, self.heard = b"", b"", 0, queue.Queue()
        for stream in (self.process.stdout, self.process.stderr):
            threading.Thread(target=_hear, args=(stream, self.heard), daemon=True).start()
        try:
            self.receive(120, "ready")
            self._fork()
        except (OSError, StoppedError):
            self.stop()
            time.sleep(0.1)  # what it said last may still be on its way
            self.said += b"".join(read for _, read in [*self.heard.queue])
            why = self.said.decode(errors="replace").strip().splitlines()[-1:] or ["it said nothing"]
            raise SandboxError(f"--sandbox {self.sandbox}: no submission can run: {why[0]}") from None

    def _fork(self) -> None:
        """Begin a submission. What the last one may have left in the pipe does not know this one's token."""
        self.begun += 1
        limits = {"gigabytes": self.gigabytes, "seconds": 2 * int(SUBMISSION_SECONDS), "alone": self.sandbox != "none"}
        token = secrets.token_hex()
        self.send({**limits, "token": token})
        if self.receive(30, "begun")["begun"] != token:
            raise StoppedError(ENDED)

    def end(self) -> None:
        """End the submission, and drop what it has written that nobody asked for."""
        if self.process is None:
            return
        end = time.monotonic() + 30
        with contextlib.suppress(OSError, StoppedError):
            self.send({"end": True})
            while not self.over and time.monotonic() < end:
                self.listen(end)
        self.replies = b""
        if not self.over:
            self.stop()

    @property
    def over(self) -> bool:
        """Whether the submission has ended. A submission can forge replies, but not what the worker says on stderr."""
        return self.said.endswith(b"ended %d\n" % self.begun)

    def ask(self, request: dict[str, Any], seconds: float) -> dict[str, Any]:
        """Return the reply to a request.

        Raises:
            StoppedError: there is none in time, or not the reply to this request.
        """
        self.number += 1
        try:
            self.send({**request, "number": self.number})
            reply = self.receive(seconds, "number")
            if reply["number"] != self.number:
                raise StoppedError("your code sent a reply that nobody asked for")
        except (OSError, StoppedError) as error:
            self.stop()
            raise StoppedError(ENDED if isinstance(error, OSError) else str(error)) from None
        return reply

    def send(self, message: dict[str, Any]) -> None:
        self.process.stdin.write(json.dumps(message).encode() + b"\n")
        self.process.stdin.flush()

    def receive(self, seconds: float, key: str) -> dict[str, Any]:
        end, parts = time.monotonic() + seconds, [self.replies]
        while b"\n" not in parts[-1]:
            if time.monotonic() > end:
                raise StoppedError(f"no answer within {seconds:.0f} s: an endless loop, or too slow?")
            parts.append(self.listen(end))
            if self.over:
                raise StoppedError(ENDED)
            if sum(map(len, parts)) > 2**26:  # a right answer has less than 2 MB
                raise StoppedError("your code's answer is far too large")
        line, _, self.replies = b"".join(parts).partition(b"\n")
        try:
            reply = json.loads(line)
            if not isinstance(reply, dict) or key not in reply:
                raise ValueError
        except (ValueError, RecursionError):
            raise StoppedError("something other than an answer came back") from None
        return reply

    def listen(self, end: float) -> bytes:
        """Wait until something is written; return what came on stdout."""
        try:
            stream, read = self.heard.get(timeout=max(0, end - time.monotonic()))
        except queue.Empty:
            return b""
        if not read:
            raise StoppedError(ENDED)
        if stream is self.process.stdout:
            return read
        self.said = self.said[-999:] + read
        return b""

    def stop(self) -> None:
        if self.process is not None:
            if hasattr(os, "killpg"):
                os.killpg(self.process.pid, signal.SIGKILL)  # with the fork in which a submission may loop
            self.process.kill()
            self.process.wait()
            self.process = None


def _hear(stream: Any, heard: queue.Queue) -> None:
    """Pass on what is written: a thread for each pipe, because Windows cannot wait for two of them."""
    with contextlib.suppress(OSError, ValueError):
        while read := os.read(stream.fileno(), 2**16):
            heard.put((stream, read))
    heard.put((stream, b""))


# A submission


@dataclass
class Outcome:
    """What became of one item.

    Attributes:
        state: "right", "wrong", "todo" or "stopped".
    """

    stage: int
    what: str
    points: int
    got: int
    state: str
    reason: str = ""

    @classmethod
    def of(cls, item: Any, state: str, reason: str = "") -> "Outcome":
        return cls(item.stage, item.what, item.points, item.points * (state == "right"), state, reason)


@dataclass
class Grade:
    """Outcomes of all items, what the teacher should look at, and how long it took."""

    name: str
    outcomes: list[Outcome] = field(default_factory=list)
    flags: list[str] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def points(self) -> int:
        return sum(outcome.got for outcome in self.outcomes)

    @property
    def possible(self) -> int:
        return sum(outcome.points for outcome in self.outcomes)

    def by_stage(self) -> dict[int, list[Outcome]]:
        found: dict[int, list[Outcome]] = {}
        for outcome in self.outcomes:
            found.setdefault(outcome.stage, []).append(outcome)
        return found


def composite(reference: str, submission: str, owners: Sequence[str]) -> str:
    """Return the reference with the submission's own `owners`, and with what these need of the submission's own.

    Classes come whole: forward and backward of one class belong together, for each keeps what the other needs. Of the
    reference's own definitions of the owners nothing is left, however the submission defines them: Tanh = None as well.
    """
    theirs, ours = _parsed(submission).body, _parsed(reference).body
    lines = submission.splitlines(keepends=True)

    def text(node: ast.stmt) -> str:
        first = min([node.lineno, *(d.lineno for d in getattr(node, "decorator_list", []))])
        return "".join(lines[first - 1 : node.end_lineno]) + "\n\n"

    own = [n for n in theirs if _names(n) & {*owners} or _changes(n, owners)]
    given = {name for node in ours for name in _names(node)}
    beside = [node for node in theirs if node not in own and _names(node) - given]
    needed = list(own)
    for node in needed:  # it grows
        mentioned = {n.id for n in ast.walk(node) if isinstance(n, ast.Name)}
        needed += [other for other in beside if other not in needed and _names(other) & mentioned]
    chosen: dict[str, str] = {}
    future = pending = ""  # what is needed goes before the next of the owners
    for node in theirs:
        if isinstance(node, ast.ImportFrom) and node.module == "__future__":
            future += text(node)
        elif node in needed:
            pending += text(node)
        for name in sorted(_names(node) & {*owners}):
            if isinstance(node, DEFINITION) or name not in chosen:
                chosen[name], pending = chosen.get(name, "") + pending, ""
    result = reference.splitlines(keepends=True)
    places = {node.name: node for node in ours if isinstance(node, DEFINITION) and node.name in chosen}
    for name, node in reversed(places.items()):
        first = min([node.lineno, *(d.lineno for d in node.decorator_list)])
        result[first - 1 : node.end_lineno] = [chosen[name]]
    more = [part for name, part in chosen.items() if name not in places]
    return "".join([future, *result, "\n\n", *more, pending])


_PARSING = threading.Lock()
"""Two threads that parse at the same time make Python 3.11 fail with a SystemError."""


@functools.lru_cache(16)
def _parsed(source: str) -> ast.Module:
    with _PARSING:
        return ast.parse(source)


@functools.lru_cache(16)
def _symbols(source: str) -> symtable.SymbolTable:
    with _PARSING:
        return symtable.symtable(source, "", "exec")


def _names(node: ast.stmt) -> set[str]:
    """Return what a statement defines in the module; below "if" and "try", too."""
    if isinstance(node, DEFINITION):
        return {node.name}
    if isinstance(node, (ast.Import, ast.ImportFrom)):
        return {(alias.asname or alias.name).split(".")[0] for alias in node.names}
    if isinstance(node, (ast.If, ast.Try, ast.ExceptHandler)):
        parts = [part for name in ("body", "orelse", "handlers", "finalbody") for part in getattr(node, name, ())]
        return set().union(*map(_names, parts))
    targets = getattr(node, "targets", [getattr(node, "target", None)])
    return {n.id for target in targets if target for n in ast.walk(target) if isinstance(n, ast.Name)}


def _changes(node: ast.stmt, owners: Sequence[str]) -> bool:
    """Whether a statement sets an attribute of an owner, such as Tanh.forward = ..."""
    targets = node.targets if isinstance(node, ast.Assign) else []
    return any(isinstance(t, ast.Attribute) and _of(t, *owners) for t in targets)


INSIDE = "PyTorch's internals"
SUSPICIOUS = {
    name: what
    for what, names in (
        ("automatic differentiation", "autograd requires_grad_ vjp jvp jacobian enable_grad"),
        ("automatic differentiation", "grad_fn functorch"),
        ("torch.nn", "nn functional optim"),
        (INSIDE, "_C _VF ops ctypes _decomp _refs"),
        ("other processes", "subprocess multiprocessing fork system"),
        ("the network", "socket urllib requests"),
        ("code from text", "exec eval compile __import__ importlib"),
        ("files", "open listdir"),
        ("the grader's memory", "gc __subclasses__ __main__ _getframe modules"),
    )
    for name in names.split()
}


def suspicious(source: str, edition: str) -> list[str]:
    """Return what a submission mentions that the edition does not, and that this assignment does not need."""
    here, given = _mentioned(source), _mentioned(edition)
    kinds = {name: SUSPICIOUS.get(name, name.startswith("torch.") and INSIDE) for name in here if name not in given}
    return [f"line {here[name]}: {name} ({kind})" for name, kind in kinds.items() if kind]


@functools.lru_cache(16)
def _mentioned(source: str) -> dict[str, int]:
    """Return the names and words of a file, and in which line they come first."""
    found: dict[str, int] = {}
    for node in _running(_parsed(source)):
        names = []
        if isinstance(node, ast.Name):
            names = [node.id] if node.id != "modules" else []
        elif isinstance(node, ast.Attribute):
            ordinary = node.attr in ("eval", "compile", "modules") and not _of(node, "torch", "sys")
            names = [] if ordinary else [node.attr]
            inside = _of(node, "torch") and re.match(r"_(?!foreach)", node.attr)
            names += [f"torch.{node.attr}"] if inside else []
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            names = [part for alias in node.names for part in alias.name.split(".")]
            names += (getattr(node, "module", None) or "").split(".")
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.isidentifier():
            names = [node.value]
        for name in names:
            found.setdefault(name, getattr(node, "lineno", 0))
    return found


MAIN = "__name__ == '__main__'", "'__main__' == __name__"


def _running(tree: ast.Module) -> list[ast.AST]:
    """Return all nodes but those below if __name__ == "__main__": nothing there runs, unless that name is changed."""
    mains = [n for n in tree.body if isinstance(n, ast.If) and ast.unparse(n.test) in MAIN]
    nodes = [node for part in tree.body if part not in mains for node in ast.walk(part)]
    changed = any(
        (isinstance(n, ast.Name) and n.id == "__name__" and isinstance(n.ctx, ast.Store))
        or (isinstance(n, ast.Constant) and n.value == "__name__")
        for n in nodes
    )
    return list(ast.walk(tree)) if changed else nodes


def _of(node: ast.Attribute, *names: str) -> bool:
    return isinstance(node.value, ast.Name) and node.value.id in names


def judge(
    worker: Worker,
    name: str,
    source: str | Mapping[str, str],
    items: Sequence,
    reference: str | None = None,
    seed: int = 0,
) -> Grade:
    """Grade a submission.

    Args:
        source: its text, or its files by name, first the one that answers.
        items: what to ask.
        reference: a solution; where it is given, an item that fails is tried again with everything but its own classes
            and functions from there, so that no mistake costs points twice.
        seed: of the numbers.
    """
    worker.begin()  # loading PyTorch is not the submission's time
    start, grade = time.monotonic(), Grade(name)
    files = {"diy.py": source} if isinstance(source, str) else dict(source)
    session = _Session(worker, files, reference, start + SUBMISSION_SECONDS)
    if session.unreadable:
        grade.outcomes = [Outcome.of(item, "wrong", session.unreadable) for item in items]
    else:
        for file, text in files.items():
            flags = suspicious(text, reference or "")
            grade.flags += [f"{file}, {flag}" if len(files) > 1 else flag for flag in flags]
        grade.outcomes = [session.outcome(each, seed) for each in items]
    session.close()
    grade.flags += [f"used at run time: {what}" for what in dict.fromkeys(session.refused)] + session.remarks
    if session.unreadable:
        grade.flags.append(f"nothing was graded: {session.unreadable}")
    elif session.broken:  # class by class, it may have got all points
        grade.flags.append(session.broken)
    grade.seconds = time.monotonic() - start
    if grade.flags or any(outcome.state == "stopped" for outcome in grade.outcomes):
        worker.stop()  # the next one gets a sandbox of its own, in which nothing was left
    return grade


class _Session:
    def __init__(self, worker: Worker, files: dict[str, str], reference: str | None, end: float):
        self.worker, self.files, self.reference, self.end = worker, files, reference, end
        self.loaded: dict[str, str | None] = {}
        self.open, self.skip, self.refused, self.remarks = True, set(), [], []
        self.unreadable, self.broken = "", ""
        with contextlib.suppress(WrongError):
            self.load("whole", files)
        # Nothing is parsed here that could not be compiled there. What is not in the submission is not its own, and
        # earns nothing when it comes from the reference.
        texts = [] if self.unreadable else files.values()
        self.defined = {name for text in texts for node in _parsed(text).body for name in _names(node)}

    def close(self) -> None:
        if self.open:
            self.worker.end()

    def outcome(self, item: Any, seed: int) -> Outcome:
        owners = set(item.owners or ["whole"])
        if owners & self.skip:
            return Outcome.of(item, "stopped", "skipped: an earlier item about the same class got no answer")
        wrong = self.attempt(item, seed, "whole", self.files)
        own_gap = isinstance(wrong, TodoError) and bool({*wrong.formulas} & {*item.formulas})
        may_be_tried = wrong and self.reference and not own_gap and item.owners and {*item.owners} <= self.defined
        if may_be_tried and not self.borrowed(item.owners):
            file, text = next(iter(self.files.items()))
            mixed = {file: composite(self.reference, text, tuple(item.owners))}
            self.restart()  # in a fork of its own, or the submission could keep the reference for later
            wrong = self.attempt(item, seed, " ".join(item.owners), mixed)
            self.restart()
        if isinstance(wrong, StoppedError):
            self.skip |= owners
        return Outcome.of(item, wrong.state, str(wrong)) if wrong else Outcome.of(item, "right")

    def borrowed(self, owners: Sequence[str]) -> set[str]:
        """Return the names of the reference that a submission's own classes mention, but it does not define."""
        found: set[str] = set()
        for text in self.files.values():
            tables = [table for table in _symbols(text).get_children() if table.get_name() in owners]
            for table in tables:  # it grows
                tables += table.get_children()
                found |= {symbol.get_name() for symbol in table.get_symbols() if symbol.is_global()}
            nodes = [node for node in _parsed(text).body if _names(node) & {*owners}]
            constants = [n.value for node in nodes for n in ast.walk(node) if isinstance(n, ast.Constant)]
            found |= {value for value in constants if isinstance(value, str)}
            aliases = [node for node in nodes if not isinstance(node, DEFINITION)]  # such as ReLU = MyReLU
            found |= {n.id for node in aliases for n in ast.walk(node) if isinstance(n, ast.Name)}
        return found & {name for n in _parsed(self.reference or "").body for name in _names(n)} - self.defined

    def restart(self) -> None:
        """Go on in a fresh fork."""
        self.close()
        self.open = False

    def attempt(self, item: Any, seed: int, name: str, files: dict[str, str]) -> WrongError | None:
        numbers = int(hashlib.sha256(item.what.encode()).hexdigest()[:6], 16) + 1000 * seed
        generator = torch.Generator().manual_seed(numbers)
        try:
            remark = item.test(lambda operation, spec: self.ask(name, files, operation, spec), generator)
            self.remarks += [f"{item.name}: {remark}"] if remark else []
        except WrongError as wrong:
            return wrong
        except Exception as error:
            # An answer that a test can't even work with, such as None instead of a tensor, is not right.
            return WrongError(f"the answer cannot be used: {type(error).__name__}: {error}")
        return None

    def ask(self, name: str, files: dict[str, str], operation: str, spec: dict[str, Any]) -> dict[str, Any]:
        if time.monotonic() > self.end:
            raise StoppedError(f"the {SUBMISSION_SECONDS:.0f} s that one submission may take are used up")
        self.load(name, files)
        request = {"name": name, "operation": operation, "spec": encode(spec)}
        reply = self.send(request, ITEM_SECONDS if "train" not in operation else 6 * ITEM_SECONDS)
        if "reply" in reply:
            return decode(reply["reply"], torch.float64)
        raise (TodoError if "todo" in reply else WrongError)(self._reason(reply))

    def load(self, name: str, files: dict[str, str]) -> None:
        """Load the submission, or what was made of it; the submission itself only once if it takes too long."""
        if name == "whole" and self.broken:
            raise WrongError(self.broken)
        if not self.open:
            self.worker.begin()
            self.open, self.loaded = True, {}
        if name not in self.loaded:
            try:
                reply = self.send({"name": name, "files": files}, 2 * ITEM_SECONDS)
            except StoppedError as stopped:
                if name != "whole":
                    raise
                self.broken = f"the file does not load (does it train when it is imported?): {stopped}"
                raise WrongError(self.broken) from None
            self.unreadable = _short(reply.get("unreadable", "")) if name == "whole" else ""
            self.loaded[name] = None if "loaded" in reply else self._reason(reply)
        if self.loaded[name]:
            why = f"the file does not load: {self.loaded[name]}"
            self.broken = why if name == "whole" else self.broken
            raise WrongError(why)

    def send(self, request: dict[str, Any], seconds: float) -> dict[str, Any]:
        left = max(1.0, self.end - time.monotonic())  # of the submission's time
        try:
            return self.worker.ask(request, min(seconds, left))
        except StoppedError:
            self.open = False
            raise

    def _reason(self, reply: dict[str, Any]) -> str:
        if "refused" in reply:
            self.refused.append(_short(reply["refused"]))
            return f"it uses {self.refused[-1]}: do without it, and write gradients and layers by hand"
        if "todo" in reply:
            return f"not written yet ({_short(reply['todo'])})" if reply["todo"] else "not written yet"
        error = _short(reply.get("error", "no answer")) + self._place(reply)
        if shapes := re.search(r"gradient of size '\[(.*?)\]' to a tensor of size '\[(.*?)\]'(.*?)same size", error):
            got, expected = (f"({size}{',' * (size.isdigit())})" for size in shapes.groups()[:2])
            one = ": it is one number for all components" if got == "()" else ""
            return f"a parameter of shape {expected} got a gradient of shape {got}{one}{error[shapes.end() :]}"
        return error

    def _place(self, reply: dict[str, Any]) -> str:
        """Return the innermost line that is the student's own, with its number there."""
        for place in reply.get("places") or ():
            file, number, text = (*map(str, place), "", "")[:3]
            lines = [line.strip() for line in self.files.get(file, "").splitlines()]
            if text and text in lines:
                of, code = f" of {file}" if len(self.files) > 1 else "", _short(text)
                if lines[int(number) - 1 : int(number)] != [text]:  # it comes from a composite
                    number = str(lines.index(text) + 1) if lines.count(text) == 1 else ""
                return f" (line {number}{of}: {code})" if number else f" ({code})"
        return ""


def _short(text: Any) -> str:
    """Return what came from a submission as one line of which no page becomes too long."""
    return " ".join(str(text).split())[:400]


def kind_of(reason: str) -> str:
    """Return a reason without its numbers, to count the same mistake of several submissions as one."""
    reason = re.sub(r" \((yours|line).*|, with [MN] = [^:]*", "", reason)
    return textwrap.shorten(re.sub(r"(?<![A-Z])-?\d[\d.e+-]*", "…", reason), 120, placeholder=" …")
