"""vLLM in a process without compiler, in bfloat16, which uses other CPU kernels than float32."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from actors.engine import EngineOptions
from tests.actors.engine_process import EngineProcess
from tests.actors.sampling import Weights, make_request, sequence_ids

PROMPT = list(range(10, 80))


@pytest.fixture(scope="module")
def engine(vllm_process: EngineProcess, tiny_model_dir: Path) -> Iterator[EngineProcess]:
    options = EngineOptions("bfloat16", 256, max_num_seqs=16, kv_cache_bytes=2**24, end_token_ids=(1,))
    with vllm_process.engine(tiny_model_dir, options):
        yield vllm_process


def test_sampling_needs_no_compiler(engine: EngineProcess) -> None:
    assert engine.compilers() == []
    (finished,) = engine.sample([make_request("nucleus", PROMPT, top_p=0.9)]).values()
    assert len(finished.samples) == 2


def test_bfloat16_weights_are_updated(
    engine: EngineProcess,
    make_weights: Callable[[int], Weights],
    reference_logprobs: Callable[..., torch.Tensor],
) -> None:
    for version in (1, 2):
        weights = {name: value * 0.5 for name, value in make_weights(version).items()}
        engine.load_weights(version, weights)
        for sequence in engine.sample([make_request("rounded", PROMPT, num_samples=8)])["rounded"].samples:
            assert sequence.weight_versions[-1].version == version
            expected = reference_logprobs(weights, PROMPT, sequence_ids(sequence)).numpy()
            # Rounding to 8 bits makes a few hundredths. Weights of another version would differ by whole units.
            assert np.abs(sequence.logprobs - expected).mean() < 0.1
