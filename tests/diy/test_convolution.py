"""Convolutions and their companions: by hand, against finite differences, against autograd, against PyTorch's own."""

import inspect
import math

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import nn

from gradcheck import check_gradients

# In float64 both sides round at 1e-16 per operation; sums of some hundred terms of size 1 stay far below this.
EXACT = {"rtol": 1e-11, "atol": 1e-11}


def numbers(*shape, seed=0, dtype=torch.float64):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def close(ours, theirs, **tolerance):
    torch.testing.assert_close(ours, theirs.detach(), **(tolerance or EXACT))


def backward_on_both_sides(ours, theirs, input, seed=1):
    """Run forward and backward on a diy module and its counterpart; compare output and all gradients."""
    leaf = input.detach().clone().requires_grad_()
    expected, got = theirs(leaf), ours(input)
    close(got, expected)
    gradient = numbers(*expected.shape, seed=seed)
    expected.backward(gradient)
    close(ours.backward(gradient), leaf.grad)
    for (name, parameter), counterpart in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        close(parameter.grad, counterpart.grad), name


def backward_by_autograd(module, formula, input):
    """Compare a module with a formula, written down independently, that autograd differentiates."""
    leaves = [tensor.detach().clone().requires_grad_() for tensor in (input, *module.parameters())]
    expected, got = formula(*leaves), module(input)
    close(got, expected)
    gradient = numbers(*expected.shape, seed=1)
    expected.backward(gradient)
    close(module.backward(gradient), leaves[0].grad)
    for parameter, leaf in zip(module.parameters(), leaves[1:], strict=True):
        close(parameter.grad, leaf.grad)


def convolution_by_index(input, weight, bias, stride, border):
    """(F29) pixel by pixel, as the index formula says."""
    padded = nn.functional.pad(input, border)
    (rows, columns), (down, right) = weight.shape[2:], stride
    pixels = [
        [
            torch.einsum("ncij,ocij->no", padded[:, :, y : y + rows, x : x + columns], weight) + bias
            for x in range(0, padded.shape[3] - columns + 1, right)
        ]
        for y in range(0, padded.shape[2] - rows + 1, down)
    ]
    return torch.stack([torch.stack(row, -1) for row in pixels], -2)


def pooling_by_index(input, kernel, stride, padding):
    """(F34) window by window; autograd's `max` along one dimension picks the first of equal values."""
    padded = nn.functional.pad(input, (padding[1], padding[1], padding[0], padding[0]), value=-math.inf)
    windows = [
        [
            padded[:, :, y : y + kernel[0], x : x + kernel[1]].flatten(2).max(-1).values
            for x in range(0, padded.shape[3] - kernel[1] + 1, stride[1])
        ]
        for y in range(0, padded.shape[2] - kernel[0] + 1, stride[0])
    ]
    return torch.stack([torch.stack(row, -1) for row in windows], -2)


def pairs(least, most):
    """One integer, or one for each direction."""
    integers = st.integers(least, most)
    return integers | st.tuples(integers, integers)


def both(value):
    return (value, value) if isinstance(value, int) else value


@st.composite
def convolutions(draw):
    """Arguments of a Conv2d, and a size of images that it accepts."""
    kernel, stride = draw(pairs(1, 4)), draw(pairs(1, 3))
    padding = draw(pairs(0, 3) | st.sampled_from(["same", "valid"]))
    stride = 1 if padding == "same" else stride
    border = (0, 0) if isinstance(padding, str) else both(padding)
    least = [max(1, size - 2 * frame) for size, frame in zip(both(kernel), border)]
    size = [draw(st.integers(low, low + 4)) for low in least]
    assume(padding != "same" or all(have >= want for have, want in zip(size, both(kernel))))
    channels = draw(st.tuples(st.integers(1, 3), st.integers(1, 3)))
    options = {"stride": stride, "padding": padding, "bias": draw(st.booleans())}
    return (*channels, kernel), options, (draw(st.integers(0, 3)), channels[0], *size)


