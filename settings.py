"""Every setting of the program, in one frozen tree: the only place where a default lives.

`settings_sources.load_settings` fills the tree from a YAML file, the environment (`RLTF_SECTION__FIELD`) and the
command line (`--section.field value`). The defaults are meant for a real run on GPUs, after the paper where it gives a
value (Liu et al. 2023, section 4); `configs/starter.yaml` holds the job that a laptop runs. Importing this module
imports neither torch nor Ray.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, PositiveInt, model_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

GIB = 1024**3
MIB = 1024**2


class Algorithm(StrEnum):
    """Whose reading of RLTF applies."""

    RLTF = "rltf"
    """This project's."""
    RLTF_PAPER = "rltf-paper"
    """The paper's."""
    RLTF_CODE = "rltf-code"
    """The code's that the authors released."""


class LossAggMode(StrEnum):
    """What the sum over tokens is divided by, for the supervised and the sampled sequences separately."""

    TOKEN_MEAN = "token-mean"
    """The number of tokens: every token counts the same."""
    SEQ_MEAN_TOKEN_MEAN = "seq-mean-token-mean"
    """The tokens of a sequence, then the number of sequences: every program counts the same."""
    SEQ_MEAN_TOKEN_SUM = "seq-mean-token-sum"
    """The number of sequences: the sum over a program's tokens, as the paper writes it, averaged over programs."""


