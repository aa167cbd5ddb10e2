"""Graph → ModelProto: the inverse of `from_proto`, with explicit opset and IR version.

Deterministic: nodes in graph order, initializers in the order they were made, value_info in node order.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from onnx import helper

from graphopt.errors import UnsupportedError
from graphopt.ir import external
from graphopt.ir.dtypes import onnx_dtype
from graphopt.ir.elements import Body, Constant, Extras, Node, Tensor, Variable
from graphopt.ir.facts import ModelFacts
from graphopt.ir.graph import Graph
from graphopt.ir.protos import set_metadata, set_simple_attribute, tensor_proto, value_info
from graphopt.ir.stored import SparseConstant

KeepValue = Callable[[Constant], bool]
KeepType = Callable[[Variable], bool]
Store = Callable[[Constant], onnx.TensorProto]

# The newest IR version that onnxruntime 1.31 reads (measured); onnx 1.23 would write 14.
MAX_IR_VERSION = 13
# Since IR 4 an initializer needn't be listed as an input; we never list one that isn't meant to be overridden.
MIN_IR_VERSION = 4
# A protobuf message can't be larger than 2 GiB; the rest of the model needs some room too.
MAX_EMBEDDED_BYTES = 2**31 - 2**27


def to_proto(
    graph: Graph,
    *,
    keep_value: KeepValue | None = None,
    keep_type: KeepType | None = None,
    store: Store | None = None,
) -> onnx.ModelProto:
    """The model as an onnx.ModelProto that stands alone: external data is read in, unless `store` says otherwise.

    Args:
        graph: the main graph.
        keep_value: when given, constants for which it is False become inputs of the main graph, of the same type.
            Such a skeleton is small whatever the weights weigh; it is what checks and shape inference run on.
        keep_type: when given, node outputs for which it is False are written without their type and shape.
        store: makes the TensorProto of each constant; `save` uses it to put values into a data file.

    Raises:
        UnsupportedError: the values are too large for one protobuf message.
    """
    if keep_value is None and store is None:
        _check_size(graph)
    facts = graph.facts
    model = onnx.ModelProto(
        ir_version=ir_version(facts),
        producer_name=facts.producer_name,
        producer_version=facts.producer_version,
        domain=facts.domain,
        model_version=facts.model_version,
        doc_string=facts.doc_string,
    )
    for domain, version in facts.opset_imports.items():
        model.opset_import.append(helper.make_opsetid(domain, version))
    set_metadata(model, facts.metadata)
    model.functions.extend(facts.functions)
    model.training_info.extend(facts.training_info)
    model.configuration.extend(facts.device_configurations)
    exporter = _Exporter(keep_value, keep_type, store or tensor_proto, _output_symbols(graph))
    exporter.fill(model.graph, graph)
    model.graph.input.extend(exporter.hoisted)
    return model


def _output_symbols(graph: Graph) -> frozenset[str]:
    """Symbolic sizes that only outputs of the main graph state."""
    given = {d for t in graph.inputs for d in t.shape or ()}
    return frozenset(d for t in graph.outputs for d in t.shape or () if isinstance(d, str) and d not in given)


def ir_version(facts: ModelFacts) -> int:
    """The IR version to write: what the opsets need, not below the file's own, and one that onnxruntime reads."""
    imports = [helper.make_opsetid(domain, version) for domain, version in facts.opset_imports.items()]
    needed = int(helper.find_min_ir_version_for(imports, ignore_unknown=True))
    return max(needed, MIN_IR_VERSION, min(facts.ir_version, MAX_IR_VERSION))


def value_bytes(graph: Graph) -> int:
    """Bytes that the values of all initializers of the model, nested graphs included, take in a file."""
    return sum(constant_bytes(constant) for scope in graph.walk() for constant in scope.constants)


def attribute_bytes(graph: Graph) -> int:
    """Bytes of the tensors in attributes, those of Constant nodes above all: where some exporters keep weights."""
    attributes = (v for scope in graph.walk() for node in scope.nodes for v in node.attrs.values())
    return sum(constant_bytes(value) for value in attributes if isinstance(value, Constant))


def constant_bytes(constant: Constant) -> int:
    """Bytes that the values of a constant take in a file."""
    return external.stored_bytes(onnx_dtype(constant.dtype), int(np.prod(constant.shape, dtype=np.int64)))


