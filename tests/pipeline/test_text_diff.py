"""Unified differences of texts: what they say makes the one of the other."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from graphopt.pipeline.instruments.text_diff import text_diff

_LINES = st.lists(st.sampled_from(["a", "b", "c", "d", "e", "f", "g", ""]), max_size=25)


def _patched(old: list[str], diff: str) -> list[str]:
    """What a patch program makes of it: hunks in order, each at the line that it names."""
    result: list[str] = []
    at = 0
    for line in diff.splitlines()[2:]:
        if line.startswith("@@"):
            start = int(line.split()[1].removeprefix("-").split(",")[0]) - 1
            result += old[at:start]
            at = start
        elif line.startswith("+"):
            result.append(line[1:])
        else:
            assert old[at] == line[1:]
            result += [line[1:]] if line.startswith(" ") else []
            at += 1
    return result + old[at:]


@given(_LINES, _LINES)
def test_it_makes_the_one_of_the_other(old: list[str], new: list[str]) -> None:
    before, after = ("".join(f"{line}\n" for line in lines) for lines in (old, new))
    assert _patched(before.splitlines(), text_diff(before, after, "name")) == after.splitlines()


def test_what_is_the_same_is_left_out() -> None:
    lines = [f"line {k}" for k in range(100)]
    changed = [*lines[:50], "other", *lines[51:]]
    diff = text_diff("\n".join(lines), "\n".join(changed), "002_pass").splitlines()
    assert diff == [
        "--- before 002_pass",
        "+++ 002_pass",
        "@@ -48,7 +48,7 @@",
        " line 47",
        " line 48",
        " line 49",
        "-line 50",
        "+other",
        " line 51",
        " line 52",
        " line 53",
    ]
