"""Networks that 8 bits destroy, their healthy twins, and what the noise is measured to be."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

import graphopt
from graphopt.calibration.amplification import Shadow, measure_noise
from graphopt.errors import ConfigError
from graphopt.ir import from_proto
from graphopt.passes.plan_quantization import PlanQuantization
from graphopt.passes.protect_small_values import ProtectSmallValues, average_db
from graphopt.pipeline import Context
from graphopt.quant import Edge, Range, Scheme, TensorPlan
from graphopt.targets import TARGETS, find_target
from tests.support.rewrite import run

PLAIN = "plan-quantization,calibrate,quantize-weights,insert-qdq"
PROTECTED = "plan-quantization,calibrate,protect-small-values,quantize-weights,insert-qdq"
HEADER = '<ir_version: 8, opset_import: ["" : 13]>\n'
Array = NDArray[np.float32]


def net(body: str, inputs: str, outputs: str, **constants: Array | float) -> onnx.ModelProto:
    """A model of `body` with these initializers."""
    parsed = onnx.parser.parse_model(f"{HEADER}g ({inputs}) => ({outputs}) {{ {body} }}")
    for name, value in constants.items():
        parsed.graph.initializer.append(onnx.numpy_helper.from_array(np.asarray(value, np.float32), name))
    onnx.checker.check_model(parsed)
    return onnx.shape_inference.infer_shapes(parsed, data_prop=True)


def normal(*shape: int, seed: int = 0, scale: float = 1.0) -> Array:
    return (scale * np.random.default_rng(seed).normal(size=shape)).astype(np.float32)


@dataclass(frozen=True)
class Case:
    """A network and 12 samples of its input x."""

    model: onnx.ModelProto
    samples: Array


def spectrum(offset: float) -> Case:
    """A filter bank, its power, the logarithm of that, a convolution: a spectrogram in the model."""
    time = np.arange(64)
    angle = 2 * np.pi * np.outer(np.arange(1, 17), time) / 64
    window = np.hanning(64)
    bank = np.concatenate([np.cos(angle) * window, np.sin(angle) * window])[:, None].astype(np.float32)
    body = """f = Conv<strides=[16]>(x, bank)
        re, im = Split<axis=1>(f)
        re2 = Mul(re, re) im2 = Mul(im, im) power = Add(re2, im2)
        shifted = Add(power, offset) loud = Log(shifted)
        h = Conv(loud, w, b) r = Relu(h) y = Conv(r, v)"""
    constants = {"bank": bank, "offset": offset, "w": normal(8, 16, 1), "b": normal(8, seed=1), "v": normal(4, 8, 1)}
    model = net(body, "float[1,1,256] x", "float[1,4,13] y", **constants)
    rng = np.random.default_rng(3)
    # Tones over noise that is 60 dB softer, as in speech.
    pitch = rng.uniform(0.05, 0.8, (12, 1, 1))
    samples = np.sin(pitch * np.arange(256)) + 1e-3 * rng.normal(size=(12, 1, 256))
    return Case(model, samples.astype(np.float32))


def reciprocal(offset: float) -> Case:
    body = """f = Conv<pads=[1,1,1,1]>(x, w) p = Abs(f) d = Add(p, offset)
        q = Reciprocal(d) y = Conv(q, v)"""
    model = net(
        body, "float[1,4,8,8] x", "float[1,4,8,8] y", w=normal(8, 4, 3, 3), offset=offset, v=normal(4, 8, 1, 1, seed=1)
    )
    return Case(model, normal(12, 4, 8, 8, seed=2))


def quotient(offset: float) -> Case:
    body = """n = Conv(x, w) f = Conv(x, u) p = Abs(f) d = Add(p, offset)
        q = Div(n, d) y = Conv(q, v)"""
    constants = {"w": normal(8, 4, 1, 1), "u": normal(8, 4, 1, 1, seed=1), "v": normal(4, 8, 1, 1, seed=2)}
    model = net(body, "float[1,4,8,8] x", "float[1,4,8,8] y", offset=offset, **constants)
    return Case(model, normal(12, 4, 8, 8, seed=3))


def depthwise(ratio: float) -> Case:
    """Channels of one tensor whose ranges differ by `ratio`, evened out by the depthwise weights behind."""
    scale = np.geomspace(1, 1 / ratio, 8).astype(np.float32)[:, None, None, None]
    body = "f = Conv(x, w) g = Sigmoid(f) h = Mul(f, g) d = Conv<group=8, pads=[1,1,1,1]>(h, k) y = Conv(d, v)"
    constants = {
        "w": normal(8, 4, 1, 1) * scale,
        "k": normal(8, 1, 3, 3, seed=1) / scale,
        "v": normal(4, 8, 1, 1, seed=2),
    }
    model = net(body, "float[1,4,8,8] x", "float[1,4,8,8] y", **constants)
    return Case(model, normal(12, 4, 8, 8, seed=3))


def loudness(decibel: float) -> Case:
    """One sample is so much louder than the others."""
    body = "f = Conv(x, w) r = Relu(f) y = Conv(r, v)"
    model = net(body, "float[1,4,32] x", "float[1,4,32] y", w=normal(8, 4, 1), v=normal(4, 8, 1, seed=1))
    gain = 10 ** (-decibel / 20 * (np.arange(12) > 0))
    return Case(model, (normal(12, 4, 32, seed=2) * gain[:, None, None]).astype(np.float32))


def cancelling(decibel: float) -> Case:
    """A difference of two nearly equal tensors."""
    body = "f = Conv(x, w) g = Conv(x, u) d = Sub(f, g) n = LpNormalization<axis=1>(d) y = Conv(n, v)"
    first = normal(8, 4, 1, 1)
    second = first + normal(8, 4, 1, 1, seed=1, scale=10 ** (-decibel / 20))
    model = net(body, "float[1,4,8,8] x", "float[1,4,8,8] y", w=first, u=second, v=normal(4, 8, 1, 1, seed=2))
    return Case(model, normal(12, 4, 8, 8, seed=3))


def massive(ratio: float) -> Case:
    """Residual blocks; the first one adds a channel that is larger than the others by `ratio`."""
    shrink, grow = np.ones((1, 8, 1, 1), np.float32), np.ones((8, 1, 1, 1), np.float32)
    shrink[0, 3], grow[3] = 1 / ratio, ratio
    body = """s0 = Conv(x, w) a = Conv(s0, a1) b = Relu(a) c = Conv(b, a2) s1 = Add(s0, c)
        d = Conv(s1, b1) e = Relu(d) f = Conv(e, b2) s2 = Add(s1, f) y = Conv(s2, v)"""
    names = {"a1": 1, "a2": 2, "b1": 3, "b2": 4}
    weights = {name: normal(8, 8, 1, 1, seed=seed, scale=0.4) for name, seed in names.items()}
    constants = {
        **weights,
        "w": normal(8, 4, 1, 1, scale=0.5),
        "a2": weights["a2"] * grow,
        "b1": weights["b1"] * shrink,
        "v": normal(4, 8, 1, 1, seed=5) * shrink,
    }
    model = net(body, "float[1,4,8,8] x", "float[1,4,8,8] y", **constants)
    return Case(model, normal(12, 4, 8, 8, seed=6))


# (network, sick, healthy, an operator that must be named)
PAIRS: list[tuple[Callable[[float], Case], float, float, str]] = [
    (spectrum, 1e-7, 300.0, "Log"),
    (reciprocal, 0.03, 3.0, "Reciprocal"),
    (quotient, 0.03, 3.0, "Div"),
    (depthwise, 1000.0, 2.0, "Conv"),
    (loudness, 50.0, 6.0, "8 bits leave"),
    (cancelling, 50.0, -6.0, "Sub"),
    (massive, 500.0, 1.0, "sum of tensors of so different range"),
]


def compile_case(case: Case, target: str, passes: str) -> graphopt.Result:
    return graphopt.optimize(case.model, target=target, passes=passes, calibration_data={"x": case.samples})


def sample_db(case: Case, model: onnx.ModelProto) -> float:
    """Mean over samples of the output's signal-to-noise ratio, its own mean taken out."""
    found: list[float] = []
    for x in case.samples:
        reference, other = (run(m, {"x": x[None]})[0].astype(np.float64) for m in (case.model, model))
        found.append(10 * np.log10(reference.var() / max(np.mean((other - reference) ** 2), 1e-12)))
    return float(np.mean(found))