class Section(BaseModel):
    """What all sections share: unknown fields are errors, values are checked and never change."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)


class RunSettings(Section):
    """The job as a whole."""

    name: str = Field("rltf", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", description="Name of the run.")
    dir: Path | None = Field(None, description="Run folder; `runs/NAME` where it is not given.")
    seed: int = Field(0, ge=0, lt=2**31, description="Seed of every random choice of the run.")
    num_steps: PositiveInt = Field(5000, description="Learner updates to make.")
    deterministic: bool = Field(
        False,
        description="Whether equal settings give equal weights, bit for bit, over a resume too: CPU, float32, slow.",
    )
    log_batches: int = Field(
        0, ge=0, description="Updates, from the first, whose samples are kept in `replay/` for `--replay`; 0: none."
    )
    wandb_project: str | None = Field(
        None,
        min_length=1,
        description="Weights & Biases project that gets the curves as well; none: TensorBoard alone.",
    )

    @property
    def folder(self) -> Path:
        """The run folder."""
        return self.dir if self.dir is not None else Path("runs") / self.name


class LoraSettings(Section):
    """Low-rank adapters that are trained in place of the weights. No dropout: what is trained is what samples."""

    rank: int = Field(0, ge=0, description="Rank of the adapters; 0: none, all weights are trained.")
    alpha: PositiveInt = Field(32, description="What an adapter adds to a weight is scaled by alpha / rank.")
    target_modules: tuple[str, ...] = Field(
        (), description="Layers with an adapter, by the last part of their name (`q_proj`); none: all linear ones."
    )
    publish: Literal["merged", "adapter"] = Field(
        "merged",
        description="What generators are sent: all weights, adapters merged, or the adapters alone, which takes a "
        "fraction of the bytes, and a copy of the model in each generator's host memory to merge them into.",
    )


class ModelSettings(Section):
    """The policy."""

    name: str = Field(
        "Qwen/Qwen2.5-Coder-0.5B",
        min_length=1,
        description="A Hugging Face model folder, a hub id, or `tiny`: the starter job's Llama, built from nothing.",
    )
    dtype: Literal["float32", "bfloat16"] = Field(
        "bfloat16",
        description="Type that generators hold weights in and the learner computes in; its master weights are float32.",
    )
    max_model_len: PositiveInt = Field(1536, description="Maximum tokens of a prompt and its completion together.")
    chat_template: bool = Field(False, description="Whether prompts go through the tokenizer's chat template.")
    lora: LoraSettings = Field(default_factory=LoraSettings, description="Adapters in place of all weights.")


class ProblemsSettings(Section):
    """Which problems are trained on, and which are held out."""

    train: tuple[str, ...] = Field(
        ("mbpp:google-research-datasets/mbpp",), min_length=1, description="SPECs of the problems that RL samples."
    )
    supervised: tuple[str, ...] = Field(
        (), description="SPECs whose reference programs the supervised term learns from; none: those of `train`."
    )
    skip_solved: float = Field(
        0.0, ge=0, lt=1, description="Chance that a problem is passed over whose last rollout passed as a whole."
    )
    evaluation: tuple[str, ...] = Field((), description="SPECs of held-out problems; none: no evaluation.")
    validate_references: bool = Field(
        False, description="Whether reference programs are run first, and left out where they fail their own tests."
    )


class GeneratorSettings(Section):
    """The actors that sample programs."""

    engine: Literal["vllm", "transformers"] = Field(
        "vllm", description="What samples; transformers is slower, runs more."
    )
    num_generators: PositiveInt = Field(1, description="Generator actors.")
    num_cpus: float = Field(1.0, ge=0, description="CPU cores that each generator asks Ray for.")
    num_gpus: float = Field(1.0, ge=0, description="GPUs that each generator asks Ray for; 0: it runs on the CPU.")
    num_generations: PositiveInt = Field(20, description="Programs sampled for one problem in one rollout.")
    temperature: PositiveFloat = Field(1.0, description="Sampling temperature.")
    top_p: float = Field(0.95, gt=0, le=1, description="Probability mass that nucleus sampling keeps.")
    max_tokens: PositiveInt = Field(512, description="Most tokens of one completion.")
    max_num_seqs: PositiveInt = Field(256, description="Completions that one engine decodes at the same time.")
    kv_cache_bytes: PositiveInt = Field(
        4 * GIB, description="Memory for the keys and values of the completions that one engine decodes."
    )
    weight_transfer: Literal["object_store", "nccl", "ipc"] = Field(
        "object_store",
        description="How weights come: through Ray's object store, or, with vLLM alone, from GPU to GPU by NCCL, or "
        "within one GPU by CUDA IPC.",
    )
    on_update: Literal["keep", "drain"] = Field(
        "keep", description="Whether completions in flight go on over a weight update, or end before it."
    )
    verify_weights_every: int = Field(
        0, ge=0, description="Weight versions from one that generators check by its checksum to the next; 0: none."
    )


class SandboxSettings(Section):
    """The pool that runs untrusted programs, and the limits of one run."""

    min_workers: PositiveInt = Field(2, description="Sandbox workers kept while the run lasts.")
    max_workers: PositiveInt = Field(16, description="Most sandbox workers that a backlog may bring up.")
    min_isolation: Literal["namespaces+cgroup", "namespaces", "landlock", "rlimits"] = Field(
        "namespaces", description="Weakest isolation level to accept; a machine that gives less is refused."
    )
    num_cpus: float = Field(1.0, ge=0, description="CPU cores that each sandbox worker asks Ray for.")
    backlog_per_worker: PositiveInt = Field(64, description="Programs waiting per worker before one more is asked for.")
    idle_s: PositiveFloat = Field(30.0, description="Seconds without need before a worker above the minimum leaves.")
    start_timeout_s: PositiveFloat = Field(
        900.0, description="Seconds in which the minimum of workers must be up, machines from a cloud included."
    )
    cpu_s: PositiveFloat = Field(4.0, description="CPU seconds that one test may take.")
    wall_s: PositiveFloat = Field(10.0, description="Wall-clock seconds that one test may take.")
    program_cpu_s: PositiveFloat = Field(120.0, description="CPU seconds that all tests of a program may take.")
    program_wall_s: PositiveFloat = Field(240.0, description="Wall-clock seconds that all tests may take.")
    memory_bytes: PositiveInt = Field(512 * MIB, description="Memory that one test may use.")
    output_bytes: PositiveInt = Field(8 * MIB, description="Output that one test may write.")
    scratch_bytes: PositiveInt = Field(16 * MIB, description="Size of the folder /tmp that one test may fill.")

    @model_validator(mode="after")
    def _check(self) -> SandboxSettings:
        if self.max_workers < self.min_workers:
            raise ValueError(
                f"max_workers {self.max_workers} is below min_workers {self.min_workers}: the pool could not start"
            )
        if self.wall_s < self.cpu_s:
            raise ValueError(
                f"wall_s {self.wall_s:g} is below cpu_s {self.cpu_s:g}: no program could ever use its CPU seconds"
            )
        return self


class RewardSettings(Section):
    """From verdicts to token weights. `algorithm` sets every field that is not given."""

    coarse_weight: float = Field(
        1.0, ge=0, allow_inf_nan=False, description="Weight of the reward for the program's outcome; 0: off."
    )
    fine_weight: float = Field(
        1.0, ge=0, allow_inf_nan=False, description="Weight of the penalty on the line of an error; 0: off."
    )
    adaptive_weight: float = Field(
        1.0, ge=0, allow_inf_nan=False, description="Weight of the reward for the share of tests passed; 0: off."
    )
    static_weight: float = Field(
        0.0, ge=0, allow_inf_nan=False, description="Weight of the penalty on lines that pyflakes objects to; 0: off."
    )
    baseline: Literal["greedy_latest", "greedy_best", "mean", "leave_one_out", "none"] = Field(
        "leave_one_out", description="What is subtracted from the coarse and the adaptive reward of a sample."
    )
    alpha_cap: float = Field(
        10.0, ge=1, description="Most that the fine penalty of a short line may be multiplied by; inf: no cap."
    )
    adaptive_scope: Literal["ran", "failed", "replace_coarse"] = Field(
        "ran",
        description="Adaptive reward of every program that ran, of wrong answers alone, or of these instead of coarse.",
    )
    timeout_category: Literal["global", "ignore"] = Field(
        "global", description="Fine penalty of a timeout: the whole program, or none."
    )
    unlocated_category: Literal["global", "ignore"] = Field(
        "global",
        description="Fine penalty of an error on no line of code: the whole program, or none.",
    )
    failing_never_positive: bool = Field(
        True, description="Whether the advantage of a program that does not pass is cut off at 0."
    )
    negative_scale: float = Field(
        0.3,
        ge=0,
        le=1,
        description="Factor on negative advantages and penalties; undamped ones can destroy a small model.",
    )

    @property
    def needs_greedy(self) -> bool:
        """Whether a rollout must hold a greedy decode for the baseline."""
        return self.baseline in ("greedy_latest", "greedy_best")


class SftSettings(Section):
    """Supervised fine-tuning on reference programs before RL starts."""

    num_steps: int = Field(0, ge=0, description="Maximum number of supervised updates; 0: no SFT stage.")
    learning_rate: PositiveFloat = Field(2e-5, description="Peak learning rate of the SFT stage.")
    warmup_steps: int = Field(100, ge=0, description="Updates over which the learning rate rises from 0.")
    final_learning_rate: float = Field(
        0.1, ge=0, le=1, description="Learning rate at `num_steps`, as a share of the peak; cosine decay; 1: constant."
    )
    batch_size: PositiveInt = Field(256, description="Reference programs of one supervised update.")
    validation_share: float = Field(0.1, gt=0, lt=1, description="Share of the problems kept for early stopping.")
    evaluate_every: PositiveInt = Field(50, description="Updates from one validation to the next.")
    patience: PositiveInt = Field(3, description="Validations without a lower loss after which the stage ends.")
    cache_dir: Path | None = Field(
        Path("runs/cache"), description="Where fine-tuned models are cached by content hash; none: not cached."
    )


class OptimSettings(Section):
    """AdamW and its schedule."""

    learning_rate: float = Field(2e-6, ge=0, description="Peak learning rate; 0: the weights never change.")
    weight_decay: float = Field(0.05, ge=0, description="Decoupled weight decay.")
    warmup_steps: int = Field(500, ge=0, description="Updates over which the learning rate rises from 0.")
    decay_steps: int = Field(
        0, ge=0, description="Update at which a learning rate that falls linearly would reach 0; 0: constant."
    )
    max_grad_norm: PositiveFloat = Field(1.0, description="Norm to which gradients are clipped.")


class LossSettings(Section):
    """The terms of the loss. `algorithm` sets every field that is not given."""

    rl_weight: float = Field(1.0, ge=0, description="Weight of all reinforcement terms together; 0: the control.")
    supervised_weight: float = Field(1.0, ge=0, description="Weight of the supervised term; 0: off.")
    loss_agg_mode: LossAggMode = Field(
        LossAggMode.TOKEN_MEAN, description="How the losses of an update's tokens are averaged."
    )
    rollout_is_threshold: PositiveFloat | None = Field(
        2.0, description="Limit of the importance weights that correct for stale tokens; none: no correction."
    )
    clip_ratio_low: float | None = Field(
        None, gt=0, lt=1, description="PPO's clip range of the ratio below 1; none: truncation only."
    )
    clip_ratio_high: float | None = Field(
        None, gt=0, description="PPO's clip range of the ratio above 1; none: truncation only."
    )
    kl_loss_coef: float = Field(0.0, ge=0, description="Weight of the KL divergence from the initial policy of RL.")

    @model_validator(mode="after")
    def _check(self) -> LossSettings:
        if self.rl_weight == 0 and self.supervised_weight == 0:
            raise ValueError("rl_weight and supervised_weight are both 0: there is nothing to train on")
        if (self.clip_ratio_low is None) != (self.clip_ratio_high is None):
            raise ValueError("clip_ratio_low and clip_ratio_high belong together: set both, or neither")
        if self.clip_ratio_low is not None and self.rollout_is_threshold is None:
            raise ValueError("clip_ratio_low and clip_ratio_high need importance weights: set rollout_is_threshold")
        return self


class LearnerSettings(Section):
    """The policy update."""

    num_cpus: float = Field(1.0, ge=0, description="CPU cores that the learner asks Ray for.")
    num_gpus: float = Field(1.0, ge=0, description="GPUs that the learner asks Ray for; 0: it trains on the CPU.")
    batch_size: PositiveInt = Field(128, description="Graded samples in one update; rollouts are never split.")
    supervised_batch_size: PositiveInt = Field(128, description="Reference programs in one update.")
    micro_batch_tokens: PositiveInt = Field(
        16384, multiple_of=8, description="Maximum tokens of one forward pass, padding included."
    )
    row_tokens: PositiveInt = Field(
        2048,
        description="Tokens to which prompts with many completions are packed in one row; attention grows with it.",
    )
    chunk_tokens: PositiveInt = Field(1024, description="Tokens whose logits over the vocabulary exist at one time.")
    activation_checkpointing: bool = Field(
        False, description="Whether the backward pass recomputes activations: less memory, a third slower."
    )
    fetch_timeout_s: PositiveFloat = Field(
        600.0, description="Longest wait for a snapshot, or for an object of the object store."
    )
    optim: OptimSettings = Field(default_factory=OptimSettings, description="AdamW and its schedule.")
    loss: LossSettings = Field(default_factory=LossSettings, description="The terms of the loss.")
    sft: SftSettings = Field(default_factory=SftSettings, description="Supervised fine-tuning before RL.")


class CheckpointSettings(Section):
    """Checkpoints of the run."""

    every: PositiveInt = Field(100, description="Updates from one checkpoint to the next.")
    keep: PositiveInt = Field(3, description="Number of checkpoints to keep; older ones are deleted.")


class BufferSettings(Section):
    """The online buffer of references to graded samples."""

    capacity: PositiveInt = Field(6400, description="Samples kept; a new one pushes the oldest out.")
    max_bytes: PositiveInt = Field(1 * GIB, description="Bytes of the samples kept; a new one pushes the oldest out.")
    start_samples: int = Field(0, ge=0, description="Samples that must be there before the first update.")
    refresh_every: PositiveInt = Field(50, description="Updates between snapshots, and weight publications.")
    max_off_policy_versions: int = Field(
        2, ge=0, description="Maximum weight versions a sample may lag behind when it is trained on."
    )


class EvaluationSettings(Section):
    """pass@k on held-out problems during the run."""

    initial: bool = Field(True, description="Whether the policy is evaluated before the first update.")
    every: PositiveInt = Field(500, description="Updates from one evaluation to the next.")
    num_samples: PositiveInt = Field(5, description="Programs sampled of each held-out problem.")
    ks: tuple[PositiveInt, ...] = Field((1, 5), min_length=1, description="The k of pass@k.")
    temperature: float = Field(0.6, ge=0, description="Sampling temperature; 0: greedy.")
    top_p: float = Field(0.95, gt=0, le=1, description="Probability mass that nucleus sampling keeps.")

    @model_validator(mode="after")
    def _check(self) -> EvaluationSettings:
        if max(self.ks) > self.num_samples:
            raise ValueError(
                f"pass@{max(self.ks)} needs at least as many programs of a problem; num_samples is {self.num_samples}"
            )
        return self


class ClusterSettings(Section):
    """Where the actors run."""

    address: str = Field(
        "local",
        pattern=r"^(local|auto|[^:/]+:\d+)$",
        description="`local` starts Ray here, `auto` joins this machine's cluster, HOST:PORT the one of that head. On "
        "the command line also ray://HOST:10001 or http://HOST:8265: the cluster there runs the job.",
    )
    object_store_bytes: PositiveInt = Field(2 * GIB, description="Size of the object store of a local Ray.")
    dashboard: bool = Field(True, description="Whether a local Ray serves its dashboard.")


class PlanSettings(Section):
    """What `--plan` reckons with. What is not given it measures in a short run of the job."""

    tokens_per_s: PositiveFloat | None = Field(
        None, description="Tokens a second of one generator while it samples; none: measured."
    )
    tokens_per_program: PositiveFloat | None = Field(None, description="Mean tokens of a completion; none: measured.")
    programs_per_s: PositiveFloat | None = Field(
        None, description="Programs a second of one busy sandbox worker; none: measured."
    )
    update_s: PositiveFloat | None = Field(None, description="Seconds of one update of the learner; none: measured.")
    publish_s: float | None = Field(
        None, ge=0, description="Seconds for which the learner stands still to publish weights; none: measured."
    )
    load_s: float | None = Field(
        None, ge=0, description="Seconds for which a generator stands still to load weights; none: measured."
    )
    num_updates: PositiveInt = Field(
        8, description="Updates of the short run that are measured, after those of a first snapshot."
    )
    num_cpus: float | None = Field(
        None, gt=0, description="CPU cores of the cluster to plan for; none: those of the cluster at hand."
    )
    num_gpus: float | None = Field(
        None, ge=0, description="GPUs of the cluster to plan for; none: those of the cluster at hand."
    )


# Where an algorithm differs from `rltf`, whose values are the defaults of `RewardSettings` and `LossSettings` (see
# docs/method.md).
_REWARDS: Mapping[Algorithm, Mapping[str, Any]] = {
    Algorithm.RLTF: {},
    Algorithm.RLTF_PAPER: {
        "baseline": "greedy_best",
        "alpha_cap": math.inf,
        "adaptive_scope": "failed",
        "unlocated_category": "ignore",
        "failing_never_positive": False,
        "negative_scale": 1.0,
    },
    Algorithm.RLTF_CODE: {
        "baseline": "greedy_latest",
        "alpha_cap": 1.0,
        "adaptive_scope": "replace_coarse",
        "timeout_category": "ignore",
        "unlocated_category": "ignore",
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
    """The reward settings of `algorithm`, except the fields that are `given`."""
    return RewardSettings.model_validate({**_REWARDS[Algorithm(algorithm)], **given})


def loss_of(algorithm: Algorithm | str, **given: Any) -> LossSettings:
    """The loss settings of `algorithm`, except the fields that are `given`."""
    return LossSettings.model_validate({**_LOSS[Algorithm(algorithm)], **given})


class Settings(BaseSettings):
    """The whole tree. Built from keyword arguments alone; `load_settings` adds the other sources."""

    model_config = SettingsConfigDict(extra="forbid", frozen=True, validate_default=True)

    algorithm: Algorithm = Field(
        Algorithm.RLTF, description="Whose reading of RLTF sets the rewards and the loss, except what is given."
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
    plan: PlanSettings = Field(default_factory=PlanSettings)

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Keep `Settings()` free of the environment, so that every actor of a run sees the same values."""
        return (init_settings,)

    @model_validator(mode="before")
    @classmethod
    def _fill_from_algorithm(cls, data: Any) -> Any:
        """What is wrong with a value is left for the fields' own validation to say."""
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
        if self.generator.max_tokens >= self.model.max_model_len:
            raise ValueError(
                f"generator.max_tokens {self.generator.max_tokens} leaves no room for a prompt "
                f"within model.max_model_len {self.model.max_model_len}"
            )
        snapshot = self.learner.batch_size * self.buffer.refresh_every
        if max(snapshot, self.buffer.start_samples) > self.buffer.capacity:
            raise ValueError(
                f"buffer.capacity {self.buffer.capacity} is below the {snapshot} samples of a snapshot "
                f"(learner.batch_size {self.learner.batch_size} x buffer.refresh_every {self.buffer.refresh_every}) or "
                f"buffer.start_samples {self.buffer.start_samples}: the learner would wait forever"
            )
        if 0 < self.learner.optim.decay_steps < self.run.num_steps:
            raise ValueError(
                f"learner.optim.decay_steps {self.learner.optim.decay_steps} is below run.num_steps "
                f"{self.run.num_steps}: the updates after it would change nothing. Set it to run.num_steps or more, "
                "or to 0 for a constant rate"
            )
        if self.problems.evaluation and self.evaluation.every % self.buffer.refresh_every:
            raise ValueError(
                f"evaluation.every {self.evaluation.every} is no multiple of buffer.refresh_every "
                f"{self.buffer.refresh_every}: only then do the generators hold the learner's present weights"
            )
        if self.generator.weight_transfer != "object_store":
            self._check_weight_transfer()
        if self.run.deterministic:
            self._check_deterministic()
        if self.run.log_batches and self.model.lora.rank:
            raise ValueError("run.log_batches keeps whole models, not adapters: set model.lora.rank to 0")
        if self.model.max_model_len > self.learner.micro_batch_tokens:
            raise ValueError(
                f"learner.micro_batch_tokens {self.learner.micro_batch_tokens} is below model.max_model_len "
                f"{self.model.max_model_len}: the longest sequence would not fit into any micro-batch"
            )
        return self

    def _check_weight_transfer(self) -> None:
        generator, learner = self.generator, self.learner
        how, one_way = f"generator.weight_transfer {generator.weight_transfer}", "or set it to object_store"
        if self.run.deterministic:
            raise ValueError(f"{how} needs GPUs, and run.deterministic CPUs: set it to object_store")
        if generator.engine != "vllm":
            raise ValueError(f"{how} is vLLM's own: set generator.engine to vllm, {one_way}")
        if not (generator.num_gpus and learner.num_gpus):
            raise ValueError(
                f"{how} copies from GPU to GPU: set generator.num_gpus (now {generator.num_gpus:g}) and "
                f"learner.num_gpus (now {learner.num_gpus:g}) above 0, {one_way}"
            )
        if self.model.lora.rank and self.model.lora.publish == "adapter":
            raise ValueError(
                f"{how} sends all weights, not adapters alone: set model.lora.publish to merged, {one_way}"
            )
        asked_for = (
            f"learner.num_gpus is {learner.num_gpus:g}, generator.num_gpus {generator.num_gpus:g} and "
            f"generator.num_generators {generator.num_generators}"
        )
        if generator.weight_transfer == "nccl" and learner.num_gpus + generator.num_gpus <= 1:
            raise ValueError(
                f"{how} is for GPUs of their own: NCCL takes no two processes on one; {asked_for}: set num_gpus to 1 "
                "each, or use ipc"
            )
        if generator.weight_transfer == "ipc" and learner.num_gpus + generator.num_generators * generator.num_gpus > 1:
            raise ValueError(
                f"{how} is for parts of one GPU, which must come to 1 together; {asked_for}: lower them, or use nccl"
            )

    def _check_deterministic(self) -> None:
        buffer, learner = self.buffer, self.learner
        if self.generator.num_gpus or learner.num_gpus or self.model.dtype != "float32":
            raise ValueError(
                "run.deterministic holds on CPUs in float32 alone: set generator.num_gpus and learner.num_gpus to 0, "
                "and model.dtype to float32"
            )
        if self.checkpoint.every % buffer.refresh_every:
            raise ValueError(
                f"run.deterministic: checkpoint.every {self.checkpoint.every} is no multiple of "
                f"buffer.refresh_every {buffer.refresh_every}; a checkpoint must hold the weights that are sampled with"
            )
        snapshot = learner.batch_size * buffer.refresh_every
        needed = (2 + buffer.max_off_policy_versions) * snapshot
        if buffer.capacity < needed:
            raise ValueError(
                f"run.deterministic: buffer.capacity {buffer.capacity} is below {needed}, with which nothing is ever "
                "evicted (learner.batch_size x buffer.refresh_every x (2 + max_off_policy_versions))"
            )
