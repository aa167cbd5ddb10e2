"""One linear layer refitted so that what becomes of its result errs least: new weights and biases in closed form.

    minimise   E‖f(s) − f(ŝ)‖²,     ŝ = W x̂ + b + r̂,     s what it is in the float model

x̂ is what the layer reads now, r̂ the other branch where the result goes into a sum (its error is made up for, too), and
f the Relu or Clip that reads it. Without f this is one regression (`calibration.regression`). With f, errors where both
are cut off cost nothing, and the parabola through

    target = s where f lets s through,   else ŝ moved to the side of the border where f(ŝ) = f(s)

is nowhere below the objective and touches it at ŝ: minimising it and looking again makes nothing worse (majorization).
Each round is another regression over the same inputs. This is the "asymmetric, nonlinear" reconstruction of Zhang et
al. ("Accelerating Very Deep Convolutional Networks", TPAMI 2016), without their auxiliary variables.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graphopt.calibration.regression import Correction, ErrorRegression
from graphopt.calibration.windows import Windows
from graphopt.ir.linear import Linear

Samples = Sequence[NDArray[Any]]
Rows = NDArray[np.float32]

# Numbers in a row up to which a layer gets a matrix of second moments (42 MB, and seconds for its eigenvectors). Wider
# layers get a factor and a shift for each output channel.
MOST_WIDTH = 2304
# Positions over all samples, and the numbers in their rows (256 MB): more don't help by as much as they cost.
MOST_ROWS, MOST_NUMBERS = 1 << 16, 1 << 26
# Rounds behind the first, where there is an f. The error on samples left out hardly falls after them.
ROUNDS = 4


@dataclass(frozen=True)
class Task:
    """What a layer is to make.

    Attributes:
        layer: the layer as it is; its weight is where the fit starts from.
        bias: what it adds to each output channel, [out]; None where it has no bias that could take a correction.
        read: its input for each sample, in the pruned model.
        wanted: for each sample, what the result or the sum is in the float model.
        other: for each sample, the other branch of the sum, in the pruned model; None where there is no sum.
        bounds: of f; −inf and inf without.
    """

    layer: Linear
    bias: NDArray[np.float64] | None
    read: Samples
    wanted: Samples
    other: Samples | None
    bounds: tuple[float, float]


@dataclass(frozen=True)
class Refit:
    """What came of it.

    Attributes:
        weight: in the shape of the layer's, float64.
        shift: what to add to the bias, [out].
        lost, left: mean squared error of f's result on the rows used, before and after, as shares of its variance.
        narrow: whether whole rows were fitted, not only a factor and a shift.
    """

    weight: NDArray[np.float64]
    shift: NDArray[np.float64]
    lost: float
    left: float
    narrow: bool


def refit(task: Task, rounds: int = ROUNDS) -> Refit | None:
    """Fit a layer; None where nothing takes off errors of samples that it wasn't fitted on, or there are none."""
    fit = _Fit(task)
    correction = fit.solve(rounds)
    if correction is None:
        return None
    lost, left = fit.errors()
    if not left < lost:
        return None
    layer, values = task.layer, task.layer.weight.values
    rows = layer.by_output_channel(values).astype(np.float64)
    change = correction.weight.reshape(layer.out_channels, -1)
    changed = rows + change if fit.narrow else rows * (1 + change)
    places = layer.by_output_channel(np.arange(values.size).reshape(values.shape))
    weight = np.empty(values.size)
    weight[places.reshape(-1)] = changed.reshape(-1)
    return Refit(weight.reshape(values.shape), correction.bias.reshape(-1), lost, left, fit.narrow)


@dataclass
class _Part:
    """One sample, [group, position, …]: what is read, what the layer makes of it, what is wanted, the other branch."""

    rows: Rows
    base: Rows
    wanted: Rows
    other: Rows | float
    change: Rows | float = 0.0


