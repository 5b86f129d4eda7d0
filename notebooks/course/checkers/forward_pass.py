"""The checkers of the notebook about the forward pass."""

import math

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from diy import Linear, ReLU
from gradcheck import digits

from .answers import AnswerError, expect, expect_number, expect_numbers, number
from .running import any_precision, names_in, normal, run


def exercise_1(parameters) -> str:
    mistakes = {
        "you counted the weights; each neuron also has a bias.": 2 * 25 + 25 * 25 + 25 * 2,
        "you counted only the biases.": 25 + 25 + 2,
        "a weight joins an input with a neuron: multiply the two sizes of a layer.": 2 + 25 + 25 + 25 + 25 + 2,
        "that is one layer too many: one hidden layer is taken out.": 777 + 650,
        "that is one layer too few: two hidden layers are left.": 777 - 650,
        "the layer that gives the 2 outputs is missing.": 75 + 650,
        "the first layer is missing: the 2 inputs lead to 25 neurons.": 650 + 52,
        "the neurons of the hidden layers have their biases, but those of the output have theirs too.": 777 - 2,
        "that is one bias for each input of a layer. A bias belongs to a neuron.": 725 + 2 + 25 + 25,
    }
    hint = "Write down, layer by layer, how many inputs and how many neurons it has; there are three layers."
    expect_number("The number of parameters", parameters, 777, mistakes, hint, units=("parameters",))
    return "75 in the first layer, 650 in the second, 52 in the third."


@any_precision
def exercise_2(linear_columns) -> str:
    # First all sizes are equal, so that a wrong product gives numbers rather than an exception.
    for index, (size_in, out, samples) in enumerate([(3, 3, 3), (3, 2, 2), (3, 2, 4), (4, 5, 1)]):
        seeds = range(3 * index, 3 * index + 3)
        X, W, b = (normal(*size, seed=s) for size, s in zip([(size_in, samples), (out, size_in), (out,)], seeds))
        expected = W @ X + b[:, None]
        mistakes = {
            "the result has one sample per row, and here samples are columns.": expected.T,
            "the bias is missing.": W @ X,
            "the bias is subtracted.": W @ X - b[:, None],
            "all neurons have the same bias: neuron k has its own, b[k].": W @ X + b[0],
            "b is added up over the neurons: neuron k has its own, b[k].": W @ X + b.sum(),
        }
        if samples == out:
            words = "b was added to every row. Neuron k is row k now: think of the shape that b must have for that."
            mistakes[words] = W @ X + b
        if samples == out == size_in:
            mistakes["W is transposed, though it has the shape (out, in) as before."] = W.T @ X + b[:, None]
            exchanged = "the factors are exchanged: the summed index i must stand in the middle."
            mistakes |= {exchanged: X @ W + b[:, None], exchanged + " And b was added to every row.": X @ W + b}
            mistakes["that is the layer for samples as rows; here they are columns."] = torch.addmm(b, X, W.mT)
            product = "it is multiplied number by number: a product of matrices is @."
            mistakes |= {product: W * X + b[:, None], product + " And b was added to every row.": W * X + b}
        got = run("linear_columns", linear_columns, X=X, W=W, b=b)
        expect(f"S for {samples} samples of {size_in} inputs and {out} neurons", got, expected, mistakes)
    return "Nothing has to be transposed: the summed index already stands in the middle."


EXPONENTIALS = {
    "exp",
    "exp2",
    "expm1",
    "sigmoid",
    "expit",
    "logsigmoid",
    "softmax",
    "softplus",
    "logaddexp",
    "sinh",
    "cosh",
    "math.e",
}
OPERATIONS = EXPONENTIALS | {"logsumexp", "silu", "glu", "gelu", "elu", "mish", "rpow"}
"""What an exponential can be called, in a learner's code and among PyTorch's functions."""


