"""A gradient checker: compares a hand-written backward with what forward really does.

    from gradcheck import check_gradients

    check_gradients(Linear(3, 2), torch.randn(5, 3))             # a module and an input
    check_gradients(MSELoss(), torch.randn(5, 2), torch.randn(5, 2))  # a loss, a prediction and a target

It needs a `forward`, a `backward`, and parameters that are tensors with their gradients in `.grad`. A `diy.Module` has
them, and so may any class of your own.
"""

import contextlib
import copy
import difflib
import inspect
import io
import linecache
import math
import os
import random
import re
import sys
import sysconfig
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from types import FunctionType, MethodType, ModuleType
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

__all__ = ["check_gradients", "compare", "GradientCheck", "Verdict"]


@dataclass(frozen=True)
class Verdict:
    """What was found out about one gradient: it is right, it is wrong, or the forward pass does not tell.

    Attributes:
        name: "input", "prediction" or the name of a parameter, such as "0.weight"; for a mistake outside the gradients,
            its place: "module", "forward", "output", "backward", "target".
        shape: the shape that the gradient must have.
        error: the largest relative error of a component.
        right: whether every component is right, and the gradient accumulates.
        index, got, expected: the component that is most wrong; None if there is no such component.
        reason: what kind of mistake it looks like, or what hides it; empty for a right gradient, except at a kink and
            where all slopes are 0.
        cannot_tell: whether no mistake was found, but not everything could be measured. Then `right` is false.
    """

    name: str
    shape: tuple[int, ...]
    error: float
    right: bool
    index: tuple[int, ...] | None = None
    got: float | None = None
    expected: float | None = None
    reason: str = ""
    cannot_tell: bool = False

    @property
    def wrong(self) -> bool:
        """Whether a mistake was found."""
        return not (self.right or self.cannot_tell)

    def __str__(self) -> str:
        word = "right" if self.right else "cannot tell" if self.cannot_tell else "WRONG"
        line = f"{self.name:<12} {self.shape!s:<12} relative error {self.error:.0e}  {word}"
        if self.index is not None and self.got is not None and self.expected is not None:
            got, expected = digits(self.got, self.expected)
            line += f" at {self.index}: got {got}, expected {expected}"
        return line + (f"\n{'':12} {self.reason}" if self.reason else "")


@dataclass(frozen=True)
class GradientCheck:
    """The verdicts of one call of `check_gradients`; true if all of them are right, and so false if one cannot tell.

    `check["weight"]` is the verdict on one gradient; `print(check)` shows them all.
    """

    verdicts: tuple[Verdict, ...]

    @property
    def right(self) -> bool:
        """Whether every gradient is right."""
        return all(verdict.right for verdict in self.verdicts)

    @property
    def wrong(self) -> bool:
        """Whether a mistake was found. If a check is neither right nor wrong, the forward pass does not tell."""
        return any(verdict.wrong for verdict in self.verdicts)

    def __bool__(self) -> bool:
        return self.right

    def __getitem__(self, name: str) -> Verdict:
        return {verdict.name: verdict for verdict in self.verdicts}[name]

    def __str__(self) -> str:
        return "\n".join(map(str, self.verdicts))

    def __repr__(self) -> str:
        wrong = ", ".join(verdict.name for verdict in self.verdicts if verdict.wrong)
        unknown = ", ".join(verdict.name for verdict in self.verdicts if verdict.cannot_tell)
        words = [f"wrong: {wrong}"] * bool(wrong) + [f"cannot tell: {unknown}"] * bool(unknown)
        return f"GradientCheck({'; '.join(words) or 'right'})"


def check_gradients(
    module: Any,
    input: Tensor,
    target: Tensor | None = None,
    *,
    tolerance: float = 1e-6,
    seed: int = 0,
    verbose: bool = True,
) -> GradientCheck:
    """Compare a module's backward with measured slopes of its forward, for the input and for every parameter.

    The output is weighted with random numbers G and summed, ℓ = Σ G · output; for a loss, ℓ is its value. Each
    component w of the input and of the parameters is moved a little, and the slope (ℓ(w + h) − ℓ(w − h)) / 2h is what
    backward should have found. Steps h of many sizes are compared, so that the error of each slope is known too; where
    it is too large to judge a component, the verdict is "cannot tell". If the verdict is "right", no component is wrong
    by 0.1 %, and hardly any by more than `tolerance`. At a kink, where the slopes to the left and to the right differ,
    every value between the two is right. Whatever forward does within 1e-7 of a number counts as rounding. Where all
    slopes are 0, a gradient of 0 is right, but the verdict says that a wrong factor would not show.

    Everything happens on a copy of the module, in float64 on the CPU, so that `module` and `input` stay as they are; a
    random module draws the same numbers at every call. An exception in the module, or something that is not a module at
    all, gives a verdict as well, whose reason names the line.

    Args:
        module: a module, checked in the mode, training or evaluation, that it is in; with a target, a loss.
        input: a floating-point tensor; about ten components are enough, each costs about 30 forward passes.
        target: for a loss, the second argument of its forward.
        tolerance: the largest relative error of a right component.
        seed: for G and for what the module draws.
        verbose: whether to print the verdicts.

    Raises:
        ValueError: tolerance is not above 0, or seed is not an integer from 0 to 2**62 - 1.
    """
    if isinstance(tolerance, (str, type(None))) or not tolerance > 0:
        raise ValueError(f"tolerance must be a number above 0, got {tolerance!r}")
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**62:
        raise ValueError(f"seed must be an integer from 0 to 2**62 - 1, got {seed!r}")
    verdicts: list[Verdict] = []
    with _surroundings():
        try:
            subject = _Subject(module, input, target, tolerance, seed)
            verdicts.extend(_verdicts(subject))
            if not all(verdict.right for verdict in verdicts) and (narrow := subject.narrow_dtype()):
                # A narrower dtype loses most digits: only what is wrong by more than these is wrong for certain.
                again = _Subject(module, input, target, tolerance, seed, torch.finfo(narrow[0]).eps)
                wrong = {verdict.name: verdict for verdict in _verdicts(again) if verdict.wrong}
                hint = f"something is computed in {narrow[0]}{narrow[1]}, which is too coarse: keep the input's dtype"
                for i, verdict in enumerate(verdicts):
                    unknown = replace(verdict, right=False, cannot_tell=True, index=None, reason=hint)
                    verdicts[i] = verdict if verdict.right else wrong.get(verdict.name, unknown)
        except _SlipError as slip:
            verdicts.append(slip.verdict)
    check = GradientCheck(tuple(verdicts))
    if verbose:
        print(check)
    return check


