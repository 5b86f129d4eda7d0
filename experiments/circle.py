"""The disk data of the 2019 report, the models of its section VI, its protocol, and how they are trained.

Data, order, initial weights and masks of a round follow from (seed, round) alone. A round therefore gives the same
numbers whichever other rounds or models are run, and in whatever order.
"""

import math
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor, nn

import diy

RADIUS = math.sqrt(2 / math.pi)
"""Of the disk on [-1, 1]²: it covers half of the square."""

MOST = 10_000_000
"""No protocol has more rounds, epochs, samples or units than this: a larger number is a typing error."""


def check_count(name: str, value: int) -> None:
    """Refuse with a ValueError what cannot be a number of rounds, epochs, samples or units."""
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= MOST:
        shown = f"{value:,}" if isinstance(value, int) else repr(value)
        raise ValueError(f"{name} must be an integer from 1 to {MOST:,}, got {shown}")


def check_number(name: str, value: float) -> None:
    """Refuse with a ValueError what cannot be a learning rate or the like."""
    if not 0 <= value <= torch.finfo(torch.float32).max:
        raise ValueError(f"{name} must be a number of at least 0 that float32 can hold, at most 3.4e38, got {value}")


@dataclass(frozen=True)
class Protocol:
    """What all models of one evaluation have in common; the defaults are the report's.

    Raises:
        ValueError: a value is out of range; the message names it.
    """

    rounds: int = 10
    epochs: int = 100
    batch_size: int = 100
    lr: float = 0.001
    train_size: int = 1000
    test_size: int = 1000
    hidden: tuple[int, ...] = (25, 25, 25)
    dropout: float = 0.2
    seed: int = 0

    def __post_init__(self):
        object.__setattr__(self, "hidden", tuple(self.hidden))
        for name in ("rounds", "epochs", "batch_size", "train_size", "test_size"):
            check_count(name, getattr(self, name))
        for width in self.hidden:
            check_count("each width in hidden", width)
        check_number("lr", self.lr)
        if not 0 <= self.dropout <= 1:
            raise ValueError(f"dropout must be a probability, between 0 and 1, got {self.dropout}")
        if not isinstance(self.seed, int) or isinstance(self.seed, bool) or self.seed < 0:
            raise ValueError(f"seed must be an integer of at least 0, got {self.seed!r}")


KNOWN = {"library": ("diy", "torch"), "reduction": ("mean", "sum"), "optimizer": ("sgd", "adam")}
"""What a recipe can choose from."""


@dataclass(frozen=True)
class Recipe:
    """How one model differs from the others. None stands for the protocol's value.

    Args:
        title: for figures and tables.
        library: where layers and loss come from: "diy" or "torch".
        dropout: whether a Dropout follows each hidden ReLU.
        reduction: of the loss that is descended. The loss that is logged is always the mean.
        optimizer: "sgd" or "adam".
        lr, batch_size, momentum: for the optimizer; beta2: how slowly Adam forgets squares.
        cosine: whether the learning rate falls to zero along half a cosine, step by step.
    """

    title: str
    library: str
    dropout: bool = False
    reduction: str = "mean"
    optimizer: str = "sgd"
    lr: float | None = None
    batch_size: int | None = None
    momentum: float = 0.0
    beta2: float = 0.999
    cosine: bool = False

    def __post_init__(self):
        for name, known in KNOWN.items():
            if getattr(self, name) not in known:
                raise ValueError(f"{name} must be one of {', '.join(known)}, got {getattr(self, name)!r}")


MODELS = {
    "diy-sgd": Recipe("diy, SGD", "diy", reduction="sum"),
    "diy-dropout": Recipe("diy, dropout, SGD", "diy", dropout=True, reduction="sum"),
    "torch-sgd": Recipe("PyTorch, dropout, SGD", "torch", dropout=True),
    "torch-adam": Recipe("PyTorch, dropout, Adam", "torch", dropout=True, optimizer="adam"),
    "torch-sgd-sum": Recipe("PyTorch, dropout, SGD (sum)", "torch", dropout=True, reduction="sum"),
    "diy-tuned": Recipe("diy, tuned", "diy", optimizer="adam", lr=0.008, batch_size=100, beta2=0.95, cosine=True),
}
"""The report's four models, then the one that answers its open question, then one whose recipe benchmarks/tune.py chose
on validation data.

The mini-framework of 2019 descended the sum of the squared errors while it logged their mean; PyTorch's loss is the
mean. The first two models and "torch-sgd-sum" descend the sum, "torch-sgd" and "torch-adam" the mean.
"""


class DivergenceError(RuntimeError):
    """The loss of a training run is no longer a finite number."""


