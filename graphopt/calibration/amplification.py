"""How quantization noise grows on its way through the float part of a planned model, measured on samples.

    float:    x ──────────▶ Conv ─▶ Slice ─▶ Pow ─▶ Sqrt ─▶ Log ─▶ y
    shadow:   x ─▶ Q ─▶ DQ ─▶ Conv′ ─▶ Slice′ ─▶ … ─▶ Log′ ─▶ y′      SNR(y) = var(y) / mean((y′ − y)²)

Beside the float model runs a second copy of the nodes that lie between a planned use and an operator that can amplify
noise. It reads through Q/DQ what the plan has read quantized, always made of the *float* values: noise doesn't add up
over the whole model, so that what is found at a tensor is due to the tensors quantized right before it. The signal is
taken without its mean, because a constant tells nothing. All sums are taken in the model; no tensor is fetched.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from graphopt.calibration.samples import Feed
from graphopt.calibration.session import open_session, run_session
from graphopt.quant import QuantParams, Range, TensorPlan, solve_params


@dataclass(frozen=True)
class Shadow:
    """What is copied, and where the copy is compared with the original.

    Attributes:
        nodes: names of the nodes to copy, in graph order.
        results: results of these nodes to compare, float32.
        grids: planned tensors whose values are compared with those on their grid.
        clipped: tensors whose values beyond their range tell nothing, as a HardSwish's below −3: those have no noise.
    """

    nodes: tuple[str, ...]
    results: tuple[str, ...]
    grids: tuple[str, ...]
    clipped: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Noise:
    """Signal-to-noise ratios by tensor, in dB, float64 [samples].

    They are inf without noise, and NaN where there is no signal (a constant) or values aren't finite.

    Attributes:
        results: of what the copied nodes make.
        grids: of planned tensors after rounding to their own grid.
    """

    results: Mapping[str, NDArray[np.float64]]
    grids: Mapping[str, NDArray[np.float64]]


def measure_noise(
    model: ModelProto,
    plan: Sequence[TensorPlan],
    ranges: Mapping[str, Range],
    shadow: Shadow,
    samples: Sequence[Feed],
    *,
    threads: int | None = None,
) -> Noise:
    """Signal-to-noise ratio of each of `shadow`'s tensors in each sample.

    Args:
        model: the float model, opset 13 or newer; it is changed.
        plan: what is read quantized.
        ranges: of every tensor of the plan.
        shadow: what to copy.
        samples: inputs, one model call each.
        threads: threads within an operator; None lets onnxruntime take the cores.

    Raises:
        CalibrationError: a sample can't be run.
        UnsupportedError: onnxruntime can't load the model.
    """
    if not shadow.results and not shadow.grids:
        return Noise({}, {})
    writer = _Writer(model, plan, ranges, shadow.clipped)
    for name in shadow.nodes:
        writer.copy(name)
    outputs = [writer.compare(tensor, writer.shadows[tensor]) for tensor in shadow.results]
    outputs += [writer.compare(tensor, writer.grid(tensor)) for tensor in shadow.grids]
    del model.graph.output[:]
    types = (TensorProto.FLOAT, TensorProto.FLOAT, TensorProto.FLOAT, TensorProto.INT64)
    infos = [helper.make_tensor_value_info(n, t, []) for o in outputs for n, t in zip(o, types, strict=True)]
    model.graph.output.extend(infos)
    # onnxruntime's own integer kernels would bring noise of their own in. Optimizing thousands of comparisons takes
    # longer than running them on a few samples (a detector: 4.5 s instead of 0.8, and each sample no faster).
    session = open_session(model, threads=threads, optimize=False, integers=False)
    rows = [[float(v) for v in run_session(session, f, f"sample {n}")] for n, f in enumerate(samples)]
    sums = np.array(rows).reshape(len(rows), len(outputs), 4)
    found = [_decibel(sums[:, k]) for k in range(len(outputs))]
    count = len(shadow.results)
    return Noise(
        dict(zip(shadow.results, found[:count], strict=True)), dict(zip(shadow.grids, found[count:], strict=True))
    )


def _decibel(sums: NDArray[np.float64]) -> NDArray[np.float64]:
    """SNR of each sample from Σx, Σx², Σ(x′ − x)² and the number of values, [samples, 4] → [samples]."""
    total, squares, noise, count = sums.T
    if (count == 1).all():
        # One value a sample: its signal is what it tells of one sample against the others.
        total, squares, count = (np.full_like(v, v.sum()) for v in (total, squares, count))
        noise = noise * len(noise)
    with np.errstate(all="ignore"):
        # Sums of float32 squares are good to six digits: a smaller variance is rounding.
        variance = squares / count - (total / count) ** 2
        snr = 10 * np.log10(variance / (noise / count))
        return np.where(np.isfinite(squares) & (variance > 1e-6 * squares / count), snr, np.nan)


class _Writer:
    """Appends copies and comparisons to a model."""

    def __init__(
        self, model: ModelProto, plan: Sequence[TensorPlan], ranges: Mapping[str, Range], clipped: Set[str]
    ) -> None:
        self.graph = model.graph
        self.nodes = {n.name: n for n in model.graph.node}
        self.entries = {e.tensor: e for e in plan}
        self.quantized = {(edge.node, edge.index): e for e in plan for edge in e.edges}
        self.ranges = ranges
        self.clipped = clipped
        self.shadows: dict[str, str] = {}
        self.grids: dict[str, str] = {}
        self.taken = {name for n in model.graph.node for name in (*n.input, *n.output)}

    def copy(self, name: str) -> None:
        """A second node that reads what the plan says, or what the copies before it give."""
        node = self.nodes[name]
        inputs = [self._read(node, i, tensor) for i, tensor in enumerate(node.input)]
        outputs = [self._fresh(f"{tensor}_shadow") if tensor else "" for tensor in node.output]
        copy = NodeProto()
        copy.CopyFrom(node)
        copy.name = f"{name}_shadow"
        del copy.input[:], copy.output[:]
        copy.input.extend(inputs)
        copy.output.extend(outputs)
        self.graph.node.append(copy)
        self.shadows.update(zip(node.output, outputs, strict=True))

    def compare(self, tensor: str, noisy: str) -> list[str]:
        """Names of Σx, Σx², Σ(x′ − x)² and the number of values, as scalars."""
        difference = self._node("Sub", [noisy, tensor], f"{tensor}_noise")
        return [
            self._node("ReduceSum", [tensor], f"{tensor}_sum", keepdims=0),
            self._node("ReduceSumSquare", [tensor], f"{tensor}_squares", keepdims=0),
            self._node("ReduceSumSquare", [difference], f"{tensor}_noise_squares", keepdims=0),
            self._node("Size", [tensor], f"{tensor}_count"),
        ]

    def _read(self, node: NodeProto, index: int, tensor: str) -> str:
        entry = self.quantized.get((node.name, index))
        return self.shadows.get(tensor, tensor) if entry is None else self.grid(entry.tensor)

    def grid(self, tensor: str) -> str:
        """The tensor's float values on the plan's grid."""
        if tensor not in self.grids:
            entry = self.entries[tensor]
            params = solve_params(self.ranges[tensor], entry.scheme)
            scale, zero_point = self._params(tensor, params)
            axis = {} if entry.scheme.channel_axis is None else {"axis": entry.scheme.channel_axis}
            stored = self._node("QuantizeLinear", [tensor, scale, zero_point], f"{tensor}_q", **axis)
            rounded = self._node("DequantizeLinear", [stored, scale, zero_point], f"{tensor}_dq", **axis)
            self.grids[tensor] = self._restored(tensor, rounded) if tensor in self.clipped else rounded
        return self.grids[tensor]

    def _restored(self, tensor: str, rounded: str) -> str:
        """What the range cut off given back, so that only rounding is left as noise."""
        covered = self.ranges[tensor]
        names = self._fresh(f"{tensor}_low"), self._fresh(f"{tensor}_high")
        for name, value in zip(names, (covered.low, covered.high), strict=True):
            self.graph.initializer.append(numpy_helper.from_array(np.asarray(value, np.float32), name))
        inside = self._node("Clip", [tensor, *names], f"{tensor}_clipped")
        beyond = self._node("Sub", [tensor, inside], f"{tensor}_beyond")
        return self._node("Add", [rounded, beyond], f"{tensor}_restored")

    def _params(self, tensor: str, params: QuantParams) -> tuple[str, str]:
        names = self._fresh(f"{tensor}_scale"), self._fresh(f"{tensor}_zero_point")
        for name, value in zip(names, (params.scale, params.zero_point), strict=True):
            self.graph.initializer.append(numpy_helper.from_array(np.asarray(value), name))
        return names

    def _node(self, op: str, inputs: list[str], hint: str, **attributes: int) -> str:
        output = self._fresh(hint)
        node = helper.make_node(op, inputs, [output], f"{output}_{op}")
        node.attribute.extend(helper.make_attribute(name, value) for name, value in attributes.items())
        self.graph.node.append(node)
        return output

    def _fresh(self, hint: str) -> str:
        name, number = hint, 0
        while name in self.taken:
            number += 1
            name = f"{hint}_{number}"
        self.taken.add(name)
        return name
