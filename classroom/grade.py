"""Grade a folder of submissions: points, reasons, a page for each student and a summary for the teacher.

    python -m classroom.grade submissions --out graded
    python -m classroom.grade --prove

A submission is a file NAME.py, or a folder NAME with a diy.py in it; with --free, a folder NAME with an adapters.py.
After an interruption, the same command resumes where it stopped.
"""

from experiments.begin import begin_command

if __name__ == "__main__":
    begin_command("python -m classroom.grade")

import argparse
import csv
import dataclasses
import hashlib
import html
import json
import os
import queue
import shutil
import statistics
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

from tqdm import tqdm

from classroom.free import FREE
from classroom.items import ITEMS, Item, fresh_items
from classroom.judge import IMAGE, Grade, Outcome, SandboxError, Worker, judge, kind_of
from classroom.selfcheck import own_files, read
from classroom.stages import parse_stages, title
from experiments.commandline import Parser, run_command
from experiments.results import write_atomically
from experiments.words import counted

ROOT = Path(__file__).resolve().parent.parent
SANDBOXES = ("bwrap", "docker", "user", "none")
WARNING = "Without a sandbox, students' code runs as you, on your files and your network: only for code that you trust."


@dataclasses.dataclass
class Found:
    """What is in a folder of submissions.

    Attributes:
        files: of each submission, by its name.
        problems: why nothing is graded, by name.
        remarks: what the teacher should know of a submission, by its name.
        others: the names of what is no submission.
    """

    files: dict[str, Path] = dataclasses.field(default_factory=dict)
    problems: dict[str, str] = dataclasses.field(default_factory=dict)
    remarks: dict[str, str] = dataclasses.field(default_factory=dict)
    others: list[str] = dataclasses.field(default_factory=list)


def submissions(folder: Path, free: bool = False, out: Path | None = None) -> Found:
    """Find the file of each submission. A link is none: it could lead to another student's work, or to the solution.

    Raises:
        ValueError: there is none, or two have one name.
    """
    wanted, found = "adapters.py" if free else "diy.py", Found()
    for place in sorted(folder.iterdir()):
        name = place.name if place.is_dir() else place.stem
        name = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in name)
        if place.name[0] == "." or place.name == "__MACOSX" or (out and place.resolve() == out.resolve()):
            continue
        if not place.is_dir() and (free or place.suffix != ".py"):
            found.others.append(place.name)
            continue
        if name in {**found.files, **found.problems}:
            raise ValueError(f"two submissions are called {name}: rename one of them")
        if place.is_symlink():
            found.problems[name] = "it is a link, not a file or a folder"
        elif place.is_dir():
            _look_inside(place, wanted, name, found)
        else:
            found.files[name] = place
    if not {**found.files, **found.problems}:
        what = "a folder NAME with an adapters.py" if free else "a file NAME.py, or a folder NAME with a diy.py"
        raise ValueError(f"{folder} has no submissions: each is {what} in it")
    return found


def _look_inside(place: Path, wanted: str, name: str, found: Found) -> None:
    """Of several files, the one that counts is nearest to the top."""
    inside = [path for path in sorted(place.rglob("*")) if path.is_file() and not path.is_symlink()]
    inside = [path for path in inside if not {"selfcheck", "__MACOSX"} & {*path.relative_to(place).parts}]
    paths = sorted((path for path in inside if path.name == wanted), key=lambda path: len(path.parts))
    if not paths:
        there = ", ".join(path.relative_to(place).as_posix() for path in inside[:5])
        found.problems[name] = (
            f"there is no {wanted} in the folder, {f'but {there}' if there else 'nor any other file'}"
        )
    elif len(paths) > 1 and len(paths[0].parts) == len(paths[1].parts):
        found.problems[name] = f"there are {len(paths)} files {wanted} in the folder: keep the one that counts"
    else:
        found.files[name] = paths[0]
        if len(paths) > 1:
            which = paths[0].relative_to(place).as_posix()
            found.remarks[name] = f"of {len(paths)} files {wanted}, {which} was graded"


