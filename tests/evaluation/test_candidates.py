"""What the populations of critic sampling are worth, from stored rows."""

from __future__ import annotations

from typing import Any

import pytest

from rltf.evaluation.candidates import Candidate, CandidateCounts, CandidateRow, Origin, candidate_lines
from rltf.problems import Problem, StdinTest
from rltf.sandbox.verdict import Outcome

PASSED, FAILED, BROKEN = Outcome.PASSED, Outcome.FAILED, Outcome.INFRASTRUCTURE_ERROR


def plain(shown: Outcome | None, outcome: Outcome, predicted: str | None = "failed") -> Candidate:
    score = None if predicted is None else 0.5
    tokens = {"prompt_tokens": 10, "completion_tokens": 4}
    return Candidate(number=0, examples=shown, outcome=outcome, predicted=predicted, score=score, **tokens)


def row(task_id: str, origin: Origin, outcome: Outcome, *others: Candidate) -> dict[str, Any]:
    made = {"prompt_tokens": 12, "completion_tokens": 3} if origin is not Origin.PLAIN else {}
    found = CandidateRow(task_id=task_id, completion_id="0", code="", origin=origin, plain=others, **made)
    return found.model_dump(mode="json") | {"outcome": outcome.value}


def counts(**changes: bool) -> CandidateCounts:
    problems = [Problem(name, "jsonl", "?", (StdinTest("", "1"),)) for name in "abc"]
    asked = {"has_critic": True, "has_repair": True, "at_budget": True} | changes
    return CandidateCounts(problems, **asked)


def test_each_population_counts_its_programs_and_their_tokens() -> None:
    found = counts()
    found.add("a", row("a", Origin.REFINE, PASSED, plain(PASSED, FAILED), plain(PASSED, PASSED)))
    found.add("a", row("a", Origin.REFINE, FAILED, plain(FAILED, FAILED)))
    found.add("b", row("b", Origin.REPAIR, PASSED, plain(FAILED, FAILED)))
    found.add("b", row("b", Origin.REPAIR, BROKEN, plain(FAILED, BROKEN)))
    found.add("c", row("c", Origin.PLAIN, PASSED, plain(None, PASSED, predicted="passed")))
    found.add("c", row("c", Origin.PLAIN, FAILED, plain(None, FAILED)))
    results = found.results([1, 2])
    assert {name: one["pass@1"]["all"] for name, one in results.items() if "pass@1" in one} == pytest.approx(
        {
            "plain": (0 + 0 + 1 / 2) / 3,
            "filtered": (0 + 0 + 1 / 2) / 3,
            "refine": (1 / 2 + 0 + 1 / 2) / 3,
            "repair": (0 + 1 + 1 / 2) / 3,
            "both": (1 / 2 + 1 + 1 / 2) / 3,
            "union": (1 / 4 + 1 / 2 + 1 / 2) / 3,
            "plain_at_budget": (1 / 3 + 0 + 1 / 2) / 3,
            "filtered_at_budget": (1 / 2 + 0 + 1 / 2) / 3,
        }
    )
    assert results["plain"]["pass@2"]["all"] == (0 + 1) / 2  # b has a single graded program
    assert results["filtered"]["pass@2"]["all"] == pytest.approx((0 + 0 + 1) / 3)
    assert results["filtered_at_budget"]["pass@2"]["all"] == pytest.approx((1 + 0 + 1) / 3)
    tokens = {
        name: (one["prompt_tokens"], one["completion_tokens"]) for name, one in results.items() if "pass@1" in one
    }
    first = (6 * 10, 6 * 4)
    assert tokens == {
        "plain": first,
        "filtered": first,
        "refine": (60 + 2 * 12, 24 + 2 * 3),
        "repair": (60 + 2 * 12, 24 + 2 * 3),
        "both": (60 + 4 * 12, 24 + 4 * 3),
        "union": (60 + 4 * 12, 24 + 4 * 3),
        "plain_at_budget": (70, 28),
        "filtered_at_budget": (70, 28),
    }
    assert [results[name]["critic_tokens"] for name in ("plain", "refine", "repair", "both")] == [0, 14, 28, 42]
    assert results["problems"] == {"plain": 1, "refine": 1, "repair": 1}
    critic = results["critic"]
    assert (critic["num_programs"], critic["accuracy"]) == (5, 1)
    assert critic["by_class"]["passed"] == {"accuracy": 1, "num_programs": 1}
    assert critic["by_class"]["syntax_error"] == {"accuracy": None, "num_programs": 0}
    lines = list(candidate_lines(results))
    assert lines[0].startswith("plain             : pass@1  16.67% [0.00%, 50.00%]   pass@2  50.00%")
    assert lines[-1] == "critic: right about 100.00% of the plain programs (failed 100.00% of 4, passed 100.00% of 1)"


def test_only_what_was_asked_for_is_counted() -> None:
    found = counts(has_critic=False, at_budget=False)
    found.add("a", row("a", Origin.REPAIR, PASSED, plain(FAILED, FAILED, predicted=None)))
    results = found.results([1])
    assert list(results) == ["plain", "filtered", "repair", "union", "problems"]
    assert results["repair"]["critic_tokens"] == 0
    assert list(candidate_lines({})) == []
