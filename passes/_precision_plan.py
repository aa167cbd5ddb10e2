"""An assignment of precisions, carried out in the plan."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from graphopt.analysis.precision.problem import is_integer
from graphopt.analysis.precision.regions import INT8, assigned_nodes, float_nodes, realised, wide_nodes
from graphopt.analysis.precision.types import Assignment, Regions
from graphopt.ir import Graph
from graphopt.passes._precision_choices import FLOAT, STORED
from graphopt.passes.calibrate import Calibrate
from graphopt.passes.plan_quantization import plan_again
from graphopt.pipeline import Context
from graphopt.targets import Target


def carry_out(
    graph: Graph,
    ctx: Context,
    target: Target,
    regions: Regions,
    assignment: Assignment,
    reasons: Mapping[str, str],
) -> dict[str, str]:
    """Plan again as assigned; gives back what each region has got.

    Args:
        graph: with the plan for 8 bits; what that keeps in float stays so.
        ctx: tensors that weren't planned before are observed on its samples.
        target: that it is planned for.
        regions: of the graph.
        assignment: region → precision.
        reasons: region → why it can't have another one, to be noted in the plan.
    """
    of_node = regions.of_node
    turned: dict[str, str] = {}
    # Where 8 bits may not be chosen, regions don't have them, and the plan has them all the same.
    planned = [n for n in graph.plan.quantized_nodes if n in of_node and not is_integer(assignment[of_node[n].name])]
    for node in dict.fromkeys([*float_nodes(regions, assignment), *planned]):
        region = of_node[node].name
        turned[node] = f"assigned {assignment[region]}" + (f" ({reasons[region]})" if region in reasons else "")
    plan_again(graph, target, turned, assigned_nodes(regions, assignment), wide_nodes(regions, assignment))
    graph.plan.precisions.clear()
    for region in regions.regions:
        precision = assignment[region.name]
        if precision not in (INT8, FLOAT):
            # Of a region whose weights alone are stored in it only the linear node is meant.
            nodes = (region.name,) if precision in STORED else region.nodes
            graph.plan.precisions.update(dict.fromkeys(nodes, precision))
    if graph.plan.without_range() and ctx.calibration is not None:
        # The ranges file, if there is one, can't know tensors that weren't planned before.
        Calibrate().run(graph, replace(ctx, ranges=None))
    return realised(graph, regions)


def say(regions: Regions, precisions: Assignment, reasons: Mapping[str, str], graph: Graph, ctx: Context) -> None:
    """Remarks: how many regions have what, and each that has not what the usual plan gives it."""
    nodes = {node.name: node for node in graph.nodes}
    counts: dict[str, int] = {}
    for region in regions.regions:
        precision = precisions[region.name]
        counts[precision] = counts.get(precision, 0) + 1
        reason = f": {reasons[region.name]}" if region.name in reasons else ""
        if precision != FLOAT:
            if precision != INT8 or reason:
                ctx.remarks.applied(nodes.get(region.name), f"assigned {precision}{reason}")
        elif INT8 in region.precisions or reason:
            ctx.remarks.declined(nodes.get(region.name), f"assigned float32{reason}")
    shares = ", ".join(f"{count} in {name}" for name, count in sorted(counts.items(), key=lambda item: -item[1]))
    ctx.remarks.note(None, f"{len(regions.regions)} regions: {shares}")
