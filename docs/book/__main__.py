"""Build the book from the committed notebooks and pages, without executing anything and without a network.

python -m docs.book           to results/book, where index.html is its first page
python -m docs.book DIR       to another folder
"""

import argparse
import shutil
import time
from pathlib import Path
from tempfile import TemporaryDirectory

from docs.book import assemble
from experiments.commandline import CommandError, run_command

PROG = "python -m docs.book"
HERE = Path(__file__).parent


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog=PROG, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", nargs="?", type=Path, default=assemble.ROOT / "results" / "book")
    folder = parser.parse_args(arguments).folder
    folder.mkdir(parents=True, exist_ok=True)
    if any(folder.iterdir()) and not (folder / ".buildinfo").exists():  # which Sphinx leaves in what it has built
        raise CommandError(f"{folder} holds something other than a book: choose a new folder")
    try:
        from sphinx.cmd.build import main as sphinx
    except ModuleNotFoundError:
        raise CommandError("the book needs Sphinx and more: pip install -r docs/requirements.txt") from None
    start = time.perf_counter()
    with TemporaryDirectory() as source:
        assemble.assemble(Path(source))
        # A warning is an error: a link that leads nowhere, a docstring that cannot be read.
        options = ["--quiet", "--fail-on-warning", "--keep-going", "--conf-dir", str(HERE)]
        failed = sphinx([*options, "--doctree-dir", f"{source}/.doctrees", source, str(folder)])
    if not failed:
        shutil.copytree(assemble.ROOT / "docs" / "playground", folder / "docs" / "playground", dirs_exist_ok=True)
        print(f"{folder / 'index.html'}, {time.perf_counter() - start:.0f} s")
    return failed


if __name__ == "__main__":
    run_command(PROG, main, "the book is incomplete")
