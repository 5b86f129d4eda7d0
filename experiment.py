"""The evaluation of the 2019 report: the disk data, the models of its section VI, its protocol, results on disk.

    results = run(Protocol(rounds=2), models=["diy-sgd", "torch-adam"])
    save(results, "results")

Data, order, initial weights and masks of a round follow from (seed, round) alone. A round therefore gives the same
numbers whichever other rounds or models are run, and in whatever order.
"""

import hashlib
import io
import math
import os
import platform
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

import diy
from distributed import compute
from storage import Record, ResultsError, Store, reading, sealed, unsealed

RADIUS = math.sqrt(2 / math.pi)
"""Of the disk on [-1, 1]²: it covers half of the square."""

REPORT_2019 = {
    "diy-sgd": {"seconds": 5.9, "test_error": 0.02, "loss": 0.021},
    "diy-dropout": {"seconds": 5.5, "test_error": 0.02, "loss": 0.050},
    "torch-sgd": {"seconds": 2.4, "test_error": 0.50, "loss": 0.267},
    "torch-adam": {"seconds": 3.3, "test_error": 0.025, "loss": 0.055},
}
"""Medians over 10 rounds, read off figures 2 to 4 of the 2019 report. Its train errors were never computed."""


MOST = 10_000_000
"""Of rounds, epochs, samples and units: more is a slip of the finger."""


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
            if not _is_integer(getattr(self, name)) or getattr(self, name) < 1:
                raise ValueError(f"{name} must be an integer of at least 1, got {getattr(self, name)!r}")
            if getattr(self, name) > MOST:
                raise ValueError(f"{name} must be at most {MOST:,}, got {getattr(self, name):,}")
        if not all(_is_integer(width) and 1 <= width <= MOST for width in self.hidden):
            raise ValueError(f"hidden must hold integers from 1 to {MOST:,}, got {list(self.hidden)}")
        if not (math.isfinite(self.lr) and self.lr >= 0):
            raise ValueError(f"lr must be a finite number of at least 0, got {self.lr}")
        if self.lr > torch.finfo(torch.float32).max:
            raise ValueError(f"lr must be a number that float32 can hold, at most 3.4e38, got {self.lr}")
        if not 0 <= self.dropout <= 1:
            raise ValueError(f"dropout must be a probability, between 0 and 1, got {self.dropout}")
        if not _is_integer(self.seed) or self.seed < 0:
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
        lr, batch_size, momentum, weight_decay: of the optimizer; beta2: of Adam, how slowly it forgets squares.
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
    weight_decay: float = 0.0
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


@dataclass
class Round:
    """What one model did in one round.

    Attributes:
        seconds: wall-clock time of the training loop.
        loss: mean squared error per component while training, one mean per epoch.
        train_error, test_error: fractions of misclassified points, in evaluation mode, after training.
        predictions: labels given to the test points, (test_size,), uint8.
    """

    seconds: float
    loss: list[float]
    train_error: float
    test_error: float
    predictions: np.ndarray = field(repr=False)


@dataclass
class Results:
    """What `run` returns: for each model its rounds, in order."""

    protocol: Protocol
    environment: dict[str, str | int]
    models: dict[str, list[Round]]


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
    optimizer = _optimizer(network, recipe, lr)
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


def run_round(
    protocol: Protocol,
    model: str,
    round: int,
    device: torch.device | str = "cpu",
    on_epoch: Callable[[int, float], None] | None = None,
) -> Round:
    """Train and test one model of `MODELS` once, on the data of `round` (from 0).

    Raises:
        DivergenceError: the loss is not finite; the message names model, round, epoch and learning rate.
    """
    recipe = MODELS[model]
    data, weights, order, masks = seeds(protocol, round)
    train_set, test_set = data_sets(protocol, data, device)
    with one_thread(), torch.random.fork_rng():
        torch.manual_seed(weights)
        network = build_network(recipe.library, protocol.hidden, protocol.dropout if recipe.dropout else None)
        network.to(device)
        torch.manual_seed(masks)
        generator = torch.Generator().manual_seed(order)
        try:
            points, labels = train_set
            seconds, loss = train(network, recipe, protocol, points, one_hot(labels), generator, on_epoch)
        except DivergenceError as error:
            raise DivergenceError(f"{model} diverged in round {round + 1}, {error}") from None
        predictions = predict(network, test_set[0])
        return Round(
            seconds=seconds,
            loss=loss,
            train_error=error_rate(network, *train_set),
            test_error=(predictions != test_set[1]).double().mean().item(),
            predictions=predictions.to("cpu", torch.uint8).numpy(),
        )