def compare(
    got: object, expected: Tensor, sizes: Mapping[str, int] | None = None, *, tolerance: float = 1e-6
) -> list[str]:
    """Return in words how `got` differs from the right gradient; an empty list if every component is right.

    Args:
        got: what was found, a tensor if all is well.
        expected: the right gradient. Components that are NaN are not compared.
        sizes: numbers by which a gradient may be wrong: how many "samples", N, and how many "components", M.
        tolerance: the largest relative error of a right component.
    """
    if not isinstance(got, Tensor) or got.shape != expected.shape or not got.is_floating_point():
        return [_unfit(got, expected)]
    eps = torch.finfo(got.dtype).eps
    got, expected = got.detach().to("cpu", torch.float64), expected.detach().to("cpu", torch.float64)
    wrong = _differ(got, expected, tolerance, eps)
    if not wrong.any():
        return []
    square = got.dim() == 2 and got.shape[0] == got.shape[1]
    for turned, words in ((expected, ""), (expected.mT, "the transpose of ")) if square else ((expected, ""),):
        valid = got.isfinite() & expected.isfinite() & turned.isfinite()
        factor = float((got * turned)[valid].sum() / turned[valid].square().sum())
        if math.isfinite(factor) and not _differ(got, factor * turned, 1e-4, eps).any():
            if abs(factor) < 1e-9:
                return ["it is zero"]
            if words and abs(factor - 1) < 1e-4:
                return ["it is the transpose of the right one"]
            return [f"it is {words}the right one times {digits(factor, 1.0)[0]}{_factor(factor, sizes or {})}"]
    found = [f"wrong in {int(wrong.sum())} of {wrong.numel()} components"]
    for dim in range(wrong.dim()) if wrong.dim() > 1 else ():
        lines = wrong.movedim(dim, 0).flatten(1).any(1).nonzero().flatten().tolist()
        if len(lines) == 1 < min(int(wrong.sum()), wrong.shape[dim]):
            found[0] += f", all in [{', '.join(str(lines[0]) if d == dim else ':' for d in range(wrong.dim()))}]"
    lost = int((~got.isfinite()).sum())
    return found + ([f"it is infinite or NaN in {lost}"] if lost else [])


def digits(a: float, b: float, least: int = 6) -> tuple[str, str]:
    """Return two numbers with as many digits as it takes to tell them apart."""
    for places in range(least, 18):
        pair = f"{a + 0.0:.{places}g}", f"{b + 0.0:.{places}g}"  # 0.0 makes of -0 a 0
        if pair[0] != pair[1]:
            break
    return pair


# The learner's code, called with care


class _SlipError(Exception):
    """A mistake after which nothing can be measured."""

    def __init__(self, name: str, reason: str):
        super().__init__(reason)
        self.verdict = Verdict(name, (), math.inf, right=False, reason=reason)


@contextlib.contextmanager
def _surroundings() -> Iterator[None]:
    # float64 by default: what forward makes with torch.zeros or torch.tensor then has the digits that slopes need.
    dtype, state, numpy = torch.get_default_dtype(), random.getstate(), sys.modules.get("numpy")
    drawn = numpy.random.get_state() if numpy else None
    try:
        torch.set_default_dtype(torch.float64)
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            yield
    finally:
        torch.set_default_dtype(dtype)
        random.setstate(state)
        if numpy:
            numpy.random.set_state(drawn)


class _Watch(TorchFunctionMode):
    """Notes where float64 numbers are rounded to a narrower dtype."""

    def __init__(self, found: dict[torch.dtype, str]):
        super().__init__()
        self.found = found

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        into = args[0] if result is None and args else result  # None: an assignment into the first argument
        if isinstance(into, Tensor) and into.is_floating_point() and into.dtype != torch.float64:
            given = (*args, *(kwargs or {}).values())
            if any(isinstance(value, Tensor) and value.dtype == torch.float64 for value in given):
                self.found.setdefault(into.dtype, _place(inspect.stack(0)[::-1]))
        return result


