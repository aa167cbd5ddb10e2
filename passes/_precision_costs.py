"""What regions take, by the best means there are: the target's engine, an estimate for its device, or counting."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import islice

from graphopt.analysis.precision.costs import bit_costs, size_costs
from graphopt.analysis.precision.regions import INT8
from graphopt.analysis.precision.roofline import roofline_costs
from graphopt.analysis.precision.types import CostKind, Costs, Regions
from graphopt.backends.engines import Engine, find_engine
from graphopt.backends.region_latency import latency_costs
from graphopt.calibration import Feed
from graphopt.calibration.shapes import infer
from graphopt.errors import UnsupportedError
from graphopt.ir import Graph, to_proto
from graphopt.passes._simulation import simulated
from graphopt.passes.quantize_weights import QuantizeWeights
from graphopt.pipeline import Context
from graphopt.targets import Target

# Which values a sample has doesn't change how long it takes.
_TIMED_SAMPLES = 2


def costs_of(
    graph: Graph,
    ctx: Context,
    target: Target,
    regions: Regions,
    kind: CostKind,
    device: str | None,
) -> Costs:
    """The costs of one kind.

    Args:
        graph: the float graph with the plan for 8 bits.
        ctx: its samples are run, and say what sizes open axes have.
        target: whose engine times regions.
        regions: of the graph, with the precisions that may be chosen.
        kind: of cost.
        device: to estimate for, where the engine doesn't run here; None: its default.
    """
    if kind == "size":
        return size_costs(graph, regions)
    feeds = [] if ctx.calibration is None else list(islice(ctx.calibration, _TIMED_SAMPLES))
    if kind == "bits":
        return bit_costs(graph, regions, _shapes(graph, feeds))
    engine = find_engine(target)
    if engine.run is None:
        return roofline_costs(graph, regions, device=engine.device(device), shapes=_shapes(graph, feeds))
    reason = _untimed(engine, bool(feeds))
    if reason is None:
        integers = any(INT8 in region.precisions for region in regions.regions)
        models = {INT8: simulated(graph, ctx, QuantizeWeights())} if integers else {}
        try:
            return latency_costs(to_proto(graph), models, regions, engine, feeds, threads=ctx.threads)
        except UnsupportedError as error:
            reason = str(error)
    ctx.remarks.declined(None, f"latency isn't measured: {reason}; multiply-accumulates times bits stand for it")
    return bit_costs(graph, regions, _shapes(graph, feeds))


def _shapes(graph: Graph, feeds: Sequence[Feed]) -> Mapping[str, Sequence[int]] | None:
    """Those of tensors for the first sample; None without samples."""
    return infer(to_proto(graph), {n: v.shape for n, v in feeds[0].items()}).shapes if feeds else None


def _untimed(engine: Engine, has_samples: bool) -> str | None:
    """Why regions can't be timed; None where they can."""
    if engine.profile is None:
        return f"{engine.title} doesn't tell how long a layer takes"
    if not has_samples:
        return "there are no samples to run (--calibration-data)"
    return None
