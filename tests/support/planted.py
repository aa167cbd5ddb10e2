"""Passes that do honest work on many nodes and have a bug in one: what bisection has to find."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from graphopt import Context, Graph, Pass
from graphopt.ir import Node
from graphopt.passes.fold_batch_norm import FoldBatchNorm
from graphopt.quant import Range


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


@dataclass(frozen=True)
class FoldBatchNormScaled(FoldBatchNorm):
    """Folds BatchNormalization, and gets the biases of the layers named in `node` (with + between) wrong."""

    name: ClassVar[str] = "fold-batch-norm-scaled"

    node: str = ""

    def run(self, graph: Graph, ctx: Context) -> None:
        super().run(graph, ctx)
        for scope in graph.walk():
            for node in scope.nodes:
                if node.name in self.node.split("+"):
                    bias = scope.own_constant(node, 2)
                    scope.set_values(bias, bias.values * np.float32(1.01))


@dataclass(frozen=True)
class InsertScales(Pass):
    """Puts a Mul by 1 behind each Relu, and one by 1.01 behind that of `node`."""

    name: ClassVar[str] = "insert-scales"
    summary: ClassVar[str] = "a Mul behind each Relu"
    lossless: ClassVar[bool] = True

    node: str = ""

    def run(self, graph: Graph, ctx: Context) -> None:
        for scope in graph.walk():
            for node in scope.live_nodes():
                if node.is_op("Relu") and not scope.is_output(node.output()):
                    factor = scope.constant(np.float32(1.01 if node.name == self.node else 1), "factor")
                    scaled = scope.variable_like(node.output())
                    readers = scope.uses(node.output())
                    scope.add_node("Mul", [node.output(), factor], [scaled])
                    for reader, index in readers:
                        scope.set_input(reader, index, scaled)


@dataclass(frozen=True)
class MoveFactor(Pass):
    """Halves what the Conv before a Relu makes and doubles what the one behind it reads: either alone is a loss.

    Layers are taken in pairs. The second weight of `node` gets 1.01 on top.
    """

    name: ClassVar[str] = "move-factor"
    summary: ClassVar[str] = "a factor moves from a layer to the next"
    lossless: ClassVar[bool] = True

    node: str = ""

    def run(self, graph: Graph, ctx: Context) -> None:
        taken: set[Node] = set()
        for relu in [node for node in graph.nodes if node.is_op("Relu")]:
            first, second = graph.producer(relu.inputs[0]), graph.sole_consumer(relu.output())
            if first is None or second is None or not (first.is_op("Conv") and second.is_op("Conv")):
                continue
            if not taken.isdisjoint((first, second)):
                continue
            taken |= {first, second}
            for index in (1, 2):
                constant = graph.own_constant(first, index)
                graph.set_values(constant, constant.values / np.float32(2))
            weight = graph.own_constant(second, 1)
            graph.set_values(weight, weight.values * np.float32(2.02 if second.name == self.node else 2))


@dataclass(frozen=True)
class RuinRange(Pass):
    """Widens the planned range of one tensor a hundredfold."""

    name: ClassVar[str] = "ruin-range"
    summary: ClassVar[str] = "a range that is far too wide"

    tensor: str

    def run(self, graph: Graph, ctx: Context) -> None:
        entry = graph.plan.tensors[self.tensor]
        assert entry.range is not None
        graph.plan.set_range(self.tensor, Range(entry.range.low * 100, entry.range.high * 100))


@dataclass(frozen=True)
class Crash(Pass):
    """Fails."""

    name: ClassVar[str] = "crash"
    summary: ClassVar[str] = "fails"

    def run(self, graph: Graph, ctx: Context) -> None:
        raise RuntimeError("planted")
