"""How far a compiled graph is from the model that came in."""

from __future__ import annotations

from pathlib import Path

import onnx

from graphopt.backends.agreement import compare_models
from graphopt.calibration import Dataset
from graphopt.errors import UnsupportedError
from graphopt.ir import Graph, load, to_proto
from graphopt.ir.read import TEXT_SUFFIXES, read_source
from graphopt.pipeline.passes import Progress
from graphopt.report.samples import reported
from graphopt.report.summary import Measurement

# Measuring on calibration samples, for want of others, shouldn't take longer than calibrating.
CALIBRATION_SAMPLES = 100


def measure(
    model: object,
    graph: Graph,
    *,
    base_dir: str | Path | None,
    validation: Dataset | None,
    calibration: Dataset | None,
    threads: int | None = None,
    progress: Progress | None = None,
) -> tuple[Measurement | None, str]:
    """The agreement of `graph` with `model` as it was given; or None, and why it can't be measured.

    Measured on validation samples, else on the first calibration samples.

    Raises:
        CalibrationError: a sample can't be run.
    """
    samples = comparable(validation, calibration)
    if samples is None:
        return None, "no samples were given; --validation-data measures it"
    try:
        original, compiled = runnable(model, base_dir), to_proto(graph)
        agreement = compare_models(original, compiled, reported(samples, "measuring", progress), threads=threads)
    except UnsupportedError as error:
        return None, str(error)
    return Measurement(samples.name, validation is None, agreement), ""


def comparable(validation: Dataset | None, calibration: Dataset | None) -> Dataset | None:
    """What models are compared on: the validation samples, else the first calibration samples, if there are any."""
    if validation is None and calibration is not None:
        return calibration.limited(CALIBRATION_SAMPLES)
    return validation


def runnable(model: object, base_dir: str | Path | None) -> Path | onnx.ModelProto:
    """The model as it was given, in the form that onnxruntime opens: from its file, so that large values stay there."""
    if isinstance(model, (str, Path)) and Path(model).suffix.lower() not in TEXT_SUFFIXES:
        return Path(model)
    proto = read_source(model, base_dir).model
    external = any(t.data_location == onnx.TensorProto.EXTERNAL for t in proto.graph.initializer)
    return to_proto(load(model, base_dir=base_dir)) if external else proto
