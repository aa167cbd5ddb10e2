"""Print the graph as text before and after passes. The names are MLIR's, and so is what they mean together."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence

from graphopt.errors import ConfigError, nearest
from graphopt.ir import Graph
from graphopt.ir.printer import ValueTexts, print_graph
from graphopt.pipeline.instrument import Instrument, PassRecord
from graphopt.pipeline.passes import Context, Pass


def print_to_stderr(text: str) -> None:
    """Print there, so that stdout stays the report's."""
    print(text, file=sys.stderr)


class PrintIr(Instrument):
    """Prints the graph, with its plan, around passes.

    Args:
        before: names of passes to print before.
        after: names of passes to print after.
        after_all: print after every pass.
        after_change: print only after passes that changed the graph or its plan: of those in `after`, or of all.
        write: takes each text, which begins with a line that says where it is from.
    """

    def __init__(
        self,
        *,
        before: Sequence[str] = (),
        after: Sequence[str] = (),
        after_all: bool = False,
        after_change: bool = False,
        write: Callable[[str], None] = print_to_stderr,
    ) -> None:
        self.before = frozenset(before)
        self.after = frozenset(after)
        self.after_all = after_all or (after_change and not after)
        self.after_change = after_change
        self.write = write
        self._values = ValueTexts()
        self._last = ""

    def start(self, passes: Sequence[Pass], graph: Graph, ctx: Context) -> None:
        """Check the names.

        Raises:
            ConfigError: one of them is no pass of the run.
        """
        del ctx
        known = dict.fromkeys(p.name for p in passes)
        for where, names in (("before", self.before), ("after", self.after)):
            for name in sorted(names - known.keys()):
                raise ConfigError(f"can't print {where} '{name}', it is not in the pipeline: {nearest(name, known)}")
        self._values = ValueTexts()
        self._last = self._text(graph) if self.after_change else ""

    def before_pass(self, pass_: Pass, index: int, graph: Graph, ctx: Context) -> None:
        """Print if it is one of the passes."""
        del ctx
        if pass_.name in self.before:
            self.write(f"# before pass {index}, {pass_.name}\n{self._text(graph)}")

    def after_pass(self, pass_: Pass, record: PassRecord, graph: Graph, ctx: Context) -> None:
        """Print if it is one of the passes, and changed something where that is asked for."""
        del ctx
        wanted = self.after_all or pass_.name in self.after
        if not wanted and not self.after_change:
            return
        text = self._text(graph)
        changed, self._last = text != self._last, text
        if wanted and (changed or not self.after_change):
            self.write(f"# after pass {record.index}, {pass_.name}\n{text}")

    def _text(self, graph: Graph) -> str:
        return print_graph(graph, self._values)
