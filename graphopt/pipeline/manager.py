"""Runs passes one after the other; everything else that a run can do is an instrument."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import fields
from typing import Any

from graphopt.errors import GraphoptError, InternalError
from graphopt.ir import Graph
from graphopt.pipeline.instrument import Instrument, PassRecord
from graphopt.pipeline.passes import Context, Pass


class PassManager:
    """Runs `passes` in order, with `instruments` hooked around each."""

    def __init__(self, passes: Sequence[Pass], instruments: Sequence[Instrument] = ()) -> None:
        self.passes = tuple(passes)
        self.instruments = tuple(instruments)

    def run(self, graph: Graph, ctx: Context) -> list[PassRecord]:
        """Rewrite `graph` in place; one record per pass that ran.

        Raises:
            GraphoptError: raised by a pass; its message starts with the pass's name.
            InternalError: a pass failed in any other way, or an instrument caught it breaking the graph.
        """
        for instrument in self.instruments:
            instrument.start(self.passes, graph, ctx)
        records: list[PassRecord] = []
        for index, pass_ in enumerate(self.passes, start=1):
            ctx.remarks.current = pass_.name
            stopped_by = next((i for i in self.instruments if not i.should_run(pass_, index)), None)
            if stopped_by is not None:
                ctx.remarks.note(None, f"not run: {stopped_by}")
                continue
            try:
                records.append(self._run_one(pass_, index, graph, ctx))
            except Exception as error:
                for instrument in reversed(self.instruments):
                    instrument.on_failure(pass_, index, graph, ctx, error)
                raise
        ctx.remarks.current = ""
        return records

    def _run_one(self, pass_: Pass, index: int, graph: Graph, ctx: Context) -> PassRecord:
        for instrument in self.instruments:
            instrument.before_pass(pass_, index, graph, ctx)
        nodes, size, revision, said = _node_count(graph), _constant_bytes(graph), graph.revision, len(ctx.remarks.items)
        began = time.perf_counter()
        _rewrite(pass_, graph, ctx)
        record = PassRecord(
            index=index,
            name=pass_.name,
            options=_options(pass_),
            seconds=time.perf_counter() - began,
            changed=graph.revision != revision,
            nodes_before=nodes,
            nodes_after=_node_count(graph),
            bytes_before=size,
            bytes_after=_constant_bytes(graph),
            remarks=Counter(r.kind for r in ctx.remarks.items[said:]),
        )
        for instrument in reversed(self.instruments):
            instrument.after_pass(pass_, record, graph, ctx)
        return record


def _rewrite(pass_: Pass, graph: Graph, ctx: Context) -> None:
    """Run the pass; whatever it raises comes out as a GraphoptError or InternalError that names it."""
    revision = graph.revision
    try:
        pass_.run(graph, ctx)
        if graph.revision != revision:
            graph.sort()
    except GraphoptError as error:
        error.args = (f"{pass_.name}: {error}",)
        raise
    except InternalError as error:
        error.args = (f"pass '{pass_.name}': {error}",)
        raise
    except Exception as error:
        raise InternalError(f"pass '{pass_.name}' failed with {type(error).__name__}: {error}") from error


def _node_count(graph: Graph) -> int:
    return sum(len(scope.nodes) for scope in graph.walk())


def _constant_bytes(graph: Graph) -> int:
    return sum(constant.nbytes for scope in graph.walk() for constant in scope.constants)


def _options(pass_: Pass) -> dict[str, Any]:
    return {f.name: getattr(pass_, f.name) for f in fields(pass_)}
