"""Activations of which some elements are in no part that is read."""

from __future__ import annotations

import pytest

from graphopt.analysis.dead.unread_parts import has_unread_parts
from graphopt.ir import fill_types, from_proto
from tests.support.rewrite import parse


def unread(body: str, outputs: str = "float[A,B,C] y") -> bool:
    """`body` computes y from r: [N, 8, 6]."""
    text = f"""<ir_version: 8, opset_import: ["" : 17]> g (float[N,8,6] x) => ({outputs})
        <int64[1] i0 = {{0}}, int64[1] i1 = {{1}}, int64[1] i3 = {{3}}, int64[1] i5 = {{5}}, int64[1] i8 = {{8}},
         int64[2] halves = {{3, 5}}, int64[8] order = {{7, 6, 5, 4, 3, 2, 1, -8}}, int64[2] some = {{7, 0}},
         int64[1] last = {{-1}}> {{ r = Relu(x)
         {body} }}"""
    graph = from_proto(parse(text))
    fill_types(graph)
    return has_unread_parts(graph)


@pytest.mark.parametrize(
    "body",
    [
        "y = Slice(r, i0, i3, i1)",
        "y = Slice(r, i3, last, i1)",
        "a = Slice(r, i0, i3, i1)\n b = Slice(r, i5, i8, i1)\n y = Add(a, b)",
        "y = Gather<axis=1>(r, some)",
        "a, b = Split<axis=1>(r, halves)\n y = Neg(b)",
        "y, b = Split<axis=1>(r, halves)",
        "y = Slice(r, i1, i5, last)",  # positions, not channels: whether those can go is another question
    ],
)
def test_something_is_left_out(body: str) -> None:
    assert unread(body)


@pytest.mark.parametrize(
    "body",
    [
        "y = Neg(r)",
        "y = Slice(r, i0, i8, i1)",
        "a = Slice(r, i0, i3, i1)\n b = Slice(r, i3, i8, i1)\n y = Concat<axis=1>(b, a)",
        "y = Gather<axis=1>(r, order)",
        "a, b = Split<axis=1>(r, halves)\n y = Concat<axis=1>(b, a)",
        "a = Slice(r, i0, i3, i1)\n m = ReduceMax(r)\n y = Add(a, m)",
    ],
)
def test_everything_is_read(body: str) -> None:
    assert not unread(body)


def test_a_graph_output_is_read() -> None:
    assert not unread("y = Slice(r, i0, i3, i1)", "float[A,B,C] y, float[N,8,6] r")
