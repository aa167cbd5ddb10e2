"""Real models in 8 bits, float16 and float32 at once: TensorRT-RTX computes each region in what it was assigned."""

from __future__ import annotations

import random

import onnx
import pytest

import graphopt
from graphopt.analysis.precision.types import Regions
from graphopt.backends.planned import planned_nodes
from graphopt.calibration import input_specs, load_dataset
from graphopt.calibration.float_fit import misfits
from graphopt.ir import load, to_proto
from graphopt.ir.float_parameters import LOW_FLOATS
from graphopt.passes.calibrate import Calibrate
from graphopt.passes.insert_casts import InsertCasts
from graphopt.passes.insert_qdq import InsertQdq
from graphopt.passes.quantize_weights import QuantizeWeights
from graphopt.pipeline import Context
from graphopt.targets import find_target
from tests.support.regions import plan_assigned, planned_graph, random_assignment
from tests.zoo.conftest import ROOT, entry, names, samples

pytestmark = pytest.mark.skipif(not ROOT, reason="needs the models that GRAPHOPT_ZOO points at")

MODELS = [n for n in names() if n in ("resnet8_cifar10_nchw_muladd", "squeezenet_imagenet", "yunet_n_320")]
TENSORRT = find_target("tensorrt")


def mixed(name: str, seed: int) -> tuple[onnx.ModelProto, Regions, dict[str, str]]:
    """The model with random precisions: half of what isn't in 8 bits in float16, where its values fit."""
    model = graphopt.optimize(str(entry(name).path), target="tensorrt", preset="float", threads=1).model
    graph, regions = planned_graph(model, TENSORRT)
    data = load_dataset(samples(name)[:2], input_specs(model))
    ctx = Context(target=TENSORRT, calibration=data, threads=1)
    Calibrate(method="minmax").run(graph, ctx)
    assignment = random_assignment(regions, rng := random.Random(seed), share=0.4)
    wide = {node.name for node in misfits(graph, graph.nodes, LOW_FLOATS["float16"], data)}
    for region in regions.regions:
        able = "float16" in region.precisions and wide.isdisjoint(region.nodes)
        if assignment[region.name] == "float32" and able and rng.random() < 0.5:
            assignment[region.name] = "float16"
    plan_assigned(graph, TENSORRT, regions, assignment, graph.plan.copy())
    low = {node: "float16" for r in regions.regions if assignment[r.name] == "float16" for node in r.nodes}
    graph.plan.precisions.update(low)
    for pass_ in (QuantizeWeights(), InsertQdq(), InsertCasts()):
        pass_.run(graph, ctx)
        graph.sort()
    return to_proto(graph), regions, assignment


@pytest.mark.parametrize("name", MODELS)
def test_the_plan_s_types_are_the_assignment_s(name: str) -> None:
    pytest.importorskip("tensorrt_rtx")
    from graphopt.backends.tensorrt import precision

    net, regions, assignment = mixed(name, seed=len(name))
    onnx.checker.check_model(net, full_check=True)
    assert len(set(assignment.values())) == 3
    shapes = {key: value.shape for key, value in samples(name)[0].items()}
    found = precision(net, planned_nodes(load(net, min_opset=1), TENSORRT), shapes=shapes)
    assert [(n.planned.name, n.planned.precision, n.precision, n.layer) for n in found.missed] == []
    computed = {n.planned.name: n.precision for n in found.nodes}
    # What is float32 and no matrix product isn't listed, nor what other kernels compute without saying so.
    told = [r.name for r in regions.regions if r.name in computed]
    assert {name: computed[name] for name in told} == {name: assignment[name] for name in told}
    assert len(told) >= sum(precision != "float32" for precision in assignment.values()) - 2
