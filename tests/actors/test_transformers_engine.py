"""What only the transformers engine has to handle: rows of different ages in one batch."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel, MistralConfig, MistralForCausalLM

from rltf.actors.engine import FinishedRequest, SampledSequence, SamplingRequest
from rltf.actors.transformers_engine import TransformersEngine
from rltf.transport.rollouts import VersionSpan
from tests.actors.sampling import engine_options, make_request, sequence_ids
from tests.tiers import first_fast

CONTEXT = 40
PROMPT = list(range(10, 49))


@pytest.fixture(params=first_fast(["mistral", "gpt2"]))
def folder(request: pytest.FixtureRequest, tiny_model_dir: Path, tmp_path: Path) -> Path:
    """A model without positions beyond its context, and one that sees only a window of 8 tokens."""
    torch.manual_seed(0)
    if request.param == "gpt2":
        shape = GPT2Config(vocab_size=320, n_embd=32, n_layer=2, n_head=2, n_positions=CONTEXT, initializer_range=0.3)
        GPT2LMHeadModel(shape).save_pretrained(tmp_path)  # type: ignore[no-untyped-call]
    else:
        config = MistralConfig(
            vocab_size=320,
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=1,
            sliding_window=8,
            initializer_range=0.3,
        )
        MistralForCausalLM(config).save_pretrained(tmp_path)  # type: ignore[no-untyped-call]
    for file in tiny_model_dir.glob("tokenizer*"):
        shutil.copy(file, tmp_path)
    return tmp_path


@pytest.mark.parametrize("max_num_seqs", first_fast([5, 64]))
def test_full_rows_and_rows_that_join_late_do_not_affect_others(folder: Path, max_num_seqs: int) -> None:
    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    model.eval()
    engine = TransformersEngine(folder, engine_options("float32", CONTEXT, max_num_seqs, 2**24, ()))
    lengths = {"many": 4, "full": 38, "fuller": 39, "short": 1, "late": 25}
    results: list[FinishedRequest] = []
    for name, length in lengths.items():
        engine.add_request(
            make_request(name, PROMPT[:length], num_samples=40 if name == "many" else 1, max_tokens=CONTEXT)
        )
        results += engine.step()
    engine.load_weights(1, model.named_parameters())  # in the middle: the whole cache is recomputed
    while engine.num_unfinished:
        results += engine.step()
    finished = {result.request_id: result for result in results}
    for name, length in lengths.items():
        greedy = finished[name].greedy
        assert greedy is not None
        for sequence in (*finished[name].samples, greedy):
            ids = sequence_ids(sequence)
            assert len(ids) == CONTEXT - length
            with torch.no_grad():
                logprobs = model(input_ids=torch.tensor([[*PROMPT[:length], *ids]])).logits[0].log_softmax(-1)
            expected = logprobs[range(length - 1, CONTEXT - 1), ids]
            np.testing.assert_allclose(sequence.logprobs, expected.numpy(), atol=1e-4, rtol=0)


def test_completions_continue_a_prefix(folder: Path) -> None:
    engine = TransformersEngine(folder, engine_options("float32", CONTEXT, 8, 2**24, ()))
    whole = complete(engine, make_request("whole", PROMPT[:5], max_tokens=12))
    prefix = sequence_ids(whole)[:7]
    rest = complete(engine, make_request("rest", PROMPT[:5], prefix_ids=prefix, max_tokens=5))
    assert [*prefix, *sequence_ids(rest)] == sequence_ids(whole)
    np.testing.assert_allclose(rest.logprobs, whole.logprobs[7:], rtol=1e-4)
    assert rest.weight_versions == (VersionSpan(0, 5, 0),)
    with pytest.raises(ValueError, match="has 40 tokens and leaves no room"):
        engine.add_request(make_request("full", PROMPT[:5], prefix_ids=PROMPT[:35]))


def complete(engine: TransformersEngine, request: SamplingRequest) -> SampledSequence:
    """The greedy decode of a request."""
    engine.add_request(request)
    while not (finished := engine.step()):
        pass
    assert finished[0].greedy is not None
    return finished[0].greedy
