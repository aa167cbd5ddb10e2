"""How pipelines spell passes: by name, or as `module:Class` where nothing but its code knows a pass."""

from __future__ import annotations

import functools
import inspect
import os
import sys
from collections.abc import Sequence
from dataclasses import fields
from importlib.metadata import EntryPoint, entry_points

from graphopt.errors import ConfigError
from graphopt.ir.user_code import import_named, named
from graphopt.pipeline.options import check_options
from graphopt.pipeline.passes import Pass

GROUP = "graphopt.passes"
"""The entry points by which packages bring passes, and the package of our own."""


def spelled(pass_type: type[Pass]) -> str:
    """What finds this pass again: its name for our own and those that packages bring, `module:Class` for others."""
    if is_own(pass_type):
        return pass_type.name
    place = named(pass_type)
    brought = any(point.name == pass_type.name and point.value == place for point in brought_passes())
    return pass_type.name if brought else place


def is_own(pass_type: type[Pass]) -> bool:
    """Whether it is one of graphopt's."""
    return pass_type.__module__.startswith(f"{GROUP}.")


def brought_passes() -> Sequence[EntryPoint]:
    """The entry points of other packages, by name.

    Looking through 100 installed packages takes 15 ms, and each pass of a pipeline asks: they are looked through again
    when a folder of packages has changed.
    """
    return _entry_points(tuple((place, _changed(place)) for place in sys.path))


@functools.lru_cache(maxsize=1)
def _entry_points(places: tuple[tuple[str, int], ...]) -> tuple[EntryPoint, ...]:
    del places  # the key: entry_points looks there itself
    return tuple(sorted(entry_points(group=GROUP), key=lambda point: (point.name, point.value)))


def _changed(place: str) -> int:
    try:
        return os.stat(place or ".").st_mtime_ns
    except OSError:
        return 0


def import_pass(text: str) -> type[Pass]:
    """The pass that `module:Class` names; modules in the working directory are found too.

    Raises:
        ConfigError: there is no such class, or it is not a pass whose options can be read.
    """
    if "<locals>" in text:
        raise ConfigError(f"{text} is defined inside a function, where nothing else finds it: move it out of there")
    found = import_named(text, "class")
    if isinstance(found, Pass):
        raise ConfigError(f"{text} is a pass object: name its class, {named(type(found))}")
    if not (isinstance(found, type) and issubclass(found, Pass)):
        kind = found.__name__ if isinstance(found, type) else type(found).__name__
        raise ConfigError(f"{text} is not a subclass of graphopt.Pass, but {kind}")
    if found.run is Pass.run:
        raise ConfigError(f"{text} defines no run(self, graph, ctx): that is where a pass rewrites the graph")
    known = {field.name for field in fields(found)}
    for name, hint in inspect.get_annotations(found).items():
        if name not in known and "ClassVar" not in str(hint) and "__dataclass_fields__" not in vars(found):
            raise ConfigError(f"{text}: '{name}' is no option yet: decorate the class with @dataclass(frozen=True)")
    check_options(found, text)
    return found
