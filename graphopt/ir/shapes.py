"""Element types and shapes of all tensors, by onnx's own inference.

Inference runs on a skeleton: large constants are replaced by typed inputs, so it costs the same for a model of 1 MB
and of 10 GB. Small constants keep their values, because Reshape, Resize, Slice, Pad, Expand … take shapes from them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx

from graphopt.errors import one_line
from graphopt.ir.elements import Constant, Node, Shape, Tensor, Variable
from graphopt.ir.from_proto import set_proto_type
from graphopt.ir.graph import Graph
from graphopt.ir.tensor_types import TensorType, TypeReader, agrees, merge_shapes
from graphopt.ir.to_proto import to_proto

# Shapes, pads, axes and permutations are integer vectors; scales and Range limits are short float ones.
_MAX_SHAPE_VALUES = 1024
_MAX_OTHER_VALUES = 16

# The result is like the first operand; onnx 1.23's inference gives nothing for the one and fails for the other.
_WITHOUT_INFERENCE = frozenset({"GroupNormalization", "MeanVarianceNormalization"})


@dataclass(frozen=True)
class Inferred:
    """What inference found.

    Attributes:
        skeleton: the model it ran on (see `skeleton`).
        types: tensor name → type, for node outputs of the model and of all nested graphs.
        failure: what inference objects to, or "": operators that can't take their inputs, stated types that contradict.
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
        _merge(graph, tensor, found)
    if _take_types_from_readers(graph):
        for tensor, found in inferred_tensors(graph, run_inference(graph, stated=True)):
            _merge(graph, tensor, found)


def fill_types(graph: Graph) -> None:
    """`infer`, but where the two contradict each other both are left as they are, for the verifier to see.

    What inference found is kept in `graph.facts.inference` until the graph changes, so that the verifier needn't run it
    again: on large models it costs more than most passes.
    """
    inferred = run_inference(graph, stated=True)
    for tensor, found in inferred_tensors(graph, inferred):
        if agrees(tensor, found):
            _merge(graph, tensor, found)
    graph.facts.inference = inferred


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
    skeleton = to_proto(graph, keep_value=has_small_value, keep_type=None if stated else _is_opaque(graph))
    types = TypeReader(_symbols(skeleton.graph))
    inferable, failure = _inferable(skeleton), ""
    # Strict inference gives a reason or types, never both; the other kind gives what types it can.
    for strict in (True, False):
        try:
            inferred = onnx.shape_inference.infer_shapes(
                inferable, check_type=strict, strict_mode=strict, data_prop=True
            )
        except Exception as error:  # the C++ side has no common class; without types nothing is known, that is all
            failure = failure or one_line(error)
        else:
            return Inferred(skeleton, types.of(inferred.graph), failure)
    return Inferred(skeleton, {}, failure)


def _inferable(skeleton: onnx.ModelProto) -> onnx.ModelProto:
    """The skeleton with an Identity in place of operators that inference knows nothing about."""
    if not any(_is_unknown(node) for node in skeleton.graph.node):
        return skeleton
    copy = onnx.ModelProto.FromString(skeleton.SerializeToString())
    for node in copy.graph.node:
        if _is_unknown(node):
            node.op_type = "Identity"
            del node.input[1:], node.attribute[:]
    return copy


def _is_unknown(node: onnx.NodeProto) -> bool:
    return node.op_type in _WITHOUT_INFERENCE and node.domain in ("", "ai.onnx")


def _is_opaque(graph: Graph) -> Callable[[Variable], bool]:
    """Whether onnx doesn't know the operator that a variable comes out of."""
    known: dict[tuple[str, str], bool] = {}

    def is_opaque(variable: Variable) -> bool:
        node = variable.inputs[0] if variable.inputs else None
        if node is None:
            return True
        key = (node.op, node.domain)
        if key not in known:
            known[key] = onnx.defs.has(node.op, graph.facts.opset_imports.get(node.domain, 1), node.domain)
        return not known[key]

    return is_opaque


