"""4-bit weights by what their layers read: against rounding to nearest, and against GPTQ as it was published."""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import numpy_helper

import graphopt
from graphopt.passes.presets import FLOAT
from graphopt.quant.block_scales import block_scheme, solve_blocks
from tests.passes.test_block_weights import PASS, constants, dequantizers, optimize, plain, reasons
from tests.passes.test_transformers import inputs_of, source, validation
from tests.support.quantization import model
from tests.support.rewrite import run

ROOT = Path(__file__).parents[2]
GPTQ = "quantize-weights{bits=4, method=gptq}"
pytestmark = pytest.mark.xdist_group("block-rounding")


def decibels(exact: NDArray[np.float32], found: NDArray[np.float32]) -> float:
    error = found.astype(np.float64) - exact
    return float(10 * np.log10((exact.astype(np.float64) ** 2).sum() / (error**2).sum()))


@functools.cache
def transformer(name: str, method: str) -> onnx.ModelProto:
    images = np.load(ROOT / "calibration_data" / "calibration.npz")["image"][:64]
    passes = ",".join((*FLOAT, f"quantize-weights{{bits=4, method={method}}}"))
    data = inputs_of(name, images)
    return graphopt.optimize(source(name), target="onnxruntime", passes=passes, calibration_data=data).model


@pytest.mark.parametrize(("name", "gained"), [("vit_opset17", 4.0), ("encoder", 2.0)])
def test_trained_transformers_gain_by_it(name: str, gained: float) -> None:
    """With 128 images 6.7 and 4.3 dB more than rounding to nearest, on images that weren't calibrated with."""
    images, labels = validation()
    (exact,) = run(source(name), inputs_of(name, images))
    found = {method: run(transformer(name, method), inputs_of(name, images))[0] for method in ("rtn", "gptq")}
    assert decibels(exact, found["gptq"]) > decibels(exact, found["rtn"]) + gained
    accuracy = [float((scores.argmax(1) == labels).mean()) for scores in (exact, found["gptq"])]
    assert accuracy[1] > accuracy[0] - 0.01


