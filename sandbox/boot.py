"""What a jail is started with: the command that builds it, its environment, and the modules that it runs."""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path
from types import CodeType

from sandbox.interpreter import Runtime, blocking_folder

ENVIRONMENT = {
    "HOME": "/tmp",
    "LANG": "C.UTF-8",
    "MALLOC_ARENA_MAX": "1",
    "PATH": "/usr/bin:/bin",
    "PYTHONHASHSEED": "0",
    "TZ": "UTC",
}
_MODULES = (
    "sandbox.codec",
    "sandbox.jail.confinement",
    "sandbox.jail.mounts",
    "sandbox.jail.request",
    "sandbox.jail.streams",
    "sandbox.jail.program",
    "sandbox.jail.calls",
    "sandbox.jail.job",
    "sandbox.jail.checker",
    "sandbox.jail.supervision",
    "sandbox.jail.scratch",
    "sandbox.jail.reporter",
    "sandbox.jail.runner",
    "sandbox.jail.loader",
    "sandbox.jail.zygote",
)
BOOT = """
import marshal, os, sys, types
for name in ("sandbox", "sandbox.jail"):
    sys.modules[name] = types.ModuleType(name)
    sys.modules[name].__path__ = []
with open(int(sys.argv[1]), "rb") as file:
    modules, config = marshal.load(file)
# `random` would read fresh entropy in every fork; `program.run_job` seeds it instead.
register, os.register_at_fork = os.register_at_fork, lambda **_: None
import random
os.register_at_fork = register
for name, code in modules:
    module = sys.modules[name] = types.ModuleType(name)
    parent, _, short = name.rpartition(".")
    setattr(sys.modules[parent], short, module)
    exec(code, module.__dict__)
main = module.main
for name in [name for name in sys.modules if name.partition(".")[0] == "sandbox"]:
    del sys.modules[name]
sys.argv = [""]
main(module.Config(*config))
"""


@cache
def bundle() -> list[tuple[str, CodeType]]:
    """The jail's modules as code objects, in the order in which they import one another."""
    root = Path(__file__).parent.parent
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
    """The folders that the jail's user may not enter, each with the paths of the runtime inside."""
    found: dict[str, list[str]] = {}
    for source, _ in runtime.binds:
        folder = blocking_folder(source, uid)
        if folder is not None:
            found.setdefault(folder, []).append(source)
    return list(found.items())


def bubblewrap(runtime: Runtime, info: int) -> list[str]:
    """The command that builds the jail. Every namespace is named: `--unshare-all` goes on without one it cannot get.

    The capability is for `jail.mounts`, which gives it up before anything else happens. Raises `FileNotFoundError`.
    """
    argv = [_find_bubblewrap()]
    argv += [f"--unshare-{kind}" for kind in ("user", "pid", "net", "ipc", "uts", "cgroup")]
    argv += ["--new-session", "--hostname", "jail", "--info-fd", str(info)]
    for source, target in runtime.binds:
        argv += ["--ro-bind", source, target]
    for folder in runtime.hidden:
        argv += ["--size", "4096", "--tmpfs", folder, "--remount-ro", folder]
    # Semaphores of the C library are files there.
    argv += ["--dev-bind", "/dev/null", "/dev/null", "--dir", "/tmp", "--symlink", "/tmp", "/dev/shm"]
    return [*argv, "--cap-add", "CAP_SYS_ADMIN", "--remount-ro", "/", "--chdir", "/tmp", "--"]


def _find_bubblewrap() -> str:
    for folder in os.environ.get("PATH", os.defpath).split(os.pathsep):
        path = os.path.join(folder, "bwrap")
        if os.access(path, os.X_OK):
            return path
    raise FileNotFoundError("bubblewrap is not installed (no `bwrap` in PATH); install the package `bubblewrap`")
