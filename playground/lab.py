"""The playground's logic: a network in training that can be stepped, looked at and changed. There is no widget in it.

    lab = Lab(data="spiral", lr=0.002)
    for _ in range(100):
        lab.run_epoch()
    print(lab.history[-1].test_error, lab.trouble)
    print(lab.snippet())

What is drawn of a network, and how, is up to `view` and `still`; what the program of a run looks like, to `program`.
"""

import copy
import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from functools import cache
from itertools import pairwise
from types import ModuleType
from typing import NamedTuple

import torch
from torch import Tensor, nn

import diy
from playground import company, program
from playground.data import DATA_SETS, FEATURES

ACTIVATIONS = ("ReLU", "Tanh", "Sigmoid")
OPTIMIZERS = {"SGD": ("SGD", {}), "SGD with momentum": ("SGD", {"momentum": 0.9}), "Adam": ("Adam", {})}
OWN = "own points"
NO_BUG = "none"
NOTHING = "There is nothing to learn yet: click on the plane to add some points."
EDGE = 1.25
"""The plane that is shown, and on which points can be set, is [-EDGE, EDGE]²."""

TARGETS = torch.eye(2, dtype=torch.float32)
LARGEST, EPSILON = torch.finfo(torch.float32).max, torch.finfo(torch.float64).eps

STEPS = (1e-4, 1e-5, 1e-6, 1e-7, 1e-8)
"""How far a weight in hand is moved to measure the slope."""

SATURATED = 1e-3
"""Below this mean derivative of the last Tanh, next to nothing is learned any more."""

HEALTHY = "", ""

RECORDS = 1000
"""How many records the history holds at most: then every other one is dropped, and only every second epoch kept."""


@dataclass(frozen=True)
class Settings:
    """Everything that determines a run. The defaults are those of the report's first model.

    Args:
        data: "circle", "moons", "xor", "spiral", or "own points", which starts with no points.
        noise: standard deviation of the noise added to the points drawn, not to a learner's own.
        features: what the network sees of a point (x, y): some of "x", "y", "x²", "y²", "xy".
        depth, width: number and size of the hidden layers; with none, the network is linear up to its final Tanh.
        activation: of the hidden layers. The output always has a Tanh, as in the report.
        dropout: probability of zeroing, after each hidden activation; 0 means no dropout layers.
        init_scale: factor of the Xavier weights.
        reduction: of the loss that is minimized. The losses in the history are always means.
        optimizer, lr, batch_size, weight_decay: how it is minimized.
        bug: the name of a planted bug, see `company.STORIES`, with which the network is trained; "none" for none.
        seed: of data, weights, order and masks.

    Raises:
        TypeError, ValueError: a value is of another kind or out of range; the message names it.
    """

    data: str = "circle"
    noise: float = 0.0
    features: tuple[str, ...] = ("x", "y")
    depth: int = 3
    width: int = 25
    activation: str = "ReLU"
    dropout: float = 0.0
    init_scale: float = 1.0
    reduction: str = "sum"
    optimizer: str = "SGD"
    lr: float = 0.001
    batch_size: int = 100
    weight_decay: float = 0.0
    bug: str = NO_BUG
    seed: int = 0

    def __post_init__(self):
        for name, choices in (
            ("data", (*DATA_SETS, OWN)),
            ("activation", ACTIVATIONS),
            ("reduction", ("mean", "sum")),
            ("optimizer", tuple(OPTIMIZERS)),
            ("bug", (NO_BUG, *company.STORIES)),
        ):
            if getattr(self, name) not in choices:
                raise ValueError(f"{name} must be one of {', '.join(choices)}, got {getattr(self, name)!r}")
        wanted = self.features
        if not isinstance(wanted, (list, tuple)) or not wanted or not all(name in list(FEATURES) for name in wanted):
            raise ValueError(f"features must be a list of one or more of {', '.join(FEATURES)}, got {wanted!r}")
        object.__setattr__(self, "features", tuple(name for name in FEATURES if name in wanted))
        for name, least, most in (("depth", 0, 10), ("width", 1, 200), ("batch_size", 1, 10_000), ("seed", 0, 2**32)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int):
                raise TypeError(f"{name} must be an integer, got {value!r}")
            if not least <= value <= most:
                raise ValueError(f"{name} must be in [{least}, {most}], got {value}")
        limits = {"noise": 1, "dropout": 1, "lr": LARGEST, "init_scale": LARGEST, "weight_decay": LARGEST}
        for name, most in limits.items():
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, (int, float)):
                raise TypeError(f"{name} must be a number, got {value!r}")
            if not 0 <= value <= most:
                raise ValueError(f"{name} must be a finite number in [0, {most:.3g}], got {value}")
            if type(value) not in (int, float):  # NumPy's, which the line that restores a run could not name
                object.__setattr__(self, name, float(value))

    @property
    def sizes(self) -> list[int]:
        """The number of features, of units in each hidden layer, and of outputs."""
        return [len(self.features), *[self.width] * self.depth, 2]


