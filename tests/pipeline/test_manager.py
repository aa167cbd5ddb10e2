from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import pytest

from graphopt.errors import ConfigError, InternalError, PassError
from graphopt.ir import Graph, to_proto
from graphopt.pipeline import Context, Instrument, Pass, PassManager, PassRecord
from graphopt.pipeline.instrument import Failure
from graphopt.pipeline.instruments.limit import Limit
from graphopt.pipeline.instruments.timing import Timing
from tests.pipeline.toys import Crash, DropIdentity, Nothing, Refuse, Scale, toy_graph


class Log(Instrument):
    """Writes every call into a list shared with other logs."""

    def __init__(self, name: str, calls: list[str]) -> None:
        self.name = name
        self.calls = calls

    def start(self, passes: Sequence[Pass], graph: Graph, ctx: Context) -> None:
        self.calls.append(f"{self.name} start {len(passes)}")

    def before_pass(self, pass_: Pass, index: int, graph: Graph, ctx: Context) -> None:
        self.calls.append(f"{self.name} before {index} {pass_.name}")

    def after_pass(self, pass_: Pass, record: PassRecord, graph: Graph, ctx: Context) -> None:
        self.calls.append(f"{self.name} after {record.index} {record.name}")

    def on_failure(self, pass_: Pass, index: int, graph: Graph, ctx: Context, error: Failure) -> None:
        self.calls.append(f"{self.name} failure {index} {type(error).__name__}")


def test_instruments_nest() -> None:
    calls: list[str] = []
    with pytest.raises(InternalError):
        PassManager([Nothing(), Crash()], [Log("a", calls), Log("b", calls)]).run(toy_graph(), Context())
    assert calls == [
        *("a start 2", "b start 2"),
        *("a before 1 nothing", "b before 1 nothing", "b after 1 nothing", "a after 1 nothing"),
        *("a before 2 crash", "b before 2 crash", "b failure 2 InternalError", "a failure 2 InternalError"),
    ]


def test_a_record_says_what_happened() -> None:
    ctx = Context()
    records = PassManager([Nothing(), DropIdentity(), Scale(by=2.0)]).run(toy_graph(), ctx)
    assert [(r.index, r.name, r.changed, r.nodes_before, r.nodes_after) for r in records] == [
        (1, "nothing", False, 3, 3),
        (2, "drop-identity", True, 3, 2),
        (3, "scale", True, 2, 2),
    ]
    assert [dict(r.remarks) for r in records] == [{"note": 1}, {"applied": 1}, {}]
    assert [dict(r.options) for r in records] == [{}, {}, {"by": 2.0}]
    assert {(r.bytes_before, r.bytes_after) for r in records} == {(48, 48)}
    assert all(r.seconds >= 0 for r in records)
    assert [r.pass_name for r in ctx.remarks.items] == ["nothing", "drop-identity"]


def test_the_same_pass_twice_is_two_records() -> None:
    records = PassManager([DropIdentity(), DropIdentity()]).run(toy_graph(), Context())
    assert [(r.changed, r.remarks.get("applied", 0)) for r in records] == [(True, 1), (False, 0)]


@dataclass(frozen=True)
class Prepend(Pass):
    """Adds a node in front of the others, at the end of the list."""

    name: ClassVar[str] = "prepend"
    summary: ClassVar[str] = "add a Neg before the Relu"

    def run(self, graph: Graph, ctx: Context) -> None:
        relu = graph.nodes[0]
        negative = graph.variable("negative")
        graph.add_node("Neg", [relu.inputs[0]], [negative])
        graph.set_input(relu, 0, negative)


def test_after_a_pass_nodes_are_sorted_and_shapes_known() -> None:
    graph = toy_graph()
    PassManager([Prepend()]).run(graph, Context())
    assert [n.op for n in graph.nodes] == ["Neg", "Relu", "Identity", "MatMul"]
    assert graph.nodes[0].output().shape == (2, 4)