class _Exponentials(TorchFunctionMode):
    """Notes whether PyTorch is asked for an exponential, in whatever function that is hidden."""

    found = False

    def __torch_function__(self, function, types, args=(), kwargs=None):
        name = getattr(function, "__name__", "").removeprefix("special_").strip("_")
        kwargs = kwargs or {}
        power = name in ("pow", "float_power") and isinstance([*args, *kwargs.values()][1], Tensor)  # no mere square
        self.found |= name in OPERATIONS or power
        return function(*args, **kwargs)


@any_precision
def exercise_3(sigmoid) -> str:
    exponentials = _Exponentials()
    for s in torch.tensor([-1000.0, -2.0, -0.5, 0.0, 1.0, 3.0, 1000.0]), normal(3, 3), torch.tensor([0.7]):
        mistakes = {
            "the ends are right, but it is too steep by a factor of 2: look at the slope at 0.": (1 + s.tanh()) / 2,
            "the ends are right, but it is too flat: look at the slope at 0.": (1 + (s / 4).tanh()) / 2,
            "that is tanh itself, which goes from -1 to 1.": s.tanh(),
            "that is tanh with the right slope, and still goes from -1 to 1: shift it.": (s / 2).tanh(),
            "it goes from -½ to ½: shift it.": (s / 2).tanh() / 2,
            "it goes from 1 to 0: the sign of s is wrong.": torch.sigmoid(-s),
            "it goes from 0 to 2: halve it.": 1 + (s / 2).tanh(),
            "it goes from ½ to 1½: halve before you shift, or shift by less.": 1 + (s / 2).tanh() / 2,
            "it goes from 0 to 1, and then a half is added.": 0.5 + (s / 2).tanh(),
        }
        nan = "not a number, NaN, where s is large: there an exponential is infinite."
        with exponentials:
            got = run("sigmoid", sigmoid, s=s)
        expect("sigmoid(s)", got, torch.sigmoid(s), mistakes, {"s": s}, nan)
    if exponentials.found or EXPONENTIALS & names_in(sigmoid):
        raise AnswerError("The numbers are right. Now without exp and without torch.sigmoid: take tanh.")
    return "It holds for s = 1000 and s = -1000 as well."


def exercise_4(relu_std) -> str:
    cases = []
    for size_in in 50, 200, 7:
        mistakes = {
            "that is the variance; the standard deviation is its root.": 2 / size_in,
            "that keeps the size for tanh; ReLU halves the mean square.": math.sqrt(1 / size_in),
            "that halves the variance; ReLU halves the mean square, and the weights must make up for it.": math.sqrt(
                0.5 / size_in
            ),
            "a factor stands outside the root, and belongs under it.": 2 / math.sqrt(size_in),
            "the number of inputs belongs under the root, too.": math.sqrt(2) / size_in,
            "that is a variance, and for tanh.": 1 / size_in,
            "the more inputs, the smaller the weights must be: divide.": math.sqrt(2 * size_in),
            "that is the inverse: the more inputs, the smaller the weights must be.": math.sqrt(size_in / 2),
        }
        got = run("relu_std", relu_std, size_in=size_in)
        cases.append((f"relu_std({size_in})", got, math.sqrt(2 / size_in), mistakes, (size_in,)))

    def hint(std: float, size_in: int) -> str:
        if std <= 0:
            return "A standard deviation is above 0."
        return (
            f"With it, one layer and its ReLU multiply the mean square by {digits(size_in * std * std / 2, 1.0, 3)[0]}."
        )

    expect_numbers(cases, hint)
    generator = torch.Generator().manual_seed(0)
    value = torch.randn(200, 200, generator=generator)
    before = value.square().mean()
    std = number("relu_std(200)", run("relu_std", relu_std, size_in=200))
    for _ in range(30):
        layer = Linear(200, 200, bias=False)
        layer.weight.normal_(0, std, generator=generator)
        value = ReLU()(layer(value))
    ratio = float(value.square().mean() / before)
    if not 0.05 < ratio < 20:
        raise AnswerError(f"After 30 layers the mean square is {ratio:.1e} times that of the input.")
    return "After thirty layers of ReLU the signal still has its size."
