"""Starts commands of this project as real processes, without importing PyTorch again for each; reads their results.

Where processes can fork, one of them imports everything and then forks once per command. The child is a process of its
own, to be killed at will, and runs what `python ARGUMENTS` does. Elsewhere each command starts from nothing.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

PROGRAM = """
import json, os, resource, runpy, sys, traceback
import torch
from experiments import figures, sweep
from experiments.digits import train
from sklearn import datasets, model_selection

torch.optim.SGD([torch.zeros(1)])  # the first optimizer of a process loads hundreds of modules

print("ready", flush=True)
for line in sys.stdin:
    request = json.loads(line)
    if "wait" in request:
        print(os.waitstatus_to_exitcode(os.waitpid(request["wait"], 0)[1]), flush=True)
        continue
    child = os.fork()
    if child == 0:
        for stream, path in enumerate(request["streams"], start=1):
            os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), stream)
        os.environ.update(request["environment"])
        if request["largest_file"]:
            resource.setrlimit(resource.RLIMIT_FSIZE, (request["largest_file"],) * 2)
        module = request["arguments"][0] == "-m"
        sys.argv = request["arguments"][module:]
        code = 0
        try:
            if module:
                sys.modules.pop(sys.argv[0], None)  # loaded above, and to be run as if it were not
                runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
            else:
                runpy.run_path(sys.argv[0], run_name="__main__")
        except SystemExit as exit:
            code = exit.code if isinstance(exit.code, int) else int(exit.code is not None)
            if isinstance(exit.code, str):
                print(exit.code, file=sys.stderr)
        except BaseException:
            traceback.print_exc()
            code = 1
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)  # tearing down PyTorch takes ten times as long as the run
    print(child, flush=True)
os._exit(0)
"""


def numbers_of(results) -> dict:
    """All that an evaluation gives, except the times."""
    return {
        (model, index): (r.loss, r.train_error, r.test_error, r.predictions.tolist())
        for model, rounds in results.models.items()
        for index, r in enumerate(rounds)
    }


class Launcher:
    def __init__(self, directory: Path):
        self.directory, self.count, self.process = directory, 0, None
        if hasattr(os, "fork"):
            self.process = subprocess.Popen(
                [sys.executable, "-c", PROGRAM], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT
            )
            assert self.process.stdout.readline() == "ready\n"

    def start(self, *arguments, largest_file: int | None = None, stdout: Path | None = None, **environment) -> "Child":
        """Start `python ARGUMENTS` and return at once.

        Args:
            largest_file: writing a file beyond so many bytes fails in it.
            stdout: a file or pipe to print to.
        """
        self.count += 1
        arguments = [str(argument) for argument in arguments]
        streams = [self.directory / f"{self.count}-{name}.txt" for name in ("stdout", "stderr")]
        streams[0] = stdout or streams[0]
        if self.process is None:
            with streams[0].open("wb") as out, streams[1].open("wb") as err:
                command = [sys.executable, *arguments]
                child = subprocess.Popen(command, stdout=out, stderr=err, cwd=ROOT, env={**os.environ, **environment})
            return Child(child.wait, child.pid, streams)
        request = {
            "arguments": arguments,
            "streams": [str(path) for path in streams],
            "environment": environment,
            "largest_file": largest_file,
        }
        pid = self.ask(request)
        return Child(lambda: self.ask({"wait": pid}), pid, streams)

    def run(self, *arguments, **options) -> "Child":
        """Run `python ARGUMENTS` to its end."""
        return self.start(*arguments, **options).wait()

    def ask(self, request: dict) -> int:
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        return int(self.process.stdout.readline())

    def close(self) -> None:
        if self.process:
            self.process.stdin.close()
            self.process.wait(timeout=60)


class Child:
    """A running command; after `wait`, its `returncode` (negative: the signal), `stdout`, `stderr` and `output`."""

    def __init__(self, wait: Callable[[], int], pid: int, streams: list[Path]):
        self.wait_for_end, self.pid, self.streams, self.returncode = wait, pid, streams, None

    def wait_for_output(self) -> None:
        """Wait until the command has printed something, for a minute; then kill it."""
        end = time.monotonic() + 60
        while not (self.streams[0].exists() and self.stdout):
            if time.monotonic() > end:
                self.kill(signal.SIGTERM)
                raise AssertionError(f"nothing was printed: {self.wait().stderr}")
            time.sleep(0.01)

    def kill(self, number: int) -> None:
        os.kill(self.pid, number)  # Not waited for yet, so that the number cannot belong to another process

    def wait(self) -> "Child":
        self.returncode = self.wait_for_end()
        return self

    @property
    def stdout(self) -> str:
        return self.streams[0].read_text(encoding="utf-8")

    @property
    def stderr(self) -> str:
        return self.streams[1].read_text(encoding="utf-8")

    @property
    def output(self) -> str:
        """All that was printed, errors last."""
        return self.stdout + self.stderr
