"""A gradient checker: compares a hand-written backward with what the forward really does.

    from gradcheck import check_gradients

    check_gradients(Linear(3, 2), torch.randn(5, 3))             # a module and an input
    check_gradients(MSELoss(), torch.randn(5, 2), torch.randn(5, 2))  # a loss, a prediction and a target

It needs `forward`, `backward` and what every `diy.Module` brings along, and so works for modules that you write
yourself.
"""

import copy
import itertools
import math
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["check_gradients", "GradientCheck", "Verdict"]


@dataclass(frozen=True)
class Verdict:
    """What was found out about one gradient.

    Attributes:
        name: "input", "prediction" or the name of a parameter, such as "0.weight".
        shape: the shape that the gradient must have.
        error: the largest difference from the expected gradient, divided by the largest component of either.
        right: whether the error is within the tolerance and the gradient accumulates.
        index, got, expected: the component that is most wrong; None where there is no such component.
        reason: what kind of mistake it looks like; empty where the gradient is right.
    """

    name: str
    shape: tuple[int, ...]
    error: float
    right: bool
    index: tuple[int, ...] | None = None
    got: float | None = None
    expected: float | None = None
    reason: str = ""

    def __str__(self) -> str:
        line = (
            f"{self.name:<12} {self.shape!s:<12} relative error {self.error:.0e}  {'right' if self.right else 'WRONG'}"
        )
        if self.index is not None:
            line += f" at {self.index}: got {self.got:.6g}, expected {self.expected:.6g}"
        return line + (f"\n{'':12} {self.reason}" if self.reason else "")


@dataclass(frozen=True)
class GradientCheck:
    """The verdicts of one call of `check_gradients`; true where all of them are right.

    `check["weight"]` is the verdict on one gradient, `print(check)` shows all of them.
    """

    verdicts: tuple[Verdict, ...]

    @property
    def right(self) -> bool:
        """Whether every gradient is right."""
        return all(verdict.right for verdict in self.verdicts)

    def __bool__(self) -> bool:
        return self.right

    def __getitem__(self, name: str) -> Verdict:
        return {verdict.name: verdict for verdict in self.verdicts}[name]

    def __str__(self) -> str:
        return "\n".join(map(str, self.verdicts))

    def __repr__(self) -> str:
        wrong = [verdict.name for verdict in self.verdicts if not verdict.right]
        return f"GradientCheck({'wrong: ' + ', '.join(wrong) if wrong else 'right'})"


def check_gradients(
    module,
    input: Tensor,
    target: Tensor | None = None,
    *,
    tolerance: float = 1e-6,
    step: float = 1e-5,
    seed: int = 0,
    verbose: bool = True,
) -> GradientCheck:
    """Compare a module's backward with central finite differences, for the input and for every parameter.

    The output is weighted with random numbers G and summed, ℓ = Σ G · output; for a loss, ℓ is its value. Each
    component w of the input and of the parameters is moved a little, and the slope (ℓ(w + h) − ℓ(w − h)) / 2h is what
    backward should have found. Everything happens on a copy of the module, in float64 on the CPU, so that `module` and
    `input` stay as they are; a random module draws the same numbers at every call. At a kink, where the slopes to the
    left and to the right differ, every value between the two is right.

    Args:
        module: a module, checked in the mode, training or evaluation, that it is in; with a target, a loss.
        input: a floating-point tensor; some ten components are enough, each costs two forward passes.
        target: for a loss, the second argument of its forward.
        tolerance: the largest relative error of a right gradient. Finite differences in float64 reach 1e-9.
        step: h, for components above 1 in size multiplied by that size.
        seed: of G and of what the module draws.
        verbose: whether to print the verdicts.

    Raises:
        TypeError: the module lacks one of the methods, a loss came without a target, the input is not a
            floating-point tensor, or a parameter is not named in `parameter_names`.
        ValueError: tolerance or step is not above 0.
    """
    wanted = ("forward", "backward", *(("named_parameters", "modules", "to") if target is None else ()))
    if lacking := [name for name in wanted if not callable(getattr(module, name, None))]:
        hint = "derive it from diy.Module; a loss is checked with a prediction and a target"
        raise TypeError(f"{type(module).__name__} cannot be checked: it has no {', no '.join(lacking)}: {hint}")
    if not (tolerance > 0 and step > 0):
        raise ValueError(f"tolerance and step must be above 0, got {tolerance} and {step}")
    if not isinstance(input, Tensor) or not input.is_floating_point():
        got = input.dtype if isinstance(input, Tensor) else type(input).__name__
        raise TypeError(f"the input must be a floating-point tensor, got {got}")
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        check = GradientCheck(tuple(_verdicts(copy.deepcopy(module), input, target, tolerance, step, seed)))
    if verbose:
        print(check)
    return check


