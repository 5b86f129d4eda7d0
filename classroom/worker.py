"""Runs submissions, in a process of its own: it gets numbers and gives numbers, as JSON, and knows no answers.

One line in, one line out. PyTorch is loaded once; every submission runs in a fork. What a submission prints is dropped.
"""

import contextlib
import importlib
import itertools
import json
import linecache
import os
import signal
import subprocess
import sys
import traceback
from types import ModuleType
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

GIGABYTE = 2**30
FILE = "diy.py"
REFUSED: list[str] = []
"""What the submission has tried to use although the assignment asks to do without."""


class RefusedError(BaseException):
    """Not an Exception: a submission that catches those does not catch this."""


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


def decode(value: Any) -> Any:
    if isinstance(value, dict) and "tensor" in value:
        return (
            torch.tensor(value["tensor"], dtype=torch.float64).view(value["shape"]).to(getattr(torch, value["dtype"]))
        )
    if isinstance(value, dict):
        return {key: decode(part) for key, part in value.items()}
    return [decode(part) for part in value] if isinstance(value, list) else value


# What can be asked of a submission


def build(code: ModuleType, spec: dict[str, Any]) -> Any:
    """Make an object: {"class": name, "args": [...], "kwargs": {...}, "set": {attribute: tensor}}, in float64."""
    if "layers" in spec:
        return code.Sequential(*(build(code, layer) for layer in spec["layers"]))
    if "seed" in spec:
        torch.manual_seed(spec["seed"])
    if not hasattr(code, spec["class"]):
        raise NotImplementedError(f"there is no {spec['class']} in the file")
    kind = getattr(code, spec["class"])
    with given_weights(kind) if spec.get("set") else contextlib.nullcontext():
        made = kind(*spec.get("args", []), **spec.get("kwargs", {}))
    if hasattr(made, "to"):
        made.to(torch.float64)
    for name, value in spec.get("set", {}).items():
        getattr(made, name).copy_(value)
    return made


@contextlib.contextmanager
def given_weights(kind: Any):
    """Where weights are given, it must not matter whether the first ones can be drawn yet."""
    own = vars(kind).get("reset_parameters")
    if own:
        kind.reset_parameters = lambda self: None
    try:
        yield
    finally:
        if own:
            kind.reset_parameters = own


def parameters_of(made: Any) -> dict[str, torch.Tensor]:
    return dict(made.named_parameters())


def layer(code: ModuleType, spec: dict[str, Any]) -> dict[str, Any]:
    """Run a module forward, and backward if there is a gradient; `times` says how often the two are repeated."""
    made = build(code, spec)
    if spec.get("eval"):
        made.eval()
    if "mask_seed" in spec:
        torch.manual_seed(spec["mask_seed"])
    x = spec["input"].clone()
    reply: dict[str, Any] = {}
    for _ in range(spec.get("times", 1)):
        output = made(x)
        reply["output"] = output.clone() if isinstance(output, torch.Tensor) else output
        reply["input_after"] = x.clone()
        if "gradient" in spec:
            gradient = spec["gradient"].clone()
            with counted(made) as calls:
                reply["input_gradient"] = made.backward(gradient)
            reply["forward_calls"] = len(calls)
            reply["gradient_after"] = gradient
    reply["input_at_the_end"] = x
    reply["gradients"] = {name: parameter.grad for name, parameter in parameters_of(made).items()}
    reply["state"] = {name: getattr(made, name) for name in getattr(made, "buffer_names", ())}
    return reply


@contextlib.contextmanager
def counted(made: Any):
    """Count the calls of forward while backward runs: a hand-written backward needs none."""
    calls, kind = [], type(made)
    forward = kind.forward

    def counting(self, *arguments):
        calls.append(1)
        return forward(self, *arguments)

    if "layers" not in vars(made):
        kind.forward = counting
    try:
        yield calls
    finally:
        kind.forward = forward


