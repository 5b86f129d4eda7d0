"""What docs/scale.md and benchmarks/scale.py say and do."""

import importlib.util
import re
from pathlib import Path

import pytest

from experiments.circle import Protocol

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def scale():
    spec = importlib.util.spec_from_file_location("scale", ROOT / "benchmarks" / "scale.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_first_example_of_the_page_runs():
    text = (ROOT / "docs" / "scale.md").read_text(encoding="utf-8")
    names = {}
    exec(re.search(r"```python\n(import torch.*?)```", text, re.DOTALL).group(1), names)
    assert names["losses"].shape == (3,) and names["third"][0].weight.shape == (25, 2)


def test_files_and_commands_that_the_page_names_exist():
    text = (ROOT / "docs" / "scale.md").read_text(encoding="utf-8")
    named = set(re.findall(r"\b[\w/]+\.py\b", text))
    assert len(named) >= 4
    for name in named:
        assert (ROOT / name).exists(), name


def test_speed_compares_stacks_with_a_network_alone(scale, monkeypatch):
    monkeypatch.setattr(scale, "SIZES", (2,))
    monkeypatch.setattr(scale, "SAMPLES", 100)
    found = scale.speed(rounds=1)
    assert list(found) == list(scale.RECIPES)
    for rows in found.values():
        assert list(rows) == ["alone", "2"] and rows["alone"]["ratio"] == 1
        assert rows["2"]["ratio"] == pytest.approx(rows["2"]["microseconds"] / rows["alone"]["microseconds"])


def test_stacks_and_single_networks_do_the_same_work(scale, monkeypatch):
    monkeypatch.setattr(scale, "SAMPLES", 200)
    steps = []
    monkeypatch.setattr(scale.diy.SGD, "step", lambda self: steps.append([p.grad.dim() for p in self.parameters]))
    for epoch in (scale.epoch_alone(*scale.RECIPES["SGD"]), scale.epoch_together(3, *scale.RECIPES["SGD"])):
        epoch()
    assert [max(dims) for dims in steps] == [2, 2, 3, 3]  # two batches each, every parameter with a gradient


def test_a_record_is_what_one_round_leaves(scale, monkeypatch):
    monkeypatch.setattr(scale, "Protocol", lambda: Protocol(epochs=1))
    record = scale.record()
    assert set(record) == {"seconds", "loss", "train_error", "test_error", "predictions"}
    assert re.fullmatch("[01]{1000}", record["predictions"]) and len(record["loss"]) == 1
    assert scale.storing(count=2) > 0
