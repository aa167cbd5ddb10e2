"""Plan which tensors the target reads as integers, in which scheme, and which of them share a scale.

    Conv(x, W) → Relu → y      plan: x u8, W s8 per output channel, y u8 (after the Relu, never between)

The rules are the target's table; where they apply is `analysis.placement`. This pass only annotates `graph.plan`:
`calibrate` fills in ranges, `quantize-weights` and `insert-qdq` turn the plan into nodes. Declines per node, with the
reason: no constant weight, not float32, no integer kernel, in a nested graph, kept in float by the user.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import numpy as np

from graphopt.analysis.fragile import fragile
from graphopt.analysis.placement import MIN_OPSET, Placement
from graphopt.analysis.precision.wide_placement import WIDE, place_widths
from graphopt.calibration.channels import ChannelMinMax
from graphopt.calibration.statistics import finite_extremes
from graphopt.errors import ConfigError
from graphopt.ir import Constant, Graph, Node, Tensor, fill_types, upgrade_graph
from graphopt.ir.ops import LINEAR, MOVES_VALUES
from graphopt.pipeline import Context, Pass
from graphopt.quant import Edge, Range, Scheme, TensorPlan
from graphopt.quant.node_patterns import any_names_node
from graphopt.targets import Target

# The first opset whose QuantizeLinear and DequantizeLinear take 16 bits.
WIDE_OPSET = 21


@dataclass(frozen=True)
class PlanQuantization(Pass):
    """Annotate the graph with the target's quantization plan.

    Attributes:
        keep_float: nodes to leave in float, as patterns of node names ("head/*") or operators ("Gemm").
        activation_bits: 16 gives activations 16 bits, and weights 8, where the target has such kernels.
    """

    name: ClassVar[str] = "plan-quantization"
    summary: ClassVar[str] = "decide which tensors the target reads as integers, and which share a scale"

    keep_float: tuple[str, ...] = ()
    activation_bits: Literal[8, 16] = 8

    def run(self, graph: Graph, ctx: Context) -> None:
        """Fill `graph.plan`; ranges of constants and prescribed ranges are set, the others are left to calibration."""
        if ctx.target is None:
            raise ConfigError("plan-quantization needs a target; give one with --target")
        if any(node.is_op("QuantizeLinear", "DequantizeLinear") for node in graph.nodes):
            raise ConfigError(
                "the model contains QuantizeLinear/DequantizeLinear nodes already; "
                "start from the float model, or use the float preset"
            )

        if graph.opset < MIN_OPSET:
            ctx.remarks.declined(
                None, f"the model stays float: opset {graph.opset} has no per-channel QuantizeLinear ({MIN_OPSET} has)"
            )
            return

        table = ctx.target.wide if self.activation_bits == 16 else None
        if table is not None:
            _upgrade(graph)
        kept = {node.name: reason for node, reason in fragile(graph, table or ctx.target).items()}
        kept |= {
            node.name: "the user keeps it in float"
            for node in graph.nodes
            if any_names_node(self.keep_float, node.name, node.op)
        }
        widths = place_widths(graph, ctx.target, kept, None if self.activation_bits == 16 else ())
        fill_plan(graph, ctx.target, widths.narrow, widths.broad)
        graph.plan.kept_float.update(kept)
        declined = widths.declined
        for node in graph.nodes:
            if node in declined:
                graph.plan.float_nodes[node.name] = declined[node]
                ctx.remarks.declined(node, f"stays in float: {declined[node]}")
        for scope in list(graph.walk())[1:]:
            for node in scope.nodes:
                if node.is_op(*LINEAR):
                    reason = "it is in a nested graph, whose tensors can't be observed"
                    graph.plan.float_nodes[node.name] = reason
                    ctx.remarks.declined(node, f"stays in float: {reason}")
        if without := _without_kernels(graph, ctx.target):
            ctx.remarks.note(None, f"in float, {ctx.target.title} has no integer kernels for them: {without}")
        dtype = (table or ctx.target).activation.dtype
        ctx.remarks.note(None, f"{len(widths.quantized)} nodes in {dtype}, {len(graph.plan.tensors)} tensors planned")


def _without_kernels(graph: Graph, target: Target) -> str:
    """The operators that compute on floats and that the target's table doesn't have: "2 Erf, 1 Softmax"."""
    known = {*target.rules, *target.fused_activations, *MOVES_VALUES, *LINEAR, "Cast", "Constant", "Identity"}
    counts = Counter(
        node.op
        for node in graph.nodes
        if node.op not in known and all(any(map(_is_float, side)) for side in (node.inputs, node.outputs))
    )
    return ", ".join(f"{count} {op}" for op, count in counts.most_common())


def _is_float(tensor: Tensor) -> bool:
    return not isinstance(tensor, Constant) and tensor.dtype == np.float32


def _upgrade(graph: Graph) -> None:
    """Bring the graph to an opset whose QuantizeLinear takes 16 bits."""
    if graph.opset < WIDE_OPSET:
        fill_types(graph)
        upgrade_graph(graph, WIDE_OPSET)


def plan_again(
    graph: Graph,
    target: Target,
    keep_float: Mapping[str, str],
    assigned: Collection[str] | None = None,
    wide: Collection[str] | None = None,
) -> None:
    """Plan anew with more nodes in float (name → reason); tensors that were planned keep their calibrated ranges.

    A tensor that wasn't planned before has no range yet. What was in float before stays so: it is in `plan.kept_float`,
    or has the same reason as before. Nodes named in `assigned` run in 8 bits even where nobody reads their results so;
    None: those that were assigned before. Likewise those in `wide`, with 16-bit activations. Other assigned precisions
    stay, but for nodes that are kept in float now.
    """
    plan = graph.plan
    assigned = plan.assigned if assigned is None else frozenset(assigned)
    precisions = {name: precision for name, precision in plan.precisions.items() if name not in keep_float}
    wide = {n for n, p in precisions.items() if p == WIDE} if wide is None else set(wide)
    if wide:
        _upgrade(graph)
    precisions = {name: precision for name, precision in precisions.items() if precision != WIDE}
    kept = {name: why for name, why in {**plan.kept_float, **keep_float}.items() if name not in wide}
    before = {name: [entry] for name, entry in plan.tensors.items()}
    for name, entry in plan.second.items():
        before[name].append(entry)
    nested = set(plan.float_nodes) - {n.name for n in graph.nodes}
    inner = {name: plan.float_nodes[name] for name in plan.float_nodes if name in nested}
    widths = place_widths(graph, target, kept, wide, assigned)
    fill_plan(graph, target, widths.narrow, widths.broad)
    plan.kept_float.update(kept)
    plan.assigned = assigned
    plan.precisions.update(precisions)
    declined = widths.declined
    plan.float_nodes.update((n.name, declined[n]) for n in graph.nodes if n in declined)
    plan.float_nodes.update(inner)
    for entry in (*plan, *plan.second.values()):
        old = next((e for e in before.get(entry.tensor, ()) if e.scheme == entry.scheme), None)
        if old is not None and old.range is not None and not entry.fixed:
            plan.set_range_of(entry, old.range)


def fill_plan(graph: Graph, target: Target, placement: Placement, broad: Placement | None = None) -> None:
    """Annotate `graph.plan` with a placement, and one of 16-bit activations; what it held before is forgotten."""
    plan = graph.plan
    plan.clear()
    plan.target = target
    kinds = {**placement.quantized, **(broad.quantized if broad is not None else {})}
    plan.quantized_nodes.update((n.name, kinds[n]) for n in graph.nodes if n in kinds)
    entries = _entries(graph, target, placement)
    second: dict[Tensor, TensorPlan] = {}
    if broad is not None:
        assert target.wide is not None  # asked before it was placed
        plan.precisions.update((n.name, WIDE) for n in graph.nodes if n in broad.quantized)
        for tensor, entry in _entries(graph, target.wide, broad, "_wide").items():
            if tensor not in entries:
                entries[tensor] = entry
            elif isinstance(tensor, Constant):
                _own_copies(graph, tensor, entry)
            elif tensor in broad.whole:
                entries[tensor], second[tensor] = entry, entries[tensor]
            else:
                second[tensor] = entry
    for tensor in (t for t in _all_tensors(graph, entries) if t in entries):
        plan.add(entries[tensor])
        if tensor in second:
            plan.second[tensor.name] = second[tensor]
    for linear in (*placement.linears, *(broad.linears if broad is not None else ())):
        _plan_weight(graph, linear.weight, linear.node, linear.weight_index, linear.out_axis, target)


def _entries(graph: Graph, target: Target, placement: Placement, suffix: str = "") -> dict[Tensor, TensorPlan]:
    """What is planned for activations, and for constants beside them, in graph order; groups' names get the suffix."""
    found: dict[Tensor, TensorPlan] = {}
    groups = {tensor: f"{name}{suffix}" for tensor, name in _group_names(graph, placement).items()}
    # One member with a scheme of its own decides for the group: they share scale and zero point.
    schemes = {groups.get(t, t.name): scheme for t, scheme in placement.schemes.items()}
    for tensor in _in_graph_order(graph, placement):
        uses = placement.uses.get(tensor, {})
        whole = tensor in placement.whole
        read = [(n, i) for n, i in graph.uses(tensor) if whole or (n, i) in uses]
        fixed = placement.fixed.get(tensor)
        scheme = schemes.get(groups.get(tensor, tensor.name), target.activation)
        found[tensor] = TensorPlan(
            tensor=tensor.name,
            scheme=scheme,
            edges=tuple(Edge(n.name, i) for n, i in read),
            is_output=whole and any(t is tensor for t in graph.outputs),
            group=groups.get(tensor),
            range=_prescribed(scheme, *fixed) if fixed else _constant_range(tensor, None),
            fixed=fixed is not None,
            reason=placement.whole.get(tensor, "an integer kernel reads it"),
        )
    return found


