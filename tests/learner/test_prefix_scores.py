"""The critic's score of every prefix of a program, in one pass."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from rltf.learner.critic import ErrorCritic, program_logits
from rltf.learner.data import TokenSequence
from rltf.learner.error_classes import ERROR_CLASSES
from rltf.learner.prefix_scores import ProgramScores, passing_scores, score_programs
from rltf.settings import Dtype
from tests.encoder_decoder_models import build_encoder_decoder
from tests.learner.samples import make_experiences, plain_class_logits


def test_golden_values() -> None:
    """Of a binary critic, whose classes are failed and passed."""
    scores = passing_scores(torch.tensor([[0.0, 0.5], [1, 0], [0.2, 2], [3, 0]])).numpy()
    np.testing.assert_allclose(scores, [0.6225, 0.3775, 0.7311, 0.2689], atol=5e-5)
    assert ProgramScores(scores, float(scores[-1]), 0).cut(4) == 3


@given(arrays(np.float32, st.tuples(st.integers(1, 8), st.just(4)), elements=st.floats(-9, 9, width=32)))
def test_scores_are_those_of_each_prefix_by_itself(logits: np.ndarray) -> None:
    whole = torch.from_numpy(logits)
    slow = []
    for length in range(1, len(whole) + 1):
        pooled = program_logits(whole[:length], torch.zeros(length, dtype=torch.int64))
        slow.append(pooled.softmax(-1)[0, ERROR_CLASSES.index("passed")])
    torch.testing.assert_close(passing_scores(whole), torch.stack(slow))


@given(st.lists(st.floats(0, 1, width=32), max_size=8), st.integers(-2, 10))
def test_the_cut_is_the_best_prefix_within_the_limit(scores: list[float], longest: int) -> None:
    cut = ProgramScores(np.array(scores, np.float32), 0.0, 0).cut(longest)
    possible = scores[: max(longest, 0)]
    if not possible:
        assert cut == 0
        return
    assert possible[cut - 1] == max(possible)
    assert all(score < max(possible) for score in possible[: cut - 1])


@pytest.mark.parametrize("kind", ["decoder-only", "codet5"])
def test_one_pass_equals_a_pass_for_each_prefix(kind: str, tiny_model_dir: Path, tmp_path: Path) -> None:
    folder = tiny_model_dir if kind == "decoder-only" else build_encoder_decoder(kind, tmp_path / kind)
    critic = ErrorCritic(folder, compute_dtype=Dtype.FLOAT32, device=torch.device("cpu"))
    programs = [TokenSequence(one.prompt_ids, one.token_ids) for one in make_experiences(0, num_rollouts=2)]
    found = score_programs(critic, programs)
    for program, scores in zip(programs, found, strict=True):
        assert len(scores.prefixes) == len(program.token_ids) - 1
        slow = []
        with torch.no_grad():
            for length in range(len(program.token_ids)):
                # The state after the first `length` tokens predicts the next one, whatever that is.
                part = TokenSequence(program.prompt_ids, np.append(program.token_ids[:length], np.int32(5)))
                slow.append(plain_class_logits(critic, part).amax(0))
        expected = torch.stack(slow).softmax(-1)[:, -1].numpy()
        np.testing.assert_allclose(scores.prefixes, expected[1:], rtol=1e-4)
        assert scores.whole == pytest.approx(expected[-1], rel=1e-4)
        assert scores.error_class == int(slow[-1].argmax())
