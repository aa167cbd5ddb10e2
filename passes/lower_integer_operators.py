"""Operators that compute with integers themselves become float ones between Q/DQ, the form that every engine reads.

    y_q = QLinearConv(x_q, s_x, z_x, W_q, s_w, z_w, s_y, z_y, b_q)
        →   y_q = Q(Conv(DQ(x_q, s_x, z_x), DQ(W_q, s_w, z_w), DQ(b_q, s_x · s_w)), s_y, z_y)
    y_q = MaxPool(x_q)      →      y_q = Q(MaxPool(DQ(x_q)))           and others that only move values

onnxruntime's own QLinearAdd, QGemm … likewise. That is how the specification defines QLinearConv and QLinearMatMul,
up to the rounding of a result that lies halfway between two integers. Declines: scales known at run time only where a
bias needs them, ConvInteger and MatMulInteger (their results stay integers), what isn't known here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from graphopt.ir import Graph, Node, Tensor, Variable, fixed_value
from graphopt.ir.ops import RESHAPES
from graphopt.pipeline import Context, Pass

_FLOAT = np.dtype(np.float32)
_EIGHT_BITS = frozenset({np.dtype(np.int8), np.dtype(np.uint8)})
_MOVERS = RESHAPES | {
    *("Concat", "DepthToSpace", "Expand", "Gather", "Identity", "MaxPool", "Slice", "SpaceToDepth", "Split"),
    "Transpose",
}


@dataclass(frozen=True)
class _Form:
    """Where an integer operator has its operands: each (values, scale, zero point), as input positions.

    `weight` is which operand may have a scale per channel, `bias` the position of an int32 bias.
    """

    op: str
    operands: tuple[int, ...]
    result: int
    weight: int | None = None
    bias: int | None = None


_FORMS: dict[tuple[str, str], _Form] = {
    ("", "QLinearConv"): _Form("Conv", (0, 3), 6, weight=1, bias=8),
    ("", "QLinearMatMul"): _Form("MatMul", (0, 3), 6, weight=1),
    ("com.microsoft", "QGemm"): _Form("Gemm", (0, 3), 7, weight=1, bias=6),
    ("com.microsoft", "QLinearAdd"): _Form("Add", (0, 3), 6),
    ("com.microsoft", "QLinearMul"): _Form("Mul", (0, 3), 6),
    ("com.microsoft", "QLinearAveragePool"): _Form("AveragePool", (0,), 3),
    ("com.microsoft", "QLinearGlobalAveragePool"): _Form("GlobalAveragePool", (0,), 3),
    ("com.microsoft", "QLinearLeakyRelu"): _Form("LeakyRelu", (0,), 3),
    ("com.microsoft", "QLinearSigmoid"): _Form("Sigmoid", (0,), 3),
    ("com.microsoft", "QLinearSoftmax"): _Form("Softmax", (0,), 3),
    ("com.microsoft", "QLinearConcat"): _Form("Concat", (), 0),
}
# Attributes that only the integer form has: layouts and versions, which have to be the usual ones.
_OWN_ATTRIBUTES = {"channels_last": 0, "opset": None}


@dataclass(frozen=True)
class LowerIntegerOperators(Pass):
    """QLinearConv and the like → DQ, float operator, Q."""

    name: ClassVar[str] = "lower-integer-operators"
    summary: ClassVar[str] = "QLinearConv, QLinearMatMul, QGemm … become float operators between Q/DQ"

    def run(self, graph: Graph, ctx: Context) -> None:
        """Visit the main graph in order; integers that are moved take the grid of what they were."""
        grids: dict[Tensor, tuple[Tensor, Tensor]] = {}
        for node in graph.live_nodes():
            form = _FORMS.get((node.domain if node.domain != "ai.onnx" else "", node.op))
            scale, zero_point = node.input(1), node.input(2)
            if node.is_op("QuantizeLinear") and scale is not None and zero_point is not None:
                grids[node.outputs[0]] = (scale, zero_point)
            elif form is not None:
                self._lower(graph, ctx, node, form, grids)
            elif node.is_op(*_MOVERS) or (node.is_op("Resize") and node.attr("mode", "nearest") == "nearest"):
                _lift_mover(graph, node, grids)

    def _lower(
        self, graph: Graph, ctx: Context, node: Node, form: _Form, grids: dict[Tensor, tuple[Tensor, Tensor]]
    ) -> None:
        positions = form.operands or tuple(range(2, len(node.inputs), 3))
        result_scale, result_zero = node.input(form.result), node.input(form.result + 1)
        triples = [[node.input(p + k) for k in range(3)] for p in positions]
        attrs = {name: value for name, value in node.attrs.items() if name not in _OWN_ATTRIBUTES}
        if any(node.attr(name, usual) != usual and usual is not None for name, usual in _OWN_ATTRIBUTES.items()):
            ctx.remarks.declined(node, "its channels are last")
            return
        if any(t is None for triple in triples for t in triple[:2]) or (result_scale is None and form.op != "Gemm"):
            ctx.remarks.declined(node, "an operand or its scale is missing")
            return
        bias = None if form.bias is None else node.input(form.bias)
        bias_scale = None if bias is None else _product(triples[0][1], triples[1][1])
        if bias is not None and bias_scale is None:
            ctx.remarks.declined(node, "the scales that its bias is counted in are known at run time only")
            return
        inputs: list[Tensor] = []
        for k, (values, scale, zero_point) in enumerate(triples):
            assert values is not None
            assert scale is not None
            axis = _channel_axis(node, values) if k == form.weight and scale.shape not in ((), (1,)) else None
            inputs.append(_dequantized(graph, values, scale, zero_point, axis))
        if bias is not None and bias_scale is not None:
            zeros = graph.constant(np.zeros(bias_scale.shape, np.int32), f"{bias.name}_zero_point")
            scale = graph.constant(bias_scale, f"{bias.name}_scale")
            inputs.append(_dequantized(graph, bias, scale, zeros, 0 if bias_scale.ndim else None))
        output = node.outputs[0]
        # QGemm without a result scale writes float already.
        real = graph.variable(f"{output.name}_real", _FLOAT, output.shape)
        graph.add_node(form.op, inputs, [real], attrs, hint=node.name)
        if result_scale is None:
            written = real
        else:
            # Inference knows nothing of onnxruntime's own operators: their type is that of the zero point.
            dtype = output.dtype if result_zero is None else result_zero.dtype
            written = graph.variable(output.name, dtype, output.shape)
            scalars = [_scalar(graph, t) for t in (result_scale, result_zero) if t is not None]
            graph.add_node("QuantizeLinear", [real, *scalars], [written], hint=f"{output.name}_QuantizeLinear")
            if result_zero is not None:
                grids[written] = (result_scale, result_zero)
        graph.replace_uses(output, written)
        graph.remove(node)
        ctx.remarks.applied(node, f"is {form.op} between QuantizeLinear and DequantizeLinear now")


def _lift_mover(graph: Graph, node: Node, grids: dict[Tensor, tuple[Tensor, Tensor]]) -> None:
    """Move values as floats, where integers that come from one grid were moved."""
    indices = [0] if node.op != "Concat" else [i for i, _ in node.present_inputs()]
    sources = [node.inputs[i] for i in indices]
    known = [grids.get(t) for t in sources]
    if known[0] is None or known[0][1].dtype not in _EIGHT_BITS or len(node.present_outputs()) != 1:
        return
    if any(k is None or not _alike(k, known[0]) for k in known):
        return
    scale, zero_point = known[0]
    for index, tensor in zip(indices, sources, strict=True):
        graph.set_input(node, index, _dequantized(graph, tensor, scale, zero_point, None))
    output = node.outputs[0]
    written = graph.variable(output.name, zero_point.dtype, output.shape)
    if not graph.replace_uses(output, written):
        return
    graph.set_type(output, _FLOAT, output.shape)
    inputs = [output, _scalar(graph, scale), _scalar(graph, zero_point)]
    graph.add_node("QuantizeLinear", inputs, [written], hint=f"{output.name}_QuantizeLinear")
    grids[written] = known[0]


def _alike(one: tuple[Tensor, Tensor], other: tuple[Tensor, Tensor]) -> bool:
    for a, b in zip(one, other, strict=True):
        left, right = fixed_value(a), fixed_value(b)
        if a is not b and (left is None or right is None or not np.array_equal(left.reshape(-1), right.reshape(-1))):
            return False
    return True


def _dequantized(graph: Graph, values: Tensor, scale: Tensor, zero_point: Tensor | None, axis: int | None) -> Variable:
    output = graph.variable(f"{values.name}_dequantized", _FLOAT, values.shape)
    inputs = [values, scale, *([] if zero_point is None else [zero_point])]
    if axis is None:
        inputs[1:] = [_scalar(graph, t) for t in inputs[1:]]
    attrs = {} if axis is None else {"axis": axis}
    graph.add_node("DequantizeLinear", inputs, [output], attrs, hint=f"{values.name}_DequantizeLinear")
    return output


def _scalar(graph: Graph, tensor: Tensor) -> Tensor:
    """A constant of one value with rank 0."""
    value = fixed_value(tensor)
    return (
        tensor
        if value is None or value.ndim == 0 or value.size != 1
        else graph.constant(value.reshape(()), tensor.name)
    )


def _channel_axis(node: Node, weight: Tensor) -> int:
    """The axis of a weight's output channels."""
    if node.op == "QLinearConv":
        return 0
    if node.op == "QGemm":
        return 0 if node.attr("transB", 0) else 1
    return len(weight.shape or (0, 0)) - 1


def _product(one: Tensor | None, other: Tensor | None) -> np.ndarray | None:
    left, right = fixed_value(one), fixed_value(other)
    if left is None or right is None:
        return None
    product = (left.reshape(-1) * right.reshape(-1)).astype(np.float32)
    return product.reshape(()) if product.size == 1 else product
