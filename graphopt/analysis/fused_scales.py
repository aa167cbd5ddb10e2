"""Scales that some engine fuses with the operators before or behind them, so that folding them elsewhere costs more.

    x ─▶ mean(x) ─▶ x − mean ─▶ ÷ √(mean(d²) + ε) ─▶ Mul γ ─▶ Add β        layer-norm
    x ─▶ ÷ √(mean(x²) + ε) ─▶ Mul γ                                        rms-norm
    x ─▶ Erf(x/√2) + 1 ─▶ Mul x ─▶ Mul ½                                   erf-gelu; ½ may be at any factor
    x ─▶ Erf(x ÷ √2) + 1 ─▶ Mul x ─▶ Mul ½                                 erf-gelu-div; ½ there or at x, and a Div
    x ─▶ Tanh(…) + 1 ─▶ Mul (½·x)                                          tanh-gelu; behind the product no engine has ½

A Mul by γ or ½ folds into the weights behind it without changing a result. Then what is left isn't the pattern that the
engine looks for: it runs eight operators in place of one. Which patterns an engine has is in its target's table.
"""

from __future__ import annotations

import numpy as np

from graphopt.analysis.channels.affine import affine_op
from graphopt.ir import Constant, Graph, Node, Tensor, fixed_value
from graphopt.ir.linear_edit import Declined
from graphopt.ir.operands import int_list, normalized_axes
from graphopt.targets import FusedPattern

_NONE: frozenset[FusedPattern] = frozenset()
_LAYER_NORM: frozenset[FusedPattern] = frozenset({"layer-norm"})
_RMS_NORM: frozenset[FusedPattern] = frozenset({"rms-norm"})
_ERF_GELU: frozenset[FusedPattern] = frozenset({"erf-gelu"})
_ERF_GELU_DIV: frozenset[FusedPattern] = frozenset({"erf-gelu", "erf-gelu-div"})
_TANH_GELU: frozenset[FusedPattern] = frozenset({"tanh-gelu"})


def fused_patterns(graph: Graph, node: Node) -> frozenset[FusedPattern]:
    """Patterns whose constant scale, or the shift behind it, `node` is; `graph` is the one that it is in."""
    if node.is_op("Add"):
        scale = _scale_before(graph, node)
        return _NONE if scale is None else _normalization(graph, scale) & _LAYER_NORM
    if node.is_op("Mul", "Div"):
        return _normalization(graph, node) or _gelu(graph, node)
    return _NONE


def _scale_before(graph: Graph, shift: Node) -> Node | None:
    """The Mul whose result alone `shift` adds a constant to."""
    data = _variable(shift)
    scale = None if data is None else graph.producer(data)
    return scale if data is not None and scale is not None and graph.sole_consumer(data) is shift else None


def _normalization(graph: Graph, node: Node) -> frozenset[FusedPattern]:
    data = _variable(node) if node.is_op("Mul") else None
    quotient = None if data is None else graph.producer(data)
    if data is None or quotient is None or graph.sole_consumer(data) is not node:
        return _NONE
    for value, mean in _divided_by_root(graph, quotient):
        square = graph.producer(mean.inputs[0])
        base = None if square is None else _squared(square)
        if base is None or not _over_last_axes(mean) or not _same(graph, base, value):
            continue
        center = graph.producer(value)
        return _LAYER_NORM if center is not None and _centers(graph, center) else _RMS_NORM
    return _NONE


def _divided_by_root(graph: Graph, node: Node) -> list[tuple[Tensor, Node]]:
    """(a, mean) of a / Sqrt(mean + ε) and a · (1 / Sqrt(mean + ε)); the mean is a ReduceMean."""
    if node.is_op("Div"):
        pairs = [(node.inputs[0], node.inputs[1])]
    elif node.is_op("Mul"):
        both = (node.inputs, node.inputs[::-1])
        pairs = [(a, n.inputs[1]) for a, r in both if (n := graph.producer(r)) is not None and _inverts(n)]
    else:
        return []
    found: list[tuple[Tensor, Node]] = []
    for value, root in pairs:
        sqrt = graph.producer(root)
        added = graph.producer(sqrt.inputs[0]) if sqrt is not None and sqrt.is_op("Sqrt") else None
        data = _variable(added) if added is not None and added.is_op("Add") else None
        mean = None if data is None else graph.producer(data)
        if mean is not None and mean.is_op("ReduceMean"):
            found.append((value, mean))
    return found


