"""Stored weights in another precision: the float values that their integers, or halves, stand for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from graphopt.ir import Constant, Graph, Node
from graphopt.ir.float_parameters import LOW_FLOATS
from graphopt.ir.linear import linear_view
from graphopt.quant import Range, dequantize, quantize, round_balanced, solve_params
from graphopt.quant.block_scales import block_scheme, fitting_block, solve_blocks
from graphopt.targets import planned_target

Use: TypeAlias = tuple[str, int]
"""Name of a node, and index of one of its inputs."""

Stored: TypeAlias = dict[Use, NDArray[np.float32]]

_BLOCK = 32  # what `quantize-weights` has by default
_FLOAT32 = np.dtype(np.float32)


def stored_in(graph: Graph, tensor: Constant, nodes: Sequence[Node], precision: str, covered: Range | None) -> Stored:
    """The uses of a constant by some nodes that read it in a precision, with the values that it then has.

    Args:
        graph: with the all-8-bit plan.
        tensor: a constant of it.
        nodes: those that may read it.
        precision: none for float32 gives nothing.
        covered: the range that the plan has for it; None where it isn't planned.
    """
    if tensor.dtype != _FLOAT32:
        return {}
    uses = [(node, index) for node in nodes for index, operand in node.present_inputs() if operand is tensor]
    if precision in ("int8", "int16x8"):
        entry = graph.plan.tensors.get(tensor.name)
        if entry is None or covered is None:
            return {}
        planned = {(edge.node, edge.index) for edge in entry.edges}
        uses = [(node, index) for node, index in uses if (node.name, index) in planned]
        params = solve_params(covered, entry.scheme)
        return _at(uses, lambda: dequantize(round_balanced(tensor.values, params), params))
    if precision == "int4-weights":
        return _in_blocks(graph, tensor, uses)
    low = precision.removesuffix("-weights")
    return _at(uses, lambda: rounded_to(tensor.values, low)) if low in LOW_FLOATS else {}


def rounded_to(values: NDArray[Any], form: str) -> NDArray[np.float32]:
    """The values as float16 or bfloat16 has them."""
    with np.errstate(over="ignore", under="ignore"):
        return values.astype(LOW_FLOATS[form]).astype(np.float32)


def _in_blocks(graph: Graph, tensor: Constant, uses: Sequence[tuple[Node, int]]) -> Stored:
    """4 bits, a scale for each block along the axis that is summed over."""
    axes = [_summed_axis(graph, node, index) for node, index in uses]
    axis = next((axis for axis in axes if axis is not None), None)
    if axis is None:
        return {}
    rule = planned_target(graph.plan).block_weights if graph.plan.target else None
    size = fitting_block(tensor.shape[axis], _BLOCK, divides=rule is not None and not rule.sizes) or _BLOCK
    params = solve_blocks(tensor.values, block_scheme(axis, size))
    return _at(
        [use for use, found in zip(uses, axes, strict=True) if found == axis],
        lambda: dequantize(quantize(tensor.values, params), params),
    )


def _summed_axis(graph: Graph, node: Node, index: int) -> int | None:
    """The axis of a linear operator's weight that it sums over; None for a convolution, and for other operands."""
    linear = linear_view(graph, node)
    if linear is None or linear.weight_index != index or linear.is_conv:
        return None
    return linear.in_axis % len(linear.weight.shape)


def _at(uses: Sequence[tuple[Node, int]], values: Callable[[], NDArray[np.float32]]) -> Stored:
    """The same array at all of the uses; it isn't computed where there is none."""
    if not uses:
        return {}
    found = values()
    return {(node.name, index): found for node, index in uses}