def grade_all(
    found: Found, items: Sequence[Item], out: Path, sandbox: str, jobs: int, quiet: bool = False
) -> list[Grade]:
    """Grade every submission, each kept as soon as it is done; return the grades in the order of their names."""
    reference = (ROOT / "diy.py").read_text(encoding="utf-8")
    kept = out / "kept"
    kept.mkdir(parents=True, exist_ok=True)
    paths = (ROOT / "diy.py", ROOT / "gradcheck.py", *sorted(Path(__file__).parent.glob("*.py")))
    code = [path.read_bytes() for path in paths]
    key = hashlib.sha256(b"\0".join([*code, *(item.what.encode() for item in items)])).hexdigest()
    workers: queue.Queue[Worker] = queue.Queue()
    for _ in range(jobs):
        workers.put(Worker(sandbox))

    def nothing(name: str, reason: str) -> Grade:
        return Grade(name, [Outcome.of(item, "wrong", reason) for item in items], [f"nothing was graded: {reason}"])

    def one(name: str, path: Path) -> Grade:
        try:
            source = own_files(path) if items is FREE else {path.name: read(path)}
        except (OSError, ValueError) as error:
            return nothing(name, f"the file cannot be read: {error}")
        place = kept / f"{hashlib.sha256(f'{key}{name}{source}'.encode()).hexdigest()[:24]}.json"
        if place.exists():
            content = json.loads(place.read_text(encoding="utf-8"))
            return Grade(**{**content, "outcomes": [Outcome(**outcome) for outcome in content["outcomes"]]})
        worker = workers.get()
        try:
            grade = judge(worker, name, source, items, reference)
        except SandboxError:
            raise
        except Exception as error:  # not the student's mistake, and no reason to stop the others
            worker.stop()
            return nothing(name, f"the grader itself failed, {type(error).__name__}: {error}; grade it by hand")
        finally:
            workers.put(worker)
        grade.flags += [found.remarks[name]] if name in found.remarks else []
        write_atomically(place, json.dumps(dataclasses.asdict(grade)).encode())
        return grade

    grades = {name: nothing(name, reason) for name, reason in found.problems.items()}
    try:
        with ThreadPoolExecutor(jobs) as pool:
            running = [pool.submit(one, name, path) for name, path in found.files.items()]
            try:
                silent = quiet or not sys.stderr.isatty()
                for done in tqdm(as_completed(running), total=len(running), unit=" submissions", disable=silent):
                    grades[done.result().name] = done.result()
            except BaseException as error:
                pool.shutdown(cancel_futures=True, wait=False)
                if isinstance(error, KeyboardInterrupt):
                    print(
                        "\nstopping: what has begun is finished first, which may take a minute or two", file=sys.stderr
                    )
                raise
    finally:
        while not workers.empty():
            workers.get().stop()
    return [grades[name] for name in sorted(grades)]


# What is written


def _of_all(grade: Grade) -> str:
    """Return the reason that all items have in common, such as a file that is not valid Python."""
    reasons = {outcome.reason for outcome in grade.outcomes}
    return reasons.pop() if len(reasons) == 1 else ""


def page(grade: Grade) -> str:
    """Return a student's page, in Markdown."""
    lines, whole = [f"# {grade.name}: {grade.points} of {grade.possible} points\n"], _of_all(grade)
    lines += [f"{_plain(whole)}\n"] if whole else []
    for number, part in grade.by_stage().items():
        lines.append(f"## {title(number)} ({sum(o.got for o in part)} of {sum(o.points for o in part)})\n")
        for o in part:
            lines.append(f"- **{o.got} of {o.points}** {o.what}")
            lines += [f"    - {_plain(o.reason)}"] if o.reason and not whole else []
        lines.append("")
    return "\n".join(lines)


def _plain(text: str) -> str:
    """Return text in which Markdown sees no tags, links or pictures: messages of errors are what students chose."""
    return text.replace("<", "&lt;").replace("](", "] (")


