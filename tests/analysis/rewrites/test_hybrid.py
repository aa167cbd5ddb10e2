"""A pass applied in part: valid models that compute what their parts say."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import parser
from onnx.reference import ReferenceEvaluator

from graphopt.analysis.rewrites.hybrid import Hybrids
from graphopt.calibration import input_specs, load_dataset
from graphopt.ir import Graph, load, to_proto, verify
from graphopt.passes import find_pass
from graphopt.passes.presets import FLOAT
from graphopt.pipeline import Context, Pass, PassManager
from graphopt.pipeline.instruments.snapshot import Snapshot
from graphopt.pipeline.spec import passes_from_text
from graphopt.targets import TARGETS
from tests.support.planted import InsertScales, RewriteReluScaled

MODEL = """
<ir_version: 8, opset_import: ["": 17]>
net (float[n, 2, 4, 4] x) => (float[n, 2, 4, 4] y, float[n, 2, 4, 4] z)
<float[2, 2, 1, 1] w = {1, 2, -1, 1},
 float[2] g = {2, 3}, float[2] b = {1, -1}, float[2] m = {0.5, 0}, float[2] v = {1, 4}>
{
  [c1] t1 = Conv(x, w)
  [n1] t2 = BatchNormalization(t1, g, b, m, v)
  [r1] t3 = Relu(t2)
  [c2] t4 = Conv(t3, w)
  [n2] t5 = BatchNormalization(t4, g, b, m, v)
  [r2] z = Relu(t5)
  [i1] t6 = Identity(z)
  [c3] t7 = Conv(t6, w)
  [s] y = Add(t7, t3)
}
"""
BRANCHES = """
<ir_version: 8, opset_import: ["": 17]>
net (bool c, float[3] x) => (float[3] y)
<float[3] w = {1, 2, 3}, bool yes = {1}>
{
  [r0] a = Relu(x)
  [fork] t = If(yes) <
    then_branch = one () => (float[3] p) { [m1] q = Mul(a, w)  [r1] p = Relu(q) },
    else_branch = two () => (float[3] u) { [m2] u = Mul(a, a) }
  >
  [other] s = If(c) <
    then_branch = three () => (float[3] d) { [m3] e = Mul(a, w)  [r3] d = Relu(e) },
    else_branch = four () => (float[3] f) { [m4] f = Add(a, w) }
  >
  [behind] y = Add(t, s)
}
"""


def halves(text: str, passes: str | Pass) -> tuple[Graph, Graph]:
    """The graph in front of the passes and behind them, as bisection has them: from snapshots."""
    graph = load(parser.parse_model(text))
    before = Snapshot(graph)
    chosen = passes_from_text(passes, find_pass) if isinstance(passes, str) else [passes]
    PassManager(chosen).run(graph, Context())
    return before.restore(), Snapshot(graph).restore()


def outputs(model: onnx.ModelProto, feed: dict[str, np.ndarray]) -> list[np.ndarray]:
    return list(ReferenceEvaluator(model).run(None, feed))


@pytest.fixture
def image() -> dict[str, np.ndarray]:
    return {"x": np.random.default_rng(0).normal(size=(2, 2, 4, 4)).astype(np.float32)}


def test_none_and_all_are_the_two_graphs(image: dict[str, np.ndarray]) -> None:
    before, after = halves(MODEL, "fold-batch-norm,remove-noops")
    hybrids = Hybrids(before, after)
    none, everything = hybrids.apply([]), hybrids.apply(range(len(hybrids.units)))
    assert none is not None
    assert everything is not None
    assert [n.name for n in none.nodes] == [n.name for n in before.nodes]
    assert sorted(n.op for n in everything.nodes) == sorted(n.op for n in after.nodes)
    for made, graph in ((none, before), (everything, after)):
        for one, other in zip(outputs(to_proto(made), image), outputs(to_proto(graph), image), strict=True):
            np.testing.assert_array_equal(one, other)


def test_every_combination_of_whole_rewrites_computes_the_same(image: dict[str, np.ndarray]) -> None:
    before, after = halves(MODEL, "fold-batch-norm,remove-noops")
    hybrids = Hybrids(before, after)
    rewrites = hybrids.rewrites(range(len(hybrids.units)))
    assert len(rewrites) == 3
    expected = outputs(to_proto(before), image)
    for chosen in product((False, True), repeat=len(rewrites)):
        graph = hybrids.apply([u for take, units in zip(chosen, rewrites, strict=True) if take for u in units])
        assert graph is not None
        assert not verify(graph)
        for one, other in zip(outputs(to_proto(graph), image), expected, strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)


def test_a_shared_weight_changes_for_one_reader_only(image: dict[str, np.ndarray]) -> None:
    before, after = halves(MODEL, RewriteReluScaled(node="c2", factor=2.0))
    hybrids = Hybrids(before, after)
    changed = [k for k, unit in enumerate(hybrids.units) if any(c.node.before.name == "c2" for c in unit.changed)]
    graph = hybrids.apply([k for k in changed if any(1 in (c.inputs or ()) for c in hybrids.units[k].changed)])
    assert graph is not None
    weights = {n.name: n.inputs[1].values.ravel().tolist() for n in graph.nodes if n.is_op("Conv")}
    assert weights == {"c1": [1, 2, -1, 1], "c2": [2, 4, -2, 2], "c3": [1, 2, -1, 1]}
    assert before.nodes[3].inputs[1].values.ravel().tolist() == [1, 2, -1, 1]


def test_added_nodes_come_one_by_one() -> None:
    before, after = halves(MODEL, InsertScales())
    hybrids = Hybrids(before, after)
    assert [[n.op for n in unit.added] for unit in hybrids.units] == [["Mul"]]
    (unit,) = hybrids.units
    assert {c.node.before.name for c in unit.changed} == {"c2", "s"}


@pytest.mark.parametrize("c", [False, True])
def test_bodies_are_mixed_too(c: bool) -> None:
    before, after = halves(BRANCHES, RewriteReluScaled())
    hybrids = Hybrids(before, after)
    feed = {"c": np.array(c), "x": np.array([-1, 2, 3], np.float32)}
    expected = outputs(to_proto(before), feed)
    for chosen in product((False, True), repeat=len(hybrids.units)):
        graph = hybrids.apply([k for k, take in enumerate(chosen) if take])
        assert graph is not None
        ops = [node.op for scope in graph.walk() for node in scope.nodes]
        assert ops.count("Clip") == sum(chosen)
        np.testing.assert_array_equal(outputs(to_proto(graph), feed)[0], expected[0])


def test_a_branch_that_went_away_goes_as_a_whole() -> None:
    before, after = halves(BRANCHES, "fold-constants")
    assert [n.op for n in after.nodes].count("If") == 1
    hybrids = Hybrids(before, after)
    feed = {"c": np.array(True), "x": np.array([-1, 2, 3], np.float32)}
    expected = outputs(to_proto(before), feed)
    valid = [hybrids.apply([k]) for k in range(len(hybrids.units))]
    assert any(graph is not None for graph in valid)
    for graph in filter(None, valid):
        np.testing.assert_array_equal(outputs(to_proto(graph), feed)[0], expected[0])


def test_types_that_change_tie_what_makes_and_reads_them(image: dict[str, np.ndarray]) -> None:
    """Float16 all the way: no part of that makes a model without the rest."""
    graph = load(parser.parse_model(MODEL))
    before = Snapshot(graph)
    PassManager(passes_from_text("convert-float", find_pass)).run(graph, Context())
    hybrids = Hybrids(before.restore(), Snapshot(graph).restore())
    (unit,) = hybrids.units
    assert {c.node.before.name for c in unit.changed} >= {"c1", "c2", "c3"}
    everything = hybrids.apply([0])
    assert everything is not None
    assert sorted(n.op for n in everything.nodes) == sorted(n.op for n in graph.nodes)
    for one, other in zip(outputs(to_proto(everything), image), outputs(to_proto(graph), image), strict=True):
        np.testing.assert_array_equal(one, other)


def test_channels_that_go_tie_their_layers(image: dict[str, np.ndarray]) -> None:
    """A channel between c1 and c2 goes, and one between c3 and c4: two groups, of which either can go alone."""
    text = """
    <ir_version: 8, opset_import: ["": 17]>
    net (float[n, 2, 4, 4] x) => (float[n, 2, 4, 4] y)
    <float[3, 2, 1, 1] w1 = {1, 2, 0, 0, 3, 1}, float[2, 3, 1, 1] w2 = {1, 0, 1, 2, 1, 0}>
    {
      [c1] a = Conv(x, w1)
      [r1] b = Relu(a)
      [c2] c = Conv(b, w2)
      [c3] d = Conv(c, w1)
      [r3] e = Relu(d)
      [c4] y = Conv(e, w2)
    }
    """
    before, after = halves(text, "eliminate-dead-channels{align=1}")
    hybrids = Hybrids(before, after)
    feed = {"x": image["x"]}
    expected = outputs(to_proto(before), feed)[0]
    assert len(hybrids.units) == 2
    for chosen in ([0], [1], [0, 1]):
        graph = hybrids.apply(chosen)
        assert graph is not None
        channels = [n.inputs[1].shape[0] for n in graph.nodes if n.is_op("Conv")]
        assert sorted(channels) == sorted([2, 2, 3 - (0 in chosen), 3 - (1 in chosen)])
        np.testing.assert_allclose(outputs(to_proto(graph), feed)[0], expected, rtol=1e-5, atol=1e-5)


def test_a_pair_of_8_bits_is_a_part_of_its_own() -> None:
    path = Path(__file__).parents[3] / "calibration_data"
    graph = load(path / "digits_cnn.onnx")
    passes = passes_from_text(",".join([*FLOAT, "plan-quantization", "calibrate", "quantize-weights"]), find_pass)
    data = load_dataset(str(path / "calibration.npz"), input_specs(to_proto(graph)), limit=4)
    ctx = Context(target=TARGETS["onnxruntime"], calibration=data)
    PassManager(passes).run(graph, ctx)
    before = Snapshot(graph)
    PassManager(passes_from_text("insert-qdq", find_pass)).run(graph, ctx)
    hybrids = Hybrids(before.restore(), Snapshot(graph).restore())
    quantized = [n.inputs[0].name for n in graph.nodes if n.op == "QuantizeLinear"]
    pairs = [[n for n in unit.added if n.op == "QuantizeLinear"] for unit in hybrids.units]
    assert sorted(n.inputs[0] for pair in pairs for n in pair) == sorted(quantized)
    assert max(len(pair) for pair in pairs) == 1
    for number, pair in enumerate(pairs):
        alone = hybrids.apply([number])
        assert alone is not None
        assert sum(n.op == "QuantizeLinear" for n in alone.nodes) == len(pair)
