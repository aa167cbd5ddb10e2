"""What is known of numbers that a graph computes from shapes, before and after a tensor is cut."""

from __future__ import annotations

import numpy as np
import onnx.parser
import pytest

from graphopt.ir import Graph, from_proto, infer
from graphopt.passes._removal_sizes import SizeArithmetic, Sizes

BODY = """<ir_version: 8, opset_import: ["" : 13]>
g (float[N,12,L] x) => (float[N,12,L] y, int64[1] told)
  <int64[1] zero = {0}, int64[1] one = {1}, int64[1] two = {2}, int64[1] four = {4},
   int64 first = {0}, int64 step = {1}>
{
    a = Abs(x)
    s = Shape(a)
    n = Gather<axis=0>(s, zero)
    c = Gather<axis=0>(s, one)
    l = Gather<axis=0>(s, two)
    part = Div(c, four)
    rest = Mod(l, two)
    both = Mul(n, c)
    target = Concat<axis=0>(n, part, both, rest)
    f = Cast<to=1>(part)
    root = Sqrt(f)
    count = Squeeze(c, zero)
    r = Range(first, count, step)
    all = Size(a)
    told = Identity(part)
    p = Mul(a, root)
    y = Abs(p)
}"""


def arithmetic() -> tuple[Graph, SizeArithmetic]:
    graph = from_proto(onnx.parser.parse_model(BODY))
    infer(graph)
    return graph, SizeArithmetic(graph, {graph.tensors()["a"]: ("N", 8, "L")})


def known(sizes: Sizes | None) -> list[float | None]:
    """The elements, None where they aren't known."""
    assert sizes is not None
    return [v if k else None for v, k in zip(sizes.values.reshape(-1).tolist(), sizes.known.reshape(-1), strict=True)]


@pytest.mark.parametrize(
    ("name", "before", "after"),
    [
        ("s", [None, 12, None], [None, 8, None]),
        ("part", [3], [2]),
        ("both", [None], [None]),
        ("rest", [None], [None]),
        ("target", [None, 3, None, None], [None, 2, None, None]),
        ("count", [12], [8]),
        ("all", [None], [None]),
        ("r", list(range(12)), list(range(8))),
    ],
)
def test_values(name: str, before: list[int | None], after: list[int | None]) -> None:
    graph, sizes = arithmetic()
    tensor = graph.tensors()[name]
    graph.set_type(tensor, tensor.dtype, None if name == "r" else tensor.shape)
    assert known(sizes.before(tensor)) == before
    assert known(sizes.after(tensor)) == after


def test_what_changes() -> None:
    graph, sizes = arithmetic()
    tensors = graph.tensors()
    found = {name: sizes.unchanged(tensors[name]) for name in ("n", "l", "rest", "part", "both", "target")}
    assert {k: np.asarray(v).tolist() for k, v in found.items()} == {
        "n": [True],
        "l": [True],
        "rest": [True],
        "part": [False],
        "both": [False],
        "target": [True, False, False, True],
    }
    np.testing.assert_allclose(known(sizes.before(tensors["root"])), [np.sqrt(3)], rtol=1e-6)


def test_where_it_ends() -> None:
    sizes = arithmetic()[1]
    # The factor of a Mul of activations is the only operand that has to be held; nobody reads the others.
    assert [(node.op, index) for node, index in sizes.leaves()] == [("Mul", 1)]
    assert [tensor.name for tensor in sizes.changed_outputs()] == ["told"]


def test_what_is_no_size() -> None:
    graph, sizes = arithmetic()
    for name in ("x", "a", "p"):
        assert sizes.before(graph.tensors()[name]) is None
