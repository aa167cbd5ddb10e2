"""Error and cost of an assignment as sums that a solver can be given, in whole numbers.

    Literal    a region has one of these precisions
    Term       paid once where any of some literals holds, unless another one does:
                   a tensor held in a form       any reader has a precision of that form
                   a conversion at a border      likewise, unless the writer has one that writes that form
    Need       where a literal holds, one of others has to (a residual Add runs in 8 bits only for an 8-bit reader)

    error(a) = constant + Σ_r single[r, a(r)] + Σ_terms that are paid,      cost(a) likewise

What `problem.evaluate` says follows from these but for rounding. In whole numbers the front's hull is exact:
errors span twelve decades, and sums of them are compared with ties.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from graphopt.analysis.precision.types import Assignment


class Paid(NamedTuple):
    """An error and a cost."""

    error: int
    cost: int


def error_of(paid: Paid) -> int:
    """The error alone."""
    return paid.error


def cost_of(paid: Paid) -> int:
    """The cost alone."""
    return paid.cost


class Literal(NamedTuple):
    """`region` has one of `precisions`: some of its choices, but not all of them."""

    region: str
    precisions: tuple[str, ...]

    def holds(self, precisions: Assignment) -> bool:
        """Whether it does in this assignment."""
        return precisions[self.region] in self.precisions


class Term(NamedTuple):
    """What is paid where one of `any_of` (never empty) holds and `unless` doesn't."""

    any_of: tuple[Literal, ...]
    unless: Literal | None
    paid: Paid

    def is_paid(self, precisions: Assignment) -> bool:
        """Whether an assignment pays it."""
        free = self.unless is not None and self.unless.holds(precisions)
        return not free and any(literal.holds(precisions) for literal in self.any_of)


class Need(NamedTuple):
    """Where `when` holds, one of `any_of` (never empty) does."""

    when: Literal
    any_of: tuple[Literal, ...]


@dataclass(frozen=True)
class Terms:
    """A problem, in sums.

    Attributes:
        choices: what is left to each region, in the order of the regions: a precision that needs a reader which can't
            have it is no choice.
        constant: what every assignment pays, but for what is fixed.
        single: (region, precision) → what is paid for it.
        terms: what is paid at borders.
        needs: what has to hold.
        units: of errors, and of costs: what 1 is in those of the problem.
    """

    choices: Mapping[str, tuple[str, ...]]
    constant: Paid
    single: Mapping[tuple[str, str], Paid]
    terms: tuple[Term, ...]
    needs: tuple[Need, ...]
    units: tuple[float, float]

    def of(self, precisions: Assignment) -> Paid:
        """Error and cost of an assignment, in `units`, what is fixed not included."""
        paid = [self.constant, *(self.single[region, precisions[region]] for region in self.choices)]
        paid += [term.paid for term in self.terms if term.is_paid(precisions)]
        return Paid(sum(p.error for p in paid), sum(p.cost for p in paid))

    def allows(self, precisions: Assignment) -> bool:
        """Whether everything that is needed is there."""
        return all(any(x.holds(precisions) for x in n.any_of) for n in self.needs if n.when.holds(precisions))
