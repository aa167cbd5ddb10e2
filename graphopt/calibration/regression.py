"""The change of a linear layer's weights that best takes away an error of its result: ridge regression, streamed.

    ΔW = C·(H + λ·h·I)⁻¹,     H = E[x xᵀ],   C = E[e xᵀ],   h = mean of H's diagonal;     Δb = E[e] − ΔW·E[x]

x is what the layer reads, e what its result lacks. Both are taken around their means where there is a bias to take them
up. Ridge regression towards *no change* leaves alone what the samples say nothing of. Samples go to two halves by
turns: λ is the one whose fit on one half takes most of the error off the other, both ways, and where none takes any
off, there is no change. The memory is that of the moments, whatever the number of samples.

Least squares of a layer's result is how He et al. ("Channel Pruning for Accelerating Very Deep Neural Networks", ICCV
2017) and Luo et al. ("ThiNet", ICCV 2017) rebuild what a pruned layer computed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Rows = NDArray[np.float32]

# Shares of the mean diagonal: from what 1e5 independent rows determine to what a handful does; infinite for the bias
# alone.
DAMPINGS = (1e-5, 1e-4, 1e-3, 3e-3, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, math.inf)
# Of one sample there is no half to try λ on.
ALONE = 1.0


@dataclass(frozen=True)
class Correction:
    """What to add to a layer.

    Attributes:
        weight: [group, out, k].
        bias: [group, out]; zeros where the layer has none.
        damping: the λ that was chosen.
        gain: the share of the error's energy that it takes off samples that it wasn't fitted on, 0 to 1; NaN of a
            single sample.
    """

    weight: Array
    bias: Array
    damping: float
    gain: float


@dataclass(frozen=True)
class _Inputs:
    """Moments of what the layer reads: count, E[x] [g, k], H [g, k, k] and its eigenvalues and eigenvectors."""

    count: int
    x: Array
    second: Array
    values: Array
    vectors: Array

    def divisor(self, damping: float) -> Array:
        """The eigenvalues of H + λ·h·I, [g, 1, k]."""
        mean = self.values.mean(axis=-1, keepdims=True)
        # Inputs that are always the same: any positive number will do.
        return (np.maximum(self.values, 0.0) + damping * np.where(mean > 0, mean, 1.0))[:, None, :]


@dataclass(frozen=True)
class _Errors:
    """Moments of what the result lacks: E[e] [g, o], C [g, o, k], E[e²] summed over outputs."""

    e: Array
    cross: Array
    energy: float


@dataclass
class ErrorRegression:
    """Takes in rows and the errors of the result there, sample after sample.

    Attributes:
        biased: whether the layer has a bias, or can have one.
    """

    biased: bool
    _sums: dict[tuple[str, int], Array] = field(default_factory=dict[tuple[str, int], Array], init=False)
    _count: list[int] = field(default_factory=lambda: [0, 0], init=False)
    _seen: int = field(default=0, init=False)
    # What rows are taken around: float32 sums of squares lose variances that are small beside a mean.
    _origin: Rows | None = field(default=None, init=False)
    # Of halves and of all, once they were asked for: `again` needs them no second time.
    _inputs: dict[tuple[int, ...], _Inputs] = field(default_factory=dict[tuple[int, ...], _Inputs], init=False)
    # H of a half around the other's means, in the coordinates of the other's eigenvectors.
    _turned: dict[int, Array] = field(default_factory=dict[int, Array], init=False)
    _best: int | None = field(default=None, init=False)

    def update(self, rows: Rows, errors: Rows) -> None:
        """Take in a sample: what the layer read, [group, position, k], and what lacked, [group, position, out]."""
        half = self._seen % 2
        self._seen += 1
        origin = self._origin
        if origin is None:
            zero = np.zeros_like(rows[:, :1])
            origin = self._origin = rows.mean(axis=1, keepdims=True, dtype=np.float32) if self.biased else zero
        rows = rows - origin
        if not self._inputs:
            self._count[half] += rows.shape[1]
            self._add("x", half, rows.sum(axis=1, dtype=np.float64))
            self._add("second", half, (np.swapaxes(rows, 1, 2) @ rows).astype(np.float64))
        self._add("e", half, errors.sum(axis=1, dtype=np.float64))
        self._add("cross", half, (np.swapaxes(errors, 1, 2) @ rows).astype(np.float64))
        self._add("energy", half, np.einsum("gno,gno->g", errors, errors, dtype=np.float64))

    def again(self) -> ErrorRegression:
        """For the same rows in the same order, with errors not unlike these: what is known of the rows is kept.

        Only the λ that was best and those next to it are tried.
        """
        self._of_inputs((0, 1))
        fresh = ErrorRegression(self.biased)
        fresh._sums = {key: value for key, value in self._sums.items() if key[0] in ("x", "second")}
        fresh._count, fresh._origin, fresh._inputs = self._count, self._origin, self._inputs
        fresh._turned, fresh._best = self._turned, self._best
        return fresh

    def solve(self) -> Correction | None:
        """The best correction; None where none takes anything off samples that it wasn't fitted on.

        None, too, where squares are too large to be summed, or something isn't finite.
        """
        if self._origin is None or not all(np.isfinite(total).all() for total in self._sums.values()):
            return None
        damping, gain = ALONE, float("nan")
        if all(self._count):
            dampings = range(len(DAMPINGS))
            if self._best is not None:
                dampings = dampings[max(0, self._best - 1) : self._best + 2]
            gains = self._gains(0, dampings) + self._gains(1, dampings)
            found = int(np.argmax(gains))
            if not gains[found] > 0:
                return None
            self._best = dampings[found]
            damping = DAMPINGS[self._best]
            gain = float(gains[found]) / sum(self._of_errors((half,)).energy for half in (0, 1))
        inputs, errors = self._of_inputs((0, 1)), self._of_errors((0, 1))
        turned = (errors.cross @ inputs.vectors) / inputs.divisor(damping)
        weight = turned @ np.swapaxes(inputs.vectors, 1, 2)
        mean = inputs.x + self._origin[:, 0].astype(np.float64)
        bias = errors.e - np.einsum("gok,gk->go", weight, mean) if self.biased else np.zeros_like(errors.e)
        return Correction(weight, bias, damping, gain)

    def _gains(self, half: int, dampings: Sequence[int]) -> Array:
        """For each damping, by how much a correction fitted on a half of the samples lowers the error on the other.

        In the coordinates of the eigenvectors a correction is a division for every damping.
        """
        fitted, tried = self._of_inputs((half,)), self._of_inputs((1 - half,))
        found, wanted = self._of_errors((half,)), self._of_errors((1 - half,))
        cross, moved = wanted.cross, 0.0
        # Around the means of the samples that it is fitted on: that is what the fitted bias leaves on the others.
        x, e = tried.x - fitted.x, wanted.e - found.e
        if self.biased:
            cross = cross + e[:, :, None] * x[:, None, :]
            moved = float(np.sum(np.square(wanted.e) - np.square(e)))
        if half not in self._turned:
            second = tried.second + x[:, :, None] * x[:, None, :] if self.biased else tried.second
            self._turned[half] = np.swapaxes(fitted.vectors, 1, 2) @ second @ fitted.vectors
        here, there = found.cross @ fitted.vectors, cross @ fitted.vectors
        gains: list[float] = []
        for damping in dampings:
            step = here / fitted.divisor(DAMPINGS[damping])
            gains.append(moved + float(np.sum(there * step) * 2 - np.sum((step @ self._turned[half]) * step)))
        return np.array(gains)

    def _of_inputs(self, halves: tuple[int, ...]) -> _Inputs:
        if halves not in self._inputs:
            count = sum(self._count[half] for half in halves)
            x, second = self._mean("x", halves, count), self._mean("second", halves, count)
            if self.biased:
                second = second - x[:, :, None] * x[:, None, :]
            values, vectors = np.linalg.eigh(second)
            self._inputs[halves] = _Inputs(count, x, second, values.astype(np.float64), vectors.astype(np.float64))
        return self._inputs[halves]

    def _of_errors(self, halves: tuple[int, ...]) -> _Errors:
        inputs = self._of_inputs(halves)
        e, cross, energy = (self._mean(name, halves, inputs.count) for name in ("e", "cross", "energy"))
        found = _Errors(e, cross, float(energy.sum()))
        return replace(found, cross=cross - e[:, :, None] * inputs.x[:, None, :]) if self.biased else found

    def _mean(self, name: str, halves: tuple[int, ...], count: int) -> Array:
        total = [self._sums[name, half] for half in halves if (name, half) in self._sums]
        return np.add.reduce(total) / count

    def _add(self, name: str, half: int, value: Array) -> None:
        if (name, half) in self._sums:
            self._sums[name, half] += value
        else:
            self._sums[name, half] = value
