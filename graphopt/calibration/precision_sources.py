"""Sources of error of mixed precision, as edits of the float model: which values are rounded, and where.

    weights of a region, int8        Conv(x, W)          →  Conv(x, W′),  W′ on the plan's grid
    weights of a region, float16     Conv(x, W) → Relu   →  round(Relu(round(Conv(x, W′))))
    a tensor in int8                 t → Conv            →  t → Q → DQ → Conv     for each use that the plan lists
    a tensor in float16              t → Conv, Add       →  t → round → Conv, Add

A source is what `precision_types.Sensitivity` has one number for. What the plan rounds and no border stands for (the
result of a last Gemm, a tensor inside a region) belongs to the region that makes it. A region's inputs aren't among
its own edits: they are the tensors' sources. Its result is, in float16 and bfloat16, even if its reader's border has
that too: rounding again changes nothing, so that what two such neighbours lose between them is counted twice at most.

Weights in int8 are rounded as `quantize-weights` does by default, but for scales that it raises to make a bias fit.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from graphopt.analysis.precision.types import Border, Region, Regions
from graphopt.analysis.response import pointwise_chain
from graphopt.calibration.precision_weights import Use, stored_in
from graphopt.ir import Constant, Graph, Node, Tensor
from graphopt.ir.float_parameters import LOW_FLOATS
from graphopt.quant import QuantParams, Range, Scheme, TensorPlan, solve_params
from graphopt.quant.precision import PRECISIONS

Identity: TypeAlias = tuple[bool, tuple[str, str]]
"""Of a source, for who doesn't keep its weights: whether it is a tensor, and its key."""

_INT16 = Scheme("int16", symmetric=True, narrow=True)
_FLOAT32 = np.dtype(np.float32)

Rounding: TypeAlias = QuantParams | str
"""To a grid, or to a floating point type by its name in `LOW_FLOATS`."""


@dataclass(frozen=True, eq=False)
class Source:
    """One source of error; equal to itself alone.

    Attributes:
        key: (region, precision), or (border's tensor, form).
        is_tensor: whether it is the latter.
        nodes: names of those that make `measured` of what is rounded, in graph order: a region's; of a tensor those of
            the one function of it that is all that is read (SiLU, behind which ranges are solved, too), mostly none.
        measured: the tensor at which its own loss is taken: the region's result, or the border's tensor.
        constants: use → the values that are read there instead, float32.
        reads: use → what its operand is rounded to.
        results: tensor → what it is rounded to for whoever reads it.
    """

    key: tuple[str, str]
    is_tensor: bool
    nodes: tuple[str, ...]
    measured: str
    constants: Mapping[Use, NDArray[np.float32]] = field(default_factory=dict[Use, NDArray[np.float32]])
    reads: Mapping[Use, Rounding] = field(default_factory=dict[Use, Rounding])
    results: Mapping[str, Rounding] = field(default_factory=dict[str, Rounding])

    @property
    def identity(self) -> Identity:
        """What it is called."""
        return self.is_tensor, self.key

    @property
    def is_empty(self) -> bool:
        """Whether nothing is rounded: it loses nothing."""
        return not (self.constants or self.reads or self.results)

    @property
    def coarsest(self) -> Rounding:
        """Of the roundings of a tensor, mostly one, that with the largest steps."""
        found = [*self.reads.values(), *self.results.values()]
        return max(found, key=lambda r: 0.0 if isinstance(r, str) else float(r.scale.max()))

    @property
    def nbytes(self) -> int:
        """Of the values that take the constants' place, each counted once."""
        return sum({id(values): values.nbytes for values in self.constants.values()}.values())


def find_sources(graph: Graph, regions: Regions) -> Iterator[Source]:
    """Every source that isn't empty: those of the regions, then those of the borders, in graph order.

    Lazily: the rounded weights of a region exist once it is its turn.

    Args:
        graph: the float model, with the all-8-bit plan and its ranges where int8 is a choice.
        regions: of the graph.

    Raises:
        KeyError: a planned tensor has no range.
    """
    finder = _Finder(graph, regions)
    for region in regions.regions:
        for precision in region.precisions:
            source = finder.weights(region, precision)
            if not source.is_empty:
                yield source
    for border in regions.borders:
        for form in finder.forms(border):
            source = finder.tensor(border, form)
            if not source.is_empty:
                yield source