def loss(code: ModuleType, spec: dict[str, Any]) -> dict[str, Any]:
    made = build(code, spec)
    prediction, target = spec["prediction"].clone(), spec["target"].clone()
    value = made(prediction, target)
    reply = {"value": value if not isinstance(value, float) else torch.tensor(value, dtype=torch.float64)}
    if spec.get("backward"):
        reply["gradient"] = made.backward()
    return {**reply, "prediction_after": prediction, "target_after": target}


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
    schedule = code.CosineAnnealingLR(made, **spec["schedule"]) if "schedule" in spec else None
    steps, rates = [], []
    for gradients in spec["steps"]:
        for parameter, gradient in zip(parameters, gradients):
            if parameter.grad is None:
                parameter.grad = gradient.clone()
            parameter.grad.copy_(gradient)  # the same memory in every step, as zero_grad(set_to_none=False) leaves it
        made.step()
        if schedule:
            schedule.step()
            rates.append(float(made.lr))
        steps.append([parameter.clone() for parameter in parameters])
    return {"steps": steps, "rates": rates, "gradients_after": [parameter.grad for parameter in parameters]}


def initial(code: ModuleType, spec: dict[str, Any]) -> dict[str, Any]:
    if "function" in spec:
        torch.manual_seed(spec["seed"])
        tensor = torch.empty(*spec["shape"], dtype=torch.float64)
        return {"weight": getattr(code, spec["function"])(tensor), "filled": tensor}
    made = build(code, spec)
    return {"weight": made.weight, "bias": made.bias}


def train(code: ModuleType, spec: dict[str, Any]) -> dict[str, Any]:
    """Train the network of the assignment; return its outputs for the test points, before and after, and the losses."""
    torch.manual_seed(spec["seed"])
    sizes = spec["sizes"]
    parts = []
    for n_in, n_out in itertools.pairwise(sizes):
        parts += [code.Linear(n_in, n_out), code.ReLU()]
    parts[-1] = code.Tanh()
    if spec.get("dropout"):
        parts.insert(2, code.Dropout(spec["dropout"]))
    network, criterion = code.Sequential(*parts), code.MSELoss(reduction="sum")
    made = code.SGD(network.parameters(), lr=spec["lr"], momentum=spec.get("momentum", 0))
    x, target, losses = spec["input"].float(), spec["target"].float(), []
    for _ in range(spec["epochs"]):
        total = 0.0
        for batch in torch.randperm(len(x)).split(spec["batch_size"]):
            total += float(criterion(network(x[batch]), target[batch]))
            made.zero_grad()
            network.backward(criterion.backward())
            made.step()
        losses.append(total / len(x))
    return {"losses": losses, "output": network.eval()(spec["test"].float())}


OPERATIONS = {f.__name__: f for f in (layer, loss, accumulate, optimizer, initial, train)}


# A submission in its fork


class Watch(TorchDispatchMode):
    """Notes the functions that PyTorch's own backward passes are made of."""

    def __torch_dispatch__(self, function, types, arguments=(), kwargs=None):
        name = function.overloadpacket.__name__
        if "backward" in name or name in ("mse_loss", "linear", "native_dropout", "convolution", "nll_loss_forward"):
            refuse(f"PyTorch's {name}")
        return function(*arguments, **(kwargs or {}))


def refuse(what: str) -> None:
    REFUSED.append(what)
    raise RefusedError(what)


class Forbidden(ModuleType):
    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        if sys._getframe(1).f_code.co_filename == FILE:  # PyTorch itself may look there
            refuse(f"{self.__name__}.{name}")
        return getattr(self.real, name)


