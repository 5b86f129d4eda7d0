"""Learners' code is run with care: on copies, and every exception becomes a sentence with the line of their code."""

import contextlib
import difflib
import dis
import functools
import inspect
import linecache
import math
import re
import signal
import sysconfig
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping
from types import CodeType, ModuleType
from unittest import mock

import numpy as np
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

import diy

from .answers import AnswerError, NoAnswerError, close, shown, tensor


def any_precision(checker: Callable) -> Callable:
    """Let a checker measure in float64 and, what does not pass there, once more in float32.

    A learner's `.float()` is no mistake, but in float64 it meets numbers of another dtype.
    """

    @functools.wraps(checker)
    def twice(*answers):
        torch.set_default_dtype(torch.float64)
        try:
            return checker(*answers)
        except AnswerError as error:
            torch.set_default_dtype(torch.float32)
            try:
                return checker(*answers)
            except AnswerError:
                raise error from None

    return twice


def normal(*shape: int, seed: int = 0) -> Tensor:
    """Return normal numbers of the default dtype, the same for the same seed."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def run(name: str, function, /, *, returns: bool = True, copies: bool = True, **arguments):
    """Return function(*arguments.values()), called on copies of all tensors.

    Args:
        name: what to call the function in messages.
        returns: whether the function has to return something.
        copies: False for a function that is to change what it gets: it is called on that itself.
        arguments: under the names that the exercise gives them.

    Raises:
        NoAnswerError: its body is still "...".
        AnswerError: it is no function, raises, returns nothing, or changes what it was given.
    """
    given = {key: _copy(value) for key, value in arguments.items()} if copies else arguments
    result = _called(name, function, given, returns)
    for key, value in arguments.items():
        check_unchanged(name, key, given[key], value)
    return result


class _TimeLimitError(BaseException):
    """The learner's code runs for too long. No code, theirs or ours, takes this for an exception of its own."""


LIMIT = 120
"""After how many seconds a check is given up: the longest takes a few."""


@contextlib.contextmanager
def limited() -> Iterator[None]:
    """End what runs after LIMIT seconds, where the operating system can interrupt it: not on Windows or in threads.

    Raises:
        AnswerError: it did not end by itself.
    """
    if (
        threading.current_thread() is not threading.main_thread()
        or not hasattr(signal, "setitimer")
        or signal.getitimer(signal.ITIMER_REAL)[0]  # the timer is another's
        or signal.getsignal(signal.SIGALRM) is None
    ):
        yield
        return

    def stop(*_):
        raise _TimeLimitError

    handler = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, LIMIT, 1)  # and again, should a bare `except` have caught it
    try:
        yield
    except _TimeLimitError as error:
        signal.setitimer(signal.ITIMER_REAL, 0)
        line, _ = _place(error)
        raise AnswerError(f"After {LIMIT} seconds your code still runs{line}: does a loop never end?") from None
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, handler)


@contextlib.contextmanager
def _telling(name: str, function=None) -> Iterator[None]:
    """Turn what a learner's code raises into a sentence about `name`."""
    try:
        yield
    except (AnswerError, NoAnswerError, KeyboardInterrupt, _TimeLimitError):
        raise
    except BaseException as error:
        recalls = hasattr(getattr(function, "__self__", None), "recall")
        raise _told(name, error, _HINTS | (_RECALL_HINTS if recalls else {})) from None


def unforeseen(error: BaseException) -> AnswerError | NoAnswerError:
    """Return the sentence on what was raised where a checker does not expect it, as in a property of the learner's."""
    line, place = _place(error)
    if line or place == "diy":
        return _told("Your code", error)
    words = f"it raised {type(error).__name__} where no code of yours runs: {message_of(error)}"
    return AnswerError(f"The checker cannot make sense of this answer, {words}.")


def _called(name: str, function, given: Mapping, returns: bool = True):
    """Return function(*given.values()), see `run`."""
    if not callable(function):
        raise AnswerError(f"Hand over the function {name} itself, not what it returns: this is {shown(function)}.")
    if _is_open(function):
        raise NoAnswerError
    _check_signature(name, function, given)
    with _telling(name, function):
        try:
            result = function(*given.values())
        except TypeError as error:  # a module that returns nothing is refused by diy before it can be seen here
            raise _nothing(name, function) if "returned NoneType" in message_of(error) else error
    if result is ...:
        raise NoAnswerError
    if result is None and returns:
        raise _nothing(name, function)
    return result


