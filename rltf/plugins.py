"""Code that users bring: functions by name, and what installed packages offer under entry points of this program.

A function is named `package.module:name`. Settings take such names, and entry points (docs/extend.md) give short names
to problems and objectives of an installed package.
"""

from __future__ import annotations

import hashlib
import importlib
import os
import sys
from collections.abc import Collection
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

from rltf.errors import UserError, nearest

PROBLEMS = "rltf.problems"
OBJECTIVES = "rltf.objectives"


def imported(name: str, setting: str) -> Any:
    """The object named `package.module:name`, which is the value of `setting`.

    Modules are found where Python finds them and in the current folder, which is not on the path of an installed
    command but is on that of Ray's workers.

    Raises UserError if the module cannot be imported or has no such object.
    """
    module_name, _, attribute = name.partition(":")
    if (here := os.getcwd()) not in sys.path:
        sys.path.append(here)
    try:
        module = importlib.import_module(module_name)
    except Exception as error:  # whatever the user's module raises
        if isinstance(error, ModuleNotFoundError) and f"{module_name}.".startswith(f"{error.name}."):
            fix = "put its file into the folder that you start from, or install its package"
            where = f"on {os.uname().nodename}"
            raise UserError(f"{setting} {name}: there is no module {error.name} {where}; {fix}") from error
        raise UserError(f"{setting} {name}: importing {module_name} failed: {raised(error)}") from error
    source_digest(name)  # now, because the file may change during a run
    if not hasattr(module, attribute):
        names = [each for each in vars(module) if not each.startswith("_")]
        raise UserError(f"{setting} {name}: {module.__file__} has no {attribute}{nearest(attribute, names)}")
    return getattr(module, attribute)


def imported_function(name: str, setting: str) -> Any:
    """The function named `package.module:name`. Raises UserError as `imported`, and if it cannot be called."""
    found = imported(name, setting)
    if not callable(found):
        raise UserError(f"{setting} {name}: expected a function, got {type(found).__name__}")
    return found


@cache
def source_digest(name: str) -> str:
    """SHA-256 of the file of `package.module:name`, as it was when this process imported it."""
    file = importlib.import_module(name.partition(":")[0]).__file__
    return hashlib.sha256(Path(file).read_bytes()).hexdigest() if file is not None else ""


def offered(group: str, built_in: Collection[str]) -> dict[str, metadata.EntryPoint]:
    """The entry points of installed packages in `group`, by name.

    Raises UserError if a name is built in, or if two packages offer it.
    """
    found: dict[str, metadata.EntryPoint] = {}
    for entry in metadata.entry_points(group=group):
        if entry.name in built_in:
            raise UserError(f"{title(entry)}: the name {entry.name} is built in; uninstall the package or rename it")
        if entry.name in found:
            raise UserError(f"{title(entry)}: {title(found[entry.name])} has the same name; uninstall one of the two")
        found[entry.name] = entry
    return found


def loaded(entry: metadata.EntryPoint) -> Any:
    """The object of an entry point. Raises UserError, which names the package, if it cannot be loaded."""
    try:
        return entry.load()
    except Exception as error:  # whatever the package raises
        raise UserError(f"{title(entry)}: {entry.value} cannot be loaded: {raised(error)}") from error


def title(entry: metadata.EntryPoint) -> str:
    """What messages call an entry point: its group, its name and its package."""
    assert entry.dist is not None, "entry_points() gives each its distribution"
    return f"{entry.group} {entry.name} of the package {entry.dist.name} {entry.dist.version}"


def raised(error: BaseException) -> str:
    """An exception of foreign code in words."""
    return f"{type(error).__name__}: {error}".removesuffix(": ")
