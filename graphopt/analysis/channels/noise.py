"""The quantization noise that a model's output is expected to get, as a function of the scales of its channels.

Every class of channels (see `flow`) is multiplied by some s = exp(u). To first order, with errors that don't
correlate, the noise at the output is a sum of

    activations   G_c · (R(s) / steps)² / 12 / s_c²            for each channel c of each quantized tensor,
                                                               R(s) = max_c s_c·high_c + max_c s_c·(−low_c)
    weights       G_o · (max_c |W_oc| / s_c / 127)² / 12 · Σ_c s_c²·K·E[x_c²]      for each output channel o

where G is how much of the noise at a channel reaches the output, G_c = Σ_o G_o·Σ_k W_ock², and K the positions of the
kernel. A channel of small range on a tensor with one grid for all channels wants a large s; the weights that read it
want it no larger than lets the others keep their grid. For a depthwise layer, which has a grid per channel, the second
line doesn't depend on s. Both lines are posynomials in s with maxima, so the sum is convex in u: one minimum, no
constants to choose (with per-tensor weights and s² = r₁·r₂ it is the equalization of Nagel et al. 2019, section 4.1).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from networkx.utils import UnionFind
from numpy.typing import NDArray

from graphopt.analysis.channels.classes import PINNED, Indices

Floats = NDArray[np.float64]

# Orders of the norms that stand for maxima: from 32 on they are at most a quarter too large for 1,000 equal channels.
_SHARPNESS = (8.0, 32.0)
_ROUNDS = 300
# Every so many rounds the logarithm of the noise must have fallen by _WORTH (0.004 dB) for more of them.
_CHECKED = 10
_WORTH = 1e-3
_FIRST_MOVE = 0.5
_ARMIJO = 1e-4
_TINY = 1e-300

Noise = Callable[[Floats, Floats], float]
"""(u, gradient) → the noise at u; adds its derivative after u to `gradient`."""


@dataclass(frozen=True, eq=False)
class GridTerm:
    """Noise of tensors on one grid.

    Attributes:
        classes: of their channels, one entry a channel and tensor.
        high, below: the largest value, and the largest negated one, both ≥ 0.
        gain: noise in that channel → noise at the output.
        symmetric: the grid reaches as far below zero as above.
        steps: intervals of the grid.
    """

    classes: Indices
    high: Floats
    below: Floats
    gain: Floats
    symmetric: bool
    steps: int

    def at(self, sharpness: float) -> Noise:
        """The noise, with maxima as norms of that order."""
        return partial(self._noise, sharpness)

    def _noise(self, sharpness: float, u: Floats, gradient: Floats) -> float:
        at = u[self.classes]
        if self.symmetric:
            reach, slope = _soft_max(np.maximum(self.high, self.below), at, sharpness)
            reach, slope = 2 * reach, 2 * slope
        else:
            (up, up_slope), (down, down_slope) = (_soft_max(r, at, sharpness) for r in (self.high, self.below))
            reach, slope = up + down, up_slope + down_slope
        seen = self.gain * np.exp(-2 * at)
        grid = (reach / self.steps) ** 2 / 12
        total = float(seen.sum())
        np.add.at(gradient, self.classes, grid * (-2 * seen + 2 * total / max(reach, _TINY) * slope))
        return grid * total


@dataclass(frozen=True, eq=False)
class WeightTerm:
    """Noise of a weight with a grid per output channel.

    Attributes:
        classes: of the input channels, [groups, in].
        largest: max_k |W|, [groups, out, in].
        power: K·E[x²] of the input channels, [groups, in].
        gain: of the output channels, [groups, out].
        steps: intervals from zero to the largest integer.
    """

    classes: Indices
    largest: Floats
    power: Floats
    gain: Floats
    steps: int

    def at(self, sharpness: float) -> Noise:
        """The noise, with maxima as norms of that order."""
        top = np.maximum(self.largest.max(axis=2, keepdims=True), _TINY)
        return partial(self._noise, sharpness, top[:, :, 0], (self.largest / top) ** sharpness)

    def _noise(self, sharpness: float, top: Floats, inner: Floats, u: Floats, gradient: Floats) -> float:
        at = u[self.classes]
        floor = at.min(axis=1, keepdims=True)
        shrunk = np.exp(-sharpness * (at - floor))
        sums = np.maximum(np.matmul(inner, shrunk[:, :, None])[:, :, 0], _TINY)
        reach = top * np.exp(-floor) * sums ** (1 / sharpness)
        grid = self.gain * (reach / self.steps) ** 2 / 12
        power = self.power * np.exp(2 * at)
        total, energy = grid.sum(axis=1, keepdims=True), power.sum(axis=1, keepdims=True)
        pull = np.matmul((grid / sums)[:, None, :], inner)[:, 0]
        np.add.at(gradient, self.classes, 2 * total * power - 2 * energy * pull * shrunk)
        return float((total * energy).sum())


Term = GridTerm | WeightTerm


def _soft_max(reach: Floats, u: Floats, sharpness: float) -> tuple[float, Floats]:
    """(max of reach·exp(u) as a norm of order `sharpness`, its derivative after u)."""
    values = reach * np.exp(u)
    top = float(values.max(initial=0.0))
    if top == 0:
        return 0.0, np.zeros_like(values)
    powers = (values / top) ** sharpness
    total = float(powers.sum())
    whole = top * total ** (1 / sharpness)
    return whole, whole * powers / total


@dataclass(frozen=True, eq=False)
class Part:
    """Terms that have classes in common, with classes numbered anew: 0, then `classes` as 1, 2, …"""

    classes: Indices
    terms: tuple[Term, ...]

    @property
    def count(self) -> int:
        """Of classes, the pinned one included."""
        return len(self.classes) + 1


def separate(terms: Sequence[Term]) -> list[Part]:
    """Terms in parts that have no class in common but the pinned one, so that each can be solved alone."""
    shared: UnionFind[int] = UnionFind()
    owned: list[tuple[Term, list[int]]] = []
    for term in terms:
        classes = [int(c) for c in np.unique(term.classes) if c != PINNED]
        if classes:
            shared.union(*classes)
            owned.append((term, classes))
    members: dict[int, list[Term]] = {}
    for term, classes in owned:
        members.setdefault(shared[classes[0]], []).append(term)
    parts: list[Part] = []
    for together in members.values():
        used = np.unique(np.concatenate([t.classes.reshape(-1) for t in together]))
        used = used[used != PINNED]

        def numbered(term: Term, used: Indices = used) -> Term:
            places = np.searchsorted(used, term.classes) + 1
            return replace(term, classes=np.where(term.classes == PINNED, PINNED, places))

        parts.append(Part(used, tuple(numbered(t) for t in together)))
    return parts


def expected_noise(terms: Sequence[Term], u: Floats) -> float:
    """The sum of `terms` at u, [classes]."""
    return sum(term.at(_SHARPNESS[-1])(u, np.zeros_like(u)) for term in terms)


def least_noise(terms: Sequence[Term], count: int, limit: float) -> Floats:
    """U = log(s) of each class, [count], that makes the sum of `terms` least; that of class 0 is 0.

    Gradient descent on the logarithm of the sum, which is convex too, with steps after Barzilai and Borwein; first
    with soft maxima, then with nearly sharp ones.

    Args:
        terms: of one `Part`.
        count: of classes.
        limit: the largest |u|.
    """
    u = np.zeros(count)
    for sharpness in _SHARPNESS:
        u = _descend([term.at(sharpness) for term in terms], u, limit)
    return u


def _value(noises: Sequence[Noise], u: Floats) -> tuple[float, Floats]:
    gradient = np.zeros_like(u)
    total = sum(noise(u, gradient) for noise in noises)
    if not total > 0:
        return -np.inf, np.zeros_like(u)
    gradient /= total
    gradient[0] = 0.0
    return float(np.log(total)), gradient


def _descend(noises: Sequence[Noise], u: Floats, limit: float) -> Floats:
    value, gradient = _value(noises, u)
    step = _FIRST_MOVE / max(float(np.abs(gradient).max()), _TINY)
    checked = value
    for number in range(1, _ROUNDS + 1):
        tried = np.clip(u - step * gradient, -limit, limit)
        moved = tried - u
        at, slope = _value(noises, tried)
        if at > value + _ARMIJO * float(gradient @ moved):
            step /= 4
        else:
            change = slope - gradient
            curvature = float(moved @ change)
            step = float(moved @ moved) / curvature if curvature > 0 else 2 * step
            u, value, gradient = tried, at, slope
        if number % _CHECKED == 0:
            if not checked - value > _WORTH:
                break
            checked = value
    return u
