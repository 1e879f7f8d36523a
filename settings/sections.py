"""The sections of the settings tree, each with the checks that concern it alone."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

from pydantic import BeforeValidator, Field, PositiveFloat, PositiveInt, field_validator, model_validator

from rltf.settings.base import GIB, MIB, Cores, Section, as_word
from rltf.settings.choices import (
    ChatTemplate,
    DecontaminationMode,
    Dtype,
    Engine,
    Isolation,
    LoraPublish,
    OnUpdate,
    WeightTransfer,
)

_NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]*$"


class RunSettings(Section):
    """The run: its name and folder, its length, its seed."""

    name: str = Field("rltf", pattern=_NAME, description="Name of the run.")
    dir: Path | None = Field(None, description="Run folder; null: `runs/NAME`.")
    seed: int = Field(0, ge=0, lt=2**31, description="Seed for every random choice in the run.")
    num_steps: PositiveInt = Field(5000, description="Number of learner updates.")
    deterministic: bool = Field(
        False,
        description="Get bit-identical weights from identical settings, even across a resume. Slow, and needs CPUs "
        "and float32.",
    )
    log_batches: int = Field(
        0, ge=0, description="Number of updates, from the first, to record in `replay/` for `rltf replay`; 0: none."
    )
    wandb_project: str | None = Field(
        None, min_length=1, description="Weights & Biases project to log to; null: TensorBoard only."
    )

    @property
    def folder(self) -> Path:
        """The run folder."""
        return self.dir if self.dir is not None else Path("runs") / self.name


class LoraSettings(Section):
    """Low-rank adapters. They have no dropout, so the generators sample from exactly what is trained."""

    rank: int = Field(0, ge=0, description="Rank of the adapters; 0: train all weights instead.")
    alpha: PositiveInt = Field(32, description="Adapters are scaled by alpha / rank.")
    target_modules: tuple[str, ...] = Field(
        (), description="Layers that get an adapter, by the last part of their name (`q_proj`); empty: all linear ones."
    )
    publish: LoraPublish = Field(
        LoraPublish.MERGED,
        description="What the learner sends to the generators: all weights with the adapters merged in, or the "
        "adapters alone. Adapters alone are far smaller, but each generator then keeps a copy of the model in host "
        "memory to merge them into.",
    )


class ModelSettings(Section):
    """The policy: which model to train, in which precision, and how problems are put to it."""

    name: str = Field(
        "Qwen/Qwen2.5-Coder-0.5B",
        min_length=1,
        description="Hugging Face model folder, Hub id, GGUF file (FOLDER/NAME.gguf or, on the Hub, "
        "ORG/REPO/NAME.gguf), or `tiny`: the starter job's Llama, trained from scratch.",
    )
    dtype: Dtype = Field(
        Dtype.AUTO,
        description="Type in which generators store weights and the learner computes. Master weights are float32. "
        "`auto`: bfloat16 on GPUs and on CPUs that multiply it in hardware, else (and if `run.deterministic`) float32.",
    )
    max_model_len: PositiveInt = Field(1536, description="Maximum tokens of prompt and completion together.")
    chat_template: Annotated[ChatTemplate, BeforeValidator(as_word)] = Field(
        ChatTemplate.AUTO,
        description="Format prompts with the tokenizer's chat template; `auto`: if the model ends its answers with the "
        "token that closes a turn in the template.",
    )
    chat_template_kwargs: dict[str, bool | int | float | str] | None = Field(
        None, description="Arguments of the chat template, such as `{enable_thinking: false}`; null: none."
    )
    system_prompt: str | None = Field(None, description="System message of a chat; null: none.")
    prompt_template: str | None = Field(
        None,
        description="Text of a prompt, or of the user's message in a chat. `{prompt}` stands for the benchmark's usual "
        "text, and `{statement}`, `{starter_code}`, `{tests}` and `{function}` for its parts. null: the usual text.",
    )
    lora: LoraSettings = Field(default_factory=LoraSettings, description="Low-rank adapters.")

    @field_validator("prompt_template")
    @classmethod
    def _check_template(cls, template: str | None) -> str | None:
        if template is not None and "{prompt}" not in template and "{statement}" not in template:
            raise ValueError("it has neither {prompt} nor {statement}, so all problems would have the same prompt")
        return template


class DecontaminationSettings(Section):
    """The search for training problems that a benchmark contains as well."""

    mode: Annotated[DecontaminationMode, BeforeValidator(as_word)] = Field(
        DecontaminationMode.REPORT,
        description="What to do about training problems that overlap with a problem of `problems.evaluation` or "
        "`against`: say so, drop them, or don't search.",
    )
    against: tuple[str, ...] = Field(
        (), description="SPECs of benchmarks to compare with besides `problems.evaluation`, for later evaluations."
    )
    min_overlap: float = Field(
        0.8,
        ge=0,
        le=1,
        description="Share of the words of a benchmark's statement, in 13-grams that the training statement also has, "
        "from which on two problems overlap; 0: one 13-gram is enough.",
    )


class ProblemsSettings(Section):
    """The problems to train on and those held out for evaluation."""

    train: tuple[str, ...] = Field(
        ("mbpp:google-research-datasets/mbpp",), min_length=1, description="SPECs of the problems to sample in RL."
    )
    supervised: tuple[str, ...] = Field(
        (),
        description="SPECs of the problems whose reference programs the supervised term uses; empty: as `train`. If "
        "the command line or the environment sets only `train`, a file's `supervised` does not apply.",
    )
    skip_solved: float = Field(
        0.0, ge=0, lt=1, description="Probability of skipping a problem that the last rollout solved completely."
    )
    skip_unsolved: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="Probability of skipping a problem for which no program of the last two rollouts passed.",
    )
    pass_rates: tuple[str, ...] = Field(
        (),
        description="Evaluations (`--output` of `evaluate.py`) of the model on training problems, so that RL knows "
        "from the start which problems are solved or unsolved.",
    )
    evaluation: tuple[str, ...] | dict[str, tuple[str, ...]] = Field(
        (),
        description="SPECs of the held-out problems, or several sets of them by name, each with its own pass@k: "
        '`{"mbpp": "SPEC", "humaneval": "SPEC"}`. A set is one SPEC or a list. Empty: no evaluation.',
    )
    validate_references: bool = Field(
        False, description="Run all reference programs first, and drop those that fail their own tests."
    )
    allow_changes: bool = Field(
        False, description="Let `--resume` continue a run even if its problems have changed since the checkpoint."
    )
    decontamination: DecontaminationSettings = Field(
        default_factory=DecontaminationSettings,
        description="The search for training problems that a benchmark contains as well.",
    )

    @field_validator("evaluation", mode="before")
    @classmethod
    def _check_evaluation(cls, value: object) -> object:
        if not isinstance(value, Mapping):
            return _specs(value)
        sets = {}
        for name, specs in value.items():
            if not isinstance(name, str) or not re.fullmatch(_NAME, name):
                raise ValueError(
                    f"a set's name starts with a letter or digit, and has only letters, digits and ._-; got {name!r}"
                )
            sets[name] = _specs([specs] if isinstance(specs, str) else specs)
            if not sets[name]:
                raise ValueError(f"the set {name} has no SPEC")
        return sets

    @model_validator(mode="after")
    def _check_decontamination(self) -> ProblemsSettings:
        mode, against = self.decontamination.mode, self.decontamination.against
        if mode is DecontaminationMode.OFF and against:
            raise ValueError("decontamination.against has no effect if decontamination.mode is off: use report or drop")
        if mode is DecontaminationMode.DROP and not self.evaluation and not against:
            raise ValueError(
                "decontamination.mode drop has nothing to compare with: set evaluation or decontamination.against"
            )
        return self

    @property
    def evaluation_sets(self) -> dict[str, tuple[str, ...]]:
        """The SPECs of each named set of held-out problems; empty if `evaluation` gives no names."""
        return self.evaluation if isinstance(self.evaluation, dict) else {}


def _specs(value: object) -> tuple[str, ...]:
    if not isinstance(value, list | tuple) or not all(isinstance(spec, str) for spec in value):
        raise ValueError(f'expected SPECs, or names with SPECs such as {{"mbpp": "mbpp:FILE[0:30]"}}; got {value!r}')
    return tuple(value)


class GeneratorSettings(Section):
    """The actors that sample programs."""

    engine: Engine = Field(
        Engine.VLLM, description="Inference backend; transformers is slower but supports more models."
    )
    num_generators: PositiveInt = Field(1, description="Number of generator actors.")
    num_cpus: Cores = Field(1.0, description="CPU cores to reserve for each generator.")
    num_gpus: Cores = Field(
        1.0,
        description="GPUs to reserve for each generator: `tensor_parallel_size`, or a share of one; 0: run on the CPU.",
    )
    tensor_parallel_size: PositiveInt = Field(
        1, description="Worker processes that hold and compute a part of the model each, on one node (vLLM only)."
    )
    num_generations: PositiveInt = Field(20, description="Programs to sample for each problem in a rollout.")
    temperature: PositiveFloat = Field(1.0, description="Sampling temperature.")
    top_p: float = Field(
        1.0,
        gt=0,
        le=1,
        description="Probability mass to keep in nucleus sampling. Below 1, the sampler's probabilities are not the "
        "policy's, so losses with likelihood ratios need 1.",
    )
    max_tokens: PositiveInt = Field(512, description="Maximum tokens of a completion.")
    max_turns: PositiveInt = Field(
        1,
        description="Most answers in a dialogue: a program that fails the examples of its problem is sampled again, "
        "with what went wrong in the prompt (docs/self-repair.md).",
    )
    stop: tuple[Annotated[str, Field(min_length=1)], ...] = Field(
        (),
        description="Texts that end a completion, besides the model's own end tokens. Not part of a program.",
    )
    max_num_seqs: PositiveInt = Field(256, description="Maximum number of completions that an engine decodes at once.")
    kv_cache_bytes: PositiveInt = Field(4 * GIB, description="Memory for an engine's key-value cache.")
    weight_transfer: WeightTransfer = Field(
        WeightTransfer.OBJECT_STORE,
        description="How new weights reach the generators: through Ray's object store, or (vLLM only) from GPU to GPU "
        "by NCCL, or within one GPU by CUDA IPC.",
    )
    on_update: OnUpdate = Field(
        OnUpdate.KEEP,
        description="What happens to unfinished completions on a weight update: keep them going under the new "
        "weights, or drain them first.",
    )
    verify_weights_every: int = Field(
        0, ge=0, description="Verify the checksum of every Nth weight version that generators receive; 0: never."
    )


class SandboxSettings(Section):
    """The workers that run untrusted programs, and the limits on each run."""

    min_workers: PositiveInt = Field(2, description="Sandbox workers to keep for the whole run.")
    max_workers: PositiveInt = Field(16, description="Maximum number of sandbox workers when there is a backlog.")
    min_isolation: Isolation = Field(
        Isolation.NAMESPACES,
        description="Weakest isolation level to accept; `rltf doctor` shows what a machine offers.",
    )
    num_cpus: Cores = Field(1.0, description="CPU cores to reserve for each sandbox worker.")
    backlog_per_worker: PositiveInt = Field(64, description="Waiting programs per worker before another one is added.")
    idle_s: PositiveFloat = Field(30.0, description="Idle seconds after which an extra worker is removed.")
    start_timeout_s: PositiveFloat = Field(
        900.0,
        description="Seconds to wait for the minimum of workers, including the time a cloud takes to start machines.",
    )
    cpu_s: PositiveFloat = Field(4.0, description="CPU seconds allowed for one test.")
    wall_s: PositiveFloat = Field(10.0, description="Wall-clock seconds allowed for one test.")
    max_tests: PositiveInt | None = Field(
        None,
        description="Most tests that a program runs in training. If its problem has more, each rollout gets another "
        "random choice. Evaluation always runs all tests.",
    )
    time_factor: PositiveFloat = Field(
        1.0,
        description="Factor on the time limits that problems carry themselves, which replace `cpu_s`. Raise it on slow "
        "machines. The wall-clock limit grows by the same ratio.",
    )
    program_cpu_s: PositiveFloat = Field(120.0, description="CPU seconds allowed for all tests of a program.")
    program_wall_s: PositiveFloat = Field(240.0, description="Wall-clock seconds allowed for all tests of a program.")
    memory_bytes: PositiveInt = Field(
        512 * MIB, description="Memory that a test may use. The limit of a problem can lower this, but not raise it."
    )
    output_bytes: PositiveInt = Field(8 * MIB, description="Output that a test may write.")
    scratch_bytes: PositiveInt = Field(16 * MIB, description="Size of the /tmp folder that a test may fill.")
    packages: tuple[str, ...] = Field(
        (),
        description="Installed packages, such as numpy, that programs may import besides the standard library, with "
        "everything that they require.",
    )

    @model_validator(mode="after")
    def _check(self) -> SandboxSettings:
        if self.max_workers < self.min_workers:
            raise ValueError(
                f"max_workers {self.max_workers} is below min_workers {self.min_workers}: raise one or lower the other"
            )
        if self.wall_s < self.cpu_s:
            raise ValueError(
                f"wall_s {self.wall_s:g} is below cpu_s {self.cpu_s:g}: no program could ever use its CPU seconds"
            )
        return self


class CheckpointSettings(Section):
    """How often to save checkpoints, and how many to keep."""

    every: PositiveInt = Field(100, description="Updates between checkpoints.")
    keep: PositiveInt = Field(3, description="Number of checkpoints to keep. Older ones are deleted.")


class BufferSettings(Section):
    """The queue of graded samples for training, and how stale they may get."""

    capacity: PositiveInt = Field(6400, description="Maximum number of samples. New ones push out the oldest.")
    max_bytes: PositiveInt = Field(1 * GIB, description="Maximum size of all samples. New ones push out the oldest.")
    start_samples: int = Field(0, ge=0, description="Samples to collect before the first update.")
    refresh_every: PositiveInt = Field(
        50, description="Updates per snapshot of samples. New weights are published after each snapshot."
    )
    max_off_policy_versions: int = Field(
        2, ge=0, description="Maximum number of weight versions that a sample may lag behind when it is trained on."
    )


class EvaluationSettings(Section):
    """Measuring pass@k on held-out problems during the run."""

    initial: bool = Field(True, description="Evaluate the policy before the first update as well.")
    every: PositiveInt = Field(500, description="Updates between evaluations.")
    num_samples: PositiveInt = Field(5, description="Programs to sample for each held-out problem.")
    ks: tuple[PositiveInt, ...] = Field((1, 5), min_length=1, description="Values of k in pass@k.")
    temperature: float = Field(0.6, ge=0, description="Sampling temperature; 0: greedy.")
    top_p: float = Field(1.0, gt=0, le=1, description="Probability mass to keep in nucleus sampling.")

    @model_validator(mode="after")
    def _check(self) -> EvaluationSettings:
        if max(self.ks) > self.num_samples:
            raise ValueError(
                f"pass@{max(self.ks)} needs at least {max(self.ks)} samples per problem; num_samples is "
                f"{self.num_samples}"
            )
        return self


class ClusterSettings(Section):
    """Where the actors run."""

    address: str = Field(
        "local",
        pattern=r"^(local|auto|[^:/]+:\d+)$",
        description="`local` starts Ray on this machine, `auto` joins the cluster this machine belongs to, HOST:PORT "
        "joins the cluster with that head. On the command line, ray://HOST:10001 or http://HOST:8265 submits the job "
        "to that cluster.",
    )
    object_store_bytes: int = Field(
        2 * GIB, ge=75 * MIB, description="Size of the object store of a local Ray, which starts none below 75 MiB."
    )
    dashboard: bool = Field(True, description="Serve Ray's dashboard from a local Ray.")
    heartbeat_timeout_s: PositiveFloat = Field(
        60.0,
        description="Seconds without an answer after which an actor counts as frozen: its process is killed, and "
        "another one takes its place. If Ray's head is frozen for so long, the run ends with a checkpoint.",
    )
