"""In which order to remove units so that what reads them errs least, when the rest is refitted each time.

    error(removed R, kept S) = tr(W_R · (H_RR − H_RS H_SS⁻¹ H_SR) · W_Rᵀ)

W is the weight of a layer that reads the units, H the second moment of what it reads: this is what is left of the error
after the best linear refit of the kept inputs, so a unit that others can stand in for costs little. Greedy backward
elimination: with P = H⁻¹ and A = Wᵀ W of the weight as refitted so far, taking out unit u (its inputs J) costs

    tr(A_JJ P_JJ⁻¹),   then   D = P_JJ⁻¹ P_J:,   P −= P_:J D,   A −= Dᵀ A_J: + A_:J D − Dᵀ A_JJ D

which is Optimal Brain Surgeon (Hassibi and Stork, 1993) with a unit's inputs as a block, as in Frantar et al., "Optimal
Brain Compression" (NeurIPS 2022) and Kurtic et al., "ZipLM" (NeurIPS 2023). Several layers that read a unit add up.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Indexes = NDArray[np.int64]

# Units taken out between two looks at all others, as a share of those left. What matrices of a thousand inputs cost is
# memory traffic, which a batch has once.
BATCH = 1 / 32
# The part of the numbers that has to be gone before what is left is copied together.
_GONE = 0.25
_REMOVED = -2
# Added to the diagonal of H, as a share of its mean: directions that the samples don't show would cost nothing, and the
# order would fit the samples. As in GPTQ and OBC.
DAMPING = 0.01


@dataclass(frozen=True)
class Ranking:
    """Units in the order in which they go.

    Attributes:
        order: [units], the one to remove first in front.
        cost: [units], what has been lost once that unit and all before it are removed; never falls.
    """

    order: Indexes
    cost: Array

    @staticmethod
    def of(scores: Array) -> Ranking:
        """The trivial one of scores that don't depend on what else is removed; equal ones in the order of units."""
        order = np.argsort(scores, kind="stable")
        return Ranking(order, np.cumsum(np.maximum(scores[order], 0.0)))

    @property
    def scores(self) -> Array:
        """[units]: what each unit's removal added to the cost."""
        found = np.empty(len(self.order))
        found[self.order] = np.diff(self.cost, prepend=0.0)
        return found


@dataclass(frozen=True)
class Contraction:
    """One layer, or one group of a grouped convolution, that sums over units.

    Attributes:
        weight: [out, k].
        second: H, what it reads, around the means where a bias can take those up, [k, k].
        mean_square: E[x²], around 0, [k].
        units: [k], the unit that each number belongs to; -1 for other groups' channels.
        energy: what errors of its result are to be seen beside: the mean square of what they end up in.
    """

    weight: Array
    second: Array
    mean_square: Array
    units: Indexes
    energy: float


def eliminate(problems: Sequence[Contraction], units: int, damping: float = DAMPING) -> Ranking:
    """The greedy order and what it costs: the sum over layers of error / energy, 0 to about 1 for a layer.

    Args:
        problems: the layers that read the units.
        units: how many units there are.
        damping: of H.

    Raises:
        ValueError: nothing reads the units.
    """
    states = [_State(problem, units, damping) for problem in problems if problem.energy > 0]
    if not states:
        raise ValueError("nothing that reads the units varies")
    left = np.arange(units)
    order: list[int] = []
    cost: list[float] = []
    total = 0.0
    while len(left):
        prices = np.sum([state.prices(left) for state in states], axis=0)
        batch = left[np.argsort(prices, kind="stable")[: max(1, int(len(left) * BATCH))]]
        costs = np.sum([state.remove(batch) for state in states], axis=0)
        order.extend(batch.tolist())
        cost.extend((total + np.cumsum(costs)).tolist())
        total += float(costs.sum())
        left = left[~np.isin(left, batch)]
    return Ranking(np.array(order, np.int64), np.maximum.accumulate(np.array(cost)))


def by_unit(values: Array, units: Indexes, count: int) -> Array:
    """Sums of the values of each unit, [count]; `units` says whose they are, -1 means nobody's."""
    inside = units >= 0
    return np.bincount(units[inside], values[inside], minlength=count).astype(np.float64)


