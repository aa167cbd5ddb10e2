"""Reference arithmetic of ONNX QuantizeLinear / DequantizeLinear, in numpy.

    q = saturate(round_half_even(x / scale) + zero_point)        real = scale · (q − zero_point)

Source: ONNX operator specification, QuantizeLinear-13 and DequantizeLinear-13, in blocks -21. Scales are float32,
as the operators take them, so that what is computed here is what the engine computes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graphopt.quant.scheme import Range, Scheme

# The smallest scale we emit. Below it x/scale overflows float32 and several engines flush the scale to zero;
# a channel that is all zeros gets it too, so that it dequantizes to exact zeros.
MIN_SCALE = np.float32(2.0**-100)


@dataclass(frozen=True)
class QuantParams:
    """Scale (float32) and zero point (the scheme's integer type); rank 0, [channels] along the axis, or one a block.

    Scales are positive; those of blocks may be negative (see `block_scales`).
    """

    scheme: Scheme
    scale: NDArray[np.float32]
    zero_point: NDArray[Any]


def solve_params(value_range: Range, scheme: Scheme) -> QuantParams:
    """The finest grid of `scheme` that covers `value_range` and represents zero exactly.

    Zero has to be exact because padding and Relu produce it in bulk (Jacob et al. 2018, section 2.1).
    """
    low = np.minimum(value_range.low, 0.0)
    high = np.maximum(value_range.high, 0.0)
    if scheme.symmetric:
        zero = 0 if scheme.qmin < 0 else (scheme.qmin + scheme.qmax + 1) // 2
        # Each side needs its own number of steps: int8 has 128 below zero and 127 above.
        scale = np.maximum(-low / (zero - scheme.qmin), high / (scheme.qmax - zero))
        scale32 = np.maximum(scale.astype(np.float32), MIN_SCALE)
        return QuantParams(scheme, _like(scale32, low), np.full(low.shape, zero, scheme.numpy))
    scale32 = np.maximum(((high - low) / scheme.steps).astype(np.float32), MIN_SCALE)
    zero_point = np.clip(np.rint(scheme.qmin - low / scale32.astype(np.float64)), scheme.qmin, scheme.qmax)
    return QuantParams(scheme, _like(scale32, low), np.asarray(zero_point).astype(scheme.numpy))


def quantize(values: NDArray[Any], params: QuantParams) -> NDArray[Any]:
    """Integers of `values`, saturated to the scheme's grid; same shape as `values`."""
    scale, zero_point = _along_axis(values.shape, params)
    q = np.rint(values.astype(np.float32) / scale).astype(np.float64) + zero_point
    return np.clip(q, params.scheme.qmin, params.scheme.qmax).astype(params.scheme.numpy)


def dequantize(q: NDArray[Any], params: QuantParams) -> NDArray[np.float32]:
    """Real values (float32) that the integers `q` stand for."""
    scale, zero_point = _along_axis(q.shape, params)
    return ((q.astype(np.float64) - zero_point).astype(np.float32) * scale).astype(np.float32)


def _along_axis(shape: tuple[int, ...], params: QuantParams) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    """Scale and zero point shaped to broadcast against a tensor of `shape`."""
    zero_point = params.zero_point.astype(np.float64)
    axis, block = params.scheme.channel_axis, params.scheme.block
    if axis is None:
        return params.scale, zero_point
    if block is not None:
        # The last block may be shorter.
        inside = np.arange(shape[axis]) // block
        return np.take(params.scale, inside, axis), np.take(zero_point, inside, axis)
    along = [1] * len(shape)
    along[axis] = -1
    return params.scale.reshape(along), zero_point.reshape(along)


def _like(array: NDArray[np.float32], model: NDArray[Any]) -> NDArray[np.float32]:
    """`array` with the rank of `model` (numpy arithmetic turns rank-0 arrays into scalars)."""
    return np.asarray(array, np.float32).reshape(model.shape)
