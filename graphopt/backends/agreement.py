"""How much two models agree: run both on the same samples, measure every output.

The measures are those of `measures.py`, over all samples together (not averages of samples).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import ModelProto

from graphopt.backends.measures import Tally, cosine, max_error, sqnr_db, top1, top1_agreement
from graphopt.backends.onnxruntime import open_session
from graphopt.calibration import Dataset
from graphopt.calibration.session import run_session
from graphopt.errors import CalibrationError, ConfigError

__all__ = [
    "Agreement",
    "Comparison",
    "OutputAgreement",
    "Reference",
    "compare_models",
    "cosine",
    "max_error",
    "sqnr_db",
    "top1",
    "top1_agreement",
]


KEPT_BYTES = 256 * 2**20
"""Of outputs of a model that many others are compared with: a thousand classes of 60,000 samples."""


@dataclass(frozen=True)
class OutputAgreement:
    """Agreement on one output over all samples.

    Attributes:
        name: the output's name.
        sqnr_db: 10·log10(Σ ref² / Σ (ref − other)²), in dB.
        cosine: Σ ref·other / sqrt(Σ ref² · Σ other²).
        max_error: max |ref − other|.
        relative_error: max_error / max |ref|.
        top1_agreement: the share of rows with the same top-1; None where rows have fewer than two values.
        mismatched: samples in which the two outputs had different shapes; they count nowhere else, and when all
            do, the measures are NaN.
    """

    name: str
    sqnr_db: float
    cosine: float
    max_error: float
    relative_error: float
    top1_agreement: float | None
    mismatched: int


@dataclass(frozen=True)
class Agreement:
    """Agreement of two models: per output, and the first output's top-1 accuracy where labels were given."""

    samples: int
    outputs: tuple[OutputAgreement, ...]
    reference_accuracy: float | None
    other_accuracy: float | None


def compare_models(
    reference: ModelProto | Path,
    other: ModelProto | Path,
    dataset: Dataset,
    labels: NDArray[Any] | None = None,
    *,
    threads: int | None = None,
) -> Agreement:
    """Run both models in onnxruntime on every sample and compare their outputs by name.

    Args:
        reference: the model taken as right.
        other: the model compared with it; it has all outputs of the reference.
        dataset: the samples; nothing of a sample is kept.
        labels: one class index per row of the first output, over all samples; default: the dataset's own.
        threads: threads within an operator; None lets onnxruntime take the cores.

    Raises:
        ConfigError: `other` lacks an output, or there is nothing to compare.
        CalibrationError: a sample can't be run, or the labels don't fit the first output.
        UnsupportedError: onnxruntime can't load a model.
    """
    return Reference(reference, dataset, labels, threads=threads, keep_bytes=0).compare(other)


class Reference:
    """A model that others are compared with, on the same samples: its outputs are kept where they are small."""

    def __init__(
        self,
        model: ModelProto | Path,
        dataset: Dataset,
        labels: NDArray[Any] | None = None,
        *,
        threads: int | None = None,
        keep_bytes: int = KEPT_BYTES,
    ) -> None:
        """Open the model; the arguments are those of `compare_models`. `keep_bytes`: of outputs, at most.

        Raises:
            ConfigError: there is nothing to compare.
            UnsupportedError: onnxruntime can't load the model.
        """
        self.session = open_session(model, threads=threads)
        self.names = [output.name for output in self.session.get_outputs() if _is_numeric(output.type)]
        self.dataset, self.labels, self.threads = dataset, dataset.labels if labels is None else labels, threads
        self.keep_bytes = keep_bytes
        self.kept: list[list[NDArray[Any]]] | None = None

    def compare(self, other: ModelProto | Path) -> Agreement:
        """The agreement of a model with this one; see `compare_models`."""
        session = open_session(other, threads=self.threads)
        _require_outputs(self.names, {output.name for output in session.get_outputs()})
        comparison = Comparison(self.names, self.dataset.name, self.labels)
        outputs: list[list[NDArray[Any]]] = []
        room = self.keep_bytes if self.kept is None else 0
        for number, feed in enumerate(self.dataset):
            if self.kept is None:
                expected = run_session(self.session, feed, comparison.where, self.names)
                room -= sum(array.nbytes for array in expected)
                if room >= 0:
                    outputs.append(expected)
            else:
                expected = self.kept[number]
            comparison.add(expected, run_session(session, _as_taken(session, feed), comparison.where, self.names))
        if self.kept is None and room >= 0:
            self.kept = outputs
        return comparison.result()


