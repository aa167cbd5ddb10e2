"""What is said to be constant is what onnxruntime computes on any input; and what can be known is known."""

from __future__ import annotations

from math import nan

import ml_dtypes
import numpy as np
import onnx
import pytest

from graphopt.analysis.coupling.groups import Slot
from graphopt.analysis.dead.constant_channels import ConstantChannels, constant_channels
from graphopt.ir import Tensor, fill_types, from_proto
from tests.support.rewrite import parse, random_feeds, run

# W: row 1 hears nothing; W3 hears channels 0 and 1 only; V hears everything.
CONSTANTS = """float[4,3,1,1] W = {1,2,3, 0,0,0, 4,5,6, 1e-30,0,0}, float[4] b = {1, -2, 3, 0.5},
    float[2,4,1,1] V = {0,2,0,0, 1,1,1,1}, float[2,4,3,3] K = {@18, @18, @18, @18},
    float[4,1,1] zeros = {1, 0, 0, 2}, float[4] vector = {1, 2, 3, 4}, float[4] ones = {1, 1, 1, 1},
    float[4] gamma = {1, 0, 2, 0}, float[4] mean = {0, 1, 2, 3}, float one = {1}, float two = {2}, float inf = {inf},
    float[4,2] G = {1,2, 0,0, 3,4, 5,6}, int64[4] flip = {3, 1, 1, -4}, int64[1] p0 = {0}, int64[1] p1 = {1},
    int64[1] p3 = {3}, int64[8] border = {0,0,1,1,0,0,1,1}, int64[8] wide = {0,1,0,0,0,0,0,0},
    int64[5] grouped = {2,2,2,5,5}, int64[2] flat = {2,-1}, int64[4] back = {2,4,5,5}, int64[2] halves = {2, 2},
    float[4] scales = {1, 1, 2, 2}, int64[4] tiles = {1, 2, 1, 1}, float[4,1,1] slope = {0.5, 0.25, 1, 2}""".replace(
    "@18", ", ".join(["0.5"] * 18)
)


def analysed(body: str, opset: int = 17, constants: str = CONSTANTS) -> tuple[ConstantChannels, dict[str, Tensor]]:
    """`body` computes y from x: float[2,3,5,5], beside c = Conv(x, W, b) whose channel 1 is −2.

    Whatever is found to be constant in any tensor is held against onnxruntime's values on three inputs.
    """
    text = f"""<ir_version: 8, opset_import: ["" : {opset}]> g (float[2,3,5,5] x) => (y) <{constants}> {{
        c = Conv(x, W, b)
        {body} }}"""
    model = onnx.parser.parse_model(text)
    del model.graph.output[:]
    graph = from_proto(model)
    fill_types(graph)
    found = constant_channels(graph)
    model.graph.output.extend(onnx.ValueInfoProto(name=t.name) for t in found.values)
    for seed in range(3):
        values = run(model, random_feeds(model, seed)) if found.values else []
        for (tensor, known), actual in zip(found.values.items(), values, strict=True):
            expected = np.broadcast_to(known, actual.shape)
            where = ~np.isnan(expected)
            np.testing.assert_allclose(actual[where], expected[where], rtol=1e-6, atol=1e-7, err_msg=tensor.name)
            assert len(set(known.shape) - {1}) <= 2
    return found, graph.tensors()


