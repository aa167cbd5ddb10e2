"""Hold every pass that says it is lossless to that: run the model before and after it in onnxruntime and compare.

onnxruntime's own optimizer is off, so that what runs is the graph as it stands. The inputs are the first calibration
samples, or seeded noise when there are none.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from typing import Any

from graphopt.backends.onnxruntime import open_session
from graphopt.calibration import Feed, input_specs
from graphopt.calibration.session import run_session
from graphopt.errors import CalibrationError, GraphoptError, InternalError, UnsupportedError
from graphopt.ir import Graph, to_proto
from graphopt.pipeline.instrument import Instrument, PassRecord
from graphopt.pipeline.instruments.comparison import QUANTIZED, difference
from graphopt.pipeline.instruments.feeds import random_feeds
from graphopt.pipeline.passes import Context, Pass

Outputs = list[list[Any]]
"""Per feed, the outputs in the model's order."""


class Numerics(Instrument):
    """Compares outputs around every lossless pass that changed something.

    A model that onnxruntime can't run, or that gives different outputs each time, isn't checked; a remark says so.
    `samples`: how many calibration samples to run; `seed`: of the noise used instead. `checked`: numbers of the passes
    whose outputs were found to be those before.
    """

    def __init__(self, *, samples: int = 2, seed: int = 0) -> None:
        self.samples = samples
        self.seed = seed
        self.checked: set[int] = set()
        self._feeds: list[Feed] = []
        self._reference: Outputs | None = None
        self._revision = -1
        self._off = False

    def start(self, passes: Sequence[Pass], graph: Graph, ctx: Context) -> None:
        """Choose the inputs, or find that this model can't be checked."""
        self._reference, self._off = None, False
        self.checked = set()
        try:
            self._feeds, self._reference = self._first_run(graph, ctx)
            self._revision = graph.revision
        except (UnsupportedError, CalibrationError) as error:
            self._off = True
            ctx.remarks.note(None, f"numerics are not checked: {error}")

    def before_pass(self, pass_: Pass, index: int, graph: Graph, ctx: Context) -> None:
        """Make sure that the outputs before a lossless pass are known."""
        if self._off or not pass_.lossless or graph.revision == self._revision:
            return
        try:
            self._reference = _run(graph, self._feeds, ctx)
            self._revision = graph.revision
        except GraphoptError as error:
            self._off = True
            ctx.remarks.note(None, f"numerics are not checked from here on: {error}")

    def after_pass(self, pass_: Pass, record: PassRecord, graph: Graph, ctx: Context) -> None:
        """Compare.

        Raises:
            InternalError: an output moved, or onnxruntime can't run the model any more.
        """
        if self._off or not pass_.lossless or not record.changed or self._reference is None:
            return
        try:
            outputs = _run(graph, self._feeds, ctx)
        except GraphoptError as error:
            raise InternalError(f"the model doesn't run any more: {error}") from error
        names = [tensor.name for tensor in graph.outputs]
        quantized = any(node.is_op("QuantizeLinear") for scope in graph.walk() for node in scope.nodes)
        for before, after in zip(self._reference, outputs, strict=True):
            for name, old, new in zip(names, before, after, strict=True):
                found = difference(old, new, QUANTIZED if quantized else 0.0)
                if found:
                    raise InternalError(f"it says it is lossless, but output '{name}' {found}")
        self._reference, self._revision = outputs, graph.revision
        self.checked.add(record.index)

    def _first_run(self, graph: Graph, ctx: Context) -> tuple[list[Feed], Outputs]:
        attempts: Iterable[list[Feed]]
        if ctx.calibration is not None:
            attempts = [list(itertools.islice(ctx.calibration, self.samples))]
        else:
            attempts = random_feeds(input_specs(to_proto(graph)), self.seed)
        reason = CalibrationError("there is nothing to run it on")
        for feeds in attempts:
            try:
                # Twice in the same session, because a new one begins its random numbers anew.
                outputs = _run(graph, [*feeds, *feeds], ctx)
            except CalibrationError as error:
                reason = error
                continue
            once, again = outputs[: len(feeds)], outputs[len(feeds) :]
            if any(difference(a, b) for x, y in zip(once, again, strict=True) for a, b in zip(x, y, strict=True)):
                raise UnsupportedError("its outputs differ from run to run")
            return feeds, once
        raise reason


def _run(graph: Graph, feeds: Sequence[Feed], ctx: Context) -> Outputs:
    session = open_session(to_proto(graph), threads=ctx.threads, optimize=False)
    return [run_session(session, feed, f"sample {number}") for number, feed in enumerate(feeds)]
