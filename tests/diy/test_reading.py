"""What diy finds out about a learner's module from its code: what its backward may read, and what is only a log.

Each module squares its input, in a style of its own, and keeps what backward needs without `remember`.
"""

import collections
import contextlib
import functools
import gc
import importlib
import itertools
import sys
import threading
import time
import types
import weakref

import pytest
import torch

import diy


def numbers(seed):
    return torch.randn(5, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


X, OTHER, G = numbers(0), numbers(1), numbers(2)


class Squares(diy.Module):
    def forward(self, x):
        self.keep(x)
        return x * x

    def backward(self, g):
        return 2 * g * self.kept()


# Where a later forward overwrites what an earlier one has kept


class Namespace:
    pass


class InAnObject(Squares):
    def __init__(self):
        self.kept_in = Namespace()

    def keep(self, x):
        self.kept_in.x = x

    def kept(self):
        return self.kept_in.x


class ByAMethodNamedLikeALogs(Squares):
    def __init__(self):
        self.cache = {}

    def keep(self, x):
        self.cache["x"] = x

    def backward(self, g):
        self.update(g)
        return self.result

    def update(self, g):
        self.result = 2 * g * self.cache["x"]


CACHE = {}


def times_what_was_kept(method):
    @functools.wraps(method)
    def backward(self, g):
        return method(self, g * CACHE["x"])

    return backward


class InADecorator(Squares):
    def keep(self, x):
        CACHE["x"] = x

    @times_what_was_kept
    def backward(self, g):
        return 2 * g


input = None


class InAGlobalNamedLikeABuiltin(Squares):
    def keep(self, x):
        global input
        input = x

    def kept(self):
        return input


class ByPythonsOwnCall(Squares):
    def __init__(self):
        self.cache = {}

    def __getitem__(self, name):
        return self.cache[name]

    def keep(self, x):
        self.cache["x"] = x

    def kept(self):
        return self["x"]


def slope():
    return CACHE["x"]


class ByAFunctionInATable(Squares):
    def __init__(self):
        self.functions = {"slope": slope}

    def keep(self, x):
        CACHE["x"] = x

    def kept(self):
        return self.functions["slope"]()


class ByAComputedMethod(Squares):
    kind = "slope"

    def keep(self, x):
        CACHE["x"] = x

    def find_slope(self):
        return CACHE["x"]

    def kept(self):
        return getattr(self, f"find_{self.kind}")()


class WithAMemoryOfItsOwn(diy.Module):
    def __init__(self):
        self.saved = {}

    def remember(self, output, x):
        self.saved["x"] = x

    def recall(self, g):
        return g, self.saved["x"]

    def forward(self, x):
        self.remember(output := x * x, x)
        return output

    def backward(self, g):
        g, x = self.recall(g)
        return 2 * g * x


class Slotted:
    __slots__ = ("x",)


class SlottedAgain(Slotted):
    __slots__ = ("y",)


class InAnInheritedSlot(InAnObject):
    def __init__(self):
        self.kept_in = SlottedAgain()


class InAClassInside(Squares):
    class Kept:
        x = None

    def keep(self, x):
        self.Kept.x = x

    def kept(self):
        return self.Kept.x


class InAThreadsOwn(InAnObject):
    def __init__(self):
        self.kept_in = threading.local()


class UnderTwoNames(Squares):
    def __init__(self):
        self.cache = self.filled = {}

    def keep(self, x):
        self.filled["x"] = x

    def kept(self):
        return self.cache["x"]


class HalfOfItOnAStack(diy.Module):
    def __init__(self):
        self.inputs = []

    def forward(self, x):
        self.inputs.append(x)
        self.remember(output := x * x, 2.0)
        return output

    def backward(self, g):
        g, factor = self.recall(g)
        return factor * g * self.inputs.pop()


class InALogThatIsRead(diy.Module):
    def __init__(self):
        self.sizes = []

    def forward(self, x):
        self.sizes.append(x.square().sum().item())
        self.remember(output := x * x, x)
        return output

    def backward(self, g):
        g, x = self.recall(g)
        return 2 * g * x * self.sizes[-1] / x.square().sum()


class ByASetter(Squares):
    def __init__(self):
        self.cache = {}

    def _set(self, x):
        self.cache["x"] = x

    input = property(lambda self: self.cache["x"], _set)

    def keep(self, x):
        self.input = x

    def kept(self):
        return self.input


class ByARememberedFunction(diy.Module):
    def __init__(self):
        self.cache = {}

    def forward(self, x):
        self.cache["x"] = x
        self.remember(output := x * x, lambda g: 2 * g * self.cache["x"])
        return output

    def backward(self, g):
        g, function = self.recall(g)
        return function(g)


class OnATensor(InAnObject):
    def __init__(self):
        self.kept_in = torch.zeros(())


class ByAnOperator(Squares):
    def __init__(self):
        self.operator = Shift()

    def keep(self, x):
        self.operator << x

    def kept(self):
        return ~self.operator


class Shift:
    def __lshift__(self, x):
        CACHE["x"] = x

    def __invert__(self):
        return CACHE["x"]


class ByAMatch(Squares):
    def __init__(self):
        self.cache = {}

    def keep(self, x):
        self.cache["x"] = x

    def kept(self):
        match self:
            case Squares(cache={"x": x}):
                return x


@pytest.mark.parametrize(
    "kind",
    [
        InAnObject, ByAMethodNamedLikeALogs, InADecorator, InAGlobalNamedLikeABuiltin, ByPythonsOwnCall,
        ByAFunctionInATable, ByAComputedMethod, WithAMemoryOfItsOwn, InAnInheritedSlot, InAClassInside, ByAMatch,
        InAThreadsOwn, UnderTwoNames, HalfOfItOnAStack, InALogThatIsRead, ByASetter, ByARememberedFunction, OnATensor,
        ByAnOperator,
    ],
)  # fmt: skip
def test_what_a_later_forward_has_overwritten_is_not_used(kind):
    module = kind()
    for _ in range(2):  # the first backward changes nothing for the second
        module(X)
        torch.testing.assert_close(module.backward(G), 2 * G * X)
    module(X)
    with torch.no_grad():
        module(OTHER)
    with pytest.raises(RuntimeError, match="may read, was changed between forward and backward"):
        module.backward(G)


class Lazy(diy.Module):
    """Forward empties what backward computes when it is first asked for it."""

    def forward(self, x):
        self.x, self.slope = x, None
        return x * x

    def backward(self, g):
        if self.slope is None:
            self.slope = 2 * self.x
        return g * self.slope


class AroundAnother(diy.Module):
    """What it keeps has the name of what the module inside keeps."""

    def __init__(self):
        self.inner = Lazy()

    def forward(self, x):
        self.x = x
        return x * self.inner(x)

    def backward(self, g):
        return g * self.x * self.x + self.inner.backward(g * self.x)


@pytest.mark.parametrize(("kind", "slope"), [(Lazy, 4 * X**3), (AroundAnother, 9 * X**8)])
def test_what_forward_assigns_is_that_of_one_forward(kind, slope):
    layer = kind()
    for net in diy.Sequential(layer, kind()), diy.Sequential(layer, layer):
        net(X)
        with torch.no_grad():
            net(OTHER)
        torch.testing.assert_close(net.backward(G), slope * G)


# Settings that are changed between forward and backward


class Configuration:
    scale = 2.0


class OfAClassOfItsOwn(diy.Module):
    def __init__(self):
        self.configuration = Configuration

    def forward(self, x):
        return x * self.configuration.scale

    def backward(self, g):
        return g * self.configuration.scale


class UnderItsOwnName(diy.Module):
    def forward(self, x):
        return x * Configuration.scale

    def backward(self, g):
        self.scale = Configuration.scale
        return g * self.scale


class InAnInnerFunction(diy.Module):
    scale = 2.0

    def forward(self, x):
        return x * self.scale

    def backward(self, g):
        scale = self.scale

        def scaled(row):
            return row * scale

        return torch.stack([scaled(row) for row in g])


@pytest.mark.parametrize("kind", [OfAClassOfItsOwn, UnderItsOwnName, InAnInnerFunction])
def test_a_setting_that_backward_reads_must_not_change(kind, monkeypatch):
    module = kind()
    module(X)
    assert module.backward(G).equal(2 * G)
    module(X)
    monkeypatch.setattr(Configuration if kind is not InAnInnerFunction else kind, "scale", 3.0)
    with pytest.raises(RuntimeError, match="may read, was changed between forward and backward"):
        module.backward(G)


def test_a_setting_in_another_file_must_not_change(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "settings_of_a_learner.py").write_text("SCALE = 2.0\n", encoding="utf-8")
    (tmp_path / "layer_of_a_learner.py").write_text(
        "import diy, settings_of_a_learner as settings\n"
        "class Scaled(diy.Module):\n"
        "    def forward(self, x): return x * settings.SCALE\n"
        "    def backward(self, g): return g * settings.SCALE\n",
        encoding="utf-8",
    )
    module = importlib.import_module("layer_of_a_learner").Scaled()
    module(X)
    assert module.backward(G).equal(2 * G)
    module(X)
    sys.modules["settings_of_a_learner"].SCALE = 3.0
    with pytest.raises(RuntimeError, match=r"settings_of_a_learner\.SCALE, which Scaled\.backward may read"):
        module.backward(G)


INSTALLED = """
import diy

class Store:
    def keep(self, x):
        self.x = x

STORE = Store()

class Squares(diy.Module):
    def forward(self, x):
        STORE.keep(x)
        return x.square()

    def backward(self, G):
        return 2 * STORE.x * G
"""


@pytest.mark.parametrize("place", ["site-packages/layers_that_are_installed", "sched"])
def test_a_file_is_read_wherever_it_lies_and_whatever_its_name(tmp_path, monkeypatch, place):
    file = tmp_path / f"{place}.py"
    file.parent.mkdir(exist_ok=True)
    file.write_text(INSTALLED, encoding="utf-8")
    monkeypatch.syspath_prepend(str(file.parent))
    monkeypatch.delitem(sys.modules, file.stem, raising=False)  # one of Python's own that nobody needs
    squares = importlib.import_module(file.stem).Squares
    net = diy.Sequential(squares(), squares())
    net(torch.ones(2))
    with pytest.raises(RuntimeError, match=r"Store\.x, which Squares\.backward may read, was changed"):
        net.backward(torch.ones(2))
    monkeypatch.delitem(sys.modules, file.stem)


def test_a_file_that_was_edited_since_is_not_taken_at_its_word(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    file = tmp_path / "edited_by_a_learner.py"
    text = (
        "import diy\n"
        "CACHE = {}\n"
        "class Squares(diy.Module):\n"
        "    def forward(self, x):\n        CACHE['x'] = x\n        return x * x\n\n"
        "    def backward(self, g):\n        return 2 * g * CACHE['x']\n"
    )
    file.write_text(text, encoding="utf-8")
    module = importlib.import_module("edited_by_a_learner").Squares()
    # Where backward stood, now stands forward, which only writes to the cache.
    file.write_text(text.replace("class", "\n\n\n\nclass"), encoding="utf-8")
    module(X)
    with torch.no_grad():
        module(OTHER)
    with pytest.raises(RuntimeError, match=r"CACHE\S*, which Squares\.backward may read, was changed"):
        module.backward(G)


def test_a_function_that_is_written_again_is_read_again(monkeypatch):
    class Sloping(Squares):
        def keep(self, x):
            CACHE["x"] = x

        def kept(self):
            return slope()

    module = Sloping()
    namespace = {"CACHE": CACHE}
    monkeypatch.setattr(sys.modules[__name__], "slope", lambda: X)
    module(X)
    torch.testing.assert_close(module.backward(G), 2 * G * X)
    exec("def slope(): return CACHE['x']", namespace)  # as in a later cell of a notebook
    monkeypatch.setattr(sys.modules[__name__], "slope", namespace["slope"])
    module(X)
    with torch.no_grad():
        module(OTHER)
    with pytest.raises(RuntimeError, match="may read, was changed"):
        module.backward(G)


# Right in two places of a network, and taken


class Freed(diy.Module):
    def forward(self, x):
        self.x, self.ready = x, True
        return x * x

    def backward(self, g):
        assert self.ready
        x = self.x
        self.x, self.ready = None, False
        return 2 * g * x


class FreedAtOnce(Freed):
    def backward(self, g):
        x, self.x = self.x, None
        return 2 * g * x


class Emptied(Squares):
    def keep(self, x):
        self.list = [x]

    def backward(self, g):
        (x,) = self.list
        self.list = []
        return 2 * g * x


class UsedInside(Freed):
    def backward(self, g):
        x = self.x
        return (lambda gradient: 2 * gradient * x)(g)


LOG, COUNT = {}, collections.defaultdict(int)


class Logging(Freed):
    def backward(self, g):
        if "norm" not in LOG:
            LOG["norm"] = []
        LOG["norm"].append((len(LOG["norm"]), g.norm().item()))
        COUNT["backward"] = COUNT.get("backward", 0) + 1
        if len(LOG["norm"]) > 3:
            LOG["norm"].pop(0)
        LOG["norm"].append(g.norm().item()) if LOG else None
        LOG is not None and LOG["norm"].append(g.norm().item())
        [LOG["norm"].append(row.norm().item()) for row in g]
        return 2 * g * self.x


SIZES = {"forward": [], "backward": []}


class LoggingBothWays(Freed):
    def forward(self, x):
        SIZES["forward"].append(len(x))
        COUNT["forward"] += 1
        return super().forward(x)

    def backward(self, g):
        SIZES["backward"].append(len(g))
        COUNT["backward"] += 1
        return super().backward(g)


class Tracking(Freed):
    def __init__(self, run):
        self.run = run

    def backward(self, g):
        self.run.log({"norm": g.norm().item()})
        return 2 * g * self.x


def tracking():
    lines = []
    return Tracking(types.SimpleNamespace(log=lines.append, lines=lines))


@pytest.mark.parametrize("kind", [Freed, FreedAtOnce, Emptied, UsedInside, Logging, LoggingBothWays, tracking])
def test_what_is_freed_or_logged_serves_two_places(kind):
    layer, third = kind(), kind()
    net = diy.Sequential(layer, layer, third)
    net(X)
    torch.testing.assert_close(net.backward(G), 8 * X**7 * G)


def test_a_loss_of_ones_own_may_use_another():
    class Absolute(diy.Loss):
        def forward(self, p, t):
            self.remember(loss := self.reduce((p - t).abs()), p - t)
            return loss

        def backward(self):
            (d,) = self.recall()
            return d.sign() * self.share(d)

    class Twice(diy.Loss):
        def __init__(self):
            super().__init__()
            self.absolute = Absolute()

        def forward(self, p, t):
            return 2 * self.absolute(p, t)

        def backward(self):
            return 2 * self.absolute.backward()

    criterion = Twice()
    criterion(X, OTHER)
    torch.testing.assert_close(criterion.backward().clone(), 2 * (X - OTHER).sign() / X.numel())


def test_a_name_that_is_given_to_getattr_in_a_tuple_is_no_error():
    class Unpacking(diy.Module):
        def forward(self, x):
            self.x = x
            return x * x

        def backward(self, g):
            return 2 * g * getattr(*(self, "x"))

    module = Unpacking()
    module(X)
    torch.testing.assert_close(module.backward(G), 2 * G * X)


def test_the_number_that_a_loss_keeps_as_its_share_needs_another_name():
    class Mine(diy.Loss):
        def __init__(self):
            super().__init__()
            self.share = 0.5

        def forward(self, p, t):
            return (p - t).square().sum() * self.share

        def backward(self):
            return self.share

    with pytest.raises(AttributeError, match="share is a method of every Mine: give the attribute another name"):
        Mine()


class AttributeDictionary(dict):
    __getattr__ = dict.__getitem__


class OfAnAttributeDictionary(Freed):
    def __init__(self):
        self.options = AttributeDictionary(factor=2)

    def backward(self, g):
        return self.options.factor * g * self.x


def counted(method):
    @functools.wraps(method)
    def wrapper(self, g):
        wrapper.calls += 1
        return method(self, g)

    wrapper.calls = 0
    return wrapper


TIMES = {"backward": 0.0}


@contextlib.contextmanager
def timed(name):
    start = time.perf_counter()
    yield
    TIMES[name] += time.perf_counter() - start


class Decorated(Freed):
    @counted
    def backward(self, g):
        with timed("backward"):
            return 2 * g * self.x


class Numbered:
    made = 0

    def __init__(self, x):
        Numbered.made += 1
        self.x = x


class InANumberedObject(Freed):
    def forward(self, x):
        self.kept = Numbered(x)
        return x * x

    def backward(self, g):
        return 2 * g * self.kept.x


class Privately(diy.Module):
    def forward(self, x):
        self.__x = x
        return x * x

    def backward(self, g):
        LOG.setdefault("private", []).append(g.norm().item())
        return 2 * g * self.__x


@pytest.mark.parametrize("kind", [OfAnAttributeDictionary, Decorated, InANumberedObject, Privately])
def test_other_habits_serve_two_places(kind):
    layer = kind()
    net = diy.Sequential(layer, layer, kind())
    net(X)
    torch.testing.assert_close(net.backward(G), 8 * X**7 * G)


EPOCH = {"now": 0}


class Loader:
    """Has nothing to do with any layer."""

    def __iter__(self):
        yield EPOCH["now"]


def test_what_the_file_holds_besides_is_not_backwards():
    module = Freed()
    module(X)
    EPOCH["now"] += 1
    torch.testing.assert_close(module.backward(G), 2 * G * X)


class TakenWithAName(Squares):
    def __init__(self):
        self.stack = []

    def keep(self, x):
        self.stack.append(x)

    def backward(self, g):
        if (x := self.stack[-1]) is not None:
            self.stack.pop()
        return 2 * g * x


class ChangedOnTheWay(Squares):
    def __init__(self):
        self.log = {}

    def keep(self, x):
        self.log["x"] = x

    def backward(self, g):
        self.log["dx"] = g.mul_(2 * self.log["x"])
        return g


@pytest.mark.parametrize("kind", [TakenWithAName, ChangedOnTheWay])
def test_what_leaves_a_log_is_watched(kind):
    module = kind()
    module(X)
    with torch.no_grad():
        module(OTHER)
    with pytest.raises(RuntimeError, match="may read, was changed between forward and backward"):
        module.backward(G)


def test_helpers_of_another_file_are_read_as_well(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "helpers_of_a_learner.py").write_text(
        "LOG = []\n"
        "def log(g): LOG.append(g.norm().item())\n"
        "class Store:\n"
        "    def __init__(self): self.kept = {}\n"
        "    def add(self, module, g): module.result = 2 * g * self.kept['x']\n",
        encoding="utf-8",
    )
    (tmp_path / "layers_of_a_learner.py").write_text(
        "import diy, helpers_of_a_learner as helpers\n"
        "class Logged(diy.Module):\n"
        "    def forward(self, x):\n        self.x = x\n        return x * x\n"
        "    def backward(self, g):\n        helpers.log(g)\n        return 2 * g * self.x\n"
        "class Stored(diy.Module):\n"
        "    def __init__(self): self.store = helpers.Store()\n"
        "    def forward(self, x):\n        self.store.kept['x'] = x\n        return x * x\n"
        "    def backward(self, g):\n        self.store.add(self, g)\n        return self.result\n",
        encoding="utf-8",
    )
    layers = importlib.import_module("layers_of_a_learner")
    layer = layers.Logged()
    net = diy.Sequential(layer, layer, layers.Logged())
    net(X)
    torch.testing.assert_close(net.backward(G), 8 * X**7 * G)
    layer = layers.Stored()
    layer(X)
    with torch.no_grad():
        layer(OTHER)
    with pytest.raises(RuntimeError, match="may read, was changed between forward and backward"):
        layer.backward(G)


class Helper(list):
    """What it holds, and whatever is asked of it, is new each time, without end."""

    asked = 0

    def __iter__(self):
        return itertools.count()

    @property
    def factors(self):
        Helper.asked += 1
        return [Helper()]


def test_watching_a_helper_asks_nothing_of_it():
    class Helped(Squares):
        def __init__(self):
            self.helper = Helper()

        def keep(self, x):
            self.x, self.power = x, getattr(self.helper, "fac" + "tors")

        def kept(self):
            return self.x * len(self.power)

    module = Helped()
    for _ in range(2):
        module(X)
        torch.testing.assert_close(module.backward(G), 2 * G * X)
    assert Helper.asked == 2


def test_a_function_that_each_forward_makes_is_not_kept_for_ever():
    class Closed(Squares):
        def keep(self, x):
            self.slope = lambda: x

        def kept(self):
            return self.slope()

    module = Closed()
    for _ in range(2):
        kept = X.clone()
        module(kept)
        module.backward(G)
        last = weakref.ref(module.slope)
    module(X)
    module.backward(G)
    gc.collect()
    assert last() is None
