"""What statistics of each channel of a tensor share: rows of values, how many there were, and how many weren't zero."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def none_yet() -> Floats:
    """What a sum for each channel is before the number of channels is known."""
    return np.zeros(0)


@dataclass(eq=False)
class PerChannel:
    """What is remembered of each index of one axis; float64 [channels], empty until an array has been seen.

    Attributes:
        axis: of the arrays, the one that holds channels.
        nonzeros: how many values aren't zero.
        count: values of each channel so far.
    """

    axis: int
    nonzeros: Floats = field(default_factory=none_yet)
    count: int = 0

    @property
    def density(self) -> Floats:
        """The share of values that aren't zero."""
        return self.nonzeros / max(self.count, 1)

    def rows(self, array: NDArray[Any]) -> NDArray[Any]:
        """The values of one sample, [channels, values]."""
        return np.moveaxis(array, self.axis, 0).reshape(array.shape[self.axis], -1)

    def tally(self, rows: NDArray[Any]) -> None:
        """Count the values of one sample, which the caller has taken in otherwise."""
        nonzeros = np.count_nonzero(rows, axis=1).astype(np.float64)
        self.nonzeros = self.nonzeros + nonzeros if self.count else nonzeros
        self.count += rows.shape[1]
