"""optimize-weight-scales and round-adaptively."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from graphopt.calibration import input_specs, load_dataset
from graphopt.calibration.session import open_session
from graphopt.ir import Graph, from_proto, to_proto
from graphopt.passes.calibrate import Calibrate
from graphopt.passes.correct_bias import CorrectBias
from graphopt.passes.insert_qdq import InsertQdq
from graphopt.passes.optimize_weight_scales import OptimizeWeightScales
from graphopt.passes.plan_quantization import PlanQuantization
from graphopt.passes.quantize_weights import QuantizeWeights
from graphopt.passes.round_adaptively import RoundAdaptively
from graphopt.pipeline import Context, Pass, PassManager
from graphopt.quant import quantize, solve_params
from graphopt.targets import TARGETS, find_target
from tests.support.quantization import model
from tests.support.rewrite import run

NET = """
    a = Conv<pads=[1,1,1,1]>(x, w, b)
    r = Relu(a)
    d = Conv<group=8, pads=[1,1,1,1]>(r, v, c)
    s = Relu(d)
    t = ConvTranspose<group=2, strides=[2,2]>(s, u)
    p = GlobalAveragePool(t)
    f = Flatten(p)
    y = Gemm<transB=1>(f, k, g)
"""
SHAPES = {"w": (8, 4, 3, 3), "b": (8,), "v": (8, 1, 3, 3), "c": (8,), "u": (8, 3, 2, 2), "k": (5, 6), "g": (5,)}
SOURCE = model(NET, "float[1,4,8,8] x", "float[1,5] y", seed=2, **SHAPES)


def feeds(count: int, seed: int = 0) -> list[dict[str, np.ndarray]]:
    """Inputs whose channels and neighbours depend on each other, as those of real layers do."""
    rng = np.random.default_rng(seed)
    mixing = np.random.default_rng(7).normal(size=(4, 2))
    base = rng.normal(size=(count, 2, 8, 8)).cumsum(axis=3)
    mixed = np.einsum("ck,nkhw->nchw", mixing, base) + 0.1 * rng.normal(size=(count, 4, 8, 8))
    return [{"x": x[None].astype(np.float32)} for x in mixed]


def planned(source: onnx.ModelProto, target: str, samples: int | None = 48) -> tuple[Graph, Context]:
    graph = from_proto(source)
    data = load_dataset(feeds(samples or 8), input_specs(source))
    ctx = Context(target=find_target(target), calibration=data)
    PassManager([PlanQuantization(), Calibrate(method="minmax")]).run(graph, ctx)
    if samples is None:
        ctx.calibration = None
    return graph, ctx


def compiled(source: onnx.ModelProto, target: str, *passes: Pass) -> tuple[onnx.ModelProto, Context]:
    graph, ctx = planned(source, target)
    PassManager([*passes, QuantizeWeights(), InsertQdq()]).run(graph, ctx)
    return to_proto(graph), ctx


def sqnr(before: onnx.ModelProto, after: onnx.ModelProto, output: int = 0) -> float:
    """Of the outputs for other samples than those that passes saw, in dB."""
    signal = noise = 0.0
    sessions = [open_session(proto, optimize=False) for proto in (before, after)]
    for feed in feeds(64, seed=1):
        wanted, found = (session.run(None, feed)[output].astype(np.float64) for session in sessions)
        signal, noise = signal + float((wanted**2).sum()), noise + float(((wanted - found) ** 2).sum())
    return 10 * float(np.log10(signal / noise))


def integers(proto: onnx.ModelProto, name: str) -> np.ndarray:
    return numpy_helper.to_array(next(t for t in proto.graph.initializer if t.name == f"{name}_quantized"))


def messages(ctx: Context, kind: str) -> list[str]:
    return [r.message for r in ctx.remarks.items if r.kind == kind]


@pytest.mark.parametrize("target", sorted(TARGETS))
def test_a_small_net_is_better_on_samples_that_nobody_has_seen(target: str) -> None:
    plain = sqnr(SOURCE, compiled(SOURCE, target, CorrectBias())[0])
    assert sqnr(SOURCE, compiled(SOURCE, target, RoundAdaptively(), CorrectBias())[0]) > plain
    assert sqnr(SOURCE, compiled(SOURCE, target, RoundAdaptively(centred=False))[0]) > plain - 1


@pytest.mark.parametrize("layer", ["Conv<pads=[1,1,1,1]>(x, w)", "Conv<group=2, dilations=[2,2]>(x, w)"])
def test_the_weights_own_error_gets_smaller(layer: str) -> None:
    shape = (8, 2 if "group" in layer else 4, 3, 3)
    source = model(f"y = {layer}", "float[1,4,8,8] x", "float[1,8,a,b] y", w=shape)
    errors: list[float] = []
    for rounding in ([], [RoundAdaptively(asymmetric=False, centred=False)]):
        graph, ctx = planned(source, "openvino")
        PassManager([*rounding, QuantizeWeights()]).run(graph, ctx)
        graph.plan.clear()
        errors.append(sqnr(source, to_proto(graph)))
    assert errors[1] > errors[0] + 1


@pytest.mark.parametrize("target", sorted(TARGETS))
def test_quantize_weights_stores_what_was_chosen(target: str) -> None:
    graph, ctx = planned(SOURCE, target)
    PassManager([OptimizeWeightScales(), RoundAdaptively()]).run(graph, ctx)
    applied = {r.node for r in ctx.remarks.items if r.pass_name == "round-adaptively" and r.kind == "applied"}
    chosen = {e.tensor: e for e in graph.plan if e.reason == "weight" and e.edges[0].node in applied}
    assert len(chosen) >= 2
    values = {c.name: c.values.copy() for c in graph.constants}
    PassManager([QuantizeWeights()]).run(graph, ctx)
    stored = {c.name: c.values for c in graph.constants}
    for name, entry in chosen.items():
        assert entry.range is not None
        params = solve_params(entry.range, entry.scheme)
        np.testing.assert_array_equal(stored[f"{name}_scale"], params.scale)
        np.testing.assert_array_equal(stored[f"{name}_quantized"], quantize(values[name], params))
        shape = [1] * values[name].ndim
        if entry.scheme.channel_axis is not None:
            shape[entry.scheme.channel_axis] = -1
        exact = stored[f"{name}_quantized"].astype(np.float32) * params.scale.reshape(shape)
        np.testing.assert_array_equal(exact, values[name], "multiples of the scale, to the last bit")
    assert not any("coarser" in text for text in messages(ctx, "note"))


@pytest.mark.parametrize("passes", [(OptimizeWeightScales(),), (OptimizeWeightScales(), RoundAdaptively())])
def test_same_bytes(passes: Sequence[Pass]) -> None:
    first, second = (compiled(SOURCE, "onnxruntime", *passes)[0].SerializeToString() for _ in range(2))
    assert first == second


def test_the_rounding_is_next_to_the_weight_when_nothing_before_it_errs() -> None:
    graph, ctx = planned(SOURCE, "onnxruntime")
    before = {c.name: c.values.copy() for c in graph.constants}
    PassManager([RoundAdaptively(asymmetric=False)]).run(graph, ctx)
    after = {c.name: c.values for c in graph.constants}
    for entry in graph.plan:
        if entry.reason == "weight" and entry.scheme.channel_axis == 0:
            assert entry.range is not None
            step = solve_params(entry.range, entry.scheme).scale.reshape(-1, *[1] * (before[entry.tensor].ndim - 1))
            assert (np.abs(after[entry.tensor] - before[entry.tensor]) <= 1.001 * step).all()


def test_without_samples_scales_are_chosen_and_rounding_declines() -> None:
    graph, ctx = planned(SOURCE, "openvino", samples=None)
    wide = {e.tensor: e.range for e in graph.plan}  # a range that a pass sets is another object
    PassManager([OptimizeWeightScales(), RoundAdaptively()]).run(graph, ctx)
    assert any("no samples" in text for text in messages(ctx, "declined"))
    changed = [e for e in graph.plan if e.range is not wide[e.tensor]]
    assert [e.reason for e in changed] == ["weight"] * 3  # a ConvTranspose with groups stays float in OpenVINO
    for entry in changed:
        weight = next(c for c in graph.constants if c.name == entry.tensor).values
        errors: list[float] = []
        for value_range in (entry.range, wide[entry.tensor]):
            assert value_range is not None
            params = solve_params(value_range, entry.scheme)
            shape = [1] * weight.ndim
            shape[entry.scheme.channel_axis or 0] = -1
            scale = params.scale.reshape(shape)
            errors.append(float(((quantize(weight, params) * scale - weight) ** 2).sum()))
        assert errors[0] < errors[1]


def test_scales_leave_room_for_an_integer_bias() -> None:
    graph, ctx = planned(SOURCE, "onnxruntime")
    huge = next(c for c in graph.constants if c.name == "g")
    graph.set_values(huge, huge.values * np.float32(1e9))
    PassManager([OptimizeWeightScales()]).run(graph, ctx)
    PassManager([QuantizeWeights()]).run(graph, ctx)
    assert not any("coarser" in text for text in messages(ctx, "note")), "they had room already"
    scales = next(c for c in graph.constants if c.name == "k_scale").values
    data = graph.plan.solved_ranges()[next(n for n in graph.nodes if n.op == "Gemm").inputs[0].name]
    data_scale = float(solve_params(data, find_target("onnxruntime").activation).scale)
    assert (np.abs(huge.values) <= scales * data_scale * 2.0**30 * (1 + 1e-6)).all()


SHARED = """
    a = Conv(x, w)
    r = Relu(a)
    m = Conv(r, v)
    n = Relu(m)
    y = Conv(n, v)
