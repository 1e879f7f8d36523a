"""Experiences, references and learners for the tests of the learner, and plain log-probabilities to compare with."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from rltf.files import write_folder
from rltf.learner.critic import ErrorCritic
from rltf.learner.critic_folder import tokenizer_fingerprint
from rltf.learner.data import Experience, Experiences, TokenSequence
from rltf.learner.learner import Learner
from rltf.learner.policy import Policy
from rltf.learner.ranks import ALONE, Ranks
from rltf.rewards import Granularity
from rltf.sandbox.verdict import Outcome
from rltf.settings import (
    PRESETS,
    AdvantageSettings,
    Algorithm,
    Dtype,
    GeneratorSettings,
    LearnerSettings,
    LoraSettings,
    LossSettings,
    ModelSettings,
    OptimSettings,
    Settings,
)

VOCABULARY = 300
OUTCOMES = (Outcome.PASSED, Outcome.FAILED, Outcome.RUNTIME_ERROR, Outcome.SYNTAX_ERROR)


def settings(algorithm: str = "rltf", **fields: Any) -> LearnerSettings:
    """Small settings for the CPU. Fields of `optim`, `loss` and `advantage` are given by their own names."""
    small = {
        "num_gpus": 0,
        "micro_batch_tokens": 512,
        "row_tokens": 128,
        "batch_size": 8,
        "supervised_batch_size": 4,
    }
    given: dict[str, dict[str, Any]] = {"optim": {"learning_rate": 1e-3, "warmup_steps": 2, "max_grad_norm": 1e9}}
    preset = PRESETS[Algorithm(algorithm)]
    given |= {"loss": dict(preset.loss), "advantage": dict(preset.advantage)}
    for group, model in (("optim", OptimSettings), ("loss", LossSettings), ("advantage", AdvantageSettings)):
        given[group] |= {name: fields.pop(name) for name in list(fields) if name in model.model_fields}
    return LearnerSettings.model_validate({**small, **fields, **given})


def make_learner(
    model: Path,
    *,
    temperature: float = 0.8,
    dtype: Dtype = Dtype.FLOAT32,
    lora: LoraSettings | None = None,
    ranks: Ranks = ALONE,
    **fields: Any,
) -> Learner:
    whole = Settings(
        model=ModelSettings(dtype=dtype, max_model_len=256, lora=lora or LoraSettings()),
        generator=GeneratorSettings(temperature=temperature, max_tokens=32),
    )
    # A copy, because tests have micro-batches and buffers that a run cannot have.
    return Learner(model, whole.model_copy(update={"learner": settings(**fields)}), ranks=ranks)


def random_ids(random: np.random.Generator, length: int) -> NDArray[np.int32]:
    return random.integers(2, VOCABULARY, length, dtype=np.int32)


def make_rollout(random: np.random.Generator, name: str, *, num_samples: int = 4, version: int = 0) -> Experiences:
    """Samples of one prompt with lengths 1 to 20 and random token weights."""
    prompt_ids = random_ids(random, int(random.integers(1, 30)))
    experiences = Experiences()
    for index in range(num_samples):
        length = int(random.integers(1, 21))
        experiences.append(
            Experience(
                task_id=name,
                completion_id=f"{name}/{index}",
                prompt_ids=prompt_ids,
                token_ids=random_ids(random, length),
                logprobs=(-5 + random.normal(size=length)).astype(np.float32),
                token_weights=random.normal(size=(len(Granularity), length)).astype(np.float32),
                version=version,
                reward=1.0 if index == 0 else -0.3,
                outcome=OUTCOMES[index % len(OUTCOMES)],
            )
        )
    return experiences


def make_experiences(seed: int, num_rollouts: int = 3) -> list[Experience]:
    random = np.random.default_rng(seed)
    return [sample for index in range(num_rollouts) for sample in make_rollout(random, f"r{index}")]


def make_references(seed: int, count: int = 5) -> list[TokenSequence]:
    random = np.random.default_rng(seed)
    return [
        TokenSequence(random_ids(random, int(random.integers(1, 20))), random_ids(random, int(random.integers(1, 20))))
        for _ in range(count)
    ]


def plain_logprobs(policy: Policy, sequence: TokenSequence, temperature: float) -> torch.Tensor:
    """Log-probabilities [T] of one completion by itself, from the model's own forward pass."""
    ids = torch.from_numpy(np.concatenate([sequence.prompt_ids, sequence.token_ids]).astype(np.int64))
    logits = policy.model(input_ids=ids[None], use_cache=False).logits[0] / temperature
    start = len(sequence.prompt_ids)
    rows: torch.Tensor = torch.log_softmax(logits, dim=-1)[range(start - 1, len(ids) - 1), ids[start:]]
    return rows


def make_critic(model: Path, folder: Path, *, seed: int = 0) -> Path:
    """A critic with a random head, written as `rltf critic` does."""
    critic = ErrorCritic(model, compute_dtype=Dtype.FLOAT32, device=torch.device("cpu"), seed=seed)
    facts = {"tokenizer": tokenizer_fingerprint(critic.backbone.tokenizer)}
    write_folder(folder, lambda path: critic.save(path, facts))
    return folder


def plain_class_logits(critic: ErrorCritic, sequence: TokenSequence) -> torch.Tensor:
    """Class logits [T, 4] of the states that predict the tokens of one completion by the model's own forward pass."""
    model = critic.backbone.model
    prompt, completion = (torch.from_numpy(x.astype(np.int64)) for x in (sequence.prompt_ids, sequence.token_ids))
    if model.config.is_encoder_decoder:
        ids = torch.cat([torch.tensor([model.config.decoder_start_token_id]), completion[:-1]])
        output = model(input_ids=prompt[None], decoder_input_ids=ids[None], use_cache=False, output_hidden_states=True)
        hidden = output.decoder_hidden_states[-1][0]
        if model.config.scale_decoder_outputs:
            hidden = hidden * model.config.d_model**-0.5
    else:
        ids = torch.cat([prompt, completion])
        hidden = model.base_model(input_ids=ids[None], use_cache=False).last_hidden_state[0][len(prompt) - 1 : -1]
    logits: torch.Tensor = critic.head(hidden)
    return logits


def plain_values(policy: Policy, sequence: TokenSequence) -> torch.Tensor:
    """Values [T] of the states that predict the tokens of one completion; 0 without a value head."""
    if policy.value_head is None:
        return torch.zeros(len(sequence.token_ids), dtype=policy.model.dtype)
    ids = torch.from_numpy(np.concatenate([sequence.prompt_ids, sequence.token_ids]).astype(np.int64))
    hidden = policy.model.base_model(input_ids=ids[None], use_cache=False).last_hidden_state[0]
    values: torch.Tensor = policy.value_head(hidden[len(sequence.prompt_ids) - 1 : -1])[:, 0]
    return values


def gradients(policy: Policy) -> list[torch.Tensor]:
    return [p.grad.clone() for p in policy.trained_parameters().values() if p.grad is not None]


def largest_difference(ours: Sequence[torch.Tensor], theirs: Sequence[torch.Tensor]) -> float:
    return max((a - b).abs().max().item() for a, b in zip(ours, theirs, strict=True))
