"""The helpers of the notebooks: verdicts that can be negative, tables, and what is shown of the code."""

import matplotlib.pyplot as plt
import pytest
import torch
from course import AnswerError, NoAnswerError, Table, agree, call, check, code, expect, expect_gradients, shapes, show

import diy


def test_agree_names_each_oracle(capsys):
    agree("(F2) ∂ℓ/∂W", torch.ones(2), finite_differences=torch.ones(2) + 1e-9, diy=torch.ones(2))
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "(F2) ∂ℓ/∂W"
    assert [line.split("agrees")[0].strip() for line in lines[1:]] == ["finite differences", "diy.py"]


@pytest.mark.parametrize("other", [torch.ones(2).double() + 1e-9, torch.tensor([1.0, float("nan")]), torch.ones(2, 1)])
def test_agree_refuses_what_differs(other):
    with pytest.raises(AssertionError, match="autograd"):
        agree("(F2)", torch.ones(2), autograd=other)


def test_agree_is_strict_with_all_but_finite_differences():
    agree("(F2)", 1.0, finite_differences=1 + 5e-8)
    with pytest.raises(AssertionError, match="finite differences"):
        agree("(F2)", 1.0, finite_differences=1 + 2e-7)
    with pytest.raises(AssertionError, match="diy"):
        agree("(F2)", 1.0, diy=1 + 5e-8)


def test_agree_wants_something_to_compare_with():
    with pytest.raises(AssertionError, match="nothing to compare with"):
        agree("(F2)", 1.0)


def test_shapes_compares_letters_with_tensors():
    sizes = {"N": 4, "in": 3}
    table = shapes(sizes, [("X", torch.zeros(4, 3), "N in", "a batch")])
    assert str(table).splitlines()[1].split() == ["X", "(N,", "in)", "(4,", "3)", "a", "batch"]
    with pytest.raises(AssertionError, match=r"X should be \(N in\) = \(4, 3\), is \(3, 4\)"):
        shapes(sizes, [("X", torch.zeros(3, 4), "N in", "a batch")])


def test_a_table_escapes_its_cells():
    table = Table(["a"], [["<b> & c"]])
    assert "&lt;b&gt; &amp; c" in table._repr_html_()
    assert str(table) == "a\n<b> & c"


def test_code_is_that_of_the_file_without_docstring(capsys):
    code(diy.ReLU.forward, diy.Sequential.backward)
    relu, sequential = capsys.readouterr().out.split("# Sequential.backward\n")
    assert relu.startswith("# ReLU.forward\ndef forward(self, S: Tensor) -> Tensor:\n    X = S.relu()")
    assert '"""' not in sequential and "reversed(self.layers)" in sequential


def test_a_figure_carries_its_description_and_no_trace_of_the_software(monkeypatch):
    shown = []
    monkeypatch.setattr("course.display", shown.append)
    figure, _ = plt.subplots(figsize=(2, 1))
    show(figure, "An empty figure, for a test.")
    image, caption = shown
    assert image._repr_mimebundle_()[1]["image/png"]["alt"] == "An empty figure, for a test."
    assert b"matplotlib" not in image.data.lower()
    assert "An empty figure, for a test." in caption._repr_html_()
    assert not plt.fignum_exists(figure.number)


def test_call_tells_an_open_answer_from_a_wrong_one():
    def untouched(x):
        """The docstring of a task is no answer."""
        ...

    def partly(x):
        result = ...  # noqa: F841

    with pytest.raises(NoAnswerError):
        call(lambda: ...)
    with pytest.raises(NoAnswerError):
        call(untouched, 1)
    with pytest.raises(NoAnswerError):
        call(partly, 1)
    with pytest.raises(AnswerError, match="forward raised ZeroDivisionError: division by zero"):
        call(lambda: 1 / 0, name="forward")
    assert call(max, 1, 2) == 2


def test_call_notices_a_forgotten_return():
    def double(x):
        2 * x

    with pytest.raises(AnswerError, match="double returns nothing: is `return` missing"):
        call(double, 1)
    with pytest.raises(AnswerError, match="append returns nothing"):
        call([].append, 1)


def test_expect_names_the_mistake_the_shape_or_the_component():
    expected = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    expect("A", expected.clone(), expected)
    with pytest.raises(AnswerError, match="A: it is turned over"):
        expect("A", expected.T, expected, {"it is turned over": expected.T})
    with pytest.raises(AnswerError, match=r"A should have shape \(2, 2\), but has \(4,\)"):
        expect("A", expected.flatten(), expected)
    with pytest.raises(AnswerError, match=r"A\[1, 0\] should be 3, but is 5"):
        expect("A", torch.tensor([[1.0, 2.0], [5.0, 4.0]]), expected)
    with pytest.raises(AnswerError, match=r"A\[0, 1\] should be 2, but is nan"):
        expect("A", torch.tensor([[1.0, float("nan")], [3.0, 4.0]]), expected)
    with pytest.raises(AnswerError, match="A should be a number or a tensor, but is 'four'"):
        expect("A", "four", 4)


def test_expect_gradients_passes_what_is_right_and_says_what_is_not():
    expect_gradients(diy.Linear(3, 2), torch.randn(4, 3))
    expect_gradients(diy.MSELoss(), torch.randn(4, 3), torch.randn(4, 3))

    class Doubled(diy.Tanh):
        def backward(self, gradient):
            return 2 * super().backward(gradient)

    with pytest.raises(AnswerError, match=r"the gradient of input: .*a factor 2 too many"):
        expect_gradients(Doubled(), torch.randn(4, 3))


def test_an_unsolved_exercise_is_open(capsys):
    check("1.1", ...)
    assert capsys.readouterr().out.startswith("Exercise 1.1: open.")
