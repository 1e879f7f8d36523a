"""GGUF files, the format of llama.cpp, as plain Hugging Face model folders with dequantized weights."""

from __future__ import annotations

import hashlib
import shutil
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from gguf import GGUFReader, dequantize
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoTokenizer, GgufConfig

from rltf.errors import UserError
from rltf.files import is_cached, write_folder

# Dequantized weights are exact in float32; generators and learner load them in the type that `model.dtype` names.
_DTYPE = torch.float32
_GB = 1e9
_MAKE_ROOM = "make room, or set learner.sft.cache_dir to a folder on another disk"
_UNREADABLE = (ArithmeticError, AttributeError, LookupError, OSError, RuntimeError, TypeError, ValueError)


def dequantized_folder(file: Path, cache_dir: Path) -> Path:
    """The model in a GGUF file as a folder in `cache_dir`, with its tokenizer; written once for each content.

    Raises UserError as `check_gguf`, and if the file has only a part of a model.
    """
    folder = _folder(file, cache_dir)
    if not is_cached(folder):
        check_gguf(file, cache_dir)
        try:
            write_folder(folder, lambda path: _write(file, path))
        except (OSError, SafetensorError) as error:
            raise UserError(f"model.name: {file} cannot be dequantized to {folder} ({error}); {_MAKE_ROOM}") from error
    return folder


def check_gguf(file: Path, cache_dir: Path) -> None:
    """Check what can be checked before the weights are dequantized, unless they are in `cache_dir` already.

    Raises UserError if the file is damaged, if its quantization or architecture cannot be read, or if `cache_dir` has
    no room.
    """
    if not _folder(file, cache_dir).exists():
        num_weights = _num_weights(file)
        _from_file(AutoConfig, file)
        _check_room(num_weights, file, cache_dir.resolve())


def _folder(file: Path, cache_dir: Path) -> Path:
    with file.open("rb") as opened:
        digest = hashlib.file_digest(opened, "sha256").hexdigest()
    return cache_dir.resolve() / f"gguf-{digest[:16]}"


def _num_weights(file: Path) -> int:
    """The number of weights in the file. Raises UserError if they are not all there, or cannot be dequantized."""
    try:
        tensors = GGUFReader(file).tensors
    except _UNREADABLE as error:
        raise UserError(
            f"model.name: cannot read {file}: it is truncated or damaged, or newer than gguf {version('gguf')} "
            f"({error}); download it again, or use another quantization, such as Q8_0"
        ) from error
    for kind, tensor in {tensor.tensor_type: tensor for tensor in tensors}.items():
        try:
            dequantize(tensor.data[:1], kind)
        except NotImplementedError as error:
            raise UserError(
                f"model.name: {file} has weights of type {kind.name}, which cannot be dequantized; use another "
                "quantization, such as Q8_0, Q4_K_M or F16"
            ) from error
    return sum(int(tensor.n_elements) for tensor in tensors)


def _check_room(num_weights: int, file: Path, cache_dir: Path) -> None:
    needed = num_weights * _DTYPE.itemsize
    free = shutil.disk_usage(next(path for path in (cache_dir, *cache_dir.parents) if path.exists())).free
    if needed > free:
        raise UserError(
            f"model.name: {file} needs {needed / _GB:.1f} GB when dequantized, and {cache_dir} has only "
            f"{free / _GB:.1f} GB left; {_MAKE_ROOM}"
        )


def _write(file: Path, folder: Path) -> None:
    model, tokenizer = _loaded(file)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _loaded(file: Path) -> tuple[Any, Any]:
    """The model and its tokenizer. Raises UserError if transformers cannot read them, or if weights are missing."""
    config = _from_file(AutoConfig, file)
    auto = AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM
    unpacked = GgufConfig(dequantize=True)
    model, report = _from_file(
        auto, file, config=config, dtype=_DTYPE, quantization_config=unpacked, output_loading_info=True
    )
    tokenizer = _from_file(AutoTokenizer, file)
    if missing := sorted(report["missing_keys"]):
        raise UserError(
            f"model.name: {file} lacks {len(missing)} of the model's weights, such as {missing[0]}; if it is one part "
            "of a split model, merge the parts first (llama-gguf-split --merge)"
        )
    return model, tokenizer


def _from_file(auto: Any, file: Path, **options: Any) -> Any:
    try:
        return auto.from_pretrained(file.parent, gguf_file=file.name, **options)
    except _UNREADABLE as error:
        raise UserError(
            f"model.name: transformers cannot read {file} ({error}); use the Hugging Face folder of this model, or a "
            "model of another family"
        ) from error
