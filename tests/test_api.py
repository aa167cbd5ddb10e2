"""The Python API: what it accepts, what it gives back, and that it keeps no state."""

from __future__ import annotations

import hashlib
import os
import pickle
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import ClassVar

import numpy as np
import onnx
import onnx.parser
import onnx.reference
import pytest

import graphopt
from graphopt.ir import Graph
from graphopt.pipeline import Context, Pass
from graphopt.targets import TARGETS

ROOT = Path(__file__).parent.parent
MODEL = ROOT / "calibration_data" / "digits_cnn.onnx"


@pytest.fixture(scope="module")
def image() -> np.ndarray:
    return np.load(ROOT / "calibration_data" / "calibration.npz")["image"][:16]


@pytest.fixture(scope="module")
def expected(image: np.ndarray) -> bytes:
    return int8(MODEL, image)


def int8(model: object, image: np.ndarray, **options: object) -> bytes:
    result = graphopt.optimize(model, target="onnxruntime", calibration_data={"image": image}, **options)
    return result.model.SerializeToString(deterministic=True)


@pytest.mark.parametrize("form", ["path", "text of the path", "bytes", "proto", "program"])
def test_every_form_of_a_model_gives_the_same_and_stays_as_it_is(form: str, image, expected) -> None:
    proto = onnx.load(MODEL)
    model = {
        "path": MODEL,
        "text of the path": str(MODEL),
        "bytes": MODEL.read_bytes(),
        "proto": proto,
        "program": SimpleNamespace(model_proto=proto),
    }[form]
    before = proto.SerializeToString(deterministic=True)
    assert int8(model, image) == expected
    assert proto.SerializeToString(deterministic=True) == before


@pytest.mark.parametrize("form", ["array", "list", "generator", "file"])
def test_every_form_of_samples_gives_the_same(form: str, image, expected, tmp_path: Path) -> None:
    np.savez(tmp_path / "samples.npz", image=image)

    def feeds() -> Iterator[dict[str, np.ndarray]]:
        yield from ({"image": sample[np.newaxis]} for sample in image)

    data = {"array": image, "list": list(feeds()), "generator": feeds(), "file": tmp_path / "samples.npz"}[form]
    result = graphopt.optimize(MODEL, target="onnxruntime", calibration_data=data)
    assert result.model.SerializeToString(deterministic=True) == expected
    # A generator can be walked once only, and is needed twice: to calibrate and to measure.
    assert result.report.measurement is not None
    assert result.report.measurement.agreement.samples == 16


def test_external_data(image, tmp_path: Path) -> None:
    onnx.save_model(onnx.load(MODEL), tmp_path / "m.onnx", save_as_external_data=True, location="w", size_threshold=0)
    from_path = graphopt.optimize(
        tmp_path / "m.onnx", target="tflite", calibration_data=image, output=tmp_path / "out.onnx"
    )
    assert from_path.report.after.file_bytes == sum(
        (tmp_path / n).stat().st_size for n in ("out.onnx", "out.onnx.data")
    )
    proto = onnx.load(tmp_path / "m.onnx", load_external_data=False)
    from_proto = graphopt.optimize(proto, base_dir=tmp_path, target="tflite", calibration_data=image)
    assert from_proto.model.SerializeToString(deterministic=True) == from_path.model.SerializeToString(
        deterministic=True
    )
    assert from_proto.report.measurement is not None
    onnx.checker.check_model(str(tmp_path / "out.onnx"), full_check=True)


def test_result_saves_what_it_holds(image, expected, tmp_path: Path) -> None:
    result = graphopt.optimize(MODEL, target="onnxruntime", calibration_data=image)
    result.save(tmp_path / "out.onnx")
    assert (tmp_path / "out.onnx").read_bytes() == expected
    with pytest.raises(graphopt.ConfigError, match="overwrite"):
        result.save(MODEL)
    with pytest.raises(graphopt.EmitError):
        result.save(tmp_path / "nowhere" / "out.onnx")


def test_ranges_in_place_of_samples(image, expected, tmp_path: Path) -> None:
    found = graphopt.calibrate(MODEL, image, target="onnxruntime")
    found.save(tmp_path / "ranges.json")
    for ranges in (found, tmp_path / "ranges.json"):
        result = graphopt.optimize(MODEL, target="onnxruntime", ranges=ranges)
        assert result.model.SerializeToString(deterministic=True) == expected
        assert result.report.measurement is None
        assert result.report.unmeasured
    covering = graphopt.calibrate(MODEL, image, target="onnxruntime", method="minmax").ranges["image"]
    assert (covering.low, covering.high) == (image.min(), image.max())


def test_ranges_of_another_model_are_refused(image, tmp_path: Path) -> None:
    graphopt.calibrate(MODEL, image, target="onnxruntime").save(tmp_path / "ranges.json")
    other = onnx.load(MODEL)
    weight = other.graph.initializer[0]
    weight.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(weight) * 2, weight.name))
    with pytest.raises(graphopt.CalibrationError, match="another model"):
        graphopt.optimize(other, target="onnxruntime", ranges=tmp_path / "ranges.json")


def test_measured_on_validation_samples_and_labels_given(image) -> None:
    labels = np.zeros(len(image), np.int64)
    result = graphopt.optimize(MODEL, target="openvino", calibration_data=image, validation_data=image, labels=labels)
    measured = result.report.measurement
    assert measured is not None
    assert not measured.on_calibration_data
    (scores,) = onnx.reference.ReferenceEvaluator(onnx.load(MODEL)).run(None, {"image": image})
    assert measured.agreement.reference_accuracy == pytest.approx((scores.argmax(axis=1) == 0).mean())
    with pytest.raises(graphopt.CalibrationError, match="one integer class index per row"):
        graphopt.optimize(MODEL, target="openvino", calibration_data=image, validation_data=image, labels=labels[:3])


