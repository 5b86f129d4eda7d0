"""The free edition, as in 2019: students design the framework themselves, and an adapters.py says how to use it.

What the assignment leaves open costs nothing: weights of shape (in, out) or (out, in), biases (out,), (1, out) or
(out, 1), samples as columns or one by one, gradients that are added or replaced, what a list of parameters looks like,
and what a loss divides by. What does cost points is a gradient that is not the derivative of what forward returns.
"""

import itertools
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from classroom.items import SHARED, Ask, Item, randn, second
from classroom.reasons import WrongError, out_of_order, same, slopes, unchanged

TOLERANCE = 1e-4  # the numbers are float32, as in the assignment
SAMPLES = 7  # unlike every other dimension, here and below, so that its shape tells what a tensor is

ADAPTERS = '''"""How to use your framework: the grader imports this file. Change whatever is different in yours."""

from framework import Linear, LossMSE, ReLU, Sequential, Tanh  # Linear(inputs, outputs), Sequential(*modules)

SAMPLES = "rows"  # how a batch holds its samples: "rows", "columns" or "one by one"


def parameters(module):
    """Return all parameters and gradients of a module, in any structure, each parameter before its gradient."""
    return module.param()


def step(network, rate):
    """Take one step of gradient descent, and set the gradients to zero."""
    for parameter, gradient in network.param():
        parameter -= rate * gradient
        gradient.zero_()
'''

STATEMENT = """# Write a deep-learning framework of your own

Design and write a small framework that builds networks, runs them forward and backward, and trains them. You may use
PyTorch's tensors and Python's standard library, but not automatic differentiation or `torch.nn`, which you are to
replace: your code must work with autograd switched off.

It needs at least a fully connected layer, ReLU, Tanh, a way to put modules one after another, and the mean squared
error. A module could have three methods: `forward`; `backward`, which takes the gradient of the loss with respect to
the output and returns the one with respect to the input; and `param`, which lists each parameter with its gradient.
This is only a suggestion; the interface is up to you.

Hand in a folder with

- your framework, in as many files as you like;
- `adapters.py`, which tells the grader how to use it. Often you need to change only its import; if your interface is
  different, a class of a few lines helps;
- `test.py`, which runs without arguments: 1,000 points for training and 1,000 for testing, drawn uniformly from
  [0, 1]², of class 1 inside the disk of radius 1/√(2π) around the centre of the square and of class 0 outside; a
  network of two inputs, three hidden layers of 25 units and two outputs, trained with the mean squared error. It
  prints the loss during training, and the errors on both sets at the end;
- a report of two or three pages.

Whether weights are (in, out) or (out, in), whether gradients are added or replaced, and what the loss is divided by
are up to you. But `backward` must return the derivative of what `forward` returns: a loss that is divided by 200 has a
gradient that is divided by 200.

    pip install torch
    python grade.py        # in this folder; checks what you have, as often as you like

## Points

"""


# A layer, with its weights as they are found in the reply


def _find(tensors: list, shapes: list[tuple[int, ...]]) -> list[Tensor]:
    return [value for _, value in tensors if tuple(value.shape) in shapes]


def _weights(n_in: int, n_out: int) -> list[tuple[int, ...]]:
    return [(n_out, n_in), (n_in, n_out)]


def _biases(n_out: int) -> list[tuple[int, ...]]:
    return [(n_out,), (1, n_out), (n_out, 1)]


