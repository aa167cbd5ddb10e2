"""Costs of real models as functions of what groups keep: to the last one what is left when channels are removed."""

from __future__ import annotations

import zlib

import numpy as np
import pytest

from graphopt.analysis.coupling.find import couple
from graphopt.analysis.pruning.layer_costs import LayerCosts
from graphopt.ir import infer, load
from graphopt.passes._channel_removal import remove_channels
from graphopt.report import inspect_model
from tests.zoo.conftest import entry, names


@pytest.mark.parametrize("name", names())
def test_costs_are_those_of_the_model_with_fewer_channels(name: str) -> None:
    graph = load(entry(name).path)
    infer(graph)
    coupling = couple(graph)
    costs = LayerCosts(graph, coupling)
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    kept = {group.name: int(rng.integers(1, group.units + 1)) for group in coupling.removable}
    masks = {group.name: rng.permutation(np.arange(group.units) < kept[group.name]) for group in coupling.removable}
    macs, params, size = costs.macs(kept), costs.params(kept), costs.bytes(kept)
    remove_channels(graph, coupling, masks)
    found = inspect_model(graph, name)
    assert (found.macs, found.macs_unknown) == (macs, costs.macs_unknown)
    # An operand that says sizes may get a copy (it has other readers, or is an input, too): nothing else is added.
    added = found.parameters - params
    assert 0 <= added <= 16
    assert found.weight_bytes - size == 8 * added
