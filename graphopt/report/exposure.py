"""Make tensors inside of two models visible, so that they can be compared."""

from __future__ import annotations

import onnx

from graphopt.ir import FLOAT_TYPES, Graph, Variable, to_proto
from graphopt.ir.protos import value_info


def expose_shared(first: Graph, second: Graph) -> tuple[onnx.ModelProto, onnx.ModelProto]:
    """Both models, with every float tensor of the same name and type in both as a further output of each.

    Only results of nodes of the main graph; in the order of the first model.

    Raises:
        UnsupportedError: a model is too large for one protobuf message.
    """
    inside = _float_results(second)
    shared = [t for t in _float_results(first).values() if t.name in inside and inside[t.name].dtype == t.dtype]
    models = to_proto(first), to_proto(second)
    for model, tensors in zip(models, (shared, [inside[t.name] for t in shared]), strict=True):
        model.graph.output.extend(value_info(t) for t in tensors)
    return models


def _float_results(graph: Graph) -> dict[str, Variable]:
    outputs = {id(t) for t in graph.outputs}
    return {
        t.name: t
        for node in graph.nodes
        for t in node.present_outputs()
        if t.dtype in FLOAT_TYPES and id(t) not in outputs
    }
