"""The memory of a learner as `rltf plan` calculates it, compared with what torch really holds and allocates."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.profiler import ProfilerActivity, profile
from transformers import LlamaConfig

from rltf.learner.learner import Learner
from rltf.learner.memory import critic_bytes, full_batch, hollow_policy, learner_memory
from rltf.learner.policy import Policy
from rltf.settings import Dtype, GeneratorSettings, LoraSettings, ModelSettings, Settings
from rltf.transport.model_folder import hollow_model, model_config
from tests.encoder_decoder_models import build_encoder_decoder
from tests.families import FAMILIES, build_family
from tests.learner.samples import make_critic, make_experiences, make_learner, make_references
from tests.learner.samples import settings as learner_settings
from tests.tiers import first_fast

LORA = LoraSettings(rank=4)


def whole(dtype: Dtype = Dtype.FLOAT32, lora: LoraSettings | None = None, **fields: Any) -> Settings:
    """The settings of `make_learner`."""
    tree = Settings(
        model=ModelSettings(dtype=dtype, max_model_len=128, lora=lora or LoraSettings()),
        generator=GeneratorSettings(max_tokens=32),
    )
    return tree.model_copy(update={"learner": learner_settings(**fields)})


def held(learner: Learner) -> int:
    """The bytes of all storages that a learner holds."""
    policies = [policy for policy in (learner.policy, learner._reference, learner._old) if policy is not None]
    return size_of(
        tensor for tensors in (*map(tensors_of, policies), optimizer_states(learner._optimizer)) for tensor in tensors
    )


def tensors_of(policy: Policy) -> Iterator[torch.Tensor]:
    for module in (policy.model, policy.value_head):
        for parameter in () if module is None else module.parameters():
            yield parameter
            if parameter.grad is not None:
                yield parameter.grad
        yield from () if module is None else module.buffers()


def optimizer_states(optimizer: torch.optim.Optimizer) -> Iterator[torch.Tensor]:
    for state in optimizer.state.values():
        yield from state.values()


def size_of(tensors: Iterable[torch.Tensor]) -> int:
    return sum({tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in tensors}.values())


@pytest.mark.parametrize("family", first_fast(FAMILIES))
def test_parameters_are_counted_exactly(family: str, tmp_path: Path) -> None:
    folder = build_family(family, tmp_path)
    policy = Policy(folder, compute_dtype=Dtype.FLOAT32, device=torch.device("cpu"))
    hollow = hollow_policy(model_config(folder), whole())
    shapes = {name: (value.shape, value.dtype) for name, value in policy.model.named_parameters()}
    assert {name: (value.shape, value.dtype) for name, value in hollow.model.named_parameters()} == shapes
    assert all(value.is_meta for value in hollow.model.parameters())


@pytest.mark.parametrize(
    "fields",
    first_fast(
        [
            {},
            {"dtype": Dtype.BFLOAT16, "activation_checkpointing": True},
            {"algorithm": "ppo", "old_logprobs": "recompute", "kl_loss_coef": 0.1},
            {"lora": LORA},
            {"lora": LORA, "kl_loss_coef": 0.1},
        ]
    ),
    ids=["plain", "bfloat16", "ppo", "adapters", "adapters-kl"],
)
def test_states_are_what_torch_holds_after_an_update(fields: dict[str, Any], tiny_model_dir: Path) -> None:
    learner = make_learner(tiny_model_dir, **fields)
    learner.update(learner.prepare_with(make_experiences(0), make_references(0)))
    memory = learner_memory(model_config(tiny_model_dir), whole(**fields))
    assert memory.states == pytest.approx(held(learner), rel=0.01)
    assert memory.total == memory.states + memory.working


def test_weights_that_are_sent_from_gpu_to_gpu_are_held_twice(tiny_model_dir: Path) -> None:
    settings = whole(Dtype.BFLOAT16)
    sending = settings.model_copy(update={"generator": GeneratorSettings(weight_transfer="nccl")})
    config = model_config(tiny_model_dir)
    num_parameters = sum(value.numel() for value in hollow_model(config, torch.float32).parameters())
    more = learner_memory(config, sending).states - learner_memory(config, settings).states
    assert more == 2 * num_parameters


def test_a_critic_counts(tiny_model_dir: Path, tmp_path: Path) -> None:
    critic = make_critic(tiny_model_dir, tmp_path / "critic")
    learner = make_learner(tiny_model_dir, critic=critic)
    assert learner._critic is not None
    parameters = [*tensors_of(learner._critic.backbone), *learner._critic.head.parameters()]
    assert critic_bytes(critic) == size_of(parameters)


def allocated(policy: Policy, settings: Settings) -> int:
    """The peak of what torch allocates for a micro-batch, by its profiler."""
    batch: Any = full_batch(policy, settings)
    for parameter in policy.trained_parameters().values():
        parameter.grad = torch.zeros_like(parameter)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        logprobs, _ = policy.logprobs(batch, torch.ones(batch.target.shape))
        logprobs.sum().backward()  # type: ignore[no-untyped-call]
    sizes = [event.nbytes() for event in profiled.profiler.kineto_results.events() if event.name() == "[memory]"]
    now = peak = 0
    for size in sizes:
        now += size
        peak = max(peak, now)
    return peak


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "dtype", "checkpointing"),
    [
        ("llama", Dtype.FLOAT32, False),
        ("llama", Dtype.BFLOAT16, False),
        ("llama", Dtype.BFLOAT16, True),
        ("adapters", Dtype.BFLOAT16, True),
        ("codet5", Dtype.BFLOAT16, False),
    ],
)
def test_working_memory_is_what_torch_allocates(
    model: str, dtype: Dtype, checkpointing: bool, tiny_model_dir: Path, tmp_path: Path
) -> None:
    folder = build_encoder_decoder("codet5", tmp_path) if model == "codet5" else tiny_model_dir
    lora = LORA if model == "adapters" else None
    settings = whole(dtype, lora, activation_checkpointing=checkpointing, micro_batch_tokens=4096)
    policy = Policy(
        folder,
        compute_dtype=dtype,
        device=torch.device("cpu"),
        activation_checkpointing=checkpointing,
        chunk_tokens=settings.learner.chunk_tokens,
        lora=lora,
    )
    memory = learner_memory(model_config(folder), settings)
    assert memory.working == pytest.approx(allocated(policy, settings), rel=0.05)


@pytest.mark.slow
def test_checkpointing_keeps_no_copy_of_all_weights() -> None:
    """Autocast would keep one of each weight until the end of the forward pass."""
    shape: dict[str, Any] = {"hidden_size": 256, "intermediate_size": 1024, "num_attention_heads": 8}
    config = LlamaConfig(**shape, num_hidden_layers=8, vocab_size=320, tie_word_embeddings=True)
    settings = whole(Dtype.BFLOAT16, activation_checkpointing=True, micro_batch_tokens=128)
    memory = learner_memory(config, settings)
    assert memory.working < memory.weights / 2
