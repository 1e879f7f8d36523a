"""Variations keep to what a problem's inputs have in common; answers become tests only if a test can hold them."""

from __future__ import annotations

import math
import random
from collections import Counter
from itertools import islice
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rltf.augmentation.inputs import AssertInput, CallInput, StdinInput, input_of, vary_inputs
from rltf.augmentation.stdin import learn_inputs
from rltf.augmentation.values import learn, learn_arguments
from rltf.problems.types import AssertTest, CallTest, Problem, StdinTest, Test
from rltf.sandbox.jobs import End, RunResult

SCALARS = st.one_of(st.integers(-50, 50), st.booleans(), st.text("abc", max_size=4), st.floats(-5, 5), st.none())
VALUES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(st.text("xyz", max_size=2), inner, max_size=3)
        | st.sets(st.integers(0, 9), max_size=4)
    ),
    max_leaves=8,
)


@given(st.lists(VALUES, min_size=1, max_size=4), st.integers())
def test_variations_of_any_values_keep_their_types(values: list[Any], seed: int) -> None:
    vary, rng = learn(values), random.Random(seed)
    for value in values:
        assert type(vary(value, rng)) in {type(one) for one in values}


def variations(calls: list[tuple[Any, ...]], count: int = 200) -> list[Any]:
    vary, rng = learn_arguments(calls), random.Random(0)
    return [vary(call, rng) for call in calls for _ in range(count)]


def test_numbers_and_texts_stay_within_what_was_seen() -> None:
    found = variations([(3, "ab", 1.5), (9, "ba!", 2.25)])
    assert {number for number, _, _ in found} == set(range(3, 10))
    assert {len(text) for _, text, _ in found} >= {2, 3}
    assert set("".join(text for _, text, _ in found)) == set("ab!")
    assert all(1.5 <= number <= 2.25 and round(number, 2) == number for _, _, number in found)
    assert {number for (number,) in variations([(7,)])} == set(range(1, 11))
    assert {number for (number,) in variations([(-2,)])} == set(range(-2, 3))


def test_sorted_distinct_and_counting_arguments_stay_that_way() -> None:
    found = variations([([1, 4, 9], 3), ([2, 5, 6, 8], 4), ([3, 7, 8], 3)])
    assert all(items == sorted(set(items)) and number == len(items) for items, number in found)
    assert len({len(items) for items, _ in found}) > 1
    assert all(number <= len(items) for items, number in variations([([5, 1, 1], 2), ([2, 2], 1), ([7, 3, 9], 3)]))


def test_tables_stay_rectangular() -> None:
    found = variations([([[1, 2], [3, 4]],), ([[1, 2, 3], [4, 5, 6]],)])
    assert all(len({len(row) for row in table}) == 1 for (table,) in found)
    assert len({len(table) for (table,) in found}) > 1


def stdin_variations(*texts: str, count: int = 300) -> list[list[list[str]]]:
    vary, rng = learn_inputs(texts), random.Random(0)
    found = {vary(text, rng) for text in texts for _ in range(count)} - set(texts)
    assert found
    return [[line.split() for line in text.split("\n")[:-1]] for text in found]


def test_counts_before_lines_stay_right() -> None:
    found = stdin_variations("3\n1 5 7\n", "4\n2 2 9 9\n")
    assert all(len(lines) == 2 and int(lines[0][0]) == len(lines[1]) for lines in found)
    assert len({len(lines[1]) for lines in found}) > 2
    assert {int(token) for lines in found for token in lines[1]} <= set(range(1, 10))


def test_blocks_stay_whole_and_counted() -> None:
    found = stdin_variations("2\n3 1\n5 5 5\n2 4\n7 8\n", "1\n2 2\n1 1\n")
    for lines in found:
        assert len(lines) == 1 + 2 * int(lines[0][0])
        assert all(int(lines[at][0]) == len(lines[at + 1]) for at in range(1, len(lines), 2))
    assert len({len(lines) for lines in found}) > 2


def test_lines_that_share_a_count_stay_equally_long() -> None:
    found = stdin_variations("3\n1 2 3\n4 5 6\n", "2\n1 9\n8 8\n")
    assert all(len(lines[1]) == len(lines[2]) == int(lines[0][0]) for lines in found)
    assert len({len(lines[1]) for lines in found}) > 2


