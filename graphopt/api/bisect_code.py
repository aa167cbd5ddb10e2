"""The code of passes that aren't graphopt's own, for a reproducer that runs without the folder they were found in."""

from __future__ import annotations

import sys
import sysconfig
from collections.abc import Iterator, Sequence
from pathlib import Path

from graphopt.ir.files import replacing
from graphopt.ir.user_code import named
from graphopt.pipeline import Pass
from graphopt.pipeline.naming import spelled


def code_files(passes: Sequence[Pass]) -> list[Path]:
    """The files of passes that a pipeline spells `module:Class`, of modules that are one file.

    What is installed is found anyway. So is a pass that is spelled by its file's whole path; a package of
    several files that isn't installed has to be on the path.
    """
    return list(dict.fromkeys(_files(passes)))


def copy_code(files: Sequence[Path], folder: Path) -> None:
    """Put a copy of each file into the folder.

    Raises:
        EmitError: one can't be written.
    """
    for source in files:
        if source.parent.resolve() != folder.resolve():
            with replacing(folder / source.name) as file:
                file.write(source.read_bytes())


def _files(passes: Sequence[Pass]) -> Iterator[Path]:
    for pass_ in passes:
        module = named(type(pass_)).rpartition(":")[0]
        if ":" not in spelled(type(pass_)) or "." in module:
            continue
        found = getattr(sys.modules.get(type(pass_).__module__), "__file__", None)
        if found is not None and found.endswith(".py") and not _is_installed(Path(found)):
            yield Path(found).resolve()


def _is_installed(file: Path) -> bool:
    return any(file.is_relative_to(sysconfig.get_path(kind)) for kind in ("purelib", "platlib"))
