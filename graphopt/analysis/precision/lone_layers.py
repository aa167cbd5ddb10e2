"""Float32 layers that stand alone between Casts from and to a 16-bit type, which some engines compute in that type.

    x: f16 → Cast → Conv: f32 (→ Add of a constant) → Cast → y: f16      in TensorRT-RTX: Conv: f16

What only moves values may lie between. Anything else that computes in between prevents it, a Clip without bounds too.
"""

from __future__ import annotations

from graphopt.ir import Constant, Graph, Node, Tensor
from graphopt.ir.dtypes import numpy_dtype
from graphopt.ir.float_parameters import LOW_FLOATS
from graphopt.ir.ops import LINEAR, MOVES_VALUES

_LOW = frozenset(LOW_FLOATS.values())


def lone_layer(graph: Graph, cast: Node) -> Node | None:
    """The linear node that a Cast to 16 bits ends, and that reads what was cast from 16 bits; None where there is none.

    Args:
        graph: its types known as far as such layers are to be found.
        cast: any node of it.
    """
    if not cast.is_op("Cast") or numpy_dtype(int(cast.attr("to", 0))) not in _LOW:
        return None
    node = graph.producer(cast.inputs[0])
    while node is not None and not node.is_op(*LINEAR):
        variables = [t for t in node.inputs if not isinstance(t, Constant)]
        if not node.is_op("Add", *MOVES_VALUES) or len(variables) != 1:
            return None
        node = graph.producer(variables[0])
    return node if node is not None and any(_was_low(graph, t) for t in node.inputs) else None


def _was_low(graph: Graph, tensor: Tensor) -> bool:
    """Whether a Cast from 16 bits makes it, but for moves of its values."""
    node = graph.producer(tensor)
    while node is not None and node.is_op(*MOVES_VALUES):
        node = graph.producer(node.inputs[0])
    return node is not None and node.is_op("Cast") and node.inputs[0].dtype in _LOW
