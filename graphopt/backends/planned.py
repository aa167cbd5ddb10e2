"""Which nodes a model wants computed in 8 bits, or in which float type, read from it and the target's table alone.

    DQ(x), DQ(W) → Conv              a linear node: its activation and its weight come out of DequantizeLinear
    DQ(a), DQ(b) → Add → Q           another one with an integer kernel: all that its rule wants quantized is
    QLinearConv, MatMulInteger …     planned by nature

No plan is needed, so that any tool's model can be verified. Operators that only move values (`Role.SAME_SCALE`) compute
nothing and are not listed. A product of two activations is planned when Q stands behind it, too: integers that
other readers want may reach its inputs by chance. Likewise for everything but a linear node with an integer weight,
which nobody stores without meaning it. A node that doesn't meet the conditions of the target's rule is declined by it.

A matrix product whose weight is stored in blocks of 4 bits is planned as "int4-weights", and so is onnxruntime's own
MatMulNBits.

Activations of 16 bits are planned as "int16x8", for a target that has such kernels. For one that computes in 16-bit
floats, a node that has one is planned in it; and so are the linear nodes in float32
of a model that has both.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from graphopt.backends.precision import Planned
from graphopt.ir import FLOAT_TYPES, Constant, Graph, Node, Tensor
from graphopt.ir.block_weights import INT4_WEIGHTS, block_weight
from graphopt.ir.conditions import unmet
from graphopt.ir.float_parameters import LOW_FLOATS
from graphopt.ir.ops import LINEAR, MOVES_VALUES, RESHAPES
from graphopt.targets import OpRule, Role, Target

_FLOAT32 = np.dtype(np.float32)
_EIGHT_BITS = (np.dtype(np.int8), np.dtype(np.uint8))
_SIXTEEN_BITS = (np.dtype(np.int16),)
_COUNTED = (Role.LINEAR, Role.COMPUTE, Role.FIXED_OUTPUT)

# Operators that name their integers themselves, standard and onnxruntime's own (com.microsoft).
_INTEGER_LINEAR = frozenset(
    {
        *("ConvInteger", "DynamicQuantizeMatMul", "MatMulInteger", "MatMulIntegerToFloat", "QGemm", "QLinearConv"),
        *("QLinearConvTranspose", "QLinearMatMul"),
    }
)
_NBITS = "MatMulNBits"
_DOMAINS = frozenset({"", "ai.onnx", "com.microsoft"})


def planned_nodes(graph: Graph, target: Target) -> list[Planned]:
    """Every node whose precision the model decides, in its order, nested graphs included."""
    readers = {"int8": _Reader(target, _EIGHT_BITS)}
    if target.wide is not None:
        readers["int16x8"] = _Reader(target.wide, _SIXTEEN_BITS)
    mixed = not LOW_FLOATS.keys().isdisjoint(target.precisions) and any(
        t.dtype in LOW_FLOATS.values() for scope in graph.walk() for node in scope.nodes for t in node.outputs
    )
    found: list[Planned] = []
    for scope in graph.walk():
        for node in scope.nodes:
            for reader in readers.values():
                reader.visit(scope, node)
            linear = node.op in LINEAR or node.op in _INTEGER_LINEAR or node.op == _NBITS
            if _has_4_bits(node):
                wanted = INT4_WEIGHTS
            else:
                integers = next((name for name, r in readers.items() if r.is_planned(scope, node)), None)
                wanted = integers or (_float_type(node) if mixed else None)
            if wanted is not None:
                found.append(Planned(node.name, node.op, node.outputs[0].name, linear, wanted))
    return found


def _has_4_bits(node: Node) -> bool:
    """Whether a matrix product's weight is stored in blocks of 4 bits."""
    if node.op == _NBITS and node.domain == "com.microsoft":
        return node.attr("bits", 4) == 4
    return node.is_op("Gemm", "MatMul") and any(block_weight(tensor) is not None for tensor in node.inputs[:2])


def _float_type(node: Node) -> str | None:
    """The float type that a node of a model with several should be computed in; None: it computes nothing."""
    if node.is_op("Cast", "CastLike", "Constant", *MOVES_VALUES) or is_quantize(node) or is_dequantize(node):
        return None
    dtype = node.outputs[0].dtype
    if dtype == _FLOAT32 and node.is_op(*LINEAR):
        return "float32"
    return next((name for name, low in LOW_FLOATS.items() if low == dtype), None)


def float_layers(graph: Graph, planned: list[Planned]) -> list[Node]:
    """The linear nodes that the model leaves in float, and whose type nobody decides."""
    names = {p.name for p in planned}
    return [n for scope in graph.walk() for n in scope.nodes if n.is_op(*LINEAR) and n.name not in names]


def is_quantize(node: Node | None) -> bool:
    """Whether it is a QuantizeLinear, standard or onnxruntime's."""
    return node is not None and node.op == "QuantizeLinear" and node.domain in _DOMAINS