@st.composite
def poolings(draw):
    """Arguments of a MaxPool2d, and images with few different values, so that ties are everywhere."""
    kernel = draw(pairs(1, 4))
    padding = tuple(draw(st.integers(0, size // 2)) for size in both(kernel))
    stride = draw(st.none() | pairs(1, 3))
    size = [draw(st.integers(max(1, want - 2 * frame), want + 4)) for want, frame in zip(both(kernel), padding)]
    shape = (draw(st.integers(1, 2)), draw(st.integers(1, 3)), *size)
    values = draw(st.lists(st.sampled_from([-math.inf, -1.0, 0.0, 0.0, 2.0]), min_size=1, max_size=40))
    count = math.prod(shape)
    images = torch.tensor((values * (count // len(values) + 1))[:count], dtype=torch.float64).view(shape)
    return kernel, stride, padding, images


# Conv2d


@pytest.mark.formula("F29", "F30", "F31", "F32")
def test_a_convolution_by_hand(diy):
    layer = diy.Conv2d(1, 1, 2, dtype=torch.float64)
    layer.weight.copy_(torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]]))
    layer.bias.fill_(0.5)
    image = torch.arange(9.0, dtype=torch.float64).view(1, 1, 3, 3)  # 0 1 2 / 3 4 5 / 6 7 8
    # The kernel lies on the image as it is: 1·0 + 2·1 + 3·3 + 4·4 = 27. Flipped it would give 4·0 + 3·1 + 2·3 + 1·4.
    assert layer(image).tolist() == [[[[27.5, 37.5], [57.5, 67.5]]]]
    gradient = torch.tensor([[[[1.0, 0.0], [0.0, 10.0]]]], dtype=torch.float64)
    # The pixel in the middle is seen by both windows, under 4 and under 1: 1·4 + 10·1.
    assert layer.backward(gradient).tolist() == [[[[1, 2, 0], [3, 14, 20], [0, 30, 40]]]]
    assert layer.weight.grad.tolist() == [[[[40, 51], [73, 84]]]]  # the two windows, 1 times and 10 times
    assert layer.bias.grad.tolist() == [11]


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")  # PyTorch's own, about a copy it makes
@pytest.mark.formula("F29", "F30", "F31", "F32")
@given(convolutions())
def test_convolution_is_pytorchs(diy, case):
    arguments, options, shape = case
    ours, theirs = (module.Conv2d(*arguments, **options, dtype=torch.float64) for module in (diy, nn))
    theirs.load_state_dict(ours.state_dict())
    backward_on_both_sides(ours, theirs, numbers(*shape))


@pytest.mark.formula("F29", "F30", "F31", "F32")
@given(convolutions())
def test_convolution_by_autograd(diy, case):
    arguments, options, shape = case
    layer = diy.Conv2d(*arguments, **(options | {"bias": True}), dtype=torch.float64)
    kernel, padding = both(arguments[2]), options["padding"]
    (top, left), (bottom, right) = ((0, 0), (0, 0)) if isinstance(padding, str) else (both(padding), both(padding))
    if padding == "same":  # the odd one out goes to the bottom and to the right
        (top, left), (bottom, right) = ([(size - 1) // 2 for size in kernel], [size // 2 for size in kernel])
    border, stride = (left, right, top, bottom), both(options["stride"])
    backward_by_autograd(layer, lambda x, w, b: convolution_by_index(x, w, b, stride, border), numbers(*shape))


@pytest.mark.formula("F30", "F31", "F32")
@pytest.mark.parametrize(
    ("kernel", "options"),
    [
        (3, {}),
        (2, {"stride": 2}),
        ((3, 2), {"padding": (2, 1)}),
        (2, {"padding": "same"}),
        (3, {"stride": 3, "padding": 1}),
    ],
    ids=str,
)
def test_the_slopes_of_a_convolution(diy, kernel, options):
    assert check_gradients(diy.Conv2d(2, 3, kernel, **options), numbers(2, 2, 5, 4), verbose=False)


@pytest.mark.formula("F32")
def test_the_input_gradient_is_a_correlation_with_the_flipped_kernel(diy):
    layer, flipped = (
        diy.Conv2d(3, 2, (3, 4), dtype=torch.float64),
        diy.Conv2d(2, 3, (3, 4), padding=(2, 3), bias=False, dtype=torch.float64),
    )
    flipped.weight.copy_(layer.weight.flip(2, 3).transpose(0, 1))
    input = numbers(2, 3, 6, 7)
    gradient = numbers(*layer(input).shape, seed=1)
    close(layer.backward(gradient), flipped(gradient))


@pytest.mark.formula("F29", "F32")
def test_padding_gets_no_gradient(diy):
    # An image of one pixel under a 3 × 3 kernel: only the weight in the middle ever sees it.
    layer = diy.Conv2d(1, 1, 3, padding=1, dtype=torch.float64)
    image = numbers(1, 1, 1, 1)
    close(layer(image).squeeze(), layer.weight[0, 0, 1, 1] * image.squeeze() + layer.bias[0])
    gradient = layer.backward(torch.ones(1, 1, 1, 1, dtype=torch.float64))
    assert gradient.shape == image.shape
    close(gradient.squeeze(), layer.weight[0, 0, 1, 1])
    assert layer.weight.grad.count_nonzero() == 1


def test_a_first_layer_may_spare_the_input_gradient(diy):
    layers = [diy.Conv2d(2, 3, 3, dtype=torch.float64) for _ in range(2)]
    layers[1].load_state_dict(layers[0].state_dict())
    layers[1].needs_input_grad = False
    for layer in layers:
        layer(numbers(2, 2, 5, 5))
    gradient = numbers(2, 3, 3, 3, seed=1)
    assert layers[0].backward(gradient).shape == (2, 2, 5, 5)
    assert layers[1].backward(gradient) is None
    for ours, theirs in zip(*(layer.parameters() for layer in layers)):
        assert torch.equal(ours.grad, theirs.grad)


@pytest.mark.parametrize("name", ["Conv2d", "MaxPool2d", "BatchNorm2d"])
@pytest.mark.parametrize("layout", ["channels last", "samples last", "every second", "one row for all"])
def test_the_layout_in_memory_does_not_matter(diy, name, layout):
    layer = {
        "Conv2d": lambda: diy.Conv2d(3, 2, 3, stride=2, padding=1, dtype=torch.float64),
        "MaxPool2d": lambda: diy.MaxPool2d(3, 2, 1),
        "BatchNorm2d": lambda: diy.BatchNorm2d(3, momentum=0.0, dtype=torch.float64),
    }[name]()
    plain = {
        "channels last": lambda: numbers(4, 3, 6, 5).contiguous(memory_format=torch.channels_last),
        "samples last": lambda: numbers(3, 6, 5, 4).permute(3, 0, 1, 2),
        "every second": lambda: numbers(4, 6, 12, 5)[:, ::2, ::2],
        "one row for all": lambda: numbers(4, 3, 1, 5).expand(4, 3, 6, 5),
    }[layout]()
    outputs, gradients = [], []
    for image in (plain, plain.contiguous()):
        outputs.append(layer(image))
        same = numbers(1, 1, *outputs[0].shape[2:], seed=1).expand(outputs[0].shape)
        gradients.append(layer.backward(same if image is plain else same.contiguous()))
    close(*outputs)
    close(*gradients)


# MaxPool2d


@pytest.mark.formula("F34", "F35")
def test_pooling_by_hand(diy):
    layer = diy.MaxPool2d(2)
    image = torch.tensor([[[[1.0, 5.0, 2.0, 2.0], [3.0, 4.0, 2.0, 2.0]]]])
    assert layer(image).tolist() == [[[[5, 2]]]]
    # In the second window all four are equal: the first one gets everything.
    assert layer.backward(torch.tensor([[[[10.0, 20.0]]]])).tolist() == [[[[0, 10, 20, 0], [0, 0, 0, 0]]]]


@pytest.mark.formula("F35")
def test_windows_that_overlap_add_up(diy):
    layer = diy.MaxPool2d(2, stride=1)
    image = torch.tensor([[[[0.0, 0.0, 0.0], [0.0, 9.0, 0.0], [0.0, 0.0, 0.0]]]])
    layer(image)
    assert layer.backward(torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]])).flatten().tolist() == [0, 0, 0, 0, 10, 0, 0, 0, 0]


@pytest.mark.formula("F34", "F35")
@given(poolings())
def test_pooling_is_pytorchs_with_ties(diy, case):
    *arguments, images = case
    backward_on_both_sides(diy.MaxPool2d(*arguments), nn.MaxPool2d(*arguments), images)


@pytest.mark.formula("F34", "F35")
@given(poolings())
def test_pooling_by_autograd(diy, case):
    kernel, stride, padding, images = case
    # Where a window holds nothing but −∞, the padding ties with the image, and only this formula lets it win.
    images = images.clamp(min=-1e9)
    layer, steps = diy.MaxPool2d(kernel, stride, padding), both(kernel if stride is None else stride)
    backward_by_autograd(layer, lambda x: pooling_by_index(x, both(kernel), steps, padding), images)


@pytest.mark.formula("F35")
@pytest.mark.parametrize("arguments", [(2,), (3, 1), (3, 2, 1), ((1, 2), (2, 1))], ids=str)
def test_the_slopes_of_pooling(diy, arguments):
    assert check_gradients(diy.MaxPool2d(*arguments), numbers(2, 2, 5, 4), verbose=False)


def test_a_window_with_nan(diy):
    images = torch.tensor([[[[1.0, math.nan, 3.0, 4.0]]]])
    layer = diy.MaxPool2d((1, 2))
    assert layer(images).isnan().flatten().tolist() == [True, False]
    assert layer.backward(torch.ones(1, 1, 1, 2)).flatten().tolist() == [0, 0, 0, 1]


# BatchNorm2d


@pytest.mark.formula("F36", "F37", "F38", "F39")
def test_batch_norm_by_hand(diy):
    layer = diy.BatchNorm2d(1, eps=1e-300, momentum=0.5, dtype=torch.float64)  # 1 + ε is 1
    layer.weight.fill_(10)
    layer.bias.fill_(1)
    image = torch.tensor([0.0, 2.0], dtype=torch.float64).view(2, 1, 1, 1)  # mean 1, variance 1, unbiased 2
    assert layer(image).flatten().tolist() == [-9, 11]
    assert (layer.running_mean.item(), layer.running_var.item(), layer.num_batches_tracked.item()) == (0.5, 1.5, 1)
    # Two values always come out as −1 and 1: moving them changes nothing.
    assert layer.backward(torch.tensor([3.0, 5.0], dtype=torch.float64).view(2, 1, 1, 1)).flatten().tolist() == [0, 0]
    assert (layer.weight.grad.item(), layer.bias.grad.item()) == (2, 8)


@pytest.mark.formula("F36", "F37", "F38", "F39", "F40")
@given(
    shape=st.tuples(st.integers(1, 4), st.integers(1, 3), st.integers(1, 4), st.integers(1, 4)),
    momentum=st.floats(0, 1),
    eps=st.sampled_from([1e-5, 0.1]),
    steps=st.integers(1, 4),
)
def test_batch_norm_is_pytorchs(diy, shape, momentum, eps, steps):
    assume(shape[0] * shape[2] * shape[3] > 1)
    ours, theirs = (m.BatchNorm2d(shape[1], eps=eps, momentum=momentum, dtype=torch.float64) for m in (diy, nn))
    for parameter, counterpart in zip(ours.parameters(), theirs.parameters()):
        parameter.copy_(numbers(shape[1], seed=7))
        counterpart.data.copy_(parameter)
    for step in range(steps):
        ours.zero_grad()
        theirs.zero_grad()
        # Two equal pixels have the variance 0 up to rounding, which ε = 1e-5 lets through 300-fold: hence values apart.
        backward_on_both_sides(ours, theirs, 3 * numbers(*shape, seed=step) + 1, seed=10 + step)
        for name, tensor in theirs.state_dict().items():
            close(ours.state_dict()[name], tensor)
    ours.eval()
    theirs.eval()
    ours.zero_grad()
    theirs.zero_grad()
    backward_on_both_sides(ours, theirs, numbers(*shape, seed=99))
    assert ours.num_batches_tracked == steps, "evaluation leaves the statistics alone"


@pytest.mark.formula("F36", "F40")
def test_batch_norm_by_autograd(diy):
    def formula(x, weight, bias):
        centred = x - x.mean((0, 2, 3), keepdim=True)
        normalized = centred / (centred.square().mean((0, 2, 3), keepdim=True) + 1e-5).sqrt()
        return normalized * weight.view(1, -1, 1, 1) + bias.view(1, -1, 1, 1)

    layer = diy.BatchNorm2d(3, dtype=torch.float64)
    layer.weight.copy_(numbers(3, seed=5))
    backward_by_autograd(layer, formula, numbers(4, 3, 3, 2))


@pytest.mark.formula("F38", "F39", "F40")
@pytest.mark.parametrize("training", [True, False])
def test_the_slopes_of_batch_norm(diy, training):
    layer = diy.BatchNorm2d(2)
    layer.weight.copy_(torch.tensor([0.5, -2.0]))
    layer.running_var.fill_(3.0)
    assert check_gradients(layer.train(training), numbers(3, 2, 2, 2), verbose=False)


def test_batch_norm_keeps_its_state(diy):
    layer = diy.BatchNorm2d(3)
    layer(numbers(4, 3, 5, 5, dtype=torch.float32))
    counterpart = nn.BatchNorm2d(3)
    counterpart.load_state_dict(layer.state_dict())
    again = diy.BatchNorm2d(3)
    again.load_state_dict(counterpart.state_dict())
    assert list(layer.state_dict()) == list(counterpart.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(layer.state_dict().values(), again.state_dict().values()))
    assert len(list(layer.parameters())) == 2, "statistics are not learned"
    layer.to(torch.float64)
    assert (layer.running_mean.dtype, layer.num_batches_tracked.dtype) == (torch.float64, torch.int64)


@pytest.mark.parametrize("kind, sizes", [("Conv2d", (2, 3, 2)), ("BatchNorm2d", (2,)), ("Linear", (4, 3))])
def test_a_layer_can_begin_again_as_in_pytorch(diy, kind, sizes):
    class Mine(getattr(diy, kind)):
        def reset_parameters(self):
            super().reset_parameters()
            self.weight.fill_(7)

    assert Mine(*sizes).weight.unique().item() == 7
    torch.manual_seed(1)
    layer = getattr(diy, kind)(*sizes)
    first = {name: tensor.clone() for name, tensor in layer.state_dict().items()}
    for tensor in layer.state_dict().values():
        tensor.fill_(3)
    torch.manual_seed(1)
    layer.reset_parameters()
    for name, tensor in layer.state_dict().items():
        assert torch.equal(tensor, first[name]), name


def test_batch_norm_needs_two_values_per_channel(diy):
    layer = diy.BatchNorm2d(2)
    with pytest.raises(ValueError, match=r"2 values per channel, got \(1, 2, 1, 1\)"):
        layer(torch.zeros(1, 2, 1, 1))
    assert layer.num_batches_tracked == 0 and not layer.running_mean.any(), "a refused input changes nothing"
    assert layer.eval()(torch.zeros(1, 2, 1, 1)).tolist() == [[[[0]], [[0]]]]


@pytest.mark.parametrize("training", [True, False])
def test_an_empty_batch_leaves_the_statistics_as_they_are(diy, training):
    ours, theirs = diy.BatchNorm2d(2).train(training), nn.BatchNorm2d(2).train(training)
    empty = torch.zeros(0, 2, 3, 3)
    assert ours(empty).shape == theirs(empty).shape == empty.shape
    assert ours.backward(empty).shape == empty.shape
    assert ours.weight.grad.tolist() == ours.bias.grad.tolist() == [0, 0]
    for name, tensor in theirs.state_dict().items():
        assert torch.equal(ours.state_dict()[name], tensor), name


def test_repr_shows_what_is_flattened(diy):
    assert repr(diy.Flatten(2)) == repr(nn.Flatten(2)) == "Flatten(start_dim=2, end_dim=-1)"


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"eps": -1e-5}, ValueError, "^eps must be a finite number ≥ 0, got -1e-05"),
        ({"eps": None}, TypeError, "^eps must be a number"),
        ({"momentum": -0.1}, ValueError, r"^momentum must be a finite number in \[0, 1\], got -0\.1"),
        ({"momentum": 1.1}, ValueError, r"^momentum must be a finite number in \[0, 1\], got 1\.1"),
        ({"momentum": None}, TypeError, "^momentum must be a number"),
    ],
    ids=str,
)
def test_options_of_batch_norm_out_of_range(diy, options, error, words):
    with pytest.raises(error, match=words):
        diy.BatchNorm2d(2, **options)
    with pytest.raises(ValueError, match="eps must be above 0, got 0"):
        diy.BatchNorm2d(2, eps=0)
    diy.BatchNorm2d(2, momentum=1)
    diy.BatchNorm2d(2, momentum=0)


