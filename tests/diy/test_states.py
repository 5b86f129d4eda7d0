"""Training that is saved and loaded goes on to the bit, even after a kill; states come from PyTorch and go there."""

import copy
import math
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from torch import nn

import diy

ROOT = Path(__file__).parents[2]
PROGRAM = """
import os, sys
import torch
import diy

path, kind = sys.argv[1:]
torch.manual_seed(0)
network = diy.Sequential(diy.Linear(2, 8), diy.ReLU(), diy.Dropout(0.2), diy.Linear(8, 2), diy.Tanh())
options = {"momentum": 0.9, "nesterov": True} if kind == "SGD" else {}
optimizer = getattr(diy, kind)(network.parameters(), lr=0.05, weight_decay=0.01, **options)
schedule, criterion, start = diy.CosineAnnealingLR(optimizer, 200), diy.MSELoss(), 0
if os.path.exists(path):
    kept = torch.load(path)
    network.load_state_dict(kept["network"])
    optimizer.load_state_dict(kept["optimizer"])
    schedule.load_state_dict(kept["schedule"])
    torch.set_rng_state(kept["random"])
    start = kept["step"]
for step in range(start, 200):
    x = torch.rand(20, 2)
    criterion(network(x), x.flip(1))
    optimizer.zero_grad()
    network.backward(criterion.backward())
    optimizer.step()
    schedule.step()
    kept = {"network": network.state_dict(), "optimizer": optimizer.state_dict(), "schedule": schedule.state_dict()}
    torch.save({**kept, "random": torch.get_rng_state(), "step": step + 1}, path + ".part")
    os.replace(path + ".part", path)
"""


@pytest.mark.parametrize("kind", ["SGD", "Adam"])
def test_training_that_was_killed_goes_on_to_the_bit(kind, tmp_path, monkeypatch):
    whole, killed = tmp_path / "whole.pt", tmp_path / "killed.pt"

    def train(path):
        monkeypatch.setattr(sys, "argv", ["-c", str(path), kind])
        exec(PROGRAM, {"__name__": "__main__"})

    train(whole)
    process = subprocess.Popen([sys.executable, "-c", PROGRAM, str(killed), kind], cwd=ROOT)
    while not killed.exists():
        assert process.poll() is None
        time.sleep(0.001)
    process.kill()
    process.wait()
    assert torch.load(killed)["step"] < 200, "it was killed in between"
    train(killed)
    one, other = torch.load(whole), torch.load(killed)
    for name in one["network"]:
        assert torch.equal(one["network"][name], other["network"][name]), name
    assert one["schedule"] == other["schedule"]
    for index, values in one["optimizer"]["state"].items():
        for name, value in values.items():
            assert torch.equal(torch.as_tensor(value), torch.as_tensor(other["optimizer"]["state"][index][name]))


def trained(library, kind, **options):
    optimizers = diy if library is diy else torch.optim
    torch.manual_seed(0)
    network = library.Sequential(library.Linear(2, 3), library.Tanh(), library.Linear(3, 1)).double()
    optimizer = getattr(optimizers, kind)(network.parameters(), lr=0.1, **options)
    for index, parameter in enumerate(network.parameters()):
        parameter.grad = torch.full_like(parameter, index + 1.0).detach()
    optimizer.step()
    return network, optimizer


