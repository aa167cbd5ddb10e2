"""The time of each region and of each conversion between regions, from the times of an engine's kernels.

    x → QuantizeLinear → Transpose → QLinearConv → …        Conv: QLinearConv; (x, int8): QuantizeLinear, Transpose

A kernel that came from nodes of a region is the region's, with what the region carries. Any other changes precision or
memory layout between two regions: where the tensor between them has to be converted it is part of that, and otherwise
part of the region that reads. What lies between no regions is in `fixed`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from onnx import ModelProto

from graphopt.analysis.precision.problem import forms_held, forms_written, is_integer
from graphopt.analysis.precision.types import Assignment, Border, Region, Regions
from graphopt.backends.kernel_times import KernelTime
from graphopt.quant.precision import PRECISIONS

_FLOAT = "float32"


@dataclass
class RegionTimes:
    """Seconds of a call, as the kernels' times add up.

    Attributes:
        regions: name of a region → its own; 0 for one that has no kernel (it runs in another one's).
        conversions: (border's tensor, form) → of each that the assignment needs; 0 where it has no kernel.
        fixed: what belongs to neither.
    """

    regions: dict[str, float]
    conversions: dict[tuple[str, str], float] = field(default_factory=dict[tuple[str, str], float])
    fixed: float = 0.0

    @property
    def total(self) -> float:
        """All of it."""
        return sum(self.regions.values()) + sum(self.conversions.values()) + self.fixed


def uniform(regions: Regions, precision: str, model: ModelProto | None = None) -> dict[str, str]:
    """Every region in this precision that can have it, the others in float32.

    Args:
        regions: of the float model.
        precision: the name of one.
        model: that model written in this precision; regions that it nevertheless has in float32, since nobody reads
            their integers, are told apart where the precision has integer activations. None: none are.
    """
    able = [region for region in regions.regions if precision in region.precisions]
    if model is not None and is_integer(precision):
        written = _Written(model, regions)
        able = [region for region in able if written.has_integers(region)]
    names = {region.name for region in able}
    return {region.name: precision if region.name in names else _FLOAT for region in regions.regions}


def needed(regions: Regions, assignment: Assignment) -> dict[tuple[str, str], Border]:
    """(border's tensor, form) → the border, of every conversion that an assignment needs."""
    by_name = regions.by_name
    return {
        (border.tensor, form): border
        for border in regions.borders
        for form in forms_held(by_name, border, assignment)
        if form not in forms_written(by_name, border, assignment)
    }


def region_times(kernels: Sequence[KernelTime], regions: Regions, assignment: Assignment) -> RegionTimes:
    """Give each kernel's time to what it belongs to.

    Args:
        kernels: of a model in which the regions have the precisions of `assignment`; its nodes have the names that they
            have in the regions.
        regions: of the float model.
        assignment: what the model is in.
    """
    flow = _Flow(kernels, regions)
    conversions = needed(regions, assignment)
    times = RegionTimes({region.name: 0.0 for region in regions.regions}, dict.fromkeys(conversions, 0.0))
    for number, kernel in enumerate(kernels):
        owner = flow.owners[number]
        if owner is None:
            between = flow.between(number)
            found = [key for key, border in conversions.items() if between.serves(key[1], border, assignment)]
            for key in found:
                times.conversions[key] += kernel.seconds / len(found)
            if found:
                continue
            owner = next(iter((*between.readers, *between.writers)), None)
        if owner is None:
            times.fixed += kernel.seconds
        else:
            times.regions[owner] += kernel.seconds
    return times


@dataclass(frozen=True)
class _Between:
    """What lies before and behind a kernel that belongs to no region."""

    writers: tuple[str, ...]
    sources: frozenset[str]
    readers: tuple[str, ...]
    is_last: bool

    def serves(self, form: str, border: Border, assignment: Assignment) -> bool:
        """Whether it lies on the way from the border's writer to somebody who reads this form."""
        if not (border.writer in self.writers if border.writer is not None else border.tensor in self.sources):
            return False
        if self.is_last and border.is_output and form == _FLOAT:
            return True
        return any(r in border.readers and PRECISIONS[assignment[r]].form == form for r in self.readers)


class _Flow:
    """Which kernel reads what another writes, and which regions they belong to."""

    def __init__(self, kernels: Sequence[KernelTime], regions: Regions) -> None:
        owner = {node: region.name for region in regions.regions for node in (*region.nodes, *region.carried)}
        self.kernels = kernels
        self.owners = [next((owner[n] for n in kernel.nodes if n in owner), None) for kernel in kernels]
        self.makers = {tensor: number for number, kernel in enumerate(kernels) for tensor in kernel.outputs}
        self.readers: dict[str, list[int]] = {}
        for number, kernel in enumerate(kernels):
            for tensor in kernel.inputs:
                self.readers.setdefault(tensor, []).append(number)

    def between(self, number: int) -> _Between:
        """The regions next to a kernel, seen through kernels that belong to none."""
        before = list(self.walk(number, forwards=False))
        behind = list(self.walk(number, forwards=True))
        sources = {t for n in (number, *before) if self.owners[n] is None for t in self.kernels[n].inputs}
        # An input of the model has no kernel, or one that reads nothing.
        starts = {t for t in sources if t not in self.makers or not self.kernels[self.makers[t]].inputs}
        through = [n for n in (number, *behind) if self.owners[n] is None]
        ends = any(t not in self.readers for n in through for t in self.kernels[n].outputs)
        return _Between(self.named(before), frozenset(starts), self.named(behind), ends)

    def named(self, numbers: Sequence[int]) -> tuple[str, ...]:
        """Their regions, each once."""
        return tuple(dict.fromkeys(owner for n in numbers if (owner := self.owners[n]) is not None))

    def walk(self, number: int, *, forwards: bool) -> Iterator[int]:
        """Kernels on one side, as far as the first that belongs to a region on each way."""
        seen, pending = {number}, [number]
        while pending:
            for following in self.step(pending.pop(0), forwards):
                if following in seen:
                    continue
                seen.add(following)
                yield following
                if self.owners[following] is None:
                    pending.append(following)

    def step(self, number: int, forwards: bool) -> list[int]:
        """Kernels next to one on one side."""
        kernel = self.kernels[number]
        if forwards:
            return [n for tensor in kernel.outputs for n in self.readers.get(tensor, ())]
        return [self.makers[tensor] for tensor in kernel.inputs if tensor in self.makers]


class _Written:
    """A Q/DQ model, and which regions it has in integers."""

    def __init__(self, model: ModelProto, regions: Regions) -> None:
        self.nodes = {node.name: node for node in model.graph.node}
        self.quantized = {n.input[0] for n in model.graph.node if n.op_type == "QuantizeLinear"}
        stored = {tensor.name for tensor in model.graph.initializer}
        carried = {name for region in regions.regions for name in region.carried}
        self.weights: set[str] = set()
        self.dequantized: set[str] = set()
        for node in model.graph.node:
            if node.op_type == "DequantizeLinear":
                (self.weights if node.input[0] in stored else self.dequantized).add(node.output[0])
            elif node.name in carried and not self.dequantized.isdisjoint(node.input):
                self.dequantized.update(node.output)

    def has_integers(self, region: Region) -> bool:
        """Whether it reads integers, and writes them where its kernel has to."""
        node = self.nodes.get(region.name)
        if node is None:
            return False
        if region.weights:
            return not self.weights.isdisjoint(node.input[:2])
        written = {name for n in region.nodes if n in self.nodes for name in self.nodes[n].output}
        writes = not region.writes_form or not written.isdisjoint(self.quantized)
        return writes and not self.dequantized.isdisjoint(node.input)
