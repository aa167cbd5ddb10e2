"""Weights and biases of convolutions and matrix products, as LiteRT stores them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graphopt.backends.litert_writer.emitter import Emitter
from graphopt.backends.litert_writer.values import INT16, Grid, Op, UnwritableError, Value

# LiteRT rescales sums of 64 bits that are below 2⁴⁷.
_LARGEST_BIAS: dict[np.dtype[Any], float] = {np.dtype(np.int32): 2.0**31, np.dtype(np.int64): 2.0**46}


@dataclass(frozen=True)
class Weight:
    """A weight in LiteRT's order, as stored (integers or floats), and the scales of its output channels.

    `half`: its floats are stored as float16.
    """

    array: NDArray[Any]
    scales: NDArray[np.float32] | None
    name: str
    half: bool = False

    def grid(self, axis: int) -> Grid | None:
        """The grid with the output channels on `axis`."""
        return None if self.scales is None else Grid.of(self.scales, np.zeros_like(self.scales), axis)

    def store(self, em: Emitter, axis: int) -> int:
        """The tensor, with the output channels on `axis`."""
        return em.half(self.array, self.name) if self.half else em.array(self.array, self.name, self.grid(axis))


def weight_of(value: Value, array: NDArray[Any], channels: int) -> Weight:
    """A weight that was rearranged to `array`."""
    if value.grid is None:
        return Weight(array, None, value.name, value.half)
    scales = np.asarray(value.grid.scales, np.float32)
    if scales.size not in (1, channels):
        # A grouped ConvTranspose has a scale for each channel of one group.
        scales = np.tile(scales, channels // scales.size)
    return Weight(array, scales, value.name)


def bias_tensor(
    em: Emitter, op: Op, weight: Weight, bias: Value | None, channels: int, *, is_depthwise: bool = False
) -> int:
    """The bias as a vector: integers in units of s_x · s_w for an integer kernel. Zeros where there is none.

    They are int32, and with 16 bits int64 unless all sums fit into 32: its kernels for these are 13 to 60 times
    as fast as its plain loops for int64 (measured). For depthwise convolutions LiteRT has the loops only.
    """
    name = bias.name if bias is not None else f"{op.output.name}_bias"
    if bias is not None and bias.array is None:
        raise UnwritableError("its bias is not a constant")
    if weight.scales is None or not op.is_integer:
        real = np.zeros(channels, np.float32) if bias is None else bias.real().astype(np.float32).reshape(-1)
        return em.array(np.ascontiguousarray(np.broadcast_to(real, (channels,))), name)
    data = op.input(0).grid
    assert data is not None  # integer kernels read integers
    scales = np.broadcast_to(np.float32(data.scale) * weight.scales, weight.scales.shape).astype(np.float32)
    units = np.broadcast_to(scales, (channels,))
    whole = np.zeros(channels) if bias is None else _in_units(bias, units)
    dtype = np.dtype(np.int32)
    if op.output.dtype == INT16 and (is_depthwise or not _fits_32_bits(op.input(0), weight.array, whole)):
        dtype = np.dtype(np.int64)
    limit = _LARGEST_BIAS[dtype]
    grid = Grid.of(scales, np.zeros(scales.shape, np.int64), dtype=dtype)
    return em.array(np.clip(whole, -limit, limit - 1).astype(dtype), name, grid)


def _in_units(bias: Value, units: NDArray[np.float32]) -> NDArray[np.float64]:
    """A bias as whole numbers of s_x · s_w; as it is where it is stored so."""
    stored = bias.array
    if bias.grid is not None and stored is not None and stored.dtype == np.int32 and _same_units(bias.grid, units):
        return np.broadcast_to(stored.reshape(-1), units.shape).astype(np.float64)
    return np.rint(np.broadcast_to(bias.real().astype(np.float64).reshape(-1), units.shape) / units)


def _fits_32_bits(data: Value, weight: NDArray[Any], bias: NDArray[np.float64]) -> bool:
    """Whether no sum of a channel (axis 0 of the weight) leaves 32 bits, whatever the data are."""
    rows = weight.reshape(weight.shape[0], -1).astype(np.int64)
    above, below = np.maximum(rows, 0).sum(axis=1), np.maximum(-rows, 0).sum(axis=1)
    largest = np.maximum(above, below) if data.positive else above + below
    return bool((largest * 2.0**15 + np.abs(bias) < 2.0**31).all())


def _same_units(grid: Grid, units: NDArray[np.float32]) -> bool:
    """Whether a stored bias is in units of s_x · s_w already; the product may have been rounded in another order."""
    return not any(grid.zero_points) and np.allclose(np.asarray(grid.scales), units, rtol=1e-6, atol=0.0)
