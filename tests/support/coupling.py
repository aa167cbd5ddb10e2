"""Coupling of small graphs written as ONNX text."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx

from graphopt.analysis.coupling.find import couple
from graphopt.analysis.coupling.groups import Coupling, Group, Slot
from graphopt.ir import Graph, from_proto, infer
from tests.support.foreign import build, noise


def graph_of(body: str, inputs: str, outputs: str, opset: int = 17, **values: Any) -> Graph:
    """A graph with shapes filled in; a tuple among `values` is the shape of a float initializer, else its value."""
    stored = {name: noise(*value) if isinstance(value, tuple) else np.asarray(value) for name, value in values.items()}
    return typed(build(body, inputs, outputs, stored, opset))


def typed(model: onnx.ModelProto) -> Graph:
    """A graph with shapes filled in."""
    graph = from_proto(model)
    infer(graph)
    return graph


def couple_text(body: str, inputs: str, outputs: str, opset: int = 17, **values: Any) -> Coupling:
    """The groups of a small graph; see `graph_of`."""
    return couple(graph_of(body, inputs, outputs, opset, **values))


def groups(coupling: Coupling) -> dict[str, tuple[int, list[str]]]:
    """Removable groups: name → (units, slots as `tensor:axis` in alphabetical order)."""
    return {g.name: (g.units, sorted(f"{s.tensor.name}:{s.axis}" for s in g.members)) for g in coupling.removable}


def members(group: Group) -> dict[str, list[int]]:
    """`tensor:axis` → unit of each element."""
    return {f"{s.tensor.name}:{s.axis}": units.tolist() for s, units in group.members.items()}


def reasons(coupling: Coupling) -> dict[str, str]:
    """Frozen groups: `tensor:axis` of every slot → why."""
    return {
        f"{slot.tensor.name}:{slot.axis}": group.frozen.reason
        for group in coupling.groups
        if group.frozen is not None
        for slot in group.members
    }


def slot(coupling: Coupling, name: str) -> Slot:
    """The slot called `tensor:axis`."""
    return next(s for g in coupling.groups for s in g.members if f"{s.tensor.name}:{s.axis}" == name)
