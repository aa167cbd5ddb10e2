"""Remove whole channels, the least important first, until a budget holds; then refit what reads them.

    Conv(w: [64,3,3,3]) → Relu → Conv(w: [128,64,3,3])      macs=0.5, align=8
                                 →      Conv(w: [40,3,3,3]) → Relu → Conv(w': [96,40,3,3])

1. Units that can only go together are found (`analysis/coupling/find.py`); what can't go is kept, with the reason.
2. A criterion ranks the units of each group (`importance`), by weights alone or by what the samples show.
3. Sizes are chosen: the least sum of errors within the budget over all groups at once (scope=global, an integer
   program), or the same part of every group (scope=local). Sizes are multiples of `align`, as engines want them, and
   with a budget of latency no size at which the engine was measured to be slower than at a larger one.
4. The units are taken out, and the weights that remain are refitted to what the float model computed (`repair`).

The result is another function: nothing is promised but that what it is worth is measured. A plan that was saved is
replayed as it is; only the repair looks at samples then.

Declines where no channel can go. Refuses saved ranges: they are of a model with all channels.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

from graphopt.analysis.coupling.find import couple
from graphopt.analysis.pruning.elimination_record import Elimination, read_plan
from graphopt.analysis.pruning.kept_counts import kept_counts
from graphopt.calibration import Feed
from graphopt.errors import ConfigError
from graphopt.ir import Graph, fill_types, is_fixed, to_proto
from graphopt.ir.dtypes import FLOAT_TYPES
from graphopt.passes._channel_removal import remove_channels
from graphopt.passes._elimination_outcome import frozen_groups, outcomes
from graphopt.passes._elimination_sizes import Sizing
from graphopt.passes._refit import refit_layers
from graphopt.passes._simulation import affordable_samples
from graphopt.pipeline import Context, Pass

# The repair gains by every sample: a SqueezeNet gets 168 of them, where 512 MiB would leave it 42.
_HELD_BYTES = 2 << 30
_BUDGETS = ("macs", "params", "bytes", "latency")


@dataclass(frozen=True)
class EliminateChannels(Pass):
    """Remove channels: one of ratio, macs, params, bytes, latency and plan must be given; budgets may be combined.

    Attributes:
        ratio: the part of the channels to remove: of every group with scope=local, of all with scope=global.
        macs: how many multiply-accumulates may stay: up to 1 a part of the model's, above 1 a number.
        params: how many values of initializers may stay, likewise.
        bytes: how many bytes of initializers may stay, likewise.
        latency: which part of the linear layers' time may stay, each measured by itself in the target's engine.
        importance: what ranks units: auto (reconstruction with samples, l2 without), a criterion, or module:function.
        scope: global chooses sizes over all groups, local takes the same part of every group.
        sensitivity: what scope=global compares groups by: outputs measures what removing units of each group does to
            the model's outputs, layers takes what the criterion says is lost. auto: layers where that is an error
            (reconstruction, hessian) or there are no samples; outputs where it is a score.
        align: channels that stay are a multiple of it, where a group is large enough.
        min_channels: a group keeps at least so many.
        exclude: what stays whole: patterns of names of groups, or of nodes that make or read their tensors.
        repair: refit the weights that remain, where there are samples.
        seed: for importance=random.
        plan: replay the plan of this file.
    """

    name: ClassVar[str] = "eliminate-channels"
    summary: ClassVar[str] = "remove the least important channels within a budget, and refit what reads them"

    ratio: float | None = None
    macs: float | None = None
    params: float | None = None
    bytes: float | None = None
    latency: float | None = None
    importance: str = "auto"
    scope: Literal["global", "local"] = "global"
    sensitivity: Literal["auto", "outputs", "layers"] = "auto"
    align: int = 8
    min_channels: int = 1
    exclude: tuple[str, ...] = ()
    repair: bool = True
    seed: int = 0
    plan: str | None = None

    def __post_init__(self) -> None:
        given = self.demands()
        if (self.plan is None) == (not given):
            raise ValueError("give a budget (ratio, macs, params, bytes, latency) or a plan, and not both")
        if "ratio" in given and len(given) > 1:
            raise ValueError("ratio says what to remove; it can't be combined with a budget")
        for name, value in given.items():
            below = 1.0 if name in ("ratio", "latency") else math.inf
            if not 0 < value < below:
                bound = " and less than 1" if below == 1.0 else ""
                raise ValueError(f"{name} is {value:g}; expected more than 0{bound}")
        if self.align < 1 or self.min_channels < 1:
            raise ValueError("align and min-channels are at least 1")

    def demands(self) -> dict[str, float]:
        """What is asked for, by name."""
        asked = {name: getattr(self, name) for name in ("ratio", *_BUDGETS)}
        return {name: value for name, value in asked.items() if value is not None}

    def run(self, graph: Graph, ctx: Context) -> None:
        """Remove units and refit; what was done is left in the context.

        Raises:
            ConfigError: the budget can't be met, an option doesn't fit the model, or the plan is for another one.
            CalibrationError: a sample fails.
        """
        if ctx.ranges is not None:
            raise ConfigError("saved ranges are of a model with all channels: save the pruned one and calibrate that")
        graph.sort()
        _share_no_vectors(graph)
        fill_types(graph)
        coupling = couple(graph)
        if not coupling.removable:
            ctx.remarks.declined(None, "this model has no channels that can be removed")
            return
        reference = to_proto(graph)
        feeds: list[Feed] = []
        if ctx.calibration is not None:
            feeds = affordable_samples(ctx.calibration, reference, ctx, copies=2, most_bytes=_HELD_BYTES)
        counts = kept_counts(coupling, align=self.align, min_channels=self.min_channels, exclude=self.exclude)
        sizing = Sizing(graph, coupling, counts, feeds, ctx)
        if self.plan is not None:
            keep = read_plan(self.plan, {group.name: group.units for group in coupling.removable})
        else:
            keep = sizing.choose(self)
        sizes = {name: int(stays.sum()) for name, stays in keep.items()}
        before, after = sizing.cost({}), sizing.cost(sizes)
        groups = outcomes(graph, coupling, keep, sizing)
        frozen = frozen_groups(graph, coupling)
        kept = coupling.kept(keep)
        remove_channels(graph, coupling, keep)
        repaired = refit_layers(graph, ctx, reference, kept, feeds) if self.repair and feeds else ()
        refitted = sum(layer.left < layer.lost for layer in repaired)
        ctx.reference = None  # what passes to come compare with has the channels that are left
        demand = "a saved plan" if self.plan else " and ".join(f"{k}={v:g}" for k, v in self.demands().items())
        ctx.elimination = Elimination(
            sizing.importance, demand, groups, frozen, before, after, refitted, tuple(sizing.notes)
        )
        self._say(ctx.elimination, ctx)

    def _say(self, found: Elimination, ctx: Context) -> None:
        """Remarks on each group."""
        for group in found.groups:
            if group.removed:
                what = f"{group.before - group.after} of {group.before} channels removed from group '{group.name}'"
                ctx.remarks.applied(None, f"{what} ({', '.join(group.layers[:4])})")
        for group in found.frozen:
            ctx.remarks.declined(None, f"group '{group.name}' keeps its channels: {group.reason}")
        if self.repair and ctx.calibration is None:
            ctx.remarks.declined(None, "nothing is refitted without samples; give them with --calibration-data")


def _share_no_vectors(graph: Graph) -> None:
    """Give each reader biases and scales of its own: layers with equal ones needn't lose the same channels.

    `merge-duplicates` makes them one constant, the zeros of all layers of a size above all. Weights that are shared are
    tied in the model itself, more likely than not, and stay so.
    """
    for constant in graph.constants:
        if is_fixed(constant) and constant.dtype in FLOAT_TYPES and len(constant.shape) == 1:
            for node, index in graph.uses(constant)[1:]:
                if node.scope is graph:
                    graph.own_constant(node, index)
