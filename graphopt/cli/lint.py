"""`graphopt lint`: any tool's Q/DQ model against a target's contract."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from graphopt import api
from graphopt.cli import options
from graphopt.cli.screen import Screen
from graphopt.errors import ConfigError
from graphopt.ir.files import check_output_path, replacing
from graphopt.report.findings import lint_dict, lint_page, repair_dict, repair_page, rules_dict, rules_page
from graphopt.report.sarif import to_sarif
from graphopt.targets import TARGETS, find_target

EXIT_FINDINGS = 1


def lint(
    model: Annotated[
        Path | None, typer.Argument(metavar="MODEL", help="The Q/DQ model: .onnx, or .onnxtxt for ONNX text.")
    ] = None,
    target: options.TargetName = None,
    rules: Annotated[bool, typer.Option("--rules", help="List the rules instead.")] = False,
    fix: Annotated[
        bool, typer.Option("--fix", help="Repair what needs no calibration, and write the result to --output.")
    ] = False,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="OUT", help="Where --fix writes the repaired model.")
    ] = None,
    sarif: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write the findings as SARIF 2.1.0, for CI.")
    ] = None,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> int:
    """Check a quantized (Q/DQ) model of any tool against what a target wants, node by node; exit 1 on errors."""
    screen = Screen(as_json, quiet)
    if rules:
        chosen = list(TARGETS.values()) if target is None else [find_target(target)]
        screen.show(rules_page(chosen), rules_dict(chosen))
        return 0
    if model is None or target is None:
        missing = "a model" if model is None else f"a target: give one of {', '.join(TARGETS)} with --target"
        raise ConfigError(f"lint needs {missing}")
    if fix != (output is not None):
        raise ConfigError("--fix and --output go together: --fix -o OUT.onnx")
    aim = find_target(target)
    if sarif is not None:
        check_output_path(sarif, (model,))
    if output is None:
        with screen.working():
            findings = api.lint(model, aim)
        checked, page, content = model, lint_page(findings, f"{model} for {aim.title}"), {}
    else:
        with screen.working():
            repair = api.repair(model, aim, output=output)
        findings, checked = repair.after, output
        page = repair_page(repair.before, repair.after, repair.remarks, str(model), str(output), aim)
        content = repair_dict(repair.before, repair.remarks, str(model))
    if sarif is not None:
        with replacing(sarif) as file:
            file.write(json.dumps(to_sarif(findings, str(checked), aim), indent=2, ensure_ascii=False).encode())
    screen.show(page, {**lint_dict(findings, str(checked), aim.name), **content})
    return EXIT_FINDINGS if any(f.severity == "error" for f in findings) else 0
