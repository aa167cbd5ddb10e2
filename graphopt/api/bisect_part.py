"""The smallest part of a model on which a pass shows what it loses.

The part is the guilty nodes at first. As long as the pass doesn't show on it what the same change does to the same
tensors in the whole model, it grows to the nodes around it, by twice as many steps each time.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass

import onnx

from graphopt.api.bisect_nodes import Isolated
from graphopt.api.bisect_samples import Feeds, first_samples, recorded, worst_sample
from graphopt.api.bisect_search import Fall
from graphopt.api.metrics import SQNR, Demand, Judge
from graphopt.api.rounding import rounding_demand
from graphopt.calibration import Dataset
from graphopt.errors import GraphoptError, InternalError
from graphopt.ir import Graph, load, to_proto
from graphopt.ir.extract import Border, border_of, extract, known_types
from graphopt.ir.reads import reads
from graphopt.pipeline import Context, PassManager
from graphopt.pipeline.instruments import Moment, Verify
from graphopt.pipeline.passes import Pass

_SAMPLES = 8  # to calibrate with; all of them, where the model is whole and these don't show it
# The pass alone must come this close to what its change does in the whole model: half as much noise is another loss.
_CLOSE_DB = 3.0


@dataclass(frozen=True)
class Scene:
    """What a reproducer is made from.

    Attributes:
        fall: what it is to show.
        isolated: what is to blame; None where the pass can't be divided.
        begin: the model in front of the passes.
        passes: the guilty one, and those since the plan was begun where there was one.
        ctx: of the run.
        samples: of the search.
    """

    fall: Fall
    isolated: Isolated | None
    begin: Moment
    passes: tuple[Pass, ...]
    ctx: Context
    samples: Dataset


@dataclass(frozen=True)
class Part:
    """A part of the model that shows the fall.

    Attributes:
        model: it.
        inputs: what it reads on the sample that loses most.
        calibration: what it reads on samples to calibrate with.
        sqnr_db: of its worst output behind the pass.
    """

    model: onnx.ModelProto
    inputs: Feeds
    calibration: Feeds
    sqnr_db: float


def find_part(scene: Scene, whole: onnx.ModelProto) -> Part | None:
    """The smallest part of `whole`, the model in front of the passes, that shows the fall; None where nothing does."""
    types = known_types(whole)
    worst = worst_sample(scene.fall.good, scene.fall.bad, scene.samples, scene.ctx.threads)
    few, everything = first_samples(scene.ctx.calibration, _SAMPLES), {node.name for node in whole.graph.node}
    ruined = None if scene.isolated is None else scene.isolated.only()
    hybrid = None if ruined is None else to_proto(ruined)
    attempts = [(nodes, True) for nodes in _growing(whole, _guilty(scene.isolated, whole))]
    if scene.ctx.calibration is not None:  # a pass may choose something else by a few samples
        attempts.append((everything, False))
    for nodes, by_few in attempts:
        samples = few if by_few else first_samples(scene.ctx.calibration, None)
        try:
            part = _part(scene, whole, types, border_of(whole, nodes), worst, samples, hybrid)
        except (GraphoptError, InternalError):  # it can't be cut there: no tensor, or a pass that fails on the part
            continue
        if part is not None:
            return part
    return None


def _part(
    scene: Scene,
    whole: onnx.ModelProto,
    types: Mapping[str, onnx.ValueInfoProto],
    border: Border,
    worst: Feeds,
    samples: Feeds,
    hybrid: onnx.ModelProto | None,
) -> Part | None:
    """The part within a border, if the passes show the fall on it."""
    model = extract(whole, border, types)
    if model is None or not model.graph.output:
        return None
    names = [info.name for info in model.graph.input]
    inputs, calibration = (recorded(whole, types, names, feeds) for feeds in (worst, samples))
    data = _dataset(inputs)
    judge = Judge(Demand(SQNR, 0.0), model, data, scene.ctx.threads)
    changed = None if hybrid is None else extract(hybrid, border, {**known_types(hybrid), **types})
    expected = math.inf if changed is None else judge.score(changed)
    found = judge.score(to_proto(_compiled(scene, model, calibration)))
    least = expected + _CLOSE_DB if math.isfinite(expected) else _rounding(scene, model, data)
    return Part(model, inputs, calibration, found) if found <= least else None


def _compiled(scene: Scene, model: onnx.ModelProto, calibration: Feeds) -> Graph:
    """What the passes make of a part."""
    graph = load(model)
    ctx = Context(
        target=scene.ctx.target,
        calibration=_dataset(calibration) if calibration else None,
        threads=scene.ctx.threads,
        ranges=scene.ctx.ranges,
    )
    PassManager(scene.passes, [Verify()]).run(graph, ctx)
    return graph


def _dataset(feeds: Feeds) -> Dataset:
    return Dataset(lambda: iter(feeds), name="the recorded inputs", count=len(feeds))


def _rounding(scene: Scene, model: onnx.ModelProto, samples: Dataset) -> float:
    return rounding_demand(load(model), samples, scene.ctx.threads).limit


def least_db(scene: Scene, part: Part) -> float:
    """The SQNR that tells whether the loss shows."""
    rounding = _rounding(scene, part.model, _dataset(part.inputs))
    lossless = scene.fall.bad.pass_ is not None and scene.fall.bad.pass_.lossless
    return rounding if lossless and rounding > part.sqnr_db + _CLOSE_DB else part.sqnr_db + _CLOSE_DB


def _guilty(isolated: Isolated | None, whole: onnx.ModelProto) -> set[str]:
    """Nodes of the main graph that are to blame, or that touch what is added; all where that isn't known."""
    there = {node.name for node in whole.graph.node}
    if isolated is None:
        return there
    units = [isolated.hybrids.units[u] for blamed in isolated.blamed for u in blamed.units]
    named = {name for unit in units for node in unit.before for name in (node.name, *node.scope)} & there
    touched = {name for unit in units for node in unit.added for name in (*node.inputs, *node.outputs)}
    if not named:
        named = {node.name for node in whole.graph.node if not touched.isdisjoint((*node.output, *reads(node)))}
    return named or there


def _growing(whole: onnx.ModelProto, seeds: Collection[str]) -> Iterator[set[str]]:
    """The seeds, then the nodes up to 1, 2, 4, … steps from them along tensors, at last all."""
    everything, stored = {node.name for node in whole.graph.node}, {tensor.name for tensor in whole.graph.initializer}
    found, steps = set(seeds), 0
    while found < everything:
        yield set(found)
        before = len(found)
        for _ in range(max(steps, 1)):
            touched = {name for node in whole.graph.node if node.name in found for name in (*node.output, *reads(node))}
            touched -= stored
            found |= {n.name for n in whole.graph.node if not touched.isdisjoint((*n.output, *reads(n)))}
        steps = max(2 * steps, 1)
        if len(found) == before:
            break
    yield everything
