"""A pass applied in part: some of its changes made, the others not.

    before   x → Conv_1 → BN_1 → Conv_2 → BN_2 → y
    after    x → Conv_1′ → Conv_2′ → y
    hybrid   x → Conv_1 → BN_1 → Conv_2′ → y        the second unit alone

Nodes of units that are applied come from the graph behind the pass, all others from the one in front of it. A constant
that has the same name and other values behind the pass gets a name of its own.
"""

from __future__ import annotations

from collections.abc import Collection

import onnx
from networkx.utils import UnionFind

from graphopt.analysis.graph_diff import diff_outlines
from graphopt.analysis.rewrites.division import divide
from graphopt.analysis.rewrites.hybrid_model import Mix, Side
from graphopt.analysis.rewrites.units import ADDED, CHANGED, REMOVED, Item
from graphopt.errors import GraphoptError, InternalError
from graphopt.ir import Constant, Graph, Violation, fill_types, from_proto, verify
from graphopt.ir.dtypes import onnx_dtype
from graphopt.ir.outline import ConstantOutline, outline
from graphopt.ir.stored import loaded

_SUFFIX = ".after"


class Hybrids:
    """Makes hybrids of one pass.

    Attributes:
        diff: what the pass changed.
        units: the same in the smallest parts.
    """

    def __init__(self, before: Graph, after: Graph) -> None:
        """`before` and `after` aren't changed; hybrids share their values."""
        self._kept: list[Constant] = []
        self._before, self._after = Side(before, self._store), Side(after, self._store)
        sides = outline(before), outline(after)
        self.diff = diff_outlines(*sides, same_values=same_values)
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
            self._restore(graph)
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

    def _store(self, constant: Constant) -> onnx.TensorProto:
        """A note of where in `_kept` the values are, in the form of external data."""
        proto = onnx.TensorProto(
            name=constant.name,
            data_type=onnx_dtype(constant.dtype),
            dims=constant.shape,
            data_location=onnx.TensorProto.EXTERNAL,
        )
        proto.external_data.add(key="location", value=str(len(self._kept)))
        self._kept.append(Constant(constant.name, constant.unloaded))
        return proto

    def _restore(self, graph: Graph) -> None:
        for scope in graph.walk():
            attributes = (v for node in scope.nodes for v in node.attrs.values() if isinstance(v, Constant))
            for constant in (*scope.constants, *attributes):
                if constant.lazy is not None:
                    constant.values = self._kept[int(constant.lazy.tensor.external_data[0].value)].unloaded


def same_values(one: ConstantOutline, other: ConstantOutline) -> bool:
    """Whether two constants of the same type have the same bits."""
    if one.values is other.values:
        return True
    a, b = loaded(one.values), loaded(other.values)
    return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()


def _is_same(one: ConstantOutline | None, other: ConstantOutline) -> bool:
    return one is None or (one.type == other.type and same_values(one, other))


def _unused(name: str, taken: Collection[str]) -> str:
    name += _SUFFIX
    while name in taken:
        name += _SUFFIX
    return name
