"""Which axes operations sum over."""

from __future__ import annotations

import onnx
import pytest

from graphopt.analysis.dead.dead_readers import is_summed, passes_on, summed_partner
from graphopt.ir import Node, fill_types, from_proto


def node(call: str, opset: int = 17) -> Node:
    """The operation `y = call` of a: [4, 6], b: [6, 5], c: [2, 3, 4, 6], d: [2, 3, 6, 5], v: [6], w: [3, 3, 1, 1]."""
    inputs = "float[4,6] a, float[6,5] b, float[2,3,4,6] c, float[2,3,6,5] d, float[6] v, float[3,3,1,1] w"
    text = f"""<ir_version: 8, opset_import: ["" : {opset}]> g ({inputs}) => (y)
        <int64[1] i1 = {{1}}, int64 axis = {{-1}}> {{ y = {call} }}"""
    model = onnx.parser.parse_model(text)
    graph = from_proto(model)
    fill_types(graph)
    return graph.nodes[0]


@pytest.mark.parametrize(
    ("call", "index", "axes"),
    [
        ("MatMul(a, b)", 0, [1]),
        ("MatMul(a, b)", 1, [0]),
        ("MatMul(c, d)", 0, [3]),
        ("MatMul(c, d)", 1, [2]),
        ("MatMul(a, v)", 1, [0]),
        ("MatMul(v, b)", 0, [0]),
        ("Gemm(a, b)", 0, [1]),
        ("Gemm(a, b)", 1, [0]),
        ("Gemm<transA=1>(b, b)", 0, [0]),
        ("Gemm<transB=1>(a, a)", 1, [1]),
        ("Conv(c, w)", 0, [1, 2, 3]),
        ("Conv(c, w)", 1, [0, 1, 2, 3]),
        ("ReduceSum(c, i1)", 0, [1]),
        ("ReduceL2<axes=[-1, 0]>(c)", 0, [0, 3]),
        ("ReduceMax(a)", 0, [0, 1]),
        ("ReduceSum<noop_with_empty_axes=1>(a)", 0, []),
        ("CumSum(a, axis)", 0, [1]),
        ("Softmax(a)", 0, []),
        ("Add(a, v)", 1, []),
    ],
)
def test_axes_that_are_summed_over(call: str, index: int, axes: list[int]) -> None:
    read = node(call)
    assert passes_on(read)
    rank = len(read.inputs[index].shape or ())
    assert [axis for axis in range(rank) if is_summed(read, index, axis)] == axes


@pytest.mark.parametrize("call", ["LpNormalization(a)", 'Einsum<equation="ij,jk->ik">(a, b)', "Elsewhere(a)"])
def test_what_may_do_both_passes_nothing_on(call: str) -> None:
    assert not passes_on(node(call))


def test_what_the_inner_axis_of_a_product_meets() -> None:
    slots = [summed_partner(node(call), i) for call in ("MatMul(c, d)", "MatMul(a, v)") for i in (0, 1)]
    assert [str(slot) for slot in slots] == ["'d' axis 2", "'c' axis 3", "'v' axis 0", "'a' axis 1"]
    assert summed_partner(node("Gemm(a, b)"), 0) is None
