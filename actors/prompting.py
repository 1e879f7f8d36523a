"""From a problem to prompt ids, and from sampled ids to a completion with its program."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from rltf.actors.engine import FinishedRequest, SampledSequence, SamplingRequest
from rltf.errors import UserError
from rltf.problems.extraction import extract_program
from rltf.problems.fences import end_of_thought
from rltf.problems.prompts import QUESTION, encode_feedback, encode_prompt, render_prompt
from rltf.problems.token_spans import decode_with_spans
from rltf.problems.types import Problem
from rltf.settings import ModelSettings
from rltf.transport.model_folder import load_tokenizer, prompt_format
from rltf.transport.rollouts import Completion, EarlierTurn, FinishReason, Rollout


class Prompter:
    """The part of a generator that needs the tokenizer. Not thread-safe, because fast tokenizers are not."""

    def __init__(
        self, model: Path, problems: Mapping[str, Problem], settings: ModelSettings, stop: Sequence[str] = ()
    ) -> None:
        """Load the tokenizer of `model`. `problems` are by task id. Programs end before the first text in `stop`.

        Raises UserError if it does not fit (see `load_tokenizer` and `prompt_format`), or if its decoder hides which
        characters a token stands for.
        """
        self.tokenizer = load_tokenizer(model)
        self.form = prompt_format(model, self.tokenizer, settings)
        question = Problem("question", QUESTION, "a question", ())
        self._in_thought = end_of_thought(render_prompt(question, self.form, self.tokenizer)) is not None
        try:
            decode_with_spans(self.tokenizer, [])
        except TypeError as error:
            raise UserError(f"model.name: tokenizer in {model}: {error}") from error
        self._problems = problems
        self._stop = tuple(stop)

    def encode(self, task_id: str, previous: EarlierTurn | None = None) -> list[int]:
        """The ids of a problem's prompt, or a dialogue's next one. Raises ValueError if the problem is unknown."""
        problem = self._problems.get(task_id)
        if problem is None:
            raise ValueError(f"task_id {task_id!r} is not one of the generator's {len(self._problems)} problems")
        if previous is None:
            return encode_prompt(problem, self.tokenizer, self.form)
        last = previous.completion
        answer_ids = last.token_ids.tolist()
        feedback_ids = encode_feedback(problem, previous.feedback, answer_ids, self.tokenizer, self.form)
        return [*last.prompt_ids.tolist(), *answer_ids, *feedback_ids]

    def rollout(self, request: SamplingRequest, finished: FinishedRequest) -> Rollout:
        """The sampled ids as completions: text, character spans, program. A dialogue keeps the ids of its sample."""
        rollout_id, task_id = request.rollout.rollout_id, request.rollout.task_id
        continued = None if request.previous is None else request.previous.completion.completion_id
        prompt_ids = np.asarray(request.prompt_ids, dtype=np.int32)
        samples = tuple(
            self._completion(request, continued or f"{rollout_id}/{i}", prompt_ids, sequence)
            for i, sequence in enumerate(finished.samples)
        )
        greedy = None
        if finished.greedy is not None:
            greedy = self._completion(request, continued or f"{rollout_id}/greedy", prompt_ids, finished.greedy)
        return Rollout(rollout_id, task_id, samples, greedy)

    def program_span(self, task_id: str, text: str) -> tuple[int, int]:
        """The characters [start, end) of a completion that are its program."""
        end = min((at for one in self._stop if (at := text.find(one)) >= 0), default=len(text))
        return extract_program(self._problems[task_id], text[:end], in_thought=self._in_thought)

    def _completion(
        self, request: SamplingRequest, completion_id: str, prompt_ids: np.ndarray, sequence: SampledSequence
    ) -> Completion:
        task_id, previous = request.rollout.task_id, request.previous
        stopped = sequence.finish_reason is FinishReason.STOP
        # Not every tokenizer marks its end token as special, so it is dropped by position.
        text_ids = sequence.token_ids[:-1] if stopped else sequence.token_ids
        text, spans = decode_with_spans(self.tokenizer, text_ids)
        if stopped:
            spans = np.concatenate([spans, np.full((1, 2), len(text), dtype=np.int32)])
        start, end = self.program_span(task_id, text)
        return Completion(
            task_id=task_id,
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
            earlier=() if previous is None else (*previous.completion.earlier, _bare(previous)),
        )


def _bare(turn: EarlierTurn) -> EarlierTurn:
    """The turn without those before it, which the dialogue lists itself."""
    return replace(turn, completion=replace(turn.completion, earlier=()))
