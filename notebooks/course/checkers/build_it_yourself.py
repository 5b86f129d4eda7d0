"""The checkers of the notebook in which a framework is written from empty cells.

Besides the verdict they print what the learner's code gives, beside what is expected or measured, in the smallest
case. Everything is float64 here, as in that notebook, and what one step returns must be fit for the next: a tensor.
"""

import inspect
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from itertools import islice, permutations
from types import GeneratorType

import course
import torch
from course import build, mini
from torch import Tensor

from .answers import AnswerError, NoAnswerError, expect, shown, tensor
from .mistakes import AVERAGED, along_a_path, of_a_loss
from .running import SHARED, Passes, by_hand, check_memory, normal, run

PRECISION = torch.float64
OWN_METHOD = "Derive it from Module, or give it that method yourself."

SMALL = {  # square, so that a transpose too many or too few gives numbers rather than an exception
    "X": torch.tensor([[1.0, 2.0], [3.0, -1.0]], dtype=torch.float64),
    "W": torch.tensor([[1.0, 0.5], [-1.0, 2.0]], dtype=torch.float64),
    "b": torch.tensor([0.5, -1.0], dtype=torch.float64),
    "G": torch.tensor([[1.0, -1.0], [2.0, 0.5]], dtype=torch.float64),
}

SMALL_P = torch.tensor([[1.0, 0.5, 0.0], [1.0, -1, 0.5], [0.5, 2, 1], [0, 0, 1.5]], dtype=torch.float64)


# Linear


def exercise_1(linear) -> str:
    for index, (X, W, b) in enumerate(_layers()):
        got = run("linear", linear, X=X, W=W, b=b)
        _compare("S", got, X @ W.T + b, _forward_mistakes(X, W, b), {} if index else {"expected": X @ W.T + b})
    slow = _slow(lambda: linear(normal(10, 25), normal(25, 25), normal(25)))
    return f"Every sample goes through the same neurons.{slow}"


def exercise_2(linear_backward) -> str:
    names = "dX", "dW", "db"
    for index, (X, W, b) in enumerate(_layers()):
        G = normal(len(X), len(W), seed=index + 100) if index else SMALL["G"]
        expected = G @ W, G.T @ X, G.sum(0)
        with by_hand("linear_backward"):
            got = _three(run("linear_backward", linear_backward, G=G, X=X, W=W))
        columns = {} if index else _measured(X, W, b, G)
        for order in [*permutations(range(3))][1:]:
            if all(_equals(got[place], expected[one]) for place, one in enumerate(order)):
                mixed = ", ".join(names[one] for one in order)
                raise AnswerError(f"The three are right, but in the order {mixed}: return dX, dW, db.")
        mistakes = _backward_mistakes(X, W, G)
        for name, one, right in zip(names, got, expected, strict=True):
            _compare(name, one, right, mistakes[name], columns.get(name, {}))
    slow = _slow(lambda: linear_backward(normal(10, 25), normal(10, 25), normal(25, 25)))
    return f"Sums over the samples for what they share, none for what each has of its own.{slow}"


def _layers() -> list[tuple[Tensor, Tensor, Tensor]]:
    sizes = (3, 3, 3), (4, 3, 2), (2, 4, 2), (1, 2, 3), (5, 1, 1), (6, 3, 2)  # samples, inputs, neurons
    drawn = [
        (normal(N, i, seed=3 * case), normal(k, i, seed=3 * case + 1), normal(k, seed=3 * case + 2))
        for case, (N, i, k) in enumerate(sizes)
    ]
    return [(SMALL["X"], SMALL["W"], SMALL["b"]), *drawn]


def _measured(X: Tensor, W: Tensor, b: Tensor, G: Tensor) -> dict[str, dict[str, Tensor]]:
    """Return for each of the three gradients the column that is printed beside the learner's."""
    given = {"dX": X, "dW": W, "db": b}

    def moved(name: str, value: Tensor) -> Tensor:
        x, w, v = (given | {name: value}).values()
        return (G * (x @ w.T + v)).sum()

    return {name: {"measured": build.measure(partial(moved, name), at)} for name, at in given.items()}


def _forward_mistakes(X: Tensor, W: Tensor, b: Tensor) -> dict[str, Tensor]:
    N, k, i = len(X), *W.shape
    mistakes = {
        "the bias is missing.": X @ W.T,
        "the bias is subtracted.": X @ W.T - b,
        "each sample is a row of S, each neuron a column: yours is transposed.": (X @ W.T + b).T,
        "all neurons have the same bias: neuron k has its own, b[k].": X @ W.T + b[0],
        "b is added up over the neurons: neuron k has its own, b[k].": X @ W.T + b.sum(),
        "it is divided by the number of samples, and nothing is averaged here.": (X @ W.T + b) / N,
    }
    if k == N:
        words = "b is added to the columns, as if it had one number for each sample; it has one for each neuron."
        mistakes[words] = X @ W.T + b[:, None]
    if k == i:
        mistakes["W is not transposed: the summed index must stand in the middle, and in W it comes last."] = X @ W + b
        if k == N:
            mistakes["the factors are exchanged: samples are the rows of S, so X stands on the left."] = W @ X + b
    return mistakes


