"""The error report: how much each layer of a quantized model loses by itself, and how far its result is off by then.

    isolated      the layer reads the float model's values through its own Q/DQ, with its own integer weights
    accumulated   the layer as the whole quantized model computes it: with the errors of all layers before it
    share         isolated over accumulated noise: 1 where the layer itself makes all the error that its result has

Both are SQNR in dB, 10·log10(Σ float² / Σ (float − quantized)²), over all samples together, on the layer's own result
(before an activation behind it and before its result is rounded; that rounding is the error of the tensor, and of the
layers that read it). Tensors: isolated is the rounding and clipping of the float values by the pair alone.

Each sample runs once through the float model, the quantized one, and the quantized one cut into layers (`layer_cut`);
only sums of squares are kept. Where one sample's tensors don't fit in the memory budget, the layers are measured in
several passes over the samples.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto
from onnxruntime import InferenceSession

from graphopt.backends.layer_cut import cut
from graphopt.backends.layer_gains import gains, joined
from graphopt.backends.layer_pairs import PairedLayer, PairedTensor, Unpaired, pair_layers
from graphopt.backends.measures import Tally
from graphopt.calibration import Dataset, Feed
from graphopt.calibration.budget import chunks, default_budget
from graphopt.calibration.instrument import fetch
from graphopt.calibration.session import open_session, run_session
from graphopt.calibration.shapes import infer, types_of
from graphopt.calibration.weights import Detached, detached
from graphopt.errors import ConfigError
from graphopt.ir import Graph

_Item: TypeAlias = PairedLayer | PairedTensor


@dataclass(frozen=True)
class LayerError:
    """What quantization does to the result of one layer.

    Attributes:
        node: the layer's node in the quantized model.
        op: its operator.
        tensor: its result, by its name in the float model.
        isolated_db: SQNR with only this layer quantized, in dB; infinite when exact.
        accumulated_db: SQNR in the whole quantized model.
        share: isolated over accumulated noise, at most 1.
        gain: how much of a relative error of this result reaches the outputs, see `layer_gains`.
        sensitivity: isolated noise over signal, times `gain`: the larger, the sooner it should stay float.
    """

    node: str
    op: str
    tensor: str
    isolated_db: float
    accumulated_db: float
    share: float
    gain: float
    sensitivity: float


@dataclass(frozen=True)
class TensorError:
    """What rounding one activation to its grid loses, alone and behind all quantized layers before it; SQNR in dB."""

    tensor: str
    isolated_db: float
    accumulated_db: float


@dataclass(frozen=True)
class ErrorReport:
    """Errors of a quantized model against the float one.

    Attributes:
        samples: how many were run.
        layers: those with the lowest `isolated_db` first.
        tensors: likewise.
        unpaired: layers that couldn't be compared, and why.
        notes: what the user should know besides.
    """

    samples: int
    layers: tuple[LayerError, ...]
    tensors: tuple[TensorError, ...]
    unpaired: tuple[Unpaired, ...]
    notes: tuple[str, ...] = ()

    @property
    def float_first(self) -> list[LayerError]:
        """The layers in the order in which leaving them in float should help most."""
        return sorted(self.layers, key=lambda e: -e.sensitivity)


def measure_layers(
    reference: Graph,
    quantized: Graph,
    dataset: Dataset,
    *,
    threads: int | None = None,
    memory_budget: int | None = None,
) -> ErrorReport:
    """Compare a quantized model's layers with the float model that it was made from, in onnxruntime.

    Args:
        reference: the float model, at best as it was rewritten before it was quantized.
        quantized: the Q/DQ model; any tool's, where names match.
        dataset: the samples.
        threads: threads within an operator; None lets onnxruntime take the cores.
        memory_budget: bytes that fetched tensors may take; None means a quarter of the memory that is available.

    Raises:
        ConfigError: the models have different inputs, or the budget is below 1.
        CalibrationError: a sample can't be run.
        UnsupportedError: onnxruntime can't load a model, or one is too large for one protobuf message.
    """
    if {t.name for t in reference.inputs} != {t.name for t in quantized.inputs}:
        raise ConfigError("the models have different inputs: compare a model with the one that it was made from")
    return _Measuring(reference, quantized, dataset, threads, memory_budget).report()


class _Measuring:
    def __init__(
        self, reference: Graph, quantized: Graph, dataset: Dataset, threads: int | None, budget: int | None
    ) -> None:
        self.reference, self.quantized, self.dataset, self.threads = reference, quantized, dataset, threads
        self.budget = default_budget() if budget is None else budget
        self.pairing = pair_layers(reference, quantized)
        self.models = detached(reference), detached(quantized)
        shapes = {name: value.shape for name, value in next(iter(dataset)).items()}
        self.inferred = infer(self.models[0].model, shapes), infer(self.models[1].model, shapes)
        self.signals: dict[str, Power] = {}
        self.samples = 0

    def report(self) -> ErrorReport:
        """Run all passes over the samples, and make the report."""
        layers, tensors = self.pairing.layers, self.pairing.tensors
        items = {f"{number}": item for number, item in enumerate((*layers, *tensors))}
        if not items:
            notes = "no layer could be compared: nothing is quantized, or no names match"
            return ErrorReport(0, (), (), self.pairing.unpaired, (notes,))
        powers: list[_Powers] = []
        parts = chunks(self.sizes(items), self.budget)
        for part in parts:
            powers += self.run([items[key] for key in part], () if powers else joined(self.reference))
        gain = gains(self.reference, {name: power.signal for name, power in self.signals.items()})
        found = [_layer(x, p, gain.get(x.result, 0.0)) for x, p in zip(layers, powers, strict=False)]
        rounded = [_tensor(x, p) for x, p in zip(tensors, powers[len(layers) :], strict=True)]
        notes = [f"{len(parts)} passes over the samples: one sample's tensors don't fit at once"] if parts[1:] else []
        return ErrorReport(
            self.samples,
            tuple(sorted(found, key=lambda e: _worst_first(e.isolated_db, e.accumulated_db))),
            tuple(sorted(rounded, key=lambda e: _worst_first(e.isolated_db, e.accumulated_db))),
            self.pairing.unpaired,
            tuple(notes),
        )

    def sizes(self, items: Mapping[str, _Item]) -> dict[str, int]:
        """Bytes that are fetched for each item and one sample: what it reads, and its result from three models."""
        names = {key: [*item.reads.values(), item.result, item.result, item.result] for key, item in items.items()}
        known = self.inferred[0].sizes([name for each in names.values() for name in each])
        return {key: sum(known[name] for name in each) for key, each in names.items()}

    def run(self, items: Sequence[_Item], extra: Sequence[str]) -> list[_Powers]:
        """One pass over the samples: the powers for each item; those of the tensors `extra` are kept, too."""
        alone = cut(self.quantized, self.models[1].model, items)
        exact_run = self.fetching(0, [*alone.feeds.values(), *(item.result for item in items), *extra])
        whole_run = self.fetching(1, [item.output for item in items])
        session = self.open(alone.model, 1)
        powers = [_Powers() for _ in items]
        self.signals |= {name: Power() for name in extra}
        for number, feed in enumerate(self.dataset):
            where = f"{self.dataset.name}, sample {number}"
            exact, whole = exact_run(feed, where), whole_run(feed, where)
            single = run_session(session, {name: exact[source] for name, source in alone.feeds.items()}, where)
            for item, power, value in zip(items, powers, single, strict=True):
                power.isolated.add(exact[item.result], value)
                power.accumulated.add(exact[item.result], whole[item.output])
            for name in extra:
                self.signals[name].add(exact[name], exact[name])
            self.samples = number + 1
        return powers

    def open(self, model: ModelProto, which: int) -> InferenceSession:
        """A session for a model that has weights of the float (0) or the quantized (1) model."""
        declared = {tensor.name for tensor in model.graph.initializer}
        weights = {name: values for name, values in self.models[which].weights.items() if name in declared}
        return open_session(Detached(model, weights), threads=self.threads)

    def fetching(self, which: int, tensors: Sequence[str]) -> Callable[[Feed, str], dict[str, NDArray[Any]]]:
        """Runs the float (0) or the quantized (1) model on a sample, and gives the values of `tensors` by name."""
        model = self.models[which]
        types = types_of(model, list(dict.fromkeys(tensors)), self.inferred[which], None)
        fetching = fetch(model.model, types)
        session = self.open(fetching.model, which)
        names = [output for _, output in fetching.fetched]

        def run(feed: Feed, where: str) -> dict[str, NDArray[Any]]:
            values = run_session(session, feed, where, names)
            return {tensor: value for (tensor, _), value in zip(fetching.fetched, values, strict=True)}

        return run


@dataclass
class Power:
    """Sums of squares of a tensor and of its error, over samples."""

    signal: float = 0.0
    noise: float = 0.0

    def add(self, reference: NDArray[Any], other: NDArray[Any]) -> None:
        """Take in one sample; NaN where shapes differ."""
        if reference.shape != other.shape:
            self.noise = math.nan
            return
        a, b = (
            np.asarray(x, np.float64 if x.dtype == np.float64 else np.float32).reshape(-1) for x in (reference, other)
        )
        with np.errstate(all="ignore"):
            error = a - b
            signal, noise = float(np.dot(a, a)), float(np.dot(error, error))
        if not math.isfinite(signal) or not math.isfinite(noise):  # masks of −inf, or squares beyond float32
            tally = Tally.of(reference, other)
            signal, noise = tally.signal, tally.noise
        self.signal += signal
        self.noise += noise

    @property
    def relative(self) -> float:
        """Noise over signal; infinite where only the signal is zero."""
        if self.noise == 0:
            return 0.0
        return self.noise / self.signal if self.signal else math.inf * self.noise

    @property
    def sqnr_db(self) -> float:
        """10·log10(signal / noise); NaN where it can't be told."""
        return -_decibels(self.relative)


@dataclass
class _Powers:
    isolated: Power = field(default_factory=Power)
    accumulated: Power = field(default_factory=Power)


def _decibels(ratio: float) -> float:
    return 10 * math.log10(ratio) if ratio > 0 else (-math.inf if ratio == 0 else math.nan)


def _worst_first(isolated: float, accumulated: float) -> tuple[float, float]:
    return (math.inf if math.isnan(isolated) else isolated, math.inf if math.isnan(accumulated) else accumulated)


def _layer(layer: PairedLayer, powers: _Powers, gain: float) -> LayerError:
    alone, whole = powers.isolated.relative, powers.accumulated.relative
    share = 0.0 if alone == 0 else min(1.0, alone / whole) if whole > 0 and math.isfinite(alone) else 1.0
    sensitivity = 0.0 if math.isnan(alone) or gain == 0 else alone * gain
    return LayerError(
        layer.node.name,
        layer.node.op,
        layer.result,
        powers.isolated.sqnr_db,
        powers.accumulated.sqnr_db,
        share,
        gain,
        sensitivity,
    )


def _tensor(tensor: PairedTensor, powers: _Powers) -> TensorError:
    return TensorError(tensor.result, powers.isolated.sqnr_db, powers.accumulated.sqnr_db)
