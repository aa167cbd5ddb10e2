"""Which way to take where a node leaves several: the one that leaves most to remove, in small pieces.

A graph falls into clusters, the parts that hang together whatever way is taken. In each one, ways are compared by

    1. how many separate products (attention heads) can be removed whole,
    2. how many stored numbers could go if one unit of each group stayed: Σ over weights of size · (1 − Π over axes of
       the share that stays).

The search is bounded and gives the same result each time: where there are few ways all are tried, else changes are made
while they help (`choice_moves`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from graphopt.analysis.coupling.balance import balanced_components, components
from graphopt.analysis.coupling.choice_moves import Divided, moves, starts
from graphopt.analysis.coupling.elements import Elements, Ways
from graphopt.analysis.coupling.links import Indices
from graphopt.ir import Node

_MOST_TRIALS = 400  # a trial takes one to four milliseconds
Taken = tuple[int, ...]


@dataclass(frozen=True)
class Choice:
    """A node that leaves several ways, the preferred one first."""

    node: Node
    ways: tuple[Ways, ...]


@dataclass(frozen=True)
class Stored:
    """A constant: how many numbers it has, and the runs of its axes."""

    size: int
    runs: tuple[int, ...]


def choose(elements: Elements, fixed: Ways, choices: Sequence[Choice], stored: Sequence[Stored]) -> list[int]:
    """The way that each choice takes.

    Args:
        elements: numbers of all elements.
        fixed: what holds whatever way is taken.
        choices: in graph order.
        stored: the constants that anything was said about.
    """
    taken = [0] * len(choices)
    for positions, runs in _clusters(elements, fixed, choices):
        cluster = _Cluster(elements, fixed, [choices[p] for p in positions], runs, stored)
        for position, way in zip(positions, cluster.best(), strict=True):
            taken[position] = way
    return taken


def _clusters(elements: Elements, fixed: Ways, choices: Sequence[Choice]) -> Iterator[tuple[list[int], Indices]]:
    """(positions of choices, runs) of the parts that hang together whatever way is taken."""
    if not choices:
        return
    run_of = elements.run_of_elements()
    tied = [run_of[fixed.edges]]
    for choice in choices:
        runs = np.array(list(dict.fromkeys(run for way in choice.ways for run in way.runs)), dtype=np.int64)
        tied.append(np.stack([runs, np.full_like(runs, runs[0])]))
    labels = components(len(elements.starts) - 1, np.concatenate(tied, axis=1))
    by_cluster: dict[int, list[int]] = {}
    for position, choice in enumerate(choices):
        by_cluster.setdefault(int(labels[choice.ways[0].runs[0]]), []).append(position)
    for label, positions in by_cluster.items():
        yield positions, np.flatnonzero(labels == label)


@dataclass(frozen=True)
class _Local:
    """What one way says, in a cluster's own numbers: as in `Ways`."""

    edges: Indices
    held: Indices
    balances: list[Indices]


class _Cluster:
    """One part of the graph, with its elements numbered from 0."""

    def __init__(
        self, elements: Elements, fixed: Ways, choices: Sequence[Choice], runs: Indices, stored: Sequence[Stored]
    ) -> None:
        sizes = np.diff(elements.starts)[runs]
        self.run = np.repeat(np.arange(len(runs)), sizes)
        self.sizes = sizes
        place = {int(run): i for i, run in enumerate(runs)}
        own = [(one.size, [place[run] for run in one.runs if run in place]) for one in stored]
        own = [(size, places) for size, places in own if places]
        self.stored = np.array([size for size, _ in own], dtype=np.float64)
        # For each constant its axes' runs, filled up with one run more, of which everything stays.
        self.axes = np.full((len(own), max((len(places) for _, places in own), default=0)), len(runs))
        for i, (_, places) in enumerate(own):
            self.axes[i, : len(places)] = places
        self.batches = np.isin(runs, fixed.batches)
        local = np.full(elements.count, -1)
        inside = np.isin(elements.run_of_elements(), runs)
        local[inside] = np.arange(np.count_nonzero(inside))
        self.edges = local[fixed.edges[:, inside[fixed.edges[0]]]]
        held = local[fixed.held]
        self.held = held[held >= 0]
        self.choices = choices
        self.ways = [
            [_Local(local[way.edges], local[way.held], [local[rows] for rows in way.balances]) for way in choice.ways]
            for choice in choices
        ]
        self.divided = [[Divided.by(way.edges, self.run) for way in ways] for ways in self.ways]
        self.scores: dict[Taken, tuple[int, float]] = {}

    def best(self) -> Taken:
        """The way of each choice."""
        best: Taken = (0,) * len(self.choices)
        for start in starts(self.divided):
            best = max(best, start, key=self.score)
        improved = True
        while improved and len(self.scores) < _MOST_TRIALS:
            improved = False
            for move in moves([choice.node.op for choice in self.choices], self.divided):
                if len(self.scores) >= _MOST_TRIALS:
                    break
                other = tuple(move.get(i, way) for i, way in enumerate(best))
                if self.score(other) > self.score(best):
                    best, improved = other, True
        return best

    def score(self, taken: Taken) -> tuple[int, float]:
        """What can be removed: separate products, then stored numbers."""
        known = self.scores.get(taken)
        if known is not None:
            return known
        chosen = [self.ways[i][way] for i, way in enumerate(taken)]
        edges = np.concatenate([self.edges, *(way.edges for way in chosen)], axis=1)
        labels = balanced_components(len(self.run), edges, [rows for way in chosen for rows in way.balances])
        frozen = np.zeros(len(self.run), dtype=bool)
        frozen[labels[np.concatenate([self.held, *(way.held for way in chosen)])]] = True
        loose = ~frozen[labels]
        runs = len(self.sizes)
        removable = np.bincount(self.run[loose], minlength=runs)
        pairs = np.unique(self.run[loose] * len(self.run) + labels[loose])
        units = np.bincount(pairs // max(len(self.run), 1), minlength=runs)
        stays = np.append(1 - removable / np.maximum(self.sizes, 1) * (1 - 1 / np.maximum(units, 1)), 1)
        gain = self.stored * (1 - stays[self.axes].prod(axis=1))
        heads = int(units[self.batches & (units > 1)].sum())
        self.scores[taken] = (heads, round(float(gain.sum()), 6))
        return self.scores[taken]