def _nothing(name: str, function) -> AnswerError:
    hint = "`print` only shows it, `return` hands it over." if "print" in names_in(function) else "is `return` missing?"
    return AnswerError(f"{name} returns nothing: {hint}")


def check_unchanged(name: str, argument: str, now, before) -> None:
    """Refuse a function that changed its argument.

    Raises:
        AnswerError: the two differ.
    """
    if not _equal(now, before):
        what = "the gradient from above" if argument == "gradient" else f"its argument {argument}"
        hint = f"change a copy, {argument}.clone()" if isinstance(before, Tensor) else "change copies"
        raise AnswerError(f"{name} changes {what} in place, which its caller still needs: {hint}.")


class Passes:
    """A learner's module or loss at work. Every pass runs on copies, and must leave alone what it was given.

    Args:
        name: what to call it in messages.
        answer: the class (or, where it takes no arguments, an object).
        arguments: of its __init__, by their names; they are handed over by position.
        keywords: the same, but handed over by name.
        kind: "Module" or "Loss".
    """

    def __init__(self, name: str, answer, keywords: Mapping | None = None, kind: str = "Module", **arguments):
        self.name = name
        self.module = _made(name, answer, arguments, dict(keywords or {}), kind)

    def forward(self, **inputs: Tensor):
        """Return what forward makes of the inputs.

        Raises:
            NoAnswerError, AnswerError: see `run`; autograd is refused as well.
        """
        self.inputs = [(key, value.clone(), value) for key, value in inputs.items()]
        self.output = self._passed("forward", {key: given for key, given, _ in self.inputs})
        self.kept = _copy(self.output)
        return self.output

    def backward(self, gradient: Tensor | None = None):
        """Return what backward makes of the gradient from above; that of a loss takes none.

        Raises:
            NoAnswerError, AnswerError: see `run`; autograd is refused as well.
        """
        given = {}
        if gradient is not None:
            if isinstance(self.output, Tensor) and self.output.is_floating_point():
                gradient = gradient.to(self.output.dtype)
            given["gradient"] = gradient.clone()
        try:
            result = self._passed("backward", given)
        except NoAnswerError:
            raise NoAnswerError(f"{self.name}.forward is right so far, backward still has its dots.") from None
        if given:
            check_unchanged(f"{self.name}.backward", "gradient", given["gradient"], gradient)
        if not _equal(self.output, self.kept):
            raise AnswerError(f"{self.name}.backward changes in place what forward returned: take a copy first.")
        return result

    def _passed(self, method: str, given: Mapping[str, Tensor]):
        name = f"{self.name}.{method}"
        with by_hand(self.name):
            result = _called(name, getattr(self.module, method), given)
        for key, now, before in self.inputs:
            check_unchanged(name, key, now, before)
        return result


def check_memory(name: str, answer, *inputs: str, sizes: tuple[int, ...] = (2,), **arguments: Callable) -> None:
    """Refuse a module, or a loss of two inputs, that remembers another forward than its own last one.

    One that does something else in evaluation than in training is refused as well.

    Args:
        inputs: of its forward, by their names.
        sizes: the shape of one sample.
        arguments: what makes the arguments of its __init__, by their names; each object gets its own.

    Raises:
        AnswerError: its backward belongs to an earlier batch, or to another object of the class.
    """
    if not isinstance(answer, type):
        return
    one, other, larger = (
        {key: normal(samples, *sizes, seed=seed + i) for i, key in enumerate(inputs)}
        for samples, seed in ((3, 1), (3, 4), (5, 4))
    )

    def made_after(*batches: Mapping[str, Tensor]) -> Passes:
        passes = Passes(name, answer, **{key: make() for key, make in arguments.items()})
        for batch in batches:
            passes.forward(**batch)
        return passes

    def gradient(passes: Passes) -> Tensor:
        above = [normal(*passes.output.shape, seed=7)] if len(inputs) == 1 else []
        return tensor("The gradient", passes.backward(*above))

    right, last = gradient(made_after(one)), made_after(other, one)
    output = tensor("The output", last.output)
    if not close(gradient(last), right):
        raise AnswerError(f"{name}.backward belongs to an earlier batch: each forward must remember its own.")
    for batch in other, larger:
        first, second = made_after(one), made_after(batch)
        gradient(second)
        try:
            kept = close(gradient(first), right)
        except AnswerError:  # diy has noticed it, too; alone it went well
            kept = False
        if not kept:
            raise AnswerError(SHARED.format(name))
    if callable(evaluate := getattr(last.module, "eval", None)):
        evaluate()
        if not (close(tensor("The output", last.forward(**one)), output) and close(gradient(last), right)):
            raise AnswerError(f"{name} does something else after eval(), and should do the same as in training.")


