"""Make the student edition: diy.py with gaps, a check for students to run, and the statement.

The formula numbers decide what is left out: a function that states a formula of a handed-out stage loses its body and
the text of the formula, but keeps its name, arguments, shapes and input checks. Classes of later stages are left out.
"""

from experiments.begin import begin_command

if __name__ == "__main__":
    begin_command("python -m classroom.edition")

import ast
import json
import re
import sys
from collections.abc import Collection
from pathlib import Path
from typing import Any

from classroom import free, fresh, nbgrader, notebooks
from classroom.items import ITEMS
from classroom.stages import DEFINITION, STAGES, owners, parse_stages, stage_of
from experiments.commandline import Parser, run_command

ROOT = Path(__file__).resolve().parent.parent
ALSO_LEFT_OUT = {"stack", "unstack"}
"""Many networks at once: their layers would give away those that students write."""

SELFCHECK = ["__init__", "stages", "items", "free", "fresh", "judge", "reasons", "nbgrader", "worker", "selfcheck"]


def student_source(source: str, stages: Collection[int], solved: Collection[int] = (), marked: bool = False) -> str:
    """Return `source` with gaps for `stages`, except those in `solved`; what belongs to no stage here is left out.

    If `marked`, the gaps hold the solution between nbgrader's marks.
    """
    wanted = {*stages, *solved}
    lines, tree, found = source.splitlines(keepends=True), ast.parse(source), owners(source)
    classes = {node.name: node for node in tree.body if isinstance(node, DEFINITION)}
    kept = {name.split(".")[0] for name, (_, formulas) in found.items() if {*map(stage_of, formulas)} & wanted}
    kept.add("Module")
    for name in list(kept):  # and what these derive from
        kept |= {base.id for base in getattr(classes[name], "bases", ()) if isinstance(base, ast.Name)}
    left_out = ({name.split(".")[0] for name in found} - kept) | ALSO_LEFT_OUT
    edits: list[tuple[int, int, list[str]]] = []
    gaps = set()
    for name, (function, formulas) in found.items():
        numbers = {*map(stage_of, formulas)} - {*solved}
        if name.split(".")[0] in kept and numbers:
            own = lines[function.body[0].end_lineno : function.end_lineno] if marked else []
            edits.append(_gap(function, formulas, min(numbers & wanted or numbers), own))
            gaps.add(name)
    edits += [  # aliases of what is left out
        (node.lineno, node.end_lineno, [])
        for node in tree.body
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Name) and node.value.id in left_out
    ]
    edits += [(_start(classes[name]), classes[name].end_lineno, []) for name in left_out]
    for first, last, new in sorted(edits, reverse=True):
        lines[first - 1 : last] = new
    text = re.sub(rf"\bisinstance\([\w.]+, (?:{'|'.join(left_out)})\)", "False", "".join(lines))
    text = _without_unused(text)
    there = _defined(ast.parse(text).body)
    public = re.compile(r"^(__all__ \+?= )\[(.*)\]$", flags=re.MULTILINE)
    text = public.sub(lambda m: f"{m[1]}[{', '.join(n for n in m[2].split(', ') if n[1:-1] in there)}]", text)
    text = text.replace("__all__ += []\n", "")
    loops = re.compile(r"^(for \w+ in )(\w+(?:, \w+)*):$", flags=re.MULTILINE)
    text = loops.sub(lambda m: f"{m[1]}[{', '.join(n for n in m[2].split(', ') if n not in left_out)}]:", text)
    for name in gaps:  # formulas that are also stated elsewhere, such as at the top
        for stated in re.findall(r"\(F\d+\) (\S+ = [^,.;:\n]+)[,.]", ast.get_docstring(found[name][0]) or ""):
            text = text.replace(stated, stated.split(" = ")[0])
    text = re.sub(r"\n{4,}", "\n\n\n", text)
    return re.sub(r"# -{50,}\n# [IV]+\. [^\n]*\n\s*(?=# -{50,}\n# [IV]+\. )", "", text)  # a part with nothing in it


def _start(node: ast.AST) -> int:
    return min([node.lineno, *(d.lineno for d in getattr(node, "decorator_list", []))])


def _gap(function: ast.FunctionDef, formulas: list[str], stage: int, solution: list[str]) -> tuple[int, int, list[str]]:
    indent = " " * (function.col_offset + 4)
    text = ast.get_docstring(function) or ""
    before = text.split("(F")[0].strip() if not text.startswith("(F") else ""
    handout = re.search(r"Handouts? [\d-]+(?:, p\. [\d/]+)?", text)
    sections = re.search(r"\n\n(Args|Returns|Raises):\n.*", text, flags=re.DOTALL)
    head = before or ", ".join(f"({formula})" for formula in formulas) + "."
    if before:
        head += " " + ", ".join(f"({formula})" for formula in formulas) + "."
    if handout and handout[0] not in head:
        head += f" {handout[0]}."
    body = head + (sections[0].rstrip() if sections else "")
    doc = f'"""{body}\n"""' if "\n" in body else f'"""{body}"""'
    what = f"stage {stage}: {', '.join(formulas)}"
    new = [*doc.splitlines(), f"# S{what[1:]}", f'raise NotImplementedError("{what}")']
    if solution:
        new[-1:] = ["### BEGIN SOLUTION", "### END SOLUTION"]
    new = [f"{indent}{line}\n" if line else "\n" for line in new]
    new[-1:-1] = solution
    return function.body[0].lineno, function.body[-1].end_lineno, new


