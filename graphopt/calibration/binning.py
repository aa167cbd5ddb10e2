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
# Measured on one core at 1 M float32 values: 1.8 ns a value for N(0,1), 2.3 for Relu of it (adding to one bin over and
# over waits for itself); of this np.bincount is 1.0 to 1.5. It keeps the interpreter's lock, the others don't.
_CHUNK = 1 << 17


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


def count_bins(array: NDArray[Any], exponent: int) -> Counted:
    """Count finite float32 or float64 values, all of magnitude below BINS · 2^exponent."""
    counts = np.zeros(2 * BINS, np.int64)
    above = below = 0
    flat = array.reshape(-1)
    for start in range(0, flat.size, _CHUNK):
        chunk = flat[start : start + _CHUNK]
        index = _scaled(chunk, exponent).astype(np.int32)
        index += BINS  # bincount takes no negative numbers
        counts += np.bincount(index, minlength=2 * BINS)
        above += int(np.count_nonzero(chunk > 0))
        below += int(np.count_nonzero(chunk < 0))
    # Bin 0 of both sides and the zeros share an index: trunc doesn't tell them apart.
    positive = counts[BINS:]
    negative = np.concatenate([[0], counts[BINS - 1 : 0 : -1]])
    positive[0] = above - int(positive[1:].sum())
    negative[0] = below - int(negative.sum())
    return Counted(positive, negative, array.size - above - below)


def _scaled(chunk: NDArray[Any], exponent: int) -> NDArray[Any]:
    """The quotient chunk / 2^exponent, exactly wherever the result is 1 or more (below, trunc makes it 0 anyway)."""
    if chunk.dtype == np.float32 and -126 <= -exponent <= 127:
        return chunk * np.float32(2.0**-exponent)
    wide = chunk.astype(np.float64)
    # Beyond these the factor isn't a normal number; ldexp is slower and takes any exponent.
    return wide * 2.0**-exponent if -1022 <= -exponent <= 1023 else np.ldexp(wide, -exponent)
