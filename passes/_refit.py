"""Repair a pruned graph without training: refit what reads pruned or changed channels, layer by layer.

    float    x → L → y              pruned    x̂ → L' → ŷ ≈ y         L' = argmin E‖y − L'(x̂)‖²

Both models run over the same samples in lock-step, in topological order: each layer sees what the layers before it,
refitted already, make of the samples, and is fitted to what the float model makes, restricted to the channels that are
left (see `_refit_layer`). Where its result goes into a sum whose other branch has been computed, it is fitted to the
float model's sum, so that it makes up for what the other branch lost: in a residual network errors would otherwise add
up along the stream. Weights start from what pruning left of them and move only as far as the samples can tell.

A layer stays as it is where others read its weight, too, or where no change is better on samples left out.

Source: He et al., "Channel Pruning for Accelerating Very Deep Neural Networks" (ICCV 2017), whose least squares this
is; Zhang et al., "Accelerating Very Deep Convolutional Networks" (TPAMI 2016) for fitting to the float model's results
from the pruned model's inputs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto

from graphopt.analysis.coupling.groups import Kept, Slot
from graphopt.analysis.residual_sum import residual_sum
from graphopt.calibration import Feed
from graphopt.calibration.prefix import Prefix
from graphopt.calibration.weights import detached
from graphopt.ir import Graph, Node, Tensor, fixed_value
from graphopt.ir.dtypes import FLOAT_TYPES
from graphopt.ir.linear import Linear, bias_add, bias_operand, linear_result, linear_view, sole_reader
from graphopt.ir.linear_edit import Declined, affine_output, rounded
from graphopt.passes._known_ranges import bounds
from graphopt.passes._refit_layer import ROUNDS, Refit, Task, refit
from graphopt.passes.correct_bias import along
from graphopt.pipeline import Context

_ALL = (-np.inf, np.inf)


@dataclass(frozen=True)
class Repaired:
    """What became of one layer.

    Attributes:
        node: its name.
        lost, left: mean squared error of its result (behind the sum and the Relu that alone read it) before and after,
            as shares of the result's variance; `left` is `lost` where it stays as it is.
    """

    node: str
    lost: float
    left: float


def refit_layers(
    graph: Graph,
    ctx: Context,
    reference: ModelProto,
    kept: Mapping[Slot, Kept],
    feeds: Sequence[Feed],
    *,
    rounds: int = ROUNDS,
) -> tuple[Repaired, ...]:
    """Refit the layers of a pruned graph, in place; remarks say which weren't and why.

    Args:
        graph: nodes sorted, shapes filled in; nodes and tensors have their names of the float model.
        ctx: for remarks and threads.
        reference: the float model before it was pruned.
        kept: what `Coupling.kept` said of the slots that lost elements.
        feeds: the samples; both models' tensors are held for all of them (see `_simulation.affordable_samples`).
        rounds: for layers that a Relu or Clip reads, regressions behind the first.

    Raises:
        CalibrationError: a sample fails.
        UnsupportedError: onnxruntime can't run a part of the model by itself.
    """
    repair = _Repair(graph, ctx, reference, kept, feeds)
    return tuple(done for layer in repair.layers if (done := repair.refit(layer, rounds)) is not None)


class _Repair:
    """Both models in the middle of their runs."""

    def __init__(
        self, graph: Graph, ctx: Context, reference: ModelProto, kept: Mapping[Slot, Kept], feeds: Sequence[Feed]
    ) -> None:
        self.graph, self.ctx = graph, ctx
        self.kept = {(slot.tensor.name, slot.axis): stays for slot, stays in kept.items()}
        name = "the samples" if ctx.calibration is None else ctx.calibration.name
        self.float = Prefix(reference, feeds, name=name, threads=ctx.threads)
        self.pruned = Prefix(detached(graph), feeds, name=name, threads=ctx.threads)
        self.layers = _affected(graph, {name for name, _ in self.kept})
        self.pending = {layer.node for layer in self.layers}

    def refit(self, layer: Linear, rounds: int) -> Repaired | None:
        """Refit one layer, in the graph and in the pruned model's run."""
        task = self._task(layer)
        self.pending.discard(layer.node)
        if isinstance(task, Declined):
            self.ctx.remarks.declined(layer.node, f"not refitted: {task.reason}")
            return None
        found = refit(task, rounds)
        if found is None:
            self.ctx.remarks.note(layer.node, "stays as it is: no change was better on samples left out")
            return None
        declined = self._write(layer, found)
        if declined is not None:
            self.ctx.remarks.declined(layer.node, f"not refitted: {declined.reason}")
            return None
        how = "" if found.narrow else " by a factor and a shift for each output channel, as its rows are long"
        self.ctx.remarks.applied(
            layer.node, f"refitted{how}: error {found.lost:.2%} → {found.left:.2%} of its result's variance"
        )
        return Repaired(layer.node.name, found.lost, found.left)

    def _task(self, layer: Linear) -> Task | Declined:
        """What the layer is to make, fetched from both runs."""
        if self.graph.sole_consumer(layer.weight) is not layer.node:
            return Declined(f"its weight '{layer.weight.name}' is read elsewhere, too")
        if not layer.is_conv and len(layer.weight.shape) > 2:
            return Declined("its weight is a stack of matrices")
        result = linear_result(self.graph, layer)
        bias = _bias(self.graph, layer)
        if isinstance(bias, Declined):
            return bias
        read = self.pruned.fetch([layer.data.name])[0]
        target, other = result, None
        added = residual_sum(self.graph, layer)
        if added is not None and not self._behind_pending(added.other, layer.node):
            target = added.add.outputs[0]
            other = self.pruned.fetch([added.other.name])[0]
        wanted = self.float.fetch([target.name])[0]
        axis = layer.output_channel_axis % wanted[0].ndim
        stays = self.kept.get((target.name, axis))
        if stays is not None:
            wanted = [np.compress(stays, values, axis=axis) for values in wanted]
        if wanted[0].shape[axis] != layer.out_channels:
            return Declined("its result has other channels than the float model's")
        reader = sole_reader(self.graph, target)
        cut = bounds(reader) if reader is not None and reader.is_op("Relu", "Clip") else _ALL
        return Task(layer, bias, read, wanted, other, cut)

    def _behind_pending(self, tensor: Tensor, layer: Node) -> bool:
        """Whether a layer that is to be refitted still, or `layer` itself, has a part in a tensor."""
        todo, seen = [tensor], set[Node]()
        while todo:
            node = self.graph.producer(todo.pop())
            if node is None or node in seen:
                continue
            if node is layer or node in self.pending:
                return True
            seen.add(node)
            todo.extend([*(t for _, t in node.present_inputs()), *self.graph.captured(node)])
        return False

    def _write(self, layer: Linear, found: Refit) -> Declined | None:
        """Write weight and bias, in the graph and in the run; what hinders it."""
        weight = rounded(found.weight, layer.weight.dtype)
        edit = affine_output(self.graph, layer, shift=found.shift) if found.shift.any() else None
        if weight is None:
            return Declined(f"its weights wouldn't be finite in {layer.weight.dtype}")
        if isinstance(edit, Declined):
            return edit
        self.pruned.set_constant(layer.weight.name, weight)
        self.graph.set_values(layer.weight, weight)
        if edit is None:
            return None
        result = linear_result(self.graph, layer).name
        edit.apply(self.graph)
        values = self.pruned.fetch([result])[0]
        shift = along(found.shift, values[0].ndim, layer.output_channel_axis)
        self.pruned.replace(result, [(value + shift).astype(value.dtype) for value in values])
        return None


