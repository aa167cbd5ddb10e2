"""Runs passes one after the other; everything else that a run can do is an instrument."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import fields
from typing import Any

from graphopt.errors import GraphoptError, InternalError
from graphopt.ir import Graph, fill_types
from graphopt.ir.user_code import named
from graphopt.pipeline.instrument import Failure, Instrument, PassRecord
from graphopt.pipeline.naming import is_own
from graphopt.pipeline.passes import Context, Pass


class PassManager:
    """Runs `passes` in order, with `instruments` hooked around each."""

    def __init__(self, passes: Sequence[Pass], instruments: Sequence[Instrument] = ()) -> None:
        self.passes = tuple(passes)
        self.instruments = tuple(instruments)

    def run(self, graph: Graph, ctx: Context) -> list[PassRecord]:
        """Rewrite `graph` in place; one record per pass that ran.

        Every pass finds the graph sorted, and types and shapes filled in as far as inference can tell: that is no
        instrument's work, because what watches a run must not change its result.

        Raises:
            GraphoptError: raised by a pass; its message starts with the pass's name.
            InternalError: a pass failed in any other way, or an instrument caught it breaking the graph.
            Cancelled: the run was ended from outside; instruments aren't told, and the graph is of no use.
        """
        fill_types(graph)
        for instrument in self.instruments:
            instrument.start(self.passes, graph, ctx)
        records: list[PassRecord] = []
        for index, pass_ in enumerate(self.passes, start=1):
            ctx.report("rewriting", index - 1, len(self.passes))
            ctx.remarks.current = pass_.name
            stopped_by = next((i for i in self.instruments if not i.should_run(pass_, index)), None)
            if stopped_by is not None:
                ctx.remarks.note(None, f"not run: {stopped_by}")
                continue
            try:
                records.append(self._run_one(pass_, index, graph, ctx))
            except (GraphoptError, InternalError) as error:
                if isinstance(error, InternalError) and not is_own(type(pass_)):
                    error.owner = named(type(pass_))
                self._tell_of(error, pass_, index, graph, ctx)
                raise
            finally:
                ctx.remarks.current = ""
        ctx.report("rewriting", len(self.passes), len(self.passes))
        for instrument in reversed(self.instruments):
            with _bugs_are_ours(f"{type(instrument).__name__} at the end"):
                instrument.finish(graph, ctx)
        return records

    def _run_one(self, pass_: Pass, index: int, graph: Graph, ctx: Context) -> PassRecord:
        for instrument in self.instruments:
            with _bugs_are_ours(f"{type(instrument).__name__} before pass '{pass_.name}'"):
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
            with _bugs_are_ours(f"{type(instrument).__name__} after pass '{pass_.name}'"):
                instrument.after_pass(pass_, record, graph, ctx)
        return record

    def _tell_of(self, error: Failure, pass_: Pass, index: int, graph: Graph, ctx: Context) -> None:
        for instrument in reversed(self.instruments):
            try:
                instrument.on_failure(pass_, index, graph, ctx, error)
            except Exception as second:  # a full disk, a graph too broken to print: it must not hide the first error
                error.add_note(f"{type(instrument).__name__} failed too: {type(second).__name__}: {second}")


def _rewrite(pass_: Pass, graph: Graph, ctx: Context) -> None:
    """Run the pass, and make the graph ready for the next one."""
    revision = graph.revision
    try:
        with _bugs_are_ours(f"pass '{pass_.name}'"):
            pass_.run(graph, ctx)
            if graph.revision != revision:
                graph.sort()
                fill_types(graph)
    except GraphoptError as error:
        error.args = (f"{pass_.name}: {error}",)
        raise


@contextmanager
def _bugs_are_ours(what: str) -> Generator[None]:
    """Any exception but a GraphoptError comes out as an InternalError that says what raised it."""
    try:
        yield
    except GraphoptError:
        raise
    except InternalError as error:
        error.args = (f"{what}: {error}",)
        raise
    except Exception as error:
        raise InternalError(f"{what} failed with {type(error).__name__}: {error}") from error


def _node_count(graph: Graph) -> int:
    return sum(len(scope.nodes) for scope in graph.walk())


def _constant_bytes(graph: Graph) -> int:
    return sum(constant.nbytes for scope in graph.walk() for constant in scope.constants)


def _options(pass_: Pass) -> dict[str, Any]:
    return {f.name: getattr(pass_, f.name) for f in fields(pass_)}
