"""`rltf augment`: tests are what references agree on, rows load, and wrong programs are caught."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from rltf.augmentation.__main__ import halved, main
from rltf.augmentation.agreement import Rules
from rltf.augmentation.agreement import augment as augment_problem
from rltf.files import read_rows
from rltf.problems import AssertTest, CallTest, Problem, StdinTest, load
from rltf.problems.index import ProblemIndex
from rltf.sandbox.grading import Graders
from rltf.sandbox.sandbox import Sandbox
from rltf.sandbox.verdict import Isolation
from rltf.settings import SandboxSettings
from tests.benchmark_files import DATA, needs_data
from tests.openai_server import serve
from tests.tiny_model import build_tiny_model

LARGEST = "n = int(input())\nxs = list(map(int, input().split()))\nprint(max(xs))\n"
SORTED = "input()\nprint(sorted(map(int, input().split()))[-1])\n"
WRONG = "n = int(input())\nxs = list(map(int, input().split()))\nprint(xs[-1])\n"
STDIN_ROW = {
    "task_id": "largest",
    "statement": "Print the largest of n numbers.",
    "tests": [{"stdin": "3\n2 5 7\n", "expected": "7"}, {"stdin": "4\n1 2 3 8\n", "expected": "8"}],
    "references": [LARGEST, SORTED, WRONG],
}


def write(path: Path, *rows: dict[str, Any]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def augment(spec: str, output: Path, *options: str) -> tuple[Problem, ...]:
    assert main(["--problems", spec, "--output", str(output), "--workers", "1", *options]) == 0
    loaded = load(f"{spec.partition(':')[0]}:{output}")
    assert not loaded.rejected
    return loaded.problems


def test_tests_are_what_sound_references_agree_on(tmp_path: Path) -> None:
    # The third reference passes the problem's own tests, in which the largest number comes last. So it takes part, and
    # only inputs in which the largest number comes last are left.
    file = write(tmp_path / "own.jsonl", STDIN_ROW)
    (agreed,) = augment(f"jsonl:{file}", tmp_path / "agreed.jsonl", "--num-tests", "8")
    assert agreed.tests[:2] == load(f"jsonl:{file}").problems[0].tests
    for test in agreed.tests[2:]:
        assert isinstance(test, StdinTest)
        numbers = test.stdin.split("\n")[1].split()
        assert test.expected.strip() == numbers[-1] == max(numbers, key=int)
    (two,) = augment(f"jsonl:{file}", tmp_path / "two.jsonl", "--num-tests", "8", "--max-references", "2")
    assert len(two.tests) == 10
    rows = [json.loads(line) for line in (tmp_path / "two.jsonl").read_text().splitlines()]
    origins = rows[0]["provenance"]
    assert [origin["test"] for origin in origins] == list(range(2, 10))
    assert origins[0] == {"test": 2, "generator": "variation", "parent": 0, "seed": 0, "references": [0, 1]}
    with Sandbox() as sandbox:
        assert sandbox.grade(load(f"jsonl:{file}").problems[0], WRONG, "wrong").passed
        assert not sandbox.grade(two, WRONG, "wrong").passed
        assert sandbox.grade(two, LARGEST, "right").passed


def test_failing_and_random_references_make_no_tests(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    few = STDIN_ROW | {"task_id": "few", "references": [LARGEST, LARGEST + "\n", "print(1)"]}
    lots = "import random\nn = int(input())\nxs = input().split()\nprint(xs[-1] if n > 2 else random.random())\n"
    random = STDIN_ROW | {
        "task_id": "random",
        "tests": [{"stdin": "3\n2 5 7\n", "expected": "7"}],
        "references": [lots],
    }
    none = STDIN_ROW | {"task_id": "none", "references": []}
    file = write(tmp_path / "own.jsonl", few, none)
    unchanged = augment(f"jsonl:{file}", tmp_path / "out.jsonl")
    assert unchanged == load(f"jsonl:{file}").problems
    said = capsys.readouterr().out
    assert "2 reference programs are needed; 1 pass its tests" in said
    assert "2 reference programs are needed; it has none" in said
    options = ("--min-references", "1", "--num-tests", "30")
    (problem,) = augment(f"jsonl:{write(tmp_path / 'random.jsonl', random)}", tmp_path / "out2.jsonl", *options)
    assert len(problem.tests) > 1
    assert all(isinstance(test, StdinTest) and int(test.stdin.split()[0]) > 2 for test in problem.tests)
    assert "changes from run to run" in capsys.readouterr().out


def test_other_programs_take_part_if_they_pass(tmp_path: Path) -> None:
    file = write(tmp_path / "own.jsonl", STDIN_ROW | {"references": [LARGEST]})
    others = [("right", SORTED), ("fails", "print(7)")]
    rows = [{"task_id": "largest", "completion_id": name, "code": code} for name, code in others]
    programs = write(tmp_path / "programs.jsonl", *rows)
    (problem,) = augment(f"jsonl:{file}", tmp_path / "out.jsonl", "--programs", programs, "--num-tests", "3")
    row = json.loads((tmp_path / "out.jsonl").read_text())
    assert [origin["references"] for origin in row["provenance"]] == [[0, "right"]] * 3
    assert (len(problem.tests), problem.references) == (5, (LARGEST,))


CLAMPED = "def f(x):\n    return max(0, min(x, 10))\n"
CLAMP_ROW = {
    "task_id": "clamp",
    "statement": "Limit x to 0 to 10.",
    "tests": [{"call": "f", "arguments": [5], "expected": 5}, {"call": "f", "arguments": [-30], "expected": 0},
              {"call": "f", "arguments": [30], "expected": 10}],
    "references": [CLAMPED, "def f(x):\n    return 0 if x < 0 else 10 if x > 10 else x\n"],
}  # fmt: skip
NEGATED = "def f(x):\n    return -1 if x < 0 else min(x, 10)\n"
UNLIMITED = "def f(x):\n    return max(0, x)\n"
ZERO = "def f(x):\n    return 0\n"


def origins(path: Path) -> list[dict[str, Any]]:
    (row,) = read_rows(path)
    return list(row["provenance"])


@pytest.mark.slow
def test_pruned_tests_catch_the_wrong_programs_of_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Two programs fail on opposite sides, so two tests are needed, and two are enough. Right programs don't count."""
    file = write(tmp_path / "own.jsonl", CLAMP_ROW)
    programs = {"negated": NEGATED, "unlimited": UNLIMITED, "again": UNLIMITED, "right": CLAMPED, "zero": ZERO}
    samples = [{"task_id": "clamp", "completion_id": name, "code": code} for name, code in programs.items()]
    wrong = write(tmp_path / "samples.jsonl", *samples)
    options = ("--num-tests", "30", "--wrong", wrong)
    (ranked,) = augment(f"jsonl:{file}", tmp_path / "ranked.jsonl", *options)
    assert "ranked by 3 wrong programs: the new tests catch 3, and 0 of the 0 that pass" in capsys.readouterr().out
    (pruned,) = augment(f"jsonl:{file}", tmp_path / "pruned.jsonl", *options, "--prune")
    assert "inputs: catches no wrong program that better tests miss" in capsys.readouterr().out
    assert pruned.tests == ranked.tests[: 3 + 2]
    gains = [origin["gain"] for origin in origins(tmp_path / "ranked.jsonl")]
    assert gains == [2, 1] + [0] * (len(gains) - 2)
    assert [(one["test"], one["gain"]) for one in origins(tmp_path / "pruned.jsonl")] == [(3, 2), (4, 1)]
    with Sandbox() as sandbox:
        best = replace(pruned, tests=pruned.tests[3:4])
        assert sum(not sandbox.grade(best, program, "").passed for program in (NEGATED, UNLIMITED, ZERO)) == 2
        new = replace(pruned, tests=pruned.tests[3:])
        assert not any(sandbox.grade(new, program, "").passed for program in (NEGATED, UNLIMITED, ZERO))
    assert origins(tmp_path / "pruned.jsonl")[0]["caught"] == pytest.approx(2 / 3)


