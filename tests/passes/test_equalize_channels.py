"""Channels are scaled where scales pass, together with what they are tied to; the float function stays."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import numpy_helper

from graphopt.backends.measures import Tally
from graphopt.calibration import input_specs, load_dataset
from graphopt.errors import ConfigError
from graphopt.ir import from_proto, to_proto
from graphopt.passes._trial import trial_sqnr
from graphopt.passes.calibrate import Calibrate
from graphopt.passes.equalize_channels import EqualizeChannels
from graphopt.passes.insert_qdq import InsertQdq
from graphopt.passes.plan_quantization import PlanQuantization
from graphopt.passes.quantize_weights import QuantizeWeights
from graphopt.pipeline import Context, PassManager
from graphopt.quant import Range
from graphopt.targets import find_target
from tests.support.quantization import quantize_model
from tests.support.rewrite import Rewritten, assert_same_outputs, random_feeds, rewrite, run

HEADER = '<ir_version: 8, opset_import: ["" : 17]>\n'


def noise(*shape: int, seed: int = 3) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def uneven(*shape: int, seed: int = 3) -> np.ndarray:
    """Weights whose output channels (axis 0) are of very different sizes."""
    sizes = np.logspace(-1, 1, shape[0]).reshape(-1, *[1] * (len(shape) - 1))
    return (noise(*shape, seed=seed) * np.random.default_rng(seed).permutation(sizes)).astype(np.float32)


def build(text: str, opset: int = 17, **constants: np.ndarray) -> onnx.ModelProto:
    model = onnx.parser.parse_model(HEADER.replace("17", str(opset)) + text)
    model.graph.initializer.extend(numpy_helper.from_array(v, n) for n, v in constants.items())
    return onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True)


def context(model: onnx.ModelProto, target: str | None = "openvino", samples: int = 8) -> Context:
    feeds = [random_feeds(model, seed) for seed in range(samples)]
    return Context(
        target=None if target is None else find_target(target), calibration=load_dataset(feeds, input_specs(model))
    )


def equalized(model: onnx.ModelProto, target: str | None = "openvino") -> Rewritten:
    result = rewrite(EqualizeChannels(), model, context(model, target))
    assert result.ops == [n.op_type for n in model.graph.node]
    assert_same_outputs(model, result.model, rtol=1e-4, atol=1e-4)
    return result


def constant(model: onnx.ModelProto, name: str) -> np.ndarray:
    return numpy_helper.to_array(next(i for i in model.graph.initializer if i.name == name))


def changed(before: onnx.ModelProto, after: onnx.ModelProto) -> set[str]:
    """Initializers of other values, by name; new ones don't count."""
    names = [i.name for i in before.graph.initializer]
    return {name for name in names if not np.array_equal(constant(before, name), constant(after, name))}


def sqnr_db(reference: onnx.ModelProto, model: onnx.ModelProto, target: str) -> float:
    """Of all outputs of `model`, quantized for `target`, on noise that it wasn't calibrated with."""
    tally, quantized = Tally(), quantize_model(model, target, samples=16).after
    for seed in range(100, 120):
        feeds = random_feeds(reference, seed)
        for float_values, values in zip(run(reference, feeds), run(quantized, feeds), strict=True):
            tally.add(float_values, values)
    return tally.sqnr_db


CHAIN = "g (float[1,3,8,8] x) => (float[1,4,8,8] y) {{ a = Conv<pads=[1,1,1,1]>(x, w, b) {} y = Conv(c, v) }}"


def reach(model: onnx.ModelProto, tensor: str) -> np.ndarray:
    """The largest |value| of each channel of a 4-D tensor, on noise."""
    copy = onnx.ModelProto.FromString(model.SerializeToString())
    del copy.graph.output[:]
    copy.graph.output.append(onnx.ValueInfoProto(name=tensor))
    values = np.concatenate([run(copy, random_feeds(model, seed))[0] for seed in range(8)])
    return np.abs(values).max(axis=(0, 2, 3))


