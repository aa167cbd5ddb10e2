"""Two precisions a region: the least a·error + b·cost, exactly, by a minimum cut.

The regions on the cut's side S have one of their two precisions, those on side T the other one. A term that is paid
once where any of several regions has its form gets a node of its own, as in project selection (Picard 1976):

    form of side S        region in S ──∞──▶ term ──paid──▶ T, or the region that spares it by being in S itself
    form of side T        S, or the region that spares it by being in T ──paid──▶ term ──∞──▶ region in T

So a term fits where all its literals lie on one side. The sides are found by colouring: float32 | int8 always can be,
and float32 | float16 beside it; regions of int8 | float16 beside both can't. A need of one reader is an arc ∞. A need
of any of several readers is no cut: it is left out, and whoever asks looks whether the result has it all the same.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any, TypeAlias

import networkx

from graphopt.analysis.precision.terms import Literal, Term, Terms

_nx: Any = networkx  # its stubs leave most of what we use unknown
_S, _T = 0, 1
_Node: TypeAlias = int | str | tuple[Literal, ...]


class Cut:
    """The minimum cuts of a problem; made by `cut_of`.

    Attributes:
        terms: the problem.
    """

    def __init__(self, terms: Terms, on_s: dict[str, str]) -> None:
        """Name each region's precision on side S; regions with a single choice aren't in `on_s`."""
        self.terms = terms
        self._on_s = on_s

    def least(self, error: int, cost: int) -> dict[str, str]:
        """The assignment with the least error·(its error) + cost·(its cost), in units of the terms.

        Both factors aren't negative. Needs of any of several readers may not hold.
        """
        graph: Any = _nx.DiGraph()
        graph.add_nodes_from([_S, _T, *self._on_s])
        for region in self._on_s:
            on_t = self._on_t(region)
            here, there = (self.terms.single[region, p] for p in (self._on_s[region], on_t))
            more = error * (here.error - there.error) + cost * (here.cost - there.cost)
            if more > 0:
                _arc(graph, region, _T, more)
            else:
                _arc(graph, _S, region, -more)
        for term in self.terms.terms:
            self._add(graph, term, error * term.paid.error + cost * term.paid.cost)
        for need in self.terms.needs:
            if len(need.any_of) == 1:
                tail, head = need.when.region, need.any_of[0].region
                _arc(graph, *((tail, head) if self._is_on_s(need.when) else (head, tail)), None)
        _, (side, _) = _nx.minimum_cut(graph, _S, _T, flow_func=_nx.algorithms.flow.boykov_kolmogorov)
        found = {region: on_s if region in side else self._on_t(region) for region, on_s in self._on_s.items()}
        return {region: found.get(region, choices[0]) for region, choices in self.terms.choices.items()}

    def _add(self, graph: Any, term: Term, paid: int) -> None:
        on_s = self._is_on_s(term.any_of[0])
        # Terms about the same readers share a node: a tensor's error and its conversion.
        node: _Node = term.any_of[0].region if len(term.any_of) == 1 else term.any_of
        if node not in graph:
            for literal in term.any_of:
                _arc(graph, *((literal.region, node) if on_s else (node, literal.region)), None)
        other: _Node = (_T if on_s else _S) if term.unless is None else term.unless.region
        _arc(graph, *((node, other) if on_s else (other, node)), paid)

    def _is_on_s(self, literal: Literal) -> bool:
        return literal.precisions == (self._on_s[literal.region],)

    def _on_t(self, region: str) -> str:
        first, second = self.terms.choices[region]
        return second if self._on_s[region] == first else first


def cut_of(terms: Terms) -> Cut | None:
    """The cut that solves a problem; None where there isn't one: more than two choices, or sides that contradict."""
    if any(len(choices) > 2 for choices in terms.choices.values()):
        return None
    alike: Any = _nx.Graph()
    pairs = {region: choices for region, choices in terms.choices.items() if len(choices) == 2}
    alike.add_nodes_from(pairs)
    for first, second in _together(terms):
        # Whether these literals are the same one of their regions' two choices.
        same = (first.precisions[0] == pairs[first.region][0]) == (second.precisions[0] == pairs[second.region][0])
        if alike.has_edge(first.region, second.region) and alike[first.region][second.region]["same"] != same:
            return None
        alike.add_edge(first.region, second.region, same=same)
    index: dict[str, int] = {}
    for start in pairs:
        index.setdefault(start, 0)
        for region, other in _nx.bfs_edges(alike, start):
            index.setdefault(other, index[region] if alike[region][other]["same"] else 1 - index[region])
    if any((index[a] == index[b]) != same for a, b, same in alike.edges(data="same")):
        return None
    return Cut(terms, {region: pairs[region][index[region]] for region in pairs})


def _together(terms: Terms) -> Iterator[tuple[Literal, Literal]]:
    """Literals that have to be on one side."""
    for term in terms.terms:
        literals = [*term.any_of, *([term.unless] if term.unless is not None else [])]
        yield from itertools.pairwise(literals)
    yield from ((need.when, need.any_of[0]) for need in terms.needs if len(need.any_of) == 1)


def _arc(graph: Any, tail: _Node, head: _Node, capacity: int | None) -> None:
    """Add to the arc's capacity; None is without end."""
    if capacity is None or "infinite" in graph.get_edge_data(tail, head, {}):
        graph.remove_edges_from([(tail, head)])
        graph.add_edge(tail, head, infinite=True)  # networkx: an arc without a capacity has none that ends
    elif capacity > 0:
        graph.add_edge(tail, head, capacity=capacity + graph.get_edge_data(tail, head, {}).get("capacity", 0))
