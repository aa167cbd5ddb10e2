"""The grid that a weight has from another tool, kept wherever the target's integers can hold it.

    W = s · (q − z)      →      W = s · q',      q' = q − z      for channels with |q − z| ≤ 127

So uint8 with a zero point becomes int8 without any rounding. A channel that reaches further has that grid with its
largest values saturated, or a coarser one that ends at them: whichever is nearer in the sum of squares.
"""

from __future__ import annotations

import numpy as np

from graphopt.analysis.legality.grid import EIGHT_BITS, Grid
from graphopt.ir import Constant
from graphopt.quant import Range, Scheme
from graphopt.quant.arithmetic import MIN_SCALE


def kept_range(weight: Constant, grid: Grid, scheme: Scheme) -> Range | None:
    """The range, per channel of `scheme`, whose scales are those that `weight` has on `grid` or had better get.

    None where the grid says nothing about them: scales along another axis, blocks, other than 8 bits.
    """
    axis, limit = scheme.channel_axis, scheme.qmax
    if grid.scale is None or grid.is_block or grid.dtype not in EIGHT_BITS or grid.axis not in (None, axis):
        return None
    if (grid.axis is None and grid.scale.size != 1) or not (grid.scale >= MIN_SCALE).all():
        return None
    values = weight.values.astype(np.float64)
    rows = values.reshape(1, -1) if axis is None else np.moveaxis(values, axis, 0).reshape(values.shape[axis], -1)
    old = np.broadcast_to(grid.scale.reshape(-1), len(rows))
    new = np.maximum(np.abs(rows).max(axis=1, initial=0.0) / limit, MIN_SCALE)
    fits = np.abs(np.rint(rows / old[:, None])).max(axis=1, initial=0.0) <= limit
    scale = np.where(fits | (_error(rows, old, limit) <= _error(rows, new, limit)), old, new)
    scale = scale.reshape(() if axis is None else (-1,))
    return Range(-scale * limit, scale * limit)


def _error(rows: np.ndarray, scale: np.ndarray, limit: int) -> np.ndarray:
    """Sum of squares, per row, that rounding to integers up to `limit` costs."""
    integers = np.clip(np.rint(rows / scale[:, None]), -limit, limit)
    return ((integers * scale[:, None] - rows) ** 2).sum(axis=1)
