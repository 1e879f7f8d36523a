"""vLLM in a process of its own, without compiler: every model family, and bfloat16."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from rltf.actors.engine import SampledSequence
from rltf.transport.model_folder import end_token_ids, load_tokenizer
from tests.actors.engine_process import EngineProcess, engine_process
from tests.actors.sampling import Weights, engine_options, make_request, sequence_ids
from tests.families import CONTEXT, FAMILIES, WINDOW, build_family

# Longer than StarCoder2's window and the blocks of the key-value cache.
PROMPT = [20 + i % 350 for i in range(WINDOW + 20)]
MAX_TOKENS = 24


@pytest.fixture(scope="module")
def vllm_process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EngineProcess]:
    with engine_process(tmp_path_factory.mktemp("vllm")) as process:
        yield process


@torch.no_grad()
def logprobs(model: Any, sequence: SampledSequence) -> np.ndarray:
    """Log-probability [T] of each sampled token by transformers."""
    token_ids = sequence_ids(sequence)
    logits = model(torch.tensor([PROMPT + token_ids]), use_cache=False).logits[0, len(PROMPT) - 1 : -1]
    picked: np.ndarray = logits.log_softmax(-1).gather(-1, torch.tensor(token_ids)[:, None])[:, 0].numpy()
    return picked


@torch.no_grad()
def perturb(model: Any, seed: int) -> Weights:
    """Change every parameter, as an update would. Returns them by the names that the learner publishes."""
    random = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        parameter += 0.05 * torch.randn(parameter.shape, generator=random)
    return {name: parameter.detach() for name, parameter in model.named_parameters()}


@pytest.mark.parametrize(
    "family", [name if name == "llama" else pytest.param(name, marks=pytest.mark.long) for name in FAMILIES]
)
def test_sampler_and_transformers_agree_before_and_after_updates(
    family: str, vllm_process: EngineProcess, tmp_path: Path
) -> None:
    folder = build_family(family, tmp_path)
    end_ids = end_token_ids(folder, load_tokenizer(folder), chat=False)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)  # in evaluation mode already
    with vllm_process.engine(
        folder, engine_options("float32", CONTEXT, 16, kv_cache_bytes=2**25, end_token_ids=end_ids)
    ):
        for version in (0, 1, 2):
            if version:
                vllm_process.load_weights(version, perturb(model, version))
            finished = vllm_process.sample([make_request("a", PROMPT, num_samples=3, max_tokens=MAX_TOKENS)])["a"]
            assert finished.greedy is not None
            for sequence in (*finished.samples, finished.greedy):
                assert sequence.weight_versions[-1].version == version
                np.testing.assert_allclose(sequence.logprobs, logprobs(model, sequence), atol=1e-4, rtol=0)
            assert sequence_ids(finished.greedy) == greedy(model, end_ids)


def greedy(model: Any, end_ids: tuple[int, ...]) -> list[int]:
    """The answer of `generate` of transformers."""
    prompt = torch.tensor([PROMPT])
    output = model.generate(
        prompt,
        attention_mask=torch.ones_like(prompt),
        do_sample=False,
        max_new_tokens=MAX_TOKENS,
        eos_token_id=list(end_ids),
        pad_token_id=end_ids[0],
    )
    answer: list[int] = output[0, len(PROMPT) :].tolist()
    return answer


def test_bfloat16_is_sampled_and_updated_without_a_compiler(
    vllm_process: EngineProcess,
    tiny_model_dir: Path,
    make_weights: Callable[[int], Weights],
    reference_logprobs: Callable[..., torch.Tensor],
) -> None:
    """Other CPU kernels serve bfloat16 than float32. The sampler would compile functions for the nucleus."""
    assert vllm_process.compilers() == []
    prompt = PROMPT[:70]
    options = engine_options("bfloat16", 256, max_num_seqs=16, kv_cache_bytes=2**24, end_token_ids=(1,))
    with vllm_process.engine(tiny_model_dir, options):
        (finished,) = vllm_process.sample([make_request("nucleus", prompt, top_p=0.9)]).values()
        assert len(finished.samples) == 2
        for version in (1, 2):
            weights = {name: value * 0.5 for name, value in make_weights(version).items()}
            vllm_process.load_weights(version, weights)
            for sequence in vllm_process.sample([make_request("rounded", prompt, num_samples=8)])["rounded"].samples:
                assert sequence.weight_versions[-1].version == version
                expected = reference_logprobs(weights, prompt, sequence_ids(sequence)).numpy()
                # Rounding to 8 bits makes a few hundredths. Weights of another version would differ by whole units.
                assert np.abs(sequence.logprobs - expected).mean() < 0.1
