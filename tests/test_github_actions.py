"""The workflow in examples/github-actions: its steps run here as GitHub runs them, without the installation."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import onnx
import pytest
import yaml

ROOT = Path(__file__).parent.parent
FILE = ROOT / "examples" / "github-actions" / "accuracy-gate.yml"
# https://docs.github.com/actions/reference/workflows-and-actions/workflow-syntax#jobsjob_idstepsshell
BASH = ["bash", "--noprofile", "--norc", "-eo", "pipefail"]


@pytest.fixture(scope="module")
def workflow() -> dict[str, Any]:
    return yaml.safe_load(FILE.read_text())


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """The repository's root as far as the steps need it, with a `graphopt` in its path."""
    (tmp_path / "calibration_data").symlink_to(ROOT / "calibration_data")
    command = tmp_path / "bin" / "graphopt"
    command.parent.mkdir()
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m graphopt "$@"\n')
    command.chmod(0o755)
    return tmp_path


def steps(workflow: dict[str, Any]) -> list[dict[str, Any]]:
    (job,) = workflow["jobs"].values()
    return job["steps"]


def run(step: dict[str, Any], checkout: Path, variables: dict[str, str]) -> subprocess.CompletedProcess[str]:
    script = checkout / "step.sh"
    script.write_text(step["run"])
    environment = os.environ | variables | {
        "PATH": f"{checkout / 'bin'}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "GITHUB_STEP_SUMMARY": str(checkout / "step_summary.md"),
    }  # fmt: skip
    return subprocess.run(
        [*BASH, str(script)], cwd=checkout, env=environment, capture_output=True, text=True, timeout=300, check=False
    )


@pytest.mark.skipif(shutil.which("bash") is None, reason="the steps are written for bash")
def test_the_steps_run(workflow: dict[str, Any], checkout: Path) -> None:
    assert workflow["defaults"]["run"]["shell"] == "bash"
    scripts = [step for step in steps(workflow) if "run" in step]
    assert [step["name"] for step in scripts if step["run"].startswith("pip install")] == ["Install"]
    for step in scripts:
        if step["name"] != "Install":
            ran = run(step, checkout, workflow["env"])
            assert ran.returncode == 0, ran.stdout + ran.stderr
    build = checkout / "build"
    assert sum(n.op_type == "QuantizeLinear" for n in onnx.load(build / "model_int8.onnx").graph.node) >= 8
    assert "SQNR" in (build / "summary.txt").read_text()
    assert (checkout / "step_summary.md").read_text().startswith("```\n")
    assert "<html" in (build / "report.html").read_text()
    assert json.loads((build / "lint.sarif").read_text())["runs"][0]["results"] == []
    assert "Conv" in (build / "layers.txt").read_text()


def test_a_gate_that_does_not_hold_fails_its_step(workflow: dict[str, Any], checkout: Path) -> None:
    gate = next(step for step in steps(workflow) if "--max-drop" in step.get("run", ""))
    ran = run(gate, checkout, workflow["env"] | {"MODEL": "missing.onnx"})
    assert ran.returncode == 1
    assert "missing.onnx: no such file" in ran.stderr
    assert not (checkout / "build" / "model_int8.onnx").exists()


def test_what_steps_upload_is_what_steps_write(workflow: dict[str, Any]) -> None:
    written = " ".join(step["run"] for step in steps(workflow) if "run" in step)
    uploads = [step for step in steps(workflow) if "upload" in step.get("uses", "")]
    assert [step["uses"].split("@")[0] for step in uploads] == [
        "github/codeql-action/upload-sarif",
        "actions/upload-artifact",
    ]
    for step in uploads:
        assert "always()" in step["if"]  # what a failing step found is what one wants to see
        named = step["with"].get("sarif_file") or step["with"]["path"]
        assert f" {named}" in written
    assert all("@v" in step["uses"] for step in steps(workflow) if "uses" in step)
