"""The helpers of the notebooks: verdicts on formulas that can be negative, tables, and what is shown of the code."""

import matplotlib.pyplot as plt
import pytest
import torch
from course import Table, agree, code, shapes, show

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
