"""Real models and full-size architectures, some units of which have no parameters left, lose these."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

import graphopt
from graphopt.analysis.coupling.find import couple
from graphopt.ir import Graph, from_proto, to_proto
from graphopt.passes.eliminate_dead_channels import EliminateDeadChannels
from graphopt.pipeline import Context, PassManager
from tests.support.masking import TOLERANCE, emptied, random_keep
from tests.support.rewrite import random_feeds, run
from tests.zoo.conftest import ROOT, names, original, samples, script
from tests.zoo.test_channel_removal import unsquashed

pytestmark = pytest.mark.skipif(not ROOT, reason="needs the models that GRAPHOPT_ZOO points at")

# The others have no block that these don't have.
LIGHT = ("densenet121", "inception_v2", "shufflenet")


def simplified(model: onnx.ModelProto) -> Graph:
    """As preset float leaves it, without what training left dead."""
    graph = graphopt.optimize(unsquashed(model), preset="float").graph
    PassManager([EliminateDeadChannels(align=1)]).run(graph, Context())
    return graph


def removed(model: onnx.ModelProto, feeds: dict[str, NDArray[Any]]) -> int:
    """How many units the pass removes; the outputs stay."""
    graph, ctx = from_proto(model), Context()
    PassManager([EliminateDeadChannels(align=1)]).run(graph, ctx)
    for wanted, found in zip(run(model, feeds), run(to_proto(graph), feeds), strict=True):
        assert np.abs(found - wanted).max() <= TOLERANCE * np.abs(wanted).max()
    return sum(int(r.message.split(" of ")[0]) for r in ctx.remarks.items if r.kind == "applied")


def check(graph: Graph, feeds: dict[str, NDArray[Any]]) -> None:
    coupling = couple(graph)
    keep = random_keep(coupling, np.random.default_rng(0), share=0.7)
    expected = sum(int((~stays).sum()) for stays in keep.values())
    gone = removed(emptied(graph, coupling, keep), feeds)
    # Others can die with them: what is left of a layer's weights may be negative only, before a Relu.
    assert expected <= gone <= expected + 0.02 * expected


@pytest.mark.parametrize("name", names())
def test_zoo(name: str) -> None:
    check(simplified(original(name)), samples(name)[0])


@pytest.mark.parametrize("name", LIGHT)
def test_architectures(name: str) -> None:
    model = script("light").build(name)
    check(simplified(model), random_feeds(model))


def test_a_channel_that_training_left_dead() -> None:
    name = "super_resolution_espcn"
    assert removed(to_proto(graphopt.load(original(name))), samples(name)[0]) == 1
