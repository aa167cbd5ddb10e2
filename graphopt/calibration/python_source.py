"""Samples that user code yields: what `module:function` returns, or any Python iterable."""

from __future__ import annotations

import importlib
import itertools
import re
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, cast

from graphopt.calibration.batches import named, split
from graphopt.calibration.npz import LABELS
from graphopt.calibration.samples import Feed, InputSpec
from graphopt.errors import CalibrationError

_FUNCTION = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")


def is_function_name(source: str) -> bool:
    """Whether the text has the form `module:function`."""
    return _FUNCTION.fullmatch(source) is not None


def import_function(source: str) -> Callable[[], Iterable[Any]]:
    """The function that `module:function` names; modules in the working directory are found too.

    Raises:
        CalibrationError: there is no such module or function, or importing it failed.
    """
    module_name, _, function_name = source.partition(":")
    # A console script doesn't have the working directory on its path; users keep such files there.
    sys.path.insert(0, "")
    try:
        module = importlib.import_module(module_name)
    except Exception as error:  # user code: whatever its import raises is reported with its place
        reason = f"{type(error).__name__}: {error}"
        raise CalibrationError(f"{source}: module '{module_name}' can't be imported ({reason})") from error
    finally:
        sys.path.remove("")
    function = getattr(module, function_name, None)
    if not callable(function):
        raise CalibrationError(f"{source}: module '{module_name}' has no function '{function_name}'")
    return cast("Callable[[], Iterable[Any]]", function)


def call(function: Callable[[], Iterable[Any]], inputs: Sequence[InputSpec], name: str) -> Iterator[Feed]:
    """The checked feeds that one call of the function yields."""
    try:
        made = iter(function())
    except Exception as error:  # user code: whatever it raises is reported with its place
        raise CalibrationError(f"{name} raised {type(error).__name__}: {error}") from error
    return checked(made, inputs, name)


def checked(samples: Iterable[Any], inputs: Sequence[InputSpec], name: str) -> Iterator[Feed]:
    """One feed per model call, of samples or batches in any form that `batches` describes."""
    iterator = iter(samples)
    known = {spec.name for spec in inputs} | {LABELS}
    for index in itertools.count():
        where = f"{name}, sample {index}"
        try:
            sample = next(iterator)
        except StopIteration:
            return
        except Exception as error:  # user code: whatever it raises is reported with its place
            raise CalibrationError(f"{where}: the source raised {type(error).__name__}: {error}") from error
        batch = named(sample, inputs, where)
        accepted = list(split(batch, inputs, where))
        for extra in sorted(batch.keys() - known) if index == 0 else ():
            warnings.warn(f"{where}: '{extra}' is not an input of the model: ignored", stacklevel=2)
        yield from accepted
