"""Put a per-channel scale and shift into the weight and bias of a linear operation.

    s·(W·x + b) + t  =  (s·W)·x + (s·b + t)         on its result: `affine_output`
    W·(s·x + t) + b  =  (W·s)·x + (b + W·t)         on its activation: `affine_input`

Both only compute: they answer a `LinearEdit` to apply, or `Declined` with the reason, so that a caller who changes
several operations at once can ask all of them first. Arithmetic is in float64 and rounded once to the type stored.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graphopt.ir.dtypes import FLOAT_TYPES
from graphopt.ir.elements import Node, is_fixed
from graphopt.ir.graph import Graph
from graphopt.ir.linear import Linear, bias_add, bias_operand

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Declined:
    """Why a rewrite isn't possible, in words that go into a remark."""

    reason: str


@dataclass(frozen=True)
class LinearEdit:
    """New weight and bias of one linear operation; None where it stays as it is.

    `bias` is what the bias input is to hold (for Gemm before the factor beta), shaped to broadcast against the result.
    `bias_slot` is that input as (node, position), filled or not; None for a MatMul that no bias is added to.
    """

    linear: Linear
    weight: NDArray[Any] | None
    bias: NDArray[Any] | None
    bias_slot: tuple[Node, int] | None

    @property
    def node(self) -> Node:
        """The operation."""
        return self.linear.node

    def apply(self, graph: Graph) -> None:
        """Write them; constants that others read too are copied first, a missing bias is created."""
        linear = self.linear
        scope = linear.node.scope or graph
        if self.weight is not None:
            scope.set_values(scope.own_constant(linear.node, linear.weight_index), self.weight)
        if self.bias is None:
            return
        if self.bias_slot is None:
            _append_add(scope, linear, self.bias)
            return
        node, index = self.bias_slot
        if not is_fixed(node.input(index)):  # missing, or computed and ignored: beta is 0
            scope.set_input(node, index, scope.constant(self.bias, f"{linear.output.name}_bias"))
        else:
            scope.set_values(scope.own_constant(node, index), self.bias)
        if linear.kind == "Gemm" and node.attr("beta", 1.0) == 0.0:
            scope.set_attr(node, "beta", 1.0)


def affine_output(
    graph: Graph, linear: Linear, scale: Floats | None = None, shift: Floats | None = None
) -> LinearEdit | Declined:
    """The edit after which the result is `scale`·result + `shift`; both [out_channels], None for 1 and 0.

    The result is that of `linear_result`: for a MatMul, after the Add that holds its bias. Who reads the result isn't
    looked at: the caller answers for that.
    """
    bias = _bias_values(graph, linear)
    if isinstance(bias, Declined):
        return bias
    weight: Floats | None = None
    with np.errstate(all="ignore"):
        if scale is not None:
            weight = _weight_values(linear) * linear.along_output(scale)
            bias = None if bias is None else bias * _along_result(linear, scale)
        if shift is not None and shift.any():
            bias = _sum(bias, _along_result(linear, shift) / _beta(linear))
        elif scale is None:
            bias = None
    return _edit(graph, linear, weight, bias)


def affine_input(
    graph: Graph, linear: Linear, scale: Floats | None = None, shift: Floats | None = None
) -> LinearEdit | Declined:
    """The edit after which the operation gives on x what it gave on `scale`·x + `shift`; both [in_channels].

    A scale is always exact. A shift isn't where zeros are padded in (they are not shifted), nor in a ConvTranspose,
    whose positions sum different numbers of kernel taps.
    """
    weight = _weight_values(linear)
    bias: Floats | None = None
    with np.errstate(all="ignore"):
        if shift is not None and shift.any():
            reason = shift_hindrance(linear)
            if reason is not None:
                return Declined(reason)
            old = _bias_values(graph, linear)
            if isinstance(old, Declined):
                return old
            bias = _sum(old, _response(linear, weight, shift) / _beta(linear))
        scaled = None if scale is None else weight * linear.along_input(scale)
    return _edit(graph, linear, scaled, bias)


