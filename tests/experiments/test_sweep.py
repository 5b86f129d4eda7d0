"""The sweep of the learning rate."""

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest

from experiments import circle, evaluation, figures, sweep
from experiments.circle import Protocol, Recipe
from experiments.sweep import Grid

ROOT = Path(__file__).resolve().parents[2]
SMALL = Protocol(rounds=2, epochs=3, train_size=60, test_size=40, batch_size=20, hidden=(8, 8), dropout=0.0)


@pytest.fixture(scope="module")
def small():
    return sweep.run(Grid(SMALL, (1e-3, 1e-2, 1e-1)))


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_every_network_is_the_one_that_the_evaluation_trains_alone(monkeypatch, reduction):
    grid = Grid(SMALL, (1e-3, 1e-2))
    record = sweep.train_together(grid, reduction, 1)
    for index, rate in enumerate(grid.rates):
        monkeypatch.setitem(circle.MODELS, "one", Recipe("", "diy", reduction=reduction, lr=rate))
        alone = evaluation.run_round(grid.protocol, "one", 1)
        # Nine steps in float32: sums in another order, not much more than a rounding apart
        assert record["loss"][index] == pytest.approx(alone.loss[-1], rel=1e-5)
        assert record["test_error"][index] == pytest.approx(alone.test_error)
        assert record["train_error"][index] == pytest.approx(alone.train_error)


def test_default_grid_is_400_networks():
    grid = Grid()
    assert len(grid.rates) * len(grid.reductions) * grid.protocol.rounds == 400
    assert grid.rates[0] == 1e-5 and grid.rates[-1] == pytest.approx(10)
    ratios = [math.log(b / a) for a, b in zip(grid.rates, grid.rates[1:])]
    assert max(ratios) == pytest.approx(min(ratios))
    assert (grid.protocol.epochs, grid.protocol.hidden) == (100, (25, 25, 25))


def test_a_diverging_network_is_recorded_and_disturbs_nobody():
    alone = sweep.train_together(Grid(SMALL, (1e-3,)), "sum", 0)
    record = sweep.train_together(Grid(SMALL, (1e-3, 10.0, 1e38)), "sum", 0)
    assert record["diverged"] == [False, True, True]
    assert record["loss"][2] is None and math.isfinite(record["loss"][1])
    assert record["loss"][0] == pytest.approx(alone["loss"][0], rel=1e-5)
    assert record["test_error"][0] == alone["test_error"][0]
    json.dumps(record, allow_nan=False)


def test_rounds_follow_from_seed_and_round_alone(small):
    later = sweep.run(Grid(replace(SMALL, rounds=3), small.grid.rates, ("sum",)))
    for old, new in zip(small.runs["sum"], later.runs["sum"]):
        assert {**old, "seconds": 0} == {**new, "seconds": 0}


def test_saved_results_come_back(small, tmp_path):
    assert sweep.save(small, tmp_path) == [tmp_path / "sweep.json"]
    assert sweep.load(tmp_path) == small


@pytest.mark.parametrize(
    "values", [{"rates": ()}, {"rates": (-1.0,)}, {"rates": (math.nan,)}, {"reductions": ()}, {"reductions": ("none",)}]
)
def test_a_grid_out_of_range_is_refused(values):
    with pytest.raises(ValueError, match=next(iter(values))):
        Grid(**values)


def test_the_table_names_every_rate_and_what_diverged(small):
    lines = sweep.table(small).splitlines()
    assert [float(line.split()[0]) for line in lines[2:5]] == [1e-3, 1e-2, 1e-1]
    assert lines[2].count("0 of 2") == 2 and "2 rounds" in lines[-1]
    errors = [100 * run["test_error"][0] for run in small.runs["mean"]]
    assert f"{sum(errors) / 2:.2f} ± " in lines[2]


def test_the_figure_shows_both_reductions_and_their_spread(small):
    axes = figures.learning_rates(small).axes[0]
    labels = axes.get_legend_handles_labels()[1]
    assert labels == ['reduction="sum"', 'reduction="mean"', "some diverged"]
    assert axes.get_xscale() == "log" and len(axes.collections) == 2
    assert list(axes.lines[0].get_ydata()) == pytest.approx(
        [50 * (a + b) for a, b in zip(*(run["test_error"] for run in small.runs["sum"]))]
    )


def test_the_command_writes_results_and_figure(launcher, tmp_path):
    arguments = ["--rounds", "2", "--epochs", "2", "--train-size", "20", "--test-size", "10", "--rates", "3"]
    done = launcher.run("-m", "experiments.sweep", *arguments, "--highest", "0.1", "--output", tmp_path)
    assert done.returncode == 0 and done.stderr == ""
    assert "12 networks in" in done.stdout
    assert {path.name for path in tmp_path.iterdir()} == {"rounds", "sweep.json", "sweep.pdf", "sweep.png"}
    assert sweep.load(tmp_path).grid.rates == pytest.approx((1e-5, 1e-3, 1e-1))
