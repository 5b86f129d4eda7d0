"""A short run of the differential fuzzing, and the cases that once differed."""

import pytest

from tests import fuzz

FOUND: dict[str, int] = {}
"""What each seed once found, by name."""


@pytest.mark.parametrize("seed", range(60))
def test_a_random_network_takes_pytorchs_steps(seed):
    assert fuzz.difference(seed) == ""


def test_a_difference_is_noticed_and_told(monkeypatch, capsys):
    monkeypatch.setattr(fuzz.diy.Tanh, "backward", lambda self, gradient: self.recall(gradient)[0])
    assert fuzz.main(["--cases", "20"]) == 1
    told = capsys.readouterr().out
    assert "gradient of" in told and "Tanh()" in told and "of 20 cases differ" in told
