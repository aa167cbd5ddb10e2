"""How each channel of a tensor spreads: mean, mean magnitude, variance and zeros, streamed sample by sample."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graphopt.calibration.per_channel import Floats, PerChannel, none_yet
from graphopt.errors import CalibrationError


@dataclass(eq=False)
class Spread(PerChannel):
    """Sums for each index of one axis.

    Attributes:
        sums, magnitudes, squares: sums of x − origin, |x| and (x − origin)².
    """

    sums: Floats = field(default_factory=none_yet)
    magnitudes: Floats = field(default_factory=none_yet)
    squares: Floats = field(default_factory=none_yet)
    # The first sample's means: sums of squares around 0 lose variances that are small beside a mean.
    _origin: Floats = field(default_factory=none_yet)

    @property
    def mean(self) -> Floats:
        """E[x]."""
        return self._origin + self.sums / max(self.count, 1)

    @property
    def magnitude(self) -> Floats:
        """E|x|."""
        return self.magnitudes / max(self.count, 1)

    @property
    def variance(self) -> Floats:
        """E[(x − E[x])²]."""
        count = max(self.count, 1)
        return np.maximum(self.squares / count - np.square(self.sums / count), 0.0)

    def update(self, array: NDArray[Any]) -> None:
        """Take in one sample's values, of any shape with as many channels as before.

        Raises:
            CalibrationError: a value is NaN or infinite.
        """
        rows = self.rows(array)
        if not rows.size:
            return
        if not self.count:
            channels = len(rows)
            self._origin = rows.mean(axis=1, dtype=np.float64)
            self.sums, self.magnitudes = np.zeros(channels), np.zeros(channels)
            self.squares = np.zeros(channels)
        centred = rows - self._origin[:, None]
        if not np.isfinite(centred).all():
            raise CalibrationError("it holds NaN or infinity; expected finite values")
        self.sums += centred.sum(axis=1)
        self.squares += np.einsum("ci,ci->c", centred, centred)
        self.magnitudes += np.abs(rows).sum(axis=1, dtype=np.float64)
        self.tally(rows)
