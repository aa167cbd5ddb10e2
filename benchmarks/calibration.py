"""What calibration costs over running the samples, beside onnxruntime.quantization on the same samples.

    GRAPHOPT_ZOO=… python -m benchmarks.calibration [--light …] [--models …] [--samples 16] [--rounds 3]
        [--measures …] [--memory NAME]

Each figure is the median over rounds of time / time of plain inference in the same round; each measurement is a fresh
process, with as many threads as there are cores. Opening the session counts on both sides of the ratio. `minmax` and
`histogram` (which serves all histogram methods from one pass) are `collect` on the model and tensors that the int8
preset for onnxruntime plans. `calibrate` is the whole of `graphopt.calibrate` with its default method: reading the
model, the passes, `collect`, hashing model and samples, choosing the ranges. The peer observes what it observes; its
Entropy is given 2048 bins and 128 levels. MiB: the process's peak above that of plain inference.

`--memory` compares peaks with 64 and with 512 samples, and prints what they are promised to stay below: two lanes'
batches of fetched tensors and the histograms, positive and negative side.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnxruntime.quantization.calibrate import CalibrationDataReader, CalibrationMethod, create_calibrator

from benchmarks._common import Feeds, Table, script
from graphopt.api import calibrate  # its imports aren't part of what is timed, as onnxruntime's aren't
from graphopt.api.choice import choose_pipeline
from graphopt.calibration import budget, collect, input_specs, load_dataset
from graphopt.calibration.binning import BINS
from graphopt.calibration.session import open_session
from graphopt.calibration.shapes import infer
from graphopt.calibration.weights import detached
from graphopt.ir import load, to_proto
from graphopt.passes.calibrate import Calibrate
from graphopt.pipeline import Context, PassManager

COLLECT = ("minmax", "histogram")
CALIBRATE = "calibrate"
OURS = (*COLLECT, CALIBRATE)
PEER = {
    "MinMax": CalibrationMethod.MinMax,
    "Percentile": CalibrationMethod.Percentile,
    "Entropy": CalibrationMethod.Entropy,
}
PLAIN = "plain"
ARCHITECTURES = ("resnet50", "densenet121", "inception_v2")


class _Reader(CalibrationDataReader):
    def __init__(self, feeds: Feeds) -> None:
        self._left = iter(feeds)

    def get_next(self) -> dict[str, object] | None:
        return dict(feed) if (feed := next(self._left, None)) is not None else None


def prepare(folder: Path, name: str, light: bool, samples: int) -> None:
    """Save what the measurements of a model need: the model, the planned model, its tensors, the samples."""
    model = (
        script("light").build(name)
        if light
        else onnx.ModelProto.FromString(script("zoo").model(name).path.read_bytes())
    )
    if light:
        shapes = {s.name: [d if isinstance(d, int) else 1 for d in s.shape or ()] for s in input_specs(model)}
        rng = np.random.default_rng(0)
        feeds: Feeds = [
            {k: rng.normal(size=shape).astype(np.float32) for k, shape in shapes.items()} for _ in range(samples)
        ]
    else:
        found: Feeds = script("zoo").model(name).calibration(min(samples, 64))
        feeds = [found[k % len(found)] for k in range(samples)]
    choice = choose_pipeline("onnxruntime", preset="int8")
    last = next(k for k, p in enumerate(choice.passes) if isinstance(p, Calibrate))
    graph = load(model)
    PassManager(choice.passes[:last]).run(graph, Context(target=choice.target))
    (folder / "model.onnx").write_bytes(model.SerializeToString())
    (folder / "planned.onnx").write_bytes(to_proto(graph).SerializeToString())
    (folder / "tensors.json").write_text(json.dumps([e.tensor for e in graph.plan if e.range is None]))
    arrays = {f"{k}/{name}": v for k, feed in enumerate(feeds) for name, v in feed.items()}
    np.savez(folder / "samples.npz", allow_pickle=False, **arrays)


def measure(folder: Path, what: str, samples: int) -> None:
    """In this process: print the seconds that `what` takes, and the process's peak memory in KiB."""
    feeds: Feeds = [{} for _ in range(samples)]
    with np.load(folder / "samples.npz") as file:
        for key in file.files:
            number, _, name = key.partition("/")
            if int(number) < samples:
                feeds[int(number)][name] = file[key]
    threads = os.cpu_count()
    planned = detached(load(folder / "planned.onnx")) if what in COLLECT else None
    began = time.perf_counter()
    if what == PLAIN:
        session = open_session(folder / "model.onnx", threads=threads)
        for feed in feeds:
            session.run(None, feed)
    elif what == CALIBRATE:
        calibrate(folder / "model.onnx", feeds, target="onnxruntime", threads=threads)
    elif what in COLLECT:
        tensors = json.loads((folder / "tensors.json").read_text())
        kind: Any = what
        assert planned is not None
        collect(planned, tensors, load_dataset(feeds, input_specs(planned.model)), kind=kind, threads=threads)
    else:
        options = {"num_bins": 2048, "num_quantized_bins": 128} if what == "Entropy" else {}
        with tempfile.TemporaryDirectory() as scratch:
            calibrator = create_calibrator(
                folder / "model.onnx",
                augmented_model_path=f"{scratch}/augmented.onnx",
                calibrate_method=PEER[what],
                extra_options=options,
            )
            calibrator.collect_data(_Reader(feeds))
            calibrator.compute_data()
    print(time.perf_counter() - began, peak_kib())


