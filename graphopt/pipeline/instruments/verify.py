"""Check after every pass that the graph is still a valid model. On by default: a broken graph is our bug, always."""

from __future__ import annotations

from collections.abc import Sequence

from graphopt.errors import InternalError
from graphopt.ir import Graph
from graphopt.ir.verifier import Violation, verify
from graphopt.pipeline.instrument import Instrument, PassRecord
from graphopt.pipeline.passes import Context, Pass


class Verify(Instrument):
    """Raises on the first pass that changed something and left violations behind.

    What the model violated when it came is noted, and no pass is blamed for it.
    """

    def __init__(self) -> None:
        self._came_with: frozenset[tuple[str, str]] = frozenset()

    def start(self, passes: Sequence[Pass], graph: Graph, ctx: Context) -> None:
        """Check the graph as it came."""
        violations = verify(graph)
        self._came_with = frozenset((v.rule, v.node) for v in violations)
        if violations:
            ctx.remarks.note(None, f"the model came with a fault: {_first(violations)}")

    def after_pass(self, pass_: Pass, record: PassRecord, graph: Graph, ctx: Context) -> None:
        """Check the graph, if the pass can have changed it or its plan.

        Raises:
            InternalError: naming the rule and the node.
        """
        if not record.changed and not graph.plan:  # a change of the plan alone moves no revision
            return
        new = [v for v in verify(graph) if (v.rule, v.node) not in self._came_with]
        if new:
            raise InternalError(f"the graph is broken: {_first(new)}")


def _first(violations: Sequence[Violation]) -> str:
    more = f" (and {len(violations) - 1} more)" if len(violations) > 1 else ""
    return f"{violations[0]}{more}"
