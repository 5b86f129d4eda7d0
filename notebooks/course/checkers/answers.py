"""What learners hand over becomes numbers, in whatever form it comes, and is compared and told in words."""

import contextlib
import functools
import inspect
import itertools
import math
import numbers
import re
import reprlib
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from gradcheck import digits


class NoAnswerError(Exception):
    """The exercise, or the part of it that the message names, was not attempted yet."""


class AnswerError(Exception):
    """The answer is wrong; the message says why."""


def shown(value) -> str:
    """Return a few words for any object."""
    try:
        if isinstance(value, Tensor):
            return f"a tensor of shape {tuple(value.shape)}" if value.dim() else f"a tensor, {value.item():.6g}"
        if isinstance(value, type):
            return f"the class {value.__name__}"
        if isinstance(value, np.ndarray) and value.ndim:
            return f"a NumPy array of shape {value.shape}"
        if inspect.isroutine(value) or isinstance(value, functools.partial):
            return f"a function{', ' + value.__name__ if getattr(value, '__name__', '<')[0] != '<' else ''}"
        if isinstance(value, (str, numbers.Number, list, tuple, dict, set, type(None))):
            return reprlib.repr(value)
        return f"an object of type {type(value).__name__}"
    except Exception:
        return "an object that cannot even be shown"


# Answers become numbers


def tensor(what: str, value, wanted: str = "a number or a tensor") -> Tensor:
    """Return any answer that consists of numbers as a float64 tensor: of any dtype, NumPy's, nested lists, generators.

    Raises:
        AnswerError: it holds something else.
    """
    try:
        return _numbers(value)
    except AnswerError as reason:
        raise AnswerError(f"{what} should be {wanted}, but is {reason}.") from None
    except RecursionError:
        raise AnswerError(f"{what} should be {wanted}, but is a list that holds itself.") from None
    except Exception:
        raise AnswerError(f"{what} should be {wanted}, but is {shown(value)}.") from None


def _numbers(value) -> Tensor:
    if isinstance(value, Tensor):
        if value.is_complex():
            raise AnswerError("complex")
        dense = value.detach().to_dense() if value.layout != torch.strided else value.detach()
        return dense.to("cpu", torch.float64)
    if isinstance(value, (Iterator, range)):
        value = list(itertools.islice(value, 100_000))
    if isinstance(value, (list, tuple)):
        parts = [_numbers(part) for part in value]
        if any(part.shape != parts[0].shape for part in parts):
            raise AnswerError("a list of parts of different shapes")
        return torch.stack(parts) if parts else torch.empty(0, dtype=torch.float64)
    if isinstance(value, (np.ndarray, np.generic)):
        if value.dtype == object:
            return _numbers(value.tolist())
        if value.dtype.kind not in "biuf":
            raise AnswerError(shown(value))
        return torch.from_numpy(np.array(value, dtype=np.float64))
    if isinstance(value, (str, bytes, dict, set, frozenset, type, complex)) or callable(value):
        raise AnswerError(shown(value))
    if hasattr(value, "__float__"):
        return torch.tensor(float(value), dtype=torch.float64)
    if hasattr(value, "__array__"):
        return _numbers(np.asarray(value))
    raise AnswerError(shown(value))


def number(what: str, value, units: Sequence[str] = ()) -> float:
    """Return an answer that is one number, in whatever wrapping: a string, perhaps with a unit, or a list of one.

    Raises:
        AnswerError: it is something else, several numbers, True or False, or NaN.
    """
    said, hint = shown(value), ""
    if isinstance(value, str):
        words = value.strip().lower()
        unit = next((unit for unit in units if words.endswith(unit)), "")
        with contextlib.suppress(ValueError, ArithmeticError):
            value = math.prod(_quotient(words.removesuffix(unit)))
        hint = ": write it without quotation marks" if re.search(r"\d", words) else ""
    is_bool = isinstance(value, bool) or str(getattr(value, "dtype", "")) in ("bool", "torch.bool")
    try:
        found = None if is_bool else tensor(what, value)
    except AnswerError:
        found = None
    if found is None or found.numel() != 1:
        if inspect.isroutine(value) or isinstance(value, functools.partial):
            hint = ": call it, and hand over what it returns"
        raise AnswerError(f"{what} should be a number, but is {said}{hint}.")
    if not math.isfinite(found.item()):
        raise AnswerError(f"{what} should be a number, but is {'NaN' if found.isnan() else 'infinite'}.")
    return found.item()


