"""A cost as tables over the sizes that the groups may have: what a choice of one size for each group adds up to.

    total = constant + Σ single[g][size of g] + Σ pairs[g, h][size of g, size of h]

A convolution is a pair of its input's and its output's group. One that reads a Concat is a sum of pairs, since its
multiply-accumulates are (a + b + …)·out. A product of three groups or more (none of the usual layers is one) counts
its least variable groups as if they were kept whole: the table is then too high, never too low.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import prod

import numpy as np
from numpy.typing import NDArray

from graphopt.analysis.pruning.count_polynomial import CountPolynomial, Monomial
from graphopt.analysis.pruning.kept_counts import KeptCounts

Table = NDArray[np.float64]


@dataclass(frozen=True)
class CostTable:
    """One kind of cost.

    Attributes:
        constant: what no choice changes.
        single: group → [sizes of the group].
        pairs: two groups, in order of their names → [sizes of the first, sizes of the second].
    """

    constant: float
    single: Mapping[str, Table]
    pairs: Mapping[tuple[str, str], Table]

    def of(self, choice: Mapping[str, int]) -> float:
        """The total when each group has the size number `choice[group]` of its sizes."""
        singles = sum(float(table[choice[g]]) for g, table in self.single.items())
        pairs = sum(float(table[choice[g], choice[h]]) for (g, h), table in self.pairs.items())
        return self.constant + singles + pairs

    def along(self, group: str, choice: Mapping[str, int]) -> Table | None:
        """What the costs that depend on `group` come to at each of its sizes, the other groups as in `choice`.

        None where none does.
        """
        total = self.single.get(group)
        for pair in self._pairs_of.get(group, ()):
            table = self.pairs[pair]
            line = table[:, choice[pair[1]]] if pair[0] == group else table[choice[pair[0]]]
            total = line if total is None else total + line
        return total

    def restricted(self, counts: KeptCounts, fewer: KeptCounts) -> CostTable:
        """The same cost over fewer sizes.

        Args:
            counts: the sizes that it is over.
            fewer: some of these; groups that are missing stay whole.
        """
        places = {
            group: [sizes.index(size) for size in fewer.get(group, sizes[-1:])] for group, sizes in counts.items()
        }
        builder = TableBuilder(fewer, {})
        builder.add_constant(self.constant)
        for group, table in self.single.items():
            line = table[places[group]]
            if group in fewer:
                builder.add_single(group, line)
            else:
                builder.add_constant(float(line[0]))
        for (g, h), table in self.pairs.items():
            part = table[np.ix_(places[g], places[h])]
            match g in fewer, h in fewer:
                case True, True:
                    builder.add_pair(g, h, part)
                case True, False:
                    builder.add_single(g, part[:, 0])
                case False, True:
                    builder.add_single(h, part[0])
                case _:
                    builder.add_constant(float(part[0, 0]))
        return builder.build()

    @cached_property
    def _pairs_of(self) -> Mapping[str, Sequence[tuple[str, str]]]:
        found: dict[str, list[tuple[str, str]]] = {}
        for pair in self.pairs:
            for group in pair:
                found.setdefault(group, []).append(pair)
        return found


class TableBuilder:
    """Adds up costs of layers to one table."""

    def __init__(self, counts: KeptCounts, units: Mapping[str, int]) -> None:
        """Begin with nothing.

        Args:
            counts: the sizes of the groups to choose for.
            units: of all groups that costs may depend on; those without sizes in `counts` stay whole.
        """
        self._sizes = {group: np.array(sizes, dtype=np.float64) for group, sizes in counts.items()}
        self._units = units
        self._constant = 0.0
        self._single: dict[str, Table] = {}
        self._pairs: dict[tuple[str, str], Table] = {}

    def add(self, cost: CountPolynomial) -> None:
        """A cost in closed form."""
        for monomial, coefficient in cost.terms.items():
            free = [group for group in monomial if group in self._sizes]
            whole = prod(self._units[group] for group in monomial if group not in self._sizes)
            self._add_monomial(tuple(free), coefficient * whole)

    def add_constant(self, value: float) -> None:
        """A cost that no size changes."""
        self._constant += value

    def add_single(self, group: str, table: Table) -> None:
        """A cost that depends on the size of one group."""
        self._single[group] = self._single.get(group, 0) + table

    def add_pair(self, first: str, second: str, table: Table) -> None:
        """A cost that depends on the sizes of two groups: [sizes of the first, sizes of the second]."""
        key, table = ((first, second), table) if first < second else ((second, first), table.T)
        self._pairs[key] = self._pairs.get(key, 0) + table

    def build(self) -> CostTable:
        """All that was added."""
        return CostTable(self._constant, dict(self._single), dict(self._pairs))

    def _add_monomial(self, monomial: Monomial, coefficient: float) -> None:
        powers = {group: self._sizes[group] ** monomial.count(group) for group in dict.fromkeys(monomial)}
        # The two that a choice changes most stay free.
        ordered = sorted(powers, key=lambda group: (powers[group][0] / powers[group][-1], group))
        coefficient *= prod(float(powers[group][-1]) for group in ordered[2:])
        match ordered[:2]:
            case [first, second]:
                self.add_pair(first, second, coefficient * np.outer(powers[first], powers[second]))
            case [only]:
                self.add_single(only, coefficient * powers[only])
            case _:
                self._constant += coefficient


def tabulate(cost: CountPolynomial, counts: KeptCounts, units: Mapping[str, int]) -> CostTable:
    """The table of a cost in closed form; arguments as in `TableBuilder`."""
    builder = TableBuilder(counts, units)
    builder.add(cost)
    return builder.build()
