"""A unified difference of two texts of a graph."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence
from typing import Literal, TypeAlias

_CONTEXT = 3


def text_diff(before: str, after: str, name: str) -> str:
    """How to make `after` of `before`, in the form of `diff -u`, with lines around each change.

    difflib compares block by block, between lines that occur once in both texts (patience diff): whole texts of 2,000
    lines of which a third has changed took it 2 s, and so 0.1 s.
    """
    old, new = before.splitlines(), after.splitlines()
    lines = [f"--- before {name}", f"+++ {name}"]
    matcher = _Anchored(old, new)
    for group in matcher.groups():
        lines += _hunk(old, new, group)
    return "\n".join([*lines, ""])


_Opcode: TypeAlias = tuple[Literal["replace", "delete", "insert", "equal"], int, int, int, int]


class _Anchored(difflib.SequenceMatcher[str]):
    """With the steps of blocks between unique lines."""

    def __init__(self, old: list[str], new: list[str]) -> None:
        super().__init__(None, old, new, autojunk=False)
        self.old, self.new = old, new

    def get_opcodes(self) -> list[_Opcode]:
        """Steps that make the new text of the old one."""
        return list(_joined(_steps(self.old, self.new)))

    def groups(self) -> Iterator[Sequence[tuple[str, int, int, int, int]]]:
        """The steps with a few equal lines around them."""
        yield from self.get_grouped_opcodes(_CONTEXT)


def _steps(old: list[str], new: list[str]) -> Iterator[_Opcode]:
    i = j = 0
    for a, b in (*_anchors(old, new), (len(old), len(new))):
        if i < a and j < b:
            for tag, i1, i2, j1, j2 in difflib.SequenceMatcher(None, old[i:a], new[j:b], autojunk=False).get_opcodes():
                yield tag, i + i1, i + i2, j + j1, j + j2
        elif i < a or j < b:
            yield "delete" if i < a else "insert", i, a, j, b
        if a < len(old):
            yield "equal", a, a + 1, b, b + 1
        i, j = a + 1, b + 1


def _anchors(old: list[str], new: list[str]) -> list[tuple[int, int]]:
    """Places of lines that are unique in both texts: the longest run of them that is in the same order."""
    once = _unique(new)
    pairs = [(i, once[line]) for line, i in _unique(old).items() if line in once]
    ends: list[int] = []  # for each length, the pair that ends the best run of it
    before: dict[int, int] = {}
    for k, (_, j) in enumerate(pairs):
        low, high = 0, len(ends)
        while low < high:
            middle = (low + high) // 2
            if pairs[ends[middle]][1] < j:
                low = middle + 1
            else:
                high = middle
        if low:
            before[k] = ends[low - 1]
        ends[low : low + 1] = [k]
    found: list[tuple[int, int]] = []
    at = ends[-1] if ends else None
    while at is not None:
        found.append(pairs[at])
        at = before.get(at)
    return found[::-1]


def _unique(lines: list[str]) -> dict[str, int]:
    found: dict[str, int] = {}
    twice: set[str] = set()
    for index, line in enumerate(lines):
        if line in found:
            twice.add(line)
        found[line] = index
    return {line: index for line, index in found.items() if line not in twice}


def _joined(steps: Iterator[_Opcode]) -> Iterator[_Opcode]:
    """Steps of one kind that follow each other as one."""
    last: _Opcode | None = None
    for step in steps:
        if last is not None and last[0] == step[0]:
            last = (last[0], last[1], step[2], last[3], step[4])
        else:
            if last is not None:
                yield last
            last = step
    if last is not None:
        yield last


def _hunk(old: list[str], new: list[str], group: Sequence[tuple[str, int, int, int, int]]) -> Iterator[str]:
    first, last = group[0], group[-1]
    yield f"@@ -{first[1] + 1},{last[2] - first[1]} +{first[3] + 1},{last[4] - first[3]} @@"
    for tag, i1, i2, j1, j2 in group:
        if tag == "equal":
            yield from (f" {line}" for line in old[i1:i2])
        else:
            yield from (f"-{line}" for line in old[i1:i2])
            yield from (f"+{line}" for line in new[j1:j2])