# Flatten and Sigmoid


@pytest.mark.formula("F41", "F42")
@pytest.mark.parametrize("arguments", [(), (0,), (1, 2), (-2, -1), (2, 2)], ids=str)
def test_flatten_is_pytorchs(diy, arguments):
    backward_on_both_sides(diy.Flatten(*arguments), nn.Flatten(*arguments), numbers(2, 3, 4, 5))
    assert diy.Flatten(*arguments)(numbers(2, 3, 4, 5)).shape == numbers(2, 3, 4, 5).flatten(*(arguments or (1,))).shape


def test_a_dimension_that_cannot_be_flattened_names_the_layer(diy):
    with pytest.raises(IndexError, match=r"^layer 1, Flatten\(.*\): Dimension out of range"):
        diy.Sequential(diy.ReLU(), diy.Flatten())(torch.zeros(3))


@pytest.mark.formula("F21", "F22")
def test_sigmoid_by_hand(diy):
    layer = diy.Sigmoid()
    close(layer(torch.tensor([0.0, math.log(3), -math.log(3)])), torch.tensor([0.5, 0.75, 0.25]), rtol=1e-6, atol=0)
    expected = torch.tensor([0.25, 0.1875, 0.1875])  # 1/2 · 1/2 and 3/4 · 1/4
    close(layer.backward(torch.ones(3)), expected, rtol=1e-6, atol=0)


