"""Every formula of diy.py before three oracles: PyTorch's forward, PyTorch's autograd, and finite differences.

Hypothesis draws shapes, dtypes, memory layouts, values and arguments. `prove` asks all three oracles about one case.
"""

import itertools

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from torch import nn

from gradcheck import check_gradients

SEEDS = st.integers(0, 2**31)
DTYPES = st.sampled_from([torch.float32, torch.float64])
LAYOUTS = st.sampled_from(["contiguous", "transposed", "strided", "offset", "expanded"])
PROBABILITIES = st.sampled_from([0, 0.0, 0.2, 0.5, 1, 1.0]) | st.floats(0, 0.99)

# What is special to one of the modules: the kink of ReLU and its neighbourhood, and where tanh is 1 in floating point.
KINK = [0.0, -0.0, 1e-12, -1e-12, 1e-6, -1e-6, 1e-300, 1.0, -1.0]
SATURATED = [0.0, 8.0, -8.0, 20.0, -20.0, 100.0, -100.0, 1e-8, 0.5]


def shapes(least_dims=0, last=None):
    """Shapes of up to four dimensions; a size of 1 and a size of 0 are drawn often."""
    sizes = st.sampled_from([1, 1, 2, 3, 4, 0])
    shape = st.lists(sizes, min_size=least_dims, max_size=3).map(tuple)
    return shape if last is None else st.tuples(shape, last).map(lambda pair: (*pair[0], pair[1]))


def lay_out(values, layout):
    """Return a tensor equal to `values`, in memory as `layout` says."""
    if layout == "transposed" and values.dim() >= 2:
        return values.mT.contiguous().mT
    if layout == "strided" and values.dim() >= 1:
        return torch.stack([values, values + 1], -1).flatten(-2)[..., ::2]
    if layout == "offset":
        return torch.cat([torch.ones(3, dtype=values.dtype), values.flatten()])[3:].view(values.shape)
    if layout == "expanded" and values.dim() >= 1 and len(values):
        return values[:1].expand_as(values)  # all rows are the first: one row in memory
    return values.clone()


@st.composite
def tensors(draw, shape, dtype, special=None):
    """Tensors of that shape: normally distributed at some scale, or out of special values; in any layout."""
    generator = torch.Generator().manual_seed(draw(SEEDS))
    if special is not None and draw(st.booleans()):
        choice = torch.randint(len(special), shape, generator=generator)
        values = torch.tensor(special, dtype=dtype)[choice]
    else:
        values = torch.randn(shape, generator=generator, dtype=dtype) * draw(st.sampled_from([1.0, 1.0, 0.01, 10.0]))
    return lay_out(values, draw(LAYOUTS))


@st.composite
def cases(draw, special=None, last=None, least_dims=0):
    """An input, a way to lay out the gradient from above, and a seed for it."""
    shape = draw(shapes(least_dims, last))
    return draw(tensors(shape, draw(DTYPES), special)), draw(LAYOUTS), draw(SEEDS)


def assert_same(ours, theirs, what, *origins):
    """Equal up to rounding: a few hundred units in the last place of the largest number that plays a part.

    That is not always the result: at tanh = 1 − ε, 1 − tanh² keeps no more digits than ε has in a number about 1.
    """
    assert ours.dtype == theirs.dtype and ours.shape == theirs.shape, what
    theirs = theirs.detach()
    sizes = [tensor.abs().max().item() for tensor in (theirs, *origins) if tensor.numel() and tensor.isfinite().all()]
    bound = 200 * torch.finfo(theirs.dtype).eps * max([1e-300, *sizes])
    torch.testing.assert_close(ours, theirs, rtol=0, atol=bound, equal_nan=True, msg=lambda text: f"{what}: {text}")


def prove(ours, theirs, case, passes=1, differences=True):
    """Ask the three oracles whether `ours` does what `theirs` does, and its backward what its forward does.

    With two passes, the second has another input and another gradient, and the parameters' gradients add up.
    """
    input, layout, seed = case
    ours.to(input.dtype)
    theirs.to(input.dtype).train(ours.training)
    if list(theirs.parameters()):
        theirs.load_state_dict(ours.state_dict())
    for number in range(passes):
        x = input if number == 0 else lay_out(input * -0.7 + 0.1, layout)
        kept, leaf = x.clone(), x.detach().clone().requires_grad_()
        torch.default_generator.manual_seed(seed + number)
        output = ours(x)
        torch.default_generator.manual_seed(seed + number)
        expected = theirs(leaf)
        assert_same(output, expected, "forward", x)
        above = torch.randn(expected.shape, generator=torch.Generator().manual_seed(seed), dtype=expected.dtype)
        above = lay_out(above, layout)
        gradient = ours.backward(above.clone(memory_format=torch.preserve_format) if number else above)
        if expected.requires_grad:
            expected.backward(above)
        assert_same(
            gradient, torch.zeros_like(leaf) if leaf.grad is None else leaf.grad, "gradient of the input", above
        )
        assert torch.equal(x, kept), "the input was changed"
    for (name, parameter), other in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        assert_same(parameter.grad, other.grad, f"gradient of {name}", above, input)
    if differences:
        check = check_gradients(ours, input, seed=seed, verbose=False)
        assert not check.wrong, check  # where a function is flat to the last digit, the checker cannot tell


# One module at a time


@pytest.mark.formula("F2", "F3", "F4", "F5")
@given(st.data(), st.integers(1, 5), st.integers(1, 4), st.booleans(), st.integers(1, 2))
def test_linear(diy, data, inputs, outputs, bias, passes):
    case = data.draw(cases(last=st.just(inputs)))
    prove(diy.Linear(inputs, outputs, bias), nn.Linear(inputs, outputs, bias), case, passes)


