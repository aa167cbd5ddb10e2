"""Stated types and shapes agree with what inference finds by itself."""

from __future__ import annotations

from graphopt.ir.elements import Variable
from graphopt.ir.graph import Graph
from graphopt.ir.shapes import Inferred, TensorType, inferred_tensors
from graphopt.ir.violation import Violation


def type_violations(graph: Graph, inferred: Inferred) -> list[Violation]:
    """Known element types and sizes that contradict inference; `inferred` must come from a run without stated types."""
    return [
        Violation("types", tensor.name, f"tensor '{tensor.name}' is stated as {stated}, but inference finds {found}")
        for tensor, found in inferred_tensors(graph, inferred)
        if not agrees(tensor, found)
        for stated in [TensorType(tensor.dtype, tensor.shape, tensor.type_proto)]
    ]


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
