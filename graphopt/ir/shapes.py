"""Element types and shapes of all tensors, by onnx's own inference.

Inference runs on a skeleton: large constants are replaced by typed inputs, so it costs the same for a model of 1 MB
and of 10 GB. Small constants keep their values, because Reshape, Resize, Slice, Pad, Expand … take shapes from them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import onnx

from graphopt.ir.elements import Constant, Dim, Shape, Variable, numpy_dtype
from graphopt.ir.from_proto import set_proto_type
from graphopt.ir.graph import Graph
from graphopt.ir.to_proto import to_proto

# Shapes, pads, axes and permutations are integer vectors; scales and Range limits are short float ones.
_MAX_SHAPE_VALUES = 1024
_MAX_OTHER_VALUES = 16
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
        if self.type_proto is not None:
            return str(self.type_proto.WhichOneof("value")).removesuffix("_type")
        dims = "…" if self.shape is None else ",".join("?" if d is None else str(d) for d in self.shape)
        return f"{self.dtype or 'unknown'}[{dims}]"


@dataclass(frozen=True)
class Inferred:
    """What inference found.

    Attributes:
        skeleton: the model it ran on (see `skeleton`).
        types: tensor name → type, for node outputs of the model and of all nested graphs.
        failure: why inference gave up, or "".
    """

    skeleton: onnx.ModelProto
    types: Mapping[str, TensorType]
    failure: str = ""


def infer(graph: Graph) -> None:
    """Fill in dtype and shape of every variable that inference can tell something about, nested graphs included.

    What is stated helps inference where it can't see through an operator. A known size is never replaced by an
    unknown one; where the two contradict each other, inference is believed (exporters leave stale shapes behind when
    somebody edits the batch size, and onnxruntime ignores them too). Custom operators stay as they are.
    """
    for tensor, found in inferred_tensors(graph, run_inference(graph, stated=True)):
        merge(graph, tensor, found)


def has_small_value(constant: Constant) -> bool:
    """Whether a skeleton keeps this constant's value."""
    if constant.is_input:
        return False  # the caller may override it
    size = math.prod(constant.shape)
    if constant.dtype.kind in "iu" and len(constant.shape) <= 1:
        return size <= _MAX_SHAPE_VALUES
    return size <= _MAX_OTHER_VALUES


def run_inference(graph: Graph, *, stated: bool) -> Inferred:
    """Run onnx's inference on a skeleton of the model.

    Args:
        graph: the main graph.
        stated: whether stated types of node outputs are given to inference. Without them, what comes out is
            independent of what is stated and can be held against it. Types of outputs of operators that onnx
            doesn't know are always given: nothing else can tell them.
    """
    known: dict[tuple[str, str], bool] = {}

    def is_opaque(variable: Variable) -> bool:
        node = variable.inputs[0] if variable.inputs else None
        if node is None:
            return True
        key = (node.op, node.domain)
        if key not in known:
            known[key] = onnx.defs.has(node.op, graph.facts.opset_imports.get(node.domain, 1), node.domain)
        return not known[key]

    skeleton = to_proto(graph, keep_value=has_small_value, keep_type=None if stated else is_opaque)
    try:
        inferred = onnx.shape_inference.infer_shapes(skeleton, data_prop=True)
    except Exception as error:  # the C++ side has no common class; a failure only means that nothing is known
        return Inferred(skeleton, {}, " ".join(str(error).split()))
    symbols = _symbols(skeleton.graph)
    return Inferred(skeleton, _Types(symbols).of(inferred.graph))


def inferred_tensors(graph: Graph, inferred: Inferred) -> Iterator[tuple[Variable, TensorType]]:
    """(variable, what inference says about it), for node outputs, in graph order, and inputs of nested graphs."""
    for scope in graph.walk():
        inputs = scope.inputs if scope.parent is not None else ()
        for tensor in (*inputs, *(t for node in scope.nodes for t in node.outputs)):
            found = inferred.types.get(tensor.name)
            if found is not None and not tensor.is_empty():
                yield tensor, found


def merge(graph: Graph, tensor: Variable, found: TensorType) -> None:
    """Take over from `found` what it knows better than the variable does."""
    if found.type_proto is not None:
        if tensor.type_proto is None and tensor.dtype is None:
            set_proto_type(tensor, found.type_proto)
        return
    if tensor.type_proto is not None or (tensor.shape == found.shape and tensor.dtype == found.dtype):
        return
    graph.set_type(tensor, found.dtype or tensor.dtype, _merge_shapes(tensor.shape, found.shape))


def _merge_shapes(stated: Shape | None, found: Shape | None) -> Shape | None:
    if stated is None or found is None:
        return found if stated is None else stated
    if len(stated) != len(found):
        return found
    return tuple(_merge_dims(s, f) for s, f in zip(stated, found, strict=True))


def _merge_dims(stated: Dim, found: Dim) -> Dim:
    if isinstance(found, int):
        return found
    return found if stated is None else stated


class _Types:
    """Reads types; most tensors of a model share a few dozen, which are read once each."""

    def __init__(self, symbols: set[str]) -> None:
        self.symbols = symbols
        self.known: dict[bytes, TensorType] = {}

    def of(self, graph: onnx.GraphProto) -> dict[str, TensorType]:
        """Tensor name → type, over the graph and all graphs nested in it."""
        found: dict[str, TensorType] = {}
        for info in (*graph.input, *graph.value_info, *graph.output):
            key = info.type.SerializeToString()
            if not key:
                continue
            if key not in self.known:
                self.known[key] = self.read(info.type)
            found[info.name] = self.known[key]
        for node in graph.node:
            for attr in node.attribute:
                if attr.type == onnx.AttributeProto.GRAPH:
                    found.update(self.of(attr.g))
        return found

    def read(self, proto: onnx.TypeProto) -> TensorType:
        if proto.WhichOneof("value") != "tensor_type":
            return TensorType(None, None, proto)
        tensor = proto.tensor_type
        dtype = numpy_dtype(tensor.elem_type) if tensor.elem_type else None
        if not tensor.HasField("shape"):
            return TensorType(dtype, None)
        return TensorType(dtype, tuple(self.dim(d) for d in tensor.shape.dim))

    def dim(self, dim: onnx.TensorShapeProto.Dimension) -> Dim:
        if dim.HasField("dim_value"):
            return dim.dim_value if dim.dim_value >= 0 else None
        name = dim.dim_param
        return None if not name or (name.startswith(_MADE_UP) and name not in self.symbols) else name


def _symbols(graph: onnx.GraphProto) -> set[str]:
    """Symbols of the skeleton's inputs: those that begin like a made-up one are real all the same."""
    return {d.dim_param for info in graph.input for d in info.type.tensor_type.shape.dim if d.dim_param}