def correlated(count: int, width: int, seed: int) -> NDArray[np.float32]:
    """Inputs that depend on each other and differ in strength, as behind a trained layer."""
    mixing = np.random.default_rng(99).normal(size=(width // 4, width)) * np.geomspace(0.1, 3, width)
    rng = np.random.default_rng(seed)
    return (
        np.maximum(rng.normal(size=(count, width // 4)), 0) @ mixing + 0.1 * rng.normal(size=(count, width))
    ).astype(np.float32)


def published(weight: NDArray[np.float64], inputs: NDArray[np.float64], block: int) -> NDArray[np.float64]:
    """GPTQ (Frantar et al., algorithm 1, act-order, static groups, 1 % damping), one weight at a time: [in, out]."""
    second = inputs.T @ inputs
    second += 0.01 * np.mean(np.diag(second)) * np.eye(len(second))
    order = np.argsort(-np.diag(second), kind="stable")
    upper = np.linalg.cholesky(np.linalg.inv(second[np.ix_(order, order)])).T
    scales = solve_blocks(weight, block_scheme(0, block)).scale[np.arange(len(weight)) // block].astype(np.float64)
    left, scales, found = weight[order].copy(), scales[order], np.empty_like(weight)
    for k in range(len(weight)):
        found[k] = np.clip(np.rint(left[k] / scales[k]), -8, 7) * scales[k]
        left[k:] -= np.outer(upper[k, k:], (left[k] - found[k]) / upper[k, k])
    result = np.empty_like(found)
    result[order] = found
    return result


def only_weight(net: onnx.ModelProto) -> NDArray[np.float64]:
    ((node, _),) = dequantizers(net)
    return constants(plain(net))[node.output[0]].astype(np.float64)


@pytest.mark.parametrize("at_once", [1 << 22, 96 * 9])
def test_one_layer_is_better_than_the_published_algorithm_on_new_inputs(
    monkeypatch: pytest.MonkeyPatch, at_once: int
) -> None:
    """At once, or a few rows after the other."""
    monkeypatch.setattr("graphopt.passes._block_rounding._MOST_WEIGHTS", at_once)
    net = model("y = MatMul(x, w)", "float[n,96] x", "float[n,40] y", w=(96, 40))
    weight = numpy_helper.to_array(net.graph.initializer[0]).astype(np.float64)
    samples, unseen = correlated(600, 96, 1), correlated(2000, 96, 2).astype(np.float64)

    def lost(found: NDArray[np.float64]) -> float:
        return float(((unseen @ (found - weight)) ** 2).sum())

    errors = {
        name: lost(only_weight(optimize(net, passes, calibration_data={"x": samples}).model))
        for name, passes in (("nearest", PASS), ("ours", GPTQ))
    }
    theirs = lost(published(weight, samples.astype(np.float64), 32))
    assert errors["ours"] < 0.5 * errors["nearest"]
    assert theirs < errors["nearest"], "the oracle works"
    assert errors["ours"] < theirs


def test_layers_make_up_for_those_before_them() -> None:
    net = model("b = MatMul(x, w) y = MatMul(b, v)", "float[n,64] x", "float[n,8] y", w=(64, 64), v=(64, 8))
    hidden = model("y = MatMul(b, v)", "float[n,64] b", "float[n,8] y", v=(64, 8))
    float_values = constants(net)
    hidden.graph.initializer[0].CopyFrom(numpy_helper.from_array(float_values["v"], "v"))
    gained: list[float] = []
    for seed in range(4):
        samples, unseen = correlated(800, 64, 10 * seed), correlated(1000, 64, 10 * seed + 1)
        (exact,) = run(net, {"x": unseen})
        both = optimize(net, GPTQ, calibration_data={"x": samples}).model
        # The second layer rounded for the float first one's results.
        second = only_weight(optimize(hidden, GPTQ, calibration_data={"b": samples @ float_values["w"]}).model)
        alone = plain(both)
        stored = next(t for t in alone.graph.initializer if t.name == "v_dequantized")
        stored.CopyFrom(numpy_helper.from_array(second.astype(np.float32), stored.name))
        found, lost = (decibels(exact, run(made, {"x": unseen})[0]) for made in (both, alone))
        gained.append(found - lost)
    assert np.mean(gained) > 0.2, gained


def test_without_samples_weights_are_rounded_to_nearest() -> None:
    net = model("y = MatMul(x, w)", "float[n,64] x", "float[n,40] y", w=(64, 40))
    result = optimize(net, GPTQ)
    assert "no samples for gptq" in reasons(result)
    assert result.model.SerializeToString() == optimize(net).model.SerializeToString()


def test_where_nothing_helps_on_samples_left_out_the_nearest_is_taken() -> None:
    """Two samples say nothing of inputs that are independent: what is fitted on one is worse on the other."""
    net = model("y = MatMul(x, w)", "float[1,128] x", "float[1,40] y", w=(128, 40))
    samples = np.random.default_rng(0).normal(size=(2, 1, 128)).astype(np.float32)
    result = optimize(net, GPTQ, calibration_data={"x": samples[:, 0]})
    assert "nothing was better" in reasons(result)
    np.testing.assert_array_equal(only_weight(result.model), only_weight(optimize(net).model))


@pytest.mark.parametrize("symmetric", ["true", "false"])
@pytest.mark.parametrize("target", ["onnxruntime", "openvino", "tensorrt"])
def test_what_is_stored_is_a_grid_of_the_target(target: str, symmetric: str) -> None:
    net = model("y = Gemm<transB=1>(x, w, b)", "float[n,48] x", "float[n,40] y", w=(40, 48), b=(40,))
    samples = {"x": correlated(300, 48, 3)}
    passes = f"quantize-weights{{bits=4, method=gptq, symmetric={symmetric}}}"
    made = optimize(net, passes, target, calibration_data=samples).model
    assert graphopt.lint(made, target=target) == []
    (exact,), (found,), (told,) = (run(m, samples) for m in (net, made, plain(made)))
    np.testing.assert_allclose(found, told, rtol=1e-4, atol=1e-4)
    assert decibels(exact, found) > 20