SHARED = (
    "With two {} objects, what one remembers is taken for the other: keep it in self, which is another object for each."
)


def _made(name: str, answer, arguments: dict, keywords: dict, kind: str):
    is_class = isinstance(answer, type)
    kind_of = answer if is_class else type(answer)
    if issubclass(kind_of, (torch.nn.Module, torch.autograd.Function)):
        hint = f"derive {name} from {kind}, the framework's own, and write both passes"
        raise AnswerError(f"{name} belongs to PyTorch, whose backward comes from autograd: {hint}.")
    if not is_class and not hasattr(answer, "forward") and not hasattr(answer, "backward"):
        raise AnswerError(f"Hand over the class {name}, with forward and backward: this is {shown(answer)}.")
    if not is_class and (arguments or keywords):
        raise AnswerError(f"Hand over the class {name} itself, without brackets: this is an object of it.")
    for method in "forward", "backward":
        found = getattr(answer, method, None)
        if not callable(found) or getattr(found, "__isabstractmethod__", False):
            alike = [n for n in vars(kind_of) if not n.startswith("_") and callable(vars(kind_of)[n])]
            alike = difflib.get_close_matches(method, [n for n in alike if n not in ("forward", "backward")], 1, 0.6)
            hint = f"is {alike[0]} meant to be that?" if alike else "is it indented so that it stands inside the class?"
            raise AnswerError(f"{name} has no {method}: {hint}")
        if getattr(inspect.unwrap(found), "__module__", "") == "diy":
            raise AnswerError(f"{name}.{method} is the one of diy.py: write it yourself.")
    if not is_class:
        return answer
    init = _signature(answer)
    try:
        init.bind(*arguments.values(), **keywords)
    except TypeError:
        wanted = ", ".join([*arguments, *(f"{key}={value}" for key, value in keywords.items())])
        hint = f"its __init__ should accept {wanted}" if wanted else "its __init__ should need nothing but self"
        raise AnswerError(f"{name}({wanted}) cannot be made, as it takes {init}: {hint}.") from None
    with by_hand(name), _telling(f"{name}.__init__"):
        return answer(*arguments.values(), **keywords)


@contextlib.contextmanager
def by_hand(name: str, wanted: str = "backward is to be written by hand") -> Iterator[None]:
    """Refuse what others wrote: PyTorch's gradients and optimizers, and diy's class of the same name.

    All of automatic differentiation goes through one function of PyTorch for each direction.
    """
    said = []

    def refusing(words: str) -> Callable:
        def refuse(*_, **__):
            said.append(f"{name} {words}")
            raise RuntimeError(words)

        return refuse

    autograd = refusing(f"lets PyTorch's autograd find the gradient: here {wanted}.")
    library = refusing("leaves its work to PyTorch's: write it yourself.")
    ours, same = getattr(diy, name, None), refusing("leaves its work to the one of diy.py: write it yourself.")
    refused = [(torch.autograd, "_engine_run_backward", autograd), (torch.autograd.forward_ad, "make_dual", autograd)]
    refused += [(torch.optim.Optimizer, "__init__", library)]
    refused += [(ours, method, same) for method in ("forward", "backward", "step") if hasattr(ours, method)]
    try:
        with contextlib.ExitStack() as stack:
            for owner, method, refuse in refused:
                stack.enter_context(mock.patch.object(owner, method, refuse))
            stack.enter_context(_Formulas(library))
            yield
    except AnswerError:
        if not said:
            raise
    if said:
        raise AnswerError(said[0])


class _Formulas(TorchFunctionMode):
    """Refuses the formulas of PyTorch's own backward passes, such as torch.ops.aten.tanh_backward."""

    def __init__(self, refuse: Callable):
        super().__init__()
        self.refuse = refuse

    def __torch_function__(self, function, types, args=(), kwargs=None):
        if "_backward" in getattr(function, "__name__", ""):
            self.refuse()
        return function(*args, **(kwargs or {}))


