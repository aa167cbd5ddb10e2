"""Which output channels of a linear operation its weight lets hear which input channels.

A weight that is exactly 0 hears nothing, for finite activations (0 · ∞ is NaN): networks that were pruned by masking,
or whose BatchNormalization had a gamma of 0, have whole rows and columns of them. 1e-30 is not 0.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from graphopt.ir import Constant
from graphopt.ir.linear import Linear

Mask: TypeAlias = NDArray[np.bool_]

# Of each channel's weights; when one of them tells, the others needn't be looked at.
_FEW = 8


def stored_values(constant: Constant) -> NDArray[Any]:
    """Its values, loaded for this question only: `Constant.values` would keep every weight of the model in memory."""
    lazy = constant.lazy
    return constant.values if lazy is None else lazy.load()


@dataclass(frozen=True)
class WeightFacts:
    """What the zeros and signs of a weight say, in one look at it.

    Attributes:
        hearing: [out_channels], whether an output channel hears any input channel.
        heard: [in_channels], whether any output channel hears an input channel.
        raised: [out_channels], whether an output channel has a weight that isn't ≤ 0.
    """

    hearing: Mask
    heard: Mask
    raised: Mask


def weight_facts(linear: Linear) -> WeightFacts:
    """Read the weight once; a few of each channel's weights mostly tell."""
    weight = _by_group(linear)
    return WeightFacts(
        hearing=_some(weight, lambda values: values != 0),
        heard=_some(weight.swapaxes(1, 2), lambda values: values != 0),
        raised=_some(weight, lambda values: ~(values <= 0)),
    )


def channel_reads(linear: Linear) -> Mask:
    """[groups, output channels of the group, input channels of the group]: whether any of the weights isn't 0."""
    weight = _by_group(linear)
    return (weight != 0).any(axis=tuple(range(3, weight.ndim)))


def summed_weights(linear: Linear) -> NDArray[np.float64]:
    """The weights summed over the kernel (and a MatMul's batch axes), shaped like `reads`."""
    weight = _by_group(linear)
    return weight.sum(axis=tuple(range(3, weight.ndim)), dtype=np.float64)


def _some(weight: NDArray[Any], holds: Callable[[NDArray[Any]], Mask]) -> Mask:
    """For each channel of [groups, channels, others, …] whether it holds for any of its weights."""
    found = np.asarray(holds(weight[:, :, :_FEW]).any(axis=tuple(range(2, weight.ndim))))
    rest = ~found
    if rest.any():
        found[rest] = holds(weight[rest]).any(axis=tuple(range(1, weight.ndim - 1)))
    return found.reshape(-1)


def _by_group(linear: Linear) -> NDArray[Any]:
    """The weight as [groups, output channels, input channels, …]: a view, where groups are a leading axis."""
    shape = linear.grouped_shape if linear.is_conv else (1, *linear.weight.shape)
    weight = stored_values(linear.weight).reshape(shape)
    return np.moveaxis(weight, (linear.out_axis + 1, linear.in_axis + 1), (1, 2))