def test_the_channels_of_a_tensor_before_a_depthwise_convolution_come_to_one_range() -> None:
    text = """g (float[1,3,8,8] x) => (float[1,4,8,8] y) {
        a = Conv<pads=[1,1,1,1]>(x, w, b) r = Relu(a)
        d = Conv<group=6, pads=[1,1,1,1]>(r, k) s = Relu(d) y = Conv(s, v) }"""
    before = build(text, w=uneven(6, 3, 3, 3), b=uneven(6), k=noise(6, 1, 3, 3), v=noise(4, 6, 1, 1))
    assert np.ptp(np.log2(reach(before, "r"))) > 4
    result = equalized(before)
    # Small channels are little beside the others in noise long before they reach as far.
    assert np.ptp(np.sort(np.log2(reach(result.model, "r")))[1:]) < 2
    assert changed(before, result.model) == {"w", "b", "k", "v"}


def test_before_a_dense_layer_the_weights_behind_hold_channels_back() -> None:
    before = build(CHAIN.format("c = Relu(a)"), w=uneven(6, 3, 3, 3), b=uneven(6), v=noise(4, 6, 1, 1))
    result = equalized(before)
    assert 1 < np.ptp(np.log2(reach(result.model, "c"))) < 0.9 * np.ptp(np.log2(reach(before, "c")))


PASSED = {
    "relu": "c = Relu(a)",
    "leaky relu": "c = LeakyRelu(a)",
    "prelu": "c = PRelu(a, slope)",
    "max pool": "c = MaxPool<kernel_shape=[2,2], pads=[0,0,1,1]>(a)",
    "average pool": "c = AveragePool<kernel_shape=[3,3], pads=[1,1,1,1], count_include_pad=1>(a)",
    "zeros around": "c = Pad(a, edges)",
    "twice transposed": "t = Transpose<perm=[0,2,3,1]>(a) u = Relu(t) c = Transpose<perm=[0,3,1,2]>(u)",
    "identity and dropout": "i = Identity(a) c = Dropout(i)",
    "a constant is added": "p = Add(a, plus) c = Relu(p)",
    "split and joined": "e, f = Split<axis=1>(a, halves) m = Relu(f) c = Concat<axis=1>(m, e)",
    "sliced and joined": "e = Slice(a, one, six, one) f = Slice(a, zero, one, one) c = Concat<axis=1>(e, f)",
    "a product with what isn't scaled": "p = Sigmoid(x) q = ReduceMean<axes=[1]>(p) c = Mul(a, q)",
}
EXTRA = {
    "slope": noise(6, 1, 1, seed=9),
    "edges": np.array([0, 0, 1, 1, 0, 0, 1, 1]),
    "plus": noise(6, 1, 1, seed=5),
    "halves": np.array([2, 4]),
    "zero": np.array([0]),
    "one": np.array([1]),
    "six": np.array([6]),
}


@pytest.mark.parametrize("between", PASSED)
@pytest.mark.parametrize("target", ["onnxruntime", None])
def test_scales_pass(between: str, target: str | None) -> None:
    if "liced" in between:
        body = PASSED[between].replace("one, one)", "one, one, one)").replace("six, one)", "six, one, one)")
    else:
        body = PASSED[between]
    used = {k: v for k, v in EXTRA.items() if k in body}
    text = CHAIN.format(body).replace("=> (float[1,4,8,8] y)", "=> (float[1,4,H,W] y)")
    before = build(text, w=uneven(6, 3, 3, 3), b=uneven(6), v=noise(4, 6, 1, 1), **used)
    result = equalized(before, target)
    assert {"w", "b", "v"} <= changed(before, result.model)
    assert ("plus" in changed(before, result.model)) == ("plus" in body)


PINNED = {
    "Relu6": ("c = Clip(a, none, six)", "isn't an operation that a scale passes through"),
    "Sigmoid": ("c = Sigmoid(a)", "isn't an operation that a scale passes through"),
    "SiLU": ("s = Sigmoid(a) c = Mul(a, s)", "isn't an operation that a scale passes through"),
    "a square": ("c = Mul(a, a)", "combines two activations"),
    "a sum with the input": ("i = Concat<axis=1>(x, x) c = Add(a, i)", "adds what can't be scaled"),
    "padding with ones": ("c = Pad(a, edges, unit)", "doesn't keep the channels apart"),
    "a channel is moved": ("c = Concat<axis=2>(a, a)", "joins another axis"),
}


