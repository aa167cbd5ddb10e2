"""Second moments of what a linear layer reads: how its input's errors and its weights' errors add up in its result.

    second[k, l] = E[x_k · x_l],      error of the result = Σ_kl e_k · second[k, l] · e_l      for weights off by e

Streamed: the memory is that of the moments, whatever the number of samples. Samples go to two halves by turns, so that
what is chosen on one can be tried on the other. Where the inputs of the quantized model are given beside the float
model's, the moments are those of the quantized ones, and `shift[k, l] = E[(x_k − x̂_k) · x̂_l]` says what the layers
before have done to them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from graphopt.calibration.windows import Windows

Array = NDArray[np.float64]
Half = Literal[0, 1]

# Numbers that are taken to depend on each other; a wider row is cut into blocks. At 1,152 (128 channels under a 3×3
# kernel) a matrix has 10 MB, and ten of them are alive at a time.
MOST_WIDTH = 1152
# Rows taken in for each number of a row, over all samples: enough to tell its directions apart; the products then cost
# as much as some factorizations.
ROWS_PER_WIDTH = 8
LEAST_ROWS = 4096


@dataclass(frozen=True)
class Moments:
    """Moments of a layer's input, [block, weight, weight]; a block is a group of channels, or a part of one.

    Attributes:
        second: E[x̂ x̂ᵀ].
        shift: E[(x − x̂) x̂ᵀ]; None where only one input was given.
    """

    second: Array
    shift: Array | None = None


@dataclass
class InputMoments:
    """Takes in the inputs of one layer, sample after sample.

    Attributes:
        windows: how the layer reads them.
        samples: how many there will be, about; None when nobody knows.
    """

    windows: Windows
    samples: int | None = None
    _rows: list[int] = field(default_factory=lambda: [0, 0], init=False)
    _sums: dict[tuple[str, int], Array] = field(default_factory=dict[tuple[str, int], Array], init=False)
    _seen: int = field(default=0, init=False)
    # What rows are taken around: float32 sums of squares lose variances that are small beside a mean.
    _origin: NDArray[np.float32] | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        self.blocks = blocks_of(self.windows)
        width = self.windows.width // self.blocks
        self._most = max(1, max(ROWS_PER_WIDTH * width, LEAST_ROWS) // (self.samples or 64))

    def update(self, quantized: NDArray[Any], exact: NDArray[Any] | None = None) -> None:
        """Take in a sample: the layer's input, and the float model's where that is another one."""
        half, number = self._seen % 2, self._seen
        self._seen += 1
        rows = self._cut(self.windows.rows(quantized, self._most, number))
        wanted = None if exact is None else self._cut(self.windows.rows(exact, self._most, number))
        lost = None if wanted is None else wanted - rows
        origin = rows.mean(axis=1, keepdims=True, dtype=np.float32) if self._origin is None else self._origin
        self._origin = origin
        rows = rows - origin
        self._rows[half] += rows.shape[1]
        self._add("mean", half, rows.sum(axis=1, dtype=np.float64))
        self._add("second", half, np.swapaxes(rows, 1, 2) @ rows)
        if lost is not None:
            self._add("lost", half, lost.sum(axis=1, dtype=np.float64))
            self._add("shift", half, np.swapaxes(lost, 1, 2) @ rows)

    def moments(self, half: Half | None = None, *, centred: bool = False) -> Moments | None:
        """Of one half of the samples, or of all; None where there was none.

        Args:
            half: which; None for all.
            centred: around the means: what is left to minimise when a bias takes up every error of the mean.
        """
        halves = (0, 1) if half is None else (half,)
        count = sum(self._rows[h] for h in halves)
        if not count or self._origin is None:
            return None

        def expected(name: str) -> Array | None:
            sums = [self._sums[name, h] for h in halves if (name, h) in self._sums]
            return np.sum(sums, axis=0) / count if sums else None

        mean, second = expected("mean"), expected("second")
        lost, shift = expected("lost"), expected("shift")
        assert mean is not None  # there are rows
        assert second is not None
        origin = self._origin[:, 0].astype(np.float64)
        if centred:
            # What float32 may have got wrong: without it, a constant input could look as if it varied by less than 0.
            floor = np.einsum("bkk->b", second)[:, None, None] / second.shape[-1] * 1e-6
            second = second - _outer(mean, mean) + floor * np.eye(second.shape[-1])
        else:
            second = second + _outer(mean, origin) + _outer(origin, mean) + _outer(origin, origin)
        if shift is None or lost is None:
            return Moments(second)
        return Moments(second, shift + _outer(lost, -mean if centred else origin))

    def _cut(self, rows: NDArray[np.float32]) -> NDArray[np.float32]:
        """[group, row, width] → [block, row, width of a block]."""
        groups, count, width = rows.shape
        cut = rows.reshape(groups, count, self.blocks, width // self.blocks)
        return np.ascontiguousarray(np.moveaxis(cut, 2, 1)).reshape(-1, count, width // self.blocks)

    def _add(self, name: str, half: int, value: NDArray[Any]) -> None:
        if (name, half) in self._sums:
            self._sums[name, half] += value
        else:
            self._sums[name, half] = value.astype(np.float64)


@dataclass
class InputVariance:
    """Takes in the inputs of one layer, sample after sample, and keeps what each number of a row varies by.

    Attributes:
        windows, samples: as of `InputMoments`.
    """

    windows: Windows
    samples: int | None = None
    _count: int = field(default=0, init=False)
    _seen: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        self._sum = self._squares = np.zeros((self.windows.groups, self.windows.width))
        self._most = max(1, LEAST_ROWS // (self.samples or 64))

    def update(self, data: NDArray[Any]) -> None:
        """Take in a sample."""
        rows = self.windows.rows(data, self._most, self._seen).astype(np.float64)
        self._seen += 1
        self._count += rows.shape[1]
        self._sum = self._sum + rows.sum(axis=1)
        self._squares = self._squares + np.einsum("gpk,gpk->gk", rows, rows)

    def variance(self) -> Array:
        """[group, weight]; zeros while nothing has been taken in."""
        count = max(self._count, 1)
        return np.maximum(self._squares / count - (self._sum / count) ** 2, 0.0)


def _outer(first: Array, second: Array) -> Array:
    """[block, k] and [block, l] → [block, k, l]."""
    return first[:, :, None] * second[:, None, :]


def blocks_of(windows: Windows) -> int:
    """How many parts a group's row is cut into: at most MOST_WIDTH numbers each, whole channels where that works."""
    taps = int(np.prod(windows.kernel, dtype=np.int64))
    channels = windows.width // taps
    for count, unit in ((channels, taps), (windows.width, 1)):
        for blocks in range(1, count + 1):
            if count % blocks == 0 and count // blocks * unit <= MOST_WIDTH:
                return blocks
    return windows.width
