"""The bulk of a histogram: what solvers that search a threshold look at.

    counts of |x|   ▂▅█▅▂▁ · · · · · · · · 1        →        ▂▅█▅▂▁

A few values that stand far outside all the others would decide the squared error alone (one value of 40 among 100,000
of N(0,1) takes the best 8-bit threshold from 4 to 26) and make the bins of the others wide. Values are outliers when
they are at most one in 10,000 and all of them at least twice as large as everything else. Without such a gap there
are none, and what is clipped is up to the solver.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from graphopt.calibration.histogram import Histogram
from graphopt.quant import Scheme

_RARE = 10_000
_FAR = 2
# Grids of more steps than this have enough for outliers and bulk both: there are no outliers.
_FEW_STEPS = 1023


@dataclass(frozen=True)
class Bulk:
    """Signed bins, without empty ones at the ends, and what of the data they stand for.

    Attributes:
        width: of a bin, in the tensor's units.
        below: how many of the bins lie below zero: bin i covers [(i − below)·width, (i − below + 1)·width).
        counts: float64 [bins], exact counts; zeros are left out, since every grid represents them exactly.
        low: the smallest value without outliers, or zero.
        high: the largest value without outliers, or zero.
    """

    width: float
    below: int
    counts: NDArray[np.float64]
    low: float
    high: float

    @property
    def above(self) -> int:
        """How many of the bins lie above zero."""
        return len(self.counts) - self.below

    def energy(self) -> float:
        """The sum of x² over the values, uniform within a bin, in widths of a bin squared."""
        edges = np.arange(-self.below, self.above + 1, dtype=np.float64)
        return float((np.diff(edges**3) * self.counts).sum()) / 3.0


def bulk_of(histogram: Histogram, scheme: Scheme, bins: int) -> Bulk:
    """The histogram without outliers, in at most `bins` bins on each side of zero (more than half of them on one).

    Fewer when the histogram itself has become too coarse. It must hold a value other than zero.
    """
    return _up_to(histogram, _outermost(histogram, scheme), bins)


def all_of(histogram: Histogram, bins: int) -> Bulk:
    """The histogram with its outliers, otherwise like `bulk_of`."""
    return _up_to(histogram, int(np.nonzero(histogram.magnitudes())[0][-1]), bins)


def _up_to(histogram: Histogram, outermost: int, bins: int) -> Bulk:
    per_bin = 1
    while outermost // per_bin >= bins:
        per_bin *= 2
    positive = _wider(histogram.positive, outermost, per_bin)
    negative = _wider(histogram.negative, outermost, per_bin)
    edge = (outermost + 1) * histogram.width
    return Bulk(
        width=per_bin * histogram.width,
        below=len(negative),
        counts=np.concatenate([negative[::-1], positive]).astype(np.float64),
        low=max(min(histogram.low, 0.0), -edge),
        high=min(max(histogram.high, 0.0), edge),
    )


def _outermost(histogram: Histogram, scheme: Scheme) -> int:
    """The last bin of |x| that holds more than outliers."""
    counts = histogram.magnitudes()
    filled = np.nonzero(counts)[0]
    if scheme.steps > _FEW_STEPS or len(filled) < 2:
        return int(filled[-1])
    # outside[i]: how many values lie beyond the i-th filled bin.
    outside = counts[filled].sum() - np.cumsum(counts[filled])[:-1]
    rare = outside <= histogram.count // _RARE
    far = filled[1:] >= _FAR * (filled[:-1] + 1)
    gaps = np.nonzero(rare & far)[0]
    return int(filled[gaps[0]] if len(gaps) else filled[-1])


def _wider(counts: NDArray[np.int64], outermost: int, per_bin: int) -> NDArray[np.int64]:
    """One side up to `outermost`, in bins of `per_bin`; no empty bins at the end."""
    wider = np.add.reduceat(counts[: outermost + 1], np.arange(0, outermost + 1, per_bin))
    filled = np.nonzero(wider)[0]
    return wider[: filled[-1] + 1] if len(filled) else wider[:0]