@pytest.mark.parametrize("between", PINNED)
def test_near_misses_are_declined(between: str) -> None:
    body, reason = PINNED[between]
    constants = {"six": np.float32(6), "none": np.float32(0), "edges": EXTRA["edges"], "unit": np.float32(1)}
    used = {k: np.asarray(v) for k, v in constants.items() if k in body}
    text = CHAIN.format(body).replace("=> (float[1,4,8,8] y)", "=> (float[1,4,H,W] y)")
    before = build(text, w=uneven(6, 3, 3, 3), b=uneven(6), v=noise(4, 6, 1, 1), **used)
    result = equalized(before)
    assert result.revision == 0
    assert any(reason in r for r in result.declined()), result.declined()


def test_graph_outputs_and_nested_readers_keep_their_values() -> None:
    text = CHAIN.format("c = Relu(a)").replace("y)", "y, float[1,6,8,8] c)")
    before = build(text, w=uneven(6, 3, 3, 3), b=uneven(6), v=noise(4, 6, 1, 1))
    result = equalized(before)
    assert result.revision == 0
    assert "'c' is a graph output" in result.declined()


def test_a_weight_that_two_layers_share_stays() -> None:
    text = "g (float[1,6,8,8] x) => (float[1,6,8,8] y) { a = Conv(x, w) c = Relu(a) y = Conv(c, w) }"
    result = equalized(build(text, w=uneven(6, 6, 1, 1)))
    assert result.revision == 0
    assert any("is used elsewhere too" in r for r in result.declined())


def test_a_residual_group_shares_one_scale_a_channel() -> None:
    text = """g (float[1,3,8,8] x) => (float[1,4,8,8] y) { a = Conv<pads=[1,1,1,1]>(x, w, b) r = Relu(a)
        e = Conv<pads=[1,1,1,1]>(r, u) s = Add(r, e) t = Relu(s)
        f = Conv<pads=[1,1,1,1]>(t, v) z = Add(f, t) q = Relu(z) y = Conv(q, o) }"""
    before = build(
        text, w=uneven(6, 3, 3, 3), b=uneven(6), u=uneven(6, 6, 3, 3), v=uneven(6, 6, 3, 3), o=noise(4, 6, 1, 1)
    )
    result = equalized(before)
    assert changed(before, result.model) == {"w", "b", "u", "v", "o"}
    ratio = constant(result.model, "b") / constant(before, "b")
    undone = constant(before, "o") / constant(result.model, "o")
    np.testing.assert_allclose(undone, np.broadcast_to(ratio.reshape(1, -1, 1, 1), undone.shape), rtol=1e-5)


def test_a_flatten_in_front_of_gemm_repeats_the_scale() -> None:
    text = """g (float[1,3,8,8] x) => (float[1,4] y) { a = Conv<pads=[1,1,1,1]>(x, w, b) r = Relu(a)
        p = MaxPool<kernel_shape=[2,2], strides=[2,2]>(r) c = Flatten(p) y = Gemm<transB=1>(c, v, d) }"""
    before = build(text, w=uneven(6, 3, 3, 3), b=uneven(6), v=noise(4, 96), d=noise(4))
    result = equalized(before)
    assert changed(before, result.model) == {"w", "b", "v"}


def test_matmuls_of_a_perceptron_in_the_last_axis() -> None:
    text = """g (float[2,5,8] x) => (float[2,5,4] y) { a = MatMul(x, w) b = Add(a, d) r = Relu(b) y = MatMul(r, v) }"""
    before = build(text, w=uneven(6, 8).T.copy(), d=uneven(6), v=noise(6, 4))
    assert changed(before, equalized(before).model) == {"w", "d", "v"}


def test_a_dead_channel_changes_nothing_for_the_others() -> None:
    w, b = uneven(6, 3, 3, 3), uneven(6)
    w[2], b[2] = 0, 0
    before = build(CHAIN.format("c = Relu(a)"), w=w, b=b, v=noise(4, 6, 1, 1))
    result = equalized(before)
    assert all(np.isfinite(constant(result.model, n)).all() for n in "wbv")
    assert np.abs(constant(result.model, "v")).max() < 300 * np.abs(constant(before, "v")).max()