@pytest.mark.formula("F21", "F22")
def test_sigmoid_is_pytorchs_and_has_the_right_slopes(diy):
    backward_on_both_sides(diy.Sigmoid(), nn.Sigmoid(), 5 * numbers(3, 4))
    backward_by_autograd(diy.Sigmoid(), lambda x: 1 / (1 + torch.exp(-x)), numbers(3, 4))
    assert check_gradients(diy.Sigmoid(), numbers(3, 4), verbose=False)
    assert diy.Sigmoid()(torch.tensor([-1e4, 1e4])).tolist() == [0, 1]


# CrossEntropyLoss


@pytest.mark.formula("F23", "F24")
def test_cross_entropy_by_hand(diy):
    criterion = diy.CrossEntropyLoss()
    scores = torch.tensor([[0.0, math.log(3)], [0.0, 0.0]], dtype=torch.float64)  # q = 1/4, 3/4 and 1/2, 1/2
    loss = criterion(scores, torch.tensor([0, 1]))
    assert loss.item() == pytest.approx((math.log(4) + math.log(2)) / 2, rel=1e-14)
    close(criterion.backward(), torch.tensor([[-0.375, 0.375], [0.25, -0.25]], dtype=torch.float64))


@pytest.mark.formula("F23", "F24")
@pytest.mark.parametrize("reduction", ["mean", "sum"])
@given(samples=st.integers(1, 5), classes=st.integers(1, 6), size=st.sampled_from([0.0, 1.0, 1e3, 1e30]))
def test_cross_entropy_is_pytorchs(diy, reduction, samples, classes, size):
    ours, theirs = diy.CrossEntropyLoss(reduction=reduction), nn.CrossEntropyLoss(reduction=reduction)
    scores = (size * numbers(samples, classes)).requires_grad_()
    target = torch.arange(samples) % classes
    expected = theirs(scores, target)
    expected.backward()
    close(ours(scores, target), expected)
    close(ours.backward(), scores.grad)


