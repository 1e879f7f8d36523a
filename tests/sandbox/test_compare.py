"""The strict rules accept another layout and float noise, and nothing else; the APPS rules accept what APPS accepts."""

from __future__ import annotations

import math
import sys
from collections import deque
from decimal import Decimal
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rltf.problems.types import AssertTest, CallTest, StdinTest
from rltf.sandbox.codec import Opaque
from rltf.sandbox.compare import (
    Comparison,
    apps_call_matches,
    apps_stdin_matches,
    call_matches,
    stdin_matches,
    values_match,
)
from rltf.sandbox.jobs import End, RunResult
from rltf.sandbox.judge import outcome_of, plan

tokens = st.text(alphabet="abXY019.-+e", min_size=1, max_size=6)
documents = st.lists(st.lists(tokens, min_size=1, max_size=5), min_size=1, max_size=5)


@pytest.mark.parametrize(
    ("actual", "expected"),
    [
        ("25", "25\n"),
        ("25\r\n", "25"),
        ("1 2  3 \n\n", "1 2 3"),
        ("1\n\n2\n", "1\n2"),
        ("  YES", "YES"),
        ("0.3333333333", "0.333333333333"),
        ("1", "1.0"),
        ("1e3", "1000.0"),
        ("-0.0", "0.0"),
        ("1000000.4", "1000000.5"),
        ("0.00001", "1e-05"),
        ("1E+20", "1e20"),
        ("150000000000000000000", "1.5e+20"),
        ("2500", "2.5E3"),
        ("00e7", "00e7"),
        ("", "\n"),
    ],
)
def test_strict_ignores_layout_and_float_noise(actual: str, expected: str) -> None:
    assert stdin_matches(actual, expected)


@pytest.mark.parametrize(
    ("actual", "expected"),
    [
        ("3 2 1", "1 2 3"),
        ("NO YES", "YES NO YES"),
        ("YES\nNO", "YES\nYES\nNO"),
        ("5", "5 5 5"),
        ("1\n2", "1 2"),
        ("1 2", "1\n2"),
        ("1 2\n3", "1\n2 3"),
        ("1000000001", "1000000000"),
        ("-1000001", "-1000000"),
        ("1.0", "1"),
        ("05", "5"),
        ("0.0004", "0"),
        ("0.5", "0.50001"),
        ("yes", "YES"),
        ("25\0", "25"),
        ("1\n2\n3", "1\n2"),
        ("1\n2", "1\n2\n3"),
        ("1_0.0", "10.0"),
        ("nan", "nan."),
        ("inf", "1e999"),
        ("1e998", "1e999"),
        ("\u0661.0", "1.0"),
        ("1\u00a02", "1 2"),
        ("1\x1c2", "1 2"),
        ("9" * 100_000 + ".0", "9" * 100_000 + ".5"),
        ("00e9", "00e7"),
        ("5000", "5e3"),
        ("1600000", "16e5"),
        ("0", "0e1"),
    ],
)
def test_strict_refuses(actual: str, expected: str) -> None:
    assert not stdin_matches(actual, expected)


@given(documents, st.sampled_from(["\n", "\r\n", " \n", "\n\n"]), st.sampled_from([" ", "  ", "\t"]))
def test_layout_never_matters(document: list[list[str]], line_end: str, blank: str) -> None:
    written = line_end.join(blank.join(line) for line in document) + line_end
    assert stdin_matches(written, "\n".join(" ".join(line) for line in document))


@given(documents, st.data())
def test_missing_and_extra_tokens_always_matter(document: list[list[str]], data: st.DataObject) -> None:
    expected = "\n".join(" ".join(line) for line in document)
    row = data.draw(st.integers(0, len(document) - 1))
    longer = [[*line, "9"] if i == row else line for i, line in enumerate(document)]
    written = "\n".join(" ".join(line) for line in longer)
    assert not stdin_matches(written, expected)
    assert not stdin_matches(expected, written)


@given(st.integers(), st.integers())
def test_integers_have_no_tolerance(actual: int, expected: int) -> None:
    assert stdin_matches(str(actual), str(expected)) == (actual == expected)
    assert values_match(actual, expected) == (actual == expected)


@given(st.floats(allow_nan=False, allow_infinity=False), st.floats(-1, 1))
def test_floats_have_a_tolerance(expected: float, noise: float) -> None:
    scale = max(1.0, abs(expected))
    assert values_match(expected + noise * 0.99e-6 * scale, expected) or abs(expected) > 1e300
    assert not values_match(expected + math.copysign(2e-6 * scale, noise), expected)


@given(documents, documents)
def test_apps_is_never_stricter_than_strict_on_words(one: list[list[str]], other: list[list[str]]) -> None:
    written, expected = ("\n".join(" ".join(line) for line in document) for document in (one, other))
    assert apps_stdin_matches(expected, expected)
    if one == other:
        assert stdin_matches(written, expected)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=2), inner, max_size=3),
    max_leaves=8,
)


