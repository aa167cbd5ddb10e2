"""Components of elements, made larger until groups of a convolution stay equally large.

    Conv(group=4) with 8 outputs       0 1 | 2 3 | 4 5 | 6 7       {0 2 4 6}, {1 3 5 7}
    where 0 and 3 hang together        0 1 | 2 3 | 4 5 | 6 7       {0 3 4 6}, {1 2 5 7}

A grouped Conv's output channels may be any, as long as each group loses equally many: its weight's rows are cut one by
one. (Its input channels share the weight's axis 1, so there the places in the groups have to be the same.)
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

import numpy as np

from graphopt.analysis.coupling.links import Indices


def components(count: int, edges: Indices) -> Indices:
    """The component of each of `count` elements, numbered by their first elements.

    Args:
        count: of elements.
        edges: [2, edges] pairs that hang together.
    """
    from scipy.sparse import coo_array  # 0.9 s, which `import graphopt` needn't pay
    from scipy.sparse.csgraph import connected_components

    there = np.ones(edges.shape[1], dtype=np.int8)
    _, labels = connected_components(coo_array((there, (edges[0], edges[1])), shape=(count, count)), directed=False)
    _, first, inverse = np.unique(labels, return_index=True, return_inverse=True)
    order = np.argsort(np.argsort(first))
    return order[inverse].astype(np.int64)


def balanced_components(count: int, edges: Indices, balances: Sequence[Indices]) -> Indices:
    """`components`, joined so that each has equally many elements in every row of each of `balances`.

    Args:
        count: of elements.
        edges: [2, edges] pairs that hang together.
        balances: for each grouped axis, its elements: [groups, channels of a group].
    """
    labels = components(count, edges)
    while True:
        joined = [pair for rows in balances for pair in _joined(labels[rows])]
        if not joined:
            return labels
        labels = components(count, np.array(joined, dtype=np.int64).T)[labels]


def _joined(labels: Indices) -> list[tuple[int, int]]:
    """Pairs of components to join, for labels [groups, channels of a group]; none where all are balanced.

    Components are taken in order; each is filled up with the first that fits, or that leaves least to fill up.
    """
    names, inverse = np.unique(labels, return_inverse=True)
    counts = np.zeros((len(names), len(labels)), dtype=np.int64)
    np.add.at(counts, (inverse.reshape(labels.shape), np.arange(len(labels))[:, None]), 1)
    waiting: dict[tuple[int, ...], deque[int]] = {}
    for i in np.flatnonzero(counts.min(axis=1) != counts.max(axis=1)).tolist():
        waiting.setdefault(tuple(counts[i].tolist()), deque()).append(int(names[i]))
    pairs: list[tuple[int, int]] = []
    while waiting:
        start = min(waiting, key=lambda pattern: waiting[pattern][0])
        first, total = _taken(waiting, start), start
        while max(total) != min(total):
            pattern = min(waiting, key=lambda one: (_lacking(total, one), waiting[one][0]))
            pairs.append((first, _taken(waiting, pattern)))
            total = _sum(total, pattern)
    return pairs


def _taken(waiting: dict[tuple[int, ...], deque[int]], pattern: tuple[int, ...]) -> int:
    name = waiting[pattern].popleft()
    if not waiting[pattern]:
        del waiting[pattern]
    return name


def _sum(left: tuple[int, ...], right: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(a + b for a, b in zip(left, right, strict=True))


def _lacking(total: tuple[int, ...], pattern: tuple[int, ...]) -> int:
    """How many elements are missing until all groups have as many as the largest."""
    both = _sum(total, pattern)
    return max(both) * len(both) - sum(both)
