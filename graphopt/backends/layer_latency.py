"""How long each linear layer takes in an engine on this machine, at the sizes that its groups may have.

A layer is run by itself (`single_layer`) on a grid of sizes, first at the ends, then in between while there is time;
equal layers are timed once (`layer_times`). What can't be measured is charged for its multiply-accumulates, at the rate
of the measured layers. What runs between the linear layers isn't counted.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from graphopt.analysis.pruning.cost_tables import CostTable, TableBuilder
from graphopt.analysis.pruning.kept_counts import KeptCounts
from graphopt.analysis.pruning.layer_costs import LayerCosts
from graphopt.backends.engines import Engine
from graphopt.backends.layer_stopwatch import Stopwatch
from graphopt.backends.layer_times import ROUNDS, LayerTimes
from graphopt.backends.single_layer import single_layer
from graphopt.errors import UnsupportedError
from graphopt.ir import Graph

BUDGET_SECONDS = 60.0


@dataclass(frozen=True)
class LayerTime:
    """One layer.

    Attributes:
        node: its name.
        seconds: of a call with all channels.
        sizes: how many sizes were measured; 0 where its time was worked out from its multiply-accumulates.
    """

    node: str
    seconds: float
    sizes: int


@dataclass(frozen=True)
class LatencyTable:
    """Seconds of a call, over the linear layers.

    Attributes:
        engine: what ran them.
        threads: that it was given; None: as many as it takes by itself.
        cost: the sum over the layers. What runs between them isn't in it, nor are layers whose sizes aren't known.
        layers: in graph order.
        timings: models that were timed.
    """

    engine: str
    threads: int | None
    cost: CostTable
    layers: tuple[LayerTime, ...]
    timings: int


def measure_layers(
    graph: Graph,
    costs: LayerCosts,
    counts: KeptCounts,
    engine: Engine,
    *,
    threads: int | None = None,
    seconds: float = BUDGET_SECONDS,
    shapes: Mapping[str, Sequence[int]] | None = None,
) -> LatencyTable:
    """Time the linear layers of the main graph.

    Args:
        graph: types and shapes filled.
        costs: of this graph.
        counts: the sizes of its groups.
        engine: what runs the layers.
        threads: of the engine; None leaves it to the engine, as users run it.
        seconds: to spend, about: the ends of each layer's sizes are always measured.
        shapes: those of tensors for one sample, where the graph leaves them open.

    Raises:
        UnsupportedError: the engine can't run on this machine, or can't run any of the layers.
    """
    engine.require()
    opset = graph.facts.opset_imports.get("", 1)
    macs = {layer.node: layer.macs for layer in costs.layers if layer.macs is not None}
    stopwatch = Stopwatch(engine, threads, time.perf_counter() + seconds)
    layers: list[LayerTimes] = []
    for node in graph.nodes:
        cost = macs.get(node.name)
        if cost is None or not cost.terms:
            continue
        single = single_layer(node, costs.sizes, opset, shapes)
        layers.append(LayerTimes(node.name, single, cost, counts, costs.units))
    for number in range(ROUNDS):
        for layer in sorted(layers, key=lambda layer: -layer.macs.at(costs.units)):
            if number == 0 or not stopwatch.is_over:
                layer.measure(stopwatch, number)
    measured = [layer for layer in layers if layer.times]
    if not measured:
        raise UnsupportedError(f"{engine.title} could run none of the model's layers by itself: {stopwatch.complaint}")
    whole = sum(layer.macs.at(costs.units) for layer in measured)
    rate = sum(layer.times[layer.whole] for layer in measured) / max(whole, 1)
    builder = TableBuilder(counts, costs.units)
    for layer in layers:
        layer.add_to(builder, rate)
    found = tuple(LayerTime(x.name, x.times.get(x.whole, rate * x.macs.at(costs.units)), len(x.times)) for x in layers)
    return LatencyTable(engine.title, threads, builder.build(), found, len(stopwatch.known))


def without_slower(counts: KeptCounts, cost: CostTable, tolerance: float = 0.02) -> KeptCounts:
    """The sizes without those at which a larger one of the same group is faster, all other groups whole.

    Args:
        counts: the sizes of the groups.
        cost: measured seconds.
        tolerance: by which part of the group's layers' time a size may be slower: what repeated timings differ by.
    """
    whole = {group: len(sizes) - 1 for group, sizes in counts.items()}
    kept: dict[str, tuple[int, ...]] = {}
    for group, sizes in counts.items():
        times = cost.along(group, whole)
        if times is None:
            kept[group] = sizes
            continue
        fastest = np.minimum.accumulate(times[::-1])[::-1]
        good = [size for i, size in enumerate(sizes) if times[i] <= fastest[i] * (1 + tolerance)]
        kept[group] = tuple(good)
    return {group: sizes for group, sizes in kept.items() if len(sizes) > 1}
