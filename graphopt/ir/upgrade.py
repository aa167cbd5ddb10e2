"""Bring a model's standard operators up to a newer opset, node by node.

onnx's version converter is run on one node at a time, as a model of its own. Run on a whole model it drops metadata,
doc strings and functions, stops at the first operator it doesn't know without saying which node that was, fails on
initializers that are inputs too (IR 3) and would carry every weight through. Nodes whose operator didn't change
between the two opsets aren't touched; where the converter is wrong, `upgrade_rules` has its own rule.
"""

from __future__ import annotations

from dataclasses import dataclass

import onnx
from onnx import helper

from graphopt.errors import LoadError, UnsupportedError, one_line
from graphopt.ir.dtypes import onnx_dtype
from graphopt.ir.elements import Constant, Node, Tensor, Variable
from graphopt.ir.from_proto import attribute_value, from_proto
from graphopt.ir.graph import Graph
from graphopt.ir.shapes import infer
from graphopt.ir.stored import LazyConstant
from graphopt.ir.to_proto import attribute_protos, to_proto
from graphopt.ir.upgrade_rewrite import Rewrite
from graphopt.ir.upgrade_rules import RULES_OPSET, rule_for

# Only the types they accept grew (onnx changelog; Scan-8 has a rule). They hold nested graphs, or values that needn't
# travel through the converter.
_COMPATIBLE = frozenset({"If", "Loop", "Scan", "SequenceMap", "Constant"})
_NUMPY_BROADCAST_OPSET = 7


def upgrade(model: onnx.ModelProto, to_opset: int) -> onnx.ModelProto:
    """`model` with its standard operators at `to_opset`, or as it is when that isn't newer.

    Raises:
        LoadError: the model is damaged.
        UnsupportedError: a node can't be converted; says which, and why.
    """
    graph = from_proto(model)
    infer(graph)
    upgrade_graph(graph, to_opset)
    return to_proto(graph)


def has_experimental(graph: Graph) -> bool:
    """Whether the model uses operators that were never standard, but that `upgrade_graph` knows how to express."""
    return any(
        node.is_standard and not onnx.defs.has(node.op, graph.opset) and rule_for(node, graph.opset) is not None
        for scope in graph.walk()
        for node in scope.nodes
    )


def upgrade_graph(graph: Graph, to_opset: int) -> None:
    """Bring the graph to `to_opset` (13 or newer), nested graphs included. Types must be filled in (`infer`).

    Raises:
        LoadError: the declared opset doesn't exist.
        UnsupportedError: a node can't be converted; says which, and why.
    """
    if to_opset < RULES_OPSET:
        raise ValueError(f"to_opset must be at least {RULES_OPSET}, not {to_opset}")
    if graph.opset < 1:
        raise LoadError(f"the model declares opset {graph.opset}, which doesn't exist; export it again")
    # In two steps, because what the rules make is of their opset.
    for step in (RULES_OPSET, to_opset):
        if graph.opset < step:
            _convert(graph, step)


def _convert(graph: Graph, end: int) -> None:
    converter = _Converter(graph.opset, end)
    # All are found before the first is applied, so that a failure leaves the graph as it was.
    found = [(node, converter.convert(node)) for scope in graph.walk() for node in scope.nodes]
    for node, rewrite in found:
        if rewrite is not None:
            _apply(node, rewrite)
    graph.set_opset(end)
    graph.sort()
    infer(graph)


@dataclass
class _Converter:
    start: int
    end: int

    def __post_init__(self) -> None:
        # A one-node model's bytes → its conversion: equal nodes (all the 3×3 convolutions of a stage) convert alike.
        self._known: dict[bytes, Rewrite] = {}

    def convert(self, node: Node) -> Rewrite | None:
        """What replaces `node`, or None when it means the same in the new opset."""
        if not node.is_standard:
            return None
        rule = rule_for(node, self.start)
        if rule is not None:
            return rule(node)
        if not self._changed(node.op):
            return None
        if node.op in _COMPATIBLE:
            return None
        model = _one_node_model(node, self.start)
        key = model.SerializeToString(deterministic=True)
        if key not in self._known:
            try:
                converted = onnx.version_converter.convert_version(model, self.end).graph
            except Exception as error:  # the converter's assertions come as several classes, without a common one
                raise UnsupportedError(
                    f"{node} can't be brought from opset {self.start} to {self.end}: {_reason(error)}; "
                    f"export the model with opset {self.end}"
                ) from None
            self._known[key] = Rewrite(list(converted.node), list(converted.initializer))
        return self._known[key]

    def _changed(self, op: str) -> bool:
        """Whether opset `end` defines the operator anew."""
        if not onnx.defs.has(op, self.start):
            return False  # experimental: never had a definition
        old = onnx.defs.get_schema(op, self.start)
        return old.since_version != onnx.defs.get_schema(op, self.end).since_version