class Layers:
    """The fully connected layers of a reply, with weights as (out, in), and autograd through them."""

    def __init__(self, tensors: list, sizes: list[int]):
        self.sizes = sizes
        self.found = []  # for each layer: the candidates for its weight, and for its bias
        for n_in, n_out in itertools.pairwise(sizes):
            weights, biases = _find(tensors, _weights(n_in, n_out)), _find(tensors, _biases(n_out))
            if not weights:
                raise WrongError(f"no tensor of shape ({n_in}, {n_out}) or ({n_out}, {n_in}) is among the parameters")
            self.found.append((weights, biases))
        # The parameter comes first; what has its shape and comes later is its gradient.
        self.weights = [self._as_out_in(w[0], k).clone().requires_grad_() for k, (w, _) in enumerate(self.found)]
        self.biases = [
            (b[0].flatten() if b else torch.zeros(n)).clone().double().requires_grad_()
            for (_, b), n in zip(self.found, sizes[1:])
        ]

    def _as_out_in(self, tensor: Tensor, layer: int) -> Tensor:
        n_in, n_out = self.sizes[layer : layer + 2]
        return (tensor if tuple(tensor.shape) == (n_out, n_in) else tensor.T).double()

    def output(self, x: Tensor) -> Tensor:
        for k, (w, b) in enumerate(zip(self.weights, self.biases)):
            x = x @ w.T + b
            x = x.tanh() if k < len(self.weights) - 1 else x
        return x

    def gradient(self, x: Tensor, above: Tensor, x_too: bool = False) -> tuple[Tensor, ...]:
        """Return the right gradients: weight and bias of each layer in turn, and of the input if it is asked for."""
        own = x.clone().requires_grad_()
        parameters = [p for pair in zip(self.weights, self.biases) for p in pair]
        return torch.autograd.grad(self.output(own), [*parameters, *([own] if x_too else [])], above)

    def gradients(self, tensors: list, layer: int, kind: str) -> list[Tensor]:
        """Return what may be the gradient of a "weight" or a "bias", among tensors found after backward."""
        n_in, n_out = self.sizes[layer : layer + 2]
        values = _find(tensors, _weights(n_in, n_out) if kind == "weight" else _biases(n_out))
        values = [self._as_out_in(v, layer) if kind == "weight" else v.flatten().double() for v in values]
        return values[1:]


def _passes(x: Tensor, above: Tensor, back: bool) -> list[dict[str, Tensor]]:
    """Another batch comes first, so that what is kept from it and used again does harm."""
    numbers = [{"input": second(x), "gradient": second(above)}, {"input": x, "gradient": above}]
    numbers = [{**one, "between": between(x)} for one in numbers]
    return numbers if back else [{"input": one["input"]} for one in numbers]


def between(x: Tensor) -> Tensor:
    """Return what another object of the class gets between forward and backward."""
    return 0.6 * x.roll(2, 0)


def _layer(ask: Ask, generator: torch.Generator, sizes: list[int], back: bool | None = True) -> tuple:
    """Ask for a Linear, or for several with Tanh between them; with back=None, only for their parameters."""
    x = randn(generator, SAMPLES, sizes[0]).float()
    above = randn(generator, SAMPLES, sizes[-1]).float()
    spec: dict[str, Any] = {"class": "Linear", "args": sizes}
    if len(sizes) > 2:
        parts = [{"class": "Linear", "args": list(pair)} for pair in itertools.pairwise(sizes)]
        spec = {"layers": [part for one in parts for part in (one, {"class": "Tanh"})][:-1]}
    reply = ask("own_layer", {**spec, "passes": [] if back is None else _passes(x, above, back), "seed": 1})
    return reply, Layers(reply["before"], sizes), x.double(), above.double()


def linear_forward(ask: Ask, generator: torch.Generator) -> None:
    reply, layers, x, _ = _layer(ask, generator, [4, 3], back=False)
    (weight,), (bias,) = layers.weights, layers.biases
    without = x @ weight.T

    def others() -> dict[str, Tensor]:
        return {
            "the bias is not added": without,
            "the bias is added twice": without + 2 * bias,
            "the bias is subtracted": without - bias,
        }

    same("the output", reply["output"], layers.output(x).detach(), tolerance=TOLERANCE, known=others)
    unchanged("forward", "its input", reply["input_after"], x.float().double())
    alone = ask("own_layer", {"class": "Linear", "args": [4, 3], "passes": [{"input": x[:1]}], "seed": 1})
    expected = Layers(alone["before"], [4, 3]).output(x[:1]).detach()
    same("the output for a batch of one", alone["output"], expected, tolerance=TOLERANCE)