def _code(function) -> CodeType | None:
    function = inspect.unwrap(getattr(function, "__func__", function))
    return getattr(function, "__code__", None)


def _is_open(function) -> bool:
    """Whether dots are left in a function: as its whole body, as what it returns, or as what a name stands for.

    The compiler drops a line of dots; what is left of such a body then does nothing.
    """
    if not (code := _code(function)):
        return False
    steps = [step for step in dis.get_instructions(code) if step.opname not in ("RESUME", "NOP", "CACHE")]
    for step, after in zip(steps, [*steps[1:], steps[-1]]):
        names = ("STORE_FAST", "STORE_DEREF", "STORE_NAME", "RETURN_VALUE")
        if step.argval is ... and (step.opname == "RETURN_CONST" or after.opname in names):
            return True
    constants = {step.argval for step in steps if step.opname in ("LOAD_CONST", "RETURN_CONST")}
    return constants == {None} and {step.opname for step in steps} <= {"LOAD_CONST", "RETURN_CONST", "RETURN_VALUE"}


def names_in(function) -> set[str]:
    """Return the names that a function and what it is made of use: partials, wrapped and inner functions, methods.

    The name of another function of the learner's says nothing: that function is looked into instead. The number e is
    found by its value, and is "math.e" wherever it comes from.
    """
    names: set[str] = set()
    waiting, seen = [function], set()
    while waiting and len(seen) < 1000:
        part = waiting.pop()
        if id(part) in seen or not callable(part):
            continue
        seen.add(id(part))
        with contextlib.suppress(Exception):
            if not (code := _code(part)):
                names.add(getattr(part, "__name__", type(part).__name__))
                waiting += [getattr(part, key, None) for key in ("func", "pyfunc", "__wrapped__")]
                waiting += [vars(type(part)).get("__call__"), vars(type(part)).get("forward")]
                waiting += list(getattr(part, "__dict__", {}).values())
                continue
            part = inspect.unwrap(getattr(part, "__func__", part))
            waiting += [cell.cell_contents for cell in part.__closure__ or ()]
            value = None
            for step in _steps(code):
                if step.opname == "LOAD_ATTR" and isinstance(value, ModuleType):
                    value = getattr(value, step.argval, None)
                else:
                    value = part.__globals__.get(step.argval) if step.opname == "LOAD_GLOBAL" else step.argval
                if isinstance(value, float) and abs(value - math.e) < 1e-4:
                    names.add("math.e")
                if step.opname == "LOAD_GLOBAL" and getattr(value, "__module__", None) == part.__module__:
                    waiting.append(value)
                elif step.opname.startswith(("LOAD_GLOBAL", "LOAD_ATTR", "LOAD_METHOD", "LOAD_NAME", "IMPORT")):
                    names.add(str(step.argval))
    return names


def _steps(code: CodeType) -> Iterator[dis.Instruction]:
    yield from dis.get_instructions(code)
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _steps(constant)


def _signature(function) -> inspect.Signature:
    try:
        return inspect.signature(function)
    except (TypeError, ValueError):  # some builtin functions have none
        return inspect.signature(lambda *arguments, **keywords: None)


def _check_signature(name: str, function, arguments: Mapping) -> None:
    signature = _signature(function)
    try:
        signature.bind(*arguments.values())
    except TypeError:
        wanted = ", ".join(arguments)
        method = "." in name and not inspect.isfunction(function)
        if method and next(iter(_signature(getattr(function, "__func__", function)).parameters), "") != "self":
            raise AnswerError(
                f"{name} lacks self, which comes before its other arguments: {wanted or 'none'}."
            ) from None
        hint = " (after self)" if method else ""
        many = f"{len(arguments)} argument{'s' * (len(arguments) != 1)}"
        wanted = f"{many}{hint}: {wanted}" if arguments else f"no argument{' but self' * method}"
        raise AnswerError(f"{name} takes {signature}, but is called with {wanted}.") from None


def _copy(value):
    if isinstance(value, (Tensor, np.ndarray)):
        return value.detach().clone() if isinstance(value, Tensor) else value.copy()
    return type(value)(map(_copy, value)) if type(value) in (list, tuple) else value


