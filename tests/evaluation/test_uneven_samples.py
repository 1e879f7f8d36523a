"""Samples for only some problems, samples for unusable problems, and programs that the grader failed on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from rltf.evaluate import main
from rltf.evaluation.store import read_samples
from rltf.problems.types import Problem
from rltf.sandbox.compare import Comparison
from rltf.sandbox.grading import Graders
from rltf.sandbox.verdict import Outcome, ProgramError, Verdict
from tests.openai_server import serve

pytestmark = pytest.mark.slow

RIGHT, WRONG, LOOSE = "print(1)", "print(2)", "print(1, 1)"
TESTS = [{"stdin": "", "expected": "1"}]


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def problems(folder: Path, *broken: str) -> str:
    rows = [{"task_id": name, "statement": "?", "tests": [] if name in broken else TESTS} for name in ("1", "02", "c")]
    return f"jsonl:{write(folder / 'problems.jsonl', rows)}"


def samples(folder: Path, *programs: tuple[str | int, str]) -> str:
    rows = [{"task_id": task, "completion_id": n, "code": code} for n, (task, code) in enumerate(programs)]
    return str(write(folder / "samples.jsonl", rows))


def evaluate(folder: Path, spec: str, file: str, *options: str) -> int:
    return main(["--samples", file, "--problems", spec, "--output", str(folder / "out"), *options])


def results(folder: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((folder / "out" / "results.json").read_text())
    return loaded


def test_missing_and_uneven_samples_are_reported(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = samples(tmp_path, ("1", RIGHT), (2, WRONG), ("1", RIGHT))
    assert evaluate(tmp_path, problems(tmp_path), file) == 0
    found = results(tmp_path)
    assert found["pass@1"]["all"] == 0.5
    assert (found["num_problems"], found["problems_without_samples"]) == (2, 1)
    assert found["samples_per_problem"] == {"min": 1, "max": 2}
    assert "programs for 2 of 3 problems; pass@k covers only these, not c" in caplog.text
    assert "between 1 and 2 programs per problem" in caplog.text


def test_even_samples_of_all_problems_give_no_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = samples(tmp_path, ("1", RIGHT), ("02", WRONG), ("c", RIGHT))
    assert evaluate(tmp_path, problems(tmp_path), file) == 0
    found = results(tmp_path)
    assert (found["problems_without_samples"], found["samples_per_problem"]) == (0, {"min": 1, "max": 1})
    assert (found["rejected_problems"], found["samples_of_rejected_problems"]) == (0, 0)
    assert not [record for record in caplog.records if record.levelname == "WARNING"]


def test_samples_of_unknown_problems_are_refused_before_grading(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = samples(tmp_path, ("1", RIGHT), ("d", RIGHT))
    assert evaluate(tmp_path, problems(tmp_path), file) == 2
    error = capsys.readouterr().err
    assert "samples.jsonl:2: task_id 'd': none of the 3 problems has it" in error
    assert "every row of --samples must be a program for one of the --problems" in error
    assert not list(read_samples(tmp_path / "out"))
    assert evaluate(tmp_path, problems(tmp_path), samples(tmp_path, ("1", RIGHT))) == 0, "after the row is gone"


def test_a_k_that_no_problem_reaches_is_refused_before_grading(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = samples(tmp_path, ("1", RIGHT), ("1", RIGHT), ("c", RIGHT))
    assert evaluate(tmp_path, problems(tmp_path), file, "--k", "1", "3") == 2
    assert "has at most 2; give a smaller --k" in capsys.readouterr().err
    assert not list(read_samples(tmp_path / "out"))


@pytest.mark.parametrize("task_id", ["02", "2", 2, "002"])
def test_samples_of_rejected_problems_are_left_out_and_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, task_id: str | int
) -> None:
    spec = problems(tmp_path, "02")
    file = samples(tmp_path, ("1", RIGHT), (task_id, RIGHT), ("c", WRONG), (task_id, WRONG), ("c", WRONG))
    assert evaluate(tmp_path, spec, file) == 0
    found = results(tmp_path)
    assert (found["num_problems"], found["num_samples"], found["pass@1"]["all"]) == (2, 3, 0.5)
    assert (found["rejected_problems"], found["samples_of_rejected_problems"]) == (1, 2)
    assert "left out 2 programs for unusable problems" in caplog.text
    assert "problem 02: tests" in caplog.text
    stored = (tmp_path / "out" / "samples.jsonl").read_bytes().splitlines(keepends=True)
    assert [json.loads(line)["task_id"] for line in stored] == ["1", "c", "c"]
    (tmp_path / "out" / "samples.jsonl").write_bytes(b"".join(stored[:2]))
    assert evaluate(tmp_path, spec, file) == 0, "continues after the programs that count"
    assert results(tmp_path) == found


def test_only_samples_of_rejected_problems_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    spec = problems(tmp_path, "02", "c")
    assert evaluate(tmp_path, spec, samples(tmp_path, ("c", RIGHT), ("02", RIGHT))) == 2
    assert "all 2 programs are for unusable problems" in capsys.readouterr().err


def break_grader(monkeypatch: pytest.MonkeyPatch, *broken: tuple[str, Comparison]) -> None:
    """Make the grader fail on these programs when it uses these rules."""
    sound = Graders.grade

    def grade(
        self: Graders, problem: Problem, program: str, completion_id: str, comparison: Comparison = Comparison.STRICT
    ) -> Verdict:
        verdict = sound(self, problem, program, completion_id, comparison)
        if (program, comparison) not in broken:
            return verdict
        error = ProgramError("JailFault", "the jail ended: no memory")
        fault = Outcome.INFRASTRUCTURE_ERROR
        return Verdict(problem.task_id, completion_id, fault, (fault,), error, verdict.isolation, 0.0, 0.0, 0)

    monkeypatch.setattr(Graders, "grade", grade)


def test_programs_with_grader_errors_are_not_scored_and_graded_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    spec, file = problems(tmp_path), samples(tmp_path, ("1", RIGHT), ("1", WRONG), ("02", RIGHT), ("c", RIGHT))
    with monkeypatch.context() as patch:
        break_grader(patch, (WRONG, Comparison.STRICT))
        assert evaluate(tmp_path, spec, file) == 0
    found = results(tmp_path)
    assert found["outcomes"] == {"infrastructure_error": 1, "passed": 3}
    assert (found["pass@1"]["all"], found["num_samples"]) == (1.0, 3)
    assert found["samples_per_problem"] == {"min": 1, "max": 2}
    assert "1 programs could not be graded" in caplog.text
    assert "task 1, completion 1: the jail ended: no memory" in caplog.text
    assert evaluate(tmp_path, spec, file) == 0
    found = results(tmp_path)
    assert found["outcomes"] == {"failed": 1, "passed": 3}
    assert found["pass@1"]["all"] == pytest.approx(5 / 6)
    stored = list(read_samples(tmp_path / "out"))
    assert [(row["completion_id"], row["outcome"]) for row in stored] == [
        (0, "passed"),
        (1, "failed"),
        (2, "passed"),
        (3, "passed"),
    ]
    written = ["evaluation.json", "problems.json", "results.json", "samples.jsonl"]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == written


def test_a_grader_error_by_the_apps_rules_is_not_a_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec, file = problems(tmp_path), samples(tmp_path, ("1", RIGHT), ("02", LOOSE), ("c", WRONG))
    with monkeypatch.context() as patch:
        break_grader(patch, (LOOSE, Comparison.APPS))
        assert evaluate(tmp_path, spec, file, "--comparison", "apps") == 0
    found = results(tmp_path)
    assert found["outcomes"] == {"failed": 2, "passed": 1}
    assert found["apps"]["outcomes"] == {"failed": 1, "infrastructure_error": 1, "passed": 1}
    assert found["apps"]["pass@1"]["all"] == 0.5
    assert evaluate(tmp_path, spec, file, "--comparison", "apps") == 0
    assert results(tmp_path)["apps"]["outcomes"] == {"failed": 1, "passed": 2}


def test_an_evaluation_without_graded_programs_can_be_continued(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    spec, file = problems(tmp_path), samples(tmp_path, ("1", RIGHT))
    with monkeypatch.context() as patch:
        break_grader(patch, (RIGHT, Comparison.STRICT))
        assert evaluate(tmp_path, spec, file) == 2
    assert "1 programs met grader errors; the same command grades them again" in capsys.readouterr().err
    assert evaluate(tmp_path, spec, file) == 0
    assert results(tmp_path)["pass@1"]["all"] == 1.0


TWO = ("some-model", "other-model")


def test_a_server_of_several_models_needs_a_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with serve(lambda _: ["```python\nprint(1)\n```"], TWO, asked="other-model") as address:

        def run(model: str) -> int:
            return main(["--model", model, "--problems", problems(tmp_path), "--output", str(tmp_path / "out")])

        assert run(address) == 2
        assert (
            f"serves some-model, other-model; choose one of them, for example --model {address}#"
            in capsys.readouterr().err
        )
        assert run(f"{address}#other") == 2
        assert "has no model other, it serves some-model, other-model" in capsys.readouterr().err
        assert run(f"{address}#other-model") == 0
        assert results(tmp_path)["pass@1"]["all"] == 1.0
        assert run(f"{address}#some-model") == 2
        assert "holds another evaluation (model" in capsys.readouterr().err


@pytest.mark.parametrize("option", ["--dtype=float32", "--engine=vllm", "--max-length=99"])
def test_options_that_a_server_decides_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], option: str
) -> None:
    command = ["--model", "http://127.0.0.1:9/v1", "--problems", problems(tmp_path), "--output", str(tmp_path / "out")]
    assert main([*command, option]) == 2
    assert f"{option.partition('=')[0]}: http://127.0.0.1:9/v1 decides this itself" in capsys.readouterr().err
