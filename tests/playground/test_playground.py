"""The playground without a browser: data sets, the lab, the still pictures, and what the view does and says."""

import asyncio
import base64
import contextlib
import io
import json
import math
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from course import museum
from course.museum import EXHIBITS
from PIL import Image

import bugs
import diy
from experiments.circle import disk_data
from playground import company, still, view
from playground.data import DATA_SETS
from playground.lab import ACTIVATIONS, EDGE, LIVE, OPTIMIZERS, OWN, Lab, Settings

ROOT = Path(__file__).resolve().parents[2]


def small(**settings):
    """A lab whose epochs take a millisecond."""
    return Lab(train_size=60, test_size=40, **{"width": 6, "depth": 2, "batch_size": 20} | settings)


def run(lab, epochs):
    for _ in range(epochs):
        lab.run_epoch()
    return lab


def weights(network):
    return [value.detach().clone() for value in network.state_dict().values()]


def same(a, b):
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


# Data


@pytest.mark.parametrize("name", DATA_SETS)
def test_a_data_set_has_two_balanced_classes_in_the_plane(name):
    points, labels = DATA_SETS[name](1000, torch.Generator().manual_seed(3))
    assert points.shape == (1000, 2) and points.dtype == torch.float32
    assert labels.shape == (1000,) and labels.dtype == torch.int64
    assert points.abs().max() <= 1
    assert 440 <= labels.sum() <= 560  # 500 ± 4 standard deviations where they are drawn


@pytest.mark.parametrize("name", DATA_SETS)
def test_noise_moves_the_points_and_not_the_labels(name):
    clean, noisy = Lab(data=name), Lab(data=name, noise=0.2)
    assert torch.equal(clean.labels, noisy.labels)
    # The standard deviation of 2000 numbers is off by 0.003 at most in 95 of 100 cases.
    assert (noisy.x - clean.x).std().item() == pytest.approx(0.2, abs=0.015)


def test_the_circle_is_that_of_the_experiment():
    ours, expected = (f(50, torch.Generator().manual_seed(1)) for f in (DATA_SETS["circle"], disk_data))
    assert torch.equal(ours[0], expected[0]) and torch.equal(ours[1], expected[1])


@pytest.mark.parametrize("name", DATA_SETS)
def test_no_straight_line_separates_the_classes_but_the_networks_of_the_playground_do(name):
    assert run(Lab(data=name, depth=0, lr=0.002), 30).history[-1].test_error > 0.1
    lab = Lab(data=name, optimizer="SGD with momentum")
    while lab.history[-1].test_error >= 0.05 and lab.epoch < 100:
        lab.run_epoch()
        assert lab.trouble is None
    assert lab.history[-1].test_error < 0.05


# The lab


@pytest.mark.parametrize(
    "wrong, message",
    [
        ({"data": "square"}, "data must be one of circle, moons, xor, spiral, own points, got 'square'"),
        ({"activation": "GELU"}, "activation must be one of ReLU, Tanh"),
        ({"depth": 11}, r"depth must be in \[0, 10\], got 11"),
        ({"width": 2.5}, "width must be an integer, got 2.5"),
        ({"batch_size": True}, "batch_size must be an integer, got True"),
        ({"lr": math.nan}, "lr must be a finite number"),
        ({"lr": "0.1"}, "lr must be a number, got '0.1'"),
        ({"dropout": 1.5}, r"dropout must be a finite number in \[0, 1\], got 1.5"),
        ({"lr": 1e39}, r"lr must be a finite number in \[0, 3.4e\+38\], got 1e\+39"),
        ({"weight_decay": 10**400}, "weight_decay must be a finite number"),
        ({"speed": 3}, r"unknown setting \['speed'\]"),
        ({"features": [[]]}, "features must be a list of one or more of x, y,"),
    ],
)
def test_a_refused_change_says_why_and_changes_nothing(wrong, message):
    lab = run(small(), 2)
    settings, before = lab.settings, weights(lab.model)
    with pytest.raises((TypeError, ValueError), match=message):
        lab.change(**{"noise": 0.1} | wrong)
    assert lab.settings == settings and lab.epoch == 2 and same(weights(lab.model), before)
    run(lab, 1)


@pytest.mark.parametrize(
    "wrong, message",
    [
        ({"learning_rate": 1}, r"unknown setting \['learning_rate'\]: expected some of \['data', "),
        ({"train_size": -1}, "train_size must be an integer ≥ 0, got -1"),
        ({"test_size": 2.5}, "test_size must be an integer ≥ 0, got 2.5"),
        ({"twin": "no"}, "twin must be True or False, got 'no'"),
        ({"points": 5}, r"points must be a list of \(x, y, label\), got 5"),
        ({"changes": 5}, r"changes must be a list of \(steps, what, value\), got 5"),
        ({"bug": ["uphill"]}, "bug must be one of none, "),
        ({"speed": ["fast"]}, "speed must be one of 1 step per picture, "),
        ({"show_test": "no"}, "show_test must be one of True, False, got 'no'"),
        ({"steps": -1}, "steps must be an integer ≥ 0, got -1"),
        ({"steps": True}, "steps must be an integer ≥ 0, got True"),
    ],
)
def test_a_playground_that_cannot_be_says_why(wrong, message):
    with pytest.raises((TypeError, ValueError), match=message):
        view.Playground(**wrong)


def test_float32_is_trained_whatever_the_notebook_around_has_set():
    expected = run(small(points=[(0, 0, 1)]), 2).history
    torch.set_default_dtype(torch.float64)
    try:
        lab = small(points=[(0, 0, 1)])
        run(lab, 2).twin = True
        assert lab.x.dtype == lab.surface().dtype == torch.float32
        assert [record[:5] for record in lab.history[:2]] == [record[:5] for record in expected[:2]]
        assert lab.history[-1].train_loss == expected[-1].train_loss and lab.twin_distance() < 1e-6
        assert torch.get_default_dtype() == torch.float64
    finally:
        torch.set_default_dtype(torch.float32)


def test_a_step_is_the_training_step_of_the_framework():
    lab = small(lr=0.01)
    before = [p.clone() for p in lab.model.parameters()]
    lab.step()
    assert lab.steps == 1 and lab.epoch == 0
    for old, new in zip(before, lab.model.parameters(), strict=True):
        assert torch.allclose(new, old - 0.01 * new.grad, rtol=0, atol=1e-7)  # one rounding of float32
        assert new.grad.abs().sum() > 0


def test_an_epoch_uses_every_point_once_and_is_recorded():
    lab = small(batch_size=25)
    assert [record.epoch for record in lab.history] == [0]
    lab.step()
    lab.step()
    assert (lab.epoch, lab.steps_in_epoch) == (0, 2)
    lab.step()  # 60 points make batches of 25, 25 and 10
    assert (lab.epoch, lab.steps, lab.steps_in_epoch) == (1, 3, 0)
    run(lab, 2)
    assert [record.epoch for record in lab.history] == [0, 1, 2, 3]


def test_the_record_holds_means_and_error_rates_without_dropout():
    lab = run(small(dropout=0.5, reduction="sum"), 1)
    lab.model.eval()
    output = lab.model(lab.x_test)
    record = lab.history[-1]
    assert record.test_loss == pytest.approx((output - lab.y_test).square().mean().item(), rel=1e-6)
    assert record.test_error == pytest.approx((output.argmax(1) != lab.labels_test).double().mean().item())
    assert lab.measure() == pytest.approx(record, nan_ok=True)


@pytest.mark.parametrize("points, batches", [([(0.5, 0, 1), (0, 0, 1)], 4), ([], 3)])
def test_with_other_points_the_epoch_that_has_begun_begins_anew(points, batches):
    lab = run(small(points=[(0.5, 0, 1)]), 1)
    lab.step()
    lab.set_points(points)
    assert (lab.epoch, lab.steps, lab.steps_in_epoch, lab.steps_per_epoch) == (1, 5, 0, batches)
    lab.run_epoch()
    assert (lab.epoch, lab.steps, lab.steps_in_epoch) == (2, 5 + batches, 0)


