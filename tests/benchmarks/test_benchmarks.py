"""The speed benchmark: its contenders compute the same numbers, and its report says what was measured."""

import platform
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from benchmarks import contenders, speed
from experiments.results import unsealed

ROOT = Path(__file__).resolve().parents[2]
FULL_BATCH = contenders.Task(batch_size=200, samples=200)
"""One batch per epoch: then the order of the samples makes no difference."""


def silent(text):
    pass


def build(row, task):
    contender = contenders.CONTENDERS[row]
    if reason := contender.missing():
        pytest.skip(reason)
    return contender.build(task)


# torch-compile and tinygrad take seconds to compile, and are compared in the run of the benchmark alone.
ROWS = ["diy-sgd", "diy-stack", "torch-by-hand", "numpy", "numpy-classes", "numpy-classes-64", "jax-step", "jax-scan"]


@pytest.mark.parametrize("row", ROWS)
def test_contenders_compute_the_same_losses_as_pytorch(row):
    losses, expected = build(row, FULL_BATCH)(20), build("torch-sgd", FULL_BATCH)(20)
    assert expected[-1] < 0.6 * expected[0], "the comparison is of networks that learn"
    # 20 steps in float32, summed in different orders, let rounding grow to some 1e-6
    assert losses == pytest.approx(expected, rel=1e-4)


def test_micrograd_computes_the_same_losses_as_pytorch():
    task = contenders.Task((2, 4, 3, 2), batch_size=20, samples=20)  # a number at a time is slow
    losses, expected = build("micrograd", task)(20), build("torch-sgd", task)(20)
    assert expected[-1] < 0.8 * expected[0]
    assert losses == pytest.approx(expected, rel=1e-4)


def test_a_slow_row_takes_one_step_three_times_beside_its_baseline(monkeypatch):
    monkeypatch.setitem(contenders.CONTENDERS, "numpy", replace(contenders.CONTENDERS["numpy"], slow=True))
    turns = []

    def take_turns(runs, rounds):
        turns.append((*runs, rounds))
        return {row: [float(len(row))] * rounds for row in runs}  # seconds per epoch

    monkeypatch.setattr(speed, "take_turns", take_turns)
    table, _ = speed.training(["torch-sgd", "numpy"], 5, 0, task=contenders.Task(), say=silent)
    assert turns == [("torch-sgd", 5), ("torch-sgd", "numpy", 3)]
    assert contenders.CONTENDERS["numpy"].own(contenders.Task()).steps == 1
    assert [entry["microseconds"]["median"] for entry in table] == pytest.approx([9e5, 5e6])  # of ten steps, of one
    assert table[1]["ratio"]["median"] == pytest.approx(5 * 10 / 9)


@pytest.mark.parametrize("kind", ["sgd", "dropout", "adam", "lenet"])
def test_diy_follows_pytorch_step_by_step(kind):
    """The same seed gives the same orders and masks."""
    losses = {}
    task = contenders.Task(samples=40, batch_size=10)
    for library in ("torch", "diy"):
        run = build(f"{library}-{kind}", task)
        torch.manual_seed(3)
        losses[library] = run(3)
    assert len(set(losses["torch"])) == 3
    assert losses["diy"] == pytest.approx(losses["torch"], rel=1e-4)


def test_inference_computes_the_same_outputs():
    task = contenders.Task(samples=500)
    outputs = {library: build(task)(2) for library, build in contenders.INFERENCE.items()}
    assert outputs["diy"] == pytest.approx(outputs["torch"], rel=1e-5)


def test_a_training_step_happens_where_the_parameters_are(diy):
    device = "meta"  # its tensors have shapes but no numbers, and refuse to meet tensors of another device
    layers = diy.Linear(2, 5, device=device), diy.ReLU(), diy.Dropout(0.5), diy.Linear(5, 2, device=device), diy.Tanh()
    network = diy.Sequential(*layers)
    criterion, optimizer = diy.MSELoss(), diy.SGD(network.parameters(), lr=0.1, momentum=0.9)
    x, target = torch.randn(4, 2, device=device), torch.randn(4, 2, device=device)
    for _ in range(2):
        loss = criterion(network(x), target)
        optimizer.zero_grad()
        assert network.backward(criterion.backward()).device.type == device
        optimizer.step()
    assert loss.device.type == device
    assert all(parameter.device.type == parameter.grad.device.type == device for parameter in network.parameters())


def test_turns_rotate_and_warm_up_outside_the_clock():
    calls = []
    runs = {name: (lambda epochs, name=name: calls.append((name, epochs)), 2) for name in "abc"}
    times = speed.take_turns(runs, 4)
    assert [len(values) for values in times.values()] == [4, 4, 4]
    assert [name for name, _ in calls] == [*"abc", *"aabbcc", *"bbccaa", *"ccaabb", *"aabbcc"]
    assert {epochs for _, epochs in calls} == {2}


def test_turns_end_with_the_time_but_not_before_three_rounds():
    assert len(speed.take_turns({"a": (lambda epochs: None, 1)}, 50, seconds=0)["a"]) == 3


def test_ratios_are_taken_round_by_round():
    times = {"torch": [1.0, 10.0, 2.0], "diy": [0.5, 4.0, 1.2]}
    assert speed.ratio(times, "diy", "torch") == pytest.approx({"median": 0.5, "q1": 0.45, "q3": 0.55})
    assert speed.ratio(times, "diy", "torch", factor=0.1)["median"] == pytest.approx(0.05)


@pytest.fixture(scope="module")
def report():
    rows = ["torch-sgd", "diy-sgd", "diy-stack", "torch-adam", "diy-adam"]
    task = contenders.Task(samples=100)
    table, _ = speed.training(rows, rounds=3, repeats=0, task=task, say=silent)
    tiny = {"width 8": replace(task, sizes=(2, 8, 2))}
    large = speed.side_by_side(tiny, 3, 1, memory=0, say=silent)
    inference = speed.side_by_side({"100 points": task}, 3, 1, 1, contenders.INFERENCE, 0, silent)
    return {
        "environment": speed.machine("cpu"),
        "rounds": 3,
        "training": table,
        "large": large,
        "inference": inference,
    }


def test_every_row_has_time_and_ratio(report):
    for entry in report["training"]:
        assert entry["skipped"] is None
        for spread in (entry["microseconds"], entry["ratio"]):
            assert 0 < spread["q1"] <= spread["median"] <= spread["q3"]
    baselines = [entry for entry in report["training"] if entry["row"] == entry["baseline"]]
    assert [entry["ratio"]["median"] for entry in baselines] == [1.0]


def test_times_of_several_networks_are_given_per_network():
    contender = contenders.CONTENDERS["diy-stack"]
    table, times = speed.training(["torch-sgd", "diy-stack"], 3, 0, task=FULL_BATCH, say=silent)
    per_step = 1e6 * sorted(times["diy-stack"])[1]
    assert table[1]["microseconds"]["median"] == pytest.approx(per_step / contender.networks)


def test_a_row_that_cannot_run_is_skipped_with_the_reason(monkeypatch):
    broken = replace(contenders.CONTENDERS["jax-step"], imports=("no_such_library",))
    monkeypatch.setitem(contenders.CONTENDERS, "jax-step", broken)
    table, times = speed.training(["torch-sgd", "jax-step"], 3, 0, task=FULL_BATCH, say=silent)
    assert table[1]["skipped"] == "no_such_library is not installed" and "microseconds" not in table[1]
    assert list(times) == ["torch-sgd"]
    assert replace(broken, imports=(), tools=("no-such-compiler",)).missing() == "needs one of no-such-compiler"
    assert replace(broken, imports=()).missing("cuda") == "runs on the CPU only"


def test_the_command_writes_report_and_figure_and_names_no_computer(report, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(speed, "measure", lambda *_: report)
    speed.main(["--output", str(tmp_path)])
    assert {path.name for path in tmp_path.iterdir()} == {"speed.json", "speed.png", "speed.pdf"}
    text = (tmp_path / "speed.json").read_text(encoding="utf-8")
    assert unsealed(text.encode()) == report
    assert platform.node() not in text and str(ROOT) not in text
    assert {"processor", "threads", "cores", "python", "torch", "numpy", "jax"} <= report["environment"].keys()
    shown = capsys.readouterr().out
    assert all(f"| {entry['title']} | " in shown for entry in report["training"])
    speed.main(["--show", "--output", str(tmp_path)])
    assert capsys.readouterr().out == shown


def test_a_quick_look_writes_nothing(report, monkeypatch, tmp_path):
    monkeypatch.setattr(speed, "measure", lambda *_: report)
    speed.main(["--quick", "--output", str(tmp_path)])
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("memory", [{"torch_peak_memory_mb": 8.0, "diy_peak_memory_mb": 7.0}, {}])
def test_the_scaling_study_draws_time_and_memory_where_it_was_measured(report, monkeypatch, tmp_path, memory):
    table = [
        {**report["large"][0], "axis": axis, "size": size, **memory} for axis in speed.SCALING for size in (1, 10, 100)
    ]
    scaling = {"environment": report["environment"], "scaling": table}
    monkeypatch.setattr(speed, "scale", lambda *_: scaling)
    speed.main(["--scaling", "--output", str(tmp_path)])
    assert {path.name for path in tmp_path.iterdir()} == {"scaling.json", "scaling.png", "scaling.pdf"}


def test_a_process_of_its_own_reports_time_and_memory():
    task = contenders.Task((2, 512, 512, 2), 2000, 2000)
    measured = speed.in_a_process("numpy", task, 2, warm=True)
    assert 0 < measured["import_seconds"] < measured["first_result_seconds"]
    assert measured["run_seconds"] > 0
    # two activations of 2000 × 512 float32 are 7.8 MB and must be there; ten times that would be something else
    assert 7.8 < measured["peak_memory_mb"] < 78


def test_a_process_that_fails_says_why():
    with pytest.raises(RuntimeError, match="numpy failed in a process of its own: ValueError"):
        speed.in_a_process("numpy", contenders.Task(batch_size=0), 1)
