"""From a faulty line to its tokens, with real errors and three families of tokenizers."""

from __future__ import annotations

import traceback

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer

from rltf.rewards import Category, Granularity, ProgramTokens, ScoredSample
from rltf.rewards.lines import code_lines, line_characters, token_range
from rltf.sandbox.verdict import Outcome, ProgramError, Verdict
from tests.rewards.samples import character_tokens, make_verdict, plain, score_one, tokenized
from tests.small_tokenizers import FAMILIES
from tests.tiers import examples

BLANK = (0, -1)
TOKENIZERS = {name: build() for name, build in FAMILIES.items()}
families = pytest.mark.parametrize("tokenizer", TOKENIZERS.values(), ids=TOKENIZERS.keys())

# Statements that run without an error; some span several lines or hold characters that only some tools split lines at.
HARMLESS = [
    "x = 1",
    "names = ['a', 'b']  # two",
    "total = sum(range(3))",
    "pass",
    "",
    "    ",
    "# a comment",
    "été = 'naïve 日本 😀'",
    "y = [1,\n  2,\n  3]",
    "z = '''one\ntwo\n'''",
    "w = 1 + \\\n  2",
    "\x0cv = 'form\x0cfeed'",
    "u = 'a\u2028b'",
]
FAULTY = [
    "missing_name",
    "values = [1, 2][5]",
    "n = int('x')",
    "1 / 0",
    "import no_such_module_here",
    "'a' + 1",
    "{}['été']",
    "raise RuntimeError('日本')",
    "assert 1 == 2",
    "None.attribute",
]


def error_of(program: str) -> ProgramError:
    """Run `program` and return the class of its error and the line of its innermost frame."""
    try:
        exec(compile(program, "<program>", "exec"), {})
    except Exception as error:  # noqa: BLE001 - the program may raise anything
        frames = [f for f in traceback.extract_tb(error.__traceback__) if f.filename == "<program>"]
        return ProgramError(type=type(error).__name__, line=frames[-1].lineno)
    raise AssertionError(f"no error: {program!r}")


@st.composite
def faulty_programs(draw: st.DrawFn) -> tuple[str, str]:
    """A program that fails, and the text of the line that fails. The same text also appears where it never runs."""
    before = draw(st.lists(st.sampled_from(HARMLESS), max_size=5))
    after = draw(st.lists(st.sampled_from(HARMLESS), max_size=3))
    fault = draw(st.sampled_from(FAULTY))
    decoys = [f"if False: {fault}", f"# {fault}", f"def later():\n    {fault}", f"'''\n{fault}\n'''"]
    before += draw(st.lists(st.sampled_from(decoys), max_size=2))
    lines = fault
    if draw(st.booleans()):
        indent = draw(st.sampled_from(["    ", "\t", " "]))
        lines = f"def run():\n{indent}x = 1\n{indent}{fault}  # here\nrun()"
    program = "\n".join([*before, lines, *after, *draw(st.lists(st.sampled_from(decoys), max_size=2))])
    newline = draw(st.sampled_from(["\n", "\r\n", "\r"]))
    return program.replace("\n", newline), fault


def score(program: ProgramTokens, verdict: Verdict) -> ScoredSample:
    return score_one(program, verdict, plain("rltf-paper"))


def runtime_error(kind: str, line: int | None) -> Verdict:
    error = ProgramError(kind, line=line)
    return make_verdict(Outcome.RUNTIME_ERROR, (Outcome.RUNTIME_ERROR,), error=error)


@families
@given(case=faulty_programs(), around=st.sampled_from([("", ""), ("```python\n", "\n```"), ("x = 0; ", "")]))
@examples(0.6)
def test_the_penalty_is_only_on_the_line_that_failed(
    tokenizer: Tokenizer, case: tuple[str, str], around: tuple[str, str]
) -> None:
    program, fault = case
    error = error_of(program)
    assert error.line is not None
    tokens = tokenized(tokenizer, program, before=around[0], after=around[1])
    scored = score(tokens, runtime_error(error.type, error.line))
    newline = next((end for end in ("\r\n", "\r") if end in program), "\n")
    lines = program.split(newline)
    line = lines[error.line - 1]
    assert fault in line
    start = sum(len(other) + len(newline) for other in lines[: error.line - 1])
    first = start + len(line) - len(line.lstrip())
    end = first + len(line.strip())
    touched = scored.token_weights[Granularity.FINE] != 0
    holds = (tokens.char_spans[:, 0] < end) & (tokens.char_spans[:, 1] > first)
    np.testing.assert_array_equal(touched, holds)
    assert scored.category is Category.LINE
    assert error.line in code_lines(program)
    assert scored.fine_span is not None
    alpha = scored.num_tokens / int(touched.sum())
    np.testing.assert_allclose(scored.token_weights[Granularity.FINE][touched], -0.3 * alpha, rtol=1e-6)


