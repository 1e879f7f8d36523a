"""For every model family: packed rows equal single sequences, and checkpoints are plain models."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from rltf.learner.data import TokenSequence
from rltf.learner.packing import pack
from rltf.learner.policy import Policy
from rltf.settings import Dtype
from tests.families import FAMILIES, build_family
from tests.learner.samples import plain_logprobs
from tests.tiers import first_fast

# A row of many sequences has more tokens than StarCoder2's window or GPT-2's learned positions.
ROW_TOKENS = 1024


def sequences() -> list[TokenSequence]:
    """Prompts with one or several completions, up to the length that every family can attend to."""
    random = np.random.default_rng(0)
    found = []
    for prompt_length, lengths in ((40, (1, 30, 88)), (1, (100,)), (90, (38, 20, 5)), (64, (64,) * 8)):
        prompt = random.integers(2, 390, prompt_length, dtype=np.int32)
        found += [TokenSequence(prompt, random.integers(2, 390, length, dtype=np.int32)) for length in lengths]
    return found


@pytest.mark.parametrize("family", first_fast(FAMILIES))
def test_packed_rows_equal_single_sequences(family: str, tmp_path: Path) -> None:
    policy = Policy(build_family(family, tmp_path), compute_dtype=Dtype.FLOAT32, device=torch.device("cpu"))
    (batch,) = pack(sequences(), micro_batch_tokens=2 * ROW_TOKENS, row_tokens=ROW_TOKENS)
    assert batch.input_ids.shape[1] > 512
    packed, _ = policy.logprobs(batch, torch.ones(len(batch.target)))
    plain = torch.cat([plain_logprobs(policy, sequence, 1.0) for sequence in sequences()])
    torch.testing.assert_close(packed, plain[batch.source], rtol=0, atol=1e-5)


@pytest.mark.parametrize("family", first_fast(FAMILIES))
def test_saved_models_are_plain_models(family: str, tmp_path: Path) -> None:
    original = build_family(family, tmp_path / "original")
    policy = Policy(original, compute_dtype=Dtype.FLOAT32, device=torch.device("cpu"))
    with torch.no_grad():
        for parameter in policy.model.parameters():
            parameter += 0.01
    policy.save(tmp_path / "saved")
    saved = AutoModelForCausalLM.from_pretrained(tmp_path / "saved", dtype=torch.float32)
    assert type(saved) is type(AutoModelForCausalLM.from_pretrained(original))
    ids = torch.arange(20, 100)[None]
    with torch.no_grad():
        assert torch.equal(saved(ids).logits, policy.model(ids).logits)
    text = "def solve(values):\n    return values[0]  # é\n"
    tokenizers = [AutoTokenizer.from_pretrained(folder) for folder in (original, tmp_path / "saved")]
    assert tokenizers[0].encode(text) == tokenizers[1].encode(text)
