"""What one QuantizeLinear or DequantizeLinear says: integer type, scales, zero points, and along which axis."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graphopt.ir import Constant, Node, Tensor, fixed_value
from graphopt.quant import Range

EIGHT_BITS = frozenset({np.dtype(np.int8), np.dtype(np.uint8)})
SIXTEEN_BITS = frozenset({np.dtype(np.int16), np.dtype(np.uint16)})
INT32 = np.dtype(np.int32)


@dataclass(frozen=True, eq=False)
class Grid:
    """The integers that a node writes (QuantizeLinear) or reads (DequantizeLinear).

    Attributes:
        node: the node; once it is taken out of its graph, only its name and operator are left.
        data: name of the tensor that it reads.
        dtype: type of the integers; None when it is unknown.
        scale, zero_point: their values, of the same shape (a zero point that the node lacks is 0); None when they
            are computed at run time.
        axis: ≥ 0, the axis that has a scale per index; None for one scale.
        is_block: scales stand for blocks along the axis.
    """

    node: Node
    data: str
    dtype: np.dtype[Any] | None
    scale: NDArray[np.float64] | None
    zero_point: NDArray[np.float64] | None
    axis: int | None
    is_block: bool

    @cached_property
    def limits(self) -> tuple[int, int] | None:
        """Smallest and largest integer of the type; None for types that aren't integers of a fixed width."""
        if self.dtype is None or self.dtype.kind not in "iu":
            return None
        info = np.iinfo(self.dtype)
        return int(info.min), int(info.max)

    def range(self) -> Range | None:
        """The real values from the smallest to the largest integer, over all channels.

        None where they can't be told: scales known at run time only or not finite, blocks, other than 8 or 16 bits.
        """
        if self.scale is None or self.zero_point is None or self.is_block or self.limits is None:
            return None
        if self.dtype not in EIGHT_BITS | SIXTEEN_BITS:
            return None
        with np.errstate(invalid="ignore", over="ignore"):
            low, high = (((q - self.zero_point) * self.scale) for q in self.limits)
        low, high = float(low.min()), float(high.max())
        return Range.of(low, high) if np.isfinite([low, high]).all() and low <= high else None

    def same_as(self, other: Grid) -> bool:
        """Whether both stand for the same real values by the same integers; unknown ones never do."""
        if self.scale is None or other.scale is None or self.zero_point is None or other.zero_point is None:
            return False
        return (
            self.dtype == other.dtype
            and self.axis == other.axis
            and np.array_equal(self.scale.reshape(-1), other.scale.reshape(-1))
            and np.array_equal(self.zero_point.reshape(-1), other.zero_point.reshape(-1))
        )

    def __str__(self) -> str:
        if self.scale is None or self.zero_point is None:
            return f"{self.dtype}, scale computed at run time"
        if self.scale.size != 1:
            return f"{self.dtype}, {self.scale.size} scales along axis {self.axis}"
        return f"{self.dtype}, scale {self.scale.reshape(-1)[0]:.6g}, zero point {self.zero_point.reshape(-1)[0]:g}"


def read_grid(node: Node) -> Grid:
    """What a QuantizeLinear or DequantizeLinear says."""
    scale_input, zero_input = node.input(1), node.input(2)
    scale, zero_point = constant_value(scale_input), constant_value(zero_input)
    dtype = _integer_type(node, zero_input)
    if zero_input is None and scale is not None:
        zero_point = np.zeros(scale.shape)
    axis = None
    if scale_input is not None and scale_input.shape is not None and len(scale_input.shape) > 0:
        axis = _axis(node, scale_input.shape)
    return Grid(
        node,
        node.inputs[0].name,
        dtype,
        None if scale is None else np.asarray(scale).astype(np.float64),
        None if zero_point is None else np.asarray(zero_point).astype(np.float64),
        axis,
        bool(node.attr("block_size", 0)),
    )


def constant_value(tensor: Tensor | None) -> NDArray[Any] | None:
    """The value of a tensor that no caller can change: an initializer, a Constant node, or an Identity of one."""
    while tensor is not None:
        value = fixed_value(tensor)
        if value is not None or not tensor.inputs:
            return value
        node = tensor.inputs[0]
        if node.is_op("Constant"):
            return _attribute_value(node)
        if not node.is_op("Identity"):
            return None
        tensor = node.input(0)
    return None


def _attribute_value(node: Node) -> NDArray[Any] | None:
    value = node.attr("value")
    if isinstance(value, Constant):
        return value.values
    number = node.attr("value_float", node.attr("value_int"))
    if number is None:
        return None
    return np.asarray(number, np.float32 if "value_float" in node.attrs else np.int64)


def _integer_type(node: Node, zero_point: Tensor | None) -> np.dtype[Any] | None:
    if zero_point is not None and zero_point.dtype is not None:
        return np.dtype(zero_point.dtype)
    if node.op == "DequantizeLinear":
        data = node.input(0)
        return None if data is None else data.dtype
    stated = node.outputs[0].dtype
    # Without zero point and output_dtype a QuantizeLinear writes uint8.
    return stated if stated is not None else np.dtype(np.uint8)


def _axis(node: Node, scale_shape: tuple[Any, ...]) -> int | None:
    """The axis of a scale of rank ≥ 1; None where a scale of shape [1] can only mean the whole tensor."""
    data = node.input(0)
    shape = None if data is None else data.shape
    axis = int(node.attr("axis", 1))
    if shape is not None and axis < 0:
        axis += len(shape)
    if scale_shape != (1,):
        return axis
    of_one_channel = shape is not None and 0 <= axis < len(shape) and shape[axis] == 1
    is_stored = data is not None and constant_value(data) is not None
    return axis if of_one_channel and is_stored else None