@families
def test_tokens_around_the_program_are_not_counted(tokenizer: Tokenizer) -> None:
    verdict = make_verdict(Outcome.TIMEOUT, (Outcome.TIMEOUT,))
    program = "while True:\n    pass"
    alone = score(tokenized(tokenizer, program), verdict)
    fenced = score(tokenized(tokenizer, program, before="```\n", after="\n```"), verdict)
    assert alone.fine_span == (0, alone.num_tokens - 1)
    assert alone.token_weights.shape[1] == alone.num_tokens + 1, "the end token"
    assert alone.token_weights[Granularity.FINE, -1] == 0
    assert alone.token_weights[Granularity.COARSE, -1] == pytest.approx(-0.6)
    assert fenced.fine_span == (0, fenced.num_tokens - 1)
    assert fenced.token_weights.shape[1] > fenced.num_tokens + 1
    assert (fenced.token_weights[Granularity.COARSE] == fenced.token_weights[Granularity.COARSE, 0]).all()


def test_tokens_that_straddle_lines_belong_to_both() -> None:
    """Tokens `a = 1\\nb`, ` = a`, `[0]\\n`, `c = 2`: line 2 is the first three of four."""
    spans = np.array([[0, 7], [7, 11], [11, 15], [15, 20]], dtype=np.int32)
    tokens = ProgramTokens("a = 1\nb = a[0]\nc = 2", spans, truncated=True)
    scored = score(tokens, runtime_error("TypeError", 2))
    assert scored.fine_span == (0, 2)
    np.testing.assert_allclose(scored.token_weights[Granularity.FINE], [-0.4, -0.4, -0.4, 0], rtol=1e-6)


def test_all_tokens_of_a_shared_character_belong_to_its_line() -> None:
    """Line 2 is one character in four tokens."""
    spans = np.array([[0, 2], [2, 3], [2, 3], [2, 3], [2, 3], [3, 4]], dtype=np.int32)
    assert token_range(spans, 2, 2) == (1, 4)


@pytest.mark.parametrize(
    ("program", "expected"),
    [
        ("  ab  \n", [(2, 3), BLANK]),
        ("a\n\tb c\t\nd", [(0, 0), (3, 5), (8, 8)]),
        ("a\r\nb\r\n", [(0, 0), (3, 3), BLANK]),
        ("a\rb", [(0, 0), (2, 2)]),
        ("a\x0cb\u2028c\nd", [(0, 4), (6, 6)]),
        ("a\x0b\x1c\x1d\x1e\x85\u2029b\r\r\nc", [(0, 7), BLANK, (11, 11)]),
        ("a\n \t\n\nb", [(0, 0), BLANK, BLANK, (6, 6)]),
        ("", [BLANK]),
    ],
)
def test_line_characters(program: str, expected: list[tuple[int, int]]) -> None:
    found = [(int(first), int(last)) for first, last in line_characters(program)]
    assert found[: len(expected)] == expected
    assert set(found[len(expected) :]) <= {BLANK}


@pytest.mark.parametrize("line", [-1, 0, 2, 4, 10**9])
def test_an_error_on_no_line_of_the_program_is_ignored(line: int) -> None:
    assert score(character_tokens("a\n\nb"), runtime_error("TypeError", line)).category is Category.IGNORE


def test_a_line_of_an_empty_completion_has_no_tokens() -> None:
    scored = score(character_tokens(""), runtime_error("TypeError", 1))
    assert (scored.category, scored.fine_span, scored.num_tokens) == (Category.IGNORE, None, 0)
    assert scored.token_weights.shape == (len(Granularity), 1)
