"""Do augmented tests catch wrong programs that pass the original tests, without rejecting right ones?

    BENCHMARK_DATA=FOLDER PYTHONPATH=. python benchmarks/bench_augment.py [--case NAME ...] [--limit N]
        [--num-tests N] [--max-tests N]

A problem keeps its first official test. The others are hidden and decide which programs are right. New tests are made
from the kept test. This prints one JSON object per case. It counts the programs that pass the kept test: how many are
wrong and how many of these the new tests catch, how many are right and how many of these the new tests reject.
HumanEval has one reference; in `agreeing-humaneval`, four other programs of CodeGen that pass the kept test must agree
with it. Programs with hard-coded answers to all official tests (`hard-coded`) are always wrong, and there nothing is
hidden. With `--max-tests`, the new tests are ranked by mutants of the agreeing references, and only the best are used.
Without the data this prints that it was skipped.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import sys
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

from benchmarks.corpora import CORPORA
from rltf.augmentation.__main__ import halved
from rltf.augmentation.agreement import Reference, Rules, augment
from rltf.augmentation.inputs import AssertInput, input_of
from rltf.augmentation.mutants import mutants
from rltf.augmentation.ranking import Selection, ranked
from rltf.problems import AssertTest, Problem, load
from rltf.problems.assertions import Relation, split_assertion
from rltf.sandbox.grading import Graders
from rltf.sandbox.verdict import Isolation
from rltf.settings import SandboxSettings

NUM_MUTANTS = 8
NUM_SAMPLES = 10
NUM_AGREEING = 5


@dataclass(frozen=True, slots=True)
class Group:
    """The programs of one problem. The tests come from `agreeing` and `others`, which are not in `programs`."""

    problem: Problem
    agreeing: tuple[str, ...]
    programs: tuple[str, ...]
    others: tuple[str, ...] = ()


def sampled(corpus: str, *, agreeing: bool = False) -> Iterator[Group]:
    """The first programs that a model wrote for each problem; the rest may agree with the references."""
    programs: defaultdict[str, list[str]] = defaultdict(list)
    problems: dict[str, Problem] = {}
    for case in CORPORA[corpus](DATA):
        problems[case.problem.task_id] = case.problem
        programs[case.problem.task_id].append(case.program)
    for task_id, problem in problems.items():
        first, rest = programs[task_id][:NUM_SAMPLES], programs[task_id][NUM_SAMPLES:]
        others = tuple(program for program in rest if program not in first) if agreeing else ()
        yield Group(problem, problem.references[:NUM_AGREEING], tuple(first), others)


def mutated(spec: str) -> Iterator[Group]:
    """Mutants of a reference that is not used for the tests, and further unused references (which are right)."""
    for problem in load(spec.format(DATA)).problems:
        if len(problem.tests) < 2:
            continue
        agreeing, others = problem.references[:NUM_AGREEING], problem.references[NUM_AGREEING:][:NUM_MUTANTS]
        source = others[0] if others else agreeing[0]
        wrong = mutants(source, random.Random(problem.task_id), NUM_MUTANTS)
        yield Group(problem, agreeing, (*others, *wrong))


def hard_coded() -> Iterator[Group]:
    """A function that looks up the answers to the asserts, for each MBPP problem whose asserts are plain calls."""
    for problem in load(f"mbpp:{DATA}/mbpp/mbpp.jsonl?split=test").problems:
        answers = []
        for test in problem.tests:
            found = input_of(test, problem.entry_point)
            if not isinstance(found, AssertInput) or not isinstance(test, AssertTest):
                break
            shape = split_assertion(test.assertion, test.setup)
            plain = f"{found.function}({', '.join(map(repr, found.arguments))})"
            if not isinstance(shape, Relation) or shape.operator != "==" or shape.source != plain:
                break
            answers.append(f"    if arguments == {found.arguments!r}:\n        return {shape.expected}\n")
        else:
            program = f"def {problem.entry_point}(*arguments):\n{''.join(answers)}"
            yield Group(problem, problem.references, (program,))


def measure(
    name: str, groups: Iterable[Group], workers: int, num_tests: int, max_tests: int | None, *, hides: bool
) -> dict[str, Any]:
    """Make tests, grade programs with them and with the hidden tests, and count."""
    started = time.monotonic()
    counts: defaultdict[str, int] = defaultdict(int)
    with (
        Graders(workers, halved(SandboxSettings()), Isolation.NAMESPACES) as making,
        Graders(workers, SandboxSettings(), Isolation.NAMESPACES) as g,
    ):

        def one(group: Group) -> dict[str, int]:
            return _judge(group, making, g, num_tests, max_tests, hides=hides)

        for _, found in making.map(one, groups):
            for key, count in found.items():
                counts[key] += count
    measured: dict[str, Any] = {"case": name, **counts, "seconds": round(time.monotonic() - started, 1)}
    if counts["num_wrong"]:
        measured["caught"] = round(counts["num_caught"] / counts["num_wrong"], 3)
    if counts["num_right"]:
        measured["right_rejected"] = round(counts["num_right_rejected"] / counts["num_right"], 3)
    return measured


def _judge(
    group: Group, making: Graders, graders: Graders, num_tests: int, max_tests: int | None, *, hides: bool
) -> dict[str, int]:
    official = group.problem
    if hides and len(official.tests) < 2:
        return {"num_problems_with_one_test": 1}
    kept = replace(official, tests=official.tests[:1] if hides else official.tests, references=group.agreeing)
    min_references = 2 if group.others or len(group.agreeing) > 1 else 1
    rules = Rules(num_tests=num_tests, min_references=min_references, max_references=NUM_AGREEING)
    others = [Reference(f"other {number}", program) for number, program in enumerate(group.others)]
    augmented = augment(kept, (), making, rules, others)
    if max_tests is not None:
        augmented = ranked(kept, augmented, making, Selection(max_tests), None)
    if not augmented.new:
        return {"num_problems_without_new_tests": 1}
    made = replace(kept, tests=tuple(new.test for new in augmented.new))
    counts = {"num_problems": 1, "num_new_tests": len(augmented.new), "num_programs": len(group.programs)}
    counts |= dict.fromkeys(("num_passing_kept", "num_wrong", "num_caught", "num_right", "num_right_rejected"), 0)
    for program in group.programs:
        if not graders.grade(kept, program, "").passed:
            continue
        right = hides and graders.grade(official, program, "").passed
        passed = graders.grade(made, program, "").passed
        counts["num_passing_kept"] += 1
        counts["num_right" if right else "num_wrong"] += 1
        counts["num_right_rejected" if right else "num_caught"] += not passed
    return counts


DATA = Path(os.environ.get("BENCHMARK_DATA", ""))
CASES = {
    "gpt-3.5-mbpp": lambda: sampled("gpt-3.5-mbpp"),
    "codegen-humaneval": lambda: sampled("codegen-humaneval"),
    "agreeing-humaneval": lambda: sampled("codegen-humaneval", agreeing=True),
    "codet5-apps": lambda: sampled("codet5-apps"),
    "mutants-apps": lambda: mutated("apps:{}/apps/train"),
    "mutants-mbpp": lambda: mutated("mbpp:{}/mbpp/mbpp.jsonl?split=test"),
    "hard-coded-mbpp": hard_coded,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure the chosen cases."""
    parser = argparse.ArgumentParser(description="Whether augmented tests catch wrong programs and accept right ones.")
    parser.add_argument("--case", nargs="+", choices=list(CASES), default=list(CASES))
    parser.add_argument("--limit", type=int, help="most problems per case")
    parser.add_argument("--num-tests", type=int, default=20, help="most new tests per problem")
    parser.add_argument("--max-tests", type=int, help="most new tests per problem to use, the best by mutants")
    parser.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)))
    options = parser.parse_args(arguments)
    if not (DATA / "mbpp").is_dir():
        print(json.dumps({"skipped": "BENCHMARK_DATA is not a folder with benchmark data (mbpp/, apps/, ...)"}))
        return 0
    for name in options.case:
        groups = islice(CASES[name](), options.limit)
        hides = not name.startswith("hard")
        found = measure(name, groups, options.workers, options.num_tests, options.max_tests, hides=hides)
        print(json.dumps(found), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