def test_watchers_are_told_once_of_every_change_but_a_step():
    lab, told = small(), []
    lab.watchers.append(told.append)
    lab.run_epoch()
    lab.change(lr=0.001, depth=2)  # as they were
    assert told == [] and lab.epoch == 1
    for change, expected in (
        (lambda: lab.change(lr=0.002), ["settings"]),
        (lambda: lab.change(depth=3), ["run"]),
        (lambda: lab.change(noise=0.1), ["points", "run"]),
        (lambda: lab.add_point(0, 0, 1), ["points"]),
        (lambda: lab.undo_points(), ["points"]),
        (lambda: lab.set_weight(0, 0, 0, 0.5), ["run"]),
        (lab.reset, ["run"]),
    ):
        told.clear()
        change()
        assert told == expected


def test_reset_gives_the_same_run_again():
    lab = run(small(dropout=0.3), 3)
    history = lab.history
    lab.reset()
    assert (lab.epoch, lab.steps, lab.history) == (0, 0, history[:1])
    assert run(lab, 3).history == history
    assert run(small(dropout=0.3, seed=1), 3).history != history


def test_the_lab_leaves_pytorchs_random_numbers_alone():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    run(small(dropout=0.3, twin=True), 2)
    assert torch.equal(torch.rand(3), expected)


def test_a_live_change_acts_on_the_run_and_any_other_begins_a_new_one():
    for name, value in {"lr": 0.1, "reduction": "mean", "optimizer": "SGD with momentum", "batch_size": 10}.items():
        lab = run(small(), 2)
        before = weights(lab.model)
        lab.change(**{name: value})
        assert name in LIVE and lab.epoch == 2 and same(weights(lab.model), before)
    for name, value in {"depth": 3, "width": 3, "activation": "Tanh", "dropout": 0.1, "init_scale": 2.0}.items():
        lab = run(small(), 2)
        lab.change(**{name: value})
        assert name not in LIVE and lab.epoch == lab.steps == 0 and len(lab.history) == 1
        assert run(lab, 2).history == run(small(**{name: value}), 2).history
    lab = run(small(), 2)
    lab.change(data="moons", noise=0.1)
    assert run(lab, 2).history == run(small(data="moons", noise=0.1), 2).history


def test_the_learning_rate_and_the_batch_size_take_effect():
    lab = small()
    lab.step()
    lab.change(lr=0.0)
    before = weights(lab.model)
    lab.step()
    assert same(weights(lab.model), before)
    lab.change(batch_size=60)
    assert (lab.steps_in_epoch, lab.steps_per_epoch) == (2, 3)
    lab.step()  # the epoch that has begun ends with its own batches of 20
    assert (lab.epoch, lab.steps, lab.steps_in_epoch, lab.steps_per_epoch) == (1, 3, 0, 1)
    lab.step()
    assert (lab.epoch, lab.steps) == (2, 4)


def test_momentum_survives_a_change_of_the_learning_rate():
    lab, other = (run(small(optimizer="SGD with momentum"), 2) for _ in range(2))
    lab.change(lr=0.002)
    lab.change(lr=0.001)
    assert run(lab, 1).history == run(other, 1).history


def test_the_mean_with_a_larger_learning_rate_takes_the_steps_of_the_sum():
    by_sum, by_mean = run(small(lr=0.001), 5), run(small(reduction="mean", lr=0.001 * 20 * 2), 5)
    for a, b in zip(by_sum.history, by_mean.history, strict=True):
        assert a.train_loss == pytest.approx(b.train_loss, abs=1e-5)  # float32 rounding over 15 steps
    assert run(small(reduction="mean", lr=0.001), 5).history[-1].train_loss > by_sum.history[-1].train_loss + 0.01


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_the_twin_has_the_same_weights_batches_and_masks(name, activation):
    lab = small(twin=True, dropout=0.3, optimizer=name, activation=activation, init_scale=1.5)
    assert same(weights(lab.twin), weights(lab.model))
    assert lab.twin_distance() < 1e-6
    run(lab, 3)
    assert 0 <= lab.twin_distance() < 1e-4  # float32 rounding over 9 steps; other masks differ by more than 0.01
    assert not same(weights(lab.twin), weights(small(twin=True, activation=activation, init_scale=1.5).twin))


def test_the_twin_does_not_disturb_the_run():
    with_twin = run(small(twin=True, dropout=0.3), 3).history
    assert [r[:5] for r in with_twin] == [r[:5] for r in run(small(dropout=0.3), 3).history]


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_twin_joins_a_run_that_goes_on(optimizer):
    lab, alone = (run(small(optimizer=optimizer), 2) for _ in range(2))
    lab.twin = True
    assert lab.epoch == 2 and same(weights(lab.twin), weights(lab.model))
    assert run(lab, 2).twin_distance() < 1e-5  # float32 rounding; without the optimizer's memory it would be 0.01
    assert [r[:5] for r in lab.history] == [r[:5] for r in run(alone, 2).history]
    lab.twin = False
    assert lab.twin is None and math.isnan(lab.twin_distance()) and lab.epoch == 4


def test_a_new_run_has_a_new_twin():
    lab = run(small(twin=True), 1)
    lab.change(depth=3)
    assert len(weights(lab.twin)) == len(weights(lab.model)) == 8 and lab.epoch == 0


def test_what_is_said_of_a_bug_and_its_twin_is_said_of_what_is_on_screen():
    playground = view.Playground(bug="tanh-at-the-input")
    assert playground.frame["twin_words"].endswith("have the same loss to the last bit.")
    while not playground.lab.trouble:
        act(playground, "step")
    assert playground.frame["epoch"] == 0
    assert playground.frame["twin_words"].endswith("one has a loss that is no longer a number.")


def test_only_what_is_undecided_or_no_number_is_sent_as_0():
    sent = view._bytes(torch.tensor([-2, -1e-9, 0, 1e-9, 0.5, math.nan]))
    assert torch.frombuffer(bytearray(sent), dtype=torch.int16).tolist() == [-32767, -1, 0, 1, 16384, 0]


def test_the_healthy_twin_of_a_bug_stays_as_it_is():
    lab = run(small(bug="dropped-transpose"), 2)
    before = weights(lab.twin)
    for wanted in (True, False):
        lab.twin = wanted
        assert same(weights(lab.twin), before)
    playground = view.Playground(lab)
    assert "comes with the next run without a bug" in act(playground, "twin", True)["text"]
    assert "healthy twin stays" in act(playground, "twin", False)["text"]


def test_a_network_that_has_lost_its_numbers_agrees_with_no_other():
    lab = run(small(twin=True), 1)
    lab.model[0].weight.fill_(math.nan)
    run(lab, 1)
    assert lab.twin_distance() == math.inf and math.isnan(lab.history[-1].train_error)
    assert "do not agree" in view.Playground(lab).frame["twin_words"]


@pytest.mark.parametrize(
    "change", [{"lr": 0.005}, {"reduction": "mean"}, {"optimizer": "SGD with momentum"}, {"batch_size": 5}], ids=str
)
def test_the_twin_follows_live_changes(change):
    lab, unchanged = (run(small(twin=True), 1) for _ in range(2))
    lab.change(**change)
    assert run(lab, 2).twin_distance() < 1e-4
    assert abs(lab.history[-1].train_loss - run(unchanged, 2).history[-1].train_loss) > 1e-3


def test_the_twin_learns_where_autograd_is_switched_off():
    with torch.no_grad():
        lab = small(twin=True)
        before = weights(lab.twin)
        lab.step()
    assert not same(weights(lab.twin), before)


def test_the_surface_is_the_difference_of_the_outputs_with_the_top_row_first():
    lab = run(small(), 2)
    surface = lab.surface(5)
    assert surface.shape == (5, 5)
    lab.model.eval()
    for row, column, point in ((0, 0, (-EDGE, EDGE)), (4, 0, (-EDGE, -EDGE)), (2, 4, (EDGE, 0.0))):
        output = lab.model(torch.tensor([point]))[0]
        assert surface[row, column].item() == pytest.approx((output[1] - output[0]).item(), abs=1e-6)


def test_looking_does_not_change_the_run():
    lab, other = small(dropout=0.3), small(dropout=0.3)
    for _ in range(4):
        (
            lab.surface(),
            lab.layers(),
            lab.measure(),
            lab.snippet(),
            still.histograms(lab),
            still.curve(lab.history),
            lab.columns(),
            lab.weigh(0, 0, 0),
        )
        lab.step()
        other.step()
    assert same(weights(lab.model), weights(other.model))


