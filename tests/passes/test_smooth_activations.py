"""Outlier channels behind a normalisation move into the weights; the float function stays."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from graphopt.passes.equalize_channels import EqualizeChannels
from graphopt.passes.smooth_activations import SmoothActivations
from graphopt.pipeline import Context
from graphopt.targets import find_target
from tests.passes.test_equalize_channels import build, changed, constant, context, noise, sqnr_db
from tests.support.rewrite import Rewritten, assert_same_outputs, rewrite

OUTLIERS = np.array([1, 1, 40, 1, 1, 1, 25, 1], np.float32)
GAMMA = OUTLIERS * np.abs(noise(8, seed=11)) + 0.5
WHOLE = "n = LayerNormalization<axis=-1>(x, gamma, beta)"
DECOMPOSED = """m = ReduceMean<axes=[-1]>(x) d = Sub(x, m) q = Mul(d, d) e = ReduceMean<axes=[-1]>(q) f = Add(e, eps)
    r = Sqrt(f) h = Div(d, r) g = Mul(h, gamma) n = Add(g, beta)"""
NORMS = {"whole": WHOLE, "decomposed": DECOMPOSED}


def attention(norm: str, rest: str = "", outputs: str = "float[2,5,6] y, float[2,5,6] z") -> onnx.ModelProto:
    """One normalisation, two products that read it."""
    text = f"g (float[2,5,8] x) => ({outputs}) {{ {norm} k = MatMul(n, w) y = Add(k, c) z = MatMul(n, v) {rest} }}"
    eps = {"eps": np.float32(1e-5).reshape(())} if "eps" in norm else {}
    w, v = (noise(8, 6, seed=s) / OUTLIERS[:, None] ** 0.5 for s in (1, 2))
    return build(text, gamma=GAMMA, beta=noise(8, seed=12), w=w, v=v, c=noise(6, seed=13), **eps)


def smoothed(model: onnx.ModelProto, pass_: SmoothActivations | None = None) -> Rewritten:
    result = rewrite(pass_ or SmoothActivations(), model, context(model))
    assert_same_outputs(model, result.model, rtol=1e-4, atol=1e-4)
    return result


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("alpha", [None, 0.5])
def test_gamma_beta_and_every_weight_behind_take_the_scale(norm: str, alpha: float | None) -> None:
    before = attention(NORMS[norm])
    result = smoothed(before, SmoothActivations(alpha=alpha))
    assert changed(before, result.model) == {"gamma", "beta", "w", "v"}
    ratio = constant(before, "gamma") / constant(result.model, "gamma")
    assert np.argsort(ratio)[-2:].tolist() in ([2, 6], [6, 2])
    for weight in "wv":
        undone = constant(result.model, weight) / constant(before, weight)
        np.testing.assert_allclose(undone, np.broadcast_to(ratio[:, None], (8, 6)), rtol=1e-5)


@pytest.mark.parametrize("alpha", [0.0, 0.4, 1.0])
def test_alpha_is_that_of_the_paper(alpha: float) -> None:
    before = attention(WHOLE)
    result = smoothed(before, SmoothActivations(alpha=alpha, least_gain=-1000.0))
    feeds = list(context(before).calibration or [])
    normalised = np.concatenate([f["x"] for f in feeds])
    normalised = (normalised - normalised.mean(-1, keepdims=True)) / normalised.std(-1, keepdims=True)
    largest = np.abs(normalised * constant(before, "gamma") + constant(before, "beta")).max(axis=(0, 1))
    weight = np.maximum(np.abs(constant(before, "w")).max(axis=1), np.abs(constant(before, "v")).max(axis=1))
    expected = largest**alpha / weight ** (1 - alpha)
    ratio = constant(before, "gamma") / constant(result.model, "gamma")
    # Up to one factor for all, and steps of 1/64 octave.
    np.testing.assert_allclose(ratio / ratio[0], expected / expected[0], rtol=0.02)


@pytest.mark.parametrize("target", ["onnxruntime", "openvino", "tensorrt", "tflite"])
def test_planted_outliers_cost_nothing_any_more(target: str) -> None:
    before = attention(WHOLE, outputs="float[2,5,6] y, float[2,5,6] z")
    free = rewrite(SmoothActivations(), before, context(before, target)).model
    formula = rewrite(SmoothActivations(alpha=0.5), before, context(before, target)).model
    plain = sqnr_db(before, before, target)
    assert sqnr_db(before, free, target) > plain + 5
    # How 96 weights happen to be rounded is worth 1 dB.
    assert sqnr_db(before, free, target) > sqnr_db(before, formula, target) - 2


def test_a_reader_that_cannot_be_scaled_is_declined() -> None:
    before = attention(WHOLE, "s = Add(n, x) u = Relu(s)", "float[2,5,6] y, float[2,5,6] z, float[2,5,8] u")
    result = smoothed(before)
    assert result.revision == 0
    assert any("adds what can't be scaled" in r for r in result.declined())


def test_a_graph_output_is_declined() -> None:
    result = smoothed(attention(WHOLE, outputs="float[2,5,6] y, float[2,5,6] z, float[2,5,8] n"))
    assert result.revision == 0
    assert "'n' is a graph output" in result.declined()


def test_a_gamma_that_two_normalisations_share_is_copied() -> None:
    second = "o = LayerNormalization<axis=-1>(x, gamma, beta) p = MatMul(o, w2)"
    text = f"g (float[2,5,8] x) => (float[2,5,6] y, float[2,5,6] p) {{ {WHOLE} y = MatMul(n, w) {second} }}"
    before = build(text, gamma=GAMMA, beta=noise(8), w=noise(8, 6, seed=1), w2=noise(8, 6, seed=2) * OUTLIERS[:, None])
    result = smoothed(before)
    gammas = {n.input[1] for n in result.model.graph.node if n.op_type == "LayerNormalization"}
    assert len(gammas) == 2


def test_normalisation_over_two_axes_has_no_scale_per_channel() -> None:
    text = """g (float[2,5,8] x) => (float[2,5,6] y) {
        n = LayerNormalization<axis=-2>(x, gamma, beta) y = MatMul(n, w) }"""
    assert smoothed(build(text, gamma=noise(5, 8), beta=noise(5, 8), w=noise(8, 6))).revision == 0


def test_a_scale_that_passes_a_nonlinear_operation_only_through_relu() -> None:
    text = "g (float[2,5,8] x) => (float[2,5,6] y) {{ {} a = {}(n) y = MatMul(a, w) }}"
    for op, scaled in (("Relu", True), ("Tanh", False), ("Erf", False)):
        before = build(text.format(WHOLE, op), gamma=GAMMA, beta=noise(8), w=noise(8, 6))
        assert (smoothed(before).revision > 0) == scaled


def test_equalize_channels_leaves_normalisations_to_it() -> None:
    before = attention(WHOLE)
    assert rewrite(EqualizeChannels(), before, context(before)).revision == 0


def test_without_samples() -> None:
    before = attention(WHOLE)
    result = rewrite(SmoothActivations(), before, Context(target=find_target("openvino")))
    assert result.revision == 0
    assert "--calibration-data" in result.declined()[0]


def test_scales_are_kept_with_the_ranges_that_belong_to_them() -> None:
    before = attention(WHOLE)
    ctx = context(before)
    with_samples = rewrite(SmoothActivations(), before, ctx)
    again = rewrite(SmoothActivations(), before, Context(target=ctx.target, ranges=ctx.kept))
    assert with_samples.revision
    assert changed(with_samples.model, again.model) == set()


@pytest.mark.parametrize("options", [{"alpha": 1.5}, {"limit": 1.0}])
def test_options_out_of_range(options: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="expected"):
        SmoothActivations(**options)
