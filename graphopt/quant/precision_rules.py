"""Precisions that the user gives: "Softmax=float", "head/*=float16", "layer3/*=int8".

Each is a pattern of names, or an operator, and a precision. Of several that match a node the last one counts.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from graphopt.errors import ConfigError
from graphopt.quant.node_patterns import names_node
from graphopt.quant.precision import PrecisionName, find_precision


@dataclass(frozen=True)
class PinnedPrecision:
    """One rule of the user.

    Attributes:
        pattern: of names of nodes, or an operator.
        precision: what those nodes get.
    """

    pattern: str
    precision: PrecisionName

    def __str__(self) -> str:
        return f"{self.pattern}={self.precision}"


def parse_rules(texts: Iterable[str]) -> tuple[PinnedPrecision, ...]:
    """The rules, in their order.

    Raises:
        ConfigError: one isn't of the form "PATTERN=PRECISION", or there is no such precision.
    """
    return tuple(_parse(text) for text in texts)


def matching(rules: Sequence[PinnedPrecision], name: str, op: str) -> PrecisionName | None:
    """The precision that the last rule for a node gives it; None where there is no rule for it.

    Args:
        rules: in the user's order.
        name: the node's name.
        op: its operator.
    """
    return next((rule.precision for rule in reversed(rules) if names_node(rule.pattern, name, op)), None)


def unmatched(rules: Sequence[PinnedPrecision], nodes: Iterable[tuple[str, str]]) -> list[PinnedPrecision]:
    """The rules that match none of the nodes, given as (name, operator): most likely a slip of the pen."""
    known = list(nodes)
    return [rule for rule in rules if not any(names_node(rule.pattern, name, op) for name, op in known)]


def _parse(text: str) -> PinnedPrecision:
    # Names of nodes may hold "=", names of precisions don't.
    pattern, sign, precision = text.rpartition("=")
    if not sign or not pattern.strip() or not precision.strip():
        raise ConfigError(
            f"'{text}' doesn't say which precision which nodes get: write a pattern of names, or an operator, and the "
            "precision: 'head/*=float16', 'Softmax=float'"
        )
    try:
        return PinnedPrecision(pattern.strip(), find_precision(precision.strip()).name)
    except ConfigError as error:
        raise ConfigError(f"'{text}': {error}") from None
