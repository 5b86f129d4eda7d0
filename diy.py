"""A small deep-learning framework: modules, losses and optimizers with hand-written backward passes.

Every gradient in this file is written out by hand on PyTorch tensors; nothing here uses automatic differentiation, and
while these formulas run it is off. The interface is PyTorch's own: what you learn here, you can use there. One training
step reads

    loss = criterion(model(x), y)
    optimizer.zero_grad()
    model.backward(criterion.backward())
    optimizer.step()

Notation, as in the lecture and with samples as rows: a layer turns X, of shape (N, in), into S = X Wᵀ + b, and an
activation σ turns S into σ(S). ℓ is the loss, and G is the gradient that arrives from above, ∂ℓ/∂(output). Formulas are
numbered, (F1), (F2) and so on; the same number marks the derivation in the notebooks and the test.

Read the file from top to bottom: I. a network that learns, II. what helps it to learn, III. images, IV. many networks
at once, V. behind the scenes: checking input, remembering, saving, moving, printing.

The handouts cited are those of EE-559, EPFL, 2019 (https://fleuret.org/ee559/): 3-6 back-propagation, 4-3 modules and
batch processing, 4-4 convolutions, 4-5 pooling, 5-1 cross-entropy, 5-2 stochastic gradient descent, 5-5 initialization,
6-3 dropout, 6-4 batch normalization.
"""

import builtins
import contextlib
import copy
import dis
import functools
import inspect
import itertools
import math
import numbers
import operator
import os
import re
import sys
import threading
import traceback
import types
import warnings
from abc import ABC, ABCMeta, abstractmethod, update_abstractmethods
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn, cast

import torch
from torch import Tensor

__all__ = ["Module", "Sequential", "Linear", "Conv2d", "MaxPool2d", "BatchNorm2d", "Flatten", "Dropout"]
__all__ += ["ReLU", "Tanh", "Sigmoid", "Loss", "MSELoss", "LossMSE", "CrossEntropyLoss"]
__all__ += ["Optimizer", "SGD", "Adam", "CosineAnnealingLR", "kaiming_normal_", "stack", "unstack"]

# ----------------------------------------------------------------------------------------------------------------------
# I. A network that learns


class Function(ABC):
    """What a module and a loss have in common: `forward` computes, `backward` applies the chain rule.

    Both hold their formula and nothing else. The code that runs around them is in part V: it refuses wrong input, and
    hands each `backward` what its own `forward` remembered.
    """

    _trusted: bool = False
    _fixed: frozenset[str] = frozenset()
    _gradients: int = 1
    _check: Callable[..., None]

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if type(cls) is not ABCMeta:  # a learner's, even if it has been added to this file
            _guard(cls)

    def __new__(cls, *args: Any, **kwargs: Any) -> Any:
        _check_arguments(cls, args, kwargs)
        self = super().__new__(cls)
        vars(self)["_memory"] = _Memory({})
        return self

    def remember(self, output: Tensor, *values: Any) -> None:
        """Keep `values` for backward; they must not change until then. Called by forward, which returns `output`."""
        if (tape := _thread.tape) is not None:
            tape.append((self, values, None))
        else:
            _remember(self, values)

    def recall(self, *gradient: Tensor) -> tuple[Tensor, ...]:
        """Return the gradient from above, then what `remember` kept, the last call first. Called by backward.

        Raises:
            RuntimeError: forward remembered nothing, or a remembered tensor has since been changed in place.
        """
        if (tape := _thread.tape) and tape[-1][0] is self:
            return gradient + tape.pop()[1]
        return gradient + _recall(self)


if TYPE_CHECKING:

    class _Base(Function, _Housekeeping): ...  # noqa: F821

else:
    _Base = Function


class Module(_Base):
    """A layer or a network.

    To write one, define `forward` and `backward`, name its parameters in `parameter_names`, and keep what backward
    needs with `remember`. A module that it uses is an attribute, several are a Sequential: a list would hide them.

    Attributes:
        parameter_names: the attributes that are learned: plain tensors (or None), each with its gradient in `.grad`.
        buffer_names: the attributes that belong to the state but are not learned.
        training: True in training mode, the default, and False in evaluation mode.
        needs_input_grad: set it to False in the first layer to save the work for ∂ℓ/∂(input), as PyTorch does;
            backward then returns None.
        stackable: whether `stack` accepts this class; a subclass has to set it again.
        stack_size: the number of networks in a network made by `stack`, otherwise None.
    """

    parameter_names: tuple[str, ...] = ()
    buffer_names: tuple[str, ...] = ()
    training: bool = True
    needs_input_grad: bool = True
    stackable: bool = False
    stack_size: int | None = None

    @abstractmethod
    def forward(self, input: Tensor) -> Tensor:
        """Return the output for `input`, and `remember` what backward will need. Called as `module(input)`."""

    @abstractmethod
    def backward(self, gradient: Tensor) -> Tensor | None:
        """Take G = ∂ℓ/∂(output), `accumulate` ∂ℓ/∂(parameter) for each parameter, and return ∂ℓ/∂(input).

        It belongs to the last forward. As in PyTorch, each forward allows one backward. If a module calls another one
        several times, each backward belongs to the last of these calls that has had none yet.

        Raises:
            RuntimeError: no forward is waiting for a backward, what it remembered has since been changed in place, or
                `gradient` is that of something else, such as a loss of twice the output.
            TypeError, ValueError: the dtype or shape of `gradient` is not the output's.
        """

    def __call__(self, input: Tensor, *more: Any) -> Tensor:
        """Return `forward(input)`."""
        if more:
            _refuse_inputs(self, 1 + len(more))
        return self.forward(input)

    @staticmethod
    def accumulate(parameter: Tensor, gradient: Tensor) -> None:
        """(F1) ∂ℓ/∂w = Σ over all paths from w to ℓ: add one path's share to `parameter.grad`.

        A parameter that is used several times, by several samples or in several batches, influences the loss along
        several paths, and the chain rule adds them all up. A `.grad` of None counts as zero. Handout 4-3.
        """
        if not _frozen(parameter):
            before = parameter.grad
            # A new tensor, because `gradient` and the sum so far may be in use elsewhere.
            parameter.grad = gradient if before is None else before + gradient

    def parameters(self, recurse: bool = True) -> Iterator[Tensor]:
        """Yield each parameter once."""
        _only_default("parameters", recurse=(recurse, True))
        return (parameter for _, parameter in self.named_parameters())

    def param(self) -> list[tuple[Tensor, Tensor | None]]:
        """Return (parameter, gradient) pairs, as the assignment asks; a gradient is None before the first backward."""
        return [(parameter, parameter.grad) for parameter in self.parameters()]


class Linear(Module):
    """A fully connected layer, s = W x + b.

    Args:
        in_features, out_features: sizes of the last dimension of input and output, at least 1.
        bias: whether to add b.
        device, dtype: of the parameters, as in PyTorch.

    Attributes:
        weight: W, of shape (out_features, in_features).
        bias: b, of shape (out_features,), or None.
    """

    parameter_names = ("weight", "bias")

    def __init__(self, in_features: int, out_features: int, bias: bool = True, device: Any = None, dtype: Any = None):
        _check_integers(in_features=in_features, out_features=out_features)
        self.in_features, self.out_features = in_features, out_features
        self.weight = torch.empty(out_features, in_features, device=device, dtype=_floating(dtype))
        self.bias = torch.empty(out_features, device=device, dtype=dtype) if bias else None
        self.reset_parameters()

    def forward(self, X: Tensor) -> Tensor:
        """(F2) S = X Wᵀ + b, for a row: sₖ = Σᵢ Wₖᵢ xᵢ + bₖ. Handout 3-6, p. 8/11.

        Args:
            X: (..., in_features), with the dtype of the weights. The result is (..., out_features).

        Raises:
            ValueError: the last dimension of X is not in_features, or X has no dimensions.
            TypeError: the dtypes of X and the weights differ.
        """
        W, b = self.weight, self.bias
        S = X @ W.mT  # (N, in) (in, out) -> (N, out)
        if b is not None:
            S += b  # (out,): the same for each of the N rows
        self.remember(S, X, W)
        return S

    def backward(self, G: Tensor) -> Tensor | None:
        """Turn G = ∂ℓ/∂S, of shape (..., out_features), into three gradients. Handout 3-6, p. 8/11.

        (F3) ∂ℓ/∂W = Gᵀ X    by index: ∂ℓ/∂Wₖᵢ = Σₙ Gₙₖ Xₙᵢ, summed over the samples n because all of them share W
        (F4) ∂ℓ/∂b = Σₙ Gₙ   by index: ∂ℓ/∂bₖ = Σₙ Gₙₖ, for the same reason
        (F5) ∂ℓ/∂X = G W     by index: ∂ℓ/∂Xₙᵢ = Σₖ Gₙₖ Wₖᵢ, summed over the outputs k because xᵢ feeds all of them
        """
        G, X, W = self.recall(G)
        rows, inputs = _rows(G, X)
        self.accumulate(W, rows.mT @ inputs)  # (out, N) (N, in) -> (out, in)
        if self.bias is not None:
            self.accumulate(self.bias, rows.sum(0))  # (N, out) -> (out,)
        return G @ W if self.needs_input_grad else None  # (N, out) (out, in) -> (N, in)

    def reset_parameters(self) -> None:
        """(F6) Xavier: Wᵢⱼ ~ N(0, σ²) with σ = √(2 / (in + out)); every bias 0.01. Handout 5-5, p. 13/22.

        The variance is a compromise: 1/in would keep activations the same size from layer to layer, 1/out gradients.
        """
        self.weight.normal_(0, math.sqrt(2 / (self.in_features + self.out_features)))
        if self.bias is not None:
            self.bias.fill_(0.01)

    def _check(self, X: Tensor) -> None:
        fits = isinstance(X, Tensor) and X.shape[-1:] == (self.in_features,)
        if not fits or X.dtype != self.weight.dtype:
            _refuse_input(X, self.weight, f"(..., {self.in_features})", fits)

    def extra_repr(self) -> str:
        return f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias is not None}"


class ReLU(Module):
    """The rectifier, component by component, for inputs of any shape."""

    stackable = True

    def __init__(self, inplace: bool = False):
        _only_default(self, inplace=(inplace, False))

    def forward(self, S: Tensor) -> Tensor:
        """(F7) σ(s) = max(0, s). Handout 3-6, p. 8/11."""
        X = S.relu()
        self.remember(X, X)
        return X

    def backward(self, G: Tensor) -> Tensor:
        """(F8) ∂ℓ/∂s = G · σ'(s) with σ'(s) = 1 where s > 0 and 0 elsewhere, as in PyTorch at the kink s = 0 too.

        The output, kept anyway for the next layer, is positive where s > 0 and 0 elsewhere: its sign is σ'(s).
        """
        G, X = self.recall(G)
        return _where(X, G)


class Tanh(Module):
    """The hyperbolic tangent, component by component, for inputs of any shape."""

    stackable = True

    def forward(self, S: Tensor) -> Tensor:
        """(F9) σ(s) = tanh(s). Handout 3-6, p. 8/11."""
        X = S.tanh()
        self.remember(X, X)
        return X

    def backward(self, G: Tensor) -> Tensor:
        """(F10) ∂ℓ/∂s = G · σ'(s) with σ'(s) = 1 − tanh²(s)."""
        G, X = self.recall(G)
        return G * (1 - X * X)


class Sequential(Module):
    """Modules one after the other: the output of each is the input of the next.

    A module may appear in several places: it is the same object, with the same parameters, in each of them.

    Raises:
        TypeError: an argument is not a Module.
    """

    stackable = True

    def __init__(self, *modules: Module):
        self.layers: list[Module] = []
        self._names: list[str] = []
        for module in modules:
            self.append(module)

    def forward(self, X: Tensor) -> Tensor:
        """(F11) x⁽⁰⁾ = input, x⁽ˡ⁾ = f⁽ˡ⁾(x⁽ˡ⁻¹⁾), output = x⁽ᴸ⁾. Handout 3-6, p. 8/11."""
        for layer in self.layers:
            X = layer.forward(X)
        return X

    def backward(self, G: Tensor) -> Tensor:
        """(F12) ∂ℓ/∂x⁽ˡ⁻¹⁾ = (∂f⁽ˡ⁾/∂x⁽ˡ⁻¹⁾)ᵀ ∂ℓ/∂x⁽ˡ⁾, from the last layer to the first. Handout 3-6, p. 8/11."""
        for layer in reversed(self.layers):
            G = layer.backward(G)  # type: ignore[assignment]  # None below a first layer that needs no input gradient
        return G

    def append(self, module: Module) -> "Sequential":
        """Add a module at the end; return self."""
        if not isinstance(module, Module):
            hint = "; unpack a list with Sequential(*modules)" if isinstance(module, (list, tuple)) else ""
            hint = f"; write {module.__name__}(...) to make a module of it" if isinstance(module, type) else hint
            hint = " from PyTorch; use diy's own" if type(module).__module__.startswith("torch.") else hint
            raise TypeError(f"argument {len(self)} of Sequential must be a diy Module, got {_kind(module)}{hint}")
        self._names = [*self.names, next(str(n) for n in itertools.count(len(self)) if str(n) not in self.names)]
        self.layers.append(module)
        return self

    @property
    def names(self) -> list[str]:
        """The modules' names, "0", "1", ...; a slice keeps those of the whole."""
        if len(self._names) != len(self.layers):  # the list was changed by hand
            self._names = [str(index) for index in range(len(self))]
        return self._names

    def named_children(self) -> Iterator[tuple[str, Module]]:
        yield from zip(self.names, self.layers)
        yield from super().named_children()

    def _check(self, X: Tensor) -> None:
        if "layers" not in vars(self):
            raise RuntimeError(f"{type(self).__name__}.__init__ must call super().__init__(...) first")
        _check_floating("input", X)

    def __len__(self) -> int:
        return len(self.layers)

    def __iter__(self) -> Iterator[Module]:
        return iter(self.layers)

    def __getitem__(self, index: int | slice) -> Module:
        """Return one module, or for a slice a Sequential of the same modules under the same names."""
        if not isinstance(index, slice):
            return self.layers[index]
        part = Sequential(*self.layers[index])
        part._names, part.stack_size, part.training = self.names[index], self.stack_size, self.training
        return part


class Loss(Function):
    """How far a prediction is from its target: one number, which training makes small.

    Args:
        reduction: "mean" divides by the number of terms, "sum" does not. Loss and gradient always agree.
        stacked: whether the first dimension runs over the R networks of a stack (see `stack`). The loss is then a
            tensor (R,), one loss per network.
        size_average, reduce: PyTorch's former names for the reduction; not supported.

    Raises:
        ValueError: `reduction` is neither "mean" nor "sum".
    """

    _gradients = 0
    reduction = "mean"
    stacked = False

    def __init__(
        self, size_average: None = None, reduce: None = None, reduction: str = "mean", *, stacked: bool = False
    ):
        if isinstance(size_average, str):
            name = type(self).__name__
            raise TypeError(
                f"the first positional argument of {name} is size_average, as in PyTorch: "
                f'write {name}(reduction="{size_average}")'
            )
        _only_default(self, size_average=(size_average, None), reduce=(reduce, None))
        self.reduction, self.stacked = _check_reduction(reduction), bool(stacked)

    @abstractmethod
    def forward(self, prediction: Tensor, target: Tensor) -> Tensor:
        """Return the loss, a 0-dimensional tensor, and `remember` what backward will need."""

    @abstractmethod
    def backward(self) -> Tensor:
        """Return ∂ℓ/∂(prediction) for the last prediction and target, and forget them.

        Raises:
            RuntimeError: no forward is waiting for a backward.
        """

    def __call__(self, input: Tensor, target: Tensor) -> Tensor:
        """Return `forward(prediction, target)`; by name, the prediction is the `input`, as in PyTorch."""
        return self.forward(input, target)

    def reduce(self, terms: Tensor) -> Tensor:
        """Return the mean or the sum of all terms; in a stack, one per network."""
        terms, dim = (terms[..., None].flatten(1), 1) if self.stacked else (terms, None)
        return terms.mean(dim) if self.reduction == "mean" else terms.sum(dim)

    def share(self, terms: Tensor) -> float:
        """Return the factor with which each term enters the loss: 1/M for the mean of M terms, 1 for the sum."""
        networks = len(terms) if self.stacked else 1
        return networks / max(1, terms.numel()) if self.reduction == "mean" else 1

    def __repr__(self) -> str:
        return f"{type(self).__name__}(reduction={self.reduction!r})"


class MSELoss(Loss):
    """The squared error, summed over all M components of the prediction and, by default, divided by M.

    M counts components, not samples: a batch of 100 predictions of 2 numbers each has M = 200.
    """

    def forward(self, P: Tensor, T: Tensor) -> Tensor:
        """(F13) mean: ℓ = (1/M) Σ (p − t)²    (F14) sum: ℓ = Σ (p − t)². Handout 4-3.

        Args:
            P, T: prediction and target, floating-point, of the same shape and dtype; nothing is broadcast.

        Raises:
            TypeError: one is not a floating-point tensor, or the dtypes differ.
            ValueError: the shapes differ, or with stacked=True there is no second dimension.
        """
        D = P - T
        loss = self.reduce(D.square())
        self.remember(loss, D)
        return loss

    def backward(self) -> Tensor:
        """(F15) mean: ∂ℓ/∂p = (2/M) (p − t)    (F16) sum: ∂ℓ/∂p = 2 (p − t)."""
        (D,) = self.recall()
        return D * (2 * self.share(D))

    def _check(self, P: Tensor, T: Tensor) -> None:
        _check_floating("prediction", P)
        _check_floating("target", T)
        if P.shape != T.shape:
            shapes = f"{tuple(P.shape)} and {tuple(T.shape)}"
            raise ValueError(f"prediction and target must have the same shape, got {shapes}: nothing is broadcast")
        if P.dtype != T.dtype:
            raise TypeError(
                f"prediction and target must have the same dtype, got {P.dtype} and {T.dtype}: convert one with .to()"
            )
        if self.stacked and P.dim() < 2:
            raise ValueError(f"with stacked=True a prediction must be (R, N, ...) for R networks, got {tuple(P.shape)}")