def _as_taken(session: ort.InferenceSession, feed: Mapping[str, NDArray[Any]]) -> Mapping[str, NDArray[Any]]:
    """A sample in the float types of a model's inputs: those of a model in float16 may be float16."""
    half = {i.name for i in session.get_inputs() if i.type == "tensor(float16)"}
    return {n: v.astype(np.float16) if n in half and v.dtype.kind == "f" else v for n, v in feed.items()}


class Comparison:
    """Outputs of two models on the same samples, taken in one sample after the other."""

    def __init__(self, names: Sequence[str], data: str, labels: NDArray[Any] | None = None) -> None:
        """Compare outputs called `names` on samples of `data`; `labels`: classes of the first output's rows."""
        self.names, self.data, self.labels = names, data, labels
        self.outputs = [_Compared() for _ in names]
        self.samples, self.rows, self.first_right, self.second_right = 0, 0, 0, 0

    @property
    def where(self) -> str:
        """The next sample, for messages."""
        return f"{self.data}, sample {self.samples}"

    def add(self, reference: Sequence[NDArray[Any]], other: Sequence[NDArray[Any]]) -> None:
        """Take in both models' outputs for the next sample.

        Raises:
            CalibrationError: the labels don't fit the first output.
        """
        for output, x, y in zip(self.outputs, reference, other, strict=True):
            output.add(x, y)
        if self.labels is not None:
            expected = labels_of(self.labels, self.rows, reference[0], self.where)
            self.first_right += int(np.count_nonzero(top1(reference[0]) == expected))
            self.second_right += int(np.count_nonzero(top1(other[0]) == expected))
            self.rows += len(expected)
        self.samples += 1

    def result(self) -> Agreement:
        """The measures over all samples so far."""
        return Agreement(
            self.samples,
            tuple(output.result(name) for name, output in zip(self.names, self.outputs, strict=True)),
            self.first_right / self.rows if self.rows else None,
            self.second_right / self.rows if self.rows else None,
        )


def _is_numeric(type_name: str) -> bool:
    """Whether onnxruntime's name of an output's type is a tensor of numbers (not a string, sequence or map)."""
    return type_name.startswith("tensor(") and type_name != "tensor(string)"


def _require_outputs(names: list[str], others: set[str]) -> None:
    if not names:
        raise ConfigError("the reference model has no numeric output: there is nothing to compare")
    for name in names:
        if name not in others:
            raise ConfigError(f"the second model has no output '{name}': compare models with the same outputs")


def labels_of(labels: NDArray[Any], start: int, scores: NDArray[Any], where: str) -> NDArray[Any]:
    """The classes of the rows of `scores`, the first of which is row `start` of all samples.

    Raises:
        CalibrationError: there are too few, or `scores` has no rows of classes.
    """
    if scores.ndim < 2:
        raise CalibrationError(
            f"{where}: the first output has shape {list(scores.shape)}; expected [rows, classes] to use labels"
        )
    expected = labels[start : start + len(scores)]
    if len(expected) < len(scores):
        raise CalibrationError(f"{where}: {len(labels)} labels are too few: give one per row of the samples")
    return expected


@dataclass
class _Compared:
    """One output so far."""

    tally: Tally = field(default_factory=Tally)
    compared: int = 0
    mismatched: int = 0

    def add(self, reference: NDArray[Any], other: NDArray[Any]) -> None:
        if reference.shape != other.shape:
            self.mismatched += 1
            return
        self.compared += 1
        self.tally.add(reference, other)

    def result(self, name: str) -> OutputAgreement:
        if not self.compared:
            return OutputAgreement(name, math.nan, math.nan, math.nan, math.nan, None, self.mismatched)
        t = self.tally
        return OutputAgreement(
            name, t.sqnr_db, t.cosine, t.max_error, t.relative_error, t.top1_agreement, self.mismatched
        )
