"""Samples run in lanes: threads that share a session and the cores, so that one computes while another waits.

A session with all threads beside Python code, or beside operators that use one thread (reductions), leaves cores idle.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from graphopt.calibration.budget import LANES, available_cores
from graphopt.ir.cancelling import check_cancelled

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


def lanes_of(threads: int | None) -> tuple[int, int]:
    """How many lanes there are, and the threads of a session that each of them runs.

    Args:
        threads: of all lanes together; None takes the cores.
    """
    wanted = threads or available_cores()
    lanes = min(LANES, wanted)
    return lanes, wanted // lanes


def in_lanes(function: Callable[[_Item], _Result], items: Iterable[_Item], lanes: int) -> Iterator[_Result]:
    """The function of each item, in the order of the items; no more of them wait than there are lanes and one."""
    running: deque[Future[_Result]] = deque()
    with ThreadPoolExecutor(lanes, thread_name_prefix="lane") as pool:
        try:
            for item in items:
                check_cancelled()
                while len(running) > lanes:
                    yield running.popleft().result()
                running.append(pool.submit(function, item))
            while running:
                yield running.popleft().result()
        finally:
            for future in running:
                future.cancel()
