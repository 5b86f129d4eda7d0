"""PyTorch's own inputs for its modules: each works and gives PyTorch's numbers, or is refused in words."""

import copy
import linecache
import traceback
import warnings

import pytest
import torch

import diy

MODULES = ["BatchNorm2d", "Conv2d", "Linear", "MaxPool2d", "ReLU", "Sigmoid", "Tanh", "MSELoss", "CrossEntropyLoss"]


@pytest.fixture(scope="module")
def database():
    """PyTorch's description of each of its modules that diy has, too."""
    pytest.importorskip("expecttest", reason="PyTorch's database of modules needs it")
    from torch.testing._internal.common_modules import module_db  # not above: it takes seconds, in every process

    names = {info.name.removeprefix("nn."): info for info in module_db}
    return {name: info for name, info in names.items() if hasattr(diy, name)}


def inputs(info, dtype, training):
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyTorch's own, about arguments that it gives
        return list(info.module_inputs_func(info, device="cpu", dtype=dtype, requires_grad=False, training=training))


def in_words(error):
    """Whether diy raised the error itself: Python's and PyTorch's own say nothing about what diy does instead."""
    where = traceback.extract_tb(error.__traceback__)[-1]
    raised = linecache.getline(where.filename, where.lineno).strip().startswith("raise ")
    return where.filename == diy.__file__ and raised and isinstance(error, (TypeError, ValueError))


def compare(module, given, dtype, training):
    """Raise an error where diy neither works as PyTorch does nor refuses in words."""
    theirs = module(*given.constructor_input.args, **given.constructor_input.kwargs).to(dtype)
    theirs.train(training)
    names = ["input", "target"][: len(given.forward_input.args)]  # by position as by name
    arguments = dict(zip(names, given.forward_input.args)) | given.forward_input.kwargs
    leaf = arguments["input"].detach().clone().requires_grad_()
    try:
        ours = getattr(diy, module.__name__)(*given.constructor_input.args, **given.constructor_input.kwargs)
        if isinstance(ours, diy.Module):
            ours.to(dtype).train(training).load_state_dict(theirs.state_dict())
        got = ours(*copy.deepcopy(given.forward_input.args), **copy.deepcopy(given.forward_input.kwargs))
    except Exception as error:
        if in_words(error):
            return
        raise
    expected = theirs(**arguments | {"input": leaf})
    # Sums of some hundred products of numbers of size 1 to 10, in an order of their own.
    close = {"rtol": 1e-10, "atol": 1e-10} if dtype == torch.float64 else {"rtol": 1e-4, "atol": 1e-4}
    torch.testing.assert_close(got, expected.detach(), **close)
    above = torch.randn_like(expected) if isinstance(ours, diy.Module) else torch.ones_like(expected)
    expected.backward(above)
    gradient = ours.backward(above) if isinstance(ours, diy.Module) else ours.backward()
    torch.testing.assert_close(gradient, leaf.grad, **close)
    if isinstance(ours, diy.Module):
        for parameter, own in zip(ours.parameters(), theirs.parameters(), strict=True):
            torch.testing.assert_close(parameter.grad, own.grad, **close)


def test_no_module_is_left_out(database):
    assert database.keys() == {*MODULES}


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("name", MODULES)
def test_each_input_of_pytorchs_works_or_is_refused_in_words(database, name, dtype, training):
    found = inputs(database[name], dtype, training)
    assert found
    for given in found:
        compare(database[name].module_cls, given, dtype, training)
