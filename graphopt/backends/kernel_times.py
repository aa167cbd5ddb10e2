"""How long each kernel of a model takes in an engine: what every engine's own profiling is turned into."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

# The first calls find cold caches, and engines pack weights then.
WARM_UP = 3
FEWEST_RUNS, MOST_RUNS = 5, 200
# Seconds from one kernel to the next, at most: OpenVINO's take about 1 µs.
_BETWEEN = 2e-6
# Of the quickest kernel: none is free.
_LARGEST_OVERHEAD = 0.75


@dataclass(frozen=True)
class KernelTime:
    """One kernel.

    Attributes:
        name: as the engine calls it.
        op: the engine's name of what it does: QLinearConv, Reorder.
        nodes: names of the model's nodes that it came from, the one that it is named after first; none for what the
            engine adds: changes of memory layout.
        inputs: tensors that it reads, as the engine calls them; inputs of the model have their own names.
        outputs: tensors that it writes, likewise.
        seconds: of one call of the model.
    """

    name: str
    op: str
    nodes: tuple[str, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    seconds: float


def undisturbed(times: Sequence[float]) -> float:
    """The mean of the fastest tenth, since whatever else the machine does only adds; 0 for none.

    Finer than the least where a clock counts whole microseconds.
    """
    ordered = np.sort(np.asarray(times, np.float64))
    return float(ordered[: max(1, len(ordered) // 10)].mean()) if len(ordered) else 0.0


@dataclass(frozen=True)
class Correction:
    """What profiling does to the times of kernels: writing each one down takes time itself (onnxruntime: 1 to 3 µs).

    Attributes:
        overhead: seconds of each kernel that are the profile's own.
        scale: of what is left.
    """

    overhead: float
    scale: float

    @staticmethod
    def to(kernels: Sequence[KernelTime], seconds: float) -> Correction:
        """The one with which kernels take `seconds` together.

        Where they take longer, each loses as much, as far as the quickest has it. Where they take less by more than
        what lies between kernels, `seconds` were disturbed: a whole call meets other work more likely than a kernel.
        """
        timed = [kernel.seconds for kernel in kernels if kernel.seconds > 0]
        if not timed:
            return Correction(0.0, 1.0)
        seconds = min(seconds, sum(timed) + _BETWEEN * len(timed))
        overhead = min(max((sum(timed) - seconds) / len(timed), 0.0), _LARGEST_OVERHEAD * min(timed))
        left = sum(timed) - overhead * len(timed)
        return Correction(overhead, seconds / left) if left > 0 else Correction(0.0, seconds / sum(timed))

    def of(self, kernels: Sequence[KernelTime]) -> list[KernelTime]:
        """Kernels with the times that they have without profiling."""
        return [replace(k, seconds=max(k.seconds - self.overhead, 0.0) * self.scale) for k in kernels]
