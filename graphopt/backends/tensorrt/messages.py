"""What the process that builds is asked, and what it answers: JSON, one line each way."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Request:
    """What to parse and build.

    Attributes:
        model: path of a model file whose nodes have unique names.
        weights: path of the file that the model's external data are relative to.
        capability: of the GPU to build for: SM86.
        sizes: input → its shape, for inputs with open axes.
        plan: where to write the plan; empty: parse only, and go on behind what is refused.
    """

    model: str
    weights: str
    capability: str
    sizes: dict[str, list[int]]
    plan: str = ""


@dataclass(frozen=True)
class Answer:
    """What came of it.

    Attributes:
        refusals: (name of a node, or "", message) of what the parser refused; then nothing was built.
        errors: of the build, where it failed.
        warnings: of parser and builder.
        seconds: that parsing and building took.
    """

    refusals: list[tuple[str, str]] = field(default_factory=list[tuple[str, str]])
    errors: list[str] = field(default_factory=list[str])
    warnings: list[str] = field(default_factory=list[str])
    seconds: float = 0.0