def test_points(protocol: Protocol, round: int) -> np.ndarray:
    """Return the test points of a round (from 0), of shape (test_size, 2), as in `run_round`."""
    return data_sets(protocol, seeds(protocol, round)[0])[1][0].numpy()


def run(
    protocol: Protocol | None = None,
    models: Iterable[str] = tuple(MODELS),
    device: torch.device | str = "cpu",
    on_epoch: Callable[[str, int, int, float], None] | None = None,
    on_round: Callable[[str, int, Round], None] | None = None,
    directory: str | os.PathLike | None = None,
    resume: bool = False,
) -> Results | None:
    """Run the evaluation: every model in every round; under torchrun, the rounds are split over the processes.

    Args:
        on_epoch: called with model, round (from 0), epoch (from 1) and mean loss.
        on_round: called with model, round and its `Round`, when it is finished; under torchrun on rank 0 alone.
        directory: where every finished round is kept until `save` has written the results.
        resume: whether to go on with what an interrupted run of the same protocol left in `directory`.

    Returns:
        the results; None on the ranks other than 0.

    Raises:
        ResultsError: `directory` holds damaged or foreign files, or with `resume` those of another run.
    """
    protocol, models, here = protocol or Protocol(), list(models), environment(device)

    def piece(name: str) -> Record:
        model, round = _parts(name)
        report = (lambda *news: on_epoch(model, round, *news)) if on_epoch else None
        return _to_record(run_round(protocol, model, round, device, report))

    known: dict[str, Round] = {}

    def on_piece(name: str, record: Record) -> None:
        known[name] = _from_record(record, protocol)
        if on_round:
            on_round(*_parts(name), known[name])

    names = [f"{model}-{round}" for round in range(protocol.rounds) for model in models]
    store = _store(directory, protocol, models, here) if directory else None
    if compute(names, piece, store, resume, on_piece) is None:
        return None
    return Results(protocol, here, {m: [known[f"{m}-{r}"] for r in range(protocol.rounds)] for m in models})


def environment(device: torch.device | str = "cpu") -> dict[str, str | int]:
    """Describe hardware and versions, as far as timings depend on them."""
    device = torch.device(device)
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "system": platform.system(),
        "processor": _processor(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else str(device),
        "threads": 1,
    }


# Results on disk

FILES = ("results.json", "predictions.npz")


def save(results: Results, directory: str | os.PathLike) -> list[Path]:
    """Write `predictions.npz`, then `results.json`, into `directory`, which is made if needed; return the paths.

    Each file is replaced in one go: whatever interrupts the writing leaves the old file or the new one, whole. Rounds
    that were kept there in the meantime are then removed. Results of another run are moved aside first.

    Raises:
        ResultsError: `directory` holds damaged or foreign files, which stay as they are.
    """
    arrays = {"points": np.stack([test_points(results.protocol, r) for r in range(results.protocol.rounds)])}
    arrays |= {name: np.stack([r.predictions for r in rounds]) for name, rounds in results.models.items() if rounds}
    archive = io.BytesIO()
    np.savez_compressed(archive, **arrays)
    content = {
        "program": "test.py",
        "version": 1,
        "protocol": asdict(results.protocol),
        "environment": results.environment,
        "models": {
            name: {"rounds": [{k: v for k, v in vars(r).items() if k != "predictions"} for r in rounds]}
            for name, rounds in results.models.items()
        },
    }
    store = _store(directory, results.protocol, results.models, results.environment)
    content["predictions"] = hashlib.sha256(archive.getvalue()).hexdigest()
    files = sealed(content, indent=1), archive.getvalue()
    return store.finish(dict(zip(FILES, files)))


