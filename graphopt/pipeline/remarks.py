"""Remarks: what each pass did and what it declined, in words the user can read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Literal, get_args

from graphopt.errors import ConfigError, nearest
from graphopt.ir import Node
from graphopt.quant.node_patterns import any_names_node

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


@dataclass(frozen=True)
class RemarkFilter:
    """Which remarks to show. Each field that is empty lets all through; several that aren't must all agree.

    Attributes:
        passes: names of passes, or patterns of them: "fold-batch-norm", "fold-*".
        nodes: patterns of node names ("head/*"), or operators ("Gemm").
        kinds: "applied", "declined", "note".

    Raises:
        ConfigError: there is no such kind.
    """

    passes: tuple[str, ...] = ()
    nodes: tuple[str, ...] = ()
    kinds: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for kind in self.kinds:
            if kind not in get_args(Kind):
                raise ConfigError(f"there is no kind of remark '{kind}': {nearest(kind, get_args(Kind))}")

    def __bool__(self) -> bool:
        """Whether it keeps anything back."""
        return bool(self.passes or self.nodes or self.kinds)

    def lets_through(self, remark: Remark) -> bool:
        """Whether it lets a remark through."""
        return (
            (not self.passes or any(fnmatchcase(remark.pass_name, pattern) for pattern in self.passes))
            and (not self.nodes or any_names_node(self.nodes, remark.node, remark.op))
            and (not self.kinds or remark.kind in self.kinds)
        )


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

    def select(
        self, *, passes: Iterable[str] = (), nodes: Iterable[str] = (), kinds: Iterable[str] = ()
    ) -> list[Remark]:
        """The remarks that a `RemarkFilter` with these fields lets through.

        Raises:
            ConfigError: there is no such kind.
        """
        wanted = RemarkFilter(tuple(passes), tuple(nodes), tuple(kinds))
        return [r for r in self.items if wanted.lets_through(r)]

    def counts(self, pass_name: str) -> Counter[str]:
        """Number of remarks of each kind made by one pass."""
        return Counter(r.kind for r in self.of(pass_name))

    def _add(self, kind: Kind, node: Node | None, message: str) -> None:
        name, op = ("", "") if node is None else (node.name, node.op)
        self.items.append(Remark(self.current, kind, name, op, message))
