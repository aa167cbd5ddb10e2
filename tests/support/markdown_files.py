"""What is in a Markdown file: its blocks of code with the comments above them, its links, headings and inline code."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from graphopt.report.markdown import anchor

_FENCE = re.compile(r"^(\s*)```(\w*)\s*$")
_COMMENT = re.compile(r"^\s*<!-- (.*) -->\s*$")
_LINK = re.compile(r"!?\[[^]]*\]\(([^)\s]+)\)|<(https?://[^>\s]+)>")


@dataclass(frozen=True)
class Block:
    """A fenced block.

    Attributes:
        line: the number of its first line of code, from 1.
        language: the word behind the fence, or "".
        code: its lines, each with a line end.
        marks: the comments right above it.
    """

    line: int
    language: str
    code: str
    marks: tuple[str, ...]

    def mark(self, key: str) -> str | None:
        """The text of the comment "key: text" above it ("" for one that is just "key"), or None."""
        for mark in self.marks:
            word, _, text = mark.partition(":")
            if word == key:
                return text.strip()
        return None


@dataclass
class MarkdownFile:
    """One file, read."""

    path: Path
    blocks: list[Block] = field(default_factory=list[Block])
    indented: list[int] = field(default_factory=list[int])
    headings: list[str] = field(default_factory=list[str])
    prose: list[str] = field(default_factory=list[str])

    @classmethod
    def read(cls, path: Path) -> MarkdownFile:
        """Its blocks, headings and prose, in order; an indented line behind an empty one counts as code."""
        found = cls(path)
        lines = iter(enumerate(path.read_text().splitlines(), 1))
        marks: list[str] = []
        before = ""
        in_list = False
        for number, line in lines:
            if fence := _FENCE.match(line):
                code = []
                for _, inner in lines:
                    if inner.strip() == "```":
                        break
                    code.append(inner.removeprefix(fence[1]) + "\n")
                found.blocks.append(Block(number + 1, fence[2], "".join(code), tuple(marks)))
            elif comment := _COMMENT.match(line):
                marks.append(comment[1])
                continue
            elif heading := re.match(r"#{1,6} (.*)", line):
                found.headings.append(heading[1].strip())
            elif line.startswith("    ") and not before.strip() and not in_list:
                found.indented.append(number)
            else:
                found.prose.append(line)
            in_list = bool(re.match(r"\s*([-*]|\d+\.) ", line)) or (in_list and (line.startswith(" ") or not line))
            before = line
            if line.strip():
                marks = []
        return found

    @property
    def anchors(self) -> set[str]:
        """What links to its headings may say: GitHub numbers headings of the same name."""
        seen: Counter[str] = Counter()
        anchors: set[str] = set()
        for heading in self.headings:
            name = anchor(heading)
            anchors.add(f"{name}-{seen[name]}" if seen[name] else name)
            seen[name] += 1
        return anchors

    @property
    def links(self) -> list[str]:
        """Targets of links and pictures outside of code."""
        text = re.sub(r"`[^`]*`", "`code`", "\n".join(self.prose))
        return [inside or alone for inside, alone in _LINK.findall(text)]

    @property
    def spans(self) -> list[str]:
        """Inline code; one that goes on in the next line is joined by a space."""
        return [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", "\n".join(self.prose))]
