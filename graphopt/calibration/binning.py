"""Count values in bins of a width that is a power of two, anchored at zero: the hot loop of calibration.

A value's bin is trunc(x · 2^−exponent), negative on the negative side. The product is exact, because scaling by a power
of two is: the count doesn't depend on the machine, nor on where an array is cut. Counting works through the array in
pieces that stay in the cache.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

# Bins on each side of zero. Solvers work with 512 or 1,024: the rest is kept so that one outlier, which makes every bin
# as wide as it needs, leaves the others that many (3 doublings).
BINS = 8192
# Values counted at a time: large enough that clearing and adding the counts doesn't show, small enough for the cache.
# Measured on one core at 1 M float32 values: 1.7 ns a value for N(0,1) and for Relu of it; of this np.bincount is 1.0.
# It keeps the interpreter's lock, the others don't.
_CHUNK = 1 << 17
# Adding to one bin over and over, as the zeros of a Relu do, waits for itself: 2.2 ns a value. Values of one sign use
# the bins of the other for every second value.
_TURNS = np.tile(np.array([0, BINS], np.int32), _CHUNK // 2)


@dataclass(frozen=True)
class Counted:
    """Values per bin; see `Histogram` for what a bin holds."""

    positive: NDArray[np.int64]
    negative: NDArray[np.int64]
    zeros: int


def as_float(array: NDArray[Any]) -> NDArray[Any]:
    """The same values as float32 or float64; exact but for integers beyond 2^53."""
    if array.dtype == np.float32 or array.dtype == np.float64:
        return array
    # float16, bfloat16 and integers of 16 bits fit in the 24 bits of a float32.
    return array.astype(np.float32 if array.dtype.itemsize <= 2 else np.float64)


def count_bins(array: NDArray[Any], exponent: int, *, negative: bool = True) -> Counted:
    """Count finite float32 or float64 values, all of magnitude below BINS · 2^exponent.

    Args:
        array: the values.
        exponent: bins are 2^exponent wide.
        negative: whether there may be negative values.
    """
    counts = np.zeros(2 * BINS, np.int64)
    above = below = 0
    flat = array.reshape(-1)
    for start in range(0, flat.size, _CHUNK):
        chunk = flat[start : start + _CHUNK]
        index = _scaled(chunk, exponent).astype(np.int32)
        index += BINS if negative else _TURNS[: index.size]  # bincount takes no negative numbers
        counts += np.bincount(index, minlength=2 * BINS)
        above += int(np.count_nonzero(chunk > 0))
        below += int(np.count_nonzero(chunk < 0)) if negative else 0
    # Bin 0 of both sides and the zeros share an index: trunc doesn't tell them apart.
    if negative:
        sides = counts[BINS:], np.concatenate([[0], counts[BINS - 1 : 0 : -1]])
    else:
        sides = counts[:BINS] + counts[BINS:], np.zeros(BINS, np.int64)
    for side, count in zip(sides, (above, below), strict=True):
        side[0] = count - int(side[1:].sum())
    return Counted(*sides, array.size - above - below)


def _scaled(chunk: NDArray[Any], exponent: int) -> NDArray[Any]:
    """The quotient chunk / 2^exponent, exactly wherever the result is 1 or more (below, trunc makes it 0 anyway)."""
    if chunk.dtype == np.float32 and -126 <= -exponent <= 127:
        return chunk * np.float32(2.0**-exponent)
    wide = chunk.astype(np.float64)
    # Beyond these the factor isn't a normal number; ldexp is slower and takes any exponent.
    return wide * 2.0**-exponent if -1022 <= -exponent <= 1023 else np.ldexp(wide, -exponent)
