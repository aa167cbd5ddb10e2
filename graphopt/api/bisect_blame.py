"""What is to blame for a fall, in words: nodes, weights, remarks and plans."""

from __future__ import annotations

from collections.abc import Sequence

from graphopt.analysis.rewrites.units import Unit
from graphopt.api.bisect_nodes import Isolated
from graphopt.api.bisect_search import Fall
from graphopt.pipeline import Pass
from graphopt.pipeline.instruments import Moment
from graphopt.report.bisection import Blame, Suspect
from graphopt.report.model_diff import ValueChange, diff_models


def blame_of(fall: Fall, isolated: Isolated, passes: Sequence[Pass]) -> Blame:
    """The report of what was isolated; `passes` is the pipeline."""
    before, after = fall.good.snapshot.restore(), fall.bad.snapshot.restore()
    values = diff_models(before, after).values
    suspects = [
        _suspect([isolated.hybrids.units[u] for u in blamed.units], blamed.alone, values, fall.bad, passes)
        for blamed in isolated.blamed
    ]
    return Blame(
        tuple(suspects),
        isolated.changes,
        isolated.cured,
        isolated.alone,
        isolated.tests,
        isolated.unresolved,
        isolated.is_minimal,
    )


def _suspect(
    units: Sequence[Unit], alone: float, values: Sequence[ValueChange], bad: Moment, passes: Sequence[Pass]
) -> Suspect:
    added = [node for unit in units for node in unit.added]
    removed = [node for unit in units for node in unit.removed]
    # A layer with another weight tells more than who reads its result now.
    changed = sorted((part for unit in units for part in unit.changed), key=lambda part: not part.node.constants)
    names = {node.name for node in (*added, *removed, *(part.node.before for part in changed))}
    touched = dict.fromkeys(name for node in added for name in (*node.inputs, *node.outputs))
    touched |= dict.fromkeys(name for part in changed for name in part.reads)
    what: dict[str, tuple[str, ...]] = {}
    for part in changed:
        node = f"{part.node.before.op} '{part.node.before.name}'"
        what[node] = (*what.get(node, ()), *part.what)
    return Suspect(
        removed=tuple(f"{node.op} '{node.name}'" for node in removed),
        added=tuple(f"{node.op} '{node.name}'" for node in added),
        changed=what,
        values=tuple(v for v in values if any(part.concerns(v.node, v.index) for part in changed)),
        remarks=tuple(f"{r.kind}: {r.message}" for r in bad.remarks if r.node in names),
        planned={t: tuple(passes[k - 1].name for k in bad.planned[t]) for t in touched if t in bad.planned},
        alone=alone,
    )
