"""What channels never fall below goes into the next bias; exact on the samples."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from graphopt.errors import ConfigError
from graphopt.ir import from_proto
from graphopt.passes.absorb_biases import AbsorbBiases
from graphopt.passes.plan_quantization import PlanQuantization
from graphopt.pipeline import Context
from graphopt.targets import find_target
from tests.passes.test_equalize_channels import build, changed, constant, context, noise, sqnr_db
from tests.support.rewrite import assert_same_outputs, rewrite

HIGH = np.array([90, 0, 80, 0, 100, 120], np.float32)
W = np.float32(0.05) * noise(6, 3, 3, 3)


def model(behind: str = "y = Conv(r, v, d)", outputs: str = "float[1,4,H,W] y") -> onnx.ModelProto:
    text = f"g (float[1,3,8,8] x) => ({outputs}) {{ a = Conv<pads=[1,1,1,1]>(x, w, b) r = Relu(a) {behind} }}"
    constants = {"d": noise(4)} if " d)" in behind else {}
    even = np.where(HIGH > 0, 1, 10).astype(np.float32).reshape(1, 6, 1, 1)
    return build(text, w=W, b=HIGH, v=noise(4, 6, 1, 1) * even, **constants)


@pytest.mark.parametrize(
    "behind",
    ["y = Conv(r, v, d)", "y = Conv(r, v)", "p = MaxPool<kernel_shape=[2,2]>(r) y = Conv(p, v, d)"],
)
def test_the_constant_part_moves_behind_the_relu(behind: str) -> None:
    before = model(behind)
    result = rewrite(AbsorbBiases(), before, context(before))
    assert_same_outputs(before, result.model, rtol=1e-4, atol=2e-3)  # the samples are those of the context
    taken = HIGH - constant(result.model, "b")
    assert (taken[HIGH > 0] > 0.9 * HIGH[HIGH > 0]).all()
    assert (taken[HIGH == 0] == 0).all()
    assert not {"w", "v"} & changed(before, result.model)


def test_it_gives_the_other_channels_their_steps_back() -> None:
    before = model()
    after = rewrite(AbsorbBiases(), before, context(before, samples=16)).model
    assert sqnr_db(before, after, "openvino") > sqnr_db(before, before, "openvino") + 10


DECLINED = {
    "zeros are padded in": ("y = Conv<pads=[1,1,1,1]>(r, v, d)", "float[1,4,H,W] y", "pads with zeros"),
    "a graph output": ("y = Conv(r, v, d)", "float[1,4,H,W] y, float[1,6,8,8] r", "'r' is a graph output"),
    "another reader": ("y = Conv(r, v, d) z = Tanh(r)", "float[1,4,H,W] y, float[1,6,8,8] z", "isn't an operation"),
}


@pytest.mark.parametrize("case", DECLINED)
def test_near_misses_are_declined(case: str) -> None:
    behind, outputs, reason = DECLINED[case]
    before = model(behind, outputs)
    result = rewrite(AbsorbBiases(), before, context(before))
    assert result.revision == 0
    assert any(reason in r for r in result.declined()), result.declined()


def test_a_range_that_another_channel_decides_is_left_alone() -> None:
    text = "g (float[1,3,8,8] x) => (float[1,4,8,8] y) { a = Conv<pads=[1,1,1,1]>(x, w, b) r = Relu(a) y = Conv(r, v) }"
    w = W.copy()
    w[1] *= 1000
    before = build(text, w=w, b=HIGH, v=noise(4, 6, 1, 1))
    result = rewrite(AbsorbBiases(), before, context(before))
    assert result.revision == 0
    assert "would shrink from" in result.declined()[0]


def test_what_was_taken_out_is_kept_with_the_ranges() -> None:
    before, ctx = model(), context(model())
    with_samples = rewrite(AbsorbBiases(), before, ctx)
    assert list(ctx.kept) == ["absorb-biases/r"]
    again = rewrite(AbsorbBiases(), before, Context(target=ctx.target, ranges=ctx.kept))
    assert changed(with_samples.model, again.model) == set()
    assert rewrite(AbsorbBiases(), before, Context(target=ctx.target, ranges={})).revision == 0


def test_without_samples_and_behind_a_plan() -> None:
    before = model()
    result = rewrite(AbsorbBiases(), before, Context(target=find_target("openvino")))
    assert result.revision == 0
    assert "no samples" in result.declined()[0]
    graph, ctx = from_proto(before), context(before)
    PlanQuantization().run(graph, ctx)
    with pytest.raises(ConfigError, match="before plan-quantization"):
        AbsorbBiases().run(graph, ctx)
