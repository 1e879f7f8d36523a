"""Which models can be trained, and the messages for those that cannot."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel, MambaConfig, MambaForCausalLM

from rltf.errors import UserError
from rltf.learner.packing import pack
from rltf.learner.policy import Policy
from rltf.settings import Dtype
from tests.learner.samples import make_references, plain_logprobs


def load(folder: Path) -> Policy:
    return Policy(folder, compute_dtype=Dtype.FLOAT32, device=torch.device("cpu"))


def with_tokenizer(folder: Path, model_dir: Path) -> Path:
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).write_text((model_dir / name).read_text())
    return folder


def test_learned_positions_and_dropout(tiny_model_dir: Path, tmp_path: Path) -> None:
    config = GPT2Config(vocab_size=320, n_embd=32, n_layer=2, n_head=2, n_positions=128)
    torch.manual_seed(0)
    GPT2LMHeadModel(config).save_pretrained(tmp_path)  # type: ignore[no-untyped-call]
    policy = load(with_tokenizer(tmp_path, tiny_model_dir))
    assert config.resid_pdrop > 0  # the learner must turn this off
    policy.model.train()
    references = make_references(0)
    (batch,) = pack(references, micro_batch_tokens=1024, row_tokens=512)
    logprobs, _ = policy.logprobs(batch, torch.ones(len(batch.target)))
    expected = torch.cat([plain_logprobs(policy, r, 1.0) for r in references])
    torch.testing.assert_close(logprobs, expected[batch.source], rtol=0, atol=1e-5)


def test_model_that_cannot_be_packed_is_refused(tiny_model_dir: Path, tmp_path: Path) -> None:
    config = MambaConfig(vocab_size=320, hidden_size=16, num_hidden_layers=1)
    torch.manual_seed(0)
    MambaForCausalLM(config).save_pretrained(tmp_path)  # type: ignore[no-untyped-call]
    with pytest.raises(UserError, match="mamba models cannot be trained: they reject packed sequences"):
        load(with_tokenizer(tmp_path, tiny_model_dir))


def test_folder_without_a_model_is_refused(tiny_model_dir: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="the tokenizer of"):
        load(tmp_path)
    with pytest.raises(UserError, match=r"is not a model folder: it has no config\.json"):
        load(with_tokenizer(tmp_path, tiny_model_dir))
    (tmp_path / "other.bin").touch()
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    with pytest.raises(UserError, match="transformers cannot load"):
        load(tmp_path)