@pytest.mark.formula("F24")
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_cross_entropy_by_autograd_and_its_slopes(diy, reduction):
    scores, target = numbers(4, 3).requires_grad_(), torch.tensor([2, 0, 1, 1])
    right = torch.softmax(scores, 1)[torch.arange(4), target]
    losses = -right.log()
    (losses.mean() if reduction == "mean" else losses.sum()).backward()
    criterion = diy.CrossEntropyLoss(reduction=reduction)
    criterion(scores, target)
    close(criterion.backward(), scores.grad)
    assert check_gradients(criterion, scores.detach(), target, verbose=False)


@pytest.mark.formula("F23")
def test_large_scores_neither_overflow_nor_vanish(diy):
    criterion = diy.CrossEntropyLoss(reduction="sum")
    for dtype in (torch.float32, torch.float64):
        scores = torch.tensor([[1e4, 0.0], [-1e4, -2e4], [0.0, -math.inf]], dtype=dtype)
        assert criterion(scores, torch.tensor([1, 0, 0])).item() == 1e4
        assert criterion.backward().tolist() == [[1, -1], [0, 0], [0, 0]]


def test_cross_entropy_without_numbers_has_shapes(diy):
    criterion = diy.CrossEntropyLoss()
    assert criterion(torch.empty(4, 3, device="meta"), torch.empty(4, dtype=torch.int64, device="meta")).shape == ()
    assert criterion.backward().shape == (4, 3)


def test_an_empty_batch(diy):
    criterion = diy.CrossEntropyLoss(reduction="sum")
    assert criterion(torch.zeros(0, 3), torch.zeros(0, dtype=torch.int64)).item() == 0
    assert criterion.backward().shape == (0, 3)
    model = diy.Sequential(diy.Conv2d(1, 2, 3), diy.ReLU(), diy.MaxPool2d(2), diy.Flatten(), diy.Linear(2, 3))
    assert model(torch.zeros(0, 1, 4, 4)).shape == (0, 3)
    assert model.backward(torch.zeros(0, 3)).shape == (0, 1, 4, 4)
    assert all(not parameter.grad.any() for parameter in model.parameters())


@pytest.mark.parametrize(
    ("prediction", "target", "error", "words"),
    [
        (torch.zeros(2, 3), torch.zeros(2), TypeError, r"target must be .* class indices, int64, got torch\.float32"),
        (torch.zeros(2, 3), [0, 1], TypeError, "target must be .* got list"),
        (torch.zeros(2, 3, dtype=torch.int64), torch.tensor([0, 1]), TypeError, "the prediction must be .*floating"),
        (torch.zeros(2, 3), torch.tensor([0]), ValueError, r"got \(2, 3\) and \(1,\)"),
        (torch.zeros(2, 3), torch.zeros(2, 3, dtype=torch.int64), ValueError, r"got \(2, 3\) and \(2, 3\)"),
        (torch.zeros(3), torch.tensor(0), ValueError, r"got \(3,\) and \(\)"),
        (torch.zeros(2, 3), torch.tensor([0, 3]), ValueError, "indices from 0 to 2, got 0 to 3"),
        (torch.zeros(2, 3), torch.tensor([-1, 2]), ValueError, "indices from 0 to 2, got -1 to 2"),
    ],
    ids=range(8),
)
def test_scores_and_classes_that_do_not_fit(diy, prediction, target, error, words):
    criterion = diy.CrossEntropyLoss()
    criterion(torch.zeros(1, 2), torch.tensor([0]))
    with pytest.raises(error, match=words):
        criterion(prediction, target)
    assert criterion.backward().tolist() == [[-0.5, 0.5]], "a refused call changes nothing"
    with pytest.raises(RuntimeError, match=r"no forward is waiting for CrossEntropyLoss\.backward"):
        criterion.backward()


def test_the_classes_of_a_stack_are_those_of_each_network(diy):
    with pytest.raises(ValueError, match="indices from 0 to 2, got 0 to 3"):
        diy.CrossEntropyLoss(stacked=True)(torch.zeros(2, 4, 3), torch.tensor([[0, 1, 2, 3]] * 2))


def test_the_target_may_change_after_forward(diy):
    criterion, target = diy.CrossEntropyLoss(), torch.tensor([0])
    criterion(torch.zeros(1, 2), target)
    target.fill_(1)
    assert criterion.backward().tolist() == [[-0.5, 0.5]]


def test_cross_entropy_of_a_stack(diy):
    scores, target = numbers(3, 4, 5), torch.arange(12).view(3, 4) % 5
    stacked, alone = diy.CrossEntropyLoss(stacked=True), diy.CrossEntropyLoss()
    losses = stacked(scores, target)
    for index, gradient in enumerate(stacked.backward()):
        close(losses[index], alone(scores[index], target[index]))
        close(gradient, alone.backward())


# Adam


@pytest.mark.formula("F27")
def test_adam_by_hand(diy):
    # After the bias correction the first step is lr · g / (|g| + ε), whatever the size of the gradient.
    weight = torch.tensor([1.0, 1.0, 1.0], dtype=torch.float64)
    optimizer = diy.Adam([weight], lr=0.1, eps=0)
    weight.grad = torch.tensor([1e-3, -5.0, 1e3], dtype=torch.float64)
    optimizer.step()
    close(weight, torch.tensor([0.9, 1.1, 0.9], dtype=torch.float64))
    # Then a gradient of 0: m̂ = 0.09 g / 0.19, v̂ = 0.000999 g² / 0.001999.
    weight.grad = torch.zeros(3, dtype=torch.float64)
    optimizer.step()
    share = 0.1 * (0.09 / 0.19) / math.sqrt(0.000999 / 0.001999)
    close(weight, torch.tensor([0.9 - share, 1.1 + share, 0.9 - share], dtype=torch.float64))


