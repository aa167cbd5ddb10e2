"""Channels of tensors, in classes that are scaled alike, and how they go through a graph: what `flow` finds."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from graphopt.ir import Node, Tensor
from graphopt.ir.linear import Linear

Indices = NDArray[np.intp]

PINNED = 0
"""The class whose scale is 1."""


@dataclass(frozen=True, eq=False)
class Channels:
    """The class of each channel of a tensor: `classes` [channels] along `axis` ≥ 0."""

    axis: int
    classes: Indices


@dataclass(frozen=True, eq=False)
class Step:
    """An operation that channels pass: channel j of `result` is channel `source[j]` of `operand`, −1: of none."""

    node: Node
    operand: Tensor
    result: Tensor
    source: Indices


@dataclass(frozen=True, eq=False)
class LinearStep:
    """A linear operation: classes of its input channels and of its output channels; all pinned where none is free."""

    linear: Linear
    result: Tensor
    inputs: Indices
    outputs: Indices


@dataclass(frozen=True, eq=False)
class Parameter:
    """A constant, input `index` of `node`, to be scaled along the axis that has `axes_behind` axes after it."""

    node: Node
    index: int
    axes_behind: int
    classes: Indices


@dataclass
class ChannelFlow:
    """What `flow` found, in graph order; class numbers go from 0 (`PINNED`) to `count` − 1.

    Attributes:
        tensors: the classes of each tensor's channels; tensors without a channel that could be scaled are left out.
        linears: every linear operation of the graph.
        steps: how channels go on through other operations.
        parameters: constants to be scaled too: those of an Add, and those that make an affine source.
        sources: the affine sources and the classes of their results.
        pinned: linear operations and sources with channels of the result that can't be scaled, with the first reason.
    """

    count: int = 1
    tensors: dict[Tensor, Channels] = field(default_factory=dict[Tensor, Channels])
    linears: list[LinearStep] = field(default_factory=list[LinearStep])
    steps: list[Step] = field(default_factory=list[Step])
    parameters: list[Parameter] = field(default_factory=list[Parameter])
    sources: dict[Node, Indices] = field(default_factory=dict[Node, Indices])
    pinned: dict[Node, str] = field(default_factory=dict[Node, str])

    def renumbered(self, numbers: Indices) -> ChannelFlow:
        """With class `numbers[c]` in place of c; those that become `PINNED` aren't scaled."""
        return replace(
            self,
            count=int(numbers.max()) + 1,
            tensors={t: Channels(c.axis, numbers[c.classes]) for t, c in self.tensors.items()},
            linears=[replace(s, inputs=numbers[s.inputs], outputs=numbers[s.outputs]) for s in self.linears],
            parameters=[replace(p, classes=numbers[p.classes]) for p in self.parameters],
            sources={node: numbers[classes] for node, classes in self.sources.items()},
        )


@dataclass
class Ties:
    """Which of `count` classes are one, and which are pinned, as it is found out."""

    tied: list[tuple[Indices, Indices]] = field(default_factory=list[tuple[Indices, Indices]])
    pins: list[tuple[Indices, str]] = field(default_factory=list[tuple[Indices, str]])

    def solved(self, count: int) -> tuple[Indices, dict[int, str]]:
        """(the final number of each class, those that are pinned 0; the first reason for each pinned class)."""
        parent = list(range(count))
        for left, right in self.tied:
            for a, b in zip(left.tolist(), right.tolist(), strict=True):
                _join(parent, a, b)
        reasons: dict[int, str] = {}
        for classes, reason in self.pins:
            for c in classes.tolist():
                reasons.setdefault(_root(parent, c), reason)
        roots = np.array([_root(parent, c) for c in range(count)])
        free = ~np.isin(roots, [*reasons, _root(parent, PINNED)])
        final = np.full(count, PINNED)
        if free.any():
            final[free] = np.unique(roots[free], return_inverse=True)[1] + 1
        return final, {c: reasons[int(r)] for c, r in enumerate(roots) if int(r) in reasons}


def _root(parent: list[int], c: int) -> int:
    while parent[c] != c:
        parent[c] = parent[parent[c]]
        c = parent[c]
    return c


def _join(parent: list[int], a: int, b: int) -> None:
    a, b = _root(parent, a), _root(parent, b)
    parent[max(a, b)] = min(a, b)
