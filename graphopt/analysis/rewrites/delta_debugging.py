"""Which of many changes matter: delta debugging, the algorithm ddmin of Zeller and Hildebrandt (2002).

Changes are taken away in halves, then in quarters and so on, as long as what is left still shows what is looked for.
The result is 1-minimal: without any single one of its changes it isn't shown any more. A single culprit among n changes
takes about 2·log₂ n tests; k that work together take k² + 3·k at most.

Changes that can only be taken away together (two layers with a factor moved between them) hold ddmin up where they are
in different parts. So where single ones can't be taken away any more, a few neighbours at a time are tried.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TypeAlias

Test: TypeAlias = Callable[[Sequence[int]], bool | None]
"""Some of the changes → whether they show it; None where that can't be told (unresolved)."""


MOST_NEIGHBOURS = 4


@dataclass(frozen=True)
class Minimal:
    """A set of changes that shows it.

    Attributes:
        changes: their numbers, ascending.
        tests: how many sets were tested.
        unresolved: for how many of them it couldn't be told.
        is_minimal: False where the tests that were allowed didn't suffice to show that each change is needed.
    """

    changes: tuple[int, ...]
    tests: int
    unresolved: int
    is_minimal: bool


def ddmin(changes: Sequence[int], shows: Test, most_tests: int) -> Minimal:
    """A 1-minimal part of `changes`, all of which together show it.

    Args:
        changes: numbers of the changes; those that are likely to go together stand together.
        shows: the test. It isn't asked for all changes, nor twice for the same ones.
        most_tests: after so many tests the smallest set so far is the result.
    """
    known: dict[frozenset[int], bool | None] = {frozenset(changes): True, frozenset[int](): False}

    def is_shown(some: Sequence[int]) -> bool:
        key = frozenset(some)
        if key not in known:
            if len(known) - 2 >= most_tests:
                raise _OutOfTestsError
            known[key] = shows(sorted(some))
        return known[key] is True

    current, is_minimal = list(changes), True
    try:
        current = _without_parts(current, is_shown)
        while (smaller := _without_neighbours(current, is_shown)) is not None:
            current = _without_parts(smaller, is_shown)
    except _OutOfTestsError:
        # Sets get smaller, so that the last one that showed it is the smallest.
        current = list(min((key for key, shown in known.items() if shown), key=len))
        is_minimal = False
    unresolved = sum(shown is None for shown in known.values())
    return Minimal(tuple(sorted(current)), len(known) - 2, unresolved, is_minimal)


class _OutOfTestsError(Exception):
    """No more tests are allowed."""


def _without_parts(current: list[int], is_shown: Callable[[Sequence[int]], bool]) -> list[int]:
    """What ddmin makes of them."""
    parts = 2
    while len(current) > 1:
        smaller = _smaller(current, parts, is_shown)
        if smaller is not None:
            current, parts = smaller
        elif parts < len(current):
            parts = min(2 * parts, len(current))
        else:
            break
    return current


def _without_neighbours(current: list[int], is_shown: Callable[[Sequence[int]], bool]) -> list[int] | None:
    """Without some that stand together; None where all are needed."""
    for count in range(2, min(MOST_NEIGHBOURS, len(current) - 1) + 1):
        for start in range(len(current) - count + 1):
            rest = current[:start] + current[start + count :]
            if is_shown(rest):
                return rest
    return None


def _smaller(current: list[int], parts: int, is_shown: Callable[[Sequence[int]], bool]) -> tuple[list[int], int] | None:
    """A smaller set that shows it, and into how many parts to divide it next; None where there is none."""
    bounds = [len(current) * k // parts for k in range(parts + 1)]
    chunks = [current[a:b] for a, b in pairwise(bounds)]
    for chunk in chunks:
        if is_shown(chunk):
            return chunk, 2
    if parts > 2:  # of two parts each is the other's complement
        for chunk in chunks:
            left_out = set(chunk)
            rest = [change for change in current if change not in left_out]
            if is_shown(rest):
                return rest, max(parts - 1, 2)
    return None
