"""How much of a relative error reaches the outputs, from how errors really add up: weights of local losses.

    accumulated(y) = κ(y) · Σ share · (accumulated + rounding)(x) + own(y)         y: a region's result, x: its inputs
    gain(x)        = Σ over readers: share · κ(y) · gain(y)

Beside the float model runs a copy with all of its sources at once. What it has lost at each result, less what is lost
there by itself, over what its operands have lost, is κ: how the layer passes errors on. Averages cancel errors, and so
do sums over channels, but not those that a weight makes everywhere alike; the first layers' grow where the last ones'
don't. Signal powers alone (`layer_gains`) can't tell: on four networks the ranks of tensors so weighted had next to
nothing to do with those of their effects at the outputs (correlation −0.2 to 0.5; with κ 0.6 to 0.9).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from graphopt.backends.layer_gains import float_ends, operands, share
from graphopt.calibration.precision_sources import Identity, Rounding, Source
from graphopt.calibration.precision_weights import Use
from graphopt.ir import Graph, Node

# Of what a part can be in: the first that it has. Which hardly matters, as long as there is noise.
_PREFERRED = ("int8", "int16x8", "int16", "int4-weights", "bfloat16", "float16", "float16-weights")
# Where nearly all is lost by the layer itself, what it passes on is a difference of large numbers.
_LEAST_PASSED = 0.02


@dataclass
class AllSources:
    """One source of each part, together."""

    chosen: dict[tuple[bool, str], Source] = field(default_factory=dict[tuple[bool, str], Source])

    def add(self, sources: Iterable[Source]) -> None:
        """Take in those that are preferred to what their part has."""
        for source in sources:
            part = source.is_tensor, source.key[0]
            known = self.chosen.get(part)
            if known is None or _PREFERRED.index(source.key[1]) < _PREFERRED.index(known.key[1]):
                self.chosen[part] = source

    def together(self) -> Source:
        """Their edits as one source."""
        constants: dict[Use, NDArray[np.float32]] = {}
        reads: dict[Use, Rounding] = {}
        results: dict[str, Rounding] = {}
        for source in self.chosen.values():
            constants |= source.constants
            reads |= source.reads
            results |= source.results
        return Source(("", ""), False, (), "", constants, reads, results)

    def losses(self, relative: Mapping[Identity, float]) -> tuple[dict[str, float], dict[str, float]]:
        """What is lost at each tensor where a loss is taken: in making it, and in rounding it for its readers."""
        own: dict[str, float] = {}
        rounding: dict[str, float] = {}
        for source in self.chosen.values():
            # A tensor's loss that is taken behind a function of it is in what that function gives.
            found = rounding if source.is_tensor and not source.nodes else own
            found[source.measured] = found.get(source.measured, 0.0) + relative[source.identity]
        return own, rounding


def measured_gains(
    graph: Graph,
    powers: Mapping[str, float],
    accumulated: Mapping[str, float],
    own: Mapping[str, float],
    rounding: Mapping[str, float],
) -> dict[str, float]:
    """For each tensor of the main graph, relative noise power at the outputs (their mean) over its own.

    Args:
        graph: the float model, sorted.
        powers: sum of squares of each tensor that `layer_gains.joined` names.
        accumulated: what was lost at some tensors with all sources together, relative.
        own: what is lost at each by the region that makes it.
        rounding: what is lost of each by rounding it for its readers.
    """
    factors = _factors(graph, powers, accumulated, own, rounding)
    ends = float_ends(graph)
    gain = {tensor.name: 1 / len(ends) for tensor in ends}
    for node in reversed(graph.nodes):
        behind = sum(gain.get(t.name, 0.0) * factors.get(t.name, 1.0) for t in node.present_outputs())
        for name in _read(graph, node):
            gain[name] = gain.get(name, 0.0) + behind * share(node, name, powers)
    return gain


def _factors(
    graph: Graph,
    powers: Mapping[str, float],
    accumulated: Mapping[str, float],
    own: Mapping[str, float],
    rounding: Mapping[str, float],
) -> dict[str, float]:
    """κ of the tensors in `accumulated`."""
    factors: dict[str, float] = {}
    lost = {tensor.name: rounding.get(tensor.name, 0.0) for tensor in graph.inputs}
    for node in graph.nodes:
        heard = sum(lost.get(name, 0.0) * share(node, name, powers) for name in _read(graph, node))
        for tensor in node.present_outputs():
            name, arrives = tensor.name, heard
            whole = accumulated.get(name, math.nan)
            if math.isfinite(whole):
                passed = max(whole - own.get(name, 0.0), _LEAST_PASSED * whole)
                # What hears nothing passes nothing on that would count.
                factors[name] = passed / heard if 0 < heard < math.inf else 1.0
                arrives = whole
            lost[name] = arrives + rounding.get(name, 0.0)
    return factors


def _read(graph: Graph, node: Node) -> list[str]:
    """What a node reads, its nested graphs included."""
    return [*operands(node), *(tensor.name for tensor in graph.captured(node))]