def _with_tuples(value: object) -> object:
    return tuple(_with_tuples(item) for item in value) if isinstance(value, list) else value


@given(json_values)
def test_tuples_are_lists_at_every_depth(value: object) -> None:
    assert values_match(_with_tuples(value), value)


@given(json_values, json_values)
def test_values_are_compared_by_equality(one: object, other: object) -> None:
    assert values_match(one, other) == (one == other)


@pytest.mark.parametrize(
    ("actual", "expected"),
    [
        ("1", 1),
        ([1, 2], [1, 2, 3]),
        ({1: 2}, {"1": 2}),
        ([1, 2], [2, 1]),
        (None, 0),
        (1.0, float("nan")),
        (float("nan"), 1.0),
    ],
)
def test_values_that_differ(actual: object, expected: object) -> None:
    assert not values_match(actual, expected)


def test_only_nan_matches_an_expected_nan() -> None:
    nan = float("nan")
    assert values_match(nan, nan)
    assert values_match((1.0, [nan]), [1.0, [nan]])
    for other in (0, 1.5, math.inf, 10**400, None, "nan", Decimal("sNaN")):
        assert not values_match(other, nan)


NUMBERS = st.one_of(
    st.integers(),
    st.integers(min_value=10**400, max_value=10**401),
    st.floats(),
    st.decimals(),
    st.sampled_from([Decimal("sNaN"), Decimal("NaN"), Decimal("1e999999"), Fraction(10**400, 3), complex("nan")]),
)
ANY_VALUES = st.recursive(
    NUMBERS | st.none() | st.text(max_size=3) | st.just(set()) | st.just(Opaque("x")),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.lists(inner, max_size=3).map(tuple),
        st.dictionaries(st.text(max_size=2) | st.integers(0, 3), inner, max_size=3),
        st.lists(inner, max_size=2).map(deque),
    ),
    max_leaves=8,
)


def nested(value: object, depth: int) -> object:
    for _ in range(depth):
        value = [value]
    return value


@given(ANY_VALUES, ANY_VALUES, st.sampled_from([0, 0, 390]), st.sampled_from(["==", "!=", "<", "in", ">="]))
def test_no_pair_of_values_raises(one: Any, other: Any, depth: int, operator: str) -> None:
    one, other = nested(one, depth), nested(other, depth)
    for comparison in Comparison:
        made = plan(CallTest("f", (), [other], unwrap=True))
        outcome_of(made, RunResult(End.OK, value=one), comparison=comparison)
        related = plan(AssertTest(f"assert f() {operator} Counter()"))
        outcome_of(related, RunResult(End.OK, value=one), RunResult(End.OK, value=other), comparison)
    close = plan(AssertTest("assert abs(f() - 0.5) < 1e-6"))
    outcome_of(close, RunResult(End.OK, value=one))


@given(st.text(), st.text())
def test_no_pair_of_outputs_raises(one: str, other: str) -> None:
    for comparison in Comparison:
        outcome_of(plan(StdinTest("", other)), RunResult(End.OK, stdout=one.encode()), comparison=comparison)


def test_integer_too_large_for_a_float_does_not_match() -> None:
    assert not values_match(10**400, 1.5)
    assert values_match(10**5000, 10**5000)


def test_only_unwrap_accepts_the_bare_element() -> None:
    assert call_matches([1, 2], [[1, 2]], unwrap=True)
    assert call_matches([[1, 2]], [[1, 2]], unwrap=True)
    assert not call_matches([1, 2], [[1, 2]], unwrap=False)
    assert not call_matches(1, [1, 2, 3], unwrap=False)


@pytest.mark.parametrize(
    ("actual", "expected"),
    [
        ("3 2 1", "1 2 3"),
        ("NO YES", "YES NO YES"),
        ("1000000001", "1000000000"),
        ("5", "5 5 5"),
        ("0.0004", "0"),
        ("3\n1\n2", "1\n2\n3"),
    ],
)
def test_apps_accepts_wrong_answers(actual: str, expected: str) -> None:
    assert apps_stdin_matches(actual, expected)


def test_apps_still_refuses_other_tokens() -> None:
    assert not apps_stdin_matches("4 2 1", "1 2 3")
    assert not apps_stdin_matches("", "1")


def test_apps_accepts_the_first_element() -> None:
    assert apps_call_matches(1, [1, 2, 3])
    assert apps_call_matches([(1, 2)], [[[1, 2]]])
    assert apps_call_matches((1, 2), [1, 2])
    assert apps_call_matches(None, [None])
    assert not apps_call_matches(2, [1, 2, 3])


def test_comparing_large_outputs_leaves_the_integer_limit_alone() -> None:
    limit = sys.get_int_max_str_digits()
    assert stdin_matches("7" * 10_000, "7" * 10_000)
    assert not stdin_matches("7" * 10_000, "7" * 9_999 + "8")
    assert sys.get_int_max_str_digits() == limit
