"""Tables of all targets side by side, for README.md and docs/targets.md: `python -m graphopt.targets.table`."""

from __future__ import annotations

from graphopt.quant.precision import PRECISIONS, PrecisionName
from graphopt.targets import TARGETS, PrecisionRule, Role, Target

_MARKS = {
    Role.LINEAR: "int8",
    Role.COMPUTE: "int8",
    Role.SAME_SCALE: "int8, same scale",
    Role.FIXED_OUTPUT: "int8, fixed output",
}

_CONDITIONS = {
    "sole-output": "one output",
    "fixed-sizes": "constant sizes",
    "zero-pad": "zeros",
    "one-group": "no groups",
    "unjoined": "signed input in no Concat",
    "inner": "not at a graph output",
    "floors": "no ceil_mode",
    "counts-pads": "count_include_pad",
    "no-zeros-counted": "no counted pads of signed values",
    "column-bias": "constant bias per column",
}


def support_table() -> str:
    """A Markdown table: a row for each operator that any target has a rule for, a column for each target."""
    targets = list(TARGETS.values())
    operators = sorted({op for t in targets for op in t.rules})
    lines = [
        "| operator | " + " | ".join(t.title for t in targets) + " |",
        "|---" * (len(targets) + 1) + "|",
    ]
    lines += [f"| {op} | " + " | ".join(_cell(t, op) for t in targets) + " |" for op in operators]
    lines.append("| *activations* | " + " | ".join(str(t.activation) for t in targets) + " |")
    lines.append("| *weights* | " + " | ".join(f"{t.weight}, per output channel" for t in targets) + " |")
    lines.append("| *bias* | " + " | ".join(t.bias for t in targets) + " |")
    lines.append(
        "| *fused, no Q/DQ before* | " + " | ".join(", ".join(sorted(t.fused_activations)) for t in targets) + " |"
    )
    return "\n".join(lines)


def precision_table() -> str:
    """A Markdown table: a row for each precision that any target has, how each target's models say it, and where."""
    targets = list(TARGETS.values())
    lines = ["| precision | " + " | ".join(t.title for t in targets) + " |", "|---" * (len(targets) + 1) + "|"]
    names: list[PrecisionName] = [p.name for p in PRECISIONS.values() if any(p.name in t.precisions for t in targets)]
    lines += [f"| {name} | " + " | ".join(_where(t.precisions.get(name)) for t in targets) + " |" for name in names]
    lines.append("| *a border costs* | " + " | ".join("; ".join(_borders(t)) for t in targets) + " |")
    return "\n".join(lines)


def _where(rule: PrecisionRule | None) -> str:
    if rule is None:
        return "-"
    operators = "" if rule.where == "all" else f"{rule.where}: "
    return f"{operators}{rule.written}" + (f", from {rule.devices[0]}" if rule.devices else "")


def _borders(target: Target) -> list[str]:
    return [border for border in dict.fromkeys(r.borders for r in target.precisions.values()) if border]


def _cell(target: Target, op: str) -> str:
    rule = target.rules.get(op)
    if rule is None:
        return "fused" if op in target.fused_activations else "float"
    parts = [_MARKS[rule.role]]
    if rule.operands != "all":
        parts.append("skip branch only")
    parts += [_CONDITIONS.get(c, c) for c in rule.conditions]
    return ", ".join(parts)


if __name__ == "__main__":
    print(support_table())
    print()
    print(precision_table())
