"""Whether a target's table can be meant: names that exist, and columns that don't contradict each other."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping

import onnx

from graphopt.errors import ConfigError, nearest
from graphopt.ir.conditions import CONDITIONS
from graphopt.ir.ops import LINEAR
from graphopt.quant import Scheme
from graphopt.targets.catalogue import TARGETS
from graphopt.targets.spec import OpRule, Role, Target

_NAME = re.compile(r"[\w.+-]+")
_GRIDS = ("int8", "uint8")


def check_target(target: Target, where: str) -> None:
    """Refuse a table that no pass could follow; `where` names it in messages. Those of graphopt pass by definition.

    Raises:
        ConfigError: naming the first column that is wrong, what was found, and what was expected.
    """
    if TARGETS.get(target.name) == target:
        return
    for fault in _faults(target):
        raise ConfigError(f"{where}: {fault}")


def _faults(target: Target) -> Iterator[str]:
    if not _NAME.fullmatch(target.name):
        yield f"'name' is '{target.name}'; expected letters, digits and . _ + -"
    if target.name in TARGETS:
        yield f"'name' is '{target.name}', which is graphopt's own target: choose another"
    engines = {t.engine for t in TARGETS.values()}
    if target.engine and target.engine not in engines:
        yield f"there is no engine '{target.engine}': {nearest(target.engine, engines)}, or \"\" for none"
    formats = {t.own_format for t in TARGETS.values()} - {""}
    if target.own_format and target.own_format not in formats:
        yield f"'own-format' is '{target.own_format}'; graphopt writes {', '.join(sorted(formats))}"
    yield from _unsound_scheme("activation", target.activation)
    yield from _unsound_scheme("weight", target.weight)
    if target.weight.dtype != "int8" or not target.weight.symmetric:
        yield f"'weight' is {target.weight}; expected int8, symmetric"
    yield from _unknown_operators("fused-activations", target.fused_activations)
    yield from _unknown_operators("fused-conditions", target.fused_conditions)
    for op, names in target.fused_conditions.items():
        yield from _unknown(f"fused-conditions.{op}", names, CONDITIONS, "condition")
    for column, rules in (("rules", target.rules), ("wide-rules", target.wide_rules)):
        yield from _unknown_operators(column, rules)
        for op, rule in rules.items():
            yield from _unsound_rule(f"{column}.{op}", op, rule)
    breaches = {name for t in TARGETS.values() for name in t.breaches}
    yield from _unknown("breaches", target.breaches, breaches, "rule of lint")
    yield from _unsound_precisions(target)


def _unsound_rule(path: str, op: str, rule: OpRule) -> Iterator[str]:
    if (rule.role is Role.LINEAR) != (op in LINEAR):
        expected = '"linear"' if op in LINEAR else f"another: only {', '.join(LINEAR)} are linear"
        yield f"'{path}.role' is \"{rule.role}\"; expected {expected}"
    if (rule.role is Role.FIXED_OUTPUT) != (rule.fixed_output is not None):
        yield f'\'{path}.fixed-output\' goes with role "{Role.FIXED_OUTPUT}", and the role is "{rule.role}"'
    if rule.fixed_output is not None and not (math.isfinite(rule.fixed_output[0]) and rule.fixed_output[0] > 0):
        yield f"'{path}.fixed-output' has the scale {rule.fixed_output[0]:g}; expected more than 0"
    if rule.signed_input is not None:
        yield from _unsound_scheme(f"{path}.signed-input", rule.signed_input)
    yield from _unknown(f"{path}.conditions", rule.conditions, CONDITIONS, "condition")


def _unsound_precisions(target: Target) -> Iterator[str]:
    if target.precisions and "float32" not in target.precisions:
        yield "'precisions' lack float32, which everything can fall back to"
    for name, rule in target.precisions.items():
        yield from _unknown_operators(f"precisions.{name}.operators", rule.operators or ())
        yield from _unknown_operators(f"precisions.{name}.without", rule.without)
        yield from _unknown(f"precisions.{name}.conditions", rule.conditions, CONDITIONS, "condition")


def _unsound_scheme(path: str, scheme: Scheme) -> Iterator[str]:
    if scheme.dtype not in _GRIDS:
        yield f"'{path}' is {scheme.dtype}; expected {' or '.join(_GRIDS)}"
    if scheme.channel_axis is not None or scheme.block is not None:
        yield f"'{path}' has a channel axis or blocks, which are filled in per operator: leave them out"


def _unknown_operators(path: str, names: Iterable[str]) -> Iterator[str]:
    unknown = (name for name in names if not onnx.defs.has(name))
    for name in unknown:
        operators = {schema.name for schema in onnx.defs.get_all_schemas() if schema.domain == ""}
        yield f"'{path}' names the operator '{name}', which ONNX doesn't have: {nearest(name, operators)}"


def _unknown(
    path: str, names: Iterable[str], known: Mapping[str, object] | frozenset[str] | set[str], what: str
) -> Iterator[str]:
    for name in names:
        if name not in known:
            yield f"'{path}' names the {what} '{name}', which there is none of: {nearest(name, sorted(known))}"