def turned(result: graphopt.Result) -> list[str]:
    return [r.message for r in result.report.remarks if r.pass_name == "protect-small-values" and r.kind == "declined"]


@pytest.mark.parametrize(("make", "value", "named"), [(m, sick, named) for m, sick, _, named in PAIRS])
@pytest.mark.parametrize("target", TARGETS)
def test_what_8_bits_destroy_stays_float(target: str, make: Callable[[float], Case], value: float, named: str) -> None:
    case = make(value)
    plain, result = (compile_case(case, target, passes) for passes in (PLAIN, PROTECTED))
    before, after = (sample_db(case, r.model) for r in (plain, result))
    assert before < 18
    assert after > max(20, before + 8)
    assert any(named in message for message in turned(result))


@pytest.mark.parametrize(("make", "value"), [(m, healthy) for m, _, healthy, _ in PAIRS])
@pytest.mark.parametrize("target", TARGETS)
def test_a_healthy_twin_keeps_all_its_integers(target: str, make: Callable[[float], Case], value: float) -> None:
    case = make(value)
    plain, result = (compile_case(case, target, passes) for passes in (PLAIN, PROTECTED))
    assert turned(result) == []
    assert result.model.SerializeToString() == plain.model.SerializeToString()


@pytest.mark.parametrize("target", TARGETS)
def test_beside_a_massive_channel_what_reads_ordinary_tensors_stays_in_integers(target: str) -> None:
    case = massive(500.0)
    assert sample_db(case, compile_case(case, target, PLAIN).model) < 10
    result = compile_case(case, target, PROTECTED)
    quantized = {layer.name for layer in result.report.layers if layer.integer and layer.op == "Conv"}
    convolutions = [n.name in quantized for n in result.graph.nodes if n.op == "Conv"]
    # s0 → b1 and s2 → v read the sums; a2 writes the massive channel, which some engines round right there.
    assert convolutions[:2] == [True, True]
    assert convolutions[3] == convolutions[5] is False
    assert sum(convolutions) >= 3