class _Fit:
    """The rows of all samples, and the regression in its rounds."""

    def __init__(self, task: Task) -> None:
        self.task, layer = task, task.layer
        windows = Windows.of(layer)
        self.narrow = windows.width <= MOST_WIDTH
        groups = windows.groups if self.narrow else layer.out_channels
        scale = np.float32(layer.node.attr("alpha", 1.0)) if layer.kind == "Gemm" else np.float32(1)
        flat = layer.by_output_channel(layer.weight.values).astype(np.float32)
        weight = np.swapaxes(flat.reshape(windows.groups, -1, windows.width), 1, 2)
        bias = np.zeros(layer.out_channels) if task.bias is None else task.bias
        added = bias.reshape(groups, 1, -1).astype(np.float32)
        outputs = Windows(1, layer.out_channels, layer.output_channel_axis)
        numbers = max(windows.groups * windows.width, layer.out_channels)
        most = max(1, min(MOST_ROWS, MOST_NUMBERS // numbers) // len(task.read))

        def chosen(values: NDArray[Any], number: int) -> Rows:
            found = outputs.rows(values, most, number)[0]
            return np.moveaxis(found.reshape(len(found), groups, -1), 0, 1)

        self.parts: list[_Part] = []
        for number, (read, wanted) in enumerate(zip(task.read, task.wanted, strict=True)):
            rows = windows.rows(read, most, number) * scale
            base: Rows = (rows @ weight).astype(np.float32, copy=False)
            if not self.narrow:
                # Each output channel is a group of its own, which reads what the layer makes of its input.
                base = rows = np.moveaxis(base, 1, 2).reshape(groups, -1, 1)
            other = 0.0 if task.other is None else chosen(task.other[number], number)
            self.parts.append(_Part(rows, base + added, chosen(wanted, number), other))

    def solve(self, rounds: int) -> Correction | None:
        """The correction after the last round that brought one."""
        regression = ErrorRegression(self.task.bias is not None)
        best: Correction | None = None
        for number in range(1 + (rounds if self.is_cut else 0)):
            if number:
                regression = regression.again()
            for part in self.parts:
                regression.update(part.rows, self._target(part, first=not number) - part.base - part.other)
            found = regression.solve()
            if found is None and number == 0:
                continue  # without f nothing helps; with it, half of the error may not count
            if found is None:
                break
            best = found
            weight = np.swapaxes(found.weight, 1, 2).astype(np.float32)
            for part in self.parts:
                part.change = part.rows @ weight + found.bias[:, None, :].astype(np.float32)
        return best

    @property
    def is_cut(self) -> bool:
        """Whether f cuts anything off."""
        return any(np.isfinite(self.task.bounds))

    def errors(self) -> tuple[float, float]:
        """Squared error of f's result before and after, over the energy of the wanted one around its means."""
        low, high = self.task.bounds
        lost = left = 0.0
        for part in self.parts:
            wanted = np.clip(part.wanted, low, high)
            lost += float(np.sum(np.square(np.clip(part.base + part.other, low, high) - wanted), dtype=np.float64))
            now = np.clip(part.base + part.change + part.other, low, high)
            left += float(np.sum(np.square(now - wanted), dtype=np.float64))
        every = np.concatenate([np.clip(part.wanted, low, high) for part in self.parts], axis=1)
        # A result that never varies: its errors as they are.
        energy = float(np.sum(every.var(axis=1, dtype=np.float64))) * every.shape[1] or 1.0
        return lost / energy, left / energy

    def _target(self, part: _Part, *, first: bool) -> Rows:
        """What the result or the sum is to be, from where it is now; at first, as if there were no f."""
        if first:
            return part.wanted
        low, high = self.task.bounds
        now = part.base + part.change + part.other
        target = np.where(part.wanted <= low, np.minimum(now, np.float32(low)), part.wanted)
        return np.where(part.wanted >= high, np.maximum(now, np.float32(high)), target)
