"""16-bit activations with 8-bit weights: what is planned, what LiteRT makes of it, and both widths in one model."""

from __future__ import annotations

import random

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

import graphopt
from graphopt.analysis.legality import check_graph
from graphopt.analysis.precision.regions import assigned_nodes, find_regions, float_nodes, realised, wide_nodes
from graphopt.analysis.precision.types import Regions
from graphopt.backends import litert_engine
from graphopt.backends.measures import sqnr_db
from graphopt.backends.planned import planned_nodes
from graphopt.calibration import input_specs, load_dataset
from graphopt.errors import ConfigError
from graphopt.ir import from_proto, to_proto
from graphopt.ir.verifier import verify
from graphopt.passes.calibrate import Calibrate
from graphopt.passes.insert_qdq import InsertQdq
from graphopt.passes.plan_quantization import PlanQuantization, plan_again
from graphopt.passes.quantize_weights import QuantizeWeights
from graphopt.pipeline import Context
from graphopt.report.document import to_text
from graphopt.report.pages import summary_page
from graphopt.targets import TARGETS, find_target
from tests.backends.litert_writer.support import noise, parse
from tests.support.quantization import Quantized, model, quantize_model
from tests.support.rewrite import random_feeds, run

TFLITE = find_target("tflite")
BODY = """
    a = Conv<pads=[1,1,1,1]>(x, w1, b1) ra = Relu(a)
    d = Conv<pads=[1,1,1,1], group=8>(ra, w2) s = Add(d, ra) t = Relu(s)
    p = MaxPool<kernel_shape=[2,2], strides=[2,2]>(t) e = Conv(p, w3) f = Sigmoid(e) g = Mul(e, f)
    j = Concat<axis=1>(p, g) u = ConvTranspose<strides=[2,2]>(j, w4)
    m = GlobalAveragePool(u) v = Flatten(m) y = Gemm(v, w5, b5)
"""
SHAPES = {"w1": (8, 3, 3, 3), "b1": (8,), "w2": (8, 1, 3, 3), "w3": (6, 8, 1, 1), "w4": (14, 4, 2, 2)}
LAYERS = ["Conv", "Add", "Sigmoid", "Mul", "ConvTranspose", "GlobalAveragePool", "Gemm"]


@pytest.fixture(scope="module")
def net() -> onnx.ModelProto:
    made = model(BODY, "float[1,3,8,8] x", "float[1,5] y", w5=(4, 5), b5=(5,), **SHAPES)
    for node in made.graph.node:
        node.name = node.output[0]
    return made


def grids(net: onnx.ModelProto, op: str) -> list[np.dtype]:
    """Types of the zero points of all nodes of an operator."""
    constants = {i.name: numpy_helper.to_array(i) for i in net.graph.initializer}
    return [constants[n.input[2]].dtype for n in net.graph.node if n.op_type == op]


def test_all_of_a_model(net):
    narrow = quantize_model(net, "tflite")
    wide = quantize_model(net, "tflite", plan=PlanQuantization(activation_bits=16))
    assert wide.after.opset_import[0].version == 21
    assert set(grids(wide.after, "QuantizeLinear")) == {np.dtype(np.int16)}
    assert set(grids(wide.after, "DequantizeLinear")) == {np.dtype(np.int16), np.dtype(np.int8)}
    assert all(value == 0 for i in wide.after.graph.initializer if "zero_point" in i.name for value in
               numpy_helper.to_array(i).reshape(-1))  # fmt: skip
    # A bias has 64 bits in LiteRT, or 32; ONNX's DequantizeLinear has no int64.
    assert wide.reads_quantized(wide.find("Conv"), 1)
    assert not wide.reads_quantized(wide.find("Conv"), 2)
    feeds = random_feeds(net, seed=9)
    (exact,) = run(net, feeds)
    found = [sqnr_db(exact, run(q.after, feeds)[0]) for q in (narrow, wide)]
    assert found[1] > found[0] + 10
    (lite,) = next(iter(litert_engine.run(wide.after, [feeds])))
    assert sqnr_db(exact, lite) > found[0] + 10


def test_litert_computes_every_node_so(net):
    wide = quantize_model(net, "tflite", plan=PlanQuantization(activation_bits=16)).after
    planned = planned_nodes(from_proto(wide), TFLITE)
    assert {p.precision for p in planned} == {"int16x8"}
    assert {p.op_type for p in planned} == set(LAYERS)
    found = litert_engine.precision(wide, planned)
    assert not found.missed
    assert not found.notes
    assert not check_graph(from_proto(wide), TFLITE)
    assert {f.rule for f in check_graph(from_proto(wide), find_target("openvino"))} >= {"activation-bits"}


