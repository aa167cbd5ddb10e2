"""Remarks: what each pass did and what it declined, in words the user can read."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Literal

from graphopt.ir import Node

Kind = Literal["applied", "declined", "note"]


@dataclass(frozen=True)
class Remark:
    """One thing a pass did to, or declined for, one node; `node` is "" when it is about the whole model."""

    pass_name: str
    kind: Kind
    node: str
    op: str
    message: str

    def __str__(self) -> str:
        where = f" {self.op} '{self.node}'" if self.node else ""
        return f"[{self.pass_name}] {self.kind}{where}: {self.message}"


@dataclass
class Remarks:
    """All remarks of a run, in order. `current` is the pass that is running; the manager sets it."""

    items: list[Remark] = field(default_factory=list[Remark])
    current: str = ""

    def applied(self, node: Node | None, message: str) -> None:
        """A rewrite was made; for a node that the rewrite removed this is where its name is last seen."""
        self._add("applied", node, message)

    def declined(self, node: Node | None, message: str) -> None:
        """A rewrite that could have been made wasn't, and why: "its input 'x' is also read by 'n7'"."""
        self._add("declined", node, message)

    def note(self, node: Node | None, message: str) -> None:
        """Something worth knowing that is neither."""
        self._add("note", node, message)

    def of(self, pass_name: str) -> list[Remark]:
        """The remarks of one pass."""
        return [r for r in self.items if r.pass_name == pass_name]

    def counts(self, pass_name: str) -> Counter[str]:
        """Number of remarks of each kind made by one pass."""
        return Counter(r.kind for r in self.of(pass_name))

    def _add(self, kind: Kind, node: Node | None, message: str) -> None:
        name, op = ("", "") if node is None else (node.name, node.op)
        self.items.append(Remark(self.current, kind, name, op, message))
