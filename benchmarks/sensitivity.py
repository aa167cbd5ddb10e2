"""What measuring sensitivity takes, against plain inference and full re-runs, and how well its errors add up.

    GRAPHOPT_ZOO=… python -m benchmarks.sensitivity [--models …] [--light …] [--targets …] [--samples N] [--rounds N]
        [--rerun N] [--markdown]

Precisions are float32 and int8, planned by plain calibration on the same samples. Times are least ones of some
rounds, in turns. `plain`: seconds to run the samples through the float model, its session open already. `local ×`:
grade local over plain, sessions and rounding of weights included. `output %`: grade output over full re-runs, which
open the whole model with one source of error and run all samples, for each source; of those re-runs every Nth is timed
(--rerun), the rest extrapolated. Behind come decibels: the SQNR that the sum of all sources predicts, for each grade,
and that of the quantized model, each of the mean over outputs of noise / signal.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable, Sequence

import numpy as np
import onnx

from benchmarks._common import Table, all_outputs, script
from graphopt.analysis.precision.regions import find_regions
from graphopt.analysis.precision.types import Grade, Regions, Sensitivity
from graphopt.backends.layer_gains import float_ends
from graphopt.backends.precision_metrics import measure
from graphopt.backends.precision_sensitivity import measure_sensitivity
from graphopt.calibration import Dataset, Feed
from graphopt.calibration.precision_copies import Copies
from graphopt.calibration.precision_pieces import piece
from graphopt.calibration.precision_sources import Source, find_sources
from graphopt.calibration.session import open_session
from graphopt.calibration.weights import detached
from graphopt.ir import Graph, load, to_proto
from graphopt.passes import find_pass
from graphopt.passes._precision_choices import narrowed
from graphopt.passes._simulation import simulated
from graphopt.passes.presets import FLOAT
from graphopt.passes.quantize_weights import QuantizeWeights
from graphopt.pipeline import Context, PassManager
from graphopt.pipeline.spec import passes_from_text
from graphopt.report.samples import open_samples
from graphopt.targets import find_target

MODELS = ("kws_dscnn", "resnet8_cifar10", "resnet20_cifar10_bn", "mobilenetv1_025_imagenet_bn", "squeezenet_imagenet")
LIGHT = ("resnet50",)
COLUMNS = (
    ("model", 27), ("target", 11), ("regions", 7), ("sources", 7), ("plain s", 7), ("local ×", 7), ("output %", 8),
    ("weights", 7), ("local", 6), ("output", 6), ("real dB", 7),
)  # fmt: skip
_PLANNED = (*FLOAT, "plan-quantization", "calibrate", "protect-small-values")


class Subject:
    """A planned model and its samples."""

    def __init__(self, name: str, light: bool, target: str, samples: int) -> None:
        feeds: Sequence[Feed]
        if light:
            model: onnx.ModelProto = script("light").build(name)
            graph = load(model)
            rng = np.random.default_rng(0)
            shape = [d if isinstance(d, int) else 1 for d in graph.inputs[0].shape or ()]
            feeds = [{graph.inputs[0].name: rng.normal(size=shape).astype(np.float32)} for _ in range(samples)]
        else:
            entry = script("zoo").model(name)
            graph, feeds = load(entry.path), entry.calibration(samples)
        self.graph: Graph = graph
        self.samples: Dataset = open_samples(feeds, graph, "samples")
        self.ctx = Context(target=find_target(target), calibration=self.samples)
        PassManager(passes_from_text(",".join(_PLANNED), find_pass)).run(graph, self.ctx)
        found = find_regions(graph, find_target(target), kept_float=graph.plan.kept_float)
        self.regions: Regions = narrowed(found, ("int8",))
        self.sources = list(find_sources(graph, self.regions))

    def measured(self, grade: Grade) -> Sensitivity:
        """Sensitivity of a grade."""
        return measure_sensitivity(self.graph, self.regions, self.samples, grade=grade)

    def plain(self) -> Callable[[], None]:
        """Runs the samples through the float model."""
        session = open_session(to_proto(self.graph))
        feeds = list(self.samples)
        session.run(None, feeds[0])

        def run() -> None:
            for feed in feeds:
                session.run(None, feed)

        return run

    def rerun(self, source: Source) -> None:
        """Runs the samples through the whole model with one source of error."""
        model, ends = detached(self.graph), [tensor.name for tensor in float_ends(self.graph)]
        copies = Copies(model)
        names = copies.copy(list(model.model.graph.node), source)
        outputs = [names.get(name, name) for name in ends]
        feeds = list(self.samples)
        whole = piece(copies.finished(), outputs)
        session = open_session(whole.fed_like({name: [feed[name] for feed in feeds] for name in whole.inputs}))
        for feed in feeds:
            session.run(None, {name: feed[name] for name in whole.inputs})

    def real(self) -> float:
        """What the quantized model has lost."""
        floats = [tensor.name for tensor in float_ends(self.graph)]
        names = [tensor.name for tensor in self.graph.outputs]
        found = measure(None, [name for name in floats if name in names])
        feeds = list(self.samples)
        quantized = simulated(self.graph, self.ctx, QuantizeWeights())
        runs = (all_outputs("onnxruntime", model, feeds) for model in (to_proto(self.graph), quantized))
        for exact, other in zip(*runs, strict=True):
            found.add(dict(zip(names, exact, strict=True)), dict(zip(names, other, strict=True)))
        return found.error()


def least(rounds: int, *tasks: Callable[[], object]) -> list[float]:
    """Of each task the least seconds of some rounds, in turns."""
    best = [math.inf] * len(tasks)
    for _ in range(rounds):
        for number, task in enumerate(tasks):
            start = time.perf_counter()
            task()
            best[number] = min(best[number], time.perf_counter() - start)
    return best


def cells(subject: Subject, rounds: int, rerun: int) -> list[str]:
    """Of one model, behind its name and target."""
    chosen = subject.sources[::rerun]

    def full() -> None:
        for source in chosen:
            subject.rerun(source)

    plain, local, output, full_runs = least(
        rounds, subject.plain(), lambda: subject.measured("local"), lambda: subject.measured("output"), full
    )
    full_runs *= len(subject.sources) / len(chosen)
    grades: tuple[Grade, ...] = ("weights", "local", "output")
    found = [subject.measured(grade) for grade in grades]
    sums = [sum(each.weights.values()) + sum(each.tensors.values()) for each in found]
    return [
        str(len(subject.regions.regions)),
        str(len(subject.sources)),
        f"{plain:.3f}",
        f"{local / plain:.1f}",
        f"{100 * output / full_runs:.0f}",
        *(f"{-10 * math.log10(max(total, 1e-30)):.1f}" for total in (*sums, subject.real())),
    ]


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="*", default=MODELS, metavar="NAME", help="models of the zoo")
    parser.add_argument("--light", nargs="*", default=LIGHT, metavar="NAME", help="architectures with seeded weights")
    parser.add_argument("--targets", nargs="+", default=("onnxruntime",), metavar="TARGET")
    parser.add_argument("--samples", type=int, default=32, metavar="N")
    parser.add_argument("--rounds", type=int, default=3, metavar="N")
    parser.add_argument("--rerun", type=int, default=8, metavar="N", help="time every Nth of the full re-runs")
    parser.add_argument("--markdown", action="store_true")
    options = parser.parse_args(arguments)
    table = Table(COLUMNS, options.markdown)
    table.head()
    for name, light in [*((n, False) for n in options.models), *((n, True) for n in options.light)]:
        for target in options.targets:
            subject = Subject(name, light, target, options.samples)
            table.row([name, target, *cells(subject, options.rounds, options.rerun)])


if __name__ == "__main__":
    main()
