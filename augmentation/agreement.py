"""From candidate inputs to tests: the answers are what reference programs agree on when they run."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import islice
from typing import Any

from rltf.augmentation.inputs import Candidate, inputs_of, vary_inputs
from rltf.problems.python_source import as_run
from rltf.problems.spec import read_row, row_of
from rltf.problems.types import CheckTest, Problem, Test
from rltf.sandbox import judge
from rltf.sandbox.grading import Graders
from rltf.sandbox.jobs import End, RunResult
from rltf.sandbox.verdict import Outcome

_SECOND_SEED = 1
_TRIES_PER_TEST = 4
_STOPPED_BY = (End.CPU_TIMEOUT, End.WALL_TIMEOUT, End.MEMORY)
_MAX_STOPS = 3


@dataclass(frozen=True, slots=True)
class Rules:
    """How many tests to add at most, and how many reference programs must agree on each."""

    num_tests: int = 20
    min_references: int = 2
    max_references: int = 5
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Reference:
    """A program taken to be right: one of the problem's, named by its number, or another, named by its id."""

    name: int | str
    program: str


@dataclass(frozen=True, slots=True)
class Worth:
    """What a test catches: the share of the wrong programs, and how many of them no test before it catches (`gain`)."""

    caught: float
    gain: int


@dataclass(frozen=True, slots=True)
class NewTest:
    """A test, and the input it was made from. `worth` is None if it was not ranked."""

    test: Test
    candidate: Candidate
    worth: Worth | None = None


@dataclass(frozen=True, slots=True)
class Augmented:
    """A problem with its new tests among its own, on which the `references` agree.

    `dropped` counts candidates by the reason why they are not tests. `unchanged` says why there are no new tests.
    `wrong` counts the wrong programs that the tests were ranked by: `all`, those that new tests have `caught`, those
    that the problem's own tests `missed`, and those of the latter that new tests caught (`new`).
    """

    problem: Problem
    new: tuple[NewTest, ...] = ()
    references: tuple[Reference, ...] = ()
    dropped: Counter[str] = field(default_factory=Counter)
    unchanged: str = ""
    wrong: Counter[str] = field(default_factory=Counter)

    def row(self, seed: int) -> dict[str, Any]:
        """The problem as a row that loads, which also says where each new test comes from."""
        provenance = [
            {
                "test": self.problem.tests.index(new.test),
                "generator": new.candidate.generator,
                "parent": new.candidate.parent,
                "seed": seed,
                "references": [reference.name for reference in self.references],
                **(asdict(new.worth) if new.worth else {}),
            }
            for new in self.new
        ]
        return row_of(self.problem) | {"provenance": provenance}


def augment(
    problem: Problem, proposed: Sequence[Candidate], graders: Graders, rules: Rules, others: Sequence[Reference] = ()
) -> Augmented:
    """The problem with new tests from `proposed` inputs and from variations of its own.

    First its own references take part, then `others`, except for those that fail the problem's own tests.
    """
    offered = [*(Reference(number, program) for number, program in enumerate(problem.references)), *others]
    references = _sound(problem, offered, graders, rules.max_references)
    if len(references) < rules.min_references:
        passing = f"{len(references)} pass its tests" if offered else "it has none"
        return Augmented(problem, unchanged=f"{rules.min_references} reference programs are needed; {passing}")
    known = {one.key for one in inputs_of(problem).values()}
    if not known:
        return Augmented(problem, unchanged="none of its tests has an input that can be separated from the answer")
    varied = vary_inputs(problem, random.Random(f"{rules.seed}:{problem.task_id}"))
    candidates = [*proposed, *islice(varied, _TRIES_PER_TEST * rules.num_tests)]
    fresh: dict[str, Candidate] = {}
    for candidate in candidates:
        if candidate.input.key not in known:
            fresh.setdefault(candidate.input.key, candidate)
    new, dropped = _agreed(problem, list(fresh.values())[: 2 * rules.num_tests], references, graders)
    kept = [one for one in new if one.test in read_row(problem.benchmark, row_of(with_tests(problem, [one]))).tests]
    dropped["the input is not new"] += len(candidates) - len(fresh)
    dropped["the answer does not fit into the benchmark's rows"] += len(new) - len(kept)
    kept = kept[: rules.num_tests]
    return Augmented(
        problem=with_tests(problem, kept),
        new=tuple(kept),
        references=tuple(references),
        dropped=+dropped,
        unchanged="" if kept else "no candidate became a test",
    )


def _sound(problem: Problem, offered: Sequence[Reference], graders: Graders, limit: int) -> list[Reference]:
    """The first `limit` references that pass the problem's own tests. Identical programs count once."""
    sound: dict[str, Reference] = {}
    for reference in offered:
        text = reference.program.strip()
        if len(sound) == limit:
            break
        if text not in sound and graders.grade(problem, reference.program, f"reference {reference.name}").passed:
            sound[text] = reference
    return list(sound.values())


def _agreed(
    problem: Problem, candidates: Sequence[Candidate], references: Sequence[Reference], graders: Graders
) -> tuple[list[NewTest], Counter[str]]:
    """The candidates on whose answer all references agree, in two runs each, and why the others were dropped."""
    dropped: Counter[str] = Counter()
    new: list[NewTest] = []
    for candidate, result in zip(candidates, _run(problem, references[0], candidates, graders), strict=True):
        test = candidate.input.test(result) if result.end is End.OK else None
        if test is not None:
            new.append(NewTest(test, candidate))
        else:
            dropped["no answer that a test can hold" if result.end is End.OK else "a reference fails on it"] += 1
    runs = [(reference, None) for reference in references[1:]] + [(reference, _SECOND_SEED) for reference in references]
    for reference, seed in runs:
        results = _run(problem, reference, [one.candidate for one in new], graders, seed)
        outcomes = [judge.outcome_of(judge.plan(one.test), found) for one, found in zip(new, results, strict=True)]
        num_failed = outcomes.count(Outcome.FAILED)
        dropped["references disagree" if seed is None else "an answer changes from run to run"] += num_failed
        dropped["a reference fails on it"] += len(new) - num_failed - outcomes.count(Outcome.PASSED)
        new = [one for one, outcome in zip(new, outcomes, strict=True) if outcome is Outcome.PASSED]
    return new, dropped


def _run(
    problem: Problem, reference: Reference, candidates: Sequence[Candidate], graders: Graders, seed: int | None = None
) -> list[RunResult]:
    """What the reference answers to each input. An input that takes too long stops the run, so the rest runs again.

    If that happens too often, the remaining inputs count as skipped: the reference is too slow for them.
    """
    source = "".join(as_run(problem, reference.program))
    results: list[RunResult] = []
    for _ in range(_MAX_STOPS):
        rest = [candidate.input.job for candidate in candidates[len(results) :]]
        if not rest:
            break
        found = graders.run(source, rest, seed)
        stop = next((place for place, result in enumerate(found) if result.end in _STOPPED_BY), len(found) - 1)
        results += found[: stop + 1]
    return results + [RunResult(End.SKIPPED)] * (len(candidates) - len(results))


def with_tests(problem: Problem, new: Sequence[NewTest]) -> Problem:
    """The problem with new tests after its own, but before a test function, which is last in rows."""
    own = [test for test in problem.tests if not isinstance(test, CheckTest)]
    functions = problem.tests[len(own) :]
    return replace(problem, tests=(*own, *(one.test for one in new), *functions))
