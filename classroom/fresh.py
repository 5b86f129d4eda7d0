"""Fresh exercises: the plain assignment's solutions are public, so a teacher can add a module that is not in diy.py.

A new module needs only one line of PyTorch here; statement, gap, test and points follow from it.
"""

from collections.abc import Collection
from dataclasses import dataclass


@dataclass(frozen=True)
class Fresh:
    """This year's module or loss.

    Attributes:
        name: of the class that students write.
        oracle: the same in PyTorch, as an expression of torch.nn; for a loss, the class, which takes a reduction.
        rule: σ(s) in words; for a loss, the terms that are averaged or summed.
        points: for forward and for backward, each.
        loss: whether it is a loss.
    """

    name: str
    oracle: str
    rule: str
    points: int = 3
    loss: bool = False


MODULES = {
    module.name: module
    for module in (
        Fresh("ELU", "nn.ELU()", "σ(s) = s where s > 0, and eˢ − 1 elsewhere"),
        Fresh("Softplus", "nn.Softplus()", "σ(s) = log(1 + eˢ), also where eˢ would overflow"),
        Fresh("LeakyReLU", "nn.LeakyReLU()", "σ(s) = s where s > 0, and 0.01 s elsewhere"),
        Fresh("Softsign", "nn.Softsign()", "σ(s) = s / (1 + |s|)"),
        Fresh("SiLU", "nn.SiLU()", "σ(s) = s / (1 + e⁻ˢ)"),
        Fresh("HuberLoss", "nn.HuberLoss", "(p − t)² / 2 where |p − t| < 1, and |p − t| − 1/2 elsewhere", loss=True),
        Fresh("SoftMarginLoss", "nn.SoftMarginLoss", "log(1 + exp(−t p))", loss=True),
    )
}


GAP = '''

class {name}(Module):
    """{rule}, component by component, for inputs of any shape."""

    def forward(self, S: Tensor) -> Tensor:
        """Return σ(S)."""
        # This year's module
        raise NotImplementedError("this year's module: {name}.forward")

    def backward(self, G: Tensor) -> Tensor:
        """Return ∂ℓ/∂s = G · σ'(s)."""
        # This year's module
        raise NotImplementedError("this year's module: {name}.backward")
'''

LOSS_GAP = '''

class {name}(Loss):
    """The mean or, with reduction="sum", the sum of {rule}, over all components."""

    def forward(self, P: Tensor, T: Tensor) -> Tensor:
        """Return the loss of the prediction P with the target T, of the same shape."""
        # This year's module
        raise NotImplementedError("this year's module: {name}.forward")

    def backward(self) -> Tensor:
        """Return ∂ℓ/∂p."""
        # This year's module
        raise NotImplementedError("this year's module: {name}.backward")
'''


def gaps(names: Collection[str]) -> str:
    """Return the classes with gaps, to be appended to the edition."""
    chosen = [MODULES[name] for name in names]
    return "".join((LOSS_GAP if one.loss else GAP).format(name=one.name, rule=one.rule) for one in chosen)


def statement(names: Collection[str]) -> str:
    """Return this year's part of the statement."""
    lines = [
        f"- `{name}`: {MODULES[name].rule}; forward {p} points, backward {p}"
        for name in names
        if (p := MODULES[name].points)
    ]
    return "\n## This year's modules\n\nThey are at the end of `diy.py`.\n\n" + "\n".join(lines) + "\n" if names else ""