def damped_inverse(second: Array, damping: float = DAMPING) -> Array:
    """(H + damping·h·I)⁻¹, h the mean of H's diagonal; H is [k, k]."""
    width = len(second)
    mean = float(np.trace(second)) / width
    return np.linalg.inv(second + (damping * mean if mean > 0 else 1.0) * np.eye(width)).astype(np.float64)


class _State:
    """P and A of one layer, of the numbers that are left and some that are gone, whose rows and columns are 0."""

    def __init__(self, problem: Contraction, units: int, damping: float) -> None:
        self.inverse = damped_inverse(problem.second, damping)
        # Of the error, not of its share: squared weights may be tiny.
        self.gram = problem.weight.T @ problem.weight / problem.energy
        self.units = problem.units
        self._locate(units)

    def prices(self, left: Indexes) -> Array:
        """What each of the units would cost now."""
        if not self.even:
            return np.array([self._price(self.places[int(unit)]) for unit in left.flat])
        found = np.zeros(len(left))
        here = np.flatnonzero(self.sizes[left])
        if len(here):
            places = np.stack([self.places[int(unit)] for unit in left[here].flat])
            inside = (places[:, :, None], places[:, None, :])
            found[here] = np.einsum("uij,uji->u", np.linalg.inv(self.inverse[inside]), self.gram[inside])
        return found

    def remove(self, batch: Indexes) -> Array:
        """Take units out, one after the other; what each of them cost."""
        places = np.concatenate([self.places[int(unit)] for unit in batch.flat])
        if not len(places):
            return np.zeros(len(batch))
        inside = np.ix_(places, places)
        costs = self._one_by_one(batch, self.inverse[inside], self.gram[inside])
        rows = np.linalg.solve(self.inverse[inside], self.inverse[places])
        own, gram = self.gram[inside], self.gram[places]
        self.inverse -= self.inverse[:, places] @ rows
        # Dᵀ A_J: + A_:J D − Dᵀ A_JJ D, in one product and its transpose.
        half = rows.T @ (gram - own @ rows / 2)
        self.gram -= half
        self.gram -= half.T
        # What is gone stays exactly 0, whatever rounding has left there.
        for matrix in (self.inverse, self.gram):
            matrix[places] = 0.0
            matrix[:, places] = 0.0
        self.units = self.units.copy()
        self.units[places] = _REMOVED
        if np.count_nonzero(self.units == _REMOVED) > _GONE * len(self.units):
            stay = np.flatnonzero(self.units != _REMOVED)
            self.inverse, self.gram = self.inverse[np.ix_(stay, stay)], self.gram[np.ix_(stay, stay)]
            self.units = self.units[stay]
            self._locate(len(self.places))
        return costs

    def _one_by_one(self, batch: Indexes, inverse: Array, gram: Array) -> Array:
        """The costs within a batch: P and A of its numbers change by nothing but themselves."""
        ends = np.cumsum(self.sizes[batch])
        costs = np.zeros(len(batch))
        for k, (start, end) in enumerate(zip([0, *ends[:-1]], ends, strict=True)):
            if start == end:
                continue
            here = slice(0, end - start)
            costs[k] = _price_of(inverse[here, here], gram[here, here])
            rows = np.linalg.solve(inverse[here, here], inverse[here])
            half = rows.T @ (gram[here] - gram[here, here] @ rows / 2)
            inverse = (inverse - inverse[:, here] @ rows)[end - start :, end - start :]
            gram = (gram - half - half.T)[end - start :, end - start :]
        return costs

    def _locate(self, units: int) -> None:
        """Find the places of each unit's numbers."""
        order = np.argsort(self.units, kind="stable")
        ends = np.searchsorted(self.units[order], np.arange(units + 1))
        self.places: list[Indexes] = [order[start:end] for start, end in pairwise(ends)]
        self.sizes = np.diff(ends)
        # Most often each unit has as many numbers as any other that has some: then all are looked at in one go.
        self.even = len(np.unique(self.sizes[self.sizes > 0])) == 1

    def _price(self, places: Indexes) -> float:
        inside = np.ix_(places, places)
        return _price_of(self.inverse[inside], self.gram[inside]) if len(places) else 0.0


def _price_of(inverse: Array, gram: Array) -> float:
    """tr(A_JJ P_JJ⁻¹)."""
    return max(0.0, float(np.trace(np.linalg.solve(inverse, gram))))
