"""Run samples through a model and keep the statistics of chosen tensors; nothing else of a sample is kept."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from onnx import ModelProto

from graphopt.calibration.dataset import Dataset
from graphopt.calibration.instrument import Observed, instrument
from graphopt.calibration.session import open_session, run_session
from graphopt.calibration.statistics import MinMax
from graphopt.errors import CalibrationError

# Called after each sample with how many are done, and how many there are (None: not known).
Progress = Callable[[int, int | None], None]


def collect(
    model: ModelProto,
    tensors: Sequence[str],
    dataset: Dataset,
    *,
    threads: int | None = None,
    progress: Progress | None = None,
    base_dir: Path | None = None,
) -> dict[str, MinMax]:
    """The smallest and largest value that each tensor takes over all samples.

    Args:
        model: the model; it is not changed.
        tensors: graph inputs or results of top-level nodes, no constants.
        dataset: the samples, one model call each.
        threads: threads within an operator; None lets onnxruntime take the cores.
        progress: called after each sample.
        base_dir: the folder that external data of the model is relative to.

    Returns:
        One statistic per tensor, in the order of `tensors`; empty where a tensor had no elements in any sample.

    Raises:
        CalibrationError: a tensor can't be observed, a sample can't be run, or a tensor holds NaN or infinity.
        UnsupportedError: onnxruntime can't load the model.
    """
    statistics = {tensor: MinMax() for tensor in tensors}
    if not statistics:
        return statistics
    instrumented = instrument(model, tensors, base_dir=base_dir)
    names = [name for o in instrumented.observed for name in (o.low, o.high, o.total)]
    session = open_session(instrumented.model, threads=threads, base_dir=base_dir)
    for index, feed in enumerate(dataset):
        where = f"{dataset.name}, sample {index}"
        scalars = dict(zip(names, run_session(session, feed, where, names), strict=True))
        for observed in instrumented.observed:
            _take_in(statistics[observed.tensor], observed, scalars, model, where)
        if progress is not None:
            progress(index + 1, dataset.count)
    return statistics


def _take_in(statistic: MinMax, observed: Observed, scalars: Mapping[str, Any], model: ModelProto, where: str) -> None:
    low, high, total = (float(scalars[name]) for name in (observed.low, observed.high, observed.total))
    if low == math.inf and high == -math.inf and not math.isnan(total):
        return  # no elements: the reductions return their neutral values
    # The sum alone being infinite only means that it overflowed.
    if math.isnan(total) or not (math.isfinite(low) and math.isfinite(high)):
        found = f"values in [{low}, {high}]" if math.isinf(low) or math.isinf(high) else "NaN"
        raise CalibrationError(
            f"{where}: tensor '{observed.tensor}' ({_origin(observed.tensor, model)}) holds {found}; expected finite "
            f"values: check that sample's preprocessing, or the model"
        )
    statistic.update(np.array([low, high]))


def _origin(tensor: str, model: ModelProto) -> str:
    for node in model.graph.node:
        if tensor in node.output:
            return f"made by {node.op_type} node '{node.name}'"
    return "a graph input"
