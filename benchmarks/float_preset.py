"""What the float preset does to real models and to full-size classic architectures, and what that costs.

    GRAPHOPT_ZOO=… python -m benchmarks.float_preset [--models …] [--runs N] [--markdown]

`BN`, `foldable`: BatchNormalizations left, and constant Mul, Add, Sub, Div left that only stand between a linear
operator and its reader. `difference`: largest |after − before| over largest |before| of any output (for architectures
with random weights before the last Softmax, which they saturate). `s`, `MiB`: `graphopt.optimize` from file to file,
each in a process of its own, whose peak resident memory includes Python and the libraries. `before/after`: latency of
the original over that of the result in onnxruntime with one thread, median of N runs in turn, [10 %, 90 %] of the
single ratios; onnxruntime folds by itself what it can when it loads a model, so 1 is what to expect.
"""

from __future__ import annotations

import argparse
import multiprocessing
import re
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx

import graphopt
from benchmarks._common import Feeds, Table, script, zoo_names
from graphopt.analysis.channels.affine import affine_op
from graphopt.backends import open_session
from graphopt.ir import Constant, Graph
from graphopt.ir.linear import linear_producer

COLUMNS = (
    ("model", 27), ("file MiB", 8), ("nodes", 12), ("BN", 3), ("foldable", 8), ("difference", 10), ("s", 6),
    ("MiB", 6), ("ms", 7), ("before/after", 18),
)  # fmt: skip
COMPARED_SAMPLES = 2


@dataclass(frozen=True)
class Compiled:
    """What compiling a model took and left."""

    nodes_before: int
    nodes_after: int
    batch_norms: int
    foldable: int
    seconds: float
    peak_mib: float


@dataclass(frozen=True)
class Latency:
    """Milliseconds of the original, and the ratios original / result of runs made in turn, sorted."""

    before_ms: float
    ratios: tuple[float, ...]

    def at(self, share: float) -> float:
        """The ratio that this share of the ratios is below."""
        return float(np.quantile(self.ratios, share))


def write_model(name: str, path: Path) -> None:
    """Put a model of the zoo, or an architecture without its last Softmax, into a file."""
    if name in zoo_names():
        path.write_bytes(script("zoo").model(name).path.read_bytes())
        return
    model: onnx.ModelProto = script("light").build(name)
    last = model.graph.node[-1]
    if last.op_type == "Softmax":
        del model.graph.node[-1]
        del model.graph.output[:]
        model.graph.output.append(onnx.helper.make_tensor_value_info(last.input[0], onnx.TensorProto.FLOAT, None))
    path.write_bytes(model.SerializeToString())


def make_feeds(name: str, path: Path) -> Feeds:
    """Real samples for models of the zoo, seeded normals for architectures."""
    if name in zoo_names():
        return script("zoo").model(name).calibration(COMPARED_SAMPLES)
    rng = np.random.default_rng(0)
    (data,) = open_session(path).get_inputs()
    shape = [int(size or 1) for size in data.shape]
    return [{data.name: rng.normal(size=shape).astype(np.float32)} for _ in range(COMPARED_SAMPLES)]


def compile_model(path: Path, output: Path) -> Compiled:
    """Run the float preset. In a fresh process the peak is its own."""
    began = time.perf_counter()
    result = graphopt.optimize(path, preset="float", output=output)
    seconds = time.perf_counter() - began
    peak = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert peak is not None
    report = result.report
    batch_norms = sum(node.op == "BatchNormalization" for node in result.graph.nodes)
    return Compiled(
        report.before.nodes, report.after.nodes, batch_norms, foldable(result.graph), seconds, int(peak[1]) / 1024
    )


def foldable(graph: Graph) -> int:
    """Constant Mul, Add, Sub, Div and Neg whose only purpose is to scale or shift what a linear operator made."""
    found = 0
    for node in graph.nodes:
        data = next((t for t in node.inputs if not isinstance(t, Constant)), None)
        if data is None or affine_op(node) is None:
            continue
        linear = linear_producer(graph, data)
        found += linear is not None and linear.kind != "MatMul" and graph.sole_consumer(linear.output) is node
    return found


def difference(before: Path, after: Path, feeds: Feeds) -> float:
    """Largest error of any output over its largest value; infinite when a non-float output differs at all."""
    sessions = open_session(before, optimize="basic"), open_session(after, optimize="basic")
    worst = 0.0
    for feed in feeds:
        for old, new in zip(sessions[0].run(None, feed), sessions[1].run(None, feed), strict=True):
            if old.dtype.kind == "f":
                worst = max(worst, float(np.abs(new - old).max() / max(np.abs(old).max(), np.finfo(old.dtype).tiny)))
            elif not np.array_equal(old, new):
                worst = float("inf")
    return worst


def latency(before: Path, after: Path, feeds: Feeds, runs: int) -> Latency:
    """Run both models in turn, so that what else the machine does meets both."""
    sessions = open_session(before, threads=1), open_session(after, threads=1)
    seconds: list[tuple[float, float]] = []
    for k in range(runs + 2):
        pair = [0.0, 0.0]
        for side in (0, 1) if k % 2 else (1, 0):
            began = time.perf_counter()
            sessions[side].run(None, feeds[0])
            pair[side] = time.perf_counter() - began
        seconds.append((pair[0], pair[1]))
    warm = seconds[2:]
    return Latency(1000 * float(np.median([old for old, _ in warm])), tuple(sorted(old / new for old, new in warm)))


def judge(before: Path, after: Path, name: str, runs: int) -> tuple[float, Latency]:
    """How far the outputs are apart, and how fast both are."""
    feeds = make_feeds(name, before)
    return difference(before, after, feeds), latency(before, after, feeds, runs)


def line(name: str, runs: int, pool: ProcessPoolExecutor, folder: Path) -> list[str]:
    """The cells of a model's line. Each step has a process of its own, which gives its memory back."""
    before, after = folder / "before.onnx", folder / "after.onnx"
    pool.submit(write_model, name, before).result()
    made = pool.submit(compile_model, before, after).result()
    apart, timed = pool.submit(judge, before, after, name, runs).result()
    ratios = f"{timed.at(0.5):.2f} [{timed.at(0.1):.2f}, {timed.at(0.9):.2f}]"
    return [
        name, f"{before.stat().st_size / 2**20:.1f}", f"{made.nodes_before} → {made.nodes_after}",
        str(made.batch_norms), str(made.foldable), f"{apart:.1e}", f"{made.seconds:.2f}", f"{made.peak_mib:.0f}",
        f"{timed.before_ms:.2f}", ratios,
    ]  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", metavar="NAME", help="models of the zoo or of light.py (default: all)")
    parser.add_argument("--runs", type=int, default=20, metavar="N", help="runs of each side for the latency")
    parser.add_argument("--markdown", action="store_true")
    options = parser.parse_args(arguments)
    table = Table(COLUMNS, options.markdown)
    table.head()
    fresh = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=fresh, max_tasks_per_child=1) as pool:
        for name in options.models or [*zoo_names(), *script("light").NAMES]:
            with tempfile.TemporaryDirectory(prefix="graphopt-float-") as folder:
                table.row(line(name, options.runs, pool, Path(folder)))


if __name__ == "__main__":
    main()
