"""Both engines compared with plain transformers: log-probabilities, versions, caches and batching, on the CPU."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import torch._dynamo.utils  # as in a generator, whose other imports load it before vLLM

from rltf.actors.engine import FinishedRequest, SampledSequence, SamplingEngine, build_engine
from rltf.settings import GeneratorSettings, ModelSettings
from rltf.transport.model_folder import end_token_ids, load_tokenizer
from rltf.transport.rollouts import FinishReason, VersionSpan
from tests.actors.sampling import Weights, make_request, sequence_ids

MAX_LENGTH = 256
PROMPT = list(range(10, 80))


@pytest.fixture(scope="module", params=[pytest.param("vllm", marks=pytest.mark.ray), "transformers"])
def engine(tiny_model_dir: Path, request: pytest.FixtureRequest) -> Iterator[SamplingEngine]:
    model = ModelSettings(dtype="float32", max_model_len=MAX_LENGTH)
    settings = GeneratorSettings(engine=request.param, num_gpus=0, max_num_seqs=64, kv_cache_bytes=64 * 2**20)
    end_ids = end_token_ids(tiny_model_dir, load_tokenizer(tiny_model_dir), chat=False)
    engine = build_engine(tiny_model_dir, model, settings, end_ids, seed=0)
    yield engine
    engine.close()


def run(engine: SamplingEngine) -> dict[str, FinishedRequest]:
    finished: dict[str, FinishedRequest] = {}
    while engine.num_unfinished:
        finished |= {result.request_id: result for result in engine.step()}
    return finished


def assert_agrees(
    sequence: SampledSequence, expected: torch.Tensor, span: VersionSpan | None = None, tolerance: float = 1e-4
) -> None:
    part = slice(span.first, span.end) if span else slice(None)
    np.testing.assert_allclose(sequence.logprobs[part], expected.numpy()[part], atol=tolerance, rtol=0)


def test_logprobs_of_own_samples_agree_with_transformers_after_every_update(
    engine: SamplingEngine, make_weights: Callable[[int], Weights], reference_logprobs: Callable[..., torch.Tensor]
) -> None:
    for version in (1, 2, 3):
        weights = make_weights(version)
        engine.load_weights(version, weights.items())
        engine.add_request(make_request("hot", PROMPT, temperature=0.7, num_samples=4))
        engine.add_request(make_request("nucleus", PROMPT[:9], temperature=1.3, top_p=0.8, num_samples=4))
        finished = run(engine)
        for name, prompt, temperature, top_p in (("hot", PROMPT, 0.7, 1.0), ("nucleus", PROMPT[:9], 1.3, 0.8)):
            for sequence in finished[name].samples:
                assert sequence.weight_versions == (VersionSpan(0, len(sequence.token_ids), version),)
                expected = reference_logprobs(weights, prompt, sequence_ids(sequence), temperature, top_p)
                assert_agrees(sequence, expected)
            greedy = finished[name].greedy
            assert greedy is not None
            assert_agrees(greedy, reference_logprobs(weights, prompt, sequence_ids(greedy)))


def test_the_first_batch_waits_for_no_compiler(engine: SamplingEngine) -> None:
    engine.add_request(make_request("first", PROMPT, max_tokens=2))
    run(engine)
    assert not torch._dynamo.utils.counters["frames"]


def test_the_prefix_cache_serves_nothing_from_older_weights(
    engine: SamplingEngine, make_weights: Callable[[int], Weights], reference_logprobs: Callable[..., torch.Tensor]
) -> None:
    for version in (4, 5):
        weights = make_weights(version)
        engine.load_weights(version, weights.items())
        for attempt in range(2):  # the second one finds the first blocks of the prompt in the cache
            engine.add_request(make_request(f"{version}/{attempt}", PROMPT, max_tokens=2))
        for result in run(engine).values():
            for sequence in result.samples:
                assert_agrees(sequence, reference_logprobs(weights, PROMPT, sequence_ids(sequence)))


def test_update_in_flight_labels_each_token_with_the_weights_that_sampled_it(
    engine: SamplingEngine, make_weights: Callable[[int], Weights], reference_logprobs: Callable[..., torch.Tensor]
) -> None:
    weights = {version: make_weights(version) for version in (6, 7, 8)}
    engine.load_weights(6, weights[6].items())
    engine.add_request(make_request("long", PROMPT, max_tokens=30, num_samples=3))
    for version in (7, 8):
        for _ in range(10):
            engine.step()
        engine.load_weights(version, weights[version].items())
    result = run(engine)["long"]
    assert result.greedy is not None
    assert FinishReason.LENGTH in {sequence.finish_reason for sequence in (*result.samples, result.greedy)}
    for sequence in (*result.samples, result.greedy):
        assert sequence.weight_versions[0].first == 0
        assert sequence.weight_versions[-1].end == len(sequence.token_ids)
        if sequence.finish_reason is FinishReason.LENGTH:
            assert sequence.weight_versions == (VersionSpan(0, 10, 6), VersionSpan(10, 20, 7), VersionSpan(20, 30, 8))
        for span in sequence.weight_versions:
            assert_agrees(sequence, reference_logprobs(weights[span.version], PROMPT, sequence_ids(sequence)), span)


def test_a_late_short_request_overtakes_a_long_one(engine: SamplingEngine) -> None:
    engine.add_request(make_request("long", PROMPT, max_tokens=100, num_samples=1, greedy=False))
    for _ in range(3):
        assert engine.step() == []
    engine.add_request(make_request("short", PROMPT, max_tokens=2, num_samples=1, greedy=False))
    order = []
    while engine.num_unfinished:
        order += [result.request_id for result in engine.step()]
    assert order == ["short", "long"]


def test_completions_end_with_the_end_token_or_at_the_length_limit(
    engine: SamplingEngine, make_weights: Callable[[int], Weights], tiny_model_dir: Path
) -> None:
    end_id = load_tokenizer(tiny_model_dir).eos_token_id
    weights = make_weights(9)
    engine.load_weights(9, weights.items())
    engine.add_request(make_request("many", PROMPT, num_samples=48, max_tokens=60, temperature=2.0))
    sequences = run(engine)["many"].samples
    assert {sequence.finish_reason for sequence in sequences} == {FinishReason.STOP, FinishReason.LENGTH}
    for sequence in sequences:
        ids = sequence_ids(sequence)
        assert len(ids) == len(sequence.logprobs)
        if sequence.finish_reason is FinishReason.STOP:
            assert ids.index(end_id) == len(ids) - 1
        else:
            assert len(ids) == 60
            assert end_id not in ids


def test_seeded_samples_do_not_depend_on_other_requests(engine: SamplingEngine) -> None:
    engine.add_request(make_request("alone", PROMPT, seed=11, num_samples=3, greedy=False))
    alone = run(engine)["alone"].samples
    engine.add_request(make_request("other", PROMPT[:20], seed=12, num_samples=5))
    engine.add_request(make_request("again", PROMPT, seed=11, num_samples=3, greedy=False))
    again = run(engine)["again"].samples
    assert [sequence_ids(s) for s in alone] == [sequence_ids(s) for s in again]
    assert len({tuple(sequence_ids(s)) for s in alone}) == 3


def test_a_prompt_that_fills_the_context_is_refused_and_a_slightly_shorter_one_is_cut_off(
    engine: SamplingEngine,
) -> None:
    with pytest.raises(ValueError, match="prompt has 256 tokens and leaves no room"):
        engine.add_request(make_request("full", [5] * MAX_LENGTH))
    engine.add_request(make_request("nearly", [5] * (MAX_LENGTH - 2), num_samples=1, greedy=False))
    (sequence,) = run(engine)["nearly"].samples
    assert len(sequence.token_ids) <= 2
