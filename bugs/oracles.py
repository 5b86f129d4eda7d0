"""The oracles: different ways to ask whether a framework is right, each blind to some mistakes.

An oracle takes `diy`, or a patched copy of it, and returns its complaints: an empty list for none. An exception counts
as a complaint, because a framework that refuses to work has been found out.
"""

from collections.abc import Callable, Iterator
from functools import cache, wraps
from itertools import islice
from types import ModuleType

import torch
from torch import Tensor, nn

from gradcheck import check_gradients

from .loading import load, load_circle

ORACLES: dict[str, Callable[..., list[str]]] = {}


def oracle(name: str):
    """Enter a function into ORACLES."""

    def register(function: Callable[..., Iterator[str]]) -> Callable[..., list[str]]:
        @wraps(function)
        def ask(diy: ModuleType, circle: ModuleType | None = None, most: int | None = None) -> list[str]:
            complaints = []
            with torch.random.fork_rng(devices=[]):
                torch.default_generator.manual_seed(0)
                try:
                    complaints.extend(islice(function(diy, circle or load_circle(diy)), most))
                except Exception as error:
                    complaints.append(f"{type(error).__name__}: {error}")
            return complaints

        ORACLES[name] = ask
        return ask

    return register


@cache
def complaints(oracle: str, bug: str) -> tuple[str, ...]:
    """Return what an oracle says first about a bug, if anything. It would say the same again: it is asked only once."""
    diy = load(bug)
    return tuple(ORACLES[oracle](diy, load_circle(diy, bug), most=1))


def numbers(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64)


def modules(library: ModuleType) -> list[tuple[object, Tensor]]:
    """One example of each module, all in training mode, with an input that has no ties and stays clear of kinks."""
    examples = [
        (library.Linear(3, 3), numbers(2, 3)),
        (library.Linear(3, 2), numbers(2, 2, 3)),
        (library.ReLU(), numbers(3, 3)),
        (library.Tanh(), numbers(2, 3)),
        (library.Sigmoid(), numbers(2, 3)),
        (library.Dropout(0.4), numbers(3, 3)),
        (library.Sequential(library.Linear(3, 4), library.ReLU(), library.Linear(4, 2), library.Tanh()), numbers(3, 3)),
        (library.Conv2d(2, 2, 2, padding=1), numbers(2, 2, 2, 2)),
        (library.Conv2d(1, 2, (1, 2), stride=2), numbers(1, 1, 3, 4)),
        (library.MaxPool2d(2), numbers(1, 1, 4, 4)),
        (library.MaxPool2d(3, stride=2, padding=1), numbers(1, 2, 3, 3) - 3),
        (library.BatchNorm2d(2), numbers(3, 2, 2, 1)),
        (library.Flatten(), numbers(2, 2, 1, 2)),
    ]
    return [(module.to(torch.float64), input) for module, input in examples]


def losses(library: ModuleType) -> list[tuple[object, Tensor, Tensor]]:
    """One example of each loss and reduction."""
    return [
        example
        for reduction in ("mean", "sum")
        for example in (
            (library.MSELoss(reduction=reduction), numbers(3, 2), numbers(3, 2)),
            (library.CrossEntropyLoss(reduction=reduction), numbers(2, 3), torch.arange(2)),
        )
    ]


@oracle("finite differences")
def finite_differences(diy: ModuleType, circle: ModuleType) -> Iterator[str]:
    """Every backward against the slopes of its own forward: `check_gradients` on an example of each module and loss."""
    for module, *example in modules(diy) + losses(diy):
        for verdict in check_gradients(module, *example, verbose=False).verdicts:
            if not verdict.right:
                yield f"{type(module).__name__}: {verdict}"


@oracle("autograd")
def autograd(diy: ModuleType, circle: ModuleType) -> Iterator[str]:
    """Every forward and backward against PyTorch's, on one example of each module and loss, used once."""
    for (ours, input), (theirs, _) in zip(modules(diy), modules(nn)):
        theirs.load_state_dict(ours.state_dict())
        leaf = input.clone().requires_grad_()
        torch.default_generator.manual_seed(1)
        output = ours(input.clone())
        torch.default_generator.manual_seed(1)
        expected = theirs(leaf)
        above = numbers(*expected.shape)
        expected.backward(above)
        yield from differences(type(ours).__name__, "output", output, expected)
        yield from differences(type(ours).__name__, "gradient of the input", ours.backward(above), leaf.grad)
        for (name, parameter), other in zip(ours.named_parameters(), theirs.parameters()):
            yield from differences(type(ours).__name__, f"gradient of {name}", parameter.grad, other.grad)
    for (ours, input, target), (theirs, _, _) in zip(losses(diy), losses(nn)):
        leaf = input.clone().requires_grad_()
        loss = theirs(leaf, target)
        loss.backward()
        yield from differences(type(ours).__name__, "loss", ours(input, target), loss)
        yield from differences(type(ours).__name__, "gradient", ours.backward(), leaf.grad)


