"""How long each kernel of a model takes in an engine: what every engine's own profiling is turned into."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

# The first calls find cold caches, and engines pack weights then.
WARM_UP = 3
FEWEST_RUNS, MOST_RUNS = 5, 200


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
