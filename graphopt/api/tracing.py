"""`trace`: the life of a node through a pipeline."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from graphopt.api.choice import Passes, Prune, choose_pipeline
from graphopt.api.ranges import Calibration, read_ranges, sources
from graphopt.calibration import Preprocess, Source
from graphopt.ir import load
from graphopt.ir.cancelling import Cancel, cancellable
from graphopt.pipeline import PassManager
from graphopt.pipeline.instruments import History, Reproducer, Verify
from graphopt.pipeline.passes import Progress
from graphopt.report.samples import open_samples
from graphopt.report.trace import Life, life_of
from graphopt.targets import Target


@cancellable
def trace(
    model: object,
    nodes: Sequence[str],
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
    method: str | None = None,
    percentile: float | None = None,
    base_dir: str | Path | None = None,
    threads: int | None = None,
    progress: Progress | None = None,
    cancel: Cancel | None = None,
) -> list[Life]:
    """Run a pipeline and tell what became of `nodes`: names of nodes of the model as it comes, of the result, or of
    anything in between. Nothing is written. Other arguments as in `optimize`.

    Raises:
        GraphoptError: something on the user's side is wrong: a ConfigError for a name that no graph of the run has.
        InternalError: a pass broke the model.
        Cancelled: the run was ended from outside.
    """
    choice = choose_pipeline(
        target, preset=preset, config=config, passes=passes, prune=prune, skip=skip, keep_float=keep_float,
        method=method, percentile=percentile,
    )  # fmt: skip
    source, ranges = sources(choice, calibration_data, ranges)
    graph = load(model, base_dir=base_dir)
    samples = None if source is None else open_samples(source, graph, "calibration data", preprocess)
    ctx = choice.context(samples, threads, progress, None)
    ctx.ranges = read_ranges(ranges, model, base_dir, choice)
    history = History()
    PassManager(choice.passes, (history, Reproducer(), Verify())).run(graph, ctx)
    return [life_of(history, node) for node in nodes]
