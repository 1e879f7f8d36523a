"""Installed packages that programs may import: what belongs to each, and where it is in a jail."""

from __future__ import annotations

import inspect
import os
import sys
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from types import MappingProxyType

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from rltf.errors import UserError

FOLDER = "/packages"
"""The folder of packages inside a jail that has mounts of its own."""
# Where wheels keep the shared libraries that their extension modules need.
_LIBRARIES = ".libs"


@dataclass(frozen=True, slots=True)
class Packages:
    """Packages with everything that they require.

    `versions` has the version of each package by its name in the settings. `paths` are the files and folders that
    belong to them, as they are on this machine. `modules` is the path of each top-level module. `preloaded` are the
    modules to import before any program runs.
    """

    versions: Mapping[str, str]
    paths: tuple[str, ...]
    modules: Mapping[str, str]
    preloaded: tuple[str, ...]


@cache
def find_packages(names: tuple[str, ...]) -> Packages:
    """The packages with these names, and what they require, as installed for the interpreter that runs this process.

    Raises UserError if one is not installed, or has nothing to import.
    """
    found = _with_requirements(names)
    modules: dict[str, str] = {}
    paths: list[str] = []
    preloaded: list[str] = []
    asked: dict[str, str] = {canonicalize_name(name): name for name in names}
    for key, package in found.items():
        own = dict(_entries(package))
        named = {module: path for path, module in own.items() if module is not None}
        if (name := asked.get(key)) and not named:
            raise UserError(
                f"sandbox.packages: {name} is installed without modules that the sandbox can bind (namespace "
                "packages and editable installs have none): install it as an ordinary package, or remove it"
            )
        paths += own
        modules |= named
        if name or key == "numpy":
            preloaded += [module for module, path in named.items() if _is_for_import(module, path)]
    preloaded.sort(key=lambda module: module != "numpy")  # others choose their code by what they find loaded
    versions = {name: found[key].version for key, name in asked.items()}
    return Packages(MappingProxyType(versions), tuple(paths), MappingProxyType(modules), tuple(preloaded))


def place_in_namespaces(path: str) -> str:
    """Where the file or folder of a package is in a jail that has mounts of its own."""
    return os.path.join(FOLDER, os.path.basename(path))


def _with_requirements(names: tuple[str, ...]) -> dict[str, Distribution]:
    """The packages and, transitively, those that they require, by normalized name."""
    found: dict[str, Distribution] = {}
    waiting = deque((name, "") for name in names)
    while waiting:
        name, required_by = waiting.popleft()
        key = canonicalize_name(name)
        if key in found:
            continue
        try:
            found[key] = distribution(name)
        except (PackageNotFoundError, ValueError) as error:
            reason = f" (required by {required_by})" if required_by else ""
            raise UserError(
                f"sandbox.packages: {name!r}{reason} is not installed here: run `{sys.executable} -m pip install "
                f"{required_by or name}`, or remove it"
            ) from error
        waiting.extend((requirement, name) for requirement in _requirements(found[key]))
    return found


def _requirements(package: Distribution) -> Iterator[str]:
    """The names of the packages that it needs on this machine, without its extras."""
    for text in package.requires or ():
        requirement = Requirement(text)
        if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
            yield requirement.name


def _entries(package: Distribution) -> Iterator[tuple[str, str | None]]:
    """The package's top-level files and folders: path, and name of the module; None for a folder of libraries."""
    for top in sorted({file.parts[0] for file in package.files or ()} - {".."}):
        path = os.path.realpath(str(package.locate_file(top)))
        if os.path.isfile(os.path.join(path, "__init__.py")):
            yield path, top
        elif os.path.isdir(path):
            if top.endswith(_LIBRARIES):
                yield path, None
        elif (module := inspect.getmodulename(path)) is not None and not module.startswith("__editable__"):
            yield path, module


def _is_for_import(module: str, path: str) -> bool:
    """Whether programs import this module by name. An extension module beside a package is a part of the package."""
    return module.isidentifier() and not module.startswith("_") and (os.path.isdir(path) or path.endswith(".py"))
