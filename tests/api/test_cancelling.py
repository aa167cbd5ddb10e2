"""A run ends where it is asked to: promptly, and leaving nothing behind.

How promptly is counted in calls, not in seconds: after the run was asked to end, no model call may begin beyond those
that were handed out already.
"""

from __future__ import annotations

import gc
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import graphopt
from graphopt import Cancelled
from graphopt.calibration import checkpoint as disk
from graphopt.calibration import session, workers
from graphopt.ir import cancelling
from graphopt.pipeline.passes import Resources

ROOT = Path(__file__).resolve().parents[2]
MODEL = ROOT / "calibration_data" / "digits_cnn.onnx"
SAMPLES = ROOT / "calibration_data" / "calibration.npz"
LABELLED = ROOT / "calibration_data" / "validation.npz"
OPTIONS: dict[str, Any] = {"target": "onnxruntime", "calibration_data": SAMPLES}


class Counter:
    """Counts what happens after the run was asked to end."""

    def __init__(self) -> None:
        self.asked = threading.Event()
        self.calls_after = 0

    def called(self) -> None:
        self.calls_after += self.asked.is_set()


@pytest.fixture
def counter(monkeypatch: pytest.MonkeyPatch) -> Counter:
    """Counts calls of onnxruntime by this process."""
    found = Counter()
    run: Callable[..., Any] = session.ort.InferenceSession.run

    def counted(*args: Any) -> Any:
        found.called()
        return run(*args)

    monkeypatch.setattr(session.ort.InferenceSession, "run", counted)
    return found


