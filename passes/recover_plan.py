"""Turn a Q/DQ model of any tool back into float operators and a plan for the target, with the ranges it was given.

    x → Q → DQ → Conv(·, DQ(W_q), DQ(b_q)) → y      →      Conv(x, W, b) → y,    plan: x range [−2.1, 2.6], W range …

The inverse of `quantize-weights` and `insert-qdq`, which then write the model as this target wants it: where a grid is
one that the target takes, they come out at the very same scales, zero points and integers. Ranges are never
invented: what the target wants quantized and nobody gave a range stays in float, with a remark. Layers that were
float stay float. A pair whose two nodes disagree stays as it is.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from graphopt.analysis.legality.grid import EIGHT_BITS, INT32, SIXTEEN_BITS, Grid
from graphopt.analysis.legality.scene import is_integer_read
from graphopt.analysis.legality.skeleton import Skeleton, strip
from graphopt.analysis.placement import Placement, place
from graphopt.errors import ConfigError
from graphopt.ir import Constant, Graph, Node
from graphopt.ir.linear import linear_view
from graphopt.ir.ops import LINEAR
from graphopt.passes._clamps import restore_clamps
from graphopt.passes._kept_weights import kept_range
from graphopt.passes._known_ranges import Ranges, cut_to_activations, known_ranges, shared_ranges, spread
from graphopt.passes._scalar_scales import scalar_scales
from graphopt.passes.plan_quantization import WIDE_OPSET, fill_plan
from graphopt.passes.remove_dead import sweep
from graphopt.pipeline import Context, Pass
from graphopt.quant import TensorPlan, solve_params
from graphopt.targets import Target


@dataclass(frozen=True)
class RecoverPlan(Pass):
    """Q/DQ of any tool → float model and plan."""

    name: ClassVar[str] = "recover-plan"
    summary: ClassVar[str] = "turn another tool's Q/DQ back into a plan for the target, with its ranges"

    def run(self, graph: Graph, ctx: Context) -> None:
        """Take the pairs out, plan anew, and fill in the ranges that they had."""
        if ctx.target is None:
            raise ConfigError("recover-plan needs a target; give one with --target")
        scalar_scales(graph)
        found = strip(graph, exact=True)
        # Nothing is planned for what nobody reads; a QuantizeLinear that nobody reads has told a range by now.
        sweep(graph.live_nodes(), ctx)
        _note_left_alone(graph, ctx, found)
        graph.sort()
        restore_clamps(found, ctx)
        graph.sort()
        ranges = known_ranges(found)
        if "activation-clamp" in ctx.target.breaches:
            cut_to_activations(graph, ranges)
        spread(graph, ranges)
        table = _table(graph, ctx.target, found)
        placement, ranges = _place_known(graph, ctx, table, found, ranges)
        if table is ctx.target:
            fill_plan(graph, table, placement)
        else:
            fill_plan(graph, ctx.target, Placement(), placement)
        tensors = graph.tensors()
        for entry in list(graph.plan):
            tensor = tensors[entry.tensor]
            if isinstance(tensor, Constant):
                _keep_weight(graph, found, tensor, entry)
            elif entry.range is None:
                graph.plan.set_range(entry.tensor, ranges[tensor])
        _note_changes(graph, ctx, found)
        _store_again(graph, found)


def _note_left_alone(graph: Graph, ctx: Context, found: Skeleton) -> None:
    """Say which Q/DQ nodes are no part of the plan."""
    nested = [
        n for scope in list(graph.walk())[1:] for n in scope.nodes if n.is_op("QuantizeLinear", "DequantizeLinear")
    ]
    for count, where in ((found.narrow, "around 16-bit floats"), (len(nested), "in nested graphs")):
        if count:
            text = f"{count} Q/DQ nodes {where} keep their types and places: nothing is planned there"
            ctx.remarks.declined(None, text)


def _table(graph: Graph, target: Target, found: Skeleton) -> Target:
    """What the target wants of kernels with 16-bit activations, if the model has no others and the target has such."""
    types = {g.dtype for t, grids in found.writes.items() if not isinstance(t, Constant) for g in grids[:1]}
    wide = target.wide if types and types <= SIXTEEN_BITS and graph.opset >= WIDE_OPSET else None
    return wide or target


def _place_known(
    graph: Graph, ctx: Context, target: Target, found: Skeleton, ranges: Ranges
) -> tuple[Placement, Ranges]:
    """What the target wants, less what would need a range that nobody knows; and the ranges, shared ones included."""
    kept: dict[Node, str] = {}
    was_float = _float_layers(graph, found)
    while True:
        placement = place(graph, target, lambda n: n in kept or n in was_float)
        known = shared_ranges(placement, ranges)
        unknown = {n: why for n, why in _without_range(placement, known).items() if n not in kept}
        if not unknown:
            break
        kept.update(unknown)
    for node in graph.nodes:
        if node in kept:
            ctx.remarks.declined(node, f"stays in float: {kept[node]}; calibrate the float model to know it")
    return placement, known


def _float_layers(graph: Graph, found: Skeleton) -> set[Node]:
    """Layers that were float on both sides, and those whose weights can't be put on a grid."""
    layers: set[Node] = set()
    for node in graph.nodes:
        if not node.is_op(*LINEAR):
            continue
        linear = linear_view(graph, node)
        indices = (0, 1) if linear is None else (linear.data_index, linear.weight_index)
        integer = any(is_integer_read(found.read(node, i)) for i in indices)
        if not integer or (linear is not None and not np.isfinite(linear.weight.values).all()):
            layers.add(node)
    return layers


