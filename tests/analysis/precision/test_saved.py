"""Assignments on disk: what is written is read back, edits by hand count, and another model's are refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from graphopt.analysis.precision.record import PrecisionChoice
from graphopt.analysis.precision.regions import find_regions
from graphopt.analysis.precision.saved import SavedPlan, read_plan
from graphopt.analysis.precision.types import Costs, Problem, Sensitivity, Solution
from graphopt.errors import ConfigError, EmitError
from graphopt.ir import Constant, Graph, to_proto
from graphopt.quant import Range
from graphopt.targets import find_target
from tests.support.quantization import model, plan_of


def planned(target: str = "tensorrt", names: str = "abcy") -> Graph:
    """Two convolutions with Relus, a Softmax and a Gemm, planned in 8 bits, with made-up ranges."""
    a, b, c, y = names
    body = f"""
        {a} = Conv<kernel_shape=[3,3]>(x, w1) r{a} = Relu({a})
        {b} = Conv<kernel_shape=[3,3]>(r{a}, w2)
        f = Flatten({b})
        {c} = Gemm(f, w3)
        {y} = Softmax({c})
    """
    net = model(
        body, "float[1,4,8,8] x", f"float[1,8] {y}", 0, w1=(8, 4, 3, 3), w2=(8, 8, 3, 3), w3=(128, 8)
    )  # fmt: skip
    for node in net.graph.node:
        node.name = node.output[0]
    graph, _ = plan_of(net, target)
    for k, name in enumerate(list(graph.plan.tensors)):
        if graph.plan.tensors[name].range is None:
            graph.plan.set_range(name, Range.of(-k - 0.1, k + 1 / 3))
    return graph


def without_ranges() -> Graph:
    """The same, before calibration."""
    return plan_of(to_proto(planned()), "tensorrt")[0]


def choice(graph: Graph, **changed: str) -> PrecisionChoice:
    regions = find_regions(graph, find_target("tensorrt"))
    precisions = {r.name: "int8" if "int8" in r.precisions else "float32" for r in regions.regions} | changed
    errors = {("a", "int8"): 1e-5, ("c", "int8"): float("inf")}
    problem = Problem(
        regions,
        {r.name: r.precisions for r in regions.regions},
        Sensitivity("local", errors, {}),
        Costs("bits", {("a", "int8"): 123.0}, {}),
    )
    tensors = graph.tensors()
    return PrecisionChoice(
        problem, (), Solution(precisions, 0.1, 5.0), "bits=6", {"y": "the user keeps it"}, "tensorrt", {"y": "tiny"},
        {name: entry for name, entry in graph.plan.tensors.items() if not isinstance(tensors[name], Constant)},
    )  # fmt: skip


def saved(path: Path, graph: Graph | None = None, **changed: str) -> SavedPlan:
    choice(graph or planned(), **changed).save_plan(path)
    return read_plan(path)


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    graph = planned()
    found = saved(tmp_path / "plan.json", graph, b="float16")
    assert (found.target, found.demand, found.kept_float) == ("tensorrt", "bits=6", {"y": "tiny"})
    regions = find_regions(graph, find_target("tensorrt"))
    assert found.assignment(regions, "tensorrt") == {"a": "int8", "b": "float16", "c": "int8", "y": "float32"}
    assert found.ranges.keys() == {"x", "ra", "b", "f"}
    for name, (scheme, value_range) in found.ranges.items():
        entry = graph.plan.tensors[name]
        assert scheme == entry.scheme
        assert entry.range is not None
        np.testing.assert_array_equal(value_range.low, entry.range.low)
        np.testing.assert_array_equal(value_range.high, entry.range.high)


def test_a_reader_sees_what_each_region_costs_and_why(tmp_path: Path) -> None:
    saved(tmp_path / "plan.json")
    regions = {r["name"]: r for r in json.loads((tmp_path / "plan.json").read_text())["regions"]}
    assert regions["a"] == {
        "name": "a", "precision": "int8", "op": "Conv", "nodes": ["a", "ra"], "error": 1e-5, "cost": 123.0,
    }  # fmt: skip
    assert regions["y"]["reason"] == "the user keeps it"
    assert (regions["c"]["error"], regions["b"]["cost"]) == (None, None)  # infinite, unknown
    # One line each, so that a diff of two plans can be read.
    assert sum('"name": "a"' in line for line in (tmp_path / "plan.json").open()) == 1


def test_an_edit_by_hand_counts(tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    graph = planned()
    saved(path, graph)
    path.write_text(path.read_text().replace('"name": "b", "precision": "int8"', '"name": "b", "precision": "bf16"'))
    regions = find_regions(graph, find_target("tensorrt"))
    allowed = {name: [*region.precisions] for name, region in regions.by_name.items()}
    assert "bfloat16" not in allowed["b"]  # opset 13 has no such convolution
    with pytest.raises(
        ConfigError, match=r"gives 'b' \(Conv\) the precision bfloat16, which it can't have on tensorrt"
    ):
        read_plan(path).assignment(regions, "tensorrt")
    path.write_text(path.read_text().replace("bf16", "fp16"))
    assert read_plan(path).assignment(regions, "tensorrt")["b"] == "float16"


def test_ranges_go_into_a_plan_that_has_none(tmp_path: Path) -> None:
    graph = planned()
    found = saved(tmp_path / "plan.json", graph)
    bare = without_ranges()
    found.set_ranges(bare.plan)
    for name, entry in graph.plan.tensors.items():
        got = bare.plan.tensors[name].range
        assert got is not None
        assert entry.range is not None
        np.testing.assert_array_equal(got.low, entry.range.low)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ("abcz", r"is for another model, or other passes before it: region 'y' isn't in this one"),
        ("pqrz", r"regions 'a', 'b', 'c' and 1 more aren't in this one"),
    ],
)
def test_a_plan_for_another_model(tmp_path: Path, names: str, message: str) -> None:
    found = saved(tmp_path / "plan.json")
    with pytest.raises(ConfigError, match=message):
        found.assignment(find_regions(planned(names=names), find_target("tensorrt")), "tensorrt")


def test_other_ways_not_to_fit(tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    graph = planned()
    regions = find_regions(graph, find_target("tensorrt"))
    found = saved(path, graph)
    with pytest.raises(ConfigError, match="is for target 'tensorrt', not for 'openvino'"):
        found.assignment(regions, "openvino")
    text = path.read_text()

    def changed(old: str, new: str) -> SavedPlan:
        assert old in text
        path.write_text(text.replace(old, new))
        return read_plan(path)

    with pytest.raises(ConfigError, match="region 'a' has other nodes here"):
        changed('["a", "ra"]', '["a"]').assignment(regions, "tensorrt")
    with pytest.raises(ConfigError, match="it has no range of tensor 'ra'"):
        changed('"name": "ra", "scheme"', '"name": "rx", "scheme"').set_ranges(without_ranges().plan)
    with pytest.raises(ConfigError, match="tensor 'x' is planned in int8 sym, and was in uint8 asym"):
        changed(
            '"name": "x", "scheme": {"dtype": "int8", "symmetric": true',
            '"name": "x", "scheme": {"dtype": "uint8", "symmetric": false',
        ).set_ranges(without_ranges().plan)
    with pytest.raises(ConfigError, match=r"region 'a': there is no precision 'int7': did you mean"):
        changed('"name": "a", "precision": "int8"', '"name": "a", "precision": "int7"')
    with pytest.raises(ConfigError, match="has region 'b' twice"):
        changed('{"name": "c", "precision"', '{"name": "b", "precision"')
    with pytest.raises(ConfigError, match="is damaged at"):
        changed('"nodes": ["a", "ra"]', '"nodes": 3')
    with pytest.raises(ConfigError, match="is damaged at"):
        changed('"low":', '"lo":')
    with pytest.raises(ConfigError, match="isn't JSON"):
        changed("{", "[")
    with pytest.raises(ConfigError, match="is not a precision plan of version 1: save one with --save-precision-plan"):
        changed('"version": 1', '"version": 2')
    with pytest.raises(ConfigError, match="can't read the precision plan"):
        read_plan(tmp_path / "none.json")


def test_nothing_half_written_is_left(tmp_path: Path) -> None:
    with pytest.raises(EmitError):
        choice(planned()).save_plan(tmp_path / "no" / "plan.json")
    path = tmp_path / "plan.json"
    saved(path)
    before = path.read_bytes()
    damaged = choice(planned())
    object.__setattr__(damaged, "demand", object())  # not JSON
    with pytest.raises(TypeError):
        damaged.save_plan(path)
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["plan.json"]
