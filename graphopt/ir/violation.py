"""One thing that is wrong with a graph."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Violation:
    """A broken rule.

    Attributes:
        rule: defined, names, ssa, links, order, types, plan, quantization or onnx (its own checker).
        node: name of the node, or of the tensor, where it was found.
        message: what was found and what was expected, naming the place; reads well after "the model is invalid: ".
    """

    rule: str
    node: str
    message: str

    def __str__(self) -> str:
        return f"[{self.rule}] {self.message}"
