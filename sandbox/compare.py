"""Compares what a program produced with what was expected. Pure functions that run only on the trusted side.

`stdin_matches` and `call_matches` are the strict rules: right answers pass with different whitespace or within float
precision, and everything else fails. A problem's own `AnswerRule` says what else is right. `apps_stdin_matches` and
`apps_call_matches` follow the cascade of the APPS harness (Hendrycks et al. 2021), which accepts wrong answers: it
ignores the order and duplicates of tokens, and small differences between large integers. Use those to report beside
published numbers, never to train.
"""

from __future__ import annotations

import math
import re
from collections import Counter, deque
from collections.abc import Iterable, Iterator
from dataclasses import replace
from enum import StrEnum
from itertools import islice, zip_longest
from typing import Any

from rltf.problems.types import AnswerRule, Order

FLOAT_TOLERANCE = 1e-6
_BLANKS = " \t\r\f\v"
_LINE_END = "\n"
_SPACE = _BLANKS + _LINE_END
_TOKEN = re.compile(f"[^{_SPACE}]+|{_LINE_END}[{_SPACE}]*")
_LINE = re.compile(f"[^{_LINE_END}]+")
_WORD = re.compile(f"[^{_SPACE}]+")
_FLOAT = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")
# With a point, or the way powers of ten are printed (1e-05, 1E+20, 1e20): `00e7` and `5e3` may well be hexadecimal.
_EXPECTED_FLOAT = re.compile(
    r"[+-]?(?:[0-9]+\.[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?|[+-]?[1-9][eE](?:[+-][0-9]+|[0-9]{2,})"
)
# Anything longer is text: no honest float needs that many digits, and converting it costs time on the trusted side.
_MAX_FLOAT_CHARACTERS = 400
# Pairing items takes time that grows with the square of their number.
MAX_UNORDERED_ITEMS = 1000
_STRICT = AnswerRule()
# Types that already hold all their items in memory; a range of a few bytes can have any number of items.
_HELD = (list, tuple, dict, set, frozenset, str, bytes, bytearray, deque)


class Comparison(StrEnum):
    """The rules by which answers are compared."""

    STRICT = "strict"
    APPS = "apps"


def stdin_matches(actual: str, expected: str, rule: AnswerRule = _STRICT) -> bool:
    """Whether a program's standard output is the expected one, by the strict rules and the problem's own `rule`.

    Equal after normalizing line ends, blanks at line ends and empty lines at the end; or the same number of non-empty
    lines, each with the same tokens in the same order. A number may differ from an expected float by `FLOAT_TOLERANCE`,
    absolute below 1 and relative above. An expected token is a float if it has a point (`0.5`, `2.5E3`) or is a printed
    power of ten (`1e-05`, `1e20`). Everything else is text, including `00e7` and `5e3`. Outputs are never compared as
    sets or prefixes, and integers get no tolerance unless the problem sets one.
    """
    if rule.ignore_case:
        actual, expected = actual.casefold(), expected.casefold()
    if actual.strip(_SPACE) == expected.strip(_SPACE):
        return True
    if rule.any_order is not None:
        return _match_in_any_order(actual, expected, rule, rule.any_order)
    # Token by token up to the first difference: a program can write megabytes in no time, and must not make the trusted
    # side split all of them.
    return _tokens_match(_tokens(actual), _tokens(expected), rule)


def _tokens_match(actual: Iterable[str], expected: Iterable[str], rule: AnswerRule) -> bool:
    pairs = zip_longest(actual, expected)
    return all(a == e or (a is not None and e is not None and _token_matches(a, e, rule)) for a, e in pairs)


def _units(text: str, order: Order) -> Iterator[tuple[str, ...]]:
    """What may come in any order, each as its tokens."""
    if order is Order.TOKENS:
        return ((match[0],) for match in _WORD.finditer(text))
    lines = (tuple(_WORD.findall(match[0])) for match in _LINE.finditer(text))
    return filter(None, lines)


def _match_in_any_order(actual: str, expected: str, rule: AnswerRule, order: Order) -> bool:
    """Whether each unit has a partner. Those without an equal one are sorted, by value, and compared in pairs."""
    wanted = Counter(_units(expected, order))
    # One more than wanted is enough to see that there are too many.
    found = Counter(islice(_units(actual, order), wanted.total() + 1))
    if found.total() != wanted.total():
        return False
    rest, wanted_rest = (sorted(one.elements(), key=_sort_key) for one in (found - wanted, wanted - found))
    return all(_tokens_match(a, e, rule) for a, e in zip(rest, wanted_rest, strict=True))


def _sort_key(tokens: tuple[str, ...]) -> list[tuple[bool, float, str]]:
    return [(False, float(t), "") if _is_number(t) else (True, 0.0, t) for t in tokens]


def _is_number(token: str) -> bool:
    return len(token) <= _MAX_FLOAT_CHARACTERS and _FLOAT.fullmatch(token) is not None


