"""The catalogue of planted bugs: each is found by the test that it names, and seen by the oracles it names alone."""

import importlib
import inspect
import itertools
from functools import cache

import pytest
import torch

from bugs import BUGS, ORACLES, Bug, PatchError, complaints, load, load_circle
from bugs.catalogue import CATALOGUE
from playground import company, view
from playground.lab import Lab


@pytest.fixture
def circle():
    from experiments import circle

    return circle


def test_inputs_and_targets_are_shuffled_together(diy, circle):
    # A network that answers with its input, and targets equal to the inputs: every loss is 0 if they stay together.
    layer = diy.Linear(2, 2)
    layer.load_state_dict({"weight": torch.eye(2), "bias": torch.zeros(2)})
    points, _ = circle.disk_data(300)
    protocol = circle.Protocol(epochs=3, lr=0.0)
    _, losses = circle.train(layer, circle.MODELS["diy-sgd"], protocol, points, points.clone())
    assert losses == [0.0, 0.0, 0.0]


def cases(function):
    """Yield the arguments of every case of a parametrized test; of another test, nothing but one empty dictionary."""
    sets = []
    for mark in getattr(function, "pytestmark", []):
        if mark.name == "parametrize":
            names, values = mark.args
            names = names.split(",") if isinstance(names, str) else names
            sets.append([dict(zip(names, value if len(names) > 1 else [value])) for value in values])
    for combination in itertools.product(*sets):
        yield {name: value for part in combination for name, value in part.items()}


def passes(check, name):
    """Whether a test of the suite passes with the copy of the code that has this bug in it."""
    file, test = check.rsplit(".", 1)
    function = getattr(importlib.import_module(f"tests.{file}"), test)
    diy = load(name)
    modules = {"diy": diy, "circle": load_circle(diy, name)}
    modules = {
        argument: modules[argument] for argument in inspect.signature(function).parameters if argument in modules
    }
    try:
        for arguments in cases(function):
            torch.manual_seed(0)
            function(**modules, **arguments)
    except (Exception, pytest.fail.Exception):
        return False
    return True


@cache
def passes_without(check):
    return passes(check, None)


@pytest.mark.parametrize("name", BUGS)
def test_the_named_check_fails_with_the_bug_and_passes_without(name):
    check = BUGS[name].check
    assert passes_without(check), f"{check} fails on the unpatched file"
    assert not passes(check, name), f"{check} does not find this bug"


@pytest.mark.parametrize("name", BUGS)
def test_the_named_oracles_see_the_bug_and_the_others_do_not(name):
    found = {oracle: complaints(oracle, name) for oracle in ORACLES}
    assert {oracle for oracle, sentences in found.items() if sentences} == set(BUGS[name].seen_by), found


# Each bug in the playground: its symptom, and what its checks say


STORIES = {
    "gradients-not-zeroed": lambda bug, twin, lab: lab.trouble and bug[-1] > 0.45 > 0.4 > min(bug),
    "forgotten-parameter": lambda bug, twin, lab: bug[-1] > 4 * twin[-1],
    "all-weights-equal": lambda bug, twin, lab: lab.trouble or bug[-1] > 4 * twin[-1],
    "relu-mask-from-gradient": lambda bug, twin, lab: lab.trouble.startswith("Stuck") and abs(bug[-1] - 0.25) < 0.01,
    "shuffled-without-targets": lambda bug, twin, lab: bug[-1] > 0.2 and twin[-1] < 0.1,
    "uphill": lambda bug, twin, lab: lab.trouble and bug[-1] > 1,
    "tanh-at-the-input": lambda bug, twin, lab: "too large for float32" in lab.trouble,
    "dropout-keeps-p": lambda bug, twin, lab: bug[-1] > 0.2 > 0.1 > twin[-1],
    "dropout-in-eval": lambda bug, twin, lab: bug[-1] > 1.2 * twin[-1],
    "variance-for-std": lambda bug, twin, lab: abs(bug[20] - 0.25) < 0.01 and twin[20] < 0.1,
    "adam-without-correction": lambda bug, twin, lab: bug[1] < 0.7 * twin[1],
    "weight-decay-grows": lambda bug, twin, lab: bug[-1] < twin[-1] - 0.001,
    "overwritten-gradient": lambda bug, twin, lab: bug == twin,
    "sigmoid-without-output": lambda bug, twin, lab: sizes(lab)[0] > 4 * sizes(lab, twin=True)[0],
    "missing-two": lambda bug, twin, lab: all(a < b for a, b in zip(twin[5:20], bug[5:20])),
    "sum-in-the-gradient": lambda bug, twin, lab: bug[-1] < 0.1 < twin[-1],
    "no-mean-at-all": lambda bug, twin, lab: bug[-1] < 0.1 < twin[-1],
}
"""What is to be seen of a bug: of most, that the network learns less well than its healthy twin."""


