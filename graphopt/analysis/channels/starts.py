"""Where classes of channels start: operations whose constants take up any scale of each channel of the result."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from graphopt.analysis.channels.affine import affine_op
from graphopt.ir import Graph, Node, fixed_value
from graphopt.ir.linear import Linear, bias_add, bias_operand
from graphopt.ir.linear_edit import Declined

FLOAT32 = np.dtype(np.float32)
_HUGE = 1e30


def weight_hindrance(graph: Graph, linear: Linear) -> str | None:
    """Why weight and bias can't take up scales, or None."""
    if linear.weight.dtype != FLOAT32:
        return f"the weight of {linear.node} is {linear.weight.dtype}"
    if len(linear.weight.outputs) > 1 or graph.is_output(linear.weight):
        return f"the weight '{linear.weight.name}' of {linear.node} is used elsewhere too"
    if not is_scalable(linear.weight.values):
        return f"the weight of {linear.node} holds huge values"
    add = bias_add(graph, linear)
    bias = None if linear.bias_index is None else linear.node.input(linear.bias_index)
    if add is not None:
        bias = add.inputs[1 - bias_operand(add, linear.output)]
    value = fixed_value(bias)
    if bias is not None and (value is None or not is_scalable(value)):
        return f"the bias '{bias.name}' of {linear.node} isn't a fixed float32 initializer, or holds huge values"
    return None


def is_scalable(values: NDArray[Any]) -> bool:
    """Whether scaling by any sensible factor keeps float32 finite."""
    return values.dtype == FLOAT32 and bool(values.size == 0 or -_HUGE < values.min() <= values.max() < _HUGE)


def affine_source(node: Node) -> tuple[int, int, list[int]] | None:
    """(axis, channels, indices of the constants that take up a scale) where `node` ends in a scale per channel."""
    shape = node.outputs[0].shape
    if shape is None or node.outputs[0].dtype != FLOAT32:
        return None
    if node.is_op("LayerNormalization"):
        scale = fixed_value(node.input(1))
        indices = [i for i, _ in node.present_inputs() if i in (1, 2)]
        constants = [fixed_value(node.input(i)) for i in indices]
        if scale is None or scale.ndim != 1 or not all(v is not None and is_scalable(v) for v in constants):
            return None
        last = int(node.attr("axis", -1)) % len(shape) == len(shape) - 1
        return (len(shape) - 1, len(scale), indices) if last else None
    found = affine_op(node) if node.is_op("Mul") else None
    if found is None or isinstance(found, Declined) or found[1].axis is None:
        return None
    index, affine = 1 - found[0], found[1]
    value = fixed_value(node.inputs[index])
    axis = None if value is None or not is_scalable(value) else affine.axis
    return None if axis is None else (axis, len(affine.scale), [index])
