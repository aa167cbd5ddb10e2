"""Assign random precisions to the regions of a planned graph, and plan again with them."""

from __future__ import annotations

import random

import onnx

from graphopt.analysis.precision.problem import readers_of
from graphopt.analysis.precision.regions import assigned_nodes, find_regions, float_nodes
from graphopt.analysis.precision.types import Costs, Problem, Regions, Sensitivity
from graphopt.ir import Graph, fill_types, from_proto
from graphopt.passes.plan_quantization import PlanQuantization, plan_again
from graphopt.pipeline import Context
from graphopt.quant import QuantPlan
from graphopt.targets import Target


def planned_graph(model: onnx.ModelProto, target: Target) -> tuple[Graph, Regions]:
    """The graph with everything planned in 8 bits that can be, and its regions."""
    graph = from_proto(model)
    fill_types(graph)
    PlanQuantization().run(graph, Context(target=target))
    return graph, find_regions(graph, target, kept_float=graph.plan.kept_float)


def random_assignment(regions: Regions, rng: random.Random, share: float = 0.6) -> dict[str, str]:
    """int8 for some of the regions that can have it, with the readers that they need; float32 for the others."""
    found = {r.name: "int8" if "int8" in r.precisions and rng.random() < share else "float32" for r in regions.regions}
    readers = dict(readers_of(Problem(regions, {}, Sensitivity("local", {}, {}), Costs("bits", {}, {}))))
    # Readers come later: seen from the end, theirs are settled.
    for region in reversed(regions.regions):
        if region.needs_reader and not any(found[r] == "int8" for r in readers[region.name]):
            found[region.name] = "float32"
    return found


def plan_assigned(graph: Graph, target: Target, regions: Regions, assignment: dict[str, str], full: QuantPlan) -> None:
    """Plan `graph` again, from its plan with everything in 8 bits."""
    graph.facts.plan = full.copy()
    kept = dict.fromkeys(float_nodes(regions, assignment), "assigned float32")
    plan_again(graph, target, kept, assigned_nodes(regions, assignment))
