"""Measures of how far one array is from another, whole or accumulated piece by piece.

    SQNR        10·log10( Σ ref² / Σ (ref − other)² )  in dB; infinite when they are equal
    cosine      Σ ref·other / sqrt( Σ ref² · Σ other² )
    max error   max |ref − other|;   relative: divided by max |ref|
    top-1       index of the largest score of a row; a row is one index of axis 0, its other axes flattened

Sums are in float64. Where both sides hold the same infinity, or both NaN, they agree; where only one does, or
they differ, the error is infinite.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


def sqnr_db(reference: NDArray[Any], other: NDArray[Any]) -> float:
    """Signal to quantization noise ratio, 10·log10(Σ ref² / Σ (ref − other)²), in dB.

    Infinite when they are equal; −infinite when only the reference is all zeros.
    """
    return Tally.of(reference, other).sqnr_db


def cosine(reference: NDArray[Any], other: NDArray[Any]) -> float:
    """Cosine similarity of the flattened arrays; 1 when both are all zeros, 0 when only one is."""
    return Tally.of(reference, other).cosine


def max_error(reference: NDArray[Any], other: NDArray[Any]) -> float:
    """The largest |ref − other|; 0 for empty arrays."""
    return Tally.of(reference, other).max_error


def top1(scores: NDArray[Any]) -> NDArray[np.int64]:
    """Index of the largest score of each row, shape [rows]; `scores` has rows on axis 0, other axes are flattened."""
    # Not -1, which numpy can't work out without rows.
    return np.argmax(scores.reshape(scores.shape[0], math.prod(scores.shape[1:])), axis=1)


def top1_agreement(reference: NDArray[Any], other: NDArray[Any]) -> float:
    """The share of rows whose largest score has the same index in both; NaN without rows."""
    same = top1(reference) == top1(other)
    return int(np.count_nonzero(same)) / len(same) if len(same) else math.nan


@dataclass
class Tally:
    """The sums that all the measures are made of."""

    signal: float = 0.0
    noise: float = 0.0
    other_power: float = 0.0
    product: float = 0.0
    max_error: float = 0.0
    max_reference: float = 0.0
    same_top1: int = 0
    rows: int = 0

    @staticmethod
    def of(reference: NDArray[Any], other: NDArray[Any]) -> Tally:
        """The sums of one pair of arrays."""
        tally = Tally()
        tally.add(reference, other)
        return tally

    def add(self, reference: NDArray[Any], other: NDArray[Any]) -> None:
        """Take in one more pair of arrays of the same shape.

        Raises:
            ValueError: the shapes differ.
        """
        if reference.shape != other.shape:
            raise ValueError(f"shapes {reference.shape} and {other.shape} can't be compared")
        a, b = reference.astype(np.float64), other.astype(np.float64)
        finite = np.isfinite(a) & np.isfinite(b)
        agree = (a == b) | (np.isnan(a) & np.isnan(b))
        x, y = np.where(finite, a, 0.0), np.where(finite, b, 0.0)
        error = np.where(finite | agree, np.abs(x - y), np.inf)
        self.signal += float(np.sum(x * x))
        self.noise += float(np.sum(error * error))
        self.other_power += float(np.sum(y * y))
        self.product += float(np.sum(x * y))
        self.max_error = max(self.max_error, float(np.max(error, initial=0.0)))
        self.max_reference = max(self.max_reference, float(np.max(np.abs(x), initial=0.0)))
        # Fewer than two values a row are no class scores.
        if reference.ndim >= 2 and reference.shape[0] and reference.size > reference.shape[0]:
            self.same_top1 += int(np.count_nonzero(top1(reference) == top1(other)))
            self.rows += reference.shape[0]

    @property
    def sqnr_db(self) -> float:
        """Signal to quantization noise ratio in dB."""
        if self.noise == 0:
            return math.inf
        if self.signal == 0 or self.noise == math.inf:
            return -math.inf
        return 10 * math.log10(self.signal / self.noise)

    @property
    def cosine(self) -> float:
        """Cosine similarity; 1 when both are all zeros, 0 when only one is."""
        if self.signal == 0 or self.other_power == 0:
            return float(self.signal == self.other_power)
        # Rounding may lead a hair beyond 1.
        return max(-1.0, min(1.0, self.product / (math.sqrt(self.signal) * math.sqrt(self.other_power))))

    @property
    def relative_error(self) -> float:
        """The largest error over the largest reference value."""
        if self.max_reference == 0:
            return math.inf if self.max_error else 0.0
        return self.max_error / self.max_reference

    @property
    def top1_agreement(self) -> float | None:
        """The share of rows with the same top-1; None when there were no rows with two or more values."""
        return self.same_top1 / self.rows if self.rows else None
