"""The factors of Gemm go into its constants, and its bias becomes one value per column.

    alpha · x·W + beta · b      →      x·(alpha·W) + (beta·b)

Integer kernels of Gemm know no factors (onnxruntime's QGemm takes alpha alone, LiteRT's FULLY_CONNECTED neither), so
without this the layer would run in float. Declines: a factor other than 1 whose constant is known at run time only, or
that isn't finite in the constant's type; a bias that isn't the same in every row stays as it is.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from graphopt.ir import Graph, Node, fixed_value
from graphopt.ir.operands import static_shape
from graphopt.pipeline import Context, Pass


@dataclass(frozen=True)
class FoldGemmFactors(Pass):
    """Gemm with alpha and beta → Gemm without."""

    name: ClassVar[str] = "fold-gemm-factors"
    summary: ClassVar[str] = "alpha and beta of Gemm go into its constant weight and bias, one bias value per column"
    lossless: ClassVar[bool] = True

    def run(self, graph: Graph, ctx: Context) -> None:
        """Visit each Gemm."""
        for scope in graph.walk():
            for node in scope.live_nodes():
                if node.is_op("Gemm") and graph.opset >= 7:  # before, Gemm broadcasts in its own way
                    _drop_unread_bias(scope, node)
                    for factor, index in (("alpha", 1), ("beta", 2)):
                        _fold(scope, node, factor, index, ctx)
                    _write_out_bias(scope, node)


def _drop_unread_bias(graph: Graph, node: Node) -> None:
    """With beta 0, the bias isn't added at all (onnxruntime doesn't read it: not even NaN)."""
    if node.attr("beta", 1.0) == 0.0:
        if node.input(2) is not None:
            graph.remove_input(node, 2)
        graph.set_attr(node, "beta", None)


def _fold(graph: Graph, node: Node, factor: str, index: int, ctx: Context) -> None:
    by = float(node.attr(factor, 1.0))
    tensor = node.input(index)
    if by == 1.0 or tensor is None:
        return
    values = fixed_value(tensor)
    if values is None or values.dtype.kind != "f":
        what = "isn't a constant" if values is None else f"is {values.dtype}"
        ctx.remarks.declined(node, f"{factor} is {by:g} and '{tensor.name}' {what}")
        return
    with np.errstate(over="ignore"):
        scaled = (values.astype(np.float64) * by).astype(values.dtype)
    if not np.isfinite(scaled).all():
        ctx.remarks.declined(node, f"'{tensor.name}' times {factor} {by:g} isn't finite in {values.dtype}")
        return
    graph.set_input(node, index, graph.constant(scaled, tensor.name))
    graph.set_attr(node, factor, None)
    ctx.remarks.applied(node, f"{factor} {by:g} went into '{tensor.name}'")


def _write_out_bias(graph: Graph, node: Node) -> None:
    """A constant bias that is alike in every row as [columns]: the form that every backend takes."""
    bias, weight = node.input(2), static_shape(node.inputs[1].shape)
    values = fixed_value(bias)
    if bias is None or values is None or weight is None or len(weight) != 2:
        return
    columns = weight[0] if node.attr("transB", 0) else weight[1]
    if values.shape == (columns,) or not (values.size == 1 or values.shape == (1, columns)):
        return
    graph.set_input(node, 2, graph.constant(np.broadcast_to(values.reshape(-1), (columns,)).copy(), bias.name))
