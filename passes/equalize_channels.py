"""Scale channels against each other between layers, so that the grid they share fits them all.

    y = Conv(Relu(Conv(x, W, b)), V)                →   y = Conv(Relu(Conv(x, s·W, s·b)), V/s)          s > 0
    y = Add(Conv(x, W), z), z read by other Adds    →   all that take part get one s per channel
    Conv → Relu6                                    declined: min(s·x, 6) isn't s·min(x, 6)

A tensor has one scale in 8 bits, so a channel of small values has few of its steps. Multiplying it by s > 1 gives it
more, and costs the weights behind, V/s, accuracy beside those of other channels; a depthwise V has a scale per channel
and loses nothing. `graphopt.analysis.channels.flow` says which channels can be scaled, through which operations and
together with which others; `channel_noise` what noise a choice of s gives at the output for the target's grids and what
the samples show, a convex function whose minimum is taken.

Declines without samples (scales that the weights alone suggested made 7 of 12 networks worse, by 1 to 8 dB), and where
the expected noise hardly falls: then it is chance how weights round.
Source of the idea: Nagel et al., "Data-Free Quantization Through Weight Equalization and Bias Correction", ICCV 2019.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from graphopt.analysis.channels.flow import channel_flow
from graphopt.analysis.noise_gain import Floats
from graphopt.analysis.rescale import rescale
from graphopt.ir import Graph, fill_types, from_proto, to_proto
from graphopt.passes._channel_scaling import Bounds, decide
from graphopt.passes._trial import trial_sqnr
from graphopt.pipeline import Context, Pass


@dataclass(frozen=True)
class EqualizeChannels(Pass):
    """Scale channels so that quantization noise is least.

    Attributes:
        least_gain: dB that the expected noise must fall by for channels to be touched.
        limit: the largest factor, and its inverse the smallest.
        trial: calibration samples on which the model is quantized with and without the scales, which are dropped when
            they don't pay; 0 trusts the expected noise.
    """

    name: ClassVar[str] = "equalize-channels"
    summary: ClassVar[str] = "scale channels between layers so that the grids they share fit them all"
    lossless: ClassVar[bool] = True

    least_gain: float = 0.5
    limit: float = 256.0
    trial: int = 0

    def __post_init__(self) -> None:
        if not self.limit > 1:
            raise ValueError(f"limit is {self.limit}; expected more than 1")
        if self.trial < 0:
            raise ValueError(f"trial is {self.trial}; expected at least 0")

    def run(self, graph: Graph, ctx: Context) -> None:
        """Choose all scales from the graph as it is, then write them."""
        flow = channel_flow(graph)
        for node, reason in flow.pinned.items():
            ctx.remarks.declined(node, reason)
        starts = {step.result: step.outputs for step in flow.linears}
        choice = decide(graph, flow, starts, self, Bounds(self.limit, self.least_gain), ctx)
        if choice is None:
            return
        if self.trial and not self._pays(graph, ctx, choice.scales):
            return
        rescale(graph, flow, choice.scales)
        for step in flow.linears:
            told = choice.told(step.outputs)
            if told is not None:
                ctx.remarks.applied(step.linear.node, told)
            elif step.outputs.any():
                ctx.remarks.declined(step.linear.node, f"the expected noise falls by less than {self.least_gain:g} dB")

    def _pays(self, graph: Graph, ctx: Context, scales: Floats) -> bool:
        """Whether the quantized model is better with the scales, where that can be measured."""
        if ctx.ranges is not None or ctx.calibration is None or ctx.target is None or (scales == 1).all():
            return True
        copy = from_proto(to_proto(graph))
        fill_types(copy)
        rescale(copy, channel_flow(copy), scales)
        samples = ctx.calibration.limited(self.trial)
        without, with_ = (trial_sqnr(tried, ctx, samples) for tried in (graph, copy))
        said = f"{without:.1f} dB without scaled channels and {with_:.1f} dB with, in 8 bits on {self.trial} samples"
        if with_ > without:
            ctx.remarks.note(None, said)
            return True
        ctx.remarks.declined(None, said)
        for name in [name for name in ctx.kept if name.startswith(f"{self.name}/")]:
            del ctx.kept[name]
        return False
