"""Preset mixed for each target as it is, with its real engine: what ships runs there, and is what the table says."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest

import graphopt
from graphopt.api import mixing
from graphopt.backends.engines import find_engine
from graphopt.passes import _precision_costs
from tests.support.fragile import classified_noise, fragile_net


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """What ships depends on times here, and nothing that is asserted does: a glance is enough."""
    monkeypatch.setattr(mixing, "TIMING_SECONDS", 0.1)
    monkeypatch.setattr(_precision_costs, "latency_costs", partial(_precision_costs.latency_costs, budget=0.5))


@pytest.mark.parametrize("target", ["onnxruntime", "openvino", "tensorrt", "tflite"])
def test_end_to_end(target: str) -> None:
    net = fragile_net()
    samples = classified_noise(net)
    engine = find_engine(graphopt.find_target(target))
    if engine.run is not None:
        pytest.importorskip(engine.library)
    result = graphopt.optimize(
        net, target=target, preset="mixed", calibration_data=samples["x"], validation_data=samples, max_drop=5
    )
    found = result.report.mixed
    assert found is not None
    assert [c.name for c in found.candidates[:3]] == ["original", "float", "int8"]
    timed = [c.latency is not None for c in found.candidates[1:]]
    assert all(timed) if engine.run is not None else not any(timed)
    assert found.engine == ("" if engine.run is None else engine.title)
    # LiteRT runs here, but doesn't tell how long a layer takes.
    assert found.estimated == (target in ("tensorrt", "tflite"))
    assert found.shipped.holds
    if found.shipped.latency is not None and found.shipped.name != "float":
        assert found.shipped.latency.speedup >= 1
    # The model as other eyes see it: its accuracy in onnxruntime, and that its own engine runs it.
    session = graphopt.backends.onnxruntime.open_session(result.model)
    right = [int(np.argmax(session.run(None, {"x": row[None]})[0])) for row in samples["x"]] == samples["labels"]
    assert found.shipped.accuracy == pytest.approx(right.mean())
    assert found.shipped.accuracy >= 0.95
    if engine.run is not None:
        (outputs,) = engine.run(result.model, [{"x": samples["x"][:1]}], 1)
        assert outputs[0].shape == (1, 10)
