"""Cases rebuilt from public bug reports about other graders. Each must get the verdict in its file."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from rltf.errors import UserError
from rltf.problems import load
from rltf.problems.extraction import extract_program
from rltf.problems.types import Problem
from rltf.sandbox.admission import reason_to_refuse
from rltf.sandbox.grading import ProgramRow
from rltf.sandbox.sandbox import Sandbox
from rltf.sandbox.verdict import Isolation
from rltf.settings import SandboxSettings

FOLDER = Path(os.environ.get("BENCHMARK_DATA", "missing")) / "field_cases"
NAMES = sorted(path.parent.name for path in FOLDER.glob("*/expected.json"))

# Cases whose verdict differs from their file. docs/grader-agreement.md explains each.
ARGUED: dict[str, set[str]] = {
    # Refused when loaded: a match object of `re` is not a plain value, and numpy is not in the jail.
    "s09-asserts": {"regex_match", "np", "np_arr"},
    # The problem file is empty.
    "s15-apps-rows": {"p0", "p1", "p3a", "p3b", "p9", "p10", "p11", "p12", "bom_call", "np", "bisect"},
    # A wrong program, cut off in the middle.
    "s19-base-completions": {"unfinished"},
}

# Honest programs that take a minute.
SLOW = {"26x2.5s"}

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not NAMES, reason="BENCHMARK_DATA names no folder with field_cases"),
]


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    with Sandbox(SandboxSettings(), Isolation.LANDLOCK) as sandbox:
        yield sandbox


def _programs(folder: Path, problems: dict[str, Problem]) -> Iterator[tuple[str, str, str]]:
    """(task id, case, program) for each case of a folder. Programs in answers are extracted as in training."""
    if (folder / "answers.json").exists():
        for name, answer in json.loads((folder / "answers.json").read_text("utf-8")).items():
            task_id = name if name in problems else f"HumanEval/{name}"
            start, end = extract_program(problems[task_id], answer)
            yield task_id, name, answer[start:end]
        return
    # Split only at line ends: programs contain other line separators.
    for line in (folder / "programs.jsonl").read_text("utf-8").split("\n"):
        if line:
            row = ProgramRow.model_validate(json.loads(line))
            yield str(row.task_id), str(row.completion_id), row.code


def differing(folder: Path, sandbox: Sandbox, *, slow: bool = False) -> dict[str, tuple[str, str]]:
    """The cases of a folder whose outcome differs from their file: (found, expected)."""
    described = json.loads((folder / "expected.json").read_text("utf-8"))
    spec = f"{described['kind']}:{folder / 'problems.jsonl'}"
    try:
        problems = {problem.task_id: problem for problem in load(spec, reason_to_refuse(SandboxSettings())).problems}
    except UserError:
        problems = {}
    found = {
        case: sandbox.grade(problems[task_id], program, case).outcome.value if task_id in problems else "refused"
        for task_id, case, program in _programs(folder, problems)
        if (case in SLOW) == slow
    }
    wanted = described["expected"]
    return {
        case: (outcome, wanted[case]) for case, outcome in found.items() if outcome not in wanted[case].split(" or ")
    }


@pytest.mark.parametrize("name", NAMES)
def test_every_case_matches_its_file(name: str, sandbox: Sandbox) -> None:
    found = differing(FOLDER / name, sandbox)
    assert found.keys() == ARGUED.get(name, set()), found


@pytest.mark.long
@pytest.mark.parametrize("name", NAMES)
def test_slow_programs_pass_as_well(name: str, sandbox: Sandbox) -> None:
    assert differing(FOLDER / name, sandbox, slow=True) == {}
