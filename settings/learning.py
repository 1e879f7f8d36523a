"""The sections of the learner: the policy update, its loss, and fine-tuning before RL."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field, PlainValidator, PositiveFloat, PositiveInt, model_validator

from rltf.settings.base import FUNCTION_FORM, Cores, Section, choice_or_function, one_gpu_at_most
from rltf.settings.choices import (
    AdvantageEstimator,
    AttnImplementation,
    KlLossType,
    LossAggMode,
    OldLogprobs,
    OptimizerName,
    PolicyLoss,
)

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

    name: OptimizerName = Field(
        OptimizerName.ADAMW,
        description="The optimizer. adamw_8bit keeps its moments in 8 bits and needs the package torchao "
        "(docs/scale.md).",
    )
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
    policy_loss: Annotated[PolicyLoss | str, PlainValidator(choice_or_function(PolicyLoss))] = Field(
        PolicyLoss.REINFORCE,
        examples=[FUNCTION_FORM],
        description="What multiplies the advantage of a token, or a function of yours that computes it "
        "(docs/extend.md).",
    )
    old_logprobs: OldLogprobs = Field(
        OldLogprobs.BEHAVIOR,
        description="The policy that likelihood ratios refer to: the one that sampled the token, or the weights "
        "published last, which takes another forward pass.",
    )
    loss_agg_mode: LossAggMode = Field(
        LossAggMode.TOKEN_MEAN, description="How to average the token losses of an update."
    )
    rollout_is_threshold: PositiveFloat | None = Field(
        2.0, description="Upper limit of the importance weights that correct for stale samples; null: no correction."
    )
    clip_ratio_low: float | None = Field(
        None, gt=0, lt=1, description="Clip range below a ratio of 1, for ppo and gspo."
    )
    clip_ratio_high: float | None = Field(
        None, gt=0, description="Clip range above a ratio of 1, for ppo, gspo and cispo."
    )
    clip_ratio_c: float | None = Field(
        None, gt=1, description="Upper limit of the ratio for negative advantages (dual-clip PPO); null: no limit."
    )
    kl_loss_coef: float = Field(
        0.0, ge=0, description="Weight of the KL divergence from the policy that RL starts from."
    )
    kl_loss_type: KlLossType = Field(
        KlLossType.K2,
        description="Estimator of that divergence. The gradient of k2 is that of KL(policy || start), the gradient of "
        "k3 that of KL(start || policy).",
    )

    @property
    def uses_ratios(self) -> bool:
        """Whether the loss compares the policy's log-probabilities with the sampler's."""
        return self.policy_loss is not PolicyLoss.REINFORCE or self.rollout_is_threshold is not None

    @model_validator(mode="after")
    def _check(self) -> LossSettings:
        if self.rl_weight == 0 and self.supervised_weight == 0:
            raise ValueError(
                "rl_weight and supervised_weight are both 0, so there is nothing to train: set one above 0"
            )
        if isinstance(self.policy_loss, PolicyLoss):  # a function of the user may use any of the fields
            self._check_policy_loss(self.policy_loss)
        return self

    def _check_policy_loss(self, policy_loss: PolicyLoss) -> None:
        wanted = {
            PolicyLoss.REINFORCE: (),
            PolicyLoss.PPO: ("clip_ratio_low", "clip_ratio_high"),
            PolicyLoss.GSPO: ("clip_ratio_low", "clip_ratio_high"),
            PolicyLoss.CISPO: ("clip_ratio_high",),
        }[policy_loss]
        for name in ("clip_ratio_low", "clip_ratio_high"):
            if (getattr(self, name) is not None) != (name in wanted):
                cure = "set it" if name in wanted else "set it to null, or choose another policy_loss"
                raise ValueError(f"policy_loss {policy_loss} {'needs' if name in wanted else 'has no'} {name}: {cure}")
        if self.clip_ratio_c is not None and policy_loss is not PolicyLoss.PPO:
            raise ValueError(f"policy_loss {policy_loss} has no clip_ratio_c: set it to null, or policy_loss to ppo")
        if self.old_logprobs is OldLogprobs.RECOMPUTE and policy_loss is PolicyLoss.REINFORCE:
            raise ValueError("policy_loss reinforce has no likelihood ratios: set old_logprobs to behavior")


class AdvantageSettings(Section):
    """From the rewards on tokens to their advantages. Fields you don't set come from `algorithm`."""

    estimator: Annotated[AdvantageEstimator | str, PlainValidator(choice_or_function(AdvantageEstimator))] = Field(
        AdvantageEstimator.OUTCOME,
        examples=[FUNCTION_FORM],
        description="How rewards become the advantage of a token: as they are, summed from the token on, by "
        "generalized advantage estimation with a value head, or by a function of yours (docs/extend.md).",
    )
    gamma: float = Field(1.0, ge=0, le=1, description="Discount of later rewards, for return and gae.")
    lam: float = Field(1.0, ge=0, le=1, description="Lambda of gae.")
    whiten: bool = Field(False, description="Shift and scale the advantages of an update to mean 0 and variance 1.")
    kl_reward_coef: float = Field(
        0.0, ge=0, description="Penalty on each token for its log-ratio to the policy that RL starts from."
    )
    kl_target: PositiveFloat | None = Field(
        None,
        description="KL divergence per program, in nats, that `kl_reward_coef` is adapted to during the run; null: it "
        "stays as it is.",
    )
    kl_horizon: PositiveInt = Field(10_000, description="Programs over which `kl_reward_coef` adapts.")
    vf_coef: float = Field(0.1, gt=0, description="Weight of the value head's loss, for gae.")
    cliprange_value: PositiveFloat | None = Field(
        None, description="Maximum change of a value in one update that its loss follows, for gae; null: no maximum."
    )
    critic: Path | None = Field(
        None,
        description="Folder of a critic (`rltf critic`) that multiplies each token weight by the probability of the "
        "program's true outcome; null: none.",
    )

    @model_validator(mode="after")
    def _check(self) -> AdvantageSettings:
        if self.critic is not None and self.estimator is not AdvantageEstimator.OUTCOME:
            raise ValueError(
                f"estimator {self.estimator} does not use the token weights that critic multiplies: set estimator to "
                "outcome, or critic to null"
            )
        if self.kl_reward_coef and self.estimator is AdvantageEstimator.OUTCOME:
            raise ValueError("kl_reward_coef needs the rewards of later tokens: set estimator to return or gae")
        return self


