"""The checkers of the notebook about the backward pass."""

import torch
from torch import Tensor

from diy import Linear, Module, Tanh

from .answers import AnswerError, NoAnswerError, close, expect, tensor
from .mistakes import along_a_path, of_a_loss
from .running import Passes, any_precision, by_hand, check_memory, normal, run


@any_precision
def exercise_1(sigmoid_slope) -> str:
    for s in torch.tensor([-3.0, -1.0, 0.0, 0.5, 2.0]), normal(3, 3):
        y = s.sigmoid()
        mistakes = {
            "that is the slope of tanh, 1 - y².": 1 - y * y,
            "you took the sigmoid once more: the argument already is the output y.": y.sigmoid() * (1 - y.sigmoid()),
            "that is y itself, not its slope.": y,
            "the sign is wrong: the sigmoid rises everywhere.": -y * (1 - y),
            "that is one of two factors.": 1 - y,
            "that is the derivative of y (1 - y), the slope of the slope.": 1 - 2 * y,
            "there is one square too many: write the fraction as a product of two and look for y in each.": (
                y * (1 - y)
            ).square(),
            "1 - y must be e⁻ˢ / (1 + e⁻ˢ); you have y + 1.": y * (1 + y),
        }
        with by_hand("sigmoid_slope", "it is to be written by hand"):
            got = run("sigmoid_slope", sigmoid_slope, y=y)
        expect("The slope", got, y * (1 - y), mistakes, {"y": y})
    return "At s = 0 it is largest, a quarter."


@any_precision
def exercise_2(sigmoid) -> str:
    module = Passes("Sigmoid", sigmoid)
    inputs = normal(4, 3), 2 * normal(3, 3, seed=5), normal(5), normal(2, 3, 2), torch.tensor([[-800.0, 0.0, 800.0]])
    for index, s in enumerate(inputs):
        y, G = s.sigmoid(), normal(*s.shape, seed=index + 1)
        slope = y * (1 - y)
        forward = {
            "the sign of s is wrong: it falls where it should rise.": torch.sigmoid(-s),
            "that is tanh.": s.tanh(),
            "it is too steep by a factor of 2.": (2 * s).sigmoid(),
            "that is the slope, which is backward's business.": slope,
            "that is 1 + e⁻ˢ, and its inverse is wanted.": 1 + torch.exp(-s),
            "that is softmax, whose outputs depend on each other.": s.softmax(-1),
            "that is the logarithm of the sigmoid.": s.sigmoid().log(),
        }
        nan = "not a number, NaN, where s is large: ∞/∞, as exercise 1.3 warns."
        expect("Sigmoid()(s)", module.forward(input=s), y, forward, {"s": s}, nan)
        backward = along_a_path(G, slope) | {
            "that is with the slope of tanh, 1 - y².": G * (1 - y * y),
            "the slope is y (1 - y), a product of two factors, and one of them is missing.": (G * (1 - y), G * y),
            "the slope is that of exercise 2.1, but taken at the input instead of the output.": G * s * (1 - s),
            "the sigmoid is taken once more, of the output.": G * y.sigmoid() * (1 - y.sigmoid()),
            "gradient and output are exchanged: self.recall gives the gradient first.": y * G * (1 - G),
            "the brackets around 1 - y are missing.": G * y - y,
        }
        expect("The gradient of the input", module.backward(G), G * slope, backward, {"s": s, "G": G})
    check_memory("Sigmoid", sigmoid, "input")
    return "Forward and backward agree."


@any_precision
def exercise_3(leaky_relu) -> str:
    # By name first: what is right then and wrong by position does not have the slope as its first argument.
    _leaky(Passes("LeakyReLU", leaky_relu, {"negative_slope": 0.2}), 0.2, normal(4, 3), normal(4, 3, seed=1))
    s, without = normal(4, 3, seed=9), Passes("LeakyReLU", leaky_relu)

    def output(passes: Passes) -> Tensor:
        return tensor("LeakyReLU()(s)", passes.forward(input=s))

    plain, one = output(without), Passes("LeakyReLU", leaky_relu, negative_slope=0.3)
    if close(plain, output(one)):
        raise AnswerError("LeakyReLU(0.3) has the same slope as LeakyReLU(): negative_slope should come first.")
    other = Passes("LeakyReLU", leaky_relu, negative_slope=1.5)
    if close(output(one), output(other)):
        raise AnswerError(
            "With two LeakyReLU objects, one has the slope of the other: keep it in self, "
            "which is another object for each."
        )
    kink = torch.tensor([[-2.0, -0.5, 0.0], [1.0, -0.0, 3.0]])
    for slope, module in (0.3, one), (0.01, Passes("LeakyReLU", leaky_relu, negative_slope=0.01)), (1.5, other):
        for index, s in enumerate((normal(4, 3), normal(3, 3, seed=5), kink, normal(5, seed=7), normal(2, 3, 2))):
            _leaky(module, slope, s, normal(*s.shape, seed=index + 1))
    if not close(output(without), torch.where(s > 0, s, 0.01 * s)):
        raise AnswerError("Where nothing is given, the slope should be PyTorch's: negative_slope=0.01.")
    check_memory("LeakyReLU", leaky_relu, "input")
    return "Where ReLU learns nothing, this one still does."


