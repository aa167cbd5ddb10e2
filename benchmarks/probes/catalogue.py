"""The catalogue: probe name → what it builds. Modules add theirs with `@probe`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from benchmarks.probes.net import Net, Style
from graphopt.quant import Scheme
from graphopt.targets import Bias, Target

Build = Callable[[Net], None]

U8, S8, S8_SYMMETRIC = Scheme("uint8"), Scheme("int8"), Scheme("int8", symmetric=True)


@dataclass(frozen=True)
class Probe:
    """A question to engines.

    Attributes:
        name: says operator, scheme and placement; tables cite it.
        op: the operator it asks about.
        build: makes the model.
        activation: scheme of activations, where the question is about it; None: the target's own.
        bias: likewise.
        batch: of the inputs; "N" is symbolic.
    """

    name: str
    op: str
    build: Build
    activation: Scheme | None = None
    bias: Bias | None = None
    batch: str | int = "N"

    def net(self, target: Target) -> Net:
        """The model, with values, in a target's style."""
        net = Net(Style(self.activation or target.activation, self.bias or target.bias, self.batch))
        self.build(net)
        return net


PROBES: dict[str, Probe] = {}


def add(name: str, op: str, build: Build, **style: Scheme | Bias | str | int) -> None:
    """Add a probe."""
    assert name not in PROBES, name
    PROBES[name] = replace(Probe(name, op, build), **style)  # pyright: ignore[reportArgumentType]  # checked by use


def probe(name: str, op: str, **style: Scheme | Bias | str | int) -> Callable[[Build], Build]:
    """Add the decorated function as a probe."""

    def register(build: Build) -> Build:
        add(name, op, build, **style)
        return build

    return register
