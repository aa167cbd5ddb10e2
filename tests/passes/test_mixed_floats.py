"""8 bits, float16 and float32 in one model for TensorRT-RTX, region by region, with planted values that don't fit."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from graphopt.analysis.precision.record import PrecisionChoice
from graphopt.backends.planned import planned_nodes
from graphopt.backends.precision import Planned
from graphopt.calibration import input_specs, load_dataset
from graphopt.ir import fill_types, from_proto, load, to_proto
from graphopt.passes.assign_precision import AssignPrecision
from graphopt.passes.calibrate import Calibrate
from graphopt.passes.insert_casts import InsertCasts
from graphopt.passes.insert_qdq import InsertQdq
from graphopt.passes.plan_quantization import PlanQuantization
from graphopt.passes.quantize_weights import QuantizeWeights
from graphopt.pipeline import Context
from graphopt.targets import find_target
from tests.support.quantization import model
from tests.support.rewrite import run

TENSORRT = find_target("tensorrt")
PAD = "kernel_shape=[3,3], pads=[1,1,1,1]"


@dataclass(frozen=True)
class Compiled:
    """A model before and after, the assignment that it has, and an input."""

    before: onnx.ModelProto
    after: onnx.ModelProto
    choice: PrecisionChoice
    x: np.ndarray

    def computed(self, *also: str, capability: str = "SM86") -> dict[str, str]:
        """What TensorRT-RTX computes each planned node in, and those that are to be in float32 besides."""
        from graphopt.backends.tensorrt import precision

        nodes = {n.name: n for n in self.after.graph.node}
        planned = planned_nodes(load(self.after, min_opset=1), TENSORRT)
        planned += [Planned(name, nodes[name].op_type, nodes[name].output[0], False, "float32") for name in also]
        found = precision(self.after, planned, capability=capability)
        assert [(n.planned.name, n.precision, n.reason) for n in found.missed] == []
        return {n.planned.name: n.precision for n in found.nodes}


def compiled(
    net: onnx.ModelProto, x: np.ndarray, *rules: str, allowed: tuple[str, ...] = ("int8", "float16")
) -> Compiled:
    """Compiled with these precisions wherever they can be had."""
    for node in net.graph.node:
        node.name = node.output[0]
    graph = from_proto(net)
    fill_types(graph)
    x = x.astype(np.float32)
    ctx = Context(target=TENSORRT, calibration=load_dataset({"x": x}, input_specs(net)), threads=1)
    assign = AssignPrecision(cost="bits", sensitivity="local", precisions=allowed, precision=rules)
    for pass_ in (PlanQuantization(), Calibrate(), assign, QuantizeWeights(), InsertQdq(), InsertCasts()):
        pass_.run(graph, ctx)
        graph.sort()
    after = to_proto(graph)
    onnx.checker.check_model(after, full_check=True)
    assert ctx.precision is not None
    return Compiled(net, after, ctx.precision, x)


def network(body: str, shape: str, output: str, values: dict[str, float], **shapes: tuple[int, ...]) -> onnx.ModelProto:
    """A network whose activations stay near 1, and constants of one value."""
    net = model(body, f"float[{shape}] x", f"float[{output}] y", 0, **shapes, **dict.fromkeys(values, (1,)))
    for tensor in net.graph.initializer:
        noise = numpy_helper.to_array(tensor)
        if tensor.name in values:
            tensor.CopyFrom(numpy_helper.from_array(np.array([values[tensor.name]], np.float32), tensor.name))
        elif tensor.name in shapes:
            fan_in = noise[0].size if noise.ndim == 4 else len(noise)
            tensor.CopyFrom(numpy_helper.from_array((noise / np.sqrt(fan_in)).astype(np.float32), tensor.name))
    return net


@pytest.fixture(scope="module")
def planted() -> Compiled:
    """An overflow in a branch, and an epsilon that would be 0, between layers in 8 bits and in float16."""
    pytest.importorskip("tensorrt_rtx")
    net = network(
        f"""
        a = Conv<{PAD}>(x, w1) ra = Relu(a)
        b = Conv<{PAD}>(ra, w2) rb = Relu(b)
        big = Mul(rb, k) t = Tanh(big)
        sq = Mul(rb, rb) m = ReduceMean<axes=[1]>(sq) e = Add(m, eps) sd = Sqrt(e) n = Div(rb, sd)
        c = Conv<{PAD}>(n, w3)
        s = Add(c, t)
        f = Flatten(s)
        g = Gemm(f, w4)
        y = Softmax(g)
        """,
        "1,3,16,16", "1,10", {"k": 6e4, "eps": 1e-12},
        w1=(16, 3, 3, 3), w2=(16, 16, 3, 3), w3=(16, 16, 3, 3), w4=(4096, 10),
    )  # fmt: skip
    x = np.random.default_rng(0).normal(size=(8, 3, 16, 16))
    return compiled(net, x, "*=float16", "a=int8", "c=int8")


def test_what_float16_can_t_hold_is_found_and_said(planted: Compiled) -> None:
    precisions, reasons = planted.choice.chosen.precisions, planted.choice.reasons
    assert (precisions["big"], precisions["e"]) == ("float32", "float32")
    assert "'big' reaches" in reasons["big"]
    assert "and the largest value is 6.55e+04" in reasons["big"]
    assert "'eps' is 1e-12 at most, which is 0 in float16" in reasons["e"]
    others = {name: kind for name, kind in precisions.items() if name not in ("big", "e")}
    assert others == {
        "a": "int8", "c": "int8", "b": "float16", "sq": "float16", "m": "float16", "g": "float16", "y": "float16",
    }  # fmt: skip


@pytest.mark.parametrize("capability", ["SM80", "SM89"])
def test_each_region_is_computed_in_what_it_was_assigned(planted: Compiled, capability: str) -> None:
    found = planted.computed("big", "e", capability=capability)
    precisions = planted.choice.chosen.precisions
    assert {name: found[name] for name in precisions} == dict(precisions)


def test_the_result_is_that_of_the_float_model(planted: Compiled) -> None:
    feeds = {"x": planted.x[:1]}
    wanted, found = run(planted.before, feeds)[0], run(planted.after, feeds)[0]
    np.testing.assert_allclose(found, wanted, atol=0.05)


def test_a_sum_that_overflows_on_the_way() -> None:
    """The products of `wide` cancel to what float16 holds; alone between float16 layers, it needs the Clip."""
    pytest.importorskip("tensorrt_rtx")
    net = network(
        "a = MatMul(x, w1) up = Mul(a, k) wide = MatMul(up, w2) down = Mul(wide, l) y = MatMul(down, w3)",
        "4,64", "4,16", {"k": 100.0, "l": 0.01}, w1=(64, 1024), w2=(1024, 64), w3=(64, 16),
    )  # fmt: skip
    signs = np.where(np.arange(1024) % 2, 1.0, -1.0)
    for tensor in net.graph.initializer:
        if tensor.name == "w1":  # every column twice
            values = np.repeat(numpy_helper.to_array(tensor)[:, ::2], 2, axis=1)
            tensor.CopyFrom(numpy_helper.from_array(values, "w1"))
        elif tensor.name == "w2":  # and taken from each other, but for a little
            values = signs[:, None] + 0.01 * numpy_helper.to_array(tensor)
            tensor.CopyFrom(numpy_helper.from_array(values.astype(np.float32), "w2"))
    x = np.random.default_rng(0).normal(size=(4, 64))
    result = compiled(net, x, "*=float16", allowed=("float16",))
    precisions = result.choice.chosen.precisions
    assert precisions == {name: "float32" if name == "wide" else "float16" for name in precisions}
    assert "it adds up 1,024 products, whose magnitudes come to" in result.choice.reasons["wide"]
    assert result.computed() == {
        "a": "float16", "up": "float16", "wide": "float32", "down": "float16", "y": "float16",
    }  # fmt: skip
    assert [n.input[0] for n in result.after.graph.node if n.op_type == "Clip"] == ["wide"]


def test_a_mask_of_infinities_stays_in_float32() -> None:
    """What float16 loses of −∞ can't be measured; the products around it are in float16 all the same."""
    pytest.importorskip("tensorrt_rtx")
    net = network(
        """
        q = MatMul(x, w1) k = MatMul(x, w2) v = MatMul(x, w3)
        t = Transpose<perm=[0,2,1]>(k)
        s = MatMul(q, t) c = Greater(s, zero) m = Where(c, s, low) p = Softmax(m)
        o = MatMul(p, v)
        y = MatMul(o, w4)
        """,
        "1,16,32", "1,16,32", {"zero": -1.0, "low": -np.inf}, w1=(32, 32), w2=(32, 32), w3=(32, 32), w4=(32, 32),
    )  # fmt: skip
    rules = [f"{name}=float16" for name in ("m", "p", "s", "o", "q", "k", "v", "y")]
    result = compiled(net, np.random.default_rng(0).normal(size=(4, 16, 32)), *rules, allowed=("float16",))
    precisions, reasons = result.choice.chosen.precisions, result.choice.reasons
    assert precisions["p"] == "float32"
    assert "what 'm' loses isn't finite" in reasons["p"]
    products = dict.fromkeys(("q", "k", "v", "s", "o", "y"), "float16")
    assert {name: precisions[name] for name in products} == products
    found = result.computed()
    assert {name: found[name] for name in products} == products
