"""The row and the terminal view of one program, from handmade verdicts."""

from __future__ import annotations

import io
import json
from typing import Any

import pytest
from rich.console import Console
from transformers import PreTrainedTokenizerFast

from rltf.rewards import Granularity, score_group
from rltf.rewards.explain import explain_settings, explained_row, render, score_by_problem, split
from rltf.sandbox.grading import ProgramRow
from rltf.sandbox.verdict import Outcome, ProgramError, Verdict
from rltf.settings import rewards_of
from tests.rewards.samples import character_tokens, make_verdict
from tests.small_tokenizers import END, FAMILIES, character_level

CODE = "a = 1\nb = a[0]\n"
FAILING = make_verdict(
    Outcome.RUNTIME_ERROR,
    (Outcome.PASSED, Outcome.RUNTIME_ERROR, Outcome.FAILED, Outcome.FAILED),
    error=ProgramError("TypeError", "'int' object is not subscriptable", line=2, column=4),
)


def wrapped(family: str) -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast(tokenizer_object=FAMILIES[family](), eos_token=END)  # type: ignore[no-untyped-call]


def row_of(
    verdict: Verdict, preset: str = "rltf", task_id: str | int = "t0", max_tokens: int | None = None
) -> dict[str, Any]:
    tokens = split(CODE, wrapped("character_level"), max_tokens=max_tokens)
    settings = explain_settings(preset)
    (scored,) = score_group([tokens], [verdict], settings).samples
    return explained_row(ProgramRow(task_id=task_id, completion_id="c0", code=CODE), verdict, scored, settings)


def test_row_of_a_program_that_fails() -> None:
    """Coarse -0.6 everywhere, adaptive -0.3 + 1.3 / 4 = 0.025 everywhere, fine -0.3 * 15 / 8 on tokens 6 to 13."""
    row = row_of(FAILING, task_id=7)
    weights = row.pop("token_weights")
    assert weights == pytest.approx([-0.575] * 6 + [-1.1375] * 8 + [-0.575], abs=1e-7)
    assert row == {
        "task_id": 7,
        "completion_id": "c0",
        "outcome": "runtime_error",
        "error_type": "TypeError",
        "error_line": 2,
        "category": "line",
        "rewards": {"coarse": -0.6, "fine": -0.3, "adaptive": 0.025},
        "fine_span": [6, 13],
        "num_tokens": 15,
    }
    assert json.loads(json.dumps(row)) == row


def test_rows_of_passed_and_of_ungraded_programs() -> None:
    passed = make_verdict(Outcome.PASSED, (Outcome.PASSED,))
    row = row_of(passed, "rltf-paper")
    assert (row["category"], row["fine_span"], row["error_line"]) == (None, None, None)
    assert row["token_weights"] == [2.0] * 15  # coarse and adaptive
    lost = make_verdict(Outcome.INFRASTRUCTURE_ERROR, (Outcome.INFRASTRUCTURE_ERROR,))
    row = row_of(lost)
    assert (row["outcome"], row["rewards"], row["token_weights"]) == ("infrastructure_error", None, None)


def test_the_length_limit_makes_a_syntax_error_global() -> None:
    verdict = make_verdict(Outcome.SYNTAX_ERROR, (Outcome.SYNTAX_ERROR,), error=ProgramError("SyntaxError", line=2))
    assert row_of(verdict, max_tokens=16)["category"] == "line"
    assert row_of(verdict, max_tokens=15)["category"] == "global"


def test_programs_of_a_problem_are_scored_together_and_stay_in_their_order() -> None:
    """With a baseline, the two programs of `t0` are compared with each other, and the one of `t1` with nothing."""
    outcomes = [("t0", Outcome.PASSED), ("t1", Outcome.FAILED), ("t0", Outcome.TIMEOUT)]
    verdicts = [make_verdict(outcome, (outcome,), task_id=task_id) for task_id, outcome in outcomes]
    verdicts.append(make_verdict(Outcome.INFRASTRUCTURE_ERROR, task_id="t2"))
    programs = [split(CODE, wrapped("character_level"))] * 4
    settings = rewards_of("rltf-paper", adaptive_weight=0, fine_weight=0, baseline="leave_one_out")
    scores = score_by_problem(programs, verdicts, settings)
    weights = [float(scored.token_weights[Granularity.COARSE, 0]) for scored in scores if scored is not None]
    assert weights == pytest.approx([1.6, -0.3, -1.6])
    assert scores[3] is None


@pytest.mark.parametrize("family", FAMILIES)
def test_split_covers_the_program(family: str) -> None:
    spans = split(" \tx = 'é'\r\n", wrapped(family)).char_spans
    assert (spans[0, 0], spans[-1, 1]) == (0, 11)


def test_a_tokenizer_that_loses_characters_is_refused() -> None:
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=character_level())  # type: ignore[no-untyped-call]
    with pytest.raises(ValueError, match="at character 4"):
        split("x = ж", tokenizer)


