"""Targets that graphopt doesn't know: TOML files, Python files and objects."""

from __future__ import annotations

import pickle
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx.reference import ReferenceEvaluator

import graphopt
from graphopt.cli import main
from graphopt.errors import ConfigError
from graphopt.quant import Scheme
from graphopt.targets import TARGETS, OpRule, Role, find_target, target_from_toml, target_to_toml
from tests.support.rewrite import parse

ROOT = Path(__file__).resolve().parents[2]
BOARD = ROOT / "examples" / "my_board.toml"
SAMPLES = ROOT / "calibration_data"
PLAIN = 'based-on = "openvino"\nname = "b"\n'


@pytest.mark.parametrize("name", TARGETS)
def test_a_target_survives_toml(name: str) -> None:
    """Under another name too, so that nothing of it is looked up."""
    other = replace(TARGETS[name], name="other", title="Other one")
    for target in (TARGETS[name], other):
        again = target_from_toml(target_to_toml(target))
        assert again == target
        assert list(again.rules) == list(target.rules)
        assert list(again.precisions) == list(target.precisions)  # the fewest bits first
        assert pickle.loads(pickle.dumps(target)) == target


def test_what_differs_from_the_base() -> None:
    text = """
    based-on = "openvino"
    name = "b"
    shared-result-bias = "none"
    activation = {dtype = "int8"}
    float_reasons = {Gemm = "no"}
    [rules]
    Gemm = false
    Conv = {output-quantized = true}
    Softmax = {role = "fixed output", fixed-output = [0.00390625, -128], source = "manual"}
    """
    base, found = TARGETS["openvino"], target_from_toml(text)
    expected = {op: rule for op, rule in base.rules.items() if op != "Gemm"}
    expected["Conv"] = replace(base.rules["Conv"], output_quantized=True)
    expected["Softmax"] = OpRule(Role.FIXED_OUTPUT, fixed_output=(1 / 256, -128), source="manual")
    assert found == replace(
        base,
        name="b",
        title="b",
        shared_result_bias=None,
        activation=Scheme("int8"),
        float_reasons={**base.float_reasons, "Gemm": "no"},
        rules=expected,
    )
    only = target_from_toml(PLAIN + '[rules]\n"*" = false\nConv = true')
    assert dict(only.rules) == {"Conv": base.rules["Conv"]}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name = ", " is not TOML: Invalid value"),
        ('based-on = "openvin"\nname = "b"', "no target 'openvin' to be based on: did you mean 'openvino'"),
        ('based-on = "openvino"', "'name' must be given"),
        ('name = "b"', "'engine' must be given"),
        ('based-on = "openvino"\nname = "tflite"', "'name' is 'tflite', which is graphopt's own target"),
        (PLAIN + "bais = 1", "unknown key 'bais': did you mean 'bias'"),
        (PLAIN + 'bias = "int16"', "'bias' is \"int16\"; expected 'float' or 'int32': did you mean 'int32'"),
        (PLAIN + "moves-strides = 1", "'moves-strides' is 1; expected a valid boolean"),
        (PLAIN + "rules = 3", r"'rules' is 3; expected a table: write \[rules\]"),
        (PLAIN + "date = 2020-01-01", "unknown key 'date'"),
        (PLAIN + "title = 2020-01-01", "has no dates"),
        (PLAIN + 'activation = {dtype = "int9"}', "'activation.dtype' is \"int9\"; expected 'int4'.*did you mean 'int"),
        (PLAIN + 'activation = {dtype = "int16"}', "'activation' is int16; expected int8 or uint8"),
        (PLAIN + 'weight = {dtype = "int8"}', "'weight' is int8 asym; expected int8, symmetric"),
        (PLAIN + "[rules.Conv]\nconditons = []", "unknown key 'rules.Conv.conditons': did you mean 'conditions'"),
        (PLAIN + '[rules.Conv]\nrole = "liner"', "'rules.Conv.role' is \"liner\"; .*did you mean 'linear'"),
        (PLAIN + '[rules.Conv]\nrole = "compute"', '\'rules.Conv.role\' is "compute"; expected "linear"'),
        (PLAIN + '[rules.Softmax]\nrole = "linear"', "expected another: only Conv, ConvTranspose, Gemm, MatMul are"),
        (PLAIN + "[rules.Softmax]\nneeds-reader = true", "'rules.Softmax.role' must be given"),
        (PLAIN + '[rules.Softmax]\nrole = "fixed output"', "'rules.Softmax.fixed-output' goes with role"),
        (PLAIN + '[rules.Convolution]\nrole = "compute"', "operator 'Convolution', which ONNX doesn't have"),
        (PLAIN + '[rules.Conv]\nconditions = ["one-grup"]', "condition 'one-grup', .* did you mean 'one-group'"),
        (PLAIN + "[rules]\nGem = false", "'rules.Gem' is false, and the base has none: did you mean 'Gemm'"),
        (PLAIN + "[rules]\nGem = true", "'rules.Gem' is true, and the base has none: did you mean 'Gemm'"),
        (PLAIN + '[rules]\n"*" = true', r"'rules.\*' is true; expected false"),
        (PLAIN + 'engine = "open"', "no engine 'open'"),
        (PLAIN + 'own-format = ".xml"', "'own-format' is '.xml'; graphopt writes .tflite"),
        (PLAIN + "[precisions]\nfloat32 = false", "'precisions' lack float32"),
        (PLAIN + '[breaches.bias-bit]\nseverity = "error"\nwhy = ""', "lint 'bias-bit', .* did you mean 'bias-bits'"),
    ],
)
def test_what_is_wrong_is_said(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=f"^board.*{message}"):
        target_from_toml(text, "board")


