"""A small deep-learning framework: modules, losses and optimizers with hand-written backward passes.

Every gradient in this file is written out by hand on PyTorch tensors; nothing here uses automatic differentiation.
The interface is PyTorch's own, so that what is learned here can be used there. One training step reads

    loss = criterion(model(x), y)
    optimizer.zero_grad()
    model.backward(criterion.backward())
    optimizer.step()

Notation, as in the lecture and with rows as samples: a layer turns X, of shape (N, in), into S = X Wᵀ + b, and an
activation σ turns S into σ(S). ℓ is the loss, and G stands for the gradient that arrives from above, ∂ℓ/∂(output).
Formulas carry numbers, (F2), (F3) and so on; the same number marks the derivation in the notebooks and the test.

The handouts cited are those of EE-559, EPFL, 2019 (https://fleuret.org/ee559/): 3-6 back-propagation, 4-3 modules and
batch processing, 4-4 convolutions, 4-5 pooling, 5-1 cross-entropy, 5-2 stochastic gradient descent, 5-5 initialization,
6-3 dropout, 6-4 batch normalization.
"""

import copy
import itertools
import math
import numbers
from abc import ABC, abstractmethod
from collections.abc import Iterable

import torch
from torch import Tensor

__all__ = ["Module", "Sequential", "Linear", "Conv2d", "MaxPool2d", "BatchNorm2d", "Flatten", "Dropout"]
__all__ += ["ReLU", "Tanh", "Sigmoid", "Loss", "MSELoss", "LossMSE", "CrossEntropyLoss"]
__all__ += ["Optimizer", "SGD", "Adam", "CosineAnnealingLR", "kaiming_normal_", "stack", "unstack"]

# One integer for both directions of an image, or two: (vertical, horizontal).
Pair = int | tuple[int, int]


class Module(ABC):
    """A function that can be differentiated: `forward` computes it, `backward` applies the chain rule to it.

    To write a module, define `forward` and `backward`, name its parameters in `parameter_names`, and use
    `remember` in forward, `recall` and `accumulate` in backward. Modules kept as attributes are found by themselves,
    those in a list are not: keep a Sequential of them.

    Attributes:
        parameter_names: the attributes that are learned: plain tensors (or None), each with its gradient in its own
            `.grad`.
        buffer_names: the attributes that belong to the state but are not learned.
        training: whether the module is in training mode, as at first, or in evaluation mode.
        needs_input_grad: set to False in a first layer, Linear or Conv2d, it spares the work for ∂ℓ/∂(input), as
            PyTorch does, and backward returns None.
        networks, generators: in a network made by `stack`, R and what Dropout draws from; otherwise None.
    """

    parameter_names: tuple[str, ...] = ()
    buffer_names: tuple[str, ...] = ()
    training = True
    needs_input_grad = True
    networks: int | None = None
    generators: list[torch.Generator] | None = None
    _memory: tuple | None = None

    @abstractmethod
    def forward(self, input: Tensor) -> Tensor:
        """Return the output for `input` and remember what backward will need.

        Called as `module(input)`, which checks the input first.
        """

    @abstractmethod
    def backward(self, gradient: Tensor) -> Tensor:
        """Take ∂ℓ/∂(output), add ∂ℓ/∂(parameter) to each parameter's `.grad`, return ∂ℓ/∂(input).

        It belongs to the last forward and uses it up, as in PyTorch: one forward, then at most one backward.

        Raises:
            RuntimeError: there is no forward to go back through, or what it remembered was changed in place since.
            TypeError, ValueError: `gradient` has another dtype or shape than the output.
        """

    def __call__(self, input: Tensor) -> Tensor:
        """Check that `input` is a tensor of floating-point numbers and return `forward(input)`.

        Raises:
            TypeError: `input` is not a tensor, or holds integers, booleans or complex numbers.
        """
        _check_floating("input", input)
        return self.forward(input.detach())

    # What forward leaves for backward

    def remember(self, output: Tensor, *tensors: Tensor) -> None:
        """Keep `tensors` for the next backward, whose gradient must look like `output`.

        Under `torch.inference_mode()` nothing is kept: there, no backward follows.
        """
        keep = not torch.is_inference_mode_enabled()
        self._memory = (output.shape, output.dtype, tensors, _versions(tensors)) if keep else None

    def recall(self, gradient: Tensor) -> tuple[Tensor, ...]:
        """Check `gradient` against the last output; return it and what `remember` kept, and forget the latter.

        Raises:
            RuntimeError: nothing is remembered, or a remembered tensor was changed in place since.
            TypeError, ValueError: the gradient is no tensor of the output's dtype, or has another shape.
        """
        if self._memory is None:
            raise RuntimeError(
                f"{type(self).__name__}.backward was called before forward: call the module on an input first "
                "(each backward uses up one forward, and under torch.inference_mode() nothing is kept)"
            )
        shape, dtype, tensors, versions = self._memory
        matches = isinstance(gradient, Tensor) and gradient.dtype == dtype
        if not matches or gradient.shape != shape:
            must = f"the gradient given to {type(self).__name__}.backward must"
            if not matches:
                raise TypeError(f"{must} be a tensor of {dtype}, got {_kind(gradient)}")
            raise ValueError(f"{must} have the shape of the output, {tuple(shape)}, got {tuple(gradient.shape)}")
        if _versions(tensors) != versions:
            changed = next(t for t, now, then in zip(tensors, _versions(tensors), versions) if now != then)
            what = f"a tensor of shape {tuple(changed.shape)} that {type(self).__name__}.backward needs"
            hint = "change a copy (tensor.clone()), or call forward again"
            raise RuntimeError(f"{what} was changed in place after forward: {hint}")
        self._memory = None
        return gradient.detach(), *tensors

    @staticmethod
    def accumulate(parameter: Tensor, gradient: Tensor) -> None:
        """(F1) parameter.grad ← parameter.grad + gradient, where a `.grad` of None counts as zero.

        A parameter that is used several times influences the loss along several paths, and the chain rule adds the
        contributions of all paths. Handout 4-3.
        """
        # Not in place: `gradient`, or the sum so far, may be in use elsewhere.
        parameter.grad = gradient if parameter.grad is None else parameter.grad + gradient

    # Parameters and state

    def named_children(self) -> Iterable[tuple[str, "Module"]]:
        """Yield (name, module) for the modules directly inside this one."""
        return ((name, value) for name, value in vars(self).items() if isinstance(value, Module))

    def modules(self) -> Iterable["Module"]:
        """Yield this module and all modules inside it."""
        yield self
        for _, child in self.named_children():
            yield from child.modules()

    def _named_tensors(self, *kinds: str, prefix: str = "") -> Iterable[tuple[str, Tensor]]:
        for name in itertools.chain(*(getattr(self, kind) for kind in kinds)):
            if (tensor := getattr(self, name)) is not None:
                yield prefix + name, tensor
        for name, child in self.named_children():
            yield from child._named_tensors(*kinds, prefix=f"{prefix}{name}.")

    def named_parameters(self) -> Iterable[tuple[str, Tensor]]:
        """Yield (name, parameter), each parameter once, in the order of forward; names as in PyTorch: "0.weight"."""
        seen = set()
        for name, parameter in self._named_tensors("parameter_names"):
            if id(parameter) not in seen:
                seen.add(id(parameter))
                yield name, parameter

    def parameters(self) -> Iterable[Tensor]:
        """Yield each parameter once."""
        return (parameter for _, parameter in self.named_parameters())

    def param(self) -> list[tuple[Tensor, Tensor | None]]:
        """Return the assignment's list of (parameter, gradient) pairs; a gradient is None before the first backward."""
        return [(parameter, parameter.grad) for parameter in self.parameters()]

    def state_dict(self) -> dict[str, Tensor]:
        """Return all parameters and buffers by name, in PyTorch's order. They share memory with the module's."""
        return {name: tensor.detach() for name, tensor in self._named_tensors("parameter_names", "buffer_names")}

    def load_state_dict(self, state_dict: dict[str, Tensor]) -> None:
        """Copy the values of `state_dict` into the parameters and buffers. A refused dictionary changes nothing.

        Raises:
            KeyError: a name is missing or unknown.
            TypeError: a value is not a tensor.
            ValueError: a tensor has another shape.
        """
        own = self.state_dict()
        missing, unknown = [n for n in own if n not in state_dict], [n for n in state_dict if n not in own]
        if missing or unknown:
            raise KeyError(f"the state dict does not fit: missing {missing}, unknown {unknown}; expected {list(own)}")
        for name, tensor in own.items():
            if not isinstance(state_dict[name], Tensor):
                raise TypeError(f"{name} must be a tensor, got {type(state_dict[name]).__name__}")
            if state_dict[name].shape != tensor.shape:
                raise ValueError(f"{name} must have shape {tuple(tensor.shape)}, got {tuple(state_dict[name].shape)}")
        values = {name: torch.empty_like(tensor).copy_(state_dict[name].detach()) for name, tensor in own.items()}
        for name, tensor in own.items():
            tensor.copy_(values[name])

    def to(self, *args, **kwargs) -> "Module":
        """Move parameters, gradients and buffers to a device or a floating-point dtype, in place; return self.

        Raises:
            TypeError: the dtype is not a floating-point one.
        """
        if not torch.empty(0).to(*args, **kwargs).is_floating_point():
            raise TypeError("modules can be moved to floating-point dtypes alone, such as torch.float64")
        for module in self.modules():
            for name in (*module.parameter_names, *module.buffer_names):
                tensor = getattr(module, name)
                for part in () if tensor is None else (tensor, tensor.grad):
                    if part is not None:
                        moved = part.data.to(*args, **kwargs)
                        part.data = moved if part.is_floating_point() else part.data.to(moved.device)
        return self

    def zero_grad(self) -> None:
        """Forget all gradients: set each parameter's `.grad` to None."""
        for parameter in self.parameters():
            parameter.grad = None

    def train(self, mode: bool = True) -> "Module":
        """Put this module and all inside it into training mode (or, with False, into evaluation mode); return self."""
        for module in self.modules():
            module.training = bool(mode)
        return self

    def eval(self) -> "Module":
        """Put this module and all inside it into evaluation mode; return self."""
        return self.train(False)

    # What is printed

    def summary(self) -> str:
        """Return a table of all parameters, with shape and number of elements, and their total."""
        rows = [(name, str(tuple(p.shape)), p.numel()) for name, p in self.named_parameters()]
        rows.append(("total", "", sum(row[2] for row in rows)))
        return "\n".join(f"{name:<16} {shape:>16} {count:>10,}" for name, shape, count in rows)

    def extra_repr(self) -> str:
        """Return the arguments that `repr` shows."""
        return ""

    def __repr__(self) -> str:
        children = [f"({name}): {child!r}".replace("\n", "\n  ") for name, child in self.named_children()]
        inside = "\n  ".join(["", *children]) + "\n" if children else self.extra_repr()
        return f"{type(self).__name__}({inside})"


