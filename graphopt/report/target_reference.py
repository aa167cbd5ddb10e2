"""docs/targets.md: the contract of each target, from its table."""

from __future__ import annotations

import sys
from dataclasses import MISSING, fields
from typing import cast

from graphopt.analysis.legality import RULES
from graphopt.ir.conditions import CONDITIONS
from graphopt.quant.precision import PRECISIONS
from graphopt.report.markdown import anchor, field_meanings, md_table, prose
from graphopt.targets import TARGETS, OpRule, PrecisionRule, Role, Target
from graphopt.targets.table import precision_table

_HEAD = """# Targets

<!-- Made by `python -m graphopt.report.reference docs`; edit the tables in graphopt/targets instead. -->

What each engine wants from a quantized model, and what it does with one that is written otherwise. Planning, Q/DQ
insertion, `graphopt lint` and this page read the same tables, `graphopt/targets`; tests hold them to the engines.
"Probe" in a source names a tiny Q/DQ model that was run in the engine itself: `python -m benchmarks.probes` prints them
all. `graphopt targets openvino` prints one table. For the differences side by side see the
[table in the README](../README.md#what-runs-in-8-bits)."""

_LINT = """## What lint checks

`graphopt lint MODEL --target T` holds any tool's Q/DQ model to these rules. An error is what the engine refuses,
computes otherwise or runs in float; a warning costs speed or accuracy. A rule doesn't hold for targets that aren't
listed with it. `--fix` mends those marked with \\*, without new calibration."""

_ROLES = {
    Role.LINEAR: "multiplies by a constant weight and adds up integers; always worth 8 bits",
    Role.COMPUTE: "an integer kernel, each input and output with a scale of its own",
    Role.SAME_SCALE: "moves or selects values: inputs and outputs share one scale",
    Role.FIXED_OUTPUT: "an integer kernel that prescribes its output's scale and zero point",
}
_OPERANDS = {
    "all": "all",
    "skip": "the skip branch of a residual sum; none where no operand fuses into its layer",
    "all but one": "all but the one that fuses into its layer; all where there is none",
}
# What the sections say in words and tables of their own.
_SHOWN = {
    "name",
    "title",
    "rules",
    "wide_rules",
    "float_reasons",
    "breaches",
    "precisions",
    "block_weights",
    "fused_conditions",
}


def target_reference() -> str:
    """The whole page."""
    names = " · ".join(f"[{t.title}](#{anchor(t.title)})" for t in TARGETS.values())
    roles = md_table(("what an operator does", ""), ((str(role), meaning) for role, meaning in _ROLES.items()))
    return "\n\n".join((_HEAD, names, roles, *(_section(t) for t in TARGETS.values()), _precisions(), _lint())) + "\n"


def _section(target: Target) -> str:
    module = sys.modules[f"graphopt.targets.{target.name}"]
    parts = [f"## {target.title}", f"`--target {target.name}`", prose((module.__doc__ or "").strip())]
    parts += [_facts(target), f"### Operators in 8 bits: {target.title}", _rules(target)]
    fused = [_fused(target, op) for op in sorted(target.fused_activations)]
    parts.append(f"Fused into the layer before, so that Q/DQ comes behind them: {', '.join(fused)}.")
    if target.float_reasons:
        parts.append("\n".join(f"- {op} stays in float: {why}." for op, why in sorted(target.float_reasons.items())))
    parts += [f"### Precisions: {target.title}", _precision_rules(target)]
    if target.block_weights is not None:
        sizes = ", ".join(str(size) for size in target.block_weights.sizes) or "any that divides the inputs"
        meanings = field_meanings(type(target.block_weights))
        flags = ("zero_points", "signed", "transposed", "shared")
        held = [f"{meanings[f].rstrip('.')}: {_word(getattr(target.block_weights, f))}" for f in flags]
        parts.append(f"4-bit weights: blocks of {sizes}; {'; '.join(held)}. Source: {target.block_weights.source}.")
    return "\n\n".join(parts)


def _facts(target: Target) -> str:
    meanings = field_meanings(Target)
    rows: list[tuple[str, str, str]] = []
    for field in fields(target):
        value = getattr(target, field.name)
        default = field.default if field.default is not MISSING else None
        if field.name not in _SHOWN and (field.default is MISSING or value != default) and value != frozenset():
            rows.append((f"`{field.name}`", _word(value), meanings.get(field.name, "")))
    return md_table(("column", "value", "meaning"), rows)


def _rules(target: Target) -> str:
    return md_table(
        ("operator", "does", "inputs in 8 bits", "Q on the result", "stays in float when", "source"),
        (
            (op, _role(rule), _operands(rule), _result(rule), _failures(rule.conditions), rule.source)
            for op, rule in sorted(target.rules.items())
        ),
    )


def _role(rule: OpRule) -> str:
    if rule.fixed_output is None:
        return f"{rule.role}, but takes others" if rule.rescales else str(rule.role)
    scale, zero_point = rule.fixed_output
    return f"{rule.role}: scale 1/{1 / scale:g}, zero point {zero_point}"


def _operands(rule: OpRule) -> str:
    signed = "" if rule.signed_input is None else f"; {rule.signed_input} where negative"
    return _OPERANDS[rule.operands] + signed


def _result(rule: OpRule) -> str:
    if rule.output_quantized:
        return "needed"
    return "where it is read in 8 bits, which it must be" if rule.needs_reader else "where it is read in 8 bits"


def _failures(conditions: tuple[str, ...]) -> str:
    return "; or ".join(CONDITIONS[name][1] for name in conditions)


def _fused(target: Target, op: str) -> str:
    failures = _failures(target.fused_conditions.get(op, ()))
    return f"{op} (not where {failures})" if failures else op


def _precision_rules(target: Target) -> str:
    return md_table(
        ("precision", "operators", "written as", "a border costs", "not where", "devices", "source"),
        ((name, *_precision(name, rule)) for name, rule in target.precisions.items()),
    )


def _precision(name: str, rule: PrecisionRule) -> tuple[str, ...]:
    devices = ", ".join(rule.devices) or "all"
    where = "those above" if name == "int8" else rule.where
    return where, rule.written, rule.borders or "nothing", _failures(rule.conditions), devices, rule.source


def _precisions() -> str:
    table = md_table(
        ("precision", "bits of a weight", "bits of an activation"),
        ((p.name, str(p.weight_bits), str(p.activation_bits)) for p in PRECISIONS.values()),
    )
    intro = "What parts of a model can be in, how its ONNX says so, and what a border between two of them costs:"
    return f"## Precisions\n\n{table}\n\n{intro}\n\n{precision_table()}"


def _lint() -> str:
    parts = [_LINT]
    for rule in RULES.values():
        lines = [
            f"- {target.title}: **{breach.severity}**, {breach.why}."
            for target in TARGETS.values()
            if (breach := target.breaches.get(rule.id)) is not None
        ]
        star = " \\*" if rule.fixable else ""
        parts.append(f"### {rule.id}\n\nLooks for {rule.forbids}. The mend: {rule.mend}{star}.\n\n" + "\n".join(lines))
    return "\n\n".join(parts)


def _word(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, frozenset):
        return ", ".join(sorted(cast("frozenset[str]", value)))
    return str(value)
