"""What channels hold when there are no samples: normal distributions carried through the weights.

    linear     mean = W·mean + b,  variance = W²·variance         inputs of the graph: mean 0, variance 1
    Relu       the moments of a normal distribution cut off at zero; LeakyRelu likewise, bent there
    others     as their operands; a sum adds up

A channel reaches from mean − 6σ to mean + 6σ. Source: Nagel et al. 2019, section 4.2 and appendix C, who take mean and
σ from BatchNorm; in a model with folded BatchNorm what its weights make of normal noise stands for them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from graphopt.analysis.channel_flow import ChannelFlow, LinearStep, Step
from graphopt.analysis.channel_terms import Spread
from graphopt.analysis.noise_gain import Floats, weight_blocks
from graphopt.ir import Graph, Tensor
from graphopt.ir.linear_edit import Declined, affine_output

_REACH = 6.0  # standard deviations
_LEAST = 1e-30


@dataclass(frozen=True, eq=False)
class _Normal:
    """Moments, reach on both sides and share of values other than zero, [channels] each."""

    mean: Floats
    variance: Floats
    high: Floats
    below: Floats
    density: Floats

    @property
    def fields(self) -> tuple[Floats, ...]:
        """All of them in order."""
        return self.mean, self.variance, self.high, self.below, self.density


def guess_spreads(graph: Graph, flow: ChannelFlow) -> dict[Tensor, Spread]:
    """The spread of every tensor of the flow; each step is seen once, in graph order."""
    position = {t: k for k, t in enumerate(flow.tensors)}
    found: dict[Tensor, _Normal] = {}
    steps: list[Step | LinearStep] = [*(s for s in flow.linears if s.result in position), *flow.steps]
    for step in sorted(steps, key=lambda s: position[s.result]):
        if isinstance(step, Step):
            found[step.result] = _through(step, found)
        else:
            found[step.result] = found[step.linear.output] = _linear(graph, step, found.get(step.linear.data))
    return {tensor: _spread(normal) for tensor, normal in found.items()}


def _linear(graph: Graph, step: LinearStep, data: _Normal | None) -> _Normal:
    linear, blocks = step.linear, weight_blocks(step.linear)
    shape = (blocks.shape[0], blocks.shape[2])
    mean = np.zeros(shape) if data is None else data.mean.reshape(shape)
    variance = np.ones(shape) if data is None else data.variance.reshape(shape)
    out = np.einsum("goik,gi->go", blocks, mean, dtype=np.float64).reshape(-1)
    edit = affine_output(graph, linear, np.ones(linear.out_channels))
    if not isinstance(edit, Declined) and edit.bias is not None and edit.bias.size == len(out):
        out = out + edit.bias.reshape(-1)
    return _normal(out, np.einsum("goik,goik,gi->go", blocks, blocks, variance, dtype=np.float64).reshape(-1))


def _normal(mean: Floats, variance: Floats) -> _Normal:
    reach = _REACH * np.sqrt(variance)
    return _Normal(mean, variance, np.maximum(mean + reach, 0), np.maximum(reach - mean, 0), np.ones_like(mean))


def _through(step: Step, found: dict[Tensor, _Normal]) -> _Normal:
    operand = found[step.operand]
    if step.node.is_op("Relu"):
        return _bent(operand, 0.0)
    if step.node.is_op("LeakyRelu"):
        return _bent(operand, float(step.node.attr("alpha", 0.01)))
    kept = step.source >= 0
    before = found.get(step.result)  # of the other operand of a sum, or of the other parts of a Concat
    totals = [np.zeros(len(step.source)) for _ in operand.fields] if before is None else list(before.fields)
    for total, values in zip(totals, operand.fields, strict=True):
        total[kept] += values[step.source[kept]]
    mean, variance, high, below, density = totals
    return _Normal(mean, variance, high, below, np.minimum(density, 1))


def _bent(normal: _Normal, alpha: float) -> _Normal:
    """X for x ≥ 0 and alpha·x below, of a normal x."""
    sigma = np.sqrt(np.maximum(normal.variance, _LEAST))
    ratio = normal.mean / sigma
    above = np.array([0.5 * (1 + math.erf(r / math.sqrt(2))) for r in ratio.tolist()])
    height = sigma * np.exp(-0.5 * ratio**2) / math.sqrt(2 * math.pi)
    mean = normal.mean * above + height
    square = (normal.mean**2 + normal.variance) * above + normal.mean * height
    # What is below zero is the rest of each moment.
    square = square + alpha**2 * (normal.mean**2 + normal.variance - square)
    mean = mean + alpha * (normal.mean - mean)
    density = normal.density * (above if alpha == 0 else 1.0)
    return _Normal(mean, np.maximum(square - mean**2, 0), normal.high, abs(alpha) * normal.below, density)


def _spread(normal: _Normal) -> Spread:
    return Spread(normal.high, normal.below, normal.mean**2 + normal.variance, normal.density)
