"""What a critic says about each prefix of a program: how likely a program that begins like this passes.

CodeRL (Le et al. 2022) cuts a program at its best prefix and lets the policy write the rest again. With `E_t`, the
class logits of the state after the token `t` (`learner.critic`):

    s_t = softmax(max over i <= t of E_i, for each class)[passed]

The critic learned the maximum over whole programs, so `s_t` of the last token is its verdict on the program. The state
after the prompt counts as well, as it did in training. One forward pass gives the scores of all prefixes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise

import numpy as np
import torch
from numpy.typing import NDArray

from rltf.learner.critic import ErrorCritic
from rltf.learner.data import TokenSequence


@dataclass(frozen=True, slots=True, eq=False)
class ProgramScores:
    """The critic's view of a program: the score of each prefix, of the whole, and its most likely class.

    `prefixes` [T - 1] has the score after each token except the end token. `error_class` is an index into
    `ERROR_CLASSES`.
    """

    prefixes: NDArray[np.float32]
    whole: float
    error_class: int

    def cut(self, longest: int) -> int:
        """The length of the best prefix of 1 to `longest` tokens, the shortest of equals; 0 if there is none."""
        scores = self.prefixes[: max(longest, 0)]
        return int(scores.argmax()) + 1 if len(scores) else 0


def passing_scores(class_logits: torch.Tensor) -> torch.Tensor:
    """The probability [T] of the last class, that of programs that pass, from class logits [T, C]."""
    return class_logits.cummax(0).values.softmax(-1)[:, -1]


@torch.no_grad()
def score_programs(critic: ErrorCritic, programs: Sequence[TokenSequence]) -> list[ProgramScores]:
    """The scores of `programs`, each with the end token last. There is at least one."""
    starts = list(accumulate((len(one.token_ids) for one in programs), initial=0))
    logits: torch.Tensor | None = None
    for packed in critic.pack(programs):
        found = critic.token_logits(packed.to(critic.backbone.device)).float().cpu()
        logits = found.new_empty(starts[-1], found.shape[1]) if logits is None else logits
        logits[packed.source.cpu()] = found
    assert logits is not None
    return [_scores(logits[start:end]) for start, end in pairwise(starts)]


def _scores(class_logits: torch.Tensor) -> ProgramScores:
    """Of one program, from the logits [T, C] of the states that predict its tokens."""
    scores = passing_scores(class_logits)
    return ProgramScores(scores[1:].numpy(), scores[-1].item(), int(class_logits.amax(0).argmax()))
