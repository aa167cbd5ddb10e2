"""Which axes before and after a Reshape hold the same elements."""

from __future__ import annotations

import numpy as np
import pytest

from graphopt.analysis.coupling.links import Links
from graphopt.analysis.coupling.reshape import matching_blocks, reshape
from graphopt.analysis.coupling.shapes import Shapes, shapes_of
from graphopt.ir import Shape
from tests.support.coupling import graph_of


@pytest.mark.parametrize(
    ("before", "after", "wanted"),
    [
        (("N", 8, 7, 7), ("N", 392), [((0,), (0,)), ((1, 2, 3), (1,))]),
        (("N", 8, 7, 7), ("N", 2, 4, 7, 7), [((0,), (0,)), ((1,), (1, 2)), ((2,), (3,)), ((3,), (4,))]),
        ((4, 6), (8, 3), [((0, 1), (0, 1))]),
        ((4, 6), (2, 2, 6), [((0,), (0, 1)), ((1,), (2,))]),
        (("N", "S", 12), ("N", "S", 3, 4), [((0,), (0,)), ((1,), (1,)), ((2,), (2, 3))]),
        (("N", 12), (None, 3, 4), [((0,), (0,)), ((1,), (1, 2))]),
        # What isn't known is left together, but for equal axes behind it.
        (("N", "S", 12), (None, 12), [((0, 1), (0,)), ((2,), (1,))]),
        (("N", "H", "W", 3, 12), ("N", None, 3, 12), [((0,), (0,)), ((1, 2), (1,)), ((3,), (2,)), ((4,), (3,))]),
        (("N", "S", 12), (None, None, 4), [((0, 1, 2), (0, 1, 2))]),
    ],
)
def test_blocks(before: Shape, after: Shape, wanted: list[tuple[tuple[int, ...], tuple[int, ...]]]) -> None:
    assert [(block.before, block.after) for block in matching_blocks(before, after)] == wanted


def carried(links: Links) -> set[str]:
    """Axes of operand and result that units go along."""
    slots = [slot for pair in links.wholes for slot in pair] + [tie.left for tie in links.ties]
    return {f"{slot.tensor.name}:{slot.axis}" for slot in slots if links.size(slot.tensor, slot.axis) != 1}


def ways(inputs: str, target: list[int]) -> list[set[str]]:
    graph = graph_of("r = Reshape(x, s) y = Relu(r)", inputs, "float[A,B,C,D] y", s=np.array(target))
    return [carried(links) for links in reshape(graph.nodes[0], shapes_of(graph))]


def test_a_way_for_each_factor() -> None:
    assert ways("float[2,6,5] x", [2, 30]) == [{"x:0", "r:0", "x:1", "r:1"}, {"x:0", "r:0", "x:2", "r:1"}]
    assert ways("float[2,12,5] x", [2, 3, 4, 5]) == [
        {"x:0", "r:0", "x:1", "r:1", "x:2", "r:3"},
        {"x:0", "r:0", "x:1", "r:2", "x:2", "r:3"},
    ]


def test_factors_of_both_sides() -> None:
    # 4·6 = 8·3: factors 4, 2 and 3; 8 holds the first two, 6 the last two.
    assert ways("float[4,6] x", [8, 3]) == [{"x:0", "r:0"}, {"x:1", "r:0"}, {"x:1", "r:1"}]


def test_no_common_factor() -> None:
    # 6·4 = 4·6, but the 6 of one side isn't made of whole parts of the other.
    assert ways("float[6,4] x", [4, 6]) == [set()]


def test_an_axis_that_the_batch_is_merged_into() -> None:
    found = ways("float[N,3,5] x", [-1, 5])
    assert {"x:1", "r:0", "x:2", "r:1"} in found


def test_a_symbol_that_would_have_to_fit_is_no_number() -> None:
    # For S = 5 the axes of 5 would be the same, for any other S they aren't.
    shapes = Shapes()
    graph = graph_of("r = Reshape(x, s) y = Relu(r)", "float[5,S] x", "float[A,B] y", s=np.array([-1, 5]))
    (x,), (r,) = graph.inputs, graph.nodes[0].outputs
    accident = Shapes({x: (5, 5), r: (5, 5)}, {x: (5, 7), r: (7, 5)})
    assert [carried(links) for links in reshape(graph.nodes[0], accident)] == [set()]
    assert not any("x:0" in carried(links) for links in reshape(graph.nodes[0], shapes))