def _defined(nodes: Collection[ast.stmt]) -> set[str]:
    """Return the names of the functions, classes and variables that are defined."""
    names = {node.name for node in nodes if isinstance(node, DEFINITION)}
    return names | {target.id for node in nodes for target in getattr(node, "targets", ()) if hasattr(target, "id")}


def _without_unused(source: str) -> str:
    """Leave out private functions and classes, and variables, that nothing mentions any more."""
    while True:
        tree = ast.parse(source)
        named = [
            n.id if isinstance(n, ast.Name) else n.attr
            for n in ast.walk(tree)
            if isinstance(n, ast.Attribute) or (isinstance(n, ast.Name) and isinstance(n.ctx, ast.Load))
        ]
        names = {node: name for node in tree.body for name in _defined([node]) if name[:2] != "__"}
        unused = [n for n, name in names.items() if name not in named and f'"{name}"' not in source]
        unused = [n for n in unused if isinstance(n, ast.Assign) or names[n][0] == "_"]
        if not unused:
            return source
        lines = source.splitlines(keepends=True)
        for node in reversed(unused):
            first = _start(node)
            while lines[first - 2].startswith("# ") and not lines[first - 2].startswith("# -"):
                first -= 1  # its comment
            del lines[first - 1 : node.end_lineno]
        source = "".join(lines)


def _listed(stages: Collection[int], comma: str = ",") -> str:
    return comma.join(map(str, sorted(stages)))


def _other_gaps(edition: str, own: Collection[int]) -> str:
    """Return in words the stages, other than `own`, of which an edition has gaps; nothing if there are none."""
    others = {*map(int, re.findall(r'raise NotImplementedError\("stage (\d)', edition))} - {*own}
    return f"stage{'s' * (len(others) > 1)} {_listed(others, ' and ')}" if others else ""


def statement(edition: str, stages: Collection[int], solved: Collection[int]) -> str:
    """Return the assignment in words: what to write, for how many points, and how to check it."""
    rows = []
    for stage in STAGES:
        if stage.number in stages and stage.number not in solved:
            items = [item for item in ITEMS if item.stage == stage.number]
            points = sum(item.points for item in items)
            rows.append(f"\n## Stage {stage.number}: {stage.title} ({points} points)\n")
            rows += [f"- {item.what} ({', '.join(item.formulas)}): {item.points}" for item in items]
    own = sorted({*stages} - {*solved})
    which = f"Stages {_listed(solved, ', ')} are" if len(solved) > 1 else f"Stage {_listed(solved)} is"
    given = f"{which} solved for you.\n" if solved else ""
    if others := _other_gaps(edition, own):
        given += f"Gaps of {others} earn no points here, but what you write may need them.\n"
    whole = "\nOnly the network that learns, in stage 5, needs everything." if 5 in own else ""
    return f"""# Write a deep-learning framework

`diy.py` is a framework with gaps. Each gap names its stage and the numbers of its formulas, which the lecture and
the notebooks derive; its docstring says what comes in and what goes out. Fill in the gaps in the order of the stages.
Keep the names and arguments; how you compute is up to you: loops, matrix products or NumPy, with `remember` and
`recall` or attributes of your own. Results from PyTorch's automatic differentiation or `torch.nn` do not count.
{given}
    pip install torch
    python grade.py diy.py            # checks what you have, stage by stage; as often as you like
    python grade.py diy.py --stage {own[0] if own else 1}  # one stage

The notebooks derive the formulas, and check what you have written. To use them:

    pip install jupyterlab matplotlib scikit-learn
    jupyter lab

Hand in `diy.py`, with everything that you have written in this one file. Your teacher's grader asks the same questions
with other numbers, and judges each class as if the others were right: a mistake in one costs nothing in another.{whole}
`grade.py` has no solution to take the others from, and may count fewer points than you will get.
{chr(10).join(rows)}
"""


def write(
    out: Path, stages: Collection[int], solved: Collection[int] = (), modules: Collection[str] = ()
) -> list[Path]:
    """Write the handout into the new folder `out`; return its files.

    Raises:
        FileExistsError: `out` is not empty: a handout is never written over a student's work.
    """
    source = (ROOT / "diy.py").read_text(encoding="utf-8")
    edition, own = student_source(source, stages, solved), {*stages} - {*solved}
    files = {"diy.py": edition + fresh.gaps(modules), **notebooks.handout(edition, source, own)}
    files["README.md"] = statement(edition, stages, solved) + fresh.statement(modules)
    return _write(out, files, {"stages": sorted(stages), "solved": sorted(solved), "modules": list(modules)})


