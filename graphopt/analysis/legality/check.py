"""Whether any tool's Q/DQ model obeys a target's contract: every place where it doesn't, with why and the mend."""

from __future__ import annotations

from collections.abc import Mapping

from graphopt.analysis.legality.blocks import check_blocks
from graphopt.analysis.legality.casts import check_casts
from graphopt.analysis.legality.finding import RULES, Finding
from graphopt.analysis.legality.heads import check_heads
from graphopt.analysis.legality.misreads import check_constants, check_counted_pads, check_joins
from graphopt.analysis.legality.pairs import check_nodes
from graphopt.analysis.legality.places import (
    check_clamps,
    check_insides,
    check_layers,
    check_operands,
    check_results,
    check_scales,
    check_unwanted,
)
from graphopt.analysis.legality.scene import Check, Found, Scene, look
from graphopt.analysis.legality.schemes import check_activations, check_biases, check_missing_biases, check_weights
from graphopt.ir import Graph
from graphopt.targets import Target

_CHECKS: tuple[Check, ...] = (
    check_nodes,
    check_blocks,
    check_activations,
    check_weights,
    check_biases,
    check_missing_biases,
    check_layers,
    check_operands,
    check_results,
    check_insides,
    check_unwanted,
    check_scales,
    check_clamps,
    check_joins,
    check_counted_pads,
    check_constants,
    check_heads,
    check_casts,
)


def check_graph(graph: Graph, target: Target) -> list[Finding]:
    """Every place where `graph` breaks the target's contract, in graph order; `graph` isn't changed.

    The cost is that of a copy of the model, whose weights are dequantized, and a walk over its nodes.
    """
    scene = look(graph, target)
    found = [f for check in _CHECKS for f in check(scene) if f.rule in target.breaches]
    names = [node.name for scope in graph.walk() for node in scope.nodes]
    position = {name: k for k, name in enumerate(names)}
    unique = {(f.rule, f.node.name, f.text): f for f in found}
    ordered = sorted(unique.values(), key=lambda f: position.get(f.node.name, len(position)))
    return [_finding(scene, f) for f in ordered]


def findings_by_node(graph: Graph, target: Target) -> Mapping[str, list[Finding]]:
    """The findings of each node that they concern, by the node's name: one about a Q/DQ pair concerns the operators
    on both its sides.
    """
    found: dict[str, list[Finding]] = {}
    for finding in check_graph(graph, target):
        for name in finding.affects:
            found.setdefault(name, []).append(finding)
    return found


def _finding(scene: Scene, found: Found) -> Finding:
    rule, breach = RULES[found.rule], scene.target.breaches[found.rule]
    affects = dict.fromkeys((found.node.name, *(n.name for n in found.affects)))
    return Finding(
        rule=rule.id,
        severity=breach.severity,
        node=found.node.name,
        op=found.node.op,
        tensor=found.tensor,
        found=found.text,
        why=breach.why,
        mend=rule.mend,
        fixable=(rule.fixable if found.fixable is None else found.fixable) and (not scene.narrow or rule.in_place),
        affects=tuple(affects),
    )