LossMSE = MSELoss


class _Setting:
    """A setting of an optimizer: kept in `param_groups`, as in PyTorch, and checked whenever it is set."""

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def __get__(self, optimizer: "Optimizer", owner: type | None = None) -> Any:
        return optimizer.param_groups[0][self.name]

    def __set__(self, optimizer: "Optimizer", value: Any) -> None:
        optimizer.param_groups[0][self.name] = _check_setting(optimizer, self.name, value)


class Optimizer(ABC):
    """Updates parameters from their gradients: each optimizer steps against a direction d of its own.

    Args:
        params: tensors, from `module.parameters()`, of diy or of PyTorch.
        lr: the learning rate η, a finite number ≥ 0. It may be changed at any time: `optimizer.lr = 0.1`. For a stack
            of R networks it may be a tensor (R,), one learning rate per network.
        weight_decay: λ ≥ 0, adds λ w to the gradient of w.

    Attributes:
        param_groups: a list of one dictionary, with the parameters and all settings, as in PyTorch.
        state: for each parameter, what is kept from one step to the next, under PyTorch's names.

    Raises:
        TypeError, ValueError: there are no parameters, one is not a floating-point tensor or appears twice, or a
            setting is out of range.
    """

    lr, weight_decay = _Setting(), _Setting()

    def __init__(self, params: Iterable[Tensor], lr: float | Tensor, weight_decay: float = 0):
        self.param_groups: list[dict[str, Any]] = [{"params": _check_parameters(params)}]
        self.state: dict[Tensor, dict[str, Any]] = defaultdict(dict)
        self._checked: dict[str, Any] = {}
        self._assigned = -1  # how many parameters modules had been given at the last step
        self.lr, self.weight_decay = lr, weight_decay

    @property
    def parameters(self) -> list[Tensor]:
        """The parameters, in order."""
        return list(self.param_groups[0]["params"])

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget all gradients: set each parameter's `.grad` to None."""
        if set_to_none is not True:
            _only_default(self, set_to_none=(set_to_none, True))
        for parameter in self.param_groups[0]["params"]:
            parameter.grad = None

    @abstractmethod
    def direction(self, g: Tensor, w: Tensor) -> Tensor:
        """Return d for the parameter w, given g; what the next step needs goes into `self.state[w]`."""

    def step(self, closure: None = None) -> None:
        """(F17) w ← w − η d in place, for every w with a gradient; d from g = ∂ℓ/∂w + λ w. Handout 5-2, p. 12/17."""
        if closure is not None:
            _only_default(self, closure=(closure, None))
        _check_settings(self)
        ours = type(self).__module__ == __name__
        with _NoAutograd() if ours else torch.no_grad(), _PlainTensors():  # the parameters may be PyTorch's
            parameters = [w for w in self.param_groups[0]["params"] if w.grad is not None]
            gradients: list[Any] = [w.grad for w in parameters]
            if self.weight_decay:
                gradients = [g.add(w, alpha=self.weight_decay) for g, w in zip(gradients, parameters)]
            steps = [*map(self.direction, gradients, parameters)]
            _check_steps(self, parameters, gradients, steps)
            if isinstance(lr := self.lr, Tensor):
                for w, d in zip(parameters, steps):
                    w.addcmul_(lr.to(w).view(-1, *[1] * (w.dim() - 1)), d, value=-1)  # (R,) -> (R, 1) or (R, 1, 1)
            elif parameters:
                torch._foreach_add_(parameters, steps, alpha=-lr)
                torch._C._increment_version(parameters)  # on a GPU, such a step would not count as a change

    def state_dict(self) -> dict[str, Any]:
        """Return a copy of settings and state in PyTorch's format: with the parameters, all that resuming needs."""
        return _optimizer_state(self)

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Resume from the state of an optimizer of the same class, of diy or of PyTorch.

        Raises:
            KeyError, TypeError, ValueError: the state does not fit; nothing is changed.
        """
        _load_optimizer_state(self, state_dict)


class SGD(Optimizer):
    """Mini-batch stochastic gradient descent, optionally with momentum.

    Args:
        params, lr, weight_decay: see `Optimizer`.
        momentum: μ ≥ 0, the share of the last step that goes into the next.
        dampening: τ; with momentum, every gradient after the first is weighted by 1 − τ.
        nesterov: whether to look ahead, as Nesterov did; needs momentum > 0 and dampening = 0.
        maximize, foreach, differentiable, fused: PyTorch's, supported at their defaults only.
    """

    momentum, dampening, nesterov = _Setting(), _Setting(), _Setting()

    def __init__(
        self,
        params: Iterable[Tensor],
        lr: float | Tensor = 1e-3,
        momentum: float = 0,
        dampening: float = 0,
        weight_decay: float = 0,
        nesterov: bool = False,
        *,
        maximize: bool = False,
        foreach: bool | None = None,
        differentiable: bool = False,
        fused: bool | None = None,
    ):
        _only_default(self, maximize=(maximize, False), foreach=(foreach, None))
        _only_default(self, differentiable=(differentiable, False), fused=(fused, None))
        super().__init__(params, lr, weight_decay)
        self.momentum, self.dampening, self.nesterov = momentum, dampening, nesterov
        if nesterov and (momentum == 0 or dampening != 0):
            raise ValueError(f"nesterov needs momentum > 0 and dampening = 0, got {momentum=}, {dampening=}")

    def direction(self, g: Tensor, w: Tensor) -> Tensor:
        """(F18) d = g; with momentum, see `momentum_direction`."""
        if self.momentum:
            return momentum_direction(g, self.state[w], self.momentum, self.dampening, self.nesterov)
        return g


# ----------------------------------------------------------------------------------------------------------------------
# II. What helps it to learn


class Dropout(Module):
    """Inverted dropout: in training, each component is zeroed with probability p; in evaluation, nothing changes.

    Args:
        p: the probability of zeroing, in [0, 1].

    Raises:
        TypeError, ValueError: p is not a number, or not in [0, 1].
    """

    stackable = True

    def __init__(self, p: float = 0.5, inplace: bool = False):
        _only_default(self, inplace=(inplace, False))
        self.p = _check_number("p, the probability of zeroing,", p, least=0, most=1)

    def forward(self, X: Tensor) -> Tensor:
        """(F19) output = m · x, with m drawn from Bernoulli(1 − p) / (1 − p) for each component.

        The division keeps the expectation, E[output] = x, so evaluation needs no correction. The same seed draws the
        same masks as in PyTorch, as long as the images given to a network are contiguous. Handout 6-3, p. 7/12.
        """
        m = self.mask(X) if self.training else 1.0
        output = X * m
        self.remember(output, m)
        return output

    def backward(self, G: Tensor) -> Tensor:
        """(F20) ∂ℓ/∂x = m · G, with the mask m of forward."""
        G, m = self.recall(G)
        return G * m

    def mask(self, X: Tensor) -> Tensor | float:
        """Draw m for training. As in PyTorch, no random numbers are drawn when p is 0 or 1 or the input is empty."""
        if self.p in (0, 1) or X.numel() == 0:
            return 1 - float(self.p)
        # Numbers are drawn in memory order; this framework's images have the samples last in memory.
        samples_last = X.dim() == 4 and X.stride(0) == 1
        m = torch.empty_like(X, memory_format=torch.contiguous_format if samples_last else torch.preserve_format)
        return m.bernoulli_(1 - self.p).div_(1 - self.p)

    def extra_repr(self) -> str:
        return f"p={self.p}"


class Sigmoid(Module):
    """The logistic function, component by component, for inputs of any shape."""

    stackable = True

    def forward(self, S: Tensor) -> Tensor:
        """(F21) σ(s) = 1 / (1 + e⁻ˢ)."""
        X = S.sigmoid()
        self.remember(X, X)
        return X

    def backward(self, G: Tensor) -> Tensor:
        """(F22) ∂ℓ/∂s = G · σ'(s) with σ'(s) = σ(s) (1 − σ(s))."""
        G, X = self.recall(G)
        return G * (1 - X) * X


class CrossEntropyLoss(Loss):
    """The negative logarithm of the probability that softmax gives the right class; by default, the samples' mean.

    The prediction holds one score (logit) per class; put no softmax layer before this loss.

    Args:
        reduction, stacked: see `Loss`.
        weight, ignore_index, label_smoothing: PyTorch's, supported at their defaults only; a target of ignore_index
            is refused.
    """

    def __init__(
        self,
        weight: None = None,
        size_average: None = None,
        ignore_index: int = -100,
        reduce: None = None,
        reduction: str = "mean",
        label_smoothing: float = 0.0,
        *,
        stacked: bool = False,
    ):
        if isinstance(weight, str):
            weight, size_average = None, weight  # Loss.__init__ explains this mistake
        super().__init__(size_average, reduce, reduction, stacked=stacked)
        _only_default(self, weight=(weight, None), ignore_index=(ignore_index, -100))
        _only_default(self, label_smoothing=(label_smoothing, 0.0))

    def forward(self, S: Tensor, t: Tensor) -> Tensor:
        """(F23) ℓₙ = −log qₙₜ, with t the target of sample n and qₙₖ = exp(sₙₖ) / Σⱼ exp(sₙⱼ). Handout 5-1.

        mean: ℓ = (1/N) Σ ℓₙ    sum: ℓ = Σ ℓₙ. The scores of a sample are first lowered by their maximum: this changes
        no qₙₖ, and exp cannot overflow.

        Args:
            S: the scores s, floating-point, (N, number of classes).
            t: the index of the right class of each sample, int64, (N,).

        Raises:
            TypeError: S is not a floating-point tensor, or t is not an int64 tensor.
            ValueError: the shapes do not fit, or a class index is out of range.
        """
        lowered = S - S.amax(-1, keepdim=True)
        log_q = lowered - lowered.exp().sum(-1, keepdim=True).log()  # (N, classes)
        loss = self.reduce(-log_q.gather(-1, t[..., None])[..., 0])  # (N,) -> ()
        self.remember(loss, log_q, t.clone())
        return loss

    def backward(self) -> Tensor:
        """(F24) sum: ∂ℓ/∂sₙₖ = qₙₖ − 1 for the right class k, qₙₖ for the others    mean: the same, divided by N."""
        log_q, t = self.recall()
        right = t[..., None]
        q = log_q.exp()
        return q.scatter_add_(-1, right, -torch.ones_like(q[..., :1])) * self.share(t)

    def _check(self, S: Tensor, t: Tensor) -> None:
        _check_floating("prediction", S)
        if not isinstance(t, Tensor) or t.dtype != torch.int64:
            hint = ": .long() converts whole numbers, .argmax(1) one-hot rows" if isinstance(t, Tensor) else ""
            raise TypeError(f"the target must be a tensor of class indices, int64, got {_kind(t)}{hint}")
        if S.dim() != 2 + self.stacked or t.shape != S.shape[:-1] or not S.shape[-1]:
            shapes = f"{tuple(S.shape)} and {tuple(t.shape)}"
            sizes, of_target = ("R, N", "(R, N)") if self.stacked else ("N", "(N,)")
            more = S.dim() > 2 and not self.stacked
            hint = ": turn further dimensions into rows with S.movedim(1, -1).flatten(0, -2)" if more else ""
            raise ValueError(
                f"expected a prediction of shape ({sizes}, classes) and a target of shape {of_target}, "
                f"got {shapes}{hint}"
            )
        if t.numel() and not t.is_meta and not 0 <= t.min() <= t.max() < S.shape[-1]:
            low, high = t.min().item(), t.max().item()
            raise ValueError(f"the target must hold indices from 0 to {S.shape[-1] - 1}, got {low} to {high}")


def momentum_direction(g: Tensor, state: dict[str, Any], momentum: float, dampening: float, nesterov: bool) -> Tensor:
    """(F25) d = v with v ← μ v + (1 − τ) g, where v = g in the first step: steps in the same direction add up.

    (F26) Nesterov: d = g + μ v, the gradient plus, in advance, the share of v that the next step will take.

    Args:
        g: the gradient of one parameter, of any shape.
        state: holds v as "momentum_buffer", PyTorch's name for it.
        momentum, dampening, nesterov: μ, τ and which of the two directions; see `SGD`.
    """
    if state.get("momentum_buffer") is None:
        v: Tensor = g.clone()
        state["momentum_buffer"] = v
    else:
        v = state["momentum_buffer"].mul_(momentum).add_(g, alpha=1 - dampening)
    return g.add(v, alpha=momentum) if nesterov else v


class Adam(Optimizer):
    """Adam: every component has its own step size, from running averages of its gradient and the gradient's square.

    Args:
        params, lr, weight_decay: see `Optimizer`.
        betas: β₁ and β₂, in [0, 1), the shares of the past in the two averages.
        eps: ε ≥ 0, keeps the denominator away from zero.
        amsgrad, foreach, maximize, capturable, differentiable, fused, decoupled_weight_decay: PyTorch's, supported at
            their defaults only.
    """

    betas, eps = _Setting(), _Setting()

    def __init__(
        self,
        params: Iterable[Tensor],
        lr: float | Tensor = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0,
        amsgrad: bool = False,
        *,
        foreach: bool | None = None,
        maximize: bool = False,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        decoupled_weight_decay: bool = False,
    ):
        _only_default(self, amsgrad=(amsgrad, False), foreach=(foreach, None), maximize=(maximize, False))
        _only_default(self, capturable=(capturable, False), differentiable=(differentiable, False), fused=(fused, None))
        _only_default(self, decoupled_weight_decay=(decoupled_weight_decay, False))
        super().__init__(params, lr, weight_decay)
        self.betas, self.eps = betas, eps

    def direction(self, g: Tensor, w: Tensor) -> Tensor:
        """(F27) d = m̂ / (√v̂ + ε), with m ← β₁ m + (1 − β₁) g and v ← β₂ v + (1 − β₂) g². Kingma and Ba (2015).

        m and v start at 0; after t steps, m̂ = m / (1 − β₁ᵗ) and v̂ = v / (1 − β₂ᵗ) undo the bias of that start.
        """
        (beta1, beta2), state = self.betas, self.state[w]
        m: Tensor = state["exp_avg"] if "exp_avg" in state else torch.zeros_like(g)
        v: Tensor = state["exp_avg_sq"] if "exp_avg" in state else torch.zeros_like(g)
        m.lerp_(g, 1 - beta1)
        v.mul_(beta2).addcmul_(g, g, value=1 - beta2)
        t = state.get("step", 0) + 1
        state.update(step=t, exp_avg=m, exp_avg_sq=v)
        d: Tensor = m / v.sqrt().div_(math.sqrt(1 - beta2**t)).add_(self.eps)
        return d.div_(1 - beta1**t)


class CosineAnnealingLR:
    """Lowers an optimizer's learning rate from its first value η₀ to `eta_min` along half a cosine.

    Args:
        optimizer: one from this file or from PyTorch; each `step()` changes its learning rate.
        T_max: the number of calls of `step` after which `eta_min` is reached.
        eta_min: the last learning rate.
        last_epoch: PyTorch's, supported at its default only; to resume a schedule, use `load_state_dict`.
    """

    def __init__(self, optimizer: Any, T_max: int, eta_min: float = 0.0, last_epoch: int = -1):
        _check_integers(T_max=T_max)
        if not isinstance(getattr(optimizer, "param_groups", None), list):
            raise TypeError(f"optimizer must be an optimizer, such as SGD, got {_kind(optimizer)}")
        _only_default(self, last_epoch=(last_epoch, -1))
        self.optimizer, self.T_max = optimizer, T_max
        self.eta_min, self.last_epoch = _check_number("eta_min", eta_min, least=0), 0
        for group in optimizer.param_groups:
            group.setdefault("initial_lr", group["lr"])
        self.base_lrs = [group["initial_lr"] for group in optimizer.param_groups]

    def step(self, epoch: None = None) -> None:
        """(F28) η_t = η_min + (η_{t−1} − η_min) (1 + cos(π t / T)) / (1 + cos(π (t − 1) / T)), T being T_max.

        In terms of the first value, η_t = η_min + (η₀ − η_min) (1 + cos(π t / T)) / 2. Starting from the last value
        instead keeps a change made by hand or by another schedule. At t − 1 = T, and every 2 T steps after, the
        quotient is 0 / 0; there the rate rises by (η₀ − η_min) (1 − cos(π / T)) / 2.
        """
        _only_default("step", epoch=(epoch, None))
        self.last_epoch = t = self.last_epoch + 1
        T, least = self.T_max, self.eta_min
        for group, first in zip(self.optimizer.param_groups, self.base_lrs):
            if (t - 1 - T) % (2 * T) == 0:
                group["lr"] = group["lr"] + (first - least) * (1 - math.cos(math.pi / T)) / 2
            else:
                quotient = (1 + math.cos(math.pi * t / T)) / (1 + math.cos(math.pi * (t - 1) / T))
                group["lr"] = quotient * (group["lr"] - least) + least

    def get_last_lr(self) -> list[Any]:
        """Return the current learning rate, in a list as in PyTorch."""
        return [group["lr"] for group in self.optimizer.param_groups]

    def state_dict(self) -> dict[str, Any]:
        """Return what `load_state_dict` needs, under PyTorch's names."""
        return {name: getattr(self, name) for name in ("T_max", "eta_min", "base_lrs", "last_epoch")}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Resume from the state of a schedule, of diy or of PyTorch. Load the optimizer's state, too.

        Raises:
            KeyError, TypeError: a name is missing, or `state_dict` is no dictionary.
        """
        _check_state_dict(state_dict)
        if missing := [name for name in self.state_dict() if name not in state_dict]:
            raise KeyError(f"this is not the state of a CosineAnnealingLR: missing {missing}")
        for name in self.state_dict():
            setattr(self, name, copy.deepcopy(state_dict[name]))


# ----------------------------------------------------------------------------------------------------------------------
# III. Images


# One integer for both directions of an image, or two: (vertical, horizontal).
Pair = int | tuple[int, int]


class _Sliding(Module):
    # What Conv2d and MaxPool2d share: a window that slides over padded images. Internally, images are (C, H, W, N):
    # with the samples last, each place of the window reads and writes long runs of neighbouring numbers.

    def __init__(self, kernel_size: Pair, stride: Pair, padding: Pair | str):
        self.kernel_size, self.stride = _pair("kernel_size", kernel_size), _pair("stride", stride)
        padding = 0 if padding == "valid" else padding
        words = 'padding, if not "same" or "valid",'
        self.padding = padding if padding == "same" else _pair(words, padding, least=0)
        # A border of p on both sides is what "same" gives a kernel of size 2 p + 1.
        sizes = self.kernel_size if isinstance(self.padding, str) else [2 * border + 1 for border in self.padding]
        self._border = [((size - 1) // 2, size // 2) for size in sizes]  # (top, bottom), (left, right)
        self._offsets = [*itertools.product(*map(range, self.kernel_size))]
        self._fixed |= {"kernel_size", "stride", "padding"}

    def framed(self, shape: torch.Size) -> tuple[int, ...]:
        """Return the shape of images with their border: (N, C, H, W) -> (C, top + H + bottom, left + W + right, N)."""
        samples, channels, *size = shape
        padded = [before + length + after for (before, after), length in zip(self._border, size)]
        return channels, *padded, samples

    def inside(self, framed: Tensor, shape: torch.Size) -> Tensor:
        """Return a view without the border: (C, top + H + bottom, left + W + right, N) -> (N, C, H, W)."""
        (top, _), (left, _) = self._border
        return framed[:, top : top + shape[2], left : left + shape[3]].permute(3, 0, 1, 2)

    def frame(self, images: Tensor, value: float = 0.0) -> Tensor:
        """Put a border of `value` around the images: (N, C, H, W) -> (C, top + H + bottom, left + W + right, N)."""
        samples_last = images.permute(1, 2, 3, 0)
        if samples_last.shape == self.framed(images.shape):
            return samples_last.contiguous()  # no copy if the samples are last already
        framed = images.new_full(self.framed(images.shape), value)
        self.inside(framed, images.shape).copy_(images)
        return framed

    def windows(self, framed: Tensor) -> Tensor:
        """Return a view (C, kernel height, kernel width, H, W, N): [c, i, j, y, x, n] is framed[c, ys+i, xs+j, n]."""
        rows = framed.unfold(1, self.kernel_size[0], self.stride[0])
        return rows.unfold(2, self.kernel_size[1], self.stride[1]).permute(0, 4, 5, 1, 2, 3)

    def _check_images(self, X: Tensor, channels: int | None = None, like: Tensor | None = None) -> None:
        _check_images(X, channels, like)
        padded = self.framed(X.shape)[1:3]
        if any(length < least for length, least in zip(padded, self.kernel_size)):
            raise ValueError(f"the kernel {self.kernel_size} is larger than the padded input, {padded}")

    def extra_repr(self) -> str:
        return f"kernel_size={self.kernel_size}, stride={self.stride}, padding={self.padding!r}"


class Conv2d(_Sliding):
    """A convolutional layer: the same small kernel of weights looks at every place of an image.

    As in PyTorch, the kernel is not flipped in forward; in the language of signal processing this is a correlation.

    Args:
        in_channels, out_channels: numbers of channels of input and output, at least 1.
        kernel_size, stride: integers ≥ 1, one for both directions or a pair (vertical, horizontal).
        padding: how many zeros to add on each side, an integer ≥ 0 or a pair; "valid" for none; "same" for as many as
            keep height and width, with stride 1 (if their number is odd, the extra one goes to the bottom or right).
        bias: whether to add b.
        dilation, groups, padding_mode: PyTorch's, supported at their defaults only.
        device, dtype: of the parameters, as in PyTorch.

    Attributes:
        weight: W, of shape (out_channels, in_channels, kernel height, kernel width), from `kaiming_normal_`.
        bias: b, of shape (out_channels,), initially 0, or None.

    Raises:
        ValueError: a size is out of range, or padding is "same" with a stride other than 1.
    """

    parameter_names = ("weight", "bias")

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Pair,
        stride: Pair = 1,
        padding: Pair | str = 0,
        dilation: Pair = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: str = "zeros",
        device: Any = None,
        dtype: Any = None,
    ):
        _only_default(self, dilation=(dilation, 1, (1, 1)), groups=(groups, 1), padding_mode=(padding_mode, "zeros"))
        super().__init__(kernel_size, stride, padding)
        if padding == "same" and self.stride != (1, 1):
            raise ValueError(f'padding="same" needs stride 1, got {self.stride}: give the padding as a number')
        _check_integers(in_channels=in_channels, out_channels=out_channels)
        self.in_channels, self.out_channels = in_channels, out_channels
        shape = (out_channels, in_channels, *self.kernel_size)
        self.weight = torch.empty(shape, device=device, dtype=_floating(dtype))
        self.bias = torch.empty(out_channels, device=device, dtype=dtype) if bias else None
        self.reset_parameters()

    def forward(self, X: Tensor) -> Tensor:
        """(F29) S[n,o,y,x] = b[o] + Σ W[o,c,i,j] P[n,c,ys+i,xs+j], summed over c, i, j. Handout 4-4.

        P is the input after padding, s the stride. As a matrix product, S = W̃ X̃ + b: each column of X̃ holds the window
        of one output pixel, and each row of W̃ one kernel, both as vectors. X̃ would be many times as large as the input,
        so the product is added up row by row of the kernel, S = b + Σᵢ W̃ᵢ X̃ᵢ, with vectors of length C · kernel width.

        Args:
            X: (N, in_channels, height, width), with the dtype of the weights. The result is (N, out_channels, H, W)
                with H = ⌊(height + padding above and below − kernel height) / stride⌋ + 1, and W likewise.

        Raises:
            ValueError: X has the wrong shape, or is smaller than the kernel even after padding.
            TypeError: the dtypes of X and the weights differ.
        """
        W, b = self.weight, self.bias
        columns = self.columns(self.frame(X)).contiguous()  # (C, kernel width, padded height, W, N)
        rows = self.rows(columns)
        S = X.new_zeros(self.out_channels, rows[0][0].numel())  # (O, H·W·N)
        for Wi, Xi in zip(W.unbind(2), rows):
            S.addmm_(Wi.flatten(1), Xi.flatten(1))  # W̃ᵢ: (O, C·kw), X̃ᵢ: (C·kw, H·W·N)
        if b is not None:
            S += b[:, None]
        S = S.view(self.out_channels, *rows[0].shape[1:]).permute(3, 0, 1, 2)  # (O, H, W, N) -> (N, O, H, W)
        self.remember(S, X, W)
        return S

    def backward(self, G: Tensor) -> Tensor | None:
        """Turn G = ∂ℓ/∂S, of shape (N, out_channels, H, W), into three gradients.

        (F30) ∂ℓ/∂W̃ = G̃ X̃ᵀ    by index: ∂ℓ/∂W[o,c,i,j] = Σ G[n,o,y,x] P[n,c,ys+i,xs+j] over n, y, x, which share W
        (F31) ∂ℓ/∂b = G̃ 1      by index: ∂ℓ/∂b[o] = Σ G[n,o,y,x] over n, y, x
        (F32) ∂ℓ/∂X̃ = W̃ᵀ G̃    by index: ∂ℓ/∂P[n,c,u,v] = Σ G[n,o,y,x] W[o,c,i,j] over o and all ys + i = u, xs + j = v

        Both products are taken row by row of the kernel, as in forward. Each pixel collects what all windows that saw
        it send back; the padded border is cut off. With stride 1, this is the correlation of G, padded, with the kernel
        flipped in both directions and its channels swapped.
        """
        G, X, W = self.recall(G)
        G = G.permute(1, 2, 3, 0).reshape(self.out_channels, -1)  # (N, O, H, W) -> (O, H·W·N)
        columns = self.columns(self.frame(X)).contiguous()
        parts = [Xi.flatten(1) @ G.mT for Xi in self.rows(columns)]  # (C·kw, O): faster than G̃ X̃ᵢᵀ
        self.accumulate(W, torch.stack([part.mT.reshape(W[:, :, 0].shape) for part in parts], 2))  # (O, C, kh, kw)
        if self.bias is not None:
            self.accumulate(self.bias, G.sum(1))
        if not self.needs_input_grad:
            return None
        collected, framed = torch.zeros_like(columns), G.new_zeros(self.framed(X.shape))
        for Wi, target in zip(W.unbind(2), self.rows(collected)):
            _add_product(target, Wi.flatten(1).mT, G)  # target += W̃ᵢᵀ G̃: (C·kw, H·W·N)
        targets = self.columns(framed)
        for j, column in enumerate(collected.unbind(1)):
            targets[:, j].add_(column)  # += would copy the sum onto itself
        return self.inside(framed, X.shape)

    def columns(self, framed: Tensor) -> Tensor:
        """Return a view (C, kernel width, padded height, W, N): [c, j, u, x, n] is framed[c, u, xs+j, n]."""
        return framed.unfold(2, self.kernel_size[1], self.stride[1]).permute(0, 4, 1, 2, 3)

    def rows(self, columns: Tensor) -> list[Tensor]:
        """Return, for each row i of the kernel, the view columns[:, :, ys+i] as (C · kernel width, H, W, N)."""
        rows = columns.flatten(0, 1).unfold(1, self.kernel_size[0], self.stride[0])
        return [rows[..., i] for i in range(self.kernel_size[0])]

    def reset_parameters(self) -> None:
        """Draw the weight anew, see `kaiming_normal_`; every bias 0."""
        kaiming_normal_(self.weight)
        if self.bias is not None:
            self.bias.zero_()

    def _check(self, X: Tensor) -> None:
        self._check_images(X, self.in_channels, self.weight)

    def extra_repr(self) -> str:
        return f"{self.in_channels}, {self.out_channels}, {super().extra_repr()}, bias={self.bias is not None}"


def kaiming_normal_(
    tensor: Tensor,
    a: float = 0,
    mode: str = "fan_in",
    nonlinearity: str = "leaky_relu",
    generator: torch.Generator | None = None,
) -> Tensor:
    """(F33) He: Wᵢ ~ N(0, σ²) with σ = √(2 / fan), in place; return the tensor. For layers followed by a ReLU.

    A ReLU lets half of the variance through; the 2 makes up for it. He et al. (2015), section 2.2.

    Args:
        tensor: the weight of a `Linear` or `Conv2d`.
        a, nonlinearity: PyTorch's, supported for a ReLU only: a = 0 with "leaky_relu", or "relu".
        mode: "fan_in" keeps the size of activations: fan is the number of inputs of each output. "fan_out" keeps the
            size of gradients: fan is the number of outputs that each input feeds.
        generator: the source of random numbers; PyTorch's global generator by default.

    Raises:
        ValueError: an unknown mode, or a tensor of fewer than two dimensions.
    """
    _only_default("kaiming_normal_", a=(a, 0), nonlinearity=(nonlinearity, "leaky_relu", "relu"))
    if mode not in ("fan_in", "fan_out") or not isinstance(tensor, Tensor) or tensor.dim() < 2:
        got = f"{mode!r} and {tuple(tensor.shape) if isinstance(tensor, Tensor) else _kind(tensor)}"
        raise ValueError(f'expected "fan_in" or "fan_out" and a weight of two dimensions or more, got {got}')
    fan = tensor.shape[1 if mode == "fan_in" else 0] * math.prod(tensor.shape[2:])
    with torch.no_grad():
        return tensor.normal_(0, math.sqrt(2 / max(1, fan)), generator=generator)


class MaxPool2d(_Sliding):
    """The largest value of each window, channel by channel.

    Args:
        kernel_size, stride: integers ≥ 1 or pairs (vertical, horizontal); by default windows do not overlap.
        padding: how many −∞ to add on each side, an integer or a pair, at most half of the kernel.
        dilation, return_indices, ceil_mode: PyTorch's, supported at their defaults only.

    Raises:
        ValueError: a size is out of range.
    """

    def __init__(
        self,
        kernel_size: Pair,
        stride: Pair | None = None,
        padding: Pair = 0,
        dilation: Pair = 1,
        return_indices: bool = False,
        ceil_mode: bool = False,
    ):
        _only_default(self, dilation=(dilation, 1, (1, 1)), return_indices=(return_indices, False))
        _only_default(self, ceil_mode=(ceil_mode, False))
        super().__init__(kernel_size, kernel_size if stride is None else stride, _pair("padding", padding, least=0))
        if any(2 * after > size for (_, after), size in zip(self._border, self.kernel_size)):
            raise ValueError(f"padding must be at most half of the kernel {self.kernel_size}, got {self.padding}")

    def forward(self, X: Tensor) -> Tensor:
        """(F34) S[n,c,y,x] = max P[n,c,ys+i,xs+j] over i, j: P is the input after padding, s the stride. Handout 4-5.

        Args:
            X: (N, C, height, width). The sizes of the result follow the same rule as in `Conv2d`.

        Raises:
            ValueError: X does not have four dimensions, or is smaller than the kernel even after padding.
        """
        windows = self.windows(self.frame(X, -math.inf))
        S = windows[:, 0, 0].clone()  # (C, H, W, N)
        for i, j in self._offsets:
            torch.maximum(S, windows[:, i, j], out=S)
        output = S.permute(3, 0, 1, 2)  # (C, H, W, N) -> (N, C, H, W)
        self.remember(output, X, S)
        return output

    def backward(self, G: Tensor) -> Tensor:
        """(F35) ∂ℓ/∂P[n,c,u,v] = Σ G[n,c,y,x] over the windows y, x that have their maximum at u, v.

        If a window has its maximum in several places, the first of them, row by row, gets the whole gradient, as in
        PyTorch. A window with a NaN has the maximum NaN and sends nothing back; PyTorch's sends all to the NaN.
        """
        G, X, S = self.recall(G)
        G = G.permute(1, 2, 3, 0).contiguous()  # (N, C, H, W) -> (C, H, W, N)
        framed = self.frame(X, math.nan)  # NaN equals nothing: the border never gets a gradient
        collected = torch.zeros_like(framed)
        windows, targets = self.windows(framed), self.windows(collected)
        left, finite = torch.ones_like(S), _is_finite(G)  # left: the windows whose maximum has not been found yet
        for i, j in self._offsets:
            here = torch.eq(windows[:, i, j], S, out=torch.empty_like(S)).mul_(left)  # 1 or 0, faster than booleans
            left -= here
            targets[:, i, j].add_(here.mul_(G) if finite else torch.where(here.bool(), G, 0))
        return self.inside(collected, X.shape)

    def _check(self, X: Tensor) -> None:
        self._check_images(X)


class BatchNorm2d(Module):
    """Batch normalization: each channel gets mean β and standard deviation |γ|, over all samples and pixels.

    In training the statistics are those of the batch; in evaluation they are the averages kept while training.

    Args:
        num_features: the number of channels C.
        eps: ε > 0, added to the variance.
        momentum: ρ in [0, 1], the share of the newest batch in the running statistics.
        affine, track_running_stats, bias: PyTorch's, supported at their defaults only.
        device, dtype: of parameters and statistics, as in PyTorch.

    Attributes:
        weight, bias: γ (at first 1) and β (at first 0), of shape (C,).
        running_mean, running_var: the statistics for evaluation, of shape (C,).
        num_batches_tracked: how many batches they have seen.
    """

    parameter_names = ("weight", "bias")
    buffer_names = ("running_mean", "running_var", "num_batches_tracked")

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        device: Any = None,
        dtype: Any = None,
        *,
        bias: bool = True,
    ):
        _only_default(self, affine=(affine, True), track_running_stats=(track_running_stats, True), bias=(bias, True))
        _check_integers(num_features=num_features)
        self.num_features, self.eps = num_features, _check_number("eps", eps, least=0)
        if eps == 0:
            raise ValueError("eps must be above 0, got 0: a channel of equal values has variance 0")
        self.momentum = _check_number("momentum", momentum, least=0, most=1)
        place = {"device": device, "dtype": _floating(dtype)}
        self.weight, self.bias = torch.empty(num_features, **place), torch.empty(num_features, **place)
        self.running_mean, self.running_var = torch.empty(num_features, **place), torch.empty(num_features, **place)
        self.num_batches_tracked = torch.tensor(0, device=device)
        self.reset_parameters()

    def forward(self, X: Tensor) -> Tensor:
        """(F36) x̂ = (x − μ) / √(σ² + ε), output = γ x̂ + β, channel by channel. Handout 6-4.

        In training, μ and σ² are the mean and variance of the M = N · H · W values of a channel, and

        (F37) mean ← (1 − ρ) mean + ρ μ, variance ← (1 − ρ) variance + ρ σ² M / (M − 1), for the running statistics.

        The factor M / (M − 1) makes the estimate unbiased. In evaluation, μ and σ² are the running statistics.

        Args:
            X: (N, C, H, W), with the dtype of the parameters.

        Raises:
            ValueError: X has the wrong shape, or in training only one value per channel.
            TypeError: the dtypes of X and the parameters differ.
        """
        self._check(X)  # in a Sequential too: a wrong shape would be broadcast
        W, b, M = self.weight, self.bias, X.numel() // self.num_features
        if self.training:
            self.num_batches_tracked += 1
        if self.training and M:  # an empty batch has no statistics
            mean = _wide(X).mean((0, 2, 3))
            centred = X - mean[:, None, None]
            variance = centred.square().mean((0, 2, 3))
            self.running_mean.copy_(_wide(self.running_mean).lerp(mean, self.momentum))
            self.running_var.copy_(_wide(self.running_var).lerp(variance * (M / (M - 1)), self.momentum))
        else:
            centred, variance = X - _wide(self.running_mean)[:, None, None], _wide(self.running_var)
        scale = (variance + self.eps).rsqrt()[:, None, None]  # (C, 1, 1)
        normalized = centred * scale  # x̂
        output: Tensor = (normalized * W[:, None, None] + b[:, None, None]).to(X.dtype)
        self.remember(output, normalized, scale, W, 1 / max(1, M) if self.training else 0)
        return output

    def backward(self, G: Tensor) -> Tensor:
        """(F38) ∂ℓ/∂γ = Σ G x̂    (F39) ∂ℓ/∂β = Σ G, both summed over the M values of a channel.

        (F40) ∂ℓ/∂x = γ / √(σ² + ε) · (G − (1/M) Σ G − x̂ · (1/M) Σ G x̂)

        The two means come from the paths through μ and σ², to which every value of the batch contributes; in
        evaluation, the statistics are constants, and both means drop out.
        """
        G, normalized, scale, W, share = self.recall(G)  # share: 1/M, or 0 in evaluation
        along, across = (G * normalized).sum((0, 2, 3)), _wide(G).sum((0, 2, 3))
        self.accumulate(W, along.to(W.dtype))
        self.accumulate(self.bias, across.to(W.dtype))
        centred = G - share * (across[:, None, None] + normalized * along[:, None, None]) if share else G
        return (centred * (scale * W[:, None, None])).to(G.dtype)

    def reset_running_stats(self) -> None:
        """Forget all batches: mean 0 and variance 1."""
        self.running_mean.zero_()
        self.running_var.fill_(1)
        self.num_batches_tracked.zero_()

    def reset_parameters(self) -> None:
        """Begin again: γ = 1 and β = 0, and statistics of no batch."""
        self.reset_running_stats()
        self.weight.fill_(1)
        self.bias.zero_()

    def _check(self, X: Tensor) -> None:
        _check_images(X, self.num_features, self.weight)
        if self.training and X.numel() == self.num_features:
            raise ValueError(
                f"training needs 2 values per channel, got {tuple(X.shape)}: take more samples, or call eval()"
            )

    def extra_repr(self) -> str:
        return f"{self.num_features}, eps={self.eps}, momentum={self.momentum}"


class Flatten(Module):
    """Merges the dimensions from `start_dim` to `end_dim` into one: images become rows for `Linear`."""

    def __init__(self, start_dim: int = 1, end_dim: int = -1):
        self.start_dim, self.end_dim = start_dim, end_dim

    def forward(self, X: Tensor) -> Tensor:
        """(F41) the same numbers in another shape: by default (N, C, H, W) becomes (N, C · H · W).

        Raises:
            IndexError: the input has no such dimension.
        """
        output = X.flatten(self.start_dim, self.end_dim).contiguous()  # what follows need not know of samples last
        self.remember(output, X.shape)
        return output

    def backward(self, G: Tensor) -> Tensor:
        """(F42) ∂ℓ/∂X is G in the shape of X."""
        G, shape = self.recall(G)
        return G.reshape(shape)  # type: ignore[call-overload, no-any-return]

    def extra_repr(self) -> str:
        return f"start_dim={self.start_dim}, end_dim={self.end_dim}"


# ----------------------------------------------------------------------------------------------------------------------
# IV. Many networks at once


class _StackedLinear(Linear):
    """R linear layers: W is (R, out, in), b (R, out), X (R, N, in). A product of matrices acts on each of the R.

    Sᵀ = W Xᵀ + b and (∂ℓ/∂X)ᵀ = Wᵀ Gᵀ are the formulas of `Linear` with the samples last in memory, as the product of
    many small matrices is faster that way.
    """

    def forward(self, X: Tensor) -> Tensor:
        W, b = self.weight, self.bias
        # (R, out, in) (R, in, N) -> (R, out, N)
        S = W.bmm(X.mT) if b is None else torch.baddbmm(b[..., None], W, X.mT)
        self.remember(S, X, W)
        return S.mT

    def backward(self, G: Tensor) -> Tensor | None:
        G, X, W = self.recall(G)
        self.accumulate(W, G.mT.bmm(X))  # (R, out, N) (R, N, in) -> (R, out, in)
        if self.bias is not None:
            self.accumulate(self.bias, G.sum(1))
        return W.mT.bmm(G.mT).mT if self.needs_input_grad else None  # (R, in, out) (R, out, N) -> (R, in, N)

    def _check(self, X: Tensor) -> None:
        fits = isinstance(X, Tensor) and X.dim() == 3 and X.shape[::2] == (len(self.weight), self.in_features)
        if not fits or X.dtype != self.weight.dtype:
            _refuse_input(X, self.weight, f"({len(self.weight)}, N, {self.in_features}), one batch per network", fits)


def stack(networks: Iterable[Module]) -> Module:
    """Return one network that computes all R `networks` at once, each parameter with a leading dimension R.

    Inputs become (R, N, ...), a batch for each network; the loss is built with `stacked=True`, and the learning rate
    may be a tensor (R,). Each network then takes the steps that it would take alone, and one that diverges leaves the
    others untouched. Only the masks of Dropout are drawn for all networks together.

    Args:
        networks: alike except for the values of parameters and buffers, which are copied. They may be built from
            Linear, ReLU, Tanh, Sigmoid, Dropout, Sequential, and classes that set `stackable = True`, whose formulas
            have to be right for parameters (R, ...) and inputs (R, N, ...).

    Raises:
        TypeError: `networks` is not a list of networks.
        ValueError: there is no network, two are not alike, or one holds a module that cannot be stacked.
    """
    if isinstance(networks, Module) or not isinstance(networks, Iterable):
        raise TypeError(f"stack expects a list of networks, got {_kind(networks)}: write stack([network, ...])")
    networks = list(networks)
    if strange := [_kind(network) for network in networks if not isinstance(network, Module)]:
        raise TypeError(f"stack expects networks of diy, got {strange[0]}")
    for module in itertools.chain(*(network.modules() for network in networks)):
        kind = type(module)
        # Formulas that a class takes over from one of this file have to be right for a stack as well.
        bases = [one for one in kind.__mro__ if one.__module__ == __name__ and issubclass(one, Module)]
        right = all(vars(one).get("stackable") for one in {kind, *bases} - {Module})
        if module.stack_size is not None or not (kind is Linear or right):
            what = "is a stack already" if module.stack_size is not None else "cannot be stacked"
            raise ValueError(f"a {kind.__name__} {what}: train networks that contain one separately")
    if not networks or not all(_alike(networks[0], network) for network in networks):
        raise ValueError(
            "stack needs at least one network, all with the same layers, shapes and dtypes, and alike in everything "
            f"but the values of their parameters; got {len(networks)}: {', '.join(map(repr, networks))}"
        )
    return _converted(networks, torch.stack, len(networks))


def unstack(network: Module) -> list[Module]:
    """Return the networks of a stack, in order, as copies that work alone.

    Raises:
        ValueError: the network was not made by `stack`.
    """
    sizes = {part.stack_size for part in network.modules()} if isinstance(network, Module) else set()
    if len(sizes) != 1 or None in sizes:
        raise ValueError("unstack expects a network made by stack")
    parts = [lambda tensors, k=k: tensors[0][k].clone() for k in range(sizes.pop() or 0)]
    return [_converted([network], part, None) for part in parts]


# ----------------------------------------------------------------------------------------------------------------------
# V. Behind the scenes


class IncompatibleKeys(NamedTuple):
    """What `load_state_dict(strict=False)` skipped."""

    missing_keys: list[str]
    unexpected_keys: list[str]


class _Housekeeping:
    """The methods of Module that play no part in learning: they walk through modules, save, move and print them."""

    def named_children(self: Any) -> Iterator[tuple[str, Module]]:
        """Yield (name, module) for the modules directly inside this one.

        Raises:
            TypeError: an attribute holds modules in a list, where their parameters would be missed.
        """
        for name, value in vars(self).items():
            if isinstance(value, Module):
                yield name, value
            elif name != "layers" or not isinstance(self, Sequential):
                _refuse_hidden_modules(self, name, value)

    def named_modules(
        self: Any, memo: set[int] | None = None, prefix: str = "", remove_duplicate: bool = True
    ) -> Iterator[tuple[str, Module]]:
        """Yield (name, module) for this module, under the name "", and all modules inside it, each once."""
        _only_default("named_modules", remove_duplicate=(remove_duplicate, True))
        memo = set() if memo is None else memo
        if id(self) not in memo:
            memo.add(id(self))
            yield prefix, self
            for name, child in self.named_children():
                yield from child.named_modules(memo, f"{prefix}.{name}" if prefix else name)

    def modules(self: Any) -> Iterator[Module]:
        """Yield this module and all modules inside it, each once."""
        return (module for _, module in self.named_modules())

    def named_parameters(
        self: Any, prefix: str = "", recurse: bool = True, remove_duplicate: bool = True
    ) -> Iterator[tuple[str, Tensor]]:
        """Yield (name, parameter), each parameter once, under the first of its names, as in PyTorch: "0.weight"."""
        _only_default("named_parameters", prefix=(prefix, ""), recurse=(recurse, True))
        _only_default("named_parameters", remove_duplicate=(remove_duplicate, True))
        seen: set[int] = set()
        for name, parameter in _named_tensors(self, "parameter_names"):
            if id(parameter) not in seen:
                seen.add(id(parameter))
                yield name, parameter

    def zero_grad(self: Any, set_to_none: bool = True) -> None:
        """Forget all gradients: set each parameter's `.grad` to None."""
        _only_default("zero_grad", set_to_none=(set_to_none, True))
        for parameter in self.parameters():
            parameter.grad = None

    def train(self: Any, mode: bool = True) -> Any:
        """Put this module and all inside it into training mode (or, with False, into evaluation mode); return self."""
        self.training = bool(mode)
        for _, child in self.named_children():
            child.train(mode)  # which a learner's class may have changed
        return self

    def eval(self: Any) -> Any:
        """Put this module and all inside it into evaluation mode; return self."""
        return self.train(False)

    def requires_grad_(self: Any, learned: bool = True) -> Any:
        """With False, freeze all parameters: backward adds nothing to their `.grad`. Return self.

        What counts is whether a parameter is frozen when backward runs. PyTorch spares those frozen in forward as well.
        """
        for parameter in self.parameters():
            parameter.frozen = not learned
        return self

    def state_dict(
        self: Any, *, destination: None = None, prefix: str = "", keep_vars: bool = False
    ) -> dict[str, Tensor]:
        """Return all parameters and buffers by name, in PyTorch's order. They share memory with the module's own."""
        _only_default("state_dict", destination=(destination, None), prefix=(prefix, ""), keep_vars=(keep_vars, False))
        return {name: tensor.detach() for name, tensor in _named_tensors(self, "parameter_names", "buffer_names")}

    def load_state_dict(
        self: Any, state_dict: Mapping[str, Tensor], strict: bool = True, assign: bool = False
    ) -> IncompatibleKeys:
        """Copy the values of `state_dict` into the parameters and buffers. A refused dictionary changes nothing.

        Args:
            state_dict: tensors by name, from this framework or from PyTorch.
            strict: whether all names must agree. If not, those in common are loaded, and the others returned.
            assign: as in PyTorch; only its default is supported.

        Raises:
            KeyError: a name is missing or unknown.
            TypeError: `state_dict` is not a dictionary, or a value is not a tensor.
            ValueError: a tensor has the wrong shape.
        """
        own = self.state_dict()
        _only_default("load_state_dict", assign=(assign, False))
        _check_state_dict(state_dict)
        missing, unknown = [n for n in own if n not in state_dict], [n for n in state_dict if n not in own]
        if strict and (missing or unknown):
            raise KeyError(f"the state dict does not fit: missing {missing}, unknown {unknown}; expected {list(own)}")
        values = {}
        for name in own:
            if name in state_dict:
                value = state_dict[name]
                if not isinstance(value, Tensor) or value.is_complex():
                    raise TypeError(f"{name} must be a tensor, got {_kind(value)}")
                if value.shape != own[name].shape:
                    raise ValueError(f"{name} must have shape {tuple(own[name].shape)}, got {tuple(value.shape)}")
                values[name] = torch.empty_like(own[name]).copy_(value.detach())
        for name, value in values.items():
            own[name].copy_(value)
        return IncompatibleKeys(missing, unknown)

    def to(self: Any, *args: Any, **kwargs: Any) -> Any:
        """Move parameters, gradients and buffers to a device or a floating-point dtype, in place; return self.

        After the move, a backward for an earlier forward is refused.

        Raises:
            TypeError: the dtype is not a floating-point one, or the device is "meta".
        """
        wanted = torch.empty(0).to(*args, **kwargs)
        if not wanted.is_floating_point():
            raise TypeError("modules can only be moved to floating-point dtypes, such as torch.float64")
        if any(p.is_meta != wanted.is_meta for p in self.parameters()):
            raise TypeError('modules can\'t be moved to or from "meta": build them there, with device="meta"')
        for module in self.modules():
            vars(module)["_memory"] = _Memory({})
            for name in (*module.parameter_names, *module.buffer_names):
                tensor = getattr(module, name)
                for part in (tensor, getattr(tensor, "grad", None)):
                    if part is not None:
                        moved = part.data.to(*args, **kwargs)
                        part.data = moved if part.is_floating_point() else part.data.to(moved.device)
        return self

    def float(self: Any) -> Any:
        """Change to float32, in place; return self."""
        return self.to(torch.float32)

    def double(self: Any) -> Any:
        """Change to float64, in place; return self."""
        return self.to(torch.float64)

    def summary(self: Any) -> str:
        """Return a table of all parameters, with shape and number of elements, and their total."""
        rows = [(name, str(tuple(p.shape)), p.numel()) for name, p in self.named_parameters()]
        rows.append(("total", "", sum(row[2] for row in rows)))
        return "\n".join(f"{name:<16} {shape:>16} {count:>10,}" for name, shape, count in rows)

    def extra_repr(self: Any) -> str:
        """Return the arguments that `repr` shows."""
        return ""

    def __repr__(self: Any) -> str:
        children = [f"({name}): {child!r}".replace("\n", "\n  ") for name, child in self.named_children()]
        inside = "\n  ".join(["", *children]) + "\n" if children else self.extra_repr()
        return f"{type(self).__name__}({inside})"


