"""JSON may escape half of a surrogate pair, which no file and no tokenizer can take: such a row is named at load."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rltf.evaluate import main as evaluate
from rltf.problems import load
from rltf.problems.sources import check_text
from rltf.problems.types import UnusableRowError
from rltf.sandbox.command import main as grade

HALF = "\ud800"
GOOD: dict[str, Any] = {"task_id": "good", "statement": "?", "tests": [{"stdin": "1", "expected": "1"}]}
APPS: dict[str, Any] = {
    "problem_id": 1,
    "question": "?",
    "input_output": json.dumps({"inputs": ["1"], "outputs": ["1"]}),
}


def write(path: Path, *rows: dict[str, Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.mark.parametrize(
    ("fields", "place"),
    [
        ({"task_id": "b" + HALF}, "task_id"),
        ({"statement": HALF}, "statement"),
        ({"starter_code": HALF}, "starter_code"),
        ({"references": ["print(1)", HALF]}, "references[1]"),
        ({"tests": [{"stdin": HALF, "expected": "1"}]}, "tests[0].stdin"),
        ({"tests": [{"call": "f", "arguments": [[{HALF: 1}]], "expected": 1}]}, "a key in tests[0].arguments[0][0]"),
        ({"tests": [{"call": "f", "arguments": [1], "expected": [HALF]}]}, "tests[0].expected[0]"),
        ({"tests": [{"assert": f"assert f('{HALF}') == 1"}]}, "tests[0].assert"),
    ],
)
def test_a_row_with_half_a_pair_is_named(tmp_path: Path, fields: dict[str, Any], place: str) -> None:
    path = write(tmp_path / "problems.jsonl", GOOD, GOOD | {"task_id": "bad"} | fields)
    loaded = load(f"jsonl:{path}")
    assert [problem.task_id for problem in loaded.problems] == ["good"]
    (rejected,) = loaded.rejected
    shown = str(rejected)
    assert shown.startswith(f"{path}:2: ")
    assert f"{place}: not text" in shown
    assert shown.encode()


@pytest.mark.parametrize(
    ("column", "value"),
    [("input_output", {"inputs": ["1"], "outputs": [HALF]}), ("solutions", ["print(1)", HALF])],
)
def test_json_within_json_is_checked_too(tmp_path: Path, column: str, value: Any) -> None:
    path = write(tmp_path / "apps.jsonl", APPS, APPS | {"problem_id": 2, column: json.dumps(value)})
    (rejected,) = load(f"apps:{path}").rejected
    assert f"{path}:2: problem 0002: {column}: " in str(rejected)
    assert "not text" in str(rejected)


def test_a_program_with_half_a_pair_gets_a_verdict(tmp_path: Path) -> None:
    problems = write(tmp_path / "problems.jsonl", GOOD)
    program = {"task_id": "good", "completion_id": HALF, "code": "print(1)"}
    programs = write(tmp_path / "programs.jsonl", program, program | {"code": f"print('{HALF}')"})
    spec = ["--problems", f"jsonl:{problems}", "--workers", "1"]
    assert grade(["grade", *spec, "--programs", str(programs), "--output", str(tmp_path / "out.jsonl")]) == 0
    assert evaluate([*spec, "--samples", str(programs), "--output", str(tmp_path / "out")]) == 0
    for path in (tmp_path / "out.jsonl", tmp_path / "out" / "samples.jsonl"):
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        assert [(row["completion_id"], row["outcome"]) for row in rows] == [(HALF, "passed"), (HALF, "syntax_error")]


@given(
    st.recursive(
        st.none() | st.integers() | st.text(st.characters()),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(st.characters()), inner),
    )
)
def test_values_pass_exactly_if_utf_8_can_hold_them(value: Any) -> None:
    try:
        json.dumps(value, ensure_ascii=False).encode()
        is_text = True
    except UnicodeEncodeError:
        is_text = False
    try:
        check_text(value, "value")
    except UnusableRowError:
        assert not is_text
    else:
        assert is_text