def is_dequantize(node: Node | None) -> bool:
    """Whether it is a DequantizeLinear, standard or onnxruntime's."""
    return node is not None and node.op == "DequantizeLinear" and node.domain in _DOMAINS


def is_integer_operator(node: Node) -> bool:
    """Whether the operator itself computes with integers: QLinearConv, MatMulInteger, com.microsoft's QGemm …"""
    return node.domain in _DOMAINS and (node.op in _INTEGER_LINEAR or node.op.startswith("QLinear"))


def activations(node: Node) -> list[tuple[int, Tensor]]:
    """(index, tensor) of the float inputs that carry data; shapes and axes are integers, and don't count."""
    return [(i, t) for i, t in node.present_inputs() if t.dtype is None or t.dtype in FLOAT_TYPES]


def stored_type(dequantize: Node) -> object:
    """The type that a DequantizeLinear reads; behind onnxruntime's operators its zero point tells."""
    stored, zero_point = dequantize.inputs[0], dequantize.input(2)
    return zero_point.dtype if stored.dtype is None and zero_point is not None else stored.dtype


def integer_weight(graph: Graph, tensor: Tensor) -> bool:
    """Whether `tensor` is a stored weight in 8 bits: DequantizeLinear of a constant, perhaps moved behind it."""
    node = graph.producer(tensor)
    while node is not None and node.is_op("Transpose", *RESHAPES):
        node = graph.producer(node.inputs[0])
    if node is None or not is_dequantize(node) or stored_type(node) not in _EIGHT_BITS:
        return False
    stored = node.inputs[0]
    quantize = graph.producer(stored)
    return isinstance(quantize.inputs[0] if is_quantize(quantize) and quantize is not None else stored, Constant)


@dataclass
class _Reader:
    """One walk over a model in graph order: what wants integers of some types."""

    target: Target
    types: tuple[np.dtype[Any], ...]

    def __post_init__(self) -> None:
        # Tensors whose values are such integers times a scale: out of DequantizeLinear, or …
        self.direct: set[Tensor] = set()
        # … behind operators that move values.
        self.moved: set[Tensor] = set()
        self.planned_linear: set[Tensor] = set()

    def visit(self, scope: Graph, node: Node) -> None:
        """Note what comes out of `node`."""
        if is_dequantize(node):
            if stored_type(node) in self.types:
                self.direct.add(node.outputs[0])
                self.moved.add(node.outputs[0])
            return
        rule = self.rule(node)
        if rule is None or rule.role is not Role.SAME_SCALE:
            return
        found = activations(node)
        sources = [t for _, t in (found if node.is_op("Concat") else found[:1])]
        if sources and all(t in self.moved for t in sources):
            self.moved.update(node.present_outputs())
            # Engines that carry a scale through such operators want no second pair behind them.
            if not rule.output_quantized and all(t in self.direct for t in sources):
                self.direct.update(node.present_outputs())

    def is_planned(self, scope: Graph, node: Node) -> bool:
        """Whether the model wants `node` in such integers."""
        if is_integer_operator(node):
            return True
        rule = self.rule(node)
        if node.is_op(*LINEAR):
            planned = self.linear(scope, node)
        elif rule is None or rule.role not in _COUNTED or unmet(scope, node, rule.conditions) is not None:
            return False  # the target has no integer kernel for it, so integers reach it for other readers' sake
        else:
            planned = self.operands(node, rule) and (not rule.output_quantized or self.writes_integers(scope, node))
        if planned and node.is_op(*LINEAR):
            self.planned_linear.add(node.outputs[0])
        return planned

    def linear(self, scope: Graph, node: Node) -> bool:
        """An integer weight and an integer activation; or two activations, and Q behind the product."""
        first, second = node.inputs[:2]
        for data, weight in ((first, second), (second, first)):
            if integer_weight(scope, weight):
                return data in self.moved
        return first in self.direct and second in self.direct and self.writes_integers(scope, node)

    def operands(self, node: Node, rule: OpRule) -> bool:
        """Whether what the rule wants quantized is."""
        tensors = [t for _, t in activations(node)]
        integers = [t in self.direct for t in tensors]
        if rule.operands != "all":
            return any(integers) and all(i or t in self.planned_linear for i, t in zip(integers, tensors, strict=True))
        return bool(integers) and all(integers)

    def writes_integers(self, scope: Graph, node: Node) -> bool:
        """Whether Q alone reads the result, behind activations that the target fuses."""
        tensor = node.outputs[0]
        while not any(is_quantize(reader) for reader in tensor.outputs):
            after = scope.sole_consumer(tensor)
            if after is None or after.op not in self.target.fused_activations or not after.is_standard:
                return False
            if unmet(scope, after, self.target.fused_conditions.get(after.op, ())) is not None:
                return False
            tensor = after.outputs[0]
        return all(is_quantize(reader) for reader in tensor.outputs) and not scope.is_output(tensor)

    def rule(self, node: Node) -> OpRule | None:
        return self.target.rules.get(node.op) if node.is_standard else None
