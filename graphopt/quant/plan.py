"""The quantization plan: which tensor is read in which scheme, by whom, and over which range.

Planning and calibration fill it in; `insert-qdq` alone turns it into nodes (annotate, then materialise once).
Entries name tensors and nodes by name, so that a plan can be printed, saved and compared.
"""

from __future__ import annotations

from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass, field, replace
from functools import reduce
from typing import Protocol

from graphopt.quant.scheme import Range, Scheme


class Named(Protocol):
    """What a plan says of its target; `graphopt.targets.planned_target` has the whole table."""

    @property
    def name(self) -> str:
        """As on the command line."""
        ...


@dataclass(frozen=True, order=True)
class Edge:
    """One use of a tensor: input number `index` of the node named `node`."""

    node: str
    index: int

    def __str__(self) -> str:
        return f"{self.node}:{self.index}"


@dataclass(frozen=True)
class TensorPlan:
    """How one tensor is quantized.

    Attributes:
        tensor: the tensor's name.
        scheme: its integer representation.
        edges: the uses that read the quantized values; every other use keeps the float values.
        is_output: the graph output of this name carries the quantized values too.
        group: tensors with the same group share one scale and zero point; None shares with nobody.
        range: filled by calibration (or from the constant itself); None until then.
        fixed: the range is prescribed by the target (Softmax in TFLite), for the whole group, and is never calibrated.
        reason: the rule of the target that asked for it, for the reader.
    """

    tensor: str
    scheme: Scheme
    edges: tuple[Edge, ...]
    is_output: bool = False
    group: str | None = None
    range: Range | None = None
    fixed: bool = False
    reason: str = ""


@dataclass
class QuantPlan:
    """All planned tensors, in graph order. Weights (constants) and activations are both here."""

    target: Named | None = None
    tensors: dict[str, TensorPlan] = field(default_factory=dict[str, TensorPlan])
    # Nodes that are meant to run in integers: what a backend check compares the engine against.
    quantized_nodes: dict[str, str] = field(default_factory=dict[str, str])
    # Nodes that could have been and stay float, with the reason.
    float_nodes: dict[str, str] = field(default_factory=dict[str, str])
    # Nodes that planning was told to leave in float (by the user, or because 8 bits would ruin them), with the reason:
    # whoever plans again goes on from these.
    kept_float: dict[str, str] = field(default_factory=dict[str, str])
    # Nodes that were assigned another precision than 8 bits and float32 (`quant.precision`): what `insert-casts` and
    # `quantize-weights` turn into nodes.
    precisions: dict[str, str] = field(default_factory=dict[str, str])
    # Tensors that have an entry, and that some uses read in another scheme: 16 bits beside 8. It has those uses alone.
    second: dict[str, TensorPlan] = field(default_factory=dict[str, TensorPlan])
    # Nodes that an assignment wants in 8 bits even where nobody reads their results so; kept by planning again.
    assigned: frozenset[str] = frozenset()

    def __bool__(self) -> bool:
        return bool(self.tensors)

    def __iter__(self) -> Iterator[TensorPlan]:
        return iter(self.tensors.values())

    def copy(self) -> QuantPlan:
        """The same plan, to be changed apart from this one."""
        return deepcopy(self)

    def add(self, entry: TensorPlan) -> None:
        """Plan one tensor; a tensor has one entry."""
        if entry.tensor in self.tensors:
            raise ValueError(f"tensor '{entry.tensor}' is planned already")
        self.tensors[entry.tensor] = entry

    def remove(self, tensor: str) -> None:
        """Forget one tensor: it has been materialised."""
        del self.tensors[tensor]

    def set_range(self, tensor: str, value_range: Range) -> None:
        """Set the calibrated range of a planned tensor."""
        self.tensors[tensor] = replace(self.tensors[tensor], range=value_range)

    def set_range_of(self, entry: TensorPlan, value_range: Range) -> None:
        """Set the calibrated range of an entry, the first one of its tensor or the second."""
        entries = self.second if self.second.get(entry.tensor) is entry else self.tensors
        entries[entry.tensor] = replace(entry, range=value_range)

    def without_range(self) -> list[TensorPlan]:
        """Entries that calibration is still to give a range, second ones at the end."""
        return [entry for entry in (*self, *self.second.values()) if entry.range is None]

    def groups(self) -> dict[str, list[TensorPlan]]:
        """Members of each shared-scale group, in graph order; a group is of one scheme, second entries at its end."""
        members: dict[str, list[TensorPlan]] = {}
        for entry in (*self, *self.second.values()):
            if entry.group is not None:
                members.setdefault(entry.group, []).append(entry)
        return members

    def solved_ranges(self) -> dict[str, Range]:
        """The range each tensor's scale comes from: its own, or the union over its group.

        Raises:
            KeyError: a tensor has no range yet; the argument is its name.
        """
        return self._solved(self.tensors)

    def second_ranges(self) -> dict[str, Range]:
        """Likewise, of second entries.

        Raises:
            KeyError: an entry has no range yet; the argument is its tensor's name.
        """
        return self._solved(self.second)

    def _solved(self, entries: dict[str, TensorPlan]) -> dict[str, Range]:
        shared: dict[str, Range] = {}
        for name, members in self.groups().items():
            fixed = [m for m in members if m.fixed]
            shared[name] = reduce(Range.union, (_known(m) for m in fixed or members))
        return {name: shared[e.group] if e.group is not None else _known(e) for name, e in entries.items()}

    def clear(self) -> None:
        """Forget everything (the plan has been materialised, or is made anew)."""
        self.tensors.clear()
        self.second.clear()
        self.quantized_nodes.clear()
        self.float_nodes.clear()
        self.kept_float.clear()
        self.precisions.clear()
        self.assigned = frozenset()


def _known(entry: TensorPlan) -> Range:
    if entry.range is None:
        raise KeyError(entry.tensor)
    return entry.range
