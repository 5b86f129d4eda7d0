"""The report is what its build makes of the committed records, and no build goes through with something missing."""

import json
import shutil
import statistics
from pathlib import Path

import pytest

import diy
import experiment
import sweep
from report import agreement, build, uml

ROOT = Path(__file__).parents[1]
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
def text() -> str:
    return " ".join(build.text_of(COMMITTED))


def change(path: Path, old: str, new: str) -> None:
    before = path.read_text(encoding="utf-8")
    assert old in before
    path.write_text(before.replace(old, new), encoding="utf-8")


def records(name: str) -> dict:
    (path,) = [ROOT / record for record in build.RECORDS if record.endswith(f"/{name}")]
    return json.loads(path.read_text(encoding="utf-8"))


def spread(values: list[float], digits: int) -> str:
    return f"{statistics.mean(values):.{digits}f} ± {statistics.stdev(values):.{digits}f}"


# What is committed


def test_the_committed_report_is_the_one_that_its_records_give(folder):
    difference = build.differences(COMMITTED, folder / "report.pdf")
    assert not difference, "report.pdf is out of date, run python report/build.py:\n" + "\n".join(difference)


def test_two_builds_are_the_same_to_the_byte(folder, tmp_path):
    for path in build.build(tmp_path):
        assert path.read_bytes() == (folder / path.relative_to(tmp_path)).read_bytes(), path.name


def test_it_has_two_to_three_pages():
    assert 2 <= len(build.text_of(COMMITTED)) <= 3


def test_it_has_five_figures_with_captions(folder, text):
    assert sorted({p.name[:7] for p in (folder / "figures").iterdir()}) == [f"figure{n}" for n in range(1, 6)]
    for path in (folder / "figures").iterdir():
        assert (ROOT / "report" / "figures" / path.name).is_file(), f"{path.name} is not committed"
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
    unbroken = text.replace(" ", "").replace("-", "")  # a line may break, with a hyphen, anywhere in an address
    for handout in ("3-6-backprop", "6-3-dropout", "5-5-initialization", "4-3-modules-and-batch-processing", "5-2-SGD"):
        assert f"ee559handout{handout.replace('-', '')}.pdf" in unbroken


def test_every_number_of_the_results_table_follows_from_the_records(text):
    for name, model in records("results.json")["models"].items():
        row = [experiment.MODELS[name].title, experiment.MODELS[name].reduction]
        for values, digits in (
            ([r["loss"][-1] for r in model["rounds"]], 4),
            ([100 * r["train_error"] for r in model["rounds"]], 2),
            ([100 * r["test_error"] for r in model["rounds"]], 2),
            ([r["seconds"] for r in model["rounds"]], 2),
        ):
            row.append(spread(values, digits))
        if name in experiment.REPORT_2019:
            past = experiment.REPORT_2019[name]
            row += [f"{past['loss']:.3f}", f"{100 * past['test_error']:.1f}", f"{past['seconds']:.1f}"]
        else:
            row += ["–", "–", "–"]
        assert " ".join(row) in text


def test_every_number_of_the_speed_table_follows_from_the_records(text):
    entries = {entry["row"]: entry for entry in records("speed.json")["training"]}
    own, peers = ("torch-sgd", "diy-sgd", "torch-dropout", "diy-dropout"), ("torch-by-hand", "numpy", "jax-scan")
    for row in (*own, "diy-stack", *peers):
        title, ratio = entries[row]["title"], entries[row].get("ratio")
        if entries[row]["skipped"]:
            assert title not in text
        elif entries[row]["baseline"] == row:
            assert f"{title} {entries[row]['microseconds']['median']:.0f} 1 " in text
        else:
            shown = f"{ratio['median']:.2f} [{ratio['q1']:.2f}, {ratio['q3']:.2f}]"
            assert f"{title} {entries[row]['microseconds']['median']:.0f} {shown} " in text


def test_every_number_of_the_digits_table_follows_from_the_records(text):
    content = records("digits.json")
    assert content["data"] == "digits" and not content["protocol"]["validate"], "of the test images"
    for library, title in (("diy", "diy"), ("torch", "PyTorch")):
        own = [record[library] for record in content["rounds"]]
        errors = [spread([100 * record[key] for record in own], 2) for key in ("train_error", "test_error")]
        assert " ".join([title, *errors, spread([record["seconds"] for record in own], 1)]) in text


def test_the_evaluation_is_the_assignments_and_its_circumstances_are_named(text):
    content = records("results.json")
    assert experiment.Protocol(**content["protocol"]) == experiment.Protocol()
    assert [*content["models"]] == [*experiment.MODELS]
    assert "10 rounds" in text
    for key in ("processor", "python", "torch"):
        assert str(content["environment"][key]) in text


def test_the_sweep_finds_the_factor_by_which_sum_and_mean_differ():
    swept = sweep.load(ROOT / "report")
    rates = [build.first_rate(swept, reduction, below=0.1) for reduction in ("mean", "sum")]
    # 100 samples times 2 outputs; both rates are interpolated between neighbours that are a factor of 2 apart.
    assert rates[0] / rates[1] == pytest.approx(200, rel=0.2)


