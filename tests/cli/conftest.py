from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from graphopt.cli import main

DIGITS = Path(__file__).parents[2] / "calibration_data"


@dataclass(frozen=True)
class Outcome:
    code: int
    out: str
    err: str


Run = Callable[..., Outcome]


@pytest.fixture
def run(capfd: pytest.CaptureFixture[str]) -> Run:
    """Run the command line here; capfd sees what native code writes, too."""

    def call(*args: object) -> Outcome:
        code = main([str(a) for a in args])
        out, err = capfd.readouterr()
        return Outcome(code, out, err)

    return call


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with the digits model and its samples, and samples that are wrong in different ways."""
    for name in ("digits_cnn.onnx", "calibration.npz", "validation.npz"):
        shutil.copy(DIGITS / name, tmp_path / name)
    image = np.load(DIGITS / "calibration.npz")["image"][:16]
    np.savez(tmp_path / "few.npz", image=image)
    np.savez(tmp_path / "missing.npz", picture=image)
    np.savez(tmp_path / "shape.npz", image=image[:, :, :4])
    broken = image.copy()
    broken[5, 0, 1, 1] = np.nan
    np.savez(tmp_path / "nan.npz", image=broken)
    monkeypatch.chdir(tmp_path)
    return tmp_path
