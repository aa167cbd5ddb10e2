"""Weights of matrix products in 4 bits: which ones can be, and what is put in their place.

    MatMul(x, W)      →      MatMul(x, DequantizeLinear(W_q, s, axis=0, block_size=32))

W_q is int4 (or uint4 with zero points), two in a byte; each block along the summed axis has a scale of its own. A Gemm
whose weight is [out, in] keeps it so, with axis 1, where the target takes that; else the weight is turned over. Nodes
that share a weight get integers of their own: onnxruntime fuses neither where a constant has two readers.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graphopt.errors import UnsupportedError
from graphopt.ir import Constant, Graph, Node, fill_types, upgrade_graph
from graphopt.ir.block_weights import INT4_WEIGHTS
from graphopt.ir.conditions import unmet
from graphopt.ir.linear import Linear, linear_view
from graphopt.pipeline import Context
from graphopt.quant import QuantParams, Scheme, quantize
from graphopt.quant.block_scales import LEAST_BLOCK, block_scheme, fitting_block, solve_blocks
from graphopt.targets import Target
from graphopt.targets.spec import BlockRule

_OPERATORS = frozenset({"Gemm", "MatMul"})
# The first opset whose DequantizeLinear has 4-bit integers and blocks.
OPSET = 21
# Without a target: any block, and positive scales, which no engine minds.
_PORTABLE = BlockRule(sizes=(16, 32, 64, 128, 256), signed=False)
# Asked where there is no target: what cannot be written, or not without growing the file.
_CONDITIONS = ("right-matrix", "many-inputs", "own-weight")


@dataclass(frozen=True)
class BlockWeight:
    """A weight that is going to be stored in blocks.

    Attributes:
        layer: the MatMul or Gemm that reads it.
        scheme: of its rows, [out, in]: blocks are along axis 1.
        turned: a Gemm's weight is stored [in, out] instead of [out, in].
        signed: scales may be negative.
    """

    layer: Linear
    scheme: Scheme
    turned: bool
    signed: bool

    @property
    def tensor(self) -> Constant:
        """The float weight."""
        return self.layer.weight

    def rows(self) -> NDArray[np.float32]:
        """The float weight, [out, in]."""
        return self.layer.by_output_channel(self.tensor.values)

    def shaped(self, rows: NDArray[Any]) -> NDArray[Any]:
        """Values [out, in] in the float weight's shape."""
        return rows if self.layer.out_axis == 0 else rows.T

    def store(self, graph: Graph, rows: NDArray[Any], params: QuantParams) -> int:
        """Put integers [out, in] in the place of the float weight; how many bytes they and their scales have."""
        layer, name = self.layer, self.tensor.name
        is_columns = self.turned or layer.out_axis == 1
        parts = [rows, params.scale, *([] if self.scheme.symmetric else [params.zero_point])]
        hints = ("quantized", "scale", "zero_point")
        constants = [
            graph.constant(np.ascontiguousarray(part.T if is_columns else part), f"{name}_{hint}")
            for part, hint in zip(parts, hints, strict=False)
        ]
        output = graph.variable(f"{name}_dequantized", self.tensor.dtype, constants[0].shape)
        attrs = {"axis": 0 if is_columns else 1, "block_size": self.scheme.block}
        graph.add_node("DequantizeLinear", constants, [output], attrs)
        graph.set_input(layer.node, layer.weight_index, output)
        if self.turned:
            graph.set_attr(layer.node, "transB", 0)
        packed = sum((part.size + 1) // 2 for part in parts if part is not params.scale)
        return packed + params.scale.nbytes


def nearest_blocks(weight: BlockWeight) -> tuple[NDArray[Any], QuantParams]:
    """Integers [out, in] and scales with the least squared error."""
    rows = weight.rows()
    params = solve_blocks(rows, weight.scheme, signed=weight.signed)
    return quantize(rows, params), params


def find_block_weights(
    graph: Graph, ctx: Context, *, everything: bool, block: int, symmetric: bool
) -> list[BlockWeight]:
    """The weights to store, in the order of the layers; the graph is brought to opset 21 when there are some.

    Args:
        graph: main graph; weights in nested graphs stay as they are.
        ctx: for its target; remarks say what is declined.
        everything: without an assignment: take all weights that aren't planned in 8 bits.
        block: weights that share a scale, at most.
        symmetric: zero points are 0; the target may insist.
    """
    chosen = _chosen(graph, ctx, everything)
    if not chosen:
        return []
    target = ctx.target
    if target is not None and INT4_WEIGHTS not in target.precisions:
        ctx.remarks.declined(None, f"weights stay as they are: {target.title} has no kernels for 4-bit weights")
        return []
    # Types are needed to upgrade, and to tell a MatMul's axes.
    fill_types(graph)
    fitting = list(_fitting(graph, ctx, chosen, block))
    if not fitting or not _has_opset(graph, ctx):
        return []
    rule = _rule(target)
    symmetric = symmetric or not rule.zero_points
    names = {node.name for node in fitting}  # the upgrade may have replaced the nodes
    return [
        BlockWeight(
            linear,
            block_scheme(1, size, symmetric=symmetric),
            turned=linear.out_axis == 0 and not rule.transposed,
            signed=rule.signed,
        )
        for node in graph.nodes
        if node.name in names
        and (linear := linear_view(graph, node)) is not None
        and (size := _block(target, linear, block)) is not None
    ]


def _chosen(graph: Graph, ctx: Context, everything: bool) -> list[Node]:
    """The nodes that an assignment names; where there is none, all that could be meant, if they are."""
    assigned = graph.plan.precisions
    if assigned or ctx.precision is not None or not everything:
        return [node for node in graph.nodes if assigned.get(node.name) == INT4_WEIGHTS]
    planned = {edge.node for entry in graph.plan for edge in entry.edges}
    return [node for node in graph.nodes if node.is_op(*_OPERATORS) and node.name not in planned]


def _fitting(graph: Graph, ctx: Context, chosen: list[Node], block: int) -> Iterator[Node]:
    """The nodes whose weights can be stored; a remark for each of the others that has one."""
    target = ctx.target
    conditions = _CONDITIONS if target is None else target.precisions[INT4_WEIGHTS].conditions
    names = {node.name for node in chosen}
    for node in chosen:
        linear = linear_view(graph, node)
        if linear is None:
            continue  # a product of two activations
        reason = unmet(graph, node, conditions)
        if reason is None and any(reader.name not in names for reader in linear.weight.outputs):
            reason = "its weight is read in float elsewhere, and would be stored twice"
        if reason is None and not np.isfinite(linear.weight.values).all():
            reason = "its weight isn't finite"
        if reason is None and _block(target, linear, block) is None:
            reason = f"no block of {LEAST_BLOCK} to {block} weights divides its {linear.in_channels} inputs"
        if reason is None:
            yield node
        else:
            ctx.remarks.declined(node, f"its weight stays float: {reason}")


def _rule(target: Target | None) -> BlockRule:
    return _PORTABLE if target is None or target.block_weights is None else target.block_weights


def _block(target: Target | None, linear: Linear, block: int) -> int | None:
    return fitting_block(linear.in_channels, block, divides=not _rule(target).sizes)


def _has_opset(graph: Graph, ctx: Context) -> bool:
    """Whether the graph is at opset 21, perhaps by now."""
    if graph.opset >= OPSET:
        return True
    before = graph.opset
    try:
        upgrade_graph(graph, OPSET)
    except UnsupportedError as error:
        ctx.remarks.declined(None, f"weights stay float: 4 bits in blocks need opset {OPSET}, and {error}")
        return False
    ctx.remarks.note(None, f"brought from opset {before} to {OPSET}, the first with 4-bit weights in blocks")
    return True