def as_html(grade: Grade) -> str:
    rows, whole = [], _of_all(grade)
    for o in grade.outcomes:
        colour = {"right": "#1a7f37", "todo": "#6e7781"}.get(o.state, "#b35900")
        reason = f"<br><small>{html.escape(o.reason)}</small>" if o.reason and not whole else ""
        rows.append(
            f'<tr><td>{o.stage if o.stage > 0 else ""}</td><td style="color:{colour}"><b>{o.got} of {o.points}</b></td>'
            f"<td>{html.escape(o.what)}{reason}</td></tr>"
        )
    name = html.escape(grade.name)
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{name}</title>'
        "<style>body{font:16px/1.5 system-ui;max-width:50em;margin:2em auto;padding:0 1em}td{vertical-align:top;"
        "padding:.2em .6em;border-top:1px solid #ccc}b{white-space:nowrap}</style>"
        f"<h1>{name}: {grade.points} of {grade.possible} points</h1><p>{html.escape(whole)}</p>"
        f"<table><tr><th>stage<th>points<th>what</tr>{''.join(rows)}</table></html>"
    )


def gradescope(grade: Grade) -> dict:
    """Return a grade in the format of Gradescope's results.json."""
    tests = [
        {"name": o.what, "number": str(o.stage), "score": o.got, "max_score": o.points, "output": o.reason or "right"}
        for o in grade.outcomes
    ]
    return {"score": grade.points, "execution_time": round(grade.seconds), "tests": tests, "visibility": "visible"}


def one_for_gradescope(folder: Path, out: Path, items: Sequence[Item], sandbox: str, free: bool) -> int:
    """Grade the only submission in a folder, and write Gradescope's results.json; errors go there as well."""
    try:
        wanted, reference = ("adapters.py", None) if free else ("diy.py", (ROOT / "diy.py").read_text(encoding="utf-8"))
        paths = [path for path in sorted(folder.rglob(wanted)) if "selfcheck" not in path.parts]
        if len(paths) != 1:
            raise ValueError(f"hand in exactly one file named {wanted}, got {len(paths)}")
        source = own_files(paths[0]) if free else read(paths[0])
        worker = Worker(sandbox)
        try:
            grade = judge(worker, "you", source, items, reference)
        finally:
            worker.stop()
        result = gradescope(grade)
    except (ValueError, OSError) as error:
        result = {"score": 0, "output": str(error), "visibility": "visible"}
    out.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(out, json.dumps(result, indent=1).encode())
    return 0


def mistakes(grades: Iterable[Grade]) -> Counter:
    """Return how often each mistake was made, as pairs (item, reason without numbers)."""
    found = Counter()
    for grade in grades:
        failed = [o for o in grade.outcomes if o.state in ("wrong", "stopped") and not o.reason.startswith("skipped")]
        wrong = {(o.what.split(":")[0], kind_of(o.reason)) for o in failed}
        reasons = {reason for _, reason in wrong}
        whole = len(wrong) > 1 and bool(_of_all(grade))  # a file that cannot be read, or is not there
        found.update({("the whole submission", *reasons)} if whole else wrong)
    return found


