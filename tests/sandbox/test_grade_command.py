"""`python -m sandbox grade`: rows in, verdict rows out in the same order. Bad input is named, with exit status 2."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

from rltf.errors import UserError
from rltf.problems import Problem, StdinTest
from rltf.problems.index import ProblemIndex
from rltf.sandbox.command import main

ROOT = Path(__file__).parents[2]
OWN = f"jsonl:{ROOT / 'examples' / 'own_problems.jsonl'}"
RIGHT = "a, b = map(int, input().split())\nprint(a + b)\n"


def write(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join(row if isinstance(row, str) else json.dumps(row) + "\n" for row in rows))
    return path


def program(code: str, completion_id: str | int = 0, task_id: str | int = "sum-of-line") -> dict[str, Any]:
    return {"task_id": task_id, "completion_id": completion_id, "code": code}


def grade(tmp_path: Path, rows: list[Any], *options: str) -> tuple[int, list[dict[str, Any]]]:
    output = tmp_path / "out" / "verdicts.jsonl"
    programs = write(tmp_path / "programs.jsonl", rows)
    status = main(["grade", "--problems", OWN, "--programs", str(programs), "--output", str(output), *options])
    return status, [json.loads(line) for line in output.read_text().splitlines()] if output.exists() else []


def test_verdict_rows_come_in_the_order_of_the_programs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    slow = "import time\ntime.sleep(0.5)\n" + RIGHT
    rows = [
        program(slow, "slow"),
        program(RIGHT, 7),
        program("print(5)", "half"),
        program("\n1 / 0", "crash"),
        program("print(", "broken"),
        program("def reverse_words(text):\n    return 'or be to'\n", "function", "reverse-words"),
    ]
    status, verdicts = grade(tmp_path, rows, "--workers", "2")
    assert status == 0
    assert [row["completion_id"] for row in verdicts] == ["slow", 7, "half", "crash", "broken", "function"]
    assert [row["outcome"] for row in verdicts] == [
        "passed",
        "passed",
        "failed",
        "runtime_error",
        "syntax_error",
        "failed",
    ]
    assert [row["pass_ratio"] for row in verdicts] == [1.0, 1.0, 0.5, 0.0, 0.0, 0.5]
    assert verdicts[2]["tests"] == ["passed", "failed"]
    crash = verdicts[3]
    assert (crash["error_type"], crash["error_line"], crash["passed"]) == ("ZeroDivisionError", 2, False)
    assert verdicts[4]["error_line"] == 1
    assert [row["actual"] for row in verdicts] == [None, None, "5\n", None, None, "'or be to'"]
    assert list(crash) == [
        "task_id",
        "completion_id",
        "outcome",
        "passed",
        "pass_ratio",
        "tests",
        "error_type",
        "error_message",
        "error_line",
        "actual",
        "isolation",
        "seconds",
    ]
    assert "6 programs" in capsys.readouterr().out


def test_rows_of_evalplus_are_programs_too(tmp_path: Path) -> None:
    row = {"task_id": "sum-of-line"}
    rows = [
        {**row, "solution": RIGHT, "completion": "no"},
        {**row, "completion": "print(5)"},
        {"task_id": "reverse-words", "solution": "", "completion_id": "x"},
        {**row, "completion": "print(5)", "code": RIGHT, "completion_id": 7},
    ]
    status, verdicts = grade(tmp_path, rows)
    assert status == 0
    assert [(one["completion_id"], one["pass_ratio"]) for one in verdicts] == [(0, 1.0), (1, 0.5), ("x", 0.0), (7, 1.0)]


@pytest.mark.slow
def test_an_interrupt_keeps_the_verdicts_so_far(tmp_path: Path) -> None:
    programs = write(
        tmp_path / "programs.jsonl", [program(RIGHT, 0), *(program("while True: pass", i) for i in range(99))]
    )
    output, part = tmp_path / "out.jsonl", tmp_path / "out.jsonl.part"
    command = ["grade", "--problems", OWN, "--programs", str(programs), "--output", str(output), "--workers", "1"]
    process = subprocess.Popen(
        [sys.executable, "-m", "rltf.cli", *command], cwd=ROOT, stderr=subprocess.PIPE, text=True
    )
    while not (part.exists() and part.read_text()):
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    _, shown = process.communicate(timeout=60)
    assert process.returncode == 143
    verdicts = [json.loads(line) for line in part.read_text().splitlines()]
    assert (verdicts[0]["completion_id"], verdicts[0]["outcome"]) == (0, "passed")
    assert shown == f"rltf: interrupted: the verdicts of the first {len(verdicts)} programs are in {part}\n"
    assert not output.exists()


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([program(RIGHT), "{broken\n"], "programs.jsonl:2: not JSON"),
        ([program(RIGHT), {"task_id": "sum-of-line", "code": ""}], "programs.jsonl:2: completion_id"),
        ([program(RIGHT, task_id="sum-of-lines")], "did you mean sum-of-line?"),
        ([{**program(RIGHT), "code": 1}], "programs.jsonl:1: code"),
        ([[1]], "programs.jsonl:1: row"),
        ([], "contains no programs"),
    ],
)
def test_bad_programs_are_named_before_grading(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], rows: list[Any], message: str
) -> None:
    status, verdicts = grade(tmp_path, rows)
    assert status == 2
    assert not verdicts
    assert message in capsys.readouterr().err


def test_bad_options_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for option, message in (
        ("--workers=0", "a number from 1"),
        ("--require=namespace", "did you mean namespaces?"),
        ("--min-isolation=namespace", "did you mean namespaces?"),
    ):
        with pytest.raises(SystemExit) as exit_info:
            grade(tmp_path, [program(RIGHT)], option)
        assert exit_info.value.code == 2
        assert message in capsys.readouterr().err
    missing = ["grade", "--problems", "mbp:x", "--programs", "x.jsonl", "--output", str(tmp_path / "o")]
    assert main(missing) == 2
    assert "did you mean mbpp" in capsys.readouterr().err
    missing[2] = OWN
    assert main(missing) == 2
    assert "no such file of programs" in capsys.readouterr().err


@pytest.mark.slow
def test_settings_of_the_sandbox_apply(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    array = "import numpy as np\na = np.array(input().split(), dtype=int)\nprint(a.sum())\n"
    rows = [program(array), program("while True: pass", 1), program(RIGHT + "print('x' * 3000)", 2)]
    given = ["--sandbox.packages", "numpy", "--sandbox.cpu_s", "0.2", "--sandbox.output_bytes=2000"]
    status, verdicts = grade(tmp_path, rows, *given, "--workers", "1")
    assert status == 0
    assert [row["outcome"] for row in verdicts] == ["passed", "timeout", "output_limit"]
    status, verdicts = grade(tmp_path, rows[:1])
    assert [row["error_type"] for row in verdicts] == ["ModuleNotFoundError"]
    for words, message in (
        (["--sandbox.package", "numpy"], "unknown option --sandbox.package: did you mean --sandbox.packages?"),
        (["--sandbox.cpu_s", "fast"], "sandbox.cpu_s = 'fast' (--sandbox.cpu_s): input should be a valid number"),
        (["--sandbox.cpu_s", "20"], "wall_s 10 is below cpu_s 20"),
        (["--sandbox.max_workers", "2"], "unknown option --sandbox.max_workers"),
        (["--sandbox.packages", "numpy-absent"], "sandbox.packages: 'numpy-absent' is not installed here"),
    ):
        assert grade(tmp_path, rows, *words)[0] == 2
        assert message in capsys.readouterr().err
    with pytest.raises(SystemExit):
        grade(tmp_path, rows, "--sandbox.cpu_s", "1", "--wokers", "2")
    assert "unrecognized arguments: --wokers" in capsys.readouterr().err


def test_doctor_says_whether_packages_import(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--sandbox.packages", "numpy"]) == 0
    assert f"package numpy {version('numpy')}: imports in the jail" in capsys.readouterr().out
    assert main(["doctor", "--sandbox.packages", "ray"]) == 2
    found = capsys.readouterr()
    assert "isolation level: " in found.out
    assert "ray cannot be imported in the jail: " in found.err
    with pytest.raises(SystemExit):
        main(["doctor", "--help"])
    assert "--sandbox.packages" in capsys.readouterr().out


def test_numbers_are_found_with_and_without_leading_zeros() -> None:
    tests = (StdinTest("", "1"),)
    index = ProblemIndex([Problem("0042", "apps", "?", tests), Problem("HumanEval/1", "humaneval", "?", tests)])
    assert index.find(42) is index.find("42") is index.find("0042")
    assert index.find("HumanEval/1").task_id == "HumanEval/1"
    with pytest.raises(UserError, match=r"'HumanEval/11': none of the 2 problems has it; did you mean HumanEval/1"):
        index.find("HumanEval/11")
