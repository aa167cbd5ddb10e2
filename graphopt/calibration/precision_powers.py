"""Powers of tensors and of what they differ by, summed up in the model: scalars are all that is fetched of a sample."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from itertools import cycle

import numpy as np
from numpy.typing import NDArray

from graphopt.calibration.lanes import in_lanes
from graphopt.calibration.precision_copies import Copies, open_copies
from graphopt.calibration.samples import Feed
from graphopt.calibration.session import run_session
from graphopt.errors import CalibrationError


class Powers:
    """Sums of squares over samples; all are float32 or float64 tensors.

    Attributes:
        samples: how many were run.
    """

    def __init__(
        self, copies: Copies, pairs: Sequence[tuple[str, str]], extra: Iterable[str] = (), *, threads: int
    ) -> None:
        """Open the session.

        Args:
            copies: the float model and copies of parts of it; nothing is added to it any more.
            pairs: (tensor of a copy, tensor of the model) to compare.
            extra: other tensors of the model.
            threads: of the session.
        """
        self._pairs = list(pairs)
        for copy, exact in pairs:
            copies.squared_difference(copy, exact)
        self._compared = {exact for _, exact in pairs}
        self._names = list(dict.fromkeys([*(exact for _, exact in pairs), *extra]))
        for name in self._names:
            copies.squares(name)
        self._session = open_copies(copies.finished(), threads=threads)
        self._total = np.zeros(len(self._pairs) + len(self._names))
        self.samples = 0

    @property
    def signals(self) -> dict[str, float]:
        """Of each tensor of the float model that is compared, or that was asked for besides."""
        return dict(zip(self._names, self._total[len(self._pairs) :].tolist(), strict=True))

    def sums(self, where: str, feed: Feed) -> NDArray[np.float64]:
        """Those of one sample, for `add`.

        Raises:
            CalibrationError: it fails, or an input or a tensor to compare holds NaN, or an input infinity.
        """
        require_finite(feed, where)
        found = np.array([float(v) for v in run_session(self._session, feed, where)])
        for name, signal in zip(self._names, found[len(self._pairs) :], strict=True):
            if math.isnan(signal) and name in self._compared:
                raise CalibrationError(f"{where}: tensor '{name}' holds NaN")
        return found

    def add(self, sums: NDArray[np.float64]) -> None:
        """Take in a sample."""
        self._total += sums
        self.samples += 1

    def relative(self) -> list[float]:
        """Noise over signal of each pair; at least 0.

        Infinite where squares leave float32's range (a mask of −3e38): few bits won't hold that.
        """
        signals = self.signals
        return [_share(noise, signals[exact]) for noise, (_, exact) in zip(self._total, self._pairs, strict=False)]


def run_in_turns(powers: Sequence[Powers], numbered: Iterable[tuple[str, Feed]], lanes: int) -> None:
    """Run samples, (where it is from, sample) each, through one of `powers` each, in turns.

    Raises:
        CalibrationError: see `Powers.sums`.
    """

    def run(item: tuple[Powers, tuple[str, Feed]]) -> tuple[Powers, NDArray[np.float64]]:
        chosen, (where, feed) = item
        return chosen, chosen.sums(where, feed)

    for chosen, sums in in_lanes(run, zip(cycle(powers), numbered, strict=False), lanes):
        chosen.add(sums)


def require_finite(feed: Feed, where: str) -> None:
    """Refuse a sample with NaN or infinity: every power would be infinite.

    Raises:
        CalibrationError: an input holds one; the message starts with `where`.
    """
    for name, value in feed.items():
        if value.dtype.kind == "f" and not np.isfinite(value).all():
            raise CalibrationError(f"{where}: input '{name}' holds NaN or infinity")


def _share(noise: float, signal: float) -> float:
    if noise == 0:
        return 0.0
    if signal == 0:
        return 1.0
    return noise / signal if math.isfinite(noise) and math.isfinite(signal) else math.inf
