"""`graphopt emit`: the file, what it says of its edges, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from graphopt.backends import litert
from graphopt.cli import main
from tests.cli.conftest import DIGITS


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
