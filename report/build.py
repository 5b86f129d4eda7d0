"""Build report.pdf from the records of the runs.

    python -m report.build            draws the figures and makes report.pdf, in seconds
    python -m report.build --rerun    first runs the evaluation, the oracles and the sweep again
    python -m report.build --check    compares the text of report.pdf with one built elsewhere, changes nothing

The digits and the benchmarks take longer and have commands of their own:

    python -m experiments.digits --output report --no-figures
    python -m benchmarks.speed
    python -m benchmarks.tune

A rerun replaces its records once it has them all. A missing record or number, a sentence that the numbers
contradict and a warning of the compiler all end the build, and leave report.pdf and the figures as they were.
"""

from experiments.begin import begin_command

if __name__ == "__main__":
    begin_command("python -m report.build")

import difflib
import json
import shutil
import tempfile
from dataclasses import asdict
from pathlib import Path

import matplotlib
import numpy as np
import seaborn
import typst
from pypdf import PdfReader

import diy
from bugs import BUGS
from experiments import circle, evaluation, figures, sweep
from experiments.commandline import CommandError, Parser, run_command
from experiments.results import sealed, unsealed, write_atomically
from report import agreement, classes

PROG = "python -m report.build"
HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
FONTS = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
"""STIX and DejaVu, which come with Matplotlib: the report looks the same on every machine."""

DRAWN_WITH = [f"Matplotlib {matplotlib.__version__}", f"seaborn {seaborn.__version__}"]
"""Keywords of the PDF: other versions draw the same data a little differently."""

SOURCES = ("report.typ", "references.bib")
RERUN = ("results.json", "agreement.json", "sweep.json")
RECORDS = {
    **{f"report/{name}": "python -m report.build --rerun" for name in RERUN},
    "report/digits.json": "python -m experiments.digits --output report --no-figures",
    "benchmarks/speed.json": "python -m benchmarks.speed",
    "benchmarks/tuning.json": "python -m benchmarks.tune",
}
"""What was measured, and the command that measures it."""

COLUMN = 3.45
"""Width of a column of the report in inches."""


class BuildError(CommandError):
    """The report cannot be built; the message says why and what to do."""


