"""Scales of weights with the least squared error: clip a few large weights, or not, so that the others err less.

    minimise over s     Σ_k h_k (w_k − s·q_k)²,      q_k = clip(round(w_k / s), −below, limit)

`h` is the second moment of the input that weight k multiplies, so that the sum is the error of the layer's output for
uncorrelated inputs; without data it is 1. The error over s has many shallow minima, where most weights of a short row
happen to lie near the grid, so candidates are tried, from a scale that covers the row down to `1/spread` of it, and the
best ones are polished: for fixed integers, the best scale is Σ h w q / Σ h q².
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

CANDIDATES = 100
SPREAD = 4.0
POLISHES = 3


def search_scales(
    rows: Array,
    owner: NDArray[np.intp],
    importance: Array,
    limit: int | Array,
    least: Array,
    candidates: int = CANDIDATES,
    *,
    below: int | Array | None = None,
    spread: float = SPREAD,
) -> NDArray[np.float32]:
    """The scale with the least weighted squared error, for each set of rows that share one.

    Args:
        rows: weights [row, weight].
        owner: [row]: the index of the scale that the row uses.
        importance: h, [row, weight] or anything that broadcasts to it; not negative.
        limit: the grid is −below … limit; both may be arrays [row, 1], equal for rows that share a scale.
        least: [scale]: no scale may be smaller (see `quantize-weights`: the bias has to fit).
        candidates: how many scales to try before the best is polished.
        below: how far the grid reaches below zero; None: as far as above.
        spread: the smallest scale tried is the covering one divided by it.

    Returns:
        [scale], float32; 0 where all its weights are 0 and `least` is 0. The error is never larger than with the scale
        that covers the largest weight (or `least`, where that is larger).
    """
    count = len(least)
    grid = _Grid(-limit if below is None else -below, limit)
    covering = np.zeros(count)
    np.maximum.at(covering, owner, grid.covering(rows).max(axis=1, initial=0.0))
    covering = _rounded(covering, least)
    best, cost = covering, _cost(rows, owner, importance, grid, covering)[0]
    # Finer steps where less is clipped: the minimum is mostly there.
    for factor in 1.0 - (1.0 - 1.0 / spread) * np.linspace(0.0, 1.0, candidates + 1)[1:] ** 2:
        best, cost = _better(rows, owner, importance, grid, _rounded(covering * factor, least), best, cost)
    for _ in range(POLISHES):
        _, fitted = _cost(rows, owner, importance, grid, best)
        best, cost = _better(rows, owner, importance, grid, _rounded(fitted, least), best, cost)
    return best.astype(np.float32)


@dataclass(frozen=True)
class _Grid:
    """The smallest and the largest integer, for all rows or [row, 1]."""

    low: int | Array
    high: int | Array

    def covering(self, rows: Array) -> Array:
        """The scale that each weight needs so as not to be clipped; 0 on a side that the grid doesn't have."""
        above = np.divide(rows, self.high, out=np.zeros_like(rows), where=np.greater(self.high, 0))
        under = np.divide(rows, self.low, out=np.zeros_like(rows), where=np.less(self.low, 0))
        return np.maximum(above, under)


def _better(
    rows: Array, owner: NDArray[np.intp], importance: Array, grid: _Grid, tried: Array, best: Array, cost: Array
) -> tuple[Array, Array]:
    """(scales, costs): of each scale, the one tried where it costs less."""
    found, _ = _cost(rows, owner, importance, grid, tried)
    less = found < cost
    return np.where(less, tried, best), np.where(less, found, cost)


def _cost(rows: Array, owner: NDArray[np.intp], importance: Array, grid: _Grid, scales: Array) -> tuple[Array, Array]:
    """(weighted squared error, the best scale for the integers that came out), for each scale."""
    own = scales[owner][:, None]
    q = np.clip(np.rint(np.divide(rows, own, out=np.zeros_like(rows), where=own > 0)), grid.low, grid.high)
    error = rows - q * own
    weighted = importance * q
    count = len(scales)
    cost = np.bincount(owner, (importance * error * error).sum(axis=1), count).astype(np.float64)
    product = np.bincount(owner, (weighted * rows).sum(axis=1), count)
    square = np.bincount(owner, (weighted * q).sum(axis=1), count)
    return cost, np.divide(product, square, out=scales.copy(), where=square > 0)


def _rounded(scales: Array, least: Array) -> Array:
    """As float32 holds them, not below `least`."""
    rounded = np.maximum(scales, least).astype(np.float32)
    return np.where(rounded < least, np.nextafter(rounded, np.float32(np.inf)), rounded).astype(np.float64)
