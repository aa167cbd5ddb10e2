"""Scale channels against each other between layers, so that the grid they share fits them all.

    y = Conv(Relu(Conv(x, W, b)), V)                →   y = Conv(Relu(Conv(x, s·W, s·b)), V/s)          s > 0
    Conv → Relu6                                    declined: min(s·x, 6) isn't s·min(x, 6)
    y = Add(Conv(x), z), z read by other Adds       all take one s per channel, or none

A tensor has one scale in 8 bits, so a channel of small values has few of its steps. Multiplying it by s > 1 gives it
more, and costs the weights behind, V/s, accuracy beside those of other channels; a depthwise V has a scale per channel
and loses nothing. `graphopt.analysis.channel_flow` says which channels can be scaled, through which operations and
together with which others; `channel_noise` what noise a choice of s gives at the output for the target's grids, a
convex function whose minimum is taken. It looks at the samples; without samples at what the weights make of noise.

Declines where the expected noise falls by less than `least_gain`: how single weights happen to be rounded decides then.
Source of the idea: Nagel et al., "Data-Free Quantization Through Weight Equalization and Bias Correction", ICCV 2019.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from graphopt.analysis.channel_flow import ChannelFlow, channel_flow
from graphopt.analysis.channel_guess import guess_spreads
from graphopt.analysis.channel_noise import Term, expected_noise, least_noise, separate
from graphopt.analysis.channel_terms import Spread, observed_tensors, terms_of
from graphopt.analysis.noise_gain import Floats
from graphopt.analysis.rescale import rescale
from graphopt.calibration.channel_moments import collect_channels
from graphopt.errors import ConfigError
from graphopt.ir import Graph, Node, Tensor, to_proto
from graphopt.pipeline import Context, Pass

# Scales are powers of 2^(1/64): the last bits of sums over samples, which depend on their order, don't show in weights.
_STEPS_PER_OCTAVE = 64


@dataclass(frozen=True)
class EqualizeChannels(Pass):
    """Scale channels so that quantization noise is least.

    Attributes:
        least_gain: dB that the expected noise must fall by for channels to be touched.
        limit: the largest factor, and its inverse the smallest.
    """

    name: ClassVar[str] = "equalize-channels"
    summary: ClassVar[str] = "scale channels between layers so that the grids they share fit them all"
    lossless: ClassVar[bool] = True

    least_gain: float = 1.0
    limit: float = 256.0

    def __post_init__(self) -> None:
        if not self.limit > 1:
            raise ValueError(f"limit is {self.limit}; expected more than 1")

    def run(self, graph: Graph, ctx: Context) -> None:
        """Choose all scales from the graph as it is, then write them."""
        if graph.plan:
            raise ConfigError("equalize-channels changes weights whose ranges are planned: put it before the planning")
        flow = channel_flow(graph)
        for node, reason in flow.pinned.items():
            ctx.remarks.declined(node, reason)
        if flow.count == 1:
            return
        spreads = _spreads(graph, flow, ctx)
        scales, gains = self._solve(flow, terms_of(graph, flow, spreads, ctx.target))
        rescale(graph, flow, scales)
        for node, (low, high, gain) in _ranges(flow, scales, gains).items():
            if low == high == 1:
                ctx.remarks.declined(node, f"the expected noise falls by less than {self.least_gain:g} dB")
            else:
                ctx.remarks.applied(node, f"channels scaled by {low:.2g} to {high:.2g}: expected noise −{gain:.1f} dB")

    def _solve(self, flow: ChannelFlow, terms: list[Term]) -> tuple[Floats, Floats]:
        """(scale, gain in dB) of each class."""
        scales, gains = np.ones(flow.count), np.zeros(flow.count)
        for part in separate(terms):
            logs = least_noise(part.terms, part.count, float(np.log(self.limit)))
            logs = np.rint(logs / np.log(2) * _STEPS_PER_OCTAVE) / _STEPS_PER_OCTAVE * np.log(2)
            before, after = (expected_noise(part.terms, u) for u in (np.zeros(part.count), logs))
            gain = 10 * np.log10(before / after) if after > 0 else 0.0
            if gain >= self.least_gain:
                scales[part.classes], gains[part.classes] = np.exp(logs[1:]), gain
        return scales, gains


def _spreads(graph: Graph, flow: ChannelFlow, ctx: Context) -> dict[Tensor, Spread]:
    """What the channels hold: on the samples where there are any."""
    if ctx.calibration is None:
        if ctx.ranges is not None:
            raise ConfigError(
                "equalize-channels needs the samples that the ranges file was made with: they decide by how much "
                "channels are scaled; give them too, or skip it here and when you calibrate"
            )
        ctx.remarks.note(None, "without samples: what channels hold is estimated from the weights")
        return guess_spreads(graph, flow)
    tensors = observed_tensors(graph, flow, ctx.target)
    moments = collect_channels(
        to_proto(graph),
        {t.name: flow.tensors[t].axis for t in tensors},
        ctx.calibration,
        threads=ctx.threads,
        providers=ctx.resources.providers or None,
        memory_budget=ctx.resources.memory_budget,
    )
    found = {t: moments[t.name] for t in tensors}
    return {t: Spread(m.high, m.below, m.mean_square, m.density) for t, m in found.items() if m.samples}


def _ranges(flow: ChannelFlow, scales: Floats, gains: Floats) -> dict[Node, tuple[float, float, float]]:
    """(smallest scale, largest scale, gain) for each linear operation whose results may be scaled."""
    free = {s.linear.node: s.outputs[s.outputs > 0] for s in flow.linears}
    return {
        node: (float(scales[c].min()), float(scales[c].max()), float(gains[c].max()))
        for node, c in free.items()
        if len(c)
    }
