"""Judging a program on the examples that its statement shows, apart from the tests that grade it.

A model may see what its program does on the examples and nothing of what it does on other tests. So the verdict that
feedback is made from comes from a run on the examples alone, in which no other test is in the program's reach. Whether
a program is right is decided by the problem's tests. Examples that are not among them do not count.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import NewType

from rltf.problems.types import Problem
from rltf.sandbox.verdict import Outcome, Verdict

Grade = Callable[[Problem, str, str], Verdict]
"""Grades a program of a problem, with its completion id: `Sandbox.grade` or `Graders.grade`."""
ExampleVerdict = NewType("ExampleVerdict", Verdict)
"""The verdict of a run on the examples alone: `tests` are the examples."""

_MAX_REFERENCES = 3


def judge_examples(grade: Grade, problem: Problem, program: str, completion_id: str) -> ExampleVerdict:
    """The verdict on the problem's examples, of which there must be some."""
    shown = replace(problem, tests=problem.examples, examples=(), num_visible_tests=0)
    return ExampleVerdict(grade(shown, program, completion_id))


def ends_dialogue(verdict: ExampleVerdict) -> bool:
    """Whether there is nothing left to repair: the program passes the examples, or the grader failed on them."""
    return verdict.outcome in (Outcome.PASSED, Outcome.INFRASTRUCTURE_ERROR)


def confirmed(grade: Grade, problem: Problem) -> Problem:
    """The problem without the examples that a right program can fail.

    These are examples that one of the first reference programs fails although it passes all tests: there are several
    right answers, or the example was not read as it was meant. Without references, all examples stay. Those that are
    tests themselves stay as well, without a run.
    """
    for number, reference in enumerate(problem.references[:_MAX_REFERENCES]):
        if all(example in problem.tests for example in problem.examples):
            break
        verdict = judge_examples(grade, problem, reference, f"reference {number}")
        if not verdict.passed and grade(problem, reference, f"reference {number}").passed:
            pairs = zip(problem.examples, verdict.tests, strict=True)
            problem = replace(problem, examples=tuple(one for one, end in pairs if end is Outcome.PASSED))
    return problem
