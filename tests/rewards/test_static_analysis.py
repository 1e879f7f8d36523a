"""The findings of the static analyzer by line, and hostile source."""

from __future__ import annotations

import numpy as np
import pytest

from rltf.rewards import Granularity
from rltf.rewards.lines import MAX_CHARACTERS, finding_lines
from rltf.sandbox.verdict import Outcome, ProgramError
from tests.rewards.samples import character_tokens, make_verdict, plain, score_one

N = MAX_CHARACTERS - 1_000


@pytest.mark.parametrize(
    ("program", "lines"),
    [
        ("import os\nx = y\n", {1, 2}),
        ("def f():\n    unused = 1\n    return 2\n", {2}),
        ("x = 1\nprint(x)\n", set()),
        ("x = (\n", set()),
        ("", set()),
    ],
)
def test_findings_by_line(program: str, lines: set[int]) -> None:
    assert finding_lines(program) == lines


@pytest.mark.parametrize(
    "program",
    [
        "-" * N + "1",
        "(" * N,
        "a" + ".a" * (N // 2),
        "+".join(["x"] * (N // 2)),
        "lambda x:" * 900 + "1",
        "elif x: pass\n".join(["if x: pass\n"] + [""] * (N // 13)),
        "x = '" + "{:" * 5_000 + "}" * 5_000 + "'.format(1)",
        "x: \"'" + "(" * 90 + "'\" = 1",
        "x\0y",
        "x = '\ud800'",
        "x = " + "9" * N,
        "x" * (MAX_CHARACTERS + 1),
    ],
    ids=lambda program: program[:8].encode("ascii", "backslashreplace").decode(),
)
def test_hostile_source_does_not_fail(program: str) -> None:
    assert finding_lines(program) <= {1}


def test_a_finding_lowers_only_the_tokens_of_its_line() -> None:
    """Line 2, `x = y`, is tokens 7 to 11; the penalty is -0.1 times the weight."""
    program = "z = 1\n\nx = y\nprint(x, z)\n"
    verdict = make_verdict(Outcome.PASSED, (Outcome.PASSED,))
    scored = score_one(character_tokens(program), verdict, plain("rltf", static_weight=0.5))
    assert scored.static == -0.1
    expected = np.zeros(len(program) + 1)
    expected[7:12] = -0.05
    np.testing.assert_allclose(scored.token_weights[Granularity.STATIC], expected, rtol=1e-6)


@pytest.mark.parametrize("preset", ["rltf", "rltf-paper", "rltf-code"])
def test_off_in_every_preset(preset: str) -> None:
    error = ProgramError("NameError", line=1)
    verdict = make_verdict(Outcome.RUNTIME_ERROR, (Outcome.RUNTIME_ERROR,), error=error)
    scored = score_one(character_tokens("x = y\n"), verdict, plain(preset))
    assert scored.static == 0
    assert not scored.token_weights[Granularity.STATIC].any()
