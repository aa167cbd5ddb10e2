"""How much removing units of one group shows in the model's outputs, measured with what reads them refitted.

For each group and a few of its sizes: the units that go (by the ranking) are told from those that stay by a linear map
of the channels in front of each layer that reads them, which is what a closed-form refit of these layers comes to
(`channel_prediction`), and only what lies behind is run (`suffix`). Between the measured sizes the error follows the
ranking's own cost, which is finer, but counts what a layer loses and not what reaches an output.

    error = Σ (y − y')² / Σ y²,  the mean over the outputs

An output that a Softmax or Sigmoid makes is measured in front of it: behind it all large errors look alike, and to
remove almost all of one group would seem to cost no more than to remove half of it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto

from graphopt.analysis.coupling.groups import Coupling, Group, Kept, Slot, Units
from graphopt.analysis.macs import linear_kind
from graphopt.analysis.pruning.elimination import Ranking
from graphopt.analysis.pruning.error_curves import error_curves, kept_units
from graphopt.analysis.pruning.kept_counts import KeptCounts
from graphopt.backends.measures import Tally
from graphopt.calibration.channel_prediction import ChannelMap, ChannelStatistics, zeroed
from graphopt.calibration.prefix import Prefix
from graphopt.calibration.samples import Feed
from graphopt.calibration.suffix import MappedTensor, Suffix
from graphopt.ir import Constant, Graph, Node, to_proto
from graphopt.ir.linear import linear_view

SIZES = 3
# What has bounds, whatever goes in, and keeps the shape.
_BOUNDED = ("Sigmoid", "Softmax", "Tanh")
# A covariance of more channels (what a Flatten makes of a large activation) isn't worth its time: no refit there.
_MOST_CHANNELS = 2048


def measured_curves(
    graph: Graph,
    coupling: Coupling,
    rankings: Mapping[str, Ranking],
    counts: KeptCounts,
    samples: Sequence[Feed],
    *,
    sizes: int = SIZES,
    threads: int | None = None,
) -> dict[str, list[float]]:
    """For each group, the error of the outputs at each of its sizes, as `error_curves` has that of the layers.

    Groups where nothing can be measured (no reader that sums over the units, or a type other than float32) get the
    ranking's costs times the median of measured ÷ ranked over the other groups.

    Args:
        graph: the float model, sorted, types and shapes filled; it isn't changed.
        coupling: of this graph.
        rankings: of each group in `counts`.
        counts: the sizes to choose from.
        samples: a few are enough; all are held.
        sizes: how many sizes of each group are measured, the full one not counted.
        threads: of onnxruntime; None lets it take the cores.

    Raises:
        UnsupportedError: onnxruntime can't run a part of the model by itself.
        CalibrationError: a sample fails.
    """
    model = _unbounded(to_proto(graph))
    ranked = error_curves(rankings, counts)
    groups = {group.name: group for group in coupling.removable if group.name in counts}
    found: dict[str, list[float]] = {}
    for name, group in groups.items():
        last = len(counts[name]) - 1
        numbers = [i for i in range(last) if i in {round(x * last / sizes) for x in range(sizes)}]
        masks = [kept_units(rankings[name], counts[name][i]) for i in numbers]
        errors = measured_errors(graph, model, group, masks, samples, threads=threads)
        if errors is not None:
            found[name] = _through(ranked[name], numbers, counts[name], errors)
    ratios = [m[0] / r[0] for m, r in ((found[n], ranked[n]) for n in found) if r[0] > 0]
    scale = float(np.median(ratios)) if ratios else 1.0
    return {name: found.get(name, [error * scale for error in ranked[name]]) for name in counts}


def measured_errors(
    graph: Graph,
    model: ModelProto,
    group: Group,
    masks: Sequence[Kept],
    samples: Sequence[Feed],
    *,
    threads: int | None = None,
) -> list[float] | None:
    """The error of the outputs for each choice of units that stay; None where it can't be measured.

    Args:
        graph: the float model.
        model: `graph`, written.
        group: whose units go.
        masks: which units stay.
        samples: to run.
        threads: of onnxruntime.
    """
    places = _places(graph, group)
    if not places or any(place.slot.tensor.dtype != np.float32 for place in places):
        return None
    mapped = [place.mapped for place in places]
    suffix = Suffix(model, mapped, threads=threads)
    if not suffix.outputs:
        return None
    wanted = list(dict.fromkeys([*(m.name for m in mapped), *suffix.fed, *suffix.outputs]))
    values = dict(zip(wanted, Prefix(model, samples, threads=threads).fetch(wanted), strict=True))
    statistics = [ChannelStatistics.of(values[p.mapped.name], p.slot.axis) if p.can_refit else None for p in places]
    feeds = [{name: values[name][i] for name in suffix.fed} for i in range(len(samples))]
    errors: list[float] = []
    for mask in masks:
        maps = [place.without(mask, known) for place, known in zip(places, statistics, strict=True)]
        results = suffix.run(feeds, maps)
        shares = [_share(values[name], [r[k] for r in results]) for k, name in enumerate(suffix.outputs)]
        errors.append(sum(shares) / len(graph.outputs))
    return errors


def _unbounded(model: ModelProto) -> ModelProto:
    """With what goes into a last Softmax, say, in place of what comes out; changed in place."""
    inputs = {node.output[0]: node.input[0] for node in model.graph.node if node.op_type in _BOUNDED}
    names = {value.name for value in model.graph.output}
    for value in model.graph.output:
        before = inputs.get(value.name)
        if before is not None and before not in names:
            value.name = before
            names.add(before)
    return model


@dataclass(frozen=True)
class _Place:
    """Where layers read the units of a group.

    Attributes:
        slot: an activation.
        inside: the unit of each of its elements.
        readers: the layers.
        can_refit: whether they can take up what they lose; else they read zeros.
    """

    slot: Slot
    inside: Units
    readers: tuple[Node, ...]
    can_refit: bool

    @property
    def mapped(self) -> MappedTensor:
        """What is to be mapped there."""
        tensor = self.slot.tensor
        names = frozenset(node.name for node in self.readers)
        return MappedTensor(tensor.name, self.slot.axis, len(tensor.shape or ()), names)

    def without(self, mask: Kept, known: ChannelStatistics | None) -> ChannelMap:
        """The map that leaves the units of `mask`."""
        stays = (self.inside < 0) | mask[self.inside]
        return zeroed(stays) if known is None else known.without(stays)


def _places(graph: Graph, group: Group) -> list[_Place]:
    """All readers that sum over units or multiply them by other activations; what passes them on isn't among them."""
    found: list[_Place] = []
    for slot, inside in group.members.items():
        if isinstance(slot.tensor, Constant):
            continue
        nodes = [node for node in graph.consumers(slot.tensor) if node.scope is graph and linear_kind(node) == node.op]
        refit = tuple(node for node in nodes if _sums_over(graph, node, slot))
        zero = tuple(node for node in nodes if node not in refit and _multiplies(graph, node, slot))
        few = len(inside) <= _MOST_CHANNELS
        found += [
            _Place(slot, inside, readers, can and few) for readers, can in ((refit, True), (zero, False)) if readers
        ]
    return found


