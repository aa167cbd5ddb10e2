"""Every file in examples/ runs, and does what it says."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx.reference import ReferenceEvaluator

ROOT = Path(__file__).parent.parent
EXAMPLES = ROOT / "examples"


def run(example: str, *arguments: str | Path, cwd: Path, fails: int = 0) -> str:
    """What the example prints, run as a user runs it: a process of its own, from another folder."""
    environment = os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"}
    command = [sys.executable, str(EXAMPLES / example), *map(str, arguments)]
    ran = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert ran.returncode == fails, ran.stdout + ran.stderr
    return ran.stdout


def quantized(path: Path) -> int:
    """How many operators quantize."""
    return sum(node.op_type == "QuantizeLinear" for node in onnx.load(path).graph.node)


def test_export_step(tmp_path: Path) -> None:
    data = ROOT / "calibration_data"
    arguments = [data / "digits_cnn.onnx", "--out", "build"]
    for use, file in (("calibration", "calibration.npz"), ("validation", "validation.npz")):
        arguments += [f"--{use}-data", data / file]
    first = run("export_step.py", *arguments, cwd=tmp_path)
    build = tmp_path / "build"
    made = {name: (build / name).read_bytes() for name in ("model_int8.onnx", "ranges.json")}
    report = json.loads((build / "report.json").read_text())
    assert re.fullmatch(r"top-1 98\.89% in float, 9\d\.\d\d% in 8 bits; build\n", first)
    assert "custom_pass:UncapRelu" in report["pipeline"]
    assert [r["message"] for r in report["remarks"] if r["pass_name"] == "uncap-relu"] == [
        "a Relu, without the end at 6"
    ]
    assert run("export_step.py", *arguments, cwd=tmp_path) == first  # from the ranges that are there
    assert made == {name: (build / name).read_bytes() for name in made}
    run("export_step.py", data / "missing.onnx", *arguments[1:], cwd=tmp_path, fails=1)
    # On loud images the network needs the ends of its Clips, which the pass has taken away.
    images = 4 * np.load(data / "validation.npz")["image"][:64]
    (logits,) = ReferenceEvaluator(str(data / "digits_cnn.onnx")).run(None, {"image": images})
    np.savez(tmp_path / "loud.npz", image=images, labels=logits.argmax(1))
    run("export_step.py", *arguments[:-1], tmp_path / "loud.npz", cwd=tmp_path, fails=3)


def test_export_torch(tmp_path: Path) -> None:
    pytest.importorskip("torch", reason="the exporters of torch (extra test)")
    lines = run("export_torch.py", "out", cwd=tmp_path).splitlines()
    in_torch = float(re.fullmatch(r"torch +float32 ([\d.]+)%", lines[0])[1])
    for name, line in zip(("static", "dynamic", "torchscript"), lines[1:], strict=True):
        found = re.fullmatch(
            rf"{name} +float32 ([\d.]+)%  int8 ([\d.]+)%  ([\d.]+) dB  (\d+) of (\d+) layers in 8 bits", line
        )
        assert found, line
        assert float(found[1]) == in_torch
        assert float(found[2]) >= in_torch - 2.0  # what it demands with max_drop
        assert float(found[3]) > 25
        assert found[4] == found[5]
        assert quantized(tmp_path / "out" / f"{name}_int8.onnx") >= 5
    sizes = onnx.load(tmp_path / "out" / "dynamic_int8.onnx").graph.input[0].type.tensor_type.shape.dim
    assert [bool(d.dim_param) for d in sizes] == [True, False, True, True]


def test_custom_pass(tmp_path: Path) -> None:
    usual, remark, uncapped = run("custom_pass.py", cwd=tmp_path).splitlines()
    assert remark == "[uncap-relu] applied Clip '/down/Clip': a Relu, without the end at 6"
    counts: list[int] = []
    for line in (usual, uncapped):
        found = re.fullmatch(r"(\d+) passes: ([\d.]+) dB, top-1 ([\d.]+)%", line)
        assert found, line
        counts.append(int(found[1]))
        assert float(found[2]) > 35
        assert float(found[3]) > 97
    assert counts[1] == counts[0] + 1
