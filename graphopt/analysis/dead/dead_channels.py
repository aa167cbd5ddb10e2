"""Which units of channel groups can go without changing any output, and what their readers' biases have to take over.

A unit (`coupling.groups`) goes by setting it to 0 in every activation. Nothing changes by that where, for each element
of an activation, one of these holds, for all who read it:

    it is the constant 0
    the reader hands it on, to an element of the same unit, which is looked at itself
    the reader is linear and its weights for it are 0, or lead to outputs that go as well
    the reader is linear, hears it as a constant, and its bias can take up W · constant

What is heard only by channels that go is dead too, so all units are taken for dead at first, and those that break a
rule come back until none does. At least one unit of each group stays.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from graphopt.analysis.channels.reads import Mask
from graphopt.analysis.coupling.groups import Coupling
from graphopt.analysis.dead.constant_channels import ConstantChannels
from graphopt.analysis.dead.dead_search import Floats, Search, Survivor
from graphopt.ir import Graph, Node


@dataclass(frozen=True)
class DeadChannels:
    """What can go.

    Attributes:
        units: by group name, the units that can go; only groups that have some.
        shifts: what the channels that go add to linear readers as constants: [input channels].
        survivors: what looked dead and isn't.
    """

    units: Mapping[str, Mask]
    shifts: Mapping[Node, Floats]
    survivors: tuple[Survivor, ...]


def dead_channels(
    graph: Graph,
    coupling: Coupling,
    constants: ConstantChannels,
    refused: Mapping[Node, str] | None = None,
    align: int = 1,
) -> DeadChannels:
    """Find the units that can go.

    Args:
        graph: nodes sorted, types and shapes filled in.
        coupling: the groups of this graph as it stands.
        constants: what is known of its activations.
        refused: linear operations whose bias can't take up constants, and why.
        align: of a group with more channels than that, a multiple of it stays, where not all stay.
    """
    search = Search(graph, coupling, constants, refused or {})
    while search.settle() or search.round_up(align):
        pass
    return DeadChannels(
        {name: dead for name, dead in search.dead.items() if dead.any()},
        {r.linear.node: shift for r in search.readers if r.linear and (shift := search.shift(r)).any()},
        tuple(search.survivors()),
    )
