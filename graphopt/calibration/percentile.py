"""Percentiles of a histogram: the range that leaves out a given share of the values.

A symmetric scheme leaves out the share 1 − p of largest |x|, an asymmetric one half of it at each end.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from graphopt.calibration.histogram import Histogram
from graphopt.quant import Range, Scheme


def percentile_range(histogram: Histogram, scheme: Scheme, *, p: float) -> Range:
    """The range that holds `p` percent of the values, zeros counted, and zero itself.

    Within a bin the values are taken as uniform; `p` = 100 gives the exact extremes.
    """
    outside = histogram.count * (1.0 - p / 100.0)
    if scheme.symmetric:
        low = high = _threshold(histogram.magnitudes(), outside) * histogram.width
    else:
        low = _threshold(histogram.negative, outside / 2) * histogram.width
        high = _threshold(histogram.positive, outside / 2) * histogram.width
    return Range.of(max(min(histogram.low, 0.0), -low), min(max(histogram.high, 0.0), high))


def _threshold(counts: NDArray[np.int64], outside: float) -> float:
    """Where, in bins from zero, `outside` values lie beyond; 0 when there are no more than that."""
    beyond = np.cumsum(counts[::-1])[::-1]  # beyond[k]: in bin k and further out
    reached = np.nonzero(beyond > outside)[0]
    if len(reached) == 0:
        return 0.0
    last = int(reached[-1])
    return last + 1 - (outside - (float(beyond[last]) - float(counts[last]))) / float(counts[last])
