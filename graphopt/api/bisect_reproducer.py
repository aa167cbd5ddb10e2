"""A fall, alone: the part of the model where it happens, what that reads, and the one pass.

    graphopt-bisect-1/
        before.onnx         the guilty nodes in front of the pass, with as many neighbours as it takes
        inputs.npz          what they read, on the sample that loses most
        calibration.npz     what they read on a few samples, when the pass or the plan before it needs samples
        ranges.json         the saved ranges, when the run had any
        pipeline.toml       the pass; where it carries out a plan, all since the plan was begun
        reproduce.py        compiles, runs both, prints the SQNR; exits with 1 while the loss shows, with 0 when not

The part is the guilty nodes at first. As long as the pass doesn't show on it what the same change does to the same
tensors in the whole model, it grows to the nodes around it, by twice as many steps each time.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from graphopt.api.bisect_nodes import Isolated
from graphopt.api.bisect_search import Fall
from graphopt.api.choice import choose_pipeline
from graphopt.api.emitting import check_output
from graphopt.api.metrics import SQNR, Demand, Judge, lowest_sqnr
from graphopt.api.ranges import ranges_key
from graphopt.api.rounding import rounding_demand
from graphopt.backends.agreement import Comparison, Reference
from graphopt.calibration import Dataset, save_ranges
from graphopt.calibration.session import open_session, run_session
from graphopt.errors import EmitError, GraphoptError
from graphopt.ir import Graph, load, save, to_proto
from graphopt.ir.extract import Border, border_of, extract, known_types
from graphopt.ir.files import replacing
from graphopt.ir.reads import reads
from graphopt.pipeline import Context, PassManager
from graphopt.pipeline.instruments import Moment, Verify
from graphopt.pipeline.passes import Pass
from graphopt.pipeline.toml import Pipeline, Settings, pipeline_to_toml
from graphopt.report.bisection import ReproducerFound
from graphopt.targets.toml import save_target

FILES = ("before.onnx", "inputs.npz", "calibration.npz", "ranges.json", "target.toml", "pipeline.toml", "reproduce.py")
_SAMPLES = 8  # to calibrate with; all of them, up to so many bytes, where the model is whole and these don't show it
_MOST_BYTES = 2**28
_SEARCHED = 32  # for the one that loses most
# The pass alone must come this close to what its change does in the whole model: half as much noise is another loss.
_CLOSE_DB = 3.0

Feeds = list[dict[str, NDArray[Any]]]


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
class _Part:
    """A part of the model that shows the fall."""

    model: onnx.ModelProto
    inputs: Feeds
    calibration: Feeds
    sqnr_db: float


def check_folder(folder: Path, inputs: Sequence[object]) -> None:
    """Refuse a folder before the work begins.

    Raises:
        ConfigError: one of the `inputs` is a file that would be overwritten.
        EmitError: it is a file, or can't be written to.
    """
    if folder.exists() and not folder.is_dir():
        raise EmitError(f"{folder}: is a file; name a folder for the reproducer")
    if folder.is_dir():
        for name in FILES:
            check_output(folder / name, inputs)


def write_reproducer(scene: Scene, folder: Path) -> ReproducerFound | None:
    """Find the smallest part that shows it, and write it; None where not even the whole model does.

    Args:
        scene: what to show.
        folder: where; it is made, and files in it are replaced.

    Raises:
        EmitError: it can't be written.
    """
    whole = to_proto(scene.begin.snapshot.restore())
    part = next(_parts(scene, whole), None)
    if part is None:
        return None
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise EmitError(f"{folder}: can't be made: {error.strerror or error}") from error
    least = _least_db(scene, part)
    _write(scene, part, folder, least)
    count, of = len(part.model.graph.node), len(whole.graph.node)
    return ReproducerFound(str(folder), count, of, part.sqnr_db, least)


def _parts(scene: Scene, whole: onnx.ModelProto) -> Iterator[_Part]:
    """Parts that show the fall, the smallest first."""
    types = known_types(whole)
    worst = _worst(scene)
    few = _calibration(scene, _SAMPLES)
    ruined = None if scene.isolated is None else scene.isolated.only()
    hybrid = None if ruined is None else to_proto(ruined)
    seeds = _guilty(scene.isolated, whole)
    tried: set[int] = set()
    for steps in itertools.chain((0, 1), (2**k for k in itertools.count(1))):
        nodes = _around(whole, seeds, steps)
        if len(nodes) in tried and len(nodes) < len(whole.graph.node):
            nodes = {node.name for node in whole.graph.node}
        tried.add(len(nodes))
        is_whole = len(nodes) == len(whole.graph.node)
        for most in (_SAMPLES, None) if is_whole else (_SAMPLES,):
            calibration = few if most else _calibration(scene, most)
            try:
                part = _part(scene, whole, types, border_of(whole, nodes), worst, calibration, hybrid)
            except GraphoptError:  # it can't be cut there: no tensor, or a pass that fails on the part
                part = None
            if part is not None:
                yield part
        if is_whole:
            return


def _part(
    scene: Scene,
    whole: onnx.ModelProto,
    types: Mapping[str, onnx.ValueInfoProto],
    border: Border,
    worst: Feeds,
    samples: Feeds,
    hybrid: onnx.ModelProto | None,
) -> _Part | None:
    """The part within a border, if the passes show the fall on it."""
    model = extract(whole, border, types)
    if model is None or not model.graph.output:
        return None
    names = [info.name for info in model.graph.input]
    inputs, calibration = (_recorded(whole, types, names, feeds) for feeds in (worst, samples))
    data = Dataset(lambda: iter(inputs), name="the recorded inputs", count=len(inputs))
    judge = Judge(Demand(SQNR, 0.0), model, data, scene.ctx.threads)
    changed = None if hybrid is None else extract(hybrid, border, {**known_types(hybrid), **types})
    expected = math.inf if changed is None else judge.score(changed)
    found = judge.score(to_proto(_compiled(scene, model, calibration)))
    least = expected + _CLOSE_DB if math.isfinite(expected) else _rounding(scene, model, data)
    return _Part(model, inputs, calibration, found) if found <= least else None


def _compiled(scene: Scene, model: onnx.ModelProto, calibration: Feeds) -> Graph:
    """What the passes make of a part."""
    graph = load(model)
    data = Dataset(lambda: iter(calibration), name="the recorded inputs", count=len(calibration))
    ctx = Context(
        target=scene.ctx.target,
        calibration=data if calibration else None,
        threads=scene.ctx.threads,
        ranges=scene.ctx.ranges,
    )
    PassManager(scene.passes, [Verify()]).run(graph, ctx)
    return graph


def _rounding(scene: Scene, model: onnx.ModelProto, samples: Dataset) -> float:
    return rounding_demand(load(model), samples, scene.ctx.threads).limit


def _least_db(scene: Scene, part: _Part) -> float:
    """The SQNR that tells whether the loss shows."""
    samples = Dataset(lambda: iter(part.inputs), name="the recorded inputs", count=len(part.inputs))
    rounding = _rounding(scene, part.model, samples)
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


def _around(whole: onnx.ModelProto, seeds: Collection[str], steps: int) -> set[str]:
    """The nodes up to so many steps from the seeds, along tensors."""
    found = set(seeds)
    for _ in range(steps):
        touched = {name for node in whole.graph.node if node.name in found for name in (*node.output, *reads(node))}
        touched -= {tensor.name for tensor in whole.graph.initializer}
        grown = {node.name for node in whole.graph.node if not touched.isdisjoint((*node.output, *reads(node)))}
        if grown <= found:
            break
        found |= grown
    return found


def _worst(scene: Scene) -> Feeds:
    """The sample on which the pass changes the outputs most."""
    before, after = (to_proto(m.snapshot.restore()) for m in (scene.fall.good, scene.fall.bad))
    feeds = [dict(feed) for feed in itertools.islice(scene.samples, _SEARCHED)]
    reference, changed = Reference(before, scene.samples, threads=scene.ctx.threads), open_session(after)

    def loss(feed: dict[str, NDArray[Any]]) -> float:
        comparison = Comparison(reference.names, scene.samples.name)
        sides = (run_session(s, feed, comparison.where, reference.names) for s in (reference.session, changed))
        comparison.add(*sides)
        return lowest_sqnr(comparison.result())

    return [min(feeds, key=loss)] if len(feeds) > 1 else feeds


def _calibration(scene: Scene, most: int | None) -> Feeds:
    """The first samples of the run's; none where it had none."""
    found: Feeds = []
    room = _MOST_BYTES
    for feed in itertools.islice(scene.ctx.calibration or (), most):
        room -= sum(values.nbytes for values in feed.values())
        if room < 0:
            break
        found.append(dict(feed))
    return found


