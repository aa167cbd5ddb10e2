"""correct-bias."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import numpy_helper

from graphopt.calibration import input_specs, load_dataset
from graphopt.ir import from_proto, to_proto
from graphopt.passes.calibrate import Calibrate
from graphopt.passes.correct_bias import CorrectBias, mean_shift
from graphopt.passes.insert_qdq import InsertQdq
from graphopt.passes.plan_quantization import PlanQuantization
from graphopt.passes.quantize_weights import QuantizeWeights
from graphopt.pipeline import Context, Pass, PassManager
from graphopt.targets import TARGETS, find_target
from tests.support.quantization import model
from tests.support.rewrite import run

RNG = np.random.default_rng(3)
NET = """
    a = Conv<pads=[1,1,1,1]>(x, w)
    r = Relu(a)
    d = Conv(r, v, c)
    e = LeakyRelu<alpha=0.1>(d)
    p = GlobalAveragePool(e)
    f = Flatten(p)
    y = Gemm<transB=1>(f, k, g)
"""
SHAPES = {"w": (8, 4, 3, 3), "v": (16, 8, 1, 1), "c": (16,), "k": (5, 16), "g": (5,)}
Feeds = list[dict[str, NDArray[np.float32]]]


def compiled(
    source: onnx.ModelProto, target: str, samples: Feeds | None, *, correct: bool
) -> tuple[onnx.ModelProto, Context]:
    """The Q/DQ model with nearest rounding, which leaves shifts to correct, and the context it came about in."""
    graph = from_proto(source)
    calibration = None if samples is None else load_dataset(samples, input_specs(source))
    ctx = Context(target=find_target(target), calibration=load_dataset(FEEDS, input_specs(source)))
    PassManager([PlanQuantization(), Calibrate(method="minmax")]).run(graph, ctx)
    ctx.calibration = calibration
    last: list[Pass] = [CorrectBias(rounding="nearest")] if correct else []
    PassManager([*last, QuantizeWeights("nearest"), InsertQdq()]).run(graph, ctx)
    return to_proto(graph), ctx


def feeds(count: int) -> Feeds:
    return [{"x": RNG.normal(0.3, 1, size=(1, 4, 8, 8)).astype(np.float32)} for _ in range(count)]


FEEDS = feeds(32)


def mean_error(before: onnx.ModelProto, after: onnx.ModelProto, samples: Feeds) -> NDArray[np.float64]:
    """Of each class of the output."""
    return np.mean([run(before, feed)[0] - run(after, feed)[0] for feed in samples], axis=(0, 1))


@pytest.fixture(scope="module")
def net() -> onnx.ModelProto:
    return model(NET, "float[1,4,8,8] x", "float[1,5] y", seed=0, **SHAPES)


@pytest.mark.parametrize("target", TARGETS)
def test_the_mean_error_goes(net: onnx.ModelProto, target: str) -> None:
    plain, _ = compiled(net, target, FEEDS, correct=False)
    corrected, ctx = compiled(net, target, FEEDS, correct=True)
    unseen = feeds(64)
    assert np.abs(mean_error(net, corrected, FEEDS)).max() < 0.3 * np.abs(mean_error(net, plain, FEEDS)).max()
    assert np.abs(mean_error(net, corrected, unseen)).mean() < np.abs(mean_error(net, plain, unseen)).mean()
    assert [r.op for r in ctx.remarks.of("correct-bias") if r.kind == "applied"] == ["Conv", "Conv", "Gemm"]


def test_what_runs_in_integers_is_the_same(net: onnx.ModelProto) -> None:
    plain, _ = compiled(net, "onnxruntime", FEEDS, correct=False)
    corrected, _ = compiled(net, "onnxruntime", FEEDS, correct=True)
    kinds = [[n.op_type for n in m.graph.node if n.op_type != "DequantizeLinear"] for m in (plain, corrected)]
    assert kinds[0] == kinds[1]
    biases = [
        i
        for i in corrected.graph.initializer
        if i.data_type == onnx.TensorProto.INT32 and len(i.dims) and i.dims[0] > 1 and numpy_helper.to_array(i).any()
    ]
    assert len(biases) == 3  # the first convolution had none


def test_a_matmul_without_bias_declines() -> None:
    source = model("h = MatMul(x, w)\n y = Relu(h)", "float[1,4] x", "float[1,8] y", w=(4, 8))
    samples = [{"x": RNG.normal(size=(1, 4)).astype(np.float32)} for _ in range(4)]
    graph = from_proto(source)
    ctx = Context(target=find_target("onnxruntime"), calibration=load_dataset(samples, input_specs(source)))
    PassManager([PlanQuantization(), Calibrate(), CorrectBias()]).run(graph, ctx)
    (remark,) = ctx.remarks.of("correct-bias")
    assert (remark.kind, remark.message) == ("declined", "it has no bias that could take a correction")


def test_without_samples_nothing_changes(net: onnx.ModelProto) -> None:
    plain, _ = compiled(net, "openvino", FEEDS, correct=False)
    same, ctx = compiled(net, "openvino", None, correct=True)
    assert same == plain
    assert "no samples" in ctx.remarks.of("correct-bias")[0].message


def test_chance_is_not_corrected() -> None:
    wanted = [RNG.normal(size=(1, 2, 50)) for _ in range(400)]
    noise = [values + RNG.normal(size=values.shape) * [[[1.0], [1e-3]]] - [[[0.0], [0.5]]] for values in wanted]
    nothing, half = mean_shift(wanted, noise, 1)
    assert abs(nothing) < 2 / np.sqrt(400 * 50)
    assert half == pytest.approx(0.5, rel=1e-3)
    one = mean_shift(wanted[:1], noise[:1], 1)
    assert one == pytest.approx(0.5 * np.mean(wanted[0] - noise[0], axis=(0, 2)))
