"""The student's own check, in the handout: python grade.py diy.py

It asks what the teacher's grader asks, with numbers of its own, and runs your file as it is.
"""

import argparse
import json
import sys
from pathlib import Path

from classroom.items import ITEMS, fresh_items
from classroom.judge import Grade, Worker, judge
from classroom.stages import STAGES

MARK = {"right": "+", "wrong": "-", "todo": ".", "stopped": "!"}


def report(grade: Grade) -> str:
    """Return a line for each item, below its stage."""
    titles = {stage.number: f"stage {stage.number}: {stage.title}" for stage in STAGES} | {0: "this year's modules"}
    lines = []
    for number in dict.fromkeys(outcome.stage for outcome in grade.outcomes):
        part = [outcome for outcome in grade.outcomes if outcome.stage == number]
        lines.append(f"\n{titles[number]} ({sum(o.got for o in part)} of {sum(o.points for o in part)} points)")
        for outcome in part:
            lines.append(f"  {MARK[outcome.state]} {outcome.what}: {outcome.got} of {outcome.points}")
            if outcome.reason:
                lines.append(f"      {outcome.reason}")
    return "\n".join([*lines, f"\n{grade.points} of {grade.possible} points"]).lstrip("\n")


def main(arguments: list[str] | None = None) -> None:
    settings = json.loads((Path(__file__).parent / "settings.json").read_text(encoding="utf-8"))
    parser = argparse.ArgumentParser(prog="grade.py", description="Check your diy.py, stage by stage.")
    parser.add_argument("file", type=Path, nargs="?", default=Path("diy.py"), help="(%(default)s)")
    parser.add_argument("--stage", type=int, choices=settings["stages"], help="one stage alone")
    options = parser.parse_args(arguments)
    try:
        source = options.file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        sys.exit(f"grade.py: {options.file} cannot be read: {error}")
    wanted = [options.stage] if options.stage else [n for n in settings["stages"] if n not in settings["solved"]]
    items = [item for item in ITEMS if item.stage in wanted]
    if not options.stage:
        items += fresh_items(settings["modules"])
    worker = Worker()
    try:
        print(report(judge(worker, options.file.name, source, items, seed=1)))
    except KeyboardInterrupt:
        sys.exit("grade.py: interrupted")
    finally:
        worker.stop()
