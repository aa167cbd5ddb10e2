"""Run samples through a model and keep the statistics of chosen tensors; nothing else of a sample is kept."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from time import monotonic
from typing import Any

from onnx import ModelProto

from graphopt.calibration import checkpoint as disk
from graphopt.calibration.budget import chunks, default_budget, described, share
from graphopt.calibration.dataset import Dataset
from graphopt.calibration.implied import derive, find_implied
from graphopt.calibration.instrument import fetched_bytes, in_graph_order
from graphopt.calibration.observer import KINDS, Job, Kind, Observer, merge_all
from graphopt.calibration.ranges_file import model_hash
from graphopt.calibration.statistics import Statistic
from graphopt.calibration.workers import WorkerPool

# Called after each sample with how many are done, and how many there are (None: not known).
Progress = Callable[[int, int | None], None]


def collect(
    model: ModelProto,
    tensors: Sequence[str],
    dataset: Dataset,
    *,
    kind: Kind = "minmax",
    threads: int | None = None,
    providers: Sequence[str] | None = None,
    memory_budget: int | None = None,
    workers: int = 1,
    checkpoint: Path | None = None,
    progress: Progress | None = None,
    note: Callable[[str], None] | None = None,
    base_dir: Path | None = None,
) -> dict[str, Any]:
    """Statistics of the values that each tensor takes over all samples.

    Args:
        model: the model; it is not changed.
        tensors: graph inputs or results of top-level nodes, no constants.
        dataset: the samples, one model call each; iterated more than once when a memory budget asks for it.
        kind: what to keep: "minmax" (`MinMax`), "ema" (`EmaMinMax`), or "histogram" (`Histogram`, exact extremes
            included).
        threads: threads within an operator, of all workers together; None lets onnxruntime take the cores.
        providers: onnxruntime's execution providers in order of preference; None means the CPU.
        memory_budget: bytes that fetched tensors may take; None means a quarter of the memory that is available.
            Tensors that don't fit at once are observed in several passes over the samples.
        workers: processes that share the samples; the result doesn't depend on it.
        checkpoint: a file to write what has been collected to, every few seconds. When it exists and belongs to the
            same model, tensors and samples, the calibration goes on from it. It is removed at the end.
        progress: called after each sample; with several passes, the counts are those of all of them.
        note: called with what the user should know: passes over the samples, a resumed checkpoint.
        base_dir: the folder that external data of the model is relative to.

    Returns:
        One statistic per tensor, in the order of `tensors`; empty where a tensor had no elements in any sample.

    Raises:
        CalibrationError: a tensor can't be observed, a sample can't be run, or a tensor holds NaN or infinity.
        UnsupportedError: onnxruntime can't load the model.
        ConfigError: there is no such provider, or the budget or the number of workers is below 1.
        EmitError: the checkpoint can't be written.
    """
    if not tensors:
        return {}
    ordered = in_graph_order(model, tensors)
    implied = find_implied(model, ordered, through_relu=kind != "histogram")
    observed = [tensor for tensor in ordered if tensor not in implied]
    job = Job(
        model,
        tuple(observed),
        kind,
        dataset.name,
        share(threads, workers),
        None if providers is None else tuple(providers),
        base_dir,
    )
    run = _Run(job, dataset, workers, checkpoint, progress, note or (lambda _: None))
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
    checkpoint: Path | None
    progress: Progress | None
    note: Callable[[str], None]

    def collect(self, memory_budget: int | None) -> dict[str, Statistic]:
        """All passes over the samples, the first ones taken from a checkpoint where there is one."""
        key = self._key()
        position = None if self.checkpoint is None else disk.load(self.checkpoint, key)
        if position is not None and position.digest != self._hash_of_first(position.done):
            self.note(f"{self.checkpoint} is of other samples: started again")
            position = None
        if position is None:
            position = disk.Position(key, self._chunks(memory_budget), 0, 0, disk.SampleHash().hex(), {})
        else:
            self.note(f"{self.checkpoint}: went on after {position.done} samples")
        found: dict[str, Statistic] = {
            tensor: KINDS[self.job.kind].from_state(state) for tensor, state in position.states.items()
        }
        for current in range(position.current, len(position.chunks)):
            skipped = position.done if current == position.current else 0
            self._one_pass(position, current, skipped, found)
        return found

    def _one_pass(self, start: disk.Position, current: int, skipped: int, found: dict[str, Statistic]) -> None:
        """Observe the tensors of one chunk on the samples after the first `skipped`, which `found` already holds."""
        job = replace(self.job, tensors=tuple(start.chunks[current]))
        observer = Observer(job) if self.workers == 1 else WorkerPool(job, self.workers)
        digest = disk.SampleHash()
        saved = monotonic()
        try:
            for index, feed in enumerate(self.dataset):
                if self.checkpoint is not None:
                    digest.add(feed)
                if index >= skipped:
                    observer.observe(index, feed)
                self._report(index + 1, current, len(start.chunks))
                if self.checkpoint is not None and index >= skipped and monotonic() - saved >= disk.SECONDS:
                    observer.flush()
                    so_far = {**found, **_together(job, found, observer.statistics)}
                    states = disk.states_of(so_far)
                    disk.save(
                        self.checkpoint,
                        disk.Position(start.key, start.chunks, current, index + 1, digest.hex(), states),
                    )
                    saved = monotonic()
            observer.flush()
        finally:
            observer.close()
        found.update(_together(job, found, observer.statistics))

    def _report(self, done: int, current: int, passes: int) -> None:
        if self.progress is not None:
            count = self.dataset.count
            total = None if count is None else count * passes
            self.progress(done + (count or 0) * current, total)

    def _chunks(self, memory_budget: int | None) -> list[list[str]]:
        if self.job.kind != "histogram":
            return [list(self.job.tensors)]  # scalars: nothing to hold
        budget = default_budget() if memory_budget is None else memory_budget
        sizes = fetched_bytes(self.job.model, self.job.tensors, next(iter(self.dataset)))
        passes = chunks(sizes, budget)
        if len(passes) > 1:
            self.note(described(passes, budget))
        return passes

    def _hash_of_first(self, count: int) -> str:
        digest = disk.SampleHash()
        for index, feed in enumerate(self.dataset):
            if index == count:
                break
            digest.add(feed)
        return digest.hex()

    def _key(self) -> str:
        if self.checkpoint is None:
            return ""
        return disk.calibration_key(
            model_hash(self.job.model), self.job.kind, self.job.tensors, self.job.providers or ()
        )


def _together(job: Job, before: Mapping[str, Statistic], now: Mapping[str, Statistic]) -> dict[str, Statistic]:
    """Of the job's tensors, what a checkpoint held and what has been seen since."""
    made: dict[str, Statistic] = {tensor: KINDS[job.kind]() for tensor in job.tensors}
    merge_all(made, [{t: before[t] for t in job.tensors if t in before}, now])
    return made


def _remove(checkpoint: Path) -> None:
    checkpoint.unlink(missing_ok=True)
    for left in checkpoint.parent.glob(f".{checkpoint.name}.*.tmp"):  # of a run that was killed while it wrote
        left.unlink(missing_ok=True)
