"""Run only the first n passes: halving n finds the pass that first does something unwanted."""

from __future__ import annotations

from dataclasses import dataclass

from graphopt.errors import ConfigError
from graphopt.pipeline.instrument import Instrument
from graphopt.pipeline.passes import Pass


@dataclass(frozen=True)
class Limit(Instrument):
    """Passes 1 to `passes` run, the others are left out with a note.

    Every entry of the pipeline counts, whether it changes anything or not: so a number means the same pass in every
    run, and the pass to blame is the smallest n with the fault.
    """

    passes: int

    def __post_init__(self) -> None:
        if self.passes < 0:
            raise ConfigError(f"the pass limit is {self.passes}; expected 0 or more")

    def should_run(self, pass_: Pass, index: int) -> bool:
        """Whether `index` is within the limit."""
        return index <= self.passes

    def __str__(self) -> str:
        return f"only the first {self.passes} passes were asked for"