class _Subject:
    """A copy of what is checked, in float64 on the CPU, and all calls of it."""

    def __init__(self, module: Any, input: Any, target: Any, tolerance: float, seed: int, eps: float = 2.0**-52):
        self.tolerance, self.seed, self.eps, self.is_loss = tolerance, seed, eps, target is not None
        if isinstance(module, type):
            raise _SlipError("module", f"got the class {module.__name__}: make an object of it, {module.__name__}(...)")
        for method in "forward", "backward":
            if not callable(getattr(module, method, None)):
                similar = difflib.get_close_matches(method, {*dir(module)} - {method}, 1, 0.8)
                hint = f"is its {similar[0]} meant to be that?" if similar else "a module has a forward and a backward"
                if isinstance(module, torch.nn.Module):
                    hint = "PyTorch leaves it to autograd, so there is nothing of your own to check"
                fault = f"its {method} is not a method" if hasattr(module, method) else f"it has no {method}: {hint}"
                raise _SlipError("module", f"{type(module).__name__} cannot be checked: {fault}")
        for what, value in ("input", input), ("target", target):
            if not isinstance(value, Tensor) and (what == "input" or value is not None):
                wanted = "a floating-point tensor" if what == "input" else "a tensor"
                raise _SlipError(what, f"the {what} must be {wanted}, got {_kind(value)}: torch.tensor(...) makes one")
            if isinstance(value, Tensor) and value.is_meta:
                raise _SlipError(what, f'the {what} is on the device "meta", which holds no numbers')
        if not input.is_floating_point():
            hint = f"the input must be a floating-point tensor, got {input.dtype}: convert it with .float()"
            raise _SlipError("input", hint)
        shared: dict[int, Any] = {}
        self.module = _copy(module, shared)
        self.input = input.detach().to("cpu", torch.float64, copy=True).to_dense().contiguous()
        self.target = target
        if self.is_loss:
            self.target = target.detach().to("cpu", torch.float64 if target.is_floating_point() else target.dtype)
        parts = list(_walk(self.module, shared))
        self.held = [(path, part) for path, part in parts if isinstance(part, Tensor)]
        self.rewinds = [rewind for _, part in parts if (rewind := _rewind(part))]
        if meta := [path for path, tensor in self.held if tensor.is_meta]:
            raise _SlipError(meta[0], f'{meta[0]} is on the device "meta", which holds no numbers')
        self.narrow: dict[torch.dtype, str] = {}
        self.fits = [torch.float32, torch.bfloat16]  # the dtypes in which all outputs can be written
        _to_float64([tensor for _, tensor in self.held])
        for _, part in parts:
            if hasattr(type(part), "needs_input_grad"):
                with contextlib.suppress(Exception):
                    part.needs_input_grad = True  # a gradient that is not computed cannot be checked
            if isinstance(names := getattr(type(part), "parameter_names", None), str):
                raise _SlipError("module", f'parameter_names of {type(part).__name__} must be a tuple: ("{names}",)')
        self.names_them = hasattr(module, "named_parameters") or hasattr(module, "parameter_names")
        self.tensors = [("prediction" if self.is_loss else "input", self.input)]
        self.tensors += self.parameters()

    def parameters(self) -> list[tuple[str, Tensor]]:
        """Return (name, parameter) pairs. For a class that names none, see `backward`."""
        named, names = getattr(self.module, "named_parameters", None), getattr(self.module, "parameter_names", ())
        pairs = self.call(
            "parameters", named if callable(named) else lambda: [(n, getattr(self.module, n)) for n in names]
        )
        pairs = self.call("parameters", list, pairs)
        for name, tensor in pairs:
            if not isinstance(tensor, Tensor) or not tensor.is_floating_point():
                raise _SlipError(str(name), f"a parameter must be a floating-point tensor, got {_kind(tensor)}")
        return [(f"parameter {name}" if name == self.tensors[0][0] else name, tensor) for name, tensor in pairs]

    def strays(self) -> list[tuple[str, Tensor]]:
        """Return the tensors that have a gradient, but are not among the parameters."""
        known = {id(tensor) for _, tensor in self.tensors}
        return [(path, tensor) for path, tensor in self.held if tensor.grad is not None and id(tensor) not in known]

    def call(self, what: str, function: Callable[..., Any], *arguments: Any) -> Any:
        try:
            with _Watch(self.narrow):
                return function(*arguments)
        except (Exception, SystemExit) as error:
            raise _SlipError(what, _explain(self, what, error)) from error

    def run(self, input: Tensor) -> Any:
        torch.default_generator.manual_seed(self.seed)
        random.seed(self.seed)
        if numpy := sys.modules.get("numpy"):
            numpy.random.seed(self.seed % 2**32)
        for rewind in self.rewinds:
            rewind()
        forward = self.module if callable(self.module) else self.module.forward
        return forward(input, self.target) if self.is_loss else forward(input)

    def forward(self) -> Tensor:
        """Run forward, and raise what is wrong with it."""
        given = self.input.clone()
        before = [(name, tensor, tensor.clone()) for name, tensor in self.tensors[1:]]
        output, where = self.call("forward", self.run, given), _where(self.module.forward)
        reason, after = "", dict(self.parameters())
        if not isinstance(output, Tensor) or not output.is_floating_point():
            hint = (
                ": is a return missing?" if output is None else ": leave out .item()" if type(output) is float else ""
            )
            reason = f"forward returned {_kind(output)}, expected a floating-point tensor{hint}"
        elif self.is_loss and output.numel() != 1 and not getattr(self.module, "stacked", False):
            reason = f"forward returned a tensor of shape {tuple(output.shape)}: a loss is one number, a mean or a sum"
        elif not _same(given, self.input):
            reason = "forward changes its input in place: it must change a copy, input.clone()"
        for name, tensor, values in before:
            if self.names_them and dict(self.parameters()).get(name) is not after.get(name):
                reason = reason or f"{name} is another tensor each time it is asked for: set it once, in __init__"
            if (self.names_them and after.get(name) is not tensor) or not _same(tensor, values):
                reason = reason or f"forward changes {name}: only an optimizer may change parameters"
        if reason:
            raise _SlipError("forward", reason + where)
        return torch.clone(output.detach())

    def change(self, base: Tensor) -> Tensor:
        """Run forward once more, on moved numbers; return what was added to `base`, NaN where it refuses them."""
        with contextlib.suppress(Exception, SystemExit):
            output = self.run(self.input.clone()).detach().double().flatten()
            self.fits = [dtype for dtype in self.fits if torch.equal(output.to(dtype).double(), output)]
            return torch.sub(output, base).view(base.shape)
        return torch.full_like(base, math.nan)

    def backward(self, above: Tensor, dtype: torch.dtype) -> list[Any]:
        """Run backward; return all gradients. If a class names no parameters, every tensor with a gradient is one."""
        given, where = above.to(dtype, copy=True), _where(self.module.backward)
        returned = self.call("backward", self.module.backward, *(() if self.is_loss else (given,)))
        if not _same(given, above.to(dtype)):
            hint = f"it must change a copy, gradient.clone(){where}"
            raise _SlipError("backward", f"backward changes the gradient from above in place: {hint}")
        if not self.names_them:
            self.tensors += self.strays()
        if not isinstance(returned, Tensor):
            hint = f"expected the gradient of the {self.tensors[0][0]} as a tensor{where}"
            returned = f"there is no gradient: backward returned {_kind(returned)}, {hint}"
        found = (returned, *(tensor.grad for _, tensor in self.tensors[1:]))
        return [value.detach().clone() if isinstance(value, Tensor) else value for value in found]

    def narrow_dtype(self) -> tuple[torch.dtype, str] | None:
        """Return the coarsest dtype below float64 that was computed in, and where."""
        found = self.narrow or ({torch.float32: ""} if self.fits == [torch.float32] else {})
        return max(found.items(), key=lambda item: torch.finfo(item[0]).eps, default=None)


