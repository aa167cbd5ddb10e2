"""Run samples through a model and keep the statistics of chosen tensors; nothing else of a sample is kept."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from time import monotonic
from typing import Any

from onnx import ModelProto

from graphopt.calibration import budget as memory
from graphopt.calibration import checkpoint as disk
from graphopt.calibration.dataset import Dataset
from graphopt.calibration.implied import derive, find_implied
from graphopt.calibration.instrument import in_graph_order
from graphopt.calibration.observer import KINDS, Job, Kind, Observer, merge_all
from graphopt.calibration.ranges_file import DataHash, sample_digest
from graphopt.calibration.rows import Grouping
from graphopt.calibration.samples import Feed
from graphopt.calibration.shapes import infer
from graphopt.calibration.statistics import Statistic
from graphopt.calibration.weights import Detached, detach
from graphopt.calibration.workers import WorkerPool
from graphopt.ir.cancelling import check_cancelled

# Called after each sample with how many are done, and how many there are (None: not known).
Progress = Callable[[int, int | None], None]


def collect(
    model: ModelProto | Detached,
    tensors: Sequence[str],
    dataset: Dataset,
    *,
    kind: Kind = "minmax",
    threads: int | None = None,
    providers: Sequence[str] | None = None,
    memory_budget: int | None = None,
    batch_size: int | None = None,
    workers: int = 1,
    checkpoint: Path | None = None,
    data: DataHash | None = None,
    progress: Progress | None = None,
    note: Callable[[str], None] | None = None,
    base_dir: Path | None = None,
) -> dict[str, Any]:
    """Statistics of the values that each tensor takes over all samples.

    Args:
        model: the model, with its weights inside or detached; it is not changed.
        tensors: graph inputs or results of top-level nodes, no constants.
        dataset: the samples, one model call each; iterated more than once when a memory budget asks for it.
        kind: what to keep: "minmax" (`MinMax`), "ema" (`EmaMinMax`), or "histogram" (`Histogram`, exact extremes
            included).
        threads: threads within an operator, of all workers together; None lets onnxruntime take the cores.
        providers: onnxruntime's execution providers in order of preference; None means the CPU.
        memory_budget: bytes that fetched tensors may take; None means a quarter of the memory that is available.
            Tensors that don't fit at once are observed in several passes over the samples.
        batch_size: samples of one row to run in a model call, where the model gives the same bits for them as for each
            alone, which is tried; None chooses. The result doesn't depend on it.
        workers: processes that share the samples; the result doesn't depend on it.
        checkpoint: a file to write what has been collected to, every few seconds. When it exists and belongs to the
            same model, tensors and samples, the calibration goes on from it. It is removed at the end.
        data: takes in the samples, each once: what `data_hash` would find in another walk over them.
        progress: called after each sample; with several passes, the counts are those of all of them.
        note: called with what the user should know: passes over the samples, a resumed checkpoint, and why samples
            aren't run in batches.
        base_dir: the folder that external data of the model is relative to.

    Returns:
        One statistic per tensor, in the order of `tensors`; empty where a tensor had no elements in any sample.

    Raises:
        CalibrationError: a tensor can't be observed, a sample can't be run, or a tensor holds NaN or infinity.
        UnsupportedError: onnxruntime can't load the model.
        ConfigError: there is no such provider, or the budget, the batch size or the number of workers is below 1.
        EmitError: the checkpoint can't be written.
    """
    if not tensors:
        return {}
    detached = detach(model)
    ordered = in_graph_order(detached.model, tensors)
    implied = find_implied(detached.model, ordered, through_relu=kind != "histogram")
    observed = [tensor for tensor in ordered if tensor not in implied]
    job = Job(
        detached,
        tuple(observed),
        kind,
        dataset.name,
        threads=memory.share(threads, workers),
        providers=None if providers is None else tuple(providers),
        base_dir=base_dir,
    )
    run = _Run(job, dataset, workers, batch_size, checkpoint, data, progress, note or (lambda _: None))
    found = run.collect(memory_budget)
    found |= {tensor: derive(known, found[known.source]) for tensor, known in implied.items()}
    if checkpoint is not None:
        _remove(checkpoint)
    return {tensor: found[tensor] for tensor in tensors}


@dataclass(frozen=True)
class _Run:
    job: Job
    dataset: Dataset
    workers: int
    wanted_batch: int | None
    checkpoint: Path | None
    data: DataHash | None
    progress: Progress | None
    note: Callable[[str], None]

    def collect(self, memory_budget: int | None) -> dict[str, Statistic]:
        """All passes over the samples, the first ones taken from a checkpoint where there is one."""
        budget = memory.default_budget() if memory_budget is None else memory_budget
        position = self._resumed()
        feeds = iter(self.dataset)
        first = next(feeds)
        shapes = {name: value.shape for name, value in first.items()}
        job = replace(self.job, inputs=shapes, inferred=infer(self.job.model, shapes))
        sizes = job.inferred.sizes(job.tensors)
        large = sum(sizes.values()) > min(memory.REDUCED_BYTES, budget // memory.LANES)
        job = replace(job, reduced=large and job.kind != "histogram")
        if position is None:
            passes = [list(job.tensors)] if job.reduced else memory.chunks(sizes, budget)
            position = disk.Position(self._key(), passes, 0, 0, disk.OrderHash().hex(), {})
            if len(passes) > 1:
                self.note(memory.described(passes, budget))
        found: dict[str, Statistic] = {
            tensor: KINDS[job.kind].from_state(state) for tensor, state in position.states.items()
        }
        samples: Iterable[Feed] = itertools.chain([first], feeds)
        largest = max(sum(sizes[tensor] for tensor in chunk) for chunk in position.chunks)
        size = memory.batch_size(largest, budget // self.workers, self.dataset.count, self.wanted_batch)
        for current in range(position.current, len(position.chunks)):
            part = replace(job, tensors=tuple(position.chunks[current]))
            self._one_pass(part, size if job.batchable else 1, samples, position, current, found)
            samples = self.dataset
        return found

    def _one_pass(
        self,
        job: Job,
        size: int,
        samples: Iterable[Feed],
        start: disk.Position,
        current: int,
        found: dict[str, Statistic],
    ) -> None:
        """Observe the tensors of one chunk on the samples after those which `found` already holds."""
        skipped = start.done if current == start.current else 0
        observer = Observer(job) if self.workers == 1 else WorkerPool(job, self.workers)
        grouping = Grouping(size, skipped)
        order = disk.OrderHash()
        saved = monotonic()
        try:
            for index, feed in enumerate(samples):
                check_cancelled()
                if self.checkpoint is not None or self.data is not None:
                    digest = sample_digest(feed)
                    order.add(digest)
                    if self.data is not None and current == start.current:
                        self.data.add_digest(digest)
                if index >= skipped:
                    for batch in grouping.add(feed):
                        observer.observe(batch)
                self._report(index + 1, current, len(start.chunks))
                due = self.checkpoint is not None and index >= skipped and monotonic() - saved >= disk.SECONDS
                if self.checkpoint is not None and due and not grouping.waiting:
                    observer.flush()
                    so_far = {**found, **_together(job, found, observer.statistics)}
                    states = disk.states_of(so_far)
                    position = disk.Position(start.key, start.chunks, current, index + 1, order.hex(), states)
                    disk.save(self.checkpoint, position)
                    saved = monotonic()
            for batch in grouping.rest():
                observer.observe(batch)
            observer.flush()
        finally:
            observer.close()
        if size > 1 and observer.declined and current == start.current:
            self.note(f"samples are run one by one: {observer.declined}")
        found.update(_together(job, found, observer.statistics))

    def _report(self, done: int, current: int, passes: int) -> None:
        if self.progress is not None:
            count = self.dataset.count
            total = None if count is None else count * passes
            self.progress(done + (count or 0) * current, total)

    def _resumed(self) -> disk.Position | None:
        """Where the checkpoint says that the calibration stood, if it is of this model and these samples."""
        if self.checkpoint is None:
            return None
        position = disk.load(self.checkpoint, self._key())
        if position is not None and position.digest != self._hash_of_first(position.done):
            self.note(f"{self.checkpoint} is of other samples: started again")
            return None
        if position is not None:
            self.note(f"{self.checkpoint}: went on after {position.done} samples")
        return position

    def _hash_of_first(self, count: int) -> str:
        order = disk.OrderHash()
        for feed in itertools.islice(self.dataset, count):
            order.add(sample_digest(feed))
        return order.hex()

    def _key(self) -> str:
        if self.checkpoint is None:
            return ""
        content = self.job.detached.content_hash()
        return disk.calibration_key(content, self.job.kind, self.job.tensors, self.job.providers or ())


def _together(job: Job, before: Mapping[str, Statistic], now: Mapping[str, Statistic]) -> dict[str, Statistic]:
    """Of the job's tensors, what a checkpoint held and what has been seen since."""
    made: dict[str, Statistic] = {tensor: KINDS[job.kind]() for tensor in job.tensors}
    merge_all(made, [{t: before[t] for t in job.tensors if t in before}, now])
    return made


def _remove(checkpoint: Path) -> None:
    checkpoint.unlink(missing_ok=True)
    for left in checkpoint.parent.glob(f".{checkpoint.name}.*.tmp"):  # of a run that was killed while it wrote
        left.unlink(missing_ok=True)
