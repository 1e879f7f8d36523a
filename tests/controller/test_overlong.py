"""Samples that were cut off: a sandbox worker leaves them out of what it buffers, and counts them."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import ray

from rltf.controller.grading import GradedRollout, GradingWorker
from rltf.learner.buffer import Added, RolloutMeta
from rltf.learner.data import Experiences
from rltf.problems.types import Problem, StdinTest
from rltf.settings import SandboxSettings, rewards_of
from rltf.transport.rollouts import Completion, FinishReason, Rollout, VersionSpan

PROBLEM = Problem("p", "jsonl", "Print 1.", (StdinTest("", "1\n"),))
RIGHT, WRONG = "print(1)", "print(2)"
WHOLE, CUT = FinishReason.STOP, FinishReason.LENGTH


class Buffer:
    """Takes what a worker adds."""

    def __init__(self) -> None:
        self.added: list[Experiences] = []
        self.add = SimpleNamespace(remote=self._add)

    def _add(self, rollout_id: str, experiences: Experiences) -> Added:
        self.added.append(experiences)
        return Added("epoch", RolloutMeta(rollout_id, len(experiences), 0, 0))


@pytest.fixture
def buffer(monkeypatch: pytest.MonkeyPatch) -> Buffer:
    """A buffer in this process, and a Ray whose references are the objects."""
    monkeypatch.setattr(ray, "get", lambda ref, timeout: ref)
    return Buffer()


def completion(number: int, program: str, reason: FinishReason) -> Completion:
    ids = np.arange(len(program), dtype=np.int32)
    return Completion(
        task_id="p",
        completion_id=f"r/{number}",
        prompt_ids=np.array([1], np.int32),
        token_ids=ids,
        logprobs=np.zeros(len(ids), np.float32),
        char_spans=np.stack([ids, ids + 1], axis=1),
        weight_versions=(VersionSpan(0, len(ids), 0),),
        finish_reason=reason,
        text=program,
        program_start=0,
        program_end=len(program),
    )


def graded(buffer: Buffer, algorithm: str, *samples: tuple[str, FinishReason]) -> GradedRollout:
    rewards = rewards_of(algorithm, overlong_filter=True)
    worker = GradingWorker({"p": PROBLEM}, SandboxSettings(), rewards, buffer, None, 8)
    worker.start()
    try:
        completions = tuple(completion(number, *sample) for number, sample in enumerate(samples))
        return worker.grade_rollout([Rollout("r", "p", completions, None)], None, 4)  # type: ignore[list-item]
    finally:
        worker.close()


def test_what_was_cut_off_counts_for_the_others_only(buffer: Buffer) -> None:
    found = graded(buffer, "grpo", (RIGHT, WHOLE), (WRONG, CUT), (RIGHT, CUT), (WRONG, WHOLE))
    assert (found.num_samples, found.num_passed, found.num_overlong, found.num_truncated) == (4, 2, 2, 2)
    assert found.has_signal
    (experiences,) = buffer.added
    assert [experience.completion_id for experience in experiences] == ["r/0", "r/3"]
    # The rewards of all four are 1, 0, 1 and 0.
    assert [one.token_weights.sum(0)[0] for one in experiences] == pytest.approx([0.8660, -0.8660], abs=1e-4)
    shown = [{mark.weight for mark in sample.tokens} for sample in found.shown]
    assert shown[1] == shown[2] == {0.0}


def test_nothing_is_buffered_if_nothing_is_left_or_the_rest_teaches_nothing(buffer: Buffer) -> None:
    none_left = graded(buffer, "grpo", (RIGHT, CUT), (WRONG, CUT))
    assert (none_left.num_samples, none_left.num_overlong, none_left.has_signal) == (2, 2, False)
    silent = graded(buffer, "dapo", (WRONG, WHOLE), (WRONG, CUT))
    assert (silent.num_samples, silent.num_overlong, silent.has_signal) == (2, 1, False)
    assert none_left.added is None
    assert silent.added is None
    assert buffer.added == []
