"""Every setting of the program, in one frozen tree: the only place that holds defaults.

`settings_sources.load_settings` fills the tree from a YAML file, the environment (`RLTF_SECTION__FIELD`) and the
command line (`--section.field value`). The defaults are meant for a real run on GPUs and follow the paper wherever it
gives a value (Liu et al. 2023, section 4). `configs/starter.yaml` holds the job that runs on a laptop. Importing this
package imports neither torch nor Ray.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, PlainValidator, model_validator

from rltf.settings.base import GIB as GIB
from rltf.settings.base import MIB as MIB
from rltf.settings.base import Section as Section
from rltf.settings.choices import AdaptiveScope as AdaptiveScope
from rltf.settings.choices import AdvantageEstimator as AdvantageEstimator
from rltf.settings.choices import Algorithm as Algorithm
from rltf.settings.choices import AttnImplementation as AttnImplementation
from rltf.settings.choices import Baseline as Baseline
from rltf.settings.choices import ChatTemplate as ChatTemplate
from rltf.settings.choices import DecontaminationMode as DecontaminationMode
from rltf.settings.choices import Dtype as Dtype
from rltf.settings.choices import Engine as Engine
from rltf.settings.choices import FineFallback as FineFallback
from rltf.settings.choices import Isolation as Isolation
from rltf.settings.choices import KlLossType as KlLossType
from rltf.settings.choices import Localize as Localize
from rltf.settings.choices import LoraPublish as LoraPublish
from rltf.settings.choices import LossAggMode as LossAggMode
from rltf.settings.choices import OldLogprobs as OldLogprobs
from rltf.settings.choices import OnUpdate as OnUpdate
from rltf.settings.choices import OptimizerName as OptimizerName
from rltf.settings.choices import OutcomeReward as OutcomeReward
from rltf.settings.choices import Placement as Placement
from rltf.settings.choices import PolicyLoss as PolicyLoss
from rltf.settings.choices import ScaleRewards as ScaleRewards
from rltf.settings.choices import WeightTransfer as WeightTransfer
from rltf.settings.learning import CACHE_DIR as CACHE_DIR
from rltf.settings.learning import AdvantageSettings as AdvantageSettings
from rltf.settings.learning import LearnerSettings as LearnerSettings
from rltf.settings.learning import LossSettings as LossSettings
from rltf.settings.learning import OptimSettings as OptimSettings
from rltf.settings.learning import SftSettings as SftSettings
from rltf.settings.planning import PlanOptions as PlanOptions
from rltf.settings.presets import PRESETS as PRESETS
from rltf.settings.presets import Preset as Preset
from rltf.settings.presets import check_algorithm, preset_of
from rltf.settings.rewards import RewardSettings as RewardSettings
from rltf.settings.sections import BufferSettings as BufferSettings
from rltf.settings.sections import CheckpointSettings as CheckpointSettings
from rltf.settings.sections import ClusterSettings as ClusterSettings
from rltf.settings.sections import DecontaminationSettings as DecontaminationSettings
from rltf.settings.sections import EvaluationSettings as EvaluationSettings
from rltf.settings.sections import GeneratorSettings as GeneratorSettings
from rltf.settings.sections import LoraSettings as LoraSettings
from rltf.settings.sections import ModelSettings as ModelSettings
from rltf.settings.sections import ProblemsSettings as ProblemsSettings
from rltf.settings.sections import RunSettings as RunSettings
from rltf.settings.sections import SandboxSettings as SandboxSettings


def rewards_of(algorithm: Algorithm | str, **given: Any) -> RewardSettings:
    """The reward settings of `algorithm`, except for the fields that are `given`."""
    return RewardSettings.model_validate({**preset_of(algorithm).rewards, **given})


def loss_of(algorithm: Algorithm | str, **given: Any) -> LossSettings:
    """The loss settings of `algorithm`, except for the fields that are `given`."""
    return LossSettings.model_validate({**preset_of(algorithm).loss, **given})


class Settings(Section):
    """The whole tree. It reads neither files nor the environment: `settings_sources.load_settings` does."""

    algorithm: Annotated[Algorithm | str, PlainValidator(check_algorithm)] = Field(
        Algorithm.RLTF,
        description="Objective that sets the fields of `rewards`, `learner.loss` and `learner.advantage` that you "
        "don't set. Installed packages can offer more (docs/extend.md).",
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
    def functions(self) -> dict[str, str]:
        """The functions that the user brings, `package.module:name`, by the setting that names them."""
        rewards = self.rewards
        named = {
            "rewards.function": rewards.function if rewards.function and rewards.uses_function else "",
            "learner.loss.policy_loss": self.learner.loss.policy_loss,
            "learner.advantage.estimator": self.learner.advantage.estimator,
        }
        return {setting: name for setting, name in named.items() if ":" in name}

    @property
    def cache_dir(self) -> Path:
        """Where the run keeps models that it makes: fine-tuned, dequantized, or the starter job's."""
        return self.learner.sft.cache_dir or self.run.folder / "cache"

    @model_validator(mode="before")
    @classmethod
    def _fill_from_algorithm(cls, data: Any) -> Any:
        """Leave values that are wrong alone: the fields' own validation reports them."""
        if not isinstance(data, dict):
            return data
        try:
            preset = preset_of(data.get("algorithm", Algorithm.RLTF))
        except ValueError:
            return data
        if isinstance(rewards := data.get("rewards", {}), dict):
            data = data | {"rewards": {**preset.rewards, **rewards}}
        if isinstance(learner := data.get("learner", {}), dict):
            for name, values in (("loss", preset.loss), ("advantage", preset.advantage)):
                if isinstance(given := learner.get(name, {}), dict):
                    learner = learner | {name: {**values, **given}}
            data = data | {"learner": learner}
        return data

    @model_validator(mode="after")
    def _check(self) -> Settings:
        if self.model.dtype is Dtype.AUTO:
            chosen = self.model.model_copy(update={"dtype": self._faster_dtype()})
            object.__setattr__(self, "model", chosen)  # so that the settings of a run say what it computes in
        self._check_sizes()
        self._check_schedule()
        self._check_objective()
        self._check_turns()
        self._check_generators()
        if self.generator.weight_transfer is not WeightTransfer.OBJECT_STORE:
            self._check_weight_transfer()
        if self.run.deterministic:
            self._check_deterministic()
        self._check_workers()
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

    def _check_objective(self) -> None:
        advantage, loss = self.learner.advantage, self.learner.loss
        if self.generator.top_p < 1 and loss.rl_weight and loss.uses_ratios:
            raise ValueError(
                f"generator.top_p {self.generator.top_p} renormalizes the sampler's probabilities over the nucleus, so "
                "likelihood ratios would be biased below 1: set it to 1, or use a loss without ratios "
                "(learner.loss.policy_loss reinforce with learner.loss.rollout_is_threshold null)"
            )
        more = "structure_weight" if self.rewards.structure_weight else "custom_weight"
        if self.rewards.needs_greedy and (self.rewards.structure_weight or self.rewards.uses_function):
            raise ValueError(
                f"rewards.baseline {self.rewards.baseline} knows only the coarse and the adaptive reward of a greedy "
                f"decode: set rewards.{more} to 0, or rewards.baseline to leave_one_out, mean or none"
            )
        if self.rewards.localize is not Localize.OFF and self.rewards.placement is Placement.LAST:
            raise ValueError(
                f"rewards.localize {self.rewards.localize} moves weight between the tokens of a program, but "
                "rewards.placement last puts all of it on one: set rewards.localize to off"
            )
        if self.algorithm is Algorithm.CODERL and advantage.critic is None and loss.rl_weight:
            raise ValueError(
                "algorithm coderl needs learner.advantage.critic, the folder of a critic: train one with `rltf critic "
                "--model DIR --samples DIR --problems SPEC --output DIR`"
            )
        if isinstance(advantage.estimator, AdvantageEstimator) and (
            (self.rewards.placement is Placement.LAST) != (advantage.estimator is not AdvantageEstimator.OUTCOME)
        ):
            raise ValueError(
                f"rewards.placement {self.rewards.placement} does not fit learner.advantage.estimator "
                f"{advantage.estimator}: return and gae need rewards on the last token, outcome needs them on all"
            )

    def _check_turns(self) -> None:
        turns = self.generator.max_turns
        if turns == 1 and self.rewards.turn_weight:
            raise ValueError(
                f"rewards.turn_weight {self.rewards.turn_weight:g} has no effect if a dialogue has one turn: set it to "
                "0, or generator.max_turns to 2 or more"
            )
        if turns > 1 and self.learner.advantage.critic is not None:
            raise ValueError(
                f"generator.max_turns {turns}: learner.advantage.critic reads one program, not a dialogue: set "
                "generator.max_turns to 1, or use an objective without a critic"
            )

    def _check_generators(self) -> None:
        generator = self.generator
        num_gpus, size = generator.num_gpus, generator.tensor_parallel_size
        how = f"generator.tensor_parallel_size {size}"
        if size > 1 and generator.engine is not Engine.VLLM:
            raise ValueError(f"{how} works with vLLM only: set generator.engine to vllm, or it to 1")
        if num_gpus > 1 and size == 1:
            raise ValueError(
                f"generator.num_gpus {num_gpus:g}: a generator with {how} uses only one GPU, so the others would sit "
                f"idle; set generator.tensor_parallel_size to {math.ceil(num_gpus)} if the model does not fit into one "
                "GPU, or generator.num_gpus to 1 and generator.num_generators to the number of GPUs to sample on"
            )
        if size > 1 and num_gpus not in (0, size):
            raise ValueError(
                f"{how} needs as many GPUs, but generator.num_gpus is {num_gpus:g}: set it to {size}, or to 0 for CPUs"
            )

    def _check_workers(self) -> None:
        learner = self.learner
        if learner.num_workers == 1:
            return
        if self.run.log_batches:
            raise ValueError("run.log_batches records a single worker: set it to 0, or learner.num_workers to 1")
        if 0 < learner.num_gpus < 1:
            raise ValueError(
                f"learner.num_gpus is {learner.num_gpus:g}, but the {learner.num_workers} learner.num_workers cannot "
                "share a GPU: set it to 1"
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
        if generator.weight_transfer is WeightTransfer.IPC and generator.tensor_parallel_size > 1:
            raise ValueError(
                f"{how} needs learner and generators to share one GPU, but generator.tensor_parallel_size "
                f"{generator.tensor_parallel_size} needs as many: use nccl or object_store"
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
        if self.generator.tensor_parallel_size > 1:
            raise ValueError(
                "run.deterministic: with several workers, new weights arrive between any two steps of a generator: set "
                "generator.tensor_parallel_size to 1"
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
