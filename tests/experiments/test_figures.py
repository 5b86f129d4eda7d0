"""Figures 2 to 5: what they show, and that equal results give equal files."""

import matplotlib
import numpy as np
import pytest

from experiments import evaluation, figures
from experiments.circle import MODELS, RADIUS, Protocol
from experiments.evaluation import Results, Round


@pytest.fixture(scope="module")
def results():
    protocol = Protocol(rounds=3, epochs=4, test_size=40)
    generator = np.random.default_rng(0)
    models = {
        name: [
            Round(
                seconds=generator.uniform(0.1, 3),
                loss=generator.uniform(0.01, 0.3, 4).tolist(),
                train_error=generator.uniform(0, 0.5),
                test_error=generator.uniform(0, 0.5),
                predictions=generator.integers(0, 2, 40).astype(np.uint8),
            )
            for _ in range(3)
        ]
        for name in MODELS
    }
    return Results(protocol, {}, models)


@pytest.mark.parametrize("draw", [figures.training_time, figures.test_errors])
def test_there_is_one_named_box_per_model(results, draw):
    (axes,) = draw(results).axes
    assert [label.get_text() for label in axes.get_yticklabels()] == [MODELS[name].title for name in MODELS]
    assert "3 rounds" in axes.get_xlabel()


def test_the_callers_theme_does_not_show(results, tmp_path):
    (plain,) = figures.save_figure(figures.loss_curves(results), tmp_path / "plain", ("png",))
    with matplotlib.rc_context({"axes.facecolor": "red", "lines.linewidth": 9, "axes.spines.top": False}):
        (themed,) = figures.save_figure(figures.loss_curves(results), tmp_path / "themed", ("png",))
    assert plain.read_bytes() == themed.read_bytes()


def test_every_error_has_its_place_on_the_axis(results):
    (axes,) = figures.test_errors(results).axes
    assert axes.get_xlim() == (0, 100)


def test_loss_curves_show_mean_and_standard_deviation(results):
    (axes,) = figures.loss_curves(results).axes
    assert len(axes.lines) == len(axes.collections) == len(MODELS)
    losses = np.array([r.loss for r in results.models["torch-adam"]])
    index = list(MODELS).index("torch-adam")
    np.testing.assert_allclose(axes.lines[index].get_ydata(), losses.mean(0))
    band = axes.collections[index].get_paths()[0].vertices
    assert band[:, 1].max() == pytest.approx((losses.mean(0) + losses.std(0, ddof=1)).max())
    assert axes.lines[index].get_label() == MODELS["torch-adam"].title


def test_labels_are_drawn_where_the_points_are(results):
    (axes,) = figures.predicted_labels(results, "diy-sgd").axes
    points = np.concatenate([evaluation.test_points(results.protocol, r) for r in range(3)])
    labels = np.concatenate([r.predictions for r in results.models["diy-sgd"]])
    inside, outside = (collection.get_offsets() for collection in axes.collections[:2])
    np.testing.assert_array_equal(inside, points[labels == 1])
    np.testing.assert_array_equal(outside, points[labels == 0])
    outline = axes.lines[0].get_xydata()
    np.testing.assert_allclose(np.hypot(*outline.T), RADIUS)


def test_one_round_of_one_model_is_enough_and_gives_the_same_files_every_time(results, tmp_path):
    single = Results(Protocol(rounds=1, epochs=4, test_size=40), {}, {"diy-sgd": results.models["diy-sgd"][:1]})
    first, second = (figures.save_all(single, tmp_path / name) for name in "ab")
    assert sorted(path.name for path in first) == sorted(
        f"{stem}.{kind}"
        for stem in ("figure2-time", "figure3-loss", "figure4-error", "figure5-labels")
        for kind in ("pdf", "png")
    )
    for path, again in zip(first, second):
        assert path.read_bytes() == again.read_bytes(), path.name
        assert path.read_bytes().startswith(b"%PDF" if path.suffix == ".pdf" else b"\x89PNG")