def _equal(a, b) -> bool:
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        return a is b or (a.shape == b.shape and a.dtype == b.dtype and torch.equal(a.nan_to_num(), b.nan_to_num()))
    if isinstance(a, (list, tuple)) and isinstance(b, (list, tuple)):
        return len(a) == len(b) and all(map(_equal, a, b))
    return not isinstance(a, (int, float, str)) or a == b or a != a


# What is said about exceptions

_OURS = {"diy", "gradcheck", "course", "playground", "experiments", "bugs"}

_HINTS = {
    "does not require grad": "diy keeps no graph for autograd; a step has model.backward(criterion.backward())",
    "only one element tensors|only 0-dimensional arrays|can only be converted": (
        "it works for a single number, and gets a tensor of many: use PyTorch's functions"
    ),
    "Boolean value of Tensor|truth value of an array": (
        "`if`, `and` and `or` ask about one number: use torch.where or &, and `is None` where a tensor may be missing"
    ),
    "name 'math' is not defined": "`import math` comes first",
    "name 'np' is not defined": "`import numpy as np` comes first",
    "bitwise_xor": "a power is **, not ^",
    "bitwise_(and|or)|for [&|]": "comparisons need brackets here, (a > b) & (c > d): & and | come before them",
    "bool tensors? is not supported": "make numbers of True and False first, (...).to(input.dtype)",
    "tuple index out of range": "a shape has as many numbers as the tensor has dimensions, and not all have two",
    "maximum recursion": "it calls itself without end",
    "positional argument": "compare how it is defined with how it is called",
    "NoneType": "something there is None: a result without `return`, or a .grad before the first backward",
    "assign a gradient of size": "is a sum over the samples missing? A gradient has the shape of its parameter",
    "a leaf Variable that requires grad": "parameters here are plain tensors, without requires_grad",
}


_RECALL_HINTS = {
    "values to unpack": "self.recall gives the gradient from above, and what `remember` got after the output",
    "tuple(?! index)": "something there is a tuple, as self.recall gives: take it apart, `gradient, output = ...`",
    "only integer tensors": "something there is a tuple or a list, and not a tensor, as self.recall gives",
}


def message_of(error: BaseException) -> str:
    """Return the message of an exception in one line, whatever it is."""
    try:
        words = " ".join(str(error).split())
    except Exception:
        words = ""
    return words if len(words) <= 300 else words[:300] + "..."


def _place(error: BaseException) -> tuple[str, str]:
    """Return the learner's last line, "" if there is none, and whose the last line of all is."""
    library = sysconfig.get_path("stdlib")
    line, place = "", ""
    for frame, number in traceback.walk_tb(error.__traceback__):
        root = str(frame.f_globals.get("__name__", "")).split(".")[0]
        file = frame.f_code.co_filename
        place = "diy" if root == "diy" or file.startswith("<diy") else "library"
        foreign = file.startswith((library, "<frozen")) or "site-packages" in file or "dist-packages" in file
        if place == "library" and root not in _OURS and not foreign and number:  # a jump has no number
            place, text = "learner", linecache.getline(file, number).strip()
            text = text if len(text) <= 100 else f"{text[:100]}..."
            line = f" in line {number}" + (f', "{text}"' if text else "")
    return line, place


def _told(name: str, error: BaseException, hints: Mapping[str, str] = _HINTS) -> AnswerError | NoAnswerError:
    """Return the sentence on what was raised: in which line of the learner's, and what it often means."""
    try:
        line, place = _place(error)
        words = message_of(error).rstrip(".")
        # A learner's own, for PyTorch raises it as well: ^ is "not implemented for" floats.
        if isinstance(error, NotImplementedError) and place == "learner" and "not implemented for" not in words:
            return NoAnswerError()
        if place == "diy" and words:
            # A refusal of the framework is a whole sentence already.
            return AnswerError(f"{words[0].upper()}{words[1:]}{f' (that was{line})' if line else ''}.")
        hint = next((f" ({said})" for part, said in hints.items() if re.search(part, words)), "")
        if isinstance(error, SystemExit):
            words, hint = "exit() would end the whole program: let it return its result instead", ""
        return AnswerError(f"{name} raises {type(error).__name__}{line}{': ' * bool(words)}{words}{hint}.")
    except Exception:
        return AnswerError(f"{name} raises an exception that cannot even be shown.")
