"""Graded rollouts as a file: what a checkpoint keeps of the buffer, bit for bit, without pickle."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from learner.experience import Experience, Experiences
from rewards import Granularity
from sandbox.verdict import Outcome

_ARRAYS = ("prompt_ids", "token_ids", "logprobs", "token_weights")
_DTYPES = (np.int32, np.int32, np.float32, np.float32)


def save_rollouts(path: Path, rollouts: Sequence[tuple[str, Sequence[Experience]]]) -> None:
    """Write rollouts (id, graded samples) as an `.npz`: each kind of array end to end, and a table in JSON."""
    samples = [sample for _, group in rollouts for sample in group]
    table = {
        "rollouts": [[rollout_id, len(group)] for rollout_id, group in rollouts],
        "samples": [
            {
                "task_id": sample.task_id,
                "completion_id": sample.completion_id,
                "lengths": [len(sample.prompt_ids), len(sample.token_ids)],
                "version": sample.version,
                "reward": sample.reward,
                "outcome": sample.outcome,
            }
            for sample in samples
        ],
    }
    arrays: dict[str, Any] = {
        name: np.concatenate([np.empty(0, dtype), *(getattr(sample, name).ravel() for sample in samples)])
        for name, dtype in zip(_ARRAYS, _DTYPES, strict=True)
    }
    np.savez(path, table=np.frombuffer(json.dumps(table).encode(), np.uint8), **arrays)


def load_rollouts(path: Path) -> list[tuple[str, Experiences]]:
    """Read what `save_rollouts` wrote."""
    with np.load(path, allow_pickle=False) as file:
        table = json.loads(file["table"].tobytes())
        arrays = {name: file[name] for name in _ARRAYS}
    ends = dict.fromkeys(_ARRAYS, 0)

    def part(name: str, length: int) -> Any:
        start, ends[name] = ends[name], ends[name] + length
        return arrays[name][start : ends[name]]

    samples: list[Experience] = []
    for row in table["samples"]:
        prompt_length, length = row["lengths"]
        samples.append(
            Experience(
                task_id=row["task_id"],
                completion_id=row["completion_id"],
                prompt_ids=part("prompt_ids", prompt_length),
                token_ids=part("token_ids", length),
                logprobs=part("logprobs", length),
                token_weights=part("token_weights", len(Granularity) * length).reshape(len(Granularity), length),
                version=row["version"],
                reward=row["reward"],
                outcome=Outcome(row["outcome"]),
            )
        )
    rollouts: list[tuple[str, Experiences]] = []
    for rollout_id, count in table["rollouts"]:
        rollouts.append((rollout_id, Experiences(samples[:count])))
        samples = samples[count:]
    return rollouts