def rendered(code: str, verdict: Verdict, family: str = "byte_level_bpe", *, color: bool = False) -> str:
    tokens = split(code, wrapped(family))
    (scored,) = score_group([tokens], [verdict], explain_settings("rltf")).samples
    file = io.StringIO()
    console = Console(
        file=file, force_terminal=color, color_system="truecolor" if color else None, width=100, highlight=False
    )
    console.print(render(tokens, verdict, scored), soft_wrap=True)
    return file.getvalue()


def test_text_marks_the_line_and_totals_the_terms() -> None:
    text = rendered(CODE, FAILING, "character_level")
    assert "t0 / c0  runtime_error: TypeError on line 2" in text
    assert "    1 | a = 1\n" in text
    assert ">   2 | b = a[0]\n" in text
    rows = {line.split()[0]: line.split() for line in text.splitlines() if line.strip()}
    assert rows["coarse"] == ["coarse", "-0.6000", "15", "of", "15", "tokens", "-0.6000", "-9.0000"]
    assert rows["fine"] == ["fine", "-0.3000", "8", "of", "15", "tokens", "(line)", "-0.5625", "-4.5000"]
    assert rows["adaptive"] == ["adaptive", "+0.0250", "15", "of", "15", "tokens", "+0.0250", "+0.3750"]
    assert rows["total"] == ["total", "25%", "of", "tests", "passed", "-13.1250"]


def test_text_counts_lines_as_the_compiler_does() -> None:
    """A lone carriage return ends a line and is shown. Other characters at which editors break lines do not."""
    code = "a = 1\rb = '\x0c\u2028'\r\n\r\rc = a[0]\n"
    error = ProgramError("TypeError", line=5)
    verdict = make_verdict(Outcome.RUNTIME_ERROR, (Outcome.RUNTIME_ERROR,), error=error)
    text = rendered(code, verdict)
    assert (
        "    1 | a = 1\u240d\n    2 | b = '\u240c\u2028'\u240d\n    3 | \u240d\n    4 | \u240d\n>   5 | c = a[0]\n"
        in text
    )


def test_text_colors_only_the_penalized_tokens() -> None:
    lines = rendered(CODE, FAILING, "character_level", color=True).splitlines()
    (first,) = [line for line in lines if "1 | " in line]
    (second,) = [line for line in lines if "2 | " in line]
    assert ";48;5;" in second, "a background color"
    assert ";48;5;" not in first


def test_the_lines_to_blame_are_in_the_row_and_have_a_color_of_their_own() -> None:
    """The other program has 2, so -0.6 becomes -2.6. 12 of 42 tokens are on line 2: factors 2.25 and 0.5."""
    passing = make_verdict(Outcome.PASSED, completion_id="c1")
    failed = make_verdict(Outcome.FAILED, (Outcome.FAILED,))
    code = "def f(x):\n    return x + 1\nprint()\nprint()"
    tokens = [split(text, wrapped("character_level")) for text in (code, code.replace("+", "-"))]
    settings = explain_settings("rltf", "siblings")
    wrong, right = score_by_problem(tokens, [failed, passing], settings)
    row = explained_row(ProgramRow(task_id="t0", completion_id="c0", code=code), failed, wrong, settings)
    assert row["blamed"] == [2]
    assert row["token_weights"] == pytest.approx([-1.3] * 14 + [-5.85] * 12 + [-1.3] * 16, abs=1e-6)
    file = io.StringIO()
    console = Console(file=file, force_terminal=True, color_system="truecolor", width=100, highlight=False)
    console.print(render(tokens[0], failed, wrong), soft_wrap=True)
    colored = [line for line in file.getvalue().splitlines() if ";48;5;" in line]
    assert [line.partition("|")[0].split()[-1] for line in colored] == ["2"]
    assert "-2.9250 to -0.6500" in file.getvalue(), "the coarse weights"
    row = explained_row(ProgramRow(task_id="t0", completion_id="c1", code=code), passing, right, settings)
    assert row["blamed"] == []
    row = explained_row(ProgramRow(task_id="t0", completion_id="c1", code=code), passing, None, settings)
    assert row["blamed"] is None
    assert "blamed" not in row_of(FAILING)


def test_a_program_cannot_control_the_terminal() -> None:
    code = "x = '\x1b]0;owned\x07\u202e'\n"
    text = rendered(code, make_verdict(Outcome.FAILED, (Outcome.FAILED,)))
    assert not any(c in text for c in "\x1b\x07\u202e")
    assert "\u241b]0;owned\u2407" in text


def test_reference_programs_are_what_structure_is_compared_with() -> None:
    verdict = make_verdict(Outcome.FAILED, (Outcome.FAILED,))
    program = character_tokens("def f(a):\n    return a + 1\n")
    reference = "def f(a):\n    b = a + 1\n    return b\n"
    settings = explain_settings("ppocoder")
    (found,) = score_by_problem([program], [verdict], settings, references={verdict.task_id: [reference]})
    (without,) = score_by_problem([program], [verdict], settings)
    assert found is not None
    assert without is not None
    assert [found.structure, without.structure] == pytest.approx([0.65, 0.0])
    assert found.token_weights[:, -1].sum() == pytest.approx(0.35)
