"""ModelProto → Graph, keeping everything that the file says.

onnx-graphsurgeon's own importer drops metadata, doc strings, quantization annotations, non-tensor types,
TYPE_PROTO / SPARSE_TENSOR / GRAPHS attributes and initializers that are also inputs; so its objects are built here.
Names: node names become unique over the model (empty ones are made from the output), and a tensor name that a
sibling body uses too gets a suffix, so that a name means one thing in plans, dumps and remarks.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import onnx
from onnx import AttributeProto, helper

from graphopt.errors import LoadError
from graphopt.ir.dtypes import numpy_dtype
from graphopt.ir.elements import Constant, Dim, Extras, Node, Tensor, Variable
from graphopt.ir.graph import Graph
from graphopt.ir.stored import LazyConstant, SparseConstant

_UNSTATED_OPSET = 13


def from_proto(model: onnx.ModelProto, base_dir: str = "") -> Graph:
    """Build a Graph from `model`; `base_dir` is the folder that external data locations are relative to.

    The ModelProto's tensors are referenced, not copied: don't change it afterwards.

    Raises:
        LoadError: no opset, two producers of one tensor, or a name that nothing defines.
    """
    graph = Graph(model.graph.name)
    facts = graph.facts
    facts.ir_version = model.ir_version
    facts.opset_imports = {_domain(entry.domain): int(entry.version) for entry in model.opset_import}
    if "" not in facts.opset_imports:
        # IR versions before 3 have no opset imports and mean opset 1 (ONNX IR specification). A model of other
        # domains only has no standard operators: then any version says the same, and passes may add some of these.
        facts.opset_imports[""] = _UNSTATED_OPSET if facts.opset_imports else 1
    facts.producer_name, facts.producer_version = model.producer_name, model.producer_version
    facts.domain, facts.model_version = model.domain, model.model_version
    facts.doc_string = model.doc_string
    facts.metadata = _metadata(model)
    facts.functions = list(model.functions)
    facts.training_info = list(model.training_info)
    facts.device_configurations = list(model.configuration)
    _Importer(base_dir, defaults=model.ir_version >= 4).fill(graph, model.graph, {})
    facts.revision = 0
    return graph


class _Importer:
    def __init__(self, base_dir: str, *, defaults: bool) -> None:
        self.base_dir = base_dir
        # Up to IR 3 every initializer had to be listed as an input too. Only since IR 4 does it say something: that
        # the value is a default which the caller may override.
        self.defaults = defaults

    def fill(self, graph: Graph, proto: onnx.GraphProto, outer: Mapping[str, Tensor]) -> None:
        """Fill the empty `graph`; `outer` holds the tensors of enclosing graphs by their names in the file."""
        graph.doc_string = proto.doc_string
        graph.metadata = _metadata(proto)
        graph.quantization_annotation = list(proto.quantization_annotation)
        local: dict[str, Tensor] = {}
        self._initializers(graph, proto, local)
        inputs: list[Variable] = []
        for info in proto.input:
            known = local.get(info.name)
            if isinstance(known, Constant):
                known.is_input = self.defaults
                known.extras = _extras(info)
                continue
            if known is not None:
                raise LoadError(f"graph '{proto.name}' has two inputs named '{info.name}'")
            variable = self._variable(graph, info)
            local[info.name] = variable
            inputs.append(variable)
        types = {info.name: info for info in (*proto.value_info, *proto.output)}
        # Every name a node of this graph defines, first: bodies may only read what is defined before them, but a
        # file that isn't sorted must still load so that the verifier can say so.
        for node in proto.node:
            for name in node.output:
                if not name:
                    continue
                if name in local:
                    raise LoadError(f"tensor '{name}' is defined twice (the second time by {_describe(node)})")
                local[name] = self._variable(graph, types[name]) if name in types else graph.variable(name)
        scope: dict[str, Tensor] = {**outer, **local}
        for node in proto.node:
            self._node(graph, node, scope)
        outputs: list[Tensor] = []
        for info in proto.output:
            if info.name not in scope:
                raise LoadError(f"graph '{proto.name}': nothing defines its output '{info.name}'")
            outputs.append(scope[info.name])
        graph.set_interface(inputs, outputs)

    def _initializers(self, graph: Graph, proto: onnx.GraphProto, local: dict[str, Tensor]) -> None:
        for tensor in proto.initializer:
            if tensor.name in local:
                raise LoadError(f"graph '{proto.name}' has two initializers named '{tensor.name}'")
            constant = Constant(graph.fresh_name(tensor.name), LazyConstant(tensor, self.base_dir))
            constant.extras = Extras(tensor.doc_string, _metadata(tensor))
            local[tensor.name] = graph.adopt_constant(constant)
        for sparse in proto.sparse_initializer:
            constant = Constant(graph.fresh_name(sparse.values.name), SparseConstant(sparse))
            local[sparse.values.name] = graph.adopt_constant(constant)

    def _variable(self, graph: Graph, info: onnx.ValueInfoProto) -> Variable:
        variable = graph.variable(info.name)
        variable.extras = _extras(info)
        set_proto_type(variable, info.type)
        return variable

    def _node(self, graph: Graph, proto: onnx.NodeProto, scope: dict[str, Tensor]) -> None:
        inputs: list[Tensor] = []
        for name in proto.input:
            if name and name not in scope:
                raise LoadError(
                    f"{_describe(proto)} reads '{name}', which nothing in the model defines; "
                    "the file is damaged or was cut out of a larger model: export it again"
                )
            inputs.append(scope[name] if name else graph.omitted())
        outputs: list[Variable] = []
        for name in proto.output:
            tensor = scope[name] if name else graph.omitted()
            assert isinstance(tensor, Variable)  # node outputs were made as variables by `fill`
            outputs.append(tensor)
        hint = proto.name or f"{next((n for n in proto.output if n), 'node')}_{proto.op_type}"
        attrs = {a.name: self._attribute(graph, a, scope) for a in proto.attribute}
        node = Node(
            proto.op_type,
            graph.fresh_node_name(hint),
            attrs,
            inputs,
            outputs,
            _domain(proto.domain),
            proto.overload,
        )
        node.extras = Extras(proto.doc_string, _metadata(proto))
        node.device_configurations = list(proto.device_configurations)
        graph.adopt_node(node)

    def _attribute(self, graph: Graph, attr: onnx.AttributeProto, scope: dict[str, Tensor]) -> Any:
        if attr.ref_attr_name:
            return attr
        if attr.type == AttributeProto.GRAPH:
            body = Graph(attr.g.name, parent=graph)
            self.fill(body, attr.g, scope)
            return body.gs
        return attribute_value(attr, self.base_dir)


def attribute_value(attr: onnx.AttributeProto, base_dir: str = "") -> Any:
    """The Python form of an attribute that isn't a nested graph; see `Node.attrs`."""
    match attr.type:
        case AttributeProto.TENSOR:
            return Constant(attr.t.name, LazyConstant(attr.t, base_dir))
        case AttributeProto.FLOAT | AttributeProto.INT:
            return helper.get_attribute_value(attr)
        case AttributeProto.STRING:
            return _text(attr.s)
        case AttributeProto.INTS:
            return list(attr.ints)
        case AttributeProto.FLOATS if attr.floats:
            return list(attr.floats)
        case AttributeProto.STRINGS if attr.strings:
            texts = [_text(s) for s in attr.strings]
            return texts if all(isinstance(t, str) for t in texts) else attr
        case _:  # TYPE_PROTO, SPARSE_TENSOR, GRAPHS, …, and empty lists (a plain [] is one of integers)
            return attr


