"""Markdown as GitHub renders it: tables, links to headings, and docstrings as text."""

from __future__ import annotations

import inspect
import re
import unicodedata
from collections.abc import Iterable, Sequence
from itertools import groupby


def md_table(headers: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table; bars inside cells are escaped, and line ends become spaces."""
    lines = [_row(headers), "|---" * len(headers) + "|", *(_row(row) for row in rows)]
    return "\n".join(lines)


def anchor(heading: str) -> str:
    """What GitHub makes of a heading in a link: lower case, without punctuation, hyphens for spaces.

    Source: GitHub documentation, "Basic writing and formatting syntax", section links. A second heading of the same
    name gets "-1" there, which is the caller's to add.
    """
    plain = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading).strip().lower()
    return "".join("-" if c == " " else c for c in plain if c in "-_ " or unicodedata.category(c)[0] in "LNM")


def prose(docstring: str) -> str:
    """A docstring as Markdown: its indented examples become blocks of text, all else is Markdown already."""
    parts: list[str] = []
    for paragraph in _paragraphs(docstring):
        if not paragraph[0].startswith("    "):
            parts.append("\n".join(_plain(line) for line in paragraph))
        else:
            block = "\n".join(line.removeprefix("    ") for line in paragraph)
            parts.append(f"```text\n{block}\n```")
    return "\n\n".join(parts)


def field_meanings(described: type) -> dict[str, str]:
    """What a class's docstring says of its fields: a list under "Attributes:", or paragraphs "`field`: …"."""
    text = inspect.getdoc(described) or ""
    _, _, attributes = text.partition("Attributes:\n")
    items = re.split(r"^    (?=\w+:)", attributes, flags=re.MULTILINE)
    items += [p.replace("`", "", 2) for p in text.split("\n\n") if re.match(r"`\w+`:", p)]
    found = (item.partition(":") for item in items if ":" in item)
    return {name.strip(): " ".join(meaning.split()) for name, _, meaning in found}


def _paragraphs(text: str) -> list[list[str]]:
    """What lies between empty lines; a line that begins or ends an indentation of four begins a paragraph, too."""
    found: list[list[str]] = []
    for (empty, _), lines in groupby(text.splitlines(), key=lambda line: (not line.strip(), line.startswith("    "))):
        if not empty:
            found.append(list(lines))
    return found


def _plain(line: str) -> str:
    """A line of prose in which "<" begins no HTML, outside of code spans."""
    spans = line.split("`")
    return "`".join(span if i % 2 else span.replace("<", r"\<") for i, span in enumerate(spans))


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(" ".join(cell.split()).replace("|", r"\|") for cell in cells) + " |"