def _one_node_model(node: Node, opset: int) -> onnx.ModelProto:
    """`node` as a model, its tensors named by position (i0, …, o0, …), of the right type and rank.

    Values and sizes are left out: adapters don't look at them, and without them most nodes are alike. Only those
    from before opset 7 need sizes, to turn the old `broadcast` attribute into reshapes.
    """
    sizes = opset < _NUMPY_BROADCAST_OPSET
    proto = onnx.NodeProto(
        op_type=node.op,
        input=[f"i{i}" if not t.is_empty() else "" for i, t in enumerate(node.inputs)],
        output=[f"o{i}" if not t.is_empty() else "" for i, t in enumerate(node.outputs)],
        attribute=attribute_protos(node),
    )
    graph = onnx.GraphProto(name="one", node=[proto])
    for i, tensor in node.present_inputs():
        graph.input.append(_typed(f"i{i}", tensor, sizes=sizes))
    graph.output.extend(_typed(f"o{i}", t, sizes=sizes) for i, t in enumerate(node.outputs) if not t.is_empty())
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def _reason(error: Exception) -> str:
    """The converter's message without its source location: "…/x.h:35: operator(): Assertion `a` failed: why"."""
    return one_line(error).rpartition(" failed: ")[2]


def _typed(name: str, tensor: Tensor, *, sizes: bool) -> onnx.ValueInfoProto:
    # The converter refuses tensors of unknown type; hardly any of its adapters looks at the type.
    elem_type = onnx.TensorProto.FLOAT if tensor.dtype is None else onnx_dtype(tensor.dtype)
    shape = tensor.shape if sizes or tensor.shape is None else [None] * len(tensor.shape)
    return helper.make_tensor_value_info(name, elem_type, shape)


def _apply(node: Node, rewrite: Rewrite) -> None:
    """Put the nodes of `rewrite` in place of `node`; the last one takes its name."""
    scope = node.scope
    assert scope is not None  # nodes of a walk are in a graph
    tensors: dict[str, Tensor] = {f"i{i}": t for i, t in enumerate(node.inputs)}
    tensors.update((f"o{i}", t) for i, t in enumerate(node.outputs))
    outputs = [t for t in node.outputs if not t.is_empty()]
    node.outputs.clear()  # they live on: the new nodes compute them
    bodies = {name: node.attrs.pop(name) for name in [name for name, _ in node.bodies()]}
    scope.remove(node)
    constants = {p.name: LazyConstant(p) for p in rewrite.constants}
    protos: list[onnx.NodeProto] = []
    for proto in rewrite.nodes:
        if proto.op_type == "Constant" and proto.attribute[0].name == "value":
            constants[proto.output[0]] = LazyConstant(proto.attribute[0].t)
        else:
            protos.append(proto)
    hint = outputs[0].name if outputs else node.name

    def tensor(name: str) -> Tensor:
        if not name:
            return scope.omitted()
        if name not in tensors:
            if name in constants:
                constant = Constant(scope.fresh_name(f"{hint}_{name}"), constants[name])
                tensors[name] = scope.adopt_constant(constant)
            else:
                tensors[name] = scope.variable(f"{hint}_{name}")
        return tensors[name]

    for number, proto in enumerate(protos):
        is_last = number == len(protos) - 1
        name = node.name if is_last else scope.fresh_node_name(f"{node.name}_{proto.op_type}")
        made = [tensor(o) for o in proto.output]
        new = Node(
            proto.op_type,
            name,
            {a.name: attribute_value(a) for a in proto.attribute} | (bodies if proto.op_type == node.op else {}),
            [tensor(i) for i in proto.input],
            [t for t in made if isinstance(t, Variable)],
        )
        if is_last:
            new.extras = node.extras
        scope.adopt_node(new)