"""


def test_a_weight_that_two_layers_share_keeps_its_rounding() -> None:
    source = model(SHARED, "float[1,4,8,8] x", "float[1,6,8,8] y", w=(6, 4, 1, 1), v=(6, 6, 1, 1))
    plain, _ = compiled(source, "openvino")
    rounded, ctx = compiled(source, "openvino", RoundAdaptively())
    assert any("read by other layers" in text for text in messages(ctx, "declined"))
    np.testing.assert_array_equal(integers(rounded, "v"), integers(plain, "v"))
    assert not np.array_equal(integers(rounded, "w"), integers(plain, "w"))


def test_float_readers_keep_the_float_values() -> None:
    source = model(
        "a = Conv(x, w)\n z = Mul(w, two)",
        "float[1,4,8,8] x, float[1] two",
        "float[1,6,8,8] a, float[6,4,1,1] z",
        w=(6, 4, 1, 1),
    )
    graph = from_proto(source)
    samples = [{**feed, "two": np.full(1, 2, np.float32)} for feed in feeds(32)]
    ctx = Context(target=find_target("onnxruntime"), calibration=load_dataset(samples, input_specs(source)))
    passes = [
        PlanQuantization(),
        Calibrate(),
        OptimizeWeightScales(),
        RoundAdaptively(),
        QuantizeWeights(),
        InsertQdq(),
    ]
    PassManager(passes).run(graph, ctx)
    assert any(r.kind == "applied" and r.pass_name == "round-adaptively" for r in ctx.remarks.items)
    feed = samples[0]
    np.testing.assert_array_equal(run(to_proto(graph), feed)[1], run(source, feed)[1])


def test_one_sample_is_enough_to_run() -> None:
    graph = from_proto(SOURCE)
    ctx = Context(target=find_target("openvino"), calibration=load_dataset(feeds(1), input_specs(SOURCE)))
    PassManager([PlanQuantization(), Calibrate(), OptimizeWeightScales(), RoundAdaptively()]).run(graph, ctx)
    PassManager([QuantizeWeights(), InsertQdq()]).run(graph, ctx)
    plain = from_proto(SOURCE)
    ctx = Context(target=find_target("openvino"), calibration=load_dataset(feeds(1), input_specs(SOURCE)))
    PassManager([PlanQuantization(), Calibrate(), QuantizeWeights(), InsertQdq()]).run(plain, ctx)
    assert sqnr(SOURCE, to_proto(graph)) > sqnr(SOURCE, to_proto(plain)) - 1


def test_matmul_of_tokens_without_a_bias() -> None:
    source = model(
        "h = MatMul(x, w)\n r = Relu(h)\n y = MatMul(r, v)",
        "float[1,4,8,8] x",
        "float[1,4,8,6] y",
        w=(8, 16),
        v=(16, 6),
    )
    plain = sqnr(source, compiled(source, "openvino")[0])
    assert sqnr(source, compiled(source, "openvino", RoundAdaptively())[0]) > plain