class Sequential(Module):
    """Modules one after the other: the output of each is the input of the next.

    A module that appears twice is used twice with the same parameters: further appearances are copies that share its
    parameters and buffers, so that each remembers its own input.

    Raises:
        TypeError: an argument is not a Module.
    """

    def __init__(self, *modules: Module):
        self.layers: list[Module] = []
        seen: set[int] = set()
        for index, module in enumerate(modules):
            if not isinstance(module, Module):
                hint = "a list is unpacked with Sequential(*modules)"
                raise TypeError(f"argument {index} of Sequential must be a diy Module, got {_kind(module)}; {hint}")
            inside = {id(part) for part in module.modules()}
            if inside & seen:
                module = copy.deepcopy(module, {id(tensor): tensor for tensor in _tensors(module)})
            seen |= inside
            self.layers.append(module)
        self._parts = [part for layer in self.layers for part in layer.modules()]  # to walk through them is slow

    def forward(self, input: Tensor) -> Tensor:
        """(F11) x⁽⁰⁾ = input, x⁽ˡ⁾ = f⁽ˡ⁾(x⁽ˡ⁻¹⁾), output = x⁽ᴸ⁾. Handout 3-6, p. 8/11.

        If a layer refuses, a BatchNorm2d before it has counted the batch already, as in PyTorch.
        """
        if not self.layers:
            self.remember(input)
        for index, layer in enumerate(self.layers):
            try:
                input = layer.forward(input)
            except BaseException as error:
                for part in self.modules():
                    part._memory = None  # some layers remember the new input, some the one before: never mix them
                raise _placed(error, index, layer)
        return input

    def backward(self, gradient: Tensor) -> Tensor:
        """(F12) ∂ℓ/∂x⁽ˡ⁻¹⁾ = (∂f⁽ˡ⁾/∂x⁽ˡ⁻¹⁾)ᵀ ∂ℓ/∂x⁽ˡ⁾, from the last layer to the first. Handout 3-6, p. 8/11.

        If a layer refuses, every parameter's `.grad` is as it was before.
        """
        if not self.layers:
            return self.recall(gradient)[0]
        named = [(part, name) for part in self._parts for name in part.parameter_names]
        before = [(tensor, tensor.grad) for part, name in named if (tensor := getattr(part, name)) is not None]
        for layer in reversed(self.layers):
            try:
                gradient = layer.backward(gradient)
            except BaseException as error:
                for parameter, own in before:
                    parameter.grad = own
                raise _placed(error, self.layers.index(layer), layer)
        return gradient

    def named_children(self) -> Iterable[tuple[str, Module]]:
        return ((str(index), layer) for index, layer in enumerate(self.layers))

    def __len__(self) -> int:
        return len(self.layers)

    def __iter__(self):
        return iter(self.layers)

    def __getitem__(self, index: int | slice) -> Module:
        """Return one module, or for a slice a Sequential of the same modules."""
        return Sequential(*self.layers[index]) if isinstance(index, slice) else self.layers[index]


