"""Samples that user code yields: what `module:function` returns, or any Python iterable."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, cast

from graphopt.calibration.batches import named, split
from graphopt.calibration.npz import LABELS
from graphopt.calibration.samples import Feed, InputSpec
from graphopt.errors import CalibrationError, ConfigError
from graphopt.ir.user_code import import_named, is_named


def is_function_name(source: str) -> bool:
    """Whether the text has the form `module:function`."""
    return is_named(source)


def import_function(source: str) -> Callable[[], Iterable[Any]]:
    """The function that `module:function` names; modules in the working directory are found too.

    Raises:
        CalibrationError: there is no such module or function, or importing it failed.
    """
    try:
        function = import_named(source, "function")
    except ConfigError as error:
        raise CalibrationError(str(error)) from error
    if not callable(function):
        raise CalibrationError(f"{source}: that is no function, but {type(function).__name__}")
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
