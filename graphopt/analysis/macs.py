"""Multiply-accumulates of linear layers, integer ones included, as a product of the sizes of a few axes.

Conv            result axes × weight axes from 1 on     each value of the result sums over one filter
ConvTranspose   data axes × weight axes from 1 on       each value of the data is spread by one filter
Gemm, MatMul    result axes × the data axis that is summed over
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod

from graphopt.ir import Graph, Node, Tensor
from graphopt.ir.ops import LINEAR

INTEGER_LINEAR: Mapping[str, str] = {
    "QLinearConv": "Conv",
    "ConvInteger": "Conv",
    "QLinearMatMul": "MatMul",
    "MatMulInteger": "MatMul",
}
"""Integer operator → the float operator whose shape rules it has."""


def linear_kind(node: Node) -> str | None:
    """Conv, ConvTranspose, Gemm or MatMul, also for their integer forms; None for other nodes."""
    if node.is_op(*LINEAR):
        return node.op
    return INTEGER_LINEAR.get(node.op) if node.is_standard else None


def mac_axes(
    node: Node, shapes: Mapping[str, Sequence[int]] | None = None
) -> list[tuple[Tensor, int, int | None]] | None:
    """The axes of a linear layer whose sizes multiply to its multiply-accumulates.

    Args:
        node: one that has a `linear_kind`.
        shapes: those of tensors for one sample, where the graph leaves them open.

    Returns:
        For each factor its tensor, its axis and its size; an unknown first dimension (the batch) counts as 1, another
        unknown one is None. None when a rank isn't known.
    """
    data, output = node.inputs[0], node.outputs[0]
    weight = node.inputs[3 if node.op.startswith("QLinear") else 1]
    match linear_kind(node):
        case "Conv":
            spans = [(output, slice(0, None)), (weight, slice(1, None))]
        case "ConvTranspose":
            spans = [(data, slice(0, None)), (weight, slice(1, None))]
        case "Gemm":
            spans = [(output, slice(0, None)), (data, slice(0, 1) if node.attr("transA", 0) else slice(1, 2))]
        case _:
            spans = [(output, slice(0, None)), (data, slice(-1, None))]
    found: list[tuple[Tensor, int, int | None]] = []
    for tensor, span in spans:
        sizes = sizes_of_sample(tensor, shapes)
        if sizes is None:
            return None
        found += [(tensor, axis, sizes[axis]) for axis in range(len(sizes))[span]]
    return found


def node_macs(node: Node, shapes: Mapping[str, Sequence[int]] | None = None) -> int | None:
    """Multiply-accumulates of one linear layer for one call, or None when a size isn't known."""
    axes = mac_axes(node, shapes)
    if axes is None:
        return None
    sizes = [size for _, _, size in axes if size is not None]
    return prod(sizes) if len(sizes) == len(axes) else None


def layer_macs(graph: Graph, shapes: Mapping[str, Sequence[int]] | None = None) -> dict[str, int | None]:
    """Multiply-accumulates of each linear layer, nested graphs included, by node name; None where sizes aren't known.

    `shapes`: those of tensors for one sample, where the graph leaves them open.
    """
    return {n.name: node_macs(n, shapes) for scope in graph.walk() for n in scope.nodes if linear_kind(n)}


def sizes_of_sample(tensor: Tensor, shapes: Mapping[str, Sequence[int]] | None = None) -> list[int | None] | None:
    """The size of each axis; 1 for an unknown first one (the batch), None for another. None when the rank isn't known.

    `shapes`: those of tensors for one sample, where the graph leaves them open.
    """
    shape = (shapes or {}).get(tensor.name) or tensor.shape
    if shape is None:
        return None
    return [dim if isinstance(dim, int) else 1 if axis == 0 else None for axis, dim in enumerate(shape)]
