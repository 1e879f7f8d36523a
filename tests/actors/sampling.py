"""Requests for the tests of engines."""

from __future__ import annotations

import torch

from actors.engine import SampledSequence, SamplingRequest
from actors.messages import RolloutRequest

Weights = dict[str, torch.Tensor]


def make_request(request_id: str, prompt_ids: list[int], **changes: object) -> SamplingRequest:
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
    return SamplingRequest(rollout, prompt_ids)


def sequence_ids(sequence: SampledSequence) -> list[int]:
    return [int(i) for i in sequence.token_ids]
