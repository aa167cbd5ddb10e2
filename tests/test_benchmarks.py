"""The benchmarks run: one small model through each, with the figures that the lines must show."""

from __future__ import annotations

import os
import re

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import graphopt
from benchmarks import _common, float_preset, scaling, zoo_int8

needs_zoo = pytest.mark.skipif("GRAPHOPT_ZOO" not in os.environ, reason="needs the models that GRAPHOPT_ZOO points at")
SMALL = "mnist_winml_cntk"


def network(*, scale: bool) -> onnx.ModelProto:
    """Conv, or Conv → Mul by a constant per channel."""
    rng = np.random.default_rng(0)
    weight = numpy_helper.from_array(rng.normal(size=(4, 3, 1, 1)).astype(np.float32), "w")
    factor = numpy_helper.from_array(rng.uniform(1, 2, (4, 1, 1)).astype(np.float32), "s")
    nodes = [helper.make_node("Conv", ["x", "w"], ["c" if scale else "y"])]
    nodes += [helper.make_node("Mul", ["c", "s"], ["y"])] if scale else []
    graph = helper.make_graph(
        nodes,
        "network",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 4, 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 4, 4, 4])],
        [weight, *([factor] if scale else [])],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.mark.parametrize("engine", _common.ENGINES)
def test_a_float_model_scores_no_error_and_no_integer_layer(engine: str) -> None:
    model = network(scale=False)
    feeds = [{"x": np.random.default_rng(k).normal(size=(1, 3, 4, 4)).astype(np.float32)} for k in range(3)]
    reference = list(_common.first_outputs("onnxruntime", model, feeds))
    labels = [int(np.argmax(o)) for o in reference]
    labels[0] += 1
    found = _common.score(engine, model, feeds, reference, labels)
    assert (found.correct, found.differing, found.samples, found.integer, found.layers) == (2, 0, 3, 0, 1)
    assert found.sqnr_db > 100


def test_foldable_counts_what_could_still_be_folded() -> None:
    assert float_preset.foldable(graphopt.load(network(scale=False))) == 0
    assert float_preset.foldable(graphopt.load(network(scale=True))) == 1


def test_table(capsys: pytest.CaptureFixture[str]) -> None:
    _common.Table((("model", 6), ("dB", 4))).row(["a", "1"])
    _common.Table((("model", 6), ("dB", 4)), markdown=True).head()
    assert capsys.readouterr().out == "a          1\n| model | dB |\n|---|---|\n"


def test_scaling_makes_the_graph_it_says() -> None:
    model = scaling.synthetic(50)
    onnx.checker.check_model(model, full_check=True)
    assert len(model.graph.node) == 50


@needs_zoo
def test_zoo_int8(capsys: pytest.CaptureFixture[str]) -> None:
    zoo_int8.main(["--models", SMALL, "--targets", "onnxruntime", "--samples", "40", "--peer"])
    head, line, *notes = capsys.readouterr().out.splitlines()
    assert head.split()[:2] == ["model", "engine"]
    name, engine, fp32, int8, differ, db, integer, *_ = line.split()
    assert (name, engine, integer) == (SMALL, "onnxruntime", "3/3")
    assert abs(float(fp32) - float(int8)) <= 100 * int(differ) / 40
    assert float(db) > 30
    assert "Left in float by the plan:" in notes


@needs_zoo
def test_float_preset(capsys: pytest.CaptureFixture[str]) -> None:
    float_preset.main(["--models", SMALL, "--runs", "3", "--markdown"])
    line = capsys.readouterr().out.splitlines()[2]
    cells = [cell.strip() for cell in line.strip("| ").split("|")]
    nodes = re.fullmatch(r"(\d+) → (\d+)", cells[2])
    assert nodes is not None
    assert cells[0] == SMALL
    assert int(nodes[2]) <= int(nodes[1])
    assert cells[3:5] == ["0", "0"]
    assert float(cells[5]) <= 1e-4
