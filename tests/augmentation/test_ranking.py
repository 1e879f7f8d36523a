"""Tests are ranked by what only they catch; none that alone catches a program is pruned."""

from __future__ import annotations

import math
import random
from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rltf.augmentation.mutants import mutants
from rltf.augmentation.ranking import rank

PROGRAMS = st.frozensets(st.integers(0, 7))
CAUGHT = st.lists(PROGRAMS, max_size=8)


def union(sets: list[frozenset[int]]) -> frozenset[int]:
    return frozenset[int]().union(*sets)


def test_the_best_test_comes_first_and_then_what_it_misses() -> None:
    caught = [frozenset({1}), frozenset({1, 2, 3}), frozenset({2, 3}), frozenset({3, 4}), frozenset()]
    assert rank(caught) == [
        (1, frozenset({1, 2, 3})),
        (3, frozenset({4})),
        (2, frozenset()),
        (0, frozenset()),
        (4, frozenset()),
    ]


def test_what_existing_tests_miss_comes_before_what_they_catch() -> None:
    caught = [frozenset({1, 2, 3}), frozenset({3, 4})]
    assert [number for number, _ in rank(caught)] == [0, 1]
    assert [number for number, _ in rank(caught, missed=frozenset({4}))] == [1, 0]


@given(CAUGHT, PROGRAMS)
def test_gains_are_what_no_test_before_catches(caught: list[frozenset[int]], missed: frozenset[int]) -> None:
    order = rank(caught, missed)
    assert sorted(number for number, _ in order) == list(range(len(caught)))
    for place, (number, gain) in enumerate(order):
        assert gain == caught[number] - union([caught[before] for before, _ in order[:place]])
    keys = [(len(gain & missed), len(gain)) for _, gain in order]
    assert keys == sorted(keys, reverse=True)


@given(CAUGHT, PROGRAMS)
def test_pruning_loses_no_program(caught: list[frozenset[int]], missed: frozenset[int]) -> None:
    kept = [number for number, gain in rank(caught, missed) if gain]
    assert union([caught[number] for number in kept]) == union(caught)
    for number, programs in enumerate(caught):
        if programs - union(caught[:number] + caught[number + 1 :]):
            assert number in kept


@given(CAUGHT, st.integers(1, 8))
def test_the_first_tests_catch_nearly_as_much_as_any_others(caught: list[frozenset[int]], num_tests: int) -> None:
    """Greedy set cover reaches 1 - 1/e of the best, and a further test never catches less."""
    order = rank(caught)
    fewer, more = (union([caught[number] for number, _ in order[:count]]) for count in (num_tests, num_tests + 1))
    assert fewer <= more
    best = max(len(union(list(chosen))) for chosen in combinations(caught, min(num_tests, len(caught))))
    assert len(fewer) >= (1 - 1 / math.e) * best


@given(CAUGHT, PROGRAMS, st.randoms(use_true_random=False))
def test_the_order_of_the_input_decides_only_ties(
    caught: list[frozenset[int]], missed: frozenset[int], rng: random.Random
) -> None:
    # There are no ties, since each test also catches a different number of programs that no other catches.
    apart = [
        programs | {100 * number + extra for extra in range(10 * number)} for number, programs in enumerate(caught, 1)
    ]
    shuffled = rng.sample(apart, len(apart))
    expected = [apart[number] for number, _ in rank(apart, missed)]
    assert [shuffled[number] for number, _ in rank(shuffled, missed)] == expected


@pytest.mark.parametrize("program", ["def f(x:", "x = '\0'", ""])
def test_what_is_not_python_has_no_mutants(program: str) -> None:
    assert list(mutants(program, random.Random(0), 5)) == []


def test_mutants_differ_in_one_place() -> None:
    found = set(mutants("def f(x):\n    return x + 1 if x < 2 else max(x, 3)\n", random.Random(0), 20))
    assert "def f(x):\n    return x - 1 if x < 2 else max(x, 3)" in found
    assert "def f(x):\n    return x + 1 if x <= 2 else max(x, 3)" in found
    assert len(found) == 6
