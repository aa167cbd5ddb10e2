"""The command `graphopt`: its subcommands, and how errors become one line and an exit code."""

from __future__ import annotations

import io
import sys
import traceback
from collections.abc import Sequence
from typing import Annotated

import typer

from graphopt._version import __version__
from graphopt.cli import bisect, calibrate, compare, diff, emit, inspect, lint, optimize, passes, targets, trace, verify
from graphopt.errors import GraphoptError, InternalError, one_line

EXIT_USER = 1
EXIT_USAGE = 2
EXIT_INTERNAL = 70  # EX_SOFTWARE of sysexits.h
EXIT_INTERRUPTED = 130  # 128 + SIGINT, as shells report it

app = typer.Typer(
    name="graphopt",
    help="Compile a trained float ONNX model into the one a backend runs fastest, and show what every step did.",
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("optimize")(optimize.optimize)
app.command("calibrate")(calibrate.calibrate)
app.command("verify")(verify.verify)
app.command("lint")(lint.lint)
app.command("emit")(emit.emit)
app.command("compare")(compare.compare)
app.command("diff")(diff.diff)
app.command("trace")(trace.trace)
app.command("bisect")(bisect.bisect)
app.command("inspect")(inspect.inspect)
app.command("passes")(passes.passes)
app.command("targets")(targets.targets)


def _show_version(wanted: bool) -> None:
    if wanted:
        print(f"graphopt {__version__}")
        raise typer.Exit


@app.callback()
def _root(  # pyright: ignore[reportUnusedFunction]  # typer calls it
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    del version


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line with these arguments (default: the process's); returns the exit code."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # an arrow must not end a run where the terminal isn't UTF-8
    try:
        code = app(None if argv is None else list(argv), prog_name="graphopt", standalone_mode=False)
    except GraphoptError as error:
        return _say(error, EXIT_USER)
    except (KeyboardInterrupt, typer.Abort):
        print("graphopt: interrupted", file=sys.stderr)
        return EXIT_INTERRUPTED
    except Exception as error:
        # Typer's usage errors share a base class that is private to its version; this is what it is known by.
        usage_message = getattr(error, "format_message", None)
        if callable(usage_message):
            return _say(str(usage_message()).rstrip("."), EXIT_USAGE) if str(usage_message()) else EXIT_USAGE
        return _report_bug(error)
    return code if isinstance(code, int) else 0


def _say(message: object, code: int) -> int:
    hint = "; see `graphopt --help`" if code == EXIT_USAGE else ""
    print(f"graphopt: error: {one_line(message)}{hint}", file=sys.stderr)
    return code


def _report_bug(error: Exception) -> int:
    traceback.print_exception(error)
    where = f"; what shows it is in {error.reproducer}" if isinstance(error, InternalError) and error.reproducer else ""
    owner = error.owner if isinstance(error, InternalError) else "graphopt"
    mend = ": please report it" if owner == "graphopt" else ""
    print(
        f"graphopt: internal error: {one_line(error)}{where}. This is a bug in {owner}{mend}.",
        file=sys.stderr,
    )
    return EXIT_INTERNAL
