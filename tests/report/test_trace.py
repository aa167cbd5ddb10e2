"""A node's life through a pipeline."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from onnx import parser

from graphopt import trace
from graphopt.cli import main
from graphopt.errors import ConfigError
from graphopt.report.document import to_text
from graphopt.report.trace import life_page

_MODEL = parser.parse_model("""
<ir_version: 8, opset_import: ["" : 17]>
g (float[1,2,4,4] x) => (float[1,2,4,4] y)
<float[2,2,1,1] w = {1,2,3,4}, float[2] g = {1,2}, float[2] b = {0,1}, float[2] m = {0,0}, float[2] v = {1,1}>
{
    [same] a = Identity(x)
    [conv] c = Conv(a, w)
    [bn] n = BatchNormalization(c, g, b, m, v)
    [relu] y = Relu(n)
}
""")
_DATA = [{"x": np.random.default_rng(k).normal(size=(1, 2, 4, 4)).astype(np.float32)} for k in range(4)]


def test_a_folded_node_goes_into_the_node_that_took_it_up() -> None:
    (life,) = trace(_MODEL, ["bn"], passes="remove-noops,fold-batch-norm")
    assert (life.op, life.name, life.heirs) == ("BatchNormalization", None, ("conv",))
    *_, last = life.events
    assert (last.pass_name, last.what, last.others) == ("fold-batch-norm", "removed", ("conv",))


def test_a_node_that_stays_tells_what_changed() -> None:
    (life,) = trace(_MODEL, ["conv"], passes="remove-noops,fold-batch-norm")
    assert life.name == "conv"
    found = [(e.pass_name, e.what) for e in life.events]
    assert found[0] == ("", "given")
    assert ("remove-noops", "changed") in found
    assert ("fold-batch-norm", "changed") in found
    changed = next(e for e in life.events if e.pass_name == "fold-batch-norm" and e.what == "changed")
    assert "input 1: other values" in changed.text


def test_a_node_that_a_pass_made_is_born_from_those_beside_it() -> None:
    lives = trace(_MODEL, ["conv"], target="openvino", calibration_data=_DATA)
    assert lives[0].name == "conv"
    (pair,) = trace(_MODEL, ["x_QuantizeLinear"], target="openvino", calibration_data=_DATA)
    assert pair.events[0].what == "born"
    assert pair.events[0].pass_name == "insert-qdq"
    assert "conv" in pair.events[0].others


def test_remarks_about_it_are_part_of_its_life() -> None:
    (life,) = trace(_MODEL, ["conv"], target="openvino", calibration_data=_DATA, keep_float=["conv"])
    said = [e.text for e in life.events if e.what == "remark" and e.pass_name == "plan-quantization"]
    assert any("the user keeps it in float" in text for text in said)


def test_an_unknown_name_is_one_line_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"no graph of this run has a node 'conf'.*'conv'"):
        trace(_MODEL, ["conf"], passes="remove-noops")


def test_pages_and_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (life,) = trace(_MODEL, ["bn"], passes="remove-noops,fold-batch-norm")
    text = to_text(life_page(life))
    assert text.startswith("BatchNormalization 'bn'\n")
    assert text.endswith("  not in the result; what it went into: 'conv'")
    path = tmp_path / "m.onnx"
    path.write_bytes(_MODEL.SerializeToString())
    code = main(["trace", str(path), "bn", "conv", "--passes", "fold-batch-norm", "--json"])
    assert code == 0
    found = json.loads(capsys.readouterr().out)
    assert [n["node"] for n in found["nodes"]] == ["bn", "conv"]
    assert found["nodes"][0]["heirs"] == ["conv"]
