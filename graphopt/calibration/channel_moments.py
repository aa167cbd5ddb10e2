"""How far each channel of chosen tensors reaches, its mean square and its zeros, streamed sample by sample."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto

from graphopt.calibration import budget as memory
from graphopt.calibration.dataset import Dataset
from graphopt.calibration.instrument import fetch, in_graph_order
from graphopt.calibration.per_channel import Floats, PerChannel, none_yet
from graphopt.calibration.session import open_session, run_session
from graphopt.calibration.shapes import infer, types_of
from graphopt.calibration.weights import Detached, detach
from graphopt.errors import CalibrationError


@dataclass(eq=False)
class ChannelMoments(PerChannel):
    """Extremes and sums for each index of one axis.

    Attributes:
        lowest, largest: the smallest value, and the largest absolute value, of all samples.
        highs, lows: sums over samples of max(0, largest value) and of max(0, −smallest value).
        squares: the sum of squares.
        samples: arrays so far.
    """

    lowest: Floats = field(default_factory=none_yet)
    largest: Floats = field(default_factory=none_yet)
    highs: Floats = field(default_factory=none_yet)
    lows: Floats = field(default_factory=none_yet)
    squares: Floats = field(default_factory=none_yet)
    samples: int = 0

    @property
    def high(self) -> Floats:
        """How far a sample reaches above zero, on average: one outlier among the samples doesn't decide."""
        return self.highs / max(self.samples, 1)

    @property
    def below(self) -> Floats:
        """How far a sample reaches below zero, on average, ≥ 0."""
        return self.lows / max(self.samples, 1)

    @property
    def mean_square(self) -> Floats:
        """E[x²]."""
        return self.squares / max(self.count, 1)

    def update(self, array: NDArray[Any]) -> None:
        """Take in one sample's values, of any shape with as many channels as before.

        Raises:
            CalibrationError: a value is NaN or infinite.
        """
        rows = self.rows(array)
        if not rows.size:
            return
        low, high = rows.min(axis=1).astype(np.float64), rows.max(axis=1).astype(np.float64)
        if not (np.isfinite(low).all() and np.isfinite(high).all()):
            raise CalibrationError("it holds NaN or infinity; expected finite values")
        if not self.samples:
            channels = len(rows)
            self.lowest, self.largest = np.full(channels, math.inf), np.zeros(channels)
            self.highs, self.lows = np.zeros(channels), np.zeros(channels)
            self.squares = np.zeros(channels)
        self.lowest = np.minimum(self.lowest, low)
        self.largest = np.maximum(self.largest, np.maximum(-low, high))
        self.highs += np.maximum(high, 0)
        self.lows += np.maximum(-low, 0)
        self.squares += np.einsum("ci,ci->c", rows, rows, dtype=np.float64)
        self.tally(rows)
        self.samples += 1


def collect_channels(
    model: ModelProto | Detached,
    axes: Mapping[str, int],
    dataset: Dataset,
    *,
    threads: int | None = None,
    providers: Sequence[str] | None = None,
    memory_budget: int | None = None,
    base_dir: Path | None = None,
) -> dict[str, ChannelMoments]:
    """Moments of tensors over all samples; the tensors of one sample are held at a time.

    Args:
        model: the model, with its weights inside or detached; it is not changed.
        axes: tensor → the axis of its channels.
        dataset: the samples, one model call each; iterated more than once when the budget asks for it.
        threads: as of `collect`.
        providers: as of `collect`.
        memory_budget: as of `collect`.
        base_dir: as of `collect`.

    Raises:
        CalibrationError: a tensor can't be observed, a sample can't be run, or a tensor holds NaN or infinity.
        UnsupportedError: onnxruntime can't load the model.
    """
    found = {tensor: ChannelMoments(axis) for tensor, axis in axes.items()}
    if not found:
        return found
    first = next(iter(dataset))
    detached = detach(model)
    ordered = in_graph_order(detached.model, list(axes))
    inferred = infer(detached.model, {name: value.shape for name, value in first.items()})
    available = memory.default_budget() if memory_budget is None else memory_budget
    for chunk in memory.chunks(inferred.sizes(ordered), available):
        fetching = fetch(detached.model, types_of(detached, chunk, inferred, base_dir))
        observed = replace(detached, model=fetching.model)
        session = open_session(observed, threads=threads, providers=providers, base_dir=base_dir)
        outputs = [output for _, output in fetching.fetched]
        for number, feed in enumerate(dataset):
            where = f"{dataset.name}, sample {number}"
            values = run_session(session, feed, where, outputs)
            for (tensor, _), array in zip(fetching.fetched, values, strict=True):
                try:
                    found[tensor].update(array)
                except CalibrationError as error:
                    raise CalibrationError(f"{where}: tensor '{tensor}': {error}") from None
    return found