def _verdicts(module, input, target, tolerance, step, seed):
    input = input.detach().to("cpu", torch.float64, copy=True).contiguous()
    if target is None:
        module.to("cpu", torch.float64)
        for part in module.modules():
            part.needs_input_grad = True  # a gradient that is spared could not be checked
        tensors = {"input": input, **dict(module.named_parameters())}
    else:
        target = target.detach().to("cpu", torch.float64 if target.is_floating_point() else target.dtype)
        tensors = {"prediction": input}

    def forward() -> Tensor:
        torch.default_generator.manual_seed(seed)
        for part in module.modules() if target is None else ():
            for generator in getattr(part, "generators", None) or ():
                generator.manual_seed(seed)
        try:
            return module(input.clone()) if target is None else module(input.clone(), target)
        except RuntimeError as error:
            if "dtype" not in str(error):
                raise
            hint = "name every parameter in `parameter_names`, so that it is converted as well"
            raise TypeError(f"in float64, in which everything is checked, forward mixes dtypes: {hint}") from error

    # From here on two kinds of gradients: the written ones that backward finds, and the measured ones.
    first, second = [], []
    for tensor in tensors.values():
        tensor.grad = None
    for written in first, second:
        output = forward().clone()
        # A seed far from those in use: input and weights drawn from one seed would be alike, and hide a transpose.
        generator = torch.Generator().manual_seed(seed + 559_201_900)
        weights = torch.rand(output.shape, dtype=output.dtype, generator=generator) * 2 - 1
        if target is not None:
            weights = torch.ones_like(output)
        try:
            returned = module.backward(weights.clone()) if target is None else module.backward()
        except Exception as error:
            reason = f"backward raised {type(error).__name__}: {error}"
            yield Verdict("backward", tuple(output.shape), math.inf, right=False, reason=reason)
            return
        for tensor in tensors.values():
            gradient = returned if tensor is input else tensor.grad
            written.append(gradient.detach().clone() if isinstance(gradient, Tensor) else None)

    again = forward()
    if not torch.equal(output.nan_to_num(), again.nan_to_num()):
        yield Verdict(
            "output",
            tuple(output.shape),
            float((output - again).abs().max()) if output.shape == again.shape else math.inf,
            right=False,
            reason="two forward passes on the same input gave different outputs: there is no function to differentiate",
        )
        return
    for (name, tensor), got, twice in zip(tensors.items(), first, second):
        slopes = _slopes(forward, tensor, weights, output, step)
        # What rounding alone may do to a slope: the smallest gradient that can be told from zero.
        rounding = 1e-9 * float((weights * output).abs().max()) if output.numel() else 0.0
        sizes = {"samples": len(input) if input.dim() > 1 else 1, "components": input.numel()}
        yield _verdict(name, got, slopes, weights, rounding, tolerance, sizes, twice if tensor is not input else None)


def _slopes(forward, tensor: Tensor, weights: Tensor, output: Tensor, step: float) -> tuple[Tensor, Tensor, Tensor]:
    """Return the slopes of Σ weights · forward() at every component of `tensor`: central, to the left, to the right."""
    central, left, right = (torch.zeros_like(tensor) for _ in range(3))
    for index in itertools.product(*map(range, tensor.shape)):
        value = tensor[index].item()
        h = step * max(1.0, abs(value))
        tensor[index] = value + h
        above = forward().clone()
        tensor[index] = value - h
        below = forward().clone()
        tensor[index] = value
        up, down = (value + h) - value, value - (value - h)  # what is left of h after rounding
        right[index] = (weights * (above - output)).sum() / up
        left[index] = (weights * (output - below)).sum() / down
        central[index] = (weights * (above - below)).sum() / (up + down)
    return central, left, right


