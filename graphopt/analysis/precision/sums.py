"""A mixed-precision problem written as `Terms`: each tensor's error and each conversion, paid once."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator

from graphopt.analysis.precision.problem import forms_written, is_integer, readers_of
from graphopt.analysis.precision.terms import Literal, Need, Paid, Term, Terms
from graphopt.analysis.precision.types import Border, Problem, Region
from graphopt.errors import ConfigError, InternalError
from graphopt.quant.precision import PRECISIONS

_FLOAT = "float32"
# What all sums together come to, about; twelve decades below that there still are a million.
_UNITS = 2**64


def sums_of(problem: Problem) -> Terms:
    """Write a problem as sums.

    Raises:
        ConfigError: a region may only have precisions that need a reader which can't have them.
    """
    return _Writing(problem).finished()


class _Writing:
    def __init__(self, problem: Problem) -> None:
        self._problem = problem
        self._by_name = problem.regions.by_name
        self._choices = _possible_choices(problem)
        self._terms: dict[tuple[tuple[Literal, ...], Literal | None], list[float]] = {}
        self._constant = [0.0, 0.0]
        weights, costs = problem.sensitivity.weights, problem.costs.regions
        self._single = {
            (region, p): [weights.get((region, p), 0.0), costs.get((region, p), 0.0)]
            for region, precisions in self._choices.items()
            for p in precisions
        }

    def finished(self) -> Terms:
        for border in self._problem.regions.borders:
            for form in self._forms(border):
                self._hold(border, form)
                self._convert(border, form)
        units = self._unit(0, "error"), self._unit(1, "cost")

        def paid(values: list[float]) -> Paid:
            return Paid(round(values[0] / units[0]), round(values[1] / units[1]))

        return Terms(
            self._choices,
            paid(self._constant),
            {key: paid(values) for key, values in self._single.items()},
            tuple(Term(*key, paid(values)) for key, values in self._terms.items()),
            tuple(self._needs()),
            units,
        )

    def _forms(self, border: Border) -> list[str]:
        regions = [*border.readers, *([] if border.writer is None else [border.writer])]
        return sorted({_FLOAT, *(PRECISIONS[p].form for region in regions for p in self._choices[region])})

    def _hold(self, border: Border, form: str) -> None:
        """The error of a tensor in a form that somebody reads, or that its writer writes whoever reads it."""
        error = self._problem.sensitivity.tensors.get((border.tensor, form), 0.0)
        regions = list(border.readers)
        if border.writer is not None and self._by_name[border.writer].writes_form:
            regions.append(border.writer)
        self._pay(border, form, regions, set(), None, [error, 0.0])

    def _convert(self, border: Border, form: str) -> None:
        """The cost of a form that the writer doesn't write."""
        cost = self._problem.costs.conversions.get((border.tensor, form), 0.0)
        if border.writer is None:
            if form != _FLOAT:
                self._pay(border, form, border.readers, set(), None, [0.0, cost])
            return
        written = {
            p for p in self._choices[border.writer] if form in forms_written(self._by_name, border, {border.writer: p})
        }
        self._pay(border, form, border.readers, written, border.writer, [0.0, cost])

    def _pay(
        self, border: Border, form: str, readers: Iterable[str], free: set[str], writer: str | None, paid: list[float]
    ) -> None:
        """Paid where a reader has a precision of this form, unless `writer` has one of `free`."""
        if not all(math.isfinite(value) and value >= 0 for value in paid):
            raise InternalError(f"the tensor '{border.tensor}' in {form} has an error or a cost of {max(paid)}")
        literals = [(r, tuple(p for p in self._choices[r] if PRECISIONS[p].form == form)) for r in readers]
        always = (border.is_output and form == _FLOAT) or any(p == self._choices[r] for r, p in literals)
        any_of = tuple(Literal(region, precisions) for region, precisions in literals if precisions)
        choices = () if writer is None else self._choices[writer]
        if not any(paid) or len(free) == len(choices) > 0 or not (always or any_of):
            return
        if always and not free:
            _add(self._constant, paid)
        elif always:
            for other in (p for p in choices if p not in free):
                assert writer is not None  # only a writer has precisions that write a form
                _add(self._single[writer, other], paid)
        elif not free and len(any_of) == 1:
            for precision in any_of[0].precisions:
                _add(self._single[any_of[0].region, precision], paid)
        else:
            unless = Literal(writer, tuple(p for p in choices if p in free)) if writer is not None and free else None
            _add(self._terms.setdefault((any_of, unless), [0.0, 0.0]), paid)

    def _needs(self) -> Iterator[Need]:
        for region, form, readers in _wanting(self._problem):
            when = tuple(p for p in self._choices[region.name] if PRECISIONS[p].form == form)
            found = [(r, tuple(p for p in self._choices[r] if PRECISIONS[p].form == form)) for r in readers]
            if not when or any(precisions == self._choices[r] for r, precisions in found):
                continue
            any_of = tuple(Literal(r, precisions) for r, precisions in found if precisions)
            yield Need(Literal(region.name, when), any_of)

    def _unit(self, index: int, what: str) -> float:
        most = sum(values[index] for values in (self._constant, *self._terms.values()))
        for region, precisions in self._choices.items():
            most += max(abs(self._single[region, p][index]) for p in precisions)
        if not math.isfinite(most):
            raise InternalError(f"the {what} of a region isn't finite")
        return most / _UNITS or 1.0


def _add(into: list[float], paid: list[float]) -> None:
    for index, value in enumerate(paid):
        into[index] += value


def _wanting(problem: Problem) -> Iterator[tuple[Region, str, tuple[str, ...]]]:
    """(region, form, readers) wherever a region has an integer form only where a reader has it."""
    readers = dict(readers_of(problem))
    for region in problem.regions.regions:
        forms = {PRECISIONS[p].form for p in problem.choices[region.name] if is_integer(p)}
        if region.needs_reader:
            yield from ((region, form, readers[region.name]) for form in sorted(forms))


def _possible_choices(problem: Problem) -> dict[str, tuple[str, ...]]:
    """The choices without those that need a reader which can't have them."""
    choices = {region.name: tuple(problem.choices[region.name]) for region in problem.regions.regions}
    wanting = list(_wanting(problem))
    changed = True
    while changed:
        changed = False
        for region, form, readers in wanting:
            if any(PRECISIONS[p].form == form for r in readers for p in choices[r]):
                continue
            left = tuple(p for p in choices[region.name] if PRECISIONS[p].form != form)
            changed |= left != choices[region.name]
            choices[region.name] = left
            if not left:
                raise ConfigError(
                    f"'{region.name}' ({region.op}) can't run in {' or '.join(problem.choices[region.name])} alone: "
                    "nothing that reads its result can; leave it float32, or its readers that precision"
                )
    return choices
