import numpy as np
import onnx
import pytest

from graphopt.passes.fold_gemm_factors import FoldGemmFactors
from tests.support.rewrite import Rewritten, assert_same_outputs, parse, rewrite

HEADER = '<ir_version: 8, opset_import: ["" : 17]>\n'
WEIGHT = "float[2,3] W = {1, 2, 3, 4, 5, 6}"


def gemm(attributes: str, bias: str = "float[3] b = {1, 2, 3}", weight: str = WEIGHT) -> onnx.ModelProto:
    head = f"g (float[N,2] x) => (float[N,3] y) <{weight}, {bias}>"
    return parse(HEADER + head + " { y = Gemm<" + attributes + ">(x, W, b) }")


def factors(result: Rewritten) -> set[str]:
    return {a.name for n in result.model.graph.node for a in n.attribute} & {"alpha", "beta"}


def bias_shape(result: Rewritten) -> list[int]:
    stored = {i.name: list(i.dims) for i in result.model.graph.initializer}
    return stored[result.model.graph.node[0].input[2]]


@pytest.mark.parametrize("attributes", ["alpha = 0.5", "beta = -2.0", "alpha = 3.0, beta = 0.25"])
@pytest.mark.parametrize("bias", ["float[3] b = {1, 2, 3}", "float[1,3] b = {1, 2, 3}", "float b = {2}"])
def test_factors_go_into_weight_and_bias(attributes: str, bias: str) -> None:
    model = gemm(attributes, bias)
    result = rewrite(FoldGemmFactors(), model)
    assert not factors(result)
    assert bias_shape(result) == [3]
    assert_same_outputs(model, result.model)


def test_a_transposed_weight() -> None:
    model = gemm("alpha = 0.5, transB = 1", "float b = {2}", "float[3,2] W = {1, 2, 3, 4, 5, 6}")
    result = rewrite(FoldGemmFactors(), model)
    assert not factors(result)
    assert bias_shape(result) == [3]
    assert_same_outputs(model, result.model)


def test_a_bias_with_beta_zero_goes() -> None:
    model = gemm("beta = 0.0", "float[3] b = {nan, 2, 3}")
    result = rewrite(FoldGemmFactors(), model)
    assert len(result.model.graph.node[0].input) == 2
    assert_same_outputs(model, result.model)


def test_a_bias_per_row_keeps_its_shape() -> None:
    text = (
        f"g (float[3,2] x) => (float[3,3] y) <{WEIGHT}, float[3,1] b = {{1, 2, 3}}> {{ y = Gemm<beta = 2.0>(x, W, b) }}"
    )
    result = rewrite(FoldGemmFactors(), HEADER + text)
    assert bias_shape(result) == [3, 1]
    assert not factors(result)
    assert_same_outputs(parse(HEADER + text), result.model)


def test_a_shared_weight_is_copied() -> None:
    text = (
        f"g (float[N,2] x) => (float[N,3] y, float[N,3] z) <{WEIGHT}>"
        " { y = Gemm<alpha = 0.5>(x, W)\n z = Gemm(x, W) }"
    )
    result = rewrite(FoldGemmFactors(), HEADER + text)
    assert not factors(result)
    assert_same_outputs(parse(HEADER + text), result.model)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("g (float[N,2] x, float[2,3] W) => (float[N,3] y) { y = Gemm<alpha = 0.5>(x, W) }", "'W' isn't a constant"),
        (
            f"g (float[N,2] x, float[3] b) => (float[N,3] y) <{WEIGHT}> {{ y = Gemm<beta = 0.5>(x, W, b) }}",
            "'b' isn't a constant",
        ),
        (
            "g (float[N,1] x) => (float[N,1] y) <float[1,1] W = {3.0e38}> { y = Gemm<alpha = 10.0>(x, W) }",
            "isn't finite",
        ),
    ],
)
def test_what_is_declined(text: str, reason: str) -> None:
    result = rewrite(FoldGemmFactors(), HEADER + text)
    assert result.revision == 0
    assert any(reason in message for message in result.declined())


def test_a_gemm_without_factors_is_left_alone() -> None:
    result = rewrite(FoldGemmFactors(), gemm("transB = 0"))
    assert result.revision == 0
    assert not result.declined()


def test_two_readers_of_one_weight_keep_their_own_factor() -> None:
    text = (
        f"g (float[N,2] x) => (float[N,3] y, float[N,3] z) <{WEIGHT}>"
        " { y = Gemm<alpha = 0.5>(x, W)\n z = Gemm<alpha = 2.0>(x, W) }"
    )
    result = rewrite(FoldGemmFactors(), HEADER + text)
    stored = {i.name: onnx.numpy_helper.to_array(i) for i in result.model.graph.initializer}
    first, second = (stored[n.input[1]] for n in result.model.graph.node)
    np.testing.assert_array_equal(4 * first, second)
