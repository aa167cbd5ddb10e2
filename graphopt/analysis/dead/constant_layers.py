"""Output channels of linear operations and normalizations that hold one known value: see `constant_channels`."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from graphopt.analysis.channels.reads import Mask, WeightFacts, channel_reads, summed_weights
from graphopt.analysis.dead.constant_values import Values, collapsed
from graphopt.ir import FLOAT_TYPES, Graph, Node, Tensor, fixed_value
from graphopt.ir.linear import Linear, bias_add, bias_operand, linear_producer
from graphopt.ir.linear_edit import shift_hindrance
from graphopt.ir.ops import is_never_negative


def of_linear(linear: Linear, facts: WeightFacts, data: Values | None) -> Values | None:
    """Output channels that hear constant input channels only, or none."""
    output = linear.output.shape
    if output is None:
        return None
    if data is None:
        still, total = ~facts.hearing, np.zeros(linear.out_channels)
    else:
        still, total = _of_known(linear, data)
    bias = _bias(linear) if still.any() else None
    if bias is None:
        return None
    channels = [1] * len(output)
    channels[linear.output_channel_axis] = linear.out_channels
    return np.where(still, float(linear.node.attr("alpha", 1.0)) * total, np.nan).reshape(channels) + bias


def _of_known(linear: Linear, data: Values) -> tuple[Mask, NDArray[np.float64]]:
    """For each output channel whether it hears constants only, and the sum that it hears."""
    axis = linear.data_channel_axis % data.ndim
    line = collapsed(data, [a for a in range(data.ndim) if a != axis]).reshape(-1)
    values = np.broadcast_to(line, (linear.in_channels,)).astype(np.float64)
    # Padding brings zeros in beside the value, so that borders differ; with a weight per batch the results differ.
    hindered = shift_hindrance(linear) is not None or (linear.kind == "MatMul" and len(linear.weight.shape) > 2)
    moving = ~np.isfinite(values) | (hindered & (values != 0))
    reads, grouped = channel_reads(linear), (linear.groups, 1, linear.in_channels // linear.groups)
    heard = (reads & moving.reshape(grouped)) | np.isinf(values).reshape(grouped)  # 0 · ∞ isn't 0
    values = np.where(moving, 0.0, values)
    total = np.zeros(linear.out_channels)
    if values.any():
        with np.errstate(all="ignore"):
            total = np.where(reads, summed_weights(linear) * values.reshape(grouped), 0.0).sum(axis=2).reshape(-1)
    return ~heard.any(axis=2).reshape(-1), total


def never_positive(graph: Graph, tensor: Tensor, facts: Mapping[Node, WeightFacts]) -> Values | None:
    """0 in the channels of a linear operation's result that are certainly ≤ 0, NaN in the others; None without any.

    What is never negative, times weights that are never positive, plus such a bias: all addends have one sign, so that
    rounding can't change the sum's.
    """
    linear = linear_producer(graph, tensor)
    if linear is None or tensor.shape is None or facts[linear.node].raised.all():
        return None
    if not is_never_negative(linear.data):
        return None
    add = bias_add(graph, linear)
    bias = _bias(linear) if add is None else fixed_value(add.inputs[1 - bias_operand(add, linear.output)])
    if bias is None or float(linear.node.attr("alpha", 1.0)) <= 0:
        return None
    channels = [1] * len(tensor.shape)
    channels[linear.output_channel_axis] = linear.out_channels
    found = ~facts[linear.node].raised.reshape(channels) & (bias <= 0)
    return np.where(found, 0.0, np.nan) if found.any() else None


def _bias(linear: Linear) -> Values | None:
    """What is added to the result, shaped to broadcast against it; None when it isn't known."""
    tensor = None if linear.bias_index is None else linear.node.input(linear.bias_index)
    beta = float(linear.node.attr("beta", 1.0)) if linear.kind == "Gemm" else 1.0
    if tensor is None or beta == 0:
        return np.zeros(())
    value = fixed_value(tensor)
    if value is None or tensor.dtype not in FLOAT_TYPES:
        return None
    value = beta * value.astype(np.float64)
    return value.reshape(-1, *[1] * len(linear.kernel_shape)) if linear.is_conv else value


def of_normalization(node: Node, opset: int, data: Values | None) -> Values | None:
    """Its beta where gamma is 0, or gamma · (value − mean) / sqrt(var + epsilon) + beta with stored statistics."""
    shape, count = node.outputs[0].shape, 5 if node.op == "BatchNormalization" else 3
    parameters = [fixed_value(t) for t in node.inputs[1:count]]
    training = node.attr("training_mode", 0) or (opset < 7 and not node.attr("is_test", 0))
    if shape is None or len(shape) < 2 or any(p is None for p in parameters) or training:
        return None
    if not node.attr("spatial", 1):
        return None
    along = (1, -1, *[1] * (len(shape) - 2))
    gamma, beta, *statistics = (p.astype(np.float64).reshape(along) for p in parameters if p is not None)
    if not statistics:
        # The mean of equal values is the value up to rounding, which 1 / sqrt(epsilon) magnifies: only 0 is exact.
        same = (gamma == 0) if data is None else (gamma == 0) | (collapsed(data, tuple(range(2, data.ndim))) == 0)
        return np.where(same, beta, np.nan)
    mean, variance = statistics
    data = np.full((), np.nan) if data is None else data.astype(np.float64)
    with np.errstate(all="ignore"):
        scale = gamma / np.sqrt(variance + float(node.attr("epsilon", 1e-5)))
        return np.where((scale == 0) & ~np.isinf(data), beta, (data - mean) * scale + beta)