class Linear(Module):
    """A fully connected layer, s = W x + b.

    Args:
        in_features, out_features: sizes of the last dimension of input and output, at least 1.
        bias: whether there is a b.
        device, dtype: of the parameters, as in PyTorch.

    Attributes:
        weight: W, of shape (out_features, in_features).
        bias: b, of shape (out_features,), or None.
        needs_input_grad: see `Module`.

    In a stack of R networks (see `stack`) both begin with a dimension R, and so does the input, (R, N, in_features).
    """

    parameter_names = ("weight", "bias")

    def __init__(self, in_features: int, out_features: int, bias: bool = True, device=None, dtype=None):
        _positive_integers(in_features=in_features, out_features=out_features)
        self.in_features, self.out_features = in_features, out_features
        self.weight = torch.empty(out_features, in_features, device=device, dtype=dtype)
        self.bias = torch.empty(out_features, device=device, dtype=dtype) if bias else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """(F6) Xavier: Wᵢⱼ ~ N(0, σ²) with σ = √(2 / (in + out)); every bias 0.01. Handout 5-5, p. 13/22.

        The variance is a compromise: 1/in keeps the size of activations from layer to layer, 1/out that of gradients.
        """
        self.weight.normal_(0, math.sqrt(2 / (self.in_features + self.out_features)))
        if self.bias is not None:
            self.bias.fill_(0.01)

    def forward(self, input: Tensor) -> Tensor:
        """(F2) S = X Wᵀ + b, for a row: sₖ = Σᵢ Wₖᵢ xᵢ + bₖ. Handout 3-6, p. 8/11.

        Args:
            input: X, (..., in_features), of the dtype of the weights. The result is (..., out_features).

        Raises:
            ValueError: the last dimension of X is not in_features, X has no dimension, or not that of the stack.
            TypeError: X has another dtype than the weights.
        """
        if input.dim() == 0 or input.shape[-1] != self.in_features:
            raise ValueError(f"expected an input of shape (..., {self.in_features}), got {tuple(input.shape)}")
        if input.dtype != self.weight.dtype:
            raise TypeError(f"the input is {input.dtype}, the weights are {self.weight.dtype}: convert one with .to()")
        stacked = self.weight.dim() == 3
        if stacked and (input.dim() != 3 or len(input) != len(self.weight)):
            wanted = f"({len(self.weight)}, N, {self.in_features})"
            raise ValueError(f"a stack expects an input {wanted}, one batch per network, got {tuple(input.shape)}")
        if input.dim() == 2 and self.bias is not None:
            output = torch.addmm(self.bias, input, self.weight.mT)  # (N, in) (in, out) -> (N, out), in one pass
        else:
            output = input @ self.weight.mT  # (..., in) (in, out) -> (..., out)
            if self.bias is not None:
                output += self.bias.unsqueeze(-2) if stacked else self.bias
        self.remember(output, input, self.weight)
        return output

    def backward(self, gradient: Tensor) -> Tensor:
        """Turn G = ∂ℓ/∂S, of shape (..., out_features), into three gradients. Handout 3-6, p. 8/11.

        (F3) ∂ℓ/∂W = Gᵀ X    by index: ∂ℓ/∂Wₖᵢ = Σₙ Gₙₖ Xₙᵢ, summed over the samples n because all of them share W
        (F4) ∂ℓ/∂b = Σₙ Gₙ   by index: ∂ℓ/∂bₖ = Σₙ Gₙₖ, for the same reason
        (F5) ∂ℓ/∂X = G W     by index: ∂ℓ/∂Xₙᵢ = Σₖ Gₙₖ Wₖᵢ, summed over the outputs k because xᵢ feeds all of them
        """
        gradient, input, weight = self.recall(gradient)
        rows, row_gradients = input, gradient
        if input.dim() != weight.dim():
            rows, row_gradients = input.reshape(-1, self.in_features), gradient.reshape(-1, self.out_features)
        self.accumulate(weight, row_gradients.mT @ rows)  # (out, N) (N, in) -> (out, in)
        if self.bias is not None:
            self.accumulate(self.bias, row_gradients.sum(-2))  # (N, out) -> (out,)
        return gradient @ weight if self.needs_input_grad else None  # (..., out) (out, in) -> (..., in)

    def extra_repr(self) -> str:
        return f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias is not None}"