@pytest.mark.parametrize("target", TARGETS)
def test_the_last_layer_stays_in_integers(target: str) -> None:
    result = compile_case(spectrum(1e-7), target, PROTECTED)
    quantized = {layer.name for layer in result.report.layers if layer.integer and layer.op == "Conv"}
    convolutions = [n for n in result.graph.nodes if n.op == "Conv"]
    assert [n.name in quantized for n in convolutions] == [False, True, True]


def test_the_remark_names_the_chain_and_how_much_it_amplifies() -> None:
    (message, *_) = turned(compile_case(spectrum(1e-7), "openvino", PROTECTED))
    assert "Split → Mul → Mul → Add → Add → Log (Log " in message
    assert "amplifies the error of an 8-bit step by" in message
    assert "dB before" in message


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("make", [spectrum, depthwise, reciprocal])
def test_saved_ranges_give_the_same_model(target: str, make: Callable[[float], Case], tmp_path: Path) -> None:
    case = make({spectrum: 1e-7, depthwise: 1000.0}.get(make, 0.03))
    direct = compile_case(case, target, PROTECTED)
    found = graphopt.calibrate(case.model, {"x": case.samples}, target=target, passes=PROTECTED)
    found.save(tmp_path / "ranges.json")
    for ranges in (found, tmp_path / "ranges.json"):
        again = graphopt.optimize(case.model, target=target, passes=PROTECTED, ranges=ranges)
        assert again.model.SerializeToString() == direct.model.SerializeToString()
        assert len(turned(again)) == len(turned(direct)) > 0


def test_what_a_nested_graph_reads_of_a_lost_tensor_turns_back_its_writer() -> None:
    """An integer convolution whose result only an If reads: the If can't be left in float, the convolution can."""
    body = """c = Conv(x, w)
        s = ReduceSum<keepdims=0>(c) t = Mul(s, s) b = Greater(t, s)
        y = If(b) <then_branch = yes () => (float[1,4,8,8] p) { p = Conv(c, v) },
                   else_branch = no () => (float[1,4,8,8] q) { q = Neg(c) }>"""
    model = net(body, "float[1,3,8,8] x", "float[1,4,8,8] y", w=normal(4, 3, 1, 1), v=normal(4, 4, 1, 1, seed=1))
    samples = normal(12, 3, 8, 8)
    samples[0, 0, 0, 0] = 3000.0
    result = graphopt.optimize(
        model, target="onnxruntime", passes=PROTECTED.replace("calibrate", "calibrate{method=minmax}"),
        calibration_data={"x": samples},
    )  # fmt: skip
    assert any(r.op == "Conv" and "8 bits leave" in r.message for r in result.report.remarks)
    assert not any(node.op_type == "QuantizeLinear" for node in result.model.graph.node)


def test_without_samples_it_says_that_it_cannot_tell() -> None:
    case = spectrum(1e-7)
    found = graphopt.calibrate(case.model, {"x": case.samples}, target="openvino", passes=PLAIN)
    result = graphopt.optimize(case.model, target="openvino", passes=PROTECTED, ranges=found)
    assert any("there are no samples" in message for message in turned(result))


def test_it_needs_ranges() -> None:
    graph = from_proto(spectrum(1e-7).model)
    ctx = Context(target=find_target("openvino"))
    PlanQuantization().run(graph, ctx)
    with pytest.raises(ConfigError, match="put 'calibrate' before"):
        ProtectSmallValues().run(graph, ctx)


def test_nothing_planned_is_nothing_to_do() -> None:
    graph = from_proto(spectrum(1e-7).model)
    revision = graph.revision
    ctx = Context(target=find_target("openvino"))
    ProtectSmallValues().run(graph, ctx)
    assert graph.revision == revision
    assert ctx.remarks.items == []