@pytest.mark.parametrize("target", sorted(t.name for t in TARGETS.values() if t.wide is None))
def test_targets_without_such_kernels_refuse(net, target):
    with pytest.raises(ConfigError, match=r"has no kernels with 16-bit activations; the targets that have: tflite$"):
        graphopt.optimize(net, target=target, passes="plan-quantization{activation-bits=16}")


def test_what_litert_has_in_8_bits_only_stays_float():
    text = "g (float[1,4,6,6] x) => (float[A,B,C,D] y) { a = Conv(x, w) h = HardSwish(a) y = Conv(h, w) }"
    net = parse(text, opset=14, w=noise(4, 4, 1, 1))
    wide = quantize_model(net, "tflite", plan=PlanQuantization(activation_bits=16)).after
    planned = planned_nodes(from_proto(wide), TFLITE)
    assert [p.op_type for p in planned] == ["Conv", "Conv"]
    assert not litert_engine.precision(wide, planned).missed
    feeds = random_feeds(net)
    (lite,) = next(iter(litert_engine.run(wide, [feeds])))
    assert sqnr_db(run(wide, feeds)[0], lite) > 70


def mixed(net: onnx.ModelProto, wide: set[str]) -> Quantized:
    """Some nodes with activations of 16 bits, the others with 8."""
    graph = from_proto(net)
    samples = load_dataset([random_feeds(net, seed) for seed in range(4)], input_specs(net))
    ctx = Context(target=TFLITE, calibration=samples)
    PlanQuantization().run(graph, ctx)
    Calibrate().run(graph, ctx)
    others = {n for n in graph.plan.quantized_nodes if n not in wide}
    plan_again(graph, TFLITE, {}, assigned=others, wide=wide)
    assert {n for n, p in graph.plan.precisions.items() if p == "int16x8"} >= wide & set(graph.plan.quantized_nodes)
    assert not verify(graph)
    for pass_ in (Calibrate(), QuantizeWeights(), InsertQdq()):
        pass_.run(graph, ctx)
        graph.sort()
    after = to_proto(graph)
    onnx.checker.check_model(after, full_check=True)
    return Quantized(net, after, ctx.remarks, graph.plan)


