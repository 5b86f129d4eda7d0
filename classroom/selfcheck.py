"""The student's own check, in the handout: python grade.py

It asks what the teacher's grader asks, but with other numbers, and runs your file without a sandbox.
"""

import argparse
import json
import sys
import tokenize
from pathlib import Path

from classroom.free import FREE
from classroom.items import ITEMS, fresh_items
from classroom.judge import Grade, Worker, judge
from classroom.stages import title

MARK = {"right": "+", "wrong": "-", "todo": ".", "stopped": "!"}


def report(grade: Grade) -> str:
    """Return a line for each item, below its stage."""
    lines, last = [], ""
    for number, part in grade.by_stage().items():
        lines.append(f"\n{title(number)} ({sum(o.got for o in part)} of {sum(o.points for o in part)} points)")
        for outcome in part:
            lines.append(f"  {MARK[outcome.state]} {outcome.what}: {outcome.got} of {outcome.points}")
            if outcome.reason != last:  # what keeps the file from loading is said once
                last = outcome.reason
                lines += [f"      {last}"] if last else []
    return "\n".join([*lines, f"\n{grade.points} of {grade.possible} points"]).lstrip("\n")


def read(path: Path) -> str:
    """Return the text of a Python file, in the encoding that it declares.

    Raises:
        OSError, ValueError: it is no file that Python could read.
    """
    if path.is_file() and path.stat().st_size > 2**20:
        raise ValueError("it is larger than 1 MB")
    try:
        with tokenize.open(path) as file:
            return file.read()
    except (SyntaxError, UnicodeDecodeError):
        raise ValueError("it is not text in UTF-8: save it in that encoding") from None


def own_files(adapters: Path) -> dict[str, str]:
    """Return the text of adapters.py and, after it, of all Python files beside and below it, by their names.

    Raises:
        OSError, ValueError: one cannot be read.
    """
    folder = adapters.parent
    paths = [path for path in sorted(folder.rglob("*.py")) if path != adapters]
    left_out = {"selfcheck", "site-packages", "__pycache__"}
    paths = [path for path in paths if not left_out & {*path.relative_to(folder).parts}]
    paths = [path for path in paths if path != folder / "grade.py"]
    return {path.relative_to(folder).as_posix(): read(path) for path in (adapters, *paths) if not path.is_symlink()}


def main(arguments: list[str] | None = None) -> None:
    settings = json.loads((Path(__file__).parent / "settings.json").read_text(encoding="utf-8"))
    parser = argparse.ArgumentParser(prog="grade.py", description="Check what you have written, stage by stage.")
    free = settings.get("free", False)
    parser.add_argument(
        "file", type=Path, nargs="?", default=Path("adapters.py" if free else "diy.py"), help="(%(default)s)"
    )
    stages = sorted({item.stage for item in FREE if item.stage > 0}) if free else settings["stages"]

    def stage(text: str) -> int:
        if text not in map(str, stages):
            raise argparse.ArgumentTypeError(f"one stage at a time, from {', '.join(map(str, stages))}, got {text!r}")
        return int(text)

    parser.add_argument("--stage", type=stage, metavar="N", help="check only this stage")
    options = parser.parse_args(arguments)
    try:
        source = own_files(options.file) if free else {options.file.name: read(options.file)}
    except FileNotFoundError:
        sys.exit(f"grade.py: there is no file {options.file}: name the one that holds your framework")
    except (OSError, ValueError) as error:
        sys.exit(f"grade.py: {options.file} cannot be read: {error}")
    if free:
        items = [item for item in FREE if options.stage in (None, item.stage)]
    else:
        wanted = [options.stage] if options.stage else [n for n in settings["stages"] if n not in settings["solved"]]
        items = [item for item in ITEMS if item.stage in wanted]
        items += fresh_items(settings["modules"]) if not options.stage else []
    worker = Worker()
    try:
        print(report(judge(worker, options.file.name, source, items, seed=1)))
    except KeyboardInterrupt:
        sys.exit("grade.py: interrupted")
    finally:
        worker.stop()