def _sums_over(graph: Graph, node: Node, slot: Slot) -> bool:
    """Whether a layer with stored weights sums over the slot, all of it for every channel of its result."""
    linear = linear_view(graph, node)
    if linear is None or linear.data is not slot.tensor or linear.groups > 1:
        return False
    return linear.data_channel_axis % len(slot.tensor.shape or ()) == slot.axis


def _multiplies(graph: Graph, node: Node, slot: Slot) -> bool:
    """Whether it is a product of activations, or a convolution of groups that sums over the slot."""
    linear = linear_view(graph, node)
    if linear is None:
        return True
    return linear.is_conv and not linear.is_depthwise and linear.groups > 1 and linear.data is slot.tensor


def _share(reference: Sequence[NDArray[Any]], other: Sequence[NDArray[Any]]) -> float:
    """Σ (y − y')² / Σ y² over the samples; 0 for an output that isn't a float, infinite where a result isn't finite."""
    if reference[0].dtype.kind != "f":
        return 0.0
    tally = Tally()
    for left, right in zip(reference, other, strict=True):
        tally.add(left, right)
    return tally.noise / tally.signal if tally.signal > 0 else float(tally.noise > 0)


def _through(
    ranked: Sequence[float], numbers: Sequence[int], sizes: Sequence[int], errors: Sequence[float]
) -> list[float]:
    """The ranked curve, scaled so that it goes through the measured errors; never falling as sizes do."""
    costs = np.array(ranked)
    at = [sizes[i] for i in numbers]
    if all(costs[i] > 0 for i in numbers):
        curve = costs * np.interp(sizes, at, [e / costs[i] for e, i in zip(errors, numbers, strict=True)])
    else:
        curve = np.interp(sizes, [*at, sizes[-1]], [*errors, 0.0])
    curve[-1] = 0.0
    return np.maximum.accumulate(curve[::-1])[::-1].tolist()
