"""Train a small convolutional network on handwritten digits, and the same network in PyTorch beside it."""

import argparse
import math
import os
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from tqdm import tqdm

import diy
from experiments.circle import DivergenceError, check_count, check_number, one_thread
from experiments.commandline import Parser, progress
from experiments.digits.data import DataError, Images, digits_images, hold_out, mnist_images
from experiments.parallel import compute
from experiments.results import Record, Store, digest, environment, read
from experiments.words import counted, spread

PROG = "python -m experiments.digits"
LIBRARIES = ("diy", "torch")
AGREEMENT = 1e-9
"""In float64, losses and weights of the two libraries may differ by this much, relative to the largest of them."""

EXAMPLES = """examples:
  python -m experiments.digits                       scikit-learn's digits: 5 rounds, then the figures
  python -m experiments.digits --rounds 1            an answer in less than a minute
  python -m experiments.digits --float64             check that the two libraries take the same path, to 1e-9
  python -m experiments.digits --validate --lr 0.01  another protocol, judged on a part of the training images
  python -m experiments.digits --mnist DIR --rounds 1 --epochs 3
                                         MNIST, from the four IDX files in DIR: minutes an epoch, so start small
"""


@dataclass(frozen=True)
class DigitsProtocol:
    """All that the numbers depend on, besides the images.

    The defaults were chosen on a held-out part of the training images (`--validate`), never on the test images.

    Args:
        rounds: how often to train, each time from other weights and in another order.
        epochs, batch_size: of each training.
        lr: the learning rate of SGD at the start; it falls to zero along half a cosine.
        momentum, weight_decay: of SGD.
        channels: of the first convolution; the others have twice as many.
        seed: of everything that is random.
        float64: whether to compute in double precision.
        validate: whether a fifth of the training images takes the place of the test images.

    Raises:
        ValueError: a value is out of range; the message names it.
    """

    rounds: int = 5
    epochs: int = 30
    batch_size: int = 50
    lr: float = 0.05
    momentum: float = 0.9
    weight_decay: float = 0.005
    channels: int = 16
    seed: int = 0
    float64: bool = False
    validate: bool = False

    def __post_init__(self):
        for name in ("rounds", "epochs", "batch_size", "channels"):
            check_count(name, getattr(self, name))
        for name in ("lr", "momentum", "weight_decay"):
            check_number(name, getattr(self, name))
        if not 0 <= self.seed < 2**32:
            raise ValueError(f"seed must be an integer from 0 to 2**32 - 1, got {self.seed}")


