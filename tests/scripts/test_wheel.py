"""The wheel in an empty environment: the grader works with its own few packages, and the rest says what it lacks."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
UV = Path(sys.executable).with_name("uv")
FIVE_LINES = """
from rltf.grader import Grader
tests = [{"stdin": "3", "expected": "9"}, {"stdin": "4", "expected": "16"}]
problem = {"task_id": "square", "statement": "Square it.", "tests": tests}
with Grader(workers=1, min_isolation="rlimits") as grader:
    verdicts = grader.grade(problem, ["print(int(input()) ** 2)", "print(9)"])
print([verdict.pass_ratio for verdict in verdicts])
"""


def run(*command: str | Path, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    variables = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    return subprocess.run(
        [*map(str, command)], cwd=folder, env=variables | environment, capture_output=True, text=True, check=False
    )


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy, since setuptools leaves a folder `build` behind."""
    folder = tmp_path_factory.mktemp("wheel")
    files = run("git", "ls-files", folder=ROOT)
    if files.returncode != 0:
        pytest.skip(f"not a Git checkout: {files.stderr.strip()}")
    source = folder / "source"
    for name in files.stdout.splitlines():
        path, copy = ROOT / name, source / name
        if name.startswith(("tests/", "docs/", "benchmarks/")) or not path.exists():
            continue
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, copy, follow_symlinks=False)
    options = ("--no-deps", "--no-build-isolation", "--no-index", "--wheel-dir", folder)
    built = run(sys.executable, "-m", "pip", "wheel", *options, source, folder=folder)
    assert built.returncode == 0, built.stdout + built.stderr
    (path,) = folder.glob("*.whl")
    return path


@pytest.mark.slow
@pytest.mark.parametrize("version", ["3.11", "3.12", "3.13"])
def test_the_grader_works_alone(version: str, wheel: Path, tmp_path: Path) -> None:
    found = run(
        UV, "python", "find", "--no-project", "--no-python-downloads", version, folder=tmp_path, PYENV_VERSION=version
    )
    if found.returncode != 0:
        pytest.skip(f"no Python {version} here: {found.stderr.strip()}")
    made = run(UV, "venv", "--python", found.stdout.strip(), tmp_path / "venv", folder=tmp_path)
    assert made.returncode == 0, made.stderr
    python = tmp_path / "venv" / "bin" / "python"
    sources = run(sys.executable, ROOT / "scripts" / "pip_sources.py", folder=tmp_path).stdout.split()
    installed = run(
        UV,
        "pip",
        "install",
        "--index-strategy",
        "unsafe-best-match",
        "--python",
        python,
        *sources,
        wheel,
        folder=tmp_path,
    )
    assert installed.returncode == 0, installed.stderr
    graded = run(python, "-c", FIVE_LINES, folder=tmp_path)
    assert (graded.stdout, graded.returncode) == ("[1.0, 0.5]\n", 0), graded.stderr
    size = sum(path.stat().st_size for path in (tmp_path / "venv").rglob("*") if path.is_file())
    assert size < 60 << 20
    command = tmp_path / "venv" / "bin" / "rltf"
    assert "grade" in run(command, "--help", folder=tmp_path).stdout
    refused = run(command, "evaluate", "--model", "model", folder=tmp_path)
    assert (refused.returncode, refused.stdout) == (2, "")
    assert "rltf[train]" in refused.stderr
    assert "rltf[serve]" in run(command, "serve", folder=tmp_path).stderr
    assert "Traceback" not in refused.stderr
