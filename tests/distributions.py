"""Small installed packages for tests, without pip: a module and the metadata of its entry points."""

from __future__ import annotations

import sys
import tomllib
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples" / "extensions"


def install(
    monkeypatch: pytest.MonkeyPatch, folder: Path, name: str, source: str, groups: dict[str, dict[str, str]]
) -> None:
    """Put the package `name` into `folder` and on the path: its module of this name, and entry points by group."""
    folder.mkdir(exist_ok=True)
    (folder / f"{name}.py").write_text(source)
    metadata = folder / f"{name}-1.2.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.2\n")
    lines = [line for group, names in groups.items() for line in (f"[{group}]", *map(" = ".join, names.items()))]
    (metadata / "entry_points.txt").write_text("\n".join(lines) + "\n")
    monkeypatch.syspath_prepend(folder)
    monkeypatch.delitem(sys.modules, name, raising=False)


def install_examples(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """Install examples/extensions as its pyproject.toml says."""
    project = tomllib.loads((EXAMPLES / "pyproject.toml").read_text())
    for module in project["tool"]["setuptools"]["py-modules"]:
        groups = {
            group: {key: value for key, value in names.items() if value.startswith(f"{module}:")}
            for group, names in project["project"]["entry-points"].items()
        }
        install(monkeypatch, folder, module, (EXAMPLES / f"{module}.py").read_text(), groups)
