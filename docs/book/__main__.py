"""Build the book from the committed notebooks and pages, without executing anything and without a network.

python -m docs.book           to results/book, where index.html is its first page
python -m docs.book DIR       to another folder
"""

from experiments.begin import begin_command

if __name__ == "__main__":
    begin_command("python -m docs.book")

import argparse
import shutil
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import diy  # before Sphinx, which would take Ctrl-C for a mistake in it
from docs.book import assemble
from experiments.commandline import CommandError, run_command

PROG = "python -m docs.book"
HERE = Path(__file__).parent
MARK = ".buildinfo"
"""A file that Sphinx leaves in what it has built."""


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog=PROG, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    usual = assemble.ROOT / "results" / "book"
    parser.add_argument("folder", nargs="?", type=Path, default=usual, help="where the book goes (results/book)")
    folder = parser.parse_args(arguments).folder
    folder.mkdir(parents=True, exist_ok=True)
    if any(folder.iterdir()) and not (folder / MARK).exists():
        raise CommandError(f"{folder} holds something other than a book: choose a new folder")
    if not diy.__doc__:
        raise CommandError("the book is made of docstrings, which python -OO leaves out: build without -OO")
    try:
        from sphinx.cmd.build import main as sphinx
    except ModuleNotFoundError:
        raise CommandError("the book needs Sphinx and more: pip install -r docs/requirements.txt") from None
    start = time.perf_counter()
    with TemporaryDirectory() as place:
        source, built = Path(place) / "source", Path(place) / "book"
        source.mkdir()
        assemble.assemble(source)
        # A warning is an error: a link that leads nowhere, a docstring that cannot be read.
        options = ["--quiet", "--fail-on-warning", "--keep-going", "--conf-dir", str(HERE)]
        failed = sphinx([*options, "--doctree-dir", f"{place}/doctrees", str(source), str(built)])
        if not failed:
            page = Path("docs", "playground", "index.html")
            (built / page).parent.mkdir()
            shutil.copyfile(assemble.ROOT / page, built / page)
            (folder / MARK).touch()
            shutil.copytree(built, folder, copy_function=shutil.copyfile, dirs_exist_ok=True)  # all can be replaced
            print(f"{folder / 'index.html'}, {time.perf_counter() - start:.0f} s")
    return failed


if __name__ == "__main__":
    run_command(PROG, main, "run it again for a whole book")