@dataclass(frozen=True)
class Shout(Pass):
    """Multiplies every Gemm's weight by a thousand: a lossy pass gone wrong."""

    name: ClassVar[str] = "shout"
    summary: ClassVar[str] = "ruin the classifier"

    def run(self, graph: Graph, ctx: Context) -> None:
        for node in graph.nodes:
            if node.is_op("Gemm"):
                weight = graph.own_constant(node, 1)
                graph.set_values(weight, weight.values * np.float32(1000))


@dataclass(frozen=True)
class Break(Pass):
    """Raises what no pass should."""

    name: ClassVar[str] = "break"
    summary: ClassVar[str] = "fail"

    def run(self, graph: Graph, ctx: Context) -> None:
        raise ValueError("oops")


def test_a_ruined_model_is_warned_of(image) -> None:
    result = graphopt.optimize(MODEL, passes=["fold-constants", Shout()], calibration_data=image)
    assert any("SQNR" in warning for warning in result.report.warnings)


def test_a_model_without_anything_to_quantize_says_so() -> None:
    text = '<ir_version: 8, opset_import: ["" : 17]> g (float[2,3] x) => (float[2,3] y) { y = Relu (x) }'
    samples = np.ones((4, 2, 3), np.float32)
    report = graphopt.optimize(onnx.parser.parse_model(text), target="openvino", calibration_data=samples).report
    assert report.warnings == ("nothing in this model runs in 8 bits on openvino: the result is a float model",)


def test_a_model_that_onnxruntime_cannot_run_is_not_measured() -> None:
    text = """<ir_version: 8, opset_import: ["" : 17, "my" : 1]>
        g (float[2,3] x) => (float[2,3] y) { z = Relu (x) y = my.Own (z) }"""
    samples = np.ones((4, 2, 3), np.float32)
    report = graphopt.optimize(onnx.parser.parse_model(text), preset="float", validation_data=samples).report
    assert report.measurement is None
    assert "onnxruntime can't load the model" in report.unmeasured


def test_a_failing_pass_is_an_internal_error_with_a_reproducer(tmp_path: Path) -> None:
    with pytest.raises(graphopt.InternalError, match="'break' failed with ValueError: oops") as caught:
        graphopt.optimize(MODEL, passes=["fold-constants", Break()], output=tmp_path / "out.onnx")
    assert caught.value.reproducer is not None
    assert (Path(caught.value.reproducer) / "before.onnx").exists()
    assert not (tmp_path / "out.onnx").exists()


def test_reports_can_be_sent_to_other_processes(image) -> None:
    report = graphopt.optimize(MODEL, target="tensorrt", calibration_data=image).report
    assert pickle.loads(pickle.dumps(report)) == report


def test_progress_is_told(image) -> None:
    told: list[tuple[str, int, int | None]] = []
    graphopt.optimize(
        MODEL,
        target="tflite",
        calibration_data=image,
        progress=lambda what, done, total: told.append((what, done, total)),
    )
    assert ("calibrating", 16, 16) in told
    assert ("measuring", 16, 16) in told


def test_threads_do_not_disturb_each_other(image) -> None:
    alone = {t: hashlib.sha256(optimized(t, image)).hexdigest() for t in TARGETS}
    with ThreadPoolExecutor(4) as pool:
        runs = [(t, pool.submit(optimized, t, image)) for t in (*TARGETS, *TARGETS)]
        together = [(t, hashlib.sha256(run.result()).hexdigest()) for t, run in runs]
    assert all(alone[target] == found for target, found in together)


def optimized(target: str, image: np.ndarray) -> bytes:
    result = graphopt.optimize(MODEL, target=target, calibration_data=image, threads=1)
    return result.model.SerializeToString(deterministic=True)


_HASH_ALL = """
import hashlib, sys, graphopt
for target in graphopt.TARGETS:
    graphopt.optimize(sys.argv[1], target=target, calibration_data=sys.argv[2], output=sys.argv[3])
    print(target, hashlib.sha256(open(sys.argv[3], "rb").read()).hexdigest())
"""


def test_same_input_same_bytes_whatever_the_hash_seed(tmp_path: Path) -> None:
    samples = ROOT / "calibration_data" / "calibration.npz"
    printed = [
        subprocess.run(
            [sys.executable, "-c", _HASH_ALL, str(MODEL), str(samples), str(tmp_path / f"{seed}.onnx")],
            env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "4711")
    ]
    assert printed[0] == printed[1]
    assert len(printed[0].splitlines()) == len(TARGETS)


def test_importing_the_package_is_cheap() -> None:
    code = "import sys, graphopt; print([m for m in ('onnx', 'onnxruntime', 'numpy', 'typer') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_every_public_name_is_there() -> None:
    assert all(getattr(graphopt, name) is not None for name in graphopt.__all__)
    assert set(graphopt.__all__) <= set(dir(graphopt))
    with pytest.raises(AttributeError, match="no attribute 'optimise'"):
        graphopt.optimise  # noqa: B018  # the attribute access is what is tested


def test_missing_samples_are_reported_before_any_work(tmp_path: Path) -> None:
    with pytest.raises(graphopt.CalibrationError, match="needs samples to calibrate with"):
        graphopt.optimize(tmp_path / "not even there.onnx", target="onnxruntime")
    # The same pipeline with samples gets further.
    with pytest.raises(graphopt.LoadError, match="no such file"):
        graphopt.optimize(tmp_path / "not even there.onnx", target="onnxruntime", calibration_data="few.npz")
