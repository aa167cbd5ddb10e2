"""The type of a tensor as one value: read from ONNX, compared, and put together from two sources."""

from __future__ import annotations

import functools
from collections.abc import Set
from dataclasses import dataclass

import numpy as np
import onnx

from graphopt.ir.dtypes import numpy_dtype
from graphopt.ir.elements import Dim, Shape, Variable

# Names that onnx's inference makes up for sizes it doesn't know. They differ from run to run of it, so that two
# tensors with the same made-up name needn't have the same size.
_MADE_UP = "unk__"


@dataclass(frozen=True)
class TensorType:
    """Element type (None: unknown) and shape (None: unknown rank), or a type that isn't a plain tensor's."""

    dtype: np.dtype[np.generic] | None
    shape: Shape | None
    type_proto: onnx.TypeProto | None = None

    def __str__(self) -> str:
        return type_text(self.dtype, self.shape, self.type_proto)


def type_text(dtype: np.dtype[np.generic] | None, shape: Shape | None, type_proto: onnx.TypeProto | None = None) -> str:
    """What a `TensorType` of these is as text: `float32[N,3,224,224]`; those of plain tensors are remembered."""
    if type_proto is not None:
        return str(type_proto.WhichOneof("value")).removesuffix("_type")
    return _plain_text(dtype, shape)


@functools.lru_cache(maxsize=4096)
def _plain_text(dtype: np.dtype[np.generic] | None, shape: Shape | None) -> str:
    dims = "…" if shape is None else ",".join("?" if d is None else str(d) for d in shape)
    return f"{dtype or 'unknown'}[{dims}]"


def agrees(tensor: Variable, found: TensorType) -> bool:
    """Whether what is stated and what was found can both be true: unknown types and symbolic sizes fit everything."""
    return same_kind(tensor, found) and _shapes_agree(tensor, found)


def same_kind(tensor: Variable, found: TensorType) -> bool:
    """Whether both can have the same element type, or the same kind of non-tensor type."""
    if tensor.type_proto is not None or found.type_proto is not None:
        if tensor.type_proto is None or found.type_proto is None:
            return tensor.dtype is None and found.dtype is None
        return tensor.type_proto.WhichOneof("value") == found.type_proto.WhichOneof("value")
    return tensor.dtype is None or found.dtype is None or tensor.dtype == found.dtype


def _shapes_agree(tensor: Variable, found: TensorType) -> bool:
    if tensor.shape is None or found.shape is None or tensor.shape == found.shape:
        return True
    return len(tensor.shape) == len(found.shape) and all(
        a == b or not isinstance(a, int) or not isinstance(b, int)
        for a, b in zip(tensor.shape, found.shape, strict=True)
    )


def merge_shapes(stated: Shape | None, found: Shape | None) -> Shape | None:
    """What both know of a shape together; where they contradict each other, `found` is believed."""
    if stated is None or found is None:
        return found if stated is None else stated
    if len(stated) != len(found):
        return found
    return tuple(_merge_dims(s, f) for s, f in zip(stated, found, strict=True))


def _merge_dims(stated: Dim, found: Dim) -> Dim:
    if isinstance(found, int):
        return found
    return found if stated is None else stated


class TypeReader:
    """Reads types; `symbols` are the names of sizes that the model's inputs have.

    Most tensors of a model share a few dozen, which are read once each.
    """

    def __init__(self, symbols: Set[str]) -> None:
        self._symbols = symbols
        self._known: dict[bytes, TensorType] = {}

    def of(self, graph: onnx.GraphProto) -> dict[str, TensorType]:
        """Tensor name → type, over the graph and all graphs nested in it."""
        found: dict[str, TensorType] = {}
        for info in (*graph.input, *graph.value_info, *graph.output):
            key = info.type.SerializeToString()
            if not key:
                continue
            if key not in self._known:
                self._known[key] = self._read(info.type)
            found[info.name] = self._known[key]
        for node in graph.node:
            for attr in node.attribute:
                if attr.type == onnx.AttributeProto.GRAPH:
                    found.update(self.of(attr.g))
        return found

    def _read(self, proto: onnx.TypeProto) -> TensorType:
        if proto.WhichOneof("value") != "tensor_type":
            return TensorType(None, None, proto)
        tensor = proto.tensor_type
        dtype = numpy_dtype(tensor.elem_type) if tensor.elem_type else None
        if not tensor.HasField("shape"):
            return TensorType(dtype, None)
        return TensorType(dtype, tuple(self._dim(d) for d in tensor.shape.dim))

    def _dim(self, dim: onnx.TensorShapeProto.Dimension) -> Dim:
        if dim.HasField("dim_value"):
            return dim.dim_value if dim.dim_value >= 0 else None
        name = dim.dim_param
        return None if not name or (name.startswith(_MADE_UP) and name not in self._symbols) else name
