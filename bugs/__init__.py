"""Mistakes that people really make, each as a small patch of diy.py, and the oracles that may or may not see them.

from bugs import BUGS, ORACLES, load

bug = BUGS["mask-not-reused"]
diy = load(bug.name)                    # a copy of diy.py with this mistake in it, as a module
complaints = ORACLES["training"](diy)   # what one oracle has to say about it: a list of sentences, maybe empty
"""

from .catalogue import BUGS
from .loading import load, load_circle
from .oracles import ORACLES, complaints
from .planting import Bug, PatchError

__all__ = ["BUGS", "ORACLES", "Bug", "PatchError", "complaints", "load", "load_circle"]
