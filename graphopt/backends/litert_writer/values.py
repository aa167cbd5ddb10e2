"""What is between the ONNX model and the .tflite: operators over values whose Q/DQ pairs became their grids."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graphopt.ir import Node

INF = math.inf
NO_BOUNDS = (-INF, INF)
INT8: np.dtype[Any] = np.dtype(np.int8)
INT16: np.dtype[Any] = np.dtype(np.int16)
ACTIVATIONS = (INT8, INT16)
"""What integer kernels read and write. With 16 bits weights stay int8, and zero points are 0."""


class UnwritableError(Exception):
    """An operator has no form in LiteRT; the message is the reason. Collected over the model, never shown alone."""


@dataclass(frozen=True)
class Grid:
    """Which real values integers stand for: real = scale · (q − zero_point).

    Attributes:
        scales: one, or one for each index of `axis`; exactly float32 values.
        zero_points: as many.
        axis: of the logical (ONNX) shape.
        dtype: of the integers.
    """

    scales: tuple[float, ...]
    zero_points: tuple[int, ...]
    axis: int = 0
    dtype: np.dtype[Any] = INT8

    @staticmethod
    def of(scale: NDArray[Any], zero_point: NDArray[Any], axis: int = 0, dtype: np.dtype[Any] = INT8) -> Grid:
        """From arrays of rank 0 or [channels]."""
        scales = np.asarray(scale, np.float32).reshape(-1)
        zeros = np.broadcast_to(np.asarray(zero_point).astype(np.int64).reshape(-1), scales.shape)
        return Grid(tuple(scales.tolist()), tuple(zeros.tolist()), axis if scales.size > 1 else 0, dtype)

    @property
    def is_single(self) -> bool:
        """Whether the whole tensor has one scale."""
        return len(self.scales) == 1

    @property
    def scale(self) -> float:
        """The one scale of the tensor."""
        return self.scales[0]

    @property
    def zero_point(self) -> int:
        """The one zero point of the tensor."""
        return self.zero_points[0]

    def along(self, rank: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Scales and zero points shaped to broadcast against a tensor of `rank`."""
        shape = [1] * rank
        if not self.is_single:
            shape[self.axis] = -1
        return np.asarray(self.scales, np.float32).reshape(shape), np.asarray(self.zero_points).reshape(shape)

    def quantize(self, values: NDArray[Any]) -> NDArray[Any]:
        """QuantizeLinear in float32, as ONNX defines it."""
        scale, zero = self.along(values.ndim)
        limits = np.iinfo(self.dtype)
        with np.errstate(over="ignore"):
            q = np.rint(values.astype(np.float32) / scale).astype(np.float64) + zero
        return np.clip(q, limits.min, limits.max).astype(self.dtype)

    def dequantize(self, q: NDArray[Any]) -> NDArray[np.float32]:
        """The real values."""
        scale, zero = self.along(q.ndim)
        return (q.astype(np.int64) - zero).astype(np.float32) * scale


@dataclass(eq=False)
class Value:
    """A tensor, in ONNX's axis order.

    Attributes:
        name: of the ONNX tensor that it is.
        dtype: of the elements as they are stored.
        shape: with a symbolic batch taken as 1.
        dynamic: axes whose size changes with the batch.
        grid: of a quantized tensor, else None.
        array: the value of a constant, else None.
        half: a float constant that is stored as float16, which holds its value exactly.
        positive: integers that stand for no negative value.
        varying: it is computed from the open batch alone, which nothing in the .tflite does.
    """

    name: str
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    dynamic: frozenset[int] = frozenset()
    grid: Grid | None = None
    array: NDArray[Any] | None = None
    half: bool = False
    positive: bool = False
    varying: bool = False

    @property
    def rank(self) -> int:
        """Number of axes."""
        return len(self.shape)

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def is_integer(self) -> bool:
        """Whether it holds integers of 8 or 16 bits that stand for real values."""
        return self.dtype in ACTIVATIONS and self.grid is not None

    def real(self) -> NDArray[Any]:
        """A constant's real values."""
        if self.array is None:
            raise UnwritableError(f"'{self.name}' must be a constant")
        return self.array if self.grid is None else self.grid.dequantize(self.array)


@dataclass(eq=False)
class Op:
    """One operation.

    Attributes:
        kind: the ONNX operator, or "Requantize" (floats or integers → integers) and "Dequantize".
        node: the ONNX node that it comes from; its attributes say the rest.
        inputs: by position, None where omitted. All integers for an integer kernel.
        outputs: by position, None where omitted.
        bias: of a MatMul, from the Add behind it.
        bounds: what the result is clamped to, by a Relu or Clip behind it.
    """

    kind: str
    node: Node
    inputs: list[Value | None]
    outputs: list[Value | None]
    bias: Value | None = None
    bounds: tuple[float, float] = NO_BOUNDS
    attributes: dict[str, Any] = field(default_factory=dict[str, Any])

    def input(self, index: int) -> Value:
        """Input `index`, which must be there."""
        found = self.optional(index)
        if found is None:
            raise UnwritableError(f"its input {index} is missing")
        return found

    def optional(self, index: int) -> Value | None:
        """Input `index`, or None when it is omitted."""
        return self.inputs[index] if index < len(self.inputs) else None

    @property
    def output(self) -> Value:
        """The first output."""
        found = self.outputs[0]
        if found is None:
            raise UnwritableError("its first output is omitted")
        return found

    @property
    def is_integer(self) -> bool:
        """Whether its result is integers on a grid."""
        return self.output.is_integer

    def attr(self, name: str, default: Any = None) -> Any:
        """An attribute of the node."""
        return self.node.attr(name, default)

    def constant(self, index: int, attribute: str = "") -> NDArray[Any] | None:
        """The value of an input that must be constant, or of the attribute that older opsets have instead."""
        if attribute and attribute in self.node.attrs:
            return np.asarray(self.node.attrs[attribute])
        value = self.optional(index)
        if value is None:
            return None
        if value.array is None:
            raise UnwritableError(f"its input '{value.name}' is not a constant")
        return value.real()

    def ints(self, index: int, attribute: str = "") -> list[int] | None:
        """`constant` as a list of ints."""
        found = self.constant(index, attribute)
        return None if found is None else [int(v) for v in found.reshape(-1)]
