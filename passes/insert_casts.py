"""Turn the plan's nodes in float16 and bfloat16 into such nodes, with Casts where the type changes.

    x → Conv₁ → Conv₂: int8 → y      →      x → Cast → Conv₁: f16 → Cast → Q → DQ → Conv₂ → y

Comes behind `insert-qdq`, and gives exactly the nodes that were assigned a type that type: one that can't have it ends
the run. Operators that only move values, and that nobody decided about, take the type of what they move.

Scales of Q/DQ stay float32, so that a Cast lies between a layer in 16 bits and one in 8. It costs nothing:
TensorRT-RTX 1.7.1 computes it in the kernel that quantizes, and in the one behind the product; with float16 scales the
kernels are the same. Those it converts back to float32, warning, and small scales of weights are subnormal in float16.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from graphopt.analysis.precision.narrowing import narrowed
from graphopt.errors import ConfigError, InternalError, PassError
from graphopt.ir import Graph, Node, fill_types
from graphopt.ir.float_parameters import LOW_FLOATS, FloatParameters
from graphopt.ir.ops import MOVES_VALUES
from graphopt.passes._cast_islands import insert_casts
from graphopt.pipeline import Context, Pass
from graphopt.targets import Role, Target, planned_target


@dataclass(frozen=True)
class InsertCasts(Pass):
    """Materialise the plan's 16-bit floating-point nodes."""

    name: ClassVar[str] = "insert-casts"
    summary: ClassVar[str] = "turn the plan's float16 and bfloat16 nodes into such nodes, with Casts at the borders"

    def run(self, graph: Graph, ctx: Context) -> None:
        """Convert the nodes; the plan keeps what was assigned.

        Raises:
            ConfigError: 8 bits are planned and not materialised yet.
            PassError: a node can't compute in the type that it was assigned.
        """
        assigned = {name: kind for name, kind in graph.plan.precisions.items() if kind in LOW_FLOATS}
        if not assigned:
            return
        if graph.plan:
            raise ConfigError("insert-casts comes behind insert-qdq: tensors of the plan can't change their type")
        fill_types(graph)
        target = planned_target(graph.plan) if graph.plan.target else ctx.target
        nodes = {node.name: node for node in graph.nodes}
        for kind, dtype in LOW_FLOATS.items():
            chosen = [name for name, wanted in assigned.items() if wanted == kind]
            if not chosen:
                continue
            low = dict(_assigned(graph, nodes, name, dtype) for name in chosen)
            count = len(low)
            low |= _movers(graph, low, dtype, target)
            done = insert_casts(graph, low, dtype, keep_io=True, shielded=target is not None and target.fuses_casts)
            ctx.remarks.note(None, f"{count} nodes compute in {kind}, with {done.casts} Casts at the borders")
            for node in done.shielded:
                ctx.remarks.applied(node, f"got a Clip without bounds, or it would be computed in {kind}")


def _assigned(graph: Graph, nodes: Mapping[str, Node], name: str, dtype: np.dtype[Any]) -> tuple[Node, FloatParameters]:
    """The node of this name, with what of it changes its type."""
    if name not in nodes:
        raise InternalError(f"node '{name}' was assigned {dtype} and isn't in the main graph")
    if name in graph.plan.quantized_nodes:
        raise InternalError(f"node '{name}' was assigned {dtype} and is planned in 8 bits, too")
    found = narrowed(graph, nodes[name], dtype)
    if isinstance(found, str):
        raise PassError(f"node '{name}' ({nodes[name].op}) was assigned {dtype} and can't have it: {found}")
    return nodes[name], found


def _movers(
    graph: Graph, low: dict[Node, FloatParameters], dtype: np.dtype[Any], target: Target | None
) -> dict[Node, FloatParameters]:
    """Undecided operators that only move what comes in the type: they lose nothing by keeping it."""
    carried = {op for op, rule in target.rules.items() if rule.role is Role.SAME_SCALE} if target else set[str]()
    made = {node.outputs[i] for node, parameters in low.items() for i in parameters.outputs}
    found: dict[Node, FloatParameters] = {}
    for node in graph.nodes:
        moves = node.is_standard and node.op in MOVES_VALUES | carried
        if not moves or node.name in graph.plan.precisions:
            continue
        parameters = narrowed(graph, node, dtype)
        if isinstance(parameters, str) or not parameters.inputs:
            continue
        if all(node.inputs[i] in made for i in parameters.inputs):
            found[node] = parameters
            made.update(node.outputs[i] for i in parameters.outputs)
    return found
