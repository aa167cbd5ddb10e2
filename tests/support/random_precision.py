"""Random problems of mixed precision, and all assignments of small ones."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np

from graphopt.analysis.precision.problem import evaluate, is_feasible
from graphopt.analysis.precision.types import Border, Costs, Problem, Region, Regions, Sensitivity, Solution
from graphopt.quant.precision import PRECISIONS

FORMS = ("float16", "int16", "int8")


def random_problem(
    seed: int,
    count: int,
    sets: Sequence[Sequence[str]],
    *,
    needs: float = 0.3,
    writes: float = 0.5,
    sparse: float = 0.0,
) -> Problem:
    """A problem of `count` regions that read each other's results, each with one of the `sets` of choices.

    Errors span nine decades and costs are those of microseconds; the lower the bits the larger the error, usually the
    smaller the cost. `needs` and `writes` are parts of the regions; `sparse` is the part of the tables left out.
    """
    rng = np.random.default_rng(seed)
    names = [f"r{i}" for i in range(count)]
    choices = {name: tuple(sets[rng.integers(len(sets))]) for name in names}
    regions = tuple(
        Region(n, "Conv", (n,), (), choices[n], (), f"{n}.y", bool(rng.random() < writes), bool(rng.random() < needs))
        for n in names
    )
    borders = [Border("x", None, tuple(names[: int(rng.integers(1, 3))]))]
    for i, name in enumerate(names):
        behind = names[i + 1 : i + 6]
        readers = tuple(sorted(rng.choice(behind, min(len(behind), int(rng.integers(1, 4))), replace=False).tolist()))
        borders.append(Border(f"{name}.y", name, readers, not readers or bool(rng.random() < 0.1)))

    def error(bits: int) -> float:
        return float(10.0 ** rng.uniform(-9, -1) * 2.0 ** (8 - bits)) if bits < 32 else 0.0

    def kept() -> bool:
        return bool(rng.random() >= sparse)

    bits = {"float16": 16, "int16": 12, "int8": 8}
    weights = {(n, p): error(PRECISIONS[p].weight_bits) for n in names for p in choices[n] if kept()}
    tensors = {(b.tensor, form): error(bits[form]) for b in borders for form in FORMS if kept()}
    speed = {p: rng.uniform(0.3, 1.1) for p in PRECISIONS} | {"float32": 1.0}
    scale = {n: 10.0 ** rng.uniform(-6, -3) for n in names}
    costs = {(n, p): float(scale[n] * speed[p] * rng.uniform(0.8, 1.2)) for n in names for p in choices[n] if kept()}
    conversions = {
        (b.tensor, form): float(10.0 ** rng.uniform(-7, -4)) for b in borders for form in ("float32", *FORMS) if kept()
    }
    problem = Regions(regions, tuple(borders))
    return Problem(problem, choices, Sensitivity("local", weights, tensors), Costs("latency", costs, conversions, 1e-5))


def every_solution(problem: Problem) -> list[Solution]:
    """All assignments that are feasible."""
    names = [region.name for region in problem.regions.regions]
    every = (dict(zip(names, found, strict=True)) for found in itertools.product(*(problem.choices[n] for n in names)))
    return [evaluate(problem, precisions) for precisions in every if is_feasible(problem, precisions)]