@pytest.mark.formula("F27")
@pytest.mark.parametrize(
    "options",
    [{}, {"lr": 0.1}, {"betas": (0.5, 0.9)}, {"betas": (0.0, 0.0)}, {"eps": 0.1}, {"weight_decay": 0.1}],
    ids=str,
)
def test_adam_takes_pytorchs_steps(diy, options):
    ours = [numbers(3, 2), numbers(4, seed=1), numbers(2, seed=2)]
    theirs = [tensor.clone().requires_grad_() for tensor in ours]
    mine, yours = diy.Adam(ours, **options), torch.optim.Adam(theirs, **options)
    for step in range(30):
        for index, (parameter, counterpart) in enumerate(zip(ours, theirs)):
            # The last parameter gets a gradient only now and then: it must count its own steps.
            gradient = None if index == 2 and step % 3 else numbers(*parameter.shape, seed=step)
            parameter.grad, counterpart.grad = gradient, None if gradient is None else gradient.clone()
        mine.step()
        yours.step()
    for parameter, counterpart in zip(ours, theirs):
        close(parameter, counterpart)


def test_adam_of_a_stack_takes_the_steps_of_each(diy):
    alone = [numbers(2, seed=index) for index in range(3)]
    together = torch.stack(alone)
    rates = [0.1, 0.01, 0.001]
    optimizer = diy.Adam([together], lr=torch.tensor(rates))
    optimizers = [diy.Adam([weight], lr=rate) for weight, rate in zip(alone, rates)]
    for step in range(5):
        together.grad = numbers(3, 2, seed=step)
        optimizer.step()
        for weight, gradient, one in zip(alone, together.grad, optimizers):
            weight.grad = gradient
            one.step()
    # The rates come as a float32 tensor, 1e-8 away from the Python numbers.
    close(together, torch.stack(alone), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"betas": (0.9, 1.0)}, ValueError, r"betas must be two numbers in \[0, 1\), got \(0\.9, 1\.0\)"),
        ({"betas": (0.9,)}, ValueError, "two numbers"),
        ({"betas": (-0.1, 0.9)}, ValueError, "betas must be"),
        ({"betas": ("0.9", 0.9)}, TypeError, "every beta must be a number, got '0.9'"),
        ({"eps": -1e-8}, ValueError, "eps must be a finite number ≥ 0"),
        ({"weight_decay": -1}, ValueError, "weight_decay must be a finite number ≥ 0"),
        ({"lr": math.nan}, ValueError, "the learning rate must be a finite number"),
        ({"amsgrad": True}, ValueError, "Adam supports PyTorch's argument amsgrad only as False, got True"),
    ],
    ids=str,
)
def test_options_of_adam_out_of_range(diy, options, error, words):
    with pytest.raises(error, match=words):
        diy.Adam([torch.zeros(1)], **options)


# Initialization


@pytest.mark.formula("F33")
@pytest.mark.parametrize(("mode", "fan"), [("fan_in", 100 * 9), ("fan_out", 200 * 9)])
def test_he_initialization(diy, mode, fan):
    torch.manual_seed(3)
    weight = diy.kaiming_normal_(torch.empty(200, 100, 3, 3), mode=mode)
    # 180,000 numbers: mean and standard deviation are known to about 1/√180,000 of σ; five times that is allowed.
    sigma = math.sqrt(2 / fan)
    assert abs(weight.mean()) < 5 * sigma / math.sqrt(180_000)
    assert abs(weight.std() / sigma - 1) < 5 / math.sqrt(2 * 180_000)


@pytest.mark.formula("F33")
@pytest.mark.parametrize("shape", [(4, 3), (4, 3, 2, 5)], ids=str)
@pytest.mark.parametrize("mode", ["fan_in", "fan_out"])
def test_he_initialization_is_pytorchs(diy, shape, mode):
    drawn = []
    for function in (diy.kaiming_normal_, nn.init.kaiming_normal_):
        torch.manual_seed(0)
        drawn.append(function(torch.empty(shape), mode=mode))
    assert torch.equal(*drawn)


@pytest.mark.formula("F33")
def test_a_convolution_begins_with_he(diy):
    torch.manual_seed(0)
    layer = diy.Conv2d(3, 4, 5)
    torch.manual_seed(0)
    assert torch.equal(layer.weight, diy.kaiming_normal_(torch.empty(4, 3, 5, 5)))
    assert not layer.bias.any()


@pytest.mark.parametrize(("shape", "mode"), [((3,), "fan_in"), ((3, 4), "fan_avg")], ids=str)
def test_he_refuses(diy, shape, mode):
    weight = torch.zeros(shape)
    with pytest.raises(ValueError, match='expected "fan_in" or "fan_out" and a weight'):
        diy.kaiming_normal_(weight, mode=mode)
    assert not weight.any()


# What holds for all of them


LAYERS = {
    "Conv2d": lambda diy: diy.Conv2d(2, 3, 2),
    "MaxPool2d": lambda diy: diy.MaxPool2d(2),
    "BatchNorm2d": lambda diy: diy.BatchNorm2d(2),
    "Flatten": lambda diy: diy.Flatten(),
    "Sigmoid": lambda diy: diy.Sigmoid(),
}


@pytest.mark.parametrize(
    ("name", "counterpart"),
    [
        ("Conv2d", nn.Conv2d),
        ("MaxPool2d", nn.MaxPool2d),
        ("BatchNorm2d", nn.BatchNorm2d),
        ("Flatten", nn.Flatten),
        ("Sigmoid", nn.Sigmoid),
        ("Adam", torch.optim.Adam),
    ],
)
def test_arguments_and_defaults_are_pytorchs(diy, name, counterpart):
    ours = inspect.signature(getattr(diy, name)).parameters
    theirs = inspect.signature(counterpart).parameters
    alike = {"parameters": "params"}
    positional = [argument for argument, value in ours.items() if value.kind is value.POSITIONAL_OR_KEYWORD]
    assert [alike.get(argument, argument) for argument in positional] == list(theirs)[: len(positional)]
    for argument, parameter in ours.items():
        assert parameter.default == theirs[alike.get(argument, argument)].default, argument


