"""Sensitivity against models that really have just one source of error, run whole."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import onnx
import pytest

from graphopt.analysis.precision.regions import find_regions
from graphopt.analysis.precision.types import Grade, Regions
from graphopt.backends.precision_metrics import OutputMetric, Outputs, divergence
from graphopt.backends.precision_sensitivity import measure_sensitivity
from graphopt.calibration import Dataset, input_specs, load_dataset
from graphopt.errors import CalibrationError, ConfigError
from graphopt.ir import Graph, from_proto, to_proto
from graphopt.passes.calibrate import Calibrate
from graphopt.passes.plan_quantization import PlanQuantization, plan_again
from graphopt.pipeline import Context
from graphopt.pipeline.manager import PassManager
from graphopt.quant import dequantize, quantize
from graphopt.quant.block_scales import block_scheme, solve_blocks
from graphopt.targets import find_target
from tests.support.one_source import loss, with_tensor, with_weights
from tests.support.quantization import model, quantize_model
from tests.support.rewrite import random_feeds, run

CHAIN = model(
    """c0 = Conv <pads = [1,1,1,1]> (x, w0, b0)
       r0 = Relu (c0)
       c1 = Conv <pads = [1,1,1,1]> (r0, w1, b1)
       s = Add (c1, r0)
       r1 = Relu (s)
       m = MaxPool <kernel_shape = [2,2], strides = [2,2]> (r1)
       c2 = Conv (m, w2, b2)
       g = GlobalAveragePool (c2)
       f = Flatten (g)
       y = Gemm (f, w3, b3)""",
    "float[N,3,8,8] x",
    "float[N,5] y, float[N,8,8,8] r1",
    w0=(8, 3, 3, 3), b0=(8,), w1=(8, 8, 3, 3), b1=(8,), w2=(6, 8, 1, 1), b2=(6,), w3=(6, 5), b3=(5,),
)  # fmt: skip
SHARED = model(
    """c0 = Conv <pads = [1,1,1,1]> (x, w)
       r0 = Relu (c0)
       c1 = Conv <pads = [1,1,1,1]> (r0, w)
       k = Sigmoid (c1)
       p = Mul (c1, k)
       y = Conv (p, w2)""",
    "float[1,6,5,5] x",
    "float[1,4,5,5] y",
    w=(6, 6, 3, 3), w2=(4, 6, 1, 1),
)  # fmt: skip
NHWC = model(
    """t = Transpose <perm = [0,3,1,2]> (x)
       c = Conv <pads = [1,1,1,1]> (t, w0, b0)
       r = Relu (c)
       u = Transpose <perm = [0,2,3,1]> (r)
       a = ReduceMean <axes = [1,2], keepdims = 0> (u)
       l = MatMul (a, w1)
       d = Add (l, b1)
       y = ArgMax <axis = 1, keepdims = 0> (d)""",
    "float[1,6,6,3] x",
    "int64[1] y",
    w0=(7, 3, 3, 3), b0=(7,), w1=(7, 4), b1=(4,),
)  # fmt: skip
BRANCHING = model(
    """a = Conv <pads = [1,1,1,1]> (x, w0)
       b = Relu (a)
       k = ReduceSum <keepdims = 0> (b)
       zero = Sub (k, k)
       one = Greater (k, zero)
       c = If (one) <
           then_branch = yes () => (float[1,4,5,5] yes_out) { yes_out = Conv (b, w1) },
           else_branch = no () => (float[1,4,5,5] no_out) { no_out = Neg (b) }
       >
       y = Conv (c, w2)""",
    "float[1,3,5,5] x",
    "float[1,5,5,5] y",
    w0=(4, 3, 3, 3), w1=(4, 4, 1, 1), w2=(5, 4, 1, 1),
)  # fmt: skip
SKIPS = model(
    """c0 = Conv <pads = [1,1,1,1]> (x, w0)
       r0 = Relu (c0)
       c1 = Conv <pads = [1,1,1,1]> (r0, w1)
       r1 = LeakyRelu <alpha = 0.1> (c1)
       c2 = Conv <pads = [1,1,1,1]> (r1, w2)
       k2 = HardSigmoid (c2)
       r2 = Mul (c2, k2)
       c3 = Conv <pads = [1,1,1,1]> (r2, w3)
       j1 = Concat <axis = 1> (c3, r1)
       c4 = Conv <pads = [1,1,1,1]> (j1, w4)
       r4 = Relu (c4)
       c5 = Conv <pads = [1,1,1,1]> (r4, w5)
       a5 = Add (c5, r0)
       c6 = Conv <pads = [1,1,1,1]> (a5, w6)
       j2 = Concat <axis = 1> (c6, r0, x)
       y = Conv (j2, w7)
       z = Softmax <axis = 1> (c6)""",
    "float[1,3,6,6] x",
    "float[1,4,6,6] y, float[1,4,6,6] z",
    w0=(4, 3, 3, 3), w1=(4, 4, 3, 3), w2=(4, 4, 3, 3), w3=(4, 4, 3, 3), w4=(4, 8, 3, 3), w5=(4, 4, 3, 3),
    w6=(4, 4, 3, 3), w7=(4, 11, 1, 1),
)  # fmt: skip
NORM = model(
    """a = MatMul (x, w0)
       m = ReduceMean <axes = [-1]> (a)
       d = Sub (a, m)
       two = Constant <value_float = 2.0> ()
       q = Pow (d, two)
       v = ReduceMean <axes = [-1]> (q)
       eps = Constant <value_float = 1e-5> ()
       e = Add (v, eps)
       s = Sqrt (e)
       n = Div (d, s)
       g = Mul (n, w1)
       h = Add (g, b1)
       y = MatMul (h, w2)""",
    "float[1,5,8] x",
    "float[1,5,4] y",
    w0=(8, 16), w1=(16,), b1=(16,), w2=(16, 4),
)  # fmt: skip
for _stored in SKIPS.graph.initializer:
    _values = onnx.numpy_helper.to_array(_stored)
    _stored.CopyFrom(onnx.numpy_helper.from_array(_values / np.float32(_values[0].size ** 0.5), _stored.name))
# A value near the middle between two steps falls to either side with the last bits of float32.
NEAR = 0.02
NETWORKS = {
    "chain": (CHAIN, (0, 1)),
    "shared": (SHARED, (0,)),
    "branching": (BRANCHING, (0,)),
    "skips": (SKIPS, (0, 1)),
    "norm": (NORM, (0,)),
}


def prepared(source: onnx.ModelProto, target: str, count: int = 3) -> tuple[Graph, Regions, Dataset]:
    """The float graph with its all-8-bit plan, its regions in that target, and the samples."""
    feeds = [random_feeds(source, seed) for seed in range(count)]
    graph = from_proto(source)
    ctx = Context(target=find_target(target), calibration=load_dataset(feeds, input_specs(source)))
    PassManager([PlanQuantization(), Calibrate()]).run(graph, ctx)
    assert ctx.target is not None
    assert ctx.calibration is not None
    return graph, find_regions(graph, ctx.target), ctx.calibration


@pytest.mark.parametrize("target", ["onnxruntime", "openvino", "tensorrt"])
@pytest.mark.parametrize("name", NETWORKS)
def test_output_equals_full_runs_of_models_with_one_source(name: str, target: str) -> None:
    source, outputs = NETWORKS[name]
    graph, regions, samples = prepared(source, target)
    found = measure_sensitivity(graph, regions, samples, grade="output")
    before, feeds = to_proto(graph), list(samples)
    compared = 0
    for region, precision in found.weights:
        if precision not in ("int8", "float16"):
            continue
        expected = loss(before, with_weights(before, graph.plan, regions, region, precision), feeds, outputs)
        assert found.weights[region, precision] == pytest.approx(expected, rel=NEAR, abs=1e-12), (region, precision)
        compared += 1
    for tensor, form in found.tensors:
        if form == "int8" and tensor not in graph.plan.tensors:
            continue
        expected = loss(before, with_tensor(before, graph.plan, tensor, form), feeds, outputs)
        assert found.tensors[tensor, form] == pytest.approx(expected, rel=NEAR, abs=1e-12), (tensor, form)
        compared += 1
    assert compared >= 4
    assert found.samples == len(feeds)


@pytest.mark.parametrize("name", NETWORKS)
def test_local_is_of_the_size_of_what_reaches_the_outputs(name: str) -> None:
    """To first order: all sources together within 3 dB, and each of them within 12 of what it really does."""
    graph, regions, samples = prepared(NETWORKS[name][0], "onnxruntime", 12)
    local = measure_sensitivity(graph, regions, samples, grade="local")
    output = measure_sensitivity(graph, regions, samples, grade="output")
    assert local.weights.keys() == output.weights.keys()
    assert local.tensors.keys() == output.tensors.keys()
    pairs = [(local.weights[k], output.weights[k]) for k in output.weights if k[1] == "int8"]
    pairs += [(local.tensors[k], output.tensors[k]) for k in output.tensors if k[1] == "int8"]
    assert all(abs(10 * math.log10(a / b)) < 12 for a, b in pairs if b > 1e-10)
    total = sum(a for a, _ in pairs) / sum(b for _, b in pairs)
    assert abs(10 * math.log10(total)) < 3


def test_losses_add_up() -> None:
    """What the quantized model has lost is about the sum of what each source loses alone."""
    graph, regions, samples = prepared(CHAIN, "onnxruntime", 12)
    before = to_proto(graph)
    quantized = quantize_model(CHAIN, "onnxruntime", 12)
    real = loss(before, quantized.after, list(samples), (0, 1))
    for grade in ("local", "output"):
        found = measure_sensitivity(graph, regions, samples, grade=grade)
        total = sum(v for (_, p), v in found.weights.items() if p == "int8")
        total += sum(v for (_, form), v in found.tensors.items() if form == "int8")
        assert abs(10 * math.log10(total / real)) < 2, grade


def test_an_output_of_integers_is_measured_at_the_floats_before_it() -> None:
    graph, regions, samples = prepared(NHWC, "onnxruntime")
    found = measure_sensitivity(graph, regions, samples, grade="output")
    floats = onnx.ModelProto.FromString(to_proto(graph).SerializeToString())
    del floats.graph.output[:]
    floats.graph.output.append(onnx.helper.make_tensor_value_info("d", onnx.TensorProto.FLOAT, None))
    key = next(key for key in found.weights if key[0] == "c_Conv" and key[1] == "int8")
    expected = loss(floats, with_weights(floats, graph.plan, regions, *key), list(samples), (0,))
    assert found.weights[key] == pytest.approx(expected, rel=NEAR)


def test_grade_weights_needs_no_samples() -> None:
    graph, regions, _ = prepared(CHAIN, "onnxruntime")
    found = measure_sensitivity(graph, regions, None, grade="weights")
    measured = measure_sensitivity(graph, regions, prepared(CHAIN, "onnxruntime")[2], grade="output")
    assert found.samples == 0
    assert found.weights.keys() == measured.weights.keys()
    assert found.tensors.keys() == measured.tensors.keys()
    assert all(0 < v < 0.1 for v in (*found.weights.values(), *found.tensors.values()))


def test_a_small_budget_changes_nothing_but_how_often_samples_are_run() -> None:
    graph, regions, samples = prepared(CHAIN, "openvino", 4)
    for grade in ("local", "output"):
        whole = measure_sensitivity(graph, regions, samples, grade=grade)
        parts = measure_sensitivity(graph, regions, samples, grade=grade, memory_budget=1)
        assert parts.weights == pytest.approx(whole.weights, rel=1e-3)
        assert parts.tensors == pytest.approx(whole.tensors, rel=1e-3)


def test_metrics() -> None:
    """KL of logits, cosine and a function, each against numpy on whole runs."""
    graph, regions, samples = prepared(SHARED, "onnxruntime")
    before, feeds = to_proto(graph), list(samples)
    other = with_weights(before, graph.plan, regions, "c1_Conv", "int8")
    runs = [(run(before, feed)[0].astype(np.float64), run(other, feed)[0].astype(np.float64)) for feed in feeds]

    def kl(a: np.ndarray, b: np.ndarray) -> float:
        p, q = (np.exp(v) / np.exp(v).sum(1, keepdims=True) for v in (a, b))
        return float((p * np.log(p / q)).sum(1).mean())

    expected = {
        "kl": np.mean([kl(a, b) for a, b in runs]),
        "cosine": np.mean([1 - (a * b).sum() / np.sqrt((a * a).sum() * (b * b).sum()) for a, b in runs]),
        "largest": np.mean([np.abs(a - b).max() for a, b in runs]),
    }

    def largest(a: Outputs, b: Outputs) -> float:
        return float(np.abs(a["y"] - b["y"]).max())

    metrics: dict[str, OutputMetric] = {"kl": "kl", "cosine": "cosine", "largest": largest}
    for name, metric in metrics.items():
        found = measure_sensitivity(graph, regions, samples, grade="output", metric=metric)
        assert found.weights["c1_Conv", "int8"] == pytest.approx(expected[name], rel=NEAR), name


def test_kl_takes_probabilities_as_they_are() -> None:
    a, b = np.array([[0.5, 0.25, 0.25]]), np.array([[0.25, 0.5, 0.25]])
    assert divergence(a, b) == pytest.approx(0.5 * math.log(2) - 0.25 * math.log(2))


@pytest.mark.parametrize("grade", ["local", "output"])
def test_samples_that_are_not_finite_are_refused(grade: Grade) -> None:
    graph, regions, _ = prepared(CHAIN, "onnxruntime")
    feed = random_feeds(CHAIN)
    feed["x"][0, 0, 0, 0] = np.nan
    samples = Dataset(lambda: iter([feed]), name="bad.npz", count=1)
    with pytest.raises(CalibrationError, match=r"bad.npz, sample 0: input 'x' holds NaN or infinity"):
        measure_sensitivity(graph, regions, samples, grade=grade)


def test_what_a_grade_needs_is_said() -> None:
    graph, regions, samples = prepared(CHAIN, "onnxruntime")
    with pytest.raises(ConfigError, match="needs samples"):
        measure_sensitivity(graph, regions, None, grade="local")
    with pytest.raises(ConfigError, match="has no metric"):
        measure_sensitivity(graph, regions, samples, grade="local", metric="kl")
    graph.plan.tensors["x"] = replace(graph.plan.tensors["x"], range=None)
    with pytest.raises(ConfigError, match="ranges are missing"):
        measure_sensitivity(graph, regions, samples, grade="local")


def test_float16_that_overflows_is_forbidden_with_the_reason() -> None:
    graph, regions, samples = prepared(CHAIN, "tensorrt")
    big = [{"x": feed["x"] * 1e5} for feed in samples]
    found = measure_sensitivity(graph, regions, load_dataset(big, input_specs(CHAIN)), grade="local")
    assert "'x' reaches" in found.forbidden["c0_Conv", "float16"]
    assert ("c0_Conv", "bfloat16") not in found.forbidden


def test_8_bits_that_are_not_planned_are_forbidden() -> None:
    graph, regions, samples = prepared(CHAIN, "onnxruntime")
    plan_again(graph, find_target("onnxruntime"), {"c2_Conv": "8 bits would ruin it"})
    found = measure_sensitivity(graph, regions, samples, grade="local")
    assert found.forbidden["c2_Conv", "int8"] == "8 bits would ruin it"
    assert ("c2_Conv", "int8") not in found.weights


def test_int16_loses_little() -> None:
    graph, regions, samples = prepared(SHARED, "tflite")
    wide = Regions(
        tuple(
            replace(r, precisions=("float32", "int8", "int16x8", "float16-weights"))
            if r.weights
            else replace(r, precisions=("float32", "int8", "int16x8"))
            for r in regions.regions
        ),
        regions.borders,
    )
    for grade in ("weights", "local", "output"):
        found = measure_sensitivity(graph, wide, samples, grade=grade)
        for tensor, form in found.tensors:
            if form == "int16":
                assert found.tensors[tensor, "int16"] < found.tensors[tensor, "int8"] / 100, (grade, tensor)
        assert any(form == "int16" for _, form in found.tensors)
        assert found.weights["c0_Conv", "int16x8"] == pytest.approx(found.weights["c0_Conv", "int8"], rel=1e-3)
        assert found.weights["c0_Conv", "float16-weights"] < found.weights["c0_Conv", "int8"] / 100


def test_4_bit_weights_lose_what_blocks_of_them_lose() -> None:
    graph, regions, samples = prepared(CHAIN, "openvino")
    region = next(r for r in regions.regions if r.op == "Gemm")
    only = Regions((replace(region, precisions=("float32", "int4-weights")),), ())
    found = measure_sensitivity(graph, only, samples, grade="output")
    before = to_proto(graph)
    other = onnx.ModelProto.FromString(before.SerializeToString())
    stored = next(t for t in other.graph.initializer if t.name == region.weights[0])
    params = solve_blocks(onnx.numpy_helper.to_array(stored), block_scheme(0, 32))
    values = dequantize(quantize(onnx.numpy_helper.to_array(stored), params), params)
    stored.CopyFrom(onnx.numpy_helper.from_array(values, stored.name))
    expected = loss(before, other, list(samples), (0, 1))
    assert found.weights[region.name, "int4-weights"] == pytest.approx(expected, rel=NEAR)
    assert found.weights.keys() == {(region.name, "int4-weights")}
