"""The tables against the engines: small networks of each shape that matters, every linear layer in 8 bits."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import pytest

from graphopt.backends import openvino
from graphopt.backends.measures import sqnr_db
from graphopt.backends.onnxruntime import kernel_precision, open_session
from graphopt.backends.openvino import runtime_precision
from graphopt.passes.fuse_matmul_add import FuseMatMulAdd
from graphopt.targets import TARGETS
from graphopt.targets.table import support_table
from tests.support.quantization import model, quantize_model
from tests.support.rewrite import assert_same_outputs, random_feeds, rewrite, run

W = {"w": (8, 8, 3, 3), "b": (8,), "v": (8, 8, 3, 3), "c": (8,)}
X = "float[N,8,12,12] x"
PAD = "pads=[1,1,1,1]"


def conv(x: str, y: str, w: str = "w", b: str = "b") -> str:
    return f"{y} = Conv<{PAD}>({x}, {w}, {b})\n"


def ends_in_conv(body: str, **more: tuple[int, ...]) -> onnx.ModelProto:
    return model(body + "y = Conv(end, k)\n", X, "float[A,B,C,D] y", **W, **{"k": (4, 8, 1, 1), **more})


NETWORKS: dict[str, onnx.ModelProto] = {
    "relu": ends_in_conv(conv("x", "a") + "end = Relu(a)\n"),
    "leaky relu": ends_in_conv(conv("x", "a") + "end = LeakyRelu<alpha=0.1>(a)\n"),
    "clip": ends_in_conv(
        conv("x", "a") + "lo = Constant<value_float=0.0>()\n hi = Constant<value_float=6.0>()\n end = Clip(a, lo, hi)\n"
    ),
    "hard tanh": ends_in_conv(
        conv("x", "a")
        + "lo = Constant<value_float=-1.0>()\n hi = Constant<value_float=1.0>()\n end = Clip(a, lo, hi)\n"
    ),
    "silu": ends_in_conv(conv("x", "a") + "s = Sigmoid(a)\n end = Mul(a, s)\n"),
    "depthwise": ends_in_conv(f"a = Conv<group=8, {PAD}>(x, d)\n end = Relu(a)\n", d=(8, 1, 3, 3)),
    "residual": ends_in_conv(
        conv("x", "p") + "s = Relu(p)\n" + conv("s", "q", "v", "c") + "r = Relu(q)\n" + conv("r", "a", "m", "n")
        + "t = Add(a, s)\n end = Relu(t)\n", m=(8, 8, 3, 3), n=(8,)
    ),
    "downsampling residual": ends_in_conv(
        conv("x", "a") + conv("x", "e", "v", "c") + "t = Add(a, e)\n end = Relu(t)\n"
    ),
    "strided pointwise": ends_in_conv(
        conv("x", "a") + "r = Relu(a)\n e = Conv<strides=[2,2]>(r, p)\n end = Relu(e)\n", p=(8, 8, 1, 1)
    ),
    "max pool": ends_in_conv(conv("x", "a") + "r = Relu(a)\n end = MaxPool<kernel_shape=[2,2], strides=[2,2]>(r)\n"),
    "resize to another tensor's size": ends_in_conv(
        conv("x", "a") + "r = Relu(a)\n q = MaxPool<kernel_shape=[2,2], strides=[2,2]>(r)\n z = Shape(x)\n"
        + 'u = Resize<mode="nearest", coordinate_transformation_mode="asymmetric", nearest_mode="floor">(q, , , z)\n'
        + "end = Conv(u, p)\n", p=(8, 8, 1, 1)
    ),
    "average pool": ends_in_conv(conv("x", "a") + "end = AveragePool<kernel_shape=[2,2]>(a)\n"),
    "concat": ends_in_conv(
        conv("x", "a") + conv("x", "e", "v", "c") + "j = Concat<axis=1>(a, e)\n end = Conv(j, m)\n", m=(8, 16, 1, 1)
    ),
    "skip connection": ends_in_conv(
        conv("x", "a") + "s = Relu(a)\n p = MaxPool<kernel_shape=[3,3], pads=[1,1,1,1]>(s)\n" + conv("p", "e", "v", "c")
        + "j = Concat<axis=1>(e, s)\n end = Conv(j, m)\n", m=(8, 16, 1, 1)
    ),
    "concat of bounds": ends_in_conv(
        conv("x", "a") + "lo = Constant<value_float=0.0>()\n hi = Constant<value_float=1.0>()\n s = Clip(a, lo, hi)\n"
        + conv("x", "e", "v", "c") + "r = Relu(e)\n j = Concat<axis=1>(r, s)\n end = Conv(j, m)\n", m=(8, 16, 1, 1)
    ),
    "channels last": model(
        "t = Transpose<perm=[0,3,1,2]>(x)\n a = Conv(t, w)\n y = Transpose<perm=[0,2,3,1]>(a)",
        "float[N,9,9,8] x", "float[A,B,C,D] y", w=(8, 8, 3, 3),
    ),
    "global pool and gemm": model(
        "a = Conv(x, w)\n r = Relu(a)\n p = GlobalAveragePool(r)\n f = Flatten(p)\n y = Gemm(f, g, h)",
        X, "float[N,5] y", w=(8, 8, 3, 3), g=(8, 5), h=(5,),
    ),
    "two gemms": model(
        "a = Gemm<transB=1>(x, g, h)\n r = Relu(a)\n y = Gemm(r, i)",
        "float[N,8] x", "float[N,3] y", g=(16, 8), h=(16,), i=(16, 3),
    ),
    "matmul and bias": model("a = MatMul(x, g)\n y = Add(a, h)", "float[N,8] x", "float[N,5] y", g=(8, 5), h=(5,)),
    "tokens": model(
        "a = MatMul(x, g)\n e = Add(a, h)\n r = Relu(e)\n y = MatMul(r, i)",
        "float[N,7,8] x", "float[N,7,3] y", g=(8, 16), h=(16,), i=(16, 3),
    ),
    "one axis": model(
        "a = Conv(x, w)\n r = Relu(a)\n y = Conv(r, w)", "float[N,8,20] x", "float[N,8,16] y", w=(8, 8, 3)
    ),
}  # fmt: skip


@pytest.fixture(params=NETWORKS)
def network(request: pytest.FixtureRequest) -> onnx.ModelProto:
    # The presets fuse MatMul + Add before planning; Gemm is what the engines' kernels are made for.
    return rewrite(FuseMatMulAdd(), NETWORKS[request.param]).model


def test_onnxruntime_runs_every_linear_layer_in_integers(network: onnx.ModelProto) -> None:
    kernels = kernel_precision(quantize_model(network, "onnxruntime").after)
    assert kernels
    assert [k for k in kernels if not k.integer] == []


def test_onnxruntime_runs_silu_in_integers(tmp_path: Path) -> None:
    """Counted in the graph that onnxruntime runs: no float operator is left between the two convolutions."""
    path = tmp_path / "optimized.onnx"
    open_session(quantize_model(NETWORKS["silu"], "onnxruntime").after, optimized_path=path)
    ops = Counter(n.op_type for n in onnx.ModelProto.FromString(path.read_bytes()).graph.node)
    assert (ops["QLinearSigmoid"], ops["QLinearMul"], ops["Sigmoid"], ops["Mul"]) == (1, 1, 0, 0)


LINEAR_LAYERS = ("Convolution", "GroupConvolution", "Deconvolution", "FullyConnected", "MatMul")


def openvino_floats(network: onnx.ModelProto) -> list[str]:
    layers = [x for x in runtime_precision(quantize_model(network, "openvino").after) if x.layer_type in LINEAR_LAYERS]
    assert layers
    return [f"{x.name}: {x.precision}" for x in layers if not x.integer]


def test_openvino_runs_every_linear_layer_in_integers(network: onnx.ModelProto) -> None:
    assert openvino_floats(network) == []


@pytest.mark.parametrize("before", ["r = Relu(x)", "r = Tanh(x)"])
def test_openvino_runs_transposed_convolutions_in_integers(before: str) -> None:
    body = f"{before}\n y = ConvTranspose<strides=[2,2]>(r, w)"
    assert openvino_floats(model(body, X, "float[A,B,C,D] y", w=(8, 8, 3, 3))) == []


@pytest.mark.parametrize("strides", [1, 2])
@pytest.mark.parametrize("group", [2, 8])
def test_openvino_has_no_integer_transposed_convolution_with_groups(strides: int, group: int) -> None:
    """Which the table knows: the layer stays float and keeps its weights, with a remark."""
    source = model(
        f"r = Relu(x)\n y = ConvTranspose<group={group}, strides=[{strides},{strides}]>(r, w)",
        X, "float[A,B,C,D] y", w=(8, 8 // group, 3, 3),
    )  # fmt: skip
    result = quantize_model(source, "openvino")
    assert result.ops() == ["Relu", "ConvTranspose"]
    assert "it has groups" in result.remarks.items[0].message


@pytest.mark.parametrize("target", TARGETS)
def test_a_stack_of_weight_matrices_runs_in_onnxruntime(target: str) -> None:
    """Which opens a session with a scale per channel there, and fails when it runs: all results are measured in it."""
    source = model("a = MatMul(x, g)\n y = MatMul(a, h)", "float[2,7,8] x", "float[2,7,3] y", g=(2, 8, 8), h=(8, 3))
    result = quantize_model(source, target).after
    assert_same_outputs(source, result, rtol=0.05, atol=0.5)
    assert [k.integer for k in kernel_precision(result)] == [True, True]
    assert openvino_floats(source) == []


@pytest.mark.parametrize(
    ("gemm", "bias"), [("Gemm(x, g, h)", (3, 5)), ("Gemm(x, g, h)", (3, 1)), ("Gemm<beta=2.0>(x, g, h)", (5,))]
)
def test_onnxruntime_has_no_integer_gemm_for_such_a_bias(gemm: str, bias: tuple[int, ...]) -> None:
    result = quantize_model(model(f"y = {gemm}", "float[3,8] x", "float[3,5] y", g=(8, 5), h=bias), "onnxruntime")
    assert result.ops() == ["Gemm"]
    assert "isn't one constant per column" in result.remarks.items[0].message


@pytest.mark.parametrize(
    ("body", "more"),
    [
        ("m = Conv(x, w)\n r = Relu(m)\n e = Conv(r, v)\n y = Add(m, e)", {"w": (8, 8, 1, 1)}),
        ("m = Conv(x, w)\n g = GlobalAveragePool(m)\n e = Mul(m, g)\n y = Conv(e, v)", {"w": (8, 8, 3, 3)}),
        ("m = Conv(x, w, b)\n g = Sigmoid(m)\n e = Conv(m, v)\n y = Mul(g, e)", {"w": (8, 8, 1, 1), "b": (8,)}),
        ("m = Conv<group=8>(x, w)\n g = Tanh(m)\n e = Conv(m, v)\n y = Mul(g, e)", {"w": (8, 1, 3, 3)}),
        ("r = Relu(x)\n m = ConvTranspose(r, w)\n g = Tanh(m)\n e = Conv(m, v)\n y = Mul(g, e)", {"w": (8, 8, 3, 3)}),
    ],
    ids=["skip", "squeeze and excite", "zero bias", "depthwise", "transposed"],
)
def test_openvino_gives_what_the_model_says_where_a_result_has_two_readers(
    body: str, more: dict[str, tuple[int, ...]]
) -> None:
    """With a symbolic batch and no bias OpenVINO gave 0 dB; onnxruntime is the judge of the same Q/DQ model."""
    source = model(body, X, "float[A,B,C,D] y", seed=0, v=(8, 8, 1, 1), **more)
    for bias in [i for i in source.graph.initializer if i.name == "b"]:
        bias.CopyFrom(onnx.numpy_helper.from_array(np.zeros(8, np.float32), "b"))
    result = quantize_model(source, "openvino").after
    feeds = random_feeds(source)
    (ours,), (theirs,) = run(result, feeds), *openvino.run(result, [feeds])
    assert sqnr_db(ours, theirs) > 30


def test_openvino_fuses_the_residual_add() -> None:
    layers = runtime_precision(quantize_model(NETWORKS["residual"], "openvino").after)
    assert not [x for x in layers if x.layer_type == "Eltwise"]


@pytest.mark.parametrize("target", TARGETS)
def test_every_operator_of_a_table_is_a_real_one(target: str) -> None:
    for op in TARGETS[target].rules:
        assert onnx.defs.has(op), op


def test_the_support_table_has_a_row_for_every_rule() -> None:
    rows = [line.split("|")[1].strip() for line in support_table().splitlines()]
    assert {op for t in TARGETS.values() for op in t.rules} <= set(rows)
