"""Random networks with zeros in their weights: the outputs stay, and units of which nothing is left go."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import numpy_helper

from graphopt.analysis.coupling.find import couple
from graphopt.ir import from_proto, infer, to_proto
from graphopt.passes.eliminate_dead_channels import EliminateDeadChannels
from graphopt.pipeline import Context, PassManager
from graphopt.pipeline.instruments import Verify
from tests.support.masking import TOLERANCE, emptied, random_keep
from tests.support.network_writer import Network, Value, layer
from tests.support.random_networks import BLOCKS, OPSETS, head, networks
from tests.support.rewrite import random_feeds, run


def eliminated(model: onnx.ModelProto, seed: int, align: int = 1) -> list[str]:
    """Run the pass, hold the outputs to those before; what it says it did."""
    graph, ctx = from_proto(model), Context()
    PassManager([EliminateDeadChannels(align)], [Verify()]).run(graph, ctx)
    after = to_proto(graph)
    onnx.checker.check_model(after, full_check=True)
    feeds = random_feeds(model, seed, dynamic=3)
    for wanted, found in zip(run(model, feeds), run(after, feeds), strict=True):
        assert np.isfinite(wanted).all()
        assert np.abs(found - wanted).max(initial=0.0) <= TOLERANCE * np.abs(wanted).max(initial=0.0)
    return [r.message for r in ctx.remarks.items if r.kind == "applied"]


def with_zeros(model: onnx.ModelProto, seed: int) -> onnx.ModelProto:
    """Rows and columns of weights become 0, biases and gammas 0 or −2."""
    rng = np.random.default_rng(seed)
    for stored in model.graph.initializer:
        values = numpy_helper.to_array(stored).copy()
        if not stored.name.startswith("w"):
            continue
        if values.ndim == 1:
            values[rng.random(len(values)) < 0.4] = rng.choice([0, -2])
        for axis in range(values.ndim if values.ndim > 1 else 0):
            if rng.random() < 0.6:
                np.moveaxis(values, axis, 0)[rng.random(values.shape[axis]) < 0.3] = 0
        stored.CopyFrom(numpy_helper.from_array(values, stored.name))
    return model


def check_emptied(model: onnx.ModelProto, seed: int) -> int:
    """Set all parameters of random units to 0: each of these units has to go. How many they are.

    Integer weights would need more to be 0, and constants aren't followed through Einsum.
    """
    if any(node.op_type in ("DequantizeLinear", "Einsum") for node in model.graph.node):
        return 0
    graph = from_proto(model)
    infer(graph)
    coupling = couple(graph)
    keep = random_keep(coupling, np.random.default_rng(seed))
    said = eliminated(emptied(graph, coupling, keep), seed)
    went = sum(int(message.split(" of ")[0]) for message in said)
    expected = sum(int((~stays).sum()) for stays in keep.values())
    assert went >= expected
    return expected


def test_random_zeros() -> None:
    said: list[int] = []

    @settings(max_examples=80, derandomize=True, database=None, deadline=None, suppress_health_check=list(HealthCheck))
    @given(networks(), st.integers(0, 2**16))
    def holds(model: onnx.ModelProto, seed: int) -> None:
        said.append(len(eliminated(with_zeros(model, seed), seed, align=1 + seed % 4)))

    holds()
    # Otherwise nothing was removed, and nothing held.
    assert sum(count > 0 for count in said) > 0.7 * len(said)


def test_random_units_without_parameters() -> None:
    gone: list[int] = []

    @settings(max_examples=40, derandomize=True, database=None, deadline=None, suppress_health_check=list(HealthCheck))
    @given(networks(), st.integers(0, 2**16))
    def holds(model: onnx.ModelProto, seed: int) -> None:
        gone.append(check_emptied(model, seed))

    holds()
    assert np.mean(gone) > 8


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: block.__name__)
def test_each_block_alone(block) -> None:
    # Every block with half of the opsets each, so that a failure names it.
    for place, opset in enumerate(OPSETS):
        if (place + BLOCKS.index(block)) % 2:
            continue
        net = Network(opset, "N" if place % 4 < 2 else 2, seed=place)
        source = Value("x", 3, 8, 6)
        head(net, block(net, layer(net, source, 8)))
        check_emptied(net.model(source), place)
        eliminated(with_zeros(net.model(source), place), place)
