"""Calibrated ranges outside of a run: found by `calibrate`, kept in a file, taken by `optimize`."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from graphopt.api.choice import Choice
from graphopt.calibration import SOLVERS, Source, Statistic, load_ranges, model_hash, save_ranges
from graphopt.calibration.histogram import Histogram
from graphopt.calibration.plots import Picture, draw
from graphopt.errors import CalibrationError, ConfigError
from graphopt.ir.read import read_source
from graphopt.passes.calibrate import NO_SAMPLES, Calibrate
from graphopt.quant import Range, Scheme


@dataclass(frozen=True)
class Calibration:
    """Ranges of a model's activations, tied to the model and to the passes before calibration.

    Attributes:
        ranges: by tensor.
        method: how they were chosen.
        model_hash: of the model and the passes before.
        data_hash: of the samples, whatever their order.
        parameters: of the method.
        statistics: what was observed of each tensor.
        schemes: how each tensor is quantized.
        decisions: what passes chose by the samples besides ranges: channel scales, nodes to leave in float.
    """

    ranges: Mapping[str, Range]
    method: str
    model_hash: str
    data_hash: str
    parameters: Mapping[str, float] = field(default_factory=dict[str, float])
    statistics: Mapping[str, Statistic] = field(default_factory=dict[str, Statistic])
    schemes: Mapping[str, Scheme] = field(default_factory=dict[str, Scheme])
    decisions: Mapping[str, Range] = field(default_factory=dict[str, Range])

    def save(self, path: str | Path) -> None:
        """Write the ranges file that `optimize(ranges=path)` and `--ranges` take.

        Raises:
            EmitError: it can't be written.
        """
        save_ranges(
            Path(path),
            self.ranges,
            model_hash=self.model_hash,
            data_hash=self.data_hash,
            method=self.method,
            parameters=self.parameters,
            statistics=self.statistics,
            decisions=self.decisions,
        )

    def draw(self, folder: str | Path) -> None:
        """Write a picture of each tensor that has a histogram, with every method's range, and an index.html.

        Raises:
            ConfigError: matplotlib isn't installed, or there are no histograms: give `calibrate` histograms=True.
            EmitError: a file can't be written.
        """
        seen = {name: s for name, s in self.statistics.items() if isinstance(s, Histogram) and not s.is_empty}
        if not seen:
            raise ConfigError(f"there are no histograms to draw: method {self.method} keeps none")
        pictures = [
            Picture(name, histogram, self.schemes[name], self._candidates(name, histogram), self.method)
            for name, histogram in seen.items()
        ]
        draw(Path(folder), pictures)

    def _candidates(self, tensor: str, histogram: Histogram) -> dict[str, Range]:
        """Each method's range; of the one that was used, what it was used with."""
        methods = {name: method for name, method in SOLVERS.items() if Histogram in method.takes}
        found = {name: method.solve(histogram, self.schemes[tensor]) for name, method in methods.items()}
        return found | {self.method: self.ranges[tensor]}


def sources(
    choice: Choice, calibration_data: Source | None, ranges: str | Path | Calibration | None
) -> tuple[Source | None, str | Path | Calibration | None]:
    """Samples and ranges: those that are given, else those that the pipeline file names.

    Raises:
        CalibrationError: a pass calibrates, and there are neither.
    """
    samples = choice.settings.calibration_data if calibration_data is None else calibration_data
    ranges = choice.settings.ranges if ranges is None else ranges
    if choice.has(Calibrate) and samples is None and ranges is None:
        raise CalibrationError(NO_SAMPLES)
    return samples, ranges


def read_ranges(
    ranges: str | Path | Calibration | None, model: object, base_dir: str | Path | None, choice: Choice
) -> dict[str, Range] | None:
    """The ranges by tensor, from whatever `optimize` takes.

    Raises:
        CalibrationError: the file can't be read, or its ranges belong to another model or to other passes.
    """
    if ranges is None:
        return None
    if isinstance(ranges, Calibration):
        return {**ranges.ranges, **ranges.decisions}
    return load_ranges(Path(ranges), model_hash=ranges_key(model, base_dir, choice))


def saved_ranges(plan: str) -> dict[str, Range]:
    """The ranges that are saved with an assignment of precisions, and what passes before it chose by the samples.

    Raises:
        ConfigError: the file can't be read, or isn't one.
    """
    from graphopt.analysis.precision.saved import read_plan

    found = read_plan(plan)
    return {**{name: known for name, (_, known) in found.ranges.items()}, **found.decisions}


def ranges_key(model: object, base_dir: str | Path | None, choice: Choice) -> str:
    """What ranges depend on besides the samples: the model, and the passes that rewrote it before it was calibrated.

    With other rewrites a tensor of the same name may hold other values.
    """
    content = f"{model_hash(read_source(model, base_dir).model)} {choice.rewrites_before(Calibrate)}"
    return hashlib.sha256(content.encode()).hexdigest()