def test_layers_give_activations_and_the_gradients_of_the_last_step():
    lab = small(dropout=0.5)
    assert [layer.gradient for layer in lab.layers()] == [None] * 3
    lab.step()
    layers = lab.layers()
    assert [layer.name for layer in layers] == ["layer 1, ReLU", "layer 2, ReLU", "output, Tanh"]
    linear = [module for module in lab.model if isinstance(module, diy.Linear)]
    assert all(torch.equal(layer.gradient, module.weight.grad) for layer, module in zip(layers, linear, strict=True))
    expected = (lab.x @ linear[0].weight.T + linear[0].bias).relu()
    assert torch.allclose(layers[0].activations, expected, atol=1e-6)
    assert [layer.activations.shape for layer in lab.layers(7)] == [(7, 6), (7, 6), (7, 2)]


@pytest.mark.parametrize(
    "settings, words",
    [
        (
            {"lr": 0.1},
            ["Diverged", "Tanh", "choose a learning rate ten times smaller, 0.01,", '"mean"', "200 times smaller"],
        ),
        ({"lr": 10.0, "reduction": "mean"}, ["Diverged", "Tanh", "ten times smaller, 1,"]),
        ({"lr": 1e38}, ["Diverged in epoch 1", "too large for float32"]),
        ({"lr": 10.0, "optimizer": "Adam"}, ["Diverged", "Tanh", "ten times smaller, 1,"]),
    ],
)
def test_a_run_that_diverged_is_explained(settings, words):
    lab = Lab(**settings)
    while not lab.trouble and lab.epoch < 10:
        lab.run_epoch()
    assert all(word in lab.trouble for word in words), lab.trouble
    assert ('"mean"' in lab.trouble) == (lab.settings.reduction == "sum" and lab.settings.optimizer != "Adam")
    lab.reset()
    assert lab.trouble is None


def test_a_plane_without_colour_is_explained():
    for biases, white in (((9.0, 9.0), True), ((9.0, -9.0), False)):
        lab = small(lr=1e-6)
        lab.model[-2].bias.copy_(torch.tensor(biases))
        lab.run_epoch()
        assert lab.trouble.startswith("Diverged") and ("so the plane has no colour" in lab.trouble) == white
        assert (lab.surface().abs().max() < 0.05) == white


def test_relus_that_are_all_dead_are_explained():
    lab = small()
    lab.model[2].bias.fill_(-1000.0)
    lab.run_epoch()
    assert lab.trouble.startswith("Stuck in epoch 1: every ReLU of layer 2 gives 0 for every point.")
    assert lab.trouble.endswith("or more units, or another seed.")


@pytest.mark.parametrize(
    "settings, words, wrong",
    [
        ({"bug": "uphill", "lr": 0.02}, "with this bug, but not without it, the", "learning rate"),
        ({"bug": "uphill", "lr": 10.0}, "the steps were so large", "the network without the bug"),
        ({"init_scale": 10.0, "lr": 0.0, "depth": 6}, "the initial weights are such that the outputs", "learning rate"),
        ({"init_scale": 1e38}, "the initial weights are such that sums of them are too large", "learning rate"),
        ({"lr": 0.0, "width": 1, "depth": 6}, "the initial weights are such that every ReLU", "learning rate"),
        ({"weight_decay": 1e6}, "choose less weight decay, or a learning rate", "initialization"),
    ],
    ids=str,
)
def test_the_cause_of_trouble_is_the_true_one(settings, words, wrong):
    lab = small(**settings)
    while not lab.trouble and lab.epoch < 60:
        lab.run_epoch()
    assert words in lab.trouble and wrong not in lab.trouble, lab.trouble


def test_trouble_is_told_in_mid_epoch():
    lab = small(lr=1e4, batch_size=1)
    while not lab.trouble:
        lab.step()
    assert "close to -1 or 1" in lab.trouble and "in epoch 1" in lab.trouble and lab.steps <= 10
    told = lab.trouble
    assert run(lab, 2).trouble == told  # what was found first stays said


@pytest.mark.parametrize(
    "settings, told", [({}, 1), ({"optimizer": "SGD with momentum"}, 3), ({"weight_decay": 0.1}, 3)], ids=str
)
def test_a_layer_that_may_come_back_to_life_has_the_whole_epoch_for_it(settings, told):
    lab = small(**settings)
    lab.model[2].bias.fill_(-1000.0)
    while not lab.trouble:
        lab.step()
    assert lab.steps == told and lab.trouble.startswith("Stuck in epoch 1")


def test_a_number_that_is_lost_is_told_after_the_very_step():
    lab = small(lr=1e38)
    lab.step()
    assert lab.steps_in_epoch == 1 and lab.trouble.startswith("Diverged in epoch 1")


def test_a_run_recovers_when_what_broke_it_is_set_right():
    lab = small()
    for unit in range(6):
        lab.set_weight(1, unit, -1, -1000.0)
    lab.run_epoch()
    assert lab.trouble.startswith("Stuck")
    playground = view.Playground(lab)
    act(playground, "hold", 1, 0, -1)
    status = act(playground, "turn", -900.0)
    assert lab.trouble and "The run goes on" not in status["text"] and view.LOST in status["text"]
    assert act(playground, "turn", 1.0) == {
        "text": "The weight in hand is 1. The run goes on from here.",
        "kind": "fine",
        "playing": False,
    }
    act(playground, "step")
    assert lab.steps == 4
    again = eval(playground.line, {"Playground": view.Playground})  # past the trouble that was met on the way
    assert again.lab.steps == 4 and again.line == playground.line and same(weights(again.lab.model), weights(lab.model))


def test_trouble_after_a_weight_was_set_by_hand_is_not_laid_to_the_steps():
    lab = small(lr=1e-6)
    for unit, value in enumerate((9, -9)):
        lab.set_weight(2, unit, -1, value)
    lab.run_epoch()
    assert "so large" not in lab.trouble and "Reset, which takes back the weight set by hand" in lab.trouble


def test_added_points_are_learned_and_survive_a_reset():
    lab = run(small(), 1)
    lab.add_point(0.12345, -0.5, 1)
    lab.add_point(-1, 1, 0)
    assert lab.points == [(0.123, -0.5, 1), (-1.0, 1.0, 0)]
    assert len(lab.x) == len(lab.y) == len(lab.labels) == 62 and len(lab.x_test) == 40
    assert lab.y[-2:].tolist() == [[0, 1], [1, 0]]
    assert run(lab, 1).epoch == 2
    lab.reset()
    assert len(lab.x) == 62
    lab.set_points([])
    assert len(lab.x) == 60 and run(lab, 1).history == run(small(), 1).history


@pytest.mark.parametrize(
    "changes, words",
    [
        ([5], "5 is refused"),
        ([(-1, "lr", 0.1)], "integer ≥ 0, got -1"),
        ([(9, "lr", 0.1), (5, "lr", 0.2)], "integer ≥ 9, got 5"),
        ([(5, "depth", 2)], "what can change during a run is batch_size, lr,"),
        ([(5, "lr", -1)], "lr must be a finite number"),
        ([(5, "points", [(0, 0)])], "a point must be three numbers"),
        ([(5, "weight", (9, 0, 0, 0.5))], "layer must be in"),
        ([(5, "weight", (0, 0, 0, math.inf))], "finite number of float32"),
    ],
    ids=str,
)
def test_changes_that_cannot_be_are_refused_at_once(changes, words):
    with pytest.raises(ValueError, match=r"changes must be \(steps, what, value\)") as refusal:
        small(changes=changes)
    assert words in str(refusal.value)


@pytest.mark.parametrize(
    "point, message",
    [
        *[(point, "a point must be three numbers") for point in ((0, 0), 3, ("0", 0, 1), None)],
        *[(point, "the point must lie in") for point in ((2.0, 0.0, 1), (0.0, math.nan, 1))],
        *[((0.0, 0.0, label), "the label of a point must be 0 or 1") for label in (2, True)],
    ],
)
def test_what_is_no_point_of_the_plane_is_refused(point, message):
    lab = small()
    with pytest.raises(ValueError, match=message):
        lab.set_points([point])
    assert not lab.points and len(lab.x) == 60


