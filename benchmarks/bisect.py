"""How long `graphopt.bisect` takes to name a pass, a node and a reproducer.

    python -m benchmarks.bisect [--models squeezenet_imagenet …] [--samples N]

For each model of the zoo (GRAPHOPT_ZOO): a pipeline of 30 passes and more, preset float twice with a pass between that
writes every weight anew, and one of them times 1.01 (`weight`: all of it, `element`: its largest), on seeded noise;
and int8 for onnxruntime, calibrated on N samples, with 3 dB more demanded than it has. `models`: how many were
measured. `found`: pass and node are the planted ones, and the reproducer shows it when it is run again. `nodes`: of its
model, and of the whole.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

import graphopt
from benchmarks._common import Table, script
from graphopt import Context, Graph, Pass
from graphopt.ir import Constant
from graphopt.passes.presets import FLOAT
from graphopt.report.bisection import Bisection

COLUMNS = (("model", 26), ("case", 8), ("s", 6), ("models", 6), ("found", 5), ("nodes", 9), ("dB alone", 8))


@dataclass(frozen=True)
class ScaleWeight(Pass):
    """Writes the weights of all layers anew; that of `node` becomes 1.01 times itself, or only its largest element."""

    name: ClassVar[str] = "scale-weight"
    summary: ClassVar[str] = "a planted bug"
    lossless: ClassVar[bool] = True

    node: str
    one: bool = False

    def run(self, graph: Graph, ctx: Context) -> None:
        """Write them."""
        for node in graph.nodes:
            weight = node.input(1) if node.is_op("Conv", "Gemm", "MatMul") else None
            if not isinstance(weight, Constant):
                continue
            values = weight.values.copy()
            if node.name == self.node:
                chosen = np.abs(values).argmax() if self.one else slice(None)
                values.reshape(-1)[chosen] *= np.float32(1.01)
            graph.set_values(graph.own_constant(node, 1), values)


def planted(path: Path, node: str, folder: Path, *, one: bool) -> tuple[Bisection, bool]:
    """Bisect with a planted bug; whether it was found."""
    passes = [*FLOAT, ScaleWeight(node, one), *FLOAT]
    found = graphopt.bisect(path, passes=passes, output=folder)
    suspects = () if found.blame is None else found.blame.suspects
    named = [name for suspect in suspects for name in suspect.changed]
    right = found.boundary is not None and found.boundary.name == ScaleWeight.name and len(named) == 1
    return found, right and named[0].endswith(f"'{node}'") and _shows(found, folder)


def quantized(path: Path, samples: Sequence[Any], folder: Path) -> tuple[Bisection, bool]:
    """Bisect 8 bits with 3 dB more demanded than they have."""
    options: dict[str, Any] = {"target": "onnxruntime", "calibration_data": samples}
    found = graphopt.bisect(path, **options)
    found = graphopt.bisect(path, **options, min_sqnr=found.result + 3, output=folder)
    return found, found.blame is not None and _shows(found, folder)


def _shows(found: Bisection, folder: Path) -> bool:
    """Whether the reproducer shows the loss when it is run again."""
    if found.reproducer is None:
        return False
    before = folder / "before.onnx"
    result = graphopt.optimize(before, config=folder / "pipeline.toml")
    outputs = graphopt.compare(before, result.model, str(folder / "inputs.npz")).outputs
    return min(output.sqnr_db for output in outputs) < found.reproducer.least_db


def middle_layer(path: Path) -> str:
    """The name of a layer from the middle of the model, with 1,000 weights or more."""
    graph = graphopt.load(path)
    linear = [n for n in graph.nodes if n.is_op("Conv", "Gemm", "MatMul")]
    names = [n.name for n in linear if isinstance(w := n.input(1), Constant) and w.nbytes > 4000]
    return names[len(names) // 2]


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["squeezenet_imagenet", "resnet20_cifar10_bn"], metavar="NAME")
    parser.add_argument("--samples", type=int, default=16, metavar="N")
    options = parser.parse_args(arguments)
    table = Table(COLUMNS)
    table.head()
    for name in options.models:
        entry = script("zoo").model(name)
        node = middle_layer(entry.path)
        for case in ("weight", "element", "int8"):
            with tempfile.TemporaryDirectory(prefix="graphopt-bisect-") as folder:
                began = time.perf_counter()
                if case == "int8":
                    found, right = quantized(entry.path, entry.calibration(options.samples), Path(folder))
                else:
                    found, right = planted(entry.path, node, Path(folder), one=case == "element")
                seconds = time.perf_counter() - began
            table.row([name, case, f"{seconds:.1f}", *_cells(found, right)])


def _cells(found: Bisection, right: bool) -> list[str]:
    blame, alone = found.blame, found.reproducer
    models = len(found.evaluations) + (0 if blame is None else blame.tests)
    size, decibels = ("", "") if alone is None else (f"{alone.nodes}/{alone.of}", f"{alone.sqnr_db:.1f}")
    return [str(models), "yes" if right else "no", size, decibels]


if __name__ == "__main__":
    main()
