"""Blaming lines of wrong answers: statements, nearest siblings, factors, and hostile source."""

from __future__ import annotations

import ast
from itertools import permutations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from rltf.rewards.lines import MAX_CHARACTERS
from rltf.rewards.siblings import MAX_STATEMENTS, blame_factors, blamed_lines, statements

WRONG = """\
def f(xs):
    total = 0
    for x in xs:
        if x % 2 == 1:
            total += x
    return total
"""
EVEN = """\
def f(nums):
    s = 0
    for n in nums:
        if n % 2 == 0:
            s += n
    return s
"""
SHORT = "def f(nums):\n    return sum(n for n in nums if n % 2 == 0)\n"
UNSORTED = "def f(xs):\n    xs.sort()\n    return xs[1]\n"
DISTINCT = "def f(v):\n    v = list(set(v))\n    v.sort()\n    return v[1]\n"
N = MAX_CHARACTERS - 1_000


def blamed(wrong: str, *passing: str, max_distance: float = 0.3) -> tuple[int, ...]:
    (lines,) = blamed_lines([wrong], passing, max_distance)
    return lines


def keys(program: str) -> list[str]:
    return [statement.key for statement in statements(program)]


# Statements


def test_variables_are_renamed_in_the_order_of_their_first_values() -> None:
    assert keys(WRONG) == ["def f(v0):", "v1 = 0", "for v2 in v0:", "if v2 % 2 == 1:", "v1 += v2", "return v1"]
    program = "import math\ndef g(a, *b):\n    return [math.sqrt(y) for x in b for y in x] + g(a)\n"
    assert keys(program) == [
        "import math",
        "def g(v0, *v1):",
        "return [math.sqrt(v3) for v2 in v1 for v3 in v2] + g(v0)",
    ]


def test_headers_end_where_their_last_expression_ends() -> None:
    program = (
        '"""Module."""\n'
        "def f(a):\n"
        "    '''Doc.'''\n"
        "    if (a and\n"
        "            a > 1):\n"
        "        # a comment\n"
        "        try:\n"
        "            b = 1\n"
        "        except (KeyError,\n"
        "                TypeError) as c:\n"
        "            raise\n"
        "        except:\n"
        "            pass\n"
        "    elif a: return 0\n"
        "    else:\n"
        "        with open(a) as d, \\\n"
        "                open(d):\n"
        "            pass\n"
        "    match a:\n"
        "        case [1, *e] if e:\n"
        "            return (\n"
        "                e\n"
        "            )\n"
    )
    found = [(statement.key, statement.first, statement.last) for statement in statements(program)]
    assert found == [
        ("def f(v0):", 2, 2),
        ("if v0 and v0 > 1:", 4, 5),
        ("try:", 7, 7),
        ("v1 = 1", 8, 8),
        ("except (KeyError, TypeError) as v2:", 9, 10),
        ("raise", 11, 11),
        ("except:", 12, 12),
        ("pass", 13, 13),
        ("if v0:", 14, 14),
        ("return 0", 14, 14),
        ("with open(v0) as v3, open(v3):", 16, 17),
        ("pass", 18, 18),
        ("match v0:", 19, 19),
        ("case [1, *v4] if v4:", 20, 20),
        ("return v4", 21, 23),
    ]


def test_a_completion_may_be_the_body_of_a_function() -> None:
    """The line of the prompt that it continues counts, so distances are those of whole functions."""
    found = statements("\n    n = len(xs)\n    return n\n\ndef helper(): pass\n")
    assert [(statement.key, statement.first) for statement in found[1:]] == [
        ("v0 = len(xs)", 2),
        ("return v0", 3),
        ("def helper():", 5),
        ("pass", 5),
    ]
    for program in (WRONG, UNSORTED):
        assert len(statements(program.partition("\n")[2])) == len(statements(program))
    assert blamed(WRONG.partition("\n")[2], EVEN.partition("\n")[2].replace("nums", "xs"), max_distance=1 / 6) == (3,)


def test_longer_programs_have_no_statements() -> None:
    assert len(statements("x = 1\n" * MAX_STATEMENTS)) == MAX_STATEMENTS
    assert statements("x = 1\n" * (MAX_STATEMENTS + 1)) == ()


