"""What users name in their own Python code: `module:NAME`. Layers above say what it is for, and check what it is."""

from __future__ import annotations

import importlib
import re
import sys
from contextlib import suppress
from pathlib import Path

from graphopt.errors import ConfigError, nearest

_NAMED = re.compile(r"[^\W\d][\w.]*:[^\W\d][\w.]*")


def is_named(text: str) -> bool:
    """Whether the text has the form `module:NAME`."""
    return _NAMED.fullmatch(text) is not None


def import_named(text: str, what: str = "object") -> object:
    """What `module:NAME` names; modules in the working directory are found too, and NAME may be `Class.attribute`.

    A script that is running is found under its own name, and not imported again.

    Args:
        text: `module:NAME`.
        what: what is looked for, in messages: "function", "class".

    Raises:
        ConfigError: there is no such module or name, or importing the module failed.
    """
    module_name, _, name = text.partition(":")
    found: object = sys.modules["__main__"] if module_name == running_script() else _module(module_name, text)
    for part in name.split("."):
        known = [other for other in dir(found) if not other.startswith("_")]
        if not hasattr(found, part):
            raise ConfigError(f"{text}: module '{module_name}' has no {what} '{name}': {nearest(part, known)}")
        found = getattr(found, part)
    return found


def named(value: type) -> str:
    """The `module:NAME` that finds this class again."""
    is_script = value.__module__ in ("__main__", "__mp_main__")  # the second in processes that a script started
    module = running_script() if is_script else None
    return f"{module or value.__module__}:{value.__qualname__}"


def running_script() -> str | None:
    """The name that importing the running script would take; None where nothing runs that can be imported."""
    main = sys.modules.get("__main__")
    spec, file = getattr(main, "__spec__", None), getattr(main, "__file__", None)
    if spec is not None:  # python -m package.module
        return str(spec.name)
    return Path(file).stem if file and file.endswith(".py") else None


def _module(name: str, text: str) -> object:
    # A console script doesn't have the working directory on its path; users keep such files there.
    sys.path.insert(0, "")
    try:
        importlib.invalidate_caches()  # the file may be younger than the last look into its folder
        return importlib.import_module(name)
    except Exception as error:  # user code: whatever its import raises is reported with its place
        hint = f"; a module is named without .py: {name.removesuffix('.py')}" if name.endswith(".py") else ""
        raise ConfigError(
            f"{text}: module '{name}' can't be imported ({type(error).__name__}: {error}){hint}"
        ) from error
    finally:
        with suppress(ValueError):  # the user's module may have put the path right by itself
            sys.path.remove("")
