"""Which function of a tensor's values the rest of a graph sees."""

import numpy as np
import onnx.parser
import pytest

from graphopt.analysis.response import response
from graphopt.ir import from_proto
from graphopt.ir.shapes import fill_types

X = np.array([-40.0, -3.0, -0.5, 0.0, 0.25, 2.0, 90.0])


def graph(body: str, opset: int = 13, outputs: str = "float[1,4] y"):
    constants = "<float[1,1] three = {3}, float zero = {0}, float six = {6}, float[4] slopes = {1, 2, 3, 4}>"
    signature = f"(float[1,4] i, float[4,4] w) => ({outputs}) {constants}"
    return from_proto(
        onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : {opset}]> g {signature} {{ {body} }}')
    )


def of_x(body: str, opset: int = 13, outputs: str = "float[1,4] y"):
    found = graph("x = MatMul(i, w) " + body, opset, outputs)
    fill_types(found)
    return response(found, found.tensors()["x"])


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("r = LeakyRelu<alpha = 0.1>(x) y = MatMul(r, w)", lambda x: np.where(x < 0, 0.1 * x, x)),
        ("s = Sigmoid(x) m = Mul(x, s) y = MatMul(m, w)", lambda x: x / (1 + np.exp(-x))),
        (
            "a = Add(three, x) c = Clip(a, zero, six) d = Div(c, six) h = Mul(d, x) y = MatMul(h, w)",
            lambda x: x * np.clip(x + 3, 0, 6) / 6,
        ),
        # The pointwise chain ends at the first tensor through which alone x is seen.
        ("r = Relu(x) n = Neg(r) y = MatMul(n, w)", lambda x: np.maximum(x, 0)),
        ("y = Tanh(x)", np.tanh),
    ],
)
def test_a_tensor_that_is_read_through_one_function(body, expected) -> None:
    found = of_x(body)
    assert found is not None
    np.testing.assert_allclose(found(X), expected(X), rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(found(X[:1]), expected(X[:1]), rtol=1e-6)


@pytest.mark.parametrize(
    ("body", "outputs"),
    [
        ("y = MatMul(x, w)", "float[1,4] y"),
        ("r = Relu(x) a = MatMul(r, w) b = MatMul(x, w) y = Add(a, b)", "float[1,4] y"),
        ("y = Relu(x)", "float[1,4] y, float[1,4] x"),
        ("y = Add(x, i)", "float[1,4] y"),
        ("y = PRelu(x, slopes)", "float[1,4] y"),
        ("a = Softmax(x) y = Mul(a, x)", "float[1,4] y"),
    ],
    ids=["linear", "read itself", "graph output", "another tensor", "a slope per channel", "not pointwise"],
)
def test_one_that_is_not(body, outputs) -> None:
    assert of_x(body, outputs=outputs) is None


def test_clip_with_its_bounds_as_attributes() -> None:
    found = of_x("c = Clip<min = 0.0, max = 6.0>(x) y = MatMul(c, w)", opset=9)
    assert found is not None
    np.testing.assert_array_equal(found(X), np.clip(X, 0, 6))
