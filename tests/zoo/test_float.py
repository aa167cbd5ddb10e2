"""The float preset on real models and on full-size architectures: same outputs, and nothing foldable left."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest

import graphopt
from graphopt.analysis.channels.affine import affine_op
from graphopt.ir import Graph
from graphopt.ir.linear import linear_producer, linear_view
from tests.zoo.conftest import ROOT, names, original, samples, script

pytestmark = pytest.mark.skipif(not ROOT, reason="needs the models that GRAPHOPT_ZOO points at")

# Sizes that a test can afford; the other architectures are in benchmarks/float_preset.py.
LIGHT = ("resnet50", "densenet121", "inception_v1", "inception_v2", "shufflenet", "squeezenet")


def run(model: onnx.ModelProto, feeds: dict[str, Any]) -> list[Any]:
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
    return ort.InferenceSession(model.SerializeToString(), options).run(None, feeds)


def assert_same(before: list[Any], after: list[Any]) -> None:
    for old, new in zip(before, after, strict=True):
        if isinstance(old, np.ndarray) and old.dtype.kind == "f":
            assert np.abs(new - old).max() <= 1e-4 * np.abs(old).max()
        else:
            np.testing.assert_array_equal(new, old)


def foldable(graph: Graph) -> list[str]:
    """BatchNormalizations, and per-channel Mul/Add/Sub/Div that only stand between a linear operator and its reader."""
    found: list[str] = []
    for node in graph.nodes:
        if node.op == "BatchNormalization":
            found.append(str(node))
        elif affine_op(node) is not None:
            data = next((t for t in node.inputs if not hasattr(t, "is_input")), None)
            linear = None if data is None else linear_producer(graph, data)
            if linear is not None and linear.kind != "MatMul" and graph.sole_consumer(linear.output) is node:
                found.append(f"{node} behind {linear.node}")
    return found


@pytest.mark.parametrize("name", names())
def test_zoo(name: str) -> None:
    result = graphopt.optimize(original(name), preset="float")
    assert foldable(result.graph) == []
    for feeds in samples(name)[:2]:
        assert_same(run(original(name), feeds), run(result.model, feeds))


def logits(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model without its last Softmax: random weights saturate it, and then it hides every difference."""
    last = model.graph.node[-1]
    if last.op_type == "Softmax":
        del model.graph.node[-1]
        del model.graph.output[:]
        model.graph.output.append(onnx.helper.make_tensor_value_info(last.input[0], onnx.TensorProto.FLOAT, None))
    return model


@pytest.mark.parametrize("name", LIGHT)
def test_architectures(name: str) -> None:
    model = logits(script("light").build(name))
    result = graphopt.optimize(model, preset="float")
    assert foldable(result.graph) == []
    stored = {i.name for i in model.graph.initializer}
    rng = np.random.default_rng(0)
    feeds = {
        i.name: rng.normal(size=[d.dim_value for d in i.type.tensor_type.shape.dim]).astype(np.float32)
        for i in model.graph.input
        if i.name not in stored
    }
    assert_same(run(model, feeds), run(result.model, feeds))


def test_linear_view_is_what_the_check_looks_at() -> None:
    # Without this the check above could pass because it sees no linear operator at all.
    graph = graphopt.load(original("resnet20_cifar10_bn"))
    assert sum(linear_view(graph, node) is not None for node in graph.nodes) >= 19
