"""How well the times of regions predict those of models with mixed precision, in onnxruntime and OpenVINO.

    GRAPHOPT_ZOO=… python -m benchmarks.region_latency [--models …] [--targets …] [--threads 1]

Regions are timed once, in the float model and in that in 8 bits. Then models with half of the regions in 8 bits (the
first, the last, random layers with what follows them, every other one) are compiled and timed in turns with both.
`predicted` and `measured` are parts of the float model's time; `error` is how far the prediction is off.
"""

from __future__ import annotations

import argparse
import itertools
import random
from collections.abc import Iterator, Sequence
from typing import Any

import onnx

from benchmarks._common import ENGINES
from benchmarks._mixed_subject import Subject
from graphopt.analysis.precision.problem import evaluate
from graphopt.analysis.precision.types import Problem, Regions, Sensitivity
from graphopt.backends.engines import find_engine
from graphopt.backends.latency import undisturbed_seconds
from graphopt.ir import to_proto
from graphopt.ir.ops import LINEAR
from graphopt.targets import find_target

_MODELS = ("resnet8_cifar10", "kws_dscnn", "mobilenetv1_025_imagenet_bn", "squeezenet_imagenet", "ultraface_rfb_320")
_ROW = "{:12} {:28} {:14} {:>9} {:>9} {:>8}"


def assignments(regions: Regions) -> Iterator[tuple[str, dict[str, str]]]:
    """(name, assignment) of those that are tried, the float one first."""
    able = [region for region in regions.regions if "int8" in region.precisions]
    layers = [region.name for region in able if region.op in LINEAR]
    half = {region.name for region in able[: len(able) // 2]}
    everything = {region.name for region in able}
    drawn = random.Random(0).sample(layers, len(layers) // 2)
    chosen = {
        "float32": set[str](),
        "int8": everything,
        "first half": half,
        "last half": everything - half,
        "random layers": _followed(regions, set(drawn)),
        "every other": _followed(regions, set(layers[::2])),
    }
    for name, names in chosen.items():
        yield name, {r.name: "int8" if r.name in names else "float32" for r in regions.regions}


def _followed(regions: Regions, layers: set[str]) -> set[str]:
    """Layers, and what can be in 8 bits behind them as far as the next layer."""
    writer = {reader: border.writer for border in regions.borders for reader in border.readers}
    found = set(layers)
    for region in regions.regions:
        if "int8" in region.precisions and region.op not in LINEAR and writer.get(region.name) in found:
            found.add(region.name)
    return found


def rows(subject: Subject, threads: int | None, seconds: float) -> Iterator[tuple[str, float, float]]:
    """(assignment, predicted, measured) as parts of the float model's time."""
    engine = find_engine(find_target(subject.target))
    run = engine.run
    assert run is not None  # of the engines that run here
    subject.ctx.threads = threads
    costs = subject.costs("latency")
    choices = {region.name: region.precisions for region in subject.regions.regions}
    problem = Problem(subject.regions, choices, Sensitivity("weights", {}, {}), costs)
    models: list[onnx.ModelProto] = []
    predicted: list[float] = []
    names: list[str] = []
    for name, assignment in assignments(subject.regions):
        written, found = subject.compiled(assignment)
        models.append(to_proto(subject.graph()) if name == "float32" else written)
        predicted.append(evaluate(problem, found).cost)
        names.append(name)

    def calls(model: onnx.ModelProto) -> Iterator[Any]:
        return iter(run(model, itertools.cycle(subject.feeds[:1]), threads))

    measured = undisturbed_seconds([calls(model) for model in models], seconds)
    for name, expected, taken in zip(names, predicted, measured, strict=True):
        yield name, expected / predicted[0], taken / measured[0]


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=_MODELS, help="names in the zoo")
    parser.add_argument("--targets", nargs="+", default=ENGINES, choices=ENGINES)
    parser.add_argument("--threads", type=int, help="of the engine; default: as many as it takes by itself")
    parser.add_argument("--seconds", type=float, default=12.0, help="to time the mixed models of one network")
    options = parser.parse_args(arguments)
    print(_ROW.format("target", "model", "in 8 bits", "predicted", "measured", "error"), flush=True)
    for target, name in itertools.product(options.targets, options.models):
        subject = Subject(name, target, 8, 1)
        for assignment, predicted, measured in rows(subject, options.threads, options.seconds):
            error = f"{predicted / measured - 1:+.1%}"
            print(_ROW.format(target, name, assignment, f"{predicted:.3f}", f"{measured:.3f}", error), flush=True)


if __name__ == "__main__":
    main()