def inferred_tensors(graph: Graph, inferred: Inferred) -> Iterator[tuple[Variable, TensorType]]:
    """(variable, what inference says about it), for node outputs, in graph order, and inputs of nested graphs."""
    for scope in graph.walk():
        inputs = scope.inputs if scope.parent is not None else ()
        for tensor in (*inputs, *(t for node in scope.nodes for t in node.outputs)):
            found = inferred.types.get(tensor.name)
            if found is not None and not tensor.is_empty():
                yield tensor, found


def _take_types_from_readers(graph: Graph) -> bool:
    """Type what comes out of operators that onnx doesn't know by who reads it; whether any was found.

    A Conv's input has its weight's element type: both have the type variable T in the operator's schema.
    """
    found = False
    for scope in graph.walk():
        for tensor in (t for node in scope.nodes for t in node.present_outputs()):
            if tensor.dtype is not None or tensor.type_proto is not None:
                continue
            dtypes = (_type_as_read(graph, reader, index) for reader, index in graph.uses(tensor))
            dtype = next((d for d in dtypes if d is not None), None)
            if dtype is not None:
                graph.set_type(tensor, dtype, tensor.shape)
                found = True
    return found


def _type_as_read(graph: Graph, reader: Node, index: int) -> np.dtype[Any] | None:
    """The element type that the reader's constants give input `index`, or None."""
    version = graph.facts.opset_imports.get(reader.domain, 1)
    if not onnx.defs.has(reader.op, version, reader.domain):
        return None
    parameters = onnx.defs.get_schema(reader.op, version, reader.domain).inputs
    if index >= len(parameters):
        return None
    same = [t for t, p in zip(reader.inputs, parameters, strict=False) if p.type_str == parameters[index].type_str]
    return next((t.dtype for t in same if isinstance(t, Constant)), None)


def _merge(graph: Graph, tensor: Variable, found: TensorType) -> None:
    """Take over from `found` what it knows better than the variable does."""
    if found.type_proto is not None:
        if tensor.type_proto is None and tensor.dtype is None:
            set_proto_type(tensor, found.type_proto)
        return
    if tensor.type_proto is not None or (tensor.shape == found.shape and tensor.dtype == found.dtype):
        return
    graph.set_type(tensor, found.dtype or tensor.dtype, merge_shapes(tensor.shape, found.shape))


def _symbols(graph: onnx.GraphProto) -> set[str]:
    """Symbols of the skeleton's inputs: those that begin like a made-up one are real all the same."""
    return {d.dim_param for info in graph.input for d in info.type.tensor_type.shape.dim if d.dim_param}


def shapes_with(graph: Graph, sizes: Mapping[str, int]) -> dict[Tensor, Shape] | None:
    """Shapes of all variables of the main graph if symbols of its inputs had these sizes.

    Nothing changes in the graph. None where inference objects: the model doesn't allow for the sizes. Symbols of
    outputs aren't believed: exporters give outputs of different sizes one symbol.
    """
    skeleton = to_proto(graph, keep_value=has_small_value, keep_type=_is_opaque(graph))
    for info in skeleton.graph.input:
        for dim in info.type.tensor_type.shape.dim:
            if dim.dim_param in sizes:
                dim.dim_value = sizes[dim.dim_param]
    for info in (*skeleton.graph.value_info, *skeleton.graph.output):
        for dim in info.type.tensor_type.shape.dim:
            dim.ClearField("dim_param")
    try:
        inferred = onnx.shape_inference.infer_shapes(
            _inferable(skeleton), check_type=True, strict_mode=True, data_prop=True
        )
    except Exception:  # the C++ side has no common class
        return None
    types = TypeReader(_symbols(skeleton.graph)).of(inferred.graph)
    tensors = graph.tensors()
    found = {tensors[name]: types[name].shape for name in tensors if name in types}
    return {tensor: shape for tensor, shape in found.items() if shape is not None}
