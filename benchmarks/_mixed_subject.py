"""A model of the zoo, planned with plain calibration, to be assigned precisions and judged many times over."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import onnx
from numpy.typing import NDArray

from benchmarks._common import Feeds, all_outputs, script
from graphopt.analysis.macs import layer_macs
from graphopt.analysis.precision.regions import find_regions, realised
from graphopt.analysis.precision.types import Assignment, CostKind, Costs, Grade, Problem, Regions, Sensitivity
from graphopt.api.replanning import Moment
from graphopt.backends.precision_sensitivity import measure_sensitivity
from graphopt.calibration.shapes import infer
from graphopt.ir import Graph, load, to_proto
from graphopt.passes import find_pass
from graphopt.passes._precision_choices import choices, narrowed
from graphopt.passes._precision_costs import costs_of
from graphopt.passes.assign_precision import UseAssignment
from graphopt.passes.presets import FLOAT
from graphopt.pipeline import Context, PassManager
from graphopt.pipeline.spec import passes_from_text
from graphopt.report.samples import open_samples
from graphopt.targets import find_target

_PLANNED = (*FLOAT, "plan-quantization", "calibrate", "protect-small-values")
_WRITTEN = "quantize-weights,insert-qdq"
_CHOICES = ("float32", "int8")
# Of the calibration samples, at most so many are what sensitivity is measured on.
_MEASURED = 128


@dataclass(frozen=True)
class Measured:
    """A model on the held-out samples.

    Attributes:
        noise, signal: [samples, float outputs] sums of squares.
        right: samples whose largest output is the label; None without labels.
    """

    noise: NDArray[np.float64]
    signal: NDArray[np.float64]
    right: int | None

    @property
    def decibels(self) -> float:
        """The SQNR of the mean over outputs of noise / signal: of what sensitivity adds up."""
        return float(self._decibels(np.arange(len(self.noise))[None])[0])

    def ahead(self, other: Measured) -> tuple[float, float]:
        """Decibels that it is ahead of another one, and the standard error of that (bootstrap over samples)."""
        drawn = np.random.default_rng(0).integers(len(self.noise), size=(400, len(self.noise)))
        differences = self._decibels(drawn) - other._decibels(drawn)
        return self.decibels - other.decibels, float(differences.std())

    def _decibels(self, samples: NDArray[np.int64]) -> NDArray[np.float64]:
        """Of each row of sample numbers."""
        noise, signal = (sums[samples].sum(axis=1) for sums in (self.noise, self.signal))
        return -10 * np.log10(np.maximum((noise / np.maximum(signal, 1e-300)).mean(axis=1), 1e-30))


class Subject:
    """The model, and what was measured of it.

    Attributes:
        name: in the zoo.
        target: that it is planned for.
        regions: with float32 and int8 alone.
        labels: of the held-out samples, or None.
    """

    def __init__(self, name: str, target: str, calibration: int, validation: int) -> None:
        """Plan and calibrate the model.

        Raises:
            GraphoptError: it can't be.
        """
        entry = script("zoo").model(name)
        self.name, self.target = name, target
        self.feeds: Feeds
        self.feeds, self.labels = entry.validation(validation)
        graph = load(entry.path)
        dataset = open_samples(entry.calibration(calibration), graph, "calibration data")
        self.ctx = Context(target=find_target(target), calibration=dataset)
        PassManager(passes_from_text(",".join(_PLANNED), find_pass)).run(graph, self.ctx)
        self._moment = Moment.now(1, graph, self.ctx)
        self._sensitivity: dict[Grade, Sensitivity] = {}
        self._measured: dict[frozenset[tuple[str, str]], Measured] = {}
        self._costs: dict[CostKind, Costs] = {}
        kept = dict(graph.plan.kept_float)
        self.regions: Regions = narrowed(find_regions(graph, find_target(target), kept_float=kept), _CHOICES)
        self._reference = [_floats(outputs) for outputs in all_outputs("onnxruntime", entry.path, self.feeds)]

    def problem(self, kind: CostKind, grade: Grade = "output") -> Problem:
        """What a solver is given."""
        sensitivity = self.sensitivity(grade)
        left, _ = choices(self.regions, {}, _CHOICES, (), sensitivity.forbidden)
        return Problem(self.regions, left, sensitivity, self.costs(kind))

    def sensitivity(self, grade: Grade) -> Sensitivity:
        """What is lost, measured once."""
        if grade not in self._sensitivity:
            dataset = self.ctx.calibration
            assert dataset is not None  # it was planned with samples
            samples = dataset.limited(_MEASURED)
            self._sensitivity[grade] = measure_sensitivity(self.graph(), self.regions, samples, grade=grade)
        return self._sensitivity[grade]

    def costs(self, kind: CostKind) -> Costs:
        """What is paid, measured once."""
        if kind not in self._costs:
            self._costs[kind] = costs_of(self.graph(), self.ctx, find_target(self.target), self.regions, kind, None)
        return self._costs[kind]

    def graph(self) -> Graph:
        """The float graph with its plan, everything in 8 bits that can be."""
        return self._moment.restore()

    def compiled(self, precisions: Assignment) -> tuple[onnx.ModelProto, dict[str, str]]:
        """The model with an assignment, and the one that it really has."""
        graph = self.graph()
        PassManager([UseAssignment(precisions)]).run(graph, self.ctx)
        found = realised(graph, self.regions)
        PassManager(passes_from_text(_WRITTEN, find_pass)).run(graph, self.ctx)
        return to_proto(graph), found

    def measured(self, precisions: Assignment) -> Measured:
        """An assignment, compiled and run once."""
        key = frozenset(precisions.items())
        if key not in self._measured:
            self._measured[key] = self.measure(self.compiled(precisions)[0])
        return self._measured[key]

    def measure(self, model: onnx.ModelProto) -> Measured:
        """Run a model on the held-out samples, in the engine of the target."""
        noise: list[list[float]] = []
        signal: list[list[float]] = []
        right = 0
        for index, outputs in enumerate(all_outputs(self.target, model, self.feeds)):
            found = _floats(outputs)
            pairs = list(zip(self._reference[index], found, strict=True))
            noise.append([float(((a - b) ** 2).sum()) for a, b in pairs])
            signal.append([float((a**2).sum()) for a, _ in pairs])
            right += self.labels is not None and int(np.argmax(found[0])) == int(self.labels[index])
        return Measured(np.array(noise), np.array(signal), right if self.labels is not None else None)

    @cached_property
    def macs(self) -> dict[str, int | None]:
        """Multiply-accumulates of each layer, for one sample."""
        graph = self.graph()
        shapes = infer(to_proto(graph), {n: v.shape for n, v in self.feeds[0].items()}).shapes
        return layer_macs(graph, shapes)

    def integer_share(self, precisions: Assignment) -> float:
        """The part of the multiply-accumulates that is in 8 bits."""
        counts = {node: count or 0 for node, count in self.macs.items()}
        integer = sum(
            counts.get(node, 0) for r in self.regions.regions if precisions[r.name] == "int8" for node in r.nodes
        )
        return integer / max(sum(counts.values()), 1)


def _floats(outputs: Sequence[NDArray[np.generic]]) -> list[NDArray[np.float64]]:
    return [output.astype(np.float64) for output in outputs if output.dtype.kind == "f"]