def _backward_mistakes(X: Tensor, W: Tensor, G: Tensor) -> dict[str, dict[str, Tensor]]:
    dX, dW, db = G @ W, G.T @ X, G.sum(0)
    mistakes: dict[str, dict[str, Tensor]] = {
        "dX": {
            "that is W alone, not multiplied by the gradient from above.": W.sum(0) + 0 * dX,
            "it is added up over the samples: each number of X has its own sample only.": dX.sum(0),
        },
        "dW": {
            "it is transposed: a gradient has the shape of its parameter, here (out, in).": dW.T,
            "that is what one sample gives: all of them use the same W, and their contributions add up.": (
                G[-1:].T @ X[-1:],
                G[:1].T @ X[:1],
            ),
            "the gradient from above is missing: each path has the factors G and X.": torch.ones_like(G).T @ X,
            "G and X are summed over the samples before they are multiplied.": torch.outer(G.sum(0), X.sum(0)),
        },
        "db": {
            "the sum over the samples is missing: all of them share b.": G,
            "it has a dimension too many, which keepdim leaves: b has one.": db[None],
            "it is summed over the neurons: the samples are what shares a bias.": G.sum(1),
            "it is summed over everything: each neuron has its own bias.": G.sum(),
            "that is what one sample gives: add over the samples.": (G[-1], G[0]),
            "that is one for each sample; each also has the gradient from above.": len(X) + 0 * db,
        },
    }
    if W.shape[0] == W.shape[1]:
        mistakes["dX"]["W is transposed; the summed index, the neuron, already comes first in W."] = G @ W.T
        if len(W) == len(X):
            mistakes["dW"]["G is not transposed: the summed index, the sample, must stand in the middle."] = G @ X
            mistakes["dX"]["G is transposed: its samples already are the rows."] = G.T @ W
    for name, right in ("dX", dX), ("dW", dW), ("db", db):
        mistakes[name][AVERAGED] = right / len(X)
    return mistakes


def _three(returned) -> list:
    parts = list(islice(returned, 4)) if isinstance(returned, (tuple, list, Iterator)) else [returned]
    if any(part is ... for part in parts):
        raise NoAnswerError
    if len(parts) != 3:
        raise AnswerError(f"linear_backward should return three gradients, dX, dW, db, but returns {shown(returned)}.")
    return parts


# Where gradients are kept


def exercise_3(accumulate, zero_grad) -> str:
    w, v = torch.ones(2, 2), torch.full((2, 2), 2.0)
    first, second, other = torch.tensor([[1.0, 2], [3, 4]]), torch.tensor([[10.0, -20], [30, 0.5]]), torch.ones(2, 2)
    given = _copies([first, second, other])

    def add(parameter: Tensor, gradient: Tensor) -> None:
        before = parameter.clone()
        with by_hand("accumulate", "it is to be added by hand"):
            run("accumulate", accumulate, returns=False, copies=False, parameter=parameter, gradient=gradient)
        if not torch.equal(parameter, before):
            raise AnswerError("accumulate changes the parameter itself, which is up to the optimizer.")
        if not all(map(torch.equal, (first, second, other), given)):
            raise AnswerError(
                "accumulate adds in place to a gradient that it was given before, and that others may still use: "
                "let parameter.grad be a new tensor, the sum."
            )

    add(w, first)
    if first.grad is not None:
        raise AnswerError("accumulate gets the parameter first, and then its gradient: yours are exchanged.")
    if w.grad is None:
        raise AnswerError("After the first gradient w.grad is still None: it should be that gradient.")
    mistakes = {
        "the first gradient is lost; a .grad of None counts as zero.": 0 * first,
        "it counts twice: a .grad of None counts as zero.": 2 * first,
    }
    expect("w.grad after one gradient", w.grad, first, mistakes)
    add(w, second)
    total = first + second
    mistakes = {
        "the second replaces the first: add them.": second,
        "the second does not count: add them.": first,
        "that is their mean: contributions of paths are added.": total / 2,
        "they are multiplied; paths add.": first * second,
        "the second is subtracted; paths add.": first - second,
        "the second counts twice.": total + second,
        "the first counts twice.": total + first,
    }
    _compare("w.grad after two gradients", w.grad, total, mistakes, {"expected": total})
    add(v, other)
    add(w, first)
    expect("w.grad after a third", w.grad, total + first, {"that is the mean of three.": (total + first) / 3})
    expect("v.grad, after its first, though w has had three", v.grad, other)

    u = torch.full((2,), 3.0)
    parameters, before = [w, u, v], _copies([w, u, v])
    try:
        run("zero_grad", zero_grad, returns=False, copies=False, parameters=parameters)
    except NoAnswerError:
        raise NoAnswerError("accumulate is right so far, zero_grad still has its dots.") from None
    except AnswerError as error:
        if "NoneType" in str(error):
            error = AnswerError("zero_grad stops at a parameter whose .grad is None, as before the first backward.")
        raise error from None
    if len(parameters) != 3:
        raise AnswerError("zero_grad changes the list of parameters: only their gradients are to be forgotten.")
    if not all(map(torch.equal, (w, u, v), before)):
        raise AnswerError("zero_grad changes the parameters themselves: only their gradients are to be forgotten.")
    if not all(map(torch.equal, (first, second, other), given)):
        raise AnswerError(
            "zero_grad sets to zero, in place, a gradient that accumulate was given and that others may still use: "
            "set the .grad of each parameter to None."
        )
    left = [one for one in (w, v, u) if one.grad is not None and one.grad.any()]
    if left:
        some = "the gradients are still there" if len(left) == 2 else "one of the gradients is still there"
        raise AnswerError(f"After zero_grad {some}: set the .grad of each parameter to None.")
    add(w, second)
    back = {"the former gradients come back.": total + first + second}
    expect("w.grad after zero_grad and one gradient", w.grad, second, back)
    return "From several paths comes one sum, and a new step begins without it."


# Layers


COPIES = "the weights are copies of those that parameters() gives, so no optimizer can change them."


