"""Which channels of which activations hold one known value, whatever the inputs of the model are.

    Conv with a row of zero weights      its bias                     Relu, Sigmoid, …    the function of the value
    BatchNormalization with gamma = 0    its beta                     Add, Mul, …         of two of them
    x · 0, Relu of what is always ≤ 0    0                            Concat, Split, …    carry them along
    Conv of such channels alone          bias + Σ weight · value      MaxPool, mean, …    the value

What is known of a tensor is an array that broadcasts against it (`constant_values`), so that elementwise operators
broadcast as numpy does, and a channel axis that was split or moved needs nothing special.

Inputs of the model and everything computed from them are taken as finite: 0 times ∞ isn't 0. Values are those of the
original arithmetic up to float rounding (an engine's mean of 49 equal values may differ from them in the last bit).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from graphopt.analysis.channels.reads import WeightFacts, stored_values, weight_facts
from graphopt.analysis.coupling.groups import Slot
from graphopt.analysis.dead.constant_layers import never_positive, of_linear, of_normalization
from graphopt.analysis.dead.constant_moves import MOVES
from graphopt.analysis.dead.constant_rules import RULES, concatenated, elementwise, split, zero_lines, zero_product
from graphopt.analysis.dead.constant_values import Known, Values, collapsed
from graphopt.ir import FLOAT_TYPES, Graph, Node, Tensor, Variable, is_fixed
from graphopt.ir.linear import linear_view
from graphopt.ir.operands import parameter
from graphopt.ir.ops import ELEMENTWISE_BINARY, ELEMENTWISE_UNARY

# A Flatten of maps of 112·112 is 800,000 values; what is larger is known by axis only where it doesn't differ.
_MAX_VALUES = 1 << 20


@dataclass(frozen=True)
class ConstantChannels:
    """What is known.

    Attributes:
        values: activations of the main graph of which anything is known; see the module.
        unheard: linear operations whose weights are 0 for some of their input channels.
    """

    values: Mapping[Tensor, Values]
    unheard: tuple[Node, ...]

    def along(self, slot: Slot) -> NDArray[np.float64]:
        """For each element of the slot its value over all other axes, NaN where there isn't one: [size]."""
        size = slot.tensor.shape[slot.axis] if slot.tensor.shape is not None else None
        if not isinstance(size, int):
            raise ValueError(f"the size of {slot} isn't known")
        values = self.values.get(slot.tensor)
        if values is None:
            return np.full(size, np.nan)
        line = collapsed(values, tuple(axis for axis in range(values.ndim) if axis != slot.axis)).reshape(-1)
        return np.broadcast_to(line, (size,)).astype(np.float64)


def constant_channels(graph: Graph) -> ConstantChannels:
    """Walk the main graph once, in its order; needs types and shapes filled in.

    Weights are read once, and only activations with something known cost more than that.
    """
    known: dict[Tensor, Values] = {}
    facts: dict[Node, WeightFacts] = {}
    for node in graph.nodes:
        linear = linear_view(graph, node)
        if linear is not None:
            facts[node] = weight_facts(linear)
            results = [of_linear(linear, facts[node], known.get(linear.data))]
        else:
            results = _results(graph, node, known, facts)
        for output, values in zip(node.outputs, results, strict=False):
            kept = None if values is None else _fitting(output, values)
            if kept is not None:
                known[output] = kept
    return ConstantChannels(known, tuple(node for node, said in facts.items() if not said.heard.all()))


def _results(
    graph: Graph, node: Node, known: Mapping[Tensor, Values], facts: Mapping[Node, WeightFacts]
) -> list[Values | None]:
    """What is known of each output of an operation without fixed weights."""
    if not node.is_standard or any(True for _ in node.bodies()):
        return []
    if node.is_op("BatchNormalization", "InstanceNormalization"):
        return [of_normalization(node, graph.opset, known.get(node.inputs[0]))]
    if node.is_op("MatMul"):
        return [zero_lines(_operands(node, known))]
    if node.is_op("Mul") and not node.attr("broadcast"):
        zero = zero_product(_operands(node, known, factors=True))
        if zero is not None:
            both = elementwise(node, _operands(node, known), graph.opset)
            return [zero if both is None else np.where(np.isnan(zero), both, zero)]
    data = known.get(node.inputs[0]) if node.inputs else None
    if _cuts_below_zero(node):
        # Whatever is at most 0 comes out as 0 does.
        below = never_positive(graph, node.inputs[0], facts)
        if below is not None:
            data = below if data is None else np.where(np.isnan(data), below, data)
        if data is not None and node.op != "Clip":
            return [elementwise(node, [data], graph.opset)]
    if data is not None and node.is_op("Split"):
        return split(node, data)
    if data is not None and node.op in MOVES:
        return [MOVES[node.op](node, data)]
    if data is not None and node.op in RULES:
        return [RULES[node.op](node, data, graph.opset)]
    if not any(t in known for t in node.inputs):
        return []
    if node.is_op("Concat"):
        return [concatenated(node, _operands(node, known))]
    if node.op in ELEMENTWISE_UNARY | ELEMENTWISE_BINARY:
        return [elementwise(node, _operands(node, known), graph.opset)]
    return []


def _cuts_below_zero(node: Node) -> bool:
    """Whether the node gives the same for 0 and for everything below."""
    if node.is_op("Clip"):
        low = parameter(node, "min", 1)
        return low is not None and bool((low >= 0).all())
    return node.is_op("Relu") or (node.is_op("ThresholdedRelu") and node.attr("alpha", 1.0) >= 0)


def _operands(node: Node, known: Mapping[Tensor, Values], *, factors: bool = False) -> Known:
    """What is known of each input; with `factors`, of constants only when they hold a 0 or ∞."""
    found: list[Values | None] = []
    for tensor in node.inputs:
        value = known.get(tensor)
        if is_fixed(tensor) and tensor.dtype in FLOAT_TYPES:
            stored = stored_values(tensor)
            value = None if factors and stored.all() and np.isfinite(stored).all() else stored
        found.append(value)
    return found


def _fitting(output: Variable, values: Values) -> Values | None:
    """`values` as they are kept for `output`; None when nothing is known, or the output's type isn't."""
    shape = output.shape
    if output.is_empty() or output.dtype not in FLOAT_TYPES or shape is None or values.ndim > len(shape):
        return None
    values = values.reshape((1,) * (len(shape) - values.ndim) + values.shape).astype(output.dtype, copy=False)
    unlike = tuple(axis for axis, size in enumerate(values.shape) if size not in (1, shape[axis]))
    values = collapsed(values, unlike)
    for axis in reversed(range(values.ndim)):
        if values.size <= _MAX_VALUES:
            break
        values = collapsed(values, (axis,))
    return None if np.isnan(values).all() else values
