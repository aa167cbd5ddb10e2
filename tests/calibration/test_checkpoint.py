import subprocess
import sys
import time

import numpy as np
import onnx
import pytest

from graphopt.calibration import Dataset, checkpoint, collect, input_specs, load_dataset
from tests.calibration.test_collector import NET, SAMPLES, observe
from tests.calibration.test_collector_passes import NAMES, bits

KINDS = ["minmax", "ema", "histogram"]


class StopHere(BaseException):
    """Ends a calibration from outside, as Ctrl-C does."""


def interrupted(file, stop, stacked=SAMPLES, batch_size=1, **options):
    """A calibration that ends while sample `stop` is asked for, having written after each batch."""

    def feeds():
        for index, feed in enumerate(load_dataset(stacked, input_specs(NET))):
            if index == stop:
                raise StopHere
            yield feed

    with pytest.raises(StopHere):
        collect(NET, NAMES, Dataset(feeds, name="d"), checkpoint=file, batch_size=batch_size, **options)


@pytest.fixture(autouse=True)
def _after_every_sample(monkeypatch):
    monkeypatch.setattr(checkpoint, "SECONDS", 0.0)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("workers", "batch_size", "stop"), [(1, 1, 4), (2, 1, 4), (1, 2, 5), (2, 4, 5)])
def test_an_interrupted_calibration_goes_on_with_the_same_bits(tmp_path, kind, workers, batch_size, stop):
    file = tmp_path / "c.npz"
    interrupted(file, stop, kind=kind, workers=workers, batch_size=batch_size)
    assert file.exists()
    said = []
    got = observe(NET, NAMES, SAMPLES, kind=kind, checkpoint=file, note=said.append)
    assert said == [f"{file}: went on after 4 samples"]
    assert bits(got) == bits(observe(NET, NAMES, SAMPLES, kind=kind))
    assert list(tmp_path.iterdir()) == []


def test_in_chunks_the_pass_that_was_interrupted_goes_on(tmp_path):
    file = tmp_path / "c.npz"
    budget = 8 * 8 * 9 * 9 + 100
    whole = observe(NET, NAMES, SAMPLES, kind="histogram", memory_budget=budget)
    served = 0

    def feeds():
        nonlocal served
        for feed in load_dataset(SAMPLES, input_specs(NET)):
            served += 1
            if served == 10:  # a pass of six, and into the second one
                raise StopHere
            yield feed

    with pytest.raises(StopHere):
        collect(NET, NAMES, Dataset(feeds, name="d"), kind="histogram", memory_budget=budget, checkpoint=file)
    said = []
    got = observe(NET, NAMES, SAMPLES, kind="histogram", memory_budget=10 * budget, checkpoint=file, note=said.append)
    assert said == [f"{file}: went on after 3 samples"]
    assert bits(got) == bits(whole)


def test_a_checkpoint_of_something_else_is_not_taken(tmp_path):
    file = tmp_path / "c.npz"
    other = {"x": SAMPLES["x"] * 100}
    interrupted(file, 3, stacked=other)
    said = []
    got = observe(NET, NAMES, SAMPLES, checkpoint=file, note=said.append)
    assert said == [f"{file} is of other samples: started again"]
    assert bits(got) == bits(observe(NET, NAMES, SAMPLES))
    interrupted(file, 3, stacked=other, kind="ema")
    assert bits(observe(NET, NAMES, SAMPLES, checkpoint=file)) == bits(got)
    file.write_bytes(b"PK\x03\x04 half a file")
    assert bits(observe(NET, NAMES, SAMPLES, checkpoint=file)) == bits(got)


CHILD = """
import sys, time
from pathlib import Path
import numpy as np, onnx
from graphopt.calibration import Dataset, checkpoint, collect, input_specs, load_dataset
checkpoint.SECONDS = 0.0
model = onnx.load("m.onnx")
def feeds():
    for index, feed in enumerate(load_dataset("d.npz", input_specs(model))):
        if index == 4:
            print("here", flush=True)
            time.sleep(60)
        yield feed
collect(model, sys.argv[1].split(), Dataset(feeds, name="d"), kind="histogram", checkpoint=Path("c"), batch_size=2)
"""


def test_a_killed_process_goes_on_with_the_same_bits(tmp_path):
    onnx.save(NET, tmp_path / "m.onnx")
    np.savez(tmp_path / "d.npz", **SAMPLES)
    env = {"PYTHONPATH": ":".join(sys.path)}
    with subprocess.Popen(
        [sys.executable, "-c", CHILD, " ".join(NAMES)], cwd=tmp_path, env=env, stdout=subprocess.PIPE
    ) as child:
        assert child.stdout.readline() == b"here\n"
        child.kill()
        assert child.wait() == -9
    (tmp_path / ".c.99.tmp").write_bytes(b"what a kill while writing leaves")
    said = []
    began = time.perf_counter()
    got = observe(NET, NAMES, SAMPLES, kind="histogram", checkpoint=tmp_path / "c", note=said.append)
    assert time.perf_counter() - began < 30
    assert said == [f"{tmp_path / 'c'}: went on after 4 samples"]
    assert bits(got) == bits(observe(NET, NAMES, SAMPLES, kind="histogram"))
    assert {file.name for file in tmp_path.iterdir()} == {"m.onnx", "d.npz"}
