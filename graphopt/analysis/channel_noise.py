"""The quantization noise that a model's output is expected to get, as a function of the scales of its channels.

Every class of channels (see `channel_flow`) is multiplied by some s = exp(u). To first order, with errors that don't
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

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from networkx.utils import UnionFind
from numpy.typing import NDArray

from graphopt.analysis.channel_classes import PINNED, Indices

Floats = NDArray[np.float64]

# Orders of the norms that stand for maxima: from 32 on they are at most a quarter too large for 1,000 equal channels.
_SHARPNESS = (8.0, 32.0)
_ROUNDS = 400
_CLOSE = 1e-4


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

    def noise(self, u: Floats, sharpness: float, gradient: Floats) -> float:
        """The noise; adds its derivative after u to `gradient`."""
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
        np.add.at(gradient, self.classes, grid * (-2 * seen + 2 * total / max(reach, 1e-300) * slope))
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

    def noise(self, u: Floats, sharpness: float, gradient: Floats) -> float:
        """The noise; adds its derivative after u to `gradient`."""
        at = u[self.classes]
        floor = at.min(axis=1, keepdims=True)
        top = np.maximum(self.largest.max(axis=2, keepdims=True), 1e-300)
        inner = (self.largest / top) ** sharpness
        shrunk = np.exp(-sharpness * (at - floor))
        sums = np.maximum(np.einsum("goi,gi->go", inner, shrunk), 1e-300)
        reach = top[:, :, 0] * np.exp(-floor) * sums ** (1 / sharpness)
        grid = self.gain * (reach / self.steps) ** 2 / 12
        power = self.power * np.exp(2 * at)
        total, energy = grid.sum(axis=1, keepdims=True), power.sum(axis=1, keepdims=True)
        slope = -2 * energy * np.einsum("go,goi->gi", grid / sums, inner) * shrunk + 2 * total * power
        np.add.at(gradient, self.classes, slope)
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
    return sum(term.noise(u, _SHARPNESS[-1], np.zeros_like(u)) for term in terms)


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
        u = _descend(terms, u, sharpness, limit)
    return u


def _value(terms: Sequence[Term], u: Floats, sharpness: float) -> tuple[float, Floats]:
    gradient = np.zeros_like(u)
    total = sum(term.noise(u, sharpness, gradient) for term in terms)
    if not total > 0:
        return -np.inf, np.zeros_like(u)
    gradient /= total
    gradient[0] = 0.0
    return float(np.log(total)), gradient


def _descend(terms: Sequence[Term], u: Floats, sharpness: float, limit: float) -> Floats:
    value, gradient = _value(terms, u, sharpness)
    step = 1.0
    for _ in range(_ROUNDS):
        tried = np.clip(u - step * gradient, -limit, limit)
        moved = tried - u
        if np.abs(moved).max(initial=0.0) < _CLOSE:
            break
        at, slope = _value(terms, tried, sharpness)
        if at > value + 1e-4 * float(gradient @ moved):
            step /= 4
            continue
        change = slope - gradient
        curvature = float(moved @ change)
        step = float(moved @ moved) / curvature if curvature > 0 else 2 * step
        u, value, gradient = tried, at, slope
    return u
