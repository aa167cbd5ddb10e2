"""Costs of regions of real models: bytes are those of the written file, and no kernel's time is lost."""

from __future__ import annotations

import functools
import random
from collections.abc import Iterator
from typing import Any

import onnx
import pytest

import graphopt
from benchmarks import region_latency
from benchmarks._mixed_subject import Subject
from graphopt.analysis.macs import layer_macs
from graphopt.analysis.precision.costs import bit_costs, size_costs, total_macs
from graphopt.analysis.precision.problem import evaluate
from graphopt.analysis.precision.types import Costs, Problem, Regions, Sensitivity
from graphopt.backends.engines import find_engine
from graphopt.backends.region_times import region_times, uniform
from graphopt.calibration import input_specs, load_dataset
from graphopt.calibration.shapes import infer
from graphopt.ir import Graph, to_proto
from graphopt.passes.calibrate import Calibrate
from graphopt.passes.insert_qdq import InsertQdq
from graphopt.passes.quantize_weights import QuantizeWeights
from graphopt.pipeline import Context
from graphopt.targets import TARGETS, find_target
from tests.support.regions import plan_assigned, planned_graph, random_assignment
from tests.zoo.conftest import ROOT, entry, names, samples

pytestmark = pytest.mark.skipif(not ROOT, reason="needs the models that GRAPHOPT_ZOO points at")

SMALL = [n for n in names() if n in ("kws_dscnn", "resnet8_cifar10", "yunet_n_320", "ppocr_v2_cls")]


@functools.cache
def simplified(name: str, target: str) -> onnx.ModelProto:
    return graphopt.optimize(str(entry(name).path), target=target, preset="float", threads=1).model


def calibrated(name: str, target: str) -> tuple[Graph, Regions, Context]:
    """The float graph, planned in 8 bits with ranges."""
    graph, regions = planned_graph(simplified(name, target), find_target(target))
    data = load_dataset(samples(name)[:1], input_specs(simplified(name, target)))
    ctx = Context(target=find_target(target), calibration=data, threads=1)
    Calibrate(method="minmax").run(graph, ctx)
    return graph, regions, ctx


def problem(regions: Regions, costs: Costs) -> Problem:
    choices = {region.name: region.precisions for region in regions.regions}
    return Problem(regions, choices, Sensitivity("weights", {}, {}), costs)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("name", SMALL)
def test_bytes_are_those_of_the_written_model(name: str, target: str) -> None:
    """But for scales and zero points of activations, and biases that planning adds: less than 2 %."""
    graph, regions, ctx = calibrated(name, target)
    costs = size_costs(graph, regions)
    whole = sum(c.nbytes for scope in graph.walk() for c in scope.constants)
    assert evaluate(problem(regions, costs), uniform(regions, "float32")).cost == whole
    assignment = random_assignment(regions, random.Random(name))
    plan_assigned(graph, find_target(target), regions, assignment, graph.plan.copy())
    # Planning may quantize a tensor that nobody read so before.
    Calibrate(method="minmax").run(graph, ctx)
    QuantizeWeights().run(graph, ctx)
    InsertQdq().run(graph, ctx)
    graph.sort()
    written = sum(c.nbytes for scope in graph.walk() for c in scope.constants)
    assert evaluate(problem(regions, costs), assignment).cost == pytest.approx(written, rel=0.02)


@pytest.mark.parametrize("name", SMALL)
def test_no_layer_s_multiply_accumulates_are_lost(name: str) -> None:
    graph, regions, _ = calibrated(name, "onnxruntime")
    shapes = infer(to_proto(graph), {n: v.shape for n, v in samples(name)[0].items()}).shapes
    costs = bit_costs(graph, regions, shapes)
    assert total_macs(costs) == sum(count or 0 for count in layer_macs(graph, shapes).values())
    assert evaluate(problem(regions, costs), uniform(regions, "float32")).cost == 32 * total_macs(costs)


@pytest.mark.parametrize("target", ["onnxruntime", "openvino"])
@pytest.mark.parametrize("name", SMALL)
def test_no_kernel_s_time_is_lost(name: str, target: str) -> None:
    """In float and in 8 bits: every convolution has a time, and what belongs to no region is less than 3 %."""
    if target == "openvino":
        pytest.importorskip("openvino")
    profile = find_engine(find_target(target)).profile
    assert profile is not None
    graph, regions, ctx = calibrated(name, target)
    floating = to_proto(graph)
    QuantizeWeights().run(graph, ctx)
    InsertQdq().run(graph, ctx)
    graph.sort()
    for model, precision in ((floating, "float32"), (to_proto(graph), "int8")):
        found = region_times(profile(model, samples(name)[:1], 1, 0.05), regions, uniform(regions, precision, model))
        assert found.fixed <= 0.03 * found.total
        assert all(found.regions[region.name] > 0 for region in regions.regions if region.op == "Conv")


def test_the_benchmark_compares_what_is_predicted_with_what_is_measured(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With bits for seconds: all in 8 bits is predicted to take a quarter, and each model that is timed is another."""
    timed: list[int] = []

    def clock(runs: list[Iterator[Any]], seconds: float) -> list[float]:
        timed.extend(len(next(run)) for run in runs)
        return [1.0] * len(runs)

    def bits(subject: Subject, kind: str) -> Costs:
        assert kind == "latency"
        return bit_costs(subject.graph(), subject.regions)

    monkeypatch.setattr(region_latency, "undisturbed_seconds", clock)
    monkeypatch.setattr(Subject, "costs", bits)
    region_latency.main(["--models", "kws_dscnn", "--targets", "onnxruntime"])
    lines = capsys.readouterr().out.splitlines()
    assert len(timed) == len(lines) - 1 == 6
    assert lines[1].split()[-3:] == ["1.000", "1.000", "+0.0%"]
    assert lines[2].split()[-3:] == ["0.250", "1.000", "-75.0%"]
