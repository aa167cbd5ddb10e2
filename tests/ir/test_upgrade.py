"""Old definitions brought to newer opsets. The oracle is onnxruntime, which still runs the old ones."""

from __future__ import annotations

import numpy as np
import onnx
import onnx.parser
import pytest

from graphopt.errors import UnsupportedError
from graphopt.ir.upgrade import upgrade
from tests.support.rewrite import random_feeds, run

SCALES = "<float[4] s={1.0,1.0,4.0,3.0}>"
BN = "<float[3] a={1,2,3}, float[3] b={0,1,2}, float[3] c={0,1,0}, float[3] d={1,2,1}>"

# (opset, one node's model): operators whose definition changed on the way from 7 to 13, in each of their forms.
MODELS: list[tuple[int, str]] = [
    (7, "(float[2,3] x) => (float[2,3] y) { y = Dropout<ratio=0.5>(x) }"),
    (10, "(float[2,3] x) => (float[2,3] y) { y, mask = Dropout<ratio=0.5>(x) }"),
    (7, "(float[2,3,4] x) => (float[2,3,4] y) { y = Softmax(x) }"),
    (7, "(float[2,3,4] x) => (float[2,3,4] y) { y = Softmax<axis=0>(x) }"),
    (7, "(float[2,3,4] x) => (float[2,3,4] y) { y = Softmax<axis=2>(x) }"),
    (11, "(float[2,3,4] x) => (float[2,3,4] y) { y = Softmax<axis=-1>(x) }"),
    (11, "(float[2,3,4] x) => (float[2,3,4] y) { y = Softmax<axis=-2>(x) }"),
    (7, "(float[2,3,1,1] x) => (float[2,3,1,1] y) { y = Softmax(x) }"),
    (11, "(float[N,3,4] x) => (float[N,3,4] y) { y = Softmax(x) }"),
    (7, "(float[2,3,4] x) => (float[2,3,4] y) { y = LogSoftmax(x) }"),
    (7, "(float[2,3,4] x) => (float[2,3,4] y) { y = Hardmax(x) }"),
    (7, "(float[2,1,4] x) => (float[2,4] y) { y = Squeeze<axes=[1]>(x) }"),
    (7, "(float[2,1,4] x) => (float[2,4] y) { y = Squeeze(x) }"),
    (7, "(float[2,4] x) => (float[2,1,4] y) { y = Unsqueeze<axes=[1]>(x) }"),
    (7, "(float[2,4] x) => (float[2,1] y) { y = ReduceSum<axes=[1]>(x) }"),
    (7, "(float[2,4] x) => (float y) { y = ReduceSum<keepdims=0>(x) }"),
    (7, "(float[2,4] x) => (float[2,1] y) { y = ReduceMean<axes=[1]>(x) }"),
    (7, "(float[2,4] x) => (float[2,1] y, float[2,3] z) { y, z = Split<axis=1, split=[1,3]>(x) }"),
    (7, "(float[2,4] x) => (float[2,2] y, float[2,2] z) { y, z = Split<axis=1>(x) }"),
    (7, "(float[5,4] x) => (float[3,4] y) { y = Slice<axes=[0], starts=[1], ends=[4]>(x) }"),
    (7, "(float[5,4] x) => (float[3,3] y) { y = Slice<starts=[1,0], ends=[4,-1]>(x) }"),
    (7, "(float[5,4] x) => (float[6,7] y) { y = Pad<pads=[1,1,0,2], value=2.5>(x) }"),
    (7, '(float[5,4] x) => (float[6,7] y) { y = Pad<pads=[1,1,0,2], mode="reflect">(x) }'),
    (7, "(float[5,4] x) => (float[5,4] y) { y = Clip<min=-0.5, max=0.5>(x) }"),
    (7, "(float[5,4] x) => (float[5,4] y) { y = Clip<min=-0.5>(x) }"),
    (11, "(float[5,4] x) => (float[5,4] y) <float hi={0.5}> { y = Clip(x, , hi) }"),
    (7, "(float[5,4] x) => (float[5,2] y, int64[5,2] z) { y, z = TopK<k=2>(x) }"),
    (7, "(float[1,2,3,3] x) => (float[1,2,12,9] y) { y = Upsample<scales=[1.0,1.0,4.0,3.0]>(x) }"),
    (7, '(float[1,2,3,3] x) => (float[1,2,6,9] y) { y = Upsample<mode="linear", scales=[1.0,1.0,2.0,3.0]>(x) }'),
    (7, "(float[1,2,3,3] x) => (float[1,2,4,7] y) { y = Upsample<scales=[1.0,1.0,1.4,2.5]>(x) }"),
    (9, f'(float[1,2,3,3] x) => (float[1,2,12,9] y) {SCALES} {{ y = Upsample<mode="nearest">(x, s) }}'),
    (10, f'(float[1,2,3,3] x) => (float[1,2,12,9] y) {SCALES} {{ y = Resize<mode="nearest">(x, s) }}'),
    (10, f'(float[1,2,3,3] x) => (float[1,2,12,9] y) {SCALES} {{ y = Resize<mode="linear">(x, s) }}'),
    (10, "(float[1,2,7,7] x) => (float[1,2,3,3] y) <float[4] s={1.0,1.0,0.5,0.5}> { y = Resize(x, s) }"),
    (10, '(float[1,2,7,7] x) => (float[1,2,3,3] y) <float[4] s={1.0,1.0,0.5,0.5}> { y = Resize<mode="linear">(x, s) }'),
    (7, f"(float[2,3,4] x) => (float[2,3,4] y) {BN} {{ y = BatchNormalization<epsilon=0.01>(x, a, b, c, d) }}"),
    (7, "(float[1,1,4,4] x) => (float[1,1,2,2] y) { y = AveragePool<kernel_shape=[2,2], strides=[2,2]>(x) }"),
    (
        7,
        (
            "(float[1,1,5,5] x) => (float[1,1,3,3] y)"
            ' { y = MaxPool<kernel_shape=[2,2], strides=[2,2], auto_pad="SAME_UPPER">(x) }'
        ),
    ),
    (7, "(float[4] x) => (float[4] y) { y = Sum(x, x, x) }"),
    (
        7,
        (
            "(float[2,4] x) => (float[2,2] y) <float[4,2] w={1,2,3,4,5,6,7,8}, float[2] b={1,2}>"
            " { y = Gemm<alpha=0.5>(x, w, b) }"
        ),
    ),
    (7, "(float[2,3,4] x) => (float[2,12] y) { y = Flatten(x) }"),
    (7, "(float[2,3] x) => (int64[2,1] y) { y = ArgMax<axis=1>(x) }"),
    (7, "(float[2,3,4] x) => (float[2,3,4] y) <float[3,1] s={0.1,0.2,0.3}> { y = PRelu(x, s) }"),
    (7, "(float[1,4,2,2] x) => (float[1,1,4,4] y) { y = DepthToSpace<blocksize=2>(x) }"),
    (7, "(float[2,1,2] x, float[1,8,2] w, float[1,8,2] r) => (float[2,1,1,2] y) { y = LSTM<hidden_size=2>(x, w, r) }"),
    (
        7,
        (
            "(float[2,1,2] x, float[1,6,2] w, float[1,6,2] r) => (float[2,1,1,2] y)"
            " { y = GRU<hidden_size=2, linear_before_reset=1>(x, w, r) }"
        ),
    ),
    (9, "(float[3,3] x) => (float[3,3] y) <int64[1,2] i={0,2}, float[1,2] u={5,6}> { y = Scatter(x, i, u) }"),
    (7, "(float[1,2,3,3] x, float[2,2,2,2] w) => (float[1,2,6,6] y) { y = ConvTranspose<strides=[2,2]>(x, w) }"),
    (9, "(float[2,3,2,2] x) => (float[2,3,2,2] y) { y = MeanVarianceNormalization(x) }"),
    (
        7,
        "(float[2,3,2,2] x) => (float[2,3,2,2] y) { y = MeanVarianceNormalization<normalize_variance=1>(x) }",
    ),
    (
        7,
        (
            "(float[2,3,2,2] x) => (float[2,3,2,2] y)"
            " { y = MeanVarianceNormalization<across_channels=1, normalize_variance=1>(x) }"
        ),
    ),
    (
        10,
        (
            "(float[3,3] x) => (float[3,3] y) <float s={0.1}, uint8 z={128}>"
            " { q = QuantizeLinear(x, s, z)  y = DequantizeLinear(q, s, z) }"
        ),
    ),
    (7, "(float[1] x) => (float[1] y) { c = Constant<value=float[1]{3.0}>()  y = Add(x, c) }"),
    (7, "(float[1,3,8,8] x) => (float[1,3,8,8] y) { y = ImageScaler<scale=2.0, bias=[1.0,2.0,3.0]>(x) }"),
    (7, "(float[1,3,8,8] x) => (float[1,3,8,8] y) { y = Affine<alpha=2.0, beta=3.0>(x) }"),
    (9, "(float[1,3,8,8] x) => (float[1,3,5,4] y) { y = Crop<border=[1,2,3,1]>(x) }"),
    (9, "(float[1,3,8,8] x) => (float[1,3,6,7] y) { y = Crop<border=[1,2,0,0]>(x) }"),
    (7, "(float[1,3,8,8] x) => (float[1,3,2,3] y) { y = Crop<border=[1,2,3,1], scale=[2,3]>(x) }"),
    (7, "(float[3] x) => (float[3] y) { y = ParametricSoftplus<alpha=2.0, beta=0.5>(x) }"),
    (7, "(float[3] x) => (float[3] y) { y = ScaledTanh<alpha=2.0, beta=0.5>(x) }"),
    (7, "(float[3] x) => (float[3] y) { y = Scale<scale=2.0>(x) }"),
    (7, "(float[3] x) => (float[3] y) { y = ThresholdedRelu<alpha=0.3>(x) }"),
]


