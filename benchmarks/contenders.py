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


def epochs(task: Task, batches: Callable, step: Callable, total: Callable = sum) -> Run:
    """Return the `run` that takes a step for each of the `batches()` of every epoch.

    Args:
        batches: shuffles the samples; returns tuples, the arguments of `step`.
        step: trains and returns the loss.
        total: adds the losses of an epoch.
    """

    def run(epochs: int) -> list[float]:
        return [float(total(step(*batch) for batch in batches())) / task.steps for _ in range(epochs)]

    return run


# diy and PyTorch: the same lines serve both, for their interfaces agree


def disk(task: Task, library: str, dropout: float | None = None, **optimizer) -> Run:
    """The report's network and loss; `optimizer` is its `name` and `lr`, unless SGD at the task's rate."""
    import torch

    import diy

    criterion = {"diy": diy, "torch": torch.nn}[library].MSELoss()
    return _training(task, _network(task, library, dropout), criterion, _shuffled(task, *_tensors(task)), **optimizer)


def lenet(task: Task, library: str) -> Run:
    """LeNet on random images, 28 × 28, with 10 classes, from PyTorch's initial weights."""
    import torch

    import diy

    def build(layers):
        return layers.Sequential(
            *(layers.Conv2d(1, 6, 5, padding=2), layers.ReLU(), layers.MaxPool2d(2)),  # (N, 6, 14, 14)
            *(layers.Conv2d(6, 16, 5), layers.ReLU(), layers.MaxPool2d(2)),  # (N, 16, 5, 5)
            *(layers.Flatten(), layers.Linear(400, 120), layers.ReLU()),
            *(layers.Linear(120, 84), layers.ReLU(), layers.Linear(84, 10)),
        )

    with torch.random.fork_rng():
        torch.manual_seed(1)
        images, classes = torch.randn(task.samples, 1, 28, 28), torch.randint(10, (task.samples,))
        network = build(torch.nn)
    if library == "diy":
        twin = build(diy)
        twin.load_state_dict(network.state_dict())
        twin[0].needs_input_grad = False
        network = twin
    criterion = {"diy": diy, "torch": torch.nn}[library].CrossEntropyLoss()
    batches = _shuffled(task, images.to(task.device), classes.to(task.device))
    return _training(task, network.to(task.device), criterion, batches)


def stack(task: Task, networks: int, dropout: float | None = None, **optimizer) -> Run:
    """Several networks at once, each with its own order of samples. The losses are means over the networks."""
    import diy

    network = diy.stack(_network(task, "diy", dropout) for _ in range(networks))
    network[0].needs_input_grad = False
    criterion, batches = diy.MSELoss(stacked=True), _shuffled(task, *_tensors(task), networks)
    return _training(task, network, criterion, batches, **optimizer, total=lambda losses: sum(losses).mean())


def torch_by_hand(task: Task) -> Run:
    """diy's mathematics in the fewest tensor operations: no classes, no checks, in place wherever possible.

    The distance from this row to diy is what diy's modules cost, although PyTorch looks here, as in any loop written by
    hand, whether an operation is to be differentiated, which diy switches off.
    """
    import torch

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

    return epochs(task, _shuffled(task, *_tensors(task)), step)


def compiled(task: Task) -> Run:
    """PyTorch with the forward, the loss and their gradients compiled, and the optimizer's step as well."""
    import torch

    network = _network(task, "torch")
    criterion, optimizer = torch.nn.MSELoss(), torch.optim.SGD(network.parameters(), lr=task.lr)
    forward = torch.compile(lambda x, target: criterion(network(x), target))
    update = torch.compile(optimizer.step)

    def step(x, target):
        loss = forward(x, target)
        optimizer.zero_grad()
        loss.backward()
        update()
        return loss.detach()

    return epochs(task, _shuffled(task, *_tensors(task)), step)


def inference(task: Task, library: str) -> Run:
    """Forward passes over all samples at once; `run` returns the mean output of each pass."""
    import torch

    network, (points, _) = _network(task, library).eval(), _tensors(task)

    def run(passes: int) -> list[float]:
        with torch.inference_mode():
            return [network(points).mean().item() for _ in range(passes)]

    return run


def _tensors(task: Task):
    import torch

    return [torch.from_numpy(array).to(task.device) for array in task.data()]


def _network(task: Task, library: str, dropout: float | None = None):
    import torch

    from experiments.circle import build_network

    network = build_network(library, task.sizes[1:-1], dropout).to(task.device)
    with torch.no_grad():
        for parameter, array in zip(network.parameters(), task.parameters()):
            parameter.copy_(torch.from_numpy(array))
    if library == "diy":
        network[0].needs_input_grad = False  # as in PyTorch, where the data does not ask for a gradient
    return network


