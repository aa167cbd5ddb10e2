"""Turn the plan into QuantizeLinear / DequantizeLinear pairs and, where the target wants it, an int32 bias.

    Conv(x, W_dq, b)      →      Conv(DQ(Q(x)), W_dq, DQ(b_q)) → Q → DQ,      b_q = round(b / (s_x · s_w))

Scale and zero point of a whole tensor have rank 0: with shape [1] TensorRT-RTX builds every Conv in float without a
word, and onnxruntime refuses some models. Tensors of one group share their scale and zero point constants. Uses that
the plan doesn't list keep reading the float tensor; a graph output keeps its name.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from graphopt.errors import ConfigError
from graphopt.ir import Constant, Graph, Node, Tensor, Variable, fixed_value
from graphopt.ir.operands import static_shape
from graphopt.passes._kept_apart import keep_apart
from graphopt.passes._strided_pointwise import split_strides
from graphopt.pipeline import Context, Pass
from graphopt.quant import Range, TensorPlan, solve_params
from graphopt.targets import planned_target


@dataclass(frozen=True)
class InsertQdq(Pass):
    """Materialise the plan's activations."""

    name: ClassVar[str] = "insert-qdq"
    summary: ClassVar[str] = "turn the plan into QuantizeLinear/DequantizeLinear nodes"

    def run(self, graph: Graph, ctx: Context) -> None:
        """Insert the pairs; the plan keeps which nodes run in integers, its tensors are used up."""
        if not graph.plan:
            return
        target = planned_target(graph.plan)
        tensors = graph.tensors()
        nodes = {n.name: n for scope in graph.walk() for n in scope.nodes}
        if left := [e.tensor for e in graph.plan if isinstance(tensors[e.tensor], Constant)]:
            raise ConfigError(f"constant '{left[0]}' is planned but float: put 'quantize-weights' before 'insert-qdq'")
        inserter = _Inserter(graph, nodes)
        for entry in list(graph.plan):
            tensor = tensors[entry.tensor]
            assert isinstance(tensor, Variable)  # constants were ruled out above
            inserter.insert(entry, tensor)
            if entry.tensor in graph.plan.second:
                inserter.insert_second(graph.plan.second[entry.tensor])
        graph.plan.tensors.clear()
        graph.plan.second.clear()
        for name in graph.plan.quantized_nodes:
            if target.at(graph.plan.precisions.get(name)).bias == "int32":
                quantize_bias(graph, nodes[name], ctx)
        if target.shared_result_bias is not None:
            for name in graph.plan.quantized_nodes:
                _give_bias(graph, nodes[name], target.shared_result_bias, ctx)
        if target.mistakes_products:
            for node in list(graph.nodes):
                if keep_apart(graph, node):
                    ctx.remarks.applied(
                        node, f"kept apart from what is behind it: {target.title} mistakes its type else"
                    )
        if target.moves_strides:
            for name in graph.plan.quantized_nodes:
                if split_strides(graph, nodes[name]):
                    ctx.remarks.applied(nodes[name], f"its strides are in front: {target.title} runs it in float else")
        ctx.remarks.note(None, f"{inserter.pairs} Q/DQ pairs inserted")


class _Inserter:
    def __init__(self, graph: Graph, nodes: dict[str, Node]) -> None:
        self.graph, self.nodes = graph, nodes
        self.pairs = 0
        self.shared: dict[tuple[str, str], tuple[Constant, Constant]] = {}
        try:
            self.ranges, self.second = graph.plan.solved_ranges(), graph.plan.second_ranges()
        except KeyError as missing:
            raise ConfigError(f"tensor {missing} has no range yet: put 'calibrate' before 'insert-qdq'") from None

    def insert_second(self, entry: TensorPlan) -> None:
        """Q/DQ of another width for some uses, behind the first one where all uses read that."""
        first = entry.edges[0]
        source = self.nodes[first.node].inputs[first.index]
        assert isinstance(source, Variable)
        self.insert(entry, source, self._constants(entry, self.second))

    def insert(self, entry: TensorPlan, tensor: Variable, grid: tuple[Constant, Constant] | None = None) -> None:
        """Q/DQ behind `tensor`, read by the planned uses."""
        if not entry.edges and not entry.is_output:
            return
        graph = self.graph
        uses = dict.fromkeys((self.nodes[e.node], e.index) for e in entry.edges)
        kept = [use for use in graph.uses(tensor) if use not in uses]
        stem = tensor.name
        scale, zero_point = grid or self._constants(entry, self.ranges)
        quantized = graph.variable(f"{stem}_quantized", np.dtype(entry.scheme.dtype), tensor.shape)
        dequantized = graph.variable(f"{stem}_dequantized", tensor.dtype, tensor.shape)
        graph.add_node(
            "DequantizeLinear", [quantized, scale, zero_point], [dequantized], hint=f"{stem}_DequantizeLinear"
        )
        if entry.is_output:
            # Takes the output's name and all uses along; those that stay float are pointed back below.
            graph.replace_uses(tensor, dequantized)
            for node, index in kept:
                graph.set_input(node, index, tensor)
        else:
            for node, index in uses:
                graph.set_input(node, index, dequantized)
        graph.add_node("QuantizeLinear", [tensor, scale, zero_point], [quantized], hint=f"{stem}_QuantizeLinear")
        self.pairs += 1

    def _constants(self, entry: TensorPlan, ranges: dict[str, Range]) -> tuple[Constant, Constant]:
        """Scale and zero point of rank 0, made once for a group."""
        name = entry.group or entry.tensor
        key = name, entry.scheme.dtype
        if key not in self.shared:
            params = solve_params(ranges[entry.tensor], entry.scheme)
            self.shared[key] = (
                self.graph.constant(params.scale, f"{name}_scale"),
                self.graph.constant(params.zero_point, f"{name}_zero_point"),
            )
        return self.shared[key]


