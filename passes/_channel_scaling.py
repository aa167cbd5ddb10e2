"""What passes that scale channels share: looking at the samples, choosing the scales of least noise."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from graphopt.analysis.channels.classes import PINNED, ChannelFlow, Indices
from graphopt.analysis.channels.noise import Term, expected_noise, least_noise, separate
from graphopt.analysis.channels.terms import Spread, observed_tensors, terms_of
from graphopt.analysis.noise_gain import Floats
from graphopt.calibration.channel_moments import ChannelMoments, collect_channels
from graphopt.calibration.weights import detached
from graphopt.errors import ConfigError
from graphopt.ir import Graph, Tensor
from graphopt.pipeline import Context, Pass
from graphopt.quant import Range

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
        effect = f"expected noise −{gain:.1f} dB" if gain else "as when the ranges were found"
        return f"channels scaled by {scales.min():.2g} to {scales.max():.2g}: {effect}"


@dataclass(frozen=True)
class Bounds:
    """How far scales may go (a factor and its inverse), and by how many dB noise must fall for them to be taken."""

    limit: float
    least_gain: float


Proposal = Callable[[Mapping[Tensor, ChannelMoments]], Floats]
"""What the samples show → a scale for each class, [classes], instead of those of least noise."""


def decide(
    graph: Graph,
    flow: ChannelFlow,
    starts: Mapping[Tensor, Indices],
    pass_: Pass,
    bounds: Bounds,
    ctx: Context,
    propose: Proposal | None = None,
) -> Choice | None:
    """The scales: those that came with the ranges, else what the samples say; None, and a remark, without either.

    Scales that samples decide go where the ranges go (`ctx.kept`): they belong to the scaled model.

    Args:
        graph: what the flow is of.
        flow: its classes are the ones to scale.
        starts: the tensors at which classes start, with the classes of their channels.
        pass_: for messages and names.
        bounds: see there.
        ctx: target, samples, ranges.
        propose: see `Proposal`.

    Raises:
        ConfigError: weights have planned ranges, which scaling would make wrong.
    """
    if graph.plan:
        raise ConfigError(
            f"{pass_.name} changes weights whose ranges are planned already: put it before plan-quantization"
        )
    if flow.count == 1:
        return None
    if ctx.ranges is not None:
        return _kept(flow, starts, pass_, ctx.ranges)
    if ctx.calibration is None:
        ctx.remarks.declined(None, "no samples to see channels on; give them with --calibration-data")
        return None
    seen = _observe(graph, flow, ctx)
    spreads = {t: Spread(m.high, m.below, m.mean_square, m.density) for t, m in seen.items()}
    noise = terms_of(graph, flow, spreads, ctx.target)
    choice = _choose(noise, flow.count, bounds, None if propose is None else propose(seen))
    for tensor, classes in starts.items():
        scales = choice.scales[classes]
        if (scales != 1).any():
            ctx.kept[f"{pass_.name}/{tensor.name}"] = Range(scales, scales)
    return choice


def _kept(flow: ChannelFlow, starts: Mapping[Tensor, Indices], pass_: Pass, ranges: Mapping[str, Range]) -> Choice:
    scales = np.ones(flow.count)
    for tensor, classes in starts.items():
        kept = ranges.get(f"{pass_.name}/{tensor.name}")
        if kept is not None and kept.low.shape == classes.shape:
            scales[classes] = kept.low
    scales[PINNED] = 1.0
    return Choice(scales, np.zeros(flow.count))


def _observe(graph: Graph, flow: ChannelFlow, ctx: Context) -> dict[Tensor, ChannelMoments]:
    """Moments of the tensors that the noise depends on."""
    assert ctx.calibration is not None  # asked by `decide`
    tensors = observed_tensors(graph, flow, ctx.target)
    found = collect_channels(
        detached(graph),
        {t.name: flow.tensors[t].axis for t in tensors},
        ctx.calibration,
        threads=ctx.threads,
        providers=ctx.resources.providers or None,
        memory_budget=ctx.resources.memory_budget,
    )
    return {t: found[t.name] for t in tensors if found[t.name].samples}


def _choose(noise: Sequence[Term], count: int, bounds: Bounds, proposed: Floats | None) -> Choice:
    """The scales of least noise, or those proposed; 1 where the noise falls too little."""
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
