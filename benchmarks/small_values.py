"""What `protect-small-values` turns back to float on real models, and what that is worth.

    GRAPHOPT_ZOO=… python -m benchmarks.small_values [--models …] [--targets …] [--samples N] [--markdown]

Each model is compiled twice, without and with the pass, from the same calibration samples (64; 24 for models without
labels), and judged in its engine against the float model on N others. `dB`: SQNR of the first output. `8 bits`: of
the Conv, ConvTranspose, Gemm and MatMul that the engine really runs. `s`: what the pass took. Then come the reasons.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import graphopt
from benchmarks._common import ENGINES, Score, Table, zoo_names
from benchmarks.zoo_int8 import Subject
from graphopt.passes.presets import FLOAT
from graphopt.passes.protect_small_values import ProtectSmallValues

BEFORE = (*FLOAT, "plan-quantization", "calibrate")
AFTER = ("quantize-weights", "insert-qdq")
COLUMNS = (("model", 27), ("engine", 11), ("dB", 6), ("with", 6), ("8 bits", 8), ("with", 8), ("s", 5))


def cells(subject: Subject, engine: str, reasons: list[str]) -> list[str]:
    """The line of one model in one engine."""
    found: list[Score] = []
    seconds = 0.0
    for passes in ((*BEFORE, *AFTER), (*BEFORE, ProtectSmallValues.name, *AFTER)):
        result = graphopt.optimize(
            subject.path, target=engine, passes=",".join(passes), calibration_data=subject.calibration
        )
        found.append(subject.score(engine, result.model))
        seconds = sum(r.seconds for r in result.report.passes if r.name == ProtectSmallValues.name)
        reasons += [
            f"{subject.name}, {engine}: {r.op} '{r.node}' {r.message}"
            for r in result.report.remarks
            if r.pass_name == ProtectSmallValues.name and r.kind == "declined"
        ]
    layers = [f"{s.integer}/{s.layers}" for s in found]
    return [subject.name, engine, *(f"{s.sqnr_db:.1f}" for s in found), *layers, f"{seconds:.1f}"]


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", metavar="NAME", help="models of the zoo (default: all)")
    parser.add_argument("--targets", nargs="+", choices=ENGINES, default=ENGINES)
    parser.add_argument("--samples", type=int, default=100, metavar="N", help="validation samples")
    parser.add_argument("--markdown", action="store_true")
    options = parser.parse_args(arguments)
    table = Table(COLUMNS, options.markdown)
    table.head()
    reasons: list[str] = []
    for name in options.models or zoo_names():
        subject = Subject.of(name, options.samples, False)
        for engine in options.targets:
            try:
                table.row(cells(subject, engine, reasons))
            except graphopt.GraphoptError as error:
                table.row([name, engine, f"fails: {error}"])
    print("\nTurned back to float:")
    print("\n".join(f"- {reason}" for reason in reasons) or "- nothing")


if __name__ == "__main__":
    main()
