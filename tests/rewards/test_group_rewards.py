"""Outcome rewards, advantages relative to the group, the overlong penalty, and rewards on the last token."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

from rltf.rewards import Granularity, score_group
from rltf.sandbox.verdict import Outcome
from rltf.settings import Algorithm, RewardSettings, rewards_of
from tests.rewards.samples import character_tokens, make_verdict

P, F, R, S = Outcome.PASSED, Outcome.FAILED, Outcome.RUNTIME_ERROR, Outcome.SYNTAX_ERROR


def weights(settings: RewardSettings, outcomes: Sequence[Outcome], *, length: int = 3) -> list[NDArray[np.float32]]:
    """The token weights of programs of `length` tokens with these outcomes."""
    programs = [character_tokens("x" * (length - 1)) for _ in outcomes]
    verdicts = [make_verdict(o, (o,), completion_id=f"c{i}") for i, o in enumerate(outcomes)]
    samples = score_group(programs, verdicts, settings, max_tokens=512).samples
    return [sample.token_weights for sample in samples if sample is not None]


def advantages(algorithm: str, outcomes: Sequence[Outcome], **fields: object) -> list[float]:
    found = [w.sum(0) for w in weights(rewards_of(algorithm, **fields), outcomes)]
    assert all((row == row[0]).all() for row in found)
    return [float(row[0]) for row in found]


@pytest.mark.parametrize(
    ("algorithm", "expected"),
    [
        ("grpo", [1.4153, -0.0867, -0.4333, -0.8954]),
        ("dr-grpo", [1.225, -0.075, -0.375, -0.775]),
        ("rloo", [1.6333, -0.1, -0.5, -1.0333]),
    ],
)
def test_relative_to_the_group(algorithm: str, expected: list[float]) -> None:
    """Rewards 1, -0.3, -0.6 and -1."""
    assert advantages(algorithm, [P, F, R, S], outcome="coarse") == pytest.approx(expected, abs=1e-4)


def test_binary_rewards() -> None:
    assert advantages("grpo", [P, P, F, S]) == pytest.approx([0.8660, 0.8660, -0.8660, -0.8660], abs=1e-4)
    assert advantages("dapo", [P, P, F, S]) == pytest.approx([0.8660, 0.8660, -0.8660, -0.8660], abs=1e-4)
    assert advantages("dr-grpo", [P, P, F, S], outcome="sign") == pytest.approx([1, 1, -1, -1])


@pytest.mark.parametrize("outcomes", [[P, P, P], [S, S], [F]])
def test_equal_rewards_say_nothing(outcomes: list[Outcome]) -> None:
    for algorithm in ("grpo", "dapo", "gspo", "cispo"):
        assert advantages(algorithm, outcomes) == [0.0] * len(outcomes)


@pytest.mark.parametrize(("length", "penalty"), [(384, 0.0), (448, -0.5), (512, -1.0), (100, 0.0)])
def test_overlong_completions_earn_less(length: int, penalty: float) -> None:
    settings = rewards_of("dapo", baseline="none", scale_rewards="none")
    (row,) = weights(settings, [P], length=length)
    assert row.sum(0) == pytest.approx(1 + penalty)


def test_structure_earns_on_the_last_token() -> None:
    reference = "def f(a):\n    b = a + 1\n    return b\n"
    program = "def f(a):\n    return a + 1\n"  # AST match 0.25, data-flow match 0.4
    verdict = make_verdict(F, (F,))
    (scored,) = score_group(
        [character_tokens(program)], [verdict], rewards_of("ppocoder"), references=[reference]
    ).samples
    assert scored is not None
    assert [scored.coarse, scored.structure] == pytest.approx([-0.3, 0.65])
    assert scored.token_weights[Granularity.STRUCTURE].tolist() == pytest.approx([0.0] * len(program) + [0.65])
    assert scored.token_weights.sum() == pytest.approx(0.35)


def test_the_last_token_carries_the_reward() -> None:
    (row,) = weights(rewards_of("ppo"), [P], length=5)
    assert row[Granularity.COARSE].tolist() == [0, 0, 0, 0, 1]
    assert not np.delete(row, Granularity.COARSE, axis=0).any()


@pytest.mark.parametrize("algorithm", [one.value for one in Algorithm])
def test_the_overlong_filter_takes_out_what_was_cut_off_and_changes_no_other_weight(algorithm: str) -> None:
    programs = [character_tokens("x = 1", truncated=place == 1) for place in range(4)]
    verdicts = [make_verdict(o, (o,), completion_id=f"c{i}") for i, o in enumerate((P, F, R, P))]
    without, kept = (
        score_group(programs, verdicts, rewards_of(algorithm, overlong_filter=on), max_tokens=5).samples
        for on in (False, True)
    )
    assert [sample.filtered for sample in kept if sample] == [False, True, False, False]
    assert not any(sample.filtered for sample in without if sample)
    for place in (0, 2, 3):
        np.testing.assert_array_equal(kept[place].token_weights, without[place].token_weights)  # type: ignore[union-attr]
    assert not kept[1].token_weights.any()  # type: ignore[union-attr]


def test_a_dialogue_is_filtered_if_any_of_its_answers_was_cut_off() -> None:
    whole, cut = character_tokens("x = 1"), character_tokens("x = 1", truncated=True)
    dialogues = [((cut,), whole), ((whole,), cut), ((whole,), whole), ((), whole)]
    verdicts = [make_verdict(o, (o,), completion_id=f"c{i}") for i, o in enumerate((P, P, P, F))]
    samples = score_group(
        [last for _, last in dialogues],
        verdicts,
        rewards_of("grpo", overlong_filter=True),
        max_tokens=5,
        earlier=[[(turn, make_verdict(F, (F,))) for turn in turns] for turns, _ in dialogues],
    ).samples
    assert [sample.filtered for sample in samples if sample] == [True, True, False, False]
    has_weights = [[part.token_weights.any() for part in (*one.earlier, one)] for one in samples if one]
    assert has_weights == [[False, False], [False, False], [True, True], [True]]