def _recorded(
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


def _write(scene: Scene, part: _Part, folder: Path, least: float) -> None:
    save(load(part.model), folder / "before.onnx")
    _save_feeds(part.inputs, folder / "inputs.npz")
    if part.calibration:
        _save_feeds(part.calibration, folder / "calibration.npz")
    settings = Settings(
        target=None if scene.ctx.target is None else save_target(scene.ctx.target, folder),
        calibration_data="calibration.npz" if part.calibration else None,
    )
    config = folder / "pipeline.toml"
    _save_text(pipeline_to_toml(Pipeline(scene.passes, settings)), config)
    if scene.ctx.ranges is not None:
        key = ranges_key(folder / "before.onnx", None, choose_pipeline(config=config))
        save_ranges(folder / "ranges.json", scene.ctx.ranges, model_hash=key, data_hash="", method="saved")
        settings = replace(settings, ranges="ranges.json")
        _save_text(pipeline_to_toml(Pipeline(scene.passes, settings)), config)
    _save_text(_SCRIPT.format(least=f"{least:.1f}"), folder / "reproduce.py")


def _save_feeds(feeds: Feeds, path: Path) -> None:
    """Stack samples on a new axis 0, as the .npz format has it; those of another shape than the first are left out."""
    alike = [f for f in feeds if all(f[name].shape == value.shape for name, value in feeds[0].items())]
    with replacing(path) as file:
        np.savez(file, allow_pickle=False, **{name: np.stack([f[name] for f in alike]) for name in feeds[0]})


def _save_text(text: str, path: Path) -> None:
    with replacing(path) as file:
        file.write(text.encode())


_SCRIPT = '''"""What `graphopt bisect` found, alone: exits with 1 while the loss shows, with 0 when it doesn't."""

import sys
from pathlib import Path

import graphopt

HERE = Path(__file__).parent
LEAST_DB = {least}

result = graphopt.optimize(HERE / "before.onnx", config=HERE / "pipeline.toml")
found = graphopt.compare(HERE / "before.onnx", result.model, str(HERE / "inputs.npz"))
for output in found.outputs:
    print(f"{{output.name}}: {{output.sqnr_db:.1f}} dB, {{LEAST_DB}} are expected")
sys.exit(0 if all(output.sqnr_db >= LEAST_DB for output in found.outputs) else 1)
'''
