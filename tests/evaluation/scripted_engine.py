"""An engine that says what a script says, with a real tokenizer. What was asked of it is recorded."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import torch

from rltf.actors.engine import FinishedRequest, SampledSequence, SamplingEngine, SamplingRequest
from rltf.transport.model_folder import load_tokenizer
from rltf.transport.rollouts import FinishReason, VersionSpan

Script = Callable[[str, str, int], str]
"""From the text of a prompt, that of a prefix, and the number of a sample to what is said after both."""


class ScriptedEngine(SamplingEngine):
    """Answers each request in the next step. A completion ends with the end token."""

    def __init__(self, model: Path, script: Script, asked: list[SamplingRequest]) -> None:
        self._tokenizer = load_tokenizer(model)
        self._script = script
        self._asked = asked
        self._waiting: list[SamplingRequest] = []

    def add_request(self, request: SamplingRequest) -> None:
        self._asked.append(request)
        self._waiting.append(request)

    def step(self) -> list[FinishedRequest]:
        waiting, self._waiting = self._waiting, []
        return [FinishedRequest(one.request_id, tuple(self._samples(one)), None) for one in waiting]

    def _samples(self, request: SamplingRequest) -> Iterable[SampledSequence]:
        prompt, prefix = (self._tokenizer.decode(list(ids)) for ids in (request.prompt_ids, request.prefix_ids))
        for number in range(request.rollout.num_samples):
            text = self._script(str(prompt), str(prefix), number)
            ids = [*self._tokenizer.encode(text, add_special_tokens=False), self._tokenizer.eos_token_id]
            ids, reason = ids[: request.rollout.max_tokens], FinishReason.STOP
            if ids[-1] != self._tokenizer.eos_token_id:
                reason = FinishReason.LENGTH
            span = VersionSpan(0, len(ids), 0)
            yield SampledSequence(np.array(ids, np.int32), np.zeros(len(ids), np.float32), (span,), reason)

    def load_weights(self, version: int, named_tensors: Iterable[tuple[str, torch.Tensor]]) -> None:
        raise AssertionError("an evaluation does not change weights")

    @property
    def num_unfinished(self) -> int:
        return sum(one.rollout.num_samples for one in self._waiting)

    def close(self) -> None:
        """Nothing is held."""
