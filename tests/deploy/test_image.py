"""The steps of deploy/Dockerfile, without a container: what they copy is enough for what they run."""

from __future__ import annotations

import fnmatch
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path, PurePath

import pytest

ROOT = Path(__file__).parents[2]
UV = Path(sys.executable).with_name("uv")


def steps() -> Iterator[tuple[str, str]]:
    """The instructions of the Dockerfile: a word, and the rest of the line. Continued lines are joined."""
    text = (ROOT / "deploy" / "Dockerfile").read_text().replace("\\\n", " ")
    for line in text.splitlines():
        if line and not line.startswith("#"):
            word, _, rest = line.partition(" ")
            yield word, rest


@pytest.fixture(scope="module")
def context(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `docker build` sends: the files of a checkout that .dockerignore does not exclude."""
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode != 0:
        pytest.skip(f"not a Git checkout: {listed.stderr.strip()}")
    folder = tmp_path_factory.mktemp("context")
    patterns = (ROOT / ".dockerignore").read_text().split()
    for name in listed.stdout.splitlines():
        if (ROOT / name).exists() and not any(is_excluded(PurePath(name), pattern) for pattern in patterns):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name, follow_symlinks=False)
    return folder


def is_excluded(path: PurePath, pattern: str) -> bool:
    """Whether .dockerignore excludes a file, by its own name or that of a folder above it."""
    anywhere = pattern.startswith("**/")
    for place in (path, *path.parents):
        name = place.name if anywhere else str(place)
        if fnmatch.fnmatchcase(name, pattern.removeprefix("**/")):
            return True
    return False


def copy(context: Path, home: Path, rest: str) -> None:
    """COPY: a file under its name, the content of a folder under the name that is given."""
    *sources, target = [word for word in rest.split() if not word.startswith("--")]
    for source in sources:
        if (context / source).is_dir():
            shutil.copytree(context / source, home / target, symlinks=True, dirs_exist_ok=True)
        else:
            shutil.copy(context / source, home / target)


def run(home: Path, *command: str) -> str:
    # Under `make test`, another make would say which folder it enters.
    environment = {name: value for name, value in os.environ.items() if name not in ("MAKEFLAGS", "MAKELEVEL")}
    done = subprocess.run(command, cwd=home, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_image_is_small_and_isolates() -> None:
    assert {".git", ".venv", "runs"} <= set((ROOT / ".dockerignore").read_text().split())
    (rest,) = [rest for word, rest in steps() if word == "RUN" and "apt-get install" in rest]
    assert "bubblewrap" in rest.split()


@pytest.mark.slow
def test_the_steps_in_a_folder(context: Path, tmp_path: Path) -> None:
    """The packages are those of this environment. So `make setup` finds the first step done, and installs the rest."""
    home = tmp_path / "rltf"
    home.mkdir()
    run(home, str(UV), "venv", "--quiet", "--python", sys.executable, ".venv")
    (own,) = home.glob(".venv/lib/python*/site-packages")
    (own / "base.pth").write_text(f"{sysconfig.get_path('purelib')}\n")
    python = str(home / ".venv" / "bin" / "python")
    version = run(home, python, "--version")
    locks = [(ROOT / "requirements" / f"{name}.txt").read_text() for name in ("cpu", "dev")]
    (home / ".venv" / ".requirements").write_text("".join([version, *locks]))
    printed = []
    for word, rest in steps():
        if word == "COPY":
            copy(context, home, rest)
        elif word == "RUN" and rest.startswith("make"):
            command = rest.replace("$ACCELERATOR", "cpu").split()
            printed.append(run(home, *command, f"PYTHON={python}"))
    assert printed == ["", "setup: installed the command .venv/bin/rltf\n"]
    rooms = {path.parent.name for path in ROOT.glob("*/__init__.py")}
    assert {path.parent.name for path in home.glob("*/__init__.py")} == rooms
    assert "isolation level:" in run(home, ".venv/bin/rltf", "doctor")
    (program,) = [json.loads(rest) for word, rest in steps() if word == "CMD"]
    assert "--config" in run(home, python, *program[1:], "--help")


def test_login_shells_find_the_environment(tmp_path: Path) -> None:
    """KubeRay starts Ray in login shells, which read /etc/profile.d."""
    (rest,) = [rest for word, rest in steps() if word == "RUN" and "/etc/profile.d" in rest]
    file = tmp_path / "rltf.sh"
    run(tmp_path, "sh", "-c", re.sub(r"/etc/profile\.d/\S+", str(file), rest))
    (path,) = [rest.partition("=")[2] for word, rest in steps() if word == "ENV"]
    assert run(tmp_path, "sh", "-c", f"PATH=/bin; . {file}; echo $PATH").strip() == path.replace("$PATH", "/bin")


@pytest.mark.parametrize(
    ("path", "pattern", "excluded"),
    [
        ("runs/a/b.json", "runs", True),
        ("tests/runs/a.py", "runs", False),
        ("a/b/__pycache__/c.pyc", "**/__pycache__", True),
        (".mypy_cache/x", "**/.*_cache", True),
        ("rltf.egg-info/x", "*.egg-info", True),
        ("requirements/cpu.txt", "build", False),
    ],
)
def test_what_dockerignore_excludes(path: str, pattern: str, excluded: bool) -> None:
    assert is_excluded(PurePath(path), pattern) == excluded