def _own_copies(graph: Graph, constant: Constant, entry: TensorPlan) -> None:
    """A constant that kernels of both widths read is stored once for each that reads 16 bits."""
    nodes = {node.name: node for node in graph.nodes}
    for edge in entry.edges:
        own = graph.own_constant(nodes[edge.node], edge.index)
        graph.plan.add(replace(entry, tensor=own.name, edges=(edge,), group=None))


def _plan_weight(graph: Graph, weight: Constant, node: Node, index: int, axis: int | None, target: Target) -> None:
    """Plan one weight; nodes that share it share the entry when they agree on the channel axis."""
    # For a stack of matrices onnxruntime and TFLite have no scale per channel: onnxruntime fails when it runs one.
    is_stack = node.is_op("MatMul") and len(weight.shape) > 2
    axis = None if is_stack or not target.weight_per_channel else axis
    scheme = replace(target.weight, channel_axis=axis)
    edge = Edge(node.name, index)
    known = graph.plan.tensors.get(weight.name)
    if known is None:
        graph.plan.add(TensorPlan(weight.name, scheme, (edge,), range=_constant_range(weight, axis), reason="weight"))
    elif known.scheme == scheme:
        graph.plan.tensors[weight.name] = replace(known, edges=(*known.edges, edge))
    else:
        own = graph.own_constant(node, index)
        graph.plan.add(TensorPlan(own.name, scheme, (edge,), range=_constant_range(own, axis), reason="weight"))


