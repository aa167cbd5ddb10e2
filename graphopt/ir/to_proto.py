"""Graph → ModelProto: the inverse of `from_proto`, with explicit opset and IR version.

Deterministic: nodes in graph order, initializers in the order they were made, value_info in node order.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from graphopt.ir.elements import (
    Body,
    Constant,
    Extras,
    Node,
    SparseConstant,
    Tensor,
    Variable,
    onnx_dtype,
)
from graphopt.ir.graph import Graph

KeepValue = Callable[[Constant], bool]


def to_proto(graph: Graph, *, keep_value: KeepValue | None = None) -> onnx.ModelProto:
    """The model as an onnx.ModelProto. Lazy constants keep their TensorProto: nothing is loaded for this.

    `keep_value`: when given, constants for which it is False become graph inputs of the same type. Such a skeleton
    is small whatever the weights weigh; it is what checks and shape inference run on.
    """
    facts = graph.facts
    model = onnx.ModelProto(
        ir_version=facts.ir_version,
        producer_name=facts.producer_name,
        producer_version=facts.producer_version,
        domain=facts.domain,
        model_version=facts.model_version,
        doc_string=facts.doc_string,
    )
    for domain, version in facts.opset_imports.items():
        model.opset_import.append(helper.make_opsetid(domain, version))
    _set_metadata(model, facts.metadata)
    model.functions.extend(facts.functions)
    model.training_info.extend(facts.training_info)
    model.graph.CopyFrom(_graph_proto(graph, keep_value))
    return model


def _graph_proto(graph: Graph, keep_value: KeepValue | None) -> onnx.GraphProto:
    proto = onnx.GraphProto(name=graph.name, doc_string=graph.doc_string)
    _set_metadata(proto, graph.metadata)
    proto.quantization_annotation.extend(graph.quantization_annotation)
    proto.input.extend(value_info(t) for t in graph.inputs)
    for constant in graph.constants:
        values = constant._values  # pyright: ignore[reportPrivateUsage]  # `.values` would load it
        if keep_value is not None and not keep_value(constant):
            # A body has no inputs to spare, and a default is an input of the main graph already.
            if graph.parent is None:
                proto.input.append(value_info(constant))
                continue
        elif constant.is_input:
            proto.input.append(value_info(constant))
        if isinstance(values, SparseConstant):
            sparse = onnx.SparseTensorProto()
            sparse.CopyFrom(values.sparse)
            sparse.values.name = constant.name
            proto.sparse_initializer.append(sparse)
        else:
            proto.initializer.append(tensor_proto(constant))
    proto.output.extend(value_info(t) for t in graph.outputs)
    outputs = {id(t) for t in graph.outputs}
    for node in graph.nodes:
        proto.node.append(_node_proto(node, keep_value))
        for tensor in node.outputs:
            if tensor.is_empty() or id(tensor) in outputs:
                continue
            if tensor.dtype is not None or tensor.type_proto is not None or tensor.extras != Extras():
                proto.value_info.append(value_info(tensor))
    return proto


def _node_proto(node: Node, keep_value: KeepValue | None) -> onnx.NodeProto:
    proto = onnx.NodeProto(
        op_type=node.op,
        name=node.name,
        domain=node.domain,
        overload=node.overload,
        doc_string=node.extras.doc_string,
        input=[t.name for t in node.inputs],
        output=[t.name for t in node.outputs],
    )
    _set_metadata(proto, node.extras.metadata)
    proto.attribute.extend(_attribute_proto(name, value, keep_value) for name, value in node.attrs.items())
    return proto


def _attribute_proto(name: str, value: Any, keep_value: KeepValue | None) -> onnx.AttributeProto:
    if isinstance(value, onnx.AttributeProto):
        return value
    if isinstance(value, Body):
        value = _graph_proto(value.graph, keep_value)
    elif isinstance(value, Constant):
        value = tensor_proto(value)
    return helper.make_attribute(name, value)


def tensor_proto(constant: Constant) -> onnx.TensorProto:
    """The constant as a TensorProto under its present name; external data stays external."""
    lazy = constant.lazy
    if lazy is None:
        proto = numpy_helper.from_array(constant.values, constant.name)
    else:
        proto = onnx.TensorProto()
        proto.CopyFrom(lazy.tensor)
        proto.name = constant.name
    proto.doc_string = constant.extras.doc_string
    del proto.metadata_props[:]
    _set_metadata(proto, constant.extras.metadata)
    return proto


def value_info(tensor: Tensor) -> onnx.ValueInfoProto:
    """Name, type, doc string and metadata of a tensor."""
    info = onnx.ValueInfoProto(name=tensor.name, doc_string=tensor.extras.doc_string)
    _set_metadata(info, tensor.extras.metadata)
    if isinstance(tensor, Variable) and tensor.type_proto is not None:
        info.type.CopyFrom(tensor.type_proto)
    elif tensor.dtype is not None:
        info.type.CopyFrom(helper.make_tensor_type_proto(onnx_dtype(np.dtype(tensor.dtype)), tensor.shape))
    return info


def _set_metadata(proto: Any, metadata: dict[str, str]) -> None:
    for key, value in metadata.items():
        proto.metadata_props.add(key=key, value=value)