def exercise_4(Linear) -> str:
    passes = Passes("Linear", Linear, in_features=2, out_features=2)
    weight, bias = _weight_and_bias(passes.module, 2, 2)
    if weight.unique().numel() < 2:
        raise AnswerError("All weights are the same at the start, so that all neurons stay alike: draw them at random.")
    _one_linear(passes, weight, bias, SMALL["X"], SMALL["W"], SMALL["b"], SMALL["G"], printed=True)
    for N, size_in, out in (4, 3, 2), (3, 3, 3), (1, 2, 3):
        passes = Passes("Linear", Linear, in_features=size_in, out_features=out)
        weight, bias = _weight_and_bias(passes.module, size_in, out)
        W, b = normal(out, size_in, seed=2), normal(out, seed=3)
        X, G = normal(N, size_in, seed=1), normal(N, out, seed=4)
        _one_linear(passes, weight, bias, X, W, b, G)
        X2, G2 = normal(N, size_in, seed=5), normal(N, out, seed=6)
        weight += 1  # as a step does
        first, W = W, W + 1
        expect("S, after a step", passes.forward(X=X2), X2 @ W.T + b, {COPIES: X2 @ first.T + b})
        expect("dX, after a step", passes.backward(G2), G2 @ W, {COPIES: G2 @ first})
        for name, parameter, one, two in ("weight", weight, G.T @ X, G2.T @ X2), ("bias", bias, G.sum(0), G2.sum(0)):
            mistakes = {
                "the second backward replaces what the first has left: hand it to accumulate.": two,
                "the second backward does not count: hand its gradient to accumulate.": one,
                "that is the mean of both; they are added.": (one + two) / 2,
            }
            if name == "weight":
                mistakes["it belongs to an earlier batch: each forward must keep its own X."] = one + G2.T @ X
            expect(f"{name}.grad after two batches", parameter.grad, one + two, mistakes)
        passes.forward(X=normal(N + 2, size_in, seed=7))  # a last batch may be of another size
        expect("The gradient of the input", passes.backward(normal(N + 2, out, seed=8)), normal(N + 2, out, seed=8) @ W)
    one, two = (Passes("Linear", Linear, in_features=3, out_features=3) for _ in range(2))
    w, v = _weight_and_bias(one.module, 3, 3)[0], _weight_and_bias(two.module, 3, 3)[0]
    if w is v:
        raise AnswerError("Two Linear layers have the same weights: each needs its own, made in __init__.")
    x, y, g, h = (normal(3, 3, seed=seed) for seed in (1, 2, 3, 4))
    one.forward(X=x)
    two.forward(X=y)
    two.backward(h)
    one.backward(g)
    if not _all_equal([v.grad, w.grad], [h.T @ y, g.T @ x]):
        raise AnswerError(SHARED.format("Linear"))
    _usable("Linear", passes.module, normal(2, 2))
    return "It remembers on the way forward what the way back needs."


def _one_linear(passes, weight, bias, X, W, b, G, printed=False) -> None:
    before = weight.clone()
    at_first = X @ before.T + bias, X @ before.T + b
    weight.copy_(W)
    bias.copy_(b)
    mistakes = _forward_mistakes(X, W, b) | {COPIES: at_first}
    S = X @ W.T + b
    got = passes.forward(X=X)
    _check_kept(passes, "forward", weight, bias)
    _compare("S", got, S, mistakes, {"expected": S} if printed else {})
    dX = passes.backward(G)
    _check_kept(passes, "backward", weight, bias)
    if isinstance(dX, (tuple, list)):
        raise AnswerError("Linear.backward returns several gradients: only dX is returned, accumulate gets the others.")
    for name, parameter, value in ("weight", weight, W), ("bias", bias, b):
        if not torch.equal(parameter, value):
            raise AnswerError(f"Linear.backward changes {name} itself: that is up to the optimizer.")
        if parameter.grad is None:
            raise AnswerError(f"After backward {name}.grad is None: hand its gradient to accumulate(self.{name}, ...).")
    known, columns = _backward_mistakes(X, W, G), _measured(X, W, b, G) if printed else {}
    known["dX"] |= {
        "that is the gradient of the weights; backward returns that of the input.": G.T @ X,
        "that is the gradient from above, unchanged.": G,
        COPIES: G @ before,
    }
    known["dW"]["that is the gradient of the input: backward returns it, and accumulate gets that of W."] = G @ W
    _compare("weight.grad", weight.grad, G.T @ X, known["dW"], columns.get("dW", {}))
    _compare("bias.grad", bias.grad, G.sum(0), known["db"], columns.get("db", {}))
    _compare("The dX that backward returns", dX, G @ W, known["dX"], columns.get("dX", {}))


def _check_kept(passes: Passes, method: str, *parameters: Tensor) -> None:
    if any(a is not b for a, b in zip(_parameters("Linear", passes.module), parameters, strict=True)):
        raise AnswerError(
            f"Linear.{method} puts another tensor in the place of a parameter: the optimizer holds the first one, and "
            "changing it is the optimizer's business."
        )


def _weight_and_bias(module, size_in: int, out: int) -> tuple[Tensor, Tensor]:
    found = _parameters("Linear", module)
    shapes = [tuple(one.shape) for one in found]
    if shapes != [(out, size_in), (out,)]:
        if sorted(shapes) == sorted([(out, size_in), (out,)]):
            raise AnswerError("Linear.parameters gives the bias first: PyTorch's order is weight, bias.")
        raise AnswerError(
            f"Linear({size_in}, {out}).parameters() should be the weight, of shape {(out, size_in)}, and the bias, "
            f"{(out,)}, but has the shapes {', '.join(map(str, shapes)) or 'of nothing at all'}."
        )
    for one in found:
        if one.requires_grad:
            raise AnswerError("A parameter asks for autograd (requires_grad): here parameters are plain tensors.")
        if one.dtype != torch.float64:
            raise AnswerError(f"A parameter is {_plain(one.dtype)}, and this notebook computes in float64.")
    return found[0], found[1]


def _parameters(name: str, module) -> list[Tensor]:
    found, again = _listed(name, module), _listed(name, module)
    if len(again) < len(found):
        raise AnswerError(f"{name}.parameters gives less at a second call: a generator is used up, so make a list.")
    if any(a is not b for a, b in zip(found, again)):
        raise AnswerError(
            f"{name}.parameters gives new tensors at each call, whose .grad no optimizer would find: "
            "give the parameters themselves."
        )
    return found


def _listed(name: str, module) -> list[Tensor]:
    if not callable(getattr(module, "parameters", None)):
        raise AnswerError(f"{name} has no method parameters: what would an optimizer change? {OWN_METHOD}")
    try:
        returned = run(f"{name}.parameters", module.parameters)
    except NoAnswerError:
        raise NoAnswerError(f"{name}.parameters still has its dots.") from None
    try:
        found = list(returned) if not isinstance(returned, (str, Mapping, Tensor)) else None
    except Exception:
        found = None
    if found is None:
        raise AnswerError(f"{name}.parameters should give a list of tensors, but gives {shown(returned)}.")
    for one in found:
        if isinstance(one, (list, tuple)):
            raise AnswerError(f"{name}.parameters gives lists in a list: it should be one list of tensors.")
        if not isinstance(one, Tensor):
            raise AnswerError(f"{name}.parameters should give a list of tensors, but {shown(one)} is among them.")
    return found


