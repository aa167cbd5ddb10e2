"""The error report, against brute force: quantize one layer alone with the pipeline, and compare its result."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import onnx.parser
import onnxruntime as ort
import pytest
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, quantize_static

from graphopt import compare_layers, optimize
from graphopt.backends.layer_errors import ErrorReport, Power, measure_layers
from graphopt.backends.layer_gains import gains, joined
from graphopt.backends.measures import Tally
from graphopt.calibration import input_specs, load_dataset
from graphopt.ir import from_proto, load
from graphopt.passes.plan_quantization import PlanQuantization
from tests.support.quantization import model, quantize_model
from tests.support.rewrite import random_feeds

SAMPLES = 4


@pytest.fixture(scope="module")
def net() -> onnx.ModelProto:
    """A residual block whose second convolution 8 bits destroy: one channel is 3000 times as large as the others."""
    body = """
        a = Conv<kernel_shape=[3,3], pads=[1,1,1,1]>(x, w1)
        ra = Relu(a)
        wide = Conv<kernel_shape=[1,1]>(ra, spread)
        b = Conv<kernel_shape=[1,1]>(wide, w2)
        s = Add(b, ra)
        c = Conv<kernel_shape=[3,3]>(s, w3)
        y = Relu(c)
    """
    shapes = {"w1": (4, 3, 3, 3), "spread": (4, 4, 1, 1), "w2": (4, 4, 1, 1), "w3": (5, 4, 3, 3)}
    net = model(body, "float[1,3,8,8] x", "float[1,5,6,6] y", **shapes)
    scale = np.asarray([3000, 1, 1, 1], np.float32)
    for value in net.graph.initializer:
        if value.name in ("spread", "w2"):
            array = onnx.numpy_helper.to_array(value)
            # The large channel carries no information, but decides the step of the activation.
            array = (
                array * scale.reshape(4, 1, 1, 1) if value.name == "spread" else array / scale.reshape(1, 4, 1, 1) ** 2
            )
            value.CopyFrom(onnx.numpy_helper.from_array(array, value.name))
    for number, node in enumerate(net.graph.node):
        node.name = f"n{number}_{node.op_type}"
    return net


def exposed(net: onnx.ModelProto, *tensors: str) -> list[dict[str, np.ndarray]]:
    """Values of inner tensors on the same samples that everything here uses, without any optimization."""
    copy = onnx.ModelProto.FromString(net.SerializeToString())
    del copy.graph.output[:]
    copy.graph.output.extend(onnx.ValueInfoProto(name=t) for t in tensors)
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(copy.SerializeToString(), options, providers=["CPUExecutionProvider"])
    feeds = [random_feeds(net, seed) for seed in range(SAMPLES)]
    return [dict(zip(tensors, session.run(list(tensors), feed), strict=True)) for feed in feeds]


def sqnr(reference: list[np.ndarray], other: list[np.ndarray]) -> float:
    a, b = (np.concatenate([x.astype(np.float64).ravel() for x in values]) for values in (reference, other))
    return 10 * math.log10(np.sum(a * a) / np.sum((a - b) ** 2))


def report(net: onnx.ModelProto, quantized: onnx.ModelProto, budget: int | None = None) -> ErrorReport:
    samples = load_dataset([random_feeds(net, seed) for seed in range(SAMPLES)], input_specs(net))
    return measure_layers(load(net), load(quantized), samples, memory_budget=budget)


def test_operators_that_move_values_belong_to_the_reading_of_the_next_layer() -> None:
    body = """
        a = Conv<kernel_shape=[1,1]>(x, w1)
        m = MaxPool<kernel_shape=[2,2], strides=[2,2]>(a)
        t = Transpose<perm=[0,1,3,2]>(m)
        y = Conv<kernel_shape=[1,1]>(t, w2)
    """
    net = model(body, "float[1,3,8,8] x", "float[1,5,4,4] y", w1=(4, 3, 1, 1), w2=(5, 4, 1, 1))
    quantized = quantize_model(net, "openvino", SAMPLES).after
    found = {e.tensor: e for e in report(net, quantized).layers}
    assert found.keys() == {"a", "y"}
    # The oracle: that part of the quantized model, on the float model's values.
    part = onnx.utils.Extractor(quantized).extract_model(["a"], ["y"])
    exact = exposed(net, "a", "y")
    session = ort.InferenceSession(part.SerializeToString(), providers=["CPUExecutionProvider"])
    alone = [session.run(None, {"a": v["a"]})[0] for v in exact]
    assert found["y"].isolated_db == pytest.approx(sqnr([v["y"] for v in exact], alone), abs=0.02)


@pytest.mark.parametrize("target", ["onnxruntime", "openvino", "tensorrt"])
def test_isolated_and_accumulated_are_those_of_brute_force(net: onnx.ModelProto, target: str) -> None:
    quantized = quantize_model(net, target, SAMPLES).after
    found = {e.node: e for e in report(net, quantized).layers}
    convolutions = {n.name: n.output[0] for n in net.graph.node if n.op_type == "Conv"}
    assert convolutions.keys() <= found.keys()
    whole, exact = exposed(quantized, *convolutions.values()), exposed(net, *convolutions.values())
    for name, tensor in convolutions.items():
        others = tuple(n.name for n in net.graph.node if n.name != name)
        single = quantize_model(net, target, SAMPLES, PlanQuantization(others)).after
        alone = [values[tensor] for values in exposed(single, tensor)]
        reference = [values[tensor] for values in exact]
        assert found[name].tensor == tensor
        assert found[name].isolated_db == pytest.approx(sqnr(reference, alone), abs=0.02)
        assert found[name].accumulated_db == pytest.approx(sqnr(reference, [v[tensor] for v in whole]), abs=0.02)


@pytest.mark.parametrize("target", ["onnxruntime", "openvino", "tensorrt", "tflite"])
def test_shared_weights_open_sizes_nested_graphs_and_inner_outputs(target: str) -> None:
    """Two layers share their weight, one tensor is read inside an If, another is an output in the middle."""
    text = """
        <ir_version: 8, opset_import: ["" : 13]>
        g (float[N,4,H,W] x, bool flag, float[4,4,3,3] w) => (float[N,4,H,W] y, float[N,4,H,W] middle) {
            a = Conv<pads=[1,1,1,1]>(x, w)
            middle = Relu(a)
            b = Conv<pads=[1,1,1,1]>(middle, w)
            c = If(flag) <
                then_branch = t () => (float[N,4,H,W] t1) { t1 = Relu(b) },
                else_branch = e () => (float[N,4,H,W] e1) { e1 = Conv<pads=[1,1,1,1]>(b, w) }
            >
            y = Conv<pads=[1,1,1,1]>(c, w)
        }
    """
    net = onnx.parser.parse_model(text)
    weight = next(v for v in net.graph.input if v.name == "w")
    net.graph.input.remove(weight)
    values = np.random.default_rng(1).normal(size=(4, 4, 3, 3)).astype(np.float32)
    net.graph.initializer.append(onnx.numpy_helper.from_array(values, "w"))
    for number, node in enumerate(net.graph.node):
        node.name = f"n{number}_{node.op_type}"
    rng = np.random.default_rng(2)
    feeds = [
        {"x": rng.normal(size=(1 + k, 4, 6, 5 + k)).astype(np.float32), "flag": np.asarray(k % 2 == 0)}
        for k in range(3)
    ]
    quantized = optimize(net, target=target, preset="int8", calibration_data=feeds).model
    found = {e.tensor: e for e in compare_layers(net, quantized, feeds).layers}
    assert {"a", "b", "y"} <= found.keys()
    sessions = []
    for proto in (net, quantized):
        copy = onnx.ModelProto.FromString(proto.SerializeToString())
        copy.graph.output.extend(onnx.ValueInfoProto(name=t) for t in ("a", "b"))
        sessions.append(ort.InferenceSession(copy.SerializeToString(), providers=["CPUExecutionProvider"]))
    for tensor in ("a", "b"):
        exact, whole = ([s.run([tensor], feed)[0] for feed in feeds] for s in sessions)
        assert found[tensor].accumulated_db == pytest.approx(sqnr(exact, whole), abs=0.02)
    assert found["a"].isolated_db == pytest.approx(found["a"].accumulated_db, abs=0.01)
    assert found["y"].isolated_db > found["y"].accumulated_db
    assert min(e.isolated_db for e in found.values()) > 25


def test_the_layer_that_8_bits_destroy_is_the_first(net: onnx.ModelProto) -> None:
    found = report(net, quantize_model(net, "onnxruntime", SAMPLES).after)
    worst, second = found.layers[:2]
    assert worst.tensor == "b"
    assert worst.isolated_db < 10 < 25 < second.isolated_db
    assert worst.share > 0.9
    assert found.float_first[0] == worst
    assert [e.isolated_db for e in found.layers] == sorted(e.isolated_db for e in found.layers)
    assert found.unpaired == ()
    # The last layer is fine by itself, and reads what the bad one spoiled.
    last = next(e for e in found.layers if e.tensor == "c")
    assert last.isolated_db > 25 > last.accumulated_db
    assert last.share < 0.2


def test_tensors_are_measured_at_their_own_pair(net: onnx.ModelProto) -> None:
    quantized = quantize_model(net, "onnxruntime", SAMPLES).after
    found = {e.tensor: e for e in report(net, quantized).tensors}
    exact, whole = exposed(net, "ra", "wide"), exposed(quantized, "ra_dequantized", "wide_dequantized")
    for tensor in ("ra", "wide"):
        reference = [v[tensor] for v in exact]
        assert found[tensor].accumulated_db == pytest.approx(
            sqnr(reference, [v[f"{tensor}_dequantized"] for v in whole]), abs=0.02
        )
        # Alone: the pair's own arithmetic on the float values.
        pair = next(n for n in quantized.graph.node if n.op_type == "QuantizeLinear" and n.input[0] == tensor)
        stored = {i.name: onnx.numpy_helper.to_array(i) for i in quantized.graph.initializer}
        scale, zero = stored[pair.input[1]], stored[pair.input[2]].astype(np.float64)
        rounded = [(np.clip(np.rint(x / scale) + zero, 0, 255) - zero) * scale for x in reference]
        assert found[tensor].isolated_db == pytest.approx(sqnr(reference, rounded), abs=0.02)


def test_several_passes_over_the_samples_give_the_same(net: onnx.ModelProto) -> None:
    quantized = quantize_model(net, "onnxruntime", SAMPLES).after
    once, chunked = report(net, quantized), report(net, quantized, budget=20_000)
    assert once.notes == ()
    assert "passes over the samples" in chunked.notes[0]
    assert [e.node for e in chunked.layers] == [e.node for e in once.layers]
    for a, b in zip(once.layers, chunked.layers, strict=True):
        assert b.isolated_db == pytest.approx(a.isolated_db, abs=1e-3)
        assert b.accumulated_db == pytest.approx(a.accumulated_db, abs=1e-3)
        assert b.sensitivity == pytest.approx(a.sensitivity, rel=1e-3)


@pytest.mark.parametrize("form", [QuantFormat.QDQ, QuantFormat.QOperator])
def test_another_tools_model_with_its_own_names(net: onnx.ModelProto, tmp_path: Path, form: QuantFormat) -> None:
    """Relu is left to the grid, outputs and integers have names of their own; or operators compute with integers."""

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self.feeds = iter([random_feeds(net, seed) for seed in range(SAMPLES)])

        def get_next(self) -> dict[str, np.ndarray] | None:
            return next(self.feeds, None)

    onnx.save(net, tmp_path / "net.onnx")
    quantize_static(tmp_path / "net.onnx", tmp_path / "q.onnx", Reader(), quant_format=form)
    samples = load_dataset([random_feeds(net, seed) for seed in range(SAMPLES)], input_specs(net))
    found = compare_layers(net, tmp_path / "q.onnx", list(samples))
    assert {"a", "wide", "b", "c"} <= {e.tensor for e in found.layers}
    assert found.layers[0].tensor == "b"
    assert found.unpaired == ()


def test_what_a_rewrite_changed_is_not_compared(net: onnx.ModelProto) -> None:
    """BatchNormalization folded: the tensor of that name holds other values."""
    body = """
        a = Conv<kernel_shape=[1,1]>(x, w1)
        n = BatchNormalization(a, scale, shift, mean, var)
        b = Conv<kernel_shape=[1,1]>(n, w2)
        y = Relu(b)
    """
    shapes = {"w1": (4, 3, 1, 1), "scale": (4,), "shift": (4,), "mean": (4,), "var": (4,), "w2": (2, 4, 1, 1)}
    given = model(body, "float[1,3,4,4] x", "float[1,2,4,4] y", **shapes)
    for value in given.graph.initializer:
        if value.name in ("var", "scale"):
            values = {"var": [1.0, 1.0, 1.0, 1.0], "scale": [1.0, 1.0, 1.0, 1.0]}[value.name]
            value.CopyFrom(onnx.numpy_helper.from_array(np.asarray(values, np.float32), value.name))
    folded = onnx.ModelProto.FromString(given.SerializeToString())
    del folded.graph.node[1]  # as if the shift had gone into a bias; the weights are the same
    folded.graph.node[1].input[0] = "a"
    found = report(given, quantize_model(folded, "tensorrt", SAMPLES).after)
    assert [u.reason for u in found.unpaired] == ["a rewrite has folded the BatchNormalization behind it"]
    rescaled = onnx.ModelProto.FromString(given.SerializeToString())
    weight = next(i for i in rescaled.graph.initializer if i.name == "w1")
    array = onnx.numpy_helper.to_array(weight) * np.asarray([4, 0.5, 2, 8], np.float32).reshape(4, 1, 1, 1)
    weight.CopyFrom(onnx.numpy_helper.from_array(array, "w1"))
    found = report(given, quantize_model(rescaled, "tensorrt", SAMPLES).after)
    assert [u.reason for u in found.unpaired] == [
        "its weights differ by more than rounding: a rewrite has rescaled them"
    ]


def test_a_float_model_has_nothing_to_compare(net: onnx.ModelProto) -> None:
    found = report(net, net)
    assert (found.layers, found.tensors) == ((), ())
    assert "no layer could be compared" in found.notes[0]


def test_powers_are_those_of_the_careful_tally_where_squares_overflow() -> None:
    rng = np.random.default_rng(0)
    a = rng.normal(size=(3, 5)).astype(np.float32)
    a[0, 0], a[1, 1] = -np.inf, -3.0e38
    b = a.copy()
    b[2] += 0.1
    power = Power()
    power.add(a, b)
    assert power.sqnr_db == pytest.approx(Tally.of(a, b).sqnr_db)
    power.add(a, a[:2])
    assert math.isnan(power.sqnr_db)


def test_gains_of_residual_sums_and_of_differences() -> None:
    net = from_proto(
        model(
            "a = Relu(x) b = Conv<kernel_shape=[1,1]>(a, w) s = Add(a, b) t = Sub(s, z) y = Relu(t)",
            "float[1,2,2,2] x, float[1,2,2,2] z",
            "float[1,2,2,2] y",
            w=(2, 2, 1, 1),
        )
    )
    assert joined(net) == ["a", "b", "s", "z", "t"]
    # Of 100 units of power in s, 20 come through b; t is a hundredth of what it is the difference of.
    found = gains(net, {"a": 80.0, "b": 20.0, "s": 100.0, "z": 99.0, "t": 1.0})
    assert found["t"] == found["y"] == 1.0
    assert found["s"] == pytest.approx(100.0)
    assert found["b"] == pytest.approx(20.0)
    assert found["a"] == pytest.approx(100.0)  # both ways: 80 + 20