def channels(body: str, axis: int = 1, opset: int = 17, constants: str = CONSTANTS) -> list[float]:
    found, tensors = analysed(body, opset, constants)
    return found.along(Slot(tensors["y"], axis)).tolist()


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("y = Relu(c)", [nan, 0, nan, nan]),
        ("y = Neg(c)", [nan, 2, nan, nan]),
        ("y = LeakyRelu<alpha=0.5>(c)", [nan, -1, nan, nan]),
        ("y = HardSigmoid(c)", [nan, 0.1, nan, nan]),
        ("y = ThresholdedRelu<alpha=3.0>(c)", [nan, 0, nan, nan]),
        ("y = PRelu(c, slope)", [nan, -0.5, nan, nan]),
        ("y = Clip(c, one, two)", [nan, 1, nan, nan]),
        ("y = Clip(c, , two)", [nan, -2, nan, nan]),
        ("y = Dropout(c)", [nan, -2, nan, nan]),
        ("y = Add(c, slope)", [nan, -1.75, nan, nan]),
        ("y = Sub(one, c)", [nan, 3, nan, nan]),
        ("y = Mul(c, zeros)", [nan, 0, 0, nan]),
        ("s = Sigmoid(c)\n y = Mul(zeros, s)", [nan, 0, 0, nan]),
        ("r = Relu(c)\n q = Neg(c)\n y = Mul(q, r)", [nan, 0, nan, nan]),
        ("y = Max(c, one, two)", [nan, 2, nan, nan]),
        ("y = Sum(c, c, two)", [nan, -2, nan, nan]),
        ("n = Neg(c)\n l = Log(c)\n y = Max(l, one)", [nan, nan, nan, nan]),  # Log(−2) isn't a number
        ("y = Conv(c, V)", [-4, nan]),
        ("y = Conv(c, V, halves_bias)", [-4.5, nan]),
        ("y = BatchNormalization(c, gamma, vector, mean, ones)", [nan, 2, nan, 4]),
        ("y = BatchNormalization(c, ones, vector, mean, ones)", [nan, -3 / np.sqrt(1 + 1e-5) + 2, nan, nan]),
        ("y = InstanceNormalization(c, gamma, vector)", [nan, 2, nan, 4]),
        ("r = Relu(c)\n y = InstanceNormalization(r, ones, vector)", [nan, 2, nan, nan]),
        ("y = InstanceNormalization(c, ones, vector)", [nan, nan, nan, nan]),
        ("d = Neg(c)\n y = Concat<axis=1>(d, x, c)", [nan, 2, *[nan] * 6, -2, nan, nan]),
        ("d = Neg(c)\n y = Concat<axis=2>(c, d)", [nan, nan, nan, nan]),
        ("d = Clip(c, one, two)\n e = Sub(one, d)\n f = Sub(d, one)\n y = Concat<axis=-1>(e, f)", [nan, 0, nan, nan]),
        ("u, y = Split<axis=1>(c, halves)", [nan, nan]),
        ("y, u = Split<axis=1>(c, halves)", [nan, -2]),
        ("u, y = Split<axis=0>(c)", [nan, -2, nan, nan]),
        ("y = Slice(c, p1, p3, p1)", [-2, nan]),
        ("y = Slice(c, p1, p3, p3)", [nan, -2, nan, nan]),
        ("y = Gather<axis=1>(c, flip)", [nan, -2, -2, nan]),
        ("y = Gather<axis=2>(c, p1)", [nan, -2, nan, nan]),
        ("y = Pad(c, border)", [nan, nan, nan, nan]),
        ("r = Relu(c)\n y = Pad(r, border)", [nan, 0, nan, nan]),
        ('y = Pad<mode="reflect">(c, border)', [nan, -2, nan, nan]),
        ("y = Pad(c, wide, one)", [1, nan, -2, nan, nan]),
        ("y = Tile(c, tiles)", [nan, -2, nan, nan, nan, -2, nan, nan]),
        ("y = MaxPool<kernel_shape=[3,3], pads=[1,1,1,1]>(c)", [nan, -2, nan, nan]),
        ("y = MaxPool<kernel_shape=[2,2], pads=[1,1,1,1], dilations=[2,2]>(c)", [nan, nan, nan, nan]),
        ("y = AveragePool<kernel_shape=[3,3], pads=[1,1,1,1]>(c)", [nan, -2, nan, nan]),
        ("y = AveragePool<kernel_shape=[3,3], count_include_pad=1>(c)", [nan, -2, nan, nan]),
        ("y = AveragePool<kernel_shape=[3,3], pads=[1,1,1,1], count_include_pad=1>(c)", [nan, nan, nan, nan]),
        ('y = AveragePool<kernel_shape=[3,3], auto_pad="SAME_UPPER", count_include_pad=1>(c)', [nan] * 4),
        (
            "r = Relu(c)\n y = AveragePool<kernel_shape=[3,3], pads=[1,1,1,1], count_include_pad=1>(r)",
            [nan, 0, nan, nan],
        ),
        ("y = GlobalAveragePool(c)", [nan, -2, nan, nan]),
        ("y = ReduceMean<axes=[2, 3], keepdims=0>(c)", [nan, -2, nan, nan]),
        ("y = ReduceMax<axes=[-1]>(c)", [nan, -2, nan, nan]),
        ("y = ReduceSum(c, p3)", [nan, nan, nan, nan]),
        ("r = Relu(c)\n y = ReduceSum(r, p3)", [nan, 0, nan, nan]),
        ("y, i = TopK(c, p3)", [nan, -2, nan, nan]),
        ("y, i = TopK<axis=1>(c, p3)", [nan, nan, nan]),
        ("y = CumSum(c, two_)", [nan, nan, nan, nan]),
        ("r = Relu(c)\n y = CumSum(r, two_)", [nan, 0, nan, nan]),
        ("r = Relu(c)\n y = CumSum(r, one_)", [nan, nan, nan, nan]),
        ('y = Resize<mode="linear">(c, , scales)', [nan, -2, nan, nan]),
        ("y = Flatten(c)", [*[nan] * 25, *[-2.0] * 25, *[nan] * 50]),
        ("f = Flatten(c)\n y = Reshape(f, back)", [nan, -2, nan, nan]),
        ("s = DepthToSpace<blocksize=2>(c)\n y = SpaceToDepth<blocksize=2>(s)", [nan, nan, nan, nan]),
        ("y = SpaceToDepth<blocksize=1>(c)", [nan, -2, nan, nan]),
    ],
)
def test_channels(body: str, expected: list[float]) -> None:
    text = CONSTANTS + ", float[2] halves_bias = {-0.5, 0}, int64 one_ = {1}, int64 two_ = {2}"
    np.testing.assert_allclose(channels(body, constants=text), expected, rtol=1e-6)


