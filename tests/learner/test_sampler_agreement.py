"""At learning rate 0, the log-probabilities of vLLM and of the learner stay equal."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from rltf.actors.engine import build_engine
from rltf.learner.data import Experience
from rltf.rewards import Granularity
from rltf.sandbox.verdict import Outcome
from rltf.settings import GeneratorSettings, ModelSettings
from rltf.transport.model_folder import end_token_ids, load_tokenizer
from tests.actors.sampling import make_request
from tests.learner.samples import make_learner, make_references, random_ids

NUM_UPDATES = 50
REFRESH_EVERY = 5
TEMPERATURE = 0.8


@pytest.mark.ray
def test_ratio_to_vllm_stays_one_at_learning_rate_zero(tiny_model_dir: Path) -> None:
    model = ModelSettings(dtype="float32", max_model_len=256)
    sampling = GeneratorSettings(num_gpus=0, max_num_seqs=16, kv_cache_bytes=64 * 2**20)
    engine = build_engine(
        tiny_model_dir,
        model,
        sampling,
        end_token_ids(tiny_model_dir, load_tokenizer(tiny_model_dir), chat=False),
        seed=0,
    )
    learner = make_learner(tiny_model_dir, learning_rate=0.0)
    learner.set_references(make_references(0))
    random = np.random.default_rng(0)
    for update in range(NUM_UPDATES):
        if update % REFRESH_EVERY == 0:
            engine.load_weights(update, learner.policy.model.named_parameters())
        prompt_ids = random_ids(random, 12)
        request = make_request(str(update), prompt_ids.tolist(), temperature=TEMPERATURE, num_samples=4, greedy=False)
        engine.add_request(request)
        finished = []
        while engine.num_unfinished:
            finished += engine.step()
        experiences = [
            Experience(
                "task",
                f"{update}/{index}",
                prompt_ids.astype(np.int32),
                sequence.token_ids,
                sequence.logprobs,
                random.normal(size=(len(Granularity), len(sequence.token_ids))).astype(np.float32),
                sequence.weight_versions[0].version,
                -0.3,
                Outcome.FAILED,
            )
            for index, sequence in enumerate(finished[0].samples)
        ]
        stats = learner.update(learner.prepare(experiences))
        assert abs(stats.ratio_mean - 1) < 1e-4
        assert abs(stats.ratio_max - 1) < 1e-4
        assert stats.mismatch_max < 1e-4
        assert stats.grad_norm > 0
    engine.close()