def test_the_users_error_names_the_pass_and_keeps_what_it_said() -> None:
    ctx = Context()
    with pytest.raises(PassError, match=r"^refuse: this model has no layer to prune$"):
        PassManager([Refuse()]).run(toy_graph(), ctx)
    assert [str(r) for r in ctx.remarks.items] == ["[refuse] declined Relu 'a_Relu': not this one"]


def test_any_other_exception_is_ours() -> None:
    with pytest.raises(InternalError, match=r"^pass 'crash' failed with KeyError: 'y_MatMul'$") as caught:
        PassManager([Crash()]).run(toy_graph(), Context())
    assert isinstance(caught.value.__cause__, KeyError)


def test_an_instrument_that_fails_is_named() -> None:
    class Clumsy(Instrument):
        def after_pass(self, pass_: Pass, record: PassRecord, graph: Graph, ctx: Context) -> None:
            raise ZeroDivisionError("oops")

    with pytest.raises(InternalError, match=r"^Clumsy after pass 'nothing' failed with ZeroDivisionError: oops$"):
        PassManager([Nothing()], [Clumsy()]).run(toy_graph(), Context())


def test_a_failing_failure_hook_does_not_hide_the_error() -> None:
    calls: list[str] = []

    class Full(Instrument):
        def on_failure(self, pass_: Pass, index: int, graph: Graph, ctx: Context, error: Failure) -> None:
            raise OSError("no space left")

    with pytest.raises(InternalError, match="KeyError") as caught:
        PassManager([Crash()], [Log("a", calls), Full()]).run(toy_graph(), Context())
    assert caught.value.__notes__ == ["Full failed too: OSError: no space left"]
    assert calls[-1] == "a failure 1 InternalError"


def test_limit_runs_the_first_passes_and_says_so() -> None:
    ctx = Context()
    graph = toy_graph()
    records = PassManager([Nothing(), DropIdentity(), Crash()], [Limit(2)]).run(graph, ctx)
    assert [r.name for r in records] == ["nothing", "drop-identity"]
    assert [str(r) for r in ctx.remarks.of("crash")] == [
        "[crash] note: not run: only the first 2 passes were asked for"
    ]


def test_bisecting_with_limit_finds_the_culprit() -> None:
    """The smallest limit at which the weights differ is the place of the pass that scales them."""
    passes = [Nothing(), DropIdentity(), Nothing(), Scale(), Nothing()]

    def is_wrong(limit: int) -> bool:
        graph = toy_graph()
        PassManager(passes, [Limit(limit)]).run(graph, Context())
        return float(graph.constants[0].values[0, 0]) != 1.0

    assert [is_wrong(n) for n in range(6)] == [False, False, False, False, True, True]


def test_a_negative_limit_is_refused() -> None:
    with pytest.raises(ConfigError, match="the pass limit is -1"):
        Limit(-1)


def test_timing_has_a_row_per_pass_and_a_table() -> None:
    timing = Timing()
    PassManager([Nothing(), DropIdentity()], [timing, Log("a", [])]).run(toy_graph(), Context())
    assert [(t.index, t.name) for t in timing.times] == [(1, "nothing"), (2, "drop-identity")]
    assert all(t.seconds >= 0 and t.watching >= 0 for t in timing.times)
    lines = str(timing).splitlines()
    assert len(lines) == 4
    assert "drop-identity" in lines[1]
    assert lines[3].endswith("in all")


def test_two_runs_give_the_same_bytes_and_remarks() -> None:
    results: list[tuple[bytes, list[str]]] = []
    for _ in range(2):
        graph, ctx = toy_graph(), Context()
        PassManager([Nothing(), DropIdentity(), Prepend(), Scale()]).run(graph, ctx)
        remarks = [str(r) for r in ctx.remarks.items]
        results.append((to_proto(graph).SerializeToString(deterministic=True), remarks))
    assert results[0] == results[1]
