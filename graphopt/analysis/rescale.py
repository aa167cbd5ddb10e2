"""Write scales of channel classes into the weights, biases and constants of a graph."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from graphopt.analysis.channels.classes import ChannelFlow
from graphopt.ir import Graph
from graphopt.ir.linear_edit import Declined, affine_input, affine_output


def rescale(graph: Graph, flow: ChannelFlow, scales: NDArray[np.float64]) -> None:
    """Multiply every channel of class c by `scales[c]` (1 for class 0); the graph's outputs stay.

    A channel's scale goes into the output channel that makes it and, inverted, into the input channels that read it.
    """
    for step in flow.linears:
        for side, factors in ((affine_output, scales[step.outputs]), (affine_input, 1 / scales[step.inputs])):
            if (factors != 1).any():
                edit = side(graph, step.linear, factors)
                assert not isinstance(edit, Declined)  # channel_flow pins what can't be edited
                edit.apply(graph)
    for parameter in flow.parameters:
        factors = scales[parameter.classes]
        if (factors != 1).any():
            tensor = graph.own_constant(parameter.node, parameter.index)
            column = factors.reshape(-1, *[1] * parameter.axes_behind)
            graph.set_values(tensor, (tensor.values * column).astype(tensor.dtype))
