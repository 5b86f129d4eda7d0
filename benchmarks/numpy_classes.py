"""A framework of plain NumPy classes, such as people write to learn how one works: joelgrus/joelnet, for example.

Layers keep their parameters and gradients in two dictionaries, and what backward needs in attributes. There are no
checks, no shapes but (N, features), and the gradient of the data is computed although nobody asks for it.
"""

from collections.abc import Callable, Iterator

import numpy as np


class Layer:
    def __init__(self) -> None:
        self.parameters: dict[str, np.ndarray] = {}
        self.gradients: dict[str, np.ndarray] = {}


class Linear(Layer):
    def __init__(self, weight: np.ndarray, bias: np.ndarray) -> None:
        super().__init__()
        self.parameters = {"weight": weight, "bias": bias}  # (in, out), (out,)

    def forward(self, X: np.ndarray) -> np.ndarray:
        self.X = X
        return X @ self.parameters["weight"] + self.parameters["bias"]

    def backward(self, G: np.ndarray) -> np.ndarray:
        self.gradients["weight"] = self.X.T @ G
        self.gradients["bias"] = G.sum(axis=0)
        return G @ self.parameters["weight"].T


class Activation(Layer):
    """A function of one number, and its slope as a function of the same number."""

    def __init__(self, function: Callable, slope: Callable) -> None:
        super().__init__()
        self.function, self.slope = function, slope

    def forward(self, S: np.ndarray) -> np.ndarray:
        self.S = S
        return self.function(S)

    def backward(self, G: np.ndarray) -> np.ndarray:
        return self.slope(self.S) * G


class ReLU(Activation):
    def __init__(self) -> None:
        super().__init__(lambda s: np.maximum(s, 0), lambda s: s > 0)


class Tanh(Activation):
    def __init__(self) -> None:
        super().__init__(np.tanh, lambda s: 1 - np.tanh(s) ** 2)


class MeanSquaredError:
    def loss(self, prediction: np.ndarray, target: np.ndarray) -> float:
        return float(np.mean((prediction - target) ** 2))

    def gradient(self, prediction: np.ndarray, target: np.ndarray) -> np.ndarray:
        return 2 * (prediction - target) / prediction.size


class Network:
    def __init__(self, layers: list[Layer]) -> None:
        self.layers = layers

    def forward(self, X: np.ndarray) -> np.ndarray:
        for layer in self.layers:
            X = layer.forward(X)
        return X

    def backward(self, G: np.ndarray) -> np.ndarray:
        for layer in reversed(self.layers):
            G = layer.backward(G)
        return G

    def pairs(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for layer in self.layers:
            for name, parameter in layer.parameters.items():
                yield parameter, layer.gradients[name]


class SGD:
    def __init__(self, lr: float) -> None:
        self.lr = lr

    def step(self, network: Network) -> None:
        for parameter, gradient in network.pairs():
            parameter -= self.lr * gradient


class Batches:
    """Batches of the data, in a new order in each epoch."""

    def __init__(self, batch_size: int, seed: int) -> None:
        self.batch_size, self.generator = batch_size, np.random.default_rng(seed)

    def __call__(self, inputs: np.ndarray, targets: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        order = self.generator.permutation(len(inputs))
        for start in range(0, len(inputs), self.batch_size):
            rows = order[start : start + self.batch_size]
            yield inputs[rows], targets[rows]