LIVE = {"reduction", "optimizer", "lr", "batch_size", "weight_decay"}
"""The settings that can change during a run (the batch size from the next epoch on). Any other starts a new run."""


class Record(NamedTuple):
    """The state after an epoch: losses are means over all components, errors fractions of misclassified points.

    What does not exist is NaN: test values for a learner's own points, the twin's where there is none, all values of
    a network whose outputs are no numbers.
    """

    epoch: int
    train_loss: float
    test_loss: float
    train_error: float
    test_error: float
    twin_train_loss: float
    twin_test_loss: float


class Layer(NamedTuple):
    """What happens in one layer: its name, its activations and the gradient of its weights (None before a step)."""

    name: str
    activations: Tensor
    gradient: Tensor | None


class Column(NamedTuple):
    """The first units of a layer: what each gives on a grid of the plane, and the weights that lead to it.

    `pictures` is (units, size, size), row 0 at the top; `weights` and `gradients` are (units, units before), or None.
    """

    name: str
    total: int
    pictures: Tensor
    weights: Tensor | None
    gradients: Tensor | None


class Weight(NamedTuple):
    """A weight in hand: `slope` is measured and `gradient` is what backward finds, both of the loss over all points.

    They `agree` up to the error of the measurement; a loss that is another one at each call has no slope, NaN. At a
    kink, `at_kink`, the gradient lies between the slopes on both sides. `loss` is that of the present value; `values`
    and `losses` are those along this weight, all others fixed.
    """

    value: float
    slope: float
    gradient: float
    agree: bool
    at_kink: bool
    loss: float
    values: list[float]
    losses: list[float]


@contextmanager
def _single_precision() -> Iterator[None]:
    """Everything drawn and made inside is float32, whatever the notebook has set."""
    outside = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    try:
        yield
    finally:
        torch.set_default_dtype(outside)


class _Learner:
    """A network, its loss and its optimizer, from diy, a copy of diy with a bug, or PyTorch (`library` is torch.nn)."""

    def __init__(self, library: ModuleType, network, settings: Settings):
        self.library, self.network = library, network
        self.prepare(settings, LIVE)

    def prepare(self, s: Settings, changed: set[str]) -> None:
        kind, arguments = OPTIMIZERS[s.optimizer]
        if "reduction" in changed:
            self.criterion = self.library.MSELoss(reduction=s.reduction)
        if "optimizer" in changed:
            library = torch.optim if self.library is nn else self.library
            self.optimizer = getattr(library, kind)(self.network.parameters(), lr=s.lr, **arguments)
        self.optimizer.param_groups[0].update(lr=s.lr, weight_decay=s.weight_decay)

    def step(self, x: Tensor, y: Tensor) -> Tensor:
        """Take a step, and return the output before it."""
        if not self.network.training:
            self.network.train()
        with torch.enable_grad():  # even if the notebook around has switched it off
            output = self.network(x)
            loss = self.criterion(output, y)
            self.optimizer.zero_grad()
            if self.library is nn:
                loss.backward()
            else:
                self.network.backward(self.criterion.backward())
            self.optimizer.step()
        return output