@pytest.fixture(autouse=True)
def nothing_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No thread, no worker process, no temporary folder, and no file but what a test names."""
    started: list[subprocess.Popen[bytes]] = []
    popen = subprocess.Popen

    class Watched(popen):  # type: ignore[misc, valid-type]
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            started.append(self)

    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
    monkeypatch.setattr(workers.subprocess, "Popen", Watched)
    before = set(threading.enumerate())
    yield
    gc.collect()
    left = {t for t in threading.enumerate() if not t.name.startswith("ThreadPoolExecutor-")}  # ours have names
    assert left <= before
    assert all(process.poll() is not None for process in started)
    assert list((tmp_path / "tmp").iterdir()) == []
    assert [p.name for p in tmp_path.iterdir() if p.suffix in (".onnx", ".tmp")] == []


def ends_at(counter: Counter, what: str, at: int, tmp_path: Path, **options: Any) -> list[tuple[str, int]]:
    """Ask the run to end when `what` has come to `at`; what was reported until it did."""
    seen: list[tuple[str, int]] = []

    def progress(text: str, done: int, total: int | None) -> None:
        assert threading.current_thread() is threading.main_thread()
        seen.append((text, done))
        if text == what and done == at:
            counter.asked.set()

    with pytest.raises(Cancelled):
        graphopt.optimize(
            MODEL, **OPTIONS | options, output=tmp_path / "out.onnx", progress=progress, cancel=counter.asked
        )
    assert seen[-1] == (what, at)
    return seen


def test_between_passes(counter: Counter, tmp_path: Path) -> None:
    seen = ends_at(counter, "rewriting", 3, tmp_path)
    assert seen == [("rewriting", k) for k in range(4)]
    assert counter.calls_after == 0


@pytest.mark.parametrize("threads", [1, 2])
def test_while_calibrating_in_lanes(counter: Counter, tmp_path: Path, threads: int) -> None:
    ends_at(counter, "calibrating", 5, tmp_path, threads=threads, resources=Resources(batch_size=1))
    assert counter.calls_after <= threads + 1  # what the lanes had been handed


def test_while_calibrating_in_processes(counter: Counter, tmp_path: Path) -> None:
    ends_at(counter, "calibrating", 5, tmp_path, resources=Resources(workers=2, batch_size=1))
    assert counter.calls_after == 0  # none in this process; the workers have ended, see `nothing_is_left`


def test_while_validating(counter: Counter, tmp_path: Path) -> None:
    ends_at(counter, "measuring", 7, tmp_path, validation_data=LABELLED)
    assert counter.calls_after == 0


def test_while_verifying(counter: Counter, tmp_path: Path) -> None:
    ends_at(counter, "verifying", 2, tmp_path, target="openvino", verify=True)
    assert counter.calls_after == 0


def test_between_layers(counter: Counter, tmp_path: Path) -> None:
    ends_at(counter, "rounding weights", 1, tmp_path, preset="int8-accurate")
    assert counter.calls_after == 0


def test_before_each_model_call(counter: Counter, tmp_path: Path) -> None:
    """Where nothing is reported, too: in the measuring of precisions."""
    asked = 0

    def cancel() -> bool:
        nonlocal asked
        asked += 1
        if asked == 400:
            counter.asked.set()
        return counter.asked.is_set()

    with pytest.raises(Cancelled):
        graphopt.optimize(MODEL, **OPTIONS, preset="mixed", cancel=cancel, output=tmp_path / "out.onnx")
    assert asked == 400
    assert counter.calls_after <= 3  # what the lanes had been handed


def test_progress_may_raise_it(tmp_path: Path) -> None:
    def progress(what: str, done: int, total: int | None) -> None:
        if what == "calibrating" and done == 2:
            raise Cancelled("enough")

    for call in (graphopt.optimize, graphopt.calibrate):
        with pytest.raises(Cancelled, match="enough"):
            call(MODEL, target="onnxruntime", calibration_data=SAMPLES, progress=progress)


def test_a_checkpoint_is_kept_and_gone_on_from(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(disk, "SECONDS", 0.0)
    checkpoint = tmp_path / "calibration.checkpoint"
    resources = Resources(checkpoint=checkpoint, batch_size=1)
    steps: list[int] = []

    def progress(what: str, done: int, total: int | None) -> None:
        if what == "calibrating":
            steps.append(done)

    with pytest.raises(Cancelled):
        graphopt.calibrate(
            MODEL, SAMPLES, target="onnxruntime", resources=resources, progress=progress, cancel=lambda: 9 in steps
        )
    assert checkpoint.exists()
    found = graphopt.calibrate(MODEL, SAMPLES, target="onnxruntime", resources=resources)
    assert not checkpoint.exists()
    alone = graphopt.calibrate(MODEL, SAMPLES, target="onnxruntime")
    assert {n: (float(r.low), float(r.high)) for n, r in found.ranges.items()} == {
        n: (float(r.low), float(r.high)) for n, r in alone.ranges.items()
    }


def test_runs_in_threads_hear_their_own_event_only() -> None:
    ended, done = threading.Event(), threading.Event()
    ended.set()
    results: dict[str, object] = {}

    def run(name: str, cancel: threading.Event) -> None:
        try:
            results[name] = graphopt.optimize(MODEL, preset="float", cancel=cancel)
        except Cancelled as error:
            results[name] = error

    threads = [threading.Thread(target=run, args=a) for a in (("ended", ended), ("whole", done))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert isinstance(results["ended"], Cancelled)
    assert isinstance(results["whole"], graphopt.Result)


def test_a_process_is_ended(tmp_path: Path) -> None:
    """As TensorRT's builder is."""
    steps = iter([False, False, True])
    with cancelling.cancelled_by(lambda: next(steps)), pytest.raises(Cancelled):
        cancelling.run_process(["sleep", "600"], b"", {"PATH": "/usr/bin:/bin"}, 600)
    done = cancelling.run_process(["cat"], b"x" * 200_000, {"PATH": "/usr/bin:/bin"}, 600)
    assert (done.returncode, done.stdout) == (0, b"x" * 200_000)
    with pytest.raises(subprocess.TimeoutExpired):
        cancelling.run_process(["sleep", "600"], b"", {"PATH": "/usr/bin:/bin"}, 0.2)


def test_the_users_source_may_raise_it() -> None:
    """It is nobody's failure: what is reported of errors in user code isn't said of it."""

    def samples() -> Iterator[dict[str, np.ndarray[Any, Any]]]:
        raise Cancelled("no more")
        yield {}

    with pytest.raises(Cancelled, match="no more"):
        graphopt.optimize(onnx.load(MODEL), target="onnxruntime", calibration_data=samples())
