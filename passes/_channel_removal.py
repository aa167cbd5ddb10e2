"""Take channels out of a graph: cut every tensor along its slots, and mend what operations say about sizes.

    Conv(w: [64,3,3,3]) → Relu → Conv(w: [128,64,3,3])      48 of 64 units stay
                                        →      Conv(w: [48,3,3,3]) → Relu → Conv(w: [128,48,3,3])

What is left computes what the whole graph computes with the removed elements set to 0 in every activation.

Asked first, edited last: everything that can't be mended is found before anything changes. What comes out is held
against onnx's own inference, and where that disagrees all is put back.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial

from graphopt.analysis.coupling.groups import Coupling, Kept, Slot
from graphopt.errors import InternalError
from graphopt.ir import Constant, Graph, Shape, Tensor, Variable, is_fixed
from graphopt.ir.shapes import Inferred, inferred_tensors, run_inference
from graphopt.passes._removal_cuts import Cuts
from graphopt.passes._removal_mends import mend
from graphopt.passes._removal_operands import Operand, Undo, wanted_operands, write_operand
from graphopt.passes._removal_sizes import SizeArithmetic
from graphopt.quant import Range


def remove_channels(graph: Graph, coupling: Coupling, keep: Mapping[str, Kept]) -> None:
    """Remove the units that don't stay from the main graph.

    Constants are cut in place: whoever reads them is coupled. Ranges of planned activations are forgotten (they were
    observed with all channels); those of weights, a range a channel, are cut.

    Args:
        graph: nodes sorted; types and shapes filled in, as for `couple`.
        coupling: of this graph as it stands.
        keep: for groups by name, which units stay; groups that aren't named stay whole.

    Raises:
        ValueError: a name, a number of units, or no unit left: see `Coupling.kept`.
        InternalError: something can't be mended, which coupling should have frozen. The graph is as it was.
    """
    kept = coupling.kept(keep)
    if not kept:
        return
    removal = _Removal(graph, kept)
    before = run_inference(graph, stated=False)
    undo: Undo = []
    try:
        removal.apply(undo)
        _check(graph, before, kept)
    except Exception:  # whatever it was, a graph that is cut in part is of no use
        for step in reversed(undo):
            step()
        raise
    graph.remove_unused(removal.replaced)


class _Removal:
    """All changes, worked out on the graph as it is.

    Attributes:
        replaced: what computes operands that change; nobody may need it any more.
    """

    def __init__(self, graph: Graph, kept: Mapping[Slot, Kept]) -> None:
        self._graph = graph
        tensors = dict.fromkeys(slot.tensor for slot in kept)
        for slot, stays in kept.items():
            _check_slot(graph, slot, stays)
        self._shapes = {tensor: _cut_shape(tensor, kept) for tensor in tensors}
        self._sizes = SizeArithmetic(graph, self._shapes)
        self._cuts = Cuts(kept, self._sizes, graph.opset)
        mends = {node: mend(node, self._cuts) for node in graph.nodes if self._cuts.touch(node)}
        self._attrs = [(node, name, value) for node, m in mends.items() for name, value in m.attrs.items()]
        self._operands: list[Operand] = wanted_operands(graph, self._sizes, mends)
        # A Shape that nobody asks any more would still be a second reader of an activation.
        read = (operand.node.input(operand.index) for operand in self._operands)
        self.replaced = [producer for tensor in read if tensor is not None for producer in tensor.inputs]
        # Masks and indices that nobody reads are in no group, and what is stated of them would be wrong.
        self._unread = [t for n in mends for t in n.present_outputs() if not t.outputs and not graph.is_output(t)]
        self._values = {t: self._cuts.compress(t.values, t) for t in tensors if isinstance(t, Constant)}

    def apply(self, undo: Undo) -> None:
        """Change the graph, and note the steps back, to be taken from the last to the first."""
        graph = self._graph
        undo.append(_plan_restorer(graph))
        _cut_plan(graph, self._cuts)
        for constant, values in self._values.items():
            undo.append(partial(graph.set_values, constant, constant.values))
            graph.set_values(constant, values)
        for node, name, value in self._attrs:
            undo.append(partial(graph.set_attr, node, name, node.attr(name)))
            graph.set_attr(node, name, value)
        for operand in self._operands:
            write_operand(graph, operand, undo)
        for tensor, shape in (*self._shapes.items(), *((t, None) for t in self._unread)):
            if isinstance(tensor, Variable):
                undo.append(partial(graph.set_type, tensor, tensor.dtype, tensor.shape))
                graph.set_type(tensor, tensor.dtype, shape)
        graph.sort()


def _check_slot(graph: Graph, slot: Slot, stays: Kept) -> None:
    tensor = slot.tensor
    if tensor.scope is not graph or graph.is_output(tensor) or tensor in graph.inputs:
        raise InternalError(f"{slot} can't lose elements: it is an input, an output, or in a nested graph")
    if isinstance(tensor, Constant) and not is_fixed(tensor):
        raise InternalError(f"{slot} can't lose elements: the caller of the model may override it")
    if any(node.scope is not graph for node in graph.consumers(tensor)):
        raise InternalError(f"{slot} can't lose elements: a nested graph reads it")
    if tensor.shape is None or slot.axis >= len(tensor.shape) or tensor.shape[slot.axis] != len(stays):
        raise InternalError(f"{slot} isn't an axis of {len(stays)} elements")
    if not stays.any():
        raise InternalError(f"{slot} would lose all its elements")


def _cut_shape(tensor: Tensor, kept: Mapping[Slot, Kept]) -> Shape:
    stays = [kept.get(Slot(tensor, axis)) for axis in range(len(tensor.shape or ()))]
    return tuple(d if s is None else int(s.sum()) for d, s in zip(tensor.shape or (), stays, strict=True))


def _cut_plan(graph: Graph, cuts: Cuts) -> None:
    tensors = graph.tensors()
    for name, entry in list(graph.plan.tensors.items()):
        tensor = tensors.get(name)
        if entry.range is None or tensor is None or entry.fixed:
            continue
        if isinstance(tensor, Variable):
            graph.plan.tensors[name] = replace(entry, range=None)
            continue
        stays = None if entry.scheme.channel_axis is None else cuts.of(tensor, entry.scheme.channel_axis)
        if stays is not None and entry.range.low.ndim:
            graph.plan.set_range(name, Range(entry.range.low[stays], entry.range.high[stays]))


def _plan_restorer(graph: Graph) -> Callable[[], object]:
    before = dict(graph.plan.tensors)

    def restore() -> None:
        graph.plan.tensors = before

    return restore


def _check(graph: Graph, before: Inferred, kept: Mapping[Slot, Kept]) -> None:
    """Hold what inference finds to what it found before, less the removed elements.

    Both times it is told nothing about node outputs: what exporters state may be stale.
    """
    after = run_inference(graph, stated=False)
    if after.failure and not before.failure:
        raise InternalError(f"removing channels left the graph invalid: {after.failure}")
    for tensor, found in inferred_tensors(graph, after):
        known = before.types.get(tensor.name)
        is_read = bool(tensor.outputs) or graph.is_output(tensor)
        if tensor.scope is not graph or not is_read or not known or known.shape is None or found.shape is None:
            continue
        stays = [kept.get(Slot(tensor, axis)) for axis in range(len(known.shape))]
        wanted = [d if s is None else int(s.sum()) for d, s in zip(known.shape, stays, strict=True)]
        sizes = zip(wanted, found.shape, strict=False)
        differs = any(isinstance(a, int) and isinstance(b, int) and a != b for a, b in sizes)
        if differs or len(wanted) != len(found.shape):
            raise InternalError(
                f"removing channels left the graph invalid: '{tensor.name}' should have shape {wanted}, "
                f"and has {list(found.shape)}"
            )
