"""`graphopt inspect --coupling`: the groups of a model as a user sees them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from tests.cli.conftest import Run

# A stem, a residual block with an inner layer, a normalization over channels, and a classifier.
TEXT = """<ir_version: 8, opset_import: ["" : 17]> g (float[1,3,8,8] image) => (float[1,10] scores) {
    stem = Conv<pads=[1,1,1,1]>(image, w0)
    inner = Conv<pads=[1,1,1,1]>(stem, w1, b1)
    active = Relu(inner)
    outer = Conv<pads=[1,1,1,1]>(active, w2)
    sum = Add(stem, outer)
    pooled = GlobalAveragePool(sum)
    flat = Flatten(pooled)
    hidden = MatMul(flat, w3)
    even = LayerNormalization(hidden, gamma, beta)
    scores = Gemm(even, w4)
}"""
SHAPES = {"w0": (8, 3, 3, 3), "w1": (16, 8, 3, 3), "b1": (16,), "w2": (8, 16, 3, 3), "w3": (8, 12), "w4": (12, 10)}


@pytest.fixture
def model(tmp_path: Path) -> Path:
    made = onnx.parser.parse_model(TEXT)
    rng = np.random.default_rng(0)
    for name, shape in {**SHAPES, "gamma": (12,), "beta": (12,)}.items():
        made.graph.initializer.append(numpy_helper.from_array(rng.normal(size=shape).astype(np.float32), name))
    path = tmp_path / "residual.onnx"
    onnx.save(made, path)
    return path


def test_json_has_every_group_with_what_it_holds(run: Run, model: Path) -> None:
    outcome = run("inspect", model, "--coupling", "--json")
    assert (outcome.code, outcome.err) == (0, "")
    found = json.loads(outcome.out)
    stream, inner = found["groups"]
    assert stream == {
        "name": "stem:1",
        "units": 8,
        "channels": 1,
        "layers": ["stem_Conv", "inner_Conv", "outer_Conv", "hidden_MatMul"],
        # All of w0, w1, w2 and w3; not b1.
        "parameters": 8 * 3 * 9 + 16 * 8 * 9 + 8 * 16 * 9 + 8 * 12,
        "macs": 64 * (8 * 3 * 9 + 16 * 8 * 9 + 8 * 16 * 9) + 8 * 12,
    }
    assert inner == {
        "name": "inner:1",
        "units": 16,
        "channels": 1,
        "layers": ["inner_Conv", "outer_Conv"],
        "parameters": 16 * 8 * 9 + 16 + 8 * 16 * 9,
        "macs": 64 * (16 * 8 * 9 + 8 * 16 * 9),
    }
    why = {group["name"]: (group["units"], group["reason"], group["node"]) for group in found["fixed"]}
    assert why["image:1"] == (3, "it is a graph input", None)
    assert why["hidden:1"] == (
        12,
        "LayerNormalization normalizes over it",
        "LayerNormalization 'even_LayerNormalization'",
    )
    assert why["scores:1"] == (10, "it is a graph output", None)
    assert found["parameters"] == sum(int(np.prod(shape)) for shape in SHAPES.values()) + 24
    assert found["macs"] == 64 * (8 * 3 * 9 + 16 * 8 * 9 + 8 * 16 * 9) + 8 * 12 + 12 * 10


def test_text_is_a_table_of_what_can_go_and_one_of_what_stays(run: Run, model: Path) -> None:
    outcome = run("inspect", model, "--coupling")
    assert (outcome.code, outcome.err) == (0, "")
    lines = [" ".join(line.split()) for line in outcome.out.splitlines()]
    assert any(line.startswith("stem:1 8 1 2.6 k") for line in lines)
    assert any(line.endswith("stem_Conv, inner_Conv, outer_Conv and 1 more") for line in lines)
    assert "scores:1 10 it is a graph output scores_Gemm" in lines
    assert lines.index("What has to stay, and why") > lines.index(next(li for li in lines if li.startswith("inner:1")))


def test_weights_in_constant_nodes_and_layers_of_unknown_shape(run: Run, tmp_path: Path) -> None:
    text = """<ir_version: 8, opset_import: ["" : 17]> g (float[1,2,H,W] x) => (float[1,1,K,L] y) {
        w = Constant<value = float[4,2,1,1] {1,2,3,4,5,6,7,8}>()
        v = Constant<value = float[1,4,1,1] {1,2,3,4}>()
        c = Conv(x, w)
        y = Conv(c, v) }"""
    path = tmp_path / "dynamic.onnx"
    onnx.save(onnx.parser.parse_model(text), path)
    outcome = run("inspect", path, "--coupling")
    assert outcome.code == 0
    assert "MACs without 2 layers of unknown shape" in outcome.out
    found = json.loads(run("inspect", path, "--coupling", "--json").out)
    assert [(g["name"], g["units"], g["parameters"]) for g in found["groups"]] == [("c:1", 4, 12)]


def test_a_model_whose_channels_all_have_to_stay(run: Run, tmp_path: Path) -> None:
    text = """<ir_version: 8, opset_import: ["" : 17]> g (float[1,2,4,4] x, float[4,2,1,1] w) => (float[1,4,4,4] y) {
        y = Conv(x, w) }"""
    path = tmp_path / "one.onnx"
    onnx.save(onnx.parser.parse_model(text), path)
    outcome = run("inspect", path, "--coupling")
    assert outcome.code == 0
    assert "no channel of this model can be removed" in outcome.out
    assert run("inspect", path, "--coupling", "-q").out == ""
