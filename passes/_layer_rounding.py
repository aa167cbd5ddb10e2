"""One layer's weight as rows of integers, and the choice of a rounding for it; see `round_adaptively`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graphopt.calibration.moments import InputMoments, Moments
from graphopt.calibration.windows import Windows
from graphopt.ir.linear import Linear
from graphopt.passes._simulation import Pair
from graphopt.quant.adaptive_rounding import SWEEPS, Array, damped, output_error, round_adaptively

# How far to trust directions of the input that the samples showed little of: shares of the mean variance that are added
# to all. What makes up for errors of other layers wants anything between; rounding hardly tells them apart.
CORRECTION_DAMPINGS = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0)
ROUNDING_DAMPINGS = (0.01, 1.0)


@dataclass(frozen=True)
class LayerRounding:
    """A weight in units of its rows' scales, [block, row, weight].

    Attributes:
        wanted: the float weight.
        plain: what `quantize-weights` would make of it.
        scale: of each row, [block, row, 1].
        low, high: integers are in low … high; [block, row, weight], or the same for all.
        step: where the weights of a row have several scales: of each weight, in units of its row's; may be negative.
        anywhere: integers needn't be next to the weight, and others make up for what is clipped. Needed with `step`.
        dampings: of the rounding, which are tried.
        trial_sweeps, sweeps: of coordinate descent, in trials and at the end.
    """

    wanted: Array
    plain: Array
    scale: Array
    low: Array | int
    high: Array | int
    step: Array | None = None
    anywhere: bool = False
    dampings: tuple[float, ...] = ROUNDING_DAMPINGS
    trial_sweeps: int = SWEEPS
    sweeps: int = SWEEPS

    def error(self, q: Array, moments: Moments) -> float:
        """Mean squared error of the result with a weight `q`, less what the float one has no part in."""
        error = q - self.wanted
        found = output_error(error, moments.second)
        if moments.shift is not None:
            found = found - 2 * np.einsum("grk,grk->gr", self._pull(moments), error)
        return float(np.sum(found * self.scale[..., 0] ** 2))

    def choose(self, whole: Moments, halves: tuple[Moments, Moments] | None) -> Array | None:
        """The best rounding for all samples; None where `plain` does better on samples that were left out.

        Args:
            whole: of all samples.
            halves: of two halves of them; None where there are too few to compare.
        """
        if halves is None:
            return self.fit(whole, None, self.dampings[-1], self.sweeps)
        trust = self.best_correction(halves)
        seen, unseen = halves
        tried = {d: self.error(self.fit(seen, trust, d, self.trial_sweeps), unseen) for d in self.dampings}
        best = min(tried, key=tried.__getitem__)
        if tried[best] >= self.error(self.plain, unseen):
            return None
        return self.fit(whole, trust, best, self.sweeps)

    def best_correction(self, halves: tuple[Moments, Moments]) -> float | None:
        """The damping with which what one half says of other layers' errors helps most on the other, both ways."""
        if any(half.shift is None for half in halves):
            return None
        first, second = halves
        gains = self._gains(first, second) + self._gains(second, first)
        best = int(np.argmax(gains))
        return CORRECTION_DAMPINGS[best] if gains[best] > 0 else None

    def fit(self, moments: Moments, correction: float | None, damping: float, sweeps: int) -> Array:
        """Multiples of the steps near the weight, which is corrected first unless `correction` is None."""
        target = self.wanted
        if correction is not None:
            pull = np.swapaxes(self._pull(moments), 1, 2)
            target = target + np.swapaxes(np.linalg.solve(damped(moments.second, correction), pull), 1, 2)
        step = np.ones_like(target) if self.step is None else self.step
        low, high = (np.broadcast_to(limit, target.shape) for limit in (self.low, self.high))
        if not self.anywhere:
            target = np.clip(target, low, high)
            low, high = np.floor(target), np.ceil(target)
        second = damped(moments.second, damping)
        return step * round_adaptively(target, second, low, high, step=step, sweeps=sweeps)

    def _pull(self, moments: Moments) -> Array:
        """wᵀ E[(x − x̂) x̂ᵀ]: what the result lacks, as seen through each input."""
        assert moments.shift is not None  # asked before
        return self.wanted @ moments.shift

    def _gains(self, fitted: Moments, tried: Moments) -> Array:
        """For each damping, by how much a correction fitted on some samples lowers the squared error on others.

        In the coordinates of the eigenvectors a correction is a division for every damping.
        """
        values, vectors = np.linalg.eigh(fitted.second)
        mean = values.mean(axis=-1, keepdims=True)
        here, there = self._pull(fitted) @ vectors, self._pull(tried) @ vectors
        second = np.swapaxes(vectors, 1, 2) @ tried.second @ vectors
        gains: list[float] = []
        for damping in CORRECTION_DAMPINGS:
            divisor = np.maximum(values, 0.0) + np.where(mean > 0, damping * mean, 1.0)
            step = here / divisor[:, None, :]
            gain = 2 * np.einsum("grk,grk->gr", there, step) - output_error(step, second)
            gains.append(float(np.sum(gain * self.scale[..., 0] ** 2)))
        return np.array(gains)


@dataclass(frozen=True)
class RowParts:
    """Rows [out channel, weight] as [block, row, weight]: a group's rows read the same, a block is a part of them."""

    groups: int
    parts: int

    def cut(self, rows: Array) -> Array:
        """Bring rows into blocks."""
        apart = rows.reshape(self.groups, len(rows) // self.groups, self.parts, -1)
        return np.moveaxis(apart, 2, 1).reshape(self.groups * self.parts, len(rows) // self.groups, -1)

    def join(self, blocks: Array) -> Array:
        """Undo `cut`."""
        apart = blocks.reshape(self.groups, self.parts, *blocks.shape[1:])
        return np.moveaxis(apart, 1, 2).reshape(self.groups * blocks.shape[1], -1)


def input_moments(pair: Pair, layer: Linear, data: str, *, asymmetric: bool = True) -> InputMoments:
    """Of what the layer reads: `data` in the quantized model, and unless not `asymmetric` in the float model, too."""
    moments = InputMoments(Windows.of(layer), pair.quantized.samples)
    found = pair.quantized.fetch([data])[0]
    exact: Sequence[NDArray[Any] | None] = [None] * len(found)
    if asymmetric:
        exact = pair.reference.fetch([layer.data.name])[0]
    for quantized, wanted in zip(found, exact, strict=True):
        moments.update(quantized, wanted)
    return moments
