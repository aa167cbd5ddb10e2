"""Which units of each group stay under the budgets of `eliminate-channels`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from graphopt.analysis.coupling.groups import Coupling, Kept
from graphopt.analysis.pruning.allocation import allocate
from graphopt.analysis.pruning.budgets import Allocation, Budget, Errors
from graphopt.analysis.pruning.cost_tables import CostTable, TableBuilder, tabulate
from graphopt.analysis.pruning.elimination import Ranking
from graphopt.analysis.pruning.elimination_record import Cost
from graphopt.analysis.pruning.error_curves import error_curves, kept_units
from graphopt.analysis.pruning.importance import Importance
from graphopt.analysis.pruning.kept_counts import KeptCounts, channels_each
from graphopt.analysis.pruning.layer_costs import LayerCosts
from graphopt.analysis.pruning.simple_allocation import allocate_evenly, allocate_evenly_within
from graphopt.backends.engines import find_engine
from graphopt.backends.layer_latency import measure_layers, without_slower
from graphopt.calibration.rankings import importance, rankings
from graphopt.calibration.samples import Feed
from graphopt.calibration.shapes import infer
from graphopt.calibration.weights import detached
from graphopt.errors import ConfigError
from graphopt.ir import Graph
from graphopt.passes._pruning_sensitivity import measured_curves
from graphopt.pipeline import Context

if TYPE_CHECKING:
    from graphopt.passes.eliminate_channels import EliminateChannels

# Samples on which the outputs' error is measured: enough to compare groups.
_SENSITIVITY_SAMPLES = 16


class Sizing:
    """What is known of a graph's costs, and what was chosen.

    Attributes:
        counts: the sizes that groups may have.
        rankings: of the units of each group that could lose some.
        importance: name of the criterion; "plan" until there is one.
        notes: for the report.
    """

    def __init__(
        self, graph: Graph, coupling: Coupling, counts: KeptCounts, feeds: Sequence[Feed], ctx: Context
    ) -> None:
        self.graph, self.coupling, self.counts, self.feeds, self.ctx = graph, coupling, counts, feeds, ctx
        self.shapes = None
        if feeds:
            inputs = {name: value.shape for name, value in feeds[0].items()}
            self.shapes = infer(detached(graph).model, inputs).shapes
        self.costs = LayerCosts(graph, coupling, self.shapes)
        self.rankings: dict[str, Ranking] = {}
        self.importance = "plan"
        self.notes: list[str] = []
        self._latency: CostTable | None = None
        self._curves: Errors | None = None
        if self.costs.macs_unknown:
            self.notes.append(f"the shapes of {self.costs.macs_unknown} layers aren't known: their MACs aren't counted")

    def choose(self, options: EliminateChannels) -> dict[str, Kept]:
        """Which units stay, for each group that loses some.

        Rankings and sensitivity are found once: a second choice may differ in its scope and in its budgets (except
        latency's) only.

        Raises:
            ConfigError: the budgets can't be met, or the criterion doesn't fit the model or lacks samples.
        """
        named = None if options.importance == "auto" else options.importance
        criterion = importance(named, samples=bool(self.feeds))
        self.importance = criterion.name
        budgets = self._budgets(options)
        groups = [group for group in self.coupling.removable if group.name in self.counts]
        data = "the samples" if self.ctx.calibration is None else self.ctx.calibration.name
        if not self.rankings:
            self.rankings = rankings(
                self.graph, groups, criterion, self.feeds, seed=options.seed, name=data, threads=self.ctx.threads
            )
        sizes = self._allocated(options, criterion, budgets).kept
        keep = {group: kept_units(self.rankings[group], size) for group, size in sizes.items()}
        return {group: stays for group, stays in keep.items() if not stays.all()}

    def cost(self, sizes: Mapping[str, int]) -> Cost:
        """What the model takes when groups keep so many units; groups that aren't named stay whole."""
        latency = None
        if self._latency is not None:
            number = {group: known.index(sizes.get(group, known[-1])) for group, known in self.counts.items()}
            latency = self._latency.of(number)
        return Cost(self.costs.macs(sizes), self.costs.params(sizes), self.costs.bytes(sizes), latency)

    def _allocated(self, options: EliminateChannels, criterion: Importance, budgets: Sequence[Budget]) -> Allocation:
        if options.scope == "local":
            if options.ratio is not None:
                return allocate_evenly(options.ratio, self.counts)
            return allocate_evenly_within(self.counts, budgets)
        if options.sensitivity == "outputs" and not self.feeds:
            raise ConfigError("sensitivity=outputs needs samples: give them with --calibration-data")
        if self._curves is None:
            by_layers = criterion.costs_errors if options.sensitivity == "auto" else options.sensitivity == "layers"
            self._curves = self._sensitivity(by_layers or not self.feeds)
        found = allocate(self._curves, self.counts, budgets)
        if found.stopped and found.gap:
            self.notes.append(f"the search for sizes was stopped: up to {found.gap:.1%} less error may be possible")
        return found

    def _sensitivity(self, by_layers: bool) -> Errors:
        """The error of each group at each of its sizes: what the criterion says, or what the outputs show."""
        if by_layers:
            return error_curves(self.rankings, self.counts)
        few = self.feeds[:_SENSITIVITY_SAMPLES]
        return measured_curves(self.graph, self.coupling, self.rankings, self.counts, few, threads=self.ctx.threads)

    def _budgets(self, options: EliminateChannels) -> list[Budget]:
        """The limits; one of latency takes sizes out of `counts` at which the engine is slower than at larger ones."""
        demands, found = options.demands(), list[Budget]()
        if "latency" in demands:
            self._measure()
            assert self._latency is not None
            found.append(Budget("seconds", self._latency, demands["latency"] * (self.cost({}).latency or 0.0)))
        if "ratio" in demands:
            found.append(self._channels(1 - demands["ratio"]))
        for name, what, cost in (
            ("macs", "MACs", self.costs.macs_cost),
            ("params", "parameters", self.costs.params_cost),
            ("bytes", "bytes", self.costs.bytes_cost),
        ):
            if name in demands:
                whole, limit = cost.at(self.costs.units), demands[name]
                table = tabulate(cost, self.counts, self.costs.units)
                found.append(Budget(what, table, limit * whole if limit <= 1 else limit))
        return found

    def _measure(self) -> None:
        """Time the layers in the target's engine."""
        if self.ctx.target is None:
            raise ConfigError("a budget of latency is measured in the target's engine: give a target")
        engine = find_engine(self.ctx.target)
        if engine.run is None:
            raise ConfigError(f"{engine.title} can't run models on this machine: give a budget of macs, not of latency")
        table = measure_layers(
            self.graph, self.costs, self.counts, engine, threads=self.ctx.threads, shapes=self.shapes
        )
        faster = without_slower(self.counts, table.cost)
        self._latency, self.counts = table.cost.restricted(self.counts, faster), faster
        self.notes.append(f"{len(table.layers)} layers timed by themselves in {table.engine}, {table.timings} timings")

    def _channels(self, part: float) -> Budget:
        """At most this part of the channels of all groups."""
        builder, whole = TableBuilder(self.counts, self.costs.units), 0
        for group in self.coupling.removable:
            if group.name in self.counts:
                sizes = self.counts[group.name]
                builder.add_single(group.name, np.array(sizes, np.float64) * channels_each(group))
                whole += group.units * channels_each(group)
        return Budget("channels", builder.build(), part * whole)
