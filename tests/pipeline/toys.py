"""Passes that do one simple thing, right or wrong, for the tests of the pipeline."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import Annotated, ClassVar, Literal

import numpy as np
from pydantic import Field

from graphopt.errors import ConfigError, PassError
from graphopt.ir import Graph, from_proto
from graphopt.pipeline import Context, Pass
from tests.support.rewrite import parse

MODEL = """<ir_version: 8, opset_import: ["" : 17]>
g (float[2, 4] x) => (float[2, 3] y)
<float[4, 3] w = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12}> {
    a = Relu(x)
    b = Identity(a)
    y = MatMul(b, w)
}"""


def toy_graph() -> Graph:
    return from_proto(parse(MODEL))


class Mode(Enum):
    FAST = "fast"
    EXACT = "exact"


@dataclass(frozen=True)
class Nothing(Pass):
    name: ClassVar[str] = "nothing"
    summary: ClassVar[str] = "change nothing"
    lossless: ClassVar[bool] = True

    def run(self, graph: Graph, ctx: Context) -> None:
        ctx.remarks.note(None, "nothing was done")


@dataclass(frozen=True)
class DropIdentity(Pass):
    """Right: removes Identity nodes."""

    name: ClassVar[str] = "drop-identity"
    summary: ClassVar[str] = "remove Identity nodes"
    lossless: ClassVar[bool] = True

    def run(self, graph: Graph, ctx: Context) -> None:
        for node in graph.live_nodes():
            if node.is_op("Identity") and graph.replace_uses(node.output(), node.inputs[0]):
                graph.remove(node)
                ctx.remarks.applied(node, "does nothing")


@dataclass(frozen=True)
class Scale(Pass):
    """Wrong unless `by` is 1: says that it is lossless and multiplies the weights."""

    name: ClassVar[str] = "scale"
    summary: ClassVar[str] = "multiply the weights"
    lossless: ClassVar[bool] = True

    by: float = 1.01

    def run(self, graph: Graph, ctx: Context) -> None:
        for constant in graph.constants:
            if constant.dtype == np.float32:
                graph.set_values(constant, (constant.values * self.by).astype(np.float32))


@dataclass(frozen=True)
class Crash(Pass):
    """Raises KeyError when it meets the operator `op`."""

    name: ClassVar[str] = "crash"
    summary: ClassVar[str] = "fail on an operator"

    op: str = "MatMul"

    def run(self, graph: Graph, ctx: Context) -> None:
        ctx.remarks.note(None, "about to look")
        for node in graph.live_nodes():
            if node.op == self.op:
                raise KeyError(node.name)


@dataclass(frozen=True)
class Refuse(Pass):
    """Raises PassError: the user asked for something that can't be done."""

    name: ClassVar[str] = "refuse"
    summary: ClassVar[str] = "refuse to work"

    def run(self, graph: Graph, ctx: Context) -> None:
        ctx.remarks.declined(graph.nodes[0], "not this one")
        raise PassError("this model has no layer to prune")


@dataclass(frozen=True)
class WrongShape(Pass):
    """Breaks the graph: MatMul gets a weight that doesn't fit what is stated of its output."""

    name: ClassVar[str] = "wrong-shape"
    summary: ClassVar[str] = "break the MatMul"

    def run(self, graph: Graph, ctx: Context) -> None:
        for node in graph.live_nodes():
            if node.is_op("MatMul"):
                graph.set_input(node, 1, graph.constant(np.zeros((4, 5), np.float32), "misfit"))


@dataclass(frozen=True)
class Options(Pass):
    """Has an option of every kind."""

    name: ClassVar[str] = "options"
    summary: ClassVar[str] = "have options"

    size_limit: int = 1024
    share: float = 0.5
    keep: tuple[str, ...] = ()
    method: Literal["minmax", "kl"] = "minmax"
    mode: Mode = Mode.FAST
    note: str = ""
    exact: bool = False
    limit: int | None = 7
    table: dict[str, list[float]] = field(default_factory=dict[str, list[float]])
    bits: Annotated[int, Field(ge=2, le=16)] = 8

    def __post_init__(self) -> None:
        if self.note == "bad":
            raise ValueError("a note can't be 'bad'")


@dataclass(frozen=True)
class Required(Pass):
    name: ClassVar[str] = "required"
    summary: ClassVar[str] = "need an option"

    path: str


TOYS: dict[str, type[Pass]] = {
    p.name: p for p in (Nothing, DropIdentity, Scale, Crash, Refuse, WrongShape, Options, Required)
}


def resolve(name: str) -> type[Pass]:
    """The toy of this name, or that this `module:Class` names, as pipelines of them are written."""
    name = next((toy.name for toy in TOYS.values() if name == f"{__name__}:{toy.__name__}"), name)
    if name not in TOYS:
        raise ConfigError(f"there is no pass '{name}'")
    return TOYS[name]
