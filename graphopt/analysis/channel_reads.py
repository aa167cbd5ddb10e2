"""Which output channels of a linear operation its weight lets hear which input channels.

A weight that is exactly 0 hears nothing, for finite activations (0 · ∞ is NaN): networks that were pruned by masking,
or whose BatchNormalization had a gamma of 0, have whole rows and columns of them. 1e-30 is not 0.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from graphopt.ir import Constant
from graphopt.ir.linear import Linear


def stored_values(constant: Constant) -> NDArray[Any]:
    """Its values, loaded for this question only: `Constant.values` would keep every weight of the model in memory."""
    lazy = constant.lazy
    return constant.values if lazy is None else lazy.load()


def channel_reads(linear: Linear) -> NDArray[np.bool_]:
    """[groups, output channels of the group, input channels of the group]: whether any of the weights isn't 0."""
    weight, rest = _by_group(linear)
    return _turned(linear, (weight != 0).any(axis=rest))


def summed_weights(linear: Linear) -> NDArray[np.float64]:
    """The weights summed over the kernel (and a MatMul's batch axes), shaped like `channel_reads`."""
    weight, rest = _by_group(linear)
    return _turned(linear, weight.sum(axis=rest, dtype=np.float64))


def _by_group(linear: Linear) -> tuple[NDArray[Any], tuple[int, ...]]:
    """The weight with a leading axis of groups, and the axes that hold neither output nor input channels."""
    shape = linear.grouped_shape if linear.is_conv else (1, *linear.weight.shape)
    kept = (0, linear.out_axis + 1, linear.in_axis + 1)
    return stored_values(linear.weight).reshape(shape), tuple(a for a in range(len(shape)) if a not in kept)


def _turned(linear: Linear, by_channels: NDArray[Any]) -> NDArray[Any]:
    return by_channels if linear.out_axis < linear.in_axis else by_channels.transpose(0, 2, 1)
