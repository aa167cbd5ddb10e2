"""How long one call of each of two models takes on this machine, measured in turns.

Both run on the same sample with the same threads. A round times each once, and the next round the other way round
(A B, B A, A B …), so that whatever else the machine does, and how warm it is, meets both alike. The figure is the
median over rounds of reference ÷ other, with its quartiles; times themselves are medians.
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from graphopt.backends.kernel_times import undisturbed

_WARM_UP = 3
_MIN_ROUNDS, _MAX_ROUNDS = 5, 200
# A timing shorter than this is mostly the clock and the call itself: quick models are called several times.
_TIMED_SECONDS = 0.002
# Quartiles this many times apart: on a machine with nothing else to do they are within a tenth.
_ROUGH = 1.5
# Calls of a model between those of the others; the first, which finds the others' data in the cache, doesn't count.
_TURN, _COUNTED = 5, 4
BUDGET_SECONDS = 4.0


@dataclass(frozen=True)
class Latency:
    """Time of a call on this machine, of a model and of the reference.

    Attributes:
        engine: what ran both.
        threads: of the engine; None: as many as it takes by itself.
        rounds: how many times each was timed, in turns.
        calls: calls in a timing.
        reference_seconds, seconds: medians of a call.
        speedup: median over rounds of the reference's time over the model's: above 1, the model is faster.
        speedup_low, speedup_high: quartiles of the same.
        median_low, median_high: where the median of ever more rounds would be, with 95 %: order statistics, whatever
            the distribution (rounds on a busy machine have tails that quartiles don't show).
    """

    engine: str
    threads: int | None
    rounds: int
    calls: int
    reference_seconds: float
    seconds: float
    speedup: float
    speedup_low: float
    speedup_high: float
    median_low: float
    median_high: float

    @property
    def is_rough(self) -> bool:
        """Whether rounds differ much: the machine was busy with something else."""
        return self.speedup_high > _ROUGH * self.speedup_low


def measure_latency(
    reference: Iterator[Any],
    other: Iterator[Any],
    *,
    engine: str,
    threads: int | None = None,
    budget: float = BUDGET_SECONDS,
) -> Latency:
    """Time two models in turns for about `budget` seconds, and at least a few rounds.

    Args:
        reference: endless; each `next` is one call of the model.
        other: likewise.
        engine: what runs them.
        threads: that it was given.
        budget: seconds to spend, the warming up not counted.
    """
    for run in (reference, other):
        _time(run, _WARM_UP)
    calls = max(1, round(_TIMED_SECONDS / max(_time(other, 1), 1e-6)))
    times: list[tuple[float, float]] = []
    end = time.perf_counter() + budget
    for index in itertools.count():
        if index >= _MAX_ROUNDS or (index >= _MIN_ROUNDS and time.perf_counter() > end):
            break
        order = (reference, other) if index % 2 == 0 else (other, reference)
        first, second = (_time(run, calls) for run in order)
        times.append((first, second) if index % 2 == 0 else (second, first))
    measured = np.array(times)
    ratios = np.sort(measured[:, 0] / measured[:, 1])
    low, middle, high = np.quantile(ratios, (0.25, 0.5, 0.75))
    # Of n values below and above the median there are binomially many: n / 2 ± 1.96 · √n / 2.
    first, last = len(ratios) / 2 - 0.98 * math.sqrt(len(ratios)), len(ratios) / 2 + 0.98 * math.sqrt(len(ratios))
    medians = np.median(measured, axis=0) / calls
    return Latency(
        engine=engine,
        threads=threads,
        rounds=len(times),
        calls=calls,
        reference_seconds=float(medians[0]),
        seconds=float(medians[1]),
        speedup=float(middle),
        speedup_low=float(low),
        speedup_high=float(high),
        median_low=float(ratios[max(0, math.floor(first))]),
        median_high=float(ratios[min(len(ratios) - 1, math.ceil(last))]),
    )


def undisturbed_seconds(runs: Sequence[Iterator[Any]], budget: float) -> list[float]:
    """Seconds of a call of each model, as if the machine did nothing else: its fastest tenth of calls, in turns.

    Args:
        runs: endless; each `next` is one call of a model.
        budget: seconds to spend, about, the warming up not counted; a few rounds are always made.
    """
    times: list[list[float]] = [[] for _ in runs]
    for run in runs:
        _time(run, _WARM_UP)
    end = time.perf_counter() + budget
    for index in itertools.count():
        if index >= _MIN_ROUNDS and time.perf_counter() > end:
            break
        order = list(enumerate(runs))
        for number, run in order if index % 2 == 0 else order[::-1]:
            times[number].extend([_time(run, 1) for _ in range(_TURN)][-_COUNTED:])
    return [undisturbed(own) for own in times]


def _time(run: Iterator[Any], calls: int) -> float:
    """Seconds that this many calls take."""
    began = time.perf_counter()
    for _ in range(calls):
        next(run)
    return time.perf_counter() - began
