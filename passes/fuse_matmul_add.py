"""A fully connected layer as one operator.

    t = MatMul(x: [M,K], W: [K,N]); y = Add(t, b)      →      y = Gemm(x, W, b)

For backends that have a kernel for Gemm with a bias and none for MatMul + Add: the target says so. Gemm takes two axes
only. Declines: x with another or unknown number of axes, W or b known at run time only, a b that isn't one value per
column, MatMul's result read elsewhere, types that Gemm doesn't take, opset 6 and before.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from graphopt.ir import Graph, Node, Tensor, fixed_value
from graphopt.ir.operands import static_shape
from graphopt.pipeline import Context, Pass

_TYPES = frozenset(np.dtype(t) for t in (np.float16, np.float32, np.float64))


@dataclass(frozen=True)
class FuseMatMulAdd(Pass):
    """MatMul + Add → Gemm."""

    name: ClassVar[str] = "fuse-matmul-add"
    summary: ClassVar[str] = "MatMul by a constant matrix and Add of a constant bias become one Gemm"
    lossless: ClassVar[bool] = True

    def run(self, graph: Graph, ctx: Context) -> None:
        """Visit each MatMul that an Add reads, unless the target says it runs them as well."""
        if ctx.target is not None and not ctx.target.fuse_matmul_add:
            ctx.remarks.note(None, f"{ctx.target.title} runs MatMul + Add as well as Gemm")
            return
        for scope in graph.walk():
            for node in scope.live_nodes():
                if node.is_op("MatMul"):
                    _fuse(scope, node, ctx)


def _fuse(graph: Graph, matmul: Node, ctx: Context) -> None:
    product = matmul.outputs[0]
    adds = [n for n in graph.consumers(product) if n.is_op("Add")]
    if not adds or fixed_value(matmul.inputs[1]) is None:
        return  # not a fully connected layer with a bias
    add = adds[0]
    bias = add.inputs[1] if add.inputs[0] is product else add.inputs[0]
    reason = _refusal(graph, matmul, add, bias)
    if reason is not None:
        ctx.remarks.declined(matmul, reason)
        return
    values, columns = fixed_value(bias), _columns(matmul.inputs[1])
    if values is not None and values.shape != (columns,):
        # One value per column, written out: the form that every backend takes.
        bias = graph.constant(np.broadcast_to(values.reshape(-1), (columns,)).copy(), bias.name)
    result = graph.variable_like(add.outputs[0])
    graph.add_node("Gemm", [matmul.inputs[0], matmul.inputs[1], bias], [result], hint=matmul.name)
    graph.replace_uses(add.outputs[0], result)
    graph.remove(add)
    graph.remove(matmul)
    ctx.remarks.applied(matmul, f"fused with {add} into a Gemm")


def _columns(weight: Tensor) -> int:
    shape = static_shape(weight.shape) or (0,)
    return shape[-1]


def _refusal(graph: Graph, matmul: Node, add: Node, bias: Tensor) -> str | None:
    data, weight = matmul.inputs
    if graph.opset < 7:
        return "before opset 7 Gemm broadcasts in its own way"
    if graph.sole_consumer(matmul.outputs[0]) is not add or add.scope is not graph:
        return f"its result '{matmul.outputs[0].name}' is read by others than {add}"
    if data.shape is None or len(data.shape) != 2 or len(weight.shape or ()) != 2:
        axes = "an unknown number of" if data.shape is None else len(data.shape)
        return f"Gemm takes two axes, '{data.name}' has {axes}"
    if weight.dtype not in _TYPES:
        return f"Gemm doesn't take {weight.dtype} everywhere"
    values = fixed_value(bias)
    if values is None:
        return f"the other operand of {add} isn't a constant"
    columns = _columns(weight)
    if values.ndim > 2 or values.size not in (1, columns) or (values.ndim == 2 and values.shape[0] != 1):
        return f"'{bias.name}' of shape {list(values.shape)} isn't one value for each of the {columns} columns"
    return None
