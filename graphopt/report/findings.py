"""Findings of `lint` as a page, as JSON, and as a table of the rules."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from graphopt.analysis.legality import RULES, Finding
from graphopt.passes.recover_plan import RecoverPlan
from graphopt.pipeline import Remark
from graphopt.report.document import Document, Line, Table
from graphopt.report.summary import plain
from graphopt.report.units import counted
from graphopt.targets import Target


def lint_page(findings: Sequence[Finding], title: str) -> Document:
    """The findings by node, then what each broken rule means and how it is mended."""
    page: list[Line | Table] = [Line(f"{title}: {tally(findings)}", "title")]
    if not findings:
        return page
    by_node: dict[tuple[str, str], list[Finding]] = {}
    for finding in findings:
        by_node.setdefault((finding.op, finding.node), []).append(finding)
    for (op, node), found in by_node.items():
        page.append(Line(f"  {op} '{node}'"))
        page.append(Table(("", "", ""), tuple((f"  {f.severity}", f.rule, f.found) for f in found)))
    page += [Line(), Line("What it means, and the mend (* by --fix)", "title")]
    for rule, number in Counter(f.rule for f in findings).items():
        found = next(f for f in findings if f.rule == rule)
        star = " *" if found.fixable else ""
        page.append(Line(f"  {rule}, {counted(number, 'time')}: {found.why}"))
        page.append(Line(f"    {found.mend}{star}"))
    return page


def tally(findings: Sequence[Finding]) -> str:
    """`2 errors, 1 warning`."""
    counts = Counter(f.severity for f in findings)
    parts = [counted(counts[kind], kind) for kind in ("error", "warning") if counts[kind]]
    return ", ".join(parts) or "nothing found"


def lint_dict(findings: Sequence[Finding], model: str, target: str) -> dict[str, Any]:
    """The findings for JSON."""
    counts = Counter(f.severity for f in findings)
    return {
        "model": model,
        "target": target,
        "errors": counts["error"],
        "warnings": counts["warning"],
        "findings": [plain(f) for f in findings],
    }


def repair_page(
    before: Sequence[Finding],
    after: Sequence[Finding],
    remarks: Sequence[Remark],
    source: str,
    output: str,
    target: Target,
) -> Document:
    """What was found, what was changed at what cost, and what is left."""
    page: list[Line | Table] = [Line(f"{source} for {target.title}: {tally(before)}", "title")]
    counts = Counter((f.rule, f.severity) for f in before)
    left = Counter(f.rule for f in after)
    rows = tuple((rule, severity, str(n), str(left[rule])) for (rule, severity), n in counts.items())
    if rows:
        page.append(Table(("rule", "", ">found", ">left"), rows))
    for title, lines in (
        (
            "Coarser, because the target takes no such integers",
            [r.message for r in remarks if r.kind == "note" and r.pass_name == RecoverPlan.name],
        ),
        ("Not done", [str(r) for r in remarks if r.kind == "declined"]),
    ):
        if lines:
            page += [Line(), Line(title, "title"), *(Line(f"  {text}") for text in lines)]
    if after:
        page += [Line(), *lint_page(after, f"{output} for {target.title}")]
    return [*page, Line(), Line(f"saved {output}", "good")]


def repair_dict(before: Sequence[Finding], remarks: Sequence[Remark], source: str) -> dict[str, Any]:
    """What a repair adds to the findings that are left, for JSON."""
    return {
        "source": source,
        "before": [plain(f) for f in before],
        "remarks": [plain(r) for r in remarks],
    }


def rules_page(targets: Sequence[Target]) -> Document:
    """Every rule, and how each target takes its breach."""
    rows = tuple(
        (rule.id, rule.forbids, *(_severity(t, rule.id) for t in targets), "yes" if rule.fixable else "")
        for rule in RULES.values()
    )
    return [
        Line("Rules of lint: what each looks for, and what it is for each target", "title"),
        Table(("rule", "looks for", *(t.name for t in targets), "--fix"), rows),
    ]


def rules_dict(targets: Sequence[Target]) -> list[Mapping[str, Any]]:
    """The rules for JSON, with each target's reason."""
    return [
        {
            "id": rule.id,
            "forbids": rule.forbids,
            "mend": rule.mend,
            "fixable": rule.fixable,
            "targets": {t.name: plain(t.breaches[rule.id]) for t in targets if rule.id in t.breaches},
        }
        for rule in RULES.values()
    ]


def rules_table(targets: Sequence[Target]) -> str:
    """The rules as a Markdown table."""
    lines = ["| rule | looks for | " + " | ".join(t.title for t in targets) + " | `--fix` |"]
    lines.append("|---" * (len(targets) + 3) + "|")
    for rule in RULES.values():
        cells = [_severity(t, rule.id) for t in targets]
        lines.append(f"| `{rule.id}` | {rule.forbids} | {' | '.join(cells)} | {'yes' if rule.fixable else ''} |")
    return "\n".join(lines)


def _severity(target: Target, rule: str) -> str:
    breach = target.breaches.get(rule)
    return "" if breach is None else breach.severity