@oracle("side by side")
def side_by_side(diy: ModuleType, circle: ModuleType) -> Iterator[str]:
    """Twenty training steps beside PyTorch, from the same weights on the same batches: the same losses and weights."""
    for build, optimizer, options, criterion, input, target in (
        (
            lambda library: library.Sequential(
                library.Linear(2, 6), library.ReLU(), library.Dropout(0.2), library.Linear(6, 2), library.Tanh()
            ),
            "SGD",
            {"lr": 0.2, "momentum": 0.9, "weight_decay": 0.01},
            "MSELoss",
            numbers(20, 10, 2),
            numbers(20, 10, 2),
        ),
        (
            lambda library: library.Sequential(
                library.Conv2d(1, 3, 3, padding=1),
                library.BatchNorm2d(3),
                library.ReLU(),
                library.MaxPool2d(2),
                library.Flatten(),
                library.Linear(12, 3),
            ),
            "Adam",
            {"lr": 0.01},
            "CrossEntropyLoss",
            numbers(20, 10, 1, 4, 4),
            torch.randint(3, (20, 10)),
        ),
    ):
        ours, theirs = build(diy).to(torch.float64), build(nn).double()
        theirs.load_state_dict(ours.state_dict())
        a = getattr(diy, optimizer)(ours.parameters(), **options)
        b = getattr(torch.optim, optimizer)(theirs.parameters(), **options)
        our_loss, their_loss = getattr(diy, criterion)(), getattr(nn, criterion)()
        for step in range(20):
            torch.default_generator.manual_seed(step)
            loss = our_loss(ours(input[step]), target[step])
            a.zero_grad()
            ours.backward(our_loss.backward())
            a.step()
            torch.default_generator.manual_seed(step)
            expected = their_loss(theirs(input[step]), target[step])
            b.zero_grad()
            expected.backward()
            b.step()
            yield from differences(f"{optimizer}, step {step}", "loss", loss, expected)
        for (name, parameter), other in zip(ours.named_parameters(), theirs.parameters()):
            yield from differences(f"{optimizer}, after 20 steps", name, parameter, other)


@cache
def handwritten() -> tuple[Tensor, Tensor]:
    """Images of handwritten digits, (1797, 1, 8, 8), and what they show."""
    from sklearn.datasets import load_digits  # not above: it takes a second, and only "training" needs it

    images, digits = load_digits(return_X_y=True)
    return torch.as_tensor(images, dtype=torch.float32).view(-1, 1, 8, 8) / 16, torch.as_tensor(digits)


@oracle("training")
def training(diy: ModuleType, circle: ModuleType) -> Iterator[str]:
    """Two networks learn: the report's, with dropout, the disk; a small convolutional one, handwritten digits.

    The bounds are those of somebody who only checks that it works at all: a right framework gets 3 % and 13 %.
    """
    torch.default_generator.manual_seed(2)
    generator = torch.Generator().manual_seed(2)
    points, labels = circle.disk_data(1000, generator)
    test_points, test_labels = circle.disk_data(1000, generator)
    network, recipe = circle.build_network("diy", dropout=0.2), circle.MODELS["diy-dropout"]
    circle.train(network, recipe, circle.Protocol(), points, circle.one_hot(labels), generator)
    error = circle.error_rate(network, test_points, test_labels)
    if not error <= 0.25:
        yield f"the disk: a test error of {error:.1%} after 100 epochs, expected 25 % at most"

    images, digits = handwritten()
    layers = [diy.Conv2d(1, 8, 3, padding=1), diy.BatchNorm2d(8), diy.ReLU(), diy.MaxPool2d(2)]
    network = diy.Sequential(*layers, diy.Flatten(), diy.Linear(128, 10))
    criterion, optimizer = diy.CrossEntropyLoss(), diy.Adam(network.parameters(), lr=0.01)
    for _ in range(2):
        for rows in torch.randperm(1000, generator=generator).split(50):
            criterion(network(images[rows]), digits[rows])
            optimizer.zero_grad()
            network.backward(criterion.backward())
            optimizer.step()
    network.eval()
    error = (network(images[1000:]).argmax(1) != digits[1000:]).double().mean().item()
    if not error <= 0.3:
        yield f"the digits: a test error of {error:.1%} after 2 epochs, expected 30 % at most"


def differences(where: str, what: str, ours: Tensor | None, theirs: Tensor) -> Iterator[str]:
    """Yield a sentence if two tensors are not equal, up to rounding in float64."""
    theirs = theirs.detach()
    if ours is None or ours.shape != theirs.shape:
        got = "missing" if ours is None else f"of shape {tuple(ours.shape)}"
        yield f"{where}: the {what} is {got}, expected {tuple(theirs.shape)}"
    elif not torch.allclose(ours, theirs, rtol=1e-9, atol=1e-9):
        difference = (ours - theirs).abs()
        index = tuple(int(i) for i in torch.unravel_index(difference.nan_to_num(torch.inf).argmax(), difference.shape))
        at = f" at {index}" if index else ""
        yield f"{where}: the {what}{at} is {ours[index]:.6g}, expected {theirs[index]:.6g}"