def test_own_points_begin_with_none_and_have_no_test_set():
    lab = Lab(data=OWN, lr=0.01)
    with pytest.raises(RuntimeError, match="click on the plane to add some points"):
        lab.step()
    assert lab.surface().shape == (50, 50) and all(math.isnan(value) for value in lab.measure()[1:])
    for x, y, label in ((-0.5, -0.5, 0), (0.5, 0.5, 0), (-0.5, 0.5, 1), (0.5, -0.5, 1)):
        lab.add_point(x, y, label)
    run(lab, 300)
    assert lab.history[-1].train_error == 0 and math.isnan(lab.history[-1].test_error)


# The program


SNIPPETS = [
    {},
    {"data": "moons", "noise": 0.1, "reduction": "mean", "lr": 0.2, "seed": 3},
    {"data": "xor", "activation": "Tanh", "dropout": 0.2, "batch_size": 33},
    {"data": "spiral", "optimizer": "SGD with momentum", "init_scale": 0.5, "width": 8},
    {"depth": 0, "lr": 1e-05, "test_size": 0},
    *[{"activation": name} for name in ACTIVATIONS],
    *[{"optimizer": name} for name in OPTIMIZERS],
    {"data": OWN, "points": [(-0.5, 0.1, 0), (0.5, 0.1, 1), (0.25, 0.1, 1)]},
    {"points": [(0.3, 0.3, 0)]},
    {"bug": "no-mean-at-all"},
    {"bug": "shuffled-without-targets"},
    {"bug": "dropout-in-eval", "dropout": 0.2},
    {"bug": "eval-is-shallow", "dropout": 0.2},
]


def execute(program):
    namespace, printed = {}, io.StringIO()
    with contextlib.redirect_stdout(printed), torch.random.fork_rng():
        exec(program, namespace)
    return namespace, printed.getvalue()


@pytest.mark.parametrize("settings", SNIPPETS, ids=str)
def test_the_program_of_a_run_gives_its_losses(settings):
    lab = run(Lab(**{"train_size": 200, "test_size": 100} | settings), 4)
    found, printed = execute(lab.snippet())
    # The same operations in the same order, so there is nothing to tolerate.
    assert found["train_loss"] == lab.history[-1].train_loss
    if not len(lab.x_test):
        assert "test" not in printed
        return
    assert found["test_loss"] == lab.history[-1].test_loss
    assert found["test_error"] == lab.history[-1].test_error
    assert f"test loss {lab.history[-1].test_loss:.4f}" in printed


@pytest.mark.parametrize("epochs, steps", [(0, 1), (2, 3)])
@pytest.mark.parametrize("dropout", [0.0, 0.2])
def test_the_program_ends_in_mid_epoch_where_the_run_does(epochs, steps, dropout):
    lab = run(small(batch_size=10, lr=0.01, dropout=dropout), epochs)
    for _ in range(steps):
        lab.step()
    assert (lab.epoch, lab.steps_in_epoch) == (epochs, steps)
    assert execute(lab.snippet())[0]["train_loss"] == lab.measure().train_loss != lab.history[-1].train_loss


def test_the_program_of_nothing_says_so():
    program = Lab(data=OWN).snippet()
    assert "There is nothing to learn yet" in program and execute(program)[1] == ""


def changed_on_its_way(**settings):
    """A lab in which everything that can be changed during a run was changed."""
    lab = small(lr=0.01, dropout=0.2, batch_size=7, **settings)
    lab.set_weight(0, 1, 0, 0.25)
    lab.step()
    lab.add_point(0.5, -0.25, 1)
    run(lab, 1).change(lr=0.002, weight_decay=0.01)
    lab.step()
    lab.change(batch_size=20, reduction="mean")
    lab.step()
    run(lab, 1).change(optimizer="Adam")
    lab.set_points([(0.1, 0.1, 0), (-1, 1, 1)])
    lab.set_weight(2, 1, -1, -0.5)
    run(lab, 1).undo_points()
    lab.step()
    lab.change(lr=0.001)  # after the last step
    return lab


@pytest.mark.parametrize("settings", [{}, {"data": "moons", "noise": 0.1, "features": ["x", "xy"], "seed": 2}], ids=str)
def test_the_program_repeats_what_was_changed_on_the_way(settings):
    lab = changed_on_its_way(**settings)
    assert "# changed on screen" in lab.snippet()
    found, _ = execute(lab.snippet())
    assert found["train_loss"] == lab.measure().train_loss and found["test_loss"] == lab.measure().test_loss
    lab.reset()
    assert "changed" not in lab.snippet()


@pytest.mark.parametrize(
    "settings", [{}, {"data": OWN, "points": [(0, 0.5, 1)]}, {"bug": "dropped-transpose"}, {"twin": True}], ids=str
)
def test_one_line_restores_what_is_on_screen(settings):
    lab = changed_on_its_way(**settings)
    shown = view.Playground(lab, show_test=True, speed="1 step per picture")
    again = eval(shown.line, {"Playground": view.Playground})
    assert again.line == shown.line and same(weights(again.lab.model), weights(lab.model))
    assert again.lab.points == lab.points and again.look == shown.look and again.lab.settings == lab.settings
    assert again.lab.epoch == lab.epoch and again.lab.measure() == pytest.approx(lab.measure(), nan_ok=True)
    fresh = view.Playground(small(**settings))
    assert eval(fresh.line, {"Playground": view.Playground}).line == fresh.line


@pytest.mark.parametrize("twin", [False, True])
def test_an_optimizer_that_is_chosen_anew_begins_anew_when_it_is_restored_too(twin):
    shown = view.Playground(small(optimizer="SGD with momentum", twin=twin))
    act(shown, "epoch")
    for name in ("Adam", "SGD with momentum"):
        act(shown, "set", "optimizer", name)
    act(shown, "epoch")
    again = eval(shown.line, {"Playground": view.Playground})
    assert again.line == shown.line and again.lab.measure() == shown.lab.measure()
    assert execute(shown.lab.snippet())[0]["train_loss"] == shown.lab.measure().train_loss


def test_a_line_is_as_long_as_the_points_that_it_names():
    lab = small(batch_size=60)
    for i in range(120):
        lab.step()
        lab.add_point(i / 120, 0, 1)
    line = view.Playground(lab).line
    assert len(line) < 60 * 120 and eval(line, {"Playground": view.Playground}).lab.points == lab.points
    assert execute(lab.snippet())[0]["train_loss"] == lab.measure().train_loss


def test_a_line_names_numpys_numbers_as_python_does():
    shown = view.Playground(small(lr=np.float64(0.01), points=[(np.float32(0.5), 0, np.int64(1))]))
    act(shown, "step")
    shown.lab.change(lr=np.float64(0.02))
    shown.lab.set_weight(np.int64(0), 0, 0, np.float32(0.5))
    assert eval(shown.line, {"Playground": view.Playground}).line == shown.line


def test_a_line_restores_what_was_changed_after_the_run_broke():
    shown = view.Playground(small(lr=10.0))
    while not shown.lab.trouble:
        act(shown, "epoch")
    act(shown, "set", "lr", 0.01)
    again = eval(shown.line, {"Playground": view.Playground})
    assert again.lab.settings.lr == 0.01 and again.line == shown.line and again.lab.trouble == shown.lab.trouble


def test_the_program_needs_nothing_but_diy(tmp_path):
    (tmp_path / "diy.py").symlink_to(ROOT / "diy.py")
    program = tmp_path / "program.py"
    program.write_text(changed_on_its_way(data="spiral").snippet(), encoding="utf-8")
    done = subprocess.run(
        [sys.executable, str(program)], env={"PYTHONPATH": str(tmp_path)}, capture_output=True, text=True, cwd="/"
    )
    assert done.returncode == 0 and done.stdout.startswith("train loss ") and not done.stderr


# A bug for company


@pytest.mark.parametrize("arguments", [{}, {"dropout": 0.0}, {"seed": 3, "reduction": "sum"}])
@pytest.mark.parametrize("name", ["dropout-in-eval", "sum-in-the-gradient", "uphill"])
def test_one_call_opens_the_exhibit_of_a_bug(name, arguments):
    playground = view.Playground(bug=name, train_size=100, **arguments)
    wanted = Settings(bug=name, **company.STORIES[name].settings | arguments)
    assert playground.lab.settings == wanted
    assert eval(playground.line, {"Playground": view.Playground}).lab.settings == wanted


