"""Models timed against one float model in a target's engine, in turns, see `backends.latency`."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

from numpy.typing import NDArray

from graphopt.backends.engines import Engine, Model, Runs
from graphopt.backends.latency import BUDGET_SECONDS, Latency, measure_latency


class Stopwatch:
    """Times models on one sample; the float model is opened once."""

    def __init__(
        self,
        engine: Engine,
        reference: Model,
        feed: Mapping[str, NDArray[Any]],
        *,
        threads: int | None = None,
        budget: float = BUDGET_SECONDS,
    ) -> None:
        """Take what to run, and where.

        Args:
            engine: one that runs on this machine.
            reference: the float model.
            feed: the sample.
            threads: of the engine; None lets it choose.
            budget: seconds for each model, the warming up not counted.
        """
        self.engine, self.reference, self.feed, self.threads, self.budget = engine, reference, feed, threads, budget
        self._calls: Runs | None = None

    def time(self, model: Model, *, anew: bool = False) -> Latency:
        """The latency of a model, and of the float model beside it.

        Args:
            model: the model.
            anew: open the float model once more, too: how fast a model is depends a little on how it was opened.

        Raises:
            UnsupportedError: the engine can't load one of them.
        """
        self._calls = None if anew else self._calls
        reference, title = self.open(), self.engine.title
        return measure_latency(reference, self._run(model), engine=title, threads=self.threads, budget=self.budget)

    def open(self) -> Runs:
        """Calls of the float model.

        Raises:
            UnsupportedError: the engine can't load it.
        """
        if self._calls is None:
            self._calls = self._run(self.reference)
        return self._calls

    def _run(self, model: Model) -> Runs:
        """Endless calls, the first one made: engines open a model when it is first called."""
        assert self.engine.run is not None
        calls = self.engine.run(model, itertools.repeat(self.feed), self.threads)
        next(calls)
        return calls
