"""Attributes that say what the operator does anyway: some tools write them, others don't."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import replace

import onnx

from graphopt.ir.outline import Outline
from graphopt.ir.printer import attribute_text


def without_defaults(found: Outline, opsets: Mapping[str, int]) -> Outline:
    """The same outline without attributes that have their default value. `opsets`: domain → version, of the model."""
    nodes = {
        name: replace(node, attributes=shown)
        if (shown := _shown(node.op, node.attributes, opsets)) != node.attributes
        else node
        for name, node in found.nodes.items()
    }
    return replace(found, nodes=nodes)


def _shown(op: str, attributes: Mapping[str, str], opsets: Mapping[str, int]) -> Mapping[str, str]:
    domain, _, name = op.rpartition("::")
    defaults = _defaults(name, domain, opsets.get(domain, 0))
    return {key: text for key, text in attributes.items() if defaults.get(key) != text}


@functools.cache
def _defaults(op: str, domain: str, version: int) -> Mapping[str, str]:
    """Attribute → its default as text; nothing for operators that onnx doesn't know."""
    if not version or not onnx.defs.has(op, version, domain):
        return {}
    known = onnx.defs.get_schema(op, version, domain).attributes
    found = {
        name: onnx.helper.get_attribute_value(a.default_value) for name, a in known.items() if a.default_value.name
    }
    return {name: attribute_text(v.decode() if isinstance(v, bytes) else v) for name, v in found.items()}
