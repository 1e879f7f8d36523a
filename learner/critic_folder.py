"""The folder of a critic, as `rltf critic` writes it: a model folder, its head, and `critic.json`. Needs no torch.

A critic predicts the outcome of a program as one of four classes (Le et al. 2022, CodeRL).
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerFast

from rltf.errors import UserError
from rltf.files import SUMS, check_folder, read_json
from rltf.sandbox.verdict import Outcome
from rltf.transport.model_folder import check_model_folder

CRITIC_FILE = "critic.json"
HEAD_FILE = "critic_head.pt"
ERROR_CLASSES = ("syntax_error", "runtime_error", "failed", "passed")
_CLASS_OF = {
    Outcome.SYNTAX_ERROR: 0,
    Outcome.RUNTIME_ERROR: 1,
    Outcome.TIMEOUT: 1,
    Outcome.MEMORY_LIMIT: 1,
    Outcome.OUTPUT_LIMIT: 1,
    Outcome.FAILED: 2,
    Outcome.PASSED: 3,
}


def error_class(outcome: Outcome) -> int:
    """The index into `ERROR_CLASSES` of a program's outcome.

    Raises KeyError for `infrastructure_error`, which says nothing about a program, and for `skipped`.
    """
    return _CLASS_OF[outcome]


def tokenizer_fingerprint(tokenizer: PreTrainedTokenizerFast) -> str:
    """SHA-256 over the vocabulary with its ids."""
    return hashlib.sha256(json.dumps(tokenizer.get_vocab(), sort_keys=True).encode()).hexdigest()


def critic_fingerprint(folder: Path) -> str:
    """SHA-256 over the checksums of the critic's files."""
    return hashlib.sha256((folder / SUMS).read_bytes()).hexdigest()


def check_critic(folder: Path, model: Path, tokenizer: PreTrainedTokenizerFast) -> dict[str, Any]:
    """The content of `critic.json` of the critic in `folder`, for the policy in the folder `model`.

    Raises UserError if there is no critic, if it is damaged, or if it cannot read the policy's tokens.
    """
    name = "learner.advantage.critic"
    command = "`rltf critic --model DIR --samples DIR --problems SPEC --output DIR`"
    if not (folder / CRITIC_FILE).is_file():
        what = f"has no {CRITIC_FILE}" if folder.is_dir() else "is not a directory"
        raise UserError(f"{name}: {folder} is not a critic: it {what}; train one with {command}")
    check_folder(folder)
    facts = read_json(folder / CRITIC_FILE)
    if tuple(facts.get("classes", ())) != ERROR_CLASSES:
        raise UserError(
            f"{name}: {folder / CRITIC_FILE}: expected the classes {', '.join(ERROR_CLASSES)}, found "
            f"{facts.get('classes')}; train a new critic with {command}"
        )
    if facts.get("tokenizer") != tokenizer_fingerprint(tokenizer):
        raise UserError(
            f"{name}: the tokenizer of {folder} differs from that of the policy {model}, so the critic would read "
            f"other tokens; train a critic with --model {model}, or with another model that has the same tokenizer"
        )
    kinds = [bool(check_model_folder(one).get("is_encoder_decoder")) for one in (folder, model)]
    if kinds[0] != kinds[1]:
        raise UserError(
            f"{name}: one of {folder} and the policy {model} is an encoder-decoder model, the other is not; train a "
            f"critic with --model {model}"
        )
    return facts
