"""What is wrong with the numbers of a submission, in words.

Each known mistake is a tensor: what PyTorch gives with this mistake in it. A reason is named only if it agrees with all
numbers that came back.
"""

import contextlib
import copy
import itertools
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from gradcheck import compare, digits

TOLERANCE = 1e-5
"""Relative: what float32 inside a submission may cost. Formulas in float64 come to 1e-14."""


class WrongError(Exception):
    """A submission's answer is not right; the message says how."""

    state = "wrong"


class TodoError(WrongError):
    """A gap is still a gap."""

    state = "todo"

    @property
    def formulas(self) -> list[str]:
        return re.findall(r"F\d+", str(self))


class StoppedError(WrongError):
    """The submission gave no answer: it looped, or ended its process."""

    state = "stopped"


def same(
    what: str,
    got: Any,
    expected: Tensor,
    sizes: Mapping[str, int] | None = None,
    tolerance: float = TOLERANCE,
    known: Mapping[str, Tensor] | Callable[[], Mapping[str, Tensor]] = {},  # noqa: B006
    otherwise: Callable[[Tensor], str] = lambda got: "",
) -> float:
    """Compare, and say in words how they differ; return the largest error, relative to the largest component.

    Args:
        sizes: see `gradcheck.compare`.
        known: what each mistake, by its name, would give, or a function that returns this.
        otherwise: says what the numbers are if no mistake is known that gives them, see `formula`.

    Raises:
        WrongError: they differ.
    """
    if isinstance(got, float) and expected.dim() == 0:
        got = torch.tensor(got, dtype=torch.float64)
    if got is None:
        raise WrongError(f"{what} is None, expected a tensor of shape {tuple(expected.shape)}")
    if isinstance(got, dict):
        raise WrongError(f"{what} must be a tensor, got a {got.get('kind', 'dict')}")
    reasons = compare(got, expected, sizes, tolerance=tolerance)
    if not isinstance(got, Tensor) or got.shape != expected.shape:
        raise WrongError(f"{what}: {'; '.join(reasons + _lost_dimension(got, expected))}")
    # A difference of large numbers in float32 is wrong by a share of those, not of itself.
    error, largest = float((got - expected).abs().nan_to_num(torch.inf).max()), float(expected.abs().max())
    if not reasons or error <= tolerance / 10 * largest:
        return error / largest if largest else 0.0

    def agrees(value: Tensor) -> bool:
        finite = value.shape == got.shape and bool(value.isfinite().all())
        if finite and not compare(value.detach(), expected, tolerance=tolerance):
            return False  # a mistake that gives the right numbers explains nothing
        # A single number may be close to another one by chance.
        return finite and not compare(got, value.detach(), tolerance=10 * tolerance if got.numel() > 1 else 1e-6)

    factor = re.search(r" times \S+, (.*)", reasons[0])  # one that has a name
    if not factor or (got.numel() == 1 and factor[1] == "the sign is wrong"):
        guesses = {**(known() if callable(known) else known), **_whatever_the_formula(expected)}
        named = next((name for name, value in guesses.items() if agrees(value)), "")
        if not named and reasons[0].startswith("wrong in"):
            constant = got.numel() > 1 and got.unique().numel() == 1 < expected.unique().numel()
            named = "it is one number for all components" if constant else otherwise(got)
        if named:
            reasons = [named]
        elif bool((~got.isfinite() & expected.isfinite()).any()):
            reasons += ["a number on the way became too large: an overflow"]
        elif got.numel() == 1 and " times " in reasons[0]:
            reasons = ["it is another number"]  # and each is some multiple of each other
    raise WrongError(f"{what}: {'; '.join(reasons)}{_beside(got, expected)}")


def unchanged(who: str, what: str, after: Tensor, before: Tensor) -> None:
    if not torch.equal(after, before):
        raise WrongError(f"{who} overwrites {what}: it must change a copy, because others still need it")


