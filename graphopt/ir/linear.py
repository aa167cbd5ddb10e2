"""One view of every linear operation with a constant weight: Conv, ConvTranspose, Gemm and MatMul.

    result[channel] = Σ weight[channel, input channel, …] · data[input channel] + bias[channel]

`linear_view` says where data, weight and bias are and which axes hold channels; the methods of `Linear` bring
per-channel numbers and the weight into one layout, so that nothing else needs to know about groups, transB or the
ConvTranspose layout. Changing weight and bias is in `linear_edit`.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Any, Literal, cast

import numpy as np
from numpy.typing import NDArray

from graphopt.ir.dtypes import FLOAT_TYPES
from graphopt.ir.elements import Constant, Node, Tensor, Variable, is_fixed
from graphopt.ir.graph import Graph

LinearKind = Literal["Conv", "ConvTranspose", "Gemm", "MatMul"]


@dataclass(frozen=True)
class Linear:
    """A linear operation whose weight is an initializer.

    Attributes:
        data_index, weight_index: input positions of the activation and of the weight.
        bias_index: input position of the bias, whether there is one or not; None for MatMul, which has no such slot
            (see `bias_add`).
        weight: Conv [out, in/groups, k…], ConvTranspose [in, out/groups, k…], Gemm [in, out] or [out, in] (transB),
            MatMul […, in, out] when on the right, […, out, in] when on the left.
        out_axis, in_axis: weight axes of the output and input channels, ≥ 0. With groups, one of them holds the
            channels of one group only: out_axis of a ConvTranspose, in_axis of a Conv.
        out_channels, in_channels: over all groups.
        data_channel_axis, output_channel_axis: axis of the activation and of the result that holds channels; 1 for
            Conv and ConvTranspose; counted from the end (−1 or −2) for MatMul; 0 or 1 for Gemm.
    """

    node: Node
    kind: LinearKind
    data_index: int
    weight_index: int
    bias_index: int | None
    weight: Constant
    groups: int
    out_axis: int
    in_axis: int
    out_channels: int
    in_channels: int
    data_channel_axis: int
    output_channel_axis: int

    @property
    def data(self) -> Tensor:
        """The activation."""
        return self.node.inputs[self.data_index]

    @property
    def output(self) -> Variable:
        """The node's output, before the Add that holds a MatMul's bias."""
        return self.node.outputs[0]

    @property
    def is_conv(self) -> bool:
        """Conv or ConvTranspose: channels on axis 1, then spatial axes."""
        return self.kind in ("Conv", "ConvTranspose")

    @property
    def is_depthwise(self) -> bool:
        """Every input channel makes its own output channels."""
        return self.is_conv and self.groups > 1 and self.groups == self.in_channels

    @property
    def kernel_shape(self) -> tuple[int, ...]:
        """Spatial sizes of a convolution's kernel; () otherwise."""
        return self.weight.shape[2:] if self.is_conv else ()

    @property
    def grouped_shape(self) -> tuple[int, ...]:
        """The weight's shape with its groups as a leading axis (convolutions), else the weight's shape."""
        if not self.is_conv:
            return self.weight.shape
        first, *rest = self.weight.shape
        return (self.groups, first // self.groups, *rest)

    def along_output(self, values: NDArray[Any]) -> NDArray[Any]:
        """`values` [out_channels] shaped to broadcast against `grouped_shape`."""
        return self._along(values, self.out_axis)

    def along_input(self, values: NDArray[Any]) -> NDArray[Any]:
        """`values` [in_channels] shaped to broadcast against `grouped_shape`."""
        return self._along(values, self.in_axis)

    def by_output_channel(self, weight: NDArray[Any]) -> NDArray[Any]:
        """`weight` (shaped as the node's) rearranged to [out_channels, weights of that channel]."""
        return self._by(weight, self.out_axis, self.out_channels)

    def by_input_channel(self, weight: NDArray[Any]) -> NDArray[Any]:
        """`weight` (shaped as the node's) rearranged to [in_channels, weights that read that channel]."""
        return self._by(weight, self.in_axis, self.in_channels)

    def _along(self, values: NDArray[Any], axis: int) -> NDArray[Any]:
        shape = [1] * len(self.grouped_shape)
        if self.is_conv:
            shape[0], shape[axis + 1] = self.groups, len(values) // self.groups
        else:
            shape[axis] = len(values)
        return values.reshape(shape)

    def _by(self, weight: NDArray[Any], axis: int, channels: int) -> NDArray[Any]:
        grouped = weight.reshape(self.grouped_shape)
        front = np.moveaxis(grouped, (0, axis + 1), (0, 1)) if self.is_conv else np.moveaxis(grouped, axis, 0)
        return front.reshape(channels, weight.size // channels)


def linear_view(graph: Graph, node: Node) -> Linear | None:
    """The view of `node`; None unless it is a float linear operation whose weight is a fixed initializer.

    A weight that comes out of a Constant, Identity or DequantizeLinear node isn't an initializer. None too when the
    result has no channel axis (a 1-D MatMul weight), the rank that decides it is unknown, or shapes contradict.
    """
    if node.is_op("Conv", "ConvTranspose"):
        return _conv_view(node)
    if node.is_op("Gemm"):
        return _gemm_view(node)
    if node.is_op("MatMul"):
        return _matmul_view(node)
    return None


def linear_producer(graph: Graph, tensor: Tensor) -> Linear | None:
    """The linear operation whose result, bias included, is `tensor`, seen through the Add of a MatMul's bias."""
    node = graph.producer(tensor)
    if node is None:
        return None
    if not node.is_op("Add"):
        return linear_view(graph, node)
    for operand in node.inputs:
        matmul = graph.producer(operand)
        linear = linear_view(graph, matmul) if matmul is not None and matmul.is_op("MatMul") else None
        if linear is not None and bias_add(graph, linear) is node:
            return linear
    return None


def linear_result(graph: Graph, linear: Linear) -> Variable:
    """The result with the bias added: the output of the node, or of the Add that holds a MatMul's bias."""
    add = bias_add(graph, linear)
    return linear.output if add is None else add.outputs[0]


def bias_add(graph: Graph, linear: Linear) -> Node | None:
    """The Add of a constant that is a MatMul's bias, when it alone reads the MatMul."""
    if linear.kind != "MatMul":
        return None
    node = sole_reader(graph, linear.output)
    if node is None or not node.is_op("Add") or node.scope is not linear.node.scope:
        return None
    other = node.inputs[1 - bias_operand(node, linear.output)]
    constant = _fixed(other)
    axis = -linear.output_channel_axis
    if constant is None or (len(constant.shape) >= axis and constant.shape[-axis] not in (1, linear.out_channels)):
        return None
    return node


def sole_reader(graph: Graph, tensor: Tensor) -> Node | None:
    """The only node that reads the values of `tensor`, once; None when there are more, or it is a graph output.

    Unlike `Graph.sole_consumer` this passes over Shape and Size, which don't care what the values are.
    """
    readers = [node for node in tensor.outputs if not reads_shape_only(node)]
    return readers[0] if len(readers) == 1 and not graph.is_output(tensor) else None


def reads_shape_only(node: Node) -> bool:
    """Whether `node` asks for its input's shape and not for its values."""
    return node.is_op("Shape", "Size")


def bias_operand(add: Node, computed: Tensor) -> int:
    """Position of `computed` among the two inputs of `add`."""
    return 0 if add.inputs[0] is computed else 1


def _fixed(tensor: Tensor | None) -> Constant | None:
    return tensor if is_fixed(tensor) and tensor.dtype in FLOAT_TYPES else None


def _conv_view(node: Node) -> Linear | None:
    weight = _fixed(node.input(1))
    groups = cast(int, node.attr("group", 1))
    if weight is None or len(weight.shape) < 3 or 0 in weight.shape or weight.shape[0] % groups:
        return None
    kind: LinearKind = "Conv" if node.op == "Conv" else "ConvTranspose"
    first, second = weight.shape[0], weight.shape[1] * groups
    out_axis, out_channels, in_channels = (0, first, second) if kind == "Conv" else (1, second, first)
    return Linear(
        node, kind, 0, 1, 2, weight, groups, out_axis, 1 - out_axis, out_channels, in_channels,
        data_channel_axis=1, output_channel_axis=1,
    )  # fmt: skip


def _gemm_view(node: Node) -> Linear | None:
    trans_a, trans_b = bool(node.attr("transA", 0)), bool(node.attr("transB", 0))
    right = _fixed(node.input(1))
    left = _fixed(node.input(0))
    if (right is None) == (left is None):
        return None
    if right is not None:
        out_axis, weight, data_axis, output_axis = (0 if trans_b else 1), right, (0 if trans_a else 1), 1
    else:
        assert left is not None
        out_axis, weight, data_axis, output_axis = (1 if trans_a else 0), left, (1 if trans_b else 0), 0
    if len(weight.shape) != 2 or 0 in weight.shape:
        return None
    weight_index = 0 if right is None else 1
    return Linear(
        node, "Gemm", 1 - weight_index, weight_index, 2, weight, 1, out_axis, 1 - out_axis,
        weight.shape[out_axis], weight.shape[1 - out_axis], data_axis, output_axis,
    )  # fmt: skip


def _matmul_view(node: Node) -> Linear | None:
    right, left = _fixed(node.input(1)), _fixed(node.input(0))
    weight = left if right is None else right
    if weight is None or (right is not None and left is not None) or len(weight.shape) < 2 or prod(weight.shape) == 0:
        return None
    rank = len(weight.shape)
    weight_index = 0 if right is None else 1
    data = node.inputs[1 - weight_index]
    if weight_index == 0:
        if data.shape is None:
            return None  # a 1-D activation would make the channel axis the last one
        out_axis, in_axis = rank - 2, rank - 1
        data_axis = output_axis = -1 if len(data.shape) == 1 else -2
    else:
        out_axis, in_axis, data_axis, output_axis = rank - 1, rank - 2, -1, -1
    return Linear(
        node, "MatMul", 1 - weight_index, weight_index, None, weight, 1, out_axis, in_axis,
        weight.shape[out_axis], weight.shape[in_axis], data_axis, output_axis,
    )  # fmt: skip
