"""A model cut into segments, so that a source of error costs what lies behind it and no more.

    x → A → B ┊ C → D ┊ E → F → y        sources at A, B, C …          ┊ cuts

    probe of a segment      its float nodes, and for each of its sources a copy of what changes up to the next cut
    tail of a segment       everything behind that cut which anything in the segment reaches

One run of the probe gives what each source makes of the tensors that cross the cut; the tail then runs once a source,
fed with those and for the rest with the float model's values. So there are two sessions a segment, not one a source. A
source that rounds something far behind what it rounds first (a tensor of a U-Net's skip) is copied to the outputs.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from math import isqrt

from onnx import NodeProto, TensorProto

from graphopt.calibration.precision_copies import Copies
from graphopt.calibration.precision_pieces import Piece, piece
from graphopt.calibration.precision_sources import Source
from graphopt.calibration.shapes import Inferred
from graphopt.calibration.weights import Detached
from graphopt.ir.reads import reads

# More cuts are more sessions to open and more tensors to hold; a dozen tails together are six models.
_MOST_SEGMENTS = 12
_NOT_IN_NUMPY = (TensorProto.BFLOAT16, TensorProto.STRING)


@dataclass(frozen=True)
class Segment:
    """Sources that are measured together.

    Attributes:
        sources: those whose first rounding is in the segment.
        probe: gives what crosses the cut, for each source.
        crossing: for each source, tensor of the float model → which output of the probe takes its place.
        tail: None where the probe gives the outputs already.
    """

    sources: tuple[Source, ...]
    probe: Piece
    crossing: tuple[Mapping[str, int], ...]
    tail: Piece | None

    @property
    def needs(self) -> frozenset[str]:
        """Tensors of the float model that it is fed with."""
        return frozenset((*self.probe.inputs, *(() if self.tail is None else self.tail.inputs)))


def segments(
    model: Detached, inferred: Inferred, sources: Sequence[Source], wanted: Sequence[str], budget: int
) -> list[Segment]:
    """The segments, in graph order.

    Args:
        model: the float model, nodes sorted and named.
        inferred: of the model, for a sample.
        sources: of the model.
        wanted: tensors of the model at which the sources are to be compared.
        budget: bytes that a probe's outputs for one sample may take; a segment with more is measured in parts.
    """
    return _Cutter(model, inferred, wanted, budget).segments(sources)


class _Cutter:
    def __init__(self, model: Detached, inferred: Inferred, wanted: Sequence[str], budget: int) -> None:
        self.model, self.inferred, self.wanted, self.budget = model, inferred, wanted, budget
        graph = model.model.graph
        self.nodes: list[NodeProto] = list(graph.node)
        self.position = {node.name: number for number, node in enumerate(self.nodes)}
        self.made = {name: number for number, node in enumerate(self.nodes) for name in node.output if name}
        self.last: dict[str, int] = {}
        for number, node in enumerate(self.nodes):
            self.last.update(dict.fromkeys(reads(node), number))
        self.last |= {name: len(self.nodes) for name in wanted}
        # Constant nodes are repeated, not fed: weights that are inputs make slow kernels.
        self.free = {name for node in self.nodes if not any(reads(node)) for name in node.output}
        self.free |= {tensor.values.name for tensor in graph.sparse_initializer}
        self.free |= {tensor.name for tensor in graph.initializer}

    def segments(self, sources: Sequence[Source]) -> list[Segment]:
        """See the function of this name."""
        spans = {source: self.span(source) for source in sources}
        count = min(_MOST_SEGMENTS, max(1, isqrt(len(sources))))
        longest = len(self.nodes) // count
        far = {source for source, (first, last) in spans.items() if last - first > longest}
        cuts = self.cuts([spans[s] for s in sources if s not in far], count)
        found: list[Segment] = []
        for start, end in zip([0, *cuts], [*cuts, len(self.nodes)], strict=True):
            inside = [s for s in sources if start <= spans[s][0] < end]
            near = [s for s in inside if s not in far]
            found += [self.segment(start, end, part) for part in self.parts(near, end)]
            # One at a time: a copy of all that follows is as large as the model.
            found += [self.segment(start, len(self.nodes), [s]) for s in inside if s in far]
        return found

    def span(self, source: Source) -> tuple[int, int]:
        """Positions of the first and of the last node that something is rounded at."""
        at = [self.position[name] for name, _ in (*source.constants, *source.reads)]
        at += [self.made.get(name, 0) for name in source.results]
        return min(at), max(at)

    def cuts(self, spans: Iterable[tuple[int, int]], count: int) -> list[int]:
        """At most `count` − 1 places between nodes, spread over the sources, where little crosses."""
        firsts = sorted(first for first, _ in spans)
        if count < 2 or not firsts:
            return []
        weights = self.crossing_bytes
        allowed = [self.is_cut(p) for p in range(len(self.nodes) + 1)]
        for first, last in spans:
            for p in range(first + 1, last + 1):
                allowed[p] = False
        bounds = [firsts[len(firsts) * k // count] for k in range(count)] + [len(self.nodes)]
        found: list[int] = []
        for low, middle, high in zip(bounds, bounds[1:], bounds[2:], strict=False):
            window = range((low + middle) // 2 + 1, (middle + high) // 2 + 1)
            places = [p for p in window if allowed[p] and p > max(found, default=0)]
            if places:
                found.append(min(places, key=lambda p: (weights[p], abs(p - middle))))
        return found

    @cached_property
    def crossing_bytes(self) -> list[int]:
        """Of a sample's tensors that are made in front of each position and read behind it."""
        names = [name for name in self.last if name not in self.free]
        sizes = self.inferred.sizes(names)
        change = [0] * (len(self.nodes) + 2)
        for name in names:
            change[self.made.get(name, -1) + 1] += sizes[name]
            change[min(self.last[name], len(self.nodes)) + 1] -= sizes[name]
        return list(accumulate(change))

    @cached_property
    def uncuttable(self) -> list[int]:
        """How many tensors that numpy hasn't cross each position."""
        change = [0] * (len(self.nodes) + 2)
        for name in (n for n in self.last if n not in self.free and not self.is_plain(n)):
            change[self.made.get(name, -1) + 1] += 1
            change[min(self.last[name], len(self.nodes)) + 1] -= 1
        return list(accumulate(change))

    def is_plain(self, name: str) -> bool:
        """Whether it is certainly a tensor, of a type that numpy has."""
        return self.inferred.types.get(name, TensorProto.STRING) not in _NOT_IN_NUMPY

    def is_cut(self, position: int) -> bool:
        """Whether all that crosses there can be fetched and fed."""
        return self.uncuttable[position] == 0

    def parts(self, sources: Sequence[Source], end: int) -> list[list[Source]]:
        """The sources in as few parts as fit the budget."""
        each = max(1, self.crossing_bytes[end])
        size = max(1, self.budget // each)
        return [list(sources[k : k + size]) for k in range(0, len(sources), size)]

    def segment(self, start: int, end: int, sources: Sequence[Source]) -> Segment:
        """Probe and tail of the sources that begin between two positions."""
        copies = Copies(self.model)
        crossing: list[dict[str, int]] = []
        outputs: dict[str, int] = {}
        for source in sources:
            names = copies.copy(self.nodes[start:end], source)
            crosses = {name: new for name, new in names.items() if self.last.get(name, -1) >= end}
            crossing.append({name: outputs.setdefault(new, len(outputs)) for name, new in crosses.items()})
        probe = self.piece(copies.finished(), list(outputs), lambda name: self.made.get(name, len(self.nodes)) < start)
        changed = {name for names in crossing for name in names}
        tail = self.tail(end, changed)
        return Segment(tuple(sources), probe, tuple(crossing), tail)

    def tail(self, start: int, changed: Collection[str]) -> Piece | None:
        """What lies behind a position and depends on tensors that cross it; None where there is nothing."""
        reached = set(changed)
        for node in self.nodes[start:]:
            if any(name in reached for name in reads(node)):
                reached.update(name for name in node.output if name)
        outputs = [name for name in self.wanted if name in reached and self.made.get(name, -1) >= start]
        if not outputs:
            return None
        before = {name for name in reached if self.made.get(name, -1) < start}

        def is_fed(name: str) -> bool:
            return name in before or (name not in reached and self.is_plain(name)) or self.made.get(name, -1) < start

        return self.piece(self.model, outputs, is_fed)

    def piece(self, model: Detached, outputs: Sequence[str], is_fed: Callable[[str], bool]) -> Piece:
        """Of the model, or of one with copies, up to what is fed of the float model's tensors."""
        return piece(model, outputs, lambda name: name in self.made and name not in self.free and is_fed(name))
