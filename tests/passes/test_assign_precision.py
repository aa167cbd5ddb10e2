"""assign-precision: what it chooses, that the plan says so, and that a saved assignment gives the same model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, helper, numpy_helper

from graphopt.analysis.precision.budget import float_cost
from graphopt.errors import ConfigError
from graphopt.ir import Graph, load
from graphopt.passes.assign_precision import AssignPrecision, UseAssignment
from graphopt.passes.calibrate import Calibrate
from graphopt.passes.insert_casts import InsertCasts
from graphopt.passes.insert_qdq import InsertQdq
from graphopt.passes.plan_quantization import PlanQuantization
from graphopt.passes.quantize_weights import QuantizeWeights
from graphopt.pipeline import Context, Pass, PassManager
from graphopt.pipeline.instruments import Verify
from graphopt.report.samples import open_samples
from graphopt.targets import find_target

_RNG = np.random.default_rng(7)
_DATA = [{"x": _RNG.normal(size=(1, 4, 8, 8)).astype(np.float32)} for _ in range(6)]


def _model() -> ModelProto:
    """Three convolutions; in the middle one, one weight of each channel is much larger than the others."""
    rng = np.random.default_rng(3)

    def weight(*shape: int) -> NDArray[np.float32]:
        return (rng.normal(size=shape) / np.sqrt(np.prod(shape[1:]))).astype(np.float32)

    wide = weight(8, 8, 3, 3)
    wide[:, 0, 0, 0] = 40.0
    values = {"w1": weight(8, 4, 3, 3), "w2": wide, "w3": weight(4, 8, 1, 1), "w4": weight(3, 4)}
    nodes = [
        helper.make_node("Conv", ["x", "w1"], ["a"], "conv1", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["a"], ["b"], "relu1"),
        helper.make_node("Conv", ["b", "w2"], ["c"], "conv2", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c"], ["d"], "relu2"),
        helper.make_node("Conv", ["d", "w3"], ["e"], "conv3"),
        helper.make_node("GlobalAveragePool", ["e"], ["f"], "pool"),
        helper.make_node("Flatten", ["f"], ["g"], "flatten"),
        helper.make_node("Gemm", ["g", "w4"], ["h"], "fc", transB=1),
        helper.make_node("Softmax", ["h"], ["y"], "softmax"),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 4, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 3])],
        [numpy_helper.from_array(v, k) for k, v in values.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def _run(target: str, passes: Sequence[Pass], *, data: bool = True) -> tuple[Graph, Context]:
    graph = load(_model())
    samples = open_samples(_DATA, graph, "calibration data", None) if data else None
    ctx = Context(target=find_target(target), calibration=samples, threads=1)
    PassManager(passes, (Verify(),)).run(graph, ctx)
    return graph, ctx


def _assigned(target: str, options: AssignPrecision) -> tuple[Graph, Context]:
    return _run(target, [PlanQuantization(), Calibrate(), options])


@pytest.mark.parametrize("target", ["openvino", "onnxruntime", "tflite", "tensorrt"])
def test_the_plan_is_the_assignment(target: str) -> None:
    graph, ctx = _assigned(target, AssignPrecision(budget="bits=14", precisions=("int8",), sensitivity="local"))
    found = ctx.precision
    assert found is not None
    assert found.demand == "bits=14"
    chosen = found.chosen.precisions
    assert set(chosen.values()) == {"int8", "float32"}
    for region in found.problem.regions.regions:
        assert (region.name in graph.plan.quantized_nodes) == (chosen[region.name] == "int8")
    assert found.chosen.cost <= 14 / 32 * float_cost(found.problem.regions, found.problem.costs) * (1 + 1e-9)
    assert all(entry.range is not None for entry in graph.plan)


def test_the_layer_that_loses_most_stays_float() -> None:
    _, ctx = _assigned("openvino", AssignPrecision(budget="bits=24", precisions=("int8",)))
    assert ctx.precision is not None
    assert ctx.precision.chosen.precisions["conv2"] == "float32"


def test_the_front_falls_in_error_as_it_rises_in_cost() -> None:
    _, ctx = _assigned("openvino", AssignPrecision(cost="bits", precisions=("int8",)))
    assert ctx.precision is not None
    front = ctx.precision.front
    assert len(front) > 2
    assert all(a.cost < b.cost and a.error > b.error for a, b in pairwise(front))
    assert ctx.precision.chosen.cost == pytest.approx(front[0].cost)


def test_a_least_sqnr_is_met_by_the_tables() -> None:
    _, ctx = _assigned("openvino", AssignPrecision(cost="bits", min_sqnr=40.0, precisions=("int8",)))
    assert ctx.precision is not None
    assert ctx.precision.chosen.error <= 1e-4
    assert ctx.precision.demand == "the least bits at 40 dB"


def test_without_samples_the_weights_tell() -> None:
    graph, ctx = _assigned("openvino", AssignPrecision(budget="bits=24", sensitivity="weights", precisions=("int8",)))
    assert ctx.precision is not None
    assert ctx.precision.problem.sensitivity.grade == "weights"
    assert "conv2" not in graph.plan.quantized_nodes


def test_rules_of_the_user_hold() -> None:
    rules = ("Conv=int8", "conv1=float", "nobody=int8")
    graph, ctx = _assigned("openvino", AssignPrecision(cost="bits", precision=rules, sensitivity="local"))
    assert {"conv2", "conv3"} <= graph.plan.quantized_nodes.keys()
    assert "conv1" not in graph.plan.quantized_nodes
    assert ctx.precision is not None
    assert ctx.precision.reasons["conv1"] == "float32 is asked for"
    notes = [remark.message for remark in ctx.remarks.items]
    assert "no node is meant by 'nobody=int8'" in notes


def test_a_rule_that_the_target_has_no_kernel_for_is_declined() -> None:
    _, ctx = _assigned("openvino", AssignPrecision(cost="bits", precision=("Softmax=int8",), sensitivity="local"))
    said = [r for r in ctx.remarks.items if r.kind == "declined" and r.node == "softmax"]
    assert [r.message for r in said] == [
        "assigned float32: not int8, which is asked for: the target has no such Softmax"
    ]


def test_other_types_are_noted_and_made() -> None:
    passes = [
        PlanQuantization(),
        Calibrate(),
        AssignPrecision(cost="bits", precision=("fc=float16", "softmax=float16")),
    ]
    graph, ctx = _run("tensorrt", [*passes, QuantizeWeights(), InsertQdq(), InsertCasts()])
    assert ctx.precision is not None
    assert graph.plan.precisions == {"fc": "float16", "softmax": "float16"}
    fc = next(node for node in graph.nodes if node.name == "fc")
    assert {str(t.dtype) for t in (*fc.inputs, *fc.outputs)} == {"float16"}


def test_a_saved_assignment_is_replayed_without_samples(tmp_path: Path) -> None:
    options = AssignPrecision(budget="bits=24", precisions=("int8",))
    graph, ctx = _assigned("openvino", options)
    assert ctx.precision is not None
    path = tmp_path / "plan.json"
    ctx.precision.save_plan(path)
    again, _ = _run("openvino", [PlanQuantization(), AssignPrecision(plan=str(path))], data=False)
    assert again.plan.quantized_nodes == graph.plan.quantized_nodes
    ranges, others = graph.plan.solved_ranges(), again.plan.solved_ranges()
    assert ranges.keys() == others.keys()
    assert all(np.array_equal(ranges[n].low, others[n].low) for n in ranges)
    assert all(np.array_equal(ranges[n].high, others[n].high) for n in ranges)


def test_another_assignment_goes_on_from_the_same_plan() -> None:
    wanted = {"conv1": "int8", "conv2": "float32", "conv3": "int8", "pool": "float32", "fc": "float32"}
    graph, ctx = _assigned("openvino", AssignPrecision(budget="bits=24", precisions=("int8",)))
    assert ctx.precision is not None
    names = [region.name for region in ctx.precision.problem.regions.regions]
    assignment = {name: wanted.get(name, "float32") for name in names}
    graph, _ = _run("openvino", [PlanQuantization(), Calibrate(), UseAssignment(assignment)])
    assert set(graph.plan.quantized_nodes) == {"conv1", "conv3"}


@pytest.mark.parametrize(
    ("options", "part"),
    [
        ({"budget": "speed=2"}, "is no budget"),
        ({"budget": "bits=9", "min_sqnr": 20.0}, "give a budget or min-sqnr"),
        ({"budget": "bits=9", "cost": "size"}, "the budget is about bits, and cost is size"),
        ({"precisions": ("int7",)}, "there is no precision 'int7'"),
        ({"precision": ("Softmax",)}, "doesn't say which precision"),
        ({"plan": "p.json", "budget": "bits=9"}, "replayed as it is"),
        ({"samples": 0}, "samples is 0"),
    ],
)
def test_options_that_make_no_sense(options: dict[str, object], part: str) -> None:
    with pytest.raises(ValueError, match=part):
        replace(AssignPrecision(), **options)  # pyright: ignore[reportArgumentType]  # wrong on purpose


def test_a_budget_that_cannot_be_met_says_what_can() -> None:
    with pytest.raises(ConfigError, match="can't be reached by precision: the least is"):
        _assigned("openvino", AssignPrecision(budget="bits=2", precisions=("int8",), sensitivity="weights"))


def test_it_wants_a_plan_with_ranges() -> None:
    with pytest.raises(ConfigError, match="nothing is planned: put 'plan-quantization'"):
        _run("openvino", [AssignPrecision()])
    with pytest.raises(ConfigError, match="ranges are missing: put 'calibrate'"):
        _run("openvino", [PlanQuantization(), AssignPrecision()])