def shift_hindrance(linear: Linear) -> str | None:
    """Why a constant added to the activation doesn't amount to a constant added to the result; None when it does."""
    node = linear.node
    if linear.kind == "MatMul" and len(linear.weight.shape) > 2:
        shape = linear.data.shape
        if shape is None or len(shape) < 2:
            return "its weight has batch axes and the activation's rank isn't known to be 2 or more"
    if not linear.is_conv:
        return None
    pointwise = all(k == 1 for k in linear.kernel_shape)
    if linear.kind == "ConvTranspose":
        plain = not any(node.attr("output_padding", [])) and node.attr("output_shape") is None
        if not (pointwise and plain and all(s == 1 for s in node.attr("strides", [1]))):
            return "it is a ConvTranspose, where a shift of the input isn't the same at every position"
    auto_pad = node.attr("auto_pad", "NOTSET")
    # SAME pads so that ceil(in / stride) windows fit; windows of one element need none.
    padded = not pointwise if auto_pad.startswith("SAME") else auto_pad != "VALID" and any(node.attr("pads", [0]))
    return "it pads with zeros, which the shift doesn't reach" if padded else None


def rounded(values: Floats, dtype: np.dtype[Any]) -> NDArray[Any] | None:
    """`values` as `dtype`; None when one isn't finite there."""
    with np.errstate(all="ignore"):
        result = values.astype(dtype)
    return result if np.isfinite(result.astype(np.float64)).all() else None


def _edit(graph: Graph, linear: Linear, weight: Floats | None, bias: Floats | None) -> LinearEdit | Declined:
    dtype = linear.weight.dtype
    new_weight = None if weight is None else rounded(weight, dtype)
    new_bias = None if bias is None else rounded(bias, dtype)
    if (weight is not None and new_weight is None) or (bias is not None and new_bias is None):
        return Declined(f"the weight or bias of {linear.node} would hold values that aren't finite in {dtype}")
    shaped = None if new_weight is None else new_weight.reshape(linear.weight.shape)
    return LinearEdit(linear, shaped, new_bias, _bias_slot(graph, linear))


def _weight_values(linear: Linear) -> Floats:
    """The weight in float64, shaped `grouped_shape`."""
    return linear.weight.values.astype(np.float64).reshape(linear.grouped_shape)


def _bias_slot(graph: Graph, linear: Linear) -> tuple[Node, int] | None:
    """(node, input position) of the bias, filled or not; None for a MatMul that no bias is added to."""
    if linear.bias_index is not None:
        return linear.node, linear.bias_index
    add = bias_add(graph, linear)
    return None if add is None else (add, 1 - bias_operand(add, linear.output))


def _bias_values(graph: Graph, linear: Linear) -> Floats | Declined | None:
    """The bias in float64 as stored, None when there is none."""
    slot = _bias_slot(graph, linear)
    if slot is None:
        return None
    tensor = slot[0].input(slot[1])
    if tensor is None or (linear.kind == "Gemm" and linear.node.attr("beta", 1.0) == 0.0):
        return None
    if not is_fixed(tensor) or tensor.dtype not in FLOAT_TYPES:
        return Declined(f"the bias '{tensor.name}' of {linear.node} isn't a fixed initializer")
    return tensor.values.astype(np.float64)


def _beta(linear: Linear) -> float:
    """Gemm multiplies its bias input by beta; a beta of 0 is set to 1 when a bias is written."""
    return float(linear.node.attr("beta", 1.0)) or 1.0 if linear.kind == "Gemm" else 1.0


def _along_result(linear: Linear, values: Floats) -> Floats:
    """`values` [out_channels] shaped to broadcast against the bias, and that against the result."""
    if linear.kind == "Gemm" and linear.output_channel_axis == 0:
        return values[:, None]
    return values[:, None] if linear.output_channel_axis == -2 else values


def _response(linear: Linear, weight: Floats, shift: Floats) -> Floats:
    """W·shift, what a constant input adds to the result, shaped to broadcast against the bias."""
    products = weight * linear.along_input(shift)
    if linear.kind == "MatMul" and len(linear.weight.shape) > 2:
        return products.sum(axis=linear.in_axis, keepdims=True)
    total = linear.by_output_channel(products.reshape(linear.weight.shape)).sum(axis=1)
    alpha = float(linear.node.attr("alpha", 1.0)) if linear.kind == "Gemm" else 1.0
    return _along_result(linear, alpha * total)


def _sum(bias: Floats | None, addend: Floats) -> Floats:
    return addend if bias is None else bias + addend


def _append_add(scope: Graph, linear: Linear, bias: NDArray[Any]) -> None:
    """The result becomes Add(MatMul(…), bias): the MatMul gets a new output, so that the result keeps its tensor."""
    result = linear.output
    product = scope.variable_like(result, f"{result.name}_product")
    linear.node.outputs[0] = product
    scope.add_node("Add", [product, scope.constant(bias, f"{result.name}_bias")], [result])