class _Finder:
    def __init__(self, graph: Graph, regions: Regions) -> None:
        self.graph, self.regions = graph, regions
        self.nodes = {node.name: node for node in graph.nodes}
        self.tensors = graph.tensors()
        self.ranges: Mapping[str, Range] = graph.plan.solved_ranges()
        self.by_name = regions.by_name
        self.carried = {name for region in regions.regions for name in region.carried}
        self.reached = {border.tensor: self._planned_behind(border.tensor) for border in regions.borders}
        covered = {entry.tensor for found in self.reached.values() for entry, _ in found}
        owner = {name: region.name for region in regions.regions for name in (*region.carried, *region.nodes)}
        self.inner: dict[str, list[TensorPlan]] = {}
        for entry in graph.plan:
            tensor = self.tensors[entry.tensor]
            producer = graph.producer(tensor)
            if entry.tensor not in covered and producer is not None and producer.name in owner:
                self.inner.setdefault(owner[producer.name], []).append(entry)

    def forms(self, border: Border) -> list[str]:
        """Forms other than float32 that the tensor can be held in, sorted."""
        possible = {PRECISIONS[p].form for reader in border.readers for p in self.by_name[reader].precisions}
        writer = None if border.writer is None else self.by_name[border.writer]
        if writer is not None and writer.writes_form:
            possible |= {PRECISIONS[p].form for p in writer.precisions}
        return sorted(possible - {"float32"})

    def weights(self, region: Region, precision: str) -> Source:
        """What the region itself loses."""
        constants = self._constants(region, precision)
        reads: dict[Use, Rounding] = {}
        results: dict[str, Rounding] = {}
        if precision in LOW_FLOATS:
            outputs = (t for name in region.nodes for t in self.nodes[name].present_outputs())
            results.update((t.name, precision) for t in outputs if t.dtype == _FLOAT32)
        elif precision in ("int8", "int16x8"):
            for entry in self.inner.get(region.name, ()):
                self._apply(entry, PRECISIONS[precision].form, reads, results)
        measured = self._measured(region)
        if measured is None:
            constants = {}  # it gives no floats: nothing can be compared
        return Source(
            (region.name, precision), False, region.nodes, measured or region.result, constants, reads, results
        )

    def _measured(self, region: Region) -> str | None:
        """The region's result, or where that isn't float32 the last tensor of it that is."""
        made = [t for name in region.nodes for t in self.nodes[name].present_outputs() if t.dtype == _FLOAT32]
        names = [tensor.name for tensor in made]
        return region.result if region.result in names else names[-1] if names else None

    def tensor(self, border: Border, form: str) -> Source:
        """What is lost of a border's tensor in a form."""
        reads: dict[Use, Rounding] = {}
        results: dict[str, Rounding] = {}
        if form in LOW_FLOATS:
            tensor = self.tensors[border.tensor]
            if tensor.dtype == _FLOAT32:
                uses = self.graph.uses(tensor)
                reads.update(((node.name, i), form) for node, i in uses if node.scope is self.graph)
        else:
            for entry, joined in self.reached[border.tensor]:
                if joined is None:
                    self._apply(entry, form, reads, results)
                else:
                    reads.setdefault(joined, self._grid(entry, form))
        chain = pointwise_chain(self.graph, self.tensors[border.tensor]) if reads else None
        nodes = () if chain is None else tuple(node.name for node in chain.nodes)
        measured = border.tensor if chain is None else chain.result.name
        return Source((border.tensor, form), True, nodes, measured, {}, reads, results)

    def _apply(self, entry: TensorPlan, form: str, reads: dict[Use, Rounding], results: dict[str, Rounding]) -> None:
        """Rounding where the plan has it."""
        grid = self._grid(entry, form)
        # What nodes of nested graphs read is rounded only where everybody gets the integers.
        if entry.is_output or any(edge.node not in self.nodes for edge in entry.edges):
            results[entry.tensor] = grid
        else:
            reads.update(((edge.node, edge.index), grid) for edge in entry.edges)

    def _grid(self, entry: TensorPlan, form: str) -> QuantParams:
        covered = self.ranges[entry.tensor]
        if form != "int16":
            return solve_params(covered, entry.scheme)
        if entry.fixed:
            # 8 bits leave the last step out: a Sigmoid has [0, 255/256], and [−1, 1] in 16 bits.
            largest = 2.0 ** np.ceil(np.log2(max(-covered.low.min(), covered.high.max())))
            covered = Range.of(-largest, largest)
        return solve_params(covered, _INT16)

    def _planned_behind(self, tensor: str) -> list[tuple[TensorPlan, Use | None]]:
        """Planned tensors that hold the border's values, each with the use of it by which others join them before."""
        found: list[tuple[TensorPlan, Use | None]] = []
        todo: list[tuple[Tensor, Use | None]] = [(self.tensors[tensor], None)]
        seen: set[str] = set()
        while todo:
            current, joined = todo.pop()
            if current.name in seen:
                continue
            seen.add(current.name)
            entry = self.graph.plan.tensors.get(current.name)
            if entry is not None:
                found.append((entry, joined))
            for node, index in self.graph.uses(current):
                if node.name not in self.carried or not (index == 0 or _joins(node)):
                    continue
                at = joined or ((node.name, index) if _joins(node) else None)
                todo += [(output, at) for output in node.present_outputs()]
        return found

    def _constants(self, region: Region, precision: str) -> dict[Use, NDArray[np.float32]]:
        """What the region's nodes read in the precision: its weights; in halves all of its constants."""
        inside = [self.nodes[name] for name in region.nodes]
        names: Iterable[str] = region.weights
        if precision in LOW_FLOATS:
            read = (t for node in inside for _, t in node.present_inputs())
            names = dict.fromkeys(t.name for t in read if isinstance(t, Constant))
        found: dict[Use, NDArray[np.float32]] = {}
        for name in names:
            tensor = self.tensors.get(name)
            if isinstance(tensor, Constant):
                found |= stored_in(self.graph, tensor, inside, precision, self.ranges.get(name))
        return found


def _joins(node: Node) -> bool:
    return node.is_op("Concat")