@pytest.mark.parametrize("name", LAYERS)
def test_backward_before_forward_and_twice(diy, name):
    layer = LAYERS[name](diy)
    with pytest.raises(RuntimeError, match=rf"no forward is waiting for {name}\.backward"):
        layer.backward(torch.zeros(1))
    output = layer(numbers(2, 2, 4, 4, dtype=torch.float32))
    layer.backward(torch.ones_like(output))
    before = [parameter.grad.clone() for parameter in layer.parameters()]
    with pytest.raises(RuntimeError, match="no forward is waiting"):
        layer.backward(torch.ones_like(output))
    assert all(torch.equal(a, b.grad) for a, b in zip(before, layer.parameters()))


@pytest.mark.parametrize("name", LAYERS)
def test_a_gradient_that_does_not_fit(diy, name):
    layer = LAYERS[name](diy)
    output = layer(numbers(2, 2, 4, 4, dtype=torch.float32))
    with pytest.raises(TypeError, match=r"torch\.float32, got torch\.float64"):
        layer.backward(torch.ones_like(output).double())
    with pytest.raises(ValueError, match=r"the shape of the output"):
        layer.backward(torch.ones_like(output)[:1])
    assert all(parameter.grad is None for parameter in layer.parameters()), "a refused gradient changes nothing"
    assert layer.backward(torch.ones_like(output)).shape == (2, 2, 4, 4)


@pytest.mark.parametrize("name", ["Conv2d", "MaxPool2d"])
def test_an_input_that_changed_since_forward(diy, name):
    layer, input = LAYERS[name](diy), numbers(2, 2, 4, 4, dtype=torch.float32)
    output = layer(input)
    input += 1
    with pytest.raises(
        RuntimeError, match=rf"of shape \(2, 2, 4, 4\) that {name}\.backward needs was changed in place"
    ):
        layer.backward(torch.ones_like(output))


@pytest.mark.parametrize("name", ["Sigmoid", "MaxPool2d"])
def test_an_output_that_changed_since_forward(diy, name):
    layer = LAYERS[name](diy)
    input = numbers(2, 2, 4, 4, dtype=torch.float32)
    gradient = torch.ones_like(layer(input))
    right = layer.backward(gradient)
    output = layer(input)
    output += 1
    if name == "MaxPool2d":  # the output is a copy of what backward needs
        assert layer.backward(gradient).equal(right)
    else:
        with pytest.raises(RuntimeError, match="changed in place"):
            layer.backward(gradient)


@pytest.mark.parametrize("name", ["Conv2d", "BatchNorm2d"])
def test_weights_that_changed_since_forward(diy, name):
    layer = LAYERS[name](diy)
    output = layer(numbers(2, 2, 4, 4, dtype=torch.float32))
    layer.weight += 1
    with pytest.raises(RuntimeError, match="changed in place"):
        layer.backward(torch.ones_like(output))


def test_flatten_lets_its_output_change(diy):
    layer = diy.Flatten()
    output = layer(numbers(2, 3, 2, 2))
    output *= 2
    assert layer.backward(torch.ones_like(output)).shape == (2, 3, 2, 2)


@pytest.mark.parametrize("name", LAYERS)
def test_nothing_that_is_handed_in_is_changed(diy, name):
    layer, input = LAYERS[name](diy), numbers(2, 2, 4, 4, dtype=torch.float32)
    before = input.clone()
    output = layer(input)
    gradient = numbers(*output.shape, seed=1, dtype=torch.float32)
    given = gradient.clone()
    layer.backward(gradient)
    assert torch.equal(input, before) and torch.equal(gradient, given)


@pytest.mark.parametrize("name", LAYERS)
def test_inference_mode_keeps_nothing(diy, name):
    layer = LAYERS[name](diy)
    with torch.inference_mode():
        output = layer(torch.ones(2, 2, 4, 4))
    with pytest.raises(RuntimeError, match=r"under torch\.inference_mode"):
        layer.backward(torch.ones(output.shape))


@pytest.mark.parametrize("name", ["Conv2d", "MaxPool2d", "BatchNorm2d"])
@pytest.mark.parametrize("shape", [(2, 4, 4), (4,), (1, 2, 2, 4, 4)], ids=str)
def test_images_have_four_dimensions(diy, name, shape):
    with pytest.raises(ValueError, match="expected an input of shape") as caught:
        diy.Sequential(diy.ReLU(), LAYERS[name](diy))(torch.zeros(shape))
    assert str(caught.value).startswith(f"layer 1, {name}(")
    hint = ": make a single image a batch with image[None]" if len(shape) == 3 else ""
    assert str(caught.value).endswith(f"got {shape}{hint}")


def test_images_have_some_number_of_channels(diy):
    wanted = r"^expected an input of shape \(N, C, H, W\), got \(2, 4, 4\): make a single image a batch"
    with pytest.raises(ValueError, match=wanted):
        diy.MaxPool2d(2)(torch.zeros(2, 4, 4))


@pytest.mark.parametrize("name", ["Conv2d", "BatchNorm2d"])
def test_channels_and_dtype_must_fit(diy, name):
    layer = LAYERS[name](diy)
    with pytest.raises(ValueError, match=r"expected an input of shape \(N, 2, H, W\), got \(2, 3, 4, 4\)"):
        layer(torch.zeros(2, 3, 4, 4))
    with pytest.raises(TypeError, match=r"the input is torch\.float64, the weights are torch\.float32"):
        layer(torch.zeros(2, 2, 4, 4, dtype=torch.float64))
    assert layer.to(torch.float64)(torch.zeros(2, 2, 4, 4, dtype=torch.float64)).dtype == torch.float64


def test_an_image_smaller_than_the_kernel(diy):
    for layer in (diy.Conv2d(1, 1, (2, 5), padding=1), diy.MaxPool2d((2, 5), padding=1)):
        with pytest.raises(ValueError, match=r"the kernel \(2, 5\) is larger than the padded input, \(5, 4\)"):
            layer(torch.zeros(1, 1, 3, 2))


@pytest.mark.parametrize("size", [0, -1, 1.5, True, "3", None, (1, 2, 3), (2, 0), ()], ids=str)
def test_sizes_that_make_no_sense(diy, size):
    with pytest.raises(ValueError, match="kernel_size must be an integer ≥ 1 or a pair of them, got "):
        diy.Conv2d(1, 1, size)
    with pytest.raises(ValueError, match="kernel_size must be"):
        diy.MaxPool2d(size)
    with pytest.raises(ValueError, match="stride must be"):
        diy.Conv2d(1, 1, 3, stride=size)


