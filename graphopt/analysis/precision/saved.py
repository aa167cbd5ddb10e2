"""An assignment of precisions as a file: to be read, edited by hand, and carried out again without samples.

    {"format": "graphopt-precision", "version": 1, "target": "tensorrt", "demand": "latency=0.6x", "cost": "latency",
     "kept_float": {"softmax": "8 bits would erase …"},
     "regions": [
      {"name": "conv1", "precision": "int8", "op": "Conv", "nodes": ["conv1", "relu1"], "error": 1e-05, "cost": 0.001},
      {"name": "mul", "precision": "float32", "op": "Mul", "nodes": ["mul"], "reason": "'y' reaches 1e+05, and …"}
     ],
     "tensors": [
      {"name": "x", "scheme": {"dtype": "int8", "symmetric": true, …}, "low": -1.5, "high": 6.0}
     ],
     "decisions": []}

`tensors` are those of the plan with everything in 8 bits, so that a region can be edited to "int8", too. `decisions` is
what passes before chose by the samples (`Context.kept`): scales of channels, which the ranges depend on. `error`,
`cost`, `reason`, and whatever else a reader adds, are not read. Weights, and what is fitted to samples, aren't in it.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np

from graphopt.analysis.precision.types import Problem, Regions, Solution
from graphopt.errors import ConfigError
from graphopt.ir.records import damaged, read_record, write_record
from graphopt.quant import QuantPlan, Range, Scheme, TensorPlan
from graphopt.quant.precision import find_precision

_FORMAT, _VERSION = "graphopt-precision", 1
_TITLE = "precision plan"
_MEND = "save one with --save-precision-plan"


@dataclass(frozen=True)
class SavedRegion:
    """One region of a saved assignment: its name, its nodes and its precision."""

    name: str
    nodes: tuple[str, ...]
    precision: str


@dataclass(frozen=True)
class SavedPlan:
    """A saved assignment.

    Attributes:
        source: the file.
        target: the name of the one that it was made for.
        demand: what it was made for.
        kept_float: nodes that got no 8 bits whatever was assigned → why; what regions were found with.
        regions: in graph order.
        ranges: name of an activation → its scheme and its range in the plan with everything in 8 bits.
        decisions: what passes before chose by the samples, under their names of it.
    """

    source: Path
    target: str
    demand: str
    kept_float: Mapping[str, str]
    regions: tuple[SavedRegion, ...]
    ranges: Mapping[str, tuple[Scheme, Range]]
    decisions: Mapping[str, Range]

    def assignment(self, regions: Regions, target: str) -> dict[str, str]:
        """The precision of each region of a graph.

        Args:
            regions: of the graph, found with `kept_float`.
            target: the name of the one to compile for.

        Raises:
            ConfigError: the plan is for another target or another model, or gives a region what it can't have.
        """
        if self.target != target:
            raise ConfigError(f"the {_TITLE} '{self.source}' is for target '{self.target}', not for '{target}'")
        here = regions.by_name
        saved = {region.name: region for region in self.regions}
        if unknown := [name for name in saved if name not in here]:
            raise self._other(f"{_named(unknown)} {_isn_t(unknown)} in this one")
        if missing := [name for name in here if name not in saved]:
            raise self._other(f"{_named(missing)} of this one {_isn_t(missing)} in the plan")
        if changed := [r.name for r in self.regions if r.nodes != here[r.name].nodes]:
            raise self._other(f"{_named(changed)} {'has' if len(changed) == 1 else 'have'} other nodes here")
        for region in self.regions:
            allowed = here[region.name].precisions
            if region.precision not in allowed:
                raise ConfigError(
                    f"the {_TITLE} '{self.source}' gives '{region.name}' ({here[region.name].op}) the precision "
                    f"{region.precision}, which it can't have on {target}: it has {', '.join(allowed)}"
                )
        return {region.name: region.precision for region in self.regions}

    def set_ranges(self, plan: QuantPlan) -> None:
        """Give the activations of a graph's plan their ranges; those that have one keep it.

        Raises:
            ConfigError: one isn't in the file, or in another scheme.
        """
        for name, entry in list(plan.tensors.items()):
            if entry.range is not None:
                continue
            scheme, saved = self.ranges.get(name, (None, None))
            if saved is None:
                raise self._other(f"it has no range of tensor '{name}'")
            if scheme != entry.scheme:
                raise self._other(f"tensor '{name}' is planned in {entry.scheme}, and was in {scheme}")
            plan.set_range(name, saved)

    def _other(self, what: str) -> ConfigError:
        return ConfigError(f"the {_TITLE} '{self.source}' is for another model, or other passes before it: {what}")


def save_precisions(
    path: str | Path,
    problem: Problem,
    chosen: Solution,
    *,
    target: str,
    demand: str,
    reasons: Mapping[str, str],
    kept_float: Mapping[str, str],
    tensors: Mapping[str, TensorPlan],
    decisions: Mapping[str, Range],
) -> None:
    """Write an assignment, whole or not at all.

    Args:
        path: the file.
        problem: what was solved.
        chosen: the assignment.
        target: the name of the one that it is for.
        demand: what it was chosen for.
        reasons: region → why it couldn't have another precision.
        kept_float: nodes that got no 8 bits whatever was assigned → why.
        tensors: the activations of the plan with everything in 8 bits, with their ranges.
        decisions: what passes before chose by the samples.

    Raises:
        EmitError: the file can't be written.
    """
    head = {"format": _FORMAT, "version": _VERSION, "target": target, "demand": demand, "cost": problem.costs.kind}
    regions: list[dict[str, Any]] = []
    for region in problem.regions.regions:
        key = (region.name, chosen.precisions[region.name])
        entry = {"name": region.name, "precision": key[1], "op": region.op, "nodes": list(region.nodes)}
        entry |= {
            "error": _number(problem.sensitivity.weights.get(key)),
            "cost": _number(problem.costs.regions.get(key)),
        }
        regions.append(entry | ({"reason": reasons[region.name]} if region.name in reasons else {}))
    activations = [
        {"name": t.tensor, "scheme": asdict(t.scheme), **_ends(t.range)}
        for t in tensors.values()
        if t.range is not None
    ]
    kept = [{"name": name, **_ends(found)} for name, found in decisions.items()]
    lists: dict[str, list[dict[str, Any]]] = {"regions": regions, "tensors": activations, "decisions": kept}
    write_record(Path(path), {**head, "kept_float": dict(kept_float)}, lists)


def read_plan(path: str | Path) -> SavedPlan:
    """A saved assignment; whether it fits a model its methods say.

    Raises:
        ConfigError: the file can't be read or isn't one, or has a precision that there isn't.
    """
    source = Path(path)
    fields = read_record(source, _FORMAT, _VERSION, _TITLE, _MEND)
    regions = tuple(_region(source, entry) for entry in _entries(source, fields, "regions"))
    if twice := [name for name, count in Counter(region.name for region in regions).items() if count > 1]:
        raise ConfigError(f"the {_TITLE} '{source}' has {_named(twice)} twice")
    kept = fields.get("kept_float")
    if not isinstance(kept, dict):
        raise damaged(source, _TITLE, kept)
    return SavedPlan(
        source,
        str(fields.get("target")),
        str(fields.get("demand")),
        {str(name): str(why) for name, why in cast("dict[str, Any]", kept).items()},
        regions,
        dict(_range(source, entry) for entry in _entries(source, fields, "tensors")),
        dict(_decision(source, entry) for entry in _entries(source, fields, "decisions")),
    )


def _entries(source: Path, fields: Mapping[str, Any], name: str) -> list[Any]:
    found = fields.get(name)
    if not isinstance(found, list):
        raise damaged(source, _TITLE, f"'{name}': {found}")
    return cast("list[Any]", found)


def _region(source: Path, entry: Any) -> SavedRegion:
    try:
        name, nodes, precision = str(entry["name"]), tuple(str(n) for n in entry["nodes"]), str(entry["precision"])
    except (KeyError, TypeError) as error:
        raise damaged(source, _TITLE, entry) from error
    try:
        return SavedRegion(name, nodes, find_precision(precision).name)
    except ConfigError as error:
        raise ConfigError(f"the {_TITLE} '{source}', region '{name}': {error}") from None


def _range(source: Path, entry: Any) -> tuple[str, tuple[Scheme, Range]]:
    name, found = _decision(source, entry)
    try:
        return name, (Scheme(**entry["scheme"]), found)
    except (KeyError, TypeError, ValueError) as error:
        raise damaged(source, _TITLE, entry) from error


def _decision(source: Path, entry: Any) -> tuple[str, Range]:
    try:
        low, high = (np.asarray(entry[end], np.float64) for end in ("low", "high"))
        return str(entry["name"]), Range(low, high)
    except (KeyError, TypeError, ValueError) as error:
        raise damaged(source, _TITLE, entry) from error


def _ends(found: Range) -> dict[str, Any]:
    return {"low": found.low.tolist(), "high": found.high.tolist()}


def _number(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def _named(names: list[str]) -> str:
    shown = ", ".join(f"'{name}'" for name in names[:3])
    rest = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return f"region{'s' if len(names) > 1 else ''} {shown}{rest}"


def _isn_t(names: list[str]) -> str:
    return "isn't" if len(names) == 1 else "aren't"
