"""Which candidate ships: above the floor, not slower than the original, fastest, smallest.

Within a budget it is the one of least error: what may be spent is spent. Where the budget is of bytes or bits, what is
within it ships even where it is slower. What can't be told apart by measuring counts as equally fast: then the smaller
one ships, and of two about as small the more accurate one. The simplified model ships before the original, which it
equals.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from graphopt.report.precision import Candidate

ORIGINAL, FLOAT, INT8 = "original", "float", "int8"
_LOSSLESS = (ORIGINAL, FLOAT)
_EXPLAINED = 3
# Sizes within this part of each other are about the same: scales and conversions, not weights.
_ABOUT_AS_SMALL = 0.05


@dataclass(frozen=True)
class Preferred:
    """The place of the candidate that ships, and why it is this one."""

    index: int
    why: str


def prefer(
    candidates: Sequence[Candidate], *, keep_original: bool = True, budget_first: bool = False
) -> Preferred | None:
    """The candidate that ships; None where none is above the floor.

    Args:
        candidates: the original among them, or not.
        keep_original: whether the original may ship: what was asked for may be to change it.
        budget_first: what is within the budget may be slower than the original: the budget isn't about time.
    """
    standing = [c for c in candidates if c.holds and (keep_original or c.name != ORIGINAL)]
    pool = [c for c in standing if not is_slower(c) or (budget_first and c.within_budget)] or standing
    if not pool:
        return None
    if within := [c for c in pool if c.within_budget]:
        best = max(within, key=lambda c: (c.sqnr_db, _speed(c), -c.weight_bytes))
        return Preferred(candidates.index(best), f"the least error within the budget, {_why(best, best, candidates)}")
    fastest = max(pool, key=_speed)
    ties = [c for c in pool if _as_fast(c, fastest)]
    smallest = min(c.weight_bytes for c in ties)
    small = [c for c in ties if c.weight_bytes <= (1 + _ABOUT_AS_SMALL) * smallest]
    best = max(small, key=lambda c: (c.name != ORIGINAL, c.value, c.sqnr_db, _speed(c)))
    return Preferred(candidates.index(best), _why(best, fastest, candidates))


def is_slower(candidate: Candidate) -> bool:
    """Whether it takes longer than the original, as measured or, for want of that, by its cost.

    What loses nothing ships unless it is surely slower, what loses something only if it surely isn't: timed again, half
    of those that seem just as fast come out slower.
    """
    latency = candidate.latency
    if latency is None:
        return candidate.cost_share is not None and candidate.cost_share > 1 + 1e-9
    return (latency.median_high if candidate.name in _LOSSLESS else latency.median_low) < 1


def _speed(candidate: Candidate) -> float:
    """Times as fast as the original."""
    if candidate.latency is not None:
        return candidate.latency.speedup
    return 1 / candidate.cost_share if candidate.cost_share and candidate.name != ORIGINAL else 1.0


def _as_fast(candidate: Candidate, fastest: Candidate) -> bool:
    """Whether measuring doesn't tell them apart."""
    low = _speed(fastest) if fastest.latency is None else fastest.latency.median_low
    return low <= (_speed(candidate) if candidate.latency is None else candidate.latency.median_high)


def _why(best: Candidate, fastest: Candidate, candidates: Sequence[Candidate]) -> str:
    others = [c for c in candidates if c is not best and c.name not in _LOSSLESS]
    reasons = [f"{c.name} {_drawback(c, best)}" for c in others]
    rest = f"; {'; '.join(reasons[:_EXPLAINED])}" if reasons else ""
    if best.name in _LOSSLESS:
        what = "the model as it came" if best.name == ORIGINAL else "the simplified model, in float"
        return f"{what}: no candidate in fewer bits is better{rest}"
    gain = f"{_speed(best):.2f} times as fast as the original"
    if best.latency is None and best.cost_share is not None:  # which may be of time, bytes or bits
        gain = f"{best.cost_share:.2f} of the original's cost"
    also = "" if best is fastest else f", not measurably slower than {fastest.name}, and smaller or as small"
    return f"{gain}, and above the floor{also}{rest}"


def _drawback(candidate: Candidate, best: Candidate) -> str:
    if not candidate.holds:
        return "is below the floor"
    if is_slower(candidate):
        speed = _speed(candidate)
        return f"{'may be' if speed >= 1 else 'is'} slower than the original ({speed:.2f})"
    if candidate.within_budget is False and best.within_budget:
        return "is beyond the budget"
    if best.within_budget:
        return "loses more"
    return "isn't as fast" if _speed(candidate) < _speed(best) else "is larger, or less accurate"
