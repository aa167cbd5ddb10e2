"""Scales of weights in blocks: as many neighbours along the summed axis share one, so that few bits go a long way.

    w[k, n] ≈ s[k // block, n] · (q[k, n] − z[k // block, n])           for a weight [K, N] that is summed over K

Each block has the scale (and the zero point, where the scheme isn't symmetric) with the least squared error: clipping
a block's largest weight often pays with 16 integers. `quantize` and `dequantize` of `quant.arithmetic` do the rest.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from graphopt.quant.arithmetic import MIN_SCALE, QuantParams, solve_params
from graphopt.quant.scheme import Range, Scheme
from graphopt.quant.weight_scales import search_scales

Array = NDArray[np.float64]

# With 16 integers the error over the scale is smooth, and little is worth clipping: 100 candidates down to a quarter of
# the scale gain 0.01 dB more.
CANDIDATES, SPREAD = 8, 1.6
LEAST_BLOCK = 16
"""With fewer weights to a float32 scale, the scales take as much as half of what the weights do."""
# Weights searched at a time: some ten float64 arrays of this many values are alive.
_CHUNK = 1 << 20


def block_scheme(axis: int, block: int, *, symmetric: bool = True) -> Scheme:
    """Four bits in blocks: int4 with zero point 0, or uint4 with a zero point a block.

    Args:
        axis: the axis that is cut into blocks, the one that is summed over; not negative.
        block: weights that share a scale.
        symmetric: zero points are 0.
    """
    return Scheme("int4" if symmetric else "uint4", symmetric=symmetric, channel_axis=axis, block=block)


def fitting_block(size: int, block: int, *, divides: bool) -> int | None:
    """How many weights can share a scale where an axis has `size` of them and `block` are wanted.

    Args:
        size: of the axis.
        block: at most so many.
        divides: the engine wants blocks of one size: then the largest that divides `size`.

    Returns:
        `block`, or fewer; None where only blocks of less than LEAST_BLOCK would do.
    """
    if size < LEAST_BLOCK:
        return None
    if not divides:
        return block
    if size <= block:
        return size
    return next((count for count in range(block, LEAST_BLOCK - 1, -1) if size % count == 0), None)


def solve_blocks(
    weights: NDArray[Any],
    scheme: Scheme,
    *,
    search: bool = True,
    signed: bool = False,
    importance: Array | None = None,
) -> QuantParams:
    """Scales and zero points of a weight's blocks.

    Args:
        weights: finite values of any rank.
        scheme: with `block`; a symmetric one has zero point 0, or the middle of an unsigned grid.
        search: for the least squared error; otherwise the finest grid that clips nothing.
        signed: with `search`: scales of blocks with zero point 0 may be negative, so that the one integer more that
            there is below zero serves whichever side needs it (worth 0.55 dB of weights that are normally distributed).
        importance: [size of the blocks' axis]: what each weight's squared error counts; None: all the same.

    Returns:
        Scales and zero points of the weight's shape, but for ⌈size / block⌉ along the axis; the error of no block is
        larger than without `search`.
    """
    axis, block = scheme.channel_axis, scheme.block
    if axis is None or block is None:
        raise ValueError(f"not a scheme in blocks: {scheme}")
    rows = _cut(np.moveaxis(weights, axis, -1), block)
    ends: list[Array] = [end.astype(np.float64) for end in (rows.min(axis=-1), rows.max(axis=-1))]
    covering = solve_params(Range(*ends), scheme)
    scale, zero_point = covering.scale, covering.zero_point
    if search:
        everywhere = np.ones(weights.shape[axis], np.float64)
        counted = _cut(everywhere if importance is None else importance, block)
        signed = signed and scheme.symmetric
        scale, zero_point = _search(rows, counted, covering, signed=signed)
    return QuantParams(scheme, np.moveaxis(scale, -1, axis), np.moveaxis(zero_point, -1, axis))


def _cut(values: NDArray[Any], block: int) -> NDArray[Any]:
    """[…, size] → […, blocks, block]; zeros, which every grid has, fill the last one."""
    missing = -values.shape[-1] % block
    if missing:
        values = np.pad(values, [(0, 0)] * (values.ndim - 1) + [(0, missing)])
    return values.reshape(*values.shape[:-1], -1, block)


def _search(
    rows: NDArray[Any], importance: Array, covering: QuantParams, *, signed: bool
) -> tuple[NDArray[np.float32], NDArray[Any]]:
    """(scales, zero points) of blocks […, blocks, block], from those that clip nothing; importance [blocks, block]."""
    shape, width = rows.shape[:-1], rows.shape[-1]
    flat = rows.reshape(-1, width)
    scale, zero = covering.scale.reshape(-1).astype(np.float64), covering.zero_point.reshape(-1).astype(np.float64)
    step = max(1, _CHUNK // width)
    for start in range(0, len(flat), step):
        part = slice(start, start + step)
        chosen: Array = flat[part].astype(np.float64)
        counted = importance[np.arange(start, start + len(chosen)) % len(importance)]
        scale[part], zero[part] = _search_rows(chosen, counted, covering.scheme, scale[part], zero[part], signed=signed)
    return scale.astype(np.float32).reshape(shape), zero.astype(covering.scheme.numpy).reshape(shape)


def _search_rows(
    rows: Array, importance: Array, scheme: Scheme, scale: Array, zero: Array, *, signed: bool
) -> tuple[Array, Array]:
    """The same for blocks [row, weight]; the zero points next to each are tried, too, unless the scheme fixes them."""

    def error(scale: Array, zero: Array) -> Array:
        low, high, step = (scheme.qmin - zero)[:, None], (scheme.qmax - zero)[:, None], scale[:, None]
        found: Array = (importance * (rows - step * np.clip(np.rint(rows / step), low, high)) ** 2).sum(axis=1)
        return found

    owner, none = np.arange(len(rows)), np.zeros(len(rows))
    start, least = zero, error(scale, zero)
    moves = [(0, 1), (0, -1)] if signed else [(0, 1)] if scheme.symmetric else [(0, 1), (-1, 1), (1, 1)]
    for move, sign in moves:
        moved = np.clip(start + move, scheme.qmin, scheme.qmax)
        high, below = (scheme.qmax - moved)[:, None], (moved - scheme.qmin)[:, None]
        tried = search_scales(sign * rows, owner, importance, high, none, CANDIDATES, below=below, spread=SPREAD)
        tried = sign * np.maximum(tried, MIN_SCALE).astype(np.float64)
        found = error(tried, moved)
        less = found < least
        scale, zero, least = np.where(less, tried, scale), np.where(less, moved, zero), np.minimum(found, least)
    return scale, zero
