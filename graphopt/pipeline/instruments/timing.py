"""How long each pass took, and how long the other instruments took around it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

from graphopt.ir import Graph
from graphopt.pipeline.instrument import Instrument, PassRecord
from graphopt.pipeline.passes import Context, Pass


@dataclass(frozen=True)
class PassTime:
    """Wall time of one pass. `watching` is what the instruments inside Timing added to it: checks, dumps, snapshots."""

    index: int
    name: str
    seconds: float
    watching: float


class Timing(Instrument):
    """Measures every pass. First in the list of instruments, it measures all the others too."""

    def __init__(self) -> None:
        self.times: list[PassTime] = []
        self._began = 0.0

    def start(self, passes: Sequence[Pass], graph: Graph, ctx: Context) -> None:
        """Forget the last run."""
        self.times = []

    def before_pass(self, pass_: Pass, index: int, graph: Graph, ctx: Context) -> None:
        """Start the clock."""
        self._began = time.perf_counter()

    def after_pass(self, pass_: Pass, record: PassRecord, graph: Graph, ctx: Context) -> None:
        """Stop the clock."""
        total = time.perf_counter() - self._began
        self.times.append(PassTime(record.index, record.name, record.seconds, total - record.seconds))

    def __str__(self) -> str:
        """A text table: seconds, share of the whole, pass."""
        whole = sum(t.seconds + t.watching for t in self.times) or 1.0
        rows = [(t.seconds, f"{t.index:3} {t.name}") for t in self.times]
        rows.append((sum(t.watching for t in self.times), "    checks and dumps"))
        lines = [f"{seconds:9.3f} s {seconds / whole:6.1%}  {name}" for seconds, name in rows]
        return "\n".join([*lines, f"{whole:9.3f} s 100.0%      in all"])