def _inside(value: Any) -> list[tuple[str, Any]]:
    if isinstance(value, Mapping):
        return [(str(key), part) for key, part in value.items()]
    if isinstance(value, (list, tuple, set)):
        return [(str(index), part) for index, part in enumerate(value)]
    skip = (Tensor, type, ModuleType, FunctionType, MethodType)
    return [] if isinstance(value, skip) else [*getattr(value, "__dict__", {}).items()]


def _copy(module: Any, shared: dict[int, Any]) -> Any:
    """Copy a module deeply; what cannot be copied is shared, and noted."""
    memo: dict[int, Any] = {}

    def spare(value: Any) -> None:
        for last in False, True:
            with contextlib.suppress(Exception):
                copy.deepcopy(value, dict(memo))
                return
            for _, part in () if last else _inside(value):
                spare(part)
        memo[id(value)] = value.detach().clone() if isinstance(value, Tensor) else shared.setdefault(id(value), value)

    try:
        spare(module)
    except RecursionError:
        shared[id(module)] = module
    if id(module) in shared:
        raise _SlipError("module", f"{type(module).__name__} cannot be copied, and the check must leave it as it is")
    return copy.deepcopy(module, memo)


def _walk(module: Any, shared: Mapping[int, Any]) -> Iterator[tuple[str, Any]]:
    """Yield (path, value) for everything that a module holds, each once."""
    waiting, seen = [("", module)], {*shared}
    for path, value in waiting:
        if id(value) not in seen:
            seen.add(id(value))
            yield path, value
            waiting += [(f"{path}.{name}" if path else name, part) for name, part in _inside(value)]


def _rewind(value: Any) -> Callable[[], object] | None:
    """Return what sets a generator of random numbers back to where it is now; None if `value` is no generator."""
    numpy = sys.modules.get("numpy")
    if isinstance(value, torch.Generator) or (numpy and isinstance(value, numpy.random.RandomState)):
        return partial(value.set_state, value.get_state())
    if isinstance(value, random.Random):
        return partial(value.setstate, value.getstate())
    if numpy and isinstance(value, numpy.random.Generator):
        return partial(setattr, value.bit_generator, "state", value.bit_generator.state)
    return None


def _to_float64(tensors: Sequence[Tensor]) -> None:
    """Convert in place and forget gradients; tensors that share memory still do afterwards."""
    converted: dict[int, Tensor] = {}
    for tensor in tensors:
        tensor.grad = None
        if isinstance(tensor, torch.nn.Parameter):
            tensor.requires_grad_()  # a gradient that is not computed cannot be checked
        elif getattr(tensor, "frozen", False):
            tensor.frozen = False  # type: ignore[attr-defined]
        if tensor.is_floating_point() and tensor.layout == torch.strided and tensor.numel():
            key = tensor.untyped_storage().data_ptr()
            if key not in converted:
                flat = torch.empty(0, dtype=tensor.dtype, device=tensor.device).set_(tensor.untyped_storage())
                converted[key] = flat.to("cpu", torch.float64, copy=True)
            tensor.data = converted[key].as_strided(tensor.shape, tensor.stride(), tensor.storage_offset())


# Slopes