class _Sliding(Module):
    # What Conv2d and MaxPool2d share: a window that slides over padded images. Inside, images lie as (C, H, W, N): with
    # the samples last, what is read or added at one place of the window comes in long runs of neighbouring numbers.

    def __init__(self, kernel_size, stride, padding):
        self.kernel_size, self.stride = _pair("kernel_size", kernel_size), _pair("stride", stride)
        self.padding = padding if padding == "same" else _pair("padding", 0 if padding == "valid" else padding, least=0)
        # A border of p on both sides is what "same" gives a kernel of size 2 p + 1.
        sizes = self.kernel_size if padding == "same" else [2 * border + 1 for border in self.padding]
        self._border = [((size - 1) // 2, size // 2) for size in sizes]  # (top, bottom), (left, right)
        self._offsets = [*itertools.product(*map(range, self.kernel_size))]

    def _inside(self, framed: Tensor, shape: torch.Size) -> Tensor:
        # (C, top + H + bottom, left + W + right, N) -> (N, C, H, W), a view without the border
        (top, _), (left, _) = self._border
        return framed[:, top : top + shape[2], left : left + shape[3]].permute(3, 0, 1, 2)

    def _frame(self, images: Tensor, value: float = 0.0) -> Tensor:
        # (N, C, H, W) -> (C, top + H + bottom, left + W + right, N), with `value` on the border
        samples, channels, *size = images.shape
        size = [before + length + after for (before, after), length in zip(self._border, size)]
        if any(length < least for length, least in zip(size, self.kernel_size)):
            raise ValueError(f"the kernel {self.kernel_size} is larger than the padded input, {tuple(size)}")
        if size == [*images.shape[2:]]:
            return images.permute(1, 2, 3, 0).contiguous()  # no copy where the samples are last already
        framed = images.new_full((channels, *size, samples), value)
        self._inside(framed, images.shape).copy_(images)
        return framed

    def _windows(self, framed: Tensor) -> Tensor:
        # A view (C, kernel height, kernel width, H, W, N): its [c, i, j, y, x, n] is framed[c, y s + i, x s + j, n].
        rows = framed.unfold(1, self.kernel_size[0], self.stride[0])
        return rows.unfold(2, self.kernel_size[1], self.stride[1]).permute(0, 4, 5, 1, 2, 3)

    def extra_repr(self) -> str:
        return f"kernel_size={self.kernel_size}, stride={self.stride}, padding={self.padding!r}"


class Conv2d(_Sliding):
    """A convolutional layer: the same small kernel of weights looks at every place of an image.

    As in PyTorch, the kernel is not flipped in forward; in the language of signal processing this is a correlation.

    Args:
        in_channels, out_channels: numbers of channels of input and output, at least 1.
        kernel_size, stride: integers ≥ 1, one for both directions or a pair (vertical, horizontal).
        padding: how many zeros to add on each side, an integer ≥ 0 or a pair; "valid" for none; "same" for as many as
            keep height and width with stride 1 (where their number is odd, the one more goes to the bottom and right).
        bias: whether there is a b.
        device, dtype: of the parameters, as in PyTorch.

    Attributes:
        weight: W, of shape (out_channels, in_channels, kernel height, kernel width), from `kaiming_normal_`.
        bias: b, of shape (out_channels,), at first 0, or None.

    Raises:
        ValueError: a size is out of range, or padding is "same" with another stride than 1.
    """

    parameter_names = ("weight", "bias")

    def __init__(
        self, in_channels, out_channels, kernel_size, stride=1, padding=0, *, bias=True, device=None, dtype=None
    ):
        super().__init__(kernel_size, stride, padding)
        if padding == "same" and self.stride != (1, 1):
            raise ValueError(f'padding="same" needs stride 1, got {self.stride}: give the padding as a number')
        _positive_integers(in_channels=in_channels, out_channels=out_channels)
        self.in_channels, self.out_channels = in_channels, out_channels
        self.weight = torch.empty(out_channels, in_channels, *self.kernel_size, device=device, dtype=dtype)
        self.bias = torch.zeros(out_channels, device=device, dtype=dtype) if bias else None
        kaiming_normal_(self.weight)

    def forward(self, input: Tensor) -> Tensor:
        """(F29) S[n,o,y,x] = b[o] + Σ W[o,c,i,j] P[n,c,ys+i,xs+j], summed over c, i, j. Handout 4-4.

        P is the input after padding, s the stride. As a matrix product, S = W̃ X̃ + b: each column of X̃ holds the window
        of one output pixel, and each row of W̃ one kernel, both as vectors of length C · kernel height · kernel width.

        Args:
            input: X, (N, in_channels, height, width), of the dtype of the weights. The result is (N, out_channels, H,
                W) with H = ⌊(height + padding above and below − kernel height) / stride⌋ + 1, and W likewise.

        Raises:
            ValueError: X has another shape, or is smaller than the kernel after padding.
            TypeError: X has another dtype than the weights.
        """
        _check_images(input, self.in_channels, self.weight.dtype)
        windows = self._windows(self._frame(input))
        columns, rows = windows.reshape(self.weight[0].numel(), -1), self.weight.reshape(self.out_channels, -1)
        output = rows @ columns if self.bias is None else torch.addmm(self.bias[:, None], rows, columns)
        output = output.view(self.out_channels, *windows.shape[3:]).permute(3, 0, 1, 2)  # (O, H, W, N) -> (N, O, H, W)
        self.remember(output, input, self.weight)
        return output

    def backward(self, gradient: Tensor) -> Tensor:
        """Turn G = ∂ℓ/∂S, of shape (N, out_channels, H, W), into three gradients.

        (F30) ∂ℓ/∂W̃ = G̃ X̃ᵀ    by index: ∂ℓ/∂W[o,c,i,j] = Σ G[n,o,y,x] P[n,c,ys+i,xs+j] over n, y, x, which share W
        (F31) ∂ℓ/∂b = G̃ 1      by index: ∂ℓ/∂b[o] = Σ G[n,o,y,x] over n, y, x
        (F32) ∂ℓ/∂X̃ = W̃ᵀ G̃    by index: ∂ℓ/∂P[n,c,u,v] = Σ G[n,o,y,x] W[o,c,i,j] over o and all ys + i = u, xs + j = v

        Each pixel collects what all windows that saw it send back; the border of padding is cut off. With stride 1 this
        is the correlation of G, padded, with the kernel flipped in both directions.
        """
        gradient, input, weight = self.recall(gradient)
        framed = self._frame(input)
        columns = self._windows(framed).reshape(weight[0].numel(), -1)
        gradient = gradient.permute(1, 2, 3, 0).reshape(self.out_channels, -1)  # (N, O, H, W) -> (O, H W N)
        self.accumulate(weight, (gradient @ columns.mT).view(weight.shape))
        if self.bias is not None:
            self.accumulate(self.bias, gradient.sum(1))
        if not self.needs_input_grad:
            return None
        collected = torch.zeros_like(framed)
        targets = self._windows(collected)
        sent_back = (weight.reshape(self.out_channels, -1).mT @ gradient).view(targets.shape)
        for i, j in self._offsets:
            targets[:, i, j] += sent_back[:, i, j]
        return self._inside(collected, input.shape)

    def extra_repr(self) -> str:
        return f"{self.in_channels}, {self.out_channels}, {super().extra_repr()}, bias={self.bias is not None}"


class MaxPool2d(_Sliding):
    """The largest value of each window, channel by channel.

    Args:
        kernel_size, stride: integers ≥ 1 or pairs (vertical, horizontal); by default windows do not overlap.
        padding: how many −∞ to add on each side, an integer or a pair, at most half of the kernel.

    Raises:
        ValueError: a size is out of range.
    """

    def __init__(self, kernel_size: Pair, stride: Pair | None = None, padding: Pair = 0):
        super().__init__(kernel_size, kernel_size if stride is None else stride, _pair("padding", padding, least=0))
        if any(2 * border > size for border, size in zip(self.padding, self.kernel_size)):
            raise ValueError(f"padding must be at most half of the kernel {self.kernel_size}, got {self.padding}")

    def forward(self, input: Tensor) -> Tensor:
        """(F34) S[n,c,y,x] = max P[n,c,ys+i,xs+j] over i, j: P is the input after padding, s the stride. Handout 4-5.

        Args:
            input: X, (N, C, height, width). The sizes of the result follow the same rule as in `Conv2d`.

        Raises:
            ValueError: X has not four dimensions, or is smaller than the kernel after padding.
        """
        _check_images(input)
        windows = self._windows(self._frame(input, -math.inf))
        output = windows[:, 0, 0].clone()
        for i, j in self._offsets:
            torch.maximum(output, windows[:, i, j], out=output)
        self.remember(output.permute(3, 0, 1, 2), input, output)
        return output.permute(3, 0, 1, 2)  # (C, H, W, N) -> (N, C, H, W)

    def backward(self, gradient: Tensor) -> Tensor:
        """(F35) ∂ℓ/∂P[n,c,u,v] = Σ G[n,c,y,x] over the windows y, x whose maximum stands at u, v.

        Where the maximum stands several times, the first place gets all, row by row as in PyTorch. A window with a NaN
        has the maximum NaN and sends nothing back; a gradient that is no finite number spoils its whole window.
        """
        gradient, input, output = self.recall(gradient)
        framed = self._frame(input, math.nan)  # NaN equals nothing: the border never gets a gradient
        collected, rest = torch.zeros_like(framed), gradient.permute(1, 2, 3, 0).contiguous()
        windows, targets = self._windows(framed), self._windows(collected)
        for i, j in self._offsets:
            # In place, the comparison gives 1 and 0 in the dtype of the tensor, which is faster than booleans.
            part = windows[:, i, j].clone().eq_(output).mul_(rest)
            targets[:, i, j] += part
            rest = rest - part  # what one place has taken is not left for the later ones
        return self._inside(collected, input.shape)


class BatchNorm2d(Module):
    """Batch normalization: each channel gets mean β and standard deviation γ, over all samples and pixels.

    In training the statistics are those of the batch; in evaluation they are the averages kept while training.

    Args:
        num_features: the number of channels C.
        eps: ε, added to the variance.
        momentum: ρ in [0, 1], the share of the newest batch in the running statistics.
        device, dtype: of parameters and statistics, as in PyTorch.

    Attributes:
        weight, bias: γ (at first 1) and β (at first 0), of shape (C,).
        running_mean, running_var: the statistics for evaluation, of shape (C,); num_batches_tracked: how many batches.
    """

    parameter_names = ("weight", "bias")
    buffer_names = ("running_mean", "running_var", "num_batches_tracked")

    def __init__(self, num_features: int, eps: float = 1e-5, momentum: float = 0.1, *, device=None, dtype=None):
        _positive_integers(num_features=num_features)
        self.num_features, self.eps = num_features, _number("eps", eps, least=0)
        self.momentum = _number("momentum", momentum, least=0, most=1)
        self.weight, self.running_var = (torch.ones(num_features, device=device, dtype=dtype) for _ in range(2))
        self.bias, self.running_mean = (torch.zeros(num_features, device=device, dtype=dtype) for _ in range(2))
        self.num_batches_tracked = torch.tensor(0, device=device)

    def forward(self, input: Tensor) -> Tensor:
        """(F36) x̂ = (x − μ) / √(σ² + ε), output = γ x̂ + β, channel by channel. Handout 6-4.

        In training, μ and σ² are mean and variance over the M = N · H · W values of a channel, and

        (F37) mean ← (1 − ρ) mean + ρ μ, variance ← (1 − ρ) variance + ρ σ² M / (M − 1), for the running statistics.

        The factor M / (M − 1) makes the estimate unbiased. In evaluation, μ and σ² are the running statistics.

        Args:
            input: X, (N, C, H, W), of the dtype of the parameters.

        Raises:
            ValueError: X has another shape, or in training one value per channel.
            TypeError: X has another dtype.
        """
        _check_images(input, self.num_features, self.weight.dtype)
        mean, variance = self.running_mean, self.running_var
        if self.training:
            count = input.numel() // self.num_features
            if count == 1:
                raise ValueError(f"training needs at least 2 values per channel, got an input of {tuple(input.shape)}")
            self.num_batches_tracked += 1
            if count:  # an empty batch has no statistics
                variance, mean = torch.var_mean(input, (0, 2, 3), correction=0)
                self.running_mean.lerp_(mean, self.momentum)
                self.running_var.lerp_(variance * (count / (count - 1)), self.momentum)
        scale = (variance + self.eps).rsqrt()[:, None, None]  # (C, 1, 1)
        normalized = (input - mean[:, None, None]) * scale
        output = normalized * self.weight[:, None, None] + self.bias[:, None, None]
        self.remember(output, normalized, scale, self.weight)
        self._used_batch = self.training
        return output

    def backward(self, gradient: Tensor) -> Tensor:
        """(F38) ∂ℓ/∂γ = Σ G x̂    (F39) ∂ℓ/∂β = Σ G, both summed over the M values of a channel.

        (F40) ∂ℓ/∂x = γ / √(σ² + ε) · (G − (1/M) Σ G − x̂ · (1/M) Σ G x̂)

        The two means stand for the ways through μ and σ², to which every value of the batch contributes; in evaluation
        the statistics are constants, and both are left out.
        """
        gradient, normalized, scale, weight = self.recall(gradient)
        along, across = (gradient * normalized).sum((0, 2, 3)), gradient.sum((0, 2, 3))
        self.accumulate(weight, along)
        self.accumulate(self.bias, across)
        if self._used_batch:
            count = gradient.numel() // self.num_features
            gradient = gradient - (across[:, None, None] + normalized * along[:, None, None]) / count
        return gradient * (scale * weight[:, None, None])

    def extra_repr(self) -> str:
        return f"{self.num_features}, eps={self.eps}, momentum={self.momentum}"


class Flatten(Module):
    """Makes one dimension out of the dimensions from `start_dim` to `end_dim`: images become rows for `Linear`."""

    def __init__(self, start_dim: int = 1, end_dim: int = -1):
        self.start_dim, self.end_dim = start_dim, end_dim

    def forward(self, input: Tensor) -> Tensor:
        """(F41) the same numbers in another shape: by default (N, C, H, W) becomes (N, C · H · W).

        Raises:
            IndexError: the input has no such dimension.
        """
        output = input.flatten(self.start_dim, self.end_dim)
        self.remember(output)
        self._shape = input.shape
        return output

    def backward(self, gradient: Tensor) -> Tensor:
        """(F42) ∂ℓ/∂X is G in the shape of X."""
        return self.recall(gradient)[0].reshape(self._shape)

    def extra_repr(self) -> str:
        return f"start_dim={self.start_dim}, end_dim={self.end_dim}"


class ReLU(Module):
    """The rectifier, component by component, for inputs of any shape."""

    def forward(self, input: Tensor) -> Tensor:
        """(F7) σ(s) = max(0, s). Handout 3-6, p. 8/11."""
        output = input.relu()
        self.remember(output, output)
        return output

    def backward(self, gradient: Tensor) -> Tensor:
        """(F8) ∂ℓ/∂s = G · σ'(s) with σ'(s) = 1 where s > 0 and 0 elsewhere: at the kink s = 0 as in PyTorch.

        The sign of the output is that derivative.
        """
        gradient, output = self.recall(gradient)
        return output.sign().mul_(gradient)


class Tanh(Module):
    """The hyperbolic tangent, component by component, for inputs of any shape."""

    def forward(self, input: Tensor) -> Tensor:
        """(F9) σ(s) = tanh(s). Handout 3-6, p. 8/11."""
        output = input.tanh()
        self.remember(output, output)
        return output

    def backward(self, gradient: Tensor) -> Tensor:
        """(F10) ∂ℓ/∂s = G · σ'(s) with σ'(s) = 1 − tanh²(s), that is G − G · output²."""
        gradient, output = self.recall(gradient)
        return gradient - output.square().mul_(gradient)


class Sigmoid(Module):
    """The logistic function, component by component, for inputs of any shape."""

    def forward(self, input: Tensor) -> Tensor:
        """(F21) σ(s) = 1 / (1 + e⁻ˢ)."""
        output = input.sigmoid()
        self.remember(output, output)
        return output

    def backward(self, gradient: Tensor) -> Tensor:
        """(F22) ∂ℓ/∂s = G · σ'(s) with σ'(s) = σ(s) (1 − σ(s))."""
        gradient, output = self.recall(gradient)
        return gradient * output * (1 - output)


class Dropout(Module):
    """Inverted dropout: in training each component is zeroed with probability p; in evaluation nothing happens.

    Args:
        p: the probability of zeroing, in [0, 1].

    Raises:
        TypeError, ValueError: p is not a number, or not in [0, 1].
    """

    def __init__(self, p: float = 0.5):
        self.p = _number("p, the probability of zeroing,", p, least=0, most=1)

    def forward(self, input: Tensor) -> Tensor:
        """(F19) output = m · x, with m drawn from Bernoulli(1 − p) / (1 − p) for each component.

        The division keeps the expectation, E[output] = x, so that evaluation needs no correction. The same seed draws
        the same masks as in PyTorch. Handout 6-3, p. 7/12.
        """
        if not self.training or self.p == 0 or input.numel() == 0:
            self.remember(input)
            return input
        mask = torch.zeros_like(input) if self.p == 1 else torch.empty_like(input)
        if self.p < 1:
            for part, generator in zip(mask, self.generators, strict=True) if self.generators else [(mask, None)]:
                part.bernoulli_(1 - self.p, generator=generator)
            mask /= 1 - self.p
        output = input * mask
        self.remember(output, mask)
        return output

    def backward(self, gradient: Tensor) -> Tensor:
        """(F20) ∂ℓ/∂x = m · G, with the mask m of forward."""
        gradient, *mask = self.recall(gradient)
        return gradient * mask[0] if mask else gradient

    def extra_repr(self) -> str:
        return f"p={self.p}"


class Loss(ABC):
    """A function of a prediction and its target that gives one number, to be made small.

    Args:
        reduction: "mean" divides by the number of terms, "sum" does not. Loss and gradient always agree.
        stacked: whether the first dimension counts the networks of a stack (see `stack`), R of them. Each then has its
            own loss, and the loss is a tensor (R,).

    Raises:
        ValueError: another reduction.
    """

    _memory: tuple[Tensor, ...] | None = None

    def __init__(self, *, reduction: str = "mean", stacked: bool = False):
        if reduction not in ("mean", "sum"):
            raise ValueError(f'reduction must be "mean" or "sum", got {reduction!r}')
        self.reduction, self.stacked = reduction, stacked

    @abstractmethod
    def forward(self, prediction: Tensor, target: Tensor) -> Tensor:
        """Return the loss, a tensor without dimensions, and remember what backward will need."""

    @abstractmethod
    def backward(self) -> Tensor:
        """Return ∂ℓ/∂(prediction) for the last prediction and target, and forget them.

        Raises:
            RuntimeError: there is no forward to go back through.
        """

    def __call__(self, prediction: Tensor, target: Tensor) -> Tensor:
        """Return `forward(prediction, target)`."""
        return self.forward(prediction, target)

    def _recall(self) -> tuple[Tensor, ...]:
        if self._memory is None:
            name = type(self).__name__
            raise RuntimeError(f"{name}.backward was called before forward: call criterion(prediction, target) first")
        memory, self._memory = self._memory, None
        return memory

    def __repr__(self) -> str:
        return f"{type(self).__name__}(reduction={self.reduction!r})"


class MSELoss(Loss):
    """The squared error, summed over all M components of the prediction and, by default, divided by M.

    M counts components, not samples: a batch of 100 predictions of 2 numbers each has M = 200.
    """

    def forward(self, prediction: Tensor, target: Tensor) -> Tensor:
        """(F13) mean: ℓ = (1/M) Σ (p − t)²    (F14) sum: ℓ = Σ (p − t)². Handout 4-3.

        Args:
            prediction, target: p and t, floating-point, of the same shape and dtype; nothing is broadcast.

        Raises:
            TypeError: one is not a floating-point tensor, or the dtypes differ.
            ValueError: the shapes differ.
        """
        _check_floating("prediction", prediction)
        _check_floating("target", target)
        if prediction.shape != target.shape:
            shapes = f"{tuple(prediction.shape)} and {tuple(target.shape)}"
            raise ValueError(f"prediction and target must have the same shape, got {shapes}: nothing is broadcast")
        if prediction.dtype != target.dtype:
            raise TypeError(f"prediction and target must have the same dtype, got {prediction.dtype}, {target.dtype}")
        difference = (prediction - target).detach()
        self._memory = (difference,)
        squares = difference.square()
        dims = tuple(range(1, squares.dim())) if self.stacked else None
        return squares.mean(dims) if self.reduction == "mean" else squares.sum(dims)

    def backward(self) -> Tensor:
        """(F15) mean: ∂ℓ/∂p = (2/M) (p − t)    (F16) sum: ∂ℓ/∂p = 2 (p − t)."""
        (difference,) = self._recall()
        networks = len(difference) if self.stacked else 1
        return difference * (2 * networks / max(1, difference.numel()) if self.reduction == "mean" else 2)


LossMSE = MSELoss


class CrossEntropyLoss(Loss):
    """The negative logarithm of the probability that softmax gives to the right class; by default the mean.

    The prediction holds one score (logit) per class, without a softmax layer before.
    """

    def forward(self, prediction: Tensor, target: Tensor) -> Tensor:
        """(F23) ℓₙ = −log qₙₜ, with t the target of n and qₙₖ = exp(sₙₖ) / Σⱼ exp(sₙⱼ). Handout 5-1.

        mean: ℓ = (1/N) Σ ℓₙ    sum: ℓ = Σ ℓₙ. All scores of a sample are first lowered by their maximum: that changes
        no qₙₖ, and no exp can overflow.

        Args:
            prediction: the scores s, floating-point, (N, number of classes).
            target: the index of the right class of each sample, int64, (N,).

        Raises:
            TypeError: the prediction is not a floating-point tensor, or the target not one of int64.
            ValueError: the shapes do not fit, or an index is no class.
        """
        _check_floating("prediction", prediction)
        if not isinstance(target, Tensor) or target.dtype != torch.int64:
            raise TypeError(f"the target must be a tensor of class indices, int64, got {_kind(target)}")
        if prediction.dim() != 2 + self.stacked or target.shape != prediction.shape[:-1]:
            shapes = f"{tuple(prediction.shape)} and {tuple(target.shape)}"
            raise ValueError(f"expected a prediction of shape (N, classes) and a target of shape (N,), got {shapes}")
        if target.numel() and not 0 <= target.min() <= target.max() < prediction.shape[-1]:
            low, high = target.min().item(), target.max().item()
            raise ValueError(f"the target must hold indices from 0 to {prediction.shape[-1] - 1}, got {low} to {high}")
        shifted = prediction.detach() - prediction.detach().amax(-1, keepdim=True)
        log_q, right = shifted - shifted.exp().sum(-1, keepdim=True).log(), target.unsqueeze(-1).clone()
        self._memory = log_q, right
        losses = -log_q.gather(-1, right).squeeze(-1)
        return losses.mean(-1) if self.reduction == "mean" else losses.sum(-1)

    def backward(self) -> Tensor:
        """(F24) sum: ∂ℓ/∂sₙₖ = qₙₖ − 1 for the right class k, qₙₖ for the others    mean: the same, divided by N."""
        log_q, right = self._recall()
        gradient = log_q.exp().scatter_add_(-1, right, torch.full_like(log_q, -1))
        return gradient / max(1, right.shape[-2]) if self.reduction == "mean" else gradient


class Optimizer(ABC):
    """Changes parameters with the help of their gradients: all take w ← w − η d, and differ in the direction d.

    Args:
        params: tensors, as `module.parameters()` gives them; those of a PyTorch module do as well.
        lr: the learning rate, a finite number ≥ 0. It may be changed at any time: `optimizer.lr = 0.1`. For a stack of
            R networks also a tensor (R,), one learning rate per network.
        weight_decay: λ ≥ 0, adds λ w to the gradient of w.

    Raises:
        TypeError, ValueError: there is no parameter, one is no tensor or stands there twice, or lr is out of range.
    """

    def __init__(self, params: Iterable[Tensor], lr: float | Tensor, weight_decay: float = 0):
        if isinstance(params, (Tensor, Module)) or not isinstance(params, Iterable):
            raise TypeError(f"params must be an iterable of tensors, got {type(params).__name__}: module.parameters()?")
        self.parameters = list(params)
        if not self.parameters:
            raise ValueError("the optimizer got no parameters: pass module.parameters()")
        if strange := [_kind(value) for value in self.parameters if not isinstance(value, Tensor)]:
            raise TypeError(f"parameters must be tensors (no groups), got {strange[0]}")
        if len({id(parameter) for parameter in self.parameters}) < len(self.parameters):
            raise ValueError("a parameter stands twice in the list: pass each one once")
        self.lr, self.weight_decay = lr, _number("weight_decay", weight_decay, least=0)
        self._memory: list[dict] = [{} for _ in self.parameters]  # what the directions so far have left behind

    @property
    def lr(self) -> float | Tensor:
        """The learning rate η."""
        return self._lr

    @lr.setter
    def lr(self, value: float | Tensor) -> None:
        if not isinstance(value, Tensor):
            self._lr = _number("the learning rate", value, least=0)
            return
        if value.dim() != 1 or any(parameter.shape[:1] != value.shape for parameter in self.parameters):
            raise ValueError(f"a tensor of learning rates must be (R,) for a stack of R, got {tuple(value.shape)}")
        for rate in value.tolist():
            _number("every learning rate", rate, least=0)
        self._lr = value.detach().clone()

    def zero_grad(self) -> None:
        """Forget all gradients: set each parameter's `.grad` to None."""
        for parameter in self.parameters:
            parameter.grad = None

    @abstractmethod
    def direction(self, gradient: Tensor, memory: dict) -> Tensor:
        """Return d for one parameter, given g, its gradient with the weight decay, and a memory of its own."""

    @torch.no_grad()
    def step(self) -> None:
        """(F17) w ← w − η d for every w that has a gradient, in place; here g = ∂ℓ/∂w + λ w. Handout 5-2, p. 12/17."""
        parameters, steps = [], []
        for parameter, memory in zip(self.parameters, self._memory):
            if (gradient := parameter.grad) is not None:
                if self.weight_decay:
                    gradient = gradient.add(parameter, alpha=self.weight_decay)
                parameters.append(parameter)
                steps.append(self.direction(gradient, memory))
        if isinstance(self._lr, Tensor):
            for parameter, step in zip(parameters, steps):
                rates = self._lr.to(parameter).view(-1, *[1] * (parameter.dim() - 1))  # (R,) -> (R, 1) or (R, 1, 1)
                parameter.addcmul_(rates, step, value=-1)
        elif parameters:
            torch._foreach_add_(parameters, steps, alpha=-self._lr)


class SGD(Optimizer):
    """Mini-batch stochastic gradient descent, with momentum if wanted.

    Args:
        params, lr, weight_decay: see `Optimizer`.
        momentum: μ ≥ 0, the share of the last step that goes into the next.
        dampening: τ; with momentum, gradients after the first enter with weight 1 − τ.
        nesterov: whether the gradient is taken after the momentum step; needs momentum > 0 and dampening = 0.
    """

    def __init__(self, params: Iterable[Tensor], lr=1e-3, momentum=0, dampening=0, weight_decay=0, nesterov=False):
        super().__init__(params, lr, weight_decay)
        self.momentum = _number("momentum", momentum, least=0)
        self.dampening = _number("dampening", dampening)
        self.nesterov = nesterov
        if nesterov and (momentum == 0 or dampening != 0):
            raise ValueError(f"nesterov needs momentum > 0 and dampening = 0, got {momentum=}, {dampening=}")

    def direction(self, gradient: Tensor, memory: dict) -> Tensor:
        """(F25) d = g; with momentum d = v, where v ← μ v + (1 − τ) g (at first v = g); with nesterov d = g + μ v."""
        if not self.momentum:
            return gradient
        if not memory:
            memory["velocity"] = gradient.clone()
        else:
            memory["velocity"].mul_(self.momentum).add_(gradient, alpha=1 - self.dampening)
        velocity = memory["velocity"]
        return gradient.add(velocity, alpha=self.momentum) if self.nesterov else velocity


class Adam(Optimizer):
    """Adam: every component has a step size of its own, from running averages of its gradient and of its square.

    Args:
        params, lr, weight_decay: see `Optimizer`.
        betas: β₁ and β₂, in [0, 1), the shares of the past in the two averages.
        eps: ε ≥ 0, keeps the division away from zero.
    """

    def __init__(self, params: Iterable[Tensor], lr=1e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=0):
        super().__init__(params, lr, weight_decay)
        self.betas, self.eps = tuple(betas), _number("eps", eps, least=0)
        if len(self.betas) != 2 or not all(0 <= _number("every beta", beta) < 1 for beta in self.betas):
            raise ValueError(f"betas must be two numbers in [0, 1), got {betas}")

    def direction(self, gradient: Tensor, memory: dict) -> Tensor:
        """(F27) d = m̂ / (√v̂ + ε), with m ← β₁ m + (1 − β₁) g and v ← β₂ v + (1 − β₂) g². Kingma and Ba (2015).

        m and v begin with 0; after t steps, m̂ = m / (1 − β₁ᵗ) and v̂ = v / (1 − β₂ᵗ) undo the pull of that beginning.
        """
        if not memory:
            memory.update(count=0, mean=torch.zeros_like(gradient), square=torch.zeros_like(gradient))
        mean, square, (beta1, beta2) = memory["mean"], memory["square"], self.betas
        mean.lerp_(gradient, 1 - beta1)
        square.mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
        memory["count"] = count = memory["count"] + 1
        return mean / (square / (1 - beta2**count)).sqrt_().add_(self.eps).mul_(1 - beta1**count)


class CosineAnnealingLR:
    """Lowers an optimizer's learning rate from its present value η₀ to `eta_min` along half a cosine.

    Args:
        optimizer: its `lr` is set by each `step()`.
        T_max: the number of calls of `step` after which `eta_min` is reached.
        eta_min: the last learning rate.
    """

    def __init__(self, optimizer: Optimizer, T_max: int, eta_min: float = 0.0):
        _positive_integers(T_max=T_max)
        self.optimizer, self.T_max, self.eta_min = optimizer, T_max, _number("eta_min", eta_min, least=0)
        self.base_lr, self.last_epoch = optimizer.lr, 0

    def step(self) -> None:
        """(F28) η_t = η_min + (η₀ − η_min) (1 + cos(π t / T_max)) / 2 after t steps."""
        self.last_epoch += 1
        share = (1 + math.cos(math.pi * self.last_epoch / self.T_max)) / 2
        self.optimizer.lr = self.eta_min + (self.base_lr - self.eta_min) * share


def stack(networks: Iterable[Module], generators: Iterable[torch.Generator] | None = None) -> Module:
    """Return one network that computes all R `networks` at once, each parameter with a leading dimension R.

    The modules are the same, for a product of matrices acts on the last two dimensions. Inputs become (R, N, ...), a
    batch for each network; the loss is built with `stacked=True`, and the learning rate may be a tensor (R,). Every
    network then takes the steps that it would take alone, and one that diverges leaves the others untouched.

    Args:
        networks: of one architecture. Their parameters are copied.
        generators: one per network, for Dropout. Without them, masks come from PyTorch's global generator.

    Raises:
        ValueError: there is no network, two differ in architecture, one has layers for images, or the generators are
            not R.
    """
    networks, generators = list(networks), None if generators is None else list(generators)
    kinds = {(repr(net), *((n, t.shape, t.dtype) for n, t in net.state_dict().items())) for net in networks}
    if len(kinds) != 1 or (generators and len(generators) != len(networks)):
        raise ValueError(
            "stack needs at least one network, all of the same layers, shapes and dtypes, and one generator for each; "
            f"got {len(networks)} networks of {len(kinds)} kinds and {len(generators or [])} generators"
        )
    if any(isinstance(module, (_Sliding, BatchNorm2d, Flatten)) for module in networks[0].modules()):
        raise ValueError("layers for images cannot be stacked: train networks that contain them one by one")
    groups = zip(*(_tensors(network) for network in networks))
    return _copy_with(networks[0], [torch.stack(group) for group in groups], len(networks), generators)


def unstack(network: Module) -> list[Module]:
    """Return the networks of a stack, in order, as copies that work alone.

    Raises:
        ValueError: the network was not made by `stack`.
    """
    if network.networks is None:
        raise ValueError("unstack expects a network made by stack")
    groups = zip(*(tensor.unbind() for tensor in _tensors(network)))
    return [_copy_with(network, [part.clone() for part in group]) for group in groups]


def _tensors(network: Module) -> list[Tensor]:
    return [tensor for _, tensor in network._named_tensors("parameter_names", "buffer_names")]


def _copy_with(network: Module, tensors: list[Tensor], networks=None, generators=None) -> Module:
    # deepcopy puts what its second argument holds under the id of a tensor into that tensor's place.
    network = copy.deepcopy(network, {id(own): tensor for own, tensor in zip(_tensors(network), tensors)})
    for module in network.modules():
        module._memory, module.networks, module.generators = None, networks, generators
    return network


def kaiming_normal_(tensor: Tensor, *, mode: str = "fan_in") -> Tensor:
    """(F33) He: Wᵢ ~ N(0, σ²) with σ = √(2 / fan), in place; return the tensor. For layers that a ReLU follows.

    A ReLU lets half of the variance through; the 2 makes up for it. He et al. (2015), section 2.2.

    Args:
        tensor: the weight of a `Linear` or `Conv2d`.
        mode: "fan_in" keeps the size of activations: fan is the number of inputs of one output. "fan_out" keeps the
            size of gradients: fan is the number of outputs that one input goes to.

    Raises:
        ValueError: another mode, or a tensor of fewer than two dimensions.
    """
    if mode not in ("fan_in", "fan_out") or tensor.dim() < 2:
        raise ValueError(f'expected "fan_in" or "fan_out" and a weight, got {mode!r} and shape {tuple(tensor.shape)}')
    fan = tensor.shape[1 if mode == "fan_in" else 0] * math.prod(tensor.shape[2:])
    return tensor.detach().normal_(0, math.sqrt(2 / fan))


def _check_images(input: Tensor, channels: int | None = None, dtype: torch.dtype | None = None) -> None:
    if input.dim() != 4 or channels not in (None, input.shape[1]):
        raise ValueError(f"expected an input of shape (N, {channels or 'C'}, H, W), got {tuple(input.shape)}")
    if dtype not in (None, input.dtype):
        raise TypeError(f"the input is {input.dtype}, the weights are {dtype}: convert one with .to()")


def _check_floating(name: str, tensor: Tensor) -> None:
    if not isinstance(tensor, Tensor) or not tensor.is_floating_point():
        raise TypeError(f"the {name} must be a floating-point tensor, got {_kind(tensor)}: convert it by .float()")


def _kind(value: object) -> object:
    return value.dtype if isinstance(value, Tensor) else type(value).__name__


def _pair(name: str, value: Pair, least: int = 1) -> tuple[int, int]:
    pair = (value, value) if isinstance(value, int) else tuple(value) if isinstance(value, (tuple, list)) else ()
    if len(pair) != 2 or any(isinstance(part, bool) or not isinstance(part, int) or part < least for part in pair):
        raise ValueError(f"{name} must be an integer ≥ {least} or a pair of them, got {value!r}")
    return pair


def _versions(tensors: Iterable[Tensor]) -> list[int | None]:
    # PyTorch counts the in-place changes of every tensor, except of those made under inference mode: they allow none.
    try:
        return [tensor._version for tensor in tensors]
    except RuntimeError:
        return [None if tensor.is_inference() else tensor._version for tensor in tensors]


def _placed(error: BaseException, index: int, layer: Module) -> BaseException:
    # "layer 1.2, Linear(...): what was wrong", where 1.2 is the place of a layer inside nested Sequentials.
    message = str(error)
    inner = message.startswith("layer ") and message[6:7].isdigit()
    if isinstance(error, (AssertionError, IndexError, RuntimeError, TypeError, ValueError)):
        error.args = (f"layer {index}.{message[6:]}" if inner else f"layer {index}, {layer!r}: {message}",)
    return error


def _number(name: str, value: float, least: float = -math.inf, most: float = math.inf) -> float:
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise TypeError(f"{name} must be a number, got {value!r} ({type(value).__name__})")
    if not (math.isfinite(value) and least <= value <= most):
        wanted = f"in [{least}, {most}]" if most < math.inf else f"≥ {least}" if least > -math.inf else ""
        raise ValueError(f"{name} must be a finite number {wanted}".rstrip() + f", got {value}")
    return value


def _positive_integers(**values: int) -> None:
    for name, value in values.items():
        if isinstance(value, bool) or not isinstance(value, numbers.Integral) or value < 1:
            raise ValueError(f"{name} must be an integer ≥ 1, got {value!r}")