def exercise_5(Tanh) -> str:
    def mistakes(S: Tensor, G: Tensor) -> dict[str, Tensor]:
        Y = S.tanh()
        return {
            "the slope is taken at the input, 1 − S²; it is 1 − tanh², which the output tells.": G * (1 - S * S),
            "the tanh is taken once more, of the output.": G * (1 - Y.tanh() ** 2),
            "that is with 1 − y; the slope is 1 − y².": G * (1 - Y),
            "that is with the slope of the sigmoid, y (1 − y).": G * Y * (1 - Y),
            "the gradient from above is multiplied by the output, and not by the slope.": G * Y,
            "the sign within the slope is wrong: it is 1 − y².": G * (Y * Y - 1),
            "that is with 1 + y²; the slope is 1 − y².": G * (1 + Y * Y),
            "the brackets around 1 − y² are missing.": G - Y * Y,
        }

    wrong = {
        "that is the sigmoid.": torch.sigmoid,
        "that is ReLU.": torch.relu,
        "that is its slope, which is backward's business.": lambda S: 1 - S.tanh() ** 2,
    }
    _activation("Tanh", Tanh, torch.tanh, lambda S: 1 - S.tanh() ** 2, wrong, mistakes)
    return "Where the output is near 1 or −1, next to nothing comes back."


def exercise_6(ReLU) -> str:
    def mistakes(S: Tensor, G: Tensor) -> dict[str, Tensor]:
        return {
            "it asks for the sign of the gradient; the sign of the input is what counts.": G.relu(),
            "it asks for both signs; that of the input alone counts.": G.relu() * (S > 0),
            "that is the gradient from above, unchanged. (Y >= 0 holds everywhere, Y > 0 does not.)": G,
            "a comparison comes last in Python: it needs brackets, G * (Y > 0).": (G * S.relu() > 0).double(),
            "it passes what should be stopped, and stops what should pass.": G * (S <= 0),
            "at s = 0 the gradient passes: there the slope is taken as 0, as in PyTorch.": (
                G * (S >= 0),
                G * (S.sign() + 1) / 2,
            ),
            "it is multiplied by the output; the slope is 0 or 1.": G * S.relu(),
            "it is multiplied by the sign, and where s < 0 the slope is 0.": G * S.sign(),
        }

    wrong = {
        "that is the absolute value: what is negative becomes zero.": torch.abs,
        "that is min(0, s), the other half.": lambda S: -torch.relu(-S),
        "that is its slope, which is backward's business.": lambda S: (S > 0).double(),
        "that is tanh.": torch.tanh,
        "that is S itself: what is negative becomes zero.": lambda S: 1 * S,
    }
    _activation("ReLU", ReLU, torch.relu, lambda S: (S > 0).double(), wrong, mistakes)
    return "A gradient passes, or it does not."


def _activation(name: str, answer, function, slope, wrong: Mapping, backward_mistakes) -> None:
    passes = Passes(name, answer)
    for index in range(4):
        S, G = normal(3 + index % 2, 2 + index, seed=index), normal(3 + index % 2, 2 + index, seed=index + 9)
        if index == 0:
            S = torch.tensor([[-2.0, 0.0, 0.5], [1.0, -0.25, 2.0]])
            G = torch.tensor([[1.0, -2.0, 3.0], [-1.0, 2.0, 0.5]])
        S[0, 0] += 9.0 * (index == 3)
        Y, right = function(S), G * slope(S)
        forward = {words: mistaken(S) for words, mistaken in wrong.items()}
        _compare(f"{name} of S", passes.forward(S=S), Y, forward, {"expected": Y, "S": S} if not index else {})
        known = backward_mistakes(S, G) | along_a_path(G, slope(S))
        columns = {}
        if not index:
            # At the kink of ReLU a measured slope means nothing: it is what PyTorch takes.
            at = torch.where(S == 0, S - 1e-3, S) if name == "ReLU" else S
            columns = {"measured": build.measure(lambda s: (G * function(s)).sum(), at), "S": S, "G": G}  # noqa: B023
        _compare("dS", passes.backward(G), right, known, columns)
    check_memory(name, answer, "S")
    if _listed(name, passes.module):
        raise AnswerError(f"{name} has nothing to learn: its parameters() should be an empty list.")
    _usable(name, passes.module, normal(2, 3))


def _usable(name: str, module, *inputs: Tensor) -> None:
    if not callable(module):
        raise AnswerError(f"A {name} cannot be called, `layer(X)`, as the steps that follow do. {OWN_METHOD}")
    run(f"{name}.__call__", module.__call__, **{f"input{i}": one for i, one in enumerate(inputs)})


# A network and its loss


def exercise_7(Sequential) -> str:
    for index, (N, *sizes) in enumerate([(2, 2, 2, 2), (5, 2, 3, 4), (3, 1, 5, 2)]):
        torch.manual_seed(index)
        layers = [mini.Linear(sizes[0], sizes[1]), mini.Tanh(), mini.Linear(sizes[1], sizes[2])]
        names = dict(zip(("first", "second", "third"), layers, strict=True))
        passes = Passes("Sequential", Sequential, **names)
        wanted = [layers[0].weight, layers[0].bias, layers[2].weight, layers[2].bias]
        for repeat in range(2):
            X, G = normal(N + repeat, sizes[0], seed=1), normal(N + repeat, sizes[2], seed=2 + repeat)
            _one_network(passes, layers, wanted, X, G, index == repeat == 0, " of a second batch" * repeat)
            kept = getattr(passes.module, "layers", layers)
            if isinstance(kept, list) and len(kept) != len(layers):
                raise AnswerError("The list of layers has another length after backward: leave it as it is.")
        _check_listed(_parameters("Sequential", passes.module), wanted)
    check_memory("Sequential", Sequential, "X", first=mini.Tanh, second=mini.ReLU)
    inner = Passes("Sequential", Sequential, first=mini.Linear(2, 2), second=mini.ReLU()).module
    outer = Passes("Sequential", Sequential, first=mini.Linear(3, 2), second=inner)
    if len(_parameters("Sequential", outer.module)) != 4:
        raise AnswerError("Of a network within a network, parameters() does not give the parameters: ask it for them.")
    outer.forward(X=normal(4, 3))
    if tuple(tensor("What backward returns", outer.backward(normal(4, 2, seed=1))).shape) != (4, 3):
        raise AnswerError("With a network within a network, backward does not return the gradient of the input.")
    _usable("Sequential", outer.module, normal(2, 3))
    return "Forward from the first layer to the last, back from the last to the first."