def set_proto_type(variable: Variable, proto: onnx.TypeProto) -> None:
    """Set the variable's element type and shape, or its full type where it isn't a plain tensor."""
    variable.dtype, variable.shape, variable.type_proto = None, None, None
    kind = proto.WhichOneof("value")
    if kind == "tensor_type":
        if proto.tensor_type.elem_type:
            variable.dtype = numpy_dtype(proto.tensor_type.elem_type)
        if proto.tensor_type.HasField("shape"):
            variable.shape = tuple(_dim(d) for d in proto.tensor_type.shape.dim)
    elif kind is not None:
        variable.type_proto = proto


def _dim(dim: onnx.TensorShapeProto.Dimension) -> Dim:
    if dim.HasField("dim_value"):
        # Some exporters write 0 or −1 for "unknown"; a negative size can't be meant.
        return int(dim.dim_value) if dim.dim_value >= 0 else None
    return dim.dim_param or None


def _extras(info: onnx.ValueInfoProto) -> Extras:
    return Extras(info.doc_string, _metadata(info))


def _metadata(proto: Any) -> dict[str, str]:
    return {entry.key: entry.value for entry in proto.metadata_props}


def _text(value: bytes) -> str | bytes:
    """STRING attributes are usually UTF-8; bytes that aren't are kept as bytes."""
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value


def _domain(domain: str) -> str:
    return "" if domain == "ai.onnx" else domain


def _describe(node: onnx.NodeProto) -> str:
    return f"{node.op_type} '{node.name or next(iter(node.output), '')}'"
