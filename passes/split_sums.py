"""A Sum becomes a chain of Add, the residual operator that targets have integer kernels for.

    Sum(a, b, c)      →      Add(Add(a, b), c)

Older exporters (Caffe2, CNTK) write residual connections so. Sum broadcasts as Add does and adds from left to right in
onnxruntime, so the bits stay the same. A Sum of one tensor is left to `remove-noops`. Before opset 8 Sum has another
meaning (no broadcasting), and nothing is done.

Source: ONNX operator specification, Sum-8 and Add-7.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from graphopt.ir import Graph, Node
from graphopt.pipeline import Context, Pass


@dataclass(frozen=True)
class SplitSums(Pass):
    """Sum of two or more → Add."""

    name: ClassVar[str] = "split-sums"
    summary: ClassVar[str] = "a Sum of several tensors becomes a chain of Add, which has integer kernels"
    lossless: ClassVar[bool] = True

    def run(self, graph: Graph, ctx: Context) -> None:
        """Visit each Sum."""
        if graph.opset < 8:
            return
        for scope in graph.walk():
            for node in scope.live_nodes():
                if node.is_op("Sum") and len(node.inputs) > 1:
                    _split(scope, node, ctx)


def _split(graph: Graph, node: Node, ctx: Context) -> None:
    operands, result = list(node.inputs), node.outputs[0]
    total = operands[0]
    for operand in operands[1:-1]:
        partial = graph.variable(f"{result.name}_partial", result.dtype)
        graph.add_node("Add", [total, operand], [partial])
        total = partial
    node.outputs[0] = graph.variable_like(result, f"{result.name}_unused")
    graph.add_node("Add", [total, operands[-1]], [result], hint=node.name)
    ctx.remarks.applied(node, f"a sum of {len(operands)} became {len(operands) - 1} Add")
    graph.remove(node)