def _one_network(passes, layers, wanted, X, G, printed, which) -> None:
    one, two, three = layers

    def forward(*chosen, value=X):
        for layer in chosen:
            value = value @ layer.weight.T + layer.bias if isinstance(layer, mini.Linear) else value.tanh()
        return value

    square = X.shape[1] == one.weight.shape[0] == three.weight.shape[0]
    mistakes = {
        "that is what the first layer gives: its output is the input of the next.": forward(one),
        "the last layer is missing.": forward(one, two),
        "that is the input: each layer has to make something of it.": X,
    }
    if square:
        mistakes |= {
            "it goes from the last layer to the first.": forward(three, two, one),
            "each layer gets the input of the network: it should get the output of the one before.": forward(three),
            "the first layer is missing.": forward(two, three),
            "the layer in the middle is missing.": forward(one, three),
            "it goes through all layers twice.": forward(one, two, three, one, two, three),
        }
    Y = forward(one, two, three)
    _compare(f"The output{which}", passes.forward(X=X), Y, mistakes, {"expected": Y} if printed else {})

    before = [None if one.grad is None else one.grad.clone() for one in wanted]
    inside = forward(one, two)
    above = G @ three.weight
    middle = above * (1 - inside**2)
    right = middle @ one.weight
    try:
        got = passes.backward(G)
    except AnswerError as error:
        shapes = "cannot be multiplied" in str(error) or "must match" in str(error)
        if shapes and not square:
            raise AnswerError(f"{error} Is it the last layer that is asked first?") from None
        raise
    mistakes = {
        "that is the gradient from above: each layer has to make something of it.": G,
        "that is what the last layer returns: it is the gradient from above for the one before.": above,
        "the first layer is missing.": middle,
    }
    if square:
        mistakes["the layers are asked from the first to the last; the last one must speak first."] = (
            (G @ one.weight) * (1 - inside**2) @ three.weight
        )
        mistakes["each layer gets the gradient from above the network; it should get that of the layer after it."] = (
            G @ one.weight
        )
        mistakes["the layer in the middle is missing."] = above @ one.weight
    columns = {"measured": build.measure(lambda x: (G * forward(*layers, value=x)).sum(), X)} if printed else {}
    _compare(f"The dX that backward returns{which}", got, right, mistakes, columns)
    expected = middle.T @ X, middle.sum(0), G.T @ inside, G.sum(0)
    for name, parameter, now, then in zip(("first", "first", "last", "last"), wanted, expected, before, strict=True):
        if parameter.grad is None:
            raise AnswerError(f"After backward the {name} layer has no gradient: was its backward asked?")
        total = now if then is None else then + now
        twice = {"backward asks this layer more than once.": total + now}
        expect(f"A gradient of the {name} layer", parameter.grad, total, twice)


def _check_listed(found: list[Tensor], wanted: list[Tensor]) -> None:
    if [id(one) for one in found] == [id(one) for one in wanted]:
        return
    if {id(one) for one in found} == {id(one) for one in wanted}:
        if len(found) > len(wanted):
            raise AnswerError("Sequential.parameters gives some more than once: they would take several steps.")
        raise AnswerError("Sequential.parameters should give them in the order of the layers, as PyTorch does.")
    if len(found) >= len(wanted):
        raise AnswerError("Sequential.parameters gives copies: give what the layers' own parameters() give.")
    first = [id(one) for one in found] == [id(one) for one in wanted[:2]]
    which = " those of the first layer only" if first else " not all of them"
    raise AnswerError(
        f"Sequential.parameters gives {len(found)} tensors, and its layers have {len(wanted)}:"
        f"{which if found else ' ask each layer for its own'}."
    )


def exercise_8(MSELoss) -> str:
    loss = Passes("MSELoss", MSELoss, kind="Module")
    # With 4 samples of 3 outputs no two of the mistakes below give the same numbers.
    cases = [(SMALL_P, torch.tensor([[0.0, 1.0, 0.0], [1.0, 0, 0], [0, 0, 1], [1, 0, 0]]))]
    sizes = (4, 3), (3, 3), (1, 2), (5, 1), (3, 2)
    cases += [(normal(*size, seed=i), normal(*size, seed=i + 9)) for i, size in enumerate(sizes)]
    for index, (P, T) in enumerate(cases):
        D, M = P - T, P.numel()
        mistakes, known = of_a_loss("squared", "components", D)
        mistakes["that is twice the difference, D * 2; the square is D ** 2."] = 2 * D.mean()
        right = D.square().mean()
        got = loss.forward(P=P, T=T)
        if not isinstance(got, Tensor) or got.numel() != 1:
            tensor("The loss", got)  # refuses what is no number
        if not index:
            print("The loss of")
            course.beside(P=P, T=T)
            print(f"is {_words(got)} (yours), {float(right):.4f} (expected).")
        expect("The loss", got, right, mistakes)
        gradient = loss.backward()
        known |= {
            "the 2 is missing, which the square brings down.": D / M,
            "the 2 and the division by M are missing.": D,
            "the 2 is missing, and it is divided by the number of samples.": D / len(D),
        }
        columns = {"measured": build.measure(lambda p: (p - T).square().mean(), P)} if not index else {}  # noqa: B023
        _compare("dP", gradient, 2 * D / M, known, columns)
    check_memory("MSELoss", MSELoss, "P", "T")
    _usable("MSELoss", loss.module, normal(2, 2), normal(2, 2))
    return "M counts components, not samples."


