"""The catalogue of passes: name → "module:Class". Nothing is imported until a pass is asked for."""

from __future__ import annotations

CATALOGUE: dict[str, str] = {
    "remove-dead": "graphopt.passes.remove_dead:RemoveDead",
}