def _quotient(words: str) -> Iterator[float]:
    """Yield the factors of "0.3 / 120", which are 0.3 and 1/120, or of a single number."""
    first, *others = (float(part.replace(",", ".")) for part in words.split("/"))
    yield first
    yield from (1 / other for other in others)


def truth(what: str, value, yes: Sequence[str] = (), no: Sequence[str] = ()) -> bool:
    """Return an answer to a question of yes or no: True or False of any library, 0 or 1, or the words.

    Args:
        yes, no: more words that mean the same, in lower case.

    Raises:
        AnswerError: it is something else.
    """
    words = dict.fromkeys(("true", "t", "yes", "y", "1", *yes), True)
    words |= dict.fromkeys(("false", "f", "no", "n", "0", *no), False)
    if isinstance(value, str) and (word := " ".join(value.lower().strip(" .!").split())) in words:
        return words[word]
    with contextlib.suppress(Exception):
        if isinstance(value, (bool, int, float, np.ndarray, np.generic, Tensor)):
            found = _numbers(value)
            if found.numel() == 1 and found.item() in (0, 1):
                return bool(found.item())
    hint = ": reduce it to one, by any() or all()" if getattr(value, "shape", None) else ""
    raise AnswerError(f"{what} should be True or False, but is {shown(value)}{hint}.")


# Comparisons


def close(got: Tensor, expected) -> bool:
    """Whether the shapes agree and each component does, as far as float32 can tell."""
    expected = torch.as_tensor(expected, dtype=torch.float64)
    return got.shape == expected.shape and not _differing(got, expected).any()


def _differing(got: Tensor, expected: Tensor) -> Tensor:
    # Per component, since a tenth of a small number is a mistake too. The second term is what float32 loses where
    # numbers cancel: a few units in the last place of the largest.
    finite = expected[expected.isfinite()]
    scale = float(finite.abs().max()) if finite.numel() else 0.0
    wrong = ~((got - expected).abs() <= 1e-5 * expected.abs() + 2e-6 * scale) | expected.isinf()
    return wrong & ~((got == expected) | (got.isnan() & expected.isnan()))


def expect(
    what: str,
    got,
    expected: Tensor,
    mistakes: Mapping | None = None,
    at: Mapping | None = None,
    nan: str = "not a number, NaN.",
) -> None:
    """Refuse an answer that is not the expected tensor.

    Args:
        what: what is compared, for the message.
        got: the answer, in any form that `tensor` accepts.
        mistakes: answers that show a known misunderstanding: {the sentence about it: the value, or several in a tuple}.
            A wrong sign and nothing but zeros need not be among them.
        at: {name: tensor of the expected shape}: from which number a component was made.
        nan: what to say where the answer is NaN, after "... is ".

    Raises:
        AnswerError: with the sentence; or what is known of the difference, and the worst component.
    """
    got, expected = tensor(what, got), torch.as_tensor(expected).to(torch.float64)
    if got.numel() == expected.numel() == 1:
        got = got.reshape(expected.shape)
    if close(got, expected):
        return
    named = {**(mistakes or {}), "the sign is wrong.": -expected, "it is all zero.": 0 * expected}
    for words, mistake in named.items():
        if any(close(got, value) for value in (mistake if isinstance(mistake, tuple) else (mistake,))):
            raise AnswerError(f"{what}: {words}")
    if got.isnan().any() if got.shape != expected.shape else (got.isnan() & ~expected.isnan()).any():
        raise AnswerError(f"{what} is {nan}")
    if got.shape != expected.shape:
        turned = got.dim() > 1 and close(got.mT, expected)
        hint = ": it is transposed" if turned else ""
        raise AnswerError(f"{what} should have shape {tuple(expected.shape)}, but has {tuple(got.shape)}{hint}.")
    wrong = _differing(got, expected)
    sizes = torch.where(wrong, (got - expected).abs().nan_to_num(nan=math.inf), -1.0)
    place = [int(i) for i in torch.unravel_index(sizes.argmax(), expected.shape)]
    mine, theirs = digits(float(got[tuple(place)]), float(expected[tuple(place)]))
    where = f"{what} at [{', '.join(map(str, place))}]" if place else what
    if at:
        where += ", where " + ", ".join(f"{name} is {float(t[tuple(place)]):.6g}" for name, t in at.items()) + ","
    raise AnswerError(f"{where} should be {theirs}, but is {mine}{_relation(got, expected, wrong)}.")