class _Remembering:
    """What every Function does unseen: check its input, note what is assigned to it, leave its memory out of copies."""

    parameter_names: tuple[str, ...] = ()
    buffer_names: tuple[str, ...] = ()

    def _check(self: Any, *inputs: Any) -> None:
        """Refuse arguments that `forward` can't take. By default: anything that is not floating-point."""
        _check_floating("prediction" if isinstance(self, Loss) else "input", inputs[0])

    def __setattr__(self: Any, name: str, value: Any) -> None:
        if name in self._fixed:
            kind = type(self).__name__
            raise AttributeError(f"{name} of a {kind} can't be changed later: make a new one, {kind}(..., {name}=...)")
        if name == "forward":
            raise AttributeError("forward of one object can't be replaced: write a class with a forward and a backward")
        if not callable(value) and callable(getattr(type(self), name, None)):
            raise AttributeError(f"{name} is a method of every {type(self).__name__}: give the attribute another name")
        if name in ("reduction", "stacked") and isinstance(self, Loss):
            ours = next(base for base in type(self).__mro__ if base.__module__ == __name__)
            if name == "reduction" and ours is not Loss:  # a learner's own loss may have others
                _check_reduction(value)
            vars(self)["_memory"] = _Memory({})  # a forward that waits for its backward used the old value
        if name in self.parameter_names:
            value, old = _adopted(value), vars(self).get(name)
            if isinstance(old, Tensor) and not isinstance(value, Tensor) and (value is not None or name == "weight"):
                kind = type(self).__name__
                raise TypeError(f"{name} is a parameter of {kind} and must be a tensor, got {_kind(value)}")
            for tensor, successor in (old, value), (value, None):
                if isinstance(tensor, Parameter):
                    tensor.successor = successor
            if isinstance(value, Parameter) and value is not old:
                Parameter.assigned += 1
                value.since = Parameter.assigned
        with _one_at_a_time:  # or another thread's backward, as it puts attributes back, would undo this
            run = _thread.run
            if run is None or run.module is not self:
                self._memory.assigned[name] = self._memory.assigned.get(name, 0) + 1
            elif run.state is None and name not in self.parameter_names:
                run.attributes[name] = value, self._memory.assigned.get(name)
            object.__setattr__(self, name, value)
        if name == "parameter_names":  # set in __init__, after the tensors that it names
            for own in value:
                _adopted(vars(self).get(own))

    def __getstate__(self: Any) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "_memory"}


