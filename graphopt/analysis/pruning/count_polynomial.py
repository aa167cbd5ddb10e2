"""Costs as polynomials in how many units each group keeps.

    result [N, 64 of group a, 28, 28] × weight [·, 32 of group b, 3, 3]    →    7056·a·b

The size of an axis is a constant plus, for each group that runs through it, elements a unit × units kept. A cost is a
sum of products of sizes. All coefficients are ≥ 0, so that keeping less never costs more.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import prod
from typing import TypeAlias

Monomial: TypeAlias = tuple[str, ...]
"""Names of the groups whose counts are multiplied, sorted; a name twice is a square."""


@dataclass(frozen=True)
class CountPolynomial:
    """Σ coefficient × product of counts.

    Attributes:
        terms: monomial → coefficient; () is the constant.
    """

    terms: Mapping[Monomial, float]

    @staticmethod
    def constant(value: float) -> CountPolynomial:
        """What doesn't depend on any group."""
        return CountPolynomial({(): value} if value else {})

    @staticmethod
    def sum(items: Iterable[CountPolynomial]) -> CountPolynomial:
        """All of them together."""
        terms: dict[Monomial, float] = {}
        for item in items:
            for monomial, coefficient in item.terms.items():
                terms[monomial] = terms.get(monomial, 0) + coefficient
        return CountPolynomial(terms)

    @staticmethod
    def product(factors: Iterable[CountPolynomial]) -> CountPolynomial:
        """All of them multiplied; 1 for none."""
        terms: dict[Monomial, float] = {(): 1}
        for factor in factors:
            longer: dict[Monomial, float] = {}
            for left, a in terms.items():
                for right, b in factor.terms.items():
                    both = tuple(sorted(left + right))
                    longer[both] = longer.get(both, 0) + a * b
            terms = longer
        return CountPolynomial(terms)

    def scaled(self, factor: float) -> CountPolynomial:
        """Every coefficient times `factor`."""
        return CountPolynomial({monomial: coefficient * factor for monomial, coefficient in self.terms.items()})

    def at(self, counts: Mapping[str, int]) -> float:
        """The value when each group keeps `counts[group]` units; a whole number where the coefficients are."""
        return sum(c * prod(counts[group] for group in monomial) for monomial, c in self.terms.items())

    @property
    def groups(self) -> tuple[str, ...]:
        """Names of the groups that it depends on, sorted."""
        return tuple(sorted({group for monomial in self.terms for group in monomial}))
