"""Strides of pointwise convolutions in front of them, for an engine that would move them away from the integers.

    DQ ─▶ Conv 1×1, stride 2        →        DQ ─▶ MaxPool 1×1, stride 2 ─▶ Conv 1×1

Both read every second value and no other. OpenVINO moves strides that all readers have past the DequantizeLinear, to
between its Convert and its Multiply, and then no longer sees that the convolutions read integers: they run in float.
"""

from __future__ import annotations

from graphopt.ir import Graph, Node
from graphopt.ir.operands import static_shape


def split_strides(graph: Graph, node: Node) -> bool:
    """Take the strides of a pointwise convolution in front of it where all that read its data have them, too.

    False, and no change, where `node` is no such convolution.
    """
    strides = _pointwise_strides(node)
    if strides is None or any(_pointwise_strides(reader) != strides for reader in graph.consumers(node.inputs[0])):
        return False
    data = node.inputs[0]
    taken = graph.variable(f"{data.name}_taken", data.dtype, None)
    attrs = {"kernel_shape": [1] * len(strides), "strides": list(strides)}
    graph.add_node("MaxPool", [data], [taken], attrs, hint=f"{node.name}_strides")
    for reader in graph.consumers(data):
        if reader.is_op("Conv"):
            graph.set_input(reader, 0, taken)
            # The result has the same size: with a kernel of 1 every automatic padding is 0.
            graph.set_attr(reader, "strides", None)
            graph.set_attr(reader, "auto_pad", None)
    return True


def _pointwise_strides(node: Node) -> tuple[int, ...] | None:
    """Strides of a convolution whose kernel is 1 in all directions; None where they are 1, or it is none."""
    strides = tuple(node.attr("strides", ()))
    kernel = static_shape(node.inputs[1].shape) if node.is_op("Conv") else None
    if kernel is None or max(strides, default=1) == 1 or any(node.attr("pads", ())):
        return None
    return strides if all(size == 1 for size in kernel[2:]) else None
