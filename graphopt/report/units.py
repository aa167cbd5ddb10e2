"""Numbers as people read them."""

from __future__ import annotations

import math
from collections.abc import Sequence

_NAMES, _NAME = 3, 40  # names at most, characters of each at most


def bytes_text(count: int) -> str:
    """`512 B`, `45.2 kB`, `102.1 MB` (powers of 1000)."""
    return f"{count} B" if count < 1000 else f"{_scaled(count)}B"


def count_text(count: int) -> str:
    """`512`, `45.2 k`, `4.1 G`."""
    return str(count) if count < 1000 else _scaled(count)


def seconds_text(seconds: float) -> str:
    """`7 ms`, `1.24 s`."""
    return f"{1000 * seconds:.0f} ms" if seconds < 1 else f"{seconds:.2f} s"


def milliseconds_text(seconds: float) -> str:
    """`0.42 ms`, `12.50 ms`, `1.24 s`."""
    return f"{1000 * seconds:.2f} ms" if seconds < 1 else seconds_text(seconds)


def percent_text(share: float) -> str:
    """`97.50 %`."""
    return f"{100 * share:.2f} %"


def decibel_text(value: float) -> str:
    """`35.2 dB`; "exact" for no error at all."""
    if math.isnan(value):
        return "not comparable"
    return "exact" if value == math.inf else f"{value:.1f} dB"


def change_text(before: str, after: str) -> str:
    """`52 → 41`, or just `52`."""
    return before if before == after else f"{before} → {after}"


def ratio_text(before: int, after: int) -> str:
    """`3.7 times smaller`; "" where it isn't smaller."""
    return f"{before / after:.1f} times smaller" if after and before >= 1.05 * after else ""


def counted(count: int, noun: str) -> str:
    """`1 layer`, `2 layers`."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def names_text(names: Sequence[str]) -> str:
    """A few names of layers, long ones by their ends, which tell them apart."""
    shown = ", ".join(name if len(name) <= _NAME else f"…{name[1 - _NAME :]}" for name in names[:_NAMES])
    return shown if len(names) <= _NAMES else f"{shown} and {len(names) - _NAMES} more"


def _scaled(count: int) -> str:
    value, unit = count / 1e3, "k"
    for larger in ("M", "G"):
        if value >= 999.95:
            value, unit = value / 1e3, larger
    return f"{value:.1f} {unit}"


def finite(value: float | None) -> float | None:
    """The value; None for what JSON lacks: infinities and NaN."""
    return value if value is not None and math.isfinite(value) else None
