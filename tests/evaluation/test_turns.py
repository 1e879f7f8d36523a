"""`evaluate --turns`: a model reads what its program did on the examples, and answers again."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rltf.evaluate import main
from rltf.evaluation.model import SampledModel
from rltf.evaluation.store import read_samples
from rltf.evaluation.turns import Answer, Dialogue, Examiner, TurnCounts
from rltf.problems import LoadedProblems, Problem, StdinTest
from rltf.problems.prompts import Exchange, PromptFormat, chat_messages, render_prompt
from rltf.sandbox.verdict import Isolation, Outcome, Verdict
from rltf.settings import Dtype, Engine
from tests.openai_server import serve

READ = "a, b = map(int, input().split())\n"
RIGHT, WRONG = f"{READ}print(a + b)\n", f"{READ}print(a * b)\n"
FITS = f"{READ}print(a + b if a < 9 else 0)\n"
"""Passes the example and fails the hidden test."""
SECRET = "31415926"


def row(task_id: str, **changes: Any) -> dict[str, Any]:
    tests = [{"stdin": "2 3\n", "expected": "5\n"}, {"stdin": f"{SECRET} 1\n", "expected": "31415927\n"}]
    return {"task_id": task_id, "statement": f"Add ({task_id}).", "tests": tests, "num_visible_tests": 1} | changes


def spec(folder: Path, *rows: dict[str, Any]) -> str:
    (folder / "problems.jsonl").write_text("".join(json.dumps(one) + "\n" for one in rows))
    return f"jsonl:{folder / 'problems.jsonl'}"


def block(program: str) -> str:
    return f"Here:\n```python\n{program}```"


def answers(prompt: str) -> list[str]:
    """What a model says about each problem in each turn."""
    said = {
        "once": [RIGHT],
        "twice": [WRONG, RIGHT],
        "never": [WRONG, "print(", "x"],
        "fits": [FITS],
        "lucky": [f"{READ}print(0 if a < 9 else a + b)\n", WRONG, WRONG],
    }
    task_id = next(name for name in said if f"Add ({name})." in prompt)
    return [block(said[task_id][prompt.count("Your program") + prompt.count("Your answer has no")])]


@pytest.fixture
def asked() -> list[dict[str, Any]]:
    return []


@pytest.fixture
def address(asked: list[dict[str, Any]]) -> Iterator[str]:
    with serve(answers, requests=asked) as found:
        yield found


NAMES = ("once", "twice", "never", "fits", "lucky")


def evaluate(address: str, problems: str, output: Path, *options: str) -> int:
    command = ["--model", address, "--problems", problems, "--output", str(output), "--workers", "1"]
    return main([*command, "--turns", "3", *options])


def stored(output: Path) -> dict[str, dict[str, Any]]:
    return {one["completion_id"]: one | {"seconds": 0} for one in read_samples(output)}


@pytest.mark.parametrize("chat", [True, False])
def test_a_model_repairs_its_programs(
    tmp_path: Path, address: str, asked: list[dict[str, Any]], chat: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    problems = spec(tmp_path, *map(row, NAMES))
    assert evaluate(address, problems, tmp_path / "out", *(["--chat-template"] if chat else [])) == 0
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert results["pass@1"]["all"] == pytest.approx(2 / 5)
    turns = results["turns"]
    assert [turn["pass@1"]["all"] for turn in turns] == pytest.approx([1 / 5, 2 / 5, 2 / 5])
    assert [turn["filtered"]["all"] for turn in turns] == pytest.approx([1 / 5, 2 / 5, 2 / 5])
    assert [turn["answers"] for turn in turns] == [5, 3, 2]
    assert all(turn["prompt_tokens"] > 0 and turn["completion_tokens"] > 0 for turn in turns)
    rows = stored(tmp_path / "out")
    said = rows["twice/0"]["turns"]
    assert [(turn["examples"], turn["outcome"]) for turn in said] == [("failed", "failed"), ("passed", "passed")]
    assert "The output of your program:\n    6" in said[0]["feedback"]
    assert said[1]["feedback"] is None
    assert (rows["twice/0"]["code"], rows["twice/0"]["passed"]) == (RIGHT, True)
    assert [turn["outcome"] for turn in rows["never/0"]["turns"]] == ["failed", "syntax_error", "runtime_error"]
    assert [turn["examples"] for turn in rows["fits/0"]["turns"]] == ["passed"]
    assert SECRET not in json.dumps(asked)
    table = [line.split() for line in capsys.readouterr().out.splitlines() if line.startswith("turn")]
    assert [line[:4] for line in table] == [
        ["turn", "1:", "pass@1", "20.00%"],
        ["turn", "2:", "pass@1", "40.00%"],
        ["turn", "3:", "pass@1", "40.00%"],
    ]
    if chat:
        roles = [message["role"] for message in max(asked, key=lambda one: len(one["messages"]))["messages"]]
        assert roles == ["user", "assistant", "user", "assistant", "user"]


def dialogue_row(*turns: tuple[Outcome | None, Outcome], tokens: int | None = 2) -> dict[str, Any]:
    found = [
        {"examples": shown, "outcome": outcome, "prompt_tokens": tokens, "completion_tokens": 1}
        for shown, outcome in turns
    ]
    return {"task_id": "a", "completion_id": "0", "code": "", "turns": found}


def test_filtering_keeps_what_passes_the_examples() -> None:
    test = StdinTest("", "1")
    problems = [Problem(name, "jsonl", "?", (test,), difficulty="easy" if name == "a" else None) for name in "abc"]
    counts = TurnCounts(problems, 2)
    passed, failed, broken = Outcome.PASSED, Outcome.FAILED, Outcome.INFRASTRUCTURE_ERROR
    counts.add("a", dialogue_row((passed, passed)))
    counts.add("a", dialogue_row((failed, passed), (passed, failed)))
    counts.add("a", dialogue_row((failed, failed), (failed, failed)))
    counts.add("a", dialogue_row((passed, broken), tokens=None))
    counts.add("b", dialogue_row((failed, passed), (failed, passed)))
    counts.add("c", dialogue_row((None, passed)))
    first, second = counts.results([1])
    assert first["pass@1"] == pytest.approx({"all": (2 / 3 + 1 + 1) / 3, "easy": 2 / 3})
    assert first["filtered"] == pytest.approx({"all": (1 + 0 + 1) / 3, "easy": 1})
    assert second["pass@1"] == pytest.approx({"all": (1 / 3 + 1 + 1) / 3, "easy": 1 / 3})
    assert second["filtered"] == pytest.approx({"all": (1 / 2 + 0 + 1) / 3, "easy": 1 / 2})
    assert (first["answers"], first["prompt_tokens"], first["completion_tokens"]) == (6, None, 6)
    assert (second["answers"], second["prompt_tokens"], second["completion_tokens"]) == (3, 6, 3)
    assert second["intervals"]["filtered"]["easy"] == [0.5, 0.5]


def test_dialogues_continue_after_an_interruption(
    tmp_path: Path, address: str, asked: list[dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    problems, out = spec(tmp_path, *map(row, NAMES)), tmp_path / "out"
    assert evaluate(address, problems, out, "--num-samples", "2") == 0
    whole, results = stored(out), (out / "results.json").read_text()
    assert len(whole) == 10
    lines = (out / "samples.jsonl").read_text().splitlines(keepends=True)
    (out / "samples.jsonl").write_text("".join(lines[3:8]) + lines[8][:20])
    asked.clear()
    assert evaluate(address, problems, out, "--num-samples", "2") == 0
    assert stored(out) == whole
    assert (out / "results.json").read_text() == results
    lost = [json.loads(line) for line in (*lines[:3], *lines[8:])]
    assert len(asked) == sum(len(one["turns"]) for one in lost)
    assert evaluate(address, problems, out, "--num-samples", "2", "--turns", "2") == 2
    assert "turns: 3 there, 2 now" in capsys.readouterr().err
    changed = spec(tmp_path, *(row(name, examples=[{"stdin": "9 9", "expected": "18"}]) for name in NAMES))
    assert evaluate(address, changed, out, "--num-samples", "2") == 2
    assert "examples: " in capsys.readouterr().err


def test_one_turn_is_the_evaluation_it_was(tmp_path: Path, address: str) -> None:
    assert evaluate(address, spec(tmp_path, row("once")), tmp_path / "out", "--turns", "1") == 0
    assert "turns" not in json.loads((tmp_path / "out" / "evaluation.json").read_text())
    assert "turns" not in json.loads((tmp_path / "out" / "results.json").read_text())
    assert all("turns" not in one for one in stored(tmp_path / "out").values())


def test_problems_without_examples_have_one_turn(
    tmp_path: Path, address: str, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    problems = spec(tmp_path, row("twice"), row("never", num_visible_tests=0))
    assert evaluate(address, problems, tmp_path / "out") == 0
    assert "1 of 2 problems have no examples and get one turn (never)" in caplog.text
    assert [len(one["turns"]) for one in stored(tmp_path / "out").values()] in ([1, 2], [2, 1])
    assert evaluate(address, spec(tmp_path, row("once", num_visible_tests=2)), tmp_path / "none") == 2
    message = "no problem has examples that a model may see (problem once: the statement shows all tests that grade"
    assert message in capsys.readouterr().err


def test_files_of_programs_are_not_repaired(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--samples", "x.jsonl", "--problems", "starter:test", "--output", str(tmp_path), "--turns", "2"]
    assert main(options) == 2
    assert "--turns: programs in a file cannot be repaired" in capsys.readouterr().err


def test_an_example_that_references_fail_is_not_shown(tmp_path: Path, address: str) -> None:
    strange = {"examples": [{"stdin": "2 3\n", "expected": "6\n"}], "references": [RIGHT]}
    assert evaluate(address, spec(tmp_path, row("never", **strange)), tmp_path / "out") == 0
    (turn,) = stored(tmp_path / "out")["never/0"]["turns"]
    assert turn["examples"] is None


@pytest.mark.parametrize(("max_words", "num_turns"), [(40, 1), (1000, 3)])
def test_a_dialogue_that_grows_too_long_ends(tmp_path: Path, max_words: int, num_turns: int) -> None:
    with serve(answers, max_words=max_words) as address:
        assert evaluate(address, spec(tmp_path, row("never")), tmp_path / "out") == 0
    assert len(stored(tmp_path / "out")["never/0"]["turns"]) == num_turns


def test_a_first_prompt_that_is_too_long_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with serve(answers, max_words=3) as address:
        assert evaluate(address, spec(tmp_path, row("never")), tmp_path / "out") == 2
    assert "maximum context length" in capsys.readouterr().err


def verdict_of(outcome: Outcome, num_tests: int) -> Verdict:
    return Verdict("a", "0", outcome, (outcome,) * num_tests, None, Isolation.NAMESPACES, 0.1, 0.1, 1)


def test_hidden_tests_are_not_run_before_the_dialogue_ends() -> None:
    problem = Problem("a", "jsonl", "?", (StdinTest(SECRET, "1"),), examples=(StdinTest("1", "1"),))
    graded: list[Problem] = []

    def grade(found: Problem, program: str, completion_id: str) -> Verdict:
        graded.append(found)
        return verdict_of(Outcome.FAILED if len(graded) < 3 else Outcome.PASSED, len(found.tests))

    dialogue = Dialogue(problem, 0, max_turns=9)
    with Examiner(grade, 1) as examiner:
        while not dialogue.is_over:
            examiner.submit(dialogue, Answer("x", "x", 1, 1)).result()
    assert [found.tests for found in graded] == [problem.examples] * 3
    assert [turn.outcome for turn in dialogue.turns] == [None] * 3


@pytest.mark.parametrize("outcome", [Outcome.PASSED, Outcome.INFRASTRUCTURE_ERROR])
def test_what_ends_a_dialogue(outcome: Outcome) -> None:
    problem = Problem("a", "jsonl", "?", (StdinTest("", "1"),), examples=(StdinTest("1", "1"),))
    dialogue = Dialogue(problem, 0, max_turns=9)
    with Examiner(lambda *_: verdict_of(outcome, 1), 1) as examiner:
        dialogue.take(Answer("x", "x", 1, 1), examiner)
    assert dialogue.is_over
    assert dialogue.turns[0].feedback is None


def test_the_text_of_a_dialogue() -> None:
    problem = Problem("a", "jsonl", "Add.", (StdinTest("", "1"),))
    exchanges = [Exchange("print(1)\n\n", "Your program fails."), Exchange("print(2)", "It fails again.")]
    first = render_prompt(problem)
    second = f"{first}print(1)\n\nFEEDBACK:\nYour program fails.\n\nANSWER:\n"
    assert render_prompt(problem, exchanges=exchanges[:1]) == second
    assert render_prompt(problem, exchanges=exchanges) == f"{second}print(2)\n\nFEEDBACK:\nIt fails again.\n\nANSWER:\n"
    head = Problem("h", "humaneval", "def f():\n", (), code_prefix="def f():\n")
    assert render_prompt(head, exchanges=exchanges[:1]).endswith("\n\nANSWER:\ndef f():\n")
    messages = chat_messages(problem, PromptFormat(chat=True, system="Be brief."), exchanges)
    assert [one["role"] for one in messages] == ["system", "user", "assistant", "user", "assistant", "user"]
    assert messages[:2] == chat_messages(problem, PromptFormat(chat=True, system="Be brief."))
    assert messages[2]["content"] == "print(1)\n\n"
    assert messages[3]["content"].startswith("Your program fails.\n\nCorrect the program.")


def test_a_model_in_this_process_converses(tiny_model_dir: Path) -> None:
    model = SampledModel(
        name=str(tiny_model_dir),
        num_samples=3,
        temperature=1.0,
        top_p=1.0,
        max_tokens=4,
        seed=3,
        max_length=150,
        turns=3,
        dtype=Dtype.FLOAT32,
        engine=Engine.TRANSFORMERS,
    )
    shown = (StdinTest("1", "1"),)
    problems = tuple(
        Problem(name, "jsonl", statement, (StdinTest("2", "2"),), examples=shown)
        for name, statement in (("a", "Print 1."), ("b", "Print one."), ("long", "word " * 400))
    )
    judged: list[str] = []
    lock = threading.Lock()

    def grade(found: Problem, program: str, completion_id: str) -> Verdict:
        with lock:
            judged.append(completion_id)
        return verdict_of(Outcome.PASSED if completion_id == "b/1" else Outcome.FAILED, len(found.tests))

    prepared = model.prepare(LoadedProblems(problems, ()), 1)
    assert prepared.examined is not None
    with Examiner(grade, 2) as examiner:
        rows = {one[0].completion_id: one[0] for one in prepared.examined((), examiner) if one is not None}
    assert len(rows) == prepared.num_programs == 9
    turns = {name: len(found.turns) for name, found in rows.items()}  # type: ignore[attr-defined]
    assert turns == {name: 1 if name == "b/1" or str(name).startswith("long") else turns["a/0"] for name in rows}
    assert turns["a/0"] > 1
    first = rows["a/0"].turns[0], rows["a/0"].turns[1]  # type: ignore[attr-defined]
    assert first[1].prompt_tokens > first[0].prompt_tokens + first[0].completion_tokens
    stored = [found.model_dump() for found in list(rows.values())[:7]]
    with Examiner(grade, 2) as examiner:
        left = [one for one in prepared.examined(stored, examiner) if one]
    assert sorted(one[0].completion_id for one in left) == sorted(list(rows)[7:])
    model.close()