def linear_backward(kind: str) -> Callable[[Ask, torch.Generator], None]:
    def test(ask: Ask, generator: torch.Generator) -> None:
        reply, layers, x, above = _layer(ask, generator, [4, 3])
        sizes = {"samples": SAMPLES, "components": above.numel()}
        if kind == "input":
            expected = layers.gradient(x, above, x_too=True)[-1]
            same("∂ℓ/∂(input)", reply["input_gradient"], expected, sizes, TOLERANCE)
            return
        _gradient(f"the gradient of the {kind}", reply, layers, 0, kind, x, above, sizes)

    return test


def _gradient(
    words: str, reply: dict, layers: Layers, layer: int, kind: str, x: Tensor, above: Tensor, sizes: dict
) -> None:
    """Look for a gradient; after the second backward it may be that of the second batch, or the sum of both."""
    place = 2 * layer + (kind == "bias")
    first, last = layers.gradient(second(x), second(above))[place], layers.gradient(x, above)[place]
    for after, allowed in zip(reply["after"], ([first], [last, first + last])):
        found = layers.gradients(after, layer, kind)
        if not found:
            ones = [float(value) for _, value in after if value.numel() == 1]
            if any(
                math.isclose(v, float(e), rel_tol=1e-3) for v in ones for e in (allowed[0].mean(), allowed[0].sum())
            ):
                raise WrongError(f"{words} is one number for all components")
            raise WrongError(f"{words} is not found: parameters(module) gives nothing of its shape but the {kind}")
        reasons = []
        for got, expected in itertools.product(found, allowed):
            try:
                known = {SHARED: layers.gradient(between(x), second(above))[place]}
                same(words, got, expected, sizes, TOLERANCE, known=known)
                break
            except WrongError as wrong:
                reasons.append(wrong)
        else:
            if len(allowed) > 1:
                raise WrongError(f"{words}: a second backward, of another batch, must replace it or add to it")
            raise reasons[0]


def activation(name: str, back: bool, scale: float = 1.0) -> Callable[[Ask, torch.Generator], None]:
    def test(ask: Ask, generator: torch.Generator) -> None:
        x = (scale * randn(generator, SAMPLES, 4)).float()
        above = randn(generator, SAMPLES, 4).float()
        spec = {"class": name, "passes": _passes(x, above, back), "seed": 1}
        reply, own, oracle = ask("own_layer", spec), x.double().requires_grad_(), getattr(torch, name.lower())
        output = oracle(own)
        if not back:
            same("the output", reply["output"], output.detach(), tolerance=TOLERANCE)
            unchanged("forward", "its input", reply["input_after"], x.double())
            return
        output.backward(above.double())
        others = {SHARED: torch.func.vjp(oracle, between(own.detach()))[1](above.double())[0]}
        others |= slopes(name, oracle, own.detach(), above.double())
        same("∂ℓ/∂(input)", reply["input_gradient"], own.grad, {"samples": SAMPLES}, TOLERANCE, known=others)

    return test


def sequential_forward(ask: Ask, generator: torch.Generator) -> None:
    def whole() -> None:
        reply, layers, x, _ = _layer(ask, generator, [4, 5, 3], back=False)
        same("the output", reply["output"], layers.output(x).detach(), tolerance=TOLERANCE)

    _or_with_probes(ask, generator, whole, back=False)


def sequential_backward(ask: Ask, generator: torch.Generator) -> None:
    def whole() -> None:
        reply, layers, x, above = _layer(ask, generator, [4, 5, 3])
        if reply["input_gradient"] is not None:
            expected = layers.gradient(x, above, x_too=True)[-1]
            same("∂ℓ/∂(input)", reply["input_gradient"], expected, {"samples": SAMPLES}, TOLERANCE)
        for layer, kind in itertools.product(range(2), ("weight", "bias")):
            words = f"the gradient of the {kind} of layer {layer + 1}"
            _gradient(words, reply, layers, layer, kind, x, above, {"samples": SAMPLES})

    _or_with_probes(ask, generator, whole, back=True)


