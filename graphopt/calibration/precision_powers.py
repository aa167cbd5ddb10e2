"""Powers of tensors and of what they differ by, summed up in the model: scalars are all that is fetched of a sample."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from graphopt.calibration.lanes import in_lanes, lanes_of
from graphopt.calibration.precision_copies import Copies
from graphopt.calibration.samples import Feed
from graphopt.calibration.session import open_session, run_session
from graphopt.errors import CalibrationError


class Powers:
    """Sums of squares over samples; all are float32 or float64 tensors.

    Attributes:
        signals: of each tensor of the float model that is compared, or that was asked for besides.
        samples: how many were run.
    """

    def __init__(
        self, copies: Copies, pairs: Sequence[tuple[str, str]], extra: Iterable[str] = (), *, threads: int | None
    ) -> None:
        """Open the session.

        Args:
            copies: the float model and copies of parts of it; nothing is added to it any more.
            pairs: (tensor of a copy, tensor of the model) to compare.
            extra: other tensors of the model.
            threads: of onnxruntime; None lets it take the cores.
        """
        self._pairs = list(pairs)
        for copy, exact in pairs:
            copies.squared_difference(copy, exact)
        self._compared = {exact for _, exact in pairs}
        self._names = list(dict.fromkeys([*(exact for _, exact in pairs), *extra]))
        for name in self._names:
            copies.squares(name)
        self._lanes, threads = lanes_of(threads)
        self._session = open_session(copies.finished(), threads=threads, integers=False)
        self._noises: list[float] = [0.0] * len(self._pairs)
        self.signals: dict[str, float] = {}
        self.samples = 0

    def over(self, numbered: Iterable[tuple[str, Feed]]) -> None:
        """Run samples: (where it is from, sample) each.

        Raises:
            CalibrationError: one fails, or an input or a tensor to compare holds NaN, or an input infinity.
        """
        total = np.zeros(len(self._pairs) + len(self._names))
        for found in in_lanes(self._run, numbered, self._lanes):
            total += found
            self.samples += 1
        self._noises = total[: len(self._pairs)].tolist()
        self.signals = dict(zip(self._names, total[len(self._pairs) :].tolist(), strict=True))

    def relative(self) -> list[float]:
        """Noise over signal of each pair; at least 0.

        Infinite where squares leave float32's range (a mask of −3e38): few bits won't hold that.
        """
        return [_share(noise, self.signals[exact]) for noise, (_, exact) in zip(self._noises, self._pairs, strict=True)]

    def _run(self, numbered: tuple[str, Feed]) -> NDArray[np.float64]:
        where, feed = numbered
        require_finite(feed, where)
        found = np.array([float(v) for v in run_session(self._session, feed, where)])
        for name, signal in zip(self._names, found[len(self._pairs) :], strict=True):
            if math.isnan(signal) and name in self._compared:
                raise CalibrationError(f"{where}: tensor '{name}' holds NaN")
        return found


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
