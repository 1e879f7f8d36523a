"""`rewards.function`: a function of the user as one more term, and what happens if it is wrong."""

from __future__ import annotations

import hashlib
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError

from rltf.errors import UserError
from rltf.plugins import source_digest
from rltf.rewards import Granularity, score_group
from rltf.rewards.custom import check_function
from rltf.sandbox.verdict import Outcome
from rltf.settings import Settings, rewards_of
from tests.rewards.samples import character_tokens, make_verdict, plain, score_one

P, F, IE = Outcome.PASSED, Outcome.FAILED, Outcome.INFRASTRUCTURE_ERROR
ON_LINES = "tests.rewards.functions:on_lines"
PROGRAM = "a = 1\n\nb = 2\n"
TOKENS = character_tokens(PROGRAM)


def test_a_number_is_relative_to_the_other_samples() -> None:
    programs = [character_tokens(text) for text in ("xx", "x", "o", "xxxx")]
    verdicts = [make_verdict(outcome, (outcome,)) for outcome in (P, P, P, IE)]
    settings = rewards_of("rloo", function="tests.rewards.functions:share_of_x", custom_weight=2.0)
    samples = score_group(programs, verdicts, settings).samples
    rewards = [0.5, 0.25, 0.0]
    for scored, value, others in zip(samples, rewards, (0.125, 0.25, 0.375), strict=False):
        assert scored is not None
        assert scored.custom == value
        np.testing.assert_allclose(scored.token_weights[Granularity.CUSTOM], 2 * (value - others), atol=1e-6)
    assert samples[3] is None, "the function never sees what the grader failed on"


def test_weights_on_lines_are_added_as_they_are() -> None:
    settings = rewards_of("rltf", baseline="none", function=ON_LINES, custom_weight=0.5, negative_scale=0.1)
    row = score_one(TOKENS, make_verdict(P), settings).token_weights[Granularity.CUSTOM]
    np.testing.assert_allclose(row, [*[1.25] * 5, 1, 1, *[0.95] * 5, 1, 1], rtol=1e-6)
    last = rewards_of("ppo", function=ON_LINES)
    row = score_one(TOKENS, make_verdict(P), last).token_weights[Granularity.CUSTOM]
    np.testing.assert_allclose(row, [*[0.5] * 5, 0, 0, *[-1] * 5, 0, 2], rtol=1e-6)


def test_a_weight_of_0_switches_it_off() -> None:
    off = rewards_of("rltf", function="no.such.module:function", custom_weight=0)
    assert not score_one(TOKENS, make_verdict(P), off).token_weights[Granularity.CUSTOM].any()


def test_other_terms_stay_as_they_are() -> None:
    verdict = make_verdict(F, (P, F))
    without = score_one(TOKENS, verdict, plain("rltf")).token_weights
    scored = score_one(TOKENS, verdict, plain("rltf", function=ON_LINES)).token_weights
    np.testing.assert_array_equal(np.delete(scored, Granularity.CUSTOM, 0), np.delete(without, Granularity.CUSTOM, 0))


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "users", raising=False)
    return tmp_path / "users.py"


BODIES = {
    "return 1.5": None,
    "return True": None,
    "return numpy.float32(1)": None,
    "return CustomReward(1, [0] * len(graded.program.char_spans))": None,
    "return None": "expected a number or a CustomReward with one, got NoneType",
    "return '1'": "got str",
    "return float('nan')": "not finite",
    "return CustomReward(0, [1.0])": r"expected 8 token_weights, one per token, got shape \(1,\)",
    "return CustomReward(0, 1.0)": r"got shape \(\)",
    "return CustomReward(0, ['a'] * 8)": "token_weights are not numbers",
    "return CustomReward(0, [numpy.inf] * len(graded.program.char_spans))": "not finite",
    "return graded.verdict.error.line": "it raised AttributeError: 'NoneType' object has no attribute 'line'",
    "return 1 / len(graded.program.text)": "it raised ZeroDivisionError: division by zero",
}


@pytest.mark.parametrize(("body", "message"), BODIES.items())
def test_a_function_is_tried_before_anything_starts(body: str, message: str | None, module: Path) -> None:
    module.write_text(f"import numpy\nfrom rltf.rewards import CustomReward\ndef f(graded):\n    {body}\n")
    if message is None:
        check_function("users:f")
    else:
        with pytest.raises(UserError, match=rf"\.function users:f, task made-up, completion made-up/0: .*{message}"):
            check_function("users:f")


@pytest.mark.parametrize(
    ("source", "name", "message"),
    [
        ("", "elsewhere:f", "there is no module elsewhere on .* put its file into the folder that you start from"),
        ("", "users.more:f", "there is no module users.more"),
        ("import elsewhere", "users:f", "importing users failed: ModuleNotFoundError: No module named 'elsewhere'"),
        ("def f(:", "users:f", "importing users failed: SyntaxError"),
        ("def concise(graded): ...", "users:concis", r"users\.py has no concis; did you mean concise\?"),
        ("f = 1", "users:f", "expected a function, got int"),
    ],
)
def test_a_function_that_is_not_there(source: str, name: str, message: str, module: Path) -> None:
    module.write_text(source)
    with pytest.raises(UserError, match=rf"rewards\.function {name}: .*{message}"):
        check_function(name)


def test_the_digest_is_of_the_file_that_was_imported(module: Path) -> None:
    source_digest.cache_clear()
    module.write_text("def f(graded): return 0\n")
    check_function("users:f")
    expected = hashlib.sha256(module.read_bytes()).hexdigest()
    module.write_text("def f(graded): return 1\n")
    assert source_digest("users:f") == expected


def test_an_exception_is_never_a_reward(module: Path) -> None:
    module.write_text(
        textwrap.dedent("""
        def f(graded):
            return {"made-up": 1}[graded.verdict.task_id]
        """)
    )
    check_function("users:f")
    with pytest.raises(UserError, match=r"users:f, task t0, completion c0: it raised KeyError: 't0'"):
        score_one(TOKENS, make_verdict(P), rewards_of("rltf", function="users:f"))


@pytest.mark.parametrize("name", ["concise", "users.concise", "users:", ":f", "users:f()", "my-users:f"])
def test_names_are_checked(name: str) -> None:
    with pytest.raises(ValidationError, match="function"):
        rewards_of("rltf", function=name)


def test_a_greedy_baseline_does_not_know_it() -> None:
    with pytest.raises(ValidationError, match=r"set rewards\.custom_weight to 0, or rewards\.baseline to"):
        Settings.model_validate({"algorithm": "rltf-paper", "rewards": {"function": "users:f"}})
    Settings.model_validate({"algorithm": "rltf-paper", "rewards": {"function": "users:f", "custom_weight": 0}})
