"""The playground's logic: a network in training that can be stepped, looked at and changed. There is no widget in it.

    lab = Lab(data="spiral", lr=0.002)
    for _ in range(100):
        lab.run_epoch()
    print(lab.history[-1].test_error, lab.trouble)
    print(lab.snippet())

What is drawn of a network, and how, is up to `view` and `still`.
"""

import math
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor, nn

import diy
from experiment import one_hot
from playground.data import DATA_SETS

ACTIVATIONS = ("ReLU", "Tanh", "Sigmoid")
OPTIMIZERS = {"SGD": ("SGD", {}), "SGD with momentum": ("SGD", {"momentum": 0.9}), "Adam": ("Adam", {})}
OWN = "own points"
NOTHING = "There is nothing to learn yet: click on the plane to add some points."
EDGE = 1.25
"""The plane that is shown, and on which points can be set, is [-EDGE, EDGE]²."""


@dataclass(frozen=True)
class Settings:
    """Everything that determines a run. The defaults are those of the report's first model.

    Args:
        data: "circle", "moons", "xor", "spiral", or "own points", which starts without any.
        noise: standard deviation of what is added to the points.
        depth, width: number and size of the hidden layers; without any, the network is linear up to its last Tanh.
        activation: of the hidden layers. The output always has a Tanh, as in the report.
        dropout: probability of zeroing, after each hidden activation; 0 means that there is no such layer.
        reduction: of the loss that is descended. The losses in the history are always means.
        optimizer, lr, batch_size: how it is descended.
        init_scale: factor of the Xavier weights.
        seed: of data, weights, order and masks.

    Raises:
        TypeError, ValueError: a value is of another kind or out of range; the message names it.
    """

    data: str = "circle"
    noise: float = 0.0
    depth: int = 3
    width: int = 25
    activation: str = "ReLU"
    dropout: float = 0.0
    reduction: str = "sum"
    optimizer: str = "SGD"
    lr: float = 0.001
    batch_size: int = 100
    init_scale: float = 1.0
    seed: int = 0

    def __post_init__(self):
        for name, choices in (
            ("data", (*DATA_SETS, OWN)),
            ("activation", ACTIVATIONS),
            ("reduction", ("mean", "sum")),
            ("optimizer", tuple(OPTIMIZERS)),
        ):
            if getattr(self, name) not in choices:
                raise ValueError(f"{name} must be one of {', '.join(choices)}, got {getattr(self, name)!r}")
        for name, least, most in (("depth", 0, 10), ("width", 1, 200), ("batch_size", 1, 10_000), ("seed", 0, 2**32)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int):
                raise TypeError(f"{name} must be an integer, got {value!r}")
            if not least <= value <= most:
                raise ValueError(f"{name} must be in [{least}, {most}], got {value}")
        for name, most in (("noise", 1), ("dropout", 1), ("lr", math.inf), ("init_scale", math.inf)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, (int, float)):
                raise TypeError(f"{name} must be a number, got {value!r}")
            if not (math.isfinite(value) and 0 <= value <= most):
                raise ValueError(f"{name} must be a finite number in [0, {most}], got {value}")


LIVE = {"reduction", "optimizer", "lr", "batch_size"}
"""The settings that can change during a run (the batch size from the next epoch on). Any other starts a new run."""


