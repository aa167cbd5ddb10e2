"""The units of coupling groups in the order in which they go, by a criterion and samples."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, cast

from graphopt.analysis.coupling.groups import Group
from graphopt.analysis.pruning.elimination import Ranking
from graphopt.analysis.pruning.importance import IMPORTANCE, Evidence, Importance, find_importance, scored
from graphopt.calibration.python_source import import_function, is_function_name
from graphopt.calibration.samples import Feed
from graphopt.calibration.unit_evidence import unit_evidence
from graphopt.errors import CalibrationError, ConfigError
from graphopt.ir import Graph


def importance(name: str | None, *, samples: bool) -> Importance:
    """A criterion by name, or the user's own.

    Args:
        name: one of `IMPORTANCE`, or `module:function`, a function from `Evidence` to one number ≥ 0 for each unit,
            which is shown everything that there is; None chooses.
        samples: whether there are any.

    Raises:
        ConfigError: there is no such criterion, or it needs samples and there are none.
    """
    if name is None:
        return IMPORTANCE["reconstruction" if samples else "l2"]
    if is_function_name(name):
        try:
            function = import_function(name)
        except CalibrationError as error:
            raise ConfigError(f"importance {error}") from error
        score = cast("Callable[[Evidence], Any]", function)
        found = IMPORTANCE["reconstruction"]
        return Importance(name, "the user's own", scored(score, name), found.needs if samples else frozenset())
    found = find_importance(name)
    if found.needs and not samples:
        without = ", ".join(other.name for other in IMPORTANCE.values() if not other.needs)
        raise ConfigError(
            f"importance '{name}' needs samples: give them with --calibration-data, or use one of {without}"
        )
    return found


def rankings(
    graph: Graph,
    groups: Sequence[Group],
    criterion: Importance,
    feeds: Iterable[Feed] = (),
    *,
    seed: int = 0,
    name: str = "the samples",
    threads: int | None = None,
) -> dict[str, Ranking]:
    """For each group by name, in their order, the ranking of its units.

    Args:
        graph: nodes sorted; shapes filled in, as for `couple`. It isn't changed.
        groups: those to rank, of this graph.
        criterion: see `importance`.
        feeds: the samples, one model call each.
        seed: for a criterion that draws lots.
        name: of the samples, for messages.
        threads: for onnxruntime.

    Raises:
        ConfigError: the criterion doesn't fit a group.
        CalibrationError: a sample fails, or a tensor holds NaN or infinity.
        UnsupportedError: onnxruntime can't run a part of the model by itself.
    """
    found = {
        evidence.group.name: criterion.rank(evidence)
        for evidence in unit_evidence(
            graph, groups, criterion.needs, list(feeds), seed=seed, name=name, threads=threads
        )
    }
    return {group.name: found[group.name] for group in groups}
