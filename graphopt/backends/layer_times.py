"""The times of one layer at the sizes of its groups: what to measure, and what lies between what was measured.

one group       a line of measured sizes, straight in between
two groups      a grid, likewise
more (Concat)   a + b·MACs + c·values read + d·values written, none negative, fitted in relative error
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from graphopt.analysis.pruning.cost_tables import TableBuilder
from graphopt.analysis.pruning.count_polynomial import CountPolynomial
from graphopt.analysis.pruning.kept_counts import KeptCounts
from graphopt.backends.layer_stopwatch import Stopwatch
from graphopt.backends.single_layer import LayerInput, SingleLayer

# What the rounds measure: so many sizes of each group in all combinations; None: every size, the other group whole.
_GRIDS = (2, None, 3, 5)
ROUNDS = len(_GRIDS)
_MUCH = 1.25


class LayerTimes:
    """A layer and the times that it takes at some sizes of its groups."""

    def __init__(
        self,
        name: str,
        single: SingleLayer | None,
        macs: CountPolynomial,
        counts: KeptCounts,
        units: Mapping[str, int],
    ) -> None:
        self.name, self.macs = name, macs
        self._single, self._units = single, units
        self._groups = [group for group in _groups_of(single) if group in counts]
        self._counts = {group: counts[group] for group in self._groups}
        # Numbers of the sizes of the groups → seconds.
        self.times: dict[tuple[int, ...], float] = {}
        # Numbers of the sizes that make the largest grid that was measured.
        self._pairs: list[list[int]] = []
        self.whole = tuple(len(sizes) - 1 for sizes in self._counts.values())

    def measure(self, stopwatch: Stopwatch, round_: int) -> None:
        """Time what a round (0 to `ROUNDS` − 1) adds to those before it; nothing more for a layer that can't be run."""
        if self._single is None or (round_ > 0 and not self.times):
            return
        grid = _GRIDS[round_]
        points = self._lines() if grid is None and len(self._groups) <= 2 else self._grid(grid or 3)
        copies = self._single.copies(self.macs.at(self._units))
        found: dict[tuple[int, ...], float] = {}
        for point in points:
            taken = stopwatch.seconds(self._single, self._kept(point), copies)
            if taken is None:
                self.times = {}
                return
            found[point] = taken
        self.times |= found
        if grid is None:
            self._look_again(stopwatch, copies)
        self._pairs = self._pairs if grid is None else self._spreads(grid)

    def _look_again(self, stopwatch: Stopwatch, copies: int) -> None:
        """Time again what is slow beside other sizes: the machine may have been busy with something else.

        That is what takes longer than a larger size, or much longer for each multiply-accumulate than a smaller one:
        the larger a layer, the better it usually fills the machine.
        """
        assert self._single is not None
        points = list(self.times)
        seconds = np.array([self.times[point] for point in points])
        rates = seconds / [self.macs.at(self._kept(point)) for point in points]
        for number, point in enumerate(points):
            larger = [all(a >= b for a, b in zip(other, point, strict=True)) for other in points]
            smaller = [all(a <= b for a, b in zip(other, point, strict=True)) for other in points]
            if seconds[number] > seconds[larger].min() or rates[number] > _MUCH * rates[smaller].min():
                self.times[point] = stopwatch.again(self._single, self._kept(point), copies)

    def add_to(self, builder: TableBuilder, rate: float) -> None:
        """Its seconds, at all sizes; `rate`: seconds a multiply-accumulate where nothing is measured."""
        if not self.times or self._single is None:
            builder.add(self.macs.scaled(rate))
            return
        match self._groups:
            case []:
                builder.add(CountPolynomial.constant(self.times[()]))
            case [group]:
                builder.add_single(group, self._line(0))
            case [first, second]:
                builder.add_pair(first, second, self._plane())
            case _:
                builder.add(self._fit(self._single))

    def _kept(self, point: tuple[int, ...]) -> dict[str, int]:
        """Units of every group at a point."""
        here = {group: self._counts[group][i] for group, i in zip(self._groups, point, strict=True)}
        return {**self._units, **here}

    def _lines(self) -> list[tuple[int, ...]]:
        """Every size of each group, the other one whole."""
        return [
            (*self.whole[:position], number, *self.whole[position + 1 :])
            for position, most in enumerate(self.whole)
            for number in range(most + 1)
        ]

    def _grid(self, sizes: int) -> list[tuple[int, ...]]:
        """So many sizes of each group: all combinations for two groups; for more, data and weights each in step."""
        if len(self._groups) <= 2:
            return list(itertools.product(*self._spreads(sizes)))
        read = {g for stored, _, axes in _inputs(self._single) if not stored for axis in axes for g in axis.groups}
        steps = itertools.product(np.linspace(0, 1, sizes), repeat=2)
        return [
            tuple(round((a if g in read else b) * (len(kept) - 1)) for g, kept in self._counts.items())
            for a, b in steps
        ]

    def _spreads(self, sizes: int) -> list[list[int]]:
        return [_spread(kept, sizes) for kept in self._counts.values()]

    def _line(self, position: int) -> NDArray[np.float64]:
        """Seconds at every size of the group at this position, the other one whole."""
        sizes = list(self._counts.values())[position]
        at = {p[position]: t for p, t in self.times.items() if _others(p, position) == _others(self.whole, position)}
        numbers = sorted(at)
        return np.interp(sizes, [sizes[i] for i in numbers], [at[i] for i in numbers])

    def _plane(self) -> NDArray[np.float64]:
        """Seconds at every pair of sizes."""
        apart = np.outer(self._line(0), self._line(1)) / self.times[self.whole]
        rows, columns = self._pairs
        ratio = np.array([[self.times[row, column] / apart[row, column] for column in columns] for row in rows])
        first, second = self._counts.values()
        return apart * (_between(first, rows) @ ratio @ _between(second, columns).T)

    def _fit(self, single: SingleLayer) -> CountPolynomial:
        from scipy.optimize import nnls  # slow to import

        features = (CountPolynomial.constant(1), self.macs, *single.features())
        values = np.array([[feature.at(self._kept(point)) for feature in features] for point in self.times])
        scales = values.max(axis=0)
        times = np.array(list(self.times.values()))
        found, _ = nnls(values / scales / times[:, None], np.ones(len(times)))
        return CountPolynomial.sum(f.scaled(float(c / s)) for f, c, s in zip(features, found, scales, strict=True))


