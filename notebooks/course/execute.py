"""Execute the notebooks and write their outputs back. A second run on the same machine changes nothing.

    python -m course.execute                 all of them
    python -m course.execute 01 05           those whose names begin with 01 or 05
    python -m course.execute --check         write nothing; the exit status is 1 if something would change

The figure of the cell tagged "picture" is also written to docs/pictures/, under the notebook's number. The first code
cell of each notebook is a copy of fetch.py; the book leaves it out.
"""

import argparse
import base64
import os
import re
import sys
import time
from configparser import ConfigParser
from pathlib import Path

import nbformat
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from nbclient.util import run_sync
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell

from experiments.commandline import CommandError, run_command
from experiments.results import write_atomically

PROG, KEPT = "python -m course.execute", "finished notebooks are written"
FOLDER = Path(__file__).resolve().parent.parent
PICTURES = FOLDER.parent / "docs" / "pictures"
LONGEST = 300
"""Seconds that a cell may take."""


def notebooks() -> list[Path]:
    """Return the paths of all notebooks in reading order."""
    return sorted(FOLDER.glob("[0-9][0-9]_*.ipynb"))


def provide(notebook: NotebookNode) -> None:
    """Put the cell that fetches the project, in its present form, before all other code."""
    metadata = {"jupyter": {"source_hidden": True}, "tags": ["setup", "remove-cell"]}
    source = Path(__file__).with_name("fetch.py").read_text(encoding="utf-8").strip()
    counts = [cell.execution_count for cell in notebook.cells if cell.id == "fetch"]
    fetch = new_code_cell(source, id="fetch", metadata=metadata, execution_count=next(iter(counts), None))
    notebook.cells = [cell for cell in notebook.cells if cell.id != fetch.id]
    first = next(index for index, cell in enumerate(notebook.cells) if cell.cell_type == "code")
    notebook.cells.insert(first, fetch)


def execute(notebook: NotebookNode) -> None:
    """Run all cells in a fresh kernel of this Python, in the notebooks' folder; outputs replace the former ones.

    Raises:
        nbclient.exceptions.CellExecutionError: a cell raised an exception.
    """
    manager = AsyncKernelManager(kernel_name="python3")
    kernel = [sys.executable, "-m", "ipykernel_launcher", "--log-level=ERROR"]
    manager.kernel_spec.argv = [*kernel, "-f", "{connection_file}"]
    client = NotebookClient(
        notebook,
        km=manager,
        timeout=LONGEST,
        resources={"metadata": {"path": str(FOLDER)}},
        record_timing=False,
        store_widget_state=False,
        coalesce_streams=True,
    )
    try:  # not client.execute, which would keep Ctrl-C from us, and the kernel alive
        client.reset_execution_trackers()
        client.start_new_kernel()
        client.start_new_kernel_client()
        for index, cell in enumerate(notebook.cells):
            client.execute_cell(cell, index, execution_count=client.code_cells_executed + 1)
    finally:
        if manager.has_kernel:
            run_sync(manager.shutdown_kernel)(now=True)


def normalize(notebook: NotebookNode) -> None:
    """Drop from an executed notebook everything that depends on time, place or front end."""
    sanitize = ConfigParser(interpolation=None)
    sanitize.read(Path(__file__).parent / "sanitize.cfg", encoding="utf-8")
    addresses = sanitize["addresses"]

    def masked(value):
        if isinstance(value, str):
            return re.sub(addresses["regex"], addresses["replace"], value)
        if isinstance(value, dict):
            value.update({key: masked(part) for key, part in value.items()})
        elif isinstance(value, list):
            value[:] = [masked(part) for part in value]
        return value

    for cell in notebook.cells:
        cell.metadata = NotebookNode({k: v for k, v in cell.metadata.items() if k in ("tags", "jupyter")})
        if cell.cell_type == "code":
            for output in cell.outputs:  # a widget is nothing without its kernel: the output's other forms are shown
                output.get("data", {}).pop("application/vnd.jupyter.widget-view+json", None)
            masked(cell.outputs)
    notebook.metadata = NotebookNode(
        kernelspec={"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"},
        language_info={"name": "python"},
    )
    notebook.nbformat, notebook.nbformat_minor = 4, 5


def picture(notebook: NotebookNode) -> bytes | None:
    """Return the first PNG of the cell tagged "picture", if there is one."""
    for cell in notebook.cells:
        if cell.cell_type == "code" and "picture" in cell.metadata.get("tags", []):
            for png in pictures(cell):
                return png
    return None


def pictures(cell: NotebookNode) -> list[bytes]:
    """Return the PNGs in a cell's HTML, as `course.show` and `course.film` write them."""
    html = "".join(output.get("data", {}).get("text/html", "") for output in cell.outputs)
    return [base64.b64decode(data) for data in re.findall(r'src="data:image/png;base64,([^"]*)"', html)]


def update(path: Path, content: bytes, write: bool) -> bool:
    """Write `content` if it differs from the file's, unless told not to; return whether it differs."""
    if path.is_file() and path.read_bytes() == content:
        return False
    if write:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, content)
    return True


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog=PROG, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", help="beginnings of the notebooks' names, such as 01; default: all")
    parser.add_argument("--check", action="store_true", help="write nothing, only say what would change")
    options = parser.parse_args(arguments)
    for name in options.names:
        if not any(path.name.startswith(name) for path in notebooks()):
            parser.error(f"no notebook begins with {name!r}; there are {[path.name for path in notebooks()]}")
    chosen = [path for path in notebooks() if not options.names or path.name.startswith(tuple(options.names))]
    changed = False
    os.environ.pop("MPLBACKEND", None)  # kernels choose their own
    for path in chosen:
        start = time.perf_counter()
        try:
            notebook = nbformat.read(path, as_version=4)
            provide(notebook)
        except (ValueError, nbformat.ValidationError, LookupError, AttributeError, StopIteration) as error:
            why = type(error).__name__
            raise CommandError(f"{path.name} is damaged, or a notebook without code ({why}); {KEPT}") from error
        try:
            execute(notebook)
        except CellExecutionError as error:
            raise CommandError(f"{path.name}: a cell raised {error.ename}: {error.evalue}; {KEPT}") from error
        except TimeoutError:
            raise CommandError(f"{path.name}: a cell took more than {LONGEST} s; {KEPT}") from None
        except RuntimeError as error:
            raise CommandError(f"{path.name}: its kernel died, or did not start; {KEPT}") from error
        normalize(notebook)
        files = {path: (nbformat.writes(notebook) + "\n").encode()}
        if (png := picture(notebook)) is not None:
            files[PICTURES / f"{path.name[:2]}.png"] = png
        differs = [update(file, content, write=not options.check) for file, content in files.items()]
        changed |= any(differs)
        verdict = "unchanged" if not any(differs) else "would change" if options.check else "written"
        print(f"{path.name}: {verdict}, {time.perf_counter() - start:.0f} s", flush=True)
    return 1 if options.check and changed else 0


if __name__ == "__main__":
    run_command(PROG, main, KEPT)
