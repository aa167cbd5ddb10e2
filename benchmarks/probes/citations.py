"""What the targets' tables say of probes: "float in probe 'conv, result not quantized'" in the source of a rule."""

from __future__ import annotations

import re
from dataclasses import dataclass

from benchmarks.probes.engines import Verdict
from graphopt.targets import Target

_CITED = re.compile(r"(int8|float|mixed|refused|wrong) in probe '([^']+)'")


@dataclass(frozen=True)
class Citation:
    """A rule's claim.

    Attributes:
        op: whose rule it is.
        probe: name of the probe.
        verdict: what the engine makes of it: a word of `Verdict.precision`, or "wrong".
    """

    op: str
    probe: str
    verdict: str

    def holds(self, found: Verdict) -> bool:
        """Whether the engine did what the rule says."""
        return found.wrong if self.verdict == "wrong" else found.precision == self.verdict and not found.wrong


def citations(target: Target) -> list[Citation]:
    """All claims of a target's table."""
    return [
        Citation(op, probe, verdict)
        for op, rule in target.rules.items()
        for verdict, probe in _CITED.findall(rule.source)
    ]
