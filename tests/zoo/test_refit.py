"""What repair is for: a real network that lost a third of its inner channels classifies nearly as before."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from graphopt.analysis.coupling.find import couple
from graphopt.calibration.rankings import importance, rankings
from graphopt.ir import from_proto, infer, to_proto
from graphopt.passes._channel_removal import remove_channels
from graphopt.passes._refit import refit_layers
from graphopt.pipeline import Context
from tests.support.rewrite import plain_session
from tests.zoo.conftest import ROOT, entry

pytestmark = pytest.mark.skipif(not ROOT, reason="needs the models that GRAPHOPT_ZOO points at")

SAMPLES, TRIED = 128, 250


@pytest.mark.parametrize("name", ["resnet20_cifar10_bn"])
def test_the_drop_is_a_third_of_what_magnitudes_lose_without_repair(name: str) -> None:
    """At −30 % multiply-accumulates; BatchNormalizations stay, as in the file."""
    zoo = entry(name)
    calibration, (inputs, labels) = zoo.calibration(SAMPLES), zoo.validation(TRIED)
    model = onnx.load(zoo.path)

    def right(tried: onnx.ModelProto) -> float:
        session = plain_session(tried)
        return float(np.mean([session.run(None, x)[0].argmax() == y for x, y in zip(inputs, labels, strict=True)]))

    def pruned(criterion: str, *, repair: bool) -> onnx.ModelProto:
        graph = from_proto(onnx.ModelProto.FromString(model.SerializeToString()))
        infer(graph)
        coupling = couple(graph)
        # Those that run through one block only: all but the streams.
        groups = [group for group in coupling.removable if len(group.members) < 15]
        found = rankings(graph, groups, importance(criterion, samples=True), calibration, threads=1)
        keep = {
            group: ~np.isin(np.arange(len(r.order)), r.order[: len(r.order) * 3 // 10]) for group, r in found.items()
        }
        kept = coupling.kept(keep)
        remove_channels(graph, coupling, keep)
        if repair:
            refit_layers(graph, Context(threads=1), model, kept, calibration, rounds=2)
        return to_proto(graph)

    whole = right(model)
    lost = whole - right(pruned("l1", repair=False))
    assert lost > 0.15
    assert whole - right(pruned("reconstruction", repair=True)) <= lost / 3
