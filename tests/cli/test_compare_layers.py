"""`graphopt compare --layers` and `graphopt.compare_layers` on the digits model."""

from __future__ import annotations

import json
from pathlib import Path

from tests.cli.conftest import Run


def test_layers_as_a_page_and_as_json(run: Run, folder: Path) -> None:
    made = run("optimize", "digits_cnn.onnx", "-t", "openvino", "--calibration-data", "few.npz", "-o", "q.onnx", "-q")
    assert made.code == 0
    page = run("compare", "digits_cnn.onnx", "q.onnx", "--data", "few.npz", "--layers")
    assert page.code == 0
    assert "Error of each layer's result (SQNR), 16 samples" in page.out
    assert "/classifier/Gemm" in page.out
    assert "leaving these in float should help the outputs most" in page.out
    found = json.loads(run("compare", "digits_cnn.onnx", "q.onnx", "--data", "few.npz", "--layers", "--json").out)
    layers = found["layers"]["layers"]
    # The float model's BatchNormalization is folded in the quantized one: it is compared in the form that matches.
    assert found["layers"]["unpaired"] == []
    assert {e["op"] for e in layers} >= {"Conv", "Gemm", "Add"}
    assert layers == sorted(layers, key=lambda e: e["isolated_db"])
    assert all(e["isolated_db"] >= e["accumulated_db"] - 3 for e in layers)
    logits = next(e for e in layers if e["tensor"] == "logits")
    assert abs(logits["accumulated_db"] - found["outputs"][0]["sqnr_db"]) < 0.5
    assert "layers" not in json.loads(run("compare", "digits_cnn.onnx", "q.onnx", "--data", "few.npz", "--json").out)


def test_a_model_with_other_inputs_is_refused(run: Run, folder: Path) -> None:
    (folder / "other.onnxtxt").write_text(
        '<ir_version: 8, opset_import: ["" : 13]> g (float[1] z) => (float[1] logits) { logits = Relu(z) }'
    )
    refused = run("compare", "digits_cnn.onnx", "other.onnxtxt", "--data", "few.npz", "--layers")
    assert refused.code == 1
    assert "Traceback" not in refused.err