def _beside(got: Tensor, expected: Tensor) -> str:
    """Show the component that is farthest off, yours and the expected one."""
    place = (got - expected).abs().nan_to_num(torch.inf).argmax()
    index = [int(n) for n in torch.unravel_index(place, expected.shape)] if expected.dim() else ""
    yours, right = digits(got.flatten()[place].item(), expected.flatten()[place].item())
    return f" (yours{index}: {yours}, expected: {right})"


def _lost_dimension(got: Any, expected: Tensor) -> list[str]:
    if not isinstance(got, Tensor) or not expected.dim() or len(expected) < 2:
        return []
    ways = {"summed": expected.sum(0), "averaged": expected.mean(0)}
    ways |= {"summed to one number": expected.sum(), "averaged to one number": expected.mean(0).mean()}
    fits = [how for how, v in ways.items() if v.shape == got.squeeze().shape and torch.allclose(got.squeeze(), v, 1e-4)]
    return [f"its dimension 0 was {how}" for how in fits[:1]]


def _whatever_the_formula(expected: Tensor) -> dict[str, Tensor]:
    found = {"every number has lost its sign": expected.abs(), "every number is squared": expected.square()}
    if expected.dim() > 1:
        for how, value in (("averaged", expected.mean(0)), ("summed", expected.sum(0))):
            found[f"all samples get the same: it was {how} over the batch"] = value.expand_as(expected)
        found["the samples are in the opposite order"] = expected.flip(0)
    if expected.dim() == 2:
        found["it is the transpose, reshaped to the right shape"] = expected.T.reshape(expected.shape)
    return found


