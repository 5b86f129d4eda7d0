"""The report is what its build makes of the committed records, and no build goes through with something missing."""

import inspect
import json
import re
import shutil
import statistics
from pathlib import Path
from types import ModuleType

import pytest
from matplotlib.image import imread
from pypdf import PdfReader

import diy
from experiments import circle, evaluation, sweep
from experiments.results import sealed, unsealed
from experiments.words import spread
from report import agreement, build, classes

ROOT = Path(__file__).parents[2]
COMMITTED = ROOT / "report" / "report.pdf"


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A directory in which the report was built once."""
    folder = tmp_path_factory.mktemp("report")
    build.build(folder)
    return folder


@pytest.fixture
def copy(folder, tmp_path) -> Path:
    """A copy of that directory, to be tampered with."""
    return Path(shutil.copytree(folder, tmp_path / "copy"))


@pytest.fixture(scope="module")
def pages() -> list[str]:
    return build.text_of(COMMITTED)


@pytest.fixture(scope="module")
def text(pages) -> str:
    return " ".join(pages)


def change(path: Path, old: str, new: str) -> None:
    before = path.read_text(encoding="utf-8")
    assert old in before
    path.write_text(before.replace(old, new), encoding="utf-8")


def records(name: str) -> dict:
    (path,) = [ROOT / record for record in build.RECORDS if record.endswith(f"/{name}")]
    return json.loads(path.read_text(encoding="utf-8"))


def unbroken(text: str) -> str:
    """The text without what a line break, with a hyphen, may add anywhere."""
    return re.sub(r"[\s-]", "", text)


def drawn(path: Path) -> bytes:
    """What a figure shows, whatever its compression."""
    if path.suffix == ".png":
        return imread(path).tobytes()
    (page,) = PdfReader(path).pages
    return page.get_contents().get_data() + b"".join(image.data for image in page.images)


# What is committed


def test_the_committed_report_is_the_one_that_its_records_give(folder, pages):
    difference = build.differences(pages, build.text_of(folder / "report.pdf"))
    assert not difference, "report.pdf is out of date, run python -m report.build:\n" + "\n".join(difference)


def test_two_builds_are_the_same_to_the_byte(folder, copy):
    # Of figures 2 to 5 tests/experiments/test_figures.py asks the same.
    assert compiled_again(copy).read_bytes() == (folder / "report.pdf").read_bytes()


def test_it_has_two_to_three_pages(pages):
    assert 2 <= len(pages) <= 3


@pytest.mark.parametrize("kind", ["pdf", "png"])
def test_the_committed_figures_are_those_that_the_records_give(folder, kind):
    if PdfReader(COMMITTED).metadata.keywords != ", ".join(build.DRAWN_WITH):
        pytest.skip(f"the figures were drawn with {PdfReader(COMMITTED).metadata.keywords}")
    for path in (folder / "figures").glob(f"*.{kind}"):
        committed = ROOT / "report" / "figures" / path.name
        assert drawn(committed) == drawn(path), f"{path.name} is out of date, run python -m report.build"


def test_a_figure_of_other_numbers_is_another_figure(folder, tmp_path):
    results = evaluation.load(folder)
    results.models["diy-sgd"][0].loss[50] += 0.01
    results.models["diy-sgd"][0].seconds += 0.01
    results.models["diy-sgd"][0].test_error += 0.01
    results.models["diy-dropout"][0].predictions[0] ^= 1
    changed = build.draw_results(results, tmp_path)
    assert len(changed) == 8
    for path in changed:
        assert drawn(path) != drawn(folder / "figures" / path.name), path.name


def test_it_has_five_figures_with_captions(folder, text):
    assert sorted({p.name[:7] for p in (folder / "figures").iterdir()}) == [f"figure{n}" for n in range(2, 6)]
    for number in range(1, 6):
        assert text.count(f"Fig. {number}. ") == 1, f"the caption of figure {number}"
    assert "Fig. 6" not in text
    assert all(f"Table {number}. " in text for number in ("I", "II", "III"))


def test_it_has_the_sections_of_2019(text):
    for title in (
        "Introduction",
        "Architecture",
        "Initialization",
        "Loss",
        "Optimizer",
        "Models chosen for evaluation",
        "Experimental results",
        "Discussion",
    ):
        assert f". {title.upper()} " in text


def test_it_refers_to_the_five_handouts(text):
    for handout in ("3-6-backprop", "6-3-dropout", "5-5-initialization", "4-3-modules-and-batch-processing", "5-2-SGD"):
        assert unbroken(f"ee559-handout-{handout}.pdf") in unbroken(text)


def test_every_number_of_the_results_table_follows_from_the_records(text):
    for name, model in records("results.json")["models"].items():
        row = [circle.MODELS[name].title, circle.MODELS[name].reduction]
        for values, digits in (
            ([r["loss"][-1] for r in model], 4),
            ([100 * r["train_error"] for r in model], 2),
            ([100 * r["test_error"] for r in model], 2),
            ([r["seconds"] for r in model], 3),
        ):
            row.append(spread(values, digits))
        if name in evaluation.REPORT_2019:
            past = evaluation.REPORT_2019[name]
            row += [f"{past['loss']:.3f}", f"{100 * past['test_error']:.1f}", f"{past['seconds']:.1f}"]
        else:
            row += ["–", "–", "–"]
        assert " ".join(row) in text


def test_every_number_of_the_speed_table_follows_from_the_records(text):
    entries = {entry["row"]: entry for entry in records("speed.json")["training"]}
    own, peers = ("torch-sgd", "diy-sgd", "torch-dropout", "diy-dropout"), ("torch-by-hand", "numpy", "jax-scan")
    for row in (*own, "diy-stack", *peers):
        title, ratio = entries[row]["title"].replace("'", "’"), entries[row].get("ratio")
        if entries[row]["skipped"]:
            assert title not in text
        elif entries[row]["baseline"] == row:
            assert f"{title} {entries[row]['microseconds']['median']:.0f} 1 " in text
        else:
            shown = f"{ratio['median']:.2f} [{ratio['q1']:.2f}, {ratio['q3']:.2f}]"
            assert f"{title} {entries[row]['microseconds']['median']:.0f} {shown} " in text


def digits_ratio() -> float:
    return statistics.median(r["diy"]["seconds"] / r["torch"]["seconds"] for r in records("digits.json")["rounds"])


def test_every_number_of_the_digits_table_follows_from_the_records(text):
    for library, title, ratio in (("diy", "diy", f"{digits_ratio():.2f}"), ("torch", "PyTorch", "1")):
        own = [record[library] for record in records("digits.json")["rounds"]]
        errors = [spread([100 * record[key] for record in own], 2) for key in ("train_error", "test_error")]
        assert " ".join([title, *errors, ratio, ""]) in text


def test_it_says_how_fast_convolutions_are(text):
    (lenet,) = [entry["ratio"]["median"] for entry in records("speed.json")["large"] if "LeNet" in entry["name"]]
    sentence = f"LeNet takes {lenet:.2f} times PyTorch’s time, and the digits below {digits_ratio():.2f} times."
    assert unbroken(sentence) in unbroken(text)
    slower = min(lenet, digits_ratio()) > 1
    assert (unbroken("Convolutions are the other way round:") in unbroken(text)) == slower


def test_it_says_what_the_tuned_recipe_was_meant_to_reach_and_what_it_reached(text):
    errors = [100 * r["test_error"] for r in records("results.json")["models"]["diy-tuned"]]
    tuning = records("tuning.json")
    best = min(tuning["tried"], key=lambda recipe: recipe["error"])
    limit = best["error"] + best["std"] / tuning["rounds"] ** 0.5
    plateau = sum(recipe["error"] <= limit for recipe in tuning["tried"])
    verdict = "more than" if statistics.mean(errors) > 1 else "as"
    for sentence in (
        "The sixth model was meant to err on at most 1.0 % of the test points.",
        f"Its recipe is one of {len(tuning['tried'])}, each trained on {tuning['training']} points",
        f"{plateau} recipes lie within a standard error of the lowest validation error, {100 * best['error']:.2f} %,",
        f"errs on {spread(errors, 2)} % of the test points after as many epochs, {verdict} was meant.",
    ):
        assert unbroken(sentence) in unbroken(text), sentence


def test_the_evaluation_is_the_assignments_and_its_circumstances_are_named(text):
    content = records("results.json")
    assert circle.Protocol(**content["protocol"]) == circle.Protocol()
    assert [*content["models"]] == [*circle.MODELS]
    assert "10 rounds" in text
    for key in ("processor", "python", "torch"):
        assert str(content["environment"][key]) in text


def test_the_sweep_finds_the_factor_by_which_sum_and_mean_differ():
    swept = sweep.load(ROOT / "report")
    rates = [build.first_rate(swept, reduction, below=0.1) for reduction in ("mean", "sum")]
    # 100 samples times 2 outputs; both rates are interpolated between neighbours that are a factor of 2 apart.
    assert rates[0] / rates[1] == pytest.approx(200, rel=0.2)


# Figure 1


def test_every_public_family_of_classes_stands_in_figure_1(text):
    classes_of_diy = [value for value in vars(diy).values() if inspect.isclass(value) and value.__module__ == "diy"]
    families = [kind for kind in classes_of_diy if issubclass(kind, (diy.Module, diy.Loss, diy.Optimizer))]
    assert diy.Linear in families
    for kind in families:
        assert kind.__name__.startswith("_") or kind.__name__ in text, kind


def test_a_new_module_appears_in_figure_1_by_itself():
    framework = ModuleType("framework")
    source = """
