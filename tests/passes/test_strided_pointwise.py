"""Strides in front of pointwise convolutions: the same values, and only where all readers have them."""

from __future__ import annotations

import onnx
import pytest
from onnx import numpy_helper

from graphopt import optimize
from graphopt.ir import fill_types, from_proto, to_proto
from graphopt.passes._strided_pointwise import split_strides
from tests.support.quantization import model, quantize_model
from tests.support.rewrite import random_feeds, run

X, Y = "float[N,8,11,12] x", "float[A,B,C,D] y"
W = {"p": (4, 8, 1, 1), "q": (4, 8, 1, 1), "w": (4, 8, 3, 3)}


def split(body: str, outputs: str = Y) -> tuple[onnx.ModelProto, onnx.ModelProto]:
    """The model before, and after the first node was asked."""
    before = model(body, X, outputs, **W)
    graph = from_proto(before)
    fill_types(graph)
    split_strides(graph, graph.nodes[0])
    graph.sort()
    after = to_proto(graph)
    onnx.checker.check_model(after, full_check=True)
    return before, after


@pytest.mark.parametrize(
    "body",
    [
        "y = Conv<strides=[2,2]>(x, p)",
        'y = Conv<strides=[3,1], auto_pad="SAME_UPPER", group=1>(x, p)',
        "a = Conv<strides=[2,2]>(x, p) b = Conv<strides=[2,2]>(x, q) y = Add(a, b)",
    ],
)
def test_results_stay_the_same(body: str) -> None:
    before, after = split(body)
    ops = [node.op_type for node in after.graph.node]
    assert ops == ["MaxPool", *(node.op_type for node in before.graph.node)]
    assert not any(a.name == "strides" for n in after.graph.node if n.op_type == "Conv" for a in n.attribute)
    feeds = random_feeds(before)
    assert (run(before, feeds)[0] == run(after, feeds)[0]).all()


@pytest.mark.parametrize(
    "body",
    [
        "y = Conv(x, p)",
        "y = Conv<strides=[2,2]>(x, w)",
        "y = Conv<strides=[2,2], pads=[1,1,1,1]>(x, p)",
        "a = Conv<strides=[2,2]>(x, p) s = Sigmoid(x) b = Conv<strides=[2,2]>(s, q) y = Add(a, b)",
        "a = Conv<strides=[2,2]>(x, p) b = Conv<strides=[1,1]>(x, q) c = GlobalMaxPool(b) y = Add(a, c)",
    ],
)
def test_everything_else_is_left_alone(body: str) -> None:
    before, after = split(body)
    assert [n.op_type for n in after.graph.node] == [n.op_type for n in before.graph.node]


def test_only_the_target_that_needs_it_gets_it() -> None:
    source = model("a = Conv<strides=[2,2]>(x, p) y = Conv(a, k)", X, Y, p=(8, 8, 1, 1), k=(4, 8, 1, 1))
    assert quantize_model(source, "openvino").ops().count("MaxPool") == 1
    assert quantize_model(source, "onnxruntime").ops().count("MaxPool") == 0


def test_weights_are_fitted_to_what_the_layer_reads_in_front_of_its_strides() -> None:
    """OpenVINO's model has the strides apart, onnxruntime's has not: the fitted integers must be the same."""
    body = "a = Conv(x, w) b = Relu(a) y = Conv<strides=[2,2]>(b, p)"
    source = model(body, X, Y, p=(4, 4, 1, 1), w=(4, 8, 3, 3))
    samples = [random_feeds(source, seed=k) for k in range(8)]
    passes = "plan-quantization,calibrate{method=minmax},round-adaptively,quantize-weights,insert-qdq"
    found: list[bytes] = []
    for target in ("openvino", "onnxruntime"):
        made = optimize(source, target=target, passes=passes, calibration_data=samples).model
        assert ("MaxPool" in {n.op_type for n in made.graph.node}) == (target == "openvino")
        stored = {t.name: numpy_helper.to_array(t) for t in made.graph.initializer}
        found.append(next(v.tobytes() for v in stored.values() if v.shape == (4, 4, 1, 1)))
    assert found[0] == found[1]
