"""Runs beside each other, in threads and in processes: each gives the bytes that it gives alone."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

import graphopt
from graphopt.analysis import highs
from graphopt.calibration import Preprocess
from graphopt.ir.process_wide import NO_WARNINGS
from graphopt.pipeline.passes import Resources
from tests.support.rewrite import parse

ROOT = Path(__file__).resolve().parents[2]
MODEL = ROOT / "calibration_data" / "digits_cnn.onnx"
SAMPLES = ROOT / "calibration_data" / "calibration.npz"
TINY = """<ir_version: 8, opset_import: ["" : 17]>
g (float[N, 1, 8, 8] image) => (float[N, 3] y) <float[64, 3] w = {W}> {
    two = Constant<value = float {2.0}>()
    four = Mul(two, two)
    f = Flatten(image)
    s = Mul(f, four)
    y = MatMul(s, w)
}""".replace("{W}", "{" + ", ".join(str(k % 7 - 3) for k in range(192)) + "}")
PRUNE = {"ratio": 0.8, "scope": "local", "importance": "l1"}
JOBS: tuple[dict[str, Any], ...] = (
    {"target": "onnxruntime", "prune": "macs=0.8"},
    {"target": "openvino", "method": "percentile"},
    {"target": "tflite", "method": "kl"},
    {"target": "tensorrt", "model": "tiny"},
    {"preset": "float", "model": "tiny"},
)


def compiled(job: dict[str, Any]) -> bytes:
    """The bytes of a job's model."""
    options = dict(job)
    model = parse(TINY) if options.pop("model", None) else MODEL
    samples = {} if options.get("preset") == "float" else {"calibration_data": SAMPLES}
    result = graphopt.optimize(model, **options, **samples, threads=1)
    return result.model.SerializeToString(deterministic=True)


def test_threads_do_not_disturb_each_other() -> None:
    alone = [compiled(job) for job in JOBS]
    filters, stdout, folder = list(warnings.filters), os.fstat(1), Path.cwd()
    with ThreadPoolExecutor(4) as pool:
        together: list[Future[bytes]] = [pool.submit(compiled, job) for job in JOBS]
        assert [future.result() for future in together] == alone
    assert (list(warnings.filters), Path.cwd()) == (filters, folder)
    assert os.path.samestat(os.fstat(1), stdout)


def test_the_first_in_changes_and_the_last_out_restores() -> None:
    """As two threads would have it whose blocks overlap: by itself each would restore what the other had changed."""
    before = list(warnings.filters)
    first, second = NO_WARNINGS, NO_WARNINGS
    first.__enter__()
    second.__enter__()
    first.__exit__()
    with warnings.catch_warnings(record=True) as heard:
        warnings.warn("not heard", stacklevel=1)
    assert heard == []
    second.__exit__()
    assert list(warnings.filters) == before

    stdout = os.fstat(1)
    entered, left = threading.Barrier(2), threading.Barrier(2)

    def inside() -> None:
        with highs._STDOUT_KEPT_CLEAN:
            entered.wait()
            assert os.path.samestat(os.fstat(1), os.fstat(2))
            left.wait()

    threads = [threading.Thread(target=inside) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert os.path.samestat(os.fstat(1), stdout)


@pytest.fixture(scope="module")
def result() -> graphopt.Result:
    return graphopt.optimize(MODEL, target="openvino", calibration_data=SAMPLES, prune=PRUNE, verify=True)


def test_what_goes_in_and_comes_out_can_be_pickled(result: graphopt.Result, tmp_path: Path) -> None:
    passes = graphopt.preset("mixed", "tflite")
    for value in (*graphopt.TARGETS.values(), *passes, Resources(workers=3), Preprocess(resize=8), result.report):
        again = pickle.loads(pickle.dumps(value))
        assert again == value
        assert type(again) is type(value)
    again = pickle.loads(pickle.dumps(result))
    assert [getattr(again, f.name) == getattr(result, f.name) for f in fields(result)] == [False, True, True, True]
    assert again.model.SerializeToString(deterministic=True) == result.model.SerializeToString(deterministic=True)
    assert again.graph.plan.quantized_nodes == result.graph.plan.quantized_nodes
    again.save(tmp_path / "out.onnx")
    with pytest.raises(graphopt.ConfigError, match="would overwrite the input"):
        again.save(MODEL)
    calibration = graphopt.calibrate(MODEL, SAMPLES, target="openvino")
    for number, value in enumerate((calibration, pickle.loads(pickle.dumps(calibration)))):
        value.save(tmp_path / f"{number}.json")
    assert (tmp_path / "0.json").read_bytes() == (tmp_path / "1.json").read_bytes()


def test_errors_can_be_pickled(result: graphopt.Result) -> None:
    assert result.report.verification is not None
    for error in (
        graphopt.VerificationError("it misses", result.report.verification),
        graphopt.InternalError("a bug", "folder"),
        graphopt.Cancelled("ended"),
        graphopt.ConfigError("wrong"),
    ):
        again = pickle.loads(pickle.dumps(error))
        assert (type(again), str(again), vars(again)) == (type(error), str(error), vars(error))


def _in_another_process(call: Callable[..., Any], *arguments: Any) -> Any:
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(call, *arguments).result()


def with_workers(passes: list[graphopt.Pass], target: graphopt.Target, resources: Resources) -> graphopt.Result:
    """Compile with processes of its own."""
    return graphopt.optimize(MODEL, target=target, passes=passes, calibration_data=SAMPLES, resources=resources)


def test_in_a_process_of_a_pool_with_workers() -> None:
    target = graphopt.TARGETS["onnxruntime"]
    passes = graphopt.preset("int8", target)
    found = _in_another_process(with_workers, passes, target, Resources(workers=2))
    alone = with_workers(passes, target, Resources())
    assert found.model.SerializeToString(deterministic=True) == alone.model.SerializeToString(deterministic=True)


def test_a_script_needs_no_guard(tmp_path: Path) -> None:
    """Workers don't run the user's script again, and a pass that it defines is named so that it is found again."""
    script = f"""
from dataclasses import dataclass
import graphopt
from graphopt import Context, Graph, Pass
print("begun")
@dataclass(frozen=True)
class Mine(Pass):
    def run(self, graph: Graph, ctx: Context) -> None:
        ctx.remarks.note(None, "mine")
result = graphopt.optimize(
    {str(MODEL)!r}, target="onnxruntime", passes=[Mine(), *graphopt.preset("int8", "onnxruntime")],
    calibration_data={str(SAMPLES)!r}, resources=graphopt.Resources(workers=2),
)
print(result.report.pipeline.partition(",")[0])
print(graphopt.passes_from_text("my_script:Mine") == [Mine()])
"""
    (tmp_path / "my_script.py").write_text(script)
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "my_script.py"], cwd=tmp_path, env=env, capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines() == ["begun", "my_script:Mine", "True"]
