"""Turn back to float what an 8-bit grid would erase: chains that amplify its error, tensors with too wide a range.

    Conv(u8) → Pow → Add → Sqrt → Log → Conv(u8)      →      Conv → Pow → Add → Sqrt → Log → Conv(u8)

A linear grid has one step for the largest and for the smallest values. Log, Sqrt, Reciprocal, a small denominator or
the difference of nearly equal tensors blow the error of small values up until nothing is left of the signal, and most
such models still run without an error. A tensor whose loudest sample is many times louder than the others leaves those
no steps at all. A sum on a residual path with one massive channel leaves the others none, which shows behind the next
layers. All are measured: a second copy of the float operators behind quantized reads runs on a few calibration samples
(see `calibration.amplification`), and what reads the culprits quantized, or writes them, is planned in float. Without
samples it does what it did when the ranges were calibrated, or declines.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from itertools import islice
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from graphopt.analysis.conditioning import Amplified, Exposure, amplified, exposure
from graphopt.analysis.placement import place
from graphopt.analysis.response import response
from graphopt.calibration import Dataset
from graphopt.calibration.amplification import Shadow, measure_noise
from graphopt.calibration.histogram import Histogram
from graphopt.calibration.samples import Feed
from graphopt.errors import ConfigError
from graphopt.ir import Graph, Node, Tensor, Variable, to_proto
from graphopt.ir.ops import LINEAR
from graphopt.passes._coarse_sums import behind_coarse_sums, coarsest_reads
from graphopt.passes.calibrate import Calibrate
from graphopt.passes.plan_quantization import plan_again
from graphopt.pipeline import Context, Pass
from graphopt.quant import Range
from graphopt.targets import Role, Target, planned_target

# A grid that leaves the average sample less than this leaves most of them nothing; healthy tensors have 25 dB or more.
LOWEST_GRID_SNR_DB = 20.0
# Noise this far down is none, and a sample without any must not outweigh the others in the average.
_NO_NOISE_DB = 60.0

# Input values that say as much as more of them would.
_ENOUGH_VALUES = 2**20

# Choices travel with the ranges by name alone.
_CHOSEN = Range.of(0.0, 0.0)

_Decibel = dict[Tensor, float]


@dataclass(frozen=True)
class ProtectSmallValues(Pass):
    """Plan in float what 8 bits would erase.

    Attributes:
        samples: how many calibration samples the noise is measured on, spread over all of them.
        rounds: how often the plan may change; each change is measured again.
    """

    name: ClassVar[str] = "protect-small-values"
    summary: ClassVar[str] = "keep in float what 8 bits would erase: amplified rounding errors, too wide a range"

    samples: int = 8
    rounds: int = 8

    def __post_init__(self) -> None:
        if self.samples < 1 or self.rounds < 1:
            raise ValueError(f"samples is {self.samples}, rounds {self.rounds}; expected at least 1")

    def run(self, graph: Graph, ctx: Context) -> None:
        """Measure, plan again without the culprits, until nothing is lost any more."""
        if not graph.plan:
            return
        if graph.plan.without_range():
            raise ConfigError("ranges are missing: put 'calibrate' before 'protect-small-values'")
        if ctx.calibration is None:
            self._as_before(graph, ctx)
            return
        ctx.kept[self.name] = _CHOSEN
        target = planned_target(graph.plan)
        feeds = spread(ctx.calibration, self.samples)
        grids: _Decibel = {}
        dense: dict[Node, None] = {}
        for _ in range(self.rounds):
            dense |= dict.fromkeys(behind_coarse_sums(graph, ctx.statistics))
            exposed = exposure(graph, dense)
            snr = self._noise(graph, exposed, feeds, ctx, grids)
            found = _culprits(graph, target, amplified(graph, exposed, snr, grids), grids, _barely_seen(graph, ctx))
            if not found:
                return
            plan_again(graph, target, {node.name: reason for node, reason in found.items()})
            for node, reason in found.items():
                ctx.kept[f"{self.name}/{node.name}"] = _CHOSEN
                ctx.remarks.declined(node, f"stays in float: {reason}")
            if graph.plan.without_range():
                # The ranges file, if there is one, can't know tensors that weren't planned before.
                Calibrate().run(graph, replace(ctx, ranges=None))
        ctx.remarks.note(None, f"stopped after {self.rounds} rounds; more may be lost")

    def _as_before(self, graph: Graph, ctx: Context) -> None:
        """Leave the nodes in float that were when the ranges were calibrated; they are named among the ranges."""
        if ctx.ranges is None or self.name not in ctx.ranges:
            ctx.remarks.declined(
                None, "small values aren't protected: there are no samples to measure the noise on (--calibration-data)"
            )
            return
        reason = "8 bits erased small values when the ranges were calibrated"
        found = [node for node in graph.nodes if f"{self.name}/{node.name}" in ctx.ranges]
        if not found:
            return
        plan_again(graph, planned_target(graph.plan), {node.name: reason for node in found})
        for node in found:
            ctx.remarks.declined(node, f"stays in float: {reason}")
        if graph.plan.without_range():
            Calibrate().run(graph, ctx)

    def _noise(self, graph: Graph, exposed: Exposure, feeds: list[Feed], ctx: Context, grids: _Decibel) -> _Decibel:
        """Average SNR of float operators' results behind quantized reads; of planned activations too, into `grids`.

        What `grids` has already isn't measured again: planning again takes nodes out, and changes no range.
        """
        known = graph.tensors()
        variables = [t for e in graph.plan if isinstance(t := known[e.tensor], Variable)]
        planned = [t for t in variables if t not in grids]
        results = exposed.results()
        # Ranges of these are solved for the error behind the function that reads them.
        through = frozenset(t.name for t in variables if response(graph, t) is not None)
        shadow = Shadow(*(tuple(item.name for item in items) for items in (exposed.nodes, results, planned)), through)
        ranges = graph.plan.solved_ranges()
        noise = measure_noise(to_proto(graph), list(graph.plan), ranges, shadow, feeds, threads=ctx.threads)
        grids.update((t, average_db(noise.grids[t.name])) for t in planned)
        return {t: average_db(noise.results[t.name]) for t in results}


def spread(dataset: Dataset, limit: int) -> list[Feed]:
    """At most `limit` samples, evenly spread where their number is known, else the first ones; fewer of large ones."""
    count = limit if dataset.count is None else dataset.count
    chosen = {k * count // limit for k in range(limit)}
    found: list[Feed] = []
    values = 0
    for feed in (f for k, f in enumerate(islice(dataset, max(chosen) + 1)) if k in chosen):
        found.append(feed)
        values += sum(array.size for array in feed.values())
        if values > _ENOUGH_VALUES and len(found) > 1:
            break
    return found


def average_db(snr: NDArray[np.float64]) -> float:
    """The mean over samples, in dB: a loud sample doesn't outweigh quiet ones. NaN where none has a signal."""
    known = snr[~np.isnan(snr)]
    return float(np.minimum(known, _NO_NOISE_DB).mean()) if known.size else float("nan")


