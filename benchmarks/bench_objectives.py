"""Compares the time of an update of every objective with that of `rltf`, on the same sampled programs.

    PYTHONPATH=. python benchmarks/bench_objectives.py

Prints one JSON object per algorithm: the median milliseconds of CPU time of an update, on one thread, and their `ratio`
to `rltf`, which is measured before each of them. There are no reference programs, so the difference is that of the
objective: a KL term, a recomputed old policy and a value head take forward passes of their own.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import numpy as np

from benchmarks.bench_learner import SMALL, VOCABULARY, build_model, draw_sequences, measure


def seconds_of(model: Path, algorithm: str) -> float:
    """Median seconds of an update with one thread."""
    import torch

    from rltf.learner.data import Experience
    from rltf.learner.learner import Learner
    from rltf.rewards import Granularity
    from rltf.sandbox.verdict import Outcome
    from rltf.settings import Settings

    torch.set_num_threads(1)
    learner_settings = {
        "num_gpus": 0,
        "micro_batch_tokens": 8192,
        "row_tokens": 1024,
        "loss": {"supervised_weight": 0},
        "optim": {"learning_rate": 1e-5},
    }
    settings = Settings.model_validate(
        {"algorithm": algorithm, "model": {"dtype": "float32"}, "learner": learner_settings}
    )
    learner = Learner(model, settings)
    experiences = []
    for index, (prompt, completion) in enumerate(draw_sequences(SMALL, shared_prompts=True)):
        weights = np.zeros((len(Granularity), len(completion)), np.float32)
        weights[0] = 1.0 if index % 2 else -1.0
        logprobs = np.full(len(completion), -np.log(VOCABULARY), np.float32)
        experiences.append(Experience("t", str(index), prompt, completion, logprobs, weights, 0, 0.0, Outcome.FAILED))
    return measure(SMALL, lambda: learner.update(learner.prepare_with(experiences, [])))


def main() -> None:
    """Measure every algorithm beside `rltf`."""
    from rltf.settings import Algorithm

    with tempfile.TemporaryDirectory() as folder:
        model = Path(folder)
        build_model(model, SMALL)
        for algorithm in Algorithm:
            before, seconds = seconds_of(model, Algorithm.RLTF), seconds_of(model, algorithm)
            row = {"algorithm": algorithm.value, "ms": round(1000 * seconds, 1), "ratio": round(seconds / before, 2)}
            print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