def _verdict(name, got, slopes, weights, rounding, tolerance, sizes, twice) -> Verdict:
    expected, left, right = slopes
    shape = tuple(expected.shape)
    if got is None:
        place = (
            "backward returned no tensor" if twice is None and name in ("input", "prediction") else "its .grad is None"
        )
        return Verdict(name, shape, math.inf, right=False, reason=f"there is no gradient: {place}")
    if got.shape != expected.shape:
        reason = f"its shape is {tuple(got.shape)}"
        if (
            got.dim() == expected.dim() == 2
            and got.T.shape == expected.shape
            and _close(got.T, expected, rounding, tolerance)
        ):
            reason += ": it is the transpose of the right one"
        return Verdict(name, shape, math.inf, right=False, reason=reason)
    if not expected.numel():
        return Verdict(name, shape, 0.0, right=True)
    if not got.is_floating_point():
        return Verdict(name, shape, math.inf, right=False, reason=f"it holds {got.dtype}, expected {expected.dtype}")
    if not expected.isfinite().all():
        reason = "near this input, forward gives infinite numbers or NaN: there is no slope to compare with"
        return Verdict(name, shape, math.inf, right=False, reason=reason)

    # At a kink every value between the two one-sided slopes is a right one.
    low, high = torch.minimum(left, right), torch.maximum(left, right)
    kink = high - low > 1e-3 * torch.maximum(low.abs(), high.abs()) + rounding
    nearest = torch.where(kink, got.clamp(low, high), expected)
    scale = max(float(nearest.abs().max()), float(got.abs().max()), rounding / tolerance)
    errors = (got - nearest).abs() / scale if scale > 0 else torch.zeros_like(got)
    errors = errors.nan_to_num(nan=math.inf)
    error = float(errors.max())
    if error > tolerance:
        place = int(errors.argmax())
        index = tuple(int(i) for i in torch.unravel_index(torch.tensor(place), shape))
        # A strongly curved place looks like a kink, where `nearest` is drawn towards what was got: ask about both.
        reasons = (_mistake(got, other, weights, rounding, tolerance, sizes) for other in (nearest, expected))
        wrong = f"wrong in {int((errors > tolerance).sum())} of {errors.numel()} components"
        reason = next(filter(None, reasons), wrong)
        return Verdict(name, shape, error, False, index, float(got[index]), float(nearest[index]), reason)
    if twice is not None and not _close(twice, 2 * got, rounding, tolerance):
        what = "replaced it" if _close(twice, got, rounding, tolerance) else "did not double it"
        return Verdict(name, shape, error, False, reason=f"backward must add to .grad: a second backward {what}")
    return Verdict(name, shape, error, right=True)


def _mistake(got, expected, weights, rounding, tolerance, sizes) -> str:
    """Return in words which well-known mistake turns the expected gradient into what was got, or nothing."""
    square = got.dim() == 2 and got.shape[0] == got.shape[1]
    for turned, words in ((expected, ""), (expected.T, "the transpose of ")) if square else ((expected, ""),):
        norm = float((turned * turned).sum())
        factor = float((got * turned).sum()) / norm if norm > 0 else math.nan
        if not (math.isfinite(factor) and _close(got, factor * turned, rounding, tolerance)):
            continue
        if words and abs(factor - 1) < 1e-4:
            return "it is the transpose of the right one"
        return (
            f"it is {words}the right one times {factor:.6g}{_factor(factor, sizes)}"
            if abs(factor) > 1e-9
            else "it is zero"
        )
    if got.shape == weights.shape and torch.equal(got, weights):
        return "it is the gradient from above, unchanged"
    return ""


def _factor(factor: float, sizes: dict[str, int]) -> str:
    if factor < 0:
        return ", the sign is wrong" + _factor(-factor, sizes)
    known = {"there is a factor 2 too many": 2.0, "the factor 2 is missing": 0.5}
    for (what, number), letter in zip(sizes.items(), "NM"):
        counts = f"with {letter} = {number} {what}"
        known[f"that is {letter}, {counts}: summed where it should be averaged"] = float(number)
        known[f"that is 1/{letter}, {counts}: averaged where it should be summed"] = 1 / number
        known[f"that is 2/{letter}, {counts}"] = 2 / number
        known[f"that is {letter}/2, {counts}"] = number / 2
    names = [name for name, value in known.items() if value != 1 and abs(factor - value) < 1e-4 * abs(value)]
    return ", " + ", or ".join(names) if names else ""


def _close(a: Tensor, b: Tensor, rounding: float, tolerance: float) -> bool:
    if a.shape != b.shape:
        return False
    if not a.numel():
        return True
    scale = max(float(a.abs().max()), float(b.abs().max()), rounding / tolerance)
    return float((a - b).abs().max()) <= tolerance * scale