def disk_data(size: int, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
    """Draw points from the square and label them 1 inside the disk, 0 outside.

    The assignment draws them from [0, 1]², with a disk of radius 1/√(2π) around the centre; 2x − 1 maps them to
    [-1, 1]², where the radius is √(2/π).

    Returns:
        points, (size, 2), float32, and labels, (size,), int64.
    """
    points = 2 * torch.rand(size, 2, generator=generator) - 1
    return points, (points.square().sum(1) < RADIUS**2).long()


def one_hot(labels: Tensor) -> Tensor:
    """Turn labels 0 and 1, of shape (N,), into targets (1, 0) and (0, 1), of shape (N, 2), float32."""
    return torch.eye(2, device=labels.device)[labels]


def seeds(protocol: Protocol, round: int) -> tuple[int, int, int, int]:
    """Return the seeds of a round (from 0) for data, initial weights, order of the samples and masks."""
    return tuple(np.random.SeedSequence(protocol.seed, spawn_key=(round,)).generate_state(4).tolist())


def data_sets(protocol: Protocol, seed: int, device: torch.device | str = "cpu") -> list[tuple[Tensor, Tensor]]:
    """Return points and labels for training, and points and labels for testing."""
    generator = torch.Generator().manual_seed(seed)
    sets = [disk_data(size, generator) for size in (protocol.train_size, protocol.test_size)]
    return [(points.to(device), labels.to(device)) for points, labels in sets]


def build_network(library: str, hidden: Iterable[int] = (25, 25, 25), dropout: float | None = None):
    """Return 2 inputs, the hidden layers with ReLU (each followed by Dropout unless None), 2 outputs with Tanh.

    The same lines serve both libraries, "diy" and "torch": their interfaces agree.
    """
    layers = {"diy": diy, "torch": nn}[library]
    sizes, network = [2, *hidden], []
    for n_in, n_out in pairwise(sizes):
        network += [layers.Linear(n_in, n_out), layers.ReLU()]
        if dropout is not None:
            network.append(layers.Dropout(dropout))
    return layers.Sequential(*network, layers.Linear(sizes[-1], 2), layers.Tanh())


def predict(network, points: Tensor) -> Tensor:
    """Return the label, 0 or 1, whose output is the larger one; the network is left in evaluation mode."""
    with torch.inference_mode():
        return network.eval()(points).argmax(1)


def error_rate(network, points: Tensor, labels: Tensor) -> float:
    """Return the fraction of points that the network, in evaluation mode, labels wrongly."""
    return (predict(network, points) != labels).double().mean().item()


def train(
    network,
    recipe: Recipe,
    protocol: Protocol,
    points: Tensor,
    targets: Tensor,
    generator: torch.Generator | None = None,
    on_epoch: Callable[[int, float], None] | None = None,
) -> tuple[float, list[float]]:
    """Train `network` in mini-batches that are reshuffled every epoch.

    Args:
        generator: for the order of the samples.
        on_epoch: called with epoch (from 1) and mean loss after each epoch; its time is not counted.

    Returns:
        the seconds of the training loop, and the mean loss of each epoch.

    Raises:
        DivergenceError: the loss is not finite; the message names epoch and learning rate.
    """
    batch_size = recipe.batch_size or protocol.batch_size
    lr = protocol.lr if recipe.lr is None else recipe.lr
    criterion = (diy if recipe.library == "diy" else nn).MSELoss(reduction=recipe.reduction)
    optimizer = build_optimizer(network, recipe, lr)
    schedule = None
    if recipe.cosine:
        steps = protocol.epochs * math.ceil(len(points) / batch_size)
        cosine = diy.CosineAnnealingLR if recipe.library == "diy" else torch.optim.lr_scheduler.CosineAnnealingLR
        schedule = cosine(optimizer, T_max=steps)

    network.train()
    seconds, losses = 0.0, []
    for epoch in range(1, protocol.epochs + 1):
        start = time.perf_counter()
        order = torch.randperm(len(points), generator=generator).to(points.device)
        total = torch.zeros((), device=points.device)
        for x, target in zip(points[order].split(batch_size), targets[order].split(batch_size)):
            loss = criterion(network(x), target)
            optimizer.zero_grad()
            if recipe.library == "diy":
                network.backward(criterion.backward())
            else:
                loss.backward()
            optimizer.step()
            if schedule:
                schedule.step()
            total += loss.detach() * (target.numel() if recipe.reduction == "mean" else 1)
        losses.append(total.item() / targets.numel())
        seconds += time.perf_counter() - start
        if not math.isfinite(losses[-1]):
            raise DivergenceError(f"epoch {epoch}, learning rate {lr:g}: the loss is {losses[-1]}; lower the rate")
        if on_epoch:
            on_epoch(epoch, losses[-1])
    return seconds, losses


def build_optimizer(network, recipe: Recipe, lr: float):
    """Return the recipe's optimizer, from the library of the network."""
    library = diy if recipe.library == "diy" else torch.optim
    if recipe.optimizer == "adam":
        return library.Adam(network.parameters(), lr, (0.9, recipe.beta2))
    return library.SGD(network.parameters(), lr, momentum=recipe.momentum)


@contextmanager
def one_thread() -> Iterator[None]:
    """Use one thread inside: at this size a second costs more than it gains, and sums depend on how many there are."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
