"""What a jail is made of: the files that Python needs, the jail's own modules, and the command that builds it."""

from __future__ import annotations

import os
import shutil
import sys
import sysconfig
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from types import CodeType

import tzdata

from rltf.sandbox.packages import place_in_namespaces

ZONES = "/usr/share/zoneinfo"
"""The folder of time zones inside a jail."""
ENVIRONMENT = {
    "HOME": "/tmp",
    "LANG": "C.UTF-8",
    "MALLOC_ARENA_MAX": "1",
    # Packages must not start threads: none survives a fork.
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "PATH": "/usr/bin:/bin",
    "PYTHONHASHSEED": "0",
    "TZ": "UTC",
}
# In the order in which they import one another; the last one's `main` runs.
_MODULES = (
    "rltf.sandbox.codec",
    "rltf.sandbox.jail.protocol",
    "rltf.sandbox.jail.confinement",
    "rltf.sandbox.jail.supervision",
    "rltf.sandbox.jail.packages",
    "rltf.sandbox.jail.program",
    "rltf.sandbox.jail.calls",
    "rltf.sandbox.jail.job",
    "rltf.sandbox.jail.checker",
    "rltf.sandbox.jail.scratch",
    "rltf.sandbox.jail.runner",
    "rltf.sandbox.jail.zygote",
)
BOOT = """
import marshal, os, sys, types
for name in ("rltf", "rltf.sandbox", "rltf.sandbox.jail"):
    sys.modules[name] = types.ModuleType(name)
    sys.modules[name].__path__ = []
with open(int(sys.argv[1]), "rb") as file:
    modules, config = marshal.load(file)
# `random` would read fresh entropy in every fork; `job.become` seeds it instead.
register, os.register_at_fork = os.register_at_fork, lambda **_: None
import random
os.register_at_fork = register
for name, code in modules:
    module = sys.modules[name] = types.ModuleType(name)
    parent, _, short = name.rpartition(".")
    setattr(sys.modules[parent], short, module)
    exec(code, module.__dict__)
main = module.main
for name in [name for name in sys.modules if name.partition(".")[0] == "rltf"]:
    del sys.modules[name]
sys.argv = [""]
main(module.Config(*config))
"""


@dataclass(frozen=True, slots=True)
class Runtime:
    """The interpreter, its library, the C library and time zones: all that the jail needs to run Python.

    `binds` are pairs (path on the machine, path in the jail). `hidden` are folders inside them that are empty in the
    jail. `zones` is the folder of time zones on the machine.
    """

    executable: str
    zones: str
    binds: tuple[tuple[str, str], ...]
    readable: tuple[str, ...]
    hidden: tuple[str, ...]

    def with_packages(self, paths: Sequence[str], *, in_namespaces: bool) -> Runtime:
        """This runtime with these files and folders of packages as well."""
        binds = tuple((path, place_in_namespaces(path)) for path in paths)
        readable = tuple(target if in_namespaces else path for path, target in binds)
        return replace(self, binds=self.binds + binds, readable=self.readable + readable)


@cache
def find_runtime() -> Runtime:
    """The interpreter that runs this process; in a virtual environment, the one it was created from."""
    executable = os.path.realpath(sys.executable)
    stdlib = os.path.dirname(os.path.realpath(os.__file__))
    hidden = tuple(p for name in ("site-packages", "dist-packages") if os.path.isdir(p := os.path.join(stdlib, name)))
    # The time zones of the package `tzdata` are the same on every machine.
    zones = os.path.join(os.path.dirname(tzdata.__file__), "zoneinfo")
    # The C library may not have `C.UTF-8` built in.
    locales = _existing("/usr/lib/locale/C.utf8", "/usr/lib/locale/C.UTF-8")
    loaders = _existing("/lib64/ld-linux-x86-64.so.2", "/lib/ld-linux-aarch64.so.1", "/lib/ld-musl-x86_64.so.1")
    libraries = (*_python_library(), *_library_folders(), *locales)
    binds = {(os.path.realpath(path), path) for path in (executable, stdlib, *libraries, *loaders)}
    binds.add((zones, ZONES))
    # Landlock grants whole trees, so the standard library is granted entry by entry, without the packages in it.
    entries = [str(path) for path in Path(stdlib).iterdir() if str(path) not in hidden]
    readable = (*entries, *libraries, ZONES, zones)
    return Runtime(executable, zones, tuple(sorted(binds, key=lambda bind: bind[1])), readable, hidden)