# Learning


def exercise_9(SGD) -> str:
    for kind in list, iter:
        # One without a gradient stands in the middle: the step must go on after it.
        parameters = [torch.tensor([[1.0, 2.0], [3.0, 4.0]]), torch.tensor([5.0]), torch.tensor([10.0, -10.0])]
        gradients = [torch.tensor([[1.0, -1.0], [0.5, 2.0]]), None, torch.tensor([4.0, 0.0])]
        for parameter, gradient in zip(parameters, gradients):
            parameter.grad = None if gradient is None else gradient.clone()
        optimizer, start = _optimizer(SGD, kind(parameters), 0.1), _copies(parameters)
        for steps in 1, 2:
            before = _copies(parameters)
            _step(optimizer)
            if all(map(torch.equal, parameters, before)):
                used_up = "SGD gets a generator here, which is used up after one pass: keep list(parameters)."
                raise AnswerError(used_up if kind is iter else _STILL[steps])
            _one_step(parameters, start, gradients, steps, printed=kind is list and steps == 1)
        learned = _copies(parameters)
        try:
            run("SGD.zero_grad", optimizer.zero_grad, returns=False)
        except NoAnswerError:
            raise NoAnswerError("SGD.step is right so far, zero_grad still has its dots.") from None
        if any(one.grad is not None and one.grad.any() for one in parameters):
            raise AnswerError("After SGD.zero_grad there are gradients left: hand all parameters to zero_grad.")
        if not all(map(torch.equal, parameters, learned)):
            raise AnswerError("SGD.zero_grad changes the parameters: only their gradients are to be forgotten.")
    other = torch.tensor([1.0])
    other.grad = torch.tensor([1.0])
    _step(_optimizer(SGD, [other], 0.5))
    if not _equals(other, torch.tensor([0.5])):
        raise AnswerError("With another learning rate, the step is not that rate times the gradient: use lr.")
    other.fill_(1.0)
    one = _optimizer(SGD, [other], 0.5)
    _optimizer(SGD, [torch.tensor([7.0])], 0.25)
    _step(one)
    if not _equals(other, torch.tensor([0.5])):
        raise AnswerError("With two optimizers, one has the parameters or the rate of the other: keep them in self.")
    return "Downhill, by the learning rate times the slope."


def _optimizer(SGD, parameters: Iterable, lr: float):
    if not isinstance(SGD, type):
        raise AnswerError(f"Hand over the class SGD itself, without brackets: this is {shown(SGD)}.")
    if issubclass(SGD, torch.optim.Optimizer) or any(kind.__module__ == "diy" for kind in SGD.__mro__):
        raise AnswerError("This SGD is that of a library: write it yourself.")
    with by_hand("SGD"):
        optimizer = run("SGD", SGD, copies=False, parameters=parameters, lr=lr)
    for method in "step", "zero_grad":
        if not callable(getattr(optimizer, method, None)):
            raise AnswerError(f"SGD has no {method}: is it indented so that it stands inside the class?")
    return optimizer


def _step(optimizer) -> None:
    try:
        with by_hand("SGD"):
            run("SGD.step", optimizer.step, returns=False)
    except AnswerError as error:
        if "NoneType" in str(error):
            error = AnswerError("SGD.step stops at a parameter whose .grad is None: leave such a parameter as it is.")
        raise error from None


_STILL = {
    1: "SGD.step leaves the parameters as they are: `parameter = ...` makes a new tensor under a local name, and a "
    "copy is another tensor, too. Change the tensor itself, `parameter -= ...`.",
    2: "The second call of SGD.step does nothing.",
}


def _one_step(parameters, start, gradients, steps, printed) -> None:
    for parameter, original in zip(parameters, gradients):
        if original is not None and (parameter.grad is None or (not parameter.grad.any() and original.any())):
            raise AnswerError("SGD.step forgets the gradients: leave that to zero_grad.")
        if original is not None and not _equals(parameter.grad, original):
            raise AnswerError("SGD.step changes the gradients in place: compute lr times the gradient as a new tensor.")
    w, before, gradient = parameters[0], start[0], gradients[0]
    mistakes = {
        "it goes uphill: the gradient points to where the loss grows.": before + 0.1 * steps * gradient,
        "the learning rate is missing.": before - steps * gradient,
        "the learning rate takes the place of the gradient: multiply them.": before - 0.1 * steps,
        "the step is divided by the learning rate: multiply.": before - steps * gradient / 0.1,
        "the learning rate is squared.": before - 0.01 * steps * gradient,
        "only the sign of the gradient is used.": before - 0.1 * steps * gradient.sign(),
        "the parameter is replaced by the step: subtract it from the parameter.": -0.1 * gradient,
        "the parameter is multiplied by the step: subtract it.": before * 0.1 * gradient,
        "it is the mean of the gradient that is used: each number has its own.": before - 0.1 * steps * gradient.mean(),
        "it is not changed; are all parameters walked through?": before,
    }
    what, right = f"parameter after {'one step' if steps == 1 else 'two steps'}", before - 0.1 * steps * gradient
    columns = {"expected": right, "before": before, "gradient": gradient} if printed else {}
    _compare(f"A {what}", w, right, mistakes, columns)
    other = {"it is not changed: does the loop end too early, by a `return` where `continue` is meant?": start[2]}
    expect(f"Another {what}", parameters[2], start[2] - 0.1 * steps * gradients[2], other)
    if not torch.equal(parameters[1], start[1]):
        raise AnswerError("SGD.step changes a parameter whose .grad is None: leave it as it is.")


class _SumLoss(mini.Module):
    """Is not the learner's loss, so that a loop that takes its own is found out."""

    def forward(self, P, T):
        self.D = P - T
        return (self.D**2).sum()

    def backward(self):
        return 2 * self.D


