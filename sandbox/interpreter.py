"""Which files the jail needs to run Python: the interpreter, its library, the C library, time zones. Nothing else."""

from __future__ import annotations

import os
import sys
import sysconfig
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import tzdata

ZONES = "/usr/share/zoneinfo"
"""Where a jail has its time zones."""


@dataclass(frozen=True, slots=True)
class Runtime:
    """`binds` are (path on the machine, path in the jail); `hidden` are folders inside them that stay empty there.

    `zones` is the folder of time zones on the machine.
    """

    executable: str
    zones: str
    binds: tuple[tuple[str, str], ...]
    readable: tuple[str, ...]
    hidden: tuple[str, ...]


@cache
def find_runtime() -> Runtime:
    """The interpreter that runs this process (of a virtual environment: the one it was made from)."""
    executable = os.path.realpath(sys.executable)
    stdlib = os.path.dirname(os.path.realpath(os.__file__))
    hidden = tuple(p for name in ("site-packages", "dist-packages") if os.path.isdir(p := os.path.join(stdlib, name)))
    files = [executable, *_python_libraries()]
    folders = [stdlib, *_library_folders(), *_locales()]
    binds = {(os.path.realpath(path), path) for path in (*files, *folders, *_dynamic_loaders())}
    zones = _zones()
    binds.add((zones, ZONES))
    # Landlock grants whole trees, so the standard library is granted entry by entry, without the packages in it.
    entries = [str(path) for path in Path(stdlib).iterdir() if str(path) not in hidden]
    readable = (*entries, *_python_libraries(), *_library_folders(), *_locales(), ZONES, zones)
    return Runtime(executable, zones, tuple(sorted(binds, key=lambda bind: bind[1])), readable, hidden)


def _python_libraries() -> list[str]:
    """`libpython` where the interpreter is linked against it."""
    folder, name = sysconfig.get_config_var("LIBDIR"), sysconfig.get_config_var("INSTSONAME")
    if not sysconfig.get_config_var("Py_ENABLE_SHARED") or not folder or not name:
        return []
    path = os.path.join(folder, name)
    return [path] if os.path.exists(path) else []


def _mapped_library(prefix: str) -> str | None:
    with open("/proc/self/maps") as maps:
        for line in maps:
            path = line.rstrip("\n").partition("/")[2]
            if os.path.basename(path).startswith(prefix):
                return "/" + path
    return None


def _library_folders() -> list[str]:
    """The folder of the C library, under each name by which programs know it."""
    libc = _mapped_library("libc.so") or _mapped_library("libc-") or _mapped_library("ld-musl")
    if libc is None:
        return []
    folder = os.path.realpath(os.path.dirname(libc))
    names = {folder, folder.removeprefix("/usr"), "/usr" + folder.removeprefix("/usr")}
    return sorted(name for name in names if os.path.realpath(name) == folder)


def _locales() -> list[str]:
    """What `C.UTF-8` needs where the C library does not have it built in."""
    names = ("/usr/lib/locale/C.utf8", "/usr/lib/locale/C.UTF-8")
    return [name for name in names if os.path.isdir(name)]


def _zones() -> str:
    """The time zones of the package `tzdata`: the same on every machine."""
    return os.path.join(os.path.dirname(tzdata.__file__), "zoneinfo")


def _dynamic_loaders() -> list[str]:
    names = ("/lib64/ld-linux-x86-64.so.2", "/lib/ld-linux-aarch64.so.1", "/lib/ld-musl-x86_64.so.1")
    return [name for name in names if os.path.exists(name)]


def blocking_folder(path: str, uid: int) -> str | None:
    """The topmost folder on the way to `path` that the user `uid` may not enter, None where there is none."""
    for folder in reversed(Path(path).parents):
        status = folder.stat()
        may_enter = status.st_mode & (0o100 if status.st_uid == uid else 0o001)
        if not may_enter:
            return str(folder)
    return None
