"""The terms of `noise` for a graph and a target: which grids there are, and what their channels hold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from graphopt.analysis.channels.classes import ChannelFlow, LinearStep
from graphopt.analysis.channels.noise import GridTerm, Term, WeightTerm
from graphopt.analysis.noise_gain import Floats, find_ends, noise_gains, weight_blocks
from graphopt.analysis.placement import place
from graphopt.ir import Graph, Tensor
from graphopt.quant import Scheme
from graphopt.targets import Target

# What most engines have, where no target is given.
_ACTIVATION = Scheme("uint8")
_WEIGHT = Scheme("int8", symmetric=True, narrow=True)
_SMALLEST = 1e-30
# Of a layer, that are looked at in each step of the search.
_MOST_WEIGHTS = 1 << 18


@dataclass(frozen=True, eq=False)
class Spread:
    """What the channels of a tensor hold; [channels] each.

    Attributes:
        high, below: how far they reach above and below zero, both ≥ 0.
        mean_square: E[x²].
        density: the share of values that aren't zero; zero is exact on every grid.
    """

    high: Floats
    below: Floats
    mean_square: Floats
    density: Floats


@dataclass(frozen=True)
class Grid:
    """Tensors that share a scale."""

    tensors: tuple[Tensor, ...]
    scheme: Scheme


def find_grids(graph: Graph, flow: ChannelFlow, target: Target | None) -> list[Grid]:
    """The activations that the target quantizes, of those with channels that could be scaled."""
    if target is None:
        data = dict.fromkeys(s.linear.data for s in flow.linears if s.linear.data in flow.tensors)
        return [Grid((tensor,), _ACTIVATION) for tensor in data]
    placement = place(graph, target, lambda _: False)
    shared: dict[Tensor, list[Tensor]] = {}
    for tensor in flow.tensors:
        if placement.wanted(tensor):
            root = placement.shared[tensor] if tensor in placement.shared.parents else tensor
            shared.setdefault(root, []).append(tensor)
    own = [next((placement.schemes[t] for t in g if t in placement.schemes), None) for g in shared.values()]
    return [Grid(tuple(g), s or target.activation) for g, s in zip(shared.values(), own, strict=True)]


def observed_tensors(graph: Graph, flow: ChannelFlow, target: Target | None) -> list[Tensor]:
    """The tensors whose spreads `terms_of` wants, in graph order."""
    wanted = {t for grid in find_grids(graph, flow, target) for t in grid.tensors}
    wanted |= {s.linear.data for s in flow.linears} | set(find_ends(graph, flow))
    return [t for t in flow.tensors if t in wanted]


def terms_of(graph: Graph, flow: ChannelFlow, spreads: Mapping[Tensor, Spread], target: Target | None) -> list[Term]:
    """The noise of every grid and weight that has a channel to scale; without spread, a tensor has no term."""
    at_ends = {t: 1 / _power(spreads[t]) for t in find_ends(graph, flow) if t in spreads}
    gains = noise_gains(flow, at_ends)
    weight = _WEIGHT if target is None else target.weight
    terms: list[Term] = []
    for grid in find_grids(graph, flow, target):
        known = [t for t in grid.tensors if t in spreads]
        if any(flow.tensors[t].classes.any() for t in known):
            terms.append(_grid_term(flow, known, spreads, gains, grid.scheme))
    for step in flow.linears:
        data = step.linear.data
        # A weight with one input channel for each output channel has a scale for each: nothing depends on s.
        if step.inputs.any() and data in spreads and weight_blocks(step.linear).shape[2] > 1:
            gain = gains.get(step.result)
            terms.append(_weight_term(step, spreads[data], gain, weight.qmax))
    return terms


def _power(spread: Spread) -> float:
    return max(float(spread.mean_square.mean()), _SMALLEST)


def _grid_term(
    flow: ChannelFlow,
    tensors: Sequence[Tensor],
    spreads: Mapping[Tensor, Spread],
    gains: Mapping[Tensor, Floats],
    scheme: Scheme,
) -> GridTerm:
    return GridTerm(
        classes=np.concatenate([flow.tensors[t].classes for t in tensors]),
        high=np.concatenate([spreads[t].high for t in tensors]),
        below=np.concatenate([spreads[t].below for t in tensors]),
        gain=np.concatenate([gains[t] * spreads[t].density for t in tensors]),
        symmetric=scheme.symmetric,
        steps=scheme.steps,
    )


def _weight_term(step: LinearStep, spread: Spread, gain: Floats | None, steps: int) -> WeightTerm:
    """The term of a weight; input channels of one class (behind a Flatten) are taken together."""
    blocks = weight_blocks(step.linear)
    groups, outputs, inputs, positions = blocks.shape
    classes = step.inputs.reshape(groups, inputs)
    largest = np.maximum(blocks.max(axis=3), -blocks.min(axis=3))
    power = (spread.mean_square * positions).reshape(groups, inputs)
    if groups == 1:
        used, place = np.unique(classes[0], return_inverse=True)
        order = np.argsort(place, kind="stable")
        starts = np.searchsorted(place[order], np.arange(len(used)))
        largest = np.maximum.reduceat(largest[0][:, order], starts, axis=1)[None]
        power = np.add.reduceat(power[0][order], starts)[None]
        classes = used[None]
    out = (np.ones(groups * outputs) if gain is None else gain).reshape(groups, outputs)
    # Every few output channels stand for all of them where there are very many.
    every = -(-largest.size // _MOST_WEIGHTS)
    return WeightTerm(classes, largest[:, ::every].astype(np.float64), power, every * out[:, ::every], steps)
