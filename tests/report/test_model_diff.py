"""Two models compared without running them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from onnx import ModelProto, numpy_helper, parser

from graphopt import optimize
from graphopt.api import diff
from graphopt.cli import main
from graphopt.ir import load
from graphopt.report.document import to_text
from graphopt.report.model_diff import diff_models, model_diff_page

_TEXT = """
<ir_version: 8, opset_import: ["" : 17]>
g (float[1,2,4,4] x) => (float[1,2,4,4] y)
<float[2,2,1,1] w = {1,2,3,4}, float s = {0.5}, uint8 z = {128}>
{
    [conv] c = Conv(x, w)
    [q] i = QuantizeLinear(c, s, z)
    [d] r = DequantizeLinear(i, s, z)
    [act] y = LeakyRelu<alpha = 0.1>(r)
}
"""
_MODEL = parser.parse_model(_TEXT)
_DIGITS = Path(__file__).parents[2] / "calibration_data"


def _edited(name: str, values: np.ndarray) -> ModelProto:
    copy = ModelProto()
    copy.CopyFrom(_MODEL)
    stored = next(t for t in copy.graph.initializer if t.name == name)
    stored.CopyFrom(numpy_helper.from_array(values, name))
    return copy


def test_a_model_is_the_same_as_itself() -> None:
    found = diff_models(load(_MODEL), load(_MODEL))
    assert found.is_same
    assert "the same: 4 nodes" in to_text(model_diff_page(found))


def test_names_alone_are_no_difference() -> None:
    text = _TEXT
    for name in ("[conv]", "[q]", "[d]", "[act]"):
        text = text.replace(name, f"{name[:-1]}_of_another_tool]")
    for name in ("c", "i", "r"):
        text = text.replace(f" {name} =", f" {name}2 =").replace(f"({name}", f"({name}2")
    found = diff(_MODEL, parser.parse_model(text))
    assert found.is_same
    assert [c.after.name for c in found.renamed] == [f"{n}_of_another_tool" for n in ("conv", "q", "d", "act")]
    same = "the same: 4 nodes, with the same attributes and values, 4 of them under other names"
    assert same in to_text(model_diff_page(found))
    assert found.to_dict()["changed"] == found.to_dict()["rewrites"] == []


def test_what_an_operator_does_anyway_is_no_difference() -> None:
    said = _TEXT.replace("= Conv(", '= Conv<auto_pad = "NOTSET", group = 1>(').replace("alpha = 0.1", "alpha = 0.01")
    found = diff(parser.parse_model(said), parser.parse_model(_TEXT.replace("<alpha = 0.1>", "")))
    assert found.is_same
    others = said.replace("group = 1", "pads = [0,0,0,0]").replace("0.01", "0.02")
    assert [c.what for c in diff(parser.parse_model(others), parser.parse_model(said)).changed] == [
        ("pads: [0,0,0,0] → unset",),  # has no default of its own: what it means depends on auto_pad
        ("alpha: 0.02 → unset",),
    ]


def test_opsets_that_no_node_uses_are_no_difference() -> None:
    other = parser.parse_model(_TEXT.replace('"" : 17', '"" : 17, "com.microsoft" : 1'))
    assert diff(_MODEL, other).is_same


def test_what_loading_changed_is_said() -> None:
    old = parser.parse_model(_TEXT.replace('"" : 17', '"" : 12'))
    found = diff(old, _MODEL, titles=("old", "new"))
    assert found.notes == (("brought from opset 12 to 13",), ())
    assert "  old: brought from opset 12 to 13" in to_text(model_diff_page(found)).splitlines()


def test_weights_are_compared_by_value() -> None:
    weights = np.array([1, 2, 3, 4.5], np.float32).reshape(2, 2, 1, 1)
    (value,) = diff_models(load(_MODEL), load(_edited("w", weights))).values
    assert (value.node, value.index, value.changed, value.count) == ("conv", 1, 1, 4)
    assert value.largest == pytest.approx(0.5)
    assert value.snr_db == pytest.approx(10 * np.log10(30 / 0.25))


def test_scales_and_zero_points_are_named() -> None:
    found = diff_models(load(_MODEL), load(_edited("s", np.array(0.25, np.float32))))
    assert [(v.node, v.what, v.text) for v in found.values] == [
        ("q", "scale", "0.5 → 0.25"),
        ("d", "scale", "0.5 → 0.25"),
    ]
    found = diff_models(load(_MODEL), load(_edited("z", np.array(127, np.uint8))))
    assert {(v.what, v.text) for v in found.values} == {("zero point", "128 → 127")}


def test_attributes_and_opsets() -> None:
    other = parser.parse_model(_TEXT.replace("0.1", "0.2").replace('"" : 17', '"" : 18'))
    found = diff_models(load(_MODEL), load(other))
    assert [c.what for c in found.graph.changed] == [("alpha: 0.1 → 0.2",)]
    assert found.opsets == (("", 17, 18),)


def test_a_quantized_model_against_its_original(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    source = _DIGITS / "digits_cnn.onnx"
    result = optimize(source, target="onnxruntime", calibration_data=str(_DIGITS / "calibration.npz"))
    out = tmp_path / "q.onnx"
    result.save(out)
    assert main(["diff", str(source), str(out), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert not found["same"]
    assert {n["op"] for n in found["added"]} == {"QuantizeLinear", "DequantizeLinear"}
    assert {n["op"] for n in found["removed"]} >= {"BatchNormalization"}
    assert main(["diff", str(source), str(out)]) == 0
    text = capsys.readouterr().out
    assert "added: " in text
    assert "--all shows them" in text
