"""Values that come from integers: token ids, classes, one-hot vectors, rows of an embedding, pixels stored as bytes.

    ids ─▶ Gather(E) ─▶ Add(P) ─▶ y          min E + min P … max E + max P, whichever rows samples asked for
    x (uint8) ─▶ Cast ─▶ Mul(1/255)          0 … 1
    ids ─▶ Equal, OneHot ─▶ Cast             0 … 1
    ids (int64) ─▶ Cast ─▶ Unsqueeze         −∞ … ∞: the largest id of some samples says nothing of the others

What samples show of such values is chance, and a range made of it clips what they didn't show. What is computed from
them by a linear operator or another curve isn't followed: that is an activation like any other.
"""

from __future__ import annotations

from math import inf

import numpy as np

from graphopt.analysis.channels.affine import affine_op
from graphopt.ir import FLOAT_TYPES, Constant, Graph, Node, Tensor, fixed_value
from graphopt.ir.linear_edit import Declined
from graphopt.ir.operands import parameter
from graphopt.ir.ops import MOVES_VALUES

Bounds = tuple[float, float]
UNBOUNDED: Bounds = (-inf, inf)

_GATHERS = ("Gather", "GatherElements", "GatherND")
_CURVES: dict[str, Bounds] = {"Cos": (-1, 1), "Sigmoid": (0, 1), "Sin": (-1, 1), "Softmax": (0, 1), "Tanh": (-1, 1)}
# Integers this small are taken for pixels, flags or classes, whose whole range 8 bits can cover.
_SMALL = frozenset(np.dtype(t) for t in (np.bool_, np.int8, np.uint8))


def integer_values(graph: Graph) -> dict[Tensor, Bounds]:
    """What each such variable of the main graph can hold, in floats and integers; linear in the graph's size.

    Where only some of a tensor's values come from integers (a Concat with others), the bounds are those of these alone.
    """
    found: dict[Tensor, Bounds] = {}
    for tensor in graph.inputs:
        own = _of_type(tensor)
        if own is not None:
            found[tensor] = own
    for node in graph.nodes:
        results = node.present_outputs()
        bounds = _bounds(node, found)
        for tensor in results:
            own = _of_type(tensor)
            if bounds is not None:
                found[tensor] = bounds if own is None else _cut(bounds, own)
            elif own is not None:
                found[tensor] = own
    return found


def is_finite(bounds: Bounds) -> bool:
    """Whether both ends are known."""
    return -inf < bounds[0] and bounds[1] < inf


def _of_type(tensor: Tensor) -> Bounds | None:
    """What an integer type can hold, without end for wide ones; None for other types."""
    if tensor.dtype is None or tensor.dtype in FLOAT_TYPES or tensor.dtype.kind not in "biu":
        return None
    if tensor.dtype not in _SMALL:
        return UNBOUNDED
    if tensor.dtype == np.bool_:
        return 0.0, 1.0
    held = np.iinfo(tensor.dtype)
    return float(held.min), float(held.max)


def _bounds(node: Node, found: dict[Tensor, Bounds]) -> Bounds | None:
    """Of the node's results, by what is known of its operands; None where it isn't followed."""
    if not node.is_standard or not node.inputs:
        return None
    first = found.get(node.inputs[0])
    if node.is_op("OneHot"):
        return _extremes(node.inputs[2])
    if node.is_op(*_GATHERS) and isinstance(node.inputs[0], Constant):
        return _extremes(node.inputs[0]) if node.inputs[1] in found else None
    if node.is_op("Concat", "Where"):
        return _any_of(node.inputs if node.op == "Concat" else node.inputs[1:], found)
    if node.is_op("Add", "Sub", "Mul", "Div", "Neg"):
        return _combined(node, found)
    if first is None:
        return None
    if node.is_op(*_CURVES):
        return _CURVES[node.op]
    if node.is_op("Relu"):
        return _cut(first, (0.0, inf))
    if node.is_op("Clip"):
        low, high = (parameter(node, name, i) for name, i in (("min", 1), ("max", 2)))
        return _cut(first, (-inf if low is None else float(low), inf if high is None else float(high)))
    if node.is_op("Pad"):
        filled = parameter(node, "value", 2)
        value = 0.0 if filled is None else float(filled)
        return min(first[0], value), max(first[1], value)
    return first if node.is_op("Cast", *MOVES_VALUES) else None


def _combined(node: Node, found: dict[Tensor, Bounds]) -> Bounds | None:
    """Of sums, and of products with constants; with a range without end in a sum, the sum has none either."""
    affine = affine_op(node)
    if affine is not None and not isinstance(affine, Declined):
        bounds = found.get(node.inputs[affine[0]])
        if bounds is None or not is_finite(bounds):
            return None if bounds is None else UNBOUNDED
        ends = np.concatenate([affine[1].scale * end + affine[1].shift for end in bounds])
        return float(ends.min()), float(ends.max())
    if not node.is_op("Add", "Sub"):
        return None
    both = [found.get(t) or (_extremes(t) if isinstance(t, Constant) else None) for t in node.inputs]
    if any(b is not None and not is_finite(b) for b in both):
        return UNBOUNDED
    left, right = both
    if left is None or right is None or not any(t in found for t in node.inputs):
        return None
    if node.op == "Sub":
        right = (-right[1], -right[0])
    return left[0] + right[0], left[1] + right[1]


def _any_of(tensors: list[Tensor], found: dict[Tensor, Bounds]) -> Bounds | None:
    known = [found[t] for t in tensors if t in found]
    return None if not known else (min(low for low, _ in known), max(high for _, high in known))


def _extremes(tensor: Tensor) -> Bounds | None:
    """Smallest and largest value of a constant; None when it has none, or some aren't finite."""
    values = fixed_value(tensor)
    if values is None or not values.size or not np.isfinite(values).all():
        return None
    return float(values.min()), float(values.max())


def _cut(bounds: Bounds, to: Bounds) -> Bounds:
    low, high = (min(max(end, to[0]), to[1]) for end in bounds)
    return low, high
