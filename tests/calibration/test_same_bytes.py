"""However the samples come and the work is split, the ranges file has the same bytes."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from graphopt.cli import main

DIGITS = Path(__file__).parents[2] / "calibration_data"
# Yields the samples of the file that the environment names; waits for its end at one of them when it is told to.
SAMPLES = """
import os, time
import numpy as np
from graphopt.calibration import checkpoint

checkpoint.SECONDS = 0.0

def samples():
    for index, image in enumerate(np.load(os.environ["SAMPLES"])["image"]):
        if index == int(os.environ.get("STOP", -1)):
            print("here", flush=True)
            time.sleep(60)
        yield {"image": image[None]}
"""
COMMAND = ("calibrate", "digits_cnn.onnx", "--target", "onnxruntime", "-q", "--calibration-data", "source:samples")


@pytest.mark.parametrize("method", ["minmax", "mse"])
def test_order_batches_workers_and_a_kill_do_not_change_a_byte(method, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "source", raising=False)
    shutil.copy(DIGITS / "digits_cnn.onnx", tmp_path)
    (tmp_path / "source.py").write_text(SAMPLES)
    image = np.load(DIGITS / "calibration.npz")["image"][:44]
    np.savez("ordered.npz", image=image)
    np.savez("shuffled.npz", image=image[np.random.default_rng(0).permutation(len(image))])

    def calibrated(name, data, *options):
        monkeypatch.setenv("SAMPLES", f"{data}.npz")
        assert main([*COMMAND, "--calibration-method", method, "-o", f"{name}.json", *options]) == 0
        return (tmp_path / f"{name}.json").read_bytes()

    expected = calibrated("single", "ordered", "--batch-size", "1")
    assert json.loads(expected)["ranges"]
    assert calibrated("batches", "shuffled", "--batch-size", "8", "--threads", "1") == expected
    assert calibrated("workers", "shuffled", "--batch-size", "3", "--workers", "4") == expected

    options = ("--calibration-method", method, "--checkpoint", "state", "--batch-size", "8", "-o", "killed.json")
    environment = {**os.environ, "STOP": "27", "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [
        sys.executable,
        "-c",
        "import sys; from graphopt.cli import main; main(sys.argv[1:])",
        *COMMAND,
        *options,
    ]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE) as child:
        assert child.stdout.readline() == b"here\n"
        child.kill()
        assert child.wait() == -9
    assert not (tmp_path / "killed.json").exists()
    assert json.loads(str(np.load("state")["header"]))["done"] == 24  # three batches of eight
    assert calibrated("resumed", "shuffled", "--checkpoint", "state", "--batch-size", "1") == expected
    assert not (tmp_path / "state").exists()