def build_digits_network(library: str, size: int, channels: int = 16):
    """Return three 3 × 3 convolutions, each with batch norm and ReLU, two poolings and a linear layer for 10 classes.

    The same lines serve both libraries, "diy" and "torch": their interfaces agree.

    Args:
        size: height and width of the images.
    """
    layers = {"diy": diy, "torch": nn}[library]

    def block(n_in: int, n_out: int) -> list:
        # Batch norm subtracts the mean, and with it any bias added before.
        return [layers.Conv2d(n_in, n_out, 3, padding="same", bias=False), layers.BatchNorm2d(n_out), layers.ReLU()]

    return layers.Sequential(
        *block(1, channels),
        *block(channels, 2 * channels),
        layers.MaxPool2d(2),
        *block(2 * channels, 2 * channels),
        layers.MaxPool2d(2),
        layers.Flatten(),
        layers.Linear(2 * channels * (size // 4) ** 2, 10),
    )


def shifted(images: Tensor, generator: torch.Generator) -> Tensor:
    """Move all images of a batch together by up to one pixel, up or down and left or right; background comes in."""
    height, width = images.shape[2:]
    down, right = torch.randint(0, 3, (2,), generator=generator).tolist()
    framed = images.new_full((*images.shape[:2], height + 2, width + 2), images.min().item())
    framed[:, :, 1:-1, 1:-1] = images
    return framed[:, :, down : down + height, right : right + width]


def train_round(
    protocol: DigitsProtocol, data: Images, round: int, on_epoch: Callable[[int, int, float], None] | None = None
) -> Record:
    """Train both networks from the same weights on the same batches, step by step in turn, and test them.

    Returns:
        for each library `seconds`, `loss` (mean per epoch), `train_error`, `test_error` (fractions), `predictions`
        and `confidence` (the probability given to the right class) for each test image; `loss_difference` and
        `weight_difference`, the largest between the libraries, relative to the largest loss or weight; and `filters`,
        the kernels of diy's first convolution.

    Raises:
        DivergenceError: a loss is not finite.
    """
    dtype = torch.float64 if protocol.float64 else torch.float32
    with one_thread(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(1000 * protocol.seed + round)
        generator = torch.Generator().manual_seed(1000 * protocol.seed + round)
        networks = {
            name: build_digits_network(name, data.train_images.shape[2], protocol.channels) for name in LIBRARIES
        }
        networks["torch"].load_state_dict(networks["diy"].state_dict())
        losses, seconds = {name: [] for name in LIBRARIES}, dict.fromkeys(LIBRARIES, 0.0)
        criteria = {"diy": diy.CrossEntropyLoss(), "torch": nn.CrossEntropyLoss()}
        optimizers, schedules = {}, {}
        batches = -(-len(data.train_labels) // protocol.batch_size)
        options = {"lr": protocol.lr, "momentum": protocol.momentum, "weight_decay": protocol.weight_decay}
        for name, sgd, cosine in (
            ("diy", diy.SGD, diy.CosineAnnealingLR),
            ("torch", torch.optim.SGD, torch.optim.lr_scheduler.CosineAnnealingLR),
        ):
            optimizers[name] = sgd(networks[name].to(dtype).parameters(), **options)
            schedules[name] = cosine(optimizers[name], T_max=protocol.epochs * batches)
        networks["diy"][0].needs_input_grad = False

        def step(name: str, images: Tensor, labels: Tensor) -> float:
            start = time.perf_counter()
            loss = criteria[name](networks[name](images), labels)
            optimizers[name].zero_grad()
            if name == "diy":
                networks[name].backward(criteria[name].backward())
            else:
                loss.backward()
            optimizers[name].step()
            schedules[name].step()
            seconds[name] += time.perf_counter() - start
            return loss.item()

        pairs = []
        for epoch in range(1, protocol.epochs + 1):
            totals = dict.fromkeys(LIBRARIES, 0.0)
            for batch in torch.randperm(len(data.train_labels), generator=generator).split(protocol.batch_size):
                images, labels = shifted(data.train_images[batch].to(dtype), generator), data.train_labels[batch]
                pairs.append([step(name, images, labels) for name in LIBRARIES])
                for name, loss in zip(LIBRARIES, pairs[-1]):
                    totals[name] += loss * len(batch)
            for name, total in totals.items():
                losses[name].append(total / len(data.train_labels))
            if not math.isfinite(sum(totals.values())):
                raise DivergenceError(f"round {round + 1}, epoch {epoch}: the loss is not finite; lower --lr")
            if on_epoch:
                on_epoch(round, epoch, losses["diy"][-1])
        record = {name: {"seconds": seconds[name], "loss": losses[name]} for name in LIBRARIES}
        for name, network in networks.items():
            record[name] |= _tested(network.eval(), data, dtype)
        pairs = torch.tensor(pairs, dtype=torch.float64)
        record["loss_difference"] = ((pairs[:, 0] - pairs[:, 1]).abs().max() / pairs.max()).item()
        record["weight_difference"] = max(
            ((ours - theirs).abs().max() / theirs.abs().max()).item()
            for ours, theirs in zip(networks["diy"].parameters(), networks["torch"].parameters())
        )
        record["filters"] = networks["diy"][0].weight[:, 0].tolist()
        return record


def _tested(network, data: Images, dtype: torch.dtype) -> Record:
    guesses = _scores(network, data.train_images, dtype).argmax(1)
    scores, right = _scores(network, data.test_images, dtype), data.test_labels
    return {
        "train_error": (guesses != data.train_labels).double().mean().item(),
        "test_error": (scores.argmax(1) != right).double().mean().item(),
        "predictions": scores.argmax(1).tolist(),
        "confidence": [round(q, 6) for q in scores.softmax(1)[torch.arange(len(right)), right].tolist()],
    }


@torch.no_grad()
def _scores(network, images: Tensor, dtype: torch.dtype) -> Tensor:
    return torch.cat([network(part.to(dtype)) for part in images.split(500)])


# Results on disk

FILE = "digits.json"


def store(protocol: DigitsProtocol, data: Images, directory: str | os.PathLike) -> Store:
    """Return the store of a run in `directory`."""
    parts = data.train_images, data.train_labels, data.test_images, data.test_labels
    images = digest(b"".join(part.numpy().tobytes() for part in parts))
    inputs = {**asdict(protocol), "data": data.name, "images": images}
    return Store(directory, FILE, inputs, diy, sys.modules[__name__])


def load(directory: str | os.PathLike) -> Record:
    """Read `digits.json`: data, protocol, environment, rounds.

    Raises:
        FileNotFoundError: there is no such file.
        ResultsError: it is damaged, or comes from another program or version.
    """
    return read(Path(directory) / FILE)


# The command

TEXTS = {
    "rounds": "trainings, each from other weights",
    "epochs": "passes over the training images",
    "batch_size": "images in a mini-batch",
    "lr": "learning rate at the start",
    "momentum": "of SGD",
    "weight_decay": "of SGD",
    "channels": "of the first convolution",
    "seed": "seed of everything that is random",
    "float64": "double precision; fail unless the libraries agree",
    "validate": "test on a fifth of the training images instead",
}
"""What `--help` says of the values of the protocol."""


def parse(arguments: list[str] | None) -> tuple[argparse.Namespace, DigitsProtocol, Images]:
    """Read and check all arguments, the images and the output directory, before anything is trained."""
    parser, default = Parser(PROG, __doc__, EXAMPLES), DigitsProtocol()
    parser.add_protocol("protocol", default, TEXTS)
    group = parser.add_output("results/digits")
    group.add_argument("--mnist", type=Path, metavar="DIR", help="MNIST, from the four IDX files there (plain or .gz)")
    options = parser.parse_args(arguments)
    protocol = parser.protocol(options, default)
    try:
        data = digits_images() if options.mnist is None else mnist_images(options.mnist)
        data = hold_out(data) if protocol.validate else data
    except DataError as error:
        parser.error(f"argument --mnist: {error}")
    parser.check_output(options.output)
    return options, protocol, data


def main(arguments: list[str] | None = None, rank: int = 0) -> int:
    options, protocol, data = parse(arguments)
    silent = options.quiet or rank != 0
    say = (lambda text: None) if silent else tqdm.write
    say(describe(protocol, data))
    with progress(protocol.rounds * protocol.epochs, "epochs", silent) as bar:

        def on_epoch(round: int, epoch: int, loss: float) -> None:
            bar.set_description(f"round {round + 1}", refresh=False)
            bar.set_postfix_str(f"loss {loss:.4f}", refresh=False)
            bar.update()

        def on_piece(name: str, round: int, record: Record) -> None:
            for library in LIBRARIES:
                own = record[library]
                errors = f"{own['train_error']:>9.2%}{own['test_error']:>9.2%}"
                say(f"{round + 1:>5}  {library:<7}{own['loss'][-1]:>9.4f}{errors}{own['seconds']:>8.1f} s")

        def work(name: str, round: int) -> Record:
            return train_round(protocol, data, round, on_epoch)

        place = store(protocol, data, options.output)
        pieces = [("digits", round) for round in range(protocol.rounds)]
        records = compute(pieces, work, place, options.resume, on_piece)
    if records is None:  # another rank prints and writes
        return 0
    rounds = list(records.values())
    sizes = {"train_size": len(data.train_labels), "test_size": len(data.test_labels)}
    content = {"data": data.name, **sizes, "protocol": asdict(protocol), "environment": environment(), "rounds": rounds}
    written = place.finish(pieces, content)
    print(table(rounds, protocol))
    if not options.no_figures:
        from experiments.digits import figures as digit_figures  # plotting takes seconds to import

        written += digit_figures.save_all(load(options.output), data, options.output)
    say("\nwritten: " + " ".join(map(str, written)))
    worst = max(max(record["loss_difference"], record["weight_difference"]) for record in rounds)
    if protocol.float64 and not worst <= AGREEMENT:
        print(f"{PROG}: the libraries differ by {worst:.0e}, expected {AGREEMENT:.0e} at most", file=sys.stderr)
        return 1
    return 0


def describe(protocol: DigitsProtocol, data: Images) -> str:
    size, test = data.train_images.shape[2], "validation" if protocol.validate else "test"
    precision = "float64" if protocol.float64 else "float32"
    return (
        f"{counted(protocol.rounds, 'round')} of {data.name}: {len(data.train_labels)} training and "
        f"{len(data.test_labels)} {test} images of {size} × {size}, {counted(protocol.epochs, 'epoch')} in batches of "
        f"{protocol.batch_size},\nSGD, learning rate {protocol.lr:g} falling to 0, momentum {protocol.momentum:g}, "
        f"weight decay {protocol.weight_decay:g}, {protocol.channels} channels, seed {protocol.seed}, {precision}\n\n"
        f"round  {'':<7}{'loss':>9}{'train':>9}{test[:5]:>9}{'time':>10}"
    )


def table(rounds: list[Record], protocol: DigitsProtocol) -> str:
    """Return mean ± standard deviation over the rounds for each library, and how far the two are apart."""
    test = "validation" if protocol.validate else "test"
    rows = [f"\n{'':<7}{'train error %':>16}{f'{test} error %':>20}{'time s':>16}"]
    for name in LIBRARIES:
        columns = zip(("train_error", "test_error", "seconds"), (100, 100, 1), (2, 2, 1), (16, 20, 16))
        cells = (f"{spread([f * r[name][key] for r in rounds], digits):>{w}}" for key, f, digits, w in columns)
        rows.append(f"{name:<7}{''.join(cells)}")
    ratio = sum(record["diy"]["seconds"] for record in rounds) / sum(record["torch"]["seconds"] for record in rounds)
    losses, weights = (max(r[f"{what}_difference"] for r in rounds) for what in ("loss", "weight"))
    rows += [
        f"mean ± std over {counted(len(rounds), 'round')}; diy takes {ratio:.2f} times PyTorch's time",
        f"largest relative difference between the two: losses {losses:.0e}, weights {weights:.0e}",
    ]
    return "\n".join(rows)
