"""`python -m benchmarks.mixed shipped`."""

from __future__ import annotations

import argparse
import time

import numpy as np

import graphopt
from benchmarks._common import ENGINES, Table, script, zoo_names
from graphopt.api.stopwatch import Stopwatch
from graphopt.backends.engines import find_engine
from graphopt.report.precision import Candidate

COLUMNS = (
    ("model", 27), ("engine", 12), ("shipped", 14), ("8 bits", 7), ("fp32 %", 7), ("ours %", 7), ("dB", 6),
    ("float", 6), ("int8", 6), ("ours", 6), ("again (quartiles)", 20), ("size", 5), ("s", 6),
)  # fmt: skip
# What shipped as fast as the original may come out this much slower the second time.
NOISE = 0.02


def add_options(parser: argparse.ArgumentParser) -> None:
    """What can be asked for."""
    parser.add_argument("--models", nargs="+", metavar="NAME", help="default: all of the zoo")
    parser.add_argument("--targets", nargs="+", default=list(ENGINES), choices=ENGINES)
    parser.add_argument("--samples", type=int, default=400, metavar="N", help="to judge by, where there are labels")
    parser.add_argument("--budget", help="as for `graphopt optimize`")
    parser.add_argument("--max-drop", type=float, metavar="D")
    parser.add_argument("--threads", type=int, metavar="N")
    parser.add_argument("--markdown", action="store_true")


def main(options: argparse.Namespace) -> None:
    """What preset mixed ships of each model, and how fast that is, timed once more against the original."""
    table = Table(COLUMNS, options.markdown)
    table.head()
    slower: list[str] = []
    for name in options.models or zoo_names():
        entry = script("zoo").model(name)
        labelled = entry.spec["task"] == "classification"
        calibration = entry.calibration(64 if labelled else 24)
        feeds, labels = entry.validation(options.samples if labelled else 24)
        for target in options.targets:
            began = time.perf_counter()
            result = graphopt.optimize(
                str(entry.path),
                target=target,
                preset="mixed",
                calibration_data=calibration,
                validation_data=feeds,
                labels=None if labels is None else np.asarray(labels),
                budget=options.budget,
                max_drop=options.max_drop if labelled else None,
                threads=options.threads,
            )
            seconds = time.perf_counter() - began
            found = result.report.mixed
            if found is None:
                table.row([name, target, "nothing to assign", *[""] * (len(COLUMNS) - 3)])
                continue
            engine = find_engine(graphopt.find_target(target))
            again = Stopwatch(engine, entry.path, feeds[0], threads=options.threads).time(result.model)
            if again.median_high < 1 and again.speedup < 1 - NOISE:
                slower.append(f"{name} in {target} ({again.speedup:.2f})")
            by_name = {c.name: c for c in found.candidates}
            shipped, original = found.shipped, by_name["original"]
            table.row([
                name,
                target,
                shipped.name,
                f"{shipped.shares.get('int8', 0.0):.0%}",
                "" if original.accuracy is None else f"{100 * original.accuracy:.2f}",
                "" if shipped.accuracy is None else f"{100 * shipped.accuracy:.2f}",
                f"{shipped.sqnr_db:.1f}",
                *(_speed(c) for c in (by_name["float"], by_name["int8"], shipped)),
                f"{again.speedup:.2f} ({again.speedup_low:.2f} to {again.speedup_high:.2f})",
                f"{shipped.weight_bytes / original.weight_bytes:.2f}",
                f"{seconds:.1f}",
            ])  # fmt: skip
    print(f"slower than the original by more than {NOISE:.0%}: {', '.join(slower) or 'none'}")


def _speed(candidate: Candidate) -> str:
    return "" if candidate.latency is None else f"{candidate.latency.speedup:.2f}"
