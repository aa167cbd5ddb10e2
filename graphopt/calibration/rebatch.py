"""A model for samples of one row made to take several at once; for one row it is the same computation.

    input x [1, 3, 32, 32]      →   x [batch, 3, 32, 32]
    Reshape(y, [1, 64])         →   Reshape(y, [0, 64])      where y's own first dimension is 1 for one row

Only static shapes are given up. Whether the rows of a batch keep to themselves is not known from this: a model may
add them up, or hold another 1 that means the batch. `rows` finds out by comparing values.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, numpy_helper

from graphopt.calibration.shapes import Inferred, Shape

_BATCH = "graphopt_batch"  # not a name that the model may have for something else


def is_one_row(inputs: Iterable[Shape]) -> bool:
    """Whether inputs of these shapes are a batch of one."""
    return all(shape[:1] == (1,) for shape in inputs)


def rebatch(model: ModelProto, fed: Iterable[str], inferred: Inferred) -> None:
    """Let the first dimension of the inputs vary, in place.

    Args:
        model: a model of which samples are one row, see `is_one_row`.
        fed: the inputs that a sample feeds; those whose first dimension is symbolic already stay as they are.
        inferred: of the model, for such a sample.
    """
    graph = model.graph
    names = set(fed)
    for value in graph.input:
        dims = value.type.tensor_type.shape.dim
        if value.name in names and dims and dims[0].dim_value == 1:
            dims[0].dim_param = _BATCH
    del graph.value_info[:]
    constants = _shape_constants(graph)
    copies: dict[str, str] = {}
    for node in graph.node:
        if node.op_type != "Reshape" or node.domain not in ("", "ai.onnx") or len(node.input) != 2:
            continue
        values, shape = node.input
        wanted = constants.get(shape, [])
        if wanted[:1] == [1] and inferred.shapes.get(values, ())[:1] == (1,) and not _zero_means_zero(node):
            # Other readers of the constant keep theirs.
            if shape not in copies:
                copies[shape] = _unused(graph, f"{shape}_any_batch")
                graph.initializer.append(numpy_helper.from_array(np.array([0, *wanted[1:]], np.int64), copies[shape]))
            node.input[1] = copies[shape]


def _shape_constants(graph: GraphProto) -> Mapping[str, list[int]]:
    """Constants that may say a shape: int64, one axis, and nobody can feed another value."""
    inputs = {value.name for value in graph.input}
    found: dict[str, list[int]] = {}
    for tensor in graph.initializer:
        if tensor.name not in inputs and _is_shape(tensor):
            found[tensor.name] = numpy_helper.to_array(tensor).tolist()
    for node in graph.node:
        for attribute in node.attribute if node.op_type == "Constant" else ():
            if attribute.name == "value" and _is_shape(attribute.t):
                found[node.output[0]] = numpy_helper.to_array(attribute.t).tolist()
            elif attribute.name == "value_ints":
                found[node.output[0]] = list(attribute.ints)
    return found


def _is_shape(tensor: TensorProto) -> bool:
    inline = tensor.data_location != TensorProto.EXTERNAL
    return inline and tensor.data_type == TensorProto.INT64 and len(tensor.dims) == 1


def _zero_means_zero(node: NodeProto) -> bool:
    return any(attribute.name == "allowzero" and attribute.i for attribute in node.attribute)


def _unused(graph: GraphProto, name: str) -> str:
    used = {tensor.name for tensor in graph.initializer} | {value.name for value in graph.input}
    used |= {result for node in graph.node for result in node.output}
    while name in used:
        name += "_"
    return name
