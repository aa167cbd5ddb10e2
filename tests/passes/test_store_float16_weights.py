"""Which weights become float16, that the model is the one with rounded weights, and that each engine still runs it."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, numpy_helper

import graphopt
from graphopt.backends import litert_engine, openvino
from graphopt.backends.litert_model import read_model
from graphopt.backends.litert_writer import write_tflite
from tests.backends.litert_writer.support import noise, parse
from tests.support.rewrite import random_feeds, run

BODY = """
    c = Conv<pads=[1,1,1,1]>(x, w, b)
    d = Conv<group=8, pads=[1,1,1,1]>(c, v)
    r = Relu(d)
    t = ConvTranspose<strides=[2,2]>(r, u)
    g = GlobalAveragePool(t)
    f = Flatten(g)
    m = MatMul(f, k)
    a = Add(m, n)
    y = Gemm<transB=1, alpha=0.7>(a, l)
"""
SHAPES = {"w": (8, 6, 3, 3), "v": (8, 1, 3, 3), "u": (8, 40, 2, 2), "k": (40, 64), "l": (24, 64)}
LINEAR = {"w", "v", "u", "k", "l"}


@pytest.fixture(scope="module")
def net() -> onnx.ModelProto:
    weights = {name: noise(*shape, seed=k) for k, (name, shape) in enumerate(SHAPES.items())}
    return parse(f"g (float[2,6,8,8] x) => (float[2,24] y) {{ {BODY} }}", b=noise(8), n=noise(64), **weights)


def store(net: onnx.ModelProto) -> graphopt.Result:
    result = graphopt.optimize(net, passes="store-float16-weights")
    onnx.checker.check_model(result.model, full_check=True)
    return result


def reasons(result: graphopt.Result) -> str:
    return "\n".join(r.message for r in result.report.remarks if r.kind == "declined")


def halves(net: onnx.ModelProto) -> set[str]:
    return {i.name for i in net.graph.initializer if i.data_type == TensorProto.FLOAT16}


def rounded(net: onnx.ModelProto, names: set[str]) -> onnx.ModelProto:
    """The model with some weights rounded to float16, in float32."""
    copy = onnx.ModelProto()
    copy.CopyFrom(net)
    for tensor in copy.graph.initializer:
        if tensor.name in names:
            values = numpy_helper.to_array(tensor).astype(np.float16).astype(np.float32)
            tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    return copy


def test_the_weights_of_linear_nodes_are_stored_in_half_the_bytes(net):
    result = store(net)
    assert halves(result.model) == {f"{name}_float16" for name in LINEAR}
    assert [n.op_type for n in result.model.graph.node].count("Cast") == len(LINEAR)
    ratio = len(result.model.SerializeToString()) / len(net.SerializeToString())
    assert ratio < 0.65  # names and nodes of this small model cost the rest
    feeds = random_feeds(net)
    expected = run(rounded(net, LINEAR), feeds)
    for found, wanted in zip(run(result.model, feeds), expected, strict=True):
        np.testing.assert_array_equal(found, wanted)


def test_a_second_run_changes_nothing(net):
    once = store(net).model
    assert store(once).model.SerializeToString() == once.SerializeToString()


def test_litert_holds_the_float16_itself(net):
    result = store(net)
    written = write_tflite(result.model)
    stored = {t.name: t for o in read_model(written.content).operators for t in o.inputs if t is not None}
    assert {n for n, t in stored.items() if t.dtype == "float16"} == {f"{n}_float32_float16" for n in LINEAR - {"l"}}
    # alpha is in the weights of the last one, which are no float16 any more.
    assert written.operators["DEQUANTIZE"] == len(LINEAR) - 1
    assert len(written.content) < 0.72 * len(write_tflite(net).content)
    feeds = random_feeds(net)
    (found,) = next(iter(litert_engine.run(result.model, [feeds])))
    (expected,) = run(rounded(net, LINEAR), feeds)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())


def test_openvino_runs_it(net):
    result = store(net)
    feeds = random_feeds(net)
    (found,) = next(iter(openvino.run(result.model, [feeds])))
    (expected,) = run(rounded(net, LINEAR), feeds)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())


def test_a_weight_that_is_shared_is_stored_once():
    net = parse(
        "g (float[2,16] x) => (float[2,16] y) { a = MatMul(x, k) b = MatMul(a, k) y = Relu(b) }", k=noise(16, 16)
    )
    result = store(net)
    assert len(result.model.graph.initializer) == 1
    assert [n.op_type for n in result.model.graph.node].count("Cast") == 1
    written = write_tflite(result.model)
    assert written.operators["DEQUANTIZE"] == 1


def test_weights_of_8_bits_stay(net):
    pipeline = (
        "plan-quantization{keep-float=[ConvTranspose]},calibrate,quantize-weights,insert-qdq,store-float16-weights"
    )
    samples = {"x": noise(4, 6, 8, 8)}
    result = graphopt.optimize(net, target="tflite", passes=pipeline, calibration_data=samples)
    assert halves(result.model) == {"u_float16"}
    written = write_tflite(result.model)
    stored = [t for o in read_model(written.content).operators for t in o.inputs if t is not None]
    assert {t.dtype for t in stored if t.constant} >= {"float16", "int8", "int32"}


def test_a_plan_that_isnt_materialised_is_respected(net):
    pipeline = (
        "plan-quantization{keep-float=[ConvTranspose]},calibrate,store-float16-weights,quantize-weights,insert-qdq"
    )
    samples = {"x": noise(4, 6, 8, 8)}
    result = graphopt.optimize(net, target="tflite", passes=pipeline, calibration_data=samples)
    assert halves(result.model) == {"u_float16"}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda w: w.__setitem__((0, 0), 7e4), "holds 7e+04, which is infinite in float16"),
        (lambda w: w.__setitem__((0, 0), np.inf), "'k' isn't finite"),
        (lambda w: w.__imul__(np.float32(1e-6)), "too small for float16"),
    ],
)
def test_weights_that_dont_fit_stay(change, reason):
    weights = noise(8, 8)
    change(weights)
    net = parse("g (float[2,8] x) => (float[2,8] y) { y = MatMul(x, k) }", k=weights)
    result = store(net)
    assert not halves(result.model)
    assert reason in reasons(result)


def test_a_channel_that_is_as_good_as_none_decides_nothing():
    weights = noise(8, 8)
    weights[:, 3] *= np.float32(1e-9)
    net = parse("g (float[2,8] x) => (float[2,8] y) { y = MatMul(x, k) }", k=weights)
    assert halves(store(net).model) == {"k_float16"}
    weights[:, 3] = noise(8) * np.float32(3e-6)
    weights[:, [0, 1, 2, 4, 5, 6, 7]] *= np.float32(1e-3)
    net = parse("g (float[2,8] x) => (float[2,8] y) { y = MatMul(x, k) }", k=weights)
    assert "channel 3 of 'k'" in reasons(store(net))


def test_a_weight_that_is_read_elsewhere_stays():
    net = parse("g (float[8,8] x) => (float[8,8] y) { a = MatMul(x, k) y = Add(a, k) }", k=noise(8, 8))
    result = store(net)
    assert not halves(result.model)
    assert "'k' is read in float32 elsewhere, too" in reasons(result)
