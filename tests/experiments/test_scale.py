"""What docs/scale.md and benchmarks/scale.py say and do."""

import itertools
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from benchmarks import scale
from benchmarks.contenders import Task
from experiments.circle import Protocol, build_network

ROOT = Path(__file__).resolve().parents[2]


def test_the_first_example_of_the_page_runs():
    text = (ROOT / "docs" / "scale.md").read_text(encoding="utf-8")
    names = {}
    exec(re.search(r"```python\n(import torch.*?)```", text, re.DOTALL).group(1), names)
    assert names["losses"].shape == (3,) and names["third"][0].weight.shape == (25, 2)


def test_a_network_is_kept_and_read_as_the_page_says(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = (ROOT / "docs" / "scale.md").read_text(encoding="utf-8")
    example = re.search(r"```python\n(from safetensors.*?)```", text, re.DOTALL).group(1)
    for network, twin in itertools.product(*[[build_network(library) for library in ("diy", "torch")]] * 2):
        before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
        exec(example, {"network": network})
        twin.load_state_dict(load_file("network.safetensors"))
        for found in (network, twin):
            assert all(torch.equal(found.state_dict()[name], tensor) for name, tensor in before.items())


def test_speed_compares_stacks_with_a_network_alone(monkeypatch):
    monkeypatch.setattr(scale, "SIZES", (2,))
    monkeypatch.setattr(scale, "TASK", Task(samples=100))
    found = scale.speed(rounds=1)
    assert list(found) == list(scale.RECIPES)
    for rows in found.values():
        assert list(rows) == ["alone", "2"] and rows["alone"]["ratio"] == 1
        assert rows["2"]["ratio"] == pytest.approx(rows["2"]["microseconds"] / rows["alone"]["microseconds"])


def test_a_record_is_what_one_round_leaves(monkeypatch):
    monkeypatch.setattr(scale, "Protocol", lambda: Protocol(epochs=1))
    record = scale.record()
    assert set(record) == {"seconds", "loss", "train_error", "test_error", "predictions"}
    assert re.fullmatch("[01]{1000}", record["predictions"]) and len(record["loss"]) == 1
    assert scale.storing(count=2) > 0