@pytest.mark.parametrize("pads", ["1,1,1,1", "0,0,0,1"])
def test_a_border_of_zeros_makes_a_constant_vary(pads: str) -> None:
    # Both output channels of K hear channels 0 … 3: with a mask before it, only the constant one.
    masked = "m = Mul(c, only)\n "
    text = CONSTANTS + ", float[4,1,1] only = {0, 1, 0, 0}"
    plain = channels(masked + "y = Conv(m, K)", constants=text)
    np.testing.assert_allclose(plain, [-2 * 0.5 * 9] * 2)
    assert np.isnan(channels(masked + f"y = Conv<pads=[{pads}]>(m, K)", constants=text)).all()
    relu = channels(masked + f"r = Relu(m)\n y = Conv<pads=[{pads}]>(r, K)", constants=text)
    assert relu == [0, 0]


def test_a_channel_shuffle_keeps_what_is_known() -> None:
    shuffled = "s = Reshape(c, grouped)\n t = Transpose<perm=[0,2,1,3,4]>(s)\n y = Reshape(t, back)"
    np.testing.assert_array_equal(channels(shuffled), [nan, nan, -2, nan])


def test_nhwc() -> None:
    body = "t = Transpose<perm=[0,2,3,1]>(c)\n y = Add(t, vector)"
    np.testing.assert_array_equal(channels(body, axis=3), [nan, 0, nan, nan])


def test_gemm_with_factors_and_a_bias_per_row() -> None:
    constants = (
        CONSTANTS
        + """, float[3,4] B = {0,1,0,2, 0,3,0,4, 0,5,0,6}, float[4] bias = {1, 2, 3, 4},
        float[2,4] rows = {1, 2, 3, 4, 1, 2, 5, 6}"""
    )
    pooled = "g = GlobalAveragePool(x)\n f = Flatten(g)\n "
    text = pooled + "y = Gemm<alpha=2.0, beta=0.5>(f, B, bias)"
    np.testing.assert_array_equal(channels(text, constants=constants), [0.5, nan, 1.5, nan])
    text = pooled + "y = Gemm(f, B, rows)"
    np.testing.assert_array_equal(channels(text, constants=constants), [1, nan, nan, nan])


def test_matmul_of_two_activations_with_a_zero_column() -> None:
    body = """m = Mul(c, zeros)
        f = Reshape(m, rows)
        t = Transpose<perm=[0,2,1]>(f)
        k = Softmax(f)
        y = MatMul(k, t)"""
    constants = CONSTANTS + ", int64[3] rows = {2, 4, 25}"
    np.testing.assert_array_equal(channels(body, axis=2, constants=constants), [nan, 0, 0, nan])


def test_infinite_constants_are_not_multiplied_away() -> None:
    assert np.isnan(channels("i = Mul(c, inf)\n y = Conv(i, V)")).all()
    assert np.isnan(channels("r = Relu(c)\n y = Mul(r, inf)")[1])


BELOW = """float[4,3,1,1] B = {-1,-2,-3, -1,0,-2, -1,1e-9,-1, -4,-5,-6}, float[4] low = {-1, 0, -1, 1e-9},
    float[3,4] M = {-1,-1,-1,-1, -2,0,1,-2, -3,-3,-3,-3}, float zero = {0}, float six = {6}, float half = {0.5}"""


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("p = Relu(x)\n d = Conv<pads=[1,1,1,1]>(p, B, low)\n y = Relu(d)", [0, 0, nan, nan]),
        ("p = Sigmoid(x)\n d = Conv(p, B)\n y = Relu(d)", [0, 0, nan, 0]),
        ("p = Abs(x)\n d = Conv(p, B, low)\n y = Clip(d, zero, six)", [0, 0, nan, nan]),
        ("p = Abs(x)\n d = Conv(p, B, low)\n y = Clip(d, half, six)", [0.5, 0.5, nan, nan]),
        ("p = Abs(x)\n d = Conv(p, B, low)\n y = Clip(d, , six)", [nan, nan, nan, nan]),
        ("p = Abs(x)\n d = Conv(p, B, low)\n y = ThresholdedRelu<alpha=0.1>(d)", [0, 0, nan, nan]),
        ("p = Abs(x)\n d = Conv(p, B, low)\n y = LeakyRelu(d)", [nan, nan, nan, nan]),
        ("d = Conv(x, B, low)\n y = Relu(d)", [nan, nan, nan, nan]),
    ],
)
def test_what_is_cut_off_at_zero(body: str, expected: list[float]) -> None:
    text = f"{CONSTANTS}, {BELOW}"
    np.testing.assert_array_equal(channels(body, constants=text), np.array(expected, np.float32))