@pytest.mark.parametrize("name", TARGETS)
def test_nothing_goes_by_the_name_of_a_target(name: str) -> None:
    """The same table under another name makes the same model, and lint says the same of another tool's."""
    other = replace(TARGETS[name], name="other")
    samples = SAMPLES / "calibration.npz"
    made = [
        graphopt.optimize(SAMPLES / "digits_cnn.onnx", target=target, calibration_data=samples)
        for target in (name, other)
    ]
    assert made[0].model.SerializeToString(deterministic=True) == made[1].model.SerializeToString(deterministic=True)
    for model in (r.model for r in made[:1]):
        for judge in TARGETS.values():
            assert graphopt.lint(model, judge) == graphopt.lint(model, replace(judge, name="other"))


def test_a_target_in_python(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = "from dataclasses import replace\nfrom graphopt import TARGETS\n"
    code += "BOARD = replace(TARGETS['tflite'], name='board', engine='')\nBROKEN = replace(BOARD, name='a b')\n"
    (tmp_path / "boards_of_mine.py").write_text(code)
    monkeypatch.chdir(tmp_path)
    expected = replace(TARGETS["tflite"], name="board", engine="")
    for place in ("boards_of_mine", "boards_of_mine.py", tmp_path / "boards_of_mine.py"):
        assert find_target(f"{place}:BOARD") == expected
    assert find_target(expected) is expected
    with pytest.raises(ConfigError, match="boards_of_mine:BROKEN: 'name' is 'a b'"):
        find_target("boards_of_mine:BROKEN")
    with pytest.raises(ConfigError, match="has no target 'BORD': did you mean 'BOARD'"):
        find_target("boards_of_mine:BORD")
    with pytest.raises(ConfigError, match=r"boards_of_mine:replace is not a graphopt\.Target, but function"):
        find_target("boards_of_mine:replace")
    with pytest.raises(ConfigError, match="no target 'tflight': did you mean 'tflite'"):
        find_target("tflight")
    assert find_target(BOARD) == find_target(str(BOARD))
    with pytest.raises(ConfigError, match=r"can't read the target 'none\.toml': No such file"):
        find_target("none.toml")


def test_compiling_for_a_board_of_ones_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The table decides: what is planned, what lint finds, what mixed may choose from; the engine is the base's."""
    for path in (BOARD, SAMPLES / "digits_cnn.onnx", SAMPLES / "calibration.npz"):
        shutil.copy(path, tmp_path)
    (tmp_path / "pipeline.toml").write_text('[pipeline]\ntarget = "my_board.toml"\n[[pass]]\nname = "remove-dead"\n')
    monkeypatch.chdir(tmp_path.parent)
    result = graphopt.optimize(tmp_path / "digits_cnn.onnx", config=tmp_path / "pipeline.toml")
    assert result.target is not None
    assert result.target.name == "my-board"  # a path in a pipeline file is relative to the file

    monkeypatch.chdir(tmp_path)
    common = ("--target", "my_board.toml", "-q")
    compiled = ("optimize", "digits_cnn.onnx", *common, "--calibration-data", "calibration.npz")
    assert main([*compiled, "-o", "out.onnx"]) == 0
    assert main(["lint", "out.onnx", *common]) == 0
    assert main(["verify", "out.onnx", *common]) == 0
    assert main([*compiled, "-o", "out.tflite"]) == 0  # the base's own format
    in_integers, in_float = _convolutions("out.onnx")
    assert [n.name for n in in_float] == ["/down/depthwise/depthwise.0/Conv"]
    assert len(in_integers) == 6

    findings = graphopt.lint("out.onnx", target=replace(find_target("my_board.toml"), name="x", bias="float"))
    assert {f.rule for f in findings} == set()  # a float bias is free to be int32
    assert graphopt.lint("out.onnx", "openvino") != []
    nothing = replace(find_target("my_board.toml"), name="x", engine="")
    with pytest.raises(ConfigError, match="target 'x' names no engine"):
        graphopt.verify("out.onnx", nothing)
    with pytest.raises(ConfigError, match="names no engine"):
        graphopt.optimize("digits_cnn.onnx", target=nothing, verify=True, calibration_data="calibration.npz")

    capsys.readouterr()
    assert main(["targets", "my_board.toml"]) == 0
    assert "no depthwise convolutions" in capsys.readouterr().out
    assert main(["targets", "my_board.toml", "--toml"]) == 0
    assert target_from_toml(capsys.readouterr().out) == find_target("my_board.toml")


@pytest.mark.parametrize("base", TARGETS)
def test_one_scale_for_a_weight(base: str) -> None:
    """For kernels that have no scale per channel: planned so, materialised so, found by lint, mended by repair."""
    one = replace(TARGETS[base], name="board", weight_per_channel=False)
    options = {"calibration_data": SAMPLES / "calibration.npz", "validation_data": SAMPLES / "validation.npz"}
    result = graphopt.optimize(SAMPLES / "digits_cnn.onnx", target=one, **options)
    initializers = {t.name: t for t in result.model.graph.initializer}
    scales = [
        initializers[node.input[1]]
        for node in result.model.graph.node
        if node.op_type == "DequantizeLinear" and initializers[node.input[1]].dims
    ]
    assert all("bias" in tensor.name for tensor in scales)  # a bias has its one scale written once for each channel
    assert graphopt.lint(result.model, one) == []
    assert result.report.measurement is not None
    assert result.report.measurement.agreement.outputs[0].sqnr_db > 30
    if base != "tensorrt":  # seconds a build
        assert graphopt.verify(result.model, one, latency=False).precision.missed == []
    usual = graphopt.optimize(SAMPLES / "digits_cnn.onnx", target=base, **options).model
    assert {f.rule for f in graphopt.lint(usual, one)} == {"weight-axis"}
    assert graphopt.repair(usual, one).after == []


def test_one_scale_is_coarse_enough_for_the_bias() -> None:
    """|bias| / (s_x · s_w) must stay below 2³¹, or int32 would clip it."""
    text = """<ir_version: 9, opset_import: ["" : 19]>
    g (float[1, 2, 1, 1] x) => (float[1, 2, 1, 1] y)
    <float[2, 2, 1, 1] w = {1e-9, 0, 0, 1e-9}, float[2] b = {-7, 5}> { y = Conv(x, w, b) }"""
    one = replace(TARGETS["tflite"], name="board", weight_per_channel=False)
    x = np.linspace(-1, 1, 8, dtype=np.float32).reshape(4, 2, 1, 1)
    result = graphopt.optimize(parse(text), target=one, calibration_data={"x": x})
    assert any("coarser weight scale so that the bias fits" in r.message for r in result.report.remarks)
    found = ReferenceEvaluator(result.model).run(None, {"x": x[:1]})[0]
    assert np.allclose(found.reshape(-1), [-7, 5], atol=0.1)


def _convolutions(path: str) -> tuple[list[onnx.NodeProto], list[onnx.NodeProto]]:
    """Those whose weights are integers, and the others."""
    graph = onnx.load(path).graph
    makers = {name: node.op_type for node in graph.node for name in node.output}
    layers = [node for node in graph.node if node.op_type == "Conv"]
    integer = [node for node in layers if makers.get(node.input[1]) == "DequantizeLinear"]
    return integer, [node for node in layers if node not in integer]
