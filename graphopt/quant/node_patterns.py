"""How users name nodes: by a pattern of their names ("head/*"), or by the operator ("Gemm")."""

from __future__ import annotations

from collections.abc import Iterable
from fnmatch import fnmatchcase


def names_node(pattern: str, name: str, op: str) -> bool:
    """Whether a pattern means the node of this name and operator."""
    return op == pattern or fnmatchcase(name, pattern)


def any_names_node(patterns: Iterable[str], name: str, op: str) -> bool:
    """Whether one of the patterns does."""
    return any(names_node(pattern, name, op) for pattern in patterns)
