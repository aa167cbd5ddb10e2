"""How a build ends that doesn't end well: one clear error each."""

from __future__ import annotations

import sys
from importlib import metadata
from pathlib import Path

import numpy as np
import onnx
import pytest

from graphopt.backends.tensorrt import precision, refusals
from graphopt.errors import ConfigError, LoadError, UnsupportedError
from tests.backends.tensorrt.networks import network, plan_all

MODEL = network("y = Relu(x)", "float[N,4] x", "float[N,4] y")


def instead_of_python(monkeypatch: pytest.MonkeyPatch, folder: Path, script: str) -> None:
    program = folder / "program"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(program))


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("kill -KILL $$", "was killed while it built the model: out of memory?"),
        ("kill -SEGV $$", r"crashed while it built the model \(SIGSEGV\)"),
        ("echo one >&2; echo two >&2; exit 3", "failed to run: two"),
        ("exit 3", "failed to run: exit status 3"),
        ("exit 0", "failed to run: it gave no answer"),
        ("exec sleep 30", r"didn't end within 0\.3 s"),
    ],
)
def test_ends(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, script: str, message: str) -> None:
    instead_of_python(monkeypatch, tmp_path, script)
    with pytest.raises(UnsupportedError, match=message):
        precision(MODEL, [], timeout=0.3 if "sleep" in script else 60)


def test_another_version_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metadata, "version", lambda name: "1.8.0.1")
    with pytest.raises(UnsupportedError, match=r"TensorRT-RTX 1\.8\.0\.1 is installed.*graphopt\[tensorrt\]"):
        precision(MODEL, [])


def test_a_missing_package_names_the_mend(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> str:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "version", missing)
    with pytest.raises(UnsupportedError, match=r"^TensorRT-RTX is not installed: pip install 'graphopt\[tensorrt\]'$"):
        refusals(MODEL)


def test_user_errors(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no 8-bit kernels for a capability 'SM75': did you mean"):
        precision(MODEL, [], capability="SM75")
    with pytest.raises(ConfigError, match="no input 'z' to give a shape"):
        precision(MODEL, [], shapes={"z": (1, 4)})
    for wrong in ((1, 5), (1, 4, 1)):
        with pytest.raises(ConfigError, match=r"doesn't fit input 'x', which is \['N', 4\]"):
            precision(MODEL, [], shapes={"x": wrong})
    (tmp_path / "m.onnx").write_text("hello")
    with pytest.raises(LoadError):
        refusals(tmp_path / "m.onnx")


def test_a_file_with_external_weights(tmp_path: Path) -> None:
    values = np.random.default_rng(0).normal(size=(16, 16, 3, 3)).astype(np.float32)
    model = network("y = Conv(x, w)", "float[N,16,H,W] x", "float[N,A,B,C] y", w=values)
    onnx.save_model(model, tmp_path / "m.onnx", save_as_external_data=True, size_threshold=0, location="m.data")
    assert refusals(tmp_path / "m.onnx") == []
    assert precision(tmp_path / "m.onnx", []).notes == ["not planned in 8 bits, and in float: y"]
    moved = onnx.load(tmp_path / "m.onnx", load_external_data=False)
    assert precision(moved, [], base_dir=tmp_path).notes == ["not planned in 8 bits, and in float: y"]
    (tmp_path / "m.data").unlink()
    (node,) = precision(tmp_path / "m.onnx", plan_all(model)).nodes
    assert (node.precision, node.layer) == ("unknown", "")
    assert "refuses the model" in node.reason
