"""Every file in examples/ runs, and does what it says."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import onnx
import pytest

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
    for line, passes in ((usual, 19), (uncapped, 20)):
        found = re.fullmatch(rf"{passes} passes: ([\d.]+) dB, top-1 ([\d.]+)%", line)
        assert found, line
        assert float(found[1]) > 35
        assert float(found[2]) > 97