def parse(opset: int, text: str) -> onnx.ModelProto:
    return onnx.parser.parse_model(f'<ir_version: 4, opset_import: ["" : {opset}]> g {text}')


@pytest.mark.parametrize("to_opset", [13, 21])
@pytest.mark.parametrize(("opset", "text"), MODELS)
def test_same_outputs_in_the_new_opset(opset: int, text: str, to_opset: int) -> None:
    old = parse(opset, text)
    new = upgrade(old, to_opset)
    onnx.checker.check_model(new, full_check=True)
    assert [e.version for e in new.opset_import] == [to_opset]
    feeds = random_feeds(old)
    for before, after in zip(run(old, feeds), run(new, feeds), strict=True):
        assert before.dtype == after.dtype
        np.testing.assert_allclose(after, before, rtol=1e-6, atol=1e-6)


def test_old_broadcasting_against_numpy() -> None:
    # onnxruntime has no Add-6; axis 1 of the old rule lines b up with the channels.
    model = parse(6, "(float[2,3,4] x, float[3] b) => (float[2,3,4] y) { y = Add<broadcast=1, axis=1>(x, b) }")
    feeds = random_feeds(model)
    (got,) = run(upgrade(model, 13), feeds)
    np.testing.assert_array_equal(got, feeds["x"] + feeds["b"][:, None])


