"""Folders of images on the command line: the digits as PNG files make the same model as the digits as arrays."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.cli.conftest import Run

OPTIONS = ("--target", "onnxruntime", "-q")


@pytest.fixture
def pictures(folder: Path) -> np.ndarray:
    """Ten 8×8 pictures in pictures/, in folders by class; and their gray values."""
    gray = np.random.default_rng(0).integers(0, 256, (10, 8, 8), np.uint8)
    for k, image in enumerate(gray):
        path = folder / "pictures" / f"class{k // 4}" / f"{k}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path)
    return gray


def test_images_make_the_model_that_their_arrays_make(run: Run, folder: Path, pictures: np.ndarray) -> None:
    (folder / "p.toml").write_text("divide = 15.9375\n")
    np.savez(folder / "arrays.npz", image=(pictures / 15.9375).astype(np.float32)[:, None])
    model = ("optimize", "digits_cnn.onnx", *OPTIONS)
    assert run(*model, "-o", "a.onnx", "--calibration-data", "pictures", "--preprocess", "p.toml").code == 0
    assert run(*model, "-o", "b.onnx", "--calibration-data", "arrays.npz").code == 0
    assert (folder / "a.onnx").read_bytes() == (folder / "b.onnx").read_bytes()
    calibrate = ("calibrate", "digits_cnn.onnx", *OPTIONS)
    assert run(*calibrate, "-o", "a.json", "--calibration-data", "pictures", "--preprocess", "p.toml").code == 0
    assert run(*calibrate, "-o", "b.json", "--calibration-data", "arrays.npz").code == 0
    assert (folder / "a.json").read_bytes() == (folder / "b.json").read_bytes()
    assert run("compare", "a.onnx", "b.onnx", "--data", "pictures", "--preprocess", "unit").code == 0


def test_what_is_wrong_is_one_line(run: Run, folder: Path, pictures: np.ndarray) -> None:
    model = ("optimize", "digits_cnn.onnx", *OPTIONS, "-o", "out.onnx", "--calibration-data", "pictures")
    (folder / "pictures" / "class0" / "5.png").write_text("no image")
    for more, words in (
        ((), "--preprocess"),
        (("--preprocess", "imagnet"), "did you mean 'imagenet'"),
        (("--preprocess", "nowhere.toml"), "can't read the preprocessing file"),
        (("--preprocess", "unit"), "5.png' is not a readable image"),
    ):
        outcome = run(*model, *more)
        assert (outcome.code, outcome.out, outcome.err.count("\n")) == (1, "", 1)
        assert words in outcome.err
    assert not (folder / "out.onnx").exists()
