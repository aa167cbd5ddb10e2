"""`calibrate`: the ranges of a model's activations, without the compiled model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import cast

from graphopt.api.choice import PRUNING, Passes, choose_pipeline
from graphopt.api.ranges import Calibration, ranges_key
from graphopt.calibration import DataHash, Preprocess, Source
from graphopt.errors import ConfigError
from graphopt.ir import Constant, Graph, load
from graphopt.ir.cancelling import Cancel, cancellable
from graphopt.passes.calibrate import Calibrate
from graphopt.passes.protect_small_values import ProtectSmallValues
from graphopt.pipeline import PassManager
from graphopt.pipeline.instruments import Reproducer, Verify
from graphopt.pipeline.passes import Progress, Resources
from graphopt.quant import TensorPlan
from graphopt.report.samples import open_samples
from graphopt.targets import Target


@cancellable
def calibrate(
    model: object,
    calibration_data: Source,
    *,
    target: str | Path | Target | None = None,
    preset: str | None = None,
    config: str | Path | None = None,
    passes: Passes | None = None,
    skip: Sequence[str] = (),
    keep_float: Sequence[str] = (),
    method: str | None = None,
    percentile: float | None = None,
    preprocess: str | Path | Preprocess | None = None,
    base_dir: str | Path | None = None,
    threads: int | None = None,
    resources: Resources | None = None,
    histograms: bool = False,
    progress: Progress | None = None,
    cancel: Cancel | None = None,
) -> Calibration:
    """Run a pipeline up to its `calibrate`, and give back the ranges instead of a model. Arguments as in `optimize`.

    With `histograms`, histograms are kept whatever the method needs (ema excepted), for `Calibration.draw`.

    Raises:
        GraphoptError: something on the user's side is wrong.
        InternalError: a pass broke the model.
        Cancelled: the run was ended from outside.
    """
    choice = choose_pipeline(
        target,
        preset=preset,
        config=config,
        passes=passes,
        skip=skip,
        keep_float=keep_float,
        method=method,
        percentile=percentile,
    )
    last = next((i for i, p in enumerate(choice.passes) if isinstance(p, Calibrate)), None)
    if last is None:
        raise ConfigError("the pipeline has no 'calibrate': use the preset int8, or a pipeline with it")
    if any(p.name == PRUNING for p in choice.passes):
        raise ConfigError(
            "ranges are of one model, and this pipeline removes channels of it: `graphopt optimize --preset float "
            "--prune …` writes the smaller model, which can be calibrated"
        )
    graph = load(model, base_dir=base_dir)
    samples = open_samples(calibration_data, graph, "calibration data", preprocess)
    ctx = choice.context(samples, threads, progress, resources)
    ctx.histograms = histograms
    ctx.data = DataHash()
    PassManager(choice.passes[: last + 1], (Reproducer(), Verify())).run(graph, ctx)
    planned = _planned(graph)
    following = choice.passes[last + 1 :]
    if following and isinstance(following[0], ProtectSmallValues):
        # What it leaves in float goes with the ranges, which are those of the plan before and after it.
        PassManager(following[:1], (Reproducer(), Verify())).run(graph, ctx)
        planned = _planned(graph) | planned
    observed = {name: entry.range for name, entry in planned.items() if entry.range is not None}
    chosen = cast(Calibrate, choice.passes[last])
    return Calibration(
        ranges=observed,
        method=chosen.method,
        model_hash=ranges_key(model, base_dir, choice),
        data_hash=ctx.data.hex(),
        parameters={"percentile": chosen.percentile} if chosen.method == "percentile" else {},
        statistics={name: ctx.statistics[name] for name in observed if name in ctx.statistics},
        decisions=ctx.kept,
        schemes={name: planned[name].scheme for name in observed},
    )


def _planned(graph: Graph) -> dict[str, TensorPlan]:
    """The plan's activations by name, those with a prescribed range apart."""
    tensors = graph.tensors()
    return {e.tensor: e for e in graph.plan if not e.fixed and not isinstance(tensors[e.tensor], Constant)}
