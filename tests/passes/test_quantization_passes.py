"""calibrate, quantize-weights, insert-qdq: what ends up in the file, and that it computes what it says."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from graphopt.errors import CalibrationError, ConfigError
from graphopt.ir import from_proto
from graphopt.passes.calibrate import Calibrate
from graphopt.passes.insert_qdq import InsertQdq
from graphopt.passes.plan_quantization import PlanQuantization
from graphopt.passes.quantize_weights import QuantizeWeights
from graphopt.pipeline import Context
from graphopt.quant import Range
from graphopt.targets import TARGETS, find_target
from tests.support.quantization import HEADER, model, plan_of, quantize_model
from tests.support.rewrite import random_feeds, run

SHAPES = {"w": (8, 4, 3, 3), "b": (8,), "v": (4, 8, 1, 1), "k": (16, 5), "c": (5,)}
BODY = """
    a = Conv<pads=[1,1,1,1]>(x, w, b)
    r = Relu(a)
    d = Conv(r, v)
    p = MaxPool<kernel_shape=[4,4], strides=[4,4]>(d)
    f = Flatten(p)
    y = Gemm(f, k, c)
"""


@pytest.fixture
def net() -> onnx.ModelProto:
    return model(BODY, "float[N,4,8,8] x", "float[N,5] y", **SHAPES)


@pytest.mark.parametrize("target", TARGETS)
def test_outputs_stay_close_and_the_file_shrinks(net: onnx.ModelProto, target: str) -> None:
    result = quantize_model(net, target)
    feeds = random_feeds(net, seed=1)
    (before,), (after,) = run(net, feeds), run(result.after, feeds)
    assert 10 * np.log10((before**2).sum() / ((before - after) ** 2).sum()) > 25
    floats = [i for i in result.after.graph.initializer if i.data_type == onnx.TensorProto.FLOAT]
    assert all(np.prod(i.dims) <= 8 for i in floats), "only scales and biases stay float"


@pytest.mark.parametrize("target", TARGETS)
def test_per_tensor_scales_have_rank_0(net: onnx.ModelProto, target: str) -> None:
    result = quantize_model(net, target)
    stored = {i.name: i for i in result.after.graph.initializer}
    for node in result.after.graph.node:
        if node.op_type == "QuantizeLinear":
            assert len(stored[node.input[1]].dims) == len(stored[node.input[2]].dims) == 0


@pytest.mark.parametrize("target", TARGETS)
def test_weights_are_symmetric_per_output_channel_without_minus_128(net: onnx.ModelProto, target: str) -> None:
    result = quantize_model(net, target)
    for name, axis, channels in (("w", 0, 8), ("v", 0, 4), ("k", 1, 5)):
        stored = result.initializer(f"{name}_quantized")
        assert stored.dtype == np.int8
        assert stored.min() >= -127
        others = tuple(i for i in range(stored.ndim) if i != axis)
        assert np.all(np.abs(stored).max(axis=others) == 127)
        assert result.initializer(f"{name}_scale").shape == (channels,)
        assert not result.initializer(f"{name}_zero_point").any()


@pytest.mark.parametrize("target", ["onnxruntime", "tflite"])
def test_an_int32_bias_is_in_units_of_both_scales(net: onnx.ModelProto, target: str) -> None:
    result = quantize_model(net, target)
    conv = result.find("Conv")
    bias = result.producer(conv.input[2])
    assert bias is not None
    expected = result.initializer("x_scale") * result.initializer("w_scale")
    np.testing.assert_array_equal(result.initializer(bias.input[1]), expected)
    float_bias = numpy_helper.to_array(next(i for i in net.graph.initializer if i.name == "b"))
    np.testing.assert_array_equal(result.initializer(bias.input[0]), np.rint(float_bias / expected.astype(np.float64)))
    assert result.initializer(bias.input[0]).dtype == np.int32


@pytest.mark.parametrize("target", ["openvino", "tensorrt"])
def test_a_float_bias_stays(net: onnx.ModelProto, target: str) -> None:
    assert quantize_model(net, target).find("Conv").input[2] == "b"


def test_a_bias_that_would_overflow_int32_raises_the_weight_scale() -> None:
    source = model("y = Conv(x, w, b)", "float[1,4,4,4] x", "float[1,8,2,2] y", w=(8, 4, 3, 3), b=(8,))
    weight, bias = (numpy_helper.to_array(i).copy() for i in source.graph.initializer)
    weight[2] = 0
    weight[3] *= 1e-9
    for value, array in zip(source.graph.initializer, (weight, bias), strict=True):
        value.CopyFrom(numpy_helper.from_array(array, value.name))
    result = quantize_model(source, "onnxruntime")
    stored = result.initializer("b_quantized").astype(np.int64)
    assert np.all(np.abs(stored) <= 2**30 + 64)
    np.testing.assert_allclose(stored * result.initializer("b_scale").astype(np.float64), bias, rtol=1e-3)
    feeds = random_feeds(source, seed=1)
    (before,), (after,) = run(source, feeds), run(result.after, feeds)
    np.testing.assert_allclose(after[:, 2], before[:, 2], atol=0.1)


def test_a_shared_weight_keeps_its_float_values_for_float_readers() -> None:
    source = model(
        "a = Conv(x, w)\n y = Relu(a)\n z = Exp(w)",
        "float[1,2,5,5] x",
        "float[1,3,3,3] y, float[3,2,3,3] z",
        w=(3, 2, 3, 3),
    )
    result = quantize_model(source, "openvino")
    assert result.find("Exp").input[0] == "w"
    assert result.reads_quantized(result.find("Conv"), 1)


def test_a_tensor_that_is_also_an_output_keeps_its_name_and_float_values() -> None:
    source = model(
        "r = Relu(x)\n y = Conv(r, w)", "float[1,2,5,5] x", "float[1,2,5,5] r, float[1,3,3,3] y", w=(3, 2, 3, 3)
    )
    result = quantize_model(source, "openvino")
    assert [o.name for o in result.after.graph.output] == ["r", "y"]
    feeds = random_feeds(source)
    np.testing.assert_array_equal(run(result.after, feeds)[0], run(source, feeds)[0])


def test_a_group_shares_one_scale_constant() -> None:
    source = model(
        "a = Conv(x, w)\n b2 = Relu(x)\n j = Concat<axis=1>(a, b2)\n y = Conv(j, v)",
        "float[1,4,4,4] x", "float[1,2,4,4] y", w=(4, 4, 1, 1), v=(2, 8, 1, 1),
    )  # fmt: skip
    result = quantize_model(source, "tflite")
    concat = result.find("Concat")
    scales = {made.input[1] for i in concat.input if (made := result.producer(i)) is not None}
    assert len(scales) == 1
    ranges = result.initializer(scales.pop()), result.initializer("y_scale")
    assert ranges[0] != ranges[1]


def test_what_softmax_writes_in_tflite_has_the_prescribed_scale() -> None:
    body = "h = Gemm(x, k)\n s = Softmax(h)\n y = Gemm(s, m)"
    result = quantize_model(model(body, "float[1,4] x", "float[1,2] y", k=(4, 3), m=(3, 2)), "tflite")
    assert float(result.initializer("s_scale")) == 1 / 256


def test_int8_without_samples_is_one_clear_error(net: onnx.ModelProto) -> None:
    graph, _ = plan_of(net, "onnxruntime")
    with pytest.raises(CalibrationError, match="--calibration-data"):
        Calibrate().run(graph, Context())


def test_saved_ranges_replace_samples_and_a_missing_one_is_named(net: onnx.ModelProto) -> None:
    graph, _ = plan_of(net, "onnxruntime")
    wanted = [e.tensor for e in graph.plan if e.range is None]
    ranges = {t: Range.of(-1, 1) for t in wanted}
    Calibrate().run(graph, Context(ranges=ranges))
    assert all(e.range is not None for e in graph.plan)
    graph, _ = plan_of(net, "onnxruntime")
    del ranges[wanted[-1]]
    with pytest.raises(CalibrationError, match=f"'{wanted[-1]}'"):
        Calibrate().run(graph, Context(ranges=ranges))


@pytest.mark.parametrize("missing", [QuantizeWeights, InsertQdq])
def test_passes_in_the_wrong_order_say_so(net: onnx.ModelProto, missing: type) -> None:
    graph, _ = plan_of(net, "onnxruntime")
    with pytest.raises(ConfigError, match="before"):
        missing().run(graph, Context())


def test_a_quantized_model_is_refused(net: onnx.ModelProto) -> None:
    quantized = quantize_model(net, "onnxruntime").after
    with pytest.raises(ConfigError, match="already"):
        PlanQuantization().run(from_proto(quantized), Context(target=find_target("onnxruntime")))


def test_an_opset_without_per_channel_scales_stays_float() -> None:
    text = HEADER.replace("13", "12") + "g (float[1,2] x) => (float[1,2] y) { y = Relu(x) }"
    graph = from_proto(onnx.parser.parse_model(text))
    ctx = Context(target=find_target("onnxruntime"))
    PlanQuantization().run(graph, ctx)
    assert "opset 12" in ctx.remarks.items[0].message
