"""How long each pass took, how many samples it ran, and how long the other instruments took around it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

from graphopt.ir import Graph
from graphopt.pipeline.instrument import Instrument, PassRecord
from graphopt.pipeline.passes import Context, Pass


@dataclass(frozen=True)
class PassTime:
    """What one pass took.

    Attributes:
        record: its figures, wall time included.
        watching: seconds that the instruments inside Timing added: checks, dumps, snapshots.
        samples: how many samples it took from the calibration data, over all its walks; 0 without any.
    """

    record: PassRecord
    watching: float
    samples: int = 0

    @property
    def index(self) -> int:
        """The pass's place in the pipeline, from 1."""
        return self.record.index

    @property
    def name(self) -> str:
        """The pass's name."""
        return self.record.name

    @property
    def seconds(self) -> float:
        """Wall time of the pass."""
        return self.record.seconds


class Timing(Instrument):
    """Measures every pass. First in the list of instruments, it measures all the others too."""

    def __init__(self) -> None:
        self.times: list[PassTime] = []
        self._began = 0.0
        self._given = 0

    def start(self, passes: Sequence[Pass], graph: Graph, ctx: Context) -> None:
        """Forget the last run."""
        self.times = []

    def before_pass(self, pass_: Pass, index: int, graph: Graph, ctx: Context) -> None:
        """Start the clock."""
        self._given = _given(ctx)
        self._began = time.perf_counter()

    def after_pass(self, pass_: Pass, record: PassRecord, graph: Graph, ctx: Context) -> None:
        """Stop the clock."""
        total = time.perf_counter() - self._began
        self.times.append(PassTime(record, total - record.seconds, _given(ctx) - self._given))

    @property
    def seconds(self) -> float:
        """Wall time of all passes, and of what watched them."""
        return sum(t.seconds + t.watching for t in self.times)

    def __str__(self) -> str:
        """A text table: seconds, share of the whole, pass."""
        whole = self.seconds or 1.0
        rows = [(t.seconds, f"{t.index:3} {t.name}") for t in self.times]
        rows.append((sum(t.watching for t in self.times), "    checks and dumps"))
        lines = [f"{seconds:9.3f} s {seconds / whole:6.1%}  {name}" for seconds, name in rows]
        return "\n".join([*lines, f"{whole:9.3f} s 100.0%      in all"])


def _given(ctx: Context) -> int:
    return 0 if ctx.calibration is None else ctx.calibration.given
