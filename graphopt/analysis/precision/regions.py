"""The main graph in fusion regions, as a target's engine runs them: one precision each.

    Conv ─▶ Add(skip) ─▶ Relu          one kernel: the linear node decides, in TensorRT and OpenVINO
    Mul, AveragePool, Sigmoid …        one each, with 8 bits where the target has an integer kernel
    MaxPool, Reshape, Concat …         carried: they run in whatever form they are given
    Softmax, LSTM, If …                float only; what a nested graph captures it reads in float32

What runs where is asked of `analysis.placement`, with everything in 8 bits that can be; nothing is decided twice. An
assignment is carried out by planning again, with `float_nodes` kept in float, `assigned_nodes` in 8 bits whoever reads
them, and `wide_nodes` with activations of 16: then a region has what it was assigned, whatever the others got, because
nothing but its own nodes and constants decides whether it can.
"""

from __future__ import annotations

from collections.abc import Mapping

from graphopt.analysis.placement import FLOAT32, MIN_OPSET, Placement, place
from graphopt.analysis.precision.region_choices import FLOAT, INT8, INT16X8, Choices
from graphopt.analysis.precision.region_parts import Parts, find_parts, reads
from graphopt.analysis.precision.types import Assignment, Border, Region, Regions
from graphopt.ir import Graph, Node, Tensor, fill_types
from graphopt.ir.linear import linear_view
from graphopt.targets import Target

_NOTHING: Mapping[str, str] = {}


def find_regions(
    graph: Graph, target: Target, *, device: str | None = None, kept_float: Mapping[str, str] = _NOTHING
) -> Regions:
    """The regions of the main graph, and the borders between them.

    Args:
        graph: a float graph; types that it lacks are filled in. Its plan isn't looked at.
        target: whose engine runs it.
        device: what that is built for, in the engine's words; None: whatever has all that the table knows.
        kept_float: names of nodes that get no 8 bits → why (`plan.kept_float`).
    """
    fill_types(graph)
    old = graph.opset < MIN_OPSET
    placement = place(graph, target, lambda node: old or kept_float.get(node.name))
    choices = Choices(graph, target, placement, device)
    parts = find_parts(graph, placement, choices.shared)
    regions = [_region(graph, target, placement, parts, main, choices) for main in parts.nodes]
    return Regions(tuple(regions), tuple(_borders(graph, parts)))


def float_nodes(regions: Regions, precisions: Assignment) -> list[str]:
    """Names of the nodes that could be in 8 bits, and aren't in integers: what planning is to keep in float."""
    floats = (r for r in regions.regions if INT8 in r.precisions and precisions[r.name] not in (INT8, INT16X8))
    return [node for region in floats for node in region.nodes]


def assigned_nodes(regions: Regions, precisions: Assignment) -> list[str]:
    """Names of the nodes that are to be in 8 bits."""
    return [node for r in regions.regions if precisions[r.name] == INT8 for node in r.nodes]


def wide_nodes(regions: Regions, precisions: Assignment) -> list[str]:
    """Names of the nodes that are to have activations of 16 bits."""
    return [node for r in regions.regions if precisions[r.name] == INT16X8 for node in r.nodes]


def realised(graph: Graph, regions: Regions) -> dict[str, str]:
    """The assignment that `graph.plan` really holds: of each region, what its main node has."""
    plan = graph.plan
    return {
        r.name: plan.precisions.get(r.name, INT8 if r.name in plan.quantized_nodes else FLOAT) for r in regions.regions
    }


def _region(graph: Graph, target: Target, placement: Placement, parts: Parts, main: Node, choices: Choices) -> Region:
    rule = target.rules.get(main.op) if main in placement.quantized else None
    linear = linear_view(graph, main)
    members = parts.nodes[main]
    return Region(
        name=main.name,
        op=main.op,
        nodes=tuple(node.name for node in members),
        carried=tuple(node.name for node in parts.carried.get(main, ())),
        precisions=choices.of(members, main),
        weights=() if linear is None else (linear.weight.name,),
        result=next((t.name for t in members[-1].present_outputs()), ""),
        writes_form=rule is not None and rule.output_quantized,
        needs_reader=rule is not None and rule.needs_reader,
    )


def _borders(graph: Graph, parts: Parts) -> list[Border]:
    """What parts read of each other and of the model's inputs, in graph order."""
    readers: dict[Tensor, dict[Node, None]] = {}
    for node, main in parts.main.items():
        for tensor in reads(graph, node):
            for root in parts.seen_through(tensor):
                readers.setdefault(root, {})[main] = None
    given_out = {root for tensor in graph.outputs for root in parts.seen_through(tensor)}
    written = {t: main for main, members in parts.nodes.items() for node in members for t in node.present_outputs()}
    order = {main: k for k, main in enumerate(parts.nodes)}
    found: list[Border] = []
    for tensor in (*graph.inputs, *written):
        writer = written.get(tensor)
        names = [r.name for r in sorted(readers.get(tensor, ()), key=order.__getitem__) if r is not writer]
        if tensor.dtype == FLOAT32 and (names or tensor in given_out):
            found.append(Border(tensor.name, writer and writer.name, tuple(names), tensor in given_out))
    return found