HOSTILE = [
    "-" * N + "1",
    "(" * N,
    "a" + ".a" * (N // 2),
    "+".join(["x"] * (N // 2)),
    "+".join(["x"] * 900),
    "lambda x:" * 900 + "1",
    "elif x: pass\n".join(["if x: pass\n"] + [""] * (N // 13)),
    "x = " + "[" * 190 + "]" * 190,
    "x = " + "f'{" * 3 + "1" + "}'" * 3,
    "x\0y",
    "x = '\ud800'",
    "x = " + "9" * N,
    "x = 0x" + "f" * N,
    "x = " + "1" * (MAX_CHARACTERS + 1),
    "return 1\n",
    "x = (\n",
    "",
]


@pytest.mark.parametrize("program", HOSTILE, ids=lambda program: program[:8].encode("ascii", "backslashreplace"))
def test_hostile_source_is_silent(program: str) -> None:
    assert blamed(program, EVEN, program) == ()
    assert blamed(WRONG, program, EVEN) == (4,), "the other siblings still speak"
    assert blamed(WRONG, program) == ()


def test_source_that_cannot_be_written_back_is_silent() -> None:
    program = "x = 0x" + "f" * 5_000 + "\n"
    with pytest.raises(ValueError, match="digits"):
        ast.unparse(ast.parse(program))
    assert statements(program) == ()


# Nearest siblings


def test_the_wrong_condition_is_blamed() -> None:
    """5 of 6 statements match, so the distance is 1/6."""
    assert blamed(WRONG, EVEN) == (4,)
    assert blamed(WRONG, EVEN, max_distance=1 / 6) == (4,)
    assert blamed(WRONG, EVEN, max_distance=0.16) == ()


def test_a_program_of_another_kind_is_too_far_away() -> None:
    """Only the `def` matches: 1 of 6 and 2 statements, a distance of 0.75."""
    assert blamed(WRONG, SHORT) == ()
    assert blamed(WRONG, SHORT, max_distance=0.74) == ()


def test_a_distance_exactly_at_the_limit_speaks() -> None:
    """7 of 10 statements match: 0.3, of which 1 - 14/20 is only an approximation."""
    same = [f"print({n})\n" for n in range(7)]
    assert blamed("".join(same) + "print('a')\n" * 3, "".join(same) + "print('b')\n" * 3) == (8, 9, 10)


def test_an_omission_is_blamed_on_the_statements_beside_it() -> None:
    """The distance is 1/7. What is missing comes between the `def`, which is never blamed, and line 2."""
    assert blamed(UNSORTED, DISTINCT) == (2,)
    assert blamed(UNSORTED, DISTINCT, max_distance=0.14) == ()


def test_an_omission_at_the_end_is_blamed_on_the_last_statement() -> None:
    assert blamed("a = 1\nb = 2\nprint(a)\n", "a = 1\nb = 2\nprint(a)\nprint(b)\n") == (3,)


def test_the_nearest_sibling_decides_and_the_first_of_equally_near_ones() -> None:
    other = WRONG.replace("total = 0", "total = 1").replace("== 1", "== 0")
    for siblings in permutations([other, EVEN, SHORT]):
        assert blamed(WRONG, *siblings) == (4,)
    start = WRONG.replace("total = 0", "total = 1")
    assert blamed(WRONG, start, EVEN) == (2,)
    assert blamed(WRONG, EVEN, start) == (4,)


def test_declarations_and_what_only_encloses_are_never_blamed() -> None:
    program = "import {0}\ndef f(a{1}):\n    global {2}\n    try:\n        pass\n    except {3}:\n        c = a\n\n"
    wrong, right = program.format("os", "", "c", "OSError"), program.format("io", "=0", "d", "IOError")
    assert blamed(wrong, right, max_distance=0.9) == (6,)


@pytest.mark.parametrize(
    ("wrong", "passing"),
    [
        (WRONG, []),
        (WRONG, [WRONG]),
        (WRONG, [WRONG.replace("total", "s")]),
        ("def f(x):\n    return x\n", ["def f(x):\n    return -x\n"]),  # all that can be blamed
        ("import os\n", ["import io\n"]),  # nothing that can be blamed
        ("", [""]),
    ],
)
def test_without_a_difference_to_point_at_the_rule_is_silent(wrong: str, passing: list[str]) -> None:
    assert blamed(wrong, *passing, max_distance=0.99) == ()


def test_all_lines_of_a_statement_are_blamed() -> None:
    assert blamed("a = 1\nprint(\n    a,\n\n    2,\n)\nb = 1\n", "a = 1\nprint(a, 3)\nb = 1\n", max_distance=0.5) == (
        2,
        3,
        4,
        5,
        6,
    )


def test_each_program_of_a_rollout_is_parsed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    parsed = []

    def counted(program: str) -> object:
        parsed.append(program)
        return statements(program)

    monkeypatch.setattr("rltf.rewards.siblings.statements", counted)
    wrong = [WRONG, UNSORTED, WRONG]
    assert blamed_lines(wrong, [SHORT, EVEN, SHORT], 0.3) == [(4,), (), (4,)]
    assert sorted(parsed) == sorted({*wrong, SHORT, EVEN})
    parsed.clear()
    assert blamed_lines([], [EVEN], 0.3) == []
    assert blamed_lines([WRONG], [], 0.3) == [()]
    assert parsed == []


# Factors


def marked(num_tokens: int, num_blamed: int) -> NDArray[np.bool_]:
    return np.arange(num_tokens) < num_blamed


def test_factors_by_hand() -> None:
    """T 40, N 8: 0.5 + 0.5 * 40/8 = 3 and (40 - 8 * 3) / 32 = 0.5. T 100, N 5: 10.5, but at most 4, and 80/95."""
    np.testing.assert_allclose(blame_factors(marked(40, 8), 0.5, 4), [3.0] * 8 + [0.5] * 32)
    np.testing.assert_allclose(blame_factors(marked(100, 5), 0.5, 4), [4.0] * 5 + [80 / 95] * 95)
    np.testing.assert_allclose(blame_factors(marked(100, 5), 1.0, np.inf), [20.0] * 5 + [0.0] * 95)
    assert all(blame_factors(marked(n + 1, n), 1.0, np.inf).min() >= 0 for n in range(1, 60)), "despite rounding"


@given(
    st.permutations([True, False, *[True] * 5, *[False] * 20]), st.integers(2, 27), st.floats(0.01, 1), st.floats(1, 50)
)
def test_factors_keep_the_sum_and_their_bounds(order: list[bool], num_tokens: int, share: float, cap: float) -> None:
    marks = np.array([True, False, *order][:num_tokens], dtype=np.bool_)
    found = blame_factors(marks, share, cap)
    assert found.sum() == pytest.approx(num_tokens)
    assert ((found[marks] >= 1 - 1e-9) & (found[marks] <= cap)).all()
    assert ((found[~marks] >= max(0, 1 - share - 1e-9)) & (found[~marks] <= 1 + 1e-9)).all()