def _existing(*paths: str) -> list[str]:
    return [path for path in paths if os.path.exists(path)]


def _python_library() -> list[str]:
    """`libpython`, if the interpreter is linked against it."""
    folder, name = sysconfig.get_config_var("LIBDIR"), sysconfig.get_config_var("INSTSONAME")
    if not sysconfig.get_config_var("Py_ENABLE_SHARED") or not folder or not name:
        return []
    return _existing(os.path.join(folder, name))


def _library_folders() -> list[str]:
    """The folder of the C library, under every name by which programs know it."""
    libc = _mapped_library("libc.so") or _mapped_library("libc-") or _mapped_library("ld-musl")
    if libc is None:
        return []
    folder = os.path.realpath(os.path.dirname(libc))
    names = {folder, folder.removeprefix("/usr"), "/usr" + folder.removeprefix("/usr")}
    return sorted(name for name in names if os.path.realpath(name) == folder)


def _mapped_library(prefix: str) -> str | None:
    with open("/proc/self/maps") as maps:
        for line in maps:
            path = line.rstrip("\n").partition("/")[2]
            if os.path.basename(path).startswith(prefix):
                return "/" + path
    return None


@cache
def bundle() -> list[tuple[str, CodeType]]:
    """The jail's modules as code objects, in the order in which they import one another."""
    root = Path(__file__).parents[2]
    bundle: list[tuple[str, CodeType]] = []
    for name in _MODULES:
        path = root.joinpath(*name.split(".")).with_suffix(".py")
        bundle.append((name, compile(path.read_text(), f"{name}.py", "exec", dont_inherit=True, optimize=2)))
    return bundle


@cache
def launcher_source() -> str:
    """The program that becomes the jail's first process."""
    return Path(__file__).with_name("launcher.py").read_text()


def covers(runtime: Runtime, uid: int) -> list[tuple[str, list[str]]]:
    """The folders that the jail's user may not enter, each with the paths of the runtime inside it."""
    found: dict[str, list[str]] = {}
    sources = {source for source, _ in runtime.binds}
    for source, _ in runtime.binds:
        folder = blocking_folder(source, uid)
        # What is inside another path of the runtime comes with it, such as a package in the standard library's folder.
        if folder is not None and sources.isdisjoint(map(str, Path(source).parents)):
            found.setdefault(folder, []).append(source)
    return list(found.items())


def blocking_folder(path: str, uid: int) -> str | None:
    """The topmost folder on the way to `path` that the user `uid` may not enter, or None."""
    for folder in reversed(Path(path).parents):
        status = folder.stat()
        may_enter = status.st_mode & (0o100 if status.st_uid == uid else 0o001)
        if not may_enter:
            return str(folder)
    return None


def bubblewrap(runtime: Runtime, info: int) -> list[str]:
    """The command that builds the jail. Every namespace is named: `--unshare-all` skips those that it cannot get.

    The capability is for `jail.scratch`, which gives it up before anything else happens. Raises `FileNotFoundError`.
    """
    command = shutil.which("bwrap")
    if command is None:
        raise FileNotFoundError("bubblewrap is not installed (no `bwrap` in PATH); install the package `bubblewrap`")
    argv = [command, *(f"--unshare-{kind}" for kind in ("user", "pid", "net", "ipc", "uts", "cgroup"))]
    argv += ["--new-session", "--hostname", "jail", "--info-fd", str(info)]
    for source, target in runtime.binds:
        argv += ["--ro-bind", source, target]
    for folder in runtime.hidden:
        argv += ["--size", "4096", "--tmpfs", folder, "--remount-ro", folder]
    # The C library keeps its semaphores as files in /dev/shm.
    argv += ["--dev-bind", "/dev/null", "/dev/null", "--dir", "/tmp", "--symlink", "/tmp", "/dev/shm"]
    return [*argv, "--cap-add", "CAP_SYS_ADMIN", "--remount-ro", "/", "--chdir", "/tmp", "--"]
