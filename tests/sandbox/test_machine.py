"""What the sandbox knows about the machine: system call numbers, control groups, the interpreter, the doctor."""

from __future__ import annotations

import os
import platform
import re
import subprocess
import sys
from pathlib import Path

import pytest

from rltf.sandbox import cgroups, selftest
from rltf.sandbox.jail import confinement
from rltf.sandbox.runtime import blocking_folder, find_runtime
from rltf.sandbox.selftest import fix
from rltf.sandbox.verdict import Isolation
from rltf.settings import SandboxSettings

HEADERS = {
    "x86_64": Path("/usr/include/x86_64-linux-gnu/asm/unistd_64.h"),
    "aarch64": Path("/usr/include/asm-generic/unistd.h"),
}


@pytest.mark.parametrize("architecture", HEADERS)
def test_system_call_numbers_match_the_kernel(architecture: str) -> None:
    header = HEADERS[architecture]
    if not header.exists():
        pytest.skip(f"no {header}: install the kernel's headers")
    numbers = {m[1]: int(m[2]) for m in re.finditer(r"#define __NR(?:3264)?_(\w+)\s+(\d+)", header.read_text())}
    if architecture == "aarch64":
        numbers["newfstatat"] = numbers["fstatat"]
    column = list(HEADERS).index(architecture)
    for table in (confinement._ALLOWED, confinement._SERVICE_ONLY, confinement._ATTRIBUTES, confinement._CHECKED):
        for name, pair in table.items():
            assert pair[column] is None or pair[column] == numbers[name], name


def test_filters_are_short_enough_for_the_kernel() -> None:
    if platform.machine() not in ("x86_64", "aarch64"):
        pytest.skip("no filter for this architecture")
    assert len(confinement.service_filter()) // 8 < 4096


def test_version_2_group_is_created_where_controllers_work(tmp_path: Path) -> None:
    """Uses a stand-in for a file system that this machine may not have."""
    own = tmp_path / "user.slice" / "job.scope"
    own.mkdir(parents=True)
    (own / "cgroup.subtree_control").write_text("cpu memory pids")
    assert cgroups._v2_parent(own) == own
    (own / "cgroup.subtree_control").unlink()
    (own / "cgroup.subtree_control").mkdir()  # cannot be read or written, as if the kernel refused
    (own.parent / "cgroup.subtree_control").write_text("")
    with pytest.raises(OSError, match="directory"):
        cgroups._v2_parent(own)


def test_version_2_group_gets_its_limits(tmp_path: Path) -> None:
    (tmp_path / "cgroup.subtree_control").write_text("memory pids")
    group = cgroups._create_v2(tmp_path, "rltf-sandbox-1-0", 1000, 7)
    (folder,) = group.folders
    assert (folder / "memory.max").read_text() == "1000"
    assert (folder / "pids.max").read_text() == "7"
    assert group.procs_files == [str(folder / "cgroup.procs")]
    assert group.oom_file == folder / "memory.events"
    group.limit_memory(900)
    assert (folder / "memory.max").read_text() == "900"


def test_groups_of_dead_processes_are_swept(tmp_path: Path) -> None:
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    for pid in (dead.pid, os.getpid()):
        (tmp_path / f"rltf-sandbox-{pid}-0").mkdir()
    (tmp_path / "other").mkdir()
    cgroups._sweep(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(["other", f"rltf-sandbox-{os.getpid()}-0"])


def test_runtime_names_what_exists_and_hides_packages() -> None:
    runtime = find_runtime()
    assert all(os.path.exists(source) for source, _ in runtime.binds)
    assert not any("site-packages" in path for path in runtime.readable if path != runtime.zones)
    assert "venv" not in runtime.executable
    assert runtime.executable in [target for _, target in runtime.binds]


def test_folder_that_only_its_owner_may_enter_blocks(tmp_path: Path) -> None:
    private = tmp_path / "private" / "bin"
    private.mkdir(parents=True)
    private.parent.chmod(0o700)
    (private / "python").touch()
    other = os.getuid() + 12345
    blocking = blocking_folder(str(private / "python"), other)
    assert blocking is not None
    assert str(private.parent).startswith(blocking)
    assert private.parent.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize(
    ("level", "reason", "advice"),
    [
        (Isolation.NAMESPACES_CGROUP, "no control group could be created (read-only)", "Delegate=yes"),
        (Isolation.NAMESPACES, "bubblewrap is not installed (no `bwrap` in PATH)", "install bubblewrap"),
        (Isolation.NAMESPACES, "the jail ended: no message", "userns|user namespaces"),
        (Isolation.LANDLOCK, "the jail ended: Permission denied", "where every user can read it"),
        (Isolation.LANDLOCK, "the kernel has no Landlock", "lsm="),
        (Isolation.RLIMITS, "the jail ended: no message", r"docs/sandbox\.md"),
    ],
)
def test_every_reason_has_a_fix(level: Isolation, reason: str, advice: str) -> None:
    assert re.search(advice, fix(level, reason))


def test_doctor_names_the_level() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "sandbox", "doctor"], capture_output=True, text=True, timeout=120, check=False
    )
    level = selftest.find_level(SandboxSettings()).level
    assert level is not None
    assert f"isolation level: {level.value}" in done.stdout
    assert done.returncode == (0 if level in selftest.CONFINED else 1)


@pytest.mark.slow
def test_doctor_without_bubblewrap_says_how_to_get_it() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "sandbox", "doctor"],
        capture_output=True, text=True, timeout=120, check=False, env={**os.environ, "PATH": "/nonexistent"},
    )  # fmt: skip
    assert "bubblewrap is not installed" in done.stdout
    assert "fix: apt-get install bubblewrap" in done.stdout
