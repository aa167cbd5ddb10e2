"""docs/passes.md: every pass from its own docstrings, and the presets."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Sequence

import graphopt.passes.presets
from graphopt.passes import CATALOGUE, find_pass
from graphopt.passes.presets import PRESETS
from graphopt.pipeline import Pass
from graphopt.pipeline.options import Option, options_of
from graphopt.report.markdown import anchor, field_meanings, md_table, prose

_HEAD = """# Passes

<!-- Made by `python -m graphopt.report.reference docs`; edit the passes' docstrings instead. -->

A pipeline is a list of passes, given as a preset (`--preset int8`), as text
(`--passes 'fold-constants,calibrate{method=minmax}'`) or as a [TOML file](file-formats.md#pipelines).
`graphopt passes NAME` prints one pass. "Kept" below is a promise: `--check-numerics` runs the model around every such
pass and holds it to that. Where a text names a module that begins with `_`, it lies beside the pass in `passes/`."""


def pass_reference() -> str:
    """The whole page."""
    types = [find_pass(name) for name in CATALOGUE]
    overview = md_table(
        ("pass", "outputs", "what it does"),
        ((f"[{t.name}](#{anchor(t.name)})", "kept" if t.lossless else "change", t.summary) for t in types),
    )
    return "\n\n".join((_HEAD, overview, _presets(), *(_section(t) for t in types))) + "\n"


def _presets() -> str:
    lines = ["## Presets", prose(inspect.getdoc(graphopt.passes.presets) or "")]
    done: list[tuple[str, Sequence[str]]] = []
    for name, steps in PRESETS.items():
        base, rest = "", steps
        for other, others in done:
            if tuple(steps[: len(others)]) == tuple(others):
                base, rest = f"what `{other}` does → ", steps[len(others) :]
        lines.append(f"- **{name}**: {base}{' → '.join(_step(step) for step in rest)}")
        done.append((name, steps))
    return "\n\n".join(lines[:2]) + "\n\n" + "\n".join(lines[2:])


def _step(text: str) -> str:
    name, brace, options = text.partition("{")
    return f"[{name}](#{anchor(name)})" + (f"`{brace}{options}`" if brace else "")


def _section(pass_type: type[Pass]) -> str:
    module = sys.modules[pass_type.__module__]
    source = f"{pass_type.__module__.removeprefix('graphopt.').replace('.', '/')}.py"
    users = [name for name, steps in PRESETS.items() if any(s.partition("{")[0] == pass_type.name for s in steps)]
    facts = [
        "Outputs are kept" if pass_type.lossless else "Outputs may change",
        f"in presets {', '.join(users)}" if users else "in no preset",
        f"[{source}](../{source})",
    ]
    parts = [f"## {pass_type.name}", " · ".join(facts), prose(inspect.getdoc(module) or "")]
    options = options_of(pass_type)
    if options:
        meanings = field_meanings(pass_type)
        rows = ((f"`{o.name}`", o.type, _default(o), meanings.get(o.name.replace("-", "_"), "")) for o in options)
        parts.append(md_table(("option", "value", "default", "meaning"), rows))
    return "\n\n".join(parts)


def _default(option: Option) -> str:
    if option.required:
        return "must be given"
    if option.default in (None, (), frozenset()):
        return "none"
    return str(option.default).lower() if isinstance(option.default, bool) else str(option.default)
