"""What watches a run without taking part in it: the hooks, and the record of one pass.

Hooks nest, as in MLIR: `before_pass` is called in the order of the list, `after_pass` and `on_failure` in the
reverse order. So the first instrument encloses all others, and the last one sees the graph closest to the pass.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from graphopt.errors import GraphoptError, InternalError
from graphopt.ir import Graph
from graphopt.pipeline.passes import Context, Pass

Failure: TypeAlias = GraphoptError | InternalError
"""All that comes out of a pass; the manager makes an InternalError of anything else."""


@dataclass(frozen=True)
class PassRecord:
    """What one pass did.

    Attributes:
        index: its place in the pipeline, from 1.
        name: the pass's name.
        options: option → value, all of them, defaults included.
        seconds: wall time of the pass, of sorting the graph after it and of finding the new shapes.
        changed: whether the graph's revision moved.
        nodes_before, nodes_after: number of nodes, nested graphs included.
        bytes_before, bytes_after: unpacked size of all initializers.
        remarks: number of remarks of each kind ("applied", "declined", "note").
    """

    index: int
    name: str
    options: Mapping[str, Any]
    seconds: float
    changed: bool
    nodes_before: int
    nodes_after: int
    bytes_before: int
    bytes_after: int
    remarks: Mapping[str, int]


class Instrument:
    """Base class of instruments: every hook does nothing. An instrument never changes the graph.

    One instrument watches one run at a time; `start` begins a new one. A hook may raise: `InternalError` when the
    pass is wrong, a `GraphoptError` when the user's side is (a folder that can't be written).
    """

    def start(self, passes: Sequence[Pass], graph: Graph, ctx: Context) -> None:
        """The run is about to begin with this graph."""

    def should_run(self, pass_: Pass, index: int) -> bool:
        """Whether pass number `index` (from 1) shall run; one False is enough to leave it out."""
        return True

    def before_pass(self, pass_: Pass, index: int, graph: Graph, ctx: Context) -> None:
        """`pass_` is about to run on `graph`."""

    def after_pass(self, pass_: Pass, record: PassRecord, graph: Graph, ctx: Context) -> None:
        """`pass_` ran; `graph` is sorted."""

    def finish(self, graph: Graph, ctx: Context) -> None:
        """All passes have run."""

    def on_failure(self, pass_: Pass, index: int, graph: Graph, ctx: Context, error: Failure) -> None:
        """`pass_` raised `error`, or an instrument did around it. `graph` may be broken."""