@dataclass
class _Exporter:
    keep_value: KeepValue | None
    keep_type: KeepType | None
    store: Store
    # Exporters give outputs of different sizes the same symbol; only a graph output may repeat such a claim, since
    # engines share buffers between inner tensors whose stated shapes are equal.
    untrusted: frozenset[str] = frozenset()
    # Inputs that stand for constants without their values. Those of nested graphs are here too: a body may read
    # any tensor of the main graph, and tensor names are unique over the model.
    hoisted: list[onnx.ValueInfoProto] = field(default_factory=list[onnx.ValueInfoProto])

    def fill(self, proto: onnx.GraphProto, graph: Graph) -> None:
        proto.name, proto.doc_string = graph.name, graph.doc_string
        set_metadata(proto, graph.metadata)
        proto.input.extend(value_info(t) for t in graph.inputs)
        self._constants(proto, graph)
        outputs = {id(t) for t in graph.outputs}
        for node in graph.nodes:
            if self._is_hoisted_constant_node(node):
                self.hoisted.append(_constant_node_info(node))
                continue
            self._node(proto.node.add(), node)
            for tensor in node.outputs:
                if id(tensor) not in outputs and not tensor.is_empty() and self._says_anything(tensor):
                    self._inner_info(proto.value_info.add(), tensor)
        proto.output.extend(self._output_info(t) for t in graph.outputs)
        self._annotations(proto, graph)

    def _constants(self, proto: onnx.GraphProto, graph: Graph) -> None:
        for constant in graph.constants:
            if self.keep_value is not None and not self.keep_value(constant):
                self.hoisted.append(value_info(constant))
                continue
            if constant.is_input:
                proto.input.append(value_info(constant))
            values = constant.unloaded
            if isinstance(values, SparseConstant):
                sparse = proto.sparse_initializer.add()
                sparse.CopyFrom(values.sparse)
                sparse.values.name = constant.name
            else:
                proto.initializer.append(self.store(constant))

    def _is_hoisted_constant_node(self, node: Node) -> bool:
        if self.keep_value is None or not node.is_op("Constant") or len(node.attrs) != 1:
            return False
        value = node.attrs.get("value")
        return isinstance(value, Constant) and not self.keep_value(value)

    def _says_anything(self, tensor: Variable) -> bool:
        if self.keep_type is not None and not self.keep_type(tensor):
            return False
        return tensor.dtype is not None or tensor.type_proto is not None or tensor.extras != Extras()

    def _inner_info(self, info: onnx.ValueInfoProto, tensor: Variable) -> None:
        info.CopyFrom(self._output_info(tensor))
        if self.untrusted.isdisjoint(tensor.shape or ()):
            return
        for dim in info.type.tensor_type.shape.dim:
            if dim.dim_param in self.untrusted:
                dim.ClearField("dim_param")

    def _output_info(self, tensor: Tensor) -> onnx.ValueInfoProto:
        if isinstance(tensor, Variable) and tensor.inputs and self.keep_type is not None and not self.keep_type(tensor):
            return onnx.ValueInfoProto(name=tensor.name)
        return value_info(tensor)

    def _node(self, proto: onnx.NodeProto, node: Node) -> None:
        proto.op_type, proto.name = node.op, node.name
        proto.input.extend([t.name for t in node.inputs])
        proto.output.extend([t.name for t in node.outputs])
        if node.domain:
            proto.domain = node.domain
        if node.overload:
            proto.overload = node.overload
        if node.extras.doc_string:
            proto.doc_string = node.extras.doc_string
        set_metadata(proto, node.extras.metadata)
        proto.device_configurations.extend(node.device_configurations)
        self.attributes(proto, node)

    def attributes(self, proto: onnx.NodeProto, node: Node) -> None:
        for name, value in node.attrs.items():
            self._attribute(proto.attribute.add(), name, value)

    def _attribute(self, proto: onnx.AttributeProto, name: str, value: Any) -> None:
        if isinstance(value, onnx.AttributeProto):
            proto.CopyFrom(value)
        elif isinstance(value, Body):
            proto.name, proto.type = name, onnx.AttributeProto.GRAPH
            self.fill(proto.g, value.graph)
        elif isinstance(value, Constant):
            proto.name, proto.type = name, onnx.AttributeProto.TENSOR
            proto.t.CopyFrom(self.store(value))
        else:
            set_simple_attribute(proto, name, value)

    def _annotations(self, proto: onnx.GraphProto, graph: Graph) -> None:
        """Quantization annotations whose tensors are all still there."""
        if not graph.quantization_annotation:
            return
        alive = graph.tensors()
        for annotation in graph.quantization_annotation:
            names = [annotation.tensor_name, *(p.value for p in annotation.quant_parameter_tensor_names)]
            if all(name in alive for name in names):
                proto.quantization_annotation.append(annotation)


def attribute_protos(node: Node) -> list[onnx.AttributeProto]:
    """The node's attributes as they are written."""
    proto = onnx.NodeProto()
    _Exporter(None, None, tensor_proto).attributes(proto, node)
    return list(proto.attribute)


def _constant_node_info(node: Node) -> onnx.ValueInfoProto:
    info = value_info(node.attrs["value"])
    info.name = node.outputs[0].name
    return info


def _check_size(graph: Graph) -> None:
    total = value_bytes(graph)
    if total > MAX_EMBEDDED_BYTES:
        raise UnsupportedError(
            f"the model's values take {total / 2**30:.1f} GiB, more than one ONNX message can hold (2 GiB); "
            "save it to a file, which puts them into a data file beside it"
        )