@dataclass
class _Slopes:
    """What is known of every output (columns) along every direction (rows).

    Attributes:
        slope: the middle between the slopes to the left and to the right.
        gap: at a kink, the slope to the right less the one to the left; elsewhere 0.
        error: a bound for the error of the slope.
        reach: the size of the slopes nearby; what is tiny beside it is as good as 0.
        floor: the rounding of a slope that is 0 because everything cancels.
        lost: where it is dead, the size of a slope that would be lost in rounding beside those far away.
        still: whether the output stays the same, up to rounding, however far one goes.
        dead: whether it stays exactly the same, up to a place from which on it clearly does not.
        jump, edge: whether the output jumps here; whether close by it is not a finite number.
    """

    slope: Tensor
    gap: Tensor
    error: Tensor
    reach: Tensor
    floor: Tensor
    lost: Tensor
    still: Tensor
    dead: Tensor
    jump: Tensor
    edge: Tensor


def _slopes(subject: _Subject, tensor: Tensor, directions: Tensor, output: Tensor) -> _Slopes:
    """Measure slopes with steps from 8 times the largest number of the tensor to 1e-12 of the least that is moved."""
    numbers = tensor.abs().nan_to_num(0.0, posinf=0.0)
    largest = (float(numbers.max()) if numbers.numel() else 0.0) or 1.0
    numbers = torch.where(numbers > 0, numbers, largest / 64)
    first = min(1020, math.floor(math.log2(largest)) + 3)
    base, origin = output.double().flatten(), tensor.clone()
    rows: dict[int, tuple[Tensor, ...]] = {}
    waiting: dict[int, list[tuple[int, float, Tensor]]] = {}  # directions with the same number of steps, done together

    def settle(count: int) -> None:
        indices, leasts, changes = zip(*waiting.pop(count))
        parts = _fit(subject, torch.stack(changes), 2.0 ** (first - 3 * torch.arange(count)), largest, leasts, base)
        rows.update(zip(indices, zip(*parts)))

    with contextlib.redirect_stdout(io.StringIO()):  # forward has printed it once already
        for index, direction in enumerate(directions if output.numel() else ()):
            least = float(numbers[direction != 0].min())
            count = 14 + math.ceil((math.log2(largest) - math.log2(least)) / 3)
            changes = []
            for sign in 1, -1:
                for k in range(count):
                    tensor.copy_(origin + sign * 2.0 ** (first - 3 * k) * direction)
                    changes.append(sign * subject.change(base))
            tensor.copy_(origin)
            waiting.setdefault(count, []).append((index, least, torch.stack(changes).view(2, count, -1)))
            if len(waiting[count]) * len(base) > 10_000:
                settle(count)
        for count in [*waiting]:
            settle(count)
    nothing = torch.zeros(len(directions), output.numel())
    columns = zip(*(rows[index] for index in range(len(rows))))
    return _Slopes(*map(torch.stack, columns) if rows else [nothing] * 6 + [nothing != 0] * 4)


def _fit(
    subject: _Subject, changes: Tensor, sizes: Tensor, largest: float, leasts: Sequence[float], base: Tensor
) -> tuple[Tensor, ...]:
    """Return the parts of `_Slopes` for D directions, from changes to the right and to the left: (D, 2, steps, n)."""
    steps, least = sizes[:, None], torch.tensor(leasts)[:, None, None]
    right, left = (changes / steps).unbind(1)
    middle = (right + left) / 2
    # The rounding of forward: what the dtype says, and what is seen at the finest steps, where every curve is a cubic.
    better = (64 * middle[:, 1:] - middle[:, :-1]) / 63
    seen = _infinite((better[:, 1:] - better[:, :-1]).abs() * steps[2:])
    finest = steps[:-2] <= 8.0**-7 * least.clamp(min=1e-9 * largest)
    rounding = subject.eps * base.abs()
    noise = torch.maximum(rounding, seen.where(finest, 0.0).amax(1))
    # What stays still at first and then moves by few bits, as 1 − cos x does at 0, is rounding; a kink has all bits.
    sides = torch.maximum(right.abs(), left.abs())
    moves = sides * steps
    finite = moves.where(moves.isfinite(), 0.0)
    little = moves.where(moves > 0, math.inf).amin(1)
    grains = (moves[:, -1] == 0) & (little <= 1e-6 * finite.amax(1)) & (little.frexp().mantissa * 1024 % 1 == 0)
    noise = torch.where(grains, torch.maximum(noise, little), noise)
    slope, error = _limit(middle, steps, (64, 4096, 8), noise)
    gap, gap_error = _limit(right - left, steps, (8, 512), 2 * noise)
    near = (steps <= least / 8) & (steps > least / 512)  # two of them
    reach = sides.where(near & sides.isfinite(), 0.0).amax(1)
    kink = gap.abs() > 4 * gap_error + 1e-6 * reach
    error = torch.where(
        gap_error > 8 * error + 0.1 * torch.maximum(reach, slope.abs()), gap_error, error
    )  # no slope to the right or to the left
    error = error.where(moves.amax(1) != 0, 0.0)
    tiny = 1e4 * rounding.max()
    still = (moves / (1 + steps / largest) <= (64 * noise).clamp(max=tiny)[:, None]).all(1)
    jump = moves[:, -1] > torch.maximum(moves[:, -4] / 2, tiny)
    error = error.where(
        still | (noise <= 1e-3 * finite.amax(1)), math.inf
    )  # all that it does lies below the finest steps
    least_slope = sides.where(sides > 0, math.inf).amin(1)
    dead = (slope == 0) & (reach == 0) & (error <= 1e-6 * least_slope)
    lost = torch.where(dead, 2.0**-54 * finite.div(steps).amax(1), 0.0)
    parts = (slope, torch.where(kink, gap, 0.0), error, reach, rounding / least[:, 0], lost)
    return *(part.where(base.isfinite(), 0.0) for part in parts), still, dead, jump, ~moves[:, -1].isfinite()


