"""Sensitivity, grade "output": what each source does to the model's outputs, with only what lies behind it run again.

    x → A → B → C → y        float, once          W of B in int8:   what B′ makes of the float model's values → C → y′

`precision_segments` cuts the model so that a few sessions serve for all sources. What crosses the cuts is held for as
many samples as the budget allows; for more the sessions are opened again.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from typing import Any

from numpy.typing import NDArray
from onnxruntime import InferenceSession

from graphopt.backends.layer_gains import float_ends
from graphopt.backends.precision_local import in_parts
from graphopt.backends.precision_metrics import Measure, OutputMetric, measure
from graphopt.calibration import Dataset, Feed
from graphopt.calibration.budget import default_budget
from graphopt.calibration.lanes import in_lanes, lanes_of
from graphopt.calibration.precision_copies import open_copies
from graphopt.calibration.precision_pieces import Piece, piece
from graphopt.calibration.precision_powers import require_finite
from graphopt.calibration.precision_segments import Segment, segments
from graphopt.calibration.precision_sources import Identity, Source
from graphopt.calibration.session import run_session
from graphopt.calibration.shapes import Inferred, infer
from graphopt.calibration.weights import Detached, detached
from graphopt.errors import ConfigError
from graphopt.ir import Constant, Graph


def measure_output(
    graph: Graph,
    sources: Iterable[Source],
    samples: Dataset,
    *,
    metric: OutputMetric | None = None,
    threads: int | None = None,
    memory_budget: int | None = None,
) -> tuple[dict[Identity, float], int]:
    """What each source loses at the model's outputs; and how many samples were run.

    Args:
        graph: the float model, sorted, types filled in.
        sources: of the graph; measured in several passes over the samples where their weights don't fit in the budget.
        samples: iterated once a pass.
        metric: see `precision_metrics`; None: relative power of noise.
        threads: of onnxruntime; None lets it take the cores.
        memory_budget: bytes for rounded weights and for what is held of the samples; None means a quarter of the
            memory that is available.

    Raises:
        CalibrationError: a sample fails, or holds NaN or infinity.
        ConfigError: nothing that the model gives comes from floating point values.
        UnsupportedError: onnxruntime can't load the model, or a part of it by itself.
    """
    floats = [tensor.name for tensor in float_ends(graph)]
    if not floats:
        raise ConfigError("no output of the model comes from floating point values: there is nothing to compare")
    others = [t.name for t in graph.outputs if not isinstance(t, Constant)] if callable(metric) else []
    budget = default_budget() if memory_budget is None else memory_budget
    model = detached(graph)
    inferred = infer(model.model, {name: value.shape for name, value in next(iter(samples)).items()})
    found: dict[Identity, float] = {}
    count = 0
    for part in in_parts(sources, inferred, budget // 2):
        measures = {source.identity: measure(metric, floats) for source in part}
        run = _Run(model, inferred, part, tuple(dict.fromkeys([*floats, *others])), threads, budget // 2)
        count = run.over(samples, measures)
        found |= {identity: each.error() for identity, each in measures.items()}
    return found, count


@dataclass(frozen=True)
class _Held:
    """A sample: where it is from, and the float model's values of what is fed or compared."""

    where: str
    values: Mapping[str, NDArray[Any]]


class _Run:
    """Some of the sources, measured together."""

    def __init__(
        self,
        model: Detached,
        inferred: Inferred,
        sources: Sequence[Source],
        wanted: tuple[str, ...],
        threads: int | None,
        budget: int,
    ) -> None:
        self._wanted = wanted
        self._lanes, self._threads = lanes_of(threads)
        self._segments = segments(model, inferred, sources, wanted, max(1, budget // (2 * self._lanes)))
        needed = dict.fromkeys(chain(wanted, *(segment.needs for segment in self._segments)))
        self._needed = list(needed)
        inputs = {value.name for value in model.model.graph.input}
        self._float = piece(model, [name for name in needed if name not in inputs])
        self._together = max(1, budget // 2 // max(1, sum(inferred.sizes(self._needed).values())))

    def over(self, samples: Dataset, measures: Mapping[Identity, Measure]) -> int:
        """Run all samples; how many there were."""
        feeds = ((f"{samples.name}, sample {number}", feed) for number, feed in enumerate(samples))
        count = 0
        while part := list(islice(feeds, self._together)):
            count += len(part)
            held = self._exact(part)
            for segment in self._segments:
                for sample, changed in zip(held, self._through(segment, held), strict=True):
                    exact = {name: sample.values[name] for name in self._wanted}
                    for source, outputs in zip(segment.sources, changed, strict=True):
                        measures[source.identity].add(exact, outputs)
        return count

    def _exact(self, part: Sequence[tuple[str, Feed]]) -> list[_Held]:
        """The float model's values of what is needed."""
        session = self._open(self._float, {name: [feed[name] for _, feed in part] for name in self._float.inputs})

        def run(sample: tuple[str, Feed]) -> _Held:
            where, feed = sample
            require_finite(feed, where)
            values = run_session(session, {n: feed[n] for n in self._float.inputs}, where, self._float.outputs)
            return _Held(where, {**feed, **dict(zip(self._float.outputs, values, strict=True))})

        return list(in_lanes(run, part, self._lanes))

    def _through(self, segment: Segment, held: Sequence[_Held]) -> Iterator[list[dict[str, NDArray[Any]]]]:
        """For each sample, and each source of the segment, the outputs that it may change."""
        probe, tail = segment.probe, segment.tail
        if not probe.outputs:
            nothing: list[dict[str, NDArray[Any]]] = [{} for _ in segment.sources]
            return iter([nothing for _ in held])
        values = {name: [sample.values[name] for sample in held] for name in segment.needs}
        probe_session = self._open(probe, values)
        tail_session = None if tail is None else self._open(tail, values)

        def run(sample: _Held) -> list[dict[str, NDArray[Any]]]:
            feed = {name: sample.values[name] for name in probe.inputs}
            crossed = run_session(probe_session, feed, sample.where, probe.outputs)
            found: list[dict[str, NDArray[Any]]] = []
            for names in segment.crossing:
                changed = {name: crossed[index] for name, index in names.items()}
                outputs = {name: changed[name] for name in self._wanted if name in changed}
                if tail is not None and tail_session is not None and changed:
                    feed = {name: changed.get(name, sample.values[name]) for name in tail.inputs}
                    results = run_session(tail_session, feed, sample.where, tail.outputs)
                    outputs |= dict(zip(tail.outputs, results, strict=True))
                found.append(outputs)
            return found

        return in_lanes(run, held, self._lanes)

    def _open(self, piece: Piece, values: Mapping[str, Sequence[NDArray[Any]]]) -> InferenceSession:
        return open_copies(piece.fed_like(values), threads=self._threads)
