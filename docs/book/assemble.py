"""Gather the pages of the book in one folder, for Sphinx: copies of what is committed, and pages made from the code.

In the copies, a link to a file that is not a page of the book leads to a page with its source, if it is Python, and to
the public repository otherwise.
"""

import posixpath
import re
import shutil
from pathlib import Path

import nbformat

from docs import ledger

ROOT = Path(__file__).resolve().parents[2]
HERE = Path(__file__).parent
REPOSITORY = re.search(r'^Repository = "(.*)"$', (ROOT / "pyproject.toml").read_text(encoding="utf-8"), re.MULTILINE)[1]
"""The address of the public repository."""

PAGES = ["docs/teaching.md", "docs/scale.md", "docs/book/index.md", "docs/book/playground.md", "README.md"]
"""Pages that are taken as they are. The index includes part of README.md."""


def assemble(folder: Path) -> None:
    """Write all pages of the book to `folder`, where they stand in the project; the index goes to the top."""
    notebooks = sorted(path.relative_to(ROOT).as_posix() for path in ROOT.glob("notebooks/[0-9]*.ipynb"))
    texts = {path: (ROOT / path).read_text(encoding="utf-8") for path in [*PAGES, *notebooks]}
    texts |= {
        "docs/ledger.md": formulas(),
        "docs/diy.md": interface("diy"),
        "docs/gradcheck.md": interface("gradcheck"),
    }
    pages = set(texts) - {"README.md"}
    for path, text in texts.items():
        if path in notebooks:
            notebook = nbformat.reads(text, as_version=4)
            for cell in notebook.cells:
                if cell.cell_type == "markdown":
                    cell.source = relink(cell.source, path, pages)
                elif cell.metadata.get("jupyter", {}).get("source_hidden"):  # folded in JupyterLab, and so here
                    cell.metadata.tags = [*cell.metadata.get("tags", []), "hide-input"]
            text = nbformat.writes(notebook)
        else:
            text = relink(text, path, pages)
        page = folder / ("index.md" if path == "docs/book/index.md" else path)
        page.parent.mkdir(parents=True, exist_ok=True)
        page.write_text(text, encoding="utf-8")
    shutil.copytree(ROOT / "docs" / "pictures", folder / "docs" / "pictures")


def relink(text: str, page: str, pages: set[str]) -> str:
    """Return Markdown whose links to files outside the book lead to source pages or to the repository."""

    def target(match: re.Match) -> str:
        fragment = match["fragment"] or ""
        place = posixpath.normpath(posixpath.join(posixpath.dirname(page), match["name"]))
        if not (ROOT / place).exists():
            return match[0]  # Sphinx reports it
        if place in pages or place.endswith(".png"):
            return f"](/{place}{fragment})"
        if place.endswith((".py", ".html")):
            return f"](source:{place}{fragment})"
        return f"]({REPOSITORY}/{'tree' if (ROOT / place).is_dir() else 'blob'}/main/{place}{fragment})"

    return re.sub(r"\]\((?!\w+:|#)(?P<name>[^)#\s]+)(?P<fragment>#[^)\s]*)?\)", target, text)


# Pages made from the code


def formulas() -> str:
    """Return the ledger with links to the code and to each test, and a target for each number."""
    rows = []
    for number, formula in ledger.collect().items():
        coded = ", ".join(f"{{py:obj}}`{owner} <diy.{owner}>`" for owner in formula.coded)
        derived = ", ".join(
            f"[notebook {int(name[:2])}](derivation:{number})" for name in dict.fromkeys(formula.derived)
        )
        tested = ", ".join(f"[{words(test)}](source:tests/{file}#{test})" for file, test in formula.tested)
        text = "; ".join(formula.texts).replace("|", "\\|")
        rows.append(f'| <a id="{number}"></a>{number} | {text} | {coded} | {derived} | {tested} |\n')
    return ledger.HEAD + "".join(rows)


def words(test: str) -> str:
    """Return the sentence that the name of a test is."""
    return test.removeprefix("test_").replace("_", " ")


def interface(module: str) -> str:
    """Return the page of a module: its public classes and functions, in the order and the parts of its source."""
    source = (ROOT / f"{module}.py").read_text(encoding="utf-8").partition("\n# V. ")[0]
    text = f"# {module}.py\n\n[The whole file](source:{module}.py).\n" + directive("automodule", module, "no-members")
    for part, kind, name in re.findall(r"^(?:# ([IV]+\. .*)|(class|def) ([^_]\w*))", source, re.MULTILINE):
        if part:
            text += f"\n## {part}\n"
        elif kind == "class":
            text += directive("autoclass", f"{module}.{name}", "members")
        else:
            text += directive("autofunction", f"{module}.{name}")
    return text


def directive(name: str, argument: str, *options: str) -> str:
    return f"\n```{{eval-rst}}\n.. {name}:: {argument}\n{''.join(f'   :{option}:' for option in options)}\n```\n"
