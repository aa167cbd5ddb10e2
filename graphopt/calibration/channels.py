"""The extremes of each channel: what weights are scaled by."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graphopt.calibration.statistics import NotFiniteError, State
from graphopt.quant import Range


@dataclass(eq=False)
class ChannelMinMax:
    """The smallest and the largest value of each index of one axis; see `MinMax` for a whole tensor.

    Attributes:
        axis: of the arrays, the one that holds channels; negative counts from the end.
        lows, highs: float64 [channels]; a low is above its high until the channel has had a value. Empty until an
            array has been seen.
    """

    axis: int
    lows: NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))
    highs: NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))

    @property
    def is_empty(self) -> bool:
        """Whether some channel has had no value, so that there are no ranges yet."""
        return not len(self.lows) or bool((self.lows > self.highs).any())

    def update(self, array: NDArray[Any]) -> None:
        """Take in more values, of any shape with as many channels as before.

        Raises:
            NotFiniteError: a value is NaN or infinite; the statistic is as it was.
            ValueError: the number of channels is another one.
        """
        others = tuple(i for i in range(array.ndim) if i != self.axis % array.ndim)
        lows = np.min(array, axis=others, initial=math.inf).astype(np.float64)
        highs = np.max(array, axis=others, initial=-math.inf).astype(np.float64)
        if array.size and not (np.isfinite(lows).all() and np.isfinite(highs).all()):
            channel = int(np.nonzero(~(np.isfinite(lows) & np.isfinite(highs)))[0][0])
            raise NotFiniteError(
                f"channel {channel} ranges over [{lows[channel]}, {highs[channel]}]; expected finite values"
            )
        self._take_in(lows, highs)

    def merge(self, other: ChannelMinMax) -> None:
        """Take in what another statistic of the same tensor has seen."""
        if len(other.lows):
            self._take_in(other.lows, other.highs)

    def state(self) -> dict[str, NDArray[Any]]:
        """`axis` (int64, rank 0), `lows` and `highs` (float64, [channels])."""
        return {"axis": np.asarray(self.axis, np.int64), "lows": self.lows.copy(), "highs": self.highs.copy()}

    @classmethod
    def from_state(cls, state: State) -> ChannelMinMax:
        """The statistic that `state` was taken from."""
        return cls(int(state["axis"]), state["lows"].copy(), state["highs"].copy())

    def ranges(self) -> Range:
        """The range of each channel, [channels]; every channel must have had a value."""
        return Range(self.lows, self.highs)

    def _take_in(self, lows: NDArray[np.float64], highs: NDArray[np.float64]) -> None:
        if not len(self.lows):
            self.lows, self.highs = np.full(len(lows), math.inf), np.full(len(highs), -math.inf)
        if len(lows) != len(self.lows):
            raise ValueError(f"{len(lows)} channels after {len(self.lows)}")
        # Adding 0.0 turns -0.0 into 0.0: min(0.0, -0.0) depends on the order.
        self.lows = np.minimum(self.lows, lows) + 0.0
        self.highs = np.maximum(self.highs, highs) + 0.0
