"""How much of the noise at each channel of a tensor reaches the model's outputs, to first order.

    G_c = Σ_o G_o · Σ_k W_ock²        through a linear operation
    G at an end                       1 / E[x²] of the tensor there

An end is a graph output, or an operation that `channels.flow` can't see through: a Sigmoid, a Softmax, a product of two
activations. Noise counts there in proportion to the signal, so that all ends weigh the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graphopt.analysis.channels.classes import ChannelFlow, LinearStep, Step
from graphopt.ir import Graph, Tensor
from graphopt.ir.linear import Linear, reads_shape_only
from graphopt.ir.operands import int_list, static_shape

Floats = NDArray[np.float64]


def weight_blocks(linear: Linear) -> NDArray[Any]:
    """A view of the weight as [groups, output channels, input channels, others], channels being those of one group."""
    values = linear.weight.values.reshape(linear.grouped_shape)
    if linear.is_conv:
        values = np.moveaxis(values, (linear.out_axis + 1, linear.in_axis + 1), (1, 2))
    else:
        values = np.moveaxis(values, (linear.out_axis, linear.in_axis), (0, 1))[None]
    return values.reshape(*values.shape[:3], -1)


def find_ends(graph: Graph, flow: ChannelFlow) -> list[Tensor]:
    """Tensors at which noise is counted, in graph order."""
    seen = {(s.linear.node, s.linear.data) for s in flow.linears} | {(s.node, s.operand) for s in flow.steps}
    inner = {s.linear.output for s in flow.linears if s.result is not s.linear.output}

    def leaves(tensor: Tensor) -> bool:
        readers = (n for n in graph.consumers(tensor) if not reads_shape_only(n))
        return graph.is_output(tensor) or any((n, tensor) not in seen for n in readers)

    return [tensor for tensor in flow.tensors if tensor not in inner and leaves(tensor)]


def noise_gains(flow: ChannelFlow, at_ends: Mapping[Tensor, float]) -> dict[Tensor, Floats]:
    """G of each channel of each tensor of the flow, [channels]; `at_ends` has it for the ends.

    Numbers may leave float64's range in networks of hundreds of layers: then all are 1.
    """
    gains = {t: np.full(len(c.classes), at_ends.get(t, 0.0)) for t, c in flow.tensors.items()}
    position = {t: k for k, t in enumerate(flow.tensors)}
    steps: list[Step | LinearStep] = [*flow.steps, *(s for s in flow.linears if s.result in position)]
    with np.errstate(over="ignore", invalid="ignore"):
        for step in sorted(steps, key=lambda s: position[s.result], reverse=True):
            out = gains[step.result]
            if isinstance(step, Step):
                kept = step.source >= 0
                np.add.at(gains[step.operand], step.source[kept], _averaged(step) * out[kept])
            elif step.linear.data in gains:
                blocks = weight_blocks(step.linear)
                behind = out.reshape(blocks.shape[:2])
                gains[step.linear.data] += np.einsum("goik,goik,go->gi", blocks, blocks, behind).reshape(-1)
    if all(np.isfinite(g).all() for g in gains.values()):
        return gains
    return {t: np.ones_like(g) for t, g in gains.items()}


def _averaged(step: Step) -> float:
    """1 / the number of values that an average is made of: independent errors cancel in it."""
    if step.node.is_op("AveragePool"):
        return 1 / prod(int_list(step.node, "kernel_shape", 1) or [1])
    if step.node.is_op("GlobalAveragePool", "ReduceMean"):
        before, after = static_shape(step.operand.shape), static_shape(step.result.shape)
        return 1.0 if before is None or after is None else prod(after) / max(prod(before), 1)
    return 1.0
