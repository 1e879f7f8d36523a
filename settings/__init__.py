"""Every setting of the program, in one frozen tree: the only place that holds defaults.

`settings_sources.load_settings` fills the tree from a YAML file, the environment (`RLTF_SECTION__FIELD`) and the
command line (`--section.field value`). The defaults are meant for a real run on GPUs and follow the paper wherever it
gives a value (Liu et al. 2023, section 4). `configs/starter.yaml` holds the job that runs on a laptop. Importing this
package imports neither torch nor Ray.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import Field, model_validator

from settings.base import GIB, MIB, Section
from settings.choices import (
    AdaptiveScope,
    Algorithm,
    Baseline,
    ChatTemplate,
    Dtype,
    Engine,
    FineFallback,
    Isolation,
    Localize,
    LoraPublish,
    LossAggMode,
    OnUpdate,
    WeightTransfer,
)
from settings.learning import CACHE_DIR, LearnerSettings, LossSettings, OptimSettings, SftSettings
from settings.sections import (
    BufferSettings,
    CheckpointSettings,
    ClusterSettings,
    EvaluationSettings,
    GeneratorSettings,
    LoraSettings,
    ModelSettings,
    PlanOptions,
    ProblemsSettings,
    RewardSettings,
    RunSettings,
    SandboxSettings,
)

__all__ = [
    "CACHE_DIR",
    "GIB",
    "MIB",
    "AdaptiveScope",
    "Algorithm",
    "Baseline",
    "BufferSettings",
    "ChatTemplate",
    "CheckpointSettings",
    "ClusterSettings",
    "Dtype",
    "Engine",
    "EvaluationSettings",
    "FineFallback",
    "GeneratorSettings",
    "Isolation",
    "LearnerSettings",
    "Localize",
    "LoraPublish",
    "LoraSettings",
    "LossAggMode",
    "LossSettings",
    "ModelSettings",
    "OnUpdate",
    "OptimSettings",
    "PlanOptions",
    "ProblemsSettings",
    "RewardSettings",
    "RunSettings",
    "SandboxSettings",
    "Section",
    "Settings",
    "SftSettings",
    "WeightTransfer",
    "loss_of",
    "rewards_of",
]

# How the other algorithms differ from `rltf`, whose values are the defaults of `RewardSettings` and `LossSettings`.
# docs/method.md explains each difference.
_REWARDS: Mapping[Algorithm, Mapping[str, Any]] = {
    Algorithm.RLTF: {},
    Algorithm.RLTF_PAPER: {
        "baseline": Baseline.GREEDY_BEST,
        "alpha_cap": math.inf,
        "adaptive_scope": AdaptiveScope.FAILED,
        "unlocated_category": FineFallback.IGNORE,
        "failing_never_positive": False,
        "negative_scale": 1.0,
    },
    Algorithm.RLTF_CODE: {
        "baseline": Baseline.GREEDY_LATEST,
        "alpha_cap": 1.0,
        "adaptive_scope": AdaptiveScope.REPLACE_COARSE,
        "timeout_category": FineFallback.IGNORE,
        "unlocated_category": FineFallback.IGNORE,
        "failing_never_positive": False,
        "negative_scale": 1.0,
    },
}
_LOSS: Mapping[Algorithm, Mapping[str, Any]] = {
    Algorithm.RLTF: {},
    Algorithm.RLTF_PAPER: {"loss_agg_mode": LossAggMode.SEQ_MEAN_TOKEN_SUM, "rollout_is_threshold": None},
    Algorithm.RLTF_CODE: {"loss_agg_mode": LossAggMode.SEQ_MEAN_TOKEN_SUM, "rollout_is_threshold": None},
}


def rewards_of(algorithm: Algorithm | str, **given: Any) -> RewardSettings:
    """The reward settings of `algorithm`, except for the fields that are `given`."""
    return RewardSettings.model_validate({**_REWARDS[Algorithm(algorithm)], **given})


def loss_of(algorithm: Algorithm | str, **given: Any) -> LossSettings:
    """The loss settings of `algorithm`, except for the fields that are `given`."""
    return LossSettings.model_validate({**_LOSS[Algorithm(algorithm)], **given})


class Settings(Section):
    """The whole tree. It reads neither files nor the environment: `settings_sources.load_settings` does."""

    algorithm: Algorithm = Field(
        Algorithm.RLTF, description="Version of RLTF that sets the `rewards` and `learner.loss` fields you don't set."
    )
    run: RunSettings = Field(default_factory=RunSettings)
    model: ModelSettings = Field(default_factory=ModelSettings)
    problems: ProblemsSettings = Field(default_factory=ProblemsSettings)
    generator: GeneratorSettings = Field(default_factory=GeneratorSettings)
    sandbox: SandboxSettings = Field(default_factory=SandboxSettings)
    rewards: RewardSettings = Field(default_factory=RewardSettings)
    learner: LearnerSettings = Field(default_factory=LearnerSettings)
    checkpoint: CheckpointSettings = Field(default_factory=CheckpointSettings)
    buffer: BufferSettings = Field(default_factory=BufferSettings)
    evaluation: EvaluationSettings = Field(default_factory=EvaluationSettings)
    cluster: ClusterSettings = Field(default_factory=ClusterSettings)

    @property
    def cache_dir(self) -> Path:
        """Where the run keeps models that it makes: fine-tuned, dequantized, or the starter job's."""
        return self.learner.sft.cache_dir or self.run.folder / "cache"

    @model_validator(mode="before")
    @classmethod
    def _fill_from_algorithm(cls, data: Any) -> Any:
        """Leave values that are wrong alone: the fields' own validation reports them."""
        if not isinstance(data, dict) or data.get("algorithm", Algorithm.RLTF) not in list(Algorithm):
            return data
        algorithm = Algorithm(data.get("algorithm", Algorithm.RLTF))
        rewards, learner = data.get("rewards", {}), data.get("learner", {})
        if isinstance(rewards, dict):
            data = data | {"rewards": {**_REWARDS[algorithm], **rewards}}
        if isinstance(learner, dict) and isinstance(loss := learner.get("loss", {}), dict):
            data = data | {"learner": learner | {"loss": {**_LOSS[algorithm], **loss}}}
        return data

    @model_validator(mode="after")
    def _check(self) -> Settings:
        if self.model.dtype is Dtype.AUTO:
            chosen = self.model.model_copy(update={"dtype": self._faster_dtype()})
            object.__setattr__(self, "model", chosen)  # so that the settings of a run say what it computes in
        self._check_sizes()
        self._check_schedule()
        if self.generator.weight_transfer is not WeightTransfer.OBJECT_STORE:
            self._check_weight_transfer()
        if self.run.deterministic:
            self._check_deterministic()
        if self.run.log_batches and self.model.lora.rank:
            raise ValueError("run.log_batches can record whole models only, not adapters: set model.lora.rank to 0")
        return self

    def _faster_dtype(self) -> Dtype:
        if self.run.deterministic:
            return Dtype.FLOAT32
        return Dtype.BFLOAT16 if self.learner.num_gpus or self.generator.num_gpus else Dtype.of_this_cpu()

    def _check_sizes(self) -> None:
        if self.generator.max_tokens >= self.model.max_model_len:
            raise ValueError(
                f"generator.max_tokens {self.generator.max_tokens} leaves no room for a prompt within "
                f"model.max_model_len {self.model.max_model_len}: lower the first or raise the second"
            )
        snapshot = self.learner.batch_size * self.buffer.refresh_every
        if max(snapshot, self.buffer.start_samples) > self.buffer.capacity:
            raise ValueError(
                f"buffer.capacity {self.buffer.capacity} is below the {snapshot} samples of a snapshot "
                f"(learner.batch_size {self.learner.batch_size} x buffer.refresh_every {self.buffer.refresh_every}) or "
                f"below buffer.start_samples {self.buffer.start_samples}: the learner would wait forever"
            )
        if self.model.max_model_len > self.learner.micro_batch_tokens:
            raise ValueError(
                f"learner.micro_batch_tokens {self.learner.micro_batch_tokens} is below model.max_model_len "
                f"{self.model.max_model_len}: the longest sequence would not fit into any micro-batch"
            )

    def _check_schedule(self) -> None:
        decay_steps, num_steps = self.learner.optim.decay_steps, self.run.num_steps
        if 0 < decay_steps < num_steps:
            raise ValueError(
                f"learner.optim.decay_steps {decay_steps} is below run.num_steps {num_steps}: the learning rate would "
                f"be 0 for the last {num_steps - decay_steps} updates. Set learner.optim.decay_steps to {num_steps} or "
                "more, or to 0 for a constant learning rate"
            )
        every, refresh_every = self.evaluation.every, self.buffer.refresh_every
        if self.problems.evaluation and every % refresh_every:
            raise ValueError(
                f"evaluation.every {every} is not a multiple of buffer.refresh_every {refresh_every}, so the "
                f"generators would not hold the learner's latest weights: set it to {_multiple(every, refresh_every)}"
            )

    def _check_weight_transfer(self) -> None:
        generator, learner = self.generator, self.learner
        how, one_way = f"generator.weight_transfer {generator.weight_transfer}", "or set it to object_store"
        if self.run.deterministic:
            raise ValueError(f"{how} needs GPUs, but run.deterministic needs CPUs: set it to object_store")
        if generator.engine is not Engine.VLLM:
            raise ValueError(f"{how} works with vLLM only: set generator.engine to vllm, {one_way}")
        if not (generator.num_gpus and learner.num_gpus):
            raise ValueError(
                f"{how} copies from GPU to GPU: set generator.num_gpus (now {generator.num_gpus:g}) and "
                f"learner.num_gpus (now {learner.num_gpus:g}) above 0, {one_way}"
            )
        if self.model.lora.rank and self.model.lora.publish is LoraPublish.ADAPTER:
            raise ValueError(f"{how} cannot send adapters alone: set model.lora.publish to merged, {one_way}")
        gpus = (
            f"learner.num_gpus is {learner.num_gpus:g}, generator.num_gpus {generator.num_gpus:g} and "
            f"generator.num_generators {generator.num_generators}"
        )
        if generator.weight_transfer is WeightTransfer.NCCL and learner.num_gpus + generator.num_gpus <= 1:
            raise ValueError(
                f"{how} needs separate GPUs, because NCCL cannot connect two processes on one; {gpus}: set both "
                "num_gpus to 1, or use ipc"
            )
        all_gpus = learner.num_gpus + generator.num_generators * generator.num_gpus
        if generator.weight_transfer is WeightTransfer.IPC and all_gpus > 1:
            raise ValueError(
                f"{how} needs learner and generators to share one GPU, but they ask for {all_gpus:g} together; {gpus}: "
                "lower them, or use nccl"
            )

    def _check_deterministic(self) -> None:
        buffer, learner = self.buffer, self.learner
        if self.generator.num_gpus or learner.num_gpus or self.model.dtype is not Dtype.FLOAT32:
            raise ValueError(
                "run.deterministic needs CPUs and float32: set generator.num_gpus and learner.num_gpus to 0, and "
                "model.dtype to float32"
            )
        if (learner.num_threads or 1) > 1:
            raise ValueError(
                f"run.deterministic: learner.num_threads is {learner.num_threads}, but the order of sums depends on "
                "it: remove it"
            )
        every, refresh_every = self.checkpoint.every, buffer.refresh_every
        if every % refresh_every:
            raise ValueError(
                f"run.deterministic: checkpoint.every {every} is not a multiple of buffer.refresh_every "
                f"{refresh_every}, but a checkpoint must hold the weights that the generators sample with: set it to "
                f"{_multiple(every, refresh_every)}"
            )
        needed = (2 + buffer.max_off_policy_versions) * learner.batch_size * refresh_every
        if buffer.capacity < needed:
            raise ValueError(
                f"run.deterministic: buffer.capacity {buffer.capacity} is below {needed}, so samples could be evicted; "
                "it takes learner.batch_size x buffer.refresh_every x (2 + buffer.max_off_policy_versions)"
            )


def _multiple(value: int, of: int) -> int:
    """The smallest multiple of `of` that is not below `value`."""
    return -(-value // of) * of
