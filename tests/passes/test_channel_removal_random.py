"""Whatever coupling lets go from random networks: the pruned model equals the masked one."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from graphopt.analysis.coupling.find import couple
from graphopt.ir import from_proto, infer
from tests.support.masking import assert_same_as_masked, random_keep, remove
from tests.support.network_writer import Block
from tests.support.random_networks import ANY_SIZE_BLOCKS, BLOCKS, OPSETS, network, networks
from tests.support.rewrite import random_feeds, run


def check(model: onnx.ModelProto, seed: int) -> bool:
    """Remove a random choice of what can be removed; whether that changes what the model computes."""
    graph = from_proto(model)
    infer(graph)
    coupling = couple(graph)
    rng = np.random.default_rng(seed)
    removed = remove(graph, coupling, random_keep(coupling, rng, share=rng.choice([0.0, 0.3, 0.6, 0.9])))
    onnx.checker.check_model(removed.pruned, full_check=True)
    feeds = random_feeds(model, seed, dynamic=4)
    found = assert_same_as_masked(removed, feeds)
    pairs = zip(run(model, feeds), found, strict=True)
    return any(not np.allclose(whole, pruned, rtol=1e-3, atol=1e-3) for whole, pruned in pairs)


def test_random_networks() -> None:
    changed: list[bool] = []

    @settings(max_examples=200, derandomize=True, database=None, deadline=None, suppress_health_check=list(HealthCheck))
    @given(networks(), st.integers(0, 2**16))
    def holds(model: onnx.ModelProto, seed: int) -> None:
        changed.append(check(model, seed))

    holds()
    # Otherwise nothing was removed, and nothing held.
    assert len(changed) >= 200
    assert sum(changed) > 0.9 * len(changed)


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: block.__name__)
def test_each_block_alone(block: Block) -> None:
    # Every block with half of the opsets, so that a failure names it.
    for place, opset in enumerate(OPSETS):
        if (place + BLOCKS.index(block)) % 2 == 0:
            any_size = block in ANY_SIZE_BLOCKS and place % 3 == 0
            check(network([block], opset, "N" if place % 4 < 2 else 2, place, any_size=any_size), seed=place)