@pytest.mark.parametrize(("factors", "expected"), [("", [0, 0, nan, 0]), ("<alpha=-1.0>", [nan] * 4)])
def test_what_a_gemm_leaves_below_zero(factors: str, expected: list[float]) -> None:
    body = f"p = Relu(x)\n g = GlobalAveragePool(p)\n f = Flatten(g)\n d = Gemm{factors}(f, M)\n y = Relu(d)"
    np.testing.assert_array_equal(channels(body, constants=f"{CONSTANTS}, {BELOW}"), expected)
    body = "p = Relu(x)\n t = Transpose<perm=[0,2,3,1]>(p)\n m = MatMul(t, M)\n s = Add(m, low)\n y = Relu(s)"
    np.testing.assert_array_equal(channels(body, 3, constants=f"{CONSTANTS}, {BELOW}"), [0, 0, nan, nan])


def test_old_opsets() -> None:
    constants = "float[4,3,1,1] W = {1,2,3, 0,0,0, 4,5,6, 1,0,0}, float[4] b = {1, -2, 3, 0.5}"
    clip = channels("y = Clip<min=-1.0, max=1.0>(c)", opset=7, constants=constants)
    np.testing.assert_array_equal(clip, [nan, -1, nan, nan])
    cut = channels("y = Slice<starts=[1], ends=[3], axes=[1]>(c)", opset=9, constants=constants)
    np.testing.assert_array_equal(cut, [-2, nan])
    padded = channels("y = Pad<pads=[0,0,1,1,0,0,1,1], value=-2.0>(c)", opset=10, constants=constants)
    np.testing.assert_array_equal(padded, [nan, -2, nan, nan])


@pytest.mark.parametrize("dtype", [np.float16, np.float64, ml_dtypes.bfloat16], ids=str)
def test_other_float_types(dtype: type) -> None:
    w = np.ones((3, 2, 1, 1), dtype)
    w[1] = 0
    stored = {"w": w, "b": np.array([1, -2, 3], dtype), "s": np.array([1, 1, 0], dtype).reshape(3, 1, 1)}
    kind = {"float16": "float16", "float64": "double", "bfloat16": "bfloat16"}[str(np.dtype(dtype))]
    text = f"""<ir_version: 8, opset_import: ["" : 17]> g ({kind}[N,2,4,4] x) => ({kind}[A,B,C,D] y)
        {{ c = Conv(x, w, b)\n m = Mul(c, s)\n y = Clip(m) }}"""
    model = onnx.parser.parse_model(text)
    model.graph.initializer.extend(onnx.numpy_helper.from_array(v, n) for n, v in stored.items())
    graph = from_proto(model)
    fill_types(graph)
    found = constant_channels(graph)
    np.testing.assert_array_equal(found.along(Slot(graph.tensors()["y"], 1)), [nan, -2, 0])
    assert found.unheard == ()


def test_what_the_caller_may_override_is_not_known() -> None:
    text = """<ir_version: 8, opset_import: ["" : 17]> g (float[1,2,4,4] x, float[2,2,1,1] W) => (float[1,2,4,4] y)
        <float[2,2,1,1] W = {0,0,0,0}> { y = Conv(x, W) }"""
    model = parse(text)
    graph = from_proto(model)
    fill_types(graph)
    assert constant_channels(graph).values == {}


def test_a_dynamic_batch_and_unknown_sizes() -> None:
    text = """<ir_version: 8, opset_import: ["" : 17]> g (float[N,3,H,M] x) => (float[N,D] y)
        <float[4,3,1,1] W = {1,2,3, 0,0,0, 4,5,6, 7,8,9}, float[4] b = {1, -2, 3, 4}>
        { c = Conv(x, W, b)\n p = GlobalMaxPool(c)\n y = Flatten(p) }"""
    graph = from_proto(parse(text))
    fill_types(graph)
    found, tensors = constant_channels(graph), graph.tensors()
    np.testing.assert_array_equal(found.along(Slot(tensors["c"], 1)), [nan, -2, nan, nan])
    with pytest.raises(ValueError, match="isn't known"):
        found.along(Slot(tensors["c"], 2))
    np.testing.assert_array_equal(found.along(Slot(tensors["y"], 1)), [nan, -2, nan, nan])
