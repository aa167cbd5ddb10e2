"""Print the graph as text after passes, on stderr, so that stdout stays the report's."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass

from graphopt.errors import ConfigError, nearest
from graphopt.ir import Graph
from graphopt.ir.printer import print_graph
from graphopt.pipeline import Context, Instrument, Pass, PassRecord


@dataclass(frozen=True)
class PrintIr(Instrument):
    """Prints after the passes with these names; `names` empty means after every pass that changed something."""

    names: tuple[str, ...] = ()

    def start(self, passes: Sequence[Pass], graph: Graph, ctx: Context) -> None:
        """Check the names.

        Raises:
            ConfigError: one of them is no pass of the run.
        """
        del graph, ctx
        known = dict.fromkeys(p.name for p in passes)
        for name in self.names:
            if name not in known:
                raise ConfigError(f"can't print after '{name}', it is not in the pipeline: {nearest(name, known)}")

    def after_pass(self, pass_: Pass, record: PassRecord, graph: Graph, ctx: Context) -> None:
        """Print if it is one of the passes."""
        del ctx
        if pass_.name in self.names or (not self.names and record.changed):
            print(f"# after pass {record.index}, {pass_.name}\n{print_graph(graph)}", file=sys.stderr)