class _Switch(property):
    """An attribute that always reads False; setting it calls the decorated function."""

    def __init__(self, switch: Callable[..., None]):
        super().__init__(lambda owner: False, switch)


class Parameter(Tensor):
    """What a tensor named in `parameter_names` becomes: it can be frozen, and copies of it have no `.grad`.

    `requires_grad` always reads False, since there is no automatic differentiation here. Setting it to False still
    freezes the parameter, as in PyTorch: backward adds nothing to its `.grad`. Setting it to True lets it learn again.
    """

    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]  # results are plain tensors
    frozen = False
    successor: Any = None  # what has taken its place in a module
    assigned = 0  # how many parameters all modules have been given so far
    since = 0  # that number just after a module was given this one

    @property
    def data(self) -> Tensor:
        return self.detach()  # unlike PyTorch's, its changes in place count as the parameter's

    @data.setter
    def data(self, values: Tensor) -> None:
        counts_changes = not self.is_inference()
        Tensor.data.__set__(self, values)  # type: ignore[attr-defined]
        if counts_changes:
            self.copy_(self)  # counts as a change in place: a backward that needs the old values notices

    @_Switch
    def requires_grad(self, learned: bool) -> None:
        self.frozen = not learned

    def requires_grad_(self, learned: bool = True) -> "Parameter":
        self.frozen = not learned
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> "Parameter":
        twin: Parameter = _adopted(self.detach().clone())
        twin.frozen = self.frozen
        return twin

    def __repr__(self, **kwargs: Any) -> str:  # type: ignore[override]
        return repr(self.detach())


