"""Real models in the engines: what is planned in 8 bits runs in 8 bits, and the engines compute the same."""

from __future__ import annotations

import pytest

import graphopt
from graphopt.backends.planned import planned_nodes
from graphopt.targets import TARGETS, Role, find_target
from tests.zoo.conftest import ROOT, compiled, entry, names

pytestmark = pytest.mark.skipif(not ROOT, reason="needs the models that GRAPHOPT_ZOO points at")

# Quick ones of different kinds: depthwise, residual, channels last, detector. benchmarks/verify_zoo.py has them all.
AGREEING = ("kws_dscnn", "resnet20_cifar10_bn", "ppocr_v2_cls", "ultraface_rfb_320")
BUILT = ("kws_dscnn", "resnet8_cifar10", "ppocr_v2_cls")


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("name", names())
def test_the_plan_can_be_read_from_the_model_alone(name: str, target: str) -> None:
    """The nodes that the planner meant, but for those that only move values; nothing else."""
    result, rules = compiled(name, target), find_target(target).rules
    meant = {x.name: x.op for x in result.report.layers if x.integer}
    computing = {n for n, op in meant.items() if op in rules and rules[op].role is not Role.SAME_SCALE}
    found = planned_nodes(graphopt.load(result.model, min_opset=1), find_target(target))
    assert {p.name for p in found} == computing


@pytest.mark.parametrize("target", ["onnxruntime", "openvino"])
@pytest.mark.parametrize("name", names())
def test_every_planned_node_runs_in_8_bits(name: str, target: str) -> None:
    model = compiled(name, target).model
    try:
        found = graphopt.verify(model, target)
    except graphopt.UnsupportedError:
        with pytest.raises(graphopt.UnsupportedError):  # nor can the engine read the float model
            graphopt.verify(entry(name).path, target)
        return
    assert [(n.planned.name, n.layer, n.precision, n.reason) for n in found.precision.missed] == []
    assert found.ok


@pytest.mark.parametrize("device", ["SM86", "SM89"])
@pytest.mark.parametrize("name", BUILT)
def test_tensorrt_builds_every_planned_node_in_8_bits(name: str, device: str) -> None:
    found = graphopt.verify(compiled(name, "tensorrt").model, "tensorrt", device=device)
    assert [(n.planned.name, n.layer, n.precision, n.reason) for n in found.precision.missed] == []
    assert (found.ok, found.precision.device) == (True, device)


@pytest.mark.parametrize("target", ["openvino", "tflite"])
@pytest.mark.parametrize("name", AGREEING)
def test_the_engine_computes_what_the_model_says(name: str, target: str) -> None:
    # A classifier of two classes: with few samples one of them decides about a decibel or two.
    model, (feeds, _) = compiled(name, target).model, entry(name).validation(24)
    found = graphopt.verify(model, target, reference=entry(name).path, data=feeds, latency=False)
    there, written = (a.agreement.outputs[0].sqnr_db for a in found.agreement)
    assert found.ok
    assert there > written - 1
