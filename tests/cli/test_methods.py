"""Calibration methods on the command line."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from tests.cli.conftest import Run

CALIBRATE = ("calibrate", "digits_cnn.onnx", "--target", "onnxruntime", "-q", "-o")
METHODS = ("minmax", "ema", "percentile", "kl", "mse", "auto")


def tensors(path: Path) -> dict[str, dict[str, float]]:
    return json.loads(path.read_text())["ranges"]


@pytest.mark.parametrize("method", METHODS)
def test_every_method_stays_within_the_values_and_can_be_reused(method: str, run: Run, folder: Path) -> None:
    samples = ("--calibration-data", "few.npz")
    assert run(*CALIBRATE, "all.json", *samples, "--calibration-method", "minmax").code == 0
    assert run(*CALIBRATE, "r.json", *samples, "--calibration-method", method).code == 0
    everything, found = tensors(folder / "all.json"), tensors(folder / "r.json")
    assert found.keys() == everything.keys()
    for name, r in found.items():
        assert everything[name]["low"] <= r["low"] <= r["high"] <= everything[name]["high"]
    content = json.loads((folder / "r.json").read_text())
    assert content["method"] == method
    assert content["statistics"].keys() == found.keys()
    assert content["decisions"].keys() == {"protect-small-values"}
    command = ("optimize", "digits_cnn.onnx", "--target", "onnxruntime", "-q")
    assert run(*command, "-o", "a.onnx", "--ranges", "r.json").code == 0
    assert run(*command, "-o", "b.onnx", *samples, "--calibration-method", method).code == 0
    assert (folder / "a.onnx").read_bytes() == (folder / "b.onnx").read_bytes()


@pytest.mark.parametrize("method", [m for m in METHODS if m != "ema"])  # ema is about the order
def test_shuffled_samples_give_the_same_bytes(method: str, run: Run, folder: Path) -> None:
    image = np.load("few.npz")["image"]
    np.savez("shuffled.npz", image=image[np.random.default_rng(0).permutation(len(image))])
    for data in ("few", "shuffled"):
        options = ("--calibration-data", f"{data}.npz", "--calibration-method", method)
        assert run(*CALIBRATE, f"{data}.json", *options).code == 0
    assert (folder / "few.json").read_bytes() == (folder / "shuffled.json").read_bytes()


def test_percentile(run: Run, folder: Path) -> None:
    samples = ("--calibration-data", "few.npz")
    widths: list[float] = []
    for p in ("90", "99", "100"):
        assert run(*CALIBRATE, f"{p}.json", *samples, "--percentile", p).code == 0
        assert json.loads((folder / f"{p}.json").read_text())["parameters"] == {"percentile": float(p)}
        widths.append(sum(r["high"] - r["low"] for r in tensors(folder / f"{p}.json").values()))
    assert widths == sorted(set(widths))
    for options, words in (
        (("--percentile", "20"), "percentile is 20.0; expected more than 50"),
        (("--percentile", "99", "--calibration-method", "kl"), "it belongs to 'percentile'"),
    ):
        outcome = run(*CALIBRATE, "r.json", *samples, *options)
        assert (outcome.code, outcome.err.count("\n")) == (1, 1)
        assert words in outcome.err


def test_missing_tensors_are_named(run: Run, folder: Path) -> None:
    assert run(*CALIBRATE, "r.json", "--calibration-data", "few.npz").code == 0
    content = json.loads((folder / "r.json").read_text())
    gone = [content["ranges"].popitem()[0] for _ in range(2)]
    (folder / "r.json").write_text(json.dumps(content))
    outcome = run("optimize", "digits_cnn.onnx", "--target", "onnxruntime", "-o", "a.onnx", "--ranges", "r.json")
    assert (outcome.code, outcome.err.count("\n")) == (1, 1)
    assert "lacks 2 of" in outcome.err
    assert all(f"'{name}'" in outcome.err for name in gone)


def test_plot(run: Run, folder: Path) -> None:
    pytest.importorskip("matplotlib")
    for method in ("minmax", "mse"):
        plot = ("--calibration-data", "few.npz", "--calibration-method", method, "--plot", f"pictures/{method}")
        assert run(*CALIBRATE, "r.json", *plot).code == 0
        count = len(tensors(folder / "r.json"))
        assert len(list((folder / "pictures" / method).glob("*.png"))) == count
        assert (folder / "pictures" / method / "index.html").read_text().count("<img") == count
    outcome = run(*CALIBRATE, "r.json", "--calibration-data", "few.npz", "--calibration-method", "ema", "--plot", "p")
    assert (outcome.code, outcome.err.count("\n")) == (1, 1)
    assert "no histograms" in outcome.err


def test_resources_do_not_change_a_byte(run: Run, folder: Path) -> None:
    samples = ("--calibration-data", "few.npz", "--calibration-method", "mse")
    assert run(*CALIBRATE, "plain.json", *samples).code == 0
    for k, options in enumerate(
        (
            ("--workers", "2"),
            ("--memory-budget", "100k"),
            ("--provider", "CPUExecutionProvider"),
            ("--checkpoint", "state"),
            ("--threads", "1"),
        )
    ):
        outcome = run(*CALIBRATE, f"{k}.json", *samples, *options)
        assert outcome.code == 0, outcome.err
        assert (folder / f"{k}.json").read_bytes() == (folder / "plain.json").read_bytes(), options
    assert not (folder / "state").exists()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--memory-budget", "lots"), "such as 800M or 2G"),
        (("--provider", "CPUExecutionProvide"), "CPUExecutionProvider"),
    ],
)
def test_resources_that_do_not_exist(options: tuple[str, ...], words: str, run: Run, folder: Path) -> None:
    outcome = run(*CALIBRATE, "r.json", "--calibration-data", "few.npz", *options)
    assert (outcome.code, outcome.err.count("\n")) == (1, 1)
    assert words in outcome.err