def _barely_seen(graph: Graph, ctx: Context) -> set[str]:
    """Planned tensors of one value a sample, fewer in all than 8 bits have steps: the next one may be outside."""
    assert ctx.calibration is not None
    found: set[str] = set()
    for entry in graph.plan:
        seen = ctx.statistics.get(entry.tensor)
        if isinstance(seen, Histogram) and seen.count < entry.scheme.steps and seen.count == ctx.calibration.count:
            found.add(entry.tensor)
    return found


def _culprits(
    graph: Graph, target: Target, findings: list[Amplified], grids: _Decibel, barely_seen: set[str]
) -> dict[Node, str]:
    """Nodes to leave in float, with the reason, in graph order."""
    plan = graph.plan
    placement = place(graph, target, lambda node: plan.kept_float.get(node.name))
    found: dict[Node, str] = {}

    def leave(node: Node | None, reason: str) -> None:
        # What only moves values has the grid of what it reads, so that it isn't left in float alone.
        while node is not None and node not in found:
            found[node] = reason
            rule = target.rules.get(node.op)
            moves = rule is not None and rule.role is Role.SAME_SCALE
            node = placement.writers.get(node.inputs[0]) if moves else None

    def blame(uses: Iterable[tuple[Node, int]], reason: str) -> None:
        for node, index in uses:
            writer = placement.writers.get(node.inputs[index])
            if node.name in plan.quantized_nodes:
                found.setdefault(node, reason)
            else:
                # A float operator that reads integers because the operator before it only writes integers.
                leave(writer, reason)

    for finding in findings:
        blame(coarsest_reads(graph, finding), str(finding))
    known = graph.tensors()
    nodes = {n.name: n for scope in graph.walk() for n in scope.nodes}
    for entry in plan:
        tensor = known[entry.tensor]
        writer = placement.writers.get(tensor)
        if entry.tensor in barely_seen and writer is not None and writer.is_op(*LINEAR):
            reason = f"the range of '{entry.tensor}' is known from fewer values than 8 bits have steps"
        elif tensor in grids and grids[tensor] < LOWEST_GRID_SNR_DB:
            reason = (
                f"8 bits leave {grids[tensor]:.0f} dB of '{entry.tensor}' in an average sample: most values are small "
                "against the largest"
            )
        else:
            continue
        blame([(nodes[e.node], e.index) for e in entry.edges], reason)
        leave(writer, reason)
    return {node: found[node] for node in graph.nodes if node in found}