def write(grades: Sequence[Grade], out: Path, others: Sequence[str] = ()) -> list[Path]:
    """Write grades.csv, the pages, the summary with its picture, and Gradescope's files; return the paths."""
    files: dict[Path, bytes] = {}
    for grade in grades:
        files[out / "students" / f"{grade.name}.md"] = page(grade).encode()
        files[out / "students" / f"{grade.name}.html"] = as_html(grade).encode()
        files[out / "gradescope" / f"{grade.name}.json"] = json.dumps(gradescope(grade), indent=1).encode()
    rows = [
        [
            "name",
            *(title(stage).split(":")[0] for stage in grades[0].by_stage()),
            "points",
            "of",
            "worth a look",
            "seconds",
        ]
    ]
    for grade in grades:
        per_stage = [sum(o.got for o in part) for part in grade.by_stage().values()]
        looks = "; ".join(grade.flags)
        rows.append([grade.name, *per_stage, grade.points, grade.possible, looks, f"{grade.seconds:.1f}"])
    table = out / "grades.csv"
    out.mkdir(parents=True, exist_ok=True)
    with table.open("w", encoding="utf-8", newline="") as file:
        # Students choose the names, and a spreadsheet computes whatever begins like a formula.
        csv.writer(file).writerows(
            [[f"'{c}" if str(c).startswith(("=", "+", "-", "@", "\t", "\r")) else c for c in row] for row in rows]
        )
    common = mistakes(grades).most_common(12)
    points = [grade.points for grade in grades]
    spread = f", from {min(points)} to {max(points)}" if len(points) > 1 else ""
    lines = [f"# {counted(len(grades), 'submission')}\n"]
    lines.append(f"Median {statistics.median(points):g} of {grades[0].possible} points{spread}.\n")
    lines.append("## The commonest mistakes\n")
    lines += [f"- {count} of {len(grades)}: {what}: {_plain(reason)}" for (what, reason), count in common] or ["- none"]
    flagged = [grade for grade in grades if grade.flags]
    lines.append("\n## Worth a look\n")
    lines += [f"- {grade.name}: {_plain('; '.join(grade.flags))}" for grade in flagged] or ["- nothing"]
    if others:
        lines.append(f"\nIn the folder, but not submissions: {', '.join(others)}.")
    if common:
        lines.append("\n![How many submissions made each of the commonest mistakes](mistakes.png)")
        files[out / "mistakes.png"] = picture(common, len(grades))
    files[out / "summary.md"] = ("\n".join(lines) + "\n").encode()
    for path, content in files.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, content)
    return [table, *files]


def picture(common: Sequence[tuple[tuple[str, str], int]], total: int) -> bytes:
    """Draw the commonest mistakes as bars."""
    import io
    from textwrap import fill

    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 0.55 * len(common) + 1), layout="constrained")
    axes = figure.subplots()
    names = [fill(f"{what}: {reason}", 60) for (what, reason), _ in common]
    axes.barh(range(len(common)), [count for _, count in common], color="#0173b2")
    axes.set_yticks(range(len(common)), names, fontsize=8)
    axes.invert_yaxis()
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.set_xlabel(f"submissions, of {total}")
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=150, metadata={"Software": None})
    return content.getvalue()


def claim(out: Path, graded: str) -> None:
    """Note in a folder what is graded into it.

    Raises:
        ValueError: it holds the grades of something else, which would be lost.
    """
    note = out / "kept" / "graded.txt"
    earlier = note.read_text(encoding="utf-8", errors="surrogateescape") if note.exists() else "something else"
    if earlier == graded:
        return
    if (out / "grades.csv").exists():
        raise ValueError(f"{out} holds the grades of {earlier}, not of {graded}: choose another --out")
    note.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(note, graded.encode(errors="surrogateescape"))


def _assignment(options: argparse.Namespace, stages: Sequence[int]) -> str:
    if options.free:
        return " --free"
    modules = f" --modules {' '.join(sorted(options.modules))}" if options.modules else ""
    return f" --stages {','.join(map(str, stages))}{modules}"


def unusable(sandbox: str) -> str:
    """Return why a sandbox cannot be used here, and what to do; nothing if it can."""
    if sandbox == "bwrap" and not shutil.which("bwrap"):
        return "bwrap was not found: install bubblewrap (Debian, Ubuntu: apt install bubblewrap)"
    if sandbox == "bwrap":
        command = ["bwrap", "--unshare-all", "--ro-bind", "/", "/", "true"]
        trial = subprocess.run(command, capture_output=True, text=True)
        if trial.returncode:
            why = trial.stderr.strip() or f"exit code {trial.returncode}"
            return f"bwrap cannot make a sandbox here ({why}): allow user namespaces"
    if sandbox == "user" and (not shutil.which("setpriv") or os.geteuid() != 0):
        return "--sandbox user needs setpriv (Linux) and root, in a container used for nothing else: become root there"
    if sandbox == "docker":
        command = ["docker", "image", "inspect", IMAGE]
        if not shutil.which("docker") or subprocess.run(command, capture_output=True).returncode:
            return f"docker, or its image {IMAGE}, was not found: run docker build -t {IMAGE} classroom/gradescope"
    return ""


