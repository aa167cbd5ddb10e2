"""Compute the same thing once (common subexpression elimination), and store the same constant once.

    a = Exp(x); b = Exp(x); y = Add(a, b)      →      a = Exp(x); y = Add(a, a)

Two nodes are the same when operator, attributes and inputs are; two inputs of a commutative operator may be swapped.
Constants are the same when type, shape and bytes are. Each graph is treated on its own: a branch doesn't run always.

Declines: random operators, nodes with bodies, other domains, Q/DQ nodes (backends match each with one consumer),
two results that are both outputs of the model, constants that the caller may override, strings, weights in blocks of 4
bits (onnxruntime fuses none that has two readers), and external data above `max_external_bytes`, which would have to
be read.
"""

from __future__ import annotations

import hashlib
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any, ClassVar, cast

import numpy as np
import onnx

from graphopt.ir import Constant, Graph, Node
from graphopt.ir.block_weights import is_block_weight
from graphopt.ir.ops import COMMUTATIVE, QUANTIZE, is_random
from graphopt.pipeline import Context, Pass


@dataclass(frozen=True)
class MergeDuplicates(Pass):
    """Merge equal nodes and equal constants.

    `max_external_bytes`: a constant in another file is read for comparison up to this size.
    """

    name: ClassVar[str] = "merge-duplicates"
    summary: ClassVar[str] = "compute the same thing once, store the same constant once"
    lossless: ClassVar[bool] = True

    max_external_bytes: int = 64 << 20

    def run(self, graph: Graph, ctx: Context) -> None:
        """Constants first, so that nodes read the same one; then one sweep in graph order."""
        for scope in graph.walk():
            self._merge_constants(scope, ctx)
            first_of: dict[Hashable, Node] = {}
            for node in scope.live_nodes():
                key = _node_key(node, scope.opset)
                if key is not None:
                    first = first_of.setdefault(key, node)
                    if first is not node:
                        _merge_nodes(scope, node, first, ctx)

    def _merge_constants(self, graph: Graph, ctx: Context) -> None:
        groups: dict[Hashable, list[Constant]] = {}
        for constant in graph.constants:
            external = constant.lazy is not None and constant.lazy.is_external
            if constant.is_input or graph.is_output(constant) or constant.dtype == object:
                continue
            if any(is_block_weight(reader) for reader in constant.outputs):
                continue
            if not external or constant.nbytes <= self.max_external_bytes:
                groups.setdefault((constant.dtype, constant.shape), []).append(constant)
        for group in groups.values():
            if len(group) == 1:
                continue  # nothing to compare it with: don't load it
            first_of: dict[bytes, Constant] = {}
            for constant in group:
                first = first_of.setdefault(_digest(constant), constant)
                if first is not constant:
                    graph.replace_uses(constant, first)
                    ctx.remarks.applied(None, f"constant '{constant.name}' is equal to '{first.name}'")


def _merge_nodes(graph: Graph, node: Node, first: Node, ctx: Context) -> None:
    pairs = [(old, new) for old, new in zip(node.outputs, first.outputs, strict=True) if not old.is_empty()]
    blocked = next((old for old, new in pairs if not graph.can_replace_uses(old, new)), None)
    if blocked is not None:
        ctx.remarks.declined(node, f"it equals {first}, but '{blocked.name}' and the other are both outputs")
        return
    for old, new in pairs:
        if new.dtype is None or new.shape is None:
            graph.set_type(new, new.dtype or old.dtype, new.shape or old.shape)
        graph.replace_uses(old, new)
    graph.remove(node)
    ctx.remarks.applied(node, f"it equals {first}")


def _node_key(node: Node, opset: int) -> Hashable:
    """What makes two nodes the same; None for a node that has to stay itself."""
    if not (node.is_standard or node.domain == "ai.onnx.ml") or node.op in QUANTIZE or is_random(node, opset):
        return None
    attrs: list[Hashable] = []
    for name in sorted(node.attrs):
        key = _attribute_key(node.attrs[name])
        if key is None:
            return None
        attrs.append((name, key))
    inputs = [0 if t.is_empty() else id(t) for t in node.inputs]
    # Before opset 7 an attribute says how the second input is broadcast: then the order matters.
    if node.is_op(*COMMUTATIVE) and len(inputs) == 2 and not attrs:
        inputs.sort()
    return (node.domain, node.op, tuple(attrs), tuple(inputs), tuple(t.is_empty() for t in node.outputs))


def _attribute_key(value: Any) -> Hashable:
    match value:
        case int() | float() | str() | bytes():
            return (type(value).__name__, repr(value))
        case list():
            items = cast(list[Any], value)
            return tuple((type(item).__name__, repr(item)) for item in items)
        case Constant():
            return None if value.dtype == object else (str(value.dtype), value.shape, _digest(value))
        case onnx.AttributeProto():
            return value.SerializeToString(deterministic=True)
        case _:
            return None  # a nested graph


def _digest(constant: Constant) -> bytes:
    lazy = constant.lazy
    # Loaded for the digest only: `values` would keep every weight of the model in memory.
    values = constant.values if lazy is None else lazy.load()
    return hashlib.blake2b(np.ascontiguousarray(values).tobytes(), digest_size=16).digest()
