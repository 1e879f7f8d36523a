"""Requests for the tests of engines."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from rltf.actors.engine import EngineOptions, SampledSequence, SamplingRequest
from rltf.actors.messages import RolloutRequest
from rltf.settings import Dtype, GeneratorSettings, ModelSettings

Weights = dict[str, torch.Tensor]


def engine_options(
    dtype: str,
    max_model_len: int,
    max_num_seqs: int,
    kv_cache_bytes: int,
    end_token_ids: tuple[int, ...],
    num_workers: int = 1,
) -> EngineOptions:
    generator = GeneratorSettings(
        max_num_seqs=max_num_seqs, kv_cache_bytes=kv_cache_bytes, tensor_parallel_size=num_workers
    )
    return EngineOptions(ModelSettings(dtype=Dtype(dtype), max_model_len=max_model_len), generator, end_token_ids)


def make_request(
    request_id: str, prompt_ids: list[int], prefix_ids: Sequence[int] = (), **changes: object
) -> SamplingRequest:
    """A sampling request with defaults for tests."""
    fields: dict[str, object] = {
        "num_samples": 2,
        "greedy": True,
        "temperature": 1.0,
        "top_p": 1.0,
        "max_tokens": 24,
        "seed": 7,
    }
    rollout = RolloutRequest(request_id, "", **(fields | changes))  # type: ignore[arg-type]
    return SamplingRequest(rollout, prompt_ids, prefix_ids=prefix_ids)


def sequence_ids(sequence: SampledSequence) -> list[int]:
    return [int(i) for i in sequence.token_ids]
