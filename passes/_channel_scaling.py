"""What passes that scale channels share: looking at the samples, choosing the scales of least noise."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from graphopt.analysis.channel_classes import ChannelFlow, Indices
from graphopt.analysis.channel_noise import Term, expected_noise, least_noise, separate
from graphopt.analysis.channel_terms import Spread, observed_tensors, terms_of
from graphopt.analysis.noise_gain import Floats
from graphopt.calibration.channel_moments import ChannelMoments, collect_channels
from graphopt.errors import ConfigError
from graphopt.ir import Graph, Tensor, to_proto
from graphopt.pipeline import Context, Pass

# Scales are powers of 2^(1/64): the last bits of sums over samples, which depend on their order, don't show in weights.
_STEPS_PER_OCTAVE = 64


@dataclass(frozen=True)
class Choice:
    """Of each class: its scale, and by how many dB the expected noise of all that depends on it falls."""

    scales: Floats
    gains: Floats

    def told(self, classes: Indices) -> str | None:
        """What was chosen for these classes in words; None where nothing is scaled."""
        free = classes[classes > 0]
        scales = self.scales[free]
        if (scales == 1).all():
            return None
        gain = float(self.gains[free].max())
        return f"channels scaled by {scales.min():.2g} to {scales.max():.2g}: expected noise −{gain:.1f} dB"


def require_no_plan(graph: Graph, pass_: Pass) -> None:
    """Raise ConfigError when weights have planned ranges, which scaling would make wrong."""
    if graph.plan:
        raise ConfigError(
            f"{pass_.name} changes weights whose ranges are planned already: put it before plan-quantization"
        )


def observe(graph: Graph, flow: ChannelFlow, pass_: Pass, ctx: Context) -> dict[Tensor, ChannelMoments] | None:
    """Moments of the tensors that the noise depends on; None, and a remark, without samples.

    Raises:
        ConfigError: there are ranges from a file, which are those of the scaled model, and no samples.
    """
    if ctx.calibration is None:
        if ctx.ranges is not None:
            raise ConfigError(
                f"{pass_.name} needs the samples that the ranges were found with: they decide how channels are scaled; "
                "give them too, or skip the pass both when you calibrate and here"
            )
        ctx.remarks.declined(None, "no samples to see channels on; give them with --calibration-data")
        return None
    tensors = observed_tensors(graph, flow, ctx.target)
    found = collect_channels(
        to_proto(graph),
        {t.name: flow.tensors[t].axis for t in tensors},
        ctx.calibration,
        threads=ctx.threads,
        providers=ctx.resources.providers or None,
        memory_budget=ctx.resources.memory_budget,
    )
    return {t: found[t.name] for t in tensors if found[t.name].samples}


def terms(graph: Graph, flow: ChannelFlow, seen: dict[Tensor, ChannelMoments], ctx: Context) -> list[Term]:
    """The noise that the classes' scales decide about."""
    spreads = {t: Spread(m.high, m.below, m.mean_square, m.density) for t, m in seen.items()}
    return terms_of(graph, flow, spreads, ctx.target)


@dataclass(frozen=True)
class Bounds:
    """How far scales may go (a factor and its inverse), and by how many dB noise must fall for them to be taken."""

    limit: float
    least_gain: float


def choose(noise: Sequence[Term], count: int, bounds: Bounds, proposed: Floats | None = None) -> Choice:
    """The scales of least noise; 1 where the noise falls too little.

    Args:
        noise: of a flow with `count` classes.
        count: of classes.
        bounds: see there.
        proposed: a scale for each class, [count], to take instead of those of least noise.
    """
    scales, gains = np.ones(count), np.zeros(count)
    bound = float(np.log(bounds.limit))
    for part in separate(noise):
        if proposed is None:
            logs = least_noise(part.terms, part.count, bound)
        else:
            logs = np.append(0.0, np.clip(np.log(proposed[part.classes]), -bound, bound))
        logs = np.rint(logs / np.log(2) * _STEPS_PER_OCTAVE) / _STEPS_PER_OCTAVE * np.log(2)
        before, after = (expected_noise(part.terms, u) for u in (np.zeros(part.count), logs))
        gain = 10 * np.log10(before / after) if before > 0 and after > 0 else 0.0
        if gain >= bounds.least_gain:
            scales[part.classes], gains[part.classes] = np.exp(logs[1:]), gain
    return Choice(scales, gains)
