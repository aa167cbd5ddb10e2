"""What layers cost with fewer channels is what the model without these channels costs, whatever the network."""

from __future__ import annotations

import numpy as np
import onnx
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from graphopt.analysis.coupling.find import couple
from graphopt.analysis.pruning.layer_costs import LayerCosts
from graphopt.ir import from_proto, infer
from graphopt.report import inspect_model
from tests.support.masking import random_keep, remove
from tests.support.random_networks import networks


@settings(
    max_examples=30,
    derandomize=True,
    database=None,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
@given(networks(), st.integers(0, 2**16))
def test_random_networks(model: onnx.ModelProto, seed: int) -> None:
    graph = from_proto(model)
    infer(graph)
    coupling = couple(graph)
    keep = random_keep(coupling, np.random.default_rng(seed))
    costs = LayerCosts(graph, coupling)
    counts = {group: int(mask.sum()) for group, mask in keep.items()}
    found = inspect_model(from_proto(remove(graph, coupling, keep).pruned), "pruned")
    if not costs.macs_unknown:
        assert costs.macs(counts) == found.macs
    # An operand that says sizes may get a copy (it has other readers, or is an input, too): nothing else is added.
    assert 0 <= found.parameters - costs.params(counts) <= 16
    assert found.weight_bytes - costs.bytes(counts) == 8 * (found.parameters - costs.params(counts))