def test_even_channels_are_left_alone() -> None:
    w = np.tile(noise(1, 3, 3, 3), (6, 1, 1, 1))
    v = np.tile(noise(4, 1, 1, 1), (1, 6, 1, 1))
    result = equalized(build(CHAIN.format("c = Relu(a)"), w=w, b=np.ones(6, np.float32), v=v))
    assert result.revision == 0
    assert any("falls by less than 0.5 dB" in r for r in result.declined())


def test_without_samples_it_declines() -> None:
    before = build(CHAIN.format("c = Relu(a)"), w=uneven(6, 3, 3, 3), b=uneven(6), v=noise(4, 6, 1, 1))
    result = rewrite(EqualizeChannels(), before, Context(target=find_target("openvino")))
    assert result.revision == 0
    assert any("--calibration-data" in r for r in result.declined())


def test_scales_are_kept_with_the_ranges_that_belong_to_them() -> None:
    before = build(CHAIN.format("c = Relu(a)"), w=uneven(6, 3, 3, 3), b=uneven(6), v=noise(4, 6, 1, 1))
    ctx = context(before)
    with_samples = rewrite(EqualizeChannels(), before, ctx)
    assert list(ctx.kept) == ["equalize-channels/a"]
    again = rewrite(EqualizeChannels(), before, Context(target=ctx.target, ranges=ctx.kept))
    assert changed(with_samples.model, again.model) == set()
    assert rewrite(EqualizeChannels(), before, Context(target=ctx.target, ranges={})).revision == 0


def test_ranges_and_what_is_kept_with_them_give_the_same_model_without_samples() -> None:
    before = build(CHAIN.format("c = Relu(a)"), w=uneven(6, 3, 3, 3), b=uneven(6), v=noise(4, 6, 1, 1))

    def compiled(ctx: Context) -> tuple[bytes, dict[str, Range]]:
        graph = from_proto(before)
        PassManager([EqualizeChannels(), PlanQuantization(), Calibrate()]).run(graph, ctx)
        ranges = {e.tensor: e.range for e in graph.plan if e.range is not None}
        PassManager([QuantizeWeights(), InsertQdq()]).run(graph, ctx)
        return to_proto(graph).SerializeToString(), ranges

    ctx = context(before)
    model, ranges = compiled(ctx)
    again, _ = compiled(Context(target=ctx.target, ranges=ranges | ctx.kept))
    assert again == model


def test_a_plan_is_refused() -> None:
    before = build(CHAIN.format("c = Relu(a)"), w=uneven(6, 3, 3, 3), b=uneven(6), v=noise(4, 6, 1, 1))
    graph, ctx = from_proto(before), context(before)
    PlanQuantization().run(graph, ctx)
    with pytest.raises(ConfigError, match="put it before plan-quantization"):
        EqualizeChannels().run(graph, ctx)


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.sampled_from(["dense", "depthwise", "relu", "leaky", "pool", "skip"]), min_size=3, max_size=9),
    st.integers(0, 2**16),
)
def test_random_chains_compute_the_same(steps: list[str], seed: int) -> None:
    body, constants, last = "h0 = Conv(x, w0)\n", {"w0": uneven(5, 3, 1, 1, seed=seed)}, "h0"
    for k, step in enumerate(steps, start=1):
        if step in ("dense", "depthwise"):
            constants[f"w{k}"] = uneven(5, 5 if step == "dense" else 1, 3, 3, seed=seed + k)
        body += {
            "dense": f"h{k} = Conv<pads=[1,1,1,1]>({last}, w{k})",
            "depthwise": f"h{k} = Conv<pads=[1,1,1,1], group=5>({last}, w{k})",
            "relu": f"h{k} = Relu({last})",
            "leaky": f"h{k} = LeakyRelu({last})",
            "pool": f"h{k} = MaxPool<kernel_shape=[3,3], pads=[1,1,1,1]>({last})",
            "skip": f"h{k} = Add({last}, h0)",
        }[step]
        last = f"h{k}"
    constants["v"] = noise(2, 5, 1, 1, seed=seed)
    before = build(f"g (float[1,3,6,6] x) => (float[1,2,6,6] y) {{ {body} y = Conv({last}, v) }}", **constants)
    result = rewrite(EqualizeChannels(least_gain=0.0), before, context(before, "onnxruntime", 2))
    scale = float(np.abs(run(before, random_feeds(before))[0]).max())
    assert_same_outputs(before, result.model, rtol=1e-4, atol=1e-5 * scale)


