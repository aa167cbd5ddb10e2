"""The range that minimises the expected squared quantization error E[(x − Q(x))²].

Within a bin the values are taken as uniform, so the expectation is an integral with a closed form: in steps (t = x/s),

    ∫ (t − round t)² dt = n/12 + f³/3     with n = round t, f = t − n        on the grid
    ∫ (t − end)² dt     = (t − end)³/3                                       beyond its ends: clipping

which is right for any step, narrower than a bin or not aligned to bins.

Where the tensor x is read through one function f alone (a LeakyRelu behind a convolution that rounds its own result),
what counts is E[(f(x) − f(Q(x)))²]: a bin on the grid then weighs f'², and one beyond it has (f(x) − f(end))². The
negative side of a LeakyRelu may be clipped at little cost, and the steps of the positive side get finer.

The search: rounding costs about s²/12, s = (high − low)/steps, and clipping costs something convex in each end; their
sum is convex in (low, high). So the ends are searched in turn, each over a whole line of candidates at once, on lines
that get finer.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from graphopt.analysis.response import Response
from graphopt.calibration.histogram import Histogram
from graphopt.calibration.outliers import Bulk, bulk_of
from graphopt.quant import Range, Scheme

Ends: TypeAlias = NDArray[np.float64]
_Error: TypeAlias = Callable[[Ends, Ends], Ends]

_BINS = 512
# Candidates of the first line, each smaller than the last by this factor: down to 1/64 of the data.
_COARSE = 2.0 ** (-np.arange(49) / 8)
# Later lines reach from one neighbour of the best candidate to the other.
_FINE = 2.0 ** (np.arange(-8, 9) / 64)
_FINEST = 2.0 ** (np.arange(-8, 9) / 512)
_LINES = (_COARSE, _FINE, _FINEST)
_ROUNDS = 2  # over the two ends, on each line


def mse_range(histogram: Histogram, scheme: Scheme, response: Response | None = None) -> Range:
    """The range of least expected squared error, zero included, of a histogram that holds a value other than zero.

    Outliers, as `outliers` defines them, are left out. With a response f, the error is that of f's values.
    """
    bulk = bulk_of(histogram, scheme, _BINS)
    seen = None if response is None else _Seen.through(response, bulk)

    def error(low: Ends, high: Ends) -> Ends:
        return squared_error(bulk, low, high, scheme, seen)

    low, high = _symmetric(bulk, error) if scheme.symmetric else _two_ended(bulk, error)
    return Range.of(low, high)


@dataclass(frozen=True)
class _Seen:
    """A bulk as it is seen through a function f, in widths of a bin.

    Attributes:
        f: the function.
        weights: [bins], the mean slope of f over each bin, squared.
        centres: [bins], f of the middle of each bin.
    """

    f: Response
    weights: NDArray[np.float64]
    centres: NDArray[np.float64]

    @staticmethod
    def through(response: Response, bulk: Bulk) -> _Seen | None:
        """None where the function isn't finite, or is constant, on the data."""

        def f(values: NDArray[np.float64]) -> NDArray[np.float64]:
            return response(values * bulk.width) / bulk.width

        edges = np.arange(-bulk.below, bulk.above + 1, dtype=np.float64)
        with np.errstate(all="ignore"):
            weights, centres = np.square(np.diff(f(edges))), f(edges[:-1] + 0.5)
        if not (np.isfinite(weights).all() and np.isfinite(centres).all() and (weights * bulk.counts).any()):
            return None
        return _Seen(f, weights, centres)

    def clipped(self, end: Ends) -> NDArray[np.float64]:
        """[candidates, bins]: the squared error of each bin's middle where it is set to `end`."""
        return np.square(self.centres - self.f(end)[:, None])


def squared_error(bulk: Bulk, low: Ends, high: Ends, scheme: Scheme, seen: _Seen | None = None) -> Ends:
    """The summed expected squared error of the bulk's values on the grids that cover each [low, high].

    Args:
        bulk: the values.
        low: [candidates], at most 0.
        high: [candidates], at least 0; above `low`.
        scheme: the grid, per tensor.
        seen: the function that the values are seen through; None for the values themselves.

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
    per_bin *= (step**3)[:, None]
    if seen is not None:
        per_bin *= seen.weights
        middle = edges[:-1] + 0.5
        for end, beyond in ((first * step, np.less), (last * step, np.greater)):
            np.copyto(per_bin, seen.clipped(end), where=beyond(middle, end[:, None]))
    per_bin *= bulk.counts
    return per_bin.sum(axis=1)


def _grids(low: Ends, high: Ends, scheme: Scheme) -> tuple[NDArray[np.float64], ...]:
    """The step, and the first and last multiples of it on the grid: `solve_params` for many ranges."""
    if scheme.symmetric:
        zero = 0 if scheme.qmin < 0 else (scheme.qmin + scheme.qmax + 1) // 2
        first, last = np.full(low.shape, float(scheme.qmin - zero)), np.full(low.shape, float(scheme.qmax - zero))
        return np.maximum(low / first, high / last), first, last
    step = (high - low) / scheme.steps
    first = -np.clip(np.rint(-low / step), 0, scheme.steps)
    return step, first, first + scheme.steps


def _symmetric(bulk: Bulk, error: _Error) -> tuple[float, float]:
    best = max(-bulk.low, bulk.high)
    for line in _LINES:
        tried = best * line
        low, high = np.maximum(bulk.low, -tried), np.minimum(bulk.high, tried)
        best = float(tried[np.argmin(error(low, high))])
    return max(bulk.low, -best), min(bulk.high, best)


def _two_ended(bulk: Bulk, error: _Error) -> tuple[float, float]:
    low, high = bulk.low, bulk.high
    for line in _LINES:
        for _ in range(_ROUNDS):
            if high > 0:
                tried = np.minimum(bulk.high, high * line)
                high = float(tried[np.argmin(error(np.full_like(tried, low), tried))])
            if low < 0:
                tried = np.maximum(bulk.low, low * line)
                low = float(tried[np.argmin(error(tried, np.full_like(tried, high)))])
            if low == 0 or high == 0:
                break  # one end is zero and stays there
    return low, high
