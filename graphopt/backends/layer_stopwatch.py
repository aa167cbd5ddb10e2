"""Times single layers in an engine: each once, however many layers of a model are alike."""

from __future__ import annotations

import itertools
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto

from graphopt.backends.engines import Engine
from graphopt.backends.single_layer import Signature, SingleLayer
from graphopt.errors import CalibrationError, UnsupportedError

_WARM_UP = 2
_FEWEST_CALLS, _MOST_CALLS, _ENOUGH_SECONDS = 4, 50, 0.02


@dataclass
class Stopwatch:
    """Times layers in an engine, each signature once.

    A time is the least of several calls, since whatever else the machine does only adds.

    Attributes:
        engine: what runs them.
        threads: that it is given; None leaves it to the engine.
        end: when to stop, on the clock of `time.perf_counter`.
        known: signature and copies → seconds of one layer; None where the engine can't run it.
        repeated: what was timed again.
        complaint: why the last one that couldn't be run couldn't.
    """

    engine: Engine
    threads: int | None
    end: float
    known: dict[Signature, float | None] = field(default_factory=dict[Signature, float | None])
    repeated: set[Signature] = field(default_factory=set[Signature])
    complaint: str = "there is none whose sizes are known"

    @property
    def is_over(self) -> bool:
        """Whether the time to measure is spent."""
        return time.perf_counter() > self.end

    def seconds(self, layer: SingleLayer, counts: Mapping[str, int], copies: int) -> float | None:
        """Seconds of a call, or None where the engine can't run the layer."""
        signature = (layer.signature(counts), copies)
        if signature not in self.known:
            try:
                self.known[signature] = self._time(*layer.model(counts, copies)) / copies
            except (UnsupportedError, CalibrationError) as error:
                self.known[signature], self.complaint = None, str(error)
        return self.known[signature]

    def again(self, layer: SingleLayer, counts: Mapping[str, int], copies: int) -> float:
        """Seconds of a call, timed once more: the less of both. Once for each signature."""
        signature = (layer.signature(counts), copies)
        before = self.known[signature]
        assert before is not None
        if signature not in self.repeated:
            self.repeated.add(signature)
            self.known[signature] = before = min(before, self._time(*layer.model(counts, copies)) / copies)
        return before

    def _time(self, model: ModelProto, feed: Mapping[str, NDArray[Any]]) -> float:
        if self.engine.run is None:
            raise UnsupportedError(f"{self.engine.title} doesn't run on this machine")
        run = self.engine.run(model, itertools.repeat(feed), self.threads)
        for _ in range(_WARM_UP):
            next(run)
        least, spent, calls = np.inf, 0.0, 0
        while calls < _FEWEST_CALLS or (calls < _MOST_CALLS and spent < _ENOUGH_SECONDS):
            began = time.perf_counter()
            next(run)
            taken = time.perf_counter() - began
            least, spent, calls = min(least, taken), spent + taken, calls + 1
        return least