def formula(got: Tensor, letters: Mapping[str, tuple[str, Tensor]], degree: int = 3) -> str:
    """Return a sum of up to three products of letters that gives just these numbers; nothing if there is none.

    Args:
        letters: what each letter stands for, in words and in numbers of the shape of `got`.
        degree: the most letters in a product.
    """
    terms, numbers = {}, got.flatten()
    for count in range(degree + 1):
        for product in itertools.combinations_with_replacement(letters, count):
            factors = [letters[letter][1].detach() for letter in product]
            terms[" ".join(product)] = torch.stack([torch.ones_like(got), *factors]).prod(0).flatten()
    # With as many numbers as twice the terms, a sum does not fit by chance.
    most = min(3, (len(numbers) - 2) // 2) if bool(got.isfinite().all()) else 0
    for names in itertools.chain.from_iterable(itertools.combinations(terms, count + 1) for count in range(most)):
        matrix = torch.stack([terms[name] for name in names], 1)
        factors = torch.linalg.lstsq(matrix, numbers[:, None]).solution.flatten()
        if bool((factors.abs() > 1e-3).all()) and not compare(matrix @ factors, numbers):
            words = " ".join(_term(float(factor), name) for factor, name in zip(factors, names)).removeprefix("+ ")
            used = [f"{letter} is {about}" for letter, (about, _) in letters.items() if letter in " ".join(names)]
            return (
                f"it is {words}, where {' and '.join(filter(None, [', '.join(used[:-1]), *used[-1:]]))}" if used else ""
            )
    return ""


def _term(factor: float, name: str) -> str:
    size = "" if name and abs(abs(factor) - 1) < 1e-6 else f"{abs(factor):.6g}"
    return f"{'−' if factor < 0 else '+'} {' · '.join(filter(None, [size, *name.split()]))}"


# What each mistake would give


@torch.no_grad()
def outputs(name: str, network: nn.Module, x: Tensor) -> dict[str, Tensor]:
    """What comes out of a module that does nothing, or its work twice; of a layer without its bias; and of a network
    whose modules are not called as they should be."""
    found = {"it is the input, unchanged": x}
    with contextlib.suppress(RuntimeError):  # sizes that do not fit
        found[f"as if {name} had been applied twice"] = network(network(x))
    if isinstance(network, nn.Sequential):
        found |= out_of_order(list(network), x)
    elif name in ("ReLU", "Tanh", "Sigmoid"):
        found["it is the absolute value of the input"] = x.abs()
        found["as if the input were halved"], found["as if the input were doubled"] = network(x / 2), network(2 * x)
        found["it is the sigmoid"], found["it is tan"] = torch.sigmoid(x), torch.tan(x)
    elif getattr(network, "bias", None) is not None:
        without, output = copy.deepcopy(network), network(x)
        without.bias.zero_()
        found["the bias is not added"] = without(x)
        found["the bias is added twice"] = 2 * output - without(x)
        found["the bias is subtracted"] = 2 * without(x) - output
    return found


def out_of_order(parts: Sequence[Callable], start: Tensor, back: bool = False) -> dict[str, Tensor]:
    """What comes out of modules that are not called as they should be.

    Args:
        parts: what each module does, from the first to the last.
        start: what the first one gets, or on the way back the last one.
    """
    way = " on the way back" if back else ""
    orders = {
        f"the first module is left out{way}": parts[1:],
        f"the last module is left out{way}": parts[:-1],
        f"only the first module counts{way}": parts[:1],
        f"only the last module counts{way}": parts[-1:],
        f"the modules run from the {'first to the last' if back else 'last to the first'}{way}": parts[::-1],
    }
    found = {}
    for words, order in orders.items():
        with contextlib.suppress(RuntimeError):  # sizes that do not fit
            value = start
            for part in order[::-1] if back else order:
                value = part(value)
            found[words] = value
    return found


def gradients(
    name: str, network: nn.Module, x: Tensor, g: Tensor, only: str, total: Callable[..., Tensor]
) -> dict[str, Tensor]:
    """What a gradient becomes; `total` computes it from gradients from above that are changed."""

    def only_one(k: int) -> Callable[[Tensor], Tensor]:
        return lambda g: torch.zeros_like(g).index_copy(0, torch.tensor([k % len(g)]), g[k][None])

    found = {
        "it is the gradient from above, unchanged": g,
        "the gradient from above is not used": total(torch.ones_like),
    }
    for k, which in ((0, "first"), (-1, "last")):
        found[f"only the {which} sample counts: the sum over the batch is missing"] = total(only_one(k))
    if is_activation(network):
        found |= slopes(name, network, x, g)
    if isinstance(network, nn.Linear) and only == "input" and network.in_features == network.out_features:
        found["the weights are transposed"] = g @ network.weight.detach().T
    if isinstance(network, nn.Sequential) and only == "input":
        ways, inputs = [], x
        for module in network:
            own = inputs.detach().clone().requires_grad_()
            inputs = module(own)
            ways.append(lambda g, own=own, output=inputs: torch.autograd.grad(output, own, g, retain_graph=True)[0])
        found |= out_of_order(ways, g, back=True)
        own = x.clone().requires_grad_()
        with contextlib.suppress(RuntimeError):
            turned = nn.Sequential(*reversed(network))(own)
            found["after backward, the modules are in another order"] = torch.autograd.grad(turned, own, g)[0]
    return found


def is_activation(network: nn.Module) -> bool:
    return type(network).__module__ == "torch.nn.modules.activation"


def slopes(name: str, oracle: Callable, s: Tensor, above: Tensor) -> dict[str, Tensor]:
    """What comes back through an activation whose slope is confused with something else."""

    def slope(at: Tensor) -> Tensor:
        own = at.clone().requires_grad_()
        return torch.autograd.grad(oracle(own).sum(), own)[0]

    right, x = slope(s), oracle(s)
    found = {
        "the slope is 1 everywhere": above,
        "it is only the slope, not multiplied by the gradient from above": right,
        f"the slope is taken at the output, as if {name} had been applied twice": above * slope(x),
        "the input is used in place of the slope": above * s,
        "the output is used in place of the slope": above * x,
        "brackets are missing": above - (1 - right),
        "the slope is added, not multiplied": above + right,
        "the slope is divided by, not multiplied": above / right,
        "the slope is multiplied in twice": above * right.square(),
        "the square is missing": above * (1 - x),
        "the slope should be squared": above * right.sqrt(),
        "the slope is −1 where it should be 0": above * s.sign(),
        "the slope depends on the sign of the gradient from above, not of the input": above * slope(above),
        "the input is passed back, not the gradient from above": s * right,
        "the output is passed back, not the gradient from above": x * right,
    }
    # Where the slope is a polynomial of the output, as in Tanh and Sigmoid: that polynomial, at the input.
    powers = torch.stack([x**0, x, x**2], -1).flatten(0, -2)
    factors = torch.linalg.lstsq(powers, right.flatten()[:, None]).solution.flatten()
    if torch.allclose(powers @ factors, right.flatten()):
        at_input = factors[0] + factors[1] * s + factors[2] * s**2
        found["the slope is taken at the input, with the formula that is meant for the output"] = above * at_input
    return found


def losses(prediction: Tensor, target: Tensor, value: Tensor) -> dict[str, Tensor]:
    """What a squared error becomes."""
    found = {"it is the square root of the right one": value.sqrt()}
    for how, fold in (("mean", Tensor.mean), ("sum", Tensor.sum)) if prediction.shape == target.shape else ():
        difference = prediction - target
        found[f"it is the {how} of the differences, not of their squares"] = fold(difference)
        found[f"it is the {how} of their absolute values, not of their squares"] = fold(difference.abs())
        found[f"the target is not used: it is the {how} of the prediction's squares"] = fold(prediction.square())
        found[f"the prediction is not used: it is the {how} of the target's squares"] = fold(target.square())
        found[f"it is the {how} of (prediction + target)², not of the differences' squares"] = fold(
            (prediction + target).square()
        )
    return found


def loss_gradients(prediction: Tensor, target: Tensor, value: float, right: Tensor) -> dict[str, Tensor]:
    """What the gradient of a squared error becomes."""
    difference = prediction - target
    return {
        "it is the gradient of the absolute error": right / (2 * difference.abs()),
        "the difference is squared": right * difference,
        "the gradient is multiplied by the loss": right * value,
        "the target is not used": right / difference * prediction,
        "the prediction is not used": right / difference * target,
        "the target is added, not subtracted": right / difference * (prediction + target),
    }


def settings(kind: str, given: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Settings with which a right optimizer takes the steps of a wrong one."""
    lr = given["lr"]
    found = {"the step goes uphill": {"lr": -lr}, "the learning rate is not used": {"lr": 1.0}}
    found["the learning rate is multiplied in twice"] = {"lr": lr**2}
    if decay := given.get("weight_decay"):
        found["weight decay is not used"] = {"weight_decay": 0.0}
        found["weight decay has the wrong sign: it makes the weights grow"] = {"weight_decay": -decay}
        found["weight decay is applied twice"] = {"weight_decay": 2 * decay}
        found["weight decay is not multiplied by the learning rate"] = {"weight_decay": decay / lr}
    if momentum := given.get("momentum"):
        tau, plain = given.get("dampening", 0.0), {"nesterov": False}
        found["there is no momentum"] = {**plain, "momentum": 0.0}
        found["the velocity is not multiplied by the momentum"] = {**plain, "momentum": 1.0}
        found["the velocity is subtracted"] = {**plain, "momentum": -momentum}
        found["Nesterov's step is not taken"] = plain
        if not tau:
            found["Nesterov's step is taken where it is not asked for"] = {"nesterov": True}
        else:
            found["dampening is not used"] = {"dampening": 0.0}
            found["the velocity is dampened, not the gradient"] = {"dampening": 0.0, "momentum": momentum * (1 - tau)}
            found["the first gradient is dampened too, but should count whole"] = {
                "dampening": 0.0,
                "lr": lr * (1 - tau),
            }
        words = "the gradient is multiplied by 1 − momentum"
        found[words] = {**plain, "dampening": momentum}
        found[f"{words} from the start"] = {**plain, "dampening": 0.0, "lr": lr * (1 - momentum)}
    if kind == "Adam":
        one, two = given["betas"]
        found["the two betas are swapped"] = {"betas": (two, one)}
        found["as if both betas were β₁"] = {"betas": (one, one)}
        found["as if both betas were β₂"] = {"betas": (two, two)}
    return {words: changed for words, changed in found.items() if {**given, **changed} != given}
