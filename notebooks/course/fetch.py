# Where the project is not installed, as on Colab, this cell fetches it. Elsewhere it does nothing.
import importlib.util
import pathlib
import subprocess
import sys

if importlib.util.find_spec("course") is None:
    project = pathlib.Path("diy-project").resolve()
    if not project.exists():
        address = "https://github.com/diy-framework/diy"
        subprocess.run(["git", "clone", "--quiet", "--depth=1", address, project], check=True)
    sys.path[:0] = [str(project), str(project / "notebooks")]
