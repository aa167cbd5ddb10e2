"""Rounding weights so that errors cancel in sums, without data (SQuant).

Nearest rounding leaves each output channel with a random sum of errors; since activations behind a Relu are positive,
that sum becomes a shift of the channel's mean. Rounding a few weights the other way, those nearest to halfway, brings
the sum of errors of each kernel (output channel, input channel), and then of each output channel, below half a step:

    minimise  Σ e²  +  Σ_kernels (Σ e)²  +  Σ_channels (Σ e)²,      e = q − w / s,  |e| < 1

Source: Guo et al., "SQuant: On-the-Fly Data-Free Quantization via Diagonal Hessian Approximation", ICLR 2022,
algorithm 1 (the flip stages K and C; rounding to nearest is stage E).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from graphopt.quant.arithmetic import QuantParams, quantize


def round_balanced(values: NDArray[Any], params: QuantParams) -> NDArray[Any]:
    """Integers of a weight whose errors nearly cancel over each kernel and each output channel.

    Args:
        values: the weight; axis `params.scheme.channel_axis` holds output channels, the next of the others input
            channels, and the rest kernel positions.
        params: per-channel scales and zero points.

    Returns:
        Integers of the same shape, each the floor or the ceiling of its real quotient, inside the scheme's grid.
    """
    axis = params.scheme.channel_axis
    nearest = quantize(values, params)
    if axis is None or values.size == 0:
        return nearest
    front = np.moveaxis(nearest, axis, 0)
    q = front.astype(np.float64)
    scale = params.scale.astype(np.float64).reshape(-1, *[1] * (values.ndim - 1))
    zero_point = params.zero_point.astype(np.float64).reshape(scale.shape)
    wanted = np.moveaxis(values, axis, 0).astype(np.float64) / scale + zero_point
    limits = (params.scheme.qmin, params.scheme.qmax)
    channels = q.shape[0]
    if values.ndim > 2:
        q = _cancel(q.reshape(channels * q.shape[1], -1), wanted.reshape(channels * q.shape[1], -1), limits)
    q = _cancel(q.reshape(channels, -1), wanted.reshape(channels, -1), limits)
    return np.moveaxis(q.reshape(front.shape), 0, axis).astype(nearest.dtype)


def _cancel(q: NDArray[np.float64], wanted: NDArray[np.float64], limits: tuple[int, int]) -> NDArray[np.float64]:
    """Round as many entries of each row the other way as its summed error has whole steps, the cheapest first."""
    error = q - wanted
    total = error.sum(axis=1, keepdims=True)
    sign = np.sign(total)
    flipped = q - sign
    # An entry may be flipped once, against its own error, and must stay on the grid; clipped entries stay as they are.
    allowed = (error * sign > 0) & (np.abs(error) <= 0.5) & (flipped >= limits[0]) & (flipped <= limits[1])
    cost = np.where(allowed, -np.abs(error), np.inf)
    # A stable sort breaks ties by position: the same bytes on every machine.
    order = np.argsort(cost, axis=1, kind="stable")
    flips = np.minimum(np.rint(np.abs(total)), allowed.sum(axis=1, keepdims=True))
    rank = np.argsort(order, axis=1)
    return np.where(rank < flips, flipped, q)
