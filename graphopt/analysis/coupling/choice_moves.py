"""Which choices to change together.

    q = Reshape [N,S,12] → [N,S,3,4], Transpose, MatMul, Flatten, Softmax, Reshape, MatMul, Reshape → [N,S,12]

All Reshapes have to go along the 3 heads, or all along the 4 places: changing one of them alone leaves nothing to
remove. So a choice that takes another way takes along those that meet it on an axis and have a way that divides the
axis alike, and those that meet these.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations, product
from math import prod

import numpy as np

from graphopt.analysis.coupling.links import Indices

Move = dict[int, int]
"""Position of a choice → the way that it takes."""

_ALL = 64  # ways of all choices together that are all tried
_FEW = 32  # choices that are tried one by one, changes that are tried in pairs


@dataclass(frozen=True)
class Divided:
    """How one way of a choice divides the axes that it ties.

    Attributes:
        runs: run → which of its elements the way puts together, as bytes that are equal for equal divisions.
    """

    runs: dict[int, bytes]

    @staticmethod
    def by(edges: Indices, run: Indices) -> Divided:
        """From the pairs of elements [2, pairs] that a way ties, and the run of each element."""
        found: dict[int, bytes] = {}
        for left, right in (edges, edges[::-1]):
            for place in np.unique(run[left]).tolist():
                inside = run[left] == place
                found.setdefault(place, _division(left[inside], right[inside]))
        return Divided(found)


def _division(elements: Indices, leaders: Indices) -> bytes:
    """Which elements have the same leader, whatever the leaders are called."""
    order = np.argsort(elements, kind="stable")
    _, first, inverse = np.unique(leaders[order], return_index=True, return_inverse=True)
    return np.argsort(np.argsort(first))[inverse].tobytes()


def moves(ops: Sequence[str], divided: Sequence[Sequence[Divided]]) -> Iterator[Move]:
    """Changes to try, in order: all nodes of one operator, nodes along common axes, single ones, and pairs of changes.

    Args:
        ops: the operator of each choice.
        divided: for each choice, its ways.
    """
    for op in dict.fromkeys(ops):
        same = [i for i, other in enumerate(ops) if other == op]
        for way in range(max(len(divided[i]) for i in same)):
            yield {i: way for i in same if way < len(divided[i])}
    seen: set[tuple[tuple[int, int], ...]] = set()
    for i, ways in enumerate(divided):
        for way in range(len(ways)):
            move = _along(divided, i, way)
            if tuple(move.items()) not in seen:
                seen.add(tuple(move.items()))
                yield move
    single = [{i: way} for i, ways in enumerate(divided) for way in range(len(ways))]
    if len(divided) <= _FEW:
        yield from single
    together = [dict(move) for move in sorted(seen)]
    for left, right in combinations(together if len(together) <= _FEW else (), 2):
        yield right | left


def starts(divided: Sequence[Sequence[Divided]]) -> Iterator[tuple[int, ...]]:
    """Ways for all choices to begin with: all there are, where they are few.

    Else the preferred, and the least preferred ones, with those that meet them in agreement.

    Args:
        divided: for each choice, its ways.
    """
    if prod(len(ways) for ways in divided) <= _ALL:
        yield from product(*(range(len(ways)) for ways in divided))
        return
    for first in (0, -1):
        taken: Move = {}
        for i, ways in enumerate(divided):
            if i not in taken:
                taken = _along(divided, i, range(len(ways))[first]) | taken
        yield tuple(taken[i] for i in range(len(divided)))


def _along(divided: Sequence[Sequence[Divided]], choice: int, way: int) -> Move:
    """The choices that take along each other when one takes a way."""
    taken = {choice: way}
    pending = [choice]
    while pending:
        current = pending.pop()
        for run, division in divided[current][taken[current]].runs.items():
            for other, ways in enumerate(divided):
                if other in taken:
                    continue
                alike = next((w for w, said in enumerate(ways) if said.runs.get(run) == division), None)
                if alike is not None:
                    taken[other] = alike
                    pending.append(other)
    return dict(sorted(taken.items()))
