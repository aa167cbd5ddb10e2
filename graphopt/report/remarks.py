"""Remarks as a page: all, or those that a filter lets through; what a filter doesn't find, with names that are near."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from difflib import get_close_matches

from graphopt.pipeline.remarks import Remark, RemarkFilter
from graphopt.report.document import Document, Line


def remarks_page(remarks: Sequence[Remark], wanted: RemarkFilter, passes: Iterable[str]) -> Document:
    """The remarks that `wanted` lets through, one a line. `passes`: names of the passes that ran."""
    shown = [r for r in remarks if wanted.lets_through(r)]
    title = f"Remarks ({len(shown)} of {len(remarks)})" if wanted else "Remarks"
    page = [Line(title, "title"), *(Line(f"  {remark}") for remark in shown)]
    page += [Line(f"  {text}") for text in unmatched(remarks, wanted, passes)]
    if not shown and wanted and len(page) == 1:
        page.append(Line("  each of these filters lets some remarks through, and no remark passes all of them"))
    return page


def unmatched(remarks: Sequence[Remark], wanted: RemarkFilter, passes: Iterable[str]) -> Iterator[str]:
    """A line for each part of the filter that lets nothing through by itself."""
    ran = list(dict.fromkeys(passes))
    said = {r.pass_name: None for r in remarks}
    for pattern in wanted.passes:
        if any(RemarkFilter(passes=(pattern,)).lets_through(r) for r in remarks):
            continue
        if pattern in ran:
            yield f"{pattern} ran and said nothing"
        else:
            yield f"no pass of this run is '{pattern}'{_near(pattern, {**dict.fromkeys(ran), **said})}"
    about = {name: None for r in remarks for name in (r.node, r.op) if name}
    for pattern in wanted.nodes:
        if not any(RemarkFilter(nodes=(pattern,)).lets_through(r) for r in remarks):
            yield f"no remark is about '{pattern}'{_near(pattern, about)}"
    for kind in wanted.kinds:
        if not any(r.kind == kind for r in remarks):
            yield f"no remark is of the kind '{kind}'"


def _near(name: str, known: Iterable[str]) -> str:
    close = get_close_matches(name, list(known), n=3, cutoff=0.5)
    return f"; did you mean {' or '.join(repr(c) for c in close)}?" if close else ""
