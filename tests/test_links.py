"""Every link of the pages leads somewhere, and every file that they name is there."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGES = sorted(path for path in ROOT.rglob("*.md") if not {".venv", "mutants", "results"} & {*path.parts})


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    text = page.read_text(encoding="utf-8")
    for target in re.findall(r"(?:\]\(|src=\")(?!https?://|#|mailto:)([^)#\"]+)", text):
        assert (page.parent / target).exists(), target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_files_that_are_named_exist(page):
    text = page.read_text(encoding="utf-8")
    for name in re.findall(r"`([\w./]+/[\w./]*\.(?:py|md|json|ipynb|typ|cfg))`", text):
        assert any((folder / name).exists() for folder in (ROOT, page.parent)), name


def test_commands_that_are_named_exist():
    text = "\n".join(page.read_text(encoding="utf-8") for page in PAGES)
    rooms = "benchmarks|bugs|classroom|course|docs|experiments|playground|report|tests"
    modules = set(re.findall(rf"(?:python|nproc-per-node \d) -m ((?:{rooms})[\w.]*)", text))
    assert {"report.build", "experiments.sweep"} <= modules
    for module in modules:
        path = ROOT / ("notebooks" if module.startswith("course") else "") / Path(*module.split("."))
        assert path.with_suffix(".py").exists() or (path / "__main__.py").exists(), module
