"""Files and functions of the program are small enough to take in at once."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
APART = {"tests", "benchmarks", "runs", "site", "build"}
PROGRAM = sorted(
    path
    for path in ROOT.rglob("*.py")
    if path.relative_to(ROOT).parts[0] not in APART and not path.relative_to(ROOT).parts[0].startswith(".")
)
MAX_FILE_LINES = 400
MAX_FUNCTION_LINES = 60


def too_long(path: Path) -> list[str]:
    """What is too long in a file: the file itself, and functions by name."""
    text = path.read_text()
    num_lines = len(text.splitlines())
    found = [f"{path}: {num_lines} lines"] if num_lines > MAX_FILE_LINES else []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            num_lines = (node.end_lineno or node.lineno) - node.lineno + 1
            if num_lines > MAX_FUNCTION_LINES:
                found.append(f"{path}:{node.lineno} {node.name}: {num_lines} lines")
    return found


def test_rooms_are_imported_as_modules_of_the_package() -> None:
    """A room has a second name in a checkout, since it lies at the top; under it, every class would exist twice."""
    rooms = {path.name for path in (ROOT / "rltf").iterdir() if path.is_symlink() and (path / "__init__.py").is_file()}
    assert rooms >= {"controller", "sandbox"}
    assert rooms == {path.parent.name for path in ROOT.glob("*/__init__.py")} - {"rltf"}
    # Parsing every file takes a second, so only those are parsed that have a line like an import of a room.
    like_an_import = re.compile(rf"^\s*(?:from|import)\s.*(?<![\w.])(?:{'|'.join(rooms)})\b", re.MULTILINE)
    found = [
        f"{path}:{node.lineno}"
        for path in [*PROGRAM, *(ROOT / "tests").rglob("*.py"), *(ROOT / "benchmarks").rglob("*.py")]
        if like_an_import.search(path.read_text())
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in imported(node)
        if name.partition(".")[0] in rooms
    ]
    assert found == []


def imported(node: ast.Import | ast.ImportFrom) -> list[str]:
    """The modules that a statement imports."""
    if isinstance(node, ast.ImportFrom):
        return [node.module] if node.module and not node.level else []
    return [alias.name for alias in node.names]


def test_files_and_functions_are_short() -> None:
    names = {str(path.relative_to(ROOT)) for path in PROGRAM}
    assert names >= {"launch.py", "controller/controller.py", "sandbox/jail/checker.py"}
    assert [complaint for path in PROGRAM for complaint in too_long(path)] == []


@pytest.mark.parametrize(("num_lines", "num_complaints"), [(59, 0), (60, 1), (399, 1), (400, 2)])
def test_long_ones_are_found(num_lines: int, num_complaints: int, tmp_path: Path) -> None:
    path = tmp_path / "long.py"
    path.write_text("def f():\n" + "    pass\n" * num_lines)
    assert len(too_long(path)) == num_complaints
