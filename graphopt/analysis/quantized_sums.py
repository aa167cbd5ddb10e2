"""Sums of a residual path that are read quantized, and the dense layers that read them.

    x ─┬─▶ … ─▶ w ─▶ Add ─▶ Relu ─▶ s ─▶ Conv
       └──────────────▲
Where one channel of x is a thousand times larger than w (massive activations), the 8-bit grid of s has no steps for w,
nor for the other channels of x. Its ratio of signal to noise doesn't show it, since the large channel is the signal;
what the layers behind make of it does, where their weights even the channels out again.
"""

from __future__ import annotations

from graphopt.ir import Constant, Graph, Node, Tensor
from graphopt.ir.linear import linear_producer, linear_view
from graphopt.ir.ops import RESHAPES

_PASSES = RESHAPES | {"Clip", "Identity", "LeakyRelu", "Relu", "Transpose"}


def quantized_sums(graph: Graph) -> dict[Tensor, tuple[Node, ...]]:
    """Each such planned tensor that a dense Conv, Gemm or MatMul reads, with these readers; linear in the plan."""
    known = graph.tensors()
    nodes = {node.name: node for node in graph.nodes}
    found: dict[Tensor, tuple[Node, ...]] = {}
    for entry in graph.plan:
        tensor = known[entry.tensor]
        readers = [nodes[e.node] for e in entry.edges if e.node in nodes]
        dense = tuple(dict.fromkeys(n for n in readers if _is_dense(graph, n)))
        if dense and _is_sum(graph, tensor):
            found[tensor] = dense
    return found


def _is_dense(graph: Graph, node: Node) -> bool:
    linear = linear_view(graph, node)
    return linear is not None and not linear.is_depthwise


def _is_sum(graph: Graph, tensor: Tensor) -> bool:
    """Whether it is x + w, behind an activation or what moves values at most."""
    maker = graph.producer(tensor)
    while maker is not None and maker.is_op(*_PASSES):
        maker = graph.producer(maker.inputs[0])
    if maker is None or not maker.is_op("Add", "Sum") or len(maker.inputs) < 2:
        return False
    constant = any(isinstance(t, Constant) for t in maker.inputs)
    return not constant and linear_producer(graph, maker.outputs[0]) is None
