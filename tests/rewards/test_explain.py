"""Rows and terminal view of single programs, from verdicts made by hand."""

from __future__ import annotations

import io
import json

import pytest
from rich.console import Console
from transformers import PreTrainedTokenizerFast

from rewards.explain import Explained, explain, explained_row, explaining, render, split
from sandbox.verdict import Outcome, ProgramError, Verdict
from tests.rewards.samples import make_verdict
from tests.small_tokenizers import END, FAMILIES, character_level

CODE = "a = 1\nb = a[0]\n"
FAILING = make_verdict(
    Outcome.RUNTIME_ERROR,
    (Outcome.PASSED, Outcome.RUNTIME_ERROR, Outcome.FAILED, Outcome.FAILED),
    error=ProgramError("TypeError", "'int' object is not subscriptable", line=2, column=4),
)


def wrapped(family: str) -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast(tokenizer_object=FAMILIES[family](), eos_token=END)  # type: ignore[no-untyped-call]


def explained(verdict: Verdict, preset: str = "rltf", code: str = CODE, max_tokens: int | None = None) -> Explained:
    spans = split(code, wrapped("character_level"))
    return explain(code, spans, verdict, explaining(preset), max_tokens=max_tokens)


def test_row_of_a_program_that_fails() -> None:
    """Coarse -0.6 everywhere, adaptive -0.3 + 1.3 / 4 = 0.025 everywhere, fine -0.3 * 15 / 8 on tokens 6 to 13."""
    row = explained_row(7, "x", explained(FAILING))
    weights = row.pop("token_weights")
    assert weights == pytest.approx([-0.575] * 6 + [-1.1375] * 8 + [-0.575], abs=1e-7)
    assert row == {
        "task_id": 7,
        "completion_id": "x",
        "outcome": "runtime_error",
        "error_type": "TypeError",
        "error_line": 2,
        "category": "line",
        "rewards": {"coarse": -0.6, "fine": -0.3, "adaptive": 0.025},
        "fine_span": [6, 13],
        "num_tokens": 15,
    }
    assert json.loads(json.dumps(row)) == row


def test_row_of_a_program_that_passes_and_of_one_that_was_not_graded() -> None:
    passed = make_verdict(Outcome.PASSED, (Outcome.PASSED,))
    row = explained_row("t0", "c0", explained(passed, "rltf-paper"))
    assert (row["category"], row["fine_span"], row["error_line"]) == (None, None, None)
    assert row["token_weights"] == [1.0] * 15
    lost = make_verdict(Outcome.INFRASTRUCTURE_ERROR, (Outcome.INFRASTRUCTURE_ERROR,))
    row = explained_row("t0", "c0", explained(lost))
    assert (row["outcome"], row["rewards"], row["token_weights"]) == ("infrastructure_error", None, None)


def test_the_length_limit_makes_a_syntax_error_global() -> None:
    verdict = make_verdict(Outcome.SYNTAX_ERROR, (Outcome.SYNTAX_ERROR,), error=ProgramError("SyntaxError", line=2))
    assert explained_row("t0", "c0", explained(verdict, max_tokens=16))["category"] == "line"
    assert explained_row("t0", "c0", explained(verdict, max_tokens=15))["category"] == "global"


@pytest.mark.parametrize("family", FAMILIES)
def test_split_gives_back_the_program(family: str) -> None:
    spans = split(" \tx = 'é'\r\n", wrapped(family))
    assert (spans[0, 0], spans[-1, 1]) == (0, 11)


def test_a_tokenizer_that_loses_characters_is_refused() -> None:
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=character_level())  # type: ignore[no-untyped-call]
    with pytest.raises(ValueError, match="at character 4"):
        split("x = ж", tokenizer)


def rendered(shown: Explained, *, color: bool) -> str:
    file = io.StringIO()
    console = Console(
        file=file, force_terminal=color, color_system="truecolor" if color else None, width=100, highlight=False
    )
    console.print(render(shown), soft_wrap=True)
    return file.getvalue()


def test_text_marks_the_line_and_totals_the_terms() -> None:
    text = rendered(explained(FAILING), color=False)
    assert "t0 / c0  runtime_error: TypeError on line 2" in text
    assert "    1 | a = 1\n" in text
    assert ">   2 | b = a[0]\n" in text
    rows = {line.split()[0]: line.split() for line in text.splitlines() if line.strip()}
    assert rows["coarse"] == ["coarse", "-0.6000", "15", "of", "15", "tokens", "-0.6000", "-9.0000"]
    assert rows["fine"] == ["fine", "-0.3000", "8", "of", "15", "tokens", "(line)", "-0.5625", "-4.5000"]
    assert rows["adaptive"] == ["adaptive", "+0.0250", "15", "of", "15", "tokens", "+0.0250", "+0.3750"]
    assert rows["total"] == ["total", "25%", "of", "tests", "passed", "-13.1250"]


def test_text_counts_lines_as_the_compiler_does() -> None:
    """A return alone ends a line, and is shown; what else some editors break lines at does not."""
    code = "a = 1\rb = '\x0c\u2028'\r\n\r\rc = a[0]\n"
    error = ProgramError("TypeError", line=5)
    verdict = make_verdict(Outcome.RUNTIME_ERROR, (Outcome.RUNTIME_ERROR,), error=error)
    shown = explain(code, split(code, wrapped("byte_level_bpe")), verdict, explaining("rltf"))
    text = rendered(shown, color=False)
    assert (
        "    1 | a = 1\u240d\n    2 | b = '\u240c\u2028'\u240d\n    3 | \u240d\n    4 | \u240d\n>   5 | c = a[0]\n"
        in text
    )


def test_text_colours_the_penalised_tokens_only() -> None:
    lines = rendered(explained(FAILING), color=True).splitlines()
    (first,) = [line for line in lines if "1 | " in line]
    (second,) = [line for line in lines if "2 | " in line]
    assert ";48;5;" in second, "a background colour"
    assert ";48;5;" not in first


def test_a_program_cannot_steer_the_terminal() -> None:
    code = "x = '\x1b]0;owned\x07\u202e'\n"
    spans = split(code, wrapped("byte_level_bpe"))
    verdict = make_verdict(Outcome.FAILED, (Outcome.FAILED,))
    text = rendered(explain(code, spans, verdict, explaining("rltf")), color=False)
    assert not any(c in text for c in "\x1b\x07\u202e")
    assert "\u241b]0;owned\u2407" in text