@pytest.mark.slow
def test_without_a_file_mutants_of_the_references_rank(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = write(tmp_path / "own.jsonl", CLAMP_ROW)
    (problem,) = augment(f"jsonl:{file}", tmp_path / "out.jsonl", "--num-tests", "30", "--max-tests", "2")
    assert len(problem.tests) == 5
    assert "is not among the best (--max-tests)" in capsys.readouterr().out
    first, second = origins(tmp_path / "out.jsonl")
    assert first["gain"] >= second["gain"]
    assert 0 < first["caught"] < 1
    endless = "def f(x):\n    while True: pass\n"  # fails, but its other tests do not run
    none = write(
        tmp_path / "none.jsonl",
        *({"task_id": "clamp", "completion_id": n, "code": code} for n, code in enumerate((CLAMPED, endless))),
    )
    options = ("--num-tests", "4", "--prune", "--wrong", none)
    (unproven,) = augment(f"jsonl:{file}", tmp_path / "unproven.jsonl", *options)
    assert len(unproven.tests) == 7
    assert "gain" not in origins(tmp_path / "unproven.jsonl")[0]


MBPP_ROW = {
    "task_id": 601,
    "text": "Return the sum of a list.",
    "code": "def total(xs):\n    return sum(xs)\n",
    "test_list": ["assert total([1, 2]) == 3", "assert total([4]) == 4"],
}


def test_mbpp_rows_keep_their_prompt_and_get_hidden_tests(tmp_path: Path) -> None:
    file = write(tmp_path / "mbpp.jsonl", MBPP_ROW)
    (problem,) = augment(f"mbpp:{file}", tmp_path / "out.jsonl", "--min-references", "1", "--num-tests", "6")
    assert problem.num_visible_tests == 2
    assert len(problem.tests) == 8
    hard_coded = "def total(xs):\n    return {2: 3, 1: 4}[len(xs)]\n"
    with Sandbox() as sandbox:
        assert sandbox.grade(load(f"mbpp:{file}").problems[0], hard_coded, "0").passed
        assert not sandbox.grade(problem, hard_coded, "0").passed
        assert sandbox.grade(problem, problem.references[0], "1").passed


def test_a_model_proposes_inputs(tmp_path: Path) -> None:
    asked: list[str] = []

    def answer(prompt: str) -> list[str]:
        asked.append(prompt)
        if "total" in prompt:
            return ["```python\n1. `total([7, 7])` gives 0\nassert total([5]) == 1\ntotal(xs)\ntotal([1, 2])\n```"]
        return ["2\n9 9\n---\nnonsense\n```\nThat is all."]

    mbpp, own = write(tmp_path / "mbpp.jsonl", MBPP_ROW), write(tmp_path / "own.jsonl", STDIN_ROW)
    with serve(answer) as address:
        options = ("--model", address, "--num-samples", "1", "--min-references", "1")
        (total,) = augment(f"mbpp:{mbpp}", tmp_path / "a.jsonl", *options)
        (largest,) = augment(f"jsonl:{own}", tmp_path / "b.jsonl", *options)
    assert total.tests[2:4] == (AssertTest("assert total([7, 7]) == 14"), AssertTest("assert total([5]) == 5"))
    assert largest.tests[2] == StdinTest("2\n9 9\n", "9\n")
    assert not any(isinstance(test, StdinTest) and "nonsense" in test.stdin for test in largest.tests)
    row = json.loads((tmp_path / "a.jsonl").read_text())
    assert [origin["generator"] for origin in row["provenance"]][:2] == [f"model {address}"] * 2
    assert all("== 3" not in prompt and "Return the sum" in prompt for prompt in asked if "total" in prompt)


@pytest.mark.slow
@needs_data
def test_wrong_programs_that_pass_an_apps_test_are_caught() -> None:
    """The problem keeps its first test; the others decide which programs are right."""
    rows = read_rows(DATA / "grader_cases" / "coderl_apps_generated_with_verdicts.jsonl")
    programs = [row["code"] for row in rows if row["problem_id"] == "4184"]
    whole = ProblemIndex(load(f"apps:{DATA}/apps/train").problems).find("4184")
    kept = replace(whole, tests=whole.tests[:1])
    with Graders(1, halved(SandboxSettings()), Isolation.NAMESPACES) as graders:
        augmented = augment_problem(kept, (), graders, Rules())
        caught = {True: 0, False: 0}
        for program in programs:
            if graders.grade(kept, program, "kept").passed:
                right = graders.grade(whole, program, "whole").passed
                caught[right] += not graders.grade(augmented.problem, program, "augmented").passed
    assert augmented.new
    assert len(augmented.references) == 5
    assert caught[False] >= 3
    assert caught[True] == 0


@pytest.mark.ray
@pytest.mark.long
def test_a_model_folder_is_asked_through_vllm(tmp_path: Path) -> None:
    """A random model proposes nothing that is an input. The command goes on without."""
    model = build_tiny_model(tmp_path / "model", max_position_embeddings=1024)
    options = ["--model", str(model), "--dtype", "float32", "--num-samples", "2", "--max-tokens", "16"]
    file = write(tmp_path / "own.jsonl", STDIN_ROW)
    (problem,) = augment(f"jsonl:{file}", tmp_path / "out.jsonl", *options, "--num-tests", "4", "--max-references", "2")
    assert len(problem.tests) == 6


def test_apps_answers_keep_their_wrapping(tmp_path: Path) -> None:
    row = {
        "problem_id": 3,
        "question": "Double.",
        "input_output": {"fn_name": "f", "inputs": [[1], [5]], "outputs": [[2], [10]]},
        "solutions": ["def f(x): return 2 * x", "def f(x): return x + x"],
    }
    (problem,) = augment(f"apps:{write(tmp_path / 'apps.jsonl', row)}", tmp_path / "out.jsonl")
    assert len(problem.tests) > 3
    for test in problem.tests:
        assert isinstance(test, CallTest)
        assert (test.expected, test.unwrap) == ([2 * test.arguments[0]], True)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--problems", "jsonl:/nowhere.jsonl"], "no such file"),
        (["--problems", "jsonl:{}", "--programs", "{}"], "own.jsonl:1: completion_id"),
        (["--problems", "jsonl:{}", "--wrong", "{}"], "own.jsonl:1: completion_id"),
        (["--problems", "jsonl:{}", "--max-references", "1"], "is below --min-references 2"),
        (["--problems", "jsonl:{}", "--model", "http://127.0.0.1:9/v1"], "127.0.0.1:9"),
    ],
)
def test_unusable_commands(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], message: str
) -> None:
    file = write(tmp_path / "own.jsonl", STDIN_ROW)
    assert main([*(word.format(file) for word in options), "--output", str(tmp_path / "out.jsonl")]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out.jsonl").exists()
