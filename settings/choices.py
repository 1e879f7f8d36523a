"""The choices that settings offer, and that the rest of the program compares with."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path

_CPU_FLAGS = Path("/proc/cpuinfo")
# Instructions that multiply bfloat16 numbers (AMX tiles, AVX-512). Other CPUs convert them to float32 and back.
_BFLOAT16_FLAGS = {"amx_bf16", "avx512_bf16"}


class Algorithm(StrEnum):
    """Which objective sets the rewards and the loss; `settings.presets` has the values, with formulas and sources."""

    RLTF = "rltf"
    """RLTF with this project's defaults."""
    RLTF_PAPER = "rltf-paper"
    """RLTF as the paper describes it."""
    RLTF_CODE = "rltf-code"
    """RLTF as the authors' released code computes it."""
    CODERL = "coderl"
    """The coarse reward, with a critic that says which tokens decided the outcome."""
    PPOCODER = "ppocoder"
    """PPOCoder: PPO, with a reward for the structure of the reference programs."""
    PPO = "ppo"
    """PPO with a value head."""
    GRPO = "grpo"
    """Advantages relative to the group, divided by its standard deviation."""
    DR_GRPO = "dr-grpo"
    """GRPO without the two divisions that bias it."""
    DAPO = "dapo"
    """GRPO with a wider clip range upwards, without silent groups, with a penalty for overlong answers."""
    RLOO = "rloo"
    """REINFORCE against the mean of the rollout's other samples."""
    REINFORCE_PP = "reinforce++"
    """REINFORCE with returns normalized over the batch."""
    GSPO = "gspo"
    """GRPO with one likelihood ratio per sequence."""
    CISPO = "cispo"
    """GRPO with clipped weights instead of clipped updates."""


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


class AttnImplementation(StrEnum):
    """How the learner computes attention within packed rows."""

    AUTO = "auto"
    """FlexAttention on GPUs for the decoder-only models that support it, otherwise SDPA."""
    SDPA = "sdpa"
    """torch's scaled dot-product attention with a dense mask; models without it fall back to their own code."""
    FLEX_ATTENTION = "flex_attention"
    """torch's FlexAttention, which skips the blocks that the mask hides. It trains on GPUs only."""


class OptimizerName(StrEnum):
    """Optimizers of the learner."""

    ADAMW = "adamw"
    ADAMW_8BIT = "adamw_8bit"
    """AdamW with its two moments in 8 bits (Dettmers et al. 2022), from torchao: 2 bytes a parameter instead of 8."""


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


class DecontaminationMode(StrEnum):
    """What happens to training problems that overlap with a benchmark."""

    REPORT = "report"
    """The run says which they are, and trains on them."""
    DROP = "drop"
    """The run does not train on them."""
    OFF = "off"
    """They are not searched for."""


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
    ANSWERED = "answered"
    """Programs whose tests all ran to an answer, right or wrong."""
    REPLACE_COARSE = "replace_coarse"
    """Programs with wrong answers only, in place of their coarse reward."""


class FineFallback(StrEnum):
    """What the fine penalty does with an error that cannot be blamed on one line."""

    GLOBAL = "global"
    """It penalizes the whole program."""
    IGNORE = "ignore"
    """It penalizes nothing."""


class OutcomeReward(StrEnum):
    """What the outcome of a program is worth."""

    COARSE = "coarse"
    """1 if it passes, -0.3 for a wrong answer, -1 for a syntax error, -0.6 for any other error."""
    BINARY = "binary"
    """1 if it passes, else 0."""
    SIGN = "sign"
    """1 if it passes, else -1."""


class Placement(StrEnum):
    """Which tokens carry the rewards of the whole program."""

    ALL = "all"
    """Every token."""
    LAST = "last"
    """The last token, as estimators that discount rewards need it."""


class ScaleRewards(StrEnum):
    """What advantages are divided by."""

    NONE = "none"
    """Nothing."""
    GROUP = "group"
    """The standard deviation of the rewards of the rollout."""


class AdvantageEstimator(StrEnum):
    """How the rewards of a completion become the advantage of each token."""

    OUTCOME = "outcome"
    """The rewards on the token itself."""
    RETURN = "return"
    """The discounted sum of the rewards from the token on."""
    GAE = "gae"
    """Generalized advantage estimation, with the values of a value head (Schulman et al. 2016)."""


class PolicyLoss(StrEnum):
    """What multiplies the advantage of a token."""

    REINFORCE = "reinforce"
    """The log-probability, times a truncated importance weight."""
    PPO = "ppo"
    """The likelihood ratio of the token, clipped (Schulman et al. 2017)."""
    GSPO = "gspo"
    """The likelihood ratio of the sequence, clipped (Zheng et al. 2025)."""
    CISPO = "cispo"
    """The log-probability, times a clipped likelihood ratio (MiniMax 2025)."""


class OldLogprobs(StrEnum):
    """The policy that likelihood ratios refer to."""

    BEHAVIOR = "behavior"
    """The policy that sampled the token, as the sampler computed it."""
    RECOMPUTE = "recompute"
    """The weights published last, as the learner computes them."""


class KlLossType(StrEnum):
    """Estimators of a KL divergence whose gradients are those of a divergence (Schulman 2020)."""

    K2 = "k2"
    """Half the squared log-ratio: its gradient is that of KL(policy || reference)."""
    K3 = "k3"
    """As in GRPO: its gradient is that of KL(reference || policy)."""


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
    SEQ_MEAN_TOKEN_SUM_NORM = "seq-mean-token-sum-norm"
    """The number of sequences, times `generator.max_tokens`: the length of a program has no influence."""
