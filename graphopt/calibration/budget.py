"""How much of a sample may be fetched at once: tensors in chunks that fit a memory budget."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from graphopt.errors import ConfigError

# Outputs of a sample are binned while the next sample runs.
_IN_FLIGHT = 2


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
        if not found or held + size * _IN_FLIGHT > budget:
            found.append([])
            held = 0
        found[-1].append(tensor)
        held += size * _IN_FLIGHT
    return found


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