def forbid() -> None:
    """Take away what computes gradients or layers by itself, and what reaches other processes."""

    def trap(what):
        return lambda *arguments, **kwargs: refuse(what)

    for owner, names in (
        (torch.Tensor, ("backward",)),
        (torch.autograd, ("backward", "grad", "_engine_run_backward")),
        (torch.autograd.graph, ("_engine_run_backward",)),
        (torch.autograd.forward_ad, ("make_dual", "enter_dual_level")),
        (subprocess.Popen, ("__init__",)),
        (os, ("fork", "forkpty", "posix_spawn", "posix_spawnp", "system", "popen", "execv", "execve")),
    ):
        for name in names:
            setattr(owner, name, trap(f"{owner.__name__}.{name}"))
    for name in ("torch.nn", "torch.nn.functional", "torch.func", "torch.autograd.functional"):
        found, (owner, _, last) = Forbidden(name), name.rpartition(".")
        found.real = importlib.import_module(name)
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


def load(name: str, source: str) -> ModuleType:
    code = ModuleType(name)
    code.__file__ = FILE
    sys.modules[name] = code
    linecache.cache[FILE] = len(source), None, source.splitlines(keepends=True), FILE
    exec(compile(source, FILE, "exec"), code.__dict__)
    return code


def explain(error: BaseException) -> dict[str, Any]:
    """Say what went wrong, and in which line of the submission."""
    if isinstance(error, NotImplementedError):
        return {"todo": str(error)}
    if isinstance(error, RefusedError) or REFUSED:
        return {"refused": REFUSED[0]}
    frames = [f for f in traceback.extract_tb(error.__traceback__) if f.filename.startswith(FILE)]
    place = f" (line {frames[-1].lineno}: {frames[-1].line})" if frames else ""
    message = " ".join(str(error).split())[:300]
    return {"error": f"{type(error).__name__}: {message}{place}" if message else f"{type(error).__name__}{place}"}


def answer(request: dict[str, Any], modules: dict[str, ModuleType]) -> dict[str, Any]:
    REFUSED.clear()
    try:
        if "source" in request:
            modules[request["name"]] = load(request["name"], request["source"])
            return {"loaded": True}
        operation, spec = OPERATIONS[request["operation"]], decode(request["spec"])
        watch = contextlib.nullcontext() if operation is train else Watch()
        torch.manual_seed(request["number"])
        with watch:
            reply = operation(modules[request["name"]], spec)
        return {"refused": REFUSED[0]} if REFUSED else {"reply": encode(reply)}
    except KeyError as error:
        if request.get("name") not in modules:
            return {"error": "the file could not be loaded"}
        return explain(error)
    except SystemExit as error:
        return {"error": f"it calls exit({error.code if error.code is not None else ''})"}
    except BaseException as error:
        return explain(error)


def serve(stdin: Any, out: Any) -> None:
    """Answer the requests for one submission until its end."""
    modules: dict[str, ModuleType] = {}
    while line := stdin.readline():
        request = json.loads(line)
        if "end" in request:
            return
        reply = {**answer(request, modules), "number": request["number"]}
        out.write(json.dumps(reply) + "\n")
        out.flush()


def main() -> None:
    torch.set_num_threads(1)
    with Watch():  # what this loads must not be loaded for each submission again
        torch.optim.SGD([torch.ones(1)]).zero_grad()
        torch.empty(2, 2, dtype=torch.float64).normal_() @ torch.ones(2, 2, dtype=torch.float64)
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    stdin = os.fdopen(os.dup(0), encoding="utf-8")
    null = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(null, stream)

    out.write(json.dumps({"ready": torch.__version__}) + "\n")
    out.flush()
    while line := stdin.readline():
        request = json.loads(line)
        child = os.fork() if hasattr(os, "fork") else 0
        if child == 0:
            forbid()
            limit(request["gigabytes"], request["seconds"])
            out.write(json.dumps({"begun": True}) + "\n")
            out.flush()
            try:
                serve(stdin, out)
            finally:
                os._exit(0)
        os.waitpid(child, 0)
        if request.get("alone"):  # in a sandbox: nothing of this submission may outlive it
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(-1, signal.SIGKILL)
        out.write(json.dumps({"ended": True}) + "\n")
        out.flush()


if __name__ == "__main__":
    main()
