"""Statistics of any kind for tensors: extremes are reduced inside the graph, the others are fed whole tensors."""

from __future__ import annotations

from collections.abc import Sequence

from onnx import ModelProto, ValueInfoProto

from graphopt.calibration.collector import collect
from graphopt.calibration.dataset import Dataset
from graphopt.calibration.instrument import instrument
from graphopt.calibration.session import open_session, run_session
from graphopt.calibration.statistics import MinMax, NotFiniteError, Statistic
from graphopt.errors import CalibrationError


def observe(
    model: ModelProto,
    tensors: Sequence[str],
    dataset: Dataset,
    *,
    kind: type[Statistic] = MinMax,
    threads: int | None = None,
) -> dict[str, Statistic]:
    """Run the samples once and keep a statistic of each tensor; the tensors of one sample are in memory at a time.

    Args:
        model: the model; it is not changed.
        tensors: graph inputs or results of top-level nodes, no constants.
        dataset: the samples, one model call each.
        kind: the class of the statistics.
        threads: threads within an operator; None lets onnxruntime take the cores.

    Raises:
        CalibrationError: a tensor can't be observed, a sample can't be run, or a tensor holds NaN or infinity.
        UnsupportedError: onnxruntime can't load the model.
    """
    if kind is MinMax or not tensors:
        return dict(collect(model, tensors, dataset, threads=threads))
    statistics = {tensor: kind() for tensor in tensors}
    fed = {value.name for value in model.graph.input}
    made = [tensor for tensor in statistics if tensor not in fed]
    exposed = instrument(model, tensors).model
    del exposed.graph.output[:]
    exposed.graph.output.extend(ValueInfoProto(name=tensor) for tensor in made)
    session = open_session(exposed, threads=threads) if made else None
    for index, feed in enumerate(dataset):
        where = f"{dataset.name}, sample {index}"
        results = [] if session is None else run_session(session, feed, where, made)
        values = feed | dict(zip(made, results, strict=True))
        for tensor, statistic in statistics.items():
            try:
                statistic.update(values[tensor])
            except NotFiniteError as error:
                raise CalibrationError(
                    f"{where}: tensor '{tensor}' holds NaN or infinity: {error}; check that sample's preprocessing, or "
                    "the model"
                ) from error
    return statistics