# Figure 1


def test_every_public_family_of_classes_stands_in_figure_1(folder):
    drawing = (folder / "figures" / "figure1-classes.svg").read_text(encoding="utf-8")
    for value in vars(diy).values():
        if isinstance(value, type) and issubclass(value, (diy.Module, diy.Loss, diy.Optimizer)):
            assert (f">{value.__name__}</text>" in drawing) == (not value.__name__.startswith("_")), value


def test_a_new_module_appears_in_figure_1_by_itself(tmp_path):
    source = tmp_path / "framework.py"
    source.write_text(
        "from abc import ABC, abstractmethod\n"
        "class Module(ABC):\n"
        "    @abstractmethod\n"
        "    def forward(self, input): ...\n"
        "class _Scaled(Module):\n"
        "    def __init__(self):\n"
        "        self.slope = 1\n"
        "class Softsign(_Scaled):\n"
        "    def forward(self, input): ...\n"
        "class Unrelated: ...\n"
    )
    (module, softsign) = uml.class_families(uml.class_graph(source))[0]
    assert (module.name, module.abstract, module.bases) == ("Module", {"forward(input)"}, [])
    assert (softsign.name, softsign.attributes, softsign.bases) == ("Softsign", ["slope"], ["Module"])
    uml.draw(source, tmp_path / "classes.svg")
    drawing = (tmp_path / "classes.svg").read_text()
    lines = [line for line in drawing.splitlines() if line.startswith("<text")]
    assert [line for line in lines if "forward(input)" in line and 'font-style="italic"' in line]
    assert [line for line in lines if ">Softsign<" in line]
    assert not [line for line in lines if "_Scaled" in line or "Unrelated" in line]


def test_a_file_without_an_abstract_class_is_refused(tmp_path):
    source = tmp_path / "framework.py"
    source.write_text("class Linear: ...\n")
    with pytest.raises(ValueError, match="no abstract class with a subclass"):
        uml.draw(source, tmp_path / "classes.svg")


# What must end a build


def compiled_again(folder: Path) -> Path:
    return build.compile_pdf(folder, experiment.load(folder))


def test_other_numbers_are_noticed(folder, copy):
    loss = records("results.json")["models"]["torch-adam"]["rounds"][0]["loss"][-1]
    change(copy / "results.json", repr(loss), repr(loss + 0.01))
    assert build.differences(folder / "report.pdf", compiled_again(copy))


@pytest.mark.parametrize("key", ["batch_size", "processor"])
def test_a_missing_key_is_refused(copy, key):
    results = experiment.load(copy)
    change(copy / "results.json", f'"{key}"', '"something_else"')
    with pytest.raises(build.BuildError, match=f'dictionary does not contain key "{key}"'):
        build.compile_pdf(copy, results)


def test_a_warning_of_the_compiler_is_refused(copy):
    change(copy / "report.typ", "STIXGeneral", "No Such Font")
    with pytest.raises(build.BuildError, match="with warnings: unknown font family: no such font"):
        compiled_again(copy)


def test_a_sentence_that_the_numbers_contradict_is_refused(copy):
    content = records("results.json")
    for entry in content["models"]["torch-sgd-sum"]["rounds"]:
        entry["test_error"] = 0.5
    (copy / "results.json").write_text(json.dumps(content))
    with pytest.raises(build.BuildError, match="the results contradict the text: PyTorch's SGD with the sum learns"):
        compiled_again(copy)


@pytest.mark.parametrize("record", build.RECORDS)
def test_a_missing_record_is_named_with_the_command_that_makes_it(tmp_path, record):
    for name in build.RECORDS:
        (tmp_path / name).parent.mkdir(exist_ok=True, parents=True)
        if name != record:
            shutil.copy(ROOT / name, tmp_path / name)
    (tmp_path / "build").mkdir()
    with pytest.raises(build.BuildError, match=f"{record} is missing: make it with python "):
        build.collect(tmp_path / "build", tmp_path)


def test_results_that_lack_a_model_are_refused(tmp_path):
    for name in build.RECORDS:
        (tmp_path / name).parent.mkdir(exist_ok=True, parents=True)
        shutil.copy(ROOT / name, tmp_path / name)
    content = records("results.json")
    del content["models"]["diy-tuned"]
    (tmp_path / "report" / "results.json").write_text(json.dumps(content))
    (tmp_path / "build").mkdir()
    with pytest.raises(build.BuildError, match="no rounds of diy-tuned; run python report/build"):
        build.collect(tmp_path / "build", tmp_path)


def test_the_command_refuses_unknown_options(capsys):
    with pytest.raises(SystemExit) as stopped:
        build.main(["--fast"])
    assert stopped.value.code == 2
    assert "unrecognized arguments: --fast" in capsys.readouterr().err


# The oracles


def test_diy_agrees_with_the_oracles():
    measured = agreement.measure(experiment.Protocol(epochs=5))
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
    measured = agreement.measure(experiment.Protocol(epochs=5))
    assert measured["finite_differences"] > 1e-3
    assert measured["autograd"] > 1e-3
    assert measured["weights"] > 1e-6
