"""`python -m benchmarks.pruning speed`."""

from __future__ import annotations

import argparse
import itertools
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

import graphopt
from benchmarks._common import ENGINES, Feeds, Table, script, zoo_names
from graphopt.backends.engines import ENGINES as RUNNERS
from graphopt.backends.latency import Latency, measure_latency

# (model, preset): the issue's, and what 8 bits make of the smaller one.
SUBJECTS = ("squeezenet_imagenet:float", "squeezenet_imagenet:int8", "resnet50:float")
BAR = 1.5
COLUMNS = (
    ("model", 27), ("preset", 6), ("engine", 11), ("MACs", 6), ("whole ms", 8), ("pruned ms", 9), ("faster", 6),
    ("quartiles", 11), (f"{BAR}×", 8),
)  # fmt: skip


@dataclass(frozen=True)
class Subject:
    """A model to time; `samples` is empty for one with seeded weights."""

    model: Any
    samples: Feeds
    feed: dict[str, NDArray[Any]]

    @staticmethod
    def of(name: str, samples: int) -> Subject:
        """A model of the zoo, or an architecture with seeded weights."""
        if name in zoo_names():
            feeds: Feeds = script("zoo").model(name).calibration(samples)
            return Subject(script("zoo").model(name).path, feeds, feeds[0])
        model: onnx.ModelProto = script("light").build(name)
        stored = {i.name for i in model.graph.initializer}
        value = next(i for i in model.graph.input if i.name not in stored)
        shape = [d.dim_value or 1 for d in value.type.tensor_type.shape.dim]
        return Subject(model, [], {value.name: np.random.default_rng(0).normal(size=shape).astype(np.float32)})


def add_options(parser: argparse.ArgumentParser) -> None:
    """What can be asked for."""
    parser.add_argument("--models", nargs="+", default=list(SUBJECTS), metavar="NAME:PRESET")
    parser.add_argument("--macs", type=float, default=0.5, metavar="PART", help="the part of the MACs left")
    parser.add_argument("--align", type=int, default=8)
    parser.add_argument("--engines", nargs="+", choices=ENGINES, default=list(ENGINES))
    parser.add_argument("--threads", type=int, metavar="N", help="of the engines (default: their own choice)")
    parser.add_argument("--samples", type=int, default=32, metavar="N", help="calibration samples")
    parser.add_argument("--seconds", type=float, default=8.0, metavar="S", help="to time each pair")
    parser.add_argument("--markdown", action="store_true")


def main(options: argparse.Namespace) -> None:
    """Print the table."""
    table = Table(COLUMNS, options.markdown)
    table.head()
    for entry in options.models:
        name, _, preset = entry.partition(":")
        subject = Subject.of(name, options.samples)
        chosen = {"macs": options.macs, "align": options.align}
        pruned = graphopt.optimize(
            subject.model, preset="float", prune=chosen, calibration_data=subject.samples or None
        )
        assert pruned.report.elimination is not None
        left = pruned.report.elimination.after.macs / pruned.report.elimination.before.macs
        for engine in options.engines:
            whole, smaller = (
                graphopt.optimize(
                    model, target=engine, preset=preset or "float", calibration_data=subject.samples or None
                ).model
                for model in (subject.model, pruned.model)
            )
            found = timed(whole, smaller, subject.feed, engine, options.threads, options.seconds)
            table.row([name, preset or "float", engine, f"{left:.1%}", *cells(found)])


def timed(
    whole: onnx.ModelProto,
    smaller: onnx.ModelProto,
    feed: dict[str, NDArray[Any]],
    engine: str,
    threads: int | None,
    seconds: float,
) -> Latency:
    """A call of both in an engine, in turns."""
    run = RUNNERS[engine].run
    assert run is not None
    calls = [run(model, itertools.repeat(feed), threads) for model in (whole, smaller)]
    return measure_latency(calls[0], calls[1], engine=engine, threads=threads, budget=seconds)


def cells(found: Latency) -> list[str]:
    """The figures of a line."""
    return [
        f"{1e3 * found.reference_seconds:.2f}",
        f"{1e3 * found.seconds:.2f}",
        f"{found.speedup:.2f}",
        f"{found.speedup_low:.2f}–{found.speedup_high:.2f}",
        "held" if found.speedup >= BAR else "not held",
    ]
