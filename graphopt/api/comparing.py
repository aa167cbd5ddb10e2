"""`compare`: how far one model is from another on the same samples; `compare_layers`: where the error comes from."""

from __future__ import annotations

from pathlib import Path

from numpy.typing import ArrayLike

from graphopt.backends.agreement import Agreement, compare_models
from graphopt.backends.layer_errors import ErrorReport, measure_layers
from graphopt.backends.layer_pairs import pair_layers
from graphopt.calibration import Preprocess, Source
from graphopt.ir import load
from graphopt.ir.cancelling import Cancel, cancellable
from graphopt.passes import find_pass
from graphopt.passes.lower_integer_operators import LowerIntegerOperators
from graphopt.passes.presets import FLOAT
from graphopt.pipeline import Context, PassManager
from graphopt.pipeline.passes import Progress
from graphopt.pipeline.spec import passes_from_text
from graphopt.report.exposure import expose_shared
from graphopt.report.measure import runnable
from graphopt.report.samples import open_samples, reported, with_labels


@cancellable
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
    cancel: Cancel | None = None,
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
        cancel: as in `optimize`.

    Raises:
        GraphoptError: a model or the samples can't be read or run, or the models have different outputs.
        Cancelled: the run was ended from outside.
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


@cancellable
def compare_layers(
    reference: object,
    quantized: object,
    data: Source,
    *,
    preprocess: str | Path | Preprocess | None = None,
    base_dir: str | Path | None = None,
    threads: int | None = None,
    memory_budget: int | None = None,
    progress: Progress | None = None,
    cancel: Cancel | None = None,
) -> ErrorReport:
    """What each layer of a Q/DQ model loses, alone and in the whole model, see `backends.layer_errors`.

    Args:
        reference: the float model that `quantized` was made from. Where more layers match after the rewrites of preset
            "float", it is compared in that form.
        quantized: any tool's Q/DQ model; operators that compute with integers themselves are taken apart first.
        data: samples; sums of squares are all that is kept of them.
        preprocess: as in `optimize`.
        base_dir: as in `optimize`.
        threads: as in `optimize`.
        memory_budget: bytes that fetched tensors may take; None means a quarter of the memory that is available.
        progress: as in `optimize`.
        cancel: as in `optimize`.

    Raises:
        GraphoptError: a model or the samples can't be read or run, or the models have different inputs.
        Cancelled: the run was ended from outside.
    """
    given, simplified, other = (load(model, base_dir=base_dir) for model in (reference, reference, quantized))
    PassManager([LowerIntegerOperators()]).run(other, Context())
    PassManager(passes_from_text(",".join(FLOAT), find_pass)).run(simplified, Context())
    chosen = max((given, simplified), key=lambda graph: len(pair_layers(graph, other).layers))
    samples = reported(open_samples(data, chosen, "the data", preprocess), "comparing layers", progress)
    return measure_layers(chosen, other, samples, threads=threads, memory_budget=memory_budget)