@pytest.mark.formula("F7", "F8")
@given(cases(special=KINK))
@example((torch.zeros(3), "contiguous", 0))
def test_relu(diy, case):
    prove(diy.ReLU(), nn.ReLU(), case)


@pytest.mark.formula("F9", "F10")
@given(cases(special=SATURATED))
@example((torch.tensor([-100.0, 100.0]), "contiguous", 0))
def test_tanh(diy, case):
    prove(diy.Tanh(), nn.Tanh(), case)


@pytest.mark.formula("F19", "F20")
@given(cases(), PROBABILITIES, st.booleans())
def test_dropout(diy, case, p, training):
    prove(diy.Dropout(p).train(training), nn.Dropout(p), case)


@pytest.mark.formula("F13", "F15", "F14", "F16")
@given(st.data(), shapes(), DTYPES, st.sampled_from(["mean", "sum"]))
def test_mse(diy, data, shape, dtype, reduction):
    prediction, target = data.draw(tensors(shape, dtype)), data.draw(tensors(shape, dtype))
    ours, theirs = diy.MSELoss(reduction=reduction), nn.MSELoss(reduction=reduction)
    leaf = prediction.detach().clone().requires_grad_()
    expected = theirs(leaf, target)
    expected.backward()
    assert_same(ours(prediction, target), expected, "loss")
    assert_same(ours.backward(), leaf.grad, "gradient of the prediction")
    if prediction.numel():
        check = check_gradients(ours, prediction, target, verbose=False)
        assert check, check


# Modules together


@st.composite
def recipes(draw, width):
    """Layers of a network as (name, arguments), all of them `width` wide inside; "again" is the last Linear again."""
    names = st.sampled_from(["Linear", "ReLU", "Tanh", "Dropout", "Sequential", "again"])
    recipe = []
    for name in draw(st.lists(names, min_size=0, max_size=5)):
        recipe.append(
            (
                name,
                {
                    "Linear": lambda: (width, width, draw(st.booleans())),
                    "Dropout": lambda: (draw(PROBABILITIES),),
                    "Sequential": lambda: draw(recipes(width)) if len(recipe) < 2 else [],
                }.get(name, tuple)(),
            )
        )
    return recipe


def build(library, recipe, again=None):
    layers = []
    for name, arguments in recipe:
        if name == "Sequential":
            layers.append(build(library, arguments, again))
        elif name == "again":
            layers += [again] if again is not None else []
        else:
            layers.append(getattr(library, name)(*arguments))
            again = layers[-1] if name == "Linear" else again
    return library.Sequential(*layers)


@pytest.mark.formula("F11", "F12", "F1")
@given(st.data(), st.integers(1, 4), st.integers(1, 2), st.booleans())
def test_networks(diy, data, width, passes, training):
    recipe = data.draw(recipes(width))
    case = data.draw(cases(last=st.just(width)))
    prove(build(diy, recipe).train(training), build(nn, recipe), case, passes)


@pytest.mark.formula("F12", "F1")
@given(cases(last=st.just(3)), st.integers(2, 3), st.integers(1, 2))
def test_one_layer_used_several_times(diy, case, times, passes):
    ours, theirs = diy.Linear(3, 3), nn.Linear(3, 3)
    ours = diy.Sequential(*itertools.chain(*([ours, diy.Tanh()] for _ in range(times))))
    theirs = nn.Sequential(*itertools.chain(*([theirs, nn.Tanh()] for _ in range(times))))
    assert len(list(ours.parameters())) == 2
    prove(ours, theirs, case, passes)


@pytest.mark.formula("F3", "F4", "F1")
@given(cases(last=st.just(3), least_dims=1), st.integers(0, 4))
def test_a_batch_in_two_parts_gives_the_same_gradients(diy, case, cut):
    input, layout, seed = case
    whole, parts = diy.Linear(3, 2).to(input.dtype), diy.Linear(3, 2).to(input.dtype)
    parts.load_state_dict(whole.state_dict())
    output = whole(input)
    above = lay_out(torch.randn(output.shape, generator=torch.Generator().manual_seed(seed), dtype=input.dtype), layout)
    whole.backward(above)
    for rows in slice(None, cut), slice(cut, None):
        parts(input[rows])
        parts.backward(above[rows])
    assert_same(parts.weight.grad, whole.weight.grad, "gradient of the weight", above, input)
    assert_same(parts.bias.grad, whole.bias.grad, "gradient of the bias", above)


# What a caller may do between forward and backward


@pytest.mark.formula("F12")
@given(cases(last=st.just(3)), st.sampled_from(["Linear", "ReLU", "Tanh", "Dropout", "network"]), st.booleans())
def test_an_input_that_is_overwritten_gives_an_error_or_the_right_gradient(diy, case, name, change_output):
    input, layout, seed = case
    if layout == "expanded" or input._is_view():
        input = input.clone()  # one number in memory for several components cannot be overwritten

    def build():
        if name == "network":
            return diy.Sequential(diy.Tanh(), diy.Dropout(0.5), diy.Linear(3, 3), diy.ReLU()).to(input.dtype)
        return diy.Linear(3, 3).to(input.dtype) if name == "Linear" else getattr(diy, name)()

    module, twin = build(), build()
    twin.load_state_dict(module.state_dict())
    torch.manual_seed(seed)
    output = module(input)
    torch.manual_seed(seed)
    above = torch.ones_like(twin(input.clone()))
    expected = twin.backward(above)
    (output if change_output else input).fill_(0.3)
    try:
        gradient = module.backward(above)
    except RuntimeError as error:
        assert "changed in place" in str(error)
    else:
        assert_same(gradient, expected, "gradient")
