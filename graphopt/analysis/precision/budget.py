"""What a user may spend: "latency=0.6x", "latency=3ms", "size=0.3x", "size=1.5MB", "bits=6".

`x` is a part of what the model takes with every region in float32. `bits` is the mean number of bits of a weight, over
the multiply-accumulates.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from graphopt.analysis.precision.types import CostKind, Costs, Regions
from graphopt.errors import ConfigError

_FLOAT_BITS = 32
# Unit → its size in the unit of the costs (seconds, bytes).
_UNITS: dict[CostKind, dict[str, float]] = {
    "latency": {"s": 1.0, "ms": 1e-3, "us": 1e-6},
    "size": {"B": 1.0, "kB": 1e3, "MB": 1e6},
    "bits": {},
}
_FORM = re.compile(r"(latency|size|bits)=([0-9]*\.?[0-9]+(?:e-?[0-9]+)?)([A-Za-z]*)")


@dataclass(frozen=True)
class Budget:
    """How much of one kind of cost may be spent.

    Attributes:
        kind: of the cost.
        value: how much: in `unit`; for bits, the mean over multiply-accumulates.
        unit: "x" for a part of the float model's, a unit of time or size, or "" for bits.
    """

    kind: CostKind
    value: float
    unit: str

    def limit(self, regions: Regions, costs: Costs) -> float:
        """The budget in the unit of the costs, `fixed` included."""
        whole = float_cost(regions, costs)
        if self.kind == "bits":
            return self.value / _FLOAT_BITS * whole
        return self.value * (whole if self.unit == "x" else _UNITS[self.kind][self.unit])

    def __str__(self) -> str:
        return f"{self.kind}={self.value:g}{self.unit}"


def float_cost(regions: Regions, costs: Costs) -> float:
    """What the model takes with every region in float32."""
    return costs.fixed + sum(costs.regions.get((region.name, "float32"), 0.0) for region in regions.regions)


def parse_budget(text: str) -> Budget:
    """A budget as users write it.

    Raises:
        ConfigError: it isn't one, or asks for nothing or for more than the float model takes.
    """
    found = _FORM.fullmatch(text.replace(" ", ""))
    if found is None:
        raise ConfigError(f"'{text}' is no budget; expected latency=0.6x, latency=3ms, size=0.3x, size=1.5MB or bits=6")
    kind, number, unit = found.groups()
    assert kind == "latency" or kind == "size" or kind == "bits"
    units = [""] if kind == "bits" else ["x", *_UNITS[kind]]
    if unit not in units:
        given = "without a unit" if kind == "bits" else f"in {', '.join(units)}"
        raise ConfigError(f"the budget '{text}' has the unit '{unit}'; {kind} is given {given}")
    value = float(number)
    most = _FLOAT_BITS if kind == "bits" else 1.0 if unit == "x" else float("inf")
    if not 0 < value <= most:
        bound = "" if most == float("inf") else f" and at most {most:g}"
        raise ConfigError(f"the budget '{text}' must be more than 0{bound}")
    return Budget(kind, value, unit)
