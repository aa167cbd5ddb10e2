"""A page of output as data: lines and tables. Written as plain text here, in colour by the command line."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

Style = Literal["plain", "title", "good", "warning"]


@dataclass(frozen=True)
class Line:
    """One line of text; an empty one separates."""

    text: str = ""
    style: Style = "plain"


@dataclass(frozen=True)
class Table:
    """Rows of cells under `columns`; a column whose name begins with ">" is aligned to the right."""

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]

    @property
    def headers(self) -> tuple[str, ...]:
        """The column names without the marks."""
        return tuple(c.removeprefix(">") for c in self.columns)

    def is_right(self, column: int) -> bool:
        """Whether the column is aligned to the right."""
        return self.columns[column].startswith(">")


Document: TypeAlias = Sequence[Line | Table]


def to_text(document: Document) -> str:
    """The page as plain text: columns in spaces, no colours, as wide as its cells."""
    return "\n".join(line for part in document for line in _lines(part))


def _lines(part: Line | Table) -> list[str]:
    if isinstance(part, Line):
        return [part.text]
    rows = ([part.headers] if any(part.headers) else []) + list(part.rows)
    widths = [max(len(row[i]) for row in rows) for i in range(len(part.columns))] if rows else []
    return ["  " + "  ".join(_cell(part, i, row[i], w) for i, w in enumerate(widths)).rstrip() for row in rows]


def _cell(table: Table, column: int, text: str, width: int) -> str:
    return text.rjust(width) if table.is_right(column) else text.ljust(width)