class Record(NamedTuple):
    """The state after an epoch: losses are means over all components, errors fractions of misclassified points.

    What does not exist is NaN: test values for a learner's own points, the twin's where there is none.
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


class Lab:
    """A diy network in training on a data set of the plane, and on demand a PyTorch twin.

    Args:
        train_size, test_size: number of points drawn, unless the points are the learner's own.
        twin: whether a PyTorch network with the same initial weights is trained on the same batches.
        settings: those of `Settings`, by name.

    Attributes:
        settings: the present `Settings`.
        model: the network, a `diy.Sequential`.
        x, y, labels: what is learned: points (N, 2), one-hot targets (N, 2) and labels (N,).
        x_test, y_test, labels_test: the same for the test set, with N = 0 where the points are the learner's own.
        points: what the learner added, as (x, y, label).
        epoch, steps: the number of finished epochs and of mini-batches since the start.
        history: one `Record` per epoch, the first before any training.
        trouble: a sentence that says why training further makes no sense, or None.
        watchers: functions without arguments that are called after every change but a step.

    Random numbers are the lab's own: it leaves PyTorch's global generator as it found it.
    """

    def __init__(self, train_size: int = 1000, test_size: int = 1000, twin: bool = False, **settings):
        self.train_size, self.test_size = train_size, test_size
        self.settings = Settings(**settings)
        self.points: list[tuple[float, float, int]] = []
        self.watchers: list[Callable[[], None]] = []
        self._wants_twin = twin
        self._draw()
        self.reset()

    def __repr__(self) -> str:
        s = self.settings
        sizes = "-".join(str(size) for size in self._sizes())
        return f"Lab({s.data}, {sizes} {s.activation}, {s.optimizer}, lr={s.lr:g}, {s.reduction}, epoch {self.epoch})"

    # What the learner does

    def change(self, **changes) -> None:
        """Change settings. `LIVE` ones take effect on the run as it stands, any other starts a new run.

        Raises:
            TypeError, ValueError: a name or value is refused, and nothing is changed.
        """
        unknown = changes.keys() - asdict(self.settings).keys()
        if unknown:
            raise ValueError(f"unknown setting {sorted(unknown)}: expected some of {list(asdict(self.settings))}")
        old, self.settings = self.settings, replace(self.settings, **changes)
        changed = {name for name in changes if getattr(old, name) != getattr(self.settings, name)}
        if changed & {"data", "noise", "seed"}:
            self._draw()
        if changed - LIVE:
            self.reset()
        elif changed:
            if self.steps:
                self._changed |= changed
            self._prepare_descent(changed)
            self._tell()

    def reset(self) -> None:
        """Go back to the initial weights and to epoch 0; data and added points stay."""
        self.epoch = self.steps = self._steps_before = 0
        self.trouble: str | None = None
        self._order: deque[Tensor] = deque()
        self._changed: set[str] = set()
        self._rng = torch.Generator().manual_seed(self.settings.seed).get_state()
        with self._random():
            self.model = self._network(diy)
            with torch.random.fork_rng():
                self._twin = self._network(nn) if self._wants_twin else None
        if self._twin is not None:
            self._twin.load_state_dict(self.model.state_dict())
        self._prepare_descent(LIVE)
        self._begin_history()
        self._tell()

    @property
    def twin(self):
        """The PyTorch network, or None. Setting it to True or False restarts or ends it."""
        return self._twin

    @twin.setter
    def twin(self, wanted: bool) -> None:
        self._wants_twin = bool(wanted)
        self.reset()

    def add_point(self, x: float, y: float, label: int) -> None:
        """Add a point to the training set. It is learned from the next epoch on; the run goes on.

        Raises:
            ValueError: it lies outside the plane, or the label is neither 0 nor 1.
        """
        if label not in (0, 1) or isinstance(label, bool):
            raise ValueError(f"the label of a point must be 0 or 1, got {label!r}")
        if not (abs(x) <= EDGE and abs(y) <= EDGE):
            raise ValueError(f"the point must lie in [-{EDGE}, {EDGE}]², got ({x}, {y})")
        self.points.append((round(float(x), 3), round(float(y), 3), label))
        self._points_changed()

    def remove_points(self) -> None:
        """Remove all points that were added. An epoch that has begun begins anew with the others."""
        self.points.clear()
        self._order.clear()
        self._steps_before = self.steps
        self._points_changed()

    def step(self) -> None:
        """Take one step on the next mini-batch; after the last one of an epoch, add a record to the history.

        Raises:
            RuntimeError: there is no point to learn from.
        """
        if not len(self.x):
            raise RuntimeError(NOTHING)
        with self._random():
            if not self._order:
                self._order.extend(torch.randperm(len(self.x)).split(self.settings.batch_size))
            batch = self._order.popleft()
            x, y = self.x[batch], self.y[batch]
            before = torch.get_rng_state()

            self.model.train()
            self.criterion(self.model(x), y)
            self.optimizer.zero_grad()
            self.model.backward(self.criterion.backward())
            self.optimizer.step()

            if self._twin is not None:
                torch.set_rng_state(before)  # so that both draw the same dropout masks
                self._step_twin(x, y)
        self.steps += 1
        if not self._order:
            self.epoch += 1
            self._steps_before = self.steps
            self._record()
            self.trouble = self._find_trouble()

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

    def surface(self, size: int = 50) -> Tensor:
        """Return output 1 − output 0 on a grid of the plane, (size, size), row 0 at the top; class 1 where positive."""
        axis = torch.linspace(-EDGE, EDGE, size)
        y, x = torch.meshgrid(-axis, axis, indexing="ij")
        output = self._predict(self.model, torch.stack([x.flatten(), y.flatten()], dim=1))
        return (output[:, 1] - output[:, 0]).reshape(size, size)

    def measure(self) -> Record:
        """Return losses and errors of the present weights, in evaluation mode."""
        train, test = self._measure(self.model, False), self._measure(self.model, True)
        twin = (math.nan, math.nan)
        if self._twin is not None:
            twin = self._measure(self._twin, False)[0], self._measure(self._twin, True)[0]
        return Record(self.epoch, train[0], test[0], train[1], test[1], *twin)

    def layers(self, samples: int = 200) -> list[Layer]:
        """Return, for each hidden layer and the output, activations of up to `samples` training points and gradients.

        The activations are taken in evaluation mode, the gradients are those of the last step.
        """
        found, values, linear = [], self.x[:samples], None
        self.model.eval()
        with torch.inference_mode():
            for module in self.model:
                values = module(values)
                if isinstance(module, diy.Linear):
                    linear = module
                elif not isinstance(module, diy.Dropout):
                    number = len(found) + 1
                    place = "output" if number > self.settings.depth else f"layer {number}"
                    found.append(Layer(f"{place}, {type(module).__name__}", values, linear.weight.grad))
        return found

    def twin_distance(self) -> float:
        """Return the largest distance between the loss curves of the two networks so far, or NaN without a twin."""
        return self._distance

    def snippet(self) -> str:
        """Return the program of the run: data, network and loop up to the present step (at the start, 100 epochs)."""
        if not len(self.x):
            return f"# {NOTHING}\n"
        s = self.settings
        kind, arguments = OPTIMIZERS[s.optimizer]
        epochs = self.epoch + (self.steps_in_epoch > 0) or 100
        lines = ["# Save this in the folder of diy.py, or run it in a cell of this notebook."]
        lines += ["import torch", "", "import diy", "from experiment import one_hot"]
        lines += [] if s.data == OWN else [f"from playground.data import {s.data}"]
        lines.append("")
        if s.data == OWN:
            lines += ["x, labels = torch.empty(0, 2), torch.empty(0, dtype=torch.long)"]
        else:
            lines += [
                f"generator = torch.Generator().manual_seed({s.seed})",
                f"x, labels = {s.data}({self.train_size}, generator, noise={s.noise})",
                f"x_test, labels_test = {s.data}({self.test_size}, generator, noise={s.noise})",
                "y_test = one_hot(labels_test)",
            ]
        if self.points:
            lines += [
                f"x = torch.cat([x, torch.tensor({[list(point[:2]) for point in self.points]})])",
                f"labels = torch.cat([labels, torch.tensor({[point[2] for point in self.points]})])",
            ]
        lines += ["y = one_hot(labels)", "", f"torch.manual_seed({s.seed})", "model = diy.Sequential("]
        for n_in, n_out in pairwise(self._sizes()[:-1]):
            dropout = f" diy.Dropout({s.dropout})," if s.dropout else ""
            lines.append(f"    diy.Linear({n_in}, {n_out}), diy.{s.activation}(),{dropout}")
        lines += [f"    diy.Linear({self._sizes()[-2]}, 2), diy.Tanh(),", ")"]
        if s.init_scale != 1:
            lines += [
                "for layer in model:",
                "    if isinstance(layer, diy.Linear):",
                f"        layer.weight *= {s.init_scale}",
            ]
        extra = "".join(f", {name}={value}" for name, value in arguments.items())
        lines += [
            f'criterion = diy.MSELoss(reduction="{s.reduction}")',
            f"optimizer = diy.{kind}(model.parameters(), lr={s.lr}{extra})",
            "",
        ]
        if self._changed:
            names = " and ".join(sorted(self._changed))
            lines.append(f"# On screen, {names} changed during the run; here the last values hold from the start.")
        lines += [
            f"for epoch in range({epochs}):",
            f"    batches = torch.randperm(len(x)).split({s.batch_size})",
        ]
        if self.steps_in_epoch:
            lines += [
                f"    if epoch == {self.epoch}:",
                f"        batches = batches[:{self.steps_in_epoch}]  # this epoch is not finished yet",
            ]
        lines += [
            "    for batch in batches:",
            "        loss = criterion(model(x[batch]), y[batch])",
            "        optimizer.zero_grad()",
            "        model.backward(criterion.backward())",
            "        optimizer.step()",
            "",
            "model.eval()",
            "train_loss = diy.MSELoss()(model(x), y).item()",
        ]
        if s.data == OWN:
            lines.append('print(f"train loss {train_loss:.4f}")')
        else:
            lines += [
                "test_loss = diy.MSELoss()(model(x_test), y_test).item()",
                "test_error = (model(x_test).argmax(1) != labels_test).double().mean().item()",
                'print(f"train loss {train_loss:.4f}, test loss {test_loss:.4f}, test error {100 * test_error:.1f} %")',
            ]
        return "\n".join(lines) + "\n"

    # How it works inside

    def _sizes(self) -> list[int]:
        return [2, *[self.settings.width] * self.settings.depth, 2]

    def _network(self, library):
        s, layers = self.settings, []
        for n_in, n_out in pairwise(self._sizes()[:-1]):
            layers += [library.Linear(n_in, n_out), getattr(library, s.activation)()]
            if s.dropout:
                layers.append(library.Dropout(s.dropout))
        network = library.Sequential(*layers, library.Linear(self._sizes()[-2], 2), library.Tanh())
        if library is diy:
            for layer in network:
                if isinstance(layer, diy.Linear):
                    layer.weight *= s.init_scale
        return network

    def _prepare_descent(self, changed: set[str]) -> None:
        s = self.settings
        (kind, arguments), twin = OPTIMIZERS[s.optimizer], self._twin
        if "reduction" in changed:
            self.criterion = diy.MSELoss(reduction=s.reduction)
            self._twin_criterion = nn.MSELoss(reduction=s.reduction)
        if "optimizer" in changed:
            self.optimizer = getattr(diy, kind)(self.model.parameters(), lr=s.lr, **arguments)
            self._twin_optimizer = twin and getattr(torch.optim, kind)(twin.parameters(), lr=s.lr, **arguments)
        if "lr" in changed:
            self.optimizer.lr = s.lr
            for group in self._twin_optimizer.param_groups if twin else ():
                group["lr"] = s.lr

    def _step_twin(self, x: Tensor, y: Tensor) -> None:
        with torch.enable_grad():  # whatever the notebook around has switched off
            self._twin.train()
            loss = self._twin_criterion(self._twin(x), y)
            self._twin_optimizer.zero_grad()
            loss.backward()
            self._twin_optimizer.step()

    def _draw(self) -> None:
        s, generator = self.settings, torch.Generator().manual_seed(self.settings.seed)
        if s.data == OWN:
            nothing = torch.empty(0, 2), torch.empty(0, dtype=torch.long)
            self._drawn, (self.x_test, self.labels_test) = nothing, nothing
        else:
            self._drawn = DATA_SETS[s.data](self.train_size, generator, s.noise)
            self.x_test, self.labels_test = DATA_SETS[s.data](self.test_size, generator, s.noise)
        self.y_test = one_hot(self.labels_test)
        self._join_points()

    def _join_points(self) -> None:
        places = torch.tensor([point[:2] for point in self.points]).reshape(-1, 2)
        labels = torch.tensor([point[2] for point in self.points], dtype=torch.long)
        self.x, self.labels = torch.cat([self._drawn[0], places]), torch.cat([self._drawn[1], labels])
        self.y = one_hot(self.labels)

    def _points_changed(self) -> None:
        self._join_points()
        if self.steps:
            self._changed.add("points")
        else:
            self._begin_history()
        self._tell()

    def _tell(self) -> None:
        for watcher in self.watchers:
            watcher()

    def _begin_history(self) -> None:
        self.history: list[Record] = []
        self._distance = math.nan
        self._record()

    def _record(self) -> None:
        now = self.measure()
        self.history.append(now)
        distances = self._distance, abs(now.train_loss - now.twin_train_loss), abs(now.test_loss - now.twin_test_loss)
        self._distance = max((d for d in distances if not math.isnan(d)), default=math.nan)

    def _predict(self, network, points: Tensor) -> Tensor:
        network.eval()
        with torch.inference_mode():
            return network(points)

    def _measure(self, network, test: bool) -> tuple[float, float]:
        x, y, labels = (self.x_test, self.y_test, self.labels_test) if test else (self.x, self.y, self.labels)
        if not len(x):
            return math.nan, math.nan
        output = self._predict(network, x)
        return (output - y).square().mean().item(), (output.argmax(1) != labels).double().mean().item()

    def _find_trouble(self) -> str | None:
        s, batch = self.settings, min(self.settings.batch_size, len(self.x))
        ways = ["a smaller initialization"] if s.init_scale > 1 else []
        ways.append(f"a learning rate below {s.lr:g}")
        if s.reduction == "sum" and s.optimizer != "Adam":  # Adam's steps do not depend on the size of the gradient
            ways.append(f'the reduction "mean", whose steps are {2 * batch} times smaller here')
        if not math.isfinite(self.history[-1].train_loss):
            return (
                f"Diverged in epoch {self.epoch}: each step overshot by more than the one before, until the weights "
                f"were too large for a number. Reset and choose {', or '.join(ways)}."
            )
        output = self._predict(self.model, self.x)
        if (1 - output.square()).mean() < 1e-3:
            equal = (output[:, 1] - output[:, 0]).abs().max() < 0.01
            return (
                f"Diverged by epoch {self.epoch}: the steps were so large that every output is now close to -1 or 1. "
                "There the derivative of Tanh is almost 0, so no gradient flows back and nothing is learned. "
                f"{'Both outputs are equal, so the plane is white. ' if equal else ''}"
                f"Reset and choose {', or '.join(ways)}."
            )
        for layer in self.layers(len(self.x)):
            if layer.name.endswith("ReLU") and not layer.activations.any():
                return (
                    f"Stuck in epoch {self.epoch}: every ReLU of {layer.name.split(',')[0]} gives 0 for every point. "
                    "Where ReLU is 0 its derivative is 0, so no gradient reaches the layers below, and the prediction "
                    f"is the same everywhere. Reset and choose {', or '.join(ways)}, or more units."
                )
        return None

    @contextmanager
    def _random(self) -> Iterator[None]:
        outside = torch.get_rng_state()
        torch.set_rng_state(self._rng)
        try:
            yield
        finally:
            self._rng = torch.get_rng_state()
            torch.set_rng_state(outside)