def _inverts(node: Node) -> bool:
    value = fixed_value(node.inputs[0]) if node.is_op("Div") else None
    return value is not None and value.size == 1 and bool((value == 1).all())


def _squared(node: Node) -> Tensor | None:
    """What Pow(x, 2) squares. No engine looks for Mul(x, x)."""
    power = fixed_value(node.inputs[1]) if node.is_op("Pow") else None
    return node.inputs[0] if power is not None and power.size == 1 and bool((power == 2).all()) else None


def _centers(graph: Graph, node: Node) -> bool:
    """Whether it is x − mean(x)."""
    mean = graph.producer(node.inputs[1]) if node.is_op("Sub") else None
    return mean is not None and mean.is_op("ReduceMean") and mean.inputs[0] is node.inputs[0]


def _same(graph: Graph, left: Tensor, right: Tensor) -> bool:
    """Whether both are one tensor, or the same Sub of the same tensors: some exporters write it twice."""
    if left is right:
        return True
    first, second = graph.producer(left), graph.producer(right)
    if first is None or second is None or not (first.is_op("Sub") and second.is_op("Sub")):
        return False
    if first.inputs[0] is not second.inputs[0]:
        return False
    return first.inputs[1] is second.inputs[1] or (_centers(graph, first) and _centers(graph, second))


def _over_last_axes(mean: Node) -> bool:
    axes, shape = int_list(mean, "axes", 1), mean.inputs[0].shape
    if axes == [-1]:
        return bool(mean.attr("keepdims", 1))
    last = None if axes is None or shape is None else normalized_axes(axes, len(shape))
    return bool(last) and sorted(last) == list(range(len(shape or ())))[-len(last) :] and bool(mean.attr("keepdims", 1))


def _gelu(graph: Graph, node: Node) -> frozenset[FusedPattern]:
    """Patterns in which `node` is the multiplication by one half."""
    found = affine_op(node)
    if found is None or isinstance(found, Declined) or found[1].axis is not None or found[1].scale[0] != 0.5:
        return _NONE
    data, reader = node.inputs[found[0]], graph.sole_consumer(node.outputs[0])
    before = graph.producer(data)
    if before is not None and before.is_op("Mul"):  # (x·gate)·½
        left, right = before.inputs
        return (_gate(graph, right, left) | _gate(graph, left, right)) - _TANH_GELU
    if reader is None or not reader.is_op("Mul"):
        return _NONE
    others = [t for t in reader.inputs if t is not node.outputs[0]]
    if len(others) != 1:
        return _NONE
    return _gate(graph, others[0], data) or _gate(graph, data, others[0]) & _ERF_GELU  # (½·x)·gate, x·(½·gate)


def _gate(graph: Graph, gate: Tensor, value: Tensor) -> frozenset[FusedPattern]:
    """Patterns in which `gate` is 1 + Erf(…) or 1 + Tanh(…) of `value`."""
    added = graph.producer(gate)
    one = None if added is None or not added.is_op("Add") else _added_constant(added)
    inner = None if added is None or one != 1.0 else _variable(added)
    curve = None if inner is None else graph.producer(inner)
    scaled = graph.producer(curve.inputs[0]) if curve is not None and curve.is_op("Erf", "Tanh") else None
    argument = _variable(scaled) if scaled is not None and scaled.is_op("Mul", "Div") else None
    if curve is None or scaled is None or argument is None:
        return _NONE
    if curve.op == "Erf":
        names = _ERF_GELU_DIV if scaled.op == "Div" else _ERF_GELU
        return names if argument is value else _NONE
    total = graph.producer(argument)
    is_sum = total is not None and total.is_op("Add") and any(t is value for t in total.inputs)
    return _TANH_GELU if is_sum else _NONE


def _added_constant(node: Node) -> float | None:
    values = [v for t in node.inputs if (v := fixed_value(t)) is not None]
    return float(np.ravel(values[0])[0]) if len(values) == 1 and values[0].size == 1 else None


def _variable(node: Node) -> Tensor | None:
    """The one input that isn't a constant, of two."""
    found = [t for t in node.inputs if not isinstance(t, Constant)]
    return found[0] if len(found) == 1 and len(node.inputs) == 2 else None
