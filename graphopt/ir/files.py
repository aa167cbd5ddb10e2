"""Where results may be written, and writing them so that nothing half-written is ever left."""

from __future__ import annotations

import os
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from threading import get_ident
from typing import BinaryIO

from graphopt.errors import ConfigError, EmitError


def data_path(path: Path) -> Path:
    """The data file that belongs to the model file `path`."""
    return path.parent / f"{path.name}.data"


def check_output_path(path: Path, inputs: Sequence[Path]) -> None:
    """Refuse an output path that would overwrite an input, or that can't be a file.

    Raises:
        ConfigError: `path` or its data file is one of `inputs`.
        EmitError: `path` is a directory, or its folder doesn't exist or can't be written to.
    """
    if path.is_dir():
        raise EmitError(f"{path}: is a directory; name a file in it")
    for written in (path, data_path(path)):
        for source in inputs:
            if _same_file(written, source):
                raise ConfigError(f"{written}: would overwrite the input '{source}'; choose another output name")
    if not path.parent.is_dir():
        raise EmitError(f"{path}: the folder '{path.parent}' doesn't exist; make it first")
    if not os.access(path.parent, os.W_OK | os.X_OK):
        raise EmitError(f"{path}: the folder '{path.parent}' can't be written to")


@contextmanager
def replacing(target: Path) -> Generator[BinaryIO]:
    """A file that becomes `target` when the block ends well, and is gone when it doesn't.

    Raises:
        EmitError: it can't be written; `target` is as it was.
    """
    temporary = target.with_name(f".{target.name}.{os.getpid()}-{get_ident()}.tmp")
    try:
        with temporary.open("xb") as file:
            yield file
        os.replace(temporary, target)
    except OSError as error:
        raise EmitError(f"{target}: can't be written: {error.strerror or error}") from None
    finally:
        temporary.unlink(missing_ok=True)


def _same_file(a: Path, b: Path) -> bool:
    try:
        return a.samefile(b)
    except OSError:
        return Path(os.path.realpath(a)) == Path(os.path.realpath(b))
