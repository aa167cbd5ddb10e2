"""How far a model's outputs are from the float model's: what sensitivity of grade "output" counts.

    noise     Σ (y′ − y)² / Σ y² over all samples, the mean over floating point outputs: what errors add up in
    "kl"      KL(p ‖ p′) of what comes out as probabilities, or of the softmax of what doesn't; label-free
    "cosine"  1 − cos(y, y′)
    a function of {output: array} of the float model and {output: array} with the source, for one sample: less is better

The last three are means over the samples, the first two of them over the outputs as well.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from graphopt.backends.layer_errors import Power
from graphopt.backends.measures import cosine

Outputs: TypeAlias = Mapping[str, NDArray[Any]]
OutputMetric: TypeAlias = Literal["kl", "cosine"] | Callable[[Outputs, Outputs], float]

# Probabilities as exporters' Softmax gives them in float16.
_SUM_TOLERANCE = 1e-2
_SMALLEST = 1e-12


class Measure(Protocol):
    """Takes in samples of one source."""

    def add(self, exact: Outputs, other: Outputs) -> None:
        """One sample: all outputs of the float model, and those of them that may differ."""
        ...

    def error(self) -> float:
        """Of all samples so far; at least 0."""
        ...


def measure(metric: OutputMetric | None, outputs: Sequence[str]) -> Measure:
    """A measure that has seen nothing yet; `outputs` are the floating point ones."""
    if metric is None:
        return _Noise(outputs)
    if metric == "kl":
        return _Mean(lambda exact, other: _over_outputs(divergence, exact, other, outputs))
    if metric == "cosine":
        return _Mean(lambda exact, other: _over_outputs(_angle, exact, other, outputs))
    return _Mean(metric)


def divergence(exact: NDArray[Any], other: NDArray[Any]) -> float:
    """KL(p ‖ p′), the mean over rows; softmax first where the values aren't probabilities.

    Classes are on the axis along which the float model's values sum up to 1, else on axis 1 of images, else the last.
    """
    a, b = exact.astype(np.float64), other.astype(np.float64)
    if a.ndim == 0 or a.size == 0:
        return 0.0
    axes = [axis for axis in range(a.ndim) if a.shape[axis] > 1 and _are_probabilities(a, axis)]
    if axes:
        axis = axes[-1]
        p, q = np.maximum(a, _SMALLEST), np.maximum(b, _SMALLEST)
        log_p, log_q = np.log(p / p.sum(axis, keepdims=True)), np.log(q / q.sum(axis, keepdims=True))
    else:
        axis = 1 if a.ndim > 3 else a.ndim - 1
        log_p, log_q = _log_softmax(a, axis), _log_softmax(b, axis)
    rows: NDArray[np.float64] = np.sum(np.exp(log_p) * (log_p - log_q), axis=axis)
    found = float(rows.mean())
    return math.inf if math.isnan(found) else max(0.0, found)


class _Noise:
    def __init__(self, outputs: Sequence[str]) -> None:
        self.powers = {name: Power() for name in outputs}

    def add(self, exact: Outputs, other: Outputs) -> None:
        for name, power in self.powers.items():
            power.add(exact[name], other.get(name, exact[name]))

    def error(self) -> float:
        return sum(_share(power) for power in self.powers.values()) / len(self.powers)


class _Mean:
    def __init__(self, function: Callable[[Outputs, Outputs], float]) -> None:
        self.function = function
        self.total, self.count = 0.0, 0

    def add(self, exact: Outputs, other: Outputs) -> None:
        self.total += float(self.function(exact, {**exact, **other}))
        self.count += 1

    def error(self) -> float:
        return max(0.0, self.total / max(1, self.count))


def _share(power: Power) -> float:
    if math.isnan(power.noise):  # of another shape: other boxes were found
        return 1.0
    return power.noise / power.signal if power.signal else float(power.noise > 0)


def _angle(exact: NDArray[Any], other: NDArray[Any]) -> float:
    return 1 - cosine(exact, other)


def _over_outputs(
    function: Callable[[NDArray[Any], NDArray[Any]], float], exact: Outputs, other: Outputs, outputs: Sequence[str]
) -> float:
    found = [function(exact[n], other[n]) if exact[n].shape == other[n].shape else 1.0 for n in outputs]
    return sum(found) / len(found)


def _are_probabilities(values: NDArray[np.float64], axis: int) -> bool:
    return bool((values >= 0).all() and (np.abs(values.sum(axis) - 1) < _SUM_TOLERANCE).all())


def _log_softmax(values: NDArray[np.float64], axis: int) -> NDArray[np.float64]:
    shifted = values - values.max(axis, keepdims=True)
    found: NDArray[np.float64] = shifted - np.log(np.exp(shifted).sum(axis, keepdims=True))
    return found