def test_old_prelu_slopes_against_numpy() -> None:
    model = parse(6, "(float[2,3,4] x, float[3] s) => (float[2,3,4] y) { y = PRelu(x, s) }")
    feeds = random_feeds(model)
    (got,) = run(upgrade(model, 13), feeds)
    x = feeds["x"]
    np.testing.assert_array_equal(got, np.where(x < 0, x * feeds["s"][:, None], x))


def test_scan_with_a_batch_axis() -> None:
    model = parse(
        8,
        """(float[1,2] start, float[1,3,2] x) => (float[1,2] last, float[1,3,2] all) {
          last, all = Scan<num_scan_inputs=1, body=b (float[2] sum, float[2] item) => (float[2] next, float[2] out) {
            next = Add(sum, item)
            out = Identity(next)
          }>(, start, x)
        }""",
    )
    new = upgrade(model, 13)
    onnx.checker.check_model(new, full_check=True)
    feeds = random_feeds(model)
    for before, after in zip(run(model, feeds), run(new, feeds), strict=True):
        np.testing.assert_array_equal(after, before)


def test_nodes_in_bodies_are_converted_too() -> None:
    model = parse(
        11,
        """(bool c, float[2,3] x) => (float[2,3,1] y) {
          y = If(c) <then_branch = t () => (float[2,3,1] a) { a = Unsqueeze<axes=[2]>(x) },
                     else_branch = e () => (float[2,3,1] b) { n = Neg(x)  b = Unsqueeze<axes=[2]>(n) }>
        }""",
    )
    new = upgrade(model, 13)
    onnx.checker.check_model(new, full_check=True)
    feeds = {"x": np.ones((2, 3), np.float32)}
    for condition in (True, False):
        values = {**feeds, "c": np.array(condition)}
        np.testing.assert_array_equal(run(new, values)[0], run(model, values)[0])


def test_keeps_what_the_converter_would_drop() -> None:
    model = parse(11, "(float[2,1] x) => (float[2] y) { [squeeze] y = Squeeze<axes=[1]>(x) }")
    model.graph.node[0].doc_string = "why"
    model.graph.node[0].metadata_props.add(key="owner", value="me")
    model.metadata_props.add(key="author", value="me")
    model.graph.output[0].doc_string = "scores"
    new = upgrade(model, 13)
    node = new.graph.node[-1]
    assert (node.name, node.doc_string, node.metadata_props[0].value) == ("squeeze", "why", "me")
    assert new.metadata_props[0].value == "me"
    assert new.graph.output[0].doc_string == "scores"


def test_what_did_not_change_is_not_touched() -> None:
    model = parse(12, "(float[2] x) => (float[2] y) { [here] y = Softplus(x) }")
    node = upgrade(model, 13).graph.node[0]
    assert (node.op_type, node.name, list(node.input), list(node.output)) == ("Softplus", "here", ["x"], ["y"])


@pytest.mark.parametrize(
    ("opset", "text", "reason"),
    [
        (
            7,
            (
                "(float[2,3] x) => (float[2,3] y) <float[3] a={1,2,3}>"
                " { [bn] y = BatchNormalization<spatial=0>(x,a,a,a,a) }"
            ),
            "BatchNormalization 'bn' can't be brought from opset 7 to 13: Attribute spatial",
        ),
        (10, "(float[2] x) => (float[2] y, bool[2] m) { [drop] y, m = Dropout(x) }", "Dropout 'drop': its mask"),
        (
            10,
            "(float[1,1,4,4] x) => (float[1,1,2,8] y) <float[4] s={1.0,1.0,0.5,2.0}> { [r] y = Resize(x, s) }",
            "Resize 'r': shrinks one axis",
        ),
    ],
)
def test_says_which_node_and_why(opset: int, text: str, reason: str) -> None:
    with pytest.raises(UnsupportedError, match=reason):
        upgrade(parse(opset, text), 13)