def _leaky(module: Passes, slope: float, s: Tensor, G: Tensor) -> None:
    def sides(above, below) -> Tensor:
        return torch.where(s > 0, above, below)

    forward = {
        "the larger of s and slope · s is not what is asked for where the slope is above 1: ask for the sign of s.": (
            torch.maximum(s, slope * s)
        ),
        "negative inputs are lost, as in ReLU: multiply them by the slope.": s.relu(),
        "it lets everything through; only what is above zero passes unchanged.": s,
        "all is multiplied by the slope; what is above zero passes unchanged.": slope * s,
        "the two sides are exchanged.": sides(slope * s, s),
        "negative inputs become positive: the slope is above zero on both sides.": sides(s, -slope * s),
        "negative inputs become the slope itself: multiply.": sides(s, slope),
        "that is the slope, which is backward's business.": sides(1.0, slope),
        "the slope is always 0.01: use the argument.": sides(s, 0.01 * s),
    }
    expect(f"LeakyReLU({slope})(s)", module.forward(input=s), sides(s, slope * s), forward, {"s": s})
    backward = along_a_path(G, sides(1.0, slope)) | {
        "where the input is negative nothing comes through, as in ReLU.": sides(G, 0 * G),
        "the two sides are exchanged.": sides(slope * G, G),
        "it asks for the sign of the gradient; the sign of the input is what counts.": torch.where(G > 0, G, slope * G),
        "it is multiplied by the output; the slope is a constant on each side.": G * sides(s, slope * s),
        "it is multiplied by the slope everywhere; what is above zero passes unchanged.": slope * G,
        "where the input is negative, the slope itself comes back: multiply by the gradient.": sides(G, slope),
        "negative inputs have a negative slope in yours.": sides(G, -slope * G),
        "the slope is always 0.01: use the argument.": sides(G, 0.01 * G),
    }
    got, right = module.backward(G), sides(G, slope * G)
    if (s == 0).any():
        at_zero = G, 0 * G, G * (1 + slope) / 2
        if any(close(tensor("The gradient", got), torch.where(s == 0, other, right)) for other in at_zero):
            raise AnswerError("At s = 0 the slope is not that of the left side, which PyTorch takes at the kink.")
    expect("The gradient of the input", got, right, backward, {"s": s, "G": G})


@any_precision
def exercise_4(l1_loss) -> str:
    loss = Passes("L1Loss", l1_loss, kind="Loss")
    equal = normal(3, 2, seed=9)
    pairs = [(normal(4, 3), normal(4, 3, seed=1)), (normal(3, 3, seed=2), normal(3, 3, seed=3))]
    pairs += [(normal(5, seed=4), normal(5, seed=5)), (normal(1, 2, seed=6), normal(1, 2, seed=7))]
    pairs += [(torch.stack((equal[:, 0], equal[:, 1] + 1), 1), equal)]  # a component that is exactly right
    for p, t in pairs:
        d, M = p - t, p.numel()
        mistakes, backward = of_a_loss("absolute", "components", d)
        expect("The loss", loss.forward(prediction=p, target=t), d.abs().mean(), mistakes)
        backward |= {
            "it is the difference itself: of |d|, only the sign is left in the slope.": d / M,
            "it is the difference itself, and the 1/M is missing.": d,
            "it is 1/M everywhere: where the prediction is below the target, the loss falls when it rises.": (
                1 / M + 0 * d
            ),
        }
        got = tensor("The gradient", loss.backward())
        if got.shape == d.shape:
            # At the kink, every slope from -1 to 1 is a right one.
            got = torch.where((d == 0) & (got.abs() <= 1.0001 / M), 0.0, got)
        nan = "not a number, 0/0, where prediction and target are equal: take sign()."
        expect("The gradient", got, d.sign() / M, backward, {"p - t": d}, nan)
    check_memory("L1Loss", l1_loss, "prediction", "target")
    return "Each component pulls with the same force, however large its error."