def test_paddings_that_make_no_sense(diy):
    for padding in (-1, 0.5, "full", None):
        with pytest.raises(ValueError, match='"same" or "valid", must be an integer ≥ 0 or a pair of them'):
            diy.Conv2d(1, 1, 3, padding=padding)
    for padding in (-1, "same", "valid"):
        with pytest.raises(ValueError, match="padding must be an integer ≥ 0 or a pair of them"):
            diy.MaxPool2d(3, padding=padding)
    with pytest.raises(ValueError, match=r'padding="same" needs stride 1, got \(2, 2\)'):
        diy.Conv2d(1, 1, 3, stride=2, padding="same")
    with pytest.raises(ValueError, match=r"at most half of the kernel \(3, 3\), got \(2, 2\)"):
        diy.MaxPool2d(3, padding=2)


@pytest.mark.parametrize("channels", [(0, 1), (1, 0), (1.0, 1), (True, 1), ("1", 1)], ids=str)
def test_channels_must_be_positive_integers(diy, channels):
    with pytest.raises(ValueError, match="_channels must be an integer ≥ 1"):
        diy.Conv2d(*channels, 3)


def test_arguments_that_are_not_supported_are_refused(diy):
    for call, argument in (
        (lambda: diy.Conv2d(1, 1, 3, dilation=2), r"dilation only as 1 or \(1, 1\)"),
        (lambda: diy.Conv2d(2, 2, 3, groups=2), "groups only as 1"),
        (lambda: diy.Conv2d(1, 1, 3, padding_mode="reflect"), "padding_mode only as 'zeros'"),
        (lambda: diy.MaxPool2d(2, ceil_mode=True), "ceil_mode only as False"),
        (lambda: diy.BatchNorm2d(3, affine=False), "affine only as True"),
        (lambda: diy.kaiming_normal_(torch.ones(2, 2), a=0.1), "a only as 0"),
    ):
        with pytest.raises(ValueError, match=f"supports PyTorch's argument {argument}, got "):
            call()
    for options in ({"eps": -1}, {"momentum": 1.5}):
        with pytest.raises(ValueError, match="must be a finite number"):
            diy.BatchNorm2d(3, **options)


def test_repr_shows_the_arguments(diy):
    assert repr(diy.Conv2d(1, 6, 5, padding="same", bias=False)) == (
        "Conv2d(1, 6, kernel_size=(5, 5), stride=(1, 1), padding='same', bias=False)"
    )
    assert repr(diy.MaxPool2d(2)) == "MaxPool2d(kernel_size=(2, 2), stride=(2, 2), padding=(0, 0))"
    assert repr(diy.BatchNorm2d(3)) == "BatchNorm2d(3, eps=1e-05, momentum=0.1)"


# Together


def networks(diy):
    """The same small network with every new layer, in both frameworks and with the same weights."""
    pair = [
        m.Sequential(
            m.Conv2d(1, 3, 3, padding="same", bias=False),
            m.BatchNorm2d(3),
            m.ReLU(),
            m.MaxPool2d(2),
            m.Conv2d(3, 4, (3, 2), stride=2, padding=1),
            m.Sigmoid(),
            m.Flatten(),
            m.Linear(16, 5),
        )
        for m in (diy, nn)
    ]
    torch.manual_seed(0)
    for tensor in pair[0].state_dict().values():
        if tensor.dim() > 1:
            tensor.copy_(torch.randn(tensor.shape) / math.sqrt(tensor[0].numel()))
    pair[1].load_state_dict(pair[0].state_dict())
    return [model.to(torch.float64) for model in pair]


@pytest.mark.formula("F25", "F27")
@pytest.mark.parametrize(
    ("optimizer", "options"),
    [("SGD", {"lr": 0.05, "momentum": 0.9, "weight_decay": 1e-3}), ("Adam", {"lr": 3e-3, "weight_decay": 1e-3})],
)
def test_two_hundred_steps_beside_pytorch(diy, optimizer, options):
    ours, theirs = networks(diy)
    images, classes = numbers(40, 1, 8, 6), torch.arange(40) % 5
    mine = getattr(diy, optimizer)(ours.parameters(), **options)
    yours = getattr(torch.optim, optimizer)(theirs.parameters(), **options)
    criterion, counterpart = diy.CrossEntropyLoss(), nn.CrossEntropyLoss()
    first = None
    for step in range(200):
        batch = torch.randperm(40, generator=torch.Generator().manual_seed(step))[:10]
        loss = criterion(ours(images[batch]), classes[batch])
        first = loss if first is None else first
        mine.zero_grad()
        ours.backward(criterion.backward())
        mine.step()
        yours.zero_grad()
        expected = counterpart(theirs(images[batch]), classes[batch])
        expected.backward()
        yours.step()
        # Rounding differs at 1e-16, and training amplifies it by a few orders of magnitude in 200 steps.
        close(loss, expected, rtol=1e-9, atol=1e-9)
    assert loss < 0.9 * first, "it learns"
    assert list(ours.state_dict()) == list(theirs.state_dict())
    for name, tensor in theirs.state_dict().items():
        close(ours.state_dict()[name], tensor, rtol=1e-9, atol=1e-9)
    close(ours.eval()(images), theirs.eval()(images), rtol=1e-9, atol=1e-9)


def test_the_slopes_of_a_whole_network(diy):
    check = check_gradients(networks(diy)[0], numbers(3, 1, 8, 6), verbose=False)
    assert not check.wrong and all(verdict.right for verdict in check.verdicts if verdict.name != "input")


def test_a_layer_used_twice_shares_its_statistics(diy):
    norm = diy.BatchNorm2d(2)
    model = diy.Sequential(norm, diy.ReLU(), norm)
    model(numbers(3, 2, 4, 4, dtype=torch.float32))
    assert norm.num_batches_tracked == 2
    assert model[2].running_mean is norm.running_mean
    model.backward(torch.ones(3, 2, 4, 4))
    assert len(list(model.parameters())) == 2
