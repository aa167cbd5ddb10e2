"""What channel elimination did to a graph, as data: for the report, and for a plan that can be edited and replayed.

The plan as JSON: for each group by its name (`Coupling`), how many units it has and which of them to remove.

    {"format": "graphopt-elimination", "version": 1, "importance": "reconstruction",
     "groups": [{"name": "conv1:1", "units": 64, "remove": [3, 17, 60], "layers": ["conv1", "conv2"]}, …]}

Replaying it needs no samples; the repair does. `layers` and whatever else a reader adds is not read.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np

from graphopt.analysis.coupling.groups import Kept
from graphopt.errors import ConfigError
from graphopt.ir.records import damaged, read_record, write_record

_FORMAT, _VERSION = "graphopt-elimination", 1
_TITLE = "elimination plan"


@dataclass(frozen=True)
class Cost:
    """What the model's layers take.

    Attributes:
        macs: multiply-accumulates for one sample, of layers whose shapes are known.
        params: values in initializers.
        bytes: of initializers, as a file holds them.
        latency: seconds, the sum over layers measured alone; None where it wasn't measured.
    """

    macs: int
    params: int
    bytes: int
    latency: float | None = None


@dataclass(frozen=True)
class GroupElimination:
    """What became of one group that could have lost units.

    Attributes:
        name: the group's.
        layers: nodes with weights that it runs through, in graph order.
        units: how many there were.
        removed: the units that are gone, ascending.
        channels: in the layers that make its values, for each unit.
        error: what the criterion says is lost; None where it ranked nothing (a replayed plan).
        histogram: how many units have an importance within each tenth of the group's largest; None likewise.
        reason: why it kept everything though it might have lost units; "" otherwise.
    """

    name: str
    layers: tuple[str, ...]
    units: int
    removed: tuple[int, ...]
    channels: int
    error: float | None = None
    histogram: tuple[int, ...] | None = None
    reason: str = ""

    @property
    def before(self) -> int:
        """Channels that it had."""
        return self.units * self.channels

    @property
    def after(self) -> int:
        """Channels that it has left."""
        return (self.units - len(self.removed)) * self.channels


@dataclass(frozen=True)
class FrozenGroup:
    """A group that can't lose units, though a weight has an axis in it."""

    name: str
    layers: tuple[str, ...]
    units: int
    reason: str


@dataclass(frozen=True)
class Elimination:
    """One run of `eliminate-channels`.

    Attributes:
        importance: the criterion, or "plan" where a plan was replayed.
        demand: what was asked for, in words.
        groups: those that could lose units, in graph order.
        frozen: those that couldn't, though a weight runs through them.
        before, after: costs.
        refitted: layers whose weights were refitted.
        notes: what else there is to say.
    """

    importance: str
    demand: str
    groups: tuple[GroupElimination, ...]
    frozen: tuple[FrozenGroup, ...]
    before: Cost
    after: Cost
    refitted: int
    notes: tuple[str, ...] = ()

    def save_plan(self, path: str | Path) -> None:
        """Write the plan as JSON, whole or not at all.

        Raises:
            EmitError: the file can't be written.
        """
        groups = [
            {"name": g.name, "units": g.units, "remove": list(g.removed), "layers": list(g.layers)} for g in self.groups
        ]
        head = {"format": _FORMAT, "version": _VERSION, "importance": self.importance}
        write_record(Path(path), head, {"groups": groups})


def read_plan(path: str | Path, units: Mapping[str, int]) -> dict[str, Kept]:
    """Which units stay, for each group that a plan names.

    Args:
        path: the plan.
        units: how many units each removable group of the graph has.

    Raises:
        ConfigError: the file can't be read or isn't a plan, or a group of it isn't in the graph or has other units.
    """
    source = Path(path)
    fields = read_record(source, _FORMAT, _VERSION, _TITLE, "save one with --save-prune-plan")
    found: dict[str, Kept] = {}
    for entry in cast("list[Any]", fields.get("groups") or []):
        try:
            name, count, remove = str(entry["name"]), int(entry["units"]), [int(u) for u in entry["remove"]]
        except (KeyError, TypeError, ValueError) as error:
            raise damaged(source, _TITLE, entry) from error
        if not remove:
            continue
        if units.get(name) != count:
            has = f"has {units[name]} units" if name in units else "isn't one that can lose channels"
            raise ConfigError(f"the elimination plan '{path}' is for another model: group '{name}' {has} here")
        if not all(0 <= unit < count for unit in remove) or len(set(remove)) == count:
            raise ConfigError(
                f"the elimination plan '{path}', group '{name}': units to remove are 0 … {count - 1}, and one must stay"
            )
        kept = np.ones(count, dtype=bool)
        kept[remove] = False
        found[name] = kept
    return found