def rerun() -> None:
    """Run the evaluation, measure the agreement with the oracles and sweep the learning rate, all into report/.

    Whatever ends the run early, the records stay as they were.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        print("running the evaluation, about a minute")
        results = evaluation.run()
        evaluation.save(results, folder)
        print("asking the oracles")
        agreed = agreement.measure(results.protocol)
        (folder / "agreement.json").write_bytes(sealed(agreed, indent=1))
        print("sweeping the learning rate")
        sweep.save(sweep.run(), folder)
        measured = {record: (folder / record).read_bytes() for record in RERUN}
    for record, content in measured.items():
        write_atomically(HERE / record, content)
    print(f"replaced: {', '.join(RERUN)}")


def build(folder: Path, root: Path = ROOT) -> list[Path]:
    """Make figures and report.pdf in the empty directory `folder` from the sources and records; return the files.

    Raises:
        BuildError: see the message.
    """
    results = collect(folder, root)
    return [*draw_results(results, folder / "figures"), compile_pdf(folder, results)]


def collect(folder: Path, root: Path = ROOT) -> evaluation.Results:
    """Copy sources and records into `folder`; return the results among them.

    Raises:
        BuildError: a record is missing, damaged or incomplete.
    """
    for name in SOURCES:
        shutil.copy(HERE / name, folder)
    for record, command in RECORDS.items():
        if not (root / record).is_file():
            raise BuildError(f"{record} is missing: make it with {command}")
        try:
            unsealed((root / record).read_bytes())
        except ValueError as error:
            raise BuildError(f"{record} is damaged ({error}): make it again with {command}") from error
        shutil.copy(root / record, folder)
    return read(folder)


def read(folder: Path) -> evaluation.Results:
    """Return the results in `folder`.

    Raises:
        BuildError: they are damaged or incomplete.
    """
    try:
        results = evaluation.load(folder)
        if missing := [name for name in circle.MODELS if not results.models.get(name)]:
            raise ValueError(f"no rounds of {', '.join(missing)}")
    except ValueError as error:
        raise BuildError(f"report/results.json cannot be used: {error}; run python -m report.build --rerun") from error
    return results


def draw_results(results: evaluation.Results, folder: Path) -> list[Path]:
    """Draw figures 2 to 5 into `folder`, at the width of a column."""
    plots = {
        "figure2-time": figures.training_time(results, COLUMN, 1.9),
        "figure3-loss": figures.loss_curves(results, COLUMN, 2.9),
        "figure4-error": figures.test_errors(results, COLUMN, 1.9),
        "figure5-labels": figures.predicted_labels(results, width=3.1, height=3.4),
    }
    return figures.save_figures(plots, folder)


def compile_pdf(folder: Path, results: evaluation.Results) -> Path:
    """Compile report.typ in `folder`, beside the records and figures; return the path of the PDF.

    Raises:
        BuildError: a record lacks something, or the compiler found an error, or something to warn of.
    """
    try:
        facts = known(results, sweep.load(folder))
    except (LookupError, ValueError) as error:
        why = f"{type(error).__name__}: {error}"
        raise BuildError(f"the records cannot be used: {why}; see python -m report.build --help") from error
    compiler = typst.Compiler(
        str(folder / "report.typ"),
        root=str(folder),
        font_paths=[str(FONTS)],
        ignore_system_fonts=True,
        sys_inputs={"known": json.dumps(facts)},
    )
    pdf = folder / "report.pdf"
    try:
        _, warnings = compiler.compile_with_warnings(output=str(pdf))
    except typst.TypstError as error:
        raise BuildError(f"report.typ does not compile: {explain(error)}") from error
    if warnings:
        raise BuildError("report.typ compiles with warnings: " + "; ".join(map(explain, warnings)))
    return pdf


def known(results: evaluation.Results, swept: sweep.Sweep) -> dict:
    """Return what the text says beside the records: recipes, 2019's values, and what has to be worked out.

    `one_label_rounds` counts the rounds in which "torch-sgd" gives all test points one label. Of the mistakes of
    "diy-dropout", the share `near_share` lies within the distance `near` of the circle. `rates_below` are the learning
    rates, for each reduction, at which the mean test error first falls below `below`. `planted_bugs` counts the
    mistakes in the catalogue of the tests, `planted_bugs_seen_in_training` those with which training, on the disk or on
    digits, goes wrong.
    """
    one_label = [len({*r.predictions.tolist()}) == 1 for r in results.models["torch-sgd"]]
    points = [evaluation.test_points(results.protocol, index) for index in range(results.protocol.rounds)]
    radii = np.linalg.norm(np.concatenate(points), axis=1)
    labels = np.concatenate([r.predictions for r in results.models["diy-dropout"]])
    distances = np.abs(radii - circle.RADIUS)[labels != (radii < circle.RADIUS)]
    share, below = 0.9, 0.1
    return {
        "classes": classes.families(diy),
        "recipes": {name: asdict(recipe) for name, recipe in circle.MODELS.items()},
        "report_2019": evaluation.REPORT_2019,
        "one_label_rounds": sum(one_label),
        "near_share": share,
        "near": float(np.quantile(distances, share)) if len(distances) else 0.0,
        "below": below,
        "drawn_with": DRAWN_WITH,
        "planted_bugs": len(BUGS),
        "planted_bugs_seen_in_training": sum("training" in bug.seen_by for bug in BUGS.values()),
        "rates_below": {reduction: first_rate(swept, reduction, below) for reduction in swept.runs},
    }


def first_rate(swept: sweep.Sweep, reduction: str, below: float) -> float:
    """Return the rate at which the mean test error first falls below `below`, interpolated on a logarithmic scale."""
    errors = np.array([record["test_error"] for record in swept.runs[reduction]]).mean(0)
    good = int(np.argmax(errors < below))
    if good == 0:
        raise BuildError(
            f"report/sweep.json: with the {reduction}, the test error must first fall below {below} at a rate after "
            "the lowest, and it does not"
        )
    pair = slice(good - 1, good + 1)
    return float(np.exp(np.interp(-below, -errors[pair], np.log(swept.grid.rates[pair]))))


def explain(diagnostic: typst.TypstError | typst.TypstWarning) -> str:
    """Return what the compiler found and what it advises."""
    return "; ".join([diagnostic.message, *diagnostic.hints])


def text_of(pdf: Path) -> list[str]:
    """Return the text of each page, with single spaces between words."""
    return [" ".join(page.extract_text().split()) for page in PdfReader(pdf).pages]


def differences(old: list[str], new: list[str]) -> list[str]:
    """Return the lines of a diff between two PDF files, of which `text_of` gives the pages: none where they agree."""
    words = [" \n".join(pages).split(" ") for pages in (old, new)]
    return list(difflib.unified_diff(*words, "report.pdf", "built now", lineterm="", n=3))


def main(arguments: list[str] | None = None) -> None:
    parser = Parser(PROG, __doc__)
    choice = parser.add_mutually_exclusive_group()
    choice.add_argument(
        "--rerun", action="store_true", help="first run the evaluation, the oracles and the sweep again"
    )
    choice.add_argument("--check", action="store_true", help="exit with 1 if the text of report.pdf is out of date")
    options = parser.parse_args(arguments)
    if not diy.__doc__:
        raise BuildError("figure 1 is made of diy.py's docstrings, which python -OO leaves out: build without -OO")
    if options.rerun:
        rerun()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        made = build(folder)
        if options.check:
            if not (HERE / "report.pdf").is_file():
                raise BuildError("there is no report.pdf to compare with: run python -m report.build")
            if found := differences(text_of(HERE / "report.pdf"), text_of(folder / "report.pdf")):
                raise BuildError("\n".join(["report.pdf is out of date: run python -m report.build", *found]))
            print("report.pdf is up to date")
            return
        (HERE / "figures").mkdir(exist_ok=True)
        for path in made:
            write_atomically(HERE / path.relative_to(folder), path.read_bytes())
    print(f"written: {HERE / 'report.pdf'} and its figures")


if __name__ == "__main__":
    run_command(PROG, main)