def _inputs(single: SingleLayer | None) -> Sequence[LayerInput]:
    return () if single is None else single.inputs


def _groups_of(single: SingleLayer | None) -> list[str]:
    """Names of all groups that a layer's sizes depend on, sorted."""
    return sorted({group for _, _, axes in _inputs(single) for axis in axes for group in axis.groups})


def _others(point: tuple[int, ...], position: int) -> tuple[int, ...]:
    return point[:position] + point[position + 1 :]


def _spread(sizes: Sequence[int], most: int) -> list[int]:
    """Numbers of at most so many of the sizes, both ends among them; of neighbours the one with more factors of 2."""
    last = len(sizes) - 1
    found = {0, last}
    for target in np.linspace(0, last, most)[1:-1]:
        near = [i for i in range(last + 1) if abs(i - target) < 0.8]
        found.add(max(near, key=lambda i: (sizes[i] & -sizes[i], -abs(i - target))))
    return sorted(found)


def _between(sizes: Sequence[int], numbers: Sequence[int]) -> NDArray[np.float64]:
    """[sizes, those of them at `numbers`]: the weights of linear interpolation."""
    weights = np.zeros((len(sizes), len(numbers)))
    for column, unit in enumerate(np.eye(len(numbers))):
        weights[:, column] = np.interp(sizes, [sizes[i] for i in numbers], unit)
    return weights
