"""Adapters: which parameters are trained, published and saved, and what the KL term refers to."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoTokenizer, GPT2Config, GPT2LMHeadModel

from rltf.actors.transformers_engine import TransformersEngine
from rltf.errors import UserError
from rltf.learner.data import TokenSequence
from rltf.learner.learner import Learner
from rltf.learner.sft import run_sft
from rltf.settings import LoraSettings
from rltf.transport.lora import AdapterMerger
from rltf.transport.weights import pack, unpack
from tests.actors.sampling import engine_options, make_request
from tests.encoder_decoder_models import build_encoder_decoder
from tests.learner.samples import make_experiences, make_learner, make_references
from tests.tiers import first_fast

LORA = LoraSettings(rank=4, alpha=16)


@pytest.fixture(scope="module")
def gpt2(tiny_model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """GPT-2 stores its linear layers transposed."""
    folder = tmp_path_factory.mktemp("gpt2")
    config = GPT2Config(vocab_size=320, n_embd=32, n_layer=2, n_head=2, n_positions=128)
    torch.manual_seed(0)
    GPT2LMHeadModel(config).save_pretrained(folder)  # type: ignore[no-untyped-call]
    AutoTokenizer.from_pretrained(tiny_model_dir).save_pretrained(folder)
    return folder


@pytest.fixture(params=first_fast(["llama", "gpt2", "codet5"]))
def model_dir(request: pytest.FixtureRequest, tiny_model_dir: Path, gpt2: Path, tmp_path: Path) -> Path:
    if request.param == "codet5":
        return build_encoder_decoder("codet5", tmp_path / "codet5")
    return tiny_model_dir if request.param == "llama" else gpt2


def train(learner: Learner, updates: int = 2) -> None:
    for seed in range(updates):
        prepared = learner.prepare_with(make_experiences(seed), make_references(seed))
        learner.update(prepared)


def plain(folder: Path, *, is_encoder_decoder: bool) -> Any:
    auto: Any = AutoModelForSeq2SeqLM if is_encoder_decoder else AutoModelForCausalLM
    return auto.from_pretrained(folder, dtype=torch.float32).eval()


@torch.no_grad()
def logits(model: Any) -> torch.Tensor:
    ids = torch.tensor([[5, 6, 7, 8]])
    more = {"decoder_input_ids": torch.tensor([[0, 9, 10]])} if model.config.is_encoder_decoder else {}
    result: torch.Tensor = model(input_ids=ids, **more).logits
    return result


def test_only_adapters_are_trained(model_dir: Path) -> None:
    learner = make_learner(model_dir, lora=LORA)
    before = {name: value.clone() for name, value in learner.policy.model.named_parameters()}
    start = logits(learner.policy.model)
    torch.testing.assert_close(
        start, logits(plain(model_dir, is_encoder_decoder=learner.policy.model.config.is_encoder_decoder))
    )
    train(learner)
    changed = {n for n, value in learner.policy.model.named_parameters() if not torch.equal(value, before[n])}
    assert changed == set(learner.policy.trained_parameters())
    assert all("lora_" in name for name in changed)
    optimised = [p for group in learner._optimizer.param_groups for p in group["params"]]
    assert sum(p.numel() for p in optimised) == sum(before[name].numel() for name in changed)
    assert not torch.allclose(logits(learner.policy.model), start)


def test_saved_folder_is_a_plain_model_with_peft_adapters(model_dir: Path, tmp_path: Path) -> None:
    learner = make_learner(model_dir, lora=LORA)
    train(learner)
    path = learner.save_checkpoint(tmp_path / "checkpoints")
    expected = logits(learner.policy.model)
    is_encoder_decoder = learner.policy.model.config.is_encoder_decoder
    saved = plain(path, is_encoder_decoder=is_encoder_decoder)
    torch.testing.assert_close(logits(saved), expected, rtol=0, atol=1e-5)
    initial = plain(model_dir, is_encoder_decoder=is_encoder_decoder)
    assert [n for n, _ in saved.named_parameters()] == [n for n, _ in initial.named_parameters()]
    by_peft = PeftModel.from_pretrained(initial, path / "trainer_state" / "adapter").eval()
    torch.testing.assert_close(logits(by_peft), expected, rtol=0, atol=1e-5)


def test_published_adapters_merge_into_the_same_weights(model_dir: Path) -> None:
    published, num_bytes = {}, {}
    for publish in ("merged", "adapter"):
        learner = make_learner(model_dir, lora=LORA.model_copy(update={"publish": publish}))
        train(learner)
        buckets = list(pack(learner.policy.published()))
        published[publish] = list(unpack(buckets))
        num_bytes[publish] = sum(array.nbytes for bucket in buckets for array in bucket.values())
    assert num_bytes["adapter"] < 0.5 * num_bytes["merged"]
    here = dict(AdapterMerger(model_dir, LORA).merge(published["adapter"]))
    assert list(here) == [name for name, _ in published["merged"]]
    for name, value in published["merged"]:
        assert torch.equal(here[name].float(), value), name


def test_engine_samples_with_the_adapters(model_dir: Path) -> None:
    learner = make_learner(model_dir, lora=LORA.model_copy(update={"publish": "adapter"}), temperature=0.9)
    train(learner)
    engine = TransformersEngine(model_dir, engine_options("float32", 96, 16, 2**24, (1,)))
    engine.load_weights(1, AdapterMerger(model_dir, LORA).merge(learner.policy.published()))
    engine.add_request(make_request("one", list(range(10, 40)), temperature=0.9, num_samples=4, greedy=False))
    finished = []
    while engine.num_unfinished:
        finished += engine.step()
    prompt_ids = np.arange(10, 40, dtype=np.int32)
    for sample in finished[0].samples:
        (batch,) = learner.policy.pack(
            [TokenSequence(prompt_ids, sample.token_ids)], micro_batch_tokens=128, row_tokens=64
        )
        logprobs, _ = learner.policy.logprobs(batch, torch.full((len(batch.target),), 0.9))
        np.testing.assert_allclose(sample.logprobs, logprobs.detach().numpy(), atol=1e-4, rtol=0)


def test_resumed_update_is_bit_identical(model_dir: Path, tmp_path: Path) -> None:
    fields: dict[str, Any] = {"lora": LORA, "kl_loss_coef": 0.1}
    learner = make_learner(model_dir, **fields)
    train(learner)
    path = learner.save_checkpoint(tmp_path)
    train(learner, 1)
    again = make_learner(model_dir, **fields)
    again.resume(path)
    train(again, 1)
    for (name, value), (_, other) in zip(
        learner.policy.model.named_parameters(), again.policy.model.named_parameters(), strict=True
    ):
        assert torch.equal(value, other), name


def test_kl_reference_is_the_start_of_rl_and_shares_the_base(tiny_model_dir: Path) -> None:
    learner = make_learner(tiny_model_dir, lora=LORA, kl_loss_coef=1.0)
    reference = learner._reference
    assert reference is not None
    for (name, ours), (_, theirs) in zip(
        learner.policy.model.named_parameters(), reference.model.named_parameters(), strict=True
    ):
        assert (ours is theirs) == ("lora_" not in name)
    base = logits(plain(tiny_model_dir, is_encoder_decoder=False))
    train(learner)
    torch.testing.assert_close(logits(reference.model), base)
    assert not torch.allclose(logits(learner.policy.model), base)


def test_sft_trains_adapters_and_is_cached(tiny_model_dir: Path, tmp_path: Path) -> None:
    stage = {"num_steps": 4, "learning_rate": 1e-2, "warmup_steps": 1, "batch_size": 4, "evaluate_every": 2}
    results = []
    for _ in range(2):
        learner = make_learner(tiny_model_dir, lora=LORA, sft={**stage, "cache_dir": tmp_path})
        report = run_sft(learner, make_references(0, 12), seed=0)
        results.append((report.cached, logits(learner.policy.model)))
    (first, trained), (second, cached) = results
    assert not first
    assert second
    torch.testing.assert_close(trained, cached, rtol=0, atol=0)
    assert not torch.allclose(trained, logits(plain(tiny_model_dir, is_encoder_decoder=False)))


def test_unusable_adapters_are_refused(tiny_model_dir: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"model\.lora: .*no_such_layer"):
        make_learner(tiny_model_dir, lora=LoraSettings(rank=2, target_modules=("no_such_layer",)))
    path = make_learner(tiny_model_dir, lora=LORA).save_checkpoint(tmp_path)
    with pytest.raises(UserError, match="written with adapters"):
        make_learner(tiny_model_dir).resume(path)
    with pytest.raises(UserError, match="adapters of rank 4 and alpha 16, not 2 and 32"):
        make_learner(tiny_model_dir, lora=LoraSettings(rank=2)).resume(path)