@pytest.mark.parametrize("number", EXHIBITS)
def test_the_line_of_an_exhibit_shows_the_museums_run(number):
    healthy, ill = museum.runs(number, epochs=2)
    lab = eval(EXHIBITS[number].playground, {"Playground": view.Playground}).lab
    lab.run_epoch()
    lab.run_epoch()
    assert [record.twin_train_loss for record in lab.history] == healthy.losses
    assert EXHIBITS[number].bug == "dropout-in-eval" or [record.train_loss for record in lab.history] == ill.losses
    assert all(torch.equal(v, w) for v, w in zip(lab.model.parameters(), ill.network.parameters()))


def test_a_bug_can_be_chosen_while_it_learns_and_brings_its_settings():
    playground = view.Playground(small())
    act(playground, "epoch")
    act(playground, "set", "bug", "dropout-in-eval")
    assert playground.settings["dropout"] == 0.2 and playground.settings["twin"] == "healthy twin"
    assert playground.lab.epoch == 0 and playground.frame["twin_surface"]
    act(playground, "epoch")
    act(playground, "set", "bug", "none")
    assert playground.settings["dropout"] == 0 and playground.settings["twin"] == "" and playground.story == {}
    assert "there is no bug" in act(playground, "ask_checks")["text"]


def test_a_bug_after_another_leaves_the_settings_of_the_first():
    playground = view.Playground(small(bug="tanh-at-the-input", activation="Tanh"))
    act(playground, "set", "bug", "dropout-in-eval")
    assert (playground.lab.settings.activation, playground.lab.settings.dropout) == ("ReLU", 0.2)


def test_what_checks_say_is_shown_with_the_bug_they_were_asked_about(monkeypatch):
    async def story(playground):
        act(playground, "ask_checks")
        act(playground, "ask_checks")
        await until(lambda: len(playground.story["answers"]) == 2)
        act(playground, "set", "bug", "missing-two")
        await until(lambda: not playground._jobs)
        assert playground.story["answers"] == [] and "checks see it" not in playground.status["text"]
        act(playground, "ask_checks")
        await until(lambda: "checks see it" in playground.status["text"])
        assert len(playground.story["answers"]) == len(bugs.ORACLES)
        playground.lab.change(bug="uphill")  # by a cell
        assert playground.story["answers"] == []

    monkeypatch.setattr(company, "answer", lambda kind, name: {"check": kind, "sees": True, "words": name})
    in_a_notebook(story, bug="uphill")


@pytest.mark.parametrize("kind", bugs.ORACLES)
@pytest.mark.parametrize("name", ["forgotten-parameter", "gradients-not-zeroed"])
def test_what_a_check_says_is_a_sentence(kind, name):
    answer = company.answer(kind, name)
    assert answer["sees"] == bool(answer["words"]) and not re.search(r"at \(\)|[.\s]\.$", answer["words"]), answer


def test_what_is_to_be_seen_of_a_bug_is_said_of_its_own_settings():
    playground = view.Playground(bug="dropout-in-eval", train_size=100, seed=3)
    look = company.STORIES["dropout-in-eval"].look
    assert playground.story["look"] == look
    act(playground, "set", "dropout", 0.0)
    act(playground, "set", "lr", 0.01)
    assert playground.story["look"] == f"With its own settings, dropout=0.2, lr=0.001: {look}"


# Looking inside


def test_columns_show_units_and_what_comes_to_them():
    lab = small(features=["x", "y", "xy"])
    lab.step()
    columns = lab.columns(most=4, size=5)
    assert [(c.name, c.total, tuple(c.pictures.shape)) for c in columns] == [
        ("input", 3, (3, 5, 5)),
        ("layer 1, ReLU", 6, (4, 5, 5)),
        ("layer 2, ReLU", 6, (4, 5, 5)),
        ("output, Tanh", 2, (2, 5, 5)),
    ]
    assert torch.equal(columns[2].weights, lab.model[2].weight[:4, :4])
    assert torch.equal(columns[2].gradients, lab.model[2].weight.grad[:4, :4])
    assert columns[0].pictures[2][0, 0] == -EDGE * EDGE  # xy in the upper left corner


def weighed(lab, *place):
    *_, weight = lab.weigh(*place)
    return weight


@pytest.mark.parametrize("place", [(0, 3, 1), (1, 0, 5), (2, 1, -1)])
def test_a_weights_slope_is_its_gradient_unless_there_is_a_bug(place):
    weight = weighed(run(small(activation="Tanh"), 2), *place)
    assert weight.slope == pytest.approx(weight.gradient, rel=1e-6, abs=1e-6)  # finite differences in float64
    weight = weighed(run(small(activation="Tanh", bug="missing-two"), 2), *place)
    assert weight.slope == pytest.approx(2 * weight.gradient, rel=1e-6, abs=1e-6)


@pytest.mark.parametrize("bias, at_kink", [(0.0, True), (5e-6, False), (-5e-6, False)])
def test_a_kink_is_told_from_a_wrong_gradient(bias, at_kink):
    lab = Lab(points=[(0, 0, 0), (0, 0, 1)], data=OWN)
    lab.set_weight(0, 3, -1, bias)
    weight = weighed(lab, 0, 3, -1)
    assert (weight.agree, weight.at_kink) == (not at_kink, at_kink)


def test_a_loss_that_draws_has_no_slope():
    playground = view.Playground(small(bug="dropout-in-eval", dropout=0.5))
    act(playground, "hold", 1, 2, 3)
    assert playground.hand["slope"] is None and playground.hand["words"].endswith("it has no slope.")


def test_of_lost_weights_nothing_is_said_but_that():
    playground = view.Playground(run(small(lr=1e38), 1))
    act(playground, "hold", 2, 0, 0)
    assert playground.hand["words"] == "Not all of them are numbers." and playground.hand["loss"] is None
    words = [layer["words"] for layer in playground.frame["layers"]]
    assert all("no numbers" in text and "all 0" not in text for text in words)
    assert playground.frame["layers"][-1]["zero_activations"] == 0
    assert playground.frame["now"] == [None] * 6 and still.png(playground.lab)


def test_a_weight_in_hand_can_be_turned():
    playground = view.Playground(small())
    assert act(playground, "turn", 1.0)["text"] == "there is no weight in hand: choose one first"
    act(playground, "hold", 1, 2, 3)
    assert playground.hand["place"] == [1, 2, 3]
    act(playground, "turn", 0.75)
    assert playground.lab.model[2].weight[2, 3] == 0.75 == playground.hand["value"]
    assert [record.train_loss for record in playground.lab.history] == [playground.lab.measure().train_loss]
    assert "has weights" in act(playground, "hold", 1, 99, 0)["text"]
    assert playground.hand["place"] == [1, 2, 3] and playground.hand["words"] == "They agree."
    for action in (("step",), ("epoch",), ("set", "reduction", "mean")):
        before = playground.hand
        act(playground, *action)
        assert playground.hand["slope"] != before["slope"], action
    act(playground, "set", "depth", 0)
    assert playground.hand == {}


# Points: moved, removed, undone


def test_points_are_moved_removed_and_brought_back():
    playground = view.Playground(data=OWN)
    act(playground, "twin", True)
    for x in (0.1, 0.2):
        act(playground, "add", x, 0, 1)
    assert playground.points["labels"] == b"\1\1" and playground.frame["twin_words"]
    assert "already" in act(playground, "add", 0.2, 0, 1)["text"] and len(playground.lab.points) == 2
    act(playground, "move", [0.1, 0, 1], 0.5, 0.5)
    assert "already" in act(playground, "move", [0.2, 0, 1], 0.5, 0.5)["text"]
    act(playground, "remove", [0.2, 0, 1])
    assert "no point of yours at (0.20, 0.00) any more" in act(playground, "remove", [0.2, 0, 1])["text"]
    assert playground.points["own"] == [[0.5, 0.5, 1]]
    act(playground, "undo")
    act(playground, "undo")
    assert playground.lab.points == [(0.1, 0.0, 1), (0.2, 0.0, 1)]
    act(playground, "clear")
    assert "nothing to learn" in playground.status["text"] and playground.lab.points == []
    assert playground.frame["twin_words"] == ""
    act(playground, "undo")
    assert len(playground.lab.points) == 2


