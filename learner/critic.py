"""The critic of CodeRL: how likely the true outcome of a program looks at each of its tokens (Le et al. 2022).

A language model reads the program after its prompt. A head turns the state that predicts token `t` into the logits
`E_t` of the four outcome classes:

    E_t             Linear(ReLU(Linear(state_t)))                 [4]
    program         max over t of E_t, for each class             [4]; the critic learns their cross-entropy
    q_t             softmax(E_t)[u], with the true class u of the program

The advantages of a sampled token are multiplied by q_t. `E_t` has seen the tokens before `t` only, so q_t says nothing
about the token `t` itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from rltf.errors import UserError
from rltf.files import write_json
from rltf.learner.critic_folder import CRITIC_FILE, HEAD_FILE, check_critic
from rltf.learner.data import TokenSequence
from rltf.learner.encoder_decoder import EncoderDecoderBatch
from rltf.learner.error_classes import ERROR_CLASSES
from rltf.learner.packing import MicroBatch, aligned
from rltf.learner.policy import Policy
from rltf.learner.ranks import ALONE, Ranks
from rltf.settings import AttnImplementation, Dtype, LearnerSettings, ModelSettings

_HEAD_WIDTH = 128


def program_logits(token_logits: torch.Tensor, program: torch.Tensor) -> torch.Tensor:
    """The maximum over the tokens of each program, [S, C], of `token_logits` [N, C].

    `program` [N] numbers the programs from 0, and each of the S has a token.
    """
    num_programs, num_classes = int(program.max()) + 1, token_logits.shape[1]
    empty = token_logits.new_full((num_programs, num_classes), -torch.inf)
    return empty.scatter_reduce(0, program[:, None].expand_as(token_logits), token_logits, "amax")


def critic_loss(token_logits: torch.Tensor, program: torch.Tensor, classes: torch.Tensor) -> torch.Tensor:
    """The sum over programs of the cross-entropy of their true `classes` [S], in nats; see `program_logits`."""
    logits = program_logits(token_logits, program)
    return torch.nn.functional.cross_entropy(logits, classes, reduction="sum")


def true_class_probabilities(token_logits: torch.Tensor, classes: torch.Tensor) -> torch.Tensor:
    """q [N]: the probability, at each token, of the true class of its program, given in `classes` [N]."""
    return token_logits.softmax(-1).gather(-1, classes[:, None])[:, 0]


def head_of(width: int) -> torch.nn.Sequential:
    """A new head for states of size `width`."""
    return torch.nn.Sequential(
        torch.nn.Linear(width, _HEAD_WIDTH), torch.nn.ReLU(), torch.nn.Linear(_HEAD_WIDTH, len(ERROR_CLASSES))
    )


class ErrorCritic:
    """A language model with a head that predicts the outcome class of a program at each of its tokens.

    Usage:
        critic = ErrorCritic(model_folder, compute_dtype=dtype, device=device, seed=0)
        ...                                                # learner.critic_training
        critic.save(folder, facts)                         # inside files.write_folder
        critic = ErrorCritic.frozen(folder, compute_dtype=dtype, device=device)
    """

    def __init__(
        self,
        folder: Path,
        *,
        compute_dtype: Dtype,
        device: torch.device,
        attn_implementation: AttnImplementation = AttnImplementation.AUTO,
        seed: int = 0,
        ranks: Ranks = ALONE,
    ) -> None:
        """Load the model in `folder`, with a new head whose weights depend on `seed`. Raises UserError as `Policy`.

        The model is spread over `ranks`, and each has the whole head.
        """
        self.backbone = Policy(
            folder, compute_dtype=compute_dtype, device=device, attn_implementation=attn_implementation, ranks=ranks
        )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.head = head_of(self.backbone.width).to(device)

    @classmethod
    def of_policy(cls, folder: Path, policy: Policy, settings: ModelSettings, ranks: Ranks = ALONE) -> ErrorCritic:
        """The critic in `folder`, for the completions of `policy`.

        Raises UserError as `check_critic`, and if the critic's context is too short.
        """
        check_critic(folder, Path(policy.name), policy.tokenizer)
        critic = cls.frozen(
            folder,
            compute_dtype=settings.dtype,
            device=policy.device,
            attn_implementation=policy.attn_implementation,
            ranks=ranks,
        )
        critic.check_length(settings.max_model_len, "learner.advantage.critic", "model.max_model_len")
        return critic

    @classmethod
    def frozen(
        cls,
        folder: Path,
        *,
        compute_dtype: Dtype,
        device: torch.device,
        attn_implementation: AttnImplementation = AttnImplementation.AUTO,
        ranks: Ranks = ALONE,
    ) -> ErrorCritic:
        """The critic in `folder`, which `check_critic` has accepted. It is not trained further."""
        critic = cls(
            folder, compute_dtype=compute_dtype, device=device, attn_implementation=attn_implementation, ranks=ranks
        )
        state = torch.load(folder / HEAD_FILE, map_location=device, weights_only=True)
        critic.head.load_state_dict(state)
        critic.backbone.model.requires_grad_(False)
        critic.head.requires_grad_(False)
        return critic

    def check_length(self, max_length: int, name: str, limit: str) -> None:
        """Raise UserError if the critic reads fewer tokens than `max_length`, which the setting `limit` gives."""
        if self.backbone.max_length < max_length:
            raise UserError(
                f"{name}: {self.backbone.name} reads at most {self.backbone.max_length} tokens, fewer than {limit} "
                f"{max_length}: lower {limit}, or train a critic from a model with a longer context"
            )

    def token_logits(self, batch: MicroBatch | EncoderDecoderBatch) -> torch.Tensor:
        """The logits E [N, 4] of the classes at each completion token of `batch`."""
        logits: torch.Tensor = self.head(self.backbone.hidden_states(batch).to(next(self.head.parameters()).dtype))
        return logits

    def pack(self, sequences: Sequence[TokenSequence]) -> list[MicroBatch] | list[EncoderDecoderBatch]:
        """Micro-batches of `sequences` of any length, of which there is at least one."""
        packing = LearnerSettings()
        longest = max(one.length for one in sequences)
        return self.backbone.pack(
            sequences,
            micro_batch_tokens=max(packing.micro_batch_tokens, aligned(2 * longest)),  # a sequence always fits
            row_tokens=packing.row_tokens,
        )

    def trained_parameters(self) -> dict[str, torch.nn.Parameter]:
        """The parameters of model and head."""
        return self.backbone.trained_parameters() | {f"head.{name}": p for name, p in self.head.named_parameters()}

    def save(self, folder: Path, facts: Mapping[str, object]) -> None:
        """Write the model, the tokenizer, the head, and `facts` with the classes as `critic.json`."""
        self.backbone.save(folder)
        torch.save(self.head.state_dict(), folder / HEAD_FILE)
        write_json(folder / CRITIC_FILE, {"classes": list(ERROR_CLASSES), **facts})
