"""Run models that compute in bfloat16 where onnxruntime has no such kernels: on the CPU it has hardly any.

    y: bf16 = Conv(x: bf16, w: bf16)      →      y = Cast(Conv(Cast(x): f32, w: f32)): bf16

Each node computes in float32 and rounds its result, as an engine does that adds up in float32. When onnxruntime may
rewrite the model it leaves out Casts there and back, and with them the rounding.
"""

from __future__ import annotations

import numpy as np
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper, shape_inference

_LOW, _WIDE = TensorProto.BFLOAT16, TensorProto.FLOAT


def has_bfloat16(model: ModelProto) -> bool:
    """Whether anything in the main graph is bfloat16."""
    graph = model.graph
    return (
        any(tensor.data_type == _LOW for tensor in graph.initializer)
        or any(value.type.tensor_type.elem_type == _LOW for value in graph.input)
        or any(_cast_to(node) == _LOW for node in graph.node)
    )


def in_float32(model: ModelProto) -> ModelProto:
    """A copy of a model whose bfloat16 nodes compute in float32 and round; the model itself where it has none.

    Its inputs and outputs are as they were. Nodes of nested graphs stay as they are.
    """
    if not has_bfloat16(model):
        return model
    inferred = shape_inference.infer_shapes(model)
    copy = ModelProto()
    copy.CopyFrom(model)
    graph = copy.graph
    values = (*inferred.graph.input, *inferred.graph.output, *inferred.graph.value_info)
    low = {v.name for v in values if v.type.tensor_type.elem_type == _LOW}
    low |= {node.output[0] for node in graph.node if _cast_to(node) == _LOW}
    low -= _widen_constants(graph)
    nodes = list(graph.node)
    del graph.node[:]
    wide: dict[str, str] = {}
    for node in nodes:
        if node.op_type == "Cast":  # onnxruntime has it for every type
            graph.node.append(node)
            continue
        graph.node.extend(_widened_inputs(node, low, wide))
        rounded = _unrounded_results(node, low)
        graph.node.extend([node, *rounded])
    return copy


def _unrounded_results(node: NodeProto, low: set[str]) -> list[NodeProto]:
    """Casts behind a node to the bfloat16 tensors that it has made so far."""
    casts: list[NodeProto] = []
    for k, name in enumerate(node.output):
        if name in low:
            node.output[k] = f"{name}_unrounded"
            casts.append(helper.make_node("Cast", [node.output[k]], [name], to=_LOW))
    return casts


def _widened_inputs(node: NodeProto, low: set[str], wide: dict[str, str]) -> list[NodeProto]:
    """Casts of the bfloat16 tensors that a node reads, which it reads from then on; each tensor is cast once."""
    casts: list[NodeProto] = []
    for k, name in enumerate(node.input):
        if name in low:
            if name not in wide:
                wide[name] = f"{name}_widened"
                casts.append(helper.make_node("Cast", [name], [wide[name]], to=_WIDE))
            node.input[k] = wide[name]
    return casts


def _widen_constants(graph: GraphProto) -> set[str]:
    """Store bfloat16 constants in float32; their names."""
    found: set[str] = set()
    for tensor in graph.initializer:
        if tensor.data_type == _LOW and tensor.data_location != TensorProto.EXTERNAL:
            found.add(tensor.name)
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float32), tensor.name))
    return found


def _cast_to(node: NodeProto) -> int:
    return next((a.i for a in node.attribute if a.name == "to"), 0) if node.op_type == "Cast" else 0
