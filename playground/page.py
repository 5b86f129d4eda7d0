"""A page on which recorded runs are played without Python: real runs of diy, written into one HTML file.

    python -m playground.page --out FOLDER     # FOLDER/playground.html, in some minutes

The page needs no server and no network. It shows what the playground shows, by the same view; nothing is trained in it.
"""

from experiments.begin import begin_command

if __name__ == "__main__":
    begin_command("python -m playground.page")

import base64
import gzip
import json
from collections.abc import Iterator
from dataclasses import asdict
from itertools import product
from pathlib import Path

import torch

import bugs
from experiments.commandline import Parser, run_command
from experiments.results import write_atomically
from playground import company
from playground.data import DATA_SETS
from playground.lab import NO_BUG, Lab, Settings
from playground.view import CHOICES, LABELS, Playground

PROG = "python -m playground.page"
HERE = Path(__file__).parent

EPOCHS = (*range(11), 12, 15, *range(20, 101, 10))
"""The moments of a run that are recorded. One that ends earlier, in trouble, ends with that moment."""

OFFERED = {"data": list(DATA_SETS), "depth": [3, 1, 0], "reduction": ["sum", "mean"], "lr": [0.001, 0.01, 0.2]}
"""What the visitor can choose in any combination. The page opens with the first of each, the report's first model; at
0.2 the mean takes the steps that the sum takes at 0.001."""


def wanted() -> Iterator[Settings]:
    """Yield the runs that are recorded: all combinations of OFFERED, and each planted bug with its story's settings."""
    for values in product(*OFFERED.values()):
        yield Settings(**dict(zip(OFFERED, values)))
    for name, story in company.STORIES.items():
        yield Settings(bug=name, **story.settings)


def record(lab: Lab, epochs: tuple[int, ...] = EPOCHS) -> dict:
    """Train a lab from its start, and return what the view is sent at each moment, and what all of them share."""
    playground, moments = Playground(lab), []
    line = playground.line
    while True:
        moments.append(_moment(playground.frame))
        if lab.trouble or lab.epoch >= epochs[-1]:
            break
        playground.train_until(
            lambda: lab.epoch in epochs and not lab.steps_in_epoch
        )  # what lies between two moments is not drawn
    bug = lab.settings.bug
    answers = [] if bug == NO_BUG else [company.answer(kind, bug) for kind in bugs.ORACLES]
    return {
        "settings": playground.settings,
        "points": playground.points,
        "moments": moments,
        "curve": playground.frame["curve"],
        "trouble": lab.trouble,
        "story": playground.story,
        "answers": answers,
        "line": line,
    }


def html(runs: list[dict]) -> str:
    """Return the page with these runs in it."""
    choices = {
        name: [value for value in CHOICES[name] if any(run["settings"][name] == value for run in runs)]
        for name in (*OFFERED, "bug")
    }
    recording = json.dumps({"choices": choices, "labels": LABELS, "runs": runs}, default=_base64, allow_nan=False)
    parts = {name: (HERE / name).read_text(encoding="utf-8") for name in ("view.css", "view.js", "player.js")}
    parts["runs"] = str(len(runs))
    parts["recording"] = base64.b64encode(gzip.compress(recording.encode(), mtime=0)).decode()
    page = (HERE / "page.html").read_text(encoding="utf-8")
    for name, text in parts.items():
        page = page.replace(f"{{{{{name}}}}}", text)
    return page


def _moment(frame: dict) -> dict:
    names = ("epoch", "batch", "batches", "now", "twin_words", "layers", "size")
    surfaces = {name: _differences(frame[name]) for name in ("surface", "twin_surface")}
    return {name: frame[name] for name in names} | surfaces


def _differences(surface: bytes) -> list[int]:
    """Return the values in 256ths, all odd but 0, as differences from the one before: that is packed most tightly."""
    values = torch.frombuffer(bytearray(surface), dtype=torch.int16).int() if surface else torch.empty(0)
    values = (2 * (values.int() >> 8) + 1) * values.sign().abs().int()
    return values.diff(prepend=values.new_zeros(1)).int().tolist()


def _base64(value: bytes) -> dict:
    return {"base64": base64.b64encode(value).decode()}


def main(arguments: list[str] | None = None) -> None:
    parser = Parser(PROG, "Record runs of the playground and write a page that plays them: some minutes.")
    parser.add_argument(
        "--out", type=Path, default=Path(), metavar="FOLDER", help="where playground.html goes (this folder)"
    )
    folder = parser.parse_args(arguments).out
    parser.check_output(folder, "--out")
    runs = []
    for settings in wanted():
        lab = Lab(**asdict(settings))
        print(lab, flush=True)
        runs.append(record(lab))
    path = folder / "playground.html"
    write_atomically(path, html(runs).encode())
    print(f"{path}: {len(runs)} runs, {path.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    run_command(PROG, main, "nothing was written")
