"""The evaluation of the 2019 report: every model in every round, and the results on disk.

results = run(Protocol(rounds=2), models=["diy-sgd", "torch-adam"])
save(results, "results")
"""

import hashlib
import io
import os
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path

import numpy as np
import torch

from experiments.circle import (
    MODELS,
    DivergenceError,
    Protocol,
    build_network,
    data_sets,
    error_rate,
    one_hot,
    one_thread,
    predict,
    seeds,
    train,
)
from experiments.parallel import compute
from experiments.results import Record, ResultsError, Store, environment, reading, sealed, unsealed
from experiments.words import counted

REPORT_2019 = {
    "diy-sgd": {"seconds": 5.9, "test_error": 0.02, "loss": 0.021},
    "diy-dropout": {"seconds": 5.5, "test_error": 0.02, "loss": 0.050},
    "torch-sgd": {"seconds": 2.4, "test_error": 0.50, "loss": 0.267},
    "torch-adam": {"seconds": 3.3, "test_error": 0.025, "loss": 0.055},
}
"""Medians over 10 rounds, read off figures 2 to 4 of the 2019 report. Its train errors were never computed."""


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