def test_where_there_is_no_point_none_is_removed():
    playground = view.Playground(small())
    act(playground, "step")
    assert act(playground, "clear")["text"] == "There are no points of your own to remove."
    assert playground.lab.steps_in_epoch == 1 and "changes" not in playground.line


# What does not grow


def test_history_and_film_are_bounded(monkeypatch):
    monkeypatch.setattr("playground.lab.RECORDS", 20)
    monkeypatch.setattr(view, "FILM", 8)
    monkeypatch.setattr(still, "CURVE_POINTS", 10)
    playground = view.Playground(small())
    for epoch in range(1, 150):
        playground.epoch()
        assert len(playground.lab.history) <= 21 and len(playground._film) <= 8
        assert len(playground.frame["curve"]) <= 12 * 5 * 4  # rows of five numbers of four bytes
        assert playground.lab.history[0].epoch == 0 and playground.lab.history[-1].epoch == epoch
    assert [r.epoch for r in playground.lab.history[:3]] == [0, 16, 32]


def test_one_change_is_sent_once():
    playground, sent = view.Playground(small()), []
    for name in ("settings", "points", "frame", "code", "line"):
        playground.observe(lambda change: sent.append(change["name"]), name)
    act(playground, "unfold", "code", True)
    act(playground, "step")
    sent.clear()
    act(playground, "set", "lr", 0.005, 3)
    assert sorted(sent) == ["code", "line", "settings"]
    act(playground, "unfold", "code", False)
    sent.clear()
    act(playground, "set", "discretize", True, 4)
    assert sorted(sent) == ["line", "settings"]


def test_what_follows_from_an_action_is_sent_together(monkeypatch):
    playground, sent = view.Playground(small()), []
    monkeypatch.setattr(playground, "send_state", lambda names: sent.append(set(names)))
    act(playground, "add", 0.1, 0.2, 1)
    assert len(sent) == 1 and {"status", "points", "frame", "line", "answer"} <= sent[0]


def test_files_of_the_run():
    playground, files = view.Playground(run(small(data=OWN, points=[(0, 0, 1), (0.5, 0, 0)]), 3)), []
    playground.send = lambda content, buffers: files.append((content, buffers[0]))
    act(playground, "epoch")
    act(playground, "save", "png")
    act(playground, "save", "gif")
    assert [content["file"] for content, _ in files] == ["own-points-epoch-4.png", "own-points-epoch-4.gif"]
    assert files[0][0]["type"] == "image/png" and files[0][1].startswith(b"\x89PNG")
    film = Image.open(io.BytesIO(files[1][1]))
    assert film.format == "GIF" and film.n_frames >= 2 and len(files[1][1]) < 1_000_000


def test_a_film_shows_each_moment_as_it_was(monkeypatch):
    shown = []
    monkeypatch.setattr(still, "moment", lambda lab, *what: shown.append(what) or Image.new("RGB", (4, 4)))
    playground = view.Playground(small())
    playground.send = lambda *_: None
    for action in (("add", 0, 0, 1), ("epoch",), ("epoch",), ("step",)):
        act(playground, *action)
    surface = playground.lab.surface(50)
    act(playground, "save", "gif")
    assert [caption for caption, *_ in shown] == [f"circle, epoch {when}" for when in ("0", "1", "2", "2 + 1/4")]
    assert torch.equal(shown[-1][3], surface) and not torch.equal(shown[-2][3], surface)
    assert [len(points.places) for *_, points in shown] == [61, 61, 61, 61]
    assert all(history is not playground.lab.history for _, history, *_ in shown)  # it may play on meanwhile


def test_the_logic_knows_no_widget():
    command = "import sys, playground.lab; sys.exit(bool({'ipywidgets', 'anywidget', 'matplotlib'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", command], cwd=ROOT).returncode == 0


def test_the_defaults_are_the_reports():
    assert Settings() == Settings(data="circle", depth=3, width=25, activation="ReLU", reduction="sum", lr=0.001)
    assert repr(Lab()) == "Lab(circle, 2-25-25-25-2 ReLU, SGD, lr=0.001, sum, epoch 0)"


# What is drawn


def test_the_curve_is_thinned_out_and_keeps_its_ends():
    first = small().history[0]
    history = [first._replace(epoch=epoch) for epoch in range(1000)]
    epochs = still.curve(history)[:, 0].tolist()
    assert len(epochs) <= still.CURVE_POINTS + 1 and epochs[0] == 0 and epochs[-1] == 999
    assert epochs == sorted(set(epochs))


def test_histograms_count_everything_but_exact_zeros():
    lab = small()
    assert still.histograms(lab)[0]["gradients"] is None
    lab.step()
    for row, layer in zip(still.histograms(lab), lab.layers(), strict=True):
        for part, values in (("activations", layer.activations), ("gradients", layer.gradient)):
            assert sum(row[part]) == (values != 0).sum()
            assert row[f"zero_{part}"] == pytest.approx((values == 0).double().mean().item())


def test_the_same_lab_gives_the_same_picture():
    assert still.png(run(small(), 1)) == still.png(run(small(), 1)) != still.png(run(small(), 2))


@pytest.mark.parametrize(
    "settings, shown",
    [
        ({}, r"0\.\d{3}, test error \d+\.\d %"),
        ({"data": OWN}, "–, test error – %"),
        ({"data": OWN, "points": [(0, 0, 1)]}, "–, test error – %"),
    ],
)
def test_a_film_has_a_picture_with_its_caption_for_each_moment(settings, shown):
    lab = small(**settings)
    for epoch, (caption, figure) in zip((0, 3)[: 1 + bool(len(lab.x))], still.frames(lab, (0, 3))):
        assert figure.texts[0].get_text() == caption and lab.epoch == epoch
        assert re.fullmatch(rf"Epoch {epoch}: test loss {shown}\.", caption)


@pytest.mark.parametrize("settings", [{}, {"twin": True}, {"data": OWN, "points": [(0, 0, 1)]}], ids=str)
def test_a_picture_names_its_axes_and_only_the_curves_it_has(settings):
    lab = small(**settings)
    moment = next(still.frames(lab, (0,)))[1]
    for plane, loss, *histograms in (still.figure(lab).axes, moment.axes):
        assert (plane.get_xlabel(), plane.get_ylabel()) == ("x", "y")
        assert (loss.get_xlabel(), loss.get_ylabel()) == ("epoch", "loss (mean)")
        assert all(axes.get_xlabel() for axes in histograms)
        names = [text.get_text() for text in loss.get_legend().get_texts()]
        expected = ["train"] if "data" in settings else ["test", "train"]
        assert names == expected + ["PyTorch test"] * ("twin" in settings)


def test_a_picture_shows_some_of_the_points_and_all_of_the_learners():
    lab = Lab()
    lab.add_point(0.5, 1.2, 0)
    indices = still.shown(lab).tolist()
    assert indices == [*range(still.SHOWN), 1000]
    dots = [tuple(dot) for marks in still.figure(lab).axes[0].collections for dot in marks.get_offsets().tolist()]
    assert {tuple(place) for place in lab.x[indices].tolist()} <= set(dots)
    assert tuple(lab.x[still.SHOWN].tolist()) not in dots
    shown = torch.frombuffer(bytearray(view.Playground(lab).points["places"]), dtype=torch.float32)
    assert torch.equal(shown.reshape(-1, 2), lab.x[indices])


# The view, without a browser


def act(playground, action, *arguments):
    playground._act({"action": action, "arguments": list(arguments)})
    return playground.status


def test_the_view_shows_the_lab():
    playground = view.Playground(small())
    assert playground.settings["lr"] == 0.001 and playground.frame["epoch"] == 0
    assert len(playground.frame["surface"]) == 50 * 50 * 2 and len(playground.points["places"]) == 60 * 2 * 4
    act(playground, "epoch")
    assert playground.frame["epoch"] == 1 and len(playground.frame["curve"]) == 2 * 5 * 4
    assert json.dumps({k: v for k, v in playground.frame.items() if not isinstance(v, bytes)}, allow_nan=False)
    act(playground, "step")
    assert (playground.frame["batch"], playground.frame["batches"]) == (1, 3)
    act(playground, "set", "batch_size", 2)
    assert (playground.frame["batch"], playground.frame["batches"]) == (1, 3)
    act(playground, "add", 0, 0, 1)
    assert (playground.frame["batch"], playground.frame["batches"]) == (0, 31)
    act(playground, "reset")
    assert playground.frame["epoch"] == 0


