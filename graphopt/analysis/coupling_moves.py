"""Which choices to change together.

    q = Reshape [N,S,12] → [N,S,3,4], Transpose, MatMul, Flatten, Softmax, Reshape, MatMul, Reshape → [N,S,12]

All Reshapes have to go along the 3 heads, or all along the 4 places: changing one of them alone leaves nothing to
remove. So a choice that takes another way takes along those that meet it on an axis and have a way that divides the
axis alike, and those that meet these.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from graphopt.analysis.coupling_links import Indices

Move = dict[int, int]
"""Position of a choice → the way that it takes."""

_FEW = 32  # choices that are tried one by one


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
    """Changes to try, in order: all nodes of one operator, nodes along common axes, single ones where they are few.

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
    for i, ways in enumerate(divided if len(divided) <= _FEW else ()):
        yield from ({i: way} for way in range(len(ways)))


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
