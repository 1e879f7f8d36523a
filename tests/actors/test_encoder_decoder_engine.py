"""The transformers engine with encoder-decoder models, compared with their own forward pass."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForSeq2SeqLM

from rltf.actors.engine import FinishedRequest, SampledSequence, SamplingEngine
from rltf.actors.transformers_engine import TransformersEngine
from rltf.errors import UserError
from rltf.transport.model_folder import end_token_ids, load_tokenizer
from rltf.transport.rollouts import FinishReason, VersionSpan
from tests.actors.sampling import Weights, engine_options, make_request, sequence_ids
from tests.encoder_decoder_models import KINDS, build_encoder_decoder
from tests.tiers import first_fast

PROMPT = list(range(10, 80))


class Setting:
    """An engine and the model it is compared with."""

    def __init__(self, folder: Path, *, max_num_seqs: int = 64) -> None:
        end_ids = end_token_ids(folder, load_tokenizer(folder), chat=False)
        options = engine_options("float32", 256, max_num_seqs, 2**24, end_ids)
        self.engine: SamplingEngine = TransformersEngine(folder, options)
        self.end_id = end_ids[0]
        self.model = AutoModelForSeq2SeqLM.from_pretrained(folder, dtype=torch.float32).eval()

    def weights(self, version: int) -> Weights:
        """The model's own weights with noise, always the same for the same version."""
        generator = torch.Generator().manual_seed(1000 + version)
        return {
            name: parameter.detach() * (1 + 0.3 * torch.randn(parameter.shape, generator=generator))
            for name, parameter in self.model.named_parameters()
        }

    @torch.no_grad()
    def logprobs(self, weights: Weights, prompt: list[int], token_ids: list[int], temperature: float) -> torch.Tensor:
        start = self.model.config.decoder_start_token_id
        arguments = {"input_ids": torch.tensor([prompt]), "decoder_input_ids": torch.tensor([[start, *token_ids[:-1]]])}
        output = torch.func.functional_call(self.model, weights, (), arguments, tie_weights=True)
        logprobs: torch.Tensor = (output.logits[0] / temperature).log_softmax(-1)
        return logprobs[range(len(token_ids)), token_ids]

    def run(self) -> dict[str, FinishedRequest]:
        finished: dict[str, FinishedRequest] = {}
        while self.engine.num_unfinished:
            finished |= {result.request_id: result for result in self.engine.step()}
        return finished

    def assert_agrees(
        self, sequence: SampledSequence, weights: dict[int, Weights], prompt: list[int], temperature: float = 1.0
    ) -> None:
        for span in sequence.weight_versions:
            expected = self.logprobs(weights[span.version], prompt, sequence_ids(sequence), temperature)
            part = slice(span.first, span.end)
            np.testing.assert_allclose(sequence.logprobs[part], expected.numpy()[part], atol=1e-4, rtol=0)


@pytest.fixture(scope="module", params=first_fast(KINDS))
def setting(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Setting]:
    setting = Setting(build_encoder_decoder(request.param, tmp_path_factory.mktemp("model") / request.param))
    yield setting
    setting.engine.close()


