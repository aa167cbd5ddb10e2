"""The range that minimises the expected squared quantization error E[(x − Q(x))²].

Within a bin the values are taken as uniform, so the expectation is an integral with a closed form: in steps (t = x/s),

    ∫ (t − round t)² dt = n/12 + f³/3     with n = round t, f = t − n        on the grid
    ∫ (t − end)² dt     = (t − end)³/3                                       beyond its ends: clipping

which is right for any step, narrower than a bin or not aligned to bins.

The search: rounding costs about s²/12, s = (high − low)/steps, and clipping costs something convex in each end; their
sum is convex in (low, high). So the ends are searched in turn, each over a whole line of candidates at once, on lines
that get finer.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from graphopt.calibration.histogram import Histogram
from graphopt.calibration.outliers import Bulk, bulk_of
from graphopt.quant import Range, Scheme

_BINS = 512
# Candidates of the first line, each smaller than the last by this factor: down to 1/64 of the data.
_COARSE = 2.0 ** (-np.arange(49) / 8)
# Later lines reach from one neighbour of the best candidate to the other.
_FINE = 2.0 ** (np.arange(-8, 9) / 64)
_FINEST = 2.0 ** (np.arange(-8, 9) / 512)
_LINES = (_COARSE, _FINE, _FINEST)
_ROUNDS = 2  # over the two ends, on each line


def mse_range(histogram: Histogram, scheme: Scheme) -> Range:
    """The range of least expected squared error, zero included, of a histogram that holds a value other than zero.

    Outliers, as `outliers` defines them, are left out.
    """
    bulk = bulk_of(histogram, scheme, _BINS)
    low, high = _symmetric(bulk, scheme) if scheme.symmetric else _two_ended(bulk, scheme)
    return Range.of(low, high)


def squared_error(
    bulk: Bulk, low: NDArray[np.float64], high: NDArray[np.float64], scheme: Scheme
) -> NDArray[np.float64]:
    """The summed expected squared error of the bulk's values on the grids that cover each [low, high].

    Args:
        bulk: the values.
        low: [candidates], at most 0.
        high: [candidates], at least 0; above `low`.
        scheme: the grid, per tensor.

    Returns:
        [candidates], in widths of a bin squared (in the tensor's units, tiny values would underflow).
    """
    step, first, last = _grids(low / bulk.width, high / bulk.width, scheme)
    edges = np.arange(-bulk.below, bulk.above + 1, dtype=np.float64)
    t = edges / step[:, None]
    inside = np.minimum(np.maximum(t, first[:, None]), last[:, None])
    beyond = t - inside
    whole = np.rint(inside)
    inside -= whole
    whole *= 1 / 12
    whole += (inside * inside * inside + beyond * beyond * beyond) * (1 / 3)
    per_bin = np.diff(whole, axis=1)
    per_bin *= bulk.counts
    return per_bin.sum(axis=1) * step**3


def _grids(low: NDArray[np.float64], high: NDArray[np.float64], scheme: Scheme) -> tuple[NDArray[np.float64], ...]:
    """The step, and the first and last multiples of it on the grid: `solve_params` for many ranges."""
    if scheme.symmetric:
        zero = 0 if scheme.qmin < 0 else (scheme.qmin + scheme.qmax + 1) // 2
        first, last = np.full(low.shape, float(scheme.qmin - zero)), np.full(low.shape, float(scheme.qmax - zero))
        return np.maximum(low / first, high / last), first, last
    step = (high - low) / scheme.steps
    first = -np.clip(np.rint(-low / step), 0, scheme.steps)
    return step, first, first + scheme.steps


def _symmetric(bulk: Bulk, scheme: Scheme) -> tuple[float, float]:
    best = max(-bulk.low, bulk.high)
    for line in _LINES:
        tried = best * line
        low, high = np.maximum(bulk.low, -tried), np.minimum(bulk.high, tried)
        best = float(tried[np.argmin(squared_error(bulk, low, high, scheme))])
    return max(bulk.low, -best), min(bulk.high, best)


def _two_ended(bulk: Bulk, scheme: Scheme) -> tuple[float, float]:
    low, high = bulk.low, bulk.high
    for line in _LINES:
        for _ in range(_ROUNDS):
            if high > 0:
                tried = np.minimum(bulk.high, high * line)
                high = float(tried[np.argmin(squared_error(bulk, np.full_like(tried, low), tried, scheme))])
            if low < 0:
                tried = np.maximum(bulk.low, low * line)
                low = float(tried[np.argmin(squared_error(bulk, tried, np.full_like(tried, high), scheme))])
            if low == 0 or high == 0:
                break  # one end is zero and stays there
    return low, high