@pytest.mark.parametrize("options", [{"samples": 0}, {"rounds": 0}])
def test_options_are_checked(options: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        ProtectSmallValues(**options)


def test_the_users_nodes_stay_float_when_the_plan_changes() -> None:
    case = spectrum(1e-7)
    last = [n.output[0] for n in case.model.graph.node if n.op_type == "Conv"][-1]
    (name,) = [n.name for n in from_proto(case.model).nodes if n.outputs[0].name == last]
    result = graphopt.optimize(
        case.model, target="openvino", passes=PROTECTED, calibration_data={"x": case.samples}, keep_float=[name]
    )
    assert [layer.integer for layer in result.report.layers if layer.name == name] == [False]


# ---- the measurement, against numpy ---------------------------------------------------------------------------

STEP = 0.1
GRID = TensorPlan("x", Scheme("uint8"), (Edge("n0", 0),), range=Range.of(0, 255 * STEP))


def rounded(x: Array) -> Array:
    return (np.clip(np.rint(x / np.float32(STEP)), 0, 255) * np.float32(STEP)).astype(np.float32)


def measured(ops: list[tuple[str, str, str]], samples: list[Array]) -> dict[str, NDArray[np.float64]]:
    """SNR of each result of a chain of (operator, inputs, output) that reads x on its grid in the first node."""
    nodes = [onnx.helper.make_node(op, ins.split(), [out], f"n{k}") for k, (op, ins, out) in enumerate(ops)]
    infos = [onnx.helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, [None]) for n in ("x", ops[-1][2])]
    graph = onnx.helper.make_graph(nodes, "g", infos[:1], infos[1:])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 13)], ir_version=8)
    shadow = Shadow(tuple(f"n{k}" for k in range(len(ops))), tuple(out for *_, out in ops), ("x",))
    assert GRID.range is not None
    noise = measure_noise(model, [GRID], {"x": GRID.range}, shadow, [{"x": s} for s in samples])
    return {**noise.results, **noise.grids}


def snr(reference: Array, other: Array) -> float:
    signal, error = reference.astype(np.float64), other.astype(np.float64) - reference
    return float(10 * np.log10(signal.var() / np.mean(error**2)))


def test_noise_is_what_numpy_finds() -> None:
    samples = [np.random.default_rng(seed).uniform(0.06, 20, 500).astype(np.float32) for seed in range(3)]
    found = measured([("Log", "x", "a"), ("Exp", "a", "y")], samples)
    assert found["x"] == pytest.approx([snr(x, rounded(x)) for x in samples], abs=0.05)
    assert found["a"] == pytest.approx([snr(np.log(x), np.log(rounded(x))) for x in samples], abs=0.05)
    assert found["y"] == pytest.approx([snr(x, rounded(x)) for x in samples], abs=0.05)


def test_a_constant_or_infinite_sample_has_no_ratio() -> None:
    found = measured([("Log", "x", "y")], [np.full(9, 3, np.float32), np.zeros(9, np.float32)])
    assert np.isnan(found["x"]).all()
    assert np.isnan(found["y"]).all()
    assert np.isnan(average_db(found["y"]))


def test_values_on_the_grid_have_no_noise() -> None:
    on_grid = rounded(np.arange(0, 9, 0.7, np.float32))
    assert measured([("Sqrt", "x", "y")], [on_grid])["y"] == [np.inf]
    assert average_db(np.array([np.inf, 20, np.nan])) == 40


def test_what_a_range_clips_on_purpose_is_no_noise() -> None:
    """Values that a HardSwish makes 0 may lie below the range; rounding is judged on the others."""
    x = np.random.default_rng(0).normal(10, 3, 500).astype(np.float32)
    x[:100] = -40
    nodes = [onnx.helper.make_node("Relu", ["x"], ["y"], "n0")]
    infos = [onnx.helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, [None]) for n in ("x", "y")]
    graph = onnx.helper.make_graph(nodes, "g", infos[:1], infos[1:])
    found: list[float] = []
    for clipped in (frozenset({"x"}), frozenset[str]()):
        model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 13)], ir_version=8)
        assert GRID.range is not None
        shadow = Shadow((), (), ("x",), clipped)
        found.append(float(measure_noise(model, [GRID], {"x": GRID.range}, shadow, [{"x": x}]).grids["x"][0]))
    beyond = x - np.clip(x, 0, np.float32(255 * STEP))
    assert found == pytest.approx([snr(x, rounded(x) + beyond), snr(x, rounded(x))], abs=0.05)
    assert found[0] > 40 > 10 > found[1]