@pytest.mark.parametrize("seed", range(8))
def test_both_widths_in_one_model(net, seed):
    nodes = [n.name for n in net.graph.node if n.op_type in LAYERS]
    wide = set(random.Random(seed).sample(nodes, len(nodes) // 2))
    made = mixed(net, wide).after
    planned = planned_nodes(from_proto(made), TFLITE)
    assert {p.name: p.precision for p in planned} == {n: "int16x8" if n in wide else "int8" for n in nodes}
    assert not check_graph(from_proto(made), TFLITE)
    found = litert_engine.precision(made, planned)
    assert not found.missed
    assert not found.notes
    feeds = random_feeds(net, seed=9)
    (lite,) = next(iter(litert_engine.run(made, [feeds])))
    (written,) = run(made, feeds)
    # A value on the border of two steps of 8 bits may fall on either side.
    assert sqnr_db(written, lite) > 35


def test_a_border_has_a_grid_of_each_width(net):
    made = mixed(net, {"d"})
    # ra: written in 8 bits for the Add, and read in 16 by the depthwise convolution; d: the other way round.
    assert made.producer(made.find("Conv", 1).input[0]).op_type == "DequantizeLinear"
    names = {n.output[0]: n for n in made.after.graph.node}
    second = names[names[made.find("Conv", 1).input[0]].input[0]]
    assert second.op_type == "QuantizeLinear"
    first = names[second.input[0]]
    assert first.op_type == "DequantizeLinear"
    scales = {i.name: numpy_helper.to_array(i) for i in made.after.graph.initializer}
    assert scales[second.input[1]] * 60 < scales[first.input[1]]
    assert scales[second.input[2]].dtype == np.int16
    assert scales[first.input[2]].dtype == np.int8


def test_what_moves_values_has_their_width(net):
    plan = mixed(net, {"s", "e"}).plan  # the Add in front of the MaxPool and the Conv behind it
    assert plan.precisions["p"] == "int16x8"
    plan = mixed(net, {"e"}).plan
    assert "p" not in plan.precisions
    assert "p" in plan.quantized_nodes


def test_a_constant_that_both_widths_read_is_stored_for_each():
    net = model("a = Conv(x, w) b = Add(a, c) d = Conv(b, w) e = Add(d, c) y = Conv(e, w)",
                "float[1,4,6,6] x", "float[A,B,C,D] y", w=(4, 4, 1, 1), c=(4, 1, 1))  # fmt: skip
    for node in net.graph.node:
        node.name = node.output[0]
    made = mixed(net, {"b"}).after
    stored = [numpy_helper.to_array(i) for i in made.graph.initializer if i.name.startswith("c")]
    assert {a.dtype for a in stored if a.shape == (4, 1, 1)} == {np.dtype(np.int8), np.dtype(np.int16)}
    assert not litert_engine.precision(made, planned_nodes(from_proto(made), TFLITE)).missed


def test_planning_again_keeps_the_widths(net):
    graph = from_proto(net)
    PlanQuantization(activation_bits=16).run(graph, Context(target=TFLITE))
    before = dict(graph.plan.tensors)
    plan_again(graph, TFLITE, {"y": "for the test"})
    assert "y" in graph.plan.float_nodes
    assert all(e.scheme.dtype == "int16" for name, e in graph.plan.tensors.items() if not name.startswith("w"))
    assert set(graph.plan.tensors) < set(before)


def test_ranges_of_16_bits_cover_twice_what_was_seen(net):
    graph = from_proto(net)
    feeds = [random_feeds(net, seed) for seed in range(4)]
    ctx = Context(target=TFLITE, calibration=load_dataset(feeds, input_specs(net)))
    PlanQuantization(activation_bits=16).run(graph, ctx)
    Calibrate(method="percentile").run(graph, ctx)
    seen = np.stack([feed["x"] for feed in feeds])
    found = graph.plan.tensors["x"].range
    assert (found.low, found.high) == (2 * seen.min(), 2 * seen.max())
    relu = graph.plan.tensors["ra"].range
    assert relu.low == 0
    assert relu.high > 0


def three_ways(regions: Regions, rng: random.Random) -> dict[str, str]:
    """int8, int16x8 or float32 for each region that can have them."""
    usual = ("int8", "int16x8", "float32")
    return {r.name: rng.choice([p for p in r.precisions if p in usual]) for r in regions.regions}


@pytest.mark.parametrize("seed", range(6))
def test_an_assignment_of_both_widths_to_regions(net, seed):
    graph = from_proto(net)
    samples = load_dataset([random_feeds(net, seed) for seed in range(4)], input_specs(net))
    ctx = Context(target=TFLITE, calibration=samples)
    PlanQuantization().run(graph, ctx)
    regions = find_regions(graph, TFLITE, kept_float=graph.plan.kept_float)
    assert all(("int16x8" in r.precisions) == ("int8" in r.precisions) for r in regions.regions)
    assignment = three_ways(regions, random.Random(seed))
    kept = dict.fromkeys(float_nodes(regions, assignment), "assigned float32")
    plan_again(graph, TFLITE, kept, assigned_nodes(regions, assignment), wide_nodes(regions, assignment))
    assert realised(graph, regions) == assignment
    for pass_ in (Calibrate(), QuantizeWeights(), InsertQdq()):
        pass_.run(graph, ctx)
        graph.sort()
    made = to_proto(graph)
    onnx.checker.check_model(made, full_check=True)
    # Between Q/DQ that its neighbours want, a float operator can't be told from one that is meant to be in integers.
    planned = [p for p in planned_nodes(from_proto(made), TFLITE) if assignment[p.name] != "float32"]
    integers = {name: precision for name, precision in assignment.items() if precision != "float32"}
    assert {p.name: p.precision for p in planned} == integers
    assert not litert_engine.precision(made, planned).missed


def test_a_repaired_model_keeps_its_16_bits(net):
    broken = quantize_model(net, "tflite", plan=PlanQuantization(activation_bits=16)).after
    # A result that is given out in float, before its Q/DQ.
    relu = next(n for n in broken.graph.node if n.op_type == "Relu")
    broken.graph.output.append(onnx.helper.make_tensor_value_info(relu.output[0], onnx.TensorProto.FLOAT, None))
    repaired = graphopt.repair(broken, "tflite")
    assert {f.rule for f in repaired.before} == {"float-output"}
    assert not repaired.after
    assert set(grids(repaired.model, "QuantizeLinear")) == {np.dtype(np.int16)}
    found = litert_engine.precision(repaired.model, planned_nodes(from_proto(repaired.model), TFLITE))
    assert {n.precision for n in found.nodes} == {"int16x8"}
    assert not found.missed


def test_the_report_says_how_many_bits(net):
    samples = np.concatenate([random_feeds(net, seed)["x"] for seed in range(4)])
    passes = "plan-quantization{activation-bits=16,keep-float=[Gemm]},calibrate,quantize-weights,insert-qdq"
    result = graphopt.optimize(net, target="tflite", passes=passes, calibration_data={"x": samples})
    text = to_text(summary_page(result.report))
    assert "quantizable nodes in integers, as planned" in text
    assert "16 bits  3 Conv, " in text
    assert "8 bits" not in text
