"""The contenders of the speed benchmark: one network, trained with diy, PyTorch, NumPy, JAX, tinygrad and micrograd.

A contender is a function of a `Task` that prepares everything and returns `run`: `run(epochs)` trains for so many more
epochs, reshuffles the samples in each, logs the loss of every step, and returns the mean loss of each epoch. All
contenders of a task start from the same weights and compute the same numbers, up to rounding and the order of samples.

Libraries are imported where they are used, so that a process that runs one contender loads only what that one needs.
To add a contender, write such a function and give it a row in `CONTENDERS`.
"""

import importlib.util
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise

Run = Callable[[int], list[float]]


@dataclass(frozen=True)
class Task:
    """The network and its data; the defaults are the report's. Only the learning rate is larger, for the mean loss."""

    sizes: tuple[int, ...] = (2, 25, 25, 25, 2)
    batch_size: int = 100
    samples: int = 1000
    lr: float = 0.1
    device: str = "cpu"

    @property
    def steps(self) -> int:
        """Steps per epoch."""
        return -(-self.samples // self.batch_size)

    def data(self):
        """Return points of the square and one-hot labels of the disk as NumPy arrays of float32."""
        import numpy as np

        points = np.random.default_rng(0).uniform(-1, 1, (self.samples, self.sizes[0]))
        inside = (points[:, :2] ** 2).sum(1) < 2 / np.pi
        return points.astype(np.float32), np.eye(self.sizes[-1], dtype=np.float32)[inside.astype(int)]

    def parameters(self) -> list:
        """Return W and b of each layer in turn as NumPy arrays, W by He's rule, so that deep networks stay finite."""
        import numpy as np

        generator, arrays = np.random.default_rng(1), []
        for n_in, n_out in pairwise(self.sizes):
            arrays.append((generator.standard_normal((n_out, n_in)) * (2 / n_in) ** 0.5).astype(np.float32))
            arrays.append(np.full(n_out, 0.01, np.float32))
        return arrays


# diy and PyTorch: the same lines serve both, for their interfaces agree


def disk(task: Task, library: str, optimizer: str = "SGD", lr: float | None = None, dropout: float | None = None):
    """The report's network and loss."""
    import torch

    layers = _layers(library)
    network = _network(task, layers, dropout)
    points, targets = (torch.from_numpy(array).to(task.device) for array in task.data())
    optimizer = _optimizers(library)[optimizer](network.parameters(), lr=lr or task.lr)
    return _loop(task, network, layers.MSELoss(), optimizer, points, targets)


def lenet(task: Task, library: str) -> Run:
    """LeNet on random images, 28 × 28, with 10 classes, from PyTorch's initial weights."""
    import torch

    def build(layers):
        return layers.Sequential(
            *(layers.Conv2d(1, 6, 5, padding=2), layers.ReLU(), layers.MaxPool2d(2)),  # (N, 6, 14, 14)
            *(layers.Conv2d(6, 16, 5), layers.ReLU(), layers.MaxPool2d(2)),  # (N, 16, 5, 5)
            *(layers.Flatten(), layers.Linear(400, 120), layers.ReLU()),
            *(layers.Linear(120, 84), layers.ReLU(), layers.Linear(84, 10)),
        )

    layers = _layers(library)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        images, classes = torch.randn(task.samples, 1, 28, 28), torch.randint(10, (task.samples,))
        initial = build(torch.nn).state_dict()
        network = build(layers)
    network.load_state_dict(initial)
    network.to(task.device)
    if library == "diy":
        network[0].needs_input_grad = False
    optimizer = _optimizers(library)["SGD"](network.parameters(), lr=task.lr)
    return _loop(task, network, layers.CrossEntropyLoss(), optimizer, images.to(task.device), classes.to(task.device))


def stack(task: Task, networks: int) -> Run:
    """Several networks at once, each with its own order of samples. The losses are means over the networks."""
    import torch

    import diy

    points, targets = (torch.from_numpy(array).to(task.device) for array in task.data())
    network = diy.stack(_network(task, diy, None) for _ in range(networks))
    network[0].needs_input_grad = False
    criterion, optimizer = diy.MSELoss(stacked=True), diy.SGD(network.parameters(), lr=task.lr)

    def run(epochs: int) -> list[float]:
        losses = []
        for _ in range(epochs):
            order = torch.stack([torch.randperm(task.samples) for _ in range(networks)]).to(task.device)
            total = torch.zeros(networks, device=task.device)
            batches = (values[order].split(task.batch_size, dim=1) for values in (points, targets))
            for x, target in zip(*batches):
                loss = criterion(network(x), target)
                optimizer.zero_grad()
                network.backward(criterion.backward())
                optimizer.step()
                total += loss
            losses.append(total.mean().item() / task.steps)
        return losses

    return run


def torch_by_hand(task: Task) -> Run:
    """diy's mathematics in the fewest tensor operations: no classes, no checks, in place wherever possible.

    No framework built on these operations can be faster: the distance from this row to diy is what diy's modules cost.
    """
    import torch

    points, targets = (torch.from_numpy(array).to(task.device) for array in task.data())
    parameters = [torch.from_numpy(array).to(task.device) for array in task.parameters()]
    layers, last = list(zip(parameters[::2], parameters[1::2])), len(parameters) // 2 - 1

    def step(x, target):
        inputs = []
        for index, (w, b) in enumerate(layers):
            inputs.append(x)
            x = torch.addmm(b, x, w.t())
            x = x.tanh_() if index == last else x.relu_()
        gradient = x - target
        loss = gradient.square().mean()
        gradient *= 2 / gradient.numel()
        gradient -= x.square_().mul_(gradient)
        gradients = []
        for (w, _), x in zip(reversed(layers), reversed(inputs)):
            gradients += gradient.sum(0), gradient.t() @ x
            if x is not inputs[0]:
                gradient = x.sign_().mul_(gradient @ w)
        torch._foreach_add_(parameters, gradients[::-1], alpha=-task.lr)
        return loss

    return _epochs(task, step, points, targets)


def compiled(task: Task) -> Run:
    """PyTorch with the forward, the loss and their gradients compiled, and the optimizer's step as well."""
    import torch

    network = _network(task, torch.nn, None)
    points, targets = (torch.from_numpy(array).to(task.device) for array in task.data())
    criterion, optimizer = torch.nn.MSELoss(), torch.optim.SGD(network.parameters(), lr=task.lr)
    forward = torch.compile(lambda x, target: criterion(network(x), target))
    update = torch.compile(optimizer.step)

    def step(x, target):
        loss = forward(x, target)
        optimizer.zero_grad()
        loss.backward()
        update()
        return loss.detach()

    return _epochs(task, step, points, targets)


def inference(task: Task, library: str) -> Run:
    """Forward passes over all samples at once; `run` returns the mean output of each pass."""
    import torch

    network = _network(task, _layers(library), None).eval()
    points = torch.from_numpy(task.data()[0]).to(task.device)

    def run(passes: int) -> list[float]:
        with torch.inference_mode():
            return [network(points).mean().item() for _ in range(passes)]

    return run


def _layers(library: str):
    import torch

    import diy

    return {"diy": diy, "torch": torch.nn}[library]


def _optimizers(library: str) -> dict:
    import torch

    import diy

    return vars({"diy": diy, "torch": torch.optim}[library])


def _network(task: Task, layers, dropout: float | None):
    import torch

    modules = []
    for n_in, n_out in pairwise(task.sizes[:-1]):
        modules += [layers.Linear(n_in, n_out), layers.ReLU()]
        if dropout is not None:
            modules.append(layers.Dropout(dropout))
    network = layers.Sequential(*modules, layers.Linear(*task.sizes[-2:]), layers.Tanh()).to(task.device)
    with torch.no_grad():
        for parameter, array in zip(network.parameters(), task.parameters()):
            parameter.copy_(torch.from_numpy(array))
    if layers is not torch.nn:
        network[0].needs_input_grad = False  # as in PyTorch, where the data does not ask for a gradient
    return network


def _loop(task: Task, network, criterion, optimizer, points, targets) -> Run:
    import diy

    def step(x, target):
        loss = criterion(network(x), target)
        optimizer.zero_grad()
        if isinstance(network, diy.Module):
            network.backward(criterion.backward())
        else:
            loss.backward()
        optimizer.step()
        return loss.detach()

    return _epochs(task, step, points, targets)


def _epochs(task: Task, step: Callable, points, targets) -> Run:
    import torch

    def run(epochs: int) -> list[float]:
        losses = []
        for _ in range(epochs):
            order = torch.randperm(task.samples).to(task.device)
            total = torch.zeros((), device=task.device)
            for x, target in zip(points[order].split(task.batch_size), targets[order].split(task.batch_size)):
                total += step(x, target)
            losses.append(total.item() / task.steps)
        return losses

    return run


# The others


def numpy_by_hand(task: Task) -> Run:
    """The same mathematics without classes, checks or graph."""
    import numpy as np

    points, targets = task.data()
    parameters = task.parameters()
    weights, biases = parameters[::2], parameters[1::2]
    generator, lr = np.random.default_rng(2), np.float32(task.lr)

    def run(epochs: int) -> list[float]:
        losses = []
        for _ in range(epochs):
            order, total = generator.permutation(task.samples), 0.0
            xs, ts = points[order], targets[order]
            for start in range(0, task.samples, task.batch_size):
                inputs = [xs[start : start + task.batch_size]]
                for w, b in zip(weights, biases):
                    s = inputs[-1] @ w.T
                    s += b
                    inputs.append(np.maximum(s, 0, out=s) if len(inputs) < len(weights) else np.tanh(s, out=s))
                output = inputs.pop()
                gradient = output - ts[start : start + task.batch_size]
                total += (gradient * gradient).mean()
                gradient *= np.float32(2 / gradient.size) * (1 - output * output)
                for w, b, x in zip(reversed(weights), reversed(biases), reversed(inputs)):
                    w_gradient, b_gradient = gradient.T @ x, gradient.sum(0)
                    if x is not inputs[0]:
                        gradient = gradient @ w
                        gradient *= x > 0
                    w -= lr * w_gradient
                    b -= lr * b_gradient
            losses.append(float(total) / task.steps)
        return losses

    return run


def numpy_classes(task: Task, dtype: str) -> Run:
    """The same mathematics in classes, like those of a framework that is written to learn from."""
    import numpy as np

    from benchmarks import numpy_classes as library

    points, targets = (array.astype(dtype) for array in task.data())
    parameters = [array.astype(dtype) for array in task.parameters()]
    layers: list[library.Layer] = []
    for w, b in zip(parameters[::2], parameters[1::2]):
        layers += [library.Linear(np.ascontiguousarray(w.T), b), library.ReLU()]
    layers[-1] = library.Tanh()
    network, criterion = library.Network(layers), library.MeanSquaredError()
    optimizer, batches = library.SGD(task.lr), library.Batches(task.batch_size, seed=2)

    def run(epochs: int) -> list[float]:
        losses = []
        for _ in range(epochs):
            total = 0.0
            for x, target in batches(points, targets):
                prediction = network.forward(x)
                total += criterion.loss(prediction, target)
                network.backward(criterion.gradient(prediction, target))
                optimizer.step(network)
            losses.append(total / task.steps)
        return losses

    return run


def micrograd(task: Task) -> Run:
    """A graph of single numbers, with micrograd's own network and backward pass; it has no tanh, so that is added."""
    import math

    import numpy as np
    from micrograd.engine import Value
    from micrograd.nn import MLP

    points, targets = (array.tolist() for array in task.data())
    network, generator = MLP(task.sizes[0], list(task.sizes[1:])), np.random.default_rng(2)
    arrays = task.parameters()
    for layer, weights, biases in zip(network.layers, arrays[::2], arrays[1::2]):
        for neuron, row, bias in zip(layer.neurons, weights.tolist(), biases.tolist()):
            neuron.b.data = bias
            for value, number in zip(neuron.w, row):
                value.data = number

    def tanh(s: Value) -> Value:
        x = Value(math.tanh(s.data), (s,), "tanh")

        def backward() -> None:
            s.grad += (1 - x.data**2) * x.grad

        x._backward = backward
        return x

    def step(rows: list[int]) -> float:
        errors = [(tanh(s) - t) ** 2 for row in rows for s, t in zip(network(points[row]), targets[row])]
        loss = sum(errors) / len(errors)
        network.zero_grad()
        loss.backward()
        for parameter in network.parameters():
            parameter.data -= task.lr * parameter.grad
        return loss.data

    def run(epochs: int) -> list[float]:
        losses = []
        for _ in range(epochs):
            order = generator.permutation(task.samples).tolist()
            starts = range(0, task.samples, task.batch_size)
            losses.append(sum(step(order[start : start + task.batch_size]) for start in starts) / task.steps)
        return losses

    return run


def _jax_step(task: Task):
    import jax
    import jax.numpy as jnp

    points, targets = (jnp.asarray(array) for array in task.data())
    parameters = [jnp.asarray(array) for array in task.parameters()]

    def loss(parameters, x, target):
        for w, b in zip(parameters[:-2:2], parameters[1:-2:2]):
            x = jax.nn.relu(x @ w.T + b)
        return ((jnp.tanh(x @ parameters[-2].T + parameters[-1]) - target) ** 2).mean()

    def step(parameters, rows):
        value, gradients = jax.value_and_grad(loss)(parameters, points[rows], targets[rows])
        return [p - task.lr * g for p, g in zip(parameters, gradients)], value

    return parameters, step


def jax_step(task: Task) -> Run:
    """One jitted step, called from Python; the batch is picked inside."""
    import jax
    import numpy as np

    parameters, step = _jax_step(task)
    step, generator = jax.jit(step), np.random.default_rng(2)

    def run(epochs: int) -> list[float]:
        nonlocal parameters
        losses = []
        for _ in range(epochs):
            order = generator.permutation(task.samples).astype(np.int32)
            values = []
            for start in range(0, task.samples, task.batch_size):
                parameters, value = step(parameters, order[start : start + task.batch_size])
                values.append(value)
            losses.append(sum(value.item() for value in values) / task.steps)
        return losses

    return run


def jax_scan(task: Task) -> Run:
    """The whole run in one jitted scan over epochs and steps, with the shuffling inside."""
    import jax

    parameters, step = _jax_step(task)
    key = jax.random.key(2)

    def epoch(parameters, key):
        order = jax.random.permutation(key, task.samples).reshape(task.steps, task.batch_size)
        parameters, losses = jax.lax.scan(step, parameters, order)
        return parameters, losses.mean()

    whole = jax.jit(lambda parameters, keys: jax.lax.scan(epoch, parameters, keys))

    def run(epochs: int) -> list[float]:
        nonlocal parameters, key
        key, *keys = jax.random.split(key, epochs + 1)
        parameters, losses = whole(parameters, jax.numpy.stack(keys))
        return losses.tolist()

    return run


def tinygrad_jit(task: Task) -> Run:
    """One step under TinyJit: gradients by tinygrad's autograd, updates by its SGD."""
    import numpy as np
    from tinygrad import Context, Tensor, TinyJit, nn

    points, targets = task.data()
    parameters = [Tensor(array) for array in task.parameters()]
    optimizer, generator = nn.optim.SGD(parameters, lr=task.lr), np.random.default_rng(2)

    @TinyJit
    @Context(TRAINING=1)
    def step(x, target):
        for w, b in zip(parameters[:-2:2], parameters[1:-2:2]):
            x = x.linear(w.T, b).relu()
        loss = ((x.linear(parameters[-2].T, parameters[-1]).tanh() - target) ** 2).mean()
        optimizer.zero_grad()
        loss.backward()
        Tensor.realize(loss, *optimizer.schedule_step())
        return loss

    def run(epochs: int) -> list[float]:
        losses = []
        for _ in range(epochs):
            order, total = generator.permutation(task.samples), 0.0
            for start in range(0, task.samples, task.batch_size):
                rows = order[start : start + task.batch_size]
                total += step(Tensor(points[rows]), Tensor(targets[rows])).item()
            losses.append(total / task.steps)
        return losses

    return run


@dataclass(frozen=True)
class Contender:
    """One row of the benchmark.

    Attributes:
        title: for table and figure.
        build: a function of a Task, see the top of this file.
        baseline: the row whose time this one's is divided by.
        imports: modules that are loaded before memory is measured; a row without them is skipped.
        tools: programs of which one must be installed.
        networks: how many networks one step trains; times are given per network.
        epochs: in one turn.
        slow: whether a step takes seconds: then a turn is one step, and there are three, in turn with the baseline's.
        one_call: whether a whole run is one call, so that its first result is its last.
        cpu: whether the row runs on the CPU only.
    """

    title: str
    build: Callable[[Task], Run]
    baseline: str = "torch-sgd"
    imports: tuple[str, ...] = ("torch", "diy")
    tools: tuple[str, ...] = ()
    networks: int = 1
    epochs: int = 10
    slow: bool = False
    one_call: bool = False
    cpu: bool = False

    def own(self, task: Task) -> Task:
        """Return the task, or the first batch of it for a slow row."""
        return replace(task, samples=min(task.batch_size, task.samples)) if self.slow else task

    def missing(self, device: str = "cpu") -> str | None:
        """Return why this row cannot run here, or None."""
        if self.cpu and device != "cpu":
            return "runs on the CPU only"
        for name in self.imports:
            if importlib.util.find_spec(name) is None:
                return f"{name} is not installed"
        if self.tools and not any(shutil.which(tool) for tool in self.tools):
            return f"needs one of {', '.join(self.tools)}"
        return None


COMPILERS = (os.environ.get("CXX", "g++"), "g++", "clang++")
CONTENDERS = {
    "torch-sgd": Contender("PyTorch, SGD", partial(disk, library="torch")),
    "diy-sgd": Contender("diy, SGD", partial(disk, library="diy")),
    "torch-by-hand": Contender("PyTorch's tensors by hand", torch_by_hand, imports=("torch",)),
    "torch-dropout": Contender(
        "PyTorch, dropout, SGD", partial(disk, library="torch", dropout=0.2), baseline="torch-dropout"
    ),
    "diy-dropout": Contender("diy, dropout, SGD", partial(disk, library="diy", dropout=0.2), baseline="torch-dropout"),
    "torch-adam": Contender("PyTorch, Adam", partial(disk, library="torch", optimizer="Adam", lr=0.001)),
    "diy-adam": Contender("diy, Adam", partial(disk, library="diy", optimizer="Adam", lr=0.001), baseline="torch-adam"),
    "diy-stack": Contender("diy, ten networks at once, per network", partial(stack, networks=10), networks=10),
    "torch-compile": Contender("PyTorch, torch.compile", compiled, tools=COMPILERS),
    "numpy": Contender("NumPy by hand", numpy_by_hand, imports=("numpy",), cpu=True),
    "numpy-classes": Contender(
        "NumPy, a framework of classes", partial(numpy_classes, dtype="float32"), imports=("numpy",), cpu=True
    ),
    "numpy-classes-64": Contender(
        "the same in float64", partial(numpy_classes, dtype="float64"), imports=("numpy",), cpu=True
    ),
    "micrograd": Contender(
        "micrograd, number by number", micrograd, imports=("numpy", "micrograd"), epochs=1, slow=True, cpu=True
    ),
    "jax-step": Contender("JAX, one jitted step", jax_step, imports=("jax",), cpu=True),
    "jax-scan": Contender(
        "JAX, the whole run in one scan", jax_scan, imports=("jax",), epochs=100, one_call=True, cpu=True
    ),
    "tinygrad": Contender(
        "tinygrad, TinyJit", tinygrad_jit, imports=("numpy", "tinygrad"), tools=("clang",), epochs=1, cpu=True
    ),
    "torch-lenet": Contender("PyTorch, LeNet", partial(lenet, library="torch"), baseline="torch-lenet", epochs=1),
    "diy-lenet": Contender("diy, LeNet", partial(lenet, library="diy"), baseline="torch-lenet", epochs=1),
}
INFERENCE = {library: partial(inference, library=library) for library in ("torch", "diy")}