def _in_graph_order(graph: Graph, placement: Placement) -> list[Tensor]:
    return [t for t in _all_tensors(graph, placement.uses) if placement.wanted(t)]


def _all_tensors(graph: Graph, chosen: Mapping[Tensor, object]) -> list[Tensor]:
    """Those of `chosen` and all variables, in graph order: inputs, constants, what nodes make."""
    tensors: dict[Tensor, None] = dict.fromkeys(graph.inputs)
    tensors.update(dict.fromkeys(t for t in chosen if isinstance(t, Constant)))
    tensors.update(dict.fromkeys(t for n in graph.nodes for t in n.outputs))
    return list(tensors)


def _group_names(graph: Graph, placement: Placement) -> dict[Tensor, str]:
    """Group name of each tensor that shares its scale: the name of the group's first tensor in graph order."""
    first: dict[Tensor, str] = {}
    names: dict[Tensor, str] = {}
    for tensor in _in_graph_order(graph, placement):
        if tensor in placement.shared.parents:
            names[tensor] = first.setdefault(placement.shared[tensor], tensor.name)
    return names


def _constant_range(tensor: Tensor, axis: int | None) -> Range | None:
    """Smallest and largest value of a constant, per index of `axis` where one is given; None for a variable."""
    if not isinstance(tensor, Constant):
        return None
    if axis is None:
        return Range.of(*finite_extremes(tensor.values))
    channels = ChannelMinMax(axis)
    channels.update(tensor.values)
    return channels.ranges()


def _prescribed(scheme: Scheme, scale: float, zero_point: int) -> Range:
    """The range whose scale and zero point in `scheme` are the prescribed ones."""
    return Range.of((scheme.qmin - zero_point) * scale, (scheme.qmax - zero_point) * scale)
