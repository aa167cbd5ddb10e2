"""Findings as SARIF 2.1.0, which CI systems show beside the model: OASIS Standard, "Static Analysis Results Interchange
Format (SARIF) Version 2.1.0".

A node is a logical location (section 3.33): ONNX files have no lines.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import PurePath
from typing import Any
from urllib.parse import quote

from graphopt._version import __version__
from graphopt.analysis.legality import RULES, Finding
from graphopt.targets import Target

SCHEMA = "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"


def to_sarif(findings: Sequence[Finding], model: str, target: Target) -> dict[str, Any]:
    """One run of `graphopt lint` on the file `model`."""
    rules = [rule for rule in RULES.values() if rule.id in target.breaches]
    index = {rule.id: k for k, rule in enumerate(rules)}
    uri = quote(PurePath(model).as_posix())
    return {
        "$schema": SCHEMA,
        "version": "2.1.0",
        "runs": [
            {
                "tool": {
                    "driver": {
                        "name": "graphopt lint",
                        "version": __version__,
                        "rules": [
                            {
                                "id": rule.id,
                                "shortDescription": {"text": rule.forbids},
                                "fullDescription": {"text": f"{rule.forbids}: {target.breaches[rule.id].why}"},
                                "help": {"text": rule.mend},
                                "defaultConfiguration": {"level": target.breaches[rule.id].severity},
                            }
                            for rule in rules
                        ],
                    }
                },
                "artifacts": [{"location": {"uri": uri}}],
                "results": [_result(finding, index[finding.rule], uri) for finding in findings],
                "properties": {"target": target.name},
            }
        ],
    }


def _result(finding: Finding, index: int, uri: str) -> dict[str, Any]:
    text = f"{finding.op} '{finding.node}': {finding.found}; {finding.why}; {finding.mend}"
    return {
        "ruleId": finding.rule,
        "ruleIndex": index,
        "level": finding.severity,
        "message": {"text": text},
        "locations": [
            {
                "physicalLocation": {"artifactLocation": {"uri": uri, "index": 0}},
                "logicalLocations": [
                    {"name": finding.node, "fullyQualifiedName": f"{finding.op}/{finding.node}", "kind": "element"}
                ],
            }
        ],
        "properties": {"tensor": finding.tensor, "fixable": finding.fixable, "affects": list(finding.affects)},
    }