def _infinite(values: Tensor) -> Tensor:
    return values.where(~values.isnan(), math.inf)


def _limit(values: Tensor, steps: Tensor, ratios: tuple[int, ...], noise: Tensor) -> tuple[Tensor, Tensor]:
    """Extrapolate values at steps h, h/8, h/64, ... to h = 0, where parts of their error fall by `ratios` a step.

    Richardson's extrapolation removes one part after the other. Of the limits that result, return the one that differs
    least from all finer ones, apart from rounding, noise/h, and a bound for its error.
    """
    limits, errors = [], []
    for ratio in 1, *ratios:
        values = (ratio * values[:, 1:] - values[:, :-1]) / (ratio - 1) if ratio > 1 else values
        allowed = 4 * noise[:, None] / steps[1 - values.shape[1] :]
        excess = _infinite((values[:, 1:] - values[:, :-1]).abs() - allowed).clamp(min=0)
        limits.append(values[:, 1:])
        errors.append(excess.flip(1).cummax(1).values.flip(1) + allowed)
    error, chosen = torch.cat(errors, 1).min(1, keepdim=True)
    return torch.cat(limits, 1).gather(1, chosen)[:, 0], error[:, 0]


# Judgement


def _verdicts(subject: _Subject) -> Iterator[Verdict]:
    with contextlib.suppress(Exception, SystemExit), contextlib.redirect_stdout(io.StringIO()):
        subject.run(1.25 * subject.input)  # a module that keeps what it was given first is wrong from now on
    output = subject.forward()
    # A seed far from those in use: a G drawn from the seed of the input or the weights would hide a transpose.
    generator = torch.Generator().manual_seed(subject.seed + 559_201_900)
    above = torch.ones(output.shape) if subject.is_loss else _random(output, generator)
    written = [(above, subject.backward(above, output.dtype))]
    if not _same(output, subject.forward(), 1e-12):
        reason = "two forward passes on the same input gave different outputs: there is no function to differentiate"
        yield Verdict("output", tuple(output.shape), math.inf, right=False, reason=reason, cannot_tell=True)
        return
    twice = subject.backward(above, output.dtype)
    for path, tensor in subject.strays():
        reason = "it has a gradient, but no optimizer will change it: is it missing from parameter_names?"
        yield Verdict(path, tuple(tensor.shape), math.inf, right=False, reason=reason)
    units = [torch.eye(n := tensor.numel()).view(n, *tensor.shape) for _, tensor in subject.tensors]
    slopes = [_slopes(subject, tensor, unit, output) for (_, tensor), unit in zip(subject.tensors, units)]
    if not subject.is_loss and output.numel():
        # With other weights, because backward must multiply by them, and larger ones for an output that others hide.
        sure = torch.cat([own.slope.abs().where(own.error <= 1e-6 * own.slope.abs(), 0.0) for own in slopes])
        seen = sure.amax(0) if len(sure) else torch.zeros(output.numel())
        above = 3 * _random(output, generator) * torch.where(seen > 0, seen.max() / seen, 1.0).view(output.shape)
        for _, tensor in subject.held:
            tensor.grad = None
        subject.forward()
        written.append((above, subject.backward(above, output.dtype)))
    for i, ((name, tensor), own) in enumerate(zip(subject.tensors, slopes)):
        tries = [_judge(subject, name, tensor.shape, found[i], weights, own) for weights, found in written]
        verdict, got = min(tries, key=lambda verdict: (verdict.right, verdict.cannot_tell)), written[0][1][i]
        if i and verdict.right and _differ(twice[i], 2 * got, 1e-4, 1e-12).any():
            what = "did not double it" if _differ(twice[i], got, 1e-4, 1e-12).any() else "replaced it"
            verdict = replace(verdict, right=False, reason=f"backward must add to .grad: a second backward {what}")
        if not i and verdict.right and _differ(twice[i], got, 1e-4, 1e-12).any():
            verdict = replace(verdict, right=False, reason="a second forward and backward gave another gradient")
        if verdict.right and own.gap.any():
            # One by one, the components may lie between the slopes at a kink. So must several that are moved together.
            several = 0.5 + torch.rand(8, *tensor.shape, generator=generator)
            several[4:] *= torch.rand(4, *tensor.shape, generator=generator).sub(0.5).sign()
            several[0] = 1  # equal numbers stay equal: there is no kink in this direction
            several *= own.gap.any(1).view(tensor.shape)
            along = several.reshape(len(several), -1) @ got.double().flatten()
            if _judge(
                subject, name, along.shape, along, written[0][0], _slopes(subject, tensor, several, output)
            ).wrong:
                reason = (
                    "at a kink, each slope may be right by itself, but not together: let one of equal maxima get all"
                )
                verdict = replace(verdict, right=False, error=math.inf, reason=reason)
        yield verdict


def _random(output: Tensor, generator: torch.Generator) -> Tensor:
    # Of both signs and far from 0, except where the output is no finite number.
    size, sign = torch.rand(2, *output.shape, generator=generator)
    weights: Tensor = (0.5 + size / 2) * torch.where(sign < 0.5, -1.0, 1.0)
    return weights.where(output.isfinite(), 0.0)


