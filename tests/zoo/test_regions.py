"""Fusion regions of real models: assignments are what planning makes of them, and what the engines run."""

from __future__ import annotations

import functools
import random

import numpy as np
import onnx
import pytest

import graphopt
from graphopt.analysis.precision.regions import assigned_nodes, realised
from graphopt.analysis.precision.types import Regions
from graphopt.backends import onnxruntime
from graphopt.backends.engines import find_engine
from graphopt.backends.measures import sqnr_db
from graphopt.backends.planned import planned_nodes
from graphopt.calibration import input_specs, load_dataset
from graphopt.ir import Graph, to_proto
from graphopt.ir.ops import LINEAR
from graphopt.passes.calibrate import Calibrate
from graphopt.passes.insert_qdq import InsertQdq
from graphopt.passes.quantize_weights import QuantizeWeights
from graphopt.pipeline import Context
from graphopt.quant import QuantPlan
from graphopt.targets import TARGETS, find_target
from tests.support.regions import plan_assigned, planned_graph, random_assignment
from tests.zoo.conftest import ROOT, entry, names, samples

pytestmark = pytest.mark.skipif(not ROOT, reason="needs the models that GRAPHOPT_ZOO points at")

SMALL = [n for n in names() if n in ("kws_dscnn", "resnet8_cifar10", "yunet_n_320", "ppocr_v2_cls")]


@functools.cache
def simplified(name: str, target: str) -> onnx.ModelProto:
    return graphopt.optimize(str(entry(name).path), target=target, preset="float", threads=1).model


@pytest.mark.parametrize("name", names())
@pytest.mark.parametrize("target", TARGETS)
def test_assignments_are_planned_as_they_are(name: str, target: str) -> None:
    graph, regions = planned_graph(simplified(name, target), find_target(target))
    listed = [node for r in regions.regions for node in (*r.nodes, *r.carried)]
    assert sorted(listed) == sorted(node.name for node in graph.nodes if node.op != "Constant")
    full = graph.plan.copy()
    rng = random.Random(0)
    for share in (1.0, 0.5):
        assignment = random_assignment(regions, rng, share)
        plan_assigned(graph, find_target(target), regions, assignment, full)
        assert realised(graph, regions) == assignment
        assert set(graph.plan.tensors) <= set(full.tensors)


def mixed(name: str, target: str, seed: int) -> tuple[Graph, Regions, dict[str, str]]:
    """The model with Q/DQ for a random assignment."""
    model = simplified(name, target)
    graph, regions = planned_graph(model, find_target(target))
    data = load_dataset(samples(name)[:2], input_specs(model))
    ctx = Context(target=find_target(target), calibration=data, threads=1)
    Calibrate(method="minmax").run(graph, ctx)
    full: QuantPlan = graph.plan.copy()
    assignment = random_assignment(regions, random.Random(seed))
    plan_assigned(graph, find_target(target), regions, assignment, full)
    for pass_ in (QuantizeWeights(), InsertQdq()):
        pass_.run(graph, ctx)
        graph.sort()
    return graph, regions, assignment


@pytest.mark.parametrize("name", [n for n in names() if n in ("kws_dscnn", "mobilenetv1_025_imagenet_bn")])
def test_onnxruntime_computes_what_is_written(name: str) -> None:
    """Left to itself it rounds the weights of float layers between integers: 2 to 7 dB less than the model says."""
    graph, _, _ = mixed(name, "onnxruntime", seed=1)
    model, feeds = to_proto(graph), samples(name)[:4]
    runs = [
        onnxruntime.run(m, feeds, optimize=o)
        for m, o in ((simplified(name, "onnxruntime"), True), (model, True), (model, False))
    ]
    losses = [[sqnr_db(f[0], q[0]) for q in (e, w)] for f, e, w in zip(*runs, strict=True)]
    engine, written = np.mean(losses, axis=0)
    assert abs(engine - written) < 1.0


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("target", ["onnxruntime", "openvino"])
def test_the_engine_runs_what_was_assigned_and_nothing_else(name: str, target: str) -> None:
    graph, regions, assignment = mixed(name, target, seed=len(name))
    planned = planned_nodes(graph, find_target(target))
    linear = {r.name for r in regions.regions if r.op in LINEAR and assignment[r.name] == "int8"}
    assert {p.name for p in planned if p.linear} == linear
    engine = find_engine(find_target(target))
    found = engine.precision(to_proto(graph), planned, engine.device(None), {})
    # An Add in float between integers looks planned: the engine may run it either way, with the same numbers.
    assigned = set(assigned_nodes(regions, assignment))
    assert [(n.planned.name, n.layer, n.reason) for n in found.missed if n.planned.name in assigned] == []