def _training(task: Task, network, criterion, batches, name: str = "SGD", lr: float | None = None, total=sum) -> Run:
    import torch

    import diy

    ours = isinstance(network, diy.Module)
    optimizer = getattr(diy if ours else torch.optim, name)(network.parameters(), lr=lr or task.lr)

    def step(x, target):
        loss = criterion(network(x), target)
        optimizer.zero_grad()
        if ours:
            network.backward(criterion.backward())
        else:
            loss.backward()
        optimizer.step()
        return loss.detach()

    return epochs(task, batches, step, total)


def _shuffled(task: Task, x, target, networks: int | None = None) -> Callable:
    import torch

    def batches():
        orders = [torch.randperm(task.samples) for _ in range(networks or 1)]
        order = torch.stack(orders) if networks else orders[0]
        return zip(*(values[order.to(task.device)].split(task.batch_size, order.dim() - 1) for values in (x, target)))

    return batches


# The others


def numpy_by_hand(task: Task) -> Run:
    """The same mathematics without classes, checks or graph."""
    import numpy as np

    parameters, lr = task.parameters(), np.float32(task.lr)
    weights, biases = parameters[::2], parameters[1::2]

    def step(x, target):
        inputs = [x]
        for w, b in zip(weights, biases):
            s = inputs[-1] @ w.T
            s += b
            inputs.append(np.maximum(s, 0, out=s) if len(inputs) < len(weights) else np.tanh(s, out=s))
        output = inputs.pop()
        gradient = output - target
        loss = (gradient * gradient).mean()
        gradient *= np.float32(2 / gradient.size) * (1 - output * output)
        for w, b, x in zip(reversed(weights), reversed(biases), reversed(inputs)):
            w_gradient, b_gradient = gradient.T @ x, gradient.sum(0)
            if x is not inputs[0]:
                gradient = gradient @ w
                gradient *= x > 0
            w -= lr * w_gradient
            b -= lr * b_gradient
        return loss

    return epochs(task, _shuffled_arrays(task, *task.data()), step)


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

    def step(x, target):
        prediction = network.forward(x)
        loss = criterion.loss(prediction, target)
        network.backward(criterion.gradient(prediction, target))
        optimizer.step(network)
        return loss

    return epochs(task, lambda: batches(points, targets), step)


def micrograd(task: Task) -> Run:
    """A graph of single numbers, with micrograd's own network and backward pass; it has no tanh, so that is added."""
    import math

    from micrograd.engine import Value
    from micrograd.nn import MLP

    network, arrays = MLP(task.sizes[0], list(task.sizes[1:])), task.parameters()
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

    def step(points, targets):
        samples = zip(points.tolist(), targets.tolist())
        errors = [(tanh(s) - t) ** 2 for point, target in samples for s, t in zip(network(point), target)]
        loss = sum(errors) / len(errors)
        network.zero_grad()
        loss.backward()
        for parameter in network.parameters():
            parameter.data -= task.lr * parameter.grad
        return loss.data

    return epochs(task, _shuffled_arrays(task, *task.data()), step)


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
    step = jax.jit(step)

    def one(rows):
        nonlocal parameters
        parameters, loss = step(parameters, rows)
        return loss

    def total(losses):
        return sum(loss.item() for loss in list(losses))  # not before all steps are under way

    return epochs(task, _shuffled_arrays(task, np.arange(task.samples, dtype=np.int32)), one, total)


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
    from tinygrad import Context, Tensor, TinyJit, nn

    parameters = [Tensor(array) for array in task.parameters()]
    optimizer = nn.optim.SGD(parameters, lr=task.lr)

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

    batches = _shuffled_arrays(task, *task.data())
    return epochs(task, batches, lambda x, target: step(Tensor(x), Tensor(target)).item())


def _shuffled_arrays(task: Task, *arrays) -> Callable:
    import numpy as np

    generator = np.random.default_rng(2)

    def batches():
        order = generator.permutation(task.samples)
        shuffled = [array[order] for array in arrays]
        for start in range(0, task.samples, task.batch_size):
            yield [array[start : start + task.batch_size] for array in shuffled]

    return batches


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
    "torch-adam": Contender("PyTorch, Adam", partial(disk, library="torch", name="Adam", lr=0.001)),
    "diy-adam": Contender("diy, Adam", partial(disk, library="diy", name="Adam", lr=0.001), baseline="torch-adam"),
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