def _or_with_probes(ask: Ask, generator: torch.Generator, test: Callable[[], None], back: bool) -> None:
    """Run a test; where it fails, ask whether the mistake is the Sequential's own, with modules that are right."""
    try:
        test()
    except WrongError as wrong:
        x, above = randn(generator, SAMPLES, 4).float(), randn(generator, SAMPLES, 4).float()
        probes = {"layers": [{"probe": 2.0}, {"probe": -3.0}, {"probe": 5.0}], "seed": 1}
        try:
            reply = ask("own_layer", {**probes, "passes": _passes(x, above, back)})
        except WrongError:
            raise wrong from None
        x, above = x.double(), above.double()
        parts = [lambda x, f=factor: f * x + f for factor in (2.0, -3.0, 5.0)]
        got, start = (reply["input_gradient"], above) if back else (reply["output"], x)
        if got is None:
            raise wrong from None
        expected = start
        for part in parts[::-1] if back else parts:
            expected = part(expected)
        words = "∂ℓ/∂(input)" if back else "the output"
        same(words, got, expected, tolerance=TOLERANCE, known=out_of_order(parts, start, back))


# The loss


def _loss(ask: Ask, generator: torch.Generator, samples: int = SAMPLES, outputs: int = 3) -> tuple:
    prediction, target = randn(generator, samples, outputs).float(), randn(generator, samples, outputs).float()
    reply = ask("own_loss", {"prediction": prediction, "target": target, "between": between(prediction)})
    return reply, prediction.double(), target.double()


def _divisors(samples: int, outputs: int) -> dict[str, float]:
    """What a squared error may be divided by."""
    whole = {"1": 1.0, "N": float(samples), "M": float(samples * outputs), "M/N": float(outputs)}
    return whole | {f"2{'' if name == '1' else name}": 2 * value for name, value in whole.items()}


def _reported(reply: dict, total: Tensor, samples: int, outputs: int) -> set[str]:
    value = reply["value"]
    if not isinstance(value, Tensor) or value.numel() != 1 or not value.isfinite().all():
        raise WrongError(f"the loss must be a finite number, got {getattr(value, 'tolist', lambda: value)()}")
    return {
        name
        for name, divisor in _divisors(samples, outputs).items()
        if math.isclose(float(value), float(total) / divisor, rel_tol=TOLERANCE)
    }


def loss_value(ask: Ask, generator: torch.Generator) -> None:
    names = set(_divisors(1, 1))
    for samples, outputs in ((SAMPLES, 3), (5, 4)):
        reply, prediction, target = _loss(ask, generator, samples, outputs)
        total = (prediction - target).square().sum()
        names &= _reported(reply, total, samples, outputs)
        if not names:
            value = float(reply["value"])
            raise WrongError(
                "the loss is not a squared error, summed or divided by the number of samples or components: for "
                f"{samples} samples of {outputs} numbers it is {value:.6g}, the sum {float(total):.6g}"
            )
        unchanged("the loss", "the prediction", reply["prediction_after"], prediction)


def loss_gradient(ask: Ask, generator: torch.Generator) -> None:
    for samples, outputs in ((SAMPLES, 3), (5, 4)):
        reply, prediction, target = _loss(ask, generator, samples, outputs)
        difference, divisors = prediction - target, _divisors(samples, outputs)
        # If the value itself is wrong, which costs points already, any of the derivatives will do.
        names = _reported(reply, difference.square().sum(), samples, outputs) or set(divisors)
        wrongs = []
        for name in sorted(names):
            sizes = {"samples": samples, "components": samples * outputs}
            try:
                known = {SHARED: 2 * (between(prediction) - target) / divisors[name]}
                same("the gradient", reply["gradient"], 2 * difference / divisors[name], sizes, TOLERANCE, known=known)
                break
            except WrongError as wrong:
                by = f", the squared error divided by {name}" if name != "1" else ", the summed squared error"
                wrongs.append(WrongError(f"it is not the derivative of the loss that you report{by}: {wrong}"))
        else:
            raise wrongs[0]