def write_nbgrader(out: Path, stages: Collection[int], solved: Collection[int] = ()) -> list[Path]:
    """Write what belongs into the folder source/NAME of an nbgrader course; see `write`."""
    source = (ROOT / "diy.py").read_text(encoding="utf-8")
    edition = student_source(source, stages, solved)
    words = statement(edition, stages, solved)
    words = words[: words.index("    pip install torch")] + "Run the cells from top to bottom.\n"
    marked = student_source(source, stages, solved, marked=True)
    files = {"diy.py": edition, "framework.ipynb": nbgrader.notebook(marked, edition, words, {*stages} - {*solved})}
    return _write(out, files, {"stages": sorted(stages), "solved": sorted(solved), "modules": []})


def write_free(out: Path) -> list[Path]:
    """Write the handout for frameworks of the students' own; see `write`."""
    return _write(out, {"adapters.py": free.ADAPTERS, "README.md": free.statement()}, {"free": True})


def _write(out: Path, files: dict[str, str], settings: dict[str, Any]) -> list[Path]:
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise FileExistsError(f"{out} is not an empty folder: choose a new folder")
    files["grade.py"] = (
        '"""Check what you have written, stage by stage: python grade.py"""\n\n'
        "import sys\n\ntry:\n    from selfcheck.selfcheck import main\nexcept ModuleNotFoundError as error:\n"
        '    sys.exit(f"grade.py: {error}. It needs PyTorch: pip install torch")\n'
        'except KeyboardInterrupt:\n    sys.exit("grade.py: interrupted")\n\n'
        'if __name__ == "__main__":\n    main()\n'
    )
    for name in SELFCHECK:
        text = (Path(__file__).parent / f"{name}.py").read_text(encoding="utf-8")
        files[f"selfcheck/{name}.py"] = text.replace("from classroom", "from selfcheck").replace(
            "from gradcheck", "from selfcheck.gradcheck"
        )
    files["selfcheck/gradcheck.py"] = (ROOT / "gradcheck.py").read_text(encoding="utf-8")
    files["selfcheck/settings.json"] = json.dumps(settings) + "\n"
    for name, text in files.items():
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        (out / name).write_text(text, encoding="utf-8")
    return sorted(path for path in out.rglob("*") if path.is_file())


def main(arguments: list[str] | None = None) -> None:
    parser = Parser("python -m classroom.edition", __doc__)
    parser.add_argument("--stages", metavar="N-M", help="what students write (1-5)")
    parser.add_argument("--solved", default="", metavar="N-M", help="stages handed out already solved")
    parser.add_argument(
        "--modules", nargs="*", default=[], choices=list(fresh.MODULES), metavar="NAME",
        help=f"this year's extra exercises, from {', '.join(fresh.MODULES)}",
    )  # fmt: skip
    parser.add_argument("--out", type=Path, default=Path("handout"), metavar="DIR", help="a new folder (%(default)s)")
    parser.add_argument(
        "--free", action="store_true", help="students design their own framework, as in 2019, and write an adapters.py"
    )
    parser.add_argument(
        "--nbgrader", action="store_true", help="write a source notebook for nbgrader; --out is its folder source/NAME"
    )
    options = parser.parse_args(arguments)
    given = {f"--{name}": value for name, value in vars(options).items() if value and name != "out"}
    alone = "--free" if options.free else "--nbgrader"  # with which others mean nothing
    mute = given.keys() - {"--free"} if options.free else given.keys() & {"--modules"} if options.nbgrader else ()
    if mute:
        parser.error(f"{alone} cannot be combined with {' and '.join(sorted(mute))}")
    try:
        if options.free:
            files = write_free(options.out)
            print(f"{options.out}: README.md, adapters.py, grade.py and what it needs ({len(files)} files)")
            return
        stages = parse_stages(options.stages or "1-5")
        solved = parse_stages(options.solved) if options.solved else []
        if both := {*stages} & {*solved}:
            raise ValueError(f"--stages and --solved both hold {_listed(both)}: a stage is either written or solved")
        if 5 in stages and (missing := {1, 2, 3, 4} - {*stages, *solved}):
            raise ValueError(f"stage 5 trains a network: add {_listed(missing)} to --stages or --solved")
        if options.nbgrader:
            files = write_nbgrader(options.out, stages, solved)
            print(f"{options.out}: framework.ipynb, diy.py and what they need ({len(files)} files)")
            return
        files = write(options.out, stages, solved, options.modules)
    except (ValueError, OSError) as error:
        sys.exit(f"{parser.prog}: {error}")
    written = (options.out / "diy.py").read_text(encoding="utf-8")
    gaps = len(re.findall('raise NotImplementedError\\("(?:stage|this year)', written))
    print(f"{options.out}: diy.py with {gaps} gaps, README.md, grade.py and what it needs ({len(files)} files)")
    modules = f" --modules {' '.join(options.modules)}" if options.modules else ""
    if others := _other_gaps(written, stages):
        print(f"it also has gaps of {others}, which earn no points; --solved fills them in")
    print(f"to grade: python -m classroom.grade FOLDER --stages {_listed(stages)}{modules}")


if __name__ == "__main__":
    run_command("python -m classroom.edition", main, "the edition is incomplete")
