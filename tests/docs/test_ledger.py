"""The ledger of formulas: every number has a docstring, a derivation and a test, and the table is up to date."""

import json

import pytest

from docs import ledger

FORMULAS = ledger.collect()
CHAPTERS = [(range(1, 21), "02_"), (range(21, 50), "08_")]
"""Which numbers are derived by the time that which notebook exists."""


def test_there_are_formulas():
    assert {"F1", "F2", "F18", "F19"} <= set(FORMULAS)


@pytest.mark.parametrize("number", FORMULAS)
def test_a_formula_stands_in_one_docstring(number):
    assert len(FORMULAS[number].coded) == 1, f"{number} stands in {FORMULAS[number].coded or 'no docstring'} of diy.py"
    assert FORMULAS[number].texts[0], "the formula follows its number"


@pytest.mark.parametrize("number", FORMULAS)
def test_a_formula_has_a_test(number):
    assert FORMULAS[number].tested, f'no test is marked with @pytest.mark.formula("{number}")'


@pytest.mark.parametrize("number", FORMULAS)
def test_a_formula_is_derived_in_a_notebook(number):
    chapter = next(start for numbers, start in CHAPTERS if int(number[1:]) in numbers)
    written = any(path.name.startswith(chapter) for path in (ledger.ROOT / "notebooks").glob("*.ipynb"))
    assert FORMULAS[number].derived or not written, f"no notebook has \\tag{{{number}}}"


def test_the_table_is_up_to_date():
    assert ledger.main(["--check"]) == 0, "run: python docs/ledger.py"


# The generator itself, on a small project


@pytest.fixture
def project(tmp_path):
    for folder in ("notebooks", "tests"):
        (tmp_path / folder).mkdir()
    (tmp_path / "diy.py").write_text(
        '"""Formulas have numbers, (F1) and so on."""\n'
        "class Linear:\n"
        '    """A layer."""\n'
        "    def forward(self):\n"
        '        """(F1) S = X Wᵀ + b, by rows. Handout 3-6, p. 8.\n\n        More words."""\n'
        "    def backward(self):\n"
        '        """Two gradients.\n\n'
        "        (F2) ∂W = Gᵀ X    by index: a sum\n"
        "        (F10) mean: a    (F3) sum: |b|.\n"
        '        """\n',
        encoding="utf-8",
    )
    cells = [
        {"cell_type": "markdown", "source": ["$$a \\tag{F2}$$ and ", "$$b \\tag{F1}$$"]},
        {"cell_type": "code", "source": ["print('\\tag{F3}')"]},
    ]
    (tmp_path / "notebooks" / "01_one.ipynb").write_text(json.dumps({"cells": cells}), encoding="utf-8")
    (tmp_path / "tests" / "test_one.py").write_text(
        '@pytest.mark.formula("F1", "F2")\n@given(3)\ndef test_a(): pass\n'
        '@pytest.mark.formula("F4")\ndef test_b(): pass\n',
        encoding="utf-8",
    )
    return tmp_path


def test_what_is_collected(project):
    formulas = ledger.collect(project)
    assert list(formulas) == ["F1", "F2", "F3", "F4", "F10"], "in the order of the numbers"
    assert formulas["F1"] == ledger.Formula(
        ["S = X Wᵀ + b, by rows"], ["Linear.forward"], ["01_one.ipynb"], [("test_one.py", "test_a")]
    )
    assert [formulas[number].texts for number in ("F2", "F10", "F3")] == [["∂W = Gᵀ X"], ["mean: a"], ["sum: |b|"]]
    assert formulas["F3"].derived == [], "a tag in code is no derivation"
    assert formulas["F4"].coded == [] and formulas["F4"].tested == [("test_one.py", "test_b")]


def test_the_table(project):
    lines = ledger.table(ledger.collect(project)).splitlines()
    assert lines[-5] == (
        "| F1 | S = X Wᵀ + b, by rows | `Linear.forward` | [01_one](../notebooks/01_one.ipynb) "
        "| [test_one.py](../tests/test_one.py): `test_a` |"
    )
    assert lines[-3].startswith("| F3 | sum: \\|b\\| |")


def test_the_command(project, monkeypatch, capsys):
    monkeypatch.setattr(ledger, "LEDGER", project / "ledger.md")
    monkeypatch.setattr(ledger, "collect", lambda: {})
    assert ledger.main(["--check"]) == 1 and "run python docs/ledger.py" in capsys.readouterr().err
    assert ledger.main([]) == 0 and ledger.main(["--check"]) == 0
    (project / "ledger.md").write_text("another text", encoding="utf-8")
    assert ledger.main(["--check"]) == 1 and (project / "ledger.md").read_text(encoding="utf-8") == "another text"
    assert ledger.main(["--help"]) == 0 and ledger.main(["--nonsense"]) == 2
