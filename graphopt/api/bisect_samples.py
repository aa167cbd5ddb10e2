"""The samples of a reproducer: which ones, and what a model makes of tensors inside it on them."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import onnx
from numpy.typing import NDArray

from graphopt.api.metrics import lowest_sqnr
from graphopt.backends.agreement import Comparison, Reference
from graphopt.calibration import Dataset
from graphopt.calibration.session import open_session, run_session
from graphopt.ir import to_proto
from graphopt.pipeline.instruments import Moment

Feeds: TypeAlias = list[dict[str, NDArray[Any]]]

_MOST_BYTES = 2**28
_SEARCHED = 32  # for the one that loses most


def worst_sample(good: Moment, bad: Moment, samples: Dataset, threads: int | None) -> Feeds:
    """The sample on which the outputs of two moments differ most, among the first ones."""
    before, after = (to_proto(moment.snapshot.restore()) for moment in (good, bad))
    feeds = [dict(feed) for feed in itertools.islice(samples, _SEARCHED)]
    reference, changed = Reference(before, samples, threads=threads), open_session(after)

    def loss(feed: dict[str, NDArray[Any]]) -> float:
        comparison = Comparison(reference.names, samples.name)
        sides = (run_session(s, feed, comparison.where, reference.names) for s in (reference.session, changed))
        comparison.add(*sides)
        return lowest_sqnr(comparison.result())

    return [min(feeds, key=loss)] if len(feeds) > 1 else feeds


def first_samples(samples: Dataset | None, most: int | None) -> Feeds:
    """The first ones, or None: all, up to what fits; none where there are none."""
    found: Feeds = []
    room = _MOST_BYTES
    for feed in itertools.islice(samples or (), most):
        room -= sum(values.nbytes for values in feed.values())
        if room < 0:
            break
        found.append(dict(feed))
    return found


def recorded(
    whole: onnx.ModelProto, types: Mapping[str, onnx.ValueInfoProto], names: Sequence[str], feeds: Feeds
) -> Feeds:
    """What the model makes of tensors on each sample."""
    if not feeds:
        return []
    model = onnx.ModelProto()
    model.CopyFrom(whole)
    outputs = {info.name for info in model.graph.output}
    inputs = {info.name for info in model.graph.input}
    model.graph.output.extend(types[name] for name in names if name not in outputs | inputs)
    session = open_session(model)
    inside = [name for name in names if name not in inputs]
    recorded: Feeds = []
    for feed in feeds:
        values = run_session(session, feed, "recording", inside) if inside else []
        recorded.append({**{n: feed[n] for n in names if n in inputs}, **dict(zip(inside, values, strict=True))})
    return recorded
