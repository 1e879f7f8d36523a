"""Where the initial policy comes from: the tiny model built here, a folder, a GGUF file, or the Hugging Face Hub."""

from __future__ import annotations

import errno
import hashlib
import json
from collections.abc import Sequence
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import torch
from huggingface_hub import constants, hf_hub_download, snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OfflineModeIsEnabled
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedConfig, PreTrainedTokenizerFast

from rltf.errors import UserError
from rltf.files import is_cached, write_folder
from rltf.problems.prompts import render_prompt
from rltf.problems.types import Problem
from rltf.transport.model_folder import MADE_HERE, model_config

TINY = "tiny"
HUB_ANSWER_S = 10.0
# Weights in formats that are not read here, or only if the file is named.
_OTHER_FORMATS = ["*.h5", "*.msgpack", "*.gguf", "original/*"]
_NOT_ON_HUB = (HFValidationError, HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled, OSError)
_NOT_WRITABLE = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES)

# The shape of the tiny model.
VOCABULARY_SIZE = 768
HIDDEN_SIZE = 96
NUM_LAYERS = 3
NUM_HEADS = 3
MAX_LENGTH = 512


def is_gguf(name: str) -> bool:
    """Whether `model.name` names a GGUF file rather than a folder or a Hub id."""
    return name.lower().endswith(".gguf") and not Path(name).expanduser().is_dir()


def model_folder(name: str, problems: Sequence[Problem], cache_dir: Path, *, seed: int) -> Path:
    """The Hugging Face model folder for `model.name`.

    The model `tiny` is built in `cache_dir` for `problems`, and a GGUF file is dequantized there.

    Raises UserError if there is no such folder or file and the Hub does not have the model, or if it cannot be read.
    """
    if name == TINY:
        return _tiny_model(cache_dir, problems, seed=seed)
    if Path(name).expanduser().is_dir():
        return Path(name).expanduser().resolve()
    if is_gguf(name):
        from rltf.learner.gguf_model import dequantized_folder  # late, because few models need the package gguf

        return dequantized_folder(_gguf_file(name), cache_dir)
    return _from_hub(name, ignore_patterns=_OTHER_FORMATS)


def architecture(name: str) -> PreTrainedConfig | None:
    """The configuration of the model `model.name`, without its weights.

    None if it comes with the weights only: that of a GGUF file, or of the model `tiny`. Raises UserError as
    `model_folder`.
    """
    if name == TINY or is_gguf(name):
        return None
    folder = Path(name).expanduser()
    return model_config(folder if folder.is_dir() else _from_hub(name, allow_patterns=["config.json"]))


def _from_hub(name: str, **files: Any) -> Path:
    """A folder with the given `files` of a model on the Hub. Raises UserError if the Hub does not have the model."""
    try:
        return Path(snapshot_download(name, **files, local_files_only=not _hub_answers()))
    except _NOT_ON_HUB as error:
        raise _unavailable(name, "folder", "a model folder, or a Hub id", error) from error


def check_local_gguf(name: str, cache_dir: Path) -> None:
    """Raise UserError if `name` is a GGUF file on this machine that cannot be used, or that does not exist."""
    if (file := _local_gguf(name)) is not None:
        from rltf.learner.gguf_model import check_gguf

        check_gguf(file, cache_dir)


def _local_gguf(name: str) -> Path | None:
    """The file FOLDER/NAME.gguf, or None if `name` can only be a file on the Hub. Raises UserError if it is neither."""
    file = Path(name).expanduser()
    if file.is_file():
        return file.resolve()
    if name.count("/") < 2 or name.startswith((".", "/", "~")):
        raise UserError(f"model.name: no such file: {file}; give FOLDER/NAME.gguf, or ORG/REPO/NAME.gguf on the Hub")
    return None


def _gguf_file(name: str) -> Path:
    """The file FOLDER/NAME.gguf, or ORG/REPO/NAME.gguf from the Hub. Raises UserError if there is neither."""
    if (file := _local_gguf(name)) is not None:
        return file
    organization, repository, path = name.split("/", 2)
    try:
        return Path(hf_hub_download(f"{organization}/{repository}", path, local_files_only=not _hub_answers()))
    except _NOT_ON_HUB as error:
        raise _unavailable(name, "file", "FOLDER/NAME.gguf, or ORG/REPO/NAME.gguf", error) from error


def _unavailable(name: str, kind: str, instead: str, error: Exception) -> UserError:
    """What to tell the user about a download that failed."""
    if isinstance(error, OSError) and error.errno in _NOT_WRITABLE:
        place = error.filename or constants.HF_HUB_CACHE
        return UserError(
            f"model.name: {name} cannot be downloaded: {error.strerror}: {place}; make room, or set HF_HOME to another "
            "folder"
        )
    reason = str(error).splitlines()[0]
    return UserError(
        f"model.name: {name} is not a local {kind} and was not found on the Hub ({reason}); give {instead} and access "
        "to the Hub"
    )


def _hub_answers() -> bool:
    """Whether the Hub responds at all: `snapshot_download` would wait forever for one that is silent."""
    try:
        urlopen(Request(constants.ENDPOINT, method="HEAD"), timeout=HUB_ANSWER_S).close()
    except HTTPError:
        return True  # a refusal is a response
    except (OSError, HTTPException):
        return False
    return True


def _tiny_model(cache_dir: Path, problems: Sequence[Problem], *, seed: int) -> Path:
    """A Llama with random weights, small enough to learn on two CPU cores; built once for each seed and vocabulary.

    The tokenizer is a byte-level BPE that splits digits, trained on the prompts and reference programs of `problems`.
    """
    if not problems:
        raise ValueError("the tiny model takes its vocabulary from problems, and there are none")
    texts = [render_prompt(problem) for problem in problems]
    texts += [reference for problem in problems for reference in problem.references]
    shape = (VOCABULARY_SIZE, HIDDEN_SIZE, NUM_LAYERS, NUM_HEADS, MAX_LENGTH)
    key = hashlib.sha256(json.dumps([shape, seed, texts]).encode()).hexdigest()[:16]
    folder = cache_dir.resolve() / f"tiny-{key}"

    def write(path: Path) -> None:
        tokenizer = _tokenizer(texts)
        tokenizer.save_pretrained(path)
        _model(tokenizer, seed).save_pretrained(path)

    if not is_cached(folder):
        write_folder(folder, write)
    return folder


def _tokenizer(texts: Sequence[str]) -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY_SIZE,
        special_tokens=["<pad>", "<eos>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=tokenizer, eos_token="<eos>", pad_token="<pad>"
    )


def _model(tokenizer: PreTrainedTokenizerFast, seed: int) -> LlamaForCausalLM:
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=HIDDEN_SIZE,
        intermediate_size=3 * HIDDEN_SIZE,
        num_hidden_layers=NUM_LAYERS,
        num_attention_heads=NUM_HEADS,
        num_key_value_heads=NUM_HEADS,
        max_position_embeddings=MAX_LENGTH,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    setattr(config, MADE_HERE, True)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return LlamaForCausalLM(config)  # type: ignore[no-untyped-call]
