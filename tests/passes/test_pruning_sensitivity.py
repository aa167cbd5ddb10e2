"""Errors of the outputs when a group loses units, against models whose layers were refitted by hand."""

from __future__ import annotations

import numpy as np
import onnx
import onnx.parser
import pytest

from graphopt.analysis.coupling.find import couple
from graphopt.analysis.pruning.elimination import Ranking
from graphopt.calibration import channel_prediction
from graphopt.ir import Graph, from_proto, infer, to_proto
from graphopt.passes._pruning_sensitivity import measured_curves, measured_errors
from tests.support.rewrite import random_feeds, run


def network() -> onnx.ModelProto:
    """Two inner groups a and b; channels 4 to 7 of a are copies of channels 0 to 3."""
    model = onnx.parser.parse_model(
        """<ir_version: 8, opset_import: ["" : 13]> g (float[N, 3, 6, 6] x) => (float[N, 5, 6, 6] y) {
            a = Conv(x, w0)
            ra = Relu(a)
            b = Conv<pads = [1, 1, 1, 1]>(ra, w1)
            rb = Relu(b)
            y = Conv(rb, w2, c)
        }"""
    )
    rng = np.random.default_rng(0)
    shapes = {"w0": (8, 3, 1, 1), "w1": (8, 8, 3, 3), "w2": (5, 8, 1, 1), "c": (5,)}
    for name, shape in shapes.items():
        values = rng.normal(size=shape).astype(np.float32)
        if name == "w0":
            values[4:] = values[:4]
        model.graph.initializer.append(onnx.numpy_helper.from_array(values, name))
    return model


def loaded(model: onnx.ModelProto) -> Graph:
    graph = from_proto(model)
    infer(graph)
    return graph


def test_the_error_is_that_of_the_refitted_layer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(channel_prediction, "_DAMPING", 1e-9)
    model = network()
    graph = loaded(model)
    group = next(group for group in couple(graph).removable if group.name == "b:1")
    feeds = [random_feeds(model, seed) for seed in range(4)]
    stays = np.array([True, True, False, True, False, True, True, True])
    found = measured_errors(graph, to_proto(graph), group, [stays, np.ones(8, dtype=bool)], feeds)

    outputs = [output.name for output in model.graph.output]
    model.graph.output.append(onnx.helper.make_tensor_value_info("rb", 1, None))
    results = [dict(zip([*outputs, "rb"], run(model, feed), strict=True)) for feed in feeds]
    read, wanted = (
        np.concatenate([np.moveaxis(r[n], 1, -1).reshape(-1, r[n].shape[1]) for r in results]) for n in ("rb", "y")
    )
    known = np.column_stack([read[:, stays], np.ones(len(read))])
    solution, *_ = np.linalg.lstsq(known, wanted, rcond=None)
    expected = np.sum((known @ solution - wanted) ** 2) / np.sum(wanted**2)
    assert found is not None
    assert found == pytest.approx([expected, 0.0], rel=1e-3, abs=1e-9)
    assert expected > 0.01


def test_copies_cost_next_to_nothing_and_the_curve_goes_through_what_was_measured() -> None:
    model = network()
    graph = loaded(model)
    coupling = couple(graph)
    feeds = [random_feeds(model, seed) for seed in range(4)]
    ranking = Ranking(np.array([7, 6, 5, 4, 3, 2, 1, 0]), np.arange(1.0, 9.0))
    counts = {"a:1": (2, 3, 4, 8), "b:1": (2, 3, 4, 5, 6, 7, 8)}
    rankings = dict.fromkeys(counts, ranking)
    curves = measured_curves(graph, coupling, rankings, counts, feeds)
    assert curves["a:1"][-1] == curves["b:1"][-1] == 0
    assert 100 * curves["a:1"][2] < 0.1 < curves["a:1"][1]
    for name, curve in curves.items():
        assert curve == sorted(curve, reverse=True)
        group = next(group for group in coupling.removable if group.name == name)
        fewest = np.arange(8) < counts[name][0]
        assert measured_errors(graph, to_proto(graph), group, [fewest], feeds) == pytest.approx(curve[:1])


def test_readers_that_multiply_activations_read_zeros() -> None:
    model = onnx.parser.parse_model(
        """<ir_version: 8, opset_import: ["" : 13]> g (float[N, 4, 3] x) => (float[N, 4, 4] y)
            <float[3, 4] q = {1,2,3,4,5,6,7,8,9,1,2,3}, float[3, 4] k = {2,1,4,3,6,5,8,7,1,9,3,2}> {
            a = MatMul(x, q)
            b = MatMul(x, k)
            t = Transpose<perm = [0, 2, 1]>(b)
            y = MatMul(a, t)
        }"""
    )
    graph = loaded(model)
    (group,) = couple(graph).removable
    feeds = [random_feeds(model, 0, dynamic=1)]
    stays = np.array([True, True, True, False])
    found = measured_errors(graph, to_proto(graph), group, [stays], feeds)
    x = feeds[0]["x"]
    q, k = (onnx.numpy_helper.to_array(t) for t in model.graph.initializer)
    whole = (x @ q) @ (x @ k).transpose(0, 2, 1)
    lost = (x @ q[:, 3:]) @ (x @ k[:, 3:]).transpose(0, 2, 1)
    assert found == pytest.approx([np.sum(lost**2) / np.sum(whole**2)], rel=1e-4)


def test_groups_that_nothing_sums_over_get_the_others_scale() -> None:
    model = onnx.parser.parse_model(
        """<ir_version: 8, opset_import: ["" : 13]> g (float[N, 3, 6, 6] x)
                => (float[N, 5, 6, 6] y, float[N, 1, 6, 6] z)
            <int64[1] axes = {1}> {
            a = Conv(x, w0)
            y = Conv(a, w2)
            b = Conv(x, w1)
            z = ReduceSum<keepdims = 1>(b, axes)
        }"""
    )
    rng = np.random.default_rng(0)
    for name, shape in {"w0": (8, 3, 1, 1), "w1": (8, 3, 1, 1), "w2": (5, 8, 1, 1)}.items():
        model.graph.initializer.append(onnx.numpy_helper.from_array(rng.normal(size=shape).astype(np.float32), name))
    graph = loaded(model)
    coupling = couple(graph)
    counts: dict[str, tuple[int, ...]] = {"a:1": (2, 4, 8), "b:1": (2, 4, 8)}
    rankings = dict.fromkeys(counts, Ranking(np.arange(8), np.arange(1.0, 9.0)))
    curves = measured_curves(graph, coupling, rankings, counts, [random_feeds(model)])
    assert curves["a:1"][0] > 0
    assert curves["b:1"] == pytest.approx([curves["a:1"][0], curves["a:1"][0] / 6 * 4, 0])


def test_an_output_behind_a_softmax_is_measured_in_front_of_it() -> None:
    plain = network()
    squashed = network()
    squashed.graph.node[-1].output[0] = "logits"
    squashed.graph.node.append(onnx.helper.make_node("Softmax", ["logits"], ["y"], axis=1))
    counts: dict[str, tuple[int, ...]] = {"a:1": (2, 4, 8), "b:1": (2, 4, 8)}
    rankings = dict.fromkeys(counts, Ranking(np.arange(8), np.arange(1.0, 9.0)))
    found: list[dict[str, list[float]]] = []
    for model in (plain, squashed):
        graph = loaded(model)
        found.append(measured_curves(graph, couple(graph), rankings, counts, [random_feeds(model)]))
    assert found[0].keys() == found[1].keys() == counts.keys()
    for name in counts:
        assert found[1][name] == pytest.approx(found[0][name])
