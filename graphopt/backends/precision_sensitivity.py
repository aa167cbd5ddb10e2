"""How much each part of a model loses in each precision: the three grades of `Sensitivity` behind one call."""

from __future__ import annotations

import math
from collections.abc import Mapping

from graphopt.analysis.precision.types import Grade, Regions, Sensitivity
from graphopt.backends.precision_local import measure_local
from graphopt.backends.precision_output import OutputMetric, measure_output
from graphopt.backends.precision_prior import estimate
from graphopt.calibration import Dataset
from graphopt.calibration.float_fit import misfits
from graphopt.calibration.precision_sources import Identity, find_sources
from graphopt.errors import ConfigError
from graphopt.ir import Graph
from graphopt.ir.float_parameters import LOW_FLOATS
from graphopt.quant.precision import PRECISIONS


def measure_sensitivity(
    graph: Graph,
    regions: Regions,
    samples: Dataset | None,
    *,
    grade: Grade,
    metric: OutputMetric | None = None,
    threads: int | None = None,
    memory_budget: int | None = None,
) -> Sensitivity:
    """What is lost with each region, and each border's tensor, in each of its precisions, one at a time.

    Args:
        graph: the float model, sorted, types filled in, with the all-8-bit plan and its ranges; it isn't changed.
        regions: of the graph.
        samples: not looked at by grade "weights", but for whether values fit float16 and bfloat16, where there are any.
        grade: "weights", "local" or "output".
        metric: for grade "output", in place of relative noise: "kl", "cosine", or a function (see `precision_output`).
        threads: of onnxruntime; None lets it take the cores.
        memory_budget: bytes for what is held besides the model; None means a quarter of the memory that is available.

    Returns:
        The table. What loses nothing is left out: float32, and what the plan rounds nothing for; and what loses more
        than can be told, whose readers it is forbidden to.

    Raises:
        ConfigError: the grade needs samples, or takes no metric, or a planned tensor has no range.
        CalibrationError: a sample fails, or holds NaN or infinity.
        UnsupportedError: onnxruntime can't load the model.
    """
    if grade != "output" and metric is not None:
        raise ConfigError(f"sensitivity of grade '{grade}' has no metric; grade 'output' has")
    if any(entry.range is None for entry in graph.plan):
        raise ConfigError("ranges are missing: put 'calibrate' before sensitivity is measured")
    sources = find_sources(graph, regions)
    count = 0
    if grade == "weights":
        found = estimate(graph, sources)
    elif samples is None:
        raise ConfigError(f"sensitivity of grade '{grade}' needs samples; give them with --calibration-data")
    elif grade == "local":
        found, count = measure_local(graph, regions, sources, samples, threads=threads, memory_budget=memory_budget)
    else:
        found, count = measure_output(
            graph, sources, samples, metric=metric, threads=threads, memory_budget=memory_budget
        )
    return Sensitivity(
        grade,
        {key: error for (is_tensor, key), error in found.items() if not is_tensor and math.isfinite(error)},
        {key: error for (is_tensor, key), error in found.items() if is_tensor and math.isfinite(error)},
        {
            **_unmeasurable(regions, found),
            **_without_plan(graph, regions),
            **_beyond_range(graph, regions, samples, threads),
        },
        count,
    )


def _unmeasurable(regions: Regions, found: Mapping[Identity, float]) -> dict[tuple[str, str], str]:
    """Regions with a loss that isn't finite: a mask of −∞, and what float16 makes of one of −3e38."""
    lost = {identity for identity, error in found.items() if not math.isfinite(error)}
    reasons = {key: "what it loses isn't finite" for is_tensor, key in lost if not is_tensor}
    for border in regions.borders:
        for name in (border.writer, *border.readers):
            region = None if name is None else regions[name]
            if region is None or (name == border.writer and not region.writes_form):
                continue
            for precision in region.precisions:
                if (True, (border.tensor, PRECISIONS[precision].form)) in lost:
                    reasons[region.name, precision] = f"what '{border.tensor}' loses isn't finite"
    return reasons


def _without_plan(graph: Graph, regions: Regions) -> dict[tuple[str, str], str]:
    """Regions whose 8 bits aren't planned: nothing is known of what they would lose."""
    plan = graph.plan
    return {
        (region.name, precision): plan.float_nodes.get(region.name, "no 8 bits are planned for it")
        for region in regions.regions
        for precision in region.precisions
        if PRECISIONS[precision].form.startswith("int") and plan.quantized_nodes.keys().isdisjoint(region.nodes)
    }


def _beyond_range(
    graph: Graph, regions: Regions, samples: Dataset | None, threads: int | None
) -> dict[tuple[str, str], str]:
    """Regions with values that float16 or bfloat16 can't hold."""
    nodes = {node.name: node for node in graph.nodes}
    found: dict[tuple[str, str], str] = {}
    for precision, dtype in LOW_FLOATS.items():
        having = [region for region in regions.regions if precision in region.precisions]
        inside = [nodes[name] for region in having for name in region.nodes]
        reasons = misfits(graph, inside, dtype, samples, threads=threads) if inside else {}
        for region in having:
            reason = next((reasons[nodes[name]] for name in region.nodes if nodes[name] in reasons), None)
            if reason is not None:
                found[region.name, precision] = reason
    return found
