"""What nodes add up, and what the magnitudes of it come to at most: an engine may do it in 16 bits.

    y = Σ w·x fits, though Σ |w·x| doesn't: then a sum in float16 may overflow on the way, whatever its order

TensorRT has kernels with accumulators of both types for float16 operands ("there are 3 precisions in each kernel:
input, accumulator and output", NVIDIA/TensorRT issue 1237); its plans don't say which is taken, and no document does.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from graphopt.ir import Constant, Graph, Node
from graphopt.ir.linear import linear_view
from graphopt.ir.operands import static_shape
from graphopt.ir.ops import LINEAR

_MEANS = frozenset({"AveragePool", "GlobalAveragePool", "ReduceMean"})
_PLAIN_SUMS = frozenset({"CumSum", "ReduceL1", "ReduceSum"})
_OTHER_SUMS = frozenset({"ReduceLogSumExp"})
_SUMS_OF_SQUARES = frozenset(
    {"GroupNormalization", "InstanceNormalization", "LayerNormalization", "RMSNormalization"}
    | {"ReduceL2", "ReduceSumSquare"}
)
_PRODUCTS = "it adds up {:,} products"


@dataclass(frozen=True)
class Sum:
    """What a node adds up for one of its results.

    Attributes:
        count: how many values, or products.
        bound: what their magnitudes come to at most.
        text: the same in words.
        measurable: its operator applied to magnitudes gives what they really come to, times `factor`.
        factor: what a mean is divided by.
    """

    count: int
    bound: float
    text: str
    measurable: bool
    factor: float = 1.0


def summed(graph: Graph, node: Node, largest: Mapping[str, float]) -> Sum | None:
    """What a node adds up; None where it adds nothing up, or that isn't known.

    Args:
        graph: shapes filled in as far as they are known.
        node: of its main graph.
        largest: name of a tensor → its largest magnitude.
    """
    if node.is_op(*LINEAR):
        return _products(graph, node, largest)
    count = _values(node)
    top = largest.get(node.inputs[0].name) if count is not None else None
    if count is None or top is None:
        return None
    squares = node.op in _SUMS_OF_SQUARES
    text = f"it adds up {count:,} {'squares of ' if squares else ''}values up to {top:.3g}"
    bound = count * (top * top if squares else top)
    return Sum(count, bound, text, node.op in _MEANS | _PLAIN_SUMS, count if node.op in _MEANS else 1.0)


def _products(graph: Graph, node: Node, largest: Mapping[str, float]) -> Sum | None:
    """Products of an activation and a weight, or of two activations; the bias counts too."""
    linear = linear_view(graph, node)
    if linear is None:
        tops = [largest.get(t.name) for t in node.inputs[:2]]
        inner = node.inputs[0].shape[-1] if node.is_op("MatMul") and node.inputs[0].shape else None
        if tops[0] is None or tops[1] is None or not isinstance(inner, int):
            return None
        return Sum(inner, inner * tops[0] * tops[1], _PRODUCTS.format(inner), True)
    top = largest.get(linear.data.name)
    if top is None:
        return None
    weight = np.abs(linear.weight.values.astype(np.float32))
    others = tuple(axis for axis in range(weight.ndim) if axis != linear.out_axis)
    count = weight.size // max(1, weight.shape[linear.out_axis])
    bias = node.input(2)
    added = float(np.abs(bias.values).max(initial=0)) if isinstance(bias, Constant) else 0.0
    scale = abs(float(node.attr("alpha", 1.0)))
    bound = scale * top * float(weight.sum(axis=others, dtype=np.float64).max(initial=0)) + added
    return Sum(count, bound, _PRODUCTS.format(count), True)


def _values(node: Node) -> int | None:
    """How many values a node adds up for each of its results; None where it adds none, or that isn't known."""
    if node.op not in _MEANS | _PLAIN_SUMS | _OTHER_SUMS | _SUMS_OF_SQUARES or not node.is_standard:
        return None
    if node.is_op("AveragePool"):
        return math.prod(node.attr("kernel_shape", [1]))
    shape = static_shape(node.inputs[0].shape)
    result = static_shape(node.outputs[0].shape)
    if shape is None or result is None:
        known = [d for d in node.inputs[0].shape or () if isinstance(d, int)]
        return math.prod(known[1:]) if known else None
    if math.prod(result) == math.prod(shape):  # a normalization: over all but the batch at most
        return max(1, math.prod(shape[1:]))
    return max(1, math.prod(shape) // max(1, math.prod(result)))