def _relation(got: Tensor, expected: Tensor, wrong: Tensor) -> str:
    if expected.numel() < 2 or not (expected.isfinite() & got.isfinite()).all() or not expected.any():
        return ""
    factor = float((got * expected).sum() / expected.square().sum())
    if close(got, factor * expected):
        return f"; all of it is {digits(factor, 1.0, 4)[0]} times the right one"
    if expected.dim() == 2 and close(got, expected.mT):
        return "; it is transposed"
    if any(close(got, expected.round(decimals=places)) for places in range(1, 6)):
        return "; it is rounded, and should be left as it is"
    return f"; {int(wrong.sum())} of {wrong.numel()} are wrong" if not wrong.all() else ""


def expect_number(
    what: str,
    got,
    expected: float,
    mistakes: Mapping[str, float] | None = None,
    hint: str | Callable[[float], str] = "",
    rounded: bool = False,
    units: Sequence[str] = (),
) -> None:
    """Refuse an answer that is not the expected number. The expected one is never shown: a hint is.

    Args:
        mistakes: numbers that show a known misunderstanding: {the sentence about it: the number}.
        hint: what to say about any other number, a function of it if need be.
        rounded: whether what rounds to three figures, or is itself rounded to at least two, will do.
        units: what may stand behind the number in a string, such as "%".

    Raises:
        AnswerError: with the sentence or the hint.
    """
    value = number(what, got, units)
    if _same(value, expected, rounded):
        return
    for words, mistake in (mistakes or {}).items():
        if _same(value, mistake, rounded):
            raise AnswerError(f"{what}: {words}")
    said = hint(value) if callable(hint) else hint
    if rounded and abs(value - expected) <= 0.02 * abs(expected):
        said = f"It is close; give more figures, or round correctly. {said}"
    raise AnswerError(f"{what} is not {value:.6g}. {said}".rstrip())


def expect_numbers(cases: Sequence[tuple], hint: Callable[..., str] | str = "") -> None:
    """Refuse a function one of whose results is not the expected number. A mistake is named where all results show it.

    Args:
        cases: (what, got, expected, mistakes, arguments): the first four as in `expect_number`.
        hint: what to say where no mistake is named: a function of the result and of the arguments, if need be.

    Raises:
        AnswerError: with the sentence or the hint, for the first result that is wrong.
    """
    values = [number(case[0], case[1]) for case in cases]
    wrong = [not _same(value, case[2]) for value, case in zip(values, cases)]
    if not any(wrong):
        return
    what, _, expected, mistakes, arguments = cases[wrong.index(True)]
    value = values[wrong.index(True)]
    if len(set(values)) == 1 < len({case[2] for case in cases}):
        raise AnswerError(f"{what} is {value:.6g}, and so is every other result: it should depend on the arguments.")
    if any(all(_same(v, round(case[2], places)) for v, case in zip(values, cases)) for places in range(1, 8)):
        raise AnswerError(f"{what} is right but for rounding: return the number as it is, {value:.6g} is rounded.")
    for words in mistakes:
        if all(_same(v, case[3].get(words, math.nan)) for v, case in zip(values, cases)):
            raise AnswerError(f"{what}: {words}")
    said = hint(value, *arguments) if callable(hint) else hint
    raise AnswerError(f"{what} is not {digits(value, expected)[0]}. {said}".rstrip())


def _same(value: float, other: float, rounded: bool = False) -> bool:
    if not rounded or other == 0:
        return abs(value - other) <= 1e-5 * abs(other)
    half = 0.5 * 10 ** (math.floor(math.log10(abs(other))) - 2)
    return abs(value - other) <= 1.0001 * half or abs(value - float(f"{other:.2g}")) <= 1e-6 * abs(other)