@pytest.fixture(scope="module")
def codet5(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_encoder_decoder("codet5", tmp_path_factory.mktemp("model") / "codet5")


def test_logprobs_of_own_samples_agree_with_transformers_after_every_update(setting: Setting) -> None:
    weights = {version: setting.weights(version) for version in (1, 2)}
    for version in weights:
        setting.engine.load_weights(version, weights[version].items())
        setting.engine.add_request(make_request("hot", PROMPT, temperature=1.3, num_samples=4))
        setting.engine.add_request(make_request("short", PROMPT[:9], temperature=0.8, num_samples=4))
        finished = setting.run()
        for name, prompt, temperature in (("hot", PROMPT, 1.3), ("short", PROMPT[:9], 0.8)):
            greedy = finished[name].greedy
            assert greedy is not None
            setting.assert_agrees(greedy, weights, prompt)
            for sequence in finished[name].samples:
                assert sequence.weight_versions == (VersionSpan(0, len(sequence.token_ids), version),)
                setting.assert_agrees(sequence, weights, prompt, temperature)


def test_greedy_decoding_equals_generate(setting: Setting) -> None:
    setting.engine.load_weights(2, setting.model.named_parameters())
    setting.engine.add_request(make_request("greedy", PROMPT, num_samples=1, max_tokens=30))
    greedy = setting.run()["greedy"].greedy
    assert greedy is not None
    ids = setting.model.generate(torch.tensor([PROMPT]), max_new_tokens=30, do_sample=False)[0, 1:]
    assert sequence_ids(greedy) == ids.tolist()


def test_the_decoder_continues_a_prefix(setting: Setting) -> None:
    ids = setting.model.generate(torch.tensor([PROMPT]), max_new_tokens=30, do_sample=False)[0, 1:].tolist()
    setting.engine.load_weights(2, setting.model.named_parameters())
    setting.engine.add_request(make_request("rest", PROMPT, prefix_ids=ids[:4], num_samples=1, max_tokens=len(ids) - 4))
    greedy = setting.run()["rest"].greedy
    assert greedy is not None
    assert sequence_ids(greedy) == ids[4:]


def test_update_in_flight_labels_each_token_with_the_weights_that_sampled_it(setting: Setting) -> None:
    weights = {version: setting.weights(version) for version in (3, 4, 5)}
    setting.engine.load_weights(3, weights[3].items())
    setting.engine.add_request(make_request("long", PROMPT, max_tokens=60, num_samples=5))
    setting.engine.add_request(make_request("other", PROMPT[:20], max_tokens=60, num_samples=5))
    for version in (4, 5):
        for _ in range(5):
            setting.engine.step()
        setting.engine.load_weights(version, weights[version].items())
    num_long = 0
    for name, result in setting.run().items():
        for sequence in result.samples:
            setting.assert_agrees(sequence, weights, PROMPT if name == "long" else PROMPT[:20])
            if (end := len(sequence.token_ids)) > 10:
                num_long += 1
                assert sequence.weight_versions == (
                    VersionSpan(0, 5, 3),
                    VersionSpan(5, 10, 4),
                    VersionSpan(10, end, 5),
                )
    assert num_long > 0


def test_sequences_join_and_leave_between_steps(codet5: Path) -> None:
    """Twelve requests of different lengths share eight places."""
    setting = Setting(codet5, max_num_seqs=8)
    weights = {0: dict(setting.model.named_parameters())}
    for index in range(12):
        length = 5 + 9 * (index % 5)
        setting.engine.add_request(
            make_request(str(index), PROMPT[:length], num_samples=3, max_tokens=4 + 7 * (index % 3))
        )
    finished = setting.run()
    assert len(finished) == 12
    for name, result in finished.items():
        prompt = PROMPT[: 5 + 9 * (int(name) % 5)]
        assert result.greedy is not None
        for sequence in (*result.samples, result.greedy):
            setting.assert_agrees(sequence, weights, prompt)


def test_a_prompt_is_encoded_once_for_all_of_its_samples(codet5: Path) -> None:
    setting = Setting(codet5)
    encoded = []
    encoder = setting.engine._model.get_encoder()  # type: ignore[attr-defined]
    encoder.register_forward_pre_hook(
        lambda _module, _args, kwargs: encoded.append(kwargs["input_ids"].shape), with_kwargs=True
    )
    setting.engine.add_request(make_request("one", PROMPT, num_samples=8, max_tokens=12))
    setting.engine.add_request(make_request("two", PROMPT[:30], num_samples=8, max_tokens=12))
    setting.run()
    assert encoded == [(2, len(PROMPT))]


def test_seeded_samples_do_not_depend_on_other_requests(setting: Setting) -> None:
    setting.engine.add_request(make_request("alone", PROMPT, seed=11, num_samples=3, greedy=False))
    alone = setting.run()["alone"].samples
    setting.engine.add_request(make_request("other", PROMPT[:20], seed=12, num_samples=5))
    setting.engine.add_request(make_request("again", PROMPT, seed=11, num_samples=3, greedy=False))
    again = setting.run()["again"].samples
    assert [sequence_ids(s) for s in alone] == [sequence_ids(s) for s in again]
    assert len({tuple(sequence_ids(s)) for s in alone}) == 3


def test_completions_end_with_the_end_token_or_at_the_length_limit(setting: Setting) -> None:
    setting.engine.add_request(make_request("many", PROMPT, num_samples=48, max_tokens=60, temperature=2.0))
    sequences = setting.run()["many"].samples
    assert {sequence.finish_reason for sequence in sequences} == {FinishReason.STOP, FinishReason.LENGTH}
    for sequence in sequences:
        ids = sequence_ids(sequence)
        assert len(ids) == len(sequence.logprobs)
        if sequence.finish_reason is FinishReason.STOP:
            assert ids.index(setting.end_id) == len(ids) - 1
        else:
            assert len(ids) == 60
            assert setting.end_id not in ids


def test_a_prompt_that_fills_the_context_is_refused(setting: Setting) -> None:
    with pytest.raises(ValueError, match="prompt has 256 tokens and leaves no room"):
        setting.engine.add_request(make_request("full", [5] * 256))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "bart"}, "only T5's kind is supported"),
        ({"decoder_start_token_id": None}, "set decoder_start_token_id"),
    ],
)
def test_models_that_cannot_be_sampled_from_are_refused(
    codet5: Path, tmp_path: Path, change: dict[str, str | None], message: str
) -> None:
    for file in codet5.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    config = tmp_path / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | change))
    with pytest.raises(UserError, match=message):
        TransformersEngine(tmp_path, engine_options("float32", 256, 4, 2**24, (2,)))
