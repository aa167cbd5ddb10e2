"""What removing channels has to amount to: the whole model with the removed elements set to 0 in every activation.

Nothing here looks at the pruned model, nor at how it was made: the oracle is the model as it was, with a mask behind
every node output that loses elements.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from graphopt.analysis.coupling.groups import Coupling, Kept, Slot
from graphopt.ir import Constant, Graph, Variable, to_proto
from graphopt.passes._channel_removal import remove_channels
from tests.support.rewrite import run

# Both models add up the same float32 products, but for those that are exactly 0, in another order: the difference is a
# few units of 2^-24 of the largest sum, times a factor that grows slowly with depth. 1e-4 is 1700 such units.
TOLERANCE = 1e-4


@dataclass(frozen=True)
class Removed:
    """What became of a model.

    Attributes:
        masked: the model as it was, with masks.
        pruned: what removal made of it.
        graph: of the pruned model.
    """

    masked: onnx.ModelProto
    pruned: onnx.ModelProto
    graph: Graph


def masked(graph: Graph, kept: Mapping[Slot, Kept]) -> onnx.ModelProto:
    """The model with the elements that don't stay set to 0 behind every node of the main graph."""
    model = to_proto(graph)
    masks = {t.name: (t, _mask(t, kept)) for t in dict.fromkeys(s.tensor for s in kept) if isinstance(t, Variable)}
    nodes: list[onnx.NodeProto] = []
    for node in model.graph.node:
        nodes.append(node)
        for index, name in enumerate(node.output):
            if name in masks:
                node.output[index] = f"{name}//whole"
                nodes.append(_masking(model, *masks[name], graph.opset))
    copies = [
        onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes
    ]  # clearing the field ends the nodes
    model.graph.ClearField("node")
    model.graph.node.extend(copies)
    return model


def _mask(tensor: Variable, kept: Mapping[Slot, Kept]) -> NDArray[np.bool_]:
    """Broadcasts against the tensor."""
    assert tensor.shape is not None
    mask = np.ones((1,) * len(tensor.shape), dtype=bool)
    for axis in range(len(tensor.shape)):
        stays = kept.get(Slot(tensor, axis))
        if stays is not None:
            mask = mask & stays.reshape([-1 if a == axis else 1 for a in range(len(tensor.shape))])
    return mask


def _masking(model: onnx.ModelProto, tensor: Variable, mask: NDArray[np.bool_], opset: int) -> onnx.NodeProto:
    """Where, so that 0 takes the place of NaN and infinity too; before opset 9 there is Mul only."""
    assert tensor.dtype is not None
    name = tensor.name
    if tensor.dtype == np.dtype(bool):
        operands, node = {"mask": mask}, helper.make_node("And", [f"{name}//whole", f"{name}//mask"], [name])
    elif opset < 9 or tensor.dtype == np.dtype(np.float16):  # onnxruntime's Where has no float16
        operands = {"mask": mask.astype(tensor.dtype)}
        node = helper.make_node("Mul", [f"{name}//whole", f"{name}//mask"], [name])
    else:
        operands = {"mask": mask, "zero": np.zeros((), tensor.dtype)}
        node = helper.make_node("Where", [f"{name}//mask", f"{name}//whole", f"{name}//zero"], [name])
    model.graph.initializer.extend(numpy_helper.from_array(v, f"{name}//{k}") for k, v in operands.items())
    return node


def remove(graph: Graph, coupling: Coupling, keep: Mapping[str, Kept]) -> Removed:
    """Remove channels from the graph."""
    expected = masked(graph, coupling.kept(keep))
    remove_channels(graph, coupling, keep)
    return Removed(expected, to_proto(graph), graph)


def emptied(graph: Graph, coupling: Coupling, keep: Mapping[str, Kept]) -> onnx.ModelProto:
    """The model with all parameters of the units that don't stay set to 0, those of normalizations too."""
    for slot, stays in coupling.kept(keep).items():
        if isinstance(slot.tensor, Constant) and slot.tensor.dtype.kind == "f":
            values = slot.tensor.values.copy()
            np.moveaxis(values, slot.axis, 0)[~stays] = 0
            graph.set_values(slot.tensor, values)
    return to_proto(graph)


def random_keep(coupling: Coupling, rng: np.random.Generator, share: float = 0.5) -> dict[str, Kept]:
    """For each removable group a random choice of units; at least one stays."""
    keep: dict[str, Kept] = {}
    for group in coupling.removable:
        units = rng.random(group.units) < share
        units[rng.integers(group.units)] = True
        keep[group.name] = units
    return keep


def assert_same_as_masked(removed: Removed, feeds: dict[str, NDArray]) -> list[NDArray]:
    """The pruned model gives what the masked one gives, under the same names, in the same shapes; returns that."""
    names = [o.name for o in removed.masked.graph.output]
    assert [o.name for o in removed.pruned.graph.output] == names
    outputs = run(removed.pruned, feeds)
    for name, wanted, found in zip(names, run(removed.masked, feeds), outputs, strict=True):
        assert found.shape == wanted.shape, name
        if wanted.dtype.kind != "f":
            np.testing.assert_array_equal(found, wanted, err_msg=name)
            continue
        assert np.isfinite(wanted).all(), name
        largest, error = np.abs(wanted).max(initial=0.0), np.abs(found - wanted).max(initial=0.0)
        assert error <= TOLERANCE * largest, f"'{name}' is {error} off, and its largest value is {largest}"
    return outputs
