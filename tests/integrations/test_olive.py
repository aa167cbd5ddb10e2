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

# Two workflows in one process, which takes seconds to start: samples from a loader of Olive's, and a demand that no
# model can hold. Olive logs what its passes raise and goes on without a model.
WORKFLOWS = """
import copy, json, sys
from olive.workflows import run
from graphopt.integrations.olive import package_config

base = json.load(open(sys.argv[1]))
script = {"name": "samples", "user_script": "digits.py", "load_dataset_config": {
    "type": "digits", "params": {"path": "calibration_data/calibration.npz"}},
    "dataloader_config": {"params": {"batch_size": 16}}}

loader = copy.deepcopy(base) | {"data_configs": [script], "output_dir": "loader", "cache_dir": "loader_cache"}
loader["passes"]["compile"] = {
    "type": "GraphoptCompile", "target": "onnxruntime", "data_config": "samples", "verify": True}
run(loader, package_config=package_config())

strict = copy.deepcopy(base) | {"output_dir": "strict", "cache_dir": "strict_cache"}
strict["passes"]["compile"] |= {"max_drop": None, "min_sqnr": 300.0}
print("MODELS", run(strict, package_config=package_config()).has_output_model())
"""


def olive(*command: str, cwd: Path) -> str:
    ran = subprocess.run(
        [sys.executable, *command], cwd=cwd, env=ENVIRONMENT, capture_output=True, text=True, timeout=300, check=False
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout


def operators(path: Path) -> list[str]:
    return [node.op_type for node in onnx.load(path).graph.node]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "calibration_data").symlink_to(ROOT / "calibration_data")
    return tmp_path


def test_olives_own_command_runs_the_example(folder: Path) -> None:
    package = olive("-m", "graphopt.integrations.olive", cwd=folder)
    assert {"GraphoptCompile", "OnnxQuantization"} <= json.loads(package)["passes"].keys()
    (folder / "package.json").write_text(package)
    example = str(ROOT / "examples" / "olive.json")
    olive("-m", "olive", "run", "--config", example, "--package-config", "package.json", cwd=folder)
    assert operators(folder / "olive_out" / "model.onnx").count("QuantizeLinear") >= 8


def test_a_loader_of_olive_and_a_demand_that_fails(folder: Path) -> None:
    (folder / "digits.py").write_text(USER_SCRIPT)
    printed = olive("-c", WORKFLOWS, str(ROOT / "examples" / "olive.json"), cwd=folder)
    assert operators(folder / "loader" / "model.onnx").count("QuantizeLinear") >= 8
    assert "AccuracyError: the result can't hold SQNR of at least 300 dB" in printed
    assert "MODELS False" in printed
    assert not (folder / "strict" / "model.onnx").exists()