@pytest.mark.parametrize(
    ("kind", "options"),
    [("SGD", {}), ("SGD", {"momentum": 0.9}), ("Adam", {}), ("Adam", {"betas": (0.5, 0.9)})],
    ids=str,
)
def test_states_of_optimizers_are_pytorchs(kind, options):
    _, ours = trained(diy, kind, **options)
    _, theirs = trained(nn, kind, **options)
    got, expected = ours.state_dict(), theirs.state_dict()
    assert got["state"].keys() == {
        index for index, values in expected["state"].items() if any(v is not None for v in values.values())
    }
    for index, values in got["state"].items():
        for name, value in values.items():
            torch.testing.assert_close(
                torch.as_tensor(float(value)) if name == "step" else value, expected["state"][index][name]
            )
    group = got["param_groups"][0]
    assert {name: value for name, value in expected["param_groups"][0].items() if name in group} == group
    fresh = getattr(diy, kind)(trained(diy, kind)[0].parameters(), lr=1.0, **options)
    fresh.load_state_dict(expected)
    assert fresh.lr == 0.1 and fresh.state_dict()["state"].keys() == got["state"].keys()


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        (
            lambda state: state["param_groups"][0].update(maximize=True),
            ValueError,
            "SGD does not support maximize=True",
        ),
        (
            lambda state: state["param_groups"].append({"params": []}),
            ValueError,
            "SGD has one group of parameters, the state has 2",
        ),
        (
            lambda state: state["param_groups"][0].update(params=[0]),
            ValueError,
            "SGD has 4 parameters, the state has 1",
        ),
        (lambda state: state["param_groups"][0].pop("momentum"), KeyError, "not the state of SGD: missing .*momentum"),
        (
            lambda state: state["param_groups"][0].update(lr=-1.0),
            ValueError,
            "the learning rate must be a finite number",
        ),
        (
            lambda state: state["state"][0].update(momentum_buffer=torch.ones(7)),
            ValueError,
            r"momentum_buffer of parameter 0 must have .*\(3, 2\), got \(7,\)",
        ),
        (lambda state: state.pop("state"), KeyError, "not the state of an optimizer"),
        (lambda state: state["param_groups"][0].pop("params"), KeyError, "not the state of an optimizer"),
    ],
    ids=range(8),
)
def test_a_state_that_does_not_fit_is_refused_and_changes_nothing(change, error, words):
    _, optimizer = trained(diy, "SGD", momentum=0.9)
    state = copy.deepcopy(optimizer.state_dict())
    change(state)
    before = copy.deepcopy(optimizer.state_dict())
    with pytest.raises(error, match=words):
        optimizer.load_state_dict(state)
    after = optimizer.state_dict()
    assert before["param_groups"] == after["param_groups"]
    assert all(
        torch.equal(before["state"][i]["momentum_buffer"], after["state"][i]["momentum_buffer"]) for i in range(4)
    )


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        (lambda kept: kept[0].update(step=math.nan), ValueError, "step of parameter 0 must be a finite number"),
        (lambda kept: kept[0].update(step="x"), TypeError, "step of parameter 0 must be a number"),
        (lambda kept: kept[0].pop("step"), KeyError, "its entry 0 is not that of one of the parameters"),
        (lambda kept: kept.update({7: kept[0]}), KeyError, "its entry 7 is not that of one of the parameters"),
        (lambda kept: kept[0].update(exp_avg=[1.0]), ValueError, "exp_avg of parameter 0 must have floats .*got list"),
        (lambda kept: kept[0].update(exp_avg=kept[0]["exp_avg"].long()), ValueError, "must have floats .*torch.int64"),
    ],
    ids=range(6),
)
def test_what_adam_has_kept_must_be_whole(change, error, words):
    _, optimizer = trained(diy, "Adam")
    state = optimizer.state_dict()
    change(state["state"])
    with pytest.raises(error, match=words):
        optimizer.load_state_dict(state)


@pytest.mark.parametrize("kind", ["SGD", "Adam"])
def test_a_state_is_that_of_the_moment_it_was_taken(kind):
    _, optimizer = trained(diy, kind, **({"momentum": 0.9} if kind == "SGD" else {}))
    taken = optimizer.state_dict()
    before = copy.deepcopy(taken)
    optimizer.step()
    for index, values in before["state"].items():
        assert all(
            torch.equal(torch.as_tensor(taken["state"][index][name]), torch.as_tensor(v)) for name, v in values.items()
        )


def test_adams_state_is_not_sgds():
    with pytest.raises(KeyError, match=r"not the state of SGD: missing"):
        trained(diy, "SGD")[1].load_state_dict(trained(diy, "Adam")[1].state_dict())


def test_schedules_compose_and_leave_a_rate_changed_by_hand():
    ours, theirs = (module.SGD([torch.zeros(2)], lr=0.1) for module in (diy, torch.optim))
    schedules = [
        (diy.CosineAnnealingLR(ours, T), torch.optim.lr_scheduler.CosineAnnealingLR(theirs, T)) for T in (10, 17)
    ]
    for step in range(40):
        if step == 5:
            ours.lr = 0.5
            theirs.param_groups[0]["lr"] = 0.5
        ours.step(), theirs.step()
        for our_schedule, their_schedule in schedules:
            our_schedule.step(), their_schedule.step()
            assert our_schedule.get_last_lr() == their_schedule.get_last_lr()


def test_a_schedule_may_drive_pytorchs_optimizer():
    optimizer = torch.optim.SGD([torch.zeros(2)], lr=0.1)
    diy.CosineAnnealingLR(optimizer, 2).step()
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.05)


def test_a_learners_optimizer_may_keep_what_it_likes():
    class Own(diy.Optimizer):
        def direction(self, g, w):
            state = self.state.setdefault(w, {})
            state["step"] = state.get("step", 0) + 0.5
            state["rows"], state["positive"], state["t"] = g.sum(-1), g > 0, torch.tensor(3.0)
            return g

    network = diy.Linear(3, 2)
    network(torch.ones(4, 3))
    network.backward(torch.ones(4, 2))
    optimizer, other = Own(network.parameters(), lr=0.1), Own(network.parameters(), lr=0.2)
    optimizer.step()
    other.load_state_dict(optimizer.state_dict())
    torch.testing.assert_close(other.state_dict(), optimizer.state_dict())