def load(directory: str | os.PathLike) -> Results:
    """Read what `save` wrote.

    Raises:
        FileNotFoundError: a file is missing.
        ResultsError: a file is damaged, or of another kind or version.
    """
    directory = Path(directory)
    with reading(directory / FILES[0]):
        content = unsealed((directory / FILES[0]).read_bytes())
        kind = content.get("program", "test.py"), content["version"]
        if kind != ("test.py", 1):
            raise ValueError(f"{kind[0]}, version {kind[1]}; expected test.py, version 1")
        with reading(directory / FILES[1]):
            archive = (directory / FILES[1]).read_bytes()
            if hashlib.sha256(archive).hexdigest() != content["predictions"]:
                raise ValueError(f"it is not the one that was written with {FILES[0]}: the checksum differs")
            predictions = dict(np.load(io.BytesIO(archive), allow_pickle=False))
        protocol = Protocol(**content["protocol"])
        names = {f.name for f in fields(Round)} - {"predictions"}
        models = {
            name: [
                _checked(Round(**{key: entry[key] for key in names}, predictions=predictions[name][index]), protocol)
                for index, entry in enumerate(model["rounds"])
            ]
            for name, model in content["models"].items()
        }
        if any(len(rounds) != protocol.rounds for rounds in models.values()):
            raise ValueError("rounds are missing")
        _header(protocol, models, content["environment"])
        return Results(protocol, content["environment"], models)


def _finished(directory: Path) -> tuple[Record, dict[str, Record]]:
    try:
        results = load(directory)
    except FileNotFoundError as error:
        raise ResultsError(f"{error.filename} is missing beside {FILES[0]}: remove that file, too") from error
    records = {f"{m}-{i}": _to_record(r) for m, rounds in results.models.items() for i, r in enumerate(rounds)}
    return _header(results.protocol, results.models, results.environment), records


def _store(directory: str | os.PathLike, protocol: Protocol, models: Iterable[str], environment: Record) -> Store:
    header = _header(protocol, models, environment)
    return Store(directory, header, FILES, _finished, lambda name, record: _from_record(record, protocol))


def _header(protocol: Protocol, models: Iterable[str], environment: dict[str, str | int]) -> Record:
    # What the numbers depend on: rounds that differ in any of this do not belong together.
    versions = {name: environment[name] for name in ("torch", "device")}
    return {"program": "test.py", "version": 1, "protocol": asdict(protocol), "models": list(models), **versions}


def _parts(name: str) -> tuple[str, int]:
    model, _, round = name.rpartition("-")
    return model, int(round)


def _to_record(round: Round) -> Record:
    return {**vars(round), "predictions": "".join(map(str, round.predictions.tolist()))}


def _from_record(record: Record, protocol: Protocol) -> Round:
    predictions = np.array(list(record["predictions"]), dtype=np.uint8)
    return _checked(Round(**{**record, "predictions": predictions}), protocol)


def _checked(record: Round, protocol: Protocol) -> Round:
    if not all(isinstance(loss, float) for loss in record.loss) or len(record.loss) != protocol.epochs:
        raise ValueError(f"loss must hold {counted(protocol.epochs, 'number')}")
    if not all(isinstance(number, float) for number in (record.seconds, record.train_error, record.test_error)):
        raise ValueError("seconds and errors must be numbers")
    if record.predictions.shape != (protocol.test_size,) or not np.isin(record.predictions, (0, 1)).all():
        raise ValueError(f"predictions must hold {counted(protocol.test_size, 'label')}, 0 or 1")
    return record


def counted(number: int, noun: str) -> str:
    """Return "1 round" or "2 rounds"."""
    return f"{number} {noun}{'s' * (number != 1)}"


def _is_integer(value) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _optimizer(network, recipe: Recipe, lr: float):
    library = diy if recipe.library == "diy" else torch.optim
    if recipe.optimizer == "adam":
        return library.Adam(network.parameters(), lr, (0.9, recipe.beta2), weight_decay=recipe.weight_decay)
    return library.SGD(network.parameters(), lr, momentum=recipe.momentum, weight_decay=recipe.weight_decay)


@contextmanager
def one_thread() -> Iterator[None]:
    """Use one thread inside: at this size a second costs more than it brings, and sums depend on their number."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
