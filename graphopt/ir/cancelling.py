"""Ending a run from outside. It is asked between two steps of work: passes, samples, model calls, layers.

What asks is kept in a context variable, so that runs in several threads don't hear each other's, and nothing needs to
be handed down to where the work is done. Helper threads hear nothing: whoever waits for them asks.
"""

from __future__ import annotations

import functools
import subprocess
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import ParamSpec, Protocol, TypeAlias, TypeVar, cast

from graphopt.errors import Cancelled


class Event(Protocol):
    """What threading.Event and multiprocessing.Event have."""

    def is_set(self) -> bool:
        """Whether the run shall end."""
        ...


Cancel: TypeAlias = Event | Callable[[], bool]
"""An event, or a function: the run ends when it is set, or returns True."""

_Given = ParamSpec("_Given")
_Result = TypeVar("_Result")

_ASKED: ContextVar[Cancel | None] = ContextVar("graphopt_cancel", default=None)
_POLL_SECONDS = 0.1


def check_cancelled() -> None:
    """End the run where that is wanted.

    Raises:
        Cancelled: it is.
    """
    asked = _ASKED.get()
    if asked is not None and (asked() if callable(asked) else asked.is_set()):
        raise Cancelled("the run was cancelled")


@contextmanager
def cancelled_by(cancel: Cancel | None) -> Generator[None]:
    """Within the block, `check_cancelled` asks this; None leaves it at what asks already."""
    if cancel is None:
        yield
        return
    token = _ASKED.set(cancel)
    try:
        check_cancelled()
        yield
    finally:
        _ASKED.reset(token)


def cancellable(function: Callable[_Given, _Result]) -> Callable[_Given, _Result]:
    """A function whose argument `cancel`, given by name, ends it."""

    @functools.wraps(function)
    def run(*args: _Given.args, **kwargs: _Given.kwargs) -> _Result:
        with cancelled_by(cast("Cancel | None", kwargs.get("cancel"))):
            return function(*args, **kwargs)

    return run


def run_process(
    command: Sequence[str], request: bytes, env: dict[str, str], timeout: float
) -> subprocess.CompletedProcess[bytes]:
    """Run a process to its end, as subprocess.run does with its output captured; it is killed where the run ends first.

    Raises:
        subprocess.TimeoutExpired: it took more than `timeout` seconds, and was killed.
    """
    end = time.monotonic() + timeout
    with subprocess.Popen(
        command, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        try:
            given: bytes | None = request
            while True:
                try:
                    out, err = process.communicate(given, _POLL_SECONDS)
                    return subprocess.CompletedProcess(command, process.returncode, out, err)
                except subprocess.TimeoutExpired:
                    check_cancelled()
                    if time.monotonic() > end:
                        raise
                given = None
        except BaseException:
            process.kill()
            raise
