"""What may be chosen for each region: what the target has, without what its values forbid or the user rules out."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

from graphopt.analysis.precision.regions import FLOAT
from graphopt.analysis.precision.types import CostKind, Region, Regions
from graphopt.quant.precision import PRECISIONS
from graphopt.quant.precision_rules import PinnedPrecision, matching

STORED = frozenset(name for name, p in PRECISIONS.items() if p.form == FLOAT and name != FLOAT)
"""Those of weights alone: the arithmetic stays in float32, so that they save bytes, and no time."""
# As small as int8, with less error, and in LiteRT's kernels on a CPU slower than float32: for those who ask for it.
_ON_REQUEST = frozenset({"int16x8"})


def saving(kind: CostKind, available: Collection[str]) -> tuple[str, ...]:
    """The precisions that can save this kind of cost."""
    no_use = _ON_REQUEST | (STORED if kind == "latency" else frozenset[str]())
    return tuple(name for name in available if name not in no_use)


def narrowed(regions: Regions, precisions: Collection[str]) -> Regions:
    """The regions with these precisions alone, and float32: what nobody may choose needn't be measured."""
    found = (
        replace(region, precisions=tuple(p for p in region.precisions if p in precisions or p == FLOAT))
        for region in regions.regions
    )
    return replace(regions, regions=tuple(found))


def choices(
    regions: Regions,
    ops: Mapping[str, str],
    allowed: Collection[str],
    rules: Sequence[PinnedPrecision],
    forbidden: Mapping[tuple[str, str], str],
) -> tuple[dict[str, tuple[str, ...]], dict[str, str]]:
    """What is left to each region, and for those that haven't all that is allowed, why.

    Args:
        regions: with what the target can run them in.
        ops: name of a node → its operator.
        allowed: what may be chosen; float32 always may.
        rules: what the user wants.
        forbidden: (region, precision) → why not.
    """
    left: dict[str, tuple[str, ...]] = {}
    reasons: dict[str, str] = {}
    for region in regions.regions:
        name = region.name
        usual = tuple(p for p in region.precisions if p in allowed or p == FLOAT)
        stays = tuple(p for p in usual if (name, p) not in forbidden)
        wanted = _wanted(region, ops, rules)
        if wanted is None:
            left[name] = stays or (FLOAT,)
            lost = [f"not {p}: {forbidden[name, p]}" for p in usual if p not in stays]
            reasons |= {name: "; ".join(lost)} if lost else {}
        elif (name, wanted) in forbidden:
            left[name] = stays or (FLOAT,)
            reasons[name] = f"not {wanted}, which is asked for: {forbidden[name, wanted]}"
        elif wanted in region.precisions:
            left[name] = (wanted,)
            reasons[name] = f"{wanted} is asked for"
        else:
            left[name] = stays or (FLOAT,)
            reasons[name] = f"not {wanted}, which is asked for: the target has no such {region.op}"
    return left, reasons


def _wanted(region: Region, ops: Mapping[str, str], rules: Sequence[PinnedPrecision]) -> str | None:
    """What the user's rules say of a region: of its main node, else of another of its nodes."""
    nodes = (region.name, *(node for node in region.nodes if node != region.name))
    found = (matching(rules, node, ops.get(node, "")) for node in nodes)
    return next((precision for precision in found if precision is not None), None)
