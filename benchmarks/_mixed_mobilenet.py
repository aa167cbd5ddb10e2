"""`python -m benchmarks.mixed mobilenet`."""

from __future__ import annotations

import argparse

from benchmarks._common import Table
from benchmarks._mixed_subject import Subject
from graphopt.analysis.precision.budget import parse_budget
from graphopt.analysis.precision.greedy import greedy_curve
from graphopt.analysis.precision.program import least_error

MODEL, SHARE, TOP1 = "mobilenetv1_025_imagenet_bn", 0.85, 39.5
COLUMNS = (("assignment", 26), ("8 bits", 7), ("top-1 %", 7), ("dB", 6))


def add_options(parser: argparse.ArgumentParser) -> None:
    """What can be asked for."""
    parser.add_argument("--targets", nargs="+", default=["onnxruntime"], choices=["onnxruntime", "openvino"])
    parser.add_argument("--calibration", type=int, default=64, metavar="N")
    parser.add_argument("--samples", type=int, default=400, metavar="N", help="images to judge by")
    parser.add_argument("--markdown", action="store_true")


def main(options: argparse.Namespace) -> None:
    """Plain calibration, no recovery: the least error with 85 % of the multiply-accumulates in 8 bits."""
    for target in options.targets:
        subject = Subject(MODEL, target, options.calibration, options.samples)
        problem = subject.problem("bits")
        bits = SHARE * 8 + (1 - SHARE) * 32
        budget = parse_budget(f"bits={bits:g}").limit(problem.regions, problem.costs)
        greedy = greedy_curve(subject.problem("bits", "local"))
        rows = {
            "all float32": dict.fromkeys(problem.choices, "float32"),
            "all int8": greedy[0].precisions,
            "greedy": min((s for s in greedy if s.cost <= budget), key=lambda s: s.error).precisions,
            f"ours, {SHARE:.0%} in 8 bits": least_error(problem, budget).precisions,
        }
        print(f"\n{MODEL} for {target}, plain calibration with {options.calibration} samples", flush=True)
        table = Table(COLUMNS, options.markdown)
        table.head()
        top1 = 0.0
        for name, precisions in rows.items():
            found = subject.measured(precisions)
            assert found.right is not None  # it has labels
            top1 = 100 * found.right / len(subject.feeds)
            share = subject.integer_share(precisions)
            table.row([name, f"{share:.1%}", f"{top1:.1f}", f"{found.decibels:.1f}"])
        print(f"at least {TOP1} % with {SHARE:.0%} in 8 bits: {'held' if top1 >= TOP1 else 'not held'}")