def sizes(lab, twin=False):
    return [layer.gradient.abs().mean().item() for layer in lab.layers(twin=twin)]


@pytest.mark.parametrize("name", company.STORIES)
def test_the_symptom_of_a_bug_shows_beside_its_healthy_twin_and_its_checks_see_it(name):
    lab = Lab(bug=name, **company.STORIES[name].settings)
    while lab.epoch < 40 and not lab.trouble:
        lab.run_epoch()
    bug, twin = ([r[column] for r in lab.history] for column in (1, 5))
    worse = lambda bug, twin, lab: bool(lab.trouble) or bug[-1] > 1.1 * twin[-1]  # noqa: E731
    assert STORIES.get(name, worse)(bug, twin, lab), (bug, twin)
    if company.STORIES[name].look == company.TRAINS:
        assert not lab.trouble and bug[-1] < 0.2  # the best that is the same everywhere has 0.25
    playground = view.Playground(Lab(bug=name, **company.STORIES[name].settings))
    playground.ask_checks()
    seen = {answer["check"] for answer in playground.story["answers"] if answer["sees"]}
    assert seen == set(company.BUGS()[name].seen_by)
    assert playground.story["title"] and f"{len(seen)} of" in playground.status["text"]


def test_no_oracle_complains_about_the_unpatched_file():
    diy = load()
    assert {oracle: ask(diy) for oracle, ask in ORACLES.items()} == {oracle: [] for oracle in ORACLES}


def test_the_catalogue_is_well_formed():
    assert len(BUGS) == len(CATALOGUE) >= 26, "names are unique"
    for bug in CATALOGUE:
        assert set(bug.seen_by) <= set(ORACLES) and len(set(bug.seen_by)) == len(bug.seen_by)
        assert bug.title and bug.story and bug.symptom and bug.edits


CODE = """class A:
    def f(self):
        return (1 +  # comment
                g(2))
"""


def test_a_bug_is_found_by_what_it_changes_and_not_by_how_that_is_written():
    bug = Bug("changed", "", "", "", (), "", (("A.f", "1 + g(2)", "1 - g(2)"),))
    namespace = {"g": lambda number: number}
    exec(bug.apply(CODE), namespace)
    assert namespace["A"]().f() == -1
    exec(bug.apply("# one more line, é\n" + CODE), namespace)
    assert namespace["A"]().f() == -1


@pytest.mark.parametrize(
    ("source", "words"),
    [
        (CODE.replace("A", "B"), "there is no A.f"),
        (CODE.replace("g(2)", "g(3)"), "A.f has the following 0 times instead of once"),
        (CODE + "        1 + g(2)", "A.f has the following 2 times instead of once"),
    ],
    ids=["no class", "other code", "twice"],
)
def test_a_bug_that_no_longer_fits_says_so(source, words):
    bug = Bug("changed", "", "", "", (), "", (("A.f", "1 + g(2)", "1 - g(2)"),))
    with pytest.raises(PatchError, match=rf"'changed' no longer fits diy\.py: {words}(.|\n)*1 \+ g\(2\)$"):
        bug.apply(source)
