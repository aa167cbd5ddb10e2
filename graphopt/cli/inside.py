"""Looking inside a run: the options for it, and the instruments that they mean."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, TypeAlias

import typer

from graphopt.cli.options import split
from graphopt.pipeline import Instrument
from graphopt.pipeline.instruments import Dump, Limit, Numerics, PrintIr, Reproducer, Timing, Verify
from graphopt.pipeline.remarks import RemarkFilter

_PANEL = "Looking inside"

DumpDir: TypeAlias = Annotated[
    Path | None,
    typer.Option(metavar="DIR", rich_help_panel=_PANEL, help="Write the graph as text after every pass."),
]
DumpOnnx: TypeAlias = Annotated[
    bool, typer.Option("--dump-onnx", rich_help_panel=_PANEL, help="In --dump-dir, write models too.")
]
PrintIrBefore: TypeAlias = Annotated[
    list[str] | None,
    typer.Option(metavar="PASS", rich_help_panel=_PANEL, help="Print the graph before this pass. Repeatable."),
]
PrintIrAfter: TypeAlias = Annotated[
    list[str] | None,
    typer.Option(metavar="PASS", rich_help_panel=_PANEL, help="Print it after this pass. Repeatable."),
]
PrintIrAfterAll: TypeAlias = Annotated[
    bool, typer.Option("--print-ir-after-all", rich_help_panel=_PANEL, help="Print it after every pass.")
]
PrintIrAfterChange: TypeAlias = Annotated[
    bool,
    typer.Option(
        "--print-ir-after-change",
        rich_help_panel=_PANEL,
        help="Print it only after passes that changed it or its plan: of those of --print-ir-after, or of all.",
    ),
]
CheckNumerics: TypeAlias = Annotated[
    bool, typer.Option("--check-numerics", rich_help_panel=_PANEL, help="Run the model around every lossless pass.")
]
TimePasses: TypeAlias = Annotated[
    bool,
    typer.Option(
        "--time-passes", rich_help_panel=_PANEL, help="List every pass with its time, its share, and samples it ran."
    ),
]
RemarksOption: TypeAlias = Annotated[
    bool, typer.Option("--remarks", rich_help_panel=_PANEL, help="List what was done and declined, and why.")
]
RemarksPass: TypeAlias = Annotated[
    list[str] | None,
    typer.Option(metavar="PASS", rich_help_panel=_PANEL, help="Only remarks of this pass ('fold-*'). Repeatable."),
]
RemarksNode: TypeAlias = Annotated[
    list[str] | None,
    typer.Option(
        metavar="PATTERN",
        rich_help_panel=_PANEL,
        help="Only remarks about these nodes: a name, a pattern ('head/*') or an operator. Repeatable.",
    ),
]
RemarksKind: TypeAlias = Annotated[
    list[str] | None,
    typer.Option(metavar="KIND", rich_help_panel=_PANEL, help="Only applied, declined or note. Repeatable."),
]
PassLimit: TypeAlias = Annotated[
    int | None, typer.Option(min=0, metavar="N", rich_help_panel=_PANEL, help="Run only the first N passes.")
]


def watching(
    *,
    timing: Timing | None,
    pass_limit: int | None,
    check_numerics: bool,
    dump_dir: Path | None,
    dump_onnx: bool,
    printing: PrintIr | None,
) -> list[Instrument]:
    """The instruments that the options ask for, from the outermost to the one closest to the pass."""
    numerics = Numerics() if check_numerics else None
    dump = None if dump_dir is None else Dump(dump_dir, models=dump_onnx, numerics=numerics)
    limit = None if pass_limit is None else Limit(pass_limit)
    wanted = (timing, limit, Reproducer(dump_dir), Verify(), numerics, dump, printing)
    return [instrument for instrument in wanted if instrument is not None]


def printing(
    before: list[str] | None, after: list[str] | None, *, after_all: bool, after_change: bool
) -> PrintIr | None:
    """What the options --print-ir-… ask for."""
    if not (before or after or after_all or after_change):
        return None
    return PrintIr(before=split(before), after=split(after), after_all=after_all, after_change=after_change)


def remark_filter(
    passes: list[str] | None, nodes: list[str] | None, kinds: list[str] | None, *, everything: bool
) -> RemarkFilter | None:
    """Which remarks to list; None for none.

    Raises:
        ConfigError: there is no such kind of remark.
    """
    wanted = RemarkFilter(split(passes), tuple(nodes or ()), split(kinds))
    return wanted if wanted or everything else None
