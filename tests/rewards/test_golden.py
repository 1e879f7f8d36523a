"""Every outcome and category in all three presets, against the method's formulas worked out by hand.

The program has 15 characters, one token each: `a = 1`, a line end, then `b = a[0]` (the 8 tokens 6 to 13), and a final
line end. So T = 15, and for line 2 alpha = 15 / 8 = 1.875. One of its four tests passes: -0.3 + 1.3 * 1/4 = 0.025.
"""

from __future__ import annotations

import numpy as np
import pytest

from rltf.rewards import Category, Granularity, ScoredSample
from rltf.sandbox.verdict import Outcome, ProgramError
from tests.rewards.samples import character_tokens, make_verdict, plain, score_one

PROGRAM = "a = 1\nb = a[0]\n"
P, F, R, T, M, L, S, K = (
    Outcome.PASSED,
    Outcome.FAILED,
    Outcome.RUNTIME_ERROR,
    Outcome.TIMEOUT,
    Outcome.MEMORY_LIMIT,
    Outcome.OUTPUT_LIMIT,
    Outcome.SYNTAX_ERROR,
    Outcome.SKIPPED,
)
AT_2 = (6, 13)
ALL = (0, 14)


def one(preset: str, outcome: Outcome, tests: tuple[Outcome, ...], error: ProgramError | None = None) -> ScoredSample:
    return score_one(character_tokens(PROGRAM), make_verdict(outcome, tests, error=error), plain(preset))


def error(kind: str, line: int | None = 2) -> ProgramError:
    return ProgramError(type=kind, line=line)


# outcome, tests, error, coarse, adaptive of rltf, category, span of the fine penalty, alpha of rltf-paper
CASES = {
    "passed": (P, (P, P, P, P), None, 1.0, 1.0, None, None, 0.0),
    "failed": (F, (F, P, F, F), None, -0.3, 0.025, None, None, 0.0),
    "runtime error on a line": (R, (R, P, R, R), error("TypeError"), -0.6, 0.025, Category.LINE, AT_2, 1.875),
    "an exception of its own": (R, (R, P, R, R), error("MyError"), -0.6, 0.025, Category.LINE, AT_2, 1.875),
    "an assertion": (R, (R, P, R, R), error("AssertionError"), -0.6, 0.025, Category.LINE, AT_2, 1.875),
    "wrong answer, then a runtime error": (R, (F, P, R, F), error("KeyError"), -0.6, 0.025, Category.LINE, AT_2, 1.875),
    "recursion": (R, (R, P, R, R), error("RecursionError"), -0.6, 0.025, Category.GLOBAL, ALL, 1.0),
    "recursion outside the program": (
        R,
        (R, P, R, R),
        error("RecursionError", None),
        -0.6,
        0.025,
        Category.GLOBAL,
        ALL,
        1.0,
    ),
    "no line in the program": (R, (R, P, R, R), error("TypeError", None), -0.6, 0.025, Category.GLOBAL, ALL, 1.0),
    "a line beyond the end": (R, (R, P, R, R), error("TypeError", 3), -0.6, 0.025, Category.GLOBAL, ALL, 1.0),
    "killed by a signal": (R, (R, P, R, R), error("SIGKILL", None), -0.6, 0.025, Category.GLOBAL, ALL, 1.0),
    "an exit status": (R, (R, P, R, R), error("SystemExit", None), -0.6, 0.025, Category.GLOBAL, ALL, 1.0),
    "an error without a record": (R, (R, P, R, R), None, -0.6, 0.025, Category.GLOBAL, ALL, 1.0),
    "a type that does not exist": (R, (R, P, R, R), error("Nothing!", None), -0.6, 0.025, Category.GLOBAL, ALL, 1.0),
    "timeout": (T, (P, T, K, K), None, -0.6, 0.025, Category.GLOBAL, ALL, 1.0),
    "runtime error, then a timeout": (T, (R, P, T, K), error("TypeError"), -0.6, 0.025, Category.LINE, AT_2, 1.875),
    "too much output": (L, (P, L, K, K), None, -0.6, 0.025, Category.GLOBAL, ALL, 1.0),
    "out of memory on a line": (M, (P, M, K, K), error("MemoryError"), -0.6, 0.025, Category.LINE, AT_2, 1.875),
    "out of memory, killed": (M, (P, M, K, K), None, -0.6, 0.025, Category.GLOBAL, ALL, 1.0),
    "out of memory, another error": (M, (P, M, K, K), error("KeyError"), -0.6, 0.025, Category.GLOBAL, ALL, 1.0),
    "syntax error": (S, (S, S, S, S), error("SyntaxError"), -1.0, 0.0, Category.LINE, AT_2, 1.875),
    "block expected": (S, (K, K, K, K), error("IndentationError"), -1.0, 0.0, Category.LINE, AT_2, 1.875),
    "tabs mixed with spaces": (S, (S, S, S, S), error("TabError"), -1.0, 0.0, Category.GLOBAL, ALL, 1.0),
    "syntax error without a line": (S, (S, S, S, S), error("SyntaxError", None), -1.0, 0.0, Category.GLOBAL, ALL, 1.0),
}
UNLOCATED = (
    "tabs mixed with spaces",
    "no line in the program",
    "a line beyond the end",
    "killed by a signal",
    "an exit status",
    "an error without a record",
    "a type that does not exist",
    "syntax error without a line",
)
cases = pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
Case = tuple[
    Outcome,
    tuple[Outcome, ...],
    ProgramError | None,
    float,
    float,
    Category | None,
    tuple[int, int] | None,
    float,
]


