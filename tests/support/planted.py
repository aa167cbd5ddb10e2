"""Passes that do honest work on many nodes and have a bug in one: what bisection has to find."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from graphopt import Context, Graph, Pass


@dataclass(frozen=True)
class RewriteReluScaled(Pass):
    """Relu → Clip from 0, and a new array for each weight; that of `node` is multiplied by `factor`.

    `element`: only this one of its values; −1: all.
    """

    name: ClassVar[str] = "rewrite-relu"
    summary: ClassVar[str] = "Relu becomes Clip"
    lossless: ClassVar[bool] = True

    node: str = ""
    factor: float = 1.01
    element: int = -1

    def run(self, graph: Graph, ctx: Context) -> None:
        for scope in graph.walk():
            for node in scope.live_nodes():
                if node.is_op("Relu"):
                    clip = scope.variable_like(node.output())
                    zero = scope.constant(np.zeros((), np.float32), "zero")
                    scope.add_node("Clip", [node.inputs[0], zero], [clip])
                    if scope.replace_uses(node.output(), clip):
                        ctx.remarks.applied(node, "became a Clip")
                    scope.remove_unused([node])
                if node.is_op("Conv", "Gemm", "MatMul") and node.input(1) is not None:
                    weight = scope.own_constant(node, 1)
                    values = weight.values.copy()
                    if node.name in self.node.split("+"):
                        chosen = slice(None) if self.element < 0 else self.element
                        values.reshape(-1)[chosen] *= self.factor
                        ctx.remarks.applied(node, "has a new weight")
                    scope.set_values(weight, values)
