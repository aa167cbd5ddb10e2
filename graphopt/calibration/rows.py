"""Several samples in one model call: made, checked and taken apart again.

A batch stacks samples of one row each on axis 0. Its statistics are those of its samples only if the model keeps rows
apart, and rounds them as it would alone. That is seen from the values: each sample of the first batch is run by itself,
too, and must give, bit for bit, what its row of every observed tensor in the batch is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graphopt.calibration.samples import Feed

Signature = tuple[tuple[str, tuple[int, ...]], ...]


@dataclass(frozen=True)
class Batch:
    """Consecutive samples for one model call; `first` is the number of the first one."""

    first: int
    feeds: tuple[Feed, ...]

    def stacked(self) -> Feed:
        """All samples in one feed; of one sample, itself."""
        if len(self.feeds) == 1:
            return self.feeds[0]
        return {name: np.concatenate([feed[name] for feed in self.feeds]) for name in self.feeds[0]}

    def singles(self) -> list[Batch]:
        """Its samples, each by itself."""
        return [Batch(self.first + k, (feed,)) for k, feed in enumerate(self.feeds)]

    @property
    def signature(self) -> Signature:
        """What a check of one batch holds for: others of the same number of samples of the same shapes."""
        return (("", (len(self.feeds),)), *signature(self.feeds[0]))


class Grouping:
    """Groups a stream of samples into batches of `size`.

    Only neighbours of equal shapes come together. What stays below `size` (at the end, or where the shape changes) runs
    one by one: other sizes take other code paths in onnxruntime, and would have to be checked by themselves.
    """

    def __init__(self, size: int, first: int) -> None:
        self._size = size
        self._next = first
        self._waiting: list[Feed] = []

    @property
    def waiting(self) -> int:
        """Samples that were given and not handed out yet."""
        return len(self._waiting)

    def add(self, feed: Feed) -> list[Batch]:
        """Take in the next sample; what can be run now."""
        ready: list[Batch] = []
        if self._waiting and signature(feed) != signature(self._waiting[0]):
            ready = self.rest()
        self._waiting.append(feed)
        if len(self._waiting) < self._size:
            return ready
        return [*ready, self._take()]

    def rest(self) -> list[Batch]:
        """What is left, sample by sample."""
        return self._take().singles()

    def _take(self) -> Batch:
        batch = Batch(self._next, tuple(self._waiting))
        self._next += len(self._waiting)
        self._waiting = []
        return batch


def signature(feed: Feed) -> Signature:
    """Names and shapes of the inputs."""
    return tuple((name, value.shape) for name, value in feed.items())


def row_axes(
    tensors: Sequence[str],
    together: Sequence[NDArray[Any]],
    alone: Sequence[NDArray[Any]],
    number: int,
    count: int,
) -> tuple[int, ...] | str:
    """The axis of each tensor that tells samples apart, or why a sample's rows of a batch aren't what it gives alone.

    Args:
        tensors: names; the reason names the first tensor in which the batch differs.
        together: their values in a batch.
        alone: their values for one of its samples, run by itself.
        number: that sample's place in the batch.
        count: samples in the batch.
    """
    axes: list[int] = []
    for tensor, array, single in zip(tensors, together, alone, strict=True):
        axis = _row_axis(array.shape, single.shape, count)
        if axis is None:
            return f"tensor '{tensor}' has shape {list(array.shape)} for {count} samples, {list(single.shape)} for one"
        if np.split(array, count, axis)[number].tobytes() != single.tobytes():
            return f"tensor '{tensor}' has other values in a batch of {count} samples than for each alone"
        axes.append(axis)
    return tuple(axes)


def _row_axis(together: Sequence[int], alone: Sequence[int], count: int) -> int | None:
    """The only axis in which the shapes differ, by the factor `count`; None when there is no such axis."""
    if len(together) != len(alone):
        return None
    differing = [axis for axis, (a, b) in enumerate(zip(together, alone, strict=True)) if a != b]
    if len(differing) != 1 or together[differing[0]] != count * alone[differing[0]]:
        return None
    return differing[0]
