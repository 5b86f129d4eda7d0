"""The whole project is free of ruff's findings and formatted by it, with the settings of pyproject.toml."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize(
    "command", [("check", "--output-format=concise"), ("format", "--check", "--diff")], ids=" ".join
)
def test_ruff_has_nothing_to_say(command):
    run = subprocess.run([sys.executable, "-m", "ruff", *command, "."], cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr
