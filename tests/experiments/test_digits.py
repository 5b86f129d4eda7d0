"""The digits command, as a user meets it, and the training that it reports."""

import gzip
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from experiments.digits import figures as digit_figures
from experiments.digits import train as digits
from experiments.digits.data import MNIST_MD5, digits_images
from experiments.digits.train import LIBRARIES, DigitsProtocol, shifted, train_round

ROOT = Path(__file__).resolve().parents[2]
TINY = ["--rounds", "2", "--epochs", "1", "--channels", "2", "--batch-size", "200"]


@pytest.fixture(scope="module")
def tiny(launcher, tmp_path_factory):
    directory = tmp_path_factory.mktemp("digits")
    return launcher.run("-m", "experiments.digits", *TINY, "--output", directory), directory


def test_it_prints_rounds_table_and_paths(tiny):
    done, directory = tiny
    text = done.stdout
    assert done.returncode == 0 and done.stderr == "", "no progress bar without a terminal"
    assert "2 rounds of digits: 1437 training and 360 test images of 8 × 8, 1 epoch in batches of 200" in text
    assert "mean ± std over 2 rounds" in text and "times PyTorch's time" in text
    content = json.loads((directory / "digits.json").read_text(encoding="utf-8"))
    for index, record in enumerate(content["rounds"]):
        for name in LIBRARIES:
            assert f"{index + 1:>5}  {name:<7}{record[name]['loss'][-1]:>9.4f}" in text
    written = text.split("written: ")[1].split()
    assert len(written) == 9 and all(Path(path).stat().st_size > 0 for path in written)
    assert not (directory / "unfinished").exists()


def test_results_say_what_they_depend_on(tiny):
    content = digits.load(tiny[1])
    assert content["protocol"] == {**vars(DigitsProtocol()), "rounds": 2, "epochs": 1, "channels": 2, "batch_size": 200}
    assert content["environment"]["torch"] == torch.__version__
    labels = digits_images().test_labels
    for record in content["rounds"]:
        for name in LIBRARIES:
            own = record[name]
            wrong = (torch.tensor(own["predictions"]) != labels).double().mean().item()
            assert own["test_error"] == pytest.approx(wrong, abs=1e-12)
            assert len(own["loss"]) == 1 and len(own["confidence"]) == 360
        # The same weights, batches and formulas: in float32 few labels, if any, can differ after one epoch.
        assert sum(a != b for a, b in zip(record["diy"]["predictions"], record["torch"]["predictions"])) <= 3


def test_a_finished_run_resumes_without_training(launcher, tiny, tmp_path):
    shutil.copytree(tiny[1] / "rounds", tmp_path / "rounds")
    command = ["-m", "experiments.digits", *TINY, "--output", tmp_path, "--resume", "--quiet", "--no-figures"]
    done = launcher.run(*command)
    assert done.returncode == 0 and digits.load(tmp_path)["rounds"] == digits.load(tiny[1])["rounds"]
    assert len(list((tmp_path / "rounds").iterdir())) == 2


def test_validation_leaves_the_test_images_alone(tmp_path, capsys):
    assert digits.main([*TINY, "--rounds", "1", "--validate", "--no-figures", "--output", str(tmp_path)]) == 0
    text = capsys.readouterr().out
    assert "1149 training and 288 validation images" in text
    assert "validation error %" in text and "test error" not in text


def test_in_float64_both_libraries_walk_the_same_path(tmp_path):
    arguments = ["--rounds", "1", "--epochs", "2", "--channels", "4", "--float64", "--no-figures", "--output"]
    assert digits.main([*arguments, str(tmp_path)]) == 0
    (record,) = digits.load(tmp_path)["rounds"]
    # 58 steps; rounding of 1e-16 is amplified, by far less than the factor of 1e7 that is left.
    assert record["loss_difference"] < 1e-9 and record["weight_difference"] < 1e-9
    assert record["diy"]["predictions"] == record["torch"]["predictions"]
    assert record["diy"]["loss"][1] < record["diy"]["loss"][0], "it learns"


