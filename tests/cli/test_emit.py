"""`graphopt emit`, and results written as .tflite: the file, what is said of its edges, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest

import graphopt
from graphopt.backends import litert
from graphopt.cli import main
from tests.cli.conftest import DIGITS, Run


def test_a_float_model_computes_the_same_in_litert(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "digits.tflite"
    assert main(["emit", str(DIGITS / "digits_cnn.onnx"), "-o", str(output), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["bytes"] == output.stat().st_size
    assert said["operators"]["DEPTHWISE_CONV_2D"] == 1
    samples = np.load(DIGITS / "validation.npz")
    image = np.transpose(samples["image"][:1], said["inputs"]["image"])
    (found,) = litert.run(output.read_bytes(), [{"image": image}])
    assert np.argmax(next(iter(found.values()))) == samples["labels"][0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(["-o", "digits.onnx"], ".tflite"), (["-o", "digits.tflite", "--size", "height"], "NAME=N")],
)
def test_what_is_refused(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["emit", str(DIGITS / "digits_cnn.onnx"), *arguments]) == 1
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


SAMPLES = ("--calibration-data", "few.npz")


def test_optimize_writes_what_emit_makes_of_its_onnx_model(run: Run, folder: Path) -> None:
    for name in ("out.tflite", "out.onnx"):
        done = run("optimize", "digits_cnn.onnx", "--target", "tflite", "-o", name, *SAMPLES)
        assert done.code == 0
        assert ("note: out.tflite has 15 operators" in done.out) == (name == "out.tflite")
    assert run("emit", "out.onnx", "-o", "emitted.tflite", "-q").code == 0
    assert (folder / "out.tflite").read_bytes() == (folder / "emitted.tflite").read_bytes()
    assert run("verify", "out.onnx", "--target", "tflite", "-q").code == 0


def test_the_python_api_writes_the_same_and_says_what_it_wrote(folder: Path) -> None:
    options = {"target": "tflite", "calibration_data": "few.npz"}
    result = graphopt.optimize("digits_cnn.onnx", output="out.tflite", **options)
    written = (folder / "out.tflite").read_bytes()
    assert result.report.after.file_bytes == len(written)
    assert any("CONV_2D" in note for note in result.report.notes)
    result.save("again.tflite")
    assert (folder / "again.tflite").read_bytes() == written
    assert graphopt.emit(result.model).content == written
    result.save("model.onnx")
    assert onnx.load("model.onnx").graph.node


def test_a_picture_with_moved_channels_is_noted(folder: Path) -> None:
    model = onnx.parser.parse_model("""<ir_version: 8, opset_import: ["" : 17]>
        g (float[1,3,8,8] x) => (float[1,4,8,8] y)
        <float[4,3,1,1] w = {1,2,3, 4,5,6, 7,8,9, 1,2,3}> { y = Conv(x, w) }""")
    result = graphopt.optimize(model, target="tflite", preset="float", output="out.tflite")
    assert "input 'x' has its channels last: axes 0 2 3 1 of the ONNX model's" in result.report.notes
    assert "output 'y' has its channels last: axes 0 2 3 1 of the ONNX model's" in result.report.notes


def test_a_repaired_model_is_written_as_tflite(run: Run, folder: Path) -> None:
    assert run("optimize", "digits_cnn.onnx", "--target", "openvino", "-o", "other.onnx", *SAMPLES, "-q").code == 0
    # The last Gemm's result has no range: it stays in float, which is an error that lint reports.
    assert run("lint", "other.onnx", "--target", "tflite", "--fix", "-o", "fixed.tflite", "-q").code == 1
    repaired = graphopt.repair("other.onnx", "tflite")
    assert (folder / "fixed.tflite").read_bytes() == graphopt.emit(repaired.model).content


def test_only_the_target_that_reads_it_gets_a_tflite(folder: Path) -> None:
    result = graphopt.optimize("digits_cnn.onnx", preset="float")
    with pytest.raises(graphopt.ConfigError, match=r"compile for tflite, or choose a name that ends in \.onnx"):
        result.save("out.tflite")
    with pytest.raises(graphopt.ConfigError, match="this result is for openvino"):
        graphopt.repair("digits_cnn.onnx", "openvino", output="out.tflite")
    with pytest.raises(graphopt.ConfigError, match=r"name that ends in \.onnx"):
        result.save("out.engine")
    assert not list(folder.glob("out.*"))


def test_open_sizes_are_refused_before_the_work(folder: Path) -> None:
    model = onnx.parser.parse_model("""<ir_version: 8, opset_import: ["" : 17]>
        g (float[batch,3,height,8] x) => (float[batch,3,height,8] y) { y = Relu(x) }""")
    with pytest.raises(graphopt.ConfigError, match=r"x:2 \('height'\).*graphopt emit .* --size"):
        graphopt.optimize(model, target="tflite", preset="float", output="out.tflite")
    assert not list(folder.glob("out.*"))