def quantize_bias(graph: Graph, node: Node, ctx: Context) -> None:
    """Store the constant bias of a quantized linear node as int32 in units of s_x · s_w, zero point 0.

    A MatMul's bias is in the Add behind it; onnxruntime makes both one Gemm, whose integer kernel wants it so as well.
    """
    slot = _bias_slot(graph, node)
    if slot is None:
        return
    reader, index = slot
    tensor = reader.inputs[index]
    bias = fixed_value(tensor)
    data_scale, weight_scale = _dq_scale(graph, node.input(0)), _dq_scale(graph, node.input(1))
    if bias is None:
        ctx.remarks.declined(node, "its bias is not a constant, so it stays float")
        return
    if node.attr("alpha", 1.0) != 1.0 or node.attr("beta", 1.0) != 1.0:
        ctx.remarks.declined(node, "its bias stays float: alpha and beta must be 1 for an int32 bias")
        return
    if data_scale is None or weight_scale is None or data_scale.size != 1:
        return
    scale = (data_scale.reshape(()) * weight_scale).astype(np.float32).reshape(-1)
    if weight_scale.ndim == 0 and node.op != "MatMul":
        scale = np.repeat(scale, bias.size)  # one scale for the whole weight
    if bias.size not in (1, scale.size) and (bias.size % scale.size or node.op != "ConvTranspose"):
        ctx.remarks.declined(node, f"its bias of shape {bias.shape} stays float: expected one value per output channel")
        return
    size = max(bias.size, scale.size)
    flat = np.broadcast_to(bias.reshape(-1), (size,)).astype(np.float64)
    scale = np.tile(scale, size // scale.size)
    q = np.clip(np.rint(flat / scale), -(2**31), 2**31 - 1).astype(np.int32)
    stored = graph.constant(q, f"{tensor.name}_quantized")
    scales = graph.constant(scale, f"{tensor.name}_scale")
    zero_points = graph.constant(np.zeros(size, np.int32), f"{tensor.name}_zero_point")
    output = graph.variable(f"{tensor.name}_dequantized", np.dtype(np.float32), (size,))
    attrs = {"axis": 0}
    graph.add_node("DequantizeLinear", [stored, scales, zero_points], [output], attrs, hint=f"{tensor.name}_dequantize")
    graph.set_input(reader, index, output)


def _give_bias(graph: Graph, node: Node, value: float, ctx: Context) -> None:
    """A bias for a convolution that has none, or zeros, and whose result has several readers."""
    if not node.is_op("Conv", "ConvTranspose") or graph.sole_consumer(node.outputs[0]) is not None:
        return
    old = node.input(2)
    values = fixed_value(old)
    if old is not None and (values is None or values.any()):
        return
    shape = static_shape(node.inputs[1].shape)
    if shape is None:
        return
    channels = shape[0] if node.is_op("Conv") else shape[1] * int(node.attr("group", 1))
    bias = graph.constant(np.full(channels, value, np.float32), f"{node.name}_bias")
    graph.set_input(node, 2, bias)
    ctx.remarks.applied(
        node, f"got a bias of {value:g}: {planned_target(graph.plan).title} needs one where a result has many readers"
    )


def _bias_slot(graph: Graph, node: Node) -> tuple[Node, int] | None:
    """The input that holds the bias of a linear node: its own third, or a MatMul's Add behind it."""
    if node.is_op("Conv", "ConvTranspose", "Gemm"):
        return None if node.input(2) is None else (node, 2)
    add = graph.sole_consumer(node.outputs[0]) if node.is_op("MatMul") else None
    if add is None or not add.is_op("Add"):
        return None
    index = 1 if add.inputs[0] is node.outputs[0] else 0
    other = add.inputs[index]
    # [1, …, N] or [N]: along the last axis, which holds a MatMul's output channels.
    along_last = isinstance(other, Constant) and other.shape[-1:] == (int(np.prod(other.shape)),)
    return (add, index) if along_last else None


def _dq_scale(graph: Graph, tensor: Tensor | None) -> NDArray[Any] | None:
    """The scale of the DequantizeLinear that makes `tensor`, or None."""
    node = None if tensor is None else graph.producer(tensor)
    return None if node is None or not node.is_op("DequantizeLinear") else fixed_value(node.input(1))
