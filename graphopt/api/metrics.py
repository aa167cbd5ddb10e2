"""What the accuracy guard measures: top-1, SQNR, or a function of the user's own, over validation samples.

A function is called with (runs, labels) and returns a number, of which more is better. `runs` is an iterator over the
samples: ({input: array}, {output: array}) of one model call each, made as it is walked. `labels` is what belongs to
the samples, or None.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeAlias

from numpy.typing import NDArray
from onnx import ModelProto

from graphopt.analysis.macs import layer_macs
from graphopt.analysis.pruning.elimination_record import Elimination
from graphopt.backends.agreement import Agreement, Reference, labels_of, top1
from graphopt.calibration import Dataset
from graphopt.calibration.python_source import import_function, is_function_name
from graphopt.calibration.session import open_session, run_session
from graphopt.calibration.shapes import infer
from graphopt.errors import CalibrationError, ConfigError, GraphoptError
from graphopt.ir import Graph, to_proto
from graphopt.report.guarding import value_text

Run: TypeAlias = tuple[Mapping[str, NDArray[Any]], Mapping[str, NDArray[Any]]]
Metric: TypeAlias = Callable[[Iterator[Run], NDArray[Any] | None], float]

TOP1, SQNR = "top1", "sqnr"


@dataclass(frozen=True)
class Demand:
    """What the result must hold.

    Attributes:
        metric: "top1" (in percent), "sqnr" (the lowest of the outputs', in dB), or the name of `function`.
        limit: for sqnr the least value, else how far the value may fall below the float model's.
        function: the user's; None for the two that are built in.
    """

    metric: str
    limit: float
    function: Metric | None = None

    def holds(self, reference: float, value: float) -> bool:
        """Whether a result with this value will do, where the float model has `reference`."""
        if self.metric == SQNR:
            return value >= self.limit
        # Accuracies are quotients of small integers: what is equal on paper differs in the last bits.
        return reference - value <= self.limit + 1e-9 * max(1.0, abs(reference))

    def __str__(self) -> str:
        if self.metric == SQNR:
            return f"SQNR of at least {self.limit:g} dB"
        unit = "points of top-1" if self.metric == TOP1 else f"of {self.metric}"
        return f"a drop of at most {self.limit:g} {unit}"


def demand(max_drop: float | None, metric: str | Metric | None, min_sqnr: float | None) -> Demand | None:
    """What the options ask for; None where they ask for nothing.

    Raises:
        ConfigError: they contradict each other, or a value or name is wrong.
    """
    if max_drop is None and min_sqnr is None:
        if metric is not None:
            raise ConfigError("a metric is given without a limit: give --max-drop, or --min-sqnr for SQNR")
        return None
    if max_drop is not None and min_sqnr is not None:
        raise ConfigError("both --max-drop and --min-sqnr are given; give one")
    if metric == SQNR and min_sqnr is None:
        raise ConfigError(
            "SQNR is a distance from the float model, which can't drop: give its least value, --min-sqnr DB"
        )
    if min_sqnr is not None:
        if metric not in (None, SQNR):
            raise ConfigError(f"--min-sqnr is a limit for the metric 'sqnr', not for '{metric}'")
        return Demand(SQNR, _finite(min_sqnr, "--min-sqnr"))
    limit = _finite(max_drop or 0.0, "--max-drop")
    if limit < 0:
        raise ConfigError(f"--max-drop is {limit:g}; expected 0 or more: points of top-1, or the metric's own unit")
    if metric is None or metric == TOP1:
        return Demand(TOP1, limit)
    if callable(metric):
        return Demand(getattr(metric, "__name__", "the metric"), limit, metric)
    if not is_function_name(metric):
        raise ConfigError(f"there is no metric '{metric}': give top1, sqnr, or your own function as module:function")
    try:
        function: Any = import_function(metric)
    except CalibrationError as error:
        raise ConfigError(f"--metric {error}") from error
    return Demand(metric, limit, function)


class Judge:
    """Measures models by what is demanded. `reference` is the float model's value."""

    def __init__(
        self, demanded: Demand, float_model: ModelProto | Path, samples: Dataset, threads: int | None = None
    ) -> None:
        """Measure `float_model` on the samples.

        Raises:
            GraphoptError: the samples have no labels and top-1 is demanded, or the float model can't be measured.
        """
        if demanded.metric == TOP1 and samples.labels is None:
            raise ConfigError(
                f"top-1 needs the classes of the samples, and {samples.name} has no labels: give --labels, an array "
                "'labels' in the .npz, another --metric, or --min-sqnr"
            )
        self.demanded, self.float_model, self.samples, self.threads = demanded, float_model, samples, threads
        self.reference = math.inf if demanded.metric == SQNR else self.score(float_model)

    @cached_property
    def expected(self) -> Reference:
        """What models are compared with."""
        return Reference(self.float_model, self.samples, threads=self.threads)

    def holds(self, value: float) -> bool:
        """Whether a model with this value will do."""
        return self.demanded.holds(self.reference, value)

    def score(self, model: ModelProto | Path) -> float:
        """The value of a model.

        Raises:
            GraphoptError: it can't be run, or the user's function failed.
        """
        if self.demanded.metric == SQNR:
            return lowest_sqnr(self.expected.compare(model))
        function = self.demanded.function or top1_percent
        try:
            value = float(function(self.runs(model), self.samples.labels))
        except GraphoptError:
            raise
        except Exception as error:  # user code: whatever it raises is reported with its place
            raise ConfigError(f"metric {self.demanded.metric} raised {type(error).__name__}: {error}") from error
        if not math.isfinite(value):
            raise ConfigError(f"metric {self.demanded.metric} returned {value}; expected a finite number")
        return value

    def compare(self, model: ModelProto | Path) -> tuple[float, Agreement]:
        """The value of a model, and its agreement with the float model.

        Raises:
            GraphoptError: it can't be run, or the user's function failed.
        """
        agreement = self.expected.compare(model)
        if self.demanded.metric == SQNR:
            return lowest_sqnr(agreement), agreement
        if self.demanded.metric == TOP1 and agreement.other_accuracy is not None:
            return 100 * agreement.other_accuracy, agreement
        return self.score(model), agreement

    def macs(self, graph: Graph) -> dict[str, int | None]:
        """Multiply-accumulates of the layers for the first sample."""
        shapes = {name: value.shape for name, value in next(iter(self.samples)).items()}
        return layer_macs(graph, infer(to_proto(graph), shapes).shapes)

    def complaint(self, tried: str, best: float, removed: Elimination | None) -> str:
        """That what is demanded can't be held, whatever was tried; `best`: the value that it came to."""
        metric = self.demanded.metric
        reference = "" if metric == SQNR else f"; the float model has {value_text(metric, self.reference)}"
        mend = "" if removed is None else f"; channels were removed for {removed.demand}: remove fewer"
        return (
            f"the result can't hold {self.demanded}, {tried}: at best it has {value_text(metric, best)} on "
            f"{self.samples.name}{reference}{mend}; nothing was written"
        )

    def runs(self, model: ModelProto | Path) -> Iterator[Run]:
        """(inputs, outputs) of each sample."""
        session = open_session(model, threads=self.threads)
        names = [output.name for output in session.get_outputs()]
        for number, feed in enumerate(self.samples):
            outputs = run_session(session, feed, f"{self.samples.name}, sample {number}")
            yield feed, dict(zip(names, outputs, strict=True))


def lowest_sqnr(agreement: Agreement) -> float:
    """The lowest SQNR of the outputs, in dB; minus infinity where one can't be compared."""
    return min(-math.inf if math.isnan(o.sqnr_db) else o.sqnr_db for o in agreement.outputs)


def top1_percent(runs: Iterator[Run], labels: NDArray[Any] | None) -> float:
    """Share of rows of the first output whose largest value is at the row's label, in percent."""
    assert labels is not None  # `Judge` has seen to it
    right = rows = 0
    for number, (_, outputs) in enumerate(runs):
        scores = next(iter(outputs.values()))
        expected = labels_of(labels, rows, scores, f"sample {number}")
        right += int((top1(scores) == expected).sum())
        rows += len(expected)
    return 100 * right / rows if rows else 0.0


def _finite(value: float, option: str) -> float:
    if not math.isfinite(value):
        raise ConfigError(f"{option} is {value}; expected a number")
    return float(value)
