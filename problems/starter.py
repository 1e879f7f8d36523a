"""The starter benchmark: composed list problems, stated in words, that a small model can learn on a laptop.

A problem consists of a select step, a change step and an answer, stated in words with one worked example. Half of the
problems ask for a function `solve(xs)`, the others for a program that reads one line of integers and prints the answer.
Held-out problems (`test`) combine steps in ways that no training problem does. The splits `pitfalls-train` and
`pitfalls-test` use other steps, whose programs fail on a certain line if they are wrong. Only some training problems
have a reference program, and these never use a step's rare wording, so its meaning can only be learned from unit tests.
Everything is a function of `SEED`.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any, cast

from rltf.errors import UserError
from rltf.problems.python_source import site_imports
from rltf.problems.starter_steps import BASIC, PITFALLS, Step, Vocabulary
from rltf.problems.types import CallTest, Problem, StdinTest, Test

SEED = 2023
TEST_SHARE = 0.15
NUM_HIDDEN_TESTS = 4
REFERENCE_SHARE = 0.5
RARE_SHARE = 0.4
NUM_SHOWN_NUMBERS = 3
NUM_CANDIDATES = 12


@dataclass(frozen=True, slots=True)
class _Spoken:
    """A step with a constant chosen, in words and in code."""

    step: Step
    words: str
    code: str


_Steps = tuple[_Spoken, _Spoken, _Spoken]
_VOCABULARIES = {"": BASIC, "pitfalls-": PITFALLS}
SPLITS = tuple(prefix + half for prefix in _VOCABULARIES for half in ("train", "test"))


def load(split: str) -> tuple[Problem, ...]:
    """The problems of one of the `SPLITS`. Raises UserError for any other name."""
    if split not in SPLITS:
        expected = [f"starter:{name}" for name in SPLITS]
        raise UserError(f"starter:{split}: unknown split, expected {', '.join(expected[:-1])} or {expected[-1]}")
    return _build(split.removesuffix("train").removesuffix("test"))[split]


@cache
def _build(prefix: str) -> dict[str, tuple[Problem, ...]]:
    rng = random.Random(SEED)
    vocabulary = _VOCABULARIES[prefix]
    compositions = list(itertools.product(*vocabulary))
    rng.shuffle(compositions)
    num_test = round(TEST_SHARE * len(compositions))
    halves = {f"{prefix}train": compositions[num_test:], f"{prefix}test": compositions[:num_test]}
    return {
        split: tuple(
            _problem(rng, f"starter/{split}/{i}", steps, vocabulary, train=split.endswith("train"))
            for i, steps in enumerate(half)
        )
        for split, half in halves.items()
    }


def _problem(
    rng: random.Random, task_id: str, steps: tuple[Step, ...], vocabulary: Vocabulary, *, train: bool
) -> Problem:
    with_reference = train and rng.random() < REFERENCE_SHARE
    select, change, answer = (_speak(rng, step, familiar=with_reference) for step in steps)
    spoken = (select, change, answer)
    as_function = rng.random() < 0.5
    lists = _inputs(rng, spoken, vocabulary)
    solve = _solver(spoken)
    tests: tuple[Test, ...]
    if as_function:
        tests = tuple(CallTest("solve", (numbers,), solve(numbers)) for numbers in lists)
    else:
        tests = tuple(StdinTest(" ".join(map(str, numbers)) + "\n", f"{solve(numbers)}\n") for numbers in lists)
    asked, verb = ("Write solve(xs)", "Return") if as_function else ("Read a line of integers", "Print")
    statement = (
        f"{asked}. {select.words}, then {change.words}. {verb} {answer.words}.\n"
        f"Example: {lists[0]} gives {solve(lists[0])}"
    )
    return Problem(
        task_id=task_id,
        benchmark="starter",
        statement=statement,
        tests=tests,
        references=(_program(spoken, as_function=as_function),) if with_reference else (),
        entry_point="solve" if as_function else None,
        num_visible_tests=1,
        examples=tests[:1],
    )


def _speak(rng: random.Random, step: Step, *, familiar: bool) -> _Spoken:
    rare = not familiar and rng.random() < RARE_SHARE
    words = step.wordings[-1] if rare else rng.choice(step.wordings[:-1])
    constant = rng.choice(step.constants) if step.constants else None
    return _Spoken(step, words.format(k=constant), step.code.format(k=constant))


def _program(steps: _Steps, *, as_function: bool) -> str:
    select, change, answer = steps
    imports = dict.fromkeys(line for spoken in steps for line in _imports(spoken.code))
    if as_function:
        body = ["def solve(xs):", f"    {select.code}", f"    {change.code}", f"    return {answer.code}"]
    else:
        body = ["xs = [int(x) for x in input().split()]", select.code, change.code, f"print({answer.code})"]
    return "\n".join([*imports, *body]) + "\n"


@cache
def _imports(code: str) -> list[str]:
    return site_imports(code).splitlines()


def _solver(steps: _Steps) -> Callable[[list[int]], Any]:
    """The steps as a function. Its code comes from the vocabulary only, so it is safe to run here."""
    return _compiled(_program(steps, as_function=True))


@cache
def _compiled(program: str) -> Callable[[list[int]], Any]:
    namespace: dict[str, Any] = {}
    exec(program, namespace)
    return cast(Callable[[list[int]], Any], namespace["solve"])


def _inputs(rng: random.Random, steps: _Steps, vocabulary: Vocabulary) -> list[list[int]]:
    """The test inputs: a short one to show, then hidden ones, the last of them empty.

    Each hidden input is picked to rule out as many as possible of the problems that differ in one step only, so that a
    wrong guess at the meaning of a step does not pass.
    """
    shown = _numbers(rng, NUM_SHOWN_NUMBERS)
    candidates = [_numbers(rng, rng.randint(5, 9)) for _ in range(NUM_CANDIDATES)]
    solve = _solver(steps)
    right = [solve(numbers) for numbers in candidates]
    alike = []
    for position, category in enumerate(vocabulary):
        for other in category:
            if other is not steps[position].step:
                wrong = _solver((*steps[:position], _speak(rng, other, familiar=True), *steps[position + 1 :]))  # type: ignore[arg-type]
                alike.append([wrong(numbers) == answer for numbers, answer in zip(candidates, right, strict=True)])
    picked: list[int] = []
    for _ in range(NUM_HIDDEN_TESTS - 1):
        left = (index for index in range(NUM_CANDIDATES) if index not in picked)
        picked.append(min(left, key=lambda index: sum(passes[index] for passes in alike)))
        alike = [passes for passes in alike if passes[picked[-1]]]
    return [shown, *(candidates[index] for index in picked), []]


def _numbers(rng: random.Random, length: int) -> list[int]:
    return [rng.choice((rng.randint(-9, 9), rng.randint(0, 12), rng.randint(-30, 99))) for _ in range(length)]
