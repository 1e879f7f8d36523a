"""Setup without installing: what it refuses, when it has nothing to do, and what the locks contain."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from setuptools import find_packages

ROOT = Path(__file__).parents[2]
LOCKS = {path.stem: path.read_text() for path in (ROOT / "requirements").rglob("*.txt")}

IMAGES_AND_SOUND = {"torchvision", "torchaudio", "torchcodec"}


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    for folder in ("scripts", "requirements"):
        shutil.copytree(ROOT / folder, tmp_path / folder)
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    return tmp_path


def set_up(checkout: Path, accelerator: str, **environ: str) -> subprocess.CompletedProcess[str]:
    command = ["sh", str(checkout / "scripts" / "setup.sh"), accelerator]
    return subprocess.run(command, capture_output=True, text=True, env=os.environ | environ, timeout=60, check=False)


def fake_python(folder: Path, version: str) -> str:
    path = folder / "python"
    path.write_text(f'#!/bin/sh\n[ "$1" = --version ] && echo "Python {version}.0" || echo {version}\n')
    path.chmod(0o755)
    return str(path)


def test_an_unknown_accelerator_is_refused(checkout: Path) -> None:
    result = set_up(checkout, "tpu")
    assert result.returncode == 2
    assert "expected cpu, gpu or auto" in result.stderr


@pytest.mark.parametrize("version", ["3.10", "3.13"])
def test_an_unsupported_python_is_refused(checkout: Path, version: str) -> None:
    result = set_up(checkout, "cpu", PYTHON=fake_python(checkout, version))
    assert result.returncode == 2
    assert f"is Python {version}; the locked packages are for 3.11 and 3.12" in result.stderr
    assert not (checkout / ".venv").exists()


def test_without_python_it_says_what_to_install(checkout: Path) -> None:
    result = set_up(checkout, "cpu", PYTHON="python-that-is-not-there")
    assert result.returncode == 2
    assert "install Python 3.11 or 3.12" in result.stderr


def test_it_has_nothing_to_do_until_a_lock_changes(checkout: Path) -> None:
    python = fake_python(checkout, "3.10")  # setup would refuse it if it got that far
    (checkout / ".venv" / "bin").mkdir(parents=True)
    shutil.copy(python, checkout / ".venv" / "bin" / "python")
    stamp = "Python 3.10.0\n" + LOCKS["cpu"] + LOCKS["dev"]
    (checkout / ".venv" / ".requirements").write_text(stamp)
    shutil.copy(python, checkout / ".venv" / "bin" / "rltf")
    shutil.copy(checkout / "pyproject.toml", checkout / ".venv" / ".project")
    assert set_up(checkout, "cpu", PYTHON=python).returncode == 0
    assert set_up(checkout, "gpu", PYTHON=python).returncode == 2
    with (checkout / "requirements" / "cpu.txt").open("a") as lock:
        lock.write("another==1.0\n")
    assert set_up(checkout, "cpu", PYTHON=python).returncode == 2


def test_the_command_is_installed_again_when_the_project_changes(checkout: Path) -> None:
    """The fake interpreter acts as a pip that succeeds."""
    python = fake_python(checkout, "3.11")
    (checkout / ".venv" / "bin").mkdir(parents=True)
    shutil.copy(python, checkout / ".venv" / "bin" / "python")
    (checkout / ".venv" / ".requirements").write_text("Python 3.11.0\n" + LOCKS["cpu"] + LOCKS["dev"])
    assert "installed the command .venv/bin/rltf" in set_up(checkout, "cpu", PYTHON=python).stdout
    assert (checkout / ".venv" / ".project").read_text() == (ROOT / "pyproject.toml").read_text()


def test_the_package_contains_every_room_and_module() -> None:
    packaging = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    rooms = {path.parent.name for path in ROOT.glob("*/__init__.py")} - {"rltf"}
    packages = set(find_packages(str(ROOT), include=packaging["packages"]["find"]["include"]))
    assert packages >= {"rltf", "rltf.sandbox.jail"} | {f"rltf.{room}" for room in rooms}
    assert {name.partition(".")[0] for name in packages} == {"rltf"}
    for pattern in packaging["package-data"]["rltf"]:
        assert list((ROOT / "rltf").glob(pattern)), f"nothing matches {pattern}"


def test_pip_sources_are_passed_on(tmp_path: Path) -> None:
    config = tmp_path / "pip.conf"
    config.write_text(
        "[global]\nindex-url = https://mirror.example/simple\nextra-index-url = https://a.example https://b.example\n"
        "timeout = 3\n[install]\nfind-links = /wheels\n"
    )
    environ = {name: value for name, value in os.environ.items() if not name.startswith("PIP_")}
    environ |= {"PIP_CONFIG_FILE": str(config), "PIP_TRUSTED_HOST": "mirror.example", "HOME": str(tmp_path)}
    command = [sys.executable, str(ROOT / "scripts" / "pip_sources.py")]
    printed = subprocess.run(command, capture_output=True, text=True, env=environ, check=True).stdout.split()
    for option in (
        "--index-url=https://mirror.example/simple",
        "--extra-index-url=https://a.example",
        "--extra-index-url=https://b.example",
        "--find-links=/wheels",
        "--allow-insecure-host=mirror.example",
    ):
        assert option in printed
    assert not any("timeout" in option for option in printed)


@pytest.mark.parametrize("lock", sorted(LOCKS))
def test_locks_name_versions_but_no_sources(lock: str) -> None:
    lines = [line for line in LOCKS[lock].splitlines() if not line.startswith("#")]
    assert all(re.match(r"[a-z0-9._-]+==[^ /]+( ; [^/]+)?$", line) for line in lines)


@pytest.mark.parametrize(("lock", "expected"), [("cpu", set()), ("gpu", IMAGES_AND_SOUND), ("dev", set())])
def test_only_the_gpu_lock_has_image_and_sound_packages(lock: str, expected: set[str]) -> None:
    """On a GPU, vLLM needs torchvision to start. On a CPU, these builds cannot be imported along with torch."""
    assert IMAGES_AND_SOUND & {line.split("==")[0] for line in LOCKS[lock].splitlines()} == expected


@pytest.mark.parametrize("accelerator", ["cpu", "gpu"])
def test_locks_contain_all_dependencies(accelerator: str) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    needs = (
        project["dependencies"]
        + project["optional-dependencies"]["train"]
        + project["optional-dependencies"]["serve"]
        + project["optional-dependencies"][accelerator]
        + project["optional-dependencies"]["dev"]
    )
    locked = {line.split("==")[0] for line in (LOCKS[accelerator] + LOCKS["dev"]).splitlines()}
    names = {re.split(r"[\[<>=]", need)[0].lower() for need in needs}
    assert names <= locked
    for pin in project["optional-dependencies"][accelerator][:2]:
        assert pin in LOCKS[accelerator].splitlines()


@pytest.mark.long
@pytest.mark.parametrize("lock", sorted(LOCKS))
@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
@pytest.mark.parametrize("version", ["3.11", "3.12"])
def test_every_locked_version_has_a_wheel(lock: str, machine: str, version: str, tmp_path: Path) -> None:
    """Asks the package sources. torch stands for its +cpu build, which PyTorch's own index has, and others may not."""
    requirements = tmp_path / "requirements.txt"
    source_only = ("func-timeout", "antlr4-python3-runtime==4.9.3")  # of SkyRL-Gym and verl; pure Python
    lines = [line for line in LOCKS[lock].splitlines() if not line.startswith(source_only)]
    requirements.write_text("\n".join(lines).replace("+cpu", ""))
    sources = subprocess.run(
        [sys.executable, ROOT / "scripts" / "pip_sources.py"], capture_output=True, text=True, check=True
    ).stdout.split()
    command = [str(Path(sys.executable).with_name("uv")), "pip", "install", "--dry-run", "--no-deps", *sources]
    command += ["--python-version", version, "--python-platform", f"{machine}-manylinux_2_35", "--only-binary=:all:"]
    command += ["--index-strategy", "unsafe-best-match", "--target", str(tmp_path), "-r", str(requirements)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
