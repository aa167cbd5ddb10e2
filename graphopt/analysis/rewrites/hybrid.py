"""A pass applied in part: some of its changes made, the others not.

    before   x → Conv_1 → BN_1 → Conv_2 → BN_2 → y
    after    x → Conv_1′ → Conv_2′ → y
    hybrid   x → Conv_1 → BN_1 → Conv_2′ → y        the second unit alone

Nodes of units that are applied come from the graph behind the pass, all others from the one in front of it. A constant
that has the same name and other values behind the pass gets a name of its own.
"""

from __future__ import annotations

from collections.abc import Collection

from networkx.utils import UnionFind

from graphopt.analysis.graph_diff import diff_outlines, equal_values
from graphopt.analysis.rewrites.division import divide
from graphopt.analysis.rewrites.hybrid_model import Mix, Side
from graphopt.analysis.rewrites.units import ADDED, CHANGED, REMOVED, Item
from graphopt.errors import GraphoptError, InternalError
from graphopt.ir import Graph, Violation, fill_types, from_proto, verify
from graphopt.ir.kept_values import KeptValues
from graphopt.ir.outline import ConstantOutline, outline

_SUFFIX = ".after"


class Hybrids:
    """Makes hybrids of one pass.

    Attributes:
        diff: what the pass changed.
        units: the same in the smallest parts.
    """

    def __init__(self, before: Graph, after: Graph) -> None:
        """`before` and `after` aren't changed; hybrids share their values."""
        self._kept = KeptValues()
        self._before, self._after = Side(before, self._kept.note), Side(after, self._kept.note)
        sides = outline(before), outline(after)
        self.diff = diff_outlines(*sides, same_values=equal_values)
        division = divide(*sides, self.diff)
        self.units, self._moved = division.units, division.moved
        self._retyped = division.retyped
        self._twins = self.diff.matched
        ours = {*sides[0].constants, *sides[0].types}
        others = {
            name: _unused(name, {*ours, *sides[1].constants, *sides[1].types})
            for name, constant in sides[1].constants.items()
            if name in sides[0].types or not _is_same(sides[0].constants.get(name), constant)
        }
        self._after.rename({**division.renamed, **others})
        self._rewrite_of: dict[tuple[str, str], int] = {}
        for number, rewrite in enumerate(self.diff.rewrites):
            self._rewrite_of |= {(REMOVED, node.name): number for node in rewrite.removed}
            self._rewrite_of |= {(ADDED, node.name): number for node in rewrite.added}
            self._rewrite_of |= {(CHANGED, node.before.name): number for node in rewrite.changed}
        self._faults = {(v.rule, v.node) for v in verify(before)}

    def apply(self, units: Collection[int]) -> Graph | None:
        """The model with these of the units applied, or None where they can't be without others."""
        items = frozenset[Item]().union(*(self.units[number].items for number in units))
        try:
            graph = from_proto(Mix(self._before, self._after, self._twins, self._moved, items).model(self._retyped))
            self._kept.put_back(graph)
            graph.sort()
            fill_types(graph)
        except (GraphoptError, InternalError):  # a tensor that nobody makes or two nodes make, or a cycle
            return None
        return None if any(self._is_new(v) for v in verify(graph)) else graph

    def rewrites(self, units: Collection[int]) -> list[list[int]]:
        """The units in groups that touch the same rewrites: what is likely to go together."""
        unions: UnionFind[int | str] = UnionFind(units)
        for unit in units:
            touched = (self._rewrite_of.get((kind, name)) for kind, name, _ in self.units[unit].items)
            unions.union(unit, *(f"rewrite {number}" for number in touched if number is not None))
        groups: dict[int | str, list[int]] = {}
        for unit in units:
            groups.setdefault(unions[unit], []).append(unit)
        return list(groups.values())

    def _is_new(self, violation: Violation) -> bool:
        return (violation.rule, violation.node) not in self._faults


def _is_same(one: ConstantOutline | None, other: ConstantOutline) -> bool:
    return one is None or (one.type == other.type and equal_values(one, other))


def _unused(name: str, taken: Collection[str]) -> str:
    name += _SUFFIX
    while name in taken:
        name += _SUFFIX
    return name
