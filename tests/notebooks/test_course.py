"""The helpers of the notebooks: verdicts on formulas that can be negative, tables, and what is shown of the code."""

import base64
import re

import matplotlib.pyplot as plt
import pytest
import torch
from course import Table, agree, beside, code, film, shapes, show

import diy


def test_agree_names_each_oracle_and_its_tolerance_in_one_line(capsys):
    agree("(F2) ∂ℓ/∂W", torch.ones(2), finite_differences=torch.ones(2) + 1e-9, autograd=torch.ones(2), diy=[1, 1])
    assert (
        capsys.readouterr().out == "(F2) ∂ℓ/∂W: within 1e-07 of finite differences; within 1e-12 of autograd, diy.py\n"
    )
    agree("a mean", 1.0, tolerance=0.1, expectation=1.05)
    assert capsys.readouterr().out == "a mean: within 1e-01 of expectation\n"


def test_beside_prints_matrices_in_columns(capsys):
    beside(by_hand=torch.tensor([[1.0, -2.0], [0.0, 3.0]]), measured=torch.tensor([[1.0, -2.0], [-1e-9, 3.00001]]))
    assert capsys.readouterr().out.splitlines() == [
        "           by hand             measured",
        "   1.0000  -2.0000      1.0000  -2.0000",
        "   0.0000   3.0000      0.0000   3.0000",
    ]
    beside(a=torch.ones(2), b=[2.0, 3.0])
    assert [line.split() for line in capsys.readouterr().out.splitlines()[1:]] == [
        ["1.0000", "2.0000"],
        ["1.0000", "3.0000"],
    ]
    with pytest.raises(ValueError):
        beside(a=torch.ones(2, 2), b=torch.ones(3, 2))


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
    with pytest.raises(AssertionError, match="finite differences"):
        agree("(F2)", 1.0, measured=1e-9, finite_differences=1 + 5e-8)


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


class Doubling:
    def forward(self, x):
        """(F0) 2 x."""
        return 2 * x  # (N,)

    def backward(self, g):
        return 2 * g


def test_code_is_that_of_the_file_without_docstring(capsys):
    code(Doubling.forward, Doubling.backward)
    forward, backward = capsys.readouterr().out.split("\n\n")
    assert forward == "# Doubling.forward\ndef forward(self, x):\n    return 2 * x  # (N,)"
    assert backward == "# Doubling.backward\ndef backward(self, g):\n    return 2 * g\n"
    code(diy.Sequential.backward)
    out = capsys.readouterr().out
    assert '"""' not in out and "reversed(self.layers)" in out


@pytest.fixture
def shown(monkeypatch):
    """What is displayed."""
    bundles = []
    monkeypatch.setattr("course.display", lambda bundle, raw: bundles.append(bundle))
    return bundles


def images(html):
    """Return for each image of some HTML its attributes, and the bytes of its PNG."""
    tags = [dict(re.findall(r'([\w-]+)="(.*?)"', tag)) for tag in re.findall(r"<img (.*?)>", html)]
    return [(tag, base64.b64decode(tag["src"].removeprefix("data:image/png;base64,"))) for tag in tags]


def test_a_figure_carries_its_description_and_no_trace_of_the_software(shown):
    figure, _ = plt.subplots(figsize=(2, 1))
    show(figure, "An empty figure, <for> a test.", scale=2)
    (tag, png), *others = images(shown[0]["text/html"])
    assert not others and tag["alt"] == "An empty figure, &lt;for&gt; a test." and tag["width"] == "400"
    assert "<em>An empty figure, &lt;for&gt; a test.</em>" in shown[0]["text/html"]
    assert shown[0]["text/plain"] == "An empty figure, <for> a test."
    assert png.startswith(b"\x89PNG") and b"matplotlib" not in png.lower()
    assert not plt.fignum_exists(figure.number)


def test_a_film_without_styles_is_its_last_frame(shown):
    film(((f"epoch {epoch}", plt.subplots(figsize=(2, 1))[0]) for epoch in range(3)), "A film, for a test.")
    frames = [tag for tag, _ in images(shown[0]["text/html"])]
    assert [frame["alt"] for frame in frames] == ["epoch 0", "epoch 1", "epoch 2"]
    assert [(frame["width"], frame.get("height")) for frame in frames] == [("0", "0"), ("0", "0"), ("200", None)]
    assert plt.get_fignums() == []
