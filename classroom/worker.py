"""Runs submissions, in a process of its own: it gets numbers and gives numbers, as JSON, and knows no answers.

One line in, one line out. PyTorch is loaded once; every submission runs in a fork. What a submission prints is dropped.
"""

import contextlib
import ctypes
import importlib.abc
import importlib.machinery
import inspect
import itertools
import json
import linecache
import os
import signal
import socket
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable, Collection, Iterator
from types import CodeType, ModuleType
from typing import Any
from unittest import mock

if sys.platform == "linux":  # PyTorch makes this folder otherwise, and in a sandbox nothing can be written
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = "/tmp"

import torch
from torch.utils._python_dispatch import TorchDispatchMode

GIGABYTE = 2**30
FILES: dict[str, str] = {}
"""The submission's files, by name."""

REFUSED: list[str] = []
"""What the submission has tried to use, although the assignment does not allow it."""


class RefusedError(BaseException):
    """Not an Exception: a submission that catches those does not catch this."""


class UnreadableError(Exception):
    """A file of the submission is no Python."""


# Numbers as JSON


def encode(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        value = value.detach()
        return {"tensor": value.double().flatten().tolist(), "shape": list(value.shape), "dtype": str(value.dtype)[6:]}
    if type(value).__module__ == "numpy":
        return encode(torch.as_tensor(value))
    if isinstance(value, dict):
        return {str(key): encode(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [encode(part) for part in value]
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    return {"kind": type(value).__name__}


def decode(value: Any, dtype: torch.dtype | None = None) -> Any:
    """Return tensors in the type that they had, or in `dtype`."""
    if isinstance(value, dict) and "tensor" in value:
        tensor = torch.tensor(value["tensor"], dtype=torch.float64).view(value["shape"])
        return tensor.to(dtype or getattr(torch, value["dtype"]))
    if isinstance(value, dict):
        return {key: decode(part, dtype) for key, part in value.items()}
    return [decode(part, dtype) for part in value] if isinstance(value, list) else value


# What can be asked of a submission


def build(code: ModuleType, spec: dict[str, Any]) -> Any:
    """Make an object: {"class": name, "args": [...], "kwargs": {...}, "set": {attribute: tensor}}, in float64."""
    if "layers" in spec:
        return code.Sequential(*(build(code, layer) for layer in spec["layers"]))
    if "seed" in spec:
        torch.manual_seed(spec["seed"])
    kind = getattr(code, spec["class"])
    # Where weights are given, none are drawn: it must not matter whether that can be done yet.
    given = bool(spec.get("set")) and "reset_parameters" in vars(kind) and not kind.buffer_names
    with mock.patch.object(kind, "reset_parameters", lambda self: None) if given else contextlib.nullcontext():
        made = kind(*spec.get("args", []), **spec.get("kwargs", {}))
    if hasattr(made, "to"):
        made.to(torch.float64)
    for name, value in spec.get("set", {}).items():
        getattr(made, name).copy_(value)
    return made


def layer(code: ModuleType, spec: dict[str, Any]) -> dict[str, Any]:
    """Run one module on several inputs, one after the other: forward, and backward where there is a gradient.

    What comes "between" the two goes through another module of the class.
    """
    made, other = build(code, spec), build(code, spec)
    if "mask_seed" in spec:
        torch.manual_seed(spec["mask_seed"])
    passes, forward_calls, kind = [], [], type(made)
    forward = kind.forward

    def counted(self, *arguments):
        forward_calls.append(1)
        return forward(self, *arguments)

    for given in spec["passes"]:
        if "eval" in given:
            made.eval()
        for name, value in given.get("set", {}).items():
            getattr(made, name).copy_(value)
        x = in_memory(given["input"], len(passes))
        output = made(x)
        done = {"output": output.clone() if isinstance(output, torch.Tensor) else output, "input_after": x.clone()}
        if "between" in given:
            other(given["between"])
        if "gradient" in given:
            gradient = in_memory(given["gradient"], len(passes))
            # A hand-written backward needs no forward, except one that goes through a network.
            with mock.patch.object(kind, "forward", forward if "layers" in vars(made) else counted):
                done["input_gradient"] = made.backward(gradient)
            done |= {"gradient_after": gradient, "input_at_the_end": x}
        passes.append(done)
    parameters = dict(made.named_parameters())
    return {
        "passes": passes,
        "forward_calls": len(forward_calls),
        "parameters": parameters,
        "gradients": {name: parameter.grad for name, parameter in parameters.items()},
        "state": {name: getattr(made, name) for name in getattr(made, "buffer_names", ())},
    }


def in_memory(tensor: torch.Tensor, count: int) -> torch.Tensor:
    """Return a copy. From the second on, it is laid out like a transposed tensor: numbers count, not where they lie."""
    return tensor.clone() if count == 0 else tensor.transpose(0, -1).contiguous().transpose(0, -1)


def loss(code: ModuleType, spec: dict[str, Any]) -> dict[str, Any]:
    made, other, passes = build(code, spec), build(code, spec), []
    for given in spec["passes"]:
        prediction, target = given["prediction"].clone(), given["target"].clone()
        value = made(prediction, target)
        if spec["backward"]:
            other(given["between"], target.clone())
        done = {"value": value, "gradient": made.backward() if spec["backward"] else None}
        passes.append({**done, "prediction_after": prediction, "target_after": target})
    return {"passes": passes}


def accumulate(code: ModuleType, spec: dict[str, Any]) -> dict[str, Any]:
    made = build(code, spec)
    parameter, gradients = next(iter(made.parameters())), [g.clone() for g in spec["gradients"]]
    sums = []
    for gradient in gradients:
        made.accumulate(parameter, gradient)
        sums.append(parameter.grad.clone() if parameter.grad is not None else None)
    return {"sums": sums, "gradients_after": gradients}


def optimizer(code: ModuleType, spec: dict[str, Any]) -> dict[str, Any]:
    """Take steps with given gradients; return the parameters after each."""
    parameters = [parameter.clone() for parameter in spec["parameters"]]
    made = getattr(code, spec["class"])(parameters, **spec["kwargs"])
    schedule = code.CosineAnnealingLR(made, **spec["schedule"]) if spec["schedule"] else None
    steps, rates, after = [], [], []
    for gradients in spec["steps"]:
        for parameter, gradient in zip(parameters, gradients):
            if gradient is None:
                continue
            if parameter.grad is None:
                parameter.grad = torch.empty_like(gradient)
            parameter.grad.copy_(gradient)  # the same memory in every step, as zero_grad(set_to_none=False) leaves it
        made.step()
        if schedule:
            schedule.step()
            rates.append(float(made.lr))
        steps.append([parameter.clone() for parameter in parameters])
        after.append([None if parameter.grad is None else parameter.grad.clone() for parameter in parameters])
    return {"steps": steps, "rates": rates, "gradients_after": after}


def initial(code: ModuleType, spec: dict[str, Any]) -> dict[str, Any]:
    if "function" in spec:
        torch.manual_seed(spec["seed"])
        tensor = torch.empty(*spec["shape"], dtype=torch.float64)
        return {"weight": getattr(code, spec["function"])(tensor), "filled": tensor}
    made = build(code, spec)
    return {"weight": made.weight, "bias": made.bias}


def train(code: ModuleType, spec: dict[str, Any]) -> dict[str, Any]:
    """Train a network; return its outputs for the test points, and the loss of each epoch."""
    torch.manual_seed(spec["seed"])
    network, criterion = build(code, spec), code.MSELoss(reduction="sum")
    made, losses = code.SGD(network.parameters(), **spec["settings"]), []
    for _ in range(spec["epochs"]):
        total = 0.0
        for batch in torch.randperm(len(spec["input"])).split(spec["batch_size"]):
            total += float(criterion(network(spec["input"][batch]), spec["target"][batch]))
            made.zero_grad()
            network.backward(criterion.backward())
            made.step()
        losses.append(total / len(spec["input"]))
    return {"losses": losses, "output": network.eval()(spec["test"])}


# The same for a framework with an interface of its own, which the submission's adapters.py describes


def own_layer(code: ModuleType, spec: dict[str, Any]) -> dict[str, Any]:
    """Run a module of a free framework, with the weights that it has drawn; the reply holds them as well."""
    torch.manual_seed(spec["seed"])
    parts = [_own(code, layer) for layer in spec.get("layers", ())]
    made = code.Sequential(*parts) if parts else _own(code, spec)
    _stir(code, made)
    other = None if parts else _own(code, spec)
    tensors, told = _parameters(code, made)
    dtype = next((value.dtype for _, value in tensors if value.is_floating_point()), torch.float32)
    reply: dict[str, Any] = {"before": tensors, "told": told, "after": []}
    for given in spec["passes"]:
        x, run = given["input"].to(dtype, copy=True), Batch(code, made)
        reply["output"] = run.forward(x).clone()
        reply["input_after"] = x.to(given["input"].dtype)
        if "gradient" in given:
            if other is not None:
                Batch(code, other).forward(given["between"].to(dtype))
            got = run.backward(given["gradient"].to(dtype).clone())
            reply["input_gradient"] = got.clone() if isinstance(got, torch.Tensor) else got
            reply["after"].append(_parameters(code, made)[0])
    return reply


def own_loss(code: ModuleType, spec: dict[str, Any]) -> dict[str, Any]:
    prediction, target = spec["prediction"].clone(), spec["target"].clone()
    run = Batch(code, code.LossMSE())
    value = run.loss(prediction, target)
    Batch(code, code.LossMSE()).loss(spec["between"], target.clone())
    gradient = run.loss_backward()
    return {"value": value, "gradient": gradient, "prediction_after": prediction}


def own_training(code: ModuleType, spec: dict[str, Any]) -> dict[str, Any]:
    """Train a network of 25 and 25 hidden units; the rate is for the summed loss, whatever the loss divides by."""
    torch.manual_seed(spec["seed"])
    parts = [code.Linear(2, 25), code.ReLU(), code.Linear(25, 25), code.ReLU(), code.Linear(25, 2), code.Tanh()]
    network, criterion = code.Sequential(*parts), code.LossMSE()
    dtype = next((value.dtype for _, value in _parameters(code, network)[0]), torch.float32)
    x, target, test = (spec[name].to(dtype) for name in ("input", "target", "test"))
    size, epochs, lr, rate = 100, spec["epochs"], spec["lr"], None
    if _samples(code) == "one by one":
        size, epochs, lr = 1, epochs // 4, 4 * lr
    for _ in range(epochs):
        for batch in torch.randperm(len(x)).split(size):
            run, loss = Batch(code, network), Batch(code, criterion)
            output = run.forward(x[batch]).clone()
            loss.loss(output, target[batch])
            gradient = loss.loss_backward()
            if rate is None:
                summed = 2 * (output - target[batch])
                rate = lr * float(summed.norm() / gradient.norm().clamp(min=1e-30))
            run.backward(gradient)
            code.step(network, rate)
    return {"output": Batch(code, network).forward(test)}


class Batch:
    """A module or a loss of a free framework, for batches with samples as rows, whatever the framework wants."""

    def __init__(self, code: ModuleType, made: Any):
        self.made, self.samples = made, _samples(code)
        self.call = made.forward if hasattr(made, "forward") else made

    def turned(self, tensor: Any) -> Any:
        columns = self.samples == "columns" and isinstance(tensor, torch.Tensor) and tensor.dim() == 2
        return tensor.T if columns else tensor

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.x = x
        if self.samples == "one by one":
            return torch.stack([self.call(one).flatten() for one in x])
        output = self.turned(self.call(self.turned(x)))
        if not isinstance(output, torch.Tensor):
            raise TypeError(f"forward returns {type(output).__name__}, expected a tensor")
        return output

    def backward(self, gradient: torch.Tensor) -> Any:
        if self.samples != "one by one":
            return self.turned(self._back(self.turned(self.x), self.turned(gradient)))
        found = []
        for x, g in zip(self.x, gradient):
            self.call(x)
            found.append(self._back(x, g))
        return torch.stack([g.flatten() for g in found]) if isinstance(found[0], torch.Tensor) else None

    def _back(self, x: torch.Tensor, gradient: torch.Tensor) -> Any:
        return self.made.backward(x, gradient) if _wanted(self.made.backward) == 2 else self.made.backward(gradient)

    def loss(self, prediction: torch.Tensor, target: torch.Tensor) -> Any:
        self.pairs = [(self.turned(prediction), self.turned(target))]
        if self.samples == "one by one":
            self.pairs = list(zip(prediction, target))
        values = [torch.as_tensor(self.call(*pair)).double().detach() for pair in self.pairs]
        for value in values:
            if value.numel() != 1:
                raise ValueError(f"the loss has the shape {tuple(value.shape)}, expected one number")
        return torch.stack([value.sum() for value in values]).sum()

    def loss_backward(self) -> Any:
        found = []
        for pair in self.pairs:
            if len(self.pairs) > 1:
                self.call(*pair)
            wanted = _wanted(self.made.backward)
            found.append(self.made.backward(*(pair if wanted == 2 else (torch.tensor(1.0),) * wanted)))
        return torch.stack(found) if self.samples == "one by one" else self.turned(found[0])


def _samples(code: ModuleType) -> str:
    return getattr(code, "SAMPLES", "rows")


def _wanted(method: Any) -> int:
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    parameters = inspect.signature(method).parameters.values()
    return sum(p.kind in kinds and p.default is p.empty for p in parameters)


def _own(code: ModuleType, spec: dict[str, Any]) -> Any:
    if "probe" not in spec:
        return getattr(code, spec["class"])(*spec.get("args", []))
    factor = spec["probe"]

    class Probe(type(code.ReLU())):  # type: ignore[misc]
        """A module that is certainly right: what a Sequential does wrong with it is the Sequential's own mistake."""

        def forward(self, x, *more):
            return factor * x + factor

        def backward(self, *gradients):
            return factor * gradients[-1] + factor  # no derivative: the order of factors alone would not show

        def __call__(self, x):
            return self.forward(x)

    return Probe()


def _stir(code: ModuleType, made: Any) -> None:
    """Draw anew what holds the same number throughout, such as a bias of zeros, so that it matters what is done to it.

    Of several tensors of one shape, the first is the parameter. What `parameters` gives may be a copy: then it is
    read again unchanged, and that is what counts.
    """
    found: list[tuple[str, torch.Tensor]] = []
    with contextlib.suppress(Exception):
        _collect(code.parameters(made), "", found, {})
    shapes = set()
    for _, value in found:
        if value.shape not in shapes and value.numel() > 1 and bool((value == value.flatten()[0]).all()):
            with torch.no_grad():
                value.normal_()
        shapes.add(value.shape)


def _parameters(code: ModuleType, made: Any) -> tuple[list[tuple[str, torch.Tensor]], bool]:
    """Return all tensors that `parameters` gives, in whatever structure, and whether there are any.

    If there are none, those that the module keeps are returned.
    """
    found: list[tuple[str, torch.Tensor]] = []
    with contextlib.suppress(Exception):
        _collect(code.parameters(made), "", found, {})
    told = bool(found)
    if not told:
        _collect(made, "", found, {})
    return [(path, value.detach().clone()) for path, value in found], told


def _collect(
    value: Any, path: str, found: list[tuple[str, torch.Tensor]], seen: dict[int, Any], depth: int = 0
) -> None:
    if id(value) in seen or depth > 6 or value is None or isinstance(value, (str, int, float, type)):
        return
    if isinstance(value, torch.Tensor):
        found.append((path, value))
        if value.is_leaf and value.grad is not None:
            found.append((f"{path}.grad", value.grad))
        return
    seen[id(value)] = value  # kept alive: the next object of a generator could have the same id
    if isinstance(value, dict):
        parts = value.items()
    elif isinstance(value, (Collection, Iterator)):
        parts = enumerate(itertools.islice(value, 10_000))  # an itertools.count has no end
    else:
        slots = [name for kind in type(value).__mro__ for name in getattr(kind, "__slots__", ())]
        parts = [*((name, getattr(value, name, None)) for name in slots), *getattr(value, "__dict__", {}).items()]
    for name, part in list(parts):
        _collect(part, f"{path}.{name}".lstrip("."), found, seen, depth + 1)


OPERATIONS = {
    f.__name__: f for f in (layer, loss, accumulate, optimizer, initial, train, own_layer, own_loss, own_training)
}


# A submission in its fork


BY_ITSELF = {
    "mse_loss", "linear", "native_dropout", "convolution", "nll_loss_forward", "native_batch_norm", "_make_dual",
    "max_pool2d_with_indices",
}  # fmt: skip
"""Functions of PyTorch that are what students write."""


class Watch(TorchDispatchMode):
    """Refuses what computes layers or derivatives by itself."""

    def __torch_dispatch__(self, function, types, arguments=(), kwargs=None):
        name = function.overloadpacket.__name__
        if "backward" in name or name in BY_ITSELF:
            refuse(f"PyTorch's {name}")
        for tensor in arguments:
            if isinstance(tensor, torch.Tensor) and tensor.requires_grad:
                refuse("requires_grad")
            if isinstance(tensor, torch.Tensor) and tensor.is_complex():
                refuse("complex numbers, whose imaginary part can be a derivative")
        return function(*arguments, **(kwargs or {}))


def refuse(what: str) -> None:
    REFUSED.append(what)
    raise RefusedError(what)


REAL: dict[ModuleType, Any] = {}
"""What stands behind each Forbidden."""


class Forbidden(ModuleType):
    """Stands for a module of PyTorch, and for what is in it: a submission may import it, but not use it."""

    def __init__(self, name: str, real: Any):
        super().__init__(name)
        REAL[self] = real

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") and name != "__all__":
            raise AttributeError(name)
        real = getattr(REAL[self], name)
        if sys._getframe(1).f_code.co_filename not in FILES:  # PyTorch itself may look there
            return real
        return real if name == "__all__" else Forbidden(f"{self.__name__}.{name}", real)

    def _use(self, *arguments: Any, **kwargs: Any) -> Any:
        refuse(self.__name__)

    __call__ = __mro_entries__ = __instancecheck__ = __getitem__ = __enter__ = __exit__ = _use


def no_process(*arguments: Any, **kwargs: Any) -> None:
    """No refusal: a library may try it, and go on without."""
    raise PermissionError("a submission may not start other processes")


def forbid() -> None:
    """Take away what computes gradients or layers by itself, and what reaches other processes."""

    def trap(what):
        return lambda *arguments, **kwargs: refuse(what)

    for owner, names in (
        (torch, ("dropout", "dropout_")),
        (torch.Tensor, ("backward",)),
        (torch.autograd, ("backward", "grad", "_engine_run_backward")),
        (torch.autograd.graph, ("_engine_run_backward",)),
        (torch.autograd.forward_ad, ("make_dual", "enter_dual_level")),
    ):
        for name in names:
            setattr(owner, name, trap(f"{owner.__name__}.{name}"))
    for owner, names in (
        (subprocess.Popen, ("__init__",)),
        (os, ("fork", "forkpty", "posix_spawn", "posix_spawnp", "system", "popen", "execv", "execve")),
    ):
        for name in names:
            setattr(owner, name, no_process)
    sys.meta_path.insert(0, Pictures())
    packages = ("torch.nn", "torch.optim", "torch.func", "torch.autograd.functional")
    for name in [name for name in sys.modules if name in packages or name.startswith(("torch.nn.", "torch.optim."))]:
        found, (owner, _, last) = Forbidden(name, sys.modules[name]), name.rpartition(".")
        vars(found).update({key: value for key, value in vars(REAL[found]).items() if key == "__path__"})
        if owner in ("torch", "torch.autograd"):
            setattr(sys.modules[owner], last, found)
        sys.modules[name] = found


def limit(gigabytes: float, seconds: int) -> None:
    try:
        import resource
    except ImportError:
        return
    used = 0
    with contextlib.suppress(OSError), open("/proc/self/statm", encoding="utf-8") as file:
        used = int(file.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    memory = int(used + gigabytes * GIGABYTE)
    for what, value in (
        (resource.RLIMIT_AS, memory), (resource.RLIMIT_CPU, seconds), (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_NPROC, 0), (resource.RLIMIT_CORE, 0),
    ):  # fmt: skip
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(what, (value, value))


class Picture(ModuleType):
    """Stands for a library that draws, and for all that is in it: nobody sees pictures here, and it does nothing."""

    def __init__(self, name: str):
        super().__init__(name)
        self.__path__: list[str] = []

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return self

    def __call__(self, *arguments: Any, **kwargs: Any) -> Any:
        return self

    __getitem__ = __enter__ = __call__

    def __exit__(self, *error: Any) -> None:
        pass

    def __iter__(self) -> Iterator[Any]:
        return iter((self, self))  # a figure and its axes


class Pictures(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds libraries that draw, which are slow to load, start other processes, or may not be installed."""

    def find_spec(self, name, path=None, target=None):
        drawing = name.split(".")[0] in ("matplotlib", "mpl_toolkits", "seaborn", "plotly")
        return importlib.machinery.ModuleSpec(name, self, is_package=True) if drawing else None

    def create_module(self, spec):
        return Picture(spec.name)

    def exec_module(self, module):
        pass


class Submission(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds the modules of a submission, whose files came as text."""

    def find_spec(self, name, path=None, target=None):
        base = name.replace(".", "/")
        for file in (f"{base}.py", f"{base}/__init__.py"):
            if file in FILES:
                spec = importlib.machinery.ModuleSpec(name, self, origin=file, is_package=file.endswith("__init__.py"))
                spec.has_location = True
                return spec
        if any(file.startswith(f"{base}/") for file in FILES):
            return importlib.machinery.ModuleSpec(name, None, is_package=True)
        return None

    def exec_module(self, module):
        exec(compile(FILES[module.__spec__.origin], module.__spec__.origin, "exec"), module.__dict__)


def load(name: str, files: dict[str, str]) -> ModuleType:
    """Run the first of the files as a module; it may import the others.

    Raises:
        UnreadableError: one of them is not valid Python.
    """
    FILES.clear()
    FILES.update(files)
    code = {}
    for file, text in files.items():
        try:
            code[file] = compile(text, file, "exec")
        except (SyntaxError, ValueError, OverflowError, RecursionError, MemoryError) as error:
            line = f" (line {error.lineno})" if getattr(error, "lineno", None) else ""
            what = getattr(error, "msg", None) or str(error) or type(error).__name__
            raise UnreadableError(f"{file} is not valid Python: {what}{line}") from None
        linecache.cache[file] = len(text), None, text.splitlines(keepends=True), file
    first = next(iter(files))
    module = ModuleType(name)
    module.__file__ = first
    sys.modules[name] = module
    if len(files) > 1:
        sys.meta_path.insert(0, Submission())
    exec(code[first], module.__dict__)
    return module


def explain(error: BaseException) -> dict[str, Any]:
    """Say what went wrong, and in which lines of the submission, the innermost first."""
    if isinstance(error, NotImplementedError):
        return {"todo": str(error)}
    if isinstance(error, AttributeError) and getattr(error.obj, "__file__", "") == next(iter(FILES), None):
        return {"todo": f"there is no {error.name} in the file"}
    if isinstance(error, RefusedError) or REFUSED:
        return {"refused": REFUSED[0]}
    places = [
        (frame.f_code.co_filename, number, linecache.getline(frame.f_code.co_filename, number).strip())
        for frame, number in traceback.walk_tb(error.__traceback__)
        if frame.f_code.co_filename in FILES and not _given(frame.f_code)
    ]
    message = " ".join(str(error).split())[:300]
    return {"error": f"{type(error).__name__}{': ' * bool(message)}{message}", "places": places[:-9:-1]}


def _given(code: CodeType) -> bool:
    """Whether a function is, by its name, one of those in diy.py that check what students write."""
    name = getattr(code, "co_qualname", code.co_name)
    private = name.split(".")[-1].startswith("_") and not code.co_name.startswith("__")
    return private or name.startswith("_guarded") or code.co_name in ("__call__", "remember", "recall")


def answer(request: dict[str, Any], modules: dict[str, ModuleType]) -> dict[str, Any]:
    REFUSED.clear()
    try:
        if "files" in request:
            modules[request["name"]] = load(request["name"], request["files"])
            return {"loaded": True}
        operation, spec = OPERATIONS[request["operation"]], decode(request["spec"])
        watch = contextlib.nullcontext() if operation in (train, own_training) else Watch()
        torch.manual_seed(request["number"])
        with watch:
            reply = operation(modules[request["name"]], spec)
        return {"refused": REFUSED[0]} if REFUSED else {"reply": encode(reply)}
    except UnreadableError as error:
        return {"unreadable": str(error)}
    except KeyError as error:
        if request.get("name") not in modules:
            return {"error": "the file could not be loaded"}
        return explain(error)
    except SystemExit as error:
        return {"error": f"it calls exit({error.code if error.code is not None else ''})"}
    except BaseException as error:
        return explain(error)


def serve(token: str, stdin: Any, out: Any) -> None:
    """Answer the requests for one submission until its end."""
    out.write(json.dumps({"begun": token}) + "\n")
    out.flush()
    modules: dict[str, ModuleType] = {}
    while line := stdin.readline():
        request = json.loads(line)
        if "end" in request:
            return
        reply = {**answer(request, modules), "number": request["number"]}
        out.write(json.dumps(reply) + "\n")
        out.flush()


class Fork:
    """A submission in a process of its own.

    It talks to this one through a pair of sockets. It must not have the pipes to the grader: through /proc, it could
    open their other ends, and leave orders there for the submission that comes next.
    """

    def __init__(self, limits: dict[str, Any], out: Any, ended: Callable[[], None]):
        self.mine, its = socket.socketpair()
        self.child, self.ended, self.alone = os.fork(), ended, limits["alone"]
        if self.child == 0:
            os.closerange(3, its.fileno())
            os.closerange(its.fileno() + 1, 256)
            forbid()
            limit(limits["gigabytes"], limits["seconds"])
            try:
                serve(limits["token"], its.makefile(encoding="utf-8"), its.makefile("w", encoding="utf-8"))
            finally:
                os._exit(0)
        its.close()
        self.thread = threading.Thread(target=self.listen, args=(out,))
        self.thread.start()

    def send(self, line: str) -> None:
        with contextlib.suppress(OSError):  # it may have ended by itself
            self.mine.sendall(line.encode())

    def listen(self, out: Any) -> None:
        with contextlib.suppress(OSError):
            while said := self.mine.recv(2**16):
                out.buffer.write(said)
                out.flush()
        os.waitpid(self.child, 0)
        if self.alone:  # in a sandbox: nothing of this submission may outlive it
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(-1, signal.SIGKILL)
        self.ended()


def unreachable() -> None:
    """Let no other process of this user read or change this one's memory and files: on Linux, through /proc."""
    if sys.platform == "linux":
        not_dumpable = 4, 0
        ctypes.CDLL(None).prctl(*not_dumpable)


def main() -> None:
    torch.set_num_threads(1)
    with Watch():  # what this loads must not be loaded again for each submission
        torch.optim.SGD([torch.ones(1)]).zero_grad()
        torch.empty(2, 2, dtype=torch.float64).normal_() @ torch.ones(2, 2, dtype=torch.float64)
    unreachable()
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    own = os.fdopen(os.dup(2), "w", encoding="utf-8")  # where only this process can say that a submission has ended
    stdin = os.fdopen(os.dup(0), encoding="utf-8")
    null = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(null, stream)

    out.write(json.dumps({"ready": torch.__version__}) + "\n")
    out.flush()
    count = itertools.count(1)

    def ended() -> None:
        own.write(f"ended {next(count)}\n")
        own.flush()

    fork = None
    while line := stdin.readline():
        request = json.loads(line)
        if "gigabytes" in request:
            if not hasattr(os, "fork"):  # Windows, where students check their own work
                forbid()
                return serve(request["token"], stdin, out)
            fork = Fork(request, out, ended)
        elif fork:
            fork.send(line)
            if "end" in request:
                fork.thread.join()
                fork.mine.close()


if __name__ == "__main__":
    main()
