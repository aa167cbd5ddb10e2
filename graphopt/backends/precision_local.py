"""Sensitivity, grade "local": what each source loses where it is, in one pass, and how far it carries.

    x → Conv → Relu → y                        Σ y²
     ↘ Conv′ → Relu′ → y′    W in int8         Σ (y′ − y)²         error = Σ (y′ − y)² / Σ y² · gain(y)

Beside the float model runs a copy of each region for each precision, from the float model's inputs; sums of squares are
taken in the model. How much of a relative error reaches the outputs (`precision_gains`) is seen on some of the samples,
with all sources at once.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from graphopt.analysis.precision.types import Regions
from graphopt.backends.layer_gains import float_ends, joined
from graphopt.backends.precision_gains import AllSources, measured_gains
from graphopt.calibration import Dataset, Feed
from graphopt.calibration.budget import default_budget
from graphopt.calibration.lanes import lanes_of
from graphopt.calibration.precision_copies import Copies
from graphopt.calibration.precision_powers import Powers, run_in_turns
from graphopt.calibration.precision_sources import Identity, Source
from graphopt.calibration.shapes import Inferred, infer
from graphopt.calibration.weights import Detached, detached
from graphopt.ir import Graph

# Tensors of the size of a source's result that are alive beside the float model's: the copy, its rounding in two steps,
# the difference.
_ALIVE = 4
_REDUCIBLE = (np.dtype(np.float32), np.dtype(np.float64))
# As many samples as a source's loss is well known from: of more each source sees its share. The copies of all sources
# take three to five times as long as a small network itself, whose operators are over sooner than a sum of squares.
_ENOUGH, _MOST_TURNS = 8, 8
# At least so many samples, and an eighth of them, show how errors add up; as many as are over in a moment, because few
# of them make most of what is lost behind a Softmax.
_ADDED_UP, _SMALL = 8, 1 << 23


def measure_local(
    graph: Graph,
    regions: Regions,
    sources: Iterable[Source],
    samples: Dataset,
    *,
    threads: int | None = None,
    memory_budget: int | None = None,
) -> tuple[dict[Identity, float], int]:
    """What each source loses at the outputs, to first order; and how many samples were run.

    Args:
        graph: the float model, sorted, types filled in.
        regions: of the graph.
        sources: of the graph; those whose copies don't fit in the budget together are measured in several passes.
        samples: iterated once a pass, and once more for the gains. Of more than 15 each source sees a share, in turns.
        threads: of onnxruntime; None lets it take the cores.
        memory_budget: bytes for the copies; None means a quarter of the memory that is available. One copy of the
            rounded weights is held besides.

    Returns:
        Relative power of noise, ≥ 0; infinite where only the rounded values overflow.

    Raises:
        CalibrationError: a sample fails, or values that are compared aren't finite.
        UnsupportedError: onnxruntime can't load the model.
    """
    model = detached(graph)
    shapes = {name: value.shape for name, value in next(iter(samples)).items()}
    budget = default_budget() if memory_budget is None else memory_budget
    known = graph.tensors()
    extra = [name for name in joined(graph) if known[name].dtype in _REDUCIBLE]
    turns = _turns(samples.count, model, budget)
    lanes, threads = lanes_of(threads)
    powers: dict[str, float] = {}
    relative: dict[Identity, float] = {}
    places: dict[Identity, str] = {}
    everything = AllSources()
    count = 0
    inferred = infer(model.model, shapes)
    for part in in_parts(sources, inferred, budget):
        shares = [share for number in range(turns) if (share := part[number::turns])]
        runs = [_comparison(model, share, [] if powers or k else extra, threads) for k, share in enumerate(shares)]
        run_in_turns(runs, _numbered(samples, 1), lanes)
        powers = powers or runs[0].signals
        for share, run in zip(shares, runs, strict=True):
            relative |= zip((source.identity for source in share), run.relative(), strict=True)
        places |= {source.identity: source.measured for source in part}
        everything.add(part)
        count = sum(run.samples for run in runs)
    if not relative:
        return {}, count
    ends = [tensor.name for tensor in float_ends(graph)]
    at = [n for n in dict.fromkeys([*(r.result for r in regions.regions), *ends]) if known[n].dtype in _REDUCIBLE]
    values = (
        sum(inferred.sizes([name for node in model.model.graph.node for name in node.output if name]).values()) // 4
    )
    stride = count // max(_ADDED_UP, count // 8, min(count, _SMALL // max(1, values)))
    accumulated = _accumulated(model, everything.together(), at, _numbered(samples, stride), lanes, threads)
    own, rounding = everything.losses(relative)
    gain = measured_gains(graph, powers, accumulated, own, rounding)
    # Not inf · 0: what reaches no output is no loss.
    return {who: loss * gain[places[who]] if gain.get(places[who]) else 0.0 for who, loss in relative.items()}, count


def in_parts(sources: Iterable[Source], inferred: Inferred, budget: int) -> Iterator[list[Source]]:
    """The sources, in their order, in as few parts as fit; one that is too large by itself stands alone."""
    part: list[Source] = []
    held = 0
    for source in sources:
        size = source.nbytes + _ALIVE * inferred.sizes([source.measured])[source.measured]
        if part and held + size > budget:
            yield part
            part, held = [], 0
        part.append(source)
        held += size
    if part:
        yield part


def _turns(count: int | None, model: Detached, budget: int) -> int:
    """Sessions that samples go through in turns, each with its share of the sources, none of which sees few samples."""
    weights = sum(values.nbytes for values in model.weights.values())
    return max(1, min(_MOST_TURNS, (count or 0) // _ENOUGH, budget // (4 * max(weights, 1))))


def _comparison(model: Detached, sources: Sequence[Source], extra: Iterable[str], threads: int) -> Powers:
    """Each source compared where it is."""
    nodes = {node.name: node for node in model.model.graph.node}
    copies = Copies(model)
    pairs = [(copies.measured([nodes[name] for name in s.nodes], s), s.measured) for s in sources]
    return Powers(copies, pairs, extra, threads=threads)


def _accumulated(
    model: Detached,
    together: Source,
    at: Iterable[str],
    numbered: Iterable[tuple[str, Feed]],
    lanes: int,
    threads: int,
) -> dict[str, float]:
    """What all sources together lose at some tensors, relative."""
    copies = Copies(model)
    names = copies.copy(list(model.model.graph.node), together)
    compared = [name for name in at if name in names]
    run = Powers(copies, [(names[name], name) for name in compared], threads=threads)
    run_in_turns([run], numbered, lanes)
    return dict(zip(compared, run.relative(), strict=True))


def _numbered(samples: Dataset, stride: int) -> Iterator[tuple[str, Feed]]:
    """Every so manieth sample, with where it is from."""
    for number, feed in enumerate(samples):
        if number % max(1, stride) == 0:
            yield f"{samples.name}, sample {number}", feed
