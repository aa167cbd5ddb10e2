"""A streaming histogram that doesn't depend on the order, the batching or the sharding of its values.

The width of a bin is w = 2^exponent, the smallest for which the largest magnitude fits. On the positive side bin k
holds x ∈ [k·w, (k+1)·w); on the negative side it holds −x in the same interval; zeros are counted apart. When a
value outgrows the histogram, bins are paired:

    floor(|x| / 2w) = floor(floor(|x| / w) / 2)

so a histogram that has grown is, bit for bit, the one that would have been made with the final width from the start.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graphopt.calibration.binning import BINS, as_float, count_bins
from graphopt.calibration.statistics import NotFiniteError, State, finite_extremes

Counts = NDArray[np.int64]


def _no_counts() -> Counts:
    return np.zeros(BINS, np.int64)


@dataclass(eq=False)
class Histogram:
    """How many values fell in each bin, and the exact extremes.

    Attributes:
        exponent: a bin is 2^exponent wide; None until a value other than zero has been seen.
        positive: int64 [BINS]; positive[k] counts values in [k·w, (k+1)·w), zero excluded.
        negative: int64 [BINS]; negative[k] counts values in (−(k+1)·w, −k·w], zero excluded.
        zeros: how many values were exactly zero (of either sign).
        low, high: the smallest and the largest value; `low` is above `high` until a value has been seen.
    """

    exponent: int | None = None
    positive: Counts = field(default_factory=_no_counts)
    negative: Counts = field(default_factory=_no_counts)
    zeros: int = 0
    low: float = math.inf
    high: float = -math.inf

    @property
    def is_empty(self) -> bool:
        """Whether no value has been seen."""
        return self.low > self.high

    @property
    def width(self) -> float:
        """The width of a bin, 2^exponent; 0 when nothing but zeros has been seen."""
        return 0.0 if self.exponent is None else math.ldexp(1.0, self.exponent)

    @property
    def count(self) -> int:
        """How many values have been seen."""
        return int(self.positive.sum()) + int(self.negative.sum()) + self.zeros

    def magnitudes(self) -> Counts:
        """Counts of |x|: int64 [BINS], zeros excluded."""
        return self.positive + self.negative

    def update(self, array: NDArray[Any]) -> None:
        """Take in more values, of any shape and any numeric type (integers beyond 2^53 are rounded).

        Raises:
            NotFiniteError: a value is NaN or infinite.
        """
        if array.size == 0:
            return
        array = as_float(array)  # numpy compares float16 in software: 10 times slower than the conversion
        low, high = finite_extremes(array)
        self._cover(low, high)
        if self.exponent is None:
            self.zeros += array.size
            return
        counted = count_bins(array, self.exponent, negative=low < 0)
        self.positive += counted.positive
        self.negative += counted.negative
        self.zeros += counted.zeros

    def add_counts(
        self, exponent: int, positive: Counts, negative: Counts, zeros: int, low: float, high: float
    ) -> None:
        """Take in values that were binned elsewhere, for instance in the graph.

        Args:
            exponent: their bins are 2^exponent wide, of any width.
            positive: int64 [at most BINS], as in the attributes.
            negative: likewise.
            zeros: how many were zero.
            low: the smallest of these values.
            high: the largest.
        """
        other = Histogram(exponent, _no_counts(), _no_counts(), zeros, low + 0.0, high + 0.0)
        other.positive[: len(positive)] = positive
        other.negative[: len(negative)] = negative
        self.merge(other)

    def merge(self, other: Histogram) -> None:
        """Take in what another histogram has seen."""
        if other.is_empty:
            return
        self._cover(other.low, other.high)
        self.zeros += other.zeros
        if self.exponent is not None and other.exponent is not None:
            self.positive += _paired(other.positive, self.exponent - other.exponent)
            self.negative += _paired(other.negative, self.exponent - other.exponent)

    def state(self) -> dict[str, NDArray[Any]]:
        """The attributes as arrays; `exponent` is int64 [0 or 1], the other scalars have rank 0."""
        return {
            "exponent": np.array([] if self.exponent is None else [self.exponent], np.int64),
            "positive": self.positive.copy(),
            "negative": self.negative.copy(),
            "zeros": np.asarray(self.zeros, np.int64),
            "low": np.asarray(self.low),
            "high": np.asarray(self.high),
        }

    @classmethod
    def from_state(cls, state: State) -> Histogram:
        """The histogram that `state` was taken from."""
        exponent = int(state["exponent"][0]) if state["exponent"].size else None
        sides = state["positive"].copy(), state["negative"].copy()
        return cls(exponent, *sides, int(state["zeros"]), float(state["low"]), float(state["high"]))

    def _cover(self, low: float, high: float) -> None:
        """Remember the extremes, and widen the bins until both fit."""
        self.low = min(self.low, low)
        self.high = max(self.high, high)
        wanted = exponent_for(max(-self.low, self.high))
        if wanted is None or wanted == self.exponent:
            return
        if self.exponent is not None:
            self.positive = _paired(self.positive, wanted - self.exponent)
            self.negative = _paired(self.negative, wanted - self.exponent)
        self.exponent = wanted


def exponent_for(magnitude: float) -> int | None:
    """The smallest e for which floor(magnitude / 2^e) is below BINS; None for zero."""
    if magnitude == 0.0:
        return None
    if not math.isfinite(magnitude):
        raise NotFiniteError(f"the largest magnitude is {magnitude}; expected a finite value")
    # frexp gives magnitude = m · 2^power with m in [1/2, 1).
    return math.frexp(magnitude)[1] - (BINS.bit_length() - 1)


def _paired(counts: Counts, times: int) -> Counts:
    """The counts in bins that are 2^times as wide."""
    if times == 0:
        return counts
    if times < 0:
        raise ValueError(f"bins can't be split (by 2^{-times}): the extremes don't reach the bins that were counted")
    wider = np.zeros_like(counts)
    grouped = max(1, len(counts) >> times)
    wider[:grouped] = counts.reshape(grouped, -1).sum(axis=1)
    return wider