class _Plain(Tensor):
    # A tensor with a method or two of its own, which `_joined` hands on to sums and multiples: in all else a plain one.
    _joined: Callable[..., Any]
    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    def __format__(self, spec: str) -> str:
        return format(self.detach(), spec)

    def __repr__(self, **kwargs: Any) -> str:  # type: ignore[override]
        return repr(self.detach())

    def __deepcopy__(self, memo: dict[int, Any]) -> Tensor:
        return self.detach().clone()

    def __reduce_ex__(self, protocol: Any) -> Any:
        plain: Any = self.detach()  # which torch.load(..., weights_only=True) accepts
        return plain.__reduce_ex__(protocol)

    def __add__(self, other: Any) -> Any:
        return self._joined(Tensor.__add__, other)

    def __sub__(self, other: Any) -> Any:
        return self._joined(Tensor.__sub__, other)

    def __mul__(self, other: Any) -> Any:
        return self._joined(Tensor.__mul__, other)

    def __truediv__(self, other: Any) -> Any:
        return self._joined(Tensor.__truediv__, other)

    __radd__, __rmul__ = __add__, __mul__


class LossValue(_Plain):
    """What a loss returns: a tensor whose `backward`, a habit from PyTorch, says what to write instead.

    So does a sum or a multiple of it. In a sum, two calls of one criterion take note of each other, since only the last
    has a backward: `_calls` holds those that may still have one.
    """

    _calls: "tuple[_Call, ...]" = ()

    def backward(self, *args: Any, **kwargs: Any) -> NoReturn:
        raise RuntimeError(
            "a loss of diy has no backward, as there is no automatic differentiation: instead of loss.backward(), "
            "write model.backward(criterion.backward()), and for loss / 4, model.backward(criterion.backward() / 4)"
        )

    def _joined(self, operation: Callable[..., Any], other: Any) -> Any:
        added = operation in (Tensor.__add__, Tensor.__sub__)
        result, more = operation(self.detach(), other), getattr(other, "_calls", ()) if added else ()
        if isinstance(result, Tensor):
            for one, another in itertools.product(self._calls, more):
                if one is not another and one.criterion is another.criterion:
                    one.added.append(another)
                    another.added.append(one)
                elif one is not another and one.module is another.module is not None:
                    one.beside.append(another)
                    another.beside.append(one)
            result.__class__ = LossValue
            waiting = {id(call.criterion): call for call in self._calls + more if not call.done}
            result._calls = tuple(waiting.values())  # type: ignore[attr-defined]  # of each criterion, the last
        return result


class _Call:
    # One call of a criterion, on the output of a module, and whether its backward has run. It was `added` to others of
    # the same criterion, and stands `beside` those of other criteria on outputs of the same module.
    def __init__(self, criterion: Any, module: Any):
        self.criterion, self.module, self.done = criterion, module, False
        self.added, self.beside = list[_Call](), list[_Call]()


class Gradient(_Plain):
    """What the backward of a loss returns. Its multiples and sums still know which output they belong to."""

    __iadd__ = _Plain.__add__
    __imul__ = _Plain.__mul__
    __itruediv__ = _Plain.__truediv__

    def _joined(self, operation: Callable[..., Any], *others: Any, **options: Any) -> Any:
        result, origin = operation(self.detach(), *others, **options), self._diy_of  # type: ignore[attr-defined]
        tensors = [other for other in others if isinstance(other, Tensor) and other.dim()]
        if operation in (Tensor.__add__, Tensor.__sub__) and tensors:
            if not isinstance(tensors[0], Gradient):
                return result
            if not _same(origin.output, tensors[0]._diy_of.output):  # type: ignore[attr-defined]
                raise RuntimeError(
                    "these are the gradients of two outputs, and what joins them is that of neither: call "
                    "model.backward for each, before the next forward; the parameters' gradients add up"
                )
        elif tensors:  # by the chain rule, perhaps, it is that of another tensor now
            origin = origin._replace(by_hand=True)
        if isinstance(result, Tensor):  # and not NotImplemented
            result.__class__ = Gradient
            result._diy_of = origin  # type: ignore[attr-defined]
        return result


for _name in ("mul", "div", "neg", "__neg__", "clamp", "clip", "nan_to_num"):
    setattr(Gradient, _name, functools.partialmethod(Gradient._joined, getattr(Tensor, _name)))


class _Origin(NamedTuple):
    """What a gradient is the gradient of."""

    output: tuple[Tensor, int | None]  # with its version
    stacked: bool | None  # the loss's setting; None if it comes from a module
    call: _Call | None  # of the loss
    by_hand: bool = False  # whether it was multiplied by another tensor since


def _adopted(tensor: Any) -> Any:
    if type(tensor) is Tensor:
        tensor = tensor if tensor.is_leaf else tensor.detach()
        tensor.__class__ = Parameter
    return tensor


# What a forward leaves for its backward


_Entry = tuple[Any, tuple[Any, ...], "_Run | None"]


class _Nothing(list[_Entry]):
    """What a run under inference mode remembers."""

    def append(self, entry: _Entry) -> None:
        pass


class _Run:
    """One run of a forward, kept for the one backward that may follow.

    Attributes:
        module: the module whose forward ran.
        trusted: whether the module is from this file, and so changes nothing in place that was remembered.
        since: how many parameters modules had been given when forward began, see `Parameter`.
        recorded: whether gradients were enabled; None under inference mode, where nothing is kept.
        entries: what was remembered, in order: (module, values, None), or (module, (), run) for the run of another
            module inside this one. Backward takes them out again.
        tape: the entries, if the module is from this file and its layers may write to them directly; otherwise None.
        versions: those of all values, in order; `noted` is the number of entries that they cover.
        input, output: shape and dtype of each.
        got, gave: input and output, each with its version, unless another module called this one.
        on_itself: whether the input was the output of the same module's run before.
        attributes: what forward assigned to attributes of the module, each value with the count in `_Memory.assigned`.
        named: for a learner's module, what its forward and its backward name.
        state: for a learner's module, the state at the end of forward of all else that backward may read.
        inherited: input and output of super().forward, if a learner's forward called it, each with its version.
        misfit: the method of a learner's class that a backward inherited from this file can't know about.
        call: of a loss, see `LossValue`.
    """

    input: tuple[torch.Size, torch.dtype]
    output: tuple[torch.Size, torch.dtype]
    got: tuple[Tensor, int | None] | None = None
    gave: tuple[Tensor, int | None] | None = None
    noted = 0
    on_itself = False
    named: "tuple[_Named, _Named] | None" = None
    state: dict[str, Any] | None = None
    inherited: Any = None
    misfit = ""
    call: _Call | None = None

    def __init__(self, module: Any, outer: "_Run | None"):
        self.module, self.trusted, self.since = module, module._trusted, Parameter.assigned
        self.recorded = True if torch.is_grad_enabled() else None if torch.is_inference_mode_enabled() else False
        self.entries: list[_Entry] = [] if self.recorded is not None else _Nothing()
        self.tape = self.entries if self.trusted else None
        self.versions: list[Any] = []
        self.attributes: dict[str, tuple[Any, int | None]] = {}
        if outer is None and self.recorded is not None:
            # The last run is forgotten, even if this forward fails: the layers may have changed.
            module._memory.disabled = None
            if self.recorded:
                module._memory.enabled = None

    def note_versions(self) -> None:
        """Note the versions of what was remembered, before anything else can change it in place."""
        self.versions += _versions(self.entries[self.noted :])
        self.noted = len(self.entries)

    def check_versions(self) -> None:
        """Refuse to go on if a value that is still needed was changed in place; those already used don't matter."""
        versions = _versions(self.entries)
        if versions != self.versions[: len(versions)]:
            _refuse_changed(self)

    def keep(self, outer: "_Run | None", output: Tensor) -> Tensor:
        """Keep this finished run where its backward will look for it; return the output without a graph."""
        if not output.is_leaf:  # a learner's forward, or a parameter of PyTorch's in it, has asked for a graph
            if isinstance(self.module, Module):
                [*self.module.parameters()]  # rids them of graphs
            output = output.detach()
        self.output = output.shape, output.dtype
        self.note_versions()
        if outer is not None:
            if self.recorded is outer.recorded:
                outer.entries.append((self.module, (), self))
            return output
        memory = self.module._memory
        # Not the tensor that a layer remembered: it gets attributes here.
        output = _contiguous(output.detach(), self.module)
        if not self.module._gradients and type(output) is Tensor:
            output.__class__ = LossValue
            if self.recorded:
                self.call = _Call(memory.assigned, getattr(cast(Any, self.got)[0], "_diy_output", None))
                output._calls = (self.call,)  # type: ignore[attr-defined]
        if self.recorded is not None:
            # Something that outputs of the same module share.
            output._diy_output = memory.assigned if self.recorded else None  # type: ignore[attr-defined]
            self.gave = _with_version(output)
            setattr(memory, "enabled" if self.recorded else "disabled", self)
        return output

    def take(self, module: Any, inner: bool) -> tuple[Any, tuple[Any, ...], Any]:
        """Take out the last entry of a module: with `inner`, its run inside this one, otherwise what it remembered.

        A learner's backward may visit modules in any order; a Sequential's must go straight back.
        """
        for index in reversed(range(len(self.entries))):
            owner, values, run = self.entries[index]
            if owner is module and (run is not None) is inner:
                self.noted = min(self.noted, len(self.entries) - 1)
                del self.versions[len(self.versions) - len(values) :]
                return self.entries.pop(index)
            if self.trusted:
                break
        _refuse_recall(self, module)


class _Thread(threading.local):
    """What a thread is doing: the innermost run whose forward or backward it is in."""

    run: _Run | None = None
    tape: "list[_Entry] | None" = None  # what that run has remembered, if its module is from this file


class _Memory(threading.local):
    """In each thread, a module's last runs that no other module called: with gradients enabled, and without.

    As in PyTorch, a forward under `torch.no_grad()` does not disturb another one that waits for its backward. It is
    kept all the same, since a whole program may run with gradients disabled.
    """

    enabled: _Run | None = None
    disabled: _Run | None = None
    trained = False  # whether a first backward inside a network has shown that its parameters are trained

    def __init__(self, assigned: dict[str, int]):
        # One for all threads: how often anything but the module's own forward and backward has set each attribute.
        self.assigned = assigned


_thread = _Thread()
_one_at_a_time = threading.RLock()
_PlainTensors = torch._C.DisableTorchFunctionSubclass  # inside it, a Parameter costs hardly more than a plain tensor
# PyTorch's automatic differentiation is off in the formulas of this file, which are faster without, and on in those of
# a learner, who may compare with it.
_AutogradIsOff: Any = functools.partial(
    torch._C._SetExcludeDispatchKeyGuard, torch._C.DispatchKey.AutogradFunctionality
)
_NoAutograd, _Autograd = functools.partial(_AutogradIsOff, True), functools.partial(_AutogradIsOff, False)


def _guard(cls: Any) -> None:
    if "__call__" in vars(cls):
        raise TypeError(f"{cls.__name__} defines __call__, but networks call forward: define that instead")
    cls._trusted = False
    if cls.__module__ not in (__name__, "builtins"):  # the latter where exec has no __name__
        _homes.add(cls.__module__.partition(".")[0])
    cls.forward, cls.backward = cls.forward, cls.backward  # _Guarding puts their guards around them
    if hasattr(cls, "accumulate") and "accumulate" not in vars(cls):
        cls.accumulate = staticmethod(_accumulate)


class _Guarding(ABCMeta):
    """The class of a Function's class: it guards a learner's methods, also those given to a class in a later cell."""

    _trusted: bool  # set in the class

    def __setattr__(cls, name: str, value: Any) -> None:
        if not cls._trusted and (callable(value) or isinstance(value, _FUNCTIONS)):
            if name == "forward":
                value = _guarded_forward(value, _noting(value))
            if name == "backward":
                value = _guarded_backward(value, _handing_back(value))
        super().__setattr__(name, value)
        if name in getattr(cls, "__abstractmethods__", ()):
            update_abstractmethods(cast(Any, cls))


def _alone(formula: Any, guarded: Any) -> Any:
    # Inside a Sequential, a layer of this file is its bare formula, for speed: the network's guard watches over it.
    @functools.wraps(formula)
    def _either(self: Any, *tensor: Any, **named: Any) -> Any:
        return guarded(self, *tensor, **named) if _thread.tape is None else formula(self, *tensor)

    return _either


def _guarded_forward(formula: Any, watched: Any = None) -> Any:
    run_it, mode = watched or formula, _Autograd if watched else _NoAutograd
    plain, (few, many) = inspect.unwrap(formula), _counts(formula)

    @functools.wraps(formula)
    def forward(self: Any, *inputs: Any, **named: Any) -> Any:
        outer, tape = _thread.run, _thread.tape
        if named or not few <= len(inputs) <= many:
            inputs, named = _bound(formula, (self, *inputs), named)
        if outer is not None and outer.module is self:  # super().forward(...)
            if watched is None:
                self._check(*inputs)
            output = formula(self, *inputs, **named)
            if plain is _partner(type(self)):
                outer.inherited = _with_version(inputs[0]), _with_version(output)
            return output
        if outer is not None:
            outer.note_versions()
        run, before = None, self._memory.enabled
        try:
            if watched is None or plain.__module__ == __name__ or not self._gradients:
                self._check(*inputs)
            else:  # what it takes need not be what the class takes that it is derived from
                _check_floating("input", inputs[0])
            if len(inputs) > 1:
                _check_target(*inputs)
            run = _thread.run = _Run(self, outer)
            _thread.tape = run.tape
            if outer is None:
                run.got = _with_version(inputs[0])
                run.on_itself = before is not None and inputs[0] is before.gave[0]
            with _PlainTensors(), mode():
                output = run_it(self, *map(_apart, inputs), **named)
        except Exception as error:
            raise _placed(error, run) from None
        finally:
            _thread.run, _thread.tape = outer, tape
        if not isinstance(output, Tensor):
            _refuse_result(self, "forward", output, "the output")
        run.input = inputs[0].shape, inputs[0].dtype
        return run.keep(outer, output)

    return forward


def _guarded_backward(formula: Any, watched: Any = None) -> Any:
    run_it, mode = watched or formula, _Autograd if watched else _NoAutograd

    @functools.wraps(formula)
    def backward(self: Any, *gradient: Any, **named: Any) -> Any:
        outer, tape = _thread.run, _thread.tape
        if named:
            gradient, _ = _bound(formula, (self, *gradient), named)
        if outer is not None and outer.module is self:
            return formula(self, *gradient)  # super().backward(...)
        run = None
        try:
            if len(gradient) != self._gradients:
                takes = "one argument, ∂ℓ/∂(output)" if self._gradients else "no argument"
                hint = "in a training step, write model.backward(criterion.backward())"
                raise TypeError(f"{type(self).__name__}.backward takes {takes}, got {len(gradient)}: {hint}")
            run = _thread.run = _find(self, outer, gradient)
            _thread.tape = run.tape
            run.check_versions()
            with _one_at_a_time, _PlainTensors(), mode():
                result = run_it(self, *map(Tensor.detach, gradient))
        except Exception as error:
            raise _placed(error, run) from None
        finally:
            _thread.run, _thread.tape = outer, tape
        if outer is not None:
            outer.check_versions()
            if watched is not None and self._gradients and not self._memory.trained:
                _check_trained(self)
                self._memory.trained = True
        if result is None and run.trusted and not run.entries:
            return None  # the first layer needs no input gradient
        if run.entries or not isinstance(result, Tensor) or (result.shape, result.dtype) != run.input:
            _check_result(run, result)
        if result is None:
            return None
        if not result.is_leaf:
            result = result.detach()  # a parameter shared with PyTorch has asked for a graph
        if outer is None and gradient:
            result = result.contiguous() + 0  # the product of 0 and −1, −0, becomes 0
        if run.got is not None:
            result._diy_of = _Origin(run.got, getattr(self, "stacked", None), run.call)
            if not gradient and type(result) is Tensor:
                result.__class__ = Gradient
        return result

    return backward


