"""Move outlier channels of activations into the weights that read them, where a constant before takes the scale.

    y = MatMul(LayerNormalization(x, γ, β), W)   →   y = MatMul(LayerNormalization(x, s·γ, s·β), W/s)
    y = MatMul(Add(Mul(x, γ), β), W)             →   y = MatMul(Add(Mul(x, s·γ), s·β), W/s)

In transformers a few channels of a normalised activation are many times larger than the rest, and one scale for the
tensor leaves the rest without steps. Each s is chosen for the least noise at the output, as in `equalize-channels`;
with `alpha` by the formula of SmoothQuant, over all samples and all weights that read the channel:

    1 / s_j = max|X_j|^α / max_k |W_jk|^(1−α)

The scale passes through what `graphopt.analysis.channels.flow` lists. Declines where something that can't be scaled
reads the result too, such as a residual connection behind the normalisation, and without samples.
Source: Xiao et al., "SmoothQuant: Accurate and Efficient Post-Training Quantization for Large Language Models",
ICML 2023, equation 4.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from graphopt.analysis.channels.classes import PINNED, ChannelFlow, Indices
from graphopt.analysis.channels.flow import channel_flow
from graphopt.analysis.noise_gain import Floats, weight_blocks
from graphopt.analysis.rescale import rescale
from graphopt.calibration.channel_moments import ChannelMoments
from graphopt.ir import Graph, Tensor
from graphopt.passes._channel_scaling import Bounds, Proposal, decide
from graphopt.pipeline import Context, Pass


@dataclass(frozen=True)
class SmoothActivations(Pass):
    """Scale channels between a normalisation and the weights behind it.

    Attributes:
        alpha: how much of the difference between channels moves into the weights, from 0 to 1; none: what gives the
            least noise.
        least_gain: dB that the expected noise must fall by for channels to be touched.
        limit: the largest factor, and its inverse the smallest.
    """

    name: ClassVar[str] = "smooth-activations"
    summary: ClassVar[str] = "move outlier channels behind a normalisation into the weights that read them"
    lossless: ClassVar[bool] = True

    alpha: float | None = None
    least_gain: float = 0.5
    limit: float = 1024.0

    def __post_init__(self) -> None:
        if self.alpha is not None and not 0 <= self.alpha <= 1:
            raise ValueError(f"alpha is {self.alpha}; expected a number from 0 to 1")
        if not self.limit > 1:
            raise ValueError(f"limit is {self.limit}; expected more than 1")

    def run(self, graph: Graph, ctx: Context) -> None:
        """Choose all scales from the graph as it is, then write them."""
        flow = channel_flow(graph, affine_sources=True)
        for node in flow.sources:
            if node in flow.pinned:
                ctx.remarks.declined(node, flow.pinned[node])
        started = np.unique([PINNED, *(int(c) for classes in flow.sources.values() for c in classes)])
        numbers = np.full(flow.count, PINNED)
        numbers[started] = np.arange(len(started))
        flow = flow.renumbered(numbers)
        starts: dict[Tensor, Indices] = {node.outputs[0]: classes for node, classes in flow.sources.items()}
        alpha = self.alpha
        propose: Proposal | None = None if alpha is None else lambda seen: smoothing_scales(flow, seen, alpha)
        choice = decide(graph, flow, starts, self, Bounds(self.limit, self.least_gain), ctx, propose)
        if choice is None:
            return
        rescale(graph, flow, choice.scales)
        for node, classes in flow.sources.items():
            told = choice.told(classes)
            if told is not None:
                ctx.remarks.applied(node, told)
            elif classes.any():
                ctx.remarks.declined(node, f"the expected noise falls by less than {self.least_gain:g} dB")


def smoothing_scales(flow: ChannelFlow, seen: Mapping[Tensor, ChannelMoments], alpha: float) -> Floats:
    """SmoothQuant's scale of each class, with a geometric mean of 1 over each source's channels."""
    activation, weight = np.zeros(flow.count), np.zeros(flow.count)
    for step in flow.linears:
        if step.inputs.any() and step.linear.data in seen:
            np.maximum.at(activation, step.inputs, seen[step.linear.data].largest)
            np.maximum.at(weight, step.inputs, np.abs(weight_blocks(step.linear)).max(axis=(1, 3)).reshape(-1))
    live = (activation > 0) & (weight > 0)
    live[PINNED] = False
    logs = np.zeros(flow.count)
    logs[live] = (1 - alpha) * np.log(weight[live]) - alpha * np.log(activation[live])
    for classes in flow.sources.values():
        own = classes[live[classes]]
        if len(own):
            logs[own] -= logs[own].mean()
    return np.exp(logs)
