"""The evaluation of the 2019 report: every model in every round, and the results on disk.

results = run(Protocol(rounds=2), models=["diy-sgd", "torch-adam"])
save(results, "results")
"""

import os
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import torch

import diy
from experiments import circle
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
from experiments.results import Piece, Record, Store, environment, read

FILE = "results.json"

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
        on_round: called with model, round and its `Round` when it is finished; under torchrun, only on rank 0.
        directory: where every finished round is kept.
        resume: whether to take the rounds that are finished from `directory`, those of this run or of another one with
            the same protocol and code.

    Returns:
        the results; None on the ranks other than 0.

    Raises:
        ResultsError: `directory` holds damaged or foreign files where this run's would be.
    """
    results = Results(protocol or Protocol(), environment(device), {model: [] for model in models})
    rounds: dict[Piece, Round] = {}

    def work(model: str, round: int) -> Record:
        report = (lambda *news: on_epoch(model, round, *news)) if on_epoch else None
        return to_record(run_round(results.protocol, model, round, device, report))

    def on_piece(model: str, round: int, record: Record) -> None:
        rounds[model, round] = _from_record(record)
        if on_round:
            on_round(model, round, rounds[model, round])

    store = _store(directory, results) if directory else None
    if compute(_pieces(results), work, store, resume, on_piece) is None:
        return None
    for piece in _pieces(results):
        results.models[piece[0]].append(rounds[piece])
    return results


def save(results: Results, directory: str | os.PathLike) -> list[Path]:
    """Write `results.json` into `directory`, which is made if needed, in one go; return its path in a list.

    Another run's results there are renamed first.

    Raises:
        ResultsError: `directory` holds a damaged or foreign `results.json`, which stays as it is.
    """
    models = {name: [to_record(round) for round in rounds] for name, rounds in results.models.items()}
    content = {"protocol": asdict(results.protocol), "environment": results.environment, "models": models}
    return _store(directory, results).finish(_pieces(results), content)


def load(directory: str | os.PathLike) -> Results:
    """Read what `save` wrote.

    Raises:
        FileNotFoundError: there is no such file.
        ResultsError: it is damaged, or comes from another program or version.
    """

    def make(content: Record) -> Results:
        models = {name: [_from_record(round) for round in rounds] for name, rounds in content["models"].items()}
        return Results(Protocol(**content["protocol"]), content["environment"], models)

    return read(Path(directory) / FILE, make)


def _pieces(results: Results) -> list[Piece]:
    return [(model, round) for round in range(results.protocol.rounds) for model in results.models]


def _store(directory: str | os.PathLike, results: Results) -> Store:
    inputs = {**asdict(results.protocol), "device": results.environment["device"]}
    return Store(directory, FILE, inputs, diy, circle)


def to_record(round: Round) -> Record:
    """Return a round in the types of JSON."""
    return {**vars(round), "predictions": "".join(map(str, round.predictions.tolist()))}


def _from_record(record: Record) -> Round:
    return Round(**{**record, "predictions": np.array(list(record["predictions"]), dtype=np.uint8)})