def _judge(subject: _Subject, name: str, shape: torch.Size, got: Any, above: Tensor, slopes: _Slopes) -> Verdict:
    weights, sizes = above.flatten(), above.flatten().abs()
    middle, width = slopes.slope @ weights, slopes.gap.abs() @ sizes / 2
    verdict = Verdict(name, tuple(shape), math.inf, right=False)
    if not isinstance(got, Tensor) or got.shape != shape or not got.is_floating_point():
        return replace(verdict, reason=_unfit(got, middle.view(shape)))
    if not got.numel() or not above.numel():
        return replace(verdict, error=0.0, right=True)
    error, reach, got = _infinite(slopes.error @ sizes), slopes.reach @ sizes, got.double().flatten()
    nearest = torch.where(width > 0, got.clamp(middle - width, middle + width), middle)
    # An infinite gradient is as far from every slope as from any other: it is wrong wherever the slope is known.
    difference, size = (got - nearest).abs(), torch.maximum(got.abs().where(~got.isinf(), 0.0), nearest.abs())
    still, blind = slopes.still.all(1), int((weights == 0).sum())  # blind: for outputs that are no finite numbers
    floor = 64 * (subject.eps * (slopes.slope.abs() @ sizes) + (slopes.floor @ sizes).where(still, 0.0))
    floor += slopes.lost @ sizes + torch.where(nearest == 0, 1e-150, 0.0)  # squares of less vanish in float64
    zero = still | (got == 0) & (slopes.dead | slopes.still).all(1)
    known = (error <= 5e-4 * size) | (error <= 1e-6 * reach) | zero
    bad = error.isfinite() & ~(difference <= subject.tolerance * size + error + floor) & (got.isfinite() | (blind == 0))
    bad &= ~got.isinf() | known
    unknown = ~bad & ~known
    relative = _infinite(difference / torch.where(bad, size, torch.maximum(size, reach)).clamp(min=1e-300))
    if bad.any():
        place = int(relative.where(bad, -1.0).argmax())
        index = tuple(int(i) for i in torch.unravel_index(torch.tensor(place), shape))
        expected = nearest.where(~unknown, math.nan).view(shape)
        reason = _reason(subject, got.view(shape), expected, above, slopes)
        reason = reason or f"wrong in {int(bad.sum())} of {got.numel()} components"
        verdict = replace(verdict, got=float(got[place]), expected=float(nearest[place]))
        return replace(verdict, error=float(relative[place]), index=index, reason=reason)
    if blind or unknown.any():
        reason = f"there is no slope to compare with in {int(unknown.sum())} of {got.numel()} components: "
        if blind:
            reason = f"there is no slope to compare with: forward gives infinite numbers or NaN in {blind} outputs"
        elif slopes.edge[unknown].any():
            reason += "close by, forward gives infinite numbers or NaN, or refuses"
        elif slopes.jump[unknown].any():
            reason += "forward jumps there"
        else:
            reason += "it is lost in rounding, or changes too fast; try another input"
        return replace(verdict, cannot_tell=True, reason=reason)
    kinks = int((width > 0).sum())
    note = (
        f"at a kink in {kinks} of {got.numel()} components, where any slope between the left and the right one is right"
    )
    if not (got.any() or nearest.any() or kinks):
        dull = "all slopes are 0 here, so that a wrong factor would not show: try torch.randn"
        return replace(verdict, error=0.0, right=True, reason=dull)
    return replace(verdict, error=float(relative.max()), right=True, reason=note if kinks else "")


# Words


def _reason(subject: _Subject, got: Tensor, expected: Tensor, above: Tensor, slopes: _Slopes) -> str:
    """Return in words which mistake turns the expected gradient into what was got."""

    def comes_from(weights: Tensor) -> bool:
        other = (slopes.slope @ weights.flatten()).view(got.shape).where(~expected.isnan(), math.nan)
        return bool(got.any()) and not _differ(got, other, 1e-4).any()

    if got.shape == above.shape and torch.equal(got, above):
        return "it is the gradient from above, unchanged"
    if comes_from(torch.ones_like(above)) and not subject.is_loss:
        return "the slope is not multiplied by the gradient from above"
    samples = len(above) if above.dim() > 1 else 1
    for n in (0, samples - 1) if samples > 1 else ():
        if comes_from(above * (torch.arange(samples) == n).view(-1, *[1] * (above.dim() - 1))):
            return f"only sample {n} counts: the sum over the batch is missing"
    sizes = {"samples": len(subject.input) if subject.input.dim() > 1 else 1, "components": subject.input.numel()}
    return "; ".join(compare(got, expected, sizes))


def _factor(factor: float, sizes: Mapping[str, int]) -> str:
    if factor < 0:
        return ", the sign is wrong" + _factor(-factor, sizes)
    known = {"there is a factor 2 too many": 2.0, "the factor 2 is missing": 0.5}
    for letter, what in ("N", "samples"), ("M", "components"):
        if (n := sizes.get(what, 1)) > 1:
            words = f"with {letter} = {n} {what}"
            known[f"that is {letter}, {words}: summed where it should be averaged"] = n
            known[f"that is 1/{letter}, {words}: averaged where it should be summed"] = 1 / n
            known |= {f"that is 2/{letter}, {words}": 2 / n, f"that is {letter}/2, {words}": n / 2}
            known[f"that is {letter}/({letter} − 1), {words}"] = n / (n - 1)
            known[f"that is ({letter} − 1)/{letter}, {words}"] = (n - 1) / n
    n, m = sizes.get("samples", 1), sizes.get("components", 1)
    if n > 1 and m > 0:
        words = f"the number of outputs, with M = {m} components and N = {n} samples: divided by"
        known[f"that is M/N, {words} N instead of M"] = m / n
        known[f"that is N/M, one over {words} M instead of N"] = n / m
    names = [name for name, value in known.items() if value != 1 and abs(factor - value) < 1e-4 * value]
    return ", " + ", or ".join(names) if names else ""


