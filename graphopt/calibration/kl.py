"""The entropy method: the range whose quantized distribution tells the least apart from what was observed.

Source: Migacz, "8-bit inference with TensorRT", GTC 2017. For each candidate of m bins, out of a histogram h:

    P   the m bins, with everything outside added to the bin at that edge
    Q   the m bins alone, merged into as many groups as there are levels; each group's mass is spread evenly over
        those of its bins that aren't empty
    KL(P ‖ Q) = Σ P ln(P / Q),  both normalised

The smallest candidate has as many bins as there are levels. A symmetric scheme takes the histogram of |x| and the
levels of one side (128 of int8), an asymmetric one the signed histogram and all levels (256), and searches both ends in
turn. A threshold is the end of the last bin kept (the talk adds half a bin).
Q is zero where P is not when the bin at an edge was empty before the fold: the divergence is infinite, the candidate is
out. Exact zeros are left out of h: every range represents them exactly.

All candidates at once: P and Q enter only through sums over groups, so differences of cumulative sums do.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from graphopt.calibration.histogram import Histogram
from graphopt.calibration.outliers import Bulk, bulk_of
from graphopt.quant import Range, Scheme

# TensorRT has 2,048 bins up to the largest value; here they are the bins up to the next power of two, of which the data
# fills more than half.
_BINS = 1024
_MAX_CANDIDATES = 128  # of one scan over one end of an asymmetric range
_ROUNDS = 3

Indices = NDArray[np.int64]


def kl_range(histogram: Histogram, scheme: Scheme) -> Range:
    """The range of least divergence, zero included, of a histogram that holds a value other than zero."""
    bulk = bulk_of(histogram, scheme, _BINS)
    low, high = _symmetric(bulk, scheme) if scheme.symmetric else _two_ended(bulk, scheme)
    # The outermost bins reach beyond the data.
    return Range.of(max(-low * bulk.width, bulk.low), min(high * bulk.width, bulk.high))


def divergences(counts: NDArray[np.float64], first: Indices, end: Indices, levels: int) -> NDArray[np.float64]:
    """KL(P ‖ Q) of the candidates that keep the bins [first, end).

    Args:
        counts: [bins], whole numbers, not all zero.
        first: [candidates].
        end: [candidates], above `first` by at least `levels`.
        levels: groups that the bins are merged into, at least 2.

    Returns:
        [candidates]; infinite where P isn't zero and Q is.
    """
    mass, filled, entropy = (_sums(c) for c in (counts, counts > 0, _xlogx(counts)))
    # Rounded down: groups differ by at most one bin.
    bounds = first[:, None] + np.arange(levels + 1) * (end - first)[:, None] // levels
    group = np.diff(mass[bounds], axis=1)
    kept = mass[end] - mass[first]
    # Q of a group's bins, which P's share of the group is compared with; 1 where both are zero.
    q = group / np.maximum(np.diff(filled[bounds], axis=1) * kept[:, None], 1.0)
    log_q = np.log(np.where(group > 0, q, 1.0))
    below, above = mass[first], mass[-1] - mass[end]
    cross = (group * log_q).sum(axis=1) + below * log_q[:, 0] + above * log_q[:, -1]
    left, right = counts[first], counts[end - 1]
    own = entropy[end] - entropy[first] - _xlogx(left) - _xlogx(right) + _xlogx(left + below) + _xlogx(right + above)
    possible = ((below == 0) | (left > 0)) & ((above == 0) | (right > 0))
    return np.where(possible, (own - cross) / mass[-1] - np.log(mass[-1]), np.inf)


def _symmetric(bulk: Bulk, scheme: Scheme) -> tuple[int, int]:
    """How many bins to keep below and above zero."""
    counts = np.zeros(max(bulk.below, bulk.above))
    counts[: bulk.above] += bulk.counts[bulk.below :]
    counts[: bulk.below] += bulk.counts[: bulk.below][::-1]
    levels = (scheme.steps + 1) // 2
    end = np.arange(min(levels, len(counts)), len(counts) + 1)
    if len(end) == 1:
        return len(counts), len(counts)  # a level for each bin
    best = int(end[np.argmin(divergences(counts, np.zeros_like(end), end, levels))])
    return best, best


def _two_ended(bulk: Bulk, scheme: Scheme) -> tuple[int, int]:
    """How many bins to keep below and above zero."""
    levels = scheme.steps + 1
    low, high = bulk.below, bulk.above
    for _ in range(_ROUNDS):
        before = low, high
        high = _best_end(bulk.counts, bulk.below - low, bulk.below, high, levels)
        # The lower end is the upper end of the mirrored histogram.
        low = _best_end(bulk.counts[::-1], bulk.above - high, bulk.above, low, levels)
        if (low, high) == before:
            break
    return low, high


def _best_end(counts: NDArray[np.float64], first: int, zero: int, now: int, levels: int) -> int:
    """How many bins to keep above bin number `zero` when those from `first` on are kept below it.

    `now` when nothing is better; it must be possible.
    """
    # Candidates that end in an empty bin are out (see the module), unless nothing lies beyond.
    ends = np.nonzero(counts)[0] + 1 - zero
    ends = ends[ends >= max(levels - (zero - first), 0)][::-1]
    tried = np.append(now, ends[:: 1 + len(ends) // _MAX_CANDIDATES])
    if zero + now - first < levels:
        return now  # a level for each bin
    return int(tried[np.argmin(divergences(counts, np.full_like(tried, first), zero + tried, levels))])


def _sums(values: NDArray[Any]) -> NDArray[np.float64]:
    """The sum of everything before each position; one longer than `values`."""
    return np.concatenate([[0.0], np.cumsum(values, dtype=np.float64)])


def _xlogx(counts: NDArray[np.float64]) -> NDArray[np.float64]:
    return counts * np.log(np.maximum(counts, 1.0))
