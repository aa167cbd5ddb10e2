"""The baseline of solvers: everything in 8 bits, and the layers that lose most back to float, one by one.

It is what quantization tools do by hand or with one evaluation a layer; borders aren't looked at.
"""

from __future__ import annotations

from graphopt.analysis.precision.problem import evaluate, is_integer, readers_of
from graphopt.analysis.precision.types import Problem, Region, Solution
from graphopt.quant.precision import PRECISIONS

_FLOAT = "float32"


def greedy_curve(problem: Problem, low: str = "int8") -> tuple[Solution, ...]:
    """Every region in `low` that can be, then each of them to float32 in turn, by descending local error.

    A region that needs a reader in 8 bits goes to float32 with the last one. What can't be float32 (a pin) stays. No
    point is proven; one may be beaten by another.
    """
    precisions = {
        region.name: low if low in problem.choices[region.name] else _cheapest(problem, region.name)
        for region in problem.regions.regions
    }
    _without_reader(problem, precisions)
    curve = [evaluate(problem, precisions, proven=False)]
    errors = {region.name: local_error(problem, region, low) for region in problem.regions.regions}
    for name in sorted(errors, key=lambda name: -errors[name]):
        if precisions[name] == low and _FLOAT in problem.choices[name]:
            precisions[name] = _FLOAT
            _without_reader(problem, precisions)
            curve.append(evaluate(problem, precisions, proven=False))
    return tuple(curve)


def local_error(problem: Problem, region: Region, precision: str) -> float:
    """What a region alone loses in a precision: with its weights, and with the tensors that it reads or rounds."""
    form, error = PRECISIONS[precision].form, problem.sensitivity.weights.get((region.name, precision), 0.0)
    for border in problem.regions.borders:
        if region.name in border.readers or (border.writer == region.name and region.writes_form):
            error += problem.sensitivity.tensors.get((border.tensor, form), 0.0)
    return error


def _cheapest(problem: Problem, name: str) -> str:
    costs = problem.costs.regions
    return (
        _FLOAT
        if _FLOAT in problem.choices[name]
        else min(problem.choices[name], key=lambda precision: costs.get((name, precision), 0.0))
    )


def _without_reader(problem: Problem, precisions: dict[str, str]) -> None:
    """Back to float32 with what needs a reader in its precision and has none."""
    readers, changed = dict(readers_of(problem)), True
    while changed:
        changed = False
        for region in problem.regions.regions:
            precision = precisions[region.name]
            if region.needs_reader and is_integer(precision) and _FLOAT in problem.choices[region.name]:
                form = PRECISIONS[precision].form
                if not any(PRECISIONS[precisions[reader]].form == form for reader in readers[region.name]):
                    precisions[region.name], changed = _FLOAT, True
