"""Numbers in words, the same in every table and figure."""

import statistics
from collections.abc import Sequence


def counted(number: int, noun: str) -> str:
    """Return "1 round" or "2 rounds"."""
    return f"{number} {noun}{'s' * (number != 1)}"


def spread(values: Sequence[float], digits: int) -> str:
    """Return "2.64 ± 1.74", mean and standard deviation over the rounds, or the one value of a single round."""
    if len(values) == 1:
        return f"{values[0]:.{digits}f}"
    return f"{statistics.mean(values):.{digits}f} ± {statistics.stdev(values):.{digits}f}"
