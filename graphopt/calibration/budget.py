"""How much of a sample may be fetched at once: tensors in chunks that fit a memory budget."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from graphopt.errors import ConfigError

# Model calls whose tensors are alive at a time: one is counted while the other runs. More lanes would only wait for
# each other, because np.bincount, half of the counting, keeps the interpreter's lock.
LANES = 2
# Samples in a batch, unless the user says otherwise, and the bytes of its fetched tensors. Batching saves the cost of a
# call: measured on 2 cores at 8 samples, 30 to 60 % for networks of 0.3 to 0.5 MiB a sample (keyword spotter,
# ResNet-8), and next to nothing at 65 MiB (ResNet-50, DenseNet-121), where larger tensors only leave the cache.
_MOST_SAMPLES = 8
_BATCH_BYTES = 16 << 20
_CHECKED_SHARE = 4  # a batch is chosen only where its check is at most a quarter of the samples
# From this on, the extremes of a sample's tensors are reduced inside the graph, which holds no tensor longer than the
# model does. Measured on 2 cores: for DenseNet-121 (67 MiB) it costs 7 % less than fetching.
REDUCED_BYTES = 32 << 20


def default_budget() -> int:
    """A quarter of the memory that is available now, in bytes."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        available = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration):
        # Not Linux: os.sysconf knows what is built in.
        sizes = [os.sysconf(name) for name in ("SC_PAGE_SIZE", "SC_PHYS_PAGES")] if hasattr(os, "sysconf") else [1, 4]
        available = max(sizes[0] * sizes[1], 1 << 30)
    return available // 4


def chunks(sizes: Mapping[str, int], budget: int) -> list[list[str]]:
    """The tensors, in their order, in as few runs as fit; one that is too large by itself stands alone.

    Args:
        sizes: bytes of each tensor for one sample.
        budget: bytes that fetched outputs may take.

    Raises:
        ConfigError: the budget is below 1.
    """
    if budget < 1:
        raise ConfigError(f"the memory budget is {budget} bytes; expected at least 1")
    found: list[list[str]] = []
    held = 0
    for tensor, size in sizes.items():
        if not found or held + size * LANES > budget:
            found.append([])
            held = 0
        found[-1].append(tensor)
        held += size * LANES
    return found


def batch_size(sample: int, budget: int, count: int | None = None, wanted: int | None = None) -> int:
    """How many samples of `sample` bytes of fetched tensors each to run in one call.

    Args:
        sample: bytes.
        count: how many samples there are; None: not known. Checking a batch runs its samples twice: for few, it
            doesn't pay.
        budget: bytes that fetched tensors may take; batches shrink before tensors are observed in several passes.
        wanted: what the user asks for; None: as many as it pays for.

    Raises:
        ConfigError: `wanted` is below 1.
    """
    if wanted is not None and wanted < 1:
        raise ConfigError(f"the batch size is {wanted}; expected at least 1")
    most = min(_MOST_SAMPLES, _BATCH_BYTES // max(sample, 1)) if wanted is None else wanted
    if wanted is None and count is not None and count < _CHECKED_SHARE * most:
        return 1
    return max(1, min(most, budget // max(LANES * sample, 1)))


def share(threads: int | None, workers: int) -> int | None:
    """Threads of each of `workers` processes; None lets onnxruntime choose.

    Raises:
        ConfigError: `workers` is below 1.
    """
    if workers < 1:
        raise ConfigError(f"the number of workers is {workers}; expected at least 1")
    if workers == 1:
        return threads
    return max(1, (threads or available_cores()) // workers)


def available_cores() -> int:
    """Cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)


def described(passes: Sequence[Sequence[str]], budget: int) -> str:
    """Why there is more than one pass over the samples."""
    return f"{len(passes)} passes over the samples: one sample's tensors don't fit in {budget / 2**20:,.0f} MiB"