def test_counted_characters_and_permutations() -> None:
    words = stdin_variations("3\nabc\n", "5\nababa\n")
    assert all(int(lines[0][0]) == len(lines[1][0]) for lines in words)
    assert set("".join(lines[1][0] for lines in words)) <= set("abc")
    orders = stdin_variations("4\n2 4 1 3\n", "3\n3 1 2\n")
    assert all(sorted(map(int, lines[1])) == list(range(1, len(lines[1]) + 1)) for lines in orders)


@given(st.text("ab 12\n.-", max_size=40), st.text("ab 12\n.-", max_size=40), st.integers())
def test_any_text_can_be_varied(first: str, second: str, seed: int) -> None:
    vary = learn_inputs([first, second])
    assert isinstance(vary(first, random.Random(seed)), str)


def test_the_same_seed_gives_the_same_inputs() -> None:
    problem = Problem("1", "mbpp", "?", (AssertTest("assert f([1, 2]) == 3"),), entry_point="f")
    first, second = ([one.input.key for one in islice(vary_inputs(problem, random.Random(7)), 30)] for _ in range(2))
    assert first == second
    assert len(set(first)) > 10


@pytest.mark.parametrize(
    ("test", "key"),
    [
        (StdinTest("1  2\n", "3"), "1 2"),
        (CallTest("f", (1, [2]), 3), "(1, [2])"),
        (AssertTest("assert f((1, 2)) == set((2,))"), "f((1, 2))"),
        (AssertTest("assert set(f((1, 2))) == set((2,))"), None),
        (AssertTest("assert f(1) + f(2) == 3"), None),
        (AssertTest("assert f(g) == 3"), None),
        (AssertTest("assert f(x=1) == 3"), None),
    ],
)
def test_inputs_of_tests(test: Test, key: str | None) -> None:
    found = input_of(test, "f")
    assert (found.key if found else None) == key


def answered(test: Test, value: Any) -> Test | None:
    found = input_of(test, "f")
    assert found is not None
    return found.test(RunResult(End.OK, value=value, stdout=value if isinstance(value, bytes) else b""))


def test_answers_become_tests() -> None:
    equal = AssertTest("assert f(1) == 2", "import math")
    assert answered(equal, {3, 4}) == AssertTest("assert f(1) == {3, 4}", "import math")
    assert answered(equal, [Counter("aab")]) == AssertTest("assert f(1) == [{'a': 2, 'b': 1}]", "import math")
    deep: Any = []
    for _ in range(399):
        deep = [deep]
    assert answered(equal, deep) is None
    assert answered(CallTest("f", (1,), 2), deep) is None
    assert answered(equal, 2.5) == AssertTest(
        "assert math.isclose(f(1), 2.5, rel_tol=1e-06, abs_tol=1e-06)", "import math"
    )
    assert answered(AssertTest("assert not f(1)"), value=False) == AssertTest("assert not f(1)")
    assert answered(AssertTest("assert f(1) is True"), value=False) == AssertTest("assert f(1) is False")
    close = answered(AssertTest("assert math.isclose(f(1), 2.5, rel_tol=0.01)"), 7.5)
    assert close == AssertTest("assert math.isclose(f(1), 7.5, rel_tol=0.01, abs_tol=0.0)")
    assert answered(CallTest("f", (1,), [2], unwrap=True), (3, 4)) == CallTest("f", (1,), [[3, 4]], unwrap=True)
    assert answered(StdinTest("1", "2"), b"3\n") == StdinTest("1", "3\n")


@pytest.mark.parametrize(
    ("test", "value"),
    [
        (AssertTest("assert f(1) == 2"), None),
        (AssertTest("assert f(1) == 2"), [0.1]),
        (AssertTest("assert f(1) == 2"), math.nan),
        (AssertTest("assert f(1) == 2"), range(3)),
        pytest.param(AssertTest("assert f(1) == 2"), 10**5000, id="many digits"),
        (AssertTest("assert f(1) in [2, 3]"), 2),
        (CallTest("f", (1,), 2), {1: 2}),
        (CallTest("f", (1,), 2), {3}),
        (StdinTest("1", "2"), b"\n"),
        (StdinTest("1", "2"), b"\xff"),
    ],
)
def test_some_answers_fit_no_test(test: Test, value: Any) -> None:
    assert answered(test, value) is None


def test_each_test_type_has_its_input_type() -> None:
    kinds = {type(input_of(test, "f")) for test in (StdinTest("", ""), CallTest("f", (), 1), AssertTest("assert f()"))}
    assert kinds == {StdinInput, CallInput, AssertInput}