def main(arguments: list[str] | None = None) -> int:
    parser = Parser("python -m classroom.grade", __doc__)
    parser.add_argument("submissions", type=Path, nargs="?", help="folder of the submissions")
    parser.add_argument("--out", type=Path, default=Path("graded"), metavar="DIR", help="made if needed (%(default)s)")
    parser.add_argument("--stages", metavar="N-M", help="what was handed out (1-5)")
    parser.add_argument("--modules", nargs="*", default=[], metavar="NAME", help="this year's modules")
    parser.add_argument("--free", action="store_true", help="frameworks that students designed, with an adapters.py")
    parser.add_argument(
        "--sandbox",
        choices=SANDBOXES,
        default="bwrap",
        help="bwrap (bubblewrap, Linux), docker, user (nobody; needs root) or none",
    )
    parser.add_argument(
        "--jobs", type=int, default=os.cpu_count() or 1, metavar="N", help="how many at once (%(default)s)"
    )
    parser.add_argument(
        "--gradescope",
        action="store_true",
        help="in a Gradescope container: grade the one submission, and write --out as its results.json",
    )
    parser.add_argument("--prove", action="store_true", help="grade known solutions, mistakes and attacks")
    options = parser.parse_args(arguments)
    if why := unusable(options.sandbox):
        parser.error(f"{why}, or choose another --sandbox")
    if options.jobs < 1:
        parser.error(f"argument --jobs: must be at least 1, got {options.jobs}")
    if options.sandbox == "none":
        print(f"\033[1m{WARNING}\033[0m" if sys.stderr.isatty() else WARNING, file=sys.stderr)  # in bold
    if options.prove:
        from classroom.prove import prove

        return prove(options.sandbox, options.jobs)
    try:
        if options.free and (options.stages or options.modules):
            parser.error("--free cannot be combined with --stages or --modules")
        stages = parse_stages(options.stages or "1-5")
        items = [item for item in ITEMS if item.stage in stages] + fresh_items(options.modules)
        items = FREE if options.free else items
        if options.submissions is None:
            parser.error("name the folder of the submissions: python -m classroom.grade FOLDER")
        if not options.submissions.is_dir():
            parser.error(f"{options.submissions} is not a folder")
        if options.gradescope:
            return one_for_gradescope(options.submissions, options.out, items, options.sandbox, options.free)
        found = submissions(options.submissions, options.free, options.out)
        if found.others:
            print(f"left out, because they are not submissions: {', '.join(found.others)}", file=sys.stderr)
        claim(options.out, f"{options.submissions.resolve()}{_assignment(options, stages)}")
        jobs = 1 if options.sandbox == "user" else options.jobs  # as one user, they could reach each other
        grades = grade_all(found, items, options.out, options.sandbox, jobs)
        written = write(grades, options.out, found.others)
    except KeyError as error:
        parser.error(f"argument --modules: there is no {error}; classroom/fresh.py has the names")
    except (ValueError, OSError, SandboxError) as error:
        parser.error(str(error))
    for grade in grades:
        print(f"{grade.points:>5} of {grade.possible}  {grade.name}" + ("  (worth a look)" if grade.flags else ""))
    print(f"\nwritten: {written[0]}, with summary.md, students/ and gradescope/ beside it")
    return 0


if __name__ == "__main__":
    run_command("python -m classroom.grade", main, "finished grades are kept, and the same command resumes")

__all__ = ["grade_all", "main", "page", "submissions", "write"]
