"""Packages besides the standard library: found by their paths, imported before any program runs, and seeded."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from typing import Any

from rltf.sandbox.jail import confinement, supervision

_INIT = "__init__.py"
_seeders: list[Callable[[int], None]] = []


class PackageError(Exception):
    """A package cannot be used in the jail."""


class _Finder:
    """Finds top-level modules by their paths: the folder that they are installed in cannot be listed."""

    def __init__(self, paths: Mapping[str, str]) -> None:
        from importlib.util import spec_from_file_location  # few jails have packages

        self._paths = paths
        self._spec_of = spec_from_file_location

    def find_spec(self, name: str, path: object = None, target: object = None) -> Any:
        """The module's specification; None if it is not one of the packages'."""
        found = self._paths.get(name)
        if found is None or not os.path.isdir(found):
            return None if found is None else self._spec_of(name, found)
        return self._spec_of(name, os.path.join(found, _INIT), submodule_search_locations=[found])


def load(paths: Mapping[str, str], preloaded: tuple[str, ...]) -> int:
    """Make the modules in `paths` importable, and import those in `preloaded`.

    Returns the resident bytes that every process inherits because of them. The standard library comes first: no package
    can hide one of its modules. Raises `PackageError`.
    """
    if not paths:
        return 0
    before = _inherited_bytes()
    sys.meta_path.append(_Finder(paths))
    # Hooks that make locks new after a fork cost every fork a quarter of a millisecond, and no lock is held here.
    register, os.register_at_fork = os.register_at_fork, lambda **_: None
    for name in preloaded:
        try:
            __import__(name)
        except BaseException as error:
            raise PackageError(f"{name} cannot be imported in the jail: {type(error).__name__}: {error}") from error
    _prepare_numpy()
    os.register_at_fork = register
    # What a package wrote must not come out of every program.
    sys.stdout.flush()
    sys.stderr.flush()
    if not confinement.has_one_thread():
        raise PackageError(f"{' or '.join(preloaded)} starts threads when it is imported, and no fork keeps them")
    return max(0, _inherited_bytes() - before)


def seed(value: int) -> None:
    """Seed the random numbers of the packages."""
    for seeder in _seeders:
        seeder(value)


def _prepare_numpy() -> None:
    """Make numpy's random numbers repeat: those of its global generator, and of generators made without a seed."""
    if "numpy" not in sys.modules:
        return
    import random

    from numpy.random import bit_generator, mtrand

    entropy, seed_global = random.Random(0), mtrand._rand.seed
    vars(bit_generator)["randbits"] = entropy.getrandbits
    _seeders.extend((entropy.seed, lambda value: seed_global(value % (1 << 32))))
    seed(0)


def _inherited_bytes() -> int:
    """The resident size of a new fork. The peak of this process may be that of the one that started it."""
    _, _, usage = os.wait4(supervision.start(lambda: 0), 0)
    return usage.ru_maxrss * 1024
