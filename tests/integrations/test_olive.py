"""Olive itself runs the pass: the example as its command does, and workflows that differ from it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import onnx
import pytest

pytest.importorskip("olive", reason="needs Olive (extra olive)")

ROOT = Path(__file__).parents[2]
# Olive sends no figures about its use where it finds itself in CI.
ENVIRONMENT = os.environ | {"CI": "1", "OLIVE_DISABLE_TELEMETRY": "1", "PYTHONPATH": str(ROOT)}

# A data loader as Olive's users have them: a dataset that a script registers, and Olive's own loader around it.
USER_SCRIPT = """
import numpy as np
from olive.data.component.dataset import BaseDataset
from olive.data.registry import Registry


@Registry.register_dataset()
def digits(path):
    return BaseDataset([({"image": image}, 0) for image in np.load(path)["image"][:48]])
"""

# All in one process, which takes seconds to start: the command as documented; samples from a loader of Olive's; and a
# demand that no model can hold, where Olive logs what the pass raises and ends without a model.
WORKFLOWS = """
import contextlib, copy, json, runpy, sys
from pathlib import Path
from olive.cli.launcher import main
from olive.workflows import run

example = sys.argv[1]
with open("package.json", "w") as file, contextlib.redirect_stdout(file):
    runpy.run_module("graphopt.integrations.olive", run_name="__main__")
main(["run", "--config", example, "--package-config", "package.json"])

base, package = json.loads(Path(example).read_text()), json.loads(Path("package.json").read_text())
script = {"name": "samples", "user_script": "digits.py", "load_dataset_config": {
    "type": "digits", "params": {"path": "calibration_data/calibration.npz"}},
    "dataloader_config": {"params": {"batch_size": 16}}}
loader = copy.deepcopy(base) | {"data_configs": [script], "output_dir": "loader", "cache_dir": "loader_cache"}
loader["passes"]["compile"] = {
    "type": "GraphoptCompile", "target": "onnxruntime", "data_config": "samples", "verify": True}
run(loader, package_config=package)

strict = copy.deepcopy(base) | {"output_dir": "strict", "cache_dir": "strict_cache"}
strict["passes"]["compile"] |= {"max_drop": None, "min_sqnr": 300.0}
print("MODELS", run(strict, package_config=package).has_output_model())
"""


def operators(path: Path) -> list[str]:
    return [node.op_type for node in onnx.load(path).graph.node]


def test_olive_runs_the_pass(tmp_path: Path) -> None:
    (tmp_path / "calibration_data").symlink_to(ROOT / "calibration_data")
    (tmp_path / "digits.py").write_text(USER_SCRIPT)
    command = [sys.executable, "-c", WORKFLOWS, str(ROOT / "examples" / "olive.json")]
    ran = subprocess.run(
        command, cwd=tmp_path, env=ENVIRONMENT, capture_output=True, text=True, timeout=300, check=False
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert {"GraphoptCompile", "OnnxQuantization"} <= json.loads((tmp_path / "package.json").read_text())[
        "passes"
    ].keys()
    for folder in ("olive_out", "loader"):
        assert operators(tmp_path / folder / "model.onnx").count("QuantizeLinear") >= 8
    assert "AccuracyError: the result can't hold SQNR of at least 300 dB" in ran.stdout
    assert "MODELS False" in ran.stdout
    assert not (tmp_path / "strict" / "model.onnx").exists()
