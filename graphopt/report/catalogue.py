"""The passes and the targets as pages, from their own declarations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from graphopt.passes import PassInfo
from graphopt.report.document import Document, Line, Table
from graphopt.targets import OpRule, Target


def passes_page(passes: Sequence[PassInfo], presets: Mapping[str, Sequence[str]]) -> Document:
    """Every pass with its options, and what the presets run."""
    page: list[Line | Table] = [Line("Passes", "title")]
    page.append(
        Table(
            ("pass", "outputs", "what it does"),
            tuple((p.name, "kept" if p.lossless else "change", p.error or _summary(p)) for p in passes),
        )
    )
    page += _options(passes)
    page += [Line(), Line("Presets", "title"), Table(("", ""), tuple((n, ",".join(p)) for n, p in presets.items()))]
    return page


def pass_page(info: PassInfo) -> Document:
    """One pass: what its code says of it, and its options."""
    page: list[Line | Table] = [Line(f"{info.name} ({info.package})", "title"), Line(_summary(info))]
    page.append(Line("It keeps the outputs." if info.lossless else "It may change the outputs."))
    return [*page, Line(), *map(Line, info.text.splitlines()), *_options([info])]


def targets_page(targets: Sequence[Target]) -> Document:
    """The schemes of each target, and what each operator does there."""
    schemes = tuple(
        (t.name, t.title, str(t.activation), _weights(t), t.bias, ", ".join(sorted(t.fused_activations)))
        for t in targets
    )
    ops = sorted({op for t in targets for op in t.rules})
    return [
        Line("Targets", "title"),
        Table(("target", "", "activations", "weights", "bias", "fused into the layer before"), schemes),
        Line(),
        Table(("target", "precisions"), tuple((t.name, ", ".join(t.precisions)) for t in targets)),
        Line(),
        Line("Operators in 8 bits: what each does to the scales; * when conditions hold", "title"),
        Table(
            ("operator", *(t.name for t in targets)),
            tuple((op, *(_role(t.rules.get(op)) for t in targets)) for op in ops),
        ),
    ]


def target_page(target: Target) -> Document:
    """One target's rules, with conditions and sources."""
    rules = tuple(
        (op, str(r.role), "yes" if r.output_quantized else "", r.operands, ", ".join(r.conditions), r.source)
        for op, r in sorted(target.rules.items())
    )
    reasons = tuple((op, why) for op, why in sorted(target.float_reasons.items()))
    precisions = tuple(
        (name, r.where, r.written, r.borders, ", ".join(r.conditions), r.source)
        for name, r in target.precisions.items()
    )
    page: list[Line | Table] = [*targets_page([target])[:2], Line()]
    page.append(Table(("operator", "role", "output in 8 bits", "inputs in 8 bits", "conditions", "source"), rules))
    page += [Line(), Line("Precisions that parts of a model can have", "title")]
    page.append(Table(("precision", "operators", "written as", "a border costs", "conditions", "source"), precisions))
    return [*page, Line(), Table(("stays in float", "why"), reasons)] if reasons else page


def target_dict(target: Target) -> dict[str, Any]:
    """One target for JSON."""
    return {
        "title": target.title,
        "activations": str(target.activation),
        "weights": _weights(target),
        "bias": target.bias,
        "fused_activations": sorted(target.fused_activations),
        "rules": {
            op: {
                "role": str(rule.role),
                "output_quantized": rule.output_quantized,
                "operands": rule.operands,
                "conditions": list(rule.conditions),
                "source": rule.source,
            }
            for op, rule in sorted(target.rules.items())
        },
        "precisions": {
            name: {
                "operators": None if rule.operators is None else sorted(rule.operators),
                "without": sorted(rule.without),
                "written": rule.written,
                "borders": rule.borders,
                "conditions": list(rule.conditions),
                "devices": list(rule.devices),
                "source": rule.source,
            }
            for name, rule in target.precisions.items()
        },
        "float_reasons": dict(target.float_reasons),
    }


def _options(passes: Sequence[PassInfo]) -> list[Line | Table]:
    options = tuple(
        (p.name, o.name, o.type, "required" if o.required else _default(o.default)) for p in passes for o in p.options
    )
    title = Line("Options, as in calibrate{method=minmax}", "title")
    return [Line(), title, Table(("pass", "option", "value", "default"), options)] if options else []


def _summary(info: PassInfo) -> str:
    return info.summary if info.package == "graphopt" else f"{info.summary} (from {info.package})"


def _default(value: Any) -> str:
    return "none" if value in (None, (), frozenset()) else str(value)


def _weights(target: Target) -> str:
    return f"{target.weight}{'' if target.weight_per_channel else ', one scale'}"


def _role(rule: OpRule | None) -> str:
    return "-" if rule is None else f"{rule.role}{'*' if rule.conditions else ''}"