def test_what_a_cell_changes_is_shown():
    playground = view.Playground(small())
    playground.lab.change(lr=0.003, data=OWN)
    assert playground.settings["lr"] == 0.003 in playground.choices["lr"]
    assert playground.choices["lr"] == sorted(playground.choices["lr"]) and 0.003 not in view.Playground().choices["lr"]
    assert playground.points["drawn"] == 0
    playground.lab.add_point(0, 0, 1)
    assert playground.points["own"] == [[0, 0, 1]]
    playground.lab.run_epoch()
    playground.lab.reset()
    assert playground.frame["epoch"] == 0


def test_the_curve_before_names_what_is_different_now():
    playground = view.Playground(small())
    act(playground, "epoch")
    act(playground, "set", "depth", 1)
    act(playground, "step")
    act(playground, "set", "lr", 0.01)
    assert playground.before["name"] == "depth=2, lr=0.001"


def test_what_one_of_two_views_folds_stays_open_in_the_other():
    playground = view.Playground(small())
    for action in (("sight", "b", True), ("unfold", "code", True, "a"), ("unfold", "code", True, "b")):
        act(playground, *action)
    act(playground, "unfold", "code", False, "a")
    act(playground, "epoch")
    assert "range(1)" in playground.code
    act(playground, "sight", "b", None)
    act(playground, "epoch")
    assert "range(1)" in playground.code


def test_a_lab_and_arguments_of_another_are_refused():
    with pytest.raises(TypeError, match=r"not both: got a lab and \['lr'\]"):
        view.Playground(small(), lr=1)


def test_every_choice_is_one_that_the_lab_takes():
    for name, values in view.CHOICES.items():
        for value in values:
            assert name == "speed" or Settings(**{name: [value] if name == "features" else value})


def test_what_is_refused_is_said_and_the_control_goes_back():
    playground = view.Playground(small())
    status = act(playground, "set", "lr", -1, 17)
    assert status["kind"] == "trouble" and "lr must be a finite number" in status["text"]
    assert playground.settings["lr"] == 0.001 and playground.settings["token"] == 17
    assert "unknown action" in act(playground, "__class__")["text"]
    assert "speed must be one of" in act(playground, "set", "speed", "light")["text"]
    assert "must lie in" in act(playground, "add", 9, 9, 1)["text"]
    assert act(playground, "set", "lr", 0.01)["kind"] == "fine"


def test_a_change_says_what_it_did():
    playground = view.Playground(Lab())
    text = act(playground, "set", "reduction", "mean")["text"]
    assert text.startswith("Loss: reduction='mean'. The gradient of the sum is 200 times that of the mean")
    act(playground, "set", "optimizer", "Adam")
    assert "Adam divides it by its size" in act(playground, "set", "reduction", "sum")["text"]
    act(playground, "epoch")
    assert act(playground, "set", "lr", 1e-05)["text"] == "Learning rate: lr=1e-05. The run goes on with it."
    text = act(playground, "set", "depth", 2)["text"]
    assert text == "Hidden layers: depth=2. A new run has begun; the grey curve is the one before."
    assert playground.before["name"] == "depth=3"
    assert act(playground, "set", "speed", "1 step per picture")["text"] == "speed='1 step per picture'."
    act(playground, "epoch")
    assert (
        "network learns beside it" in act(playground, "twin", True)["text"] and playground.settings["twin"] == "PyTorch"
    )
    assert playground.frame["epoch"] == 1 and playground.lab.twin_distance() < 1e-6
    assert act(playground, "set", "batch_size", 5)["text"].endswith("The run goes on with it from the next epoch on.")
    act(playground, "set", "data", OWN)
    assert "Your own points stay" in act(playground, "set", "noise", 0.1)["text"]


def test_the_program_on_screen_follows_the_run():
    playground = view.Playground(small())
    act(playground, "epoch")
    assert playground.code == ""
    act(playground, "unfold", "code", True)
    assert "range(1)" in playground.code
    act(playground, "epoch")
    assert playground.code == playground.lab.snippet() and "range(2)" in playground.code


def test_the_program_on_screen_does_not_wait_for_the_next_picture(monkeypatch):
    monkeypatch.setattr(view, "REFRESH", 0)
    monkeypatch.setattr(view, "SLICE", 0)

    async def story(playground):
        act(playground, "unfold", "code", True)
        act(playground, "set", "speed", "10 epochs per picture")
        playground.play()
        await until(lambda: "range(5)" in playground.code)
        assert playground.frame["epoch"] == 0

    in_a_notebook(story)


def test_while_a_weight_is_weighed_the_kernel_answers(monkeypatch):
    monkeypatch.setattr(view, "SLICE", 0)

    async def story(playground):
        shown = []
        playground.observe(lambda change: shown.append(change["new"]), "hand")
        act(playground, "hold", 0, 0, 0)
        await until(lambda: shown)
        act(playground, "hold", 1, 2, 3)
        await until(lambda: len(shown) == 2)
        act(playground, "turn", 0.75)
        act(playground, "set", "reduction", "mean")
        assert playground.settings["reduction"] == "mean"
        await until(lambda: playground.hand["value"] == 0.75)
        assert playground.hand["loss"] == pytest.approx(playground.lab.measure().train_loss, rel=1e-5)
        said = [(hand["place"], hand["words"]) for hand in shown]
        assert said[:2] == [([0, 0, 0], "Measuring …"), ([1, 2, 3], "Measuring …")]
        assert all(words == ([1, 2, 3], "They agree.") for words in said[2:])

        act(playground, "turn", 0.5)
        await asyncio.sleep(0.001)
        act(playground, "set", "seed", 1)  # of the network before, nothing is said any more
        shown.clear()
        await until(lambda: shown)
        assert shown[0]["loss"] == pytest.approx(playground.lab.measure().train_loss, rel=1e-5)

        act(playground, "turn", 0.5)
        act(playground, "set", "depth", 0)  # no such weight any more
        await until(lambda: not playground.hand)

    in_a_notebook(story)


@pytest.mark.parametrize("bug", ["none", "dropout-in-eval"])
def test_what_happens_while_a_weight_is_weighed_does_not_change_what_is_found(bug):
    place, settings = (1, 2, 3), {"dropout": 0.5, "bug": bug}
    quiet, busy = small(**settings), small(**settings)
    found = []
    for piece in busy.weigh(*place):
        found.append(piece)
        torch.rand(1)
        busy.step()
        busy.set_weight(*place, 0.5)
    assert str(found[-1]) == str(weighed(quiet, *place))


def test_a_weight_in_hand_does_not_hold_up_the_run(monkeypatch):
    monkeypatch.setattr(view, "REFRESH", 0)

    async def story(playground):
        weigh, spent = playground.lab.weigh, []

        def slow(*place):
            time.sleep(0.02)
            spent.append(0.02)
            yield from weigh(*place)

        monkeypatch.setattr(playground.lab, "weigh", slow)
        act(playground, "hold", 1, 0, 0)
        playground.play()
        spent.clear()
        start = time.perf_counter()
        await until(lambda: len(spent) >= 2)
        assert sum(spent) < 0.3 * (time.perf_counter() - start)

    in_a_notebook(story)


@pytest.mark.parametrize("name", [*DATA_SETS, OWN])
def test_without_a_kernel_a_picture_stands_for_the_widget_and_says_so(name, monkeypatch):
    shown = []
    monkeypatch.setattr("IPython.display.display", lambda what, **options: shown.append((what, options)))
    view.Playground(small(data=name))._ipython_display_()
    (widget, _), (picture, _) = shown
    assert widget["text/plain"] == f"Playground(Lab({name}, 2-6-6-2 ReLU, SGD, lr=0.001, sum, epoch 0))"
    assert "diy-still" in picture["text/html"] and "This is a still picture" in picture["text/html"]
    alt, png = re.search(r'<img alt="(.*?)" .*src="data:image/png;base64,(.*?)"', picture["text/html"]).groups()
    assert base64.b64decode(png).startswith(b"\x89PNG")
    assert "Decision surface" in alt and "nan" not in alt
    assert ("train error – %, test error – %" in alt) == (name == OWN)


