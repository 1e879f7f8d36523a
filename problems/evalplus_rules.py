"""Which answers EvalPlus accepts, as rules and checkers.

EvalPlus compares with `==`, and numbers within `atol + 1e-7 * abs(expected)`, where an `atol` of 0 becomes 1e-6 for
floats. A few problems have a rule of their own.
"""

from __future__ import annotations

from enum import StrEnum

from rltf.problems.types import AnswerRule, Checker, UnusableRowError

_RELATIVE = 1e-7
_ABSOLUTE_OF_FLOATS = 1e-6


class Rule(StrEnum):
    """How answers to a problem are compared."""

    CLOSE = "close"
    EXACT = "exact"
    SET = "set"
    """The answer has the same items, in any order and number."""
    NOT_NONE = "not_none"
    """The expected value is a bool: whether the answer is anything but None. An answer may be that bool itself."""
    ROOT = "root"
    """The answer is a root of the polynomial in the argument (`find_zero`)."""
    OR_ZERO = "or_zero"
    PYRAMID = "pyramid"
    """The height may be that of the faces or that of the pyramid."""
    PADDED = "padded"
    """The shorter number may be padded with zeros."""
    ANYTHING = "anything"


RULE_OF_FUNCTION = (
    {"find_zero": Rule.ROOT, "sum_div": Rule.OR_ZERO, "surface_Area": Rule.PYRAMID}
    | {"digit_distance_nums": Rule.PADDED, "are_equivalent": Rule.ANYTHING}
    | dict.fromkeys(("check_str", "text_match_three", "text_starta_endb"), Rule.NOT_NONE)
    | dict.fromkeys(("similar_elements", "find_char_long", "common_in_nested_lists", "extract_singly"), Rule.SET)
    | dict.fromkeys(("larg_nnum", "intersection_array", "find_dissimilar", "Diff"), Rule.SET)
)
"""The rules that EvalPlus's evaluator has for problems by the name of their function."""

_SOURCES = {
    Rule.SET: """
def check(input, expected, actual):
    try:
        return set(actual) == set(expected)
    except TypeError:  # not a collection of items that can be hashed
        return False
""",
    Rule.NOT_NONE: """
def check(input, expected, actual):
    return expected == (actual if isinstance(actual, bool) else actual is not None)
""",
    Rule.ROOT: """
import math

def check(input, expected, actual):
    try:
        value = sum(factor * math.pow(actual, power) for power, factor in enumerate(input[0]))
    except (TypeError, ValueError, OverflowError):
        return False
    return abs(value) <= TOLERANCE
""",
    Rule.OR_ZERO: """
def check(input, expected, actual):
    return actual == expected or actual == 0
""",
    Rule.PYRAMID: """
import math

def check(input, expected, actual):
    base, height = input
    area = round(base**2 + 2 * base * math.sqrt((base / 2) ** 2 + height**2))
    try:
        return min(abs(actual - expected), abs(actual - area)) <= TOLERANCE
    except (TypeError, OverflowError):
        return False
""",
    Rule.PADDED: """
def check(input, expected, actual):
    first, second = map(str, input)
    width = max(len(first), len(second))
    digits = zip(first.zfill(width), second.zfill(width))
    return actual == expected or actual == sum(abs(int(one) - int(other)) for one, other in digits)
""",
}


def checker_of(rule: Rule, tolerance: float) -> AnswerRule | Checker:
    """A rule's checker; `tolerance` is the row's `atol`. Raises UnusableRowError if the rule accepts every answer."""
    match rule:
        case Rule.CLOSE:
            return AnswerRule(absolute=tolerance or _ABSOLUTE_OF_FLOATS, relative=_RELATIVE)
        case Rule.EXACT:
            return AnswerRule(absolute=0.0, relative=0.0)
        case Rule.ANYTHING:
            raise UnusableRowError("entry_point: EvalPlus accepts every answer to this problem")
    return Checker(_SOURCES[rule].lstrip().replace("TOLERANCE", repr(tolerance)))
