"""Engines without the generator actor.

The transformers engine compared with `generate` of transformers, on the same prompts in the same process; and vLLM with
its core in a process of its own compared with all of it in one.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from rltf.actors.engine import SamplingEngine
    from rltf.settings import GeneratorSettings, ModelSettings

NUM_PROMPTS = 16
NUM_SAMPLES = 8
PROMPT_TOKENS = (20, 120)
MAX_TOKENS = 96
VOCABULARY = 8192
# So many ids end a completion that completions of a random model have all lengths, with a mean of 50 tokens.
END_IDS = tuple(range(1, VOCABULARY // 50))


def transformers_engine(folder: Path, repeats: int, encoder_decoder: bool) -> dict[str, Any]:
    """Sampled tokens per second of the engine and of `generate`, and their ratio. One thread, float32."""
    import torch

    from rltf.actors.engine import EngineOptions
    from rltf.actors.transformers_engine import TransformersEngine
    from rltf.settings import GeneratorSettings, ModelSettings

    torch.set_num_threads(1)
    model = _build(folder, encoder_decoder=encoder_decoder)
    model.save_pretrained(folder)
    generator = GeneratorSettings(max_num_seqs=NUM_PROMPTS * NUM_SAMPLES)
    options = EngineOptions(ModelSettings(dtype="float32", max_model_len=512), generator, END_IDS)
    engine = TransformersEngine(folder, options)
    prompts = _prompts(NUM_PROMPTS)

    def theirs(repeat: int) -> float:
        torch.manual_seed(repeat)
        longest = max(map(len, prompts))
        ids = torch.tensor([[0] * (longest - len(prompt)) + prompt for prompt in prompts])
        mask = torch.tensor([[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts])
        began = time.perf_counter()
        output = model.generate(
            ids,
            attention_mask=mask,
            do_sample=True,
            top_k=0,
            num_return_sequences=NUM_SAMPLES,
            max_new_tokens=MAX_TOKENS,
            return_dict_in_generate=True,
            output_logits=True,  # the engine also returns log-probabilities
        )
        new = output.sequences[:, 1 if encoder_decoder else longest :]
        is_end = torch.isin(new, torch.tensor(END_IDS)).int()
        num_tokens = int((is_end.cumsum(-1) - is_end == 0).sum())
        logprobs = torch.stack(output.logits, 1).log_softmax(-1).gather(-1, new[..., None])
        assert logprobs.isfinite().all()
        return num_tokens / (time.perf_counter() - began)

    rows = [(_ours(engine, prompts, repeat), theirs(repeat)) for repeat in range(repeats + 1)][1:]
    engine.close()
    return {
        "tokens_per_s": round(statistics.median(row[0] for row in rows)),
        "generate_tokens_per_s": round(statistics.median(row[1] for row in rows)),
        "ratio": round(statistics.median(a / b for a, b in rows), 3),
    }


def core_process(
    model: Path, repeats: int, settings: ModelSettings, generator: GeneratorSettings, num_prompts: int
) -> dict[str, Any]:
    """Sampled tokens per second of two vLLM engines of `model` in turns, and their ratio."""
    from rltf.actors.engine import EngineOptions
    from rltf.actors.vllm_engine import VllmEngine

    options = EngineOptions(settings, generator, END_IDS)
    separate, within = (VllmEngine(model, options, core_process=own) for own in (True, False))
    prompts = _prompts(num_prompts)
    rows = [[_ours(engine, prompts, repeat) for engine in (separate, within)] for repeat in range(repeats + 1)][1:]
    for engine in (separate, within):
        engine.close()
    return {
        "core_process_tokens_per_s": round(statistics.median(row[0] for row in rows)),
        "in_process_tokens_per_s": round(statistics.median(row[1] for row in rows)),
        "ratio": round(statistics.median(a / b for a, b in rows), 3),
    }


def _prompts(number: int) -> list[list[int]]:
    random = np.random.default_rng(0)
    return [
        random.integers(END_IDS[-1] + 1, VOCABULARY, random.integers(*PROMPT_TOKENS)).tolist() for _ in range(number)
    ]


def _ours(engine: SamplingEngine, prompts: Sequence[list[int]], repeat: int) -> float:
    """Tokens per second."""
    from rltf.actors.engine import SamplingRequest
    from rltf.actors.messages import RolloutRequest

    began = time.perf_counter()
    for index, prompt in enumerate(prompts):
        seed = 1000 * repeat + 10 * index
        request = RolloutRequest(f"{repeat}/{index}", "", NUM_SAMPLES, False, 1.0, 1.0, MAX_TOKENS, seed)
        engine.add_request(SamplingRequest(request, prompt))
    num_tokens = 0
    while engine.num_unfinished:
        for finished in engine.step():
            num_tokens += sum(len(sample.token_ids) for sample in finished.samples)
    return num_tokens / (time.perf_counter() - began)


def _build(folder: Path, *, encoder_decoder: bool) -> Any:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM, T5Config, T5ForConditionalGeneration

    torch.manual_seed(0)
    ids: dict[str, Any] = {"vocab_size": VOCABULARY, "pad_token_id": 0, "eos_token_id": list(END_IDS)}
    if encoder_decoder:
        ids |= {"decoder_start_token_id": 0}
        shape: dict[str, Any] = {"d_model": 256, "d_kv": 64, "d_ff": 1024, "num_layers": 4, "num_heads": 4}
        model: Any = T5ForConditionalGeneration(T5Config(**ids, **shape))
    else:
        shape = {"hidden_size": 256, "intermediate_size": 768, "num_hidden_layers": 4, "num_attention_heads": 4}
        model = LlamaForCausalLM(LlamaConfig(**ids, **shape, bos_token_id=None))  # type: ignore[no-untyped-call]
    return model.eval()
