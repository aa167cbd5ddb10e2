"""Operators that a target could run in 8 bits and that are better left in float, told from the graph alone.

    x ─┬─▶ ReduceMean ─▶ Sub ─▶ Pow ─▶ …          the mean is taken away for a normalization
       └───────────────────▲
    x ─┬─▶ Erf ─▶ Add ─▶ Mul ─▶ y                 a gate that is computed in float from what it multiplies (GELU)
       └───────────────────▲
    scores ─▶ Add(mask) ─▶ Softmax                masks of −1e9 or −∞ leave the scores one step
    float ─▶ Mul(γ) ─▶ Add(β) ─▶ Q ─▶ MatMul      elementwise work between a float operator and a linear one
    … ─▶ Add(ε) ─▶ Sqrt, Log, 1/x                 small values decide
    ids (int64) ─▶ Cast ─▶ MatMul                 samples don't show the range of token ids and the like

None but the last has a weight, so that leaving them in float costs no integer product. What depends on the values, and
not on the graph, is judged after calibration (`passes.protect_small_values`).
"""

from __future__ import annotations

from collections.abc import Callable, Set

import numpy as np

from graphopt.analysis.channels.affine import affine_op
from graphopt.analysis.integer_values import integer_values, is_finite
from graphopt.ir import Constant, Graph, Node, Tensor
from graphopt.ir.linear import linear_producer, linear_view, reads_shape_only
from graphopt.ir.linear_edit import Declined
from graphopt.ir.ops import ELEMENTWISE_BINARY, ELEMENTWISE_UNARY, LINEAR, RESHAPES
from graphopt.targets import Role, Target

_ELEMENTWISE = ELEMENTWISE_UNARY | ELEMENTWISE_BINARY
_MOVES = RESHAPES | {"Expand", "Identity", "Transpose"}
_MEANS = ("GlobalAveragePool", "ReduceMean")
_COMBINES = ("Add", "Mul", "Sub")
_SMALL_VALUES_DECIDE = ("Log", "Reciprocal", "Sqrt")
_EXACT = ("Ceil", "Equal", "Floor", "Mod", "Round")
FLOAT32 = np.dtype(np.float32)


def fragile(graph: Graph, target: Target) -> dict[Node, str]:
    """Nodes of the main graph to leave in float, with the reason, in graph order. Linear in its size."""
    found: dict[Node, str] = {}
    scores = _leading_to(graph, lambda node, _: node.is_op("LogSoftmax", "Softmax"))
    small = _leading_to(graph, lambda node, i: node.is_op(*_SMALL_VALUES_DECIDE) or (node.is_op("Div") and i == 1))
    floats: set[Tensor] = set()
    unbounded = {t for t, bounds in integer_values(graph).items() if t.dtype == FLOAT32 and not is_finite(bounds)}
    for node in graph.nodes:
        rule = target.rules.get(node.op) if node.is_standard else None
        ids = next((t for t in node.inputs if t in unbounded), None)
        if rule is not None and ids is not None:
            found[node] = f"'{ids.name}' comes from integers: a range made of those in the samples would clip others"
        elif rule is not None and rule.role is not Role.LINEAR and linear_producer(graph, node.outputs[0]) is None:
            reason = _reason(graph, node, floats, scores, small)
            if reason is not None:
                found[node] = reason
        if node in found or _is_float_only(graph, target, node, floats):
            floats.update(node.present_outputs())
    return found


def _reason(graph: Graph, node: Node, floats: Set[Tensor], scores: Set[Node], small: Set[Node]) -> str | None:
    if _centers(node) or (node.is_op(*_MEANS) and any(_centers(n) for n in graph.consumers(node.outputs[0]))):
        return "it takes the mean away, as a normalization does, which amplifies what rounding adds"
    if node.is_op(*_ELEMENTWISE) and node in scores:
        return "it makes the scores of a Softmax: a mask among them would leave them one step of an 8-bit grid"
    if node.is_op("LogSoftmax", "Softmax") and node.inputs[0] in floats:
        return "its scores come from a float operator, and may hold a mask"
    if node.is_op(*_ELEMENTWISE, *_MEANS) and node in small:
        return (
            "it leads to a logarithm, a root or a denominator, where small values decide: a grid lacks steps for them"
        )
    if any(n.is_op(*_EXACT) for n in graph.consumers(node.outputs[0])):
        return "its values are compared or counted: on a grid different ones become equal"
    operands = [t for t in node.inputs if not isinstance(t, Constant) and t.dtype == FLOAT32]
    if node.is_op(*_COMBINES) and operands and all(t in floats for t in operands):
        return "its operands come from float operators: one rounding behind it is as fast and loses less"
    if node.is_op("Mul") and _gates_itself(graph, node, floats):
        return "it multiplies a tensor by a gate that is computed from it in float: rounding both loses more"
    return None


def _is_float_only(graph: Graph, target: Target, node: Node, floats: Set[Tensor]) -> bool:
    """Whether the results of `node` can't come as integers for `target`."""
    if not node.is_standard:
        return True
    if node.op in LINEAR:
        return node.op not in target.rules or linear_view(graph, node) is None
    if linear_producer(graph, node.outputs[0]) is not None:
        return False  # the Add that holds a MatMul's bias
    if node.op not in target.rules and node.op not in target.fused_activations:
        return True
    rule = target.rules.get(node.op)
    if rule is not None and rule.role is Role.SAME_SCALE:
        return False  # it may be quantized before it for another reader
    operands = [t for t in node.inputs if not isinstance(t, Constant) and t.dtype == FLOAT32]
    return bool(operands) and all(t in floats for t in operands)


def _centers(node: Node) -> bool:
    """Whether it is x − mean(x)."""
    if not node.is_op("Sub") or len(node.inputs) != 2:
        return False
    left, right = node.inputs
    return any(n.is_op(*_MEANS) and n.inputs[0] is left for n in right.inputs)


def _gates_itself(graph: Graph, node: Node, floats: Set[Tensor]) -> bool:
    """Whether one operand is computed from the other by elementwise operators, the last of them in float."""
    if len(node.inputs) != 2:
        return False
    for value, gate in (node.inputs, node.inputs[::-1]):
        current: Tensor | None = gate
        value = _unscaled(graph, value)
        while gate in floats and current is not None and current is not value:
            maker = graph.producer(current)
            if maker is None or not maker.is_op(*_ELEMENTWISE):
                current = None
                break
            others = [t for t in maker.inputs if not isinstance(t, Constant)]
            current = others[0] if len(others) == 1 else value if value in others else None
        if gate in floats and current is value:
            return True
    return False


def _unscaled(graph: Graph, value: Tensor) -> Tensor:
    """What `value` is a constant times: Gelu is (½·x)·(1 + Erf(x/√2)) in some exports."""
    maker = graph.producer(value)
    found = affine_op(maker) if maker is not None and maker.is_op("Div", "Mul") else None
    return value if maker is None or found is None or isinstance(found, Declined) else maker.inputs[found[0]]


def _leading_to(graph: Graph, is_end: Callable[[Node, int], bool]) -> set[Node]:
    """Operators whose results are read by such ends alone, through elementwise operators and what moves values."""
    found: set[Node] = set()
    for node in reversed(graph.nodes):
        if not node.is_op(*_ELEMENTWISE, *_MOVES, *_MEANS, "ReduceSum"):
            continue
        uses = [use for t in node.present_outputs() for use in graph.uses(t) if not reads_shape_only(use[0])]
        inner = not any(graph.is_output(t) for t in node.present_outputs())
        if inner and uses and all(is_end(n, i) or n in found for n, i in uses):
            found.add(node)
    return found