def in_a_notebook(story, **settings):
    """Run `story(playground)` on an event loop, with a browser that reports every frame at once."""

    async def play():
        playground = view.Playground(small(**settings))
        playground.observe(lambda change: playground.seen(change["new"]["number"]), "frame")
        await story(playground)
        playground.pause()
        if playground._task:
            await playground._task

    asyncio.run(asyncio.wait_for(play(), 60))


async def until(condition):
    while not condition():
        await asyncio.sleep(0.001)


def test_it_plays_until_it_is_paused_and_leaves_the_kernel_free():
    async def story(playground):
        playground.play()
        await until(lambda: playground.frame["epoch"] >= 3)  # this task runs while it plays, as another cell would
        assert playground.status == {"text": "Playing.", "kind": "fine", "playing": True}
        act(playground, "pause")
        await playground._task
        epoch = playground.lab.epoch
        await asyncio.sleep(0.05)
        assert playground.lab.epoch == epoch and not playground.status["playing"]

    in_a_notebook(story)


@pytest.mark.parametrize("slice", [0, math.inf])
@pytest.mark.parametrize(
    "speed, steps", [("1 step per picture", 1), ("1 epoch per picture", 3), ("10 epochs per picture", 30)]
)
def test_the_speed_is_the_training_between_two_pictures(speed, steps, slice, monkeypatch):
    monkeypatch.setattr(view, "SLICE", slice)

    async def story(playground):
        act(playground, "set", "speed", speed)
        playground._wants_to_play = True
        await playground._advance()
        assert playground.lab.steps == steps

    in_a_notebook(story)


def test_in_a_long_epoch_the_kernel_answers(monkeypatch):
    monkeypatch.setattr(view, "SLICE", 0)

    async def story(playground):
        act(playground, "epoch")
        await until(lambda: playground.lab.steps_in_epoch >= 3)
        assert playground.playing and playground.lab.epoch == 0 and playground.progress["batch"] >= 1
        act(playground, "set", "lr", 0.002)
        assert playground.settings["lr"] == 0.002
        await until(lambda: not playground.playing)
        assert playground.lab.epoch == 1 and playground.status["text"].startswith("The epoch is finished")

    in_a_notebook(story, batch_size=1)


def test_out_of_sight_nothing_is_trained():
    async def story(playground):
        act(playground, "sight", "a", True)
        playground.play()
        await until(lambda: playground.frame["epoch"] >= 2)
        act(playground, "sight", "a", False)
        await playground._task
        steps = playground.lab.steps
        assert "until it is in view" in playground.status["text"]
        act(playground, "sight", "b", False)
        assert playground.lab.steps == steps and not playground.playing
        act(playground, "sight", "b", True)
        await until(lambda: playground.lab.steps > steps)
        act(playground, "sight", "a", None)
        for end in ("pause",), ("sight", "b", None):
            act(playground, "sight", "b", False)
            act(playground, *end)
            assert playground.status["text"].startswith("Paused")
            act(playground, "sight", "b", True)
            assert not playground.playing
            playground.play()

    in_a_notebook(story)


def test_long_work_is_announced_before_it_begins():
    async def story(playground):
        assert act(playground, "twin", True)["kind"] == "busy" and playground.lab.twin is None
        await until(lambda: playground.lab.twin is not None)
        assert playground.status["kind"] == "fine"

    in_a_notebook(story)


def test_the_interrupt_button_pauses():
    async def story(playground):
        before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # as the kernel has it between two cells
        try:
            playground.play()
            await until(lambda: playground.frame["epoch"] >= 2)
            signal.raise_signal(signal.SIGINT)
            await until(lambda: not playground.playing)
            assert "interrupt" in playground.status["text"]
        finally:
            signal.signal(signal.SIGINT, before)

    in_a_notebook(story)


def test_a_new_run_ends_what_was_begun_for_the_one_before(monkeypatch):
    monkeypatch.setattr(view, "SLICE", 0)

    async def story(playground):
        act(playground, "epoch")
        await until(lambda: playground.lab.steps == 3)
        act(playground, "set", "depth", 1)
        assert "A new run has begun" in playground.status["text"] and not playground.status["playing"]
        await asyncio.sleep(0.05)
        assert playground.lab.steps == 0

    in_a_notebook(story, batch_size=1)


@pytest.mark.parametrize("change, said", [(None, "The run is restored."), (0.5, "with what you have changed")])
def test_a_run_that_is_restored_says_whether_it_is(change, said, monkeypatch):
    monkeypatch.setattr(view, "SLICE", 0)

    async def story(playground):
        again = view.Playground(small(batch_size=1, changes=[(5, "lr", 0.01)]), steps=20)
        await until(lambda: again.lab.steps > 6)
        if change:
            act(again, "set", "lr", change)
        await until(lambda: not again.status["playing"])
        assert said in again.status["text"] and again.lab.steps == 20

    in_a_notebook(story)


def test_what_is_refused_stops_nothing_but_without_points_it_stops():
    async def story(playground):
        playground.play()
        await until(lambda: playground.frame["epoch"] >= 1)
        assert act(playground, "set", "lr", -1)["playing"]
        status = act(playground, "set", "data", OWN)
        assert status["text"].endswith(view.NOTHING) and not status["playing"]

    in_a_notebook(story)


def test_a_film_is_of_one_run():
    async def story(playground):
        act(playground, "epoch")
        await until(lambda: not playground.playing)
        act(playground, "save", "gif")
        await until(lambda: playground.status["text"].startswith("Drawing the film"))
        act(playground, "set", "data", "moons")
        await until(lambda: playground.status["text"].startswith("The film was abandoned"))

    in_a_notebook(story)


def test_trouble_stops_it_and_play_starts_anew():
    async def story(playground):
        playground.play()
        await until(lambda: not playground.status["playing"])
        assert playground.status["kind"] == "trouble" and playground.status["text"].startswith("Diverged")
        status = act(playground, "set", "lr", 0.001)
        assert status["text"] == f"Learning rate: lr=0.001. {view.LOST}" and status["kind"] == "trouble"
        assert playground.frame["batch"] == playground.lab.steps_in_epoch > 0
        act(playground, "play")
        assert playground.lab.epoch == 0 and playground.playing
        await until(lambda: playground.frame["epoch"] >= 5)

    in_a_notebook(story, lr=1.0)


@pytest.mark.parametrize("action", ["step", "epoch"])
def test_a_single_step_into_trouble_is_explained(action):
    playground = view.Playground(small(lr=10.0, batch_size=60))
    status = act(playground, action)
    while not playground.lab.trouble:
        status = act(playground, action)
    assert status["text"] == playground.lab.trouble and status["kind"] == "trouble"


def test_it_stops_when_the_browser_falls_silent(monkeypatch):
    monkeypatch.setattr(view, "PATIENCE", 0.05)

    async def story():
        playground = view.Playground(small())
        playground.play()
        await playground._task
        assert not playground.playing and "no longer answers" in playground.status["text"]
        assert playground._sent <= playground._seen + view.WINDOW

    asyncio.run(asyncio.wait_for(story(), 60))


def test_an_error_while_playing_is_said():
    async def story(playground):
        playground.play()
        await until(lambda: playground.frame["epoch"] >= 1)
        playground.lab.step = None
        await playground._task
        assert "Stopped by an error" in playground.status["text"] and playground.status["kind"] == "trouble"

    in_a_notebook(story)


def test_two_playgrounds_do_not_disturb_each_other():
    async def story(playground):
        other = view.Playground(small(dropout=0.3))
        other.observe(lambda change: other.seen(change["new"]["number"]), "frame")
        playground.play()
        other.play()
        await until(lambda: min(playground.frame["epoch"], other.frame["epoch"]) >= 4)
        other.pause()
        assert playground.playing
        for lab, settings in ((playground.lab, {}), (other.lab, {"dropout": 0.3})):
            assert lab.history[:5] == run(small(**settings), 4).history

    in_a_notebook(story)


def test_without_an_event_loop_it_says_so():
    assert "make the Playground in a notebook cell" in act(view.Playground(small()), "play")["text"]
