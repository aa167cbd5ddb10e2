"""Groups of convolutions that stay equally large, and choices that change together."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graphopt.analysis.coupling.balance import balanced_components, components
from graphopt.analysis.coupling.choice_moves import Divided, moves


def pairs(*found: tuple[int, int]) -> np.ndarray:
    return np.array(found, dtype=np.int64).reshape(-1, 2).T


def test_components_are_numbered_by_their_first_elements() -> None:
    assert components(6, pairs((5, 0), (3, 4))).tolist() == [0, 1, 2, 3, 3, 0]
    assert components(3, pairs()).tolist() == [0, 1, 2]


def test_single_elements_go_with_those_in_the_same_place() -> None:
    rows = np.arange(8).reshape(4, 2)
    assert balanced_components(8, pairs(), [rows]).tolist() == [0, 1, 0, 1, 0, 1, 0, 1]


def test_what_hangs_together_is_filled_up_with_what_is_missing() -> None:
    rows = np.arange(8).reshape(4, 2)
    assert balanced_components(8, pairs((0, 3)), [rows]).tolist() == [0, 1, 1, 0, 0, 1, 0, 1]


def test_a_whole_group_takes_all_others_along() -> None:
    assert set(balanced_components(6, pairs((0, 1), (1, 2)), [np.arange(6).reshape(2, 3)]).tolist()) == {0}


def test_two_ways_of_grouping_at_once() -> None:
    labels = balanced_components(12, pairs(), [np.arange(12).reshape(2, 6), np.arange(12).reshape(3, 4)])
    assert np.bincount(labels).tolist() == [6, 6]


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_all_groups_lose_equally_many(data: st.DataObject) -> None:
    groups, size = data.draw(st.sampled_from([(2, 2), (2, 3), (3, 2)]))
    count = groups * size
    elements = st.integers(0, count - 1)
    edges = data.draw(st.lists(st.tuples(elements, elements), max_size=3))
    rows = np.arange(count).reshape(groups, size)
    before, after = components(count, pairs(*edges)), balanced_components(count, pairs(*edges), [rows])
    # Nothing that hung together fell apart, and each component has equally many elements in all groups.
    assert all(len(set(after[before == label].tolist())) == 1 for label in set(before.tolist()))
    for label in set(after.tolist()):
        assert len({int((after[row] == label).sum()) for row in rows}) == 1
    # What was balanced stays by itself.
    for label in set(before.tolist()):
        if len({int((before[row] == label).sum()) for row in rows}) == 1:
            inside = before == label
            assert np.array_equal(after == after[inside][0], inside)


RUN = np.repeat([0, 1, 2, 3], [6, 2, 3, 6])  # elements 0–5, 6–7, 8–10, 11–16
TWOS = np.array([[0, 1, 2, 3, 4, 5, 6, 7], [6, 6, 6, 7, 7, 7, 6, 7]])  # run 0 goes along run 1
THREES = np.array([[0, 1, 2, 3, 4, 5, 8, 9, 10], [8, 9, 10, 8, 9, 10, 8, 9, 10]])  # run 0 goes along run 2
TWOS_OUT = np.array([[11, 12, 13, 14, 15, 16, 6, 7], [6, 7, 6, 7, 6, 7, 6, 7]])
THREES_OUT = np.array([[11, 12, 13, 14, 15, 16, 8, 9, 10], [8, 8, 9, 9, 10, 10, 8, 9, 10]])


def test_divisions_are_equal_whatever_leads_them() -> None:
    there = Divided.by(TWOS, RUN).runs
    assert there.keys() == {0, 1}
    assert there[1] == Divided.by(TWOS_OUT, RUN).runs[1]
    assert there[0] != Divided.by(THREES, RUN).runs[0]
    assert Divided.by(TWOS[:, ::-1], RUN).runs[0] == there[0]


@pytest.mark.parametrize(("way", "wanted"), [(0, {0: 0, 1: 1}), (1, {0: 1, 1: 0})])
def test_choices_that_meet_on_an_axis_go_along_it_together(way: int, wanted: dict[int, int]) -> None:
    split = [Divided.by(TWOS, RUN), Divided.by(THREES, RUN)]
    merge = [Divided.by(THREES_OUT, RUN), Divided.by(TWOS_OUT, RUN)]
    found = list(moves(["Reshape", "Reshape"], [split, merge]))
    assert {0: 0, 1: 0} in found  # both by what they prefer
    assert wanted in found
    assert {0: way} in found