@any_precision
def exercise_5(scale) -> str:
    for index, (N, features) in enumerate([(4, 3), (3, 3), (1, 2), (5, 1)]):
        seed = 3 * index
        passes = Passes("Scale", scale, features=features)
        factor = _factor(passes.module, features)
        a, X, G = normal(features, seed=seed), *(normal(N, features, seed=seed + more) for more in (1, 2))
        factor.copy_(a)
        mistakes = {
            "that is X, without the factors.": X,
            "X is divided by the factors.": X / a,
            "X and the factors are added.": X + a,
        }
        _watch(passes.module, factor, N)
        expect(f"Scale({features})(X)", passes.forward(input=X), X * a, mistakes)
        try:
            got = passes.backward(G)
        except NoAnswerError:
            raise NoAnswerError from None  # forward was given
        if not torch.equal(factor, a.to(factor.dtype)):
            raise AnswerError(
                "Scale.backward changes factor itself: that is up to the optimizer. Hand over its gradient."
            )
        if factor.grad is None:
            raise AnswerError("factor has no gradient: hand it to self.accumulate(factor, ...).")
        expected = (G * X).sum(0)
        factor_mistakes = {
            "it is the mean over the samples: contributions of paths are added.": expected / N,
            "it is the gradient from above alone: each path has the factor X.": G.sum(0),
            "it is X alone: multiply by the gradient from above.": X.sum(0),
            "the gradient from above and X are summed before they are multiplied.": G.sum(0) * X.sum(0),
            "it is that of the last sample alone: add over the samples.": (G * X)[-1],
            "it is that of the first sample alone: add over the samples.": (G * X)[0],
            "it is multiplied by the factor: Y = a X has the slope X for a.": expected * a,
            "it is that of the input: for a, the slope is X.": (G * a).sum(0),
            "it is summed over everything: each factor has its own gradient.": expected.sum() + 0 * expected,
        }
        expect("The gradient of factor", factor.grad, expected, factor_mistakes)
        input_mistakes = {
            "that is the gradient from above, unchanged. Multiply it by the factor.": G,
            "that is the factor alone. Multiply it by the gradient that arrives from above.": a + 0 * G,
            "that is the gradient of factor before its sum: for X, the slope is a.": G * X,
            "it is summed over the samples: every X has one path only.": (G * a).sum(0),
            "it is divided by the factor: multiply.": G / a,
            "it is multiplied by the output: for X, the slope is a.": G * X * a,
            "the factor is squared.": G * a * a,
            "the gradient of factor is returned; it goes to accumulate, and that of the input is returned.": expected,
        }
        expect("The gradient of the input", got, G * a, input_mistakes)
        passes.forward(input=X)
        passes.backward(2 * G)
        twice = {
            "a second backward replaces the gradient of the first: it must be added, by self.accumulate.": 2 * expected,
            "a second backward does not count: it must be added, by self.accumulate.": expected,
        }
        expect("The gradient of factor after two backwards", factor.grad, 3 * expected, twice)
    check_memory("Scale", scale, "input", features=lambda: 2)
    return "The factor's gradient sums over the samples, the input's does not."