def exercise_10(train) -> str:
    sizes = 5, 5, 4, 6, 3, 5
    batches = [(normal(n, 2, seed=i), normal(n, 1, seed=i + 50)) for i, n in enumerate(sizes)]
    network, criterion, optimizer = _fresh()
    at_first, given = _copies(network.parameters()), [tuple(_copies(batch)) for batch in batches]
    calls = _noted(network, criterion, optimizer)
    arguments = {"network": network, "criterion": criterion, "optimizer": optimizer, "batches": given}
    losses = run("train", train, copies=False, **arguments)
    if isinstance(losses, GeneratorType):
        raise AnswerError("train is a generator, as it has a yield, and does nothing by itself: return a list.")
    if len(given) != len(batches) or not all(map(_all_equal, given, batches)):
        raise AnswerError("train changes the batches: leave data as they are.")
    numbers = tensor("What train returns", losses, "a list of losses, one for each batch")
    right = _fresh()
    expected = torch.tensor(mini.train(*right, batches))
    if numbers.shape == expected.shape:
        print(f"The losses of {len(batches)} batches, in a small network:")
        course.beside(yours=numbers, expected=expected)
    times = Counter(name for name, _, _ in calls)
    for method in "network.backward", "optimizer.step", "criterion.backward":
        if not times[method]:
            words = "The gradient is not the loss's own"
            words = "The parameters change by other means" if "optimizer" in method else words
            words = "After train the network is as it was" if _all_equal(network.parameters(), at_first) else words
            raise AnswerError(f"{words}: {method} is never called.")
    if not _all_equal(network.parameters(), right[0].parameters()):
        still = (
            "as it was"
            if _all_equal(network.parameters(), at_first)
            else "not what one step for each batch makes of it"
        )
        raise AnswerError(f"After train the network is {still}. {_oddity(calls, batches)}")
    if numbers.numel() == 1:
        raise AnswerError("What train returns is a single number: a list of the losses is wanted, one for each batch.")
    mistakes = {
        "they are added up from batch to batch: each batch has its own.": expected.cumsum(0),
        "they stand in the wrong order, the last one first.": expected.flip(0),
        "they are divided by the number of samples: note what criterion gives.": expected / torch.tensor(sizes),
        "they are divided by the number of batches: each batch has its own.": expected / len(batches),
    }
    all_losses = [float(returned) for name, _, returned in calls if name == "criterion"]
    mistakes["each is that after the step: note the one that the step was made from."] = torch.tensor(all_losses[1::2])
    expect("What train returns", numbers, expected, mistakes)
    return "Loss, zero_grad, backward, step: the loop by which every network learns."


def _noted(network, criterion, optimizer) -> list[tuple]:
    """Let the three note in a list what is called, with which arguments, and what it returns."""
    calls: list[tuple] = []

    def note(name: str, thing, method: str) -> None:
        function = getattr(thing, method)
        signature = inspect.signature(function)

        def noted(*arguments, **named):
            given = signature.bind(*arguments, **named).args
            if name == "network.backward" and getattr(given[0], "shape", None) == ():
                returned = "it needs the gradient, which criterion.backward() returns"
                raise AnswerError(f"network.backward gets the loss, a number: {returned}.")
            calls.append((name, given, function(*given)))
            return calls[-1][-1]

        setattr(thing, method, noted)

    for name, thing in ("network", network), ("criterion", criterion):
        note(name, thing, "forward")
        note(f"{name}.backward", thing, "backward")
    for method in "zero_grad", "step":
        note(f"optimizer.{method}", optimizer, method)
    return calls