# All together


def tells_parameters(ask: Ask, generator: torch.Generator) -> None:
    reply, layers, _, _ = _layer(ask, generator, [4, 3])
    if not reply["told"]:
        raise WrongError("parameters(module) gives no tensor for a Linear: no optimizer could change it")
    if not layers.found[0][1]:
        raise WrongError("the parameters of a Linear must include its bias: for 3 outputs, a tensor of 3 numbers")
    if not layers.gradients(reply["after"][0], 0, "weight") or not layers.gradients(reply["after"][0], 0, "bias"):
        raise WrongError("after backward, every parameter of a Linear must come with a gradient of its shape")
    reply, layers, _, _ = _layer(ask, generator, [4, 5, 3], back=None)
    if not reply["told"] or any(not biases for _, biases in layers.found):
        raise WrongError("parameters(Sequential) does not give the parameters of all layers")


def learns(ask: Ask, generator: torch.Generator) -> None:
    x = 2 * torch.rand(1000, 2, generator=generator) - 1
    test = 2 * torch.rand(500, 2, generator=generator) - 1
    inside, truth = ((points.square().sum(1) < 2 / math.pi).long() for points in (x, test))
    spec = {"seed": 1, "epochs": 40, "input": x, "target": torch.eye(2)[inside], "test": test}
    errors = []
    for rate in (0.001, 0.0002, 0.02):  # the first weights are the framework's own, and may need another rate
        output = ask("own_training", {**spec, "lr": rate})["output"]
        errors.append((output.argmax(1) != truth).double().mean().item() if output.isfinite().all() else 1.0)
        if errors[-1] < 0.15:
            return
    raise WrongError(
        f"at the best of three learning rates, it labels {min(errors):.0%} of the test points wrongly after training, "
        "expected less than 15%"
    )


def _item(stage: int, points: int, what: str, owner: str | None, test: Callable) -> Item:
    return Item(stage, points, (), what, (owner,) if owner else None, test)


FREE = [
    _item(1, 8, "Linear forward: for a batch", "Linear", linear_forward),
    _item(1, 4, "ReLU forward", "ReLU", activation("ReLU", back=False)),
    _item(1, 3, "Tanh forward", "Tanh", activation("Tanh", back=False)),
    _item(1, 2, "Tanh forward for large numbers", "Tanh", activation("Tanh", back=False, scale=300)),
    _item(1, 5, "Sequential forward: every module, in order", "Sequential", sequential_forward),
    _item(2, 6, "LossMSE: a squared error, divided by what you like", "LossMSE", loss_value),
    _item(2, 12, "LossMSE backward: the derivative of the loss that you report", "LossMSE", loss_gradient),
    _item(3, 10, "Linear backward: the gradient of the weights", "Linear", linear_backward("weight")),
    _item(3, 6, "Linear backward: the gradient of the bias", "Linear", linear_backward("bias")),
    _item(3, 8, "Linear backward: the gradient of the input", "Linear", linear_backward("input")),
    _item(3, 6, "ReLU backward", "ReLU", activation("ReLU", back=True)),
    _item(3, 6, "Tanh backward", "Tanh", activation("Tanh", back=True)),
    _item(3, 8, "Sequential backward: from the last module to the first", "Sequential", sequential_backward),
    _item(3, 4, "parameters: all of them, each with its gradient", "parameters", tells_parameters),
    _item(-1, 12, "a network that learns the circle: all of it together", None, learns),
]
"""The items of the free edition, 100 points."""


def statement() -> str:
    return STATEMENT + "\n".join(f"- {item.what}: {item.points}" for item in FREE) + "\n"