def _affected(graph: Graph, cut: set[str]) -> list[Linear]:
    """Layers whose input lost channels or follows from something that did, in graph order."""
    changed = set(cut)
    found: list[Linear] = []
    for node in graph.nodes:
        layer = linear_view(graph, node)
        if layer is not None and layer.data.name in changed:
            found.append(layer)
        operands = [*(t for _, t in node.present_inputs()), *graph.captured(node)]
        if any(tensor.name in changed for tensor in operands):
            changed.update(tensor.name for tensor in node.outputs)
    return found


def _bias(graph: Graph, layer: Linear) -> NDArray[np.float64] | Declined | None:
    """What a layer adds to each output channel, [out]; None for a MatMul, which has nothing to take a correction."""
    if layer.kind == "MatMul":
        add = bias_add(graph, layer)
        if add is None:
            return None
        tensor, factor = add.inputs[1 - bias_operand(add, layer.output)], 1.0
    else:
        tensor = layer.node.input(2)
        factor = float(layer.node.attr("beta", 1.0)) if layer.kind == "Gemm" else 1.0
    if tensor is None or factor == 0.0:
        return np.zeros(layer.out_channels)
    values = fixed_value(tensor)
    if values is None or values.dtype not in FLOAT_TYPES:
        return Declined(f"its bias '{tensor.name}' isn't a fixed initializer")
    if values.size == 1:
        return np.full(layer.out_channels, factor * float(values.reshape(-1)[0]))
    if values.size != layer.out_channels or max(values.shape) != values.size:
        return Declined(f"its bias '{tensor.name}' isn't one number for each channel")
    return factor * values.astype(np.float64).reshape(-1)
