"""What only a GPU shows of engines: vLLM on a card that others use as well, and weights sent from GPU to GPU."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from rltf.settings import ModelSettings
from tests.actors.running_actors import KEEP, Scorer, check_update_in_flight, kill, start_generator, start_learner
from tests.actors.sampling import Weights, engine_options, make_request, sequence_ids

pytestmark = [
    pytest.mark.ray,
    pytest.mark.slow,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"),
]
ATOL = {"float32": 2e-2, "bfloat16": 3e-1}
"""Tolerance of a single log-probability. On a CPU, rounding makes at most 0.18 among 2,000; weights of another version
make 1.3 on average."""
MEAN_ATOL = {"float32": 2e-2, "bfloat16": 1e-1}
PROMPT = list(range(10, 80))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("weight_transfer", ["ipc", "nccl"])
def test_weights_go_from_gpu_to_gpu(
    weight_transfer: str,
    dtype: str,
    ray_session: None,
    tiny_model_dir: Path,
    reference_logprobs: Scorer,
    tmp_path: Path,
) -> None:
    """NCCL refuses two processes on one GPU. With a single GPU, it is told that they are on different hosts."""
    shares_card = weight_transfer == "ipc" or torch.cuda.device_count() == 1
    num_gpus = 0.4 if shares_card else 1.0
    model_settings = ModelSettings(dtype=dtype, max_model_len=256)
    settings = KEEP.model_copy(update={"weight_transfer": weight_transfer, "num_gpus": num_gpus, "num_generators": 1})
    learner = start_learner(tiny_model_dir, model_settings, weight_transfer, num_gpus)
    variables = {"NCCL_HOSTID": "another"} if shares_card else {}
    generator = start_generator("on-gpu", tiny_model_dir, model_settings, settings, variables=variables)
    try:
        itemsize = 2 if dtype == "bfloat16" else 4
        check_update_in_flight(learner, generator, reference_logprobs, tmp_path, atol=ATOL[dtype], itemsize=itemsize)
    finally:
        kill(learner)
        kill(generator)


@pytest.fixture
def held() -> Iterator[torch.Tensor]:
    """A quarter of the card, held by someone else, such as a learner."""
    yield torch.empty(torch.cuda.mem_get_info()[1] // 4, dtype=torch.uint8, device="cuda")
    torch.cuda.empty_cache()


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_vllm_starts_on_a_card_that_is_partly_taken_and_samples_what_its_weights_say(
    dtype: str,
    held: torch.Tensor,
    tiny_model_dir: Path,
    make_weights: Callable[[int], Weights],
    reference_logprobs: Scorer,
) -> None:
    from rltf.actors.vllm_engine import VllmEngine

    engine = VllmEngine(tiny_model_dir, engine_options(dtype, 256, 16, kv_cache_bytes=2**24, end_token_ids=(1,)))
    # As in `vllm.LLM`: as many as 16 sequences of 256 can have. Without a usage context, it would be 2,048.
    assert engine._engine.vllm_config.scheduler_config.max_num_batched_tokens == 16 * 256
    for version in (1, 2):
        weights = {name: value * 0.5 for name, value in make_weights(version).items()}
        engine.load_weights(version, weights.items())
        engine.add_request(make_request("sampled", PROMPT, num_samples=8, top_p=0.9))
        finished = []
        while engine.num_unfinished:
            finished += engine.step()
        for sequence in finished[0].samples:
            expected = reference_logprobs(weights, PROMPT, sequence_ids(sequence), top_p=0.9).numpy()
            inside = np.isfinite(expected)  # rounding moves the edge of the nucleus
            assert inside.mean() > 0.9
            assert np.abs(sequence.logprobs - expected)[inside].mean() < MEAN_ATOL[dtype]
    engine.close()
