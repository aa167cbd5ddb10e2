"""What users name in their own Python code: `module:NAME` or `folder/file.py:NAME`.

Layers above say what it is for, and check what it is.
"""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Callable
from contextlib import suppress
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from threading import RLock
from types import ModuleType

from graphopt.errors import ConfigError, nearest

_ONE_AT_A_TIME = RLock()
_NAMED = re.compile(r"([^\W\d][\w.]*|.+\.py):[^\W\d][\w.]*")


def is_named(text: str) -> bool:
    """Whether the text has the form `module:NAME` or `file.py:NAME`."""
    return _NAMED.fullmatch(text) is not None


def import_named(text: str, what: str = "object") -> object:
    """What `module:NAME` names; modules in the working directory are found too, and NAME may be `Class.attribute`.

    A script that is running is found under its own name, and not imported again. A file is imported once, as a module
    that is called by its whole path.

    Args:
        text: `module:NAME`, or `file.py:NAME`.
        what: what is looked for, in messages: "function", "class".

    Raises:
        ConfigError: there is no such module or name, or importing the module failed.
    """
    module_name, _, name = text.rpartition(":")
    if module_name == running_script():
        found: object = sys.modules["__main__"]
    else:
        found = _imported(_file_module if module_name.endswith(".py") else _module, module_name, text)
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


def _imported(load: Callable[[str], ModuleType], name: str, text: str) -> ModuleType:
    try:
        return load(name)
    except Exception as error:  # user code: whatever its import raises is reported with its place
        reason = f"{type(error).__name__}: {error}"
        raise ConfigError(f"{text}: module '{name}' can't be imported ({reason})") from error


def _module(name: str) -> ModuleType:
    # A console script doesn't have the working directory on its path; users keep such files there.
    sys.path.insert(0, "")
    try:
        importlib.invalidate_caches()  # the file may be younger than the last look into its folder
        return importlib.import_module(name)
    finally:
        with suppress(ValueError):  # the user's module may have put the path right by itself
            sys.path.remove("")


def _file_module(path: str) -> ModuleType:
    name = str(Path(path).resolve())
    with _ONE_AT_A_TIME:  # another thread must not see a module that is half imported
        return sys.modules[name] if name in sys.modules else _executed(name)


def _executed(name: str) -> ModuleType:
    spec = spec_from_file_location(name, name)
    assert spec is not None
    assert spec.loader is not None  # the name ends in .py
    module = module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up while it is being imported
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module
