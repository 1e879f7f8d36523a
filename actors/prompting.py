"""From a problem to prompt ids, and from sampled ids to a completion with its program."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from actors.engine import FinishedRequest, SampledSequence
from actors.messages import RolloutRequest
from actors.model_folder import check_model_folder, load_tokenizer
from actors.types import Completion, FinishReason, Rollout
from errors import UserError
from problems.extraction import extract_program
from problems.prompts import encode_prompt
from problems.token_spans import decode_with_spans, keeps_code
from problems.types import Problem


class Prompter:
    """The tokenizer's side of a generator; not thread-safe, as fast tokenizers are not."""

    def __init__(self, model: Path, problems: Mapping[str, Problem], *, chat_template: bool) -> None:
        """Load the tokenizer of `model`. `problems` are by task id.

        Raises:
            UserError: no tokenizer that fits: see `load_tokenizer`; or one with a decoder that hides which
                characters a token stands for.
        """
        self.tokenizer = load_tokenizer(model, chat_template=chat_template)
        try:
            decode_with_spans(self.tokenizer, [])
        except TypeError as error:
            raise UserError(f"model.name: tokenizer in {model}: {error}") from error
        if check_model_folder(model).get("is_encoder_decoder") and not keeps_code(self.tokenizer):
            raise UserError(
                f"model.name: the tokenizer in {model} cannot write Python: line ends or indentation are lost; take a "
                "model of code, such as Salesforce/codet5-large"
            )
        self._problems = problems
        self._chat_template = chat_template

    def encode(self, task_id: str) -> list[int]:
        """The prompt's ids.

        Raises:
            ValueError: there is no such problem.
        """
        problem = self._problems.get(task_id)
        if problem is None:
            raise ValueError(f"task_id {task_id!r} is none of the generator's {len(self._problems)} problems")
        return encode_prompt(problem, self.tokenizer, chat=self._chat_template)

    def rollout(self, request: RolloutRequest, prompt_ids: list[int], finished: FinishedRequest) -> Rollout:
        """The sampled ids as completions: text, character spans, program."""
        ids = np.asarray(prompt_ids, dtype=np.int32)
        samples = tuple(
            self._completion(request, f"{request.rollout_id}/{i}", ids, sequence)
            for i, sequence in enumerate(finished.samples)
        )
        greedy = None
        if finished.greedy is not None:
            greedy = self._completion(request, f"{request.rollout_id}/greedy", ids, finished.greedy)
        return Rollout(request.rollout_id, request.task_id, samples, greedy)

    def _completion(
        self, request: RolloutRequest, completion_id: str, prompt_ids: np.ndarray, sequence: SampledSequence
    ) -> Completion:
        stopped = sequence.finish_reason is FinishReason.STOP
        # Not every tokenizer calls its end token special, so it is left out by position.
        text_ids = sequence.token_ids[:-1] if stopped else sequence.token_ids
        text, spans = decode_with_spans(self.tokenizer, text_ids)
        if stopped:
            spans = np.concatenate([spans, np.full((1, 2), len(text), dtype=np.int32)])
        start, end = extract_program(self._problems[request.task_id], text)
        return Completion(
            task_id=request.task_id,
            completion_id=completion_id,
            prompt_ids=prompt_ids,
            token_ids=sequence.token_ids,
            logprobs=sequence.logprobs,
            char_spans=spans,
            weight_versions=sequence.weight_versions,
            finish_reason=sequence.finish_reason,
            text=text,
            program_start=start,
            program_end=end,
        )
