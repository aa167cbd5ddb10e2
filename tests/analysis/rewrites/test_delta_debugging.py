"""ddmin against brute force over all subsets."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

from hypothesis import given
from hypothesis import strategies as st

from graphopt.analysis.rewrites.delta_debugging import ddmin

_SETS = st.frozensets(st.integers(0, 9), min_size=1, max_size=4)


@given(st.lists(_SETS, min_size=1, max_size=3), st.integers(10, 20))
def test_the_result_shows_it_and_every_change_is_needed(culprits: list[frozenset[int]], count: int) -> None:
    def shows(some: Sequence[int]) -> bool:
        return any(culprit <= set(some) for culprit in culprits)

    found = ddmin(range(count), shows, 10_000)
    assert found.is_minimal
    assert frozenset(found.changes) in culprits
    for left_out in found.changes:
        assert not shows([change for change in found.changes if change != left_out])


@given(_SETS, st.frozensets(st.frozensets(st.integers(0, 9), min_size=2, max_size=3), max_size=4))
def test_what_cannot_be_told_is_neither_shown_nor_blamed(
    culprit: frozenset[int], pairs: frozenset[frozenset[int]]
) -> None:
    """A pair of which only a part is there makes no model: then the answer is unknown."""

    def shows(some: Sequence[int]) -> bool | None:
        if any(0 < len(pair & set(some)) < len(pair) for pair in pairs):
            return None
        return culprit <= set(some)

    found = ddmin(range(10), shows, 10_000)
    assert culprit <= set(found.changes)
    assert shows(found.changes) or len(found.changes) == 10
    singles = [[c for c in found.changes if c != out] for out in found.changes]
    assert not any(shows(rest) for rest in singles)


def test_changes_that_go_together_in_twos_do_not_hold_it_up() -> None:
    """Pairs (2k + 1, 2k + 2), which halving splits; only one pair matters."""

    def shows(some: Sequence[int]) -> bool:
        chosen = set(some)
        whole = all((2 * k + 1 in chosen) == (2 * k + 2 in chosen) for k in range(9))
        return whole and {7, 8} <= chosen

    assert ddmin(range(20), shows, 1000).changes == (7, 8)


def test_one_culprit_among_many_takes_few_tests() -> None:
    for culprit in range(0, 256, 17):
        found = ddmin(range(256), lambda some, c=culprit: c in some, 1000)
        assert found.changes == (culprit,)
        assert found.tests <= 2 * 8
        assert found.unresolved == 0


def test_nothing_is_asked_twice_nor_of_all_nor_of_none() -> None:
    asked: list[tuple[int, ...]] = []

    def shows(some: Sequence[int]) -> bool:
        asked.append(tuple(some))
        return {2, 9, 5} <= set(some)

    assert ddmin(range(12), shows, 1000).changes == (2, 5, 9)
    assert len(asked) == len(set(asked))
    assert tuple(range(12)) not in asked
    assert () not in asked


def test_out_of_tests_the_smallest_so_far_is_given() -> None:
    found = ddmin(range(64), lambda some: {3, 40} <= set(some), 8)
    assert not found.is_minimal
    assert found.tests <= 8
    assert {3, 40} <= set(found.changes)
    assert len(found.changes) < 64


def test_several_culprits_of_which_all_are_needed() -> None:
    for culprits in combinations(range(8), 3):
        found = ddmin(range(8), lambda some, c=frozenset(culprits): c <= set(some), 1000)
        assert found.changes == culprits
