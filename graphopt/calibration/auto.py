"""The choice among methods for one tensor: the widest range that costs next to nothing.

Each candidate range (minmax, percentile, kl, mse) is judged by the relative squared error of the tensor it quantizes,

    E[(x − Q(x))²] / E[x²],      over all the values observed, outliers too.

Rounding errors of different values are next to independent, so the error of what a following layer computes from the
tensor, relative to its size, is proportional to this. Among candidates within 10 % (0.4 dB) of the least, the widest is
taken: the error on other samples than these is larger for the range that clips more.

It differs from `mse` in that nothing is called an outlier: where few large values carry the signal, they are kept.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from graphopt.calibration.histogram import Histogram
from graphopt.calibration.mse import squared_error
from graphopt.calibration.outliers import all_of
from graphopt.quant import Range, Scheme

_NEAR = 1.1
_BINS = 2048


def relative_errors(histogram: Histogram, ranges: Sequence[Range], scheme: Scheme) -> list[float]:
    """E[(x − Q(x))²] / E[x²] for each range of the whole tensor; the histogram holds a value other than zero."""
    everything = all_of(histogram, _BINS)
    low = np.array([min(float(r.low), 0.0) for r in ranges])
    high = np.array([max(float(r.high), 0.0) for r in ranges])
    # A range of no width stands for zero alone: every value is clipped to next to nothing.
    smallest = everything.width * 1e-6
    errors = squared_error(everything, low, np.maximum(high, low + smallest), scheme)
    return (errors / everything.energy()).tolist()


def choose(histogram: Histogram, ranges: Sequence[Range], scheme: Scheme) -> int:
    """The index of the range to take."""
    errors = relative_errors(histogram, ranges, scheme)
    near = [i for i, error in enumerate(errors) if error <= _NEAR * min(errors)]
    return max(near, key=lambda i: float(ranges[i].high - ranges[i].low))
