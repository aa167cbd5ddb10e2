"""The HTML report of `optimize`: what has to be kept while it works, and what is measured for the page alone.

Nothing of it changes the compiled model. What can't be measured, because an engine isn't installed or refuses the
model, is a note on the page: it never costs the user the result, which is saved before the report is made.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from graphopt.analysis.macs import layer_macs
from graphopt.api.emitting import check_output
from graphopt.api.replanning import Compiled, Watch
from graphopt.api.stopwatch import Stopwatch
from graphopt.api.verifying import check_precision, first_shapes
from graphopt.backends.engines import find_engine
from graphopt.backends.latency import Latency
from graphopt.backends.layer_errors import ErrorReport
from graphopt.calibration import Dataset
from graphopt.calibration.shapes import infer
from graphopt.errors import ConfigError, one_line
from graphopt.ir import Graph, load, to_proto
from graphopt.pipeline import Context, Instrument
from graphopt.pipeline.instruments import History, Numerics
from graphopt.pipeline.passes import Progress
from graphopt.report.coupling import CouplingReport, report_coupling
from graphopt.report.html.gather import payload_of
from graphopt.report.html.gathered import Gathered
from graphopt.report.html.page import save_report
from graphopt.report.html.payload import Payload
from graphopt.report.measure import runnable
from graphopt.report.summary import Report
from graphopt.report.verification import Verification
from graphopt.targets import Target

SUFFIXES = (".html", ".htm")
# Enough to see where errors are; `layers` measures on more.
_ERROR_SAMPLES = 8
TIMING_SECONDS = 1.5
"""For the latency that is measured where nobody asked for it."""
# Beyond this, finding the groups of channels takes longer than a page that nobody asked for them should.
_MOST_NODES = 3000
_Found = TypeVar("_Found")


def check_report(path: str | Path | None, inputs: Sequence[object]) -> None:
    """Refuse a place for the report before the work begins.

    Raises:
        ConfigError: the name doesn't end in .html, or is one of the `inputs`, or of the files that are written.
        EmitError: it can't be written.
    """
    if path is None:
        return
    if Path(path).suffix.lower() not in SUFFIXES:
        raise ConfigError(f"{path}: the report is written as HTML; give a name that ends in .html")
    check_output(path, inputs)


class Reporting:
    """Keeps, while `optimize` works, what the report shows of it.

    Attributes:
        path: the file to write.
        history: an instrument for the first run.
    """

    def __init__(self, path: Path, watch: Watch, instruments: Sequence[Instrument], progress: Progress | None) -> None:
        self.path, self.watch, self.progress = path, watch, progress
        self.history = History()
        self._numerics = next((i for i in instruments if isinstance(i, Numerics)), None)
        self._notes: list[str] = []

    def save(
        self,
        report: Report,
        compiled: Compiled,
        ctx: Context,
        *,
        model: object,
        base_dir: str | Path | None,
        samples: Dataset | None,
        target: Target | None,
        device: str | None,
    ) -> None:
        """Measure what is missing, and write the report.

        Args:
            report: what `optimize` says.
            compiled: the result.
            ctx: of the run.
            model: as it was given.
            base_dir: of its external data.
            samples: that models are compared on.
            target: what the result is for.
            device: what to build for, where the engine has a choice.

        Raises:
            EmitError: the file can't be written.
        """
        save_report(self.path, self.payload(report, compiled, ctx, model, base_dir, samples, target, device))

    def payload(
        self,
        report: Report,
        compiled: Compiled,
        ctx: Context,
        model: object,
        base_dir: str | Path | None,
        samples: Dataset | None,
        target: Target | None,
        device: str | None,
    ) -> Payload:
        """What the report shows; arguments as of `save`."""
        assert compiled.history is not None
        graph = compiled.graph
        verification = report.verification
        if verification is None and target is not None and report.layers:
            verification = self._try(
                "what the engine makes of the result", lambda: engine_precision(graph, target, samples, device)
            )
        found = Gathered(
            report=report,
            graph=graph,
            history=compiled.history,
            title="" if target is None else target.title,
            macs=self._try("multiply-accumulates", lambda: macs_of(graph, samples)) or {},
            statistics=ctx.statistics,
            precision=compiled.precision,
            verification=verification,
            latency=self._latency(report, graph, ctx, model, base_dir, samples, target),
            errors=report.errors or self._errors(graph, samples, ctx.threads),
            coupling=None if report.elimination is not None else self._coupling(graph),
            checked=self._checked(compiled.history),
            notes=tuple(self._notes),
        )
        return payload_of(found)

    def _latency(
        self,
        report: Report,
        graph: Graph,
        ctx: Context,
        model: object,
        base_dir: str | Path | None,
        samples: Dataset | None,
        target: Target | None,
    ) -> Latency | None:
        """Float against result: as it was measured already, or measured now."""
        if report.verification is not None and report.verification.latency is not None:
            return report.verification.latency
        if report.mixed is not None and report.mixed.shipped.latency is not None:
            return report.mixed.shipped.latency

        def measure() -> Latency:
            if target is None or samples is None:
                raise ConfigError("no target is given" if target is None else "there are no samples")
            engine = find_engine(target)
            if engine.run is None:
                raise ConfigError(f"{engine.title} doesn't run on this machine")
            engine.require()
            feed = next(iter(samples))
            reference = runnable(model, base_dir)
            watch = Stopwatch(engine, reference, feed, threads=ctx.threads, budget=TIMING_SECONDS)
            return watch.time(to_proto(graph))

        return self._try("latency", measure)

    def _errors(self, graph: Graph, samples: Dataset | None, threads: int | None) -> ErrorReport | None:
        if self.watch.planning is None or not graph.plan.quantized_nodes:
            return None
        if samples is None:
            self._notes.append("errors of layers: not available: there are no samples")
            return None
        return self._try("errors of layers", lambda: self.watch.errors(graph, samples.limited(_ERROR_SAMPLES), threads))

    def _coupling(self, graph: Graph) -> CouplingReport | None:
        simple = graph if self.watch.simplified is None else self.watch.simplified.restore()
        if sum(len(scope.nodes) for scope in simple.walk()) > _MOST_NODES:
            return None
        return self._try("coupled channels", lambda: report_coupling(simple, ""))

    def _checked(self, history: History) -> frozenset[int]:
        """Numbers of the passes that Numerics has checked: those of the first run that are part of the result's."""
        if self._numerics is None:
            return frozenset()
        first = {id(step) for step in self.history.steps if step.record.index in self._numerics.checked}
        return frozenset(step.record.index for step in history.steps if id(step) in first)

    def _try(self, what: str, measure: Callable[[], _Found]) -> _Found | None:
        """What `measure` finds; None where it can't, and a note that says why."""
        if self.progress is not None:
            self.progress(f"reporting {what}", 0, None)
        try:
            return measure()
        except Exception as error:  # whatever an engine's own library raises: the model is compiled, and saved
            self._notes.append(f"{what}: not available: {one_line(error)}")
            return None


def engine_precision(graph: Graph, target: Target, samples: Dataset | None, device: str | None) -> Verification:
    """What the target's engine makes of the compiled `graph`, node by node.

    Raises:
        GraphoptError: the engine isn't installed, or can't load the result.
    """
    engine = find_engine(target)
    engine.require()
    compiled = to_proto(graph)
    # Read anew: the graph as other tools see it, with the types of what was inserted.
    again = load(compiled, min_opset=1)
    return check_precision(again, compiled, target, "the result", device=device, shapes=first_shapes(samples))


def macs_of(graph: Graph, samples: Dataset | None) -> dict[str, int | None]:
    """Linear layer → its multiply-accumulates for one sample."""
    found = layer_macs(graph)
    if samples is None or None not in found.values():
        return found
    return layer_macs(graph, infer(to_proto(graph), first_shapes(samples)).shapes)
