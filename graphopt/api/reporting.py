"""The HTML report of `optimize`: what has to be kept while it works, and what is measured for the page alone.

Nothing of it changes the compiled model. What can't be measured, because an engine isn't installed or refuses the
model, is a note on the page: it never costs the user the result, which is saved before the report is made.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
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


@dataclass(frozen=True)
class Run:
    """A run of `optimize` at its end.

    Attributes:
        report: what it says of itself.
        compiled: the result.
        ctx: of the first run.
        model: as it was given.
        base_dir: of its external data.
        samples: that models are compared on.
        target: what the result is for.
        device: what to build for, where the engine has a choice.
    """

    report: Report
    compiled: Compiled
    ctx: Context
    model: object
    base_dir: str | Path | None
    samples: Dataset | None
    target: Target | None
    device: str | None


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

    def save(self, run: Run) -> None:
        """Measure what is missing, and write the report.

        Raises:
            EmitError: the file can't be written.
        """
        save_report(self.path, payload_of(self.gather(run)))

    def gather(self, run: Run) -> Gathered:
        """Everything that the report shows."""
        assert run.compiled.history is not None
        report, graph, target = run.report, run.compiled.graph, run.target
        verification = report.verification
        if verification is None and target is not None and report.layers:
            verification = self._try(
                "what the engine makes of the result",
                lambda: engine_precision(graph, target, run.samples, run.device),
            )
        return Gathered(
            report=report,
            graph=graph,
            history=run.compiled.history,
            title="" if target is None else target.title,
            macs=self._try("multiply-accumulates", lambda: macs_of(graph, run.samples)) or {},
            statistics=run.ctx.statistics,
            precision=run.compiled.precision,
            verification=verification,
            latency=known_latency(report) or self._try("latency", lambda: measure_latency(run)),
            errors=report.errors or self._errors(graph, run.samples, run.ctx.threads),
            coupling=None if report.elimination is not None else self._coupling(graph),
            checked=self._checked(run.compiled.history),
            notes=tuple(self._notes),
        )

    def _errors(self, graph: Graph, samples: Dataset | None, threads: int | None) -> ErrorReport | None:
        if self.watch.planning is None or not graph.plan.quantized_nodes:
            return None

        def measure() -> ErrorReport | None:
            if samples is None:
                raise ConfigError("there are no samples")
            return self.watch.errors(graph, samples.limited(_ERROR_SAMPLES), threads)

        return self._try("errors of layers", measure)

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


def known_latency(report: Report) -> Latency | None:
    """Float against result, where that was measured already."""
    if report.verification is not None and report.verification.latency is not None:
        return report.verification.latency
    return None if report.mixed is None else report.mixed.shipped.latency


def measure_latency(run: Run) -> Latency:
    """Float against result, in the target's engine.

    Raises:
        GraphoptError: there is nothing to measure it in or on.
    """
    if run.target is None or run.samples is None:
        raise ConfigError("no target is given" if run.target is None else "there are no samples")
    engine = find_engine(run.target)
    if engine.run is None:
        raise ConfigError(f"{engine.title} doesn't run on this machine")
    engine.require()
    reference, feed = runnable(run.model, run.base_dir), next(iter(run.samples))
    watch = Stopwatch(engine, reference, feed, threads=run.ctx.threads, budget=TIMING_SECONDS)
    return watch.time(to_proto(run.compiled.graph))


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
