"""How a tensor is represented in few bits (`Scheme`) and which real values it must cover (`Range`)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

IntType = Literal["int4", "uint4", "int8", "uint8", "int16", "uint16", "int32"]

_LIMITS: dict[str, tuple[int, int]] = {
    "int4": (-8, 7),
    "uint4": (0, 15),
    "int8": (-128, 127),
    "uint8": (0, 255),
    "int16": (-(2**15), 2**15 - 1),
    "uint16": (0, 2**16 - 1),
    "int32": (-(2**31), 2**31 - 1),
}
_NIBBLES: dict[str, np.dtype[np.generic]] = {"int4": np.dtype(ml_dtypes.int4), "uint4": np.dtype(ml_dtypes.uint4)}


@dataclass(frozen=True)
class Scheme:
    """An affine integer representation, real = scale · (q − zero_point), as ONNX QuantizeLinear defines it.

    Attributes:
        dtype: the integer type of q.
        symmetric: the zero point is fixed: 0 for signed types, the middle of the grid for unsigned ones.
        channel_axis: the axis that has a scale per index, or None for one scale (rank 0) for the tensor.
        block: how many neighbours along `channel_axis` share a scale, the other axes having one per index: scales have
            the tensor's shape but for ⌈size / block⌉ along that axis (DequantizeLinear-21); None: not in blocks.
        narrow: the grid is [-(2^(bits-1)-1), 2^(bits-1)-1], as TFLite and TensorRT want for weights.
    """

    dtype: IntType
    symmetric: bool = False
    channel_axis: int | None = None
    narrow: bool = False
    block: int | None = None

    def __post_init__(self) -> None:
        if self.block is not None and (self.block < 1 or self.channel_axis is None):
            raise ValueError(f"blocks of {self.block} along axis {self.channel_axis}")

    @property
    def qmin(self) -> int:
        """The smallest integer that is used."""
        low, high = _LIMITS[self.dtype]
        return -high if self.narrow and low < 0 else low

    @property
    def qmax(self) -> int:
        """The largest integer that is used."""
        return _LIMITS[self.dtype][1]

    @property
    def steps(self) -> int:
        """Number of intervals between the smallest and the largest integer: 255 for a full 8-bit grid."""
        return self.qmax - self.qmin

    @property
    def bits(self) -> int:
        """Bits of q."""
        low, high = _LIMITS[self.dtype]
        return (high - low).bit_length()

    @property
    def numpy(self) -> np.dtype[np.generic]:
        """The numpy (or ml_dtypes) type of q; 4-bit integers take a byte each until they are written to a file."""
        return _NIBBLES[self.dtype] if self.dtype in _NIBBLES else np.dtype(self.dtype)

    def __str__(self) -> str:
        kind = "sym" if self.symmetric else "asym"
        axis = "" if self.channel_axis is None else f" axis={self.channel_axis}"
        block = "" if self.block is None else f" block={self.block}"
        return f"{self.dtype} {kind}{axis}{block}{' narrow' if self.narrow else ''}"


@dataclass(frozen=True)
class Range:
    """The closed interval of real values that must be representable, in the tensor's own units.

    `low` and `high` are float64 arrays: rank 0 for a whole tensor, shape [channels] for one interval a channel, and of
    the shape of the scales (see `Scheme.block`) for one a block.
    """

    low: NDArray[np.float64]
    high: NDArray[np.float64]

    def __post_init__(self) -> None:
        if self.low.shape != self.high.shape:
            raise ValueError(f"low has shape {self.low.shape}, high {self.high.shape}")
        if not (np.isfinite(self.low).all() and np.isfinite(self.high).all()):
            raise ValueError("a range must be finite")
        if (self.low > self.high).any():
            raise ValueError(f"low {self.low} is above high {self.high}")

    @staticmethod
    def of(low: float, high: float) -> Range:
        """The range [low, high] of a whole tensor."""
        return Range(np.asarray(low, np.float64), np.asarray(high, np.float64))

    def union(self, other: Range) -> Range:
        """The smallest range that covers both."""
        return Range(np.minimum(self.low, other.low), np.maximum(self.high, other.high))
