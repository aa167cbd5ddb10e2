"""What is remembered of a tensor's values while samples stream through: bounded in size, mergeable.

`update` and `merge` are associative and commutative, bit for bit: the order of the samples, how they are batched,
and how they are spread over workers don't change the result.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from graphopt.errors import CalibrationError


class Statistic(Protocol):
    """A summary of all the values one tensor has had."""

    def update(self, array: NDArray[Any]) -> None:
        """Take in more values, of any shape, possibly none."""
        ...

    def merge(self, other: Self) -> None:
        """Take in what another statistic of the same tensor has seen."""
        ...


@dataclass
class MinMax:
    """The smallest and the largest value; `low` is above `high` until a value has been seen."""

    low: float = math.inf
    high: float = -math.inf

    @property
    def is_empty(self) -> bool:
        """Whether no value has been seen."""
        return self.low > self.high

    def update(self, array: NDArray[Any]) -> None:
        """Take in more values.

        Raises:
            CalibrationError: a value is NaN or infinite.
        """
        if array.size == 0:
            return
        low, high = float(np.min(array)), float(np.max(array))
        if not (math.isfinite(low) and math.isfinite(high)):
            raise CalibrationError(f"values range over [{low}, {high}]; expected finite values")
        # Adding 0.0 turns -0.0 into 0.0: min(0.0, -0.0) depends on the order.
        self.low = min(self.low, low) + 0.0
        self.high = max(self.high, high) + 0.0

    def merge(self, other: MinMax) -> None:
        """Take in what another statistic has seen."""
        self.low = min(self.low, other.low)
        self.high = max(self.high, other.high)