def peak_kib() -> int:
    """The most memory that this process has had."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
        # ru_maxrss starts with what the parent had when it forked.
        return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))
    except (OSError, StopIteration):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def measured(folder: Path, what: str, samples: int) -> tuple[float, float] | None:
    """(seconds, peak MiB) of a fresh process; None when it failed."""
    command = [sys.executable, "-m", "benchmarks.calibration", "--measure", str(folder), what, str(samples)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        return None
    seconds, peak = done.stdout.splitlines()[-1].split()
    return float(seconds), float(peak) / 1024


def compare(table: Table, folder: Path, name: str, samples: int, rounds: int, measures: Sequence[str]) -> None:
    """A model's line."""
    ratios: dict[str, list[float]] = {}
    peaks: dict[str, float] = {}
    plain_ms = 0.0
    for _ in range(rounds):
        plain = measured(folder, PLAIN, samples)
        assert plain is not None, f"{name} can't be run"
        plain_ms = 1000 * plain[0] / samples
        for what in measures:
            found = measured(folder, what, samples)
            if found is not None:
                ratios.setdefault(what, []).append(found[0] / plain[0])
                peaks[what] = found[1] - plain[1]
    cells = [
        f"{statistics.median(ratios[what]):.2f} {peaks[what]:.0f} MiB" if what in ratios else "fails"
        for what in measures
    ]
    table.row([name, f"{plain_ms:.1f}", *cells])


def promised(folder: Path, kind: str, samples: int) -> float:
    """MiB that the memory above plain inference is to stay below, whatever the number of samples."""
    planned = onnx.ModelProto.FromString((folder / "planned.onnx").read_bytes())
    tensors = json.loads((folder / "tensors.json").read_text())
    with np.load(folder / "samples.npz") as file:
        shapes = {key.partition("/")[2]: file[key].shape for key in file.files if key.startswith("0/")}
    size = sum(infer(planned, shapes).sizes(tensors).values())
    if kind == "minmax" and size > budget.REDUCED_BYTES:
        return 0.0
    fetched = budget.LANES * budget.batch_size(size, budget.default_budget(), samples) * size
    histograms = len(tensors) * BINS * 8 * 2 if kind == "histogram" else 0
    return (fetched + histograms) / 2**20


def memory(name: str, few: int, many: int) -> None:
    """Print the peaks for both numbers of samples, how much they differ, and what was promised."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        prepare(folder, name, False, many)
        for kind in COLLECT:
            above: list[float] = []
            whole: list[float] = []
            for samples in (few, many):
                ours, plain = measured(folder, kind, samples), measured(folder, PLAIN, samples)
                assert ours is not None
                assert plain is not None
                above.append(ours[1] - plain[1])
                whole.append(ours[1])
            print(
                f"{name}, {kind}: {above[0]:.1f} MiB above plain with {few} samples, {above[1]:.1f} with {many} "
                f"({100 * (above[1] - above[0]) / above[0]:+.1f} %, {100 * (above[1] - above[0]) / whole[1]:+.1f} % of "
                f"the process); tensors and histograms may take {promised(folder, kind, many):.1f}",
                flush=True,
            )


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--light", nargs="*", default=list(ARCHITECTURES), metavar="NAME")
    parser.add_argument("--models", nargs="*", default=[], metavar="NAME", help="models of the zoo")
    parser.add_argument("--samples", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=3)
    every = [*OURS, *PEER]
    parser.add_argument("--measures", nargs="+", choices=every, default=every, help="Entropy takes minutes")
    parser.add_argument("--memory", metavar="NAME", help="a model of the zoo")
    parser.add_argument("--measure", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.measure:
        folder, what, samples = options.measure
        measure(Path(folder), what, int(samples))
        return
    table = Table((("model", 18), ("plain ms", 8), *((what, 15) for what in options.measures)))
    table.head()
    for name, light in [(n, True) for n in options.light] + [(n, False) for n in options.models]:
        with tempfile.TemporaryDirectory() as folder:
            prepare(Path(folder), name, light, options.samples)
            compare(table, Path(folder), name, options.samples, options.rounds, options.measures)
    if options.memory:
        memory(options.memory, 64, 512)


if __name__ == "__main__":
    main()
