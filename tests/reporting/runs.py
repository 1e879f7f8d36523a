"""Rows, samples and events of a run, for tests of what reporting makes of them."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from rltf.controller.events import Evaluated, Step
from rltf.controller.ledger import LedgerCounts
from rltf.controller.rollouts import GradingCounts
from rltf.controller.samples import GradedSample, TokenMark
from rltf.evaluation import EvaluationResult
from rltf.files import read_rows
from rltf.learner.metrics import StepMetrics, UpdateStats
from rltf.problems.types import CallTest, Problem, StdinTest
from rltf.sandbox.verdict import Isolation, Outcome, ProgramError, Verdict

STDIN_PROBLEM = Problem(
    task_id="double/1",
    benchmark="starter",
    statement="Read a number and print twice its value.",
    tests=(StdinTest("2\n", "4\n"), StdinTest("5\n", "10\n")),
)
CALL_PROBLEM = Problem(
    task_id="sum/1", benchmark="starter", statement="Add up.", tests=(CallTest("total", ([1, 2],), 3),)
)
PROBLEMS = {problem.task_id: problem for problem in (STDIN_PROBLEM, CALL_PROBLEM)}


def step_row(step: int, num_steps: int = 60) -> dict[str, Any]:
    """A row of metrics.jsonl from a run that learns."""
    done = step / num_steps
    passed = round(256 * (0.3 + 0.5 * done))
    rest = 256 - passed
    outcomes = {
        "passed": passed,
        "failed": rest // 2,
        "runtime_error": rest // 4,
        "syntax_error": rest - rest // 2 - rest // 4,
    }
    return {
        "step": step,
        "weights_version": step // 2,
        "loss": 1.2 - done,
        "loss_sl": 0.4 - 0.2 * done,
        "loss_coarse": 0.5 * math.cos(step),
        "loss_fine": 0.2 * math.sin(step),
        "loss_adaptive": 0.1,
        "mismatch_mean": 1e-3 * (1 + math.sin(step)),
        "ratio_max": 1.3,
        "entropy": 0.5 - 0.3 * done,
        "reward_mean": -0.3 + done,
        "pass_rate": passed / 256,
        "outcomes": outcomes,
        "staleness": {"0": 100, "1": 140, "2": 16},
        "staleness_mean": 0.7,
        "staleness_max": 2,
        "tokens_per_s": 3900.0 + 50 * math.sin(step),
        "buffer_size": 512,
        "dropped": {"stale": 3 * step, "lost": 1},
        "wait_s": 0.4,
        "seconds": 4.5,
        "isolation": {"namespaces": 250},
        "num_tests": 1250,
        "num_groups": 32,
        "num_silent_groups": 8,
        "num_truncated": 5,
        "grad_norm": 0.8 + 0.2 * math.cos(step),
        "learning_rate": 1e-4 * (1 - done),
        "num_faults": 0,
        "num_tokens": 17000,
        "num_sampled_tokens": 16000,
        "publish_s": 0.2 if step % 2 else 0.0,
        "elapsed_s": 5.0,
    }


def step_event(step: int, num_steps: int = 60) -> Step:
    """The event from which a run writes such a row."""
    row = step_row(step, num_steps)
    update = UpdateStats(**{one.name: row.get(one.name, 0) for one in fields(UpdateStats)})
    known = [
        one.name for one in fields(StepMetrics) if one.name != "update" and (one.name in row or one.default is not None)
    ]
    values = {name: row.get(name, 0) for name in known}
    grading = GradingCounts(**{one.name: row.get(one.name, 0) for one in fields(GradingCounts)})
    return Step(StepMetrics(update=update, **values), grading, LedgerCounts(step, step, {}, {}))


def evaluation_result(rate: float, **sets: float) -> EvaluationResult:
    """pass@1 of `rate`, and of the rate of each named set, 5 points more or less."""
    rates = {"all": rate, **sets}
    intervals = {group: (one - 0.05, one + 0.05) for group, one in rates.items()}
    task_ids = {name: [f"{name}/1", f"{name}/2"] for name in sets}
    return EvaluationResult({1: rates}, {1: intervals}, {1: 0}, 100, 400, {}, sets=task_ids)


def evaluated(step: int, rate: float, **sets: float) -> Evaluated:
    """The event of such an evaluation."""
    result = evaluation_result(rate, **sets)
    return Evaluated(step, result, {task_id: 1 for task_ids in result.sets.values() for task_id in task_ids})


def evaluation_row(step: int, rate: float) -> dict[str, object]:
    """A row of evaluations.jsonl."""
    return {
        "step": step,
        "problems": "starter:test",
        "pass@1": {"all": rate, "easy": rate},
        "pass@5": {"all": min(1.0, rate + 0.2)},
        "intervals": {"pass@1": {"all": [rate - 0.05, rate + 0.05]}, "pass@5": {"all": [rate + 0.1, rate + 0.25]}},
        "num_problems": 100,
    }


def turn_row(program: str, outcome: str, *, feedback: str | None = None, weight: float = 0.0) -> dict[str, Any]:
    """A turn of a dialogue, as a row of `samples/` has it; each line of its program is a token of this weight."""
    tokens = [[line, weight] for line in program.splitlines(keepends=True)]
    completion = f"Sure:\n{program}"
    values = {"outcome": outcome, "feedback": feedback, "tokens": tokens}
    return {"completion": completion, "program": program, **values}


def add_turns(file: Path, turns: Mapping[int, list[dict[str, Any]]]) -> None:
    """Make dialogues of samples in a file of `samples/`, by the numbers of their rows."""
    rows = [row | {"turns": turns.get(number, [])} for number, row in enumerate(read_rows(file))]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))


def _graded(verdict: Verdict, tokens: tuple[TokenMark, ...], reward: float) -> GradedSample:
    program = "".join(mark.text for mark in tokens)
    return GradedSample(verdict, f"Sure:\n{program}", program, reward, tokens, tuple(range(len(verdict.tests))))


def failed_sample() -> GradedSample:
    """A program that crashes in line 2, its tokens penalised there; its text tries to end the script element."""
    tokens = (
        TokenMark("n = int(input())\n", -0.02),
        TokenMark("print(n * m)", -0.3),
        TokenMark("  # </script><b>\n", -0.02),
    )
    verdict = Verdict(
        task_id="double/1",
        completion_id="double/1#0",
        outcome=Outcome.RUNTIME_ERROR,
        tests=(Outcome.PASSED, Outcome.RUNTIME_ERROR),
        error=ProgramError("NameError", "name 'm' is not defined", 2),
        isolation=Isolation.NAMESPACES,
        seconds=0.01,
        cpu_seconds=0.01,
        peak_memory_bytes=1 << 20,
    )
    return _graded(verdict, tokens, -0.6)


def passed_sample() -> GradedSample:
    """A program that passes."""
    tokens = (TokenMark("def total(xs):\n", 0.5), TokenMark("    return sum(xs)", 0.5))
    verdict = Verdict(
        task_id="sum/1",
        completion_id="sum/1#3",
        outcome=Outcome.PASSED,
        tests=(Outcome.PASSED,),
        error=None,
        isolation=Isolation.NAMESPACES,
        seconds=0.01,
        cpu_seconds=0.01,
        peak_memory_bytes=1 << 20,
    )
    return _graded(verdict, tokens, 1.0)


def wrong_sample() -> GradedSample:
    """A program with a wrong answer."""
    tokens = (TokenMark("def total(xs):\n", -0.5), TokenMark("    return max(xs)", -0.5))
    passed = passed_sample()
    verdict = replace(passed.verdict, outcome=Outcome.FAILED, tests=(Outcome.FAILED,), actual="2")
    return _graded(verdict, tokens, -0.5)
