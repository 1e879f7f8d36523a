"""The choices that settings offer, and that the rest of the program compares with."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path

_CPU_FLAGS = Path("/proc/cpuinfo")
# Instructions that multiply bfloat16 numbers (AMX tiles, AVX-512). Other CPUs convert them to float32 and back.
_BFLOAT16_FLAGS = {"amx_bf16", "avx512_bf16"}


class Algorithm(StrEnum):
    """Which version of RLTF sets the rewards and the loss."""

    RLTF = "rltf"
    """This project's defaults."""
    RLTF_PAPER = "rltf-paper"
    """As the paper describes it."""
    RLTF_CODE = "rltf-code"
    """As the authors' released code computes it."""


class Dtype(StrEnum):
    """Floating-point types that a model computes in."""

    AUTO = "auto"
    """bfloat16 on GPUs and on CPUs that multiply it in hardware, float32 on other CPUs."""
    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"

    @staticmethod
    def of_this_cpu() -> Dtype:
        """The faster type on the CPU of this machine."""
        flags = _CPU_FLAGS.read_text() if _CPU_FLAGS.is_file() else ""
        return Dtype.BFLOAT16 if _BFLOAT16_FLAGS & set(flags.split()) else Dtype.FLOAT32


class ChatTemplate(StrEnum):
    """Whether prompts go through the tokenizer's chat template."""

    AUTO = "auto"
    """If the model was trained on it: it has a template, and ends its answers with the token that closes a turn."""
    ON = "on"
    OFF = "off"


class LoraPublish(StrEnum):
    """What the learner sends to the generators when it trains adapters."""

    MERGED = "merged"
    """All weights, with the adapters merged in."""
    ADAPTER = "adapter"
    """The adapters alone: a fraction of the bytes, but each generator keeps a copy of the model in host memory."""


class Engine(StrEnum):
    """Inference backends."""

    VLLM = "vllm"
    TRANSFORMERS = "transformers"


class WeightTransfer(StrEnum):
    """How new weights reach the generators."""

    OBJECT_STORE = "object_store"
    """Through Ray's object store; works everywhere."""
    NCCL = "nccl"
    """From GPU to GPU; vLLM only."""
    IPC = "ipc"
    """Within one GPU, by CUDA IPC; vLLM only."""


class OnUpdate(StrEnum):
    """What happens to unfinished completions when new weights arrive."""

    KEEP = "keep"
    """They continue under the new weights."""
    DRAIN = "drain"
    """They finish under the old weights first."""


class Isolation(StrEnum):
    """How well programs are kept apart from the machine and from each other, best first."""

    NAMESPACES_CGROUP = "namespaces+cgroup"
    NAMESPACES = "namespaces"
    LANDLOCK = "landlock"
    RLIMITS = "rlimits"


class Baseline(StrEnum):
    """What is subtracted from the coarse and the adaptive reward of a sample."""

    GREEDY_LATEST = "greedy_latest"
    """The reward of the latest greedy decode for the problem."""
    GREEDY_BEST = "greedy_best"
    """The best reward of any greedy decode for the problem so far."""
    MEAN = "mean"
    """The mean reward of the rollout."""
    LEAVE_ONE_OUT = "leave_one_out"
    """The mean reward of the rollout's other samples."""
    NONE = "none"


class AdaptiveScope(StrEnum):
    """Which programs get the adaptive reward."""

    RAN = "ran"
    """Every program that ran."""
    FAILED = "failed"
    """Programs with wrong answers only."""
    REPLACE_COARSE = "replace_coarse"
    """Programs with wrong answers only, in place of their coarse reward."""


class FineFallback(StrEnum):
    """What the fine penalty does with an error that cannot be blamed on one line."""

    GLOBAL = "global"
    """It penalizes the whole program."""
    IGNORE = "ignore"
    """It penalizes nothing."""


class Localize(StrEnum):
    """How the negative weight of a wrong answer is moved to the lines that are to blame."""

    OFF = "off"
    """It is not: all tokens get the same weight."""
    SIBLINGS = "siblings"
    """To the lines that differ from the nearest program of the rollout that passes."""


class LossAggMode(StrEnum):
    """What the sum over tokens is divided by, separately for supervised and for sampled sequences."""

    TOKEN_MEAN = "token-mean"
    """The number of tokens: every token counts the same."""
    SEQ_MEAN_TOKEN_MEAN = "seq-mean-token-mean"
    """The tokens of each sequence, then the number of sequences: every program counts the same."""
    SEQ_MEAN_TOKEN_SUM = "seq-mean-token-sum"
    """The number of sequences only: the sum over a program's tokens, as in the paper, averaged over programs."""
