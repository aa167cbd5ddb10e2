"""`compare`: how far one model is from another on the same samples."""

from __future__ import annotations

from pathlib import Path

from numpy.typing import ArrayLike

from graphopt.backends.agreement import Agreement, compare_models
from graphopt.calibration import Preprocess, Source
from graphopt.ir import load
from graphopt.pipeline.passes import Progress
from graphopt.report.exposure import expose_shared
from graphopt.report.measure import runnable
from graphopt.report.samples import open_samples, reported, with_labels


def compare(
    reference: object,
    other: object,
    data: Source,
    *,
    labels: ArrayLike | None = None,
    preprocess: str | Path | Preprocess | None = None,
    tensors: bool = False,
    base_dir: str | Path | None = None,
    threads: int | None = None,
    progress: Progress | None = None,
) -> Agreement:
    """Run two models on the same samples in onnxruntime and measure how far `other` is from `reference`.

    Args:
        reference: the model taken as right.
        other: a model that has every numeric output of `reference`.
        data: samples.
        labels: one class index per row of the first output; default: the array `labels` in the samples' file.
        preprocess: as in `optimize`.
        tensors: compare the float tensors inside that have the same name in both models, too. They are made outputs
            for that, which keeps onnxruntime from fusing across them.
        base_dir: as in `optimize`.
        threads: as in `optimize`.
        progress: as in `optimize`.

    Raises:
        GraphoptError: a model or the samples can't be read or run, or the models have different outputs.
    """
    graphs = load(reference, base_dir=base_dir), load(other, base_dir=base_dir)
    samples = reported(
        with_labels(open_samples(data, graphs[0], "the data", preprocess), labels), "comparing", progress
    )
    if tensors:
        first, second = expose_shared(*graphs)
    else:
        first, second = runnable(reference, base_dir), runnable(other, base_dir)
    return compare_models(first, second, samples, threads=threads)