def values_match(actual: Any, expected: Any, rule: AnswerRule = _STRICT) -> bool:
    """Whether a call's value is the expected one, by the strict rules and the problem's own `rule`.

    At every depth, a tuple equals a list of the same items, because JSON has no tuples. A number may differ from an
    expected float by `FLOAT_TOLERANCE`, absolute below 1 and relative above. NaN matches an expected NaN. Everything
    else is Python's `==`, so `True` equals 1. Both sides must be plain values from the codec, so no program's `__eq__`
    runs here. Values that cannot be compared differ. In any order means the items of the outermost list.
    """
    if rule.any_order is Order.ITEMS and isinstance(expected, list | tuple):
        return isinstance(actual, list | tuple) and _items_match(list(actual), list(expected), rule)
    pairs = [(actual, expected)]
    while pairs:
        one, other = pairs.pop()
        if isinstance(other, list | tuple):
            if not isinstance(one, list | tuple) or len(one) != len(other):
                return False
            pairs += zip(one, other, strict=True)
        elif isinstance(other, dict):
            if not isinstance(one, dict) or not equal(one.keys(), other.keys()):
                return False
            pairs += [(one[key], value) for key, value in other.items()]
        elif not _scalars_match(one, other, rule):
            return False
    return True


def equal(actual: Any, expected: Any) -> bool:
    """Python's `==` between plain values; False if it raises (a signaling NaN of `decimal`, a very deep value)."""
    try:
        return bool(actual == expected)
    except (TypeError, ValueError, ArithmeticError, RecursionError):
        return False


def _items_match(actual: list[Any], expected: list[Any], rule: AnswerRule) -> bool:
    """Whether each expected item has a partner of its own among the actual ones."""
    if len(actual) != len(expected):
        return False
    in_order = replace(rule, any_order=None)
    for other in expected:
        found = next((i for i, one in enumerate(actual) if values_match(one, other, in_order)), None)
        if found is None:
            return False
        actual.pop(found)
    return True


def _scalars_match(actual: Any, expected: Any, rule: AnswerRule) -> bool:
    if isinstance(expected, str) and isinstance(actual, str) and rule.ignore_case:
        return actual.casefold() == expected.casefold()
    if isinstance(expected, float) and isinstance(actual, int | float):
        return _close(actual, expected, rule)
    return equal(actual, expected)


def call_matches(actual: Any, expected: Any, *, unwrap: bool, rule: AnswerRule = _STRICT) -> bool:
    """`values_match`. With `unwrap`, the single element of `expected` is right as well (see `CallTest`)."""
    return values_match(actual, expected, rule) or (unwrap and values_match(actual, expected[0], rule))


def apps_stdin_matches(actual: str, expected: str) -> bool:
    """Whether the APPS harness would accept this output. Its steps, in its order; each is looser than the last."""
    lines = actual.splitlines()
    if expected.strip() in ("\n".join(lines).strip(), "\n".join(line.strip() for line in lines).strip()):
        return True
    expected_lines = [line.strip() for line in expected.split("\n") if line]
    filled_lines = [line for line in lines if line]
    if expected_lines in (lines, filled_lines) or _all_close(filled_lines, expected_lines):
        return True
    tokens = {frozenset(line.split()) for line in filled_lines if line.split()}
    expected_tokens = {frozenset(line.split()) for line in expected_lines}
    return tokens == expected_tokens or _rounded_equal(tokens, expected_tokens)


def apps_call_matches(actual: Any, expected: Any) -> bool:
    """Whether the APPS harness would accept this value: `expected` or its first element, with tuples as lists."""
    if isinstance(actual, tuple):
        actual = list(actual)
    first = expected[0] if isinstance(expected, list) and expected else expected
    if equal(actual, expected) or equal(actual, first):
        return True
    nested = isinstance(actual, list) and bool(actual) and isinstance(actual[0], tuple)
    return nested and all(isinstance(item, _HELD) for item in actual) and equal(list(map(list, actual)), first)


def _tokens(text: str) -> Iterator[str]:
    """The words of a text, with a line end between those of two lines. Empty lines and blanks are skipped."""
    # Only ASCII blanks: `str.split` would also split at control characters and non-breaking spaces.
    return (_LINE_END if match[0][0] == _LINE_END else match[0] for match in _TOKEN.finditer(text.strip(_SPACE)))


def _token_matches(actual: str, expected: str, rule: AnswerRule) -> bool:
    if actual == expected:
        return True
    if not (_is_number(actual) and _is_number(expected)):
        return False
    if not _has_tolerance(rule) and not _EXPECTED_FLOAT.fullmatch(expected):
        return False
    return math.isfinite(float(expected)) and _close(float(actual), float(expected), rule)


def _has_tolerance(rule: AnswerRule) -> bool:
    return rule.absolute is not None or rule.relative is not None


def _close(actual: float, expected: float, rule: AnswerRule) -> bool:
    try:
        difference = abs(actual - expected)
        allowed = FLOAT_TOLERANCE * max(1.0, abs(expected))
        if _has_tolerance(rule):
            allowed = (rule.absolute or 0.0) + (rule.relative or 0.0) * abs(expected)
    except OverflowError:  # an integer too large for a float
        return actual == expected
    if math.isnan(expected):
        return actual != actual
    return difference <= allowed if math.isfinite(expected) else actual == expected


def _all_close(actual: list[str], expected: list[str]) -> bool:
    """NumPy's `allclose` with its default tolerances, on lines that hold one number each."""
    try:
        pairs = [(float(a), float(e)) for a, e in zip(actual, expected, strict=True)]
    except ValueError:
        return False
    return all(a == e or (math.isfinite(e) and abs(a - e) <= 1e-8 + 1e-5 * abs(e)) for a, e in pairs)


def _rounded_equal(actual: set[frozenset[str]], expected: set[frozenset[str]]) -> bool:
    try:
        return _rounded(actual) == _rounded(expected)
    except ValueError:
        return False


def _rounded(tokens: set[frozenset[str]]) -> set[frozenset[float]]:
    return {frozenset(round(float(token), 3) for token in line) for line in tokens}
