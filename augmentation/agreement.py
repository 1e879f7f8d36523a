"""From candidate inputs to tests: the answers are what reference programs agree on when they are run."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

from augmentation.inputs import Candidate, input_of, vary_inputs
from problems.python_source import as_run
from problems.rows import read_row, row_of
from problems.types import CheckTest, Problem, Test
from sandbox import judge
from sandbox.grading import Graders
from sandbox.jobs import End, RunResult
from sandbox.verdict import Outcome

_SECOND_SEED = 1
_TRIES_PER_TEST = 4
_STOPPED_BY = (End.CPU_TIMEOUT, End.WALL_TIMEOUT, End.MEMORY)
_MAX_STOPS = 3


@dataclass(frozen=True, slots=True)
class Rules:
    """What a new test takes: so many new ones at most, from `min_references` to `max_references` programs agreeing."""

    num_tests: int = 20
    min_references: int = 2
    max_references: int = 5
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Reference:
    """A program that is taken to be right: one of the problem's, named by its number, or another, named by its id."""

    name: int | str
    program: str


@dataclass(frozen=True, slots=True)
class NewTest:
    """A test that `references` agree on: numbers among the problem's, ids of other programs."""

    test: Test
    candidate: Candidate
    references: tuple[int | str, ...]


@dataclass(frozen=True, slots=True)
class Augmented:
    """A problem with its new tests among its own. `dropped` counts candidates by the reason why they are no tests.

    `unchanged` says why a problem got no candidates at all; it is empty where it did.
    """

    problem: Problem
    new: tuple[NewTest, ...] = ()
    dropped: Counter[str] | None = None
    unchanged: str = ""

    def row(self, seed: int) -> dict[str, Any]:
        """The problem as a row that loads, with where each new test comes from."""
        provenance = [
            {
                "test": self.problem.tests.index(new.test),
                "generator": new.candidate.generator,
                "parent": new.candidate.parent,
                "seed": seed,
                "references": list(new.references),
            }
            for new in self.new
        ]
        return row_of(self.problem) | {"provenance": provenance}


def augment(
    problem: Problem,
    proposed: Sequence[Candidate],
    graders: Graders,
    rules: Rules,
    others: Sequence[Reference] = (),
) -> Augmented:
    """The problem with new tests from `proposed` inputs and from variations of its own.

    Its references take part, then `others`; those that fail the problem's own tests do not.
    """
    offered = [*(Reference(number, program) for number, program in enumerate(problem.references)), *others]
    references = list(islice(_sound(problem, offered, graders), rules.max_references))
    if len(references) < rules.min_references:
        passing = f"{len(references)} pass its tests" if offered else "it has none"
        return Augmented(problem, unchanged=f"{rules.min_references} reference programs are needed; {passing}")
    known = {one.key for test in problem.tests if (one := input_of(test, problem.entry_point)) is not None}
    if not known:
        return Augmented(problem, unchanged="none of its tests has an input that can be told from the answer")
    rng = random.Random(f"{rules.seed}:{problem.task_id}")
    candidates = [*proposed, *islice(vary_inputs(problem, rng), _TRIES_PER_TEST * rules.num_tests)]
    dropped: Counter[str] = Counter()
    fresh = list(_new_ones(candidates, known, dropped))[: 2 * rules.num_tests]
    tests = _agreed(problem, fresh, references, graders, dropped)
    usable = []
    for new in tests:
        if _reads_back(problem, new.test):
            usable.append(new)
        else:
            dropped["the answer cannot be written in the benchmark's rows"] += 1
    kept = tuple(usable[: rules.num_tests])
    return Augmented(_with_tests(problem, [new.test for new in kept]), kept, dropped)


def _sound(problem: Problem, offered: Sequence[Reference], graders: Graders) -> Iterator[Reference]:
    """The references that pass the problem's own tests; the same program counts once."""
    seen = set()
    for reference in offered:
        text = reference.program.strip()
        if text not in seen and graders.grade(problem, reference.program, f"reference {reference.name}").passed:
            seen.add(text)
            yield reference


def _new_ones(candidates: Iterable[Candidate], known: set[str], dropped: Counter[str]) -> Iterator[Candidate]:
    for candidate in candidates:
        if candidate.input.key in known:
            dropped["the input is not new"] += 1
        else:
            known.add(candidate.input.key)
            yield candidate


def _agreed(
    problem: Problem,
    candidates: list[Candidate],
    references: list[Reference],
    graders: Graders,
    dropped: Counter[str],
) -> list[NewTest]:
    """The candidates whose answer all references give, twice."""
    answered: list[tuple[Candidate, Test]] = []
    first, *others = references
    for candidate, result in zip(candidates, _run(problem, first, candidates, graders), strict=True):
        test = candidate.input.test(result) if result.end is End.OK else None
        if test is None:
            reason = "no answer that a test can hold" if result.end is End.OK else "a reference fails on it"
            dropped[reason] += 1
        else:
            answered.append((candidate, test))
    runs = [(reference, None) for reference in others] + [(reference, _SECOND_SEED) for reference in references]
    for reference, seed in runs:
        results = _run(problem, reference, [candidate for candidate, _ in answered], graders, seed)
        agreeing = []
        for (candidate, test), result in zip(answered, results, strict=True):
            outcome = judge.outcome_of(judge.plan(test), result)
            if outcome is Outcome.PASSED:
                agreeing.append((candidate, test))
            elif outcome is Outcome.FAILED:
                dropped["references disagree" if seed is None else "an answer changes from run to run"] += 1
            else:
                dropped["a reference fails on it"] += 1
        answered = agreeing
    names = tuple(reference.name for reference in references)
    return [NewTest(test, candidate, names) for candidate, test in answered]


def _run(
    problem: Problem, reference: Reference, candidates: Sequence[Candidate], graders: Graders, seed: int | None = None
) -> list[RunResult]:
    """What the reference makes of each input. One that takes too long stops the others, so these run again behind it.

    After a few of those the rest counts as skipped: the reference is too slow for such inputs.
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


def _with_tests(problem: Problem, new: Sequence[Test]) -> Problem:
    """The problem with new tests behind its own, but before a test function, which stands last in rows."""
    own = [test for test in problem.tests if not isinstance(test, CheckTest)]
    functions = problem.tests[len(own) :]
    return replace(problem, tests=(*own, *new, *functions))


def _reads_back(problem: Problem, test: Test) -> bool:
    return test in read_row(problem.benchmark, row_of(_with_tests(problem, [test]))).tests
