"""A bug for company: planted bugs, each with the settings that show it and where to see its symptom."""

from functools import cache
from types import ModuleType
from typing import NamedTuple


class Story(NamedTuple):
    """How a bug is shown: where to look, and the settings that go with it."""

    look: str
    settings: dict = {}  # noqa: RUF012


TRAINS = "It learns, and only the twin beside it shows that it could learn better."

STORIES = {
    "gradients-not-zeroed": Story("Watch the loss: it starts well."),
    "forgotten-parameter": Story("Follow the boundary along a ray from the centre."),
    "all-weights-equal": Story("Look inside: compare the units of a layer."),
    "relu-mask-from-gradient": Story("The loss stops where a network that always answers ½ would be."),
    "shuffled-without-targets": Story("The framework is innocent: only its training shows that something is wrong."),
    "uphill": Story("Watch the loss."),
    "dropped-transpose": Story(TRAINS),
    "bias-not-summed": Story(TRAINS),
    "averaged-twice": Story(TRAINS),
    "transposed-way-back": Story("Look at the gradients of the first layers beside the twin's."),
    "tanh-at-the-input": Story(
        "Before long its weights are too large for a number, while the twin learns.", {"activation": "Tanh"}
    ),
    "sigmoid-without-output": Story("Compare the gradients of the lower layers.", {"activation": "Sigmoid"}),
    "mask-not-reused": Story(TRAINS, {"dropout": 0.2}),
    "dropout-not-rescaled": Story("Compare the test errors.", {"dropout": 0.5}),
    "dropout-keeps-p": Story("It hardly learns: compare its loss with the twin's.", {"dropout": 0.2}),
    "dropout-in-eval": Story("The boundary trembles even where nothing is learned.", {"dropout": 0.2}),
    "eval-is-shallow": Story("The boundary trembles even where nothing is learned.", {"dropout": 0.2}),
    "variance-for-std": Story("It starts late: look at the gradients of the first steps."),
    "adam-without-correction": Story("Watch the very first steps.", {"optimizer": "Adam"}),
    "weight-decay-grows": Story("Compare the losses after some epochs.", {"weight_decay": 1.0}),
    "overwritten-gradient": Story("There is nothing to see: the curves are the same to the last bit."),
    "missing-two": Story("Compare the gradients: half the size, but just as good a direction."),
    "sum-in-the-gradient": Story("Now the healthy twin looks bad.", {"reduction": "mean"}),
    "no-mean-at-all": Story(
        "Now the healthy twin looks bad, and the gradients agree with the loss.", {"reduction": "mean"}
    ),
}
"""The bugs in the selector: from those that nobody overlooks to those that nobody notices."""


@cache
def library(name: str) -> ModuleType:
    """Return diy with the bug in it; the same module for the same name."""
    import diy

    if unshuffled(name):
        return diy
    from bugs import load

    return load(name)


def unshuffled(name: str) -> bool:
    """Whether it is the bug that is not in the framework but in the training loop around it."""
    return name == "shuffled-without-targets"


def draws_in_evaluation(name: str) -> bool:
    """Whether it leaves dropout on in evaluation: then losses and pictures depend on what is drawn for them."""
    return name in ("dropout-in-eval", "eval-is-shallow")


def settings(name: str) -> dict:
    """Return what a bug's story sets; nothing for no bug."""
    return dict(STORIES[name].settings) if name in list(STORIES) else {}


def undo(old, defaults) -> dict:
    """Return the settings that a bug's story has set, at their defaults, where nobody has changed them since."""
    changed = settings(old.bug).items()
    return {name: getattr(defaults, name) for name, value in changed if getattr(old, name) == value}


def BUGS() -> dict:  # noqa: N802
    """Return the catalogue; only who wants a bug needs the folder that holds it."""
    from bugs import BUGS

    return BUGS


def tell(name: str) -> dict:
    """Return title, story and symptom of a bug, from the catalogue."""
    bug = BUGS()[name]
    return {"name": name, "title": bug.title, "story": bug.story, "symptom": bug.symptom, "look": STORIES[name].look}


def answer(kind: str, name: str) -> dict:
    """Run one of the bugs' oracles on a framework with this bug, and return whether it sees it and what it says."""
    from bugs import complaints

    found = complaints(kind, name)
    return {"check": kind, "sees": bool(found), "words": f"{found[0].rstrip(' .')}." if found else ""}
