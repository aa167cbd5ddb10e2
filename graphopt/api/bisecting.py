"""`bisect`: which pass, then which nodes, first lose what is demanded."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from numpy.typing import ArrayLike

from graphopt.api.bisect_blame import blame_of
from graphopt.api.bisect_nodes import Isolated, isolate
from graphopt.api.bisect_part import Scene
from graphopt.api.bisect_reproducer import check_folder, write_reproducer
from graphopt.api.bisect_search import Fall, Search
from graphopt.api.choice import Passes, Prune, choose_pipeline
from graphopt.api.metrics import SQNR, Judge, Metric, demand
from graphopt.api.ranges import Calibration, read_ranges, sources
from graphopt.calibration import Dataset, Preprocess, Source, input_specs
from graphopt.calibration.session import open_session, run_session
from graphopt.errors import CalibrationError
from graphopt.ir import Graph, load, to_proto
from graphopt.ir.cancelling import Cancel, cancellable
from graphopt.pipeline import Context, Pass, PassManager
from graphopt.pipeline.instruments import Moment, Moments, Reproducer, Verify
from graphopt.pipeline.instruments.feeds import random_feeds
from graphopt.pipeline.passes import Progress
from graphopt.pipeline.spec import passes_to_text
from graphopt.report.bisection import Bisection
from graphopt.report.measure import comparable, runnable
from graphopt.report.samples import open_samples, with_labels
from graphopt.report.units import counted
from graphopt.targets import Target

# Of the calibration samples, for SQNR: dozens of models are measured on each.
_SAMPLES = 8


@cancellable
def bisect(
    model: object,
    *,
    target: str | Path | Target | None = None,
    preset: str | None = None,
    config: str | Path | None = None,
    passes: Passes | None = None,
    calibration_data: Source | None = None,
    ranges: str | Path | Calibration | None = None,
    preprocess: str | Path | Preprocess | None = None,
    prune: Prune | None = None,
    skip: Sequence[str] = (),
    keep_float: Sequence[str] = (),
    budget: str | None = None,
    precision: Sequence[str] = (),
    method: str | None = None,
    percentile: float | None = None,
    data: Source | None = None,
    labels: ArrayLike | None = None,
    metric: str | Metric | None = None,
    max_drop: float | None = None,
    min_sqnr: float | None = None,
    output: str | Path | None = None,
    base_dir: str | Path | None = None,
    threads: int | None = None,
    progress: Progress | None = None,
    cancel: Cancel | None = None,
) -> Bisection:
    """Find the pass that first loses what is demanded, then what in it does, and write what shows that alone.

    The pipeline runs once; the models behind its passes are kept, and measured where halving looks. The guilty pass is
    divided into its changes, see `api.bisect_nodes`. With `output`, a folder, a reproducer is written there, see
    `api.bisect_reproducer`.

    Samples to measure on are `data` (with `labels`, or an array `labels` in its file), else the first calibration
    samples, else seeded noise. What is demanded is `min_sqnr`, the least SQNR of each output against the original, in
    dB, or `max_drop`, how far `metric` may fall below the original's; both as in `optimize`. When neither is given,
    passes that promise the same outputs must keep them but for rounding, see `api.rounding`. Other arguments as in
    `optimize`.

    Raises:
        GraphoptError: something on the user's side is wrong.
        AccuracyError: the model doesn't hold what is demanded before any pass has run.
        InternalError: a pass broke the model.
    """
    began = time.perf_counter()
    choice = choose_pipeline(
        target, preset=preset, config=config, passes=passes, prune=prune, skip=skip, keep_float=keep_float,
        method=method, percentile=percentile, budget=budget, precision=precision,
    )  # fmt: skip
    if metric == SQNR and min_sqnr is None and max_drop is None:
        metric = None  # the distance from the original is what is measured without a demand, too
    demanded = demand(max_drop, metric, min_sqnr)
    source, ranges = sources(choice, calibration_data, ranges)
    if output is not None:
        check_folder(Path(output), (model, config, source, data, ranges))
    graph = load(model, base_dir=base_dir)
    given = None if source is None else open_samples(source, graph, "calibration data", preprocess)
    own = None if data is None else with_labels(open_samples(data, graph, "the data", preprocess), labels)
    samples = comparable(own, given)
    if samples is None:
        samples = _noise(graph, threads)
    elif own is None and (demanded is None or demanded.metric == SQNR):
        samples = samples.limited(_SAMPLES)
    ctx = choice.context(given, threads, progress, None)
    ctx.ranges = read_ranges(ranges, model, base_dir, choice)
    judge = None if demanded is None else Judge(demanded, runnable(model, base_dir), samples, threads)
    moments = Moments()
    PassManager(choice.passes, (moments, Reproducer(), Verify())).run(graph, ctx)

    search = Search(samples, threads, progress)
    fall = search.lossless(moments.kept) if judge is None else search.demanded(moments.kept, judge)
    isolated = None if fall is None else isolate(fall, progress)
    reproducer = None
    notes: list[str] = []
    if fall is not None and isolated is None:
        notes.append("the changes of this pass can't be told apart: no part of them makes a model that holds it")
    if fall is not None and output is not None:
        scene = _scene(fall, isolated, moments.kept, choice.passes, ctx, samples)
        reproducer = write_reproducer(scene, Path(output))
        if reproducer is None:
            notes.append("no reproducer: run on the model in front of it, the pass alone doesn't lose it")
    if judge is None and fall is None and not all(pass_.lossless for pass_ in choice.passes):
        notes.append("some passes are allowed to lose something: --min-sqnr or --max-drop look for what they lose")
    if fall is None and given is None and own is None:
        notes.append("noise leaves parts of trained networks unused: --data measures on real samples")
    return Bisection(
        source=str(model) if isinstance(model, (str, Path)) else "the model",
        pipeline=passes_to_text(choice.passes),
        metric=SQNR if demanded is None else demanded.metric,
        demand="passes that promise the same outputs keep them, but for rounding"
        if demanded is None
        else str(demanded),
        data=f"{counted(samples.count, 'sample')} of {samples.name}" if samples.count else samples.name,
        evaluations=tuple(search.evaluations),
        result=search.result(moments.kept, judge) if fall is None else math.nan,
        boundary=None if fall is None else fall.boundary,
        seconds=time.perf_counter() - began,
        blame=None if fall is None or isolated is None else blame_of(fall, isolated, choice.passes),
        reproducer=reproducer,
        notes=tuple(notes),
    )


def _scene(
    fall: Fall,
    isolated: Isolated | None,
    moments: Sequence[Moment],
    passes: Sequence[Pass],
    ctx: Context,
    samples: Dataset,
) -> Scene:
    """From where the plan was begun that the guilty pass carries out, if there was one: no file holds a plan."""
    first = fall.bad.plan_from or fall.bad.index
    begin = next(moment for moment in reversed(moments) if moment.index < first)
    return Scene(fall, isolated, begin, tuple(passes[first - 1 : fall.bad.index]), ctx, samples)


def _noise(graph: Graph, threads: int | None) -> Dataset:
    """Seeded noise that the model takes.

    Raises:
        CalibrationError: it takes none.
    """
    model = to_proto(graph)
    session = open_session(model, threads=threads)
    reason = CalibrationError("there is nothing to run it on")
    for feeds in random_feeds(input_specs(model), seed=0):
        try:
            for feed in feeds:
                run_session(session, feed, "seeded noise")
        except CalibrationError as error:
            reason = error
            continue
        return Dataset(partial(iter, feeds), name="seeded noise", count=len(feeds))
    raise CalibrationError(f"{reason}: give samples, --data")
