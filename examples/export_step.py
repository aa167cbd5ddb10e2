"""Compilation as one step of an export script: what a build calls, and what it can go by.

model.onnx ─▶ calibrate (once; ranges.json is reused) ─▶ optimize (preset int8 and a pass of one's own)
           ─▶ OUT/model_int8.onnx, OUT/report.json; exit code 0, 1 on an error, 3 where it isn't accurate enough

cd calibration_data
python ../examples/export_step.py digits_cnn.onnx --calibration-data calibration.npz --validation-data validation.npz
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from custom_pass import UncapRelu  # the example beside this one

import graphopt

INACCURATE = 3


def progress(what: str, done: int, total: int | None) -> None:
    """A line in the build's log for each walk over the samples. What it raises ends the work: see `Cancelled`."""
    if done == total:
        print(f"{what}: {done}", file=sys.stderr)


def step(given: argparse.Namespace) -> graphopt.Result:
    """Compile, and write the result and what there is to know about it.

    Raises:
        AccuracyError: top-1 falls by more than `max_drop` points, even with layers left in float.
        GraphoptError: something else is wrong with the model, the samples or the options.
    """
    usual = graphopt.preset("int8", given.target)
    planning = [p.name for p in usual].index("plan-quantization")
    passes = [*usual[:planning], UncapRelu(), *usual[planning:]]
    ranges = given.out / "ranges.json"
    if not ranges.exists():
        found = graphopt.calibrate(
            given.model, given.calibration_data, target=given.target, passes=passes, progress=progress
        )
        given.out.mkdir(parents=True, exist_ok=True)
        found.save(ranges)
    result = graphopt.optimize(
        given.model,
        target=given.target,
        passes=passes,
        ranges=ranges,  # another model's, or those of other passes, are refused
        validation_data=given.validation_data,
        max_drop=given.max_drop,
        progress=progress,
    )
    result.save(given.out / "model_int8.onnx")
    (given.out / "report.json").write_text(json.dumps(result.report.to_dict(), indent=2))
    return result


def main() -> int:
    """Read the command line, run the step, and turn what goes wrong into an exit code."""
    parser = argparse.ArgumentParser(description="Compile a float model to int8 as a step of a build.")
    parser.add_argument("model", type=Path)
    parser.add_argument("--out", type=Path, default=Path("build"))
    parser.add_argument("--target", default="onnxruntime")
    parser.add_argument("--calibration-data", required=True)
    parser.add_argument("--validation-data", required=True, help="with labels")
    parser.add_argument("--max-drop", type=float, default=0.5, help="points of top-1")
    given = parser.parse_args()
    try:
        report = step(given).report
    except graphopt.AccuracyError as error:
        print(f"not accurate enough: {error}", file=sys.stderr)
        return INACCURATE
    except graphopt.GraphoptError as error:
        print(error, file=sys.stderr)
        return 1
    measured = report.measurement
    assert measured is not None  # there are validation data
    found = measured.agreement
    print(f"top-1 {found.reference_accuracy:.2%} in float, {found.other_accuracy:.2%} in 8 bits; {given.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
