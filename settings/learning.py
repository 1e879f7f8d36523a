"""The sections of the learner: the policy update, its loss, and fine-tuning before RL."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from settings.base import Cores, Section
from settings.choices import LossAggMode

CACHE_DIR = Path("runs/cache")


class SftSettings(Section):
    """Supervised fine-tuning on reference programs before RL starts."""

    num_steps: int = Field(0, ge=0, description="Maximum number of supervised updates; 0: no fine-tuning.")
    learning_rate: PositiveFloat = Field(2e-5, description="Peak learning rate.")
    warmup_steps: int = Field(100, ge=0, description="Updates over which the learning rate rises from 0.")
    final_learning_rate: float = Field(
        0.1, ge=0, le=1, description="Final learning rate as a share of the peak, with cosine decay; 1: constant."
    )
    batch_size: PositiveInt = Field(256, description="Reference programs per update.")
    validation_share: float = Field(0.1, gt=0, lt=1, description="Share of the problems held out for early stopping.")
    evaluate_every: PositiveInt = Field(50, description="Updates between validations.")
    patience: PositiveInt = Field(3, description="Validations without a lower loss before fine-tuning stops.")
    cache_dir: Path | None = Field(
        CACHE_DIR,
        description="Folder that caches fine-tuned models, and models from GGUF files, by content hash; null: each run "
        "makes its own.",
    )


class OptimSettings(Section):
    """AdamW and its learning-rate schedule."""

    learning_rate: float = Field(2e-6, ge=0, description="Peak learning rate; 0: the weights never change.")
    weight_decay: float = Field(0.05, ge=0, description="Decoupled weight decay.")
    warmup_steps: int = Field(500, ge=0, description="Updates over which the learning rate rises from 0.")
    decay_steps: int = Field(
        0, ge=0, description="Update at which the linear decay of the learning rate reaches 0; 0: no decay."
    )
    max_grad_norm: PositiveFloat = Field(1.0, description="Maximum gradient norm; larger gradients are clipped to it.")


class LossSettings(Section):
    """The terms of the loss. Fields you don't set come from `algorithm`."""

    rl_weight: float = Field(
        1.0, ge=0, description="Weight of all RL terms together; 0: supervised only, as a control run."
    )
    supervised_weight: float = Field(1.0, ge=0, description="Weight of the supervised term; 0: off.")
    loss_agg_mode: LossAggMode = Field(
        LossAggMode.TOKEN_MEAN, description="How to average the token losses of an update."
    )
    rollout_is_threshold: PositiveFloat | None = Field(
        2.0, description="Upper limit of the importance weights that correct for stale samples; null: no correction."
    )
    clip_ratio_low: float | None = Field(
        None, gt=0, lt=1, description="PPO clip range below a ratio of 1; null: no clipping."
    )
    clip_ratio_high: float | None = Field(
        None, gt=0, description="PPO clip range above a ratio of 1; null: no clipping."
    )
    kl_loss_coef: float = Field(
        0.0, ge=0, description="Weight of the KL divergence from the policy that RL starts from."
    )

    @model_validator(mode="after")
    def _check(self) -> LossSettings:
        if self.rl_weight == 0 and self.supervised_weight == 0:
            raise ValueError(
                "rl_weight and supervised_weight are both 0, so there is nothing to train: set one above 0"
            )
        if (self.clip_ratio_low is None) != (self.clip_ratio_high is None):
            raise ValueError("clip_ratio_low and clip_ratio_high belong together: set both, or neither")
        if self.clip_ratio_low is not None and self.rollout_is_threshold is None:
            raise ValueError("clip_ratio_low and clip_ratio_high need importance weights: set rollout_is_threshold")
        return self


class LearnerSettings(Section):
    """The policy update: batches, optimizer, loss, and fine-tuning before RL."""

    num_cpus: Cores = Field(1.0, description="CPU cores to reserve for the learner.")
    num_gpus: Cores = Field(1.0, description="GPUs to reserve for the learner; 0: train on the CPU.")
    num_threads: PositiveInt | None = Field(
        None,
        description="Threads of the learner; null: one per reserved core. During SFT it uses all cores.",
    )
    batch_size: PositiveInt = Field(128, description="Graded samples per update. Rollouts are never split.")
    supervised_batch_size: PositiveInt = Field(128, description="Reference programs per update.")
    micro_batch_tokens: PositiveInt = Field(
        16384, multiple_of=8, description="Maximum tokens of one forward pass, including padding."
    )
    row_tokens: PositiveInt = Field(
        2048,
        description="Maximum tokens of a row that packs a prompt with several of its completions. Longer rows make "
        "attention more expensive.",
    )
    chunk_tokens: PositiveInt = Field(
        1024, description="Tokens whose logits are in memory at once. Lower it to save memory on large vocabularies."
    )
    activation_checkpointing: bool = Field(
        False, description="Recompute activations in the backward pass: less memory, a third slower."
    )
    fetch_timeout_s: PositiveFloat = Field(
        600.0, description="Seconds to wait for a snapshot of samples, or for an object in the object store."
    )
    optim: OptimSettings = Field(default_factory=OptimSettings, description="AdamW and its schedule.")
    loss: LossSettings = Field(default_factory=LossSettings, description="The terms of the loss.")
    sft: SftSettings = Field(default_factory=SftSettings, description="Supervised fine-tuning before RL.")