def test_libraries_that_disagree_end_with_1(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(digits, "AGREEMENT", 1e-30)
    code = digits.main([*TINY, "--rounds", "1", "--float64", "--no-figures", "--output", str(tmp_path)])
    error = capsys.readouterr().err
    assert code == 1 and "the libraries differ by" in error and len(error.strip().splitlines()) == 1


def test_divergence_ends_with_one_line(launcher, tmp_path):
    done = launcher.run("-m", "experiments.digits", *TINY, "--lr", "1e30", "--quiet", "--output", tmp_path)
    assert done.returncode == 1 and done.output.count("\n") == 1
    assert "round 1, epoch 1: the loss is not finite; lower --lr" in done.stderr


def test_mnist_takes_the_same_path(tmp_path, monkeypatch, capsys):
    # Files of MNIST's names and format, smaller than MNIST: only their checksums have to be made known.
    import hashlib

    from experiments.digits import data as images

    generator, sums = np.random.default_rng(0), {}
    for name, shape in zip(MNIST_MD5, [(60, 28, 28), (60,), (40, 28, 28), (40,)]):
        array = (np.arange(shape[0]) % 10 if len(shape) == 1 else generator.integers(0, 256, shape)).astype(np.uint8)
        header = bytes([0, 0, 8, array.ndim]) + b"".join(size.to_bytes(4, "big") for size in shape)
        sums[name] = hashlib.md5(header + array.tobytes()).hexdigest()
        (tmp_path / f"{name}.gz").write_bytes(gzip.compress(header + array.tobytes()))
    monkeypatch.setattr(images, "MNIST_MD5", sums)
    where = ["--mnist", str(tmp_path), "--output", str(tmp_path / "results")]
    assert digits.main([*TINY, "--rounds", "1", *where, "--no-figures"]) == 0
    assert "1 round of mnist: 60 training and 40 test images of 28 × 28" in capsys.readouterr().out
    figure = digit_figures.worst_mistakes(digits.load(tmp_path / "results"), images.mnist_images(tmp_path))
    assert figure.axes[0].images[0].get_array().shape == (28, 28)


def test_the_same_seed_gives_the_same_numbers():
    data, recipe = digits_images(), DigitsProtocol(epochs=1, channels=2, batch_size=200)
    first, again, other = (train_round(recipe, data, index) for index in (0, 0, 1))
    assert first["diy"]["loss"] == again["diy"]["loss"] and first["filters"] == again["filters"]
    assert first["diy"]["loss"] != other["diy"]["loss"], "each round has weights and an order of its own"


def test_a_shift_moves_by_one_pixel_at_most_and_repeats():
    images = torch.zeros(2, 1, 5, 5)
    images[:, 0, 2, 2] = 1
    seen = set()
    for seed in range(60):
        moved = shifted(images, torch.Generator().manual_seed(seed))
        assert moved.shape == images.shape and moved.sum() == 2 and torch.equal(moved[0], moved[1])
        seen.add(tuple(moved[0, 0].nonzero()[0].tolist()))
    assert seen == {(y, x) for y in (1, 2, 3) for x in (1, 2, 3)}


def test_figures_show_what_the_results_say(tiny):
    content, data = digits.load(tiny[1]), digits_images()
    mistakes = sum((np.array(r["diy"]["predictions"]) != data.test_labels.numpy()).sum() for r in content["rounds"])
    figure = digit_figures.confusion(content, data)
    assert figure.axes[0].get_title("left") == f"{mistakes} mistakes among 720 answers, 2 rounds"
    numbers = [int(text.get_text()) for text in figure.axes[0].texts if text.get_text()]
    assert sum(numbers) == 720
    (curve, twin) = digit_figures.loss_curves(content).axes[0].lines
    assert curve.get_ydata()[-1] == np.mean([record["diy"]["loss"][-1] for record in content["rounds"]])
    assert twin.get_label() == "PyTorch"
    shown = [axes for axes in digit_figures.worst_mistakes(content, data, count=7).axes if axes.images]
    confidence = np.mean([record["diy"]["confidence"] for record in content["rounds"]], axis=0)
    assert len(shown) == 7 and f"{confidence.min():.0%} for " in shown[0].get_title()
    kernels = [axes for axes in digit_figures.filters(content).axes if axes.images]
    np.testing.assert_array_equal(kernels[1].images[0].get_array(), content["rounds"][0]["filters"][1])


def test_the_committed_results_are_of_this_recipe():
    content = json.loads((ROOT / "report" / "digits.json").read_text(encoding="utf-8"))
    assert content["protocol"] == vars(DigitsProtocol()) and len(content["rounds"]) == 5
    labels = digits_images().test_labels
    for record in content["rounds"]:
        for name in LIBRARIES:
            wrong = (torch.tensor(record[name]["predictions"]) != labels).double().mean().item()
            assert record[name]["test_error"] == pytest.approx(wrong, abs=1e-12)
