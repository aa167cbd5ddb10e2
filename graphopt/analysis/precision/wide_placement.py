"""Where Q/DQ goes when nodes have activations of 16 bits, all of them or some beside those of 8.

    Conv₁: 8 bits → x → Conv₂: 16 bits      →      Conv₁ → x: Q₈ → DQ₈ → Q₁₆ → DQ₁₆ → Conv₂

Each width is placed by itself, with the nodes of the other kept in float; a tensor that both want has two entries in
the plan. What only moves values has the width of what it moves, if an integer kernel makes that, else of its readers.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import cast

from graphopt.analysis.placement import Placement, place
from graphopt.errors import ConfigError
from graphopt.ir import Graph, Node
from graphopt.targets import TARGETS, Target

WIDE = "int16x8"


@dataclass(frozen=True)
class Widths:
    """What `place` found for the kernels of 8 bits, and for those of 16; None where no node was to have them."""

    narrow: Placement
    broad: Placement | None

    @property
    def declined(self) -> dict[Node, str]:
        """Nodes that stay in float, with the reason."""
        return {**self.narrow.declined, **(self.broad.declined if self.broad is not None else {})}

    @property
    def quantized(self) -> dict[Node, str]:
        """Nodes with integer kernels of either width."""
        return {**self.narrow.quantized, **(self.broad.quantized if self.broad is not None else {})}

    def merged(self) -> Placement:
        """Both in one, which doesn't say who has which."""
        if self.broad is None:
            return self.narrow
        found = Placement()
        for one in (self.narrow, self.broad):
            for tensor, uses in one.uses.items():
                found.uses.setdefault(tensor, {}).update(uses)
            for mine, other in (
                (found.whole, one.whole), (found.writers, one.writers), (found.inside, one.inside),
                (found.fixed, one.fixed), (found.schemes, one.schemes), (found.quantized, one.quantized),
                (found.declined, one.declined), (found.kernels, one.kernels), (found.movers, one.movers),
            ):  # fmt: skip
                cast("dict[object, object]", mine).update(cast("dict[object, object]", other))
            found.linears.extend(one.linears)
            for members in one.shared.to_sets():
                found.shared.union(*members)
        return found


def place_widths(
    graph: Graph,
    target: Target,
    kept: Mapping[str, str],
    wide: Collection[str] | None = frozenset(),
    assigned: Collection[str] = frozenset(),
) -> Widths:
    """Place Q/DQ for `target`; changes nothing.

    Args:
        graph: a float graph.
        target: its table, and that of 16-bit activations.
        kept: names of nodes that stay in float → why.
        wide: names of nodes that have activations of 16 bits whether or not their neighbours do; None: all that can,
            where the rules want them quantized.
        assigned: as `place` takes it, for 8 bits.

    Raises:
        ConfigError: the target has no kernels with 16-bit activations.
    """
    if wide is not None and not wide:
        return Widths(place(graph, target, lambda node: kept.get(node.name), assigned), None)
    table = target.wide
    if table is None:
        having = ", ".join(t.name for t in TARGETS.values() if t.wide is not None)
        raise ConfigError(f"{target.title} has no kernels with 16-bit activations; the targets that have: {having}")
    if wide is None:
        return Widths(Placement(), place(graph, table, lambda node: kept.get(node.name)))
    names = {*wide, *_movers(graph, target, kept, wide)}
    narrow = place(
        graph, target, lambda n: kept.get(n.name) or n.name in names, {n for n in assigned if n not in names}
    )
    broad = place(graph, table, lambda n: kept.get(n.name) or n.name not in names, set(wide))
    for node in [n for n in narrow.declined if n.name in names and n.name not in kept]:
        del narrow.declined[node]
    for node in [n for n in broad.declined if n.name not in names]:
        del broad.declined[node]
    return Widths(narrow, broad)


def _movers(graph: Graph, target: Target, kept: Mapping[str, str], wide: Collection[str]) -> set[str]:
    """Names of the nodes that only move values of 16 bits."""
    found = place(graph, target, lambda node: kept.get(node.name))
    names = set(wide)

    def is_wide(node: Node) -> bool:
        return found.kernels.get(node, node).name in names

    # What reads a mover's values, through other movers.
    behind: dict[Node, dict[Node, None]] = {}
    for node in reversed(found.movers):
        readers = [reader for t in node.present_outputs() for reader in graph.consumers(t)]
        behind[node] = {r: None for reader in readers for r in behind.get(reader, {reader: None})}

    # A Concat is in integers for its readers' sake alone, and has their width.
    joins = {node: moved for node, moved in found.movers.items() if node.is_op("Concat")}
    names.update(node.name for node in reversed(joins) if any(is_wide(reader) for reader in behind[node]))
    for node, moved in found.movers.items():
        makers = [maker for t in moved if (maker := graph.producer(t)) is not None]
        if node in joins:
            continue
        floats = bool(behind[node]) and not any(maker in found.quantized for maker in makers)
        if any(is_wide(maker) for maker in makers) or (floats and all(is_wide(reader) for reader in behind[node])):
            names.add(node.name)
    return names - set(wide)
