"""What `--dump-dir` adds to compiling a model of 1,000 nodes, in turns with compiling it without.

    python -m benchmarks.dump [--models densenet121 …] [--turns N] [--models-too]

`with/without`: process time (user and system, all threads) of `graphopt.optimize` with preset float, from file to file;
median of the ratios of N pairs, [least, largest]. Preset float is the dearest case: its passes take little time.
Without --models it is the network of `benchmarks.scaling`, in which nearly all passes change something everywhere;
names are models of the zoo or architectures of its light.py (GRAPHOPT_ZOO). --models-too: with --dump-onnx.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import graphopt
from benchmarks._common import Table
from benchmarks.float_preset import write_model
from benchmarks.scaling import synthetic
from graphopt.pipeline.instruments import Dump, Reproducer, Verify

COLUMNS = (("model", 16), ("nodes", 6), ("s", 6), ("with/without", 20), ("files", 6), ("MB", 6))
NODES = 1000


@dataclass(frozen=True)
class Cost:
    """What dumping added: process seconds without it, sorted ratios with / without, files of a dump and their bytes."""

    nodes: int
    seconds: float
    ratios: tuple[float, ...]
    files: int
    nbytes: int


def cost(path: Path, folder: Path, turns: int, *, models: bool = False) -> Cost:
    """Compile the model in `path`, once to warm up, then `turns` times without and with a dump into `folder`."""
    dump = folder / "dump"
    nodes = _compile(path, folder, None).report.before.nodes
    plain: list[float] = []
    ratios: list[float] = []
    for _ in range(turns):
        seconds: list[float] = []
        for instrument in (None, Dump(dump, models=models)):
            began = time.process_time()
            _compile(path, folder, instrument)
            seconds.append(time.process_time() - began)
        plain.append(seconds[0])
        ratios.append(seconds[1] / seconds[0])
    sizes = [file.stat().st_size for file in dump.iterdir()]
    return Cost(nodes, float(np.median(plain)), tuple(sorted(ratios)), len(sizes), sum(sizes))


def _compile(path: Path, folder: Path, dump: Dump | None) -> graphopt.Result:
    watching = (Reproducer(), Verify(), *(() if dump is None else (dump,)))
    return graphopt.optimize(path, preset="float", output=folder / "out.onnx", instruments=watching)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["synthetic"], metavar="NAME")
    parser.add_argument("--turns", type=int, default=9, metavar="N")
    parser.add_argument("--models-too", action="store_true")
    options = parser.parse_args(arguments)
    table = Table(COLUMNS)
    table.head()
    for name in options.models:
        with tempfile.TemporaryDirectory(prefix="graphopt-dump-") as folder:
            path = Path(folder) / "model.onnx"
            if name == "synthetic":
                path.write_bytes(synthetic(NODES).SerializeToString())
            else:
                write_model(name, path)
            found = cost(path, Path(folder), options.turns, models=options.models_too)
        ratio = f"{np.median(found.ratios):.2f} [{found.ratios[0]:.2f}, {found.ratios[-1]:.2f}]"
        cells = [name, str(found.nodes), f"{found.seconds:.2f}", ratio, str(found.files), f"{found.nbytes / 1e6:.1f}"]
        table.row(cells)


if __name__ == "__main__":
    main()
