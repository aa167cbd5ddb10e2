"""Take out channels that can't change any output: those that are constant, and those that nothing hears.

    Conv(w, b) → Relu → Conv(v, c)          w[3] = 0:  channel 3 is Relu(b[3]), so c takes up v[:, 3] · Relu(b[3])
                                            v[:, 5] = 0:  nothing hears channel 5
                                            →      w, b, v without channels 3 and 5

Zero weights come from pruning by masks and from a BatchNormalization whose gamma is 0. Only exact zeros count. What is
taken out is whole units of channels that hang together (`analysis/coupling/find.py`), so a residual stream loses a
channel only where all its branches leave it alone. Exact for finite activations, up to the rounding of sums: 0 · ∞
isn't 0.

Convolutions of 63 channels are up to a quarter slower in onnxruntime than those of 64, so what stays is a multiple of
`align` channels, or few.

Declines: a constant that isn't 0 in front of a Conv that pads with zeros, where borders differ, or of an operation
without a bias; groups that can't be cut (graph outputs, axes that are normalized over, …); the last channel of a group.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from graphopt.analysis.coupling.find import couple
from graphopt.analysis.coupling.groups import Coupling, Group
from graphopt.analysis.dead.constant_channels import ConstantChannels, constant_channels
from graphopt.analysis.dead.dead_channels import DeadChannels, dead_channels
from graphopt.analysis.dead.unread_parts import has_unread_parts
from graphopt.errors import ConfigError
from graphopt.ir import Constant, Graph, Node, Tensor, Variable, fill_types, fixed_value
from graphopt.ir.linear import linear_view
from graphopt.ir.linear_edit import Declined, LinearEdit, affine_input
from graphopt.passes._channel_removal import remove_channels
from graphopt.pipeline import Context, Pass

_NAMED_LAYERS = 4


@dataclass(frozen=True)
class EliminateDeadChannels(Pass):
    """Remove constant and unheard channels; constants move into the biases of the layers that read them.

    `align`: of more channels than that a multiple stays, dead ones included: engines are slower with 63 than with 64.
    """

    name: ClassVar[str] = "eliminate-dead-channels"
    summary: ClassVar[str] = "remove channels that are constant or that nothing reads, biases taking up the constants"
    lossless: ClassVar[bool] = True

    align: int = 8

    def run(self, graph: Graph, ctx: Context) -> None:
        """Until nothing is left to remove: channels hang together otherwise once a convolution has lost groups."""
        if self.align < 1:
            raise ConfigError(f"align is at least 1, not {self.align}")
        while _round(graph, self.align, ctx):
            fill_types(graph)


def _round(graph: Graph, align: int, ctx: Context) -> bool:
    """Remove what is dead; whether there was anything.

    Asks cheaply first: how channels hang together is only found out where one is constant or unheard.
    """
    constants = constant_channels(graph)
    if not constants.values and not constants.unheard and not has_unread_parts(graph):
        return False
    coupling = couple(graph)
    found, edits = _foldable(graph, coupling, constants, align)
    if not found.units:
        _decline(graph, coupling, constants, found, ctx)
        return False
    prepared = [edit.node for edit in edits if _has_prepared(graph, edit)]
    if prepared:
        graph.sort()
        return True
    _remark(graph, coupling, found, ctx)
    for edit in edits:
        edit.apply(graph)
    remove_channels(graph, coupling, {name: ~dead for name, dead in found.units.items()})
    return True


def _foldable(
    graph: Graph, coupling: Coupling, constants: ConstantChannels, align: int
) -> tuple[DeadChannels, list[LinearEdit]]:
    """The units that can go, and the biases that take up their constants; a bias that can't keeps its units."""
    refused: dict[Node, str] = {}
    while True:
        found = dead_channels(graph, coupling, constants, refused, align)
        edits: list[LinearEdit] = []
        declined = dict(refused)
        for node, shift in found.shifts.items():
            linear = linear_view(graph, node)
            edit = Declined("it isn't linear") if linear is None else affine_input(graph, linear, shift=shift)
            if isinstance(edit, Declined):
                declined[node] = edit.reason
            else:
                edits.append(edit)
        if len(declined) == len(refused):
            return found, edits
        refused = declined


def _has_prepared(graph: Graph, edit: LinearEdit) -> bool:
    """Make room for what a bias takes up, where there is none yet: then groups of channels have to be found anew.

    A missing bias becomes zeros, a shared one a copy, a scalar one a vector: the same values as before.
    """
    if edit.bias is None:
        return False
    node, index = edit.bias_slot or (edit.node, len(edit.node.inputs))
    bias = node.input(index)
    is_ignored = edit.linear.kind == "Gemm" and edit.node.attr("beta", 1.0) == 0.0
    stored = None if is_ignored else fixed_value(bias)
    is_own = bias is not None and graph.sole_consumer(bias) is node
    if is_own and stored is not None and stored.shape == edit.bias.shape:
        return False
    old = np.zeros((), edit.bias.dtype) if stored is None else stored
    replace(edit, weight=None, bias=np.broadcast_to(old, edit.bias.shape).copy()).apply(graph)
    return True


def _remark(graph: Graph, coupling: Coupling, found: DeadChannels, ctx: Context) -> None:
    """For each group what went, through which layers, and where constants went."""
    for group in coupling.removable:
        dead = found.units.get(group.name)
        if dead is None:
            continue
        layers = _layers(graph, group)
        takers = [node for node in layers if node in found.shifts]
        into = f"; their constants are in the bias of {', '.join(map(str, takers))}" if takers else ""
        through = [str(node) for node in layers[:_NAMED_LAYERS]]
        if len(layers) > _NAMED_LAYERS:
            through.append(f"{len(layers) - _NAMED_LAYERS} more")
        message = f"{int(dead.sum())} of {_counted(group.units, 'channel')} removed from {', '.join(through)}{into}"
        ctx.remarks.applied(graph.producer(_origin(group)), message)


def _decline(graph: Graph, coupling: Coupling, constants: ConstantChannels, found: DeadChannels, ctx: Context) -> None:
    """Say why what looks dead stays."""
    for survivor in found.survivors:
        origin = _origin(survivor.group)
        count = _counted(survivor.units, "channel")
        message = f"{count} of '{origin.name}' constant or unheard, but not removed: {survivor.reason}"
        ctx.remarks.declined(graph.producer(origin), message)
    for group in coupling.groups:
        if group.frozen is None or group.units < 2:
            continue
        stuck = np.zeros(group.units, dtype=bool)
        for slot, inside in group.members.items():
            if slot.tensor in constants.values:
                known = ~np.isnan(constants.along(slot))
                stuck[inside[known & (inside >= 0)]] = True
        if stuck.any():
            count = _counted(int(stuck.sum()), "channel")
            message = f"{count} of '{_origin(group).name}' constant, but not removed: {group.frozen.reason}"
            ctx.remarks.declined(graph.producer(_origin(group)), message)


def _origin(group: Group) -> Tensor:
    """The first activation that the group runs through."""
    tensors = [slot.tensor for slot in group.members]
    return next((t for t in tensors if isinstance(t, Variable)), tensors[0])


def _layers(graph: Graph, group: Group) -> Sequence[Node]:
    """The operations that lose parameters, in graph order."""
    constants = [slot.tensor for slot in group.members if isinstance(slot.tensor, Constant)]
    readers = {node for tensor in constants for node in graph.consumers(tensor)}
    return [node for node in graph.nodes if node in readers]


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