def _counts(formula: Any) -> tuple[int, float]:
    """Return the least and the largest number of arguments that a method takes, besides self."""
    parameters = [*inspect.signature(formula).parameters.values()][1:]
    needed = [p for p in parameters if p.default is p.empty and p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    return len(needed), math.inf if any(p.kind is p.VAR_POSITIONAL for p in parameters) else len(parameters)


def _apart(tensor: Any) -> Any:
    if not isinstance(tensor, Tensor):
        return tensor  # the target of a learner's loss, perhaps
    if torch._C._functorch.is_gradtrackingtensor(tensor):
        raise RuntimeError(
            "torch.func can't differentiate diy's modules and losses, whose gradients are written by hand: call "
            "model.backward(gradient) instead"
        )
    # A tensor from inference mode is copied, because its later changes would not be counted.
    from_inference = tensor.is_inference() and not torch.is_inference_mode_enabled()
    return tensor.clone() if from_inference else tensor.detach()


def _check_target(prediction: Any, target: Any, *more: Any) -> None:
    module = getattr(target, "_diy_output", None)
    if module is not None and module is getattr(prediction, "_diy_output", None):
        raise RuntimeError(
            "prediction and target come from the same module, but no gradient goes back through the target: call the "
            "module under torch.no_grad() for the target, or pass target.detach()"
        )


def _contiguous(tensor: Any, module: Any) -> Any:
    # In this file, images and what goes through a stack have the samples last in memory. Outside they lie as in
    # PyTorch, so that x.view(...) works.
    moved = isinstance(tensor, Tensor) and (tensor.dim() == 4 or getattr(module, "stack_size", None) is not None)
    return tensor.contiguous() if moved else tensor


def _remember(self: Any, values: tuple[Any, ...]) -> None:
    run = _own_run(self, "remember", "forward")
    run.entries.append((self, values, None))
    run.note_versions()  # a Sequential of this file notes those of all its layers at once


def _recall(self: Any) -> tuple[Any, ...]:
    run = _thread.run
    if run is None or not run.trusted:
        run = _own_run(self, "recall", "backward")
        run.check_versions()
    return run.take(self, inner=False)[1]


def _own_run(self: Any, method: str, place: str) -> _Run:
    run = _thread.run
    if run is None or run.module is not self:
        raise RuntimeError(f"self.{method} belongs in {place}: {type(self).__name__} was outside of it")
    return run


def _find(self: Any, outer: _Run | None, gradient: tuple[Any, ...]) -> _Run:
    """Take the run that a backward belongs to from where it was kept. A refused gradient leaves it there."""
    name = type(self).__name__
    run = _waiting(self, gradient) if outer is None else outer.take(self, inner=True)[2]
    if run is None or torch.is_inference_mode_enabled():
        _refuse_backward(self, outer)
    if run.on_itself:
        raise RuntimeError(
            f"{name} was called on its own output, but only its last call is remembered, so that the gradient would "
            "lack the others' share: write Sequential(net, net), or net(output.detach()) to leave them out"
        )
    if run.call is not None:
        if run.call.added and not all(call.done for call in run.call.added):
            raise RuntimeError(
                f"the loss was added to that of an earlier call of this {name}, whose gradient would be missing: write "
                "model.backward(criterion.backward()) after each call; the parameters' gradients add up"
            )
        run.call.done = True
    for G in gradient:
        if not isinstance(G, Tensor) or (G.shape, G.dtype) != run.output:
            _refuse_gradient(run, G)
    if not gradient and (shape := run.output[0]) and math.prod(shape[self.stacked :]) != 1:
        wanted = "one number per network" if self.stacked else "one number"
        raise ValueError(f"{name}.forward returned {tuple(shape)}: a loss is {wanted}, such as self.reduce(terms)")
    if run.since != Parameter.assigned:
        _check_biases(run)
    if outer is None:
        setattr(self._memory, "enabled" if run.recorded else "disabled", None)
    return run


def _waiting(self: Any, gradient: tuple[Any, ...]) -> _Run | None:
    """Return the run to whose output a gradient belongs.

    What backward returned says what it is the gradient of, in `_diy_of`. One that was computed by hand is believed.
    """
    memory = self._memory
    runs = [*filter(None, (memory.enabled, None if torch.is_grad_enabled() else memory.disabled))]
    origin: _Origin | None = getattr(gradient[0], "_diy_of", None) if gradient else None
    if origin is not None and (not origin.by_hand or hasattr(origin.output[0], "_diy_output")):
        fitting = [run for run in runs if _same(cast(Any, run.gave), origin.output)]
    else:
        fitting = runs if len(runs) < 2 else []
    stacked = origin.stacked if origin is not None else None
    if fitting and stacked is not None and stacked is not (self.stack_size is not None):
        needs = "stacked=True, as the network was made by stack" if self.stack_size else "stacked=False, as by default"
        raise ValueError(f"this gradient is that of a loss with stacked={stacked}: make the loss with {needs}")
    if runs and not fitting:
        name = type(self).__name__
        raise RuntimeError(
            f"this gradient is not that of the last output of {name}: since criterion(model(x), target), {name} or the "
            "loss was called again (do that under torch.no_grad()), or the loss got something other than this output "
            "(the target first, or an operation in between). If it is right nevertheless, because you applied the "
            "chain rule by hand or other outputs were added, pass gradient.clone()"
        )
    if fitting and origin is not None and origin.call is not None and not all(one.done for one in origin.call.beside):
        raise RuntimeError(
            f"the loss was added to that of another criterion for {type(self).__name__}, whose gradient is missing: "
            "for one output, pass the sum, criterion.backward() + other.backward(); for two, go back after each forward"
        )
    return fitting[0] if fitting else None


def _with_version(value: Any) -> tuple[Any, int | None]:
    try:
        return value, value._version
    except (AttributeError, RuntimeError):  # not a tensor, or one from inference mode
        return value, None


def _same(one: Any, other: Any) -> bool:
    """Return whether two tensors, each at its version, held the same numbers."""
    (output, then), (tensor, later) = one, other
    if tensor is output:
        return bool(then == later)
    if tensor.shape != output.shape or tensor.dtype != output.dtype or tensor.is_meta:
        return True  # another message says it better, or there are no numbers
    if tensor.data_ptr() == output.data_ptr() != 0 and tensor.stride() == output.stride():
        return bool(then == later)  # the same memory
    if hasattr(tensor, "_diy_output"):
        return False  # another call's output, even if it is equal
    equal = (tensor == output) | ((tensor != tensor) & (output != output))
    # That whole numbers are equal proves nothing: 0 is 2 · 0, 1 is 1², and 3 rounds to 3.
    return bool((equal & (tensor != tensor.round())).all())


def _versions(entries: list[Any]) -> list[Any]:
    # PyTorch counts the in-place changes of every tensor, unless it is from inference mode: outside that, such a tensor
    # can't be changed in place.
    try:
        return [value._version for _, values, _ in entries for value in values]
    except (AttributeError, RuntimeError):
        # Only the versions, not the tensors, so that backward frees each once it is used.
        values = [value for _, values, _ in entries for value in values]
        parts = [[] if isinstance(value, Tensor) else _parts([("", value)]) for value in values]
        return [[_token(part) for _, part in one] or _with_version(value)[1] for one, value in zip(parts, values)]


# What a learner's module keeps without `remember`
#
# A learner may keep what backward needs elsewhere. While backward runs, the attributes that its own forward assigned
# are put back, since a later forward may have replaced them. Whatever else both methods name, themselves or in
# functions that they use, must be what it was after forward, or backward is refused, unless backward only writes to it,
# as to a log. Not seen is what lies outside of objects and variables, such as a file, a cache of functools or the
# position of an iterator, nor a change that PyTorch does not count, such as that of an array which shares a tensor's
# memory.


def _noting(forward: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap a learner's forward: when it ends, note the state of all that backward may read."""

    @functools.wraps(forward)
    def _forward(self: Any, *inputs: Any, **named: Any) -> Any:
        run, inputs = cast(_Run, _thread.run), tuple(_contiguous(one, self) for one in inputs)
        given = _with_version(inputs[0])
        output = forward(self, *inputs, **named)
        if isinstance(output, Tensor):
            run.misfit = _misfit(run, given, output)
        for name in [*run.attributes]:
            if inspect.isdatadescriptor(inspect.getattr_static(type(self), name, None)):
                del run.attributes[name]  # it has no place in the module's own dictionary
        # Backward may call a function that forward has remembered.
        values = [value for _, kept, _ in run.entries for value in kept if not isinstance(value, Tensor)]
        run.named = _Named(self, "forward"), _Named(self, "backward", values)
        run.state = _state(run)
        return output

    return _forward


def _handing_back(backward: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap a learner's backward: it finds the attributes that its own forward assigned; what it assigns stays."""

    @functools.wraps(backward)
    def _backward(self: Any, *gradient: Any) -> Any:
        run: Any = _thread.run
        if run.misfit:
            G, more = ("G", "") if gradient else ("", " and a share" if run.misfit == "reduce" else "")
            raise RuntimeError(
                f"{type(self).__name__} has a {run.misfit} of its own, which the backward that it inherits knows "
                f"nothing of: write a backward{more} as well. If the inherited one is right, say so: "
                f"def backward({', '.join(filter(None, ('self', G)))}): return super().backward({G})"
            )
        before: list[tuple[dict[str, Any], str, Any, Any]] = []
        for owner, name, value, count in _assigned(run):
            attributes = vars(owner)
            set_by_others = attributes.get(name) is not value and owner._memory.assigned.get(name) != count
            if set_by_others and name in run.named[1].attributes:
                _refuse_stale(run, f"{type(owner).__name__}.{name}")
            before.append((attributes, name, value, attributes.get(name, NotImplemented)))
        for attributes, name, value, _ in before:
            attributes[name] = value
        try:
            _check_state(run)
            _check_inner(run)
            # A copy, because a learner's backward may change it in place, while another path needs it as well.
            return backward(self, *(G.clone(memory_format=torch.contiguous_format) for G in gradient))
        finally:
            for attributes, name, value, old in reversed(before):
                if attributes.get(name, NotImplemented) is value:  # backward has not set it
                    attributes[name] = old
                    if old is NotImplemented:
                        del attributes[name]

    return _backward


def _assigned(run: _Run) -> Iterator[tuple[Any, str, Any, int | None]]:
    """Yield what a forward assigned to attributes, its module's and those of the modules that it called."""
    for name, (value, count) in run.attributes.items():
        yield run.module, name, value, count
    for _, _, inside in run.entries:
        yield from _assigned(inside) if inside is not None else ()


def _check_state(run: Any) -> None:
    then, now = run.state, _state(run)
    for what in {**then, **now}:
        if then.get(what) != now.get(what):
            _refuse_stale(run, what)


def _refuse_stale(run: _Run, what: str) -> NoReturn:
    raise RuntimeError(
        f"{what}, which {type(run.module).__name__}.backward may read, was changed between forward and backward, "
        "perhaps by a later forward: keep what backward needs with self.remember(output, ...) in forward and "
        "get it with self.recall(gradient) in backward, or change it only after backward"
    )


def _misfit(run: _Run, given: Any, output: Tensor) -> str:
    kind: Any = type(run.module)
    ours = kind.backward.__module__ == __name__
    if ours and issubclass(kind, Loss):
        for one, other in ("reduce", "share"), ("share", "reduce"):
            if getattr(kind, one) is not getattr(Loss, one) and getattr(kind, other) is getattr(Loss, other):
                return one
    if inspect.unwrap(kind.forward) is _partner(kind):
        return ""
    if run.inherited is None:
        return "forward" if ours else ""  # a learner's backward may be made for any forward
    above = next(base for base in kind.__mro__ if base.__module__ == __name__)
    if ours and {*run.module.parameter_names} - {*above.parameter_names}:
        return "forward"  # which the inherited backward would not train
    pairs = [*zip(run.inherited, (given, _with_version(output)))]
    passed_on = all(one[0].shape == other[0].shape and _same(one, other) for one, other in pairs)
    return "" if passed_on else "forward"


def _partner(kind: Any) -> Any:
    """Return the forward of the class that brings the backward, without its guard."""
    plain = inspect.unwrap(kind.backward)
    brings = [base for base in kind.__mro__ if inspect.unwrap(getattr(base, "backward", type)) is plain][-1]
    return inspect.unwrap(brings.forward)


def _state(run: _Run) -> dict[str, Any]:
    """Return the state of what a learner's backward may read, by name.

    That is what forward and backward both name, attributes and variables, and the plain settings that backward alone
    names.
    """
    forward, backward = cast("tuple[_Named, _Named]", run.named)
    computed, assigned = forward.computes or backward.computes, [*_assigned(run)]
    also_named = forward.attributes | forward.calls | forward.assigned | forward.written

    def may_matter(value: Any, in_forward: bool, set_by_backward: bool) -> bool:
        plain = issubclass(type(value), (Tensor, numbers.Number, str, type(None), tuple, slice, types.FunctionType))
        in_forward = in_forward or (id(value) in forward.objects and not plain)
        return in_forward or (not set_by_backward and (computed or plain))

    found: list[tuple[str, Any]] = []
    for (name, _), place in backward.variables.items():
        value = place[name] if type(place) is dict and name in place else place
        if may_matter(value, (name, id(place)) in forward.variables, name in backward.assigned):
            found.append((name, value))
    for owner in filter(_has_names, backward.objects.values()):
        kind = type(owner)
        label = owner.__name__ if issubclass(kind, _SPACES) else kind.__name__
        members = backward.members(owner)
        own = owner.parameter_names if issubclass(kind, Module) else ()  # which it may use again in backward
        members |= {name: vars(owner)[name] for name in own if name in vars(owner)}
        # What forward assigned is put back, whatever another thread has assigned since.
        members |= {name: value for one, name, value, _ in assigned if one is owner and name in members}
        another = issubclass(kind, (Function, *_SPACES)) and all(owner is not one for one in backward.own)
        sets = set() if another else backward.assigned
        for name, value in sorted(members.items(), key=operator.itemgetter(0)):
            ours = callable(getattr(Module, name, None)) and _Guarding in (type(kind), kind)
            if not ours and may_matter(value, name in also_named or name in own, name in sets):
                found.append((f"{label}.{name}", value))
    state: dict[str, Any] = {}
    count: dict[str, int] = defaultdict(int)
    for name, value in _parts(found):
        count[name] += 1
        state[name if count[name] == 1 else f"{name} ({count[name]})"] = _token(value)
    return state


class _Named:
    """What a method of a learner's module names, itself or in functions that it uses.

    Attributes:
        own: the module, and its classes that are not from this file.
        attributes, calls: the names of attributes that it reads, and of those that it calls.
        assigned: the names of attributes and variables that it sets.
        computes: whether it computes names of attributes, perhaps those of the module.
        written: names of what it only writes to, as to a log.
        variables: each variable with its place: its cell, or the variables of its file.
        objects: all that it may reach by these names, by id.
    """

    def __init__(self, module: Any, method: str, values: Iterable[Any] = ()):
        self.attributes, self.calls, self.assigned = {*module.parameter_names}, set[str](), set[str]()
        self.computes, self.forward, self.written = False, method == "forward", set[str]()
        self.variables, self.objects = dict[tuple[str, int], Any](), dict[int, Any]()
        self.own = [module, *filter(_has_names, type(module).__mro__)]
        waiting = [getattr(type(module), method), *self.own, *values]
        while waiting:
            for one in waiting:
                if id(one) not in self.objects:
                    self.objects[id(one)] = one
                    function = _own_function(one)
                    waiting += _inside(one).values() if function is None else self.read(function)
                    waiting += filter(_has_names, type(one).__mro__) if _has_names(type(one)) else []
                    waiting += (one.fget, one.fset) if type(one) is property else ()
                    if issubclass(type(one), Module):
                        inside = (*vars(one).values(), *vars(one).get("layers", ()))
                        waiting += [part for part in inside if issubclass(type(part), Module)]
            waiting = []
            for owner in filter(_has_names, self.objects.values()):
                members = self.members(owner)
                if issubclass(type(owner), type) and owner not in self.own:
                    # The backward of another module has a memory of its own.
                    members = {name: members[name] for name in members.keys() - {"forward", "backward"}}
                    members |= {name: value for name, value in vars(owner).items() if name == method == "forward"}
                waiting += [value for value in members.values() if id(value) not in self.objects]

    def members(self, owner: Any) -> dict[str, Any]:
        """Return the attributes of an object that are read, and the methods that Python calls by itself."""
        fields = _fields(owner)
        names = self.attributes & fields.keys()
        if issubclass(type(owner), type):  # what Python calls by itself, such as __getitem__
            functions = [name for name, one in fields.items() if type(one) is types.FunctionType]
            names |= {name for name in functions if name[:2] == "__" and name != "__init__"}
        if self.computes and any(owner is one for one in self.own):
            names |= {name for name in fields if name[:2] != "__" and name != "training"}
        # x.norm() says nothing about self.norm, unless a function is kept there.
        names |= {name for name in self.written & fields.keys() if self.reads(fields[name])}
        names |= {name for name in self.assigned & fields.keys() if type(fields[name]) is property}
        called = {name: fields[name] for name in self.calls & fields.keys()}
        names |= {name for name, one in called.items() if callable(one) or issubclass(type(one), _FUNCTIONS)}
        return {name: fields[name] for name in names}

    def reads(self, written: Any) -> bool:
        """Return whether what it only writes to counts as well: in forward, and unless it is a container."""
        return self.forward or not issubclass(type(written), (dict, *_CONTAINERS))

    def read(self, function: types.FunctionType) -> list[Any]:
        """Add what a function names; return the values of its variables."""
        space, code = function.__globals__, function.__code__
        variables, attributes, calls, assigned, written = _names(code)
        variables = variables | {name for name in written if self.reads(space.get(name))}
        self.attributes |= attributes
        self.written |= written
        self.calls |= calls
        self.assigned |= assigned
        known = [space.get(name, getattr(builtins, name, None)) for name in variables]
        if any(value is one for value in known for one in (globals, eval, exec)):
            variables = variables.union(*(re.findall(r"\w+", text) for text in attributes))
        self.computes |= not {"__dict__", "attrgetter"}.isdisjoint(attributes | calls)
        self.computes |= any(value is one for value in known for one in _COMPUTING)
        places: list[tuple[str, Any]] = [(name, space if name in space else sys.modules) for name in variables]
        places = [(name, place) for name, place in places if name in place]
        places += zip(code.co_freevars, function.__closure__ or ())
        defaults = [*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values()]
        places += [("a default argument", default) for default in defaults]
        self.variables |= {(name, id(place)): place for name, place in places}
        return [place[name] if type(place) is dict and name in place else place for name, place in places]


@functools.cache
def _names(code: types.CodeType) -> tuple[set[str], set[str], set[str], set[str], set[str]]:
    """Return the names in some code: global variables, attributes, those that it calls, all that it sets, and logs.

    Words in quotes may be names of attributes as well. A log is what is only written to: log.append(x), log["x"] = x.
    """
    variables, attributes, calls, assigned, written = (set[str]() for _ in range(5))
    steps = [step for step in dis.get_instructions(code) if step.opname != "EXTENDED_ARG"]
    for index, step in enumerate(steps):
        operation, name = step.opname, step.argval
        if operation in ("STORE_ATTR", "STORE_GLOBAL") or (operation == "STORE_DEREF" and name in code.co_freevars):
            assigned.add(name)
        first, second, third = (*steps[index + 1 : index + 4], step, step, step)[:3]
        method = third if second.opname == "BINARY_SUBSCR" else first
        writes = method.argval in _WRITING and (method.opname == "LOAD_METHOD" or "NULL" in method.argrepr)
        stores = second.opname in ("STORE_SUBSCR", "DUP_TOP_TWO") or (second.opname == "COPY" and second.arg == 2)
        writes |= stores and first.opname.startswith("LOAD_")
        if writes and operation in ("LOAD_GLOBAL", "LOAD_ATTR"):
            written.add(name)
        elif operation in ("LOAD_GLOBAL", "STORE_GLOBAL", "IMPORT_NAME"):
            variables.add(name)
        elif operation == "LOAD_METHOD" or (operation == "LOAD_ATTR" and "NULL" in step.argrepr):
            calls.add(name)
        elif operation in ("LOAD_ATTR", "LOAD_SUPER_ATTR", "IMPORT_FROM"):
            attributes.add(name)
    for one in code.co_consts:
        attributes |= {part for part in (one if isinstance(one, tuple) else [one]) if isinstance(part, str)}
        if isinstance(one, types.CodeType):
            for names, inner in zip((variables, attributes, calls, assigned, written), _names(one)):
                names |= inner
    return variables, attributes, calls, assigned, written


_WRITING = {"append", "appendleft", "extend", "insert", "add"}


def _own_function(one: Any) -> Any:
    """Return the function behind a method, property, partial or decorated function; None if it is a library's."""
    while issubclass(type(one), _FUNCTIONS):
        plain = type(one) is types.FunctionType and one.__globals__ is not globals()
        if plain and (_is_home(one.__globals__.get("__name__")) or not _LIBRARY(one.__code__.co_filename)):
            return one
        inside = [getattr(one, name) for name in ("__func__", "fget", "func", "__wrapped__") if hasattr(one, name)]
        one = inside[0] if inside else None
    return None


def _parts(named: Iterable[tuple[str, Any]]) -> list[tuple[str, Any]]:
    """Return some values and all that they hold, each with its name, such as "cache['x']"."""
    found, seen = [*named], set[int]()
    for name, value in found:
        if id(value) not in seen:
            seen.add(id(value))
            found += [(name + where, part) for where, part in _inside(value).items()]
    return found


def _token(value: Any) -> Any:
    """Return what tells whether a value has changed."""
    kind = type(value)
    if issubclass(kind, Tensor):
        return _Same(value), _with_version(value)[1]
    if issubclass(kind, (numbers.Number, str, bytes, bytearray, type(None))):
        return repr(value)
    if hasattr(kind, "tobytes"):  # an array, or a picture of Pillow's
        return value.tobytes()
    return kind if issubclass(kind, (dict, *_CONTAINERS)) else _Same(value)


class _Same:
    # Equal if it holds the same object, and no other object gets the id of one that is held.
    def __init__(self, one: Any):
        self.one = one

    def __eq__(self, other: Any) -> bool:
        return isinstance(other, _Same) and self.one is other.one


def _inside(value: Any) -> dict[str, Any]:
    """Return what an object holds, by where it is, "[0]" or ".name"."""
    kind = type(value)
    if issubclass(kind, (*_SPACES, str, bytes, Function, numbers.Number)):
        return {}
    if issubclass(kind, Tensor):
        ours = {"_diy_output", "_diy_of", "_calls", "frozen", "successor", "since"}
        return {f".{name}": part for name, part in vars(value).items() if name not in ours}
    if hasattr(kind, "tobytes") or kind.__module__ == "logging":  # a logger leads to all others
        return {}
    if kind is types.FunctionType and _own_function(value) is not value:
        return {}
    # The methods of a class of one's own are not called here, as they may do whatever they like, nor is isinstance.
    found: dict[str, Any] = {}
    if issubclass(kind, dict):
        keys = (key if isinstance(key, (str, int)) else type(key) for key in dict.keys(value))
        found = {f"[{key!r}]": part for key, part in zip(keys, dict.values(value))}
    for base in _CONTAINERS:
        if issubclass(kind, base):
            found = {f"[{index}]": part for index, part in enumerate(base.__iter__(value))}
    if kind in (dict, *_CONTAINERS):
        return found
    return found | {f".{name}": part for name, part in _fields(value).items()}


def _fields(value: Any) -> dict[str, Any]:
    """Return the attributes of an object by name; of a function, what it takes from around it."""
    kind = type(value)
    if issubclass(kind, _SPACES):
        return dict(vars(value))
    if kind is types.FunctionType:
        around = dict(zip(value.__code__.co_freevars, value.__closure__ or ()))
        return {**around, "defaults": value.__defaults__, **vars(value)}
    if kind is types.CellType:
        with contextlib.suppress(ValueError):  # it has no value yet
            return {"contents": value.cell_contents}
    # Before the first train() or eval(), `training` is an attribute of the class.
    found = {"training": value.training} if issubclass(kind, Module) else {}
    for base in kind.__mro__:
        own = _has_names(base) and not issubclass(kind, Function)
        slotted = "__slots__" in vars(base) or base in (types.MethodType, functools.partial)
        for name, member in vars(base).items() if own or slotted else ():
            if type(member) is types.MemberDescriptorType:  # a slot
                with contextlib.suppress(AttributeError):  # it has no value yet
                    found[name] = member.__get__(value)
            elif own and not (name[:2] == "__" or callable(member) or issubclass(type(member), numbers.Number)):
                found[name] = member  # but for numbers: one may be a count of all such objects, for example
    with contextlib.suppress(Exception):  # it has none, or a class of one's own does whatever it likes
        found |= vars(value)
    if issubclass(kind, Function):
        found.pop("_memory", None)  # it leads to the state of earlier runs, and so on
    return found


_SPACES: Any = (type, types.ModuleType)
_COMPUTING = getattr, vars, eval, exec, globals, operator.attrgetter
_CONTAINERS: Any = (list, tuple, set, frozenset, deque)
_FUNCTIONS: Any = (types.FunctionType, types.MethodType, functools.partial, functools.partialmethod)
_FUNCTIONS += (property, functools.cached_property, staticmethod, classmethod)
_LIBRARY = re.compile(rf"{re.escape(os.path.dirname(os.__file__))}|.*[/\\](site|dist)-packages[/\\]").match


def _has_names(one: Any) -> bool:
    """Return whether attributes of an object are read by name: modules, losses, and what a learner's file defines."""
    kind = type(one)
    if type(kind) is _Guarding:
        return True
    home = one.__name__ if kind is types.ModuleType else (one if issubclass(kind, type) else kind).__module__
    return _is_home(home) or _is_own_file(str(home))


def _is_home(name: Any) -> bool:
    # A file or a package that defines modules or losses is a learner's, wherever it lies and whatever its name.
    return str(name).partition(".")[0] in _homes


_homes = set[str]()


@functools.cache
def _is_own_file(name: str) -> bool:
    if name == __name__ or (name.partition(".")[0] in sys.stdlib_module_names and name != "__main__"):
        return False
    file = getattr(sys.modules.get(name), "__file__", None)
    return file is None or not _LIBRARY(file)


def _accumulate(parameter: Any, gradient: Any) -> None:
    # Module.accumulate for a learner's module: what it adds is checked first.
    module: Any = _thread.run.module if _thread.run is not None else None
    known = module is None or any(getattr(module, name) is parameter for name in module.parameter_names)
    if not known and all(own is not parameter for own in module.parameters()):
        raise RuntimeError(
            f"{type(module).__name__} adds to the gradient of a tensor that is not among its parameters: add its name "
            f"to parameter_names, now {module.parameter_names}, and keep the same tensor from forward to backward"
        )
    if not isinstance(gradient, Tensor) or gradient.dtype != parameter.dtype:
        raise TypeError(f"the gradient of a parameter must be a tensor of {parameter.dtype}, got {_kind(gradient)}")
    if gradient.shape != parameter.shape:
        raise ValueError(f"the gradient of a parameter must have its shape, {_shapes(gradient, parameter.shape)}")
    # A first gradient would be kept as it is, and the learner may go on to change it: keep a copy.
    Module.accumulate(parameter, gradient if parameter.grad is not None else gradient.clone())


for _one in [*globals().values()]:
    if type(_one) is ABCMeta and issubclass(_one, Function):
        _class: Any = _one
        _class.__class__ = _Guarding
        if _class is not Function and not inspect.isabstract(_class):
            _class._trusted, _forward, _backward = True, _class.forward, _class.backward
            _class.forward, _class.backward = _guarded_forward(_forward), _guarded_backward(_backward)
            if issubclass(_class, Module) and _class.__name__ != "Sequential":
                _class.forward, _class.backward = _alone(_forward, _class.forward), _alone(_backward, _class.backward)

# Module and Function get their other methods here, so that part I shows only those that learn.
for _owner, _methods in (Module, _Housekeeping), (Function, _Remembering):
    for _name in vars(_methods).keys() - {"__module__", "__dict__", "__weakref__", "__doc__", "__annotations__"}:
        setattr(_owner, _name, vars(_methods)[_name])


# Refusals


def _refuse_backward(self: Any, outer: _Run | None) -> NoReturn:
    name = type(self).__name__
    if isinstance(self, Loss):
        raise RuntimeError(f"no forward is waiting for {name}.backward: call criterion(prediction, target) first")
    if outer is not None:
        above = type(outer.module).__name__
        raise RuntimeError(
            f"{above}.backward calls {name}.backward more often than {above}.forward called {name} (calls under "
            "torch.no_grad() do not count)"
        )
    raise RuntimeError(
        f"no forward is waiting for {name}.backward: call the module on an input first (each forward allows one "
        "backward, by the same module, not by its layers, in the same thread; a forward under torch.no_grad() "
        "allows none outside it, and under torch.inference_mode() nothing is kept)"
    )


def _refuse_inputs(self: Any, count: int) -> NoReturn:
    name = type(self).__name__
    raise TypeError(f"{name} takes one input, got {count}: a diy module has one input and one output")


def _refuse_changed(run: _Run) -> None:
    kept = [(index, owner, value) for index, (owner, values, _) in enumerate(run.entries) for value in values]
    index, owner, value = [one for one, now, then in zip(kept, _versions(run.entries), run.versions) if now != then][-1]
    what = f"tensor of shape {tuple(value.shape)}" if isinstance(value, Tensor) else _kind(value)
    error = RuntimeError(
        f"a {what} that {type(owner).__name__}.backward needs was changed in place after "
        "forward: change a copy (tensor.clone()), or call forward again"
    )
    placed = isinstance(run.module, Sequential) and run.module.layers[index : index + 1] == [owner]
    raise _at(error, run.module, index) if placed else error


def _refuse_gradient(run: _Run, G: Any) -> NoReturn:
    (shape, dtype), must = run.output, f"the gradient given to {type(run.module).__name__}.backward must"
    if not isinstance(G, Tensor) or G.dtype != dtype:
        hint = ": call it, criterion.backward()" if callable(G) else ""
        raise TypeError(f"{must} be a tensor of {dtype}, got {_kind(G)}{hint}")
    hint = ""
    if hasattr(G, "_diy_of"):
        hint = (
            ": the loss was given another shape than the network's output (reshape the target instead), or the network "
            "was called again since (do that under torch.no_grad())"
        )
    elif G.dim() == 0:
        hint = ": pass what criterion.backward() returns, not the loss"
    raise ValueError(f"{must} have the shape of the output, {tuple(shape)}, got {tuple(G.shape)}{hint}")


def _refuse_recall(run: _Run, module: Any) -> NoReturn:
    if run.trusted:
        name = type(run.module).__name__
        raise RuntimeError(f"the layers of this {name} were changed after forward: call forward again")
    if run.module is not module:
        _refuse_backward(module, run)
    name = type(module).__name__
    raise RuntimeError(
        f"{name}.forward remembered nothing, or less than {name}.backward recalls: call "
        "self.remember(output, ...) in forward, with everything that backward needs"
    )


def _check_result(run: _Run, result: Any) -> None:
    self, name = run.module, type(run.module).__name__
    (shape, dtype), what = run.input, "prediction" if isinstance(self, Loss) else "input"
    # Nothing goes back to the input if the first layer, inside the module, needs none.
    spared = result is None and isinstance(self, Module) and not all(part.needs_input_grad for part in self.modules())
    if not isinstance(result, Tensor) and not spared:
        _refuse_result(self, "backward", result, f"the gradient of the {what}")
    if result is not None and result.shape != shape:
        raise ValueError(f"{name}.backward must return a gradient of the {what}'s shape, {_shapes(result, shape)}")
    if result is not None and result.dtype != dtype:
        raise TypeError(f"{name}.backward must return a gradient of the {what}'s dtype, {dtype}, got {result.dtype}")
    if left := [type(owner).__name__ for owner, _, _ in run.entries if owner is not self]:
        raise RuntimeError(
            f"{name}.forward called {left[-1]}, but {name}.backward did not call {left[-1]}.backward as often: the "
            "gradient must go back through every module that forward called (call it under torch.no_grad() to leave "
            "it out)"
        )


def _shapes(got: Tensor, wanted: torch.Size) -> str:
    hint = ""
    if got.dim() == 2 and got.mT.shape == wanted:
        hint = ": it is transposed"
    elif got.shape[1:] == wanted:
        hint = ": is the sum over the samples missing?"
    return f"{tuple(wanted)}, got {tuple(got.shape)}{hint}"


def _refuse_result(self: Any, method: str, result: Any, what: str) -> NoReturn:
    name = f"{type(self).__name__}.{method}"
    hint = f"is its `return` missing? It must return {what}" if result is None else f"it must return {what}, a tensor"
    raise TypeError(f"{name} returned {_kind(result)}: {hint}")


def _placed(error: Exception, run: _Run | None) -> Exception:
    """Return the error with the place of the layer that raised it, "layer 1.2, Linear(...): what was wrong"."""
    simple = len(error.args) == 1 and isinstance(error.args[0], str) and not isinstance(error, (KeyError, OSError))
    if run is None or not isinstance(run.module, Sequential) or not simple:
        return error
    network = run.module
    frames = [frame.f_locals for frame, _ in traceback.walk_tb(error.__traceback__)]
    loops = [values for values in frames if values.get("self") is network and isinstance(values.get("layer"), Module)]
    if not loops or loops[0]["layer"] not in network.layers:
        return error
    values, layer = loops[0], loops[0]["layer"]
    if hasattr(error, "_diy_place"):
        pass
    elif values.get("G", ...) is None:
        error = TypeError("there is no gradient from above: needs_input_grad = False is for a first layer only")
    elif "X" in values and layer._trusted:
        try:  # for speed, a layer of this file checks its input in a Sequential only after it has failed
            layer._check(values["X"])
        except Exception as better:
            error = better
    # There is an entry for each layer before this one: in forward they have run, in backward they are left to run.
    here = len(run.entries)
    return _at(error, network, here if network.layers[here : here + 1] == [layer] else network.layers.index(layer))


def _at(error: Exception, network: Any, index: int) -> Exception:
    name, layer = network.names[index], network.layers[index]
    inside, message = getattr(error, "_diy_place", ("", f"{layer!r}: {error}"))
    place = f"{name}.{inside}" if inside else name
    error._diy_place, error.args = (place, message), (f"layer {place}, {message}",)  # type: ignore[attr-defined]
    return error


def _check_images(X: Tensor, channels: int | None, like: Tensor | None) -> None:
    fits = isinstance(X, Tensor) and X.dim() == 4 and channels in (None, X.shape[1])
    if not fits or not X.is_floating_point() or (like is not None and X.dtype != like.dtype):
        _refuse_input(X, like, f"(N, {channels or 'C'}, H, W)", fits)


def _refuse_input(X: Any, weight: Tensor | None, shape: str, fits: bool) -> None:
    _check_floating("input", X)
    if not fits:
        hint = ": make a single image a batch with image[None]" if X.dim() == 3 and "H, W" in shape else ""
        raise ValueError(f"expected an input of shape {shape}, got {tuple(X.shape)}{hint}")
    if weight is not None:
        raise TypeError(f"the input is {X.dtype}, the weights are {weight.dtype}: convert one with .to()")


def _check_floating(name: str, tensor: Any) -> None:
    if not isinstance(tensor, Tensor) or not tensor.is_floating_point():
        hint = "convert it with .float()" if isinstance(tensor, Tensor) else "make one with torch.tensor"
        hint = "complex numbers are not supported" if isinstance(tensor, Tensor) and tensor.is_complex() else hint
        raise TypeError(f"the {name} must be a floating-point tensor, got {_kind(tensor)}: {hint}")


def _floating(dtype: torch.dtype | None) -> torch.dtype | None:
    if dtype is not None and not (isinstance(dtype, torch.dtype) and dtype.is_floating_point):
        raise TypeError(f"parameters need a floating-point dtype, such as torch.float64, got {dtype}")
    return dtype


def _kind(value: object) -> object:
    if isinstance(value, type):
        return f"the class {value.__name__}"
    return value.dtype if isinstance(value, Tensor) else type(value).__name__


def _only_default(owner: Any, **arguments: tuple[Any, ...]) -> None:
    """Refuse PyTorch's arguments at other values than the supported ones, and any change of them later on.

    Each argument comes as (value, supported value, ...).
    """
    name = owner if isinstance(owner, str) else type(owner).__name__
    for argument, (value, *supported) in arguments.items():
        value = bool(value) if type(value).__name__ in ("bool", "bool_") else value  # NumPy has its own
        simple = value is None or isinstance(value, (bool, str, tuple, list, numbers.Number))
        if not simple or all(value is not one and value != one for one in supported):
            got = repr(value) if simple else "a tensor" if isinstance(value, Tensor) else f"a {_kind(value)}"
            instead = isinstance(value, Tensor) and (argument, value.dim()) != ("weight", 1)
            hint = f"; write {name}()(tensor) to create it first" if instead else ""
            values = " or ".join(map(repr, supported))
            raise ValueError(f"{name} supports PyTorch's argument {argument} only as {values}, got {got}{hint}")
    if isinstance(owner, Function) and type(owner).__module__ == __name__:
        vars(owner)["_fixed"] = owner._fixed | arguments.keys() - {*getattr(owner, "parameter_names", ())}


def _check_arguments(cls: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    name = cls.__name__
    if cls.__init__ is object.__init__ and (args or kwargs):
        own = "" if cls.__module__ == __name__ else ", or define __init__ to take them"
        raise TypeError(f"{name} takes no arguments: make it by {name}(), then call it on an input{own}")
    _bound(cls.__init__, (None, *args), kwargs, name)  # Python itself names missing ones; a copy is made with none


def _bound(function: Any, args: tuple[Any, ...], named: dict[str, Any], name: str = "") -> Any:
    """Return the arguments after the first as Python would pass them: by position, and the rest by name."""
    signature = inspect.signature(function)
    try:
        bound = signature.bind_partial(*args, **named) if name else signature.bind(*args, **named)
    except TypeError as error:
        name = name or f"{type(args[0]).__name__}.{function.__name__}"
        raise TypeError(f"{name}: {error}; it takes {', '.join([*signature.parameters][1:])}") from None
    return bound.args[1:], bound.kwargs


def _check_reduction(value: Any) -> str:
    if value not in ("mean", "sum"):
        raise ValueError(f'reduction must be "mean" or "sum", got {value!r}: the loss is one number')
    return str(value)


def _check_integers(**values: Any) -> None:
    for name, value in values.items():
        if isinstance(value, bool) or not isinstance(value, numbers.Integral) or value < 1:
            raise ValueError(f"{name} must be an integer ≥ 1, got {value!r}")


def _check_number(name: str, value: Any, least: float = -math.inf, most: float = math.inf) -> Any:
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise TypeError(f"{name} must be a number, got {value!r} ({type(value).__name__})")
    if not (math.isfinite(value) and least <= float(value) <= most):
        wanted = f"in [{least}, {most}]" if most < math.inf else f"≥ {least}" if least > -math.inf else ""
        raise ValueError(f"{name} must be a finite number {wanted}".rstrip() + f", got {value}")
    return value if isinstance(value, (int, float)) else float(value)


def _pair(name: str, value: Any, least: int = 1) -> tuple[int, int]:
    pair = tuple(value) if isinstance(value, (tuple, list)) else (value, value)
    if len(pair) != 2 or any(isinstance(p, bool) or not isinstance(p, numbers.Integral) or p < least for p in pair):
        raise ValueError(f"{name} must be an integer ≥ {least} or a pair of them, got {value!r}")
    return int(pair[0]), int(pair[1])


def _rows(G: Tensor, X: Tensor) -> tuple[Tensor, Tensor]:
    return (G, X) if G.dim() == 2 else (G.reshape(-1, G.shape[-1]), X.reshape(-1, X.shape[-1]))


def _add_product(target: Tensor, A: Tensor, B: Tensor) -> None:
    # target, of more than two dimensions, += A @ B
    flat = target.flatten(1)  # a view of it, or a copy
    flat.addmm_(A, B)
    if flat.data_ptr() != target.data_ptr():
        target.copy_(flat.view(target.shape))


def _where(X: Tensor, G: Tensor) -> Tensor:
    # G where X > 0, and 0 where X = 0, even if G is infinite there. A product is up to ten times as fast as a choice,
    # and equal to it unless X or the product holds a NaN.
    product = X.sign().mul_(G)
    return product if _is_finite(X) and _is_finite(product) else torch.where(X.bool(), G, 0)


def _is_finite(tensor: Tensor) -> bool:
    # If there is an infinity or a NaN, the sum is one as well. Looking at that of another device would have to wait.
    return tensor.is_cpu and math.isfinite(tensor.sum().item())


def _wide(tensor: Tensor) -> Tensor:
    # In half precision, a variance can overflow where its square root would not.
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


# Parameters, wherever they are


def _named_tensors(module: Any, *kinds: str, prefix: str = "") -> Iterator[tuple[str, Tensor]]:
    owner = type(module).__name__
    for kind in kinds:
        names = getattr(module, kind)
        if isinstance(names, str):
            raise TypeError(f'{owner}.{kind} is the string "{names}": write a tuple, with a comma, ("{names}",)')
        for name in names:
            tensor = getattr(module, name, NotImplemented)
            if isinstance(tensor, Tensor) and tensor is not getattr(type(module), name, None):
                _frozen(tensor)  # rids it of a graph
                yield prefix + name, tensor
            elif tensor is not None:
                missing = tensor is NotImplemented or isinstance(tensor, Tensor)
                got = "not set in __init__" if missing else f"a {_kind(tensor)}"
                raise TypeError(f"{owner}.{name}, named in {kind}, is {got}: each name must be that of a tensor")
    for name, child in module.named_children():
        yield from _named_tensors(child, *kinds, prefix=f"{prefix}{name}.")


def _check_biases(run: _Run) -> None:
    # Backward finds its weight among what was remembered, but the bias in its layer.
    for owner, _, inside in run.entries:
        if inside is not None:
            _check_biases(inside)
        elif getattr(vars(owner).get("bias"), "since", 0) > run.since:
            raise RuntimeError(
                f"the bias of a {type(owner).__name__} was replaced between forward and backward, and the new one "
                "would get the gradient of the old: call forward again, or change the old one in place, "
                "layer.bias.copy_(values)"
            )


def _check_trained(module: Any) -> None:
    # A learner's module that has gone back inside a network, which only trains what `parameter_names` names.
    kind, named = type(module), [tensor for _, tensor in _named_tensors(module, "parameter_names")]
    own = [v for v in vars(module).values() if type(v) is Tensor and v.is_leaf and v.grad is not None]
    if kind.parameters is not Module.parameters:
        own += module.parameters()
    if kind.param is not Module.param:
        own += [parameter for parameter, *_ in module.param()]
    if any(all(tensor is not one for one in named) for tensor in own):
        raise RuntimeError(
            f"{kind.__name__} has a parameter that is not in parameter_names, so that its network would never train "
            f"it: add its name, now {module.parameter_names}, and let backward call self.accumulate"
        )
    trains = not {"accumulate", "grad"}.isdisjoint(_Named(module, "backward").attributes)
    for name in module.parameter_names:
        tensor = getattr(module, name)
        if tensor is not None and tensor.grad is None and not _frozen(tensor) and not trains:
            raise RuntimeError(
                f"{kind.__name__}.backward gives {name}, a parameter, no gradient: call "
                f"self.accumulate(self.{name}, gradient), or take {name} out of parameter_names"
            )


def _check_inner(run: _Run) -> None:
    inner = [owner for owner, _, inside in run.entries if inside is not None]
    if inner and isinstance(run.module, Module):
        own, name = [*run.module.modules()], type(run.module).__name__
        for module in inner:
            if all(module is not one for one in own) and isinstance(module, Module) and [*module.parameters()]:
                kind = type(module).__name__
                raise RuntimeError(
                    f"{name}.forward calls a {kind} that is not among the modules of {name}, and so would never be "
                    "trained: keep it as an attribute, set in __init__"
                )


def _holds_modules(value: Any, depth: int = 3) -> bool:
    inside = value.values() if isinstance(value, dict) else value if isinstance(value, (list, tuple, set)) else ()
    if any(type(type(one)) is _Guarding and isinstance(one, Module) for one in inside):
        return True
    return depth > 1 and any(_holds_modules(one, depth - 1) for one in inside)


def _refuse_hidden_modules(module: Module, name: str, value: Any) -> None:
    if _holds_modules(value):
        raise TypeError(
            f"{type(module).__name__}.{name} holds modules in a {type(value).__name__}, where their parameters would "
            "never be trained: keep each as an attribute, or all in a Sequential"
        )
    if hasattr(type(value), "named_parameters"):
        raise TypeError(
            f"{type(module).__name__}.{name} is a module of PyTorch, which would never be trained: use diy's own"
        )
    known = any(vars(module).get(own) is value for own in module.parameter_names)
    if type(value).__name__ == "Parameter" and not known:
        raise TypeError(f'{type(module).__name__}.{name} would never be trained: add "{name}" to parameter_names')


def _alike(one: Module, other: Module) -> bool:
    """Return whether two networks agree in everything but the values of their parameters and buffers."""

    def description(network: Module) -> list[Any]:
        tensors = list(_named_tensors(network, "parameter_names", "buffer_names"))
        first = {id(tensor): index for index, (_, tensor) in reversed([*enumerate(tensors)])}
        described = [(name, t.shape, t.dtype, t.device, first[id(t)], _frozen(t)) for name, t in tensors]
        modules = [(name, type(one), one.training, attributes(one)) for name, one in network.named_modules()]
        return [described, repr(network), modules]

    def attributes(module: Module) -> dict[str, Any]:
        left_out = {"layers", "_memory", *module.parameter_names, *module.buffer_names}
        left_out |= _Named(module, "forward").assigned  # what the last forward left there
        return {n: plain(v) for n, v in vars(module).items() if n not in left_out and not isinstance(v, Module)}

    def plain(value: Any) -> Any:
        if isinstance(value, (list, tuple)):
            return [plain(part) for part in value]
        if isinstance(value, dict):
            return {name: plain(part) for name, part in value.items()}
        # Tensors and NumPy's arrays are compared number by number.
        return (value.shape, value.dtype, value.tolist()) if hasattr(value, "tolist") else value

    return description(one) == description(other)


def _frozen(tensor: Any) -> bool:
    if type(tensor) is Parameter:
        if not tensor.is_leaf:
            with _Autograd():
                tensor.detach_()  # values copied from PyTorch's parameters have brought their graph
        return tensor.frozen
    # Whether a parameter of PyTorch's own kind is trained, PyTorch decides.
    return getattr(tensor, "frozen", type(tensor) is not Tensor and not tensor.requires_grad)


def _check_state_dict(state_dict: Any) -> None:
    if not isinstance(state_dict, Mapping):
        raise TypeError(
            f"a state dict is a dictionary, got {_kind(state_dict)}: torch.load(path) reads one from a file"
        )


def _converted(networks: list[Module], convert: Callable[[list[Tensor]], Tensor], stack_size: int | None) -> Module:
    """Return a copy of the first network, each of its tensors made anew from those of all networks in its place."""
    twin = copy.deepcopy(networks[0])
    made: dict[int, Tensor] = {}
    for module, *parts in zip(twin.modules(), *(network.modules() for network in networks)):
        for name in (*module.parameter_names, *module.buffer_names):
            if (old := getattr(parts[0], name)) is not None:
                # A tensor in two places stays one.
                tensor = made.setdefault(id(old), convert([getattr(part, name).detach() for part in parts]))
                setattr(module, name, tensor)
                tensor.frozen = _frozen(old)  # type: ignore[attr-defined]
        module.stack_size = stack_size
        if type(module) in (Linear, _StackedLinear):
            module.__class__ = _StackedLinear if stack_size else Linear
    return twin


# Settings and states of optimizers


def _check_parameters(params: Any) -> list[Tensor]:
    if isinstance(params, (Tensor, Module)) or not isinstance(params, Iterable):
        raise TypeError(f"params must be an iterable of tensors, got {type(params).__name__}: pass module.parameters()")
    parameters = list(params)
    if not parameters:
        hint = "pass module.parameters() (as there is no automatic differentiation, requires_grad always reads False)"
        raise ValueError(f"the optimizer got no parameters: {hint}")
    if strange := [_kind(value) for value in parameters if not isinstance(value, Tensor)]:
        raise TypeError(f"parameters must be tensors, with no groups, got {strange[0]}")
    if strange := [value.dtype for value in parameters if not value.is_floating_point()]:
        raise TypeError(f"parameters must be floating-point tensors, got {strange[0]}")
    if not all(value.is_leaf for value in parameters):
        raise ValueError("a parameter was computed from tensors that require gradients: pass those, or detach it")
    if len({id(parameter) for parameter in parameters}) < len(parameters):
        raise ValueError("a parameter appears twice in the list: pass each one once")
    places = [parameter.data_ptr() for parameter in parameters if parameter.numel() and not parameter.is_meta]
    if len({*places}) < len(places):
        raise ValueError(
            "two parameters share their memory, so that each would change the other: use one tensor in both places"
        )
    return parameters


def _check_steps(optimizer: Optimizer, parameters: list[Tensor], gradients: list[Tensor], steps: list[Any]) -> None:
    if not steps:
        # Only a warning, as PyTorch's steps do nothing then, and some call them for the sake of a schedule.
        warnings.warn(
            "no parameter has a gradient, so that this step changes nothing: call model.backward(criterion.backward()) "
            "between zero_grad and step",
            stacklevel=3,
        )
    for w, g, d in zip(parameters, gradients, steps):
        if d is not g and (not isinstance(d, Tensor) or d.shape != w.shape):
            got = f"a tensor of shape {tuple(d.shape)}" if isinstance(d, Tensor) else _kind(d)
            raise ValueError(
                f"{type(optimizer).__name__}.direction must return a tensor of its parameter's shape, "
                f"{tuple(w.shape)}, got {got}: is its `return` missing, or is there a sum too many?"
            )
    if optimizer._assigned != Parameter.assigned:
        every = optimizer.param_groups[0]["params"]
        for w in every:
            new = getattr(w, "successor", None)
            if new is not None and all(new is not other for other in every):
                raise RuntimeError(
                    "a parameter of this optimizer has been replaced in its module by another tensor, which would "
                    "never be trained: copy the new values into it, layer.weight.copy_(values), or make a new optimizer"
                )
        optimizer._assigned = Parameter.assigned


def _check_setting(optimizer: Optimizer, name: str, value: Any) -> Any:
    if not hasattr(optimizer, "param_groups"):
        own = type(optimizer).__name__
        raise RuntimeError(f"{own}.__init__ has to call super().__init__(params, lr) before it sets {name}")
    parameters = optimizer.param_groups[0]["params"]
    if name == "nesterov":
        return bool(value)
    if name == "betas":
        betas = tuple(value) if isinstance(value, (tuple, list)) else ()
        if len(betas) != 2 or not all(0 <= _check_number("every beta", beta) < 1 for beta in betas):
            raise ValueError(f"betas must be two numbers in [0, 1), got {value}")
        return betas
    if name == "lr" and isinstance(value, Tensor):
        if value.dim() != 1 or any(parameter.shape[:1] != value.shape for parameter in parameters):
            got = tuple(value.shape)
            raise ValueError(f"a tensor of learning rates must have shape (R,), for a stack of R networks, got {got}")
        for rate in value.tolist():
            _check_number("every learning rate", rate, least=0)
        return value.detach().clone()
    words = "the learning rate" if name == "lr" else name
    value = _check_number(words, value, least=-math.inf if name == "dampening" else 0)
    most = min(torch.finfo(parameter.dtype).max for parameter in parameters)
    if abs(value) > most:
        raise ValueError(
            f"{words} must be at most {most:.3g}, the largest number of the parameters' dtype, got {value}"
        )
    return value


def _check_settings(optimizer: Optimizer) -> None:
    # A schedule or the user may have changed what is in param_groups.
    if len(optimizer.param_groups) != 1:
        name, got = type(optimizer).__name__, len(optimizer.param_groups)
        raise ValueError(f"{name} has one group of parameters, got {got} in param_groups: make an optimizer for each")
    group, checked = optimizer.param_groups[0], optimizer._checked
    for name, value in group.items():
        if value is not checked.get(name, ...):
            if isinstance(inspect.getattr_static(optimizer, name, None), _Setting):
                _check_setting(optimizer, name, value)
            elif value is True and type(optimizer).__module__ == Optimizer.__module__:
                raise ValueError(
                    f"{type(optimizer).__name__} does not support {name}={value}, which is in param_groups"
                )
    optimizer._checked = dict(group)


def _optimizer_state(optimizer: Optimizer) -> dict[str, Any]:
    group = optimizer.param_groups[0]
    kept = [optimizer.state.get(parameter) for parameter in group["params"]]
    # A copy, because the next step changes it in place.
    state = {index: copy.deepcopy(values) for index, values in enumerate(kept) if values}
    return {"state": state, "param_groups": [{**group, "params": [*range(len(kept))]}]}


def _load_optimizer_state(optimizer: Optimizer, state_dict: Mapping[str, Any]) -> None:
    own, name = optimizer.param_groups[0], type(optimizer).__name__
    _check_state_dict(state_dict)
    states: Any = copy.deepcopy(state_dict.get("state"))
    groups: Any = copy.deepcopy(state_dict.get("param_groups"))
    listed = isinstance(groups, list) and all(isinstance(g, dict) and isinstance(g.get("params"), list) for g in groups)
    if not isinstance(states, dict) or not listed:
        raise KeyError("this is not the state of an optimizer: expected state and param_groups, with params")
    if len(groups) != 1:
        raise ValueError(f"{name} has one group of parameters, the state has {len(groups)}")
    group, parameters = groups[0], own["params"]
    indices = group.pop("params")
    if len(indices) != len(parameters):
        raise ValueError(f"{name} has {len(parameters)} parameters, the state has {len(indices)}")
    if missing := own.keys() - group.keys() - {"params", "initial_lr"}:
        raise KeyError(f"this is not the state of {name}: missing {sorted(missing)}")
    for setting in group.keys() - {"initial_lr"}:
        if setting in own:
            group[setting] = _check_setting(optimizer, setting, group[setting])
        elif (value := group.pop(setting)) not in (None, False):
            raise ValueError(f"{name} does not support {setting}={value}, which the state has")
    needed = {"step", "exp_avg", "exp_avg_sq"} if "betas" in own else set()
    for index, values in states.items():
        if index not in indices or not isinstance(values, dict) or needed - values.keys():
            raise KeyError(
                f"this is not the state of {name}: its entry {index!r} is not that of one of the parameters {indices}"
                + (f", with {sorted(needed)}" if needed else "")
            )
        for key, value in values.items():
            parameter, what = parameters[indices.index(index)], f"{key} of parameter {index}"
            if key == "step" and needed:
                values[key] = int(_check_number(what, value.item() if isinstance(value, Tensor) else value, least=0))
            elif isinstance(value, Tensor) and value.shape == parameter.shape and value.is_floating_point():
                values[key] = value.detach().to(parameter)
            elif key in needed or (key == "momentum_buffer" and value is not None):
                got = f"{tuple(value.shape)} of {value.dtype}" if isinstance(value, Tensor) else _kind(value)
                raise ValueError(
                    f"{what} must have floats of the parameter's shape, {tuple(parameter.shape)}, got {got}"
                )
    own.update(group)
    loaded = {parameters[indices.index(index)]: values for index, values in states.items() if values}
    optimizer.state = defaultdict(dict, loaded)
