"""Runs samples in one session and keeps the statistics of some tensors: what one process does of a calibration.

Minimum, maximum: reduced inside the graph, three scalars a tensor are fetched. Histograms: whole tensors are fetched,
and counted in a thread while the next sample runs; at most two samples' tensors are alive.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto

from graphopt.calibration.histogram import Histogram
from graphopt.calibration.instrument import fetch, instrument
from graphopt.calibration.samples import Feed
from graphopt.calibration.session import open_session, run_session
from graphopt.calibration.statistics import EmaMinMax, MinMax, NotFiniteError, Statistic
from graphopt.errors import CalibrationError

Kind = Literal["minmax", "ema", "histogram"]
KINDS: Mapping[Kind, type[MinMax] | type[EmaMinMax] | type[Histogram]] = MappingProxyType(
    {"minmax": MinMax, "ema": EmaMinMax, "histogram": Histogram}
)


@dataclass(frozen=True)
class Job:
    """What to observe, and how; can be sent to another process.

    Attributes:
        model: the model as the user's.
        tensors: of it, those to observe; none is constant.
        kind: the statistic to keep.
        data: the name of the samples, for messages.
        threads: within an operator; None lets onnxruntime choose.
        providers: execution providers; None means the CPU.
        base_dir: the folder that external data is relative to.
    """

    model: ModelProto
    tensors: tuple[str, ...]
    kind: Kind
    data: str
    threads: int | None = None
    providers: tuple[str, ...] | None = None
    base_dir: Path | None = None


@dataclass
class Observer:
    """Statistics of the samples that `observe` was given; `flush` before reading them, `close` at the end."""

    job: Job
    statistics: dict[str, Statistic] = field(default_factory=dict[str, Statistic])

    def __post_init__(self) -> None:
        job = self.job
        self.statistics = {tensor: KINDS[job.kind]() for tensor in job.tensors}
        if job.kind == "histogram":
            fetching = fetch(job.model, job.tensors, base_dir=job.base_dir)
            model = fetching.model
            self._tensors = [tensor for tensor, _ in fetching.fetched]
            self._outputs = [output for _, output in fetching.fetched]
        else:
            instrumented = instrument(job.model, job.tensors, base_dir=job.base_dir)
            model = instrumented.model
            self._tensors = [o.tensor for o in instrumented.observed]
            self._outputs = [name for o in instrumented.observed for name in (o.low, o.high, o.total)]
        self._session = open_session(model, threads=job.threads, base_dir=job.base_dir, providers=job.providers)
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="histogram")
        self._counting: Future[None] | None = None

    def observe(self, index: int, feed: Feed) -> None:
        """Run sample `index` and take its tensors in.

        Raises:
            CalibrationError: it can't be run, or a tensor of it or of the sample before holds NaN or infinity.
        """
        where = f"{self.job.data}, sample {index}"
        values = run_session(self._session, feed, where, self._outputs)
        if self.job.kind == "histogram":
            self.flush()
            self._counting = self._pool.submit(self._count, values, where)
            return
        for number, tensor in enumerate(self._tensors):
            low, high, total = (float(value) for value in values[3 * number : 3 * number + 3])
            self._take_in(tensor, low, high, total, index, where)

    def flush(self) -> None:
        """Wait until every sample that was given is in the statistics."""
        counting, self._counting = self._counting, None
        if counting is not None:
            counting.result()

    def close(self) -> None:
        """End the thread."""
        self._pool.shutdown()

    def _count(self, values: list[NDArray[Any]], where: str) -> None:
        for tensor, array in zip(self._tensors, values, strict=True):
            try:
                self.statistics[tensor].update(array)
            except NotFiniteError:
                found = float(np.min(array)), float(np.max(array))
                raise self._not_finite(tensor, *found, where) from None

    def _take_in(self, tensor: str, low: float, high: float, total: float, index: int, where: str) -> None:
        statistic = self.statistics[tensor]
        # The reductions return their neutral values for a tensor without elements.
        empty = low == math.inf and high == -math.inf and not math.isnan(total)
        # The sum alone being infinite only means that it overflowed.
        if not empty and (math.isnan(total) or not (math.isfinite(low) and math.isfinite(high))):
            raise self._not_finite(tensor, low, high, where)
        if isinstance(statistic, EmaMinMax):
            statistic.add(index, np.array([low]), np.array([high]))
        elif not empty:
            statistic.update(np.array([low, high]))

    def _not_finite(self, tensor: str, low: float, high: float, where: str) -> CalibrationError:
        found = f"values in [{low}, {high}]" if math.isinf(low) or math.isinf(high) else "NaN"
        return CalibrationError(
            f"{where}: tensor '{tensor}' ({_origin(tensor, self.job.model)}) holds {found}; expected finite "
            f"values: check that sample's preprocessing, or the model"
        )


def merge_all(into: Mapping[str, Any], found: Sequence[Mapping[str, Any]]) -> None:
    """Merge the statistics of several observers of the same job, tensor by tensor."""
    for statistics in found:
        for tensor, statistic in statistics.items():
            into[tensor].merge(statistic)


def _origin(tensor: str, model: ModelProto) -> str:
    for node in model.graph.node:
        if tensor in node.output:
            return f"made by {node.op_type} node '{node.name}'"
    return "a graph input"
