"""Compares what a program produced with what was expected. Pure functions that run only on the trusted side.

`stdin_matches` and `call_matches` are the strict rules: right answers pass with different whitespace or within float
precision, and everything else fails. `apps_stdin_matches` and `apps_call_matches` follow the cascade of the APPS
harness (Hendrycks et al. 2021), which accepts wrong answers: it ignores the order and duplicates of tokens, and small
differences between large integers. Use those to report beside published numbers, never to train.
"""

from __future__ import annotations

import math
import re
from collections import deque
from collections.abc import Iterator
from enum import StrEnum
from itertools import zip_longest
from typing import Any

FLOAT_TOLERANCE = 1e-6
_BLANKS = " \t\r\f\v"
_LINE_END = "\n"
_SPACE = _BLANKS + _LINE_END
_TOKEN = re.compile(f"[^{_SPACE}]+|{_LINE_END}[{_SPACE}]*")
_FLOAT = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")
# With a point, or the way powers of ten are printed (1e-05, 1E+20, 1e20): `00e7` and `5e3` may well be hexadecimal.
_EXPECTED_FLOAT = re.compile(
    r"[+-]?(?:[0-9]+\.[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?|[+-]?[1-9][eE](?:[+-][0-9]+|[0-9]{2,})"
)
# Anything longer is text: no honest float needs that many digits, and converting it costs time on the trusted side.
_MAX_FLOAT_CHARACTERS = 400
# Types that already hold all their items in memory; a range of a few bytes can have any number of items.
_HELD = (list, tuple, dict, set, frozenset, str, bytes, bytearray, deque)


class Comparison(StrEnum):
    """The rules by which answers are compared."""

    STRICT = "strict"
    APPS = "apps"


def stdin_matches(actual: str, expected: str) -> bool:
    """Whether a program's standard output is the expected one, by the strict rules.

    Equal after normalizing line ends, blanks at line ends and empty lines at the end; or the same number of non-empty
    lines, each with the same tokens in the same order. A number may differ from an expected float by `FLOAT_TOLERANCE`,
    absolute below 1 and relative above. An expected token is a float if it has a point (`0.5`, `2.5E3`) or is a printed
    power of ten (`1e-05`, `1e20`). Everything else is text, including `00e7` and `5e3`. Outputs are never compared as
    sets or prefixes, and integers get no tolerance.
    """
    if actual.strip(_SPACE) == expected.strip(_SPACE):
        return True
    # Token by token up to the first difference: a program can write megabytes in no time, and must not make the trusted
    # side split all of them.
    pairs = zip_longest(_tokens(actual), _tokens(expected))
    return all(a == e or (a is not None and e is not None and _token_matches(a, e)) for a, e in pairs)


def values_match(actual: Any, expected: Any) -> bool:
    """Whether a call's value is the expected one, for expected values that came through JSON.

    At every depth, a tuple equals a list of the same items, because JSON has no tuples. A number may differ from an
    expected float by `FLOAT_TOLERANCE`, absolute below 1 and relative above. NaN matches an expected NaN. Everything
    else is Python's `==`, so `True` equals 1. Both sides must be plain values from the codec, so no program's `__eq__`
    runs here. Values that cannot be compared differ.
    """
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
        elif not _scalars_match(one, other):
            return False
    return True


def equal(actual: Any, expected: Any) -> bool:
    """Python's `==` between plain values; False if it raises (a signaling NaN of `decimal`, a very deep value)."""
    try:
        return bool(actual == expected)
    except (TypeError, ValueError, ArithmeticError, RecursionError):
        return False


def _scalars_match(actual: Any, expected: Any) -> bool:
    if isinstance(expected, float) and isinstance(actual, int | float):
        return _close(actual, expected)
    return equal(actual, expected)


def call_matches(actual: Any, expected: Any, *, unwrap: bool) -> bool:
    """`values_match`. With `unwrap`, the single element of `expected` is right as well (see `CallTest`)."""
    return values_match(actual, expected) or (unwrap and values_match(actual, expected[0]))


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


def _token_matches(actual: str, expected: str) -> bool:
    if actual == expected:
        return True
    if max(len(actual), len(expected)) > _MAX_FLOAT_CHARACTERS:
        return False
    if not (_EXPECTED_FLOAT.fullmatch(expected) and _FLOAT.fullmatch(actual)):
        return False
    return math.isfinite(float(expected)) and _close(float(actual), float(expected))


def _close(actual: float, expected: float) -> bool:
    try:
        difference = abs(actual - expected)
    except OverflowError:  # an integer too large for a float
        return False
    if math.isnan(expected):
        return actual != actual
    return difference <= FLOAT_TOLERANCE * max(1.0, abs(expected)) if math.isfinite(expected) else actual == expected


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
