import numpy as np
import onnx
import pytest

from graphopt.passes.fuse_matmul_add import FuseMatMulAdd
from graphopt.pipeline import Context
from graphopt.targets import TARGETS
from tests.support.rewrite import assert_same_outputs, parse, rewrite

HEADER = '<ir_version: 8, opset_import: ["" : 17]>\n'
WEIGHT = "float[2,3] W = {1, 2, 3, 4, 5, 6}"


@pytest.mark.parametrize(
    "bias", ["float[3] b = {1, 2, 3}", "float[1,3] b = {1, 2, 3}", "float b = {2}", "float[1,1] b = {2}"]
)
@pytest.mark.parametrize("add", ["Add(t, b)", "Add(b, t)"])
def test_matmul_and_bias_become_gemm(bias: str, add: str) -> None:
    model = parse(HEADER + f"g (float[N,2] x) => (float[N,3] y) <{WEIGHT}, {bias}> {{ t = MatMul(x, W)\n y = {add} }}")
    result = rewrite(FuseMatMulAdd(), model)
    assert result.ops == ["Gemm"]
    stored = {i.name: list(i.dims) for i in result.model.graph.initializer}
    assert stored[result.model.graph.node[0].input[2]] == [3]
    assert_same_outputs(model, result.model)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (
            (
                f"g (float[N,4,2] x) => (float[N,4,3] y) <{WEIGHT}, float[3] b = {{1,2,3}}>"
                f" {{ t = MatMul(x, W)\n y = Add(t, b) }}"
            ),
            "has 3",
        ),
        (
            f"g (float[2] x) => (float[3] y) <{WEIGHT}, float[3] b = {{1,2,3}}> {{ t = MatMul(x, W)\n y = Add(t, b) }}",
            "has 1",
        ),
        (
            (
                f"g (float[2,2] x) => (float[2,3] y) <{WEIGHT}, float[2,1] b = {{1,2}}>"
                f" {{ t = MatMul(x, W)\n y = Add(t, b) }}"
            ),
            "one value",
        ),
        (
            (
                f"g (float[2,2] x) => (float[1,2,3] y) <{WEIGHT}, float[1,1,3] b = {{1,2,3}}>"
                f" {{ t = MatMul(x, W)\n y = Add(t, b) }}"
            ),
            "one value",
        ),
        (
            f"g (float[2,2] x, float[3] b) => (float[2,3] y) <{WEIGHT}> {{ t = MatMul(x, W)\n y = Add(t, b) }}",
            "isn't a constant",
        ),
        (f"g (float[2,2] x) => (float[2,3] y) <{WEIGHT}> {{ t = MatMul(x, W)\n y = Add(t, t) }}", "read by others"),
        (
            (
                f"g (float[2,2] x) => (float[2,3] y, float[2,3] z) <{WEIGHT}, float[3] b = {{1,2,3}}>"
                f" {{ t = MatMul(x, W)\n y = Add(t, b)\n z = Exp(t) }}"
            ),
            "read by others",
        ),
        (
            (
                f"g (float[2,2] x) => (float[2,3] y, float[2,3] t) <{WEIGHT}, float[3] b = {{1,2,3}}>"
                f" {{ t = MatMul(x, W)\n y = Add(t, b) }}"
            ),
            "read by others",
        ),
        (
            (
                "g (int32[2,2] x) => (int32[2,3] y) <int32[2,3] W = {1,2,3,4,5,6}, int32[3] b = {1,2,3}>"
                " { t = MatMul(x, W)\n y = Add(t, b) }"
            ),
            "int32",
        ),
    ],
)
def test_near_misses_stay_and_say_why(text: str, reason: str) -> None:
    result = rewrite(FuseMatMulAdd(), HEADER + text)
    assert result.revision == 0
    assert reason in result.declined()[0]


def test_one_value_per_row_is_no_bias_even_where_rows_equal_columns() -> None:
    weight = "float[2,2] W = {1, 2, 3, 4}"
    text = (
        f"g (float[2,2] x) => (float[2,2] y) <{weight}, float[2,1] b = {{1, 2}}> {{ t = MatMul(x, W)\n y = Add(t, b) }}"
    )
    assert rewrite(FuseMatMulAdd(), HEADER + text).revision == 0


def test_a_product_of_two_inputs_is_no_layer() -> None:
    text = (
        "g (float[2,2] x, float[2,3] W) => (float[2,3] y) <float[3] b = {1,2,3}> { t = MatMul(x, W)\n y = Add(t, b) }"
    )
    result = rewrite(FuseMatMulAdd(), HEADER + text)
    assert (result.revision, result.declined()) == (0, [])


def test_shared_weights_and_outputs_in_the_middle() -> None:
    model = parse(
        HEADER + f"g (float[2,2] x, float[2,2] z) => (float[2,3] y, float[2,3] w) <{WEIGHT}, float[3] b = {{1, 2, 3}}>"
        "{ t = MatMul(x, W)\n y = Add(t, b)\n s = MatMul(z, W)\n u = Add(s, b)\n w = Mul(y, u) }"
    )
    result = rewrite(FuseMatMulAdd(), model)
    assert sorted(result.ops) == ["Gemm", "Gemm", "Mul"]
    assert len(result.model.graph.initializer) == 2
    assert_same_outputs(model, result.model)


def test_inside_a_branch() -> None:
    text = (
        HEADER
        + f"""g (float[2,2] x, bool c) => (float[2,3] y) <{WEIGHT}, float[3] b = {{1, 2, 3}}> {{
        y = If(c) <then_branch = t () => (float[2,3] p) {{ q = MatMul(x, W) p = Add(q, b) }},
                   else_branch = e () => (float[2,3] r) {{ r = MatMul(x, W) }}>
    }}"""
    )
    result = rewrite(FuseMatMulAdd(), text)
    body: onnx.GraphProto = next(a.g for a in result.model.graph.node[0].attribute if a.name == "then_branch")
    assert [n.op_type for n in body.node] == ["Gemm"]


def test_each_target_says_whether_it_wants_it() -> None:
    text = (
        HEADER + f"g (float[N,2] x) => (float[N,3] y) <{WEIGHT}, float[3] b = {{1,2,3}}>"
        f" {{ t = MatMul(x, W)\n y = Add(t, b) }}"
    )
    for target in TARGETS.values():
        result = rewrite(FuseMatMulAdd(), text, Context(target=target))
        assert (result.ops == ["Gemm"]) == target.fuse_matmul_add
    assert np.any([t.fuse_matmul_add for t in TARGETS.values()])
