"""Changes of what a whole process has one of (warning filters, stdout), where several threads may want one at a time.

Each thread that saved and restored it by itself would restore what another had changed it to, for good.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from threading import Lock


class ProcessWide:
    """A context manager for all threads: the first one in makes the change, the last one out takes it back."""

    def __init__(self, change: Callable[[], AbstractContextManager[object]]) -> None:
        """Manage `change`, which is called for each first one in."""
        self._change = change
        self._lock = Lock()
        self._inside = 0
        self._made = ExitStack()

    def __enter__(self) -> None:
        with self._lock:
            if self._inside == 0:
                self._made.enter_context(self._change())
            self._inside += 1

    def __exit__(self, *error: object) -> None:
        with self._lock:
            self._inside -= 1
            if self._inside == 0:
                self._made.close()


@contextmanager
def _no_warnings() -> Generator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


NO_WARNINGS = ProcessWide(_no_warnings)
"""Within it, Python's warnings are ignored."""