class Lab:
    """A diy network in training on a data set of the plane, and on demand a twin beside it.

    The twin is PyTorch's; that of a network with a planted bug is diy's own without the bug, and always there.

    Args:
        train_size, test_size: number of points drawn, unless the points are the learner's own.
        twin: whether a PyTorch network with the same weights is trained on the same batches.
        points: the learner's own, as (x, y, label).
        changes: what to do on the way, as another lab's `changes` tell it.
        settings: those of `Settings`, by name.

    Attributes:
        settings: the present `Settings`.
        x, y, labels: what is learned: points (N, 2), one-hot targets (N, 2) and labels (N,).
        x_test, y_test, labels_test: the same for the test set, with N = 0 where the points are the learner's own.
        points: what the learner added, as (x, y, label).
        epoch, steps: the number of finished epochs and of mini-batches since the start.
        start: settings, own points and whether there was a twin, when the run began.
        changes: what was changed since, as (steps taken before, what, value).
        history: one `Record` per epoch, the first before any training, thinned out to at most RECORDS.
        before: settings and history of the run before this one, or None.
        trouble: a sentence that says why training further makes no sense, or None.
        watchers: functions that are called after every change but a step, with "points", "settings" or "run".

    Random numbers are the lab's own: it leaves PyTorch's global generator as it found it.
    """

    def __init__(
        self,
        train_size: int = 1000,
        test_size: int = 1000,
        twin: bool = False,
        points: Iterable[tuple[float, float, int]] = (),
        changes: Iterable[tuple[int, str, object]] = (),
        **settings,
    ):
        for name, size in (("train_size", train_size), ("test_size", test_size)):
            if isinstance(size, bool) or not isinstance(size, int) or size < 0:
                raise ValueError(f"{name} must be an integer ≥ 0, got {size!r}")
        _check_names(settings)
        self.train_size, self.test_size = train_size, test_size
        self.settings = Settings(**settings)
        self.points = _points(points)
        self.watchers: list[Callable[[str], None]] = []
        self.before: tuple[Settings, list[Record]] | None = None
        self.history: list[Record] = []
        self._earlier: list[list[tuple[float, float, int]]] = []
        self._wants_twin = _yes_or_no("twin", twin)
        self._draw()
        self.reset()
        self._to_come = deque(self._checked(changes))
        self.catch_up()

    def __repr__(self) -> str:
        s = self.settings
        sizes = "-".join(map(str, s.sizes))
        bug = "" if s.bug == NO_BUG else f"bug {s.bug}, "
        descent = f"{s.optimizer}, lr={s.lr:g}, {s.reduction}"
        return f"Lab({s.data}, {sizes} {s.activation}, {descent}, {bug}epoch {self.epoch})"

    # What the learner does

    def change(self, **changes) -> None:
        """Change settings. `LIVE` ones take effect on the run as it stands, any other starts a new run.

        Raises:
            TypeError, ValueError: a name or value is refused, and nothing is changed.
        """
        _check_names(changes)
        old, self.settings = self.settings, replace(self.settings, **changes)
        changed = {name for name in changes if getattr(old, name) != getattr(self.settings, name)}
        if changed & {"data", "noise", "seed"}:
            self._draw()
            self._tell("points")
        if changed - LIVE:
            self.reset(old)
        elif changed:
            self._change_live(changed)

    def reset(self, old: Settings | None = None) -> None:
        """Go back to the initial weights and to epoch 0; data and added points stay.

        Args:
            old: the settings of the run so far, where they were others.
        """
        if self.history and self.epoch:
            self.before = old or self.settings, self.history
        self.epoch = self.steps = self._steps_before = 0
        self._ill_with, self.trouble = HEALTHY, None
        self.changes: list[tuple[int, str, object]] = []
        self._points_before: tuple[int, list] = 0, []
        self._to_come: deque[tuple[int, str, object]] = deque()
        self._order: deque[tuple[Tensor, Tensor]] = deque()
        self._stride = 1
        bug = self.settings.bug
        library = diy if bug == NO_BUG else company.library(bug)
        self._rng = torch.Generator().manual_seed(self.settings.seed).get_state()
        with self._random():
            self._learner = _Learner(library, self._network(library), self.settings)
        self._begin_twin()
        self.history = []
        self._record()
        self._tell("run")

    @property
    def model(self):
        """The network, a `diy.Sequential`."""
        return self._learner.network

    @property
    def start(self) -> tuple[Settings, tuple, bool]:
        return self._start if self.steps else (self.settings, tuple(self.points), self._wants_twin)

    @property
    def twin(self):
        """The network beside, or None. Setting it to True or False begins or ends that of PyTorch; the run goes on.

        Beside a network with a bug is its healthy twin: then PyTorch's comes with the next run without a bug.
        """
        return self._twin and self._twin.network

    @twin.setter
    def twin(self, wanted: bool) -> None:
        self._wants_twin = _yes_or_no("twin", wanted)
        self._note("twin", self._wants_twin)
        if self.settings.bug != NO_BUG:
            return  # its healthy twin has been there from the start, and stays
        self._begin_twin()
        if self.steps:
            self._compare(self.measure())
        else:
            self._record_anew()
        self._tell("run")

    def add_point(self, x: float, y: float, label: int) -> None:
        """Add a point to the training set. The epoch that has begun begins anew with it; the run goes on.

        Raises:
            ValueError: it lies outside the plane, or the label is neither 0 nor 1.
        """
        self.set_points([*self.points, (x, y, label)])

    def set_points(self, points: Iterable[tuple[float, float, int]]) -> None:
        """Put these points in the place of all that were added. The epoch that has begun begins anew with them.

        Raises:
            ValueError: one of them is refused, and nothing is changed.
        """
        points = _points(points)
        self._earlier = [*self._earlier[-99:], self.points]
        self._replace_points(points)

    def undo_points(self) -> None:
        """Take back the last change of the points; without one, do nothing."""
        if self._earlier:
            self._replace_points(self._earlier.pop())

    def set_weight(self, layer: int, unit: int, source: int, value: float) -> None:
        """Set one weight: of `unit` in Linear number `layer` (from 0) for input `source`, or its bias for source -1.

        Raises:
            ValueError: there is no such weight, or the value is not finite.
        """
        networks = [self.model] if self._twin is None else [self.model, self.twin]
        places = [self._weight(network, layer, unit, source) for network in networks]
        layer, unit, source, value = int(layer), int(unit), int(source), _finite(value)
        for tensor, index in places:
            with torch.no_grad():
                tensor[index] = value
        self._note("weight", (layer, unit, source, value))
        if not self.steps:
            self._record_anew()
        self._see_whether_it_recovered()
        self._tell("run")

    def step(self) -> None:
        """Take one step on the next mini-batch; after the last one of an epoch, add a record to the history.

        Raises:
            RuntimeError: there is no point to learn from.
        """
        if not len(self.x):
            raise RuntimeError(NOTHING)
        if not self.steps:
            self._start = self.start
        with self._random():
            if not self._order:
                order = torch.randperm(len(self.x))
                targets = torch.arange(len(self.x)) if company.unshuffled(self.settings.bug) else order
                self._order.extend(zip(*(rows.split(self.settings.batch_size) for rows in (order, targets))))
            rows, target_rows = self._order.popleft()
            x, y = self._seen(self.x[rows]), self.y[target_rows]
            before = torch.get_rng_state()
            output = self._learner.step(x, y)
            if self._twin is not None:
                after = torch.get_rng_state()
                torch.set_rng_state(before)  # so that both draw the same dropout masks
                self._twin.step(x, self.y[rows])
                torch.set_rng_state(after)
        self.steps += 1
        if not self._order:
            self.epoch += 1
            self._steps_before = self.steps
            self._record()
        if not self._order or self._looks_ill(output):
            self._look_for_trouble()
        self.catch_up()

    def catch_up(self) -> None:
        """Make the changes that are due: of those the lab was made with, those up to the present step."""
        while self._to_come and self._to_come[0][0] <= self.steps:
            _, what, value = self._to_come.popleft()
            if what in ("points", "more points"):
                self.set_points([*(self.points if what == "more points" else []), *value])
            elif what == "weight":
                self.set_weight(*value)
            elif what == "twin":
                self.twin = value
            else:
                self.settings = replace(self.settings, **{what: value})
                self._change_live({what})  # even to the same value: an optimizer that is chosen anew begins anew

    @property
    def planned(self) -> list[tuple[int, str, object]]:
        """The changes so far, and those to come."""
        return [*self.changes, *self._to_come]

    @property
    def steps_in_epoch(self) -> int:
        """The number of steps taken since the last finished epoch."""
        return self.steps - self._steps_before

    @property
    def steps_per_epoch(self) -> int:
        """The number of steps of the epoch that has begun, or else of the next one."""
        if self._order:
            return self.steps_in_epoch + len(self._order)
        return math.ceil(len(self.x) / self.settings.batch_size)

    def run_epoch(self) -> None:
        """Take steps to the end of the epoch."""
        epoch = self.epoch
        while self.epoch == epoch:
            self.step()

    # What there is to see

    def surface(self, size: int = 50, twin: bool = False) -> Tensor:
        """Return output 1 − output 0 on a grid of the plane, (size, size), row 0 at the top; class 1 where positive."""
        output = self._predict(self.twin if twin else self.model, _grid(size))
        return (output[:, 1] - output[:, 0]).reshape(size, size)

    def measure(self) -> Record:
        """Return losses and errors of the present weights, in evaluation mode."""
        train, test = self._measure(self.model, False), self._measure(self.model, True)
        twin = (math.nan, math.nan)
        if self._twin is not None:
            twin = self._measure(self.twin, False)[0], self._measure(self.twin, True)[0]
        return Record(self.epoch, train[0], test[0], train[1], test[1], *twin)

    def layers(self, samples: int = 200, twin: bool = False) -> list[Layer]:
        """Return, for each hidden layer and the output, activations of up to `samples` training points and gradients.

        The activations are taken in evaluation mode, the gradients are those of the last step.
        """
        return [
            Layer(name, values, linear.weight.grad)
            for name, values, linear in self._outputs(self.twin if twin else self.model, self.x[:samples])
        ]

    def columns(self, most: int = 12, size: int = 20) -> list[Column]:
        """Return the features and the first `most` units of each layer, with what each computes on the plane."""
        points = _grid(size)
        seen = self._seen(points)
        columns = [Column("input", seen.shape[1], _pictures(seen, size), None, None)]
        for name, values, linear in self._outputs(self.model, points):
            before = len(columns[-1].pictures)
            parts = (None if part is None else part[:most, :before] for part in (linear.weight, linear.weight.grad))
            columns.append(Column(name, values.shape[1], _pictures(values[:, :most], size), *parts))
        return columns

    def weigh(self, layer: int, unit: int, source: int) -> Iterator[Weight | None]:
        """Take a weight in hand, see `set_weight`: measure the slope of the loss along it, beside the gradient.

        In a large network this takes a while: the iterator gives None after each piece of work, and the `Weight` last.
        It is that of the network as it was when this was called, whatever the lab does meanwhile.

        Raises:
            ValueError: there is no such weight, or no point to learn from.
        """
        if not len(self.x):
            raise ValueError(NOTHING)
        model = copy.deepcopy(self.model).eval()
        for module in _linears(model):  # by hand, as a bug may hide a parameter from `to`
            module.weight, module.bias = module.weight.double(), module.bias.double()
        tensor, index = self._weight(model, layer, unit, source)
        x, y, criterion = self._seen(self.x).double(), self.y.double(), copy.deepcopy(self._learner.criterion)
        return _weighing(model, criterion, x, y, tensor, index)

    def twin_distance(self) -> float:
        """Return the largest distance between the loss curves of the two networks so far, or NaN without a twin."""
        return self._distance

    def snippet(self) -> str:
        """Return the program of the run up to the present step (at the start, 100 epochs); it needs diy.py alone."""
        return program.write(self)

    # How it works inside

    @_single_precision()
    def _network(self, library):
        s, layers = self.settings, []
        for n_in, n_out in pairwise(s.sizes[:-1]):
            layers += [library.Linear(n_in, n_out), getattr(library, s.activation)()]
            if s.dropout:
                layers.append(library.Dropout(s.dropout))
        network = library.Sequential(*layers, library.Linear(s.sizes[-2], 2), library.Tanh())
        if library is not nn:
            for layer in _linears(network):
                layer.weight *= s.init_scale
        return network

    def _begin_twin(self) -> None:
        self._twin: _Learner | None = None
        self._distance = math.nan
        bug = self.settings.bug != NO_BUG
        if not (bug or self._wants_twin):
            return
        library = diy if bug else nn
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(self.settings.seed)  # the random numbers that the model began with
            self._twin = _Learner(library, self._network(library), self.settings)
        if bug:
            return
        self._twin.network.load_state_dict(self.model.state_dict())
        if self.steps:
            state = self._twin.optimizer.state_dict()
            state["state"] = copy.deepcopy(self._learner.optimizer.state_dict()["state"])
            self._twin.optimizer.load_state_dict(state)

    @_single_precision()
    def _draw(self) -> None:
        s, generator = self.settings, torch.Generator().manual_seed(self.settings.seed)
        nothing = torch.empty(0, 2), torch.empty(0, dtype=torch.long)
        self._drawn, (self.x_test, self.labels_test) = (
            nothing if s.data == OWN else self._draw_set(size, generator) for size in (self.train_size, self.test_size)
        )
        self.y_test = TARGETS[self.labels_test]
        self._join_points()

    def _draw_set(self, size: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        points, labels = DATA_SETS[self.settings.data](size, generator)
        if self.settings.noise:
            points += self.settings.noise * torch.randn(points.shape, generator=generator)
        return points, labels

    def _join_points(self) -> None:
        places = torch.tensor([point[:2] for point in self.points], dtype=torch.float32).reshape(-1, 2)
        labels = torch.tensor([point[2] for point in self.points], dtype=torch.long)
        self.x, self.labels = torch.cat([self._drawn[0], places]), torch.cat([self._drawn[1], labels])
        self.y = TARGETS[self.labels]

    def _replace_points(self, points: list[tuple[float, float, int]]) -> None:
        if self._points_before[0] != self.steps:
            self._points_before = self.steps, self.points
        before = self._points_before[1]
        self.points = points
        self._order.clear()
        self._steps_before = self.steps
        self._join_points()
        added = points[: len(before)] == before
        # All points at each click would make the line of a long run as long as the square of their number.
        self._note(*(("more points", points[len(before) :]) if added else ("points", list(points))))
        if not self.steps:
            self._record_anew()
        self._see_whether_it_recovered()
        self._tell("points")

    def _note(self, what: str, value) -> None:
        """Keep in mind a change of a run that has begun; of several at one step, the last."""
        if self.steps or what == "weight":
            new = self.steps, what, value
            self.changes = [*(change for change in self.changes if _changed(change) != _changed(new)), new]

    def _tell(self, what: str) -> None:
        for watcher in self.watchers:
            watcher(what)

    def _change_live(self, changed: set[str]) -> None:
        for name in sorted(changed):
            self._note(name, getattr(self.settings, name))
        for learner in filter(None, (self._learner, self._twin)):
            learner.prepare(self.settings, changed)
        self._tell("settings")

    def _checked(self, changes: Iterable[tuple[int, str, object]]) -> Iterator[tuple[int, str, object]]:
        if not isinstance(changes, Iterable):
            raise TypeError(f"changes must be a list of (steps, what, value), got {changes!r}")
        before = 0
        for change in changes:
            try:
                when, what, value = change
                if isinstance(when, bool) or not isinstance(when, int) or when < before:
                    raise ValueError(f"the number of steps must be an integer ≥ {before}, got {when!r}")
                if what in LIVE:
                    replace(self.settings, **{what: value})
                elif what in ("points", "more points"):
                    value = _points(value)
                elif what == "weight":
                    layer, unit, source, number = value
                    self._weight(self.model, layer, unit, source)
                    _finite(number)
                elif what == "twin":
                    _yes_or_no("twin", value)
                else:
                    kinds = ", ".join((*sorted(LIVE), "more points", "points", "twin", "weight"))
                    raise ValueError(f"what can change during a run is {kinds}, not {what!r}")
            except (TypeError, ValueError) as error:
                raise ValueError(
                    f"changes must be (steps, what, value), in order: {change!r} is refused: {error}"
                ) from None
            before = when
            yield when, what, value

    def _record_anew(self) -> None:
        self.history.clear()
        self._distance = math.nan
        self._record()

    def _record(self) -> None:
        now = self.measure()
        if not self.steps:
            self._illness_at_start = self._illness(self.model)[0]
        if len(self.history) >= RECORDS:
            self._stride *= 2
            self.history[:] = [r for r in self.history if r.epoch % self._stride == 0]
        if self.history and self.history[-1].epoch % self._stride:
            self.history.pop()  # it was there only as the newest
        self.history.append(now)
        self._compare(now)

    def _compare(self, now: Record) -> None:
        if self._twin is None:
            return
        pairs = (now.train_loss, now.twin_train_loss), (now.test_loss, now.twin_test_loss)
        # Where one alone is a number, they are as far apart as can be; where neither is, there is no distance.
        apart = [math.inf if math.isnan(a) != math.isnan(b) else abs(a - b) for a, b in pairs]
        self._distance = max((d for d in (self._distance, *apart) if not math.isnan(d)), default=math.nan)

    def _seen(self, points: Tensor) -> Tensor:
        if self.settings.features == ("x", "y"):
            return points
        x, y = points.unbind(1)
        seen = {"x": x, "y": y, "x²": x**2, "y²": y**2, "xy": x * y}
        return torch.stack([seen[name] for name in self.settings.features], dim=1)

    def _predict(self, network, points: Tensor) -> Tensor:
        with self._evaluating(network):
            return network(self._seen(points))

    def _outputs(self, network, points: Tensor) -> Iterator[tuple[str, Tensor, object]]:
        """Yield each layer's name, its activations for the points, and its Linear."""
        found, values, linear = 0, self._seen(points), None
        with self._evaluating(network):
            for module in network:
                values = module(values)
                kind = type(module).__name__
                if kind == "Linear":
                    linear = module
                elif kind != "Dropout":
                    found += 1
                    yield f"{'output' if found > self.settings.depth else f'layer {found}'}, {kind}", values, linear

    def _weight(self, network, layer: int, unit: int, source: int) -> tuple[Tensor, tuple[int, ...]]:
        linears = _linears(network)
        if not 0 <= layer < len(linears):
            raise ValueError(f"layer must be in [0, {len(linears) - 1}], got {layer}")
        tensor = linears[layer].bias if source == -1 else linears[layer].weight
        index = (unit,) if source == -1 else (unit, source)
        if not all(0 <= i < n for i, n in zip(index, tensor.shape)):
            raise ValueError(f"layer {layer} has weights {tuple(linears[layer].weight.shape)}, got {unit, source}")
        return tensor, index

    def _measure(self, network, test: bool) -> tuple[float, float]:
        x, y, labels = (self.x_test, self.y_test, self.labels_test) if test else (self.x, self.y, self.labels)
        if not len(x):
            return math.nan, math.nan
        output = self._predict(network, x)
        if not output.isfinite().all():
            return math.nan, math.nan
        return (output - y).square().mean().item(), (output.argmax(1) != labels).double().mean().item()

    def _illness(self, network) -> tuple[str, str]:
        """Return what makes it pointless to train this network further, or "", and where it is."""
        output = self._predict(network, self.x)
        if not output.isfinite().all():
            return "no numbers", ""
        if len(output) and (1 - output.square()).mean() < SATURATED:
            return "saturated", ""
        for name, values, _ in self._outputs(network, self.x):
            if name.endswith("ReLU") and len(values) and not values.any():
                return "dead", name.split(",")[0]
        return "", ""

    def _looks_ill(self, output: Tensor) -> bool:
        """Whether it is worth a thorough look in mid-epoch, by the weights after a step and the output before it."""
        weights = self._learner.optimizer.param_groups[0]["params"]
        if not math.isfinite(sum(values.sum().item() for values in (*weights, output))):
            return True
        if self.settings.optimizer != "SGD" or self.settings.weight_decay:
            return False  # what else moves the weights may bring back the gradient: see at the end of the epoch
        one = len(output) > 1 and (output == output[0]).all()  # what a dead layer makes of all points
        return bool(one or (1 - output.square()).mean() < SATURATED)

    def _look_for_trouble(self) -> None:
        illness = self._illness(self.model)
        if illness != self._ill_with:
            self._ill_with, self.trouble = illness, self._explain(*illness) if illness[0] else None
            self._compare(self.measure())

    def _see_whether_it_recovered(self) -> None:
        if self.trouble:
            self._look_for_trouble()

    def _explain(self, illness: str, where: str) -> str:
        s = self.settings
        bug = s.bug != NO_BUG and not self._illness(self.twin)[0]
        epoch = self.epoch + bool(self.steps_in_epoch)
        by_hand, from_start = any(what == "weight" for _, what, _ in self.changes), self._illness_at_start == illness
        head, cause = f"Diverged in epoch {epoch}: ", "the steps were so large that "
        if illness == "dead":
            head, cause = f"Stuck in epoch {epoch}: ", ""
        if bug:
            cause = "with this bug, but not without it, "
        elif by_hand:
            cause = ""
        elif from_start:
            head, cause = "Stuck from the start: ", "the initial weights are such that "
        if illness == "no numbers":
            text = f"{'sums of them are' if from_start else 'the weights became'} too large for float32."
        elif illness == "saturated":
            output = self._predict(self.model, self.x)
            equal = (output[:, 1] - output[:, 0]).abs().max() < 0.01
            text = (
                "the outputs are close to -1 or 1. There the derivative of Tanh is almost 0, so almost no gradient "
                "flows back and almost nothing is learned."
                f"{' Both outputs are equal, so the plane has no colour.' if equal else ''}"
            )
        else:
            text = (
                f"every ReLU of {where} gives 0 for every point. Where ReLU is 0, its derivative is 0, so no gradient "
                "reaches the weights of this layer or those below, and the prediction is the same for all points."
            )
        ways = ["the network without the bug"] if bug else self._ways(illness, from_start)
        reset = "Reset, which takes back the weight set by hand" if by_hand else "Reset"
        return f"{head}{cause}{text} {reset}{' and choose ' if ways else ''}{', or '.join(ways)}."

    def _ways(self, illness: str, from_start: bool) -> list[str]:
        """Return what may help."""
        s, batch = self.settings, min(self.settings.batch_size, len(self.x))
        ways = ["a smaller initialization"] if s.init_scale > 1 and illness != "dead" else []
        if s.lr and not from_start:
            ways += ["less weight decay"] if s.lr * s.weight_decay > 1 else []
            ways.append(f"a learning rate ten times smaller, {s.lr / 10:g}, and smaller again if that is not enough")
            if s.reduction == "sum" and s.optimizer != "Adam":  # Adam's steps do not depend on the gradient's size
                ways.append(f'the reduction "mean", whose steps are {2 * batch} times smaller here')
        if illness == "dead":
            ways += ["more units", "another seed"]
        return ways

    @contextmanager
    def _random(self) -> Iterator[None]:
        """The random numbers inside are the lab's own, and go on from one time to the next."""
        with torch.random.fork_rng(devices=[]):
            torch.set_rng_state(self._rng)
            try:
                yield
            finally:
                self._rng = torch.get_rng_state()

    @contextmanager
    def _evaluating(self, network) -> Iterator[None]:
        """In evaluation mode, without autograd. What draws even so, as with a bug, draws the same at the same step."""
        if network.training:
            network.eval()
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(self.steps)
            yield


def _weighing(model, criterion, x: Tensor, y: Tensor, tensor: Tensor, index: tuple) -> Iterator[Weight | None]:
    value = tensor[index].item()
    scale = max(1.0, abs(value))
    steps = [h * scale for h in STEPS]
    values = [value + scale * (i - 10) / 10 for i in range(21)]
    found = []
    for at in (value, *(value - h for h in steps), *(value + h for h in steps), *values, value):
        tensor[index] = at
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(len(found))  # a bug may draw random numbers, others at each call
            found.append(criterion(model(x), y).item())
        yield None
    with torch.random.fork_rng(devices=[]):
        model.backward(criterion.backward())
    gradient = math.nan if tensor.grad is None else tensor.grad[index].item()
    here, again, n = found[0], found[-1], len(steps)
    sides, losses = list(zip(found[1:], found[1 + n :], steps)), found[1 + 2 * n : -1]
    slopes = [((right - left) / (2 * h), 16 * EPSILON * abs(here) / h) for left, right, h in sides]
    # Of neighbouring steps, those agree best that are neither too coarse, with a kink inside, nor lost in rounding.
    errors = [(abs(a - b) + rounding, b) for (a, _), (b, rounding) in pairwise(slopes)]
    error, slope = min(errors, key=lambda pair: (math.isnan(pair[0]), pair))
    if math.isfinite(here) and again != here:
        slope = math.nan  # it draws at each call: there is no function to differentiate
    agree = abs(slope - gradient) <= 1e-5 * max(abs(slope), abs(gradient)) + error
    # At a kink, the slopes on both sides differ however small the step.
    (*_, (a, b), (low, high)) = (sorted(((here - left) / h, (right - here) / h)) for left, right, h in sides[:-1])
    at_kink = not agree and 1e-4 < high - low < 3 * (b - a) and low - 1e-4 <= gradient <= high + 1e-4
    yield Weight(value, slope, gradient, agree, at_kink, here, values, losses)


def _check_names(settings: Iterable[str]) -> None:
    known = [field.name for field in fields(Settings)]
    if unknown := sorted(set(settings) - set(known)):
        raise ValueError(f"unknown setting {unknown}: expected some of {known}")


def _yes_or_no(name: str, value) -> bool:
    if not isinstance(value, bool):
        raise TypeError(f"{name} must be True or False, got {value!r}")
    return value


def _changed(change: tuple[int, str, object]) -> tuple:
    """What a change sets, and when: of two that set the same at one step, the last counts."""
    when, what, value = change
    return (when, what, *value[:3]) if what == "weight" else (when, what.removeprefix("more "))


def _points(points) -> list[tuple[float, float, int]]:
    if not isinstance(points, Iterable):
        raise TypeError(f"points must be a list of (x, y, label), got {points!r}")
    return [_point(point) for point in points]


def _point(point) -> tuple[float, float, int]:
    try:
        x, y, label = point
        inside = abs(x) <= EDGE and abs(y) <= EDGE
    except (TypeError, ValueError):
        raise ValueError(f"a point must be three numbers (x, y, label), got {point!r}") from None
    if label not in (0, 1) or isinstance(label, bool):
        raise ValueError(f"the label of a point must be 0 or 1, got {label!r}")
    if not inside:
        raise ValueError(f"the point must lie in [-{EDGE}, {EDGE}]², got ({x}, {y})")
    return round(float(x), 3), round(float(y), 3), int(label)


def _finite(value: float) -> float:
    if not abs(value) <= LARGEST:
        raise ValueError(f"a weight must be a finite number of float32, got {value}")
    return float(value)


@cache
def _grid(size: int) -> Tensor:
    axis = torch.linspace(-EDGE, EDGE, size, dtype=torch.float32)
    y, x = torch.meshgrid(-axis, axis, indexing="ij")
    return torch.stack([x.flatten(), y.flatten()], dim=1)


def _pictures(values: Tensor, size: int) -> Tensor:
    return values.T.reshape(-1, size, size)


def _linears(network) -> list:
    return [module for module in network if type(module).__name__ == "Linear"]