def _without_range(placement: Placement, ranges: Ranges) -> dict[Node, str]:
    """Nodes to leave in float because of a tensor without a range: readers that aren't layers first."""
    readers: dict[Node, str] = {}
    layers: dict[Node, str] = {}
    for tensor in dict.fromkeys([*placement.uses, *placement.whole]):
        if not placement.wanted(tensor) or isinstance(tensor, Constant):
            continue
        if tensor in ranges or tensor in placement.fixed:
            continue
        reason = f"no range of '{tensor.name}' is known"
        for node, _ in placement.uses.get(tensor, {}):
            (layers if node.is_op(*LINEAR) else readers).setdefault(node, reason)
        if tensor in placement.writers:
            layers.setdefault(placement.writers[tensor], reason)
    return readers or layers


def _keep_weight(graph: Graph, found: Skeleton, weight: Constant, entry: TensorPlan) -> None:
    """The range whose scales are those that the weight has, as far as the target can take them."""
    reads = [found.reads.get((e.node, e.index), ()) for e in entry.edges]
    kept = kept_range(weight, reads[0][-1], entry.scheme) if reads and reads[0] else None
    if kept is not None:
        graph.plan.set_range(entry.tensor, kept)


def _note_changes(graph: Graph, ctx: Context, found: Skeleton) -> None:
    """Say of each tensor whose steps got coarser by how much."""
    ranges = graph.plan.solved_ranges()
    tensors = graph.tensors()
    for entry in graph.plan:
        grids = [] if isinstance(tensors[entry.tensor], Constant) else found.writes.get(tensors[entry.tensor], [])
        covered = grids[0].range() if grids else None
        if covered is None or grids[0].scale is None:
            continue
        old = float(grids[0].scale.max())
        params = solve_params(ranges[entry.tensor], entry.scheme)
        new = float(params.scale)
        if new > old * 1.001:
            text = f"'{entry.tensor}': {grids[0]} became {entry.scheme} with steps {new / old:.2f} times as coarse"
            ctx.remarks.note(None, text)


def _store_again(graph: Graph, found: Skeleton) -> None:
    """Weights of layers that stay float, and tables that are looked up in, stay stored in 8 bits as they were."""
    for constant, integers in found.stored.items():
        assert isinstance(constant, Constant)
        if constant.name in graph.plan.tensors or not constant.outputs or integers.dtype not in EIGHT_BITS:
            continue
        uses = [(n, i) for n, i in graph.uses(constant) if n.is_op(*LINEAR, "Gather") and found.read(n, i)]
        if integers.ndim < 2 or not uses:
            continue
        grid = found.read(*uses[0])[-1]
        _dequantize(graph, constant, integers, grid, uses)


def _dequantize(
    graph: Graph, constant: Constant, integers: np.ndarray, grid: Grid, uses: list[tuple[Node, int]]
) -> None:
    assert grid.scale is not None
    assert grid.zero_point is not None
    assert grid.dtype != INT32
    shape = () if grid.axis is None else (-1,)
    inputs = [
        graph.constant(integers, f"{constant.name}_quantized"),
        graph.constant(grid.scale.astype(np.float32).reshape(shape), f"{constant.name}_scale"),
        graph.constant(grid.zero_point.astype(integers.dtype).reshape(shape), f"{constant.name}_zero_point"),
    ]
    output = graph.variable(f"{constant.name}_dequantized", constant.dtype, constant.shape)
    attrs = {} if grid.axis is None else {"axis": grid.axis}
    graph.add_node("DequantizeLinear", inputs, [output], attrs)
    for node, index in uses:
        graph.set_input(node, index, output)
