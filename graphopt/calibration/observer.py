"""Runs samples in one session and keeps the statistics of some tensors: what one process does of a calibration.

Model calls run in two lanes, threads that share the session and the cores: while one counts what it has fetched, the
other runs the model. At most two calls' tensors are alive. With one thread to use there is one lane.

Tensors are fetched whole, several samples in a call where that gives the same bits (see `rows`). Extremes of large
tensors are reduced inside the graph instead: three scalars a tensor are fetched, one sample a call.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from threading import Lock
from types import MappingProxyType
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto

from graphopt.calibration.binning import as_float
from graphopt.calibration.budget import LANES, available_cores
from graphopt.calibration.histogram import Histogram
from graphopt.calibration.instrument import fetch, instrument
from graphopt.calibration.rebatch import is_one_row, rebatch
from graphopt.calibration.rows import Batch, Signature, row_axes
from graphopt.calibration.session import open_session, run_session
from graphopt.calibration.shapes import Inferred, Shape, types_of
from graphopt.calibration.statistics import EmaMinMax, MinMax, NotFiniteError, Statistic, finite_extremes
from graphopt.calibration.weights import Detached
from graphopt.errors import CalibrationError, UnsupportedError

Kind = Literal["minmax", "ema", "histogram"]
KINDS: Mapping[Kind, type[MinMax] | type[EmaMinMax] | type[Histogram]] = MappingProxyType(
    {"minmax": MinMax, "ema": EmaMinMax, "histogram": Histogram}
)
_CPU = ("CPUExecutionProvider",)


@dataclass(frozen=True)
class Job:
    """What to observe, and how; can be sent to another process.

    Attributes:
        detached: the model, and its weights beside it.
        tensors: of it, those to observe, in graph order; none is constant.
        kind: the statistic to keep.
        data: the name of the samples, for messages.
        inputs: the shapes of the first sample.
        inferred: types and shapes of tensors for that sample.
        reduced: whether extremes are reduced inside the graph.
        threads: of all lanes together; None takes the cores.
        providers: execution providers; None means the CPU.
        base_dir: the folder that external data is relative to.
    """

    detached: Detached
    tensors: tuple[str, ...]
    kind: Kind
    data: str
    inputs: Mapping[str, Shape] = field(default_factory=dict[str, Shape])
    inferred: Inferred = field(default_factory=Inferred)
    reduced: bool = False
    threads: int | None = None
    providers: tuple[str, ...] | None = None
    base_dir: Path | None = None

    @property
    def model(self) -> ModelProto:
        """The model's structure."""
        return self.detached.model

    @property
    def batchable(self) -> bool:
        """Whether several samples may go into one model call, as far as their shapes tell."""
        return not self.reduced and bool(self.inputs) and is_one_row(self.inputs.values())