def _oddity(calls: list[tuple], batches: list[tuple[Tensor, Tensor]]) -> str:
    """Say what is unusual about the calls of a loop that does not do what it should."""

    def which(given, part: int) -> int:
        """Return the number of the batch that something is the X (0) or the T (1) of; the first is 1, none is 0."""
        return next((n for n, batch in enumerate(batches, 1) if _equals(given, batch[part])), 0)

    letters = {"optimizer.zero_grad": "z", "network.backward": "b", "optimizer.step": "s"}
    spelt = "".join(letters.get(name, "") for name, *_ in calls)
    if "z" not in spelt:
        return "The gradients of earlier batches are still there when the next are added: zero_grad is missing."
    if spelt.find("s") < spelt.find("b"):
        return "The step is taken before backward, which gives it its gradients."
    if "bzs" in spelt:
        return "zero_grad stands between backward and step, so that the step finds no gradients."
    order, present, gradient, total = [], 0, None, len(batches)
    for name, given, returned in calls:
        if name == "network":
            present = which(given[0], 0)
            if not present:
                return "What goes through the network is not always the X of a batch."
            order += [present] if order[-1:] != [present] else []
        elif name == "criterion" and present and which(given[0], 1) == present:
            return "P and T are exchanged, so that each step goes uphill: it is criterion(network(X), T)."
        elif name == "criterion" and present and which(given[1], 1) != present:
            other = which(given[1], 1)
            what = f"the T of batch {other}" if other else "something other than its T"
            return f"criterion gets the output for batch {present} together with {what}."
        elif name == "criterion.backward":
            gradient = returned
        elif name == "network.backward" and (gradient is None or not _equals(given[0], gradient)):
            return "network.backward does not get what criterion.backward has just returned: pass it on unchanged."
    every = [*range(1, total + 1)]
    if order == [1]:
        return "Only the first batch is learned from: does `return` stand inside the loop?"
    if left_out := sorted({*every} - {*order}):
        return f"Batch {left_out[0]} never goes through the network."
    if order == every and spelt.count("b") == 1:
        return "Only the last batch is learned from: should some lines stand inside the loop?"
    if len(order) > total and order == every * (len(order) // total):
        return f"Each batch goes through it {len(order) // total} times: go through `batches` once."
    if order != every:
        way = "in reverse" if order == every[::-1] else f"in the order {', '.join(map(str, order))}"
        return f"The batches go through it {way}: take them one after the other, from the first to the last."
    for name, times in Counter(name for name, *_ in calls).items():
        if times != total:
            called = "once" if times == 1 else f"{times} times"
            return f"{name} is called {called} for {total} batches, and should be called once for each."
    return "Each call is in its place: does something else change the parameters, their gradients or the learning rate?"


def _fresh():
    torch.manual_seed(0)
    network = mini.Sequential(mini.Linear(2, 3), mini.Tanh(), mini.Linear(3, 1))
    return network, _SumLoss(), mini.SGD(network.parameters(), 0.02)


# Measuring


def exercise_11(slopes) -> str:
    A = torch.tensor([[1.0, -2.0], [0.5, 3.0]])
    cases = [
        ("the sum of A · x", lambda x: (A * x).sum(), SMALL["X"], A),
        ("the sum of the cubes", lambda x: (x**3).sum(), torch.tensor([1.0, -2.0, 0.5]), None),
        ("a product of all", lambda x: x.prod(), torch.tensor([[2.0, 3.0, 0.5]]), None),
        (
            "1,000,000 x² + 10,000 x y + y at (0, 0)",
            lambda x: 1e6 * x[0] ** 2 + 1e4 * x[0] * x[1] + x[1],
            torch.zeros(2),
            None,
        ),
        ("the last number", lambda x: x.reshape(-1)[-1] * 1.0, normal(2, 3), None),
    ]
    for index, (words, f, x, right) in enumerate(cases):
        if right is None:
            right = build.measure(f, x, 1e-5).round(decimals=6)
        with by_hand("slopes", "it is to be measured, also where f is not PyTorch's"):
            got = run("slopes", slopes, f=f, x=x)
        values = tensor(f"The slopes of {words}", got)
        if not index and values.shape == right.shape:
            print(f"The slopes of {words}:")
            course.beside(yours=values, expected=right)
        factor = float((values * right).sum() / right.square().sum()) if values.shape == right.shape else 0.0
        if 0 < abs(factor) < 1e-4 and (values - factor * right).abs().max() < 1e-2 * values.abs().max():
            size = f"{factor:.0e} times the right ones"
            raise AnswerError(f"The slopes of {words} are {size}: does the division need brackets, / (2 * h)?")
        if index == 3 and values.shape == right.shape and not _near(values, right):
            said = f"Of {words} the slopes are 0 and 1; yours are {values[0]:.3g} and {values[1]:.3g}. "
            if abs(values[1] - 1) < 1e-3:
                raise AnswerError(f"{said}Are they measured from one side only?")
            if abs(values[0]) < 1e-3:
                raise AnswerError(f"{said}Is x moved back before y is moved?")
        mistakes = {
            "they are added up: each component has its own.": right.sum(),
            "the two points are 2h apart, not h: yours are twice too large.": 2 * right,
            "yours are half of them: the two points are 2h apart.": right / 2,
            "that is f(x − h) − f(x + h): the other way round.": -right,
            "all components are moved at once: move one, and leave the others.": right.sum() + 0 * right,
            "it is all zero.": 0 * right,
        }
        if values.numel() == right.numel():
            mistakes["they should have the shape of x."] = right.reshape(values.shape)
        for said, mistake in mistakes.items():
            if _near(values, mistake) and not _near(values, right):
                raise AnswerError(f"The slopes of {words}: {said}")
        if values.shape != right.shape:
            expect(f"The slopes of {words}", values, right)
        if not _near(values, right):
            raise AnswerError(
                f"The slopes of {words} are wrong by up to {(values - right).abs().max():.1g}: is h, the step, between "
                "1e-7 and 1e-3, and is only one component moved?"
            )
    return "Now you can check layers for which nobody has written a checker."


def _near(values: Tensor, others: Tensor) -> bool:
    """Whether these are the same slopes, as far as one can measure."""
    limit = 2e-5 * max(1.0, others.abs().max().item())
    return values.shape == others.shape and bool(((values - others).abs() <= limit).all())


# Comparing


def _compare(what: str, got, expected: Tensor, mistakes: Mapping, columns: Mapping[str, Tensor]) -> None:
    """Print an answer beside the columns, if there are any, and refuse it if it is not the expected tensor.

    Raises:
        NoAnswerError, AnswerError: see `expect`; what is no tensor of float64 is refused as well.
    """
    if got is ...:
        raise NoAnswerError
    numbers = tensor(what, got)
    if columns:
        if numbers.shape == expected.shape:
            print(f"{what}:")
            course.beside(yours=numbers, **columns)
        else:
            print(f"{what}: yours has the shape {tuple(numbers.shape)}, and {tuple(expected.shape)} is expected:")
            if numbers.dim() <= 2 and 0 < numbers.numel() <= 100:
                course.beside(yours=numbers)
            course.beside(**{name: value for name, value in columns.items() if name in ("expected", "measured")})
    if numbers.numel() == expected.numel() == 1 and numbers.shape != expected.shape:
        raise AnswerError(f"{what} should have the shape {tuple(expected.shape)}, but has {tuple(numbers.shape)}.")
    expect(what, numbers, expected, mistakes)
    if not isinstance(got, Tensor):
        raise AnswerError(f"{what} is right, but is {shown(got)}: the steps that follow need a tensor.")
    if got.dtype != expected.dtype:
        raise AnswerError(
            f"{what} is {_plain(got.dtype)}, though what came in is {_plain(expected.dtype)}: "
            "leave the dtype as it is, or the steps that follow cannot go on with it."
        )
    if got.requires_grad:
        raise AnswerError(f"{what} asks for autograd (requires_grad): here backward is to be written by hand.")


def _equals(got, expected: Tensor) -> bool:
    try:
        expect("", got, expected)
    except AnswerError:
        return False
    return True


def _all_equal(found: Iterable[Tensor], others: Iterable[Tensor]) -> bool:
    return all(_equals(a, b) for a, b in zip(found, others, strict=True))


def _copies(tensors: Iterable[Tensor]) -> list[Tensor]:
    return [one.clone() for one in tensors]


def _words(number) -> str:
    return f"{float(number):.4f}" if tensor("", number).numel() == 1 else shown(number)


def _plain(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _slow(function: Callable) -> str:
    """Return a remark about a function that computes a product in loops, a tenth of a training step's, or nothing."""
    start = time.process_time()
    function()
    if time.process_time() - start < 0.02:
        return ""
    return " But 1000 steps of training would take hours this way: with a product of matrices, @, they take a second."
