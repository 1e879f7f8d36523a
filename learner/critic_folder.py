"""The folder of a critic, as `rltf critic` writes it: a model folder, its head, and `critic.json`."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerFast

from rltf.errors import UserError
from rltf.files import SUMS, check_folder, read_json
from rltf.learner.error_classes import ERROR_CLASSES
from rltf.transport.model_folder import check_model_folder

CRITIC_FILE = "critic.json"
HEAD_FILE = "critic_head.pt"


def tokenizer_fingerprint(tokenizer: PreTrainedTokenizerFast) -> str:
    """SHA-256 over the vocabulary with its ids."""
    return hashlib.sha256(json.dumps(tokenizer.get_vocab(), sort_keys=True).encode()).hexdigest()


def critic_fingerprint(folder: Path) -> str:
    """SHA-256 over the checksums of the critic's files."""
    return hashlib.sha256((folder / SUMS).read_bytes()).hexdigest()


_SETTING = "learner.advantage.critic"


def check_critic_folder(folder: Path, name: str = _SETTING) -> dict[str, Any]:
    """The content of `critic.json` of the critic in `folder`.

    Raises UserError, which begins with the `name` of the setting or option, if there is no critic or if it is damaged.
    """
    command = "`rltf critic --model DIR --samples DIR --problems SPEC --output DIR`"
    if not (folder / CRITIC_FILE).is_file():
        what = f"has no {CRITIC_FILE}" if folder.is_dir() else "is not a directory"
        raise UserError(f"{name}: {folder} is not a critic: it {what}; train one with {command}")
    check_folder(folder)
    facts: dict[str, Any] = read_json(folder / CRITIC_FILE)
    if tuple(facts.get("classes", ())) != ERROR_CLASSES:
        raise UserError(
            f"{name}: {folder / CRITIC_FILE}: expected the classes {', '.join(ERROR_CLASSES)}, found "
            f"{facts.get('classes')}; train a new critic with {command}"
        )
    return facts


def check_critic(folder: Path, model: Path, tokenizer: PreTrainedTokenizerFast, name: str = _SETTING) -> dict[str, Any]:
    """The content of `critic.json` of the critic in `folder`, for the policy in the folder `model`.

    Raises UserError as `check_critic_folder`, and if the critic cannot read the policy's tokens.
    """
    facts = check_critic_folder(folder, name)
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
