"""What the channels of a tensor that go can be told from those that stay: a linear map along the channel axis.

    x'_j = x_j  for channels that stay,     x'_R = μ_R + B·(x_S − μ_S),     B = M_RS (M_SS + λ·I)⁻¹,     M = Cov(x)

A layer that reads x' is the layer that reads x_S with the weights W_S + W_R·B: pruned, and refitted in closed form.
For a kernel larger than 1×1 it is so with the same B for each of its positions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

# As in the elimination of units: a share of the mean variance, against directions that samples show by chance.
_DAMPING = 0.01
Array = NDArray[np.float64]


@dataclass(frozen=True)
class ChannelMap:
    """x' = x @ matrix + shift along the channels.

    Attributes:
        matrix: [channels, channels].
        shift: [channels].
    """

    matrix: Array
    shift: Array


@dataclass(frozen=True)
class ChannelStatistics:
    """Means and covariances of the channels of a tensor.

    Attributes:
        mean: [channels].
        covariance: [channels, channels].
    """

    mean: Array
    covariance: Array

    @staticmethod
    def of(samples: Sequence[NDArray[Any]], axis: int) -> ChannelStatistics:
        """From the tensor's value for each sample; all positions count alike."""
        rows = [np.moveaxis(array, axis, -1).reshape(-1, array.shape[axis]) for array in samples]
        count = sum(len(r) for r in rows)
        mean = np.sum([r.sum(axis=0, dtype=np.float64) for r in rows], axis=0) / count
        second = np.zeros((len(mean), len(mean)))
        for r in rows:
            centred = r - mean.astype(r.dtype)
            second += centred.T @ centred
        return ChannelStatistics(mean, second / count)

    def without(self, stays: NDArray[np.bool_]) -> ChannelMap:
        """The map that tells the other channels from those that stay: [channels]."""
        kept, gone = np.flatnonzero(stays), np.flatnonzero(~stays)
        matrix = np.diag(stays.astype(np.float64))
        inner = self.covariance[np.ix_(kept, kept)]
        ridge = _DAMPING * float(np.trace(self.covariance)) / len(self.mean)
        if len(gone) and len(kept) and ridge > 0:
            told = np.linalg.solve(inner + ridge * np.eye(len(kept)), self.covariance[np.ix_(kept, gone)])
            matrix[np.ix_(kept, gone)] = told
        shift = np.where(stays, 0.0, self.mean - np.where(stays, self.mean, 0.0) @ matrix)
        return ChannelMap(matrix, shift)


def zeroed(stays: NDArray[np.bool_]) -> ChannelMap:
    """The map that sets the channels that don't stay to 0."""
    return ChannelMap(np.diag(stays.astype(np.float64)), np.zeros(len(stays)))