def in_the_paper(case: Case) -> Case:
    """The paper and its released code ignore errors without a line."""
    outcome, tests, fault, coarse, adaptive, category, span, alpha = case
    if case in [CASES[name] for name in UNLOCATED]:
        category, span, alpha = Category.IGNORE, None, 0.0
    return outcome, tests, fault, coarse, adaptive, category, span, alpha


def check(scored: ScoredSample, coarse: float, adaptive: float, span: tuple[int, int] | None, alpha: float) -> None:
    """Check the rewards and the weights: coarse and adaptive on every token, fine on its span."""
    fine = 0.0 if span is None else -0.3
    assert (scored.coarse, scored.fine) == (coarse, fine)
    assert scored.adaptive == pytest.approx(adaptive, abs=1e-12)
    assert scored.fine_span == span
    assert scored.num_tokens == 15
    expected = np.zeros((len(Granularity), 16))
    expected[Granularity.COARSE] = coarse
    expected[Granularity.ADAPTIVE] = adaptive
    if span is not None:
        expected[Granularity.FINE, span[0] : span[1] + 1] = -0.3 * alpha
    np.testing.assert_allclose(scored.token_weights, expected, atol=1e-7)
    assert scored.token_weights.dtype == np.float32


@cases
def test_rltf(case: Case) -> None:
    outcome, tests, fault, coarse, adaptive, category, span, alpha = case
    scored = one("rltf", outcome, tests, fault)
    assert scored.category is category
    check(scored, coarse, adaptive, span, alpha)


@cases
def test_rltf_paper(case: Case) -> None:
    outcome, tests, fault, coarse, adaptive, category, span, alpha = in_the_paper(case)
    scored = one("rltf-paper", outcome, tests, fault)
    assert scored.category is category
    check(scored, coarse, adaptive if outcome in (P, F) else 0.0, span, alpha)


@cases
def test_rltf_code(case: Case) -> None:
    """It replaces the coarse term of wrong answers, has no alpha, and ignores timeouts."""
    outcome, tests, fault, coarse, adaptive, category, span, _ = in_the_paper(case)
    scored = one("rltf-code", outcome, tests, fault)
    if outcome is T and category is Category.GLOBAL:
        category, span = Category.IGNORE, None
    assert scored.category is category
    replaced = (0.0, adaptive) if outcome is F else (coarse, 0.0)
    check(scored, *replaced, span, 1.0)


@pytest.mark.parametrize("preset", ["rltf", "rltf-paper", "rltf-code"])
def test_a_syntax_error_at_the_length_limit_is_global(preset: str) -> None:
    for kind in ("SyntaxError", "IndentationError", "TabError"):
        verdict = make_verdict(S, (S, S), error=error(kind))
        scored = score_one(character_tokens(PROGRAM, truncated=True), verdict, plain(preset))
        assert (scored.category, scored.fine_span) == (Category.GLOBAL, ALL)
        np.testing.assert_allclose(scored.token_weights[Granularity.FINE], -0.3, atol=1e-7)


@pytest.mark.parametrize("preset", ["rltf", "rltf-paper", "rltf-code"])
@pytest.mark.parametrize(
    ("program", "kind", "line", "category"),
    [
        (
            "x = '''never closed\nthe end\n",
            "SyntaxError",
            1,
            None,
        ),  # the line where the string opens, not where it should end
        ("if x:\n    y\n  z\n", "IndentationError", 3, None),
        ("if x:\ny\n", "IndentationError", 2, Category.LINE),
        ("x = 1\n  y = 2\n", "IndentationError", 2, Category.LINE),
        ("x = 'never closed\n", "SyntaxError", 1, Category.LINE),
        ("x = '''a'''\ny = (\n", "SyntaxError", 2, Category.LINE),
        ("if x:\n\n\n", "IndentationError", 3, None),  # a blank line has no tokens to blame
    ],
)
def test_categories_of_syntax_errors(
    preset: str, program: str, kind: str, line: int, category: Category | None
) -> None:
    scored = score_one(character_tokens(program), make_verdict(S, (S,), error=error(kind, line)), plain(preset))
    unlocated = Category.GLOBAL if preset == "rltf" else Category.IGNORE
    assert scored.category is (category or unlocated)


def test_alpha_is_capped_by_the_preset() -> None:
    program = "x\n" + "y = 1\n" * 8  # T = 50, line 1 has one token: alpha 50
    verdict = make_verdict(R, (R,), error=error("NameError", 1))
    weights = {}
    for preset in ("rltf", "rltf-paper", "rltf-code"):
        scored = score_one(character_tokens(program), verdict, plain(preset))
        weights[preset] = float(scored.token_weights[Granularity.FINE, 0])
    assert weights == pytest.approx({"rltf": -3.0, "rltf-paper": -15.0, "rltf-code": -0.3})


def test_the_weight_of_a_term_scales_its_row() -> None:
    verdict = make_verdict(R, (P, R), error=error("TypeError"))
    changed = plain("rltf", coarse_weight=0.5, fine_weight=0, adaptive_weight=2)
    full = score_one(character_tokens(PROGRAM), verdict, plain("rltf"))
    half = score_one(character_tokens(PROGRAM), verdict, changed)
    np.testing.assert_allclose(half.token_weights, full.token_weights * [[0.5], [0], [2], [0], [0], [0]], atol=1e-7)
    assert (half.coarse, half.fine, half.adaptive) == (full.coarse, full.fine, full.adaptive)


def test_rltf_code_without_the_adaptive_term_keeps_the_coarse_reward() -> None:
    scored = score_one(character_tokens(PROGRAM), make_verdict(F, (P, F)), plain("rltf-code", adaptive_weight=0))
    assert scored.coarse == -0.3