@any_precision
def exercise_6(residual) -> str:
    for index, (N, size) in enumerate([(4, 3), (3, 3), (1, 2)]):
        seed = 4 * index
        inner = Linear(size, size)
        W, b = normal(size, size, seed=seed), normal(size, seed=seed + 1)
        X, G = normal(N, size, seed=seed + 2), normal(N, size, seed=seed + 3)
        inner.load_state_dict({"weight": W, "bias": b})
        passes = Passes("Residual", residual, inner=inner)
        f, through = torch.nn.functional.linear(X, W, b), G @ W
        mistakes = {
            "that is f(x) alone: the straight way is missing.": f,
            "that is x alone: what f makes of it is missing.": X,
            "the two ways are multiplied; where they meet, they are added.": X * f,
            "one way is subtracted; where they meet, they are added.": (f - X, X - f),
            "x is added twice.": f + 2 * X,
            "that is the mean of both ways, and their sum is wanted.": (X + f) / 2,
            "f is applied twice.": X + f @ W.T + b,
        }
        expect("Residual(inner)(x)", passes.forward(input=X), X + f, mistakes)
        _check_found(passes.module, inner)
        backward = {
            "that is what comes back through f alone: the straight way brings the gradient from above, too.": through,
            "that is what comes back along the straight way alone: what comes through f is missing.": G,
            "what comes back along the two paths is multiplied; paths add.": G * through,
            "the slope 1 of the straight way is added itself: multiply it by the gradient from above.": 1 + through,
            "the input is added; the straight way brings back the gradient from above.": X + through,
            "the straight way counts twice.": 2 * G + through,
            "what comes through f counts twice.": G + 2 * through,
            "one path is subtracted; paths add.": (through - G, G - through),
            "that is the mean over the two paths; paths add.": (G + through) / 2,
            "what has come through f goes on to f once more; it is done there.": (G + through) @ W,
        }
        expect("The gradient of the input", passes.backward(G), G + through, backward)
        if inner.weight.grad is None:
            raise AnswerError("The parameters of inner have no gradient: inner.backward is what gives it to them.")
        expected = G.T @ X
        parameter = {
            "inner gets what comes from its own backward, too; it should get the gradient from above alone.": (
                (G + through).T @ X
            ),
        }
        expect("The gradient of inner.weight", inner.weight.grad, expected, parameter)
        passes.forward(input=X)
        passes.backward(2 * G)
        twice = {"a second backward replaces the gradient of the first: leave the adding to inner.": 2 * expected}
        expect("The gradient of inner.weight after two backwards", inner.weight.grad, 3 * expected, twice)
    check_memory("Residual", residual, "input", inner=Tanh)
    X, G = normal(4, 3), normal(4, 3, seed=1)
    passes, y = Passes("Residual", residual, inner=Tanh()), X.tanh()
    linear = "it is right for a linear inner and wrong for Tanh(): inner may be any module."
    expect("Residual(Tanh())(x)", passes.forward(input=X), X + y)
    expect("The gradient of the input", passes.backward(G), G * (2 - y * y), {linear: G + G * y})
    return "Along the straight way the gradient comes back undiminished."


def _check_found(module, inner: Module) -> None:
    named = getattr(module, "parameters", None)
    found = list(named()) if callable(named) else []
    if all(parameter is not inner.weight for parameter in found):
        raise AnswerError(
            "The parameters of inner are not among those of the block, so that no optimizer would change them: "
            "derive Residual from Module and keep the module that it gets, inner itself, as an attribute."
        )


def _factor(module, features: int) -> Tensor:
    factor = getattr(module, "factor", None)
    if not isinstance(factor, Tensor) or factor.shape != (features,) or not factor.is_floating_point():
        raise AnswerError(
            f"Scale({features}) should have a tensor of {features} numbers called factor, as it was given."
        )
    named = getattr(module, "parameters", None)
    if not callable(named) or all(parameter is not factor for parameter in named()):
        raise AnswerError(
            'factor is not among the parameters: Scale needs parameter_names = ("factor",), with the comma.'
        )
    if factor.requires_grad:
        raise AnswerError("factor asks for autograd: parameters here are plain tensors, torch.ones(features).")
    return factor


def _watch(module, factor: Tensor, samples: int) -> None:
    """Name what accumulate should not get before PyTorch refuses it, which knows nothing of samples."""
    accumulate = module.accumulate

    def watched(parameter, gradient):
        if isinstance(parameter, str):
            raise AnswerError(f'accumulate gets the name "{parameter}", and should get the tensor, self.factor.')
        if gradient is factor:
            raise AnswerError("What accumulate gets is exchanged: first the parameter, factor, and then its gradient.")
        if parameter is not factor:
            raise AnswerError(
                "What accumulate gets first is not factor itself. self.recall gives what was remembered in the same "
                "order, after the gradient from above: gradient, input, factor."
            )
        if isinstance(gradient, Tensor) and gradient.shape != factor.shape:
            features = len(factor)
            words = f"should have shape ({features},), but has {tuple(gradient.shape)}"
            if gradient.shape == (samples, features) and samples > 1:
                words += ": the sum over the samples is missing"
            elif gradient.shape == (1, features):
                words += ": it has a dimension too many"
            elif gradient.shape == (features, features):
                words += ": that is for each pair of features; multiply number by number, *, and then sum"
            elif gradient.dim() == 0:
                words += ": it is summed over everything, and each factor has its own gradient"
            elif gradient.dim() == 1:
                words += ": it is summed over the features; the samples are what shares a factor"
            raise AnswerError(f"The gradient of factor {words}.")
        return accumulate(parameter, gradient)

    vars(module)["accumulate"] = watched
