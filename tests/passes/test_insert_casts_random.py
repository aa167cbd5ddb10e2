"""Random networks with random types: whatever is assigned, the model is valid, and computes nearly the same."""

from __future__ import annotations

import random

import numpy as np
import onnx
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from graphopt.calibration import input_specs, load_dataset
from graphopt.calibration.float_fit import misfits
from graphopt.ir import fill_types, from_proto, to_proto
from graphopt.ir.float_parameters import LOW_FLOATS, float_parameters
from graphopt.passes.insert_casts import InsertCasts
from graphopt.pipeline import Context, PassManager
from graphopt.pipeline.instruments import Verify
from graphopt.targets import find_target
from tests.support.random_networks import networks
from tests.support.rewrite import random_feeds, run

HALF = LOW_FLOATS["float16"]


def noise(found: np.ndarray, wanted: np.ndarray) -> float:
    """‖found − wanted‖ / ‖wanted‖."""
    return float(np.linalg.norm(found - wanted) / max(np.linalg.norm(wanted), 1e-6))


@settings(max_examples=40, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(networks(), st.integers(0, 2**32 - 1))
def test_random_types(model: onnx.ModelProto, seed: int) -> None:
    # A Squeeze that doesn't say of what fails with a batch of 1, which is what a sample is.
    assume(all(n.op_type != "Squeeze" or len(n.input) > 1 or n.attribute for n in model.graph.node))
    feeds = random_feeds(model, seed, dynamic=3)
    graph = from_proto(model)
    fill_types(graph)
    wide = misfits(graph, graph.nodes, HALF, load_dataset([feeds], input_specs(model)), threads=1)
    rng = random.Random(seed)
    chosen = [node for node in graph.nodes if node not in wide and rng.random() < 0.6]
    assume(chosen)
    graph.plan.precisions.update((node.name, "float16") for node in chosen)
    PassManager([InsertCasts()], [Verify()]).run(graph, Context(target=find_target("tensorrt")))
    after = to_proto(graph)
    onnx.checker.check_model(after, full_check=True)
    assert [(o.name, o.type.tensor_type.elem_type) for o in after.graph.output] == [
        (o.name, o.type.tensor_type.elem_type) for o in model.graph.output
    ]
    again = from_proto(after)
    fill_types(again)
    made = {node.name: node for node in again.nodes}
    for node in from_proto(model).nodes:
        if node.name in graph.plan.precisions:
            opset = graph.facts.opset_imports.get(node.domain, 1)
            left = float_parameters(made[node.name], opset, HALF)
            assert not isinstance(left, str)
            assert not left.outputs
    for found, wanted in zip(run(after, feeds), run(model, feeds), strict=True):
        assert noise(found, wanted) < 0.02
