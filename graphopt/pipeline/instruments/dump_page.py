"""The page of a dump: every pass with its figures, remarks and difference. Opens from disk, without a network."""

from __future__ import annotations

import functools
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from graphopt.pipeline.instrument import PassRecord
from graphopt.pipeline.remarks import Remark

if TYPE_CHECKING:
    from jinja2 import Template

# A page with all lines of a large model opens slowly; the .diff beside it has them all.
_SHOWN_LINES = 400


@dataclass(frozen=True)
class DumpedPass:
    """One pass, as it is written.

    Attributes:
        record: its figures.
        remarks: what it said.
        stem: name of its .txt and .diff; "" where it changed nothing.
        diff: against the text before.
        peak_memory: bytes that the process had taken by then at most; None where that isn't known.
        dump_seconds: what writing all this took.
    """

    record: PassRecord
    remarks: tuple[Remark, ...]
    stem: str
    diff: str
    peak_memory: int | None
    dump_seconds: float

    @property
    def lines(self) -> list[str]:
        """The first lines of the difference, without its head."""
        return self.diff.splitlines()[2 : 2 + _SHOWN_LINES]

    @property
    def hidden(self) -> int:
        """How many lines of the difference are left out."""
        return max(0, len(self.diff.splitlines()) - 2 - _SHOWN_LINES)

    def to_dict(self, checked: Collection[int]) -> dict[str, Any]:
        """Its figures as plain data; remarks are in a file of their own. `checked` as in `dump_page`."""
        r = self.record
        return {
            "index": r.index,
            "pass": r.name,
            "options": dict(r.options),
            "seconds": r.seconds,
            "changed": r.changed,
            "nodes": [r.nodes_before, r.nodes_after],
            "bytes": [r.bytes_before, r.bytes_after],
            "remarks": dict(r.remarks),
            "numerics": "same outputs" if r.index in checked else None,
            "peak_memory": self.peak_memory,
            "dump_seconds": self.dump_seconds,
        }


def dump_page(title: str, passes: Sequence[DumpedPass], checked: Collection[int], failure: str) -> str:
    """The page as HTML. `checked`: numbers of passes whose outputs were compared and are those before."""
    whole = sum(p.record.seconds for p in passes) or 1.0
    return _template().render(title=title, passes=passes, checked=checked, failure=failure, whole=whole)


@functools.cache
def _template() -> Template:
    from jinja2 import Environment  # only a dump needs it

    environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    source = files("graphopt.pipeline.instruments").joinpath("dump_page.html").read_text(encoding="utf-8")
    return environment.from_string(source)