class LearnerSettings(Section):
    """The policy update: batches, optimizer, loss, and fine-tuning before RL."""

    num_workers: PositiveInt = Field(
        1,
        description="Processes that train the model together, each with `num_cpus` and `num_gpus` of one node and a "
        "part of the weights and the optimizer's state (FSDP).",
    )
    dist_timeout_s: PositiveFloat = Field(
        600.0, description="Seconds after which a worker that does not take part in a step counts as lost."
    )
    num_cpus: Cores = Field(1.0, description="CPU cores to reserve for each worker.")
    num_gpus: Annotated[
        Cores,
        one_gpu_at_most("set it to 1, and learner.num_workers to the number of GPUs"),
    ] = Field(1.0, description="Share of a GPU to reserve for each worker, at most 1; 0: train on the CPU.")
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
    attn_implementation: AttnImplementation = Field(
        AttnImplementation.AUTO,
        description="How attention within packed rows is computed. auto: flex_attention on GPUs for the decoder-only "
        "models that support it, otherwise sdpa (docs/scale.md).",
    )
    torch_compile: bool = Field(
        False,
        description="Compile the layers of the model and the output layer with torch.compile: faster updates after "
        "some minutes at the start (docs/scale.md). Needs a C++ compiler.",
    )
    fetch_timeout_s: PositiveFloat = Field(
        600.0, description="Seconds to wait for a snapshot of samples, or for an object in the object store."
    )
    optim: OptimSettings = Field(default_factory=OptimSettings, description="AdamW and its schedule.")
    loss: LossSettings = Field(default_factory=LossSettings, description="The terms of the loss.")
    advantage: AdvantageSettings = Field(
        default_factory=AdvantageSettings, description="From rewards to the advantages of tokens."
    )
    sft: SftSettings = Field(default_factory=SftSettings, description="Supervised fine-tuning before RL.")

    @model_validator(mode="after")
    def _check(self) -> LearnerSettings:
        if self.attn_implementation is AttnImplementation.FLEX_ATTENTION and self.num_gpus == 0:
            raise ValueError(
                "attn_implementation flex_attention cannot train on a CPU, because it has no backward pass there: set "
                "it to auto or sdpa, or give the learner a GPU (num_gpus)"
            )
        return self
