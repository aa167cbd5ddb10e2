"""4-bit weights of matrix products: `quantize-weights{bits=4}` and onnxruntime's MatMulNBitsQuantizer, side by side.

    python -m benchmarks.block_weights [--models …] [--zoo …] [--block 32] [--samples 100] [--markdown]

Each of the repository's small trained transformers (and models of the zoo, with `--zoo` and GRAPHOPT_ZOO) is stored in
blocks by each method, from the same calibration samples where it takes any, and run in onnxruntime. `dB`: SQNR of the
first output against the float model, on other samples. `KiB`: of the file; `share`: of the float file. `4 bits`: of the
Gemm and MatMul that onnxruntime runs, those that are MatMulNBits. `s`: what the method took. The peer leaves Gemm in
float. It needs `pip install onnx-ir`; without that only our own lines are printed, with a word about it.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx

import graphopt
from benchmarks._common import Feeds, Table, first_outputs, script
from benchmarks._peer_blocks import blocks
from graphopt.backends import kernel_precision
from graphopt.backends.measures import Tally
from graphopt.passes.presets import FLOAT
from tests.data.transformers.tokens import tokenize

ROOT = Path(__file__).parents[1]
TRANSFORMERS = ("vit_opset17", "vit_opset11", "encoder")
COLUMNS = (("model", 20), ("method", 22), ("dB", 6), ("KiB", 8), ("share", 6), ("4 bits", 7), ("s", 6))
_PRODUCTS = frozenset({"FusedGemm", "FusedMatMul", "Gemm", "MatMul", "MatMulNBits"})


@dataclass(frozen=True)
class Subject:
    """A float model with samples."""

    name: str
    path: Path
    calibration: Feeds
    validation: Feeds


def transformer(name: str, samples: int) -> Subject:
    """One of the repository's, with images that it wasn't trained on."""

    def feeds(part: str, count: int) -> Feeds:
        images = np.load(ROOT / "calibration_data" / f"{part}.npz")["image"][:count]
        inputs = tokenize(images) if name == "encoder" else {"image": images}
        return [{key: value[k : k + 1] for key, value in inputs.items()} for k in range(len(images))]

    path = ROOT / "tests" / "data" / "transformers" / f"{name}.onnx"
    return Subject(name, path, feeds("calibration", 128), feeds("validation", samples))


def zoo_model(name: str, samples: int) -> Subject:
    """One of the zoo's."""
    model = script("zoo").model(name)
    return Subject(name, model.path, model.calibration(64), model.validation(samples)[0])


def ours(options: str) -> Callable[[Subject, int], onnx.ModelProto]:
    """The preset float, and 4-bit weights."""

    def make(subject: Subject, block: int) -> onnx.ModelProto:
        passes = ",".join((*FLOAT, f"quantize-weights{{bits=4,block={block}{options}}}"))
        feeds = subject.calibration
        return graphopt.optimize(subject.path, target="onnxruntime", passes=passes, calibration_data=feeds).model

    return make


METHODS: dict[str, Callable[[Subject, int], onnx.ModelProto | str]] = {
    "rtn": ours(""),
    "rtn, zero points": ours(",symmetric=false"),
    "gptq": ours(",method=gptq"),
    "gptq, zero points": ours(",method=gptq,symmetric=false"),
    "peer": lambda subject, block: blocks(subject.path, subject.calibration, "default", block, symmetric=True),
    "peer, zero points": lambda subject, block: blocks(
        subject.path, subject.calibration, "default", block, symmetric=False
    ),
    "peer's gptq": lambda subject, block: blocks(subject.path, subject.calibration, "gptq", block, symmetric=True),
}


def cells(subject: Subject, method: str, block: int) -> list[str]:
    """The line of one method."""
    started = time.perf_counter()
    made = METHODS[method](subject, block)
    seconds = time.perf_counter() - started
    if isinstance(made, str):
        return [subject.name, method, made]
    tally = Tally()
    reference = first_outputs("onnxruntime", subject.path, subject.validation)
    for expected, found in zip(reference, first_outputs("onnxruntime", made, subject.validation), strict=True):
        tally.add(expected, found)
    kernels = [kernel.op_type for kernel in kernel_precision(made) if kernel.op_type in _PRODUCTS]
    size, whole = made.ByteSize(), subject.path.stat().st_size
    stored = f"{kernels.count('MatMulNBits')}/{len(kernels)}"
    return [
        *(subject.name, method, f"{tally.sqnr_db:.1f}", f"{size / 1024:.1f}"),
        *(f"{size / whole:.2f}", stored, f"{seconds:.1f}"),
    ]


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="*", choices=TRANSFORMERS, default=TRANSFORMERS)
    parser.add_argument("--zoo", nargs="*", default=[], metavar="NAME", help="models of the zoo")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=tuple(METHODS))
    parser.add_argument("--block", type=int, default=32)
    parser.add_argument("--samples", type=int, default=100, metavar="N", help="validation samples")
    parser.add_argument("--markdown", action="store_true")
    options = parser.parse_args(arguments)
    table = Table(COLUMNS, options.markdown)
    table.head()
    subjects = [transformer(name, options.samples) for name in options.models]
    subjects += [zoo_model(name, options.samples) for name in options.zoo]
    for subject in subjects:
        for method in options.methods:
            table.row(cells(subject, method, options.block))


if __name__ == "__main__":
    main()