@dataclass
class Observer:
    """Statistics of the samples that `observe` was given; `flush` before reading them, `close` at the end.

    Attributes:
        job: what to do.
        statistics: by tensor.
        declined: why samples aren't run in batches although it was asked for; "" where they are.
    """

    job: Job
    statistics: dict[str, Statistic] = field(default_factory=dict[str, Statistic])
    declined: str = ""

    def __post_init__(self) -> None:
        job = self.job
        self.statistics = {tensor: KINDS[job.kind]() for tensor in job.tensors}
        self._locks = {tensor: Lock() for tensor in job.tensors}
        threads = job.threads or available_cores()
        # Only the CPU provider is known to take several calls of a session at a time.
        lanes = min(LANES, threads) if tuple(job.providers or _CPU) == _CPU else 1
        self._open(job.threads if lanes == 1 else threads // lanes)
        self._pool = ThreadPoolExecutor(lanes, thread_name_prefix="calibration")
        self._running: deque[Future[None]] = deque()
        self._most = lanes + 1  # the next sample is there when a lane is free
        self._axes: dict[Signature, tuple[int, ...]] = {}

    def observe(self, batch: Batch) -> None:
        """Run samples, in one call where there are several, and take their tensors in.

        Raises:
            CalibrationError: one can't be run, or a tensor of it or of a sample before holds NaN or infinity.
        """
        if len(batch.feeds) > 1 and batch.signature not in self._axes:
            self._try(batch)
            return
        while len(self._running) >= self._most:
            self._running.popleft().result()
        self._running.append(self._pool.submit(self._run_and_take, batch))

    def flush(self) -> None:
        """Wait until every sample that was given is in the statistics."""
        while self._running:
            self._running.popleft().result()

    def close(self) -> None:
        """End the threads."""
        self._pool.shutdown(cancel_futures=True)

    def _open(self, threads: int | None) -> None:
        job = self.job
        types = types_of(job.detached, job.tensors, job.inferred, job.base_dir)
        options: dict[str, Any] = {"threads": threads, "base_dir": job.base_dir, "providers": job.providers}
        if job.reduced:
            instrumented = instrument(job.model, types)
            self._outputs = [name for o in instrumented.observed for name in (o.low, o.high, o.total)]
            self._session = open_session(replace(job.detached, model=instrumented.model), **options)
            return
        fetching = fetch(job.model, types)
        self._outputs = [output for _, output in fetching.fetched]
        if job.batchable:
            # Whatever the size of batches, one sample a call included: the same model, the same bits.
            rebatch(fetching.model, job.inputs, job.inferred)
            try:
                self._session = open_session(replace(job.detached, model=fetching.model), **options)
                return
            except UnsupportedError as error:
                self.declined = str(error)
                fetching = fetch(job.model, types)
        self._session = open_session(replace(job.detached, model=fetching.model), **options)

    def _try(self, batch: Batch) -> None:
        """Take in a batch of a new kind; unless it gives what its samples give, it and all to come run one by one."""
        if not self.declined:
            self.flush()  # at most two calls' tensors are alive
            try:
                values = self._run(batch)
            except CalibrationError as error:
                self.declined = str(error)
            else:
                if not self._differs(values, batch):
                    self._take(values, batch)
                    return
        for single in batch.singles():
            self.observe(single)

    def _differs(self, values: Sequence[NDArray[Any]], batch: Batch) -> bool:
        """Compare a batch's tensors with those of each of its samples alone; `declined` says where they differ."""
        for number, single in enumerate(batch.singles()):
            axes = row_axes(self.job.tensors, values, self._run(single), number, len(batch.feeds))
            if isinstance(axes, str):
                self.declined = axes
                self._axes.clear()
                return True
            self._axes[batch.signature] = axes
        return False

    def _run(self, batch: Batch) -> list[NDArray[Any]]:
        return run_session(self._session, batch.stacked(), self._where(batch), self._outputs)

    def _run_and_take(self, batch: Batch) -> None:
        self._take(self._run(batch), batch)

    def _take(self, values: Sequence[NDArray[Any]], batch: Batch) -> None:
        if self.job.reduced:
            for number, tensor in enumerate(self.job.tensors):
                low, high, total = (float(value) for value in values[3 * number : 3 * number + 3])
                self._take_scalars(tensor, low, high, total, batch)
            return
        axes = self._axes.get(batch.signature, (0,) * len(values))
        for tensor, array, axis in zip(self.job.tensors, values, axes, strict=True):
            try:
                self._take_array(tensor, array, axis, batch)
            except NotFiniteError:
                for single in batch.singles() if len(batch.feeds) > 1 else ():
                    self._run_and_take(single)  # raises for the sample that has it
                found = as_float(array)
                raise self._not_finite(tensor, float(np.min(found)), float(np.max(found)), batch) from None

    def _take_array(self, tensor: str, array: NDArray[Any], axis: int, batch: Batch) -> None:
        statistic = self.statistics[tensor]
        if not isinstance(statistic, EmaMinMax):
            with self._locks[tensor]:
                statistic.update(array)
            return
        rows = np.split(array, len(batch.feeds), axis) if len(batch.feeds) > 1 else [array]
        extremes = np.array([finite_extremes(row) if row.size else (math.inf, -math.inf) for row in rows])
        with self._locks[tensor]:
            statistic.add(batch.first, extremes[:, 0], extremes[:, 1])

    def _take_scalars(self, tensor: str, low: float, high: float, total: float, batch: Batch) -> None:
        statistic = self.statistics[tensor]
        # The reductions return their neutral values for a tensor without elements.
        empty = low == math.inf and high == -math.inf and not math.isnan(total)
        # The sum alone being infinite only means that it overflowed.
        if not empty and (math.isnan(total) or not (math.isfinite(low) and math.isfinite(high))):
            raise self._not_finite(tensor, low, high, batch)
        with self._locks[tensor]:
            if isinstance(statistic, EmaMinMax):
                statistic.add(batch.first, np.array([low]), np.array([high]))
            elif not empty:
                statistic.update(np.array([low, high]))

    def _where(self, batch: Batch) -> str:
        last = batch.first + len(batch.feeds) - 1
        numbers = f"sample {batch.first}" if last == batch.first else f"samples {batch.first} to {last}"
        return f"{self.job.data}, {numbers}"

    def _not_finite(self, tensor: str, low: float, high: float, batch: Batch) -> CalibrationError:
        found = f"values in [{low}, {high}]" if math.isinf(low) or math.isinf(high) else "NaN"
        return CalibrationError(
            f"{self._where(batch)}: tensor '{tensor}' ({_origin(tensor, self.job.model)}) holds {found}; expected "
            f"finite values: check that sample's preprocessing, or the model"
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
