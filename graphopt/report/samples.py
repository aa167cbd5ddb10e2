"""Samples for a graph's inputs, with progress reported as they are used and labels from elsewhere."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import ArrayLike

from graphopt.calibration import Dataset, Feed, Preprocess, Source, input_specs, load_dataset
from graphopt.errors import CalibrationError
from graphopt.ir import Graph
from graphopt.ir.protos import value_info
from graphopt.pipeline.passes import Progress


def open_samples(source: Source, graph: Graph, name: str, preprocess: str | Path | Preprocess | None = None) -> Dataset:
    """The samples in `source` for the inputs of `graph`; `name` is what samples in memory are called.

    Raises:
        CalibrationError: the samples can't be read or don't fit the inputs.
        ConfigError: the preprocessing of images is wrong.
    """
    interface = onnx.ModelProto(graph=onnx.GraphProto(input=[value_info(t) for t in graph.inputs]))
    dataset = load_dataset(source, input_specs(interface), preprocess=preprocess)
    if not isinstance(source, (str, Path)):
        dataset.name = name
    return dataset


def with_labels(dataset: Dataset, labels: ArrayLike | None) -> Dataset:
    """`dataset` with these labels in place of its own, one integer per row of the samples.

    Raises:
        CalibrationError: they aren't integers in one row, or their number doesn't fit.
    """
    if labels is None:
        return dataset
    classes = np.asarray(labels)
    count = dataset.count or 1
    if classes.ndim != 1 or classes.dtype.kind not in "iu" or len(classes) == 0 or len(classes) % count:
        raise CalibrationError(
            f"the labels are {classes.dtype} {list(classes.shape)}; expected one integer class index per row of the "
            f"{dataset.count or ''} samples of {dataset.name}"
        )
    return Dataset(lambda: iter(dataset), name=dataset.name, count=dataset.count, labels=classes)


def reported(dataset: Dataset, what: str, progress: Progress | None) -> Dataset:
    """The same samples; each walk over them is reported as `what`."""
    if progress is None:
        return dataset

    def feeds() -> Iterator[Feed]:
        progress(what, 0, dataset.count)
        for done, feed in enumerate(dataset, start=1):
            yield feed
            progress(what, done, dataset.count)

    return Dataset(feeds, name=dataset.name, count=dataset.count, labels=dataset.labels)
