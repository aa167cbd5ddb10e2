"""Where a command's output goes: colours and progress bars on a terminal, plain lines in a pipe, JSON, or nothing."""

from __future__ import annotations

import json
import sys
import warnings
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TextIO

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table as RichTable
from rich.text import Text

from graphopt.errors import one_line
from graphopt.pipeline.passes import Progress as Report
from graphopt.report import Document, Line, Table, to_text

_STYLES = {"plain": "", "title": "bold", "good": "green", "warning": "yellow"}


@dataclass(frozen=True)
class Screen:
    """One command's output: pages and JSON on stdout, warnings and progress on stderr."""

    as_json: bool = False
    quiet: bool = False

    def show(self, page: Document, content: Any) -> None:
        """The page, or with --json `content` as one document."""
        if self.as_json:
            print(json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False))
        elif self.quiet:
            return
        elif sys.stdout.isatty():
            _show_rich(page)
        else:
            print(to_text(page))

    @contextmanager
    def working(self) -> Generator[Report | None]:
        """While work goes on: Python warnings become plain lines, and a terminal gets progress bars."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            warnings.simplefilter("ignore" if self.quiet else "always", UserWarning)
            warnings.showwarning = _show_warning
            if self.quiet or not sys.stderr.isatty():
                yield None
                return
            columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
            with Progress(*columns, console=Console(stderr=True), transient=True) as bars:
                yield _reporter(bars)


def _reporter(bars: Progress) -> Report:
    tasks: dict[str, TaskID] = {}

    def report(what: str, done: int, total: int | None) -> None:
        if what not in tasks:
            tasks[what] = bars.add_task(what, total=total)
        bars.update(tasks[what], completed=done, total=total)

    return report


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    del category, filename, lineno, file, line
    print(f"graphopt: warning: {one_line(message)}", file=sys.stderr)


def _show_rich(page: Document) -> None:
    console = Console(highlight=False)
    for part in page:
        console.print(_rich_line(part) if isinstance(part, Line) else _rich_table(part))


def _rich_line(line: Line) -> Text:
    return Text(line.text, style=_STYLES[line.style])


def _rich_table(table: Table) -> RichTable:
    rich = RichTable(box=None, pad_edge=True, show_header=any(table.headers), header_style="dim")
    for index, header in enumerate(table.headers):
        rich.add_column(Text(header), justify="right" if table.is_right(index) else "left", overflow="fold")
    for row in table.rows:
        rich.add_row(*(Text(cell) for cell in row))
    return rich