from abc import ABC, abstractmethod
class Module(ABC):
    @abstractmethod
    def forward(self, input): ...
    def train(self): ...
class _Scaled(Module):
    def hidden(self): ...
class Softsign(_Scaled):
    '''Bends.

    Args:
        slope: of it.
    '''
    def __init__(self, slope, more=None): ...
    def forward(self, input): ...
    def scale(self): ...
class Unrelated: ...
"""
    exec(source, framework.__dict__)
    (family,) = classes.families(framework)
    assert (family["name"], family["abstract"], family["methods"]) == ("Module", ["forward(input)"], ["train"])
    assert family["subclasses"] == [{"name": "Softsign", "arguments": ["slope"], "methods": ["scale"]}]


# What must end a build


def compiled_again(folder: Path) -> Path:
    return build.compile_pdf(folder, build.read(folder))


def test_other_numbers_are_noticed(pages, copy):
    loss = records("results.json")["models"]["torch-adam"][0]["loss"][-1]
    change(copy / "results.json", repr(loss), repr(loss + 0.01))
    (copy / "results.json").write_bytes(sealed(json.loads((copy / "results.json").read_text(encoding="utf-8"))))
    assert build.differences(pages, build.text_of(compiled_again(copy)))


@pytest.mark.parametrize(
    "record, key",
    [
        ("results.json", "batch_size"),
        ("results.json", "test_error"),
        ("agreement.json", "finite_differences"),
        ("sweep.json", "diverged"),
        ("sweep.json", "test_error"),
        ("digits.json", "validate"),
        ("speed.json", "processor"),
        ("tuning.json", "chosen"),
    ],
)
def test_a_missing_key_is_refused(copy, record, key):
    def without(content):
        if isinstance(content, dict):
            return {name: without(value) for name, value in content.items() if name != key}
        return [without(value) for value in content] if isinstance(content, list) else content

    (copy / record).write_bytes(sealed(without(records(record))))
    with pytest.raises(build.BuildError, match=key):
        compiled_again(copy)


def test_a_warning_of_the_compiler_is_refused(copy):
    change(copy / "report.typ", "STIXGeneral", "No Such Font")
    with pytest.raises(build.BuildError, match="with warnings: unknown font family: no such font"):
        compiled_again(copy)


def guess(results: dict) -> None:
    for entry in results["models"]["torch-sgd-sum"]:
        entry["test_error"] = 0.5


def never_diverge(sweep: dict) -> None:
    for entry in sweep["runs"]["mean"]:
        entry["diverged"] = [False] * len(sweep["rates"])


def slow_numpy(speed: dict) -> None:
    (entry,) = [entry for entry in speed["training"] if entry["row"] == "numpy"]
    entry["ratio"]["median"] = 0.99


def skip_jax(speed: dict) -> None:
    (entry,) = [entry for entry in speed["training"] if entry["row"] == "jax-scan"]
    entry["skipped"] = "not installed"


def validate(digits: dict) -> None:
    digits["protocol"]["validate"] = True


def single_peak(tuning: dict) -> None:
    tuning["tried"][0]["std"] = 0


@pytest.mark.parametrize(
    "record, contradict, sentence",
    [
        ("results.json", guess, "PyTorch's SGD with the sum learns"),
        ("sweep.json", never_diverge, "sum and mean both diverge at high rates"),
        ("speed.json", slow_numpy, "NumPy and JAX go below the floor"),
        ("speed.json", skip_jax, "NumPy and JAX go below the floor"),
        ("digits.json", validate, "the digits were tested on the test images"),
        ("tuning.json", single_peak, "the search found a plateau above the aim"),
    ],
)
def test_a_sentence_that_the_numbers_contradict_is_refused(copy, record, contradict, sentence):
    content = records(record)
    contradict(content)
    (copy / record).write_bytes(sealed(content))
    with pytest.raises(build.BuildError, match=f"the results contradict the text: {sentence}"):
        compiled_again(copy)


def test_convolutions_are_not_called_slower_where_they_are_faster(copy):
    content = records("digits.json")
    for entry in content["rounds"]:
        entry["diy"]["seconds"] = 0.9 * entry["torch"]["seconds"]
    (copy / "digits.json").write_bytes(sealed(content))
    text = unbroken(" ".join(build.text_of(compiled_again(copy))))
    assert unbroken("Convolutions are another case: LeNet takes ") in text
    assert unbroken("and the digits below 0.90 times.") in text


@pytest.fixture
def root(tmp_path) -> Path:
    """A directory with copies of the records, and one to build in."""
    for name in build.RECORDS:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    (tmp_path / "build").mkdir()
    return tmp_path


@pytest.mark.parametrize("record", build.RECORDS)
def test_a_missing_record_is_named_with_the_command_that_makes_it(root, record):
    (root / record).unlink()
    with pytest.raises(build.BuildError, match=f"{record} is missing: make it with python "):
        build.collect(root / "build", root)


@pytest.mark.parametrize("record", build.RECORDS)
def test_a_record_of_which_one_bit_is_another_is_refused(root, record):
    before, _, after = (root / record).read_bytes().rpartition(b"1")
    (root / record).write_bytes(before + b"3" + after)
    with pytest.raises(build.BuildError, match=f"{record} is damaged .* make it again with python "):
        build.collect(root / "build", root)


def test_results_that_lack_a_model_are_refused(root):
    content = records("results.json")
    del content["models"]["diy-tuned"]
    (root / "report" / "results.json").write_bytes(sealed(content))
    with pytest.raises(build.BuildError, match=r"no rounds of diy-tuned; run python -m report\.build"):
        build.collect(root / "build", root)


@pytest.fixture
def home(tmp_path, monkeypatch) -> Path:
    """A directory with old records, in place of report/."""
    for name in build.RERUN:
        (tmp_path / name).write_bytes(b"old")
    monkeypatch.setattr(build, "HERE", tmp_path)
    monkeypatch.setattr(evaluation, "run", lambda: evaluation.load(ROOT / "report"))
    monkeypatch.setattr(agreement, "measure", lambda protocol: {"steps": protocol.epochs})
    monkeypatch.setattr(sweep, "run", lambda: sweep.load(ROOT / "report"))
    return tmp_path


def test_a_rerun_replaces_its_records(home):
    build.rerun()
    assert unsealed((home / "agreement.json").read_bytes()) == {"steps": 100}
    for model, rounds in evaluation.load(home).models.items():
        assert [r.loss for r in rounds] == [r["loss"] for r in records("results.json")["models"][model]]
    assert sweep.load(home) == sweep.load(ROOT / "report")
    assert sorted(path.name for path in home.iterdir()) == sorted(build.RERUN)


@pytest.mark.parametrize("part", [(evaluation, "run"), (agreement, "measure"), (sweep, "run")])
def test_a_rerun_that_breaks_off_changes_nothing(home, monkeypatch, part):
    def interrupt(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(*part, interrupt)
    with pytest.raises(KeyboardInterrupt):
        build.rerun()
    assert {path.name: path.read_bytes() for path in home.iterdir()} == dict.fromkeys(build.RERUN, b"old")


def test_the_help_names_the_commands_of_the_other_records(capsys):
    with pytest.raises(SystemExit):
        build.main(["--help"])
    shown = capsys.readouterr().out
    assert all(command in shown for command in build.RECORDS.values())


def test_the_command_refuses_unknown_options(capsys):
    with pytest.raises(SystemExit) as stopped:
        build.main(["--fast"])
    assert stopped.value.code == 2
    assert "unrecognized arguments: --fast" in capsys.readouterr().err


# The oracles

# As deep as the report's network, but narrower: each finite difference takes some thirty forward passes.
SMALL = circle.Protocol(hidden=(4, 4, 4), epochs=5)


def test_diy_agrees_with_the_oracles():
    measured = agreement.measure(SMALL, samples=4)
    # Finite differences in float64 are good to about 1e-9, sums taken in another order to 1e-15.
    assert measured["finite_differences"] < 1e-7
    assert measured["outputs"] < 1e-13
    assert measured["autograd"] < 1e-13
    # Weights and losses are of order 1 and 100, over 50 steps that each add a rounding error of 1e-16 and 1e-14.
    assert measured["steps"] == 50
    assert measured["weights"] < 1e-13
    assert measured["losses"] < 1e-11


def test_a_wrong_gradient_breaks_the_agreement(monkeypatch):
    monkeypatch.setattr(diy.Tanh, "backward", lambda self, gradient: self.recall(gradient)[0])
    measured = agreement.measure(SMALL, samples=4)
    assert measured["finite_differences"] > 1e-3
    assert measured["autograd"] > 1e-3
    assert measured["weights"] > 1e-6