@pytest.mark.parametrize("target", ["onnxruntime", "openvino", "tensorrt", "tflite"])
def test_a_planted_imbalance_costs_nothing_any_more(target: str) -> None:
    """Two depthwise blocks whose channels were scaled by up to 2^±5, which their neighbours undo."""
    rng = np.random.default_rng(0)
    text = """g (float[1,3,12,12] x) => (float[1,10,1,1] y) {
        a = Conv<pads=[1,1,1,1]>(x, w1, b1) r = Relu(a) d = Conv<group=16, pads=[1,1,1,1]>(r, k1, c1) s = Relu(d)
        e = Conv(s, w2, b2) t = Relu(e) f = Conv<group=16, pads=[1,1,1,1]>(t, k2, c2) u = Relu(f)
        p = GlobalAveragePool(u) y = Conv(p, w3) }"""
    s1, s2 = (2.0 ** rng.uniform(-5, 5, 16) for _ in range(2))
    weights = {
        "w1": noise(16, 3, 3, 3, seed=1) * s1[:, None, None, None], "b1": noise(16, seed=2) * s1,
        "k1": noise(16, 1, 3, 3, seed=3) / s1[:, None, None, None], "c1": noise(16, seed=4),
        "w2": noise(16, 16, 1, 1, seed=5) * s2[:, None, None, None], "b2": noise(16, seed=6) * s2,
        "k2": noise(16, 1, 3, 3, seed=7) / s2[:, None, None, None], "c2": noise(16, seed=8),
        "w3": noise(10, 16, 1, 1, seed=9),
    }  # fmt: skip
    before = build(text, **{name: value.astype(np.float32) for name, value in weights.items()})
    after = rewrite(EqualizeChannels(), before, context(before, target)).model
    assert sqnr_db(before, after, target) > sqnr_db(before, before, target) + 12
    assert sqnr_db(before, after, target) > 25


@pytest.mark.parametrize("pays", [True, False])
def test_scales_that_do_not_pay_are_dropped(pays: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    before = build(CHAIN.format("c = Relu(a)"), w=uneven(6, 3, 3, 3), b=uneven(6), v=noise(4, 6, 1, 1))
    trusted = rewrite(EqualizeChannels(), before, context(before))
    measured = [20.0, 21.0 if pays else 19.0]

    def trial(*_: object) -> float:
        return measured.pop(0)

    monkeypatch.setattr("graphopt.passes.equalize_channels.trial_sqnr", trial)
    ctx = context(before)
    tried = rewrite(EqualizeChannels(trial=2), before, ctx)
    assert changed(trusted.model, tried.model) == (set() if pays else {"w", "b", "v"})
    assert bool(ctx.kept) == pays
    said = [r.message for r in tried.remarks.items]
    assert any(m.startswith(f"20.0 dB without scaled channels and {21 if pays else 19}.0 dB with") for m in said)


def test_the_trial_measures_what_the_int8_preset_would_make() -> None:
    before = build(CHAIN.format("c = Relu(a)"), w=uneven(6, 3, 3, 3), b=uneven(6), v=noise(4, 6, 1, 1))
    ctx = context(before)
    assert ctx.calibration is not None
    graph = from_proto(before)
    found = trial_sqnr(graph, ctx, ctx.calibration)
    assert to_proto(graph) == to_proto(from_proto(before))
    assert not ctx.statistics
    PassManager([PlanQuantization(), Calibrate(), QuantizeWeights(), InsertQdq()]).run(graph, ctx)
    quantized = to_proto(graph)
    pairs = [(run(before, feed)[0], run(quantized, feed)[0]) for feed in ctx.calibration]
    noise_, signal = (
        sum(float(np.sum(np.square(v, dtype=np.float64))) for v in vs)
        for vs in ([a - b for a, b in pairs], [a for a, _ in pairs])
    )
    assert found == pytest.approx(10 * np.log10(signal / noise_), abs=0.2)