def _differ(got: Tensor, expected: Tensor, tolerance: float, eps: float = 2.0**-52) -> Tensor:
    # Which components are wrong; rounding is that of the largest.
    floor = 64 * eps * float(expected.abs().nan_to_num().max()) if expected.numel() else 0.0
    limit = tolerance * torch.maximum(got.abs(), expected.abs()).nan_to_num() + floor  # finite, so that ∞ is wrong
    return ~((got - expected).abs() <= limit) & ~expected.isnan()


def _same(a: Tensor, b: Tensor, tolerance: float = 0.0) -> bool:
    return a.shape == b.shape and bool(torch.isclose(a, b, tolerance, 0, equal_nan=True).all())


def _unfit(got: Any, expected: Tensor) -> str:
    """Say why `got` cannot even be compared; a sentence stays one."""
    if got is None or isinstance(got, str):
        return got or "there is no gradient: its .grad is None"
    if not isinstance(got, Tensor):
        return f"it is {_kind(got)}, expected a tensor of shape {tuple(expected.shape)}"
    if got.shape == expected.shape:
        return f"it holds {got.dtype}, expected floating-point numbers"
    words = _shapes([*got.shape], [*expected.shape])
    if got.shape[::-1] == expected.shape:
        turned = got.to("cpu", torch.float64).permute(*range(got.dim())[::-1])
        words += " of the right one" if not _differ(turned, expected.double().cpu(), 1e-4).any() else ", and wrong"
    return words


def _shapes(got: list[int], expected: list[int]) -> str:
    words = ""
    if got[::-1] == expected:
        words = ": it is the transpose"
    elif got[1:] == expected:
        words = ": the sum over the batch, dimension 0, is missing"
    elif [size for size in got if size != 1] == [size for size in expected if size != 1]:
        words = ": a dimension of size 1 too many or too few"
    return f"its shape is {tuple(got)}, expected {tuple(expected)}{words}"


def _kind(value: object) -> str:
    if value is None or isinstance(value, Tensor):
        return str(value.dtype if isinstance(value, Tensor) else value)
    module = type(value).__module__
    return f"a {type(value).__name__}" if module == "builtins" else f"a {module}.{type(value).__name__}"


def _explain(subject: _Subject, what: str, error: BaseException) -> str:
    """Say what was raised in the learner's code, on which line, and what that often means."""
    message, kind = "", type(subject.module)
    with contextlib.suppress(Exception):  # an exception of the learner's own may fail to say what it is
        message = " ".join(str(error).split())
    root = next(c for c in reversed(kind.__mro__) if c.__module__ not in ("builtins", "abc"))
    base, file = (getattr(sys.modules.get(c.__module__), "__file__", None) for c in (root, kind))
    place = _place(
        inspect.getinnerframes(error.__traceback__) if error.__traceback__ else [], base if base != file else None
    )
    if shapes := re.search(r"gradient of size '(\[.*?\])' to a tensor of size '(\[.*?\])'", message):
        got, expected = ([int(n) for n in re.findall(r"\d+", text)] for text in shapes.groups())
        names = " or ".join(name for name, tensor in subject.tensors[1:] if list(tensor.shape) == expected)
        return f"the gradient of {names or 'a parameter'}: {_shapes(got, expected)}{place}"
    arguments = "is self the first parameter?"
    if subject.is_loss:
        arguments = "with a target, it is checked as a loss: forward(self, prediction, target), backward(self)"
    elif what == "forward" and "missing" in message:
        arguments = "a loss is checked with a prediction and a target"
    hints = {
        "positional argument": arguments,
        "dtype": "the check runs in float64, so make new tensors like the input, and name parameters and buffers",
        "object has no attribute": "is it set in __init__, and does that call super().__init__()?",
        "'NoneType' and": "a .grad is None at first: use accumulate",
        "does not require grad": "autograd is off: backward must compute the gradient itself",
        "maximum recursion": "does it call itself?",
    }
    hint = next((f": {hint}" for words, hint in hints.items() if words in message), "")
    if isinstance(error, SystemExit):
        hint = ", which ends the program: it must return"
    return f"{what} raised {type(error).__name__}{': ' if message else ''}{message}{hint}{place}"


def _place(frames: Sequence[inspect.FrameInfo], base: str | None = None) -> str:
    """Return the innermost line, where there is one, that belongs neither to a library nor to the file `base`."""
    libraries = (os.path.dirname(torch.__file__), sysconfig.get_path("stdlib"), __file__, "<frozen", base or __file__)
    own = [f for f in frames if not f.filename.startswith(libraries) and "site-packages" not in f.filename]
    return _line(own[-1].filename, own[-1].lineno) if own else ""


def _where(function: Any) -> str:
    code = getattr(inspect.unwrap(function), "__code__", None)
    return _line(code.co_filename, code.co_firstlineno) if code else ""


def _line(filename: str, number: int) -> str:
    file = "" if filename.startswith("<") or "ipykernel" in filename else f" of {os.path.basename(filename)}"
    text = linecache.getline(filename, number).strip()
    return f" (line {number}{file}{': ' + text if text and not text.startswith('raise ') else ''})"
