"""The framework that notebook 3 builds, step by step: the solutions of its exercises, in the order of their numbers.

build.py cuts it at the lines that name an exercise; the notebook's folded solutions are the same text, as a test says.
What begins with "Given" is there from the start.
"""

import math

import torch


# Exercise 3.1
def linear(X, W, b):
    return X @ W.T + b  # (N, in) (in, out) -> (N, out)


# Exercise 3.2
def linear_backward(G, X, W):
    dX = G @ W  # (N, out) (out, in) -> (N, in)
    dW = G.T @ X  # (out, N) (N, in) -> (out, in)
    db = G.sum(0)  # (N, out) -> (out,)
    return dX, dW, db


# Exercise 3.3
def accumulate(parameter, gradient):
    before = parameter.grad
    parameter.grad = gradient if before is None else before + gradient


def zero_grad(parameters):
    for parameter in parameters:
        parameter.grad = None


# Given
class Module:
    def __call__(self, *inputs):
        return self.forward(*inputs)

    def parameters(self):
        return []


# Exercise 3.4
class Linear(Module):
    def __init__(self, in_features, out_features):
        deviation = math.sqrt(2 / (in_features + out_features))
        self.weight = deviation * torch.randn(out_features, in_features)
        self.bias = torch.full((out_features,), 0.01)

    def parameters(self):
        return [self.weight, self.bias]

    def forward(self, X):
        self.X = X
        return linear(X, self.weight, self.bias)

    def backward(self, G):
        dX, dW, db = linear_backward(G, self.X, self.weight)
        accumulate(self.weight, dW)
        accumulate(self.bias, db)
        return dX


# Exercise 3.5
class Tanh(Module):
    def forward(self, S):
        self.Y = S.tanh()
        return self.Y

    def backward(self, G):
        return G * (1 - self.Y**2)


# Exercise 3.6
class ReLU(Module):
    def forward(self, S):
        self.Y = S.relu()
        return self.Y

    def backward(self, G):
        return G * (self.Y > 0)


# Exercise 3.7
class Sequential(Module):
    def __init__(self, *layers):
        self.layers = layers

    def parameters(self):
        return [parameter for layer in self.layers for parameter in layer.parameters()]

    def forward(self, X):
        for layer in self.layers:
            X = layer(X)
        return X

    def backward(self, G):
        for layer in reversed(self.layers):
            G = layer.backward(G)
        return G


# Exercise 3.8
class MSELoss(Module):
    def forward(self, P, T):
        self.D = P - T
        return (self.D**2).mean()

    def backward(self):
        return 2 * self.D / self.D.numel()


# Exercise 3.9
class SGD:
    def __init__(self, parameters, lr):
        self.parameters, self.lr = list(parameters), lr

    def step(self):
        for parameter in self.parameters:
            if parameter.grad is not None:
                parameter -= self.lr * parameter.grad

    def zero_grad(self):
        zero_grad(self.parameters)


# Exercise 3.10
def train(network, criterion, optimizer, batches):
    losses = []
    for X, T in batches:
        loss = criterion(network(X), T)
        optimizer.zero_grad()
        network.backward(criterion.backward())
        optimizer.step()
        losses.append(float(loss))
    return losses


# Given
if __name__ == "__main__":  # learn to tell which points of a square lie inside a circle
    torch.set_default_dtype(torch.float64)
    torch.manual_seed(0)
    points = 2 * torch.rand(2000, 2) - 1
    inside = (points.square().sum(1) < 2 / math.pi).long()
    targets = torch.eye(2)[inside]
    layers = [Linear(2, 25), ReLU(), Linear(25, 25), ReLU(), Linear(25, 25), ReLU(), Linear(25, 2), Tanh()]
    network = Sequential(*layers)
    batches = [(points[n], targets[n]) for _ in range(100) for n in torch.randperm(1000).split(100)]
    losses = train(network, MSELoss(), SGD(network.parameters(), lr=0.2), batches)
    wrong = (network(points[1000:]).argmax(1) != inside[1000:]).double().mean()
    print(f"The loss fell from {losses[0]:.3f} to {losses[-1]:.3f}.")
    print(f"Of 1000 new points, {100 * wrong:.1f} % are on the wrong side of the circle.")
