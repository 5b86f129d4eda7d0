"""Every link of the pages leads somewhere, and every file that they name is there."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = sorted(path for path in ROOT.rglob("*.md") if not {".venv", "results"} & {*path.parts})


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


def test_the_public_address_is_the_same_everywhere():
    settings = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    owner, name = re.search(r'^Repository = "https://github\.com/([\w-]+)/([\w-]+)"$', settings, re.MULTILINE).groups()
    hosts = r"(?:github\.com|colab\.research\.google\.com/github|mybinder\.org/v2/gh)"
    rooms = [path for path in ROOT.iterdir() if path.name not in {".git", ".venv", "results"}]
    spelled = {}
    for path in [path for room in rooms for path in ([room] if room.is_file() else room.rglob("*.*"))]:
        if path.suffix in {".cff", ".html", ".ipynb", ".js", ".md", ".py", ".toml", ".typ", ".yml"}:
            text = path.read_text(encoding="utf-8")
            for groups in re.findall(rf"{hosts}/([\w-]+)/{name}\b|//([\w-]+)\.github\.io/{name}\b", text):
                spelled.setdefault(path.relative_to(ROOT).as_posix(), set()).update(filter(None, groups))
    assert {"README.md", "notebooks/README.md", "CITATION.cff", "notebooks/course/fetch.py"} <= set(spelled)
    assert {place: owners for place, owners in spelled.items() if owners != {owner}} == {}
