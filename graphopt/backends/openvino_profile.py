"""The time of each layer that OpenVINO runs on the CPU, from its own counters (PERF_COUNT).

A counter is a layer's mean over all runs of a compiled model, in whole microseconds (measured with 2026.4: quick layers
count 0), so half of one is added. It can't be reset: what the first runs took (milliseconds for a FullyConnected of
microseconds) is subtracted, and since a run that met another program's work stays in it, the model is compiled several
times, and a layer's time is what the fastest copies say.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray
from onnx import GraphProto, ModelProto

from graphopt.backends.kernel_times import FEWEST_RUNS, MOST_RUNS, WARM_UP, KernelTime, undisturbed
from graphopt.backends.openvino import LINEAR_LAYERS, compile_model, merged_readers, whole_name
from graphopt.errors import CalibrationError
from graphopt.ir.cancelling import check_cancelled
from graphopt.ir.ops import LINEAR

if TYPE_CHECKING:
    from openvino import CompiledModel

_FEWEST_COPIES, _MOST_COPIES = 3, 12
_ROUNDED_OFF = 0.5e-6
# What holds values and does nothing when the model runs.
_STORED = frozenset({"Const", "Constant"})


@dataclass(frozen=True)
class _Layer:
    kernel: KernelTime
    linear: bool


def profile(
    model: ModelProto, feeds: Sequence[Mapping[str, NDArray[Any]]], *, threads: int | None = None, seconds: float = 1.0
) -> list[KernelTime]:
    """Time every layer, in the order in which they run.

    Args:
        model: with its weights inside.
        feeds: samples, run over and over.
        threads: of OpenVINO; None lets it take the cores.
        seconds: to spend, about; a few runs of a few copies are always made.

    Raises:
        UnsupportedError: OpenVINO is not installed, or can't compile the model.
        CalibrationError: there is no sample, or one can't be run.
    """
    if not feeds:
        raise CalibrationError("timing layers needs at least one sample")
    end = time.perf_counter() + seconds
    copies: list[list[_Layer]] = []
    while len(copies) < _FEWEST_COPIES or (len(copies) < _MOST_COPIES and time.perf_counter() < end):
        copies.append(_measure(model, feeds, threads, seconds / _MOST_COPIES))
    times: dict[str, list[float]] = {}
    for copy in copies:
        for layer in copy:
            times.setdefault(layer.kernel.name, []).append(layer.kernel.seconds)
    nodes = _nodes(model.graph, copies[0])
    return [
        replace(layer.kernel, nodes=nodes[layer.kernel.name], seconds=undisturbed(times[layer.kernel.name]))
        for layer in copies[0]
    ]


def _measure(
    model: ModelProto, feeds: Sequence[Mapping[str, NDArray[Any]]], threads: int | None, seconds: float
) -> list[_Layer]:
    """The layers of one compiled copy: what they took behind the warming up, where some are prepared."""
    compiled = compile_model(model, threads, config={"PERF_COUNT": "YES"})
    samples = itertools.cycle(feeds)
    try:
        for feed in itertools.islice(samples, WARM_UP):
            compiled(dict(feed))
        prepared = {layer.kernel.name: layer.kernel.seconds for layer in _layers(compiled)}
        end, runs = time.perf_counter() + seconds, 0
        while runs < FEWEST_RUNS or (runs < MOST_RUNS and time.perf_counter() < end):
            check_cancelled()
            compiled(dict(next(samples)))
            runs += 1
    except RuntimeError as error:
        raise CalibrationError(f"OpenVINO failed: {error}") from error
    found: list[_Layer] = []
    for layer in _layers(compiled):
        whole = layer.kernel.seconds * (WARM_UP + runs) - prepared.get(layer.kernel.name, 0.0) * WARM_UP
        # Rounding may leave nothing of a quick layer.
        least = min(layer.kernel.seconds, _ROUNDED_OFF)
        found.append(replace(layer, kernel=replace(layer.kernel, seconds=max(whole / runs, least))))
    return found


def _layers(compiled: CompiledModel) -> list[_Layer]:
    """The layers as their counters stand."""
    layers: list[_Layer] = []
    for op in compiled.get_runtime_model().get_ordered_ops():
        facts = {key: value.astype(str) for key, value in op.get_rt_info().items()}
        kind = facts["layerType"]
        if kind in _STORED:
            continue
        # What takes less than one is called "not_executed", as is what has no kernel.
        counted = facts["execTimeMcs"] if facts["execTimeMcs"].isdigit() else "0"
        taken = 0.0 if facts["primitiveType"].startswith("unknown") else int(counted) * 1e-6 + _ROUNDED_OFF
        name = op.get_friendly_name()
        inputs = tuple(op.input_value(i).get_node().get_friendly_name() for i in range(op.get_input_size()))
        original = tuple(dict.fromkeys(whole_name(n) for n in facts["originalLayersNames"].split(",") if n))
        layers.append(_Layer(KernelTime(name, kind, original, inputs, (name,), taken), kind in LINEAR_LAYERS))
    return layers


def _nodes(graph: GraphProto, layers: Iterable[_Layer]) -> dict[str, tuple[str, ...]]:
    """Layer → the nodes of the model that it came from.

    A layer that a constant Mul or Add was merged into has that one's name alone: the linear node in front is put first.
    """
    known = {node.name for node in graph.node}
    makers = {tensor: node.name for node in graph.node for tensor in node.output if tensor}
    found = {
        layer.kernel.name: tuple(
            dict.fromkeys(n if n in known else makers[n] for n in layer.kernel.nodes if n in known or n in makers)
        )
        for layer in layers
    }
    linear = {name: layer.kernel.name for layer in layers if layer.linear for name in found[layer.kernel.name]}
    named = {name for names in found.values() for name in names}
    readers = merged_readers(graph)
    for node in graph.node:
        if node.op_type not in LINEAR or node.name in named:
            continue
        tensor = node.output[0]
        while tensor in readers and readers[tensor].name not in linear:
            tensor = readers[tensor].output[0]
        if tensor in readers:
            layer = linear[readers[tensor].name]
            found[layer] = (node.name, *found[layer])
    return found
