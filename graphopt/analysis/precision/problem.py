"""The error and the cost of an assignment, as `types` defines them: what every solver must agree with."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from graphopt.analysis.precision.types import Assignment, Border, Problem, Region, Solution
from graphopt.quant.precision import PRECISIONS

_FLOAT = "float32"


def evaluate(problem: Problem, precisions: Assignment, *, proven: bool = True) -> Solution:
    """Error and cost of an assignment.

    Raises:
        KeyError: a region has no precision.
    """
    by_name = problem.regions.by_name
    sensitivity, costs = problem.sensitivity, problem.costs
    error = sum(sensitivity.weights.get((r.name, precisions[r.name]), 0.0) for r in problem.regions.regions)
    cost = costs.fixed + sum(costs.regions.get((r.name, precisions[r.name]), 0.0) for r in problem.regions.regions)
    for border in problem.regions.borders:
        written = forms_written(by_name, border, precisions)
        for form in forms_held(by_name, border, precisions):
            error += sensitivity.tensors.get((border.tensor, form), 0.0)
            if form not in written:
                cost += costs.conversions.get((border.tensor, form), 0.0)
    return Solution(dict(precisions), error, cost, proven)


def is_feasible(problem: Problem, precisions: Assignment) -> bool:
    """Whether every region has one of its choices, and in 8 bits the reader that it needs."""
    if any(precisions[r.name] not in problem.choices[r.name] for r in problem.regions.regions):
        return False
    readers = dict(readers_of(problem))
    return all(
        any(PRECISIONS[precisions[reader]].form == PRECISIONS[precisions[r.name]].form for reader in readers[r.name])
        for r in problem.regions.regions
        if r.needs_reader and is_integer(precisions[r.name])
    )


def is_integer(precision: str) -> bool:
    """Whether its activations are integers."""
    return PRECISIONS[precision].form.startswith("int")


def readers_of(problem: Problem) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Each region with the regions that read what it writes."""
    found: dict[str, dict[str, None]] = {region.name: {} for region in problem.regions.regions}
    for border in problem.regions.borders:
        if border.writer is not None:
            found[border.writer].update(dict.fromkeys(border.readers))
    for name, readers in found.items():
        yield name, tuple(readers)


def forms_written(by_name: Mapping[str, Region], border: Border, precisions: Assignment) -> set[str]:
    """The forms that a tensor has without a conversion."""
    if border.writer is None:
        return {_FLOAT}
    precision = precisions[border.writer]
    forms = {str(PRECISIONS[precision].form)}
    return forms if by_name[border.writer].writes_form or not is_integer(precision) else forms | {_FLOAT}


def forms_held(by_name: Mapping[str, Region], border: Border, precisions: Assignment) -> list[str]:
    """The forms that a tensor exists in, sorted."""
    forms: set[str] = {PRECISIONS[precisions[reader]].form for reader in border.readers}
    if border.is_output:
        forms.add(_FLOAT)
    if border.writer is not None and by_name[border.writer].writes_form:
        forms.add(PRECISIONS[precisions[border.writer]].form)
    return sorted(forms)
