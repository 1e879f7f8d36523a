"""What new tests are worth: how many wrong programs they catch that nothing else does.

Right programs pass all new tests, because a test is what the references agree on. So a test is worth the wrong programs
that it catches. Tests are ranked by greedy set cover: the next one catches most of what no test before it catches.
"""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

from rltf.augmentation.agreement import Augmented, Worth, with_tests
from rltf.augmentation.mutants import mutants
from rltf.problems.python_source import as_run
from rltf.problems.types import Problem
from rltf.sandbox.grading import Graders
from rltf.sandbox.verdict import Outcome

_NUM_MUTANTS = 20


@dataclass(frozen=True, slots=True)
class Selection:
    """Which of the ranked tests to keep: the first `max_tests` (None: all); with `prune`, only those with a gain.

    `seed` is for the mutants.
    """

    max_tests: int | None = None
    prune: bool = False
    seed: int = 0


def rank(caught: Sequence[frozenset[int]], missed: frozenset[int] = frozenset()) -> list[tuple[int, frozenset[int]]]:
    """The numbers of the tests, best first, each with its gain: what it catches that no test before it does.

    `caught` has the programs that each test catches. Those in `missed` pass the problem's own tests and come first.
    Among tests with an equal gain, the one that catches more comes first, then the one with the lower number.
    """
    left = dict(enumerate(caught))
    ranked: list[tuple[int, frozenset[int]]] = []
    seen: frozenset[int] = frozenset()
    while left:
        gains = {number: programs - seen for number, programs in left.items()}
        best = max(
            left, key=lambda number: (len(gains[number] & missed), len(gains[number]), len(left[number]), -number)
        )
        ranked.append((best, gains[best]))
        seen |= left.pop(best)
    return ranked


def ranked(
    problem: Problem, augmented: Augmented, graders: Graders, selection: Selection, given: Sequence[str] | None
) -> Augmented:
    """`augmented`, which was made from `problem`, with its new tests in the order of their rank and those kept that
    `selection` says.

    The wrong programs are the `given` ones that fail a test of `problem`. If None are given, they are mutants of the
    references that fail any test. Programs that a limit stops before the last test are left out. If no program is
    wrong, the new tests keep their order, and none is pruned.
    """
    if not augmented.new:
        return augmented
    numbers = [augmented.problem.tests.index(new.test) for new in augmented.new]
    programs = _mutants(problem, augmented, selection.seed) if given is None else given
    # A given program that fails new tests alone may be right, and the tests wrong.
    unproven = set() if given is None else set(numbers)
    failures = [_failed(augmented.problem, program, graders) for program in dict.fromkeys(programs)]
    failures = [failed for failed in failures if failed - unproven]
    caught = [frozenset(wrong for wrong, failed in enumerate(failures) if number in failed) for number in numbers]
    missed = frozenset(wrong for wrong, failed in enumerate(failures) if failed <= set(numbers))
    order = rank(caught, missed)
    useful = [(place, gain) for place, gain in order if gain or not selection.prune or not failures]
    kept = useful[: selection.max_tests]
    new = tuple(
        replace(augmented.new[place], worth=Worth(len(caught[place]) / len(failures), len(gain)) if failures else None)
        for place, gain in kept
    )
    found = frozenset[int]().union(*(caught[place] for place, _ in kept))
    dropped = {
        "catches no wrong program that better tests miss": len(order) - len(useful),
        "is not among the best (--max-tests)": len(useful) - len(kept),
    }
    return replace(
        augmented,
        problem=with_tests(problem, new),
        new=new,
        dropped=augmented.dropped + Counter(dropped),
        unchanged="" if new else "no new test catches a wrong program",
        wrong=Counter(all=len(failures), caught=len(found), missed=len(missed), new=len(found & missed)),
    )


def _mutants(problem: Problem, augmented: Augmented, seed: int) -> list[str]:
    """Programs with one small mistake each, made from the references that agree on the new tests."""
    rng = random.Random(f"{seed}:{problem.task_id}:mutants")
    sources = ["".join(as_run(problem, reference.program)) for reference in augmented.references]
    each = math.ceil(_NUM_MUTANTS / len(sources))
    return [mutant for source in sources for mutant in mutants(source, rng, each)]


def _failed(problem: Problem, program: str, graders: Graders) -> frozenset[int]:
    """The numbers of the tests that a program fails; none if some of them did not run."""
    outcomes = graders.grade(problem, program, "").tests
    if Outcome.SKIPPED in outcomes or Outcome.INFRASTRUCTURE_ERROR in outcomes:
        return frozenset()
    return frozenset(number for number, outcome in enumerate(outcomes) if outcome is not Outcome.PASSED)
