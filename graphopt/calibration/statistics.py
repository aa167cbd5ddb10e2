"""What is remembered of a tensor's values while samples stream through: bounded in size, mergeable.

`update` and `merge` are associative and commutative, bit for bit: how samples are batched and how they are spread over
workers don't change the result, nor does their order, except for EMA, which is about order by definition and is told
which sample a value belongs to.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from graphopt.calibration.binning import as_float
from graphopt.errors import CalibrationError

State = Mapping[str, NDArray[Any]]


class NotFiniteError(CalibrationError, ValueError):
    """A value is NaN or infinite. Whoever knows the tensor and the sample says so to the user."""


class Statistic(Protocol):
    """A summary of all the values one tensor has had."""

    @property
    def is_empty(self) -> bool:
        """Whether no value has been seen."""
        ...

    def update(self, array: NDArray[Any]) -> None:
        """Take in more values, of any shape, possibly none.

        Raises:
            NotFiniteError: a value is NaN or infinite; the statistic is as it was.
        """
        ...

    def merge(self, other: Self) -> None:
        """Take in what another statistic of the same tensor has seen."""
        ...

    def state(self) -> dict[str, NDArray[Any]]:
        """Everything that is remembered, as arrays: for checkpoints and for other processes."""
        ...

    @classmethod
    def from_state(cls, state: State) -> Self:
        """The statistic that `state` was taken from, bit for bit."""
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
            NotFiniteError: a value is NaN or infinite.
        """
        if array.size == 0:
            return
        low, high = finite_extremes(array)
        self.low = min(self.low, low)
        self.high = max(self.high, high)

    def merge(self, other: MinMax) -> None:
        """Take in what another statistic has seen."""
        self.low = min(self.low, other.low)
        self.high = max(self.high, other.high)

    def state(self) -> dict[str, NDArray[Any]]:
        """`low` and `high`, float64, rank 0."""
        return {"low": np.asarray(self.low), "high": np.asarray(self.high)}

    @classmethod
    def from_state(cls, state: State) -> MinMax:
        """The statistic that `state` was taken from."""
        return cls(float(state["low"]), float(state["high"]))


@dataclass
class EmaMinMax:
    """The extremes of each sample, for their exponential moving average in the order of the samples.

    e(0) = x(0),   e(i) = momentum · e(i − 1) + (1 − momentum) · x(i)

    The average is over samples, not over batches, and is computed when asked for: batch size, sharding and resuming
    don't change it. The order of the samples does, by definition. 16 bytes a sample are kept.

    Attributes:
        momentum: the weight of the past, 0 ≤ momentum < 1.
        lows, highs: float64 [samples]; +inf and −inf where a sample had no values (or was seen by another worker).
    """

    momentum: float = 0.9
    lows: NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))
    highs: NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))

    def __post_init__(self) -> None:
        if not 0 <= self.momentum < 1:
            raise ValueError(f"momentum is {self.momentum}; expected at least 0 and below 1")

    @property
    def is_empty(self) -> bool:
        """Whether no value has been seen."""
        return not bool((self.lows <= self.highs).any())

    def update(self, array: NDArray[Any]) -> None:
        """Take in the values of the sample after the last one.

        Raises:
            NotFiniteError: a value is NaN or infinite.
        """
        low, high = finite_extremes(array) if array.size else (math.inf, -math.inf)
        self.add(len(self.lows), np.array([low]), np.array([high]))

    def add(self, first: int, lows: NDArray[Any], highs: NDArray[Any]) -> None:
        """Take in the extremes of the samples number `first`, `first + 1`, …

        Args:
            first: the index of the first sample among all samples of the calibration.
            lows: [n], the smallest value of each; +inf for a sample without values.
            highs: [n], the largest value of each; −inf for a sample without values.
        """
        end = first + len(lows)
        self._reach(end)
        # Adding 0.0 turns -0.0 into 0.0: min(0.0, -0.0) depends on the order.
        self.lows[first:end] = np.minimum(self.lows[first:end], lows) + 0.0
        self.highs[first:end] = np.maximum(self.highs[first:end], highs) + 0.0

    def merge(self, other: EmaMinMax) -> None:
        """Take in what another statistic has seen, sample by sample."""
        if other.momentum != self.momentum:
            raise ValueError(f"momentum {other.momentum} can't be merged into momentum {self.momentum}")
        self.add(0, other.lows, other.highs)

    def average(self) -> tuple[float, float]:
        """The moving averages of the smallest and of the largest value; there must be one."""
        seen = self.lows <= self.highs
        return _moving(self.lows[seen], self.momentum), _moving(self.highs[seen], self.momentum)

    def state(self) -> dict[str, NDArray[Any]]:
        """`momentum` (float64, rank 0), `lows` and `highs` (float64, [samples])."""
        return {"momentum": np.asarray(self.momentum), "lows": self.lows.copy(), "highs": self.highs.copy()}

    @classmethod
    def from_state(cls, state: State) -> EmaMinMax:
        """The statistic that `state` was taken from."""
        return cls(float(state["momentum"]), state["lows"].copy(), state["highs"].copy())

    def _reach(self, count: int) -> None:
        missing = count - len(self.lows)
        if missing > 0:
            self.lows = np.concatenate([self.lows, np.full(missing, math.inf)])
            self.highs = np.concatenate([self.highs, np.full(missing, -math.inf)])


def finite_extremes(array: NDArray[Any]) -> tuple[float, float]:
    """The smallest and the largest of one or more values, without negative zeros.

    Raises:
        NotFiniteError: a value is NaN or infinite.
    """
    array = as_float(array)  # numpy compares float16 in software: 10 times slower than the conversion
    low, high = float(np.min(array)), float(np.max(array))
    if not (math.isfinite(low) and math.isfinite(high)):
        raise NotFiniteError(f"values range over [{low}, {high}]; expected finite values")
    # Adding 0.0 turns -0.0 into 0.0: min(0.0, -0.0) depends on the order.
    return low + 0.0, high + 0.0


def _moving(values: NDArray[np.float64], momentum: float) -> float:
    average = float(values[0])
    for value in values[1:].tolist():
        average = momentum * average + (1.0 - momentum) * value
    return average
