"""Scale and zero point of a whole tensor as scalars, in nested graphs too.

QuantizeLinear(x, scale [1], zero_point [1])      →      QuantizeLinear(x, scale [], zero_point [])
"""

from __future__ import annotations

from graphopt.analysis.legality.grid import INT32, constant_value, read_grid
from graphopt.ir import Graph, Node


def scalar_scales(graph: Graph) -> None:
    """Rewrite every QuantizeLinear and DequantizeLinear whose one scale has shape [1]; biases are vectors, and stay."""
    for scope in graph.walk():
        for node in list(scope.nodes):
            if node.is_op("QuantizeLinear", "DequantizeLinear") and _is_of_whole_tensor(node):
                for index in (1, 2):
                    tensor = node.input(index)
                    value = constant_value(tensor)
                    if tensor is not None and value is not None and value.shape == (1,):
                        scope.set_input(node, index, scope.constant(value.reshape(()), tensor.name))


def _is_of_whole_tensor(node: Node) -> bool:
    if node.input(0) is None or node.input(1) is None:
        return False
    grid = read_grid(node)
    return grid.scale is not None and grid.axis is None and not grid.is_block and grid.dtype != INT32
