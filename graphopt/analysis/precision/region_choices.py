"""What a region can be computed in, by the target's table of precisions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from graphopt.analysis.placement import FLOAT32, Placement
from graphopt.ir import Graph, Node
from graphopt.ir.conditions import unmet
from graphopt.ir.float_parameters import LOW_FLOATS, float_parameters
from graphopt.ir.linear import linear_view
from graphopt.ir.ops import is_plain_tensor
from graphopt.quant.precision import PRECISIONS
from graphopt.targets import PrecisionRule, Target

FLOAT, INT8, INT16X8 = "float32", "int8", "int16x8"
_INTEGERS = frozenset(name for name, p in PRECISIONS.items() if p.form.startswith("int"))
_WEIGHTS = frozenset(name for name, p in PRECISIONS.items() if p.form == FLOAT and name != FLOAT)


class Choices:
    """The precisions of nodes and regions for one target.

    Args:
        graph: types filled in.
        target: its table of precisions is asked.
        placement: of everything that can be in 8 bits.
        device: of the target's engine; None: one that has all that the table knows.
    """

    def __init__(self, graph: Graph, target: Target, placement: Placement, device: str | None) -> None:
        self.graph, self.placement = graph, placement
        self.rules = {
            n: r for n, r in target.precisions.items() if device is None or device in (r.devices or (device,))
        }

    def of(self, members: Sequence[Node], main: Node) -> tuple[str, ...]:
        """Of a region, in the table's order; float32 is always among them."""
        return tuple(name for name, rule in self.rules.items() if self._has(members, main, name, rule))

    def shared(self, node: Node) -> tuple[str, ...] | None:
        """What a node of its own could have, where that is float alone; None where it has more than that to decide."""
        found = self.of([node], node)
        return None if any(name in _INTEGERS or name in _WEIGHTS for name in found) else found

    def _has(self, members: Sequence[Node], main: Node, name: str, rule: PrecisionRule) -> bool:
        if name == FLOAT:
            return True
        if rule.operators is not None and main.op not in rule.operators:
            return False
        if any(node.op in rule.without for node in members):
            return False
        if unmet(self.graph, main, rule.conditions) is not None:
            return False
        if name in _INTEGERS:
            return main in self.placement.quantized
        if name in _WEIGHTS:
            linear = linear_view(self.graph, main)
            return main.is_standard and linear is not None and linear.weight.dtype == FLOAT32
        return self._computes_in(members, LOW_FLOATS[name])

    def _computes_in(self, members: Sequence[Node], dtype: np.dtype[Any]) -> bool:
        """Whether operators and types allow it. Whether values fit isn't asked here."""
        converted = False
        for node in members:
            if node.is_op("Cast", "CastLike") or not node.is_standard or not _is_plain(node):
                return False
            found = float_parameters(node, self.graph.facts.opset_imports.get(node.domain, 1), dtype)
            if isinstance(found, str):
                return False
            converted = converted or bool(found.inputs or found.outputs)
        return converted


def _is_plain(node: Node) -> bool:
    return all(is_plain_tensor(t) for t in (*node.inputs, *node.outputs) if not t.is_empty())
